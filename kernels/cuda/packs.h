/* Eight values at a time: 16 bytes of 16-bit values, twice 16 of floats, in one load where they are aligned.
 * Rows are cut into packs the same way whatever their type and wherever they lie, so that sums over them are
 * the same to the last bit. */
#ifndef BRIM_CUDA_PACKS_H
#define BRIM_CUDA_PACKS_H

#include "../../base/half_.h"
#include "words.h"

enum { PACK = 8 };

#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#define ALIASED
#else
#define UNROLL
#define ROLLED
#define ALIASED , may_alias
#endif

typedef struct Words4 {
    unsigned w[4];
} __attribute__((aligned(16) ALIASED)) Words4;

/* A value of 16 bit, or a half of another one. */
typedef struct Half2 {
    uint16_t bits;
} __attribute__((aligned(2) ALIASED)) Half2;

DEVICE void pack_floats(const Words4 *from, float *v)
{
    Words4 a = from[0], b = from[1];
    UNROLL
    for (int e = 0; e < 4; e++) {
        v[e] = float_from_bits(a.w[e]);
        v[4 + e] = float_from_bits(b.w[e]);
    }
}

DEVICE void pack_floats_store(Words4 *to, const float *v)
{
    Words4 a, b;
    UNROLL
    for (int e = 0; e < 4; e++) {
        a.w[e] = float_to_bits(v[e]);
        b.w[e] = float_to_bits(v[4 + e]);
    }
    to[0] = a;
    to[1] = b;
}

/* v = elements i..i+7 of x; `other` for those that are not in [begin, end). */
#define PACK_LOAD(name, Real, whole, one)                                                                    \
    DEVICE void name(const void *x, int64_t i, int64_t begin, int64_t end, int aligned, float other,         \
                     float *v)                                                                               \
    {                                                                                                        \
        if (aligned && i >= begin && i + PACK <= end) {                                                      \
            const Words4 *from = (const Words4 *)((const Real *)x + i);                                      \
            whole;                                                                                           \
            return;                                                                                          \
        }                                                                                                    \
        UNROLL                                                                                               \
        for (int e = 0; e < PACK; e++)                                                                       \
            v[e] = i + e >= begin && i + e < end ? one(((const Real *)x)[i + e]) : other;                    \
    }

#define PACK_STORE(name, Real, whole, one)                                                                   \
    DEVICE void name(void *y, int64_t i, int64_t begin, int64_t end, int aligned, const float *v)            \
    {                                                                                                        \
        if (aligned && i >= begin && i + PACK <= end) {                                                      \
            Words4 *to = (Words4 *)((Real *)y + i);                                                          \
            whole;                                                                                           \
            return;                                                                                          \
        }                                                                                                    \
        UNROLL                                                                                               \
        for (int e = 0; e < PACK; e++)                                                                       \
            if (i + e >= begin && i + e < end)                                                               \
                ((Real *)y)[i + e] = one(v[e]);                                                              \
    }

#define PACK_HALVES(type)                                                                                    \
    DEVICE void pack_##type(const Words4 *from, float *v)                                                    \
    {                                                                                                        \
        Words4 both = *from;                                                                                 \
        UNROLL                                                                                               \
        for (int e = 0; e < PACK; e++)                                                                       \
            v[e] = half_from_##type((uint16_t)(both.w[e / 2] >> (e % 2 * 16)));                              \
    }                                                                                                        \
    DEVICE void pack_##type##_store(Words4 *to, const float *v)                                              \
    {                                                                                                        \
        Words4 both;                                                                                         \
        UNROLL                                                                                               \
        for (int e = 0; e < 4; e++)                                                                          \
            both.w[e] = half_to_##type(v[2 * e]) | (unsigned)half_to_##type(v[2 * e + 1]) << 16;             \
        *to = both;                                                                                          \
    }                                                                                                        \
    PACK_LOAD(load8_##type, uint16_t, pack_##type(from, v), half_from_##type)                                \
    PACK_STORE(store8_##type, uint16_t, pack_##type##_store(to, v), half_to_##type)

PACK_LOAD(load8_f32, float, pack_floats(from, v), )
PACK_STORE(store8_f32, float, pack_floats_store(to, v), )
PACK_HALVES(bf16)
PACK_HALVES(f16)

/* Of the kernel's type (typed.h). */
#define LOAD8(x, i, begin, end, aligned, other, v) TYPED(load8)(x, i, begin, end, aligned, other, v)
#define STORE8(y, i, begin, end, aligned, v)       TYPED(store8)(y, i, begin, end, aligned, v)

/* Of a type that is known when the kernel runs. */
DEVICE void load8(DType type, const void *x, int64_t i, int64_t begin, int64_t end, int aligned, float *v)
{
    if (type == DTYPE_BF16)
        load8_bf16(x, i, begin, end, aligned, 0.0f, v);
    else if (type == DTYPE_F16)
        load8_f16(x, i, begin, end, aligned, 0.0f, v);
    else
        load8_f32(x, i, begin, end, aligned, 0.0f, v);
}

DEVICE void store8(DType type, void *y, int64_t i, int64_t begin, int64_t end, int aligned, const float *v)
{
    if (type == DTYPE_BF16)
        store8_bf16(y, i, begin, end, aligned, v);
    else if (type == DTYPE_F16)
        store8_f16(y, i, begin, end, aligned, v);
    else
        store8_f32(y, i, begin, end, aligned, v);
}

/* Over the threads that have a row together: a warp, or the block. shared is 32 floats. */
DEVICE float team_sum(int team, float v, float *shared)
{
    return team == 32 ? warp_sum(v) : block_sum(v, shared);
}

DEVICE float team_max(int team, float v, float *shared)
{
    return team == 32 ? warp_max(v) : block_max(v, shared);
}

#endif
