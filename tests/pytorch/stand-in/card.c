/* What the card says of itself. PyTorch's kernels choose their grids by it, and with them their scratch
 * memory. */
#include "stand_in.h"

typedef struct Generation {
    int sm, built;                 /* the version of PyTorch's binaries that it runs */
    int threads, blocks;           /* resident on a processor */
    int shared_block, shared_most; /* bytes: a block's by opt-in, a processor's */
    int cache;                     /* MiB of L2 */
} Generation;

/* CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". */
static const Generation generations[] = {
    {75, 75, 1024, 16, 65536, 65536, 4},      {80, 80, 2048, 32, 166912, 167936, 40},
    {86, 86, 1536, 16, 101376, 102400, 6},    {89, 86, 1536, 24, 101376, 102400, 72},
    {90, 90, 2048, 32, 232448, 233472, 60},   {100, 100, 2048, 32, 232448, 233472, 126},
    {120, 120, 1536, 24, 101376, 102400, 96},
};

static const Generation *generation(void)
{
    long sm = setting("STAND_IN_SM", 90);
    for (size_t i = 0; i < sizeof generations / sizeof *generations; i++)
        if (generations[i].sm == sm)
            return &generations[i];
    return &generations[4];
}

static __thread int device;

int current_device(void)
{
    return device;
}

EXPORT cudaError_t cudaGetDeviceCount(int *count)
{
    *count = (int)setting("STAND_IN_DEVICES", 1);
    return cudaSuccess;
}

EXPORT cudaError_t cudaGetDevice(int *which)
{
    *which = device;
    return cudaSuccess;
}

EXPORT cudaError_t cudaSetDevice(int which)
{
    device = which;
    return cudaSuccess;
}

EXPORT cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

EXPORT cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

EXPORT cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *of, int which)
{
    const Generation *g = generation();
    memset(of, 0, sizeof *of);
    snprintf(of->name, sizeof of->name, "stand-in sm_%d", g->sm);
    of->totalGlobalMem = card_bytes();
    of->major = g->sm / 10;
    of->minor = g->sm % 10;
    of->multiProcessorCount = (int)setting("STAND_IN_PROCESSORS", 132);
    of->warpSize = 32;
    of->maxThreadsPerBlock = 1024;
    of->maxThreadsPerMultiProcessor = g->threads;
    of->maxThreadsDim[0] = of->maxThreadsDim[1] = 1024;
    of->maxThreadsDim[2] = 64;
    of->maxGridSize[0] = 2147483647;
    of->maxGridSize[1] = of->maxGridSize[2] = 65535;
    of->sharedMemPerBlock = 49152;
    of->sharedMemPerBlockOptin = (size_t)g->shared_block;
    of->sharedMemPerMultiprocessor = (size_t)g->shared_most;
    of->regsPerBlock = of->regsPerMultiprocessor = 65536;
    of->l2CacheSize = g->cache << 20;
    of->totalConstMem = 65536;
    of->memoryBusWidth = 6144;
    of->textureAlignment = 512;
    of->unifiedAddressing = of->managedMemory = of->concurrentKernels = of->canMapHostMemory = 1;
    of->asyncEngineCount = 3;
    of->maxBlocksPerMultiProcessor = g->blocks;
    of->pciBusID = which + 1;
    of->streamPrioritiesSupported = 1;
    return cudaSuccess;
}

#if CUDART_VERSION < 13000
EXPORT cudaError_t cudaGetDeviceProperties_v2(struct cudaDeviceProp *of, int which)
{
    return cudaGetDeviceProperties(of, which);
}
#endif

EXPORT cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int which)
{
    struct cudaDeviceProp of;
    cudaGetDeviceProperties(&of, which);
    switch ((int)attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
        *value = 1024;
        break;
    case cudaDevAttrMaxBlockDimZ:
        *value = 64;
        break;
    case cudaDevAttrMaxGridDimX:
        *value = 2147483647;
        break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
        *value = 65535;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = 49152;
        break;
    case cudaDevAttrWarpSize:
        *value = 32;
        break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor:
        *value = 65536;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = of.multiProcessorCount;
        break;
    case cudaDevAttrL2CacheSize:
        *value = of.l2CacheSize;
        break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = of.maxThreadsPerMultiProcessor;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = of.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = of.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = (int)of.sharedMemPerMultiprocessor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)of.sharedMemPerBlockOptin;
        break;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
        *value = of.maxBlocksPerMultiProcessor;
        break;
    default: /* questions that "yes" answers */
        *value = 1;
    }
    return cudaSuccess;
}

EXPORT cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *of, const void *function)
{
    (void)function;
    const Generation *g = generation();
    memset(of, 0, sizeof *of);
    of->maxThreadsPerBlock = 1024;
    of->numRegs = 32;
    of->ptxVersion = of->binaryVersion = g->built;
    of->maxDynamicSharedSizeBytes = g->shared_block;
    return cudaSuccess;
}

EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function,
                                                                 int threads, size_t shared)
{
    (void)function, (void)shared;
    const Generation *g = generation();
    *blocks = g->threads / (threads > 0 ? threads : 1);
    *blocks = *blocks < 1 ? 1 : *blocks > g->blocks ? g->blocks : *blocks;
    return cudaSuccess;
}

EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function,
                                                                          int threads, size_t shared,
                                                                          unsigned flags)
{
    (void)flags;
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared);
}

EXPORT cudaError_t cudaDeviceGetPCIBusId(char *name, int size, int which)
{
    snprintf(name, (size_t)size, "0000:%02x:00.0", which + 1);
    return cudaSuccess;
}

EXPORT cudaError_t cudaDeviceCanAccessPeer(int *can, int from, int to)
{
    (void)from, (void)to;
    *can = 1;
    return cudaSuccess;
}

EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}
