/* The plan is the law: what it needs suffices and one byte less is refused; what a script does off its plan
 * is noticed and corrupts nothing; what is printed goes where it was asked to go. */
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "plan_support.h"

static Session session;

static const Case typical[] = {
    {.family = MODEL_MLP, .accumulate = 3, .optimizer = "adam"},
    {.family = MODEL_BERT, .accumulate = 1, .optimizer = "adamw", .dropout = 0.1f, .checkpoint = 1},
    {.family = MODEL_GPT2, .accumulate = 3, .optimizer = "sgd-momentum", .attention = ATTENTION_EAGER},
    {.family = MODEL_LLAMA, .accumulate = 1, .optimizer = "adamw"},
};

static const Case small_llama = {.family = MODEL_LLAMA, .accumulate = 1, .optimizer = "adamw", .epochs = 1};

static RunOptions quiet_options(void)
{
    return (RunOptions){.threads = 1, .seed = 3, .quiet = 1};
}

static int wants_malloc(void) /* as plan.c asks */
{
    const char *mode = getenv("BRIM_MEMORY");
    return mode && !strcmp(mode, "malloc");
}

static Plan plan_case(const Case *c)
{
    Plan plan;
    RunOptions options = quiet_options();
    session = (Session){.c = *c};
    if (plan_script(case_script, &session, &options, &plan))
        fail_msg("planning failed: %s", plan.error);
    return plan;
}

/* ---- What it needs --------------------------------------------------------------------------- */

static void a_budget_of_what_it_needs_suffices(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(typical); i++) {
        uint64_t live = memtrack_process_live();
        Plan plan = plan_case(&typical[i]);
        RunOptions options = quiet_options();
        RunResult result;
        options.budget = plan.memory.stats.needs;
        assert_int_equal(plan_execute(case_script, &session, &options, &plan, &result), 0);
        assert_int_equal(result.status, 0);
        assert_string_equal(result.error, "");
        assert_int_equal(result.memory.stats.needs, plan.memory.stats.needs);
        plan_free(&plan);
        assert_int_equal(memtrack_process_live(), live);
    }
}

static void a_byte_less_is_refused_before_step_1(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(typical); i++) {
        uint64_t live = memtrack_process_live(), needs;
        Plan plan = plan_case(&typical[i]);
        RunOptions options = quiet_options();
        RunResult result;
        char exact[32];
        needs = plan.memory.stats.needs;
        options.budget = needs - 1;
        session.calls = 0;
        assert_int_equal(plan_execute(case_script, &session, &options, &plan, &result), ERROR_BUDGET);
        assert_int_equal(result.status, ERROR_BUDGET);
        assert_int_equal(session.calls, 0);
        assert_int_equal(result.steps, 0);
        snprintf(exact, sizeof exact, "%llu bytes", (unsigned long long)needs);
        assert_non_null(strstr(result.error, exact));
        assert_non_null(strstr(result.error, "1 more than the budget"));
        plan_free(&plan);
        assert_int_equal(memtrack_process_live(), live);
    }
}

/* 64 bytes less of memory, reserved or as a limit: an error, not a crash, and nothing left. */
static void a_smaller_reservation_is_an_error(void **state)
{
    (void)state;
    static const MemMode modes[] = {MEMTRACK_RESERVED, MEMTRACK_MALLOC};
    for (size_t i = 0; i < COUNT(typical) * 2; i++) {
        uint64_t live = memtrack_process_live();
        Plan plan = plan_case(&typical[i / 2]);
        Context *context =
            context_create(&(ContextOptions){.memory = modes[i % 2],
                                             .capacity = plan.memory.stats.needs - MEMTRACK_ALIGN,
                                             .threads = 1,
                                             .seed = 3});
        memtrack_ledger_follow(context_ledger(context), plan.hints);
        Context *outside = context_use(context);
        int scope = tensor_scope_begin();
        assert_int_equal(case_script(&session), ERROR_MEMORY);
        assert_true(strlen(error_message()) > 20);
        tensor_scope_end(scope);
        assert_int_equal(memtrack_stats(context_ledger(context))->live, 0);
        assert_true(memtrack_stats(context_ledger(context))->needs < plan.memory.stats.needs);
        context_use(outside);
        context_destroy(context);
        plan_free(&plan);
        assert_int_equal(memtrack_process_live(), live);
    }
}

