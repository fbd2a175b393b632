/* Attention over blocks of queries and keys. The products are small sgemm calls on blocks that stay in the
 * second-level cache, with the softmax between them: eager keeps every probability for backward, flash (Dao
 * et al., FlashAttention-2) keeps one log-sum-exp a row and computes them again, so that its memory grows
 * with T, not T^2. Eager may keep nothing: then a block's rows of probabilities are computed twice, in the
 * same way. Part of cpu.c. */
#include "kernels/decode.h"
#include "kernels/vecmath.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* A block of scores is at most queries x keys. Smaller blocks cost sgemm calls, larger ones leave the cache;
 * within a factor of two it makes no difference. */
enum { ATTENTION_QUERIES = 128, ATTENTION_KEYS = 256, ATTENTION_TILE = ATTENTION_QUERIES * ATTENTION_KEYS };

/* One sample, one head: where its rows start. */
typedef struct AttentionHead {
    const float *q, *k, *v;
    const int32_t *mask; /* (T) or NULL */
    int64_t qkv_head;    /* elements before the kv head within a row */
    int64_t row;         /* b T: the sample's first row */
    int64_t column;      /* elements before the head within a row */
    /* Of a cache in 16 bit, instead of k and v: where its rows begin, and room for some as floats. */
    const Decoder *cache;
    int64_t keys_at, values_at;
    float *tile;
} AttentionHead;

/* Rows of keys, or of values, from row `key` on. */
static const float *attention_rows(const AttentionHead *head, int values, int key, int count, int64_t ld)
{
    if (!head->tile)
        return (values ? head->v : head->k) + key * ld;
    decoder_range(head->cache, (values ? head->values_at : head->keys_at) + key * ld, count * ld, head->tile);
    return head->tile;
}

static AttentionHead attention_head(const AttentionDims *d, const float *q, const float *k, const float *v,
                                    int b, int h)
{
    AttentionHead head = {.row = (int64_t)b * d->seq, .column = (int64_t)h * d->head_dim};
    head.qkv_head = (int64_t)(h / (d->heads / d->kv_heads)) * d->head_dim;
    head.q = q + head.row * d->ldq + head.column;
    head.k = k + head.row * d->ldk + head.qkv_head;
    head.v = v + head.row * d->ldv + head.qkv_head;
    head.mask = d->key_mask ? d->key_mask + head.row : NULL;
    return head;
}

/* Multiply-adds of a product below which one thread does everything. */
#define ATTENTION_SERIAL 65536.0

static int attention_threads(const AttentionDims *d, int threads)
{
    double work = (double)d->batch * d->heads * d->seq * d->seq * d->head_dim;
    return threads < 1 || work < ATTENTION_SERIAL ? 1 : threads;
}

/* Queries a block: fewer where a causal block would compute much above the diagonal, or threads would have no
 * work. */
static int attention_block(const AttentionDims *d, int threads)
{
    int block = d->causal && d->seq <= 512 ? ATTENTION_QUERIES / 2 : ATTENTION_QUERIES;
    int64_t heads = (int64_t)d->batch * d->heads;
    while (block > 16 && heads * (((int64_t)d->seq + block - 1) / block) < 2 * (int64_t)threads)
        block /= 2;
    return block;
}

static int64_t attention_blocks(const AttentionDims *d, int block)
{
    return ((int64_t)d->seq + block - 1) / block;
}

static int attention_min(int a, int b)
{
    return a < b ? a : b;
}

/* Keys before this one are seen by some query in [first, first + count). */
static int attention_key_end(const AttentionDims *d, int first, int count)
{
    return d->causal ? d->past + first + count : d->seq;
}

/* Where part i begins when the query blocks of `heads` heads are cut into parts of equal work. Work is
 * counted in keys that are seen: under a causal mask a head's last block sees the most. Parts are ranges, so
 * that a core keeps its heads in cache. */
static int64_t attention_bound(const AttentionDims *d, int block, int64_t heads, int parts, int i)
{
    int64_t blocks = attention_blocks(d, block);
    if (i >= parts)
        return heads * blocks;
    double head = 0;
    for (int64_t j = 0; j < blocks; j++)
        head += attention_key_end(d, (int)j * block, block);
    double wanted = head * (double)heads * i / parts;
    int64_t whole = heads * i / parts; /* heads before the one that is cut */
    double passed = head * (double)whole;
    for (int64_t j = 0; j < blocks; j++) {
        double cost = attention_key_end(d, (int)j * block, block);
        if (passed + cost / 2 > wanted)
            return whole * blocks + j;
        passed += cost;
    }
    return (whole + 1) * blocks;
}

