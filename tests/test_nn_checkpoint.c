/* Checkpointing by pattern: what a pattern may be, gradients bitwise those of a plain run, whom the second
 * run is charged to, and that its plan is its run. */
#include <math.h>

#include "nn/module_.h"
#include "plan_support.h"
#include "tensor/tensor_.h"

enum { LAYERS = 4, PATTERN_MAX = 16 };

typedef struct Pattern {
    char text[PATTERN_MAX + 1];
} Pattern;

/* The k-th of the patterns of so many blocks; 0 when there are no more. '.' or 'c' comes first and after '.',
 * all three after the others: k is read digit by digit, and what would repeat an earlier pattern is skipped.
 */
static int pattern_at(int k, int blocks, Pattern *pattern)
{
    for (int code = 0, end = 1 << 2 * blocks; code < end; code++) {
        int fine = 1;
        for (int i = 0; i < blocks; i++) {
            int digit = code >> 2 * i & 3;
            fine &= digit < 3 && (digit < 2 || (i > 0 && pattern->text[i - 1] != '.'));
            pattern->text[i] = ".c+-"[digit];
        }
        pattern->text[blocks] = 0;
        if (fine && k-- == 0)
            return 1;
    }
    return 0;
}

static int blocks_of(ModelFamily family)
{
    return family == MODEL_MLP ? 3 : LAYERS;
}

/* ---- What a pattern may be ------------------------------------------------------------------- */

static void refuse(Module *model, const char *pattern, const char *says)
{
    assert_int_equal(nn_set_checkpoints(model, pattern), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "nn_set_checkpoints", pattern, says, "4 blocks", "\"c+c+\"");
    assert_string_equal(nn_checkpoints(model), "c.c+");
}

static void test_patterns(void **state)
{
    (void)state;
    Module *model = small_model(&(Setting){.family = MODEL_LLAMA, .layers = LAYERS});
    assert_null(nn_checkpoints(model));
    assert_int_equal(nn_set_checkpoints(model, "c.c+"), 0);
    assert_string_equal(nn_checkpoints(model), "c.c+");
    refuse(model, "", "length 0");
    refuse(model, "...", "length 3");
    refuse(model, "c+.c+", "length 5");
    refuse(model, "+c..", "at 0");
    refuse(model, "c.+.", "at 2");
    refuse(model, "c b.", "another character at 1");
    refuse(model, "C...", "another character at 0");
    assert_int_equal(nn_set_checkpoints(model, "...."), 0);
    assert_null(nn_checkpoints(model));
    static const char *const every[] = {NULL, "cccc", "c+c+", "c++c", "c+++", "c+++"};
    for (int n = 1; n <= 5; n++) {
        assert_int_equal(nn_set_checkpoint_every(model, n), 0);
        assert_string_equal(nn_checkpoints(model), every[n]);
    }
    for (int n = 0; n >= -1; n--) {
        assert_int_equal(nn_set_checkpoint_every(model, n), ERROR_ARGUMENT);
        assert_error(ERROR_ARGUMENT, "nn_set_checkpoint_every", n ? "-1" : "0", "NULL");
    }
    assert_string_equal(nn_checkpoints(model), "c+++");
    assert_int_equal(nn_set_checkpoints(model, NULL), 0);
    assert_null(nn_checkpoints(model));
    assert_int_equal(nn_set_checkpoints(NULL, "c"), 0);
    assert_int_equal(nn_set_checkpoint_every(NULL, 1), 0);
    assert_null(nn_checkpoints(NULL));
}

