/* memtrack's allocator: random sequences against a plain model that keeps every live block and looks at all
 * of them, the same sequences in all modes, capacities to the byte, and every allocation made to fail once.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "memtrack/memtrack.h"

#define MOST_BLOCKS 300

static int nothing_held(void **state)
{
    (void)state;
    memtrack_fail_nth(0);
    return memtrack_process_live() == 0 ? 0 : -1;
}

/* By what is asked for when the block is made; whatever it is called later, it stays there. */
static bool is_high(MemComponent component, uint64_t requested)
{
    static const bool high[MEM_COMPONENT_COUNT] = {
#define LOW                     0
#define HIGH                    1
#define X(id, name, group, end) [MEM_##id] = end,
        MEMTRACK_COMPONENTS(X)
#undef X
#undef LOW
#undef HIGH
    };
    return requested > MEMTRACK_SMALL && high[component];
}

static uint32_t draw(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

/* ---- The model: everything from the list of live blocks -------------------------------------- */

typedef struct Model {
    MemBlock blocks[MOST_BLOCKS];
    bool high[MOST_BLOCKS]; /* each one's end, as it was worked out when the block was made */
    int count;
    uint64_t live, peak, needs;
    uint64_t by[MEM_COMPONENT_COUNT], at_peak[MEM_COMPONENT_COUNT], own_peak[MEM_COMPONENT_COUNT];
} Model;

static int by_offset(const void *a, const void *b)
{
    uint64_t x = ((const MemBlock *)a)->offset, y = ((const MemBlock *)b)->offset;
    return x < y ? -1 : x > y;
}

static uint64_t extent(const Model *model, bool high)
{
    uint64_t top = 0;
    for (int i = 0; i < model->count; i++) {
        uint64_t end = model->blocks[i].offset + model->blocks[i].bytes;
        if (model->high[i] == high && end > top)
            top = end;
    }
    return top;
}

/* Best fit, lowest of equals, else the top; gradients take a gap only if they fill it. */
static uint64_t expected_offset(const Model *model, bool high, uint64_t bytes, MemComponent component)
{
    MemBlock sorted[MOST_BLOCKS];
    int count = 0;
    for (int i = 0; i < model->count; i++)
        if (model->high[i] == high)
            sorted[count++] = model->blocks[i];
    qsort(sorted, (size_t)count, sizeof *sorted, by_offset);
    uint64_t at = 0, best = UINT64_MAX, offset = UINT64_MAX;
    for (int i = 0; i < count; i++) {
        uint64_t gap = sorted[i].offset - at;
        if (gap >= bytes && gap < best && (component != MEM_GRADIENT || gap == bytes)) {
            best = gap;
            offset = at;
        }
        at = sorted[i].offset + sorted[i].bytes;
    }
    return offset == UINT64_MAX ? at : offset;
}

static void model_note(Model *model)
{
    model->live = 0;
    memset(model->by, 0, sizeof model->by);
    for (int i = 0; i < model->count; i++) {
        model->live += model->blocks[i].bytes;
        model->by[model->blocks[i].component] += model->blocks[i].bytes;
    }
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        if (model->by[i] > model->own_peak[i])
            model->own_peak[i] = model->by[i];
    if (model->live > model->peak) {
        model->peak = model->live;
        memcpy(model->at_peak, model->by, sizeof model->by);
    }
    uint64_t needs = extent(model, false) + extent(model, true);
    if (needs > model->needs)
        model->needs = needs;
}

static bool model_agrees(const Model *model, const MemStats *stats)
{
    return stats->live == model->live && stats->peak == model->peak && stats->needs == model->needs &&
           memcmp(stats->live_by, model->by, sizeof model->by) == 0 &&
           memcmp(stats->at_peak, model->at_peak, sizeof model->by) == 0 &&
           memcmp(stats->own_peak, model->own_peak, sizeof model->by) == 0;
}

/* ---- A random run ---------------------------------------------------------------------------- */

typedef struct Run {
    MemMode mode;
    uint64_t capacity, seed;
    int ops;
    /* results */
    MemEvent *events;
    size_t event_count;
    MemStats stats;
    bool refused;               /* an allocation failed: the run ends there */
    bool right;                 /* model, patterns and places all agreed */
    int refills[MEM_END_COUNT]; /* blocks that went into a gap */
    int strays[MEM_END_COUNT];  /* blocks freed with a component of the other end */
} Run;

static void keep(void *user, const MemEvent *events, size_t count)
{
    Run *run = user;
    run->events = realloc(run->events, (run->event_count + count) * sizeof *events);
    memcpy(run->events + run->event_count, events, count * sizeof *events);
    run->event_count += count;
}

static unsigned char pattern(const MemBlock *block)
{
    return (unsigned char)(block->serial * 37 + 11);
}

static bool pattern_holds(const MemBlock *block)
{
    const unsigned char *data = block->data;
    for (uint64_t i = 0; data && i < block->requested; i++)
        if (data[i] != pattern(block))
            return false;
    return true;
}

static bool same_block(const MemBlock *a, const MemBlock *b)
{
    return a->offset == b->offset && a->bytes == b->bytes && a->requested == b->requested &&
           a->serial == b->serial && a->place == b->place && a->component == b->component &&
           a->end == b->end && a->data == b->data;
}

static void run_alloc(Run *run, MemLedger *ledger, Model *model)
{
    uint64_t small = 1 + draw(&run->seed) % 100, near = MEMTRACK_SMALL - 63 + draw(&run->seed) % 128;
    uint64_t sizes[] = {small, 640, near, 5120, MEMTRACK_SMALL + 64 * small, 1 + draw(&run->seed) % 12000};
    uint64_t bytes = sizes[draw(&run->seed) % 6];
    MemComponent component = (MemComponent)(draw(&run->seed) % MEM_COMPONENT_COUNT);
    bool high = is_high(component, bytes);
    uint64_t expected = expected_offset(model, high, (bytes + 63) / 64 * 64, component);
    MemBlock *block = &model->blocks[model->count];
    if (memtrack_alloc(ledger, bytes, component, block)) {
        run->refused = true;
        run->right &= block->bytes == 0 && model_agrees(model, memtrack_stats(ledger));
        return;
    }
    run->right &= block->offset == expected && block->end == (high ? MEM_END_HIGH : MEM_END_LOW);
    run->refills[high] += expected < extent(model, high);
    run->right &= (run->mode == MEMTRACK_META) == (block->data == NULL);
    run->right &= (uintptr_t)block->data % MEMTRACK_ALIGN == 0;
    if (block->data)
        memset(block->data, pattern(block), block->requested);
    model->high[model->count++] = high;
}

static void run_free(Run *run, MemLedger *ledger, Model *model)
{
    uint32_t i = draw(&run->seed) % (uint32_t)model->count;
    MemBlock *block = &model->blocks[i];
    run->right &= pattern_holds(block);
    run->strays[model->high[i]] += is_high(block->component, block->requested) != model->high[i];
    memtrack_free(ledger, block);
    *block = model->blocks[--model->count];
    model->high[i] = model->high[model->count];
}

/* Any component, of either end: nothing but the component may change. */
static void run_retag(Run *run, MemLedger *ledger, Model *model)
{
    MemBlock *block = &model->blocks[draw(&run->seed) % (uint32_t)model->count];
    MemBlock expected = *block;
    expected.component = (MemComponent)(draw(&run->seed) % MEM_COMPONENT_COUNT);
    memtrack_retag(ledger, block, expected.component);
    run->right &= same_block(block, &expected) && pattern_holds(block);
}

static void run_op(Run *run, MemLedger *ledger, Model *model)
{
    static const char *const names[] = {"embed", "mlp", "attn", "head"};
    MemTracker *tracker = memtrack_ledger_tracker(ledger);
    bool growing = run->ops / 100 % 2; /* waves: grow, shrink, so that both arenas fragment and heal */
    uint32_t choice = draw(&run->seed) % 100;
    if (choice < (growing ? 60u : 35u) && model->count < MOST_BLOCKS) {
        run_alloc(run, ledger, model);
    } else if (choice < 85 && model->count > 0) {
        run_free(run, ledger, model);
    } else if (choice < 92 && model->count > 0) {
        run_retag(run, ledger, model);
    } else if (choice < 96) {
        memtrack_place_push(tracker, names[draw(&run->seed) % 4]);
    } else {
        memtrack_place_pop(tracker);
        memtrack_phase_set(tracker, (MemPhase)(draw(&run->seed) % MEM_PHASE_COUNT));
    }
}

static bool places_sum_to_peak(const MemLedger *ledger)
{
    const MemStats *stats = memtrack_stats(ledger);
    uint64_t total[MEM_COMPONENT_COUNT] = {0}, by[MEM_COMPONENT_COUNT];
    for (int place = 0; place < memtrack_place_count(memtrack_ledger_tracker(ledger)); place++) {
        memtrack_peak_by_place(ledger, place, by);
        for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
            total[i] += by[i];
    }
    return memcmp(total, stats->at_peak, sizeof total) == 0;
}

static void perform(Run *run)
{
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = memtrack_ledger_create(
        tracker, &(MemLedgerOptions){.name = "x", .mode = run->mode, .capacity = run->capacity});
    Model *model = calloc(1, sizeof *model);
    run->right = ledger && model && memtrack_log_start(ledger, 100, keep, run) == 0;
    for (; run->right && !run->refused && run->ops > 0; run->ops--) {
        run_op(run, ledger, model);
        model_note(model);
        run->right &= model_agrees(model, memtrack_stats(ledger));
        if (run->ops % 16 == 0)
            run->right &= places_sum_to_peak(ledger);
    }
    for (int i = 0; model && i < model->count; i++)
        run->right &= pattern_holds(&model->blocks[i]);
    if (ledger)
        run->stats = *memtrack_stats(ledger);
    free(model);
    memtrack_destroy(tracker); /* with what is live; hands over the rest of the log */
}

static bool same_event(const MemEvent *a, const MemEvent *b)
{
    return a->kind == b->kind && a->component == b->component && a->from == b->from &&
           memcmp(&a->where, &b->where, sizeof a->where) == 0 && a->serial == b->serial &&
           a->offset == b->offset && a->bytes == b->bytes && a->requested == b->requested &&
           a->live == b->live;
}

static void assert_same_run(const Run *a, const Run *b)
{
    assert_int_equal(a->event_count, b->event_count);
    for (size_t i = 0; i < a->event_count; i++)
        assert_true(same_event(&a->events[i], &b->events[i]));
    assert_memory_equal(&a->stats, &b->stats, sizeof a->stats);
}

static void test_modes_agree(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        Run plan = {.mode = MEMTRACK_META, .seed = seed, .ops = 3000};
        perform(&plan);
        assert_true(plan.right);
        assert_true(plan.stats.needs > plan.stats.peak); /* fragmented, or it tests little */
        for (int end = 0; end < MEM_END_COUNT; end++)
            assert_true(plan.refills[end] > 100 && plan.strays[end] > 5);
        const Run others[] = {
            {.mode = MEMTRACK_RESERVED, .capacity = plan.stats.needs, .seed = seed, .ops = 3000},
            {.mode = MEMTRACK_RESERVED, .capacity = plan.stats.needs + 12345, .seed = seed, .ops = 3000},
            {.mode = MEMTRACK_MALLOC, .seed = seed, .ops = 3000},
            {.mode = MEMTRACK_META, .capacity = plan.stats.needs, .seed = seed, .ops = 3000},
        };
        for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
            Run run = others[i];
            perform(&run);
            assert_true(run.right);
            assert_false(run.refused);
            assert_same_run(&plan, &run);
            free(run.events);
        }
        free(plan.events);
    }
}

