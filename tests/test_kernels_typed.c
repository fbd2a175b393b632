/* Products with stored arrays of every type: each table that runs here against the reference, and against
 * products of the decoded numbers, over awkward shapes. Arrays end where readable memory does. */
#include "products_support.h"

#include <sys/mman.h>
#include <unistd.h>

#include "base/half_.h"
#include "base/quant_codes_.h"

static const DType types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_INT8, DTYPE_NF4, DTYPE_NF4_PLAIN};
enum { TYPES = 6, PLAIN_TYPES = 3 /* the first, which are not quantised */ };

/* ---- Stored arrays --------------------------------------------------------------------------- */

static uint8_t random_byte(void)
{
    return (uint8_t)((random_float() + 1.0f) * 127.99f);
}

static size_t mapped_bytes(uint64_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (size_t)(bytes + page - 1) / page * page + page;
}

/* Ends at a page that cannot be read, but for what alignment to four bytes takes. */
static unsigned char *at_the_edge(uint64_t bytes)
{
    size_t all = mapped_bytes(bytes), page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *start = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(start != MAP_FAILED);
    assert_int_equal(mprotect(start + all - page, page, PROT_NONE), 0);
    return start + all - page - (bytes + 3) / 4 * 4;
}

static void fill_floats(unsigned char *at, int64_t n, float low, float high)
{
    for (int64_t i = 0; i < n; i++) {
        float value = low + (high - low) * (random_float() + 1.0f) / 2;
        memcpy(at + 4 * i, &value, sizeof value);
    }
}

static void fill_quantized(DType type, int64_t rows, int64_t cols, unsigned char *at)
{
    QuantLayout l = quant_layout(type, rows, cols);
    for (uint64_t i = 0; i < l.bytes; i++)
        at[i] = random_byte();
    if (type == DTYPE_NF4) {
        fill_floats(at + l.group_scales, l.groups, 0.1f, 0.3f);
        fill_floats(at + l.offset, 1, 0.5f, 0.6f);
    } else {
        fill_floats(at + l.scales, type == DTYPE_INT8 ? rows : l.blocks, 0.2f, 1.0f);
    }
}

static StoredArray random_stored(DType type, int64_t rows, int64_t cols)
{
    unsigned char *at = at_the_edge(dtype_bytes(type, rows, cols));
    if (dtype_is_quantized(type))
        fill_quantized(type, rows, cols, at);
    for (int64_t i = 0; i < rows * cols && !dtype_is_quantized(type); i++) {
        float value = random_float();
        uint16_t half = type == DTYPE_BF16 ? half_to_bf16(value) : half_to_f16(value);
        memcpy(at + i * (type == DTYPE_F32 ? 4 : 2), type == DTYPE_F32 ? (void *)&value : (void *)&half,
               type == DTYPE_F32 ? 4 : 2);
    }
    return (StoredArray){at, type, rows, cols};
}

static void drop_stored(StoredArray w)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint64_t bytes = dtype_bytes(w.dtype, w.rows, w.cols);
    uintptr_t start = (uintptr_t)w.at + (bytes + 3) / 4 * 4 + page - mapped_bytes(bytes);
    assert_int_equal(munmap((void *)start, mapped_bytes(bytes)), 0);
}

static float element(const StoredArray *w, int64_t i)
{
    QuantLayout l = quant_layout(w->dtype, w->rows, w->cols);
    float scale;
    switch (w->dtype) {
    case DTYPE_BF16:
        return half_from_bf16(((const uint16_t *)w->at)[i]);
    case DTYPE_F16:
        return half_from_f16(((const uint16_t *)w->at)[i]);
    case DTYPE_INT8:
        memcpy(&scale, (const char *)w->at + l.scales + 4 * (i / w->cols), sizeof scale);
        return quant_int8_value(((const int8_t *)w->at)[i], scale);
    case DTYPE_NF4:
    case DTYPE_NF4_PLAIN:
        return quant_nf4_value(w->at, i, quant_block_scale(w->dtype, &l, w->at, i / NF4_BLOCK));
    default:
        return ((const float *)w->at)[i];
    }
}

static float *decoded(const StoredArray *w)
{
    float *x = buffer(w->rows * w->cols);
    for (int64_t i = 0; i < w->rows * w->cols; i++)
        x[i] = element(w, i);
    return x;
}

/* Workspace of exactly so many bytes between guard zones. */
static unsigned char *workspace_of(size_t bytes)
{
    unsigned char *start = aligned_alloc(64, (bytes + 128 + 63) / 64 * 64);
    assert_non_null(start);
    memset(start, 0x5a, bytes + 128);
    memset(start + 64, 0xff, bytes); /* NaN */
    return start + 64;
}

static void drop_workspace(unsigned char *space, size_t bytes)
{
    for (int i = 0; i < 64; i++)
        if (space[-1 - i] != 0x5a || space[bytes + (size_t)i] != 0x5a)
            fail_msg("written outside a workspace of %zu bytes", bytes);
    free(space - 64);
}

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
    size_t bytes = kernels->gemm_stored_workspace(k, n, k, on(1));
    unsigned char *space = workspace_of(bytes);
    kernels->gemm_stored(trans_b, k, n, k, &a, &b, 0, c, n, space, on(1));
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
    unsigned char *space = workspace_of(kernels->gemm_stored_workspace(1, ALL, 1, on(1)));
    kernels->gemm_stored(0, 1, ALL, 1, &a, &b, 0, c, ALL, space, on(1));
    for (int i = 0; i < ALL; i++)
        if (c[i] != numbers[i] && !(isnan(c[i]) && isnan(numbers[i])))
            fail_msg("%s %s %04x is %.9g, not %.9g", kernels->name, dtype_name(type), (unsigned)i,
                     (double)c[i], (double)numbers[i]);
    drop_workspace(space, kernels->gemm_stored_workspace(1, ALL, 1, on(1)));
    drop(c, ALL), drop(numbers, ALL), drop_stored(b);
}

