/* Reductions on a card: reduce.cu. Partial sums lie in the card's scratch. */
#include "launch_.h"

/* Packs of eight that a thread sums before more blocks are worth their partial sums. */
enum { REDUCE_PACKS = 4, REDUCE_BLOCKS = 1024 };

static ReduceArguments reduce(const KernelRun *run, int64_t n, const void *x)
{
    int64_t each = (int64_t)CUDA_THREADS * 8 * REDUCE_PACKS, blocks = (n + each - 1) / each;
    return (ReduceArguments){.n = n,
                             .x = x,
                             .partial = (double *)(uintptr_t)run->device->scratch,
                             .aligned = (uintptr_t)x % 16 == 0,
                             .blocks = (int)(blocks < 1               ? 1
                                             : blocks > REDUCE_BLOCKS ? REDUCE_BLOCKS
                                                                      : blocks)};
}

static void sum_all(const KernelRun *run, DType type, const ReduceArguments *a)
{
    LAUNCH(run, CUDA_sum_part + cuda_typed(type), a->blocks, 1, 1, CUDA_THREADS, *a);
    LAUNCH(run, CUDA_sum_end, 1, 1, 1, CUDA_THREADS, *a);
}

void cuda_sum(DType type, int64_t n, const void *x, double factor, float *total, const KernelRun *run)
{
    ReduceArguments a = reduce(run, n, x);
    a.factor = factor;
    a.total = total;
    sum_all(run, type, &a);
}

void cuda_sum_squares(DType type, int64_t n, const void *x, double *total, const KernelRun *run)
{
    ReduceArguments a = reduce(run, n, x);
    a.square = 1;
    a.squares = total;
    sum_all(run, type, &a);
}

void cuda_find_nonfinite(DType type, int64_t n, const void *x, int64_t *index, const KernelRun *run)
{
    ReduceArguments a = reduce(run, n, x);
    a.index = (unsigned long long *)index;
    LAUNCH(run, CUDA_find_nonfinite_begin, 1, 1, 1, 32, a);
    LAUNCH(run, CUDA_find_nonfinite + cuda_typed(type), a.blocks, 1, 1, CUDA_THREADS, a);
}
