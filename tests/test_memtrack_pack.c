/* memtrack's packing: random programs of segments traced, packed and followed, in the order of the trace and
 * in others; what is not planned; what lives at the peak; and every allocation made to fail once. */
#include "memtrack_support.h"

/* ---- A program: segments of random kinds ------------------------------------------------------ */

enum { MOST_BLOCKS = 400, MOST_EVENTS = 20000, SEGMENTS = 12, KINDS = 5 };

typedef struct Program {
    uint64_t seed;
    int order[SEGMENTS], count; /* kinds, 0 = set-up */
    bool leaves;                /* a segment leaves blocks to the next */
} Program;

/* One pass of a program over a ledger; a plain model of the live blocks beside it. */
typedef struct Pass {
    MemMode mode;
    uint64_t capacity;
    const MemHints *hints;
    int strays; /* every so many operations something that was not planned comes and goes; 0 = never */
    bool trace;
    /* results */
    bool right, refused;
    MemEvent *events;
    size_t event_count;
    MemStats stats;
    MemHints *found;
    MemBlock blocks[MOST_BLOCKS], at_peak[MOST_BLOCKS];
    int count, peak_count;
    uint64_t top; /* the highest end */
} Pass;

static uint32_t draw(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

static void keep(void *user, const MemEvent *events, size_t count)
{
    Pass *pass = user;
    pass->events = realloc(pass->events, (pass->event_count + count) * sizeof *events);
    memcpy(pass->events + pass->event_count, events, count * sizeof *events);
    pass->event_count += count;
}

static uint64_t start_of(const Pass *pass, const MemBlock *block)
{
    return block->end == MEM_END_LOW ? block->offset : pass->capacity - block->offset - block->bytes;
}

/* A new block touches no other of its end, lies on the grid, and in what it lives in is its own pattern. */
static void check_block(Pass *pass, const MemBlock *block)
{
    pass->right &= block->offset % MEMTRACK_ALIGN == 0 && (!pass->hints || block->end == MEM_END_LOW);
    for (int i = 0; i < pass->count; i++) {
        const MemBlock *other = &pass->blocks[i];
        if (other->end == block->end)
            pass->right &= other->offset + other->bytes <= block->offset ||
                           block->offset + block->bytes <= other->offset;
        else if (pass->mode == MEMTRACK_RESERVED)
            pass->right &= start_of(pass, other) + other->bytes <= start_of(pass, block) ||
                           start_of(pass, block) + block->bytes <= start_of(pass, other);
    }
    if (block->offset + block->bytes > pass->top)
        pass->top = block->offset + block->bytes;
}

static void take(Pass *pass, MemLedger *ledger, uint64_t bytes, MemComponent component)
{
    MemBlock block;
    if (pass->refused || pass->count == MOST_BLOCKS)
        return;
    if (memtrack_alloc(ledger, bytes, component, &block)) {
        pass->refused = true;
        return;
    }
    check_block(pass, &block);
    if (block.data)
        memset(block.data, pattern(&block), block.requested);
    pass->blocks[pass->count++] = block;
    if (memtrack_stats(ledger)->peak == memtrack_stats(ledger)->live &&
        memtrack_stats(ledger)->peak > pass->stats.peak) {
        pass->stats.peak = memtrack_stats(ledger)->peak;
        memcpy(pass->at_peak, pass->blocks, sizeof pass->blocks);
        pass->peak_count = pass->count;
    }
}

/* Keeps the order of the rest: what is freed next must not depend on what was. */
static void give(Pass *pass, MemLedger *ledger, int i)
{
    pass->right &= pattern_holds(&pass->blocks[i]);
    memtrack_free(ledger, &pass->blocks[i]);
    memmove(&pass->blocks[i], &pass->blocks[i + 1], (size_t)(--pass->count - i) * sizeof pass->blocks[0]);
}

static void stray(Pass *pass, MemLedger *ledger, int op)
{
    MemBlock block;
    if (pass->strays == 0 || op % pass->strays || pass->refused)
        return;
    memtrack_op_set(memtrack_ledger_tracker(ledger), "stray");
    if (memtrack_alloc(ledger, 100, MEM_TEMPORARY, &block) == 0) {
        check_block(pass, &block);
        memtrack_free(ledger, &block);
    }
    memtrack_op_set(memtrack_ledger_tracker(ledger), NULL);
}

/* The same kind does the same each time, above what was there when it began. */
static void segment(Pass *pass, MemLedger *ledger, const Program *program, int kind)
{
    uint64_t seed = program->seed * 1000 + (uint64_t)(kind == 3 ? 2 : kind); /* 2 and 3 begin alike */
    int before = pass->count, ops = kind == 0 ? 12 : 60 + 20 * kind, left = kind && program->leaves ? 2 : 0;
    for (int op = 0; op < ops && !pass->refused; op++) {
        stray(pass, ledger, op);
        if (kind == 3 && op == 50)
            seed = 77;
        uint32_t choice = draw(&seed) % 100, which = draw(&seed), size = draw(&seed);
        bool growing = op < ops / 2;
        if (kind == 0 || choice < (growing ? 65u : 35u)) {
            uint64_t bytes = size % 3 == 0 ? 1 + size % 300 : 64 * (1 + size % 400);
            take(pass, ledger, bytes,
                 kind == 0 ? MEM_PARAMETER : (MemComponent)(which % MEM_COMPONENT_COUNT));
        } else if (choice < 92 && pass->count > before) {
            give(pass, ledger, before + (int)(which % (uint32_t)(pass->count - before)));
        } else if (pass->count > before) {
            MemBlock *block = &pass->blocks[before + (int)(which % (uint32_t)(pass->count - before))];
            memtrack_retag(ledger, block, (MemComponent)(size % MEM_COMPONENT_COUNT));
        }
        if (op == 20 && before > 12) /* what the one before left */
            while (before > 12) {
                give(pass, ledger, --before);
            }
    }
    while (kind > 0 && pass->count > before + left && !pass->refused)
        give(pass, ledger, pass->count - 1);
    memtrack_step_set(memtrack_ledger_tracker(ledger), memtrack_step(memtrack_ledger_tracker(ledger)) + 1);
}

static int by_size(const void *a, const void *b)
{
    const MemBlock *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    return x->serial < y->serial ? -1 : x->serial > y->serial;
}

/* The blocks at the peak, by the model and by the trace. */
static void check_peak(Pass *pass, const MemLedger *ledger)
{
    MemPeakBlock blocks[MOST_BLOCKS], few[3];
    size_t count = memtrack_peak_blocks(ledger, blocks, MOST_BLOCKS);
    uint64_t by[MEM_COMPONENT_COUNT] = {0};
    qsort(pass->at_peak, (size_t)pass->peak_count, sizeof pass->at_peak[0], by_size);
    pass->right &= count == (size_t)pass->peak_count;
    for (size_t i = 0; i < count && pass->right; i++) {
        pass->right &= blocks[i].serial == pass->at_peak[i].serial &&
                       blocks[i].bytes == pass->at_peak[i].bytes &&
                       blocks[i].component == pass->at_peak[i].component;
        by[blocks[i].component] += blocks[i].bytes;
    }
    pass->right &= memcmp(by, memtrack_stats(ledger)->at_peak, sizeof by) == 0;
    size_t fewer = memtrack_peak_blocks(ledger, few, 3);
    pass->right &= fewer == (count < 3 ? count : 3);
    for (size_t i = 0; i < fewer; i++)
        pass->right &= few[i].serial == blocks[i].serial;
}

static void perform(Pass *pass, const Program *program)
{
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = memtrack_ledger_create(
        tracker, &(MemLedgerOptions){.name = "x", .mode = pass->mode, .capacity = pass->capacity});
    pass->right = ledger && memtrack_log_start(ledger, 100, keep, pass) == 0 &&
                  memtrack_ledger_follow(ledger, pass->hints) == 0 &&
                  (!pass->trace || memtrack_trace_start(ledger) == 0);
    for (int i = 0; i < program->count && pass->right && !pass->refused; i++)
        segment(pass, ledger, program, program->order[i]);
    while (pass->count > 0)
        give(pass, ledger, pass->count - 1);
    if (pass->trace) {
        check_peak(pass, ledger);
        pass->right &= memtrack_pack(ledger, &pass->found) == 0;
    }
    pass->stats = *memtrack_stats(ledger);
    pass->right &= pass->stats.needs >= pass->stats.peak;
    memtrack_destroy(tracker);
}

static Program program_of(uint64_t seed, bool leaves)
{
    Program program = {.seed = seed, .count = SEGMENTS, .leaves = leaves};
    uint64_t state = seed;
    for (int i = 1; i < SEGMENTS; i++) /* each kind comes */
        program.order[i] = i < KINDS ? i : 1 + (int)(draw(&state) % (KINDS - 1));
    return program;
}

static bool same_event(const MemEvent *a, const MemEvent *b)
{
    return a->kind == b->kind && a->component == b->component && a->serial == b->serial &&
           a->offset == b->offset && a->requested == b->requested && a->live == b->live;
}

static void assert_same_pass(const Pass *a, const Pass *b)
{
    assert_int_equal(a->event_count, b->event_count);
    for (size_t i = 0; i < a->event_count; i++)
        assert_true(same_event(&a->events[i], &b->events[i]));
    assert_memory_equal(&a->stats, &b->stats, sizeof a->stats);
}

static void end(Pass *pass)
{
    free(pass->events);
    memtrack_hints_free(pass->found);
    free(pass);
}

static Pass *pass_of(Pass pass, const Program *program)
{
    Pass *made = malloc(sizeof *made);
    *made = pass;
    perform(made, program);
    return made;
}

/* ---- Properties ------------------------------------------------------------------------------- */

static void packed_programs_fit(void **state)
{
    (void)state;
    int packed = 0, close = 0, better = 0;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        Program program = program_of(seed, seed % 2);
        Pass *first = pass_of((Pass){.trace = true}, &program);
        assert_true(first->right && !first->refused);
        if (!first->found) {
            end(first);
            continue;
        }
        packed++;
        Pass *again = pass_of((Pass){.trace = true}, &program); /* deterministic */
        assert_same_pass(first, again);
        assert_string_equal(memtrack_hints_packer(first->found), memtrack_hints_packer(again->found));
        Pass *plan = pass_of((Pass){.hints = first->found}, &program);
        assert_true(plan->right && !plan->refused);
        assert_true(plan->stats.peak == first->stats.peak);
        /* Blocks that a kind leaves in different places may cost what was gained; a plan drops such hints. */
        assert_true(program.leaves || plan->stats.needs < first->stats.needs);
        better += plan->stats.needs < first->stats.needs;
        assert_true(plan->stats.needs == plan->top);
        /* What must lie in the same place in several kinds may leave gaps in each. */
        close += plan->stats.needs <= plan->stats.peak + plan->stats.peak / (program.leaves ? 6 : 25);
        const Pass others[] = {
            {.mode = MEMTRACK_RESERVED, .capacity = plan->stats.needs, .hints = first->found},
            {.mode = MEMTRACK_RESERVED, .capacity = plan->stats.needs + 12345, .hints = again->found},
            {.mode = MEMTRACK_MALLOC, .capacity = plan->stats.needs, .hints = first->found},
        };
        for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
            Pass *other = pass_of(others[i], &program);
            assert_true(other->right && !other->refused);
            assert_same_pass(plan, other);
            end(other);
        }
        Pass *less = pass_of((Pass){.capacity = plan->stats.needs - 1, .hints = first->found}, &program);
        assert_true(less->right && less->refused);
        end(less);
        end(plan);
        end(again);
        end(first);
    }
    assert_true(packed >= 25);
    assert_int_equal(close, packed);
    assert_true(better >= packed - 2);
}

