/* The reference's backward kernels against central differences of its forward kernels; the tuned tables are
 * compared with the reference elsewhere. The scalar differentiated is sum of w_i y_i, in double, w being the
 * incoming gradient. */
#include "kernels_support.h"

enum { ROWS = 4, C = 9, N = ROWS * C };

/* One forward: parts are its inputs, out its output. */
typedef struct Probe {
    float *parts[3];
    float out[N];
    Activation act;
    RopeDims rope;
    int32_t labels[ROWS];
    float softcap;
    void (*forward)(struct Probe *p);
} Probe;

static double probe_value(Probe *p, const float *w, int n)
{
    double total = 0.0;
    p->forward(p);
    for (int i = 0; i < n; i++)
        total += (double)w[i] * (double)p->out[i];
    return total;
}

static void check_gradient(const char *what, Probe *p, int part, int n, const float *w, int n_out,
                           const float *got)
{
    const float h = 1.0f / 128;
    for (int i = 0; i < n; i++) {
        float *x = &p->parts[part][i], old = *x;
        *x = old + h;
        double above = probe_value(p, w, n_out);
        *x = old - h;
        double below = probe_value(p, w, n_out);
        *x = old;
        double slope = (above - below) / (2.0 * (double)h);
        if (!(fabs(slope - (double)got[i]) <= 1e-3 * (1.0 + fabs(slope))))
            fail_msg("%s: gradient %d is %g, differences say %g", what, i, (double)got[i], slope);
    }
}

static const Kernels *plain(void)
{
    return kernels_reference();
}

static void forward_activation(Probe *p)
{
    plain()->activation_forward(DTYPE_F32, p->act, N, p->parts[0], p->out, on(1));
}

static void test_activations(void **state)
{
    (void)state;
    forget();
    float *x = take_random(N, 3.0f), *w = take_random(N, 1.0f), *dx = take(N, NAN);
    for (int i = 0; i < N; i++)
        x[i] += x[i] < 0.0f ? -0.05f : 0.05f; /* ReLU has no slope at 0 */
    for (int act = ACT_NONE; act <= ACT_TANH; act++) {
        Probe p = {.parts = {x}, .act = (Activation)act, .forward = forward_activation};
        plain()->activation_backward(DTYPE_F32, (Activation)act, N, x, w, 0.0f, dx, on(1));
        check_gradient("activation", &p, 0, N, w, N, dx);
    }
    release();
}

/* ReLU's backward may be given the output. */
static void check_relu_output(const Kernels *k, int64_t n, int threads)
{
    float *x = take_random(n, 1.0f), *dy = take_random(n, 1.0f), *y = take(n, NAN), *a = take(n, NAN),
          *b = take(n, NAN);
    k->activation_forward(DTYPE_F32, ACT_RELU, n, x, y, on(threads));
    k->activation_backward(DTYPE_F32, ACT_RELU, n, x, dy, 0.0f, a, on(threads));
    k->activation_backward(DTYPE_F32, ACT_RELU, n, y, dy, 0.0f, b, on(threads));
    assert_near("relu slope from its output", n, a, b, 0.0);
}

static void test_relu_output(void **state)
{
    (void)state;
    each_length(check_relu_output);
}

static void forward_gated(Probe *p)
{
    GatedDims d = {.act = p->act, .rows = ROWS, .c = C};
    plain()->gated_forward(&d, DTYPE_F32, p->parts[0], p->parts[1], p->out, on(1));
}

static void test_gated(void **state)
{
    (void)state;
    forget();
    float *w = take_random(N, 1.0f), *dgate = take(N, NAN), *dup = take(N, NAN), *gate = take_random(N, 3.0f);
    for (int i = 0; i < N; i++)
        gate[i] += gate[i] < 0.0f ? -0.05f : 0.05f; /* ReLU has no slope at 0 */
    for (int act = ACT_NONE; act <= ACT_TANH; act++) {
        Probe p = {.parts = {gate, take_random(N, 2.0f)}, .act = (Activation)act, .forward = forward_gated};
        GatedDims d = {.act = (Activation)act, .rows = ROWS, .c = C};
        plain()->gated_backward(&d, DTYPE_F32, gate, p.parts[1], w, 0.0f, dgate, 0.0f, dup, on(1));
        check_gradient("gate", &p, 0, N, w, N, dgate);
        check_gradient("up", &p, 1, N, w, N, dup);
    }
    release();
}

