/* brim fit --cards: each row is a plan of one of several ranks; cells are the largest batches that fit; the
 * least need that is named is the least; and the textbook's two cards. */
#include "../plan/plan.h"
#include "../nn/nn.h"
#include "cli_support.h"

static json_t *fit_of(Outcome *outcome, int code)
{
    return parse(expect_code(outcome, code)->out);
}

static void has(const Outcome *o, const char *text)
{
    if (!strstr(o->out, text))
        fail_msg("no \"%s\" in: %s", text, o->out);
}

static json_int_t needs_of(const json_t *row)
{
    return integer_at(json_object_get(row, "memory"), "needs_bytes");
}

/* The row as typed, or, second, that with levers. */
static const json_t *row_of(const json_t *root, const char *method, int second)
{
    size_t i;
    const json_t *row;
    json_array_foreach(json_object_get(root, "methods"), i, row)
    {
        if (!strcmp(json_string_value(json_object_get(row, "method")), method) && second-- == 0)
            return row;
    }
    fail_msg("no row '%s'", method);
    return NULL;
}

static void rows_are_strategies_and_numbers(void **state)
{
    (void)state;
    json_t *root = fit_of(RUN("fit", "--json", "--cards", "4,2,1,2", "--threads", "2", "--memory",
                              "200MiB,80MiB", "--reserve", "0"),
                          0);
    const json_t *rows = json_object_get(root, "methods"), *row;
    static const char *const names[] = {"1 card",         "ddp, 2 cards",   "zero1, 2 cards",
                                        "zero2, 2 cards", "zero3, 2 cards", "ddp, 4 cards",
                                        "zero1, 4 cards", "zero2, 4 cards", "zero3, 4 cards"};
    size_t i;
    assert_int_equal(json_array_size(rows), 2 * COUNT(names));
    json_array_foreach(rows, i, row)
    {
        int64_t size = integer_at(row, "ranks"), sent = integer_at(row, "sent_step_bytes");
        assert_string_equal(json_string_value(json_object_get(row, "method")), names[i % COUNT(names)]);
        assert_int_equal(size, i % COUNT(names) == 0 ? 1 : i % COUNT(names) < 5 ? 2 : 4);
        assert_int_equal(sent > 0, size > 1);
        const char *flags = json_string_value(json_object_get(row, "flags"));
        assert_int_equal(strstr(flags, "--checkpoint blocks") != NULL, i >= COUNT(names));
        assert_int_equal(strstr(flags, "--ranks 4") != NULL, size == 4);
    }
    for (int second = 0; second < 2; second++) {
        assert_true(needs_of(row_of(root, "zero1, 2 cards", second)) <
                    needs_of(row_of(root, "ddp, 2 cards", second)));
        assert_true(needs_of(row_of(root, "zero3, 2 cards", second)) <
                    needs_of(row_of(root, "zero1, 2 cards", second)));
        assert_true(needs_of(row_of(root, "zero3, 4 cards", second)) <
                    needs_of(row_of(root, "zero3, 2 cards", second)));
    }
    json_decref(root);
}

/* The largest batch fits, and one more does not, as a fit of that batch says. */
static void cells_are_the_largest_batch(void **state)
{
    (void)state;
    static const char *const rows[] = {"ddp, 2 cards", "zero2, 2 cards", "zero3, 2 cards"};
    const json_int_t memory = (json_int_t)200 << 20;
    json_t *root = fit_of(
        RUN("fit", "--json", "--cards", "2", "--threads", "2", "--memory", "200MiB", "--reserve", "0"), 0);
    for (size_t i = 0; i < COUNT(rows); i++) {
        const json_t *cell = json_array_get(json_object_get(row_of(root, rows[i], 0), "cards"), 0);
        json_int_t batch = integer_at(cell, "largest_batch");
        assert_true(batch >= 4 && batch < 40);
        for (int more = 0; more < 2; more++) {
            char text[16];
            snprintf(text, sizeof text, "%lld", (long long)batch + more);
            json_t *asked = parse(RUN("fit", "--json", "--cards", "2", "--threads", "2", "--memory", "200MiB",
                                      "--reserve", "0", "--batch", text)
                                      ->out);
            assert_int_equal(needs_of(row_of(asked, rows[i], 0)) <= memory, !more);
            json_decref(asked);
        }
    }
    json_decref(root);
}

/* Of a card that is too small for all rows, the least need is that of the row with the least, and no card
 * fits a row that needs more than it has. */
