/* The log of a training run: opened by the command, written by its script. And that of a plan, which has the
 * same events without a run. */
#ifndef BRIM_CLI_LOG_H
#define BRIM_CLI_LOG_H

#include "../plan/plan.h"
#include "../report/runlog.h"

struct Options;
struct Saving;
struct Training;

enum { LOG_PATH = 4096 };

typedef struct TrainLog {
    const char *path;   /* as typed; NULL: there is no log, and nothing below does anything */
    char own[LOG_PATH]; /* this rank's */
    RunOutline *outline;
    RunLog *file;
    int planned; /* the log is of a plan: its events are those on meta */
    int told;    /* that the log ended early */
} TrainLog;

/* Before planning. EXIT_DONE, or EXIT_NO after saying why. */
int train_log_prepare(TrainLog *log, const struct Options *options);
/* After planning: creates the file. Where there are ranks, all call it, with a log or without. EXIT_DONE, or
 * EXIT_NO after saying why. */
int train_log_open(TrainLog *log, const struct Training *training, const Plan *plan);
/* In the script, first of all: the outline on meta, the events of a real run. Non-zero with an error. */
int train_log_begin(TrainLog *log);
/* In a real run, at the end of a step, and after a validation (accuracy < 0: no classifier). */
void train_log_step(TrainLog *log, const RunLogStep *step);
void train_log_validation(TrainLog *log, const RunLogValidation *validation);
/* After the run, or without one (result NULL); frees everything. */
void train_log_close(TrainLog *log, const Plan *plan, const RunResult *result);

/* Creates the file. run: a number that all logs of this run have, and none of another. EXIT_DONE, or EXIT_NO
 * after saying why. */
int train_log_create(TrainLog *log, const struct Training *training, const Plan *plan, uint64_t run);
uint64_t train_log_number(void);

/* (plan_log.c) brim plan --log: plans once more, into the log; with stages, each of them into one of its own.
 * EXIT_DONE, or EXIT_NO after saying why. */
int plan_log_write(const struct Options *options);

#endif
