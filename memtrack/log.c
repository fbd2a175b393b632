/* The event log: a ring of the last events, or with a sink a buffer that is handed over whenever it is full.
 */
#include "memtrack_.h"

#define DEFAULT_CAPACITY 4096

static void hand_over(MemLog *log)
{
    if (log->sink && log->count > 0)
        log->sink(log->user, log->events, log->count);
    if (log->sink)
        log->count = 0;
}

static void drop(MemLedger *ledger)
{
    memtrack_host_free(ledger->tracker, ledger->log.events, ledger->log.capacity * sizeof(MemEvent));
    ledger->log = (MemLog){0};
}

int memtrack_log_start(MemLedger *ledger, size_t capacity, MemLogSink sink, void *user)
{
    if (capacity == 0)
        capacity = DEFAULT_CAPACITY;
    if (capacity > SIZE_MAX / sizeof(MemEvent))
        return -1;
    MemEvent *events = memtrack_host_alloc(ledger->tracker, capacity * sizeof(MemEvent));
    if (!events)
        return -1;
    memtrack_log_destroy_(ledger);
    ledger->log =
        (MemLog){.events = events, .capacity = capacity, .recording = true, .sink = sink, .user = user};
    return 0;
}

void memtrack_log_stop(MemLedger *ledger)
{
    MemLog *log = &ledger->log;
    log->recording = false;
    if (!log->sink)
        return; /* the events stay to be read */
    hand_over(log);
    drop(ledger);
}

void memtrack_log_destroy_(MemLedger *ledger)
{
    memtrack_log_stop(ledger);
    drop(ledger);
}

void memtrack_log_push_(MemLog *log, const MemEvent *event)
{
    if (log->count == log->capacity) { /* a full ring: the oldest goes */
        log->events[log->first] = *event;
        log->first = log->first + 1 == log->capacity ? 0 : log->first + 1;
        log->lost++;
        return;
    }
    log->events[log->count++] = *event;
    if (log->count == log->capacity)
        hand_over(log);
}

size_t memtrack_log_count(const MemLedger *ledger)
{
    return ledger->log.count;
}

const MemEvent *memtrack_log_event(const MemLedger *ledger, size_t i)
{
    const MemLog *log = &ledger->log;
    if (i >= log->count)
        return NULL;
    size_t to_end = log->capacity - log->first;
    return &log->events[i < to_end ? log->first + i : i - to_end];
}

uint64_t memtrack_log_lost(const MemLedger *ledger)
{
    return ledger->log.lost;
}