/* A block of 1 MiB when planned, `more` bytes longer for real. */
static int one_block(void *config)
{
    int64_t more = context_is_meta(context_current()) ? 0 : *(int64_t *)config;
    tensor_new(DTYPE_F32, SHAPE(((1 << 20) + more) / 4), MEM_TEMPORARY);
    return error_code();
}

static void the_reservation_is_not_a_byte_larger(void **state)
{
    (void)state;
    Plan plan;
    RunResult result;
    RunOptions options = quiet_options();
    int64_t more = 0;
    assert_int_equal(plan_script(one_block, &more, &options, &plan), 0);
    assert_int_equal(plan.memory.stats.needs, 1 << 20);
    assert_int_equal(plan_execute(one_block, &more, &options, &plan, &result), 0);
    assert_true(wants_malloc() || result.memory.reserved == 1 << 20);
    more = 4;
    assert_int_equal(plan_execute(one_block, &more, &options, &plan, &result), ERROR_MEMORY);
    plan_free(&plan);
}

static void more_than_the_machine_is_refused(void **state)
{
    (void)state;
    uint64_t live = memtrack_process_live();
    Plan plan = plan_case(&small_llama);
    RunOptions options = quiet_options();
    RunResult result;
    plan.memory.stats.needs = UINT64_C(1) << 50;
    session.calls = 0;
    for (int i = 0; i < 2; i++) {
        MemMachine machine;
        memtrack_machine(&machine);
        options.malloc_blocks = i;
        assert_int_equal(plan_execute(case_script, &session, &options, &plan, &result), ERROR_MEMORY);
        assert_non_null(strstr(result.error, "needs 1024.00 TiB"));
        assert_non_null(strstr(result.error, " are free on this machine"));
        assert_non_null(strstr(result.error, machine.bound));
        assert_int_equal(session.calls, 0);
    }
    plan_free(&plan);
    assert_int_equal(memtrack_process_live(), live);
}

/* ---- Scripts that fail ----------------------------------------------------------------------- */

static int fails_without_a_word(void *config)
{
    (void)config;
    return 7;
}

static int fails_on_shapes(void *config)
{
    (void)config;
    tensor_add(tensor_zeros(DTYPE_F32, SHAPE(2), MEM_TEMPORARY),
               tensor_zeros(DTYPE_F32, SHAPE(3), MEM_TEMPORARY));
    return 0; /* forgets to look: the error counts all the same */
}

static int makes_nothing(void *config)
{
    (void)config;
    return 0;
}

static void scripts_that_fail_say_so(void **state)
{
    (void)state;
    uint64_t live = memtrack_process_live();
    Plan plan;
    RunResult result;
    RunOptions options = quiet_options();
    assert_int_equal(plan_script(fails_without_a_word, NULL, &options, &plan), 7);
    assert_true(strlen(plan.error) > 0);
    assert_int_equal(plan_script(fails_on_shapes, NULL, &options, &plan), ERROR_SHAPE);
    assert_non_null(strstr(plan.error, "(2)"));
    assert_non_null(strstr(plan.error, "(3)"));
    assert_int_equal(brim_run(fails_on_shapes, NULL, &options), 1);
    assert_int_equal(plan_script(makes_nothing, NULL, NULL, &plan), 0);
    assert_string_equal(plan.error, "");
    assert_int_equal(plan.memory.stats.needs, 0);
    assert_int_equal(plan_execute(makes_nothing, NULL, &options, &plan, &result), 0);
    assert_int_equal(plan_execute(fails_without_a_word, NULL, &options, &plan, &result), 7);
    assert_true(strlen(result.error) > 0);
    plan_free(&plan);
    assert_int_equal(memtrack_process_live(), live);
}

