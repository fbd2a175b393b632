/* Cross-entropy on a card: loss.cu. */
#include "launch_.h"

enum { LOSS_WARP = 1024 }; /* up to so many classes, a warp has a row */

static void loss_launch(int kernel, LossArguments a, int sliced, const KernelRun *run)
{
    int threads = a.d.classes <= LOSS_WARP ? 128 : CUDA_THREADS;
    a.team = a.d.classes <= LOSS_WARP ? 32 : CUDA_THREADS;
    a.d.ld = cross_entropy_ld(&a.d);
    int64_t slice = (int64_t)LOSS_SLICE * a.team * 8, teams = threads / a.team;
    /* A row may begin in the middle of a pack. */
    a.slices = sliced ? (a.d.classes + 7 + slice - 1) / slice : 1;
    a.aligned = ((uintptr_t)a.logits | (uintptr_t)a.dlogits) % 16 == 0;
    if (a.d.rows > 0)
        LAUNCH(run, kernel, (a.d.rows * a.slices + teams - 1) / teams, 1, 1, threads, a);
}

size_t cuda_cross_entropy_workspace(const CrossEntropyDims *d, const KernelRun *run)
{
    (void)run;
    return (size_t)d->rows * sizeof(float); /* a row's loss */
}

void cuda_cross_entropy_forward(const CrossEntropyDims *d, DType type, const void *logits,
                                const int32_t *labels, float scale, float *loss, float *lse, float *workspace,
                                const KernelRun *run)
{
    LossArguments a = {.d = *d,
                       .logits = logits,
                       .labels = labels,
                       .scale = scale,
                       .loss = loss,
                       .lse = lse,
                       .row_loss = workspace,
                       .fault = cuda_fault_of(run)};
    loss_launch(CUDA_cross_entropy_forward + cuda_typed(type), a, 0, run);
    LAUNCH(run, CUDA_cross_entropy_sum, 1, 1, 1, CUDA_THREADS, a);
}

void cuda_cross_entropy_backward(const CrossEntropyDims *d, DType type, const void *logits,
                                 const int32_t *labels, float scale, const float *lse, const float *dloss,
                                 float beta, void *dlogits, const KernelRun *run)
{
    LossArguments a = {.d = *d,
                       .logits = logits,
                       .labels = labels,
                       .scale = scale,
                       .lse = (float *)(uintptr_t)lse,
                       .dloss = dloss,
                       .beta = beta,
                       .dlogits = dlogits};
    loss_launch(CUDA_cross_entropy_backward + cuda_typed(type), a, 1, run);
}

void cuda_cross_entropy_part(const CrossEntropyDims *d, DType type, const void *logits, const int32_t *labels,
                             float *part, const KernelRun *run)
{
    LossArguments a = {
        .d = *d, .logits = logits, .labels = labels, .part = part, .fault = cuda_fault_of(run)};
    loss_launch(CUDA_cross_entropy_part + cuda_typed(type), a, 0, run);
}

void cuda_cross_entropy_join(const CrossEntropyDims *d, int count, int64_t apart, const float *parts,
                             const int32_t *labels, float scale, float *loss, float *lse, float *workspace,
                             const KernelRun *run)
{
    LossArguments a = {.d = *d,
                       .labels = labels,
                       .scale = scale,
                       .loss = loss,
                       .lse = lse,
                       .row_loss = workspace,
                       .part = (float *)(uintptr_t)parts,
                       .apart = apart,
                       .count = count};
    if (d->rows > 0)
        LAUNCH(run, CUDA_cross_entropy_join, (d->rows + CUDA_THREADS - 1) / CUDA_THREADS, 1, 1, CUDA_THREADS,
               a);
    LAUNCH(run, CUDA_cross_entropy_sum, 1, 1, 1, CUDA_THREADS, a);
}
