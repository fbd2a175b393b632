/* Kernels that are not products: every table that runs here against the reference, over awkward shapes, with
 * outputs full of NaN where beta is 0, the aliasing that kernels.h promises, and twice for equal bits. */
#define SUPPORT_CARD
#include "kernels_support.h"

static const float betas[] = {0.0f, 1.0f, -0.5f};
static const Kernels *plain(void)
{
    return kernels_reference();
}

/* ---- element-wise helpers -------------------------------------------------------------------- */

static void check_elementwise(const Kernels *k, int64_t n, int threads)
{
    float *a = take_random(n, 2.0f), *b = take_random(n, 2.0f), *y = take(n, NAN), *expected = take(n, NAN);
    k->fill(DTYPE_F32, n, 0.75f, y, on(threads));
    plain()->fill(DTYPE_F32, n, 0.75f, expected, on(1));
    assert_same("fill", n, y, expected);
    k->copy(DTYPE_F32, DTYPE_F32, n, a, y, on(threads));
    assert_same("copy", n, y, a);
    k->copy(DTYPE_F32, DTYPE_F32, n, y, y, on(threads));
    assert_same("copy onto itself", n, y, a);
    k->add(DTYPE_F32, n, a, b, y, on(threads));
    plain()->add(DTYPE_F32, n, a, b, expected, on(1));
    assert_same("add", n, y, expected);
    k->copy(DTYPE_F32, DTYPE_F32, n, a, y, on(threads));
    k->add(DTYPE_F32, n, y, b, y, on(threads));
    assert_same("add in place", n, y, expected);
    for (int i = 0; i < 3; i++) {
        float *z = take_output(n, betas[i]), *z_expected = take_copy(n, z), *in_place = take_copy(n, a);
        k->scale(DTYPE_F32, n, 0.3f, a, betas[i], z, on(threads));
        plain()->scale(DTYPE_F32, n, 0.3f, a, betas[i], z_expected, on(1));
        assert_near("scale", n, z, z_expected, 1e-6);
        if (betas[i] == 0.0f) {
            float *over = take_copy(n, a);
            k->scale(DTYPE_F32, n, 0.3f, over, 0, over, on(threads));
            assert_same("scale in place", n, over, z);
        }
        k->multiply(DTYPE_F32, n, a, b, betas[i], z, on(threads));
        plain()->multiply(DTYPE_F32, n, a, b, betas[i], z_expected, on(1));
        assert_near("multiply", n, z, z_expected, 1e-6);
        k->multiply(DTYPE_F32, n, in_place, b, betas[i], in_place, on(threads));
        for (int64_t j = 0; j < n; j++)
            z_expected[j] = (float)((double)a[j] * (double)b[j] + (double)betas[i] * (double)a[j]);
        assert_near("multiply in place", n, in_place, z_expected, 1e-6);
    }
}

static void test_elementwise(void **state)
{
    (void)state;
    each_length(check_elementwise);
}

static void check_rows(const Kernels *k, int64_t rows, int64_t c, int threads)
{
    int64_t n = rows * c;
    float *a = take_random(n, 1.0f), *b = take_random(c, 1.0f), *y = take(n, NAN), *expected = take(n, NAN);
    float *workspace = take((int64_t)(k->column_sum_workspace(rows, c, on(threads)) / sizeof(float)), NAN);
    k->add_row(DTYPE_F32, rows, c, a, b, y, on(threads));
    plain()->add_row(DTYPE_F32, rows, c, a, b, expected, on(1));
    assert_same("add_row", n, y, expected);
    k->copy(DTYPE_F32, DTYPE_F32, n, a, y, on(threads));
    k->add_row(DTYPE_F32, rows, c, y, b, y, on(threads));
    assert_same("add_row in place", n, y, expected);
    for (int i = 0; i < 3; i++) {
        float *total = take_output(c, betas[i]), *total_expected = take_copy(c, total),
              *again = take_copy(c, total);
        k->column_sum(DTYPE_F32, rows, c, a, DTYPE_F32, betas[i], total, workspace, on(threads));
        k->column_sum(DTYPE_F32, rows, c, a, DTYPE_F32, betas[i], again, workspace, on(threads));
        plain()->column_sum(DTYPE_F32, rows, c, a, DTYPE_F32, betas[i], total_expected, NULL, on(1));
        assert_near("column_sum", c, total, total_expected, 1e-5);
        assert_same("column_sum", c, total, again);
    }
}

static void test_rows(void **state)
{
    (void)state;
    each_matrix(check_rows);
}

