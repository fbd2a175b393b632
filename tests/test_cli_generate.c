/* brim generate and brim plan --inference, as a user runs them. */
#include "cli_support.h"

#define GENERATE(...) RUN("generate", "--threads", "1", "--json", __VA_ARGS__)

static json_t *generated(Outcome *outcome)
{
    expect_code(outcome, 0);
    assert_string_equal(outcome->err, "");
    return parse(outcome->out);
}

static const json_t *component_at(const json_t *root, const char *name)
{
    return json_object_get(json_object_get(json_object_get(root, "memory"), "components"), name);
}

/* What one run of either family says, to the byte. */
static void check_generated(const char *model, json_int_t cache_a_token)
{
    json_t *root =
        generated(GENERATE("--model", model, "--tokens", "9", "--prompt", "the cat", "--batch", "2"));
    assert_keys(root, "model device blas parameters active_parameters prompt_tokens cache_tokens sequences "
                      "prefill_tokens_per_second "
                      "decode_tokens_per_second textbook memory");
    assert_int_equal(integer_at(root, "prompt_tokens"), 7);
    assert_int_equal(integer_at(root, "cache_tokens"), 15);
    assert_true(real_at(root, "prefill_tokens_per_second") > 0);
    assert_true(real_at(root, "decode_tokens_per_second") > 0);
    const json_t *sequences = json_object_get(root, "sequences");
    assert_int_equal(json_array_size(sequences), 2);
    for (size_t b = 0; b < 2; b++) {
        const json_t *one = json_array_get(sequences, b);
        assert_int_equal(json_array_size(json_object_get(one, "tokens")), 9);
        assert_true(json_is_string(json_object_get(one, "text")));
    }
    assert_false(json_equal(json_array_get(sequences, 0), json_array_get(sequences, 1)));

    const json_t *memory = json_object_get(root, "memory"), *textbook = json_object_get(root, "textbook");
    check_memory(memory, 1, 1);
    assert_same_memory(memory, json_object_get(memory, "planned"));
    json_int_t parameters = integer_at(root, "parameters"), cache = cache_a_token * 15 * 2;
    assert_keys(textbook, "weights_bytes kv_cache_bytes peak_bytes");
    assert_int_equal(integer_at(textbook, "kv_cache_bytes"), cache); /* a multiple of 64 in each layer */
    assert_int_equal(integer_at(component_at(root, "kv_cache"), "at_peak"), cache);
    assert_int_equal(integer_at(textbook, "weights_bytes"), 4 * parameters);
    assert_int_equal(integer_at(component_at(root, "parameter"), "at_peak"), 4 * parameters);
    assert_int_equal(integer_at(textbook, "peak_bytes"), (json_int_t)(1.2 * 4 * (double)parameters));
    assert_int_equal(integer_at(component_at(root, "gradient"), "peak"), 0);
    assert_int_equal(integer_at(component_at(root, "activation"), "peak"), 0);
    json_decref(root);
}

static void what_it_says(void **state)
{
    (void)state;
    check_generated("llama-tiny", 2 * 6 * 288 * 4);
    check_generated("gpt2-tiny", 2 * 6 * 256 * 4);
}

static json_t *tokens_of(json_t *root, size_t b)
{
    return json_object_get(json_array_get(json_object_get(root, "sequences"), b), "tokens");
}

static void seeds_and_cuts(void **state)
{
    (void)state;
    json_t *a = generated(GENERATE("--tokens", "12")),
           *b = generated(GENERATE("--tokens", "12", "--seed", "2"));
    json_t *c = generated(GENERATE("--tokens", "12", "--batch", "3", "--prefill", "1"));
    json_t *more = generated(RUN("generate", "--json", "--threads", "2", "--tokens", "20", "--seq", "30"));
    assert_true(json_equal(tokens_of(a, 0), tokens_of(c, 0)));
    assert_false(json_equal(tokens_of(a, 0), tokens_of(b, 0)));
    for (size_t i = 0; i < 12; i++)
        assert_true(json_equal(json_array_get(tokens_of(a, 0), i), json_array_get(tokens_of(more, 0), i)));
    assert_int_equal(integer_at(more, "cache_tokens"), 30);
    json_t *greedy = generated(GENERATE("--tokens", "12", "--temperature", "0"));
    json_t *first = generated(GENERATE("--tokens", "12", "--top-k", "1", "--seed", "1"));
    json_t *thin = generated(GENERATE("--tokens", "12", "--top-p", "0.000001"));
    assert_true(json_equal(tokens_of(greedy, 0), tokens_of(first, 0)));
    assert_true(json_equal(tokens_of(greedy, 0), tokens_of(thin, 0)));
    json_t *all[] = {a, b, c, more, greedy, first, thin};
    for (size_t i = 0; i < COUNT(all); i++)
        json_decref(all[i]);
}

