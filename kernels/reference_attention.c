/* Attention, with and without a cache, as its definition reads, summed in double. How many threads run is
 * ignored, and so are workspaces but where gradients of 16 bit are summed. */
#include "kernels/reference_.h"
#include "kernels/values.h"

#include <math.h>

/* Where (b,t) row's part of a head begins, in rows of ld whose heads are `step` apart; kv heads are shared by
 * heads / kv_heads heads each. */
static int64_t reference_apart(const AttentionDims *d, int64_t ld, int step, int b, int t, int head)
{
    return ((int64_t)b * d->seq + t) * ld + (int64_t)head * step;
}

/* The same in q, k or v, and in out. */
static int64_t reference_at(const AttentionDims *d, int64_t ld, int b, int t, int head)
{
    return reference_apart(d, ld, attention_head_step(d), b, t, head);
}

static int64_t reference_out(const AttentionDims *d, int b, int t, int head)
{
    return reference_apart(d, d->ldo, d->head_dim, b, t, head);
}

static int reference_kv_head(const AttentionDims *d, int h)
{
    return h / (d->heads / d->kv_heads);
}

/* Whether the window of query i, a token's number, has key j. */
static int reference_near(const AttentionDims *d, int i, int j)
{
    if (d->causal)
        return j <= i && (!d->window || j > i - d->window);
    return !d->window || (j - i <= d->window / 2 && i - j <= d->window / 2);
}

static int reference_sees(const AttentionDims *d, int b, int i, int j)
{
    return reference_near(d, i, j) && (!d->key_mask || d->key_mask[(int64_t)b * d->seq + j]);
}

static double reference_capped(const AttentionDims *d, double score)
{
    return d->softcap > 0 ? (double)d->softcap * tanh(score / (double)d->softcap) : score;
}

/* By how much a capped score changes with the score. */
static double reference_cap_slope(const AttentionDims *d, double capped)
{
    double t = d->softcap > 0 ? capped / (double)d->softcap : 0;
    return 1 - t * t;
}

static double reference_got(DType type, const void *x, int64_t i)
{
    return (double)values_get(type, x, i);
}

/* A probability as it is kept. */
static double reference_kept(DType type, double value)
{
    float kept;
    values_set(type, &kept, 0, (float)value);
    return reference_got(type, &kept, 0);
}

/* The dot product of two rows of D numbers, which begin at elements i and j. */
static double reference_dot(const AttentionDims *d, const void *a, int64_t i, const void *b, int64_t j)
{
    double sum = 0;
    for (int c = 0; c < d->head_dim; c++)
        sum += reference_got(d->type, a, i + c) * reference_got(d->type, b, j + c);
    return sum;
}

/* The capped score of query i and key j, of sample b and head h. */
static double reference_score(const AttentionDims *d, const void *q, const void *k, int b, int h, int i,
                              int j)
{
    double dot = reference_dot(d, q, reference_at(d, d->ldq, b, i, h), k,
                               reference_at(d, d->ldk, b, j, reference_kv_head(d, h)));
    return reference_capped(d, (double)d->scale * dot);
}

/* Log-sum-exp of the scores that query i sees. */
static double reference_row_lse(const AttentionDims *d, const void *q, const void *k, int b, int h, int i)
{
    double max = -INFINITY, sum = 0;
    for (int j = 0; j < d->seq; j++)
        if (reference_sees(d, b, i, j))
            max = fmax(max, reference_score(d, q, k, b, h, i, j));
    for (int j = 0; j < d->seq; j++)
        if (reference_sees(d, b, i, j))
            sum += exp(reference_score(d, q, k, b, h, i, j) - max);
    return sum == 0 ? -INFINITY : max + log(sum);
}

/* Which row of which head. */
typedef struct ReferenceRow {
    int b, h, i;
    int64_t at;  /* in (B,H,T) */
    int rounded; /* probabilities are, to what is kept: eager's in 16 bit */
    double lse;
    void *probs; /* may be NULL */
} ReferenceRow;

