/* What kernels see instead of CUDA's built-ins when a C compiler makes them for the stand-in: the C half of
 * kernels/cuda/words.h. The threads of a block are fibers of one thread of the host (simt.c); a barrier and a
 * collective of a warp are meetings of fibers, and who waits for somebody who does not come is found. */
#ifndef BRIM_SIMT_H
#define BRIM_SIMT_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../../base/half_.h"

typedef struct SimtDim {
    unsigned x, y, z;
} SimtDim;
extern SimtDim simt_thread, simt_block, simt_block_size, simt_grid_size;

/* A kernel registers itself when the library is loaded: cuModuleGetFunction asks for it by name. */
typedef struct SimtKernel {
    const char *name;
    void (*run)(const void *arguments);
    unsigned arguments, threads;                /* bytes; the most of a block */
    unsigned char *shared_first, *shared_after; /* shared memory of all kernels of its file */
    unsigned dynamic;                           /* bytes of dynamic shared memory that it was allowed */
    struct SimtKernel *next;
} SimtKernel;
void simt_register(SimtKernel *kernel);

/* STAND_IN_FILE: the name of the kernels' file without .cu, from the Makefile. Shared memory lies in a
 * section of its own for each file, so that it can be made garbage before each block. */
#define SIMT_PASTE_(a, b) a##b
#define SIMT_PASTE(a, b)  SIMT_PASTE_(a, b)
#define SIMT_TEXT_(a)     #a
#define SIMT_TEXT(a)      SIMT_TEXT_(a)
#define SIMT_FIRST        SIMT_PASTE(__start_simt_shared_, STAND_IN_FILE)
#define SIMT_AFTER        SIMT_PASTE(__stop_simt_shared_, STAND_IN_FILE)
extern unsigned char SIMT_FIRST[] __attribute__((weak, visibility("hidden")));
extern unsigned char SIMT_AFTER[] __attribute__((weak, visibility("hidden")));

