/* Arrays of other types from and to float, with the bits of kernels/quantize.c. */
#include "stored.h"

/* ---- Decoding -------------------------------------------------------------------------------- */

GLOBAL(decode, 256, DecodeArguments)
{
    EACH_PACK(j, a.count, STORED_PACK)
    {
        float y[STORED_PACK];
        if (a.aligned && j + STORED_PACK <= a.count) {
            int64_t row = a.w.dtype == DTYPE_INT8 ? quotient(a.first + j, a.w.cols) : 0;
            stored_values(&a.w, &a.layout, row, a.first + j - row * a.w.cols, STORED_PACK, 1, y);
        } else {
            for (int k = 0; k < STORED_PACK; k++)
                y[k] = j + k < a.count ? stored_value(&a.w, &a.layout, a.first + j + k) : 0.0f;
        }
        pack_store(DTYPE_F32, STORED_PACK, y, a.y, j, a.count, a.aligned);
    }
}

/* Of (cols, rows), which is what loading and saving do: once, so reads may lie apart. */
GLOBAL(decode_transposed, 256, DecodeArguments)
{
    EACH(j, a.count)
    {
        int64_t col = quotient(a.first + j, a.w.rows), row = a.first + j - col * a.w.rows;
        a.y[j] = stored_value(&a.w, &a.layout, row * a.w.cols + col);
    }
}

/* ---- Encoding -------------------------------------------------------------------------------- */

enum { ENCODE_INFINITE = 0x7F800000 }; /* the bits of an infinity; those of a NaN are more */

DEVICE uint32_t encode_magnitude(float x)
{
    return float_to_bits(x) & 0x7FFFFFFFu;
}

DEVICE uint32_t encode_larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* f32 and 16 bit; a finite number that becomes infinite is a fault. */
GLOBAL(encode_values, 256, EncodeArguments)
{
    EACH_PACK(j, a.count, 4)
    {
        float x[4], y[4];
        pack_load(DTYPE_F32, 4, a.x, j, a.count, a.aligned, x);
        Pack p = pack_of(a.type, 4, x);
        pack_values(a.type, 4, &p, y);
        for (int k = 3; k >= 0; k--)
            if (encode_magnitude(y[k]) == ENCODE_INFINITE && encode_magnitude(x[k]) < ENCODE_INFINITE)
                fault_at(a.fault, a.first + j + k);
        pack_write(a.type, 4, &p, a.to, a.first + j, a.first + a.count, a.aligned);
    }
}

/* The largest of a block's, for every thread; shared is 32 words. */
DEVICE uint32_t encode_block_largest(uint32_t bits, uint32_t *shared)
{
    bits = codes_largest(bits);
    block_sync();
    if (THREAD.x % 32 == 0)
        shared[THREAD.x / 32] = bits;
    block_sync();
    return codes_largest(THREAD.x % 32 < BLOCK_SIZE.x / 32 ? shared[THREAD.x % 32] : 0u);
}

/* A row a block. What is too small for 127 / scale to be finite counts as zero. */
GLOBAL(encode_int8, 256, EncodeArguments)
{
    SHARED uint32_t shared[32];
    for (int64_t row = BLOCK.x; row * a.cols < a.count; row += GRID_SIZE.x) {
        const float *x = a.x + row * a.cols;
        signed char *to = (signed char *)a.to + a.first + row * a.cols;
        uint32_t largest = 0;
        for (int64_t j = THREAD.x; j < a.cols; j += BLOCK_SIZE.x) {
            largest = encode_larger(largest, encode_magnitude(x[j]));
            if (encode_magnitude(x[j]) >= ENCODE_INFINITE)
                fault_at(a.fault, a.first + row * a.cols + j);
        }
        largest = encode_block_largest(largest, shared);
        if (largest >= ENCODE_INFINITE)
            continue;
        float scale = float_from_bits(largest) < 0x1p-120f ? 0.0f : float_from_bits(largest);
        float factor = scale > 0.0f ? 127.0f / scale : 0.0f;
        if (THREAD.x == 0)
            a.scales[quotient(a.first, a.cols) + row] = scale;
        for (int64_t j = THREAD.x; j < a.cols; j += BLOCK_SIZE.x)
            to[j] = (signed char)(int)rintf(x[j] * factor);
    }
}

/* Two blocks of 64 a warp, four elements a lane. As bitsandbytes does, whole blocks are multiplied by the
 * reciprocal, and the last one is divided when it is short. */
