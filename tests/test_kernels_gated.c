/* Gated activations, of two arrays and of one with both side by side, rows that a number gates, and soft
 * caps: against the reference in f32, and in 16 bit against themselves in f32. */
#define SUPPORT_CARD
#include "half_support.h"

static const float betas[] = {0.0f, 1.0f, -0.5f};

static const Kernels *plain(void)
{
    return kernels_reference();
}

/* ---- Gated, f32 ------------------------------------------------------------------------------ */

/* Where rows are ld apart, what lies beside them stays. */
static void check_gaps(const char *what, const GatedDims *d, const float *x, const float *before)
{
    for (int64_t row = 0; row + 1 < d->rows; row++)
        if (d->ld)
            assert_same(what, d->ld - d->c, x + row * d->ld + d->c, before + row * d->ld + d->c);
}

/* Elements that rows of gate and up have room for, without what follows the last one. */
static int64_t room_of(const GatedDims *d)
{
    return (d->rows - 1) * gated_ld(d) + d->c;
}

static void check_gradients(const Kernels *k, const GatedDims *d, const float *gate, const float *up,
                            const float *dy, int threads)
{
    int64_t n = room_of(d);
    static const int pairs[][2] = {{0, 0}, {0, 1}, {1, 2}, {2, 0}, {2, 2}};
    for (int i = 0; i < 5; i++) {
        float bg = betas[pairs[i][0]], bu = betas[pairs[i][1]];
        float *dg = take_output(n, bg), *du = take_output(n, bu), *dg2 = take_copy(n, dg);
        float *du2 = take_copy(n, du), *eg = take_copy(n, dg), *eu = take_copy(n, du);
        plain()->gated_backward(d, DTYPE_F32, gate, up, dy, bg, eg, bu, eu, on(1));
        k->gated_backward(d, DTYPE_F32, gate, up, dy, bg, dg, bu, du, on(threads));
        assert_near("dgate", n, dg, eg, 4e-6);
        assert_near("dup", n, du, eu, 4e-6);
        check_gaps("between rows of dgate", d, dg, dg2);
        k->gated_backward(d, DTYPE_F32, gate, up, dy, bg, dg2, bu, NULL, on(threads));
        k->gated_backward(d, DTYPE_F32, gate, up, dy, bg, NULL, bu, du2, on(threads));
        assert_near("dgate alone", n, dg2, eg, 4e-6);
        assert_near("dup alone", n, du2, eu, 4e-6);
    }
}

static void check_in_place(const Kernels *k, const GatedDims *d, const float *gate, const float *up,
                           const float *dy, int threads)
{
    int64_t n = room_of(d), of_y = d->rows * d->c;
    float *eg = take_copy(n, gate), *eu = take_copy(n, up), *y = take(of_y, NAN);
    plain()->gated_backward(d, DTYPE_F32, gate, up, dy, 0.0f, eg, 0.0f, eu, on(1));
    float *g = take_copy(n, gate), *u = take_copy(n, up), *slope = take_copy(of_y, dy);
    k->gated_backward(d, DTYPE_F32, g, u, dy, 0.0f, g, 0.0f, u, on(threads));
    assert_near("dgate over gate", n, g, eg, 4e-6);
    assert_near("dup over up", n, u, eu, 4e-6);
    if (d->ld)
        return;
    k->gated_backward(d, DTYPE_F32, gate, up, slope, 0.0f, slope, 0.0f, u, on(threads));
    assert_near("dgate over dy", n, slope, eg, 4e-6);
    assert_near("dup beside it", n, u, eu, 4e-6);
    k->gated_forward(d, DTYPE_F32, gate, up, y, on(threads));
    memcpy(g, gate, (size_t)n * sizeof *g), memcpy(u, up, (size_t)n * sizeof *u);
    k->gated_forward(d, DTYPE_F32, g, up, g, on(threads));
    k->gated_forward(d, DTYPE_F32, gate, u, u, on(threads));
    assert_same("over gate", n, g, y);
    assert_same("over up", n, u, y);
}

