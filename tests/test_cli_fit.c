/* brim fit: what it says first, cells that are the largest that fit, and what bounds them where they are. */
#include "cli_support.h"

static json_int_t needs_in(const json_t *object)
{
    return integer_at(json_object_get(object, "memory"), "needs_bytes");
}

static json_t *fit_of(Outcome *outcome, int code)
{
    return parse(expect_code(outcome, code)->out);
}

static const json_t *row_of(const json_t *root, const char *method)
{
    size_t i;
    json_t *row;
    json_array_foreach(
        json_object_get(root, "methods"), i,
        row) if (!strcmp(json_string_value(json_object_get(row, "method")), method)) return row;
    fail_msg("no row '%s'", method);
    return NULL;
}

static const json_t *cell_of(const json_t *row, size_t card)
{
    return json_array_get(json_object_get(row, "cards"), card);
}

/* The largest batch fits, and one more does not. */
static void cards_are_filled_to_the_brim(void **state)
{
    (void)state;
    json_t *root =
        fit_of(RUN("fit", "--json", "--threads", "2", "--memory", "300MiB", "--reserve", "100MiB"), 0);
    json_int_t batch = integer_at(cell_of(row_of(root, "as is"), 0), "largest_batch");
    assert_true(batch >= 8 && batch < 20);
    for (int more = 0; more < 2; more++) {
        char text[16];
        snprintf(text, sizeof text, "%lld", (long long)batch + more);
        expect_code(RUN("plan", "--threads", "2", "--budget", "200MiB", "--batch", text), more);
    }
    json_decref(root);
    root = fit_of(RUN("fit", "--json", "--threads", "2", "--memory", "200MiB", "--reserve", "0"), 0);
    assert_int_equal(integer_at(cell_of(row_of(root, "as is"), 0), "largest_batch"), batch);
    json_decref(root);
    root = fit_of(RUN("fit", "--json", "--memory", "101MiB,400MiB", "--reserve", "100MiB"), 1);
    assert_int_equal(integer_at(cell_of(row_of(root, "as is"), 0), "largest_batch"), 0);
    json_decref(root);
}

/* The longest sequence fits, one step more does not, and what bounds it is what a plan of that length says.
 */
static void bounds_are_those_at_the_length_found(void **state)
{
    (void)state;
    static const char *const rows[][2] = {{"as is", "none"}, {"--checkpoint blocks", "blocks"}};
    json_t *root = fit_of(RUN("fit", "--json", "--model", "llama-3.2-1b", "--threads", "2", "--memory",
                              "24GiB", "--reserve", "0"),
                          0);
    for (size_t i = 0; i < COUNT(rows); i++) {
        const json_t *cell = cell_of(row_of(root, rows[i][0]), 0);
        const json_t *bound = json_object_get(cell, "bound_at_longest");
        json_int_t seq = integer_at(cell, "longest_seq");
        assert_true(seq > 2048 && seq % 128 == 0);
        for (int more = 0; more < 2; more++) {
            char text[16];
            snprintf(text, sizeof text, "%lld", (long long)seq + 128 * more);
            json_t *plan = fit_of(RUN("plan", "--json", "--model", "llama-3.2-1b", "--threads", "2",
                                      "--budget", "24GiB", "--seq", text, "--checkpoint", rows[i][1]),
                                  more);
            const json_t *memory = json_object_get(plan, "memory"), *at = json_object_get(memory, "peak_at");
            const char *group = json_string_value(json_object_get(bound, "group"));
            assert_true((needs_in(plan) <= (json_int_t)24 << 30) == !more);
            if (!more) {
                assert_int_equal(integer_at(bound, "bytes"),
                                 integer_at(json_object_get(memory, "groups"), group));
                assert_string_equal(json_string_value(json_object_get(bound, "place")),
                                    json_string_value(json_object_get(at, "place")));
                assert_string_equal(json_string_value(json_object_get(bound, "phase")),
                                    json_string_value(json_object_get(at, "phase")));
            }
            json_decref(plan);
        }
    }
    json_decref(root);
}

/* A longer sequence asked for does not change what bounds the one that is found. */
static void bounds_do_not_depend_on_what_was_asked(void **state)
{
    (void)state;
    json_t *cells[2];
    static const char *const asked[] = {"2048", "12288"};
    for (int i = 0; i < 2; i++) {
        json_t *root = fit_of(RUN("fit", "--json", "--model", "llama-3.2-1b", "--threads", "2", "--memory",
                                  "23.7GiB", "--seq", asked[i]),
                              0);
        cells[i] = json_deep_copy(
            json_object_get(cell_of(row_of(root, "--checkpoint blocks"), 0), "bound_at_longest"));
        json_decref(root);
    }
    assert_true(json_equal(cells[0], cells[1]));
    json_decref(cells[0]);
    json_decref(cells[1]);
}

