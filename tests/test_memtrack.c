/* memtrack's books and places: small scenes whose numbers can be checked by hand. The
 * allocator underneath is in test_memtrack_offsets.c, the log and host memory in test_memtrack_log.c.
 */
#include <stdio.h>

#include "memtrack_support.h"

static uint64_t sum(const uint64_t by[MEM_COMPONENT_COUNT])
{
    uint64_t total = 0;
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        total += by[i];
    return total;
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(memtrack_component_name(MEM_ACTIVATION_GRADIENT), "activation_gradient");
    assert_string_equal(memtrack_group_name(MEM_GROUP_OPTIMIZER_STATES), "optimizer_states");
    assert_string_equal(memtrack_phase_name(MEM_PHASE_RECOMPUTE), "recompute");
    assert_int_equal(memtrack_component_group(MEM_FROZEN), MEM_GROUP_PARAMETERS);
    assert_int_equal(memtrack_component_group(MEM_GRADIENT), MEM_GROUP_GRADIENTS);
    assert_int_equal(memtrack_component_group(MEM_OPTIMIZER), MEM_GROUP_OPTIMIZER_STATES);
    assert_int_equal(memtrack_component_group(MEM_ACTIVATION), MEM_GROUP_ACTIVATIONS);
    assert_int_equal(memtrack_component_group(MEM_ACTIVATION_GRADIENT), MEM_GROUP_OVERHEAD);
    assert_string_equal(memtrack_component_name(MEM_COMPONENT_COUNT), "unknown");
    assert_string_equal(memtrack_group_name(MEM_GROUP_COUNT), "unknown");
    assert_string_equal(memtrack_phase_name(MEM_PHASE_COUNT), "unknown");
}

static void test_block_fields(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = meta_ledger(tracker);
    int path = memtrack_path_push(tracker, "head");
    MemBlock first = take_block(ledger, 1, MEM_PARAMETER);
    MemBlock second = take_block(ledger, 65, MEM_PARAMETER);
    MemBlock high = take_block(ledger, MEMTRACK_SMALL + 1, MEM_INPUT);
    MemBlock small = take_block(ledger, MEMTRACK_SMALL, MEM_INPUT);
    assert_int_equal(first.bytes, 64);
    assert_int_equal(first.requested, 1);
    assert_int_equal(first.serial, 1);
    assert_int_equal(first.path, path);
    assert_int_equal(first.component, MEM_PARAMETER);
    assert_null(first.data);
    assert_int_equal(second.bytes, 128);
    assert_int_equal(second.offset, 64);
    assert_int_equal(second.serial, 2);
    assert_int_equal(second.end, MEM_END_LOW);
    assert_int_equal(high.offset, 0);
    assert_int_equal(high.bytes, 4160);
    assert_int_equal(high.end, MEM_END_HIGH);
    assert_int_equal(small.offset, 192); /* small: at the parameters' end */
    assert_int_equal(small.bytes, 4096);
    assert_int_equal(small.end, MEM_END_LOW);
    assert_int_equal(small.component, MEM_INPUT);
    assert_int_equal(memtrack_stats(ledger)->live, 192 + 4160 + 4096);
    assert_int_equal(memtrack_stats(ledger)->needs, 192 + 4160 + 4096);
    memtrack_free(ledger, &second);
    MemBlock none = {0};
    assert_memory_equal(&second, &none, sizeof none);
    memtrack_free(ledger, &second); /* a second time: nothing */
    assert_int_equal(memtrack_stats(ledger)->frees, 1);
    assert_int_equal(memtrack_stats(ledger)->allocations, 4);
    assert_string_equal(memtrack_ledger_name(ledger), "meta");
    assert_int_equal(memtrack_ledger_mode(ledger), MEMTRACK_META);
    assert_ptr_equal(memtrack_ledger_tracker(ledger), tracker);
    memtrack_destroy(tracker);
}

