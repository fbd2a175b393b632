/* brim fit --framework pytorch: cards, levers, and what fits. */
#include "cli_support.h"

#define TINY "llama-tiny", "--framework", "pytorch", "--batch", "2", "--seq", "64"

static json_t *fit_of(Outcome *outcome, int code)
{
    json_t *root = parse(expect_code(outcome, code)->out);
    json_t *pytorch = json_incref(json_object_get(root, "pytorch"));
    json_decref(root);
    return pytorch;
}

static void has(const Outcome *o, const char *text)
{
    if (!strstr(o->out, text))
        fail_msg("no '%s' in\n%s", text, o->out);
}

static const char *text_at(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static const json_t *row_of(const json_t *fit, const char *method)
{
    size_t i;
    const json_t *row;
    json_array_foreach(json_object_get(fit, "methods"), i, row)
    {
        if (!strcmp(text_at(row, "method"), method))
            return row;
    }
    return NULL;
}

static const json_t *cell_of(const json_t *row, size_t card)
{
    return json_array_get(json_object_get(row, "cards"), card);
}

/* ---- What fits ------------------------------------------------------------------------------- */

/* Answers have five significant bits. */
static json_int_t next_of(json_int_t units)
{
    json_int_t step = 1;
    while (units / step >= 32)
        step *= 2;
    return (units / step + 1) * step;
}

static void assert_fits(json_int_t batch, json_int_t seq, int fits)
{
    char batches[24], lengths[24];
    snprintf(batches, sizeof batches, "%lld", (long long)batch);
    snprintf(lengths, sizeof lengths, "%lld", (long long)seq);
    expect_code(RUN("plan", "llama-tiny", "--framework", "pytorch", "--precision", "bf16", "--batch", batches,
                    "--seq", lengths, "--budget", "300MiB", "--json"),
                !fits);
}

static void cells_are_the_largest_that_fit(void **state)
{
    (void)state;
    json_t *fit = fit_of(
        RUN("fit", TINY, "--precision", "bf16", "--memory", "400MiB", "--reserve", "100MiB", "--json"), 0);
    const json_t *card = json_array_get(json_object_get(fit, "cards"), 0);
    json_int_t batch = integer_at(card, "largest_batch"), seq = integer_at(card, "longest_seq");
    assert_true(batch > 32 && seq > 64 && seq % 128 == 0);
    assert_string_equal(text_at(json_object_get(card, "context_bytes"), "source"), "given");
    json_decref(fit);
    assert_fits(batch, 64, 1);
    assert_fits(next_of(batch), 64, 0);
    assert_fits(2, seq, 1);
    assert_fits(2, 128 * next_of(seq / 128), 0);
}

/* Where less is asked for than fits, and where more. */
static void what_is_asked_for_does_not_matter(void **state)
{
    (void)state;
    static const char *const batches[] = {"1", "3", "50", "1000"};
    json_int_t found = 0;
    for (size_t i = 0; i < COUNT(batches); i++) {
        json_t *fit = fit_of(RUN("fit", "llama-tiny", "--framework", "pytorch", "--seq", "64", "--batch",
                                 batches[i], "--memory", "600MiB", "--reserve", "100MiB", "--json"),
                             i == 3);
        json_int_t batch = integer_at(cell_of(row_of(fit, "as is"), 0), "largest_batch");
        assert_true(!found || batch == found);
        found = batch;
        json_decref(fit);
    }
}

static void every_card_has_a_row(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("fit", TINY, "--card", "t4,v100-32,h200"), 1);
    has(o, "v100-32: Tesla V100 32GB has compute capability 7.0, which there are no rules for");
    has(o, "PREDICTED");
    has(o, "0.25-0.45 assumed");
    has(o, "It fits t4 and h200 as it is.\n");
    expect_code(RUN("fit", TINY, "--card", "t4,h200"), 0);
    json_t *fit = fit_of(RUN("fit", TINY, "--card", "v100-32", "--json"), 1);
    assert_non_null(json_object_get(json_array_get(json_object_get(fit, "cards"), 0), "error"));
    json_decref(fit);
}

/* ---- Levers ---------------------------------------------------------------------------------- */

static int split(char *text, const char **arguments, int count)
{
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
        arguments[count++] = word;
    return count;
}

