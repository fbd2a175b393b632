/* What the tables and the panel share: the unit of a size, and what the groups are called. */
#ifndef BRIM_REPORT_INTERNAL_H
#define BRIM_REPORT_INTERNAL_H

#include "report.h"

typedef struct Unit {
    const char *name;
    double bytes;
    int decimals;
    double smallest; /* that these decimals show */
} Unit;

/* One unit for all numbers that stand together, chosen by the largest. */
Unit report_unit_(uint64_t largest);

extern const char *const report_group_labels_[MEM_GROUP_COUNT]; /* "parameters", "optimizer states" */
extern const char *const report_group_short_[MEM_GROUP_COUNT];  /* "param", "optim" */

#endif
