/* What the files that read a run log share. */
#ifndef BRIM_RUNLOG_READ_INTERNAL_H
#define BRIM_RUNLOG_READ_INTERNAL_H

#include <jansson.h>

#include "../memtrack/memtrack.h"
#include "runlog_cross_.h"
#include "runlog_read.h"
#include "text_.h"

/* Every size, offset, time and sum of a log is below: exact as a double, far from overflow. */
#define RUN_LIMIT (UINT64_C(1) << 53)

/* What was met while reading that the notes will say. */
typedef struct RunReading {
    RunRecord *run;
    RunCross cross;
    int64_t line; /* from 1 */
    int64_t contradictions;
    int no_memory;
} RunReading;

/* Room for one more in a growing array; 0, or -1 without memory. */
int report_run_room_(void **items, size_t *capacity, size_t count, size_t item_bytes);
/* A copy in host memory; NULL without memory. Freed with its length + 1. */
char *report_run_copy_(const char *text);
int report_run_add_name_(RunNames *names, const char *name);
/* 1 and *out when the object has a whole number from 0 to RUN_LIMIT under this key. */
int report_run_number_(const json_t *object, const char *key, uint64_t *out);
double report_run_real_(const json_t *object, const char *key); /* NaN without */

/* runlog_header.c: 0, or -1 and why. */
int report_run_header_(RunReading *reading, const json_t *line, char *why, size_t why_size);
int report_run_memory_(const RunRecord *run, const json_t *object, RunMemory *out); /* -1 without memory */
void report_run_memory_free_(RunMemory *memory);

/* runlog_check.c: pairs frees with their allocations, leaves out what contradicts, finds the peak. -1 without
 * memory. */
int report_run_check_(RunReading *reading);

#endif
