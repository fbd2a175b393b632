/* Tiles of attention in f32, whatever the arrays' type: 64 rows of one array against 64 of another, in shared
 * memory by chunks of columns, of which each of 256 threads has 4 x 4 products. Any head_dim: a block sums at
 * most COLUMNS columns of its result, wider heads have several blocks a tile, which compute the scores again;
 * heads of up to half of that have kernels of their own, which need fewer registers.
 */
#ifndef BRIM_CUDA_ATTENTION_H
#define BRIM_CUDA_ATTENTION_H

#include "attention_window.h"
#include "values.h"

enum {
    TILE = 64,          /* rows */
    CHUNK = 32,         /* columns of a product's factors, or rows of a sum's, that are in shared memory */
    COLUMNS = 128,      /* of a sum */
    TILE_LD = TILE + 4, /* floats from a column of a tile to the next: columns lie together, aligned */
    ATTENTION_THREADS = 256
};

/* Each .cu file's kernels share one array: two chunks, and a tile of probabilities or of gradients. */
enum { ATTENTION_CHUNKS = 2 * CHUNK * TILE_LD, ATTENTION_SHARED = ATTENTION_CHUNKS + TILE * TILE_LD };

/* Which rows a block has: of sample b, head h and its kv head, from row `first` on; and the columns of the
 * result that it sums. */
typedef struct AttentionPlace {
    int b, h, kv, first, column, width; /* width: COLUMNS or half of it, a constant of the kernel */
} AttentionPlace;

/* The rows (rows, D) of a head, which begin at element `first`. */
typedef struct HeadRows {
    const void *at;
    DType type;
    int64_t first, ld;
    int rows, pieces; /* pieces: floats in fours that are aligned to 16 bytes */
} HeadRows;

DEVICE HeadRows head_rows(const void *at, DType type, int pieces, const HeadStrides *s, int b, int head,
                          int rows)
{
    HeadRows x;
    x.pieces = type == DTYPE_F32 && pieces;
    x.at = at;
    x.type = type;
    x.first = (int64_t)b * s->sample + (int64_t)head * s->head;
    x.ld = s->row;
    x.rows = rows;
    return x;
}

DEVICE int tiles_of(int rows)
{
    return (rows + TILE - 1) / TILE;
}

/* Blocks are numbered sample by sample, head by head. The last tiles come first: where causal they are the
 * longest. */
DEVICE AttentionPlace attention_place(const AttentionArguments *a, int heads, int width)
{
    AttentionPlace p;
    int tiles = tiles_of(a->d.seq);
    unsigned at = BLOCK.x;
    p.column = (int)(at % (unsigned)a->chunks) * COLUMNS;
    at /= (unsigned)a->chunks;
    p.first = (tiles - 1 - (int)(at % (unsigned)tiles)) * TILE;
    at /= (unsigned)tiles;
    p.h = (int)(at % (unsigned)heads);
    p.b = (int)(at / (unsigned)heads);
    p.kv = heads == a->d.kv_heads ? p.h : p.h / (a->d.heads / a->d.kv_heads);
    p.width = width;
    return p;
}

/* Element of (B,H,T). */
DEVICE int64_t attention_row(const AttentionDims *d, int b, int h, int row)
{
    return ((int64_t)b * d->heads + h) * d->seq + row;
}

DEVICE const int32_t *attention_mask(const AttentionDims *d, int b)
{
    return d->key_mask ? d->key_mask + (int64_t)b * d->seq : NULL;
}

DEVICE int attention_sees(const AttentionArguments *a, const int32_t *mask, int row, int key)
{
    return row < a->d.seq && key < a->keys && window_has(&a->d, row, key) && (!mask || mask[key]);
}

/* Where the tiles of keys begin that some row of the tile sees. */
DEVICE int attention_begin(const AttentionArguments *a, int first)
{
    return window_begin(&a->d, first) / TILE * TILE;
}

/* Keys before this one are seen by some row of the tile. */
DEVICE int attention_end(const AttentionArguments *a, int first)
{
    return window_end(&a->d, first, TILE, a->keys);
}

/* What products have made becomes the scores that are compared. */
DEVICE void cap_scores(const AttentionDims *d, float s[4][4])
{
    if (d->softcap <= 0)
        return;
    UNROLL
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            s[i][j] = d->softcap * tanhf(s[i][j] / d->softcap);
}

/* By how much a capped score changes with the score: 1 - tanh^2. */
DEVICE float cap_slope(const AttentionDims *d, float capped)
{
    float tanh = d->softcap > 0 ? capped / d->softcap : 0.0f;
    return 1 - tanh * tanh;
}

/* A probability from a score that is seen. */
DEVICE float attention_weight(float score, const float stats[2])
{
    return expf(score - stats[0]) * stats[1];
}

/* Where a thread's 4 x 4 products begin. */
DEVICE int own_row(void)
{
    return (int)(THREAD.x / 16) * 4;
}

DEVICE int own_column(void)
{
    return (int)(THREAD.x % 16) * 4;
}

/* to (CHUNK, TILE_LD) = factor times columns c.. of the tile's rows, transposed; 0 beyond. Eight columns of
 * four rows a warp, or of sixteen where they are pieces: whole sectors are read, and no two lanes write to
 * one bank. */
