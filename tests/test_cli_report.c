/* brim report on real logs: what is lost or of another run is said, whatever the output; two logs are
 * compared; outputs say where they went. */
#include "cli_support.h"

enum { LINES = 64, PATH = 96 };

static char lost_path[PATH], out_path[PATH], page_path[PATH], both_path[PATH]; /* in the folder */

static char *file_text(const char *path, size_t *length)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *length = (size_t)ftell(file);
    char *text = calloc(*length + 1, 1);
    rewind(file);
    assert_int_equal(fread(text, 1, *length, file), *length);
    fclose(file);
    return text;
}

/* A log in lines. */
typedef struct Log {
    char *text, *lines[LINES];
    int count;
} Log;

static char logs[3][96]; /* plain, with blocks, of another model */

static int train_all(void **state)
{
    static const char *const names[] = {"plain.jsonl", "blocks.jsonl", "gpt2.jsonl"};
    if (make_folder(state))
        return -1;
    for (int i = 0; i < 3; i++)
        snprintf(logs[i], PATH, "%s", in_folder(names[i]));
    snprintf(lost_path, PATH, "%s", in_folder("lost.jsonl"));
    snprintf(both_path, PATH, "%s", in_folder("both.jsonl"));
    snprintf(page_path, PATH, "%s", in_folder("page.html"));
    snprintf(out_path, PATH, "%s", in_folder("out"));
#define SMALL "train", "--quiet", "--seq", "16", "--max-samples", "16", "--threads", "1", "--steps", "6"
    expect_code(RUN(SMALL, "--batch", "2", "--log", logs[0]), 0);
    expect_code(RUN(SMALL, "--batch", "2", "--checkpoint", "blocks", "--log", logs[1]), 0);
    expect_code(RUN(SMALL, "--batch", "1", "--model", "gpt2-tiny", "--log", logs[2]), 0);
    return 0;
}

static Log read_log(const char *path)
{
    size_t length;
    Log log = {.text = file_text(path, &length)};
    for (char *at = log.text; *at && log.count < LINES; at = strchr(at, '\n') + 1)
        log.lines[log.count++] = at;
    assert_true(log.count > 10 && log.count < LINES);
    return log;
}

static int length_of(const char *line)
{
    return (int)strcspn(line, "\n") + 1;
}

static const char *kind_of(const char *line)
{
    static char kind[32];
    assert_int_equal(sscanf(line, "{\"kind\":\"%31[a-z_]\"", kind), 1);
    return kind;
}

/* All lines but those from..to-1, into a file. With `uncounted` the end does not say how many there were,
 * like one of brim 0.1.0. */
static const char *write_without(const Log *log, int from, int to, int uncounted)
{
    FILE *file = fopen(lost_path, "w");
    for (int i = 0; i < log->count; i++) {
        const char *line = log->lines[i], *count = strstr(line, "\"lines\":");
        int whole = length_of(line), before = whole, after = whole;
        if (uncounted && count && count < line + whole) {
            before = (int)(count - line);
            after = before + (int)strcspn(count, ",") + 1;
        }
        if (i >= from && i < to)
            continue;
        fprintf(file, "%.*s%.*s", before, line, whole - after, line + after);
    }
    fclose(file);
    return lost_path;
}

static void a_whole_log_has_no_notes(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        Outcome *o = expect_code(RUN("report", logs[i]), 0);
        assert_int_equal(lines_starting(o->out, "Note"), 0);
        assert_non_null(strstr(o->out, "\n6 steps of 6, "));
        assert_non_null(strstr(o->out, " s; validation "));
        assert_string_equal(o->err, "");
    }
    Log log = read_log(logs[0]); /* nor one that did not count its lines */
    assert_int_equal(lines_starting(expect_code(RUN("report", write_without(&log, 0, 0, 1)), 0)->out, "Note"),
                     0);
    free(log.text);
}

/* Each line in turn, and each two, are lost: the rest is shown, and that something is missing. */
static void a_lost_line_is_said(void **state)
{
    (void)state;
    Log log = read_log(logs[0]);
    for (int i = 1; i < log.count; i++)
        for (int two = 1; two <= 2; two++) {
            Outcome *o = expect_code(RUN("report", write_without(&log, i, i + two, 0)), 0);
            if (lines_starting(o->out, "Note: ") < 1)
                fail_msg("nothing is said of line %d, of %s\n%s", i + 1, kind_of(log.lines[i]), o->out);
            assert_true(strstr(o->out, "Lines are missing") || strstr(o->out, "breaks off"));
            assert_non_null(strstr(o->out, "\npeak "));
        }
    free(log.text);
}

