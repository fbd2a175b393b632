/* Rows that are further apart than they are long, as a head's logits are on a card: what is computed is what
 * it is without that, and what lies between rows is neither read nor written. Every table, and the reference.
 */
#define SUPPORT_CARD
#include "tests/kernels_support.h"

static const DType types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

/* Behind the tables that run here comes the reference. */
static const Kernels *any_table(int i)
{
    return i < SUPPORT_TABLES ? support_table(i) : support_table(0) ? kernels_reference() : NULL;
}

static size_t size_of(DType type)
{
    return type == DTYPE_F32 ? 4 : 2;
}

/* Elements of a type, all bits 1: NaN. */
static void *between(DType type, int64_t n)
{
    float *room = take((n * (int64_t)size_of(type) + 3) / 4, 0.0f);
    memset(room, 0xFF, (size_t)n * size_of(type));
    return room;
}

static void *random_values(DType type, int64_t n)
{
    float *values = take_random(n, 1.0f);
    void *to = between(type, n);
    kernels_reference()->copy(DTYPE_F32, type, n, values, to, on(1));
    return to;
}

/* Rows (rows,n) of x, ld apart. */
static void *apart(DType type, int64_t rows, int64_t n, int64_t ld, const void *x)
{
    char *y = between(type, rows * ld);
    for (int64_t i = 0; i < rows; i++)
        memcpy(y + (size_t)(i * ld) * size_of(type), (const char *)x + (size_t)(i * n) * size_of(type),
               (size_t)n * size_of(type));
    return y;
}

/* The rows of x, ld apart, are y's, to the last bit or nearly, and nothing was written between them. */
static void assert_rows(const char *what, DType type, int64_t rows, int64_t n, int64_t ld, const void *x,
                        const void *y, double tolerance)
{
    const unsigned char *bytes = x;
    float *a = take(rows * n, 0.0f), *b = take(rows * n, 0.0f);
    char *dense = between(type, rows * n);
    size_t size = size_of(type);
    for (int64_t i = 0; i < rows; i++) {
        memcpy(dense + (size_t)(i * n) * size, bytes + (size_t)(i * ld) * size, (size_t)n * size);
        for (size_t k = (size_t)(i * ld + n) * size; k < (size_t)((i + 1) * ld) * size; k++)
            if (bytes[k] != 0xFF)
                fail_msg("%s (%lld,%lld) of %s: written behind row %lld", what, (long long)rows, (long long)n,
                         dtype_name(type), (long long)i);
    }
    kernels_reference()->copy(type, DTYPE_F32, rows * n, dense, a, on(1));
    kernels_reference()->copy(type, DTYPE_F32, rows * n, y, b, on(1));
    if (tolerance > 0)
        assert_near(what, rows * n, a, b, tolerance);
    else
        assert_same(what, rows * n, a, b);
}

/* ---- The linear layer ------------------------------------------------------------------------- */

typedef struct Layer {
    LinearDims d;
    const void *x, *dy;
    StoredArray w;
    const float *bias;
    Activation act;
} Layer;

static void *room_of(const Kernels *k, const Layer *l, LinearPass pass, DType w, int threads)
{
    return between(DTYPE_BF16, (int64_t)k->linear_workspace(&l->d, pass, w, on(threads)) / 2);
}

static void check_forward(const Kernels *k, const Layer *l, int64_t ld, int threads)
{
    Layer far = *l;
    int64_t rows = l->d.rows, n = l->d.out;
    DType type = l->d.y;
    far.d.ldy = ld;
    void *space = room_of(k, l, LINEAR_FORWARD, l->w.dtype, threads);
    void *y = between(type, rows * n), *pre = between(type, rows * n);
    void *y_far = between(type, rows * ld), *pre_far = between(type, rows * ld);
    k->linear_forward(&l->d, l->act, l->x, &l->w, l->bias, pre, y, space, on(threads));
    space = room_of(k, &far, LINEAR_FORWARD, l->w.dtype, threads);
    k->linear_forward(&far.d, l->act, l->x, &l->w, l->bias, pre_far, y_far, space, on(threads));
    assert_rows("y", type, rows, n, ld, y_far, y, 0);
    assert_rows("pre", type, rows, n, ld, pre_far, pre, 0);
    if (l->act != ACT_NONE)
        return;
    y_far = between(type, rows * ld);
    k->linear_forward(&far.d, l->act, l->x, &l->w, l->bias, NULL, y_far, space, on(threads));
    assert_rows("y alone", type, rows, n, ld, y_far, y, 0);
}

