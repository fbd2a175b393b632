/* Kernels of arrays of 16 bit: every table that runs here gives, bit for bit, what its own f32 kernel makes
 * of the decoded inputs, rounded once; over awkward shapes, with what an output holds, in place, on several
 * threads. And the reference, to one step of the type. */
#define SUPPORT_CARD
#include "half_support.h"

static const float betas[] = {0.0f, 1.0f, -0.5f};

static const Kernels *plain(void)
{
    return kernels_reference();
}

/* ---- Element-wise helpers --------------------------------------------------------------------- */

static void check_copies(const Kernels *k, int64_t n, int threads)
{
    DType other = half_type == DTYPE_BF16 ? DTYPE_F16 : DTYPE_BF16;
    Half a = take_random_half(n, 2.0f), y = take_output_half(n, 0.0f);
    float *x = take_random(n, 2.0f);
    k->fill(half_type, n, 0.7f, y.half, on(threads));
    k->fill(DTYPE_F32, n, 0.7f, y.wide, on(threads));
    assert_rounded("fill", y);
    k->copy(half_type, half_type, n, a.half, y.half, on(threads));
    k->copy(DTYPE_F32, DTYPE_F32, n, a.wide, y.wide, on(threads));
    assert_rounded("copy", y);
    k->copy(half_type, half_type, n, y.half, y.half, on(threads));
    assert_rounded("copy onto itself", y);
    k->copy(DTYPE_F32, half_type, n, x, y.half, on(threads));
    k->copy(DTYPE_F32, DTYPE_F32, n, x, y.wide, on(threads));
    assert_rounded("copy from f32", y);
    k->copy(half_type, DTYPE_F32, n, a.half, y.wide, on(threads));
    assert_same("copy to f32", n, y.wide, a.wide);
    uint16_t *b = (uint16_t *)(void *)take(n / 2 + 1, 0.0f);
    k->copy(half_type, other, n, a.half, b, on(threads));
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(b[i], other == DTYPE_F16 ? half_to_f16(a.wide[i]) : half_to_bf16(a.wide[i]));
}

static void check_sums(const Kernels *k, int64_t n, int threads)
{
    Half a = take_random_half(n, 2.0f), b = take_random_half(n, 2.0f), y = take_output_half(n, 0.0f);
    float *x = take_random(n, 2.0f), *wide = take_copy(n, x);
    k->add(half_type, n, a.half, b.half, y.half, on(threads));
    k->add(DTYPE_F32, n, a.wide, b.wide, y.wide, on(threads));
    assert_rounded("add", y);
    y = take_copy_half(b);
    k->add(half_type, n, a.half, y.half, y.half, on(threads));
    k->add(DTYPE_F32, n, a.wide, y.wide, y.wide, on(threads));
    assert_rounded("add in place", y);
    y = take_copy_half(b);
    k->accumulate(half_type, half_type, n, a.half, y.half, on(threads));
    k->accumulate(DTYPE_F32, DTYPE_F32, n, a.wide, y.wide, on(threads));
    assert_rounded("accumulate", y);
    y = take_copy_half(b);
    k->accumulate(DTYPE_F32, half_type, n, x, y.half, on(threads));
    k->accumulate(DTYPE_F32, DTYPE_F32, n, x, y.wide, on(threads));
    assert_rounded("accumulate f32", y);
    k->accumulate(half_type, DTYPE_F32, n, a.half, wide, on(threads));
    k->accumulate(DTYPE_F32, DTYPE_F32, n, a.wide, x, on(threads));
    assert_same("accumulate into f32", n, wide, x);
    plain()->accumulate(half_type, DTYPE_F32, n, b.half, wide, on(1));
    k->add(DTYPE_F32, n, x, b.wide, x, on(threads));
    assert_same("the reference's accumulate", n, wide, x);
}

