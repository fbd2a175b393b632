/* A head that computes only rows with a label: values and gradients of the operations that it stands for,
 * memory that does not depend on the labels, and models that use it. */
#include <math.h>

#include "base/half_.h"
#include "nn/lora.h"
#include "tensor/precision.h"
#include "plan_support.h"

enum { IGNORED = -7 };

/* ---- The operation --------------------------------------------------------------------------- */

typedef struct Labelled {
    Tensor *hidden, *labels;
    LossHead head;
} Labelled;

enum { NONE, ALL, SOME, FIRST, LAST, KINDS };

static int is_labelled(int kind, int64_t i, int64_t rows)
{
    const int answer[KINDS] = {0, 1, i * 5 % 7 == 3 || i == rows / 2, i == 0, i == rows - 1};
    return answer[kind];
}

/* width 0: without a transform. */
static Labelled labelled_of(Shape hidden, int64_t width, int64_t classes, int biases, int kind)
{
    int64_t in = hidden.dim[hidden.ndim - 1], rows = shape_numel(hidden) / in, last = width ? width : in;
    Labelled l = {.hidden = leaf(hidden, 1, 1), .labels = integers(SHAPE(rows), 4, (int)classes)};
    l.head = (LossHead){
        .weight = leaf(SHAPE(classes, last), 2, 1), .eps = 1e-5f, .softcap = classes % 3 ? 0 : 3};
    l.head.bias = biases ? leaf(SHAPE(classes), 3, 1) : NULL;
    if (width) {
        l.head.dense = leaf(SHAPE(width, in), 5, 1);
        l.head.norm = leaf(SHAPE(width), 6, 1);
        l.head.dense_bias = biases ? leaf(SHAPE(width), 7, 1) : NULL;
        l.head.norm_bias = biases ? leaf(SHAPE(width), 8, 1) : NULL;
        l.head.act = biases ? TENSOR_GELU : TENSOR_RELU;
    }
    for (int64_t i = 0; i < rows; i++)
        if (!is_labelled(kind, i, rows))
            tensor_i32(l.labels)[i] = IGNORED;
    return l;
}

/* chunk 0: the operations one by one, over all rows. */
static Tensor *loss_of(const Labelled *l, float scale, int64_t chunk)
{
    const LossHead *h = &l->head;
    if (chunk)
        return tensor_labelled_cross_entropy(l->hidden, h, l->labels, IGNORED, scale, chunk);
    Tensor *hidden = l->hidden;
    if (h->dense)
        hidden = tensor_layer_norm(tensor_linear(hidden, h->dense, h->dense_bias, h->act), h->norm,
                                   h->norm_bias, h->eps);
    Tensor *logits = tensor_linear(hidden, h->weight, h->bias, TENSOR_IDENTITY);
    return tensor_cross_entropy(tensor_softcap(logits, h->softcap), l->labels, IGNORED, scale);
}

enum { PARTS = 7 };

static Tensor *part_of(const Labelled *l, int i)
{
    Tensor *const parts[PARTS] = {l->hidden,          l->head.weight, l->head.bias,     l->head.dense,
                                  l->head.dense_bias, l->head.norm,   l->head.norm_bias};
    return parts[i];
}

static void compare_gradients(const char *what, const Labelled *a, const Labelled *b, double most)
{
    static const char *const names[PARTS] = {"hidden",     "weight", "bias",     "dense",
                                             "dense_bias", "norm",   "norm_bias"};
    for (int i = 0; i < PARTS; i++) {
        Tensor *x = part_of(a, i), *y = part_of(b, i);
        if (!x || !x->requires_grad)
            continue;
        double apart = difference(grad_f32(x), grad_f32(y), tensor_numel(x));
        if (!(apart <= most))
            fail_msg("%s: the gradient of %s differs by %g", what, names[i], apart);
    }
}

static const Shape hidden_shapes[] = {
    {1, {17, 1, 1, 1}}, {2, {1, 3, 1, 1}}, {2, {7, 5, 1, 1}}, {3, {2, 9, 16, 1}}, {2, {65, 33, 1, 1}}};

