/* The driver and cuBLAS by dlopen, and what an open card is asked for. */
#include "cuda.h"

#include <dlfcn.h>
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../memtrack/memtrack.h"

CudaDriver cuda;
CudaBlas cublas;

static int symbols(void *library, void *table, const char *const *names, size_t count, const char **missing)
{
    for (size_t i = 0; i < count; i++) {
        void *f = dlsym(library, names[i]);
        if (!f)
            return *missing = names[i], -1;
        memcpy((char *)table + i * sizeof f, &f,
               sizeof f); /* C has no cast from object to function pointer */
    }
    return 0;
}
static const char *const cuda_names[] = {
#define X(name, symbol, arguments) symbol,
    CUDA_FUNCTIONS(X)
#undef X
};
static const char *const cublas_names[] = {
#define X(name, symbol, arguments) symbol,
    CUBLAS_FUNCTIONS(X)
#undef X
};

/* What BRIM_CUBLAS names, what the linker finds, the toolkit's folder, Python wheels (cu12:
 * nvidia/cublas/lib; cu13: nvidia/cu13/lib). cublasLt is loaded first where it lies beside it: wheels'
 * RUNPATHs differ. */
static void *find_cublas(char *path, size_t size)
{
    static const char *const sonames[] = {"libcublas.so.13", "libcublas.so.12"};
    const char *own = getenv("BRIM_CUBLAS"), *venv = getenv("VIRTUAL_ENV");
    void *library;
    if (own)
        return snprintf(path, size, "%s", own), dlopen(own, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; i < 2; i++)
        if ((library = dlopen(sonames[i], RTLD_NOW | RTLD_LOCAL)))
            return snprintf(path, size, "%s", sonames[i]), library;
    const char *const roots[] = {"/usr/local/cuda/lib64",
                                 "/usr/local/cuda-1[23]*/lib64",
                                 "/usr/lib/x86_64-linux-gnu",
                                 venv ? venv : "/nowhere",
                                 "/usr/local",
                                 "/usr",
                                 getenv("HOME") ? getenv("HOME") : "/nowhere"};
    static const char *const inside[] = {"",
                                         "/lib/python3*/site-packages/nvidia/cu13/lib",
                                         "/lib/python3*/site-packages/nvidia/cublas/lib",
                                         "/lib/python3*/dist-packages/nvidia/cu13/lib",
                                         "/lib/python3*/dist-packages/nvidia/cublas/lib",
                                         "/.local/lib/python3*/site-packages/nvidia/cu13/lib",
                                         "/.local/lib/python3*/site-packages/nvidia/cublas/lib"};
    for (size_t r = 0; r < sizeof roots / sizeof *roots; r++)
        for (size_t n = 0; n < sizeof inside / sizeof *inside; n++)
            for (size_t i = 0; i < 2; i++) {
                char pattern[1024];
                glob_t found;
                snprintf(pattern, sizeof pattern, "%s%s/%s", roots[r], inside[n], sonames[i]);
                if (glob(pattern, 0, NULL, &found))
                    continue;
                snprintf(path, size, "%s", found.gl_pathv[0]);
                globfree(&found);
                char light[1100];
                snprintf(light, sizeof light, "%.*s/libcublasLt.so.%s", (int)(strrchr(path, '/') - path),
                         path, sonames[i] + 13);
                dlopen(light, RTLD_NOW | RTLD_GLOBAL);
                if ((library = dlopen(path, RTLD_NOW | RTLD_LOCAL)))
                    return library;
            }
    return NULL;
}

