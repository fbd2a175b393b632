/* Products into 16 bit, and the linear layer of 16-bit values. Whole numbers have exact sums, so that what is
 * rounded once, at the end, is known to the last bit, whatever the order of sums; other numbers are compared
 * with a float layer of the same values. */
#include "typed_support.h"

enum { HALVES = 2 };
static const DType plain[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

static StoredArray whole_numbers(DType type, int64_t rows, int64_t cols)
{
    StoredArray w = random_stored(type, rows, cols);
    for (int64_t i = 0; i < rows * cols; i++) {
        float value = rintf(3 * random_float());
        round_into(type, 1, &value, (char *)(uintptr_t)w.at + i * (type == DTYPE_F32 ? 4 : 2));
    }
    return w;
}

static void *writable(StoredArray w)
{
    return (void *)(uintptr_t)w.at;
}

static StoredArray copied(const StoredArray *w)
{
    StoredArray copy = random_stored(w->dtype, w->rows, w->cols);
    memcpy(writable(copy), w->at, dtype_bytes(w->dtype, 1, w->rows * w->cols));
    return copy;
}

/* Every number of x is that of `expected`, rounded. */
static void assert_exact(const char *what, const StoredArray *x, const float *expected)
{
    StoredArray y = copied(x);
    round_into(x->dtype, x->rows * x->cols, expected, writable(y));
    for (int64_t i = 0; i < x->rows * x->cols; i++)
        if (element(x, i) != element(&y, i))
            fail_msg("%s %s[%lld] is %.9g, not %.9g", what, dtype_name(x->dtype), (long long)i,
                     (double)element(x, i), (double)element(&y, i));
    drop_stored(y);
}

/* ---- gemm ------------------------------------------------------------------------------------ */

static void check_gemm(const Kernels *kernels, const DType *of, int trans, const int64_t *size, float beta,
                       int threads)
{
    int64_t m = size[0], n = size[1], k = size[2];
    int trans_a = trans & 1, trans_b = trans >> 1;
    StoredArray a = whole_numbers(of[0], trans_a ? k : m, trans_a ? m : k);
    StoredArray b = whole_numbers(of[1], trans_b ? n : k, trans_b ? k : n), c = whole_numbers(of[2], m, n);
    float *da = decoded(&a), *db = decoded(&b), *expected = decoded(&c);
    size_t bytes = kernels->gemm_stored_workspace(m, n, k, a.dtype, b.dtype, c.dtype, on(threads));
    unsigned char *space = workspace_of(bytes);
    kernels->gemm_stored(trans_a, trans_b, m, n, k, 2, &a, &b, beta, c.dtype, writable(c), n, space,
                         on(threads));
    kernels_cpu(NULL)->gemm(trans_a, trans_b, m, n, k, 2, da, a.cols, db, b.cols, beta, expected, n, on(1));
    assert_exact(kernels->name, &c, expected);
    drop_workspace(space, bytes);
    drop(da, m * k), drop(db, n * k), drop(expected, m * n);
    drop_stored(a), drop_stored(b), drop_stored(c);
}

/* One block, several, sums over more terms than are packed at once, and more rows than are staged at once. */
static void test_sums_are_rounded_once(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1},      {13, 29, 31},    {7, 5, 0},
                                       {73, 96, 128},  {130, 70, 385},  {80, 1060, 400},
                                       {5, 530, 1537}, {300, 33, 2000}, {400, 1030, 1540}};
    int sized = (int)(sizeof sizes / sizeof *sizes) - (SANITIZED && !full_form() ? 1 : 0);
    for (int table = 0; table < TABLES; table++) {
        const Kernels *kernels = table_of(table);
        for (int s = 0; kernels && s < sized - (table == CARD); s++)
            for (int i = 0; i < (s < 6 ? 18 : 4); i++) {
                DType of[] = {plain[i % 3], plain[(i / 3 + s) % 3], plain[1 + (i + s) % HALVES]};
                check_gemm(kernels, of, (i + i / 4) % 4, sizes[s], i % 3 ? 0 : 1,
                           1 + (i + s) % (2 * MAX_THREADS));
            }
    }
    for (int i = 0; i < 8; i++)
        check_gemm(kernels_reference(), (DType[]){plain[i % 3], plain[i / 3], plain[1 + i % HALVES]}, i % 4,
                   sizes[1], i / 4 ? 1 : 0, 1);
}