/* out[c .. c + n) of one row, n at most REFERENCE_CHUNK; the row's probabilities too where they are kept. */
enum { REFERENCE_CHUNK = 64 };
static void reference_attention_row(const AttentionDims *d, const ReferenceRow *row, const void *q,
                                    const void *k, const void *v, int c, void *out)
{
    double sum[REFERENCE_CHUNK] = {0};
    int n = d->head_dim - c < REFERENCE_CHUNK ? d->head_dim - c : REFERENCE_CHUNK;
    int b = row->b, h = row->h;
    for (int j = 0; j < d->seq; j++) {
        double p =
            reference_sees(d, b, row->i, j) ? exp(reference_score(d, q, k, b, h, row->i, j) - row->lse) : 0;
        p = row->rounded ? reference_kept(d->type, p) : p;
        if (row->probs)
            values_set(d->type, row->probs, row->at * d->seq + j, (float)p);
        int64_t value = reference_at(d, d->ldv, b, j, reference_kv_head(d, h)) + c;
        for (int e = 0; e < n; e++)
            sum[e] += p * reference_got(d->type, v, value + e);
    }
    for (int e = 0; e < n; e++)
        values_set(d->type, out, reference_out(d, b, row->i, h) + c + e, (float)sum[e]);
}

static ReferenceRow reference_row(const AttentionDims *d, int64_t at)
{
    return (ReferenceRow){.i = (int)(at % d->seq),
                          .h = (int)(at / d->seq % d->heads),
                          .b = (int)(at / d->seq / d->heads),
                          .at = at};
}

/* probs or lse is NULL, or both. */
static void reference_attention_forward(const AttentionDims *d, const void *q, const void *k, const void *v,
                                        void *out, void *probs, float *lse)
{
    for (int64_t r = 0; r < (int64_t)d->batch * d->heads * d->seq; r++) {
        ReferenceRow row = reference_row(d, r);
        row.rounded = !lse && d->type != DTYPE_F32;
        row.lse = reference_row_lse(d, q, k, row.b, row.h, row.i);
        row.probs = probs;
        for (int c = 0; c < d->head_dim; c += REFERENCE_CHUNK)
            reference_attention_row(d, &row, q, k, v, c, out);
        if (lse)
            lse[r] = (float)row.lse;
    }
}

static void reference_zero_rows(const AttentionDims *d, int heads, int64_t ld, int step, float *x)
{
    for (int64_t r = 0; r < (int64_t)d->batch * d->seq; r++)
        for (int64_t c = 0; c < (int64_t)heads * d->head_dim; c++)
            x[r * ld + c / d->head_dim * step + c % d->head_dim] = 0;
}

/* What backward reads, and where it sums. */
typedef struct ReferenceBackward {
    const void *q, *k, *v, *out, *probs, *dout;
    const float *lse;
    float *dq, *dk, *dv;
    int64_t lddq, lddk, lddv;
    int step; /* from head to head of the three */
} ReferenceBackward;

/* The gradients of the probability p and the score ds of a row and key j. */
static void reference_attention_backward_pair(const AttentionDims *d, const ReferenceBackward *a,
                                              const ReferenceRow *row, int j, double p, double ds)
{
    int b = row->b, h = row->h, kv = reference_kv_head(d, h);
    float *dq = a->dq + reference_apart(d, a->lddq, a->step, b, row->i, h);
    float *dk = a->dk + reference_apart(d, a->lddk, a->step, b, j, kv);
    float *dv = a->dv + reference_apart(d, a->lddv, a->step, b, j, kv);
    int64_t q = reference_at(d, d->ldq, b, row->i, h), k = reference_at(d, d->ldk, b, j, kv);
    int64_t dout = reference_out(d, b, row->i, h);
    for (int c = 0; c < d->head_dim; c++) {
        dv[c] = (float)((double)dv[c] + p * reference_got(d->type, a->dout, dout + c));
        dq[c] = (float)((double)dq[c] + ds * reference_got(d->type, a->k, k + c));
        dk[c] = (float)((double)dk[c] + ds * reference_got(d->type, a->q, q + c));
    }
}

/* From probs, or from lse where that is NULL; where both are, from what probs would hold. */
static void reference_attention_sums(const AttentionDims *d, const ReferenceBackward *a)
{
    reference_zero_rows(d, d->heads, a->lddq, a->step, a->dq);
    reference_zero_rows(d, d->kv_heads, a->lddk, a->step, a->dk);
    reference_zero_rows(d, d->kv_heads, a->lddv, a->step, a->dv);
    for (int64_t r = 0; r < (int64_t)d->batch * d->heads * d->seq; r++) {
        ReferenceRow row = reference_row(d, r);
        int b = row.b, h = row.h, i = row.i;
        int64_t dout = reference_out(d, b, i, h);
        double delta = reference_dot(d, a->dout, dout, a->out, dout);
        row.lse = a->probs ? 0 : a->lse ? (double)a->lse[r] : reference_row_lse(d, a->q, a->k, b, h, i);
        for (int j = 0; j < d->seq; j++) {
            if (!reference_sees(d, b, i, j))
                continue;
            double score = a->probs && d->softcap <= 0 ? 0 : reference_score(d, a->q, a->k, b, h, i, j);
            double p = a->probs ? reference_got(d->type, a->probs, r * d->seq + j) : exp(score - row.lse);
            p = a->lse ? p : reference_kept(d->type, p);
            int64_t v = reference_at(d, d->ldv, b, j, reference_kv_head(d, h));
            double dp = reference_dot(d, a->dout, dout, a->v, v);
            double ds = p * (dp - delta) * reference_cap_slope(d, score);
            reference_attention_backward_pair(d, a, &row, j, p, ds * (double)d->scale);
        }
    }
}

