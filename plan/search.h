/* search: which blocks of a model to recompute in backward, so that a script fits at the least cost.
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

/* A choice of what backward recomputes. */
typedef struct PlanChoice {
    char pattern[PLAN_BLOCKS_MAX + 1]; /* a character a block: '.' keeps, 'c' starts a segment that is
                                          recomputed as a whole, '+' continues it */
    int selective;                     /* 1: what is cheap to recompute is kept nowhere */
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
    PlanChoice choice; /* the fitting choice with the fewest FLOPs; if none fits, the choice with the smallest
                          need */
    uint64_t needs;
    double step_flops, plain_flops; /* of a step with it, and of a step that keeps everything */
    int fits;
    int planned; /* choices looked at */
    int proven;  /* 1: all choices were looked at */
    int status;
    char error[512]; /* when planning failed */
} PlanFound;

/* Returns found->status: 0 when the search ran, whether something fits or not. When blocks are alike,
 * recomputing the first k of them is the best way to recompute k, because backward frees the kept ones
 * before. So k is found by bisection for each of several segment lengths. Small models are searched
 * exhaustively instead. */
int plan_search(const PlanSearch *search, PlanFound *found);

#ifdef __cplusplus
}
#endif
#endif
