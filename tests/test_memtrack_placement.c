/* memtrack's allocator by hand: where blocks go, which requests are refused, and every allocation made to
 * fail once. */
#include "memtrack_support.h"

/* ---- By hand --------------------------------------------------------------------------------- */

#define LARGE ((uint64_t)2 * MEMTRACK_SMALL) /* placed at its component's end */

static MemLedger *ledger_of(MemTracker *tracker, MemMode mode, uint64_t capacity)
{
    return memtrack_ledger_create(tracker,
                                  &(MemLedgerOptions){.name = "cpu", .mode = mode, .capacity = capacity});
}

static MemBlock take(MemLedger *ledger, uint64_t bytes, MemComponent component)
{
    MemBlock block;
    assert_int_equal(memtrack_alloc(ledger, bytes, component, &block), 0);
    return block;
}

/* In units of a multiple of 64 bytes; at the HIGH end even the smallest request, unit - 63, must not be
 * small. */
static void best_fit_and_coalescing(MemComponent component, MemEnd end, uint64_t unit)
{
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = ledger_of(tracker, MEMTRACK_META, 0);
    const MemStats *stats = memtrack_stats(ledger);
    MemBlock blocks[9];
    static const uint64_t sizes[9] = {4, 1, 2, 1, 3, 1, 2, 1, 1};
    for (int i = 0; i < 9; i++) {
        blocks[i] = take(ledger, sizes[i] * unit, component);
        assert_int_equal(blocks[i].end, end);
    }
    for (int i = 0; i < 8; i += 2) /* gaps of 4, 2, 3, 2 */
        memtrack_free(ledger, &blocks[i]);
    assert_int_equal(take(ledger, 2 * unit, component).offset, 5 * unit);  /* best fit, the lower of two */
    assert_int_equal(take(ledger, unit + 1, component).offset, 12 * unit); /* the other */
    assert_int_equal(take(ledger, unit - 63, component).offset, 8 * unit); /* the smallest left: 3 */
    assert_int_equal(take(ledger, 5 * unit - 20, component).offset, 16 * unit); /* none holds it: the top */
    memtrack_free(ledger, &blocks[1]);                                          /* 4 + 1 */
    assert_int_equal(take(ledger, 5 * unit, component).offset, 0);
    assert_int_equal(stats->needs, 16 * unit + 5 * unit);
    memtrack_destroy(tracker);
}

static void test_best_fit_and_coalescing(void **state)
{
    (void)state;
    best_fit_and_coalescing(MEM_BUFFER, MEM_END_LOW, 64);
    best_fit_and_coalescing(MEM_BUFFER, MEM_END_LOW, MEMTRACK_SMALL + 64);
    best_fit_and_coalescing(MEM_ACTIVATION, MEM_END_LOW, 64);
    best_fit_and_coalescing(MEM_ACTIVATION, MEM_END_HIGH, MEMTRACK_SMALL + 64);
}

static void test_extent_shrinks(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = ledger_of(tracker, MEMTRACK_META, 4 * LARGE);
    MemBlock a = take(ledger, LARGE, MEM_ACTIVATION), b = take(ledger, LARGE, MEM_ACTIVATION);
    MemBlock c = take(ledger, LARGE, MEM_ACTIVATION), none;
    MemBlock low = take(ledger, LARGE, MEM_PARAMETER);
    assert_int_equal(memtrack_alloc(ledger, 1, MEM_PARAMETER, &none), -1); /* full */
    memtrack_free(ledger, &b); /* a hole on the other side is no room for this one */
    assert_int_equal(memtrack_alloc(ledger, 1, MEM_PARAMETER, &none), -1);
    assert_int_equal(memtrack_alloc(ledger, 1, MEM_ACTIVATION, &none), -1); /* small: on this side too */
    memtrack_free(ledger, &c); /* the top goes, and the hole below it */
    MemBlock two = take(ledger, 2 * LARGE, MEM_PARAMETER);
    assert_int_equal(two.offset, LARGE);
    assert_int_equal(memtrack_alloc(ledger, 1, MEM_ACTIVATION, &none), -1);
    assert_int_equal(memtrack_alloc(ledger, MEMTRACK_SMALL + 1, MEM_ACTIVATION, &none), -1);
    memtrack_free(ledger, &low);
    memtrack_free(ledger, &two);
    memtrack_free(ledger, &a);
    MemBlock all = take(ledger, 4 * LARGE, MEM_ACTIVATION); /* the limit is shared, and all of it is free */
    assert_int_equal(all.offset, 0);
    assert_int_equal(all.end, MEM_END_HIGH);
    assert_int_equal(memtrack_stats(ledger)->needs, 4 * LARGE);
    memtrack_destroy(tracker);
}

