/* Texts continued: greedy is that of the whole sequence, seeds and stop tokens, modes, what is refused;
 * planned event by event, and without memory. */
#include "generate_support.h"

/* ---- Continuations --------------------------------------------------------------------------- */

enum { WRITTEN = 40 };

typedef struct Written {
    int32_t tokens[4][WRITTEN];
    int count, stop_after;
} Written;

static int note(void *user, const int32_t *tokens, int batch)
{
    Written *w = user;
    for (int b = 0; b < batch; b++)
        w->tokens[b][w->count] = tokens[b];
    return ++w->count == w->stop_after;
}

static int32_t prompt_ids[LENGTH];

static void fill_prompt(void)
{
    for (int t = 0; t < LENGTH; t++)
        prompt_ids[t] = id_at(0, t);
}

/* One token by the whole forward of what is there: the largest logit. */
static int32_t greedy(Module *model, const int32_t *ids, int count)
{
    tensor_no_grad_begin();
    int scope = tensor_scope_begin();
    Batch batch = {.ids = tensor_from(DTYPE_I32, SHAPE(1, count), MEM_INPUT, ids)};
    const float *row = tensor_f32(nn_forward(model, NULL, &batch));
    int32_t best = 0;
    for (int32_t i = 0; i < VOCAB; i++)
        best = row[(count - 1) * VOCAB + i] > row[(count - 1) * VOCAB + best] ? i : best;
    tensor_scope_end(scope);
    tensor_no_grad_end();
    return best;
}

static void test_greedy_is_that_of_the_whole(void **state)
{
    (void)state;
    fill_prompt();
    for (int m = 0; m <= LONGROPE; m++)
        for (int prompt = 1; prompt <= 7; prompt += 3)
            for (int prefill = 1; prefill <= 4; prefill += 3) {
                Module *model = made_model(m);
                Written w = {0};
                int32_t all[LENGTH];
                memcpy(all, prompt_ids, sizeof all);
                for (int t = prompt; t < LENGTH; t++)
                    all[t] = greedy(model, all, t);
                assert_int_equal(nn_generate(model, &(GenerateOptions){.prompt = prompt_ids,
                                                                       .prompt_tokens = prompt,
                                                                       .tokens = LENGTH - prompt,
                                                                       .prefill = prefill,
                                                                       .written = note,
                                                                       .user = &w}),
                                 0);
                assert_int_equal(w.count, LENGTH - prompt);
                assert_memory_equal(w.tokens[0], all + prompt, sizeof(int32_t) * (size_t)w.count);
                module_free(model);
            }
}

/* Past the context the newer half is read again: the same as by hand. */
static void check_context(Module *model)
{
    enum { CONTEXT = 8, PROMPT = 5, TOKENS = 25 };
    Written w = {0};
    assert_int_equal(nn_generate(model, &(GenerateOptions){.prompt = prompt_ids,
                                                           .prompt_tokens = PROMPT,
                                                           .tokens = TOKENS,
                                                           .context = CONTEXT,
                                                           .prefill = 3,
                                                           .written = note,
                                                           .user = &w}),
                     0);
    int32_t all[PROMPT + TOKENS];
    memcpy(all, prompt_ids, PROMPT * sizeof *all);
    for (int t = PROMPT, from = 0; t < PROMPT + TOKENS; t++) {
        if (t - from > CONTEXT)
            from = t - CONTEXT / 2;
        all[t] = greedy(model, all + from, t - from);
    }
    assert_int_equal(w.count, TOKENS);
    assert_memory_equal(w.tokens[0], all + PROMPT, TOKENS * sizeof *all);
    /* A context of one token, and one that the prompt fills. */
    for (int context = 1; context <= 5; context += 4) {
        w = (Written){0};
        assert_int_equal(nn_generate(model, &(GenerateOptions){.prompt = prompt_ids,
                                                               .prompt_tokens = context,
                                                               .tokens = 9,
                                                               .context = context,
                                                               .written = note,
                                                               .user = &w}),
                         0);
        assert_int_equal(w.count, 9);
    }
}

static void test_context(void **state)
{
    (void)state;
    fill_prompt();
    check_context(made_model(0));
    check_context(made_model(LONGROPE));
}

