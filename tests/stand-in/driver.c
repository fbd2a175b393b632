/* A stand-in for libcuda.so.1: one made-up card, whose memory is the host's and whose kernels are simt.c's.
 * Strict where a card is: nothing runs before somebody waits for it; device memory is not to be touched by
 * the host (STAND_IN_GUARD=1: its pages have no rights outside of kernels and copies); fresh memory is
 * garbage; launches over the limits fail; after a fault every call fails. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include "simt.h"

enum {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    INVALID_HANDLE = 400,
    LAUNCH_RESOURCES = 701,
    LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901
};
typedef unsigned long long Ptr;
#define API     __attribute__((visibility("default")))
#define GRANULE ((size_t)2 << 20)

typedef struct Work Work;
struct Work {
    Work *next;
    void (*run)(void *);
    size_t bytes;
    _Alignas(16) unsigned char data[];
};
typedef struct Queue {
    Work *first, **last;
} Queue;
typedef struct Block {
    struct Block *next;
    unsigned char *base;
    size_t bytes, mapped;
} Block;
typedef struct Graph {
    Queue queue;
    int nodes;
} Graph;

static struct {
    int initialised, fault, capturing, guard, deferred;
    size_t total, used;
    Block *blocks;
    Queue queue;
    Graph *capture;
    unsigned long long launches, syncs, copies;
} S = {.queue = {NULL, &S.queue.first}};

static void unmap(Block *b)
{
#ifdef __SANITIZE_ADDRESS__
    free(b->base);
#else
    munmap(b->base, b->mapped);
#endif
}
static size_t env_mib(const char *name, size_t otherwise)
{
    const char *v = getenv(name);
    return (v ? (size_t)strtoull(v, NULL, 10) : otherwise) << 20;
}
static void rights(int prot)
{
#ifdef __SANITIZE_ADDRESS__
    return;
#endif
    if (S.guard)
        for (Block *b = S.blocks; b; b = b->next)
            mprotect(b->base, b->mapped, prot);
}
static void push(Queue *q, void (*run)(void *), const void *data, size_t bytes)
{
    Work *w = malloc(sizeof *w + bytes);
    *w = (Work){.run = run, .bytes = bytes};
    memcpy(w->data, data, bytes);
    *q->last = w;
    q->last = &w->next;
}
static int drain(void)
{
    if (S.capturing)
        return CAPTURE_UNSUPPORTED;
    S.syncs++;
    if (S.queue.first) {
        rights(PROT_READ | PROT_WRITE);
        for (Work *w; (w = S.queue.first);) {
            if (!S.fault)
                w->run(w->data);
            S.queue.first = w->next;
            free(w);
        }
        S.queue.last = &S.queue.first;
        rights(PROT_NONE);
    }
    return S.fault;
}
/* cuBLAS's stand-in comes in here too. */
API int stand_in_enqueue(void (*run)(void *), const void *data, size_t bytes)
{
    if (S.fault)
        return S.fault;
    push(S.capturing ? &S.capture->queue : &S.queue, run, data, bytes);
    if (S.capturing)
        S.capture->nodes++;
    else if (!S.deferred)
        return drain();
    return OK;
}
API void stand_in_counts(unsigned long long out[4])
{
    out[0] = S.launches;
    out[1] = S.copies;
    out[2] = S.syncs;
    out[3] = S.used;
}

API int cuInit(unsigned flags)
{
    (void)flags;
    S.initialised = 1;
    S.total = env_mib("STAND_IN_MEMORY", 1024);
    S.guard = getenv("STAND_IN_GUARD") && atoi(getenv("STAND_IN_GUARD"));
    S.deferred = !getenv("STAND_IN_EAGER");
    return OK;
}
API int cuDriverGetVersion(int *v)
{
    *v = 13000;
    return OK;
}
API int cuDeviceGetCount(int *n)
{
    *n = 1;
    return S.initialised ? OK : NOT_INITIALIZED;
}
API int cuDeviceGet(int *d, int i)
{
    *d = i;
    return i == 0 ? OK : NO_DEVICE;
}
API int cuDeviceGetName(char *name, int n, int d)
{
    (void)d;
    snprintf(name, (size_t)n, "stand-in");
    return OK;
}
API int cuDeviceGetAttribute(int *v, int a, int d)
{
    (void)d;
    *v = a == 75 ? 9 : a == 76 ? 0 : a == 16 ? 4 /* multiprocessors */ : a == 97 ? 227 * 1024 : 0;
    return OK;
}
API int cuDeviceTotalMem_v2(size_t *n, int d)
{
    (void)d;
    *n = S.total;
    return OK;
}
API int cuDevicePrimaryCtxRetain(void **c, int d)
{
    (void)d;
    S.used += (size_t)16 << 20;
    *c = &S;
    return OK;
}
API int cuDevicePrimaryCtxRelease_v2(int d)
{
    (void)d;
    int status = drain();
    for (Block *b; (b = S.blocks); free(b)) {
        unmap(b);
        S.blocks = b->next;
    }
    S.used = 0;
    S.fault = 0;
    return status;
}
API int cuCtxSetCurrent(void *c)
{
    return c == &S || !c ? OK : INVALID_CONTEXT;
}
API int cuMemGetInfo_v2(size_t *free_, size_t *total)
{
    *free_ = S.total - S.used;
    *total = S.total;
    return S.fault;
}
API int cuMemAlloc_v2(Ptr *p, size_t n)
{
    size_t mapped = (n + GRANULE - 1) / GRANULE * GRANULE;
    if (S.fault || S.capturing)
        return S.fault ? S.fault : CAPTURE_UNSUPPORTED;
    if (n == 0)
        return INVALID_VALUE;
    if (mapped > S.total - S.used)
        return OUT_OF_MEMORY;
    Block *b = malloc(sizeof *b);
#ifdef __SANITIZE_ADDRESS__ /* a sanitizer sees the first byte too far */
    void *block;
    if (posix_memalign(&block, 256, n))
        return free(b), OUT_OF_MEMORY;
    b->base = block;
#else
    b->base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->base == MAP_FAILED)
        return free(b), OUT_OF_MEMORY;
