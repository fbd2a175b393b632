/* Attention of a few new tokens over a cache of earlier keys and values. One token reads every key and value
 * of its sample once, so memory is the limit: the queries that share a kv head go over its rows together, and
 * where there are fewer kv heads than threads the keys are cut as well. More tokens than one go through
 * flash's blocks. Part of cpu.c. */
#include "kernels/kernels.h"
#include "kernels/range.h"
#include "kernels/vecmath.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum { CACHED_KEYS = 128, CACHED_LEAST = 256 }; /* keys at a time; and those that are worth a thread */

/* Of a kv head: keys, and values. */
static const float *cached_rows(const AttentionDims *d, const float *cache, int which, int64_t unit)
{
    return cache + ((int64_t)which * attention_units(d) + unit) * d->capacity * d->head_dim;
}

static void attention_append(const AttentionDims *d, const float *k, const float *v, float *cache,
                             int threads)
{
    int64_t units = attention_units(d);
    size_t bytes = (size_t)d->head_dim * sizeof(float);
    int team = range_threads(2 * units * d->seq * d->head_dim, threads);
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1 && !omp_in_parallel())
    for (int64_t i = 0; i < 2 * units; i++) {
        int64_t unit = i % units, b = unit / d->kv_heads, column = unit % d->kv_heads * d->head_dim;
        int64_t ld = i < units ? d->ldk : d->ldv;
        const float *from = (i < units ? k : v) + b * d->seq * ld + column; // (T, D), ld
        float *to = cache + (i * d->capacity + d->past) * d->head_dim;      // (T, D)
        for (int t = 0; t < d->seq; t++)
            memcpy(to + (int64_t)t * d->head_dim, from + t * ld, bytes);
    }
}

/* ---- One token ------------------------------------------------------------------------------- */

/* Parts that the keys of a head are cut into, at most: `past` grows, and the workspace must not. */
static int cached_splits(const AttentionDims *d, int threads)
{
    int64_t units = attention_units(d);
    return units >= threads ? 1 : (int)((threads + units - 1) / units);
}

/* What a query has so far of the keys seen: the largest score, the sum of exponentials, the weighted values.
 */
typedef struct CachedQuery {
    float max, sum;
    float *out; /* (D) */
} CachedQuery;

/* The sums of four registers' lanes, side by side: one after the other they would take longer than the rest.
 */
VEC_INLINE void cached_totals(FewSums s0, FewSums s1, FewSums s2, FewSums s3, float *totals)
{
    float t[4][FEW_LANES];
    memcpy(t[0], &s0, sizeof s0);
    memcpy(t[1], &s1, sizeof s1);
    memcpy(t[2], &s2, sizeof s2);
    memcpy(t[3], &s3, sizeof s3);
    for (int half = FEW_LANES / 2; half >= 4; half /= 2)
        for (int r = 0; r < 4; r++)
            for (int i = 0; i < half; i++)
                t[r][i] += t[r][half + i];
    for (int r = 0; r < 4; r++)
        totals[r] = (t[r][0] + t[r][1]) + (t[r][2] + t[r][3]);
}

/* scores = scale K q. The values of the same keys are fetched meanwhile. */
VEC_INLINE void cached_scores(int keys, const int size, float scale, const float *q, const float *k,
                              const float *v, float *scores)
{
    int j = 0;
    for (; j + 4 <= keys; j += 4) {
        const float *k0 = k + (int64_t)j * size, *k1 = k0 + size, *k2 = k1 + size, *k3 = k2 + size;
        FewSums s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        int c = 0;
        for (int i = 0; i < 4 * size; i += 16)
            __builtin_prefetch(v + (int64_t)j * size + i, 0, 2);
        for (; c + FEW_LANES <= size; c += FEW_LANES) {
            FewSums x = FEW_LOAD(q + c, 0);
            s0 += x * FEW_LOAD(k0 + c, 0);
            s1 += x * FEW_LOAD(k1 + c, 0);
            s2 += x * FEW_LOAD(k2 + c, 0);
            s3 += x * FEW_LOAD(k3 + c, 0);
        }
        cached_totals(s0, s1, s2, s3, scores + j);
        for (; c < size; c++) {
            scores[j] += q[c] * k0[c];
            scores[j + 1] += q[c] * k1[c];
            scores[j + 2] += q[c] * k2[c];
            scores[j + 3] += q[c] * k3[c];
        }
    }
    for (; j < keys; j++)
        scores[j] = attention_dot(size, q, k + (int64_t)j * size);
    attention_row_scale(keys, scale, scores);
}

