/* What plan's files share with each other. */
#ifndef BRIM_PLAN_INTERNAL_H
#define BRIM_PLAN_INTERNAL_H

#include <string.h>

#include "../tensor/tensor_.h"
#include "plan.h"

/* plan.c */
SegmentSignature *plan_find_signature_(const Plan *plan, uint64_t hash); /* NULL = not planned */
void plan_keep_error_(char error[512], char function[48], int status);
/* Runs the script in this context and closes the books of its last segment. */
int plan_run_script_(Script script, void *config, Context *context, SegmentHook hook);

/* agree.c: whether all ranks have planned the same; ERROR_RANKS with the reason in *result. Nothing where the
 * run is alone. */
int plan_agree_(const Plan *plan, const RunOptions *options, RunResult *result);

/* detail.c: 0, or -1 without memory */
int plan_keep_detail_(Plan *plan, const Context *context);

#endif
