/* What the tests of the kernels that are not products share: guarded buffers, comparisons, and loops over the
 * tables that this processor runs. A test's buffers are all freed, and their guards checked, by release. */
#ifndef BRIM_TESTS_KERNELS_SUPPORT_H
#define BRIM_TESTS_KERNELS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernel_run.h"

enum { SUPPORT_GUARD = 16, SUPPORT_BUFFERS = 128, SUPPORT_THREADS = 3 };
static const float support_guard = 54321.125f;

static struct {
    float *start;
    int64_t n;
} support_buffers[SUPPORT_BUFFERS];
static int support_used;
static uint64_t support_state = 1;

static inline float random_float(void) /* in [-1, 1) */
{
    support_state = support_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(support_state >> 40) / (float)(1 << 23) - 1.0f;
}

static inline float *take(int64_t n, float value)
{
    float *start = malloc((size_t)(n + 2 * SUPPORT_GUARD) * sizeof *start);
    assert_non_null(start);
    assert_true(support_used < SUPPORT_BUFFERS);
    for (int64_t i = 0; i < n + 2 * SUPPORT_GUARD; i++)
        start[i] = i < SUPPORT_GUARD || i >= n + SUPPORT_GUARD ? support_guard : value;
    support_buffers[support_used].start = start;
    support_buffers[support_used++].n = n;
    return start + SUPPORT_GUARD;
}

static inline float *take_random(int64_t n, float size)
{
    float *x = take(n, 0.0f);
    for (int64_t i = 0; i < n; i++)
        x[i] = size * random_float();
    return x;
}

static inline float *take_copy(int64_t n, const float *from)
{
    float *x = take(n, 0.0f);
    memcpy(x, from, (size_t)n * sizeof *x);
    return x;
}

/* An output for a kernel with `beta`: NaN when it may not be read. */
static inline float *take_output(int64_t n, float beta)
{
    return beta == 0.0f ? take(n, NAN) : take_random(n, 1.0f);
}

static inline void release(void)
{
    while (support_used > 0) {
        float *start = support_buffers[--support_used].start;
        int64_t n = support_buffers[support_used].n;
        for (int i = 0; i < SUPPORT_GUARD; i++)
            if (start[i] != support_guard || start[n + SUPPORT_GUARD + i] != support_guard)
                fail_msg("written outside a buffer of %lld floats", (long long)n);
        free(start);
    }
}

static inline void assert_near(const char *what, int64_t n, const float *x, const float *expected,
                               double tolerance)
{
    for (int64_t i = 0; i < n; i++) {
        int same = x[i] == expected[i] || (isnan(x[i]) && isnan(expected[i]));
        double error = fabs((double)x[i] - (double)expected[i]);
        if (!same && !(error <= tolerance * (1.0 + fabs((double)expected[i]))))
            fail_msg("%s[%lld] of %lld = %.9g, expected %.9g", what, (long long)i, (long long)n, (double)x[i],
                     (double)expected[i]);
    }
}

static inline void assert_same(const char *what, int64_t n, const float *x, const float *expected)
{
    if (memcmp(x, expected, (size_t)n * sizeof *x) != 0)
        fail_msg("%s: %lld floats are not bitwise equal", what, (long long)n);
}

/* A test that failed left its buffers: the next one starts without them. */
static inline void forget(void)
{
    support_used = 0;
}

/* The last table is a card's; it knows no threads. SUPPORT_CARD: the program's kernels exist there. */
static const char *const support_tables[] = {"base", "avx2", "avx512", "cuda"};
#ifdef SUPPORT_CARD
enum { SUPPORT_TABLES = 4 };
#else
enum { SUPPORT_TABLES = 3 };
#endif

/* BRIM_TABLE=cuda: only that one, for sanitizers that look at its kernels. */
static inline const Kernels *support_table(int i)
{
    const char *only = card_is_real() ? "cuda" : getenv("BRIM_TABLE");
    if (only && strcmp(only, support_tables[i]) != 0)
        return NULL;
    return i == 3 ? kernels_cuda() : kernels_cpu(support_tables[i]);
}

static inline int support_threads(int i)
{
    return i == 3 ? 1 : SUPPORT_THREADS;
}

/* Calls check for every table and thread count. */
static inline void each_table(void (*check)(const Kernels *k, int threads))
{
    forget();
    for (int i = 0; i < SUPPORT_TABLES; i++) {
        for (int threads = 1; support_table(i) && threads <= support_threads(i); threads++) {
            check(support_table(i), threads);
            release();
        }
    }
}

/* The same for lengths that are no multiple of anything, on both sides of the serial threshold. */
static inline void each_length(void (*check)(const Kernels *k, int64_t n, int threads))
{
    static const int64_t lengths[] = {1, 3, 7, 17, 31, 33, 65, 1023, 4096, 4099, 16385, 50021};
    forget();
    for (int i = 0; i < SUPPORT_TABLES; i++) {
        for (size_t n = 0; support_table(i) && n < sizeof lengths / sizeof *lengths; n++) {
            for (int threads = 1; threads <= support_threads(i); threads++) {
                check(support_table(i), lengths[n], threads);
                release();
            }
        }
    }
}

/* The same for matrices. */
static inline void each_matrix(void (*check)(const Kernels *k, int64_t rows, int64_t c, int threads))
{
    static const int64_t rows[] = {1, 2, 5, 129}, columns[] = {1, 2, 3, 17, 31, 33, 64, 65, 257, 1000};
    forget();
    for (int i = 0; i < SUPPORT_TABLES; i++) {
        for (size_t at = 0; support_table(i) && at < 4 * 10; at++) {
            for (int threads = 1; threads <= support_threads(i); threads++) {
                check(support_table(i), rows[at / 10], columns[at % 10], threads);
                release();
            }
        }
    }
}

#endif
