/* The driver's entry points that PyTorch asks the runtime for: expandable segments, which reserve addresses
 * and map pages. A name without a function here returns success. */
#include "stand_in.h"

#include <dlfcn.h>

enum { MOST = 1 << 20 };
static uint64_t made[MOST];
static uint64_t handles;

EXPORT int stand_in_cuMemAddressReserve(uint64_t *address, size_t bytes, size_t alignment, uint64_t at,
                                        unsigned long long flags)
{
    (void)alignment, (void)at, (void)flags;
    *address = reserve_addresses(bytes);
    return 0;
}

EXPORT int stand_in_cuMemCreate(uint64_t *handle, size_t bytes, const void *properties,
                                unsigned long long flags)
{
    (void)properties, (void)flags;
    if (handles + 1 >= MOST || books_take(bytes))
        return 2;
    made[ *handle = __sync_add_and_fetch(&handles, 1)] = bytes;
    return 0;
}

EXPORT int stand_in_cuMemRelease(uint64_t handle)
{
    if (handle && handle <= handles)
        books_give(made[handle], current_device());
    return 0;
}

EXPORT int stand_in_cuMemGetAllocationGranularity(size_t *bytes, const void *properties, int option)
{
    (void)properties, (void)option;
    *bytes = (size_t)2 << 20;
    return 0;
}

EXPORT int stand_in_cuCtxGetDevice(int *device)
{
    *device = current_device();
    return 0;
}

EXPORT int stand_in_cuDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return 0;
}

EXPORT int stand_in_cuDeviceGet(int *device, int which)
{
    *device = which;
    return 0;
}

EXPORT int stand_in_cuCtxGetCurrent(void **context)
{
    *context = (void *)0x10;
    return 0;
}

EXPORT int stand_in_cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active)
{
    (void)device;
    *flags = 0;
    *active = 1;
    return 0;
}

EXPORT int stand_in_cuGetErrorString(int error, const char **text)
{
    *text = error == 2 ? "out of memory" : "an error of the stand-in's driver";
    return 0;
}

EXPORT int stand_in_cuFuncGetAttribute(int *value, int attribute, void *function)
{
    (void)function;
    *value = attribute == 0 ? 1024 : 0; /* CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK */
    return 0;
}

EXPORT int stand_in_cuDeviceGetAttribute(int *value, int attribute, int device)
{
    return (int)cudaDeviceGetAttribute(value, (enum cudaDeviceAttr)attribute, device);
}

static int nothing(void)
{
    return 0;
}

static cudaError_t find(const char *name, void **function, enum cudaDriverEntryPointQueryResult *result)
{
    char full[128];
    snprintf(full, sizeof full, "stand_in_%s", name);
    void *found = dlsym(RTLD_DEFAULT, full);
    *function = found ? found : (void *)nothing;
    if (result)
        *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}

EXPORT cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                                    unsigned long long flags,
                                                    enum cudaDriverEntryPointQueryResult *result)
{
    (void)version, (void)flags;
    return find(name, function, result);
}

EXPORT cudaError_t cudaGetDriverEntryPoint(const char *name, void **function, unsigned long long flags,
                                           enum cudaDriverEntryPointQueryResult *result)
{
    (void)flags;
    return find(name, function, result);
}
