/* What brim says would fit: over models, options and budgets `plan`, `compare`, `--checkpoint auto` and `fit`
 * know the same levers, so none says that nothing fits while another shows what does. */
#include "../report/report.h"
#include "cli_support.h"

enum { MOST_ARGUMENTS = 10, MOST_ROWS = 32 };

typedef struct Asked {
    const char *arguments[MOST_ARGUMENTS];
    int searched; /* --checkpoint auto is asked too */
} Asked;

static const Asked settings[] = {
    {{"--model", "llama-tiny"}, 0},
    {{"--model", "llama-tiny", "--batch", "3", "--optimizer", "sgd"}, 0},
    {{"--model", "llama-tiny", "--batch", "2", "--accumulate", "2", "--zero-grad", "keep"}, 0},
    {{"--model", "gpt2-tiny", "--batch", "1"}, 1},
    {{"--model", "gpt2-tiny", "--optimizer-in-backward", "--attention", "eager"}, 0},
    {{"--model", "bert-tiny", "--batch", "16", "--optimizer", "adam"}, 0},
    {{"--model", "gpt2"}, 0},
    {{"--model", "gpt2", "--batch", "8", "--checkpoint", "2"}, 0},
    {{"--model", "llama-3.2-1b"}, 0},
    {{"--model", "llama-3.2-1b", "--batch", "4", "--loss-chunk", "64", "--checkpoint", "selective"}, 0},
    {{"--model", "qwen2-7b"}, 0},
};

static Outcome *run_with(const char *command, const Asked *s, const char *const more[6])
{
    const char *arguments[MOST_ARGUMENTS + 12] = {"brim", command, "--threads", "2"};
    int count = 4;
    for (int i = 0; i < MOST_ARGUMENTS && s->arguments[i]; i++)
        arguments[count++] = s->arguments[i];
    for (int i = 0; i < 6 && more[i]; i++)
        arguments[count++] = more[i];
    return run_command(arguments);
}

#define WITH(command, setting, ...) run_with(command, setting, (const char *const[6]){__VA_ARGS__})

/* The rows: what they need, and what to type; the first is the setting as it is. */
typedef struct Rows {
    int count;
    uint64_t needs[MOST_ROWS], least;
    char flags[MOST_ROWS][160];
    int least_row;
} Rows;

/* Of compare, which plans each once. */
static void find_rows(const Asked *s, Rows *rows)
{
    json_t *root = parse(expect_code(WITH("compare", s, "--json"), 0)->out), *row;
    size_t i;
    *rows = (Rows){.least = UINT64_MAX};
    json_array_foreach(json_object_get(root, "variants"), i, row)
    {
        const char *flags = json_string_value(json_object_get(row, "variant"));
        assert_true(i < MOST_ROWS);
        snprintf(rows->flags[i], sizeof rows->flags[i], "%s", i ? flags : "");
        rows->needs[i] = (uint64_t)integer_at(json_object_get(row, "memory"), "needs_bytes");
        if (rows->needs[i] < rows->least) {
            rows->least = rows->needs[i];
            rows->least_row = (int)i;
        }
        if (!i)
            assert_string_equal(flags, "as is");
    }
    rows->count = (int)i;
    assert_true(rows->count > 4);
    json_decref(root);
}

static int fitting(const Rows *rows, uint64_t budget)
{
    int count = 0;
    for (int i = 0; i < rows->count; i++)
        count += rows->needs[i] <= budget;
    return count;
}

static void compare_marks(const Asked *s, const Rows *rows, const char *budget, uint64_t bytes)
{
    Outcome *o = expect_code(WITH("compare", s, "--json", "--budget", budget), rows->least > bytes);
    json_t *root = parse(o->out), *row;
    size_t i;
    int count = 0;
    json_array_foreach(json_object_get(root, "variants"), i, row)
    {
        assert_int_equal(json_is_true(json_object_get(row, "fits")), rows->needs[i] <= bytes);
        count += json_is_true(json_object_get(row, "fits"));
    }
    assert_int_equal(count, fitting(rows, bytes));
    json_decref(root);
}

/* The same rows with the same needs; of each size the flags of the best row, "-" for none. The first fits
 * nothing. */
static void fit_knows_the_same(const Asked *s, const Rows *rows, const char *sizes, char best[][160])
{
    Outcome *o = expect_code(WITH("fit", s, "--json", "--reserve", "0", "--memory", sizes), 1);
    json_t *root = parse(o->out), *row, *card;
    size_t i;
    json_array_foreach(json_object_get(root, "methods"), i, row)
    {
        assert_true((int)i < rows->count);
        assert_string_equal(json_string_value(json_object_get(row, "flags")), rows->flags[i]);
        assert_int_equal(integer_at(json_object_get(row, "memory"), "needs_bytes"), rows->needs[i]);
    }
    assert_int_equal(i, rows->count);
    json_array_foreach(json_object_get(root, "cards"), i, card)
    {
        const json_t *flags = json_object_get(card, "best");
        snprintf(best[i], 160, "%s", json_is_string(flags) ? json_string_value(flags) : "-");
    }
    json_decref(root);
}

