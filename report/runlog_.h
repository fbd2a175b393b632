/* What the run log's files share. */
#ifndef BRIM_RUNLOG_INTERNAL_H
#define BRIM_RUNLOG_INTERNAL_H

#include "runlog.h"

struct RunOutline {
    uint64_t *live;
    size_t count, capacity;
    int failed;
};

/* Whether an event is of those that are logged. */
int report_in_window_(const MemEvent *event);

#endif