static void check_products(const Kernels *k, int64_t n, int threads)
{
    Half a = take_random_half(n, 2.0f), b = take_random_half(n, 2.0f);
    float value = 1.3f;
    for (int i = 0; i < 3; i++) {
        Half y = take_output_half(n, betas[i]), z = take_copy_half(y), w = take_copy_half(a);
        uint16_t *expected = take_copy_half(y).half;
        k->scale(half_type, n, 0.3f, a.half, betas[i], y.half, on(threads));
        k->scale(DTYPE_F32, n, 0.3f, a.wide, betas[i], y.wide, on(threads));
        assert_rounded("scale", y);
        plain()->scale(half_type, n, 0.3f, a.half, betas[i], expected, on(1));
        assert_half_near("the reference's scale", n, y.half, expected, 1e-6);
        if (betas[i] == 0.0f) {
            Half over = take_copy_half(a);
            k->scale(half_type, n, 0.3f, over.half, 0, over.half, on(threads));
            assert_memory_equal(over.half, y.half, (size_t)n * 2);
        }
        k->multiply(half_type, n, a.half, b.half, betas[i], z.half, on(threads));
        k->multiply(DTYPE_F32, n, a.wide, b.wide, betas[i], z.wide, on(threads));
        assert_rounded("multiply", z);
        k->multiply(half_type, n, w.half, b.half, betas[i], w.half, on(threads));
        k->multiply(DTYPE_F32, n, w.wide, b.wide, betas[i], w.wide, on(threads));
        assert_rounded("multiply in place", w);
    }
    Half y = take_output_half(n, 0.0f);
    k->broadcast(half_type, n, 3.1f, &value, y.half, on(threads));
    k->broadcast(DTYPE_F32, n, 3.1f, &value, y.wide, on(threads));
    assert_rounded("broadcast", y);
}

static void test_elementwise(void **state)
{
    (void)state;
    each_half_length(check_copies);
    each_half_length(check_sums);
    each_half_length(check_products);
}

static void check_rows(const Kernels *k, int64_t rows, int64_t c, int threads)
{
    int64_t n = rows * c;
    Half a = take_random_half(n, 1.0f), y = take_output_half(n, 0.0f), in_place = take_copy_half(a);
    float *b = take_random(c, 1.0f);
    float *workspace = take((int64_t)(k->column_sum_workspace(rows, c, on(threads)) / sizeof(float)), NAN);
    k->add_row(half_type, rows, c, a.half, b, y.half, on(threads));
    k->add_row(DTYPE_F32, rows, c, a.wide, b, y.wide, on(threads));
    assert_rounded("add_row", y);
    k->add_row(half_type, rows, c, in_place.half, b, in_place.half, on(threads));
    k->add_row(DTYPE_F32, rows, c, in_place.wide, b, in_place.wide, on(threads));
    assert_rounded("add_row in place", in_place);
    for (int i = 0; i < 3; i++) {
        Half total = take_output_half(c, betas[i]);
        float *wide = take_copy(c, total.wide);
        uint16_t *expected = take_copy_half(total).half;
        plain()->column_sum(half_type, rows, c, a.half, half_type, betas[i], expected, NULL, on(1));
        k->column_sum(half_type, rows, c, a.half, half_type, betas[i], total.half, workspace, on(threads));
        k->column_sum(DTYPE_F32, rows, c, a.wide, DTYPE_F32, betas[i], total.wide, workspace, on(threads));
        assert_rounded("column_sum", total);
        assert_half_near("the reference's column_sum", c, total.half, expected, 1e-4);
        k->column_sum(half_type, rows, c, a.half, DTYPE_F32, betas[i], wide, workspace, on(threads));
        assert_same("column_sum into f32", c, wide, total.wide);
    }
}

static void test_rows(void **state)
{
    (void)state;
    each_half_matrix(check_rows);
}

