/* Types other than float: codes, scales and decoded values bit for bit as bitsandbytes makes them, 16-bit
 * floats over all their values; any piece of a matrix alone, every table and number of threads. */
#define SUPPORT_CARD
#include "kernels_support.h"

#include "../base/bits_.h"
#include "../base/half_.h"
#include "../base/quant_codes_.h"
#include "../io/safetensors.h"
#include "support.h"

/* ---- Fixtures -------------------------------------------------------------------------------- */

static Safetensors *fixtures;

static int open_fixtures(void **state)
{
    card(); /* before live memory is counted: it stays open */
    if (fresh_context(state))
        return -1;
    fixtures = safetensors_open("tests/precision/fixtures/quantize.safetensors");
    return fixtures ? 0 : -1;
}

static const SafetensorsEntry *entry_of(const char *kase, const char *name)
{
    char whole[96];
    snprintf(whole, sizeof whole, "%s.%s", kase, name);
    const SafetensorsEntry *entry = safetensors_find(fixtures, whole);
    if (!entry)
        fail_msg("no tensor %s", whole);
    return entry;
}

static float *floats_of(const char *kase, const char *name)
{
    const SafetensorsEntry *entry = entry_of(kase, name);
    float *to = take(entry->numel, 0);
    assert_int_equal(safetensors_read(fixtures, entry, to), 0);
    return to;
}

static const unsigned char *bytes_of(const char *kase, const char *name)
{
    return entry_of(kase, name)->data;
}

/* ---- Matrices -------------------------------------------------------------------------------- */

typedef struct Matrix {
    StoredArray stored;
    QuantLayout layout;
    unsigned char *at;
    float *scales; /* of NF4, before they are encoded */
} Matrix;

static Matrix matrix_new(DType dtype, int64_t rows, int64_t cols)
{
    int64_t words = (int64_t)(dtype_bytes(dtype, rows, cols) + 3) / 4;
    Matrix m = {.layout = quant_layout(dtype, rows, cols), .at = (unsigned char *)take(words, 0)};
    m.stored = (StoredArray){m.at, dtype, rows, cols};
    m.scales = take(m.layout.blocks, NAN);
    return m;
}

static int64_t numel(const Matrix *m)
{
    return m->stored.rows * m->stored.cols;
}

static void encode_range(const Kernels *k, Matrix *m, int64_t first, int64_t count, const float *x,
                         int threads)
{
    k->encode(m->stored.dtype, m->stored.rows, m->stored.cols, first, count, x, m->at, m->scales,
              on(threads));
}

/* In pieces of so many elements, which divide into rows and blocks; 0 = whole. */
static void encode_all(const Kernels *k, Matrix *m, const float *x, int64_t piece, int threads)
{
    int64_t n = numel(m);
    for (int64_t at = 0; at < n; at += piece ? piece : n) {
        encode_range(k, m, at, piece && piece < n - at ? piece : n - at, x + at, threads);
        assert_int_equal(fault(threads), -1);
    }
    if (m->stored.dtype == DTYPE_NF4)
        k->encode_scales(m->layout.blocks, m->scales, 0, m->layout.blocks, n, m->at, on(threads));
}

static float *decode_all(const Kernels *k, const Matrix *m, int threads)
{
    float *y = take(numel(m), NAN);
    k->decode(&m->stored, 0, numel(m), y, on(threads));
    return y;
}

static const float *floats_at(const Matrix *m, uint64_t offset)
{
    return (const float *)(const void *)(m->at + offset);
}

/* ---- NF4 and int8 as bitsandbytes has them --------------------------------------------------- */

/* Decoded values, rounded to the type that bitsandbytes decoded to. */
static void assert_decoded(const Kernels *k, const char *kase, const Matrix *m, int threads)
{
    const SafetensorsEntry *entry = entry_of(kase, "decoded");
    const float *y = decode_all(k, m, threads), *expected = floats_of(kase, "decoded");
    for (int64_t i = 0; i < numel(m); i++) {
        float rounded = entry->type == SAFETENSORS_BF16  ? half_from_bf16(half_to_bf16(y[i]))
                        : entry->type == SAFETENSORS_F16 ? half_from_f16(half_to_f16(y[i]))
                                                         : y[i];
        if (float_to_bits(rounded) != float_to_bits(expected[i]))
            fail_msg("%s: element %lld decodes to %.9g, not %.9g", kase, (long long)i, (double)rounded,
                     (double)expected[i]);
    }
}

