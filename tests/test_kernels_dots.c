/* Products of bf16 by bf16 with dot instructions, on processors that have them: exact where sums are, near
 * the plain kernels' elsewhere, and never compared with them to the last bit. All other products are the
 * plain kernels'. */
#include "typed_support.h"

static const DType plain[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

/* NULL after saying so, where this processor has none. */
static const Kernels *dots(void)
{
    const Kernels *kernels = kernels_cpu("avx512-bf16");
    if (!kernels)
        print_message("this processor, or this build, has no AVX512-BF16\n");
    return kernels;
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

/* Small whole numbers, whose sums are exact in any order. */
static StoredArray whole_numbers(DType type, int64_t rows, int64_t cols)
{
    StoredArray w = random_stored(type, rows, cols);
    for (int64_t i = 0; i < rows * cols; i++) {
        float value = rintf(3 * random_float());
        round_into(type, 1, &value, (char *)writable(w) + i * (type == DTYPE_F32 ? 4 : 2));
    }
    return w;
}

/* ---- gemm ------------------------------------------------------------------------------------ */

typedef struct Shape3 {
    int64_t m, n, k;
} Shape3;

static void multiply(const Kernels *kernels, int trans, Shape3 s, const StoredArray *a, const StoredArray *b,
                     float beta, const StoredArray *c, int threads)
{
    size_t bytes =
        kernels->gemm_stored_workspace(s.m, s.n, s.k, DTYPE_BF16, DTYPE_BF16, c->dtype, on(threads));
    unsigned char *space = workspace_of(bytes);
    kernels->gemm_stored(trans & 1, trans >> 1, s.m, s.n, s.k, 0.5f, a, b, beta, c->dtype, writable(*c), s.n,
                         space, on(threads));
    drop_workspace(space, bytes);
}

static void check_gemm(const Kernels *kernels, DType c_type, int trans, Shape3 s, float beta, int exact,
                       int threads)
{
    StoredArray (*make)(DType, int64_t, int64_t) = exact ? whole_numbers : random_stored;
    int trans_a = trans & 1, trans_b = trans >> 1;
    StoredArray a = make(DTYPE_BF16, trans_a ? s.k : s.m, trans_a ? s.m : s.k);
    StoredArray b = make(DTYPE_BF16, trans_b ? s.n : s.k, trans_b ? s.k : s.n), c = make(c_type, s.m, s.n);
    float *da = decoded(&a), *db = decoded(&b), *expected = decoded(&c);
    multiply(kernels, trans, s, &a, &b, beta, &c, threads);
    kernels_cpu("base")->gemm(trans_a, trans_b, s.m, s.n, s.k, 0.5f, da, a.cols, db, b.cols, beta, expected,
                              s.n, on(1));
    StoredArray rounded = copied(&c);
    round_into(c_type, s.m * s.n, expected, writable(rounded));
    if (exact)
        for (int64_t i = 0; i < s.m * s.n; i++)
            assert_true(element(&c, i) == element(&rounded, i));
    assert_rounded("C", &c, expected, 1e-6 * (1 + sqrt((double)s.k)));
    drop(da, s.m * s.k), drop(db, s.n * s.k), drop(expected, s.m * s.n);
    drop_stored(a), drop_stored(b), drop_stored(c), drop_stored(rounded);
}

/* Odd numbers of terms, more than are packed at once, parts of a tile, and nothing at all. */
static void test_gemm(void **state)
{
    (void)state;
    static const Shape3 shapes[] = {{1, 1, 1},    {1, 33, 2},     {13, 29, 31},    {7, 5, 0},
                                    {12, 32, 16}, {73, 97, 128},  {130, 70, 385},  {80, 1060, 400},
                                    {5, 530, 97}, {300, 33, 801}, {81, 1061, 1543}};
    const Kernels *kernels = dots();
    for (int s = 0; kernels && s < (int)(sizeof shapes / sizeof *shapes); s++)
        for (int i = 0; i < (s < 9 ? 24 : 8); i++)
            check_gemm(kernels, plain[i % 3], i % 4, shapes[s],
                       i % 5 == 1   ? 1
                       : i % 5 == 2 ? 0.5f
                                    : 0,
                       i / 4 % 2, 1 + (i + s) % MAX_THREADS);
}

/* With an operand of another type nothing changes, to the last bit. */
static void test_other_types(void **state)
{
    (void)state;
    const Kernels *kernels = dots(), *usual = kernels_cpu("avx512");
    Shape3 s = {45, 70, 130};
    for (int i = 0; kernels && i < 9 * TYPES; i++) {
        DType of[] = {plain[i % 3], types[i / 3 % TYPES], plain[i / (3 * TYPES)]};
        if (of[0] == DTYPE_BF16 && of[1] == DTYPE_BF16)
            continue;
        StoredArray a = random_stored(of[0], s.m, s.k), b = random_stored(of[1], s.n, s.k);
        StoredArray c = random_stored(of[2], s.m, s.n), same = copied(&c);
        multiply(kernels, 2, s, &a, &b, 1, &c, 2);
        multiply(usual, 2, s, &a, &b, 1, &same, 2);
        assert_memory_equal(c.at, same.at, dtype_bytes(of[2], s.m, s.n));
        drop_stored(a), drop_stored(b), drop_stored(c), drop_stored(same);
    }
}

/* Whatever is not a number stays so; the denormal counts for zero, or for itself. */
static void test_special_values(void **state)
{
    (void)state;
    const float values[] = {NAN, INFINITY, -INFINITY, 1e-39f, 3e38f};
    const Kernels *kernels = dots();
    for (int i = 0; kernels && i < 5; i++) {
        Shape3 s = {14, 35, 20};
        StoredArray a = whole_numbers(DTYPE_BF16, s.m, s.k), b = whole_numbers(DTYPE_BF16, s.n, s.k);
        float *out = buffer(s.m * s.n), one = 1;
        StoredArray c = stored(out, s.m, s.n);
        for (int64_t j = 0; j < s.k; j++)
            round_into(DTYPE_BF16, 1, j == 7 ? &values[i] : &one, (uint16_t *)writable(a) + 3 * s.k + j);
        for (int64_t j = 0; j < s.k; j++)
            round_into(DTYPE_BF16, 1, &one, (uint16_t *)writable(b) + 5 * s.k + j);
        multiply(kernels, 2, s, &a, &b, 0, &c, 1);
        float is = out[3 * s.n + 5], expected = 0.5f * (element(&a, 3 * s.k + 7) + 19);
        assert_true(isnan(values[i]) ? isnan(is) : is == expected);
        assert_true(isfinite(out[4 * s.n + 5]) && isfinite(out[2 * s.n + 5])); /* other rows are as before */
        drop(out, s.m * s.n), drop_stored(a), drop_stored(b);
    }
}

/* ---- linear ---------------------------------------------------------------------------------- */

enum { RESULTS = 5 };

/* pre, y, dx, dw and dbias of a layer whose arrays are all bf16. */
static void run_layer(const Kernels *kernels, LinearDims d, Activation act, const StoredArray *x,
                      const StoredArray *w, const StoredArray *dy, const float *bias,
                      StoredArray out[RESULTS], int threads)
{
    static const LinearPass passes[] = {LINEAR_FORWARD, LINEAR_BACKWARD_INPUT, LINEAR_BACKWARD_WEIGHT};
    size_t bytes = 0;
    for (int i = 0; i < 3; i++) {
        size_t pass = kernels->linear_workspace(&d, passes[i], DTYPE_BF16, on(threads));
        bytes = pass > bytes ? pass : bytes;
    }
    unsigned char *space = workspace_of(bytes);
    kernels->linear_forward(&d, act, x->at, w, bias, writable(out[0]), writable(out[1]), space, on(threads));
    kernels->linear_backward_input(&d, dy->at, w, 0, writable(out[2]), space, on(threads));
    kernels->linear_backward_weight(&d, x->at, dy->at, DTYPE_BF16, 0, writable(out[3]), DTYPE_F32, 0,
                                    writable(out[4]), space, on(threads));
    drop_workspace(space, bytes);
}

static void check_layer(const Kernels *kernels, LinearDims d, Activation act, int threads)
{
    StoredArray x = random_stored(DTYPE_BF16, d.rows, d.in), dy = random_stored(DTYPE_BF16, d.rows, d.out);
    StoredArray w = random_stored(DTYPE_BF16, d.in_out ? d.in : d.out, d.in_out ? d.out : d.in);
    float *bias = random_buffer(d.out);
    StoredArray shapes[RESULTS] = {{NULL, DTYPE_BF16, d.rows, d.out},
                                   {NULL, DTYPE_BF16, d.rows, d.out},
                                   {NULL, DTYPE_BF16, d.rows, d.in},
                                   {NULL, DTYPE_BF16, w.rows, w.cols},
                                   {NULL, DTYPE_F32, 1, d.out}};
    StoredArray is[RESULTS], usual[RESULTS];
    for (int i = 0; i < RESULTS; i++) {
        is[i] = random_stored(shapes[i].dtype, shapes[i].rows, shapes[i].cols);
        usual[i] = random_stored(shapes[i].dtype, shapes[i].rows, shapes[i].cols);
    }
    run_layer(kernels, d, act, &x, &w, &dy, bias, is, threads);
    run_layer(kernels_cpu("avx512"), d, act, &x, &w, &dy, bias, usual, threads);
    static const char *const names[] = {"pre", "y", "dx", "dw", "dbias"};
    for (int i = 0; i < RESULTS; i++) {
        float *expected = decoded(&usual[i]);
        double terms = sqrt((double)(d.rows + d.in + d.out));
        assert_rounded(names[i], &is[i], expected, 1e-6 * (1 + terms) + (i == 1 ? 8e-3 : 0));
        drop(expected, usual[i].rows * usual[i].cols);
        drop_stored(is[i]), drop_stored(usual[i]);
    }
    drop(bias, d.out), drop_stored(x), drop_stored(w), drop_stored(dy);
}

static void test_linear(void **state)
{
    (void)state;
    static const Shape3 shapes[] = {{1, 65, 33},   {17, 33, 10},    {129, 7, 101}, {3, 1030, 9},
                                    {90, 410, 50}, {300, 40, 1100}, {41, 801, 67}};
    const Kernels *kernels = dots();
    for (int s = 0; kernels && s < (int)(sizeof shapes / sizeof *shapes); s++)
        for (int i = 0; i < 6; i++)
            check_layer(kernels,
                        (LinearDims){shapes[s].m, shapes[s].n, shapes[s].k, i % 2, DTYPE_BF16, DTYPE_BF16, 0},
                        (Activation)((s + i) % 5), 1 + i % MAX_THREADS);
}

/* ---- The choice ------------------------------------------------------------------------------ */

static void test_choice(void **state)
{
    (void)state;
    const Kernels *kernels = dots(), *usual = kernels_cpu("avx512");
    if (!kernels)
        return;
    assert_string_equal(kernels->name, "avx512-bf16");
    assert_non_null(usual);
    assert_true(kernels->gemm_stored != usual->gemm_stored && kernels->gemm == usual->gemm);
    const char *isa = getenv("BRIM_ISA");
    assert_true(isa || kernels_cpu(NULL) == kernels);
    assert_true(!isa || strcmp(isa, "avx512") || kernels_cpu(NULL) == usual);
    LinearDims d = {.rows = 300, .in = 500, .out = 700, .x = DTYPE_BF16, .y = DTYPE_BF16};
    for (int threads = 1; threads < 9; threads++)
        for (int pass = 0; pass < 3; pass++)
            assert_int_equal(kernels->linear_workspace(&d, (LinearPass)pass, DTYPE_BF16, on(threads)),
                             usual->linear_workspace(&d, (LinearPass)pass, DTYPE_BF16, on(threads)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm),           cmocka_unit_test(test_other_types),
        cmocka_unit_test(test_special_values), cmocka_unit_test(test_linear),
        cmocka_unit_test(test_choice),
    };
    return cmocka_run_group_tests_name("kernels: bf16 by dot instructions", tests, NULL, NULL);
}