/* Segments in an order that was not planned need no more, as long as each finds what its kind was planned to
 * find. */
static void other_orders_need_no_more(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        Program program = program_of(seed, false);
        Pass *first = pass_of((Pass){.trace = true}, &program);
        assert_non_null(first->found);
        Pass *plan = pass_of((Pass){.hints = first->found}, &program);
        uint64_t state_of_order = seed;
        for (int i = 1; i < SEGMENTS; i++)
            program.order[i] = 1 + (int)(draw(&state_of_order) % (KINDS - 1));
        Pass *run =
            pass_of((Pass){.mode = MEMTRACK_RESERVED, .capacity = plan->stats.needs, .hints = first->found},
                    &program);
        assert_true(run->right && !run->refused);
        end(run);
        end(plan);
        end(first);
    }
}

/* Whatever comes between, no two blocks touch; and what is planned goes where it was planned to go. */
static void strays_are_harmless(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        Program program = program_of(seed, seed % 2);
        Pass *first = pass_of((Pass){.trace = true}, &program);
        assert_non_null(first->found);
        Pass *plan = pass_of((Pass){.hints = first->found}, &program);
        Pass *run = pass_of((Pass){.mode = MEMTRACK_RESERVED,
                                   .capacity = plan->stats.needs + 6400,
                                   .hints = first->found,
                                   .strays = 7},
                            &program);
        assert_true(run->right && !run->refused);
        size_t at = 0, same = 0, all = 0;
        for (size_t i = 0; i < run->event_count; i++) {
            const MemEvent *e = &run->events[i];
            if (e->where.op) /* a stray */
                continue;
            assert_true(at < plan->event_count && plan->events[at].kind == e->kind);
            all++;
            same += plan->events[at++].offset == e->offset;
        }
        assert_int_equal(at, plan->event_count);
        assert_true(run->event_count > plan->event_count + 100);
        assert_int_equal(same, all);
        end(run);

        /* Another program altogether by these hints. */
        Program other = program_of(seed + 100, true);
        run = pass_of((Pass){.mode = MEMTRACK_MALLOC, .hints = first->found}, &other);
        assert_true(run->right && !run->refused);
        end(run);
        end(plan);
        end(first);
    }
}

