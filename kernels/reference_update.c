/* The reference of update.c: a block of 256 elements after the other is decoded, updated in double, and
 * rounded. */
#include <math.h>
#include <string.h>

#include "base/half_.h"
#include "base/quant_codes_.h"
#include "kernels/draw.h"
#include "kernels/reference_.h"

/* One element: the parameter, the gradient, and the states. */
typedef void Rule(const UpdateScalars *s, float *p, double d, float *first, float *second);

static void sgd_rule(const UpdateScalars *s, float *p, double d, float *momentum, float *second)
{
    (void)second;
    d += (double)s->weight_decay * *p;
    if (momentum && s->momentum != 0.0f) {
        double buffer = s->step <= 1 ? d : (double)s->momentum * *momentum + (1.0 - s->dampening) * d;
        *momentum = (float)buffer;
        d = s->nesterov ? d + s->momentum * buffer : buffer;
    }
    *p = (float)(*p - s->lr * d);
}

static void rmsprop_rule(const UpdateScalars *s, float *p, double d, float *square, float *momentum)
{
    d += (double)s->weight_decay * *p;
    double v = (double)s->alpha * *square + (1.0 - s->alpha) * d * d;
    double move = d / (sqrt(v) + s->eps);
    *square = (float)v;
    if (momentum && s->momentum != 0.0f) {
        move += (double)s->momentum * *momentum;
        *momentum = (float)move;
    }
    *p = (float)(*p - s->lr * move);
}

static void adagrad_rule(const UpdateScalars *s, float *p, double d, float *sum, float *second)
{
    (void)second;
    d += (double)s->weight_decay * *p;
    double v = (double)*sum + d * d;
    *sum = (float)v;
    *p = (float)(*p - s->lr * d / (sqrt(v) + s->eps));
}

static void adam_rule(const UpdateScalars *s, float *p, double d, float *first, float *second)
{
    double b1 = s->beta1, b2 = s->beta2, w = *p;
    double correction1 = 1.0 - pow(b1, (double)s->step), correction2 = 1.0 - pow(b2, (double)s->step);
    if (s->decoupled)
        w *= 1.0 - (double)s->lr * s->weight_decay;
    else
        d += (double)s->weight_decay * w;
    double m = b1 * *first + (1.0 - b1) * d, v = b2 * *second + (1.0 - b2) * d * d;
    *first = (float)m;
    *second = (float)v;
    *p = (float)(w - s->lr / correction1 * m / (sqrt(v) / sqrt(correction2) + s->eps));
}

/* ---- Elements of every type ------------------------------------------------------------------ */

enum { BLOCK = DYNAMIC8_BLOCK };

static float *scales_of(DType type, int64_t n, void *array)
{
    return (float *)(void *)((unsigned char *)array + quant_layout(type, 1, n).scales);
}

static float value_at(DType type, const void *array, int64_t n, int64_t i)
{
    return reference_element(&(StoredArray){array, type, 1, n}, i);
}

/* Cuts the low half off after a random number below 2^16 was added to the bits. */
static uint16_t round_at_random(const UpdateArrays *a, int64_t update, int array, int64_t i, float x)
{
    uint64_t block = (uint64_t)i / 8;
    Philox draw = philox4x32(draw_rounding_key(a->rounding, block), (uint32_t)block, a->rounding->parameter,
                             (uint32_t)update, draw_rounding_last(update, array));
    uint32_t random = draw.v[i % 8 / 2] >> (i % 2 ? 16 : 0) & 0xFFFFu;
    if (!(fabsf(x) < half_from_bf16(0x7F7F)))
        return (uint16_t)(float_to_bits(x) >> 16 | (isnan(x) ? 0x40u : 0));
    return (uint16_t)((float_to_bits(x) + random) >> 16);
}

/* array: 0 the parameter, 1 and 2 the states. n elements from `first` on. */
static void store(const UpdateArrays *a, int64_t update, int array, int64_t first, int64_t n, const float *x)
{
    DType type = array ? a->state_type[array - 1] : a->p_type;
    void *to = array ? a->state[array - 1] : a->p;
    int random = type == DTYPE_BF16 && a->rounding && (array || !a->master);
    if (dtype_is_dynamic8(type))
        reference_dynamic8_block(type, n, x, (unsigned char *)to + first, scales_of(type, a->n, to) + first / BLOCK);
    for (int64_t i = 0; i < n; i++) {
        if (type == DTYPE_F32)
            ((float *)to)[first + i] = x[i];
        else if (type == DTYPE_F16)
            ((uint16_t *)to)[first + i] = half_to_f16(x[i]);
        else if (type == DTYPE_BF16)
            ((uint16_t *)to)[first + i] =
                random ? round_at_random(a, update, array, a->first + first + i, x[i]) : half_to_bf16(x[i]);
    }
}

static void update(const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control, Rule *rule)
{
    for (int64_t first = 0; first < a->n && !control->skip; first += BLOCK) {
        float p[BLOCK], state[UPDATE_STATES][BLOCK];
        int64_t n = a->n - first < BLOCK ? a->n - first : BLOCK;
        for (int64_t i = 0; i < n; i++) {
            p[i] = a->master ? a->master[first + i] : value_at(a->p_type, a->p, a->n, first + i);
            for (int k = 0; k < UPDATE_STATES && a->state[k]; k++)
                state[k][i] = value_at(a->state_type[k], a->state[k], a->n, first + i);
            rule(s, &p[i], (double)value_at(a->g_type, a->g, a->n, first + i) * control->grad_scale,
                 a->state[0] ? &state[0][i] : NULL, a->state[1] ? &state[1][i] : NULL);
        }
        if (a->master)
            memcpy(a->master + first, p, (size_t)n * sizeof *p);
        store(a, s->step, 0, first, n, p);
        for (int k = 0; k < UPDATE_STATES && a->state[k]; k++)
            store(a, s->step, k + 1, first, n, state[k]);
    }
}

void reference_sgd(const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control,
                   const KernelRun *run)
{
    (void)run;
    update(a, s, control, sgd_rule);
}

void reference_rmsprop(const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control,
                       const KernelRun *run)
{
    (void)run;
    update(a, s, control, rmsprop_rule);
}

void reference_adagrad(const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control,
                       const KernelRun *run)
{
    (void)run;
    update(a, s, control, adagrad_rule);
}

void reference_adam(const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control,
                    const KernelRun *run)
{
    (void)run;
    update(a, s, control, adam_rule);
}
