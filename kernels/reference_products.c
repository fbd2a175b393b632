/* Products, the linear layer and attention as their definitions read, summed in double. How many threads
 * run is ignored, and so are workspaces. */
#include "base/half_.h"
#include "base/quant_codes_.h"
#include "kernels/grid.h"
#include "kernels/reference_.h"
#include "kernels/values.h"

#include <math.h>

static float reference_mix(double value, float beta, float old)
{
    return beta == 0 ? (float)value : (float)(value + (double)beta * (double)old);
}

void reference_gemm(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                    int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc,
                    const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t p = 0; p < k; p++)
                sum += (double)a[trans_a ? p * lda + i : i * lda + p] *
                       (double)b[trans_b ? j * ldb + p : p * ldb + j];
            c[i * ldc + j] = reference_mix((double)alpha * sum, beta, c[i * ldc + j]);
        }
}

static float reference_quantized(const StoredArray *w, int64_t i)
{
    QuantLayout l = quant_layout(w->dtype, w->rows, w->cols);
    if (w->dtype == DTYPE_INT8)
        return quant_int8_value(((const int8_t *)w->at)[i],
                                ((const float *)((const char *)w->at + l.scales))[i / w->cols]);
    if (dtype_is_dynamic8(w->dtype))
        return quant_dynamic8_value(w->dtype, &l, w->at, i);
    return quant_nf4_value(w->at, i, quant_block_scale(w->dtype, &l, w->at, i / NF4_BLOCK));
}

float reference_element(const StoredArray *w, int64_t i)
{
    if (w->dtype == DTYPE_BF16)
        return half_from_bf16(((const uint16_t *)w->at)[i]);
    if (w->dtype == DTYPE_F16)
        return half_from_f16(((const uint16_t *)w->at)[i]);
    int codes = dtype_is_quantized(w->dtype) || dtype_is_dynamic8(w->dtype);
    return codes ? reference_quantized(w, i) : ((const float *)w->at)[i];
}

void reference_gemm_stored(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                           const StoredArray *a, const StoredArray *b, float beta, DType c_type, void *c,
                           int64_t ldc, void *workspace, const KernelRun *run)
{
    (void)workspace;
    if (a->dtype == DTYPE_F32 && b->dtype == DTYPE_F32 && c_type == DTYPE_F32) {
        reference_gemm(trans_a, trans_b, m, n, k, alpha, a->at, a->cols, b->at, b->cols, beta, c, ldc, run);
        return;
    }
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t p = 0; p < k; p++)
                sum += (double)reference_element(a, trans_a ? p * a->cols + i : i * a->cols + p) *
                       (double)reference_element(b, trans_b ? j * b->cols + p : p * b->cols + j);
            float old = beta == 0 ? 0 : values_get(c_type, c, i * ldc + j);
            values_set(c_type, c, i * ldc + j, reference_mix((double)alpha * sum, beta, old));
        }
}

size_t reference_gemm_stored_workspace(int64_t m, int64_t n, int64_t k, DType c_type, const KernelRun *run)
{
    return stored_workspace(m, n, k, c_type, run->threads);
}

/* y = act(pre), of one value; where y has 16 bit, of what they hold. */
static void reference_linear_finish(const LinearDims *d, Activation act, float value, int64_t i, void *pre,
                                    void *y, const KernelRun *run)
{
    void *to = pre ? pre : y;
    values_set(d->y, to, i, value);
    value = values_get(d->y, to, i);
    reference_activation_forward(DTYPE_F32, act, 1, &value, &value, run);
    values_set(d->y, y, i, value);
}

void reference_linear_forward(const LinearDims *d, Activation act, const void *x, const StoredArray *w,
                              const float *bias, void *pre, void *y, void *workspace, const KernelRun *run)
{
    StoredArray rows = {x, d->x, d->rows, d->in};
    (void)workspace;
    for (int64_t i = 0; i < d->rows; i++)
        for (int64_t j = 0; j < d->out; j++) {
            double sum = 0;
            for (int64_t p = 0; p < d->in; p++)
                sum += (double)reference_element(&rows, i * d->in + p) *
                       (double)reference_element(w, d->in_out ? p * w->cols + j : j * w->cols + p);
            float value = (float)sum;
            reference_linear_finish(d, act, bias ? value + bias[j] : value, i * d->out + j, pre, y, run);
        }
}

