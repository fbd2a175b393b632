/* The real run of a script by its plan, and the comparison of their segments. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "../kernels/kernels.h"
#include "../base/clock_.h"
#include "../base/plural_.h"
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
    double step_seconds;          /* since the last brim_step, of steps alone */
    double tokens, token_seconds; /* of all steps but the first, which warms up */
    double recent[RECENT_STEPS];  /* seconds, as a ring */
    int said;                     /* a line has been printed; it had this memory */
    uint64_t said_memory[MEM_GROUP_COUNT];
    Live live;
} Run;

static _Thread_local Run *current_run;

typedef struct RealSegments {
    const Plan *plan;
    RunResult *result;
} RealSegments;

static void time_step(void *user)
{
    Run *run = current_run;
    (void)user;
    if (!run)
        return;
    double now = clock_now();
    run->step_seconds += now - run->last;
    run->last = now;
}

static void compare_segment(Context *context, int step_ended, void *user)
{
    RealSegments *segments = user;
    RunResult *result = segments->result;
    result->steps += step_ended;
    if (current_run && !step_ended)
        current_run->last = clock_now(); /* set-up and evaluations do not count as training time */
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

int plan_fits_machine(const Plan *plan, uint64_t more, MemMachine *machine, char *why, size_t why_size)
{
    MemMachine found;
    uint64_t ranks = plan->ranks_here > 1 ? (uint64_t)plan->ranks_here : 1;
    uint64_t needs = plan->on_card ? 0 : ranks * plan->memory.stats.needs,
             around = ranks * plan->beside + more;
    memtrack_machine(&found);
    if (machine)
        *machine = found;
    if (needs <= found.available && around <= found.available - needs)
        return ERROR_NONE;
    char besides[96] = "";
    if (needs <= found.available) /* then what is beside it decides */
        snprintf(besides, sizeof besides, ", and %s for the process around it%s", report_size(around).text,
                 more ? " and files in memory" : "");
    char of_all[64] = "";
    if (ranks > 1)
        snprintf(of_all, sizeof of_all, " for the %d ranks on this machine", plan->ranks_here);
    snprintf(why, why_size, "needs %s%s%s, but %s are free on this machine (%s)", report_size(needs).text,
             of_all, besides, report_size(found.available).text, found.bound);
    return ERROR_MEMORY;
}

static int refuse_machine(RunResult *result)
{
    size_t length = strlen(result->error);
    snprintf(result->error + length, sizeof result->error - length,
             "; a smaller batch or more recomputation needs less");
    return result->status = ERROR_MEMORY;
}

/* The memory was free, but the system did not give it. */
static int refuse_reservation(RunResult *result, const Plan *plan, uint64_t needs)
{
    struct rlimit limit;
    if (plan_fits_machine(plan, 0, NULL, result->error, sizeof result->error))
        return refuse_machine(result); /* others have taken it since */
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        snprintf(
            result->error, sizeof result->error,
            "needs %s in one piece, which the system would not give; `ulimit -v` allows the process %s of "
            "addresses in all",
            report_size(needs).text, report_size(limit.rlim_cur).text);
    else
        snprintf(
            result->error, sizeof result->error,
            "needs %s in one piece, which the system would not give; or other programs took memory while "
            "it was reserved",
            report_size(needs).text);
    return result->status = ERROR_MEMORY;
}

/* The card has less than the plan needs. */
static int refuse_card(RunResult *result, const Context *context, uint64_t needs)
{
    snprintf(result->error, sizeof result->error,
             "needs %s, but %s are free on the card (beside the driver's context, the kernels and cuBLAS); a "
             "smaller batch or more recomputation needs less",
             report_size(needs).text, report_size(context_device_available(context)).text);
    return result->status = ERROR_MEMORY;
}

static int wants_malloc(const RunOptions *options)
{
    const char *mode = getenv("BRIM_MEMORY");
    return options->malloc_blocks || (mode && !strcmp(mode, "malloc"));
}

static Context *context_for(const RunOptions *options, const Plan *plan, uint64_t needs)
{
    int own_blocks = wants_malloc(options);
    return context_create(&(ContextOptions){.memory = own_blocks ? MEMTRACK_MALLOC : MEMTRACK_RESERVED,
                                            .capacity = needs ? needs : MEMTRACK_ALIGN,
                                            .beside = plan->beside,
                                            .threads = options->threads,
                                            .seed = options->seed,
                                            .kernels = options->kernels,
                                            .device = options->device,
                                            .ranks = options->ranks,
                                            .accumulate_apart = options->accumulate_apart,
                                            .no_graphs = options->no_graphs});
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
    RunOptions silent;
    memset(result, 0, sizeof *result);
    result->first_off_plan = -1;
    if (o->ranks && o->ranks->rank) { /* rank 0 prints for all */
        silent = *o;
        silent.quiet = 1;
        silent.panel = 0;
        o = &silent;
    }
    if (!script || !plan) {
        snprintf(result->error, sizeof result->error, "there is no %s: it is NULL",
                 script ? "plan" : "script to run");
        return result->status = ERROR_ARGUMENT;
    }
    uint64_t needs = plan->memory.stats.needs;
    if (o->budget && needs > o->budget)
        return refuse_budget(result, needs, o->budget);
    MemMachine machine;
    /* Threads and buffers take their memory before anybody looks at what is free. */
    if (!plan->on_card)
        kernels_blas_start(o->threads > 0 ? o->threads : context_default_threads(o->ranks));
    if (plan_fits_machine(plan, 0, &machine, result->error, sizeof result->error))
        return refuse_machine(result);
    if (plan_agree_(plan, o, result)) /* and nobody takes memory before all have looked at what is free */
        return result->status;
    Context *context = context_for(o, plan, needs);
    if (!context)
        return refuse_reservation(result, plan, needs);
    if (context->card && context->error == ERROR_MEMORY) {
        refuse_card(result, context, needs);
        context_destroy(context);
        return result->status;
    }
    memtrack_ledger_follow(context->ledger, plan->hints);
    Context *outside = context_use(context);
    Run run = {.options = o, .result = result, .out = o->out ? o->out : stdout, .started = clock_now()};
    run.last = run.started;
    Run *run_outside = current_run;
    current_run = &run;
    RealSegments segments = {plan, result};
    live_start_(&run.live, o, plan, &machine, run.out, context, wants_malloc(o) ? 0 : needs);
    result->status =
        plan_run_script_(script, config, context,
                         (SegmentHook){.segment = compare_segment, .step = time_step, .user = &segments});
    live_end_(&run.live);
    current_run = run_outside;
    plan_keep_error_(result->error, result->function, result->status);
    result->seconds = clock_now() - run.started;
    if (run.token_seconds > 0)
        result->tokens_per_second = run.tokens / run.token_seconds;
    result->step_seconds = median_step(&run);
    report_summary(context->ledger, &result->memory);
    result->memory.reserved = wants_malloc(o) ? 0 : needs;
    result->memory.process_peak = memtrack_process_resident_peak();
    result->memory.card = live_card_(context);
    context_use(outside);
    context_destroy(context);
    return result->status;
}

/* Whether the line before had the same memory by group; if not, this one says it. */
static int is_said(Run *run, const MemStats *stats)
{
    uint64_t now[MEM_GROUP_COUNT];
    for (int g = 0; g < MEM_GROUP_COUNT; g++)
        now[g] = report_group(stats->step_at_peak, (MemGroup)g);
    int same = run->said && !memcmp(run->said_memory, now, sizeof now);
    memcpy(run->said_memory, now, sizeof now);
    run->said = 1;
    return same;
}

void brim_step(int64_t tokens)
{
    Run *run = current_run;
    Context *context = context_here();
    if (!run || !context || context->meta || context->error)
        return;
    int64_t step = context->loss_step + 1;
    double loss = tensor_step_loss();
    time_step(NULL); /* a script may call this before its optimizer's step, or have no optimizer of ours */
    double seconds = fmax(run->step_seconds, 1e-9);
    run->step_seconds = 0;
    RunResult *result = run->result;
    if (run->lines++ == 0) {
        result->loss_first = loss;
    } else {
        run->tokens += (double)tokens;
        run->token_seconds += seconds;
        run->recent[(run->lines - 2) % RECENT_STEPS] = seconds;
    }
    result->loss_last = loss;
    int every = run->options->every > 0 ? run->options->every : 1;
    StepLine line = {.step = step, .loss = loss, .tokens_per_second = (double)tokens / seconds};
    if (live_step_(&run->live, &line, (double)tokens, seconds))
        return;
    if (!run->options->quiet && (step == 1 || step % every == 0)) {
        line.same_memory = is_said(run, memtrack_stats(context->ledger));
        report_step(run->out, context->ledger, &line);
        fflush(run->out);
    }
}

void brim_lap(void)
{
    if (current_run)
        current_run->last = clock_now();
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
            memtrack_phase_name(plan->memory.stats.peak_at.phase), report_path(&plan->memory));
    if (kernels_blas_warning())
        fprintf(out, "Note: %s.\n", kernels_blas_warning());
}

