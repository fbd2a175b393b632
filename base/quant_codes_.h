/* What the codes of quantised matrices stand for, and the arithmetic of decoding one element. Whoever decodes
 * many at a time does the same, in this order, each result rounded to float: bits are compared. */
#ifndef BRIM_QUANT_CODES_INTERNAL_H
#define BRIM_QUANT_CODES_INTERNAL_H

#include "quant_layout_.h"

extern const float nf4_code[16];               /* ascending, -1 to 1; 0 is code 7 */
extern const float dynamic_code[256];          /* signed: ascending, 0 is code 127, 1 is code 255 */
extern const float dynamic_code_unsigned[256]; /* ascending, 0 is code 0, 1 is code 255 */

/* The scale of a block of NF4 or NF4_PLAIN. `at`: the matrix's memory. */
static inline float quant_block_scale(DType dtype, const QuantLayout *l, const void *at, int64_t block)
{
    const unsigned char *bytes = (const unsigned char *)at;
    if (dtype == DTYPE_NF4_PLAIN)
        return ((const float *)(const void *)(bytes + l->scales))[block];
    const float *group = (const float *)(const void *)(bytes + l->group_scales);
    float nested = dynamic_code[bytes[l->scales + (uint64_t)block]] * group[(uint64_t)block / NF4_GROUP];
    return nested + *(const float *)(const void *)(bytes + l->offset);
}

/* Element i of the flattened matrix; scale: of block i / NF4_BLOCK. */
static inline float quant_nf4_value(const void *at, int64_t i, float scale)
{
    unsigned char both = ((const unsigned char *)at)[i / 2];
    return nf4_code[i % 2 ? both & 15 : both >> 4] * scale;
}

/* Element i of an array of a dynamic 8-bit type. */
static inline float quant_dynamic8_value(DType dtype, const QuantLayout *l, const void *at, int64_t i)
{
    const unsigned char *bytes = (const unsigned char *)at;
    const float *scales = (const float *)(const void *)(bytes + l->scales);
    const float *code = dtype == DTYPE_DYNAMIC8 ? dynamic_code : dynamic_code_unsigned;
    return code[bytes[i]] * scales[i / DYNAMIC8_BLOCK];
}

/* scale: of the row. */
static inline float quant_int8_value(int8_t code, float scale)
{
    return (float)code * scale / 127.0f;
}

#endif
