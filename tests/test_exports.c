/* Exports of a run log, each opened by a real reader: Python's pickle, json and csv (tests/check_exports.py
 * checks every rule of the formats), ms_print for massif. The logs are those of `brim train`. */
#include <ctype.h>

#include <errno.h>

#include "cli_support.h"
#include "runlog_support.h"

static int have(const char *command)
{
    char line[128];
    snprintf(line, sizeof line, "command -v %s >/dev/null 2>&1", command);
    if (system(line) == 0)
        return 1;
    print_message("skipped: there is no %s here\n", command);
    return 0;
}

/* What a shell command prints; it must end well. */
static const char *output_of(const char *format, ...)
{
    static char text[1 << 16];
    char line[1024];
    va_list list;
    va_start(list, format);
    assert_true(vsnprintf(line, sizeof line, format, list) < (int)sizeof line);
    va_end(list);
    FILE *pipe = popen(line, "r");
    assert_non_null(pipe);
    size_t length = fread(text, 1, sizeof text - 1, pipe);
    while (fgetc(pipe) != EOF) {
    }
    text[length] = '\0';
    if (pclose(pipe))
        fail_msg("%s\n%s", line, text);
    return text;
}

/* Where `command` exports one log: one path each. */
static const char *const exports[] = {"run.pickle", "run.trace", "run.csv", "run.events", "run.massif"};

static void export_all(const char *log)
{
    char paths[COUNT(exports)][192];
    for (size_t i = 0; i < COUNT(exports); i++)
        snprintf(paths[i], sizeof paths[i], "%s/%s", folder, exports[i]);
    Outcome *o = expect_code(RUN("report", log, "--torch-snapshot", paths[0], "--trace", paths[1], "--csv",
                                 paths[2], "--jsonl", paths[3], "--massif", paths[4]),
                             0);
    for (size_t i = 0; i < COUNT(exports); i++)
        assert_int_equal(lines_starting(o->out, paths[i]), 1);
}

static void check_python(const char *log, int64_t peak)
{
    if (!have("python3"))
        return;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "ok %lld\n", (long long)peak);
    assert_string_equal(output_of("python3 tests/check_exports.py %s %s/%s %s/%s %s/%s %s/%s 2>&1", log,
                                  folder, exports[0], folder, exports[1], folder, exports[2], folder,
                                  exports[3]),
                        wanted);
}

/* A number with commas, as ms_print writes it, stands on the line of the peak's snapshot. */
static void check_massif(int64_t peak)
{
    if (!have("ms_print"))
        return;
    const char *text = output_of("ms_print %s/%s 2>&1", folder, exports[4]);
    assert_non_null(strstr(text, "(peak)"));
    char number[64], needle[96];
    snprintf(number, sizeof number, "%s", report_count(peak).text);
    snprintf(needle, sizeof needle, "%16s ", number);
    if (!strstr(text, needle))
        fail_msg("no snapshot of %s bytes:\n%s", number, text);
    assert_non_null(strstr(text, "parameter (component)"));
    assert_null(strstr(text, "unknown"));
}

/* ---- Runs of the command --------------------------------------------------------------------- */

static json_t *first_line(const char *log)
{
    size_t length;
    char *text = file_text(log, &length);
    text[strcspn(text, "\n")] = '\0';
    json_t *line = parse(text);
    free(text);
    return line;
}

#define TRAIN "train", "--quiet", "--threads", "1", "--steps", "5", "--log"

static void check_run(const char *log)
{
    json_t *run = first_line(log);
    json_int_t peak = integer_at(json_object_get(run, "plan"), "peak_bytes");
    json_decref(run);
    export_all(log);
    check_python(log, peak);
    check_massif(peak);
}

static void every_export_of_a_run(void **state)
{
    (void)state;
    const char *log = in_folder("llama.jsonl"), *text = make_text("text", 40 * 16 + 1);
    expect_code(RUN(TRAIN, log, "--data", text, "--batch", "2", "--seq", "16"), 0);
    check_run(log);
}

