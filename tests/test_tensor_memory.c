/* Memory as ordinary behaviour: what a layer keeps is what the formulae say, naming an intermediate costs
 * nothing, evaluating in between changes nothing, and a dry run has the events of the real one. */
#include <math.h>

#include "support.h"
#include "tensor/tensor_.h"

/* ---- What a layer keeps ---------------------------------------------------------------------- */

typedef struct Sizes {
    int batch, seq, dim, heads, kv_heads, ffn;
} Sizes;

static Module *sized_model(const Setting *s, const Sizes *z, int layers)
{
    ModelPreset preset = {.family = s->family};
    if (s->family == MODEL_BERT)
        preset.config.bert = (BertConfig){.vocab = SMALL_VOCAB,
                                          .dim = z->dim,
                                          .layers = layers,
                                          .heads = z->heads,
                                          .ffn = z->ffn,
                                          .max_seq = 32};
    else if (s->family == MODEL_GPT2)
        preset.config.gpt2 = (Gpt2Config){.vocab = SMALL_VOCAB,
                                          .dim = z->dim,
                                          .layers = layers,
                                          .heads = z->heads,
                                          .ffn = z->ffn,
                                          .max_seq = 32};
    else
        preset.config.llama = (LlamaConfig){.vocab = SMALL_VOCAB,
                                            .dim = z->dim,
                                            .layers = layers,
                                            .heads = z->heads,
                                            .kv_heads = z->kv_heads,
                                            .hidden = z->ffn};
    nn_preset_set_attention(&preset, s->attention);
    nn_preset_set_dropout(&preset, s->dropout);
    return nn_model(&preset);
}

/* The tensors that backward of one block reads, derived from the operations; the block's own output, which
 * the next one reads, stands for its input. */
static uint64_t kept_by_block(const Setting *s, const Sizes *z)
{
    int64_t n = (int64_t)z->batch * z->seq, h = n * z->dim, f = n * z->ffn, kv = h / z->heads * z->kv_heads;
    int64_t scores = n * z->heads * (s->attention == ATTENTION_EAGER ? z->seq : 1);
    const int64_t gpt2[] = {h, n, n, h /* normed */, 3 * h, scores, h /* attended */, h /* middle */, n, n,
                            h, f, f};
    const int64_t llama[] = {h, n, h, h /* query */, kv, kv, scores, h, h /* middle */, n, h, f, f, f};
    /* GELU's value is not kept, but made again (tensor_recompute) */
    const int64_t bert[] = {h, h, h, h, scores, h, h /* sum */, n, n, h /* middle */, f, h /* sum */, n, n};
    const int64_t *list = s->family == MODEL_GPT2 ? gpt2 : s->family == MODEL_LLAMA ? llama : bert;
    size_t count = s->family == MODEL_GPT2    ? COUNT(gpt2)
                   : s->family == MODEL_LLAMA ? COUNT(llama)
                                              : COUNT(bert);
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += rounded(list[i]);
    return bytes;
}

static const char *block_place(ModelFamily family)
{
    return family == MODEL_GPT2    ? "transformer.h.1"
           : family == MODEL_LLAMA ? "model.layers.1"
                                   : "bert.encoder.layer.1";
}

/* Live activations at the forward's end: of the second block (of several), and of the whole model. */
static uint64_t activations(const Setting *s, const Sizes *z, int layers, uint64_t *whole)
{
    Visit v = visit(&(ContextOptions){.meta = 1, .threads = 1});
    Module *model = sized_model(s, z, layers);
    Batch batch = {.ids = integers(SHAPE(z->batch, z->seq), 1, SMALL_VOCAB)};
    batch.labels = integers(SHAPE(z->batch, z->seq), 2, SMALL_VOCAB);
    assert_non_null(nn_loss(model, &batch));
    *whole = books()->live_by[MEM_ACTIVATION];
    uint64_t block = live_at(block_place(s->family), MEM_ACTIVATION);
    leave(v);
    return block;
}