static void test_composition_at_peak(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = meta_ledger(tracker);
    const MemStats *stats = memtrack_stats(ledger);
    take_block(ledger, 1024, MEM_PARAMETER);
    memtrack_phase_set(tracker, MEM_PHASE_FORWARD);
    memtrack_step_set(tracker, 7);
    MemBlock temporary = take_block(ledger, 4096, MEM_TEMPORARY);
    memtrack_free(ledger, &temporary);
    int path = memtrack_path_push(tracker, "loss");
    memtrack_op_set(tracker, "cross_entropy");
    take_block(ledger, 2048, MEM_ACTIVATION);
    MemBlock gradient = take_block(ledger, 3072, MEM_GRADIENT); /* the peak: 1024 + 2048 + 3072 */
    memtrack_path_pop(tracker);
    memtrack_op_set(tracker, NULL);
    memtrack_phase_set(tracker, MEM_PHASE_OPTIMIZER);
    memtrack_free(ledger, &gradient);
    take_block(ledger, 3072, MEM_OPTIMIZER); /* the same height again: the first moment counts */

    assert_int_equal(stats->peak, 6144);
    assert_int_equal(stats->live, 6144);
    assert_int_equal(sum(stats->at_peak), stats->peak);
    assert_int_equal(stats->at_peak[MEM_GRADIENT], 3072);
    assert_int_equal(stats->at_peak[MEM_OPTIMIZER], 0);
    assert_int_equal(stats->at_peak[MEM_TEMPORARY], 0);
    assert_int_equal(stats->peak_at.step, 7);
    assert_int_equal(stats->peak_at.phase, MEM_PHASE_FORWARD);
    assert_int_equal(stats->peak_at.path, path);
    assert_string_equal(stats->peak_at.op, "cross_entropy");
    assert_int_equal(stats->own_peak[MEM_TEMPORARY], 4096);
    assert_int_equal(stats->own_peak_at[MEM_TEMPORARY].path, 0);
    assert_int_equal(stats->own_peak_at[MEM_TEMPORARY].step, 7);
    assert_null(stats->own_peak_at[MEM_TEMPORARY].op);
    assert_int_equal(stats->own_peak[MEM_OPTIMIZER], 3072);
    assert_int_equal(stats->own_peak_at[MEM_OPTIMIZER].phase, MEM_PHASE_OPTIMIZER);
    memtrack_destroy(tracker);
}

static void test_retag(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = meta_ledger(tracker);
    const MemStats *stats = memtrack_stats(ledger);
    int path = memtrack_path_push(tracker, "attn");
    MemBlock block = take_block(ledger, 6400, MEM_TEMPORARY);
    memtrack_path_pop(tracker);
    uint64_t hash = stats->event_hash;
    uint64_t by[MEM_COMPONENT_COUNT];

    memtrack_retag(ledger, &block, MEM_TEMPORARY);       /* equal: no event */
    memtrack_retag(ledger, &block, MEM_COMPONENT_COUNT); /* no such component */
    assert_int_equal(stats->retags, 0);
    assert_int_equal(block.component, MEM_TEMPORARY);
    assert_true(stats->event_hash == hash);

    memtrack_retag(ledger, &block, MEM_ACTIVATION);
    assert_int_equal(block.component, MEM_ACTIVATION);
    assert_int_equal(stats->retags, 1);
    assert_true(stats->event_hash != hash);
    assert_int_equal(stats->live, 6400);
    assert_int_equal(stats->live_by[MEM_TEMPORARY], 0);
    assert_int_equal(stats->live_by[MEM_ACTIVATION], 6400);
    assert_int_equal(stats->own_peak[MEM_ACTIVATION], 6400);
    assert_int_equal(stats->own_peak_at[MEM_ACTIVATION].path, path);
    assert_int_equal(stats->at_peak[MEM_TEMPORARY], 6400); /* what it was then */
    memtrack_peak_by_path(ledger, path, by);
    assert_int_equal(by[MEM_TEMPORARY], 6400);
    assert_int_equal(by[MEM_ACTIVATION], 0);

    take_block(ledger, 64, MEM_INPUT); /* a new peak sees the new tag */
    assert_int_equal(stats->at_peak[MEM_ACTIVATION], 6400);
    memtrack_peak_by_path(ledger, path, by);
    assert_int_equal(by[MEM_ACTIVATION], 6400);
    assert_int_equal(by[MEM_TEMPORARY], 0);

    hash = stats->event_hash;
    memtrack_retag(ledger, &block, MEM_PARAMETER); /* of the other end: only the books change */
    assert_int_equal(stats->retags, 2);
    assert_true(stats->event_hash != hash);
    assert_int_equal(block.component, MEM_PARAMETER);
    assert_int_equal(block.end, MEM_END_HIGH);
    assert_int_equal(stats->live_by[MEM_ACTIVATION], 0);
    assert_int_equal(stats->live_by[MEM_PARAMETER], 6400);
    assert_int_equal(stats->own_peak[MEM_PARAMETER], 6400);
    assert_int_equal(stats->peak, 6464);
    assert_int_equal(stats->needs, 6464);
    memtrack_free(ledger, &block);
    assert_int_equal(stats->live_by[MEM_PARAMETER], 0);
    assert_int_equal(stats->live, 64);
    memtrack_destroy(tracker);
}