static void check_equal(Shape hidden, int width, int64_t classes, int biases, int kind, int64_t chunk)
{
    char what[128];
    snprintf(what, sizeof what, "hidden %s, width %d, %d classes, labels %d, chunk %d",
             shape_text(hidden).text, width, (int)classes, kind, (int)chunk);
    int scope = tensor_scope_begin();
    Labelled all = labelled_of(hidden, width, classes, biases, kind);
    Labelled some = labelled_of(hidden, width, classes, biases, kind);
    Tensor *a = loss_of(&all, 0.25f, 0), *b = loss_of(&some, 0.25f, chunk);
    if (difference(tensor_f32(a), tensor_f32(b), 1) > 5e-6)
        fail_msg("%s: losses %g and %g", what, (double)tensor_item(a), (double)tensor_item(b));
    assert_int_equal(tensor_backward(tensor_add(tensor_scale(a, 3), tensor_scale(b, 3))), 0);
    compare_gradients(what, &all, &some, 1e-5);
    tensor_scope_end(scope);
}

static void test_equals_all_rows(void **state)
{
    (void)state;
    static const int64_t chunks[] = {1, 2, 5, 8, 17, 64, 1000}, classes[] = {1, 3, 300};
    for (size_t s = 0; s < COUNT(hidden_shapes); s++)
        for (size_t k = 0; k < COUNT(chunks); k++)
            for (size_t n = 0; n < COUNT(classes); n++)
                for (int kind = 0; kind < KINDS; kind++)
                    check_equal(hidden_shapes[s], (int)(k + n) % 3 * 6, classes[n], (int)(k + n) % 2, kind,
                                chunks[k]);
    assert_fine();
}

/* The loss where part `part` is `by` further along a fixed direction. */
static double along(const Labelled *l, int part, float by, int64_t chunk)
{
    Tensor *t = part_of(l, part);
    int64_t n = tensor_numel(t);
    for (int64_t i = 0; i < n; i++)
        tensor_f32(t)[i] += by * value_at(20, (uint32_t)i, 1, 0);
    tensor_no_grad_begin();
    double loss = (double)tensor_item(loss_of(l, 1, chunk));
    tensor_no_grad_end();
    for (int64_t i = 0; i < n; i++)
        tensor_f32(t)[i] -= by * value_at(20, (uint32_t)i, 1, 0);
    return loss;
}

static void test_finite_differences(void **state)
{
    (void)state;
    for (int kind = ALL; kind < KINDS; kind++)
        for (int width = 0; width < 12; width += 6)
            for (int part = 0; part < PARTS; part++) {
                int scope = tensor_scope_begin();
                Labelled l = labelled_of(SHAPE(3, 4, 5), width, 9, 1, kind);
                Tensor *t = part_of(&l, part);
                if (t) {
                    const float step = 4e-3f;
                    assert_int_equal(tensor_backward(loss_of(&l, 1, 2)), 0);
                    double slope = 0;
                    for (int64_t i = 0; i < tensor_numel(t); i++)
                        slope += (double)grad_f32(t)[i] * (double)value_at(20, (uint32_t)i, 1, 0);
                    double measured =
                        (along(&l, part, step, 2) - along(&l, part, -step, 2)) / (2 * (double)step);
                    if (fabs(slope - measured) > 2e-3 * (1 + fabs(slope)))
                        fail_msg("labels %d, width %d, part %d: slope %g, measured %g", kind, width, part,
                                 slope, measured);
                }
                tensor_scope_end(scope);
            }
}

/* A head that is the embedding too, hidden that others use, and gradients from before: all are added up. */
static void test_accumulates(void **state)
{
    (void)state;
    Tensor *gradient[2];
    for (int skip = 0; skip < 2; skip++) {
        Tensor *table = leaf(SHAPE(20, 6), 1, 1), *ids = integers(SHAPE(2, 7), 2, 20);
        Labelled l = labelled_of(SHAPE(2, 7, 6), 6, 20, 1, SOME);
        l.head.weight = table;
        l.hidden = tensor_gelu(tensor_embedding(ids, table));
        Tensor *first = loss_of(&l, 1, skip ? 4 : 0), *second = loss_of(&l, 0.5f, skip ? 1 : 0);
        tensor_backward(tensor_add(tensor_add(first, second), tensor_sum(table)));
        l.hidden = tensor_gelu(tensor_embedding(ids, table));
        tensor_backward(loss_of(&l, 1, skip ? 4 : 0));
        gradient[skip] = copy_of(grad_f32(table), tensor_numel(table));
    }
    assert_true(difference(tensor_f32(gradient[0]), tensor_f32(gradient[1]), 120) < 3e-6);
}

