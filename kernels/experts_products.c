/* Products of a mixture of experts: a matrix an expert, whose rows of the other operand lie side by side, as
 * many as the routing gave it. Brim's own product multiplies, whatever the types: every sum is then the same
 * however the work is divided, so that it can be divided by what there is to do. A thread has a range of all
 * experts' work, counted in strips of C. Part of cpu.c. */
#include "kernels/experts_cpu.h"
#include "kernels/kernels.h"
#include "kernels/values.h"

#include <omp.h>

/* Columns, or rows, of C that one thread has to itself. */
enum { EXPERTS_STRIP_COLS = 64, EXPERTS_STRIP_ROWS = 24 };

/* C of every expert with rows: (rows,n) = A op(B); or, of its weights, (m,n) = A^T B + beta C, over its rows.
 */
typedef struct ExpertsProduct {
    const ExpertsDims *d;
    ExpertsRouting routing;
    int weights;
    const void *a, *b; /* (pairs,k), or (pairs,m) and (pairs,n): rows of every expert, of d->type */
    StoredArray w;     /* the first expert's matrix; of weights its gradient's */
    int trans_b, few;  /* few: few rows need not be packed */
    int64_t m, n, k;
    void *c;
    float beta;
    StoredCut cut;
    int64_t space; /* floats of a thread */
    float *spaces;
    const KernelRun *run;
} ExpertsProduct;

static int64_t experts_strip(const ExpertsProduct *p)
{
    return p->weights ? EXPERTS_STRIP_ROWS : EXPERTS_STRIP_COLS;
}

static int64_t experts_strips(const ExpertsProduct *p)
{
    int64_t extent = p->weights ? p->m : p->n;
    return (extent + experts_strip(p) - 1) / experts_strip(p);
}

static int64_t experts_rows(const ExpertsProduct *p, int64_t e)
{
    return p->routing.offset[e + 1] - p->routing.offset[e];
}

/* Of a strip of an expert, in multiply-adds of an element of its matrix. */
static int64_t experts_cost(const ExpertsProduct *p, int64_t e)
{
    int64_t rows = experts_rows(p, e);
    return rows ? rows + GEMM_PACK_COST : p->weights ? GEMM_PACK_COST / 4 : 0;
}

/* Few rows: each weight is read once, and used a few times. */
static void experts_few(const ExpertsProduct *p, int64_t e, int64_t col, int64_t cols, float *space)
{
    int64_t first = p->routing.offset[e];
    DType type = p->d->type;
    LinearDims d = {.rows = experts_rows(p, e), .in = p->k, .out = p->n, .x = type, .y = type};
    StoredArray w = experts_matrix(&p->w, e);
    const float *x = values_load(type, p->a, first * p->k, d.rows * p->k, space);
    float *y = type == DTYPE_F32 ? (float *)p->c + first * p->n : space + FEW_ROWS * p->k;
    if (w.dtype == DTYPE_F32) {
        few_columns(&d, col, cols, x, w.at, y, p->n);
    } else {
        Decoder decoded = decoder(&w);
        few_stored_columns(&d, col, cols, x, &decoded, y, p->n);
    }
    for (int64_t i = 0; i < d.rows; i++)
        values_store(type, cols, y + i * p->n + col, p->c, (first + i) * p->n + col);
}

static void experts_panel(const ExpertsProduct *p, int64_t e, int64_t begin, int64_t end, float *space)
{
    int64_t first = p->routing.offset[e], rows = experts_rows(p, e);
    DType type = p->d->type;
    StoredArray w = experts_matrix(&p->w, e);
    int64_t lda = p->weights ? p->m : p->k;
    StoredArray a = {values_at(type, p->a, first * lda), type, rows, lda}, b = w;
    GemmPanel panel = {0, rows, begin, end - begin};
    void *c = p->weights ? (void *)(uintptr_t)w.at : values_at(type, p->c, first * p->n);
    if (p->weights) {
        b = (StoredArray){values_at(type, p->b, first * p->n), type, rows, p->n};
        panel = (GemmPanel){begin, end - begin, 0, p->n};
    }
    StoredProduct product = {.a = decoder(&a),
                             .b = decoder(&b),
                             .trans_a = p->weights,
                             .trans_b = p->trans_b,
                             .k = p->weights ? rows : p->k,
                             .alpha = 1,
                             .beta = p->beta,
                             .c = c,
                             .c_type = p->weights ? w.dtype : type,
                             .ldc = p->n,
                             .cut = p->cut,
                             .store = stored_round,
                             .dots = stored_dots(&a, &b, p->run)};
    if (p->few && rows <= FEW_ROWS)
        experts_few(p, e, begin, end - begin, space);
    else
        stored_panel(&product, &panel, p->beta, space);
}

/* The strips that begin within [begin, end) of all work. */
static void experts_share(const ExpertsProduct *p, int64_t begin, int64_t end, float *space)
{
    int64_t strips = experts_strips(p), strip = experts_strip(p), extent = p->weights ? p->m : p->n;
    for (int64_t e = 0, at = 0, cost; e < p->d->experts; e++, at += cost * strips) {
        cost = experts_cost(p, e);
        if (cost == 0 || at >= end || at + cost * strips <= begin)
            continue;
        int64_t first = begin > at ? (begin - at + cost - 1) / cost : 0;
        int64_t last = product_least((end - at + cost - 1) / cost, strips);
        if (first < last)
            experts_panel(p, e, first * strip, product_least(last * strip, extent), space);
    }
}

static void experts_multiply(const ExpertsProduct *p)
{
    int64_t total = 0, strips = experts_strips(p);
    for (int64_t e = 0; e < p->d->experts; e++)
        total += experts_cost(p, e) * strips;
    double work = (double)experts_pairs(p->d) * (double)p->n * (double)(p->weights ? p->m : p->k) /
                  GEMM_WORK_PER_THREAD;
    int threads = p->run->threads < 1 || work < 2 ? 1 : p->run->threads;
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1 && !omp_in_parallel())
    for (int i = 0; i < threads; i++)
        experts_share(p, total * i / threads, total * (i + 1) / threads, p->spaces + i * p->space);
}
