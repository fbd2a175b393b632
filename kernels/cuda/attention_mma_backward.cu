/* Flash backward on tensor cores. A block has 64 rows and what is summed for them, and the other side streams
 * by: rows are queries for dq, keys for dk and dv, where the queries of all heads that share a kv head
 * stream, in order. So nothing is added by two blocks. Of head dim 128 dk and dv have a kernel each, for
 * registers. */
#include "attention_mma.h"

SHARED uint16_t mma_backward_shared[MMA_SHARED];

/* What a kernel is: of which type and head dim, whether rows are keys, and what it sums: `scores`, the
 * gradient of the scores times what streams first (dq, dk); `values`, probabilities times what streams second
 * (dv). */
typedef struct MmaKind {
    DType type;
    int size, keys, scores, values;
} MmaKind;

/* A block: its rows, and the tiles that stream: `per` of each of `heads` heads, from row `start` on. */
typedef struct MmaBlock {
    int b, h, kv, first, start, per, heads;
    MmaRows own[2]; /* q and dout, or k and v */
    const int32_t *mask;
} MmaBlock;

/* What a warp has: the fragments of its 16 rows, two sums; of rows that are queries the log-sum-exp (times
 * log2 e) and delta of two. */
typedef struct MmaRow16 {
    unsigned own[2][MMA_K][4];
    float sum[2][MMA_N][4], p[MMA_TILES][4], ds[MMA_TILES][4], lse[2], delta[2];
} MmaRow16;

DEVICE MmaBlock mma_block(const AttentionArguments *a, const MmaKind *kind)
{
    MmaBlock x;
    const int others = MMA_STREAM(kind->size);
    int heads = kind->keys ? a->d.kv_heads : a->d.heads, tiles = (a->d.seq + MMA_ROWS - 1) / MMA_ROWS;
    int group = a->d.heads / a->d.kv_heads, tile = (int)(BLOCK.x % (unsigned)tiles);
    x.h = (int)(BLOCK.x / (unsigned)tiles) % heads;
    x.b = (int)(BLOCK.x / (unsigned)tiles) / heads;
    x.kv = kind->keys ? x.h : x.h / group;
    x.mask = a->d.key_mask ? a->d.key_mask + (int64_t)x.b * a->d.seq : NULL;
    if (kind->keys) { /* where causal the first keys are seen by the most queries */
        x.first = tile * MMA_ROWS;
        x.heads = group;
        x.start = window_query_begin(&a->d, x.first);
        x.per = (window_query_end(&a->d, x.first, MMA_ROWS) - x.start + others - 1) / others;
        x.own[0] = mma_rows(a->k, &a->at_k, x.b, x.kv, a->keys);
        x.own[1] = mma_rows(a->v, &a->at_v, x.b, x.kv, a->keys);
    } else {
        x.first = (tiles - 1 - tile) * MMA_ROWS;
        x.heads = 1;
        x.start = window_begin(&a->d, x.first);
        x.per = (window_end(&a->d, x.first, MMA_ROWS, a->keys) - x.start + others - 1) / others;
        x.own[0] = mma_rows(a->q, &a->at_q, x.b, x.h, a->d.seq);
        x.own[1] = mma_rows(a->dout, &a->at_o, x.b, x.h, a->d.seq);
    }
    return x;
}

/* The head whose rows stream as number i, and the first of them. */
DEVICE int mma_other_head(const MmaBlock *x, const MmaKind *kind, int i)
{
    return kind->keys ? x->kv * x->heads + i / x->per : x->kv;
}

DEVICE int mma_other_first(const MmaBlock *x, const MmaKind *kind, int i)
{
    return x->start + i % x->per * MMA_STREAM(kind->size);
}

/* Both tiles, in the background. */
DEVICE void mma_stream(const AttentionArguments *a, const MmaKind *kind, const MmaBlock *x, int i,
                       uint16_t *to)
{
    const int others = MMA_STREAM(kind->size);
    int head = mma_other_head(x, kind, i), first = mma_other_first(x, kind, i);
    MmaRows one = mma_rows(kind->keys ? a->q : a->k, kind->keys ? &a->at_q : &a->at_k, x->b, head, a->d.seq);
    MmaRows two =
        mma_rows(kind->keys ? a->dout : a->v, kind->keys ? &a->at_o : &a->at_v, x->b, head, a->d.seq);
    mma_copy(to, &one, first, others, kind->size, MMA_THREADS);
    mma_copy(to + others * (kind->size + 8), &two, first, others, kind->size, MMA_THREADS);
}

