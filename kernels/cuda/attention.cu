/* Attention forward, in f32 whatever the arrays' type. flash (Dao, FlashAttention-2: arXiv 2307.08691) goes
 * over the keys once, with a running maximum and sum a row, and keeps their log-sum-exp. eager knows both
 * before it computes a probability, because in 16 bit it rounds those; so it computes scores twice. */
#include "attention.h"

SHARED float attention_shared[ATTENTION_SHARED];

/* What rows have so far: the largest score, and this thread's part of the sum of exponentials relative to it.
 */
typedef struct RunningRows {
    float max[4], sum[4];
} RunningRows;

/* The largest or the sum over the 16 threads that share rows. */
DEVICE float row_max(float v)
{
    for (int lanes = 8; lanes > 0; lanes >>= 1)
        v = fmaxf(v, warp_xor(v, lanes));
    return v;
}

DEVICE float row_sum(float v)
{
    for (int lanes = 8; lanes > 0; lanes >>= 1)
        v += warp_xor(v, lanes);
    return v;
}

/* Whether a warp has rows: it works on eight. */
DEVICE int warp_has_rows(const AttentionArguments *a, int first)
{
    return first + (int)(THREAD.x / 32) * 8 < a->d.seq;
}

/* Scores become exponentials relative to the new maximum; factor: by which what was summed before shrinks.
 * NaN is no maximum, and makes the sum NaN. */
DEVICE void running_rows(const AttentionArguments *a, const int32_t *mask, int first, int key, float s[4][4],
                         RunningRows *r, float factor[4])
{
    UNROLL
    for (int i = 0; i < 4; i++) {
        int row = first + own_row() + i;
        float max = r->max[i];
        UNROLL
        for (int j = 0; j < 4; j++) {
            s[i][j] = attention_sees(a, mask, row, key + own_column() + j) ? s[i][j] : -INFINITY;
            max = fmaxf(max, s[i][j]);
        }
        max = row_max(max);
        factor[i] = max == r->max[i] ? 1.0f : expf(r->max[i] - max);
        float sum = 0, shift = max == -INFINITY ? 0.0f : max;
        UNROLL
        for (int j = 0; j < 4; j++) {
            s[i][j] = expf(s[i][j] - shift);
            sum += s[i][j];
        }
        r->max[i] = max;
        r->sum[i] = r->sum[i] * factor[i] + sum;
    }
}

DEVICE void running_start(RunningRows *r)
{
    UNROLL
    for (int i = 0; i < 4; i++) {
        r->max[i] = -INFINITY;
        r->sum[i] = 0;
    }
}

/* keys: the type of k and v. */
DEVICE void flash_forward(const AttentionArguments *a, DType type, DType keys, int width)
{
    AttentionPlace p = attention_place(a, a->d.heads, width);
    HeadRows q = head_rows(a->q, type, a->pieces, &a->at_q, p.b, p.h, a->d.seq);
    HeadRows k = head_rows(a->k, keys, a->pieces, &a->at_k, p.b, p.kv, a->keys);
    HeadRows v = head_rows(a->v, keys, a->pieces, &a->at_v, p.b, p.kv, a->keys);
    const int32_t *mask = attention_mask(&a->d, p.b);
    float *weights = attention_shared + ATTENTION_CHUNKS, sum[4][8], s[4][4], factor[4];
    int size = a->d.head_dim, end = attention_end(a, p.first);
    RunningRows r;
    running_start(&r);
    zero_sum(sum, width);
    for (int key = attention_begin(a, p.first); key < end; key += TILE) {
        tile_product(s, attention_shared, &q, p.first, a->d.scale, &k, key, 1, size);
        cap_scores(&a->d, s);
        if (warp_has_rows(a, p.first)) {
            running_rows(a, mask, p.first, key, s, &r, factor);
            put_weights(weights, s);
            scale_sum(sum, factor, width);
        }
        add_rows(sum, attention_shared, weights, &v, key, end, &p, size);
    }
    if (!warp_has_rows(a, p.first))
        return;
    UNROLL
    for (int i = 0; i < 4; i++) {
        int row = p.first + own_row() + i;
        float all = row_sum(r.sum[i]);
        factor[i] = all == 0 ? 0.0f : 1 / all;
        if (a->lse && THREAD.x % 16 == 0 && row < a->d.seq && p.column == 0)
            a->lse[attention_row(&a->d, p.b, p.h, row)] = r.max[i] + logf(all); /* log 0 = -infinity */
    }
    store_sum(type, a->out, &a->at_o, &p, p.h, a->d.seq, size, sum, factor);
}

