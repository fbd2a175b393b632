/* What the tests make fail, counted over a program and, by tools/run-tests, over all of them. And what every
 * test may ask about the run: is it the long form, is it under a sanitizer? */
#ifndef TEST_COUNT_H
#define TEST_COUNT_H

/* What, and how it is called in the sum. Allocations and scenarios are counted by themselves. */
#define COUNTED(X)                                                                                           \
    X(ALLOCATIONS, "allocations failed")                                                                     \
    X(SCENARIOS, "scenarios")                                                                                \
    X(CALLS, "system calls failed")                                                                          \
    X(DEATHS, "deaths in system calls")                                                                      \
    X(KILLS, "runs killed")

typedef enum Counted {
#define X(id, name) COUNTED_##id,
    COUNTED(X)
#undef X
        COUNTED_KINDS
} Counted;

/* Added when it was survived. */
void count_more(Counted what, int times);

/* BRIM_FULL=1 (make test-full, make check-full): more cases of each kind. Without it each kind has some. */
int full_form(void);

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

#endif
