/* What gradient accumulation saves, and when it saves nothing: 8 sequences a step as 1 micro-batch of 8, or
 * as 4 of 2, for long sequences and for short ones; each really planned, run and measured.      accumulate
 * [STEPS]          6
 */
#include <brim.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_STEPS = 100 };

typedef struct Config {
    int batch, accumulate, seq, steps;
    double loss[MAX_STEPS];
} Config;

static int train(void *argument)
{
    Config *c = argument;
    TextOptions text = {.batch = c->batch, .accumulate = c->accumulate, .seq = c->seq, .seed = 1};
    Loader *data = data_text("builtin", &text);
    Module *model =
        nn_llama(&(LlamaConfig){.vocab = 256, .dim = 192, .layers = 4, .heads = 6, .hidden = 512});
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-3f});
    for (int step = 0; step < c->steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        c->loss[step] = 0;
        for (const Batch *batch; (batch = data_next(data));) {
            Tensor *part = nn_loss(model, batch);
            tensor_backward(part);
            c->loss[step] += tensor_item(part);
        }
        brim_step(c->loss[step], data_step_tokens(data));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    return error_code();
}

static void print_row(const Config *c, const char *kind, const MemSummary *memory)
{
    printf("%d x %d, %3d bytes %9s", c->batch, c->accumulate, c->seq, kind);
    for (int group = 0; group < MEM_GROUP_COUNT; group++)
        printf(" %10.2f", (double)report_group(memory->stats.at_peak, (MemGroup)group) / 0x1p20);
    printf(" %8.2f", (double)memory->stats.peak / 0x1p20);
}

/* Returns the measured peak in bytes; 0 when something failed. */
static double measure(Config *c)
{
    Plan plan;
    RunResult result;
    RunOptions options = {.quiet = 1};
    if (plan_script(train, c, &options, &plan) || plan_execute(train, c, &options, &plan, &result)) {
        fprintf(stderr, "accumulate: %s\n", plan.status ? plan.error : result.error);
        return 0;
    }
    print_row(c, "planned", &plan.memory);
    printf("\n");
    print_row(c, "measured", &result.memory);
    printf(" %8.1f\n", 1000.0 * 8 * c->seq / result.tokens_per_second);
    return (double)result.memory.stats.peak;
}

static int compare(int seq, int steps, const char *why)
{
    Config whole = {.batch = 8, .accumulate = 1, .seq = seq, .steps = steps};
    Config parts = {.batch = 2, .accumulate = 4, .seq = seq, .steps = steps};
    double before = measure(&whole), after = before > 0 ? measure(&parts) : 0, apart = 0;
    for (int step = 0; step < steps; step++)
        apart = fmax(apart, fabs(whole.loss[step] - parts.loss[step]));
    if (after > 0)
        printf("Peak %+.0f %%, losses at most %.0e apart. %s\n\n", 100 * (after / before - 1), apart, why);
    return !(after > 0);
}

int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 6;
    steps = steps < 2 ? 2 : steps > MAX_STEPS ? MAX_STEPS : steps;
    printf("%-26s%10s %10s %10s %10s %10s %8s %8s\n%-26s%10s %10s %10s %10s %10s %8s %8s\n",
           "micro-batch x accumulate", "parameters", "gradients", "optimizer", "activat.", "overhead", "peak",
           "step", "", "MiB", "MiB", "MiB", "MiB", "MiB", "MiB", "ms");
    return compare(256, steps, "The activations of 2 sequences live where those of 8 did.") ||
           compare(16, steps,
                   "With 8 x 1, gradients appear while activations go; with 2 x 4 they stay\n"
                   "beside the activations of the next micro-batch, which here saves less than they take.");
}
