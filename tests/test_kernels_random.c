/* Dropout and random fills: the same values on every table, for any thread count and any grouping;
 * statistics. */
#include "base/philox_.h"
#define SUPPORT_CARD
#include "kernels_support.h"

/* Random123's known answers for philox4x32-10. */
static void test_philox(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4];
        uint64_t key;
        uint32_t out[4];
    } known[] = {
        {{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         0xffffffffffffffff,
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         0x299f31d0a4093822,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const uint32_t *c = known[i].counter;
        Philox draw = philox4x32(known[i].key, c[0], c[1], c[2], c[3]);
        assert_memory_equal(draw.v, known[i].out, sizeof draw.v);
    }
}

static void check_fills(const Kernels *k, int64_t n, int threads)
{
    float *y = take(n, NAN), *other = take(n, NAN);
    k->fill_uniform(n, 42, 7, 0, -2.0f, 3.0f, y, on(threads));
    kernels_reference()->fill_uniform(n, 42, 7, 0, -2.0f, 3.0f, other, on(1));
    assert_near("uniform", n, y, other, 3e-7);
    k->fill_normal(n, 0x123456789abcdef0u, UINT64_MAX, 0, 0.5f, 2.0f, y, on(threads));
    kernels_reference()->fill_normal(n, 0x123456789abcdef0u, UINT64_MAX, 0, 0.5f, 2.0f, other, on(1));
    assert_near("normal", n, y, other, 2e-6);
    /* A shorter fill is the beginning of a longer one; other tables and thread counts give the same bits. */
    k->fill_normal(n - n / 3, 0x123456789abcdef0u, UINT64_MAX, 0, 0.5f, 2.0f, other, on(1));
    assert_same("normal", n - n / 3, other, y);
    /* In parts, as at once. */
    int64_t first = n / 2 / 4 * 4;
    k->fill_normal(n - first, 0x123456789abcdef0u, UINT64_MAX, first, 0.5f, 2.0f, other, on(threads));
    assert_same("normal from the middle", n - first, other, y + first);
    kernels_cpu("base")->fill_normal(n, 0x123456789abcdef0u, UINT64_MAX, 0, 0.5f, 2.0f, other, on(2));
    assert_same("normal of the base table", n, other, y);
}

static void test_fills(void **state)
{
    (void)state;
    each_length(check_fills);
}

static void check_fill_statistics(const Kernels *k, int threads)
{
    enum { N = 400000 };
    float *y = take(N, NAN), *z = take(N, NAN);
    double moment[5] = {0}, cross = 0.0, neighbour = 0.0;
    int beyond = 0;
    k->fill_normal(N, 1, 2, 0, 0.0f, 1.0f, y, on(threads));
    k->fill_normal(N, 1, 3, 0, 0.0f, 1.0f, z, on(threads));
    for (int i = 0; i < N; i++) {
        double x = (double)y[i];
        for (int m = 1; m < 5; m++)
            moment[m] += pow(x, m) / N;
        cross += x * (double)z[i] / N;
        neighbour += x * (double)y[i ^ 1] / N;
        beyond += fabs(x) > 3.0;
    }
    const double sigma = 1.0 / sqrt((double)N);
    assert_true(fabs(moment[1]) < 4 * sigma && fabs(moment[2] - 1.0) < 6 * sigma);
    assert_true(fabs(moment[3]) < 16 * sigma && fabs(moment[4] - 3.0) < 40 * sigma);
    assert_true(fabs(cross) < 4 * sigma && fabs(neighbour) < 6 * sigma);
    assert_true(abs(beyond - (int)(0.0026998 * N)) < 150);
    k->fill_uniform(N, 1, 2, 0, 1.0f, 1.0000002f, y,
                    on(threads)); /* two floats apart: rounding would reach high */
    for (int i = 0; i < N; i++)
        assert_true(y[i] >= 1.0f && y[i] < 1.0000002f);
    k->fill_uniform(N, 9, 2, 0, 0.0f, 1.0f, y, on(threads));
    float total;
    double square;
    k->sum(DTYPE_F32, N, y, 1, &total, on(1));
    k->sum_squares(DTYPE_F32, N, y, &square, on(1));
    double mean = (double)total / N;
    square /= N;
    assert_true(fabs(mean - 0.5) < 2 * sigma && fabs(square - 1.0 / 3.0) < 2 * sigma);
    k->fill_uniform(3, 1, 2, 0, 5.0f, 5.0f, y, on(threads));
    assert_true(y[0] == 5.0f && y[2] == 5.0f);
}

static void test_fill_statistics(void **state)
{
    (void)state;
    each_table(check_fill_statistics);
}

static const DropoutKey key = {.seed = 17, .step = 5, .first_sample = 3, .layer = 2};

static void check_dropout(const Kernels *k, int64_t n, int threads)
{
    float *x = take_random(3 * n, 1.0f), *expected = take(3 * n, NAN), *grouped = take(3 * n, NAN);
    static const float betas[] = {0.0f, 1.0f, -0.5f};
    for (int i = 0; i < 3; i++) {
        float *y = take_output(3 * n, betas[i]);
        memcpy(expected, y, (size_t)(3 * n) * sizeof *y);
        k->dropout(DTYPE_F32, 3, n, 0.3f, &key, x, betas[i], y, on(threads));
        kernels_reference()->dropout(DTYPE_F32, 3, n, 0.3f, &key, x, betas[i], expected, on(1));
        assert_near("dropout", 3 * n, y, expected, 1e-6);
    }
    k->dropout(DTYPE_F32, 3, n, 0.3f, &key, x, 0.0f, expected, on(threads));
    DropoutKey later = key;
    later.first_sample = key.first_sample + 1;
    k->dropout(DTYPE_F32, 1, n, 0.3f, &key, x, 0.0f, grouped, on(1));
    k->dropout(DTYPE_F32, 2, n, 0.3f, &later, x + n, 0.0f, grouped + n, on(threads));
    assert_same("dropout of samples in groups", 3 * n, grouped, expected);
    k->dropout(DTYPE_F32, 3, n, 0.3f, &key, x, 0.0f, x, on(threads));
    assert_same("dropout in place", 3 * n, x, expected);
    k->dropout(DTYPE_F32, 3, n, 0.0f, &key, x, 0.0f, grouped, on(threads));
    assert_same("dropout with p = 0", 3 * n, grouped, x);
}

static void test_dropout(void **state)
{
    (void)state;
    each_length(check_dropout);
}

/* How many of n elements two masks agree on. */
static int agreement(const Kernels *k, int n, const DropoutKey *other, float *a, float *b)
{
    int same = 0;
    k->fill(DTYPE_F32, n, 1.0f, a, on(1));
    k->dropout(DTYPE_F32, 1, n, 0.5f, other, a, 0.0f, b, on(1));
    k->dropout(DTYPE_F32, 1, n, 0.5f, &key, a, 0.0f, a, on(1));
    for (int i = 0; i < n; i++)
        same += a[i] == b[i];
    return same;
}

static void check_dropout_statistics(const Kernels *k, int threads)
{
    enum { N = 100000 };
    float *x = take(N, 1.0f), *y = take(N, NAN), *z = take(N, NAN);
    k->dropout(DTYPE_F32, 10, N / 10, 0.25f, &key, x, 0.0f, y, on(threads));
    int kept = 0, pairs = 0;
    for (int i = 0; i < N; i++) {
        assert_true(y[i] == 0.0f || y[i] == 1.0f / 0.75f);
        kept += y[i] != 0.0f;
        pairs += y[i] != 0.0f && y[i ^ 1] != 0.0f;
    }
    assert_true(abs(kept - 75000) < 600 && abs(pairs - 56250) < 900);
    /* Every field of the key makes a mask of its own, high halves too. */
    DropoutKey others[8];
    for (int i = 0; i < 8; i++)
        others[i] = key;
    others[0].seed++, others[1].step++, others[2].first_sample++, others[3].layer++;
    others[4].seed += UINT64_C(1) << 32, others[5].step += UINT64_C(1) << 32;
    others[6].first_sample += UINT64_C(1) << 32;
    for (int i = 0; i < 7; i++)
        assert_true(abs(agreement(k, N, &others[i], y, z) - N / 2) < 800);
    assert_int_equal(agreement(k, N, &others[7], y, z), N);
    x[3] = NAN;
    k->dropout(DTYPE_F32, 1, N, 0.5f, &key, x, 0.0f, y, on(threads));
    assert_true(isnan(y[3]));
}

static void test_dropout_statistics(void **state)
{
    (void)state;
    each_table(check_dropout_statistics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox),
        cmocka_unit_test(test_fills),
        cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_fill_statistics),
        cmocka_unit_test(test_dropout_statistics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