void reference_linear_backward_input(const LinearDims *d, const void *dy, const StoredArray *w, float beta,
                                     void *dx, void *workspace, const KernelRun *run)
{
    StoredArray rows = {dy, d->y, d->rows, d->out};
    reference_gemm_stored(0, d->in_out, d->rows, d->in, d->out, 1, &rows, w, beta, d->x, dx, d->in, workspace,
                          run);
}

void reference_linear_backward_weight(const LinearDims *d, const void *x, const void *dy, DType dw_type,
                                      float beta_w, void *dw, DType dbias_type, float beta_b, void *dbias,
                                      void *workspace, const KernelRun *run)
{
    StoredArray rows = {x, d->x, d->rows, d->in}, sums = {dy, d->y, d->rows, d->out};
    const StoredArray *left = d->in_out ? &rows : &sums, *right = d->in_out ? &sums : &rows;
    if (dw)
        reference_gemm_stored(1, 0, left->cols, right->cols, d->rows, 1, left, right, beta_w, dw_type, dw,
                              right->cols, workspace, run);
    for (int64_t j = 0; dbias && j < d->out; j++) {
        double sum = 0;
        for (int64_t i = 0; i < d->rows; i++)
            sum += (double)reference_element(&sums, i * d->out + j);
        float old = beta_b == 0 ? 0 : values_get(dbias_type, dbias, j);
        values_set(dbias_type, dbias, j, reference_mix(sum, beta_b, old));
    }
}

size_t reference_linear_workspace(const LinearDims *d, LinearPass pass, DType w, const KernelRun *run)
{
    return pass == LINEAR_BACKWARD_WEIGHT ? linear_packed_weight(d, w, run->threads)
                                          : linear_packed(d, pass, w, run->threads);
}

/* ---- attention ------------------------------------------------------------------------------- */

/* Where (b,t) row's part of a head begins; kv heads are shared by heads / kv_heads heads each. */
static int64_t reference_at(const AttentionDims *d, int64_t ld, int b, int t, int head)
{
    return ((int64_t)b * d->seq + t) * ld + (int64_t)head * d->head_dim;
}

static int reference_kv_head(const AttentionDims *d, int h)
{
    return h / (d->heads / d->kv_heads);
}

static int reference_sees(const AttentionDims *d, int b, int i, int j)
{
    return (!d->causal || j <= i) && (!d->key_mask || d->key_mask[(int64_t)b * d->seq + j]);
}

static double reference_dot(int n, const float *a, const float *b)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* The score of query i and key j, of sample b and head h. */
static double reference_score(const AttentionDims *d, const float *q, const float *k, int b, int h, int i,
                              int j)
{
    return (double)d->scale * reference_dot(d->head_dim, q + reference_at(d, d->ldq, b, i, h),
                                            k + reference_at(d, d->ldk, b, j, reference_kv_head(d, h)));
}

/* Log-sum-exp of the scores that query i sees. */
static double reference_row_lse(const AttentionDims *d, const float *q, const float *k, int b, int h, int i)
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

/* out[c .. c + n) of one row, n at most REFERENCE_CHUNK; the row's probabilities too where probs is not NULL.
 */
enum { REFERENCE_CHUNK = 64 };
static void reference_attention_row(const AttentionDims *d, const float *q, const float *k, const float *v,
                                    int b, int h, int i, double lse, int c, float *out, float *probs)
{
    double sum[REFERENCE_CHUNK] = {0};
    int n = d->head_dim - c < REFERENCE_CHUNK ? d->head_dim - c : REFERENCE_CHUNK;
    for (int j = 0; j < d->seq; j++) {
        double p = reference_sees(d, b, i, j) ? exp(reference_score(d, q, k, b, h, i, j) - lse) : 0;
        if (probs)
            probs[j] = (float)p;
        const float *row = v + reference_at(d, d->ldv, b, j, reference_kv_head(d, h)) + c;
        for (int e = 0; e < n; e++)
            sum[e] += p * (double)row[e];
    }
    for (int e = 0; e < n; e++)
        out[reference_at(d, d->ldo, b, i, h) + c + e] = (float)sum[e];
}

/* probs or lse is NULL, or both. */
static void reference_attention_forward(const AttentionDims *d, const float *q, const float *k,
                                        const float *v, float *out, float *probs, float *lse)
{
    for (int64_t r = 0; r < (int64_t)d->batch * d->heads * d->seq; r++) {
        int i = (int)(r % d->seq), h = (int)(r / d->seq % d->heads), b = (int)(r / d->seq / d->heads);
        double row_lse = reference_row_lse(d, q, k, b, h, i);
        for (int c = 0; c < d->head_dim; c += REFERENCE_CHUNK)
            reference_attention_row(d, q, k, v, b, h, i, row_lse, c, out, probs ? probs + r * d->seq : NULL);
        if (lse)
            lse[r] = (float)row_lse;
    }
}