static void has(const Outcome *o, const char *text)
{
    if (!strstr(o->err, text))
        fail_msg("no \"%s\" in: %s", text, o->err);
}

/* `best`: of fit, NULL where that was not asked. */
static void plan_advises(const Asked *s, const Rows *rows, const char *budget, uint64_t bytes,
                         const char *best)
{
    char wanted[512];
    Outcome *o = expect_code(WITH("plan", s, "--budget", budget), rows->needs[0] > bytes);
    if (!o->code) {
        assert_string_equal(best ? best : "", "");
        return;
    }
    if (rows->least > bytes) {
        assert_string_equal(best ? best : "-", "-");
        snprintf(wanted, sizeof wanted, "the least need is that of\n  %-56s needs %s\n",
                 rows->flags[rows->least_row], report_size(rows->least).text);
        has(o, wanted);
        assert_null(strstr(o->err, "it fits"));
        return;
    }
    snprintf(wanted, sizeof wanted, "With other levers it fits; the least cost comes first:\n  %s",
             best ? best : "");
    has(o, wanted);
    assert_int_equal(lines_starting(o->err, "  "), fitting(rows, bytes));
    assert_null(strstr(o->err, "No levers"));
}

/* Nothing is said not to fit that a row of fit makes fit. */
static void the_search_advises(const Asked *s, const Rows *rows, const char *budget, uint64_t bytes)
{
    Outcome *o = WITH("plan", s, "--checkpoint", "auto", "--budget", budget);
    if (o->code == 0)
        return;
    expect_code(o, 1);
    int none = strstr(o->err, "No levers of `brim fit` make it fit") != NULL;
    if (none ? rows->least <= bytes : !strstr(o->err, "With other levers it fits"))
        fail_msg("least %llu, budget %s: %s", (unsigned long long)rows->least, budget, o->err);
}

static void nobody_says_that_nothing_fits_while_something_does(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(settings); i++) {
        const Asked *s = &settings[i];
        Rows rows;
        find_rows(s, &rows);
        const uint64_t budgets[] = {rows.least - 1, rows.least, (rows.least + rows.needs[0]) / 2,
                                    rows.needs[0] - 1, rows.needs[0]};
        char budget[COUNT(budgets)][24], sizes[96], best[3][160] = {"", "", ""};
        for (size_t k = 0; k < COUNT(budgets); k++)
            snprintf(budget[k], sizeof budget[k], "%llu", (unsigned long long)budgets[k]);
        snprintf(sizes, sizeof sizes, "%s,%s,%s", budget[0], budget[2], budget[4]);
        fit_knows_the_same(s, &rows, sizes, best);
        for (size_t k = 0; k < COUNT(budgets); k++) {
            if (k % 2 == 0)
                compare_marks(s, &rows, budget[k], budgets[k]);
            plan_advises(s, &rows, budget[k], budgets[k], k % 2 == 0 ? best[k / 2] : NULL);
            if (s->searched && k < 2)
                the_search_advises(s, &rows, budget[k], budgets[k]);
        }
    }
}

/* What is refused because of the machine is advised the same; nothing like it fits here. */
static void a_refusal_before_a_run_names_the_least_need(void **state)
{
    (void)state;
    const Asked s = {{"--model", "llama-3.1-405b", "--seq", "512"}, 0};
    Rows rows;
    find_rows(&s, &rows);
    Outcome *o = expect_code(WITH("train", &s, "--steps", "1"), 1);
    has(o, "are free on this machine");
    has(o, report_size(rows.least).text);
    has(o, rows.flags[rows.least_row]);
}

/* Another optimizer is what costs most, then operations, then what there is to type. */
static void the_least_cost_comes_first(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("plan", "--model", "llama-3.2-1b", "--budget", "19GiB"), 1);
    const char *selective = strstr(o->err, "\n  --checkpoint selective "),
               *blocks = strstr(o->err, "\n  --checkpoint blocks "),
               *sgd = strstr(o->err, "\n  --optimizer sgd ");
    assert_true(selective && blocks && sgd && selective < blocks && blocks < sgd);
}

static void has_out(const Outcome *o, const char *text)
{
    if (!strstr(o->out, text))
        fail_msg("no \"%s\" in: %s", text, o->out);
}

static void compare_says_what_the_budget_means(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("compare", "--model", "gpt2", "--budget", "1GiB"), 0);
    has_out(o, " fits  change");
    has_out(o, " rows fit the budget of 1.00 GiB; the least cost is that of: ");
    o = expect_code(RUN("compare", "--model", "gpt2", "--budget", "100MiB"), 1);
    has_out(o, "No row fits the budget of 100.0 MiB; the least need is ");
    o = expect_code(RUN("compare", "--batch", "1,2,4", "--seq", "64", "--budget", "99MiB"), 0);
    has_out(o, "of 3 rows fit the budget of 99.0 MiB.\n");
    /* What does not fit is not run. */
    o = expect_code(RUN("compare", "--batch", "1,4", "--seq", "64", "--budget", "99MiB", "--run", "1",
                        "--max-samples", "4"),
                    0);
    assert_int_equal(lines_starting(o->out, "--batch 4                         not run: it does not fit"), 1);
    o = expect_code(RUN("compare", "--csv", "--batch", "1,4", "--seq", "64", "--budget", "99MiB"), 0);
    has_out(o, ",fits,step_flops,");
    o = expect_code(RUN("compare", "--model", "gpt2-tiny"), 0);
    assert_null(strstr(o->out, "fits"));
}

