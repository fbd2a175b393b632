/* The run log: what is written is read back, and whatever a crash, a full disk or a stranger makes of the
 * file, the reader shows what there is or says why it cannot. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>

#include "runlog_support.h"

static void read_fine(const char *path, RunRecord *run)
{
    char why[WHY];
    if (report_run_read(path, run, why, sizeof why))
        fail_msg("%s", why);
    assert_string_equal(why, "");
    check_record(run);
}

/* ---- There and back -------------------------------------------------------------------------- */

static void header_and_end_come_back(void **state)
{
    (void)state;
    RunRecord run;
    const char *path = log_path("whole.jsonl");
    write_run(path, 3, 0);
    read_fine(path, &run);
    assert_string_equal(run.model, "toy");
    assert_string_equal(run.family, "mlp");
    assert_string_equal(run.command, "train --steps");
    assert_string_equal(run.brim, BRIM_VERSION);
    assert_int_equal(run.parameters, 2500);
    assert_int_equal(run.option_names.count, 3);
    assert_string_equal(run.option_names.names[2], "optimizer");
    assert_string_equal(run.option_values.names[2], "sgd");
    assert_string_equal(run.option_values.names[0], "4");
    assert_int_equal(run.components.count, MEM_COMPONENT_COUNT);
    assert_int_equal(run.groups.count, MEM_GROUP_COUNT);
    assert_int_equal(run.phases.count, MEM_PHASE_COUNT);
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        assert_int_equal(run.component_group[i], memtrack_component_group((MemComponent)i));
    assert_true(run.plan.present && run.plan.peak_bytes == PEAK && run.plan.at_peak[MEM_PARAMETER] == 10048);
    assert_string_equal(run.plan.peak_place, "model.layers.0");
    assert_true(run.end.present && !run.end.failed && run.end.steps == 3 &&
                run.end.memory.peak_bytes == PEAK);
    assert_int_equal(run.end.memory.process_peak, 0);
    assert_int_equal(run.notes.count, 0);
    report_run_free(&run);
}

static void steps_come_back(void **state)
{
    (void)state;
    RunRecord run;
    const char *path = log_path("steps.jsonl");
    write_run(path, 5, 0);
    read_fine(path, &run);
    assert_int_equal(run.step_count, 5);
    for (int i = 0; i < 5; i++) {
        const RunStep *step = &run.steps[i];
        assert_int_equal(step->step, i + 1);
        assert_float_equal(step->loss, 1.0 / (i + 1), 1e-8);
        assert_true(step->tokens == 4 && step->live_bytes == 10048 && step->peak_bytes == PEAK);
        assert_int_equal(step->at_peak[MEM_ACTIVATION], 50048);
        assert_int_equal(step->at_peak[MEM_GRADIENT], 10048);
    }
    assert_int_equal(run.validation_count, 1);
    assert_float_equal(run.validations[0].accuracy, 0.75, 1e-9);
    report_run_free(&run);
}

static void events_come_back(void **state)
{
    (void)state;
    RunRecord run;
    const char *path = log_path("events.jsonl");
    write_run(path, 4, 0);
    read_fine(path, &run);
    assert_int_equal(run.event_count, 1 + 2 * STEP_EVENTS); /* of the steps 0 and 1 */
    assert_true(run.events_ended && run.events_complete);
    assert_int_equal(run.peak_live, PEAK);
    assert_int_equal(run.reserved, NEEDS);
    assert_int_equal(run.outline_count, run.event_count);
    for (size_t i = 0; i < run.event_count; i++)
        assert_int_equal(run.outline[i], run.events[i].live);
    const RunEvent *parameter = &run.events[0], *activation = &run.events[1], *tag = &run.events[2];
    assert_int_equal(parameter->serial, 1);
    assert_string_equal(report_run_place(&run, parameter->place), "model.\"head\", #1\n\xc3\xa9");
    assert_string_equal(report_run_op(&run, parameter->op), "");
    assert_true(parameter->requested == 10000 && parameter->bytes == 10048 && parameter->end == MEM_END_LOW);
    assert_int_equal(activation->end, MEM_END_HIGH);
    assert_int_equal(report_run_address(&run, activation), NEEDS - 50048);
    assert_true(tag->kind == RUN_RETAG && tag->from == MEM_TEMPORARY && tag->component == MEM_ACTIVATION);
    assert_string_equal(report_run_op(&run, tag->op), "linear");
    assert_string_equal(report_run_phase(&run, run.events[4].phase), "backward");
    assert_string_equal(report_run_op(&run, 1 << 20), "unknown");
    assert_string_equal(report_run_place(&run, -1), "unknown");
    report_run_free(&run);
}

static void a_run_of_one_step_is_complete(void **state)
{
    (void)state;
    RunRecord run;
    const char *path = log_path("one.jsonl");
    write_run(path, 1, 0);
    read_fine(path, &run);
    assert_int_equal(run.event_count, 1 + STEP_EVENTS + 1); /* and the parameter's end */
    assert_true(run.events_complete);
    assert_int_equal(run.notes.count, 0);
    report_run_free(&run);
}