/* Whichever gradients are wanted. */
static void test_frozen(void **state)
{
    (void)state;
    for (int wanted = 1; wanted < 1 << PARTS; wanted++) {
        int scope = tensor_scope_begin();
        Labelled all = labelled_of(SHAPE(11, 5), 6, 9, 1, SOME),
                 some = labelled_of(SHAPE(11, 5), 6, 9, 1, SOME);
        for (int i = 0; i < PARTS; i++)
            if (!(wanted >> i & 1)) {
                tensor_set_requires_grad(part_of(&all, i), 0);
                tensor_set_requires_grad(part_of(&some, i), 0);
            }
        tensor_backward(loss_of(&all, 1, 0));
        tensor_backward(loss_of(&some, 1, 3));
        compare_gradients("frozen", &all, &some, 1e-5);
        for (int i = 0; i < PARTS; i++)
            if (!(wanted >> i & 1))
                assert_null(tensor_grad(part_of(&some, i)));
        tensor_scope_end(scope);
    }
}

static void test_no_label_counts(void **state)
{
    (void)state;
    Labelled l = labelled_of(SHAPE(5, 4), 6, 3, 1, NONE);
    Tensor *loss = loss_of(&l, 1, 2);
    assert_true(tensor_item(loss) == 0);
    tensor_backward(loss);
    for (int i = 0; i < PARTS; i++)
        for (int64_t j = 0; j < tensor_numel(part_of(&l, i)); j++)
            assert_true(grad_f32(part_of(&l, i))[j] == 0);
}

/* What a row without a label holds is not even read. */
static void test_other_rows_are_not_read(void **state)
{
    (void)state;
    Labelled l = labelled_of(SHAPE(21, 4), 6, 3, 1, SOME);
    for (int64_t i = 0; i < 21; i++)
        for (int64_t j = 0; j < 4 && tensor_i32(l.labels)[i] == IGNORED; j++)
            tensor_f32(l.hidden)[i * 4 + j] = NAN;
    for (int64_t chunk = 1; chunk < 24; chunk += 11) { /* 23: rows of a chunk that are nobody's */
        Tensor *loss = loss_of(&l, 1, chunk);
        assert_true(isfinite(tensor_item(loss)));
        tensor_backward(loss);
        for (int i = 0; i < PARTS; i++)
            for (int64_t j = 0; j < tensor_numel(part_of(&l, i)); j++)
                assert_true(isfinite(grad_f32(part_of(&l, i))[j]));
        for (int64_t i = 0; i < 21; i++)
            for (int64_t j = 0; j < 4 && tensor_i32(l.labels)[i] == IGNORED; j++)
                assert_true(grad_f32(l.hidden)[i * 4 + j] == 0);
    }
}

static void test_runs_are_equal(void **state)
{
    (void)state;
    Labelled one = labelled_of(SHAPE(65, 33), 20, 300, 1, SOME);
    Labelled two = labelled_of(SHAPE(65, 33), 20, 300, 1, SOME);
    Tensor *a = loss_of(&one, 1, 8), *b = loss_of(&two, 1, 8);
    assert_true(tensor_item(a) == tensor_item(b));
    tensor_backward(tensor_add(a, b));
    compare_gradients("two runs", &one, &two, 0);
}

