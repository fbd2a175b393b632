/* Attention backward, eager and flash, in f32 whatever the arrays' type: probabilities are read where eager
 * kept them, and else computed again from the scores. One kernel sums dq over the keys, another dk and dv
 * over the queries of all heads that share a kv head, in order: nothing is added by two blocks. */
#include "attention.h"

SHARED float attention_backward_shared[ATTENTION_SHARED];

/* What a row's scores are turned into probabilities by: of flash, its log-sum-exp. */
DEVICE void row_stats(const AttentionArguments *a, int64_t row, float stats[2])
{
    stats[0] = a->lse ? a->lse[row] : a->stats ? a->stats[2 * row] : 0.0f;
    stats[1] = a->lse || !a->stats ? 1.0f : a->stats[2 * row + 1];
}

/* The probability of a row of (B,H,T) and a key that it sees, as forward had it. */
DEVICE float known_weight(const AttentionArguments *a, DType type, int64_t row, int key, float score,
                          const float stats[2])
{
    if (a->probs)
        return value_load(type, a->probs, row * a->d.seq + key);
    float p = attention_weight(score, stats);
    return a->lse ? p : value_round(type, p);
}

/* Whether there is more to know than the probabilities that eager kept. */
DEVICE int needs_scores(const AttentionArguments *a)
{
    return !a->probs || a->d.softcap > 0;
}

/* delta (B,H,T) = the sum of dout * out over a row. A warp a row. */
DEVICE void delta_rows(const AttentionArguments *a, DType type)
{
    int64_t rows = (int64_t)a->d.batch * a->d.heads * a->d.seq;
    int64_t row = (int64_t)BLOCK.x * (ATTENTION_THREADS / 32) + THREAD.x / 32;
    if (row >= rows)
        return;
    int64_t t = row % a->d.seq, h = row / a->d.seq % a->d.heads, b = row / a->d.seq / a->d.heads;
    int64_t at = b * a->at_o.sample + h * a->at_o.head + t * a->at_o.row;
    float sum = 0;
    for (int c = (int)(THREAD.x % 32); c < a->d.head_dim; c += 32)
        sum += value_load(type, a->dout, at + c) * value_load(type, a->o, at + c);
    sum = warp_sum(sum);
    if (THREAD.x % 32 == 0)
        a->delta[row] = sum;
}

/* A tile of queries of a head: dq = scale * the sum over keys of ds k. */
DEVICE void backward_queries(const AttentionArguments *a, DType type, int width)
{
    AttentionPlace p = attention_place(a, a->d.heads, width);
    HeadRows q = head_rows(a->q, type, a->pieces, &a->at_q, p.b, p.h, a->d.seq);
    HeadRows k = head_rows(a->k, type, a->pieces, &a->at_k, p.b, p.kv, a->keys);
    HeadRows v = head_rows(a->v, type, a->pieces, &a->at_v, p.b, p.kv, a->keys);
    HeadRows dout = head_rows(a->dout, type, a->pieces, &a->at_o, p.b, p.h, a->d.seq);
    const int32_t *mask = attention_mask(&a->d, p.b);
    float *weights = attention_backward_shared + ATTENTION_CHUNKS, sum[4][8], s[4][4], ds[4][4];
    int size = a->d.head_dim, end = attention_end(a, p.first);
    zero_sum(sum, width);
    for (int key = attention_begin(a, p.first); key < end; key += TILE) {
        if (needs_scores(a))
            tile_product(s, attention_backward_shared, &q, p.first, a->d.scale, &k, key, 1, size);
        cap_scores(&a->d, s);
        tile_product(ds, attention_backward_shared, &dout, p.first, 1, &v, key, 1, size);
        UNROLL
        for (int i = 0; i < 4; i++) {
            int row = p.first + own_row() + i;
            int64_t at = attention_row(&a->d, p.b, p.h, row);
            float stats[2] = {0, 0}, delta = row < a->d.seq ? a->delta[at] : 0.0f;
            if (row < a->d.seq)
                row_stats(a, at, stats);
            UNROLL
            for (int j = 0; j < 4; j++) {
                int column = key + own_column() + j;
                int seen = attention_sees(a, mask, row, column);
                float w = seen ? known_weight(a, type, at, column, s[i][j], stats) : 0.0f;
                ds[i][j] = seen ? w * (ds[i][j] - delta) * cap_slope(&a->d, s[i][j]) : 0.0f;
            }
        }
        put_weights(weights, ds);
        add_rows(sum, attention_backward_shared, weights, &k, key, end, &p, size);
    }
    const float scale[4] = {a->d.scale, a->d.scale, a->d.scale, a->d.scale};
    store_sum(type, a->dq, &a->at_dq, &p, p.h, a->d.seq, size, sum, scale);
}

