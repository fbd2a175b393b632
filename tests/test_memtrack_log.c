/* memtrack's event log, host memory, and what it reads of the process. */
#include <stdio.h>
#include <time.h>

#include "memtrack_support.h"

static void test_log_ring(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = meta_ledger(tracker);
    take_block(ledger, 64, MEM_PARAMETER); /* before the log */
    assert_int_equal(memtrack_log_start(ledger, 4, NULL, NULL), 0);
    int path = memtrack_path_push(tracker, "mlp");
    memtrack_step_set(tracker, 2);
    MemBlock block = take_block(ledger, 100, MEM_TEMPORARY);
    memtrack_path_pop(tracker);
    memtrack_phase_set(tracker, MEM_PHASE_BACKWARD);
    memtrack_retag(ledger, &block, MEM_ACTIVATION);
    memtrack_free(ledger, &block);
    assert_int_equal(memtrack_log_count(ledger), 3);
    assert_int_equal(memtrack_log_lost(ledger), 0);
    const MemEvent *event = memtrack_log_event(ledger, 0);
    assert_int_equal(event->kind, MEM_EVENT_ALLOC);
    assert_int_equal(event->serial, 2);
    assert_int_equal(event->bytes, 128);
    assert_int_equal(event->requested, 100);
    assert_int_equal(event->live, 192);
    event = memtrack_log_event(ledger, 1);
    assert_int_equal(event->kind, MEM_EVENT_RETAG);
    assert_int_equal(event->from, MEM_TEMPORARY);
    assert_int_equal(event->component, MEM_ACTIVATION);
    assert_int_equal(event->where.path, path);
    assert_int_equal(event->where.phase, MEM_PHASE_BACKWARD);
    event = memtrack_log_event(ledger, 2);
    assert_int_equal(event->kind, MEM_EVENT_FREE);
    assert_int_equal(event->from, MEM_ACTIVATION);
    assert_int_equal(event->where.path, path);
    assert_int_equal(event->where.step, 2);
    assert_int_equal(event->live, 64);
    for (int i = 0; i < 7; i++)
        take_block(ledger, 64, MEM_INPUT);
    assert_int_equal(memtrack_log_count(ledger), 4);
    assert_int_equal(memtrack_log_lost(ledger), 6);
    memtrack_log_stop(ledger);
    take_block(ledger, 64, MEM_INPUT); /* not recorded */
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(memtrack_log_event(ledger, i)->serial, 6 + i);
    assert_null(memtrack_log_event(ledger, 4));
    assert_int_equal(memtrack_log_start(ledger, 0, NULL, NULL), 0); /* 0: the default */
    assert_int_equal(memtrack_log_count(ledger), 0);
    assert_int_equal(memtrack_log_lost(ledger), 0);
    assert_int_equal(memtrack_log_start(ledger, SIZE_MAX / 8, NULL, NULL), -1);
    take_block(ledger, 64, MEM_INPUT); /* the old log goes on */
    assert_int_equal(memtrack_log_count(ledger), 1);
    memtrack_destroy(tracker);
}

typedef struct Sunk {
    uint64_t events, batches, next_serial;
    bool in_order;
} Sunk;

static void sink(void *user, const MemEvent *events, size_t count)
{
    Sunk *sunk = user;
    for (size_t i = 0; i < count; i++)
        sunk->in_order &= events[i].serial == ++sunk->next_serial;
    sunk->events += count;
    sunk->batches++;
}

static void test_log_sink(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = meta_ledger(tracker);
    Sunk sunk = {.in_order = true};
    assert_int_equal(memtrack_log_start(ledger, 8, sink, &sunk), 0);
    for (int i = 0; i < 20; i++)
        take_block(ledger, 64, MEM_PARAMETER);
    assert_int_equal(sunk.events, 16);
    assert_int_equal(memtrack_log_lost(ledger), 0);
    memtrack_log_stop(ledger);
    assert_int_equal(sunk.events, 20);
    assert_int_equal(sunk.batches, 3);
    memtrack_log_stop(ledger);
    assert_int_equal(sunk.batches, 3);
    assert_int_equal(memtrack_log_start(ledger, 8, sink, &sunk), 0);
    take_block(ledger, 64, MEM_PARAMETER);
    memtrack_destroy(tracker); /* loses none either */
    assert_int_equal(sunk.events, 21);
    assert_true(sunk.in_order);
}

