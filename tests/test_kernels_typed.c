/* Products with stored arrays of every type: each table that runs here against the reference, and against
 * products of the decoded numbers, over awkward shapes. */
#include "typed_support.h"

/* ---- Decoding -------------------------------------------------------------------------------- */

/* The identity times B is B, every number exactly. */
static void check_identity(const Kernels *kernels, DType type, int64_t rows, int64_t cols, int trans_b)
{
    int64_t k = trans_b ? cols : rows, n = trans_b ? rows : cols;
    StoredArray b = random_stored(type, rows, cols);
    float *ones = filled_buffer(k * k, 0), *c = filled_buffer(k * n, NAN), *numbers = decoded(&b);
    for (int64_t i = 0; i < k; i++)
        ones[i * k + i] = 1;
    StoredArray a = stored(ones, k, k);
    size_t bytes = kernels->gemm_stored_workspace(k, n, k, DTYPE_F32, type, DTYPE_F32, on(1));
    unsigned char *space = workspace_of(bytes);
    kernels->gemm_stored(0, trans_b, k, n, k, 1, &a, &b, 0, DTYPE_F32, c, n, space, on(1));
    for (int64_t i = 0; i < k * n; i++) {
        float expected = trans_b ? numbers[i % n * cols + i / n] : numbers[i];
        if (c[i] != expected)
            fail_msg("%s %s (%d,%d) decodes to %.9g at %d, not %.9g", kernels->name, dtype_name(type),
                     (int)rows, (int)cols, (double)c[i], (int)i, (double)expected);
    }
    drop_workspace(space, bytes);
    drop(ones, k * k), drop(c, k * n), drop(numbers, rows * cols), drop_stored(b);
}

/* Every bit pattern of 16-bit floats. */
static void check_halves(const Kernels *kernels, DType type)
{
    enum { ALL = 1 << 16 };
    StoredArray b = random_stored(type, 1, ALL);
    for (int i = 0; i < ALL; i++)
        ((uint16_t *)(uintptr_t)b.at)[i] = (uint16_t)i;
    float one = 1, *c = filled_buffer(ALL, 0), *numbers = decoded(&b);
    StoredArray a = stored(&one, 1, 1);
    size_t bytes = kernels->gemm_stored_workspace(1, ALL, 1, DTYPE_F32, type, DTYPE_F32, on(1));
    unsigned char *space = workspace_of(bytes);
    kernels->gemm_stored(0, 0, 1, ALL, 1, 1, &a, &b, 0, DTYPE_F32, c, ALL, space, on(1));
    for (int i = 0; i < ALL; i++)
        if (c[i] != numbers[i] && !(isnan(c[i]) && isnan(numbers[i])))
            fail_msg("%s %s %04x is %.9g, not %.9g", kernels->name, dtype_name(type), (unsigned)i,
                     (double)c[i], (double)numbers[i]);
    drop_workspace(space, bytes);
    drop(c, ALL), drop(numbers, ALL), drop_stored(b);
}

static void test_decoding(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{1, 1},    {3, 5},   {16, 64},  {7, 36},  {64, 16},
                                       {33, 100}, {5, 391}, {130, 65}, {1, 700}, {40, 128}};
    for (int table = 0; table < ALL_TABLES; table++) {
        const Kernels *kernels = any_table_of(table);
        for (size_t i = 0; kernels && i < TYPES * sizeof sizes / sizeof *sizes; i++)
            for (int trans = 0; trans < 2; trans++)
                check_identity(kernels, types[i % TYPES], sizes[i / TYPES][0], sizes[i / TYPES][1], trans);
        if (kernels) {
            check_halves(kernels, DTYPE_F16);
            check_halves(kernels, DTYPE_BF16);
        }
    }
}

/* ---- gemm ------------------------------------------------------------------------------------ */

/* c: what C is of; trans: 1 A, 2 B, 3 both */
typedef struct Case {
    DType a, b, c;
    int trans;
    float beta;
    int64_t pad;
} Case;

