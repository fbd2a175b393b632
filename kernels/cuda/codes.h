/* Codes of quantised arrays on a card: what they stand for, and the nearest one (kernels/quantize.c and
 * dynamic8.h, with the same bits). Tables are looked up by threads at different places, so kernels that use
 * them have copies in shared memory. */
#ifndef BRIM_CUDA_CODES_H
#define BRIM_CUDA_CODES_H

#include "../../base/quant_values_.h"
#include "words.h"

TABLE float codes_nf4[16] = {QUANT_NF4_VALUES};
TABLE float codes_dynamic[256] = {QUANT_DYNAMIC_VALUES};
TABLE float codes_dynamic_unsigned[256] = {QUANT_DYNAMIC_UNSIGNED_VALUES};

DEVICE float codes_dynamic_at(DType type, int i)
{
    return type == DTYPE_UDYNAMIC8 ? codes_dynamic_unsigned[i] : codes_dynamic[i];
}

/* value (256) of a dynamic type; bound (256), when not NULL: what lies between neighbours, the last infinite.
 * By all threads of a block; a barrier has to follow. */
DEVICE void codes_take(DType type, float *value, float *bound)
{
    for (int i = (int)THREAD.x; i < 256; i += (int)BLOCK_SIZE.x) {
        value[i] = codes_dynamic_at(type, i);
        if (bound)
            bound[i] = i < 255 ? (codes_dynamic_at(type, i) + codes_dynamic_at(type, i + 1)) / 2 : INFINITY;
    }
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

#endif
