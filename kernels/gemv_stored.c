/* Few rows of x with a weight that is not float: like gemv.c, each weight is read once. One row of x, as in
 * writing a token, multiplies weights in the registers where they are decoded; more rows share a piece that
 * is decoded into the first-level cache. Part of cpu.c. */
#include "kernels/decode.h"
#include "kernels/kernels.h"
#include "kernels/range.h"

#include <string.h>

enum { FEW_PIECE = 1 << 10 }; /* weights decoded at once: 4 KiB */
enum { FEW_AHEAD = 2048 };    /* bytes: what a processor asks for by itself is too late for small codes */
enum { FEW_APART = 1 << 12 }; /* elements of x that a thread has apart: 16 KiB */

#ifdef __AVX2__
/* FEW_LANES elements, from element i on; int8 without its scale. The type is a constant wherever this is
 * inlined. */
VEC_INLINE FewSums few_lanes(DType type, const void *w, int64_t i)
{
    const void *half = (const uint16_t *)w + i, *byte = (const int8_t *)w + i;
#ifdef __AVX512F__
    if (type == DTYPE_BF16)
        return (FewSums)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)half)),
                                          16);
    if (type == DTYPE_F16)
        return (FewSums)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)half));
    return (FewSums)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)byte)));
#else
    if (type == DTYPE_BF16)
        return (FewSums)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)half)), 16);
    if (type == DTYPE_F16)
        return (FewSums)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)half));
    return (FewSums)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)byte)));
#endif
}

/* sum + FEW_LANES of x times as many weights. */
VEC_INLINE FewSums few_fused(FewSums weights, const float *x, FewSums sum)
{
#ifdef __AVX512F__
    return (FewSums)_mm512_fmadd_ps((__m512)weights, _mm512_loadu_ps(x), (__m512)sum);
#else
    return (FewSums)_mm256_fmadd_ps((__m256)weights, _mm256_loadu_ps(x), (__m256)sum);
#endif
}

/* x w of whole registers; `done` is how many elements that are. */
VEC_INLINE float few_dot_lanes(DType type, int64_t in, const float *x, const void *w, int64_t *done)
{
    FewSums s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    int64_t i = 0;
    for (; i + 4 * FEW_LANES <= in; i += 4 * FEW_LANES) {
        if (type == DTYPE_INT8)
            __builtin_prefetch((const void *)((uintptr_t)w + (uintptr_t)i + FEW_AHEAD));
        s0 = few_fused(few_lanes(type, w, i), x + i, s0);
        s1 = few_fused(few_lanes(type, w, i + FEW_LANES), x + i + FEW_LANES, s1);
        s2 = few_fused(few_lanes(type, w, i + 2 * FEW_LANES), x + i + 2 * FEW_LANES, s2);
        s3 = few_fused(few_lanes(type, w, i + 3 * FEW_LANES), x + i + 3 * FEW_LANES, s3);
    }
    for (; i + FEW_LANES <= in; i += FEW_LANES)
        s0 = few_fused(few_lanes(type, w, i), x + i, s0);
    *done = i;
    return few_total((s0 + s1) + (s2 + s3));
}

/* A piece of x. NF4 has two weights a byte; AVX-512 multiplies those in high halves and those in low halves
 * apart, and finds the elements of x for each side by side. */
typedef struct FewX {
    const float *at, *even, *odd;
} FewX;

