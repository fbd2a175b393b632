/* Selective recomputation: gradients bitwise those of a plain run in every combination, exactly the derived bytes
 * no longer kept, exactly the derived products more, and never a higher peak. */
#include "nn/module_.h"
#include "support.h"
#include "tensor/tensor_.h"

/* ---- Gradients ------------------------------------------------------------------------------- */

static void check_mode(Setting *s, const char *pattern, int checkpoint, const Micro *micro, int threads,
                       Tensor *plain, double plain_loss)
{
    double loss;
    s->pattern = pattern;
    s->checkpoint = checkpoint;
    s->selective = 1;
    Tensor *g = small_gradients(s, micro, threads, 5, &loss);
    if (difference(tensor_f32(plain), tensor_f32(g), tensor_numel(g)) != 0 || loss != plain_loss)
        fail_msg("%s, %d threads: gradients differ", setting_text(s), threads);
}

static void test_bitwise_in_every_combination(void **state)
{
    (void)state;
    static const Micro micros[] = {{{6}}, {{4, 2}}};
    for (int i = 0; i < 16 * FAMILIES; i++) {
        Setting s = {.family = (ModelFamily)(i / 16),
                     .attention = i & 1 ? ATTENTION_EAGER : ATTENTION_FLASH,
                     .dropout = i & 2 ? 0.2f : 0,
                     .layers = 3};
        const Micro *micro = &micros[i >> 2 & 1];
        int threads = 1 + (i >> 3 & 1);
        double loss;
        Tensor *plain = small_gradients(&s, micro, threads, 5, &loss);
        check_mode(&s, NULL, 0, micro, threads, plain, loss);
        check_mode(&s, "ccc", 0, micro, threads, plain, loss);
        check_mode(&s, "c+c", 0, micro, threads, plain, loss);
        check_mode(&s, ".c+", 1, micro, threads, plain, loss);
    }
}

/* The plain kernels too. */
static Tensor *reference_gradients(ModelFamily family, int selective)
{
    Visit v = visit(&(ContextOptions){.kernels = "reference", .seed = 3});
    Module *model = small_model(
        &(Setting){.family = family, .attention = ATTENTION_EAGER, .dropout = 0.1f, .selective = selective});
    Batch batch = small_batch(family, 1, 0, 3);
    assert_int_equal(tensor_backward(nn_loss(model, &batch)), 0);
    Tensor *all = all_gradients(model);
    Context *here = context_use(v.outside);
    uint64_t live = memtrack_process_live();
    Tensor *copy = copy_of((const float *)all->storage->block.data, tensor_numel(all));
    v.live += memtrack_process_live() - live;
    context_use(here);
    leave(v);
    return copy;
}

static void test_bitwise_with_reference_kernels(void **state)
{
    (void)state;
    for (ModelFamily family = MODEL_MLP; family <= MODEL_LLAMA; family++) {
        Tensor *plain = reference_gradients(family, 0), *selective = reference_gradients(family, 1);
        assert_true(difference(tensor_f32(plain), tensor_f32(selective), tensor_numel(plain)) == 0);
    }
}

/* ---- What is kept ---------------------------------------------------------------------------- */

typedef struct Sizes {
    int batch, seq, dim, heads, kv_heads, ffn;
} Sizes;

static const Sizes round_sizes = {2, 16, 32, 4, 2, 128}, odd_sizes = {3, 7, 20, 2, 1, 33};

static Module *sized_model(const Setting *s, const Sizes *z, int layers)
{
    ModelPreset p = {.family = s->family};
    if (s->family == MODEL_BERT)
        p.config.bert =
            (BertConfig){.vocab = 40, .dim = z->dim, .layers = layers, .heads = z->heads, .ffn = z->ffn};
    else if (s->family == MODEL_GPT2)
        p.config.gpt2 =
            (Gpt2Config){.vocab = 40, .dim = z->dim, .layers = layers, .heads = z->heads, .ffn = z->ffn};
    else
        p.config.llama = (LlamaConfig){.vocab = 40,
                                       .dim = z->dim,
                                       .layers = layers,
                                       .heads = z->heads,
                                       .kv_heads = z->kv_heads,
                                       .hidden = z->ffn};
    nn_preset_set_attention(&p, s->attention);
    nn_preset_set_dropout(&p, s->dropout);
    Module *model = nn_model(&p);
    nn_set_selective(model, s->selective);
    return model;
}

