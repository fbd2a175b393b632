/* How tests call kernels: on(threads) is a run of so many threads, and fault() what the last one on that many
 * found. */
#ifndef BRIM_TESTS_KERNEL_RUN_H
#define BRIM_TESTS_KERNEL_RUN_H

#include "card_support.h"

enum { KERNEL_RUNS = 129 };

static int64_t kernel_faults[KERNEL_RUNS];

static inline const KernelRun *on(int threads)
{
    static KernelRun runs[KERNEL_RUNS];
    KernelRun *run = &runs[threads];
    *run = (KernelRun){.threads = threads, .fault = &kernel_faults[threads], .device = card()};
    kernel_faults[threads] = -1;
    return run;
}

static inline int64_t fault(int threads)
{
    return kernel_faults[threads];
}

/* An fp32 matrix as kernels take it. */
static inline StoredArray stored(const float *at, int64_t rows, int64_t cols)
{
    return (StoredArray){at, DTYPE_F32, rows, cols};
}

#endif
