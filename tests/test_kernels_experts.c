/* The kernels of a mixture of experts against the reference: routing, products of every expert's rows, and
 * gradients, over few and many tokens, experts without tokens and with all of them; of every type that values
 * and weights may have; and the same for any number of threads. */
#define SUPPORT_CARD
#include "half_support.h"

#include "kernels/experts.h"
#include "kernels/values.h"

typedef struct Case {
    int64_t rows, width, hidden;
    int experts, active, normalise;
    int skew; /* 1: all tokens prefer the last experts; 2: the middle one has none */
    Activation act;
} Case;

static const Case cases[] = {
    {1, 1, 1, 1, 1, 0, 0, ACT_SILU},      {1, 5, 3, 4, 4, 1, 0, ACT_SILU},
    {7, 17, 13, 5, 2, 1, 0, ACT_SILU},    {33, 31, 65, 3, 1, 0, 2, ACT_GELU},
    {64, 8, 16, 8, 3, 0, 1, ACT_SILU},    {129, 65, 33, 4, 2, 1, 1, ACT_GELU_TANH},
    {37, 130, 40, 33, 8, 0, 0, ACT_SILU}, {300, 24, 100, 2, 2, 0, 0, ACT_RELU},
};
enum { CASES = sizeof cases / sizeof *cases };

/* What one case computes; arrays of values are of `type`, as floats beside. */
typedef struct Arrays {
    ExpertsDims d;
    DType type, weights, gradients;
    void *x, *router, *dy, *kept, *y, *dx, *drouter, *dgate_up, *ddown, *routing, *workspace;
    StoredArray gate_up, down;
    float *stats, *dweight;
    int32_t *mask;
    float beta;
} Arrays;

/* n values of a type, in a guarded buffer. */
static void *array_of(DType type, int64_t n, float size)
{
    float *x = take_random(n, size);
    if (type == DTYPE_F32)
        return x;
    uint16_t *y = (uint16_t *)(void *)take(n / 2 + 1, support_guard);
    for (int64_t i = 0; i < n; i++)
        y[i] = type == DTYPE_BF16 ? half_to_bf16(x[i]) : half_to_f16(x[i]);
    return y;
}

/* The matrices of all experts, each encoded by itself. */
static StoredArray matrices(DType type, int experts, int64_t rows, int64_t cols)
{
    uint64_t stride = experts_stride(type, rows, cols);
    const Kernels *k = kernels_reference();
    char *at = (char *)take((int64_t)(stride * (uint64_t)experts / 4 + 1), 0);
    int64_t blocks = quant_layout(type, rows, cols).blocks;
    float *x = take(rows * cols, 0), *scales = take(blocks, 0);
    for (int e = 0; e < experts; e++) {
        void *to = at + (uint64_t)e * stride;
        for (int64_t i = 0; i < rows * cols; i++)
            x[i] = 0.5f * random_float();
        k->encode(type, rows, cols, 0, rows * cols, x, to, scales, on(1));
        if (type == DTYPE_NF4)
            k->encode_scales(blocks, scales, 0, blocks, rows * cols, to, on(1));
    }
    return (StoredArray){at, type, rows, cols};
}

