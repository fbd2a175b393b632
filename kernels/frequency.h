/* The frequency of a pair of rotary positions, of all kernels alike: models were trained with these floats,
 * step by step as transformers computes them. */
#ifndef BRIM_KERNELS_FREQUENCY_H
#define BRIM_KERNELS_FREQUENCY_H

#include <math.h>

#include "kernels/kernels.h"

/* Llama 3.1's: by how many waves of this frequency the original length held. */
static inline float rope_stretched(const RopeDims *d, float frequency)
{
    float wave = 6.283185307179586f / frequency; /* positions of one turn */
    if (wave > d->original_seq / d->low_freq_factor)
        return frequency / d->factor;
    if (wave < d->original_seq / d->high_freq_factor)
        return frequency;
    float smooth = (d->original_seq / wave - d->low_freq_factor) / (d->high_freq_factor - d->low_freq_factor);
    return (1.0f - smooth) * frequency / d->factor + smooth * frequency;
}

/* YaRN's (Peng et al., arXiv 2309.00071): a blend of stretched and kept. */
static inline float rope_blended(const RopeDims *d, int i, float power)
{
    float along = ((float)i - d->ramp_from) / d->ramp_width;
    float kept = 1.0f - (along < 0.0f ? 0.0f : along > 1.0f ? 1.0f : along);
    return 1.0f / (d->factor * power) * (1.0f - kept) + 1.0f / power * kept;
}

/* Radians a position, of pair i of rope_width(d) / 2. */
static inline float rope_frequency(const RopeDims *d, int i)
{
    float power = powf(d->theta, (float)(2 * i) / (float)rope_width(d)), frequency = 1.0f / power;
    switch (d->stretch) {
    case ROPE_LINEAR:
        return frequency / d->factor;
    case ROPE_LLAMA3:
        return rope_stretched(d, frequency);
    case ROPE_YARN:
        return rope_blended(d, i, power);
    case ROPE_DIVIDED:
        return 1.0f / (d->divisors[i] * power);
    default:
        return frequency;
    }
}

/* What cosines and sines are multiplied by. */
static inline float rope_scale(const RopeDims *d)
{
    return d->scale > 0.0f ? d->scale : 1.0f;
}

#endif
