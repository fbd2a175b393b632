/* Rotary positions: the frequencies and factors of every way of stretching them, heads that turn in part,
 * columns that do not, and what is refused. */
#include <limits.h>
#include <math.h>

#include "../tensor/tensor_.h"
#include "support.h"

/* The call fails with this code, the message holds the texts, and nothing was allocated. */
#define assert_refused(code, call, ...)                                                                      \
    do {                                                                                                     \
        assert_null(call);                                                                                   \
        assert_error(code, __VA_ARGS__);                                                                     \
        assert_int_equal(books()->live_by[MEM_TEMPORARY] + books()->live_by[MEM_WORKSPACE], 0);              \
    } while (0)

static const RopeDivisors divisors = {{1.0f, 1.05f, 1.1f, 1.25f, 1.5f, 2.0f, 2.5f, 3.0f},
                                      {1.0f, 1.5f, 2.25f, 4.0f, 7.5f, 12.0f, 20.0f, 31.5f}};

/* ---- Stretched positions --------------------------------------------------------------------- */

typedef struct Stretch {
    RopeScaling scaling;
    int seq; /* tokens, of which the 8th is looked at; 0 = 8 */
    double factor, frequency[8];
} Stretch;

/* Frequencies of 16-wide heads with theta 5000, as transformers 5.24 prints them, and what it multiplies
 * cosines and sines by. */
static const Stretch stretches[] = {
    {.scaling = {.kind = ROPE_SCALING_LLAMA3,
                 .factor = 8,
                 .low_freq_factor = 1,
                 .high_freq_factor = 4,
                 .original_max_seq = 100},
     .factor = 1,
     .frequency = {1.0, 0.344848841, 0.0458279438, 0.00512620853, 0.00176776701, 0.000609612325,
                   0.000210224098, 7.24955316e-05}},
    {.scaling = {.kind = ROPE_SCALING_LINEAR, .factor = 2.5f},
     .factor = 1,
     .frequency = {0.400000006, 0.137939543, 0.047568284, 0.0164038669, 0.00565685425, 0.00195075944,
                   0.000672717113, 0.000231985701}},
    {.scaling = {.kind = ROPE_SCALING_YARN, .factor = 4, .original_max_seq = 32},
     .factor = 1.138629436111989,
     .frequency = {1, 0.21553053, 0.0297301784, 0.0102524171, 0.00353553402, 0.00121922465, 0.000420448196,
                   0.000144991063}},
    {.scaling = {.kind = ROPE_SCALING_YARN,
                 .factor = 4,
                 .original_max_seq = 100,
                 .beta_fast = 8,
                 .beta_slow = 2,
                 .untruncated = 1},
     .factor = 1.138629436111989,
     .frequency = {1, 0.274550885, 0.0297301784, 0.0102524171, 0.00353553402, 0.00121922465, 0.000420448196,
                   0.000144991063}},
    {.scaling = {.kind = ROPE_SCALING_YARN,
                 .factor = 40,
                 .original_max_seq = 100,
                 .beta_fast = 64,
                 .beta_slow = 1.5f,
                 .mscale = 0.707f,
                 .mscale_all_dim = 1.25f},
     .factor = 0.8629082247654538,
     .frequency = {1, 0.232772946, 0.0416222475, 0.00102524168, 0.000353553361, 0.000121922472,
                   4.20448196e-05, 1.44991072e-05}},
    {.scaling = {.kind = ROPE_SCALING_YARN, .factor = 40, .original_max_seq = 1000, .attention_factor = 1.5f},
     .factor = 1.5,
     .frequency = {1, 0.344848841, 0.0899337903, 0.0210174546, 0.00380069902, 0.000121922472, 4.20448196e-05,
                   1.44991072e-05}},
    {.scaling = {.kind = ROPE_SCALING_YARN, .factor = 2, .original_max_seq = 6}, /* a ramp of no width */
     .factor = 1.0693147180559945,
     .frequency = {1, 0.172424421, 0.0594603568, 0.0205048341, 0.00707106804, 0.0024384493, 0.000840896391,
                   0.000289982127}},
    {.scaling = {.kind = ROPE_SCALING_LONGROPE, .factor = 16, .original_max_seq = 8, .divisors = &divisors},
     .factor = 1.5275252316519468,
     .frequency = {1, 0.328427494, 0.108109735, 0.0328077339, 0.00942809042, 0.0024384493, 0.000672717113,
                   0.000193321423}},
    {.scaling = {.kind = ROPE_SCALING_LONGROPE, .factor = 16, .original_max_seq = 7, .divisors = &divisors},
     .factor = 1.5571861637042914,
     .frequency = {1, 0.229899228, 0.0528536476, 0.0102524171, 0.00188561808, 0.000406408246, 8.40896391e-05,
                   1.84115634e-05}},
    {.scaling = {.kind = ROPE_SCALING_LONGROPE,
                 .factor = 16,
                 .original_max_seq = 7,
                 .attention_factor = 1.19f,
                 .divisors = &divisors},
     .factor = 1.19,
     .frequency = {1, 0.229899228, 0.0528536476, 0.0102524171, 0.00188561808, 0.000406408246, 8.40896391e-05,
                   1.84115634e-05}},
    {.scaling = {.kind = ROPE_SCALING_DYNAMIC, .factor = 3, .original_max_seq = 128},
     .factor = 1,
     .frequency = {1, 0.344848841, 0.118920714, 0.0410096683, 0.0141421361, 0.0048768986, 0.00168179278,
                   0.000579964253}},
    {.scaling = {.kind = ROPE_SCALING_DYNAMIC, .factor = 3, .original_max_seq = 128},
     .seq = 200,
     .factor = 1,
     .frequency = {1, 0.299428582, 0.089657478, 0.0268460121, 0.00803846307, 0.00240694545, 0.000720708282,
                   0.000215800654}},
};