/* Rounds rows (B T, heads D) of sums. */
static void reference_round_rows(const AttentionDims *d, int heads, const float *from, void *y, int64_t ld)
{
    int64_t width = (int64_t)heads * d->head_dim;
    for (int64_t i = 0; i < (int64_t)d->batch * d->seq * width; i++)
        values_set(d->type, y,
                   i / width * ld + i % width / d->head_dim * attention_head_step(d) + i % d->head_dim,
                   from[i]);
}

/* Sums where the gradients are, or in workspace where those are of 16 bit. */
static void reference_attention_backward(const AttentionDims *d, ReferenceBackward a, void *dq, void *dk,
                                         void *dv, float *workspace)
{
    int64_t rows = (int64_t)d->batch * d->seq, width = (int64_t)d->heads * d->head_dim;
    int64_t kv_width = (int64_t)d->kv_heads * d->head_dim;
    if (d->type == DTYPE_F32) {
        a.dq = dq, a.dk = dk, a.dv = dv;
        a.lddq = d->lddq, a.lddk = d->lddk, a.lddv = d->lddv;
        a.step = attention_head_step(d);
        reference_attention_sums(d, &a);
        return;
    }
    a.dq = workspace, a.dk = a.dq + rows * width, a.dv = a.dk + rows * kv_width;
    a.lddq = width, a.lddk = a.lddv = kv_width;
    a.step = d->head_dim;
    reference_attention_sums(d, &a);
    reference_round_rows(d, d->heads, a.dq, dq, d->lddq);
    reference_round_rows(d, d->kv_heads, a.dk, dk, d->lddk);
    reference_round_rows(d, d->kv_heads, a.dv, dv, d->lddv);
}

void reference_attention_eager_forward(const AttentionDims *d, const void *q, const void *k, const void *v,
                                       void *out, void *probs, float *workspace, const KernelRun *run)
{
    (void)workspace, (void)run;
    reference_attention_forward(d, q, k, v, out, probs, NULL);
}

void reference_attention_eager_backward(const AttentionDims *d, const void *q, const void *k, const void *v,
                                        const void *out, const void *probs, const void *dout, void *dq,
                                        void *dk, void *dv, float *workspace, const KernelRun *run)
{
    (void)run;
    ReferenceBackward a = {.q = q, .k = k, .v = v, .out = out, .probs = probs, .dout = dout};
    reference_attention_backward(d, a, dq, dk, dv, workspace);
}

void reference_attention_flash_forward(const AttentionDims *d, const void *q, const void *k, const void *v,
                                       void *out, float *lse, float *workspace, const KernelRun *run)
{
    (void)workspace, (void)run;
    reference_attention_forward(d, q, k, v, out, NULL, lse);
}

void reference_attention_flash_backward(const AttentionDims *d, const void *q, const void *k, const void *v,
                                        const void *out, const float *lse, const void *dout, void *dq,
                                        void *dk, void *dv, float *workspace, const KernelRun *run)
{
    (void)run;
    ReferenceBackward a = {.q = q, .k = k, .v = v, .out = out, .lse = lse, .dout = dout};
    reference_attention_backward(d, a, dq, dk, dv, workspace);
}

size_t reference_attention_workspace(const AttentionDims *d, AttentionKept kept, int backward,
                                     const KernelRun *run)
{
    (void)kept, (void)run;
    size_t row = ((size_t)d->heads + 2 * (size_t)d->kv_heads) * (size_t)d->head_dim;
    return backward && d->type != DTYPE_F32 ? (size_t)d->batch * (size_t)d->seq * row * sizeof(float) : 0;
}

/* ---- attention over a cache ------------------------------------------------------------------ */

/* Where a head's rows begin: keys (which = 0) or values (1). */
static int64_t reference_cache_at(const AttentionDims *d, int which, int b, int kv_head)
{
    return (((int64_t)which * d->batch + b) * d->kv_heads + kv_head) * d->capacity * d->head_dim;
}

