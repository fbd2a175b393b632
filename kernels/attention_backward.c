/* Backward of attention, eager and flash: blocks as in attention.c, from what forward kept. Part of cpu.c. */
#include "kernels/kernels.h"
#include "kernels/vecmath.h"

#include <math.h>
#include <omp.h>

/* A unit is one sample's kv head with all query heads that share it, so that their sums into dk and dv meet
 * in one thread. Where that leaves threads idle, a unit's query blocks are split, and all splits but the
 * first sum into partial arrays, added in order at the end. fp32 sums where the gradients are; of 16 bit the
 * first split has a partial array as well, and where that is the only one, units that a thread does one after
 * the other share it. */
typedef struct AttentionBackward {
    const AttentionDims *d;
    const void *q, *k, *v, *out, *dout;
    const float *lse;  /* flash */
    const void *probs; /* eager, NULL where nothing was kept */
    void *dq, *dk, *dv;
    float *partial; /* (attention_sums, 2, T, D) */
    int block, splits, threads;
} AttentionBackward;

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

/* Pairs of partial arrays. */
static int64_t attention_sums(const AttentionDims *d, int splits, int threads)
{
    int64_t units = attention_units(d);
    if (d->type == DTYPE_F32)
        return units * (splits - 1);
    return splits > 1 || units < threads ? units * splits : threads;
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

/* By how much a capped score changes with the score: 1 - tanh^2. Hidden ones are -infinity. */
VEC_INLINE float attention_cap_slope(float cap, float capped)
{
    float tanh = capped / cap;
    tanh = tanh < -1 ? -1 : tanh;
    return 1 - tanh * tanh;
}

/* attention_score_gradient_exp where p holds capped scores, and ds is to be of scores before that. */
static void attention_score_gradient_capped(int n, float cap, float lse, float delta, float *restrict p,
                                            float *restrict ds)
{
#pragma omp simd
    for (int j = 0; j < n; j++) {
        float slope = attention_cap_slope(cap, p[j]);
        p[j] = vec_exp(p[j] - lse);
        ds[j] = p[j] * (ds[j] - delta) * slope;
    }
}

/* ds of capped scores becomes that of scores, which are given and become capped. */
static void attention_cap_gradient(int n, float cap, float *restrict s, float *restrict ds)
{
    attention_row_cap(n, cap, s);
#pragma omp simd
    for (int j = 0; j < n; j++)
        ds[j] *= attention_cap_slope(cap, s[j]);
}

/* ---- A block of queries ---------------------------------------------------------------------- */

/* A block, and where its rows are. */
typedef struct AttentionBlock {
    AttentionHead head;
    int first, rows;
    int64_t probs; /* element of (B,H,T,T) with which its probabilities begin */
    AttentionFloats q, dout;
    AttentionSink dq;
} AttentionBlock;

/* Scores or probabilities of some keys, and dp, become probabilities and ds. p (rows, ldp) are probabilities;
 * NULL where the scratch holds scores. */
static void attention_gradient_rows(const AttentionDims *d, const AttentionBlock *block,
                                    const AttentionScratch *w, const AttentionFloats *p, int key, int keys)
{
    for (int i = 0; i < block->rows; i++) {
        float *ds = w->gradients + (int64_t)i * ATTENTION_KEYS, *s = w->scores + (int64_t)i * ATTENTION_KEYS;
        int n = attention_visible(d, block->first + i, key, keys), padded = attention_padded(n);
        if (p->at) {
            attention_score_gradient(n, w->second[i], p->at + i * p->ld, ds);
            if (d->softcap > 0)
                attention_cap_gradient(n, d->softcap, w->capped + (int64_t)i * ATTENTION_KEYS, ds);
        } else {
            attention_scores_row(d, &block->head, block->first + i, key, n, s);
            attention_pad_row(n, s);
            if (d->softcap > 0)
                attention_score_gradient_capped(padded, d->softcap, w->first[i], w->second[i], s, ds);
            else
                attention_score_gradient_exp(padded, w->first[i], w->second[i], s, ds);
            if (padded < keys)
                attention_row_zero(keys - padded, s + padded);
        }
        attention_row_zero(attention_hidden(d, block->first + i, key, n), ds);
        attention_row_zero(keys - n, ds + n);
    }
}

/* The probabilities of some keys where eager has them: kept (of 16 bit decoded into the scratch), or all in
 * the scratch. Flash has none. */
static AttentionFloats attention_known(const AttentionBackward *a, const AttentionBlock *block,
                                       const AttentionScratch *w, int key, int keys)
{
    const AttentionDims *d = a->d;
    int64_t at = block->probs + key;
    if (a->lse)
        return (AttentionFloats){NULL, 0};
    if (!a->probs)
        return (AttentionFloats){w->scores + key, d->seq};
    if (d->type == DTYPE_F32)
        return (AttentionFloats){(const float *)a->probs + at, d->seq};
    for (int i = 0; i < block->rows; i++)
        values_load(d->type, a->probs, at + (int64_t)i * d->seq, keys,
                    w->scores + (int64_t)i * ATTENTION_KEYS);
    return (AttentionFloats){w->scores, ATTENTION_KEYS};
}

/* What the keys [key, key + keys) add to dq, dk and dv; `begin`: the first that the block sees. */
static void attention_backward_keys(const AttentionBackward *a, const AttentionBlock *block,
                                    AttentionScratch *w, int begin, int key, int keys, AttentionSink dk,
                                    AttentionSink dv)
{
    const AttentionDims *d = a->d;
    int size = d->head_dim, rows = block->rows;
    AttentionFloats q = block->q, dout = block->dout, p = attention_known(a, block, w, key, keys);
    AttentionFloats k = attention_load_tile(&block->head.k, key, keys, size, &w->k);
    AttentionFloats v = attention_load_tile(&block->head.v, key, keys, size, &w->v);
    if (!p.at || d->softcap > 0)
        gemm_block(0, 1, rows, keys, size, d->scale, q.at, q.ld, k.at, k.ld, 0, p.at ? w->capped : w->scores,
                   ATTENTION_KEYS);
    gemm_block(0, 1, rows, keys, size, 1, dout.at, dout.ld, v.at, v.ld, 0, w->gradients, ATTENTION_KEYS);
    attention_gradient_rows(d, block, w, &p, key, keys);
    if (!p.at)
        p = (AttentionFloats){w->scores, ATTENTION_KEYS};
    gemm_block(1, 0, keys, size, rows, 1, p.at, p.ld, dout.at, dout.ld, 1, dv.at + key * dv.ld, dv.ld);
    gemm_block(0, 0, rows, size, keys, d->scale, w->gradients, ATTENTION_KEYS, k.at, k.ld, key > begin,
               block->dq.at, block->dq.ld);
    gemm_block(1, 0, keys, size, rows, d->scale, w->gradients, ATTENTION_KEYS, q.at, q.ld, 1,
               dk.at + key * dk.ld, dk.ld);
}

/* Query block [first, first + rows) of head h: its dq, and its part of dk and dv. */
static void attention_backward_block(const AttentionBackward *a, AttentionScratch *w, int b, int h, int first,
                                     int rows, AttentionSink dk, AttentionSink dv)
{
    const AttentionDims *d = a->d;
    int size = d->head_dim, begin = attention_key_begin(d, first), end = attention_key_end(d, first, rows);
    AttentionBlock block = {.head = attention_head(d, a->q, a->k, a->v, b, h), .first = first, .rows = rows};
    const AttentionHead *head = &block.head;
    int64_t bht = ((int64_t)b * d->heads + h) * d->seq + first;
    AttentionRows out_rows = {a->out, d->type, head->row * d->ldo + head->column, d->ldo};
    AttentionRows dout_rows = {a->dout, d->type, out_rows.at, d->ldo};
    AttentionFloats out = attention_load(&out_rows, first, rows, size, w->out);
    int64_t dq_at = (head->row + first) * d->lddq + (int64_t)h * attention_head_step(d);
    block.probs = bht * d->seq;
    block.dout = attention_load(&dout_rows, first, rows, size, w->dout);
    for (int i = 0; i < rows; i++) {
        w->second[i] = attention_dot(size, out.at + i * out.ld, block.dout.at + i * block.dout.ld);
        /* A row without keys: exp(s - inf) = 0. */
        w->first[i] = !a->lse ? 0 : a->lse[bht + i] == -INFINITY ? INFINITY : a->lse[bht + i];
    }
    block.dq = attention_room(d->type, a->dq, dq_at, d->lddq, size, w->out); /* out has been read */
    if (!a->probs && !a->lse)
        attention_probabilities(d, head, w, first, rows, w->scores, NULL, 0);
    block.q = attention_load(&head->q, first, rows, size, w->q);
    for (int key = begin; key < end; key += ATTENTION_KEYS)
        attention_backward_keys(a, &block, w, begin, key, attention_min(ATTENTION_KEYS, end - key), dk, dv);
    attention_store(d->type, rows, size, &block.dq, a->dq, dq_at, d->lddq);
}

/* ---- dk and dv of a unit --------------------------------------------------------------------- */

/* Element of dk (which = 0) or dv (1) with which a unit's rows begin. */
static int64_t attention_unit_at(const AttentionDims *d, int64_t unit, int64_t ld)
{
    return unit / d->kv_heads * d->seq * ld + unit % d->kv_heads * attention_head_step(d);
}

/* Where split s of a unit sums dk (which = 0) or dv (1). */
static AttentionSink attention_sink(const AttentionBackward *a, int64_t unit, int s, int which)
{
    const AttentionDims *d = a->d;
    int64_t ld = which ? d->lddv : d->lddk, array;
    if (d->type == DTYPE_F32 && s == 0)
        return (AttentionSink){(float *)(which ? a->dv : a->dk) + attention_unit_at(d, unit, ld), ld};
    if (d->type == DTYPE_F32)
        array = unit * (a->splits - 1) + s - 1;
    else if (a->splits > 1 || attention_units(d) < a->threads)
        array = unit * a->splits + s;
    else
        array = omp_get_thread_num();
    return (AttentionSink){a->partial + (array * 2 + which) * d->seq * d->head_dim, d->head_dim};
}

/* Rounds rows [t, t + rows) of a unit's dk or dv, whose sums are whole. */
static void attention_store_unit(const AttentionBackward *a, int64_t unit, int which, int64_t t, int64_t rows,
                                 AttentionSink from)
{
    const AttentionDims *d = a->d;
    int64_t ld = which ? d->lddv : d->lddk;
    attention_store(d->type, rows, d->head_dim, &from, which ? a->dv : a->dk,
                    attention_unit_at(d, unit, ld) + t * ld, ld);
}

static void attention_backward_unit(const AttentionBackward *a, AttentionScratch *w, int64_t unit, int s)
{
    const AttentionDims *d = a->d;
    int64_t blocks = attention_blocks(d, a->block);
    int group = d->heads / d->kv_heads, kv_head = (int)(unit % d->kv_heads);
    AttentionSink dk = attention_sink(a, unit, s, 0), dv = attention_sink(a, unit, s, 1);
    for (int64_t t = 0; t < d->seq; t++) {
        attention_row_zero(d->head_dim, dk.at + t * dk.ld);
        attention_row_zero(d->head_dim, dv.at + t * dv.ld);
    }
    int64_t end = attention_bound(d, a->block, group, a->splits, s + 1);
    for (int64_t i = attention_bound(d, a->block, group, a->splits, s); i < end; i++) {
        int first = (int)(i % blocks) * a->block, h = kv_head * group + (int)(i / blocks);
        attention_backward_block(a, w, (int)(unit / d->kv_heads), h, first,
                                 attention_min(a->block, d->seq - first), dk, dv);
    }
    if (a->splits == 1) {
        attention_store_unit(a, unit, 0, 0, d->seq, dk);
        attention_store_unit(a, unit, 1, 0, d->seq, dv);
    }
}

/* Row t of a unit's dk and dv: the splits' partial sums, in order. */
static void attention_add_partial_row(const AttentionBackward *a, int64_t unit, int64_t t)
{
    for (int which = 0; which < 2; which++) {
        AttentionSink sink = attention_sink(a, unit, 0, which);
        sink.at += t * sink.ld;
        for (int s = 1; s < a->splits; s++) {
            const float *part = attention_sink(a, unit, s, which).at + t * a->d->head_dim;
#pragma omp simd
            for (int i = 0; i < a->d->head_dim; i++)
                sink.at[i] += part[i];
        }
        attention_store_unit(a, unit, which, t, 1, sink);
    }
}

static void attention_backward(AttentionBackward *a, float *workspace, int threads)
{
    const AttentionDims *d = a->d;
    a->threads = threads = attention_threads(d, threads);
    a->block = attention_block(d, threads);
    a->splits = attention_splits(d, a->block, threads);
    AttentionLayout layout = attention_layout(d, attention_kept(a->probs, a->lse), 1, a->block);
    a->partial = workspace + layout.all * (size_t)threads;
    int64_t units = attention_units(d);
#pragma omp parallel num_threads(threads) if (threads > 1 && !omp_in_parallel())
    {
        AttentionScratch w = attention_scratch(workspace, &layout, omp_get_thread_num());
#pragma omp for schedule(static)
        for (int64_t u = 0; u < units * a->splits; u++)
            attention_backward_unit(a, &w, u / a->splits, (int)(u % a->splits));
#pragma omp for schedule(static)
        for (int64_t r = 0; r < (a->splits > 1 ? units * d->seq : 0); r++)
            attention_add_partial_row(a, r / d->seq, r % d->seq);
    }
}

static void attention_eager_backward(const AttentionDims *d, const void *q, const void *k, const void *v,
                                     const void *out, const void *probs, const void *dout, void *dq, void *dk,
                                     void *dv, float *workspace, const KernelRun *run)
{
    AttentionBackward a = {.d = d, .q = q, .k = k, .v = v, .out = out, .dout = dout, .probs = probs};
    a.dq = dq;
    a.dk = dk;
    a.dv = dv;
    attention_backward(&a, workspace, run->threads);
}

static void attention_flash_backward(const AttentionDims *d, const void *q, const void *k, const void *v,
                                     const void *out, const float *lse, const void *dout, void *dq, void *dk,
                                     void *dv, float *workspace, const KernelRun *run)
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
    int threads = attention_threads(d, run->threads), block = attention_block(d, threads);
    size_t floats = attention_layout(d, kept, backward, block).all * (size_t)threads;
    if (kept == KEPT_PROBS && !backward && d->type == DTYPE_F32)
        return 0;
    if (backward)
        floats += (size_t)attention_sums(d, attention_splits(d, block, threads), threads) * 2 *
                  (size_t)d->seq * (size_t)d->head_dim;
    return floats * sizeof(float);
}
