/* Updates of arrays that are not all f32: what a table writes is, bit for bit, what its f32 kernel makes of
 * the decoded arrays, rounded once: to nearest, at random, or to the nearest 8-bit code. */
#define SUPPORT_CARD
#include "kernels_support.h"

#include "../base/bits_.h"
#include "../base/half_.h"
#include "../base/quant_codes_.h"
#include "../kernels/draw.h"

typedef void Update(const UpdateArrays *, const UpdateScalars *, const UpdateControl *, const KernelRun *);

static const struct {
    const char *name;
    int states;
    UpdateScalars s;
} rules[] = {
    {"sgd", 0, {.lr = 0.1f, .weight_decay = 0.1f}},
    {"sgd", 1, {.lr = 0.1f, .momentum = 0.9f, .nesterov = 1}},
    {"rmsprop", 1, {.lr = 0.01f, .alpha = 0.9f, .eps = 1e-3f}},
    {"rmsprop", 2, {.lr = 0.01f, .alpha = 0.9f, .eps = 1e-3f, .momentum = 0.9f}},
    {"adagrad", 1, {.lr = 0.1f, .eps = 1e-2f}},
    {"adam", 2, {.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .weight_decay = 0.1f}},
    {"adam",
     2,
     {.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .weight_decay = 0.1f, .decoupled = 1}},
};
enum { RULES = sizeof rules / sizeof *rules, STEPS = 2 };

static Update *update_of(const Kernels *k, const char *name)
{
    return !strcmp(name, "sgd")       ? k->sgd
           : !strcmp(name, "rmsprop") ? k->rmsprop
           : !strcmp(name, "adagrad") ? k->adagrad
                                      : k->adam;
}

/* ---- Types of arrays ------------------------------------------------------------------------- */

static const struct Convention {
    DType p, g, state[UPDATE_STATES];
    int master, stochastic;
} conventions[] = {
    {DTYPE_F32, DTYPE_BF16, {DTYPE_F32, DTYPE_F32}, 0, 0},
    {DTYPE_BF16, DTYPE_BF16, {DTYPE_F32, DTYPE_F32}, 1, 0},
    {DTYPE_BF16, DTYPE_F32, {DTYPE_F32, DTYPE_F32}, 1, 1}, /* a master's copy is to nearest in any case */
    {DTYPE_F16, DTYPE_F16, {DTYPE_F32, DTYPE_F32}, 1, 0},
    {DTYPE_BF16, DTYPE_BF16, {DTYPE_BF16, DTYPE_BF16}, 0, 0},
    {DTYPE_BF16, DTYPE_BF16, {DTYPE_BF16, DTYPE_BF16}, 0, 1},
    {DTYPE_BF16, DTYPE_F32, {DTYPE_F32, DTYPE_F32}, 0, 1},
    {DTYPE_F32, DTYPE_F32, {DTYPE_DYNAMIC8, DTYPE_UDYNAMIC8}, 0, 0},
    {DTYPE_BF16, DTYPE_BF16, {DTYPE_DYNAMIC8, DTYPE_UDYNAMIC8}, 0, 1},
    {DTYPE_F16, DTYPE_F16, {DTYPE_DYNAMIC8, DTYPE_UDYNAMIC8}, 1, 0},
};
enum { CONVENTIONS = sizeof conventions / sizeof *conventions };

/* Memory for n elements, all zero. */
static void *take_array(DType type, int64_t n)
{
    return take((int64_t)(dtype_bytes(type, 1, n) + 3) / 4, 0.0f);
}

static float element(DType type, const void *array, int64_t n, int64_t i)
{
    if (type == DTYPE_F32)
        return ((const float *)array)[i];
    if (type == DTYPE_BF16)
        return half_from_bf16(((const uint16_t *)array)[i]);
    if (type == DTYPE_F16)
        return half_from_f16(((const uint16_t *)array)[i]);
    QuantLayout l = quant_layout(type, 1, n);
    return quant_dynamic8_value(type, &l, array, i);
}

static void decode(DType type, const void *array, int64_t n, float *to)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = element(type, array, n, i);
}