static void check_reductions(const Kernels *k, int64_t n, int threads)
{
    Half x = take_random_half(n, 3.0f);
    float total[3];
    double squares[3];
    int64_t bad = -7;
    k->sum(half_type, n, x.half, 0.5, total, on(threads));
    k->sum(DTYPE_F32, n, x.wide, 0.5, total + 1, on(threads));
    plain()->sum(half_type, n, x.half, 0.5, total + 2, on(1));
    assert_true(total[0] == total[1] && fabsf(total[0] - total[2]) <= 1e-5f * (1 + fabsf(total[0])));
    k->sum_squares(half_type, n, x.half, squares, on(threads));
    k->sum_squares(DTYPE_F32, n, x.wide, squares + 1, on(threads));
    plain()->sum_squares(half_type, n, x.half, squares + 2, on(1));
    assert_true(squares[0] == squares[1] && fabs(squares[0] - squares[2]) <= 1e-9 * squares[0]);
    k->find_nonfinite(half_type, n, x.half, &bad, on(threads));
    assert_int_equal(bad, -1);
    const float wrong[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        int64_t at = i == 0 ? n - 1 : i == 1 ? n / 2 : 0;
        x.half[at] = half_rounded(wrong[i]);
        k->find_nonfinite(half_type, n, x.half, &bad, on(threads));
        assert_int_equal(bad, at);
        plain()->find_nonfinite(half_type, n, x.half, &bad, on(1));
        assert_int_equal(bad, at);
    }
}

static void test_reductions(void **state)
{
    (void)state;
    each_half_length(check_reductions);
}

/* ---- Activations ------------------------------------------------------------------------------ */

static void check_activation(const Kernels *k, int64_t n, int threads)
{
    Half x = take_random_half(n, 8.0f), dy = take_random_half(n, 1.0f);
    x.half[n / 2] = half_rounded(NAN);
    x.wide[n / 2] = NAN;
    for (int act = ACT_NONE; act <= ACT_TANH; act++) {
        Activation a = (Activation)act;
        Half y = take_output_half(n, 0.0f), in_place = take_copy_half(x), d = take_copy_half(dy);
        uint16_t *expected = take_output_half(n, 0.0f).half;
        k->activation_forward(half_type, a, n, x.half, y.half, on(threads));
        k->activation_forward(DTYPE_F32, a, n, x.wide, y.wide, on(threads));
        assert_rounded("activation", y);
        plain()->activation_forward(half_type, a, n, x.half, expected, on(1));
        assert_half_near("the reference's activation", n, y.half, expected, 1e-5);
        k->activation_forward(half_type, a, n, in_place.half, in_place.half, on(threads));
        k->activation_forward(DTYPE_F32, a, n, in_place.wide, in_place.wide, on(threads));
        assert_rounded("activation in place", in_place);
        for (int i = 0; i < 2; i++) {
            Half dx = take_output_half(n, betas[i]);
            k->activation_backward(half_type, a, n, x.half, dy.half, betas[i], dx.half, on(threads));
            k->activation_backward(DTYPE_F32, a, n, x.wide, dy.wide, betas[i], dx.wide, on(threads));
            assert_rounded("activation dx", dx);
        }
        k->activation_backward(half_type, a, n, x.half, d.half, 0.0f, d.half, on(threads));
        k->activation_backward(DTYPE_F32, a, n, x.wide, d.wide, 0.0f, d.wide, on(threads));
        assert_rounded("activation dx in place", d);
        plain()->activation_backward(half_type, a, n, x.half, dy.half, 0.0f, expected, on(1));
        assert_half_near("the reference's activation dx", n, d.half, expected, 1e-5);
    }
}

static void test_activation(void **state)
{
    (void)state;
    each_half_length(check_activation);
}

