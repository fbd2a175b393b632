/* Layer norm and RMS norm. A warp has a row where it holds it in registers, else a block has: memory is read
 * once. Gradients of the weights are summed by fixed sets of rows, and the sets in their order. */
#include "row.h"

/* A row: elements [begin, end) of x. */
typedef struct NormRow {
    int64_t row, begin, end;
    int lane, aligned;
} NormRow;

DEVICE NormRow norm_row(const NormArguments *a, int64_t row)
{
    return (NormRow){row, row * a->c, row * a->c + a->c, (int)(THREAD.x % (unsigned)a->team), a->aligned};
}

DEVICE float norm_total(const float *x)
{
    float sum = 0.0f;
    UNROLL
    for (int e = 0; e < PACK; e++)
        sum += x[e];
    return sum;
}

/* Of the first n. */
DEVICE float norm_squares(int64_t n, const float *x, float mean)
{
    float sum = 0.0f;
    UNROLL
    for (int e = 0; e < PACK; e++)
        sum += e < n ? (x[e] - mean) * (x[e] - mean) : 0.0f;
    return sum;
}

/* What backward knows of a row: the means of g = dy (plus + weight) and of g xhat; sums until they are complete. */
typedef struct NormSums {
    float mean, rstd, total, dot;
} NormSums;

DEVICE void norm_pack_sums(const NormArguments *a, NormRow r, int64_t at, const float *x, const float *dy,
                           NormSums *s, float *dw, float *db)
{
    float w[PACK];
    row_load(DTYPE_F32, a->weight, at, 0, row_left(a->c - at), r.aligned,
             w); /* beyond the row, dy and w are 0 */
    UNROLL
    for (int e = 0; e < PACK; e++) {
        float xhat = (x[e] - s->mean) * s->rstd, g = dy[e] * (a->plus + w[e]);
        s->total += g;
        s->dot += g * xhat;
        dw[e] += dy[e] * xhat;
        db[e] += dy[e];
    }
}

enum { NORM_SHARED = 8 * 32 * PACK }; /* floats: a pack a thread */

/* The block's sums, those of its warps in their order. */
DEVICE void norm_leave(const NormArguments *a, float dw[NORM_HELD][PACK], float db[NORM_HELD][PACK],
                       float *part, float *shared)
{
    int lane = (int)(THREAD.x % (unsigned)a->team), warp = (int)(THREAD.x / 32);
    UNROLL
    for (int i = 0; i < NORM_HELD * 2; i++) {
        float *to = part + i % 2 * a->c;
        const float *from = i % 2 ? db[i / 2] : dw[i / 2];
        int64_t first = (int64_t)(i / 2) * a->team * PACK;
        if (a->team != 32) {
            row_store(DTYPE_F32, to, first + lane * PACK, 0, row_left(a->c - first - lane * PACK), a->aligned,
                      from);
            continue;
        }
        if (first >= a->c)
            continue;
        block_sync();
        UNROLL
        for (int e = 0; e < PACK; e++)
            shared[(warp * PACK + e) * 32 + lane] = from[e];
        block_sync();
        int64_t column = first + lane * PACK + warp; /* of 8 warps, each takes an element of the packs */
        float sum = 0.0f;
        for (int w = 0; w < 8; w++)
            sum += shared[(w * PACK + warp) * 32 + lane];
        if (column < a->c)
            to[column] = sum;
    }
}

#define KERNELS "norm_.cu"
#include "typed.h"

/* dweight (y 0) and dbias (y 1): 32 columns a block, whose 8 warps each take every 8th part. */
GLOBAL(norm_weights, 256, NormWeightArguments)
{
    SHARED float shared[256];
    int which = (int)BLOCK.y, lane = (int)(THREAD.x % 32), warp = (int)(THREAD.x / 32);
    int64_t i = (int64_t)BLOCK.x * 32 + lane;
    float sum = 0.0f;
    if (!a.out[which])
        return;
    for (int p = warp; i < a.c && p < a.parts; p += 8)
        sum += a.partial[((int64_t)p * 2 + which) * a.c + i];
    shared[THREAD.x] = sum;
    block_sync();
    if (warp != 0 || i >= a.c)
        return;
    for (int w = 1; w < 8; w++)
        sum += shared[w * 32 + lane];
    if (a.beta[which] != 0.0f)
        sum += a.beta[which] * value_load(a.type[which], a.out[which], i);
    value_store(a.type[which], a.out[which], i, sum);
}
