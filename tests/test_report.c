/* The tables: sizes as text, columns that stand under their headings, sums that are sums, and steps as lines.
 */
#include <math.h>

#include "plan_support.h"

static void sizes(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } rows[] = {
        {0, "0 B"},
        {1, "1 B"},
        {10239, "10239 B"},
        {10240, "10.0 KiB"},
        {512 * 1024, "512.0 KiB"},
        {1024 * 1024, "1.0 MiB"},
        {195559424, "186.5 MiB"},
        {UINT64_C(1) << 30, "1.00 GiB"},
        {UINT64_C(80) << 30, "80.00 GiB"},
        {(UINT64_C(80) << 30) + (UINT64_C(1) << 29), "80.50 GiB"},
        {UINT64_C(6496053641344), "5.91 TiB"},
        {UINT64_C(1023) << 30, "1023.00 GiB"},
        {UINT64_C(1) << 40, "1.00 TiB"},
        {UINT64_MAX, "16777216.00 TiB"},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        assert_string_equal(report_size(rows[i].bytes).text, rows[i].text);
}

/* Just below a unit, a size must not round to 1024 of the smaller one. */
static void sizes_round_into_the_next_unit(void **state)
{
    (void)state;
    assert_string_equal(report_size(1024 * 1024 - 1).text, "1.0 MiB");
    assert_string_equal(report_size((1u << 30) - 1).text, "1.00 GiB");
    assert_string_equal(report_size((1u << 30) - (1u << 20)).text, "1023.0 MiB");
    assert_string_equal(report_size((UINT64_C(1) << 40) - 1).text, "1.00 TiB");
}

/* Numbers of a table stand in one unit, which leaves its largest at most five digits before the point. */
static void units_of_tables(void **state)
{
    (void)state;
    static const struct {
        uint64_t largest;
        const char *name;
        int decimals;
    } rows[] = {{0, "KiB", 2},
                {65535, "KiB", 2},
                {65536, "MiB", 2},
                {(10 << 20) - 1, "MiB", 2},
                {10 << 20, "MiB", 1},
                {(UINT64_C(10) << 30) - 1, "MiB", 1},
                {UINT64_C(10) << 30, "GiB", 2},
                {(UINT64_C(10) << 40) - 1, "GiB", 2},
                {UINT64_C(10) << 40, "TiB", 2},
                {UINT64_MAX, "TiB", 2}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        ReportUnit unit = report_unit(rows[i].largest);
        assert_string_equal(unit.name, rows[i].name);
        assert_int_equal(unit.decimals, rows[i].decimals);
        assert_true(unit.smallest == (unit.decimals == 1 ? 0.1 : 0.01));
        if (rows[i].largest < UINT64_MAX)
            assert_true((double)rows[i].largest / unit.bytes < 10240);
    }
}

static void counts(void **state)
{
    (void)state;
    static const struct {
        int64_t n;
        const char *text;
    } rows[] = {
        {0, "0"},
        {7, "7"},
        {999, "999"},
        {1000, "1,000"},
        {-1, "-1"},
        {-999, "-999"},
        {-1000, "-1,000"},
        {-123456, "-123,456"},
        {12345, "12,345"},
        {6123168, "6,123,168"},
        {405853388800, "405,853,388,800"},
        {INT64_MAX, "9,223,372,036,854,775,807"},
        {INT64_MIN, "-9,223,372,036,854,775,808"},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        assert_string_equal(report_count(rows[i].n).text, rows[i].text);
    static const struct {
        double rate;
        const char *text;
    } rates[] = {{0, "0"},      {0.004, "0.00"}, {0.853, "0.85"}, {0.996, "1.0"},
                 {3.44, "3.4"}, {9.96, "10"},    {12.7, "13"},    {4600, "4,600"}};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        assert_string_equal(report_rate(rates[i].rate).text, rates[i].text);
}

static void groups_are_sums_of_components(void **state)
{
    (void)state;
    uint64_t by[MEM_COMPONENT_COUNT], sum = 0;
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        by[i] = UINT64_C(1) << i;
    for (int g = 0; g < MEM_GROUP_COUNT; g++)
        sum += report_group(by, (MemGroup)g);
    assert_int_equal(sum, (UINT64_C(1) << MEM_COMPONENT_COUNT) - 1);
    assert_int_equal(report_group(by, MEM_GROUP_PARAMETERS),
                     by[MEM_PARAMETER] | by[MEM_FROZEN] | by[MEM_MASTER] | by[MEM_GATHERED]);
    assert_int_equal(report_group(by, MEM_GROUP_GRADIENTS), by[MEM_GRADIENT]);
    assert_int_equal(report_group(by, MEM_GROUP_OPTIMIZER_STATES), by[MEM_OPTIMIZER]);
    assert_int_equal(report_group(by, MEM_GROUP_ACTIVATIONS), by[MEM_ACTIVATION]);
}

/* ---- Tables ---------------------------------------------------------------------------------- */

/* A text's lines; the tables have few. */
typedef struct Lines {
    char *text, *line[64];
    int count;
} Lines;

static Lines lines_of(char *text)
{
    Lines lines = {.text = text};
    for (char *save = NULL, *at = strtok_r(text, "\n", &save); at && lines.count < 64;
         at = strtok_r(NULL, "\n", &save))
        lines.line[lines.count++] = at;
    return lines;
}

static Lines table(const MemSummary *planned, const MemSummary *measured)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    report_table(out, planned, measured);
    fclose(out);
    return lines_of(text);
}

