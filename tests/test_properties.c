/* What holds for every configuration, tried on random ones: each is drawn from a fixed seed, planned (some
 * are run), and BRIM_FULL=1 tries ten times as many. */
#include "../data/data.h"
#include "../nn/nn.h"
#include "../optim/optim.h"
#include "../plan/plan.h"
#include "support.h"

typedef struct Config {
    ModelPreset preset;
    int batch, seq, accumulate, chunk, selective, in_backward, keep;
    const char *optimizer, *pattern;
    uint64_t frozen; /* bit i: parameter i % 64 is frozen */
    int64_t trainable_bytes;
    uint64_t allocated[MEM_COMPONENT_COUNT]; /* in all, by the component it was or became */
    int64_t activation_blocks;
} Config;

static uint64_t state_of_draws;

static int draw(int low, int high)
{
    state_of_draws = state_of_draws * 6364136223846793005u + 1442695040888963407u;
    return low + (int)((state_of_draws >> 33) % (uint64_t)(high - low + 1));
}

static Config random_config(int i)
{
    static const char *const optimizers[] = {"sgd", "sgd-momentum", "rmsprop", "adam", "adamw"};
    state_of_draws = 0x9e3779b97f4a7c15u * (uint64_t)(i + 1);
    draw(0, 1);
    Config c = {.batch = draw(1, 5), .seq = draw(3, 40), .accumulate = draw(1, 3)};
    int heads = draw(1, 4), layers = draw(1, 5), dim = heads * 2 * draw(1, 6);
    AttentionKind attention = draw(0, 1) ? ATTENTION_EAGER : ATTENTION_FLASH;
    float dropout = draw(0, 2) ? 0 : 0.1f;
    c.preset.family = (ModelFamily)draw(0, MODEL_FAMILY_COUNT + 3); /* the first four twice */
    if ((int)c.preset.family >= MODEL_FAMILY_COUNT)
        c.preset.family = (ModelFamily)((int)c.preset.family - MODEL_FAMILY_COUNT);
    c.preset.name = "random";
    switch (c.preset.family) {
    case MODEL_MLP:
        c.preset.config.mlp = (MlpConfig){.sizes = {11, draw(1, 50), draw(1, 50), 7}, .dropout = dropout};
        break;
    case MODEL_LLAMA:
        c.preset.config.llama = (LlamaConfig){.vocab = 256 + draw(0, 99),
                                              .dim = dim,
                                              .layers = layers,
                                              .heads = heads,
                                              .kv_heads = draw(0, 1) ? 1 : heads,
                                              .hidden = draw(1, 90),
                                              .tied = draw(0, 1),
                                              .attention = attention};
        break;
    case MODEL_GPT2:
        c.preset.config.gpt2 = (Gpt2Config){.vocab = 256 + draw(0, 99),
                                            .dim = dim,
                                            .layers = layers,
                                            .heads = heads,
                                            .dropout = dropout,
                                            .attention = attention};
        break;
    case MODEL_BERT:
        c.preset.config.bert = (BertConfig){.vocab = 260 + draw(0, 99),
                                            .dim = dim,
                                            .layers = layers,
                                            .heads = heads,
                                            .dropout = dropout,
                                            .attention = attention};
        break;
    default:
        c.preset =
            small_preset(&(Setting){.family = c.preset.family, .layers = layers, .attention = attention});
        nn_preset_set_vocab(&c.preset, 260 + draw(0, 99));
        nn_preset_set_dropout(&c.preset, dropout);
        c.seq = draw(3, nn_preset_max_seq(&c.preset));
    }
    c.chunk = c.preset.family != MODEL_MLP && draw(0, 2) == 0 ? draw(1, 60) : 0;
    c.selective = draw(0, 3) == 0;
    c.in_backward = draw(0, 3) == 0;
    c.accumulate = c.in_backward ? 1 : c.accumulate;
    c.keep = !c.in_backward && draw(0, 3) == 0;
    c.optimizer = optimizers[draw(0, 4)];
    return c;
}

/* ---- The script ------------------------------------------------------------------------------ */

