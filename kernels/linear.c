/* The linear layer: products with what belongs to them, the bias and the activation, done while a block of y
 * is in cache. Part of cpu.c. */
#include "kernels/grid.h"
#include "kernels/kernels.h"
#include "kernels/values.h"

#include <omp.h>
#include <string.h>

/* A block of y stays in the second-level cache until its activation is applied. Every block packs its weights
 * again, though, which pays only where they are few: a larger layer multiplies long enough to hide a pass
 * over y. */
enum { LINEAR_BLOCK = 1 << 18, LINEAR_BLOCK_WEIGHTS = 1 << 16 };
/* Rows whose column sums are kept apart before they join the total: keeps rounding errors small over long
 * columns. */
enum { LINEAR_SUM_ROWS = 64 };
enum { LINEAR_PIECE = 1024 }; /* floats of a row at once, where values are rounded or decoded */

static void activation_apply(Activation act, int64_t n, const float *x, float *y); /* activation.c */

typedef struct LinearForward {
    const LinearDims *d;
    Activation act;
    const void *x;
    const StoredArray *w;
    const float *bias;
    void *pre, *y;
    const StoredProduct *stored; /* where brim's own product multiplies */
    const float *few_x;          /* of few rows: x as floats */
    float *few_y;                /* and sums that are to be rounded; NULL = y is float */
} LinearForward;

static void linear_add_row(int64_t n, const float *x, float *y)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] += x[i];
}

/* n values of row `row` from column `col` on, in 16 bit. What is before the activation passes through its
 * type whether it is kept or not, so that y is the same from pre, or without it. */
static void linear_round(const LinearForward *f, int64_t row, int64_t col, int64_t n, float *sums)
{
    uint16_t halves[LINEAR_PIECE];
    int64_t at = row * linear_ldy(f->d) + col;
    DType type = f->d->y;
    if (f->bias)
        linear_add_row(n, f->bias + col, sums);
    if (f->act == ACT_NONE && f->pre && f->pre != f->y)
        values_store(type, n, sums, f->pre, at);
    if (f->act != ACT_NONE) {
        void *pre = f->pre ? f->pre : halves;
        int64_t first = f->pre ? at : 0;
        values_store(type, n, sums, pre, first);
        activation_apply(f->act, n, values_load(type, pre, first, n, sums), sums);
    }
    values_store(type, n, sums, f->y, at);
}

/* Complete sums of a part of y. */
static void linear_store(const StoredProduct *p, const GemmPanel *part, float *sums, int64_t ld)
{
    for (int64_t i = 0; i < part->rows; i++)
        for (int64_t j = 0; j < part->cols; j += LINEAR_PIECE)
            linear_round(p->user, part->row + i, part->col + j, product_least(part->cols - j, LINEAR_PIECE),
                         sums + i * ld + j);
}

/* The activation of a block, from where its product is; or its copy. */
static void linear_finish_block(const LinearForward *f, int64_t row, int64_t rows, int64_t col, int64_t cols,
                                const float *product)
{
    int64_t ld = linear_ldy(f->d);
    float *y = (float *)f->y + row * ld + col;
    int64_t runs = cols == ld ? 1 : rows, length = rows * cols / runs; /* whole rows are one array */
    for (int64_t i = 0; i < runs; i++) {
        if (f->act != ACT_NONE)
            activation_apply(f->act, length, product + i * ld, y + i * ld);
        else if (y != product)
            memcpy(y + i * ld, product + i * ld, (size_t)length * sizeof(float));
    }
}

/* Where a block's product is computed. */
static float *linear_product_at(const LinearForward *f, int64_t row, int64_t col)
{
    return (float *)(f->pre ? f->pre : f->y) + row * linear_ldy(f->d) + col;
}

/* The bias goes in first and the product is added to it: with beta 0, sgemm would clear its output anyway. */
static void linear_blas_block(const LinearForward *f, int64_t row, int64_t rows, int64_t col, int64_t cols)
{
    const LinearDims *d = f->d;
    float *product = linear_product_at(f, row, col);
    if (f->bias)
        gemm_fill_rows(rows, cols, f->bias + col, product, linear_ldy(d));
    gemm_block(0, !d->in_out, rows, cols, d->in, 1.0f, (const float *)f->x + row * d->in, d->in,
               (const float *)f->w->at + (d->in_out ? col : col * d->in), d->in_out ? d->out : d->in,
               f->bias ? 1.0f : 0.0f, product, linear_ldy(d));
    linear_finish_block(f, row, rows, col, cols, product);
}

/* The same after a part of brim's own product. */
static void linear_finish_part(const StoredProduct *p, const GemmPanel *part)
{
    const LinearForward *f = p->user;
    linear_finish_block(f, part->row, part->rows, part->col, part->cols,
                        linear_product_at(f, part->row, part->col));
}

