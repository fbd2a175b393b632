/* Element-wise operations on a card: elements.cu. */
#include "launch_.h"

void cuda_fill(DType type, int64_t n, float value, void *y, const KernelRun *run)
{
    ElementArguments a = {.n = n, .y = y, .alpha = value};
    LAUNCH(run, CUDA_fill + cuda_typed(type), cuda_blocks(n), 1, 1, CUDA_THREADS, a);
}

void cuda_scale(DType type, int64_t n, float alpha, const void *x, float beta, void *y, const KernelRun *run)
{
    ElementArguments a = {.n = n, .a = x, .y = y, .alpha = alpha, .beta = beta};
    LAUNCH(run, CUDA_scale + cuda_typed(type), cuda_blocks(n), 1, 1, CUDA_THREADS, a);
}