int cuda_open(CudaDevice *d, int ordinal, const void *image, char *why, size_t size)
{
    const char *missing, *name = getenv("BRIM_CUDA_DRIVER");
    char path[1024];
    int version = 0, count = 0, e;
    size_t total;
    *d = (CudaDevice){.compute = 68};
    void *library = dlopen(name ? name : "libcuda.so.1", RTLD_NOW | RTLD_GLOBAL), *blas;
    if (!library)
        return snprintf(why, size, "no driver: %s", dlerror()), -1;
    if (symbols(library, &cuda, cuda_names, sizeof cuda_names / sizeof *cuda_names, &missing))
        return snprintf(why, size, "the driver is too old: it has no %s", missing), -1;
    if ((e = cuda.init(0)) || (e = cuda.device_count(&count)) || !count)
        return snprintf(why, size, "the driver found no card (error %d)", e), -1;
    cuda.driver_version(&version);
    if (version < 12000)
        return snprintf(why, size, "the driver serves CUDA %d.%d; 12.0 is the oldest", version / 1000,
                        version % 1000 / 10),
               -1;
    int major = 0, minor = 0;
    cuda.device_get(&d->ordinal, ordinal);
    cuda.device_attribute(&major, 75, d->ordinal);
    cuda.device_attribute(&minor, 76, d->ordinal);
    d->capability = major * 10 + minor;
    cuda.device_attribute(&d->multiprocessors, 16, d->ordinal);
    if ((e = cuda.context_retain(&d->context, d->ordinal)) || (e = cuda.context_set(d->context)))
        return snprintf(why, size, "no context (error %d)", e), -1;
    cuda.memory_info(&d->after_context, &total);
    d->before = total;
    if ((e = cuda.stream_create(&d->stream, 1 /* non-blocking */)) ||
        (e = cuda.module_load(&d->module, image, 0, NULL, NULL)))
        return snprintf(why, size, "no kernels for this card (error %d)", e), -1;
    cuda.memory_info(&d->after_kernels, &total);
    if (!(blas = find_cublas(path, sizeof path)))
        return snprintf(why, size,
                        "no cuBLAS: install it (pip install nvidia-cublas), or name it in BRIM_CUBLAS"),
               -1;
    if (symbols(blas, &cublas, cublas_names, sizeof cublas_names / sizeof *cublas_names, &missing))
        return snprintf(why, size, "%s has no %s", path, missing), -1;
    d->workspace_bytes = d->capability >= 90 ? (size_t)32 << 20 : (size_t)4 << 20;
    if ((e = cuda.alloc(&d->scratch, 1 << 20)) || (e = cuda.alloc(&d->workspace, d->workspace_bytes)) ||
        (e = cuda.host_alloc(&d->pinned, 1 << 20)))
        return snprintf(why, size, "no room on the card"), -1;
    if (cublas.create(&d->blas) || cublas.set_stream(d->blas, d->stream) || /* which forgets the workspace */
        cublas.set_workspace(d->blas, (void *)(uintptr_t)d->workspace, d->workspace_bytes) ||
        cublas.set_math_mode(d->blas, 16 /* parts of 16-bit sums meet in f32 */))
        return snprintf(why, size, "cuBLAS did not start"), -1;
    cuda.memory_info(&d->after_blas, &total);
    snprintf(why, size, "%s", path);
    return 0;
}
void cuda_close(CudaDevice *d)
{
    memtrack_host_free(NULL, d->function, (size_t)d->functions * sizeof *d->function);
    if (d->blas)
        cublas.destroy(d->blas);
    if (d->context) {
        cuda.host_free(d->pinned);
        cuda.release(d->workspace);
        cuda.release(d->scratch);
        cuda.context_release(d->ordinal);
    }
    *d = (CudaDevice){0};
}
int cuda_functions(CudaDevice *d, const char *const *names, int count, char *why, size_t size)
{
    d->function = memtrack_host_calloc(NULL, (size_t)count * sizeof *d->function);
    d->functions = d->function ? count : 0;
    if (!d->function)
        return snprintf(why, size, "no host memory for %d kernels", count), -1;
    for (int i = 0; i < count; i++)
        if (cuda.module_function(&d->function[i], d->module, names[i]))
            return snprintf(why, size, "the module has no kernel %s", names[i]), -1;
    return 0;
}

static void keep(CudaDevice *d, int error)
{
    if (error && !d->error)
        d->error = error;
}

void cuda_launch(CudaDevice *d, int function, unsigned x, unsigned y, unsigned z, unsigned threads,
                 const void *arguments, size_t bytes)
{
    void *extra[] = {(void *)1, (void *)(uintptr_t)arguments, (void *)2, &bytes, NULL};
    keep(d, cuda.launch(d->function[function], x, y, z, threads, 1, 1, 0, d->stream, NULL, extra));
}

static const char *blas_status(int status)
{
    switch (status) {
    case 1:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case 3:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case 7:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case 8:
        return "CUBLAS_STATUS_ARCH_MISMATCH";
    case 11:
        return "CUBLAS_STATUS_MAPPING_ERROR";
    case 13:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    case 14:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    case 15:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
        return "an unknown status";
    }
}

void cuda_blas_failed(CudaDevice *d, int status, const char *what, ...)
{
    va_list list;
    if (d->error)
        return;
    keep(d, CUDA_ERROR_OF_CUBLAS + status);
    int used = snprintf(d->failed, sizeof d->failed, "cuBLAS: %s (%d) for ", blas_status(status), status);
    va_start(list, what);
    vsnprintf(d->failed + used, sizeof d->failed - (size_t)used, what, list);
    va_end(list);
}

int cuda_wait(CudaDevice *d)
{
    keep(d, cuda.stream_wait(d->stream));
    return d->error;
}