static double last_growth(const char *text, const char *label, char against[64])
{
    double times = 0;
    against[0] = '\0';
    for (const char *at = strstr(text, "OWN PEAKS"); at && *at; at = strchr(at, '\n') + 1) {
        if (strncmp(at, label, strlen(label)) != 0)
            continue;
        const char *end = strchr(at, '\n'), *x = strstr(at, "x");
        if (x && x < end) {
            times = strtod(x + 1, NULL);
            const char *option = strstr(x, "--");
            if (option && option < end)
                snprintf(against, 64, "%.*s", (int)(end - option), option);
        }
    }
    return times;
}

/* Of several lists growth is against the row that differs in one option, and it is named. */
static void growth_is_against_a_neighbour(void **state)
{
    (void)state;
    char against[64];
    Outcome *o =
        expect_code(RUN("compare", "--batch", "1", "--seq", "1024,2048", "--attention", "flash,eager"), 0);
    double times = last_growth(o->out, "--seq 2048 --attention eager", against);
    assert_true(times > 3.1 && times < 3.2);
    assert_string_equal(against, "--seq 1024");
    times = last_growth(o->out, "--seq 2048 --attention flash", against);
    assert_true(times > 1.99 && times < 2.01);
    last_growth(o->out, "--seq 1024 --attention eager", against);
    assert_string_equal(against, "--attention flash");
    o = expect_code(RUN("compare", "--batch", "1,2,4"), 0); /* one list: all are against its first */
    times = last_growth(o->out, "--batch 4", against);
    assert_true(times > 3.99 && times < 4.01);
    assert_string_equal(against, "");
}

/* At the peak components sum to it; of lists with other batches the effective one is a column. */
static void what_is_at_the_peak_is_shown(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("compare", "--batch", "2,4", "--accumulate", "1,2", "--seq", "64"), 0);
    has_out(o, " effective      peak");
    double peak, sum = 0, part[5], batch;
    const char *row = strstr(o->out, "--batch 4 --accumulate 2"), *at = strstr(o->out, "AT THE PEAK");
    assert_true(row && at && row < at);
    assert_int_equal(sscanf(row, "--batch 4 --accumulate 2 %lf %lf", &batch, &peak), 2);
    assert_true(batch == 8);
    row = strstr(at, "--batch 4 --accumulate 2");
    assert_int_equal(sscanf(row, "--batch 4 --accumulate 2 %lf %lf %lf %lf %lf", &part[0], &part[1], &part[2],
                            &part[3], &part[4]),
                     5);
    for (int i = 0; i < 5; i++)
        sum += part[i];
    assert_true(sum > peak - 0.3 && sum < peak + 0.3);
    o = expect_code(RUN("compare", "--batch", "2,4", "--seq", "64"), 0);
    has_out(o, " effective      peak");
    o = expect_code(RUN("compare", "--seq", "32,64"), 0);
    assert_null(strstr(o->out, "effective"));
}

/* Shares of the peak sum to all of it, and the layer of the peak is marked. */
static void shares_and_the_moment(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("plan", "--model", "bert-base", "--batch", "16", "--seq", "128"), 0);
    static const char *const groups[] = {"\nparameters ", "\ngradients ", "\noptimizer states ",
                                         "\nactivations ", "\noverhead "};
    double sum = 0;
    for (size_t i = 0; i < COUNT(groups); i++) {
        double bytes, share;
        const char *row = strstr(o->out, groups[i]);
        assert_non_null(row);
        assert_int_equal(sscanf(row + strlen(groups[i]), " %lf %lf %%", &bytes, &share), 2);
        sum += share;
    }
    assert_true(sum > 99.7 && sum < 100.3);
    has_out(o, "36.0 %"); /* activations */
    const char *marks = strstr(o->out, "<- the peak's moment");
    assert_non_null(marks);
    assert_null(strstr(marks + 1, "<- the peak's moment"));
    o = expect_code(RUN("plan", "--model", "gpt2"), 0);
    marks = strstr(o->out, "<- the peak's moment");
    assert_non_null(marks);
    while (marks > o->out && marks[-1] != '\n')
        marks--;
    assert_int_equal(strncmp(marks, "lm_head ", 8), 0);
    has_out(o, "The weights of lm_head are tied");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_says_that_nothing_fits_while_something_does),
        cmocka_unit_test(a_refusal_before_a_run_names_the_least_need),
        cmocka_unit_test(the_least_cost_comes_first),
        cmocka_unit_test(compare_says_what_the_budget_means),
        cmocka_unit_test(growth_is_against_a_neighbour),
        cmocka_unit_test(what_is_at_the_peak_is_shown),
        cmocka_unit_test(shares_and_the_moment),
    };
    return cmocka_run_group_tests_name("advice", tests, make_folder, remove_folder);
}