enum { POSITION = 7, WIDTH = 16 };

static void test_stretches(void **state)
{
    (void)state;
    for (size_t c = 0; c < COUNT(stretches); c++) {
        const Stretch *s = &stretches[c];
        RopeOptions o = {.heads = 1, .theta = 5000, .scaling = s->scaling};
        Tensor *x = tensor_zeros(DTYPE_F32, SHAPE(1, s->seq ? s->seq : POSITION + 1, WIDTH), MEM_INPUT);
        for (int i = 0; i < 8; i++)
            tensor_f32(x)[POSITION * WIDTH + i] = 1; /* (1,0) turns to (cos, sin) */
        const float *y = tensor_f32(tensor_rope_with(x, &o)) + POSITION * WIDTH;
        for (int i = 0; i < 8; i++) {
            assert_float_equal(y[i], s->factor * cos(POSITION * s->frequency[i]), 1e-6);
            assert_float_equal(y[i + 8], s->factor * sin(POSITION * s->frequency[i]), 1e-6);
        }
        /* The rows behind the first six alone, told how long the whole is: the same bits. */
        Tensor *rest = tensor_zeros(DTYPE_F32, SHAPE(1, 2, WIDTH), MEM_INPUT);
        for (int i = 0; i < 8; i++)
            tensor_f32(rest)[WIDTH + i] = 1;
        o.first = 6;
        o.seq = (int)tensor_dim(x, 1);
        assert_memory_equal(tensor_f32(tensor_rope_with(rest, &o)) + WIDTH, y, WIDTH * sizeof(float));
    }
}

/* Which of its two lists longrope takes is decided by the length of the sequence, at every length. */
static void test_lengths(void **state)
{
    (void)state;
    RopeOptions o = {
        .heads = 1,
        .theta = 5000,
        .scaling = {
            .kind = ROPE_SCALING_LONGROPE, .factor = 16, .original_max_seq = 8, .divisors = &divisors}};
    for (int t = 1; t < 12; t++) {
        Tensor *x = tensor_zeros(DTYPE_F32, SHAPE(1, t, WIDTH), MEM_INPUT);
        tensor_fill(x, 1);
        const float *y = tensor_f32(tensor_rope_with(x, &o)) + (t - 1) * WIDTH;
        double by = (double)(t > 8 ? divisors.of_long : divisors.of_short)[3];
        double angle = (t - 1) / pow(5000, 6 / 16.0) / by, factor = sqrt(1 + log(16) / log(8));
        assert_float_equal(y[3], factor * (cos(angle) - sin(angle)), 1e-5);
        assert_float_equal(y[11], factor * (cos(angle) + sin(angle)), 1e-5);
    }
}