static void add_up(void *user, const MemEvent *events, size_t count)
{
    Config *c = user;
    for (size_t i = 0; i < count; i++)
        if (events[i].kind != MEM_EVENT_FREE) {
            c->allocated[events[i].component] += events[i].bytes;
            c->activation_blocks += events[i].component == MEM_ACTIVATION;
        }
}

static Loader *loader_of(const Config *c)
{
    static float features[40 * 11];
    static int32_t labels[40];
    if (c->preset.family == MODEL_MLP)
        return data_table(&(TableOptions){.features = features,
                                          .labels = labels,
                                          .count = 40,
                                          .width = 11,
                                          .batch = c->batch,
                                          .accumulate = c->accumulate});
    return data_text(
        "builtin", &(TextOptions){.batch = c->batch,
                                  .seq = c->seq,
                                  .accumulate = c->accumulate,
                                  .max_samples = 40,
                                  .mask_probability =
                                      nn_family(c->preset.family)->objective == OBJECTIVE_MASKED ? 0.15f : 0,
                                  .corpus_bytes = 1 << 13});
}

static void freeze(Config *c, Module *model)
{
    TensorList list = nn_parameters(model);
    c->trainable_bytes = 0;
    for (int i = 0; i < list.count; i++) {
        if (i > 0 && c->frozen >> i % 64 & 1)
            tensor_set_requires_grad(list.items[i], 0);
        else
            c->trainable_bytes += (tensor_numel(list.items[i]) * 4 + 63) / 64 * 64;
    }
}

static int train(void *argument)
{
    Config *c = argument;
    Context *context = context_current();
    memset(c->allocated, 0, sizeof c->allocated);
    c->activation_blocks = 0;
    memtrack_log_start(context_ledger(context), 256, add_up, c);
    Loader *data = loader_of(c);
    Module *model = nn_model(&c->preset);
    freeze(c, model);
    nn_set_checkpoints(model, c->pattern);
    nn_set_selective(model, c->selective);
    nn_set_loss_chunk(model, c->chunk);
    Optimizer *opt = optim_by_name(c->optimizer, nn_parameters(model), 1e-3f, 0);
    optim_set_in_backward(opt, c->in_backward);
    for (int step = 0; step < 2 && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(opt);
        if (c->keep)
            optim_zero_grad_keep(opt);
        else
            optim_zero_grad(opt);
        tensor_scope_end(scope);
    }
    memtrack_log_stop(context_ledger(context));
    return error_code();
}

static Plan plan_of(Config *c, int i)
{
    Plan plan;
    if (plan_script(train, c, &(RunOptions){.threads = 2, .quiet = 1}, &plan))
        fail_msg("configuration %d: %s", i, plan.error);
    return plan;
}

static uint64_t own_peak(Config *c, int i, MemComponent component)
{
    Plan plan = plan_of(c, i);
    uint64_t peak = plan.memory.stats.own_peak[component];
    plan_free(&plan);
    return peak;
}

static int configurations(void)
{
    return full_form() ? 600 : 60;
}

/* ---- The properties -------------------------------------------------------------------------- */

static void books_of_any_plan(void **state)
{
    (void)state;
    for (int i = 0; i < configurations(); i++) {
        Config c = random_config(i);
        Plan plan = plan_of(&c, i);
        const MemStats *s = &plan.memory.stats;
        uint64_t sum = 0;
        for (int k = 0; k < MEM_COMPONENT_COUNT; k++) {
            sum += s->at_peak[k];
            if (s->own_peak[k] > c.allocated[k] || s->at_peak[k] > s->own_peak[k])
                fail_msg("configuration %d: %s has an own peak of %llu, %llu at the peak, %llu allocated", i,
                         memtrack_component_name((MemComponent)k), (unsigned long long)s->own_peak[k],
                         (unsigned long long)s->at_peak[k], (unsigned long long)c.allocated[k]);
        }
        assert_int_equal(sum, s->peak);
        assert_true(s->needs >= s->peak && s->live == 0);
        plan_free(&plan);
    }
    assert_int_equal(memtrack_process_live(), 0);
}

