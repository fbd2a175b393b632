/* Codes of quantised arrays on a card: what they stand for, and the nearest one (kernels/quantize.c and
 * dynamic8.h, with the same bits). Tables are looked up by threads at different places, so kernels that use
 * them have copies in shared memory. */
#ifndef BRIM_CUDA_CODES_H
#define BRIM_CUDA_CODES_H

#include "../../base/quant_values_.h"
#include "pack.h"

TABLE float codes_nf4[16] = {QUANT_NF4_VALUES};
TABLE float codes_dynamic[256] = {QUANT_DYNAMIC_VALUES};
TABLE float codes_dynamic_unsigned[256] = {QUANT_DYNAMIC_UNSIGNED_VALUES};

DEVICE float codes_dynamic_at(DType type, int i)
{
    return type == DTYPE_UDYNAMIC8 ? codes_dynamic_unsigned[i] : codes_dynamic[i];
}

/* value (256): what the codes of a dynamic type stand for. By all threads of a block; a barrier has to
 * follow. */
DEVICE void codes_take(DType type, float *value)
{
    for (int i = (int)THREAD.x; i < 256; i += (int)BLOCK_SIZE.x)
        value[i] = codes_dynamic_at(type, i);
}

/* bound (256), likewise: what lies between neighbours; the last is infinite. */
DEVICE void codes_bounds(DType type, float *bound)
{
    for (int i = (int)THREAD.x; i < 256; i += (int)BLOCK_SIZE.x)
        bound[i] = i < 255 ? (codes_dynamic_at(type, i) + codes_dynamic_at(type, i + 1)) / 2 : INFINITY;
}

/* How many of the 2^n - 1 ascending bounds are below x: the nearest code, the lower one of two. */
DEVICE int codes_nearest(int codes, const float *bound, float x)
{
    int code = 0;
    for (int step = codes / 2; step > 0; step /= 2)
        if (bound[code + step - 1] < x)
            code += step;
    return code;
}

/* The largest of what the lanes have: bits of magnitudes, which compare as floats do; a NaN's are the
 * largest.
 */
DEVICE uint32_t codes_largest(uint32_t bits)
{
    for (int lanes = 16; lanes > 0; lanes >>= 1) {
        uint32_t other = warp_xor_u32(bits, lanes);
        bits = other > bits ? other : bits;
    }
    return bits;
}

/* Elements i .. i + 7 of n in a block of 256 of a dynamic type, which the lanes of a warp have: codes, and
 * the block's scale. What is not finite makes its block so. */
DEVICE void codes_store_block(const float *bound, const float *x, void *array, float *scales, int64_t i,
                              int64_t n, int aligned)
{
    unsigned char *to = (unsigned char *)array + i;
    uint32_t codes[2] = {0, 0}, largest = 0;
    for (int k = 0; k < 8; k++) {
        uint32_t bits = i + k < n ? float_to_bits(x[k]) & 0x7FFFFFFFu : 0;
        largest = bits > largest ? bits : largest;
    }
    largest = codes_largest(largest);
    float divisor = largest ? float_from_bits(largest) : 1.0f;
    for (int k = 0; k < 8; k++)
        codes[k / 4] |= (uint32_t)codes_nearest(256, bound, x[k] / divisor) << k % 4 * 8;
    if (aligned && i + 8 <= n)
        pack_write_words(2, codes, to);
    else
        for (int k = 0; k < 8; k++)
            if (i + k < n)
                to[k] = (unsigned char)(codes[k / 4] >> k % 4 * 8);
    if (THREAD.x % 32 == 0)
        scales[i / DYNAMIC8_BLOCK] = float_from_bits(largest);
}

#endif
