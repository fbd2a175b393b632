/* Attention of a few new tokens over a cache of earlier keys and values. One token reads every key and value
 * of its sample once, so memory is the limit: the queries that share a kv head go over its rows together, and
 * where there are fewer kv heads than threads the keys are cut as well. More tokens than one go through
 * flash's blocks. Part of cpu.c. */
#include "kernels/decode.h"
#include "kernels/range.h"
#include "kernels/vecmath.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* CACHED_KEYS: keys at a time. Their values are fetched into the first-level cache while their scores are
 * computed; it holds some CACHED_FLOATS of both. CACHED_LEAST: keys that are worth a thread. */
enum { CACHED_KEYS = 64, CACHED_FLOATS = 4096, CACHED_LEAST = 256 };

/* The element with which the rows of a kv head begin: keys (which = 0) or values (1). */
static int64_t cached_at(const AttentionDims *d, int which, int64_t unit)
{
    return ((int64_t)which * attention_units(d) + unit) * d->capacity * d->head_dim;
}

static Decoder cached_decoder(const AttentionDims *d, const void *cache)
{
    return decoder(&(StoredArray){cache, d->cached, 1, cached_at(d, 2, 0)});
}

/* n elements of k or v, from element `at` on, into the cache from element `to` on. */
static void cached_put(const AttentionDims *d, const void *from, int64_t at, int64_t n, void *cache,
                       int64_t to)
{
    enum { ROOM = 1024 };
    float room[ROOM];
    if (d->cached == d->type) {
        memcpy(values_at(d->cached, cache, to), values_at(d->type, from, at),
               (size_t)(n * values_size(d->type)));
        return;
    }
    for (int64_t i = 0; i < n; i += ROOM) {
        int64_t count = n - i < ROOM ? n - i : ROOM;
        const float *x = values_load(d->type, from, at + i, count, room);
        if (d->cached == DTYPE_F32)
            memcpy((float *)cache + to + i, x, (size_t)count * sizeof *x);
        else
            values_store(d->cached, count, x, cache, to + i);
    }
}

static void attention_append(const AttentionDims *d, const void *k, const void *v, void *cache,
                             const KernelRun *run)
{
    int64_t units = attention_units(d), size = d->head_dim;
    int team = range_threads(2 * units * d->seq * size, run->threads);
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1 && !omp_in_parallel())
    for (int64_t i = 0; i < 2 * units; i++) {
        int64_t ld = i < units ? d->ldk : d->ldv;
        int64_t at = attention_unit_at(d, i % units, ld); // (T, D), ld
        for (int t = d->seq > d->capacity ? d->seq - d->capacity : 0; t < d->seq; t++)
            cached_put(d, i < units ? k : v, at + t * ld, size, cache,
                       (i * d->capacity + ((int64_t)d->past + t) % d->capacity) * size);
    }
}

static void attention_unroll(const AttentionDims *d, const void *k, const void *v, const void *cache,
                             void *rows, const KernelRun *run)
{
    int64_t units = attention_units(d), size = d->head_dim, bytes = size * values_size(d->cached);
    int old = attention_min(d->past, d->window - 1), room = d->window - 1 + d->seq;
    int team = range_threads(2 * units * room * size, run->threads);
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1 && !omp_in_parallel())
    for (int64_t i = 0; i < 2 * units; i++) {
        int64_t ld = i < units ? d->ldk : d->ldv;
        int64_t at = attention_unit_at(d, i % units, ld), to = i * room * size;
        for (int t = 0; t < old; t++) {
            int64_t row = i * d->capacity + ((int64_t)d->past - old + t) % d->capacity;
            memcpy(values_at(d->cached, rows, to + t * size), values_at(d->cached, cache, row * size),
                   (size_t)bytes);
        }
        for (int t = 0; t < d->seq; t++)
            cached_put(d, i < units ? k : v, at + t * ld, size, rows, to + (old + t) * size);
    }
}

/* ---- One token ------------------------------------------------------------------------------- */

/* The most parts that the keys of a head are cut into. `past` grows, and the workspace must not grow with it.
 */
static int cached_splits(const AttentionDims *d, int threads)
{
    int64_t units = attention_units(d);
    return units >= threads ? 1 : (int)((threads + units - 1) / units);
}

enum { CACHED_GROUP = 16 }; /* queries of a kv head at a time */

/* Queries whose sums are in registers together: four by four sums take half of AVX-512's. */
#if defined(__AVX512F__)
enum { CACHED_TILE = 4 };
#else
enum { CACHED_TILE = 2 };
#endif

