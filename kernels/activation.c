/* Activations, gated ones (SwiGLU and its kind), rows that a number gates and soft caps, one pass each way.
 * One loop serves all activations: it is inlined with the activation as a constant, so that every instance
 * vectorises, and computes in f32 on blocks (values.h). */
#include <stdint.h>

#include "kernels/kernels.h"
#include "kernels/range.h"
#include "kernels/values.h"
#include "kernels/vecmath.h"

VEC_INLINE float activation_sigmoid(float x)
{
    return 1.0f / (1.0f + vec_exp(-x));
}

/* The tanh form is x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)): 0.5 (1 + tanh u) = sigmoid(2u), which does not
 * cancel. */
#define ACTIVATION_GELU_SCALE 1.5957691216057308f
#define ACTIVATION_GELU_CUBE  0.044715f

/* |x|, where the normal distribution has an end; NaN stays. */
VEC_INLINE float activation_normal(float x)
{
    float a = fabsf(x);
    return a > VEC_NORMAL_END ? VEC_NORMAL_END : a;
}

/* GELU is x P(X < x): what ReLU is, less |x| times the tail beyond |x|. */
VEC_INLINE float activation_value(Activation act, float x)
{
    float a, e, q;
    switch (act) {
    case ACT_GELU:
        a = activation_normal(x);
        q = vec_normal_tail(a, &e);
        return vec_fma(-a * e, q, x < 0.0f ? 0.0f : x);
    case ACT_GELU_TANH:
        return x * activation_sigmoid(ACTIVATION_GELU_SCALE * (x + ACTIVATION_GELU_CUBE * x * x * x));
    case ACT_SILU:
        return x * activation_sigmoid(x);
    case ACT_RELU:
        return x < 0.0f ? 0.0f : x; /* NaN stays */
    case ACT_TANH:
        vec_tanh_tail(fabsf(x), &a);
        return copysignf(a, x);
    case ACT_NONE:
        break;
    }
    return x;
}

VEC_INLINE float activation_slope(Activation act, float x)
{
    float s, a, e, q;
    switch (act) {
    case ACT_GELU: /* P(X < x) + x density(x): of -|x|, and the rest up to 1 of |x| */
        a = activation_normal(x);
        q = vec_normal_tail(a, &e);
        s = e * vec_fma(a, -0.39894228040143268f, q);
        return x < 0.0f ? s : 1.0f - s;
    case ACT_GELU_TANH:
        s = activation_sigmoid(ACTIVATION_GELU_SCALE * (x + ACTIVATION_GELU_CUBE * x * x * x));
        return s +
               x * s * (1.0f - s) * (ACTIVATION_GELU_SCALE * (1.0f + 3.0f * ACTIVATION_GELU_CUBE * x * x));
    case ACT_SILU:
        s = activation_sigmoid(x);
        return s * (1.0f + x * (1.0f - s));
    case ACT_RELU:
        return x <= 0.0f ? 0.0f : 1.0f;
    case ACT_TANH: /* 1 - tanh^2 = (1 - tanh) (1 + tanh) */
        s = vec_tanh_tail(fabsf(x), &a);
        return s * (1.0f + a);
    case ACT_NONE:
        break;
    }
    return 1.0f;
}

/* Calls a loop with the activation as a constant; an activation that is missing here is a warning. */
#define WITH_CONSTANT(act, loop, ...)                                                                        \
    switch (act) {                                                                                           \
    case ACT_NONE:                                                                                           \
        loop(ACT_NONE, __VA_ARGS__);                                                                         \
        break;                                                                                               \
    case ACT_GELU:                                                                                           \
        loop(ACT_GELU, __VA_ARGS__);                                                                         \
        break;                                                                                               \
    case ACT_GELU_TANH:                                                                                      \
        loop(ACT_GELU_TANH, __VA_ARGS__);                                                                    \
        break;                                                                                               \
    case ACT_SILU:                                                                                           \
        loop(ACT_SILU, __VA_ARGS__);                                                                         \
        break;                                                                                               \
    case ACT_RELU:                                                                                           \
        loop(ACT_RELU, __VA_ARGS__);                                                                         \
        break;                                                                                               \
    case ACT_TANH:                                                                                           \
        loop(ACT_TANH, __VA_ARGS__);                                                                         \
        break;                                                                                               \
    }