static uint32_t random_bits(const RoundingKey *key, int64_t update, int array, int64_t i)
{
    uint64_t block = (uint64_t)i / 8;
    Philox words = philox4x32(draw_rounding_key(key, block), (uint32_t)block, key->parameter,
                              (uint32_t)update, draw_rounding_last(update, array));
    return words.v[i % 8 / 2] >> i % 2 * 16 & 0xFFFFu;
}

/* The expected array of this type, in memory of its own. key NULL: to nearest. */
static void *encoded(DType type, int64_t n, const float *x, const RoundingKey *key, int64_t update, int array)
{
    void *to = take_array(type, n);
    QuantLayout l = {0};
    if (dtype_is_dynamic8(type))
        l = quant_layout(type, 1, n);
    for (int64_t i = 0; i < n; i++) {
        if (type == DTYPE_F32) {
            ((float *)to)[i] = x[i];
        } else if (type == DTYPE_F16) {
            ((uint16_t *)to)[i] = half_to_f16(x[i]);
        } else if (type == DTYPE_BF16) {
            uint32_t random = key ? random_bits(key, update, array, i) : 0;
            ((uint16_t *)to)[i] = key ? (uint16_t)((float_to_bits(x[i]) + random) >> 16) : half_to_bf16(x[i]);
        } else {
            const float *code = type == DTYPE_DYNAMIC8 ? dynamic_code : dynamic_code_unsigned;
            float *scale = (float *)((char *)to + l.scales) + i / DYNAMIC8_BLOCK, value;
            int64_t end = (i / DYNAMIC8_BLOCK + 1) * DYNAMIC8_BLOCK;
            for (int64_t j = i; i % DYNAMIC8_BLOCK == 0 && j < n && j < end; j++)
                *scale = fmaxf(*scale, fabsf(x[j]));
            value = *scale > 0 ? x[i] / *scale : 0;
            int nearest = 0;
            while (nearest < 255 && value > (code[nearest] + code[nearest + 1]) * 0.5f)
                nearest++;
            ((unsigned char *)to)[i] = (unsigned char)nearest;
        }
    }
    return to;
}

typedef struct Arrays {
    UpdateArrays a;
    float *plain[4]; /* what the f32 kernel reads and writes: p, g, states */
} Arrays;

static Arrays arrays_new(const struct Convention *c, int64_t n, int states, const RoundingKey *key)
{
    Arrays x = {.a = {.n = n,
                      .p = take_array(c->p, n),
                      .p_type = c->p,
                      .g = take_array(c->g, n),
                      .g_type = c->g,
                      .master = c->master ? take_random(n, 1) : NULL,
                      .rounding = c->stochastic ? key : NULL}};
    for (int i = 0; i < 2 + states; i++)
        x.plain[i] = take(n, 0);
    for (int i = 0; i < states; i++) {
        x.a.state[i] = take_array(c->state[i], n);
        x.a.state_type[i] = c->state[i];
    }
    float *start = x.a.master ? x.a.master : take_random(n, 1);
    memcpy(x.a.p, encoded(c->p, n, start, NULL, 0, 0), (size_t)dtype_bytes(c->p, 1, n));
    return x;
}

/* A gradient of this step, whose size differs from block to block. */
static void give_gradient(Arrays *x, int step)
{
    int64_t n = x->a.n;
    float *values = take_random(n, 1);
    for (int64_t i = 0; i < n; i++)
        values[i] *= i % 13 == step ? 0.0f : ldexpf(1, -(int)(i / 256 % 7));
    memcpy((void *)(uintptr_t)x->a.g, encoded(x->a.g_type, n, values, NULL, 0, 0),
           (size_t)dtype_bytes(x->a.g_type, 1, n));
}

static void assert_array(const char *what, DType type, int64_t n, const void *x, const void *expected)
{
    for (int64_t i = 0; i < n && memcmp(x, expected, (size_t)dtype_bytes(type, 1, n)) != 0; i++)
        if (element(type, x, n, i) != element(type, expected, n, i))
            fail_msg("%s[%lld] of %lld %s is %.9g, not %.9g", what, (long long)i, (long long)n,
                     dtype_name(type), (double)element(type, x, n, i), (double)element(type, expected, n, i));
    if (type != DTYPE_DYNAMIC8 && type != DTYPE_UDYNAMIC8) /* codes of a zero block may be any */
        assert_memory_equal(x, expected, (size_t)dtype_bytes(type, 1, n));
}