/* What the queries of a kv head have so far of the keys seen: of each the largest score, the sum of
 * exponentials, the weighted values. */
typedef struct CachedQueries {
    int count;
    const float *q; /* (count, D) */
    float *out;     /* (count, D) */
    float max[CACHED_GROUP], sum[CACHED_GROUP];
    float scores[CACHED_GROUP][CACHED_KEYS];
} CachedQueries;

/* Rows to be read soon, while the processor works on others. */
VEC_INLINE void cached_fetch(int64_t floats, const float *from)
{
#pragma GCC unroll 4
    for (int64_t i = 0; i < floats; i += 16)
        __builtin_prefetch(from + i, 0, 3);
}

/* Scores of four keys and of some queries: each key is loaded once for all. */
VEC_INLINE void cached_dots(const int queries, const int size, const float *q, const float *k,
                            float scores[][CACHED_KEYS])
{
    const float *k0 = k, *k1 = k0 + size, *k2 = k1 + size, *k3 = k2 + size;
    FewSums s[CACHED_TILE][4];
    int c = 0;
#pragma GCC unroll 4
    for (int g = 0; g < queries; g++)
        s[g][0] = s[g][1] = s[g][2] = s[g][3] = (FewSums){0};
    for (; c + FEW_LANES <= size; c += FEW_LANES)
#pragma GCC unroll 4
        for (int g = 0; g < queries; g++) {
            FewSums x = FEW_LOAD(q + g * size + c, 0);
            s[g][0] += x * FEW_LOAD(k0 + c, 0);
            s[g][1] += x * FEW_LOAD(k1 + c, 0);
            s[g][2] += x * FEW_LOAD(k2 + c, 0);
            s[g][3] += x * FEW_LOAD(k3 + c, 0);
        }
#pragma GCC unroll 4
    for (int g = 0; g < queries; g++) {
        few_totals(s[g][0], s[g][1], s[g][2], s[g][3], scores[g]);
        for (int i = c; i < size; i++) {
            scores[g][0] += q[g * size + i] * k0[i];
            scores[g][1] += q[g * size + i] * k1[i];
            scores[g][2] += q[g * size + i] * k2[i];
            scores[g][3] += q[g * size + i] * k3[i];
        }
    }
}

/* scores = K q of every query. Their values are fetched meanwhile. */
VEC_INLINE void cached_scores_of(const int size, CachedQueries *all, int keys, const float *k, const float *v)
{
    int j = 0;
    for (; j + 4 <= keys; j += 4, k += 4 * (int64_t)size, v += 4 * (int64_t)size) {
        int g = 0;
        cached_fetch(4 * (int64_t)size, v);
        for (; CACHED_TILE == 4 && g + 4 <= all->count; g += 4)
            cached_dots(4, size, all->q + g * size, k, (float(*)[CACHED_KEYS])(all->scores[g] + j));
        for (; g + 2 <= all->count; g += 2)
            cached_dots(2, size, all->q + g * size, k, (float(*)[CACHED_KEYS])(all->scores[g] + j));
        if (g < all->count)
            cached_dots(1, size, all->q + g * size, k, (float(*)[CACHED_KEYS])(all->scores[g] + j));
    }
    for (; j < keys; j++, k += size)
        for (int g = 0; g < all->count; g++)
            all->scores[g][j] = attention_dot(size, all->q + g * size, k);
}

/* Rows are short. Where their width is a constant, the loops over them need no remainder. */
static VEC_FUSED void cached_scores(CachedQueries *all, int keys, int size, const float *k, const float *v)
{
    VEC_FUSE
    if (size == 64)
        cached_scores_of(64, all, keys, k, v);
    else if (size == 128)
        cached_scores_of(128, all, keys, k, v);
    else
        cached_scores_of(size, all, keys, k, v);
}

/* out (queries, columns) += p (queries, keys) V (keys, columns), of some registers of columns, whose sums
 * stay there. */
VEC_INLINE void cached_columns(const int queries, const int registers, const int size, int keys,
                               float p[][CACHED_KEYS], const float *v, const float *next, float *out)
{
    FewSums s[CACHED_TILE][4];
#pragma GCC unroll 4
    for (int g = 0; g < queries; g++)
#pragma GCC unroll 4
        for (int r = 0; r < registers; r++)
            s[g][r] = FEW_LOAD(out + g * size, r);
    for (int j = 0; j < keys; j++, v += size) {
        if (next)
            cached_fetch(size, next + j * (int64_t)size);
#pragma GCC unroll 4
        for (int r = 0; r < registers; r++)
#pragma GCC unroll 4
            for (int g = 0; g < queries; g++)
                s[g][r] += p[g][j] * FEW_LOAD(v, r);
    }
#pragma GCC unroll 4
    for (int g = 0; g < queries; g++)
        memcpy(out + g * size, s[g], (size_t)registers * sizeof s[g][0]);
}

