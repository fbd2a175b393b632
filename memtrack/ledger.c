/* The books of one device. An allocation changes nothing before everything that can fail has been done, and a
 * free or re-tag takes no memory at all: so the books are right after every call, whatever failed.
 */
#include <string.h>

#include "../base/clock_.h"
#include "memtrack_.h"

static const MemEnd component_end[MEM_COMPONENT_COUNT] = {
#define X(id, name, group, end) [MEM_##id] = MEM_END_##end,
    MEMTRACK_COMPONENTS(X)
#undef X
};

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    return hash ^ (hash >> 32);
}

static uint64_t op_hash(MemTracker *tracker)
{
    const char *op = tracker->op;
    if (!tracker->op_hashed)
        tracker->op_hash = op ? memtrack_hash_text_(MEMTRACK_HASH_SEED, op, strlen(op)) : 0;
    tracker->op_hashed = true;
    return tracker->op_hash;
}

/* An event as one number, but for its offset: the same in a plan and its run. The op goes in by its text and
 * the module path by its name, not by address or number. */
static uint64_t digest_of(MemTracker *tracker, MemEventKind kind, const MemBlock *block, MemComponent from)
{
    uint64_t tags = 1 + (uint64_t)kind + 8 * (uint64_t)block->component + 512 * (uint64_t)from +
                    32768 * (uint64_t)tracker->phase;
    return mix(mix(tags, block->requested), op_hash(tracker)) + tracker->paths[block->path].hash;
}

/* Stamps an event: hashes, log. */
static void record(MemLedger *ledger, MemEventKind kind, const MemBlock *block, MemComponent from,
                   uint64_t digest)
{
    const MemTracker *tracker = ledger->tracker;
    MemStats *stats = &ledger->stats;
    digest = mix(digest, block->offset);
    stats->event_hash = mix(stats->event_hash, digest);
    stats->step_hash = mix(stats->step_hash, digest);
    if (!ledger->log.recording)
        return;
    memtrack_log_push_(&ledger->log,
                       &(MemEvent){.kind = kind,
                                   .component = block->component,
                                   .from = from,
                                   .where = {tracker->step, tracker->phase, block->path, tracker->op},
                                   .serial = block->serial,
                                   .offset = block->offset,
                                   .bytes = block->bytes,
                                   .requested = block->requested,
                                   .end = block->end,
                                   .time_ns = clock_ns() - tracker->created_ns,
                                   .live = stats->live});
}

/* The composition at the peak, by module path. Copying it at every new peak would make the first climb
 * quadratic, so rows are copied when the peak is left, and only those that changed since. Every row off the
 * list has peak == live. */
static void snapshot(MemLedger *ledger)
{
    if (!ledger->snapshot_pending)
        return;
    ledger->snapshot_pending = false;
    for (int i = ledger->first_changed; i >= 0; i = ledger->rows[i].next_changed) {
        MemRow *row = &ledger->rows[i];
        memcpy(row->peak, row->live, sizeof row->peak);
        row->changed = false;
    }
    ledger->first_changed = -1;
}

static MemRow *row_to_change(MemLedger *ledger, int path)
{
    MemRow *row = &ledger->rows[path];
    if (!row->changed) {
        row->changed = true;
        row->next_changed = ledger->first_changed;
        ledger->first_changed = path;
    }
    return row;
}

static void new_peak(MemLedger *ledger, const MemWhere *where)
{
    MemStats *stats = &ledger->stats;
    stats->peak = stats->live;
    stats->peak_at = *where;
    memcpy(stats->at_peak, stats->live_by, sizeof stats->at_peak);
    ledger->snapshot_pending = true;
    if (ledger->trace)
        memtrack_trace_peak_(ledger->trace, stats->allocations);
}

static void book_in(MemLedger *ledger, MemComponent component, const MemBlock *block)
{
    const MemTracker *tracker = ledger->tracker;
    MemWhere where = {tracker->step, tracker->phase, block->path, tracker->op};
    MemStats *stats = &ledger->stats;
    row_to_change(ledger, block->path)->live[component] += block->bytes;
    stats->live += block->bytes;
    stats->live_by[component] += block->bytes;
    if (stats->live_by[component] > stats->own_peak[component]) {
        stats->own_peak[component] = stats->live_by[component];
        stats->own_peak_at[component] = where;
    }
    if (stats->live > stats->step_peak) {
        stats->step_peak = stats->live;
        memcpy(stats->step_at_peak, stats->live_by, sizeof stats->step_at_peak);
    }
    if (stats->live > stats->peak)
        new_peak(ledger, &where);
}

