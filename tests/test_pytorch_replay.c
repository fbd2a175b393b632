/* The replay of PyTorch's caching allocator: each rule by its boundary values, the blocks always tile their
 * segments, and any trace agrees with a second implementation that is as plain as can be. */
#include "../estimate/pytorch_allocator.h"
#include "support.h"

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)

static int fresh(void **state)
{
    *state = estimate_pytorch_create(NULL);
    return *state ? 0 : -1;
}

static int gone(void **state)
{
    estimate_pytorch_destroy(*state);
    return memtrack_process_live() ? -1 : 0;
}

static const PytorchBooks *after_alloc(PytorchReplay *r, uint64_t serial, uint64_t bytes)
{
    assert_int_equal(estimate_pytorch_alloc(r, serial, bytes), 0);
    return estimate_pytorch_books(r);
}

static void rounds_to_512(void **state)
{
    static const uint64_t rows[][2] = {{1, 512},    {511, 512},   {512, 512},
                                       {513, 1024}, {1024, 1024}, {1025, 1536}};
    uint64_t sum = 0;
    for (size_t i = 0; i < COUNT(rows); i++) {
        const PytorchBooks *b = after_alloc(*state, i + 1, rows[i][0]);
        assert_int_equal(b->allocated - sum, rows[i][1]);
        sum += rows[i][1];
    }
    assert_int_equal(estimate_pytorch_books(*state)->reserved, MIB(2)); /* all in one small segment */
}

/* What one request in an empty allocator reserves. */
static void segment_sizes(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes, reserved;
        int small;
    } rows[] = {
        {1, MIB(2), 1},
        {MIB(1), MIB(2), 1},
        {MIB(1) + 1, MIB(20), 0}, /* rounds to 1 MiB + 512 */
        {MIB(10) - 512, MIB(20), 0},
        {MIB(10) - 511, MIB(10), 0}, /* rounds to 10 MiB: its own segment */
        {MIB(10), MIB(10), 0},
        {MIB(10) + 1, MIB(12), 0},
        {MIB(12), MIB(12), 0},
        {MIB(1000) + 1, MIB(1002), 0},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        PytorchReplay *r = estimate_pytorch_create(NULL);
        const PytorchBooks *b = after_alloc(r, 1, rows[i].bytes);
        assert_int_equal(b->reserved, rows[i].reserved);
        assert_int_equal(b->small_segments, rows[i].small);
        assert_int_equal(b->large_segments, !rows[i].small);
        estimate_pytorch_destroy(r);
    }
}

/* The rest of a large block is split off only when it is more than 1 MiB: until then it counts as allocated.
 */
static void large_rests(void **state)
{
    const PytorchBooks *b = after_alloc(*state, 1, MIB(11) + 1); /* segment of 12 MiB, rest 1 MiB - 512 */
    assert_int_equal(b->allocated, MIB(12));
    assert_int_equal(b->requested, MIB(11) + 1);
    b = after_alloc(*state, 2, MIB(19)); /* segment of 20 MiB, rest exactly 1 MiB */
    assert_int_equal(b->allocated, MIB(32));
    b = after_alloc(*state, 3, MIB(9)); /* segment of 20 MiB, rest 11 MiB: split */
    assert_int_equal(b->allocated, MIB(41));
    assert_int_equal(b->reserved, MIB(52));
    b = after_alloc(*state, 4, MIB(10)); /* from those 11 MiB; the rest of 1 MiB stays with it */
    assert_int_equal(b->allocated, MIB(52));
    assert_int_equal(b->reserved, MIB(52));
}

static void small_rests(void **state)
{
    for (uint64_t i = 1; i <= 4096; i++)
        after_alloc(*state, i, 512);
    assert_int_equal(estimate_pytorch_books(*state)->reserved, MIB(2)); /* split down to the last 512 bytes */
    assert_int_equal(after_alloc(*state, 4097, 1)->reserved, MIB(4));
}