/* Columns of all rows, which are few. */
static void linear_few_block(const LinearForward *f, int64_t col, int64_t cols)
{
    const LinearDims *d = f->d;
    float *product = f->few_y ? f->few_y : f->pre ? f->pre : f->y;
    int64_t ld = f->few_y ? d->out : linear_ldy(d);
    if (f->w->dtype == DTYPE_F32) {
        few_columns(d, col, cols, f->few_x, f->w->at, product, ld);
    } else {
        Decoder w = decoder(f->w);
        few_stored_columns(d, col, cols, f->few_x, &w, product, ld);
    }
    if (f->few_y) {
        for (int64_t i = 0; i < d->rows; i++)
            for (int64_t j = col; j < col + cols; j += LINEAR_PIECE)
                linear_round(f, i, j, product_least(col + cols - j, LINEAR_PIECE), product + i * ld + j);
        return;
    }
    for (int64_t i = 0; f->bias && i < d->rows; i++)
        linear_add_row(cols, f->bias + col, product + i * ld + col);
    linear_finish_block(f, 0, d->rows, col, cols, product + col);
}

/* A panel in blocks of rows. */
static void linear_forward_panel(const LinearForward *f, GemmPanel p, float *space)
{
    int after = f->act != ACT_NONE || (f->pre && f->pre != f->y);
    int64_t block = p.rows;
    if (p.rows == 0 || p.cols == 0)
        return;
    if (linear_is_few(f->d)) {
        linear_few_block(f, p.col, p.cols);
        return;
    }
    if (f->stored) {
        stored_panel(f->stored, &p, 0, space);
        return;
    }
    if (after && p.cols * f->d->in <= LINEAR_BLOCK_WEIGHTS && p.rows * p.cols > LINEAR_BLOCK)
        block = LINEAR_BLOCK / p.cols > 64 ? LINEAR_BLOCK / p.cols : 64;
    for (int64_t i = 0; i < p.rows; i += block)
        linear_blas_block(f, p.row + i, p.rows - i < block ? p.rows - i : block, p.col, p.cols);
}

/* x as floats, and room for sums. */
static void linear_few(LinearForward *f, float *workspace)
{
    const LinearDims *d = f->d;
    f->few_x = values_load(d->x, f->x, 0, d->rows * d->in, workspace);
    f->few_y = d->y == DTYPE_F32 ? NULL : workspace + linear_few_x(d);
}

static void linear_forward(const LinearDims *d, Activation act, const void *x, const StoredArray *w,
                           const float *bias, void *pre, void *y, void *workspace, const KernelRun *run)
{
    StoredArray rows = {x, d->x, d->rows, d->in};
    LinearForward f = {.d = d, .act = act, .x = x, .w = w, .bias = bias, .pre = pre, .y = y};
    GemmGrid grid = gemm_grid(d->rows, d->out, d->in, run->threads);
    StoredProduct stored = {decoder(&rows),
                            decoder(w),
                            0,
                            !d->in_out,
                            d->in,
                            1,
                            0,
                            pre ? pre : y,
                            d->y,
                            linear_ldy(d),
                            stored_cut(&grid, d->in, d->y),
                            linear_store,
                            &f,
                            stored_dots(&rows, w, run),
                            bias,
                            linear_finish_part,
                            NULL};
    int64_t space = 0;
    if (linear_is_few(d)) { /* each thread its own columns, so that none reads another's weights */
        linear_few(&f, workspace);
        grid.cols *= grid.rows;
        grid.rows = 1;
    } else if (!linear_is_blas(d, LINEAR_FORWARD, w->dtype)) {
        f.stored = &stored;
        space = stored_space(&stored.cut);
    }
    int panels = grid.rows * grid.cols;
#pragma omp parallel for schedule(static, 1) num_threads(run->threads) if (panels > 1 && !omp_in_parallel())
    for (int i = 0; i < panels; i++)
        linear_forward_panel(&f, gemm_panel(&grid, i), space ? (float *)workspace + i * space : NULL);
}

static void linear_backward_input(const LinearDims *d, const void *dy, const StoredArray *w, float beta,
                                  void *dx, void *workspace, const KernelRun *run)
{
    StoredArray rows = {dy, d->y, d->rows, linear_ldy(d)};
    if (linear_is_blas(d, LINEAR_BACKWARD_INPUT, w->dtype))
        gemm(0, d->in_out, d->rows, d->in, d->out, 1.0f, dy, linear_ldy(d), w->at, d->in_out ? d->out : d->in,
             beta, dx, d->in, run);
    else
        gemm_stored(0, d->in_out, d->rows, d->in, d->out, 1.0f, &rows, w, beta, d->x, dx, d->in, workspace,
                    run);
}