static void check_step(const Kernels *k, int rule, Arrays *x, UpdateScalars s, int threads)
{
    const UpdateControl control = {.grad_scale = 0.25f};
    UpdateArrays *a = &x->a, plain = {.n = a->n, .p = x->plain[0], .g = x->plain[1]};
    decode(a->master ? DTYPE_F32 : a->p_type, a->master ? a->master : a->p, a->n, x->plain[0]);
    decode(a->g_type, a->g, a->n, x->plain[1]);
    for (int i = 0; i < rules[rule].states; i++) {
        decode(a->state_type[i], a->state[i], a->n, x->plain[2 + i]);
        plain.state[i] = x->plain[2 + i];
    }
    update_of(k, rules[rule].name)(a, &s, &control, on(threads));
    update_of(k, rules[rule].name)(&plain, &s, &control, on(1));
    const RoundingKey *key = a->rounding;
    if (a->master)
        assert_same("master", a->n, a->master, x->plain[0]);
    assert_array("parameter", a->p_type, a->n, a->p,
                 encoded(a->p_type, a->n, x->plain[0], a->master ? NULL : key, s.step, 0));
    for (int i = 0; i < rules[rule].states; i++)
        assert_array(i ? "second state" : "first state", a->state_type[i], a->n, a->state[i],
                     encoded(a->state_type[i], a->n, x->plain[2 + i], key, s.step, i + 1));
}

static void check_typed(const Kernels *k, int64_t n, int threads)
{
    const RoundingKey key = {.seed = 42, .parameter = 3};
    for (int c = 0; c < CONVENTIONS; c++)
        for (int rule = 0; rule < RULES; rule++) {
            int eight = conventions[c].state[0] == DTYPE_DYNAMIC8;
            if (eight && strcmp(rules[rule].name, "adam") != 0)
                continue;
            Arrays x = arrays_new(&conventions[c], n, rules[rule].states, &key);
            UpdateScalars s = rules[rule].s;
            for (s.step = 1; s.step <= STEPS; s.step++) {
                give_gradient(&x, (int)s.step);
                check_step(k, rule, &x, s, threads);
            }
            release();
        }
}

static void test_typed(void **state)
{
    static const int64_t lengths[] = {1, 7, 33, 255, 1025, 4099, 16385};
    (void)state;
    forget();
    for (int i = 0; i < SUPPORT_TABLES; i++)
        for (size_t n = 0; support_table(i) && n < sizeof lengths / sizeof *lengths; n++)
            for (int threads = 1; threads <= (lengths[n] > 16384 ? support_threads(i) : 1); threads += 2)
                check_typed(support_table(i), lengths[n], threads);
    check_typed(kernels_reference(), 300, 1);
}

/* With control->skip nothing is written, whatever the types. */
static void test_skip(void **state)
{
    const RoundingKey key = {.seed = 1};
    const UpdateControl control = {.skip = 1, .grad_scale = 1};
    (void)state;
    forget();
    for (int i = 0; i < SUPPORT_TABLES; i++)
        for (int c = 0; support_table(i) && c < CONVENTIONS; c++) {
            enum { N = 5000 };
            Arrays x = arrays_new(&conventions[c], N, 2, &key);
            give_gradient(&x, 1);
            UpdateScalars s = rules[RULES - 1].s;
            s.step = 1;
            const UpdateArrays *a = &x.a;
            support_table(i)->adam(a, &s, &(UpdateControl){.grad_scale = 1}, on(2));
            const void *arrays[] = {a->p, a->master, a->state[0], a->state[1]};
            const DType types[] = {a->p_type, DTYPE_F32, a->state_type[0], a->state_type[1]};
            void *before[4];
            for (int k = 0; k < 4; k++) {
                size_t bytes = (size_t)dtype_bytes(types[k], 1, N);
                before[k] = take_array(types[k], N);
                if (arrays[k])
                    memcpy(before[k], arrays[k], bytes);
            }
            s.step = 2;
            support_table(i)->adam(a, &s, &control, on(2));
            for (int k = 0; k < 4; k++)
                if (arrays[k])
                    assert_memory_equal(arrays[k], before[k], (size_t)dtype_bytes(types[k], 1, N));
            release();
        }
}

