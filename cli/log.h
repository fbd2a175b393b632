/* The log of a training run: opened by the command, written by its script. */
#ifndef BRIM_CLI_LOG_H
#define BRIM_CLI_LOG_H

#include "../plan/plan.h"
#include "../report/runlog.h"

struct Options;
struct Training;

typedef struct TrainLog {
    const char *path; /* NULL: there is no log, and nothing below does anything */
    RunOutline *outline;
    RunLog *file;
    int told; /* that the log ended early */
} TrainLog;

/* Before planning. EXIT_DONE, or EXIT_NO after saying why. */
int train_log_prepare(TrainLog *log, const char *path);
/* After planning: creates the file. EXIT_DONE, or EXIT_NO after saying why. */
int train_log_open(TrainLog *log, const struct Training *training, const Plan *plan);
/* In the script, first of all: the outline on meta, the events of a real run. Non-zero with an error. */
int train_log_begin(TrainLog *log);
/* In a real run, at the end of a step, and after a validation (accuracy < 0: no classifier). */
void train_log_step(TrainLog *log, const RunLogStep *step);
void train_log_validation(TrainLog *log, const RunLogValidation *validation);
/* After the run, or without one (result NULL); frees everything. */
void train_log_close(TrainLog *log, const Plan *plan, const RunResult *result);

#endif
