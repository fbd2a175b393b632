/* Arrays of other types from and to float: 16-bit floats, int8 rows, NF4 blocks. Every value is that of
 * base/quant_codes_.h, and codes are bitsandbytes' (0.50): the same bits on every instruction set and for any
 * number of threads. Encoding works piece by piece, so that a large matrix never exists in float. */
#include <stdint.h>
#include <string.h>

#include "base/bits_.h"
#include "base/half_.h"
#include "base/quant_codes_.h"
#include "kernels/decode.h"
#include "kernels/dynamic8.h"
#include "kernels/range.h"
#include "kernels/vecmath.h"

/* ---- Decoding -------------------------------------------------------------------------------- */

static void decode(const StoredArray *w, int64_t first, int64_t count, float *y, const KernelRun *run)
{
    Decoder from = decoder(w);
    int team = range_threads(count, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t begin = 0; begin < count; begin += RANGE_BLOCK)
        decoder_range(&from, first + begin, range_min(RANGE_BLOCK, count - begin), y + begin);
}

/* Row by row, from the first column of which an element is wanted to the last: blocks lie along rows. */
static void decode_transposed(const StoredArray *w, int64_t first, int64_t count, float *y,
                              const KernelRun *run)
{
    Decoder from = decoder(w);
    int64_t rows = w->rows;
    int team = range_threads(count, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t row = 0; row < rows; row++) {
        float strip[NF4_BLOCK];
        int64_t col = (first - row + rows - 1) / rows, end = (first + count - row + rows - 1) / rows;
        for (int64_t n; col < end; col += n) {
            n = range_min(NF4_BLOCK, end - col);
            decoder_row(&from, row, col, n, strip);
            for (int64_t i = 0; i < n; i++)
                y[(col + i) * rows + row - first] = strip[i];
        }
    }
}

/* ---- Encoding -------------------------------------------------------------------------------- */

enum { ENCODE_INFINITE = 0x7F800000 }; /* the bits of an infinity; those of a NaN are more */

