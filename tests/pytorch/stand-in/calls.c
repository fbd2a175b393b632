/* Streams, events, kernels and errors: accepted, and nothing happens. */
#include "stand_in.h"

static __thread cudaError_t last;

void set_error(cudaError_t error)
{
    last = error;
}

void *new_handle(void)
{
    static uint64_t handles = 0x1000;
    return (void *)__sync_add_and_fetch(&handles, 16);
}

EXPORT const char *cudaGetErrorString(cudaError_t error)
{
    static __thread char text[64];
    snprintf(text, sizeof text, "error %d of the stand-in", (int)error);
    return error == cudaErrorMemoryAllocation ? "out of memory" : error ? text : "no error";
}

EXPORT const char *cudaGetErrorName(cudaError_t error)
{
    return error ? "cudaErrorStandIn" : "cudaSuccess";
}

EXPORT cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last;
    last = cudaSuccess;
    return error;
}

EXPORT cudaError_t cudaPeekAtLastError(void)
{
    return last;
}

EXPORT cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    *stream = new_handle();
    return cudaSuccess;
}

EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    (void)flags;
    return cudaStreamCreate(stream);
}

EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority)
{
    (void)flags, (void)priority;
    return cudaStreamCreate(stream);
}

EXPORT cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority)
{
    (void)stream;
    *priority = 0;
    return cudaSuccess;
}

EXPORT cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    *event = new_handle();
    return cudaSuccess;
}

EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    (void)flags;
    return cudaEventCreate(event);
}

EXPORT cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to)
{
    (void)from, (void)to;
    *milliseconds = 0;
    return cudaSuccess;
}

EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    (void)stream;
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

#if CUDART_VERSION >= 13000
EXPORT cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                            unsigned long long *id, cudaGraph_t *graph,
                                            const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                                            size_t *count)
{
    if (edges)
        *edges = NULL;
#else
EXPORT cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                               unsigned long long *id, cudaGraph_t *graph,
                                               const cudaGraphNode_t **nodes, size_t *count)
{
#endif
    (void)stream;
    if (status)
        *status = cudaStreamCaptureStatusNone;
    if (id)
        *id = 0;
    if (graph)
        *graph = NULL;
    if (nodes)
        *nodes = NULL;
    if (count)
        *count = 0;
    return cudaSuccess;
}

#if CUDART_VERSION < 13000
EXPORT cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                            unsigned long long *id, cudaGraph_t *graph,
                                            const cudaGraphNode_t **nodes, size_t *count)
{
    return cudaStreamGetCaptureInfo_v2(stream, status, id, graph, nodes, count);
}
#endif

EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode)
{
    (void)mode;
    return cudaSuccess;
}

EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *argument)
{
    (void)stream;
    function(argument);
    return cudaSuccess;
}

EXPORT cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void *argument,
                                         unsigned flags)
{
    (void)flags;
    function(stream, cudaSuccess, argument);
    return cudaSuccess;
}

/* What nvcc's stubs around <<<…>>> call. */
static __thread struct {
    dim3 grid, block;
    size_t shared;
    void *stream;
} launch;

EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream)
{
    launch.grid = grid;
    launch.block = block;
    launch.shared = shared;
    launch.stream = stream;
    return 0;
}

EXPORT cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream)
{
    *grid = launch.grid;
    *block = launch.block;
    *shared = launch.shared;
    *(void **)stream = launch.stream;
    return cudaSuccess;
}

static cudaError_t launched(void)
{
    forget_writes();
    return cudaSuccess;
}

EXPORT cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments,
                                    size_t shared, cudaStream_t stream)
{
    (void)function, (void)grid, (void)block, (void)arguments, (void)shared, (void)stream;
    return launched();
}

EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *how, const void *function, void **arguments)
{
    (void)how, (void)function, (void)arguments;
    return launched();
}

EXPORT cudaError_t __cudaLaunchKernel(void)
{
    return launched();
}

EXPORT void **__cudaRegisterFatBinary(void *binary)
{
    static void *registered[8];
    (void)binary;
    return registered;
}

EXPORT void __cudaRegisterFatBinaryEnd(void **handle)
{
    (void)handle;
}

EXPORT void __cudaUnregisterFatBinary(void **handle)
{
    (void)handle;
}

EXPORT cudaError_t __cudaGetKernel(void **kernel, const void *function)
{
    *kernel = (void *)function;
    return cudaSuccess;
}
