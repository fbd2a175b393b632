/* The search for the least recomputation that fits: what bisection finds is what planning every choice proves
 * to be the best, over families, attention kinds and budgets; and what it says when nothing fits. */
#include "../data/data.h"
#include "../nn/nn.h"
#include "../optim/optim.h"
#include "../plan/search.h"
#include "support.h"

typedef struct Config {
    ModelPreset preset;
    PlanChoice choice;
    int blocks, in_backward;
} Config;

enum { WIDTH = 24, CLASSES = 5, SAMPLES = 6 };

static Loader *loader_for(const ModelPreset *preset)
{
    static float features[SAMPLES * WIDTH];
    static int32_t labels[SAMPLES];
    if (preset->family == MODEL_MLP)
        return data_table(&(TableOptions){
            .features = features, .labels = labels, .count = SAMPLES, .width = WIDTH, .batch = 6});
    return data_text("builtin", &(TextOptions){.batch = 6,
                                               .seq = 48,
                                               .max_samples = 12,
                                               .mask_probability = preset->family == MODEL_BERT ? 0.15f : 0,
                                               .corpus_bytes = 1 << 14});
}

static int train(void *argument)
{
    Config *c = argument;
    Loader *data = loader_for(&c->preset);
    Module *model = nn_model(&c->preset);
    c->blocks = nn_block_count(model);
    nn_set_checkpoints(model, c->choice.pattern[0] ? c->choice.pattern : NULL);
    nn_set_selective(model, c->choice.selective);
    Optimizer *opt = optim_sgd(nn_parameters(model), NULL);
    optim_set_in_backward(opt, c->in_backward);
    for (int step = 0; step < 2 && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(opt);
        optim_zero_grad(opt);
        tensor_scope_end(scope);
    }
    return error_code();
}

static void apply(void *config, const PlanChoice *choice)
{
    ((Config *)config)->choice = *choice;
}

static ModelPreset shape(ModelFamily family, int layers, AttentionKind attention)
{
    ModelPreset p = {.name = "search", .family = family};
    if (family == MODEL_LLAMA)
        p.config.llama = (LlamaConfig){.vocab = 256,
                                       .dim = 32,
                                       .layers = layers,
                                       .heads = 4,
                                       .kv_heads = 2,
                                       .hidden = 80,
                                       .attention = attention};
    else if (family == MODEL_GPT2)
        p.config.gpt2 = (Gpt2Config){
            .vocab = 256, .dim = 32, .layers = layers, .heads = 4, .dropout = 0.1f, .attention = attention};
    else if (family == MODEL_BERT)
        p.config.bert =
            (BertConfig){.vocab = 260, .dim = 32, .layers = layers, .heads = 4, .attention = attention};
    else
        p.config.mlp = (MlpConfig){.sizes = {WIDTH, 64, 40, 64, CLASSES}};
    return p;
}

static PlanFound search(Config *c, uint64_t budget, PlanSearchMethod method)
{
    PlanFound found;
    RunOptions options = {.threads = 2, .budget = budget};
    plan_search(&(PlanSearch){train, c, &options, apply, c->blocks, method}, &found);
    assert_int_equal(found.status, 0);
    return found;
}

static uint64_t need_of(Config *c)
{
    Plan plan;
    assert_int_equal(plan_script(train, c, &(RunOptions){.threads = 2}, &plan), 0);
    uint64_t needs = plan.memory.stats.needs;
    plan_free(&plan);
    return needs;
}

static void compare_over_budgets(ModelFamily family, int layers, AttentionKind attention, int in_backward)
{
    static Config c;
    c = (Config){.preset = shape(family, layers, attention), .in_backward = in_backward};
    uint64_t plain = need_of(&c);
    PlanFound least = search(&c, 1, PLAN_SEARCH_ALL);
    assert_false(least.fits);
    assert_true(least.needs <= plain);
    for (int i = 0; i <= 8; i++) {
        uint64_t budget = least.needs + (plain - least.needs) * (uint64_t)i / 8;
        PlanFound all = search(&c, budget, PLAN_SEARCH_ALL), quick = search(&c, budget, PLAN_SEARCH_BISECT);
        assert_true(all.proven && !quick.proven && all.fits && all.needs <= budget);
        assert_true(quick.planned < all.planned || all.planned < 40);
        if (!quick.fits || quick.step_flops > all.step_flops * (1 + 1e-9))
            fail_msg("family %d, %d layers, budget %llu: bisection %s (fits %d, %.0f FLOPs), the best is %s "
                     "(%.0f)",
                     (int)family, layers, (unsigned long long)budget, quick.choice.pattern, quick.fits,
                     quick.step_flops, all.choice.pattern, all.step_flops);
        c.choice = quick.choice;
        assert_int_equal(need_of(&c), quick.needs);
    }
    assert_int_equal(memtrack_process_live(), 0);
}

static void bisection_finds_the_best(void **state)
{
    (void)state;
    compare_over_budgets(MODEL_LLAMA, 4, ATTENTION_FLASH, 0);
    compare_over_budgets(MODEL_LLAMA, 5, ATTENTION_EAGER, 1);
    compare_over_budgets(MODEL_GPT2, 4, ATTENTION_EAGER, 0);
    compare_over_budgets(MODEL_GPT2, 5, ATTENTION_FLASH, 1);
    compare_over_budgets(MODEL_BERT, 4, ATTENTION_FLASH, 0);
}

static void small_models_are_searched_whole(void **state)
{
    (void)state;
    static Config c;
    c = (Config){.preset = shape(MODEL_MLP, 0, ATTENTION_FLASH)};
    uint64_t plain = need_of(&c);
    PlanFound found = search(&c, plain, PLAN_SEARCH_AUTO);
    assert_true(found.fits && found.proven);
    assert_int_equal(found.planned, 2 * 34); /* four blocks: 34 patterns */
    assert_string_equal(found.choice.pattern, "....");
    assert_int_equal(found.choice.selective, 0);
    assert_true(found.step_flops == found.plain_flops);
}

static void nothing_is_recomputed_where_it_fits(void **state)
{
    (void)state;
    static Config c;
    c = (Config){.preset = shape(MODEL_LLAMA, 9, ATTENTION_FLASH)};
    uint64_t plain = need_of(&c);
    PlanFound found = search(&c, plain, PLAN_SEARCH_AUTO);
    assert_true(found.fits && !found.proven && found.planned == 1);
    assert_string_equal(found.choice.pattern, ".........");
    found = search(&c, plain - 1, PLAN_SEARCH_AUTO);
    assert_true(found.fits && found.needs < plain && found.planned > 1);
}

static void bad_searches_say_so(void **state)
{
    (void)state;
    static Config c;
    PlanFound found;
    c = (Config){.preset = shape(MODEL_LLAMA, 2, ATTENTION_FLASH)};
    RunOptions options = {.threads = 2, .budget = 1};
    PlanSearch search = {train, &c, &options, apply, 0, PLAN_SEARCH_AUTO};
    assert_int_equal(plan_search(&search, &found), ERROR_ARGUMENT);
    assert_non_null(strstr(found.error, "1 to 1024"));
    search.blocks = 3; /* not as many as the model has: the pattern is refused */
    assert_int_not_equal(plan_search(&search, &found), 0);
    assert_true(found.error[0] != '\0');
    assert_int_equal(memtrack_process_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bisection_finds_the_best),
        cmocka_unit_test(small_models_are_searched_whole),
        cmocka_unit_test(nothing_is_recomputed_where_it_fits),
        cmocka_unit_test(bad_searches_say_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
