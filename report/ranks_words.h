/* What a table of ranks says in words: which of them is the fullest and why, and what dividing saves. Of
 * plans and of run logs alike. */
#ifndef BRIM_REPORT_RANKS_WORDS_H
#define BRIM_REPORT_RANKS_WORDS_H

#include "../memtrack/memtrack.h"

/* How ranks divide a training. */
typedef struct RankLayout {
    int size, data, tensor, stages; /* from 1 */
    int64_t micro_batches;          /* of a step, on each rank that divides the data */
    char strategy[16], schedule[16];
    int replicas; /* of what is divided, each by data / replicas ranks; 0 = 1 */
} RankLayout;

/* Ranks that are alike. */
typedef struct RankKind {
    int first, count; /* the first of them, and how many they are */
    char ranks[64];   /* all of them, "0-3, 5" */
    uint64_t peak;    /* the highest moment of one of them, with its composition */
    uint64_t at_peak[MEM_COMPONENT_COUNT];
} RankKind;

enum { RANK_WORDS = 640 };
typedef struct RankWords {
    char text[RANK_WORDS];
} RankWords;

/* "rank 3", or "stage 1 (ranks 2-3)" where each stage is of one kind. */
RankWords report_rank_name(const RankLayout *layout, const RankKind *kind);
/* The index of the fullest. */
int report_ranks_fullest(const RankKind *kinds, int count);
/* Sentences: which is the fullest, and why; or that all are alike. */
RankWords report_ranks_why(const RankLayout *layout, const RankKind *kinds, int count);
/* What dividing saves, in figures of the fullest rank: a question and its answer. "" where nothing is divided
 * by data. */
RankWords report_ranks_saving(const RankLayout *layout, const RankKind *kinds, int count);

#endif
