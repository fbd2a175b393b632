/* What the tests make fail, counted over a program and, by tools/run-tests, over all of them. */
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

#endif
