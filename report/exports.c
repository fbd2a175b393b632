/* What the exports share: phases as spans of events, and names for people. */
#include <errno.h>

#include "exports_.h"

int report_span_next_(const RunRecord *run, RunSpan *span)
{
    size_t i = span->end;
    if (i >= run->event_count)
        return 0;
    const RunEvent *events = run->events;
    *span = (RunSpan){
        .first = i, .begin_us = events[i].time_us, .step = events[i].step, .phase = events[i].phase};
    while (i < run->event_count && events[i].step == span->step && events[i].phase == span->phase)
        i++;
    span->end = i;
    span->end_us = events[i < run->event_count ? i : i - 1].time_us;
    return 1;
}

const char *report_path_text_(const RunRecord *run, int64_t path)
{
    const char *name = report_run_path(run, path);
    return name[0] ? name : "(root)";
}

const char *report_op_text_(const RunRecord *run, int64_t op)
{
    const char *name = report_run_op(run, op);
    return name[0] ? name : "no op";
}

int report_finish_(FILE *out)
{
    int failed = fflush(out) != 0;
    if (!failed && ferror(out)) {
        errno = EIO; /* of an earlier write; its reason is gone */
        failed = 1;
    }
    return failed ? -1 : 0;
}