static void test_end_by_size_and_component(void **state)
{
    (void)state;
    static const MemComponent high[] = {MEM_ACTIVATION, MEM_TEMPORARY, MEM_WORKSPACE,
                                        MEM_INPUT,      MEM_GATHERED,  MEM_COMMUNICATION};
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = ledger_of(tracker, MEMTRACK_META, 0);
    for (int component = 0; component < MEM_COMPONENT_COUNT; component++) {
        MemEnd end = MEM_END_LOW;
        for (size_t i = 0; i < sizeof high / sizeof *high; i++)
            if (high[i] == (MemComponent)component)
                end = MEM_END_HIGH;
        assert_int_equal(take(ledger, 1, (MemComponent)component).end, MEM_END_LOW);
        assert_int_equal(take(ledger, 4096, (MemComponent)component).end, MEM_END_LOW);
        assert_int_equal(take(ledger, 4097, (MemComponent)component).end, end);
        assert_int_equal(take(ledger, 1 << 30, (MemComponent)component).end, end);
    }
    memtrack_destroy(tracker);
}

/* A loss outlives its step's activations. Where it is small the place above them is all free again; one byte
 * more than small, and it holds them up. */
static void test_small_block_holds_nothing_up(void **state)
{
    (void)state;
    for (MemMode mode = MEMTRACK_META; mode <= MEMTRACK_MALLOC; mode++) {
        MemTracker *tracker = memtrack_create();
        MemLedger *ledger = ledger_of(tracker, mode, 4 * LARGE);
        MemBlock low = take(ledger, LARGE, MEM_PARAMETER), block;
        MemBlock activation = take(ledger, 2 * LARGE, MEM_ACTIVATION);
        MemBlock loss = take(ledger, MEMTRACK_SMALL, MEM_ACTIVATION);
        assert_int_equal(loss.offset, LARGE); /* next to the parameter */
        memtrack_free(ledger, &activation);
        block = take(ledger, 3 * LARGE - MEMTRACK_SMALL, MEM_PARAMETER); /* to the very other end */
        assert_int_equal(block.offset, LARGE + MEMTRACK_SMALL);
        assert_int_equal(memtrack_stats(ledger)->needs, 4 * LARGE);
        memtrack_free(ledger, &block);
        memtrack_free(ledger, &loss);

        activation = take(ledger, 2 * LARGE, MEM_ACTIVATION);
        loss = take(ledger, MEMTRACK_SMALL + 1, MEM_ACTIVATION);
        assert_int_equal(loss.offset, 2 * LARGE);
        memtrack_free(ledger, &activation);
        uint64_t room = 4 * LARGE - low.bytes - (loss.offset + loss.bytes);
        assert_int_equal(memtrack_alloc(ledger, room + 1, MEM_PARAMETER, &block), -1);
        assert_int_equal(take(ledger, room, MEM_PARAMETER).offset, LARGE);
        memtrack_destroy(tracker);
    }
}

