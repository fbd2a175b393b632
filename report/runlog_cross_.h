/* What a run log says twice, compared line by line in constant memory: whether lines are lost, whether all
 * are of one run, and whether its end says what its steps showed. */
#ifndef BRIM_RUNLOG_CROSS_INTERNAL_H
#define BRIM_RUNLOG_CROSS_INTERNAL_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/* Of the first run in a file. */
typedef struct RunCross {
    int64_t lines;                 /* so far, damaged ones too */
    int64_t bad_lines, first_bad;  /* damaged: how many, and the number of the first */
    int64_t bad_rows;              /* damaged events */
    int64_t second_run, after_end; /* the line that another run begins in, 0 = none; lines behind the end */
    int cut_off;                   /* the last line is not whole, and not handed on */

    int64_t steps, first_step, last_step, gaps, gap_from, gap_to, disorder; /* gaps: steps between others */
    int64_t wrong_sums, first_wrong_sum; /* steps whose components do not sum to their peak */
    double first_loss, last_loss;        /* NaN where there is none */
    uint64_t highest;                    /* of the steps' peaks */
    int64_t highest_step;

    int64_t places, ops;         /* names that were given */
    int names_missing;           /* there are gaps between them, or numbers beyond */
    int64_t rows, last_row_step; /* events, and the step, from 0, of the last */
    int64_t rows_until;          /* the step, from 0, that they should end in, where it is later */
    uint64_t serial, live;       /* the last allocation's; what the events leave live */
    int64_t blocks_missing;      /* allocations between others */
    int64_t live_wrong;          /* the first step after which other bytes were live; 0 = none */
    uint64_t live_said, live_seen;
    int events_ended;

    int has_plan, has_end, failed;
    uint64_t plan_peak, end_peak, end_plan_peak; /* 0 = not said */
    int64_t end_steps, end_lines;                /* end_lines 0: of a brim that did not count them */
    double end_loss_first, end_loss_last;
} RunCross;

/* With the first line of the log. */
void report_cross_begin_(RunCross *cross, const json_t *run);
/* A further line, by its number in the file; NULL is a damaged one. Returns 1 for the first line of another
 * run: it and what follows do not belong here. */
int report_cross_line_(RunCross *cross, const json_t *line, int64_t number);
/* The sentences; `add` returns 0, else it ends here. */
int report_cross_notes_(const RunCross *cross, int (*add)(void *user, const char *note), void *user);

/* Whether a line has what its kind must have; -1 when it is damaged. Lines of kinds that are not known are
 * sound. */
int report_line_check_(const json_t *line);

enum { RUN_COLUMNS = 13 };
typedef struct RunEvent RunEvent;
/* Where each column is in the rows of a line of events; -1 when one is missing. */
int report_line_columns_(const json_t *line, size_t at[RUN_COLUMNS]);
/* 0 and the event; -1 for a row that is damaged. */
int report_line_row_(const json_t *row, const size_t at[RUN_COLUMNS], RunEvent *event);

#endif