#define GLOBAL(name, threads_, Arguments) SIMT_KERNEL(name, threads_, Arguments) /* name may be a macro */
#define SIMT_KERNEL(name, threads_, Arguments)                                                               \
    static void simt_body_##name(const Arguments a);                                                         \
    static void simt_run_##name(const void *arguments)                                                       \
    {                                                                                                        \
        simt_body_##name(*(const Arguments *)arguments);                                                     \
    }                                                                                                        \
    static SimtKernel simt_kernel_##name = {                                                                 \
        #name, simt_run_##name, sizeof(Arguments), threads_, SIMT_FIRST, SIMT_AFTER, 0, NULL};               \
    __attribute__((constructor)) static void simt_register_##name(void)                                      \
    {                                                                                                        \
        simt_register(&simt_kernel_##name);                                                                  \
    }                                                                                                        \
    static void simt_body_##name(const Arguments a)
#define SHARED static __attribute__((section("simt_shared_" SIMT_TEXT(STAND_IN_FILE)), aligned(16)))
#define TABLE  static const __attribute__((unused))
#define DEVICE static inline __attribute__((always_inline, unused))
/* What the launch asked for, aligned to 16 bytes. */
extern unsigned char *simt_shared_dynamic;
#define SHARED_DYNAMIC simt_shared_dynamic

#define BLOCK      simt_block
#define THREAD     simt_thread
#define BLOCK_SIZE simt_block_size
#define GRID_SIZE  simt_grid_size
#define UNROLL

/* Every thread of the block, every lane of the warp. `here` is a place in the source, for messages: those who
 * meet must be at the same one. */
#define SIMT_HERE __FILE__ ":" SIMT_TEXT(__LINE__)
void simt_block_sync(const char *here);
enum { SIMT_LANES = 32, SIMT_WORDS = 8 };
typedef unsigned SimtWords[SIMT_WORDS];
/* The meeting that all collectives are made of: hands in `count` words of this lane, and returns those of all
 * lanes; they stay as they are until this lane's next collective. A further word for kernels is a function
 * over this one, in warp.c or in a file of its own. */
const SimtWords *simt_collect(const char *here, const unsigned *words, int count);
unsigned simt_lane(void);

unsigned simt_warp_xor_u32(const char *here, unsigned v, int lanes);
unsigned simt_warp_from_u32(const char *here, unsigned v, int lane);
uint64_t simt_warp_from_u64(const char *here, uint64_t v, int lane);
float simt_warp_xor_f32(const char *here, float v, int lanes);
float simt_warp_from_f32(const char *here, float v, int lane);
double simt_warp_xor_f64(const char *here, double v, int lanes);
double simt_warp_from_f64(const char *here, double v, int lane);
/* One meeting instead of five; the order of the sums is a card's. */
float simt_warp_sum_f32(const char *here, float v);
float simt_warp_max_f32(const char *here, float v);
double simt_warp_sum_f64(const char *here, double v);
void simt_mma_bf16(const char *here, float c[4], const unsigned a[4], const unsigned b[2]);
void simt_mma_f16(const char *here, float c[4], const unsigned a[4], const unsigned b[2]);

/* tiles.c */
void simt_copy16(void *to, const void *from, int in);
void simt_copy_commit(void);
void simt_copy_wait(int left);
void simt_load_matrices(const char *here, unsigned r[4], const void *row, int transposed);

#define block_sync()           simt_block_sync(SIMT_HERE)
#define warp_sync()            ((void)simt_collect(SIMT_HERE, NULL, 0))
#define warp_xor(v, lanes)     simt_warp_xor_f32(SIMT_HERE, v, lanes)
#define warp_from(v, lane)     simt_warp_from_f32(SIMT_HERE, v, lane)
#define warp_xor_f64(v, lanes) simt_warp_xor_f64(SIMT_HERE, v, lanes)
#define warp_xor_u32(v, lanes) simt_warp_xor_u32(SIMT_HERE, v, lanes)
#define warp_sum(v)            simt_warp_sum_f32(SIMT_HERE, v)
#define warp_max(v)            simt_warp_max_f32(SIMT_HERE, v)
#define warp_sum_f64(v)        simt_warp_sum_f64(SIMT_HERE, v)
#define mma_bf16(c, a, b)      simt_mma_bf16(SIMT_HERE, c, a, b)
#define mma_f16(c, a, b)       simt_mma_f16(SIMT_HERE, c, a, b)
#define copy16                 simt_copy16
#define copy_commit            simt_copy_commit
#define copy_wait              simt_copy_wait
#define load_matrices(r, row)  simt_load_matrices(SIMT_HERE, r, row, 0)
#define load_matrices_transposed(r, row) simt_load_matrices(SIMT_HERE, r, row, 1)

DEVICE unsigned pair_bf16(float low, float high)
{
    return (unsigned)half_to_bf16(low) | (unsigned)half_to_bf16(high) << 16;
}
DEVICE unsigned pair_f16(float low, float high)
{
    return (unsigned)half_to_f16(low) | (unsigned)half_to_f16(high) << 16;
}
DEVICE float exp2_near(float x)
{
    return exp2f(x);
}
DEVICE float fused(float a, float b, float c)
{
    return a * b + c;
}
DEVICE void load4(float x[4], const float *from)
{
    memcpy(x, __builtin_assume_aligned(from, 16), 16);
}
DEVICE void store4(float *to, const float x[4])
{
    memcpy(__builtin_assume_aligned(to, 16), x, 16);
}
DEVICE void atomic_min_u64(unsigned long long *p, unsigned long long v)
{
    unsigned long long was = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (v < was && !__atomic_compare_exchange_n(p, &was, v, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

/* ---- For the driver ---- */

const SimtKernel *simt_find(const char *name);
/* Runs a grid; dynamic: bytes of shared memory. 0, or -1 with simt_error() saying what a card would have hung
 * on, or refused, or done something undefined with. */
int simt_launch(const SimtKernel *kernel, SimtDim grid, SimtDim block, unsigned dynamic,
                const void *arguments);
const char *simt_error(void);
/* Where the kernel is that a signal interrupted: " in block (…), thread (…) of …". */
void simt_where(char *text, size_t size);
/* After a signal has left a kernel for good. */
void simt_abandon(void);
/* Blocks and threads from the last to the first: results may not depend on it. */
void simt_reverse(int on);
extern unsigned long long simt_switches, simt_threads_run;

#endif