/* Recomputation, accumulation, and a validation between the first two steps. */
static void every_export_of_another(void **state)
{
    (void)state;
    const char *log = in_folder("gpt2.jsonl"), *text = make_text("text", 40 * 16 + 1);
    expect_code(RUN(TRAIN, log, "--model", "gpt2-tiny", "--data", text, "--batch", "2", "--accumulate", "3",
                    "--seq", "16", "--checkpoint", "blocks", "--attention", "eager", "--evaluate-every", "1"),
                0);
    check_run(log);
}

static void the_log_of_a_run(void **state)
{
    (void)state;
    const char *log = in_folder("keys.jsonl"), *text = make_text("text", 40 * 16 + 1);
    json_t *result =
        parse(expect_code(RUN(TRAIN, log, "--json", "--data", text, "--batch", "2", "--seq", "16"), 0)->out);
    json_t *run = first_line(log);
    assert_keys(run,
                "kind format brim model family parameters command kernels options plan components phases groups");
    check_memory(json_object_get(run, "plan"), 0, 0);
    assert_string_equal(json_string_value(json_array_get(json_object_get(run, "command"), 0)), "train");
    char why[WHY];
    RunRecord record;
    assert_int_equal(report_run_read(log, &record, why, sizeof why), 0);
    check_record(&record);
    assert_true(record.step_count == 5 && record.validation_count == 1 && record.events_complete);
    assert_int_equal(record.notes.count, 0);
    assert_int_equal(record.end.memory.peak_bytes,
                     integer_at(json_object_get(result, "memory"), "peak_bytes"));
    assert_true(record.end.memory.process_peak > 0 &&
                record.end.planned.peak_bytes == record.plan.peak_bytes);
    assert_int_equal(record.peak_live, record.plan.peak_bytes);
    assert_int_equal(record.reserved, record.plan.needs_bytes);
    assert_true(record.events[0].serial == 1 && record.events[0].live == record.events[0].bytes);
    assert_float_equal(record.steps[0].lr, 2e-3, 1e-8);   /* a llama's usual */
    assert_true(record.steps[4].lr < record.steps[0].lr); /* cosine */
    for (size_t i = 0; i < record.step_count; i++) {
        uint64_t sum = 0;
        assert_true(record.steps[i].seconds > 0 && record.steps[i].tokens == 32);
        for (int c = 0; c < MEM_COMPONENT_COUNT; c++)
            sum += record.steps[i].at_peak[c];
        assert_int_equal(sum, record.steps[i].peak_bytes);
    }
    report_run_free(&record);
    json_decref(run);
    json_decref(result);
}

static void three_thousand_steps(void **state)
{
    (void)state;
    size_t length;
    char log[192];
    snprintf(log, sizeof log, "%s", in_folder("mlp.jsonl")); /* make_images needs the other paths */
    const char *data = make_images("images");
    expect_code(RUN("train", "--quiet", "--threads", "1", "--model", "mlp", "--data", data, "--batch", "1",
                    "--optimizer", "sgd", "--steps", "3000", "--log", log),
                0);
    free(file_text(log, &length));
    assert_true(length < 3000 * 520 + 20000); /* 453 to 500 bytes a step, and two steps' events */
    Outcome *o = expect_code(RUN("report", log), 0);
    assert_non_null(strstr(o->out, "3000 steps of 3000"));
}

/* ---- The summary ----------------------------------------------------------------------------- */

/* The number that ends the line which begins with `label`, without its commas. */
static uint64_t row_number(const char *text, const char *label)
{
    char start[64];
    snprintf(start, sizeof start, "\n%s", label);
    const char *row = strstr(text, start);
    if (!row)
        fail_msg("no row \"%s\" in:\n%s", label, text);
    const char *end = strchr(row + 1, '\n'), *at = end;
    while (at > row && (isdigit((unsigned char)at[-1]) || at[-1] == ','))
        at--;
    uint64_t number = 0;
    for (; at < end; at++)
        number = *at == ',' ? number : 10 * number + (uint64_t)(*at - '0');
    return number;
}

