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

static void rows_are_layouts_and_numbers(void **state)
{
    (void)state;
    json_t *root = fit_of(RUN("fit", "--json", "--cards", "4,2,1,2", "--threads", "2", "--memory",
                              "200MiB,80MiB", "--reserve", "0"),
                          0);
    const json_t *rows = json_object_get(root, "methods"), *row;
    static const struct {
        const char *name;
        int cards, tensor, samples;
    } expected[] = {{"1 card", 1, 1, 8},
                    {"ddp, 2 cards", 2, 1, 16},
                    {"zero1, 2 cards", 2, 1, 16},
                    {"zero2, 2 cards", 2, 1, 16},
                    {"zero3, 2 cards", 2, 1, 16},
                    {"tensor 2, 2 cards", 2, 2, 8},
                    {"ddp, 4 cards", 4, 1, 32},
                    {"zero1, 4 cards", 4, 1, 32},
                    {"zero2, 4 cards", 4, 1, 32},
                    {"zero3, 4 cards", 4, 1, 32},
                    {"tensor 2 x zero1, 4 cards", 4, 2, 16},
                    {"tensor 2 x zero3, 4 cards", 4, 2, 16}}; /* 4 do not divide 6 heads */
    size_t i;
    assert_int_equal(json_array_size(rows), 2 * COUNT(expected));
    json_array_foreach(rows, i, row)
    {
        int64_t size = integer_at(row, "ranks"), sent = integer_at(row, "sent_step_bytes");
        size_t k = i % COUNT(expected);
        assert_string_equal(json_string_value(json_object_get(row, "method")), expected[k].name);
        assert_int_equal(size, expected[k].cards);
        assert_int_equal(integer_at(row, "tensor"), expected[k].tensor);
        assert_int_equal(integer_at(row, "stages"), 1);
        assert_int_equal(integer_at(row, "samples_step"), expected[k].samples);
        assert_int_equal(sent > 0, size > 1);
        assert_int_equal(integer_at(row, "sent_by_all_step_bytes"), size * sent);
        const char *flags = json_string_value(json_object_get(row, "flags"));
        assert_int_equal(strstr(flags, "--checkpoint blocks") != NULL, i >= COUNT(expected));
        assert_int_equal(strstr(flags, "--ranks 4") != NULL, size == 4);
        assert_int_equal(strstr(flags, "--tensor 2") != NULL, expected[k].tensor == 2);
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
    static const char *const models[] = {"llama-tiny", "gpt2-tiny", "llama-3.2-1b"};
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
        char wanted[160];
        snprintf(wanted, sizeof wanted, "the least need is %s a card, on %lld cards with %s",
                 report_size((uint64_t)needs_of(least)).text, (long long)integer_at(least, "ranks"),
                 json_string_value(json_object_get(least, "flags")));
        if (!strstr(verdict, wanted))
            fail_msg("%s: no \"%s\" in: %s", models[m], wanted, verdict);
        json_decref(root);
    }
}

static void the_verdict_has_the_fewest_cards(void **state)
{
    (void)state;
    Outcome *o = RUN("fit", "--model", "llama-2-13b", "--cards", "1,2,4", "--card", "a100-80,h200,t4",
                     "--threads", "2");
    /* Two and four that compute each layer together send less a sample than what zero3 gathers. */
    has(expect_code(o, 1), "\nIt fits a100-80 on 4 cards with --ranks 4 --tensor 4; h200 on 2 cards "
                           "with --ranks 2 --tensor 2; nothing here fits t4: ");
    has(o, "Stages wait for each other unless a step has as many micro-batches: --accumulate 2, 4 or 8");
    o = RUN("fit", "--cards", "2", "--card", "t4", "--threads", "2");
    has(expect_code(o, 0), "\nIt fits t4 on one card as it is.\n");
}

/* ---- Stages ------------------------------------------------------------------------------------ */

/* Each stage is what `plan --stages` says of it, and the fullest is the row's need: at the batch that was
 * asked for, and at the largest, where only some stages are planned. */
