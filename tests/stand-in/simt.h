/* What kernels see instead of CUDA's built-ins when a C compiler makes them for the stand-in. A block's
 * threads are fibers of one thread of the host: a barrier and a warp's collective are switches between them.
 */
#ifndef BRIM_SIMT_H
#define BRIM_SIMT_H
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct SimtDim {
    unsigned x, y, z;
} SimtDim;
extern SimtDim simt_thread, simt_block, simt_block_size, simt_grid_size;

/* Each kernel registers itself: its name is what cuModuleGetFunction is asked for. */
typedef struct SimtKernel {
    const char *name;
    void (*run)(const void *arguments);
    unsigned arguments, threads;
    const struct SimtKernel *next;
} SimtKernel;
void simt_register(SimtKernel *kernel);

#define GLOBAL(name, threads_, Arguments) SIMT_KERNEL(name, threads_, Arguments)
#define SIMT_KERNEL(name, threads_, Arguments)                                                               \
    static void simt_body_##name(const Arguments a);                                                         \
    static void simt_run_##name(const void *arguments)                                                       \
    {                                                                                                        \
        simt_body_##name(*(const Arguments *)arguments);                                                     \
    }                                                                                                        \
    static SimtKernel simt_kernel_##name = {#name, simt_run_##name, sizeof(Arguments), threads_, NULL};      \
    __attribute__((constructor)) static void simt_register_##name(void)                                      \
    {                                                                                                        \
        simt_register(&simt_kernel_##name);                                                                  \
    }                                                                                                        \
    static void simt_body_##name(const Arguments a)
/* In a section of its own, so that it can be poisoned before each block. */
#define SHARED static __attribute__((section("simt_shared"), aligned(16)))
#define TABLE  static const __attribute__((unused))
#define DEVICE static inline __attribute__((always_inline, unused))

#define BLOCK      simt_block
#define THREAD     simt_thread
#define BLOCK_SIZE simt_block_size
#define GRID_SIZE  simt_grid_size

void simt_block_sync(int line);
void simt_warp_sync(void);
float simt_warp_xor(float v, int lanes);
float simt_warp_from(float v, int lane);
float simt_warp_fold(float v, int max);
void simt_mma_bf16(float c[4], const unsigned a[4], const unsigned b[2]);

#define block_sync()       simt_block_sync(__LINE__)
#define warp_sum(v)        simt_warp_fold(v, 0)
#define warp_max(v)        simt_warp_fold(v, 1)
#define warp_sync()        simt_warp_sync()
#define warp_xor(v, lanes) simt_warp_xor(v, lanes)
#define warp_from(v, lane) simt_warp_from(v, lane)
#define mma_bf16(c, a, b)  simt_mma_bf16(c, a, b)
DEVICE void atomic_min_u64(unsigned long long *p, unsigned long long v)
{
    unsigned long long was = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (v < was && !__atomic_compare_exchange_n(p, &was, v, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}
/* Runs a grid. 0, or -1 with simt_error() saying what a GPU would have hung on or refused. */
int simt_launch(const SimtKernel *kernel, SimtDim grid, SimtDim block, const void *arguments);
const SimtKernel *simt_find(const char *name);
const char *simt_error(void);
extern unsigned long long simt_switches, simt_threads_run;

#endif