static const char *verdict_of(Outcome *o)
{
    const char *at = o->out;
    for (int i = 0; i < 2; i++) { /* after two lines: what is trained, what a parameter takes */
        at = strchr(at, '\n');
        assert_non_null(at++);
    }
    return at;
}

static void starts(const char *text, const char *start)
{
    if (strncmp(text, start, strlen(start)) != 0)
        fail_msg("no \"%s\" at the start of: %.300s", start, text);
}

/* In one sentence: what fits where at the least cost, or the least need and the card that takes it. */
static void the_verdict_comes_first(void **state)
{
    (void)state;
    Outcome *o = RUN("fit", "--model", "llama-3.2-1b", "--card", "t4,rtx-3090,a100-40");
    starts(verdict_of(expect_code(o, 0)),
           "It fits t4 with --lora r=16,alpha=32 --weights bf16; rtx-3090 and a100-40 as it is. With --lora "
           "adapters are trained instead of the weights.\n");
    o = RUN("fit", "--model", "mlp", "--data", make_images("images"), "--memory", "8MiB", "--reserve", "0",
            "--batch", "1");
    starts(verdict_of(expect_code(o, 0)), "It fits 8MiB with --optimizer sgd.\n");
    o = RUN("fit", "--model", "llama-3.2-1b", "--memory", "18GiB", "--reserve", "0");
    starts(verdict_of(expect_code(o, 0)), "It fits 18GiB with --checkpoint blocks --optimizer-in-backward "
                                          "--clip 0 (1.26 times the FLOPs).\n");
    o = RUN("fit", "--model", "llama-3.1-70b", "--card", "rtx-3090");
    starts(verdict_of(expect_code(o, 1)),
           "Nothing here fits rtx-3090: the least need is 42.27 GiB, with "
           "--checkpoint blocks --lora r=16,alpha=32 --precision bf16 --weights bf16 --quantize nf4; ");
    assert_non_null(strstr(o->out, "; the smallest card that takes it is "));
    o = RUN("fit", "--model", "llama-3.1-405b", "--card", "t4,h200");
    starts(verdict_of(expect_code(o, 1)), "Nothing here fits t4 and h200: the least need is 216.87 GiB");
    assert_non_null(strstr(o->out, "; no card of `brim gpus` takes it.\n"));
    o = RUN("fit", "--model", "llama-3.2-1b", "--card", "rtx-3090", "--memory", "2GiB");
    starts(verdict_of(expect_code(o, 1)),
           "It fits rtx-3090 as it is; nothing here fits 2GiB: the least need");
}

/* The card that is named takes it, and no smaller one does. */
static void the_smallest_card_takes_it(void **state)
{
    (void)state;
    static const char before[] = "the smallest card that takes it is ";
    char name[64];
    Outcome *o = expect_code(RUN("fit", "--model", "llama-3.1-70b", "--card", "t4"), 1);
    const char *at = strstr(o->out, before);
    assert_non_null(at);
    snprintf(name, sizeof name, "%.*s", (int)strcspn(at + strlen(before), ".\n"), at + strlen(before));
    expect_code(RUN("fit", "--model", "llama-3.1-70b", "--card", name), 0);
    json_t *root = parse(expect_code(RUN("gpus", "--json"), 0)->out), *card;
    char smaller[64] = "";
    size_t i;
    json_array_foreach(json_object_get(root, "gpus"), i, card)
    {
        const char *one = json_string_value(json_object_get(card, "name"));
        if (!strcmp(one, name))
            break;
        snprintf(smaller, sizeof smaller, "%s", one);
    }
    json_decref(root);
    assert_true(smaller[0]);
    expect_code(RUN("fit", "--model", "llama-3.1-70b", "--card", smaller), 1);
}

static void has(const Outcome *o, const char *text)
{
    if (!strstr(o->out, text))
        fail_msg("no \"%s\" in\n%s", text, o->out);
}

static void has_not(const Outcome *o, const char *text)
{
    if (strstr(o->out, text))
        fail_msg("\"%s\" in\n%s", text, o->out);
}

static void tables(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("fit", "--model", "llama-3.2-1b", "--card", "rtx-3090,A100-80"), 0);
    static const char *const rows[] = {"as is ",
                                       "--checkpoint selective ",
                                       "--checkpoint blocks ",
                                       "--optimizer-in-backward ",
                                       "--loss-chunk 128 ",
                                       "blocks + in backward  ",
                                       "blocks + in backward + chunk 128  ",
                                       "blocks + in backward + chunk 128 + sgd ",
                                       "--attention eager "};
    for (size_t i = 0; i < COUNT(rows); i++)
        if (lines_starting(o->out, rows[i]) < 2)
            fail_msg("not two rows '%s' in\n%s", rows[i], o->out);
    has(o, "of lengths the largest multiple of 128.\n");
    has(o, "--optimizer-in-backward saves nothing by itself");
    has(o,
        "--attention eager needs 8.00 GiB more: activations at the peak are 12.66 GiB instead of 4.66 GiB");
    /* Less than the card has, but more than its step leaves: 20.45 + 2.57 of 22.70. */
    has(o, "\nPyTorch eager, as is, ESTIMATED           23.02 GiB            no, -0.3          yes\n");
    o = expect_code(RUN("fit", "--model", "gpt2-tiny", "--memory", "2GiB"), 0);
    has(o, "multiple of 16.\n");
}