void reference_attention_append(const AttentionDims *d, const void *k, const void *v, void *cache,
                                const KernelRun *run)
{
    (void)run;
    for (int b = 0; b < d->batch; b++)
        for (int t = 0; t < d->seq; t++)
            for (int h = 0; h < d->kv_heads; h++)
                for (int c = 0; c < d->head_dim && t >= d->seq - d->capacity; c++) {
                    int64_t to = (int64_t)(d->past + t) % d->capacity * d->head_dim + c;
                    double key = reference_got(d->type, k, reference_at(d, d->ldk, b, t, h) + c);
                    double value = reference_got(d->type, v, reference_at(d, d->ldv, b, t, h) + c);
                    values_set(d->cached, cache, reference_cache_at(d, 0, b, h) + to, (float)key);
                    values_set(d->cached, cache, reference_cache_at(d, 1, b, h) + to, (float)value);
                }
}

void reference_attention_unroll(const AttentionDims *d, const void *k, const void *v, const void *cache,
                                void *rows, const KernelRun *run)
{
    AttentionDims all = *d;
    all.past = d->past < d->window - 1 ? d->past : d->window - 1;
    all.capacity = d->window - 1 + d->seq;
    for (int64_t i = 0; i < 2 * (int64_t)d->batch * d->kv_heads * all.past * d->head_dim; i++) {
        int64_t c = i % d->head_dim, t = i / d->head_dim % all.past, head = i / d->head_dim / all.past;
        int64_t row = (d->past - all.past + t) % d->capacity;
        values_set(d->cached, rows, (head * all.capacity + t) * d->head_dim + c,
                   values_get(d->cached, cache, (head * d->capacity + row) * d->head_dim + c));
    }
    reference_attention_append(&all, k, v, rows, run);
}

/* The scaled and capped score of the query at element q and key j, whose head's keys begin at k. */
static double reference_cached_score(const AttentionDims *d, const void *queries, int64_t q,
                                     const void *cache, int64_t k, int j)
{
    double sum = 0;
    for (int c = 0; c < d->head_dim; c++)
        sum += reference_got(d->type, queries, q + c) *
               reference_got(d->cached, cache, k + (int64_t)j * d->head_dim + c);
    return reference_capped(d, (double)d->scale * sum);
}

/* Query t of head h, which sees the keys [from, keys): one pass for the largest score, and one for some
 * elements of the result at a time. */
static void reference_cached_row(const AttentionDims *d, const void *queries, int64_t q, const void *cache,
                                 int64_t k, int64_t v, int from, int keys, void *out, int64_t at)
{
    enum { COLUMNS = 64 };
    double max = -INFINITY;
    for (int j = from; j < keys; j++)
        max = fmax(max, reference_cached_score(d, queries, q, cache, k, j));
    for (int first = 0; first < d->head_dim; first += COLUMNS) {
        double sums[COLUMNS] = {0}, all = 0;
        int n = d->head_dim - first < COLUMNS ? d->head_dim - first : COLUMNS;
        for (int j = from; j < keys; j++) {
            double weight = exp(reference_cached_score(d, queries, q, cache, k, j) - max);
            all += weight;
            for (int c = 0; c < n; c++)
                sums[c] += weight * reference_got(d->cached, cache, v + (int64_t)j * d->head_dim + first + c);
        }
        for (int c = 0; c < n; c++)
            values_set(d->type, out, at + first + c, (float)(sums[c] / all));
    }
}

void reference_attention_cached(const AttentionDims *d, const void *q, const void *cache, void *out,
                                float *workspace, const KernelRun *run)
{
    (void)workspace, (void)run;
    for (int b = 0; b < d->batch; b++)
        for (int t = 0; t < d->seq; t++)
            for (int h = 0; h < d->heads; h++) {
                int kv = reference_kv_head(d, h), keys = d->past + t + 1;
                int from = d->window && keys > d->window ? keys - d->window : 0;
                if (d->seq == 1) /* all rows that there are */
                    from = 0, keys = keys < d->capacity ? keys : d->capacity;
                reference_cached_row(d, q, reference_at(d, d->ldq, b, t, h), cache,
                                     reference_cache_at(d, 0, b, kv), reference_cache_at(d, 1, b, kv), from,
                                     keys, out, reference_out(d, b, t, h));
            }
}

size_t reference_attention_cached_workspace(const AttentionDims *d, const KernelRun *run)
{
    (void)d, (void)run;
    return 0;
}