/* A card copies operands of another type strip by strip: of the weight only, and of both. */
static void test_strips(void **state)
{
    (void)state;
    enum { TERMS = 1 << 17, LINES = 65, ROWS = 5 };
    const Kernels *kernels = kernels_cuda();
    LinearDims d = {ROWS, TERMS, LINES, 0, DTYPE_F32, DTYPE_F32, 0};
    StoredArray w = random_stored(DTYPE_INT8, LINES, TERMS), x = whole_numbers(DTYPE_F32, ROWS, TERMS);
    float *y = filled_buffer(ROWS * LINES, NAN), *expected = filled_buffer(ROWS * LINES, NAN);
    size_t bytes = kernels->linear_workspace(&d, LINEAR_FORWARD, DTYPE_INT8, on(1));
    unsigned char *space = workspace_of(bytes);
    assert_true(bytes == 32 << 20);
    kernels->linear_forward(&d, ACT_NONE, x.at, &w, NULL, NULL, y, space, on(1));
    kernels_reference()->linear_forward(&d, ACT_NONE, x.at, &w, NULL, NULL, expected, NULL, on(1));
    assert_near("strips of a weight", ROWS * LINES, y, expected, 1e-3);
    drop_workspace(space, bytes), drop(y, ROWS * LINES), drop(expected, ROWS * LINES);
    drop_stored(w), drop_stored(x);
    if (full_form()) {
        static const DType of[] = {DTYPE_F32, DTYPE_F32, DTYPE_BF16};
        static const int64_t size[] = {LINES, LINES, 2 * TERMS};
        assert_true(kernels->gemm_stored_workspace(LINES, LINES, 2 * TERMS, of[0], of[1], of[2], on(1)) ==
                    64 << 20);
        for (int trans = 0; trans < 4; trans++)
            check_gemm(kernels, of, trans, size, 1, 1);
    }
}

/* What 16 bit cannot hold becomes infinite, and NaN stays. */
static void test_overflow(void **state)
{
    (void)state;
    float values[] = {300, 60000, NAN, 1}, factors[] = {300, 1, 1, 1};
    for (int table = 0; table < ALL_TABLES; table++) {
        const Kernels *kernels = any_table_of(table);
        for (int i = 0; kernels && i < 4; i++) {
            StoredArray a = stored(&values[i], 1, 1), b = stored(&factors[i], 1, 1);
            uint16_t c = 0;
            size_t bytes = kernels->gemm_stored_workspace(1, 1, 1, DTYPE_F32, DTYPE_F32, DTYPE_F16, on(1));
            unsigned char *space = workspace_of(bytes);
            kernels->gemm_stored(0, 0, 1, 1, 1, 1, &a, &b, 0, DTYPE_F16, &c, 1, space, on(1));
            float is = half_from_f16(c);
            assert_true(i == 0 ? isinf(is) : i == 2 ? isnan(is) : is == values[i]);
            drop_workspace(space, bytes);
        }
    }
}

/* ---- linear ---------------------------------------------------------------------------------- */

typedef struct Layer {
    LinearDims d;
    StoredArray x, w, dy;
    float *bias, *dx, *dw, *ddy; /* of x, w and dy as floats */
} Layer;