/* The weights of a tile of keys (own rows) and one of queries (own columns): w, which holds scores, for dv,
 * and ds, which holds dp, for dk. */
DEVICE void backward_weights(const AttentionArguments *a, DType type, const AttentionPlace *p, int h,
                             int query, const int32_t *mask, float w[4][4], float ds[4][4])
{
    UNROLL
    for (int j = 0; j < 4; j++) {
        int row = query + own_column() + j;
        int64_t at = attention_row(&a->d, p->b, h, row);
        float stats[2] = {0, 0}, delta = row < a->d.seq ? a->delta[at] : 0.0f;
        if (row < a->d.seq)
            row_stats(a, at, stats);
        UNROLL
        for (int i = 0; i < 4; i++) {
            int key = p->first + own_row() + i;
            int seen = attention_sees(a, mask, row, key);
            float slope = cap_slope(&a->d, w[i][j]);
            w[i][j] = seen ? known_weight(a, type, at, key, w[i][j], stats) : 0.0f;
            ds[i][j] = seen ? w[i][j] * (ds[i][j] - delta) * slope : 0.0f;
        }
    }
}

/* A tile of keys of a kv head: dv = the sum over queries of p dout, dk = scale * that of ds q. */
DEVICE void backward_keys(const AttentionArguments *a, DType type, int width)
{
    AttentionPlace p = attention_place(a, a->d.kv_heads, width);
    HeadRows k = head_rows(a->k, type, a->pieces, &a->at_k, p.b, p.kv, a->keys);
    HeadRows v = head_rows(a->v, type, a->pieces, &a->at_v, p.b, p.kv, a->keys);
    const int32_t *mask = attention_mask(&a->d, p.b);
    float *weights = attention_backward_shared + ATTENTION_CHUNKS, dk[4][8], dv[4][8], w[4][4], ds[4][4];
    int size = a->d.head_dim, group = a->d.heads / a->d.kv_heads;
    int begin = window_query_begin(&a->d, p.first), end = window_query_end(&a->d, p.first, TILE);
    zero_sum(dk, width);
    zero_sum(dv, width);
    for (int h = p.kv * group; h < (p.kv + 1) * group; h++) {
        HeadRows q = head_rows(a->q, type, a->pieces, &a->at_q, p.b, h, a->d.seq);
        HeadRows dout = head_rows(a->dout, type, a->pieces, &a->at_o, p.b, h, a->d.seq);
        for (int query = begin; query < end; query += TILE) {
            if (needs_scores(a))
                tile_product(w, attention_backward_shared, &k, p.first, 1, &q, query, a->d.scale, size);
            cap_scores(&a->d, w);
            tile_product(ds, attention_backward_shared, &v, p.first, 1, &dout, query, 1, size);
            backward_weights(a, type, &p, h, query, mask, w, ds);
            put_weights(weights, w);
            add_rows(dv, attention_backward_shared, weights, &dout, query, a->d.seq, &p, size);
            block_sync();
            put_weights(weights, ds);
            add_rows(dk, attention_backward_shared, weights, &q, query, a->d.seq, &p, size);
        }
    }
    const float scale[4] = {a->d.scale, a->d.scale, a->d.scale, a->d.scale}, one[4] = {1, 1, 1, 1};
    store_sum(type, a->dk, &a->at_dk, &p, p.kv, a->d.seq, size, dk, scale);
    store_sum(type, a->dv, &a->at_dv, &p, p.kv, a->d.seq, size, dv, one);
}

#define KERNELS "attention_backward_.cu"
#include "typed.h"