/* Modules without blocks have the empty pattern; many blocks have a long one, whose example is cut. */
static void test_other_modules(void **state)
{
    (void)state;
    Module *linear = nn_linear(3, 3, 1);
    assert_int_equal(nn_set_checkpoints(linear, ""), 0);
    assert_int_equal(nn_set_checkpoint_every(linear, 2), 0);
    assert_int_equal(nn_set_checkpoints(linear, "c"), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "0 blocks");
    Module *deep = small_model(&(Setting){.family = MODEL_GPT2, .layers = 20});
    assert_int_equal(nn_set_checkpoints(deep, "c+"), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "20 blocks", "\"c+c+c+c+c+c+...\"");
    assert_int_equal(nn_set_checkpoint_every(deep, 7), 0);
    assert_string_equal(nn_checkpoints(deep), "c++++++c++++++c+++++");
}

/* A block marked after the pattern was set is run, and keeps everything. */
static Tensor *chain_forward(Module *module, Tensor *x, const Batch *batch)
{
    return nn_run_blocks(module, x, batch);
}

static void test_own_model(void **state)
{
    (void)state;
    static const ModuleClass type = {"chain", 0, chain_forward};
    Module *chain = nn_module(&type);
    Tensor *x = leaf(SHAPE(5, 8), 1, 1);
    assert_ptr_equal(nn_run_blocks(chain, x, NULL), x);
    assert_null(nn_run_blocks(NULL, x, NULL));
    for (int i = 0; i < 2; i++)
        nn_mark_block(chain, nn_append(chain, nn_linear(8, 8, 1)));
    assert_int_equal(nn_set_checkpoints(chain, "c+"), 0);
    nn_mark_block(chain, nn_append(chain, nn_linear(8, 3, 1)));
    Tensor *y = nn_forward(chain, x, NULL);
    assert_int_equal(tensor_numel(y), 15);
    /* the segment's input is x, an input; the third layer reads the segment's output */
    assert_int_equal(books()->live_by[MEM_ACTIVATION], rounded(40));
    assert_int_equal(tensor_backward(tensor_sum(y)), 0);
    assert_true(tensor_has_grad(nn_parameter(chain, "0.weight")) && tensor_has_grad(x));
}

/* A pattern is not ignored in silence. */
static Tensor *loop_forward(Module *module, Tensor *x, const Batch *batch)
{
    return nn_forward(nn_block(module, 0), x, batch);
}

static void test_forward_without_run_blocks(void **state)
{
    (void)state;
    static const ModuleClass type = {"loop", 0, loop_forward};
    Module *loop = nn_module(&type);
    nn_mark_block(loop, nn_append(loop, nn_linear(8, 8, 1)));
    Tensor *x = leaf(SHAPE(5, 8), 1, 1);
    assert_non_null(nn_forward(loop, x, NULL));
    assert_int_equal(nn_set_checkpoint_every(loop, 1), 0);
    nn_forward(loop, x, NULL);
    assert_error(ERROR_STATE, "loop", "nn_run_blocks");
}

/* ---- Gradients ------------------------------------------------------------------------------- */

static void assert_equal_gradients(const Setting *s, Tensor *a, Tensor *b)
{
    if (difference(tensor_f32(a), tensor_f32(b), tensor_numel(a)) != 0)
        fail_msg("%s: gradients differ", setting_text(s));
}

static const Micro two_micros = {{4, 2}};

static void check_every_pattern(ModelFamily family, AttentionKind attention, int selective, int threads)
{
    Setting s = {.family = family, .attention = attention, .dropout = 0.2f, .layers = LAYERS};
    double loss[2];
    Tensor *plain = small_gradients(&s, &two_micros, threads, 5, &loss[0]);
    s.selective = selective;
    Pattern pattern;
    s.pattern = pattern.text;
    int count = 0;
    for (int k = 0; pattern_at(k, blocks_of(family), &pattern); k++, count++) {
        s.checkpoint = k % 5 == 3; /* a block of a segment, checkpointed itself as well */
        assert_equal_gradients(&s, plain, small_gradients(&s, &two_micros, threads, 5, &loss[1]));
        assert_true(loss[0] == loss[1]);
    }
    assert_int_equal(count, family == MODEL_MLP ? 13 : 34);
}

