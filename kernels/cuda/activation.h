/* Activations and their slopes of values in a row, as kernels/activation.c has them. */
#ifndef BRIM_CUDA_ACTIVATION_H
#define BRIM_CUDA_ACTIVATION_H

#include "words.h"

DEVICE float activation_sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* 0.5 (1 + tanh u) is sigmoid(2 u), which does not cancel. */
DEVICE float activation_gelu_gate(float x)
{
    return activation_sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x));
}

DEVICE float activation_value(int act, float x)
{
    if (act == ACT_GELU)
        return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    if (act == ACT_GELU_TANH)
        return x * activation_gelu_gate(x);
    if (act == ACT_SILU)
        return x * activation_sigmoid(x);
    if (act == ACT_TANH)
        return tanhf(x);
    return act == ACT_RELU && x < 0.0f ? 0.0f : x; /* NaN stays */
}

DEVICE float activation_slope(int act, float x)
{
    float s;
    if (act == ACT_GELU) {
        s = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
        return s + x * (0.39894228040143268f * expf(-0.5f * x * x));
    }
    if (act == ACT_GELU_TANH) {
        s = activation_gelu_gate(x);
        return s + x * s * (1.0f - s) * (1.5957691216057308f * (1.0f + 3.0f * 0.044715f * x * x));
    }
    if (act == ACT_SILU) {
        s = activation_sigmoid(x);
        return s * (1.0f + x * (1.0f - s));
    }
    if (act == ACT_TANH) /* 4 p (1 - p), which does not cancel where tanh is near 1 */
        return 4.0f * activation_sigmoid(2.0f * fabsf(x)) * activation_sigmoid(-2.0f * fabsf(x));
    return act == ACT_RELU && x <= 0.0f ? 0.0f : 1.0f;
}

/* x[k] = act(x[k]): one decision for all. */
DEVICE void activation_values(int act, int count, float *x)
{
    if (act == ACT_GELU)
        for (int k = 0; k < count; k++)
            x[k] = activation_value(ACT_GELU, x[k]);
    else if (act == ACT_GELU_TANH)
        for (int k = 0; k < count; k++)
            x[k] = activation_value(ACT_GELU_TANH, x[k]);
    else if (act == ACT_SILU)
        for (int k = 0; k < count; k++)
            x[k] = activation_value(ACT_SILU, x[k]);
    else if (act == ACT_RELU)
        for (int k = 0; k < count; k++)
            x[k] = activation_value(ACT_RELU, x[k]);
    else if (act == ACT_TANH)
        for (int k = 0; k < count; k++)
            x[k] = activation_value(ACT_TANH, x[k]);
}

/* x[k] = act'(x[k]) */
DEVICE void activation_slopes(int act, int count, float *x)
{
    if (act == ACT_GELU)
        for (int k = 0; k < count; k++)
            x[k] = activation_slope(ACT_GELU, x[k]);
    else if (act == ACT_GELU_TANH)
        for (int k = 0; k < count; k++)
            x[k] = activation_slope(ACT_GELU_TANH, x[k]);
    else if (act == ACT_SILU)
        for (int k = 0; k < count; k++)
            x[k] = activation_slope(ACT_SILU, x[k]);
    else if (act == ACT_TANH)
        for (int k = 0; k < count; k++)
            x[k] = activation_slope(ACT_TANH, x[k]);
    else
        for (int k = 0; k < count; k++)
            x[k] = activation_slope(act, x[k]);
}

#endif
