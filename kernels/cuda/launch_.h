/* How the table's functions start kernels. */
#ifndef BRIM_CUDA_LAUNCH__H
#define BRIM_CUDA_LAUNCH__H

#include "../../device/cuda.h"
#include "arguments.h"

#define KERNEL(type, kernel, arguments) type cuda_##kernel arguments;
#include "../table.h"

enum {
#define PLAIN(name) CUDA_##name,
#define TYPED(name) CUDA_##name, CUDA_##name##_bf16, CUDA_##name##_f16,
#include "list.h"
    CUDA_KERNELS
};

enum { CUDA_THREADS = 256, CUDA_BLOCKS = 4096 }; /* of a grid that strides over its elements */

/* Blocks of such a grid over n elements. */
static inline int64_t cuda_blocks(int64_t n)
{
    int64_t blocks = (n + CUDA_THREADS - 1) / CUDA_THREADS;
    return blocks < 1 ? 1 : blocks > CUDA_BLOCKS ? CUDA_BLOCKS : blocks;
}

/* kernel + cuda_typed(type): that of the type, f32, bf16 or f16. */
static inline int cuda_typed(DType type)
{
    return type == DTYPE_BF16 ? 1 : type == DTYPE_F16 ? 2 : 0;
}

static inline Fault cuda_fault_of(const KernelRun *run)
{
    return (Fault){(unsigned long long *)run->fault, (unsigned long long)run->operation};
}

/* cuda_column_sum of rows that are ld elements apart. (elements.c) */
void cuda_column_sum_of(DType type, int64_t rows, int64_t c, int64_t ld, const void *dy, DType dbias_type,
                        float beta, void *dbias, float *workspace, const KernelRun *run);

/* Puts a kernel on the run's stream. What goes wrong is the device's fault from then on (device/cuda.h). */
void cuda_start(const KernelRun *run, int kernel, int64_t x, int64_t y, int64_t z, int threads,
                const void *arguments, size_t bytes);
#define LAUNCH(run, kernel, x, y, z, threads, arguments)                                                     \
    cuda_start(run, kernel, x, y, z, threads, &(arguments), sizeof(arguments))

#endif