/* ---- Rounding at random ---------------------------------------------------------------------- */

/* w - 0 * lr: the value itself, rounded. A million numbers between two neighbours: the mean is the value. */
static void check_mean(const Kernels *k, int threads)
{
    enum { N = 1 << 20 };
    static const float values[] = {1.0f + 0x1p-10f, -3.0f - 0x1p-12f, 1e-30f, 0.1f};
    uint16_t *p = (uint16_t *)take(N / 2, 0);
    float *g = take(N, 0);
    for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
        /* The update is a bf16 value minus lr times gradient: the sum is exact in f32. */
        float low = half_from_bf16((uint16_t)(float_to_bits(values[v]) >> 16));
        float high = half_from_bf16((uint16_t)((float_to_bits(values[v]) >> 16) + 1));
        const RoundingKey key = {.seed = 7 + v, .parameter = (uint32_t)v};
        for (int i = 0; i < N; i++) {
            p[i] = (uint16_t)(float_to_bits(low) >> 16);
            g[i] = low - values[v];
        }
        UpdateArrays a = {.n = N, .p = p, .p_type = DTYPE_BF16, .g = g, .rounding = &key};
        k->sgd(&a, &(UpdateScalars){.lr = 1, .step = 5}, &(UpdateControl){.grad_scale = 1}, on(threads));
        int64_t up = 0;
        for (int i = 0; i < N; i++) {
            float now = half_from_bf16(p[i]);
            assert_true(now == low || now == high);
            up += now == high;
        }
        double chance = ((double)values[v] - (double)low) / ((double)high - (double)low);
        double sigma = sqrt(chance * (1 - chance) * N);
        assert_true(fabs((double)up - chance * N) <= 4 * sigma + 1);
    }
}

static void test_mean(void **state)
{
    (void)state;
    forget();
    for (int i = 0; i < SUPPORT_TABLES; i++)
        if (support_table(i)) {
            check_mean(support_table(i), 2);
            release();
        }
}

/* Each of seed, parameter, update, array and element draws other numbers; the same ones draw the same. */
static void test_keys(void **state)
{
    enum { N = 4096 };
    const struct {
        RoundingKey key;
        int64_t update;
    } draws[] = {{{1, 0}, 1}, {{1, 0}, 1}, {{2, 0}, 1},
                 {{1, 1}, 1}, {{1, 0}, 2}, {{1, 0}, 1 + (INT64_C(1) << 32)}};
    const Kernels *k = kernels_cpu(NULL);
    uint16_t *made[6];
    (void)state;
    forget();
    for (int d = 0; d < 6; d++) {
        float *g = take(N, -0x1p-8f); /* half of a step of bf16 at 1 */
        made[d] = (uint16_t *)take(N / 2, 0);
        for (int i = 0; i < N; i++)
            made[d][i] = 0x3F80;
        UpdateArrays a = {.n = N, .p = made[d], .p_type = DTYPE_BF16, .g = g, .rounding = &draws[d].key};
        k->sgd(&a, &(UpdateScalars){.lr = 1, .step = draws[d].update}, &(UpdateControl){.grad_scale = 1},
               on(1));
    }
    for (int d = 1; d < 6; d++) {
        int same = 0;
        for (int i = 0; i < N; i++)
            same += made[d][i] == made[0][i];
        if (d == 1)
            assert_int_equal(same, N);
        else /* half of them, by chance: 4 sigma are 128 */
            assert_true(abs(same - N / 2) < 128);
    }
    release();
}