static void check_pytorch_rows(const char *text)
{
    uint64_t requested = row_number(text, "requested"), rounded = row_number(text, "rounded");
    uint64_t reserved = row_number(text, "reserved"), peak = row_number(text, "peak  ");
    assert_true(requested <= peak && requested + 4096 > peak); /* ours rounds to 64 bytes */
    assert_true(rounded >= requested && rounded % 512 == 0);
    assert_true(reserved >= rounded && reserved % (2 << 20) == 0);
}

static void the_summary(void **state)
{
    (void)state;
    const char *log = in_folder("summary.jsonl"), *text = make_text("text", 40 * 16 + 1);
    expect_code(RUN(TRAIN, log, "--data", text, "--batch", "2", "--seq", "16"), 0);
    Outcome *o = expect_code(RUN("report", log), 0);
    static const char *const words[] = {"llama-tiny  6,123,168 parameters  adamw  batch 2 x seq 16",
                                        "5 steps of 5",
                                        "loss 5.",
                                        "held out ",
                                        "bytes at peak",
                                        "optimizer_states",
                                        "peak at: step 1, ",
                                        "to the end of step 2"};
    for (size_t i = 0; i < COUNT(words); i++)
        if (!strstr(o->out, words[i]))
            fail_msg("no \"%s\" in:\n%s", words[i], o->out);
    check_pytorch_rows(o->out);
    assert_null(strstr(o->out, "Note"));

    size_t length;
    char *whole = file_text(log, &length);
    const char *cut = make_file("summary-cut.jsonl", whole, length / 2);
    free(whole);
    o = expect_code(RUN("report", cut, log), 0);
    assert_non_null(strstr(o->out, "Note on A: The log breaks off before the first step was over"));
    assert_non_null(strstr(o->out, "Note on A: Its last line is cut off."));
    assert_int_equal(lines_starting(o->out, "A  llama-tiny") + lines_starting(o->out, "B  llama-tiny"), 2);
}

static void bad_usage(void **state)
{
    (void)state;
    const char *log = in_folder("usage.jsonl");
    write_run(log, 2, 0);
    static const struct {
        const char *arguments[4], *words;
        int code;
    } rows[] = {
        {{NULL}, "which log?", 2},
        {{"--trace"}, "--trace needs a file", 2},
        {{"LOG", "--csv"}, "--csv needs a file", 2},
        {{"LOG", "--cvs", "x"}, "unknown output '--cvs'", 2},
        {{"LOG", "LOG", "LOG"}, "one log too many", 2},
        {{"LOG", "LOG", "--csv=/dev/null"}, "which show one run", 2},
        {{"LOG", "--csv", "LOG"}, "would be written over the log", 2},
        {{"/no/such/log"}, "No such file", 1},
        {{"/dev/null"}, "is empty", 1},
        {{"LOG", "--csv", "/no/such/folder/x"}, "cannot create /no/such/folder/x: No such file", 1},
        {{"LOG", "--csv", "/dev/full"}, "cannot write /dev/full: No space left", 1},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *arguments[8] = {"brim", "report"};
        for (size_t k = 0; k < 4 && rows[i].arguments[k]; k++)
            arguments[2 + k] = strcmp(rows[i].arguments[k], "LOG") ? rows[i].arguments[k] : log;
        Outcome *o = expect_code(run_command(arguments), rows[i].code);
        if (!strstr(o->err, rows[i].words))
            fail_msg("no \"%s\" in: %s", rows[i].words, o->err);
    }
    assert_non_null(strstr(expect_code(RUN("report", "--help"), 0)->out, "--torch-snapshot"));
    assert_non_null(strstr(expect_code(RUN("help"), 0)->out, "  report "));
}

/* ---- A log by hand --------------------------------------------------------------------------- */

/* Names that each format must quote, a re-tag, blocks at both ends, and one that is live at the end. */
static void names_are_quoted(void **state)
{
    (void)state;
    const char *log = in_folder("names.jsonl");
    write_run(log, 3, 0);
    export_all(log);
    check_python(log, PEAK);
    check_massif(PEAK);
}

