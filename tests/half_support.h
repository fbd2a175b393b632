/* Arrays of 16 bit for tests of kernels, each beside the same numbers as floats: the f32 kernel runs on
 * those, and what it makes, rounded once, is what the kernel of 16 bit has to make. */
#ifndef BRIM_TESTS_HALF_SUPPORT_H
#define BRIM_TESTS_HALF_SUPPORT_H

#include "base/half_.h"
#include "kernels_support.h"

static DType half_type; /* under test */

typedef struct Half {
    int64_t n;
    uint16_t *half;
    float *wide;
} Half;

static inline float half_value(uint16_t bits)
{
    return half_type == DTYPE_BF16 ? half_from_bf16(bits) : half_from_f16(bits);
}

static inline uint16_t half_rounded(float value)
{
    return half_type == DTYPE_BF16 ? half_to_bf16(value) : half_to_f16(value);
}

/* Of what the floats are, rounded; with a guard behind the last one. */
static inline Half take_half(int64_t n, const float *from)
{
    Half a = {n, (uint16_t *)(void *)take(n / 2 + 1, support_guard), take(n, 0.0f)};
    for (int64_t i = 0; i < n; i++) {
        a.half[i] = half_rounded(from[i]);
        a.wide[i] = half_value(a.half[i]);
    }
    return a;
}

static inline Half take_random_half(int64_t n, float size)
{
    return take_half(n, take_random(n, size));
}

/* NaN where it may not be read. */
static inline Half take_output_half(int64_t n, float beta)
{
    return take_half(n, take_output(n, beta));
}

static inline Half take_copy_half(Half a)
{
    return take_half(a.n, a.wide);
}

static inline void assert_guard(const char *what, Half a)
{
    const uint16_t *guard = (const uint16_t *)(const void *)&support_guard;
    for (int64_t i = a.n; i < (a.n / 2 + 1) * 2; i++)
        if (a.half[i] != guard[i % 2])
            fail_msg("%s: written beyond %lld halves", what, (long long)a.n);
}

static inline int half_is_nan(uint16_t bits)
{
    uint16_t infinity = half_type == DTYPE_BF16 ? 0x7F80 : 0x7C00;
    return (bits & 0x7FFF) > infinity;
}

/* The halves are the floats, rounded once. NaNs are alike: compilers choose their sign. */
static inline void assert_rounded(const char *what, Half a)
{
    assert_guard(what, a);
    for (int64_t i = 0; i < a.n; i++)
        if (a.half[i] != half_rounded(a.wide[i]) && !(half_is_nan(a.half[i]) && isnan(a.wide[i])))
            fail_msg("%s, %s: [%lld] of %lld is %04x, expected %04x (%.9g)", what, dtype_name(half_type),
                     (long long)i, (long long)a.n, a.half[i], half_rounded(a.wide[i]), (double)a.wide[i]);
}

/* As an order of integers, in which neighbours differ by one. */
static inline int half_order(uint16_t bits)
{
    return bits & 0x8000 ? -(bits & 0x7FFF) : bits;
}

/* The same to one step of the type, or to what f32 itself may be off by. */
static inline void assert_half_near(const char *what, int64_t n, const uint16_t *x, const uint16_t *expected,
                                    double tolerance)
{
    for (int64_t i = 0; i < n; i++) {
        double a = (double)half_value(x[i]), b = (double)half_value(expected[i]);
        int steps = half_order(x[i]) - half_order(expected[i]);
        if ((isnan(a) && isnan(b)) || (steps >= -1 && steps <= 1) || fabs(a - b) <= tolerance)
            continue;
        fail_msg("%s, %s: [%lld] of %lld is %.9g, expected %.9g", what, dtype_name(half_type), (long long)i,
                 (long long)n, a, b);
    }
}

static const DType half_types[] = {DTYPE_BF16, DTYPE_F16};

static inline void each_half_length(void (*check)(const Kernels *k, int64_t n, int threads))
{
    for (int i = 0; i < 2; i++) {
        half_type = half_types[i];
        each_length(check);
    }
}

static inline void each_half_matrix(void (*check)(const Kernels *k, int64_t rows, int64_t c, int threads))
{
    for (int i = 0; i < 2; i++) {
        half_type = half_types[i];
        each_matrix(check);
    }
}

static inline void each_half_table(void (*check)(const Kernels *k, int threads))
{
    for (int i = 0; i < 2; i++) {
        half_type = half_types[i];
        each_table(check);
    }
}

#endif
