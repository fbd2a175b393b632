/* Between compare.c, which plans and runs the rows, and compare_table.c, which prints them. */
#ifndef BRIM_COMPARE_INTERNAL_H
#define BRIM_COMPARE_INTERNAL_H

#include "variants_.h"

/* The rows of a comparison; `options` are those of the first. */
typedef struct Comparison {
    const Options *options;
    const Variant *variants;
    int count;
    int lists; /* every combination of comma lists, instead of the levers of one set of options */
} Comparison;

/* The first row that could be planned, which the others are compared with; NULL: none. */
const Variant *compare_first(const Comparison *comparison);
/* Whether it fits --budget; of what cannot be planned, no. */
int compare_fits(const Comparison *comparison, const Variant *variant);
void compare_print(FILE *out, const Comparison *comparison);
/* four_ways.c: --four-ways. */
int compare_four_ways(const Options *options);
/* compare_inference.c: --inference. */
int compare_inference(const Options *sets, int count);
/* What a step took, in ms; `unknown` where it took no second one. */
SizeText compare_ms(const Variant *variant, int decimals, const char *unknown);

#endif
