/* What the tests of products and of attention share: guarded buffers that are freed one by one, and
 * comparisons. */
#ifndef BRIM_TESTS_PRODUCTS_SUPPORT_H
#define BRIM_TESTS_PRODUCTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernel_run.h"
#include "tests/count.h"

static const char *const isa_names[] = {"base", "avx2", "avx512"};
enum { ISAS = 3, CARD = ISAS, TABLES, MAX_THREADS = 3, GUARD = 32 };

/* Of those that run here, by instruction set, and of the stand-in's card, which knows no threads. BRIM_TABLE
 * names the only one. */
static inline const Kernels *table_of(int i)
{
    const char *only = card_is_real() ? "cuda" : getenv("BRIM_TABLE");
    if (only && strcmp(only, i == CARD ? "cuda" : isa_names[i]) != 0)
        return NULL;
    return i == CARD ? kernels_cuda() : kernels_cpu(isa_names[i]);
}

static const float guard_value = 12345.678f;

static uint64_t random_state = 1;

static inline float random_float(void) /* in [-1, 1) */
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(random_state >> 40) / (float)(1 << 23) - 1.0f;
}

/* n floats between guard zones; free with drop, which checks the zones. */
static inline float *buffer(int64_t n)
{
    float *start = malloc((size_t)(n + 2 * GUARD) * sizeof(float));
    assert_non_null(start);
    for (int64_t i = 0; i < n + 2 * GUARD; i++)
        start[i] = guard_value;
    return start + GUARD;
}

static inline float *random_buffer(int64_t n)
{
    float *x = buffer(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = random_float();
    return x;
}

static inline float *filled_buffer(int64_t n, float value)
{
    float *x = buffer(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = value;
    return x;
}

static inline float *copied_buffer(int64_t n, const float *from)
{
    float *x = buffer(n);
    memcpy(x, from, (size_t)n * sizeof(float));
    return x;
}

static inline void drop(float *x, int64_t n)
{
    for (int i = 1; i <= GUARD; i++)
        if (x[-i] != guard_value || x[n + i - 1] != guard_value)
            fail_msg("written outside a buffer of %lld floats", (long long)n);
    free(x - GUARD);
}

static inline void assert_near(const char *what, int64_t n, const float *x, const float *expected,
                               double tolerance)
{
    for (int64_t i = 0; i < n; i++) {
        int same = x[i] == expected[i] || (isnan(x[i]) && isnan(expected[i]));
        double error = fabs((double)x[i] - (double)expected[i]);
        if (!same && !(error <= tolerance * (1 + fabs((double)expected[i]))))
            fail_msg("%s[%lld] = %.8g, expected %.8g", what, (long long)i, (double)x[i], (double)expected[i]);
    }
}

static inline void assert_same_bits(const char *what, int64_t n, const float *x, const float *y)
{
    if (memcmp(x, y, (size_t)n * sizeof(float)))
        fail_msg("%s differs between two equal calls", what);
}

#endif
