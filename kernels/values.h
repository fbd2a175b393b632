/* Arrays of floats of any type, f32, bf16 or f16, as kernels meet them: a block at a time. A kernel computes
 * in f32 on a block that it finds in place, or in room of its own that stays in the first-level cache; what
 * is stored in 16 bit is rounded once, to nearest even. So one source serves every type, and f32 is never
 * copied. */
#ifndef BRIM_VALUES_H
#define BRIM_VALUES_H

#include "base/half_.h"
#include "kernels/decode.h"
#include "kernels/vecmath.h"

/* Elements that a kernel takes at a time: all of them where it computes in place, else so few that several
 * blocks stay in the first-level cache. */
enum { VALUES_BLOCK = 1024 };

VEC_INLINE int64_t values_block(DType type, int64_t left)
{
    return type == DTYPE_F32 || left < VALUES_BLOCK ? left : VALUES_BLOCK;
}

/* Bytes of an element. */
VEC_INLINE int64_t values_size(DType type)
{
    return type == DTYPE_F32 ? 4 : 2;
}

/* The place of element `first`. */
VEC_INLINE void *values_at(DType type, const void *x, int64_t first)
{
    return x ? (char *)(uintptr_t)x + first * values_size(type) : NULL;
}

static __attribute__((noinline, unused)) void values_decode(DType type, int64_t n, const void *x, float *y)
{
    if (type == DTYPE_BF16)
        decoder_bf16(n, x, y);
    else
        decoder_f16(n, x, y);
}

/* half_to_bf16 of a vector, in the upper halves of its lanes. What compilers make of the plain loop takes 1.7
 * times as long. */
#if defined(__AVX512F__)
VEC_INLINE __m512i values_round_bf16(__m512 x)
{
    __m512i bits = _mm512_castps_si512(x), rounded = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF));
    __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    rounded = _mm512_mask_add_epi32(rounded, odd, rounded, _mm512_set1_epi32(1));
    return _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
}

/* Returns how many are done: whole vectors. */
VEC_INLINE int64_t values_encode_bf16_vectors(int64_t n, const float *x, uint16_t *y)
{
    static const uint16_t upper[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                       33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    __m512i which = _mm512_loadu_si512(upper);
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m512i low = values_round_bf16(_mm512_loadu_ps(x + i));
        __m512i high = values_round_bf16(_mm512_loadu_ps(x + i + 16));
        _mm512_storeu_si512(y + i, _mm512_permutex2var_epi16(low, which, high));
    }
    return i;
}
#elif defined(__AVX2__)
VEC_INLINE __m256i values_round_bf16(__m256 x)
{
    __m256i bits = _mm256_castps_si256(x), quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan));
}

VEC_INLINE int64_t values_encode_bf16_vectors(int64_t n, const float *x, uint16_t *y)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256i low = _mm256_srli_epi32(values_round_bf16(_mm256_loadu_ps(x + i)), 16);
        __m256i high = _mm256_srli_epi32(values_round_bf16(_mm256_loadu_ps(x + i + 8)), 16);
        __m256i packed = _mm256_packus_epi32(low, high); /* halves of the two by turns */
        _mm256_storeu_si256((__m256i *)(void *)(y + i), _mm256_permute4x64_epi64(packed, 0xD8));
    }
    return i;
}
#else
VEC_INLINE int64_t values_encode_bf16_vectors(int64_t n, const float *x, uint16_t *y)
{
    (void)n, (void)x, (void)y;
    return 0;
}
#endif

VEC_INLINE void values_encode_bf16(int64_t n, const float *x, uint16_t *y)
{
    int64_t done = values_encode_bf16_vectors(n, x, y);
#pragma omp simd
    for (int64_t i = done; i < n; i++)
        y[i] = half_to_bf16(x[i]);
}

VEC_INLINE void values_encode_f16(int64_t n, const float *x, uint16_t *y)
{
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(void *)(y + i),
                            _mm512_cvtps_ph(_mm512_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
#endif
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(y + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < n; i++)
        y[i] = half_to_f16(x[i]);
}

static __attribute__((noinline, unused)) void values_encode(DType type, int64_t n, const float *x, void *y)
{
    if (type == DTYPE_BF16)
        values_encode_bf16(n, x, y);
    else
        values_encode_f16(n, x, y);
}

/* Elements [first, first + n) as floats: where they are, or in room. NULL where x is. */
VEC_INLINE const float *values_load(DType type, const void *x, int64_t first, int64_t n, float *room)
{
    if (type == DTYPE_F32 || !x)
        return x ? (const float *)x + first : NULL;
    values_decode(type, n, values_at(type, x, first), room);
    return room;
}

/* Where a block that becomes elements from `first` on is computed: in place, or in room. NULL where y is. */
VEC_INLINE float *values_room(DType type, void *y, int64_t first, float *room)
{
    return !y ? NULL : type == DTYPE_F32 ? (float *)y + first : room;
}

/* After it is computed there. */
VEC_INLINE void values_store(DType type, int64_t n, const float *from, void *y, int64_t first)
{
    if (type != DTYPE_F32 && y)
        values_encode(type, n, from, values_at(type, y, first));
}

/* One element. */
VEC_INLINE float values_get(DType type, const void *x, int64_t i)
{
    const uint16_t *half = x;
    return type == DTYPE_F32    ? ((const float *)x)[i]
           : type == DTYPE_BF16 ? half_from_bf16(half[i])
                                : half_from_f16(half[i]);
}

VEC_INLINE void values_set(DType type, void *y, int64_t i, float value)
{
    if (type == DTYPE_F32)
        ((float *)y)[i] = value;
    else
        ((uint16_t *)y)[i] = type == DTYPE_BF16 ? half_to_bf16(value) : half_to_f16(value);
}

#endif