VEC_INLINE void activation_values(Activation act, int64_t n, const float *x, float *y)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = activation_value(act, x[i]);
}

/* Single-threaded; y may equal x. The products' epilogues call it on what is still in cache. */
static void activation_apply(Activation act, int64_t n, const float *x, float *y)
{
    if (act == ACT_NONE) {
        if (x != y)
            memcpy(y, x, (size_t)n * sizeof *y);
        return;
    }
    WITH_CONSTANT(act, activation_values, n, x, y)
}

static void activation_forward(DType type, Activation act, int64_t n, const void *x, void *y,
                               const KernelRun *run)
{
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < n; i += RANGE_BLOCK) {
        float room[RANGE_BLOCK];
        int64_t m = range_min(RANGE_BLOCK, n - i);
        float *to = values_room(type, y, i, room);
        activation_apply(act, m, values_load(type, x, i, m, room), to);
        values_store(type, m, to, y, i);
    }
}

VEC_INLINE void activation_slopes(Activation act, int64_t n, const float *x, const float *dy, float beta,
                                  float *dx)
{
    if (beta == 0.0f) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            dx[i] = activation_slope(act, x[i]) * dy[i];
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            dx[i] = activation_slope(act, x[i]) * dy[i] + beta * dx[i];
    }
}

static void activation_apply_slope(Activation act, int64_t n, const float *x, const float *dy, float beta,
                                   float *dx)
{
    WITH_CONSTANT(act, activation_slopes, n, x, dy, beta, dx)
}

static void activation_backward(DType type, Activation act, int64_t n, const void *x, const void *dy,
                                float beta, void *dx, const KernelRun *run)
{
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < n; i += RANGE_BLOCK) {
        float in[VALUES_BLOCK], slope[VALUES_BLOCK], out[VALUES_BLOCK];
        int64_t end = range_min(n, i + RANGE_BLOCK);
        for (int64_t j = i, m; j < end; j += m) {
            m = values_block(type, end - j);
            const float *from = values_load(type, x, j, m, in), *d = values_load(type, dy, j, m, slope);
            float *to = values_room(type, dx, j, out);
            if (beta != 0.0f)
                values_load(type, dx, j, m, out);
            activation_apply_slope(act, m, from, d, beta, to);
            values_store(type, m, to, dx, j);
        }
    }
}

/* ---- Gated: act(gate) up ---------------------------------------------------------------------- */

/* act(x) is the product of the two, whose factors meet a gradient one after the other. */
VEC_INLINE float activation_split(Activation act, float x, float *times)
{
    *times = 1.0f;
    if (act == ACT_SILU)
        *times = activation_sigmoid(x);
    return act == ACT_SILU ? x : activation_value(act, x);
}

/* Elements [first, first + n) of gate, up and their gradients, which in y and its gradient begin at `to`. */
typedef struct GatedPiece {
    int64_t first, to, n;
} GatedPiece;

/* Rows are cut into pieces of the same size each, but for their last ones. */
static int64_t gated_pieces(const GatedDims *d, int64_t size)
{
    return (d->c + size - 1) / size;
}

static GatedPiece gated_piece(const GatedDims *d, int64_t size, int64_t index)
{
    int64_t pieces = gated_pieces(d, size), row = index / pieces, from = index % pieces * size;
    return (GatedPiece){row * gated_ld(d) + from, row * d->c + from, range_min(size, d->c - from)};
}

VEC_INLINE void gated_values(Activation act, int64_t n, const float *gate, const float *up, float *y)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = activation_value(act, gate[i]) * up[i];
}

static void gated_forward(const GatedDims *d, DType type, const void *gate, const void *up, void *y,
                          const KernelRun *run)
{
    int team = range_threads(d->rows * d->c, run->threads);
    int64_t count = d->rows * gated_pieces(d, VALUES_BLOCK);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < count; i++) {
        float left[VALUES_BLOCK], right[VALUES_BLOCK];
        GatedPiece p = gated_piece(d, VALUES_BLOCK, i);
        const float *g = values_load(type, gate, p.first, p.n, left);
        const float *u = values_load(type, up, p.first, p.n, right);
        float *to = values_room(type, y, p.to, left);
        WITH_CONSTANT(d->act, gated_values, p.n, g, u, to)
        values_store(type, p.n, to, y, p.to);
    }
}

