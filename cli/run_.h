/* A run in a process of its own, so that its resident peak is its own. */
#ifndef BRIM_RUN_INTERNAL_H
#define BRIM_RUN_INTERNAL_H

#include "cli.h"

/* Asks a process of its own which card --device names, so that this one never starts the driver and those of
 * run_apart can. EXIT_DONE, or EXIT_USAGE after saying what is missing. */
int look_apart(const Options *options);
/* As plan_execute, quietly. Returns result->status. */
int run_apart(const Options *options, const Plan *plan, RunResult *result);

#endif
