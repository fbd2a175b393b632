/* The words that kernels for a card are written in: the part of CUDA C that is C11 as well. nvcc compiles
 * them for cards; a C compiler makes of the same text what tests/stand-in runs, where the threads of a block
 * are fibers (simt.h). All inline assembly is here. */
#ifndef BRIM_CUDA_WORDS_H
#define BRIM_CUDA_WORDS_H

#include "../../base/half_.h"
#include "arguments.h"

#ifdef __CUDACC__

/* GLOBAL(name, threads, Arguments) { … a.n … }: a kernel, the most threads that its block has, and what it is
 * given, by value, as `a`. */
#define GLOBAL(name, threads, Arguments)                                                                     \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ Arguments a)
#define SHARED __shared__
/* Bytes that the launch asks for, aligned to 16; one array, whatever a kernel makes of it. */
extern "C" __shared__ __align__(16) unsigned char shared_dynamic[];
#define SHARED_DYNAMIC shared_dynamic
#define TABLE          static __device__ const /* numbers known when it is compiled */
#define DEVICE         static __device__ __forceinline__
#define THREAD         threadIdx
#define BLOCK          blockIdx
#define BLOCK_SIZE     blockDim
#define GRID_SIZE      gridDim
/* Before a loop whose arrays are to be registers. */
#define UNROLL _Pragma("unroll")

DEVICE void block_sync(void)
{
    __syncthreads();
}

DEVICE void warp_sync(void)
{
    __syncwarp();
}

DEVICE float warp_xor(float v, int lanes)
{
    return __shfl_xor_sync(0xffffffffu, v, lanes);
}

DEVICE float warp_from(float v, int lane)
{
    return __shfl_sync(0xffffffffu, v, lane);
}

DEVICE double warp_xor_f64(double v, int lanes)
{
    return __shfl_xor_sync(0xffffffffu, v, lanes);
}

DEVICE unsigned warp_xor_u32(unsigned v, int lanes)
{
    return __shfl_xor_sync(0xffffffffu, v, lanes);
}

DEVICE void atomic_min_u64(unsigned long long *p, unsigned long long v)
{
    atomicMin(p, v);
}

/* Every lane gets the sum; in this order. */
DEVICE float warp_sum(float v)
{
    for (int lanes = 16; lanes > 0; lanes >>= 1)
        v += warp_xor(v, lanes);
    return v;
}

DEVICE double warp_sum_f64(double v)
{
    for (int lanes = 16; lanes > 0; lanes >>= 1)
        v += warp_xor_f64(v, lanes);
    return v;
}

DEVICE float warp_max(float v)
{
    for (int lanes = 16; lanes > 0; lanes >>= 1)
        v = fmaxf(v, warp_xor(v, lanes));
    return v;
}

/* a b + c, rounded once: the same bits in whichever kernel. */
DEVICE float fused(float a, float b, float c)
{
    return __fmaf_rn(a, b, c);
}

/* Four floats that lie at a multiple of 16 bytes. */
DEVICE void load4(float x[4], const float *from)
{
    float4 v = *(const float4 *)from;
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}

DEVICE void store4(float *to, const float x[4])
{
    *(float4 *)to = make_float4(x[0], x[1], x[2], x[3]);
}

/* What base/half_.h computes, in an instruction; values.h puts them in its place. */
DEVICE float word_from_f16(uint16_t bits)
{
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

DEVICE uint16_t word_to_f16(float value)
{
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

#if __CUDA_ARCH__ >= 800
DEVICE uint16_t word_to_bf16(float value)
{
    uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

/* c (16,8) += a (16,16) b (16,8), bf16 with f32 sums; fragments lie as in PTX's mma.m16n8k16. */
DEVICE void mma_bf16(float c[4], const unsigned a[4], const unsigned b[2])
{
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/* The same of f16. Turing has it for half the depth. */
DEVICE void mma_f16(float c[4], const unsigned a[4], const unsigned b[2])
{
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    for (int half = 0; half < 2; half++)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[half * 2]), "r"(a[half * 2 + 1]), "r"(b[half]));
#endif
}

/* 16 bytes from the card's memory into shared memory, both aligned to that, in the background where the card can;
 * zeros where !in. Copies up to a commit are a group; who has waited until at most `left` (0 or 1) groups of his
 * are not done, and then met the others, may read what was copied. */
DEVICE void copy16(void *to, const void *from, int in)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(in ? 16 : 0)
                 : "memory");
#else
    *(uint4 *)to = in ? *(const uint4 *)from : make_uint4(0, 0, 0, 0);
#endif
}

