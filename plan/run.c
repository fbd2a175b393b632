/* The real run of a script by its plan, and the comparison of their segments. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#include "live_.h"
#include "plan_.h"

enum { RECENT_STEPS = 101 };

/* What brim_step needs to know of the run around it. */
typedef struct Run {
    const RunOptions *options;
    RunResult *result;
    FILE *out;
    int64_t lines;
    double started, last;         /* last: when the current step's time began */
    double step_seconds;          /* of the step that ended last */
    double tokens, token_seconds; /* of all steps but the first, which warms up */
    double recent[RECENT_STEPS];  /* seconds, as a ring */
    Live live;
} Run;

static _Thread_local Run *current_run;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct RealSegments {
    const Plan *plan;
    RunResult *result;
} RealSegments;

static void compare_segment(Context *context, int step_ended, void *user)
{
    RealSegments *segments = user;
    RunResult *result = segments->result;
    result->steps += step_ended;
    if (current_run && step_ended)
        current_run->step_seconds = now() - current_run->last;
    else if (current_run)
        current_run->last = now(); /* set-up and evaluations do not count as training time */
    if (segments->plan->more_kinds ||
        plan_find_signature_(segments->plan, memtrack_stats(context->ledger)->step_hash))
        return;
    if (result->segments_off_plan++ == 0)
        result->first_off_plan = memtrack_step(context->tracker);
}

/* ---- Running --------------------------------------------------------------------------------- */

static int refuse_budget(RunResult *result, uint64_t needs, uint64_t budget)
{
    snprintf(result->error, sizeof result->error,
             "needs %" PRIu64 " bytes (%s), %" PRIu64 " more than the budget of %" PRIu64 " (%s)", needs,
             report_size(needs).text, needs - budget, budget, report_size(budget).text);
    return result->status = ERROR_BUDGET;
}

static int refuse_machine(RunResult *result, uint64_t needs, const MemMachine *machine)
{
    snprintf(result->error, sizeof result->error,
             "needs %" PRIu64 " bytes (%s), but %s are free on this machine (%s); a smaller batch or more "
             "checkpointing needs less",
             needs, report_size(needs).text, report_size(machine->available).text, machine->bound);
    return result->status = ERROR_MEMORY;
}

static int refuse_reservation(RunResult *result, uint64_t needs)
{
    snprintf(result->error, sizeof result->error,
             "needs %" PRIu64 " bytes (%s), which the system would not give in one piece", needs,
             report_size(needs).text);
    return result->status = ERROR_MEMORY;
}

static int wants_malloc(const RunOptions *options)
{
    const char *mode = getenv("BRIM_MEMORY");
    return options->malloc_blocks || (mode && !strcmp(mode, "malloc"));
}

