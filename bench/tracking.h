/* What tracking costs: the events of one step, logged on meta, run again on books of their own, many times.
 */
#ifndef BRIM_BENCH_TRACKING_H
#define BRIM_BENCH_TRACKING_H

#include "../base/clock_.h"
#include "session.h"

typedef struct EventLog {
    const ModelPreset *preset;
    MemEvent *events;
    size_t count, capacity;
    MemTracker *tracker; /* of the replayed books */
    MemLedger *ledger;
    MemBlock *blocks; /* by serial */
    size_t block_capacity;
} EventLog;

static void tracking_keep(void *user, const MemEvent *events, size_t count)
{
    EventLog *log = user;
    for (size_t i = 0; i < count && log->count < log->capacity; i++)
        log->events[log->count++] = events[i];
}

/* A Script on meta: logs everything, and makes the same places in the other books. */
static int tracking_script(void *user)
{
    EventLog *log = user;
    Context *context = context_current();
    Session s;
    log->count = 0; /* planning may run it twice */
    memtrack_log_start(context_ledger(context), 0, tracking_keep, log);
    if (session_open(&s, log->preset) == 0)
        for (int i = 0; i < 2 && !error_code(); i++)
            session_step(&s);
    memtrack_log_stop(context_ledger(context));
    for (int path = 1; path < memtrack_path_count(context_tracker(context)); path++) {
        memtrack_path_push(log->tracker, memtrack_path_name(context_tracker(context), path));
        memtrack_path_pop(log->tracker);
    }
    return error_code();
}

static void tracking_run(EventLog *log, size_t begin, size_t end, uint64_t first_serial)
{
    for (size_t i = begin; i < end; i++) {
        const MemEvent *e = &log->events[i];
        MemBlock *block = &log->blocks[(e->serial - first_serial) % log->block_capacity];
        memtrack_path_set(log->tracker, e->where.path);
        memtrack_phase_set(log->tracker, e->where.phase);
        memtrack_op_set(log->tracker, e->where.op);
        if (e->kind == MEM_EVENT_ALLOC)
            memtrack_alloc(log->ledger, e->requested, e->component, block);
        else if (e->kind == MEM_EVENT_FREE)
            memtrack_free(log->ledger, block);
        else
            memtrack_retag(log->ledger, block, e->component);
    }
}

/* Seconds of a step spent in memtrack; *events = how many allocations, frees and re-tags that is. 0 on
 * failure. */
static double tracking_seconds(const ModelPreset *preset, int threads, size_t *events)
{
    EventLog log = {.preset = preset, .capacity = 1 << 17, .block_capacity = 1 << 16};
    log.tracker = memtrack_create();
    log.events = memtrack_host_alloc(log.tracker, log.capacity * sizeof *log.events);
    log.blocks = memtrack_host_calloc(log.tracker, log.block_capacity * sizeof *log.blocks);
    log.ledger =
        memtrack_ledger_create(log.tracker, &(MemLedgerOptions){.name = "meta", .mode = MEMTRACK_META});
    Plan plan;
    double best = 1e30;
    *events = 0;
    if (log.events && log.blocks && log.ledger &&
        plan_script(tracking_script, &log, &(RunOptions){.threads = threads}, &plan) == 0) {
        size_t begin = 0,
               end = log.count; /* the second step: what the scope frees at the very end is not in it */
        while (begin < log.count && log.events[begin].where.step < 1)
            begin++;
        tracking_run(&log, 0, begin, 0);
        for (int i = 0; i < 20; i++) {
            double start = clock_now();
            tracking_run(&log, begin, end, 0);
            double seconds = clock_now() - start;
            best = seconds < best ? seconds : best;
        }
        *events = end - begin;
        plan_free(&plan);
    }
    memtrack_host_free(log.tracker, log.events, log.capacity * sizeof *log.events);
    memtrack_host_free(log.tracker, log.blocks, log.block_capacity * sizeof *log.blocks);
    memtrack_destroy(log.tracker);
    return *events ? best : 0;
}

#endif
