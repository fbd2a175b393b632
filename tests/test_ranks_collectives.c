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

    float result[MOST][LARGEST]; /* of each rank; of parts its own */
    int64_t each;
    RankTraffic traffic[MOST], planned[MOST];
    uint64_t needs[MOST], needs_planned[MOST];
    int wrong[MOST];
} Sum;

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

/* In the order of ranks, or backwards, as the threads' transport does it. */
static float expected(const Sum *s, int ranks, int64_t i)
{
    float sum = 0;
    for (int k = 0; k < ranks; k++) {
        int r = ranks > RANKS_ORDERED && s->type == DTYPE_F32 ? ranks - 1 - k : k;
        sum = k ? sum + kept(s->type, value_of(r, i)) : kept(s->type, value_of(r, i));
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
        failed = collective_sum_parts(c, &(SumParts){.group = RANKS_DATA,
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
    s->each = ((s->n + ranks - 1) / ranks + unit - 1) / unit * unit;
    assert_int_equal(as_ranks(ranks, RANKS_ZERO2, body, s), 0);
    for (int r = 0; r < ranks; r++) {
        int64_t first = s->parts ? r * s->each : 0,
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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sums), cmocka_unit_test(test_many_ranks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
