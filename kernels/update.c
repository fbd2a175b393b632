/* Optimizer updates in one pass over parameters, gradients and state, in PyTorch's order of operations (its
 * single-tensor code). Scalars are computed once, in double, as Python does. */
#include <math.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "kernels/range.h"
#include "kernels/vecmath.h"

VEC_INLINE void sgd_momentum(int64_t n, const UpdateScalars *s, float grad_scale, int nesterov, float *p,
                             const float *g, float *momentum)
{
    /* At step 1 the buffer is the gradient itself, undamped. */
    const float keep = s->step <= 1 ? 0.0f : s->momentum;
    const float take = s->step <= 1 ? 1.0f : (float)(1.0 - (double)s->dampening);
    const float lr = s->lr, decay = s->weight_decay, mu = s->momentum;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float d = g[i] * grad_scale + decay * p[i];
        float buffer = keep * momentum[i] + take * d;
        momentum[i] = buffer;
        p[i] -= lr * (nesterov ? d + mu * buffer : buffer);
    }
}

static void sgd_block(int64_t n, const UpdateScalars *s, float grad_scale, float *p, const float *g,
                      float *momentum)
{
    const float lr = s->lr, decay = s->weight_decay;
    if (momentum && s->momentum != 0.0f) {
        if (s->nesterov)
            sgd_momentum(n, s, grad_scale, 1, p, g, momentum);
        else
            sgd_momentum(n, s, grad_scale, 0, p, g, momentum);
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        p[i] -= lr * (g[i] * grad_scale + decay * p[i]);
}

static void sgd(int64_t n, const UpdateScalars *s, const UpdateControl *control, float *p, const float *g,
                float *momentum, const KernelRun *run)
{
    if (control->skip)
        return;
    const float grad_scale = control->grad_scale;
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < n; i += RANGE_BLOCK)
        sgd_block(range_min(RANGE_BLOCK, n - i), s, grad_scale, p + i, g + i, momentum ? momentum + i : NULL);
}

VEC_INLINE void rmsprop_rule(int64_t n, const UpdateScalars *s, float grad_scale, float *p, const float *g,
                             float *square, float *momentum)
{
    const float lr = s->lr, decay = s->weight_decay, mu = s->momentum, eps = s->eps;
    const float alpha = s->alpha, rest = (float)(1.0 - (double)s->alpha);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float d = g[i] * grad_scale + decay * p[i];
        float v = alpha * square[i] + rest * d * d;
        float root = sqrtf(v) + eps;
        square[i] = v;
        if (momentum) {
            momentum[i] = mu * momentum[i] + d / root;
            p[i] -= lr * momentum[i];
        } else {
            p[i] -= lr * d / root;
        }
    }
}

static void rmsprop_block(int64_t n, const UpdateScalars *s, float grad_scale, float *p, const float *g,
                          float *square, float *momentum)
{
    if (momentum && s->momentum != 0.0f)
        rmsprop_rule(n, s, grad_scale, p, g, square, momentum);
    else
        rmsprop_rule(n, s, grad_scale, p, g, square, NULL);
}

static void rmsprop(int64_t n, const UpdateScalars *s, const UpdateControl *control, float *p, const float *g,
                    float *square, float *momentum, const KernelRun *run)
{
    if (control->skip)
        return;
    const float grad_scale = control->grad_scale;
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < n; i += RANGE_BLOCK)
        rmsprop_block(range_min(RANGE_BLOCK, n - i), s, grad_scale, p + i, g + i, square + i,
                      momentum ? momentum + i : NULL);
}

static void adagrad_block(int64_t n, const UpdateScalars *s, float grad_scale, float *p, const float *g,
                          float *sum)
{
    const float lr = s->lr, decay = s->weight_decay, eps = s->eps;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float d = g[i] * grad_scale + decay * p[i];
        float v = sum[i] + d * d;
        sum[i] = v;
        p[i] -= lr * d / (sqrtf(v) + eps);
    }
}

static void adagrad(int64_t n, const UpdateScalars *s, const UpdateControl *control, float *p, const float *g,
                    float *sum, const KernelRun *run)
{
    if (control->skip)
        return;
    const float grad_scale = control->grad_scale;
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < n; i += RANGE_BLOCK)
        adagrad_block(range_min(RANGE_BLOCK, n - i), s, grad_scale, p + i, g + i, sum + i);
}

typedef struct AdamFactors {
    float grad_scale, l2; /* l2 = 0 in AdamW */
    float shrink;         /* of the parameter before the update: 1 - lr weight_decay in AdamW, else 1 */
    float beta1, rest1, beta2, rest2;
    float root_correction; /* sqrt(1 - beta2^step) */
    float step_size;       /* lr / (1 - beta1^step) */
    float eps;
} AdamFactors;

static AdamFactors adam_factors(const UpdateScalars *s, const UpdateControl *control)
{
    double b1 = (double)s->beta1, b2 = (double)s->beta2, lr = (double)s->lr, decay = (double)s->weight_decay;
    return (AdamFactors){
        .grad_scale = control->grad_scale,
        .l2 = s->decoupled ? 0.0f : s->weight_decay,
        .shrink = s->decoupled ? (float)(1.0 - lr * decay) : 1.0f,
        .beta1 = s->beta1,
        .rest1 = (float)(1.0 - b1),
        .beta2 = s->beta2,
        .rest2 = (float)(1.0 - b2),
        .root_correction = (float)sqrt(1.0 - pow(b2, (double)s->step)),
        .step_size = (float)(lr / (1.0 - pow(b1, (double)s->step))),
        .eps = s->eps,
    };
}

static void adam_block(int64_t n, const AdamFactors *factors, float *p, const float *g, float *first,
                       float *second)
{
    const AdamFactors f = *factors;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float d = g[i] * f.grad_scale + f.l2 * p[i];
        float m = f.beta1 * first[i] + f.rest1 * d;
        float v = f.beta2 * second[i] + f.rest2 * d * d;
        first[i] = m;
        second[i] = v;
        p[i] = p[i] * f.shrink - f.step_size * m / (sqrtf(v) / f.root_correction + f.eps);
    }
}

static void adam(int64_t n, const UpdateScalars *s, const UpdateControl *control, float *p, const float *g,
                 float *first, float *second, const KernelRun *run)
{
    if (control->skip)
        return;
    const AdamFactors factors = adam_factors(s, control);
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < n; i += RANGE_BLOCK)
        adam_block(range_min(RANGE_BLOCK, n - i), &factors, p + i, g + i, first + i, second + i);
}
