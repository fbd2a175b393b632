/* Whatever a crash or a stranger makes of a run log, the reader shows what there is or says why it cannot. */
#include <errno.h>
#include <math.h>

#include "runlog_support.h"

/* Reads what there is; 1 when it could be read. Nothing stays behind. */
static int survives(const char *path, RunRecord *run)
{
    char why[WHY];
    if (report_run_read(path, run, why, sizeof why) == 0) {
        check_record(run);
        return 1;
    }
    assert_true(strstr(why, path) != NULL);
    return 0;
}

static void cut_off_at_every_byte(void **state)
{
    (void)state;
    size_t length, steps = 0, events = 0;
    const char *whole = log_path("cut-whole.jsonl"), *cut = log_path("cut.jsonl");
    write_run(whole, 2, 0);
    char *text = file_text(whole, &length);
    uint64_t live = memtrack_process_live();
    size_t first = strcspn(text, "\n");
    for (size_t n = 0; n <= length; n++) {
        RunRecord run;
        write_file(cut, text, n);
        int read = survives(cut, &run);
        assert_int_equal(read, n >= first);
        if (read) {
            assert_true(run.step_count >= steps && run.event_count >= events);
            steps = run.step_count;
            events = run.event_count;
            int whole_line = n == length || text[n] == '\n' || text[n - 1] == '\n';
            assert_int_equal(has_note(&run, "cut off"), !whole_line);
            assert_int_equal(has_note(&run, "breaks off"), n < length - 1);
            report_run_free(&run);
        }
        assert_int_equal(memtrack_process_live(), live);
    }
    assert_true(steps == 2 && events == 2 + 2 * STEP_EVENTS);
    free(text);
}

static void any_byte_may_be_wrong(void **state)
{
    (void)state;
    static const char wrong[] = {'0', '9', '-', '"', ',', ']', '}', '\n', '\0', '\xff', 'e'};
    size_t length, read = 0;
    const char *whole = log_path("wrong-whole.jsonl"), *path = log_path("wrong.jsonl");
    write_run(whole, 2, 0);
    char *text = file_text(whole, &length);
    uint64_t live = memtrack_process_live();
    for (size_t n = 0; n < length; n++) {
        RunRecord run;
        char right = text[n];
        text[n] = wrong[n % sizeof wrong];
        write_file(path, text, length);
        text[n] = right;
        if (survives(path, &run)) {
            read++;
            export_to_nowhere(&run);
            report_run_free(&run);
        }
        assert_int_equal(memtrack_process_live(), live);
    }
    assert_true(read > length / 2);
    free(text);
}

#define COLUMNS_OF_ROWS                                                                                      \
    "{\"kind\":\"events\",\"columns\":[\"kind\",\"time_us\",\"step\",\"phase\",\"component\",\"from\","      \
    "\"place\",\"op\","                                                                                      \
    "\"serial\",\"offset\",\"end\",\"bytes\",\"requested\"],\"rows\":["