/* A context of one's own is current again afterwards, with its error and its tensors. */
static void the_context_outside_is_left_alone(void **state)
{
    (void)state;
    Visit here = visit(&(ContextOptions){.threads = 1});
    Context *own = context_current();
    Tensor *mine = tensor_zeros(DTYPE_F32, SHAPE(4), MEM_TEMPORARY);
    tensor_fill(mine, 5);
    Plan plan = plan_case(&small_llama);
    RunOptions options = quiet_options();
    RunResult result;
    assert_int_equal(plan_execute(case_script, &session, &options, &plan, &result), 0);
    assert_ptr_equal(context_current(), own);
    plan_free(&plan);
    assert_int_equal(plan_script(fails_on_shapes, NULL, &options, &plan), ERROR_SHAPE);
    assert_ptr_equal(context_current(), own);
    assert_fine();
    assert_true(tensor_f32(mine)[3] == 5);
    leave(here);
}

/* ---- Off the plan ---------------------------------------------------------------------------- */

typedef struct Extra {
    int64_t step, bytes;
} Extra;

/* Only for real, and only at this step: something that was not planned, and is gone at once. */
static void extra_for_real(void *user, int64_t step)
{
    Extra *extra = user;
    if (context_is_meta(context_current()) || step != extra->step)
        return;
    Tensor *t = tensor_new(DTYPE_F32, SHAPE(extra->bytes / 4), MEM_TEMPORARY);
    tensor_fill(t, 123);
    tensor_free(t);
}

static void off_plan_is_counted_and_harmless(void **state)
{
    (void)state;
    static Session on_plan;
    uint64_t live = memtrack_process_live();
    for (size_t i = 0; i < COUNT(typical); i++) {
        RunOptions options = quiet_options();
        RunResult result;
        Plan plan = plan_case(&typical[i]);
        assert_int_equal(plan_execute(case_script, &session, &options, &plan, &result), 0);
        assert_int_equal(result.segments_off_plan, 0);
        assert_int_equal(result.first_off_plan, -1);
        on_plan = session;
        Extra extra = {.step = 2, .bytes = 256};
        session.in_step = extra_for_real;
        session.user = &extra;
        assert_int_equal(plan_execute(case_script, &session, &options, &plan, &result), 0);
        assert_int_equal(result.segments_off_plan, 1);
        assert_int_equal(result.first_off_plan, 2);
        assert_memory_equal(on_plan.parameters, session.parameters,
                            (size_t)on_plan.parameter_count * sizeof on_plan.parameters[0]);
        assert_int_equal(result.memory.stats.live, 0);
        plan_free(&plan);
    }
    assert_int_equal(memtrack_process_live(), live);
}

static void off_plan_beyond_the_reservation_is_an_error(void **state)
{
    (void)state;
    uint64_t live = memtrack_process_live();
    RunOptions options = quiet_options();
    RunResult result;
    Plan plan = plan_case(&small_llama);
    Extra extra = {.step = 3, .bytes = (int64_t)plan.memory.stats.needs};
    session.in_step = extra_for_real;
    session.user = &extra;
    assert_int_equal(plan_execute(case_script, &session, &options, &plan, &result), ERROR_MEMORY);
    assert_true(strlen(result.error) > 20);
    assert_int_equal(result.memory.stats.live, 0);
    plan_free(&plan);
    assert_int_equal(memtrack_process_live(), live);
}

