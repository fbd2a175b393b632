/* textbook: the rules of thumb that people arrive with, each beside the exact figure.
 *
 * Pure arithmetic: nothing is planned, built or measured here. "Exact" is exact for what its formula says,
 * and the remark says what that leaves out. A plan (plan.h) is the exact answer for a model and a batch.
 * Where a plan has the very same bytes, the row names its command and is tagged PLANNED, and a test compares
 * the two; the others are tagged ESTIMATED.
 */
#ifndef BRIM_TEXTBOOK_H
#define BRIM_TEXTBOOK_H

#include <stdio.h>

#include "../memtrack/memtrack.h"

#ifdef __cplusplus
extern "C" {
#endif

/* low == high unless the source gives a range. */
typedef struct TextbookFigure {
    double low, high;
} TextbookFigure;

typedef struct TextbookRow {
    const char *id;         /* "1b-adam"; stable, for scripts */
    const char *topic;      /* the heading it stands under */
    const char *question;   /* at most 41 characters */
    const char *rule;       /* the textbook's rule in plain words */
    const char *textbook;   /* its figure as it is taught: "17-18 GB" */
    TextbookFigure by_rule; /* that figure, computed by the rule; both 0 when the textbook gives none */
    TextbookFigure exact;
    const char *unit;    /* of both: "bytes", or what a bare number counts ("values", "times", "bits") */
    const char *formula; /* of the exact figure, spelled out; two with " to " between for a range */
    const char *remark;  /* what is wrong or loose with either */
    const char
        *plan; /* the command whose plan has exactly these bytes, without "brim"; NULL = there is none */
} TextbookRow;

/* Fills the i-th row; 0 past the end. The texts are static. */
int estimate_textbook_row(int i, TextbookRow *row);

/* All rows as a table of 100 columns. */
void estimate_textbook_print(FILE *out);

#ifdef __cplusplus
}
#endif
#endif
