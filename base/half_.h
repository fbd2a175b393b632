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

uint16_t half_to_f16(float value);
uint16_t half_to_bf16(float value);

/* Of n in a row. The 16-bit side needs no alignment. */
void half_decode_f16(size_t n, const void *from, float *to);
void half_decode_bf16(size_t n, const void *from, float *to);
/* Return -1, or the index of the first finite number that the type cannot hold (it becomes infinite). */
int64_t half_encode_f16(size_t n, const float *from, uint16_t *to);
int64_t half_encode_bf16(size_t n, const float *from, uint16_t *to);

#endif