static void check_dropout(const Kernels *k, int64_t n, int threads)
{
    DropoutKey key = {.seed = 5, .step = 3, .first_sample = 2, .layer = 1};
    Half x = take_random_half(3 * n, 2.0f);
    for (int i = 0; i < 3; i++) {
        Half y = take_output_half(3 * n, betas[i]);
        uint16_t *expected = take_copy_half(y).half;
        plain()->dropout(half_type, 3, n, 0.3f, &key, x.half, betas[i], expected, on(1));
        k->dropout(half_type, 3, n, 0.3f, &key, x.half, betas[i], y.half, on(threads));
        k->dropout(DTYPE_F32, 3, n, 0.3f, &key, x.wide, betas[i], y.wide, on(threads));
        assert_rounded("dropout", y);
        assert_half_near("the reference's dropout", 3 * n, y.half, expected, 1e-6);
    }
    Half y = take_copy_half(x);
    k->dropout(half_type, 3, n, 0.3f, &key, y.half, 0.0f, y.half, on(threads));
    k->dropout(DTYPE_F32, 3, n, 0.3f, &key, y.wide, 0.0f, y.wide, on(threads));
    assert_rounded("dropout in place", y);
}

/* Elements from `first` on of samples of 40: what the whole samples have there. */
static void check_dropout_part(const Kernels *k, int64_t first, int threads)
{
    enum { SAMPLES = 3, WHOLE = 40 };
    DropoutKey key = {.seed = 5, .step = 3, .first_sample = 2, .layer = 1};
    int64_t left = WHOLE - first;
    float *x = take_random(SAMPLES * WHOLE, 2.0f), *y = take(SAMPLES * WHOLE, NAN), *part = take(left, NAN);
    k->dropout(DTYPE_F32, SAMPLES, WHOLE, 0.3f, &key, x, 0.0f, y, on(threads));
    key.first_element = (uint64_t)first;
    for (int s = 0; s < SAMPLES; s++, key.first_sample++) {
        k->dropout(DTYPE_F32, 1, left, 0.3f, &key, x + s * WHOLE + first, 0.0f, part, on(threads));
        assert_same("dropout of a part", left, part, y + s * WHOLE + first);
    }
    release();
}

static void test_dropout(void **state)
{
    (void)state;
    each_half_length(check_dropout);
    for (int table = 0; table < SUPPORT_TABLES; table++)
        for (int first = 0; support_table(table) && first < 40; first += 12)
            check_dropout_part(support_table(table), first, 1 + first / 12);
    check_dropout_part(plain(), 12, 1);
}

/* ---- Norms ------------------------------------------------------------------------------------ */

typedef struct Norm {
    int layer; /* or RMSNorm */
    float plus;
    int64_t rows, c;
    Half x, dy;
    float *weight, *bias, *mean, *rstd, *workspace;
} Norm;

static Norm norm_take(const Kernels *k, int kind, int64_t rows, int64_t c, int threads)
{
    Norm t = {.layer = kind == 1, .plus = kind == 2 ? 1.0f : 0.0f, .rows = rows, .c = c};
    t.x = take_random_half(rows * c, 2.0f);
    t.dy = take_random_half(rows * c, 1.0f);
    t.weight = take_random(c, 1.0f);
    t.bias = take_random(c, 1.0f);
    t.mean = take(rows, 0.0f);
    t.rstd = take(rows, NAN);
    t.workspace = take((int64_t)(k->norm_workspace(rows, c, on(threads)) / sizeof(float)), NAN);
    return t;
}

static void norm_forward(const Kernels *k, const Norm *t, DType type, const void *x, void *y, int threads)
{
    if (t->layer)
        k->layer_norm_forward(type, t->rows, t->c, 1e-5f, x, t->weight, t->bias, y, t->mean, t->rstd,
                              on(threads));
    else
        k->rms_norm_forward(type, t->rows, t->c, 1e-5f, t->plus, x, t->weight, y, t->rstd, on(threads));
}

