/* Matrix products. The BLAS library, or gemm_own.c where there is none, multiplies on one thread; threads are
 * ours: each takes a panel of C, so that one thread pool serves everything and epilogues (linear.c) find
 * their panel in cache. Part of cpu.c.
 */
#include "kernels/blas.h"
#include "kernels/kernels.h"

#include <omp.h>
#include <stdint.h>

/* Parallel regions here are of `threads` threads or of one, never between: where libgomp serves, it ends the
 * threads that a smaller region does not need, and creates them again for the next. */

/* Multiply-adds below which another thread costs more (a parallel region is 1 to 2 microseconds) than it
 * saves. */
#define GEMM_WORK_PER_THREAD 131072.0
/* Packing an element of A or B, in multiply-adds: what makes square panels better than long ones. */
enum { GEMM_PACK_COST = 32 };
/* Rows of C a call: OpenBLAS packs that many rows of A at once, which for the gradient of a vocabulary's
 * weights would be some 25 MiB a thread: more than the cache holds, and memory that nobody accounts for. */
enum { GEMM_CALL_ROWS = 4096 };
enum { GEMM_CALL_DEPTH = 1 << 30 }; /* terms that a call sums: its integers have 32 bits */

/* C cut into rows x cols panels. */
typedef struct GemmGrid {
    int64_t m, n;
    int rows, cols;
} GemmGrid;

typedef struct GemmPanel {
    int64_t row, rows, col, cols;
} GemmPanel;

/* Where part i of `parts` begins: on a boundary of the BLAS library's tiles when parts are large. */
static int64_t gemm_bound(int64_t extent, int parts, int i)
{
    int64_t align = extent >= (int64_t)parts * 64 ? 16 : 4;
    int64_t units = (extent + align - 1) / align;
    int64_t bound = units * i / parts * align;
    return bound < extent ? bound : extent;
}

static int64_t gemm_largest_part(int64_t extent, int parts)
{
    int64_t largest = 0;
    for (int i = 0; i < parts; i++) {
        int64_t part = gemm_bound(extent, parts, i + 1) - gemm_bound(extent, parts, i);
        largest = part > largest ? part : largest;
    }
    return largest;
}

/* The grid whose largest panel is done first; a function of sizes and threads only. */
static GemmGrid gemm_grid(int64_t m, int64_t n, int64_t k, int threads)
{
    GemmGrid grid = {m, n, 1, 1};
    double useful = (double)m * (double)n * (double)k / GEMM_WORK_PER_THREAD;
    if (useful < threads)
        threads = (int)useful;
    int64_t best = INT64_MAX;
    for (int rows = 1; rows <= threads; rows++) {
        int cols = threads / rows;
        int64_t r = gemm_largest_part(m, rows), c = gemm_largest_part(n, cols);
        int64_t cost = r * c + GEMM_PACK_COST * (r + c);
        if (cols > 1)
            cost += cost / 32; /* measured: threads that share rows of C, and of B, are a little slower */
        if (cost < best) {
            best = cost;
            grid.rows = rows;
            grid.cols = cols;
        }
    }
    return grid;
}

static GemmPanel gemm_panel(const GemmGrid *grid, int index)
{
    int i = index / grid->cols, j = index % grid->cols;
    GemmPanel panel = {.row = gemm_bound(grid->m, grid->rows, i), .col = gemm_bound(grid->n, grid->cols, j)};
    panel.rows = gemm_bound(grid->m, grid->rows, i + 1) - panel.row;
    panel.cols = gemm_bound(grid->n, grid->cols, j + 1) - panel.col;
    return panel;
}

/* Without terms to sum, C is only scaled. (BLAS would reject the leading dimensions that such operands may
 * have.) */
static void gemm_scale(int64_t m, int64_t n, float beta, float *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            c[i * ldc + j] = beta == 0 ? 0.0f : beta * c[i * ldc + j];
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
