/* Matrix products. The BLAS library, or gemm_own.c where there is none, multiplies on one thread; threads are
 * ours: each takes a panel of C, so that one thread pool serves everything and epilogues (linear.c) find
 * their panel in cache. Part of cpu.c.
 */
#include "kernels/blas.h"
#include "kernels/grid.h"
#include "kernels/kernels.h"

#include <omp.h>
#include <stdint.h>
#include <string.h>

/* Parallel regions here are of `threads` threads or of one, never between: where libgomp serves, it ends the
 * threads that a smaller region does not need, and creates them again for the next. */

/* Rows of C a call: OpenBLAS packs that many rows of A at once, which for the gradient of a vocabulary's
 * weights would be some 25 MiB a thread: more than the cache holds, and memory that nobody accounts for. */
enum { GEMM_CALL_ROWS = 4096 };
enum { GEMM_CALL_DEPTH = 1 << 30 }; /* terms that a call sums: its integers have 32 bits */

/* Without terms to sum, C is only scaled. (BLAS would reject the leading dimensions that such operands may
 * have.) */
static void gemm_scale(int64_t m, int64_t n, float beta, float *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            c[i * ldc + j] = beta == 0 ? 0.0f : beta * c[i * ldc + j];
}

/* Rows of C that are all x (n). */
static void gemm_fill_rows(int64_t m, int64_t n, const float *x, float *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++)
        memcpy(c + i * ldc, x, (size_t)n * sizeof(float));
}

/* On the calling thread. */
static void gemm_block(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                       int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    if (m <= 0 || n <= 0)
        return;
    if (k <= 0) {
        gemm_scale(m, n, beta, c, ldc);
        return;
    }
    BlasSgemm *sgemm = blas_sgemm();
    if (!sgemm) {
        product(trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    int op_a = trans_a ? BLAS_TRANS : BLAS_NO_TRANS, op_b = trans_b ? BLAS_TRANS : BLAS_NO_TRANS;
    for (int64_t at = 0; at < k; at += GEMM_CALL_DEPTH)
        for (int64_t row = 0; row < m; row += GEMM_CALL_ROWS) {
            int rows = (int)(m - row < GEMM_CALL_ROWS ? m - row : GEMM_CALL_ROWS);
            int depth = (int)(k - at < GEMM_CALL_DEPTH ? k - at : GEMM_CALL_DEPTH);
            sgemm(BLAS_ROW_MAJOR, op_a, op_b, rows, (int)n, depth, alpha,
                  a + (trans_a ? at * lda + row : row * lda + at), (int)lda, b + (trans_b ? at : at * ldb),
                  (int)ldb, at ? 1.0f : beta, c + row * ldc, (int)ldc);
        }
}

static void gemm(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                 int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc,
                 const KernelRun *run)
{
    GemmGrid grid = gemm_grid(m, n, k, run->threads);
    int panels = grid.rows * grid.cols;
#pragma omp parallel for schedule(static, 1) num_threads(run->threads) if (panels > 1 && !omp_in_parallel())
    for (int i = 0; i < panels; i++) {
        GemmPanel p = gemm_panel(&grid, i);
        gemm_block(trans_a, trans_b, p.rows, p.cols, k, alpha, a + (trans_a ? p.row : p.row * lda), lda,
                   b + (trans_b ? p.col * ldb : p.col), ldb, beta, c + p.row * ldc + p.col, ldc);
    }
}
