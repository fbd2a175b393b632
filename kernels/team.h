/* The thread team of parallel regions: see team.c. */
#ifndef BRIM_TEAM_H
#define BRIM_TEAM_H

/* Processors this process may run on. */
int team_processors(void);
/* Makes another compiler's OpenMP run-time wait asleep instead of spinning; call before the first region. */
void team_settle(void);

#if defined(__GNUC__) && !defined(__clang__)
/* The part of libgomp's interface that gcc's parallel regions use. */
void GOMP_parallel(void (*function)(void *), void *data, unsigned threads, unsigned flags);
void GOMP_barrier(void);
int omp_get_num_threads(void);
int omp_get_thread_num(void);
int omp_in_parallel(void);
#endif

#endif
