/* Recording a trace: the events of the running segment and, at its end, its kind: a new one or one that is
 * known. Whatever can fail is done before an allocation. Only the room for residents is taken at a segment's
 * end; memtrack_pack reports a failure there. */
#include "trace_.h"

#include <string.h>

#include "memtrack_.h"

static void drop_kind(MemTraceKind *kind)
{
    memtrack_host_free(NULL, kind->events, kind->event_capacity * sizeof *kind->events);
    memtrack_host_free(NULL, kind->allocs, kind->alloc_capacity * sizeof *kind->allocs);
    memtrack_host_free(NULL, kind->until, kind->until_capacity * sizeof *kind->until);
    *kind = (MemTraceKind){0};
}

static int grow_kind(MemTraceKind *kind, size_t events, size_t allocs)
{
    void *grown = kind->events;
    int failed = memtrack_host_grow_(NULL, &grown, &kind->event_capacity, events, sizeof *kind->events);
    kind->events = grown;
    if (failed)
        return -1;
    grown = kind->allocs;
    failed = memtrack_host_grow_(NULL, &grown, &kind->alloc_capacity, allocs, sizeof *kind->allocs);
    kind->allocs = grown;
    return failed;
}

/* The trace will not be packed: its room is freed. */
static void give_up(MemTrace *trace)
{
    trace->beyond = true;
    for (size_t i = 0; i < trace->kind_count; i++)
        drop_kind(&trace->kinds[i]);
    drop_kind(&trace->now);
    trace->kind_count = trace->ended_count = 0;
}

int memtrack_trace_prepare_(MemTrace *trace)
{
    if (memtrack_live_prepare_(trace))
        return -1;
    if (!trace->beyond && trace->alloc_count + trace->now.alloc_count >= MEM_TRACE_ALLOCS)
        give_up(trace);
    if (trace->beyond)
        return 0;
    size_t frees = trace->live_count + 1;
    void *ended = trace->ended;
    int failed = memtrack_host_grow_(NULL, &ended, &trace->ended_capacity, trace->ended_count + frees,
                                     sizeof(MemTraceEnd));
    trace->ended = ended;
    return failed || grow_kind(&trace->now, trace->now.event_count + 1 + frees, trace->now.alloc_count + 1)
               ? -1
               : 0;
}

static void push_event(MemTraceKind *kind, uint64_t digest)
{
    kind->events[kind->event_count++] = digest;
    kind->hash = (kind->hash ^ digest) * 0x9e3779b97f4a7c15u;
    kind->hash ^= kind->hash >> 32;
}

void memtrack_trace_alloc_(MemTrace *trace, MemBlock *block, const MemWhere *where, uint64_t digest)
{
    MemLiveBlock *live = memtrack_live_add_(trace, block, where);
    if (trace->beyond)
        return;
    MemTraceKind *now = &trace->now;
    live->index = (uint32_t)now->alloc_count;
    now->allocs[now->alloc_count++] =
        (MemTraceAlloc){.bytes = block->bytes, .event = (uint32_t)now->event_count};
    push_event(now, digest);
}

void memtrack_trace_free_(MemTrace *trace, const MemBlock *block, uint64_t digest)
{
    if (!block->record)
        return;
    MemLiveBlock *live = &trace->blocks[block->record - 1];
    if (!trace->beyond) {
        uint32_t until = (uint32_t)trace->now.alloc_count;
        if (live->resident)
            trace->ended[trace->ended_count++] = (MemTraceEnd){live->resident - 1, until};
        else
            trace->now.allocs[live->index].until = until;
        push_event(&trace->now, digest);
    }
    memtrack_live_remove_(trace, live);
}

/* ---- The end of a segment -------------------------------------------------------------------- */

static void lived_until(MemTraceKind *kind, size_t resident, uint32_t until)
{
    if (until > kind->until[resident])
        kind->until[resident] = until;
}

static int fit_residents(MemTraceKind *kind, size_t count)
{
    size_t before = kind->until_capacity;
    void *until = kind->until;
    int failed = memtrack_host_grow_(NULL, &until, &kind->until_capacity, count, sizeof *kind->until);
    kind->until = until;
    if (kind->until_capacity > before)
        memset(kind->until + before, 0, (kind->until_capacity - before) * sizeof *kind->until);
    return failed;
}

/* How long everything lived in the segment that ends. */
static int note_lifetimes(MemTrace *trace)
{
    MemTraceKind *now = &trace->now;
    if (fit_residents(now, trace->resident_count))
        return -1;
    for (size_t i = 0; i < now->alloc_count; i++)
        if (now->allocs[i].until == 0)
            now->allocs[i].until = (uint32_t)now->alloc_count;
    for (size_t i = 0; i < trace->ended_count; i++)
        lived_until(now, trace->ended[i].resident, trace->ended[i].until);
    trace->ended_count = 0;
    for (size_t i = 0; i < trace->block_capacity; i++)
        if (trace->blocks[i].bytes > 0 && trace->blocks[i].resident)
            lived_until(now, trace->blocks[i].resident - 1, (uint32_t)now->alloc_count);
    return 0;
}

