/* Kernels with a fault each, for the tests of the stand-in (tests/test_stand_in.c): every one must be found. The
 * tests look for the lines by what their comments say. Blocks of 64 threads; x and y hold 64 floats. */
#include "kernels/cuda/values.h"

#define X ((const float *)a.a)
#define Y ((float *)a.y)
#define T ((int)THREAD.x)

GLOBAL(planted_nothing, 64, ElementArguments)
{
    SHARED float s[64];
    s[T] = X[T];
    block_sync();
    Y[T] = s[63 - T] + warp_sum(1.0f);
}

GLOBAL(planted_beyond_global, 64, ElementArguments)
{
    Y[T + 1] = X[T]; /* beyond global */
}

GLOBAL(planted_beyond_shared, 64, ElementArguments)
{
    SHARED float s[64];
    float *at = s + a.n; /* 1: so that the index is not known to the compiler */
    at[T] = X[T];        /* beyond shared */
    block_sync();
    Y[T] = at[63 - T];
}

GLOBAL(planted_beyond_dynamic, 64, ElementArguments)
{
    float *s = (float *)SHARED_DYNAMIC;
    s[T] = X[T]; /* beyond dynamic */
    block_sync();
    Y[T] = s[63 - T];
}

GLOBAL(planted_null, 64, ElementArguments)
{
    Y[T] = ((const float *)a.b)[T];
}

GLOBAL(planted_race, 64, ElementArguments)
{
    SHARED float s[64];
    s[T] = X[T];                /* race, written */
    Y[T] = s[(T + 33) % 64];    /* race, read */
}

/* What a block shares through global memory has to meet at a barrier too. */
GLOBAL(planted_global_race, 64, ElementArguments)
{
    if (T == 0)
        for (int i = 0; i < 64; i++)
            Y[i] = 0; /* global race, zeroed */
    Y[63 - T] += X[T]; /* global race, added */
}

GLOBAL(planted_two_barriers, 64, ElementArguments)
{
    if (T < 32)
        block_sync(); /* barrier of some */
    else
        block_sync(); /* barrier of the others */
    Y[T] = X[T];
}

/* Threads 0 to 31 wait at a second barrier for threads that are at a collective, without their lanes. */
GLOBAL(planted_hang, 64, ElementArguments)
{
    block_sync();
    if (T < 32)
        block_sync(); /* barrier that not all reach */
    else if (T < 63)
        Y[T] = warp_xor(X[T], 1); /* collective that not all reach */
    else
        block_sync(); /* barrier that not all reach */
}

GLOBAL(planted_missing_lanes, 64, ElementArguments)
{
    if (T % 2)
        return;
    Y[T] = warp_xor(X[T], 2); /* collective without odd lanes */
}

GLOBAL(planted_two_collectives, 64, ElementArguments)
{
    if (T % 2)
        Y[T] = warp_xor(X[T], 1); /* collective of odd lanes */
    else
        Y[T] = warp_sum(X[T]); /* collective of even lanes */
}

GLOBAL(planted_unwritten, 64, ElementArguments)
{
    SHARED float s[64];
    if (T < 32)
        s[T] = X[T];
    block_sync();
    Y[T] = s[T];
}

GLOBAL(planted_endless, 64, ElementArguments)
{
    volatile float *flag = Y;
    flag[0] = 0;
    while (T == 0 && flag[0] == 0) /* a later thread of the block sets it: not one that runs beside this */
        ;
    flag[0] = 1;
}

/* Block 0 reads what the last block writes: what comes out depends on their order. */
GLOBAL(planted_order, 64, ElementArguments)
{
    if (BLOCK.x == GRID_SIZE.x - 1)
        Y[T] = X[T];
    else if (BLOCK.x == 0)
        Y[T] = Y[T] * 2;
}
