/* Elements of a stored array as floats, many at a time: what a product's packing, a dot and a copy read
 * weights with. A weight has the same value whoever reads it, that of base/quant_codes_.h to the last bit:
 * what is rounded twice there is rounded twice here. NF4 looks its codes up in registers where the processor
 * can. */
#ifndef BRIM_KERNELS_DECODE_H
#define BRIM_KERNELS_DECODE_H

#include <stdint.h>
#include <string.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "base/half_.h"
#include "base/quant_codes_.h"
#include "kernels/dynamic8.h"
#include "kernels/kernels.h"
#include "kernels/vecmath.h"

/* A stored array, and where its parts lie. */
typedef struct Decoder {
    const unsigned char *at;
    DType dtype;
    int64_t cols; /* elements from one row to the next */
    QuantLayout layout;
} Decoder;

VEC_INLINE Decoder decoder(const StoredArray *w)
{
    Decoder d = {.at = w->at, .dtype = w->dtype, .cols = w->cols};
    if (dtype_is_quantized(w->dtype) || dtype_is_dynamic8(w->dtype))
        d.layout = quant_layout(w->dtype, w->rows, w->cols);
    return d;
}

VEC_INLINE void decoder_bf16(int64_t n, const uint16_t *x, float *y)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = half_from_bf16(x[i]);
}

VEC_INLINE void decoder_f16(int64_t n, const uint16_t *x, float *y)
{
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(y + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(x + i))));
#endif
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(x + i))));
#endif
    for (; i < n; i++)
        y[i] = half_from_f16(x[i]);
}

/* Of one row. */
VEC_INLINE void decoder_int8(int64_t n, const int8_t *x, float scale, float *y)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = quant_int8_value(x[i], scale);
}

/* A whole block of NF4: 32 bytes into 64 floats. Each lane takes the four bytes that hold its code, shifts
 * the code down, and looks it up in the scaled table by its low bits. */
#if defined(__AVX512F__)
#define DECODER_SHIFTS _mm512_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24)

/* 16 codes from bytes 8i on. */
VEC_INLINE __m512i decoder_nf4_codes(const __m256i *bytes, int i)
{
    __m512i first = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    __m512i word = _mm512_add_epi32(first, _mm512_set1_epi32(2 * i));
    return _mm512_srlv_epi32(_mm512_permutexvar_epi32(word, _mm512_castsi256_si512(*bytes)), DECODER_SHIFTS);
}

VEC_INLINE void decoder_nf4_block(const unsigned char *codes, float scale, float *y)
{
    __m512 table = _mm512_mul_ps(_mm512_loadu_ps(nf4_code), _mm512_set1_ps(scale));
    __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)codes);
    for (int i = 0; i < 4; i++)
        _mm512_storeu_ps(y + 16 * i, _mm512_permutexvar_ps(decoder_nf4_codes(&bytes, i), table));
}
#elif defined(__AVX2__)
/* 8 codes from bytes 4i on. */
VEC_INLINE __m256i decoder_nf4_codes(const unsigned char *codes, int i)
{
    int32_t word;
    memcpy(&word, codes + 4 * i, sizeof word);
    return _mm256_srlv_epi32(_mm256_set1_epi32(word), _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24));
}

/* The table in two halves: bit 3 of a code says which. */
VEC_INLINE __m256 decoder_nf4_look(__m256 low, __m256 high, __m256i codes)
{
    __m256 which = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, codes), _mm256_permutevar8x32_ps(high, codes),
                            which);
}

VEC_INLINE void decoder_nf4_block(const unsigned char *codes, float scale, float *y)
{
    __m256 factor = _mm256_set1_ps(scale);
    __m256 low = _mm256_mul_ps(_mm256_loadu_ps(nf4_code), factor);
    __m256 high = _mm256_mul_ps(_mm256_loadu_ps(nf4_code + 8), factor);
    for (int i = 0; i < 8; i++)
        _mm256_storeu_ps(y + 8 * i, decoder_nf4_look(low, high, decoder_nf4_codes(codes, i)));
}
#else
VEC_INLINE void decoder_nf4_block(const unsigned char *codes, float scale, float *y)
{
    for (int i = 0; i < NF4_BLOCK / 2; i++) {
        y[2 * i] = nf4_code[codes[i] >> 4] * scale;
        y[2 * i + 1] = nf4_code[codes[i] & 15] * scale;
    }
}
#endif

