/* graph: what is put on a card's stream, gathered in pieces of some dozen calls. A piece that comes again
 * goes as one graph of the driver's: the card then starts its kernels by itself. Whoever puts calls on the
 * stream knows nothing of it; what is shown and counted is the same.
 *
 * A piece is the same as one before when its calls are of the same kinds, in the same order, and everything
 * but the grids and the arguments of kernels is equal. Those may differ (a learning rate, a step's number,
 * the length of a cache): they are changed in the graph before it goes. The first time a piece goes call by
 * call, and so loads what is loaded on first use; the second time it is captured. Where the driver makes no
 * graph, or there is no memory for it, calls go one by one from then on. Copies between host and card
 * are in no piece, and end one: so those of a step's micro-batches begin at the same places. */
#ifndef BRIM_DEVICE_GRAPH_H
#define BRIM_DEVICE_GRAPH_H

#include "cuda.h"

typedef enum CudaCallKind { CUDA_CALL_LAUNCH, CUDA_CALL_CLEAR, CUDA_CALL_PRODUCT } CudaCallKind;

/* A call; what it is about follows: a kernel's arguments, a CudaClear or a CudaProduct. */
typedef struct CudaCall {
    CudaCallKind kind;
    uint32_t bytes;   /* that follow */
    int32_t function; /* of a launch: the kernel, its blocks and the threads of each */
    uint32_t x, y, z, threads;
    uint32_t unused;
} CudaCall;

typedef struct CudaClear {
    CudaPointer to;
    size_t words; /* of 32 bits, to 0 */
} CudaClear;

/* Begins to gather. 0, or -1 = no host memory. */
int cuda_graphs_begin(CudaDevice *device);
/* What is gathered goes; no graphs from here on. */
void cuda_graphs_end(CudaDevice *device);
/* Puts a call on the stream, or into the piece. */
void cuda_put(CudaDevice *device, CudaCall call, const void *about);
/* What is gathered goes to the card. */
void cuda_flush(CudaDevice *device);

/* The card has been waited for: what is gathered next begins a step of the device's. */
void cuda_graphs_waited_(CudaDevice *device);

/* cuda.c: does a call. Returns the driver's status, or cuBLAS's as CUDA_ERROR_OF_CUBLAS more. */
int cuda_call_(const CudaDevice *device, const CudaCall *call, const void *about);
/* A call that failed: its status is the device's error from here on. */
void cuda_call_failed_(CudaDevice *device, int status, const CudaCall *call, const void *about);

#endif