/* One step on meta. */
typedef struct Held {
    uint64_t kept; /* activations at the end of forward */
    uint64_t own_peak, peak;
    double flops;
} Held;

static Held held(const Setting *s, const Sizes *z, int layers)
{
    Held out = {0};
    Visit v = visit(&(ContextOptions){.meta = 1, .threads = 2});
    Module *model = sized_model(s, z, layers);
    Batch batch = {.ids = integers(SHAPE(z->batch, z->seq), 1, 40)};
    batch.labels = integers(SHAPE(z->batch, z->seq), 2, 40);
    Tensor *loss = nn_loss(model, &batch);
    out.kept = books()->live_by[MEM_ACTIVATION];
    assert_int_equal(tensor_backward(loss), 0);
    out.own_peak = books()->own_peak[MEM_ACTIVATION];
    out.peak = books()->peak;
    out.flops = context_flops(context_current());
    leave(v);
    return out;
}

static uint64_t a_layer_keeps(const Setting *s, const Sizes *z)
{
    return held(s, z, 3).kept - held(s, z, 2).kept;
}

/* The tensors that cannot be made from others by one pass, derived from the operations. Norms make theirs from
 * their input, which is the residual stream (BERT: the sum before the norm, so that neither a block's input nor
 * its middle is kept), and swiglu and GELU theirs from the products before. */
static uint64_t derived(const Setting *s, const Sizes *z)
{
    int64_t n = (int64_t)z->batch * z->seq, h = n * z->dim, f = n * z->ffn, kv = h / z->heads * z->kv_heads;
    int64_t lse = s->attention == ATTENTION_FLASH ? n * z->heads : 0;
    const int64_t gpt2[] = {h, n, n, 3 * h, lse, h /* attended */, h /* middle */, n, n, f};
    const int64_t llama[] = {h, n, h /* query */, kv, kv, lse, h /* attended */, h /* middle */, n, f, f};
    const int64_t bert[] = {h, h, h, lse, h /* attended */, h /* sum */, n, n, f, h /* sum */, n, n};
    const int64_t *list = s->family == MODEL_GPT2 ? gpt2 : s->family == MODEL_LLAMA ? llama : bert;
    size_t count = s->family == MODEL_GPT2    ? COUNT(gpt2)
                   : s->family == MODEL_LLAMA ? COUNT(llama)
                                              : COUNT(bert);
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += rounded(list[i]);
    return bytes;
}

static void test_layers_keep_products_only(void **state)
{
    (void)state;
    const Sizes *const sizes[] = {&round_sizes, &odd_sizes};
    for (ModelFamily family = MODEL_BERT; family <= MODEL_LLAMA; family++)
        for (int variant = 0; variant < 8; variant++) {
            Setting s = {.family = family,
                         .attention = variant & 1 ? ATTENTION_EAGER : ATTENTION_FLASH,
                         .dropout = variant & 2 ? 0.1f : 0,
                         .selective = 1};
            const Sizes *z = sizes[variant >> 2];
            uint64_t layer = a_layer_keeps(&s, z);
            if (layer != derived(&s, z))
                fail_msg("%s: a layer keeps %d bytes, derived %d", setting_text(&s), (int)layer,
                         (int)derived(&s, z));
        }
}

/* In the terms of Korthikanti et al. and of FACTS.md: sbh(64 + 4as/h) + 16sb becomes 40sbh + 16sb, and LLaMA's
 * 4sb[(6 + 2kv/a)h + 3f + a + 2] becomes 4sb[(4 + 2kv/a)h + 2f + a + 2]. */