static void the_fullest_stage_decides(void **state)
{
    (void)state;
    static const char *const pipelines[] = {"1f1b", "gpipe"};
    for (int i = 0; i < 2; i++) {
#define STAGES                                                                                               \
    "--stages", "4", "--accumulate", "5", "--batch", "2", "--pipeline", pipelines[i], "--threads", "1",      \
        "--model", "gpt2-tiny", "--seq", "32", "--json"
        json_t *root = fit_of(RUN("fit", STAGES, "--cards", "8", "--memory", "40MiB", "--reserve", "0"), 0);
        const json_t *row = row_of(root, "stages 4 x zero1, 8 cards", 0);
        const json_t *distinct = json_object_get(row, "distinct"), *cell;
        json_t *plan = parse(expect_code(RUN("plan", STAGES, "--ranks", "8", "--parallel", "zero1"), 0)->out);
        const json_t *planned = json_object_get(json_object_get(plan, "ranks"), "distinct");
        json_int_t most = 0, sent = 0, all = 0;
        assert_int_equal(json_array_size(distinct), 4);
        for (size_t k = 0; k < 4; k++) {
            const json_t *a = json_array_get(distinct, k), *b = json_array_get(planned, k);
            json_int_t needs = integer_at(json_object_get(b, "memory"), "needs_bytes");
            assert_int_equal(integer_at(a, "needs_bytes"), needs);
            assert_int_equal(integer_at(a, "sent_step_bytes"), integer_at(b, "sent_bytes_per_step"));
            assert_true(json_equal(json_object_get(a, "ranks"), json_object_get(b, "ranks")));
            most = needs > most ? needs : most;
            sent = integer_at(a, "sent_step_bytes") > sent ? integer_at(a, "sent_step_bytes") : sent;
            all += 2 * integer_at(a, "sent_step_bytes");
        }
        assert_int_equal(needs_of(row), most);
        assert_int_equal(integer_at(row, "sent_step_bytes"), sent);
        assert_int_equal(integer_at(row, "sent_by_all_step_bytes"), all);
        assert_int_equal(integer_at(row, "samples_step"), 2 * 5 * 2);
        cell = json_array_get(json_object_get(row, "cards"), 0);
        for (int more = 0; more < 2; more++) {
            char batch[24];
            snprintf(batch, sizeof batch, "%lld", (long long)integer_at(cell, "largest_batch") + more);
            json_t *at = parse(
                expect_code(RUN("plan", STAGES, "--ranks", "8", "--parallel", "zero1", "--batch", batch), 0)
                    ->out);
            size_t k;
            const json_t *one;
            most = 0;
            json_array_foreach(json_object_get(json_object_get(at, "ranks"), "distinct"), k, one)
            {
                json_int_t needs = integer_at(json_object_get(one, "memory"), "needs_bytes");
                most = needs > most ? needs : most;
            }
            assert_int_equal(most <= (json_int_t)40 << 20, !more);
            json_decref(at);
        }
        json_decref(plan);
        json_decref(root);
    }
}

/* Stages have rows where a step has as many micro-batches; what another row is better than in all is not in
 * the table; what is asked for is all there is. */
