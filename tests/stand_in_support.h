/* For tests of the stand-in itself: its driver in a process of its own, since its environment is read at the
 * start and its faults may end it. */
#ifndef BRIM_TESTS_STAND_IN_SUPPORT_H
#define BRIM_TESTS_STAND_IN_SUPPORT_H

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/cuda/arguments.h"

#if defined(__SANITIZE_ADDRESS__)
enum { WITH_ADDRESS = 1, WITH_THREAD = 0 };
#elif defined(__SANITIZE_THREAD__)
enum { WITH_ADDRESS = 0, WITH_THREAD = 1 };
#else
enum { WITH_ADDRESS = 0, WITH_THREAD = 0 };
#endif

typedef unsigned long long Pointer;
#define DRIVER(X)                                                                                            \
    X(cuInit, (unsigned))                                                                                    \
    X(cuDriverGetVersion, (int *))                                                                           \
    X(cuDeviceGetCount, (int *))                                                                             \
    X(cuDeviceGetAttribute, (int *, int, int))                                                               \
    X(cuDeviceGetName, (char *, int, int))                                                                   \
    X(cuDeviceTotalMem_v2, (size_t *, int))                                                                  \
    X(cuDevicePrimaryCtxRetain, (void **, int))                                                              \
    X(cuDevicePrimaryCtxRelease_v2, (int))                                                                   \
    X(cuCtxSetCurrent, (void *))                                                                             \
    X(cuMemGetInfo_v2, (size_t *, size_t *))                                                                 \
    X(cuMemAlloc_v2, (Pointer *, size_t))                                                                    \
    X(cuMemFree_v2, (Pointer))                                                                               \
    X(cuMemAllocHost_v2, (void **, size_t))                                                                  \
    X(cuMemFreeHost, (void *))                                                                               \
    X(cuMemcpyHtoDAsync_v2, (Pointer, const void *, size_t, void *))                                         \
    X(cuMemcpyDtoHAsync_v2, (void *, Pointer, size_t, void *))                                               \
    X(cuMemsetD32Async, (Pointer, unsigned, size_t, void *))                                                 \
    X(cuStreamCreate, (void **, unsigned))                                                                   \
    X(cuStreamSynchronize, (void *))                                                                         \
    X(cuStreamBeginCapture_v2, (void *, int))                                                                \
    X(cuStreamEndCapture, (void *, void **))                                                                 \
    X(cuGraphInstantiateWithFlags, (void **, void *, unsigned long long))                                    \
    X(cuGraphGetNodes, (void *, void **, size_t *))                                                          \
    X(cuGraphExecKernelNodeSetParams_v2, (void *, void *, const void *))                                     \
    X(cuGraphLaunch, (void *, void *))                                                                       \
    X(cuGraphExecDestroy, (void *))                                                                          \
    X(cuGraphDestroy, (void *))                                                                              \
    X(cuEventCreate, (void **, unsigned))                                                                    \
    X(cuEventRecord, (void *, void *))                                                                       \
    X(cuEventQuery, (void *))                                                                                \
    X(cuEventElapsedTime_v2, (float *, void *, void *))                                                      \
    X(cuEventDestroy_v2, (void *))                                                                           \
    X(cuModuleLoadDataEx, (void **, const void *, unsigned, int *, void **))                                 \
    X(cuModuleGetFunction, (void **, void *, const char *))                                                  \
    X(cuFuncSetAttribute, (void *, int, int))                                                                \
    X(cuLaunchKernel, (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, \
                       void **, void **))                                                                    \
    X(stand_in_counts, (unsigned long long *))                                                               \
    X(stand_in_fail_nth, (int))

typedef struct Driver {
#define X(name, arguments) int(*name) arguments;
    DRIVER(X)
#undef X
} Driver;
static Driver driver __attribute__((unused));

typedef struct Opened {
    void *context, *stream, *module;
    Pointer x, y;
} Opened;

/* In a child: nothing of the parent's is used. */
static inline void load_driver(void)
{
    static const char *const names[] = {
#define X(name, arguments) #name,
        DRIVER(X)
#undef X
    };
    const char *folder = getenv("BRIM_STAND_IN");
    char path[512];
    snprintf(path, sizeof path, "%s/libcuda-planted.so", folder ? folder : "build/stand-in");
    void *library = dlopen(path, RTLD_NOW), **to = (void **)&driver;
    if (!library)
        fprintf(stderr, "%s\n", dlerror()), _exit(90);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(to[i] = dlsym(library, names[i])))
            fprintf(stderr, "no %s\n", names[i]), _exit(91);
}

/* A card with 64 floats 0, 1, 2 … at x and as many that are garbage at y. */
static inline Opened open_card(void)
{
    Opened o;
    float x[64];
    for (int i = 0; i < 64; i++)
        x[i] = (float)i;
    load_driver();
    if (driver.cuInit(0) || driver.cuDevicePrimaryCtxRetain(&o.context, 0) ||
        driver.cuCtxSetCurrent(o.context) || driver.cuStreamCreate(&o.stream, 1) ||
        driver.cuModuleLoadDataEx(&o.module, NULL, 0, NULL, NULL) || driver.cuMemAlloc_v2(&o.x, sizeof x) ||
        driver.cuMemAlloc_v2(&o.y, sizeof x) || driver.cuMemcpyHtoDAsync_v2(o.x, x, sizeof x, o.stream))
        fprintf(stderr, "the card does not open\n"), _exit(92);
    return o;
}

static inline int launch(const Opened *o, const char *name, unsigned blocks, unsigned threads,
                         unsigned dynamic, const ElementArguments *a)
{
    void *function;
    size_t size = sizeof *a;
    void *extra[] = {(void *)1, (void *)(uintptr_t)a, (void *)2, &size, NULL};
    int status = driver.cuModuleGetFunction(&function, o->module, name);
    return status ? status
                  : driver.cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, dynamic, o->stream, NULL,
                                          extra);
}

static inline ElementArguments arguments_of(const Opened *o)
{
    return (ElementArguments){.n = 1, .a = (const void *)(uintptr_t)o->x, .y = (void *)(uintptr_t)o->y};
}

/* Runs it in a child, with NAME=value settings and NULL behind it. Returns what it wrote and its exit status,
 * of which a signal is 128 and more. */
static inline int in_child(char *said, size_t size, const char *const *settings, void (*run)(void *),
                           void *with)
{
    int pipes[2], status;
    size_t length = 0;
    fflush(NULL);
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(pipes[1], 1);
        dup2(pipes[1], 2);
        close(pipes[0]);
        close(pipes[1]);
        for (; settings && *settings; settings++)
            putenv((char *)(uintptr_t)*settings);
        run(with);
        fflush(NULL);
        _exit(0);
    }
    close(pipes[1]);
    for (ssize_t n; length + 1 < size && (n = read(pipes[0], said + length, size - 1 - length)) > 0;)
        length += (size_t)n;
    said[length] = '\0';
    close(pipes[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

#endif