static Layer layer(const Kernels *kernels, LinearDims d, DType w,
                   StoredArray (*values)(DType, int64_t, int64_t))
{
    DType type = half_of(d.x, d.y, DTYPE_F32);
    Layer l = {
        .d = d, .x = values(d.x, d.rows, d.in), .dy = values(d.y, d.rows, d.out), .bias = buffer(d.out)};
    l.w = d.in_out ? values(w, d.in, d.out) : values(w, d.out, d.in);
    for (int64_t i = 0; i < d.out; i++)
        l.bias[i] = rintf(8 * random_float());
    l.dx = decoded(&l.x), l.dw = decoded(&l.w), l.ddy = decoded(&l.dy);
    as_multiplied(kernels, type, d.rows * d.in, l.dx);
    as_multiplied(kernels, type, d.in * d.out, l.dw);
    as_multiplied(kernels, type, d.rows * d.out, l.ddy);
    return l;
}

static void drop_layer(Layer *l)
{
    drop(l->bias, l->d.out), drop(l->dx, l->d.rows * l->d.in), drop(l->dw, l->d.in * l->d.out);
    drop(l->ddy, l->d.rows * l->d.out);
    drop_stored(l->x), drop_stored(l->w), drop_stored(l->dy);
}

static LinearDims as_float(LinearDims d)
{
    d.x = d.y = DTYPE_F32;
    return d;
}

/* y is the activation of what pre holds, bit for bit, with pre and without; pre is the rounded product. */
static void check_forward(const Kernels *kernels, const Layer *l, Activation act, int exact, int threads)
{
    const LinearDims *d = &l->d;
    LinearDims floats = as_float(*d);
    int64_t n = d->rows * d->out;
    StoredArray pre = random_stored(d->y, d->rows, d->out), y = copied(&pre), alone = copied(&pre);
    /* A card multiplies few rows with a weight of another type as it is. */
    int few = d->rows <= 4 && d->in > 0 && !d->in_out && l->w.dtype != half_of(d->y, d->x, DTYPE_F32);
    float *expected = buffer(n), *w = few ? decoded(&l->w) : copied_buffer(d->in * d->out, l->dw);
    float *x = few ? decoded(&l->x) : copied_buffer(d->rows * d->in, l->dx);
    StoredArray plain_w = stored(w, l->w.rows, l->w.cols);
    size_t bytes = kernels->linear_workspace(d, LINEAR_FORWARD, l->w.dtype, on(threads));
    unsigned char *space = workspace_of(bytes);
    const float *bias = threads % 2 ? l->bias : NULL;
    kernels->linear_forward(d, act, l->x.at, &l->w, bias, writable(pre), writable(y), space, on(threads));
    kernels->linear_forward(d, act, l->x.at, &l->w, bias, NULL, writable(alone), space, on(threads));
    kernels_reference()->linear_forward(&floats, ACT_NONE, x, &plain_w, bias, NULL, expected, NULL, on(1));
    if (exact)
        assert_exact("pre", &pre, expected);
    else
        assert_rounded("pre", &pre, expected, 2e-5 + 1e-6 * sqrt((double)d->in));
    assert_memory_equal(y.at, alone.at, dtype_bytes(d->y, 1, n));
    for (int64_t i = 0; i < n; i++) { /* the reference's activation, by a layer of one value */
        float value = element(&pre, i), unit = 1;
        StoredArray identity = stored(&unit, 1, 1);
        kernels_reference()->linear_forward(&(LinearDims){1, 1, 1, 0, 0, 0, 0}, act, &value, &identity, NULL,
                                            NULL, expected + i, NULL, on(1));
    }
    assert_rounded("y", &y, expected, 2e-6);
    if (act == ACT_NONE)
        assert_memory_equal(y.at, pre.at, dtype_bytes(d->y, 1, n));
    drop_workspace(space, bytes);
    drop(expected, n), drop(w, d->in * d->out), drop(x, d->rows * d->in);
    drop_stored(pre), drop_stored(y), drop_stored(alone);
}

static void compare(const char *what, int exact, const StoredArray *x, const float *expected, int64_t terms)
{
    if (exact)
        assert_exact(what, x, expected);
    else
        assert_rounded(what, x, expected, 2e-5 + 2e-6 * sqrt((double)terms));
}