static void check_backward(const Kernels *k, const Layer *l, int64_t ld, DType grad, float beta, int threads)
{
    Layer far = *l;
    int64_t rows = l->d.rows, in = l->d.in, n = l->d.out;
    far.d.ldy = ld;
    far.dy = apart(l->d.y, rows, n, ld, l->dy);
    void *dx = random_values(l->d.x, rows * in), *dw = random_values(grad, in * n),
         *db = random_values(grad, n);
    void *dx_far = apart(l->d.x, rows, in, in, dx), *dw_far = apart(grad, n, in, in, dw);
    void *db_far = apart(grad, 1, n, n, db);
    void *space = room_of(k, l, LINEAR_BACKWARD_INPUT, l->w.dtype, threads);
    k->linear_backward_input(&l->d, l->dy, &l->w, beta, dx, space, on(threads));
    k->linear_backward_input(&far.d, far.dy, &l->w, beta, dx_far, space, on(threads));
    assert_rows("dx", l->d.x, rows, in, in, dx_far, dx, 0);
    space = room_of(k, l, LINEAR_BACKWARD_WEIGHT, grad, threads);
    k->linear_backward_weight(&l->d, l->x, l->dy, grad, beta, dw, grad, beta, db, space, on(threads));
    k->linear_backward_weight(&far.d, l->x, far.dy, grad, beta, dw_far, grad, beta, db_far, space,
                              on(threads));
    assert_rows("dw", grad, n, in, in, dw_far, dw, 0);
    assert_rows("dbias", grad, 1, n, n, db_far, db, 0);
}

/* Few rows, which have a product of their own, and many; columns that are whole packs of a card's, and not.
 */
static void check_layers(const Kernels *k, int turn, int threads)
{
    static const int64_t sizes[][3] = {{1, 65, 33},   {3, 30, 211}, {8, 77, 24},   {17, 33, 10},
                                       {129, 7, 101}, {40, 64, 64}, {70, 257, 130}};
    static const DType weights[] = {DTYPE_F32, DTYPE_BF16, DTYPE_INT8, DTYPE_F16, DTYPE_F32};
    const int64_t *size = sizes[turn % 7];
    DType w = weights[turn % 5];
    Layer l = {.d = {.rows = size[0],
                     .in = size[1],
                     .out = size[2],
                     .in_out = w != DTYPE_INT8 && turn % 3 == 1,
                     .x = types[turn / 2 % 3],
                     .y = types[turn % 3]},
               .act = (Activation)(turn % 4 ? 0 : turn / 4 % 5)};
    int64_t ld = turn % 2 ? l.d.out + 3 : (l.d.out + 8) / 8 * 8;
    l.x = random_values(l.d.x, l.d.rows * l.d.in), l.dy = random_values(l.d.y, l.d.rows * l.d.out);
    l.bias = turn % 5 < 3 ? take_random(l.d.out, 1.0f) : NULL;
    int64_t bytes = (int64_t)dtype_bytes(w, l.d.out, l.d.in);
    l.w = (StoredArray){NULL, w, l.d.in_out ? l.d.in : l.d.out, l.d.in_out ? l.d.out : l.d.in};
    if (w == DTYPE_INT8) {
        void *codes = between(DTYPE_BF16, (bytes + 1) / 2);
        kernels_reference()->encode(w, l.w.rows, l.w.cols, 0, l.w.rows * l.w.cols,
                                    take_random(l.d.in * l.d.out, 1.0f), codes, NULL, on(1));
        l.w.at = codes;
    } else {
        l.w.at = random_values(w, l.d.in * l.d.out);
    }
    check_forward(k, &l, ld, threads);
    check_backward(k, &l, ld, types[turn / 3 % 3], turn % 2 ? 1.0f : 0.0f, threads);
}

static void test_linear(void **state)
{
    (void)state;
    forget();
    for (int table = 0; table <= SUPPORT_TABLES; table++)
        for (int turn = 0; any_table(table) && turn < 70; turn++) {
            check_layers(any_table(table), turn, table < 3 ? 1 + turn % SUPPORT_THREADS : 1);
            release();
        }
}