/* s[0..3] += x from element i on, a whole block, times its weights. */
#ifdef __AVX512F__
VEC_INLINE void few_nf4_block(const unsigned char *codes, float scale, const FewX *x, int64_t i, FewSums *s)
{
    const float *high = i % 2 ? x->odd + i / 2 : x->even + i / 2;
    const float *low = i % 2 ? x->even + i / 2 + 1 : x->odd + i / 2;
    __m512 table = _mm512_mul_ps(_mm512_loadu_ps(nf4_code), _mm512_set1_ps(scale));
    for (int half = 0; half < 2; half++) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(codes + 16 * half));
        __m512i both = _mm512_cvtepu8_epi32(bytes), upper = _mm512_srli_epi32(both, 4);
        s[2 * half] = few_fused((FewSums)_mm512_permutexvar_ps(upper, table), high + 16 * half, s[2 * half]);
        s[2 * half + 1] =
            few_fused((FewSums)_mm512_permutexvar_ps(both, table), low + 16 * half, s[2 * half + 1]);
    }
}
#else
VEC_INLINE void few_nf4_block(const unsigned char *codes, float scale, const FewX *x, int64_t i, FewSums *s)
{
    __m256 factor = _mm256_set1_ps(scale);
    __m256 low = _mm256_mul_ps(_mm256_loadu_ps(nf4_code), factor);
    __m256 high = _mm256_mul_ps(_mm256_loadu_ps(nf4_code + 8), factor);
    for (int k = 0; k < 8; k++) {
        FewSums weights = (FewSums)decoder_nf4_look(low, high, decoder_nf4_codes(codes, k));
        s[k % 4] = few_fused(weights, x->at + i + 8 * k, s[k % 4]);
    }
}
#endif

/* x (count) times the flattened W from element `first` on; blocks that it has in part are decoded. */
VEC_INLINE float few_dot_nf4(DType type, const Decoder *w, int64_t first, int64_t count, const FewX *x)
{
    FewSums s[4] = {{0}};
    float part[NF4_BLOCK], sum = 0;
    DecoderRun run = decoder_run(first, count);
    int64_t block = run.block + (run.head > 0), i = run.head, end = run.head + run.whole * NF4_BLOCK;
    if (run.head) {
        decoder_nf4_part(w, run.block, run.skip, run.head, part);
        sum = few_dot(run.head, x->at, part);
    }
    for (; i < end; i += NF4_BLOCK, block++) {
        const unsigned char *codes = w->at + block * (NF4_BLOCK / 2);
        __builtin_prefetch((const void *)((uintptr_t)codes + FEW_AHEAD));
        few_nf4_block(codes, quant_block_scale(type, &w->layout, w->at, block), x, i, s);
    }
    if (run.tail) {
        decoder_nf4_part(w, block, 0, run.tail, part);
        sum += few_dot(run.tail, x->at + end, part);
    }
    return sum + few_total((s[0] + s[1]) + (s[2] + s[3]));
}

/* y (cols) = x (in) times rows [col, col + cols) of W, a piece of x after the other. */
VEC_INLINE void few_nf4_columns(DType type, int64_t in, int64_t col, int64_t cols, const float *x,
                                const Decoder *w, float *y)
{
    float even[FEW_APART / 2], odd[FEW_APART / 2];
    for (int64_t at = 0, n; at < in; at += n) {
        FewX piece = {x + at, even, odd};
        n = in - at < FEW_APART ? in - at : FEW_APART;
#ifdef __AVX512F__
        for (int64_t i = 0; i < n / 2; i++) {
            even[i] = x[at + 2 * i];
            odd[i] = x[at + 2 * i + 1];
        }
        if (n % 2)
            even[n / 2] = x[at + n - 1];
#endif
        for (int64_t j = 0; j < cols; j++) {
            float sum = few_dot_nf4(type, w, (col + j) * in + at, n, &piece);
            y[j] = at ? y[j] + sum : sum;
        }
    }
}

/* Of one row of x. */
VEC_INLINE float few_dot_row(DType type, const Decoder *w, int64_t j, int64_t in, const float *x)
{
    float rest[FEW_LANES], sum;
    int64_t done, bytes = type == DTYPE_INT8 ? 1 : 2;
    sum = few_dot_lanes(type, in, x, w->at + j * in * bytes, &done);
    if (type == DTYPE_INT8)
        sum *= ((const float *)(const void *)(w->at + w->layout.scales))[j] / 127.0f;
    decoder_row(w, j, done, in - done, rest);
    for (int64_t i = done; i < in; i++)
        sum += x[i] * rest[i - done];
    return sum;
}
#endif

