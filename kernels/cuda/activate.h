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

/* activate's derivative. */
DEVICE float activate_slope(int act, float x)
{
    float s;
    switch (act) {
    case ACT_GELU:
        s = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
        return s + x * (0.39894228040143268f * expf(-0.5f * x * x));
    case ACT_GELU_TANH:
        s = activate_sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x));
        return s + x * s * (1.0f - s) * (1.5957691216057308f * (1.0f + 3.0f * 0.044715f * x * x));
    case ACT_SILU:
        s = activate_sigmoid(x);
        return s * (1.0f + x * (1.0f - s));
    case ACT_RELU:
        return x <= 0.0f ? 0.0f : 1.0f;
    default:
        return 1.0f;
    }
}

#endif
