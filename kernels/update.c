/* Optimizer updates in one pass over parameters, gradients and state, in PyTorch's order of operations (its
 * single-tensor code). Scalars are computed once, in double, as Python does. A rule computes on blocks of
 * f32; one driver brings them, in place where an array is f32, and puts them back, rounded. */
#include <math.h>
#include <stdint.h>

#include "kernels/adam.h"
#include "kernels/draw.h"
#include "kernels/dynamic8.h"
#include "kernels/kernels.h"
#include "kernels/range.h"
#include "kernels/values.h"
#include "kernels/vecmath.h"

/* ---- The rules ------------------------------------------------------------------------------- */

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

static void adam_block(int64_t n, const AdamFactors *factors, float grad_scale, float *p, const float *g,
                       float *first, float *second)
{
    const AdamFactors f = *factors;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float d = g[i] * grad_scale + f.l2 * p[i];
        float m = f.beta1 * first[i] + f.rest1 * d;
        float v = f.beta2 * second[i] + f.rest2 * d * d;
        first[i] = m;
        second[i] = v;
        p[i] = p[i] * f.shrink - f.step_size * m / (sqrtf(v) / f.root_correction + f.eps);
    }
}

/* ---- One pass -------------------------------------------------------------------------------- */

/* What a thread converts at a time: whole blocks of 8-bit states, and few enough that the pieces of all
 * arrays stay in the first-level cache. */
enum { UPDATE_PIECE = 1024 };

typedef struct UpdateJob UpdateJob;
struct UpdateJob {
    const UpdateArrays *a;
    const UpdateScalars *s;
    float grad_scale;
    AdamFactors adam;
    void (*block)(int64_t n, const UpdateJob *job, float *p, const float *g, float *const *state);
    const Dynamic8Encoder *encoder[UPDATE_STATES]; /* of 8-bit states */
};

static void update_sgd(int64_t n, const UpdateJob *job, float *p, const float *g, float *const *state)
{
    sgd_block(n, job->s, job->grad_scale, p, g, state[0]);
}

static void update_rmsprop(int64_t n, const UpdateJob *job, float *p, const float *g, float *const *state)
{
    rmsprop_block(n, job->s, job->grad_scale, p, g, state[0], state[1]);
}

static void update_adagrad(int64_t n, const UpdateJob *job, float *p, const float *g, float *const *state)
{
    adagrad_block(n, job->s, job->grad_scale, p, g, state[0]);
}

static void update_adam(int64_t n, const UpdateJob *job, float *p, const float *g, float *const *state)
{
    adam_block(n, &job->adam, job->grad_scale, p, g, state[0], state[1]);
}

/* n <= UPDATE_PIECE elements; first: of the whole array, a multiple of 8. array: a number of its own. */
static void update_round(const UpdateJob *job, int array, int64_t first, int64_t n, const float *x, uint16_t *y)
{
    union {
        uint32_t words[UPDATE_PIECE / 2];
        uint16_t halves[UPDATE_PIECE];
    } random;
    const RoundingKey *key = job->a->rounding;
    uint64_t block = (uint64_t)(job->a->first + first) / 8;
    draw_words((int)((n + 7) / 8), draw_rounding_key(key, block), (uint32_t)block, key->parameter,
               (uint32_t)job->s->step, draw_rounding_last(job->s->step, array), random.words);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = draw_rounded(x[i], random.halves[i]);
}

/* Elements from `first` on as floats that may be written: where they are, or in the room. */
static float *update_take(const UpdateArrays *a, DType type, void *array, int64_t first, int64_t n, float *room)
{
    if (dtype_is_dynamic8(type)) {
        dynamic8_decode(type, array, dynamic8_scales(type, a->n, array), first, n, room);
        return room;
    }
    float *at = values_room(type, array, first, room);
    values_load(type, array, first, n, room);
    return at;
}

/* The same back. array: 0 the parameter, 1 and 2 the states. */
static void update_put(const UpdateJob *job, int array, DType type, int64_t n, const float *from, void *to,
                       int64_t first)
{
    if (dtype_is_dynamic8(type))
        dynamic8_encode_blocks(job->encoder[array - 1], from, to, dynamic8_scales(type, job->a->n, to), first, n);
    else if (type == DTYPE_BF16 && job->a->rounding)
        update_round(job, array, first, n, from, (uint16_t *)to + first);
    else
        values_store(type, n, from, to, first);
}

typedef struct UpdateRoom {
    float p[UPDATE_PIECE], g[UPDATE_PIECE], state[UPDATE_STATES][UPDATE_PIECE];
} UpdateRoom;

static void update_piece(const UpdateJob *job, int64_t first, int64_t n, UpdateRoom *room)
{
    const UpdateArrays *a = job->a;
    float *state[UPDATE_STATES] = {NULL, NULL};
    float *p = a->master ? a->master + first : update_take(a, a->p_type, a->p, first, n, room->p);
    const float *g = values_load(a->g_type, a->g, first, n, room->g);
    for (int k = 0; k < UPDATE_STATES; k++)
        if (a->state[k])
            state[k] = update_take(a, a->state_type[k], a->state[k], first, n, room->state[k]);
    job->block(n, job, p, g, state);
    if (a->master)
        values_store(a->p_type, n, p, a->p, first);
    else
        update_put(job, 0, a->p_type, n, p, a->p, first);
    for (int k = 0; k < UPDATE_STATES; k++)
        if (state[k])
            update_put(job, k + 1, a->state_type[k], n, state[k], a->state[k], first);
}

/* A block of the partition. With everything in place it is one call of the rule. */
static void update_block(const UpdateJob *job, int64_t first, int64_t n)
{
    const UpdateArrays *a = job->a;
    int in_place = !a->master && a->p_type == DTYPE_F32 && a->g_type == DTYPE_F32;
    for (int k = 0; k < UPDATE_STATES; k++)
        in_place &= !a->state[k] || a->state_type[k] == DTYPE_F32;
    int64_t most = in_place ? RANGE_BLOCK : UPDATE_PIECE;
    UpdateRoom room;
    for (int64_t i = 0; i < n; i += most)
        update_piece(job, first + i, range_min(most, n - i), &room);
}

static void update_all(UpdateJob *job, const UpdateControl *control, const KernelRun *run)
{
    const UpdateArrays *a = job->a;
    Dynamic8Encoder encoders[UPDATE_STATES];
    if (control->skip)
        return;
    job->grad_scale = control->grad_scale;
    for (int k = 0; k < UPDATE_STATES; k++)
        if (a->state[k] && dtype_is_dynamic8(a->state_type[k])) {
            dynamic8_prepare(a->state_type[k], &encoders[k]);
            job->encoder[k] = &encoders[k];
        }
    int64_t n = a->n;
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < n; i += RANGE_BLOCK)
        update_block(job, i, range_min(RANGE_BLOCK, n - i));
}

static void sgd(const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control,
                const KernelRun *run)
{
    update_all(&(UpdateJob){.a = a, .s = s, .block = update_sgd}, control, run);
}

static void rmsprop(const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control,
                    const KernelRun *run)
{
    update_all(&(UpdateJob){.a = a, .s = s, .block = update_rmsprop}, control, run);
}

static void adagrad(const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control,
                    const KernelRun *run)
{
    update_all(&(UpdateJob){.a = a, .s = s, .block = update_adagrad}, control, run);
}

static void adam(const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control,
                 const KernelRun *run)
{
    update_all(&(UpdateJob){.a = a, .s = s, .block = update_adam, .adam = adam_factors(s)}, control, run);
}