/* Side by side it is what it is apart, to the last bit. */
static void check_packed(const Kernels *k, const GatedDims *d, const float *gate, const float *up,
                         const float *dy, int threads)
{
    int64_t c = d->c, n = d->rows * c;
    GatedDims packed = {.act = d->act, .rows = d->rows, .c = c, .ld = 2 * c};
    float *both = take(2 * n, NAN), *y = take(n, NAN), *expected = take(n, NAN), *slopes = take(2 * n, NAN);
    float *dg = take(n, NAN), *du = take(n, NAN);
    for (int64_t row = 0; row < d->rows; row++) {
        memcpy(both + 2 * row * c, gate + row * c, (size_t)c * sizeof *both);
        memcpy(both + (2 * row + 1) * c, up + row * c, (size_t)c * sizeof *both);
    }
    k->gated_forward(d, DTYPE_F32, gate, up, expected, on(threads));
    k->gated_forward(&packed, DTYPE_F32, both, both + c, y, on(threads));
    assert_same("packed", n, y, expected);
    k->gated_backward(d, DTYPE_F32, gate, up, dy, 0.0f, dg, 0.0f, du, on(threads));
    k->gated_backward(&packed, DTYPE_F32, both, both + c, dy, 0.0f, slopes, 0.0f, slopes + c, on(threads));
    k->gated_backward(&packed, DTYPE_F32, both, both + c, dy, 0.0f, both, 0.0f, both + c, on(threads));
    assert_same("packed, in place", 2 * n, both, slopes);
    for (int64_t row = 0; row < d->rows; row++) {
        assert_same("packed dgate", c, slopes + 2 * row * c, dg + row * c);
        assert_same("packed dup", c, slopes + (2 * row + 1) * c, du + row * c);
    }
}

static void check_act(const Kernels *k, Activation act, int64_t rows, int64_t c, int threads)
{
    for (int far = 0; far < 2; far++) {
        GatedDims d = {.act = act, .rows = rows, .c = c, .ld = far ? c + 5 : 0};
        int64_t n = room_of(&d), of_y = rows * c;
        float *gate = take_random(n, 6.0f), *up = take_random(n, 2.0f), *dy = take_random(of_y, 1.0f);
        float *y = take(of_y, NAN), *expected = take(of_y, NAN);
        if (!far)
            check_packed(k, &d, gate, up, dy, threads);
        if (c > 3)
            gate[2] = NAN, up[3] = NAN, gate[1] = -0.0f, gate[0] = act == ACT_NONE ? 1.0f : -1e4f;
        k->gated_forward(&d, DTYPE_F32, gate, up, y, on(threads));
        plain()->gated_forward(&d, DTYPE_F32, gate, up, expected, on(1));
        assert_near("gated", of_y, y, expected, 2e-6);
        check_gradients(k, &d, gate, up, dy, threads);
        check_in_place(k, &d, gate, up, dy, threads);
        release();
    }
}

/* Sizes take the activations by turns. */
enum { ACTS = ACT_TANH + 1 };

static void check_gated(const Kernels *k, int64_t rows, int64_t c, int threads)
{
    for (int i = 0; i < ACTS; i += rows * c < 10000 ? 1 : 3)
        check_act(k, (Activation)((rows + c + i) % ACTS), rows, c, threads);
}

static void check_long(const Kernels *k, int64_t n, int threads)
{
    check_act(k, (Activation)(n % ACTS), 1, n, threads);
}

static void check_wide(const Kernels *k, int threads)
{
    check_act(k, ACT_SILU, 3, 4099, threads);
    check_act(k, ACT_GELU_TANH, 2, 8192, threads);
}

static void test_gated(void **state)
{
    (void)state;
    each_matrix(check_gated);
    each_length(check_long);
    each_table(check_wide);
}

/* ---- Gated, 16 bit --------------------------------------------------------------------------- */

