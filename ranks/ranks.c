/* What a run is divided into, by name. */
#include <string.h>

#include "ranks.h"

static const struct {
    const char *name, *divides;
} strategies[] = {
#define X(id, name, divided) {name, divided},
    RANK_STRATEGIES(X)
#undef X
};

static const struct {
    const char *name, *holds;
} schedules[] = {
#define X(id, name, holds) {name, holds},
    RANK_SCHEDULES(X)
#undef X
};

int ranks_strategy(const char *name)
{
    for (int i = 0; i < RANK_STRATEGY_COUNT; i++)
        if (!strcmp(name, strategies[i].name))
            return i;
    return strcmp(name, "fsdp") ? -1 : RANKS_ZERO3;
}

const char *ranks_strategy_name(RankStrategy strategy)
{
    return (unsigned)strategy < RANK_STRATEGY_COUNT ? strategies[strategy].name : "";
}

const char *ranks_strategy_divides(RankStrategy strategy)
{
    return (unsigned)strategy < RANK_STRATEGY_COUNT ? strategies[strategy].divides : "";
}

static const char *const reduces[] = {
#define X(id, name) name,
    RANK_REDUCES(X)
#undef X
};

int ranks_reduce(const char *name)
{
    for (int i = 0; i < RANK_REDUCE_COUNT; i++)
        if (!strcmp(name, reduces[i]))
            return i;
    return -1;
}

const char *ranks_reduce_name(RankReduce reduce)
{
    return (unsigned)reduce < RANK_REDUCE_COUNT ? reduces[reduce] : "";
}

int ranks_schedule(const char *name)
{
    for (int i = 0; i < RANK_SCHEDULE_COUNT; i++)
        if (!strcmp(name, schedules[i].name))
            return i;
    return -1;
}

const char *ranks_schedule_name(RankSchedule schedule)
{
    return (unsigned)schedule < RANK_SCHEDULE_COUNT ? schedules[schedule].name : "";
}

const char *ranks_schedule_holds(RankSchedule schedule)
{
    return (unsigned)schedule < RANK_SCHEDULE_COUNT ? schedules[schedule].holds : "";
}
