/* Products and the linear layer as their definitions read, summed in double. How many threads run is ignored,
 * and so are workspaces. */
#include "base/half_.h"
#include "base/quant_codes_.h"
#include "kernels/grid.h"
#include "kernels/reference_.h"

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

float reference_element(const StoredArray *w, int64_t i)
{
    QuantLayout l = quant_layout(w->dtype, w->rows, w->cols);
    switch (w->dtype) {
    case DTYPE_BF16:
        return half_from_bf16(((const uint16_t *)w->at)[i]);
    case DTYPE_F16:
        return half_from_f16(((const uint16_t *)w->at)[i]);
    case DTYPE_INT8:
        return quant_int8_value(((const int8_t *)w->at)[i],
                                ((const float *)((const char *)w->at + l.scales))[i / w->cols]);
    case DTYPE_NF4:
    case DTYPE_NF4_PLAIN:
        return quant_nf4_value(w->at, i, quant_block_scale(w->dtype, &l, w->at, i / NF4_BLOCK));
    default:
        return ((const float *)w->at)[i];
    }
}

void reference_gemm_stored(int trans_b, int64_t m, int64_t n, int64_t k, const StoredArray *a,
                           const StoredArray *b, float beta, float *c, int64_t ldc, void *workspace,
                           const KernelRun *run)
{
    (void)workspace;
    if (a->dtype == DTYPE_F32 && b->dtype == DTYPE_F32) {
        reference_gemm(0, trans_b, m, n, k, 1, a->at, a->cols, b->at, b->cols, beta, c, ldc, run);
        return;
    }
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t p = 0; p < k; p++)
                sum += (double)reference_element(a, i * a->cols + p) *
                       (double)reference_element(b, trans_b ? j * b->cols + p : p * b->cols + j);
            c[i * ldc + j] = reference_mix(sum, beta, c[i * ldc + j]);
        }
}

size_t reference_gemm_stored_workspace(int64_t m, int64_t n, int64_t k, const KernelRun *run)
{
    return stored_workspace(m, n, k, run->threads);
}

void reference_linear_forward(const LinearDims *d, Activation act, const float *x, const StoredArray *w,
                              const float *bias, float *pre, float *y, void *workspace, const KernelRun *run)
{
    float *product = pre ? pre : y;
    StoredArray rows = {x, DTYPE_F32, d->rows, d->in};
    reference_gemm_stored(!d->in_out, d->rows, d->out, d->in, &rows, w, 0, product, d->out, workspace, run);
    for (int64_t i = 0; bias && i < d->rows * d->out; i++)
        product[i] += bias[i % d->out];
    reference_activation_forward(DTYPE_F32, act, d->rows * d->out, product, y, run);
}

void reference_linear_backward_input(const LinearDims *d, const float *dy, const StoredArray *w, float beta,
                                     float *dx, void *workspace, const KernelRun *run)
{
    StoredArray rows = {dy, DTYPE_F32, d->rows, d->out};
    reference_gemm_stored(d->in_out, d->rows, d->in, d->out, &rows, w, beta, dx, d->in, workspace, run);
}

void reference_linear_backward_weight(const LinearDims *d, const float *x, const float *dy, float beta_w,
                                      float *dw, float beta_b, float *dbias, float *workspace,
                                      const KernelRun *run)
{
    (void)workspace;
    if (dw && d->in_out)
        reference_gemm(1, 0, d->in, d->out, d->rows, 1, x, d->in, dy, d->out, beta_w, dw, d->out, run);
    else if (dw)
        reference_gemm(1, 0, d->out, d->in, d->rows, 1, dy, d->out, x, d->in, beta_w, dw, d->in, run);
    for (int64_t j = 0; dbias && j < d->out; j++) {
        double sum = 0;
        for (int64_t i = 0; i < d->rows; i++)
            sum += (double)dy[i * d->out + j];
        dbias[j] = reference_mix(sum, beta_b, dbias[j]);
    }
}

size_t reference_linear_workspace(const LinearDims *d, LinearPass pass, DType w, const KernelRun *run)
{
    return linear_packed(d, pass, w, run->threads);
}