/* How many of the keys [key, key + count) query i sees, masks aside. */
static int attention_visible(const AttentionDims *d, int i, int key, int count)
{
    if (!d->causal)
        return count;
    int n = d->past + i + 1 - key;
    return n < 0 ? 0 : attention_min(n, count);
}

/* Padding keys score -infinity. */
static void attention_mask_row(int n, const int32_t *mask, float *s)
{
#pragma omp simd
    for (int j = 0; j < n; j++)
        s[j] = mask[j] ? s[j] : -INFINITY;
}

/* Rows of scores end at a multiple of this where they are ours to pad: loops over them need no remainder. */
enum { ATTENTION_LANES = 16 };

static int attention_padded(int n)
{
    return (n + ATTENTION_LANES - 1) / ATTENTION_LANES * ATTENTION_LANES;
}

/* In lanes, because not every compiler vectorises a maximum that must not reorder NaN. NaN is left out:
 * attention_row_exp brings it into the sum. */
static float attention_row_max(int n, const float *s)
{
    float lane[ATTENTION_LANES];
    for (int l = 0; l < ATTENTION_LANES; l++)
        lane[l] = -INFINITY;
    int whole = n / ATTENTION_LANES * ATTENTION_LANES;
    for (int j = 0; j < whole; j += ATTENTION_LANES)
#pragma omp simd
        for (int l = 0; l < ATTENTION_LANES; l++)
            lane[l] = s[j + l] > lane[l] ? s[j + l] : lane[l];
    for (int l = 0; whole + l < n; l++)
        lane[l] = s[whole + l] > lane[l] ? s[whole + l] : lane[l];
    for (int half = ATTENTION_LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++)
            lane[l] = lane[l + half] > lane[l] ? lane[l + half] : lane[l];
    return lane[0];
}

/* s = exp(s - shift); returns the sum. */
static inline float attention_row_exp(int n, float shift, float *s)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < n; j++) {
        s[j] = vec_exp(s[j] - shift);
        sum += s[j];
    }
    return sum;
}

/* Scores from n to the padded end become -infinity, whose exponential is 0. */
static void attention_pad_row(int n, float *s)
{
    for (int j = n; j < attention_padded(n); j++)
        s[j] = -INFINITY;
}

static void attention_row_scale(int n, float factor, float *x)
{
#pragma omp simd
    for (int j = 0; j < n; j++)
        x[j] *= factor;
}

static void attention_row_zero(int64_t n, float *x)
{
    memset(x, 0, (size_t)n * sizeof(float));
}

/* ---- eager forward --------------------------------------------------------------------------- */

/* One row of scores becomes probabilities; all T entries are written. A row of padding keys becomes zeros:
 * shift 0 leaves exp(-inf) = 0, and NaN stays NaN. */
static void attention_softmax_row(const AttentionDims *d, const AttentionHead *head, int i, float *s)
{
    int n = attention_visible(d, i, 0, d->seq);
    if (head->mask)
        attention_mask_row(n, head->mask, s);
    float max = attention_row_max(n, s);
    float sum = attention_row_exp(n, max == -INFINITY ? 0 : max, s);
    attention_row_scale(n, sum == 0 ? 0 : 1 / sum, s);
    attention_row_zero(d->seq - n, s + n);
}

/* Computes the probabilities of the queries [first, first + rows): probs (rows, T). */
static void attention_probabilities(const AttentionDims *d, const AttentionHead *head, int first, int rows,
                                    float *probs)
{
    gemm_block(0, 1, rows, attention_key_end(d, first, rows), d->head_dim, d->scale, head->q + first * d->ldq,
               d->ldq, head->k, d->ldk, 0, probs, d->seq);
    for (int i = 0; i < rows; i++)
        attention_softmax_row(d, head, first + i, probs + (int64_t)i * d->seq);
}

static void attention_eager_block(const AttentionDims *d, const AttentionHead *head, int first, int rows,
                                  float *out, float *probs)
{
    int keys = attention_key_end(d, first, rows), size = d->head_dim;
    out += (head->row + first) * d->ldo + head->column; // (rows, D), ldo
    attention_probabilities(d, head, first, rows, probs);
    gemm_block(0, 0, rows, size, keys, 1, probs, d->seq, head->v, d->ldv, 0, out, d->ldo);
}

