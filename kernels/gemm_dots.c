/* The micro-kernel of AVX512-BF16: both operands bf16, two terms of a sum an instruction. Blocks are those of
 * gemm_stored.c, but for each pair of terms the two values of a row of A, or a column of B, lie together, in
 * the place of one float; so they take half the room. Products of two bf16 values are exact in fp32; the
 * instruction adds them in its own order, rounds to nearest, and takes what is denormal for zero, so its
 * results are near those of the plain tile, and not equal to them. Part of cpu.c. */
#include "kernels/decode.h"
#include "kernels/dots.h"

#include <stdint.h>

#if defined(__AVX512BW__) && defined(BRIM_HAVE_dots)
#define KERNEL_DOTS 1
#endif

#ifdef KERNEL_DOTS
/* y (8, width...) = 4 rows of 8 pairs, turned. */
VEC_INLINE void dots_turn(const uint16_t *x, int64_t ld, uint32_t *y, int64_t width)
{
    __m256i r0 = _mm256_loadu_si256((const void *)x), r1 = _mm256_loadu_si256((const void *)(x + ld));
    __m256i r2 = _mm256_loadu_si256((const void *)(x + 2 * ld));
    __m256i r3 = _mm256_loadu_si256((const void *)(x + 3 * ld));
    __m256i low01 = _mm256_unpacklo_epi32(r0, r1), high01 = _mm256_unpackhi_epi32(r0, r1);
    __m256i low23 = _mm256_unpacklo_epi32(r2, r3), high23 = _mm256_unpackhi_epi32(r2, r3);
    __m256i columns[4] = {_mm256_unpacklo_epi64(low01, low23), _mm256_unpackhi_epi64(low01, low23),
                          _mm256_unpacklo_epi64(high01, high23), _mm256_unpackhi_epi64(high01, high23)};
    for (int k = 0; k < 4; k++) {
        _mm_storeu_si128((void *)(y + k * width), _mm256_castsi256_si128(columns[k]));
        _mm_storeu_si128((void *)(y + (k + 4) * width), _mm256_extracti128_si256(columns[k], 1));
    }
}

/* y (pairs, width) = rows of x turned, one pair after the other; the last has one value where depth is odd.
 */
static __attribute__((noinline)) void dots_turn_rest(int64_t rows, int64_t depth, const uint16_t *x,
                                                     int64_t ld, uint32_t *y, int64_t width)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < depth; k += 2) {
            uint32_t high = k + 1 < depth ? x[i * ld + k + 1] : 0;
            y[k / 2 * width + i] = x[i * ld + k] | high << 16;
        }
}

/* Strips of `width` rows of x (rows, depth), one after the other, each pair by pair; what is beyond `rows` is
 * zero. The width is a constant wherever this is inlined. */
VEC_INLINE void dots_pack_rows(const uint16_t *x, int64_t ld, int64_t rows, int64_t depth, int width,
                               uint32_t *restrict out)
{
    int64_t pairs = (depth + 1) / 2, whole = depth / 16 * 16;
    for (int64_t first = 0; first < rows; first += width, out += width * pairs) {
        int64_t count = product_least(rows - first, width);
        const uint16_t *strip = x + first * ld;
        if (count < width)
            memset(out, 0, (size_t)(width * pairs) * sizeof *out);
        for (int64_t i = 0; i < count; i += 4) {
            int64_t few = product_least(count - i, 4), turned = few == 4 ? whole : 0;
            for (int64_t k = 0; k < turned; k += 16)
                dots_turn(strip + i * ld + k, ld, out + k / 2 * width + i, width);
            if (turned < depth)
                dots_turn_rest(few, depth - turned, strip + i * ld + turned, ld, out + turned / 2 * width + i,
                               width);
        }
    }
}

/* n values of two rows side by side, as pairs; zeros behind them. */
VEC_INLINE __m512i dots_zip(const uint16_t *low, const uint16_t *high, int64_t n)
{
    __mmask16 read = (__mmask16)((1u << n) - 1);
    __m512i pairs = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(read, low));
    if (!high)
        return pairs;
    __m512i upper = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(read, high));
    return _mm512_or_si512(pairs, _mm512_slli_epi32(upper, 16));
}

/* Strips of `width` columns of x (depth, cols), one after the other, each pair by pair; what is beyond `cols`
 * is zero. Some strips grow together, so that rows are read in runs. */
VEC_INLINE void dots_pack_cols(const uint16_t *x, int64_t ld, int64_t depth, int64_t cols, int width,
                               uint32_t *restrict out)
{
    enum { LANES = 16, AHEAD = 8 };
    int64_t pairs = (depth + 1) / 2, together = width * (128 / width);
    for (int64_t first = 0; first < cols; first += together)
        for (int64_t k = 0; k < depth; k += 2) {
            const uint16_t *low = x + k * ld, *high = k + 1 < depth ? low + ld : NULL;
            int64_t end = product_least(cols, first + together);
            for (int64_t j = first; j < end; j += 32) {
                __builtin_prefetch((const void *)((uintptr_t)(low + j) + (uintptr_t)(AHEAD * ld) * 2));
                __builtin_prefetch((const void *)((uintptr_t)(low + j) + (uintptr_t)((AHEAD + 1) * ld) * 2));
            }
            for (int64_t j = first; j < end; j += width)
                for (int i = 0; i < width; i += LANES) {
                    int64_t room = product_least(width - i, LANES), left = end - j - i;
                    __m512i zipped = _mm512_setzero_si512();
                    if (left > 0)
                        zipped = dots_zip(low + j + i, high ? high + j + i : NULL, product_least(left, room));
                    _mm512_mask_storeu_epi32(out + j * pairs + k / 2 * width + i,
                                             (__mmask16)((1u << room) - 1), zipped);
                }
        }
}

/* sum (PRODUCT_ROWS, PRODUCT_COLS) = a b, over `pairs` packed pairs. */
static __attribute__((noinline, target("avx512bf16"))) void
dots_tile(int64_t pairs, const uint32_t *a, const uint32_t *b, ProductVector sum[][2])
{
    __m512 tile[PRODUCT_ROWS][2];
#pragma GCC unroll 12
    for (int i = 0; i < PRODUCT_ROWS; i++)
        tile[i][0] = tile[i][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < pairs; k++, a += PRODUCT_ROWS, b += PRODUCT_COLS) {
        __m512bh left = (__m512bh)_mm512_loadu_si512(b);
        __m512bh right = (__m512bh)_mm512_loadu_si512(b + PRODUCT_LANES);
#pragma GCC unroll 12
        for (int i = 0; i < PRODUCT_ROWS; i++) {
            __m512bh both = (__m512bh)_mm512_set1_epi32((int)a[i]);
            tile[i][0] = _mm512_dpbf16_ps(tile[i][0], both, left);
            tile[i][1] = _mm512_dpbf16_ps(tile[i][1], both, right);
        }
    }
    memcpy(sum, tile, sizeof tile);
}

/* Strips of `width` rows of op(x), rows [row, row + rows), and terms [at, at + depth); `turned`: x is stored
 * (terms, rows). */
VEC_INLINE void dots_pack(const Decoder *x, int turned, int64_t row, int64_t rows, int64_t at, int64_t depth,
                          int width, float *out)
{
    const uint16_t *values = (const uint16_t *)(const void *)x->at;
    if (turned)
        dots_pack_cols(values + at * x->cols + row, x->cols, depth, rows, width, (uint32_t *)(void *)out);
    else
        dots_pack_rows(values + row * x->cols + at, x->cols, rows, depth, width, (uint32_t *)(void *)out);
}
#endif