static float sum_of(const Kernels *k, int64_t n, const float *x, double factor, int threads)
{
    float total = NAN;
    k->sum(DTYPE_F32, n, x, factor, &total, on(threads));
    return total;
}

static double squares_of(const Kernels *k, int64_t n, const float *x, int threads)
{
    double total = NAN;
    k->sum_squares(DTYPE_F32, n, x, &total, on(threads));
    return total;
}

static int64_t nonfinite_in(const Kernels *k, int64_t n, const float *x, int threads)
{
    int64_t index = -7;
    k->find_nonfinite(DTYPE_F32, n, x, &index, on(threads));
    return index;
}

static void check_reductions(const Kernels *k, int64_t n, int threads)
{
    float *x = take_random(n, 3.0f), *y = take(n, NAN), value = 1.5f;
    double size = 3.0 * (double)n;
    assert_true(fabs((double)sum_of(k, n, x, 0.5, threads) - (double)sum_of(plain(), n, x, 0.5, 1)) <=
                1e-7 * size);
    assert_true(fabs(squares_of(k, n, x, threads) - squares_of(plain(), n, x, 1)) <= 1e-11 * (double)n);
    assert_true(sum_of(k, n, x, 1, threads) == sum_of(k, n, x, 1, 1));
    assert_true(sum_of(k, n, x, -2, threads) == -2 * sum_of(k, n, x, 1, 1));
    assert_true(squares_of(k, n, x, threads) == squares_of(k, n, x, 1));
    assert_true(sum_of(k, 0, x, 1, threads) == 0 && nonfinite_in(k, 0, x, threads) == -1);
    assert_int_equal(nonfinite_in(k, n, x, threads), -1);
    k->broadcast(DTYPE_F32, n, 3, &value, y, on(threads));
    for (int64_t i = 0; i < n; i++)
        assert_true(y[i] == 4.5f);
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        int64_t at[] = {n - 1, n / 2, n / 3, 0}; /* ever earlier ones, each the first */
        for (int j = 0; j < 4; j++) {
            x[at[j]] = bad[(i + j) % 3];
            assert_int_equal(nonfinite_in(k, n, x, threads), at[j]);
        }
        for (int j = 0; j < 4; j++)
            x[at[j]] = 1.0f;
    }
    x[n / 2] = NAN;
    assert_true(isnan(sum_of(k, n, x, 1, threads)) && isnan(squares_of(k, n, x, threads)));
}

static void test_reductions(void **state)
{
    (void)state;
    each_length(check_reductions);
}

/* ---- activations ----------------------------------------------------------------------------- */

static const float special[] = {0.0f, -0.0f, 30.0f, -30.0f, 1e4f, -1e4f, 1e-30f, -1e-30f, NAN};
enum { SPECIALS = sizeof special / sizeof *special };

static void check_activation(const Kernels *k, int64_t n, int threads)
{
    float *x = take_random(n, 8.0f), *dy = take_random(n, 1.0f), *y = take(n, NAN), *expected = take(n, NAN);
    for (int64_t i = 0; i < SPECIALS && i + 3 < n; i++)
        x[i + 3] = special[i];
    for (int act = ACT_NONE; act <= ACT_TANH; act++) {
        k->activation_forward(DTYPE_F32, (Activation)act, n, x, y, on(threads));
        plain()->activation_forward(DTYPE_F32, (Activation)act, n, x, expected, on(1));
        assert_near("activation", n, y, expected, 1e-6);
        k->copy(DTYPE_F32, DTYPE_F32, n, x, y, on(threads));
        k->activation_forward(DTYPE_F32, (Activation)act, n, y, y, on(threads));
        assert_near("activation in place", n, y, expected, 1e-6);
        for (int i = 0; i < 3; i++) {
            float *dx = take_output(n, betas[i]), *dx_expected = take_copy(n, dx);
            k->activation_backward(DTYPE_F32, (Activation)act, n, x, dy, betas[i], dx, on(threads));
            plain()->activation_backward(DTYPE_F32, (Activation)act, n, x, dy, betas[i], dx_expected, on(1));
            assert_near("activation dx", n, dx, dx_expected, 4e-6);
        }
        float *d = take_copy(n, dy);
        k->activation_backward(DTYPE_F32, (Activation)act, n, x, d, 0.0f, d, on(threads));
        plain()->activation_backward(DTYPE_F32, (Activation)act, n, x, dy, 0.0f, expected, on(1));
        assert_near("activation dx in place", n, d, expected, 4e-6);
    }
}

static void test_activation(void **state)
{
    (void)state;
    each_length(check_activation);
}

/* ---- norms ----------------------------------------------------------------------------------- */

