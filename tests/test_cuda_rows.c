/* Kernels of rows on a card, on the stand-in: norms, cross-entropy, embeddings, rotary positions, labelled
 * rows. What the tests of all tables are too small for or do not ask: many and wide rows, sums that repeat to
 * the last bit wherever arrays lie, gradients of mixed types, faults of several operations, workspaces. */
#define SUPPORT_CARD
#include "tests/kernels_support.h"

#include "base/half_.h"

static const DType types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

static const Kernels *plain(void)
{
    return kernels_reference();
}

/* An array of a type, at an address that is `odd` elements off one of 16 bytes. */
static void *typed(DType type, int64_t n, const float *from, int odd)
{
    float *room = take((type == DTYPE_F32 ? n : n / 2) + 8, 0.0f);
    void *at = type == DTYPE_F32 ? (void *)(room + odd) : (void *)((uint16_t *)(void *)room + odd);
    plain()->copy(DTYPE_F32, type, n, from, at, on(1));
    return at;
}

static size_t size_of(DType type)
{
    return type == DTYPE_F32 ? 4 : 2;
}

static void assert_typed_near(const char *what, DType type, int64_t n, const void *x, const void *expected,
                              double tolerance)
{
    float *a = take(n, 0.0f), *b = take(n, 0.0f);
    double step = type == DTYPE_F32    ? 0
                  : type == DTYPE_BF16 ? 1.0 / 128
                                       : 1.0 / 1024; /* to one of the type's */
    plain()->copy(type, DTYPE_F32, n, x, a, on(1));
    plain()->copy(type, DTYPE_F32, n, expected, b, on(1));
    assert_near(what, n, a, b, tolerance + step);
}

/* ---- Norms ------------------------------------------------------------------------------------ */

typedef struct Norm {
    int layer;
    float plus;
    DType type, dw_type, db_type;
    int64_t rows, c;
    const void *x, *dy;
    const float *weight, *bias;
} Norm;

typedef struct NormResult {
    void *y, *dx, *dw, *db;
    float *mean, *rstd;
} NormResult;

static NormResult norm(const Kernels *k, const Norm *t, const float *before, int odd)
{
    int64_t n = t->rows * t->c;
    NormResult r = {typed(t->type, n, before, odd),
                    typed(t->type, n, before, odd),
                    typed(t->dw_type, t->c, before, odd),
                    typed(t->db_type, t->c, before, odd),
                    take(t->rows, 0.0f),
                    take(t->rows, NAN)};
    float *workspace = take((int64_t)(k->norm_workspace(t->rows, t->c, on(1)) / sizeof(float)), NAN);
    if (t->layer) {
        k->layer_norm_forward(t->type, t->rows, t->c, 1e-5f, t->x, t->weight, t->bias, r.y, r.mean, r.rstd,
                              on(1));
        k->layer_norm_backward(t->type, t->rows, t->c, t->x, t->weight, r.mean, r.rstd, t->dy, 0.5f, r.dx,
                               t->dw_type, 1.0f, r.dw, t->db_type, 0.0f, r.db, workspace, on(1));
    } else {
        k->rms_norm_forward(t->type, t->rows, t->c, 1e-5f, t->plus, t->x, t->weight, r.y, r.rstd, on(1));
        k->rms_norm_backward(t->type, t->rows, t->c, t->plus, t->x, t->weight, r.rstd, t->dy, 0.5f, r.dx,
                             t->dw_type, 1.0f, r.dw, workspace, on(1));
    }
    return r;
}

static void assert_norms_same(const Norm *t, const NormResult *a, const NormResult *b)
{
    size_t n = (size_t)(t->rows * t->c);
    assert_memory_equal(a->y, b->y, n * size_of(t->type));
    assert_memory_equal(a->dx, b->dx, n * size_of(t->type));
    assert_memory_equal(a->dw, b->dw, (size_t)t->c * size_of(t->dw_type));
    assert_memory_equal(a->db, b->db, (size_t)t->c * size_of(t->db_type));
    assert_memory_equal(a->rstd, b->rstd, (size_t)t->rows * sizeof(float));
}

