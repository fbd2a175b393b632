/* The chunked loss head: values and gradients of the two operations that it stands for, memory without
 * logits, and models that use it. */
#include <math.h>

#include "optim/optim.h"
#include "plan_support.h"

enum { IGNORED = -7 };

/* ---- The operation --------------------------------------------------------------------------- */

typedef struct Head {
    Tensor *hidden, *weight, *bias, *labels;
    float softcap;
} Head;

/* Every third label is ignored. */
static Head head_of(Shape hidden, int64_t classes, int bias)
{
    int64_t width = hidden.dim[hidden.ndim - 1], rows = shape_numel(hidden) / width;
    Head head = {.hidden = leaf(hidden, 1, 1),
                 .weight = leaf(SHAPE(classes, width), 2, 1),
                 .bias = bias ? leaf(SHAPE(classes), 3, 1) : NULL,
                 .labels = integers(SHAPE(rows), 4, (int)classes)};
    for (int64_t i = 0; i < rows; i += 3)
        tensor_i32(head.labels)[i] = IGNORED;
    return head;
}

/* chunk 0: the two operations, or three. */
static Tensor *loss_of(const Head *h, float scale, int64_t chunk)
{
    LossOptions o = {.ignore_index = IGNORED, .scale = scale, .softcap = h->softcap, .chunk_rows = chunk};
    if (chunk && h->softcap != 0)
        return tensor_linear_cross_entropy_with(h->hidden, h->weight, h->bias, h->labels, &o);
    if (chunk)
        return tensor_linear_cross_entropy(h->hidden, h->weight, h->bias, h->labels, IGNORED, scale, chunk);
    Tensor *logits = tensor_linear(h->hidden, h->weight, h->bias, TENSOR_IDENTITY);
    return tensor_cross_entropy(tensor_softcap(logits, h->softcap), h->labels, IGNORED, scale);
}

static void compare_gradient(const char *what, Tensor *a, Tensor *b, double most)
{
    if (!a)
        return;
    double apart = difference(grad_f32(a), grad_f32(b), tensor_numel(a));
    if (apart > most)
        fail_msg("%s differs by %g", what, apart);
}

static const Shape hidden_shapes[] = {{1, {17, 1, 1, 1}}, {2, {1, 3, 1, 1}}, {2, {7, 5, 1, 1}},
                                      {3, {2, 9, 16, 1}}, {4, {2, 2, 5, 8}}, {2, {65, 33, 1, 1}}};

static void test_equals_two_operations(void **state)
{
    (void)state;
    static const int64_t chunks[] = {1, 2, 5, 7, 18, 64, 65, 1000};
    static const int64_t classes[] = {1, 3, 50, 300};
    for (size_t s = 0; s < COUNT(hidden_shapes); s++)
        for (size_t k = 0; k < COUNT(chunks); k++)
            for (size_t n = 0; n < COUNT(classes); n++) {
                int scope = tensor_scope_begin(), bias = (int)(k + n) % 2;
                Head whole = head_of(hidden_shapes[s], classes[n], bias);
                Head part = head_of(hidden_shapes[s], classes[n], bias);
                whole.softcap = part.softcap = (s + k) % 3 ? 0 : 0.75f;
                Tensor *a = loss_of(&whole, 0.25f, 0), *b = loss_of(&part, 0.25f, chunks[k]);
                assert_true(difference(tensor_f32(a), tensor_f32(b), 1) < 1e-6);
                assert_int_equal(tensor_backward(tensor_add(tensor_scale(a, 3), tensor_scale(b, 3))), 0);
                compare_gradient("hidden", whole.hidden, part.hidden, 3e-6);
                compare_gradient("weight", whole.weight, part.weight, 3e-6);
                compare_gradient("bias", whole.bias, part.bias, 3e-6);
                tensor_scope_end(scope);
            }
    assert_fine();
}

