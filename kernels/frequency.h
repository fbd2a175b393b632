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

/* Radians a position, of pair i of head_dim / 2. */
static inline float rope_frequency(const RopeDims *d, int i)
{
    float frequency = 1.0f / powf(d->theta, (float)(2 * i) / (float)d->head_dim);
    if (d->stretch == ROPE_PLAIN)
        return frequency;
    return d->stretch == ROPE_LINEAR ? frequency / d->factor : rope_stretched(d, frequency);
}

#endif