static void check_gemm(const Kernels *kernels, Case t, const int64_t *size, int threads)
{
    int64_t m = size[0], n = size[1], k = size[2], nc = m * (n + t.pad);
    int trans_a = t.trans & 1, trans_b = t.trans >> 1;
    StoredArray a = random_stored(t.a, trans_a ? k : m, (trans_a ? m : k) + t.pad);
    StoredArray b = random_stored(t.b, trans_b ? n : k, (trans_b ? k : n) + t.pad);
    StoredArray c = random_stored(t.c, m, n + t.pad), again = random_stored(t.c, m, n + t.pad);
    float *da = decoded(&a), *db = decoded(&b), *expected = decoded(&c), *old = decoded(&c);
    DType type = half_of(t.c, t.a, t.b);
    as_multiplied(kernels, type, a.rows * a.cols, da);
    as_multiplied(kernels, type, b.rows * b.cols, db);
    for (int64_t i = 0; i < nc; i++)
        old[i] = t.beta == 0 && i % c.cols < n ? NAN : old[i]; /* between rows, nothing may change */
    round_into(t.c, nc, old, (void *)(uintptr_t)c.at);
    round_into(t.c, nc, old, (void *)(uintptr_t)again.at);
    size_t bytes = kernels->gemm_stored_workspace(m, n, k, t.a, t.b, t.c, on(threads));
    unsigned char *space = workspace_of(bytes);
    kernels->gemm_stored(trans_a, trans_b, m, n, k, 0.7f, &a, &b, t.beta, t.c, (void *)(uintptr_t)c.at,
                         c.cols, space, on(threads));
    kernels->gemm_stored(trans_a, trans_b, m, n, k, 0.7f, &a, &b, t.beta, t.c, (void *)(uintptr_t)again.at,
                         c.cols, space, on(threads));
    kernels_reference()->gemm(trans_a, trans_b, m, n, k, 0.7f, da, a.cols, db, b.cols, t.beta, expected,
                              c.cols, on(1));
    assert_rounded(dtype_name(t.b), &c, expected, 2e-5 + 1e-6 * sqrt((double)k));
    assert_memory_equal(c.at, again.at, dtype_bytes(t.c, 1, nc));
    drop_workspace(space, bytes);
    drop(da, a.rows * a.cols), drop(db, b.rows * b.cols), drop(expected, nc), drop(old, nc);
    drop_stored(a), drop_stored(b), drop_stored(c), drop_stored(again);
}

static void test_gemm(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1},     {1, 17, 33},   {17, 33, 1},   {7, 5, 0},
                                       {13, 29, 31},  {64, 10, 100}, {100, 1, 64},  {3, 257, 67},
                                       {131, 70, 65}, {65, 64, 97},  {73, 96, 128}, {12, 32, 768}};
    static const float betas[] = {0, 1, 0.5f};
    for (int table = 0; table < ALL_TABLES; table++) {
        const Kernels *kernels = any_table_of(table);
        if (!kernels)
            continue;
        for (int s = 0; s < (int)(sizeof sizes / sizeof *sizes); s++)
            for (int i = 0; i < 4 * TYPES; i++) {
                Case t = {types[(i + s) % PLAIN_TYPES], types[i / 4], types[(i / 3 + s) % PLAIN_TYPES], i % 4,
                          betas[(i + s) % 3],           s % 2 ? 5 : 0};
                check_gemm(kernels, t, sizes[s], 1 + (s + i) % MAX_THREADS);
            }
    }
}

/* More than one block in every direction, alone and by several threads. */
static void test_blocks(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{80, 1060, 390}, {9, 1100, 800}, {150, 50, 771}, {90, 40, 1600}};
    int every = SANITIZED && !full_form() ? 5 : 1; /* each size still, and all orders */
    for (int table = 0; table < TABLES; table++) {
        const Kernels *kernels = table_of(table);
        for (int i = 0; kernels && i < 4 * TYPES; i += every) {
            Case t = {types[i / 4 % PLAIN_TYPES],
                      types[i / 4],
                      types[(i + i / 4) % PLAIN_TYPES],
                      (i + i / 4) % 4,
                      i % 3 ? 0 : 1,
                      i % 5};
            check_gemm(kernels, t, sizes[i % 4], 1 + i % MAX_THREADS);
        }
        static const int64_t large[] = {210, 150, 130}; /* every panel has work for a thread of its own */
        for (int threads = 1; kernels && threads <= 2 * MAX_THREADS; threads++) {
            Case t = {DTYPE_BF16, types[threads % TYPES], types[threads % PLAIN_TYPES], threads % 4, 0, 0};
            check_gemm(kernels, t, large, threads);
        }
    }
}