/* More kinds of steps than a plan keeps signatures of are not reported as steps off the plan. */
static int many_kinds(void *config)
{
    (void)config;
    Module *model = nn_linear(4, 3, 1);
    Optimizer *optimizer = optim_sgd(nn_parameters(model), &(Sgd){.lr = 0.1f});
    for (int64_t step = 0; step < PLAN_SIGNATURES + 20 && !error_code(); step++) {
        int scope = tensor_scope_begin();
        tensor_backward(
            tensor_sum(nn_forward(model, tensor_zeros(DTYPE_F32, SHAPE(1 + step, 4), MEM_INPUT), NULL)));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    return error_code();
}

static void many_kinds_of_steps_are_on_plan(void **state)
{
    (void)state;
    RunOptions options = quiet_options();
    RunResult result;
    Plan plan;
    assert_int_equal(plan_script(many_kinds, NULL, &options, &plan), 0);
    assert_int_equal(plan.steps, PLAN_SIGNATURES + 20);
    assert_int_equal(plan_execute(many_kinds, NULL, &options, &plan, &result), 0);
    assert_null(books_differ(&plan.memory, &result.memory));
    assert_int_equal(result.segments_off_plan, 0);
    assert_true(plan.more_kinds);
    plan_free(&plan);
    plan = plan_case(&small_llama);
    assert_false(plan.more_kinds);
    plan_free(&plan);
}

/* ---- What is printed ------------------------------------------------------------------------- */

/* stdout and stderr of what runs between begin and end. */
typedef struct Capture {
    int saved[2];
    FILE *files[2];
    char text[2][4096];
} Capture;

static void capture_begin(Capture *capture)
{
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 2; i++) {
        capture->saved[i] = dup(1 + i);
        capture->files[i] = tmpfile();
        dup2(fileno(capture->files[i]), 1 + i);
    }
}

static void capture_end(Capture *capture)
{
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 2; i++) {
        dup2(capture->saved[i], 1 + i);
        close(capture->saved[i]);
        rewind(capture->files[i]);
        size_t length = fread(capture->text[i], 1, sizeof capture->text[i] - 1, capture->files[i]);
        capture->text[i][length] = '\0';
        fclose(capture->files[i]);
    }
}

static int count_lines(const char *text, const char *start)
{
    int count = 0;
    for (const char *at = text; at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL)
        count += !strncmp(at, start, strlen(start));
    return count;
}

typedef struct Printed {
    Capture capture;
    int status;
    char *text;
    size_t length;
} Printed;

static Printed *run_printed(RunOptions options)
{
    static Printed printed;
    memset(&printed, 0, sizeof printed);
    FILE *out = open_memstream(&printed.text, &printed.length);
    options.out = out;
    options.threads = 1;
    capture_begin(&printed.capture);
    printed.status = brim_run(case_script, &session, &options);
    capture_end(&printed.capture);
    fclose(out);
    return &printed;
}

static void the_report_goes_to_its_file(void **state)
{
    (void)state;
    uint64_t live = memtrack_process_live();
    session = (Session){.c = small_llama}; /* 5 steps */
    Printed *p = run_printed((RunOptions){.seed = 3, .title = "a small llama"});
    assert_int_equal(p->status, 0);
    assert_string_equal(p->capture.text[0], "");
    assert_string_equal(p->capture.text[1], "");
    assert_int_equal(count_lines(p->text, "a small llama"), 1);
    assert_int_equal(count_lines(p->text, "Plan: needs "), 1);
    assert_int_equal(count_lines(p->text, "step "), 5);
    assert_int_equal(count_lines(p->text, "5 steps, "), 1);
    assert_int_equal(count_lines(p->text, "peak  "), 1);
    assert_int_equal(count_lines(p->text, "textbook P + G + O + A"), 1);
    assert_non_null(strstr(p->text, "   0 bytes apart\n"));
    assert_null(strstr(p->text, "off the plan"));
    assert_in_range(session.calls, 2, 3); /* planned once or twice */
    free(p->text);
    assert_int_equal(memtrack_process_live(), live);
}

static void every_thins_the_step_lines(void **state)
{
    (void)state;
    session = (Session){.c = small_llama};
    Printed *p = run_printed((RunOptions){.every = 2});
    assert_int_equal(p->status, 0);
    assert_int_equal(count_lines(p->text, "step "), 3); /* 1, 2, 4 */
    free(p->text);
}

static void quiet_prints_nothing(void **state)
{
    (void)state;
    session = (Session){.c = small_llama};
    Printed *p = run_printed((RunOptions){.quiet = 1, .title = "a title"});
    assert_int_equal(p->status, 0);
    assert_int_equal(p->length, 0);
    assert_string_equal(p->capture.text[0], "");
    assert_string_equal(p->capture.text[1], "");
    free(p->text);
}

