/* The log of a training run. A log that cannot be created stops the command before it trains; one that breaks
 * off later is reported once, and training continues. */
#include <string.h>

#include "../kernels/kernels.h"
#include "levers_.h"

int train_log_prepare(TrainLog *log, const char *path)
{
    *log = (TrainLog){.path = path};
    if (path && report_log_in_use(path)) {
        fprintf(stderr, "brim: cannot write the log %s: another run writes it\n", path);
        return EXIT_NO;
    }
    if (!path || (log->outline = report_outline_create()))
        return EXIT_DONE;
    fprintf(stderr, "brim: out of host memory for the log %s\n", path);
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

static json_t *run_json(const Training *training, const Plan *plan)
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
    return all;
}

int train_log_open(TrainLog *log, const Training *training, const Plan *plan)
{
    char why[640];
    if (!log->path)
        return EXIT_DONE;
    json_t *run = run_json(training, plan);
    log->file = report_log_open(log->path, run, log->outline, why, sizeof why);
    json_decref(run);
    if (log->file)
        return EXIT_DONE;
    fprintf(stderr, "brim: %s\n", why);
    return EXIT_NO;
}

int train_log_begin(TrainLog *log)
{
    const Context *context = context_current();
    int failed = 0;
    if (log && context_is_meta(context))
        failed = log->outline && report_outline_record(log->outline, context_ledger(context));
    else if (log && log->file)
        failed = report_log_attach(log->file, context_ledger(context));
    return failed ? error_raise(ERROR_HOST_MEMORY, "out of host memory for the log %s", log->path) : 0;
}

static void say_if_broken(TrainLog *log)
{
    const char *error = report_log_error(log->file);
    if (error[0] && !log->told++)
        fprintf(stderr, "brim: %s; the log ends here, training continues\n", error);
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
