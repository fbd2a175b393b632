/* Plans for cards: each column of `brim fit` is what `brim plan --card` says, to the byte; and where no card
 * is named the output says which one is assumed. */
#include "cli_support.h"
#include "cuda_support.h"

static const char config[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 256, \"hidden_size\": 32, "
    "\"intermediate_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2, \"max_position_embeddings\": 64, "
    "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"tie_word_embeddings\": true}";

enum { MOST = 60 };

/* brim COMMAND on cuda, of the model above; `more` are words with blanks between. */
static Outcome *run(const char *command, const char *more)
{
    static char words[1024];
    const char *arguments[MOST] = {"brim",      command, "--model", in_folder("config.json"),
                                   "--threads", "1",     "--seq",   "16",
                                   "--device",  "cuda"};
    int count = 10;
    snprintf(words, sizeof words, "%s", more);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " "))
        arguments[count++] = word;
    assert_true(count < MOST);
    return run_command(arguments);
}

static json_t *json_of(Outcome *outcome)
{
    json_t *root = json_loads(outcome->out, 0, NULL);
    if (!root)
        fail_msg("code %d, no JSON: %s%s", outcome->code, outcome->out, outcome->err);
    return root;
}

static const char *text_at(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static json_int_t integer(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value))
        fail_msg("no %s", key);
    return json_integer_value(value);
}

/* -1 = the plan is refused. */
static json_int_t planned_needs(const char *card, const char *flags)
{
    char more[700];
    snprintf(more, sizeof more, "--json --card %s %s", card, flags);
    Outcome *o = run("plan", more);
    if (o->code)
        return -1;
    json_t *plan = json_of(o);
    json_int_t needs = integer(json_object_get(plan, "memory"), "needs_bytes");
    assert_string_equal(text_at(json_object_get(plan, "card"), "name"), card);
    json_decref(plan);
    return needs;
}

/* Of each row on two cards: returns how many there are, and in how many the cards differ. */
static int check_rows(const char *cards, const char *options, int *differ)
{
    char more[200];
    snprintf(more, sizeof more, "--json --card %s %s", cards, options);
    json_t *fit = json_of(run("fit", more)), *row, *cell;
    size_t i, k;
    *differ = 0;
    json_array_foreach(json_object_get(fit, "methods"), i, row)
    {
        json_int_t needs[2] = {0};
        const char *flags = text_at(row, "flags");
        json_array_foreach(json_object_get(row, "cards"), k, cell)
        {
            const json_t *said = json_object_get(cell, "needs_bytes");
            char all[600];
            snprintf(all, sizeof all, "%s %s", strstr(flags, "--precision") ? "" : options, flags);
            needs[k] = planned_needs(text_at(cell, "card"), all);
            if ((json_is_null(said) ? -1 : json_integer_value(said)) != needs[k])
                fail_msg("fit says that %s needs %lld on %s, plan %lld", all,
                         (long long)json_integer_value(said), text_at(cell, "card"), (long long)needs[k]);
            assert_true(needs[k] >= 0 || !json_is_true(json_object_get(cell, "fits")));
        }
        *differ += needs[0] != needs[1];
        json_int_t shown = integer(json_object_get(row, "memory"), "needs_bytes");
        assert_int_equal(shown, needs[0] < 0 ? needs[1] : needs[0]);
    }
    json_decref(fit);
    return (int)i;
}

/* Every row, on cards of both kinds, and the second kind first; and with what only new cards take. */
static void each_cell_is_a_plan(void **state)
{
    (void)state;
    int differ, rows = check_rows("t4,h100", "", &differ);
    assert_true(rows >= 5 && differ == rows);
    rows = check_rows("h200,a100-40", "", &differ);
    assert_int_equal(differ, rows);
    rows = check_rows("a100-40,h100", "--precision tf32", &differ);
    assert_int_equal(differ, rows);
    expect_code(run("fit", "--card t4,a100-40 --precision tf32"), 2);
}

static json_t *all_cards(void)
{
    json_t *root = json_of(expect_code(RUN("gpus", "--json"), 0)), *cards = json_object_get(root, "gpus");
    json_incref(cards);
    json_decref(root);
    return cards;
}

/* So many cards at a time are all that `fit` takes. */
static void check_columns(const char *list)
{
    char more[400];
    json_t *column;
    size_t i;
    snprintf(more, sizeof more, "--json --card %s", list);
    json_t *fit = json_of(expect_code(run("fit", more), 0));
    const json_t *cells = json_object_get(json_array_get(json_object_get(fit, "methods"), 0), "cards");
    json_array_foreach(json_object_get(fit, "cards"), i, column)
    {
        const json_t *planned = json_object_get(column, "planned_for");
        const char *name = text_at(column, "card");
        assert_string_equal(text_at(planned, "name"), name);
        assert_string_equal(text_at(planned, "source"), "named");
        assert_int_equal(integer(json_array_get(cells, i), "needs_bytes"), planned_needs(name, ""));
    }
    assert_int_equal(i, json_array_size(cells));
    json_decref(fit);
}

