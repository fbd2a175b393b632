/* brim plan --log: the events of a plan as a run log, for the page and all exports. It is planned once more,
 * as the first line says what the first time found. */
#include <math.h>
#include <string.h>

#include "several.h"

static int write_planned(TrainLog *log, const Options *o, uint64_t run)
{
    Training training = {.options = o};
    RunOptions options = run_options(o);
    Plan plan, again;
    int failed = plan_script(training_script, &training, &options, &plan);
    if (!failed && !train_log_create(log, &training, &plan, run)) {
        training.log = log;
        failed = plan_script(training_script, &training, &options, &again);
        plan_free(&again);
        report_log_end(log->file, &(RunLogEnd){.loss_first = NAN, .loss_last = NAN, .seconds = NAN});
    }
    const char *error = log->file ? report_log_error(log->file) : "";
    if (failed)
        complain("%s", training.log ? again.error : plan.error);
    else if (error[0])
        complain("%s", error);
    int status = failed || !log->file || error[0] ? EXIT_NO : EXIT_DONE;
    report_log_close(log->file);
    log->file = NULL;
    plan_free(&plan);
    return status;
}

int plan_log_write(const Options *options)
{
    Options o = *options;
    uint64_t run = train_log_number();
    int all = has_stages(&o) && (!o.rank || !strcmp(o.rank, "all"));
    for (int stage = 0; stage < (all ? o.ranks.stages : 1); stage++) {
        TrainLog log = {.path = o.log, .planned = 1};
        if (all)
            o.ranks.rank = stage * stage_ranks(&o);
        if (report_log_rank_path(log.own, sizeof log.own, o.log, all ? o.ranks.rank : 0)) {
            complain("cannot write the log %.100s...: the path is too long", o.log);
            return EXIT_NO;
        }
        if (write_planned(&log, &o, run))
            return EXIT_NO;
    }
    return EXIT_DONE;
}