typedef struct NormCase {
    int64_t rows, c, n;
    int layer; /* else RMS */
    float plus;
    float *x, *weight, *bias, *dy, *y, *mean, *rstd;
    float *workspace;
} NormCase;

static void norm_forward(const Kernels *k, const NormCase *t, const float *bias, float *y, int threads)
{
    if (t->layer)
        k->layer_norm_forward(DTYPE_F32, t->rows, t->c, 1e-5f, t->x, t->weight, bias, y, t->mean, t->rstd,
                              on(threads));
    else
        k->rms_norm_forward(DTYPE_F32, t->rows, t->c, 1e-5f, t->plus, t->x, t->weight, y, t->rstd,
                            on(threads));
}

static void norm_backward(const Kernels *k, const NormCase *t, const float *dy, float beta, float *dx,
                          float *dw, float *db, int threads)
{
    if (t->layer)
        k->layer_norm_backward(DTYPE_F32, t->rows, t->c, t->x, t->weight, t->mean, t->rstd, dy, beta, dx,
                               DTYPE_F32, beta, dw, DTYPE_F32, beta, db, t->workspace, on(threads));
    else
        k->rms_norm_backward(DTYPE_F32, t->rows, t->c, t->plus, t->x, t->weight, t->rstd, dy, beta, dx,
                             DTYPE_F32, beta, dw, t->workspace, on(threads));
}

static void check_norm_backward(const Kernels *k, const NormCase *t, float beta, int threads)
{
    float *dx = take_output(t->n, beta), *dw = take_output(t->c, beta), *db = take_output(t->c, beta);
    float *ex = take_copy(t->n, dx), *ew = take_copy(t->c, dw), *eb = take_copy(t->c, db);
    float *x2 = take_copy(t->n, dx), *w2 = take_copy(t->c, dw), *b2 = take_copy(t->c, db);
    norm_backward(plain(), t, t->dy, beta, ex, ew, eb, 1);
    norm_backward(k, t, t->dy, beta, dx, dw, db, threads);
    /* c = 1 has no variance: rstd is 316 and the gradient is a cancellation. */
    assert_near("norm dx", t->n, dx, ex, t->c < 4 ? 2e-4 : 1e-5);
    assert_near("norm dweight", t->c, dw, ew, 2e-5);
    assert_near("norm dbias", t->c, db, eb, 1e-5);
    norm_backward(k, t, t->dy, beta, x2, w2, b2, threads);
    assert_same("norm dx", t->n, dx, x2);
    assert_same("norm dweight", t->c, dw, w2);
    norm_backward(k, t, t->dy, beta, NULL, NULL, NULL, threads);
    if (beta != 0.0f)
        return;
    memcpy(x2, t->dy, (size_t)t->n * sizeof *x2);
    norm_backward(k, t, x2, beta, x2, NULL, b2, threads);
    assert_same("norm dx over dy", t->n, dx, x2);
    assert_same("norm dbias", t->c, db, b2);
}

static void check_norm(const Kernels *k, int64_t rows, int64_t c, int threads)
{
    NormCase t = {.rows = rows, .c = c, .n = rows * c};
    t.x = take_random(t.n, 3.0f), t.weight = take_random(c, 1.0f), t.bias = take_random(c, 1.0f);
    t.dy = take_random(t.n, 1.0f), t.mean = take(rows, NAN), t.rstd = take(rows, NAN);
    t.workspace = take((int64_t)(k->norm_workspace(rows, c, on(threads)) / sizeof(float)), NAN);
    for (int64_t i = 0; i < t.n; i++)
        t.x[i] += 5.0f; /* a mean that must be taken off before squaring */
    for (int kind = 0; kind < 3; kind++) {
        t.layer = kind == 1;
        t.plus = kind == 2 ? 1.0f : 0.0f;
        for (int with_bias = 0; with_bias < 2; with_bias++) {
            float *y = take(t.n, NAN), *expected = take(t.n, NAN);
            norm_forward(k, &t, with_bias ? t.bias : NULL, y, threads);
            float *mean = take_copy(rows, t.mean), *rstd = take_copy(rows, t.rstd);
            norm_forward(plain(), &t, with_bias ? t.bias : NULL, expected, 1);
            assert_near("norm y", t.n, y, expected, c < 4 ? 1e-3 : 1e-5);
            assert_near("norm mean", rows, mean, t.mean, 5e-6); /* the sanitized build adds one by one */
            assert_near("norm rstd", rows, rstd, t.rstd, c < 4 ? 1e-3 : 1e-5);
        }
        for (int i = 0; i < 3; i++)
            check_norm_backward(k, &t, betas[i], threads);
    }
}