/* Small requests never take from large segments, nor the other way round. */
static void pools_are_apart(void **state)
{
    after_alloc(*state, 1, MIB(5));
    assert_int_equal(estimate_pytorch_free(*state, 1), 0);
    assert_int_equal(after_alloc(*state, 2, MIB(1))->reserved, MIB(22));
    assert_int_equal(after_alloc(*state, 3, MIB(1) + 512)->reserved, MIB(22));
}

typedef struct Found {
    uint64_t serial, segment, offset;
} Found;

static int find(void *user, const PytorchBlock *b)
{
    Found *found = user;
    if (b->serial != found->serial)
        return 0;
    found->segment = b->segment;
    found->offset = b->offset;
    return 7;
}

static Found where(const PytorchReplay *r, uint64_t serial)
{
    Found found = {.serial = serial};
    assert_int_equal(estimate_pytorch_blocks(r, find, &found), 7);
    return found;
}

static void tightest_then_lowest(void **state)
{
    PytorchReplay *r = *state;
    static const uint64_t sizes[] = {40, 1, 20, 1, 30, 1, 20, 1};
    for (size_t i = 0; i < COUNT(sizes); i++) /* KiB, one after the other from 0 */
        after_alloc(r, i + 1, KIB(sizes[i]));
    for (uint64_t i = 1; i <= 7; i += 2)
        assert_int_equal(estimate_pytorch_free(r, i), 0);
    after_alloc(r, 11, KIB(19)); /* of the two gaps of 20 the lower */
    assert_int_equal(where(r, 11).offset, KIB(41));
    after_alloc(r, 12, KIB(20));
    assert_int_equal(where(r, 12).offset, KIB(93));
    after_alloc(r, 13, KIB(25)); /* 30, not 40 */
    assert_int_equal(where(r, 13).offset, KIB(62));
    assert_int_equal(where(r, 13).segment, 0);
}

static int count_blocks(void *user, const PytorchBlock *b)
{
    (void)b;
    ++*(int *)user;
    return 0;
}

static int blocks(const PytorchReplay *r)
{
    int count = 0;
    assert_int_equal(estimate_pytorch_blocks(r, count_blocks, &count), 0);
    return count;
}

static void merges_with_both_neighbours(void **state)
{
    PytorchReplay *r = *state;
    for (uint64_t i = 1; i <= 3; i++)
        after_alloc(r, i, KIB(100));
    assert_int_equal(blocks(r), 4); /* and the rest */
    estimate_pytorch_free(r, 1);
    assert_int_equal(blocks(r), 4);
    estimate_pytorch_free(r, 3); /* with the rest */
    assert_int_equal(blocks(r), 3);
    estimate_pytorch_free(r, 2);
    assert_int_equal(blocks(r), 1);
    assert_int_equal(after_alloc(r, 4, MIB(1))->reserved, MIB(2));
    assert_int_equal(after_alloc(r, 5, MIB(1))->reserved, MIB(2));
}

/* Segments stay, and two free ones side by side are not one. */
static void segments_are_kept(void **state)
{
    PytorchReplay *r = *state;
    after_alloc(r, 1, MIB(10));
    after_alloc(r, 2, MIB(10));
    estimate_pytorch_free(r, 1);
    estimate_pytorch_free(r, 2);
    const PytorchBooks *b = estimate_pytorch_books(r);
    assert_int_equal(b->allocated, 0);
    assert_int_equal(b->requested, 0);
    assert_int_equal(b->reserved, MIB(20));
    assert_int_equal(after_alloc(r, 3, MIB(20))->reserved, MIB(40));
    assert_int_equal(b->peak_allocated, MIB(20));
    assert_int_equal(b->peak_requested, MIB(20));
    assert_int_equal(b->peak_reserved, MIB(40));
}

