/* Attention over blocks of queries and keys. The products are small sgemm calls on blocks that stay in the
 * second-level cache, with the softmax between them: eager keeps every probability for backward, flash (Dao
 * et al., FlashAttention-2) keeps one log-sum-exp a row and computes them again, so that its memory grows
 * with T, not T^2. Eager may keep nothing: then a block's rows of probabilities are computed twice, in the
 * same way. Here is forward, and what attention_backward.c shares with it. Part of cpu.c. */
#include "kernels/vecmath.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* A block of scores is at most queries x ATTENTION_KEYS. Smaller blocks cost sgemm calls, larger ones leave
 * the cache; within a factor of two it makes no difference. */
enum { ATTENTION_QUERIES = 128, ATTENTION_SCORES = ATTENTION_QUERIES * ATTENTION_KEYS };

/* One sample, one head: its rows. */
typedef struct AttentionHead {
    AttentionRows q, k, v;
    const int32_t *mask; /* (T) or NULL */
    int64_t row;         /* b T: the sample's first row */
    int64_t column;      /* elements before the head within a row of out */
} AttentionHead;

static AttentionHead attention_head(const AttentionDims *d, const void *q, const void *k, const void *v,
                                    int b, int h)
{
    AttentionHead head = {.row = (int64_t)b * d->seq, .column = (int64_t)h * d->head_dim};
    int64_t q_column = (int64_t)h * attention_head_step(d);
    int64_t kv_column = (int64_t)(h / (d->heads / d->kv_heads)) * attention_head_step(d);
    head.q = (AttentionRows){q, d->type, head.row * d->ldq + q_column, d->ldq};
    head.k = (AttentionRows){k, d->type, head.row * d->ldk + kv_column, d->ldk};
    head.v = (AttentionRows){v, d->type, head.row * d->ldv + kv_column, d->ldv};
    head.mask = d->key_mask ? d->key_mask + head.row : NULL;
    return head;
}

static int attention_min(int a, int b)
{
    return a < b ? a : b;
}

/* Multiply-adds of a product below which one thread does everything. */
#define ATTENTION_SERIAL 65536.0

static int attention_threads(const AttentionDims *d, int threads)
{
    double work = (double)d->batch * d->heads * d->seq * d->seq * d->head_dim;
    return threads < 1 || work < ATTENTION_SERIAL ? 1 : threads;
}

/* Queries a block: fewer where a block would compute much above the diagonal or beside the window, or threads
 * would have no work. */
static int attention_block(const AttentionDims *d, int threads)
{
    int span = d->window && d->window < d->seq ? d->window : d->seq;
    int block = (d->causal || d->window) && span <= 512 ? ATTENTION_QUERIES / 2 : ATTENTION_QUERIES;
    int64_t heads = (int64_t)d->batch * d->heads;
    while (block > 16 && heads * (((int64_t)d->seq + block - 1) / block) < 2 * (int64_t)threads)
        block /= 2;
    return block;
}

static int64_t attention_blocks(const AttentionDims *d, int block)
{
    return ((int64_t)d->seq + block - 1) / block;
}

/* The first key that query i sees, masks aside; queries after it see none before that. */
static int attention_key_begin(const AttentionDims *d, int i)
{
    int begin = d->causal ? d->past + i - d->window + 1 : i - d->window / 2;
    return d->window && begin > 0 ? begin : 0;
}

/* Keys before this one are seen by some query in [first, first + count). */
static int attention_key_end(const AttentionDims *d, int first, int count)
{
    if (d->causal)
        return d->past + first + count;
    return d->window ? attention_min(first + count + d->window / 2, d->seq) : d->seq;
}

/* Keys that some query of a whole block sees. */
static double attention_key_count(const AttentionDims *d, int first, int block)
{
    return attention_key_end(d, first, block) - attention_key_begin(d, first);
}

/* Where part i begins when the query blocks of `heads` heads are cut into parts of equal work. Work is
 * counted in keys that are seen: under a causal mask a head's last block sees the most, in a window the first
 * ones the fewest. Parts are ranges, so that a core keeps its heads in cache. */
static int64_t attention_bound(const AttentionDims *d, int block, int64_t heads, int parts, int i)
{
    int64_t blocks = attention_blocks(d, block);
    if (i >= parts)
        return heads * blocks;
    double head = 0;
    for (int64_t j = 0; j < blocks; j++)
        head += attention_key_count(d, (int)j * block, block);
    double wanted = head * (double)heads * i / parts;
    int64_t whole = heads * i / parts; /* heads before the one that is cut */
    double passed = head * (double)whole;
    for (int64_t j = 0; j < blocks; j++) {
        double cost = attention_key_count(d, (int)j * block, block);
        if (passed + cost / 2 > wanted)
            return whole * blocks + j;
        passed += cost;
    }
    return (whole + 1) * blocks;
}

