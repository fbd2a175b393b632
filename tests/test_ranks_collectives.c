/* What ranks send each other: sums in the order of ranks for every type and size, parts, the library's order
 * beyond 16 ranks, what is planned of it, and allocations that fail. */
#include "../base/half_.h"
#include "../kernels/kernels.h"
#include "../tensor/ranks_.h"
#include "rank_threads.h"
#include "support.h"

enum { MOST = 20, LARGEST = 70000 };

typedef struct Sum {
    DType type;
    int64_t n;
    int parts, add; /* parts: of collective_sum_parts */
    int replicas;   /* 0, 1: all ranks are one */
    RankReduce reduce;
    uint64_t fail; /* the n-th allocation of whichever rank; 0 = none */

    float result[MOST][LARGEST]; /* of each rank; of parts its own */
    int64_t each;
    RankTraffic traffic[MOST], planned[MOST];
    uint64_t needs[MOST], needs_planned[MOST];
    int wrong[MOST];
} Sum;

static int shards_of(const Sum *s, int ranks)
{
    return ranks / (s->replicas > 1 ? s->replicas : 1);
}

static float value_of(int rank, int64_t i)
{
    return value_at((uint32_t)(900 + rank), (uint32_t)i, 1, 0);
}

static float kept(DType type, float x)
{
    return type == DTYPE_F32    ? x
           : type == DTYPE_BF16 ? half_from_bf16(half_to_bf16(x))
                                : half_from_f16(half_to_f16(x));
}

/* In the order of ranks; or backwards, as the threads' transport does it: each replica's, and then theirs. */
static float expected(const Sum *s, int ranks, int64_t i)
{
    int library = s->type == DTYPE_F32 && (s->reduce == RANKS_REDUCE_LIBRARY ||
                                           (s->reduce == RANKS_REDUCE_AUTO && ranks > RANKS_ORDERED));
    int shards = shards_of(s, ranks);
    float sum = 0;
    for (int k = 0; k < ranks && !library; k++)
        sum = k ? sum + kept(s->type, value_of(k, i)) : kept(s->type, value_of(k, i));
    for (int replica = ranks / shards - 1; replica >= 0 && library; replica--) {
        float own = 0;
        for (int k = shards - 1; k >= 0; k--)
            own += value_of(replica * shards + k, i);
        sum += own;
    }
    if (s->parts)
        return s->add ? 1 + sum : sum;
    return kept(s->type, sum);
}

static int one(const Sum *s, const Ranks *ranks, float *result)
{
    Context *c = context_current();
    Tensor *x = tensor_new(s->type, SHAPE(s->n), MEM_GRADIENT);
    Tensor *part = s->parts ? tensor_new(DTYPE_F32, SHAPE(s->each), MEM_GRADIENT) : NULL;
    float *values = test_malloc((size_t)s->n * sizeof *values);
    for (int64_t i = 0; i < s->n; i++)
        values[i] = value_of(ranks->rank, i);
    int failed = !x || (s->parts && !part);
    if (!failed && !context_is_meta(c)) {
        c->kernels->copy(DTYPE_F32, s->type, s->n, values, storage_data(x->storage), &c->run);
        if (part)
            tensor_fill(part, 1);
    }
    if (!failed && s->parts)
        failed = collective_sum_parts(c, &(SumParts){.group = shard_group(c),
                                                     .type = s->type,
                                                     .to_type = DTYPE_F32,
                                                     .n = s->n,
                                                     .each = s->each,
                                                     .from = storage_data(x->storage),
                                                     .to = storage_data(part->storage),
                                                     .add = s->add});
    else if (!failed)
        failed = collective_sum(c, RANKS_ALL, s->type, s->n, x->storage);
    if (!failed && result && s->parts)
        memcpy(result, storage_f32(part->storage), (size_t)s->each * sizeof *result);
    else if (!failed && result)
        c->kernels->copy(s->type, DTYPE_F32, s->n, storage_data(x->storage), result, &c->run);
    test_free(values);
    tensor_free(part);
    tensor_free(x);
    return failed;
}

static int body(const Ranks *ranks, void *user)
{
    Sum *s = user;
    int r = ranks->rank;
    Ranks alone = *ranks;
    alone.transport = NULL;
    Context *meta = context_create(&(ContextOptions){.meta = 1, .threads = 1, .ranks = &alone});
    Context *real = context_create(&(ContextOptions){.threads = 1, .ranks = ranks});
    Context *outside = context_use(meta);
    int failed = one(s, ranks, NULL);
    s->planned[r] = context_traffic_(meta);
    s->needs_planned[r] = memtrack_stats(context_ledger(meta))->needs;
    context_use(real);
    const Transport *t = ranks->transport;
    t->barrier(t->self, RANKS_ALL);
    if (r == 0)
        memtrack_fail_nth(s->fail);
    t->barrier(t->self, RANKS_ALL);
    failed = failed || one(s, ranks, s->result[r]);
    s->traffic[r] = context_traffic_(real);
    s->needs[r] = memtrack_stats(context_ledger(real))->needs;
    s->wrong[r] = memtrack_stats(context_ledger(real))->live != 0;
    context_use(outside);
    context_destroy(meta);
    context_destroy(real);
    return failed;
}

