/* Optimizer updates: five steps of every table against PyTorch's rules written out in double, one option
 * after another, and a few steps whose result is plain. */
#define SUPPORT_CARD
#include "kernels_support.h"

enum { STEPS = 5 };

typedef struct Trajectory {
    double p, first, second; /* first: Adam's m, or the momentum buffer; second: v, or RMSprop's square */
} Trajectory;

static void step_sgd(const UpdateScalars *s, double scale, Trajectory *t, double g)
{
    g = g * scale + (double)s->weight_decay * t->p;
    if (s->momentum != 0.0f) {
        t->first = s->step == 1 ? g : (double)s->momentum * t->first + (1.0 - (double)s->dampening) * g;
        g = s->nesterov ? g + (double)s->momentum * t->first : t->first;
    }
    t->p -= (double)s->lr * g;
}

static void step_rmsprop(const UpdateScalars *s, double scale, Trajectory *t, double g)
{
    g = g * scale + (double)s->weight_decay * t->p;
    t->second = (double)s->alpha * t->second + (1.0 - (double)s->alpha) * g * g;
    t->first = (double)s->momentum * t->first + g / (sqrt(t->second) + (double)s->eps);
    t->p -= (double)s->lr * t->first;
}

static void step_adagrad(const UpdateScalars *s, double scale, Trajectory *t, double g)
{
    g = g * scale + (double)s->weight_decay * t->p;
    t->second += g * g;
    t->p -= (double)s->lr * g / (sqrt(t->second) + (double)s->eps);
}

static void step_adam(const UpdateScalars *s, double scale, Trajectory *t, double g)
{
    double b1 = (double)s->beta1, b2 = (double)s->beta2, lr = (double)s->lr;
    g *= scale;
    if (s->decoupled)
        t->p *= 1.0 - lr * (double)s->weight_decay;
    else
        g += (double)s->weight_decay * t->p;
    t->first = b1 * t->first + (1.0 - b1) * g;
    t->second = b2 * t->second + (1.0 - b2) * g * g;
    double root = sqrt(t->second / (1.0 - pow(b2, (double)s->step)));
    t->p -= lr * t->first / (1.0 - pow(b1, (double)s->step)) / (root + (double)s->eps);
}

typedef enum Rule { SGD, RMSPROP, ADAGRAD, ADAM } Rule;

static void run_rule(const Kernels *k, Rule rule, const UpdateArrays *a, const UpdateScalars *s,
                     const UpdateControl *c, int threads)
{
    void (*const update[])(const UpdateArrays *, const UpdateScalars *, const UpdateControl *,
                           const KernelRun *) = {k->sgd, k->rmsprop, k->adagrad, k->adam};
    update[rule](a, s, c, on(threads));
}

/* Where a rule has its states: first is the momentum buffer or Adam's m, second the mean square. */
static void step_kernel(const Kernels *k, Rule rule, int64_t n, const UpdateScalars *s,
                        const UpdateControl *c, float *p, const float *g, float *first, float *second,
                        int threads)
{
    float *momentum = s->momentum != 0.0f ? first : NULL;
    UpdateArrays a = {.n = n, .p = p, .g = g};
    a.state[0] = rule == ADAM ? first : rule == SGD ? momentum : second;
    a.state[1] = rule == ADAM ? second : rule == RMSPROP ? momentum : NULL;
    run_rule(k, rule, &a, s, c, threads);
}

static const struct {
    Rule rule;
    float scale;
    UpdateScalars s;
} cases[] = {
    {SGD, 1.0f, {.lr = 0.1f}},
    {SGD, 0.5f, {.lr = 0.1f, .weight_decay = 0.1f}},
    {SGD, 1.0f, {.lr = 0.1f, .weight_decay = 0.1f, .momentum = 0.9f}},
    {SGD, 0.3f, {.lr = 0.1f, .momentum = 0.9f, .dampening = 0.4f}},
    {SGD, 1.0f, {.lr = 0.1f, .weight_decay = 0.01f, .momentum = 0.9f, .nesterov = 1}},
    {RMSPROP, 1.0f, {.lr = 0.01f, .alpha = 0.99f, .eps = 1e-8f}},
    {RMSPROP, 0.5f, {.lr = 0.01f, .alpha = 0.9f, .eps = 1e-3f, .weight_decay = 0.1f, .momentum = 0.9f}},
    {ADAGRAD, 1.0f, {.lr = 0.1f, .eps = 1e-10f}},
    {ADAGRAD, 0.5f, {.lr = 0.1f, .eps = 1e-2f, .weight_decay = 0.1f}},
    {ADAM, 1.0f, {.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f}},
    {ADAM, 0.5f, {.lr = 0.01f, .beta1 = 0.8f, .beta2 = 0.95f, .eps = 1e-4f, .weight_decay = 0.1f}},
    {ADAM,
     0.5f,
     {.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .decoupled = 1}},
};

