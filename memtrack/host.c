/* Host memory and the process totals: the one door to malloc for everything that is not a ledger's block, so
 * that every byte is counted and every allocation can be made to fail by a test.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "memtrack_.h"

static _Atomic uint64_t process_live;
static _Atomic uint64_t until_failure; /* 0 = none asked for */

void memtrack_fail_nth(uint64_t n)
{
    atomic_store(&until_failure, n);
}

int memtrack_fail_pending(void)
{
    return atomic_load(&until_failure) != 0;
}

bool memtrack_fails_(void)
{
    uint64_t n = atomic_load_explicit(&until_failure, memory_order_relaxed);
    while (n > 0)
        if (atomic_compare_exchange_weak(&until_failure, &n, n - 1))
            return n == 1;
    return false;
}

uint64_t memtrack_process_live(void)
{
    return atomic_load_explicit(&process_live, memory_order_relaxed);
}

void memtrack_process_charge_(uint64_t bytes)
{
    atomic_fetch_add_explicit(&process_live, bytes, memory_order_relaxed);
}

void memtrack_process_release_(uint64_t bytes)
{
    atomic_fetch_sub_explicit(&process_live, bytes, memory_order_relaxed);
}

static void tracker_add(MemTracker *tracker, size_t bytes)
{
    if (!tracker)
        return;
    tracker->host_live += bytes;
    if (tracker->host_live > tracker->host_peak)
        tracker->host_peak = tracker->host_live;
}

void memtrack_host_adopt_(MemTracker *tracker)
{
    tracker_add(tracker, sizeof *tracker);
}

/* Charges a block just taken, if it was. */
static void *taken(MemTracker *tracker, void *block, size_t bytes)
{
    if (!block)
        return NULL;
    memtrack_process_charge_(bytes);
    tracker_add(tracker, bytes);
    return block;
}

/* malloc(0) may be NULL, which here means "no memory": never ask for nothing. */
static size_t at_least_one(size_t bytes)
{
    return bytes ? bytes : 1;
}

void *memtrack_host_alloc(MemTracker *tracker, size_t bytes)
{
    return memtrack_fails_() ? NULL : taken(tracker, malloc(at_least_one(bytes)), bytes);
}

void *memtrack_host_calloc(MemTracker *tracker, size_t bytes)
{
    return memtrack_fails_() ? NULL : taken(tracker, calloc(1, at_least_one(bytes)), bytes);
}

void *memtrack_host_realloc(MemTracker *tracker, void *old, size_t old_bytes, size_t bytes)
{
    if (memtrack_fails_())
        return NULL;
    void *block = realloc(old, at_least_one(bytes));
    if (!block)
        return NULL;
    /* What is gone is taken off first: a peak of old + new would be a moment the books never saw. */
    memtrack_process_release_(old_bytes);
    if (tracker)
        tracker->host_live -= old_bytes;
    return taken(tracker, block, bytes);
}

void memtrack_host_free(MemTracker *tracker, void *block, size_t bytes)
{
    if (!block)
        return;
    free(block);
    memtrack_process_release_(bytes);
    if (tracker)
        tracker->host_live -= bytes;
}

char *memtrack_host_strdup(MemTracker *tracker, const char *text)
{
    if (!text)
        return NULL;
    size_t bytes = strlen(text) + 1;
    char *copy = memtrack_host_alloc(tracker, bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}

uint64_t memtrack_host_live(const MemTracker *tracker)
{
    return tracker->host_live;
}

uint64_t memtrack_host_peak(const MemTracker *tracker)
{
    return tracker->host_peak;
}

int memtrack_host_grow_(MemTracker *tracker, void **items, size_t *capacity, size_t count, size_t item_bytes)
{
    if (count <= *capacity)
        return 0;
    size_t wanted = *capacity < 16 ? 32 : 2 * *capacity;
    if (wanted < count)
        wanted = count;
    if (wanted > SIZE_MAX / item_bytes)
        return -1;
    void *grown = memtrack_host_realloc(tracker, *items, *capacity * item_bytes, wanted * item_bytes);
    if (!grown)
        return -1;
    *items = grown;
    *capacity = wanted;
    return 0;
}