static void check_norm(int64_t rows, int64_t c, int layer, DType type, DType dw_type, DType db_type)
{
    int64_t n = rows * c;
    float *x = take_random(n, 2.0f), *dy = take_random(n, 1.0f), *before = take_random(n > c ? n : c, 1.0f);
    Norm t = {.layer = layer, .type = type, .dw_type = dw_type, .db_type = db_type, .rows = rows, .c = c};
    t.x = typed(type, n, x, 0), t.dy = typed(type, n, dy, 0);
    t.weight = take_random(c, 1.0f), t.bias = take_random(c, 1.0f);
    t.plus = (float)(rows % 2);
    NormResult expected = norm(plain(), &t, before, 0), a = norm(kernels_cuda(), &t, before, 0);
    NormResult again = norm(kernels_cuda(), &t, before, 0);
    double sums = 1e-6 * sqrt((double)rows) + 1e-5;
    assert_typed_near("y", type, n, a.y, expected.y, 1e-5);
    assert_typed_near("dx", type, n, a.dx, expected.dx, 1e-5);
    assert_typed_near("dweight", dw_type, c, a.dw, expected.dw, sums);
    assert_typed_near("dbias", db_type, c, a.db, expected.db, sums);
    assert_norms_same(&t, &a, &again);
    t.x = typed(type, n, x, 3), t.dy = typed(type, n, dy, 1);
    again = norm(kernels_cuda(), &t, before, 1);
    assert_norms_same(&t, &a, &again);
}

static void test_norms(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{5000, 8}, {40, 8200}, {37, 9001}, {70, 1024}, {33, 1032}, {18, 8192}};
    forget();
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 2; j++) {
            check_norm(sizes[i][0], sizes[i][1], (i + j) % 2, types[(i + j) % 3], types[(i + 2 * j + 1) % 3],
                       types[i % 3]);
            release();
        }
}

/* ---- Cross-entropy ---------------------------------------------------------------------------- */

static void check_loss(int64_t rows, int64_t classes, DType type)
{
    CrossEntropyDims d = {.rows = rows, .classes = classes, .ignore_index = -100};
    int64_t n = rows * classes;
    float *from = take_random(n, 9.0f), loss[3], dloss = 0.7f;
    float *lse = take(rows, NAN), *expected = take(rows, NAN), *room = take(rows, NAN);
    int32_t *labels = (int32_t *)(void *)take(rows, 0.0f);
    for (int64_t i = 0; i < rows; i++)
        labels[i] = i % 7 == 3 ? -100 : (int32_t)(i * 7919 % classes);
    void *x = typed(type, n, from, 0), *odd = typed(type, n, from, 1), *dx = typed(type, n, from, 0);
    plain()->cross_entropy_forward(&d, type, x, labels, 0.25f, loss, expected, NULL, on(1));
    kernels_cuda()->cross_entropy_forward(&d, type, x, labels, 0.25f, loss + 1, lse, room, on(1));
    assert_near("loss", 1, loss + 1, loss, 1e-6);
    assert_near("lse", rows, lse, expected, 1e-6);
    kernels_cuda()->cross_entropy_forward(&d, type, odd, labels, 0.25f, loss + 2, expected, room, on(1));
    assert_true(loss[1] == loss[2]);
    assert_same("lse of what is not aligned", rows, expected, lse);
    plain()->cross_entropy_backward(&d, type, x, labels, 0.25f, lse, &dloss, 0.0f, dx, on(1));
    kernels_cuda()->cross_entropy_backward(&d, type, x, labels, 0.25f, lse, &dloss, 0.0f, x, on(1));
    kernels_cuda()->cross_entropy_backward(&d, type, odd, labels, 0.25f, lse, &dloss, 0.0f, odd, on(1));
    assert_typed_near("dlogits", type, n, x, dx, 1e-6);
    assert_memory_equal(x, odd, (size_t)n * size_of(type));
}