static void test_refuses(void **state)
{
    (void)state;
    Labelled good = labelled_of(SHAPE(2, 3, 4), 6, 5, 1, ALL), bad = good;
    tensor_i32(good.labels)[4] = 5;
    assert_null(loss_of(&good, 1, 2));
    assert_error(ERROR_INDEX, "labelled_cross_entropy", "element 4 is 5", "labels must be in [0, classes)");
    tensor_i32(good.labels)[1] = -1;
    assert_null(loss_of(&good, 1, 99));
    assert_error(ERROR_INDEX, "element 1 is -1");
    for (int64_t chunk = -1; chunk < 1; chunk++) {
        assert_null(tensor_labelled_cross_entropy(good.hidden, &good.head, good.labels, IGNORED, 1, chunk));
        assert_error(ERROR_ARGUMENT, "at least 1");
    }
    bad.head.weight = leaf(SHAPE(5, 3), 1, 1);
    assert_null(loss_of(&bad, 1, 2));
    assert_error(ERROR_SHAPE, "hidden (2,3,4)", "(classes,6)", "(5,3)");
    bad = good;
    bad.head.bias = leaf(SHAPE(4), 1, 1);
    assert_null(loss_of(&bad, 1, 2));
    assert_error(ERROR_SHAPE, "bias");
    bad = good;
    bad.head.dense = leaf(SHAPE(6, 3), 1, 1);
    assert_null(loss_of(&bad, 1, 2));
    assert_error(ERROR_SHAPE, "dense weight (n,4)", "(6,3)");
    bad = good;
    bad.head.dense_bias = leaf(SHAPE(5), 1, 1);
    assert_null(loss_of(&bad, 1, 2));
    assert_error(ERROR_SHAPE, "dense_bias");
    bad = good;
    bad.head.norm = NULL;
    assert_null(loss_of(&bad, 1, 2));
    assert_error(ERROR_ARGUMENT, "dense needs norm");
    bad = good;
    bad.head.norm = leaf(SHAPE(5), 1, 1);
    assert_null(loss_of(&bad, 1, 2));
    assert_error(ERROR_SHAPE, "norm must be (6)");
    bad = good;
    bad.head.norm_bias = leaf(SHAPE(5), 1, 1);
    assert_null(loss_of(&bad, 1, 2));
    assert_error(ERROR_SHAPE, "norm_bias");
    bad = good;
    bad.labels = integers(SHAPE(5), 1, 2);
    assert_null(loss_of(&bad, 1, 2));
    assert_error(ERROR_SHAPE, "needs 6 labels", "(5)");
    bad = good;
    bad.labels = values(SHAPE(6), 1, 1);
    assert_null(loss_of(&bad, 1, 2));
    assert_error(ERROR_ARGUMENT, "labels");
    bad = good;
    bad.hidden = good.labels;
    assert_null(loss_of(&bad, 1, 2));
    assert_error(ERROR_ARGUMENT, "hidden");
    assert_null(tensor_labelled_cross_entropy(NULL, &good.head, good.labels, 0, 1, 1));
    assert_null(tensor_labelled_cross_entropy(good.hidden, NULL, good.labels, 0, 1, 1));
    assert_null(tensor_labelled_cross_entropy(good.hidden, &(LossHead){0}, good.labels, 0, 1, 1));
    assert_null(tensor_labelled_cross_entropy(good.hidden, &good.head, NULL, 0, 1, 1));
    assert_fine();
}

/* Of all rows, for a plan does not know which have a label: forward both products, backward thrice each. */
static void test_flops(void **state)
{
    (void)state;
    const Context *context = context_current();
    for (int width = 0; width < 12; width += 6) {
        Labelled l = labelled_of(SHAPE(10, 8), width, 32, 0, SOME);
        double product = width ? 2.0 * 10 * 32 * width + 2.0 * 10 * 8 * width : 2.0 * 10 * 32 * 8;
        double before = context_flops(context);
        Tensor *loss = loss_of(&l, 1, 3);
        assert_true(context_flops(context) - before == product);
        tensor_backward(loss);
        assert_true(context_flops(context) - before == product * 4);
    }
}

/* Beside hidden, parameters and gradients: lists of rows, a chunk of everything, and a number a row; the same
 * whichever rows have labels. */
