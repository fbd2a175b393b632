/* A run log's events in the formats that existing viewers open.
 *
 * Each writes to `out` and returns 0; or -1 with errno set when writing failed or there is no memory. The
 * events are those of the log: set-up and the first two training steps. Without events there is little to
 * see, but the files are valid.
 */
#ifndef BRIM_EXPORTS_H
#define BRIM_EXPORTS_H

#include <stdio.h>

#include "runlog_read.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A pickle as torch.cuda.memory._dump_snapshot writes it, for pytorch.org/memory_viz: one segment, the
 * reservation; categories are components, frames are op and place; a re-tag is a free and an allocation at
 * the same address. */
int report_torch_snapshot(const RunRecord *run, FILE *out);
/* JSON for ui.perfetto.dev and chrome://tracing: a counter a component and one of all, phases and steps as
 * slices. */
int report_chrome_trace(const RunRecord *run, FILE *out);
/* For ms_print and massif-visualizer: about a hundred snapshots, the peak among them; time is bytes allocated
 * and freed; extra is what rounding adds; trees by component, then place and op. */
int report_massif(const RunRecord *run, FILE *out);
/* One event a line, names spelled out, with the live bytes after it. */
int report_events_csv(const RunRecord *run, FILE *out);
int report_events_jsonl(const RunRecord *run, FILE *out);

#ifdef __cplusplus
}
#endif
#endif
