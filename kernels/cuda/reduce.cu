/* Reductions of a whole array, in double, over partitions that depend on its length alone. */
#include "pack.h"

/* One block. */
GLOBAL(sum_end, 256, ReduceArguments)
{
    SHARED double shared[32];
    double sum = 0;
    for (int i = (int)THREAD.x; i < a.blocks; i += 256)
        sum += a.partial[i];
    sum = block_sum_f64(sum, shared);
    if (THREAD.x == 0 && a.square)
        *a.squares = sum;
    else if (THREAD.x == 0)
        *a.total = (float)(sum * a.factor);
}

GLOBAL(find_nonfinite_begin, 32, ReduceArguments)
{
    if (THREAD.x == 0)
        *a.index = ~0ull;
}

#define KERNELS "reduce_.cu"
#include "typed.h"
