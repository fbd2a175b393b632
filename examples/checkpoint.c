/* What checkpointing saves, and when it saves nothing: the same Llama with its blocks checkpointed and not, at a shape
 * with many activations and at one with few; each really planned, run and measured.      checkpoint [STEPS]          6
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
    Module *model = nn_llama(&(LlamaConfig){.vocab = 256, .dim = 192, .layers = 6, .heads = 6, .hidden = 512});
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-3f});
    /* A checkpointed module keeps only its input, and runs a second time when backward needs what is inside. */
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

static void print_row(const Config *c, const char *kind, const MemSummary *memory, double milliseconds)
{
    printf("%d x %-3d %-6s %9s", c->batch, c->seq, c->checkpoint ? "blocks" : "none", kind);
    for (int group = 0; group < MEM_GROUP_COUNT; group++)
        printf(" %10.2f", (double)report_group(memory->stats.at_peak, (MemGroup)group) / 0x1p20);
    printf(" %8.2f", (double)memory->stats.peak / 0x1p20);
    if (milliseconds > 0)
        printf(" %8.1f  %s", milliseconds, memory->peak_place);
    printf("\n");
}

/* Returns the measured peak in MiB; negative when something failed. */
static double measure(Config *c)
{
    Plan plan;
    RunResult result;
    RunOptions quiet = {.quiet = 1, .seed = 1};
    if (plan_script(train, c, &quiet, &plan) || plan_execute(train, c, &quiet, &plan, &result)) {
        fprintf(stderr, "checkpoint: %s\n", plan.status ? plan.error : result.error);
        return -1;
    }
    print_row(c, "planned", &plan.memory, 0);
    print_row(c, "measured", &result.memory, 1000.0 * c->batch * c->seq / result.tokens_per_second);
    return (double)result.memory.stats.peak / 0x1p20;
}

static int compare(Config config, const char *why)
{
    double before = measure(&config);
    config.checkpoint = 1;
    double after = before < 0 ? -1 : measure(&config);
    if (after >= 0)
        printf("Peak %+.0f %%: %s\n\n", 100 * (after / before - 1), why);
    return after < 0;
}

int main(int argc, char **argv)
{
    int steps = argc > 1 && atoi(argv[1]) > 2 ? atoi(argv[1]) : 6;
    printf("batch x bytes, checkpointed; MiB at the peak; milliseconds a step\n\n%24s %10s %10s %10s %10s %10s %8s %8s  %s\n",
           "", "parameters", "gradients", "optimizer", "activ.", "overhead", "peak", "ms/step", "peak in");
    return compare((Config){.batch = 8, .seq = 256, .steps = steps},
                   "the activations were the peak; now one block's live at a time, for a second forward pass.") ||
           compare((Config){.batch = 1, .seq = 16, .steps = steps},
                   "the peak is at the end of backward, when every gradient is there and the activations\n"
                   "are gone: there was nothing left to save, and the second forward pass is paid all the same.");
}