/* ---- By hand ---------------------------------------------------------------------------------- */

static MemLedger *meta(MemTracker *tracker)
{
    return memtrack_ledger_create(tracker, &(MemLedgerOptions){.name = "meta", .mode = MEMTRACK_META});
}

static MemBlock block_of(MemLedger *ledger, uint64_t bytes)
{
    MemBlock block;
    assert_int_equal(memtrack_alloc(ledger, bytes, MEM_BUFFER, &block), 0);
    return block;
}

/* Online, c finds the gap that a left too small: 1 + 2 + 2 KiB; packed, 4. `fourth` names what comes after.
 */
static void classic(MemLedger *ledger, MemBlock out[3], uint64_t fourth)
{
    out[0] = block_of(ledger, 1024);
    out[1] = block_of(ledger, 2048);
    MemBlock a = out[0], b = out[1];
    memtrack_free(ledger, &a);
    out[2] = block_of(ledger, 2048);
    MemBlock c = out[2];
    memtrack_free(ledger, &b);
    memtrack_free(ledger, &c);
    MemBlock d = block_of(ledger, fourth);
    memtrack_free(ledger, &d);
    memtrack_step_set(memtrack_ledger_tracker(ledger), 1);
}

static void kinds_that_begin_alike_are_placed_alike(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create(), *following = memtrack_create();
    MemLedger *ledger = meta(tracker), *packed = meta(following);
    MemHints *hints;
    MemBlock blocks[3], again[3];
    assert_int_equal(memtrack_trace_start(ledger), 0);
    classic(ledger, blocks, 64);
    classic(ledger, blocks, 3 * 1024);
    assert_int_equal(memtrack_stats(ledger)->needs, 5 * 1024);
    assert_int_equal(memtrack_pack(ledger, &hints), 0);
    assert_non_null(hints);
    assert_true(strlen(memtrack_hints_packer(hints)) > 0);
    assert_int_equal(memtrack_ledger_follow(packed, hints), 0);
    classic(packed, blocks, 64);
    classic(packed, again, 3 * 1024);
    for (int i = 0; i < 3; i++)
        assert_int_equal(blocks[i].offset, again[i].offset);
    assert_int_equal(memtrack_stats(packed)->needs, 4 * 1024);
    classic(packed, again, 640); /* not planned from the fourth block on */
    for (int i = 0; i < 3; i++)
        assert_int_equal(blocks[i].offset, again[i].offset);
    assert_int_equal(memtrack_stats(packed)->needs, 4 * 1024);
    memtrack_destroy(following);
    memtrack_hints_free(hints);
    memtrack_destroy(tracker);
}