/* No other code is nearer. The scales of a group are centred and divided as they are for encoding. */
static void assert_nearest(const char *kase, const Matrix *m)
{
    const QuantLayout *l = &m->layout;
    float offset = *floats_at(m, l->offset);
    for (int64_t i = 0; i < l->blocks; i++) {
        float group = floats_at(m, l->group_scales)[i / NF4_GROUP];
        double x = (double)((m->scales[i] - offset) * (1.0f / group)), nearest = 2;
        for (int c = 0; c < 256; c++)
            nearest = fmin(nearest, fabs(x - (double)dynamic_code[c]));
        double distance = fabs(x - (double)dynamic_code[m->at[l->scales + (uint64_t)i]]);
        if (!(distance <= nearest + 1e-8))
            fail_msg("%s: the code of scale %lld is %g off, the nearest one %g", kase, (long long)i, distance,
                     nearest);
    }
}

/* The mean of the scales and the largest of each group. bitsandbytes adds up in float, so beyond one group
 * its mean is off by a rounding or two. */
static void check_groups(const char *kase, const Matrix *m)
{
    const QuantLayout *l = &m->layout;
    const float *offset = floats_of(kase, "offset"), *groups = floats_of(kase, "group_scales");
    assert_int_equal(entry_of(kase, "group_scales")->numel, l->groups);
    assert_near(kase, 1, floats_at(m, l->offset), offset, l->groups > 1 ? 0x1p-22 : 0);
    assert_near(kase, l->groups, floats_at(m, l->group_scales), groups, l->groups > 1 ? 0x1p-22 : 0);
}

/* The same matrix with bitsandbytes' scales in every part decodes to its values. */
static void check_scale_codes(const Kernels *k, const char *kase, Matrix *m, int threads)
{
    const QuantLayout *l = &m->layout;
    const unsigned char *theirs = bytes_of(kase, "scales");
    int different = 0;
    for (int64_t i = 0; i < l->blocks; i++)
        different += theirs[i] != m->at[l->scales + (uint64_t)i];
    assert_true(different <= l->blocks / 8);
    memcpy(m->at + l->scales, theirs, (size_t)l->blocks);
    memcpy(m->at + l->offset, floats_of(kase, "offset"), sizeof(float));
    memcpy(m->at + l->group_scales, floats_of(kase, "group_scales"), (size_t)l->groups * sizeof(float));
    assert_decoded(k, kase, m, threads);
}

static void check_nf4(const Kernels *k, const char *kase, DType dtype, int threads)
{
    const SafetensorsEntry *w = entry_of(kase, "w");
    Matrix m = matrix_new(dtype, w->dim[0], w->dim[1]);
    encode_all(k, &m, floats_of(kase, "w"), 0, threads);
    if (memcmp(m.at, bytes_of(kase, "codes"), (size_t)m.layout.codes_bytes))
        fail_msg("%s: codes differ", kase);
    if (dtype == DTYPE_NF4_PLAIN) {
        assert_same(kase, m.layout.blocks, floats_at(&m, m.layout.scales), floats_of(kase, "scales"));
        assert_decoded(k, kase, &m, threads);
        return;
    }
    check_groups(kase, &m);
    assert_nearest(kase, &m);
    check_scale_codes(k, kase, &m, threads);
}

static void check_nf4_cases(const Kernels *k, int threads)
{
    int checked = 0;
    for (int i = 0; i < safetensors_count(fixtures); i++) {
        char kase[64];
        snprintf(kase, sizeof kase, "%s", safetensors_at(fixtures, i)->name);
        char *end = strrchr(kase, '.');
        if (strncmp(kase, "nf4", 3) || strcmp(end, ".w"))
            continue;
        *end = 0;
        check_nf4(k, kase, strncmp(kase, "nf4.", 4) ? DTYPE_NF4_PLAIN : DTYPE_NF4, threads);
        release();
        checked++;
    }
    assert_int_equal(checked, 2 * (3 + 2 + 2) + 1 + 2);
}