static const Sizes round_sizes = {2, 16, 32, 4, 2, 128}, odd_sizes = {3, 7, 20, 2, 1, 33};

static void test_layers_keep_what_they_must(void **state)
{
    (void)state;
    const Sizes *const sizes[] = {&round_sizes, &odd_sizes};
    for (ModelFamily family = MODEL_BERT; family <= MODEL_LLAMA; family++)
        for (int variant = 0; variant < 8; variant++) {
            Setting s = {.family = family,
                         .attention = variant & 1 ? ATTENTION_EAGER : ATTENTION_FLASH,
                         .dropout = variant & 2 ? 0.1f : 0}; /* masks are not kept: it costs nothing */
            const Sizes *z = sizes[variant >> 2];
            uint64_t two, three, expected = kept_by_block(&s, z);
            activations(&s, z, 2, &two);
            uint64_t block = activations(&s, z, 3, &three);
            if (block != expected || three - two != expected)
                fail_msg("%s %d: a block keeps %d bytes, one more layer %d, derived %d", setting_text(&s),
                         variant, (int)block, (int)(three - two), (int)expected);
        }
}

/* The same in the terms of FACTS.md and of Korthikanti et al., in fp32: sbh(64 + 4as/h) + 16sb, and LLaMA's.
 */
static void test_published_formulae(void **state)
{
    (void)state;
    const Sizes *z = &round_sizes;
    uint64_t s = (uint64_t)z->seq, b = (uint64_t)z->batch, h = (uint64_t)z->dim, a = (uint64_t)z->heads;
    uint64_t kv = (uint64_t)z->kv_heads, f = (uint64_t)z->ffn, whole;
    assert_int_equal(f, 4 * h);
    uint64_t gpt2 = activations(&(Setting){.family = MODEL_GPT2, .attention = ATTENTION_EAGER}, z, 2, &whole);
    assert_int_equal(gpt2, s * b * (64 * h + 4 * a * s) + 16 * s * b);
    uint64_t bert = activations(&(Setting){.family = MODEL_BERT, .attention = ATTENTION_EAGER}, z, 2, &whole);
    assert_int_equal(bert, gpt2 - 4 * s * b * f); /* GELU's value, made again */
    uint64_t llama = activations(&(Setting){.family = MODEL_LLAMA}, z, 2, &whole);
    assert_int_equal(llama, 4 * s * b * (6 * h + 2 * kv * h / a + 3 * f + a + 2));
}

/* With checkpointing a block keeps its output alone: the next block's input. */
static void test_checkpoint_keeps_inputs(void **state)
{
    (void)state;
    for (ModelFamily family = MODEL_BERT; family <= MODEL_LLAMA; family++) {
        Visit v = visit(&(ContextOptions){.meta = 1, .threads = 1});
        Module *model =
            small_model(&(Setting){.family = family, .checkpoint = 1, .layers = 3, .dropout = 0.1f});
        Batch batch = small_batch(family, 0, 0, 4);
        Tensor *loss = nn_loss(model, &batch);
        assert_int_equal(live_at(block_place(family), MEM_ACTIVATION), rounded(4 * SMALL_SEQ * 32));
        assert_int_equal(tensor_backward(loss), 0);
        assert_int_equal(books()->live_by[MEM_ACTIVATION], 0);
        leave(v);
    }
}

/* ---- In place -------------------------------------------------------------------------------- */

typedef struct InPlace {
    uint64_t peak, forward; /* of the step; and what lives before backward */
} InPlace;

/* Of a chain whose middle is given away to a factor, or a cap. */
static InPlace step_in_place(DType type, float factor, float softcap)
{
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 4});
    Tensor *x = leaf(SHAPE(64, 33), 1, 1);
    Tensor *h = type == DTYPE_F32 ? tensor_add(x, x) : tensor_cast(x, type);
    if (factor != 0)
        h = tensor_scale(tensor_donate(h), factor);
    if (softcap != 0)
        h = tensor_softcap(tensor_donate(h), softcap);
    Tensor *loss = tensor_sum(tensor_donate(h));
    InPlace made = {.forward = books()->live};
    assert_int_equal(tensor_backward(loss), 0);
    assert_true(factor == 0 || fabsf(grad_f32(x)[7]) <= 2 * fabsf(factor));
    made.peak = books()->peak;
    leave(v);
    return made;
}