/* No figure that reads as nothing, no comparison with nothing. */
static void nothing_is_said_of_nothing(void **state)
{
    (void)state;
    char memory[32];
    json_t *root = parse(expect_code(RUN("plan", "--json", "--threads", "2", "--batch", "1"), 0)->out);
    snprintf(memory, sizeof memory, "%lld", (long long)needs_in(root) - 1); /* a byte is missing */
    json_decref(root);
    Outcome *o = RUN("fit", "--threads", "2", "--batch", "1", "--reserve", "0", "--memory", memory);
    has(expect_code(o, 0), "no, -1 MiB");
    o = expect_code(RUN("fit", "--model", "qwen2-7b", "--card", "rtx-3090"), 0);
    has_not(o, "-0.0");
    has_not(o, "0 B ");
    has(o, "there are no activations;");
    has(o, "--attention eager needs 3.99 GiB more: its peak is at another moment");
}

/* Of a batch in pieces the cell is the piece and how many there are. */
static void pieces_of_a_batch(void **state)
{
    (void)state;
    json_t *root = fit_of(RUN("fit", "--json", "--threads", "2", "--memory", "200MiB", "--reserve", "0"), 0);
    const json_t *row = row_of(root, "--batch 2 --accumulate 4");
    json_int_t piece = integer_at(cell_of(row, 0), "largest_batch");
    assert_true(piece > 2);
    json_decref(root);
    char text[32];
    snprintf(text, sizeof text, " %lld x 4", (long long)piece);
    Outcome *o = expect_code(RUN("fit", "--threads", "2", "--memory", "200MiB", "--reserve", "0"), 0);
    has(o, text);
    for (int more = 0; more < 2; more++) {
        snprintf(text, sizeof text, "%lld", (long long)piece + more);
        expect_code(RUN("plan", "--threads", "2", "--budget", "200MiB", "--batch", text, "--accumulate", "4"),
                    more);
    }
}

static void sizes_are_understood(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        long long bytes;
    } sizes[] = {
        {"24GiB", 24LL << 30},      {"24G", 24LL << 30},   {"24g", 24LL << 30}, {"24gib", 24LL << 30},
        {"24gb", 24000000000},      {"24GB", 24000000000}, {"24kB", 24000},     {"1.5k", 1536},
        {"1TiB", 1LL << 40},        {"2M", 2 << 20},       {"8192B", 8192},     {"8192", 8192},
        {"25769803776", 24LL << 30}};
    const char *images = make_images("images");
    for (size_t i = 0; i < COUNT(sizes); i++) {
        json_t *root = parse(RUN("fit", "--json", "--model", "mlp", "--data", images, "--max-samples", "1",
                                 "--reserve", "0", "--memory", sizes[i].text)
                                 ->out);
        const json_t *card = json_array_get(json_object_get(root, "cards"), 0);
        assert_int_equal(integer_at(card, "bytes"), sizes[i].bytes);
        json_decref(root);
    }
    static const char *const unclear[] = {"24", "1", "23.5"};
    for (size_t i = 0; i < COUNT(unclear); i++) {
        char wanted[64];
        Outcome *o = expect_code(RUN("plan", "--budget", unclear[i]), 2);
        snprintf(wanted, sizeof wanted, "did you mean %sGiB?", unclear[i]);
        assert_non_null(strstr(o->err, wanted));
    }
    static const char *const refused[] = {"24 gigs", "24Gb", "2Mib", "24Q", "24GiBs", "24iB",
                                          "",        "G",    "-24G", "nan", "infG"};
    for (size_t i = 0; i < COUNT(refused); i++)
        expect_code(RUN("plan", "--budget", refused[i]), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cards_are_filled_to_the_brim),
        cmocka_unit_test(bounds_are_those_at_the_length_found),
        cmocka_unit_test(bounds_do_not_depend_on_what_was_asked),
        cmocka_unit_test(the_verdict_comes_first),
        cmocka_unit_test(the_smallest_card_takes_it),
        cmocka_unit_test(tables),
        cmocka_unit_test(nothing_is_said_of_nothing),
        cmocka_unit_test(pieces_of_a_batch),
        cmocka_unit_test(sizes_are_understood),
    };
    return cmocka_run_group_tests_name("fit", tests, make_folder, remove_folder);
}
