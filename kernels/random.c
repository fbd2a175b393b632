/* Dropout and random fills from Philox counters (draw.h says which). Counters are computed several side by
 * side into a buffer that the consuming loop then reads. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "kernels/draw.h"
#include "kernels/range.h"
#include "kernels/values.h"
#include "kernels/vecmath.h"

enum { DRAW_WORDS = RANGE_BLOCK }; /* of the buffer: 16 KiB */

/* A vector of 64-bit lanes whose low halves hold a counter word each (high halves: anything). The widening
 * product of the low halves is the one intrinsic here: gcc does not find it, and what it does instead takes
 * 2.5 times as long. */
#if defined(__AVX512F__)
typedef uint64_t DrawLanes __attribute__((vector_size(64)));
#define DRAW_MULTIPLY(a, b) ((DrawLanes)_mm512_mul_epu32((__m512i)(a), (__m512i)(b)))
#elif defined(__AVX2__)
typedef uint64_t DrawLanes __attribute__((vector_size(32)));
#define DRAW_MULTIPLY(a, b) ((DrawLanes)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))
#elif defined(__SSE2__)
typedef uint64_t DrawLanes __attribute__((vector_size(16)));
#define DRAW_MULTIPLY(a, b) ((DrawLanes)_mm_mul_epu32((__m128i)(a), (__m128i)(b)))
#else
typedef uint64_t DrawLanes __attribute__((vector_size(16)));
#define DRAW_MULTIPLY(a, b) (((a)&0xffffffffu) * ((b)&0xffffffffu))
#endif
enum { DRAW_LANES = sizeof(DrawLanes) / sizeof(uint64_t) };

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "draw_words stores two words as one");

/* words[4 i + w] = word w of philox4x32(key, first + i, c1, c2, c3), for i < blocks rounded up to DRAW_LANES.
 * first + blocks <= 2^32. */
static void draw_words(int blocks, uint64_t key, uint32_t first, uint32_t c1, uint32_t c2, uint32_t c3,
                       uint32_t *words)
{
    const DrawLanes zero = {0}, by0 = zero + 0xD2511F53u, by2 = zero + 0xCD9E8D57u;
    DrawLanes lane = {0};
    for (int j = 0; j < DRAW_LANES; j++)
        lane[j] = (uint64_t)j;
    for (int i = 0; i < blocks; i += DRAW_LANES) {
        DrawLanes w0 = lane + (first + (uint32_t)i), w1 = zero + c1, w2 = zero + c2, w3 = zero + c3;
        uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
        for (int round = 0; round < 10; round++) {
            DrawLanes p0 = DRAW_MULTIPLY(w0, by0), p2 = DRAW_MULTIPLY(w2, by2);
            w0 = (p2 >> 32) ^ w1 ^ k0;
            w2 = (p0 >> 32) ^ w3 ^ k1;
            w1 = p2;
            w3 = p0;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        DrawLanes low = (w0 & 0xffffffffu) | (w1 << 32), high = (w2 & 0xffffffffu) | (w3 << 32);
        for (int j = 0; j < DRAW_LANES; j++) {
            uint64_t pair[2] = {low[j], high[j]};
            memcpy(words + 4 * (i + j), pair, sizeof pair);
        }
    }
}

/* The part of one sample that starts at element `begin`, a multiple of 4. */
static void dropout_part(int64_t n, uint64_t begin, uint64_t sample, uint32_t threshold, float keep,
                         const DropoutKey *key, const float *x, float beta, float *y)
{
    uint32_t words[DRAW_WORDS];
    uint64_t block = begin / 4;
    draw_words((int)((n + 3) / 4), draw_dropout_key(key, sample, block), (uint32_t)block, (uint32_t)sample,
               key->layer, (uint32_t)key->step, words);
    /* A product, not a select: NaN stays NaN, as in PyTorch. */
    if (beta == 0.0f) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i] * (words[i] >= threshold ? keep : 0.0f);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i] * (words[i] >= threshold ? keep : 0.0f) + beta * y[i];
    }
}

static void dropout(DType type, int64_t samples, int64_t per_sample, float p, const DropoutKey *key,
                    const void *x, float beta, void *y, const KernelRun *run)
{
    uint32_t threshold = draw_dropout_threshold(p);
    float keep = 1.0f / (1.0f - p);
    int64_t parts = (per_sample + DRAW_WORDS - 1) / DRAW_WORDS;
    int team = range_threads(samples * per_sample, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t item = 0; item < samples * parts; item++) {
        float in[DRAW_WORDS], out[DRAW_WORDS];
        int64_t sample = item / parts, begin = item % parts * DRAW_WORDS;
        int64_t at = sample * per_sample + begin, n = range_min(DRAW_WORDS, per_sample - begin);
        const float *from = values_load(type, x, at, n, in);
        float *to = values_room(type, y, at, out);
        if (beta != 0.0f)
            values_load(type, y, at, n, out);
        dropout_part(n, key->first_element + (uint64_t)begin, key->first_sample + (uint64_t)sample, threshold,
                     keep, key, from, beta, to);
        values_store(type, n, to, y, at);
    }
}

static void fill_normal_part(int64_t n, const uint32_t *words, float mean, float std, float *y)
{
    VEC_STRICT
    float drawn[DRAW_WORDS];
    int64_t pairs = (n + 1) / 2;
#pragma omp simd
    for (int64_t i = 0; i < pairs; i++)
        draw_normal(words[2 * i], words[2 * i + 1], drawn + 2 * i, drawn + 2 * i + 1);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = std * drawn[i] + mean;
}

static void fill_uniform_part(int64_t n, const uint32_t *words, float low, float high, float *y)
{
    VEC_STRICT
    float last = draw_last(low, high);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = draw_uniform(words[i], low, high, last);
}

static void fill_drawn(int64_t n, uint64_t seed, uint64_t stream, int64_t first, float a, float b, float *y,
                       int threads, void (*part)(int64_t, const uint32_t *, float, float, float *))
{
    int team = range_threads(n, threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t begin = 0; begin < n; begin += DRAW_WORDS) {
        uint32_t words[DRAW_WORDS];
        int64_t count = range_min(DRAW_WORDS, n - begin);
        uint64_t block = (uint64_t)(first + begin) / 4;
        draw_words((int)((count + 3) / 4), seed, (uint32_t)block, (uint32_t)(block >> 32), (uint32_t)stream,
                   (uint32_t)(stream >> 32), words);
        part(count, words, a, b, y + begin);
    }
}

static void fill_normal(int64_t n, uint64_t seed, uint64_t stream, int64_t first, float mean, float std,
                        float *y, const KernelRun *run)
{
    fill_drawn(n, seed, stream, first, mean, std, y, run->threads, fill_normal_part);
}

static void fill_uniform(int64_t n, uint64_t seed, uint64_t stream, int64_t first, float low, float high,
                         float *y, const KernelRun *run)
{
    fill_drawn(n, seed, stream, first, low, high, y, run->threads, fill_uniform_part);
}