static Arrays arrays_of(const Case *c, DType type, DType router, DType weights, DType gradients, float beta)
{
    Arrays a = {.type = type, .weights = weights, .gradients = gradients, .beta = beta};
    a.d = (ExpertsDims){c->rows,      c->width, c->hidden, c->experts, c->active,
                        c->normalise, c->act,   type,      router};
    int64_t pairs = experts_pairs(&a.d);
    float *logits = take_random(c->rows * c->experts, 2);
    for (int64_t i = 0; i < c->rows * c->experts; i++)
        logits[i] += c->skew == 1 && i % c->experts >= c->experts - c->active ? 9.0f
                     : c->skew == 2 && i % c->experts == c->experts / 2       ? -9.0f
                                                                              : 0.0f;
    a.router = logits;
    if (router != DTYPE_F32) {
        uint16_t *half = (uint16_t *)(void *)take(c->rows * c->experts / 2 + 1, support_guard);
        for (int64_t i = 0; i < c->rows * c->experts; i++)
            half[i] = router == DTYPE_BF16 ? half_to_bf16(logits[i]) : half_to_f16(logits[i]);
        a.router = half;
    }
    a.x = array_of(type, c->rows * c->width, 1);
    a.dy = array_of(type, c->rows * c->width, 1);
    a.gate_up = matrices(weights, c->experts, 2 * c->hidden, c->width);
    a.down = matrices(weights, c->experts, c->width, c->hidden);
    a.kept = array_of(type, pairs * 2 * c->hidden, NAN);
    a.y = array_of(type, c->rows * c->width, NAN);
    a.dx = array_of(type, c->rows * c->width, beta == 0 ? NAN : 1);
    a.drouter = array_of(router, c->rows * c->experts, beta == 0 ? NAN : 1);
    a.dgate_up = array_of(gradients, 2 * c->experts * c->hidden * c->width, beta == 0 ? NAN : 1);
    a.ddown = array_of(gradients, c->experts * c->hidden * c->width, beta == 0 ? NAN : 1);
    a.routing = take((int64_t)(experts_routing_bytes(&a.d) / 4), NAN);
    a.stats = take_random(3 * c->experts, 1);
    a.mask = (int32_t *)(void *)take(c->rows, 0);
    for (int64_t i = 0; i < c->rows; i++)
        a.mask[i] = i % 3 != 1;
    a.dweight = take(pairs, NAN);
    return a;
}

static size_t bytes_of(DType type, int64_t n)
{
    return dtype_bytes(type, 1, n);
}

/* The same inputs, and outputs of its own. */
static Arrays copy_of(const Arrays *a)
{
    Arrays b = *a;
    int64_t pairs = experts_pairs(&a->d), wide = a->d.rows * a->d.width, all = a->d.rows * a->d.experts;
    int64_t weights = a->d.experts * a->d.hidden * a->d.width;
    b.kept = array_of(a->type, pairs * 2 * a->d.hidden, NAN);
    b.y = array_of(a->type, wide, NAN);
    b.dx = memcpy(array_of(a->type, wide, 0), a->dx, bytes_of(a->type, wide));
    b.drouter = memcpy(array_of(a->d.router, all, 0), a->drouter, bytes_of(a->d.router, all));
    b.dgate_up =
        memcpy(array_of(a->gradients, 2 * weights, 0), a->dgate_up, bytes_of(a->gradients, 2 * weights));
    b.ddown = memcpy(array_of(a->gradients, weights, 0), a->ddown, bytes_of(a->gradients, weights));
    b.routing = take((int64_t)(experts_routing_bytes(&a->d) / 4), NAN);
    b.stats = take_copy(3 * a->d.experts, a->stats);
    b.dweight = take(pairs, NAN);
    return b;
}

static void run_all(const Kernels *k, Arrays *a, const ExpertsBalance *balance, const KernelRun *run)
{
    int quantized = dtype_is_quantized(a->weights);
    ExpertsGradients g = {.dx = a->dx,
                          .dgate_up = quantized ? NULL : a->dgate_up,
                          .ddown = quantized ? NULL : a->ddown,
                          .dweight = a->dweight,
                          .beta_x = a->beta,
                          .beta_gate_up = a->beta,
                          .beta_down = a->beta,
                          .gate_up_type = a->gradients,
                          .down_type = a->gradients};
    ExpertsBalance own = {a->stats, balance ? balance->mask : NULL};
    int wanted = quantized ? 1 : 7;
    size_t forward = k->experts_workspace(&a->d, 0, 0, a->gradients, a->gradients, run);
    size_t backward = k->experts_workspace(&a->d, 1, wanted, a->gradients, a->gradients, run);
    a->workspace = take((int64_t)((forward > backward ? forward : backward) / 4 + 1), NAN);
    k->experts_route(&a->d, a->router, balance ? &own : NULL, a->routing, a->workspace, run);
    k->experts_forward(&a->d, a->x, &a->gate_up, &a->down, a->routing, a->kept, a->y, a->workspace, run);
    k->experts_backward(&a->d, a->x, &a->gate_up, &a->down, a->routing, a->kept, a->dy, &g, a->workspace,
                        run);
    k->experts_route_backward(&a->d, a->router, balance ? &own : NULL, a->routing, a->dweight, a->beta,
                              a->drouter, run);
}