/* What was trained writes the same text from its export. */
static void trained_weights(void **state)
{
    (void)state;
    expect_code(RUN("train", "--threads", "1", "--steps", "2", "--batch", "2", "--seq", "16", "--quiet",
                    "--export", in_folder("out")),
                0);
    json_t *loaded = generated(GENERATE("--init", in_folder("out"), "--tokens", "12", "--temperature", "0"));
    json_t *fresh = generated(GENERATE("--tokens", "12", "--temperature", "0"));
    assert_false(json_equal(tokens_of(loaded, 0), tokens_of(fresh, 0)));
    assert_int_equal(integer_at(loaded, "parameters"), integer_at(fresh, "parameters"));
    json_decref(loaded);
    json_decref(fresh);
    Outcome *o = expect_code(RUN("generate", "--init", in_folder("out"), "--tokens", "3"), 0);
    assert_non_null(strstr(o->out, "Weights: "));
    assert_null(strstr(o->out, "untrained"));
    expect_code(RUN("generate", "--init", in_folder("nothing"), "--tokens", "3"), 2);
}

/* Longer than the cache: it goes on. */
static void past_the_cache(void **state)
{
    (void)state;
    json_t *root = generated(GENERATE("--model", "gpt2-tiny", "--tokens", "60", "--seq", "16"));
    assert_int_equal(json_array_size(tokens_of(root, 0)), 60);
    assert_int_equal(integer_at(component_at(root, "kv_cache"), "peak"), 16 * 2 * 6 * 256 * 4);
    json_decref(root);
}

static void the_table(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("generate", "--threads", "2", "--tokens", "30", "--prompt", "To be"), 0);
    assert_int_equal(lines_starting(o->out, "To be"), 1);
    assert_int_equal(lines_starting(o->out, "weights "), 1);
    assert_int_equal(lines_starting(o->out, "kv cache "), 1);
    assert_int_equal(lines_starting(o->out, "workspace and temporaries "), 1);
    assert_non_null(strstr(o->out, "tokens/s"));
    assert_non_null(strstr(o->out, "weights x 1.2"));
    assert_null(strstr(o->out, "off the plan"));
    for (const char *c = o->out; *c; c++)
        assert_true(*c == '\n' || (unsigned char)*c >= ' ');
    o = expect_code(RUN("generate", "--tokens", "2", "--batch", "2"), 0);
    assert_int_equal(lines_starting(o->out, "1: The "), 1);
    assert_int_equal(lines_starting(o->out, "2: The "), 1);
}

static void large_ones_are_planned(void **state)
{
    (void)state;
    json_t *root = generated(
        RUN("plan", "--inference", "--json", "--model", "llama-3.1-70b", "--seq", "8192", "--threads", "2"));
    assert_keys(root, "model parameters active_parameters cache_tokens textbook memory");
    const json_t *textbook = json_object_get(root, "textbook");
    assert_int_equal(integer_at(root, "parameters"), 70553706496);
    assert_int_equal(integer_at(component_at(root, "kv_cache"), "at_peak"), 2LL * 80 * 8 * 128 * 4 * 8192);
    assert_int_equal(integer_at(textbook, "kv_cache_bytes"), 2LL * 80 * 8 * 128 * 4 * 8192);
    assert_int_equal(integer_at(textbook, "peak_bytes"), 338657791180); /* 1.2 x 4 bytes */
    json_t *batch = generated(RUN("plan", "--inference", "--json", "--model", "llama-3.1-70b", "--seq",
                                  "8192", "--batch", "3", "--prefill", "64"));
    assert_int_equal(integer_at(component_at(batch, "kv_cache"), "at_peak"),
                     3 * integer_at(component_at(root, "kv_cache"), "at_peak"));
    assert_true(integer_at(component_at(batch, "temporary"), "at_peak") <
                integer_at(component_at(root, "temporary"), "at_peak"));
    json_decref(root);
    json_decref(batch);
    Outcome *o = expect_code(RUN("plan", "--inference", "--model", "gpt2", "--budget", "400MiB"), 1);
    assert_non_null(strstr(o->out, "kv cache"));
    assert_non_null(strstr(o->err, "more than the budget"));
}