/* grad: of dw and db. */
static void norm_backward(const Kernels *k, const Norm *t, DType type, const void *x, const void *dy,
                          float beta, void *dx, DType grad, void *dw, void *db, int threads)
{
    if (t->layer)
        k->layer_norm_backward(type, t->rows, t->c, x, t->weight, t->mean, t->rstd, dy, beta, dx, grad, beta,
                               dw, grad, beta, db, t->workspace, on(threads));
    else
        k->rms_norm_backward(type, t->rows, t->c, t->plus, x, t->weight, t->rstd, dy, beta, dx, grad, beta,
                             dw, t->workspace, on(threads));
}

static void check_norm_backward(const Kernels *k, const Norm *t, float beta, int threads)
{
    int64_t n = t->rows * t->c;
    Half dx = take_output_half(n, beta), dw = take_output_half(t->c, beta), db = take_output_half(t->c, beta);
    Half e = take_copy_half(dx), ew = take_copy_half(dw), eb = take_copy_half(db);
    float *fw = take_copy(t->c, dw.wide), *fb = take_copy(t->c, db.wide);
    norm_backward(plain(), t, half_type, t->x.half, t->dy.half, beta, e.half, half_type, ew.half, eb.half, 1);
    /* f32 gradients of the weights beside dx of 16 bit, too */
    norm_backward(k, t, half_type, t->x.half, t->dy.half, 0.0f, e.half, DTYPE_F32,
                  beta == 0.0f ? fw : take(t->c, NAN), beta == 0.0f ? fb : take(t->c, NAN), threads);
    norm_backward(k, t, half_type, t->x.half, t->dy.half, beta, dx.half, half_type, dw.half, db.half,
                  threads);
    norm_backward(k, t, DTYPE_F32, t->x.wide, t->dy.wide, beta, dx.wide, DTYPE_F32, dw.wide, db.wide,
                  threads);
    assert_rounded("norm dx", dx);
    assert_rounded("norm dweight", dw);
    assert_half_near("the reference's dweight", t->c, dw.half, ew.half, 1e-4);
    if (t->layer) {
        assert_rounded("norm dbias", db);
        assert_half_near("the reference's dbias", t->c, db.half, eb.half, 1e-4);
    }
    if (beta == 0.0f)
        assert_same("norm dweight in f32", t->c, fw, dw.wide);
}

static void check_norm(const Kernels *k, int64_t rows, int64_t c, int threads)
{
    for (int kind = 0; kind < 3; kind++) {
        Norm t = norm_take(k, kind, rows, c, threads);
        Half y = take_output_half(rows * c, 0.0f), e = take_copy_half(y), d = take_copy_half(t.dy);
        float *rstd = take(rows, NAN);
        norm_forward(plain(), &t, half_type, t.x.half, e.half, 1);
        norm_forward(k, &t, half_type, t.x.half, y.half, threads);
        memcpy(rstd, t.rstd, (size_t)rows * sizeof *rstd);
        norm_forward(k, &t, DTYPE_F32, t.x.wide, y.wide, threads);
        assert_rounded("norm", y);
        assert_same("rstd", rows, rstd, t.rstd);
        assert_half_near("the reference's norm", rows * c, y.half, e.half, 1e-4);
        check_norm_backward(k, &t, 0.0f, threads);
        check_norm_backward(k, &t, 1.0f, threads);
        norm_backward(k, &t, half_type, t.x.half, d.half, 0.0f, d.half, half_type, NULL, NULL, threads);
        norm_backward(k, &t, DTYPE_F32, t.x.wide, d.wide, 0.0f, d.wide, DTYPE_F32, NULL, NULL, threads);
        assert_rounded("norm dx over dy", d);
        release();
    }
}

