/* The logs of several ranks in the command: a plan's without a process, a run's with MPI, where both have the
 * same events; and what `brim report` says of them. */
#include "cli_mpi.h"
#include "runlog_support.h"

#define SMALL                                                                                                \
    "--model", in_folder("llama.json"), "--data", in_folder("text"), "--seq", "16", "--batch", "2",          \
        "--steps", "2", "--threads", "1", "--max-samples", "40"
#define STAGES "--ranks", "2", "--stages", "2", "--accumulate", "3"

static int set_up(void **state)
{
    return begin_over_mpi("logs of ranks", state);
}

static void prints(const Outcome *o, const char *what)
{
    if (!strstr(o->out, what))
        fail_msg("'%s' is not in\n%s", what, o->out);
}

static RunRecord read_log(const char *path)
{
    RunRecord run;
    char why[WHY];
    if (report_run_read(path, &run, why, sizeof why))
        fail_msg("%s", why);
    return run;
}

/* ---- Plans ----------------------------------------------------------------------------------- */

static void a_plan_writes_a_log_for_each_stage(void **state)
{
    (void)state;
    expect_code(RUN("plan", SMALL, STAGES, "--log", in_folder("plan.jsonl")), 0);
    Outcome *o = expect_code(RUN("report", in_folder("plan.jsonl")), 0);
    prints(o, "A plan: nothing has run.");
    assert_int_equal(lines_starting(o->out, "stage 0 (rank 0)"), 1);
    assert_int_equal(lines_starting(o->out, "stage 1 (rank 1)"), 1);
    assert_int_equal(lines_starting(o->out, "Note:"), 0);
    prints(o, "  <- the fullest");
    prints(o, " is the fullest with ");
    assert_null(strstr(o->out, "measured"));
    o = expect_code(RUN("report", in_folder("plan.jsonl"), "--html", in_folder("plan.html"), "--trace",
                        in_folder("plan.json")),
                    0);
    prints(o, "open it in a browser");
    assert_string_equal(o->err, "");
}

static void ranks_that_are_alike_have_one_log(void **state)
{
    (void)state;
    expect_code(
        RUN("plan", SMALL, "--ranks", "1024", "--parallel", "zero3", "--log", in_folder("alike.jsonl")), 0);
    assert_int_not_equal(access(in_folder("alike.jsonl.rank-1"), F_OK), 0);
    Outcome *o = expect_code(RUN("report", in_folder("alike.jsonl")), 0);
    assert_int_equal(lines_starting(o->out, "ranks 0-1023"), 1);
    prints(o, "Why do 1024 ranks not need 1/1024 each?");
    assert_int_equal(lines_starting(o->out, "Note:"), 0);
}

static void a_plan_of_one_process_has_a_log_too(void **state)
{
    (void)state;
    expect_code(RUN("plan", SMALL, "--log", in_folder("one.jsonl")), 0);
    RunRecord run = read_log(in_folder("one.jsonl"));
    assert_int_equal(run.planned, 1);
    assert_int_equal(run.rank.size, 0);
    assert_int_equal(run.peak_live, run.plan.peak_bytes);
    assert_int_equal(run.notes.count, 0);
    report_run_free(&run);
    Outcome *o = expect_code(RUN("plan", "--inference", "--log", in_folder("none.jsonl")), 2);
    assert_non_null(strstr(o->err, "--log means nothing beside --inference"));
    o = expect_code(RUN("plan", SMALL, "--log", in_folder("no/such.jsonl")), 1);
    assert_non_null(strstr(o->err, "cannot write the log"));
}

/* ---- Runs ------------------------------------------------------------------------------------ */

static void a_run_that_is_alone_logs_as_ever(void **state)
{
    (void)state;
    size_t length;
    expect_code(RUN("train", SMALL, "--log", in_folder("alone.jsonl")), 0);
    char *text = file_text(in_folder("alone.jsonl"), &length);
    json_t *first = json_loadb(text, strcspn(text, "\n"), 0, NULL);
    assert_non_null(first);
    assert_keys(first,
                "kind format brim model family parameters command options plan kernels components phases "
                "groups");
    json_decref(first);
    free(text);
}