/* Everything of an element is read before anything of it is written: gate, up and dy may be overwritten. The
 * flags are constants where this is inlined. */
VEC_INLINE void gated_slopes(Activation act, int64_t n, const float *gate, const float *up, const float *dy,
                             float beta_gate, float *dgate, float beta_up, float *dup)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float x = gate[i], u = up[i], d = dy[i], times, value = activation_split(act, x, &times);
        float to_up = d * value * times, to_gate = d * u * activation_slope(act, x);
        if (dgate)
            dgate[i] = beta_gate == 0.0f ? to_gate : to_gate + beta_gate * dgate[i];
        if (dup)
            dup[i] = beta_up == 0.0f ? to_up : to_up + beta_up * dup[i];
    }
}

VEC_INLINE void gated_block(Activation act, int64_t n, const float *gate, const float *up, const float *dy,
                            float beta_gate, float *dgate, float beta_up, float *dup)
{
    if (!dup)
        gated_slopes(act, n, gate, up, dy, beta_gate, dgate, 0.0f, NULL);
    else if (!dgate)
        gated_slopes(act, n, gate, up, dy, 0.0f, NULL, beta_up, dup);
    else if (beta_gate == 0.0f && beta_up == 0.0f)
        gated_slopes(act, n, gate, up, dy, 0.0f, dgate, 0.0f, dup);
    else
        gated_slopes(act, n, gate, up, dy, beta_gate, dgate, beta_up, dup);
}

/* At most a block of it in 16 bit. */
static void gated_part(Activation act, DType type, GatedPiece p, const void *gate, const void *up,
                       const void *dy, float beta_gate, void *dgate, float beta_up, void *dup)
{
    float in[3][VALUES_BLOCK], out[2][VALUES_BLOCK];
    const float *g = values_load(type, gate, p.first, p.n, in[0]);
    const float *u = values_load(type, up, p.first, p.n, in[1]), *d = values_load(type, dy, p.to, p.n, in[2]);
    float *to_gate = values_room(type, dgate, p.first, out[0]);
    float *to_up = values_room(type, dup, p.first, out[1]);
    if (beta_gate != 0.0f)
        values_load(type, dgate, p.first, p.n, out[0]);
    if (beta_up != 0.0f)
        values_load(type, dup, p.first, p.n, out[1]);
    WITH_CONSTANT(act, gated_block, p.n, g, u, d, beta_gate, to_gate, beta_up, to_up)
    values_store(type, p.n, to_gate, dgate, p.first);
    values_store(type, p.n, to_up, dup, p.first);
}

static void gated_backward(const GatedDims *d, DType type, const void *gate, const void *up, const void *dy,
                           float beta_gate, void *dgate, float beta_up, void *dup, const KernelRun *run)
{
    int team = range_threads(d->rows * d->c, run->threads);
    int64_t count = d->rows * gated_pieces(d, RANGE_BLOCK);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < count; i++) {
        GatedPiece whole = gated_piece(d, RANGE_BLOCK, i), p = whole;
        for (int64_t done = 0; done < whole.n; done += p.n) {
            p = (GatedPiece){whole.first + done, whole.to + done, values_block(type, whole.n - done)};
            gated_part(d->act, type, p, gate, up, dy, beta_gate, dgate, beta_up, dup);
        }
    }
}

/* ---- Rows that a number gates: x sigmoid(gate) ------------------------------------------------ */

/* Elements of a row that are looked at together, whatever its type is: a sum over them is the same in all. */
enum { GATE_BLOCK = VALUES_BLOCK };

static void gate_row_values(int64_t n, const float *x, float by, float *y)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * by;
}