#endif
    memset(b->base, 0xff, n);
    *b = (Block){S.blocks, b->base, n, mapped};
    S.blocks = b;
    S.used += mapped;
#ifndef __SANITIZE_ADDRESS__
    if (S.guard)
        mprotect(b->base, mapped, PROT_NONE);
#endif
    *p = (Ptr)(uintptr_t)b->base;
    return OK;
}
API int cuMemFree_v2(Ptr p)
{
    drain(); /* as the real one: waits */
    for (Block **at = &S.blocks; *at; at = &(*at)->next)
        if ((*at)->base == (unsigned char *)(uintptr_t)p) {
            Block *b = *at;
            *at = b->next;
            unmap(b);
            S.used -= b->mapped;
            free(b);
            return S.fault;
        }
    return INVALID_VALUE;
}
static int inside(Ptr p, size_t n)
{
    for (Block *b = S.blocks; b; b = b->next)
        if (p >= (uintptr_t)b->base && p + n <= (uintptr_t)b->base + b->bytes)
            return 1;
    return 0;
}
API int cuMemHostRegister_v2(void *p, size_t n, unsigned flags)
{
    (void)flags;
    return p && n ? OK : INVALID_VALUE;
}
API int cuMemHostUnregister(void *p)
{
    (void)p;
    return OK;
}

typedef struct Copy {
    void *to;
    const void *from;
    size_t n;
} Copy;
static void run_copy(void *d)
{
    const Copy *c = d;
    memmove(c->to, c->from, c->n);
}
static int copy(void *to, const void *from, size_t n)
{
    S.copies++;
    return stand_in_enqueue(run_copy, &(Copy){to, from, n}, sizeof(Copy));
}
API int cuMemcpyHtoDAsync_v2(Ptr to, const void *from, size_t n, void *s)
{
    (void)s;
    return inside(to, n) ? copy((void *)(uintptr_t)to, from, n) : INVALID_VALUE;
}
API int cuMemcpyDtoHAsync_v2(void *to, Ptr from, size_t n, void *s)
{
    (void)s;
    return inside(from, n) ? copy(to, (const void *)(uintptr_t)from, n) : INVALID_VALUE;
}
API int cuMemcpyDtoDAsync_v2(Ptr to, Ptr from, size_t n, void *s)
{
    (void)s;
    return inside(from, n) && inside(to, n) ? copy((void *)(uintptr_t)to, (const void *)(uintptr_t)from, n)
                                            : INVALID_VALUE;
}
typedef struct Set {
    unsigned *to, value;
    size_t n;
} Set;
static void run_set(void *d)
{
    const Set *s = d;
    for (size_t i = 0; i < s->n; i++)
        s->to[i] = s->value;
}
API int cuMemsetD32Async(Ptr to, unsigned value, size_t n, void *s)
{
    (void)s;
    return inside(to, n * 4)
               ? stand_in_enqueue(run_set, &(Set){(unsigned *)(uintptr_t)to, value, n}, sizeof(Set))
               : INVALID_VALUE;
}
API int cuStreamCreate(void **s, unsigned flags)
{
    (void)flags;
    *s = &S.queue;
    return OK;
}
API int cuStreamDestroy_v2(void *s)
{
    (void)s;
    return drain();
}
API int cuStreamSynchronize(void *s)
{
    (void)s;
    return drain();
}
API int cuCtxSynchronize(void)
{
    return drain();
}
API int cuEventCreate(void **e, unsigned flags)
{
    (void)flags;
    *e = calloc(1, sizeof(double));
    return OK;
}
static void run_event(void *d)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    **(double **)d = (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}
API int cuEventRecord(void *e, void *s)
{
    (void)s;
    return stand_in_enqueue(run_event, &e, sizeof e);
}
API int cuEventSynchronize(void *e)
{
    (void)e;
    return drain();
}
API int cuEventElapsedTime_v2(float *ms, void *a, void *b)
{
    *ms = (float)(*(double *)b - *(double *)a);
    return OK;
}
API int cuEventDestroy_v2(void *e)
{
    free(e);
    return OK;
}
API int cuStreamWaitEvent(void *s, void *e, unsigned f)
{
    (void)s;
    (void)e;
    (void)f;
    return OK;
}

