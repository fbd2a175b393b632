/* The table of brim fit --framework pytorch: rows of levers (pytorch_levers.c), what fits (pytorch_search.c),
 * cards and the command (pytorch_fit.c), text and JSON (pytorch_fit_table.c). */
#ifndef BRIM_CLI_PYTORCH_FIT_H
#define BRIM_CLI_PYTORCH_FIT_H

#include "pytorch.h"

enum { FIT_CARDS = 12, FIT_ROWS = 20, FIT_MEMO = 400, FIT_POINTS = 96, MOST_BATCH = 1 << 16, FIT_LABEL = 28 };

typedef struct FitCard {
    const Card *card; /* NULL: a size alone */
    char title[24];
    uint64_t bytes, limit;
    ContextRange context;
    LeverText why; /* there are no rules for it; "" otherwise */
} FitCard;

/* What has been replayed: cards of as many multiprocessors and the same capability need the same. */
typedef struct FitNeed {
    int capability, processors, batch, seq, accumulate;
    int part; /* the books are not those of an endless card */
    uint64_t limit;
    PytorchBooks books;
    PytorchVerdict verdict; /* for the limit */
} FitNeed;

/* What is needed by so many units: samples, or steps of lengths. */
typedef struct FitPoint {
    int units;
    uint64_t bytes[2]; /* allocated, reserved */
} FitPoint;

typedef struct FitLine {
    FitPoint point[FIT_POINTS]; /* ascending */
    int count;
} FitLine;

typedef struct FitCell {
    PytorchBooks books; /* as asked for */
    PytorchVerdict verdict;
    int batch, seq; /* the largest and longest that fit; 0: none */
} FitCell;

/* The options, or some levers on top of them. */
typedef struct FitRow {
    char label[64];
    LeverText flags; /* to be typed; "" of the options as they are */
    int adapters;    /* trains adapters, which the options do not */
    Options options;
    PytorchJob job[FIT_CARDS]; /* as asked for */
    PytorchAllocatorOptions allocator[FIT_CARDS];
    FitCell cell[FIT_CARDS];
    FitNeed memo[FIT_MEMO];
    int memos, replays; /* what is known of jobs, and how often one was replayed for it */
    int failed;         /* there is no memory to replay it with */
    FitLine line[2];    /* of batches, of lengths; cards differ little */
} FitRow;

typedef struct PytorchFit {
    const Options *options;
    FitCard cards[FIT_CARDS];
    int count, seq_step, max_seq;
    FitRow *rows; /* the first: the options as they are */
    int row_count;
} PytorchFit;

/* ---- pytorch_levers.c ---- */

/* The options as they are, then levers alone and together, in the order of what they cost: what changes
 * nothing but memory, what takes time, what learns otherwise. Each is a job that there are rules for. */
int pytorch_rows(const Options *options, FitRow rows[FIT_ROWS]);
/* How rows that are called by a word are typed. */
void pytorch_say_words(const PytorchFit *fit);

/* ---- pytorch_search.c ---- */

/* --data may have fewer samples. */
int pytorch_most_batch(const Options *options);
/* All cells of all rows, by several threads. -1 without memory. */
int pytorch_fill(PytorchFit *fit);

/* ---- pytorch_fit_table.c ---- */

/* The first row that fits there, as asked for; NULL: none does. */
const FitRow *pytorch_best(const PytorchFit *fit, int card);
void pytorch_print_fit(const PytorchFit *fit);
void pytorch_print_fit_json(const PytorchFit *fit);

#endif
