/* How products are cut up among threads: a function of sizes and threads only, so that whoever sizes
 * workspace knows it too. */
#ifndef BRIM_KERNELS_GRID_H
#define BRIM_KERNELS_GRID_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

/* Multiply-adds below which another thread costs more (a parallel region is 1 to 2 microseconds) than it
 * saves. */
#define GEMM_WORK_PER_THREAD 131072.0
/* Packing an element of A or B, in multiply-adds: what makes square panels better than long ones. */
enum { GEMM_PACK_COST = 32 };

/* C cut into rows x cols panels. */
typedef struct GemmGrid {
    int64_t m, n;
    int rows, cols;
} GemmGrid;

typedef struct GemmPanel {
    int64_t row, rows, col, cols;
} GemmPanel;

/* Where part i of `parts` begins: on a boundary of the BLAS library's tiles when parts are large. */
static inline int64_t gemm_bound(int64_t extent, int parts, int i)
{
    int64_t align = extent >= (int64_t)parts * 64 ? 16 : 4;
    int64_t units = (extent + align - 1) / align;
    int64_t bound = units * i / parts * align;
    return bound < extent ? bound : extent;
}

static inline int64_t gemm_largest_part(int64_t extent, int parts)
{
    int64_t largest = 0;
    for (int i = 0; i < parts; i++) {
        int64_t part = gemm_bound(extent, parts, i + 1) - gemm_bound(extent, parts, i);
        largest = part > largest ? part : largest;
    }
    return largest;
}

/* The grid whose largest panel is done first; a function of sizes and threads only. */
static inline GemmGrid gemm_grid(int64_t m, int64_t n, int64_t k, int threads)
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

static inline GemmPanel gemm_panel(const GemmGrid *grid, int index)
{
    int i = index / grid->cols, j = index % grid->cols;
    GemmPanel panel = {.row = gemm_bound(grid->m, grid->rows, i), .col = gemm_bound(grid->n, grid->cols, j)};
    panel.rows = gemm_bound(grid->m, grid->rows, i + 1) - panel.row;
    panel.cols = gemm_bound(grid->n, grid->cols, j + 1) - panel.col;
    return panel;
}

/* ---- Products of stored arrays -------------------------------------------------------------- */

/* What gemm_stored.c packs at once: (ROWS, DEPTH) of A, (DEPTH, COLS) of B, 108 KiB and 1.5 MiB, up to whole
 * tiles of the widest instruction set, so that workspace is the same for each. Deep and wide, for C is read
 * and written once a block, and what is decoded is used for all rows of A. */
enum { STORED_ROWS = 72, STORED_DEPTH = 384, STORED_COLS = 1024 };
enum { STORED_TILE_ROWS = 12, STORED_TILE_COLS = 32 };
/* A C of 16 bit is rounded once, so its sums are staged as floats until they are complete. Up to WHOLE terms,
 * all of B's columns in hand are packed at once, and a block of A's rows is staged; with more terms, STAGE
 * floats are, 1.5 MiB, so that B is packed rarely. */
enum { STORED_WHOLE = 1536, STORED_STAGE = 3 << 17 };

static inline int64_t stored_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static inline int64_t stored_least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How every panel is cut, and what it needs: a function of sizes, C's type and threads. */
typedef struct StoredCut {
    int64_t cols;     /* of B that are packed at once */
    int64_t rows, ld; /* of C that are staged at once, elements from one to the next; 0 = none are */
    int whole;        /* B is packed over all terms, and its blocks kept */
    int64_t left, right, stage; /* floats of workspace: A's block, then B's, then the staged part of C */
} StoredCut;

/* Of a C that is staged: equal parts of the panel. */
static inline void stored_cut_stage(StoredCut *cut, int64_t rows, int64_t cols, int64_t k)
{
    int64_t widest = STORED_COLS, most = STORED_ROWS;
    cut->whole = k <= STORED_WHOLE;
    if (cut->whole && k > STORED_DEPTH)
        widest = STORED_DEPTH * STORED_COLS / k / STORED_TILE_COLS * STORED_TILE_COLS;
    int64_t blocks = (cols + widest - 1) / widest;
    cut->cols = blocks > 1 ? stored_up((cols + blocks - 1) / blocks, STORED_TILE_COLS) : cols;
    cut->ld = stored_up(cut->cols, STORED_TILE_COLS) +
              16; /* rows of a tile fall into different sets of the cache */
    if (!cut->whole && STORED_STAGE / cut->ld > STORED_ROWS)
        most = STORED_STAGE / cut->ld / STORED_ROWS * STORED_ROWS;
    blocks = (rows + most - 1) / most;
    cut->rows = cut->whole ? stored_least(rows, most)
                           : stored_least(stored_up((rows + blocks - 1) / blocks, STORED_ROWS), rows);
    cut->stage = cut->rows * cut->ld;
}