/* The n elements of one block from its element `skip` on. The last block of a matrix may be short. */
static __attribute__((noinline, unused)) void decoder_nf4_part(const Decoder *d, int64_t block, int64_t skip,
                                                               int64_t n, float *y)
{
    unsigned char codes[NF4_BLOCK / 2] = {0};
    float all[NF4_BLOCK];
    uint64_t first = (uint64_t)block * sizeof codes, left = d->layout.codes_bytes - first;
    memcpy(codes, d->at + first, left < sizeof codes ? left : sizeof codes);
    decoder_nf4_block(codes, quant_block_scale(d->dtype, &d->layout, d->at, block), all);
    memcpy(y, all + skip, (size_t)n * sizeof *y);
}

/* A run of elements of the flattened matrix, along which blocks lie: the end of a block, whole blocks, the
 * beginning of one. */
typedef struct DecoderRun {
    int64_t block, skip; /* where it begins */
    int64_t head, whole, tail;
} DecoderRun;

VEC_INLINE DecoderRun decoder_run(int64_t first, int64_t count)
{
    DecoderRun run = {.block = first / NF4_BLOCK, .skip = first % NF4_BLOCK};
    if (run.skip || count < NF4_BLOCK)
        run.head = NF4_BLOCK - run.skip < count ? NF4_BLOCK - run.skip : count;
    run.whole = (count - run.head) / NF4_BLOCK;
    run.tail = (count - run.head) % NF4_BLOCK;
    return run;
}

/* The type is a constant wherever this is inlined. */
VEC_INLINE void decoder_nf4(DType type, const Decoder *d, int64_t first, int64_t count, float *restrict y)
{
    DecoderRun run = decoder_run(first, count);
    int64_t block = run.block + (run.head > 0);
    if (run.head)
        decoder_nf4_part(d, run.block, run.skip, run.head, y);
    y += run.head;
    for (int64_t i = 0; i < run.whole; i++, block++, y += NF4_BLOCK)
        decoder_nf4_block(d->at + block * (NF4_BLOCK / 2), quant_block_scale(type, &d->layout, d->at, block),
                          y);
    if (run.tail)
        decoder_nf4_part(d, block, 0, run.tail, y);
}

/* y (n) = row `row` from column `col` on; not beyond the row. One copy, for its loops are many. */
static __attribute__((noinline, unused)) void decoder_row(const Decoder *d, int64_t row, int64_t col,
                                                          int64_t n, float *y)
{
    int64_t first = row * d->cols + col;
    switch (d->dtype) {
    case DTYPE_BF16:
        decoder_bf16(n, (const uint16_t *)(const void *)d->at + first, y);
        break;
    case DTYPE_F16:
        decoder_f16(n, (const uint16_t *)(const void *)d->at + first, y);
        break;
    case DTYPE_INT8: {
        const float *scales = (const float *)(const void *)(d->at + d->layout.scales);
        decoder_int8(n, (const int8_t *)d->at + first, scales[row], y);
        break;
    }
    case DTYPE_NF4:
        decoder_nf4(DTYPE_NF4, d, first, n, y);
        break;
    case DTYPE_NF4_PLAIN:
        decoder_nf4(DTYPE_NF4_PLAIN, d, first, n, y);
        break;
    case DTYPE_DYNAMIC8:
    case DTYPE_UDYNAMIC8:
        dynamic8_decode(d->dtype, d->at, (const float *)(const void *)(d->at + d->layout.scales), first, n, y);
        break;
    default:
        memcpy(y, (const float *)(const void *)d->at + first, (size_t)n * sizeof *y);
    }
}

/* Asks for the lines that row `row` has of n columns from `col` on; they may lie beyond the array. */
VEC_INLINE void decoder_prefetch(const Decoder *d, int64_t row, int64_t col, int64_t n)
{
    int64_t bits = d->dtype == DTYPE_F32                             ? 32
                   : d->dtype == DTYPE_INT8                          ? 8
                   : d->dtype == DTYPE_BF16 || d->dtype == DTYPE_F16 ? 16
                                                                     : 4;
    uintptr_t at = (uintptr_t)d->at + (uintptr_t)((row * d->cols + col) * bits / 8);
    for (int64_t i = 0; i < n * bits / 8; i += 64)
        __builtin_prefetch((const void *)(at + (uintptr_t)i));
}

/* y (count) = the flattened array from element `first` on. */
static inline void decoder_range(const Decoder *d, int64_t first, int64_t count, float *y)
{
    for (int64_t n; count > 0 && d->dtype == DTYPE_INT8; count -= n, first += n, y += n) {
        int64_t row = first / d->cols, col = first % d->cols; /* a scale a row */
        n = d->cols - col < count ? d->cols - col : count;
        decoder_row(d, row, col, n, y);
    }
    if (count > 0)
        decoder_row(d, 0, first, count, y);
}

#endif
