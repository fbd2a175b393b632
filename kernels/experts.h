/* What kernels of a mixture of experts share: where the routing lies, which experts a token goes to, and what
 * workspace a CPU needs. */
#ifndef BRIM_KERNELS_EXPERTS_H
#define BRIM_KERNELS_EXPERTS_H

#include "base/quant_layout_.h"
#include "kernels/grid.h"
#include "kernels/kernels.h"

enum { EXPERTS_MOST = 1024 }; /* experts of one layer */
/* Sums over tokens are taken in so many parts, whatever the number of threads. */
enum { EXPERTS_SLICES = 16 };

/* Of `rows` tokens and `experts`, by the sorted place of a pair (t,j), j < active. */
typedef struct ExpertsRouting {
    float *weight;   /* (rows,active): the largest logit's first */
    int32_t *expert; /* (rows,active) */
    int32_t *place;  /* (rows,active): of the pair among all, sorted by expert, then by token */
    int32_t *pair;   /* (pairs): t * active + j of the pair at this place */
    int32_t *offset; /* (experts + 1): the place of an expert's first pair */
} ExpertsRouting;

static inline int64_t experts_pairs(const ExpertsDims *d)
{
    return d->rows * d->active;
}

static inline size_t experts_routing_bytes(const ExpertsDims *d)
{
    return (size_t)(4 * experts_pairs(d) + d->experts + 1) * sizeof(int32_t);
}

static inline ExpertsRouting experts_routing(const ExpertsDims *d, const void *at)
{
    int64_t pairs = experts_pairs(d);
    int32_t *words = (int32_t *)(uintptr_t)at;
    return (ExpertsRouting){(float *)(uintptr_t)at, words + pairs, words + 2 * pairs, words + 3 * pairs,
                            words + 4 * pairs};
}

/* Bytes from one expert's matrix to the next one's: each is quantised by itself, and begins where loads of 16
 * bytes may. */
static inline uint64_t experts_stride(DType dtype, int64_t rows, int64_t cols)
{
    uint64_t bytes = dtype_bytes(dtype, rows, cols);
    return dtype_is_quantized(dtype) ? (bytes + 15) / 16 * 16 : bytes;
}

/* Of the expert e, where the first one's is `first`. */
static inline StoredArray experts_matrix(const StoredArray *first, int64_t e)
{
    StoredArray w = *first;
    w.at = (const char *)w.at + (uint64_t)e * experts_stride(w.dtype, w.rows, w.cols);
    return w;
}

static inline size_t experts_line(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* ---- On a CPU -------------------------------------------------------------------------------- */

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

/* ---- Routing --------------------------------------------------------------------------------- */

/* The `active` experts with the largest logits, the largest first; of equal ones, that of the lower number.
 * (That of softmax's values, as transformers has it, would be another one only where rounding makes different
 * logits equal.) NaN is never larger. */
static inline void experts_choose(int experts, int active, const float *logits, float *top, int32_t *chosen)
{
    int used = 0;
    for (int e = 0; e < experts; e++) {
        if (used == active && !(logits[e] > top[active - 1]))
            continue;
        int at = used < active ? used++ : active - 1;
        for (; at > 0 && logits[e] > top[at - 1]; at--) {
            top[at] = top[at - 1];
            chosen[at] = chosen[at - 1];
        }
        top[at] = logits[e];
        chosen[at] = e;
    }
}

/* What follows from the experts of all tokens: places, pairs and offsets. Within an expert tokens stay in
 * their order. */
static inline void experts_sort(const ExpertsDims *d, const ExpertsRouting *r)
{
    int64_t pairs = experts_pairs(d);
    for (int e = 0; e <= d->experts; e++)
        r->offset[e] = 0;
    for (int64_t i = 0; i < pairs; i++)
        r->offset[r->expert[i] + 1]++;
    for (int e = 0; e < d->experts; e++)
        r->offset[e + 1] += r->offset[e];
    for (int64_t i = 0; i < pairs; i++) {
        int32_t to = r->offset[r->expert[i]]++;
        r->place[i] = to;
        r->pair[to] = (int32_t)i;
    }
    for (int e = d->experts; e > 0; e--)
        r->offset[e] = r->offset[e - 1];
    r->offset[0] = 0;
}

#endif
