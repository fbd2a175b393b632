/* Before anything is reserved, ranks compare their plans: what differs would otherwise be a run that hangs,
 * or that sums the wrong numbers. */
#include <inttypes.h>

#include "../base/plural_.h"
#include "plan_.h"

/* What a rank has planned. */
typedef struct PlanWord {
    uint64_t needs, traffic, events;
    int64_t steps;
    int32_t size, strategy, threads, tensor, stages, schedule;
    uint64_t sent;
    int64_t replicate_below;
    int32_t replicas, reduce;
    uint64_t rest[6];
} PlanWord;
_Static_assert(sizeof(PlanWord) % 64 == 0, "the unit of what ranks send");

/* How `other` differs from `mine`, the coarsest first; "" where it does not. same: they have the same stage
 * of the model. */
static void difference(char *out, size_t size, const PlanWord *mine, const PlanWord *other, int same)
{
    out[0] = '\0';
    if (other->size != mine->size)
        snprintf(out, size, "is one of %d, not of %d; give all ranks the same options", other->size,
                 mine->size);
    else if (other->tensor != mine->tensor)
        snprintf(out, size,
                 "is one of %d that compute a layer together, not of %d; give all ranks the same options",
                 other->tensor, mine->tensor);
    else if (other->strategy != mine->strategy)
        snprintf(out, size, "is to train with %s, not with %s; give all ranks the same options",
                 ranks_strategy_name((RankStrategy)other->strategy),
                 ranks_strategy_name((RankStrategy)mine->strategy));
    else if (other->replicas != mine->replicas)
        snprintf(out, size, "has %d replicas, not %d; give all ranks the same options", other->replicas,
                 mine->replicas);
    else if (other->reduce != mine->reduce)
        snprintf(out, size, "is to add in %s order, not %s; give all ranks the same options",
                 ranks_reduce_name((RankReduce)other->reduce), ranks_reduce_name((RankReduce)mine->reduce));
    else if (other->replicate_below != mine->replicate_below)
        snprintf(out, size,
                 "keeps weights below %" PRId64 " elements whole, not below %" PRId64
                 "; give all ranks the same options",
                 other->replicate_below, mine->replicate_below);
    else if (other->stages != mine->stages || other->schedule != mine->schedule)
        snprintf(out, size,
                 "has a model of %d stages by %s, not of %d by %s; give all ranks the same options",
                 other->stages, ranks_schedule_name((RankSchedule)other->schedule), mine->stages,
                 ranks_schedule_name((RankSchedule)mine->schedule));
    else if (other->threads != mine->threads)
        snprintf(out, size,
                 "has %d thread%s, not %d, and workspaces depend on them; give all ranks the same number of "
                 "threads",
                 other->threads, plural(other->threads), mine->threads);
    else if (other->steps != mine->steps)
        snprintf(out, size,
                 "planned %" PRId64 " steps, not %" PRId64
                 "; do all ranks have the same options and the same data?",
                 other->steps, mine->steps);
    else if (!same) /* stages differ in all that follows */
        return;
    else if (other->needs != mine->needs)
        snprintf(out, size,
                 "needs %" PRIu64 " bytes, not %" PRIu64
                 "; do all ranks have the same options and the same data?",
                 other->needs, mine->needs);
    else if (other->traffic != mine->traffic || other->sent != mine->sent)
        snprintf(out, size,
                 "would exchange other data; do all ranks have the same options and the same data?");
    else if (other->events != mine->events)
        snprintf(out, size, "would allocate in another order; a script may not depend on the rank");
}

static int disagree(RunResult *result, const char *what)
{
    snprintf(result->error, sizeof result->error, "%s", what);
    return result->status = ERROR_RANKS;
}

int plan_agree_(const Plan *plan, const RunOptions *o, RunResult *result)
{
    const Ranks *ranks = o->ranks;
    if (!ranks || ranks->size < 2 || !ranks->transport)
        return ERROR_NONE;
    const MemStats *s = &plan->memory.stats;
    PlanWord mine = {.needs = s->needs,
                     .traffic = plan->traffic,
                     .events = s->event_hash,
                     .steps = plan->steps,
                     .size = ranks->size,
                     .tensor = ranks->tensor > 1 ? ranks->tensor : 1,
                     .strategy = (int32_t)ranks->strategy,
                     .stages = ranks->stages > 1 ? ranks->stages : 1,
                     .schedule = (int32_t)ranks->schedule,
                     .threads = o->threads > 0 ? o->threads : context_default_threads(ranks),
                     .sent = plan->step_sent,
                     .replicate_below = ranks->replicate_below,
                     .replicas = ranks->replicas > 1 ? ranks->replicas : 1,
                     .reduce = (int32_t)ranks->reduce};
    size_t bytes = (size_t)ranks->size * sizeof mine;
    PlanWord *all = memtrack_host_calloc(NULL, bytes);
    if (!all)
        return disagree(result, "out of host memory for the plans of all ranks");
    char what[256] = "";
    int other = 0, beside = 0;
    if (ranks_gather(ranks, &mine, sizeof mine, all))
        disagree(result, "the ranks could not compare their plans: one has stopped, or cannot be reached");
    int of_stage = ranks->size / mine.stages;
    while (!result->status && !what[0] && ++other < ranks->size) {
        difference(what, sizeof what, &all[0], &all[other], other < of_stage);
        if (!what[0])
            difference(what, sizeof what, &all[other / of_stage * of_stage], &all[other], 1);
        beside = what[0] && other >= of_stage ? other / of_stage * of_stage : 0;
    }
    memtrack_host_free(NULL, all, bytes);
    if (what[0]) {
        snprintf(result->error, sizeof result->error,
                 "the plans of the ranks differ: rank %d %s (beside rank %d)", other, what, beside);
        result->status = ERROR_RANKS;
    }
    return result->status;
}
