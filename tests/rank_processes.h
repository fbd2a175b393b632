/* Ranks that are processes of the test, with a transport over memory that they share: what each of them loads
 * and opens is its own, as a card's driver is. */
#ifndef RANK_PROCESSES_H
#define RANK_PROCESSES_H

#include "rank_threads.h"

/* Runs body in a process a rank. Returns how many ended with non-zero; one that does ends the waiting of the
 * others. What they have in common: processes_shared, made before. */
int as_processes(const Ranks *ranks, RankBody *body, void *user);
/* Memory of zeros that parents and children share, and its end. */
void *processes_shared(size_t bytes);
void processes_shared_end(void *memory, size_t bytes);

#endif