/* ---- A thread's workspace -------------------------------------------------------------------- */

typedef struct AttentionScratch {
    float *scores;         /* (queries, ATTENTION_KEYS); where nothing is kept (queries, T), probabilities */
    float *gradients;      /* (queries, ATTENTION_KEYS), backward only */
    float *first, *second; /* (queries): running maximum and sum; backward: log-sum-exp and delta */
} AttentionScratch;

static AttentionKept attention_kept(const float *probs, const float *lse)
{
    return probs ? KEPT_PROBS : lse ? KEPT_LSE : KEPT_NOTHING;
}

/* Floats of `scores`, so that what follows is aligned. */
static size_t attention_score_floats(const AttentionDims *d, AttentionKept kept, int block)
{
    if (kept != KEPT_NOTHING)
        return ATTENTION_TILE;
    size_t floats = (size_t)attention_min(block, d->seq) * (size_t)d->seq;
    return (floats + ATTENTION_LANES - 1) / ATTENTION_LANES * ATTENTION_LANES;
}

static size_t attention_scratch_floats(size_t scores, int backward)
{
    return scores + (backward ? (size_t)ATTENTION_TILE : 0) + 2 * (size_t)ATTENTION_QUERIES;
}

static AttentionScratch attention_scratch(float *workspace, size_t scores, int backward, int thread)
{
    float *start = workspace + attention_scratch_floats(scores, backward) * (size_t)thread;
    AttentionScratch s = {.scores = start, .first = start + scores + (backward ? ATTENTION_TILE : 0)};
    s.gradients = backward ? start + scores : NULL;
    s.second = s.first + ATTENTION_QUERIES;
    return s;
}

/* ---- flash forward --------------------------------------------------------------------------- */

/* Scores of the keys [key, key + keys) become unnormalised probabilities relative to each row's new maximum.
 * What the row has summed before is rescaled to that maximum. */
static void attention_online_rows(const AttentionDims *d, const AttentionHead *head,
                                  const AttentionScratch *w, int first, int rows, int key, int keys,
                                  float *out)
{
    for (int i = 0; i < rows; i++) {
        float *s = w->scores + (int64_t)i * ATTENTION_KEYS;
        int n = attention_visible(d, first + i, key, keys);
        if (head->mask)
            attention_mask_row(n, head->mask + key, s);
        attention_pad_row(n, s);
        int padded = attention_padded(n);
        float before = key ? w->first[i] : -INFINITY;
        float max = attention_row_max(padded, s);
        max = before > max ? before : max;
        float sum = attention_row_exp(padded, max == -INFINITY ? 0 : max, s);
        if (padded < keys)
            attention_row_zero(keys - padded, s + padded);
        if (key && max > before) {
            float factor = expf(before - max);
            sum += w->second[i] * factor;
            attention_row_scale(d->head_dim, factor, out + i * d->ldo);
        } else if (key) {
            sum += w->second[i];
        }
        w->first[i] = max;
        w->second[i] = sum;
    }
}

static void attention_flash_block(const AttentionDims *d, const AttentionHead *head,
                                  const AttentionScratch *w, int first, int rows, float *out, float *lse)
{
    int end = attention_key_end(d, first, rows), size = d->head_dim;
    out += (head->row + first) * d->ldo + head->column; // (rows, D), ldo
    for (int key = 0; key < end; key += ATTENTION_KEYS) {
        int keys = attention_min(ATTENTION_KEYS, end - key);
        gemm_block(0, 1, rows, keys, size, d->scale, head->q + first * d->ldq, d->ldq,
                   attention_rows(head, 0, key, keys, d->ldk), d->ldk, 0, w->scores, ATTENTION_KEYS);
        attention_online_rows(d, head, w, first, rows, key, keys, out);
        gemm_block(0, 0, rows, size, keys, 1, w->scores, ATTENTION_KEYS,
                   attention_rows(head, 1, key, keys, d->ldv), d->ldv, key ? 1 : 0, out, d->ldo);
    }
    for (int i = 0; i < rows; i++) {
        float sum = w->second[i];
        attention_row_scale(size, sum == 0 ? 0 : 1 / sum, out + i * d->ldo);
    }
#pragma omp simd
    for (int i = 0; i < rows; i++)
        lse[i] = w->first[i] + vec_log(w->second[i]); /* log 0 = -infinity: a row without keys */
}