static void test_events_carry_end_and_time(void **state)
{
    (void)state;
    struct timespec pause = {.tv_nsec = 2000000};
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = meta_ledger(tracker);
    assert_int_equal(memtrack_log_start(ledger, 0, NULL, NULL), 0);
    take_block(ledger, 100000, MEM_PARAMETER);
    nanosleep(&pause, NULL);
    MemBlock block = take_block(ledger, 100000, MEM_ACTIVATION);
    memtrack_retag(ledger, &block, MEM_PARAMETER); /* stays where it is */
    memtrack_free(ledger, &block);
    static const MemEnd ends[] = {MEM_END_LOW, MEM_END_HIGH, MEM_END_HIGH, MEM_END_HIGH};
    uint64_t time = 0;
    for (size_t i = 0; i < 4; i++) {
        const MemEvent *event = memtrack_log_event(ledger, i);
        assert_int_equal(event->end, ends[i]);
        assert_true(event->time_ns >= time);
        assert_true(i != 1 || event->time_ns - time >= 2000000);
        time = event->time_ns;
    }
    assert_true(time < UINT64_C(60000000000)); /* since the tracker was made, not since the machine was */
    memtrack_destroy(tracker);
}

static void test_host(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    uint64_t base = memtrack_host_live(tracker), process = memtrack_process_live();
    assert_true(base > 0); /* itself */
    assert_int_equal(process, base);
    unsigned char *block = memtrack_host_calloc(tracker, 100);
    for (int i = 0; i < 100; i++)
        assert_int_equal(block[i], 0);
    memset(block, 7, 100);
    block = memtrack_host_realloc(tracker, block, 100, 5000);
    assert_int_equal(block[99], 7);
    assert_int_equal(memtrack_host_live(tracker), base + 5000);
    assert_true(memtrack_host_peak(tracker) >= base + 5000);
    block = memtrack_host_realloc(tracker, block, 5000, 10);
    assert_int_equal(memtrack_host_live(tracker), base + 10);
    assert_true(memtrack_host_peak(tracker) >= base + 5000);
    memtrack_fail_nth(1);
    assert_null(memtrack_host_realloc(tracker, block, 10, 1000));
    assert_int_equal(block[9], 7); /* the old block stays */
    assert_int_equal(memtrack_host_live(tracker), base + 10);
    memtrack_host_free(tracker, block, 10);
    char *text = memtrack_host_strdup(tracker, "seven");
    assert_string_equal(text, "seven");
    assert_int_equal(memtrack_host_live(tracker), base + 6);
    memtrack_host_free(tracker, text, 6);
    memtrack_host_free(tracker, NULL, 0);
    assert_null(memtrack_host_strdup(tracker, NULL));
    void *empty = memtrack_host_alloc(tracker, 0);
    assert_non_null(empty);
    memtrack_host_free(tracker, empty, 0);
    void *grown = memtrack_host_realloc(NULL, NULL, 0, 64); /* without a tracker: the process only */
    assert_int_equal(memtrack_host_live(tracker), base);
    assert_int_equal(memtrack_process_live(), process + 64);
    memtrack_host_free(NULL, grown, 64);
    memtrack_destroy(tracker);
    memtrack_destroy(NULL);
}

static void test_process(void **state)
{
    (void)state;
    uint64_t before = memtrack_process_resident();
    assert_true(before > 0);
    size_t bytes = (size_t)24 << 20;
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = memtrack_ledger_create(
        tracker, &(MemLedgerOptions){.name = "cpu", .mode = MEMTRACK_RESERVED, .capacity = bytes});
    assert_non_null(ledger);
    assert_true(memtrack_process_live() >= bytes);
    /* Touched: resident before anything is allocated. The slack is for pages that something else gives back.
     */
    assert_true(memtrack_process_resident() >= before + bytes - (4 << 20));
    assert_true(memtrack_process_resident_peak() >= before + bytes - (4 << 20));
    memtrack_destroy(tracker);
    assert_true(memtrack_process_resident() < before + bytes / 2);
    assert_true(memtrack_process_resident_peak() >= before + bytes - (4 << 20));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, nothing_held)
    const struct CMUnitTest tests[] = {
        TEST(test_log_ring), TEST(test_log_sink), TEST(test_events_carry_end_and_time),
        TEST(test_host),     TEST(test_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