static void check_half_gradients(const Kernels *k, const GatedDims *d, Half x, Half dy, int threads)
{
    int64_t c = d->c, n = x.n;
    for (int i = 0; i < 2; i++) {
        float b = betas[i];
        Half dx = take_output_half(n, b), one = take_copy_half(dx);
        uint16_t *expected = take_copy_half(dx).half;
        k->gated_backward(d, half_type, x.half, x.half + c, dy.half, b, dx.half, b, dx.half + c, on(threads));
        k->gated_backward(d, DTYPE_F32, x.wide, x.wide + c, dy.wide, b, dx.wide, b, dx.wide + c, on(threads));
        assert_rounded("gradients of both", dx);
        plain()->gated_backward(d, half_type, x.half, x.half + c, dy.half, b, expected, b, expected + c,
                                on(1));
        assert_half_near("the reference's", n, dx.half, expected, 1e-5);
        k->gated_backward(d, half_type, x.half, x.half + c, dy.half, b, one.half, b, NULL, on(threads));
        k->gated_backward(d, half_type, x.half, x.half + c, dy.half, b, NULL, b, one.half + c, on(threads));
        assert_memory_equal(one.half, dx.half, (size_t)n * 2);
    }
    k->gated_backward(d, half_type, x.half, x.half + c, dy.half, 0, x.half, 0, x.half + c, on(threads));
    k->gated_backward(d, DTYPE_F32, x.wide, x.wide + c, dy.wide, 0, x.wide, 0, x.wide + c, on(threads));
    assert_rounded("gradients in place", x);
}

/* Gate and up of rows are side by side, or one behind the other. */
static void check_half(const Kernels *k, int64_t rows, int64_t c, int threads)
{
    for (int i = 0; i < ACTS; i += rows * c < 10000 ? 1 : 3)
        for (int packed = 0; packed < 2; packed++) {
            Activation act = (Activation)((rows + c + i) % ACTS);
            GatedDims d = {.act = act, .rows = packed ? rows : 1, .c = packed ? c : rows * c};
            d.ld = packed ? 2 * c : 0;
            Half x = take_random_half(2 * rows * c, 6.0f), dy = take_random_half(rows * c, 1.0f);
            Half y = take_output_half(rows * c, 0.0f);
            uint16_t *expected = take_output_half(rows * c, 0.0f).half;
            k->gated_forward(&d, half_type, x.half, x.half + d.c, y.half, on(threads));
            k->gated_forward(&d, DTYPE_F32, x.wide, x.wide + d.c, y.wide, on(threads));
            assert_rounded("gated", y);
            plain()->gated_forward(&d, half_type, x.half, x.half + d.c, expected, on(1));
            assert_half_near("the reference's gated", rows * c, y.half, expected, 1e-5);
            check_half_gradients(k, &d, x, dy, threads);
            release();
        }
}

static void test_half(void **state)
{
    (void)state;
    each_half_matrix(check_half);
}

/* ---- Rows that a number gates ---------------------------------------------------------------- */

typedef struct GateRows {
    int64_t rows, c;
    int threads;
} GateRows;

static void check_gate_rows_gradients(const Kernels *k, GateRows t, const float *x, const float *gate,
                                      const float *dy)
{
    int64_t n = t.rows * t.c;
    for (int i = 0; i < 3; i++) {
        float b = betas[i], *dx = take_output(n, b), *dg = take_output(t.rows, b);
        float *ex = take_copy(n, dx), *eg = take_copy(t.rows, dg), *alone = take_copy(n, dx),
              *own = take_copy(t.rows, dg);
        k->gate_rows_backward(DTYPE_F32, t.rows, t.c, x, gate, dy, b, dx, b, dg, on(t.threads));
        plain()->gate_rows_backward(DTYPE_F32, t.rows, t.c, x, gate, dy, b, ex, b, eg, on(1));
        assert_near("gate_rows dx", n, dx, ex, 2e-6);
        assert_near("gate_rows dgate", t.rows, dg, eg, 1e-6 * sqrt((double)t.c) + 2e-6);
        k->gate_rows_backward(DTYPE_F32, t.rows, t.c, NULL, gate, dy, b, alone, b, NULL, on(t.threads));
        k->gate_rows_backward(DTYPE_F32, t.rows, t.c, x, gate, dy, b, NULL, b, own, on(t.threads));
        assert_near("gate_rows dx alone", n, alone, dx, 0);
        assert_near("gate_rows dgate alone", t.rows, own, dg, 0);
    }
    float *dx = take(n, NAN), *dg = take(t.rows, NAN), *in_x = take_copy(n, x), *in_dy = take_copy(n, dy),
          *in_gate = take_copy(t.rows, gate);
    k->gate_rows_backward(DTYPE_F32, t.rows, t.c, x, gate, dy, 0, dx, 0, dg, on(t.threads));
    k->gate_rows_backward(DTYPE_F32, t.rows, t.c, in_x, in_gate, dy, 0, in_x, 0, in_gate, on(t.threads));
    assert_near("gate_rows dx in x", n, in_x, dx, 0);
    assert_near("gate_rows dgate in gate", t.rows, in_gate, dg, 0);
    k->gate_rows_backward(DTYPE_F32, t.rows, t.c, x, gate, in_dy, 0, in_dy, 0, dg, on(t.threads));
    assert_near("gate_rows dx in dy", n, in_dy, dx, 0);
    assert_near("gate_rows dgate of it", t.rows, dg, in_gate, 0);
}

