/* --approximate: what plans print of a model that is only near is marked, as text, for scripts and in
 * verdicts, with the bytes that may differ; and who refuses it. */
#include "cli_support.h"

/* Two layers of 64: ministral3 keeps at most 2 x 4 x 16 numbers a token more. */
static const char *ministral(void)
{
    static const char text[] = "{\"model_type\": \"ministral3\", \"vocab_size\": 256, \"hidden_size\": 64, "
                               "\"num_hidden_layers\": 2, "
                               "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 16, "
                               "\"intermediate_size\": 96, "
                               "\"max_position_embeddings\": 64}";
    return make_file("ministral.json", text, strlen(text));
}

/* Three norms of 64 without weights; a mean a norm and a token is kept. */
static const char *olmo(void)
{
    static const char text[] =
        "{\"model_type\": \"olmo\", \"vocab_size\": 256, \"hidden_size\": 64, \"num_hidden_layers\": 1, "
        "\"num_attention_heads\": 4, \"intermediate_size\": 96, \"max_position_embeddings\": 64}";
    return make_file("olmo.json", text, strlen(text));
}

static void says(const Outcome *o, const char *text)
{
    if (!strstr(o->out, text))
        fail_msg("no '%s' in\n%s", text, o->out);
}

static void check_object(const json_t *object, const char *type, const char *as, json_int_t bytes)
{
    const json_t *a = json_object_get(object, "approximate");
    assert_string_equal(json_string_value(json_object_get(a, "model_type")), type);
    assert_string_equal(json_string_value(json_object_get(a, "planned_as")), as);
    assert_true(strlen(json_string_value(json_object_get(a, "differs"))) > 10);
    assert_int_equal(integer_at(a, "bytes_at_most"), bytes);
}

static void plans_are_marked(void **state)
{
    (void)state;
    enum { KEPT = 2 * 4 * 16, TOKENS = 2 * 32, BYTES = (KEPT + KEPT / 2 + 1) * TOKENS * 4 };
    const char *file = ministral();
    Outcome *o =
        expect_code(RUN("plan", file, "--approximate", "--batch", "2", "--seq", "32", "--budget", "1GiB"), 0);
    says(o, "ministral.json  APPROXIMATE  ");
    says(o, "APPROXIMATE: ministral3 is planned as mistral: queries are scaled");
    says(o, "keeps at most 128 numbers a token more or fewer: at batch 2 x seq 32 within ");
    says(o, "Fits, APPROXIMATE: ");
    json_t *plan = parse(
        expect_code(RUN("plan", file, "--approximate", "--batch", "2", "--seq", "32", "--json"), 0)->out);
    check_object(plan, "ministral3", "mistral", BYTES);
    /* Values of 16 bit are half as large. */
    json_decref(plan);
    plan = parse(expect_code(RUN("plan", file, "--approximate", "--batch", "2", "--seq", "32", "--precision",
                                 "bf16", "--json"),
                             0)
                     ->out);
    check_object(plan, "ministral3", "mistral", BYTES / 2);
    json_decref(plan);
    /* What is left of the budget is less than what may differ. */
    plan = parse(
        expect_code(RUN("plan", file, "--approximate", "--batch", "2", "--seq", "32", "--json"), 0)->out);
    char budget[32];
    snprintf(budget, sizeof budget, "%lld",
             (long long)integer_at(json_object_get(plan, "memory"), "needs_bytes") + BYTES - 64);
    json_decref(plan);
    o = expect_code(RUN("plan", file, "--approximate", "--batch", "2", "--seq", "32", "--budget", budget), 0);
    says(o, "less than what may differ");
    o = expect_code(RUN("plan", file, "--approximate", "--budget", "10KiB"), 1);
    assert_non_null(strstr(o->err, "APPROXIMATE  needs "));
}

