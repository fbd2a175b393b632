/* Values in a row that a thread takes at once: 16 bytes, or what that many values of another type have. Where
 * arrays begin on 16 bytes this is one access, else each value has its own; those from n on are zero, and not
 * written. Counts and, in typed kernels, types are constants wherever this is inlined. */
#ifndef BRIM_CUDA_PACK_H
#define BRIM_CUDA_PACK_H

#include "values.h"

enum { PACK_MOST = 8 };

typedef struct __attribute__((aligned(16), may_alias)) PackWords4 {
    uint32_t word[4];
} PackWords4;
typedef struct __attribute__((aligned(8), may_alias)) PackWords2 {
    uint32_t word[2];
} PackWords2;

/* Values as they are stored: one a word in f32, two a word in 16 bit. */
typedef struct Pack {
    uint32_t word[PACK_MOST];
} Pack;

DEVICE void pack_read_words(int words, const void *from, uint32_t *to)
{
    if (words == 2) {
        PackWords2 w = *(const PackWords2 *)from;
        to[0] = w.word[0];
        to[1] = w.word[1];
        return;
    }
    for (int at = 0; at < words; at += 4) {
        PackWords4 w = ((const PackWords4 *)from)[at / 4];
        for (int k = 0; k < 4; k++)
            to[at + k] = w.word[k];
    }
}

DEVICE void pack_write_words(int words, const uint32_t *from, void *to)
{
    if (words == 2) {
        PackWords2 w = {{from[0], from[1]}};
        *(PackWords2 *)to = w;
        return;
    }
    for (int at = 0; at < words; at += 4) {
        PackWords4 w = {{from[at], from[at + 1], from[at + 2], from[at + 3]}};
        ((PackWords4 *)to)[at / 4] = w;
    }
}

/* Elements [first, first + count) of n; count is 4 or 8, first a multiple of it. */
DEVICE Pack pack_read(DType type, int count, const void *x, int64_t first, int64_t n, int aligned)
{
    Pack p = {{0}};
    if (type == DTYPE_F32) {
        const float *from = (const float *)x + first;
        if (aligned && first + count <= n)
            pack_read_words(count, from, p.word);
        else
            for (int k = 0; k < count; k++)
                p.word[k] = first + k < n ? float_to_bits(from[k]) : 0;
    } else {
        const uint16_t *from = (const uint16_t *)x + first;
        if (aligned && first + count <= n)
            pack_read_words(count / 2, from, p.word);
        else
            for (int k = 0; k < count; k += 2)
                p.word[k / 2] =
                    (first + k < n ? from[k] : 0u) | (first + k + 1 < n ? (uint32_t)from[k + 1] << 16 : 0u);
    }
    return p;
}

DEVICE void pack_write(DType type, int count, const Pack *p, void *y, int64_t first, int64_t n, int aligned)
{
    if (type == DTYPE_F32) {
        float *to = (float *)y + first;
        if (aligned && first + count <= n)
            pack_write_words(count, p->word, to);
        else
            for (int k = 0; k < count; k++)
                if (first + k < n)
                    to[k] = float_from_bits(p->word[k]);
    } else {
        uint16_t *to = (uint16_t *)y + first;
        if (aligned && first + count <= n)
            pack_write_words(count / 2, p->word, to);
        else
            for (int k = 0; k < count; k++)
                if (first + k < n)
                    to[k] = (uint16_t)(p->word[k / 2] >> (k % 2 ? 16 : 0));
    }
}

DEVICE void pack_values(DType type, int count, const Pack *p, float *x)
{
    if (type == DTYPE_F32)
        for (int k = 0; k < count; k++)
            x[k] = float_from_bits(p->word[k]);
    else if (type == DTYPE_BF16)
        for (int k = 0; k < count; k++)
            x[k] = half_from_bf16((uint16_t)(p->word[k / 2] >> (k % 2 ? 16 : 0)));
    else
        for (int k = 0; k < count; k++)
            x[k] = half_from_f16((uint16_t)(p->word[k / 2] >> (k % 2 ? 16 : 0)));
}

/* To nearest, ties to even. */
DEVICE Pack pack_of(DType type, int count, const float *x)
{
    Pack p = {{0}};
    if (type == DTYPE_F32)
        for (int k = 0; k < count; k++)
            p.word[k] = float_to_bits(x[k]);
    else if (type == DTYPE_BF16)
        for (int k = 0; k < count; k += 2)
            p.word[k / 2] = half_to_bf16(x[k]) | (uint32_t)half_to_bf16(x[k + 1]) << 16;
    else
        for (int k = 0; k < count; k += 2)
            p.word[k / 2] = half_to_f16(x[k]) | (uint32_t)half_to_f16(x[k + 1]) << 16;
    return p;
}

DEVICE void pack_load(DType type, int count, const void *x, int64_t first, int64_t n, int aligned, float *to)
{
    Pack p = pack_read(type, count, x, first, n, aligned);
    pack_values(type, count, &p, to);
}

DEVICE void pack_store(DType type, int count, const float *x, void *y, int64_t first, int64_t n, int aligned)
{
    Pack p = pack_of(type, count, x);
    pack_write(type, count, &p, y, first, n, aligned);
}

/* First elements of the packs of a grid that strides over n elements. */
#define EACH_PACK(i, n, count)                                                                               \
    for (int64_t i = ((int64_t)BLOCK.x * BLOCK_SIZE.x + THREAD.x) * (count); i < (n);                        \
         i += (int64_t)GRID_SIZE.x * BLOCK_SIZE.x * (count))

/* a / b of numbers that are not negative: of 64 bits it takes several times as long. */
DEVICE int64_t quotient(int64_t a, int64_t b)
{
    return (a | b) >> 32 ? a / b : (int64_t)((uint32_t)a / (uint32_t)b);
}

#endif