/* Of a training small or large, by its books: on meta, so no memory is needed. */
static MemSummary summary_of(int width, int frozen)
{
    Visit here = visit(&(ContextOptions){.meta = 1, .threads = 1});
    int scope = tensor_scope_begin();
    Module *model = nn_mlp(&(MlpConfig){.sizes = {width, 2 * width, width, 10}});
    if (frozen)
        tensor_set_requires_grad(nn_parameters(model).items[0], 0);
    Optimizer *optimizer = optim_adamw(nn_parameters(model), NULL);
    for (int step = 0; step < 2; step++) {
        int inner = tensor_scope_begin();
        Batch batch = {.features = tensor_new(DTYPE_F32, SHAPE(width, width), MEM_INPUT),
                       .labels = tensor_new(DTYPE_I32, SHAPE(width), MEM_INPUT)};
        tensor_backward(nn_loss(model, &batch));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(inner);
    }
    assert_fine();
    tensor_scope_end(scope);
    MemSummary summary;
    report_summary(context_ledger(context_current()), &summary);
    leave(here);
    return summary;
}

static void summary_outlives_its_ledger(void **state)
{
    (void)state;
    MemSummary s = summary_of(64, 0);
    assert_true(s.stats.peak > 0);
    assert_int_equal(sum_by_component(s.stats.at_peak), s.stats.peak);
    assert_null(s.stats.peak_at.op);
    assert_true(strlen(s.peak_path) > 0 && strlen(s.peak_op) > 0);
    assert_true(s.host_peak > 0);
    assert_int_equal(s.reserved, 0);
}

static void unaccounted_is_signed(void **state)
{
    (void)state;
    MemSummary s = {.reserved = 1000, .host_peak = 10, .process_peak = 1500, .stats.peak = 900};
    assert_int_equal(report_unaccounted(&s), 490);
    s.process_peak = 700;
    assert_int_equal(report_unaccounted(&s), -310);
    s.reserved = 0; /* of malloc'ed blocks what was live at once */
    assert_int_equal(report_unaccounted(&s), -210);
}

static const char *group_label(const char *line)
{
    static const char *const labels[] = {"parameters ", "gradients ", "optimizer states ", "activations ",
                                         "overhead "};
    for (size_t i = 0; i < COUNT(labels); i++)
        if (!strncmp(line, labels[i], strlen(labels[i])))
            return labels[i];
    return NULL;
}

/* Column ends, from the headings: each number ends where its heading does. */
static int heading_end(const char *line, int column)
{
    static const char *const headings[] = {"planned", "measured", "own peak"};
    const char *at = strstr(line, headings[column]);
    return at ? (int)(at - line) + (int)strlen(headings[column]) : 0;
}

/* The number that ends at `end`, and that nothing but spaces stands before in its column. */
static double number_ending_at(const char *line, int end)
{
    if ((int)strlen(line) < end || line[end - 1] < '0' || line[end - 1] > '9')
        fail_msg("no number ends at column %d of '%s'", end, line);
    assert_true(line[end] == '\0' || line[end] == ' ');
    int start = end;
    while (start > 0 && strchr("0123456789.", line[start - 1]))
        start--;
    assert_int_equal(line[start - 1], ' ');
    return strtod(line + start, NULL);
}

/* Groups sum to the peak, components to their group, up to rounding; every number stands under its heading.
 */
