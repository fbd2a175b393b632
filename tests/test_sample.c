/* Drawing tokens: against a plain reference that sorts everything, by counts, and at the edges. */
#include <math.h>

#include "../nn/sample.h"
#include "../base/philox_.h"
#include "support.h"

enum { MOST = 301 };

static Tensor *logits_of(const float *values, int B, int V)
{
    return tensor_from(DTYPE_F32, SHAPE(B, V), MEM_INPUT, values);
}

static int32_t sampled(const float *values, int V, SampleOptions options, int64_t position)
{
    int32_t token = -1;
    int scope = tensor_scope_begin();
    assert_int_equal(nn_sample(logits_of(values, 1, V), &options, position, &token), 0);
    tensor_scope_end(scope);
    assert_in_range(token, 0, V - 1);
    return token;
}

/* ---- A plain reference ----------------------------------------------------------------------- */

typedef struct Pick {
    double weight;
    float score;
    int token;
} Pick;

static int larger_first(const void *a, const void *b)
{
    const Pick *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score) - (x->score > y->score) : x->token - y->token;
}

/* The candidates in the order in which they are walked, with weights as the library rounds them. Returns how
 * many. */
static int reference_picks(const float *logits, int V, SampleOptions o, Pick picks[MOST])
{
    float max = -INFINITY;
    double total = 0, sum = 0;
    int keep = o.top_k > 0 && o.top_k < V ? o.top_k : V, cut = keep < V || (o.top_p > 0 && o.top_p < 1);
    for (int i = 0; i < V; i++)
        max = logits[i] > max ? logits[i] : max;
    for (int i = 0; i < V; i++) {
        float score = logits[i] / o.temperature;
        picks[i] = (Pick){expf(score - max / o.temperature), score, i};
    }
    if (!cut)
        return V;
    qsort(picks, (size_t)V, sizeof *picks, larger_first);
    while (keep < V && picks[keep].score == picks[keep - 1].score) /* equal to the last of the top k */
        keep++;
    for (int i = 0; i < keep; i++)
        total += picks[i].weight;
    if (!(o.top_p > 0 && o.top_p < 1))
        return keep;
    for (int i = 0; i < keep; i++)
        if ((sum += picks[i].weight) >= (double)o.top_p * total)
            return i + 1;
    return keep;
}

static int reference_draw(const Pick *picks, int count, uint64_t seed, uint32_t position)
{
    Philox bits = philox4x32(seed, position, 0, 0, 0x5a);
    double unit = ((bits.v[0] >> 5) * 67108864.0 + (bits.v[1] >> 6)) / 9007199254740992.0, total = 0, sum = 0;
    for (int i = 0; i < count; i++)
        total += picks[i].weight;
    for (int i = 0; i < count; i++)
        if ((sum += picks[i].weight) > unit * total)
            return picks[i].token;
    return -1;
}

static void check_probabilities(const float *logits, int V, SampleOptions o, const Pick *picks, int count)
{
    float got[MOST];
    double total = 0;
    int scope = tensor_scope_begin();
    assert_int_equal(nn_sample_probabilities(logits_of(logits, 1, V), &o, got), 0);
    tensor_scope_end(scope);
    for (int i = 0; i < count; i++)
        total += picks[i].weight;
    for (int i = 0; i < count; i++) {
        assert_true(fabs(got[picks[i].token] - picks[i].weight / total) < 1e-7);
        got[picks[i].token] = 0;
    }
    for (int i = 0; i < V; i++)
        assert_true(got[i] == 0);
}

