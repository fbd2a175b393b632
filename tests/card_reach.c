/* Memory of a test's that a real card can read: all of the program's own, registered with the driver.
 *
 * The heap is one piece (no block is mapped by itself), the stack is grown first, and the pages of the
 * program file are replaced by copies, which can be registered as the heap's can. */
#include "card_reach.h"

#include <dlfcn.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/cuda.h"

enum {
    RANGES = 512,
    ALREADY_REGISTERED = 712,
    STACK_BYTES = 1 << 20,
    HEAP_BYTES = 256 << 20,
    PORTABLE_MAPPED = 3
};
enum { LOWEST_POINTER = 1 << 16 };

typedef struct Range {
    uintptr_t start, end;
} Range;

static Range ranges[RANGES]; /* what the card can read */
static int range_count;
static struct CudaDevice *reaching;
static CudaDriver real; /* the table before it was made to wait */
static CudaBlas real_blas;
static char trouble[256];

int card_is_real(void)
{
    const char *which = getenv("BRIM_TEST_CARD");
    return which && !strcmp(which, "real");
}

/* Before the first block: one heap, which grows in large steps. */
__attribute__((constructor)) static void one_heap(void)
{
    if (!card_is_real())
        return;
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    mallopt(M_TOP_PAD, HEAP_BYTES);
}

/* ---- Registering --------------------------------------------------------------------------------- */

static int (*host_register)(void *, size_t, unsigned), (*host_unregister)(void *);

/* A driver without these is a stand-in, which reads everything. */
static void find_functions(void)
{
    const char *own = getenv("BRIM_CUDA_DRIVER");
    void *driver = dlopen(own ? own : "libcuda.so.1", RTLD_NOW);
    void *f = driver ? dlsym(driver, "cuMemHostRegister_v2") : NULL;
    memcpy(&host_register, &f, sizeof f); /* C has no cast from object to function pointer */
    f = driver ? dlsym(driver, "cuMemHostUnregister") : NULL;
    memcpy(&host_unregister, &f, sizeof f);
}

static void add(uintptr_t start, uintptr_t end)
{
    if (range_count < RANGES)
        ranges[range_count++] = (Range){start, end};
    else
        snprintf(trouble, sizeof trouble, "more than %d pieces of memory", RANGES);
}

static void add_registered(const char *what, uintptr_t start, uintptr_t end)
{
    int e = host_register ? host_register((void *)start, end - start, PORTABLE_MAPPED) : 0;
    if (e && e != ALREADY_REGISTERED)
        snprintf(trouble, sizeof trouble, "%s (%zu bytes) is not registered: error %d", what,
                 (size_t)(end - start), e);
    else
        add(start, end);
}

void card_reach_add(void *start, size_t bytes)
{
    if (reaching)
        add_registered("mapped memory", (uintptr_t)start, (uintptr_t)start + bytes);
    else if (card_is_real()) /* there is no card yet: card_reach registers it */
        add((uintptr_t)start, (uintptr_t)start + bytes);
}

void card_reach_drop(void *start)
{
    if (reaching && host_unregister)
        host_unregister(start);
    for (int i = 0; i < range_count; i++)
        if (ranges[i].start == (uintptr_t)start)
            ranges[i] = ranges[--range_count];
}

/* Pages of the file become anonymous ones of the same contents, at once: nothing runs in between. */
static void copy_pages(uintptr_t start, size_t bytes)
{
    void *copy = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
        return;
    memcpy(copy, (void *)start, bytes);
    mremap(copy, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)start);
}

static void grow_stack(void)
{
    volatile char deep[STACK_BYTES];
    for (size_t i = 0; i < sizeof deep; i += 4096)
        deep[i] = 0;
}

extern char __executable_start, end; /* of the linker */

typedef struct Piece {
    Range at;
    const char *what;
    int of_file;
} Piece;

/* Pieces of this program's memory that can be read and not run. */
static int pieces(Piece *all, int most)
{
    char line[4096], rights[8];
    int n = 0;
    unsigned long start, stop;
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps && n < most && fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx %7s", &start, &stop, rights) != 3 || rights[0] != 'r' || rights[2] == 'x')
            continue;
        int program = start >= (uintptr_t)&__executable_start && start < (uintptr_t)&end;
        const char *what = strstr(line, "[stack]")  ? "the stack"
                           : strstr(line, "[heap]") ? "the heap"
                           : program                ? "data of the program"
                                                    : NULL;
        if (what)
            all[n++] = (Piece){{start, stop}, what, program && strchr(line, '/') != NULL};
    }
    if (maps)
        fclose(maps);
    return n;
}

/* ---- Waiting ------------------------------------------------------------------------------------- */

static int within(uintptr_t at)
{
    for (int i = 0; i < range_count; i++)
        if (at >= ranges[i].start && at < ranges[i].end)
            return 1;
    return 0;
}