static void check(Sum *s, int ranks)
{
    int64_t unit = s->type == DTYPE_F32 ? 16 : 32;
    int shards = shards_of(s, ranks);
    s->each = ((s->n + shards - 1) / shards + unit - 1) / unit * unit;
    const Ranks is = {.size = ranks, .strategy = RANKS_ZERO2, .replicas = s->replicas, .reduce = s->reduce};
    assert_int_equal(as_these_ranks(&is, body, s), 0);
    for (int r = 0; r < ranks; r++) {
        int64_t first = s->parts ? r % shards * s->each : 0,
                end = s->parts && first + s->each < s->n ? first + s->each : s->n;
        for (int64_t i = first; i < end; i++)
            if (s->result[r][i - first] != expected(s, ranks, i))
                fail_msg("%s, n %lld, %d ranks, parts %d: rank %d has %.9g at %lld, not %.9g",
                         dtype_name(s->type), (long long)s->n, ranks, s->parts, r,
                         (double)s->result[r][i - first], (long long)i, (double)expected(s, ranks, i));
        assert_memory_equal(&s->traffic[r], &s->planned[r], sizeof s->traffic[r]);
        assert_memory_equal(&s->traffic[r], &s->traffic[0], sizeof s->traffic[r]);
        assert_int_equal(s->needs[r], s->needs_planned[r]);
        assert_false(s->wrong[r]);
    }
}

static const int64_t sizes[] = {1, 15, 17, 100, 1023, 4097, LARGEST};

static void test_sums(void **state)
{
    (void)state;
    static const int counts[] = {2, 3, 4, 7};
    Sum *s = test_calloc(1, sizeof *s);
    for (size_t t = 0; t < 3; t++)
        for (size_t i = 0; i < COUNT(sizes); i++)
            for (size_t c = 0; c < COUNT(counts); c++) {
                s->type = (DType[]){DTYPE_F32, DTYPE_BF16, DTYPE_F16}[t];
                s->n = sizes[i];
                for (s->parts = 0; s->parts < 2; s->parts++)
                    for (s->add = 0; s->add <= s->parts; s->add++)
                        check(s, counts[c]);
            }
    test_free(s);
}

/* More ranks than are summed in order: the library's sums, in its own. */
static void test_many_ranks(void **state)
{
    (void)state;
    Sum *s = test_calloc(1, sizeof *s);
    for (size_t t = 0; t < 2; t++)
        for (s->parts = 0; s->parts < 2; s->parts++) {
            s->type = t ? DTYPE_BF16 : DTYPE_F32;
            s->n = 4097;
            check(s, 18);
        }
    test_free(s);
}

/* Replicas: in order the sum is that of all ranks, whoever has which part of it. */
static void test_replicas(void **state)
{
    (void)state;
    static const int shapes[][2] = {{4, 2}, {6, 2}, {6, 3}, {9, 3}, {20, 2}};
    Sum *s = test_calloc(1, sizeof *s);
    s->parts = 1;
    for (size_t t = 0; t < 3; t++)
        for (size_t i = 0; i < COUNT(sizes); i += 2)
            for (size_t c = 0; c < COUNT(shapes); c++) {
                s->type = (DType[]){DTYPE_F32, DTYPE_BF16, DTYPE_F16}[t];
                s->n = sizes[i];
                s->replicas = shapes[c][1];
                s->add = (int)c % 2;
                check(s, shapes[c][0]);
            }
    test_free(s);
}

/* Whose order it is, whatever the number of ranks; of 16 bits always that of ranks. */
static void test_the_order_is_chosen(void **state)
{
    (void)state;
    Sum *s = test_calloc(1, sizeof *s);
    s->n = 1023;
    for (int reduce = RANKS_REDUCE_ORDERED; reduce <= RANKS_REDUCE_LIBRARY; reduce++)
        for (size_t t = 0; t < 2; t++)
            for (s->parts = 0; s->parts < 2; s->parts++)
                for (int ranks = 4; ranks <= 18; ranks += 14)
                    for (s->replicas = 1; s->replicas <= 1 + s->parts; s->replicas++) {
                        s->type = t ? DTYPE_BF16 : DTYPE_F32;
                        s->reduce = (RankReduce)reduce;
                        check(s, ranks);
                    }
    test_free(s);
}

/* Whichever it is: memory that one rank lacks ends all of them, and nothing stays behind. */
static void test_every_allocation_fails(void **state)
{
    (void)state;
    Sum *s = test_calloc(1, sizeof *s);
    s->parts = 1;
    for (int form = 0; form < 3; form++) {
        s->n = 1023;
        s->replicas = form ? 2 : 1;
        s->reduce = form == 2 ? RANKS_REDUCE_LIBRARY : RANKS_REDUCE_ORDERED;
        s->type = form == 1 ? DTYPE_BF16 : DTYPE_F32;
        s->each = 1024; /* enough */
        const Ranks is = {.size = 4, .strategy = RANKS_ZERO2, .replicas = s->replicas, .reduce = s->reduce};
        uint64_t live = memtrack_process_live();
        int pending = 0;
        for (s->fail = 1; !pending; s->fail++) {
            int failed = as_these_ranks(&is, body, s);
            pending = memtrack_fail_pending();
            memtrack_fail_nth(0);
            assert_int_equal(failed, pending ? 0 : 4);
            assert_int_equal(memtrack_process_live(), live);
            for (int r = 0; r < 4; r++)
                assert_false(s->wrong[r]);
            assert_true(s->fail < 100);
        }
        assert_true(s->fail > 4);
    }
    test_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums), cmocka_unit_test(test_many_ranks), cmocka_unit_test(test_replicas),
        cmocka_unit_test(test_the_order_is_chosen), cmocka_unit_test(test_every_allocation_fails)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