static void test_norm(void **state)
{
    (void)state;
    each_matrix(check_norm);
}

static void check_norm_extremes(const Kernels *k, int threads)
{
    enum { C = 100 };
    float *x = take_random(3 * C, 1.0f), *ones = take(C, 1.0f), *y = take(3 * C, NAN), *mean = take(3, NAN);
    float *rstd = take(3, NAN);
    for (int j = 0; j < C; j++)
        x[j] = 1e4f + (j % 2 ? 1.0f : -1.0f); /* E[x^2] - E[x]^2 would lose this variance of 1 */
    x[C + 7] = NAN;
    k->layer_norm_forward(DTYPE_F32, 3, C, 0.0f, x, ones, NULL, y, mean, rstd, on(threads));
    assert_near("rstd beside a large mean", 1, rstd, ones, 1e-6);
    for (int j = 0; j < C; j++)
        assert_true(isnan(y[C + j]) && !isnan(y[2 * C + j]) && fabsf(fabsf(y[j]) - 1.0f) < 1e-5f);
    k->rms_norm_forward(DTYPE_F32, 3, C, 1e-5f, 0, x, ones, y, rstd, on(threads));
    assert_true(isnan(y[C]) && isnan(rstd[1]) && !isnan(rstd[2]));
}

static void test_norm_extremes(void **state)
{
    (void)state;
    each_table(check_norm_extremes);
}

/* ---- embedding ------------------------------------------------------------------------------- */

enum { VOCAB = 13 };

/* Parts of 5, 5 and 3 rows, the last with two of padding: together they are the table. */
static void check_table_part(const Kernels *k, int64_t n, int64_t c, int threads, const int32_t *ids,
                             const float *dy)
{
    enum { PART = 5 };
    float *table = take_random(3 * PART * c, 1.0f), *y = take(n * c, NAN), *sum = take(n * c, 0.0f);
    float *expected = take(n * c, NAN), *d = take(3 * PART * c, 0.0f), *d_all = take(VOCAB * c, 0.0f);
    void *room = take((int64_t)(k->embedding_workspace(n, VOCAB, DTYPE_F32, on(threads)) / 4), NAN);
    StoredArray all = stored(table, VOCAB, c);
    plain()->embedding_forward(DTYPE_F32, n, ids, &all, (TablePart){0}, expected, on(1));
    k->embedding_backward(DTYPE_F32, n, c, VOCAB, 0, ids, dy, DTYPE_F32, d_all, room, on(threads));
    for (int first = 0; first < VOCAB; first += PART) {
        StoredArray rows = stored(table + first * c, PART, c);
        k->embedding_forward(DTYPE_F32, n, ids, &rows, (TablePart){first, VOCAB}, y, on(threads));
        assert_int_equal(fault(threads), -1);
        for (int64_t i = 0; i < n * c; i++)
            sum[i] += y[i];
        k->embedding_backward(DTYPE_F32, n, c, PART, first, ids, dy, DTYPE_F32, d + first * c, room,
                              on(threads));
    }
    assert_same("embedding in parts", n * c, sum, expected);
    assert_same("embedding gradient in parts", VOCAB * c, d, d_all);
    assert_same("padding", (3 * PART - VOCAB) * c, d + VOCAB * c, take((3 * PART - VOCAB) * c, 0.0f));
    const int32_t beyond = VOCAB; /* in the padding of the last part */
    StoredArray last = stored(table, PART, c);
    k->embedding_forward(DTYPE_F32, 1, &beyond, &last, (TablePart){2 * PART, VOCAB}, y, on(threads));
    assert_int_equal(fault(threads), 0);
}