/* ---- forward, of both ------------------------------------------------------------------------ */

/* probs is NULL for flash, lse for eager, both where eager keeps nothing. */
static void attention_forward(const AttentionDims *d, const float *q, const float *k, const float *v,
                              float *out, float *probs, float *lse, float *workspace, int threads)
{
    threads = attention_threads(d, threads);
    int block = attention_block(d, threads);
    int64_t blocks = attention_blocks(d, block), heads = (int64_t)d->batch * d->heads;
    size_t scores = attention_score_floats(d, attention_kept(probs, lse), block);
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1 && !omp_in_parallel())
    for (int part = 0; part < threads; part++) {
        int64_t end = attention_bound(d, block, heads, threads, part + 1);
        for (int64_t i = attention_bound(d, block, heads, threads, part); i < end; i++) {
            int64_t bh = i / blocks;
            AttentionHead head = attention_head(d, q, k, v, (int)(bh / d->heads), (int)(bh % d->heads));
            int first = (int)(i % blocks) * block, rows = attention_min(block, d->seq - first);
            if (probs) {
                attention_eager_block(d, &head, first, rows, out, probs + (bh * d->seq + first) * d->seq);
                continue;
            }
            AttentionScratch w = attention_scratch(workspace, scores, 0, part);
            if (lse)
                attention_flash_block(d, &head, &w, first, rows, out, lse + bh * d->seq + first);
            else
                attention_eager_block(d, &head, first, rows, out, w.scores);
        }
    }
}

static void attention_eager_forward(const AttentionDims *d, const float *q, const float *k, const float *v,
                                    float *out, float *probs, float *workspace, const KernelRun *run)
{
    attention_forward(d, q, k, v, out, probs, NULL, workspace, run->threads);
}

static void attention_flash_forward(const AttentionDims *d, const float *q, const float *k, const float *v,
                                    float *out, float *lse, float *workspace, const KernelRun *run)
{
    attention_forward(d, q, k, v, out, NULL, lse, workspace, run->threads);
}

/* ---- backward, of both ----------------------------------------------------------------------- */

/* A unit is one sample's kv head with all query heads that share it, so that their sums into dk and dv meet
 * in one thread. Where that leaves threads idle, a unit's query blocks are split, and all splits but the
 * first sum into partial arrays, added in order at the end. */
typedef struct AttentionBackward {
    const AttentionDims *d;
    const float *q, *k, *v, *out, *dout;
    const float *lse;   /* flash */
    const float *probs; /* eager, NULL where nothing was kept */
    float *dq, *dk, *dv;
    float *partial; /* (units, splits - 1, 2, T, D) */
    int block, splits;
} AttentionBackward;

/* dk or dv of one unit. */
typedef struct AttentionSink {
    float *data;
    int64_t ld;
} AttentionSink;

static int64_t attention_units(const AttentionDims *d)
{
    return (int64_t)d->batch * d->kv_heads;
}

/* Fewest splits that keep 9 of 10 threads busy, or as many as there are blocks. */
static int attention_splits(const AttentionDims *d, int block, int threads)
{
    int64_t units = attention_units(d), work = d->heads / d->kv_heads * attention_blocks(d, block);
    int splits = 1;
    for (; splits < work && splits < 2 * threads; splits++) {
        int64_t rounds = (units * splits + threads - 1) / threads;
        if (10 * units * splits >= 9 * rounds * threads)
            break;
    }
    return splits;
}

static float attention_dot(int n, const float *a, const float *b)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* ds = p (dp - delta), where ds holds dp. */
static void attention_score_gradient(int n, float delta, const float *restrict p, float *restrict ds)
{
#pragma omp simd
    for (int j = 0; j < n; j++)
        ds[j] = p[j] * (ds[j] - delta);
}

/* The same where p still holds scores; it becomes probabilities. */
static void attention_score_gradient_exp(int n, float lse, float delta, float *restrict p, float *restrict ds)
{
#pragma omp simd
    for (int j = 0; j < n; j++) {
        p[j] = vec_exp(p[j] - lse);
        ds[j] = p[j] * (ds[j] - delta);
    }
}

/* Scores (flash: probs NULL) or probabilities (eager, untouched) and dp of a block become probabilities and
 * ds. */