static void test_peak_by_place(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = meta_ledger(tracker);
    uint64_t by[MEM_COMPONENT_COUNT];
    int a = memtrack_path_push(tracker, "a");
    MemBlock in_a = take_block(ledger, 1000, MEM_ACTIVATION);
    memtrack_path_pop(tracker);
    int b = memtrack_path_push(tracker, "b");
    MemBlock in_b = take_block(ledger, 500, MEM_PARAMETER);
    memtrack_free(ledger, &in_a); /* charged to a, though b is current */
    MemBlock small = take_block(ledger, 64, MEM_TEMPORARY);

    memtrack_peak_by_path(ledger, a, by);
    assert_int_equal(by[MEM_ACTIVATION], 1024);
    assert_int_equal(sum(by), 1024);
    memtrack_peak_by_path(ledger, b, by);
    assert_int_equal(by[MEM_PARAMETER], 512);
    assert_int_equal(sum(by), 512);

    take_block(ledger, 4096, MEM_ACTIVATION); /* a new peak, all in b */
    memtrack_peak_by_path(ledger, a, by);
    assert_int_equal(sum(by), 0);
    memtrack_peak_by_path(ledger, b, by);
    assert_int_equal(sum(by), memtrack_stats(ledger)->peak);
    memtrack_free(ledger, &small);
    memtrack_free(ledger, &in_b);
    int late = memtrack_path_push(tracker, "late"); /* a place that did not exist at the peak */
    memtrack_peak_by_path(ledger, late, by);
    assert_int_equal(sum(by), 0);
    memtrack_peak_by_path(ledger, b, by);
    assert_int_equal(sum(by), 4096 + 512 + 64);
    memtrack_peak_by_path(ledger, 12345, by);
    assert_int_equal(sum(by), 0);
    memtrack_destroy(tracker);
}

static void test_peak_reset(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = meta_ledger(tracker);
    const MemStats *stats = memtrack_stats(ledger);
    uint64_t by[MEM_COMPONENT_COUNT];
    take_block(ledger, 128, MEM_PARAMETER);
    MemBlock big = take_block(ledger, 6400, MEM_TEMPORARY);
    memtrack_free(ledger, &big);
    memtrack_step_set(tracker, 3);
    memtrack_peak_reset(ledger);
    assert_int_equal(stats->peak, 128);
    assert_int_equal(stats->at_peak[MEM_PARAMETER], 128);
    assert_int_equal(stats->at_peak[MEM_TEMPORARY], 0);
    assert_int_equal(stats->own_peak[MEM_TEMPORARY], 0);
    assert_int_equal(stats->peak_at.step, 3);
    assert_int_equal(stats->needs, 6528);
    memtrack_peak_by_path(ledger, 0, by);
    assert_int_equal(sum(by), 128);
    MemBlock next = take_block(ledger, 64, MEM_INPUT);
    memtrack_free(ledger, &next);
    assert_int_equal(stats->peak, 192);
    memtrack_peak_by_path(ledger, 0, by);
    assert_int_equal(by[MEM_INPUT], 64);
    memtrack_destroy(tracker);
}