static void check_embedding(const Kernels *k, int64_t n, int64_t c, int threads)
{
    int32_t ids[129];
    float *table = take_random(VOCAB * c, 1.0f), *dy = take_random(n * c, 1.0f), *y = take(n * c, NAN);
    float *expected = take(n * c, NAN), *d = take(VOCAB * c, 0.0f), *d_expected = take(VOCAB * c, 0.0f);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)((i * i + i / 3) % VOCAB);
    StoredArray rows = stored(table, VOCAB, c);
    k->embedding_forward(DTYPE_F32, n, ids, &rows, (TablePart){0}, y, on(threads));
    assert_int_equal(fault(threads), -1);
    plain()->embedding_forward(DTYPE_F32, n, ids, &rows, (TablePart){0}, expected, on(1));
    assert_int_equal(fault(1), -1);
    assert_same("embedding", n * c, y, expected);
    void *workspace = take((int64_t)(k->embedding_workspace(n, VOCAB, DTYPE_F32, on(threads)) / 4), NAN);
    k->embedding_backward(DTYPE_F32, n, c, VOCAB, 0, ids, dy, DTYPE_F32, d, workspace, on(threads));
    plain()->embedding_backward(DTYPE_F32, n, c, VOCAB, 0, ids, dy, DTYPE_F32, d_expected, NULL, on(1));
    if (k == kernels_cuda()) /* which adds in an order of its own */
        assert_near("embedding gradient", VOCAB * c, d, d_expected, 2e-6);
    else /* the order of the ids, whatever the threads */
        assert_same("embedding gradient", VOCAB * c, d, d_expected);
    check_table_part(k, n, c, threads, ids, dy);
    static const int32_t bad[] = {-1, VOCAB, INT32_MAX, INT32_MIN};
    for (int i = 0; i < 4; i++) {
        ids[n - 1] = VOCAB;
        ids[n / 2] = bad[i];
        k->embedding_forward(DTYPE_F32, n, ids, &rows, (TablePart){0}, y, on(threads));
        assert_int_equal(fault(threads), n / 2);
    }
}

static void test_embedding(void **state)
{
    (void)state;
    each_matrix(check_embedding);
}

/* ---- rope ------------------------------------------------------------------------------------ */

static void check_rope_dims(const Kernels *k, RopeDims d, int threads)
{
    int64_t n = (int64_t)d.batch * d.seq * d.ld;
    float *x = take_random(n, 1.0f);
    const int64_t own = rope_group_step(&d) * (d.heads / rope_group(&d));
    for (int i = 0; i < 6; i++) {
        float *y = take_output(n, betas[i % 3]);
        for (int64_t j = 0; j < n; j++)
            y[j] = j % d.ld < own ? y[j] : 7.0f; /* nobody's: must stay */
        float *expected = take_copy(n, y);
        d.inverse = i / 3;
        k->rope(&d, DTYPE_F32, x, betas[i % 3], y, on(threads));
        plain()->rope(&d, DTYPE_F32, x, betas[i % 3], expected, on(1));
        assert_near("rope", n, y, expected, 1e-6);
    }
    float *y = take_copy(n, x), *twice = take_copy(n, x);
    d.inverse = 0;
    k->rope(&d, DTYPE_F32, y, 0.0f, y, on(threads));
    k->rope(&d, DTYPE_F32, twice, 1.0f, twice, on(threads));
    for (int64_t j = 0; j < n; j++)
        if (j % d.ld < own)
            twice[j] -= x[j];
    assert_near("rope in place", n, twice, y, 1e-6);
    d.inverse = 1;
    d.scale = d.scale > 0 ? 1 / d.scale : 0;
    k->rope(&d, DTYPE_F32, y, 0.0f, y, on(threads));
    assert_near("rope and back", n, y, x, 1e-6);
}

/* What does not turn passes, to the bit, and what is nobody's stays. */
static void check_rope_passes(const Kernels *k, RopeDims d, int threads)
{
    int64_t n = (int64_t)d.batch * d.seq * d.ld, step = rope_group_step(&d), turning = step - d.behind;
    int64_t own = step * (d.heads / rope_group(&d));
    for (int i = 0; i < 3; i++) {
        float *x = take_random(n, 1.0f), *y = take_random(n, 1.0f), *before = take_copy(n, y);
        k->rope(&d, DTYPE_F32, x, betas[i], y, on(threads));
        for (int64_t j = 0; j < n; j++) {
            int64_t column = j % d.ld;
            if (column >= own)
                assert_float_equal(y[j], before[j], 0);
            else if (column % step >= turning || column % step % d.head_dim >= rope_width(&d))
                assert_float_equal(y[j], betas[i] == 0.0f ? x[j] : x[j] + betas[i] * before[j], 1e-6);
        }
        k->rope(&d, DTYPE_F32, x, 0.0f, before, on(threads));
        k->rope(&d, DTYPE_F32, x, 0.0f, x, on(threads));
        for (int64_t j = 0; j < n; j++)
            assert_true(j % d.ld >= own || x[j] == before[j]);
    }
}