static void reference_zero_rows(const AttentionDims *d, int heads, int64_t ld, float *x)
{
    for (int64_t r = 0; r < (int64_t)d->batch * d->seq; r++)
        for (int64_t c = 0; c < (int64_t)heads * d->head_dim; c++)
            x[r * ld + c] = 0;
}

/* The gradients of one probability's product and score, added to rows i of dq and j of dk and dv. */
static void reference_attention_backward_pair(const AttentionDims *d, double p, double ds, const float *q,
                                              const float *k, const float *dout, float *dq, float *dk,
                                              float *dv)
{
    for (int c = 0; c < d->head_dim; c++) {
        dv[c] = (float)((double)dv[c] + p * (double)dout[c]);
        dq[c] = (float)((double)dq[c] + ds * (double)k[c]);
        dk[c] = (float)((double)dk[c] + ds * (double)q[c]);
    }
}

/* From probs, or from lse where that is NULL; where both are, from what probs would hold. */
static void reference_attention_backward(const AttentionDims *d, const float *q, const float *k,
                                         const float *v, const float *out, const float *probs,
                                         const float *lse, const float *dout, float *dq, float *dk, float *dv)
{
    reference_zero_rows(d, d->heads, d->lddq, dq);
    reference_zero_rows(d, d->kv_heads, d->lddk, dk);
    reference_zero_rows(d, d->kv_heads, d->lddv, dv);
    for (int64_t r = 0; r < (int64_t)d->batch * d->heads * d->seq; r++) {
        int i = (int)(r % d->seq), h = (int)(r / d->seq % d->heads), b = (int)(r / d->seq / d->heads);
        int kv = reference_kv_head(d, h);
        const float *dy = dout + reference_at(d, d->ldo, b, i, h);
        double delta = reference_dot(d->head_dim, dy, out + reference_at(d, d->ldo, b, i, h));
        double row_lse = probs ? 0 : lse ? (double)lse[r] : reference_row_lse(d, q, k, b, h, i);
        for (int j = 0; j < d->seq; j++) {
            if (!reference_sees(d, b, i, j))
                continue;
            double p =
                probs ? (double)probs[r * d->seq + j] : exp(reference_score(d, q, k, b, h, i, j) - row_lse);
            p = lse ? p : (double)(float)p;
            double dp = reference_dot(d->head_dim, dy, v + reference_at(d, d->ldv, b, j, kv));
            reference_attention_backward_pair(
                d, p, p * (dp - delta) * (double)d->scale, q + reference_at(d, d->ldq, b, i, h),
                k + reference_at(d, d->ldk, b, j, kv), dy, dq + reference_at(d, d->lddq, b, i, h),
                dk + reference_at(d, d->lddk, b, j, kv), dv + reference_at(d, d->lddv, b, j, kv));
        }
    }
}

void reference_attention_eager_forward(const AttentionDims *d, const float *q, const float *k, const float *v,
                                       float *out, float *probs, float *workspace, const KernelRun *run)
{
    (void)workspace, (void)run;
    reference_attention_forward(d, q, k, v, out, probs, NULL);
}

void reference_attention_eager_backward(const AttentionDims *d, const float *q, const float *k,
                                        const float *v, const float *out, const float *probs,
                                        const float *dout, float *dq, float *dk, float *dv, float *workspace,
                                        const KernelRun *run)
{
    (void)workspace, (void)run;
    reference_attention_backward(d, q, k, v, out, probs, NULL, dout, dq, dk, dv);
}

void reference_attention_flash_forward(const AttentionDims *d, const float *q, const float *k, const float *v,
                                       float *out, float *lse, float *workspace, const KernelRun *run)
{
    (void)workspace, (void)run;
    reference_attention_forward(d, q, k, v, out, NULL, lse);
}

void reference_attention_flash_backward(const AttentionDims *d, const float *q, const float *k,
                                        const float *v, const float *out, const float *lse, const float *dout,
                                        float *dq, float *dk, float *dv, float *workspace,
                                        const KernelRun *run)
{
    (void)workspace, (void)run;
    reference_attention_backward(d, q, k, v, out, NULL, lse, dout, dq, dk, dv);
}

