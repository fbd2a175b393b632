/* A case of training, planned and run: the events of both are compared one by one. */
#ifndef TEST_PLAN_CASES_H
#define TEST_PLAN_CASES_H

#include "plan_support.h"

static EventRecord planned_events, packed_events, run_events;
static Session session;

static int optimizer_count(void)
{
    int count = 0;
    while (optim_rule_at(count))
        count++;
    return count;
}
/* Arrays of a parameter's size that each keeps. */

static void check_plan(const char *what, const Plan *plan)
{
    if (plan->status)
        fail_msg("%s: planning failed: %s", what, plan->error);
    const MemStats *s = &plan->memory.stats;
    assert_int_equal(sum_by_component(s->at_peak), s->peak);
    assert_int_equal(s->live, 0);
    assert_int_equal(s->allocations, s->frees);
    assert_true(s->peak > 0 && s->needs >= s->peak && s->needs % MEMTRACK_ALIGN == 0);
    assert_int_equal(plan->steps, session.steps);
    assert_true(plan->step_flops > 0);
}

/* Runs what was planned, for real, and compares everything there is to compare. */
static void check_run(const char *what, const RunOptions *options, const Plan *plan)
{
    RunResult result;
    plan_execute(case_script, &session, options, plan, &result);
    if (result.status)
        fail_msg("%s: running failed: %s", what, result.error);
    assert_same_events(what, plan->hints ? &packed_events : &planned_events, &run_events);
    const char *difference = books_differ(&plan->memory, &result.memory);
    if (difference)
        fail_msg("%s: %s differ between plan and run", what, difference);
    if (result.segments_off_plan || result.first_off_plan != -1)
        fail_msg("%s: %lld segments off the plan, the first at step %lld", what,
                 (long long)result.segments_off_plan, (long long)result.first_off_plan);
    assert_int_equal(result.steps, plan->steps);
}

static void check_case(const Case *c, int threads, int with_malloc)
{
    char text[160], name[128];
    Plan plan;
    uint64_t live = memtrack_process_live();
    RunOptions options = {.threads = threads, .seed = 3, .quiet = 1};
    session = (Session){.c = *c, .planned = &planned_events, .packed = &packed_events, .run = &run_events};
    snprintf(text, sizeof text, "%s, %d threads", case_text(c, name), threads);
    plan_script(case_script, &session, &options, &plan);
    int planned = session.calls;
    assert_in_range(planned, plan.hints ? 2 : 1, 2);
    check_plan(text, &plan);
    check_run(text, &options, &plan);
    if (with_malloc) {
        options.malloc_blocks = 1;
        check_run(text, &options, &plan);
    }
    plan_free(&plan);
    if (memtrack_process_live() != live)
        fail_msg("%s: %lld bytes left", text, (long long)(memtrack_process_live() - live));
    assert_int_equal(session.calls, planned + 1 + with_malloc);
    assert_true(session.parameter_count > 0);
}

#endif
