/* Runs of 16-bit floats, without a branch a number where it matters, so that the compiler vectorises. */
#include "half_.h"

#include <math.h>

#include "bits_.h"

void half_decode_f16(size_t n, const void *from, float *to)
{
    const unsigned char *at = from;
    for (size_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, at + 2 * i, sizeof bits);
        to[i] = half_from_f16(bits);
    }
}

void half_decode_bf16(size_t n, const void *from, float *to)
{
    const unsigned char *at = from;
    for (size_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, at + 2 * i, sizeof bits);
        to[i] = half_from_bf16(bits);
    }
}

/* Of numbers that were all finite or not: the first finite one whose half is infinite. Halves that are
 * infinite are rare, and whether there is one in a block is found without a branch a number. */
static int64_t first_overflow(size_t n, const float *from, const uint16_t *to, uint16_t infinity)
{
    enum { BLOCK = 1024 };
    for (size_t first = 0; first < n; first += BLOCK) {
        size_t end = n - first < BLOCK ? n : first + BLOCK;
        uint16_t any = 0;
        for (size_t i = first; i < end; i++)
            any |= (uint16_t)((to[i] & 0x7FFFu) == infinity);
        for (size_t i = first; any && i < end; i++)
            if ((to[i] & 0x7FFFu) == infinity && isfinite(from[i]))
                return (int64_t)i;
    }
    return -1;
}

int64_t half_encode_f16(size_t n, const float *from, uint16_t *to)
{
    for (size_t i = 0; i < n; i++)
        to[i] = half_to_f16(from[i]);
    return first_overflow(n, from, to, 0x7C00u);
}

int64_t half_encode_bf16(size_t n, const float *from, uint16_t *to)
{
    for (size_t i = 0; i < n; i++)
        to[i] = half_to_bf16(from[i]);
    return first_overflow(n, from, to, 0x7F80u);
}