/* y (rows), ldy apart, = x (rows, in) times row j of W. */
static void few_dots_pieces(const LinearDims *d, const Decoder *w, int64_t j, const float *x, float *y,
                            int64_t ldy)
{
    float piece[FEW_PIECE], one, two;
    for (int64_t r = 0; r < d->rows; r++)
        y[r * ldy] = 0;
    for (int64_t at = 0, n; at < d->in; at += n) {
        int64_t r = 0;
        n = d->in - at < FEW_PIECE ? d->in - at : FEW_PIECE;
        decoder_row(w, j, at, n, piece);
        for (; r + 2 <= d->rows; r += 2) {
            few_dot_twice(n, x + r * d->in + at, x + (r + 1) * d->in + at, piece, &one, &two);
            y[r * ldy] += one;
            y[(r + 1) * ldy] += two;
        }
        if (r < d->rows)
            y[r * ldy] += few_dot(n, x + r * d->in + at, piece);
    }
}

static void few_dots(const LinearDims *d, const Decoder *w, int64_t j, const float *x, float *y, int64_t ldy)
{
#ifdef __AVX2__
    if (d->rows == 1) {
        switch (w->dtype) {
        case DTYPE_BF16:
            *y = few_dot_row(DTYPE_BF16, w, j, d->in, x);
            return;
        case DTYPE_F16:
            *y = few_dot_row(DTYPE_F16, w, j, d->in, x);
            return;
        case DTYPE_INT8:
            *y = few_dot_row(DTYPE_INT8, w, j, d->in, x);
            return;
        default:
            break;
        }
    }
#endif
    few_dots_pieces(d, w, j, x, y, ldy);
}

/* Columns [col, col + cols) of x W into y (rows, out), ldy apart; W (in, out). Four rows of W at a time, a
 * piece of each. */
static void few_stored_in_out(const LinearDims *d, const Decoder *w, int64_t col, int64_t cols,
                              const float *x, float *y, int64_t ldy)
{
    enum { ROWS = 4, WIDTH = FEW_PIECE / ROWS };
    float piece[ROWS * WIDTH], factors[FEW_ROWS * ROWS];
    for (int64_t r = 0; r < d->rows; r++)
        memset(y + r * ldy + col, 0, (size_t)cols * sizeof(float));
    for (int64_t i = 0; i < d->in; i += ROWS) {
        int64_t rows = d->in - i < ROWS ? d->in - i : ROWS;
        if (rows < ROWS) { /* what is missing of the last ones counts nothing */
            memset(piece, 0, sizeof piece);
            memset(factors, 0, sizeof factors);
        }
        for (int64_t r = 0; r < d->rows; r++)
            memcpy(factors + r * ROWS, x + r * d->in + i, (size_t)rows * sizeof(float));
        for (int64_t c = 0, n; c < cols; c += n) {
            int64_t r = 0;
            float *to = y + col + c;
            n = cols - c < WIDTH ? cols - c : WIDTH;
            for (int64_t q = 0; q < rows; q++)
                decoder_row(w, i + q, col + c, n, piece + q * WIDTH);
            for (; r + 2 <= d->rows; r += 2)
                few_add_twice(n, factors + r * ROWS, ROWS, piece, WIDTH, to + r * ldy, ldy);
            if (r < d->rows)
                few_add(n, factors + r * ROWS, piece, WIDTH, to + r * ldy);
        }
    }
}

/* few_columns of a stored weight. */
static void few_stored_columns(const LinearDims *d, int64_t col, int64_t cols, const float *x,
                               const Decoder *w, float *y, int64_t ldy)
{
    int64_t strips = (cols + FEW_STRIP - 1) / FEW_STRIP;
#ifdef __AVX2__
    if (d->rows == 1 && w->dtype == DTYPE_NF4) {
        few_nf4_columns(DTYPE_NF4, d->in, col, cols, x, w, y + col);
        return;
    }
    if (d->rows == 1 && w->dtype == DTYPE_NF4_PLAIN) {
        few_nf4_columns(DTYPE_NF4_PLAIN, d->in, col, cols, x, w, y + col);
        return;
    }
#endif
    for (int64_t j = col; j < col + cols && !d->in_out; j++)
        few_dots(d, w, j, x, y + j, ldy);
    for (int64_t i = 0; i < strips && d->in_out; i++) {
        int64_t first = range_begin(cols, i, strips), end = range_begin(cols, i + 1, strips);
        few_stored_in_out(d, w, col + first, end - first, x, y, ldy);
    }
}