/* Plans have two rows a thread for sums of a bias. These kernels sum on the stack and do not use them. */
static int64_t linear_sum_stride(const LinearDims *d)
{
    return (d->out + 31) / 32 * 32;
}

static size_t linear_workspace(const LinearDims *d, LinearPass pass, DType w, const KernelRun *run)
{
    size_t product = linear_packed(d, pass, w, run->threads);
    if (pass != LINEAR_BACKWARD_WEIGHT)
        return product;
    size_t sums =
        (size_t)(run->threads < 1 ? 1 : run->threads) * 2 * (size_t)linear_sum_stride(d) * sizeof(float);
    return sums > product ? sums : product;
}

/* total (cols) = column sums of dy's rows [begin, end), from column `first` on, + beta total. */
static void linear_sum_columns(const LinearDims *d, const void *dy, int64_t begin, int64_t end, int64_t first,
                               int64_t cols, float beta, float *total)
{
    float group[LINEAR_PIECE], room[LINEAR_PIECE];
    for (int64_t j = 0; j < cols && beta != 1; j++)
        total[j] = beta == 0 ? 0.0f : beta * total[j];
    for (int64_t at = 0, n; at < cols; at += n) {
        n = product_least(cols - at, LINEAR_PIECE);
        for (int64_t row = begin, last; row < end; row = last) {
            last = product_least(end, row + LINEAR_SUM_ROWS);
            memset(group, 0, (size_t)n * sizeof(float));
            for (; row < last; row++)
                linear_add_row(n, values_load(d->y, dy, row * linear_ldy(d) + first + at, n, room), group);
            linear_add_row(n, group, total + at);
        }
    }
}

/* dbias = column sums of dy + beta dbias, in a pass of its own: a range of columns a thread. */
static void linear_backward_bias(const LinearDims *d, const void *dy, DType type, float beta, void *dbias,
                                 int threads)
{
    int64_t useful = d->rows * d->out / 16384 + 1;
    int parts = threads < 1 ? 1 : useful < threads ? (int)useful : threads;
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (parts > 1 && !omp_in_parallel())
    for (int i = 0; i < parts; i++) {
        float room[LINEAR_PIECE];
        int64_t end = gemm_bound(d->out, parts, i + 1);
        for (int64_t first = gemm_bound(d->out, parts, i), n; first < end; first += n) {
            n = product_least(end - first, LINEAR_PIECE);
            float *to = values_room(type, dbias, first, room);
            if (beta != 0)
                values_load(type, dbias, first, n, room);
            linear_sum_columns(d, dy, 0, d->rows, first, n, beta, to);
            values_store(type, n, to, dbias, first);
        }
    }
}

/* The same of floats, of the part of dy that has just been packed: so it comes from memory once. */
typedef struct LinearSums {
    const LinearDims *d;
    const void *dy;
    float beta, *dbias;
} LinearSums;

static void linear_sum_packed(const StoredProduct *p, int right, int64_t first, int64_t count, int64_t at,
                              int64_t depth)
{
    const LinearSums *s = p->user;
    if (right == s->d->in_out)
        linear_sum_columns(s->d, s->dy, at, at + depth, first, count, at ? 1.0f : s->beta, s->dbias + first);
}
_Static_assert(STORED_DEPTH % LINEAR_SUM_ROWS == 0, "the same groups of rows");

static void linear_backward_weight(const LinearDims *d, const void *x, const void *dy, DType dw_type,
                                   float beta_w, void *dw, DType dbias_type, float beta_b, void *dbias,
                                   void *workspace, const KernelRun *run)
{
    StoredArray left = {dy, d->y, d->rows, linear_ldy(d)}, right = {x, d->x, d->rows, d->in};
    LinearProduct p = linear_product(d, LINEAR_BACKWARD_WEIGHT);
    if (d->in_out) {
        StoredArray other = left;
        left = right;
        right = other;
    }
    LinearSums sums = {d, dy, beta_b, dbias};
    int blas = linear_is_blas(d, LINEAR_BACKWARD_WEIGHT, dw_type);
    int packed = dw && !blas && d->rows > 0 && d->in > 0 && d->y == DTYPE_F32 && dbias_type == DTYPE_F32;
    if (dbias && !packed)
        linear_backward_bias(d, dy, dbias_type, beta_b, dbias, run->threads);
    if (dw && blas)
        gemm(1, 0, p.m, p.n, p.k, 1.0f, left.at, left.cols, right.at, right.cols, beta_w, dw, p.n, run);
    else if (dw)
        stored_run(1, 0, p.m, p.n, p.k, 1.0f, &left, &right, beta_w, dw_type, dw, p.n,
                   dbias && packed ? linear_sum_packed : NULL, &sums, workspace, run);
}
