/* cuda: the CUDA driver and cuBLAS, found at run time, and an open card. Declarations are our own: nothing of
 * NVIDIA's is needed to build. */
#ifndef BRIM_DEVICE_CUDA_H
#define BRIM_DEVICE_CUDA_H

#include <stddef.h>
#include <stdint.h>

#include "cuda_count.h"

typedef unsigned long long CudaPointer;
typedef struct CudaGraphs CudaGraphs; /* graph.h */

/* A kernel of a graph: CUDA_KERNEL_NODE_PARAMS of CUDA 12 and 13. */
typedef struct CudaKernelNode {
    void *function;
    unsigned grid[3], block[3], shared_bytes;
    void **parameters, **extra, *kernel, *context;
} CudaKernelNode;

/* name, symbol, arguments */
#define CUDA_FUNCTIONS(X)                                                                                    \
    X(init, "cuInit", (unsigned))                                                                            \
    X(driver_version, "cuDriverGetVersion", (int *))                                                         \
    X(device_count, "cuDeviceGetCount", (int *))                                                             \
    X(device_get, "cuDeviceGet", (int *, int))                                                               \
    X(device_name, "cuDeviceGetName", (char *, int, int))                                                    \
    X(device_attribute, "cuDeviceGetAttribute", (int *, int, int))                                           \
    X(device_uuid, "cuDeviceGetUuid_v2", (unsigned char *, int))                                             \
    X(context_retain, "cuDevicePrimaryCtxRetain", (void **, int))                                            \
    X(context_release, "cuDevicePrimaryCtxRelease_v2", (int))                                                \
    X(context_set, "cuCtxSetCurrent", (void *))                                                              \
    X(memory_info, "cuMemGetInfo_v2", (size_t *, size_t *))                                                  \
    X(alloc, "cuMemAlloc_v2", (CudaPointer *, size_t))                                                       \
    X(release, "cuMemFree_v2", (CudaPointer))                                                                \
    X(host_register, "cuMemHostRegister_v2", (void *, size_t, unsigned))                                     \
    X(host_unregister, "cuMemHostUnregister", (void *))                                                      \
    X(to_device, "cuMemcpyHtoDAsync_v2", (CudaPointer, const void *, size_t, void *))                        \
    X(to_host, "cuMemcpyDtoHAsync_v2", (void *, CudaPointer, size_t, void *))                                \
    X(on_device, "cuMemcpyDtoDAsync_v2", (CudaPointer, CudaPointer, size_t, void *))                         \
    X(set32, "cuMemsetD32Async", (CudaPointer, unsigned, size_t, void *))                                    \
    X(stream_create, "cuStreamCreate", (void **, unsigned))                                                  \
    X(stream_wait, "cuStreamSynchronize", (void *))                                                          \
    X(stream_destroy, "cuStreamDestroy_v2", (void *))                                                        \
    X(module_load, "cuModuleLoadDataEx", (void **, const void *, unsigned, int *, void **))                  \
    X(module_function, "cuModuleGetFunction", (void **, void *, const char *))                               \
    X(module_unload, "cuModuleUnload", (void *))                                                             \
    X(launch, "cuLaunchKernel",                                                                              \
      (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,        \
       void **))                                                                                             \
    X(capture_begin, "cuStreamBeginCapture_v2", (void *, int))                                               \
    X(capture_end, "cuStreamEndCapture", (void *, void **))                                                  \
    X(graph_make, "cuGraphInstantiateWithFlags", (void **, void *, unsigned long long))                      \
    X(capture_info, "cuStreamGetCaptureInfo_v2",                                                             \
      (void *, int *, unsigned long long *, void **, void *const **, size_t *))                              \
    X(graph_change, "cuGraphExecKernelNodeSetParams_v2", (void *, void *, const CudaKernelNode *))           \
    X(graph_launch, "cuGraphLaunch", (void *, void *))                                                       \
    X(graph_free, "cuGraphExecDestroy", (void *))                                                            \
    X(graph_forget, "cuGraphDestroy", (void *))                                                              \
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
/* Compute capabilities, times ten: the first that there are kernels for, the first with tensor cores for bf16
 * and for TF32, and the one that is planned for where nothing says which. */
enum { CUDA_OLDEST = 75, CUDA_BF16 = 80, CUDA_TF32 = 80, CUDA_NEWEST = 90 };

/* An open card, as one context uses it: a stream, on which everything goes, in order, and a cuBLAS handle.
 * The driver's context and the kernels are shared by all of the process. Calls return a status of the
 * driver's (0 = fine); the first that is not stays in `error`. */
