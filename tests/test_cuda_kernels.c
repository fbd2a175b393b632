/* Kernels of a card, on the stand-in: against the reference, over awkward lengths and types. */
#define SUPPORT_CARD
#include "tests/kernels_support.h"

#include "base/half_.h"

static void elements(DType type, int64_t n)
{
    const Kernels *k = kernels_cuda(), *r = kernels_reference();
    int64_t floats = type == DTYPE_F32 ? n : (n + 1) / 2;
    float *x = take_random(n, 2.0f), *at = take(floats, 0.0f), *y = take(floats, 0.0f), *expected = take(floats, 0.0f);
    StoredArray from = {x, DTYPE_F32, 1, n};
    r->copy(DTYPE_F32, type, n, from.at, at, on(1));
    k->fill(type, n, 1.5f, y, on(1));
    r->fill(type, n, 1.5f, expected, on(1));
    assert_same("fill", floats, y, expected);
    k->scale(type, n, 0.75f, at, 0.5f, y, on(1));
    r->scale(type, n, 0.75f, at, 0.5f, expected, on(1));
    assert_int_equal(cuda_wait(card()), 0);
    assert_near("scale", type == DTYPE_F32 ? n : 0, y, expected, 1e-6);
    assert_true(type == DTYPE_F32 || !memcmp(y, expected, (size_t)n * 2));
}

static void test_elements(void **state)
{
    (void)state;
    static const DType types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    forget();
    for (int i = 0; i < 3; i++)
        for (int64_t n = 1; n < 3000; n = n * 3 + 1) {
            elements(types[i], n);
            release();
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_elements)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
