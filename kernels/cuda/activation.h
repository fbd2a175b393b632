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

/* A statement with the activation as a constant: one decision for all values of a pack. */
#define ACTIVATION_CASES(act, statement)                                                                     \
    if ((act) == ACT_GELU) {                                                                                 \
        statement(ACT_GELU);                                                                                 \
    } else if ((act) == ACT_GELU_TANH) {                                                                     \
        statement(ACT_GELU_TANH);                                                                            \
    } else if ((act) == ACT_SILU) {                                                                          \
        statement(ACT_SILU);                                                                                 \
    } else if ((act) == ACT_RELU) {                                                                          \
        statement(ACT_RELU);                                                                                 \
    } else if ((act) == ACT_TANH) {                                                                          \
        statement(ACT_TANH);                                                                                 \
    } else {                                                                                                 \
        statement(ACT_NONE);                                                                                 \
    }

#define ACTIVATION_VALUES(act)                                                                               \
    for (int k = 0; k < count; k++)                                                                          \
    x[k] = activation_value(act, x[k])

#define ACTIVATION_SLOPES(act)                                                                               \
    for (int k = 0; k < count; k++)                                                                          \
    x[k] = activation_slope(act, x[k])

#define ACTIVATION_GATES(act)                                                                                \
    for (int k = 0; k < count; k++)                                                                          \
    up[k] *= activation_value(act, gate[k])

#define ACTIVATION_GATE_SLOPES(act)                                                                          \
    for (int k = 0; k < count; k++) {                                                                        \
        float x = gate[k];                                                                                   \
        gate[k] = activation_slope(act, x) * up[k] * dy[k];                                                  \
        up[k] = activation_value(act, x) * dy[k];                                                            \
    }

/* x[k] = act(x[k]) */
DEVICE void activation_values(int act, int count, float *x)
{
    ACTIVATION_CASES(act, ACTIVATION_VALUES)
}

/* x[k] = act'(x[k]) */
DEVICE void activation_slopes(int act, int count, float *x)
{
    ACTIVATION_CASES(act, ACTIVATION_SLOPES)
}

/* up[k] = act(gate[k]) up[k] */
DEVICE void activation_gates(int act, int count, const float *gate, float *up)
{
    ACTIVATION_CASES(act, ACTIVATION_GATES)
}

/* gate[k] and up[k] become their gradients, of dy[k]. */
DEVICE void activation_gate_slopes(int act, int count, float *gate, float *up, const float *dy)
{
    ACTIVATION_CASES(act, ACTIVATION_GATE_SLOPES)
}

/* cap tanh(x / cap), and its slope. */
DEVICE float softcap_value(float cap, float x)
{
    return cap * tanhf(x / cap);
}

DEVICE float softcap_slope(float cap, float x)
{
    return activation_slope(ACT_TANH, x / cap);
}

#endif
