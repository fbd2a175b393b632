/* The tables of `brim plan --framework pytorch`. */
#ifndef BRIM_CLI_PYTORCH_TABLES_H
#define BRIM_CLI_PYTORCH_TABLES_H

#include "pytorch.h"

/* What is planned: PyTorch's job, and brim's own beside it. */
typedef struct PytorchPlan {
    const Options *options;
    const Card *card; /* NULL: the one that is assumed */
    PytorchJob job;
    PytorchAllocatorOptions allocator;
    PytorchSummary summary;
    int has_verdict;
    ContextRange context;
    uint64_t limit; /* what the card has beside its context, at its largest; or --budget */
    PytorchVerdict verdict;
    PytorchVerdict at_most;      /* where it does not fit: with the smallest context; of a card */
    int pages_tried, pages_help; /* where it runs out in pieces: whether it fits with expandable segments */
    int64_t parameters;
    Plan brim; /* status: none, for the reason in `why_no_brim` */
    LeverText why_no_brim;
} PytorchPlan;

/* ---- pytorch_more.c: what PyTorch's peak holds that brim's does not ---- */

enum { PYTORCH_MORE = 24, PYTORCH_DIFFERENCES = PYTORCH_MORE + 5 };
typedef struct PytorchMore {
    const char *name, *why;
    int64_t bytes; /* negative: brim's peak holds it */
} PytorchMore;
/* Every allocation at the peak counts in one row, or in none. Returns how many rows have some. */
int pytorch_more(const PytorchPlan *plan, PytorchMore rows[PYTORCH_MORE]);
/* The same, what both have at different moments, and what is left over: they sum to what PyTorch's peak has
 * more. None without brim's plan. */
int pytorch_differences(const PytorchPlan *plan, PytorchMore rows[PYTORCH_DIFFERENCES]);

/* What brim's own peak holds of logits, their gradient, and the loss. */
uint64_t pytorch_brim_head(const PytorchPlan *plan);

/* Activations at each one's peak, by what makes them. */
typedef enum PytorchPlace {
    PLACE_NORMS,
    PLACE_ATTENTION,
    PLACE_FEED_FORWARD,
    PLACE_ADAPTERS,
    PLACE_HEAD,
    PLACE_BETWEEN,
    PLACES
} PytorchPlace;
extern const char *const pytorch_place_names[PLACES];
void pytorch_places(const PytorchPlan *plan, uint64_t pytorch[PLACES], uint64_t brim[PLACES]);

/* ---- pytorch_json.c ---- */

/* "NVIDIA L4, compute capability 8.9" */
LeverText pytorch_on_what(const PytorchPlan *plan);
json_t *pytorch_plan_json(const PytorchPlan *plan);

/* ---- pytorch_page.c ---- */

/* --html. 0, or EXIT_NO after saying why. */
int pytorch_write_page(const PytorchPlan *plan);

/* ---- pytorch_tables.c ---- */

void pytorch_print_components(const PytorchPlan *plan);
void pytorch_print_largest(const PytorchPlan *plan);
void pytorch_print_layers(const PytorchPlan *plan);
void pytorch_print_moments(const PytorchPlan *plan);
void pytorch_print_more(const PytorchPlan *plan);

#endif
