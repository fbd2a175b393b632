/* cuda: the CUDA driver and cuBLAS, found at run time, and an open card. Declarations are our own: nothing of
 * NVIDIA's is needed to build. */
#ifndef BRIM_DEVICE_CUDA_H
#define BRIM_DEVICE_CUDA_H

#include <stddef.h>
#include <stdint.h>

typedef unsigned long long CudaPointer;

/* name, symbol, arguments */
#define CUDA_FUNCTIONS(X)                                                                                    \
    X(init, "cuInit", (unsigned))                                                                            \
    X(driver_version, "cuDriverGetVersion", (int *))                                                         \
    X(device_count, "cuDeviceGetCount", (int *))                                                             \
    X(device_get, "cuDeviceGet", (int *, int))                                                               \
    X(device_name, "cuDeviceGetName", (char *, int, int))                                                    \
    X(device_attribute, "cuDeviceGetAttribute", (int *, int, int))                                           \
    X(context_retain, "cuDevicePrimaryCtxRetain", (void **, int))                                            \
    X(context_release, "cuDevicePrimaryCtxRelease_v2", (int))                                                \
    X(context_set, "cuCtxSetCurrent", (void *))                                                              \
    X(memory_info, "cuMemGetInfo_v2", (size_t *, size_t *))                                                  \
    X(alloc, "cuMemAlloc_v2", (CudaPointer *, size_t))                                                       \
    X(release, "cuMemFree_v2", (CudaPointer))                                                                \
    X(host_alloc, "cuMemAllocHost_v2", (void **, size_t))                                                    \
    X(host_free, "cuMemFreeHost", (void *))                                                                  \
    X(to_device, "cuMemcpyHtoDAsync_v2", (CudaPointer, const void *, size_t, void *))                        \
    X(to_host, "cuMemcpyDtoHAsync_v2", (void *, CudaPointer, size_t, void *))                                \
    X(on_device, "cuMemcpyDtoDAsync_v2", (CudaPointer, CudaPointer, size_t, void *))                         \
    X(set32, "cuMemsetD32Async", (CudaPointer, unsigned, size_t, void *))                                    \
    X(stream_create, "cuStreamCreate", (void **, unsigned))                                                  \
    X(stream_wait, "cuStreamSynchronize", (void *))                                                          \
    X(module_load, "cuModuleLoadDataEx", (void **, const void *, unsigned, int *, void **))                  \
    X(module_function, "cuModuleGetFunction", (void **, void *, const char *))                               \
    X(launch, "cuLaunchKernel",                                                                              \
      (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,        \
       void **))                                                                                             \
    X(capture_begin, "cuStreamBeginCapture_v2", (void *, int))                                               \
    X(capture_end, "cuStreamEndCapture", (void *, void **))                                                  \
    X(graph_make, "cuGraphInstantiateWithFlags", (void **, void *, unsigned long long))                      \
    X(graph_launch, "cuGraphLaunch", (void *, void *))                                                       \
    X(graph_free, "cuGraphExecDestroy", (void *))                                                            \
    X(error_name, "cuGetErrorName", (int, const char **))
#define CUBLAS_FUNCTIONS(X)                                                                                  \
    X(create, "cublasCreate_v2", (void **))                                                                  \
    X(destroy, "cublasDestroy_v2", (void *))                                                                 \
    X(version, "cublasGetVersion_v2", (void *, int *))                                                       \
    X(set_stream, "cublasSetStream_v2", (void *, void *))                                                    \
    X(set_workspace, "cublasSetWorkspace_v2", (void *, void *, size_t))                                      \
    X(set_math_mode, "cublasSetMathMode", (void *, int))                                                     \
    X(gemm, "cublasGemmEx_64",                                                                               \
      (void *, int, int, int64_t, int64_t, int64_t, const void *, const void *, int, int64_t, const void *,  \
       int, int64_t, const void *, void *, int, int64_t, int, int))                                          \
    X(gemm_batched, "cublasGemmStridedBatchedEx",                                                            \
      (void *, int, int, int, int, int, const void *, const void *, int, int, long long, const void *, int,  \
       int, long long, const void *, void *, int, int, long long, int, int, int))

typedef struct CudaDriver {
#define X(name, symbol, arguments) int(*name) arguments;
    CUDA_FUNCTIONS(X)
#undef X
} CudaDriver;
typedef struct CudaBlas {
#define X(name, symbol, arguments) int(*name) arguments;
    CUBLAS_FUNCTIONS(X)
#undef X
} CudaBlas;
/* Filled by the first cuda_open of the process that finds the libraries. */
extern CudaDriver cuda;
extern CudaBlas cublas;

enum { CUDA_SCRATCH = 1 << 20 }; /* bytes, of partial sums that kernels leave to one another */

/* An open card: one stream, on which everything goes, in order. Calls return a status of the driver's (0 =
 * fine); the first that is not stays in `error`. */
typedef struct CudaDevice {
    int ordinal, capability, multiprocessors; /* capability: times ten, 90 */
    int compute;                              /* cublasComputeType of f32 products */
    int error;
    char failed[160]; /* which product cuBLAS refused, where that is the error */
    void *context, *stream, *module, *blas;
    void **function; /* of the module's kernels, in the order of their list */
    int functions;
    size_t before, after_context, after_kernels, after_blas; /* free bytes of the card, as set-up goes on */
    CudaPointer workspace, scratch;                          /* cuBLAS's; CUDA_SCRATCH bytes */
    size_t workspace_bytes;
    void *pinned;
} CudaDevice;

/* Opens a card. 0, or -1 with a sentence that says what is missing, where it was looked for, and what would
 * work. image: the kernels, as cuModuleLoadDataEx takes them. */
int cuda_open(CudaDevice *device, int ordinal, const void *image, char *why, size_t size);
void cuda_close(CudaDevice *device);
/* Looks up the module's kernels. */
int cuda_functions(CudaDevice *device, const char *const *names, int count, char *why, size_t size);
/* Puts a kernel of the list on the stream, in x * y * z blocks of so many threads. */
void cuda_launch(CudaDevice *device, int function, unsigned x, unsigned y, unsigned z, unsigned threads,
                 const void *arguments, size_t bytes);
/* A status of cuBLAS's that is not 0 becomes the device's error, CUDA_ERROR_OF_CUBLAS more, with a sentence of
 * what it was for (printf's). */
enum { CUDA_ERROR_OF_CUBLAS = 10000 };
void cuda_blas_failed(CudaDevice *device, int status, const char *what, ...)
    __attribute__((format(printf, 3, 4)));
/* Waits for all that is on the stream. Returns error. */
int cuda_wait(CudaDevice *device);

#endif
