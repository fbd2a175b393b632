/* Data types: names and bytes. */
#include "dtype.h"

#include "quant_layout_.h"

static const char *const names[DTYPE_COUNT] = {
#define X(id, name) [DTYPE_##id] = name,
    BRIM_DTYPES(X)
#undef X
};

const char *dtype_name(DType dtype)
{
    return (unsigned)dtype < DTYPE_COUNT ? names[dtype] : "unknown";
}

int dtype_is_float(DType dtype)
{
    return dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16;
}

int dtype_is_quantized(DType dtype)
{
    return dtype == DTYPE_INT8 || dtype == DTYPE_NF4 || dtype == DTYPE_NF4_PLAIN;
}

int dtype_is_dynamic8(DType dtype)
{
    return dtype == DTYPE_DYNAMIC8 || dtype == DTYPE_UDYNAMIC8;
}

static uint64_t padded(uint64_t bytes)
{
    return (bytes + 3) / 4 * 4; /* floats follow */
}

static QuantLayout dynamic8_layout(int64_t n)
{
    QuantLayout l = {.blocks = (n + DYNAMIC8_BLOCK - 1) / DYNAMIC8_BLOCK, .codes_bytes = (uint64_t)n};
    l.scales = padded(l.codes_bytes);
    l.bytes = l.scales + 4 * (uint64_t)l.blocks;
    return l;
}

QuantLayout quant_layout(DType dtype, int64_t rows, int64_t cols)
{
    int64_t n = rows * cols;
    if (dtype_is_dynamic8(dtype))
        return dynamic8_layout(n);
    QuantLayout l = {.blocks = (n + NF4_BLOCK - 1) / NF4_BLOCK};
    l.groups = (l.blocks + NF4_GROUP - 1) / NF4_GROUP;
    l.codes_bytes = dtype == DTYPE_INT8 ? (uint64_t)n : ((uint64_t)n + 1) / 2;
    uint64_t after = padded(l.codes_bytes);
    if (dtype == DTYPE_NF4) {
        l.group_scales = after;
        l.offset = l.group_scales + 4 * (uint64_t)l.groups;
        l.scales = l.offset + 4;
        l.bytes = l.scales + (uint64_t)l.blocks;
    } else {
        l.scales = after;
        l.bytes = l.scales + 4 * (uint64_t)(dtype == DTYPE_INT8 ? rows : l.blocks);
    }
    return l;
}

uint64_t dtype_bytes(DType dtype, int64_t rows, int64_t cols)
{
    uint64_t n = (uint64_t)rows * (uint64_t)cols;
    if (dtype_is_quantized(dtype) || dtype_is_dynamic8(dtype))
        return quant_layout(dtype, rows, cols).bytes;
    return dtype == DTYPE_BF16 || dtype == DTYPE_F16 ? 2 * n : 4 * n;
}