static void test_retag_across_ends(void **state)
{
    (void)state;
    for (MemMode mode = MEMTRACK_META; mode <= MEMTRACK_MALLOC; mode++) {
        MemTracker *tracker = memtrack_create();
        MemLedger *ledger = ledger_of(tracker, mode, 8 * LARGE);
        const MemStats *stats = memtrack_stats(ledger);
        MemBlock low[3], high[3], none;
        for (int i = 0; i < 3; i++) {
            low[i] = take(ledger, LARGE, MEM_GRADIENT);
            high[i] = take(ledger, LARGE, MEM_ACTIVATION);
            for (int end = 0; mode != MEMTRACK_META && end < MEM_END_COUNT; end++)
                memset(end ? high[i].data : low[i].data, pattern(end ? &high[i] : &low[i]), LARGE);
        }
        MemBlock loss = take(ledger, 4, MEM_TEMPORARY); /* LOW, at the top */
        MemBlock was_low = low[1], was_high = high[1], was_loss = loss;
        memtrack_retag(ledger, &low[1], MEM_ACTIVATION);
        memtrack_retag(ledger, &high[1], MEM_PARAMETER);
        memtrack_retag(ledger, &loss, MEM_OPTIMIZER);
        memtrack_retag(ledger, &loss, MEM_INPUT);
        was_low.component = MEM_ACTIVATION;
        was_high.component = MEM_PARAMETER;
        was_loss.component = MEM_INPUT;
        assert_true(same_block(&low[1], &was_low) && pattern_holds(&low[1]));
        assert_true(same_block(&high[1], &was_high) && pattern_holds(&high[1]));
        assert_true(same_block(&loss, &was_loss));
        assert_int_equal(stats->retags, 4);
        assert_int_equal(stats->live_by[MEM_GRADIENT], 2 * LARGE);
        assert_int_equal(stats->live_by[MEM_PARAMETER], LARGE);
        assert_int_equal(stats->live_by[MEM_ACTIVATION], 3 * LARGE);
        assert_int_equal(stats->live_by[MEM_INPUT], 64);
        assert_int_equal(stats->needs, 6 * LARGE + 64); /* nothing has moved */

        memtrack_free(ledger, &high[1]); /* each leaves its gap where it lies, and its like fills it */
        MemBlock filled = take(ledger, LARGE, MEM_PARAMETER);
        assert_int_equal(filled.offset, 3 * LARGE + 64);
        memtrack_free(ledger, &filled);
        memtrack_free(ledger, &low[1]);
        filled = take(ledger, LARGE, MEM_ACTIVATION);
        assert_int_equal(filled.end, MEM_END_HIGH);
        assert_int_equal(filled.offset, LARGE);
        assert_ptr_equal(mode == MEMTRACK_RESERVED ? filled.data : NULL,
                         mode == MEMTRACK_RESERVED ? was_high.data : NULL);
        low[1] = take(ledger, LARGE, MEM_PARAMETER);
        assert_int_equal(low[1].offset, LARGE);
        memtrack_free(ledger, &filled);

        /* At the top: its own end's extent shrinks, over the gap too. */
        memtrack_retag(ledger, &high[2], MEM_BUFFER);
        memtrack_free(ledger, &high[2]);
        assert_int_equal(memtrack_alloc(ledger, 4 * LARGE - 64 + 1, MEM_PARAMETER, &none), -1);
        MemBlock rest = take(ledger, 4 * LARGE - 64, MEM_PARAMETER);
        assert_int_equal(rest.offset, 3 * LARGE + 64);
        memtrack_retag(ledger, &rest, MEM_WORKSPACE);
        memtrack_free(ledger, &rest);
        memtrack_free(ledger, &loss);
        assert_int_equal(take(ledger, 4 * LARGE, MEM_ACTIVATION).offset, LARGE); /* all there is */
        assert_int_equal(stats->live_by[MEM_WORKSPACE], 0);
        assert_true(pattern_holds(&low[0]) && pattern_holds(&low[2]) && pattern_holds(&high[0]));
        memtrack_destroy(tracker);
    }
}

static void test_reserved_addresses(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    const uint64_t use = 15 * 1024;
    MemLedger *ledger = ledger_of(tracker, MEMTRACK_RESERVED, use + 40); /* 40: less than the alignment */
    MemBlock none;
    assert_non_null(ledger);
    MemBlock low = take(ledger, 64, MEM_PARAMETER), high = take(ledger, 4224, MEM_INPUT);
    MemBlock next = take(ledger, 4160, MEM_INPUT), small = take(ledger, 64, MEM_INPUT);
    unsigned char *base = low.data;
    assert_ptr_equal((unsigned char *)high.data, base + use - high.offset - high.bytes);
    assert_ptr_equal((unsigned char *)high.data, base + use - 4224);
    assert_ptr_equal((unsigned char *)next.data, base + use - 4224 - 4160);
    assert_ptr_equal((unsigned char *)small.data, base + 64);
    assert_int_equal(memtrack_alloc(ledger, use - 8512 + 1, MEM_PARAMETER, &none), -1);
    assert_ptr_equal(take(ledger, use - 8512, MEM_PARAMETER).data, base + 128);
    memtrack_destroy(tracker);
}

