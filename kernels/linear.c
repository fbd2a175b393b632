/* The linear layer: products with what belongs to them, the bias and the activation, done while a block of y
 * is in cache. Part of cpu.c. */
#include "kernels/grid.h"
#include "kernels/kernels.h"

#include <omp.h>
#include <string.h>

/* A block of y stays in the second-level cache until its activation is applied. Every block packs its weights
 * again, though, which pays only where they are few: a larger layer multiplies long enough to hide a pass
 * over y. */
enum { LINEAR_BLOCK = 1 << 18, LINEAR_BLOCK_WEIGHTS = 1 << 16 };
/* Rows whose column sums are kept apart before they join the total: keeps rounding errors small over long
 * columns. */
enum { LINEAR_SUM_ROWS = 64 };

static void activation_apply(Activation act, int64_t n, const float *x, float *y); /* activation.c */

typedef struct LinearForward {
    const LinearDims *d;
    Activation act;
    const float *x, *w, *bias;   /* (rows,in), (out,in) or (in,out), (out) */
    float *pre, *y;              /* (rows,out) */
    const StoredProduct *stored; /* where w is not float */
} LinearForward;

static void linear_add_bias(int64_t n, const float *bias, float *y)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] += bias[i];
}

/* product, at (row, col) of pre or y, = a block of x W^T + beta product. */
static void linear_multiply(const LinearForward *f, int64_t row, int64_t rows, int64_t col, int64_t cols,
                            float beta, float *product, float *space)
{
    const LinearDims *d = f->d;
    GemmPanel panel = {row, rows, col, cols};
    if (f->stored)
        stored_panel(f->stored, &panel, beta, space);
    else
        gemm_block(0, !d->in_out, rows, cols, d->in, 1.0f, f->x + row * d->in, d->in,
                   f->w + (d->in_out ? col : col * d->in), d->in_out ? d->out : d->in, beta, product, d->out);
}

/* The bias goes in first and the product is added to it: with beta 0, sgemm would clear its output anyway. */
static void linear_forward_block(const LinearForward *f, int64_t row, int64_t rows, int64_t col, int64_t cols,
                                 float *space)
{
    const LinearDims *d = f->d;
    float *product = (f->pre ? f->pre : f->y) + row * d->out + col;
    if (rows == 0 || cols == 0)
        return;
    if (linear_is_few(d)) {
        if (f->stored)
            few_stored_columns(d, col, cols, f->x, &f->stored->b, product - col);
        else
            few_columns(d, col, cols, f->x, f->w, product - col);
        for (int64_t i = 0; f->bias && i < rows; i++)
            linear_add_bias(cols, f->bias + col, product + i * d->out);
    } else {
        for (int64_t i = 0; f->bias && i < rows; i++)
            memcpy(product + i * d->out, f->bias + col, (size_t)cols * sizeof(float));
        linear_multiply(f, row, rows, col, cols, f->bias ? 1.0f : 0.0f, product, space);
    }

    float *y = f->y + row * d->out + col;
    int64_t runs = cols == d->out ? 1 : rows, length = rows * cols / runs; /* whole rows are one array */
    for (int64_t i = 0; i < runs; i++) {
        if (f->act != ACT_NONE)
            activation_apply(f->act, length, product + i * d->out, y + i * d->out);
        else if (y != product)
            memcpy(y + i * d->out, product + i * d->out, (size_t)length * sizeof(float));
    }
}

/* A panel in blocks of rows. */
static void linear_forward_panel(const LinearForward *f, GemmPanel p, float *space)
{
    int after = f->act != ACT_NONE || (f->pre && f->pre != f->y);
    int64_t block = p.rows;
    if (after && p.cols * f->d->in <= LINEAR_BLOCK_WEIGHTS && p.rows * p.cols > LINEAR_BLOCK)
        block = LINEAR_BLOCK / p.cols > 64 ? LINEAR_BLOCK / p.cols : 64;
    for (int64_t i = 0; i < p.rows; i += block)
        linear_forward_block(f, p.row + i, p.rows - i < block ? p.rows - i : block, p.col, p.cols, space);
}

