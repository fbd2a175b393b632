/* Flash attention on a card's tensor cores, on the stand-in: against the reference on the same numbers. What
 * meets in products is rounded to 16 bit, so results are compared by the norm of their difference. */
#include "base/half_.h"
#include "products_support.h"

typedef struct Halves {
    int64_t n;
    float *wide; /* the reference's */
    uint16_t *half;
} Halves;

static uint16_t half_of(DType type, float value)
{
    return type == DTYPE_BF16 ? half_to_bf16(value) : half_to_f16(value);
}

static float value_of(DType type, uint16_t half)
{
    return type == DTYPE_BF16 ? half_from_bf16(half) : half_from_f16(half);
}

/* The 16-bit array is aligned to 16 bytes, as the card's memory is. */
static Halves halves(DType type, int64_t n, float size)
{
    Halves x = {n, filled_buffer(n, NAN), (uint16_t *)(void *)buffer((n + 1) / 2)};
    assert_int_equal((uintptr_t)x.half % 16, 0);
    for (int64_t i = 0; i < n; i++) {
        x.half[i] = size == 0 ? 0x7FFF : half_of(type, size * random_float());
        x.wide[i] = size == 0 ? NAN : value_of(type, x.half[i]);
    }
    return x;
}

static void halves_drop(Halves *x)
{
    drop(x->wide, x->n);
    drop((float *)(void *)x->half, (x->n + 1) / 2);
}

/* |half - wide| <= tolerance |wide|, of vectors; NaN at the same places, which are what nobody writes. */
static void assert_close(const char *what, DType type, const Halves *x, double tolerance)
{
    double error = 0, norm = 1e-6 * (double)x->n; /* a gradient may be nothing but rounding */
    for (int64_t i = 0; i < x->n; i++) {
        double value = (double)value_of(type, x->half[i]), expected = (double)x->wide[i];
        if (isnan(value) != isnan(expected))
            fail_msg("%s[%lld] = %.8g, expected %.8g", what, (long long)i, value, expected);
        if (isnan(value))
            continue;
        error += (value - expected) * (value - expected);
        norm += expected * expected;
    }
    if (getenv("VERBOSE"))
        print_message("%s %s: %.2e of %.2e\n", what, dtype_name(type), sqrt(error / norm), sqrt(norm));
    if (!(sqrt(error) <= tolerance * sqrt(norm)))
        fail_msg("%s: an error of %.3g of the norm, more than %.3g", what, sqrt(error / norm), tolerance);
}

typedef struct Case {
    AttentionDims d;
    Halves q, k, v, out, dout, dq, dk, dv;
    int64_t rows;
    float *lse, *wide_lse;
    int32_t *mask;
} Case;

static Case case_of(AttentionDims d, int masked)
{
    int64_t rows = (int64_t)d.batch * d.seq, row = (int64_t)d.heads * d.head_dim;
    int64_t kv_row = (int64_t)d.kv_heads * d.head_dim;
    Case a = {.rows = (int64_t)d.batch * d.heads * d.seq};
    int64_t between = attention_head_step(&d) - d.head_dim;
    d.ldq = d.lddq = row + d.heads * between + 8, d.ldo = row;
    d.ldk = d.lddk = kv_row + d.kv_heads * between + 16, d.ldv = d.lddv = d.ldk - 16;
    d.scale = 1 / sqrtf((float)d.head_dim);
    a.q = halves(d.type, rows * d.ldq, 3), a.k = halves(d.type, rows * d.ldk, 2),
    a.v = halves(d.type, rows * d.ldv, 1);
    a.dout = halves(d.type, rows * d.ldo, 1), a.out = halves(d.type, rows * d.ldo, 0);
    a.dq = halves(d.type, rows * d.lddq, 0), a.dk = halves(d.type, rows * d.lddk, 0);
    a.dv = halves(d.type, rows * d.lddv, 0);
    a.lse = filled_buffer(a.rows, NAN), a.wide_lse = filled_buffer(a.rows, NAN);
    if (masked) {
        a.mask = malloc((size_t)rows * sizeof *a.mask);
        assert_non_null(a.mask);
        for (int64_t i = 0; i < rows; i++) /* of several samples, the last has no key */
            a.mask[i] = (d.batch == 1 || i < rows - d.seq) && i % d.seq != 0 && random_float() > -0.5f;
    }
    d.key_mask = a.mask;
    a.d = d;
    return a;
}