/* The first line and one more; how many events come of it, and what is noted. */
static const struct {
    const char *line, *note;
    size_t events;
} strange[] = {
    {"no JSON at all", "Damaged lines left out: 1,", 0},
    {"[1,2,3]", "Damaged lines left out: 1,", 0},
    {"{\"kind\":7}", "Damaged lines left out: 1,", 0},
    {"{\"kind\":\"of a later brim\",\"x\":[{}]}", "no events", 0},
    {"{\"kind\":\"step\",\"step\":-1,\"peak_bytes\":1}", "Damaged lines left out: 1,", 0},
    {"{\"kind\":\"step\",\"step\":1}", "Damaged lines left out: 1,", 0},
    {"{\"kind\":\"places\",\"from\":900000000000,\"names\":[\"x\"]}", "Damaged lines left out: 1,", 0},
    {"{\"kind\":\"places\",\"from\":0,\"names\":[1,null,{}]}", "no events", 0},
    {"{\"kind\":\"ops\",\"from\":0}", "Damaged lines left out: 1,", 0},
    {"{\"kind\":\"outline\",\"live\":[1,-5]}", "Damaged lines left out: 1,", 0},
    {"{\"kind\":\"events\",\"columns\":[\"kind\"],\"rows\":[[0]]}", "Damaged lines left out: 1,", 0},
    {"{\"kind\":\"events\",\"rows\":[]}", "Damaged lines left out: 1,", 0},
    {COLUMNS_OF_ROWS "]}", "no events", 0},
    {COLUMNS_OF_ROWS "[0,1,0,0,0,0,0,0,1,0,0,64,64]]}", "end before", 1},
    {COLUMNS_OF_ROWS "[0,1,0,0,0,0,999999,888888,1,0,0,64,64]]}", "end before", 1}, /* places beyond */
    {COLUMNS_OF_ROWS "[0,1,0,200,250,251,0,0,1,0,0,64,64]]}", "end before", 1},     /* a component beyond */
    {COLUMNS_OF_ROWS "[0,1,0,0,0,0,0,0,1,0,0,64,64],5,[],[0]]}", "Damaged events left out: 3.", 1},
    {COLUMNS_OF_ROWS "[3,1,0,0,0,0,0,0,1,0,0,64,64]]}", "Damaged events left out: 1.",
     0}, /* an unknown kind */
    {COLUMNS_OF_ROWS "[0,1,0,0,0,0,0,0,1,0,2,64,64]]}", "Damaged events left out: 1.",
     0}, /* an unknown end */
    {COLUMNS_OF_ROWS "[0,1,0,0,0,0,0,0,1,0,0,64,65]]}", "Damaged events left out: 1.",
     0}, /* more than there is */
    {COLUMNS_OF_ROWS "[0,1,0,0,0,0,0,0,1,0,0,9007199254740993,1]]}", "Damaged events left out: 1.", 0},
    {COLUMNS_OF_ROWS "[0,1,2147483646,0,0,0,0,0,1,0,0,64,64]]}", "end before", 1},
    {COLUMNS_OF_ROWS "[0,1,2147483647,0,0,0,0,0,1,0,0,64,64]]}", "Damaged events left out: 1.", 0},
    {COLUMNS_OF_ROWS "[0,1.5,0,0,0,0,0,0,1,0,0,64,64]]}", "Damaged events left out: 1.", 0},
    {COLUMNS_OF_ROWS "[0,1,0,0,0,0,0,0,1,0,0,64,1e30]]}", "Damaged events left out: 1.", 0},
    {COLUMNS_OF_ROWS "[0,1,0,0,0,0,0,0,1,0,0,64,99999999999999999999]]}", "Damaged lines left out: 1,", 0},
    {COLUMNS_OF_ROWS "[1,1,0,0,0,0,0,0,1,0,0,64,64]]}", "contradict those before them: 1.", 0},
    {COLUMNS_OF_ROWS "[2,1,0,0,1,0,0,0,9,0,0,64,64]]}", "contradict", 0},
    {COLUMNS_OF_ROWS "[0,1,0,0,0,0,0,0,1,0,0,64,64],[0,1,0,0,0,0,0,0,1,0,0,64,64]]}", "contradict", 1},
    {COLUMNS_OF_ROWS "[0,1,0,0,0,0,0,0,1,0,0,64,64],[1,1,0,0,0,0,0,0,1,0,0,128,64]]}", "contradict", 1},
    {COLUMNS_OF_ROWS "[0,1,0,0,0,0,0,0,1,0,0,9007199254740992,64],[0,1,0,0,0,0,0,0,2,0,0,64,64]]}",
     "contradict", 1},
    {COLUMNS_OF_ROWS
     "[0,1,0,0,0,0,0,0,1,0,0,64,64],[1,1,0,0,0,0,0,0,1,0,0,64,64],[1,1,0,0,0,0,0,0,1,0,0,64,64]]}",
     "contradict", 2},
    {COLUMNS_OF_ROWS "[0,9,0,0,0,0,0,0,1,0,0,64,64],[1,3,0,0,0,0,0,0,1,0,0,64,64]]}", "end before", 2},
};

static void strange_lines(void **state)
{
    (void)state;
    size_t length;
    const char *whole = log_path("strange-whole.jsonl"), *path = log_path("strange.jsonl");
    write_run(whole, 0, 0);
    char *text = file_text(whole, &length);
    size_t first = strcspn(text, "\n") + 1;
    uint64_t live = memtrack_process_live();
    for (size_t i = 0; i < COUNT(strange); i++) {
        RunRecord run;
        char joined[4096];
        assert_true(first + strlen(strange[i].line) < sizeof joined - 2);
        snprintf(joined, sizeof joined, "%.*s%s\n", (int)first, text, strange[i].line);
        write_file(path, joined, strlen(joined));
        read_fine(path, &run);
        if (run.event_count != strange[i].events || !has_note(&run, strange[i].note))
            fail_msg("%s: %zu events; first note: %s", strange[i].line, run.event_count,
                     run.notes.count ? run.notes.names[run.notes.count - 1] : "none");
        report_run_free(&run);
        assert_int_equal(memtrack_process_live(), live);
    }
    free(text);
}

/* Bytes that are left over may be less than nothing, but no more than a log has: `report` subtracts them. */
static void no_size_is_too_large(void **state)
{
    (void)state;
    static const struct {
        const char *left;
        int64_t read;
    } sizes[] = {{"-4096", -4096}, {"-9223372036854775808", 0}, {"9223372036854775807", 0}};
    size_t length;
    const char *whole = log_path("left-whole.jsonl"), *path = log_path("left.jsonl");
    write_run(whole, 0, 0);
    char *text = file_text(whole, &length);
    size_t first = strcspn(text, "\n") + 1;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        RunRecord run;
        char joined[4096];
        snprintf(joined, sizeof joined,
                 "%.*s{\"kind\":\"end\",\"status\":\"done\",\"memory\":{\"peak_bytes\":64,\"process\":{\"peak_bytes\":64,"
                 "\"unaccounted_bytes\":%s},\"card\":{\"used_bytes\":64,\"unaccounted_bytes\":%s}}}\n",
                 (int)first, text, sizes[i].left, sizes[i].left);
        write_file(path, joined, strlen(joined));
        read_fine(path, &run);
        assert_true(run.end.memory.present);
        assert_true(run.end.memory.unaccounted == sizes[i].read);
        assert_true(run.end.memory.card_unaccounted == sizes[i].read);
        report_run_free(&run);
    }
    free(text);
}