static void with_reference(void (*check)(const Kernels *k, int threads))
{
    each_table(check);
    check(kernels_reference(), 1);
    release();
}

static void test_nf4(void **state)
{
    (void)state;
    with_reference(check_nf4_cases);
}

static void check_int8(const Kernels *k, int threads)
{
    const SafetensorsEntry *w = entry_of("int8", "w");
    Matrix m = matrix_new(DTYPE_INT8, w->dim[0], w->dim[1]);
    encode_all(k, &m, floats_of("int8", "w"), 0, threads);
    assert_memory_equal(m.at, bytes_of("int8", "codes"), (size_t)numel(&m));
    assert_same("scales", w->dim[0], floats_at(&m, m.layout.scales), floats_of("int8", "scales"));
    assert_decoded(k, "int8", &m, threads);
}

static void test_int8(void **state)
{
    (void)state;
    with_reference(check_int8);
}

static void test_code_books(void **state)
{
    (void)state;
    assert_same("nf4", 16, nf4_code, floats_of("code", "nf4"));
    assert_same("dynamic", 256, dynamic_code, floats_of("code", "dynamic"));
    release();
}

/* ---- Pieces, tables, threads ----------------------------------------------------------------- */

static const DType typed[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_INT8, DTYPE_NF4, DTYPE_NF4_PLAIN};

static void assert_same_matrix(const char *what, const Matrix *a, const Matrix *b)
{
    if (memcmp(a->at, b->at, dtype_bytes(a->stored.dtype, a->stored.rows, a->stored.cols)))
        fail_msg("%s of %s (%lld,%lld): bytes differ", what, dtype_name(a->stored.dtype),
                 (long long)a->stored.rows, (long long)a->stored.cols);
}

/* A matrix with rows of zeros, a row of one value, and magnitudes of many orders. */
static float *awkward_matrix(int64_t rows, int64_t cols)
{
    float *x = take_random(rows * cols, 1.0f);
    for (int64_t i = 0; i < rows * cols; i++)
        x[i] *= i / cols % 5 == 2 ? 0.0f : i / cols % 7 == 3 ? 1e-30f : 1.0f;
    return x;
}

static void check_pieces_of(const Kernels *k, DType dtype, int64_t rows, int64_t cols, int threads)
{
    float *x = awkward_matrix(rows, cols);
    Matrix whole = matrix_new(dtype, rows, cols), expected = matrix_new(dtype, rows, cols);
    Matrix pieces = matrix_new(dtype, rows, cols);
    encode_all(k, &whole, x, 0, threads);
    encode_all(kernels_reference(), &expected, x, 0, 1);
    assert_same_matrix("encoding against the reference", &whole, &expected);
    encode_all(k, &pieces, x, NF4_BLOCK * cols, threads);
    assert_same_matrix("encoding in pieces", &whole, &pieces);
    const float *y = decode_all(k, &whole, threads);
    assert_same("decoding", rows * cols, y, decode_all(kernels_reference(), &whole, 1));
    float *turned = take(rows * cols, NAN);
    for (int64_t i = 0; i < rows * cols; i++)
        turned[i] = y[i % rows * cols + i / rows];
    for (int64_t first = 0; first < rows * cols; first += 1 + rows * cols / 5) {
        int64_t count = first ? (rows * cols - first + 1) / 2 : rows * cols;
        float *part = take(count, NAN), *plain = take(count, NAN);
        k->decode(&whole.stored, first, count, part, on(threads));
        assert_same("a part", count, part, y + first);
        k->decode_transposed(&whole.stored, first, count, part, on(threads));
        assert_same("a part, transposed", count, part, turned + first);
        kernels_reference()->decode_transposed(&whole.stored, first, count, plain, on(1));
        assert_same("the reference, transposed", count, plain, turned + first);
    }
}