static void exports_of_damaged_logs(void **state)
{
    (void)state;
    /* No events; a component beyond the table; blocks over each other, live to the end. */
    static const char *const rows[] = {"", "[0,1,0,77,99,99,5,5,1,0,0,64,60]",
                                       "[0,1,0,0,0,0,0,0,1,0,0,128,128],[0,2,0,0,0,0,0,0,2,64,0,128,128]"};
    size_t length;
    const char *whole = in_folder("damaged-whole.jsonl"), *path = in_folder("damaged.jsonl");
    write_run(whole, 0, 0);
    char *text = file_text(whole, &length);
    int first = (int)strcspn(text, "\n");
    for (size_t i = 0; i < COUNT(rows); i++) {
        char joined[4096], why[WHY];
        RunRecord run;
        snprintf(joined, sizeof joined,
                 "%.*s\n{\"kind\":\"events\",\"columns\":[\"kind\",\"time_us\",\"step\",\"phase\","
                 "\"component\",\"from\","
                 "\"place\",\"op\",\"serial\",\"offset\",\"end\",\"bytes\",\"requested\"],\"rows\":[%s]}\n",
                 first, text, rows[i]);
        write_file(path, joined, strlen(joined));
        assert_int_equal(report_run_read(path, &run, why, sizeof why), 0);
        static int (*const all[])(const RunRecord *, FILE *) = {report_torch_snapshot, report_chrome_trace,
                                                                report_massif, report_events_csv,
                                                                report_events_jsonl};
        for (size_t k = 0; k < COUNT(all); k++) {
            FILE *file = fopen(in_folder(exports[k]), "wb");
            assert_int_equal(all[k](&run, file), 0);
            assert_int_equal(fclose(file), 0);
        }
        report_run_free(&run);
        if (have("python3"))
            output_of("python3 -c \"import pickle, json\njson.load(open('%s/%s'))\n"
                      "(s,) = pickle.load(open('%s/%s', 'rb'))['segments']\nat = s['address']\n"
                      "for b in s['blocks']:\n    assert b['address'] == at and b['size'] > 0\n    at += "
                      "b['size']\n"
                      "assert at == s['address'] + s['total_size']\" 2>&1",
                      folder, exports[1], folder, exports[0]);
        if (have("ms_print"))
            output_of("ms_print %s/%s 2>&1", folder, exports[2]);
    }
    free(text);
}

static void exports_that_fail(void **state)
{
    (void)state;
    static int (*const all[])(const RunRecord *, FILE *) = {
        report_torch_snapshot, report_chrome_trace, report_massif, report_events_csv, report_events_jsonl};
    const char *log = in_folder("fails.jsonl");
    char why[WHY];
    RunRecord run;
    write_run(log, 2, 0);
    assert_int_equal(report_run_read(log, &run, why, sizeof why), 0);
    uint64_t live = memtrack_process_live();
    for (size_t k = 0; k < COUNT(all); k++) {
        FILE *full = fopen("/dev/full", "wb");
        assert_int_equal(all[k](&run, full), -1);
        assert_int_equal(errno, ENOSPC);
        fclose(full);
        int through = 0;
        for (uint64_t n = 1; !through; n++) {
            FILE *file = fopen("/dev/null", "wb");
            memtrack_fail_nth(n);
            int status = all[k](&run, file);
            through = memtrack_fail_pending();
            memtrack_fail_nth(0);
            assert_int_equal(status, through ? 0 : -1);
            if (status)
                assert_int_equal(errno, ENOMEM);
            assert_int_equal(memtrack_process_live(), live);
            fclose(file);
        }
    }
    report_run_free(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_export_of_a_run), cmocka_unit_test(every_export_of_another),
        cmocka_unit_test(the_log_of_a_run),      cmocka_unit_test(three_thousand_steps),
        cmocka_unit_test(the_summary),           cmocka_unit_test(bad_usage),
        cmocka_unit_test(names_are_quoted),      cmocka_unit_test(exports_of_damaged_logs),
        cmocka_unit_test(exports_that_fail),
    };
    return cmocka_run_group_tests_name("exports of run logs", tests, make_folder, remove_folder);
}