/* How many of the keys [key, key + count) do not come after all that query i sees, masks aside. */
static int attention_visible(const AttentionDims *d, int i, int key, int count)
{
    if (!d->causal && !d->window)
        return count;
    int n = attention_key_end(d, i, 1) - key;
    return n < 0 ? 0 : attention_min(n, count);
}

/* How many of those n come before all that query i sees. */
static int attention_hidden(const AttentionDims *d, int i, int key, int n)
{
    int hidden = attention_key_begin(d, i) - key;
    return hidden < 0 ? 0 : attention_min(hidden, n);
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

/* s = exp(s - shift); returns the sum. A call, because a compiler that copies it sums in an order of its own
 * in each place. */
static __attribute__((noinline)) float attention_row_exp(int n, float shift, float *s)
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

/* Scores become cap tanh(score / cap). */
static void attention_row_cap(int n, float cap, float *s)
{
#pragma omp simd
    for (int j = 0; j < n; j++)
        s[j] = vec_softcap(cap, s[j]);
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

/* What products have made of query i and the keys [key, key + n) becomes the scores that are compared:
 * capped, and -infinity where the query does not see the key. */
static void attention_scores_row(const AttentionDims *d, const AttentionHead *head, int i, int key, int n,
                                 float *s)
{
    int hidden = attention_hidden(d, i, key, n);
    if (d->softcap > 0)
        attention_row_cap(n, d->softcap, s);
    if (head->mask)
        attention_mask_row(n, head->mask + key, s);
    for (int j = 0; j < hidden; j++)
        s[j] = -INFINITY;
}

/* ---- A thread's workspace -------------------------------------------------------------------- */

/* What a thread works in. Tiles are of 16 bit only. */
typedef struct AttentionScratch {
    float *scores;         /* (queries, ATTENTION_KEYS); where eager needs whole rows (queries, T) */
    float *gradients;      /* (queries, ATTENTION_KEYS), backward only */
    float *capped;         /* the same: scores again, where backward has probabilities and needs both */
    float *first, *second; /* (queries): running maximum and sum; backward: log-sum-exp and delta */
    float *q, *out, *dout; /* (queries, D): out is that of forward, and in backward out and then dq */
    AttentionTile k, v;
} AttentionScratch;

/* Floats of each part. */
typedef struct AttentionLayout {
    size_t scores, gradients, capped, rows, keys, all;
} AttentionLayout;

static AttentionKept attention_kept(const void *probs, const float *lse)
{
    return probs ? KEPT_PROBS : lse ? KEPT_LSE : KEPT_NOTHING;
}

/* Floats, so that what follows is aligned. */
static size_t attention_whole(int64_t floats)
{
    return (size_t)(floats + ATTENTION_LANES - 1) / ATTENTION_LANES * ATTENTION_LANES;
}

/* Eager has whole rows of probabilities here unless it has them, as floats, in what is kept. */
static int attention_has_rows(const AttentionDims *d, AttentionKept kept, int backward)
{
    return kept == KEPT_NOTHING || (kept == KEPT_PROBS && d->type != DTYPE_F32 && !backward);
}

static AttentionLayout attention_layout(const AttentionDims *d, AttentionKept kept, int backward, int block)
{
    int64_t queries = attention_min(block, d->seq), keys = attention_min(ATTENTION_KEYS, d->seq);
    AttentionLayout l = {.scores = ATTENTION_SCORES};
    if (d->type != DTYPE_F32)
        l.scores = (size_t)queries * ATTENTION_KEYS;
    l.gradients = backward ? l.scores : 0;
    l.capped = kept != KEPT_LSE && d->softcap > 0 ? l.gradients : 0;
    if (attention_has_rows(d, kept, backward))
        l.scores = attention_whole(queries * d->seq);
    if (d->type != DTYPE_F32) {
        l.rows = attention_whole(queries * d->head_dim);
        l.keys = attention_whole(keys * d->head_dim);
    }
    l.all = l.scores + l.gradients + l.capped + 2 * (size_t)ATTENTION_QUERIES + (backward ? 3 : 2) * l.rows +
            2 * l.keys;
    return l;
}

static AttentionScratch attention_scratch(float *workspace, const AttentionLayout *l, int thread)
{
    AttentionScratch s = {.scores = workspace + l->all * (size_t)thread};
    s.gradients = s.scores + l->scores;
    s.capped = s.gradients + l->gradients;
    s.first = s.capped + l->capped;
    s.second = s.first + ATTENTION_QUERIES;
    s.k.data = s.second + ATTENTION_QUERIES;
    s.v.data = s.k.data + l->keys;
    s.q = s.v.data + l->keys;
    s.out = s.q + l->rows;
    s.dout = s.out + l->rows;
    return s;
}

/* ---- eager forward --------------------------------------------------------------------------- */

/* One row of scores becomes probabilities; all T entries are written. A row of padding keys becomes zeros:
 * shift 0 leaves exp(-inf) = 0, and NaN stays NaN. */
static void attention_softmax_row(const AttentionDims *d, const AttentionHead *head, int i, float *row)
{
    int begin = attention_key_begin(d, i), n = attention_visible(d, i, begin, d->seq - begin);
    float *s = row + begin;
    attention_row_zero(begin, row);
    attention_scores_row(d, head, i, begin, n, s);
    float max = attention_row_max(n, s);
    float sum = attention_row_exp(n, max == -INFINITY ? 0 : max, s);
    attention_row_scale(n, sum == 0 ? 0 : 1 / sum, s);
    attention_row_zero(d->seq - begin - n, s + n);
}

/* Keys that a product of whole rows goes over at a time: what a tile holds, or all. */
static int attention_step(const AttentionDims *d, int keys)
{
    return d->type == DTYPE_F32 ? keys : ATTENTION_KEYS;
}

/* Computes the probabilities of the queries [first, first + rows): probs (rows, T), rounded to what is kept.
 * `kept` is NULL, or has its rows at element `at`. */
static void attention_probabilities(const AttentionDims *d, const AttentionHead *head, AttentionScratch *w,
                                    int first, int rows, float *probs, void *kept, int64_t at)
{
    int begin = attention_key_begin(d, first), end = attention_key_end(d, first, rows), size = d->head_dim;
    int step = attention_step(d, end);
    AttentionFloats q = attention_load(&head->q, first, rows, size, w->q);
    for (int key = begin; key < end; key += step) {
        int keys = attention_min(step, end - key);
        AttentionFloats k = attention_load_tile(&head->k, key, keys, size, &w->k);
        gemm_block(0, 1, rows, keys, size, d->scale, q.at, q.ld, k.at, k.ld, 0, probs + key, d->seq);
    }
    for (int i = 0; i < rows; i++) {
        float *row = probs + (int64_t)i * d->seq;
        attention_softmax_row(d, head, first + i, row);
        attention_round(d->type, d->seq, row, kept, at + (int64_t)i * d->seq);
    }
}

/* probs is NULL, or has the rows of the block at element `at`. */
static void attention_eager_block(const AttentionDims *d, const AttentionHead *head, AttentionScratch *w,
                                  int first, int rows, void *out, void *probs, int64_t at)
{
    int begin = attention_key_begin(d, first), end = attention_key_end(d, first, rows), size = d->head_dim;
    int step = attention_step(d, end);
    int64_t out_at = (head->row + first) * d->ldo + head->column; // (rows, D), ldo
    AttentionSink o = attention_room(d->type, out, out_at, d->ldo, size, w->out);
    float *p = probs && d->type == DTYPE_F32 ? (float *)probs + at : w->scores;
    attention_probabilities(d, head, w, first, rows, p, probs, at);
    for (int key = begin; key < end; key += step) {
        int keys = attention_min(step, end - key);
        AttentionFloats v = attention_load_tile(&head->v, key, keys, size, &w->v);
        gemm_block(0, 0, rows, size, keys, 1, p + key, d->seq, v.at, v.ld, key > begin, o.at, o.ld);
    }
    attention_store(d->type, rows, size, &o, out, out_at, d->ldo);
}

/* ---- flash forward --------------------------------------------------------------------------- */

/* Scores of the keys [key, key + keys) become unnormalised probabilities relative to each row's new maximum.
 * What the row has summed before, unless these keys are the first, is rescaled to that maximum. */
static void attention_online_rows(const AttentionDims *d, const AttentionHead *head,
                                  const AttentionScratch *w, int first, int rows, int key, int keys,
                                  const AttentionSink *out)
{
    int goes_on = key > attention_key_begin(d, first);
    for (int i = 0; i < rows; i++) {
        float *s = w->scores + (int64_t)i * ATTENTION_KEYS;
        int n = attention_visible(d, first + i, key, keys);
        attention_scores_row(d, head, first + i, key, n, s);
        attention_pad_row(n, s);
        int padded = attention_padded(n);
        float before = goes_on ? w->first[i] : -INFINITY;
        float max = attention_row_max(padded, s);
        max = before > max ? before : max;
        float sum = attention_row_exp(padded, max == -INFINITY ? 0 : max, s);
        if (padded < keys)
            attention_row_zero(keys - padded, s + padded);
        if (goes_on && max > before) {
            float factor = expf(before - max);
            sum += w->second[i] * factor;
            attention_row_scale(d->head_dim, factor, out->at + i * out->ld);
        } else if (goes_on) {
            sum += w->second[i];
        }
        w->first[i] = max;
        w->second[i] = sum;
    }
}

static void attention_flash_block(const AttentionDims *d, const AttentionHead *head, AttentionScratch *w,
                                  int first, int rows, void *out, float *lse)
{
    int begin = attention_key_begin(d, first), end = attention_key_end(d, first, rows), size = d->head_dim;
    int64_t out_at = (head->row + first) * d->ldo + head->column; // (rows, D), ldo
    AttentionSink o = attention_room(d->type, out, out_at, d->ldo, size, w->out);
    AttentionFloats q = attention_load(&head->q, first, rows, size, w->q);
    for (int key = begin; key < end; key += ATTENTION_KEYS) {
        int keys = attention_min(ATTENTION_KEYS, end - key);
        AttentionFloats k = attention_load_tile(&head->k, key, keys, size, &w->k);
        gemm_block(0, 1, rows, keys, size, d->scale, q.at, q.ld, k.at, k.ld, 0, w->scores, ATTENTION_KEYS);
        attention_online_rows(d, head, w, first, rows, key, keys, &o);
        AttentionFloats v = attention_load_tile(&head->v, key, keys, size, &w->v);
        gemm_block(0, 0, rows, size, keys, 1, w->scores, ATTENTION_KEYS, v.at, v.ld, key > begin, o.at, o.ld);
    }
    for (int i = 0; i < rows; i++) {
        float sum = w->second[i];
        attention_row_scale(size, sum == 0 ? 0 : 1 / sum, o.at + i * o.ld);
    }
    attention_store(d->type, rows, size, &o, out, out_at, d->ldo);
#pragma omp simd
    for (int i = 0; i < rows; i++)
        lse[i] = w->first[i] + vec_log(w->second[i]); /* log 0 = -infinity: a row without keys */
}

/* ---- forward, of both ------------------------------------------------------------------------ */

/* probs is NULL for flash, lse for eager, both where eager keeps nothing. */
static void attention_forward(const AttentionDims *d, const void *q, const void *k, const void *v, void *out,
                              void *probs, float *lse, float *workspace, int threads)
{
    threads = attention_threads(d, threads);
    int block = attention_block(d, threads);
    int64_t blocks = attention_blocks(d, block), heads = (int64_t)d->batch * d->heads;
    AttentionLayout layout = attention_layout(d, attention_kept(probs, lse), 0, block);
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1 && !omp_in_parallel())
    for (int part = 0; part < threads; part++) {
        int64_t end = attention_bound(d, block, heads, threads, part + 1);
        AttentionScratch w = {0};
        if (workspace)
            w = attention_scratch(workspace, &layout, part);
        for (int64_t i = attention_bound(d, block, heads, threads, part); i < end; i++) {
            int64_t bh = i / blocks;
            AttentionHead head = attention_head(d, q, k, v, (int)(bh / d->heads), (int)(bh % d->heads));
            int first = (int)(i % blocks) * block, rows = attention_min(block, d->seq - first);
            if (lse)
                attention_flash_block(d, &head, &w, first, rows, out, lse + bh * d->seq + first);
            else
                attention_eager_block(d, &head, &w, first, rows, out, probs, (bh * d->seq + first) * d->seq);
        }
    }
}

static void attention_eager_forward(const AttentionDims *d, const void *q, const void *k, const void *v,
                                    void *out, void *probs, float *workspace, const KernelRun *run)
{
    attention_forward(d, q, k, v, out, probs, NULL, workspace, run->threads);
}

static void attention_flash_forward(const AttentionDims *d, const void *q, const void *k, const void *v,
                                    void *out, float *lse, float *workspace, const KernelRun *run)
{
    attention_forward(d, q, k, v, out, NULL, lse, workspace, run->threads);
}