/* ---- linear ---------------------------------------------------------------------------------- */

static StoredArray weight_of(const LinearDims *d, DType type)
{
    return d->in_out ? random_stored(type, d->in, d->out) : random_stored(type, d->out, d->in);
}

static void check_forward(const Kernels *kernels, const LinearDims *d, DType type, Activation act,
                          int with_bias, int with_pre, int threads)
{
    int64_t nx = d->rows * d->in, ny = d->rows * d->out;
    StoredArray w = weight_of(d, type);
    float *numbers = decoded(&w), *x = random_buffer(nx), *bias = random_buffer(d->out);
    float *pre = filled_buffer(ny, NAN), *y = filled_buffer(ny, NAN);
    float *pre_expected = filled_buffer(ny, NAN), *expected = filled_buffer(ny, NAN);
    StoredArray plain = stored(numbers, w.rows, w.cols);
    size_t bytes = kernels->linear_workspace(d, LINEAR_FORWARD, type, on(threads));
    unsigned char *space = workspace_of(bytes);
    kernels->linear_forward(d, act, x, &w, with_bias ? bias : NULL, with_pre ? pre : NULL, y, space,
                            on(threads));
    kernels_reference()->linear_forward(d, act, x, &plain, with_bias ? bias : NULL,
                                        with_pre ? pre_expected : NULL, expected, NULL, on(1));
    double tolerance = 2e-5 + 1e-6 * sqrt((double)d->in);
    assert_near(dtype_name(type), ny, y, expected, tolerance);
    assert_near(dtype_name(type), ny, pre, pre_expected, tolerance);
    drop_workspace(space, bytes);
    drop(numbers, w.rows * w.cols), drop(x, nx), drop(bias, d->out), drop_stored(w);
    drop(pre, ny), drop(y, ny), drop(pre_expected, ny), drop(expected, ny);
}

static void check_backward(const Kernels *kernels, const LinearDims *d, DType type, float beta, int threads)
{
    int64_t nx = d->rows * d->in, ny = d->rows * d->out;
    StoredArray w = weight_of(d, type);
    float *numbers = decoded(&w), *dy = random_buffer(ny);
    float *dx = beta == 0 ? filled_buffer(nx, NAN) : random_buffer(nx), *expected = copied_buffer(nx, dx);
    StoredArray plain = stored(numbers, w.rows, w.cols);
    size_t bytes = kernels->linear_workspace(d, LINEAR_BACKWARD_INPUT, type, on(threads));
    unsigned char *space = workspace_of(bytes);
    kernels->linear_backward_input(d, dy, &w, beta, dx, space, on(threads));
    kernels_reference()->linear_backward_input(d, dy, &plain, beta, expected, NULL, on(1));
    assert_near(dtype_name(type), nx, dx, expected, 2e-5 + 1e-6 * sqrt((double)d->out));
    drop_workspace(space, bytes);
    drop(numbers, w.rows * w.cols), drop(dy, ny), drop(dx, nx), drop(expected, nx), drop_stored(w);
}

static void check_linear(const Kernels *kernels, const int64_t *size, DType type, int in_out, int turn)
{
    LinearDims d = {size[0], size[1], size[2], in_out, DTYPE_F32, DTYPE_F32, 0};
    for (int i = 0; i < 3; i++) {
        Activation act = (Activation)((turn + i) % 6);
        int with_pre =
            act == ACT_GELU || act == ACT_GELU_TANH || act == ACT_SILU || act == ACT_TANH || i == 1;
        check_forward(kernels, &d, type, act, (turn + i) % 2, with_pre, 1 + (turn + i) % MAX_THREADS);
    }
    check_backward(kernels, &d, type, turn % 2 ? 1 : 0, 1 + turn % MAX_THREADS);
}

