/* Rotary position embedding (Su et al., "RoFormer", 2021) as in Hugging Face's Llama: the angle of pair i at
 * position t is t / theta^(2i/D), perhaps stretched (frequency.h), every step of it in float. Sines are
 * libm's: one pair serves every sequence and head. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/frequency.h"
#include "kernels/range.h"
#include "kernels/values.h"

enum { ROPE_PAIRS = 64 }; /* pairs rotated at a time: what the stack arrays hold */

/* Pairs [first, first + pairs) of every head, at one position. */
typedef struct RopeTurn {
    float cosine[ROPE_PAIRS], sine[ROPE_PAIRS];
    int first, pairs;
} RopeTurn;

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

/* The same of pairs whose two are neighbours. */
VEC_INLINE void rope_rotate_beside(int64_t pairs, const float *cosine, const float *sine, const float *x,
                                   float beta, float *y)
{
    if (beta == 0.0f) {
#pragma omp simd
        for (int64_t i = 0; i < pairs; i++) {
            float a = x[2 * i], b = x[2 * i + 1];
            y[2 * i] = a * cosine[i] - b * sine[i];
            y[2 * i + 1] = b * cosine[i] + a * sine[i];
        }
    } else {
#pragma omp simd
        for (int64_t i = 0; i < pairs; i++) {
            float a = x[2 * i], b = x[2 * i + 1];
            y[2 * i] = a * cosine[i] - b * sine[i] + beta * y[2 * i];
            y[2 * i + 1] = b * cosine[i] + a * sine[i] + beta * y[2 * i + 1];
        }
    }
}

/* Of heads side by side that begin at x and y. */
VEC_INLINE void rope_turn_heads(const RopeDims *d, const RopeTurn *turn, int64_t heads, const float *x,
                                float beta, float *y)
{
    const int64_t half = rope_width(d) / 2, first = turn->first, pairs = turn->pairs, step = d->head_dim;
    if (d->interleaved)
        for (int64_t h = 0, at = 2 * first; h < heads; h++, at += step)
            rope_rotate_beside(pairs, turn->cosine, turn->sine, x + at, beta, y + at);
    else
        for (int64_t h = 0, at = first; h < heads; h++, at += step)
            rope_rotate(pairs, turn->cosine, turn->sine, x + at, x + at + half, beta, y + at, y + at + half);
}

/* What is rotated in 16 bit lies here as floats. */
typedef struct RopeRoom {
    float x[VALUES_BLOCK], y[VALUES_BLOCK];
} RopeRoom;

/* Of the head that begins at element `at`, in 16 bit. */
static void rope_halves(const RopeDims *d, const RopeTurn *turn, DType type, const void *x, float beta,
                        void *y, int64_t at, RopeRoom *room)
{
    int pairs = turn->pairs;
    int64_t left = at + turn->first, right = left + rope_width(d) / 2;
    if (d->interleaved) { /* they lie together */
        left += turn->first;
        right = left + pairs;
    }
    float *x2 = room->x + pairs, *y2 = room->y + pairs;
    values_load(type, x, left, pairs, room->x);
    values_load(type, x, right, pairs, x2);
    if (beta != 0.0f) {
        values_load(type, y, left, pairs, room->y);
        values_load(type, y, right, pairs, y2);
    }
    if (d->interleaved)
        rope_rotate_beside(pairs, turn->cosine, turn->sine, room->x, beta, room->y);
    else
        rope_rotate(pairs, turn->cosine, turn->sine, room->x, x2, beta, room->y, y2);
    values_store(type, pairs, room->y, y, left);
    values_store(type, pairs, y2, y, right);
}

/* The same of whole heads side by side, as many as the room holds at a time: of a few pairs each, that is
 * twice as fast. */
static void rope_heads(const RopeDims *d, const RopeTurn *turn, DType type, const void *x, float beta,
                       void *y, int64_t at, RopeRoom *room)
{
    int most = VALUES_BLOCK / d->head_dim;
    for (int h = 0, heads; h < rope_group(d); h += heads) {
        heads = (int)range_min(most, rope_group(d) - h);
        int64_t n = (int64_t)heads * d->head_dim, from = at + (int64_t)h * d->head_dim;
        values_load(type, x, from, n, room->x);
        if (beta != 0.0f)
            values_load(type, y, from, n, room->y);
        rope_turn_heads(d, turn, heads, room->x, beta, room->y);
        values_store(type, n, room->y, y, from);
    }
}

/* Of the group of heads that begins at element `at`, in 16 bit. */
static void rope_group_halves(const RopeDims *d, const RopeTurn *turn, DType type, const void *x, float beta,
                              void *y, int64_t at)
{
    RopeRoom room;
    if (turn->pairs * 2 == d->head_dim) {
        rope_heads(d, turn, type, x, beta, y, at, &room);
        return;
    }
    for (int64_t h = 0; h < rope_group(d); h++)
        rope_halves(d, turn, type, x, beta, y, at + h * d->head_dim, &room);
}

/* n elements from `at` on that do not turn. */
static void rope_pass(DType type, int64_t n, const void *x, float beta, void *y, int64_t at)
{
    float room[2][VALUES_BLOCK];
    if (beta == 0.0f) {
        if (x != y)
            memcpy(values_at(type, y, at), values_at(type, x, at), (size_t)(n * values_size(type)));
        return;
    }
    for (int64_t i = at, end = at + n, some; i < end; i += some) {
        some = values_block(type, end - i);
        const float *from = values_load(type, x, i, some, room[0]);
        float *to = values_room(type, y, i, room[1]);
        values_load(type, y, i, some, room[1]);
#pragma omp simd
        for (int64_t j = 0; j < some; j++)
            to[j] = from[j] + beta * to[j];
        values_store(type, some, to, y, i);
    }
}

static void rope_group_passes(const RopeDims *d, DType type, const void *x, float beta, void *y, int64_t at)
{
    int width = rope_width(d), rest = d->head_dim - width;
    for (int h = 0; rest && h < rope_group(d); h++)
        rope_pass(type, rest, x, beta, y, at + (int64_t)h * d->head_dim + width);
    if (d->behind)
        rope_pass(type, d->behind, x, beta, y, at + (int64_t)rope_group(d) * d->head_dim);
}

/* Pairs [first, first + pairs) of row t of every sequence and head. */
static void rope_position(const RopeDims *d, int t, int first, int pairs, const float *frequency, DType type,
                          const void *x, float beta, void *y)
{
    RopeTurn turn; /* not zeroed: a position is soon rotated */
    turn.first = first;
    turn.pairs = pairs;
    const float scale = rope_scale(d);
    const int group = rope_group(d), passes = first == 0 && (d->behind > 0 || d->head_dim > rope_width(d));
    for (int i = 0; i < pairs; i++) {
        float angle = (float)(d->offset + t) * frequency[i];
        turn.cosine[i] = cosf(angle) * scale;
        turn.sine[i] = (d->inverse ? -sinf(angle) : sinf(angle)) * scale;
    }
    for (int b = 0; b < d->batch; b++) {
        int64_t at = ((int64_t)b * d->seq + t) * d->ld;
        for (int h = 0; h < d->heads; h += group, at += rope_group_step(d)) {
            if (passes)
                rope_group_passes(d, type, x, beta, y, at);
            if (type != DTYPE_F32)
                rope_group_halves(d, &turn, type, x, beta, y, at);
            else
                rope_turn_heads(d, &turn, group, (const float *)x + at, beta, (float *)y + at);
        }
    }
}

static void rope(const RopeDims *d, DType type, const void *x, float beta, void *y, const KernelRun *run)
{
    int half = rope_width(d) / 2;
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