static void a_failed_run_says_why(void **state)
{
    (void)state;
    char why[WHY];
    RunRecord run;
    const char *path = log_path("failed.jsonl");
    Device d = device_open();
    MemBlock parameter;
    json_t *object = run_object();
    RunLog *log = report_log_open(path, object, NULL, why, sizeof why);
    json_decref(object);
    assert_int_equal(report_log_attach(log, d.ledger), 0);
    device_setup(d, &parameter);
    device_step(d, 0);
    report_log_step(log, d.ledger, &(RunLogStep){.step = 1, .loss = (double)NAN, .lr = (double)INFINITY});
    memtrack_destroy(d.tracker);
    report_log_end(log, &(RunLogEnd){.error = "not \"finite\"\xff", .steps = 1, .loss_first = (double)NAN});
    report_log_close(log);
    read_fine(path, &run);
    assert_true(run.end.present && run.end.failed);
    assert_string_equal(run.end.error, "not \"finite\"\xef\xbf\xbd"); /* JSON is UTF-8 */
    assert_true(isnan(run.steps[0].loss) && isnan(run.steps[0].lr));
    assert_true(run.events_ended && !run.events_complete);
    assert_true(has_note(&run, "end before the second step"));
    report_run_free(&run);
}

/* ---- The outline ----------------------------------------------------------------------------- */

static void the_outline_is_of_the_last_plan(void **state)
{
    (void)state;
    char why[WHY];
    RunRecord run;
    MemBlock parameter, scratch;
    RunOutline *outline = report_outline_create();
    for (int pass = 0; pass < 2; pass++) { /* a plan may run its script twice */
        Device d = device_open();
        assert_int_equal(report_outline_record(outline, d.ledger), 0);
        device_setup(d, &parameter);
        if (pass == 0)
            device_step(d, 0);
        memtrack_phase_set(d.tracker, MEM_PHASE_EVALUATE); /* left out */
        memtrack_alloc(d.ledger, 100, MEM_TEMPORARY, &scratch);
        memtrack_free(d.ledger, &scratch);
        memtrack_destroy(d.tracker);
    }
    json_t *object = run_object();
    report_log_close(report_log_open(log_path("outline.jsonl"), object, outline, why, sizeof why));
    json_decref(object);
    report_outline_destroy(outline);
    read_fine(log_path("outline.jsonl"), &run);
    assert_int_equal(run.outline_count, 1);
    assert_int_equal(run.outline[0], 10048);
    report_run_free(&run);
}

/* ---- Long runs ------------------------------------------------------------------------------- */

static void long_runs_stay_small(void **state)
{
    (void)state;
    enum { STEPS = 3000 };
    char why[WHY];
    MemBlock parameter;
    Device d = device_open();
    json_t *object = run_object();
    RunLog *log = report_log_open(log_path("long.jsonl"), object, NULL, why, sizeof why);
    json_decref(object);
    assert_int_equal(report_log_attach(log, d.ledger), 0);
    device_setup(d, &parameter);
    uint64_t held = 0;
    size_t early = 0, length;
    for (int step = 0; step < STEPS; step++) {
        device_step(d, step);
        report_log_step(log, d.ledger, &(RunLogStep){step + 1, 2.5, 1e-3, 0.01, 1024});
        if (step == 10) {
            held = memtrack_process_live();
            free(file_text(log_path("long.jsonl"), &early)); /* each line is there at once */
        }
    }
    assert_int_equal(memtrack_process_live(), held);
    memtrack_destroy(d.tracker);
    report_log_close(log);
    free(file_text(log_path("long.jsonl"), &length));
    assert_true((length - early) / (STEPS - 11) < 600);
    RunRecord run;
    read_fine(log_path("long.jsonl"), &run);
    assert_int_equal(run.step_count, STEPS);
    report_run_free(&run);
}

static void events_are_bounded(void **state)
{
    (void)state;
    char why[WHY];
    RunRecord run;
    MemBlock block;
    Device d = device_open();
    json_t *object = run_object();
    RunOutline *outline = report_outline_create();
    RunLog *log = report_log_open(log_path("many.jsonl"), object, NULL, why, sizeof why);
    assert_int_equal(report_log_attach(log, d.ledger), 0);
    for (int i = 0; i < RUNLOG_EVENTS / 2 + 5000; i++) {
        memtrack_alloc(d.ledger, 64, MEM_TEMPORARY, &block);
        memtrack_free(d.ledger, &block);
    }
    report_log_step(log, d.ledger, &(RunLogStep){.step = 1});
    memtrack_destroy(d.tracker);
    report_log_close(log);
    read_fine(log_path("many.jsonl"), &run);
    assert_int_equal(run.event_count, RUNLOG_EVENTS);
    assert_true(run.events_ended && !run.events_complete && has_note(&run, "end before the second step"));
    report_run_free(&run);

    d = device_open();
    assert_int_equal(report_outline_record(outline, d.ledger), 0);
    for (int i = 0; i < RUNLOG_EVENTS / 2 + 5000; i++) {
        memtrack_alloc(d.ledger, 64, MEM_TEMPORARY, &block);
        memtrack_free(d.ledger, &block);
    }
    memtrack_destroy(d.tracker);
    report_log_close(report_log_open(log_path("many.jsonl"), object, outline, why, sizeof why));
    report_outline_destroy(outline);
    json_decref(object);
    read_fine(log_path("many.jsonl"), &run);
    assert_int_equal(run.outline_count, RUNLOG_EVENTS);
    report_run_free(&run);
}