static void attention_gradient_rows(const AttentionBackward *a, const AttentionHead *head,
                                    const AttentionScratch *w, const float *probs, int first, int rows,
                                    int key, int keys)
{
    for (int i = 0; i < rows; i++) {
        float *ds = w->gradients + (int64_t)i * ATTENTION_KEYS, *s = w->scores + (int64_t)i * ATTENTION_KEYS;
        int n = attention_visible(a->d, first + i, key, keys);
        if (probs) {
            attention_score_gradient(n, w->second[i], probs + (int64_t)i * a->d->seq + key, ds);
        } else {
            if (head->mask)
                attention_mask_row(n, head->mask + key, s);
            attention_pad_row(n, s);
            attention_score_gradient_exp(attention_padded(n), w->first[i], w->second[i], s, ds);
            if (attention_padded(n) < keys)
                attention_row_zero(keys - attention_padded(n), s + attention_padded(n));
        }
        attention_row_zero(keys - n, ds + n);
    }
}

/* Query block [first, first + rows) of head h: its dq, and its part of dk and dv. */
static void attention_backward_block(const AttentionBackward *a, const AttentionScratch *w, int b, int h,
                                     int first, int rows, AttentionSink dk, AttentionSink dv)
{
    const AttentionDims *d = a->d;
    int size = d->head_dim, end = attention_key_end(d, first, rows);
    AttentionHead head = attention_head(d, a->q, a->k, a->v, b, h);
    int64_t row = head.row + first, bht = ((int64_t)b * d->heads + h) * d->seq + first;
    const float *q = head.q + first * d->ldq;
    const float *probs = a->probs ? a->probs + bht * d->seq : a->lse ? NULL : w->scores;
    const float *out = a->out + row * d->ldo + head.column, *dout = a->dout + row * d->ldo + head.column;
    float *dq = a->dq + row * d->lddq + head.column;
    for (int i = 0; i < rows; i++) {
        w->second[i] = attention_dot(size, out + i * d->ldo, dout + i * d->ldo);
        /* A row without keys: exp(s - inf) = 0. */
        w->first[i] = !a->lse ? 0 : a->lse[bht + i] == -INFINITY ? INFINITY : a->lse[bht + i];
    }
    if (!a->probs && !a->lse)
        attention_probabilities(d, &head, first, rows, w->scores);
    for (int key = 0; key < end; key += ATTENTION_KEYS) {
        int keys = attention_min(ATTENTION_KEYS, end - key);
        const float *k = head.k + key * d->ldk, *v = head.v + key * d->ldv;
        const float *p = probs ? probs + key : w->scores;
        int64_t ldp = probs ? d->seq : ATTENTION_KEYS;
        if (!probs)
            gemm_block(0, 1, rows, keys, size, d->scale, q, d->ldq, k, d->ldk, 0, w->scores, ATTENTION_KEYS);
        gemm_block(0, 1, rows, keys, size, 1, dout, d->ldo, v, d->ldv, 0, w->gradients, ATTENTION_KEYS);
        attention_gradient_rows(a, &head, w, probs, first, rows, key, keys);
        gemm_block(1, 0, keys, size, rows, 1, p, ldp, dout, d->ldo, 1, dv.data + key * dv.ld, dv.ld);
        gemm_block(0, 0, rows, size, keys, d->scale, w->gradients, ATTENTION_KEYS, k, d->ldk, key ? 1 : 0, dq,
                   d->lddq);
        gemm_block(1, 0, keys, size, rows, d->scale, w->gradients, ATTENTION_KEYS, q, d->ldq, 1,
                   dk.data + key * dk.ld, dk.ld);
    }
}

/* Where split s of a unit sums dk (which = 0) or dv (1). */
static AttentionSink attention_sink(const AttentionBackward *a, int64_t unit, int s, int which)
{
    const AttentionDims *d = a->d;
    if (s > 0) {
        int64_t array = (unit * (a->splits - 1) + s - 1) * 2 + which;
        return (AttentionSink){a->partial + array * d->seq * d->head_dim, d->head_dim};
    }
    int64_t ld = which ? d->lddv : d->lddk;
    int64_t offset = unit / d->kv_heads * d->seq * ld + unit % d->kv_heads * d->head_dim;
    return (AttentionSink){(which ? a->dv : a->dk) + offset, ld};
}