static void check_gate_rows(const Kernels *k, int64_t rows, int64_t c, int threads)
{
    static const float special[] = {0.0f, -0.0f, 100.0f, -100.0f, 30.0f, -30.0f};
    int64_t n = rows * c;
    float *x = take_random(n, 3), *gate = take_random(rows, 6), *dy = take_random(n, 1);
    for (int64_t i = 0; i < 6 && i + 3 < rows; i++)
        gate[i + 3] = special[i];
    float *y = take(n, NAN), *expected = take(n, NAN), *same = take_copy(n, x);
    k->gate_rows_forward(DTYPE_F32, rows, c, x, gate, y, on(threads));
    plain()->gate_rows_forward(DTYPE_F32, rows, c, x, gate, expected, on(1));
    assert_near("gate_rows", n, y, expected, 1e-6);
    k->gate_rows_forward(DTYPE_F32, rows, c, same, gate, same, on(threads));
    assert_near("gate_rows in place", n, same, y, 0);
    check_gate_rows_gradients(k, (GateRows){rows, c, threads}, x, gate, dy);
}

static void check_gate_rows_half(const Kernels *k, int64_t rows, int64_t c, int threads)
{
    int64_t n = rows * c;
    Half x = take_random_half(n, 3), gate = take_random_half(rows, 6), dy = take_random_half(n, 1);
    Half y = take_output_half(n, 0);
    uint16_t *expected = take_output_half(n, 0).half;
    k->gate_rows_forward(half_type, rows, c, x.half, gate.half, y.half, on(threads));
    k->gate_rows_forward(DTYPE_F32, rows, c, x.wide, gate.wide, y.wide, on(threads));
    assert_rounded("gate_rows", y);
    plain()->gate_rows_forward(half_type, rows, c, x.half, gate.half, expected, on(1));
    assert_half_near("the reference's gate_rows", n, y.half, expected, 1e-5);
    for (int i = 0; i < 2; i++) {
        float b = betas[i];
        Half dx = take_output_half(n, b), dg = take_output_half(rows, b);
        k->gate_rows_backward(half_type, rows, c, x.half, gate.half, dy.half, b, dx.half, b, dg.half,
                              on(threads));
        k->gate_rows_backward(DTYPE_F32, rows, c, x.wide, gate.wide, dy.wide, b, dx.wide, b, dg.wide,
                              on(threads));
        assert_rounded("gate_rows dx", dx);
        assert_rounded("gate_rows dgate", dg);
    }
}

/* Rows of several blocks. */
static void check_wide_rows(const Kernels *k, int threads)
{
    static const int64_t columns[] = {1024, 1025, 2048, 4099};
    for (int i = 0; i < 4; i++) {
        check_gate_rows(k, 5, columns[i], threads);
        release();
    }
}

static void check_wide_half_rows(const Kernels *k, int threads)
{
    check_gate_rows_half(k, 5, 2048, threads);
    release();
    check_gate_rows_half(k, 3, 1025, threads);
}

static void test_gate_rows(void **state)
{
    (void)state;
    each_matrix(check_gate_rows);
    each_table(check_wide_rows);
    each_half_matrix(check_gate_rows_half);
    each_half_table(check_wide_half_rows);
}

/* ---- Soft caps ------------------------------------------------------------------------------- */