DEVICE void load_transposed(float *to, const HeadRows *x, int first, int c, int size, float factor)
{
    int lane = (int)(THREAD.x % 32), warp = (int)(THREAD.x / 32);
    if (x->pieces) {
        int r = warp % 4 * 16 + lane % 16;
        for (int e = warp / 4 * 8 + lane / 16 * 4; e < CHUNK; e += 16) {
            float v[4] = {0, 0, 0, 0};
            if (first + r < x->rows && c + e < size)
                load4(v, (const float *)x->at + x->first + (int64_t)(first + r) * x->ld + c + e);
            UNROLL
            for (int i = 0; i < 4; i++)
                to[(e + i) * TILE_LD + r] = v[i] * factor;
        }
        return;
    }
    for (int r = warp * 4 + lane / 8; r < TILE; r += ATTENTION_THREADS / 8)
        for (int e = lane % 8; e < CHUNK; e += 8) {
            int in = first + r < x->rows && c + e < size;
            int64_t at = x->first + (int64_t)(first + r) * x->ld + c + e;
            to[e * TILE_LD + r] = in ? value_load(x->type, x->at, at) * factor : 0.0f;
        }
}

/* to (CHUNK, COLUMNS) = columns c.. of rows first..; 0 beyond. */
DEVICE void load_rows(float *to, const HeadRows *x, int first, int c, int width, int size)
{
    if (x->pieces) {
        for (int i = (int)THREAD.x * 4; i < CHUNK * width; i += ATTENTION_THREADS * 4) {
            int r = i / width, e = i % width;
            float v[4] = {0, 0, 0, 0};
            if (first + r < x->rows && c + e < size)
                load4(v, (const float *)x->at + x->first + (int64_t)(first + r) * x->ld + c + e);
            store4(to + r * COLUMNS + e, v);
        }
        return;
    }
    for (int i = (int)THREAD.x; i < CHUNK * width; i += ATTENTION_THREADS) {
        int r = i / width, e = i % width, in = first + r < x->rows && c + e < size;
        int64_t at = x->first + (int64_t)(first + r) * x->ld + c + e;
        to[r * COLUMNS + e] = in ? value_load(x->type, x->at, at) : 0.0f;
    }
}

/* s (own rows of x, own rows of y) = the products of x's and y's rows, over all their columns in order. */
DEVICE void tile_product(float s[4][4], float *shared, const HeadRows *x, int x_first, float x_factor,
                         const HeadRows *y, int y_first, float y_factor, int size)
{
    float *xs = shared, *ys = shared + CHUNK * TILE_LD;
    UNROLL
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            s[i][j] = 0;
    for (int c = 0; c < size; c += CHUNK) {
        block_sync();
        load_transposed(xs, x, x_first, c, size, x_factor);
        load_transposed(ys, y, y_first, c, size, y_factor);
        block_sync();
        int n = size - c < CHUNK ? size - c : CHUNK;
        for (int e = 0; e < n && x_first + own_row() < x->rows; e++) {
            float p[4], r[4];
            load4(p, xs + e * TILE_LD + own_row());
            load4(r, ys + e * TILE_LD + own_column());
            UNROLL
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++)
                    s[i][j] = fused(p[i], r[j], s[i][j]);
        }
    }
}

/* weights (y's rows, x's rows) = s transposed. */
DEVICE void put_weights(float *weights, float s[4][4])
{
    UNROLL
    for (int j = 0; j < 4; j++) {
        float column[4] = {s[0][j], s[1][j], s[2][j], s[3][j]};
        store4(weights + (own_column() + j) * TILE_LD + own_row(), column);
    }
}

/* sum (own rows, 8 columns) += weights^T rows, of y's rows [first, first + TILE): columns own_column()..+3,
 * and the same 64 columns on. Waits until the weights are whole, and leaves them free only after a
 * block_sync. */
DEVICE void add_rows(float sum[4][8], float *shared, const float *weights, const HeadRows *y, int first,
                     int end, const AttentionPlace *place, int size)
{
    for (int r = 0; r < TILE && first + r < end; r += CHUNK) {
        int n = end - first - r < CHUNK ? end - first - r : CHUNK;
        block_sync();
        load_rows(shared, y, first + r, place->column, place->width, size);
        block_sync();
        for (int e = 0; e < n; e++) {
            float p[4], x[4];
            load4(p, weights + (r + e) * TILE_LD + own_row());
            load4(x, shared + e * COLUMNS + own_column());
            UNROLL
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++)
                    sum[i][j] = fused(p[i], x[j], sum[i][j]);
            if (place->width < COLUMNS)
                continue;
            load4(x, shared + e * COLUMNS + COLUMNS / 2 + own_column());
            UNROLL
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++)
                    sum[i][4 + j] = fused(p[i], x[j], sum[i][4 + j]);
        }
    }
}

/* Of a width of half of COLUMNS only the first four columns of a sum are used, and are registers. */
DEVICE void scale_sum(float sum[4][8], const float factor[4], int width)
{
    UNROLL
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < width / 16; j++)
            sum[i][j] *= factor[i];
}

DEVICE void zero_sum(float sum[4][8], int width)
{
    UNROLL
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < width / 16; j++)
            sum[i][j] = 0;
}

/* The own rows' sums, times factors, to the head's rows in y. */
DEVICE void store_sum(DType type, void *y, const HeadStrides *s, const AttentionPlace *place, int head,
                      int rows, int size, float sum[4][8], const float factor[4])
{
    int64_t base = (int64_t)place->b * s->sample + (int64_t)head * s->head;
    UNROLL
    for (int i = 0; i < 4; i++) {
        int row = place->first + own_row() + i;
        UNROLL
        for (int j = 0; j < place->width / 16; j++) {
            int c = place->column + j / 4 * (COLUMNS / 2) + own_column() + j % 4;
            if (row < rows && c < size)
                value_store(type, y, base + (int64_t)row * s->row + c, sum[i][j] * factor[i]);
        }
    }
}

#endif
