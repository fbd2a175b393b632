/* Variants of one training: its options, and those with some levers pulled. */
#ifndef BRIM_VARIANTS_INTERNAL_H
#define BRIM_VARIANTS_INTERNAL_H

#include "cli.h"

enum {
    VARIANTS = 32,
    VARIANT_LABEL = 96,
    SUGGESTED_CHUNK = 128 /* rows of logits, where chunks are tried */
};

typedef struct Variant {
    char label[VARIANT_LABEL];
    Options options;
    int pulled;      /* how many levers, of the list */
    MemGroup target; /* what a single lever works on; MEM_GROUP_COUNT: of several, and of none */
    Plan plan;
    int64_t parameters, active;
    Bracket bracket;
    int ran;
    RunResult result;
} Variant;

/* The options as they are, then each lever alone, and some together, at the same effective batch. Returns how
 * many. */
int variants_list(const Options *options, Variant variants[VARIANTS]);
/* The same, planned; variants_free them. */
int variants_plan(const Options *options, Variant variants[VARIANTS]);
void variant_plan(Variant *variant);
/* The options with their blocks recomputed, and the loss in chunks; 0 where neither can be pulled. */
int variant_recomputed(Variant *variant, const Options *options);
void variants_free(Variant *variants, int count);
/* advice.c: above 0 where a costs more than b, to who comes from base: another optimizer, more operations,
 * more options to type. */
int variant_costs_more(const Variant *a, const Variant *b, const Variant *base);
int variant_adds_adapters(const Variant *variant, const Options *from);
/* How rows that are called by a word are typed, and what adapters mean; nothing where there is none. */
void variants_say_words(FILE *out, const Options *from);
/* NULL where none can be planned. */
const Variant *variants_least_need(const Variant *variants, int count);
/* compare.c: the table of `brim compare`, and of the demo. */
void variants_table(FILE *out, const Options *options, const Variant *variants, int count);

#endif
