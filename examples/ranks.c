/* Several processes train one model: what this needs beside examples/llama.c is joining the others, telling
 * the run, and leaving them. Every rank runs all of this; rank 0 prints.                mpirun -n 2
 * build/examples/ranks [ddp|zero1|zero2|zero3] [STEPS] Without mpirun it is a run of one. Plugins for mpirun:
 * make mpi. */
#include <brim.h>

#include <stdio.h>
#include <stdlib.h>

static int train(void *config)
{
    int steps = *(int *)config;
    /* batch is that of each rank: 2 ranks see 8 samples a step */
    Loader *data = data_text("builtin", &(TextOptions){.batch = 4, .seq = 64, .seed = 1});
    Module *model = nn_llama(&(LlamaConfig){.vocab = 256, .dim = 96, .layers = 2, .heads = 4, .hidden = 256});
    Optimizer *opt = optim_adamw(nn_parameters(model), &(AdamW){.lr = 2e-3f, .weight_decay = 0.1f});
    for (int step = 0; step < steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(opt);
        optim_zero_grad(opt);
        brim_step(data_step_tokens(data)); /* behind optim_step the loss is that of all ranks */
        tensor_scope_end(scope);
    }
    return error_code();
}

int main(int argc, char **argv)
{
    int strategy = ranks_strategy(argc > 1 ? argv[1] : "ddp"), steps = argc > 2 ? atoi(argv[2]) : 20;
    char why[512];
    Ranks ranks;
    if (strategy < 0 || ranks_join(&ranks, (RankStrategy)strategy, 0, why, sizeof why)) {
        fprintf(stderr, "ranks: %s\n", strategy < 0 ? "the strategies are ddp, zero1, zero2, zero3" : why);
        return 1;
    }
    int status = brim_run(train, &steps, &(RunOptions){.ranks = &ranks, .every = 5});
    ranks_leave(&ranks, status);
    return status;
}
