/* Products and the linear layer: every table that runs here against the reference, over awkward shapes. */
#include "products_support.h"

/* ---- gemm ------------------------------------------------------------------------------------ */

static void check_gemm(const Kernels *kernels, int trans_a, int trans_b, const int64_t *size, float beta,
                       int threads)
{
    int64_t m = size[0], n = size[1], k = size[2];
    int64_t lda = (trans_a ? m : k) + 3, ldb = (trans_b ? k : n) + 1, ldc = n + 2;
    int64_t na = (trans_a ? k : m) * lda, nb = (trans_b ? n : k) * ldb, nc = m * ldc;
    float *a = random_buffer(na), *b = random_buffer(nb), *c = random_buffer(nc);
    for (int64_t i = 0; beta == 0 && i < nc; i++)
        c[i] = i % ldc < n ? NAN : c[i]; /* between rows, nothing may change */
    float *expected = copied_buffer(nc, c), *again = copied_buffer(nc, c);
    kernels->gemm(trans_a, trans_b, m, n, k, 0.7f, a, lda, b, ldb, beta, c, ldc, on(threads));
    kernels->gemm(trans_a, trans_b, m, n, k, 0.7f, a, lda, b, ldb, beta, again, ldc, on(threads));
    kernels_reference()->gemm(trans_a, trans_b, m, n, k, 0.7f, a, lda, b, ldb, beta, expected, ldc, on(1));
    assert_near("gemm", nc, c, expected, 2e-5);
    assert_same_bits("gemm", nc, c, again);
    drop(a, na), drop(b, nb), drop(c, nc), drop(expected, nc), drop(again, nc);
}

static void test_gemm(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1},     {1, 17, 33},   {17, 33, 1},    {7, 5, 0},
                                       {13, 29, 31},  {64, 10, 100}, {100, 1, 64},   {3, 257, 67},
                                       {131, 70, 65}, {65, 64, 97},  {5, 1031, 113}, {67, 211, 71},
                                       {4099, 3, 5} /* more rows than a call takes */};
    static const float betas[] = {0, 1, 0.5f};
    for (int table = 0; table < TABLES; table++) {
        const Kernels *kernels = table_of(table);
        if (!kernels)
            continue;
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int i = 0; i < 4 * 3; i++)
                check_gemm(kernels, i & 1, i >> 1 & 1, sizes[s], betas[i / 4],
                           1 + (int)(s + (size_t)i) % MAX_THREADS);
        static const int64_t large[] = {210, 150, 130}; /* every panel has work for a thread of its own */
        for (int threads = 1; threads <= 2 * MAX_THREADS; threads++)
            check_gemm(kernels, 0, threads % 2, large, threads % 3 ? 1 : 0, threads);
    }
}

/* ---- linear ---------------------------------------------------------------------------------- */

static StoredArray weight_of(const LinearDims *d, const float *w)
{
    return d->in_out ? stored(w, d->in, d->out) : stored(w, d->out, d->in);
}

/* What a pass asks for, as floats. */
static int64_t floats_of(const Kernels *kernels, const LinearDims *d, LinearPass pass, int threads)
{
    return (int64_t)(kernels->linear_workspace(d, pass, DTYPE_F32, on(threads)) / sizeof(float));
}

static void check_linear_forward(const Kernels *kernels, const LinearDims *d, Activation act, int with_bias,
                                 int with_pre, int threads)
{
    int64_t ny = d->rows * d->out, nspace = floats_of(kernels, d, LINEAR_FORWARD, threads);
    float *space = filled_buffer(nspace, NAN);
    float *x = random_buffer(d->rows * d->in), *w = random_buffer(d->in * d->out),
          *bias = random_buffer(d->out);
    float *pre = filled_buffer(ny, NAN), *y = filled_buffer(ny, NAN);
    float *pre_expected = filled_buffer(ny, NAN), *expected = filled_buffer(ny, NAN);
    StoredArray weight = weight_of(d, w);
    kernels->linear_forward(d, act, x, &weight, with_bias ? bias : NULL, with_pre ? pre : NULL, y, space,
                            on(threads));
    kernels_reference()->linear_forward(d, act, x, &weight, with_bias ? bias : NULL,
                                        with_pre ? pre_expected : NULL, expected, NULL, on(1));
    double tolerance = 2e-5 + 1e-6 * sqrt((double)d->in); /* terms that round */
    assert_near("linear y", ny, y, expected, tolerance);
    assert_near("linear pre", ny, pre, pre_expected, tolerance);
    drop(x, d->rows * d->in), drop(w, d->in * d->out), drop(bias, d->out), drop(space, nspace);
    drop(pre, ny), drop(y, ny), drop(pre_expected, ny), drop(expected, ny);
}