DEVICE void copy_commit(void)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

DEVICE void copy_wait(int left)
{
#if __CUDA_ARCH__ >= 800
    if (left == 0)
        asm volatile("cp.async.wait_group 0;" ::: "memory");
    else
        asm volatile("cp.async.wait_group 1;" ::: "memory");
#endif
}

/* Four matrices (8,8) of 16-bit numbers in shared memory, a row's address from each lane: those of lanes 0 to 7
 * are of the first. Lane l gets of each two numbers of row l / 4, from column l % 4 * 2 on. */
DEVICE void load_matrices(unsigned r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
}

/* The same of the transposed matrices. */
DEVICE void load_matrices_transposed(unsigned r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
}

/* Two numbers rounded to 16 bit, the first in the low half. */
DEVICE unsigned pair_bf16(float low, float high)
{
#if __CUDA_ARCH__ >= 800
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    return (unsigned)half_to_bf16(low) | (unsigned)half_to_bf16(high) << 16;
#endif
}

DEVICE unsigned pair_f16(float low, float high)
{
#if __CUDA_ARCH__ >= 800
    unsigned both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    uint16_t l, h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(l) : "f"(low));
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(high));
    return (unsigned)l | (unsigned)h << 16;
#endif
}

/* 2^x to some 22 bits. */
DEVICE float exp2_near(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#else
#include "../../tests/stand-in/simt.h"
#endif

/* Sum over the block, in a fixed order; shared is 32 floats. Every thread gets it. */
DEVICE float block_sum(float v, float *shared)
{
    v = warp_sum(v);
    block_sync();
    if (THREAD.x % 32 == 0)
        shared[THREAD.x / 32] = v;
    block_sync();
    int warps = (int)(BLOCK_SIZE.x + 31) / 32, lane = (int)(THREAD.x % 32);
    return warp_sum(lane < warps ? shared[lane] : 0.0f);
}

/* shared is 32 doubles. */
DEVICE double block_sum_f64(double v, double *shared)
{
    v = warp_sum_f64(v);
    block_sync();
    if (THREAD.x % 32 == 0)
        shared[THREAD.x / 32] = v;
    block_sync();
    int warps = (int)(BLOCK_SIZE.x + 31) / 32, lane = (int)(THREAD.x % 32);
    return warp_sum_f64(lane < warps ? shared[lane] : 0.0);
}

DEVICE float block_max(float v, float *shared)
{
    v = warp_max(v);
    block_sync();
    if (THREAD.x % 32 == 0)
        shared[THREAD.x / 32] = v;
    block_sync();
    int warps = (int)(BLOCK_SIZE.x + 31) / 32, lane = (int)(THREAD.x % 32);
    return warp_max(lane < warps ? shared[lane] : -INFINITY);
}

/* Elements i of a grid that strides over n of them. */
#define EACH(i, n)                                                                                           \
    for (int64_t i = (int64_t)BLOCK.x * BLOCK_SIZE.x + THREAD.x; i < (n);                                    \
         i += (int64_t)GRID_SIZE.x * BLOCK_SIZE.x)

/* The first bad element of the first operation that met one (arguments.h: Fault). */
DEVICE void fault_at(Fault fault, int64_t element)
{
    atomic_min_u64(fault.at, fault.operation << FAULT_BITS | (unsigned long long)element);
}

#endif
