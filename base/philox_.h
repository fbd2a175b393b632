/* Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a counter in, 128
 * random bits out, no state to keep. Header-only so that kernels of every instruction set inline it. */
#ifndef BRIM_PHILOX_H
#define BRIM_PHILOX_H

#include <stdint.h>

#include "bits_.h"

typedef struct Philox {
    uint32_t v[4];
} Philox;

BITS_INLINE Philox philox4x32(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (Philox){{c0, c1, c2, c3}};
}

/* 24 random bits as a float in [0, 1). */
BITS_INLINE float philox_unit(uint32_t bits)
{
    return (float)(bits >> 8) * 0x1p-24f;
}

#endif
