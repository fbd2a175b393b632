/* The levers: options that change what a training needs, or what it computes. A row of the table in levers.c
 * says what one means; how it is typed, read and written as text is its row in flags.c. The title line, the
 * CSV, the run log, JSON, saved runs, comparisons and advice all loop over the rows, so a new lever is a
 * field of Options, a row in flags.c, a row in levers.c, a line in exclusions.c where it excludes others, and
 * a line in variants.c where `compare`, `fit` and the advice are to try it. */
#ifndef BRIM_LEVERS_INTERNAL_H
#define BRIM_LEVERS_INTERNAL_H

#include "cli.h"

/* Where the value of a lever appears, beside what is typed. */
enum {
    LEVER_CSV = 1,   /* a column of `compare --csv` */
    LEVER_LOG = 2,   /* the run log, and the options in --json */
    LEVER_SAVED = 4, /* a saved run: it decides bits of the weights, so --resume wants the same */
    LEVER_TYPED = 8, /* a difference between two sets of options is shown as this flag */
};

typedef struct Lever {
    const char *flag; /* "--loss-chunk"; it is loss_chunk in JSON and CSV, loss-chunk in a saved run */
    unsigned where;
    int (*means)(const Options *o);       /* whether it means something to this model; NULL: to every one */
    LeverText (*title)(const Options *o); /* in the title line, "" for the usual value; NULL: never there */
    int joins;                           /* in the title " x " joins it to the one before, if that is there */
    int model_decides;                   /* its usual value is the model's */
    int saved_if_given;                  /* a saved run without it has the usual value */
    LeverText (*acts)(const Options *o); /* its value in logs, CSV and saved runs where it is not the typed
                                            one: what acts when nothing is typed; "" where nothing does */
    int other_training;            /* pulled, something else is learned: what fits without it is preferred */
    void (*to_preset)(Options *o); /* what pulling it changes in each of these; NULL: nothing */
    void (*to_model)(const Options *o, Module *model);
    void (*to_optimizer)(const Options *o, Optimizer *optimizer);
} Lever;

enum { LEVERS_MAX = 40 };
const Lever *lever_of(const char *flag);
int lever_means(const Lever *lever, const Options *o);

/* Of all rows: what pulling them changes. */
void levers_to_preset(Options *o);
void levers_to_model(const Options *o, Module *model);
void levers_to_optimizer(const Options *o, Optimizer *optimizer);

/* "AdamW  batch 8 x seq 128  flash attention": those that do not vary in the table below. */
LeverText levers_title(const Options *o);
/* The levers in which `options` differs from `from`, to be typed; and how many. */
LeverText levers_text(const Options *options, const Options *from);
int levers_changed(const Options *options, const Options *from);
/* How many of them change what is learned. */
int levers_other_training(const Options *options, const Options *from);
/* {"batch": 8, …} of those that are logged. */
json_t *levers_json(const Options *o);
/* "batch,seq,…" and "8,128,…" */
LeverText levers_csv_heading(void);
LeverText levers_csv(const Options *o);
/* Calls `add` for each that a saved run keeps: its name there, its value. */
void levers_saved(const Options *o, void (*add)(void *to, const char *name, const char *value), void *to);

/* Why these options do not go together; "" when they do. */
LeverText levers_exclude(const Options *o);
/* What is missing beside what was typed, before defaults are filled in; "" when nothing is. */
LeverText levers_need(const Options *o);

#endif
