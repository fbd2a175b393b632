/* memtrack's allocator: random sequences against a plain model that keeps every live block and looks at all
 * of them, the same sequences in all modes, and capacities to the byte.
 */
#include <pthread.h>

#include "memtrack_support.h"

#define MOST_BLOCKS 300

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
        memtrack_path_push(tracker, names[draw(&run->seed) % 4]);
    } else {
        memtrack_path_pop(tracker);
        memtrack_phase_set(tracker, (MemPhase)(draw(&run->seed) % MEM_PHASE_COUNT));
    }
}

static bool places_sum_to_peak(const MemLedger *ledger)
{
    const MemStats *stats = memtrack_stats(ledger);
    uint64_t total[MEM_COMPONENT_COUNT] = {0}, by[MEM_COMPONENT_COUNT];
    for (int place = 0; place < memtrack_path_count(memtrack_ledger_tracker(ledger)); place++) {
        memtrack_peak_by_path(ledger, place, by);
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

int main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, nothing_held)
    const struct CMUnitTest tests[] = {
        TEST(test_modes_agree),
        TEST(test_one_byte_less_is_refused),
        TEST(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