static void check_backward_input(const Kernels *kernels, const Layer *l, float beta, int exact, int threads)
{
    const LinearDims *d = &l->d;
    LinearDims floats = as_float(*d);
    StoredArray dx = whole_numbers(d->x, d->rows, d->in), plain_w = stored(l->dw, l->w.rows, l->w.cols);
    float *expected = decoded(&dx);
    size_t bytes = kernels->linear_workspace(d, LINEAR_BACKWARD_INPUT, l->w.dtype, on(threads));
    unsigned char *space = workspace_of(bytes);
    kernels->linear_backward_input(d, l->dy.at, &l->w, beta, writable(dx), space, on(threads));
    kernels_reference()->linear_backward_input(&floats, l->ddy, &plain_w, beta, expected, NULL, on(1));
    compare("dx", exact, &dx, expected, d->out);
    drop_workspace(space, bytes);
    drop(expected, d->rows * d->in), drop_stored(dx);
}

static void check_backward_weight(const Kernels *kernels, const Layer *l, DType grad, float beta, int exact,
                                  int threads)
{
    const LinearDims *d = &l->d;
    LinearDims floats = as_float(*d);
    DType other = grad == DTYPE_BF16 ? DTYPE_F32 : grad;
    StoredArray dw = whole_numbers(grad, l->w.rows, l->w.cols), db = whole_numbers(other, 1, d->out);
    float *expected = decoded(&dw), *expected_bias = decoded(&db);
    size_t bytes = kernels->linear_workspace(d, LINEAR_BACKWARD_WEIGHT, grad, on(threads));
    unsigned char *space = workspace_of(bytes);
    kernels->linear_backward_weight(d, l->x.at, l->dy.at, grad, beta, writable(dw), other, 0, NULL, space,
                                    on(threads));
    kernels->linear_backward_weight(d, l->x.at, l->dy.at, grad, 0, NULL, other, beta, writable(db), space,
                                    on(threads));
    float *dy = decoded(&l->dy); /* of which sums of columns are, whatever the product rounds */
    kernels_reference()->linear_backward_weight(&floats, l->dx, l->ddy, DTYPE_F32, beta, expected, DTYPE_F32,
                                                0, NULL, NULL, on(1));
    kernels_reference()->linear_backward_weight(&floats, l->dx, dy, DTYPE_F32, 0, NULL, DTYPE_F32, beta,
                                                expected_bias, NULL, on(1));
    compare("dw", exact, &dw, expected, d->rows);
    compare("dbias", exact, &db, expected_bias, d->rows);
    drop_workspace(space, bytes);
    drop(expected, d->in * d->out), drop(expected_bias, d->out), drop(dy, d->rows * d->out);
    drop_stored(dw), drop_stored(db);
}

/* Types of x and y, which only a head's differ, and of W. */
static const DType layers[][3] = {{DTYPE_BF16, DTYPE_BF16, DTYPE_BF16}, {DTYPE_F16, DTYPE_F16, DTYPE_F16},
                                  {DTYPE_BF16, DTYPE_BF16, DTYPE_F32},  {DTYPE_F16, DTYPE_F32, DTYPE_BF16},
                                  {DTYPE_BF16, DTYPE_F32, DTYPE_F32},   {DTYPE_F32, DTYPE_BF16, DTYPE_F32},
                                  {DTYPE_F16, DTYPE_F16, DTYPE_NF4},    {DTYPE_BF16, DTYPE_BF16, DTYPE_INT8}};