/* y is pre. */
static void check_linear_in_place(const Kernels *kernels, const LinearDims *d, int threads)
{
    int64_t ny = d->rows * d->out, nspace = floats_of(kernels, d, LINEAR_FORWARD, threads);
    float *x = random_buffer(d->rows * d->in), *w = random_buffer(d->in * d->out),
          *bias = random_buffer(d->out), *space = filled_buffer(nspace, NAN);
    float *y = filled_buffer(ny, NAN), *expected = filled_buffer(ny, NAN);
    StoredArray weight = weight_of(d, w);
    kernels->linear_forward(d, ACT_NONE, x, &weight, bias, y, y, space, on(threads));
    kernels_reference()->linear_forward(d, ACT_NONE, x, &weight, bias, NULL, expected, NULL, on(1));
    assert_near("linear in place", ny, y, expected, 2e-5 + 1e-6 * sqrt((double)d->in));
    drop(x, d->rows * d->in), drop(w, d->in * d->out), drop(bias, d->out), drop(y, ny), drop(expected, ny);
    drop(space, nspace);
}

static void check_linear_backward(const Kernels *kernels, const LinearDims *d, float beta, int threads)
{
    int64_t nx = d->rows * d->in, ny = d->rows * d->out, nw = d->in * d->out;
    int64_t nspace = floats_of(kernels, d, LINEAR_BACKWARD_WEIGHT, threads);
    int64_t ninput = floats_of(kernels, d, LINEAR_BACKWARD_INPUT, threads);
    float *x = random_buffer(nx), *w = random_buffer(nw), *dy = random_buffer(ny),
          *space = filled_buffer(nspace, NAN), *room = filled_buffer(ninput, NAN);
    float *dx = beta == 0 ? filled_buffer(nx, NAN) : random_buffer(nx), *dx_expected = copied_buffer(nx, dx);
    float *dw = beta == 0 ? filled_buffer(nw, NAN) : random_buffer(nw), *dw_expected = copied_buffer(nw, dw);
    float *db = beta == 0 ? filled_buffer(d->out, NAN) : random_buffer(d->out);
    float *db_expected = copied_buffer(d->out, db);
    StoredArray weight = weight_of(d, w);
    kernels->linear_backward_input(d, dy, &weight, beta, dx, room, on(threads));
    kernels_reference()->linear_backward_input(d, dy, &weight, beta, dx_expected, NULL, on(1));
    /* Terms that round. */
    double of_dx = 2e-5 + 1e-6 * sqrt((double)d->out), tolerance = 2e-5 + 2e-6 * sqrt((double)d->rows);
    assert_near("linear dx", nx, dx, dx_expected, of_dx);
    kernels->linear_backward_weight(d, x, dy, DTYPE_F32, beta, dw, DTYPE_F32, beta, NULL, space, on(threads));
    kernels->linear_backward_weight(d, x, dy, DTYPE_F32, 0, NULL, DTYPE_F32, beta, db, space, on(threads));
    kernels_reference()->linear_backward_weight(d, x, dy, DTYPE_F32, beta, dw_expected, DTYPE_F32, beta,
                                                db_expected, NULL, on(1));
    assert_near("linear dw", nw, dw, dw_expected, tolerance);
    assert_near("linear dbias", d->out, db, db_expected, tolerance);
    drop(x, nx), drop(w, nw), drop(dy, ny), drop(space, nspace), drop(room, ninput), drop(dx, nx),
        drop(dx_expected, nx);
    drop(dw, nw), drop(dw_expected, nw), drop(db, d->out), drop(db_expected, d->out);
}

static void test_linear(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1},      {1, 65, 33},   {17, 33, 10},  {129, 7, 101},
                                       {200, 64, 10},  {5, 30, 811},  {401, 31, 67}, {4500, 3, 61},
                                       {64, 130, 96},  {2, 7, 1031},  {3, 1030, 9},  {4, 101, 2100},
                                       {1, 1100, 603}, {7, 131, 130}, {8, 77, 19},   {6, 15, 5}};
    for (int table = 0; table < TABLES; table++) {
        const Kernels *kernels = table_of(table);
        if (!kernels)
            continue;
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (int i = 0; i < 2 * 6 * 2; i++) {
                LinearDims d = {sizes[s][0], sizes[s][1], sizes[s][2], i & 1, DTYPE_F32, DTYPE_F32, 0};
                Activation act = (Activation)(i / 2 % 6);
                int with_pre =
                    act == ACT_GELU || act == ACT_GELU_TANH || act == ACT_SILU || act == ACT_TANH || i / 12;
                check_linear_forward(kernels, &d, act, (i / 2 + (int)s) % 3 != 0, with_pre,
                                     1 + i % MAX_THREADS);
            }
            for (int i = 0; i < 4; i++) {
                LinearDims d = {sizes[s][0], sizes[s][1], sizes[s][2], i & 1, DTYPE_F32, DTYPE_F32, 0};
                check_linear_in_place(kernels, &d, 1 + i % MAX_THREADS);
                check_linear_backward(kernels, &d, i < 2 ? 0 : 1, 1 + (i + (int)s) % MAX_THREADS);
            }
        }
    }
}

