/* Ranks that are threads of the test: a transport over the memory they share, so that what ranks do is tested
 * without a library and without processes, under sanitizers too. */
#ifndef RANK_THREADS_H
#define RANK_THREADS_H

#include "../ranks/ranks.h"

/* Runs body once a rank, each in a thread of its own, with a Ranks of its own. Returns how many returned
 * non-zero. A rank that does ends the waiting of the others, whose collectives fail. */
typedef int RankBody(const Ranks *ranks, void *user);
int as_ranks(int size, RankStrategy strategy, RankBody *body, void *user);
/* The same with all that a Ranks says but for rank and transport. */
int as_these_ranks(const Ranks *ranks, RankBody *body, void *user);

#endif
