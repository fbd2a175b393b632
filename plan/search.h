/* search: which blocks of a model to run again in backward, so that a script fits and recomputes least.
 *
 * The search knows no model: it tells the script a choice, plans it, and looks at what it needs and computes.
 */
#ifndef BRIM_SEARCH_H
#define BRIM_SEARCH_H

#include "plan.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { PLAN_BLOCKS_MAX = 1024 };

/* A choice of what backward makes again. */
typedef struct PlanChoice {
    char pattern[PLAN_BLOCKS_MAX + 1]; /* a character a block: '.' keeps, 'c' starts a segment that is run
                                        * again at once, '+' continues it */
    int selective;                     /* 1: what is cheap to make again is not kept anywhere */
} PlanChoice;

typedef enum PlanSearchMethod {
    PLAN_SEARCH_AUTO, /* every choice of up to 6 blocks, bisection beyond */
    PLAN_SEARCH_ALL,
    PLAN_SEARCH_BISECT
} PlanSearchMethod;

typedef struct PlanSearch {
    Script script;
    void *config;
    const RunOptions *options; /* of each plan; its budget is the budget of the search */
    /* Tells the script, through its config, the choice that its next run is to follow. */
    void (*apply)(void *config, const PlanChoice *choice);
    int blocks; /* 1 to PLAN_BLOCKS_MAX */
    PlanSearchMethod method;
} PlanSearch;

typedef struct PlanFound {
    PlanChoice choice; /* of those that fit, the one with the fewest FLOPs; if none fits, the smallest need */
    uint64_t needs;
    double step_flops, plain_flops; /* of a step with it, and of a step that keeps everything */
    int fits;
    int planned; /* choices looked at */
    int proven;  /* 1: they were all there are */
    int status;
    char error[512]; /* when planning failed */
} PlanFound;

/* Returns found->status: 0 when the search ran, whether something fits or not. With blocks alike, the first k
 * of them run again is the best way to run k again (those that are kept drain before), so k is found by
 * bisection for each of several segment lengths; small models are searched exhaustively instead. */
int plan_search(const PlanSearch *search, PlanFound *found);

#ifdef __cplusplus
}
#endif
#endif
