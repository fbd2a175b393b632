/* Reductions of a whole array, in double, over partitions that depend on its length alone. */
#include "pack.h"

/* Threads add up, in a fixed order; the first of the block gets it. */
DEVICE double reduce_block(double x)
{
    SHARED double sums[256];
    sums[THREAD.x] = x;
    for (unsigned width = 128; width > 0; width >>= 1) {
        block_sync();
        if (THREAD.x < width)
            sums[THREAD.x] += sums[THREAD.x + width];
    }
    return sums[0];
}

/* One block. */
GLOBAL(sum_end, 256, ReduceArguments)
{
    double sum = 0;
    for (int i = (int)THREAD.x; i < a.blocks; i += 256)
        sum += a.partial[i];
    sum = reduce_block(sum);
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