/* Rows wider than a block: they are summed block by block, so only nearly the same. */
static void check_wide_norm(const Kernels *k, int threads)
{
    enum { ROWS = 3, C = 10007 };
    for (int kind = 0; kind < 3; kind++) {
        Norm t = norm_take(k, kind, ROWS, C, threads);
        Half y = take_output_half(ROWS * C, 0.0f), e = take_copy_half(y), dw = take_output_half(C, 0.0f);
        Half ew = take_copy_half(dw), db = take_copy_half(dw), eb = take_copy_half(dw),
             d = take_copy_half(t.dy);
        norm_forward(plain(), &t, half_type, t.x.half, e.half, 1);
        norm_forward(k, &t, half_type, t.x.half, y.half, threads);
        assert_half_near("wide norm", ROWS * C, y.half, e.half, 1e-4);
        norm_backward(plain(), &t, half_type, t.x.half, t.dy.half, 0.0f, e.half, half_type, ew.half, eb.half,
                      1);
        norm_backward(k, &t, half_type, t.x.half, d.half, 0.0f, d.half, half_type, dw.half, db.half, threads);
        assert_half_near("wide dx over dy", ROWS * C, d.half, e.half, 1e-4);
        assert_half_near("wide dweight", C, dw.half, ew.half, 1e-4);
    }
}

static void test_norm(void **state)
{
    (void)state;
    each_half_matrix(check_norm);
    each_half_table(check_wide_norm);
}

/* ---- Rotary positions -------------------------------------------------------------------------- */

static void check_rope_dims(const Kernels *k, RopeDims d, int threads)
{
    int64_t n = (int64_t)d.batch * d.seq * d.ld;
    Half x = take_random_half(n, 1.0f);
    for (int i = 0; i < 4; i++) {
        Half y = take_random_half(n, 1.0f); /* what is nobody's must stay */
        uint16_t *expected = take_copy_half(y).half;
        d.inverse = i / 2;
        plain()->rope(&d, half_type, x.half, betas[i % 2], expected, on(1));
        k->rope(&d, half_type, x.half, betas[i % 2], y.half, on(threads));
        k->rope(&d, DTYPE_F32, x.wide, betas[i % 2], y.wide, on(threads));
        assert_rounded("rope", y);
        assert_half_near("the reference's rope", n, y.half, expected, 1e-5);
    }
    Half y = take_copy_half(x);
    k->rope(&d, half_type, y.half, 0.0f, y.half, on(threads));
    k->rope(&d, DTYPE_F32, y.wide, 0.0f, y.wide, on(threads));
    assert_rounded("rope in place", y);
}