static void test_places(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    assert_string_equal(memtrack_path_name(tracker, 0), "");
    assert_int_equal(memtrack_path_count(tracker), 1);
    int layers = memtrack_path_push(tracker, "layers.3");
    int attn = memtrack_path_push(tracker, "attn");
    assert_int_equal(layers, 1);
    assert_int_equal(attn, 2);
    assert_string_equal(memtrack_path_name(tracker, attn), "layers.3.attn");
    assert_int_equal(memtrack_path_push(tracker, ""), attn);
    memtrack_path_pop(tracker);
    assert_int_equal(memtrack_path_set(tracker, 0), attn);
    int other = memtrack_path_push(tracker, "attn");
    assert_string_equal(memtrack_path_name(tracker, other), "attn");
    memtrack_path_pop(tracker);
    assert_int_equal(memtrack_path(tracker), 0); /* before the matching push it had been set to the root */
    memtrack_path_pop(tracker);
    assert_int_equal(memtrack_path(tracker), layers);
    memtrack_path_pop(tracker);
    assert_int_equal(memtrack_path(tracker), 0);
    memtrack_path_pop(tracker); /* one too many */
    assert_int_equal(memtrack_path(tracker), 0);
    assert_int_equal(memtrack_path_push(tracker, "layers"), 4);
    assert_int_equal(memtrack_path_push(tracker, "3"), layers); /* one name, one place */
    assert_int_equal(memtrack_path_set(tracker, 99), layers);
    assert_int_equal(memtrack_path(tracker), layers);
    assert_string_equal(memtrack_path_name(tracker, -1), "unknown");
    assert_int_equal(memtrack_path_count(tracker), 5);
    memtrack_destroy(tracker);
}

static void test_many_and_deep_places(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = meta_ledger(tracker);
    char name[600];
    for (int round = 0; round < 2; round++) {
        uint64_t before = memtrack_host_live(tracker);
        for (int i = 0; i < 1000; i++) {
            snprintf(name, sizeof name, "layers.%d", i);
            assert_int_equal(memtrack_path_push(tracker, name), i + 1);
            assert_string_equal(memtrack_path_name(tracker, i + 1), name);
            take_block(ledger, 64, MEM_PARAMETER);
            memtrack_path_pop(tracker);
        }
        if (round == 1) /* everything is known by now; only the room for gaps follows the live blocks */
            assert_true(memtrack_host_live(tracker) - before <= 2048 * 16);
    }
    for (int i = 0; i < 300; i++)
        assert_true(memtrack_path_push(tracker, "deeper") > 1000);
    assert_int_equal(strlen(memtrack_path_name(tracker, memtrack_path(tracker))), 300 * 7 - 1);
    for (int i = 0; i < 300; i++)
        memtrack_path_pop(tracker);
    assert_int_equal(memtrack_path(tracker), 0);
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_string_equal(memtrack_path_name(tracker, memtrack_path_push(tracker, name)), name);
    uint64_t by[MEM_COMPONENT_COUNT];
    memtrack_peak_by_path(ledger, 1000, by);
    assert_int_equal(by[MEM_PARAMETER], 128);
    memtrack_destroy(tracker);
}