static void test_reference(void **state)
{
    (void)state;
    static const int sizes[] = {1, 2, 3, 17, 64, MOST}, ks[] = {0, 1, 2, 5, 63, 1000};
    static const float temperatures[] = {0.3f, 1, 5}, ps[] = {0, 0.1f, 0.5f, 0.97f, 1};
    float logits[MOST];
    Pick picks[MOST];
    for (uint32_t i = 0; i < 6 * 6 * 3 * 5; i++) {
        int V = sizes[i % 6];
        SampleOptions o = {.top_k = ks[i / 6 % 6],
                           .temperature = temperatures[i / 36 % 3],
                           .top_p = ps[i / 108],
                           .seed = 3 + i};
        fill_values(logits, V, i, 4, 0);
        for (int j = 0; j < V; j += 3) /* some are equal, some are impossible */
            logits[j] = j % 2 ? -INFINITY : roundf(logits[j]);
        int count = reference_picks(logits, V, o, picks);
        check_probabilities(logits, V, o, picks, count);
        for (uint32_t position = 0; position < 8; position++) {
            int expected = reference_draw(picks, count, o.seed, position);
            int token = sampled(logits, V, o, position);
            if (token != expected)
                fail_msg("V %d, temperature %g, top_k %d, top_p %g, position %u: %d, not %d", V,
                         (double)o.temperature, o.top_k, (double)o.top_p, position, token, expected);
        }
    }
}

/* ---- Counts ---------------------------------------------------------------------------------- */

/* Chi squared of many draws against their probabilities; every 1 in 10,000 seeds would fail, this one is
 * fixed. */
static void check_counts(const float *logits, int V, SampleOptions o, double largest)
{
    enum { DRAWS = 20000 };
    static int counts[MOST];
    Pick picks[MOST];
    int kept = reference_picks(logits, V, o, picks);
    double total = 0, chi = 0;
    memset(counts, 0, sizeof counts);
    for (int i = 0; i < DRAWS; i++)
        counts[sampled(logits, V, o, i)]++;
    int seen = 0;
    for (int i = 0; i < kept; i++) {
        total += picks[i].weight;
        seen += counts[picks[i].token];
    }
    assert_int_equal(seen, DRAWS); /* nothing that was cut off */
    for (int i = 0; i < kept; i++) {
        double expected = DRAWS * picks[i].weight / total, apart = counts[picks[i].token] - expected;
        chi += apart * apart / expected;
    }
    if (chi > largest)
        fail_msg("chi squared of %d tokens is %g", kept, chi);
}

static void test_counts(void **state)
{
    (void)state;
    float logits[10];
    for (int i = 0; i < 10; i++)
        logits[i] = (float)((i * 7) % 10) * 0.3f;
    check_counts(logits, 10, (SampleOptions){.temperature = 1, .seed = 1}, 33.7); /* 9 degrees */
    check_counts(logits, 10, (SampleOptions){.temperature = 0.5f, .top_k = 4, .seed = 2}, 21.1); /* 3 */
    check_counts(logits, 10, (SampleOptions){.temperature = 2, .top_p = 0.7f, .seed = 3}, 29);
}

/* ---- Edges ----------------------------------------------------------------------------------- */

static void test_edges(void **state)
{
    (void)state;
    float logits[6] = {1, 3, -INFINITY, 3, 2, 0};
    for (int position = 0; position < 50; position++) {
        assert_int_equal(sampled(logits, 6, (SampleOptions){0}, position), 1); /* the first of the largest */
        assert_int_equal(sampled(logits, 6, (SampleOptions){.top_k = 3, .top_p = 0.5f}, position), 1);
        int32_t either = sampled(logits, 6, (SampleOptions){.temperature = 1, .top_k = 1}, position);
        assert_true(either == 1 || either == 3); /* as large as the first of the top k */
        assert_int_equal(sampled(logits, 6, (SampleOptions){.temperature = 1, .top_p = 1e-9f}, position), 1);
        SampleOptions frozen = {.temperature = 1e-39f}; /* logit / temperature is infinite */
        either = sampled(logits, 6, frozen, position);
        assert_true(either == 1 || either == 3);
        SampleOptions all = {.temperature = 1, .seed = 5}, more = {.temperature = 1, .top_k = 99, .seed = 5};
        SampleOptions whole = {.temperature = 1, .top_p = 1, .seed = 5};
        int32_t token = sampled(logits, 6, all, position);
        assert_int_not_equal(token, 2); /* impossible */
        assert_int_equal(sampled(logits, 6, more, position), token);
        assert_int_equal(sampled(logits, 6, whole, position), token);
        SampleOptions cold = {.temperature = 1e-6f, .seed = 5};
        token = sampled(logits, 6, cold, position);
        assert_true(token == 1 || token == 3);
    }
    /* Rows are told apart, and the first is that of one alone. */
    float rows[12];
    int32_t tokens[2], differ = 0;
    memcpy(rows, logits, sizeof logits);
    memcpy(rows + 6, logits, sizeof logits);
    Tensor *both = logits_of(rows, 2, 6);
    SampleOptions o = {.temperature = 2, .seed = 9};
    for (int position = 0; position < 50; position++) {
        assert_int_equal(nn_sample(both, &o, position, tokens), 0);
        assert_int_equal(tokens[0], sampled(logits, 6, o, position));
        differ += tokens[0] != tokens[1];
    }
    assert_true(differ > 10);
    assert_int_equal(nn_sample(both, NULL, 0, tokens), 0); /* greedy */
    assert_int_equal(tokens[1], 1);
    float shares[12];
    assert_int_equal(nn_sample_probabilities(both, NULL, shares), 0);
    for (int i = 0; i < 12; i++)
        assert_true(shares[i] == (i % 6 == 1));
    assert_int_equal(books()->live_by[MEM_WORKSPACE], 0);
}