/* A row is what its flags are, typed: the same bytes, and the same answers. */
static void rows_are_their_flags(void **state)
{
    (void)state;
    static const char *const expected[] = {
        "as is",         "--optimizer adamw-fused",     "--checkpoint blocks",    "blocks + fused AdamW",
        "LoRA",          "--precision bf16-autocast",   "bf16-autocast + blocks", "--optimizer adamw-8bit",
        "LoRA + blocks", "blocks + 8-bit AdamW",        "--precision bf16",       "bf16 + blocks",
        "QLoRA",         "bf16 + blocks + 8-bit AdamW", "QLoRA + blocks",         "expandable_segments"};
    json_t *fit = fit_of(RUN("fit", TINY, "--memory", "500MiB", "--reserve", "100MiB", "--json"), 0);
    size_t k;
    const json_t *row;
    assert_int_equal(json_array_size(json_object_get(fit, "methods")), COUNT(expected));
    for (size_t i = 0; i < COUNT(expected); i++)
        assert_non_null(row_of(fit, expected[i]));
    json_array_foreach(json_object_get(fit, "methods"), k, row)
    {
        const char *arguments[40] = {"", "fit", TINY, "--memory", "500MiB", "--reserve", "100MiB", "--json"};
        char flags[200];
        int count = 0;
        snprintf(flags, sizeof flags, "%s", text_at(row, "flags"));
        while (arguments[count])
            count++;
        split(flags, arguments, count);
        json_t *typed = fit_of(run_command(arguments), 0);
        const json_t *a = cell_of(row, 0), *b = cell_of(row_of(typed, "as is"), 0);
        assert_int_equal(integer_at(a, "allocated_bytes"), integer_at(b, "allocated_bytes"));
        assert_int_equal(integer_at(a, "reserved_bytes"), integer_at(b, "reserved_bytes"));
        assert_int_equal(integer_at(a, "largest_batch"), integer_at(b, "largest_batch"));
        assert_int_equal(integer_at(a, "longest_seq"), integer_at(b, "longest_seq"));
        assert_true(json_equal(json_object_get(a, "verdict"), json_object_get(b, "verdict")));
        json_decref(typed);
    }
    json_decref(fit);
}

/* What a job has, or what there are no rules for, is no row. */
static void rows_are_what_can_be_pulled(void **state)
{
    (void)state;
    static const struct {
        const char *arguments[9], *absent;
    } trials[] = {
        {{"--checkpoint", "blocks"}, "--checkpoint blocks"},
        {{"--checkpoint", "reentrant"}, "--checkpoint blocks"},
        {{"--optimizer", "adamw-fused"}, "--optimizer adamw-fused"},
        {{"--optimizer", "sgd"}, "--optimizer adamw-8bit"},
        {{"--precision", "bf16"}, "--precision bf16"},
        {{"--precision", "fp16-autocast"}, "--precision bf16"},
        {{"--lora", "r=8"}, "--optimizer adamw-8bit"},
        {{"--lora", "r=8"}, "LoRA"},
        {{"--lora", "r=8", "--quantize", "nf4"}, "QLoRA"},
        {{"--alloc-conf", "expandable_segments:True"}, "--alloc-conf expandable_segments:True"},
        {{"--attention", "sdpa"}, "--attention sdpa"},
    };
    for (size_t i = 0; i < COUNT(trials); i++) {
        const char *arguments[24] = {"", "fit", TINY, "--card", "t4", "--json"};
        int count = 12;
        for (int k = 0; trials[i].arguments[k]; k++)
            arguments[count++] = trials[i].arguments[k];
        json_t *fit = fit_of(run_command(arguments), 0);
        assert_non_null(row_of(fit, "as is"));
        if (row_of(fit, trials[i].absent))
            fail_msg("%s is a row", trials[i].absent);
        json_decref(fit);
    }
    json_t *fit =
        fit_of(RUN("fit", "bert-base", "--framework", "pytorch", "--seq", "64", "--card", "t4", "--json"), 0);
    assert_null(row_of(fit, "QLoRA")); /* which there are no rules for */
    assert_non_null(row_of(fit, "LoRA"));
    json_decref(fit);
    fit = fit_of(RUN("fit", TINY, "--card", "t4", "--attention", "eager", "--json"), 0);
    assert_non_null(row_of(fit, "--attention sdpa"));
    json_decref(fit);
    fit = fit_of(RUN("fit", TINY, "--card", "t4", "--precision", "fp16-autocast", "--json"), 0);
    assert_string_equal(text_at(row_of(fit, "LoRA"), "flags"), "--lora r=16,alpha=32 --weights fp16");
    json_decref(fit);
}