/* stats of eager's rows: a row without a key has probabilities 0. */
DEVICE void eager_stats(const AttentionArguments *a, DType type)
{
    AttentionPlace p = attention_place(a, a->d.heads, COLUMNS);
    HeadRows q = head_rows(a->q, type, a->pieces, &a->at_q, p.b, p.h, a->d.seq);
    HeadRows k = head_rows(a->k, type, a->pieces, &a->at_k, p.b, p.kv, a->keys);
    const int32_t *mask = attention_mask(&a->d, p.b);
    float s[4][4], factor[4];
    int end = attention_end(a, p.first);
    RunningRows r;
    running_start(&r);
    for (int key = attention_begin(a, p.first); key < end; key += TILE) {
        tile_product(s, attention_shared, &q, p.first, a->d.scale, &k, key, 1, a->d.head_dim);
        cap_scores(&a->d, s);
        if (warp_has_rows(a, p.first))
            running_rows(a, mask, p.first, key, s, &r, factor);
    }
    for (int i = 0; i < 4 && warp_has_rows(a, p.first); i++) {
        int row = p.first + own_row() + i;
        float all = row_sum(r.sum[i]);
        if (THREAD.x % 16 == 0 && row < a->d.seq) {
            float *to = a->stats + 2 * attention_row(&a->d, p.b, p.h, row);
            to[0] = r.max[i] == -INFINITY ? 0.0f : r.max[i];
            to[1] = all == 0 ? 0.0f : 1 / all;
        }
    }
}

/* s becomes probabilities, rounded; they are kept where there is room for them. */
DEVICE void eager_rows(const AttentionArguments *a, DType type, const AttentionPlace *p, const int32_t *mask,
                       int key, float s[4][4])
{
    UNROLL
    for (int i = 0; i < 4; i++) {
        int row = p->first + own_row() + i;
        int64_t at = attention_row(&a->d, p->b, p->h, row);
        UNROLL
        for (int j = 0; j < 4; j++) {
            int column = key + own_column() + j;
            int seen = attention_sees(a, mask, row, column);
            s[i][j] = seen ? value_round(type, attention_weight(s[i][j], a->stats + 2 * at)) : 0.0f;
            if (a->probs && row < a->d.seq && column < a->keys && p->column == 0)
                value_store(type, a->probs, at * a->d.seq + column, s[i][j]);
        }
    }
}

DEVICE void eager_forward(const AttentionArguments *a, DType type, int width)
{
    AttentionPlace p = attention_place(a, a->d.heads, width);
    HeadRows q = head_rows(a->q, type, a->pieces, &a->at_q, p.b, p.h, a->d.seq);
    HeadRows k = head_rows(a->k, type, a->pieces, &a->at_k, p.b, p.kv, a->keys);
    HeadRows v = head_rows(a->v, type, a->pieces, &a->at_v, p.b, p.kv, a->keys);
    const int32_t *mask = attention_mask(&a->d, p.b);
    float *weights = attention_shared + ATTENTION_CHUNKS, sum[4][8], s[4][4];
    int size = a->d.head_dim, begin = attention_begin(a, p.first), end = attention_end(a, p.first);
    zero_sum(sum, width);
    for (int key = begin; key < end; key += TILE) {
        tile_product(s, attention_shared, &q, p.first, a->d.scale, &k, key, 1, size);
        cap_scores(&a->d, s);
        eager_rows(a, type, &p, mask, key, s);
        put_weights(weights, s);
        add_rows(sum, attention_shared, weights, &v, key, end, &p, size);
    }
    const float one[4] = {1, 1, 1, 1};
    store_sum(type, a->out, &a->at_o, &p, p.h, a->d.seq, size, sum, one);
    UNROLL
    for (int i = 0; i < 4; i++) /* what lies before the first tile and behind the last */
        for (int j = 0; j < 4; j++)
            s[i][j] = 0;
    for (int key = 0; a->probs && key < begin; key += TILE)
        eager_rows(a, type, &p, mask, key, s);
    for (int key = tiles_of(end) * TILE; a->probs && key < a->keys; key += TILE)
        eager_rows(a, type, &p, mask, key, s);
}

#define KERNELS "attention_.cu"
#include "typed.h"