/* ---- Cross-entropy ---------------------------------------------------------------------------- */

static float softcap; /* of the logits; 0 = none */

/* A card cuts a row where the array has its boundaries: sums are then those of another order. */
static void check_loss(const Kernels *k, int64_t rows, int64_t c, int64_t ld, DType type, int threads)
{
    CrossEntropyDims d = {.rows = rows, .classes = c, .ignore_index = -100, .softcap = softcap}, far = d;
    double tolerance = k == kernels_cuda() ? 1e-6 : 0;
    float loss[2], dloss = 0.7f, *lse = take(rows, NAN), *lse_far = take(rows, NAN), *room = take(rows, NAN);
    int32_t labels[129];
    const void *x = random_values(type, rows * c);
    void *x_far = apart(type, rows, c, ld, x), *dx = between(type, rows * c),
         *dx_far = between(type, rows * ld);
    far.ld = ld;
    for (int64_t i = 0; i < rows; i++)
        labels[i] = i % 5 == 3 ? -100 : (int32_t)((i * 31 + 7) % c);
    k->cross_entropy_forward(&d, type, x, labels, 0.5f, loss, lse, room, on(threads));
    k->cross_entropy_forward(&far, type, x_far, labels, 0.5f, loss + 1, lse_far, room, on(threads));
    if (tolerance > 0)
        assert_near("loss", 1, loss + 1, loss, tolerance), assert_near("lse", rows, lse_far, lse, tolerance);
    else
        assert_same("loss", 1, loss + 1, loss), assert_same("lse", rows, lse_far, lse);
    k->cross_entropy_backward(&d, type, x, labels, 0.5f, lse, &dloss, 0.0f, dx, on(threads));
    k->cross_entropy_backward(&far, type, x_far, labels, 0.5f, lse, &dloss, 0.0f, dx_far, on(threads));
    assert_rows("dlogits", type, rows, c, ld, dx_far, dx, 0);
    k->cross_entropy_backward(&far, type, x_far, labels, 0.5f, lse, &dloss, 0.5f, dx_far, on(threads));
    k->cross_entropy_backward(&d, type, x, labels, 0.5f, lse, &dloss, 0.5f, dx, on(threads));
    assert_rows("dlogits added to", type, rows, c, ld, dx_far, dx, 0);
    k->cross_entropy_backward(&far, type, x_far, labels, 0.5f, lse, &dloss, 0.0f, x_far, on(threads));
    k->cross_entropy_backward(&d, type, x, labels, 0.5f, lse, &dloss, 0.0f, dx, on(threads));
    assert_rows("dlogits in place", type, rows, c, ld, x_far, dx, 0);
}

/* Some classes of all, of rows that are those of all classes, one array in another. */
static void check_strip(const Kernels *k, int64_t rows, int64_t c, DType type, int threads)
{
    int64_t first = c / 3, some = c - 2 * first;
    CrossEntropyDims d = {.rows = rows,
                          .classes = some,
                          .ignore_index = -100,
                          .first_class = first,
                          .all_classes = c,
                          .softcap = softcap},
                     far = d;
    float dloss = 0.7f, *lse = take_random(rows, 1.0f);
    int32_t labels[129];
    const char *x = random_values(type, rows * c);
    void *part = between(type, rows * some), *expected = between(type, rows * some);
    far.ld = c;
    for (int64_t i = 0; i < rows; i++) {
        labels[i] = i % 5 == 3 ? -100 : (int32_t)((i * 31 + 7) % c);
        memcpy((char *)part + (size_t)(i * some) * size_of(type), x + (size_t)(i * c + first) * size_of(type),
               (size_t)some * size_of(type));
    }
    char *dx = between(type, rows * c);
    k->cross_entropy_backward(&d, type, part, labels, 0.5f, lse, &dloss, 0.0f, expected, on(threads));
    k->cross_entropy_backward(&far, type, x + (size_t)first * size_of(type), labels, 0.5f, lse, &dloss, 0.0f,
                              dx + (size_t)first * size_of(type), on(threads));
    assert_rows("a strip", type, rows - 1, some, c, dx + (size_t)first * size_of(type), expected, 0);
}