static void off_plan_is_printed(void **state)
{
    (void)state;
    Extra extra = {.step = 2, .bytes = 256};
    session = (Session){.c = small_llama, .in_step = extra_for_real, .user = &extra};
    Printed *p = run_printed((RunOptions){.seed = 3});
    assert_int_equal(p->status, 0);
    assert_non_null(strstr(p->text, "1 segment"));
    assert_non_null(strstr(p->text, "off the plan"));
    assert_non_null(strstr(p->text, "step 3\n"));
    free(p->text);
}

static void a_budget_too_small_is_said_on_stderr(void **state)
{
    (void)state;
    session = (Session){.c = small_llama};
    Printed *p = run_printed((RunOptions){.budget = 1000});
    assert_int_equal(p->status, 1);
    assert_string_equal(p->capture.text[0], "");
    assert_non_null(strstr(p->capture.text[1], "more than the budget of 1000"));
    assert_int_equal(count_lines(p->text, "step "), 0);
    assert_in_range(session.calls, 1, 2); /* planned, not run */
    free(p->text);
}

/* ---- Several at once ------------------------------------------------------------------------- */

typedef struct Worker {
    pthread_t thread;
    Session session;
    Plan plan;
    RunResult result;
    int threads, status;
} Worker;

static void *work(void *user)
{
    Worker *w = user;
    RunOptions options = {.threads = w->threads, .seed = 3, .quiet = 1};
    for (int i = 0; i < 3 && !w->status; i++) {
        w->status = plan_script(case_script, &w->session, &options, &w->plan);
        if (!w->status)
            w->status = plan_execute(case_script, &w->session, &options, &w->plan, &w->result);
        plan_free(&w->plan);
    }
    return NULL;
}

static void check_together(const Case *first, const Case *second, int threads)
{
    static Worker alone[2], together[2];
    const Case *cases[] = {first, second};
    uint64_t live = memtrack_process_live();
    for (int i = 0; i < 2; i++) {
        alone[i] = (Worker){.session.c = *cases[i], .threads = threads};
        together[i] = alone[i];
        work(&alone[i]);
        assert_int_equal(alone[i].status, 0);
    }
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&together[i].thread, NULL, work, &together[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(together[i].thread, NULL);
    for (int i = 0; i < 2; i++) {
        if (together[i].status)
            fail_msg("%s%s", together[i].plan.error, together[i].result.error);
        assert_null(books_differ(&alone[i].plan.memory, &together[i].plan.memory));
        assert_null(books_differ(&alone[i].result.memory, &together[i].result.memory));
        assert_int_equal(together[i].result.segments_off_plan, 0);
        assert_true(alone[i].session.parameter_count > 0);
        assert_memory_equal(alone[i].session.parameters, together[i].session.parameters,
                            (size_t)alone[i].session.parameter_count * sizeof(float));
    }
    assert_int_equal(memtrack_process_live(), live);
}

static void two_threads_train_as_one_would(void **state)
{
    (void)state;
    check_together(&typical[1], &typical[3], 1);
    check_together(&typical[0], &typical[2], 1);
    check_together(&small_llama, &small_llama, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_budget_of_what_it_needs_suffices),
        cmocka_unit_test(a_byte_less_is_refused_before_step_1),
        cmocka_unit_test(a_smaller_reservation_is_an_error),
        cmocka_unit_test(the_reservation_is_not_a_byte_larger),
        cmocka_unit_test(more_than_the_machine_is_refused),
        cmocka_unit_test(scripts_that_fail_say_so),
        cmocka_unit_test(the_context_outside_is_left_alone),
        cmocka_unit_test(off_plan_is_counted_and_harmless),
        cmocka_unit_test(off_plan_beyond_the_reservation_is_an_error),
        cmocka_unit_test(many_kinds_of_steps_are_on_plan),
        cmocka_unit_test(the_report_goes_to_its_file),
        cmocka_unit_test(every_thins_the_step_lines),
        cmocka_unit_test(quiet_prints_nothing),
        cmocka_unit_test(off_plan_is_printed),
        cmocka_unit_test(a_budget_too_small_is_said_on_stderr),
        cmocka_unit_test(two_threads_train_as_one_would),
    };
    return cmocka_run_group_tests_name("plan limits", tests, NULL, NULL);
}