/* All rows in one chunk: the same kernels on the same numbers. */
static void test_one_chunk_is_bitwise_equal(void **state)
{
    (void)state;
    for (int capped = 0; capped < 2; capped++) {
        Head whole = head_of(SHAPE(9, 16), 50, 1), part = head_of(SHAPE(9, 16), 50, 1);
        whole.softcap = part.softcap = capped ? 0.75f : 0;
        Tensor *a = loss_of(&whole, 0.25f, 0), *b = loss_of(&part, 0.25f, 9);
        assert_true(tensor_item(a) == tensor_item(b));
        tensor_backward(tensor_add(a, b));
        compare_gradient("hidden", whole.hidden, part.hidden, 0);
        compare_gradient("weight", whole.weight, part.weight, 0);
        compare_gradient("bias", whole.bias, part.bias, 0);
    }
}

/* The table is the head's weight as well, and there is a gradient from before: all are added up. */
static void test_accumulates(void **state)
{
    (void)state;
    Tensor *gradient[2];
    for (int chunked = 0; chunked < 2; chunked++) {
        Tensor *table = leaf(SHAPE(20, 6), 1, 1), *ids = integers(SHAPE(2, 7), 2, 20);
        Tensor *labels = integers(SHAPE(2, 7), 3, 20);
        Tensor *hidden = tensor_gelu(tensor_embedding(ids, table));
        Head head = {.hidden = hidden, .weight = table, .labels = labels};
        Tensor *first = loss_of(&head, 1, chunked ? 4 : 0);
        Tensor *second = loss_of(&head, 0.5f, chunked ? 3 : 0); /* adds to hidden's gradient too */
        tensor_backward(tensor_add(tensor_add(first, second), tensor_sum(table)));
        head.hidden = tensor_gelu(tensor_embedding(ids, table));
        tensor_backward(loss_of(&head, 1, chunked ? 4 : 0));
        gradient[chunked] = copy_of(grad_f32(table), tensor_numel(table));
    }
    assert_true(difference(tensor_f32(gradient[0]), tensor_f32(gradient[1]), 120) < 3e-6);
}

static void test_no_label_counts(void **state)
{
    (void)state;
    Head head = head_of(SHAPE(5, 4), 3, 1);
    for (int i = 0; i < 5; i++)
        tensor_i32(head.labels)[i] = IGNORED;
    Tensor *loss = loss_of(&head, 1, 2);
    assert_true(tensor_item(loss) == 0);
    tensor_backward(loss);
    for (int i = 0; i < 20; i++)
        assert_true(grad_f32(head.hidden)[i] == 0);
    for (int i = 0; i < 12; i++)
        assert_true(grad_f32(head.weight)[i] == 0);
}

static void test_runs_are_equal(void **state)
{
    (void)state;
    Head one = head_of(SHAPE(65, 33), 300, 1), two = head_of(SHAPE(65, 33), 300, 1);
    Tensor *a = loss_of(&one, 1, 16), *b = loss_of(&two, 1, 16);
    assert_true(tensor_item(a) == tensor_item(b));
    tensor_backward(tensor_add(a, b));
    compare_gradient("weight", one.weight, two.weight, 0);
    compare_gradient("hidden", one.hidden, two.hidden, 0);
}