API int cuModuleLoadDataEx(void **m, const void *image, unsigned n, int *o, void **v)
{
    (void)image;
    (void)n;
    (void)o;
    (void)v;
    *m = &S;
    return OK;
}
API int cuModuleUnload(void *m)
{
    (void)m;
    return OK;
}
API int cuModuleGetFunction(void **f, void *m, const char *name)
{
    (void)m;
    *f = (void *)(uintptr_t)simt_find(name);
    return *f ? OK : NOT_FOUND;
}
API int cuFuncSetAttribute(void *f, int a, int v)
{
    (void)f;
    (void)a;
    (void)v;
    return OK;
}

typedef struct Launch {
    const SimtKernel *kernel;
    SimtDim grid, block;
    _Alignas(16) unsigned char arguments[512];
} Launch;
static void run_launch(void *d)
{
    const Launch *l = d;
    if (simt_launch(l->kernel, l->grid, l->block, l->arguments)) {
        fprintf(stderr, "stand-in: %s\n", simt_error());
        S.fault = LAUNCH_FAILED;
    }
}
API int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                       unsigned shared, void *stream, void **parameters, void **extra)
{
    const SimtKernel *k = f;
    const void *buffer = NULL;
    size_t size = 0;
    (void)stream;
    if (S.fault)
        return S.fault;
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || gx > 2147483647u || !bx || !by || !bz)
        return INVALID_VALUE;
    if (bx * by * bz > k->threads || bz > 64 || shared > 227 * 1024)
        return bx * by * bz > 1024 ? INVALID_VALUE : LAUNCH_RESOURCES;
    if (parameters) {
        buffer = parameters[0];
        size = k->arguments;
    } else {
        for (; *extra; extra += 2)
            if ((uintptr_t)extra[0] == 1)
                buffer = extra[1];
            else
                size = *(const size_t *)extra[1];
    }
    Launch l = {k, {gx, gy, gz}, {bx, by, bz}, {0}};
    if (size != k->arguments || size > sizeof l.arguments)
        return INVALID_VALUE;
    memcpy(l.arguments, buffer, size);
    S.launches++;
    return stand_in_enqueue(run_launch, &l, sizeof l);
}
API int cuStreamBeginCapture_v2(void *s, int mode)
{
    (void)s;
    (void)mode;
    S.capturing = 1;
    S.capture = calloc(1, sizeof *S.capture);
    S.capture->queue.last = &S.capture->queue.first;
    return OK;
}
API int cuStreamEndCapture(void *s, void **g)
{
    (void)s;
    S.capturing = 0;
    *g = S.capture;
    return OK;
}
API int cuGraphInstantiateWithFlags(void **e, void *g, unsigned long long f)
{
    (void)f;
    *e = g;
    return OK;
}
API int cuGraphLaunch(void *e, void *s)
{
    (void)s;
    for (Work *w = ((Graph *)e)->queue.first; w; w = w->next)
        push(&S.queue, w->run, w->data, w->bytes);
    return S.deferred ? OK : drain();
}
API int cuGraphExecDestroy(void *e)
{
    for (Work *w = ((Graph *)e)->queue.first, *next; w; w = next) {
        next = w->next;
        free(w);
    }
    free(e);
    return OK;
}
API int cuGraphDestroy(void *g)
{
    (void)g;
    return OK;
}
API int cuGetErrorName(int e, const char **name)
{
    *name = e == OK              ? "CUDA_SUCCESS"
            : e == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
            : e == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED"
                                 : "CUDA_ERROR";
    return OK;
}
API int cuGetErrorString(int e, const char **text)
{
    return cuGetErrorName(e, text);
}
__attribute__((destructor)) static void counts(void)
{
    if (getenv("STAND_IN_COUNT"))
        fprintf(stderr, "stand-in: %llu launches, %llu copies, %llu waits, %llu threads, %llu switches\n",
                S.launches, S.copies, S.syncs, simt_threads_run, simt_switches);
}