/* Pairs of neighbours are pairs half a head apart, in another order. */
static void check_rope_neighbours(const Kernels *k, int threads)
{
    enum { T = 7, H = 3, D = 10, N = T * H * D };
    RopeDims apart = {1, T, H, D, H * D, 100.0f, .offset = 2}, beside = apart;
    beside.interleaved = 1;
    float *x = take_random(N, 1.0f), *turned = take(N, NAN), *y = take(N, NAN), *z = take(N, NAN);
    for (int i = 0; i < N; i++)
        turned[i / D * D + i % D / 2 + i % 2 * D / 2] = x[i];
    k->rope(&apart, DTYPE_F32, turned, 0.0f, y, on(threads));
    k->rope(&beside, DTYPE_F32, x, 0.0f, z, on(threads));
    for (int i = 0; i < N; i++)
        assert_float_equal(z[i], y[i / D * D + i % D / 2 + i % 2 * D / 2], 1e-6);
}

/* Rows of a longer sequence, from the middle on: the same bits. */
static void check_rope_offset(const Kernels *k, int threads)
{
    RopeDims whole = {1, 9, 2, 6, 12, 10000.0f, .offset = 4},
             rest = {1, 4, 2, 6, 12, 10000.0f, .offset = 4 + 5};
    float *x = take_random(9 * 12, 1.0f), *y = take(9 * 12, NAN), *z = take(4 * 12, NAN);
    k->rope(&whole, DTYPE_F32, x, 0.0f, y, on(threads));
    k->rope(&rest, DTYPE_F32, x + 5 * 12, 0.0f, z, on(threads));
    assert_same("rope from the middle on", 4 * 12, y + 5 * 12, z);
}

static const float divisors[] = {1.0f, 1.5f, 2.25f, 4.0f, 7.5f, 12.0f, 20.0f, 31.5f};
/* Whole heads and parts of them, of one pair and of more than a kernel takes at a time; every stretch. */
static const RopeDims rope_cases[] = {
    {1, 1, 1, 2, 2, 10000.0f, .offset = 0},
    {2, 5, 3, 6, 18 + 4, 10000.0f, .offset = 7},
    {2, 33, 2, 160, 320, 500000.0f, .offset = 1},
    {1, 300, 4, 64, 3 * 256, 10000.0f, .offset = 131000},
    {2, 9, 2, 16, 32, 5000.0f, .stretch = ROPE_LINEAR, .factor = 2.5f},
    {.batch = 2,
     .seq = 90,
     .heads = 2,
     .head_dim = 64,
     .ld = 128,
     .theta = 5000.0f,
     .stretch = ROPE_LLAMA3,
     .factor = 8,
     .low_freq_factor = 1,
     .high_freq_factor = 4,
     .original_seq = 100},
    {2, 90, 2, 64, 128, 5000.0f, .stretch = ROPE_YARN, .factor = 8, .ramp_from = 3.5f, .ramp_width = 9,
     .scale = 1.2f},
    {2, 90, 3, 16, 48, 5000.0f, .stretch = ROPE_DIVIDED, .divisors = divisors, .scale = 1.19f},
    {2, 9, 3, 7, 21 + 2, 100.0f, .rotary_dim = 4, .offset = 3},
    {1, 40, 4, 96, 4 * 96, 10000.0f, .rotary_dim = 16, .behind = 0},
    {2, 5, 2, 12, 24 + 13, 10000.0f, .behind = 13, .offset = 1},
    {2, 5, 5, 16, 80 + 32 + 1, 10000.0f, .rotary_dim = 16, .behind = 32, .offset = 1},
    {2, 5, 6, 16, 3 * 48, 10000.0f, .group = 2, .behind = 16, .offset = 1},
    {2, 5, 4, 12, 2 * (24 + 13) + 3, 10000.0f, .rotary_dim = 4, .group = 2, .behind = 13, .offset = 9},
    {1, 7, 3, 160, 3 * 161, 10000.0f, .group = 1, .behind = 1},
    {1, 9, 4, 10, 60, 10000.0f, .interleaved = 1, .rotary_dim = 6, .group = 2, .behind = 10},
    {1, 5, 2, 1100, 2200 + 1500, 10000.0f, .rotary_dim = 2, .behind = 1500, .offset = 1},
    {1, 7, 2, 400, 800, 10000.0f, .rotary_dim = 300, .offset = 9},
    {2, 33, 3, 10, 30, 10000.0f, .interleaved = 1},
    {1, 9, 2, 160, 330, 10000.0f, .interleaved = 1, .rotary_dim = 150, .behind = 9, .offset = 4},
    {1, 90, 3, 64, 64 * 5, 5000.0f, .stretch = ROPE_DIVIDED, .divisors = divisors, .scale = 1.3f,
     .rotary_dim = 16, .interleaved = 1, .behind = 128},
};

