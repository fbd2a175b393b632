/* Where the parts of a quantised matrix lie within its memory, for those who encode, decode, read and write
 * it. */
#ifndef BRIM_QUANT_LAYOUT_INTERNAL_H
#define BRIM_QUANT_LAYOUT_INTERNAL_H

#include <stdint.h>

#include "dtype.h"

/* Offsets in bytes from the beginning, in this order. codes are at 0: int8 a byte an element, NF4 two
 * elements a byte, the first one in the high half.
 * int8: scales float (rows).
 * nf4-plain: scales float (blocks).
 * dynamic8 and dynamic8-unsigned: a byte an element, then scales float (blocks).
 * nf4: group_scales float (groups), then offset float (1), then scales uint8 (blocks). A block's scale is
 * dynamic_code[scales[i]] * group_scales[i / 256] + offset. */
typedef struct QuantLayout {
    int64_t blocks, groups; /* of NF4: scales, and groups of them; of dynamic8 the scales */
    uint64_t codes_bytes;   /* without padding */
    uint64_t group_scales, offset, scales;
    uint64_t bytes; /* of all */
} QuantLayout;

QuantLayout quant_layout(DType dtype, int64_t rows, int64_t cols);

/* Of several matrices one after the other, each quantised by itself: bytes from one to the next, so that each
 * begins where loads of 16 bytes may. */
static inline uint64_t quant_stride(DType dtype, int64_t rows, int64_t cols)
{
    return (quant_layout(dtype, rows, cols).bytes + 15) / 16 * 16;
}

#endif