static void test_no_stretch(void **state)
{
    (void)state;
    Tensor *x = values(SHAPE(1, 8, WIDTH), 1, 1);
    const float *plain = tensor_f32(tensor_rope(x, 1, 5000));
    RopeOptions o = {.heads = 1, .theta = 5000};
    assert_memory_equal(plain, tensor_f32(tensor_rope_with(x, &o)), 8 * WIDTH * sizeof(float));
    for (size_t c = 0; c < COUNT(stretches); c++) {
        o.scaling = stretches[c].scaling;
        const float *y = tensor_f32(tensor_rope_with(x, &o));
        int same = o.scaling.kind == ROPE_SCALING_DYNAMIC; /* 8 are not more than 128 */
        assert_int_equal(!memcmp(plain, y, 8 * WIDTH * sizeof(float)), same);
    }
}

/* ---- Parts ----------------------------------------------------------------------------------- */

/* q, k and v side by side: q and k turn in one piece, to the bits that they turn to alone, in place, and v
 * stays; so do their gradients. */
static void test_fused(void **state)
{
    (void)state;
    enum { T = 5, H = 3, KV = 2, D = 6, Q = H * D, K = KV * D, ALL = Q + 2 * K };
    Tensor *x = leaf(SHAPE(2, T, ALL), 3, 1), *q = leaf(SHAPE(2, T, Q), 1, 1),
           *k = leaf(SHAPE(2, T, K), 1, 1);
    for (int row = 0; row < 2 * T; row++) {
        memcpy(tensor_f32(q) + row * Q, tensor_f32(x) + row * ALL, Q * sizeof(float));
        memcpy(tensor_f32(k) + row * K, tensor_f32(x) + row * ALL + Q, K * sizeof(float));
    }
    RopeOptions o = {.heads = H + KV, .theta = 100, .head_dim = D, .rotary_dim = 4};
    Tensor *made = tensor_scale(x, 1);
    const float *data = tensor_f32(made);
    uint64_t live = books()->live;
    Tensor *y = tensor_keep(tensor_rope_with(tensor_donate(made), &o));
    assert_int_equal(books()->live, live);
    assert_ptr_equal(tensor_f32(y), data);
    o.heads = H;
    const float *yq = tensor_f32(tensor_keep(tensor_rope_with(q, &o)));
    o.heads = KV;
    const float *yk = tensor_f32(tensor_keep(tensor_rope_with(k, &o)));
    for (int row = 0; row < 2 * T; row++) {
        const float *at = tensor_f32(y) + row * ALL, *from = tensor_f32(x) + row * ALL;
        assert_memory_equal(at, yq + row * Q, Q * sizeof(float));
        assert_memory_equal(at + Q, yk + row * K, K * sizeof(float));
        assert_memory_equal(at + Q + K, from + Q + K, K * sizeof(float));
        assert_memory_equal(at + 4, from + 4, 2 * sizeof(float)); /* the rest of a head */
    }
    tensor_backward(tensor_sum(y));
    const float *g = grad_f32(x);
    for (int row = 0; row < 2 * T; row++)
        for (int i = 0; i < 2 * K + Q; i++)
            if (i >= Q + K || i % D >= 4)
                assert_float_equal(g[row * ALL + i], 1, 0);
}