static void check_rope(const Kernels *k, int threads)
{
    check_rope_offset(k, threads);
    check_rope_neighbours(k, threads);
    for (size_t i = 0; i < sizeof rope_cases / sizeof rope_cases[0]; i++) {
        release();
        check_rope_dims(k, rope_cases[i], threads);
        check_rope_passes(k, rope_cases[i], threads);
    }
}

static void test_rope(void **state)
{
    (void)state;
    each_table(check_rope);
}

/* ---- cross-entropy --------------------------------------------------------------------------- */

static float softcap; /* of the logits; 0 = none */

static void check_cross_entropy(const Kernels *k, int64_t rows, int64_t c, int threads)
{
    CrossEntropyDims d = {.rows = rows, .classes = c, .ignore_index = -100, .softcap = softcap};
    const float dloss = 1.5f;
    int64_t n = rows * c;
    int32_t labels[129];
    float *x = take_random(n, 9.0f), loss[3], *lse = take(rows, NAN), *lse_expected = take(rows, NAN);
    float *workspace = take((int64_t)(k->cross_entropy_workspace(&d, on(threads)) / sizeof(float)), NAN);
    for (int64_t i = 0; i < rows; i++)
        labels[i] = i % 5 == 3 ? -100 : (int32_t)((i * 31 + 7) % c);
    k->cross_entropy_forward(&d, DTYPE_F32, x, labels, 0.5f, loss, lse, workspace, on(threads));
    assert_int_equal(fault(threads), -1);
    k->cross_entropy_forward(&d, DTYPE_F32, x, labels, 0.5f, loss + 1, lse, workspace, on(1));
    assert_int_equal(fault(1), -1);
    plain()->cross_entropy_forward(&d, DTYPE_F32, x, labels, 0.5f, loss + 2, lse_expected, NULL, on(1));
    assert_int_equal(fault(1), -1);
    assert_true(loss[0] == loss[1]); /* rows do not care who computes them */
    assert_near("loss", 1, loss, loss + 2, 1e-6);
    assert_near("lse", rows, lse, lse_expected, 1e-6);
    for (int i = 0; i < 3; i++) {
        float *dx = take_output(n, betas[i]), *expected = take_copy(n, dx);
        k->cross_entropy_backward(&d, DTYPE_F32, x, labels, 0.5f, lse, &dloss, betas[i], dx, on(threads));
        plain()->cross_entropy_backward(&d, DTYPE_F32, x, labels, 0.5f, lse, &dloss, betas[i], expected,
                                        on(1));
        assert_near("dlogits", n, dx, expected, 1e-6);
    }
    float *in_place = take_copy(n, x), *expected = take(n, NAN);
    k->cross_entropy_backward(&d, DTYPE_F32, in_place, labels, 0.5f, lse, &dloss, 0.0f, in_place,
                              on(threads));
    k->cross_entropy_backward(&d, DTYPE_F32, x, labels, 0.5f, lse, &dloss, 0.0f, expected, on(threads));
    assert_same("dlogits in place", n, in_place, expected);
    labels[rows - 1] = (int32_t)c;
    labels[rows / 2] = -1;
    k->cross_entropy_forward(&d, DTYPE_F32, x, labels, 0.5f, loss, lse, workspace, on(threads));
    assert_int_equal(fault(threads), rows / 2);
    for (int64_t i = 0; i < rows; i++)
        labels[i] = -100;
    k->cross_entropy_forward(&d, DTYPE_F32, x, labels, 0.5f, loss, lse, workspace, on(threads));
    assert_int_equal(fault(threads), -1);
    assert_true(loss[0] == 0.0f);
    k->cross_entropy_backward(&d, DTYPE_F32, x, labels, 0.5f, lse, &dloss, 0.0f, in_place, on(threads));
    for (int64_t i = 0; i < n; i++)
        assert_true(in_place[i] == 0.0f);
}

