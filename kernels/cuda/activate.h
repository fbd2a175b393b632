/* Activations as values: kernels/activation.c says where the formulas come from. */
#ifndef BRIM_CUDA_ACTIVATE_H
#define BRIM_CUDA_ACTIVATE_H

#include "words.h"

DEVICE float activate_sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

DEVICE float activate(int act, float x)
{
    switch (act) {
    case ACT_GELU:
        return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case ACT_GELU_TANH:
        return x * activate_sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x));
    case ACT_SILU:
        return x * activate_sigmoid(x);
    case ACT_RELU:
        return x < 0.0f ? 0.0f : x; /* NaN stays */
    default:
        return x;
    }
}

#endif
