/* What the tests of ranks share: a script that each rank plans alone and runs with the others, and the
 * numbers that they write together. */
#ifndef RANKS_SUPPORT_H
#define RANKS_SUPPORT_H

#include "../plan/plan.h"
#include "../tensor/ranks_.h"
#include "rank_threads.h"
#include "support.h"

enum { RANK_ERROR = 512, RANK_NUMBERS = 500000 };

/* Plans the script as this rank, without the others, and runs it with them; the run has to be its plan, to
 * the byte. *plan: its figures, which own nothing. 0, or non-zero with the reason in error. */
int plan_and_run_with(RunOptions o, Script script, void *config, const Ranks *ranks, Plan *plan,
                      char error[RANK_ERROR]); /* with these options but for ranks */
int plan_and_run(Script script, void *config, const Ranks *ranks, Plan *plan, char error[RANK_ERROR]);

int plan_and_run_on(const char *device, Script script, void *config, const Ranks *ranks, Plan *plan,
                    char error[RANK_ERROR]);

/* RANK_NUMBERS of which nobody has written any. */
float *numbers_new(void);
/* What of the parameters is counted at this rank, as floats, each where it is in the whole model: all ranks
 * together write all. What is quantised is 0. */
void write_parts(TensorList list, float *to);
/* The largest difference of what b has; infinite where a lacks some of it. */
double numbers_apart(const float *a, const float *b);
/* Vocabularies that the data have, and that no number of ranks divides. */
ModelPreset preset_of_text(const Setting *setting, int tied);

#endif
