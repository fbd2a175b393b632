/* What the exports share. */
#ifndef BRIM_EXPORTS_INTERNAL_H
#define BRIM_EXPORTS_INTERNAL_H

#include "../memtrack/memtrack.h"
#include "exports.h"
#include "text_.h"

/* Events first..end - 1 of one step and phase, from one time to the next span's. All zero before the first.
 */
typedef struct RunSpan {
    size_t first, end;
    uint64_t begin_us, end_us;
    int32_t step;
    uint8_t phase;
} RunSpan;
int report_span_next_(const RunRecord *run, RunSpan *span); /* 0 when there are no more */

/* Where an event's place and op are at the root or none: words for people. */
const char *report_path_text_(const RunRecord *run, int64_t path);
const char *report_op_text_(const RunRecord *run, int64_t op);

/* Flushes; 0, or -1 with errno. */
int report_finish_(FILE *out);

#endif