static void check_pieces(const Kernels *k, int64_t rows, int64_t cols, int threads)
{
    for (size_t i = 0; i < COUNT(typed); i++) {
        check_pieces_of(k, typed[i], rows, cols, threads);
        release();
    }
}

static void test_pieces(void **state)
{
    (void)state;
    each_matrix(check_pieces);
}

/* How far decoded values may be off, as a part of the largest one around. */
static void test_errors_of_rounding(void **state)
{
    (void)state;
    static const double most[] = {0, 0x1p-9, 0x1p-12, 0.5 / 127, 0.16, 0.16};
    float *x = take_random(70 * 90, 1.0f);
    for (size_t t = 0; t < COUNT(typed); t++) {
        Matrix m = matrix_new(typed[t], 70, 90);
        encode_all(kernels_cpu(NULL), &m, x, 0, 2);
        const float *y = decode_all(kernels_cpu(NULL), &m, 2);
        for (int i = 0; i < 70 * 90; i++)
            if (!(fabs((double)x[i] - (double)y[i]) <= most[t] * 1.0001))
                fail_msg("%s: %g became %g", dtype_name(typed[t]), (double)x[i], (double)y[i]);
    }
    release();
}

/* ---- 16-bit floats --------------------------------------------------------------------------- */

static void check_halves(const Kernels *k, int threads)
{
    enum { ALL = 1 << 16 };
    Matrix bf16 = matrix_new(DTYPE_BF16, 1, ALL), f16 = matrix_new(DTYPE_F16, 1, ALL);
    for (int i = 0; i < ALL; i++)
        ((uint16_t *)bf16.at)[i] = ((uint16_t *)f16.at)[i] = (uint16_t)i;
    const float *x = decode_all(k, &bf16, threads), *y = decode_all(k, &f16, threads);
    for (int i = 0; i < ALL; i++) {
        assert_int_equal(float_to_bits(x[i]), float_to_bits(half_from_bf16((uint16_t)i)));
        float expected = half_from_f16((uint16_t)i); /* a NaN may become a quiet one */
        assert_true(float_to_bits(y[i]) == float_to_bits(expected) || (isnan(y[i]) && isnan(expected)));
    }
    Matrix again = matrix_new(DTYPE_F16, 1, ALL);
    encode_range(k, &again, 0, ALL, y, threads);
    for (int i = 0; i < ALL; i++) /* NaNs become quiet ones */
        assert_int_equal(((uint16_t *)again.at)[i], half_to_f16(y[i]));
}

static void test_halves(void **state)
{
    (void)state;
    with_reference(check_halves);
}

/* ---- What cannot be encoded ------------------------------------------------------------------ */

static void check_faults(const Kernels *k, int threads)
{
    enum { ROWS = 40, COLS = 500, N = ROWS * COLS, AT = 11007, LATER = 17503 };
    float *x = take_random(N, 1.0f);
    static const float bad[] = {NAN, INFINITY, -INFINITY, 70000.0f, 3.4e38f};
    for (size_t t = 1; t < COUNT(typed); t++)
        for (int i = 0; i < 5; i++) {
            int refuses = dtype_is_quantized(typed[t]) ? i < 3 : typed[t] == DTYPE_F16 ? i >= 3 : i == 4;
            Matrix m = matrix_new(typed[t], ROWS, COLS);
            float before = x[AT], later = x[LATER];
            x[AT] = x[LATER] = bad[i];
            encode_range(k, &m, 0, N, x, threads);
            assert_int_equal(fault(threads), refuses ? AT : -1);
            encode_range(k, &m, 16 * COLS, N - 16 * COLS, x + 16 * COLS, threads);
            assert_int_equal(fault(threads), refuses ? AT : -1);
            x[AT] = before;
            x[LATER] = later;
        }
}

static void test_faults(void **state)
{
    (void)state;
    with_reference(check_faults);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nf4),        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_pieces),     cmocka_unit_test(test_errors_of_rounding),
        cmocka_unit_test(test_halves),     cmocka_unit_test(test_faults),
        cmocka_unit_test(test_code_books),
    };
    return cmocka_run_group_tests(tests, open_fixtures, leave_context);
}