static void test_formulae(void **state)
{
    (void)state;
    const Sizes *z = &round_sizes;
    uint64_t s = (uint64_t)z->seq, b = (uint64_t)z->batch, h = (uint64_t)z->dim, a = (uint64_t)z->heads;
    uint64_t kv = (uint64_t)z->kv_heads, f = (uint64_t)z->ffn;
    assert_int_equal(f, 4 * h);
    Setting setting = {.family = MODEL_GPT2, .attention = ATTENTION_EAGER, .selective = 1};
    assert_int_equal(a_layer_keeps(&setting, z), 40 * s * b * h + 16 * s * b);
    setting.family = MODEL_BERT;
    assert_int_equal(a_layer_keeps(&setting, z), 40 * s * b * h + 16 * s * b);
    setting = (Setting){.family = MODEL_LLAMA, .selective = 1};
    assert_int_equal(a_layer_keeps(&setting, z), 4 * s * b * (4 * h + 2 * kv * h / a + 2 * f + a + 2));
}

/* Backward makes the scores again, a product a layer; what else is made again is no product. */
static void test_flops(void **state)
{
    (void)state;
    const Sizes *z = &odd_sizes;
    enum { THREE = 3 };
    for (ModelFamily family = MODEL_BERT; family <= MODEL_LLAMA; family++)
        for (int eager = 0; eager < 2; eager++) {
            Setting s = {.family = family, .attention = eager ? ATTENTION_EAGER : ATTENTION_FLASH};
            double plain = held(&s, z, THREE).flops;
            s.selective = 1;
            double keys = family == MODEL_BERT ? z->seq : (z->seq + 1) / 2.0;
            double scores = 2.0 * z->batch * z->seq * keys * z->dim;
            assert_float_equal(held(&s, z, THREE).flops - plain, eager ? THREE * scores : 0, 0.5);
        }
}

/* Own peak of activations lower, and the peak never higher. */
static void test_peaks(void **state)
{
    (void)state;
    static const Sizes wide = {4, 40, 48, 4, 2, 100}, large_heads = {1, 130, 24, 1, 1, 30};
    const Sizes *const sizes[] = {&round_sizes, &odd_sizes, &wide, &large_heads};
    for (size_t k = 0; k < COUNT(sizes); k++)
        for (int i = 0; i < 12; i++) {
            Setting s = {.family = (ModelFamily)(MODEL_BERT + i / 4),
                         .attention = i & 1 ? ATTENTION_EAGER : ATTENTION_FLASH,
                         .dropout = i & 2 ? 0.1f : 0};
            Held plain = held(&s, sizes[k], 3);
            s.selective = 1;
            Held less = held(&s, sizes[k], 3);
            if (less.kept >= plain.kept || less.own_peak >= plain.own_peak || less.peak > plain.peak)
                fail_msg("%s %d: own peak %d and peak %d were %d and %d", setting_text(&s), (int)k,
                         (int)less.own_peak, (int)less.peak, (int)plain.own_peak, (int)plain.peak);
        }
}

/* ReLU's output is all that its layer keeps: there is nothing to save, and nothing changes. */
static void test_mlp_stays_as_it_is(void **state)
{
    (void)state;
    uint64_t hash[2];
    for (int selective = 0; selective < 2; selective++) {
        Visit v = visit(&(ContextOptions){.threads = 1});
        Module *model = small_model(&(Setting){.family = MODEL_MLP, .selective = selective, .dropout = 0.1f});
        Batch batch = small_batch(MODEL_MLP, 0, 0, 5);
        assert_int_equal(tensor_backward(nn_loss(model, &batch)), 0);
        hash[selective] = books()->event_hash;
        leave(v);
    }
    assert_int_equal(hash[0], hash[1]);
}

/* ---- Where it applies ------------------------------------------------------------------------ */

static uint64_t kept_with(void (*set)(Module *model))
{
    Visit v = visit(&(ContextOptions){.meta = 1, .threads = 1});
    Module *model = sized_model(&(Setting){.family = MODEL_LLAMA}, &round_sizes, 3);
    set(model);
    Batch batch = {.ids = integers(SHAPE(2, 16), 1, 40), .labels = integers(SHAPE(2, 16), 2, 40)};
    assert_non_null(nn_loss(model, &batch));
    assert_false(context_current()->selective);
    uint64_t kept = books()->live_by[MEM_ACTIVATION];
    leave(v);
    return kept;
}

