/* What the tables and the panel call the groups. */
#ifndef BRIM_REPORT_INTERNAL_H
#define BRIM_REPORT_INTERNAL_H

#include "report.h"

extern const char *const report_group_labels_[MEM_GROUP_COUNT]; /* "parameters", "optimizer states" */
extern const char *const report_group_short_[MEM_GROUP_COUNT];  /* "param", "optim" */

#endif
