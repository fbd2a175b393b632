/* The table of brim fit: what fit.c plans and fit_table.c prints. */
#ifndef BRIM_FIT_INTERNAL_H
#define BRIM_FIT_INTERNAL_H

#include "levers_.h"
#include "variants_.h"

enum {
    COUNTS = 8,
    LAYOUTS = 20, /* of a number of cards */
    FIT_STAGES = 64,
    METHODS = 2 * (1 + LAYOUTS * COUNTS),
    CARDS = 12,
    KINDS = 4,
    MEMO = 240,
    LARGEST_BATCH = 1 << 16,
    SHORT = 40
};
_Static_assert(METHODS >= (int)VARIANTS, "rows are variants, or layouts x numbers of cards, twice");

/* On a device, cards for which plans are the same, to the byte. On the CPU there is one kind. */
typedef struct Kind {
    const char
        *card; /* one of them, of `brim gpus`; NULL = a size alone: this machine's, or what is assumed */
    int capability;
} Kind;

typedef struct Need {
    int kind, batch, seq;
    uint64_t bytes; /* UINT64_MAX: cannot be planned */
} Need;

/* What the peak is made of, and where it is. */
typedef struct Bound {
    MemGroup group;
    uint64_t bytes;
    MemPhase phase;
    char path[128];
} Bound;

/* Of a rank of a stage. */
typedef struct StageNeed {
    uint64_t needs, sent;
} StageNeed;

/* A row: the options with some levers pulled, and every need planned so far. */
typedef struct Method {
    Variant variant; /* its plan is as asked for, on the card `shown`; the plan's hints and lists are freed */
    uint64_t needs[KINDS]; /* as asked for; UINT64_MAX: cannot be planned for such a card */
    Need memo[MEMO];
    int memos;
    int batch[CARDS], seq[CARDS]; /* the largest and longest that fit; 0 = none */
    Bound bound[CARDS];           /* at the longest; where there is none, as asked for */
    uint64_t sent, sent_by_all;   /* a step, by the rank that sends most; by all together */
    StageNeed stage[FIT_STAGES];  /* where there are some, as asked for; and which needs most */
    int fullest;
    int first;  /* of the rows with the same levers: one card */
    int hidden; /* in tables: another row is better in all */
} Method;

typedef struct Fit {
    const Options *options; /* of one card */
    Ranks asked;            /* --tensor and --stages, which restrict the rows */
    Method method[METHODS];
    int methods;
    uint64_t memory[CARDS];
    char title[CARDS][24];
    const char *name[CARDS]; /* of `brim gpus`; NULL = a size alone */
    int kind_of[CARDS];
    int cards, shown; /* shown: the first that the options can be planned for */
    Kind kind[KINDS];
    int kinds;
    int ranked;                          /* rows are layouts and numbers of cards: fit_cards.c */
    int undivided;                       /* an option excludes that layers are divided: no row does */
    int seq_step;                        /* lengths are multiples of it */
    int64_t parameters, active, samples; /* samples: of the data, for images */
    Bracket bracket;                     /* of the options as they are */
} Fit;

/* ---- fit_plan.c ---- */

/* The row's plan for cards of this kind; of several stages that of the fullest. Its lists are freed. */
void fit_plan_at(Fit *fit, const Method *method, int kind, int batch, int seq, Plan *plan);
/* What that needs; UINT64_MAX: it cannot be planned. */
uint64_t fit_need(Fit *fit, Method *method, int kind, int batch, int seq);
/* Every stage as asked for, and what ranks send. The plan's status. */
int fit_plan_ranks(Fit *fit, Method *method);

/* ---- What fits ---- */

/* What a training may need on a card: its memory but for what is reserved. */
uint64_t fit_limit(const Fit *fit, int card);
/* Whether the options as asked for, with this row's levers, fit the card. */
int fit_fits(const Fit *fit, const Method *method, int card);
/* The row that fits the card at the least cost, or NULL. */
const Method *fit_best(const Fit *fit, int card);
/* The row that needs least on a card of this kind; NULL: none can be planned. */
const Method *fit_least_need(const Fit *fit, int kind);
/* The largest batch worth trying: all of the data, or some ten thousand. */
int fit_most(const Fit *fit, const Method *method);
/* What these options need with this row's levers on a card. */
uint64_t fit_needs(const Fit *fit, const Method *method, int card);
/* The kind of a card of this compute capability; -1 = none that was planned for, or one that is too old. */
int fit_kind(const Fit *fit, int capability);
/* What PyTorch would need for the options as they are, on a card: ESTIMATED, and without its context. */
uint64_t fit_pytorch(const Fit *fit, int card);
/* What fits where in one sentence. */
LeverText fit_verdict(const Fit *fit);
/* "-6.7" GiB or "-99 MiB", which never reads as nothing; "" where there is no plan. */
typedef struct MissingText {
    char text[24];
} MissingText;
MissingText fit_missing(uint64_t needs, uint64_t limit);
void fit_print(const Fit *fit);
void fit_print_json(const Fit *fit);

/* ---- fit_layouts.c: --cards ---- */

/* The rows that --cards asks for. 0 or EXIT_USAGE. */
int fit_choose_ranks(Fit *fit);
/* What all cards together send for a sample of a step. */
double fit_sent_a_sample(const Method *m);
/* After planning: rows with tensor or stages beside which another row of as many cards needs no more and
 * sends no more. */
void fit_hide_rows(Fit *fit);

/* Numbers of cards, ascending, each once. 0 or EXIT_USAGE. */
int fit_parse_counts(const char *list, int counts[COUNTS], int *count);

/* ---- fit_inference.c: --inference ---- */

/* Its rows: what weights are stored as, on how many cards. 0 or EXIT_USAGE. */
int fit_choose_inference(Fit *fit);
LeverText fit_inference_verdict(const Fit *fit);
void fit_inference_print(const Fit *fit);
/* The options of `brim plan` that a row is. */
LeverText fit_inference_flags(const Method *m);
void fit_inference_json(json_t *row, const Method *m);

/* ---- fit_cards.c ---- */

/* The cells of a row: the largest batches, or what is missing. */
void fit_cards_cells(const Fit *fit, const Method *m);
void fit_cards_heading(const Fit *fit, const char *blank); /* the cards' names, and their memory below */

void fit_cards_print(const Fit *fit);
/* Adds how many ranks and what they divide, and what one sends a step. */
void fit_cards_json(json_t *row, const Method *m);

#endif