static void print_run(FILE *out, const Plan *plan, const RunResult *result)
{
    fprintf(out, "\n%" PRId64 " step%s, %.1f s, loss %.4f -> %.4f\n\n", result->steps, plural(result->steps),
            result->seconds, result->loss_first, result->loss_last);
    report_table(out, &plan->memory, &result->memory);
    report_textbook(out, &plan->memory);
    if (result->segments_off_plan)
        fprintf(out, "%" PRId64 " segment%s went off the plan, the first at step %" PRId64 "\n",
                result->segments_off_plan, plural(result->segments_off_plan), result->first_off_plan + 1);
}

/* For whoever writes the script: with the function that was called. */
static void print_error(const RunOptions *o, const char *when, const char *function, const char *error)
{
    char who[24] = "brim";
    if (o->ranks && o->ranks->rank)
        snprintf(who, sizeof who, "rank %d", o->ranks->rank);
    fprintf(stderr, "%s: %s%s%s%s\n", who, when, function, function[0] ? ": " : "", error);
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
            print_error(o, "while planning: ", plan.function, plan.error);
        return 1;
    }
    int prints = !o->quiet && !(o->ranks && o->ranks->rank);
    if (prints)
        print_plan(out, o, &plan);
    int status = plan_execute(script, config, o, &plan, &result);
    if (!o->quiet && status)
        print_error(o, "", result.function, result.error);
    else if (prints)
        print_run(out, &plan, &result);
    plan_free(&plan);
    return status ? 1 : 0;
}