static void forward_softcap(Probe *p)
{
    plain()->softcap_forward(DTYPE_F32, N, p->softcap, p->parts[0], p->out, on(1));
}

static void test_softcap(void **state)
{
    (void)state;
    forget();
    float *w = take_random(N, 1.0f), *dx = take(N, NAN);
    Probe p = {.parts = {take_random(N, 3.0f)}, .softcap = 2.0f, .forward = forward_softcap};
    plain()->softcap_backward(DTYPE_F32, N, p.softcap, p.parts[0], w, 0.0f, dx, on(1));
    check_gradient("softcap", &p, 0, N, w, N, dx);
    release();
}

static void forward_layer_norm(Probe *p)
{
    float mean[ROWS], rstd[ROWS];
    plain()->layer_norm_forward(DTYPE_F32, ROWS, C, 1e-5f, p->parts[0], p->parts[1], p->parts[2], p->out,
                                mean, rstd, on(1));
}

static void forward_rms_norm(Probe *p)
{
    float rstd[ROWS];
    plain()->rms_norm_forward(DTYPE_F32, ROWS, C, 1e-5f, 0, p->parts[0], p->parts[1], p->out, rstd, on(1));
}

static void forward_rms_norm_plus(Probe *p)
{
    float rstd[ROWS];
    plain()->rms_norm_forward(DTYPE_F32, ROWS, C, 1e-5f, 1, p->parts[0], p->parts[1], p->out, rstd, on(1));
}

static void test_norms(void **state)
{
    (void)state;
    forget();
    float *w = take_random(N, 1.0f), *dx = take(N, NAN), *dweight = take(C, NAN), *dbias = take(C, NAN);
    float mean[ROWS], rstd[ROWS], y[N];
    Probe p = {.parts = {take_random(N, 3.0f), take_random(C, 1.0f), take_random(C, 1.0f)}};
    p.forward = forward_layer_norm;
    plain()->layer_norm_forward(DTYPE_F32, ROWS, C, 1e-5f, p.parts[0], p.parts[1], p.parts[2], y, mean, rstd,
                                on(1));
    plain()->layer_norm_backward(DTYPE_F32, ROWS, C, p.parts[0], p.parts[1], mean, rstd, w, 0.0f, dx,
                                 DTYPE_F32, 0.0f, dweight, DTYPE_F32, 0.0f, dbias, NULL, on(1));
    check_gradient("layer norm x", &p, 0, N, w, N, dx);
    check_gradient("layer norm weight", &p, 1, C, w, N, dweight);
    check_gradient("layer norm bias", &p, 2, C, w, N, dbias);
    p.forward = forward_rms_norm;
    plain()->rms_norm_forward(DTYPE_F32, ROWS, C, 1e-5f, 0, p.parts[0], p.parts[1], y, rstd, on(1));
    plain()->rms_norm_backward(DTYPE_F32, ROWS, C, 0, p.parts[0], p.parts[1], rstd, w, 0.0f, dx, DTYPE_F32,
                               0.0f, dweight, NULL, on(1));
    check_gradient("rms norm x", &p, 0, N, w, N, dx);
    check_gradient("rms norm weight", &p, 1, C, w, N, dweight);
    p.forward = forward_rms_norm_plus;
    plain()->rms_norm_forward(DTYPE_F32, ROWS, C, 1e-5f, 1, p.parts[0], p.parts[1], y, rstd, on(1));
    plain()->rms_norm_backward(DTYPE_F32, ROWS, C, 1, p.parts[0], p.parts[1], rstd, w, 0.0f, dx, DTYPE_F32,
                               0.0f, dweight, NULL, on(1));
    check_gradient("rms norm plus x", &p, 0, N, w, N, dx);
    check_gradient("rms norm plus weight", &p, 1, C, w, N, dweight);
    release();
}