static void test_drawn(void **state)
{
    (void)state;
    fill_prompt();
    Written w[4] = {0};
    GenerateOptions o = {.prompt = prompt_ids,
                         .prompt_tokens = 4,
                         .tokens = 12,
                         .sample = {.temperature = 1, .top_k = 20, .top_p = 0.95f, .seed = 7},
                         .written = note};
    Module *model = made_model(0);
    nn_train(model);
    for (int i = 0; i < 4; i++) {
        o.user = &w[i];
        o.batch = i == 2 ? 3 : 1;
        o.sample.seed = i == 3 ? 8 : 7;
        assert_int_equal(nn_generate(model, &o), 0);
        assert_true(nn_is_training(model));
        assert_int_equal(books()->live_by[MEM_KV_CACHE], 0);
    }
    size_t bytes = 12 * sizeof(int32_t);
    assert_memory_equal(w[0].tokens[0], w[1].tokens[0], bytes);
    assert_memory_equal(w[0].tokens[0], w[2].tokens[0], bytes); /* alone or in a batch */
    assert_memory_not_equal(w[0].tokens[0], w[2].tokens[1], bytes);
    assert_memory_not_equal(w[2].tokens[1], w[2].tokens[2], bytes);
    assert_memory_not_equal(w[0].tokens[0], w[3].tokens[0], bytes);

    /* A stop token ends its sequence; the text before is the same. */
    Written s = {0};
    int32_t stop[] = {-5, w[2].tokens[1][3]};
    o.batch = 3;
    o.sample.seed = 7;
    o.stop = stop;
    o.stops = 2;
    o.user = &s;
    assert_int_equal(nn_generate(model, &o), 0);
    for (int b = 0, over = 0; b < 3; b++, over = 0)
        for (int t = 0; t < s.count; t++) {
            assert_int_equal(s.tokens[b][t], over ? -1 : w[2].tokens[b][t]);
            over |= s.tokens[b][t] == stop[1];
        }
    assert_int_equal(s.tokens[1][s.count > 4 ? 4 : s.count - 1], s.count > 4 ? -1 : stop[1]);
    o.batch = 1;
    stop[0] = w[0].tokens[0][5];
    s = (Written){0};
    assert_int_equal(nn_generate(model, &o), 0);
    assert_true(s.count <= 6 && (s.tokens[0][s.count - 1] == stop[0] || s.tokens[0][s.count - 1] == stop[1]));
    o.stops = 0;
    s = (Written){.stop_after = 3};
    assert_int_equal(nn_generate(model, &o), 0);
    assert_int_equal(s.count, 3);
}

/* Writing in between changes no module's mode, whichever each has; while it writes nothing is dropped. */
static void test_modes_stay(void **state)
{
    (void)state;
    fill_prompt();
    ModelPreset preset = small_preset(&(Setting){.family = MODEL_GPT2, .dropout = 0.5f});
    Module *model = nn_model(&preset);
    Written w[2] = {0};
    GenerateOptions o = {.prompt = prompt_ids, .prompt_tokens = 4, .tokens = 6, .written = note};
    for (int i = 0; i < 2; i++) {
        o.user = &w[i];
        nn_train(model);
        if (i)
            nn_eval(nn_block(model, 0));
        assert_int_equal(nn_generate(model, &o), 0);
        assert_true(nn_is_training(model) && nn_is_training(nn_block(model, 1)));
        assert_int_equal(nn_is_training(nn_block(model, 0)), !i);
    }
    assert_memory_equal(w[0].tokens[0], w[1].tokens[0], 6 * sizeof(int32_t));
    nn_eval(model);
    nn_train(nn_block(model, 0));
    assert_int_equal(nn_generate(model, &o), 0);
    assert_true(!nn_is_training(model) && nn_is_training(nn_block(model, 0)));
}

static int too_long(void *config)
{
    Module *model = model_of(0);
    (void)config;
    return nn_generate(model, &(GenerateOptions){.prompt = prompt_ids, .prompt_tokens = 4, .tokens = 18});
}

/* What a run would refuse after some tokens, its plan refuses. */
static void test_plan_of_too_many(void **state)
{
    (void)state;
    Plan plan;
    fill_prompt();
    assert_int_equal(plan_script(too_long, NULL, NULL, &plan), ERROR_SHAPE);
    assert_non_null(strstr(plan.error, "sequence of 21"));
    plan_free(&plan);
}