static void when_there_is_nothing_to_pack(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = meta(tracker), *late = meta(tracker), *many = meta(tracker);
    MemHints *hints = (MemHints *)&hints;
    MemPeakBlock peak;
    assert_int_equal(memtrack_pack(late, &hints), 0); /* no trace */
    assert_null(hints);
    assert_string_equal(memtrack_hints_packer(NULL), "online");
    memtrack_hints_free(NULL);
    block_of(late, 64);
    assert_int_equal(memtrack_trace_start(late), -1);
    assert_int_equal(memtrack_ledger_follow(late, NULL), -1);
    assert_int_equal(memtrack_peak_blocks(late, &peak, 1), 0);
    assert_int_equal(memtrack_trace_start(ledger), 0);
    assert_int_equal(memtrack_trace_start(ledger), -1);
    assert_int_equal(memtrack_pack(ledger, &hints), 0); /* nothing happened */
    assert_null(hints);
    block_of(ledger, 64);
    assert_int_equal(memtrack_pack(ledger, &hints), 0); /* needs == peak */
    assert_null(hints);

    MemBlock blocks[3];
    assert_int_equal(memtrack_trace_start(many), 0);
    for (uint64_t kind = 1; kind <= 65; kind++)
        classic(many, blocks, 64 * kind);
    assert_int_equal(memtrack_stats(many)->needs, 5 * 1024);
    assert_int_equal(memtrack_pack(many, &hints), 0);
    assert_null(hints);
    assert_int_equal(memtrack_peak_blocks(many, &peak, 1), 1); /* known all the same */
    assert_int_equal(peak.bytes, 65 * 64);
    memtrack_destroy(tracker);
}