static Context *context_for(const RunOptions *options, uint64_t needs)
{
    int own_blocks = wants_malloc(options);
    return context_create(&(ContextOptions){.memory = own_blocks ? MEMTRACK_MALLOC : MEMTRACK_RESERVED,
                                            .capacity = needs ? needs : MEMTRACK_ALIGN,
                                            .threads = options->threads,
                                            .seed = options->seed,
                                            .kernels = options->kernels,
                                            .device = options->device});
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_step(Run *run)
{
    int64_t timed = run->lines - 1;
    size_t count = (size_t)(timed < RECENT_STEPS ? timed : RECENT_STEPS);
    if (timed < 1)
        return 0;
    qsort(run->recent, count, sizeof run->recent[0], by_value);
    return run->recent[count / 2];
}

int plan_execute(Script script, void *config, const RunOptions *options, const Plan *plan, RunResult *result)
{
    static const RunOptions defaults;
    const RunOptions *o = options ? options : &defaults;
    uint64_t needs = plan->memory.stats.needs;
    memset(result, 0, sizeof *result);
    result->first_off_plan = -1;
    if (o->budget && needs > o->budget)
        return refuse_budget(result, needs, o->budget);
    MemMachine machine;
    memtrack_machine(&machine);
    if (needs > machine.available)
        return refuse_machine(result, needs, &machine);
    Context *context = context_for(o, needs);
    if (!context)
        return refuse_reservation(result, needs);
    memtrack_ledger_follow(context->ledger, plan->hints);
    Context *outside = context_use(context);
    Run run = {.options = o, .result = result, .out = o->out ? o->out : stdout, .started = now()};
    run.last = run.started;
    Run *run_outside = current_run;
    current_run = &run;
    RealSegments segments = {plan, result};
    live_start_(&run.live, o, plan, &machine, run.out, context->ledger);
    result->status = plan_run_script_(script, config, context, compare_segment, &segments);
    live_end_(&run.live);
    current_run = run_outside;
    plan_keep_error_(result->error, sizeof result->error, result->status);
    result->seconds = now() - run.started;
    if (run.token_seconds > 0)
        result->tokens_per_second = run.tokens / run.token_seconds;
    result->step_seconds = median_step(&run);
    report_summary(context->ledger, &result->memory);
    result->memory.reserved = wants_malloc(o) ? 0 : needs;
    result->memory.process_peak = memtrack_process_resident_peak();
    context_use(outside);
    context_destroy(context);
    return result->status;
}

void brim_step(int64_t tokens)
{
    Run *run = current_run;
    Context *context = context_here();
    if (!run || !context || context->meta || context->error)
        return;
    int64_t step = context->loss_step + 1;
    int over = memtrack_step(context->tracker) >= step; /* an evaluation came first */
    double t = now(), loss = context->step_loss;
    double seconds = fmax(over ? run->step_seconds : t - run->last, 1e-9);
    RunResult *result = run->result;
    if (run->lines++ == 0) {
        result->loss_first = loss;
    } else {
        run->tokens += (double)tokens;
        run->token_seconds += seconds;
        run->recent[(run->lines - 2) % RECENT_STEPS] = seconds;
    }
    result->loss_last = loss;
    run->last = t;
    int every = run->options->every > 0 ? run->options->every : 1;
    const StepLine line = {step, loss, (double)tokens / seconds};
    if (live_step_(&run->live, &line, (double)tokens, seconds))
        return;
    if (!run->options->quiet && (step == 1 || step % every == 0)) {
        report_step(run->out, context->ledger, &line);
        fflush(run->out);
    }
}

void brim_lap(void)
{
    if (current_run)
        current_run->last = now();
}

void brim_say(const char *format, ...)
{
    Run *run = current_run;
    Context *context = context_here();
    if (!run || !context || context->meta || run->options->quiet)
        return;
    va_list arguments;
    va_start(arguments, format);
    live_make_room_(&run->live);
    vfprintf(run->out, format, arguments);
    fputc('\n', run->out);
    fflush(run->out);
    va_end(arguments);
}

static void print_plan(FILE *out, const RunOptions *o, const Plan *plan)
{
    if (o->title)
        fprintf(out, "%s\n", o->title);
    fprintf(out, "Plan: needs %s (%" PRIu64 " bytes); peak in %s, %s\n",
            report_size(plan->memory.stats.needs).text, plan->memory.stats.needs,
            memtrack_phase_name(plan->memory.stats.peak_at.phase), report_place(&plan->memory));
    if (kernels_blas_warning())
        fprintf(out, "Note: %s.\n", kernels_blas_warning());
}

static void print_run(FILE *out, const Plan *plan, const RunResult *result)
{
    fprintf(out, "\n%" PRId64 " step%s, %.1f s, loss %.4f -> %.4f\n\n", result->steps,
            result->steps == 1 ? "" : "s", result->seconds, result->loss_first, result->loss_last);
    report_table(out, &plan->memory, &result->memory);
    report_textbook(out, &plan->memory);
    if (result->segments_off_plan)
        fprintf(out, "%" PRId64 " segments went off the plan, the first at step %" PRId64 "\n",
                result->segments_off_plan, result->first_off_plan + 1);
}

int brim_run(Script script, void *config, const RunOptions *options)
{
    static const RunOptions defaults;
    const RunOptions *o = options ? options : &defaults;
    FILE *out = o->out ? o->out : stdout;
    Plan plan;
    RunResult result;
    if (plan_script(script, config, o, &plan)) {
        if (!o->quiet)
            fprintf(stderr, "brim: while planning: %s\n", plan.error);
        return 1;
    }
    if (!o->quiet)
        print_plan(out, o, &plan);
    int status = plan_execute(script, config, o, &plan, &result);
    if (!o->quiet && status)
        fprintf(stderr, "brim: %s\n", result.error);
    else if (!o->quiet)
        print_run(out, &plan, &result);
    plan_free(&plan);
    return status ? 1 : 0;
}