/* The same of all columns. */
VEC_INLINE void cached_rows_of(const int queries, const int size, int keys, float p[][CACHED_KEYS],
                               const float *v, const float *next, float *out)
{
    int c = 0;
    for (; c + 4 * FEW_LANES <= size; c += 4 * FEW_LANES)
        cached_columns(queries, 4, size, keys, p, v + c, c ? NULL : next, out + c);
    for (; c + 2 * FEW_LANES <= size; c += 2 * FEW_LANES)
        cached_columns(queries, 2, size, keys, p, v + c, c ? NULL : next, out + c);
    for (; c + FEW_LANES <= size; c += FEW_LANES)
        cached_columns(queries, 1, size, keys, p, v + c, c ? NULL : next, out + c);
    for (int j = 0; c < size && j < keys; j++)
        for (int g = 0; g < queries; g++)
            for (int i = c; i < size; i++)
                out[g * size + i] += p[g][j] * v[j * (int64_t)size + i];
}

/* out += p V of every query. `next`: the keys that are next. */
VEC_INLINE void cached_values_of(const int size, CachedQueries *all, int keys, const float *v,
                                 const float *next)
{
    int g = 0;
    for (; CACHED_TILE == 4 && g + 4 <= all->count; g += 4)
        cached_rows_of(4, size, keys, all->scores + g, v, g ? NULL : next, all->out + g * size);
    for (; g + 2 <= all->count; g += 2)
        cached_rows_of(2, size, keys, all->scores + g, v, g ? NULL : next, all->out + g * size);
    if (g < all->count)
        cached_rows_of(1, size, keys, all->scores + g, v, g ? NULL : next, all->out + g * size);
}

static VEC_FUSED void cached_values(CachedQueries *all, int keys, int size, const float *v, const float *next)
{
    VEC_FUSE
    if (size == 64)
        cached_values_of(64, all, keys, v, next);
    else if (size == 128)
        cached_values_of(128, all, keys, v, next);
    else
        cached_values_of(size, all, keys, v, next);
}

/* Scores become weights relative to the largest score so far. Earlier sums are rescaled to it. */
static void cached_softmax(CachedQueries *all, int keys, const AttentionDims *d)
{
    int size = d->head_dim;
    for (int g = 0; g < all->count; g++) {
        float *scores = all->scores[g], max = all->max[g];
        attention_row_scale(keys, d->scale, scores);
        if (d->softcap > 0)
            attention_row_cap(keys, d->softcap, scores);
        float largest = attention_row_max(keys, scores);
        if (largest > max) {
            float factor = expf(max - largest); /* 0 at first */
            all->sum[g] *= factor;
            attention_row_scale(size, factor, all->out + g * size);
            all->max[g] = max = largest;
        }
        all->sum[g] += attention_row_exp(keys, max == -INFINITY ? 0 : max, scores);
    }
}

/* Keys at a time. */
static int cached_block(const AttentionDims *d)
{
    int block = attention_min(CACHED_KEYS, CACHED_FLOATS / d->head_dim / 4 * 4);
    return block < 4 ? 4 : block;
}

/* Keys [first, end) of one kv head in 16 bit: a block as floats at a time, its keys and then its values. */
static void cached_unit_decoded(const AttentionDims *d, const void *cache, int64_t unit, int first, int end,
                                CachedQueries *all, float *tile)
{
    int size = d->head_dim, block = cached_block(d);
    Decoder from = cached_decoder(d, cache);
    float *values = tile + (int64_t)block * size;
    for (int key = first, keys; key < end; key += keys) {
        keys = attention_min(block, end - key);
        decoder_range(&from, cached_at(d, 0, unit) + (int64_t)key * size, (int64_t)keys * size, tile);
        decoder_range(&from, cached_at(d, 1, unit) + (int64_t)key * size, (int64_t)keys * size, values);
        cached_scores(all, keys, size, tile, values);
        cached_softmax(all, keys, d);
        cached_values(all, keys, size, values, NULL);
    }
}