static void batch_k_has_k_fold_activations(void **state)
{
    (void)state;
    for (int i = 0; i < configurations(); i++) {
        Config c = random_config(i);
        int k = 2 + i % 3;
        uint64_t one = own_peak(&c, i, MEM_ACTIVATION);
        c.batch *= k;
        uint64_t many = own_peak(&c, i, MEM_ACTIVATION);
        /* each block is rounded up to 64 bytes, once instead of k times */
        uint64_t rounding = 64 * (uint64_t)(k * c.activation_blocks);
        if (many > k * one || many + rounding < k * one)
            fail_msg("configuration %d: %llu bytes of activations, %llu with a batch of %d times", i,
                     (unsigned long long)one, (unsigned long long)many, k);
    }
}

static void frozen_weights_have_neither_gradients_nor_states(void **state)
{
    (void)state;
    for (int i = 0; i < configurations(); i++) {
        Config c = random_config(i);
        c.optimizer = "adamw";
        c.frozen = 0xb5297a4d3f84d5b5u ^ (uint64_t)i * 0x9e3779b97f4a7c15u;
        Plan plan = plan_of(&c, i);
        const MemStats *s = &plan.memory.stats;
        assert_int_equal(s->own_peak[MEM_OPTIMIZER], 2 * c.trainable_bytes);
        assert_true((int64_t)s->own_peak[MEM_GRADIENT] <= c.trainable_bytes);
        if (!c.in_backward)
            assert_int_equal(s->own_peak[MEM_GRADIENT], c.trainable_bytes);
        plan_free(&plan);
    }
}

/* Block after block, in a random order. */
static void checkpointing_more_never_keeps_more(void **state)
{
    (void)state;
    for (int i = 0; i < configurations(); i++) {
        Config c = random_config(i);
        char pattern[8] = "";
        int blocks = c.preset.family == MODEL_MLP     ? 3
                     : c.preset.family == MODEL_LLAMA ? c.preset.config.llama.layers
                     : c.preset.family == MODEL_GPT2  ? c.preset.config.gpt2.layers
                                                      : c.preset.config.bert.layers;
        memset(pattern, '.', (size_t)blocks);
        c.pattern = pattern;
        uint64_t before = own_peak(&c, i, MEM_ACTIVATION);
        for (int left = blocks; left > 0; left--) {
            int at = draw(0, blocks - 1);
            while (pattern[at] == 'c')
                at = (at + 1) % blocks;
            pattern[at] = 'c';
            uint64_t after = own_peak(&c, i, MEM_ACTIVATION);
            if (after > before)
                fail_msg("configuration %d: %s keeps %llu bytes, %llu before", i, pattern,
                         (unsigned long long)after, (unsigned long long)before);
            before = after;
        }
    }
}

static void the_need_suffices_and_a_byte_less_is_refused(void **state)
{
    (void)state;
    for (int i = 0; i < configurations() / 2; i++) {
        Config c = random_config(i);
        Plan plan = plan_of(&c, i);
        RunResult result;
        RunOptions options = {.threads = 2, .quiet = 1, .budget = plan.memory.stats.needs};
        if (plan_execute(train, &c, &options, &plan, &result))
            fail_msg("configuration %d: %s", i, result.error);
        assert_int_equal(result.memory.stats.peak, plan.memory.stats.peak);
        assert_int_equal(result.memory.stats.needs, plan.memory.stats.needs);
        assert_int_equal(result.segments_off_plan, 0);
        options.budget--;
        assert_int_equal(plan_execute(train, &c, &options, &plan, &result), ERROR_BUDGET);
        assert_int_equal(result.steps, 0);
        plan_free(&plan);
    }
    assert_int_equal(memtrack_process_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(books_of_any_plan),
        cmocka_unit_test(batch_k_has_k_fold_activations),
        cmocka_unit_test(frozen_weights_have_neither_gradients_nor_states),
        cmocka_unit_test(checkpointing_more_never_keeps_more),
        cmocka_unit_test(the_need_suffices_and_a_byte_less_is_refused),
    };
    return cmocka_run_group_tests_name("properties", tests, NULL, NULL);
}