static void others_are_marked(void **state)
{
    (void)state;
    enum { PARAMETERS = 3 * 64 };
    const char *file = olmo();
    Outcome *o = expect_code(RUN("plan", file, "--approximate", "--inference"), 0);
    says(o, "  APPROXIMATE  ");
    says(o, "APPROXIMATE: olmo is planned as llama");
    says(o, "has 192 parameters fewer");
    json_t *all = parse(
        expect_code(RUN("plan", file, "--approximate", "--inference", "--seq", "32", "--json"), 0)->out);
    check_object(all, "olmo", "llama", PARAMETERS * 4 + (3 + 1) * 32 * 4);
    json_decref(all);
    o = expect_code(RUN("fit", file, "--approximate", "--memory", "2GiB"), 0);
    says(o, "\nAPPROXIMATE: It fits 2GiB");
    all = parse(
        expect_code(RUN("fit", file, "--approximate", "--memory", "2GiB", "--seq", "32", "--json"), 0)->out);
    check_object(all, "olmo", "llama", PARAMETERS * 20 + (3 + 3 + 1) * 32 * 4);
    assert_ptr_equal(strstr(json_string_value(json_object_get(all, "verdict")), "APPROXIMATE: "),
                     json_string_value(json_object_get(all, "verdict")));
    json_decref(all);
    o = expect_code(RUN("fit", file, "--approximate", "--memory", "2GiB", "--inference"), 0);
    says(o, "\nAPPROXIMATE: It fits 2GiB");
    o = expect_code(RUN("compare", file, "--approximate"), 0);
    says(o, "APPROXIMATE: olmo is planned as llama");
    all = parse(expect_code(RUN("compare", file, "--approximate", "--seq", "32", "--json"), 0)->out);
    check_object(json_array_get(json_object_get(all, "variants"), 0), "olmo", "llama",
                 PARAMETERS * 20 + (3 + 3 + 1) * 32 * 4);
    json_decref(all);
    o = expect_code(RUN("compare", file, "--approximate", "--inference"), 0);
    says(o, "APPROXIMATE: olmo is planned as llama");
    all = parse(expect_code(RUN("compare", file, "--approximate", "--inference", "--json"), 0)->out);
    assert_non_null(json_object_get(json_array_get(json_object_get(all, "variants"), 0), "approximate"));
    json_decref(all);
}

static void exact_models_are_not(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("plan", "llama-tiny", "--approximate"), 0);
    assert_null(strstr(o->out, "APPROXIMATE"));
    assert_non_null(strstr(o->err, "--approximate changes nothing"));
    json_t *plan = parse(expect_code(RUN("plan", "llama-tiny", "--approximate", "--json"), 0)->out);
    assert_null(json_object_get(plan, "approximate"));
    json_decref(plan);
}

static void refuses(const char *const *arguments, const char *words)
{
    const char *all[10] = {"brim"};
    for (int i = 0; i < 8 && arguments[i]; i++)
        all[i + 1] = arguments[i];
    Outcome *o = expect_code(run_command(all), 2);
    if (!strstr(o->err, words))
        fail_msg("no '%s' in %s", words, o->err);
}

static void what_is_refused(void **state)
{
    (void)state;
    const char *file = olmo();
    const struct {
        const char *arguments[8], *words;
    } refusals[] = {
        {{"plan", file}, "`brim plan --approximate` plans it as llama"},
        {{"plan", "--model", file}, "`brim plan --approximate` plans it as llama"},
        {{"train", "--model", file}, "is not read"},
        {{"train", file, "--approximate"}, "--approximate belongs to `brim plan`"},
        {{"generate", file, "--approximate"}, "--approximate belongs to `brim plan`"},
        {{"plan", file, "--approximate", "--init", file}, "--approximate excludes --init"},
        {{"plan", file, "--approximate", "--log", "x"}, "--approximate excludes --log"},
        {{"compare", file, "--approximate", "--run", "2"}, "--approximate excludes --run"},
        {{"compare", file, "--approximate", "--csv"}, "--approximate excludes --csv"},
        {{"compare", "--four-ways", "--approximate"}, "--approximate means nothing beside --four-ways"},
    };
    for (size_t i = 0; i < COUNT(refusals); i++)
        refuses(refusals[i].arguments, refusals[i].words);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(plans_are_marked), TEST(others_are_marked),
                                       TEST(exact_models_are_not), TEST(what_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
