/* What a step's line says of its speed is the time of that step, wherever in the step the script reports it, and
 * without what an evaluation takes. */
#include <unistd.h>

#include "../base/clock_.h"
#include "../brim.h"
#include "support.h"

typedef enum Report { BEFORE_UPDATE, AFTER_UPDATE, AFTER_EVALUATION } Report;

enum { STEPS = 6, STEP_US = 20000, EVALUATION_US = 60000 };

static double clocked; /* seconds of the steps but the first, without evaluations */

static int script(void *config)
{
    Report when = *(Report *)config;
    float features[4] = {1, 2, 3, 4};
    int32_t labels[4] = {0, 1, 0, 1};
    Loader *data = data_table(
        &(TableOptions){.features = features, .labels = labels, .count = 4, .width = 1, .batch = 4});
    Module *model = nn_linear(1, 2, 1);
    Optimizer *optimizer = optim_sgd(nn_parameters(model), &(Sgd){.lr = 0.1f});
    clocked = 0;
    for (int step = 0; step < STEPS && !error_code(); step++) {
        double start = clock_now();
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        if (!context_is_meta(context_current()))
            usleep(STEP_US);
        if (when == BEFORE_UPDATE)
            brim_step(100);
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        clocked += step ? clock_now() - start : 0;
        if (when == AFTER_EVALUATION) {
            tensor_no_grad_begin();
            tensor_new(DTYPE_F32, SHAPE(4), MEM_TEMPORARY);
            if (!context_is_meta(context_current()))
                usleep(EVALUATION_US);
            tensor_no_grad_end();
        }
        if (when != BEFORE_UPDATE)
            brim_step(100);
        tensor_scope_end(scope);
    }
    return error_code();
}

static void check_speed(Report when)
{
    RunOptions options = {.threads = 1, .quiet = 1};
    Plan plan;
    RunResult result;
    plan_script(script, &when, &options, &plan);
    assert_int_equal(plan.status, ERROR_NONE);
    plan_execute(script, &when, &options, &plan, &result);
    assert_int_equal(result.status, ERROR_NONE);
    plan_free(&plan);
    double expected = 100 * (STEPS - 1) / clocked;
    if (result.tokens_per_second < expected * 0.7 || result.tokens_per_second > expected * 1.4)
        fail_msg("%.0f tokens/s are said, %.0f were measured", result.tokens_per_second, expected);
    if (result.step_seconds < STEP_US * 0.9e-6)
        fail_msg("a step of %d microseconds is said to take %.6f s", STEP_US, result.step_seconds);
}

static void before_the_update(void **state)
{
    (void)state;
    check_speed(BEFORE_UPDATE);
}

static void after_the_update(void **state)
{
    (void)state;
    check_speed(AFTER_UPDATE);
}

static void after_an_evaluation(void **state)
{
    (void)state;
    check_speed(AFTER_EVALUATION);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(before_the_update), cmocka_unit_test(after_the_update),
                                       cmocka_unit_test(after_an_evaluation)};
    return cmocka_run_group_tests_name("step_time", tests, NULL, NULL);
}