/* c = the products of the warp's rows and a tile's. */
DEVICE void mma_products(const MmaKind *kind, float c[][4], unsigned own[][4], const uint16_t *tile)
{
    const int others = MMA_STREAM(kind->size);
    mma_zero(&c[0][0], others / 8 * 4);
    UNROLL
    for (int i = 0; i < kind->size / 16; i++) {
        UNROLL
        for (int n = 0; n < others / 16; n++) {
            unsigned b[4];
            mma_second(b, tile, n, i, kind->size);
            mma(kind->type, c[2 * n], own[i], b);
            mma(kind->type, c[2 * n + 1], own[i], b + 2);
        }
    }
}

/* sum += weights (rows, others) times a tile (others, size). */
DEVICE void mma_add(const MmaKind *kind, float sum[][4], float weights[][4], const uint16_t *tile)
{
    const int others = MMA_STREAM(kind->size);
    UNROLL
    for (int i = 0; i < others / 16; i++) {
        unsigned p[4];
        mma_repack(kind->type, p, weights + 2 * i);
        UNROLL
        for (int n = 0; n < kind->size / 16; n++) {
            unsigned b[4];
            mma_summed(b, tile, i, n, kind->size);
            mma(kind->type, sum[2 * n], p, b);
            mma(kind->type, sum[2 * n + 1], p, b + 2);
        }
    }
}

/* Element of (B,H,T). */
DEVICE int64_t mma_row(const AttentionArguments *a, int b, int h, int query)
{
    return ((int64_t)b * a->d.heads + h) * a->d.seq + query;
}

/* Scores become probabilities, and dp their gradients. */
DEVICE void mma_gradients(const AttentionArguments *a, const MmaKind *kind, const MmaBlock *x, MmaRow16 *w,
                          int first, int head, int other)
{
    const int others = MMA_STREAM(kind->size);
    float scale = a->d.scale * LOG2_E;
    int row = first + (int)(THREAD.x % 32 / 4), column = other + (int)(THREAD.x % 4) * 2;
    const float *others_lse = a->lse + mma_row(a, x->b, head, column);
    const float *others_delta = a->delta + mma_row(a, x->b, head, column);
    int hides = kind->keys ? mma_hides(a, x->mask, other, others, first, 16)
                           : mma_hides(a, x->mask, first, 16, other, others);
    UNROLL
    for (int n = 0; n < others / 8; n++) {
        UNROLL
        for (int e = 0; e < 2; e++) {
            int at = column + n * 8 + e;
            float lse = 0, delta = 0;
            if (kind->keys && at < a->d.seq) {
                lse = others_lse[n * 8 + e] * LOG2_E;
                delta = others_delta[n * 8 + e];
            }
            UNROLL
            for (int half = 0; half < 2; half++) {
                int i = half * 2 + e, own = row + half * 8;
                int seen =
                    !hides || (kind->keys ? mma_sees(a, x->mask, at, own) : mma_sees(a, x->mask, own, at));
                float p = exp2_near(fused(w->p[n][i], scale, kind->keys ? -lse : -w->lse[half]));
                w->p[n][i] = seen ? p : 0.0f;
                if (kind->scores)
                    w->ds[n][i] = seen ? p * (w->ds[n][i] - (kind->keys ? delta : w->delta[half])) : 0.0f;
            }
        }
    }
}