/* Who multiplies floats: brim's own product from 256 rows, 256 columns, 32 terms and 2^30 multiply-adds on,
 * up to 384 terms from 2^29 on, up to 8192 columns. Each border from both sides, in every pass and layout, in
 * sizes that no tile or strip divides. They are multiplied in the long form; in the short one that where all
 * three passes are our own. */
static void test_linear_borders(void **state)
{
    (void)state;
    static const struct Border {
        int64_t rows, in, out;
        int own[3]; /* of y, dx, dW */
    } borders[] = {
        {1024, 1024, 1024, {1, 1, 1}}, {1023, 1024, 1024, {0, 0, 0}}, {256, 2053, 2051, {1, 1, 1}},
        {255, 2080, 2070, {0, 0, 1}},  {8400, 255, 503, {1, 0, 0}},   {8400, 510, 255, {0, 1, 0}},
        {31, 6000, 6000, {0, 0, 0}},   {32, 5800, 5800, {0, 0, 1}},   {4280, 31, 8192, {0, 0, 0}},
        {4280, 33, 8192, {1, 0, 0}},   {4280, 33, 8193, {0, 0, 0}},   {33000, 33, 1000, {1, 0, 0}},
        {5462, 384, 256, {1, 1, 0}},   {5461, 384, 256, {0, 0, 0}},   {5462, 385, 256, {0, 1, 0}},
        {384, 5462, 256, {0, 1, 1}},   {385, 5462, 256, {0, 1, 0}},
    };
    for (size_t b = 0; b < sizeof borders / sizeof *borders; b++) {
        const Kernels *kernels = kernels_cpu(isa_names[b % ISAS]);
        LinearDims d = {borders[b].rows, borders[b].in, borders[b].out, 0, DTYPE_F32, DTYPE_F32, 0};
        int threads = 1 + (int)(b / 2) % MAX_THREADS;
        for (d.in_out = 0; d.in_out < 2; d.in_out++)
            for (int pass = 0; pass < 3; pass++)
                assert_int_equal(borders[b].own[pass],
                                 floats_of(kernels_reference(), &d, (LinearPass)pass, threads) > 0);
        d.in_out = (int)b & 1;
        if (!kernels || (b != 2 && !getenv("BRIM_FULL")))
            continue;
        check_linear_forward(kernels, &d, b % 4 ? ACT_GELU : ACT_NONE, b > 0, b % 4 > 0, threads);
        check_linear_in_place(kernels, &d, threads);
        check_linear_backward(kernels, &d, (float)((int)b / 2 & 1), threads);
    }
}

/* Column sums of dy, beside a product of ours, whose packing they accompany, and alone. */
static void check_bias_sums(const Kernels *kernels, const LinearDims *d, float beta, int threads)
{
    int64_t nx = (d->rows * d->in + 1) / 2, ny = d->rows * d->out, nw = d->in * d->out;
    int64_t nspace = floats_of(kernels, d, LINEAR_BACKWARD_WEIGHT, threads);
    float *x = filled_buffer(nx, 1), *dy = random_buffer(ny), *dw = filled_buffer(nw, NAN);
    float *space = filled_buffer(nspace, NAN);
    float *beside = beta == 0 ? filled_buffer(d->out, NAN) : random_buffer(d->out);
    float *alone = copied_buffer(d->out, beside), *one = copied_buffer(d->out, beside);
    float *expected = copied_buffer(d->out, beside);
    kernels->linear_backward_weight(d, x, dy, DTYPE_F32, 0, dw, DTYPE_F32, beta, beside, space, on(threads));
    kernels->linear_backward_weight(d, x, dy, DTYPE_F32, 0, NULL, DTYPE_F32, beta, alone, space, on(threads));
    kernels->linear_backward_weight(d, x, dy, DTYPE_F32, 0, NULL, DTYPE_F32, beta, one, space, on(1));
    kernels_reference()->linear_backward_weight(d, x, dy, DTYPE_F32, 0, NULL, DTYPE_F32, beta, expected, NULL,
                                                on(1));
    assert_memory_equal(beside, alone, (size_t)d->out * sizeof(float));
    assert_memory_equal(one, alone, (size_t)d->out * sizeof(float)); /* however many threads */
    assert_near("dbias", d->out, beside, expected, 2e-5 + 2e-6 * sqrt((double)d->rows));
    drop(x, nx), drop(dy, ny), drop(dw, nw), drop(space, nspace), drop(beside, d->out), drop(alone, d->out);
    drop(one, d->out), drop(expected, d->out);
}

