/* What is drawn for which element: the counters and keys of Philox, shared by every implementation (and,
 * later, every device), since a mask or an initial weight has to be the same wherever it is computed. Words
 * are 32 bits; element i takes word i % 4 of counter block i / 4.
 *
 *   fills    key = seed            counter = (block low, block high, stream low, stream high)
 *   dropout  key = draw_dropout_key counter = (block low, sample low, layer, step low)
 *   rounding key = draw_rounding_key counter = (block low, parameter, update low, array and update high)
 *
 * where dropout's block counts within the sample, so that a mask does not depend on how samples are grouped;
 * rounding takes 16 bits an element: element i the low or high half of word i % 8 / 2 of block i / 8. */
#ifndef BRIM_DRAW_H
#define BRIM_DRAW_H

#include "kernels/kernels.h"
#include "base/philox_.h"

/* A bijection that spreads every bit over the word (the finalizer of SplitMix64). */
static inline uint64_t draw_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The seed, mixed so that dropout and fills of one seed share no counter, with the halves that found no room
 * in the counter: they are zero below 2^32 samples, steps and blocks, so a key costs one draw_mix a sample at
 * most. */
static inline uint64_t draw_dropout_key(const DropoutKey *key, uint64_t sample, uint64_t block)
{
    uint64_t mixed = draw_mix(key->seed + 0x9e3779b97f4a7c15u);
    uint64_t high = (key->step >> 32) ^ ((sample >> 32) << 32);
    high = high ? draw_mix(high) : 0;
    high ^= block >> 32 ? draw_mix(~(block >> 32)) : 0;
    return mixed ^ high;
}

static inline Philox draw_dropout(const DropoutKey *key, uint64_t sample, uint64_t block)
{
    return philox4x32(draw_dropout_key(key, sample, block), (uint32_t)block, (uint32_t)sample, key->layer,
                      (uint32_t)key->step);
}

static inline Philox draw_fill(uint64_t seed, uint64_t stream, uint64_t block)
{
    return philox4x32(seed, (uint32_t)block, (uint32_t)(block >> 32), (uint32_t)stream,
                      (uint32_t)(stream >> 32));
}

/* The seed, mixed so that rounding shares no counter with the others. */
static inline uint64_t draw_rounding_key(const RoundingKey *key, uint64_t block)
{
    uint64_t mixed = draw_mix(key->seed + 0xd1b54a32d192ed03u);
    return mixed ^ (block >> 32 ? draw_mix(~(block >> 32)) : 0);
}

/* The last word of the counter: `array` is below 4. */
static inline uint32_t draw_rounding_last(int64_t update, int array)
{
    return (uint32_t)((uint64_t)update >> 32) << 2 | (uint32_t)array;
}

/* A word is dropped when it is below this: p of 2^32, p < 1. */
static inline uint32_t draw_dropout_threshold(float p)
{
    return (uint32_t)((double)p * 4294967296.0);
}

#endif