static void test_refuses(void **state)
{
    (void)state;
    Head good = head_of(SHAPE(2, 3, 4), 5, 1), bad = good;
    tensor_i32(good.labels)[4] = 5;
    assert_null(loss_of(&good, 1, 2)); /* the third chunk's first row */
    assert_error(ERROR_INDEX, "linear_cross_entropy", "element 4 is 5", "labels must be in [0, classes)");
    tensor_i32(good.labels)[1] = -1;
    assert_null(loss_of(&good, 1, 99));
    assert_error(ERROR_INDEX, "element 1 is -1");
    for (int64_t chunk = -1; chunk < 1; chunk++) {
        assert_null(
            tensor_linear_cross_entropy(good.hidden, good.weight, NULL, good.labels, IGNORED, 1, chunk));
        assert_error(ERROR_ARGUMENT, "at least 1");
    }
    bad.weight = leaf(SHAPE(5, 3), 1, 1);
    assert_null(loss_of(&bad, 1, 2));
    assert_error(ERROR_SHAPE, "hidden (2,3,4)", "(classes,4)", "(5,3)");
    bad = good;
    bad.softcap = -3;
    assert_null(loss_of(&bad, 1, 2));
    assert_error(ERROR_ARGUMENT, "linear_cross_entropy", "soft cap of -3");
    bad = good;
    bad.bias = leaf(SHAPE(4), 1, 1);
    assert_null(loss_of(&bad, 1, 2));
    assert_error(ERROR_SHAPE, "bias");
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
    assert_null(tensor_linear_cross_entropy(NULL, good.weight, NULL, good.labels, 0, 1, 1));
    assert_null(tensor_linear_cross_entropy(good.hidden, good.weight, NULL, NULL, 0, 1, 1));
    assert_fine();
}

/* Forward N V C products, backward thrice as many; only what is needed. */
static void test_flops(void **state)
{
    (void)state;
    const Context *context = context_current();
    for (int frozen = 0; frozen < 3; frozen++) {
        Head head = head_of(SHAPE(10, 8), 32, 0);
        if (frozen)
            tensor_set_requires_grad(frozen == 1 ? head.weight : head.hidden, 0);
        double before = context_flops(context), product = 2.0 * 10 * 32 * 8;
        Tensor *loss = loss_of(&head, 1, 3);
        assert_true(context_flops(context) - before == product);
        tensor_backward(loss);
        assert_true(context_flops(context) - before == product * (frozen ? 3 : 4));
    }
}

/* Beside hidden, parameters and gradients: a chunk of logits and a number a row. */
static void test_memory(void **state)
{
    (void)state;
    enum { ROWS = 96, WIDTH = 64, CLASSES = 4000, CHUNK = 8 };
    MemLedger *ledger = context_ledger(context_current());
    for (int recorded = 0; recorded < 2; recorded++) {
        Head head = head_of(SHAPE(ROWS, WIDTH), CLASSES, 0);
        if (!recorded)
            tensor_no_grad_begin();
        head.hidden = tensor_donate(tensor_scale(head.hidden, 1));
        uint64_t live = books()->live;
        memtrack_peak_reset(ledger);
        Tensor *loss = loss_of(&head, 1, CHUNK);
        uint64_t forward = rounded(CHUNK * CLASSES + CHUNK) + rounded(ROWS) + rounded(1);
        assert_int_equal(books()->peak, live + forward);
        if (!recorded) {
            assert_int_equal(books()->live, live - rounded(ROWS * WIDTH) + rounded(1));
            tensor_no_grad_end();
            continue;
        }
        assert_int_equal(books()->live, live + rounded(ROWS) + rounded(1));
        memtrack_peak_reset(ledger);
        live = books()->live;
        tensor_backward(loss);
        /* The seed, two gradients, a chunk of logits, and what column sums need: 2 rows a thread. */
        uint64_t most = rounded(1) + rounded(ROWS * WIDTH) + rounded(CLASSES * WIDTH) +
                        rounded((CHUNK + 2) * CLASSES + 64);
        assert_true(books()->peak <= live + most);
    }
    assert_fine();
}

/* ---- Models ---------------------------------------------------------------------------------- */

static Module *model_of(const Setting *s, int tied, int whole, int chunk)
{
    ModelPreset preset = small_preset(s);
    if (s->family == MODEL_LLAMA)
        preset.config.llama.tied = tied;
    Module *model = nn_model(&preset);
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), s->checkpoint);
    nn_set_checkpoint(model, whole);
    nn_set_loss_chunk(model, chunk);
    return model;
}

typedef struct Step {
    float loss, evaluated;
    Tensor *gradients;
} Step;