/* ---- Damage ---------------------------------------------------------------------------------- */

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
        {"hello\n", "no run log"},
        {"{\"step\":1}\n", "no run log"},
        {"[]\n", "no run log"},
        {"{\"kind\":\"step\",\"format\":1}\n", "no run log"},
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

/* ---- Errors while writing -------------------------------------------------------------------- */

static void a_log_that_cannot_be_made(void **state)
{
    (void)state;
    static const char *const why_not[] = {"No such file or directory", "Is a directory", "No space left"};
    const char *paths[] = {log_path("no-such-folder/log"), log_folder, "/dev/full"};
    json_t *object = run_object();
    uint64_t live = memtrack_process_live();
    for (size_t i = 0; i < COUNT(paths); i++) {
        char why[WHY];
        assert_null(report_log_open(paths[i], object, NULL, why, sizeof why));
        assert_true(strstr(why, paths[i]) && strstr(why, why_not[i]));
        assert_int_equal(memtrack_process_live(), live);
    }
    json_decref(object);
}

/* A disk that fills up in the middle of a run: the log ends, what is there can be read. */
static void a_disk_that_fills_up(void **state)
{
    (void)state;
    const char *path = log_path("full.jsonl");
    struct rlimit before, small = {6000, RLIM_INFINITY};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    char why[WHY], said[WHY];
    MemBlock parameter;
    Device d = device_open();
    json_t *object = run_object();
    RunLog *log = report_log_open(path, object, NULL, why, sizeof why);
    json_decref(object);
    int attached = report_log_attach(log, d.ledger) == 0;
    device_setup(d, &parameter);
    for (int step = 0; step < 20; step++) {
        device_step(d, step);
        report_log_step(log, d.ledger, &(RunLogStep){step + 1, 2.5, 1e-3, 0.01, 1024});
    }
    report_log_end(log, &(RunLogEnd){.steps = 20});
    snprintf(said, sizeof said, "%s", report_log_error(log));
    memtrack_destroy(d.tracker);
    report_log_close(log);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    assert_true(attached && strstr(said, path) && strstr(said, "File too large"));
    RunRecord run;
    read_fine(path, &run);
    assert_true(run.step_count > 2 && run.step_count < 20 && run.events_complete && !run.end.present);
    assert_true(has_note(&run, "cut off") && has_note(&run, "breaks off after step"));
    report_run_free(&run);
}

/* ---- Allocations that fail ------------------------------------------------------------------- */

static void writing_without_memory(void **state)
{
    (void)state;
    const char *path = log_path("poor.jsonl");
    uint64_t live = memtrack_process_live();
    int through = 0;
    for (uint64_t n = 1; !through; n++) {
        memtrack_fail_nth(n);
        write_run(path, 3, 1);
        through = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(memtrack_process_live(), live);
    }
}

static void reading_without_memory(void **state)
{
    (void)state;
    const char *path = log_path("rich.jsonl");
    write_run(path, 3, 0);
    uint64_t live = memtrack_process_live();
    int through = 0;
    for (uint64_t n = 1; !through; n++) {
        char why[WHY];
        RunRecord run;
        memtrack_fail_nth(n);
        int failed = report_run_read(path, &run, why, sizeof why);
        through = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(failed != 0, !through);
        if (failed)
            assert_non_null(strstr(why, "out of host memory"));
        report_run_free(&run);
        assert_int_equal(memtrack_process_live(), live);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_and_end_come_back),
        cmocka_unit_test(steps_come_back),
        cmocka_unit_test(events_come_back),
        cmocka_unit_test(a_run_of_one_step_is_complete),
        cmocka_unit_test(a_failed_run_says_why),
        cmocka_unit_test(the_outline_is_of_the_last_plan),
        cmocka_unit_test(long_runs_stay_small),
        cmocka_unit_test(events_are_bounded),
        cmocka_unit_test(cut_off_at_every_byte),
        cmocka_unit_test(any_byte_may_be_wrong),
        cmocka_unit_test(strange_lines),
        cmocka_unit_test(memory_is_bounded_by_the_file),
        cmocka_unit_test(no_run_log),
        cmocka_unit_test(a_line_may_be_too_long),
        cmocka_unit_test(two_runs_in_a_file),
        cmocka_unit_test(a_log_that_cannot_be_made),
        cmocka_unit_test(a_disk_that_fills_up),
        cmocka_unit_test(writing_without_memory),
        cmocka_unit_test(reading_without_memory),
    };
    return cmocka_run_group_tests_name("the run log", tests, make_log_folder, remove_log_folder);
}