/* Keys [first, end) of one kv head. */
static void cached_unit(const AttentionDims *d, const float *cache, int64_t unit, int first, int end,
                        CachedQueries *all)
{
    int size = d->head_dim, block = cached_block(d);
    const float *k = cache + cached_at(d, 0, unit), *v = cache + cached_at(d, 1, unit);
    for (int key = first, keys; key < end; key += keys) {
        keys = attention_min(block, end - key);
        const float *values = v + (int64_t)key * size, *next = k + (int64_t)(key + keys) * size;
        cached_scores(all, keys, size, k + (int64_t)key * size, values);
        cached_softmax(all, keys, d);
        cached_values(all, keys, size, values, key + keys < end ? next : NULL);
    }
}

/* What a thread works in. */
typedef struct CachedScratch {
    float *tile; /* keys and values of a cache in 16 bit, else NULL */
    float *q;    /* (CACHED_GROUP, D) of queries in 16 bit */
    float *out;  /* (group, D) of results in 16 bit that nothing is joined with */
} CachedScratch;

/* One part of one kv head: results into `out` (group, D), and, for parts to be joined, (max, sum) into
 * `state` (group, 2). */
static void cached_part(const AttentionDims *d, const void *q, const void *cache, int64_t unit, int first,
                        int end, float *out, float *state, const CachedScratch *w)
{
    int group = d->heads / d->kv_heads, size = d->head_dim;
    int64_t queries =
        unit / d->kv_heads * d->ldq + unit % d->kv_heads * group * attention_head_step(d); // (group, D)
    for (int at = 0; at < group; at += CACHED_GROUP) {
        CachedQueries all; /* its scores are not cleared */
        all.count = attention_min(CACHED_GROUP, group - at);
        all.q = values_load(d->type, q, queries + at * size, (int64_t)all.count * size, w->q);
        all.out = out + at * size;
        attention_row_zero((int64_t)all.count * size, all.out);
        for (int g = 0; g < all.count; g++)
            all.max[g] = -INFINITY, all.sum[g] = 0;
        if (w->tile)
            cached_unit_decoded(d, cache, unit, first, end, &all, w->tile);
        else
            cached_unit(d, cache, unit, first, end, &all);
        for (int g = 0; g < all.count; g++) {
            if (state) {
                state[2 * (at + g)] = all.max[g];
                state[2 * (at + g) + 1] = all.sum[g];
            } else {
                attention_row_scale(size, 1 / all.sum[g], all.out + g * size);
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

/* Floats of workspace of one token: what is joined; and what a thread decodes a cache in 16 bit into, and
 * queries, and sums results. */
static size_t cached_parts_floats(const AttentionDims *d, int threads)
{
    int splits = cached_splits(d, threads);
    size_t part = (size_t)(d->heads / d->kv_heads) * (size_t)(d->head_dim + 2);
    return splits > 1 ? (size_t)attention_units(d) * (size_t)splits * part : 0;
}

static size_t cached_tile_floats(const AttentionDims *d)
{
    return d->cached == DTYPE_F32 ? 0 : 2 * (size_t)cached_block(d) * (size_t)d->head_dim;
}

static size_t cached_query_floats(const AttentionDims *d)
{
    int group = d->heads / d->kv_heads;
    return d->type == DTYPE_F32 ? 0 : (size_t)attention_min(CACHED_GROUP, group) * (size_t)d->head_dim;
}

static size_t cached_out_floats(const AttentionDims *d)
{
    return d->type == DTYPE_F32 ? 0 : (size_t)(d->heads / d->kv_heads) * (size_t)d->head_dim;
}

static size_t cached_thread_floats(const AttentionDims *d)
{
    return cached_tile_floats(d) + cached_query_floats(d) + cached_out_floats(d);
}

static CachedScratch cached_scratch(const AttentionDims *d, float *workspace, int threads, int thread)
{
    size_t tile = cached_tile_floats(d), all = cached_thread_floats(d);
    if (!all)
        return (CachedScratch){0};
    float *own = workspace + cached_parts_floats(d, threads) + all * (size_t)thread;
    return (CachedScratch){
        .tile = tile ? own : NULL, .q = own + tile, .out = own + tile + cached_query_floats(d)};
}

/* Joins what the parts of each unit made. */
static void cached_join_all(const AttentionDims *d, int splits, int64_t stride, float *workspace, void *out,
                            const CachedScratch *w)
{
    int group = d->heads / d->kv_heads, size = d->head_dim;
    for (int64_t unit = 0; splits > 1 && unit < attention_units(d); unit++)
        for (int g = 0; g < group; g++) {
            const float *first = workspace + unit * splits * stride;
            int64_t at = unit / d->kv_heads * d->ldo + (unit % d->kv_heads * group + g) * size;
            float *sum = values_room(d->type, out, at, w->out);
            cached_join(d, splits, stride, first + g * size, first + (int64_t)group * size + 2 * g, sum);
            values_store(d->type, size, sum, out, at);
        }
}

static void cached_token(const AttentionDims *d, const void *q, const void *cache, void *out,
                         float *workspace, int threads)
{
    int group = d->heads / d->kv_heads, splits = cached_splits(d, threads);
    int keys = d->past < d->capacity ? d->past + 1 : d->capacity;
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
        CachedScratch w = cached_scratch(d, workspace, threads, omp_get_thread_num());
        int64_t at = unit / d->kv_heads * d->ldo + unit % d->kv_heads * rows;
        float *part = splits > 1 ? workspace + i * stride : values_room(d->type, out, at, w.out);
        cached_part(d, q, cache, unit, first, end, part, splits > 1 ? part + rows : NULL, &w);
        if (splits == 1)
            values_store(d->type, rows, part, out, at);
    }
    CachedScratch w = cached_scratch(d, workspace, threads, 0);
    cached_join_all(d, splits, stride, workspace, out, &w);
}

/* ---- More than one --------------------------------------------------------------------------- */

/* Whatever `past` is. */
static AttentionLayout cached_layout(const AttentionDims *d)
{
    AttentionLayout l = {.scores = ATTENTION_SCORES};
    if (d->type != DTYPE_F32)
        l.rows = attention_whole((int64_t)attention_min(ATTENTION_QUERIES, d->seq) * d->head_dim);
    if (d->cached != DTYPE_F32)
        l.keys = (size_t)ATTENTION_KEYS * (size_t)d->head_dim;
    l.all = l.scores + 2 * (size_t)ATTENTION_QUERIES + 2 * l.rows + 2 * l.keys;
    return l;
}

static AttentionHead cached_head(const AttentionDims *d, const void *q, const void *cache, int b, int h)
{
    int64_t unit = (int64_t)b * d->kv_heads + h / (d->heads / d->kv_heads);
    AttentionHead head = {.row = (int64_t)b * d->seq, .column = (int64_t)h * d->head_dim};
    head.q = (AttentionRows){q, d->type, head.row * d->ldq + (int64_t)h * attention_head_step(d), d->ldq};
    head.k = (AttentionRows){cache, d->cached, cached_at(d, 0, unit), d->head_dim};
    head.v = (AttentionRows){cache, d->cached, cached_at(d, 1, unit), d->head_dim};
    return head;
}

static void cached_tokens(const AttentionDims *d, const void *q, const void *cache, void *out,
                          float *workspace, int threads)
{
    AttentionLayout layout = cached_layout(d);
    double work = (double)d->batch * d->heads * d->seq * (d->past + d->seq) * d->head_dim;
    threads = threads < 1 || work < ATTENTION_SERIAL ? 1 : threads;
    int block = attention_block(d, threads);
    int64_t blocks = attention_blocks(d, block), heads = (int64_t)d->batch * d->heads;
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1 && !omp_in_parallel())
    for (int part = 0; part < threads; part++) {
        int64_t end = attention_bound(d, block, heads, threads, part + 1);
        AttentionScratch w = attention_scratch(workspace, &layout, part);
        for (int64_t i = attention_bound(d, block, heads, threads, part); i < end; i++) {
            int first = (int)(i % blocks) * block;
            AttentionHead head =
                cached_head(d, q, cache, (int)(i / blocks / d->heads), (int)(i / blocks % d->heads));
            attention_flash_block(d, &head, &w, first, attention_min(block, d->seq - first), out, w.first);
        }
    }
}

static void attention_cached(const AttentionDims *given, const void *q, const void *cache, void *out,
                             float *workspace, const KernelRun *run)
{
    AttentionDims d = *given;
    d.ldk = d.ldv = d.head_dim; /* of the cache */
    d.causal = 1;
    d.key_mask = NULL;
    if (d.seq == 1)
        cached_token(&d, q, cache, out, workspace, run->threads);
    else
        cached_tokens(&d, q, cache, out, workspace, run->threads);
}

static size_t attention_cached_workspace(const AttentionDims *d, const KernelRun *run)
{
    int threads = run->threads < 1 ? 1 : run->threads;
    size_t one = cached_parts_floats(d, threads) + cached_thread_floats(d) * (size_t)threads;
    return (d->seq > 1 ? cached_layout(d).all * (size_t)threads : one) * sizeof(float);
}