static Step step_of(const Setting *s, int tied, int whole, int chunk)
{
    Step step;
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5});
    Module *model = model_of(s, tied, whole, chunk);
    Batch batch = small_batch(s->family, 3, 0, 5);
    tensor_no_grad_begin();
    nn_eval(model);
    step.evaluated = tensor_item(nn_loss(model, &batch));
    nn_train(model);
    tensor_no_grad_end();
    Tensor *loss = nn_loss(model, &batch);
    step.loss = tensor_item(loss);
    assert_int_equal(tensor_backward(loss), 0);
    Tensor *all = all_gradients(model);
    int64_t n = tensor_numel(all);
    float *copy = test_malloc((size_t)n * sizeof *copy);
    memcpy(copy, tensor_f32(all), (size_t)n * sizeof *copy);
    leave(v);
    step.gradients = copy_of(copy, n);
    test_free(copy);
    return step;
}

static void test_models(void **state)
{
    (void)state;
    static const int chunks[] = {1, 7, 12, 1000};
    for (int i = 0; i < 3 * 2 * 2 * 2; i++) {
        Setting s = {.family = (ModelFamily)(MODEL_BERT + i / 8), .checkpoint = i & 1, .dropout = 0.2f};
        int tied = i >> 1 & 1, whole = i >> 2 & 1;
        Step plain = step_of(&s, tied, whole, 0);
        for (size_t k = 0; k < COUNT(chunks); k++) {
            Step chunked = step_of(&s, tied, whole, chunks[k]);
            double apart = difference(tensor_f32(plain.gradients), tensor_f32(chunked.gradients),
                                      tensor_numel(plain.gradients));
            if (apart > 3e-6 || fabsf(plain.loss - chunked.loss) > 1e-6f * plain.loss ||
                fabsf(plain.evaluated - chunked.evaluated) > 1e-6f * plain.evaluated)
                fail_msg("%s, chunk %d: losses %g and %g, evaluated %g and %g, gradients %g apart",
                         setting_text(&s), chunks[k], (double)plain.loss, (double)chunked.loss,
                         (double)plain.evaluated, (double)chunked.evaluated, apart);
        }
    }
}

/* Off again, and for whole models only where they offer it. */
static void test_setting(void **state)
{
    (void)state;
    Module *model = model_of(&(Setting){.family = MODEL_GPT2}, 0, 0, 4);
    Batch batch = small_batch(MODEL_GPT2, 0, 0, 2);
    Tensor *logits = nn_forward(model, NULL, &batch);
    assert_int_equal(tensor_dim(logits, -1), SMALL_VOCAB); /* forward returns logits in any case */
    float chunked = tensor_item(nn_loss(model, &batch));
    nn_set_loss_chunk(model, 0);
    assert_float_equal(chunked, tensor_item(nn_loss(model, &batch)), 1e-5);
    nn_set_loss_chunk(model, -1);
    assert_error(ERROR_ARGUMENT, "nn_set_loss_chunk", "-1", "0 means off");
    nn_set_loss_chunk(NULL, 3);
    batch.labels = NULL;
    nn_set_loss_chunk(model, 3);
    assert_null(nn_loss(model, &batch));
    assert_error(ERROR_DATA, "no labels");
    module_free(model);

    model = small_model(&(Setting){.family = MODEL_MLP});
    nn_set_loss_chunk(model, 4);
    batch = small_batch(MODEL_MLP, 0, 0, 2);
    assert_null(nn_loss(model, &batch));
    assert_error(ERROR_STATE, "this mlp offers no head", "llama, gpt2 and bert", "nn_offer_head");
    nn_set_loss_chunk(model, 0);
    assert_non_null(nn_loss(model, &batch));
    module_free(model);

    model = nn_bert(&(BertConfig){.vocab = 40, .dim = 8, .layers = 1, .heads = 2, .pooler = 1});
    nn_set_loss_chunk(model, 4);
    batch = small_batch(MODEL_BERT, 0, 0, 2);
    assert_null(nn_loss(model, &batch));
    assert_error(ERROR_STATE, "this bert offers no head");
    module_free(model);
}

