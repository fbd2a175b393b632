/* What is drawn for which element: the counters and keys of Philox, shared by every implementation and
 * device, since a mask or an initial weight has to be the same wherever it is computed. Words
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

#include "base/philox_.h"
#include "kernels/kernels.h"
#include "kernels/vecmath.h"

/* A bijection that spreads every bit over the word (the finalizer of SplitMix64). */
BITS_INLINE uint64_t draw_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The seed, mixed so that dropout and fills of one seed share no counter, with the halves that found no room
 * in the counter: they are zero below 2^32 samples, steps and blocks, so a key costs one draw_mix a sample at
 * most. */
BITS_INLINE uint64_t draw_dropout_key(const DropoutKey *key, uint64_t sample, uint64_t block)
{
    uint64_t mixed = draw_mix(key->seed + 0x9e3779b97f4a7c15u);
    uint64_t high = (key->step >> 32) ^ ((sample >> 32) << 32);
    high = high ? draw_mix(high) : 0;
    high ^= block >> 32 ? draw_mix(~(block >> 32)) : 0;
    return mixed ^ high;
}

BITS_INLINE Philox draw_dropout(const DropoutKey *key, uint64_t sample, uint64_t block)
{
    return philox4x32(draw_dropout_key(key, sample, block), (uint32_t)block, (uint32_t)sample, key->layer,
                      (uint32_t)key->step);
}

BITS_INLINE Philox draw_fill(uint64_t seed, uint64_t stream, uint64_t block)
{
    return philox4x32(seed, (uint32_t)block, (uint32_t)(block >> 32), (uint32_t)stream,
                      (uint32_t)(stream >> 32));
}

/* The seed, mixed so that rounding shares no counter with the others. */
BITS_INLINE uint64_t draw_rounding_key(const RoundingKey *key, uint64_t block)
{
    uint64_t mixed = draw_mix(key->seed + 0xd1b54a32d192ed03u);
    return mixed ^ (block >> 32 ? draw_mix(~(block >> 32)) : 0);
}

/* The last word of the counter: `array` is below 4. */
BITS_INLINE uint32_t draw_rounding_last(int64_t update, int array)
{
    return (uint32_t)((uint64_t)update >> 32) << 2 | (uint32_t)array;
}

/* A word is dropped when it is below this: p of 2^32, p < 1. */
BITS_INLINE uint32_t draw_dropout_threshold(float p)
{
    return (uint32_t)((double)p * 4294967296.0);
}

/* Box-Muller on one pair of words. Only +, *, sqrt and conversions, none of them fused: the same bits on
 * every instruction set. The radius takes 24 bits in (0, 1]; the angle is reduced exactly. */
BITS_INLINE void draw_normal(uint32_t a, uint32_t b, float *first, float *second)
{
    VEC_STRICT
    float radius = sqrtf(-2.0f * vec_log((float)(int32_t)((a >> 8) + 1) * 0x1p-24f));
    int32_t turn = (int32_t)(b >> 8);
    int32_t quarter = (turn + (1 << 21)) >> 22;
    float r = (float)(turn - (quarter << 22)) * 0x1p-24f; /* of a turn, in [-1/8, 1/8] */
    float z = r * r;
    float s = float_times(z, -0x1.32f24ap+6f) + 0x1.467fcep+6f;
    s = float_times(s, z) - 0x1.4abc22p+5f;
    s = float_times(s, z) + 0x1.921fb6p+2f;
    s = float_times(s, r);
    float c = float_times(z, 0x1.d47b5cp+5f) - 0x1.55b144p+6f;
    c = float_times(c, z) + 0x1.03c1aep+6f;
    c = float_times(c, z) - 0x1.3bd3ccp+4f;
    c = float_times(c, z) + 1.0f;
    /* cos and sin of r plus quarter turns: swapped when odd, then signed */
    float cosine = quarter & 1 ? s : c, sine = quarter & 1 ? c : s;
    cosine = (quarter + 1) & 2 ? -cosine : cosine;
    sine = quarter & 2 ? -sine : sine;
    *first = radius * cosine;
    *second = radius * sine;
}

/* The float before high; low where there is none between. */
static inline float draw_last(float low, float high)
{
    return high > low ? nextafterf(high, low) : low;
}

/* In [low, high): rounding could reach high, which `last`, the float before it, prevents. */
BITS_INLINE float draw_uniform(uint32_t word, float low, float high, float last)
{
    VEC_STRICT
    float value = float_times(high - low, (float)(int32_t)(word >> 8) * 0x1p-24f) + low;
    return value < high ? value : last;
}

/* A bf16 at random: (bits + random) without the low half, random uniform in [0, 65535], so that what bf16
 * holds stays as it is. What is not below the largest finite bf16 is cut off, so that chance makes nothing
 * infinite.
 */
BITS_INLINE uint16_t draw_rounded(float x, uint32_t random)
{
    uint32_t bits = float_to_bits(x), magnitude = bits & 0x7FFFFFFFu;
    uint32_t added = magnitude < 0x7F7F0000u ? random : 0;
    uint32_t quiet = magnitude > 0x7F800000u ? 0x40u : 0; /* a NaN stays one */
    return (uint16_t)((bits + added) >> 16 | quiet);
}

#endif
