/* What the run log's files share. */
#ifndef BRIM_RUNLOG_INTERNAL_H
#define BRIM_RUNLOG_INTERNAL_H

#include "runlog.h"

/* Which events are logged: all up to the first training step of this run, which in one that goes on is not
 * the step 0, and those of RUNLOG_STEPS steps. */
typedef struct LogWindow {
    int64_t first;
    int trains; /* 1: it has begun to train */
} LogWindow;

struct RunOutline {
    uint64_t *live;
    size_t count, capacity;
    LogWindow window;
    int failed;
};

/* Of events in their order. */
int report_in_window_(LogWindow *window, const MemEvent *event);

#endif
