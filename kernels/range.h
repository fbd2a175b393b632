/* How element-wise kernels are cut up: fixed blocks, the same for any number of threads, and a serial path
 * where a parallel region (2-5 us) would cost more than it saves. */
#ifndef BRIM_RANGE_H
#define BRIM_RANGE_H

#include <stdint.h>

enum { RANGE_BLOCK = 4096, RANGE_SERIAL = 16384 };

static inline int64_t range_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Threads worth using on `work` elements. */
static inline int range_threads(int64_t work, int threads)
{
    return work < RANGE_SERIAL || threads < 1 ? 1 : threads;
}

/* Where part `index` of `parts` nearly equal parts of n begins; part `parts` begins at n. */
static inline int64_t range_begin(int64_t n, int64_t index, int64_t parts)
{
    return n / parts * index + range_min(index, n % parts);
}

#endif