static void check_rope(const Kernels *k, int threads)
{
    static const float divisors[] = {1.0f, 1.5f, 2.25f, 4.0f, 7.5f, 12.0f, 20.0f, 31.5f};
    static const RopeDims cases[] = {
        {1, 1, 1, 2, 2, 10000.0f, .offset = 0},
        {2, 5, 3, 6, 18 + 5, 10000.0f, .offset = 7},
        {2, 33, 2, 160, 320, 500000.0f, .offset = 1},
        {1, 300, 4, 64, 3 * 256, 10000.0f, .offset = 131000},
        {2, 9, 3, 7, 21 + 2, 100.0f, .rotary_dim = 4, .offset = 3},
        {1, 5, 2, 1100, 2200 + 1500, 10000.0f, .rotary_dim = 2, .behind = 1500, .offset = 1},
        {2, 9, 5, 16, 80 + 32 + 1, 100.0f, .behind = 32, .stretch = ROPE_DIVIDED, .divisors = divisors,
         .scale = 1.19f},
        {2, 5, 6, 16, 3 * 48 + 1, 10000.0f, .group = 2, .behind = 16, .offset = 1},
        {2, 5, 4, 12, 2 * (24 + 13) + 3, 10000.0f, .rotary_dim = 4, .group = 2, .behind = 13, .offset = 9},
        {2, 33, 3, 10, 30, 10000.0f, .interleaved = 1},
        {1, 9, 2, 160, 330, 10000.0f, .interleaved = 1, .rotary_dim = 150, .behind = 9, .offset = 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        release();
        check_rope_dims(k, cases[i], threads);
    }
}

static void test_rope(void **state)
{
    (void)state;
    each_half_table(check_rope);
}

/* ---- Cross-entropy ----------------------------------------------------------------------------- */

static float softcap; /* of the logits; 0 = none */

static void check_loss(const Kernels *k, int64_t rows, int64_t c, int threads)
{
    CrossEntropyDims d = {.rows = rows, .classes = c, .ignore_index = -100, .softcap = softcap};
    const float dloss = 1.5f;
    int64_t n = rows * c;
    int32_t labels[129];
    Half x = take_random_half(n, 9.0f);
    float loss[3], *lse = take(rows, NAN), *wide = take(rows, NAN);
    float *workspace = take((int64_t)(k->cross_entropy_workspace(&d, on(threads)) / sizeof(float)), NAN);
    for (int64_t i = 0; i < rows; i++)
        labels[i] = i % 5 == 3 ? -100 : (int32_t)((i * 31 + 7) % c);
    plain()->cross_entropy_forward(&d, half_type, x.half, labels, 0.5f, loss + 2, wide, NULL, on(1));
    k->cross_entropy_forward(&d, half_type, x.half, labels, 0.5f, loss, lse, workspace, on(threads));
    k->cross_entropy_forward(&d, DTYPE_F32, x.wide, labels, 0.5f, loss + 1, wide, workspace, on(threads));
    assert_int_equal(fault(threads), -1);
    assert_true(loss[0] == loss[1] && fabsf(loss[0] - loss[2]) <= 1e-5f * (1 + fabsf(loss[2])));
    assert_same("lse", rows, lse, wide);
    for (int i = 0; i < 3; i++) {
        Half dx = take_output_half(n, betas[i]);
        uint16_t *expected = take_copy_half(dx).half;
        plain()->cross_entropy_backward(&d, half_type, x.half, labels, 0.5f, lse, &dloss, betas[i], expected,
                                        on(1));
        k->cross_entropy_backward(&d, half_type, x.half, labels, 0.5f, lse, &dloss, betas[i], dx.half,
                                  on(threads));
        k->cross_entropy_backward(&d, DTYPE_F32, x.wide, labels, 0.5f, lse, &dloss, betas[i], dx.wide,
                                  on(threads));
        assert_rounded("dlogits", dx);
        assert_half_near("the reference's dlogits", n, dx.half, expected, 1e-6);
    }
    k->cross_entropy_backward(&d, half_type, x.half, labels, 0.5f, lse, &dloss, 0.0f, x.half, on(threads));
    k->cross_entropy_backward(&d, DTYPE_F32, x.wide, labels, 0.5f, lse, &dloss, 0.0f, x.wide, on(threads));
    assert_rounded("dlogits in place", x);
}

static void check_wide_loss(const Kernels *k, int threads)
{
    check_loss(k, 2, 10007, threads);
}

static void test_loss(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        softcap = i ? 5.0f : 0.0f;
        each_half_matrix(check_loss);
        each_half_table(check_wide_loss);
    }
}

/* ---- Embedding --------------------------------------------------------------------------------- */

