/* What would fit, where something does not. */
#ifndef BRIM_ADVICE_INTERNAL_H
#define BRIM_ADVICE_INTERNAL_H

#include "cli.h"

/* No choice of --checkpoint fits the budget; `options` has the one that comes closest. Says what bounds it
 * and what else would help. Returns EXIT_NO. */
int advise_without_checkpoint(const Options *options, const PlanFound *found);

#endif