static void test_bad_options(void **state)
{
    (void)state;
    fill_prompt();
    Module *model = made_model(0);
    GenerateOptions good = {.prompt = prompt_ids, .prompt_tokens = 4, .tokens = 2}, bad = good;
    bad.prompt_tokens = 0;
    assert_int_equal(nn_generate(model, &bad), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "a prompt of 0 tokens");
    bad = good, bad.tokens = 0;
    nn_generate(model, &bad);
    assert_error(ERROR_ARGUMENT, "0 to write");
    bad = good, bad.tokens = INT32_MAX;
    nn_generate(model, &bad);
    assert_error(ERROR_ARGUMENT, "to write");
    bad = good, bad.context = 3;
    nn_generate(model, &bad);
    assert_error(ERROR_ARGUMENT, "a prompt of 4 tokens", "the context of 3");
    bad = good, bad.batch = -1;
    nn_generate(model, &bad);
    assert_error(ERROR_ARGUMENT, "batch -1");
    bad = good, bad.sample.temperature = -1;
    nn_generate(model, &bad);
    assert_error(ERROR_ARGUMENT, "temperature is -1");
    bad = good, bad.tokens = 18;
    nn_generate(model, &bad);
    assert_error(ERROR_SHAPE, "sequence of 21", "20");
    bad = good, prompt_ids[2] = VOCAB;
    nn_generate(model, &bad);
    assert_error(ERROR_INDEX, "ids must be in");
    assert_int_equal(books()->live_by[MEM_KV_CACHE], 0);
}

/* ---- Planned --------------------------------------------------------------------------------- */

typedef struct Scripted {
    int model, prompt, tokens, context, batch, prefill, by_hand;
    float temperature;
    EventRecord *planned, *run;
    Written written;
} Scripted;

/* What nn_generate does, without leaving out anything on meta. */
static void by_hand(const Scripted *s, Module *model)
{
    tensor_no_grad_begin();
    KvCache *cache = nn_kv_cache(model, s->batch, s->prompt + s->tokens - 1);
    for (int t = 0; t < s->tokens; t++) {
        int32_t tokens[4];
        int scope = tensor_scope_begin();
        Batch batch = some_ids(s->batch, t ? s->prompt + t - 1 : 0, t ? 1 : s->prompt);
        Tensor *logits = nn_forward_next(model, &batch, cache);
        nn_sample(logits, &(SampleOptions){.temperature = s->temperature, .top_k = 3}, t, tokens);
        tensor_scope_end(scope);
    }
    tensor_no_grad_end();
}

static int scripted(void *config)
{
    Scripted *s = config;
    EventRecord *record = context_is_meta(context_current()) ? s->planned : s->run;
    if (record)
        record_start(record);
    Module *model = model_of(s->model);
    nn_eval(model);
    if (s->by_hand)
        by_hand(s, model);
    else
        nn_generate(model, &(GenerateOptions){.prompt = prompt_ids,
                                              .prompt_tokens = s->prompt,
                                              .tokens = s->tokens,
                                              .context = s->context,
                                              .batch = s->batch,
                                              .prefill = s->prefill,
                                              .sample = {.temperature = s->temperature, .top_p = 0.9f},
                                              .written = note,
                                              .user = &s->written});
    return error_code();
}

static void test_every_event(void **state)
{
    (void)state;
    static EventRecord planned, run;
    for (int m = 0; m < MODELS; m++)
        for (int threads = 1; threads <= 5; threads += 4) {
            Scripted s = {
                .model = m, .prompt = 5, .tokens = 9, .batch = 2, .by_hand = 1, .temperature = 0.7f};
            RunOptions o = {.threads = threads, .quiet = 1};
            Plan plan;
            RunResult result;
            s.planned = &planned;
            s.run = &run;
            assert_int_equal(plan_script(scripted, &s, &o, &plan), 0);
            assert_int_equal(plan_execute(scripted, &s, &o, &plan, &result), 0);
            assert_same_events(model_names[m], &planned, &run);
            assert_null(books_differ(&plan.memory, &result.memory));
            assert_int_equal(result.segments_off_plan, 0);
            plan_free(&plan);
        }
}