/* Factors on embeddings and branches cost no bytes: the result is written over what is scaled, and so is the
 * gradient. A cap keeps what it caps, and no more. */
static void test_in_place(void **state)
{
    (void)state;
    for (DType type = DTYPE_F32, i = 0; i < 3; i++, type = i == 1 ? DTYPE_BF16 : DTYPE_F16) {
        InPlace plain = step_in_place(type, 0, 0), scaled = step_in_place(type, -3, 0);
        InPlace capped = step_in_place(type, 0, 2);
        assert_int_equal(scaled.peak, plain.peak);
        assert_int_equal(scaled.forward, plain.forward);
        assert_true(capped.forward <= plain.forward + rounded(64 * 33) / (i ? 2 : 1));
        assert_true(capped.peak <= plain.peak + rounded(64 * 33) / (i ? 2 : 1));
    }
}

/* ---- Naming an intermediate ------------------------------------------------------------------ */

/* The same model as layers one after the other: with every result named, or given away as soon as it is used.
 */
static uint64_t peak_of_chain(int named, Tensor *gradients)
{
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 4});
    Module *chain = nn_sequential();
    Module *layer[6];
    for (int i = 0; i < 6; i++)
        layer[i] = nn_append(chain, i % 2 ? nn_rms_norm(32, 0) : nn_swiglu(32, 48));
    Tensor *hidden[7] = {leaf(SHAPE(40, 32), 1, 1)};
    for (int i = 0; i < 6; i++)
        hidden[i + 1] = nn_forward(layer[i], named ? hidden[i] : tensor_donate(hidden[i]), NULL);
    Tensor *loss = named ? tensor_mean(tensor_mul(hidden[6], hidden[6])) : NULL;
    if (!named) {
        Tensor *square = tensor_mul(hidden[6], hidden[6]);
        loss = tensor_mean(tensor_donate(square));
    }
    assert_int_equal(tensor_backward(loss), 0);
    uint64_t peak = books()->peak;
    memcpy(gradients->storage->block.data, tensor_f32(all_gradients(chain)),
           gradients->storage->block.requested);
    leave(v);
    return peak;
}

static void test_names_cost_nothing(void **state)
{
    (void)state;
    int64_t count = 3 * 3 * 32 * 48 + 3 * 32;
    Tensor *named = tensor_new(DTYPE_F32, SHAPE(count), MEM_INPUT);
    Tensor *given_away = tensor_new(DTYPE_F32, SHAPE(count), MEM_INPUT);
    assert_int_equal(peak_of_chain(1, named), peak_of_chain(0, given_away));
    assert_memory_equal(tensor_f32(named), tensor_f32(given_away), (size_t)count * sizeof(float));
}

/* What nobody reads any more is gone when backward begins, though it has a name; what is kept costs its
 * bytes. */
static uint64_t live_in_backward;

static Tensor *spy(void *self, Tensor *x, const Batch *batch)
{
    (void)self, (void)batch;
    if (memtrack_phase(context_tracker(context_current())) == MEM_PHASE_RECOMPUTE)
        live_in_backward = books()->live;
    return tensor_scale(x, 2);
}

static uint64_t named_and_kept(int keep)
{
    Visit v = visit(&(ContextOptions){.threads = 1});
    Tensor *x = leaf(SHAPE(5000), 1, 1);
    Tensor *unread = tensor_scale(x, 2); /* scale reads nothing backward */
    if (keep)
        tensor_keep(unread);
    Tensor *next = tensor_scale(unread, 3), *y = tensor_checkpoint(spy, NULL, next, NULL);
    assert_int_equal(tensor_backward(tensor_sum(tensor_donate(y))), 0);
    assert_true(keep == (unread->storage != NULL));
    leave(v);
    return live_in_backward;
}

