/* The table of brim fit: what fit.c plans and fit_table.c prints. */
#ifndef BRIM_FIT_INTERNAL_H
#define BRIM_FIT_INTERNAL_H

#include "levers_.h"
#include "variants_.h"

enum { METHODS = VARIANTS, CARDS = 12, MEMO = 160, LARGEST_BATCH = 1 << 16, SHORT = 38 };

typedef struct Need {
    int batch, seq;
    uint64_t bytes; /* UINT64_MAX: cannot be planned */
} Need;

/* A row: the options with some levers pulled, and every need planned so far. */
typedef struct Method {
    char label[VARIANT_LABEL];
    Options options;
    MemGroup target; /* what a single lever works on; MEM_GROUP_COUNT for combinations */
    Need memo[MEMO];
    int memos;
    Plan plan;                    /* as asked for; its hints and lists are freed */
    int batch[CARDS], seq[CARDS]; /* the largest and longest that fit; 0 = none */
} Method;

typedef struct Fit {
    const Options *options;
    Method method[METHODS];
    int methods;
    uint64_t memory[CARDS];
    char title[CARDS][24];
    int cards;
    int64_t parameters, samples; /* samples: of the data, for images */
    int planned;
} Fit;

/* Whether the options as asked for, with this row's levers, fit the card beside what is reserved. */
int fit_fits(const Fit *fit, const Method *method, int card);
/* The largest batch worth trying: all of the data, or some ten thousand. */
int fit_most(const Fit *fit, const Method *method);
void fit_print(const Fit *fit);
void fit_print_json(const Fit *fit);

#endif
