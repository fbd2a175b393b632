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

static void test_normal_tail(void **state)
{
    (void)state;
    float e;
    for (int i = 0; i <= 400000; i++) {
        float a = VEC_NORMAL_END * (float)i / 400000, q = vec_normal_tail(a, &e);
        double x = (double)a, power = exp(-0.5 * x * x), tail = 0.5 * erfc(x * sqrt(0.5));
        if (!(fabs((double)e - power) <= 2.2e-7) || !(fabs((double)(e * q) - tail) <= 2.2e-7))
            fail_msg("tail beyond %a: e %a, q %a", x, (double)e, (double)q);
        if (i < 150000 && !(fabs((double)(e * q) - tail) <= 3e-5 * tail)) /* up to 5, where it is 3e-7 */
            fail_msg("tail beyond %a: %a, expected %a", x, (double)(e * q), tail);
    }
    assert_true(vec_normal_tail(0.0f, &e) > 0.4999999f && e == 1.0f);
    assert_true(vec_normal_tail(VEC_NORMAL_END, &e) > 0.0f && e == 0.0f);
    assert_true(isnan(vec_normal_tail(NAN, &e)) && isnan(e));
}

static void test_tanh_tail(void **state)
{
    (void)state;
    float t, tail;
    for (uint32_t bits = 0; bits <= 0x7f800000u; bits += 1013) {
        float a = float_from_bits(bits);
        tail = vec_tanh_tail(a, &t);
        if (!(ulps(t, tanh((double)a)) <= 4.0))
            fail_msg("tanh(%a) = %a, expected %a", (double)a, (double)t, tanh((double)a));
        double exact = 2.0 / (exp(2.0 * (double)(a < VEC_TANH_END ? a : VEC_TANH_END)) + 1.0);
        if (!(ulps(tail, exact) <= 4.0))
            fail_msg("1 - tanh(%a) = %a, expected %a", (double)a, (double)tail, exact);
    }
    assert_true(vec_tanh_tail(0.0f, &t) == 1.0f && t == 0.0f);
    assert_true(vec_tanh_tail(INFINITY, &t) > 0.0f && t == 1.0f);
    assert_true(isnan(vec_tanh_tail(NAN, &t)) && isnan(t));
}

static void test_log(void **state)
{
    (void)state;
    check("log", log_of, log, 0x1p-126f, INFINITY, 2.0);
    assert_true(vec_log(1.0f) == 0.0f && vec_log(0.0f) == -INFINITY && vec_log(INFINITY) == INFINITY);
    assert_true(isnan(vec_log(-1.0f)) && isnan(vec_log(-INFINITY)));
}

/* This file is compiled for the base instruction set. These kernels show the functions as every table has
 * them, fused and wide: cross-entropy's gradient with lse 0 is exp itself, GELU the normal distribution's
 * tail with little around it. */
static void test_gelu(const Kernels *k, int n, const float *x, float *y)
{
    static const float ends[] = {INFINITY, -INFINITY, 1e30f, -1e30f, -0.0f};
    float one[5] = {1, 1, 1, 1, 1}, at[5], slope[5];
    k->activation_forward(DTYPE_F32, ACT_GELU, n, x, y, on(1));
    for (int i = 0; i < n; i++) {
        double exact = 0.5 * (double)x[i] * erfc(-(double)x[i] * sqrt(0.5));
        if (!(fabs((double)y[i] - exact) <= 1.2e-7 * (1.0 + fabs((double)x[i]))))
            fail_msg("%s: gelu(%a) = %a", k->name, (double)x[i], (double)y[i]);
    }
    for (int i = 0; i < n; i++)
        y[i] = 1.0f;
    k->activation_backward(DTYPE_F32, ACT_GELU, n, x, y, 0, y, on(1));
    for (int i = 0; i < n; i++) {
        double v = (double)x[i];
        double exact = 0.5 * erfc(-v * sqrt(0.5)) + v * exp(-0.5 * v * v) * 0.3989422804014327;
        if (!(fabs((double)y[i] - exact) <= 2.5e-7))
            fail_msg("%s: slope of gelu at %a is %a", k->name, v, (double)y[i]);
    }
    k->activation_forward(DTYPE_F32, ACT_GELU, 5, ends, at, on(1));
    k->activation_backward(DTYPE_F32, ACT_GELU, 5, ends, one, 0, slope, on(1));
    assert_true(at[0] == INFINITY && at[1] == 0 && at[2] == 1e30f && at[3] == 0 && signbit(at[4]));
    assert_true(slope[0] == 1 && slope[1] == 0 && slope[2] == 1 && slope[3] == 0);
    at[0] = NAN;
    k->activation_forward(DTYPE_F32, ACT_GELU, 1, at, at, on(1));
    assert_true(isnan(at[0]));
}

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
        k->cross_entropy_backward(&(CrossEntropyDims){.rows = 1, .classes = N, .ignore_index = -100},
                                  DTYPE_F32, x, &label, 1.0f, &lse, &one, 0.0f, y, on(1));
        for (int i = 1; i < N; i++)
            if (!(ulps(y[i], exp((double)x[i])) <= 2.0))
                fail_msg("%s: exp(%a) = %a", k->name, (double)x[i], (double)y[i]);
        for (int i = 0; i < N; i++) /* where GELU bends */
            x[i] *= i % 3 ? 0.1f : 1.0f;
        test_gelu(k, N, x, y);
        for (int i = 0; i < N; i++)
            x[i] = -87.0f + 174.0f * (float)i / (float)N;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp), cmocka_unit_test(test_normal_tail), cmocka_unit_test(test_tanh_tail),
        cmocka_unit_test(test_log), cmocka_unit_test(test_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