static void book_out(MemLedger *ledger, MemComponent component, const MemBlock *block)
{
    snapshot(ledger);
    row_to_change(ledger, block->path)->live[component] -= block->bytes;
    ledger->stats.live -= block->bytes;
    ledger->stats.live_by[component] -= block->bytes;
}

static MemEnd end_of(uint64_t requested, MemComponent component)
{
    return requested <= MEMTRACK_SMALL ? MEM_END_LOW : component_end[component];
}

/* Without hints: the tightest gap of the block's own arena, or its top. A parameter's gradient stays for the
 * step: it must not break a gap that the activation gradients of every layer take in turn. */
static int fit_online(const MemLedger *ledger, const MemBlock *block, MemFit *fit)
{
    uint64_t largest = block->component == MEM_GRADIENT ? block->bytes : UINT64_MAX;
    return memtrack_offsets_find_(&ledger->arenas[block->end], block->bytes, largest, fit);
}

/* With hints: there, or else, as nothing better is known, in the tightest gap, at its upper edge what would
 * go HIGH online: so an unplanned step as a whole lies as it would there. */
static int fit_by_hints(const MemLedger *ledger, const MemBlock *block, bool met, MemFit *fit)
{
    const MemArena *arena = &ledger->arenas[MEM_END_LOW];
    if (met && memtrack_offsets_at_(arena, block->bytes, memtrack_follow_offset_(&ledger->follow), fit) == 0)
        return 0;
    if (memtrack_offsets_find_(arena, block->bytes, UINT64_MAX, fit))
        return -1;
    if (end_of(block->requested, block->component) == MEM_END_HIGH)
        memtrack_offsets_lift_(arena, block->bytes, ledger->follow.hints->top, fit);
    return 0;
}

/* Finds a range for the block; -1 when there is none within the capacity. `extent` is the sum of both arenas'
 * then. */
static int fit_block(const MemLedger *ledger, const MemBlock *block, bool met, MemFit *fit, uint64_t *extent)
{
    uint64_t other = ledger->arenas[block->end == MEM_END_LOW ? MEM_END_HIGH : MEM_END_LOW].top;
    int failed =
        ledger->follow.hints ? fit_by_hints(ledger, block, met, fit) : fit_online(ledger, block, fit);
    if (failed || fit->top > UINT64_MAX - other)
        return -1;
    *extent = fit->top + other;
    return ledger->capacity > 0 && *extent > ledger->capacity ? -1 : 0;
}

/* Enters a block that has been made. */
static void book_alloc(MemLedger *ledger, MemBlock *block, uint64_t digest, bool met)
{
    const MemTracker *tracker = ledger->tracker;
    ledger->stats.allocations++;
    book_in(ledger, block->component, block);
    record(ledger, MEM_EVENT_ALLOC, block, block->component, digest);
    if (met)
        memtrack_follow_pass_(&ledger->follow, true);
    if (ledger->trace)
        memtrack_trace_alloc_(ledger->trace, block,
                              &(MemWhere){tracker->step, tracker->phase, block->path, tracker->op}, digest);
}

int memtrack_alloc(MemLedger *ledger, uint64_t bytes, MemComponent component, MemBlock *block)
{
    *block = (MemBlock){.path = ledger->tracker->path, .component = component};
    if ((unsigned)component >= MEM_COMPONENT_COUNT || bytes > UINT64_MAX - (MEMTRACK_ALIGN - 1))
        return -1;
    if (bytes == 0)
        return 0;
    MemBlock made = *block;
    MemFit fit;
    uint64_t extent;
    made.requested = bytes;
    made.end = ledger->follow.hints ? MEM_END_LOW : end_of(bytes, component);
    made.bytes = (bytes + MEMTRACK_ALIGN - 1) / MEMTRACK_ALIGN * MEMTRACK_ALIGN;
    made.serial = ledger->stats.allocations + 1;
    MemArena *arena = &ledger->arenas[made.end];
    uint64_t digest = digest_of(ledger->tracker, MEM_EVENT_ALLOC, &made, component);
    bool met = memtrack_follow_meets_(&ledger->follow, digest);
    if (memtrack_fails_() || fit_block(ledger, &made, met, &fit, &extent) ||
        memtrack_offsets_prepare_(ledger->tracker, arena) ||
        (ledger->trace && memtrack_trace_prepare_(ledger->trace)))
        return -1;
    made.offset = fit.offset;
    if (memtrack_backing_attach_(ledger->tracker, &ledger->backing, made.end, &made))
        return -1;

    memtrack_offsets_take_(arena, made.bytes, &fit);
    if (extent > ledger->stats.needs)
        ledger->stats.needs = extent;
    book_alloc(ledger, &made, digest, met);
    *block = made;
    return 0;
}

