/* What checkpointing saves, and when it saves nothing: a Llama with its blocks checkpointed and not, at a
 * shape with many activations and at one with few; each really planned, run and measured.      checkpoint
 * [STEPS]          6
 */
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
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-3f});
    /* A checkpointed module keeps only its input, and runs a second time when backward needs what is inside.
     */
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), c->checkpoint);
    for (int step = 0; step < c->steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        double loss = 0;
        for (const Batch *batch; (batch = data_next(data));) {
            Tensor *part = nn_loss(model, batch);
            tensor_backward(part);
            loss += tensor_item(part);
        }
        brim_step(loss, data_step_tokens(data));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    return error_code();
}

static void print_row(const Config *c, const char *kind, const MemSummary *memory)
{
    printf("%d x %-3d  %-6s %9s", c->batch, c->seq, c->checkpoint ? "blocks" : "none", kind);
    for (int group = 0; group < MEM_GROUP_COUNT; group++)
        printf(" %10.2f", (double)report_group(memory->stats.at_peak, (MemGroup)group) / 0x1p20);
    printf(" %8.2f", (double)memory->stats.peak / 0x1p20);
}

/* Returns the measured peak in bytes; 0 when something failed. */
static double measure(Config c)
{
    Plan plan;
    RunResult result;
    RunOptions options = {.quiet = 1};
    if (plan_script(train, &c, &options, &plan) || plan_execute(train, &c, &options, &plan, &result)) {
        fprintf(stderr, "checkpoint: %s\n", plan.status ? plan.error : result.error);
        return 0;
    }
    print_row(&c, "planned", &plan.memory);
    printf("\n");
    print_row(&c, "measured", &result.memory);
    printf(" %8.1f  %s\n", 1000.0 * c.batch * c.seq / result.tokens_per_second, result.memory.peak_place);
    return (double)result.memory.stats.peak;
}

static int compare(int batch, int seq, int steps, const char *why)
{
    double before = measure((Config){batch, seq, 0, steps}),
           after = before > 0 ? measure((Config){batch, seq, 1, steps}) : 0;
    if (after > 0)
        printf("Peak %+.0f %%. %s\n\n", 100 * (after / before - 1), why);
    return !(after > 0);
}

int main(int argc, char **argv)
{
    int steps = argc > 1 && atoi(argv[1]) > 2 ? atoi(argv[1]) : 6;
    printf("%-25s %10s %10s %10s %10s %10s %8s %8s  %s\n%-25s %10s %10s %10s %10s %10s %8s %8s\n",
           "batch x bytes, checkpoint", "parameters", "gradients", "optimizer", "activat.", "overhead",
           "peak", "step", "peak in", "", "MiB", "MiB", "MiB", "MiB", "MiB", "MiB", "ms");
    return compare(
               8, 256, steps,
               "Activations were the peak; now those of one block at a time, for one forward pass more.") ||
           compare(1, 16, steps,
                   "The peak is the end of backward: all gradients are there and the activations gone.\n"
                   "There was nothing to save, and the second forward pass is paid all the same.");
}