static void test_losses(void **state)
{
    (void)state;
    forget();
    for (int i = 0; i < 3; i++) {
        check_loss(3000, 10, types[i]);
        release();
        check_loss(9, 1024, types[i]);
        release();
        check_loss(5, 20001, types[i]);
        release();
    }
}

/* The first bad label of the first operation stays, whatever runs after it. */
static void test_faults(void **state)
{
    (void)state;
    enum { ROWS = 70, C = 5 };
    CrossEntropyDims d = {.rows = ROWS, .classes = C, .ignore_index = -100, .first_row = 1000};
    int32_t labels[ROWS] = {0};
    int64_t fault = -1, index[ROWS], count;
    float loss, lse[ROWS], room[ROWS], y[ROWS * C], x[ROWS * C] = {0};
    int32_t label[ROWS];
    KernelRun run = {.threads = 1, .fault = &fault, .device = card(), .operation = 7};
    StoredArray table = stored(x, C, C);
    labels[66] = C, labels[69] = -1;
    kernels_cuda()->cross_entropy_forward(&d, DTYPE_F32, x, labels, 1.0f, &loss, lse, room, &run);
    assert_int_equal(fault, 7ll << 40 | 1066);
    assert_true(lse[66] == 0.0f && room[66] == 0.0f && isfinite(loss));
    run.operation = 9;
    labels[1] = C;
    kernels_cuda()->embedding_forward(DTYPE_F32, ROWS, labels, &table, (TablePart){0}, y, &run);
    assert_int_equal(fault, 7ll << 40 | 1066);
    run.operation = 4;
    kernels_cuda()->embedding_forward(DTYPE_F32, ROWS, labels, &table, (TablePart){0}, y, &run);
    assert_int_equal(fault, 4ll << 40 | 1);
    run.operation = 3;
    kernels_cuda()->labelled_rows(&d, ROWS, labels, index, label, &count, &run);
    assert_int_equal(fault, 3ll << 40 | 1);
    assert_int_equal(count, ROWS - 3);
}

/* ---- Embedding -------------------------------------------------------------------------------- */

/* ids beyond the table add nothing and stop nothing: the bits are those without them. */
static void check_embedding(int64_t n, int64_t c, int64_t vocab, DType type, DType dtable_type)
{
    int64_t elements = vocab * c, good = 0;
    float *from = take_random(n * c, 1.0f), *kept = take(n * c, 0.0f), *before = take_random(elements, 1.0f);
    int32_t *ids = (int32_t *)(void *)take(n, 0.0f), *clean = (int32_t *)(void *)take(n, 0.0f);
    size_t room = kernels_cuda()->embedding_workspace(n, vocab, dtable_type, on(1));
    void *workspace = take((int64_t)(room / sizeof(float)), NAN);
    for (int64_t i = 0; i < n; i++) {
        uint64_t any = (uint64_t)i * 0x9E3779B97F4A7C15u >> 20;
        ids[i] = any % 3 == 0 ? (int32_t)(vocab - 1) : (int32_t)(any / 3 % (uint64_t)vocab);
        if (any % 50 == 7)
            ids[i] = any % 100 == 7 ? -5 : (int32_t)vocab - 1 + (1 << 24); /* low bits of one that is */
        if (ids[i] < 0 || ids[i] >= vocab)
            continue;
        memcpy(kept + good * c, from + i * c, (size_t)c * sizeof *kept);
        clean[good++] = ids[i];
    }
    void *dy = typed(type, n * c, from, 0), *d = typed(dtable_type, elements, before, 0);
    void *odd_dy = typed(type, n * c, from, 1), *odd = typed(dtable_type, elements, before, 3);
    void *kept_dy = typed(type, n * c, kept, 0), *same = typed(dtable_type, elements, before, 0);
    void *expected = typed(dtable_type, elements, before, 0);
    kernels_cuda()->embedding_backward(type, n, c, vocab, 0, ids, dy, dtable_type, d, workspace, on(1));
    kernels_cuda()->embedding_backward(type, n, c, vocab, 0, ids, odd_dy, dtable_type, odd, workspace, on(1));
    kernels_cuda()->embedding_backward(type, good, c, vocab, 0, clean, kept_dy, dtable_type, same, workspace,
                                       on(1));
    plain()->embedding_backward(type, n, c, vocab, 0, ids, dy, dtable_type, expected, NULL, on(1));
    assert_memory_equal(d, odd, (size_t)elements * size_of(dtable_type));
    assert_memory_equal(d, same, (size_t)elements * size_of(dtable_type));
    assert_typed_near("dtable", dtable_type, elements, d, expected, 1e-5);
}