void memtrack_free(MemLedger *ledger, MemBlock *block)
{
    if (!block || block->bytes == 0)
        return;
    uint64_t digest = digest_of(ledger->tracker, MEM_EVENT_FREE, block, block->component);
    book_out(ledger, block->component, block);
    ledger->stats.frees++;
    record(ledger, MEM_EVENT_FREE, block, block->component, digest);
    if (memtrack_follow_meets_(&ledger->follow, digest))
        memtrack_follow_pass_(&ledger->follow, false);
    if (ledger->trace)
        memtrack_trace_free_(ledger->trace, block, digest);
    memtrack_offsets_give_(&ledger->arenas[block->end], block->offset, block->bytes);
    memtrack_backing_detach_(&ledger->backing, block);
    *block = (MemBlock){0};
}

void memtrack_retag(MemLedger *ledger, MemBlock *block, MemComponent component)
{
    MemComponent from = block->component;
    if (block->bytes == 0 || component == from || (unsigned)component >= MEM_COMPONENT_COUNT)
        return;
    book_out(ledger, from, block);
    block->component = component;
    book_in(ledger, component, block);
    ledger->stats.retags++;
    record(ledger, MEM_EVENT_RETAG, block, from, digest_of(ledger->tracker, MEM_EVENT_RETAG, block, from));
    if (ledger->trace)
        memtrack_trace_retag_(ledger->trace, block);
}

const MemStats *memtrack_stats(const MemLedger *ledger)
{
    return &ledger->stats;
}

void memtrack_peak_by_path(const MemLedger *ledger, int path, uint64_t by[MEM_COMPONENT_COUNT])
{
    if (path < 0 || (size_t)path >= ledger->tracker->path_count) {
        memset(by, 0, MEM_COMPONENT_COUNT * sizeof *by);
        return;
    }
    const MemRow *row = &ledger->rows[path];
    memcpy(by, ledger->snapshot_pending ? row->live : row->peak, sizeof row->peak);
}

void memtrack_peak_reset(MemLedger *ledger)
{
    const MemTracker *tracker = ledger->tracker;
    MemWhere now = {tracker->step, tracker->phase, tracker->path, tracker->op};
    MemStats *stats = &ledger->stats;
    memcpy(stats->own_peak, stats->live_by, sizeof stats->own_peak);
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        stats->own_peak_at[i] = now;
    new_peak(ledger, &now);
}

MemTracker *memtrack_ledger_tracker(const MemLedger *ledger)
{
    return ledger->tracker;
}

MemMode memtrack_ledger_mode(const MemLedger *ledger)
{
    return ledger->backing.mode;
}

const char *memtrack_ledger_name(const MemLedger *ledger)
{
    return ledger->name;
}

const MemDevice *memtrack_ledger_device(const MemLedger *ledger)
{
    return ledger->backing.device;
}

int memtrack_ledger_fit_paths_(MemLedger *ledger, size_t path_count)
{
    size_t before = ledger->row_capacity;
    void *rows = ledger->rows;
    if (memtrack_host_grow_(ledger->tracker, &rows, &ledger->row_capacity, path_count, sizeof(MemRow)))
        return -1;
    ledger->rows = rows;
    memset(ledger->rows + before, 0, (ledger->row_capacity - before) * sizeof(MemRow));
    return 0;
}

MemLedger *memtrack_ledger_create(MemTracker *tracker, const MemLedgerOptions *options)
{
    MemLedger *ledger = memtrack_host_calloc(tracker, sizeof *ledger);
    if (!ledger)
        return NULL;
    ledger->tracker = tracker;
    ledger->capacity = options->capacity;
    ledger->first_changed = -1;
    ledger->name = memtrack_host_strdup(tracker, options->name ? options->name : "");
    if (!ledger->name || memtrack_ledger_fit_paths_(ledger, tracker->path_count) ||
        memtrack_backing_create_(&ledger->backing, options)) {
        memtrack_ledger_destroy_(ledger);
        return NULL;
    }
    ledger->next = tracker->ledgers;
    tracker->ledgers = ledger;
    return ledger;
}

void memtrack_ledger_destroy_(MemLedger *ledger)
{
    MemTracker *tracker = ledger->tracker;
    memtrack_log_destroy_(ledger);
    memtrack_trace_destroy_(ledger->trace);
    memtrack_backing_destroy_(tracker, &ledger->backing);
    for (int end = 0; end < MEM_END_COUNT; end++)
        memtrack_offsets_destroy_(tracker, &ledger->arenas[end]);
    memtrack_host_free(tracker, ledger->rows, ledger->row_capacity * sizeof(MemRow));
    if (ledger->name)
        memtrack_host_free(tracker, ledger->name, strlen(ledger->name) + 1);
    memtrack_host_free(tracker, ledger, sizeof *ledger);
}
