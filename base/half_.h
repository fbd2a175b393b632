/* 16-bit floats: IEEE 754 binary16 (F16) and bfloat16 (BF16) from and to float, rounded to nearest, ties to
 * even. Infinities and the signs of zeros are kept; a NaN stays one, and becomes a quiet one in 16 bits. */
#ifndef BRIM_HALF_INTERNAL_H
#define BRIM_HALF_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "bits_.h"

/* Exact. Without a branch, so that the compiler vectorises loops of them. */
BITS_INLINE float half_from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = half & 0x7FFFu;
    float scaled =
        float_from_bits(rest << 13) * 0x1p112f; /* exponents differ by 112; subnormals come right too */
    uint32_t special = 0x7F800000u | (rest & 0x3FFu) << 13;
    return float_from_bits(sign | (rest >= 0x7C00u ? special : float_to_bits(scaled)));
}

BITS_INLINE float half_from_bf16(uint16_t bits)
{
    return float_from_bits((uint32_t)bits << 16);
}

BITS_INLINE uint16_t half_to_bf16(float value)
{
    uint32_t bits = float_to_bits(value);
    uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16;
    uint32_t quiet = bits >> 16 | 0x40u;
    return (uint16_t)((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet : rounded);
}

BITS_INLINE uint16_t half_to_f16(float value)
{
    uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000u, rest = bits & 0x7FFFFFFFu;
    /* Normal: the exponent moved by 112, the mantissa rounded at bit 13; a carry is right as it falls. */
    uint32_t normal = (rest - (112u << 23) + 0xFFFu + (rest >> 13 & 1)) >> 13;
    /* Below 2^-14: adding 1/2 lets the addition itself round at 2^-24, the step of f16's subnormals. */
    uint32_t small = float_to_bits(float_from_bits(rest) + 0.5f) - 0x3F000000u;
    uint32_t result = rest < 0x38800000u ? small : normal;
    result = rest >= 0x47800000u ? 0x7C00u : result; /* 65536 and more */
    result = rest > 0x7F800000u ? 0x7E00u | (rest >> 13 & 0x3FFu) : result;
    return (uint16_t)(sign | result);
}

/* Of n in a row. The 16-bit side needs no alignment. */
void half_decode_f16(size_t n, const void *from, float *to);
void half_decode_bf16(size_t n, const void *from, float *to);
/* Return -1, or the index of the first finite number that the type cannot hold (it becomes infinite). */
int64_t half_encode_f16(size_t n, const float *from, uint16_t *to);
int64_t half_encode_bf16(size_t n, const float *from, uint16_t *to);

#endif