static void check_layer(const Kernels *kernels, const int64_t *size, const DType *of, int turn)
{
    int exact = !dtype_is_quantized(of[2]) && turn % 2, in_out = turn % 3 == 0 && !dtype_is_quantized(of[2]);
    int threads = 1 + turn % MAX_THREADS;
    LinearDims d = {size[0], size[1], size[2], in_out, of[0], of[1], 0};
    Layer l = layer(kernels, d, of[2], exact ? whole_numbers : random_stored);
    for (int i = 0; i < 2; i++)
        check_forward(kernels, &l, (Activation)((turn + i) % 5), exact, threads + i);
    check_backward_input(kernels, &l, turn % 2 ? 1 : 0, exact, threads);
    check_backward_weight(kernels, &l, plain[turn % 3], turn % 2 ? 0 : 1, exact, threads);
    drop_layer(&l);
}

static void test_linear(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {
        {1, 1, 1},    {1, 65, 33},   {17, 33, 10},   {129, 7, 101}, {200, 64, 10},  {5, 30, 811},
        {41, 31, 67}, {2, 7, 1031},  {3, 1030, 9},   {8, 77, 19},   {1, 192, 2100}, {3, 0, 5},
        {20, 0, 3},   {1, 4099, 12}, {80, 12, 1100}, {90, 410, 50}, {1700, 20, 30}};
    int of = (int)(sizeof layers / sizeof *layers), every = SANITIZED && !full_form() ? 3 : 1;
    for (int table = 0; table < ALL_TABLES; table++) {
        const Kernels *kernels = any_table_of(table);
        for (int s = 0; kernels && s < (int)(sizeof sizes / sizeof *sizes); s++)
            for (int i = s % every; i < of; i += every)
                check_layer(kernels, sizes[s], layers[i], s + i);
    }
}

/* ---- Workspace ------------------------------------------------------------------------------- */

/* The same for each instruction set; nothing where all is float and small; and never more than a thread's
 * blocks. */
static void check_workspace(LinearDims d, int threads)
{
    static const LinearPass passes[] = {LINEAR_FORWARD, LINEAR_BACKWARD_INPUT, LINEAR_BACKWARD_WEIGHT};
    for (int i = 0; i < 3 * 3 * 3 * 3; i++) {
        d.x = plain[i % 3], d.y = plain[i / 3 % 3];
        DType w = plain[i / 9 % 3];
        LinearPass pass = passes[i / 27];
        size_t bytes = kernels_reference()->linear_workspace(&d, pass, w, on(threads));
        size_t block = (72 + 1024) * 384 * sizeof(float), stage = (3 << 17) * sizeof(float);
        int all_float = d.x == DTYPE_F32 && d.y == DTYPE_F32 && w == DTYPE_F32;
        int large =
            (double)d.rows * (double)d.in * (double)d.out >= 1 << 29; /* then it may be our own product */
        assert_true(!all_float || large || bytes == 0);
        assert_true(bytes <= (size_t)threads * (block + stage) || d.rows <= 8);
        for (int isa = 0; isa < ISAS && pass != LINEAR_BACKWARD_WEIGHT; isa++)
            if (kernels_cpu(isa_names[isa]))
                assert_int_equal(kernels_cpu(isa_names[isa])->linear_workspace(&d, pass, w, on(threads)),
                                 bytes);
        for (int isa = 1; isa < ISAS; isa++)
            if (kernels_cpu(isa_names[isa]))
                assert_int_equal(kernels_cpu(isa_names[isa])->linear_workspace(&d, pass, w, on(threads)),
                                 kernels_cpu("base")->linear_workspace(&d, pass, w, on(threads)));
    }
}

static void test_workspace(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 4096, 4096}, {9, 4096, 14336},  {2048, 4096, 128256},
                                       {100, 7, 5},     {2048, 768, 2304}, {1024, 288, 768}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int threads = 1; threads <= 128; threads = threads * 2 + 1)
            check_workspace((LinearDims){.rows = sizes[s][0], .in = sizes[s][1], .out = sizes[s][2]},
                            threads);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums_are_rounded_once),
        cmocka_unit_test(test_strips),
        cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_workspace),
    };
    return cmocka_run_group_tests_name("kernels: products into 16 bit", tests, NULL, NULL);
}
