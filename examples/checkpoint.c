/* What checkpointing saves, and when it saves nothing: a Llama with its blocks checkpointed and not, at a
 * shape with many activations and at one with few; each planned, run and measured.      checkpoint [STEPS] */
#include <brim.h>

#include <stdio.h>
#include <stdlib.h>

typedef struct Config {
    int batch, seq, checkpoint, steps;
} Config;

static int train(void *argument)
{
    const Config *c = argument;
    Loader *data = data_text("builtin", &(TextOptions){.batch = c->batch, .seq = c->seq, .seed = 1});
    Module *model =
        nn_llama(&(LlamaConfig){.vocab = 256, .dim = 192, .layers = 6, .heads = 6, .hidden = 512});
    Optimizer *opt = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-3f});
    for (int i = 0; i < nn_block_count(model); i++) /* keeps its input only, and runs again inside backward */
        nn_set_checkpoint(nn_block(model, i), c->checkpoint);
    for (int step = 0; step < c->steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(opt);
        optim_zero_grad(opt);
        brim_step(data_step_tokens(data));
        tensor_scope_end(scope);
    }
    return error_code();
}

static int compare(int batch, int seq, int steps, const char *why)
{
    RunResult run[2];
    for (int i = 0; i < 2; i++) {
        Config c = {batch, seq, i, steps};
        Plan plan;
        RunOptions quiet = {.quiet = 1};
        int failed = plan_script(train, &c, &quiet, &plan) || plan_execute(train, &c, &quiet, &plan, &run[i]);
        plan_free(&plan); /* its figures stay */
        if (failed) {
            fprintf(stderr, "checkpoint: %s\n", plan.status ? plan.error : run[i].error);
            return 1;
        }
        char label[64];
        snprintf(label, sizeof label, "%d x %3d, %6s, planned", c.batch, c.seq, i ? "blocks" : "none");
        report_row(stdout, label, &plan.memory, 0);
        report_row(stdout, "                 measured", &run[i].memory, run[i].step_seconds);
    }
    printf("Peak %+.0f %%, in %s. %s\n\n",
           100 * ((double)run[1].memory.stats.peak / (double)run[0].memory.stats.peak - 1),
           report_path(&run[1].memory), why);
    return 0;
}

int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 6;
    report_row_heading(stdout, "batch x bytes, checkpoint");
    return compare(8, 256, steps, "One block's activations at a time, for one forward pass more.") ||
           compare(1, 16, steps, "All gradients are there, no activations: nothing to save.");
}