/* Backward of some classes at a time is that of all: x's columns [first, first + some). */
static void check_cross_entropy_parts(const Kernels *k, int64_t rows, int64_t c, int threads)
{
    CrossEntropyDims d = {.rows = rows, .classes = c, .ignore_index = -100, .softcap = softcap};
    const float dloss = 1.5f;
    int64_t some = c / 3 + 1;
    int32_t labels[129];
    float *x = take_random(rows * c, 9.0f), *lse = take_random(rows, 1.0f), *all = take(rows * c, NAN);
    for (int64_t i = 0; i < rows; i++)
        labels[i] = i % 5 == 3 ? -100 : (int32_t)((i * 31 + 7) % c);
    labels[rows / 2] = (int32_t)c; /* of no class */
    k->cross_entropy_backward(&d, DTYPE_F32, x, labels, 0.5f, lse, &dloss, 0.0f, all, on(threads));
    for (int64_t first = 0; first < c; first += some) {
        int64_t n = c - first < some ? c - first : some;
        CrossEntropyDims part = {.rows = rows,
                                 .classes = n,
                                 .ignore_index = -100,
                                 .first_class = first,
                                 .all_classes = c,
                                 .softcap = softcap};
        float *from = take(rows * n, NAN), *expected = take(rows * n, NAN), *plainly = take(rows * n, NAN);
        for (int64_t i = 0; i < rows * n; i++) {
            from[i] = x[i / n * c + first + i % n];
            expected[i] = all[i / n * c + first + i % n];
        }
        plain()->cross_entropy_backward(&part, DTYPE_F32, from, labels, 0.5f, lse, &dloss, 0.0f, plainly,
                                        on(1));
        k->cross_entropy_backward(&part, DTYPE_F32, from, labels, 0.5f, lse, &dloss, 0.0f, from, on(threads));
        double most = softcap > 0 ? 4e-6 : 1e-6; /* a cap's rounding is the exponent's */
        assert_near("a part of dlogits", rows * n, from, expected, most);
        assert_near("a part, plainly", rows * n, plainly, expected, most);
    }
}

static void test_cross_entropy(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        softcap = i ? 5.0f : 0.0f;
        each_matrix(check_cross_entropy);
        each_matrix(check_cross_entropy_parts);
    }
}

/* Rows longer than a block (4096): the maximum in any block, blocks of -inf, huge logits, NaN. */
static void check_cross_entropy_extremes(const Kernels *k, int threads)
{
    enum { C = 10007, ROWS = 6 };
    CrossEntropyDims d = {.rows = ROWS, .classes = C, .ignore_index = -1, .softcap = softcap};
    const float dloss = 1.0f;
    int32_t labels[ROWS] = {0, 1, 5000, C - 1, 0, 9000};
    float *x = take_random(ROWS * C, 3.0f), loss[2], *lse = take(ROWS, NAN), *expected = take(ROWS, NAN);
    float *workspace = take(ROWS, NAN), *dx = take(ROWS * C, NAN), *dx_expected = take(ROWS * C, NAN);
    x[C + 10] = 1e4f, x[C + 1] = 9999.0f;              /* first block */
    x[2 * C + C - 1] = 80.0f, x[2 * C + 5000] = -1e4f; /* last block */
    for (int j = 0; j < 4096; j++)
        x[3 * C + j] = x[5 * C + j] = -INFINITY; /* nothing in the first */
    x[4 * C] = 3e38f, x[4 * C + 1] = -3e38f;
    k->cross_entropy_forward(&d, DTYPE_F32, x, labels, 1.0f, loss, lse, workspace, on(threads));
    plain()->cross_entropy_forward(&d, DTYPE_F32, x, labels, 1.0f, loss + 1, expected, NULL, on(1));
    assert_near("extreme loss", 1, loss, loss + 1, 1e-6);
    assert_near("extreme lse", ROWS, lse, expected, 1e-6);
    k->cross_entropy_backward(&d, DTYPE_F32, x, labels, 1.0f, lse, &dloss, 0.0f, dx, on(threads));
    plain()->cross_entropy_backward(&d, DTYPE_F32, x, labels, 1.0f, lse, &dloss, 0.0f, dx_expected, on(1));
    assert_near("extreme dlogits", ROWS * C, dx, dx_expected, 1e-6);
    x[2 * C + 7000] = NAN;
    k->cross_entropy_forward(&d, DTYPE_F32, x, labels, 1.0f, loss, lse, workspace, on(threads));
    assert_true(isnan(loss[0]) && isnan(lse[2]) && !isnan(lse[1]) && !isnan(lse[3]));
    k->cross_entropy_backward(&d, DTYPE_F32, x, labels, 1.0f, lse, &dloss, 0.0f, dx, on(threads));
    assert_true(isnan(dx[2 * C]) && !isnan(dx[C]));
}

static void test_cross_entropy_extremes(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        softcap = i ? 30.0f : 0.0f;
        each_table(check_cross_entropy_extremes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_elementwise),   cmocka_unit_test(test_rows),
        cmocka_unit_test(test_reductions),    cmocka_unit_test(test_activation),
        cmocka_unit_test(test_norm),          cmocka_unit_test(test_norm_extremes),
        cmocka_unit_test(test_embedding),     cmocka_unit_test(test_rope),
        cmocka_unit_test(test_cross_entropy), cmocka_unit_test(test_cross_entropy_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
