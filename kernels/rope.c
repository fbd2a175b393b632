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

VEC_INLINE void rope_rotate(int64_t pairs, const float *cosine, const float *sine, const float *x1,
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

/* What is rotated in 16 bit lies here as floats. */
typedef struct RopeRoom {
    float x[VALUES_BLOCK], y[VALUES_BLOCK];
} RopeRoom;

/* The same in 16 bit of a head's pairs, from elements `left` and `right` on. */
static void rope_halves(DType type, int64_t pairs, const float *cosine, const float *sine, const void *x,
                        float beta, void *y, int64_t left, int64_t right, RopeRoom *room)
{
    float *x2 = room->x + pairs, *y2 = room->y + pairs;
    values_load(type, x, left, pairs, room->x);
    values_load(type, x, right, pairs, x2);
    if (beta != 0.0f) {
        values_load(type, y, left, pairs, room->y);
        values_load(type, y, right, pairs, y2);
    }
    rope_rotate(pairs, cosine, sine, room->x, x2, beta, room->y, y2);
    values_store(type, pairs, room->y, y, left);
    values_store(type, pairs, y2, y, right);
}

/* The same of whole heads side by side, as many as the room holds at a time: of a few pairs each, that is
 * twice as fast. */
static void rope_heads(const RopeDims *d, DType type, const float *cosine, const float *sine, const void *x,
                       float beta, void *y, int64_t at, RopeRoom *room)
{
    int half = d->head_dim / 2, most = VALUES_BLOCK / d->head_dim;
    for (int h = 0, heads; h < d->heads; h += heads) {
        heads = (int)range_min(most, d->heads - h);
        int64_t n = (int64_t)heads * d->head_dim, from = at + (int64_t)h * d->head_dim;
        values_load(type, x, from, n, room->x);
        if (beta != 0.0f)
            values_load(type, y, from, n, room->y);
        for (int64_t i = 0; i < n; i += d->head_dim)
            rope_rotate(half, cosine, sine, room->x + i, room->x + i + half, beta, room->y + i,
                        room->y + i + half);
        values_store(type, n, room->y, y, from);
    }
}

/* Pairs [first, first + pairs) of all heads of the row that begins at element `at`, in 16 bit. */
static void rope_row_halves(const RopeDims *d, int first, int pairs, const float *cosine, const float *sine,
                            DType type, const void *x, float beta, void *y, int64_t at)
{
    RopeRoom room;
    int half = d->head_dim / 2;
    if (pairs == half) {
        rope_heads(d, type, cosine, sine, x, beta, y, at, &room);
        return;
    }
    for (int64_t h = 0, left = at + first; h < d->heads; h++, left += d->head_dim)
        rope_halves(type, pairs, cosine, sine, x, beta, y, left, left + half, &room);
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
        int64_t at = ((int64_t)b * d->seq + t) * d->ld;
        if (type != DTYPE_F32) {
            rope_row_halves(d, first, pairs, cosine, sine, type, x, beta, y, at);
            continue;
        }
        const float *from = (const float *)x + at + first;
        float *to = (float *)y + at + first;
        for (int h = 0; h < d->heads; h++, from += d->head_dim, to += d->head_dim)
            rope_rotate(pairs, cosine, sine, from, from + half, beta, to, to + half);
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