static void test_every_pattern_is_bitwise_equal(void **state)
{
    (void)state;
    for (ModelFamily family = MODEL_MLP; family <= MODEL_LLAMA; family++)
        for (int threads = 1; threads <= 2; threads++)
            check_every_pattern(family, threads == 1 ? ATTENTION_FLASH : ATTENTION_EAGER, 0, threads);
}

static void test_with_selective_too(void **state)
{
    (void)state;
    for (ModelFamily family = MODEL_MLP; family <= MODEL_LLAMA; family++)
        check_every_pattern(family, ATTENTION_EAGER, 1, 1);
}

static Tensor *run_whole(void *self, Tensor *x, const Batch *batch)
{
    return nn_forward(self, x, batch);
}

/* Segments inside a checkpoint of the whole model, with checkpoints of parts of their blocks inside them. */
static void test_nested(void **state)
{
    (void)state;
    for (ModelFamily family = MODEL_BERT; family <= MODEL_LLAMA; family++) {
        Setting s = {.family = family, .dropout = 0.2f, .layers = LAYERS};
        double loss;
        Tensor *plain = small_gradients(&s, &(Micro){{6}}, 1, 5, &loss);
        Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5});
        s.pattern = "c+.c";
        Module *model = small_model(&s);
        for (int i = 0; i < LAYERS; i++)
            nn_set_checkpoint(nn_block(model, i)->children[i % 3], 1);
        Batch batch = small_batch(family, 3, 0, 6);
        tensor_random_begin(batch.step, batch.first_sample);
        Tensor *logits = tensor_checkpoint(run_whole, model, NULL, &batch);
        tensor_backward(
            tensor_cross_entropy(logits, batch.labels, BATCH_IGNORE, 1 / (float)batch.labels_total));
        Tensor *all = all_gradients(model);
        assert_true(
            difference((const float *)plain->storage->block.data, tensor_f32(all), tensor_numel(plain)) == 0);
        leave(v);
    }
}

/* The second run is the first one's, whatever the pattern has become in between. */
static void test_pattern_changes_in_between(void **state)
{
    (void)state;
    static const char *const next[] = {NULL, "c+++", ".c+."};
    Setting s = {.family = MODEL_BERT, .dropout = 0.2f, .layers = LAYERS, .pattern = "c++c"};
    Tensor *first = NULL;
    for (size_t i = 0; i <= COUNT(next); i++) {
        int scope = tensor_scope_begin();
        Module *model = small_model(&s);
        for (int p = 0; p < nn_parameters(model).count; p++) { /* fills have a stream of their own a call */
            Tensor *t = nn_parameters(model).items[p];
            fill_values(tensor_f32(t), tensor_numel(t), (uint32_t)p, 0.1, 0);
        }
        Batch batch = small_batch(s.family, 3, 0, 6);
        Tensor *loss = nn_loss(model, &batch);
        if (i > 0)
            assert_int_equal(nn_set_checkpoints(model, next[i - 1]), 0);
        assert_int_equal(tensor_backward(loss), 0);
        Tensor *all = all_gradients(model);
        if (first)
            assert_equal_gradients(&s, first, all);
        first = first ? first : tensor_promote(all);
        tensor_scope_end(scope);
    }
}

/* Nothing is recorded: a pattern makes no difference. */
static void test_evaluation_takes_no_notice(void **state)
{
    (void)state;
    for (ModelFamily family = MODEL_MLP; family <= MODEL_LLAMA; family++) {
        uint64_t hash[2], kept[2] = {0, 0};
        float loss[2];
        for (int with = 0; with < 2; with++) {
            Visit v = visit(&(ContextOptions){.threads = 1, .seed = 2});
            const char *pattern = family == MODEL_MLP ? "c+c" : "c+.c";
            Module *model = small_model(&(Setting){.family = family, .layers = 4, .dropout = 0.2f});
            nn_set_checkpoints(model, with ? pattern : NULL);
            Batch batch = small_batch(family, 1, 0, 4);
            tensor_no_grad_begin();
            loss[with] = tensor_item(nn_loss(model, &batch));
            hash[with] = books()->event_hash;
            kept[with] = books()->live_by[MEM_ACTIVATION];
            tensor_no_grad_end();
            leave(v);
        }
        assert_int_equal(hash[0], hash[1]);
        assert_int_equal(kept[1], 0);
        assert_true(loss[0] == loss[1]);
    }
}

