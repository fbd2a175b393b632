/* What the files of the report page share. */
#ifndef BRIM_REPORT_HTML_INTERNAL_H
#define BRIM_REPORT_HTML_INTERNAL_H

#include <jansson.h>

#include "html.h"
#include "runlog_cross_.h"

/* ---- The page's sources (page.c), not terminated --------------------------------------------- */

typedef struct PageText {
    const char *text;
    size_t length;
} PageText;
extern const PageText page_html_, page_css_, page_js_, page_pytorch_;

/* ---- A log, line by line (html_lines.c) ------------------------------------------------------ */

typedef struct Lines {
    FILE *in;
    const char *path;
    char *line;
    size_t length, capacity; /* of the line, which is not terminated */
    RunCross cross;          /* of the lines so far */
    int64_t number;          /* of the line, from 1 */
    int started, truncated;  /* the first line was returned; the last line broke off */
    char *error;             /* where a failure is written down */
    size_t error_size;
} Lines;

int lines_open_(Lines *lines, const char *path);
void lines_close_(Lines *lines);
/* The next object, which the caller releases, its text in `line`; lines and events that are damaged, and what
 * stands behind the run's end, are counted and left out. NULL at the end, where another run begins, and on an
 * error, which sets *failed. */
json_t *lines_next_(Lines *lines, int *failed);
/* Returns -1. */
int lines_fail_(Lines *lines, const char *format, ...) __attribute__((format(printf, 2, 3)));
int lines_fail_memory_(Lines *lines);

/* JSON as text inside a <script> element, with the same value. */
void html_write_json_(FILE *out, const char *text, size_t length);
/* "" when there is none. */
const char *html_kind_(const json_t *object);

/* ---- The other ranks of a run (html_ranks.c) -------------------------------------------------- */

/* Behind the log of a run of several ranks: what they have in common, and a log of each kind of rank, but for
 * steps; of RANK_LOGS kinds at most. Nothing for a run that is alone. 0, or -1 with the error written down. */
enum { RANK_LOGS = 64 };
int html_write_ranks_(Lines *lines, const json_t *run, int number, FILE *out);
/* The first line of a log, which the caller releases; NULL with the error written down. (html.c) */
json_t *html_read_run_(Lines *lines);
/* The line as it is, with a newline. (html.c) */
void html_copy_line_(const Lines *lines, FILE *out);

/* ---- Steps (html_steps.c) -------------------------------------------------------------------- */

enum { STEP_ROWS = 8192, STEP_COMPONENTS = 32 };

/* Consecutive steps as one: sums, and the books of the one with the highest peak. */
typedef struct StepRow {
    int64_t first, last, losses, tokens, live, peak;
    double loss, lr, seconds; /* loss: the sum of `losses`; lr: the last */
    int64_t at_peak[STEP_COMPONENTS];
} StepRow;

/* Any number of steps in at most STEP_ROWS rows: when they are full, each two become one. */
typedef struct StepTable {
    StepRow *rows;
    size_t count;
    int64_t stride; /* steps in a row */
    const char *names[STEP_COMPONENTS];
    size_t name_count;
    json_t *run; /* owns the names */
} StepTable;

/* The components' names are those of the run's line. 0, or -1 without host memory. */
int steps_begin_(StepTable *table, json_t *run);
void steps_end_(StepTable *table);
void steps_add_(StepTable *table, const json_t *step);
void steps_write_(const StepTable *table, FILE *out);

/* ---- The events under another allocator's rules (estimate/page_replay.c) ---------------------- */

struct PageReplay {
    void *(*begin)(void); /* NULL without host memory */
    /* Writes a line of its own for a line of events. 0, or -1 without host memory. */
    int (*events)(void *state, const json_t *events, FILE *out);
    /* Writes the last line; may read the log once more from its path. 0, or -1 with the error written down.
     */
    int (*last)(const void *state, Lines *lines, FILE *out);
    void (*end)(void *state); /* NULL is fine */
};

#endif