/* The bits of the largest magnitude: integers compare as floats do, and a NaN is the largest of all. */
VEC_INLINE uint32_t encode_largest(int64_t n, const float *x)
{
    uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = float_to_bits(x[i]) & 0x7FFFFFFFu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/* The first number that is none, or infinite. */
static int64_t encode_nonfinite(int64_t n, const float *x)
{
    for (int64_t i = 0; i < n; i++)
        if ((float_to_bits(x[i]) & 0x7FFFFFFFu) >= ENCODE_INFINITE)
            return i;
    return n;
}

/* Between which values a code is taken: each bound, and what is below, belongs to the code before it. */
static void encode_bounds(int codes, const float *code, float *bounds)
{
    for (int i = 0; i + 1 < codes; i++)
        bounds[i] = (code[i] + code[i + 1]) / 2;
}

/* n <= 64 elements of a block, none of them infinite or NaN. bitsandbytes multiplies whole blocks by the
 * reciprocal and divides in the last one, when it is short. */
static void encode_nf4_block(int n, const float *x, const float *bounds, unsigned char *to, float *scale)
{
    VEC_STRICT
    const float least = 1e-38f;
    float scaled[NF4_BLOCK] = {0}, largest = float_from_bits(encode_largest(n, x));
    int32_t codes[NF4_BLOCK] = {0};
    float divisor = largest > least ? largest : least, factor = 1.0f / divisor;
    *scale = n == NF4_BLOCK ? largest : divisor;
    if (n == NF4_BLOCK) {
#pragma omp simd
        for (int i = 0; i < NF4_BLOCK; i++)
            scaled[i] = x[i] * factor;
    } else {
        for (int i = 0; i < n; i++)
            scaled[i] = x[i] / divisor;
    }
    for (int i = 0; i < NF4_BLOCK; i += 16)
#pragma GCC unroll 15
        for (int k = 0; k < 15; k++)
#pragma omp simd
            for (int j = 0; j < 16; j++)
                codes[i + j] += scaled[i + j] > bounds[k];
    for (int i = 0; i < (n + 1) / 2; i++)
        to[i] = (unsigned char)(codes[2 * i] << 4 | codes[2 * i + 1]);
}

/* Elements [first, first + count): whole blocks, but for the matrix's last. scales: of all blocks. Returns
 * the first of x that cannot be encoded; count = all can. */
static int64_t encode_nf4(int64_t first, int64_t count, const float *x, unsigned char *to, float *scales)
{
    float bounds[15];
    int64_t bad = count;
    encode_bounds(16, nf4_code, bounds);
    for (int64_t at = 0; at < count; at += NF4_BLOCK) {
        int n = (int)range_min(NF4_BLOCK, count - at);
        if (encode_largest(n, x + at) < ENCODE_INFINITE)
            encode_nf4_block(n, x + at, bounds, to + (first + at) / 2, scales + (first + at) / NF4_BLOCK);
        else
            bad = range_min(bad, at + encode_nonfinite(n, x + at));
    }
    return bad;
}

/* A row. What is too small for 127 / scale to be finite counts as zero. */
static int64_t encode_int8_row(int64_t n, const float *x, int8_t *to, float *scale)
{
    VEC_STRICT
    const float magic = 0x1.8p23f; /* adding it rounds to an integer, ties to even */
    uint32_t largest = encode_largest(n, x);
    if (largest >= ENCODE_INFINITE)
        return encode_nonfinite(n, x);
    *scale = float_from_bits(largest) < 0x1p-120f ? 0 : float_from_bits(largest);
    float factor = *scale > 0 ? 127.0f / *scale : 0;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        to[i] = (int8_t)(int32_t)(x[i] * factor + magic - magic);
    return n;
}

typedef struct EncodeTarget {
    DType dtype;
    int64_t cols; /* of int8 */
    void *to;
    float *scales;
    const Dynamic8Encoder *dynamic8;
} EncodeTarget;

static int64_t encode_dynamic8(const EncodeTarget *t, int64_t first, int64_t count, const float *x)
{
    if (encode_largest(count, x) >= ENCODE_INFINITE)
        return encode_nonfinite(count, x);
    dynamic8_encode_blocks(t->dynamic8, x, t->to, t->scales, first, count);
    return count;
}

/* Elements [first, first + count). Returns the first of x that cannot be encoded; count = all can. */
static int64_t encode_part(const EncodeTarget *t, int64_t first, int64_t count, const float *x)
{
    int64_t bad = -1;
    if (t->dtype == DTYPE_BF16)
        bad = half_encode_bf16((size_t)count, x, (uint16_t *)t->to + first);
    else if (t->dtype == DTYPE_F16)
        bad = half_encode_f16((size_t)count, x, (uint16_t *)t->to + first);
    else if (t->dtype == DTYPE_INT8)
        bad = encode_int8_row(count, x, (int8_t *)t->to + first, t->scales + first / t->cols);
    else if (t->dtype == DTYPE_NF4 || t->dtype == DTYPE_NF4_PLAIN)
        bad = encode_nf4(first, count, x, t->to, t->scales);
    else if (dtype_is_dynamic8(t->dtype))
        bad = encode_dynamic8(t, first, count, x);
    else
        memcpy((float *)t->to + first, x, (size_t)count * sizeof *x);
    return bad < 0 ? count : bad;
}

static void encode(DType dtype, int64_t rows, int64_t cols, int64_t first, int64_t count, const float *x,
                   void *to, float *scales, const KernelRun *run)
{
    Dynamic8Encoder dynamic8;
    EncodeTarget t = {.dtype = dtype, .cols = cols, .to = to, .scales = scales};
    if (dtype_is_dynamic8(dtype)) {
        dynamic8_prepare(dtype, &dynamic8);
        t.dynamic8 = &dynamic8;
    }
    if (dtype == DTYPE_INT8 || dtype == DTYPE_NF4_PLAIN || dtype_is_dynamic8(dtype))
        t.scales = (float *)((char *)to + quant_layout(dtype, rows, cols).scales);
    int64_t part = dtype == DTYPE_INT8 ? cols : RANGE_BLOCK, bad = count;
    int team = range_threads(count, run->threads);
#pragma omp parallel for schedule(static) num_threads(team) reduction(min : bad)
    for (int64_t begin = 0; begin < count; begin += part) {
        int64_t n = range_min(part, count - begin), found = encode_part(&t, first + begin, n, x + begin);
        if (found < n)
            bad = range_min(bad, begin + found);
    }
    if (bad < count)
        *run->fault = first + bad;
}

/* ---- Scales of scales ------------------------------------------------------------------------ */

/* How many of the 255 bounds are below x: the nearest code, the lower one of two. */
static int encode_dynamic(const float *bounds, float x)
{
    int code = 0;
    for (int step = 128; step > 0; step /= 2)
        if (bounds[code + step - 1] < x)
            code += step;
    return code;
}

static void encode_scales(int64_t blocks, const float *scales, int64_t first, int64_t count, int64_t elements,
                          void *to, const KernelRun *run)
{
    VEC_STRICT
    QuantLayout layout = quant_layout(DTYPE_NF4, 1, elements);
    float *groups = (float *)((char *)to + layout.group_scales), bounds[255];
    unsigned char *codes = (unsigned char *)to + layout.scales;
    double sum = 0;
    for (int64_t i = 0; i < blocks; i++)
        sum += (double)scales[i];
    float offset = (float)(sum / (double)blocks);
    *(float *)((char *)to + layout.offset) = offset;
    encode_bounds(256, dynamic_code, bounds);
    int team = range_threads(count, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t at = 0; at < count; at += NF4_GROUP) {
        int64_t group = at / NF4_GROUP, n = range_min(NF4_GROUP, count - at);
        float centred[NF4_GROUP];
        for (int64_t i = 0; i < n; i++)
            centred[i] = scales[first + at + i] - offset;
        float largest = float_from_bits(encode_largest(n, centred));
        groups[group] = largest < 0x1p-120f ? 0 : largest; /* its reciprocal is finite */
        float factor = groups[group] > 0 ? 1.0f / groups[group] : 0;
        for (int64_t i = 0; i < n; i++)
            codes[at + i] = (unsigned char)encode_dynamic(bounds, centred[i] * factor);
    }
}