static void test_one_byte_less_is_refused(void **state)
{
    (void)state;
    static const MemMode modes[] = {MEMTRACK_META, MEMTRACK_RESERVED, MEMTRACK_MALLOC};
    for (uint64_t seed = 1; seed <= 3; seed++) {
        Run plan = {.mode = MEMTRACK_META, .seed = seed, .ops = 1000};
        perform(&plan);
        for (int mode = 0; mode < 3; mode++) {
            for (uint64_t less = 1; less <= 64; less += 63) {
                Run run = {
                    .mode = modes[mode], .capacity = plan.stats.needs - less, .seed = seed, .ops = 1000};
                perform(&run);
                assert_true(run.right);
                assert_true(run.refused);
                assert_true(run.stats.needs <= run.capacity);
                free(run.events);
            }
        }
        free(plan.events);
    }
}

static void *perform_in_thread(void *run)
{
    perform(run);
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    Run runs[2] = {{.mode = MEMTRACK_META, .seed = 9, .ops = 1500},
                   {.mode = MEMTRACK_MALLOC, .seed = 9, .ops = 1500}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, perform_in_thread, &runs[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_true(runs[0].right && runs[1].right);
    assert_same_run(&runs[0], &runs[1]);
    free(runs[0].events);
    free(runs[1].events);
}

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
    static const MemComponent high[] = {MEM_ACTIVATION, MEM_TEMPORARY, MEM_WORKSPACE, MEM_INPUT};
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
            assert_true(memtrack_place_push(tracker, names[i % 3]) > 0);
            blocks[i] = take(ledger, (MEMTRACK_SMALL + 64) * (uint64_t)(1 + i % 5), MEM_ACTIVATION);
        }
        for (int i = 0; i < 60; i++) {
            memtrack_free(ledger, &blocks[i * 7 % 60]);
            memtrack_place_pop(tracker);
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
        int place = memtrack_place(tracker);
        if (memtrack_place_push(tracker, name) < 0) {
            assert_int_equal(memtrack_place(tracker), place);
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
            memtrack_place_pop(tracker);
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
        TEST(test_modes_agree),
        TEST(test_one_byte_less_is_refused),
        TEST(test_threads),
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