static bool same_events(const MemTraceKind *a, const MemTraceKind *b)
{
    return a->hash == b->hash && a->event_count == b->event_count &&
           memcmp(a->events, b->events, a->event_count * sizeof *a->events) == 0;
}

/* Of kinds with the same events. */
static bool same_lifetimes(const MemTraceKind *a, const MemTraceKind *b)
{
    for (size_t i = 0; i < a->alloc_count; i++)
        if (a->allocs[i].until != b->allocs[i].until)
            return false;
    for (size_t r = 0; r < a->until_capacity || r < b->until_capacity; r++)
        if ((r < a->until_capacity ? a->until[r] : 0) != (r < b->until_capacity ? b->until[r] : 0))
            return false;
    return true;
}

/* One kind for both: everything lives as long as in either. */
static int unite(MemTraceKind *kind, const MemTraceKind *other)
{
    for (size_t i = 0; i < kind->alloc_count; i++)
        if (other->allocs[i].until > kind->allocs[i].until)
            kind->allocs[i].until = other->allocs[i].until;
    if (fit_residents(kind, other->until_capacity))
        return -1;
    for (size_t r = 0; r < other->until_capacity; r++)
        lived_until(kind, r, other->until[r]);
    return 0;
}

static void clear_now(MemTraceKind *now)
{
    now->event_count = now->alloc_count = 0;
    now->hash = 0;
    if (now->until)
        memset(now->until, 0, now->until_capacity * sizeof *now->until);
}

/* Makes the segment that ended a kind, unless there is one like it. Returns the first kind with its events;
 * NULL without room or memory, and the trace is then given up. */
static MemTraceKind *settle_kind(MemTrace *trace)
{
    MemTraceKind *now = &trace->now, *first = NULL;
    for (size_t k = 0; k < trace->kind_count; k++) {
        MemTraceKind *kind = &trace->kinds[k];
        if (!same_events(kind, now))
            continue;
        first = first ? first : kind;
        if (same_lifetimes(kind, now)) {
            clear_now(now);
            return first;
        }
    }
    if (first && trace->kind_count >= MEM_TRACE_VARIANTS) {
        trace->failed = unite(first, now) != 0;
        clear_now(now);
        return trace->failed ? NULL : first;
    }
    if (trace->kind_count == MEM_TRACE_KINDS)
        return NULL;
    MemTraceKind *kind = &trace->kinds[trace->kind_count++];
    *kind = *now;
    kind->first = (uint32_t)((first ? first : kind) - trace->kinds);
    *now = (MemTraceKind){0};
    trace->alloc_count += kind->alloc_count;
    return first ? first : kind;
}

/* A block made in the segment that ended, and still there. */
static int make_resident(MemTrace *trace, MemTraceKind *kind, MemLiveBlock *live)
{
    MemTraceAlloc *alloc = &kind->allocs[live->index];
    if (alloc->resident == 0) {
        void *residents = trace->residents;
        int failed = memtrack_host_grow_(NULL, &residents, &trace->resident_capacity,
                                         trace->resident_count + 1, sizeof(MemTraceResident));
        trace->residents = residents;
        if (failed)
            return -1;
        trace->residents[trace->resident_count++] = (MemTraceResident){kind->first, live->index};
        alloc->resident = (uint32_t)trace->resident_count;
    }
    live->resident = alloc->resident;
    return 0;
}

void memtrack_trace_segment_(MemTrace *trace)
{
    if (trace->beyond || trace->now.event_count == 0)
        return;
    trace->failed = note_lifetimes(trace) != 0;
    MemTraceKind *kind = trace->failed ? NULL : settle_kind(trace);
    for (size_t i = 0; kind && i < trace->block_capacity && !trace->failed; i++)
        if (trace->blocks[i].bytes > 0 && trace->blocks[i].resident == 0)
            trace->failed = make_resident(trace, kind, &trace->blocks[i]) != 0;
    if (kind && !trace->failed) /* room to free what lives, before anything is allocated again */
        trace->failed = grow_kind(&trace->now, trace->live_count + 1, 1) != 0;
    if (!kind || trace->failed)
        give_up(trace);
}

/* ---- Beginning and end ----------------------------------------------------------------------- */

int memtrack_trace_start(MemLedger *ledger)
{
    if (ledger->trace || ledger->stats.allocations > 0)
        return -1;
    ledger->trace = memtrack_host_calloc(NULL, sizeof *ledger->trace);
    return ledger->trace ? 0 : -1;
}

void memtrack_trace_destroy_(MemTrace *trace)
{
    if (!trace)
        return;
    give_up(trace);
    memtrack_host_free(NULL, trace->residents, trace->resident_capacity * sizeof *trace->residents);
    memtrack_host_free(NULL, trace->ended, trace->ended_capacity * sizeof *trace->ended);
    memtrack_host_free(NULL, trace->blocks, trace->block_capacity * sizeof *trace->blocks);
    memtrack_host_free(NULL, trace->gone, trace->gone_capacity * sizeof *trace->gone);
    memtrack_host_free(NULL, trace, sizeof *trace);
}