static void gate_rows_forward(DType type, int64_t rows, int64_t c, const void *x, const void *gate, void *y,
                              const KernelRun *run)
{
    int team = range_threads(rows * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t row = 0; row < rows; row++) {
        float room[GATE_BLOCK], by = activation_sigmoid(values_get(type, gate, row));
        for (int64_t j = 0, n; j < c; j += n) {
            n = range_min(GATE_BLOCK, c - j);
            float *to = values_room(type, y, row * c + j, room);
            gate_row_values(n, values_load(type, x, row * c + j, n, room), by, to);
            values_store(type, n, to, y, row * c + j);
        }
    }
}

static float gate_row_dot(int64_t n, const float *x, const float *dy)
{
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < n; i++)
        dot += x[i] * dy[i];
    return dot;
}

static void gate_row_slopes(int64_t n, const float *dy, float by, float beta, float *dx)
{
    if (beta == 0.0f) {
        gate_row_values(n, dy, by, dx);
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dx[i] = dy[i] * by + beta * dx[i];
}

/* The row that begins at element `at`; returns its sum of x dy, 0 without x. */
static float gate_row_backward(DType type, int64_t at, int64_t c, const void *x, const void *dy, float by,
                               float beta, void *dx)
{
    float room[3][GATE_BLOCK], dot = 0.0f;
    for (int64_t j = at, n; j < at + c; j += n) {
        n = range_min(GATE_BLOCK, at + c - j);
        const float *xs = values_load(type, x, j, n, room[0]), *ds = values_load(type, dy, j, n, room[1]);
        float *to = values_room(type, dx, j, room[2]);
        if (xs)
            dot += gate_row_dot(n, xs, ds);
        if (!to)
            continue;
        if (beta != 0.0f)
            values_load(type, dx, j, n, room[2]);
        gate_row_slopes(n, ds, by, beta, to);
        values_store(type, n, to, dx, j);
    }
    return dot;
}

static void gate_rows_backward(DType type, int64_t rows, int64_t c, const void *x, const void *gate,
                               const void *dy, float beta_x, void *dx, float beta_gate, void *dgate,
                               const KernelRun *run)
{
    int team = range_threads(rows * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t row = 0; row < rows; row++) {
        float g = values_get(type, gate, row), by = activation_sigmoid(g);
        float dot = gate_row_backward(type, row * c, c, dgate ? x : NULL, dy, by, beta_x, dx);
        if (!dgate)
            continue;
        float slope = by * activation_sigmoid(-g) * dot; /* 1 - sigmoid(g) without cancelling */
        values_set(type, dgate, row,
                   beta_gate == 0.0f ? slope : slope + beta_gate * values_get(type, dgate, row));
    }
}

/* ---- Soft caps -------------------------------------------------------------------------------- */

static void softcap_values(float cap, int64_t n, const float *x, float *y)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = vec_softcap(cap, x[i]);
}

static void softcap_forward(DType type, int64_t n, float cap, const void *x, void *y, const KernelRun *run)
{
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < n; i += RANGE_BLOCK) {
        float room[RANGE_BLOCK];
        int64_t m = range_min(RANGE_BLOCK, n - i);
        float *to = values_room(type, y, i, room);
        softcap_values(cap, m, values_load(type, x, i, m, room), to);
        values_store(type, m, to, y, i);
    }
}

static void softcap_slopes(float cap, int64_t n, const float *x, const float *dy, float beta, float *dx)
{
    if (beta == 0.0f) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            dx[i] = vec_softcap_slope(cap, x[i]) * dy[i];
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            dx[i] = vec_softcap_slope(cap, x[i]) * dy[i] + beta * dx[i];
    }
}

static void softcap_backward(DType type, int64_t n, float cap, const void *x, const void *dy, float beta,
                             void *dx, const KernelRun *run)
{
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < n; i += RANGE_BLOCK) {
        float in[VALUES_BLOCK], slope[VALUES_BLOCK], out[VALUES_BLOCK];
        int64_t end = range_min(n, i + RANGE_BLOCK);
        for (int64_t j = i, m; j < end; j += m) {
            m = values_block(type, end - j);
            const float *from = values_load(type, x, j, m, in), *d = values_load(type, dy, j, m, slope);
            float *to = values_room(type, dx, j, out);
            if (beta != 0.0f)
                values_load(type, dx, j, m, out);
            softcap_slopes(cap, m, from, d, beta, to);
            values_store(type, m, to, dx, j);
        }
    }
}