/* The first row that fits, which the sentence says; and the exit code. */
static void the_least_cost_comes_first(void **state)
{
    (void)state;
    json_t *fit = fit_of(RUN("fit", TINY, "--precision", "bf16", "--memory", "100MiB,150MiB,1GiB",
                             "--reserve", "60MiB", "--json"),
                         0);
    const json_t *cards = json_object_get(fit, "cards"), *row;
    for (size_t i = 0; i < 3; i++) {
        const char *best = NULL;
        size_t k;
        json_array_foreach(json_object_get(fit, "methods"), k, row)
        {
            if (!best && json_is_true(json_object_get(cell_of(row, i), "fits")))
                best = text_at(row, "flags");
        }
        assert_non_null(best);
        assert_string_equal(text_at(json_array_get(cards, i), "best"), best);
        assert_true(best[0] ? strstr(text_at(fit, "verdict"), best) != NULL
                            : strstr(text_at(fit, "verdict"), "1GiB as it is") != NULL);
    }
    assert_string_equal(text_at(json_array_get(cards, 2), "best"), "");
    assert_true(text_at(json_array_get(cards, 0), "best")[0] != '\0');
    json_decref(fit);
    has(expect_code(RUN("fit", TINY, "--memory", "100MiB", "--reserve", "95MiB"), 1),
        "Nothing here fits 100MiB: the least that is allocated is ");
}

static void tables_are_those_of_fit(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("fit", TINY, "--card", "t4,h200"), 0);
    static const char *const lines[] = {
        "\nh200: UNVERIFIED: sdpa takes cuDNN's kernel first",
        "card         memory  allocated   reserved  as asked          largest    longest\n",
        "\nLARGEST BATCH, seq 64        allocated         t4       h200\n",
        "\nLONGEST SEQUENCE, batch 2    allocated         t4       h200\n",
        "\nQLoRA + blocks ",
        "LoRA is --lora r=16,alpha=32 --precision bf16; QLoRA is --lora",
        "t4: it has no bf16 arithmetic, so bf16 is slow there",
    };
    for (size_t i = 0; i < COUNT(lines); i++)
        has(o, lines[i]);
}

static void cards_say_what_is_theirs(void **state)
{
    (void)state;
    has(expect_code(RUN("fit", TINY, "--card", "l4,h200"), 0),
        "\nGiB.  Of each card the context takes 0.25-0.45 assumed; its upper end counts.\n");
    has(expect_code(RUN("fit", TINY, "--card", "l4,t4,h200"), 0),
        "takes 0.25-0.45 assumed; of t4 0.14 measured to 0.45 assumed; its upper end counts.\n");
    json_t *fit = fit_of(RUN("fit", TINY, "--card", "t4,h200", "--json"), 0);
    const json_t *as_is = row_of(fit, "as is"), *bf16 = row_of(fit, "--precision bf16");
    assert_true(json_is_null(json_object_get(cell_of(as_is, 1), "unverified")));
    assert_true(json_is_null(json_object_get(cell_of(bf16, 0), "unverified")));
    assert_true(json_is_string(json_object_get(cell_of(bf16, 1), "unverified")));
    json_decref(fit);
}

/* ---- Threads and replays --------------------------------------------------------------------- */

static void threads_change_nothing(void **state)
{
    (void)state;
    static char one[sizeof((Outcome *)0)->out];
    strcpy(one, expect_code(RUN("fit", TINY, "--card", "t4", "--threads", "1"), 0)->out);
    assert_string_equal(expect_code(RUN("fit", TINY, "--card", "t4", "--threads", "5"), 0)->out, one);
}

/* For each card and lever a batch and a length are searched, each with a few replays of the job. */
static void a_search_takes_few_replays(void **state)
{
    (void)state;
    enum { EACH = 5, SEARCHES = 2 };
    json_t *fit = fit_of(RUN("fit", "llama-3.1-8b", "--framework", "pytorch", "--precision", "bf16",
                             "--batch", "1", "--seq", "2048", "--json"),
                         0);
    const json_t *rows = json_object_get(fit, "methods"), *row;
    size_t cards = json_array_size(json_object_get(fit, "cards")), k;
    json_int_t replays = 0;
    json_array_foreach(rows, k, row) replays += integer_at(row, "replays");
    assert_non_null(row_of(fit, "QLoRA + blocks"));
    assert_true(replays >= (json_int_t)json_array_size(rows));
    if (replays > (json_int_t)(EACH * SEARCHES * cards * json_array_size(rows)))
        fail_msg("%lld replays", (long long)replays);
    json_decref(fit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cells_are_the_largest_that_fit), cmocka_unit_test(what_is_asked_for_does_not_matter),
        cmocka_unit_test(every_card_has_a_row),           cmocka_unit_test(rows_are_their_flags),
        cmocka_unit_test(rows_are_what_can_be_pulled),    cmocka_unit_test(the_least_cost_comes_first),
        cmocka_unit_test(tables_are_those_of_fit),        cmocka_unit_test(cards_say_what_is_theirs),
        cmocka_unit_test(threads_change_nothing),         cmocka_unit_test(a_search_takes_few_replays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