static void test_setters_return_before(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    static const char op[] = "linear";
    assert_int_equal(memtrack_phase_set(tracker, MEM_PHASE_BACKWARD), MEM_PHASE_SETUP);
    assert_int_equal(memtrack_phase(tracker), MEM_PHASE_BACKWARD);
    assert_int_equal(memtrack_step_set(tracker, 5), 0);
    assert_int_equal(memtrack_step_set(tracker, 6), 5);
    assert_int_equal(memtrack_step(tracker), 6);
    assert_null(memtrack_op_set(tracker, op));
    assert_ptr_equal(memtrack_op_set(tracker, NULL), op);
    memtrack_destroy(tracker);
}

typedef struct Step {
    uint64_t bytes;
    const char *op, *path;
    MemComponent component;
    MemPhase phase;
} Step;

static uint64_t step_hash(MemLedger *ledger, int64_t number, Step step)
{
    MemTracker *tracker = memtrack_ledger_tracker(ledger);
    memtrack_step_set(tracker, number);
    memtrack_phase_set(tracker, step.phase);
    memtrack_op_set(tracker, step.op);
    memtrack_path_push(tracker, step.path);
    MemBlock block = take_block(ledger, step.bytes, step.component);
    MemBlock other = take_block(ledger, 5000, MEM_TEMPORARY);
    memtrack_free(ledger, &block);
    memtrack_free(ledger, &other);
    memtrack_path_pop(tracker);
    return memtrack_stats(ledger)->step_hash;
}

static void test_step_hash(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = meta_ledger(tracker);
    const Step same = {5000, "linear", "mlp", MEM_ACTIVATION, MEM_PHASE_FORWARD};
    uint64_t first = step_hash(ledger, 1, same);
    uint64_t events = memtrack_stats(ledger)->event_hash;
    assert_true(first != 0);
    assert_true(step_hash(ledger, 2, same) == first);
    assert_true(memtrack_stats(ledger)->event_hash != events);
    char op[] = "linear"; /* the text counts, not its address */
    Step changed = same;
    changed.op = op;
    assert_true(step_hash(ledger, 3, changed) == first);
    const Step different[] = {{5001, "linear", "mlp", MEM_ACTIVATION, MEM_PHASE_FORWARD},
                              {5000, "linear2", "mlp", MEM_ACTIVATION, MEM_PHASE_FORWARD},
                              {5000, NULL, "mlp", MEM_ACTIVATION, MEM_PHASE_FORWARD},
                              {5000, "linear", "mlq", MEM_ACTIVATION, MEM_PHASE_FORWARD},
                              {5000, "linear", "mlp", MEM_INPUT, MEM_PHASE_FORWARD},
                              {5000, "linear", "mlp", MEM_ACTIVATION, MEM_PHASE_BACKWARD}};
    for (size_t i = 0; i < sizeof different / sizeof *different; i++)
        assert_true(step_hash(ledger, 4, different[i]) != first);
    assert_true(step_hash(ledger, 5, same) == first);
    MemBlock leak = take_block(ledger, 5000, MEM_ACTIVATION); /* offsets count: a leak shifts the next step */
    assert_true(step_hash(ledger, 6, same) != first);
    memtrack_free(ledger, &leak);
    assert_true(step_hash(ledger, 7, same) == first);

    MemTracker *other =
        memtrack_create(); /* a tracker that has seen other places first gives the same hash */
    memtrack_path_push(other, "elsewhere");
    memtrack_path_pop(other);
    assert_true(step_hash(meta_ledger(other), 1, same) == first);
    memtrack_destroy(other);
    memtrack_destroy(tracker);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, nothing_held)
    const struct CMUnitTest tests[] = {
        TEST(test_names),     TEST(test_block_fields),         TEST(test_composition_at_peak),
        TEST(test_retag),     TEST(test_peak_by_place),        TEST(test_peak_reset),
        TEST(test_places),    TEST(test_many_and_deep_places), TEST(test_setters_return_before),
        TEST(test_step_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
