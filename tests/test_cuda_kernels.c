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

/* What an update has read and may write: none of it changes in a step whose fault word is set. */
static void test_no_update_after_fault(void **state)
{
    enum { N = 300 };
    (void)state;
    forget();
    const Kernels *k = kernels_cuda();
    void (*const updates[])(const UpdateArrays *, const UpdateScalars *, const UpdateControl *,
                            const KernelRun *) = {k->sgd, k->rmsprop, k->adagrad, k->adam};
    const RoundingKey key = {.seed = 1};
    UpdateScalars s = {.lr = 0.1f, .momentum = 0.5f, .alpha = 0.9f, .beta1 = 0.5f, .beta2 = 0.5f, .step = 2};
    for (int i = 0; i < 8; i++) { /* of packs, and of blocks */
        float *array[] = {take(N, 1), take(N, 0.5f), take(N, 0.25f)}, *g = take(N, 1);
        UpdateArrays a = {.n = N, .p = array[0], .g = g, .state = {array[1], array[2]}};
        a.rounding = i % 2 ? &key : NULL;
        const KernelRun *run = on(1);
        *run->fault = 7;
        updates[i / 2](&a, &s, &(UpdateControl){.grad_scale = 1}, run);
        for (int j = 0; j < N; j++)
            assert_true(array[0][j] == 1 && array[1][j] == 0.5f && array[2][j] == 0.25f);
        updates[i / 2](&a, &s, &(UpdateControl){.grad_scale = 1}, on(1));
        assert_true(array[0][0] != 1 && array[0][N - 1] != 1 && array[1][N - 1] != 0.5f);
        release();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_elements),
                                       cmocka_unit_test(test_no_update_after_fault)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