static void refusals(void **state)
{
    PytorchReplay *r = *state;
    assert_int_equal(estimate_pytorch_free(r, 1), 1);
    assert_int_equal(estimate_pytorch_alloc(r, 1, 0), 0); /* nothing happens */
    assert_int_equal(estimate_pytorch_free(r, 1), 1);
    assert_int_equal(estimate_pytorch_alloc(r, 0, 10), 1);
    assert_int_equal(estimate_pytorch_alloc(r, 1, UINT64_MAX), 1);
    assert_int_equal(estimate_pytorch_alloc(r, 1, 10), 0);
    assert_int_equal(estimate_pytorch_alloc(r, 1, 10), 1);
    assert_int_equal(estimate_pytorch_free(r, 0), 1);
    assert_int_equal(estimate_pytorch_free(r, 1), 0);
    assert_int_equal(estimate_pytorch_free(r, 1), 1);
    assert_int_equal(estimate_pytorch_books(r)->reserved, MIB(2));
    assert_int_equal(blocks(r), 1);
}

/* ---- Against a plain model ------------------------------------------------------------------- */

/* The same rules with one list of blocks in address order, searched from end to end. */
enum { MODEL_MOST = 4096 };

typedef struct Model {
    PytorchBlock list[MODEL_MOST];
    size_t count;
    uint64_t segments, reserved, allocated;
} Model;

static void model_insert(Model *m, size_t at, PytorchBlock block)
{
    assert_true(m->count < MODEL_MOST);
    memmove(m->list + at + 1, m->list + at, (m->count++ - at) * sizeof *m->list);
    m->list[at] = block;
}

static void model_alloc(Model *m, uint64_t serial, uint64_t bytes)
{
    uint64_t rounded = (bytes + 511) / 512 * 512;
    int small = rounded <= MIB(1);
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < m->count; i++) {
        const PytorchBlock *b = &m->list[i];
        if (!b->serial && b->small == small && b->bytes >= rounded &&
            (best == SIZE_MAX || b->bytes < m->list[best].bytes))
            best = i;
    }
    if (best == SIZE_MAX) {
        uint64_t size = small               ? MIB(2)
                        : rounded < MIB(10) ? MIB(20)
                                            : (rounded + MIB(2) - 1) / MIB(2) * MIB(2);
        best = m->count;
        model_insert(m, best, (PytorchBlock){.segment = m->segments++, .small = small, .bytes = size});
        m->reserved += size;
    }
    PytorchBlock *b = &m->list[best], rest = *b;
    rest.bytes -= rounded;
    rest.offset += rounded;
    b->serial = serial;
    b->requested = bytes;
    if (small ? rest.bytes >= 512 : rest.bytes > MIB(1)) {
        b->bytes = rounded;
        model_insert(m, best + 1, rest);
    }
    m->allocated += m->list[best].bytes;
}

static void model_join(Model *m, size_t at)
{
    PytorchBlock *b = &m->list[at];
    if (at + 1 >= m->count || b->serial || b[1].serial || b->segment != b[1].segment)
        return;
    b->bytes += b[1].bytes;
    memmove(b + 1, b + 2, (--m->count - at - 1) * sizeof *b);
}

static void model_free(Model *m, uint64_t serial)
{
    size_t at = 0;
    while (m->list[at].serial != serial)
        at++;
    m->allocated -= m->list[at].bytes;
    m->list[at].serial = m->list[at].requested = 0;
    model_join(m, at);
    if (at > 0)
        model_join(m, at - 1);
}

typedef struct Walk {
    const Model *model;
    size_t at;
} Walk;

static int same_block(void *user, const PytorchBlock *b)
{
    Walk *walk = user;
    const PytorchBlock *m = &walk->model->list[walk->at++];
    return b->segment != m->segment || b->small != m->small || b->offset != m->offset ||
           b->bytes != m->bytes || b->requested != m->requested || b->serial != m->serial;
}

static uint64_t some_size(uint32_t x)
{
    static const uint64_t edges[] = {1,      511,        512,           513,     MIB(1) - 1,
                                     MIB(1), MIB(1) + 1, MIB(10) - 512, MIB(10), MIB(20)};
    if (x % 8 == 0)
        return edges[x / 8 % COUNT(edges)];
    return 1 + hash32(x) % (UINT32_C(1) << (x % 24));
}