/* Own rows into registers. */
DEVICE void mma_own(const AttentionArguments *a, const MmaKind *kind, const MmaBlock *x, MmaRow16 *w,
                    int first)
{
    uint16_t *second = mma_backward_shared + MMA_ROWS * (kind->size + 8);
    int at = (first - x->first) * (kind->size + 8);
    mma_copy(mma_backward_shared, &x->own[0], x->first, MMA_ROWS, kind->size, MMA_THREADS);
    if (kind->scores)
        mma_copy(second, &x->own[1], x->first, MMA_ROWS, kind->size, MMA_THREADS);
    copy_commit();
    copy_wait(0);
    block_sync();
    UNROLL
    for (int i = 0; i < kind->size / 16; i++) {
        mma_first(w->own[0][i], mma_backward_shared + at, i, kind->size);
        if (kind->scores)
            mma_first(w->own[1][i], second + at, i, kind->size);
    }
    block_sync();
    mma_zero(&w->sum[0][0][0], kind->scores ? kind->size / 8 * 4 : 0);
    mma_zero(&w->sum[1][0][0], kind->values ? kind->size / 8 * 4 : 0);
    UNROLL
    for (int half = 0; half < 2; half++) {
        int row = first + (int)(THREAD.x % 32 / 4) + half * 8, in = !kind->keys && row < a->d.seq;
        w->lse[half] = in ? a->lse[mma_row(a, x->b, x->h, row)] * LOG2_E : 0.0f;
        w->delta[half] = in ? a->delta[mma_row(a, x->b, x->h, row)] : 0.0f;
    }
}

DEVICE void mma_backward(const AttentionArguments *a, DType type, int size, int keys, int scores, int values)
{
    if (!MMA_HAS(type))
        return;
    MmaKind kind;
    kind.type = type, kind.size = size, kind.keys = keys, kind.scores = scores, kind.values = values;
    const int tile = MMA_STREAM(size) * (size + 8);
    MmaBlock x = mma_block(a, &kind);
    MmaRow16 w;
    int first = x.first + (int)(THREAD.x / 32) * 16, count = x.per * x.heads;
    mma_own(a, &kind, &x, &w, first);
    mma_stream(a, &kind, &x, 0, mma_backward_shared);
    copy_commit();
    for (int i = 0, now = 0; i < count; i++, now ^= 1) {
        uint16_t *at = mma_backward_shared + now * 2 * tile;
        int other = mma_other_first(&x, &kind, i);
        if (i + 1 < count)
            mma_stream(a, &kind, &x, i + 1, mma_backward_shared + (now ^ 1) * 2 * tile);
        copy_commit();
        copy_wait(1);
        block_sync();
        int works = first < a->d.seq && (keys || !a->d.causal || other < first + 16);
        if (works && keys && a->d.causal && other + MMA_STREAM(size) <= first)
            works = 0;
        if (works) {
            mma_products(&kind, w.p, w.own[0], at);
            if (scores)
                mma_products(&kind, w.ds, w.own[1], at + tile);
            mma_gradients(a, &kind, &x, &w, first, mma_other_head(&x, &kind, i), other);
            if (values)
                mma_add(&kind, w.sum[1], w.p, at + tile);
            if (scores)
                mma_add(&kind, w.sum[0], w.ds, at);
        }
        block_sync();
    }
    copy_wait(0);
    const float scale[2] = {a->d.scale, a->d.scale}, one[2] = {1, 1};
    int row = first + (int)(THREAD.x % 32 / 4);
    if (scores)
        mma_store(type, keys ? a->dk : a->dq, keys ? &a->at_dk : &a->at_dq, x.b, x.h, row, a->d.seq, size,
                  w.sum[0], scale);
    if (values)
        mma_store(type, a->dv, &a->at_dv, x.b, x.h, row, a->d.seq, size, w.sum[1], one);
}

/* keys, scores, values */
#define MMA_BACKWARD(name, size, keys, scores, values)                                                       \
    GLOBAL(attention_mma_##name##_##size##_bf16, MMA_THREADS, AttentionArguments)                            \
    {                                                                                                        \
        mma_backward(&a, DTYPE_BF16, size, keys, scores, values);                                            \
    }                                                                                                        \
    GLOBAL(attention_mma_##name##_##size##_f16, MMA_THREADS, AttentionArguments)                             \
    {                                                                                                        \
        mma_backward(&a, DTYPE_F16, size, keys, scores, values);                                             \
    }

MMA_BACKWARD(dq, 64, 0, 1, 0)
MMA_BACKWARD(dq, 128, 0, 1, 0)
MMA_BACKWARD(dkv, 64, 1, 1, 1)
MMA_BACKWARD(dk, 128, 1, 1, 0)
MMA_BACKWARD(dv, 128, 1, 0, 1)
