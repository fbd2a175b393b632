/* The dynamic 8-bit type of optimizer states (dtype.h): blocks of 256 elements, each a code that stands for a
 * number in [-1, 1], times the block's largest magnitude. The code is the nearest one, the lower of two; to
 * find it, the range of floats is cut into cells so small that no two bounds between codes lie in one of
 * them: a table says how many bounds lie below a cell, and one comparison does the rest. */
#ifndef BRIM_KERNELS_DYNAMIC8_H
#define BRIM_KERNELS_DYNAMIC8_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/bits_.h"
#include "base/quant_codes_.h"
#include "kernels/vecmath.h"

/* A cell is a magnitude's exponent and 7 bits of its mantissa, from 2^-23 on; what is smaller is in the
 * first, 1 in the last. */
enum { DYNAMIC8_FIRST = (127 - 23) << 7, DYNAMIC8_CELLS = (23 << 7) + 1 };

typedef struct Dynamic8Encoder {
    float bounds[256];                       /* between neighbouring codes; the last is infinite */
    unsigned char below[2 * DYNAMIC8_CELLS]; /* bounds below each cell; then of the negative ones */
} Dynamic8Encoder;

VEC_INLINE const float *dynamic8_codes(DType dtype)
{
    return dtype == DTYPE_DYNAMIC8 ? dynamic_code : dynamic_code_unsigned;
}

VEC_INLINE int32_t dynamic8_cell(float magnitude)
{
    int32_t cell = (int32_t)(float_to_bits(magnitude) >> 16 & 0x7FFFu) - DYNAMIC8_FIRST;
    cell = cell < 0 ? 0 : cell;
    return cell < DYNAMIC8_CELLS ? cell : DYNAMIC8_CELLS - 1;
}

static inline void dynamic8_prepare(DType dtype, Dynamic8Encoder *e)
{
    const float *code = dynamic8_codes(dtype);
    int negative = 0, cell = 0;
    for (int i = 0; i < 255; i++) {
        e->bounds[i] = (code[i] + code[i + 1]) / 2;
        negative += e->bounds[i] < 0;
    }
    e->bounds[255] = INFINITY;
    for (int i = negative; i < 255; i++) {
        int after = dynamic8_cell(e->bounds[i]) + 1;
        memset(e->below + cell, i, (size_t)(after - cell));
        cell = after;
    }
    memset(e->below + cell, 255, (size_t)(DYNAMIC8_CELLS - cell));
    unsigned char *below = e->below + DYNAMIC8_CELLS;
    cell = 0;
    for (int i = negative; i-- > 0;) {
        int its = dynamic8_cell(-e->bounds[i]);
        memset(below + cell, i + 1, (size_t)(its - cell));
        cell = its;
    }
    memset(below + cell, 0, (size_t)(DYNAMIC8_CELLS - cell));
}

/* A block of n <= 256 elements, and its scale. What is not finite makes its block so. */
static inline void dynamic8_encode(const Dynamic8Encoder *e, int n, const float *x, unsigned char *to, float *scale)
{
    VEC_STRICT
    float scaled[DYNAMIC8_BLOCK];
    int32_t cell[DYNAMIC8_BLOCK];
    uint32_t largest = 0; /* integers compare as floats do, and a NaN is the largest of all */
#pragma omp simd reduction(max : largest)
    for (int i = 0; i < n; i++) {
        uint32_t bits = float_to_bits(x[i]) & 0x7FFFFFFFu;
        largest = bits > largest ? bits : largest;
    }
    float divisor = largest ? float_from_bits(largest) : 1.0f;
    *scale = float_from_bits(largest);
#pragma omp simd
    for (int i = 0; i < n; i++) {
        scaled[i] = x[i] / divisor;
        cell[i] = dynamic8_cell(scaled[i]) + (float_to_bits(scaled[i]) >> 31 ? DYNAMIC8_CELLS : 0);
    }
    for (int i = 0; i < n; i++) {
        int code = e->below[cell[i]];
        to[i] = (unsigned char)(code + (e->bounds[code] < scaled[i]));
    }
}

/* y (n) = elements from `first` on of such an array. */
static inline void dynamic8_decode(DType dtype, const unsigned char *codes, const float *scales, int64_t first,
                                   int64_t n, float *y)
{
    const float *code = dynamic8_codes(dtype);
    const unsigned char *from = codes + first;
    for (int64_t i = 0, end; i < n; i = end) {
        int64_t block = (first + i) / DYNAMIC8_BLOCK, rest = (block + 1) * DYNAMIC8_BLOCK - first;
        float scale = scales[block];
        end = rest < n ? rest : n;
#pragma omp simd
        for (int64_t k = i; k < end; k++)
            y[k] = code[from[k]] * scale;
    }
}

/* The scales of an array of n elements. */
VEC_INLINE float *dynamic8_scales(DType dtype, int64_t n, void *array)
{
    return (float *)(void *)((unsigned char *)array + quant_layout(dtype, 1, n).scales);
}

/* Elements from `first` on, which is a multiple of 256; whole blocks but for the array's last. */
static inline void dynamic8_encode_blocks(const Dynamic8Encoder *e, const float *x, unsigned char *codes, float *scales,
                                   int64_t first, int64_t n)
{
    for (int64_t i = 0; i < n; i += DYNAMIC8_BLOCK)
        dynamic8_encode(e, (int)(n - i < DYNAMIC8_BLOCK ? n - i : DYNAMIC8_BLOCK), x + i, codes + first + i,
                        scales + (first + i) / DYNAMIC8_BLOCK);
}

#endif
