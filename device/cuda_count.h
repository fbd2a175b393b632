/* What is in use on a card, and who says so. */
#ifndef BRIM_DEVICE_CUDA_COUNT_H
#define BRIM_DEVICE_CUDA_COUNT_H

#include <stdint.h>

/* Best first. */
typedef enum CudaCounter {
    CUDA_COUNTS_PROCESS, /* NVIDIA's management library, of this process alone: its row in nvidia-smi */
    CUDA_COUNTS_CARD,    /* the same, of all programs on the card, where it does not tell this one's part */
    CUDA_COUNTS_DRIVER,  /* the driver, of all programs, once it has a context: where there is no such library
                          */
    CUDA_COUNTERS        /* nobody */
} CudaCounter;

/* At one moment, by all who answer. */
typedef struct CudaReading {
    uint64_t bytes[CUDA_COUNTERS];
    unsigned known; /* a bit a counter */
} CudaReading;

/* In the order in which a card is opened. The library is each context's own. */
typedef enum CudaMoment {
    CUDA_BEFORE,
    CUDA_AFTER_CONTEXT,
    CUDA_AFTER_KERNELS,
    CUDA_BEFORE_LIBRARY,
    CUDA_AFTER_LIBRARY,
    CUDA_BEFORE_TRANSPORT, /* where several ranks use their cards' own: else both are the moment before */
    CUDA_AFTER_TRANSPORT,
    CUDA_MOMENTS
} CudaMoment;

/* Bytes now, and of them what was taken while the card was opened: by the driver's context, the kernels,
 * cuBLAS and who carries between cards; what graphs have taken since, which the driver counts; and what
 * others had before: 0 where only this process is counted, and part of `context` where the driver counts. */
typedef struct CudaUse {
    CudaCounter counter;
    uint64_t used, others, context, kernels, library, transport, graphs;
} CudaUse;

/* nvml: the card there, or NULL. Where the calling thread has no context, the driver says nothing. */
void cuda_take_reading(void *nvml, CudaReading *reading);
/* By the best counter that answered at all moments. */
CudaUse cuda_use_between(const CudaReading moments[CUDA_MOMENTS], const CudaReading *now);

#endif