static void linear_forward(const LinearDims *d, Activation act, const float *x, const StoredArray *w,
                           const float *bias, float *pre, float *y, void *workspace, const KernelRun *run)
{
    StoredArray rows = {x, DTYPE_F32, d->rows, d->in};
    StoredProduct stored = stored_product(!d->in_out, d->in, &rows, w, pre ? pre : y, d->out);
    LinearForward f = {d, act, x, w->at, bias, pre, y, w->dtype == DTYPE_F32 ? NULL : &stored};
    GemmGrid grid = gemm_grid(d->rows, d->out, d->in, run->threads);
    int64_t space = w->dtype == DTYPE_F32 || linear_is_few(d) ? 0 : stored_space(&grid, d->in);
    if (linear_is_few(d)) { /* each thread its own columns, so that none reads another's weights */
        grid.cols *= grid.rows;
        grid.rows = 1;
    }
    int panels = grid.rows * grid.cols;
#pragma omp parallel for schedule(static, 1) num_threads(run->threads) if (panels > 1 && !omp_in_parallel())
    for (int i = 0; i < panels; i++)
        linear_forward_panel(&f, gemm_panel(&grid, i), space ? (float *)workspace + i * space : NULL);
}

static void linear_backward_input(const LinearDims *d, const float *dy, const StoredArray *w, float beta,
                                  float *dx, void *workspace, const KernelRun *run)
{
    StoredArray rows = {dy, DTYPE_F32, d->rows, d->out};
    if (w->dtype != DTYPE_F32)
        gemm_stored(d->in_out, d->rows, d->in, d->out, &rows, w, beta, dx, d->in, workspace, run);
    else
        gemm(0, d->in_out, d->rows, d->in, d->out, 1.0f, dy, d->out, w->at, d->in_out ? d->out : d->in, beta,
             dx, d->in, run);
}

/* Row-range partial sums need a row of their own each. Padded: threads must not share a cache line. */
static int64_t linear_sum_stride(const LinearDims *d)
{
    return (d->out + 31) / 32 * 32;
}

static size_t linear_workspace(const LinearDims *d, LinearPass pass, DType w, const KernelRun *run)
{
    if (pass != LINEAR_BACKWARD_WEIGHT)
        return linear_packed(d, pass, w, run->threads);
    return (size_t)(run->threads < 1 ? 1 : run->threads) * 2 * (size_t)linear_sum_stride(d) * sizeof(float);
}

/* total (cols) = column sums of dy (rows, cols); `group` (cols) is scratch. */
static void linear_sum_rows(int64_t rows, int64_t cols, const float *dy, float *group, float *total)
{
    memset(total, 0, (size_t)cols * sizeof(float));
    for (int64_t first = 0; first < rows; first += LINEAR_SUM_ROWS) {
        int64_t last = first + LINEAR_SUM_ROWS < rows ? first + LINEAR_SUM_ROWS : rows;
        memcpy(group, dy + first * cols, (size_t)cols * sizeof(float));
        for (int64_t i = first + 1; i < last; i++)
#pragma omp simd
            for (int64_t j = 0; j < cols; j++)
                group[j] += dy[i * cols + j];
#pragma omp simd
        for (int64_t j = 0; j < cols; j++)
            total[j] += group[j];
    }
}

/* dbias = column sums of dy + beta dbias: a range of rows a thread, then the partial sums in order. */
static void linear_backward_bias(const LinearDims *d, const float *dy, float beta, float *dbias,
                                 float *workspace, int threads)
{
    int64_t stride = linear_sum_stride(d);
    int64_t useful = d->rows * d->out / 16384 + 1;
    int parts = threads < 1 ? 1 : useful < threads ? (int)useful : threads;
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (parts > 1 && !omp_in_parallel())
    for (int i = 0; i < parts; i++) {
        int64_t first = d->rows * i / parts, last = d->rows * (i + 1) / parts;
        float *group = workspace + 2 * i * stride;
        linear_sum_rows(last - first, d->out, dy + first * d->out, group, group + stride);
    }
    for (int64_t j = 0; j < d->out; j++) {
        float sum = beta == 0 ? 0.0f : beta * dbias[j];
        for (int i = 0; i < parts; i++)
            sum += workspace[(2 * i + 1) * stride + j];
        dbias[j] = sum;
    }
}

static void linear_backward_weight(const LinearDims *d, const float *x, const float *dy, float beta_w,
                                   float *dw, float beta_b, float *dbias, float *workspace,
                                   const KernelRun *run)
{
    if (dbias)
        linear_backward_bias(d, dy, beta_b, dbias, workspace, run->threads);
    if (dw && d->in_out)
        gemm(1, 0, d->in, d->out, d->rows, 1.0f, x, d->in, dy, d->out, beta_w, dw, d->out, run);
    else if (dw)
        gemm(1, 0, d->out, d->in, d->rows, 1.0f, dy, d->out, x, d->in, beta_w, dw, d->in, run);
}