/* What bf16 holds stays; what is not finite stays what it is; nothing finite becomes infinite by chance. */
static void check_edges(const Kernels *k, int threads)
{
    static const uint32_t bits[] = {0,          0x80000000, 0x3F800000, 0xC2F70000, 0x7F7F0000, 0xFF7F0000,
                                    0x7F800000, 0xFF800000, 0x7F7F0001, 0x7F7FFFFF, 0xFF7FFFFF, 0x7FFFFFFF,
                                    0xFFFFFFFF, 0x7F800001, 0x00000001, 0x8000FFFF};
    enum { N = sizeof bits / sizeof *bits, TIMES = 64 };
    const RoundingKey key = {.seed = 3};
    for (int t = 0; t < TIMES; t++) {
        uint16_t *p = (uint16_t *)take(N / 2, 0);
        float *g = take(N, 0), *momentum = take(N, 0);
        uint16_t *state = (uint16_t *)take(N / 2, 0);
        /* SGD's buffer becomes the gradient: any f32 value can be rounded. */
        for (int i = 0; i < N; i++)
            g[i] = float_from_bits(bits[i]);
        UpdateArrays a = {.n = N, .p = p, .p_type = DTYPE_BF16, .g = g, .rounding = &key};
        a.state[0] = state;
        a.state_type[0] = DTYPE_BF16;
        UpdateScalars s = {.lr = 0, .momentum = 0.5f, .step = t + 2};
        k->sgd(&a, &s, &(UpdateControl){.grad_scale = 1}, on(threads));
        (void)momentum;
        for (int i = 0; i < N; i++) {
            float x = g[i], y = half_from_bf16(state[i]);
            if (isnan(x)) {
                assert_true(isnan(y));
                continue;
            }
            assert_true(isinf(y) == isinf(x));
            assert_true(signbit(y) == signbit(x) || x == 0);
            if (!(bits[i] & 0xFFFF))
                assert_true(y == x);
            else
                assert_true(fabsf(y) <= float_from_bits((bits[i] & 0x7FFF0000) + 0x10000) && y != x);
        }
        release();
    }
}

static void test_edges(void **state)
{
    (void)state;
    each_table(check_edges);
    check_edges(kernels_reference(), 1);
    release();
}

/* ---- 8-bit codes ----------------------------------------------------------------------------- */

/* Every bound between two codes, its neighbours, and all that float has beside them: the nearest code, the
 * lower one of two. */
static void check_codes(const Kernels *k, int threads)
{
    enum { EACH = 5, N = 256 * EACH * 2 };
    static const DType types[] = {DTYPE_DYNAMIC8, DTYPE_UDYNAMIC8};
    for (int t = 0; t < 2; t++) {
        const float *code = types[t] == DTYPE_DYNAMIC8 ? dynamic_code : dynamic_code_unsigned;
        float *x = take(N, 0), *y = take(N, 0);
        for (int i = 0; i < N; i++) {
            int c = i / EACH % 255;
            float bound = (code[c] + code[c + 1]) / 2;
            x[i] = i % EACH == 0   ? bound
                   : i % EACH == 1 ? nextafterf(bound, -2)
                   : i % EACH == 2 ? nextafterf(bound, 2)
                   : i % EACH == 3 ? code[c]
                                   : (types[t] == DTYPE_DYNAMIC8 ? 1.0f : 0.5f) * random_float() +
                                         (types[t] == DTYPE_DYNAMIC8 ? 0.0f : 0.5f);
            if (i % 256 == 255)
                x[i] = 1; /* the scale of the block */
        }
        void *to = take_array(types[t], N);
        void *expected = encoded(types[t], N, x, NULL, 0, 0);
        int64_t fault = -1;
        KernelRun run = {.threads = threads, .fault = &fault, .device = card()};
        k->encode(types[t], 1, N, 0, N, x, to, NULL, &run);
        assert_int_equal(fault, -1);
        assert_memory_equal(to, expected, (size_t)dtype_bytes(types[t], 1, N));
        const StoredArray stored = {to, types[t], 1, N};
        k->decode(&stored, 0, N, y, &run);
        for (int i = 0; i < N; i++)
            assert_true(y[i] == code[((unsigned char *)to)[i]]);
        k->decode(&stored, 700, 333, x, &run); /* from anywhere */
        assert_same("part", 333, x, y + 700);
        x[300] = NAN;
        x[301] = INFINITY;
        k->encode(types[t], 1, N, 0, N, x, to, NULL, &run);
        assert_int_equal(fault, 300);
        release();
    }
}

static void test_codes(void **state)
{
    (void)state;
    forget();
    each_table(check_codes);
    check_codes(kernels_reference(), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_typed), cmocka_unit_test(test_skip),  cmocka_unit_test(test_mean),
        cmocka_unit_test(test_keys),  cmocka_unit_test(test_edges), cmocka_unit_test(test_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