/* Of each card that there are kernels for; so no two kinds are taken for one. */
static void each_card_is_its_own(void **state)
{
    (void)state;
    enum { AT_A_TIME = 12 };
    json_t *cards = all_cards(), *card;
    char list[400] = "", more[96];
    size_t i;
    int planned = 0, refused = 0;
    json_array_foreach(cards, i, card)
    {
        const char *name = text_at(card, "name"), *capability = text_at(card, "compute_capability");
        if (capability[0] && atof(capability) >= 7.5) {
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", list[0] ? "," : "", name);
            if (++planned % AT_A_TIME == 0) {
                check_columns(list);
                list[0] = '\0';
            }
            continue;
        }
        snprintf(more, sizeof more, "--card %s,t4", name);
        Outcome *o = run("fit", more);
        assert_int_equal(o->code, 2);
        assert_non_null(strstr(o->err, capability[0] ? "is older" : "is not one"));
        refused++;
    }
    if (list[0])
        check_columns(list);
    assert_true(planned > 10 && refused > 1);
    json_decref(cards);
}

static json_int_t bytes_of(const char *name)
{
    json_t *cards = all_cards(), *card;
    size_t i;
    json_int_t bytes = 0;
    json_array_foreach(cards, i, card) bytes =
        strcmp(text_at(card, "name"), name) ? bytes : integer(card, "bytes");
    json_decref(cards);
    return bytes;
}

/* Exactly what is needed fits, and a byte less does not, of each kind of card. */
static void fits_to_the_byte(void **state)
{
    (void)state;
    static const char *const cards[] = {"t4", "h100"};
    for (int k = 0; k < 2; k++)
        for (int less = 0; less < 2; less++) {
            char more[160];
            json_int_t reserve = bytes_of(cards[k]) - planned_needs(cards[k], "") + less;
            snprintf(more, sizeof more, "--json --card %s,%s --reserve %lld", cards[k], "h200",
                     (long long)reserve);
            json_t *fit = json_of(run("fit", more)),
                   *row = json_array_get(json_object_get(fit, "methods"), 0);
            const json_t *cell = json_array_get(json_object_get(row, "cards"), 0);
            assert_int_equal(json_is_true(json_object_get(cell, "fits")), !less);
            assert_int_equal(integer(cell, "free_bytes"), -less);
            json_decref(fit);
        }
}

/* ---- Which card is assumed ------------------------------------------------------------------- */

static void check_assumed(const char *source, const char *capability, const char *words)
{
    static const char *const commands[] = {"plan", "compare", "fit"};
    for (int i = 0; i < 3; i++) {
        int fit = i == 2;
        json_t *root = json_of(expect_code(run(commands[i], fit ? "--json --memory 8GiB" : "--json"), 0));
        const json_t *card =
            fit ? json_object_get(json_array_get(json_object_get(root, "cards"), 0), "planned_for")
                : json_object_get(root, "card");
        assert_string_equal(text_at(card, "source"), source);
        assert_string_equal(text_at(card, "compute_capability"), capability);
        assert_true(json_is_null(json_object_get(card, "name")));
        assert_string_equal(text_at(card, "title"), words);
        json_decref(root);
        Outcome *o = expect_code(run(commands[i], fit ? "--memory 8GiB" : ""), 0);
        size_t headline = strcspn(o->out, "\n");
        const char *said = strstr(o->out, words);
        if (!said || (size_t)(said - o->out) > headline)
            fail_msg("the headline of %s does not say '%s': %.*s", commands[i], words, (int)headline, o->out);
    }
}

static void the_assumed_card(void **state)
{
    (void)state;
    setenv("STAND_IN_CAPABILITY", "80", 1);
    check_assumed("this machine", "8.0", "this machine's stand-in (cuda)");
    unsetenv("STAND_IN_CAPABILITY");
    setenv("BRIM_CUDA_DRIVER", "/nowhere/libcuda.so.1", 1);
    check_assumed("assumed", "9.0",
                  "a card of compute capability 9.0 (assumed: none is named, and none is here)");
    stand_in_environment();
    json_t *root = json_of(expect_code(run("compare", "--json --card t4"), 0));
    assert_string_equal(text_at(json_object_get(root, "card"), "title"), "Tesla T4 16GB");
    json_decref(root);
    Outcome *o = run("compare", "--card t4");
    assert_non_null(strstr(o->out, "on Tesla T4 16GB\n"));
    o = run("plan", "--card t4,h100");
    assert_true(o->code == 2 && strstr(o->err, "a plan is for one card; `brim fit` takes several"));
    o = expect_code(run("fit", "--card t4,h200 --memory 8GiB"), 0);
    assert_non_null(strstr(o->out, "on each card\n"));
    assert_non_null(strstr(o->out,
                           "Each column is planned for its card; needs are those of t4. A size is planned "
                           "for this machine's stand-in (cuda).\n"));
    o = expect_code(run("plan", "--inference --card t4"), 0);
    assert_non_null(strstr(o->out, "Planned for Tesla T4 16GB.\n"));
    const char *cpu[] = {"brim", "plan", "--model", in_folder("config.json"), "--json", NULL};
    root = json_of(expect_code(run_command(cpu), 0));
    assert_null(json_object_get(root, "card"));
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_cell_is_a_plan),
        cmocka_unit_test(each_card_is_its_own),
        cmocka_unit_test(fits_to_the_byte),
        cmocka_unit_test(the_assumed_card),
    };
    stand_in_environment();
    make_folder(NULL);
    make_file("config.json", config, sizeof config - 1);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_folder(NULL);
    return failed;
}