static void case_drop(Case *a)
{
    halves_drop(&a->q), halves_drop(&a->k), halves_drop(&a->v), halves_drop(&a->out), halves_drop(&a->dout);
    halves_drop(&a->dq), halves_drop(&a->dk), halves_drop(&a->dv);
    drop(a->lse, a->rows), drop(a->wide_lse, a->rows);
    free(a->mask);
}

static void reference_forward(Case *a)
{
    AttentionDims d = a->d;
    d.type = DTYPE_F32;
    kernels_reference()->attention_flash_forward(&d, a->q.wide, a->k.wide, a->v.wide, a->out.wide,
                                                 a->wide_lse, NULL, on(1));
}

/* Of the result that the card has, rounded. */
static void reference_backward(Case *a)
{
    AttentionDims d = a->d;
    d.type = DTYPE_F32;
    for (int64_t i = 0; i < a->out.n; i++)
        a->out.wide[i] = value_of(a->d.type, a->out.half[i]);
    kernels_reference()->attention_flash_backward(&d, a->q.wide, a->k.wide, a->v.wide, a->out.wide,
                                                  a->wide_lse, a->dout.wide, a->dq.wide, a->dk.wide,
                                                  a->dv.wide, NULL, on(1));
}

static void card_of(Case *a)
{
    const Kernels *k = kernels_cuda();
    int64_t n = (int64_t)(k->attention_workspace(&a->d, KEPT_LSE, 1, on(1)) / sizeof(float));
    float *workspace = filled_buffer(n, NAN);
    assert_int_equal(k->attention_workspace(&a->d, KEPT_LSE, 0, on(1)), 0);
    k->attention_flash_forward(&a->d, a->q.half, a->k.half, a->v.half, a->out.half, a->lse, NULL, on(1));
    k->attention_flash_backward(&a->d, a->q.half, a->k.half, a->v.half, a->out.half, a->lse, a->dout.half,
                                a->dq.half, a->dk.half, a->dv.half, workspace, on(1));
    assert_int_equal(cuda_wait(card()), 0);
    drop(workspace, n);
}

static void check(AttentionDims d, int masked)
{
    Case a = case_of(d, masked);
    double out = d.type == DTYPE_BF16 ? 2.5e-3 : 3e-4, gradient = d.type == DTYPE_BF16 ? 3.5e-3 : 4.5e-4;
    reference_forward(&a);
    card_of(&a);
    assert_near("lse", a.rows, a.lse, a.wide_lse, 1e-5);
    assert_close("out", d.type, &a.out, out);
    reference_backward(&a);
    assert_close("dq", d.type, &a.dq, gradient);
    assert_close("dk", d.type, &a.dk, gradient);
    assert_close("dv", d.type, &a.dv, gradient);
    Halves *results[] = {&a.out, &a.dq, &a.dk, &a.dv};
    for (int i = 0; i < 4; i++) { /* again, from the same numbers: the same bits */
        memcpy(results[i]->wide, results[i]->half, (size_t)results[i]->n * 2);
        for (int64_t e = 0; e < results[i]->n; e++)
            results[i]->half[e] = 0x7FFF;
    }
    card_of(&a);
    for (int i = 0; i < 4; i++)
        assert_memory_equal(results[i]->wide, results[i]->half, (size_t)results[i]->n * 2);
    case_drop(&a);
}

/* Tiles of 128 queries and of 64 or 32 keys: one row, a row less and more than each, several; groups; masks.
 */