/* What a file costs to read is in proportion to it, whatever it says: here the shortest lines and rows. */
static void memory_is_bounded_by_the_file(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "{\"kind\":\"step\",\"step\":1,\"peak_bytes\":1}\n",
        "{\"kind\":\"validation\",\"step\":1}\n",
        "{\"kind\":\"ops\",\"from\":0,\"names\":[0]}\n",
        COLUMNS_OF_ROWS "[0,0,0,0,0,0,0,0,0,0,0,1,0]]}\n",
        "{\"kind\":\"outline\",\"live\":[1,1,1,1,1,1,1,1,1,1]}\n",
        "\n",
    };
    size_t length;
    const char *path = log_path("bounded.jsonl");
    write_run(path, 0, 0);
    char *text = file_text(path, &length);
    text[strcspn(text, "\n")] = '\0';
    for (size_t i = 0; i < COUNT(lines); i++) {
        RunRecord run;
        FILE *file = fopen(path, "w");
        fprintf(file, "%s\n", text);
        for (int k = 0; k < 5000; k++)
            fputs(lines[i], file);
        uint64_t size = (uint64_t)ftell(file), live = memtrack_process_live();
        fclose(file);
        read_fine(path, &run);
        assert_true(memtrack_process_live() - live < 20 * size);
        report_run_free(&run);
    }
    free(text);
}

static void no_run_log(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } files[] = {
        {"", "empty"},
        {"{\"kind\":\"run\"", "breaks off in its first line"},
        {"hello\n", "not a run log"},
        {"{\"step\":1}\n", "not a run log"},
        {"[]\n", "not a run log"},
        {"{\"kind\":\"step\",\"format\":1}\n", "not a run log"},
        {"{\"kind\":\"run\",\"format\":2}\n", "reads format 1"},
        {"{\"kind\":\"run\",\"format\":1}\n", "first line is damaged"},
        {"{\"kind\":\"run\",\"format\":1,\"components\":[[\"a\",\"b\"]],\"groups\":[\"b\"],\"phases\":[3]}\n",
         "first line is damaged"},
    };
    char why[WHY];
    RunRecord run;
    const char *path = log_path("none.jsonl");
    for (size_t i = 0; i < COUNT(files); i++) {
        write_file(path, files[i].text, strlen(files[i].text));
        assert_int_equal(report_run_read(path, &run, why, sizeof why), -1);
        assert_true(strstr(why, path) && strstr(why, files[i].words));
    }
    assert_int_equal(report_run_read(log_path("absent"), &run, why, sizeof why), -1);
    assert_non_null(strstr(why, "No such file"));
    assert_int_equal(report_run_read(log_folder, &run, why, sizeof why), -1);
    assert_non_null(strstr(why, "Is a directory"));
    report_run_free(&run); /* all zero after an error */
}

static void a_line_may_be_too_long(void **state)
{
    (void)state;
    enum { LONG = (1 << 24) + 100 };
    size_t length;
    const char *path = log_path("wide.jsonl");
    write_run(path, 2, 0);
    char *text = file_text(path, &length), *wide = malloc(length + LONG + 1);
    size_t first = strcspn(text, "\n") + 1;
    memcpy(wide, text, first);
    memset(wide + first, ' ', LONG);
    wide[first + LONG] = '\n';
    memcpy(wide + first + LONG + 1, text + first, length - first);
    write_file(path, wide, length + LONG + 1);
    RunRecord run;
    read_fine(path, &run);
    assert_true(run.step_count == 2 && run.event_count == 2 + 2 * STEP_EVENTS &&
                has_note(&run, "Damaged lines left out: 1,"));
    report_run_free(&run);
    free(wide);
    free(text);
}

static void two_runs_in_a_file(void **state)
{
    (void)state;
    size_t length;
    const char *path = log_path("two.jsonl");
    write_run(path, 2, 0);
    char *text = file_text(path, &length), *twice = malloc(2 * length);
    memcpy(twice, text, length);
    memcpy(twice + length, text, length);
    write_file(path, twice, 2 * length);
    RunRecord run;
    read_fine(path, &run);
    assert_true(run.step_count == 2 && has_note(&run, "Another run begins"));
    report_run_free(&run);
    free(twice);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cut_off_at_every_byte),
        cmocka_unit_test(any_byte_may_be_wrong),
        cmocka_unit_test(strange_lines),
        cmocka_unit_test(no_size_is_too_large),
        cmocka_unit_test(memory_is_bounded_by_the_file),
        cmocka_unit_test(no_run_log),
        cmocka_unit_test(a_line_may_be_too_long),
        cmocka_unit_test(two_runs_in_a_file),
    };
    return cmocka_run_group_tests_name("damaged run logs", tests, make_log_folder, remove_log_folder);
}