static void any_trace_agrees(void **state)
{
    static Model model;
    for (uint32_t seed = 1; seed <= 20; seed++) {
        PytorchReplay *r = estimate_pytorch_create(NULL);
        model = (Model){0};
        uint64_t live[400], next = 1;
        size_t count = 0;
        for (uint32_t i = 0; i < 3000; i++) {
            uint32_t x = hash32(seed * 100003 + i);
            int grow = count == 0 || (count < COUNT(live) && x % 100 < (i / 500 % 2 ? 40 : 62));
            if (grow) {
                uint64_t bytes = some_size(x / 128);
                model_alloc(&model, next, bytes);
                assert_int_equal(estimate_pytorch_alloc(r, next, bytes), 0);
                live[count++] = next++;
            } else {
                size_t at = x / 128 % count;
                model_free(&model, live[at]);
                assert_int_equal(estimate_pytorch_free(r, live[at]), 0);
                live[at] = live[--count];
            }
            const PytorchBooks *b = estimate_pytorch_books(r);
            assert_int_equal(b->allocated, model.allocated);
            assert_int_equal(b->reserved, model.reserved);
            if (i % 50)
                continue;
            Walk walk = {&model, 0};
            assert_int_equal(estimate_pytorch_blocks(r, same_block, &walk), 0);
            assert_int_equal(walk.at, model.count);
        }
        estimate_pytorch_destroy(r);
    }
    (void)state;
}

/* Serials of any size and order: the table of them keeps all apart. */
static void strange_serials(void **state)
{
    for (uint64_t i = 1; i <= 500; i++)
        after_alloc(*state, i << 44, 600);
    for (uint64_t i = 500; i >= 1; i -= 2)
        assert_int_equal(estimate_pytorch_free(*state, i << 44), 0);
    for (uint64_t i = 1; i <= 500; i++)
        assert_int_equal(estimate_pytorch_free(*state, i << 44), i % 2 == 0);
    assert_int_equal(estimate_pytorch_books(*state)->requested, 0);
    assert_int_equal(blocks(*state), 1);
}

/* Each allocation of host memory fails once; what was refused has changed nothing and can be repeated. */
static void failing_allocations(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        memtrack_fail_nth(n);
        PytorchReplay *r = estimate_pytorch_create(NULL);
        for (uint64_t i = 1; r && i <= 300; i++) {
            PytorchBooks before = *estimate_pytorch_books(r);
            int status = estimate_pytorch_alloc(r, i, 700 * i);
            if (!status)
                continue;
            assert_int_equal(status, -1);
            assert_memory_equal(&before, estimate_pytorch_books(r), sizeof before);
            assert_int_equal(estimate_pytorch_alloc(r, i, 700 * i), 0);
        }
        if (r)
            assert_int_equal(estimate_pytorch_books(r)->requested, 700 * 300 * 301 / 2);
        estimate_pytorch_destroy(r);
        assert_int_equal(memtrack_process_live(), 0);
        int over = memtrack_fail_pending();
        memtrack_fail_nth(0);
        if (over)
            break;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rounds_to_512, fresh, gone),
        cmocka_unit_test(segment_sizes),
        cmocka_unit_test_setup_teardown(large_rests, fresh, gone),
        cmocka_unit_test_setup_teardown(small_rests, fresh, gone),
        cmocka_unit_test_setup_teardown(pools_are_apart, fresh, gone),
        cmocka_unit_test_setup_teardown(tightest_then_lowest, fresh, gone),
        cmocka_unit_test_setup_teardown(merges_with_both_neighbours, fresh, gone),
        cmocka_unit_test_setup_teardown(segments_are_kept, fresh, gone),
        cmocka_unit_test_setup_teardown(refusals, fresh, gone),
        cmocka_unit_test_setup_teardown(strange_serials, fresh, gone),
        cmocka_unit_test(any_trace_agrees),
        cmocka_unit_test(failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