static void check_column(const Lines *t, int end, double half_unit)
{
    double groups = 0, components = 0, group = 0, peak = -1;
    int members = 0;
    for (int i = 2; i < t->count; i++) {
        const char *line = t->line[i];
        int is_group = group_label(line) != NULL, is_peak = !strncmp(line, "peak ", 5),
            is_rule = line[0] == '-';
        if ((is_group || is_rule) && members > 0)
            assert_true(fabs(components - group) <= half_unit * (members + 1));
        if (is_peak) {
            peak = number_ending_at(line, end);
            break;
        }
        if (is_rule)
            continue;
        double value = number_ending_at(line, end);
        if (is_group) {
            groups += group = value;
            components = members = 0;
        } else {
            assert_memory_equal(line, "  ", 2);
            components += value;
            members++;
        }
    }
    assert_true(peak > 0);
    assert_true(fabs(groups - peak) <= half_unit * (MEM_GROUP_COUNT + 1));
}

static void check_widths(const Lines *t, int last_column)
{
    for (int i = 0; i < t->count && strncmp(t->line[i], "peak ", 5); i++) {
        if (t->line[i][0] == '-')
            assert_int_equal(strlen(t->line[i]), last_column);
        assert_true((int)strlen(t->line[i]) <= 79);
        assert_int_not_equal(t->line[i][strlen(t->line[i]) - 1], ' ');
    }
}

static void check_table(const MemSummary *planned, const MemSummary *measured, const char *unit,
                        double half_unit)
{
    Lines t = table(planned, measured);
    assert_true(t.count >= 10);
    assert_int_equal(strncmp(t.line[0], unit, 3), 0);
    assert_true((strstr(t.line[0], "planned") != NULL) == (planned != NULL));
    assert_true((strstr(t.line[0], "measured") != NULL) == (measured != NULL));
    assert_non_null(strstr(t.line[1], "(does not sum)"));
    if (planned)
        check_column(&t, heading_end(t.line[0], 0), half_unit);
    if (measured)
        check_column(&t, heading_end(t.line[0], 1), half_unit);
    int own = heading_end(t.line[0], 2);
    for (int i = 2; t.line[i][0] != '-'; i++)
        if (strncmp(t.line[i], "overhead", 8))
            number_ending_at(t.line[i], own);
    check_widths(&t, own);
    free(t.text);
}

static void tables_align_and_sum(void **state)
{
    (void)state;
    static const struct {
        int width, frozen;
        const char *unit;
        double half_unit;
    } rows[] = {{16, 0, "KiB", 0.005},  {64, 0, "MiB", 0.005},   {300, 1, "MiB", 0.005},
                {2000, 0, "MiB", 0.05}, {12000, 1, "MiB", 0.05}, {30000, 0, "GiB", 0.005}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        MemSummary s = summary_of(rows[i].width, rows[i].frozen);
        check_table(&s, NULL, rows[i].unit, rows[i].half_unit);
        check_table(NULL, &s, rows[i].unit, rows[i].half_unit);
        check_table(&s, &s, rows[i].unit, rows[i].half_unit);
    }
}

static const char *line_with(const Lines *t, const char *start)
{
    for (int i = 0; i < t->count; i++)
        if (!strncmp(t->line[i], start, strlen(start)))
            return t->line[i];
    fail_msg("no line begins with '%s'", start);
    return "";
}

static void the_lines_below_the_table(void **state)
{
    (void)state;
    MemSummary planned = summary_of(300, 0), measured = planned;
    measured.reserved = planned.stats.needs;
    measured.process_peak = planned.stats.needs + planned.host_peak + (5 << 20);
    measured.stats.peak += 128;
    Lines t = table(&planned, &measured);
    char expected[256];
    assert_non_null(strstr(line_with(&t, "peak "), "   128 bytes apart"));
    snprintf(expected, sizeof expected, "Peak at: %s, %s (%s), step %lld",
             memtrack_phase_name(planned.stats.peak_at.phase), planned.peak_path, planned.peak_op,
             (long long)planned.stats.peak_at.step + 1);
    assert_string_equal(line_with(&t, "Peak at: "), expected);
    snprintf(expected, sizeof expected, "Needs %s in one piece (%llu bytes)",
             report_size(planned.stats.needs).text, (unsigned long long)planned.stats.needs);
    assert_non_null(strstr(line_with(&t, "Needs "), expected));
    assert_non_null(strstr(line_with(&t, "Reserved "), "unaccounted 5.0 MiB = process"));
    free(t.text);
    measured.process_peak -= 7 << 20;
    t = table(&planned, &measured);
    assert_non_null(strstr(line_with(&t, "Reserved "), "unaccounted -2.0 MiB = process"));
    free(t.text);
    t = table(&planned, NULL); /* a plan knows no process */
    for (int i = 0; i < t.count; i++)
        assert_null(strstr(t.line[i], "unaccounted"));
    free(t.text);
}