/* q, k and v side by side in each head: what q and k turn to alone, to the bit, and v stays. */
static void test_by_head(void **state)
{
    (void)state;
    enum { T = 5, H = 3, D = 6, ROW = H * D, ALL = 3 * ROW };
    Tensor *x = leaf(SHAPE(2, T, ALL), 3, 1),
           *part[2] = {leaf(SHAPE(2, T, ROW), 1, 1), leaf(SHAPE(2, T, ROW), 1, 1)};
    for (int i = 0; i < 2 * T * H; i++)
        for (int k = 0; k < 2; k++)
            memcpy(tensor_f32(part[k]) + i * D, tensor_f32(x) + (3 * i + k) * D, D * sizeof(float));
    RopeOptions o = {.heads = 2 * H, .theta = 100, .head_dim = D, .group = 2, .rotary_dim = 4};
    Tensor *made = tensor_scale(x, 1);
    const float *data = tensor_f32(made);
    Tensor *y = tensor_keep(tensor_rope_with(tensor_donate(made), &o));
    assert_ptr_equal(tensor_f32(y), data);
    o.heads = H;
    o.group = 0;
    for (int k = 0; k < 2; k++) {
        const float *alone = tensor_f32(tensor_keep(tensor_rope_with(part[k], &o)));
        for (int i = 0; i < 2 * T * H; i++)
            assert_memory_equal(data + (3 * i + k) * D, alone + i * D, D * sizeof(float));
    }
    for (int i = 0; i < 2 * T * H; i++)
        assert_memory_equal(data + (3 * i + 2) * D, tensor_f32(x) + (3 * i + 2) * D, D * sizeof(float));
    tensor_backward(tensor_sum(y));
    const float *g = grad_f32(x);
    for (int i = 0; i < 2 * T * ALL; i++)
        if (i % (3 * D) >= 2 * D || i % D >= 4)
            assert_float_equal(g[i], 1, 0);
}

/* ---- What is refused ------------------------------------------------------------------------- */

static void test_shapes(void **state)
{
    (void)state;
    Tensor *x = values(SHAPE(2, 3, 12), 1, 1), *flat = values(SHAPE(3, 12), 1, 1);
    Tensor *ids = integers(SHAPE(2, 3, 12), 2, 2);
    assert_refused(ERROR_SHAPE, tensor_rope(x, 4, 1e4f), "rope", "(2,3,12)", "4 heads", "even");
    assert_refused(ERROR_SHAPE, tensor_rope(x, 5, 1e4f), "rope", "(2,3,12)", "5 heads");
    assert_refused(ERROR_SHAPE, tensor_rope(x, 0, 1e4f), "rope", "0 heads");
    assert_refused(ERROR_SHAPE, tensor_rope(flat, 2, 1e4f), "rope", "(3,12)");
    assert_refused(ERROR_ARGUMENT, tensor_rope(ids, 2, 1e4f), "rope", "f32");
    static const struct {
        RopeOptions options;
        const char *says;
    } bad[] = {
        {{.heads = 3, .theta = 1, .head_dim = 6}, "3 heads of 6 do not fit into x (2,3,12)"},
        {{.heads = 3, .theta = 1, .head_dim = -2}, "3 heads of -2"},
        {{.heads = 2, .theta = 1, .head_dim = 5}, "of a head of 5 elements an even number can turn"},
        {{.heads = 2, .theta = 1, .rotary_dim = 3},
         "head of 6 elements an even number can turn, from 2 on, not 3"},
        {{.heads = 2, .theta = 1, .rotary_dim = 8},
         "head of 6 elements an even number can turn, from 2 on, not 8"},
        {{.heads = 2, .theta = 1, .rotary_dim = -2}, "not -2"},
        {{.heads = INT_MAX, .theta = 1, .head_dim = INT_MAX}, "do not fit"},
        {{.heads = 4, .theta = 1, .head_dim = 2, .group = 3}, "groups of 3 of its 4 heads of 2"},
        {{.heads = 4, .theta = 1, .head_dim = 2, .group = -2}, "groups of -2"},
        {{.heads = 3, .theta = 1, .head_dim = 2, .group = 6}, "groups of 6"},
        {{.heads = 5, .theta = 1, .head_dim = 2, .group = 1}, "as many columns behind each"},
        {{.heads = 4, .theta = 1, .head_dim = 2, .group = 1, .rotary_dim = 4}, "not 4"},
    };
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_refused(ERROR_SHAPE, tensor_rope_with(x, &bad[i].options), bad[i].says);
    RopeOptions o = {.heads = 2, .theta = 1e4f, .first = -1};
    assert_refused(ERROR_ARGUMENT, tensor_rope_with(x, &o), "rope", "3 positions from -1");
    o.first = INT_MAX - 2;
    assert_refused(ERROR_ARGUMENT, tensor_rope_with(x, &o), "rope", "positions");
    o = (RopeOptions){.heads = 2, .theta = 1e4f, .first = 4, .seq = 6};
    assert_refused(ERROR_ARGUMENT, tensor_rope_with(x, &o),
                   "3 positions from 4 on do not lie in a sequence of 6");
}

