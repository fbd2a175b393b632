/* Rotary position embedding (Su et al., "RoFormer", 2021) as in Hugging Face's Llama: the angle of pair i at
 * position t is t / theta^(2i/D), perhaps stretched (frequency.h), every step of it in float. Sines are
 * libm's: one pair serves every sequence and head. */
#include <math.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "kernels/frequency.h"
#include "kernels/range.h"
#include "kernels/values.h"

enum { ROPE_PAIRS = 64 }; /* pairs rotated at a time: what the stack arrays hold */

static void rope_rotate(int64_t pairs, const float *cosine, const float *sine, const float *x1,
                        const float *x2, float beta, float *y1, float *y2)
{
    if (beta == 0.0f) {
#pragma omp simd
        for (int64_t i = 0; i < pairs; i++) {
            float a = x1[i], b = x2[i];
            y1[i] = a * cosine[i] - b * sine[i];
            y2[i] = b * cosine[i] + a * sine[i];
        }
    } else {
#pragma omp simd
        for (int64_t i = 0; i < pairs; i++) {
            float a = x1[i], b = x2[i];
            y1[i] = a * cosine[i] - b * sine[i] + beta * y1[i];
            y2[i] = b * cosine[i] + a * sine[i] + beta * y2[i];
        }
    }
}

/* The pairs of elements from `left` and from `right` on. */
static void rope_head(DType type, int64_t pairs, const float *cosine, const float *sine, const void *x,
                      float beta, void *y, int64_t left, int64_t right)
{
    float in[2][ROPE_PAIRS], out[2][ROPE_PAIRS];
    const float *x1 = values_load(type, x, left, pairs, in[0]),
                *x2 = values_load(type, x, right, pairs, in[1]);
    float *y1 = values_room(type, y, left, out[0]), *y2 = values_room(type, y, right, out[1]);
    if (beta != 0.0f) {
        values_load(type, y, left, pairs, out[0]);
        values_load(type, y, right, pairs, out[1]);
    }
    rope_rotate(pairs, cosine, sine, x1, x2, beta, y1, y2);
    values_store(type, pairs, y1, y, left);
    values_store(type, pairs, y2, y, right);
}

/* Pairs [first, first + pairs) of row t of every sequence and head. */
static void rope_position(const RopeDims *d, int t, int first, int pairs, const float *frequency, DType type,
                          const void *x, float beta, void *y)
{
    float cosine[ROPE_PAIRS], sine[ROPE_PAIRS];
    for (int i = 0; i < pairs; i++) {
        float angle = (float)(d->offset + t) * frequency[i];
        cosine[i] = cosf(angle);
        sine[i] = d->inverse ? -sinf(angle) : sinf(angle);
    }
    int half = d->head_dim / 2;
    for (int b = 0; b < d->batch; b++) {
        int64_t at = ((int64_t)b * d->seq + t) * d->ld + first;
        for (int h = 0; h < d->heads; h++, at += d->head_dim)
            rope_head(type, pairs, cosine, sine, x, beta, y, at, at + half);
    }
}

static void rope(const RopeDims *d, DType type, const void *x, float beta, void *y, const KernelRun *run)
{
    int half = d->head_dim / 2;
    int team = range_threads((int64_t)d->batch * d->seq * d->heads * d->head_dim, run->threads);
    for (int first = 0; first < half; first += ROPE_PAIRS) {
        int pairs = (int)range_min(ROPE_PAIRS, half - first);
        float frequency[ROPE_PAIRS];
        for (int i = 0; i < pairs; i++)
            frequency[i] = rope_frequency(d, first + i);
#pragma omp parallel for schedule(static) num_threads(team)
        for (int t = 0; t < d->seq; t++)
            rope_position(d, t, first, pairs, frequency, type, x, beta, y);
    }
}