static void test_memory(void **state)
{
    (void)state;
    enum { ROWS = 96, IN = 32, WIDTH = 64, CLASSES = 4000, CHUNK = 16, LIST = ROWS + CHUNK / 8 };
    MemLedger *ledger = context_ledger(context_current());
    uint64_t peak = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        int scope = tensor_scope_begin();
        Labelled l = labelled_of(SHAPE(ROWS, IN), WIDTH, CLASSES, 0, kind);
        uint64_t live = books()->live;
        memtrack_peak_reset(ledger);
        Tensor *loss = loss_of(&l, 1, CHUNK);
        uint64_t lists = rounded(2 * LIST) + rounded(LIST), vectors = 2 * rounded(CHUNK);
        uint64_t chunk =
            rounded(CHUNK * IN) + 3 * rounded(CHUNK * WIDTH) + vectors + rounded(CHUNK * CLASSES);
        uint64_t kernels = rounded(CHUNK); /* a row's loss */
        assert_int_equal(books()->peak, live + lists + chunk + kernels + rounded(LIST) + rounded(1));
        assert_int_equal(books()->live, live + rounded(LIST) + rounded(1));
        live = books()->live;
        memtrack_peak_reset(ledger);
        tensor_backward(loss);
        /* The seed, four gradients, and what column sums need: 2 rows a thread. */
        uint64_t most = rounded(1) + rounded(ROWS * IN) + rounded(CLASSES * WIDTH) + rounded(IN * WIDTH) +
                        rounded(WIDTH) + lists + chunk + rounded(2 * CLASSES + 64);
        assert_true(books()->peak <= live + most);
        assert_true(kind == 0 || peak == books()->peak);
        peak = books()->peak;
        tensor_scope_end(scope);
    }
    assert_fine();
}

/* ---- Models ---------------------------------------------------------------------------------- */

typedef struct Step {
    float loss, evaluated;
    Tensor *gradients;
} Step;

/* A gradient of any type as floats. */
static void add_floats(Tensor *gradient, float *to)
{
    const uint16_t *halves = tensor_data(gradient);
    for (int64_t i = 0; i < tensor_numel(gradient); i++)
        to[i] = gradient->dtype == DTYPE_F32    ? tensor_f32(gradient)[i]
                : gradient->dtype == DTYPE_BF16 ? half_from_bf16(halves[i])
                                                : half_from_f16(halves[i]);
}

static Step step_of(const Setting *s, const char *precision, const char *lora, int skip, int chunk)
{
    Step step;
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5});
    tensor_set_precision(precision_by_name(precision));
    Module *model = small_model(s);
    if (lora) {
        nn_add_lora(model, &(Lora){.rank = 2, .targets = lora});
        TensorList list = nn_parameters(model);
        for (int i = 0; i < list.count; i++) /* B is 0 at first, and hides what an adapter adds */
            if (list.items[i]->requires_grad)
                tensor_fill_uniform(list.items[i], -0.3f, 0.3f);
    }
    nn_set_skip_unlabelled(model, skip);
    nn_set_loss_chunk(model, chunk);
    Batch batch = small_batch(s->family, 3, 0, 5);
    tensor_no_grad_begin();
    nn_eval(model);
    step.evaluated = tensor_item(nn_loss(model, &batch));
    nn_train(model);
    tensor_no_grad_end();
    Tensor *loss = nn_loss(model, &batch);
    step.loss = tensor_item(loss);
    assert_int_equal(tensor_backward(loss), 0);
    int64_t n = 0, at = 0;
    TensorList list = nn_parameters(model);
    for (int i = 0; i < list.count; i++)
        n += list.items[i]->grad ? tensor_numel(list.items[i]) : 0;
    float *copy = test_malloc((size_t)n * sizeof *copy);
    for (int i = 0; i < list.count; i++)
        if (list.items[i]->grad) {
            add_floats(tensor_grad(list.items[i]), copy + at);
            at += tensor_numel(list.items[i]);
        }
    leave(v);
    step.gradients = copy_of(copy, n);
    test_free(copy);
    return step;
}