static void test_backward_drops_names(void **state)
{
    (void)state;
    assert_int_equal(named_and_kept(1) - named_and_kept(0), rounded(5000));
}

/* ---- Evaluating in between ------------------------------------------------------------------- */

enum { STEPS = 4 };

typedef struct Trace {
    uint64_t step_hash[STEPS], peak;
    Tensor *gradients[STEPS];
} Trace;

static void evaluate(Module *model, ModelFamily family)
{
    int scope = tensor_scope_begin();
    nn_eval(model);
    tensor_no_grad_begin();
    Batch batch = small_batch(family, 99, 0, 5);
    assert_non_null(nn_loss(model, &batch));
    tensor_no_grad_end();
    nn_train(model);
    tensor_scope_end(scope);
}

static void drop_gradients(Module *model)
{
    TensorList list = nn_parameters(model);
    for (int i = 0; i < list.count; i++)
        tensor_drop_grad(list.items[i]);
}

/* Gradients of each step are copied into the context outside. */
static Trace train(const Setting *s, int evaluations, Context *outside)
{
    Trace trace = {{0}, 0, {0}};
    Context *context = context_current();
    Module *model = small_model(s);
    for (int step = 0; step < STEPS; step++) {
        int scope = tensor_scope_begin();
        Batch batch = small_batch(s->family, step, 0, 3);
        memtrack_step_set(context_tracker(context),
                          step); /* the inputs before the first operation are not compared */
        assert_int_equal(tensor_backward(nn_loss(model, &batch)), 0);
        trace.step_hash[step] = books()->step_hash;
        Tensor *all = all_gradients(model);
        context_use(outside);
        trace.gradients[step] = copy_of((const float *)all->storage->block.data, tensor_numel(all));
        context_use(context);
        drop_gradients(model);
        tensor_scope_end(scope);
        context_step_end();
        if (evaluations && step % 2 == 1)
            evaluate(model, s->family);
    }
    trace.peak = books()->peak;
    return trace;
}

static void test_evaluation_changes_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * FAMILIES; i++) {
        Setting s = {.family = (ModelFamily)(i / 2), .checkpoint = i % 2, .dropout = 0.1f};
        Trace trace[2];
        for (int evaluations = 0; evaluations < 2; evaluations++) {
            Context *outside = context_current();
            Visit v = {.outside = context_use(context_create(&(ContextOptions){.threads = 1, .seed = 9}))};
            trace[evaluations] = train(&s, evaluations, outside);
            context_destroy(context_use(v.outside));
        }
        for (int step = 0; step < STEPS; step++) {
            if (trace[0].step_hash[step] != trace[1].step_hash[step] || !trace[0].step_hash[step])
                fail_msg("%s: the events of step %d changed", setting_text(&s), step);
            assert_int_equal(trace[0].step_hash[step],
                             trace[0].step_hash[0]); /* every step is like the first */
            assert_memory_equal(tensor_f32(trace[0].gradients[step]), tensor_f32(trace[1].gradients[step]),
                                (size_t)tensor_numel(trace[0].gradients[step]) * sizeof(float));
        }
        assert_int_equal(trace[0].peak, trace[1].peak);
    }
}

/* ---- A dry run has the events of the real one ------------------------------------------------ */

/* Two steps of two micro-batches (the last one short), and an evaluation. */
static int run_scenario(const Setting *s)
{
    Module *model = small_model(s);
    for (int step = 0; step < 2 && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (int micro = 0; micro < 2; micro++) {
            Batch batch = small_batch(s->family, step, 3 * micro, 3 - micro);
            if (!error_code())
                tensor_backward(nn_loss(model, &batch));
        }
        drop_gradients(model);
        tensor_scope_end(scope);
        context_step_end();
        if (!error_code())
            evaluate(model, s->family);
    }
    return error_code();
}

static MemStats scenario_books(const Setting *s, const ContextOptions *options, int expected)
{
    Visit v = visit(options);
    int code = run_scenario(s);
    if (code != expected)
        fail_msg("%s: %s", setting_text(s), error_message());
    MemStats stats = *books();
    leave(v);
    return stats;
}

