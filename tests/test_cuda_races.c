/* Kernels whose threads share something, once each in f32 and small: what the thread sanitizer has time for
 * (SAN=thread makes threads of a card's block threads to it). Every result is the reference's. */
#define SUPPORT_CARD
#include "tests/kernels_support.h"

static const Kernels *plain(void)
{
    return kernels_reference();
}

static void test_norms(void **state)
{
    enum { ROWS = 5, C = 70, N = ROWS * C };
    (void)state;
    forget();
    float *x = take_random(N, 2), *dy = take_random(N, 1), *weight = take_random(C, 1),
          *bias = take_random(C, 1);
    float *out[2], *dx[2], *dweight[2], *dbias[2];
    for (int i = 0; i < 2; i++) {
        const Kernels *k = i ? kernels_cuda() : plain();
        float *mean = take(ROWS, 0), *rstd = take(ROWS, 0);
        float *room = take((int64_t)k->norm_workspace(ROWS, C, on(1)) / 4 + 1, NAN);
        out[i] = take(2 * N, 0), dx[i] = take(2 * N, 0), dweight[i] = take(2 * C, 0), dbias[i] = take(C, 0);
        k->layer_norm_forward(DTYPE_F32, ROWS, C, 1e-5f, x, weight, bias, out[i], mean, rstd, on(1));
        k->layer_norm_backward(DTYPE_F32, ROWS, C, x, weight, mean, rstd, dy, 0, dx[i], DTYPE_F32, 0,
                               dweight[i], DTYPE_F32, 0, dbias[i], room, on(1));
        k->rms_norm_forward(DTYPE_F32, ROWS, C, 1e-5f, 0, x, weight, out[i] + N, rstd, on(1));
        k->rms_norm_backward(DTYPE_F32, ROWS, C, 0, x, weight, rstd, dy, 0, dx[i] + N, DTYPE_F32, 0,
                             dweight[i] + C, room, on(1));
    }
    assert_near("y", 2 * N, out[1], out[0], 1e-5);
    assert_near("dx", 2 * N, dx[1], dx[0], 1e-5);
    assert_near("dweight", 2 * C, dweight[1], dweight[0], 1e-5);
    assert_near("dbias", C, dbias[1], dbias[0], 1e-5);
    release();
}

static void test_loss(void **state)
{
    enum { ROWS = 6, C = 300, N = ROWS * C };
    (void)state;
    forget();
    CrossEntropyDims d = {.rows = ROWS, .classes = C, .ignore_index = -1};
    const int32_t labels[ROWS] = {3, 299, -1, 0, 7, 7};
    float *x = take_random(N, 4), *dx[2], loss[2], dloss = 0.5f;
    for (int i = 0; i < 2; i++) {
        const Kernels *k = i ? kernels_cuda() : plain();
        float *lse = take(ROWS, 0), *room = take((int64_t)k->cross_entropy_workspace(&d, on(1)) / 4 + 1, NAN);
        dx[i] = take(N, 0);
        k->cross_entropy_forward(&d, DTYPE_F32, x, labels, 0.2f, &loss[i], lse, room, on(1));
        k->cross_entropy_backward(&d, DTYPE_F32, x, labels, 0.2f, lse, &dloss, 0, dx[i], on(1));
    }
    assert_near("loss", 1, &loss[1], &loss[0], 1e-5);
    assert_near("dlogits", N, dx[1], dx[0], 1e-5);
    release();
}

static void test_sums(void **state)
{
    enum { ROWS = 70, C = 40, N = ROWS * C };
    (void)state;
    forget();
    float *x = take_random(N, 1), *bad = take_copy(N, x), *sum[2];
    bad[N - 3] = INFINITY;
    double squares[2];
    int64_t index[2];
    for (int i = 0; i < 2; i++) {
        const Kernels *k = i ? kernels_cuda() : plain();
        float *room = take((int64_t)k->column_sum_workspace(ROWS, C, on(1)) / 4 + 1, NAN);
        sum[i] = take(C, 0);
        k->column_sum(DTYPE_F32, ROWS, C, x, DTYPE_F32, 0, sum[i], room, on(1));
        k->sum_squares(DTYPE_F32, N, x, &squares[i], on(1));
        k->find_nonfinite(DTYPE_F32, N, bad, &index[i], on(1));
    }
    assert_near("column sums", C, sum[1], sum[0], 1e-5);
    assert_true(fabs(squares[1] - squares[0]) < 1e-6 * squares[0]);
    assert_int_equal(index[0], N - 3);
    assert_int_equal(index[1], N - 3);
    release();
}

static void test_embedding(void **state)
{
    enum { ROWS = 50, C = 12, VOCAB = 30 };
    (void)state;
    forget();
    int32_t ids[ROWS];
    float *dy = take_random(ROWS * C, 1), *dtable[2];
    for (int i = 0; i < ROWS; i++)
        ids[i] = i * 7 % VOCAB / 3;
    for (int i = 0; i < 2; i++) {
        const Kernels *k = i ? kernels_cuda() : plain();
        float *room = take((int64_t)k->embedding_workspace(ROWS, VOCAB, DTYPE_F32, on(1)) / 4 + 1, NAN);
        dtable[i] = take(VOCAB * C, 0);
        k->embedding_backward(DTYPE_F32, ROWS, C, VOCAB, 0, ids, dy, DTYPE_F32, dtable[i], room, on(1));
    }
    assert_near("dtable", VOCAB * C, dtable[1], dtable[0], 1e-5);
    release();
}

static void test_attention(void **state)
{
    enum { T = 20, H = 2, KV = 1, D = 16, Q = T * H * D, K = T * KV * D };
    (void)state;
    forget();
    AttentionDims d = {
        .batch = 1, .seq = T, .heads = H, .kv_heads = KV, .head_dim = D, .causal = 1, .scale = 0.25f};
    d.ldq = d.ldo = d.lddq = H * D;
    d.ldk = d.ldv = d.lddk = d.lddv = KV * D;
    float *q = take_random(Q, 1), *k_ = take_random(K, 1), *v = take_random(K, 1), *dout = take_random(Q, 1);
    float *out[2], *dq[2], *dk[2], *dv[2];
    for (int i = 0; i < 2; i++) {
        const Kernels *k = i ? kernels_cuda() : plain();
        size_t forward = k->attention_workspace(&d, KEPT_LSE, 0, on(1));
        size_t backward = k->attention_workspace(&d, KEPT_LSE, 1, on(1));
        float *room = take((int64_t)(forward > backward ? forward : backward) / 4 + 1, NAN),
              *lse = take(H * T, 0);
        out[i] = take(Q, 0), dq[i] = take(Q, 0), dk[i] = take(K, 0), dv[i] = take(K, 0);
        k->attention_flash_forward(&d, q, k_, v, out[i], lse, room, on(1));
        k->attention_flash_backward(&d, q, k_, v, out[i], lse, dout, dq[i], dk[i], dv[i], room, on(1));
    }
    assert_near("out", Q, out[1], out[0], 1e-5);
    assert_near("dq", Q, dq[1], dq[0], 1e-5);
    assert_near("dk", K, dk[1], dk[0], 1e-5);
    assert_near("dv", K, dv[1], dv[0], 1e-5);
    release();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),     cmocka_unit_test(test_loss),      cmocka_unit_test(test_sums),
        cmocka_unit_test(test_embedding), cmocka_unit_test(test_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
