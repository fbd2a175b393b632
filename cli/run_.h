/* A run in a process of its own, so that its resident peak is its own. */
#ifndef BRIM_RUN_INTERNAL_H
#define BRIM_RUN_INTERNAL_H

#include "cli.h"

/* As plan_execute, quietly. Returns result->status. */
/* Asks a process of its own which card --device names, so that this one never starts the driver and those of
 * run_apart can. */
void look_apart(const Options *options);
int run_apart(const Options *options, const Plan *plan, RunResult *result);

#endif