static void compare_steps(const char *what, const Step *all, const Step *some)
{
    assert_int_equal(tensor_numel(all->gradients), tensor_numel(some->gradients));
    double apart =
        difference(tensor_f32(all->gradients), tensor_f32(some->gradients), tensor_numel(all->gradients));
    if (!(apart <= 3e-6) || fabsf(all->loss - some->loss) > 1e-6f * all->loss ||
        fabsf(all->evaluated - some->evaluated) > 1e-6f * all->evaluated)
        fail_msg("%s: losses %g and %g, evaluated %g and %g, gradients %g apart", what, (double)all->loss,
                 (double)some->loss, (double)all->evaluated, (double)some->evaluated, apart);
}

static void test_models(void **state)
{
    (void)state;
    static const int chunks[] = {0, 1, 7, 1000};
    for (int i = 0; i < 3 * 2 * 2; i++) {
        Setting s = {.family = (ModelFamily)(MODEL_BERT + i / 4),
                     .checkpoint = i & 1,
                     .selective = i >> 1 & 1,
                     .dropout = 0.2f};
        Step all = step_of(&s, "fp32", NULL, 0, 0);
        for (size_t k = 0; k < COUNT(chunks); k++) {
            Step some = step_of(&s, "fp32", NULL, 1, chunks[k]);
            compare_steps(setting_text(&s), &all, &some);
        }
    }
}

static double apart_of(const Step *a, const Step *b, double *norm)
{
    double squares = 0, apart = 0;
    assert_int_equal(tensor_numel(a->gradients), tensor_numel(b->gradients));
    for (int64_t k = 0; k < tensor_numel(a->gradients); k++) {
        double x = (double)tensor_f32(a->gradients)[k], y = (double)tensor_f32(b->gradients)[k];
        squares += x * x;
        apart += (x - y) * (x - y);
    }
    *norm = sqrt(squares);
    return sqrt(apart);
}

/* Gradients of 16 bit are rounded once, in however many chunks; a sum's order may decide a tie. */
static void test_rounds_once(void **state)
{
    (void)state;
    static const char *const precisions[] = {"bf16", "bf16-mixed", "fp16-mixed"};
    for (size_t i = 0; i < 2 * COUNT(precisions); i++) {
        const char *precision = precisions[i / 2];
        Setting s = {.family = i % 2 ? MODEL_BERT : MODEL_LLAMA};
        Step whole = step_of(&s, precision, NULL, 1, 1000);
        for (int chunk = 1; chunk < 8; chunk += 3) {
            Step parts = step_of(&s, precision, NULL, 1, chunk);
            double norm, apart = apart_of(&whole, &parts, &norm);
            if (!(apart <= 3e-4 * norm) || fabsf(whole.loss - parts.loss) > 1e-5f * whole.loss)
                fail_msg("%s %s, chunks of %d: gradients %g of %g apart", setting_text(&s), precision, chunk,
                         apart, norm);
        }
    }
}

static void test_precisions(void **state)
{
    (void)state;
    for (int i = 0; cpu_precision(i / 2); i++) {
        const Precision *precision = cpu_precision(i / 2);
        Setting s = {.family = i % 2 ? MODEL_BERT : MODEL_LLAMA};
        Step all = step_of(&s, precision->name, NULL, 0, 0), some = step_of(&s, precision->name, NULL, 1, 7);
        double norm, apart = apart_of(&all, &some, &norm);
        double most = precision->activations == DTYPE_F32   ? 1e-6
                      : precision->activations == DTYPE_F16 ? 3e-3
                                                            : 2e-2;
        if (!(apart <= most * norm) || fabsf(all.loss - some.loss) > 2e-3f * all.loss)
            fail_msg("%s %s: losses %g and %g, gradients %g of %g apart", setting_text(&s), precision->name,
                     (double)all.loss, (double)some.loss, apart, norm);
    }
}

/* With an adapter in it, the transform is computed by its modules, of all rows; with others, inside. */
static void test_adapters(void **state)
{
    (void)state;
    static const char *const targets[] = {"query", "query,transform.dense", "all"};
    for (size_t i = 0; i < COUNT(targets); i++) {
        Setting s = {.family = MODEL_BERT};
        Step all = step_of(&s, "fp32", targets[i], 0, 0), some = step_of(&s, "fp32", targets[i], 1, 5);
        compare_steps(targets[i], &all, &some);
    }
}

