/* What the files of `brim report` share. */
#ifndef BRIM_CLI_REPORT_INTERNAL_H
#define BRIM_CLI_REPORT_INTERNAL_H

#include <jansson.h>

#include "../estimate/pytorch/pytorch.h"
#include "../report/runlog_ranks.h"
#include "../report/torch_snapshot_read.h"

/* The measured peak: of the whole run; where the log breaks off, of its highest step; without any, of its
 * events. */
typedef struct Measured {
    uint64_t peak, at_peak[RUN_COMPONENTS];
    int present;
} Measured;
Measured measured_peak(const RunRecord *run);

/* "" when the log does not name it. */
const char *run_option(const RunRecord *run, const char *name);
/* The model and what it was trained with, and, behind the indent, the command. */
void print_run(const RunRecord *run, const char *indent);
/* With a row of every distinct rank, where there are several. */
void print_summary(const RunRecord *run, const RunRanks *ranks);
/* Both side by side, and what B has more or less than A. */
void print_difference(const RunRecord *a, const RunRecord *b);
/* All of `brim report` for a memory snapshot of PyTorch, beside what is predicted of a job where one is
 * given; what the command returns. */
int report_snapshot(const char *path, int json, const PytorchJob *job);
/* The job that the options behind --predict say; 0, or EXIT_USAGE after saying why not. */
int report_predict_job(int argc, char **argv, PytorchJob *job);
/* Prints how far the record follows the prediction, or makes *json of it. 0, or -1 without host memory. */
int report_predict(const TorchSnapshot *snapshot, const PytorchJob *job, json_t **json);

#endif