size_t reference_attention_workspace(const AttentionDims *d, AttentionKept kept, int backward,
                                     const KernelRun *run)
{
    (void)d, (void)kept, (void)backward, (void)run;
    return 0;
}

/* ---- attention over a cache ------------------------------------------------------------------ */

/* Where a head's rows begin: keys (which = 0) or values (1). */
static int64_t reference_cache_at(const AttentionDims *d, int which, int b, int kv_head)
{
    return (((int64_t)which * d->batch + b) * d->kv_heads + kv_head) * d->capacity * d->head_dim;
}

/* One number into the cache. */
static void reference_put(const AttentionDims *d, void *cache, int64_t at, float value)
{
    if (d->cached == DTYPE_BF16)
        ((uint16_t *)cache)[at] = half_to_bf16(value);
    else if (d->cached == DTYPE_F16)
        ((uint16_t *)cache)[at] = half_to_f16(value);
    else
        ((float *)cache)[at] = value;
}

static double reference_got(const AttentionDims *d, const void *cache, int64_t at)
{
    return d->cached == DTYPE_BF16  ? (double)half_from_bf16(((const uint16_t *)cache)[at])
           : d->cached == DTYPE_F16 ? (double)half_from_f16(((const uint16_t *)cache)[at])
                                    : (double)((const float *)cache)[at];
}

void reference_attention_append(const AttentionDims *d, const float *k, const float *v, void *cache,
                                const KernelRun *run)
{
    (void)run;
    for (int b = 0; b < d->batch; b++)
        for (int t = 0; t < d->seq; t++)
            for (int h = 0; h < d->kv_heads; h++)
                for (int c = 0; c < d->head_dim; c++) {
                    int64_t to = (int64_t)(d->past + t) * d->head_dim + c;
                    reference_put(d, cache, reference_cache_at(d, 0, b, h) + to,
                                  k[reference_at(d, d->ldk, b, t, h) + c]);
                    reference_put(d, cache, reference_cache_at(d, 1, b, h) + to,
                                  v[reference_at(d, d->ldv, b, t, h) + c]);
                }
}

/* The scaled score of key j, whose head's keys begin at k. */
static double reference_cached_score(const AttentionDims *d, const float *q, const void *cache, int64_t k,
                                     int j)
{
    double sum = 0;
    for (int c = 0; c < d->head_dim; c++)
        sum += (double)q[c] * reference_got(d, cache, k + (int64_t)j * d->head_dim + c);
    return (double)d->scale * sum;
}

/* Query t of head h: one pass for the largest score, and one for some elements of the result at a time. */
static void reference_cached_row(const AttentionDims *d, const float *q, const void *cache, int64_t k,
                                 int64_t v, int keys, float *out)
{
    enum { COLUMNS = 64 };
    double max = -INFINITY;
    for (int j = 0; j < keys; j++)
        max = fmax(max, reference_cached_score(d, q, cache, k, j));
    for (int first = 0; first < d->head_dim; first += COLUMNS) {
        double sums[COLUMNS] = {0}, all = 0;
        int n = d->head_dim - first < COLUMNS ? d->head_dim - first : COLUMNS;
        for (int j = 0; j < keys; j++) {
            double weight = exp(reference_cached_score(d, q, cache, k, j) - max);
            all += weight;
            for (int c = 0; c < n; c++)
                sums[c] += weight * reference_got(d, cache, v + (int64_t)j * d->head_dim + first + c);
        }
        for (int c = 0; c < n; c++)
            out[first + c] = (float)(sums[c] / all);
    }
}

void reference_attention_cached(const AttentionDims *d, const float *q, const void *cache, float *out,
                                float *workspace, const KernelRun *run)
{
    (void)workspace, (void)run;
    for (int b = 0; b < d->batch; b++)
        for (int t = 0; t < d->seq; t++)
            for (int h = 0; h < d->heads; h++) {
                int kv = reference_kv_head(d, h);
                reference_cached_row(d, q + reference_at(d, d->ldq, b, t, h), cache,
                                     reference_cache_at(d, 0, b, kv), reference_cache_at(d, 1, b, kv),
                                     d->past + t + 1, out + reference_at(d, d->ldo, b, t, h));
            }
}

size_t reference_attention_cached_workspace(const AttentionDims *d, const KernelRun *run)
{
    (void)d, (void)run;
    return 0;
}
