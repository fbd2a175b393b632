/* The tracker: what is going on now (phase, step, op), stamped onto every event, and the owner of the
 * ledgers.
 */
#include <string.h>

#include "../base/clock_.h"
#include "memtrack_.h"

static const char *const component_names[MEM_COMPONENT_COUNT] = {
#define X(id, name, group, end) [MEM_##id] = name,
    MEMTRACK_COMPONENTS(X)
#undef X
};

static const char *const group_names[MEM_GROUP_COUNT] = {
#define X(id, name, label, word, brief) [MEM_GROUP_##id] = name,
    MEMTRACK_GROUPS(X)
#undef X
};

static const char *const phase_names[MEM_PHASE_COUNT] = {
#define X(id, name) [MEM_PHASE_##id] = name,
    MEMTRACK_PHASES(X)
#undef X
};

static const MemGroup component_groups[MEM_COMPONENT_COUNT] = {
#define X(id, name, group, end) [MEM_##id] = MEM_GROUP_##group,
    MEMTRACK_COMPONENTS(X)
#undef X
};

const char *memtrack_component_name(MemComponent component)
{
    return (unsigned)component < MEM_COMPONENT_COUNT ? component_names[component] : "unknown";
}

const char *memtrack_group_name(MemGroup group)
{
    return (unsigned)group < MEM_GROUP_COUNT ? group_names[group] : "unknown";
}

const char *memtrack_phase_name(MemPhase phase)
{
    return (unsigned)phase < MEM_PHASE_COUNT ? phase_names[phase] : "unknown";
}

MemGroup memtrack_component_group(MemComponent component)
{
    return (unsigned)component < MEM_COMPONENT_COUNT ? component_groups[component] : MEM_GROUP_OVERHEAD;
}

MemTracker *memtrack_create(void)
{
    MemTracker *tracker = memtrack_host_calloc(NULL, sizeof *tracker);
    if (!tracker)
        return NULL;
    memtrack_host_adopt_(tracker);
    tracker->created_ns = clock_ns();
    if (memtrack_paths_create_(tracker)) {
        memtrack_destroy(tracker);
        return NULL;
    }
    return tracker;
}

void memtrack_destroy(MemTracker *tracker)
{
    if (!tracker)
        return;
    for (MemLedger *ledger = tracker->ledgers, *next; ledger; ledger = next) {
        next = ledger->next;
        memtrack_ledger_destroy_(ledger);
    }
    memtrack_paths_destroy_(tracker);
    memtrack_host_free(NULL, tracker, sizeof *tracker);
}

MemPhase memtrack_phase_set(MemTracker *tracker, MemPhase phase)
{
    MemPhase before = tracker->phase;
    tracker->phase = phase;
    return before;
}

MemPhase memtrack_phase(const MemTracker *tracker)
{
    return tracker->phase;
}

int64_t memtrack_step_set(MemTracker *tracker, int64_t step)
{
    int64_t before = tracker->step;
    tracker->step = step;
    for (MemLedger *ledger = tracker->ledgers; ledger; ledger = ledger->next) {
        MemStats *stats = &ledger->stats;
        stats->step_hash = 0;
        memtrack_follow_segment_(&ledger->follow);
        if (ledger->trace)
            memtrack_trace_segment_(ledger->trace);
        stats->step_peak = stats->live;
        memcpy(stats->step_at_peak, stats->live_by, sizeof stats->step_at_peak);
    }
    return before;
}

int64_t memtrack_step(const MemTracker *tracker)
{
    return tracker->step;
}

const char *memtrack_op_set(MemTracker *tracker, const char *op)
{
    const char *before = tracker->op;
    tracker->op = op;
    tracker->op_hashed = false;
    if (tracker->watch && op)
        tracker->watch(tracker->watch_user);
    return before;
}

void memtrack_watch(MemTracker *tracker, MemWatch watch, void *user)
{
    tracker->watch = watch;
    tracker->watch_user = user;
}
