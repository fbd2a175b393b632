/* plan: run a script without data to learn, exactly, what it will need; then run it for real with just that.
 *
 * There is no second description of a model's memory: planning executes the script itself on a meta context,
 * where every allocation happens in the books and no kernel runs. A script is a function like
 *
 *     static int train(void *config) { … make data, model, optimizer; loop …; return error_code(); }
 *
 * that makes everything it uses, and whose control flow does not depend on tensor values (on meta they read
 * as 0).
 */
#ifndef BRIM_PLAN_H
#define BRIM_PLAN_H

#include <stdio.h>

#include "../report/report.h"
#include "../tensor/tensor.h"
#include "plan_names.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Returns 0, or non-zero when it failed (usually error_code()). Runs on meta once or twice, then for real. */
typedef int (*Script)(void *config);

typedef struct RunOptions {
    uint64_t budget;           /* bytes the run may need; 0 = no limit. A plan that needs more is refused */
    int threads;               /* 0 = all; part of the plan, because workspaces depend on it */
    uint64_t seed;             /* of initialisation and dropout */
    int malloc_blocks;         /* 1: each block from malloc instead of one reservation (for sanitizers) */
    const char *kernels;       /* see ContextOptions */
    const char *device;        /* NULL = "cpu"; see device_check */
    const char *card;          /* of a plan on cuda: see ContextOptions */
    int no_graphs;             /* of a run on cuda: see ContextOptions */
    const struct Ranks *ranks; /* which of several ranks this is; NULL = alone. A run joined them
                                * (ranks_join); a plan needs none of the others */
    int accumulate_apart;      /* see ContextOptions */
    FILE *out;                 /* where tables and step lines go; NULL = stdout */
    int quiet;                 /* 1: print nothing */
    int every;                 /* prints a line every so many steps; 0 = every step */
    const char *title;         /* first line of the tables; NULL = none */
    int panel;           /* 1: where `out` is a terminal, a panel redrawn in place instead of step lines */
    int64_t steps;       /* of the run, for the panel; 0 = as many as the plan saw */
    const char *counted; /* what brim_step is given, for the panel: "tokens", "samples"; NULL = not said */
} RunOptions;

/* A run falls into segments: the set-up, training steps, evaluations. The allocation events of a segment as
 * one number: equal segments have equal signatures. */
typedef struct SegmentSignature {
    uint64_t hash;
    int64_t first_step, count;
} SegmentSignature;

enum { PLAN_SIGNATURES = 64, PLAN_TENSORS = 10 };

/* One allocation that is live at the peak: its component at the peak; module path, op, step and phase of its
 * allocation. */
typedef struct PlanTensor {
    char path[96], op[24]; /* "" where there is none */
    MemComponent component;
    uint64_t bytes;
    int64_t step;
    MemPhase phase;
} PlanTensor;

/* Bytes of one module path that are live at the peak. */
typedef struct PlanPath {
    char path[96];
    uint64_t by[MEM_COMPONENT_COUNT];
} PlanPath;

typedef struct Plan {
    int status;        /* the script's return */
    char error[512];   /* its error message, "" if none */
    char function[48]; /* error_function() of it */
    MemSummary memory; /* memory.stats.needs is the law */
    uint64_t beside;   /* what the process of a run takes besides, roughly; it must be free too. Host memory,
                          page tables, and BLAS buffers and stacks of its threads */
    int on_card;       /* its memory is a card's */
    int ranks_here;    /* of a run: ranks on this machine, each of which needs as much */
    SegmentSignature signature[PLAN_SIGNATURES];
    int signatures; /* distinct ones kept */
    int more_kinds; /* 1: there were more than PLAN_SIGNATURES; a run is then not checked for segments off the
                       plan */
    int64_t steps;
    double step_flops;  /* of the first training step's products */
    uint64_t step_sent; /* bytes that this rank sends the others in it */
    uint64_t traffic; /* what ranks send each other in the whole run, as one number: the same on all ranks */
    const char *packer; /* "online", "by size", …: whose placement gives `needs` */
    MemHints *hints;    /* that placement, for ledgers that are to need no more; NULL = online */
    PlanTensor largest[PLAN_TENSORS]; /* at the peak, the largest first */
    int largest_count;
    PlanPath *paths; /* in order of first use, only those with bytes at the peak; they sum to the peak */
    int path_count;
} Plan;

/* Runs the script on meta and packs what it allocated. When that needs less, runs it on meta once more, with
 * each block where it was packed. Returns plan->status: 0 when the script ran through. The plan owns its
 * hints and paths (a failed plan owns nothing): plan_free. */
BRIM_API int plan_script(Script script, void *config, const RunOptions *options, Plan *plan);

/* Frees what the plan owns; its figures stay. A zeroed plan, and one freed before, are fine. */
BRIM_API void plan_free(Plan *plan);

typedef struct RunResult {
    int status;
    char error[512], function[48];
    MemSummary memory;         /* measured */
    int64_t steps;             /* optimizer steps seen */
    int64_t segments_off_plan; /* segments with events that no planned segment has */
    int64_t first_off_plan;    /* the step of the first such segment; -1 = none */
    double seconds;            /* of the script */
    double loss_first, loss_last;
    double step_seconds; /* median over the last steps, the first left out */
    double tokens_per_second;
} RunResult;

/* Whether this machine has enough free memory now: for what the plan needs, for plan->beside, and for `more`
 * (bytes that the caller knows of, such as files in a file system that is memory). Returns 0, or ERROR_MEMORY
 * with the reason in `why`: what is needed, what is free, and which limit bounds it. machine: what was found;
 * NULL = not wanted. */
BRIM_API int plan_fits_machine(const Plan *plan, uint64_t more, MemMachine *machine, char *why,
                               size_t why_size);

/* Runs the script for real in a reservation of plan->memory.stats.needs bytes, each block where the plan put
 * it. Refuses before the script begins when the budget is smaller (status ERROR_BUDGET), or when the plan
 * does not fit the machine, whether reserved or from malloc (ERROR_MEMORY; as plan_fits_machine says it).
 * Returns result->status. */
BRIM_API int plan_execute(Script script, void *config, const RunOptions *options, const Plan *plan,
                          RunResult *result);

/* Plans, prints the plan, runs, prints planned beside measured. Returns what main should: 0 done, 1 failed or
 * does not fit. */
BRIM_API int brim_run(Script script, void *config, const RunOptions *options);

/* Called by a script once a step, anywhere after its last backward, with the tokens (or samples) the step
 * saw. Prints the step's line and keeps what the end table says; does nothing on meta or outside a run. */
BRIM_API void brim_step(int64_t tokens);

/* Says that what the script did since the last step, such as saving, does not count as time of the next step.
 * Does nothing outside a run. */
BRIM_API void brim_lap(void);

/* Prints a line of the script's own where the step lines go, above the panel if there is one. Does nothing on
 * meta, outside a run, or when the run is quiet. */
BRIM_API void brim_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#ifdef __cplusplus
}
#endif
#endif