/* Nothing was ever allocated: still a table. */
static void an_empty_table(void **state)
{
    (void)state;
    MemSummary none = {0};
    Lines t = table(&none, &none);
    assert_true(t.count > 5);
    assert_non_null(strstr(line_with(&t, "peak "), "0 bytes apart"));
    free(t.text);
}

/* ---- The textbook's sum ---------------------------------------------------------------------- */

/* Line by line: the sum, the differences with their signs, the peak. All numbers end in one column. */
static void check_textbook(const MemSummary *summary, double half_unit)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    report_textbook(out, summary);
    fclose(out);
    double textbook = 0, peak = 0, sum = 0;
    int terms = 0;
    size_t width = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        double value = strtod(strrchr(line, ' '), NULL);
        assert_true(width == 0 || strlen(line) == width);
        width = strlen(line);
        if (line[0] == ' ') {
            sum += value;
            terms++;
        } else if (!strncmp(line, "textbook P + G + O + A", 22)) {
            textbook = value;
        } else {
            assert_int_equal(strncmp(line, "the true peak", 13), 0);
            peak = value;
        }
    }
    assert_true(terms >= 1 && textbook > 0 && peak > 0);
    if (fabs(textbook + sum - peak) > half_unit * (terms + 2.01))
        fail_msg("%g and terms of %g make %g", textbook, sum, textbook + sum);
    uint64_t total = summary->stats.peak;
    double bytes = total < 64 << 10 ? 0x1p10 : total < 10240ull << 20 ? 0x1p20 : 0x1p30;
    assert_true(fabs(peak - (double)total / bytes) <= 1.01 * half_unit);
    free(text);
}

static void textbook_terms_sum_to_the_peak(void **state)
{
    (void)state;
    static const struct {
        int width;
        double half_unit;
    } rows[] = {{16, 0.005}, {64, 0.005}, {300, 0.005}, {2000, 0.05}, {30000, 0.005}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        MemSummary s = summary_of(rows[i].width, 0);
        check_textbook(&s, rows[i].half_unit);
    }
}

static void a_peak_during_set_up_lacks_states(void **state)
{
    (void)state;
    MemSummary s = {.stats = {.peak = 3 << 20}};
    s.stats.own_peak[MEM_PARAMETER] = s.stats.at_peak[MEM_PARAMETER] = 2 << 20;
    s.stats.own_peak[MEM_OPTIMIZER] = 4 << 20;
    s.stats.own_peak[MEM_GRADIENT] = 2 << 20;
    s.stats.at_peak[MEM_TEMPORARY] = s.stats.own_peak[MEM_TEMPORARY] = 1 << 20;
    check_textbook(&s, 0.005);
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static void a_step_is_a_line(void **state)
{
    (void)state;
    Visit here = visit(&(ContextOptions){.meta = 1, .threads = 1});
    int scope = tensor_scope_begin();
    Tensor *parameter = tensor_parameter(SHAPE(1024, 1024));
    tensor_new(DTYPE_F32, SHAPE(512, 1024), MEM_TEMPORARY);
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    report_step(out, context_ledger(context_current()),
                &(StepLine){.step = 12, .loss = 3.14159, .tokens_per_second = 12345.6});
    fclose(out);
    assert_string_equal(text, "step   12  loss  3.1416  12,346/s | param 4.00 grad 0.00 optim 0.00 activ "
                              "0.00 other 2.00 = 6.00 MiB\n");
    free(text);
    out = open_memstream(&text, &length);
    report_step(out, context_ledger(context_current()),
                &(StepLine){.step = 13, .loss = 3.1, .tokens_per_second = 12345.6, .same_memory = 1});
    fclose(out);
    assert_string_equal(text, "step   13  loss  3.1000  12,346/s\n");
    free(text);
    tensor_free(parameter);
    tensor_scope_end(scope);
    leave(here);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes),
        cmocka_unit_test(sizes_round_into_the_next_unit),
        cmocka_unit_test(units_of_tables),
        cmocka_unit_test(counts),
        cmocka_unit_test(groups_are_sums_of_components),
        cmocka_unit_test(summary_outlives_its_ledger),
        cmocka_unit_test(unaccounted_is_signed),
        cmocka_unit_test(tables_align_and_sum),
        cmocka_unit_test(the_lines_below_the_table),
        cmocka_unit_test(an_empty_table),
        cmocka_unit_test(textbook_terms_sum_to_the_peak),
        cmocka_unit_test(a_peak_during_set_up_lacks_states),
        cmocka_unit_test(a_step_is_a_line),
    };
    return cmocka_run_group_tests_name("report", tests, NULL, NULL);
}