GLOBAL(encode_nf4, 256, EncodeArguments)
{
    SHARED float bound[16];
    if (THREAD.x < 16)
        bound[THREAD.x] = THREAD.x < 15 ? (codes_nf4[THREAD.x] + codes_nf4[THREAD.x + 1]) / 2 : INFINITY;
    block_sync();
    int64_t warps = (int64_t)GRID_SIZE.x * (BLOCK_SIZE.x / 32), lane = THREAD.x % 32;
    for (int64_t pair = (int64_t)BLOCK.x * (BLOCK_SIZE.x / 32) + THREAD.x / 32;
         pair * 2 * NF4_BLOCK < a.count; pair += warps) {
        int64_t j = pair * 2 * NF4_BLOCK + lane * 4, block = j / NF4_BLOCK;
        float x[4];
        uint32_t largest = 0, codes = 0;
        pack_load(DTYPE_F32, 4, a.x, j, a.count, a.aligned, x);
        for (int k = 3; k >= 0; k--) {
            largest = encode_larger(largest, encode_magnitude(x[k]));
            if (encode_magnitude(x[k]) >= ENCODE_INFINITE)
                fault_at(a.fault, a.first + j + k);
        }
        for (int lanes = 8; lanes > 0; lanes >>= 1)
            largest = encode_larger(largest, warp_xor_u32(largest, lanes));
        int whole = (block + 1) * NF4_BLOCK <= a.count;
        float size = float_from_bits(largest), divisor = size > 1e-38f ? size : 1e-38f,
              factor = 1.0f / divisor;
        for (int k = 0; k < 4; k++) /* beyond the last element: of zero */
            codes |= (uint32_t)codes_nearest(16, bound, whole ? x[k] * factor : x[k] / divisor)
                     << (k / 2 * 8 + (k % 2 ? 0 : 4));
        unsigned char *to = (unsigned char *)a.to + (a.first + j) / 2;
        if (j < a.count)
            to[0] = (unsigned char)codes;
        if (j + 2 < a.count)
            to[1] = (unsigned char)(codes >> 8);
        if (lane % 16 == 0 && j < a.count)
            a.scales[a.first / NF4_BLOCK + block] = whole ? size : divisor;
    }
}

/* A block of 256 a warp. */
GLOBAL(encode_dynamic8, 256, EncodeArguments)
{
    SHARED float bound[256];
    codes_bounds(a.type, bound);
    block_sync();
    int64_t warps = (int64_t)GRID_SIZE.x * (BLOCK_SIZE.x / 32), lane = THREAD.x % 32;
    for (int64_t block = (int64_t)BLOCK.x * (BLOCK_SIZE.x / 32) + THREAD.x / 32;
         block * DYNAMIC8_BLOCK < a.count; block += warps) {
        int64_t j = block * DYNAMIC8_BLOCK + lane * 8;
        float x[8];
        pack_load(DTYPE_F32, 8, a.x, j, a.count, a.aligned, x);
        for (int k = 7; k >= 0; k--)
            if (encode_magnitude(x[k]) >= ENCODE_INFINITE)
                fault_at(a.fault, a.first + j + k);
        codes_store_block(bound, x, a.to, a.scales, a.first + j, a.first + a.count, a.aligned);
    }
}

/* ---- Scales of scales ------------------------------------------------------------------------ */

/* The mean of all scales: added up one after the other, for the same bits as on the CPU. One block. */
GLOBAL(encode_offset, 256, EncodeScalesArguments)
{
    SHARED float scales[256];
    double sum = 0;
    for (int64_t at = 0; at < a.blocks; at += 256) {
        int n = a.blocks - at < 256 ? (int)(a.blocks - at) : 256;
        block_sync();
        if ((int)THREAD.x < n)
            scales[THREAD.x] = a.scales[at + THREAD.x];
        block_sync();
        for (int i = 0; THREAD.x == 0 && i < n; i++)
            sum += (double)scales[i];
    }
    if (THREAD.x == 0)
        *a.offset = (float)(sum / (double)a.blocks);
}

/* A group a block, a scale a thread. */
GLOBAL(encode_scales, NF4_GROUP, EncodeScalesArguments)
{
    SHARED float bound[256];
    SHARED uint32_t shared[32];
    codes_bounds(DTYPE_DYNAMIC8, bound);
    float offset = *a.offset;
    for (int64_t group = BLOCK.x; group < a.groups; group += GRID_SIZE.x) {
        int64_t i = group * NF4_GROUP + THREAD.x;
        float centred = i < a.blocks ? a.scales[i] - offset : 0.0f;
        float largest =
            float_from_bits(encode_block_largest(encode_magnitude(centred), shared)); /* a barrier */
        float scale = largest < 0x1p-120f ? 0.0f : largest; /* its reciprocal is finite */
        float factor = scale > 0.0f ? 1.0f / scale : 0.0f;
        if (THREAD.x == 0)
            a.group_scales[group] = scale;
        if (i < a.blocks)
            a.codes[i] = (unsigned char)codes_nearest(256, bound, centred * factor);
    }
}
