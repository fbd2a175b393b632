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

static inline int64_t stored_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Floats of what a panel packs of A, and of A and B; A comes first. */
static inline int64_t stored_left(int64_t rows, int64_t k)
{
    int64_t depth = k < STORED_DEPTH ? k : STORED_DEPTH, line = 16; /* floats of a cache line */
    return stored_up(stored_up(rows < STORED_ROWS ? rows : STORED_ROWS, STORED_TILE_ROWS) * depth, line);
}

static inline int64_t stored_space(const GemmGrid *grid, int64_t k)
{
    int64_t depth = k < STORED_DEPTH ? k : STORED_DEPTH, cols = gemm_largest_part(grid->n, grid->cols);
    return stored_left(gemm_largest_part(grid->m, grid->rows), k) +
           stored_up(cols < STORED_COLS ? cols : STORED_COLS, STORED_TILE_COLS) * depth;
}

/* Bytes, of all panels. */
static inline size_t stored_workspace(int64_t m, int64_t n, int64_t k, int threads)
{
    GemmGrid grid = gemm_grid(m, n, k, threads);
    if (m <= 0 || n <= 0 || k <= 0)
        return 0;
    return (size_t)grid.rows * (size_t)grid.cols * (size_t)stored_space(&grid, k) * sizeof(float);
}

/* ---- The linear layer ------------------------------------------------------------------------ */

enum { FEW_ROWS = 8 }; /* above, sgemm is faster than gemv.c */

/* All rows are then in one block. */
static inline int linear_is_few(const LinearDims *d)
{
    return d->rows <= FEW_ROWS && d->in > 0;
}

/* Bytes that products with a weight of this type pack. */
static inline size_t linear_packed(const LinearDims *d, LinearPass pass, DType w, int threads)
{
    if (w == DTYPE_F32 || pass == LINEAR_BACKWARD_WEIGHT || (pass == LINEAR_FORWARD && linear_is_few(d)))
        return 0;
    return pass == LINEAR_FORWARD ? stored_workspace(d->rows, d->out, d->in, threads)
                                  : stored_workspace(d->rows, d->in, d->out, threads);
}

#endif
