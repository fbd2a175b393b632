/* The run log: what a training run writes while it runs, a JSON object a line. docs/run-log.md describes the
 * format; runlog_read.h reads it back.
 *
 * Each line is written whole and flushed, so that a crash loses at most the last one. Events are kept until
 * the end of the second training step, steps by their peak alone: a log grows by half a kilobyte a step.
 * An error while writing (a full disk) ends the log, not the run.
 */
#ifndef BRIM_RUNLOG_H
#define BRIM_RUNLOG_H

#include <stddef.h>

#include "../memtrack/memtrack.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    RUNLOG_FORMAT = 1,
    RUNLOG_STEPS = 2,        /* training steps whose events are logged, the run's first */
    RUNLOG_EVENTS = 262144,  /* events logged at most */
    RUNLOG_ROWS = 1000,      /* events, outline numbers or names on a line at most */
    RUNLOG_STEP_BYTES = 1024 /* a step's line is shorter */
};

struct json_t; /* of jansson */

/* ---- What was planned, event by event -------------------------------------------------------- */

/* The live bytes after each event of the same window of a dry run. */
typedef struct RunOutline RunOutline;
RunOutline *report_outline_create(void); /* NULL without memory */
void report_outline_destroy(RunOutline *outline);
/* Records this ledger's events from here on; what was recorded before is dropped, because a plan may run a
 * script twice. The outline outlives the ledger, or memtrack_log_stop comes first. 0, or -1 without memory.
 */
int report_outline_record(RunOutline *outline, MemLedger *ledger);

/* ---- Writing --------------------------------------------------------------------------------- */

typedef struct RunLog RunLog;

/* Creates the file and writes its first line: what every run has, and the keys of `run` (an object;
 * borrowed). The outline, if there is one, follows. NULL when the file cannot be created or written, when
 * another run writes it (a file is locked while it is open here), or without memory; `why` then says so. */
RunLog *report_log_open(const char *path, const struct json_t *run, const RunOutline *outline, char *why,
                        size_t why_size);
/* Empties it but for what report_log_open wrote: the same script runs anew, as a plan may do. 0, or -1: the log
 * has ended in an error. No ledger may be attached. */
int report_log_restart(RunLog *log);
/* Where the rank of a run writes whose rank 0 writes to `path`: that, or path.rank-3. -1: it is too long. */
int report_log_rank_path(char *out, size_t size, const char *path, int rank);
/* 1: another run writes this file. */
int report_log_in_use(const char *path);
/* Logs the events of a ledger, which should have none yet, until the window ends; starts the ledger's event
 * log. The ledger must be destroyed, or report_log_detach called, before report_log_close. 0, or -1 without
 * memory. */
int report_log_attach(RunLog *log, MemLedger *ledger);
void report_log_detach(RunLog *log, MemLedger *ledger);

typedef struct RunLogStep {
    int64_t step; /* from 1 */
    double loss, lr, seconds;
    int64_t tokens;    /* or samples */
    double loss_scale; /* that its backward had; 0: the loss is not scaled */
    int skipped;       /* 1: a gradient overflowed, and nothing was updated */
} RunLogStep;
/* At the end of a step, before the next begins: the books of the ledger since memtrack_step_set are its peak.
 */
void report_log_step(RunLog *log, MemLedger *ledger, const RunLogStep *step);

typedef struct RunLogValidation {
    int64_t step; /* after which; from 1 */
    double loss;
    double accuracy; /* < 0: not a classifier */
    double seconds;  /* 0 = unknown */
} RunLogValidation;
void report_log_validation(RunLog *log, const RunLogValidation *validation);

typedef struct RunLogEnd {
    const char *error; /* NULL or "": the run was done */
    int64_t steps;
    double seconds, loss_first, loss_last;
    const struct json_t *memory; /* an object, borrowed; NULL = none */
} RunLogEnd;
void report_log_end(RunLog *log, const RunLogEnd *end);

/* "" while all is well; otherwise why the log ended early. */
const char *report_log_error(const RunLog *log);
void report_log_close(RunLog *log); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
