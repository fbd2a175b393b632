/* Fine-tunes a published model by low-rank adapters: its weights are frozen, and what is trained has a
 * hundredth of their elements. Read llama.c first.      qlora MODEL OUT [STEPS [TEXT]] */
#include <brim.h>

#include <stdio.h>
#include <stdlib.h>

typedef struct Config {
    const char *model, *out, *text;
    int steps;
} Config;

static int train(void *argument)
{
    const Config *c = argument;
    IoModel found;
    if (io_read_config(c->model, &found))
        return error_code();
    Loader *data = data_text(c->text, &(TextOptions){.batch = 1, .seq = 64, .seed = 1});
    nn_set_weights(&(Weights){.dtype = DTYPE_BF16, .quantized = DTYPE_NF4, .frozen = 1});
    Module *model = nn_model(&found.preset);
    io_load_weights(model, c->model, NULL, NULL);
    nn_add_lora(model, &(Lora){.rank = 16, .alpha = 32, .dropout = 0.05f}); /* of every layer but the head */
    nn_set_checkpoint_every(model, 1);
    Optimizer *opt = optim_adamw(nn_parameters(model), &(AdamW){.lr = 2e-4f}); /* of the adapters alone */
    for (int step = 0; step < c->steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(opt);
        optim_zero_grad(opt);
        brim_step(data_step_tokens(data));
        tensor_scope_end(scope);
    }
    io_save_adapter(model, c->out, &(AdapterSaving){.base = c->model}); /* PEFT loads it; on meta nothing */
    return error_code();
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return fprintf(stderr, "usage: qlora MODEL OUT [STEPS [TEXT]]\n"), 2;
    Config c = {argv[1], argv[2], argc > 4 ? argv[4] : "builtin", argc > 3 ? atoi(argv[3]) : 20};
    return brim_run(train, &c, &(RunOptions){.title = "qlora.c: adapters on a frozen model", .every = 5});
}