static void test_setting(void **state)
{
    (void)state;
    Module *model = small_model(&(Setting){.family = MODEL_BERT});
    Batch batch = small_batch(MODEL_BERT, 0, 0, 2);
    nn_set_skip_unlabelled(model, 1);
    Tensor *logits = nn_forward(model, NULL, &batch);
    assert_int_equal(tensor_dim(logits, -1), SMALL_VOCAB); /* forward returns all logits in any case */
    Tensor *loss = nn_loss(model, &batch);
    assert_string_equal(loss->op, "labelled_cross_entropy");
    nn_set_skip_unlabelled(model, 0);
    assert_string_equal(nn_loss(model, &batch)->op, "cross_entropy");
    nn_set_skip_unlabelled(NULL, 1);
    nn_set_skip_unlabelled(model, 1);
    batch.labels = NULL;
    assert_null(nn_loss(model, &batch));
    assert_error(ERROR_DATA, "no labels");
    module_free(model);

    model = small_model(&(Setting){.family = MODEL_MLP});
    nn_set_skip_unlabelled(model, 1);
    batch = small_batch(MODEL_MLP, 0, 0, 2);
    assert_null(nn_loss(model, &batch));
    assert_error(ERROR_STATE, "this mlp offers no head", "for labelled rows only (nn_set_skip_unlabelled)",
                 "nn_offer_head");
    module_free(model);

    model = small_model(&(Setting){.family = MODEL_LLAMA});
    nn_add_lora(model, &(Lora){.rank = 2, .targets = "lm_head"});
    nn_set_skip_unlabelled(model, 1);
    batch = small_batch(MODEL_LLAMA, 0, 0, 2);
    assert_null(nn_loss(model, &batch));
    assert_error(ERROR_STATE, "adapter", "nn_set_skip_unlabelled(model, 0)");
    module_free(model);
}

/* Of BERT's head nothing is kept but hidden and a number a row. */
static void test_what_is_kept(void **state)
{
    (void)state;
    uint64_t kept[2];
    int64_t rows = 5 * (int64_t)SMALL_SEQ;
    for (int skip = 0; skip < 2; skip++) {
        int scope = tensor_scope_begin();
        Module *model = small_model(&(Setting){.family = MODEL_BERT});
        nn_set_skip_unlabelled(model, skip);
        Batch batch = small_batch(MODEL_BERT, 0, 0, 5);
        assert_non_null(nn_loss(model, &batch));
        kept[skip] = books()->live_by[MEM_ACTIVATION];
        tensor_scope_end(scope);
    }
    assert_true(kept[1] + rounded(rows * SMALL_VOCAB) < kept[0]);
}

/* Loaders say how many labels of a micro-batch count; what is written afterwards makes it unknown. */
static void test_labels_are_counted(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILIES; family++) {
        Loader *loader = case_loader(&(Case){.family = (ModelFamily)family, .accumulate = 2}, 0);
        for (int step = 0; step < 3; step++)
            for (const Batch *b; (b = data_next(loader));) {
                int64_t counted = 0;
                for (int64_t i = 0; i < tensor_numel(b->labels); i++)
                    counted += tensor_i32(b->labels)[i] != BATCH_IGNORE;
                assert_int_equal(b->labels->labelled, 1 + counted);
                tensor_write(b->labels, 0, 4, &(int32_t){BATCH_IGNORE});
                assert_int_equal(b->labels->labelled, 0);
            }
    }
    assert_fine();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)
#define TEST2(name)                                                                                          \
    {                                                                                                        \
#name " (2 threads)", name, fresh_context2, leave_context, NULL                                      \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_equals_all_rows),
        TEST2(test_equals_all_rows),
        TEST(test_finite_differences),
        TEST(test_accumulates),
        TEST(test_frozen),
        TEST(test_no_label_counts),
        TEST(test_other_rows_are_not_read),
        TEST2(test_runs_are_equal),
        TEST(test_refuses),
        TEST(test_flops),
        TEST(test_memory),
        TEST(test_models),
        TEST(test_precisions),
        TEST(test_rounds_once),
        TEST(test_adapters),
        TEST(test_setting),
        TEST(test_what_is_kept),
        TEST(test_labels_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
