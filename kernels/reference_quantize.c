/* The reference of quantize.c: one element after the other, as the formats are described. */
#include <math.h>
#include <string.h>

#include "base/half_.h"
#include "base/quant_codes_.h"
#include "kernels/reference_.h"
#include "kernels/vecmath.h"

void reference_decode(const StoredArray *w, int64_t first, int64_t count, float *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < count; i++)
        y[i] = reference_element(w, first + i);
}

void reference_decode_transposed(const StoredArray *w, int64_t first, int64_t count, float *y,
                                 const KernelRun *run)
{
    (void)run;
    for (int64_t i = first; i < first + count; i++)
        y[i - first] = reference_element(w, i % w->rows * w->cols + i / w->rows);
}

static float largest_of(int64_t n, const float *x)
{
    float largest = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    return largest;
}

/* Where x lies among ascending codes: the nearest one, the lower of two. */
static int nearest_code(int codes, const float *code, float x)
{
    int i = 0;
    while (i + 1 < codes && x > (code[i] + code[i + 1]) / 2)
        i++;
    return i;
}

static void encode_block(int64_t n, const float *x, unsigned char *to, float *scale)
{
    VEC_STRICT
    float largest = largest_of(n, x), divisor = largest > 1e-38f ? largest : 1e-38f, factor = 1 / divisor;
    *scale = n == NF4_BLOCK ? largest : divisor;
    memset(to, 0, (size_t)(n + 1) / 2);
    for (int64_t i = 0; i < n + n % 2; i++) {
        float value = i == n ? 0 : n == NF4_BLOCK ? x[i] * factor : x[i] / divisor;
        to[i / 2] |= (unsigned char)(nearest_code(16, nf4_code, value) << (i % 2 ? 0 : 4));
    }
}

static void encode_row(int64_t n, const float *x, int8_t *to, float *scale)
{
    VEC_STRICT
    float largest = largest_of(n, x);
    *scale = largest < 0x1p-120f ? 0 : largest;
    float factor = *scale > 0 ? 127 / *scale : 0;
    for (int64_t i = 0; i < n; i++)
        to[i] = (int8_t)nearbyintf(x[i] * factor);
}

void reference_dynamic8_block(DType dtype, int64_t n, const float *x, unsigned char *to, float *scale)
{
    const float *code = dtype == DTYPE_DYNAMIC8 ? dynamic_code : dynamic_code_unsigned;
    *scale = 0;
    for (int64_t i = 0; i < n; i++)
        *scale = isnan(*scale) || fabsf(x[i]) <= *scale ? *scale : fabsf(x[i]); /* a NaN stays */
    for (int64_t i = 0; i < n; i++)
        to[i] = (unsigned char)nearest_code(256, code, *scale != 0 ? x[i] / *scale : 0);
}

static int64_t encode_halves(DType dtype, int64_t n, const float *x, uint16_t *to)
{
    return dtype == DTYPE_BF16 ? half_encode_bf16((size_t)n, x, to) : half_encode_f16((size_t)n, x, to);
}

static int64_t first_nonfinite(int64_t n, const float *x)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return i;
    return -1;
}

void reference_encode(DType dtype, int64_t rows, int64_t cols, int64_t first, int64_t count, const float *x,
                      void *to, float *scales, const KernelRun *run)
{
    int64_t bad = dtype_is_quantized(dtype) || dtype_is_dynamic8(dtype) ? first_nonfinite(count, x)
                  : dtype == DTYPE_BF16 || dtype == DTYPE_F16
                      ? encode_halves(dtype, count, x, (uint16_t *)to + first)
                      : -1;
    if (dtype == DTYPE_INT8 || dtype == DTYPE_NF4_PLAIN || dtype_is_dynamic8(dtype))
        scales = (float *)((char *)to + quant_layout(dtype, rows, cols).scales);
    if (bad >= 0)
        *run->fault = first + bad;
    else if (dtype == DTYPE_INT8)
        for (int64_t i = 0; i < count; i += cols)
            encode_row(cols, x + i, (int8_t *)to + first + i, scales + (first + i) / cols);
    else if (dtype_is_quantized(dtype))
        for (int64_t i = 0; i < count; i += NF4_BLOCK)
            encode_block(count - i < NF4_BLOCK ? count - i : NF4_BLOCK, x + i,
                         (unsigned char *)to + (first + i) / 2, scales + (first + i) / NF4_BLOCK);
    else if (dtype_is_dynamic8(dtype))
        for (int64_t i = 0; i < count; i += DYNAMIC8_BLOCK)
            reference_dynamic8_block(dtype, count - i < DYNAMIC8_BLOCK ? count - i : DYNAMIC8_BLOCK, x + i,
                                     (unsigned char *)to + first + i, scales + (first + i) / DYNAMIC8_BLOCK);
    else if (dtype == DTYPE_F32)
        memcpy((float *)to + first, x, (size_t)count * sizeof *x);
}

void reference_encode_scales(int64_t blocks, const float *scales, int64_t first, int64_t count,
                             int64_t elements, void *to, const KernelRun *run)
{
    VEC_STRICT
    QuantLayout layout = quant_layout(DTYPE_NF4, 1, elements);
    float *groups = (float *)((char *)to + layout.group_scales), centred[NF4_GROUP];
    unsigned char *codes = (unsigned char *)to + layout.scales;
    double sum = 0;
    (void)run;
    for (int64_t i = 0; i < blocks; i++)
        sum += (double)scales[i];
    float offset = (float)(sum / (double)blocks);
    memcpy((char *)to + layout.offset, &offset, sizeof offset);
    for (int64_t at = 0; at < count; at += NF4_GROUP) {
        int64_t n = count - at < NF4_GROUP ? count - at : NF4_GROUP;
        for (int64_t i = 0; i < n; i++)
            centred[i] = scales[first + at + i] - offset;
        float largest = largest_of(n, centred);
        groups[at / NF4_GROUP] = largest < 0x1p-120f ? 0 : largest;
        float factor = groups[at / NF4_GROUP] > 0 ? 1 / groups[at / NF4_GROUP] : 0;
        for (int64_t i = 0; i < n; i++)
            codes[at + i] = (unsigned char)nearest_code(256, dynamic_code, centred[i] * factor);
    }
}