/* Values of a type against the reference's: to rounding, of 16 bit to a few of its steps. */
static void assert_values(const char *what, DType type, int64_t n, const void *x, const void *expected,
                          double size)
{
    double step = type == DTYPE_F32 ? 2e-6 : type == DTYPE_BF16 ? 0x1p-6 : 0x1p-9;
    for (int64_t i = 0; i < n; i++) {
        double a = (double)values_get(type, x, i), b = (double)values_get(type, expected, i);
        if (!(fabs(a - b) <= step * (size + fabs(b))))
            fail_msg("%s, %s: [%lld] of %lld is %.9g, expected %.9g", what, dtype_name(type), (long long)i,
                     (long long)n, a, b);
    }
}

static void assert_all(const char *what, const Arrays *a, const Arrays *b)
{
    const ExpertsDims *d = &a->d;
    int64_t weights = d->experts * d->hidden * d->width, pairs = experts_pairs(d);
    /* A sum of so many terms, of which some cancel. */
    double size = 1 + sqrt((double)(d->width + 2 * d->hidden));
    ExpertsRouting r = experts_routing(d, a->routing), s = experts_routing(d, b->routing);
    assert_memory_equal(r.expert, s.expert, (size_t)(3 * pairs + d->experts + 1) * sizeof(int32_t));
    assert_values(what, DTYPE_F32, pairs, r.weight, s.weight, 1);
    assert_values(what, DTYPE_F32, 2 * d->experts, a->stats, b->stats, (double)d->rows);
    assert_values("y", a->type, d->rows * d->width, a->y, b->y, size);
    assert_values("dx", a->type, d->rows * d->width, a->dx, b->dx, size * 4);
    assert_values("drouter", d->router, d->rows * d->experts, a->drouter, b->drouter,
                  size * 8 *
                      (a->type == DTYPE_F32     ? 1
                       : d->router == DTYPE_F32 ? 4000
                                                : 4));
    if (dtype_is_quantized(a->weights))
        return;
    double rows =
        size * (1 + sqrt((double)d->rows)) * (a->gradients == DTYPE_F32 && a->type != DTYPE_F32 ? 8000 : 1);
    assert_values("dgate_up", a->gradients, 2 * weights, a->dgate_up, b->dgate_up, rows);
    assert_values("ddown", a->gradients, weights, a->ddown, b->ddown, rows);
}

static void check(const Kernels *k, int threads, DType type, DType router, DType weights, DType gradients)
{
    for (int i = 0; i < CASES; i++) {
        float beta = (float)(i % 2);
        Arrays a = arrays_of(&cases[i], type, router, weights, gradients, beta), b = copy_of(&a);
        ExpertsBalance balance = {NULL, i % 3 == 0 ? NULL : a.mask};
        const ExpertsBalance *counted = i % 3 == 2 ? NULL : &balance;
        run_all(k, &a, counted, on(threads));
        run_all(kernels_reference(), &b, counted, on(1));
        assert_all(k->name, &a, &b);
        release();
    }
}

static void check_floats(const Kernels *k, int threads)
{
    check(k, threads, DTYPE_F32, DTYPE_F32, DTYPE_F32, DTYPE_F32);
}

static void check_halves(const Kernels *k, int threads)
{
    check(k, threads, half_type, half_type, half_type, half_type);
    check(k, threads, half_type, DTYPE_F32, DTYPE_F32, DTYPE_F32);
    check(k, threads, DTYPE_F32, half_type, half_type, half_type);
}

static void check_quantized(const Kernels *k, int threads)
{
    check(k, threads, DTYPE_F32, DTYPE_F32, DTYPE_INT8, DTYPE_F32);
    check(k, threads, DTYPE_F32, DTYPE_F32, DTYPE_NF4, DTYPE_F32);
    check(k, threads, DTYPE_BF16, DTYPE_BF16, DTYPE_NF4_PLAIN, DTYPE_F32);
    check(k, threads, DTYPE_F16, DTYPE_F32, DTYPE_NF4, DTYPE_F32);
}

static void test_floats(void **state)
{
    (void)state;
    each_table(check_floats);
}

static void test_halves(void **state)
{
    (void)state;
    each_half_table(check_halves);
}

/* Dot instructions, where the processor has them: near, as all others of 16 bit. */
static void test_dots(void **state)
{
    (void)state;
    const Kernels *dots = kernels_cpu("avx512-bf16");
    forget();
    half_type = DTYPE_BF16;
    if (dots)
        check_halves(dots, 2);
    else
        print_message("this processor, or this build, has no AVX512-BF16\n");
}

