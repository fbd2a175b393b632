/* Whole models train on the made-up card as they do on the CPU: the same losses, and every event of the run is
 * one of the plan. */
#include <math.h>

#include "cuda_support.h"
#include "plan_support.h"

static EventRecord planned_events, packed_events, run_events;
static Session session, on_cpu;

/* Plans and runs; the session has what it left behind. */
static RunResult run_on(const char *device, const Case *c)
{
    RunOptions options = {.threads = 1, .seed = 3, .quiet = 1, .device = device};
    Plan plan;
    RunResult result;
    char name[128];
    uint64_t live = memtrack_process_live();
    session = (Session){.c = *c, .planned = &planned_events, .packed = &packed_events, .run = &run_events};
    if (plan_script(case_script, &session, &options, &plan))
        fail_msg("%s on %s: planning failed: %s", case_text(c, name), device, plan.error);
    plan_execute(case_script, &session, &options, &plan, &result);
    if (result.status)
        fail_msg("%s on %s: %s", case_text(c, name), device, result.error);
    assert_same_events(name, plan.hints ? &packed_events : &planned_events, &run_events);
    const char *difference = books_differ(&plan.memory, &result.memory);
    if (difference)
        fail_msg("%s: %s differ between plan and run", name, difference);
    assert_int_equal(result.segments_off_plan, 0);
    assert_int_equal(result.memory.stats.live, 0);
    plan_free(&plan);
    assert_int_equal(memtrack_process_live(), live);
    return result;
}

static void check_losses(const Case *c, double tolerance)
{
    char name[128];
    RunResult cpu = run_on("cpu", c);
    on_cpu = session;
    RunResult card = run_on("cuda", c);
    case_text(c, name);
    double first = fabs(card.loss_first - cpu.loss_first), last = fabs(card.loss_last - cpu.loss_last);
    if (!(first <= tolerance && last <= tolerance && cpu.loss_first > 0))
        fail_msg("%s: losses %.9g and %.9g, on the CPU %.9g and %.9g", name, card.loss_first, card.loss_last,
                 cpu.loss_first, cpu.loss_last);
    if (!(fabs(session.validation_loss - on_cpu.validation_loss) <= 10 * tolerance))
        fail_msg("%s: validation loss %.9g, on the CPU %.9g", name, session.validation_loss,
                 on_cpu.validation_loss);
    assert_int_equal(session.parameter_count, on_cpu.parameter_count);
    double difference_of_all = difference(session.parameters, on_cpu.parameters, session.parameter_count);
    if (!(difference_of_all <= 100 * tolerance))
        fail_msg("%s: parameters differ by %g", name, difference_of_all);
}

static void every_family_in_fp32(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILIES; family++)
        check_losses(&(Case){.family = (ModelFamily)family, .accumulate = 2, .optimizer = "adamw"}, 1e-5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_family_in_fp32)};
    stand_in_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
