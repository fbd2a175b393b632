/* The run log: what is written is read back; writing survives a full disk and missing memory. What becomes of a damaged
 * file is in test_runlog_damage.c. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runlog_support.h"

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
    assert_string_equal(run.plan.peak_path, "model.layers.0");
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
    assert_string_equal(report_run_path(&run, parameter->path), "model.\"head\", #1\n\xc3\xa9");
    assert_string_equal(report_run_op(&run, parameter->op), "");
    assert_true(parameter->requested == 10000 && parameter->bytes == 10048 && parameter->end == MEM_END_LOW);
    assert_int_equal(activation->end, MEM_END_HIGH);
    assert_int_equal(report_run_address(&run, activation), NEEDS - 50048);
    assert_true(tag->kind == RUN_RETAG && tag->from == MEM_TEMPORARY && tag->component == MEM_ACTIVATION);
    assert_string_equal(report_run_op(&run, tag->op), "linear");
    assert_string_equal(report_run_phase(&run, run.events[4].phase), "backward");
    assert_string_equal(report_run_op(&run, 1 << 20), "unknown");
    assert_string_equal(report_run_path(&run, -1), "unknown");
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
        report_log_step(log, d.ledger, &(RunLogStep){step + 1, 2.5, 1e-3, 0.01, 1024, 0, 0});
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
/* One that looks whether a run writes the log holds its lock for a moment, as this one does for ten
 * milliseconds: that keeps no run away. One that writes does. */
static void a_look_is_no_run(void **state)
{
    (void)state;
    char why[WHY], byte = 'l';
    int looks[2];
    const char *path = log_path("looked-at.jsonl");
    json_t *object = json_pack("{s:s}", "model", "toy");
    report_log_close(report_log_open(path, object, NULL, why, sizeof why));
    assert_int_equal(pipe(looks), 0);
    pid_t looker = fork();
    if (looker == 0) {
        int file = open(path, O_RDONLY);
        int failed = flock(file, LOCK_SH | LOCK_NB) || write(looks[1], &byte, 1) != 1;
        usleep(10000);
        _exit(failed);
    }
    close(looks[1]);
    assert_true(looker > 0 && read(looks[0], &byte, 1) == 1);
    close(looks[0]);
    RunLog *log = report_log_open(path, object, NULL, why, sizeof why);
    assert_int_equal(waitpid(looker, NULL, 0), looker);
    assert_non_null(log);
    assert_true(report_log_in_use(path));
    assert_null(report_log_open(path, object, NULL, why, sizeof why));
    assert_non_null(strstr(why, "another run writes it"));
    report_log_close(log);
    assert_false(report_log_in_use(path));
    json_decref(object);
}

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
        report_log_step(log, d.ledger, &(RunLogStep){step + 1, 2.5, 1e-3, 0.01, 1024, 0, 0});
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
        cmocka_unit_test(a_log_that_cannot_be_made),
        cmocka_unit_test(a_look_is_no_run),
        cmocka_unit_test(a_disk_that_fills_up),
        cmocka_unit_test(writing_without_memory),
        cmocka_unit_test(reading_without_memory),
    };
    return cmocka_run_group_tests_name("the run log", tests, make_log_folder, remove_log_folder);
}
