/* What kernels of a mixture of experts share: where the routing lies, and which experts a token goes to. */
#ifndef BRIM_KERNELS_EXPERTS_H
#define BRIM_KERNELS_EXPERTS_H

#include "base/quant_layout_.h"
#include "kernels/kernels.h"

enum { EXPERTS_MOST = 1024 }; /* experts of one layer */

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

/* Bytes from one expert's matrix to the next one's. */
static inline uint64_t experts_stride(DType dtype, int64_t rows, int64_t cols)
{
    return dtype_is_quantized(dtype) ? quant_stride(dtype, rows, cols) : dtype_bytes(dtype, rows, cols);
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
