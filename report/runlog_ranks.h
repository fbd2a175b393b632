/* The logs of all ranks of a run, read together. Each rank writes its own: FILE is rank 0's, FILE.rank-3 that
 * of rank 3. Ranks that are alike become one kind; a log that is not there, or is of another run, is a note.
 */
#ifndef BRIM_RUNLOG_RANKS_H
#define BRIM_RUNLOG_RANKS_H

#include "runlog_read.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Ranks with the same plan, the same events and the same measured peak. */
typedef struct RunKind {
    RankKind words; /* of what was measured; of what was planned where nothing was */
    uint64_t planned_peak, needs, measured_peak; /* 0: not known */
    uint64_t process;                            /* the highest of them */
    uint64_t sent;                               /* bytes a step */
    uint64_t signature;                          /* of the events */
    int stage;
} RunKind;

typedef struct RunRanks {
    RankLayout layout;
    int rank;       /* whose log was given */
    int *kind;      /* by rank; -1: nothing is known */
    RunKind *kinds; /* in order of their first rank, that of the log that was given included */
    int count, capacity;
    RunNames notes;
} RunRanks;

/* Reads those of the log's other ranks, if it is rank 0's; each is read and let go. Of one that is alone
 * there are none: count 0. 0, or -1 without host memory. */
int report_run_ranks(const RunRecord *run, RunRanks *ranks);
void report_run_ranks_free(RunRanks *ranks); /* also one that was all zero */
/* "0-3, 5": the ranks of a kind. */
RankWords report_run_ranks_of(const RunRanks *ranks, int kind);
/* For report_ranks_why and the like; `count` of them, which the caller gives room for. */
void report_run_ranks_words(const RunRanks *ranks, RankKind *out);

#ifdef __cplusplus
}
#endif
#endif
