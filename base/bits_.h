/* A float's bits and back. Inlined whatever the optimisation, so that loops around them vectorise; and for cards
 * too (nvcc). */
#ifndef BRIM_BITS_INTERNAL_H
#define BRIM_BITS_INTERNAL_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define BITS_INLINE static __host__ __device__ __forceinline__
#else
#define BITS_INLINE static inline __attribute__((always_inline, unused))
#endif

BITS_INLINE float float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

BITS_INLINE uint32_t float_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* A product that never fuses with the sum it goes into, so that its bits are the same everywhere. Compilers
 * for the host do not fuse (vecmath.h: VEC_STRICT); nvcc does. */
BITS_INLINE float float_times(float a, float b)
{
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

#endif
