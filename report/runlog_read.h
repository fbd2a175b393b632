/* Reading a run log back: plain structs, whatever the file holds.
 *
 * What a crash cut off, or what is damaged, is left out and said in the notes; only a file that is not a run
 * log at all is an error. After reading, the events are consistent: every free and re-tag is of a block that
 * is live, so exports can replay them without checks. Memory is proportional to the file's size.
 * docs/run-log.md describes the format.
 */
#ifndef BRIM_RUNLOG_READ_H
#define BRIM_RUNLOG_READ_H

#include <stddef.h>
#include <stdint.h>

#include "ranks_words.h"
#include "report.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Tables of a log may be as long; a log's own names count, not those of this version. */
enum { RUN_COMPONENTS = 32, RUN_GROUPS = 16, RUN_PHASES = 16 };

typedef struct RunNames {
    char **names;
    size_t count, capacity;
} RunNames;

/* The memory object of `brim plan --json`. Arrays are by component of the log. */
typedef struct RunMemory {
    int present;
    uint64_t peak_bytes, needs_bytes;
    uint64_t at_peak[RUN_COMPONENTS], own_peak[RUN_COMPONENTS];
    int64_t peak_step;                      /* from 1 */
    char *peak_phase, *peak_path, *peak_op; /* "" where unknown */
    uint64_t process_peak;                  /* 0: not measured */
    int64_t unaccounted;
    MemCard card; /* used 0: none */
    uint64_t card_reserved;
    int64_t card_unaccounted;
} RunMemory;

/* Which of several ranks a log is of. */
typedef struct RunRank {
    int size, rank;     /* size 0: of a process that is alone */
    int first, last;    /* it is the log of these ranks: of a plan, all that are like its own */
    char run[24];       /* the same for all logs of a run */
    RankLayout layout;
    uint64_t sent; /* bytes a step */
} RunRank;

typedef enum RunEventKind { RUN_ALLOC, RUN_FREE, RUN_RETAG, RUN_EVENT_KINDS } RunEventKind;

typedef struct RunEvent {
    uint64_t time_us; /* never less than that of the event before */
    uint64_t serial, offset, bytes, requested;
    uint64_t live;                             /* bytes after the event */
    size_t block;                              /* index in RunRecord.blocks */
    int32_t step;                              /* from 0 */
    int32_t path, op;                          /* numbers that report_run_path and _op take */
    uint8_t kind, phase, component, from, end; /* end 1: offset counts from the high end, downward */
} RunEvent;

/* What one allocation became. */
typedef struct RunBlock {
    size_t alloc;      /* index of its event */
    size_t free;       /* SIZE_MAX: still live at the end of the events */
    uint8_t component; /* in the end */
} RunBlock;

typedef struct RunStep {
    int64_t step;             /* from 1 */
    double loss, lr, seconds; /* NaN where the log has none */
    int64_t tokens;
    uint64_t live_bytes, peak_bytes, at_peak[RUN_COMPONENTS]; /* by component */
    int skipped; /* a gradient overflowed, and nothing was updated */
} RunStep;

typedef struct RunValidation {
    int64_t step;          /* from 1 */
    double loss, accuracy; /* accuracy < 0: not a classifier */
    double seconds;        /* NaN: a brim of before did not say */
} RunValidation;

typedef struct RunEnd {
    int present; /* 0: the log breaks off */
    int failed;
    char *error; /* "" when it did not fail */
    int64_t steps;
    double seconds, loss_first, loss_last;
    RunMemory memory, planned;
} RunEnd;

typedef struct RunRecord {
    char *path, *brim, *model, *family, *command; /* "" where unknown; command with spaces between */
    int64_t parameters;
    int planned; /* nothing ran: the events are those of a plan */
    RunRank rank;
    RunNames option_names, option_values; /* in the log's order, values as text */
    RunNames components, groups, phases, places, ops;
    int component_group[RUN_COMPONENTS];
    RunMemory plan;

    RunEvent *events;
    size_t event_count, event_capacity;
    RunBlock *blocks; /* in order of allocation */
    size_t block_count, block_capacity;
    int events_ended, events_complete; /* complete: to the end of the second step */
    uint64_t reserved;                 /* bytes in which all blocks lie; at least the plan's needs */
    uint64_t peak_live;                /* of the events, with its first moment */
    size_t peak_event;

    uint64_t *outline; /* planned live bytes after each event, evaluations left out */
    size_t outline_count, outline_capacity;
    RunStep *steps;
    size_t step_count, step_capacity;
    RunValidation *validations;
    size_t validation_count, validation_capacity;
    RunEnd end;
    RunNames notes; /* what is missing or was left out, a sentence each */
} RunRecord;

/* 0; or -1 and why: the file cannot be read, is not a run log, is of a later format, or there is no memory.
 */
int report_run_read(const char *path, RunRecord *run, char *why, size_t why_size);
void report_run_free(RunRecord *run); /* also one that was all zero */

/* Names by number; "unknown" beyond the table. The root place and no op are "". */
const char *report_run_path(const RunRecord *run, int64_t path);
const char *report_run_op(const RunRecord *run, int64_t op);
const char *report_run_component(const RunRecord *run, int64_t component);
const char *report_run_phase(const RunRecord *run, int64_t phase);
/* Where an event's block begins, in bytes from the low end of the reservation. */
uint64_t report_run_address(const RunRecord *run, const RunEvent *event);

#ifdef __cplusplus
}
#endif
#endif