static void forward_cross_entropy(Probe *p)
{
    float lse[ROWS];
    CrossEntropyDims d = {.rows = ROWS, .classes = C, .ignore_index = -100, .softcap = p->softcap};
    plain()->cross_entropy_forward(&d, DTYPE_F32, p->parts[0], p->labels, 0.25f, p->out, lse, NULL, on(1));
}

static void test_cross_entropy(void **state)
{
    (void)state;
    forget();
    float lse[ROWS], loss, w = 2.0f, *dx = take(N, NAN);
    for (int i = 0; i < 2; i++) {
        Probe p = {.parts = {take_random(N, 2.0f)},
                   .labels = {3, 0, -100, C - 1},
                   .softcap = i ? 1.5f : 0.0f,
                   .forward = forward_cross_entropy};
        CrossEntropyDims d = {.rows = ROWS, .classes = C, .ignore_index = -100, .softcap = p.softcap};
        plain()->cross_entropy_forward(&d, DTYPE_F32, p.parts[0], p.labels, 0.25f, &loss, lse, NULL, on(1));
        plain()->cross_entropy_backward(&d, DTYPE_F32, p.parts[0], p.labels, 0.25f, lse, &w, 0.0f, dx, on(1));
        check_gradient("cross-entropy", &p, 0, N, &w, 1, dx);
    }
    release();
}

static void forward_rope(Probe *p)
{
    plain()->rope(&p->rope, DTYPE_F32, p->parts[0], 0.0f, p->out, on(1));
}

/* The gradient of a rotation is the rotation back. And against complex numbers: pair i at position t is
 * multiplied by exp(i t / theta^(2i/D)); positions begin at 3. */
static void test_rope(void **state)
{
    (void)state;
    forget();
    Probe p = {
        .parts = {take_random(32, 1.0f)},
        .rope = {.batch = 2, .seq = 4, .heads = 1, .head_dim = 4, .ld = 4, .theta = 100.0f, .offset = 3},
        .forward = forward_rope};
    float *w = take_random(32, 1.0f), *dx = take(32, NAN);
    RopeDims back = p.rope;
    back.inverse = 1;
    plain()->rope(&back, DTYPE_F32, w, 0.0f, dx, on(1));
    check_gradient("rope", &p, 0, 32, w, 32, dx);
    forward_rope(&p);
    for (int t = 0; t < 8; t++) {
        for (int i = 0; i < 2; i++) {
            double angle = (t % 4 + 3) / pow(100.0, 2 * i / 4.0), c = cos(angle), s = sin(angle);
            double a = (double)p.parts[0][4 * t + i], b = (double)p.parts[0][4 * t + i + 2];
            assert_true(fabs((double)p.out[4 * t + i] - (a * c - b * s)) < 1e-6);
            assert_true(fabs((double)p.out[4 * t + i + 2] - (a * s + b * c)) < 1e-6);
        }
    }
    release();
}

/* The embedding's gradient is a sum over the rows that took the same entry. */
static void test_embedding(void **state)
{
    (void)state;
    static const int32_t ids[] = {2, 0, 2};
    static const float dy[] = {1, 2, 3, 4, 5, 6};
    static const float expected[] = {3, 4, 0, 0, 6, 8};
    float dtable[6] = {0};
    StoredArray table = stored(expected, 3, 2);
    plain()->embedding_forward(DTYPE_F32, 3, ids, &table, (TablePart){0}, dtable, on(1));
    assert_int_equal(fault(1), -1);
    assert_true(dtable[0] == 6 && dtable[1] == 8 && dtable[2] == 3 && dtable[5] == 8);
    memset(dtable, 0, sizeof dtable);
    plain()->embedding_backward(DTYPE_F32, 3, 2, 3, 0, ids, dy, DTYPE_F32, dtable, NULL, on(1));
    assert_same("embedding gradient", 6, dtable, expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_activations), cmocka_unit_test(test_relu_output),
        cmocka_unit_test(test_gated),       cmocka_unit_test(test_softcap),
        cmocka_unit_test(test_norms),       cmocka_unit_test(test_cross_entropy),
        cmocka_unit_test(test_rope),        cmocka_unit_test(test_embedding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
