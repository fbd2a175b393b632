/* How a kernel runs: handed from the context to every operation, and on to its kernels. */
#ifndef BRIM_KERNEL_RUN_H
#define BRIM_KERNEL_RUN_H

#include <stdint.h>

typedef struct KernelRun {
    int threads;    /* results depend on it */
    int64_t *fault; /* where a kernel writes the index of the first bad element of its input; -1 = none */
    struct CudaDevice *device; /* of a card; NULL on the CPU */
    int64_t operation;         /* number of the operation in its step, which a card puts down with a fault */
    int tf32;       /* 1: a card's products of f32 round their terms to TF32 (tensor/precision.h) */
    int dots;       /* multiply bf16 by dot instructions; tables whose name says so set it themselves */
} KernelRun;

#endif