/* The host's books after many steps are those after some. */
static void test_many_steps_leave_nothing(void **state)
{
    (void)state;
    Module *model = model_of(&(Setting){.family = MODEL_LLAMA}, 0, 0, 4);
    uint64_t live = 0;
    for (int step = 0; step < 400; step++) {
        int scope = tensor_scope_begin();
        Batch batch = small_batch(MODEL_LLAMA, 0, 0, 1);
        tensor_backward(nn_loss(model, &batch));
        tensor_scope_end(scope);
        if (step == 20)
            live = memtrack_process_live();
    }
    assert_int_equal(memtrack_process_live(), live);
    module_free(model);
}

/* A model of one's own offers its head too. */
typedef struct Own {
    Module *words, *head;
} Own;

static Tensor *own_hidden(Module *module, Tensor *x, const Batch *batch)
{
    const Own *self = nn_state(module);
    (void)x;
    return tensor_gelu(tensor_donate(nn_forward(self->words, batch->ids, batch)));
}

static Tensor *own_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Own *self = nn_state(module);
    return nn_forward(self->head, tensor_donate(own_hidden(module, x, batch)), batch);
}

static void test_own_module(void **state)
{
    (void)state;
    static const ModuleClass type = {"own", sizeof(Own), own_forward};
    Module *model = nn_module(&type);
    Own *self = nn_state(model);
    self->words = nn_add(model, "words", nn_embedding(SMALL_VOCAB, 8));
    self->head = nn_add(model, "out", nn_linear(8, SMALL_VOCAB, 1));
    nn_offer_head(model, &(ModuleHead){.hidden = own_hidden,
                                       .weight = nn_parameter(model, "out.weight"),
                                       .bias = nn_parameter(model, "out.bias"),
                                       .path = "out"});
    Batch batch = small_batch(MODEL_LLAMA, 0, 0, 3);
    float whole = tensor_item(nn_loss(model, &batch));
    nn_set_loss_chunk(model, 5);
    Tensor *loss = nn_loss(model, &batch);
    assert_float_equal(whole, tensor_item(loss), 1e-5);
    assert_int_equal(tensor_backward(loss), 0);
    assert_int_equal(live_at("out", MEM_GRADIENT), rounded(8 * SMALL_VOCAB) + rounded(SMALL_VOCAB));
    module_free(model);
}

/* ---- The peak, planned and run --------------------------------------------------------------- */

typedef struct Heavy {
    LlamaConfig config;
    int chunk, in_backward, checkpoint;
} Heavy;

enum { HEAVY_ROWS = 4 * 64, HEAVY_VOCAB = 8000 };

static int heavy_script(void *user)
{
    const Heavy *h = user;
    int scope = tensor_scope_begin();
    Module *model = nn_llama(&h->config);
    nn_set_loss_chunk(model, h->chunk);
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), h->checkpoint);
    Optimizer *optimizer = optim_adamw(nn_parameters(model), NULL);
    optim_set_in_backward(optimizer, h->in_backward);
    for (int step = 0; step < 2 && !error_code(); step++) {
        int inner = tensor_scope_begin();
        Shape shape = SHAPE(4, 64);
        Batch batch = {.ids = tensor_zeros(DTYPE_I32, shape, MEM_INPUT),
                       .labels = tensor_zeros(DTYPE_I32, shape, MEM_INPUT),
                       .labels_total = HEAVY_ROWS};
        tensor_backward(nn_loss(model, &batch));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(inner);
    }
    tensor_scope_end(scope);
    return error_code();
}

static uint64_t heavy_peak(const Heavy *heavy)
{
    Plan plan;
    RunResult result;
    Heavy h = *heavy;
    h.config = (LlamaConfig){
        .vocab = HEAVY_VOCAB, .dim = 32, .layers = 2, .heads = 4, .hidden = 64, .max_seq = 64, .tied = 1};
    RunOptions options = {.threads = 2, .seed = 3, .quiet = 1};
    if (plan_script(heavy_script, &h, &options, &plan))
        fail_msg("planning: %s", plan.error);
    if (plan_execute(heavy_script, &h, &options, &plan, &result))
        fail_msg("running: %s", result.error);
    assert_null(books_differ(&plan.memory, &result.memory));
    assert_int_equal(result.segments_off_plan, 0);
    plan_free(&plan);
    return result.memory.stats.peak;
}