static void test_bad(void **state)
{
    (void)state;
    float logits[4] = {1, NAN, 2, 3};
    int32_t token;
    for (int warm = 0; warm < 2; warm++) {
        SampleOptions o = {.temperature = (float)warm};
        logits[1] = NAN;
        assert_int_equal(nn_sample(logits_of(logits, 2, 2), &o, 0, (int32_t[2]){0}), ERROR_NONFINITE);
        assert_error(ERROR_NONFINITE, "logit 1 of sequence 0", "nan");
        logits[1] = 0;
        logits[3] = INFINITY;
        nn_sample(logits_of(logits, 2, 2), &o, 0, (int32_t[2]){0});
        assert_error(ERROR_NONFINITE, "logit 1 of sequence 1", "inf");
        logits[3] = 3;
        nn_sample(logits_of((float[2]){-INFINITY, -INFINITY}, 1, 2), &o, 0, &token);
        assert_error(ERROR_NONFINITE, "every logit of sequence 0");
    }
    Tensor *fine = logits_of(logits, 1, 4);
    static const struct {
        SampleOptions options;
        const char *text;
    } cases[] = {{{.temperature = -0.5f}, "temperature is -0.5"},
                 {{.temperature = NAN}, "temperature is"},
                 {{.temperature = INFINITY}, "temperature is inf"},
                 {{.top_k = -1}, "top_k is -1"},
                 {{.top_p = -0.1f}, "top_p is -0.1"},
                 {{.top_p = 1.5f}, "top_p is 1.5"},
                 {{.top_p = NAN}, "top_p is"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(nn_sample(fine, &cases[i].options, 0, &token), ERROR_ARGUMENT);
        assert_error(ERROR_ARGUMENT, cases[i].text);
        assert_int_equal(nn_sample_probabilities(fine, &cases[i].options, logits), ERROR_ARGUMENT);
        assert_error(ERROR_ARGUMENT, cases[i].text);
    }
    assert_int_equal(nn_sample(values(SHAPE(2, 3, 4), 1, 1), NULL, 0, &token), ERROR_SHAPE);
    assert_error(ERROR_SHAPE, "(batch,vocabulary)", "(2,3,4)");
    assert_int_equal(nn_sample(NULL, NULL, 0, &token), 0);
    for (uint64_t n = 1; n <= 4; n++) {
        memtrack_fail_nth(n);
        SampleOptions o = {.temperature = 1};
        assert_int_not_equal(nn_sample(fine, &o, 0, &token), 0);
        memtrack_fail_nth(0);
        error_clear();
        assert_int_equal(books()->live_by[MEM_WORKSPACE], 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_reference, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_counts, fresh_context2, leave_context),
        cmocka_unit_test_setup_teardown(test_edges, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_bad, fresh_context, leave_context),
    };
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