static void set_nothing(Module *model)
{
    (void)model;
}

static void set_all(Module *model)
{
    nn_set_selective(model, 1);
}

static void set_one_block(Module *model)
{
    nn_set_selective(nn_block(model, 1), 1);
}

static void set_all_but_one(Module *model)
{
    nn_set_selective(model, 1);
    nn_set_selective(nn_block(model, 1), 0);
}

static void set_and_unset(Module *model)
{
    nn_set_selective(model, 1);
    nn_set_selective(model, 0);
    nn_set_selective(NULL, 1);
}

static void test_module_by_module(void **state)
{
    (void)state;
    const Sizes *z = &round_sizes;
    uint64_t h = rounded((int64_t)z->batch * z->seq * z->dim),
             f = rounded((int64_t)z->batch * z->seq * z->ffn);
    uint64_t none = kept_with(set_nothing), block = 2 * h + f;
    assert_int_equal(kept_with(set_all), none - 3 * block - h); /* the last norm's output too */
    assert_int_equal(kept_with(set_one_block), none - block);
    assert_int_equal(kept_with(set_all_but_one), none - 2 * block - h);
    assert_int_equal(kept_with(set_and_unset), none);
}

/* A checkpoint that a module's own forward makes has the module's setting in its second run as well. */
static int selective_seen[2], runs;

static Tensor *spy(void *self, Tensor *x, const Batch *batch)
{
    (void)batch;
    selective_seen[runs++ % 2] = context_current()->selective;
    return tensor_linear(x, *(Tensor **)self, NULL, TENSOR_GELU);
}

static Tensor *spied_forward(Module *module, Tensor *x, const Batch *batch)
{
    return tensor_checkpoint(spy, &module->parameters[0].tensor, x, batch);
}

static void test_second_run_of_ones_own_checkpoint(void **state)
{
    (void)state;
    static const ModuleClass type = {"spied", 0, spied_forward};
    Module *module = nn_module(&type);
    tensor_fill(nn_add_parameter(module, "weight", SHAPE(4, 4)), 0.5f);
    for (int on = 0; on < 2; on++) {
        nn_set_selective(module, on);
        assert_int_equal(tensor_backward(tensor_sum(nn_forward(module, leaf(SHAPE(3, 4), 1, 1), NULL))), 0);
        assert_true(selective_seen[0] == on && selective_seen[1] == on && !context_current()->selective);
    }
    assert_int_equal(runs, 4);
}

/* ---- Operations by themselves ---------------------------------------------------------------- */

typedef struct AttentionRun {
    float out[2 * 9 * 12], dq[2 * 9 * 12], dk[2 * 9 * 12];
    uint64_t kept, workspace;
} AttentionRun;

static AttentionRun attention_run(int recompute, int packed, int causal)
{
    AttentionRun r;
    memset(&r, 0, sizeof r);
    int scope = tensor_scope_begin();
    AttentionOptions o = {.heads = 3, .causal = causal, .kind = ATTENTION_EAGER, .recompute = recompute};
    Tensor *q = leaf(SHAPE(2, 9, packed ? 36 : 12), 1, 1), *k = leaf(SHAPE(2, 9, 12), 2, 1);
    Tensor *y = packed ? tensor_attention_packed(q, &o) : tensor_attention(q, k, k, &o);
    memcpy(r.out, tensor_f32(y), sizeof r.out);
    r.kept = books()->live_by[MEM_ACTIVATION];
    Tensor *loss = tensor_sum(tensor_mul(y, values(SHAPE(2, 9, 12), 3, 1)));
    assert_int_equal(tensor_backward(loss), 0);
    memcpy(r.dq, grad_f32(q), sizeof r.dq);
    if (!packed)
        memcpy(r.dk, grad_f32(k), sizeof r.dk);
    tensor_scope_end(scope);
    return r;
}