/* out += p V */
VEC_INLINE void cached_values(int keys, const int size, const float *p, const float *v, float *restrict out)
{
    int j = 0;
    for (; j + 4 <= keys; j += 4) {
        const float *v0 = v + (int64_t)j * size, *v1 = v0 + size, *v2 = v1 + size, *v3 = v2 + size;
#pragma omp simd
        for (int c = 0; c < size; c++)
            out[c] += p[j] * v0[c] + p[j + 1] * v1[c] + p[j + 2] * v2[c] + p[j + 3] * v3[c];
    }
    for (; j < keys; j++)
#pragma omp simd
        for (int c = 0; c < size; c++)
            out[c] += p[j] * v[(int64_t)j * size + c];
}

VEC_INLINE void cached_block_of(const int size, int keys, float scale, const float *q, const float *k,
                                const float *v, CachedQuery *query)
{
    float scores[CACHED_KEYS];
    cached_scores(keys, size, scale, q, k, v, scores);
    float largest = attention_row_max(keys, scores), max = query->max;
    if (largest > max) {
        float factor = expf(max - largest); /* 0 at first */
        query->sum *= factor;
        attention_row_scale(size, factor, query->out);
        query->max = largest;
    }
    query->sum += attention_row_exp(keys, query->max == -INFINITY ? 0 : query->max, scores);
    cached_values(keys, size, scores, v, query->out);
}

/* Rows are short: of a width that is known, the loops over them have no ends to look after. */
static void cached_block(const AttentionDims *d, int keys, const float *q, const float *k, const float *v,
                         CachedQuery *query)
{
    if (d->head_dim == 64)
        cached_block_of(64, keys, d->scale, q, k, v, query);
    else if (d->head_dim == 128)
        cached_block_of(128, keys, d->scale, q, k, v, query);
    else
        cached_block_of(d->head_dim, keys, d->scale, q, k, v, query);
}

/* Keys [first, end) of one kv head, for some of the queries (group, D) that share it. */
static void cached_unit(const AttentionDims *d, const float *q, const float *cache, int64_t unit, int first,
                        int end, CachedQuery *queries, int group)
{
    const float *k = cached_rows(d, cache, 0, unit), *v = cached_rows(d, cache, 1, unit);
    for (int key = first; key < end; key += CACHED_KEYS) {
        int keys = attention_min(CACHED_KEYS, end - key);
        for (int g = 0; g < group; g++)
            cached_block(d, keys, q + g * d->head_dim, k + (int64_t)key * d->head_dim,
                         v + (int64_t)key * d->head_dim, &queries[g]);
    }
}

enum { CACHED_GROUP = 16 }; /* queries of a kv head at a time */

/* One part of one kv head: results into `out` (group, D), and, for parts to be joined, (max, sum) into
 * `state` (group, 2). */
static void cached_part(const AttentionDims *d, const float *q, const float *cache, int64_t unit, int first,
                        int end, float *out, float *state)
{
    int all = d->heads / d->kv_heads, size = d->head_dim;
    q += unit / d->kv_heads * d->ldq + unit % d->kv_heads * all * size; // (group, D)
    for (int at = 0; at < all; at += CACHED_GROUP) {
        CachedQuery queries[CACHED_GROUP];
        int group = attention_min(CACHED_GROUP, all - at);
        for (int g = 0; g < group; g++) {
            queries[g] = (CachedQuery){.max = -INFINITY, .out = out + (at + g) * size};
            attention_row_zero(size, queries[g].out);
        }
        cached_unit(d, q + at * size, cache, unit, first, end, queries, group);
        for (int g = 0; g < group; g++) {
            if (state) {
                state[2 * (at + g)] = queries[g].max;
                state[2 * (at + g) + 1] = queries[g].sum;
            } else {
                attention_row_scale(size, 1 / queries[g].sum, queries[g].out);
            }
        }
    }
}

/* Joins the parts of one query: their results (splits, stride apart), each relative to its own maximum. */
static void cached_join(const AttentionDims *d, int splits, int64_t stride, const float *parts,
                        const float *states, float *out)
{
    float max = -INFINITY, sum = 0;
    for (int s = 0; s < splits; s++)
        max = states[s * stride] > max ? states[s * stride] : max;
    attention_row_zero(d->head_dim, out);
    for (int s = 0; s < splits; s++) {
        float factor = states[s * stride + 1] == 0 ? 0 : expf(states[s * stride] - max);
        const float *part = parts + s * stride;
        sum += factor * states[s * stride + 1];
#pragma omp simd
        for (int c = 0; c < d->head_dim; c++)
            out[c] += factor * part[c];
    }
    attention_row_scale(d->head_dim, 1 / sum, out);
}