typedef struct CudaDevice {
    int ordinal, capability, multiprocessors; /* capability: times ten, 90 */
    int error;
    char name[64];    /* the driver's, "NVIDIA H200" */
    char failed[160]; /* what was refused, and the error, where that is known */
    void *context, *stream, *module, *blas;
    void **function; /* of the module's kernels, in the order of their list */
    const char *const *names;
    int functions;
    size_t total; /* bytes of memory, as the driver says */
    void *nvml;   /* the card there, or NULL */
    CudaReading reading[CUDA_MOMENTS];
    CudaPointer workspace, scratch; /* cuBLAS's; CUDA_SCRATCH bytes: lent by who opened the card */
    size_t workspace_bytes;
    /* Host memory that the card reads and writes by itself: what is copied passes through it. */
    unsigned char *staging;
    size_t staging_bytes, staged; /* used since the last wait */
    CudaGraphs *graphs;           /* graph.h; NULL: every call goes to the driver by itself */
    size_t graph_bytes;           /* that the driver took for graphs */
    int64_t graph_launches;
} CudaDevice;

/* c = alpha op(a) op(b) + beta c, column by column as cuBLAS has them: op(a) is (m,k), op(b) (k,n). Types are
 * numbers of cudaDataType, with names for messages. */
typedef struct CudaProduct {
    int trans_a, trans_b;
    int64_t m, n, k;
    float alpha, beta;
    const void *a, *b;
    void *c;
    int64_t lda, ldb, ldc;
    int type, c_type, compute, unused; /* type: of a and b */
    const char *type_name, *c_type_name;
} CudaProduct;

/* Opens a card. 0, or -1 with a sentence that says what is missing, where it was looked for, and what would
 * work. image: the kernels, as cuModuleLoadDataEx takes them. Nothing of the card's memory is taken but what
 * driver and cuBLAS take by themselves. */
int cuda_open(CudaDevice *device, int ordinal, const void *image, char *why, size_t size);
/* How many cards this process may use; 0 where there is no driver. */
int cuda_cards(void);
/* Which card it is, wherever it is visible under which number. 0, or -1 where there is none. */
int cuda_identity(int ordinal, unsigned char identity[16]);
/* Whether the kernels of a card are loaded already: then cuda_open needs no image, as long as that stays. */
int cuda_loaded(int ordinal);
void cuda_close(CudaDevice *device);
/* The calling thread is about to use it. Nothing where it is not open. */
void cuda_use(const CudaDevice *device);
/* What is in use on it now; all 0 where it is not open. */
CudaUse cuda_in_use(const CudaDevice *device);
/* Of the driver (13000 is CUDA 13.0), and of cuBLAS, once a card is open; 0 = not known. */
int cuda_driver_version(void);
int cuda_blas_version(const CudaDevice *device);
/* Whether a card could be opened: fills name, capability and multiprocessors of *device. Takes none of its
 * memory, and nothing is open then. 0, or -1 with a sentence. */
int cuda_look(CudaDevice *device, int ordinal, char *why, size_t size);
/* What cuda_look is to say from here on, without the driver: a process that has started it cannot fork others
 * that use it, but may ask in one. NULL ends it. */
void cuda_look_known(const CudaDevice *found);
/* Bytes of workspace that cuBLAS should have on a card of this capability. */
size_t cuda_workspace_bytes(int capability);
/* Lends the card what kernels and cuBLAS work in: CUDA_SCRATCH bytes, and a multiple of 256. The caller's,
 * until another loan (0, 0, 0 ends it). */
int cuda_lend(CudaDevice *device, CudaPointer scratch, CudaPointer workspace, size_t workspace_bytes);
/* Lends it host memory to copy through, whole pages; NULL ends it. */
int cuda_stage(CudaDevice *device, void *memory, size_t bytes);
/* Looks up the module's kernels. */
int cuda_functions(CudaDevice *device, const char *const *names, int count, char *why, size_t size);
/* Puts a kernel of the list on the stream, in x * y * z blocks of so many threads. */
void cuda_launch(CudaDevice *device, int function, unsigned x, unsigned y, unsigned z, unsigned threads,
                 const void *arguments, size_t bytes);
/* Copies between the host and the card, in the stream's order. read waits for its end; write does not,
 * unless the staging is full: `from` may be changed at once. */
void cuda_read(CudaDevice *device, CudaPointer from, size_t bytes, void *to);
void cuda_write(CudaDevice *device, CudaPointer to, size_t bytes, const void *from);
void cuda_clear(CudaDevice *device, CudaPointer to, size_t bytes);
/* Puts a product on the stream. */
void cuda_product(CudaDevice *device, const CudaProduct *product);
enum { CUDA_ERROR_OF_CUBLAS = 10000 }; /* a status of cuBLAS's becomes the device's error, so much more */
/* Waits for all that is on the stream. Returns error. */
int cuda_wait(CudaDevice *device);
/* What went wrong on it: "CUDA_ERROR_LAUNCH_FAILED (719)"; and an error of the driver's. */
void cuda_failure(const CudaDevice *device, char *text, size_t size);
void cuda_error_text(int error, char *text, size_t size);

#endif