/* ---- Whom it is charged to ------------------------------------------------------------------- */

/* The block of a place "model.layers.2.mlp…"; -1 elsewhere. */
static int block_of(const char *path, const char *prefix)
{
    return strncmp(path, prefix, strlen(prefix)) ? -1 : atoi(path + strlen(prefix));
}

static EventRecord events;

/* Each allocation of a second run is made in a block of its segment, the segments come last first, their
 * blocks in order. */
static void check_places(ModelFamily family, const char *prefix)
{
    static const int order[] = {3, 0, 1};
    Visit v = visit(&(ContextOptions){.threads = 1});
    Module *model = small_model(&(Setting){.family = family, .layers = 4, .pattern = "c+.c"});
    Batch batch = small_batch(family, 1, 0, 4);
    record_start(&events);
    assert_int_equal(tensor_backward(nn_loss(model, &batch)), 0);
    leave(v);
    int run = 0, in_block[4] = {0};
    assert_int_equal(events.lost, 0);
    for (size_t i = 0; i < events.count; i++) {
        const Seen *seen = &events.seen[i];
        if (seen->event.where.phase != MEM_PHASE_RECOMPUTE || seen->event.kind != MEM_EVENT_ALLOC)
            continue;
        int block = block_of(seen->path, prefix);
        while (run < (int)COUNT(order) && order[run] != block)
            run++;
        if (run == (int)COUNT(order))
            fail_msg("%s: made again in '%s', not in the order 3, 0, 1", nn_family(family)->name, seen->path);
        in_block[block]++;
    }
    assert_true(in_block[0] > 5 && in_block[0] == in_block[1] && in_block[3] == in_block[0]);
}

static void test_places(void **state)
{
    (void)state;
    check_places(MODEL_LLAMA, "model.layers.");
    check_places(MODEL_GPT2, "transformer.h.");
    check_places(MODEL_BERT, "bert.encoder.layer.");
}

/* An input that is not finite is met in the segment's first block. */
static void test_blame(void **state)
{
    (void)state;
    Module *model = small_model(&(Setting){.family = MODEL_MLP, .pattern = "c++"});
    Batch batch = small_batch(MODEL_MLP, 0, 0, 3);
    tensor_f32(batch.features)[5] = NAN;
    assert_int_equal(tensor_backward(nn_loss(model, &batch)), ERROR_NONFINITE);
    assert_error(ERROR_NONFINITE, "input", "of a module", "at layers.0");
}

/* ---- The plan is the run --------------------------------------------------------------------- */

static int two_steps(const Setting *s)
{
    Module *model = small_model(s);
    for (int step = 0; step < 2 && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (int micro = 0; micro < 2; micro++) {
            Batch batch = error_code() ? (Batch){0} : small_batch(s->family, step, 3 * micro, 3 - micro);
            if (!error_code())
                tensor_backward(nn_loss(model, &batch));
        }
        TensorList list = nn_parameters(model);
        for (int i = 0; i < list.count; i++)
            tensor_drop_grad(list.items[i]);
        tensor_scope_end(scope);
        context_step_end();
    }
    return error_code();
}

static MemStats stats_of(const Setting *s, const ContextOptions *options, int expected)
{
    Visit v = visit(options);
    int code = two_steps(s);
    if (code != expected)
        fail_msg("%s: %s", setting_text(s), error_message());
    MemStats stats = *books();
    leave(v);
    return stats;
}