/* The heap may have grown. */
static void reach_heap(void)
{
    uintptr_t top = (uintptr_t)sbrk(0), last = 0;
    for (int i = 0; i < range_count; i++)
        if (ranges[i].end > last && ranges[i].end <= top)
            last = ranges[i].end;
    if (last && top > last && within(last - 1) && !within(top - 1))
        add_registered("the heap's growth", last, top);
}

/* A word that is an address of the host's and in no piece that the card reads: it would be an illegal access.
 */
static int stray(const void *arguments, size_t bytes)
{
    unsigned char resident;
    for (size_t at = 0; at + 8 <= bytes; at += 8) {
        uintptr_t word;
        memcpy(&word, (const char *)arguments + at, sizeof word);
        if ((word & 0xffffffffu) < LOWEST_POINTER /* a small number, and what is beside it */ || word >> 47 ||
            within(word))
            continue;
        if (mincore((void *)(word & ~(uintptr_t)4095), 1, &resident) == 0) {
            fprintf(stderr, "card_reach: the address %#lx at byte %zu of a kernel's arguments is not registered\n",
                    (unsigned long)word, at);
            return 1;
        }
    }
    return 0;
}

static int waited(int error)
{
    int after = real.stream_wait(reaching->stream);
    return error ? error : after;
}

static int launch(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                  unsigned shared, void *stream, void **parameters, void **extra)
{
    const void *arguments = NULL;
    size_t bytes = 0;
    for (void **at = extra; at && *at; at += 2)
        if ((uintptr_t)at[0] == 1)
            arguments = at[1];
        else
            memcpy(&bytes, at[1], sizeof bytes);
    reach_heap();
    if (arguments && stray(arguments, bytes))
        abort();
    return waited(real.launch(f, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra));
}

static int set32(CudaPointer to, unsigned value, size_t n, void *stream)
{
    return waited(real.set32(to, value, n, stream));
}

static int to_device(CudaPointer to, const void *from, size_t bytes, void *stream)
{
    return waited(real.to_device(to, from, bytes, stream));
}

static int to_host(void *to, CudaPointer from, size_t bytes, void *stream)
{
    return waited(real.to_host(to, from, bytes, stream));
}

static int on_device(CudaPointer to, CudaPointer from, size_t bytes, void *stream)
{
    return waited(real.on_device(to, from, bytes, stream));
}

static int alloc(CudaPointer *at, size_t bytes)
{
    int e = real.alloc(at, bytes);
    if (!e)
        add((uintptr_t)*at, (uintptr_t)*at + bytes);
    return e;
}

static int gemm(void *handle, int ta, int tb, int64_t m, int64_t n, int64_t k, const void *alpha,
                const void *a, int at, int64_t lda, const void *b, int bt, int64_t ldb, const void *beta,
                void *c, int ct, int64_t ldc, int compute, int way)
{
    reach_heap();
    return waited(real_blas.gemm(handle, ta, tb, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc,
                                 compute, way));
}

static int gemm_batched(void *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,
                        int at, int lda, long long sa, const void *b, int bt, int ldb, long long sb,
                        const void *beta, void *c, int ct, int ldc, long long sc, int count, int compute,
                        int way)
{
    reach_heap();
    return waited(real_blas.gemm_batched(handle, ta, tb, m, n, k, alpha, a, at, lda, sa, b, bt, ldb, sb, beta,
                                         c, ct, ldc, sc, count, compute, way));
}

const char *card_reach(struct CudaDevice *device)
{
    Piece all[64];
    if (reaching)
        return NULL;
    find_functions();
    free(malloc(1)); /* there is a heap */
    grow_stack();
    int n = pieces(all, 64), mapped = range_count;
    range_count = 0;
    for (int i = 0; i < mapped; i++) /* what is written is behind what is read, or the same */
        add_registered("mapped memory", ranges[i].start, ranges[i].end);
    for (int i = 0; i < n; i++)
        if (all[i].of_file)
            copy_pages(all[i].at.start, all[i].at.end - all[i].at.start);
    for (int i = 0; i < n; i++)
        add_registered(all[i].what, all[i].at.start, all[i].at.end);
    if (device->scratch)
        add(device->scratch, device->scratch + CUDA_SCRATCH);
    if (device->workspace)
        add(device->workspace, device->workspace + device->workspace_bytes);
    reaching = device;
    real = cuda;
    real_blas = cublas;
    cuda.launch = launch;
    cuda.set32 = set32;
    cuda.to_device = to_device;
    cuda.to_host = to_host;
    cuda.on_device = on_device;
    cuda.alloc = alloc;
    cublas.gemm = gemm;
    cublas.gemm_batched = gemm_batched;
    return trouble[0] ? trouble : NULL;
}
