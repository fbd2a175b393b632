/* Rows with a label: the list of them, and rows gathered and put back; and the mean of a sample's rows. */
#define SUPPORT_CARD
#include "half_support.h"

enum { ROWS_IGNORED = -100, ROWS_MAX = 129 };
static const float betas[] = {0.0f, 1.0f, 0.5f};

static const Kernels *plain(void)
{
    return kernels_reference();
}

/* Which of i's labels are there: none, all, some, the first, the last. */
static int labelled(int which, int64_t i, int64_t rows)
{
    switch (which) {
    case 0:
        return 0;
    case 1:
        return 1;
    case 2:
        return i * 7 % 5 == 2;
    case 3:
        return i == 0;
    default:
        return i == rows - 1;
    }
}

static void check_list(const Kernels *k, int64_t rows, int64_t c, int threads)
{
    CrossEntropyDims d = {.rows = rows, .classes = c, .ignore_index = ROWS_IGNORED};
    int64_t index[ROWS_MAX + 3], count, room = rows + 2, expected = 0;
    int32_t labels[ROWS_MAX], label[ROWS_MAX + 3];
    for (int which = 0; which < 5; which++) {
        for (int64_t i = 0; i < rows; i++)
            labels[i] = labelled(which, i, rows) ? (int32_t)((i * 31 + 7) % c) : ROWS_IGNORED;
        index[room] = label[room] = 77;
        k->labelled_rows(&d, room, labels, index, label, &count, on(threads));
        assert_int_equal(fault(threads), -1);
        expected = 0;
        for (int64_t i = 0; i < rows; i++) {
            if (!labelled(which, i, rows))
                continue;
            assert_int_equal(index[expected], i);
            assert_int_equal(label[expected++], labels[i]);
        }
        assert_int_equal(count, expected);
        for (int64_t i = count; i < room; i++) {
            assert_int_equal(index[i], count ? index[count - 1] : 0);
            assert_int_equal(label[i], ROWS_IGNORED);
        }
        assert_true(index[room] == 77 && label[room] == 77);
    }
    labels[rows / 2] = (int32_t)c; /* out of range: told, and left out */
    labels[rows - 1] = rows > 1 ? -1 : (int32_t)c;
    k->labelled_rows(&d, room, labels, index, label, &count, on(threads));
    assert_int_equal(fault(threads), rows > 2 ? rows / 2 : rows - 1);
    assert_int_equal(count, 0);
}

static void test_list(void **state)
{
    (void)state;
    each_matrix(check_list);
}

static void check_moves(const Kernels *k, int64_t rows, int64_t c, int threads)
{
    int64_t index[ROWS_MAX], n = 0;
    for (int64_t i = 0; i < rows; i++)
        if (i % 3 != 1)
            index[n++] = i;
    float *x = take_random(rows * c, 2), *y = take(n * c, NAN), *same = take(n * c, NAN);
    k->gather_rows(DTYPE_F32, n, c, index, x, y, on(threads));
    for (int64_t i = 0; i < n; i++)
        assert_memory_equal(y + i * c, x + index[i] * c, (size_t)c * sizeof *x);
    plain()->gather_rows(DTYPE_F32, n, c, index, x, same, on(1));
    assert_same("gathered rows", n * c, y, same);
    for (int i = 0; i < 3; i++) {
        float *to = take_random(rows * c, 1), *expected = take_copy(rows * c, to);
        if (betas[i] == 0.0f)
            for (int64_t j = 0; j < n * c; j++)
                to[index[j / c] * c + j % c] = NAN; /* not read */
        k->scatter_rows(DTYPE_F32, n, c, index, y, betas[i], to, on(threads));
        plain()->scatter_rows(DTYPE_F32, n, c, index, y, betas[i], expected, on(1));
        assert_near("rows put back", rows * c, to, expected, 1e-6);
        for (int64_t j = 0; j < c; j++)
            if (rows > 1) /* one that was not put back */
                assert_true(to[c + j] == expected[c + j]);
    }
}

static void test_moves(void **state)
{
    (void)state;
    each_matrix(check_moves);
}

/* ---- The mean of tokens ----------------------------------------------------------------------- */

typedef struct Samples {
    int64_t batch, seq, c;
    int32_t mask[ROWS_MAX * 3];
} Samples;

/* Rows of three samples: one with all, one with some, one with none. */
static void fill_mask(Samples *s)
{
    for (int64_t i = 0; i < s->batch * s->seq; i++)
        s->mask[i] = i < s->seq || (i < 2 * s->seq && i % 3 == 1);
}

static void check_mean(const Kernels *k, int64_t rows, int64_t c, int threads)
{
    Samples s = {.batch = 3, .seq = rows, .c = c};
    int64_t n = 3 * rows * c;
    float *x = take_random(n, 2), *dy = take_random(3 * c, 1);
    fill_mask(&s);
    for (int masked = 0; masked < 2; masked++) {
        const int32_t *mask = masked ? s.mask : NULL;
        float *y = take(3 * c, NAN), *expected = take(3 * c, NAN), *scale = take(3, NAN),
              *same = take(3, NAN);
        k->mean_tokens_forward(DTYPE_F32, 3, rows, c, x, mask, y, scale, on(threads));
        plain()->mean_tokens_forward(DTYPE_F32, 3, rows, c, x, mask, expected, same, on(1));
        assert_near("mean", 3 * c, y, expected, 1e-6);
        assert_same("one over the tokens", 3, scale, same);
        for (int64_t j = 0; masked && j < c; j++)
            assert_true(y[2 * c + j] == 0);
        for (int i = 0; i < 3; i++) {
            float *dx = take_output(n, betas[i]), *dx_expected = take_copy(n, dx);
            k->mean_tokens_backward(DTYPE_F32, 3, rows, c, mask, scale, dy, betas[i], dx, on(threads));
            plain()->mean_tokens_backward(DTYPE_F32, 3, rows, c, mask, same, dy, betas[i], dx_expected,
                                          on(1));
            assert_near("mean dx", n, dx, dx_expected, 1e-6);
        }
    }
}

static void check_mean_half(const Kernels *k, int64_t rows, int64_t c, int threads)
{
    Samples s = {.batch = 3, .seq = rows, .c = c};
    int64_t n = 3 * rows * c;
    Half x = take_random_half(n, 2), dy = take_random_half(3 * c, 1), y = take_output_half(3 * c, 0);
    float *scale = take(3, NAN);
    fill_mask(&s);
    k->mean_tokens_forward(half_type, 3, rows, c, x.half, s.mask, y.half, scale, on(threads));
    k->mean_tokens_forward(DTYPE_F32, 3, rows, c, x.wide, s.mask, y.wide, scale, on(threads));
    assert_rounded("mean", y);
    for (int i = 0; i < 2; i++) {
        Half dx = take_output_half(n, betas[i]);
        k->mean_tokens_backward(half_type, 3, rows, c, s.mask, scale, dy.half, betas[i], dx.half,
                                on(threads));
        k->mean_tokens_backward(DTYPE_F32, 3, rows, c, s.mask, scale, dy.wide, betas[i], dx.wide,
                                on(threads));
        assert_rounded("mean dx", dx);
    }
}

/* Columns of several blocks. */
static void check_wide_mean(const Kernels *k, int threads)
{
    check_mean(k, 3, 2049, threads);
    release();
    check_mean(k, 17, 1024, threads);
}

static void test_mean(void **state)
{
    (void)state;
    each_matrix(check_mean);
    each_table(check_wide_mean);
    each_half_matrix(check_mean_half);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_list), cmocka_unit_test(test_moves),
                                       cmocka_unit_test(test_mean)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