static void test_bad_reservations(void **state)
{
    (void)state;
    static const uint64_t capacities[] = {0, UINT64_MAX, UINT64_MAX - 4096, UINT64_MAX / 4,
                                          (uint64_t)1 << 50};
    MemTracker *tracker = memtrack_create();
    uint64_t before = memtrack_process_live();
    for (size_t i = 0; i < sizeof capacities / sizeof *capacities; i++) {
        assert_null(ledger_of(tracker, MEMTRACK_RESERVED, capacities[i]));
        assert_int_equal(memtrack_process_live(), before);
    }
    memtrack_destroy(tracker);
}

static void test_huge_and_empty_requests(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {UINT64_MAX, UINT64_MAX - 62, UINT64_MAX - 63, UINT64_MAX - 200,
                                     (uint64_t)1 << 63};
    for (MemMode mode = MEMTRACK_META; mode <= MEMTRACK_MALLOC; mode++) {
        MemTracker *tracker = memtrack_create();
        MemLedger *ledger = ledger_of(tracker, mode, mode == MEMTRACK_RESERVED ? 2 * LARGE : 0);
        MemBlock low = take(ledger, 128, MEM_PARAMETER), high = take(ledger, LARGE, MEM_INPUT), block;
        MemStats before = *memtrack_stats(ledger);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            if (mode == MEMTRACK_META && i == 4)
                continue; /* a plan may be that large */
            assert_int_equal(memtrack_alloc(ledger, sizes[i], MEM_PARAMETER, &block), -1);
            assert_int_equal(block.bytes, 0);
            assert_int_equal(memtrack_alloc(ledger, sizes[i], MEM_INPUT, &block), -1);
            assert_int_equal(block.bytes, 0);
        }
        assert_int_equal(memtrack_alloc(ledger, 64, MEM_COMPONENT_COUNT, &block), -1);
        assert_int_equal(memtrack_alloc(ledger, 0, MEM_INPUT, &block), 0);
        assert_int_equal(block.bytes, 0);
        memtrack_retag(ledger, &block, MEM_ACTIVATION);
        memtrack_free(ledger, &block);
        assert_memory_equal(memtrack_stats(ledger), &before, sizeof before);
        memtrack_free(ledger, &low);
        memtrack_free(ledger, &high);
        memtrack_destroy(tracker);
    }
    MemTracker *tracker = memtrack_create(); /* both ends together overflow */
    MemLedger *ledger = ledger_of(tracker, MEMTRACK_META, 0);
    MemBlock block;
    take(ledger, (uint64_t)1 << 63, MEM_PARAMETER);
    assert_int_equal(memtrack_alloc(ledger, (uint64_t)1 << 63, MEM_INPUT, &block), -1);
    assert_int_equal(memtrack_stats(ledger)->needs, (uint64_t)1 << 63);
    memtrack_destroy(tracker);
}

static void test_steady_steps_take_no_host_memory(void **state)
{
    (void)state;
    static const char *const names[] = {"a", "b", "c"};
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = ledger_of(tracker, MEMTRACK_RESERVED, 1 << 20);
    uint64_t after_first = 0;
    for (int step = 0; step < 3; step++) {
        MemBlock blocks[60];
        for (int i = 0; i < 60; i++) {
            assert_true(memtrack_path_push(tracker, names[i % 3]) > 0);
            blocks[i] = take(ledger, (MEMTRACK_SMALL + 64) * (uint64_t)(1 + i % 5), MEM_ACTIVATION);
        }
        for (int i = 0; i < 60; i++) {
            memtrack_free(ledger, &blocks[i * 7 % 60]);
            memtrack_path_pop(tracker);
        }
        if (step == 0) {
            after_first = memtrack_host_peak(tracker);
            memtrack_fail_nth(60 * 2 + 1); /* two steps of 60 allocations and nothing else */
        }
    }
    assert_int_equal(memtrack_host_peak(tracker), after_first);
    assert_true(memtrack_fail_pending());
    assert_int_equal(memtrack_stats(ledger)->live, 0);
    memtrack_destroy(tracker);
}