static void test_attention_option(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        AttentionRun kept = attention_run(0, i & 1, i >> 1), again = attention_run(1, i & 1, i >> 1);
        assert_int_equal(kept.kept - again.kept, rounded(2 * 3 * 9 * 9));
        kept.kept = again.kept = 0;
        assert_memory_equal(&kept, &again, sizeof kept);
    }
}

/* Nothing is recorded: the same results, and only a block of rows for the scores. */
static void test_evaluation(void **state)
{
    (void)state;
    for (ModelFamily family = MODEL_BERT; family <= MODEL_LLAMA; family++) {
        Module *model = small_model(&(Setting){.family = family, .attention = ATTENTION_EAGER});
        float loss[2];
        for (int selective = 0; selective < 2; selective++) {
            nn_set_selective(model, selective);
            Batch batch = small_batch(family, 1, 0, 4);
            tensor_no_grad_begin();
            loss[selective] = tensor_item(nn_loss(model, &batch));
            tensor_no_grad_end();
        }
        assert_true(loss[0] == loss[1]);
    }
}

/* ---- The plan is the run, and failing allocations -------------------------------------------- */

static int two_steps(const Setting *s)
{
    Module *model = small_model(s);
    for (int step = 0; step < 2 && !error_code(); step++) {
        int scope = tensor_scope_begin();
        Batch batch = small_batch(s->family, step, 0, 3);
        Tensor *loss = error_code() ? NULL : nn_loss(model, &batch);
        if (loss)
            tensor_backward(loss);
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
    for (int i = 0; i < 8 * FAMILIES; i++) {
        Setting s = {.family = (ModelFamily)(i / 8),
                     .attention = i & 1 ? ATTENTION_EAGER : ATTENTION_FLASH,
                     .checkpoint = i >> 1 & 1,
                     .dropout = i & 2 ? 0.1f : 0,
                     .layers = 3,
                     .selective = 1};
        int threads = 1 + (i >> 2 & 1);
        MemStats meta = stats_of(&s, &(ContextOptions){.meta = 1, .threads = threads}, 0);
        ContextOptions reserved = {
            .memory = MEMTRACK_RESERVED, .capacity = meta.needs, .threads = threads};
        MemStats run = stats_of(&s, &reserved, 0);
        assert_int_equal(meta.event_hash, run.event_hash);
        assert_int_equal(meta.needs, run.needs);
        assert_memory_equal(meta.at_peak, run.at_peak, sizeof meta.at_peak);
        assert_memory_equal(meta.own_peak, run.own_peak, sizeof meta.own_peak);
        reserved.capacity -= 64;
        stats_of(&s, &reserved, ERROR_MEMORY);
    }
}

static void test_failing_allocations(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        Setting s = {.family = (ModelFamily)(MODEL_BERT + i),
                     .layers = 1,
                     .attention = ATTENTION_EAGER,
                     .selective = 1};
        int reached = 1;
        for (uint64_t n = 40; reached; n++) { /* the first are the context's own, tried elsewhere */
            Visit v = visit(&(ContextOptions){.threads = 1});
            memtrack_fail_nth(n);
            int code = two_steps(&s);
            reached = !memtrack_fail_pending();
            memtrack_fail_nth(0);
            if (code != ERROR_NONE && code != ERROR_MEMORY && code != ERROR_HOST_MEMORY)
                fail_msg("%s, allocation %d: %s", setting_text(&s), (int)n, error_message());
            leave(v);
            assert_true(n < 5000);
        }
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_bitwise_in_every_combination),
        TEST(test_bitwise_with_reference_kernels),
        TEST(test_layers_keep_products_only),
        TEST(test_formulae),
        TEST(test_flops),
        TEST(test_peaks),
        TEST(test_mlp_stays_as_it_is),
        TEST(test_module_by_module),
        TEST(test_second_run_of_ones_own_checkpoint),
        TEST(test_attention_option),
        TEST(test_evaluation),
        TEST(test_plan_is_run),
        TEST(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
