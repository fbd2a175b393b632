/* What workspace a CPU's kernels of a mixture of experts need, and where its parts lie; the reference has the
 * same. */
#ifndef BRIM_KERNELS_EXPERTS_CPU_H
#define BRIM_KERNELS_EXPERTS_CPU_H

#include "kernels/experts.h"
#include "kernels/grid.h"

/* Sums over tokens are taken in so many parts, whatever the number of threads. */
enum { EXPERTS_SLICES = 16 };

/* C (pairs,n) of op(B) of k terms a row: how it is cut, whoever has how many of the rows. */
static inline StoredCut experts_rows_cut(const ExpertsDims *d, int64_t n, int64_t k)
{
    GemmGrid grid = {experts_pairs(d), n, 1, 1};
    return stored_cut(&grid, k, d->type);
}

/* The gradient (m,n) of a matrix, of as many terms as there are pairs at most. */
static inline StoredCut experts_weights_cut(const ExpertsDims *d, int64_t m, int64_t n, DType type)
{
    GemmGrid grid = {m, n, 1, 1};
    return stored_cut(&grid, experts_pairs(d), type);
}

static inline int64_t experts_more(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Floats of a thread's own in forward: for packing, or for few rows of 16 bit as floats, and their sums. */
static inline int64_t experts_forward_space(const ExpertsDims *d)
{
    StoredCut up = experts_rows_cut(d, 2 * d->hidden, d->width),
              down = experts_rows_cut(d, d->width, d->hidden);
    int64_t space = experts_more(stored_space(&up), stored_space(&down));
    if (d->type != DTYPE_F32)
        space = experts_more(space, FEW_ROWS * (d->width + 2 * d->hidden));
    return stored_up(space, 16);
}

/* The same in backward; gradients that are not wanted have no products. */
static inline int64_t experts_backward_space(const ExpertsDims *d, int wanted, DType dgate_up, DType ddown)
{
    StoredCut h = experts_rows_cut(d, d->hidden, d->width), x = experts_rows_cut(d, d->width, 2 * d->hidden);
    StoredCut up = experts_weights_cut(d, 2 * d->hidden, d->width, dgate_up);
    StoredCut down = experts_weights_cut(d, d->width, d->hidden, ddown);
    int64_t space = stored_space(&h);
    if (wanted & 1)
        space = experts_more(space, stored_space(&x));
    if (wanted & 2)
        space = experts_more(space, stored_space(&up));
    if (wanted & 4)
        space = experts_more(space, stored_space(&down));
    return stored_up(space, 16);
}

/* Rows side by side, of x and of what comes out (pairs,width), and of what is in between (pairs,hidden); then
 * the threads' own. */
typedef struct ExpertsRoom {
    char *wide, *narrow;
    float *space;
} ExpertsRoom;

static inline ExpertsRoom experts_room(const ExpertsDims *d, void *workspace)
{
    size_t wide = experts_line(dtype_bytes(d->type, experts_pairs(d), d->width));
    size_t narrow = experts_line(dtype_bytes(d->type, experts_pairs(d), d->hidden));
    char *at = workspace;
    return (ExpertsRoom){at, at + wide, (float *)(void *)(at + wide + narrow)};
}

static inline size_t experts_cpu_workspace(const ExpertsDims *d, int backward, int wanted, DType dgate_up,
                                           DType ddown, const KernelRun *run)
{
    int64_t space = backward ? experts_backward_space(d, wanted, dgate_up, ddown) : experts_forward_space(d);
    size_t rows = experts_line(dtype_bytes(d->type, experts_pairs(d), d->width)) +
                  experts_line(dtype_bytes(d->type, experts_pairs(d), d->hidden));
    size_t sums = (size_t)EXPERTS_SLICES * (size_t)d->experts * sizeof(double);
    size_t bytes = rows + (size_t)(run->threads < 1 ? 1 : run->threads) * (size_t)space * sizeof(float);
    return bytes > sums ? bytes : sums;
}

#endif