/* ---- Failing once, everywhere ---------------------------------------------------------------- */

/* Blocks of all sizes at both ends with holes between them; false at the first failure, with the books as
 * they were before it. */
static bool use_ledger(MemLedger *ledger)
{
    MemTracker *tracker = memtrack_ledger_tracker(ledger);
    MemBlock blocks[80];
    char name[2] = "a";
    for (int i = 0; i < 80; i++) {
        name[0] = (char)('A' + i % 40);
        int place = memtrack_path(tracker);
        if (memtrack_path_push(tracker, name) < 0) {
            assert_int_equal(memtrack_path(tracker), place);
            return false;
        }
        MemStats before = *memtrack_stats(ledger);
        uint64_t bytes = (i % 2 ? MEMTRACK_SMALL : 0) + 40 + 64 * (uint64_t)(i % 3);
        if (memtrack_alloc(ledger, bytes, i % 2 ? MEM_INPUT : MEM_BUFFER, &blocks[i])) {
            assert_int_equal(blocks[i].bytes, 0);
            assert_memory_equal(memtrack_stats(ledger), &before, sizeof before);
            return false;
        }
        if (i % 30 != 29) /* a few stay on the stack */
            memtrack_path_pop(tracker);
    }
    for (int i = 0; i < 80; i += 3)
        memtrack_free(ledger, &blocks[i]);
    memtrack_retag(ledger, &blocks[1], MEM_ACTIVATION);
    for (int i = 4; i <= 5; i++) { /* to the other end's components and away */
        memtrack_retag(ledger, &blocks[i], i % 2 ? MEM_BUFFER : MEM_INPUT);
        memtrack_free(ledger, &blocks[i]);
    }
    return true;
}

static bool use_host(MemTracker *tracker)
{
    char *text = memtrack_host_strdup(tracker, "text");
    void *zeroed = memtrack_host_calloc(tracker, 10);
    void *block = memtrack_host_alloc(NULL, 20);
    void *grown = block ? memtrack_host_realloc(NULL, block, 20, 2000) : NULL;
    bool done = text && zeroed && grown;
    memtrack_host_free(tracker, text, 5);
    memtrack_host_free(tracker, zeroed, 10);
    memtrack_host_free(NULL, grown ? grown : block, grown ? 2000 : 20);
    return done;
}

static bool scenario(void)
{
    static const char *const names[] = {"meta", "reserved", "malloc"};
    MemTracker *tracker = memtrack_create();
    bool done = tracker && use_host(tracker);
    for (MemMode mode = MEMTRACK_META; done && mode <= MEMTRACK_MALLOC; mode++) {
        MemLedger *ledger = memtrack_ledger_create(
            tracker, &(MemLedgerOptions){.name = names[mode], .mode = mode, .capacity = 1 << 18});
        done = ledger && memtrack_log_start(ledger, 50, NULL, NULL) == 0 && use_ledger(ledger);
    }
    memtrack_destroy(tracker);
    return done;
}

static void test_fail_every_allocation_once(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        assert_true(n < 2000);
        memtrack_fail_nth(n);
        bool done = scenario();
        bool pending = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(memtrack_process_live(), 0);
        assert_true(done == pending); /* a failure is always told, and nothing else fails */
        if (pending) {
            assert_true(n > 250); /* 240 blocks, and all that grows with them */
            break;
        }
    }
    assert_false(memtrack_fail_pending());
}

int main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, nothing_held)
    const struct CMUnitTest tests[] = {
        TEST(test_best_fit_and_coalescing),
        TEST(test_extent_shrinks),
        TEST(test_end_by_size_and_component),
        TEST(test_small_block_holds_nothing_up),
        TEST(test_retag_across_ends),
        TEST(test_reserved_addresses),
        TEST(test_bad_reservations),
        TEST(test_huge_and_empty_requests),
        TEST(test_steady_steps_take_no_host_memory),
        TEST(test_fail_every_allocation_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
