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

/* How many of the values of a pack are in a row that goes on for so many: at most all. */
DEVICE int row_left(int64_t left)
{
    return left < PACK ? (int)left : PACK;
}

/* v = x[i..i+7], of which [from, to) are the row's; zero for the others. aligned: where all are, they lie at
 * a multiple of 16 bytes. */
DEVICE void row_load(DType type, const void *x, int64_t i, int from, int to, int aligned, float *v)
{
    Pack p = {{0}};
    if (aligned && from <= 0 && to >= PACK) {
        p = pack_read(type, PACK, x, i, i + PACK, 1);
    } else {
        UNROLL
        for (int e = 0; e < PACK; e++)
            if (e >= from && e < to) {
                if (type == DTYPE_F32)
                    p.word[e] = float_to_bits(((const float *)x)[i + e]);
                else
                    p.word[e / 2] |= (uint32_t)((const uint16_t *)x)[i + e] << e % 2 * 16;
            }
    }
    pack_values(type, PACK, &p, v);
}

DEVICE void row_store(DType type, void *y, int64_t i, int from, int to, int aligned, const float *v)
{
    Pack p = pack_of(type, PACK, v);
    if (aligned && from <= 0 && to >= PACK) {
        pack_write(type, PACK, &p, y, i, i + PACK, 1);
        return;
    }
    UNROLL
    for (int e = 0; e < PACK; e++)
        if (e >= from && e < to) {
            if (type == DTYPE_F32)
                ((float *)y)[i + e] = float_from_bits(p.word[e]);
            else
                ((uint16_t *)y)[i + e] = (uint16_t)(p.word[e / 2] >> e % 2 * 16);
        }
}

/* Of the kernel's type (typed.h). */
#define LOAD8(x, i, from, to, aligned, v)  row_load(TYPE, x, i, from, to, aligned, v)
#define STORE8(y, i, from, to, aligned, v) row_store(TYPE, y, i, from, to, aligned, v)

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
