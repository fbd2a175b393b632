/* Fine-tunes a published model by low-rank adapters on weights of 4 bits, and writes the adapter as PEFT
 * reads it: what is trained has a hundredth of the elements. Read llama.c first.
 * Usage: qlora MODEL TEXT OUT [STEPS] */
#include <brim.h>

#include <stdio.h>
#include <stdlib.h>

typedef struct Config {
    const char *model;      /* a directory with the tokenizer beside the weights */
    const char *text, *out; /* a file; a directory */
    int steps;
} Config;

static int train(void *argument)
{
    const Config *c = argument;
    IoModel found;
    if (io_read_config(c->model, &found))
        return error_code();
    Tokenizer *tokenizer = tokenizer_read(c->model);
    Loader *data =
        data_tokens(c->text, &(TokenOptions){.batch = 1, .seq = 64, .seed = 1, .tokenizer = tokenizer});
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
    if (argc < 4)
        return fprintf(stderr, "usage: qlora MODEL TEXT OUT [STEPS]\n"), 2;
    Config c = {argv[1], argv[2], argv[3], argc > 4 ? atoi(argv[4]) : 20};
    return brim_run(train, &c, &(RunOptions){.title = "qlora.c: adapters on a frozen model", .every = 5});
}