static void check_embedding(const Kernels *k, int64_t n, int64_t c, int threads)
{
    enum { VOCAB = 13 };
    int32_t ids[129];
    Half table = take_random_half(VOCAB * c, 1.0f), y = take_output_half(n * c, 0.0f);
    Half dy = take_random_half(n * c, 1.0f), d = take_random_half(VOCAB * c, 1.0f);
    float *wide = take_copy(VOCAB * c, d.wide);
    size_t room = k->embedding_workspace(n, VOCAB, half_type, on(threads));
    size_t wide_room = k->embedding_workspace(n, VOCAB, DTYPE_F32, on(threads));
    void *workspace = take((int64_t)((room > wide_room ? room : wide_room) / 4), NAN);
    uint16_t *expected = take_copy_half(d).half;
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)((i * i + i / 3) % VOCAB);
    StoredArray rows = stored(table.wide, VOCAB, c), halves = {table.half, half_type, VOCAB, c};
    k->embedding_forward(half_type, n, ids, &rows, (TablePart){0}, y.half, on(threads));
    k->embedding_forward(DTYPE_F32, n, ids, &rows, (TablePart){0}, y.wide, on(threads));
    assert_rounded("embedding", y);
    k->embedding_forward(half_type, n, ids, &halves, (TablePart){0}, y.half, on(threads));
    assert_rounded("embedding of 16 bit", y);
    plain()->embedding_backward(half_type, n, c, VOCAB, 0, ids, dy.half, half_type, expected, NULL, on(1));
    k->embedding_backward(half_type, n, c, VOCAB, 0, ids, dy.half, half_type, d.half, workspace, on(threads));
    k->embedding_backward(DTYPE_F32, n, c, VOCAB, 0, ids, dy.wide, DTYPE_F32, d.wide, workspace, on(threads));
    assert_rounded("embedding gradient", d);
    if (k == kernels_cuda()) /* which adds in an order of its own */
        assert_half_near("the reference's embedding gradient", VOCAB * c, d.half, expected, 1e-6);
    else
        assert_memory_equal(d.half, expected, (size_t)(VOCAB * c) * 2);
    k->embedding_backward(half_type, n, c, VOCAB, 0, ids, dy.half, DTYPE_F32, wide, workspace, on(threads));
    assert_same("embedding gradient in f32", VOCAB * c, wide, d.wide);
}

/* One id makes most of a text: what its row gets is far more than what one addition to it in 16 bit can see,
 * and the row holds a number already. Every sum is exact in f32. */
static void check_embedding_repeats(const Kernels *k, int threads)
{
    enum { N = 3000, C = 40, VOCAB = 7, BEFORE = 64 };
    static int32_t ids[N];
    float *steps = take(N * C, 0.0f), *before = take(VOCAB * C, BEFORE);
    double *sums = calloc(VOCAB * C, sizeof *sums);
    int differ = 0;
    assert_non_null(sums);
    for (int i = 0; i < N * C; i++)
        steps[i] = (float)(1 + (i / C * 5 + i % C) % 3) / 64;
    for (int i = 0; i < VOCAB * C; i++)
        sums[i] = BEFORE;
    for (int i = 0; i < N; i++)
        ids[i] = i % 11 ? 2 : i % VOCAB == 5 ? 2 : i % VOCAB; /* 5 gets nothing */
    Half dy = take_half(N * C, steps), d = take_half(VOCAB * C, before), each = take_copy_half(d);
    void *workspace = take((int64_t)(k->embedding_workspace(N, VOCAB, half_type, on(threads)) / 4), NAN);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < C; j++) {
            int at = ids[i] * C + j;
            sums[at] += (double)dy.wide[i * C + j];
            each.half[at] = half_rounded(half_value(each.half[at]) + dy.wide[i * C + j]);
        }
    k->embedding_backward(half_type, N, C, VOCAB, 0, ids, dy.half, half_type, d.half, workspace, on(threads));
    for (int i = 0; i < VOCAB * C; i++) {
        d.wide[i] = (float)sums[i];
        assert_true((double)d.wide[i] == sums[i]); /* so that it is rounded once here */
        differ += d.half[i] != each.half[i];
    }
    assert_rounded("embedding gradient of many", d);
    assert_true(differ >= C); /* rounding at every addition would be another result */
    free(sums);
}

static void test_embedding(void **state)
{
    (void)state;
    each_half_matrix(check_embedding);
    each_half_table(check_embedding_repeats);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_elementwise), cmocka_unit_test(test_rows),    cmocka_unit_test(test_reductions),
        cmocka_unit_test(test_activation),  cmocka_unit_test(test_dropout), cmocka_unit_test(test_norm),
        cmocka_unit_test(test_rope),        cmocka_unit_test(test_loss),    cmocka_unit_test(test_embedding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
