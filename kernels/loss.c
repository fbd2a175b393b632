/* Cross-entropy over rows of logits. Forward reads a row from memory once: block by block, each block twice
 * while it is in L1 (its maximum, then the sum of exponentials), rescaling the running sum when the maximum
 * grows. */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/range.h"
#include "kernels/values.h"
#include "kernels/vecmath.h"

static size_t cross_entropy_workspace(const CrossEntropyDims *d, const KernelRun *run)
{
    (void)run;
    return (size_t)d->rows * sizeof(float); /* a row's loss */
}

/* The order of floats as an order of integers, and back (its own inverse): clang does not vectorise a maximum
 * of floats that may be NaN. Here NaN may win or not; the sum of exponentials catches it. */
VEC_INLINE int32_t cross_entropy_order(int32_t bits)
{
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

static float cross_entropy_block_max(int64_t n, const float *x)
{
    int32_t top = cross_entropy_order((int32_t)float_to_bits(-FLT_MAX));
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < n; j++) {
        int32_t order = cross_entropy_order((int32_t)float_to_bits(x[j]));
        top = order > top ? order : top;
    }
    return float_from_bits((uint32_t)cross_entropy_order(top));
}

static float cross_entropy_block_sum(int64_t n, const float *x, float top)
{
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < n; j++)
        total += vec_exp(x[j] - top);
    return total;
}

/* Logits as they count: capped ones in room. */
static const float *cross_entropy_load(float cap, DType type, const void *x, int64_t at, int64_t n,
                                       float *room)
{
    const float *from = values_load(type, x, at, n, room);
    if (cap == 0.0f)
        return from;
#pragma omp simd
    for (int64_t j = 0; j < n; j++)
        room[j] = vec_softcap(cap, from[j]);
    return room;
}

static float cross_entropy_get(float cap, DType type, const void *x, int64_t i)
{
    float value = values_get(type, x, i);
    return cap == 0.0f ? value : vec_softcap(cap, value);
}

/* The largest of a row that begins at element `at`, and the sum of exponentials below it. The maximum starts
 * at -FLT_MAX, not -inf: a block of -inf (masked classes) then adds zero instead of NaN. */
static double cross_entropy_total(float cap, DType type, int64_t at, int64_t classes, const void *x,
                                  float *highest)
{
    float room[RANGE_BLOCK], top = -FLT_MAX;
    double total = 0.0;
    for (int64_t j = 0; j < classes; j += RANGE_BLOCK) {
        int64_t n = range_min(RANGE_BLOCK, classes - j);
        const float *block = cross_entropy_load(cap, type, x, at + j, n, room);
        float block_top = cross_entropy_block_max(n, block);
        if (block_top > top) {
            total *= (double)expf(top - block_top);
            top = block_top;
        }
        total += (double)cross_entropy_block_sum(n, block, top);
    }
    *highest = top;
    return total;
}

/* Returns -log softmax(x)[label] of the row. */
static float cross_entropy_row(float cap, DType type, int64_t at, int64_t classes, const void *x,
                               int32_t label, float *lse)
{
    float top;
    double log_total = log(cross_entropy_total(cap, type, at, classes, x, &top));
    *lse = (float)((double)top + log_total);
    return (float)((double)top - (double)cross_entropy_get(cap, type, x, at + label) + log_total);
}

static void cross_entropy_forward(const CrossEntropyDims *d, DType type, const void *logits,
                                  const int32_t *labels, float scale_by, float *loss, float *lse,
                                  float *workspace, const KernelRun *run)
{
    int64_t first = d->rows, ld = cross_entropy_ld(d);
    int team = range_threads(d->rows * d->classes, run->threads);
#pragma omp parallel for schedule(static) num_threads(team) reduction(min : first)
    for (int64_t row = 0; row < d->rows; row++) {
        int32_t label = labels[row];
        workspace[row] = lse[row] = 0.0f;
        if (label == d->ignore_index)
            continue;
        if (label < 0 || label >= d->classes)
            first = range_min(first, row);
        else
            workspace[row] =
                cross_entropy_row(d->softcap, type, row * ld, d->classes, logits, label, lse + row);
    }
    double total = 0.0;
    for (int64_t row = 0; row < d->rows; row++)
        total += (double)workspace[row];
    loss[0] = (float)((double)scale_by * total);
    if (first < d->rows && *run->fault < 0)
        *run->fault = d->first_row + first;
}

static void cross_entropy_slopes(int64_t n, const float *x, float factor, float lse, float beta, float *dx)
{
    if (beta == 0.0f) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            dx[j] = vec_exp(x[j] - lse) * factor;
    } else {
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            dx[j] = vec_exp(x[j] - lse) * factor + beta * dx[j];
    }
}

static void cross_entropy_capped_slopes(float cap, int64_t n, const float *x, float factor, float lse,
                                        float beta, float *dx)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        float t, tail = vec_tanh_tail(fabsf(x[j]) / cap, &t);
        float slope = vec_exp(copysignf(cap * t, x[j]) - lse) * factor * (tail * (1.0f + t));
        dx[j] = beta == 0.0f ? slope : slope + beta * dx[j];
    }
}

/* The gradient of the label's own logit. The difference is taken before the product, where it is exact. */
static float cross_entropy_label_slope(float cap, float x, float factor, float lse)
{
    float slope = (vec_exp((cap == 0.0f ? x : vec_softcap(cap, x)) - lse) - 1.0f) * factor;
    return cap == 0.0f ? slope : slope * vec_softcap_slope(cap, x);
}