static void test_meta_equals_real(void **state)
{
    (void)state;
    for (int i = 0; i < 4 * FAMILIES; i++) {
        Setting s = {.family = (ModelFamily)(i / 4),
                     .checkpoint = i & 1,
                     .attention = i & 2 ? ATTENTION_EAGER : ATTENTION_FLASH,
                     .dropout = i & 1 ? 0.1f : 0};
        MemStats meta = scenario_books(&s, &(ContextOptions){.meta = 1, .threads = 2}, 0);
        MemStats real = scenario_books(&s, &(ContextOptions){.threads = 2}, 0);
        MemStats reserved = scenario_books(
            &s, &(ContextOptions){.memory = MEMTRACK_RESERVED, .capacity = meta.needs, .threads = 2}, 0);
        assert_int_equal(meta.event_hash, real.event_hash);
        assert_int_equal(meta.event_hash, reserved.event_hash);
        assert_int_equal(meta.peak, real.peak);
        assert_int_equal(meta.needs, real.needs);
        assert_int_equal(meta.needs, reserved.needs);
        assert_int_equal(meta.allocations, real.allocations);
        assert_memory_equal(meta.at_peak, real.at_peak, sizeof meta.at_peak);
        assert_memory_equal(meta.own_peak, real.own_peak, sizeof meta.own_peak);
        scenario_books(
            &s, &(ContextOptions){.memory = MEMTRACK_RESERVED, .capacity = meta.needs - 64, .threads = 2},
            ERROR_MEMORY);
    }
}

/* Fragmentation: at usual sizes the reservation is hardly more than the peak. */
static void test_needs_little_more_than_peak(void **state)
{
    (void)state;
    const char *const names[] = {"mlp", "bert-tiny", "gpt2-tiny", "llama-tiny"};
    for (int i = 0; i < 4 * FAMILIES; i++) {
        ModelPreset preset = *nn_preset(names[i / 4]);
        nn_preset_set_attention(&preset, i & 2 ? ATTENTION_EAGER : ATTENTION_FLASH);
        Visit v = visit(&(ContextOptions){.meta = 1, .threads = 2});
        Module *model = nn_model(&preset);
        for (int k = 0; k < nn_block_count(model); k++)
            nn_set_checkpoint(nn_block(model, k), i & 1);
        for (int step = 0; step < 3; step++) {
            int scope = tensor_scope_begin();
            Shape shape = SHAPE(preset.batch, preset.seq ? preset.seq : 1);
            Batch batch = {.labels = tensor_from(DTYPE_I32, shape, MEM_INPUT, NULL)};
            if (preset.family == MODEL_MLP)
                batch.features = tensor_from(DTYPE_F32, SHAPE(preset.batch, 784), MEM_INPUT, NULL);
            else
                batch.ids = tensor_from(DTYPE_I32, shape, MEM_INPUT, NULL);
            assert_int_equal(tensor_backward(nn_loss(model, &batch)), 0);
            drop_gradients(model);
            tensor_scope_end(scope);
            context_step_end();
        }
        double ratio = (double)books()->needs / (double)books()->peak;
        /* BERT's second run leaves a gap of GELU's size. */
        double most = !(i & 1) ? 1.05 : preset.family == MODEL_BERT ? 1.14 : 1.06;
        if (ratio < 1 || ratio > most) /* without optimizer states, which would make it less */
            fail_msg("%s%s %s: needs %.4f times the peak", names[i / 4], i & 1 ? " checkpoint" : "",
                     i & 2 ? "eager" : "flash", ratio);
        leave(v);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_layers_keep_what_they_must),
        TEST(test_published_formulae),
        TEST(test_checkpoint_keeps_inputs),
        TEST(test_names_cost_nothing),
        TEST(test_backward_drops_names),
        TEST(test_evaluation_changes_nothing),
        TEST(test_meta_equals_real),
        TEST(test_needs_little_more_than_peak),
        TEST(test_in_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