/* A plan of one of each kind is that of the whole text. */
static void test_planned_text(void **state)
{
    (void)state;
    static const Scripted cases[] = {
        {.prompt = 1, .tokens = 1},
        {.prompt = 7, .tokens = 2, .temperature = 1},
        {.prompt = 13, .tokens = 8, .prefill = 4, .temperature = 1},
        {.prompt = 12, .tokens = 8, .prefill = 4, .batch = 3, .model = 3},
        {.prompt = 12, .tokens = 9, .prefill = 5, .batch = 3, .model = 1},
        {.prompt = 5, .tokens = 39, .context = 9, .temperature = 1},
        {.prompt = 2, .tokens = 39, .context = 20, .prefill = 3, .model = 3},
        {.prompt = 8, .tokens = 30, .context = 8, .batch = 2, .prefill = 3},
        {.prompt = 1, .tokens = 10, .context = 1, .temperature = 0.5f},
        {.prompt = 3, .tokens = 10, .context = 3, .model = 2},
        {.prompt = 3, .tokens = 10, .prefill = 4, .model = LONGROPE},
        {.prompt = 6, .tokens = 2, .batch = 2, .prefill = 3, .model = LONGROPE},
        {.prompt = 3, .tokens = 4, .prefill = 2, .model = LONGROPE}, /* never more than six */
        {.prompt = 7, .tokens = 6, .prefill = 5, .model = LONGROPE},
        {.prompt = 7, .tokens = 30, .context = 9, .prefill = 3, .model = LONGROPE},
        {.prompt = 9, .tokens = 30, .context = 16, .prefill = 3, .model = LONGROPE},
    };
    fill_prompt();
    for (size_t i = 0; i < COUNT(cases); i++)
        for (int threads = 1; threads <= 3; threads += 2) {
            Scripted s = cases[i];
            RunOptions o = {.threads = threads, .quiet = 1, .malloc_blocks = (int)i % 2};
            Plan plan;
            RunResult result;
            s.batch = s.batch ? s.batch : 1;
            assert_int_equal(plan_script(scripted, &s, &o, &plan), 0);
            assert_int_equal(s.written.count, 0);
            assert_int_equal(plan_execute(scripted, &s, &o, &plan, &result), 0);
            if (result.segments_off_plan || plan.memory.stats.peak != result.memory.stats.peak ||
                memcmp(plan.memory.stats.at_peak, result.memory.stats.at_peak,
                       sizeof plan.memory.stats.at_peak))
                fail_msg("case %zu: %lld segments off the plan, peak %llu planned and %llu run", i,
                         (long long)result.segments_off_plan, (unsigned long long)plan.memory.stats.peak,
                         (unsigned long long)result.memory.stats.peak);
            assert_int_equal(result.memory.stats.needs, plan.memory.stats.needs);
            assert_int_equal(s.written.count, s.tokens);
            assert_int_equal(result.memory.stats.live, 0);
            plan_free(&plan);
        }
}

/* Whatever is written, the host's books are those after the first tokens. */
static void test_long_texts_leave_nothing(void **state)
{
    (void)state;
    fill_prompt();
    Module *model = made_model(0);
    uint64_t live = 0;
    for (int i = 0; i < 2; i++) {
        int tokens = i ? 600 : 20;
        assert_int_equal(
            nn_generate(
                model,
                &(GenerateOptions){.prompt = prompt_ids, .prompt_tokens = 5, .tokens = tokens, .context = 8}),
            0);
        if (i)
            assert_int_equal(memtrack_process_live(), live);
        live = memtrack_process_live();
    }
}

static void test_no_memory(void **state)
{
    (void)state;
    fill_prompt();
    for (int m = 0; m < MODELS; m += 3) {
        uint64_t live = memtrack_process_live();
        for (uint64_t n = 1;; n++) {
            Visit v = visit(&(ContextOptions){.threads = 3, .seed = 1});
            memtrack_fail_nth(n);
            Scripted s = {.model = m,
                          .prompt = 5,
                          .tokens = 9,
                          .context = 8,
                          .batch = 2,
                          .prefill = 3,
                          .temperature = 1};
            int status = scripted(&s), passed = memtrack_fail_pending();
            memtrack_fail_nth(0);
            if (!passed && status != ERROR_MEMORY && status != ERROR_HOST_MEMORY)
                fail_msg("allocation %llu failed, and the error is %d: %s", (unsigned long long)n, status,
                         error_message());
            assert_true(passed == (status == 0));
            error_clear();
            leave(v);
            assert_int_equal(memtrack_process_live(), live);
            if (passed) {
                assert_true(n > 100);
                break;
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_greedy_is_that_of_the_whole, fresh_context2, leave_context),
        cmocka_unit_test_setup_teardown(test_context, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_drawn, fresh_context2, leave_context),
        cmocka_unit_test_setup_teardown(test_modes_stay, fresh_context, leave_context),
        cmocka_unit_test(test_plan_of_too_many),
        cmocka_unit_test_setup_teardown(test_bad_options, fresh_context, leave_context),
        cmocka_unit_test(test_every_event),
        cmocka_unit_test(test_planned_text),
        cmocka_unit_test_setup_teardown(test_long_texts_leave_nothing, fresh_context, leave_context),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("generate", tests, NULL, NULL);
}