static void test_quantized(void **state)
{
    (void)state;
    each_table(check_quantized);
}

/* Bit for bit, for few and many threads. */
static void check_threads(DType type, DType weights)
{
    for (int t = 0; t < SUPPORT_TABLES - 1; t++) {
        const Kernels *k = support_table(t);
        for (int i = 0; k && i < CASES; i++) {
            Arrays one = arrays_of(&cases[i], type, type, weights, type, 0);
            ExpertsBalance balance = {NULL, one.mask};
            Arrays more[4];
            for (int threads = 2; threads <= 5; threads++) {
                more[threads - 2] = copy_of(&one);
                run_all(k, &more[threads - 2], &balance, on(threads));
            }
            run_all(k, &one, &balance, on(1));
            for (int j = 0; j < 4; j++) {
                int64_t wide = one.d.rows * one.d.width, n = one.d.experts * one.d.hidden * one.d.width;
                int64_t logits = one.d.rows * one.d.experts;
                assert_memory_equal(one.y, more[j].y, bytes_of(type, wide));
                assert_memory_equal(one.dx, more[j].dx, bytes_of(type, wide));
                assert_memory_equal(one.drouter, more[j].drouter, bytes_of(type, logits));
                assert_memory_equal(one.stats, more[j].stats, bytes_of(DTYPE_F32, 3 * one.d.experts));
                if (dtype_is_quantized(weights))
                    continue;
                assert_memory_equal(one.dgate_up, more[j].dgate_up, bytes_of(type, 2 * n));
                assert_memory_equal(one.ddown, more[j].ddown, bytes_of(type, n));
            }
            release();
        }
    }
}

static void test_threads(void **state)
{
    (void)state;
    forget();
    check_threads(DTYPE_F32, DTYPE_F32);
    check_threads(DTYPE_BF16, DTYPE_BF16);
    check_threads(DTYPE_F32, DTYPE_NF4);
}

/* Of equal logits the first; NaN reaches no memory that it should not. */
static void test_ties(void **state)
{
    (void)state;
    const float logits[] = {1, 3, 3, 2, 3};
    float top[4];
    int32_t chosen[4];
    experts_choose(5, 4, logits, top, chosen);
    assert_memory_equal(chosen, ((const int32_t[]){1, 2, 4, 3}), sizeof chosen);
    const float bad[] = {1, NAN, 2, NAN, 0};
    experts_choose(5, 4, bad, top, chosen);
    for (int i = 0; i < 4; i++) {
        assert_in_range(chosen[i], 0, 4);
        for (int j = 0; j < i; j++)
            assert_int_not_equal(chosen[i], chosen[j]);
    }
}

static void check_balance(const Kernels *k, int threads)
{
    enum { EXPERTS = 7 };
    float *stats = take_random(3 * EXPERTS, 1), *loss = take_random(1, 2), *y = take(1, NAN);
    for (int e = 0; e < EXPERTS; e++) {
        stats[e] = (float)(e * 3 % 8);
        stats[EXPERTS + e] += 2;
    }
    float *other = take_copy(3 * EXPERTS, stats), *expected = take(1, NAN);
    for (int none = 0; none < 2; none++) {
        k->experts_balance_forward(EXPERTS, 2, 0.3f, stats, loss, y, on(threads));
        kernels_reference()->experts_balance_forward(EXPERTS, 2, 0.3f, other, loss, expected, on(1));
        assert_near("balance", 1, y, expected, 1e-6);
        k->experts_balance_backward(EXPERTS, 2, 0.3f, loss, stats, on(threads));
        kernels_reference()->experts_balance_backward(EXPERTS, 2, 0.3f, loss, other, on(1));
        assert_near("its gradient", 3 * EXPERTS, stats, other, 1e-6);
        for (int e = 0; e < EXPERTS; e++)
            stats[e] = other[e] = 0; /* no token has counted */
    }
    assert_true(y[0] == loss[0]);
}

static void test_balance(void **state)
{
    (void)state;
    each_table(check_balance);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ties),      cmocka_unit_test(test_floats), cmocka_unit_test(test_halves),
        cmocka_unit_test(test_quantized), cmocka_unit_test(test_dots),   cmocka_unit_test(test_threads),
        cmocka_unit_test(test_balance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
