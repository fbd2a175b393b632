/* A mixture of experts on a card, on the stand-in, whose memory the host cannot touch: it trains as the CPU
 * does, of every precision that both have, and its run is its plan. */
#include "cuda_support.h"

#include <math.h>

#include "experts_support.h"

static void train(Job *job, const char *device)
{
    RunOptions o = {.threads = 1, .seed = 5, .quiet = 1, .device = device};
    Plan plan;
    RunResult result;
    job->numbers = numbers_new();
    if (plan_script(script, job, &o, &plan) != 0)
        fail_msg("plan: %s", plan.error);
    if (plan_execute(script, job, &o, &plan, &result) != 0)
        fail_msg("run: %s", result.error);
    assert_int_equal(result.segments_off_plan, 0);
    assert_int_equal(result.memory.stats.event_hash, plan.memory.stats.event_hash);
    plan_free(&plan);
}

static void test_trains_as_the_cpu(void **state)
{
    (void)state;
    static const Job jobs[] = {
        {.active = 2, .normalise = 1, .coefficient = 0.1f},
        {.active = 1, .coefficient = 0.2f, .masked = 1, .checkpoint = 1},
        {.active = 5, .normalise = 1},
        {.active = 3, .weights = DTYPE_NF4, .normalise = 1, .coefficient = 0.1f},
        {.active = 2, .weights = DTYPE_INT8},
        {.active = 2, .normalise = 1, .coefficient = 0.1f, .precision = "bf16-mixed"},
        {.active = 2, .coefficient = 0.1f, .precision = "fp16-mixed", .checkpoint = 1},
    };
    for (size_t i = 0; i < COUNT(jobs); i++) {
        Job cpu = jobs[i], card = jobs[i];
        train(&cpu, NULL);
        train(&card, "cuda");
        double allowed = jobs[i].precision ? 2e-2 : 2e-4;
        for (int s = 0; s < STEPS; s++)
            if (!(fabs((double)cpu.loss[s] - (double)card.loss[s]) <= allowed * (double)cpu.loss[s]))
                fail_msg("job %d: loss of step %d is %g, and %g on the card", (int)i, s, (double)cpu.loss[s],
                         (double)card.loss[s]);
        double apart = numbers_apart(cpu.numbers, card.numbers);
        if (!(apart <= (jobs[i].precision ? 0.07 : 2e-3)))
            fail_msg("job %d: parameters are %g apart", (int)i, apart);
        test_free(cpu.numbers);
        test_free(card.numbers);
    }
}

int main(void)
{
    stand_in_environment();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_trains_as_the_cpu)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