/* Three parts of the classes, of which the last ends with padding, and joined what all classes say. */
static void check_parts(const Kernels *k, int64_t rows, int64_t c, DType type, int threads)
{
    enum { PARTS = 3 };
    int64_t each = (c + PARTS - 1) / PARTS, apart = rows * CROSS_ENTROPY_PART + 5;
    CrossEntropyDims all = {.rows = rows, .classes = c, .ignore_index = -100, .softcap = softcap};
    float loss[2], dloss = 0.7f, *lse = take(rows, NAN), *lse_joined = take(rows, NAN),
                   *room = take(rows, NAN);
    float *parts = take(PARTS * apart, NAN);
    int32_t labels[129];
    const char *x = random_values(type, rows * c);
    void *dx = between(type, rows * c), *logits = between(type, rows * each), *d = between(type, rows * each);
    for (int64_t i = 0; i < rows; i++)
        labels[i] = i % 5 == 3 ? -100 : (int32_t)((i * 31 + 7) % c);
    kernels_reference()->cross_entropy_forward(&all, type, x, labels, 0.5f, loss, lse, room, on(1));
    k->cross_entropy_backward(&all, type, x, labels, 0.5f, lse, &dloss, 0.0f, dx, on(threads));
    for (int p = 0; p < PARTS; p++) {
        int64_t first = p * each, here = c - first < 0 ? 0 : c - first < each ? c - first : each;
        CrossEntropyDims part = {.rows = rows,
                                 .classes = here,
                                 .ignore_index = -100,
                                 .first_class = first,
                                 .all_classes = c,
                                 .ld = each,
                                 .padding = each - here,
                                 .softcap = softcap};
        memset(logits, 0, (size_t)(rows * each) * size_of(type));
        for (int64_t i = 0; i < rows && here; i++)
            memcpy((char *)logits + (size_t)(i * each) * size_of(type),
                   x + (size_t)(i * c + first) * size_of(type), (size_t)here * size_of(type));
        k->cross_entropy_part(&part, type, logits, labels, parts + p * apart, on(threads));
        assert_int_equal(fault(threads), -1);
        k->cross_entropy_backward(&part, type, logits, labels, 0.5f, lse, &dloss, 0.0f, d, on(threads));
        for (int64_t i = 0; i < rows; i++) {
            const char *row = (const char *)d + (size_t)(i * each) * size_of(type), zeros[8] = {0};
            if (here)
                assert_memory_equal(row, (char *)dx + (size_t)(i * c + first) * size_of(type),
                                    (size_t)here * size_of(type));
            for (int64_t j = here; j < each; j++)
                assert_memory_equal(row + (size_t)j * size_of(type), zeros, size_of(type));
        }
    }
    k->cross_entropy_join(&all, PARTS, apart, parts, labels, 0.5f, loss + 1, lse_joined, room, on(threads));
    assert_near("loss of parts", 1, loss + 1, loss, 2e-6);
    assert_near("lse of parts", rows, lse_joined, lse, 2e-6);
    CrossEntropyDims part = {
        .rows = rows, .classes = 1, .ignore_index = -100, .all_classes = c, .first_row = 9, .ld = each};
    labels[1] = (int32_t)c;
    k->cross_entropy_part(&part, type, logits, labels, parts, on(threads));
    assert_int_equal(fault(threads), 10);
}

static void test_cross_entropy(void **state)
{
    (void)state;
    static const int64_t classes[] = {1, 3, 17, 64, 129, 1000, 4099};
    forget();
    for (int table = 0; table <= SUPPORT_TABLES; table++)
        for (int i = 0; any_table(table) && i < 7 * 3; i++) {
            int64_t c = classes[i % 7], rows = i % 2 ? 5 : 129, ld = i % 3 ? (c + 8) / 8 * 8 : c + 3;
            int threads = table < 3 ? 1 + i % SUPPORT_THREADS : 1;
            softcap = i % 5 % 2 ? 0.5f : 0.0f;
            check_loss(any_table(table), c > 200 ? 5 : rows, c, ld, types[i / 7], threads);
            check_strip(any_table(table), 5, c, types[i / 7], threads);
            check_parts(any_table(table), 5, c, types[i / 7], threads);
            release();
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_linear), cmocka_unit_test(test_cross_entropy)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