static void test_peak_of_a_large_vocabulary(void **state)
{
    (void)state;
    uint64_t logits = rounded(HEAVY_ROWS * HEAVY_VOCAB), table = rounded(HEAVY_VOCAB * 32);
    uint64_t whole = heavy_peak(&(Heavy){.chunk = 0}), chunked = heavy_peak(&(Heavy){.chunk = 16});
    uint64_t chunk = rounded((16 + 5) * HEAVY_VOCAB); /* its logits, and column sums of 2 threads */
    assert_true(whole > logits + 3 * table);
    assert_true(chunked + logits <= whole + chunk + (1 << 16));
    assert_true(chunked < 2 * logits);
    /* All three levers: parameters, states, one gradient of the tied table, a chunk, and little else. */
    uint64_t least = heavy_peak(&(Heavy){.chunk = 16, .in_backward = 1, .checkpoint = 1});
    assert_true(least <= chunked && least < 4 * table + chunk + (1 << 20));
}

typedef struct Published {
    const char *preset;
    int in_backward, checkpoint;
} Published;

static int published_script(void *user)
{
    const Published *p = user;
    const ModelPreset *preset = nn_preset(p->preset);
    int scope = tensor_scope_begin();
    Module *model = nn_model(preset);
    nn_set_loss_chunk(model, 64);
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), p->checkpoint);
    Optimizer *optimizer = optim_adamw(nn_parameters(model), NULL);
    optim_set_in_backward(optimizer, p->in_backward);
    Shape shape = SHAPE(preset->batch, preset->seq);
    Batch batch = {.ids = tensor_new(DTYPE_I32, shape, MEM_INPUT),
                   .labels = tensor_new(DTYPE_I32, shape, MEM_INPUT)};
    tensor_backward(nn_loss(model, &batch));
    optim_step(optimizer);
    tensor_scope_end(scope);
    return error_code();
}

/* The levers leave no gaps: what must be reserved is what lives at the peak, and little more. */
static void test_needs_stay_near_the_peak(void **state)
{
    (void)state;
    static const char *const presets[] = {"bench-llama-small", "llama-3.2-1b", "bench-bert-tiny", "gpt2",
                                          "bert-base"};
    for (size_t i = 0; i < COUNT(presets); i++)
        for (int levers = 0; levers < 4; levers++) {
            Plan plan;
            Published p = {presets[i], levers & 1, levers >> 1};
            if (plan_script(published_script, &p, &(RunOptions){.threads = 2}, &plan))
                fail_msg("%s: %s", presets[i], plan.error);
            const MemStats *s = &plan.memory.stats;
            if (s->needs > s->peak + s->peak / 50)
                fail_msg("%s%s%s: needs %llu, peak %llu", presets[i], p.in_backward ? " fused" : "",
                         p.checkpoint ? " checkpoint" : "", (unsigned long long)s->needs,
                         (unsigned long long)s->peak);
            plan_free(&plan);
        }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)
#define TEST2(name)                                                                                          \
    {                                                                                                        \
#name " (2 threads)", name, fresh_context2, leave_context, NULL                                      \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_equals_two_operations),
        TEST2(test_equals_two_operations),
        TEST(test_one_chunk_is_bitwise_equal),
        TEST(test_accumulates),
        TEST(test_no_label_counts),
        TEST2(test_runs_are_equal),
        TEST(test_refuses),
        TEST(test_flops),
        TEST(test_memory),
        TEST(test_models),
        TEST(test_setting),
        TEST(test_many_steps_leave_nothing),
        TEST(test_own_module),
        cmocka_unit_test(test_peak_of_a_large_vocabulary),
        cmocka_unit_test(test_needs_stay_near_the_peak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