static int same_event(const RunEvent *a, const RunEvent *b)
{
    return a->kind == b->kind && a->step == b->step && a->phase == b->phase && a->component == b->component &&
           a->from == b->from && a->path == b->path && a->op == b->op && a->serial == b->serial &&
           a->offset == b->offset && a->end == b->end && a->bytes == b->bytes && a->requested == b->requested;
}

static void assert_same_events(const char *planned, const char *measured)
{
    RunRecord a = read_log(planned), b = read_log(measured);
    size_t i = 0;
    assert_true(a.event_count > 200);
    for (; i < a.event_count && i < b.event_count && same_event(&a.events[i], &b.events[i]); i++)
        ;
    if (i < a.event_count || i < b.event_count)
        fail_msg("event %zu of %zu and %zu differs", i, a.event_count, b.event_count);
    report_run_free(&a);
    report_run_free(&b);
}

static void every_rank_logs_what_was_planned(void **state)
{
    (void)state;
    NEEDS_MPI();
    expect_code(RUN("train", SMALL, STAGES, "--log", in_folder("run.jsonl")), 0);
    expect_code(RUN("plan", SMALL, STAGES, "--log", in_folder("same.jsonl")), 0);
    assert_same_events(in_folder("same.jsonl"), in_folder("run.jsonl"));
    assert_same_events(in_folder("same.jsonl.rank-1"), in_folder("run.jsonl.rank-1"));
    Outcome *o = expect_code(RUN("report", in_folder("run.jsonl")), 0);
    assert_int_equal(lines_starting(o->out, "stage 0 (rank 0)"), 1);
    assert_int_equal(lines_starting(o->out, "stage 1 (rank 1)"), 1);
    assert_int_equal(lines_starting(o->out, "RANKS                       planned peak      measured"), 1);
    assert_int_equal(lines_starting(o->out, "Note:"), 0);
    expect_code(RUN("report", in_folder("same.jsonl"), in_folder("run.jsonl")), 0);
    unlink(in_folder("run.jsonl.rank-1"));
    o = expect_code(RUN("report", in_folder("run.jsonl"), "--html", in_folder("run.html")), 0);
    o = expect_code(RUN("report", in_folder("run.jsonl")), 0);
    prints(o, "Note: Of rank 1 there is no log that can be shown");
}

/* The logs of the earlier steps stay together. */
static void a_resumed_run_keeps_the_logs_of_all_ranks(void **state)
{
    (void)state;
    NEEDS_MPI();
    char saved[128], log[128];
    snprintf(saved, sizeof saved, "%s", in_folder("saved"));
    snprintf(log, sizeof log, "%s", in_folder("again.jsonl"));
    for (int step = 1; step <= 2; step++) {
        char steps[16];
        snprintf(steps, sizeof steps, "%d", step);
        expect_code(RUN("train", SMALL, "--ranks", "2", "--steps", steps, "--save", saved, "--resume", saved,
                        "--log", log),
                    0);
    }
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, i ? "again.jsonl.%d" : "again.jsonl", i);
        Outcome *o = expect_code(RUN("report", in_folder(name)), 0);
        assert_int_equal(lines_starting(o->out, "ranks 0-1 "), 1);
        assert_int_equal(lines_starting(o->out, "Note:"), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_writes_a_log_for_each_stage),
        cmocka_unit_test(ranks_that_are_alike_have_one_log),
        cmocka_unit_test(a_plan_of_one_process_has_a_log_too),
        cmocka_unit_test(a_run_that_is_alone_logs_as_ever),
        cmocka_unit_test(every_rank_logs_what_was_planned),
        cmocka_unit_test(a_resumed_run_keeps_the_logs_of_all_ranks),
    };
    return cmocka_run_group_tests(tests, set_up, remove_folder);
}