static void cached_token(const AttentionDims *d, const float *q, const float *cache, float *out,
                         float *workspace, int threads)
{
    int group = d->heads / d->kv_heads, keys = d->past + 1, splits = cached_splits(d, threads);
    int64_t units = attention_units(d), rows = (int64_t)group * d->head_dim;
    int64_t stride = rows + 2 * (int64_t)group; /* a part: results, then states */
    int useful = (keys + CACHED_LEAST - 1) / CACHED_LEAST;
    splits = attention_min(splits, useful);
    double work = (double)d->batch * d->heads * keys * d->head_dim;
    int team = threads < 1 || work < ATTENTION_SERIAL ? 1 : threads;
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1 && !omp_in_parallel())
    for (int64_t i = 0; i < units * splits; i++) {
        int64_t unit = i / splits, s = i % splits;
        int first = (int)range_begin(keys, s, splits), end = (int)range_begin(keys, s + 1, splits);
        float *part = splits > 1 ? workspace + i * stride
                                 : out + unit / d->kv_heads * d->ldo + unit % d->kv_heads * rows;
        cached_part(d, q, cache, unit, first, end, part, splits > 1 ? part + rows : NULL);
    }
    for (int64_t unit = 0; splits > 1 && unit < units; unit++)
        for (int g = 0; g < group; g++) {
            const float *first = workspace + unit * splits * stride;
            cached_join(d, splits, stride, first + g * d->head_dim, first + rows + 2 * g,
                        out + unit / d->kv_heads * d->ldo + unit % d->kv_heads * rows + g * d->head_dim);
        }
}

/* ---- More than one --------------------------------------------------------------------------- */

static AttentionHead cached_head(const AttentionDims *d, const float *q, const float *cache, int b, int h)
{
    int64_t unit = (int64_t)b * d->kv_heads + h / (d->heads / d->kv_heads);
    AttentionHead head = {.row = (int64_t)b * d->seq, .column = (int64_t)h * d->head_dim};
    head.q = q + head.row * d->ldq + head.column;
    head.k = cached_rows(d, cache, 0, unit);
    head.v = cached_rows(d, cache, 1, unit);
    return head;
}

static void cached_tokens(const AttentionDims *d, const float *q, const float *cache, float *out,
                          float *workspace, int threads)
{
    double work = (double)d->batch * d->heads * d->seq * (d->past + d->seq) * d->head_dim;
    threads = threads < 1 || work < ATTENTION_SERIAL ? 1 : threads;
    int block = attention_block(d, threads);
    int64_t blocks = attention_blocks(d, block), heads = (int64_t)d->batch * d->heads;
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1 && !omp_in_parallel())
    for (int part = 0; part < threads; part++) {
        int64_t end = attention_bound(d, block, heads, threads, part + 1);
        for (int64_t i = attention_bound(d, block, heads, threads, part); i < end; i++) {
            int first = (int)(i % blocks) * block;
            AttentionHead head =
                cached_head(d, q, cache, (int)(i / blocks / d->heads), (int)(i / blocks % d->heads));
            AttentionScratch w = attention_scratch(workspace, ATTENTION_TILE, 0, part);
            attention_flash_block(d, &head, &w, first, attention_min(block, d->seq - first), out, w.first);
        }
    }
}

static void attention_cached(const AttentionDims *given, const float *q, const float *cache, float *out,
                             float *workspace, int threads)
{
    AttentionDims d = *given;
    d.ldk = d.ldv = d.head_dim; /* of the cache */
    d.causal = 1;
    d.key_mask = NULL;
    if (d.seq == 1)
        cached_token(&d, q, cache, out, workspace, threads);
    else
        cached_tokens(&d, q, cache, out, workspace, threads);
}

static size_t attention_cached_workspace(const AttentionDims *d, int threads)
{
    threads = threads < 1 ? 1 : threads;
    if (d->seq > 1)
        return attention_scratch_floats(ATTENTION_TILE, 0) * (size_t)threads * sizeof(float);
    int splits = cached_splits(d, threads);
    size_t part = (size_t)(d->heads / d->kv_heads) * (size_t)(d->head_dim + 2);
    return splits > 1 ? (size_t)attention_units(d) * (size_t)splits * part * sizeof(float) : 0;
}
