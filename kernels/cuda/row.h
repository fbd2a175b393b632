/* Rows in packs of eight values, which one thread has. A row is cut the same way whatever its type is and
 * wherever it lies, so that sums over it are the same to the last bit. */
#ifndef BRIM_CUDA_ROW_H
#define BRIM_CUDA_ROW_H

#include "pack.h"

enum { PACK = 8 };

#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#else
#define UNROLL
#define ROLLED
#endif

/* v = elements i..i+7 of x, of which the row has [begin, end); `other` for those that it has not. aligned: i
 * is a multiple of 8 wherever all eight are the row's, and x begins on 16 bytes. */
DEVICE void row_load(DType type, const void *x, int64_t i, int64_t begin, int64_t end, int aligned,
                     float other, float *v)
{
    if (aligned && i >= begin && i + PACK <= end) {
        pack_load(type, PACK, x, i, i + PACK, 1, v);
        return;
    }
    UNROLL
    for (int e = 0; e < PACK; e++)
        v[e] = i + e >= begin && i + e < end ? value_load(type, x, i + e) : other;
}

DEVICE void row_store(DType type, void *y, int64_t i, int64_t begin, int64_t end, int aligned, const float *v)
{
    if (aligned && i >= begin && i + PACK <= end) {
        pack_store(type, PACK, v, y, i, i + PACK, 1);
        return;
    }
    UNROLL
    for (int e = 0; e < PACK; e++)
        if (i + e >= begin && i + e < end)
            value_store(type, y, i + e, v[e]);
}

/* Of the kernel's type (typed.h). */
#define LOAD8(x, i, begin, end, aligned, other, v) row_load(TYPE, x, i, begin, end, aligned, other, v)
#define STORE8(y, i, begin, end, aligned, v)       row_store(TYPE, y, i, begin, end, aligned, v)

/* Over the threads that have a row together: a warp, or the block. shared is 32 floats. */
DEVICE float team_sum(int team, float v, float *shared)
{
    return team == 32 ? warp_sum(v) : block_sum(v, shared);
}

DEVICE float team_max(int team, float v, float *shared)
{
    return team == 32 ? warp_max(v) : block_max(v, shared);
}

#endif