/* A layer with a window keeps that many tokens, in the plan and in the textbook's column. */
static void windows_bound_the_cache(void **state)
{
    (void)state;
    static const struct {
        const char *model, *seq;
        int64_t tokens; /* of all layers together */
        int64_t width;  /* of keys and values of a token in a layer */
        const char *rule;
    } rows[] = {
        {"gemma-3-1b", "2048", 4 * 2048 + 22 * 512, 2 * 256,
         "x (4 layers x 2048 + 22 x a window of 512 tokens)"},
        {"gemma-3-1b", "512", 26 * 512, 2 * 256, "2 x layers x kv heads x head width x 4 x 512 tokens"},
        {"mistral-7b", "8192", 32 * 4096, 2 * 8 * 128, "x 4096 tokens, the window"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        json_t *root = generated(RUN("plan", rows[i].model, "--inference", "--json", "--seq", rows[i].seq));
        const json_t *textbook = json_object_get(root, "textbook");
        assert_int_equal(integer_at(textbook, "kv_cache_bytes"), rows[i].tokens * rows[i].width * 4);
        assert_int_equal(integer_at(component_at(root, "kv_cache"), "at_peak"),
                         integer_at(textbook, "kv_cache_bytes"));
        json_decref(root);
        Outcome *o = expect_code(RUN("plan", rows[i].model, "--inference", "--seq", rows[i].seq), 0);
        if (!strstr(o->out, rows[i].rule))
            fail_msg("no '%s' in %s", rows[i].rule, o->out);
    }
    /* 20 % of weights of 29 GB are more than all windows. */
    Outcome *o = expect_code(RUN("plan", "mistral-7b", "--inference"), 0);
    assert_non_null(strstr(o->out, "would hold a cache of any number of tokens"));
}

/* Of a mixture of experts, wherever its parameters are said. */
static void active_parameters_are_said(void **state)
{
    (void)state;
    enum { ALL = 7577280 };
    const json_int_t active = 7577280 - 4LL * 6 * 3 * 192 * 384;
    const json_t *root[] = {
        generated(RUN("generate", "--model", "mixtral-tiny", "--tokens", "2", "--json")),
        generated(RUN("plan", "mixtral-tiny", "--inference", "--json")),
        generated(RUN("fit", "mixtral-tiny", "--memory", "2GiB", "--seq", "64", "--batch", "1", "--json")),
        generated(RUN("fit", "mixtral-tiny", "--memory", "2GiB", "--inference", "--json")),
    };
    for (size_t i = 0; i < COUNT(root); i++) {
        assert_int_equal(integer_at(root[i], "parameters"), ALL);
        assert_int_equal(integer_at(root[i], "active_parameters"), active);
        json_decref((json_t *)(uintptr_t)root[i]);
    }
    json_t *compared[] = {
        generated(RUN("compare", "mixtral-tiny", "--batch", "1,2", "--seq", "64", "--json")),
        generated(RUN("compare", "mixtral-tiny", "--inference", "--json"))};
    for (size_t i = 0; i < COUNT(compared); i++) {
        const json_t *first = json_array_get(json_object_get(compared[i], "variants"), 0);
        assert_int_equal(integer_at(first, "parameters"), ALL);
        assert_int_equal(integer_at(first, "active_parameters"), active);
        json_decref(compared[i]);
    }
    Outcome *o = expect_code(RUN("plan", "mixtral-tiny", "--inference"), 0);
    assert_non_null(strstr(o->out, "7,577,280 parameters, 2,268,864 active"));
    o = expect_code(RUN("fit", "mixtral-tiny", "--memory", "2GiB", "--inference"), 0);
    assert_non_null(strstr(o->out, "7,577,280 parameters, 2,268,864 active"));
    o = expect_code(RUN("generate", "--model", "mixtral-tiny", "--tokens", "2"), 0);
    assert_non_null(strstr(o->out, "7,577,280 parameters, 2,268,864 active"));
}

/* What does not write is planned as one forward: weights, and what a layer makes on its way. */
static void a_forward_is_planned(void **state)
{
    (void)state;
    static const struct {
        const char *model, *batch;
        int64_t parameters, input;
    } rows[] = {{"mlp", "64", 669706, 64 * 784 * 4}, {"bert-base", "2", 109514298, 2 * 512 * 4}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        json_t *root = generated(
            RUN("plan", rows[i].model, "--inference", "--json", "--batch", rows[i].batch, "--threads", "2"));
        assert_keys(root, "model parameters active_parameters cache_tokens textbook memory");
        int64_t weights = 4 * rows[i].parameters,
                at_peak = integer_at(component_at(root, "parameter"), "at_peak");
        assert_int_equal(integer_at(root, "parameters"), rows[i].parameters);
        assert_in_range(at_peak, weights, weights + 64 * 300); /* each is rounded */
        assert_int_equal(integer_at(component_at(root, "kv_cache"), "peak"), 0);
        assert_int_equal(integer_at(component_at(root, "gradient"), "peak"), 0);
        assert_int_equal(integer_at(component_at(root, "activation"), "peak"), 0);
        assert_int_equal(integer_at(component_at(root, "input"), "at_peak"), rows[i].input);
        assert_true(integer_at(component_at(root, "temporary"), "at_peak") > 0);
        json_decref(root);
    }
    Outcome *o = expect_code(RUN("plan", "bert-base", "--inference"), 0);
    assert_non_null(strstr(o->out, "batch 1 x seq 512, one forward"));
    assert_null(strstr(o->out, "kv cache"));
}

/* What a terminal would obey is shown as what it is not. */
static void controls_are_not_written(void **state)
{
    (void)state;
    Outcome *o =
        expect_code(RUN("generate", "--threads", "1", "--model", "gpt2-tiny", "--tokens", "8", "--prompt",
                        "a\033[31m\xc2\x9b"
                        "31mb\xc3\xa9"),
                    0);
    assert_null(strchr(o->out, '\033'));
    assert_null(strstr(o->out, "\xc2\x9b"));
    assert_non_null(strstr(o->out, "a\xef\xbf\xbd[31m\xef\xbf\xbd"));
    assert_non_null(strstr(o->out, "31mb\xc3\xa9"));
}

static void mistakes(void **state)
{
    (void)state;
    static const struct {
        const char *arguments[6], *names[3];
    } rows[] = {
        {{"generate", "--model", "bert-tiny"}, {"bert-tiny", "not a causal language model"}},
        {{"generate", "--model", "mlp"}, {"mlp", "not a causal language model"}},
        {{"plan", "--inference", "bert-base", "--prefill", "8"}, {"--prefill", "bert-base"}},
        {{"generate", "--prompt", ""}, {"--prompt is empty"}},
        {{"generate", "--prompt", "a", "--vocab", "97"},
         {"--prompt has the byte 97", "0 to 96", "--tokenizer"}},
        {{"generate", "--prompt", "ab", "--tokens", "2147483647"},
         {"--tokens 2147483647", "2 tokens", "2147483645"}},
        {{"generate", "--prompt", "a", "--tokens", "2147483647"}, {"1 token:"}},
        {{"generate", "--prompt", "abcd", "--seq", "3"}, {"4 tokens", "--seq holds 3"}},
        {{"generate", "--tokens", "0"}, {"--tokens", "'0'"}},
        {{"generate", "--top-p", "0"}, {"--top-p", "above 0"}},
        {{"generate", "--top-p", "1.5"}, {"--top-p", "1.5"}},
        {{"generate", "--temperature", "-1"}, {"--temperature", "'-1'"}},
        {{"generate", "--top-k", "-1"}, {"--top-k", "'-1'"}},
        {{"generate", "--seq", "5000"}, {"5000", "4096 positions"}},
        {{"generate", "--inference"}, {"--inference", "`brim plan`"}},
        {{"train", "--tokens", "3"}, {"--tokens", "`brim generate`"}},
        {{"train", "--prefill", "3"}, {"`brim generate`", "`brim plan`"}},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *arguments[8] = {"brim"};
        memcpy(arguments + 1, rows[i].arguments, sizeof rows[i].arguments);
        Outcome *o = expect_code(run_command(arguments), 2);
        assert_string_equal(o->out, "");
        for (int k = 0; k < 3 && rows[i].names[k]; k++)
            if (!strstr(o->err, rows[i].names[k]))
                fail_msg("row %zu: no %s in: %s", i, rows[i].names[k], o->err);
    }
    Outcome *o = expect_code(RUN("generate", "--budget", "1MiB"), 1);
    assert_non_null(strstr(o->err, "more than the budget"));
    assert_string_equal(o->out, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_it_says),
        cmocka_unit_test(seeds_and_cuts),
        cmocka_unit_test_setup_teardown(trained_weights, make_folder, remove_folder),
        cmocka_unit_test(past_the_cache),
        cmocka_unit_test(the_table),
        cmocka_unit_test(large_ones_are_planned),
        cmocka_unit_test(a_forward_is_planned),
        cmocka_unit_test(windows_bound_the_cache),
        cmocka_unit_test(active_parameters_are_said),
        cmocka_unit_test(controls_are_not_written),
        cmocka_unit_test(mistakes),
    };
    return cmocka_run_group_tests_name("cli generate", tests, NULL, NULL);
}
