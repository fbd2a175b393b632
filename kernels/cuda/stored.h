/* Elements of a stored array of any type, eight in a row, as kernels/decode.h has them to the last bit. */
#ifndef BRIM_CUDA_STORED_H
#define BRIM_CUDA_STORED_H

#include "../../base/quant_layout_.h"
#include "pack.h"

#include "codes.h"

enum { STORED_PACK = 8 };

DEVICE float stored_block_scale(DType dtype, const QuantLayout *l, const void *at, int64_t block)
{
    const unsigned char *bytes = (const unsigned char *)at;
    if (dtype == DTYPE_NF4_PLAIN)
        return ((const float *)(bytes + l->scales))[block];
    float group = ((const float *)(bytes + l->group_scales))[block / NF4_GROUP];
    return float_times(codes_dynamic[bytes[l->scales + (uint64_t)block]], group) +
           *(const float *)(bytes + l->offset);
}

/* x (8) = what the codes in a word stand for, before their scale. Of a byte the upper half comes first. */
DEVICE void stored_nf4_word(uint32_t word, const float *code, float *x)
{
    for (int k = 0; k < STORED_PACK; k++)
        x[k] = code[word >> (k % 2 ? 4 * (k - 1) : 4 * (k + 1)) & 15];
}

/* Elements [first, first + count) of the flattened array; aligned: first is a multiple of eight, and count
 * eight.
 */
DEVICE void stored_nf4(const StoredArray *w, const QuantLayout *l, int64_t first, int count, int aligned,
                       float *x)
{
    const unsigned char *codes = (const unsigned char *)w->at;
    if (aligned) {
        uint32_t word = *(const uint32_t *)(codes + first / 2);
        float scale = stored_block_scale(w->dtype, l, w->at, first / NF4_BLOCK);
        stored_nf4_word(word, codes_nf4, x);
        for (int k = 0; k < STORED_PACK; k++)
            x[k] *= scale;
        return;
    }
    for (int k = 0; k < STORED_PACK; k++) {
        int64_t i = first + (k < count ? k : 0);
        int code = (i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4);
        x[k] = codes_nf4[code] * stored_block_scale(w->dtype, l, w->at, i / NF4_BLOCK);
    }
}

DEVICE void stored_int8(const StoredArray *w, const QuantLayout *l, int64_t row, int64_t col, int count,
                        int aligned, float *x)
{
    const signed char *codes = (const signed char *)w->at + row * w->cols + col;
    float scale = ((const float *)((const char *)w->at + l->scales))[row];
    uint32_t words[2] = {0, 0};
    if (aligned)
        pack_read_words(2, codes, words);
    else
        for (int k = 0; k < STORED_PACK; k++)
            words[k / 4] |= k < count ? (uint32_t)(unsigned char)codes[k] << k % 4 * 8 : 0u;
    for (int k = 0; k < STORED_PACK; k++)
        x[k] = float_times((float)(signed char)(words[k / 4] >> k % 4 * 8), scale) / 127.0f;
}

/* Element i of the flattened array. */
DEVICE float stored_value(const StoredArray *w, const QuantLayout *l, int64_t i)
{
    const unsigned char *bytes = (const unsigned char *)w->at;
    const float *scales = (const float *)(bytes + l->scales);
    if (w->dtype == DTYPE_INT8)
        return float_times((float)(signed char)bytes[i], scales[quotient(i, w->cols)]) / 127.0f;
    if (w->dtype == DTYPE_NF4 || w->dtype == DTYPE_NF4_PLAIN) {
        int code = i % 2 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4;
        return codes_nf4[code] * stored_block_scale(w->dtype, l, w->at, i / NF4_BLOCK);
    }
    if (w->dtype == DTYPE_DYNAMIC8 || w->dtype == DTYPE_UDYNAMIC8)
        return codes_dynamic_at(w->dtype, bytes[i]) * scales[i / DYNAMIC8_BLOCK];
    return value_load(w->dtype, w->at, i);
}

/* x (8) = elements of row `row` from column `col` on, of which count are wanted. aligned: the array begins on
 * 16 bytes, and its rows and col are whole packs. */
DEVICE void stored_values(const StoredArray *w, const QuantLayout *l, int64_t row, int64_t col, int count,
                          int aligned, float *x)
{
    int64_t first = row * w->cols + col;
    if (w->dtype == DTYPE_INT8)
        stored_int8(w, l, row, col, count, aligned, x);
    else if (w->dtype == DTYPE_NF4 || w->dtype == DTYPE_NF4_PLAIN)
        stored_nf4(w, l, first, count, aligned, x);
    else
        pack_load(w->dtype, STORED_PACK, w->at, first, first + count, aligned, x);
}

#endif