static void attention_backward_unit(const AttentionBackward *a, const AttentionScratch *w, int64_t unit,
                                    int s)
{
    const AttentionDims *d = a->d;
    int64_t blocks = attention_blocks(d, a->block);
    int group = d->heads / d->kv_heads, kv_head = (int)(unit % d->kv_heads);
    AttentionSink dk = attention_sink(a, unit, s, 0), dv = attention_sink(a, unit, s, 1);
    for (int64_t t = 0; t < d->seq; t++) {
        attention_row_zero(d->head_dim, dk.data + t * dk.ld);
        attention_row_zero(d->head_dim, dv.data + t * dv.ld);
    }
    int64_t end = attention_bound(d, a->block, group, a->splits, s + 1);
    for (int64_t i = attention_bound(d, a->block, group, a->splits, s); i < end; i++) {
        int first = (int)(i % blocks) * a->block, h = kv_head * group + (int)(i / blocks);
        attention_backward_block(a, w, (int)(unit / d->kv_heads), h, first,
                                 attention_min(a->block, d->seq - first), dk, dv);
    }
}

/* Row t of a unit's dk and dv: the splits' partial sums, in order. */
static void attention_add_partial_row(const AttentionBackward *a, int64_t unit, int64_t t)
{
    for (int which = 0; which < 2; which++) {
        AttentionSink sink = attention_sink(a, unit, 0, which);
        float *sum = sink.data + t * sink.ld;
        for (int s = 1; s < a->splits; s++) {
            const float *part = attention_sink(a, unit, s, which).data + t * a->d->head_dim;
#pragma omp simd
            for (int i = 0; i < a->d->head_dim; i++)
                sum[i] += part[i];
        }
    }
}

static void attention_backward(AttentionBackward *a, float *workspace, int threads)
{
    const AttentionDims *d = a->d;
    threads = attention_threads(d, threads);
    a->block = attention_block(d, threads);
    a->splits = attention_splits(d, a->block, threads);
    size_t scores = attention_score_floats(d, attention_kept(a->probs, a->lse), a->block);
    a->partial = workspace + attention_scratch_floats(scores, 1) * (size_t)threads;
    int64_t units = attention_units(d);
#pragma omp parallel num_threads(threads) if (threads > 1 && !omp_in_parallel())
    {
        AttentionScratch w = attention_scratch(workspace, scores, 1, omp_get_thread_num());
#pragma omp for schedule(static)
        for (int64_t u = 0; u < units * a->splits; u++)
            attention_backward_unit(a, &w, u / a->splits, (int)(u % a->splits));
#pragma omp for schedule(static)
        for (int64_t r = 0; r < (a->splits > 1 ? units * d->seq : 0); r++)
            attention_add_partial_row(a, r / d->seq, r % d->seq);
    }
}

static void attention_eager_backward(const AttentionDims *d, const float *q, const float *k, const float *v,
                                     const float *out, const float *probs, const float *dout, float *dq,
                                     float *dk, float *dv, float *workspace, const KernelRun *run)
{
    AttentionBackward a = {.d = d, .q = q, .k = k, .v = v, .out = out, .dout = dout, .probs = probs};
    a.dq = dq;
    a.dk = dk;
    a.dv = dv;
    attention_backward(&a, workspace, run->threads);
}

static void attention_flash_backward(const AttentionDims *d, const float *q, const float *k, const float *v,
                                     const float *out, const float *lse, const float *dout, float *dq,
                                     float *dk, float *dv, float *workspace, const KernelRun *run)
{
    AttentionBackward a = {.d = d, .q = q, .k = k, .v = v, .out = out, .dout = dout, .lse = lse};
    a.dq = dq;
    a.dk = dk;
    a.dv = dv;
    attention_backward(&a, workspace, run->threads);
}

static size_t attention_workspace(const AttentionDims *d, AttentionKept kept, int backward,
                                  const KernelRun *run)
{
    int threads = attention_threads(d, run->threads);
    int block = attention_block(d, threads);
    size_t scores = attention_score_floats(d, kept, block);
    size_t floats = attention_scratch_floats(scores, backward) * (size_t)threads;
    if (backward) {
        int splits = attention_splits(d, block, threads);
        floats +=
            (size_t)attention_units(d) * (size_t)(splits - 1) * 2 * (size_t)d->seq * (size_t)d->head_dim;
    }
    return kept != KEPT_PROBS || backward ? floats * sizeof(float) : 0;
}