/* In a log that did not count its lines too, where anything else in it tells. */
static void a_lost_line_is_inferred(void **state)
{
    (void)state;
    static const char *const silent[] = {"outline", "validation"}; /* what no other line speaks of */
    Log log = read_log(logs[0]);
    for (int i = 1; i < log.count; i++) {
        const char *kind = kind_of(log.lines[i]);
        Outcome *o = expect_code(RUN("report", write_without(&log, i, i + 1, 1)), 0);
        int said = lines_starting(o->out, "Note: ") > 0;
        if (said == (!strcmp(kind, silent[0]) || !strcmp(kind, silent[1])))
            fail_msg("line %d, of %s: %s", i + 1, kind, o->out);
        if (!strcmp(kind, "step"))
            assert_non_null(strstr(o->out, "The end says 6 steps, and the log has lines of 5: 1 are missing."));
    }
    free(log.text);
}

/* Every output says so: the page in itself, the others beside them. */
static void outputs_say_what_is_lost(void **state)
{
    (void)state;
    static const char *const outputs[] = {"--torch-snapshot", "--trace", "--massif", "--csv", "--jsonl"};
    Log log = read_log(logs[0]);
    for (int i = 1; i < log.count; i++) {
        const char *lost = write_without(&log, i, i + 1, 0);
        expect_code(RUN("report", lost, "--html", page_path), 0);
        size_t length;
        char *text = file_text(page_path, &length);
        assert_null(strstr(text, "\"notes\":[]"));
        free(text);
        Outcome *o = RUN("report", lost, outputs[i % 5], out_path);
        assert_int_equal(o->code, 0);
        assert_non_null(strstr(o->err, "brim: note: "));
    }
    expect_code(RUN("report", logs[0], "--html", page_path), 0);
    size_t length;
    char *text = file_text(page_path, &length);
    assert_non_null(strstr(text, "\"notes\":[]"));
    free(text);
    free(log.text);
}

/* Two runs in a file: the first is shown as it is alone, and where the other begins. */
static void two_runs_in_a_log(void **state)
{
    (void)state;
    Log a = read_log(logs[0]), b = read_log(logs[2]);
    FILE *file = fopen(both_path, "w");
    fprintf(file, "%s%s", a.text, b.text);
    fclose(file);
    char *alone = strdup(expect_code(RUN("report", logs[0]), 0)->out), words[96];
    Outcome *o = expect_code(RUN("report", both_path), 0);
    snprintf(words, sizeof words, "Note: Another run begins in line %d: it is left out; `tail -n +%d`",
             a.count + 1, a.count + 1);
    assert_non_null(strstr(o->out, words));
    assert_string_equal(strstr(o->out, "\n6 steps"), strstr(alone, "\n6 steps"));
    char *texts[2];
    size_t length;
    expect_code(RUN("report", logs[0], "--csv", out_path), 0);
    expect_code(RUN("report", both_path, "--csv", page_path), 0);
    texts[0] = file_text(out_path, &length);
    texts[1] = file_text(page_path, &length);
    assert_string_equal(texts[0], texts[1]);
    expect_code(RUN("report", both_path, "--html", page_path), 0);
    free(texts[1]);
    texts[1] = file_text(page_path, &length);
    assert_non_null(strstr(texts[1], "Another run begins in line"));
    assert_null(strstr(texts[1], "transformer.h.0"));
    free(texts[0]);
    free(texts[1]);
    free(alone);
    free(a.text);
    free(b.text);
}

