/* Tiles of flash attention for tensor cores: 16 rows of one array, which a warp has in registers, against
 * some rows of two others, which stream through shared memory while the tile before is worked on. Values are
 * of 16 bit, sums of f32. Head dims 64 and 128. Fragments lie as in PTX's mma.m16n8k16: lane 4 g + t has of a
 * result rows g and g + 8, columns 2 t and 2 t + 1. */
#ifndef BRIM_CUDA_ATTENTION_MMA_H
#define BRIM_CUDA_ATTENTION_MMA_H

#include "attention_window.h"
#include "words.h"

/* Whether the card has the products: Turing has those of f16 alone, and never starts the others. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define MMA_HAS(type) ((type) == DTYPE_F16)
#else
#define MMA_HAS(type) 1
#endif

/* Of a block: queries forward, rows backward and the threads for them. */
enum { MMA_QUERIES = 128, MMA_ROWS = 64, MMA_THREADS = 128 };
/* Fragments of the wider head dim, and of the most rows that stream: arrays are as large as any kernel needs,
 * and what it does not use is no register. */
enum { MMA_K = 128 / 16, MMA_N = 128 / 8, MMA_TILES = 64 / 8 };
enum { MMA_SHARED = 2 * 2 * 64 * (64 + 8) }; /* numbers of 16 bit: two stages of two tiles, of either width */

/* Rows of a tile that streams. Two stages of two fit into 48 KiB. */
#define MMA_STREAM(size) ((size) == 64 ? 64 : 32)

/* The rows (rows, D) of a head. */
typedef struct MmaRows {
    const uint16_t *at;
    int64_t ld;
    int rows;
} MmaRows;

DEVICE MmaRows mma_rows(const void *at, const HeadStrides *s, int b, int head, int rows)
{
    MmaRows x;
    x.at = (const uint16_t *)at + (int64_t)b * s->sample + (int64_t)head * s->head;
    x.ld = s->row;
    x.rows = rows;
    return x;
}

/* to (count, size + 8) = rows first..; 0 beyond. The eight keep the rows that a matrix is loaded from in
 * different banks. In the background. */
DEVICE void mma_copy(uint16_t *to, const MmaRows *x, int first, int count, int size, int threads)
{
    int pieces = size / 8;
    for (int i = (int)THREAD.x; i < count * pieces; i += threads) {
        int r = i / pieces, c = i % pieces * 8, in = first + r < x->rows;
        copy16(to + r * (size + 8) + c, x->at + (in ? (first + r) * x->ld + c : 0), in);
    }
}

/* The fragments of a first factor: rows [0, 16) of the tile, columns [16 k, 16 k + 16). */
DEVICE void mma_first(unsigned r[4], const uint16_t *tile, int k, int size)
{
    int lane = (int)(THREAD.x % 32);
    load_matrices(r, tile + lane % 16 * (size + 8) + k * 16 + lane / 16 * 8);
}

/* Those of two second factors where the tile's rows are the result's columns: rows [16 n, 16 n + 16), columns
 * [16 k, 16 k + 16). */
DEVICE void mma_second(unsigned r[4], const uint16_t *tile, int n, int k, int size)
{
    int lane = (int)(THREAD.x % 32);
    load_matrices(r, tile + (n * 16 + lane / 16 * 8 + lane % 8) * (size + 8) + k * 16 + lane / 8 % 2 * 8);
}

/* And where the tile's rows are summed over: rows [16 k, 16 k + 16), columns [16 n, 16 n + 16). */
DEVICE void mma_summed(unsigned r[4], const uint16_t *tile, int k, int n, int size)
{
    int lane = (int)(THREAD.x % 32);
    load_matrices_transposed(r, tile + (k * 16 + lane % 16) * (size + 8) + n * 16 + lane / 16 * 8);
}

DEVICE void mma(DType type, float c[4], const unsigned a[4], const unsigned b[2])
{
    if (type == DTYPE_BF16)
        mma_bf16(c, a, b);
    else
        mma_f16(c, a, b);
}

DEVICE unsigned mma_pack(DType type, float low, float high)
{
    return type == DTYPE_BF16 ? pair_bf16(low, high) : pair_f16(low, high);
}

/* A result of 16 columns becomes a first factor. */
DEVICE void mma_repack(DType type, unsigned r[4], float x[2][4])
{
    r[0] = mma_pack(type, x[0][0], x[0][1]);
    r[1] = mma_pack(type, x[0][2], x[0][3]);
    r[2] = mma_pack(type, x[1][0], x[1][1]);
    r[3] = mma_pack(type, x[1][2], x[1][3]);
}

/* Own rows g and g + 8 of a sum (16, size), times factor, to rows `row` and row + 8 of y. */
DEVICE void mma_store(DType type, void *y, const HeadStrides *s, int b, int head, int row, int rows, int size,
                      float sum[][4], const float factor[2])
{
    uint16_t *to = (uint16_t *)y + (int64_t)b * s->sample + (int64_t)head * s->head + THREAD.x % 4 * 2;
    UNROLL
    for (int half = 0; half < 2; half++) {
        if (row + half * 8 >= rows)
            continue;
        UNROLL
        for (int n = 0; n < size / 8; n++) {
            float low = sum[n][half * 2] * factor[half], high = sum[n][half * 2 + 1] * factor[half];
            *(unsigned *)(void *)(to + (row + half * 8) * s->row + n * 8) = mma_pack(type, low, high);
        }
    }
}

DEVICE int mma_sees(const AttentionArguments *a, const int32_t *mask, int query, int key)
{
    return query < a->d.seq && key < a->keys && window_has(&a->d, query, key) && (!mask || mask[key]);
}

/* Whether some query of [query, query + queries) does not see all of [key, key + keys). */
DEVICE int mma_hides(const AttentionArguments *a, const int32_t *mask, int query, int queries, int key,
                     int keys)
{
    return mask || query + queries > a->d.seq || key + keys > a->keys ||
           !window_has(&a->d, query, key + keys - 1) || !window_has(&a->d, query + queries - 1, key);
}

DEVICE void mma_zero(float *x, int n)
{
    UNROLL
    for (int i = 0; i < n; i++)
        x[i] = 0;
}

#define LOG2_E 1.44269504088896340736f

#endif
