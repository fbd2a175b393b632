/* ranks: several processes that train one model together. What each of them holds and sends is planned like
 * everything else: a plan of one rank is made by one process, without the others.
 *
 *     Ranks ranks;
 *     if (ranks_join(&ranks, RANKS_ZERO3, 0, why, sizeof why)) …
 *     status = brim_run(train, &config, &(RunOptions){.ranks = &ranks});
 *     ranks_leave(&ranks, status);
 *
 * The script is the same for any number of ranks. Its batch is that of each rank; a step has as many
 * micro-batches on every rank, and its loss and gradients are those of all ranks' samples together.
 */
#ifndef BRIM_RANKS_H
#define BRIM_RANKS_H

#include <stddef.h>
#include <stdint.h>

#include "../base/api.h"
#include "ranks_names.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is divided among ranks: enum, name, and what it divides. */
#define RANK_STRATEGIES(X)                                                                                   \
    X(DDP, "ddp", "nothing: every rank has all of the model and its states")                                 \
    X(ZERO1, "zero1", "optimizer states")                                                                    \
    X(ZERO2, "zero2", "optimizer states and gradients")                                                      \
    X(ZERO3, "zero3", "optimizer states, gradients and parameters")

typedef enum RankStrategy {
#define X(id, name, divided) RANKS_##id,
    RANK_STRATEGIES(X)
#undef X
        RANK_STRATEGY_COUNT
} RankStrategy;

/* In which order a stage runs a step's micro-batches: enum, name, and what it holds. */
#define RANK_SCHEDULES(X)                                                                                    \
    X(1F1B, "1f1b", "a backward as soon as one can run: stage i of p holds at most p - i micro-batches")     \
    X(GPIPE, "gpipe", "all forwards, then all backwards: every stage holds all micro-batches of a step")

typedef enum RankSchedule {
#define X(id, name, holds) RANKS_##id,
    RANK_SCHEDULES(X)
#undef X
        RANK_SCHEDULE_COUNT
} RankSchedule;

/* In whose order ranks add: that of the ranks, which is bit for bit what one process adds, or the library's
 * (MPI). AUTO: ordered up to 16 ranks that add together, the library's beyond. */
#define RANK_REDUCES(X)                                                                                      \
    X(AUTO, "auto")                                                                                          \
    X(ORDERED, "ordered")                                                                                    \
    X(LIBRARY, "library")

typedef enum RankReduce {
#define X(id, name) RANKS_REDUCE_##id,
    RANK_REDUCES(X)
#undef X
        RANK_REDUCE_COUNT
} RankReduce;

enum { RANKS_MOST = 65536 };

/* One rank of a run. Of a plan, rank, size and strategy suffice. */
typedef struct Ranks {
    int rank, size; /* 0 … size - 1 */
    /* 0 = 1: ranks that compute one layer together, and stages of layers. size is a multiple of their
     * product, and the rest divides the data. A rank is (stage, data, tensor), the last counted first. */
    int tensor, stages;
    int sequence; /* of those that compute a layer together: what lies between such layers is divided too, by
                     rows of batch x sequence (Korthikanti et al., arXiv 2205.05198) */
    RankStrategy strategy; /* among those that divide the data */
    int replicas; /* 0 = 1: of all that is divided; it is divided among the ranks of each, which follow
                   * each other. Divides the number of those that divide the data */
    int64_t replicate_below; /* zero3: weights of fewer elements stay whole, as by zero2; 0 = none */
    RankReduce reduce;     /* of fp32; what has 16 bits is always added in order, in fp32, and rounded once */
    RankSchedule schedule; /* of stages */
    int unit; /* elements that a rank's part of a parameter is a multiple of: 0 = 64 bytes; 256 for optimizers
                 with states of 8 bits, whose blocks must not be cut */
    const struct Transport *transport; /* NULL: a plan, or a run of one rank */
    const struct Transport *card;      /* of what lies on cards; NULL: it passes through the host's memory */
    int node_rank, node_size;          /* among those on this machine */
} Ranks;

/* "zero3"; "fsdp" is another name for it. -1 when there is none of this name. */
BRIM_API int ranks_strategy(const char *name);
BRIM_API const char *ranks_strategy_name(RankStrategy strategy);
/* What it divides, in words. */
BRIM_API const char *ranks_strategy_divides(RankStrategy strategy);

/* "ordered"; -1 when there is none of this name. And back. */
BRIM_API int ranks_reduce(const char *name);
BRIM_API const char *ranks_reduce_name(RankReduce reduce);

/* "gpipe"; -1 when there is none of this name. And back; what it holds, in words. */
BRIM_API int ranks_schedule(const char *name);
BRIM_API const char *ranks_schedule_name(RankSchedule schedule);
BRIM_API const char *ranks_schedule_holds(RankSchedule schedule);

/* Joins the ranks that a launcher (mpirun, srun) started this process among. size: how many are expected; 0 =
 * as many as there are. Without a launcher this is a run of one rank. 0, or an error code with a sentence in
 * why: what is missing, what was found, and what would work. */
BRIM_API int ranks_join(Ranks *ranks, RankStrategy strategy, int size, char *why, size_t why_size);
/* The run is over. status: 0, or it failed here: then the others are not waited for, and this process has to
 * end with a non-zero status, at which the launcher ends them. */
BRIM_API void ranks_leave(Ranks *ranks, int status);
/* Everyone's `bytes` come to lie at all + rank * bytes, on all ranks, which call it at the same place of
 * their run. Small figures, not tensors: no plan knows of it. 0, or -1 when a rank has stopped or cannot be
 * reached. */
BRIM_API int ranks_gather(const Ranks *ranks, const void *mine, uint64_t bytes, void *all);
/* How many ranks the launcher's environment says; 0 = none started this process. */
BRIM_API int ranks_launched(void);
/* Makes this process the launcher of `ranks` of its program, with the same arguments (main's, closed by
 * NULL): mpirun, where it and a plugin are found. Returns only where that was not possible: an error code
 * with a sentence in why, which says the command to type. To be called before threads are started: it sets
 * variables for mpirun. */
BRIM_API int ranks_launch(int ranks, char *const *argv, char *why, size_t why_size);
/* From now on, in a thread of its own: a collective that this rank has waited in for longer than so many
 * seconds is told to `late`, in a sentence; where that returns, all ranks are ended. 0 seconds or one rank:
 * nothing is watched. 0, or an error code with a sentence in why. Until ranks_leave. */
typedef void RanksLate(const char *sentence, void *user);
BRIM_API int ranks_watch(const Ranks *ranks, int seconds, RanksLate *late, void *user, char *why,
                         size_t why_size);

#ifdef __cplusplus
}
#endif
#endif