/* Steps that repeat take no more memory, however many come. */
static void traces_are_bounded(void **state)
{
    (void)state;
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = meta(tracker);
    MemBlock blocks[3];
    assert_int_equal(memtrack_trace_start(ledger), 0);
    for (int i = 0; i < 3; i++)
        classic(ledger, blocks, 64 + 64 * (uint64_t)(i % 2));
    uint64_t live = memtrack_process_live();
    for (int i = 0; i < 1000; i++)
        classic(ledger, blocks, 64 + 64 * (uint64_t)(i % 2));
    assert_int_equal(memtrack_process_live(), live);
    memtrack_destroy(tracker);
}

/* ---- Failing once, everywhere ----------------------------------------------------------------- */

static bool scenario(const Program *program)
{
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger = tracker ? meta(tracker) : NULL;
    Pass *pass = calloc(1, sizeof *pass);
    MemHints *hints = NULL;
    bool done = ledger && memtrack_trace_start(ledger) == 0;
    pass->right = true;
    for (int i = 0; done && i < program->count && !pass->refused; i++)
        segment(pass, ledger, program, program->order[i]);
    while (pass->count > 0)
        give(pass, ledger, pass->count - 1);
    assert_true(pass->right);
    done = done && !pass->refused && memtrack_pack(ledger, &hints) == 0;
    assert_true(!done || hints);
    memtrack_hints_free(hints);
    memtrack_destroy(tracker);
    free(pass);
    return done;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    Program program = program_of(3, true);
    for (uint64_t n = 1;; n++) {
        assert_true(n < 5000);
        memtrack_fail_nth(n);
        bool done = scenario(&program);
        bool pending = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(memtrack_process_live(), 0);
        assert_true(done == pending);
        if (pending) {
            assert_true(n > 300);
            return;
        }
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, nothing_held)
    const struct CMUnitTest tests[] = {
        TEST(packed_programs_fit),           TEST(other_orders_need_no_more),
        TEST(strays_are_harmless),           TEST(kinds_that_begin_alike_are_placed_alike),
        TEST(when_there_is_nothing_to_pack), TEST(traces_are_bounded),
        TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("memtrack pack", tests, NULL, NULL);
}