static void test_decoding(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{1, 1},    {3, 5},   {16, 64},  {7, 36},  {64, 16},
                                       {33, 100}, {5, 391}, {130, 65}, {1, 700}, {40, 128}};
    for (int isa = 0; isa <= ISAS; isa++) {
        const Kernels *kernels = isa < ISAS ? kernels_cpu(isa_names[isa]) : kernels_reference();
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

static void check_gemm(const Kernels *kernels, DType left, DType right, int trans_b, const int64_t *size,
                       int64_t pad, float beta, int threads)
{
    int64_t m = size[0], n = size[1], k = size[2], ldc = n + pad, nc = m * ldc;
    StoredArray a = random_stored(left, m, k + pad);
    StoredArray b = random_stored(right, trans_b ? n : k, (trans_b ? k : n) + pad);
    float *da = decoded(&a), *db = decoded(&b), *c = random_buffer(nc);
    for (int64_t i = 0; beta == 0 && i < nc; i++)
        c[i] = i % ldc < n ? NAN : c[i]; /* between rows, nothing may change */
    float *expected = copied_buffer(nc, c), *again = copied_buffer(nc, c);
    size_t bytes = kernels->gemm_stored_workspace(m, n, k, on(threads));
    unsigned char *space = workspace_of(bytes);
    kernels->gemm_stored(trans_b, m, n, k, &a, &b, beta, c, ldc, space, on(threads));
    kernels->gemm_stored(trans_b, m, n, k, &a, &b, beta, again, ldc, space, on(threads));
    kernels_reference()->gemm(0, trans_b, m, n, k, 1, da, a.cols, db, b.cols, beta, expected, ldc, on(1));
    assert_near(dtype_name(right), nc, c, expected, 2e-5 + 1e-6 * sqrt((double)k));
    assert_same_bits("gemm_stored", nc, c, again);
    drop_workspace(space, bytes);
    drop(da, a.rows * a.cols), drop(db, b.rows * b.cols), drop(c, nc), drop(expected, nc), drop(again, nc);
    drop_stored(a), drop_stored(b);
}

static void test_gemm(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1},     {1, 17, 33},   {17, 33, 1},   {7, 5, 0},
                                       {13, 29, 31},  {64, 10, 100}, {100, 1, 64},  {3, 257, 67},
                                       {131, 70, 65}, {65, 64, 97},  {73, 96, 128}, {12, 32, 768}};
    static const float betas[] = {0, 1, 0.5f};
    for (int isa = 0; isa <= ISAS; isa++) {
        const Kernels *kernels = isa < ISAS ? kernels_cpu(isa_names[isa]) : kernels_reference();
        if (!kernels)
            continue;
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int i = 0; i < 2 * TYPES; i++)
                check_gemm(kernels, types[((size_t)i + s) % PLAIN_TYPES], types[i / 2], i % 2, sizes[s],
                           s % 2 ? 5 : 0, betas[((size_t)i + s) % 3], 1 + (int)(s + (size_t)i) % MAX_THREADS);
    }
}

/* More than one block in every direction, alone and by several threads. */
static void test_blocks(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{80, 1060, 390}, {9, 1100, 800}, {150, 50, 771}};
    int every = SANITIZED && !full_form() ? 5 : 1; /* each size still, and both orders of B */
    for (int isa = 0; isa < ISAS; isa++) {
        const Kernels *kernels = kernels_cpu(isa_names[isa]);
        for (int i = 0; kernels && i < 3 * TYPES; i += every)
            check_gemm(kernels, DTYPE_F32, types[i / 3], i % 2, sizes[i % 3], i % 5, i % 4 ? 0 : 1,
                       1 + i % MAX_THREADS);
        static const int64_t large[] = {210, 150, 130}; /* every panel has work for a thread of its own */
        for (int threads = 1; kernels && threads <= 2 * MAX_THREADS; threads++)
            check_gemm(kernels, DTYPE_BF16, types[threads % TYPES], threads % 2, large, 0, 0, threads);
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
    LinearDims d = {size[0], size[1], size[2], in_out};
    for (int i = 0; i < 3; i++) {
        Activation act = (Activation)((turn + i) % 5);
        int with_pre = act == ACT_GELU || act == ACT_GELU_TANH || act == ACT_SILU || i == 1;
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
    for (int isa = 0; isa <= ISAS; isa++) {
        const Kernels *kernels = isa < ISAS ? kernels_cpu(isa_names[isa]) : kernels_reference();
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
            assert_true(types[i / 2] != DTYPE_F32 || bytes == 0);
        }
        if (kernels)
            assert_int_equal(kernels->gemm_stored_workspace(d->rows, d->out, d->in, on(threads)),
                             reference->gemm_stored_workspace(d->rows, d->out, d->in, on(threads)));
    }
}

static void test_workspace(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 4096, 4096}, {9, 4096, 14336}, {2048, 4096, 128256}, {100, 7, 5}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int threads = 1; threads <= 128; threads = threads * 2 + 1) {
            LinearDims d = {sizes[s][0], sizes[s][1], sizes[s][2], 0};
            check_workspace(&d, threads);
        }
    /* A thread packs 72 rows of A and 1024 columns of B, 384 deep. */
    LinearDims d = {2048, 4096, 14336, 0}, few = {8, 4096, 14336, 0};
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
