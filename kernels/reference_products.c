/* Products and the linear layer as their definitions read, summed in double. How many threads run is ignored,
 * and so are workspaces. */
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
    return w->dtype == DTYPE_F32 ? ((const float *)w->at)[i] : reference_quantized(w, i);
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

size_t reference_gemm_stored_workspace(int64_t m, int64_t n, int64_t k, DType a, DType b, DType c,
                                       const KernelRun *run)
{
    (void)a, (void)b;
    return stored_workspace(m, n, k, c, run->threads);
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
            reference_linear_finish(d, act, bias ? value + bias[j] : value, i * linear_ldy(d) + j, pre, y,
                                    run);
        }
}

void reference_linear_backward_input(const LinearDims *d, const void *dy, const StoredArray *w, float beta,
                                     void *dx, void *workspace, const KernelRun *run)
{
    StoredArray rows = {dy, d->y, d->rows, linear_ldy(d)};
    reference_gemm_stored(0, d->in_out, d->rows, d->in, d->out, 1, &rows, w, beta, d->x, dx, d->in, workspace,
                          run);
}

void reference_linear_backward_weight(const LinearDims *d, const void *x, const void *dy, DType dw_type,
                                      float beta_w, void *dw, DType dbias_type, float beta_b, void *dbias,
                                      void *workspace, const KernelRun *run)
{
    StoredArray rows = {x, d->x, d->rows, d->in}, sums = {dy, d->y, d->rows, linear_ldy(d)};
    LinearProduct p = linear_product(d, LINEAR_BACKWARD_WEIGHT);
    const StoredArray *left = d->in_out ? &rows : &sums, *right = d->in_out ? &sums : &rows;
    if (dw)
        reference_gemm_stored(1, 0, p.m, p.n, p.k, 1, left, right, beta_w, dw_type, dw, p.n, workspace, run);
    for (int64_t j = 0; dbias && j < d->out; j++) {
        double sum = 0;
        for (int64_t i = 0; i < d->rows; i++)
            sum += (double)reference_element(&sums, i * linear_ldy(d) + j);
        float old = beta_b == 0 ? 0 : values_get(dbias_type, dbias, j);
        values_set(dbias_type, dbias, j, reference_mix(sum, beta_b, old));
    }
}

size_t reference_linear_workspace(const LinearDims *d, LinearPass pass, DType w, const KernelRun *run)
{
    return linear_packed(d, pass, w, run->threads);
}