static void test_tensor_cores(void **state)
{
    (void)state;
    static const AttentionDims shapes[] = {
        {.batch = 1, .seq = 1, .heads = 1, .kv_heads = 1, .head_dim = 64},
        {.batch = 2, .seq = 17, .heads = 2, .kv_heads = 1, .head_dim = 128},
        {.batch = 2, .seq = 65, .heads = 3, .kv_heads = 1, .head_dim = 64},
        {.batch = 1, .seq = 129, .heads = 1, .kv_heads = 1, .head_dim = 128},
        {.batch = 1, .seq = 160, .heads = 2, .kv_heads = 2, .head_dim = 64},
        {.batch = 2, .seq = 33, .heads = 3, .kv_heads = 3, .head_dim = 64, .head_step = 3 * 64},
        {.batch = 1, .seq = 33, .heads = 2, .kv_heads = 2, .head_dim = 128, .head_step = 3 * 128},
    };
    for (int i = 0; i < 7 * 8; i++) {
        AttentionDims d = shapes[i / 8];
        if (d.seq > 60 && !full_form() && ((i ^ i >> 1 ^ i >> 2) & 1))
            continue; /* of the three, each pair in every way */
        d.causal = i & 1;
        d.type = i >> 1 & 1 ? DTYPE_F16 : DTYPE_BF16;
        check(d, i >> 2 & 1);
    }
}

/* Windows around the tiles, and over the whole; a cap, for which others compute. */
static void test_tensor_cores_window(void **state)
{
    (void)state;
    static const int windows[] = {1, 16, 33, 64, 65, 130, 200, 250, 269};
    for (int i = 0; i < 9 * 4; i++) {
        AttentionDims d = {.batch = 1, .seq = 270, .heads = 2, .kv_heads = 1, .window = windows[i / 4]};
        d.causal = i & 1;
        d.head_dim = i >> 1 & 1 ? 128 : 64;
        d.type = (i >> 1 ^ i ^ i >> 3) & 1 ? DTYPE_F16 : DTYPE_BF16;
        d.seq = d.head_dim == 128 && d.window < 130 ? 140 : 270;
        d.softcap = i == 9 ? 2 : 0;
        if (full_form() || (i + i / 4) % 3 == 0)
            check(d, i % 5 == 0);
    }
}

/* A prompt after earlier tokens, over a cache of its type. */
static void check_cached(AttentionDims d)
{
    int64_t row = (int64_t)d.heads * d.head_dim, kv_row = (int64_t)d.kv_heads * d.head_dim;
    AttentionDims wide = d;
    d.ldq = d.ldo = row, d.ldk = d.ldv = kv_row;
    d.scale = 1 / sqrtf((float)d.head_dim);
    wide = d;
    wide.type = wide.cached = DTYPE_F32;
    Halves q = halves(d.type, d.batch * d.seq * row, 3), out = halves(d.type, q.n, 0);
    Halves cache = halves(d.type, (int64_t)2 * d.batch * d.capacity * kv_row, 1);
    assert_int_equal(kernels_cuda()->attention_cached_workspace(&d, on(1)), 0);
    kernels_cuda()->attention_cached(&d, q.half, cache.half, out.half, NULL, on(1));
    assert_int_equal(cuda_wait(card()), 0);
    kernels_reference()->attention_cached(&wide, q.wide, cache.wide, out.wide, NULL, on(1));
    assert_close("cached", d.type, &out, d.type == DTYPE_BF16 ? 2.5e-3 : 3e-4);
    halves_drop(&q), halves_drop(&out), halves_drop(&cache);
}

static void test_tensor_cores_cached(void **state)
{
    (void)state;
    AttentionDims d = {
        .batch = 2, .seq = 35, .heads = 4, .kv_heads = 2, .head_dim = 64, .past = 70, .capacity = 110};
    d.type = d.cached = DTYPE_BF16;
    check_cached(d);
    d.past = 0;
    check_cached(d);
    d.head_dim = 128, d.past = 31, d.batch = 1;
    d.type = d.cached = DTYPE_F16;
    check_cached(d);
    for (d.window = 1; d.window < 70; d.window += 31)
        check_cached(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tensor_cores),
        cmocka_unit_test(test_tensor_cores_window),
        cmocka_unit_test(test_tensor_cores_cached),
    };
    return cmocka_run_group_tests_name("cuda: attention on tensor cores", tests, NULL, NULL);
}