/* x of 16 bit, so that small products are our own. More and fewer than a block of rows, of terms, of columns.
 */
static void test_bias_sums(void **state)
{
    (void)state;
    static const int64_t rows[] = {0, 1, 64, 65, 384, 385, 1000}, outs[] = {3, 75, 1100},
                         ins[] = {0, 7, 1030};
    enum { ROWS = 7, CASES = ROWS * 3 * 3 * 2 };
    for (int isa = 0; isa < ISAS; isa++)
        for (int i = 0; i < CASES && kernels_cpu(isa_names[isa]); i++) {
            LinearDims d = {.rows = rows[i % ROWS], .in = ins[i / ROWS / 3 % 3], .out = outs[i / ROWS % 3]};
            d.in_out = i / ROWS / 9 % 2;
            d.x = DTYPE_BF16;
            check_bias_sums(kernels_cpu(isa_names[isa]), &d, (float)(i % 2), 1 + i % MAX_THREADS);
        }
}

/* Workspace is a function of shapes, types and threads: the same of every table, the reference's among them,
 * but for the sums of the bias. So a plan holds on every processor. test_blas.c asks in processes without a
 * BLAS. */
static void test_linear_workspace(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 8, 9, 31, 32, 255, 256, 1024, 2048, 8192, 8193, 50257};
    enum { N = sizeof sizes / sizeof *sizes };
    for (int i = 0; i < N * N * N; i++)
        for (int pass = 0; pass < 3; pass++) {
            LinearDims d = {sizes[i % N], sizes[i / N % N], sizes[i / N / N], i & 1, DTYPE_F32, DTYPE_F32, 0};
            int threads = 1 + i % 5;
            int64_t least = floats_of(kernels_reference(), &d, (LinearPass)pass, threads);
            int64_t sums = pass == LINEAR_BACKWARD_WEIGHT ? threads * 2 * ((d.out + 31) / 32 * 32) : 0;
            for (int isa = 0; isa < ISAS; isa++)
                if (kernels_cpu(isa_names[isa]))
                    assert_int_equal(floats_of(kernels_cpu(isa_names[isa]), &d, (LinearPass)pass, threads),
                                     least > sums ? least : sums);
        }
}

/* What cuBLAS refuses stays with the card, with a sentence. */
static void test_refused(void **state)
{
    (void)state;
    float x[6] = {0};
    assert_int_equal(card()->error, 0);
    kernels_cuda()->gemm(0, 0, 2, 2, 3, 1, x, 1 /* below k */, x, 2, 0, x, 2, on(1));
    assert_int_equal(card()->error, CUDA_ERROR_OF_CUBLAS + 7);
    assert_string_equal(card()->failed, "cuBLAS: CUBLAS_STATUS_INVALID_VALUE (7) for a product of (2,3) and "
                                        "(3,2), f32 into f32");
    kernels_cuda()->gemm(0, 0, 1, 1, 1, 1, x, 0, x, 0, 0, x, 1, on(1));
    assert_int_equal(card()->error, CUDA_ERROR_OF_CUBLAS + 7); /* the first one */
    card()->error = 0;
}

/* ---- tables and BLAS ------------------------------------------------------------------------- */

static void test_tables(void **state)
{
    (void)state;
    assert_non_null(kernels_cpu(NULL));
    assert_non_null(kernels_cpu("base"));
    assert_null(kernels_cpu("mmx"));
    assert_ptr_equal(kernels_cpu("reference"), kernels_reference());
    for (int isa = 0; isa < ISAS; isa++) {
        const Kernels *kernels = kernels_cpu(isa_names[isa]);
        if (kernels)
            assert_string_equal(kernels->name, isa_names[isa]);
    }
    setenv("BRIM_ISA", "base", 1);
    assert_ptr_equal(kernels_cpu(NULL), kernels_cpu("base"));
    setenv("BRIM_ISA", "mmx", 1);
    assert_non_null(kernels_cpu(NULL));
    unsetenv("BRIM_ISA");
}

static void test_blas(void **state)
{
    (void)state;
    assert_int_equal(kernels_blas_start(2), 0);
    assert_int_equal(kernels_blas_start(1), 0);
    assert_true(strlen(kernels_blas_name()) > 0);
    assert_true(kernels_default_threads() >= 1);
    if (!strncmp(kernels_blas_name(), "OpenBLAS", 8) && !getenv("OPENBLAS_CORETYPE"))
        assert_null(kernels_blas_warning());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),    cmocka_unit_test(test_blas),
        cmocka_unit_test(test_gemm),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_linear),    cmocka_unit_test(test_linear_borders),
        cmocka_unit_test(test_bias_sums), cmocka_unit_test(test_linear_workspace),
    };
    return cmocka_run_group_tests_name("kernels: products", tests, NULL, NULL);
}
