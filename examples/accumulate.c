/* What gradient accumulation saves, and when it saves nothing: 8 sequences a step as 1 micro-batch of 8, or
 * as 4 of 2, for long sequences and for short ones; each planned, run and measured.      accumulate [STEPS]
 */
#include <brim.h>

#include <stdio.h>
#include <stdlib.h>

typedef struct Config {
    int batch, accumulate, seq, steps;
} Config;

static int train(void *argument)
{
    const Config *c = argument;
    TextOptions text = {.batch = c->batch, .accumulate = c->accumulate, .seq = c->seq, .seed = 1};
    Loader *data = data_text("builtin", &text);
    Module *model =
        nn_llama(&(LlamaConfig){.vocab = 256, .dim = 192, .layers = 4, .heads = 6, .hidden = 512});
    Optimizer *opt = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-3f});
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

static int compare(int seq, int steps, const char *why)
{
    RunResult run[2];
    for (int i = 0; i < 2; i++) {
        Config c = {i ? 2 : 8, i ? 4 : 1, seq, steps};
        Plan plan;
        RunOptions quiet = {.quiet = 1};
        int failed = plan_script(train, &c, &quiet, &plan) || plan_execute(train, &c, &quiet, &plan, &run[i]);
        plan_free(&plan); /* its figures stay */
        if (failed) {
            fprintf(stderr, "accumulate: %s\n", plan.status ? plan.error : run[i].error);
            return 1;
        }
        char label[64];
        snprintf(label, sizeof label, "%d x %d, %3d bytes, planned", c.batch, c.accumulate, c.seq);
        report_row(stdout, label, &plan.memory, 0);
        report_row(stdout, "                  measured", &run[i].memory, run[i].step_seconds);
    }
    printf("Peak %+.0f %%; last losses %.4f and %.4f. %s\n\n",
           100 * ((double)run[1].memory.stats.peak / (double)run[0].memory.stats.peak - 1), run[0].loss_last,
           run[1].loss_last, why);
    return 0;
}

int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 6;
    report_row_heading(stdout, "micro-batch x accumulate");
    return compare(256, steps, "The activations of 2 sequences live where those of 8 did.") ||
           compare(16, steps, "But gradients stay beside the next micro-batch's activations.");
}