static void the_least_need_is_the_least(void **state)
{
    (void)state;
    static const char *const models[] = {"llama-tiny", "gpt2-tiny", "bert-tiny", "llama-3.2-1b"};
    for (size_t m = 0; m < COUNT(models); m++) {
        json_t *root = parse(RUN("fit", "--json", "--cards", "2,8", "--model", models[m], "--threads", "2",
                                 "--memory", "4MiB,60MiB,140MiB,8GiB", "--reserve", "0")
                                 ->out);
        const json_t *row, *least = NULL;
        size_t i, k;
        json_array_foreach(json_object_get(root, "methods"), i, row)
        {
            const json_t *cell;
            if (!least || needs_of(row) < needs_of(least))
                least = row;
            json_array_foreach(json_object_get(row, "cards"), k, cell)
            {
                const json_t *card = json_array_get(json_object_get(root, "cards"), k);
                json_int_t left = integer_at(card, "bytes") - needs_of(row);
                assert_int_equal(json_is_true(json_object_get(cell, "fits")), left >= 0);
                assert_int_equal(integer_at(cell, "free_bytes"), left);
            }
        }
        const char *verdict = json_string_value(json_object_get(root, "verdict"));
        char wanted[96];
        snprintf(wanted, sizeof wanted,
                 "the least need is %s a card, on %lld cards with --ranks %lld --parallel %s",
                 report_size((uint64_t)needs_of(least)).text, (long long)integer_at(least, "ranks"),
                 (long long)integer_at(least, "ranks"),
                 json_string_value(json_object_get(least, "strategy")));
        if (!strstr(verdict, wanted))
            fail_msg("%s: no \"%s\" in: %s", models[m], wanted, verdict);
        json_decref(root);
    }
}

static void the_verdict_has_the_fewest_cards(void **state)
{
    (void)state;
    Outcome *o = RUN("fit", "--model", "llama-2-13b", "--cards", "1,2,4,8", "--card", "a100-80,h200,t4",
                     "--threads", "2");
    has(expect_code(o, 1), "\nIt fits a100-80 on 4 cards with --ranks 4 --parallel zero3; h200 on 2 cards "
                           "with --ranks 2 --parallel zero2; nothing here fits t4: ");
    o = RUN("fit", "--cards", "2", "--card", "t4", "--threads", "2");
    has(expect_code(o, 0), "\nIt fits t4 on one card as it is.\n");
}

/* 80 to 100 GB: beside it what is planned of the same 12 bytes a parameter, and the sum is the plan's. */
static void the_textbooks_two_cards(void **state)
{
    (void)state;
    Outcome *o = expect_code(
        RUN("fit", "--model", "textbook-10b", "--cards", "2", "--card", "h200", "--threads", "2"), 0);
    has(o, "10B, A CARD OF 2, GB   textbook      zero3  12 bytes a parameter: --precision bf16-states32\n");
    has(o, "parameters                 10.0       10.0\n");
    has(o, "states                     40.0       40.0\n");
    has(o, "activations            20 to 40       25.8  of its own 32 samples x 128 tokens, not divided\n");
    json_t *root = fit_of(RUN("fit", "--json", "--model", "textbook-10b", "--precision", "bf16-states32",
                              "--cards", "2", "--card", "h200", "--threads", "2"),
                          0);
    json_t *fp32 = fit_of(
        RUN("fit", "--json", "--model", "textbook-10b", "--cards", "2", "--card", "h200", "--threads", "2"),
        0);
    char wanted[128];
    snprintf(wanted, sizeof wanted,
             "together              80 to 100 %10.1f  and %.1f with 16 bytes: --precision fp32\n",
             (double)needs_of(row_of(root, "zero3, 2 cards", 0)) / 1e9,
             (double)needs_of(row_of(fp32, "zero3, 2 cards", 0)) / 1e9);
    o = RUN("fit", "--model", "textbook-10b", "--cards", "2", "--card", "h200", "--threads", "2");
    has(o, wanted);
    assert_null(strstr(RUN("fit", "--cards", "2", "--card", "t4")->out, "textbook"));
    json_decref(root);
    json_decref(fp32);
}

static void what_cannot_be_is_said(void **state)
{
    (void)state;
    static const struct {
        const char *cards, *says;
    } wrong[] = {{"0", "--cards must be a whole number from 1 to 65536, not '0'"},
                 {"t4", "--cards must be a whole number from 1 to 65536, not 't4'"},
                 {",", "--cards must be a whole number"},
                 {"1,2,3,4,5,6,7,8,9", "--cards takes at most 8 numbers"}};
    for (size_t i = 0; i < COUNT(wrong); i++) {
        Outcome *o = expect_code(RUN("fit", "--cards", wrong[i].cards), 2);
        if (!strstr(o->err, wrong[i].says))
            fail_msg("--cards %s: %s", wrong[i].cards, o->err);
    }
    Outcome *o = expect_code(RUN("fit", "--cards", "2", "--device", "cuda", "--card", "t4"), 2);
    assert_non_null(strstr(o->err, "--cards excludes --device cuda"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_strategies_and_numbers), cmocka_unit_test(cells_are_the_largest_batch),
        cmocka_unit_test(the_least_need_is_the_least),     cmocka_unit_test(the_verdict_has_the_fewest_cards),
        cmocka_unit_test(the_textbooks_two_cards),         cmocka_unit_test(what_cannot_be_is_said),
    };
    return cmocka_run_group_tests_name("fit cards", tests, make_folder, remove_folder);
}