static void check_case(const Kernels *k, Rule rule, UpdateScalars s, float scale, int64_t n, int threads)
{
    static void (*const step[])(const UpdateScalars *, double, Trajectory *,
                                double) = {step_sgd, step_rmsprop, step_adagrad, step_adam};
    float *p = take_random(n, 1.0f), *g = take_random(STEPS * n, 1.0f), *first = take(n, 0.0f),
          *second = take(n, 0.0f);
    const UpdateControl c = {.grad_scale = scale};
    float *start = take_copy(n, p), *p1 = take_copy(n, p), *first1 = take(n, 0.0f), *second1 = take(n, 0.0f);
    for (s.step = 1; s.step <= STEPS; s.step++) {
        const float *now = g + (s.step - 1) * n;
        step_kernel(k, rule, n, &s, &c, p, now, first, second, threads);
        step_kernel(k, rule, n, &s, &c, p1, now, first1, second1, 1);
    }
    assert_same("parameters by one thread", n, p1, p);
    assert_same("state by one thread", n, second1, second);
    for (int64_t i = 0; i < n; i++) {
        Trajectory t = {.p = (double)start[i]};
        for (s.step = 1; s.step <= STEPS; s.step++)
            step[rule](&s, (double)scale, &t, (double)g[(s.step - 1) * n + i]);
        float expected[] = {(float)t.p, (float)t.first, (float)t.second};
        assert_near("parameter", 1, p + i, expected, 2e-6);
        if (rule == ADAM || s.momentum != 0.0f)
            assert_near("first state", 1, first + i, expected + 1, rule == RMSPROP ? 2e-5 : 2e-6);
        if (rule != SGD)
            assert_near("second state", 1, second + i, expected + 2, 2e-6);
    }
}

/* Nothing is written, whatever the gradients are. */
static void check_skip(const Kernels *k, Rule rule, UpdateScalars s, int64_t n, int threads)
{
    float *array[4], *before[4];
    for (int i = 0; i < 4; i++) {
        array[i] = take_random(n, 1.0f);
        if (i == 1)
            array[i][n - 1] = NAN;
        before[i] = take_copy(n, array[i]);
    }
    s.step = 2;
    const UpdateControl c = {.skip = 1, .grad_scale = 0.5f};
    step_kernel(k, rule, n, &s, &c, array[0], array[1], array[2], array[3], threads);
    for (int i = 0; i < 4; i++)
        assert_memory_equal(array[i], before[i], (size_t)n * sizeof(float));
}

static void check_updates(const Kernels *k, int64_t n, int threads)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_case(k, cases[i].rule, cases[i].s, cases[i].scale, n, threads);
        check_skip(k, cases[i].rule, cases[i].s, n, threads);
        release();
    }
}

static void test_updates(void **state)
{
    (void)state;
    each_length(check_updates);
    check_updates(kernels_reference(), 65, 1);
}

static void check_known(const Kernels *k, int threads)
{
    /* Adam's first step moves by lr in the direction of -g, whatever g's size. */
    float p[] = {1.0f, 1.0f, 1.0f}, g[] = {1e-3f, -10.0f, NAN}, first[3] = {0}, second[3] = {0};
    UpdateScalars s = {.lr = 0.25f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-12f, .step = 1};
    const UpdateControl c = {.grad_scale = 1.0f};
    step_kernel(k, ADAM, 3, &s, &c, p, g, first, second, threads);
    static const float expected[] = {0.75f, 1.25f, NAN};
    assert_near("adam", 3, p, expected, 1e-6);
    assert_true(isnan(first[2]) && isnan(second[2]));
    /* Decoupled decay acts without a gradient; coupled decay is normalised like one. */
    float q[] = {2.0f}, zero[] = {0.0f};
    first[0] = second[0] = 0.0f;
    s.weight_decay = 0.1f, s.decoupled = 1;
    step_kernel(k, ADAM, 1, &s, &c, q, zero, first, second, threads);
    assert_true(fabsf(q[0] - 1.95f) < 1e-6f);
    s.decoupled = 0;
    step_kernel(k, ADAM, 1, &s, &c, q, zero, first, second, threads);
    assert_true(fabsf(q[0] - 1.70f) < 1e-5f);
    /* A million steps: the corrections are gone, not lost. */
    s = (UpdateScalars){.lr = 0.5f, .beta1 = 0.5f, .beta2 = 0.5f, .step = 1000000};
    float m[] = {1.0f}, v[] = {1.0f}, one[] = {1.0f}, w[] = {3.0f};
    step_kernel(k, ADAM, 1, &s, &c, w, one, m, v, threads);
    assert_true(w[0] == 2.5f);
}

static void test_known(void **state)
{
    (void)state;
    each_table(check_known);
    check_known(kernels_reference(), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_updates), cmocka_unit_test(test_known)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
