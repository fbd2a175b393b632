/* The log of a training run. A log that cannot be created stops the command before it trains; one that breaks
 * off later is reported once, and training continues. */
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../kernels/kernels.h"
#include "levers_.h"
#include "several.h"

int train_log_prepare(TrainLog *log, const Options *o)
{
    *log = (TrainLog){.path = o->log};
    if (!o->log)
        return EXIT_DONE;
    if (report_log_rank_path(log->own, sizeof log->own, o->log, has_ranks(o) ? o->ranks.rank : 0)) {
        complain("cannot write the log %.100s...: the path is too long", o->log);
        return EXIT_NO;
    }
    if (report_log_in_use(log->own)) {
        complain("cannot write the log %s: another run writes it", log->own);
        return EXIT_NO;
    }
    if ((log->outline = report_outline_create()))
        return EXIT_DONE;
    complain("out of host memory for the log %s", log->own);
    return EXIT_NO;
}

static json_t *options_json(const Options *o, int64_t steps)
{
    json_t *all = levers_json(o);
    json_object_set_new(all, "steps", json_integer((json_int_t)steps));
    json_object_set_new(all, "seed", json_integer((json_int_t)o->seed));
    json_object_set_new(all, "threads", json_integer(threads_of(o)));
    json_object_set_new(all, "device", json_text(o->device));
    json_object_set_new(all, "data", json_text(o->data));
    return all;
}

/* What all ranks of a run have in common beside their plans: rank 0 says it. */
typedef struct LogStart {
    uint64_t run;   /* a number that no other run has */
    int64_t number; /* that the log of the earlier steps gets; 0: there is none */
} LogStart;

uint64_t train_log_number(void)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + ((uint64_t)getpid() << 40);
}

/* 0, or EXIT_NO after saying why. */
static int agree_on_start(const Options *o, LogStart *start)
{
    if (!has_ranks(o) || !o->ranks.transport)
        return EXIT_DONE;
    size_t bytes = (size_t)o->ranks.size * sizeof *start;
    LogStart *all = memtrack_host_alloc(NULL, bytes);
    int failed = !all || ranks_gather(&o->ranks, start, sizeof *start, all);
    if (!failed)
        *start = all[0];
    memtrack_host_free(NULL, all, bytes);
    if (failed)
        complain_of_run(ERROR_RANKS, "the other ranks cannot be reached");
    return failed ? EXIT_NO : EXIT_DONE;
}

/* Which of several ranks the log is of; of a plan, which others are like it. */
static json_t *ranks_json(const TrainLog *log, const Options *o, const Plan *plan, uint64_t run)
{
    const Ranks *r = &o->ranks;
    int each = stage_ranks(o), first = r->rank / each * each;
    char id[24];
    snprintf(id, sizeof id, "%016" PRIx64, run);
    json_t *all =
        json_pack("{s:i, s:i, s:s, s:i, s:i, s:i, s:s, s:s, s:i, s:I}", "rank", r->rank, "size", r->size,
                  "run", id, "data", data_ranks(o), "tensor", r->tensor > 0 ? r->tensor : 1, "stages",
                  has_stages(o) ? r->stages : 1, "strategy", ranks_strategy_name(r->strategy), "schedule",
                  ranks_schedule_name(r->schedule), "micro_batches", o->accumulate, "sent_bytes_per_step",
                  (json_int_t)plan->step_sent);
    if (r->replicas > 1)
        json_object_set_new(all, "replicas", json_integer(r->replicas));
    if (log->planned)
        json_object_set_new(all, "like", json_pack("[i, i]", first, first + each - 1));
    return all;
}

static json_t *run_json(const TrainLog *log, const Training *training, const Plan *plan, uint64_t run)
{
    const Options *o = training->options;
    json_t *command = json_array();
    for (int i = 0; i < o->argument_count; i++)
        json_array_append_new(command, json_text(o->arguments[i]));
    json_t *all = json_pack("{s:s, s:s, s:I, s:o, s:o, s:o}", "model", o->model, "family",
                            nn_family(o->preset.family)->name, "parameters", (json_int_t)training->parameters,
                            "command", command, "options", options_json(o, training->steps), "plan",
                            json_memory(&plan->memory, NULL));
    json_object_set_new(all, "kernels", json_string(kernels_cpu(NULL)->name));
    bracket_add_trained(all, &training->bracket);
    if (has_ranks(o))
        json_object_set_new(all, "ranks", ranks_json(log, o, plan, run));
    if (log->planned)
        json_object_set_new(all, "planned", json_true());
    return all;
}

int train_log_create(TrainLog *log, const Training *training, const Plan *plan, uint64_t id)
{
    char why[LOG_PATH + 256];
    json_t *run = run_json(log, training, plan, id);
    log->file = report_log_open(log->own, run, log->outline, why, sizeof why);
    json_decref(run);
    if (log->file)
        return EXIT_DONE;
    complain("%s", why);
    return EXIT_NO;
}

int train_log_open(TrainLog *log, const Training *training, const Plan *plan)
{
    const Options *o = training->options;
    LogStart start = {.run = train_log_number(), .number = saving_log_number(training->saving, log->path)};
    if (agree_on_start(o, &start))
        return EXIT_NO;
    if (!log->path)
        return EXIT_DONE;
    if (saving_keep_log(log->path, has_ranks(o) ? o->ranks.rank : 0, (int)start.number))
        return EXIT_NO;
    return train_log_create(log, training, plan, start.run);
}

/* A plan may run a script twice: what the first time logged is dropped. */
static int begin_planned(TrainLog *log, MemLedger *ledger)
{
    return log->file && (report_log_restart(log->file) || report_log_attach(log->file, ledger));
}

int train_log_begin(TrainLog *log)
{
    const Context *context = context_current();
    int failed = 0;
    if (log && context_is_meta(context) && log->planned)
        failed = begin_planned(log, context_ledger(context));
    else if (log && context_is_meta(context))
        failed = log->outline && report_outline_record(log->outline, context_ledger(context));
    else if (log && log->file)
        failed = report_log_attach(log->file, context_ledger(context));
    return failed ? error_raise(ERROR_HOST_MEMORY, "out of host memory for the log %s", log->own) : 0;
}

static void say_if_broken(TrainLog *log)
{
    const char *error = report_log_error(log->file);
    if (error[0] && !log->told++)
        complain_at_once("%s; the log ends here, training continues", error);
}

void train_log_step(TrainLog *log, const RunLogStep *step)
{
    if (!log || !log->file || error_code() || context_is_meta(context_current()))
        return;
    report_log_step(log->file, context_ledger(context_current()), step);
    say_if_broken(log);
}

void train_log_validation(TrainLog *log, const RunLogValidation *validation)
{
    if (!log || !log->file || error_code() || context_is_meta(context_current()))
        return;
    report_log_validation(log->file, validation);
    say_if_broken(log);
}

void train_log_close(TrainLog *log, const Plan *plan, const RunResult *result)
{
    if (log->file && result) {
        json_t *memory = json_memory(&result->memory, &plan->memory);
        report_log_end(log->file, &(RunLogEnd){.error = result->error,
                                               .steps = result->steps,
                                               .seconds = result->seconds,
                                               .loss_first = result->loss_first,
                                               .loss_last = result->loss_last,
                                               .memory = memory});
        json_decref(memory);
        say_if_broken(log);
    }
    report_log_close(log->file);
    report_outline_destroy(log->outline);
    *log = (TrainLog){0};
}