static inline StoredCut stored_cut(const GemmGrid *grid, int64_t k, DType c)
{
    int64_t rows = gemm_largest_part(grid->m, grid->rows), cols = gemm_largest_part(grid->n, grid->cols);
    int64_t depth = stored_least(k, STORED_DEPTH), line = 16; /* floats of a cache line */
    StoredCut cut = {.cols = stored_least(cols, STORED_COLS)};
    if (rows <= 0 || cols <= 0)
        return cut;
    if (c != DTYPE_F32)
        stored_cut_stage(&cut, rows, cols, k);
    cut.left = stored_up(stored_up(stored_least(rows, STORED_ROWS), STORED_TILE_ROWS) * depth, line);
    cut.right = stored_up(cut.cols, STORED_TILE_COLS) * (cut.whole ? k : depth);
    return cut;
}

/* Floats of a panel's workspace. */
static inline int64_t stored_space(const StoredCut *cut)
{
    return cut->left + cut->right + cut->stage;
}

/* Bytes, of all panels of a product into a C of this type. */
static inline size_t stored_workspace(int64_t m, int64_t n, int64_t k, DType c, int threads)
{
    GemmGrid grid = gemm_grid(m, n, k, threads);
    StoredCut cut = stored_cut(&grid, k, c);
    return (size_t)grid.rows * (size_t)grid.cols * (size_t)stored_space(&cut) * sizeof(float);
}

/* ---- The linear layer ------------------------------------------------------------------------ */

enum { FEW_ROWS = 8 }; /* above, sgemm is faster than gemv.c */

/* All rows are then in one block. */
static inline int linear_is_few(const LinearDims *d)
{
    return d->rows <= FEW_ROWS && d->in > 0;
}

/* C (m,n), what a pass multiplies: y, the gradient of x, or that of W; k terms a sum. */
typedef struct LinearProduct {
    int64_t m, n, k;
} LinearProduct;

static inline LinearProduct linear_product(const LinearDims *d, LinearPass pass)
{
    if (pass == LINEAR_FORWARD)
        return (LinearProduct){d->rows, d->out, d->in};
    if (pass == LINEAR_BACKWARD_INPUT)
        return (LinearProduct){d->rows, d->in, d->out};
    return d->in_out ? (LinearProduct){d->in, d->out, d->rows} : (LinearProduct){d->out, d->in, d->rows};
}

/* Where brim's own product of floats is faster than OpenBLAS's, by up to 6 %, or as fast, with AVX2 and
 * AVX-512: where a packed block of B serves many rows and one of A many columns. With fewer, as with C so
 * wide that it is written far from any cache, a BLAS is as fast, or faster. With less work than some
 * milliseconds a thread, the workspace would be some percent of what a small model needs. A function of
 * shapes and of nothing else, so that plans are the same beside any BLAS, or none. */
enum { OWN_ROWS = 256, OWN_COLS = 256, OWN_COLS_MOST = 8192, OWN_TERMS = 32, OWN_WORK = 1 << 30 };
/* Of so few terms that one block holds them, C is written once and never read: that is faster by 3 to 10 %,
 * and pays with less work. */
enum { OWN_TERMS_ONCE = STORED_DEPTH, OWN_WORK_ONCE = 1 << 29 };

static inline int linear_is_faster(LinearProduct p)
{
    int shaped = p.m >= OWN_ROWS && p.n >= OWN_COLS && p.n <= OWN_COLS_MOST && p.k >= OWN_TERMS;
    double work = (double)p.m * (double)p.n * (double)p.k;
    return shaped && work >= (p.k <= OWN_TERMS_ONCE ? OWN_WORK_ONCE : OWN_WORK);
}

/* Whether a pass multiplies with the BLAS library, where there is one, and needs no workspace for it: all is
 * float, and its product is no slower than brim's own. w: the type of the weight, or of its gradient. */
static inline int linear_is_blas(const LinearDims *d, LinearPass pass, DType w)
{
    int floats = d->x == DTYPE_F32 && d->y == DTYPE_F32 && w == DTYPE_F32;
    return floats && !linear_is_faster(linear_product(d, pass));
}

/* Floats in which few rows of x lie decoded. */
static inline int64_t linear_few_x(const LinearDims *d)
{
    return d->x == DTYPE_F32 ? 0 : stored_up(d->rows * d->in, 16);
}

/* Bytes that a pass packs with a weight, or into a weight's gradient, of type w. */
static inline size_t linear_packed(const LinearDims *d, LinearPass pass, DType w, int threads)
{
    LinearProduct p = linear_product(d, pass);
    DType c = pass == LINEAR_FORWARD ? d->y : pass == LINEAR_BACKWARD_INPUT ? d->x : w;
    if (pass == LINEAR_FORWARD && linear_is_few(d))
        return (size_t)(linear_few_x(d) + (d->y == DTYPE_F32 ? 0 : d->rows * d->out)) * sizeof(float);
    return linear_is_blas(d, pass, w) ? 0 : stored_workspace(p.m, p.n, p.k, c, threads);
}

#endif
