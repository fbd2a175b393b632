/* kernels/vecmath.h against libm in double, over floats taken evenly from all bit patterns and over special
 * values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/kernel_run.h"
#include "kernels/vecmath.h"

/* Distance in units in the last place of the float nearest to `expected`. */
static double ulps(float got, double expected)
{
    int exponent;
    if (got == (float)expected)
        return 0.0;
    if (isnan(got) || isinf(got) || isinf((float)expected))
        return INFINITY;
    frexp(expected, &exponent);
    return fabs((double)got - expected) / ldexp(1.0, (exponent < -125 ? -125 : exponent) - 24);
}

static float exp_of(float x)
{
    return vec_exp(x);
}

static float erf_of(float x)
{
    return vec_erf(x);
}

static float log_of(float x)
{
    return vec_log(x);
}

static void check(const char *name, float (*ours)(float), double (*exact)(double), float low, float high,
                  double allowed)
{
    for (uint64_t bits = 0; bits <= 0xffffffffu; bits += 419) {
        float x = float_from_bits((uint32_t)bits);
        if (isnan(x)) {
            if (!isnan(ours(x)))
                fail_msg("%s swallows NaN %08x", name, (unsigned)bits);
        } else if (x >= low && x <= high && !(ulps(ours(x), exact((double)x)) <= allowed)) {
            fail_msg("%s(%a) = %a, expected %a", name, (double)x, (double)ours(x), exact((double)x));
        }
    }
    /* Evenly spaced too: where the action is, bit patterns are sparse. */
    for (int i = 0; i <= 400000; i++) {
        float x = -20.0f + 1e-4f * (float)i;
        if (x >= low && !(ulps(ours(x), exact((double)x)) <= allowed))
            fail_msg("%s(%a) = %a, expected %a", name, (double)x, (double)ours(x), exact((double)x));
    }
}

static void test_exp(void **state)
{
    (void)state;
    check("exp", exp_of, exp, -87.3365f, INFINITY, 2.0);
    assert_true(vec_exp(0.0f) == 1.0f && vec_exp(-0.0f) == 1.0f);
    assert_true(vec_exp(-INFINITY) == 0.0f && vec_exp(INFINITY) == INFINITY);
    assert_true(vec_exp(88.72283f) < INFINITY && vec_exp(88.7229f) == INFINITY);
    for (float x = -87.34f; x > -1e30f;
         x *= 1.01f) /* instead of subnormals: zero, or the least normal number */
        assert_true(vec_exp(x) == 0.0f || (x > -87.4f && vec_exp(x) <= 0x1p-126f));
}

static void test_erf(void **state)
{
    (void)state;
    check("erf", erf_of, erf, -INFINITY, INFINITY, 4.0);
    assert_true(vec_erf(INFINITY) == 1.0f && vec_erf(-INFINITY) == -1.0f && vec_erf(4.0f) == 1.0f);
    assert_true(signbit(vec_erf(-0.0f)) && !signbit(vec_erf(0.0f)));
}

static void test_log(void **state)
{
    (void)state;
    check("log", log_of, log, 0x1p-126f, INFINITY, 2.0);
    assert_true(vec_log(1.0f) == 0.0f && vec_log(0.0f) == -INFINITY && vec_log(INFINITY) == INFINITY);
    assert_true(isnan(vec_log(-1.0f)) && isnan(vec_log(-INFINITY)));
}

/* This file is compiled for the base instruction set. These kernels show the functions as every table has
 * them, fused and wide: cross-entropy's gradient with lse 0 is exp itself, GELU is erf with little around it.
 */
static void test_tables(void **state)
{
    (void)state;
    enum { N = 40001 };
    static float x[N], y[N];
    static const char *const names[] = {"base", "avx2", "avx512"};
    for (int i = 0; i < N; i++)
        x[i] = -87.0f + 174.0f * (float)i / (float)N;
    for (int t = 0; t < 3; t++) {
        const Kernels *k = kernels_cpu(names[t]);
        if (!k)
            continue;
        int32_t label = 0;
        float lse = 0.0f, one = 1.0f;
        k->cross_entropy_backward(&(CrossEntropyDims){1, N, -100, 0, 0, 0}, DTYPE_F32, x, &label, 1.0f, &lse, &one,
                                  0.0f, y, on(1));
        for (int i = 1; i < N; i++)
            if (!(ulps(y[i], exp((double)x[i])) <= 2.0))
                fail_msg("%s: exp(%a) = %a", k->name, (double)x[i], (double)y[i]);
        k->activation_forward(DTYPE_F32, ACT_GELU, N, x, y, on(1));
        for (int i = 0; i < N; i++) {
            double exact = 0.5 * (double)x[i] * erfc(-(double)x[i] * sqrt(0.5));
            if (!(fabs((double)y[i] - exact) <= 3e-7 * (1.0 + fabs((double)x[i]))))
                fail_msg("%s: gelu(%a) = %a", k->name, (double)x[i], (double)y[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),
        cmocka_unit_test(test_erf),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
