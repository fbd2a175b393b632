/* report: what memory looks like to people. Reads memtrack only.
 *
 * Two columns are never confused: "at peak" sums to the peak; "own peak" is each component's highest moment
 * and does not sum. Units are binary and named: MiB, GiB.
 */
#ifndef BRIM_REPORT_H
#define BRIM_REPORT_H

#include <stdio.h>

#include "../memtrack/memtrack.h"
#include "report_names.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is in use on a card beside what is reserved: id, name, whose it is. With the reservation and what is
 * unaccounted they sum to `used`. */
#define MEM_CARD_ROWS(X)                                                                                     \
    X(others, "others", "what other programs had before the run")                                            \
    X(context, "context", "the driver's own, for this process")                                              \
    X(kernels, "kernels", "brim's code")                                                                     \
    X(library, "library", "cuBLAS's own")                                                                    \
    X(transport, "transport", "NCCL's own, where it carries between cards")                                  \
    X(graphs, "graphs", "graphs of kernels that come again")

/* Who counts. A process alone: nvidia-smi's row of it. All programs: what nvidia-smi shows of the whole card,
 * where NVIDIA's management library does not tell a process's part. The driver: all programs too, and what
 * others had is in `context`: where there is no such library. */
typedef enum MemCardCounter { MEM_CARD_NONE, MEM_CARD_PROCESS, MEM_CARD_ALL, MEM_CARD_DRIVER } MemCardCounter;

/* Bytes on a card; all 0 on the CPU. */
typedef struct MemCard {
    MemCardCounter counter;
    uint64_t used; /* at the end of the run */
#define X(id, name, whose) uint64_t id;
    MEM_CARD_ROWS(X)
#undef X
} MemCard;

/* The books of one ledger, copied: it outlives the ledger. */
typedef struct MemSummary {
    MemStats stats;
    char peak_path[128], peak_op[32]; /* of stats.peak_at */
    uint64_t reserved;                /* bytes reserved for the run; 0 in a plan */
    uint64_t host_peak;               /* host memory of the library: headers, tape, datasets */
    uint64_t process_peak; /* resident set at its highest, as the operating system counts; 0 in a plan */
    MemCard card;          /* of a run on a card; all 0 on the CPU */
} MemSummary;

/* Copies the books of a ledger. */
BRIM_API void report_summary(const MemLedger *ledger, MemSummary *out);
/* What the operating system counts beyond what is reserved or tracked: thread stacks, BLAS buffers, code,
 * other libraries' memory; negative when reserved pages were never touched. */
BRIM_API int64_t report_unaccounted(const MemSummary *summary);
/* The same of a card: what whole pieces of 2 MiB hold beyond what is reserved, and what the process or, where
 * all programs are counted, others have taken since. */
BRIM_API int64_t report_card_unaccounted(const MemSummary *summary);
/* "process", "all", "driver"; and in words what nvidia-smi calls `used`. */
BRIM_API const char *report_card_counter(MemCardCounter counter);
BRIM_API const char *report_card_meaning(MemCardCounter counter);
/* Where the peak was, for people: the module path, or "the model itself". */
BRIM_API const char *report_path(const MemSummary *summary);
/* The sum of the components of a group. */
BRIM_API uint64_t report_group(const uint64_t by_component[MEM_COMPONENT_COUNT], MemGroup group);

/* A size as "123.4 MiB" or "1.23 GiB", by magnitude: in bytes below 10 KiB, in the next unit from 1024. */
typedef struct SizeText {
    char text[32];
} SizeText;
BRIM_API SizeText report_size(uint64_t bytes);
/* One unit for all numbers that stand together, chosen by the largest: the next one from 10240. */
typedef struct ReportUnit {
    const char *name;
    double bytes;
    int decimals;
    double smallest; /* that these decimals show */
} ReportUnit;
BRIM_API ReportUnit report_unit(uint64_t largest);
/* "6,123,168" */
BRIM_API SizeText report_count(int64_t n);
/* Of things a second: "6,123", below ten "0.85" or "3.4" */
BRIM_API SizeText report_rate(double per_second);

/* A table that compares runs: a heading, then a row a run with its peak by group, in MiB, and what a step
 * took (0 = blank). Labels of up to 26 characters. */
BRIM_API void report_row_heading(FILE *out, const char *label);
BRIM_API void report_row(FILE *out, const char *label, const MemSummary *summary, double step_seconds);

/* The end table: planned | measured | own peak by group and component, the peak and where it was, and
 * (measured) what the process holds besides. Either of planned and measured may be NULL: then a column has
 * the shares of the peak instead. */
BRIM_API void report_table(FILE *out, const MemSummary *planned, const MemSummary *measured);
/* Its last lines: what a card and the process hold besides. */
BRIM_API void report_beyond(FILE *out, const MemSummary *measured);
/* After an empty line the textbook's sum of own peaks, what the true peak differs by, line by line, and the
 * true peak. */
BRIM_API void report_textbook(FILE *out, const MemSummary *summary);

/* One step of a run, as a line: loss, speed, and the memory of the step's highest moment by group. */
typedef struct StepLine {
    int64_t step; /* from 1 */
    double loss, tokens_per_second;
    int same_memory; /* 1: as in the line before, so nothing is said of it */
} StepLine;
BRIM_API void report_step(FILE *out, const MemLedger *ledger, const StepLine *line);

#ifdef __cplusplus
}
#endif
#endif