static void which_rows_there_are(void **state)
{
    (void)state;
    json_t *root = fit_of(RUN("fit", "--json", "--cards", "8", "--model", "gpt2-tiny", "--accumulate", "4",
                              "--threads", "1", "--memory", "256MiB", "--reserve", "0"),
                          0);
    static const char *const names[] = {"tensor 2 x zero1, 8 cards",    "tensor 4 x zero3, 8 cards",
                                        "stages 2 x zero1, 8 cards",    "stages 4 x zero1, 8 cards",
                                        "tensor 4 x stages 2, 8 cards", "tensor 2 x stages 4, 8 cards"};
    for (size_t i = 0; i < COUNT(names); i++)
        row_of(root, names[i], 0);
    const json_t *row, *other;
    size_t i, k, hidden = 0;
    json_array_foreach(json_object_get(root, "methods"), i, row)
    {
        const char *name = json_string_value(json_object_get(row, "method"));
        int better = 0, cut = integer_at(row, "tensor") * integer_at(row, "stages") > 1;
        assert_null(strstr(name, "stages 8")); /* more than there are micro-batches */
        json_array_foreach(json_object_get(root, "methods"), k, other)
        {
            json_int_t a = integer_at(row, "sent_by_all_step_bytes") * integer_at(other, "samples_step"),
                       b = integer_at(other, "sent_by_all_step_bytes") * integer_at(row, "samples_step");
            int same_levers = (i < json_array_size(json_object_get(root, "methods")) / 2) ==
                              (k < json_array_size(json_object_get(root, "methods")) / 2);
            better |= same_levers && integer_at(row, "ranks") == integer_at(other, "ranks") && b <= a &&
                      needs_of(other) <= needs_of(row) && (b < a || needs_of(other) < needs_of(row));
        }
        int shown = json_is_true(json_object_get(row, "shown"));
        assert_int_equal(shown, !(cut && better));
        assert_int_equal(
            json_is_null(json_object_get(json_array_get(json_object_get(row, "cards"), 0), "largest_batch")),
            !shown);
        hidden += !shown;
    }
    assert_true(hidden > 0);
    json_decref(root);
    Outcome *o =
        expect_code(RUN("fit", "--cards", "4,6", "--tensor", "2", "--card", "t4", "--threads", "1"), 0);
    has(o, "\ntensor 2 x ddp, 4 cards ");
    has(o, "\ntensor 2 x zero3, 6 cards ");
    assert_null(strstr(o->out, "\nzero3, "));
    assert_null(strstr(expect_code(RUN("fit", "--cards", "2", "--model", "mlp", "--card", "t4"), 0)->out,
                       "tensor 2"));
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
                              "--cards", "2", "--card", "t4", "--threads", "2"),
                          1);
    json_t *fp32 = fit_of(
        RUN("fit", "--json", "--model", "textbook-10b", "--cards", "2", "--card", "t4", "--threads", "2"), 1);
    char wanted[128];
    snprintf(wanted, sizeof wanted,
             "together              80 to 100 %10.1f  and %.1f with 16 bytes: --precision fp32\n",
             (double)needs_of(row_of(root, "zero3, 2 cards", 0)) / 1e9,
             (double)needs_of(row_of(fp32, "zero3, 2 cards", 0)) / 1e9);
    has(RUN("fit", "--model", "textbook-10b", "--cards", "2", "--card", "t4", "--threads", "2"), wanted);
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
    static const struct {
        const char *arguments[8], *says;
    } asked[] = {{{"fit", "--tensor", "2"}, "--tensor 2 needs --cards N"},
                 {{"fit", "--stages", "2"}, "--stages 2 needs --cards N"},
                 {{"fit", "--cards", "2,4", "--tensor", "3"}, "need a multiple of 3"},
                 {{"fit", "--cards", "6", "--tensor", "2", "--stages", "2"}, "need a multiple of 4"}};
    for (size_t i = 0; i < COUNT(asked); i++) {
        const char *arguments[9] = {"brim"};
        memcpy(arguments + 1, asked[i].arguments, sizeof asked[i].arguments);
        o = expect_code(run_command(arguments), 2);
        if (!strstr(o->err, asked[i].says))
            fail_msg("no \"%s\" in: %s", asked[i].says, o->err);
    }
    o = expect_code(RUN("fit", "--cards", "4", "--tensor", "4", "--card", "t4"), 0);
    has(o, "Left out: tensor 4, 4 cards and those like it: attention: 4 ranks");
}

static int begin(void **state)
{
    if (make_folder(state))
        return -1;
    return setenv("BRIM_FASHION_MNIST", make_images("images"), 1); /* not every machine has it */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_layouts_and_numbers), cmocka_unit_test(cells_are_the_largest_batch),
        cmocka_unit_test(the_least_need_is_the_least),  cmocka_unit_test(the_verdict_has_the_fewest_cards),
        cmocka_unit_test(the_fullest_stage_decides),    cmocka_unit_test(which_rows_there_are),
        cmocka_unit_test(the_textbooks_two_cards),      cmocka_unit_test(what_cannot_be_is_said),
    };
    return cmocka_run_group_tests_name("fit cards", tests, begin, remove_folder);
}