static void test_plan_is_run(void **state)
{
    (void)state;
    static const char *const patterns[] = {"c+c+", ".c++", "c+.c"}, *const of_mlp[] = {"c+c", ".c+", "c++"};
    for (int i = 0; i < 4 * 3 * FAMILIES; i++) {
        Setting s = {.family = (ModelFamily)(i / 12),
                     .attention = i & 1 ? ATTENTION_EAGER : ATTENTION_FLASH,
                     .selective = i >> 1 & 1,
                     .dropout = 0.1f,
                     .layers = 4};
        s.pattern = s.family == MODEL_MLP ? of_mlp[i / 4 % 3] : patterns[i / 4 % 3];
        MemStats meta = stats_of(&s, &(ContextOptions){.meta = 1, .threads = 2}, 0);
        MemStats run = stats_of(
            &s, &(ContextOptions){.memory = MEMTRACK_RESERVED, .capacity = meta.needs, .threads = 2}, 0);
        assert_int_equal(meta.event_hash, run.event_hash);
        assert_int_equal(meta.needs, run.needs);
        assert_int_equal(meta.peak, run.peak);
        assert_memory_equal(meta.own_peak, run.own_peak, sizeof meta.own_peak);
        ContextOptions less = {.memory = MEMTRACK_RESERVED, .capacity = meta.needs - 64, .threads = 2};
        stats_of(&s, &less, ERROR_MEMORY);
    }
}

/* ---- Failing allocations --------------------------------------------------------------------- */

static void scenario(const Setting *s)
{
    Context *context = context_create(&(ContextOptions){.threads = 1});
    if (!context)
        return;
    context_use(context);
    Module *model = small_model(s);
    nn_set_checkpoint_every(model, 2);
    int scope = tensor_scope_begin();
    Batch batch = small_batch(s->family, 0, 0, 1);
    Tensor *loss = error_code() ? NULL : nn_loss(model, &batch);
    if (loss)
        tensor_backward(loss);
    tensor_scope_end(scope);
}

/* Every n-th allocation fails once: the error says memory, nothing crashes, nothing stays. */
static void sweep(const Setting *s)
{
    Context *outside = context_use(NULL);
    uint64_t live = memtrack_process_live();
    int reached = 1;
    for (uint64_t n = 1; reached; n++) {
        memtrack_fail_nth(n);
        scenario(s);
        reached = !memtrack_fail_pending();
        memtrack_fail_nth(0);
        Context *context = context_use(NULL);
        context_use(context);
        int code = context ? error_code() : ERROR_NONE;
        if (code && code != ERROR_HOST_MEMORY && code != ERROR_MEMORY)
            fail_msg("%s, allocation %d: %s", setting_text(s), (int)n, error_message());
        if (!reached)
            assert_int_equal(code, ERROR_NONE);
        context_destroy(context_use(NULL));
        if (memtrack_process_live() != live)
            fail_msg("%s, allocation %d: %d bytes stay", setting_text(s), (int)n,
                     (int)(memtrack_process_live() - live));
        assert_true(n < 9000);
    }
    context_use(outside);
}

static void test_failing_allocations(void **state)
{
    (void)state;
    sweep(&(Setting){.family = MODEL_MLP, .pattern = "c+.", .dropout = 0.1f});
    sweep(&(Setting){.family = MODEL_BERT, .layers = 3, .pattern = ".c+", .dropout = 0.1f, .selective = 1});
    sweep(&(Setting){.family = MODEL_LLAMA, .layers = 2, .pattern = "c+", .attention = ATTENTION_EAGER});
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_patterns),
        TEST(test_other_modules),
        TEST(test_own_model),
        TEST(test_forward_without_run_blocks),
        TEST(test_every_pattern_is_bitwise_equal),
        TEST(test_with_selective_too),
        TEST(test_nested),
        TEST(test_pattern_changes_in_between),
        TEST(test_evaluation_takes_no_notice),
        TEST(test_places),
        TEST(test_blame),
        TEST(test_plan_is_run),
        TEST(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