static void test_embedding(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1},     {300, 24, 255},   {300, 9, 256},
                                       {700, 8, 257}, {2000, 3, 65535}, {2000, 8, 70000}};
    forget();
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 3; j++) {
            check_embedding(sizes[i][0], sizes[i][1], sizes[i][2], types[(i + j) % 3], types[j]);
            release();
        }
}

/* ---- Rotary positions, labelled rows ----------------------------------------------------------- */

/* What is not aligned is rotated to the same bits. */
static void check_rope_dims(DType type, RopeDims d)
{
    int64_t n = d.batch * d.seq * d.ld;
    float *from = take_random(n, 1.0f);
    void *y = typed(type, n, from, 0), *odd = typed(type, n, from, 1), *expected = typed(type, n, from, 0);
    kernels_cuda()->rope(&d, type, y, 0.5f, y, on(1));
    kernels_cuda()->rope(&d, type, odd, 0.5f, odd, on(1));
    plain()->rope(&d, type, expected, 0.5f, expected, on(1));
    assert_memory_equal(y, odd, (size_t)n * size_of(type));
    assert_typed_near("rope", type, n, y, expected, 1e-6);
}

static void check_rope(DType type)
{
    static const float divisors[] = {1.0f, 1.5f, 2.25f, 4.0f, 7.5f, 12.0f, 20.0f, 31.5f};
    static const RopeDims cases[] = {
        {2, 3, 2, 144, 296, 10000.0f, .offset = 5},
        {2, 3, 2, 144, 296, 10000.0f, .offset = 5, .rotary_dim = 64, .behind = 8},
        {2, 3, 2, 144, 296, 10000.0f, .offset = 5, .rotary_dim = 140, .behind = 7},
        {2, 3, 2, 144, 296, 10000.0f, .offset = 5, .rotary_dim = 140, .behind = 7, .interleaved = 1},
        {2, 3, 6, 64, 3 * 192, 10000.0f, .offset = 5, .rotary_dim = 16, .group = 2, .behind = 64},
        {2, 3, 4, 24, 2 * 53, 10000.0f, .offset = 5, .rotary_dim = 16, .group = 2, .behind = 5},
        {2, 3, 4, 24, 2 * 52, 10000.0f, .rotary_dim = 8, .group = 2, .behind = 4, .interleaved = 1},
        {2, 3, 5, 16, 112, 100.0f, .behind = 32, .stretch = ROPE_DIVIDED, .divisors = divisors,
         .scale = 1.2f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_rope_dims(type, cases[i]);
}

static void check_labelled(int64_t rows, int every)
{
    CrossEntropyDims d = {.rows = rows, .classes = 50, .ignore_index = -1};
    int32_t *labels = (int32_t *)(void *)take(rows, 0.0f), *label = (int32_t *)(void *)take(rows, 0.0f);
    int32_t *expected_label = (int32_t *)(void *)take(rows, 0.0f);
    int64_t *index = (int64_t *)(void *)take(2 * rows, 0.0f),
            *expected = (int64_t *)(void *)take(2 * rows, 0.0f);
    int64_t count = -3, expected_count;
    for (int64_t i = 0; i < rows; i++)
        labels[i] = every && i % every == every / 2 ? (int32_t)(i % 50) : -1;
    kernels_cuda()->labelled_rows(&d, rows, labels, index, label, &count, on(1));
    plain()->labelled_rows(&d, rows, labels, expected, expected_label, &expected_count, on(1));
    assert_int_equal(count, expected_count);
    assert_memory_equal(index, expected, (size_t)rows * sizeof *index);
    assert_memory_equal(label, expected_label, (size_t)rows * sizeof *label);
}

static void check_moves(DType type)
{
    enum { N = 20, C = 264, ROWS = 50 };
    int64_t index[N];
    float *from = take_random(ROWS * C, 1.0f);
    void *x = typed(type, ROWS * C, from, 0), *odd = typed(type, ROWS * C, from, 1);
    void *y = typed(type, N * C, from, 0), *odd_y = typed(type, N * C, from, 3);
    void *expected = typed(type, ROWS * C, from, 0);
    for (int i = 0; i < N; i++)
        index[i] = (i * 7 + 3) % ROWS;
    kernels_cuda()->gather_rows(type, N, C, index, x, y, on(1));
    kernels_cuda()->gather_rows(type, N, C, index, odd, odd_y, on(1));
    plain()->gather_rows(type, N, C, index, x, expected, on(1));
    assert_memory_equal(y, expected, N * C * size_of(type));
    assert_memory_equal(odd_y, expected, N * C * size_of(type));
    for (int i = 0; i < 2; i++) {
        float beta = i ? 0.5f : 0.0f;
        plain()->copy(type, type, ROWS * C, x, expected, on(1));
        kernels_cuda()->scatter_rows(type, N, C, index, y, beta, x, on(1));
        kernels_cuda()->scatter_rows(type, N, C, index, odd_y, beta, odd, on(1));
        plain()->scatter_rows(type, N, C, index, y, beta, expected, on(1));
        assert_memory_equal(x, odd, ROWS * C * size_of(type));
        assert_typed_near("scattered", type, ROWS * C, x, expected, 1e-6);
    }
}

static void test_rows(void **state)
{
    (void)state;
    forget();
    for (int i = 0; i < 3; i++) {
        check_rope(types[i]);
        release();
        check_moves(types[i]);
        release();
        check_labelled(1025 * (i + 1), i);
        release();
    }
}

/* ---- Workspace -------------------------------------------------------------------------------- */

/* A function of shapes and types, whatever runs it. */
static void test_workspace(void **state)
{
    (void)state;
    const Kernels *k = kernels_cuda();
    CrossEntropyDims d = {.rows = 32768, .classes = 50257};
    KernelRun nobody = {.threads = 7};
    assert_int_equal(k->norm_workspace(32768, 768, &nobody), 256 * 2 * 768 * 4);
    assert_int_equal(k->norm_workspace(100, 4096, on(2)), 7 * 2 * 4096 * 4);
    assert_int_equal(k->norm_workspace(4096, 4096, on(2)), 128 * 2 * 4096 * 4);
    assert_int_equal(k->norm_workspace(1, 3, on(1)), 2 * 3 * 4);
    assert_int_equal(k->cross_entropy_workspace(&d, &nobody), 32768 * 4);
    assert_int_equal(k->embedding_workspace(32768, 50257, DTYPE_BF16, &nobody), 2 * 32768 * 4);
    assert_int_equal(k->embedding_workspace(100, 255, DTYPE_F32, &nobody), 100 * 4);
    assert_int_equal(k->embedding_workspace(100, 256, DTYPE_F32, &nobody), 2 * 100 * 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),     cmocka_unit_test(test_losses), cmocka_unit_test(test_faults),
        cmocka_unit_test(test_embedding), cmocka_unit_test(test_rows),   cmocka_unit_test(test_workspace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