static const float caps[] = {30.0f, 0.75f, 1e-3f};

static void check_softcap(const Kernels *k, int64_t n, int threads)
{
    static const float special[] = {0.0f, -0.0f, 1e30f, -1e30f, INFINITY, -INFINITY, NAN, 1e-30f};
    float *x = take_random(n, 8.0f), *dy = take_random(n, 1.0f), *y = take(n, NAN), *expected = take(n, NAN);
    for (int64_t i = 0; i < 8 && i + 3 < n; i++)
        x[i + 3] = special[i];
    for (int c = 0; c < 3; c++) {
        float cap = caps[c];
        k->softcap_forward(DTYPE_F32, n, cap, x, y, on(threads));
        plain()->softcap_forward(DTYPE_F32, n, cap, x, expected, on(1));
        for (int64_t i = 0; i < n; i++) /* relative: small caps too, and small values of large ones */
            if (!isnan(x[i]) && !(fabsf(y[i] - expected[i]) <= 1e-6f * fabsf(expected[i])))
                fail_msg("softcap(%g, %a) = %a", (double)cap, (double)x[i], (double)y[i]);
            else
                assert_true(isnan(x[i]) == isnan(y[i]) && signbit(x[i]) == signbit(y[i]));
        float *z = take_copy(n, x), *d = take_copy(n, dy);
        k->softcap_forward(DTYPE_F32, n, cap, z, z, on(threads));
        assert_near("softcap in place", n, z, y, 0);
        for (int i = 0; i < 3; i++) {
            float *dx = take_output(n, betas[i]), *dx_expected = take_copy(n, dx);
            k->softcap_backward(DTYPE_F32, n, cap, x, dy, betas[i], dx, on(threads));
            plain()->softcap_backward(DTYPE_F32, n, cap, x, dy, betas[i], dx_expected, on(1));
            assert_near("softcap dx", n, dx, dx_expected, 2e-6);
        }
        k->softcap_backward(DTYPE_F32, n, cap, x, dy, 0.0f, y, on(threads));
        k->softcap_backward(DTYPE_F32, n, cap, x, d, 0.0f, d, on(threads));
        assert_near("softcap dx in place", n, d, y, 0);
    }
}

static void check_softcap_half(const Kernels *k, int64_t n, int threads)
{
    Half x = take_random_half(n, 8.0f), dy = take_random_half(n, 1.0f);
    for (int c = 0; c < 2; c++) {
        Half y = take_output_half(n, 0.0f), z = take_copy_half(x), d = take_copy_half(dy);
        uint16_t *expected = take_output_half(n, 0.0f).half;
        k->softcap_forward(half_type, n, caps[c], x.half, y.half, on(threads));
        k->softcap_forward(DTYPE_F32, n, caps[c], x.wide, y.wide, on(threads));
        assert_rounded("softcap", y);
        plain()->softcap_forward(half_type, n, caps[c], x.half, expected, on(1));
        assert_half_near("the reference's softcap", n, y.half, expected, 0);
        k->softcap_forward(half_type, n, caps[c], z.half, z.half, on(threads));
        assert_memory_equal(z.half, y.half, (size_t)n * 2);
        for (int i = 0; i < 2; i++) {
            Half dx = take_output_half(n, betas[i]);
            k->softcap_backward(half_type, n, caps[c], x.half, dy.half, betas[i], dx.half, on(threads));
            k->softcap_backward(DTYPE_F32, n, caps[c], x.wide, dy.wide, betas[i], dx.wide, on(threads));
            assert_rounded("softcap dx", dx);
        }
        k->softcap_backward(half_type, n, caps[c], x.half, d.half, 0.0f, d.half, on(threads));
        k->softcap_backward(DTYPE_F32, n, caps[c], x.wide, d.wide, 0.0f, d.wide, on(threads));
        assert_rounded("softcap dx in place", d);
    }
}

static void test_softcap(void **state)
{
    (void)state;
    each_length(check_softcap);
    each_half_length(check_softcap_half);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gated), cmocka_unit_test(test_half),
                                       cmocka_unit_test(test_gate_rows), cmocka_unit_test(test_softcap)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
