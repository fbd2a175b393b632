/* Rows with a label: the list of them, and rows gathered and put back. */
#define SUPPORT_CARD
#include "kernels_support.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_list), cmocka_unit_test(test_moves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