static void test_linear(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {
        {1, 1, 1},      {1, 65, 33},   {17, 33, 10},  {129, 7, 101}, {200, 64, 10}, {5, 30, 811},
        {41, 31, 67},   {4500, 3, 61}, {64, 130, 96}, {2, 7, 1031},  {3, 1030, 9},  {4, 101, 2100},
        {1, 1100, 603}, {1, 1024, 70}, {7, 131, 130}, {8, 77, 19},   {6, 15, 5},    {1, 192, 2100},
        {3, 0, 5},      {20, 0, 3},    {1, 4099, 12}};
    int every = SANITIZED && !full_form() ? 2 : 1; /* of the types a half with each size */
    for (int table = 0; table < ALL_TABLES; table++) {
        const Kernels *kernels = any_table_of(table);
        for (size_t s = 0; kernels && s < sizeof sizes / sizeof *sizes; s++) {
            for (int t = 1 + (int)s % every; t < TYPES; t += every)
                check_linear(kernels, sizes[s], types[t], 0, (int)s + t);
            for (int t = 1 + (int)s % every; t < PLAIN_TYPES; t += every)
                check_linear(kernels, sizes[s], types[t], 1, (int)s + t);
        }
    }
}

/* ---- Workspace ------------------------------------------------------------------------------- */

static void check_workspace(const LinearDims *d, int threads)
{
    const Kernels *reference = kernels_reference();
    for (int isa = 0; isa < ISAS; isa++) {
        const Kernels *kernels = kernels_cpu(isa_names[isa]);
        for (int i = 0; kernels && i < 2 * TYPES; i++) {
            LinearPass pass = i % 2 ? LINEAR_FORWARD : LINEAR_BACKWARD_INPUT;
            size_t bytes = kernels->linear_workspace(d, pass, types[i / 2], on(threads));
            assert_int_equal(bytes, reference->linear_workspace(d, pass, types[i / 2], on(threads)));
            assert_true(types[i / 2] != DTYPE_F32 || d->rows >= 256 ||
                        bytes == 0); /* a BLAS's, or few rows */
        }
        if (kernels)
            assert_int_equal(kernels->gemm_stored_workspace(d->rows, d->out, d->in, d->x,
                                                            types[threads % TYPES], d->y, on(threads)),
                             reference->gemm_stored_workspace(d->rows, d->out, d->in, d->x,
                                                              types[threads % TYPES], d->y, on(threads)));
    }
}

static void test_workspace(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 4096, 4096}, {9, 4096, 14336}, {2048, 4096, 128256}, {100, 7, 5}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int threads = 1; threads <= 128; threads = threads * 2 + 1) {
            LinearDims d = {sizes[s][0], sizes[s][1], sizes[s][2], 0, DTYPE_F32, DTYPE_F32, 0};
            check_workspace(&d, threads);
        }
    /* A thread packs 72 rows of A and 1024 columns of B, 384 deep. */
    LinearDims d = {.rows = 2048, .in = 4096, .out = 14336}, few = {.rows = 8, .in = 4096, .out = 14336};
    const Kernels *kernels = kernels_cpu(NULL);
    size_t one = (72 + 1024) * 384 * sizeof(float);
    assert_int_equal(kernels->linear_workspace(&d, LINEAR_FORWARD, DTYPE_NF4, on(1)), one);
    assert_int_equal(kernels->linear_workspace(&d, LINEAR_BACKWARD_INPUT, DTYPE_BF16, on(2)), 2 * one);
    assert_int_equal(kernels->linear_workspace(&few, LINEAR_FORWARD, DTYPE_NF4, on(2)), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decoding), cmocka_unit_test(test_gemm),      cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_linear),   cmocka_unit_test(test_workspace),
    };
    return cmocka_run_group_tests_name("kernels: products of stored arrays", tests, NULL, NULL);
}
