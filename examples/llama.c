/* A small Llama learns to write, one byte at a time: the shortest complete script.
 *
 *     llama [STEPS [FILE.txt]]          150 steps on the built-in corpus
 *
 * brim_run calls train twice. The first time nothing is computed: every allocation is only entered in the
 * books, and that is the plan. The second time it trains, in exactly the memory that the plan asked for, and
 * the table at the end shows planned beside measured.
 */
#include <brim.h>

#include <stdlib.h>

typedef struct Config {
    int steps;
    const char *text;
} Config;

static int train(void *argument)
{
    const Config *config = argument;

    /* Each step takes 2 micro-batches of 4 sequences of 128 bytes: the gradient of 8 sequences, in the memory
     * of 4. */
    Loader *data =
        data_text(config->text, &(TextOptions){.batch = 4, .seq = 128, .accumulate = 2, .seed = 1});
    Module *model = nn_llama(
        &(LlamaConfig){.vocab = 256, .dim = 192, .layers = 4, .heads = 6, .kv_heads = 2, .hidden = 512});
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 2e-3f, .weight_decay = 0.1f});

    /* Errors stick, and what failed returns NULL, so one look a step is enough. */
    for (int step = 0; step < config->steps && !error_code(); step++) {
        int scope = tensor_scope_begin(); /* owns every tensor made below */
        double loss = 0;
        for (const Batch *batch; (batch = data_next(data));) { /* NULL ends the step */
            Tensor *part = nn_loss(model, batch); /* divided by the labels of the whole step: parts add up */
            tensor_backward(part);
            loss += tensor_item(part);
        }
        brim_step(loss, data_step_tokens(data)); /* prints the line of this step */
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    return error_code();
}

int main(int argc, char **argv)
{
    Config config = {.steps = argc > 1 ? atoi(argv[1]) : 150, .text = argc > 2 ? argv[2] : "builtin"};
    return brim_run(train, &config,
                    &(RunOptions){.title = "llama.c: 4 layers, width 192, AdamW", .every = 15});
}
