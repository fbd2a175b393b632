/* A small Llama learns to write, one byte at a time.      llama [STEPS [FILE.txt]]
 * brim_run calls train first to plan: nothing is computed, every allocation is only entered in the books.
 * Then train runs for real, in exactly the memory that the plan asked for. */
#include <brim.h>

#include <stdlib.h>

typedef struct Config {
    int steps;
    const char *text;
} Config;

static int train(void *argument)
{
    const Config *config = argument;
    Loader *data =
        data_text(config->text, &(TextOptions){.batch = 4, .seq = 128, .accumulate = 2, .seed = 1});
    Module *model = nn_llama(
        &(LlamaConfig){.vocab = 256, .dim = 192, .layers = 4, .heads = 6, .kv_heads = 2, .hidden = 512});
    Optimizer *opt = optim_adamw(nn_parameters(model), &(AdamW){.lr = 2e-3f, .weight_decay = 0.1f});

    /* Errors stick, and what failed returns NULL, so one look a step is enough. */
    for (int step = 0; step < config->steps && !error_code(); step++) {
        int scope = tensor_scope_begin();            /* owns every tensor made below */
        for (const Batch *b; (b = data_next(data));) /* the micro-batches of one step */
            tensor_backward(nn_loss(model, b)); /* divided by the labels of the whole step: they add up */
        optim_step(opt);
        optim_zero_grad(opt);
        brim_step(data_step_tokens(data)); /* prints loss, speed and memory */
        tensor_scope_end(scope);
    }
    return error_code();
}

int main(int argc, char **argv)
{
    Config config = {.steps = argc > 1 ? atoi(argv[1]) : 150, .text = argc > 2 ? argv[2] : "builtin"};
    return brim_run(train, &config, &(RunOptions){.title = "llama.c: 4 layers, width 192", .every = 15});
}