static void test_bad_scaling(void **state)
{
    (void)state;
    static const struct {
        RopeScaling scaling;
        float theta;
        const char *says;
    } bad[] = {
        {{.kind = ROPE_SCALING_LINEAR}, 5000, "factor above 0"},
        {{.kind = ROPE_SCALING_LLAMA3, .factor = -1}, 5000, "kind 2 and factor -1"},
        {{.kind = (RopeScalingKind)6, .factor = 1}, 5000, "kind 6"},
        {{.kind = ROPE_SCALING_LLAMA3,
          .factor = 8,
          .low_freq_factor = 4,
          .high_freq_factor = 1,
          .original_max_seq = 100},
         5000,
         "llama3 scaling needs 0 < low_freq_factor"},
        {{.kind = ROPE_SCALING_LLAMA3, .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4},
         5000,
         "llama3 scaling needs"},
        {{.kind = ROPE_SCALING_LLAMA3, .factor = 8, .high_freq_factor = 4, .original_max_seq = 100},
         5000,
         "llama3 scaling needs"},
        {{.kind = ROPE_SCALING_YARN, .original_max_seq = 9}, 5000, "factor above 0"},
        {{.kind = ROPE_SCALING_YARN, .factor = 4}, 5000, "needs original_max_seq"},
        {{.kind = ROPE_SCALING_YARN, .factor = 4, .original_max_seq = 9}, 1, "theta above 1"},
        {{.kind = ROPE_SCALING_DYNAMIC, .factor = 4}, 5000, "needs original_max_seq"},
        {{.kind = ROPE_SCALING_LONGROPE, .factor = 4, .original_max_seq = 1, .divisors = &divisors},
         5000,
         "of at least 2, not 1"},
        {{.kind = ROPE_SCALING_LONGROPE, .factor = 4, .original_max_seq = 9}, 5000, "divisors for 8 pairs"},
    };
    Tensor *x = tensor_zeros(DTYPE_F32, SHAPE(1, 2, 16), MEM_INPUT);
    for (size_t i = 0; i < COUNT(bad); i++) {
        RopeOptions o = {.heads = 1, .theta = bad[i].theta, .scaling = bad[i].scaling};
        assert_refused(ERROR_ARGUMENT, tensor_rope_with(x, &o), "rope", bad[i].says);
    }
    Tensor *wide = tensor_zeros(DTYPE_F32, SHAPE(1, 2, 258), MEM_INPUT);
    RopeOptions o = {.heads = 1, .theta = 5000, .scaling = stretches[7].scaling};
    assert_refused(ERROR_ARGUMENT, tensor_rope_with(wide, &o), "129 pairs", "at most 128");
    o = (RopeOptions){.heads = 8, .theta = 5000, .scaling = stretches[10].scaling};
    assert_refused(ERROR_ARGUMENT, tensor_rope_with(x, &o), "dynamic", "two pairs");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_stretches), TEST(test_lengths), TEST(test_no_stretch),  TEST(test_fused),
        TEST(test_by_head),   TEST(test_shapes),  TEST(test_bad_scaling),
    };
    return cmocka_run_group_tests_name("rope", tests, NULL, NULL);
}