/* The label may be that of a class which is not here. */
static void cross_entropy_row_backward(float cap, DType type, int64_t at, int64_t classes, const void *x,
                                       int64_t label, float factor, float lse, float beta, void *dx)
{
    float in[VALUES_BLOCK], out[VALUES_BLOCK];
    /* Read before the row is overwritten. */
    int here = label >= 0 && label < classes;
    float at_label =
        here ? cross_entropy_label_slope(cap, values_get(type, x, at + label), factor, lse) : 0.0f;
    if (here && beta != 0.0f)
        at_label += beta * values_get(type, dx, at + label);
    for (int64_t j = 0, n; j < classes; j += n) {
        n = values_block(type, classes - j);
        const float *from = values_load(type, x, at + j, n, in);
        float *to = values_room(type, dx, at + j, out);
        if (beta != 0.0f)
            values_load(type, dx, at + j, n, out);
        if (cap == 0.0f)
            cross_entropy_slopes(n, from, factor, lse, beta, to);
        else
            cross_entropy_capped_slopes(cap, n, from, factor, lse, beta, to);
        values_store(type, n, to, dx, at + j);
    }
    if (here)
        values_set(type, dx, at + label, at_label);
}

/* The row has no gradient of its own. */
static void cross_entropy_row_ignored(DType type, int64_t at, int64_t classes, float beta, void *dx)
{
    float room[VALUES_BLOCK];
    if (beta == 0.0f) {
        memset(values_at(type, dx, at), 0, (size_t)(classes * values_size(type)));
        return;
    }
    for (int64_t j = 0, n; j < classes; j += n) {
        n = values_block(type, classes - j);
        float *to = values_room(type, dx, at + j, room);
        values_load(type, dx, at + j, n, room);
        for (int64_t i = 0; i < n; i++)
            to[i] *= beta;
        values_store(type, n, to, dx, at + j);
    }
}

static void cross_entropy_backward(const CrossEntropyDims *d, DType type, const void *logits,
                                   const int32_t *labels, float scale_by, const float *lse,
                                   const float *dloss, float beta, void *dlogits, const KernelRun *run)
{
    const float factor = scale_by * dloss[0];
    int64_t classes = d->all_classes ? d->all_classes : d->classes, ld = cross_entropy_ld(d);
    int team = range_threads(d->rows * d->classes, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t row = 0; row < d->rows; row++) {
        int64_t at = row * ld;
        int32_t label = labels[row];
        if (label != d->ignore_index && label >= 0 && label < classes)
            cross_entropy_row_backward(d->softcap, type, at, d->classes, logits, label - d->first_class,
                                       factor, lse[row], beta, dlogits);
        else /* a label out of range was reported by forward */
            cross_entropy_row_ignored(type, at, d->classes, beta, dlogits);
        if (d->padding)
            memset(values_at(type, dlogits, at + d->classes), 0, (size_t)(d->padding * values_size(type)));
    }
}

/* ---- Of classes that are elsewhere ------------------------------------------------------------- */

static void cross_entropy_part(const CrossEntropyDims *d, DType type, const void *logits,
                               const int32_t *labels, float *part, const KernelRun *run)
{
    int64_t first = d->rows, ld = cross_entropy_ld(d);
    int team = range_threads(d->rows * d->classes, run->threads);
#pragma omp parallel for schedule(static) num_threads(team) reduction(min : first)
    for (int64_t row = 0; row < d->rows; row++) {
        float *to = part + row * CROSS_ENTROPY_PART;
        int64_t label = labels[row] - d->first_class;
        to[PART_TOP] = to[PART_SUM] = to[PART_LABEL] = 0.0f;
        if (labels[row] == d->ignore_index)
            continue;
        to[PART_SUM] =
            (float)cross_entropy_total(d->softcap, type, row * ld, d->classes, logits, &to[PART_TOP]);
        if (labels[row] < 0 || labels[row] >= d->all_classes)
            first = range_min(first, row);
        else if (label >= 0 && label < d->classes)
            to[PART_LABEL] = cross_entropy_get(d->softcap, type, logits, row * ld + label);
    }
    if (first < d->rows && *run->fault < 0)
        *run->fault = d->first_row + first;
}

static float cross_entropy_join_row(int count, int64_t apart, const float *part, float *lse)
{
    float top = part[PART_TOP], label = 0.0f;
    double total = 0.0;
    for (int p = 1; p < count; p++)
        top = part[p * apart + PART_TOP] > top ? part[p * apart + PART_TOP] : top;
    for (int p = 0; p < count; p++) {
        const float *from = part + p * apart;
        total += (double)from[PART_SUM] * exp((double)from[PART_TOP] - (double)top);
        label += from[PART_LABEL];
    }
    double log_total = log(total);
    *lse = (float)((double)top + log_total);
    return (float)((double)top - (double)label + log_total);
}

static void cross_entropy_join(const CrossEntropyDims *d, int count, int64_t apart, const float *parts,
                               const int32_t *labels, float scale_by, float *loss, float *lse,
                               float *workspace, const KernelRun *run)
{
    (void)run;
    double total = 0.0;
    for (int64_t row = 0; row < d->rows; row++) {
        workspace[row] = lse[row] = 0.0f;
        if (labels[row] != d->ignore_index)
            workspace[row] =
                cross_entropy_join_row(count, apart, parts + row * CROSS_ENTROPY_PART, lse + row);
        total += (double)workspace[row];
    }
    loss[0] = (float)((double)scale_by * total);
}