/* The end of another run; and figures in it that its lines do not show. */
static void an_end_that_says_otherwise(void **state)
{
    (void)state;
    static const struct {
        const char *key, *value, *words;
    } wrong[] = {
        {"\"steps\":", "5", "The end says 5 steps, and the log has lines of 6: they are not of one run."},
        {"\"steps\":", "9", "The end says 9 steps, and the log has lines of 6: 3 are missing."},
        {"\"loss_first\":", "1.5", "The end says a first loss of 1.5, and the first step's line "},
        {"\"loss_last\":", "1.5", "The end says a last loss of 1.5, and the last step's line "},
        {"\"peak_bytes\":", "640", "The end says a peak of 640 bytes, and step "},
        {"\"lines\":", "5", " lines more than the run wrote."}};
    Log a = read_log(logs[0]), b = read_log(logs[2]);
    const char *path = both_path;
    for (size_t i = 0; i < COUNT(wrong); i++) {
        const char *end = a.lines[a.count - 1], *at = strstr(end, wrong[i].key) + strlen(wrong[i].key);
        FILE *file = fopen(path, "w");
        fprintf(file, "%.*s%.*s%s%s", (int)(end - a.text), a.text, (int)(at - end), end, wrong[i].value,
                at + strcspn(at, ",}"));
        fclose(file);
        Outcome *o = expect_code(RUN("report", path), 0);
        if (!strstr(o->out, wrong[i].words))
            fail_msg("'%s' is not said:\n%s", wrong[i].words, o->out);
    }
    FILE *file = fopen(path, "w");
    fprintf(file, "%.*s%s", (int)(a.lines[a.count - 1] - a.text), a.text, b.lines[b.count - 1]);
    fclose(file);
    assert_non_null(strstr(expect_code(RUN("report", path), 0)->out, " were planned, and the first line "));
    free(a.text);
    free(b.text);
}

/* ---- Two logs -------------------------------------------------------------------------------- */

static void two_logs_are_compared(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("report", logs[0], logs[1]), 0);
    static const char *const words[] = {"A  llama-tiny  ",    "B  llama-tiny  ",    "\nB differs from A in\n",
                                        "none -> blocks\n",   "\npeak  ",           "\nneeds, gaps included ",
                                        "\nA peaks at step ", "\nB peaks at step ", "\nloss of step 6 ",
                                        "\nloss, held out ",  "\nstep, median "};
    const char *at = o->out;
    for (size_t i = 0; i < COUNT(words); i++) {
        at = strstr(at, words[i]);
        if (!at)
            fail_msg("no '%s' in its place in\n%s", words[i], o->out);
    }
    assert_null(strstr(o->out, "different models"));
    assert_null(strstr(o->out, " \n")); /* no line ends in spaces */
}

/* A log and itself: nothing differs, and no time. */
static void the_same_log_twice(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("report", logs[0], logs[0]), 0);
    assert_non_null(strstr(o->out, "nothing that the logs name"));
    assert_non_null(strstr(o->out, "about the same\n"));
    assert_null(strstr(o->out, " %\n"));

    /* Nor where an older log does not name an option that is off. */
    size_t length;
    char *text = file_text(logs[0], &length), *option = strstr(text, "\"loss_chunk\":0,");
    assert_non_null(option);
    FILE *file = fopen(out_path, "w");
    fprintf(file, "%.*s%s", (int)(option - text), text, strchr(option, ',') + 1);
    fclose(file);
    free(text);
    assert_non_null(strstr(RUN("report", out_path, logs[0])->out, "nothing that the logs name"));
}

/* Of different models nothing is saved, and no time is longer. */
static void different_models(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("report", logs[0], logs[2]), 0);
    assert_non_null(strstr(o->out, "llama-tiny -> gpt2-tiny\n"));
    assert_non_null(strstr(o->out, "These are different models"));
    assert_null(strstr(o->out, " %\n"));
    expect_code(RUN("report", logs[0], in_folder("absent.jsonl")), 1);
}

static void outputs_say_where_they_went(void **state)
{
    (void)state;
    static const char *const outputs[] = {"--html", "--torch-snapshot", "--trace", "--massif",
                                          "--csv",  "--jsonl"};
    for (size_t i = 0; i < COUNT(outputs); i++) {
        Outcome *o = expect_code(RUN("report", logs[0], outputs[i], out_path), 0);
        assert_int_equal(lines_starting(o->out, out_path), 1);
        assert_non_null(strstr(o->out, "/out is written"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_log_has_no_notes), cmocka_unit_test(a_lost_line_is_said),
        cmocka_unit_test(a_lost_line_is_inferred),  cmocka_unit_test(outputs_say_what_is_lost),
        cmocka_unit_test(two_runs_in_a_log),        cmocka_unit_test(an_end_that_says_otherwise),
        cmocka_unit_test(two_logs_are_compared),    cmocka_unit_test(the_same_log_twice),
        cmocka_unit_test(different_models),         cmocka_unit_test(outputs_say_where_they_went),
    };
    return cmocka_run_group_tests_name("brim report", tests, train_all, remove_folder);
}
