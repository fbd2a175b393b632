/* The kernels that the table avx512-bf16 has instead of avx512's: the same, but told to multiply bf16 by dot
 * instructions where both operands are bf16. Part of cpu.c. */
#include "kernels/kernels.h"

#ifdef KERNEL_DOTS
static KernelRun dots_run(const KernelRun *run)
{
    KernelRun with = *run;
    with.dots = 1;
    return with;
}

static void dots_gemm_stored(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                             const StoredArray *a, const StoredArray *b, float beta, DType c_type, void *c,
                             int64_t ldc, void *workspace, const KernelRun *run)
{
    KernelRun with = dots_run(run);
    gemm_stored(trans_a, trans_b, m, n, k, alpha, a, b, beta, c_type, c, ldc, workspace, &with);
}

static void dots_linear_forward(const LinearDims *d, Activation act, const void *x, const StoredArray *w,
                                const float *bias, void *pre, void *y, void *workspace, const KernelRun *run)
{
    KernelRun with = dots_run(run);
    linear_forward(d, act, x, w, bias, pre, y, workspace, &with);
}

static void dots_linear_backward_input(const LinearDims *d, const void *dy, const StoredArray *w, float beta,
                                       void *dx, void *workspace, const KernelRun *run)
{
    KernelRun with = dots_run(run);
    linear_backward_input(d, dy, w, beta, dx, workspace, &with);
}

static void dots_linear_backward_weight(const LinearDims *d, const void *x, const void *dy, DType dw_type,
                                        float beta_w, void *dw, DType dbias_type, float beta_b, void *dbias,
                                        void *workspace, const KernelRun *run)
{
    KernelRun with = dots_run(run);
    linear_backward_weight(d, x, dy, dw_type, beta_w, dw, dbias_type, beta_b, dbias, workspace, &with);
}
#endif
