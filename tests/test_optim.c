/* Optimizers: every rule against PyTorch's formulae written out plainly in double, groups, schedules,
 * clipping, what is refused, and what each costs in memory. Gradients are made by a loss that is linear in
 * the parameter.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "optim/optim.h"

#define STEPS 20
#define COUNT 5

/* One element, a prime past a vector, two dimensions, many vectors, and enough for more than one thread. */
static const Shape shapes[COUNT] = {
    {1, {1, 1, 1, 1}}, {1, {33, 1, 1, 1}}, {2, {7, 5, 1, 1}}, {1, {1000, 1, 1, 1}}, {3, {3, 71, 67, 1}}};
static const char *const names[COUNT] = {"one", "bias", "weight", "long", "cube"};
/* Their bytes in f32, rounded up to 64. */
static const uint64_t rounded[COUNT] = {64, 192, 192, 4032, 57088}, rounded_sum = 61568;

static uint64_t live_before;

static Context *context_open(const ContextOptions *options)
{
    Context *context = context_create(options);
    assert_non_null(context);
    context_use(context);
    return context;
}

static int open_context(void **state)
{
    live_before = memtrack_process_live();
    *state = context_open(&(ContextOptions){.threads = 2, .seed = 7});
    return 0;
}

static int close_context(void **state)
{
    memtrack_fail_nth(0);
    context_destroy(*state);
    return memtrack_process_live() == live_before ? 0 : -1;
}

/* In [-1, 1), the same everywhere. */
static float noise(uint32_t stream, uint32_t i)
{
    uint32_t x = stream * 0x9E3779B9u + i;
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    x ^= x >> 16;
    return (float)((double)x / 2147483648.0 - 1.0);
}

static Tensor *parameter(Shape shape, const char *name, uint32_t stream)
{
    Tensor *tensor = tensor_parameter(shape);
    tensor_set_name(tensor, name);
    float *data = tensor ? tensor_f32(tensor) : NULL;
    for (int64_t i = 0; data && i < tensor_numel(tensor); i++)
        data[i] = noise(stream, (uint32_t)i);
    return tensor;
}

/* One of each shape. */
typedef struct Set {
    Tensor *items[COUNT];
} Set;

static Set set_new(void)
{
    Set set;
    for (int i = 0; i < COUNT; i++)
        set.items[i] = parameter(shapes[i], names[i], 100 + (uint32_t)i);
    return set;
}

static void set_free(Set *set)
{
    for (int i = 0; i < COUNT; i++)
        tensor_free(set->items[i]);
}

static TensorList list_of(Set *set)
{
    return (TensorList){set->items, COUNT};
}

/* d/dp sum(p * g) = g, through the tape. */
static void give_gradient(Tensor *p, uint32_t stream, float scale)
{
    int scope = tensor_scope_begin();
    Tensor *g = tensor_new(DTYPE_F32, tensor_shape(p), MEM_INPUT);
    float *data = g ? tensor_f32(g) : NULL;
    for (int64_t i = 0; data && i < tensor_numel(g); i++)
        data[i] = scale * noise(stream, (uint32_t)i);
    tensor_backward(tensor_sum(tensor_mul(p, g)));
    tensor_scope_end(scope);
}

static void fine(void)
{
    if (error_code())
        print_message("error: %s\n", error_message());
    assert_int_equal(error_code(), ERROR_NONE);
}

/* The error is this one, and says so; cleared. */
static void refused(ErrorCode code, const char *text)
{
    if (!strstr(error_message(), text))
        print_message("got: %s\nwanted: %s\n", error_message(), text);
    assert_int_equal(error_code(), code);
    assert_non_null(strstr(error_message(), text));
    error_clear();
}

static const MemStats *books(void)
{
    return memtrack_stats(context_ledger(context_current()));
}

/* ---- The rules ------------------------------------------------------------------------------- */

typedef enum Kind { KIND_SGD, KIND_RMSPROP, KIND_ADAM, KIND_ADAMW } Kind;

typedef struct Case {
    const char *name;
    Kind kind;
    int arrays; /* of state */
    float lr, momentum, dampening, weight_decay, alpha, eps, beta1, beta2;
    int nesterov, decay_all;
} Case;

static const Case cases[] = {
    {"sgd", KIND_SGD, 0, .lr = 0.1f},
    {"sgd", KIND_SGD, 0, .lr = 0.1f, .weight_decay = 0.05f, .decay_all = 1},
    {"sgd-momentum", KIND_SGD, 1, .lr = 0.1f, .momentum = 0.9f, .weight_decay = 0.05f},
    {"sgd-momentum", KIND_SGD, 1, .lr = 0.1f, .momentum = 0.8f, .dampening = 0.3f, .weight_decay = 0.05f},
    {"sgd-nesterov", KIND_SGD, 1, .lr = 0.1f, .momentum = 0.9f, .nesterov = 1},
    {"sgd-nesterov", KIND_SGD, 1, .lr = 0.1f, .momentum = 0.9f, .nesterov = 1, .weight_decay = 0.1f},
    {"rmsprop", KIND_RMSPROP, 1, .lr = 0.01f, .alpha = 0.99f, .eps = 1e-8f},
    {"rmsprop", KIND_RMSPROP, 1, .lr = 0.01f, .alpha = 0.9f, .eps = 1e-3f, .weight_decay = 0.2f,
     .decay_all = 1},
    {"rmsprop", KIND_RMSPROP, 2, .lr = 0.01f, .alpha = 0.9f, .eps = 1e-6f, .momentum = 0.9f,
     .weight_decay = 0.05f},
    {"adam", KIND_ADAM, 2, .lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f},
    {"adam", KIND_ADAM, 2, .lr = 0.01f, .beta1 = 0.8f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f},
    {"adamw", KIND_ADAMW, 2, .lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.1f},
    {"adamw", KIND_ADAMW, 2, .lr = 0.02f, .beta1 = 0.8f, .beta2 = 0.95f, .eps = 1e-3f, .weight_decay = 0.5f,
     .decay_all = 1},
};

static Optimizer *make(const Case *c, TensorList list)
{
    switch (c->kind) {
    case KIND_SGD:
        return optim_sgd(
            list, &(Sgd){c->lr, c->momentum, c->dampening, c->weight_decay, c->nesterov, c->decay_all});
    case KIND_RMSPROP:
        return optim_rmsprop(list,
                             &(RmsProp){c->lr, c->alpha, c->eps, c->momentum, c->weight_decay, c->decay_all});
    case KIND_ADAM:
        return optim_adam(list, &(Adam){c->lr, c->beta1, c->beta2, c->eps, c->weight_decay, c->decay_all});
    default:
        return optim_adamw(list, &(AdamW){c->lr, c->beta1, c->beta2, c->eps, c->weight_decay, c->decay_all});
    }
}

typedef struct Model { /* one parameter, in double */
    int64_t n;
    double *p, *a, *b;
    int updates;
} Model;

static Model model_new(Tensor *tensor)
{
    int64_t n = tensor_numel(tensor);
    Model model = {n, test_calloc((size_t)n, sizeof(double)), test_calloc((size_t)n, sizeof(double)),
                   test_calloc((size_t)n, sizeof(double)), 0};
    for (int64_t i = 0; i < n; i++)
        model.p[i] = (double)tensor_f32(tensor)[i];
    return model;
}

static void model_free(Model *model)
{
    test_free(model->p);
    test_free(model->a);
    test_free(model->b);
}

static void models_of(Set *set, Model models[COUNT])
{
    for (int i = 0; i < COUNT; i++)
        models[i] = model_new(set->items[i]);
}

static void models_free(Model models[COUNT])
{
    for (int i = 0; i < COUNT; i++)
        model_free(&models[i]);
}

static double sgd_change(const Case *c, double g, double *buffer, int first)
{
    double mu = (double)c->momentum;
    if (mu == 0)
        return g;
    *buffer = first ? g : mu * *buffer + (1 - (double)c->dampening) * g;
    return c->nesterov ? g + mu * *buffer : *buffer;
}

static double rmsprop_change(const Case *c, double g, double *square, double *buffer)
{
    double alpha = (double)c->alpha;
    *square = alpha * *square + (1 - alpha) * g * g;
    double change = g / (sqrt(*square) + (double)c->eps);
    if (c->momentum == 0)
        return change;
    return *buffer = (double)c->momentum * *buffer + change;
}

static double adam_change(const Case *c, double g, double *first, double *second, int t)
{
    double b1 = (double)c->beta1, b2 = (double)c->beta2;
    *first = b1 * *first + (1 - b1) * g;
    *second = b2 * *second + (1 - b2) * g * g;
    return *first / (1 - pow(b1, t)) / (sqrt(*second / (1 - pow(b2, t))) + (double)c->eps);
}

/* One step with gradient scale * noise(stream, .), as torch.optim documents it. */
static void model_step(Model *m, const Case *c, double lr, double decay, uint32_t stream, double scale)
{
    m->updates++;
    for (int64_t i = 0; i < m->n; i++) {
        double g = scale * (double)noise(stream, (uint32_t)i);
        if (c->kind == KIND_ADAMW)
            m->p[i] -= lr * decay * m->p[i];
        else
            g += decay * m->p[i];
        if (c->kind == KIND_SGD)
            m->p[i] -= lr * sgd_change(c, g, &m->a[i], m->updates == 1);
        else if (c->kind == KIND_RMSPROP)
            m->p[i] -= lr * rmsprop_change(c, g, &m->a[i], &m->b[i]);
        else
            m->p[i] -= lr * adam_change(c, g, &m->a[i], &m->b[i], m->updates);
    }
}

static void check_close(const Model *model, Tensor *tensor, const char *what)
{
    const float *p = tensor_f32(tensor);
    for (int64_t i = 0; i < model->n; i++) {
        double off = fabs((double)p[i] - model->p[i]);
        if (!(off <= 3e-6 * (1 + fabs(model->p[i]))))
            fail_msg("%s, %s: element %d is %.9g, not %.9g", what, tensor_name(tensor), (int)i, (double)p[i],
                     model->p[i]);
    }
}

static double decay_of(const Case *c, int i)
{
    return c->decay_all || shapes[i].ndim > 1 ? (double)c->weight_decay : 0;
}

/* Parameter 1 gets none in every third step, the first included: its bias correction counts for itself. */
static int has_gradient(int i, int step)
{
    return i != 1 || step % 3 != 0;
}

static void check_rule(const Case *c)
{
    Set set = set_new();
    Model models[COUNT];
    models_of(&set, models);
    uint64_t live = books()->live, allocations = books()->allocations;
    uint64_t bytes = (uint64_t)c->arrays * rounded_sum;
    Optimizer *optimizer = make(c, list_of(&set));
    assert_non_null(optimizer);
    assert_string_equal(optim_name(optimizer), c->name);
    assert_int_equal(books()->live_by[MEM_OPTIMIZER], bytes);
    assert_int_equal(books()->live, live + bytes);
    assert_int_equal(books()->allocations, allocations + (uint64_t)c->arrays * COUNT);
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < COUNT; i++)
            if (has_gradient(i, step)) {
                uint32_t stream = (uint32_t)(1000 + step * COUNT + i);
                give_gradient(set.items[i], stream, 1);
                model_step(&models[i], c, (double)c->lr, decay_of(c, i), stream, 1);
            }
        uint64_t events = books()->event_hash;
        assert_int_equal(optim_step(optimizer), 0);
        assert_true(books()->event_hash == events); /* a step allocates nothing and frees nothing */
        assert_int_equal(optim_steps(optimizer), step + 1);
        optim_zero_grad(optimizer);
        for (int i = 0; i < COUNT; i++)
            check_close(&models[i], set.items[i], c->name);
    }
    fine();
    optimizer_free(optimizer);
    assert_int_equal(books()->live_by[MEM_OPTIMIZER], 0);
    models_free(models);
    set_free(&set);
    assert_int_equal(books()->live, 0);
}

static void test_rules(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_rule(&cases[i]);
}

/* Reserved memory comes back dirty: state must be zeroed, not assumed zero. */
static void test_state_is_zeroed(void **state)
{
    (void)state;
    Context *context =
        context_open(&(ContextOptions){.memory = MEMTRACK_RESERVED, .capacity = 1 << 20, .threads = 2});
    int scope = tensor_scope_begin();
    tensor_fill(tensor_new(DTYPE_F32, SHAPE(100000), MEM_BUFFER), NAN);
    tensor_scope_end(scope);
    Tensor *p = parameter(SHAPE(33), "p", 1);
    Model model = model_new(p);
    Optimizer *optimizer = optim_adam((TensorList){&p, 1}, &(Adam){.lr = 0.01f});
    give_gradient(p, 5, 1);
    assert_int_equal(optim_step(optimizer), 0);
    model_step(&model, &cases[9], 0.01, 0, 5, 1);
    check_close(&model, p, "reserved");
    model_free(&model);
    optimizer_free(optimizer);
    tensor_free(p);
    context_destroy(context);
    context_use(*state);
}

static void check_first_step(Optimizer *optimizer, Tensor *p, const Case *c, const char *what)
{
    assert_non_null(optimizer);
    Model model = model_new(p);
    for (int step = 0; step < 2; step++) {
        give_gradient(p, 9 + (uint32_t)step, 1);
        assert_int_equal(optim_step(optimizer), 0);
        optim_zero_grad(optimizer);
        model_step(&model, c, (double)c->lr, (double)c->weight_decay, 9 + (uint32_t)step, 1);
    }
    check_close(&model, p, what);
    assert_true(optim_lr(optimizer) == c->lr);
    assert_string_equal(optim_name(optimizer), c->name);
    model_free(&model);
    optimizer_free(optimizer);
}

/* What zero, NULL and names stand for. */
static void test_defaults_and_names(void **state)
{
    (void)state;
    static const Case expected[] = {
        {"sgd", KIND_SGD, 0, .lr = 1e-3f},
        {"sgd-momentum", KIND_SGD, 1, .lr = 1e-3f, .momentum = 0.9f},
        {"sgd-nesterov", KIND_SGD, 1, .lr = 1e-3f, .momentum = 0.9f, .nesterov = 1},
        {"rmsprop", KIND_RMSPROP, 1, .lr = 1e-2f, .alpha = 0.99f, .eps = 1e-8f},
        {"adam", KIND_ADAM, 2, .lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f},
        {"adamw", KIND_ADAMW, 2, .lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f,
         .weight_decay = 0.01f},
    };
    Tensor *p = parameter(SHAPE(7, 5), "p", 1);
    TensorList list = {&p, 1};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        Case c = expected[i];
        check_first_step(optim_by_name(c.name, list, 0, 0), p, &c, "by name");
        c.lr = 0.25f;
        c.weight_decay = 0.125f;
        check_first_step(optim_by_name(c.name, list, 0.25f, 0.125f), p, &c, "by name with options");
        c.weight_decay = 0;
        check_first_step(optim_by_name(c.name, list, 0.25f, -1), p, &c, "by name without decay");
    }
    check_first_step(optim_sgd(list, NULL), p, &expected[0], "sgd");
    check_first_step(optim_rmsprop(list, NULL), p, &expected[3], "rmsprop");
    check_first_step(optim_adam(list, &(Adam){0}), p, &expected[4], "adam");
    check_first_step(optim_adamw(list, NULL), p, &expected[5], "adamw");
    Case no_decay = expected[5];
    no_decay.weight_decay = 0;
    check_first_step(optim_adamw(list, &(AdamW){.weight_decay = -1}), p, &no_decay, "adamw without decay");
    fine();
    assert_null(optim_by_name("lion", list, 0, 0));
    refused(ERROR_ARGUMENT, "'lion'; known are sgd, sgd-momentum, sgd-nesterov, rmsprop, adam, adamw");
    assert_null(optim_by_name(NULL, list, 0, 0));
    refused(ERROR_ARGUMENT, "known are");
    tensor_free(p);
}

/* ---- Groups, schedules, clipping ------------------------------------------------------------- */

static void test_groups(void **state)
{
    (void)state;
    const Case *c = &cases[11]; /* adamw */
    Set set = set_new();
    Model models[COUNT];
    models_of(&set, models);
    Optimizer *optimizer = make(c, list_of(&set));
    static const float lr_scale[COUNT] = {1, 0.5f, 0.5f, 1, 0}, decay[COUNT] = {0, 0.25f, 0.25f, 0, 0.3f};
    for (int step = 0; step < STEPS; step++) {
        if (step == 4) { /* takes effect from here on; before, each has its own */
            assert_int_equal(optim_set_group(optimizer, (TensorList){&set.items[1], 2}, 0.5f, 0.25f), 0);
            assert_int_equal(optim_set_group(optimizer, (TensorList){&set.items[4], 1}, 0, 0.3f), 0);
        }
        for (int i = 0; i < COUNT; i++) {
            uint32_t stream = (uint32_t)(1000 + step * COUNT + i);
            double lr = (double)c->lr * (step < 4 ? 1 : (double)lr_scale[i]);
            give_gradient(set.items[i], stream, 1);
            model_step(&models[i], c, lr, step < 4 ? decay_of(c, i) : (double)decay[i], stream, 1);
        }
        optim_step(optimizer);
        optim_zero_grad(optimizer);
    }
    fine();
    for (int i = 0; i < COUNT; i++)
        check_close(&models[i], set.items[i], "groups");
    Tensor *stranger = parameter(SHAPE(3), "stranger", 1);
    optim_set_group(optimizer, (TensorList){&stranger, 1}, 1, 0);
    refused(ERROR_ARGUMENT, "'stranger' is not one of this optimizer's");
    tensor_set_requires_grad(stranger, 0); /* frozen ones are skipped, as at creation */
    assert_int_equal(optim_set_group(optimizer, (TensorList){&stranger, 1}, 1, 0), 0);
    optim_set_group(optimizer, list_of(&set), -1, 0);
    refused(ERROR_ARGUMENT, "lr_scale is -1");
    optim_set_group(optimizer, list_of(&set), 1, NAN);
    refused(ERROR_ARGUMENT, "weight_decay is");
    tensor_free(stranger);
    optimizer_free(optimizer);
    models_free(models);
    set_free(&set);
}

/* Steps an optimizer with lr 2 and a gradient of 1 `steps` times; rates[k] is how far step k moved. */
static void run_schedule(const Schedule *schedule, int steps, double *rates)
{
    Tensor *p = tensor_parameter(SHAPE(1)), *unused = parameter(SHAPE(2), "unused", 1);
    Tensor *both[] = {p, unused};
    tensor_fill(p, 0);
    Optimizer *optimizer = optim_sgd((TensorList){both, 2}, &(Sgd){.lr = 2});
    assert_int_equal(optim_set_schedule(optimizer, schedule), 0);
    for (int step = 0; step < steps; step++) {
        int scope = tensor_scope_begin();
        tensor_backward(tensor_sum(p));
        tensor_scope_end(scope);
        tensor_fill(p, 0);
        double announced = (double)optim_lr(optimizer);
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        rates[step] = -(double)tensor_item(p);
        assert_true(rates[step] == announced);
    }
    fine();
    optimizer_free(optimizer);
    tensor_free(p);
    tensor_free(unused);
}

static void near(double value, double expected)
{
    if (!(fabs(value - expected) <= 1e-6))
        fail_msg("%.9g is not %.9g", value, expected);
}

static void test_schedules(void **state)
{
    (void)state;
    double r[20];
    run_schedule(NULL, 3, r);
    near(r[0], 2);
    near(r[2], 2);
    run_schedule(&(Schedule){.warmup = 4}, 6, r);
    for (int k = 0; k < 4; k++)
        near(r[k], 2 * (k + 1) / 4.0);
    near(r[4], 2);
    near(r[5], 2);
    run_schedule(&(Schedule){.kind = SCHEDULE_LINEAR, .total = 10}, 12, r);
    for (int k = 0; k < 10; k++)
        near(r[k], 2 * (10 - k) / 10.0);
    near(r[10], 0);
    near(r[11], 0);
    run_schedule(&(Schedule){.kind = SCHEDULE_LINEAR, .warmup = 2, .total = 12, .min_ratio = 0.5f}, 14, r);
    near(r[0], 1);
    near(r[1], 2);
    near(r[2], 2);
    near(r[7], 1.5);
    near(r[12], 1);
    near(r[13], 1);
    run_schedule(&(Schedule){.kind = SCHEDULE_COSINE, .warmup = 4, .total = 16}, 20, r);
    near(r[0], 0.5);
    near(r[3], 2);
    near(r[4], 2);
    near(r[8], 1 + cos(3.14159265358979 / 3));
    near(r[10], 1);
    near(r[15], 1 + cos(3.14159265358979 * 11 / 12));
    near(r[16], 0);
    near(r[19], 0); /* and does not rise again */
    run_schedule(&(Schedule){.kind = SCHEDULE_COSINE, .total = 8, .min_ratio = 0.1f}, 10, r);
    near(r[0], 2);
    near(r[4], 1.1);
    near(r[8], 0.2);
    near(r[9], 0.2);
    /* Nothing but warm-up. */
    run_schedule(&(Schedule){.kind = SCHEDULE_COSINE, .warmup = 3, .total = 3}, 5, r);
    near(r[2], 2);
    near(r[3], 0);
}

static void test_set_lr(void **state)
{
    (void)state;
    Tensor *p = parameter(SHAPE(1), "p", 1);
    Optimizer *optimizer = optim_sgd((TensorList){&p, 1}, &(Sgd){.lr = 2});
    optim_set_schedule(optimizer, &(Schedule){.warmup = 4});
    optim_set_lr(optimizer, 8);
    near((double)optim_lr(optimizer), 2);
    optim_set_lr(optimizer, 0);
    near((double)optim_lr(optimizer), 0);
    fine();
    optim_set_lr(optimizer, -1);
    refused(ERROR_ARGUMENT, "lr is -1");
    optim_set_lr(optimizer, NAN);
    refused(ERROR_ARGUMENT, "lr is");
    near((double)optim_lr(optimizer), 0);
    optimizer_free(optimizer);
    tensor_free(p);
}

/* Plain SGD, so that what was subtracted shows the factor. */
static void check_clip(float max_norm)
{
    Set set = set_new();
    Model models[COUNT];
    double squares = 0;
    for (int i = 0; i < COUNT; i++) {
        models[i] = model_new(set.items[i]);
        give_gradient(set.items[i], 50 + (uint32_t)i, 1);
        for (int64_t k = 0; k < models[i].n; k++)
            squares += pow((double)noise(50 + (uint32_t)i, (uint32_t)k), 2);
    }
    Optimizer *optimizer = make(&cases[0], list_of(&set));
    assert_int_equal(optim_set_clip(optimizer, max_norm), 0);
    assert_true(optim_grad_norm(optimizer) == 0);
    assert_int_equal(optim_step(optimizer), 0);
    double scale = fmin(1, (double)max_norm / (sqrt(squares) + 1e-6));
    assert_true(fabs((double)optim_grad_norm(optimizer) / sqrt(squares) - 1) < 1e-6);
    for (int i = 0; i < COUNT; i++) {
        model_step(&models[i], &cases[0], (double)cases[0].lr, 0, 50 + (uint32_t)i, scale);
        check_close(&models[i], set.items[i], "clip");
        assert_true(tensor_grad(set.items[i])[0] == noise(50 + (uint32_t)i, 0)); /* untouched */
        model_free(&models[i]);
    }
    optim_set_clip(optimizer, 0);
    optim_step(optimizer);
    assert_true(optim_grad_norm(optimizer) == 0);
    optimizer_free(optimizer);
    set_free(&set);
    fine();
}

static void test_clip(void **state)
{
    (void)state;
    check_clip(1);
    check_clip(1e6f);
    check_clip(INFINITY); /* measures only */
}

static void test_clip_refuses_nonfinite(void **state)
{
    (void)state;
    Set set = set_new();
    Optimizer *optimizer = make(&cases[11], list_of(&set));
    optim_set_clip(optimizer, 1);
    for (int step = 0; step < 2; step++) {
        for (int i = 0; i < COUNT; i++)
            give_gradient(set.items[i], 50 + (uint32_t)i, 1);
        if (step == 0) {
            optim_step(optimizer);
            optim_zero_grad(optimizer);
        }
    }
    float *before[COUNT];
    for (int i = 0; i < COUNT; i++) {
        size_t bytes = (size_t)tensor_numel(set.items[i]) * sizeof(float);
        before[i] = memcpy(test_malloc(bytes), tensor_f32(set.items[i]), bytes);
    }
    tensor_grad(set.items[2])[17] = NAN;
    tensor_grad(set.items[4])[0] = INFINITY;
    assert_int_equal(optim_step(optimizer), ERROR_NONFINITE);
    assert_non_null(strstr(error_message(), "element 17"));
    refused(ERROR_NONFINITE, "parameter 2 'weight' (7,5) is NaN; nothing was updated");
    tensor_grad(set.items[2])[17] = 1;
    assert_int_equal(optim_step(optimizer), ERROR_NONFINITE);
    refused(ERROR_NONFINITE, "parameter 4 'cube' (3,71,67) is infinite");
    for (int i = 0; i < COUNT; i++) {
        size_t bytes = (size_t)tensor_numel(set.items[i]) * sizeof(float);
        assert_memory_equal(before[i], tensor_f32(set.items[i]), bytes);
        test_free(before[i]);
    }
    assert_int_equal(optim_steps(optimizer), 1);
    tensor_grad(set.items[4])[0] = 1e30f; /* its square is no float, its norm is */
    assert_int_equal(optim_step(optimizer), 0);
    assert_true(fabs((double)optim_grad_norm(optimizer) / 1e30 - 1) < 1e-6);
    optimizer_free(optimizer);
    set_free(&set);
}

/* ---- Memory and the books -------------------------------------------------------------------- */

static void test_zero_grad(void **state)
{
    (void)state;
    Set set = set_new();
    Optimizer *optimizer = make(&cases[0], list_of(&set));
    for (int i = 0; i < COUNT; i++)
        give_gradient(set.items[i], 1, 1);
    assert_int_equal(books()->live_by[MEM_GRADIENT], rounded_sum);
    optim_zero_grad(optimizer);
    assert_int_equal(books()->live_by[MEM_GRADIENT], 0);
    for (int i = 0; i < COUNT; i++)
        assert_false(tensor_has_grad(set.items[i]));
    optim_zero_grad(optimizer);
    give_gradient(set.items[2], 1, 1); /* the next backward starts from nothing */
    assert_true(tensor_grad(set.items[2])[3] == noise(1, 3));
    error_raise(ERROR_DATA, "pending");
    optim_zero_grad(optimizer); /* frees in any case */
    assert_false(tensor_has_grad(set.items[2]));
    error_clear();
    optimizer_free(optimizer);
    set_free(&set);
}

/* State stands at its parameter's place; phase, op and place come back. */
static void test_where(void **state)
{
    MemTracker *tracker = context_tracker(*state);
    MemLedger *ledger = context_ledger(*state);
    Tensor *p[2];
    for (int i = 0; i < 2; i++) {
        memtrack_place_push(tracker, i ? "second" : "first");
        p[i] = parameter(SHAPE(2, 3), i ? "b" : "a", 1);
        memtrack_place_pop(tracker);
    }
    memtrack_op_set(tracker, "mine");
    memtrack_log_start(ledger, 0, NULL, NULL);
    Optimizer *optimizer = optim_adam((TensorList){p, 2}, NULL);
    assert_int_equal(memtrack_log_count(ledger), 4);
    for (size_t i = 0; i < 4; i++) {
        const MemEvent *event = memtrack_log_event(ledger, i);
        assert_int_equal(event->kind, MEM_EVENT_ALLOC);
        assert_int_equal(event->component, MEM_OPTIMIZER);
        assert_string_equal(memtrack_place_name(tracker, event->where.place), i < 2 ? "first" : "second");
        assert_string_equal(event->where.op, "adam");
    }
    assert_string_equal(memtrack_place_name(tracker, memtrack_place(tracker)), "");
    give_gradient(p[0], 1, 1);
    memtrack_phase_set(tracker, MEM_PHASE_FORWARD);
    memtrack_log_start(ledger, 0, NULL, NULL);
    optim_step(optimizer);
    optim_zero_grad(optimizer);
    assert_int_equal(memtrack_log_count(ledger), 1);
    assert_int_equal(memtrack_log_event(ledger, 0)->kind, MEM_EVENT_FREE);
    assert_int_equal(memtrack_log_event(ledger, 0)->where.phase, MEM_PHASE_OPTIMIZER);
    memtrack_log_stop(ledger);
    assert_int_equal(memtrack_phase(tracker), MEM_PHASE_FORWARD);
    assert_string_equal(memtrack_op_set(tracker, NULL), "mine");
    assert_int_equal(memtrack_step(tracker), 0);
    give_gradient(p[0], 1, 1); /* the next step begins with the next forward */
    assert_int_equal(memtrack_step(tracker), 1);
    optimizer_free(optimizer);
    tensor_free(p[0]);
    tensor_free(p[1]);
    fine();
}

/* A small program: everything an optimizer does. Two of them, one through a scope. */
static void scene(void)
{
    Set set = set_new();
    int scope = tensor_scope_begin();
    Optimizer *one = optim_adamw((TensorList){set.items, 2}, NULL);
    Optimizer *two = optim_sgd((TensorList){set.items + 2, 3}, &(Sgd){.momentum = 0.9f});
    optim_set_clip(one, 1);
    optim_set_schedule(two, &(Schedule){.kind = SCHEDULE_COSINE, .warmup = 1, .total = 3});
    optim_set_group(two, (TensorList){set.items + 2, 1}, 0.5f, 0.1f);
    for (int step = 0; step < 3 && !error_code(); step++) {
        for (int i = 0; i < COUNT; i++)
            give_gradient(set.items[i], (uint32_t)i, 1);
        optim_step(one);
        optim_step(two);
        optim_zero_grad(one);
        optim_zero_grad(two);
    }
    if (!error_code()) {
        assert_int_equal(optim_steps(one), 3);
        assert_int_equal(optim_steps(two), 3);
    }
    optimizer_free(two);
    tensor_scope_end(scope);
    set_free(&set);
}

static void test_meta_has_the_same_events(void **state)
{
    Context *real = *state;
    scene();
    fine();
    Context *meta = context_open(&(ContextOptions){.meta = 1, .threads = 2, .seed = 7});
    scene();
    fine();
    const MemStats *a = memtrack_stats(context_ledger(real)), *b = memtrack_stats(context_ledger(meta));
    assert_true(a->event_hash == b->event_hash);
    assert_int_equal(a->allocations, b->allocations);
    assert_int_equal(a->peak, b->peak);
    assert_int_equal(a->needs, b->needs);
    assert_int_equal(b->own_peak[MEM_OPTIMIZER],
                     2 * (rounded[0] + rounded[1]) + rounded[2] + rounded[3] + rounded[4]);
    assert_int_equal(b->live, 0);
    context_destroy(meta);
    context_use(real);
}

/* Every allocation of the program fails once: an error, nothing lost, and the context goes on. */
static void test_fail_nth(void **state)
{
    Context *context = *state;
    scene(); /* the tape and the places have their room */
    fine();
    uint64_t host = memtrack_host_live(context_tracker(context));
    uint64_t failed = 0;
    for (uint64_t n = 1; n < 2000; n++) {
        memtrack_fail_nth(n);
        scene();
        int reached = !memtrack_fail_pending();
        memtrack_fail_nth(0);
        if (!reached)
            break;
        failed++;
        int code = error_code();
        assert_true(code == ERROR_MEMORY || code == ERROR_HOST_MEMORY);
        error_clear();
        assert_int_equal(books()->live, 0);
        assert_int_equal(memtrack_host_live(context_tracker(context)), host);
    }
    fine();
    assert_in_range(failed, 50, 1999);
}

/* The same for creation alone: what half-made optimizers hold is given back at once. */
static void test_creation_fails(void **state)
{
    (void)state;
    Set set = set_new();
    uint64_t live = books()->live, host = memtrack_host_live(context_tracker(*state));
    uint64_t n = 0;
    for (int made = 0; !made;) {
        memtrack_fail_nth(++n);
        Optimizer *optimizer = make(&cases[11], list_of(&set));
        made = memtrack_fail_pending();
        memtrack_fail_nth(0);
        if (!made) {
            assert_null(optimizer);
            assert_true(error_code() == ERROR_MEMORY || error_code() == ERROR_HOST_MEMORY);
            error_clear();
        }
        optimizer_free(optimizer);
        assert_int_equal(books()->live, live);
        assert_int_equal(memtrack_host_live(context_tracker(*state)), host);
    }
    /* Itself, two lists, then a header and a block for each array; and the one that was not reached. */
    assert_int_equal(n, 3 + 2 * 2 * COUNT + 1);
    set_free(&set);
}

/* ---- Ownership ------------------------------------------------------------------------------- */

/* Same parameters in two optimizers; both update, each with its own state. */
static void test_two_optimizers(void **state)
{
    (void)state;
    Set set = set_new();
    Model model = model_new(set.items[2]);
    Optimizer *plain = make(&cases[0], (TensorList){&set.items[2], 1});
    Optimizer *scaled = make(&cases[2], list_of(&set));
    for (int step = 0; step < 3; step++) {
        give_gradient(set.items[2], 5, 1);
        optim_step(plain);
        optim_step(scaled);
        optim_zero_grad(plain);
        model_step(&model, &cases[0], (double)cases[0].lr, 0, 5, 1);
        model.updates = step; /* the plain one keeps no count */
        model_step(&model, &cases[2], (double)cases[2].lr, (double)cases[2].weight_decay, 5, 1);
    }
    check_close(&model, set.items[2], "two");
    assert_int_equal(optim_steps(plain), 3);
    assert_int_equal(optim_parameters(scaled).count, COUNT);
    assert_ptr_equal(optim_parameters(scaled).items[3], set.items[3]);
    optimizer_free(plain);
    optimizer_free(scaled);
    model_free(&model);
    set_free(&set);
}

static void test_any_order_of_freeing(void **state)
{
    Tensor *p = parameter(SHAPE(1), "p", 1);
    give_gradient(p, 1, 1); /* the tape has its room */
    tensor_free(p);
    uint64_t host = memtrack_host_live(context_tracker(*state));
    int scope = tensor_scope_begin();
    Set set = set_new();
    Optimizer *optimizer = make(&cases[9], list_of(&set));
    give_gradient(set.items[0], 1, 1);
    tensor_free(set.items[1]); /* has no gradient: there is nothing to do for it */
    assert_int_equal(optim_step(optimizer), 0);
    give_gradient(set.items[2], 1, 1);
    tensor_free(set.items[2]); /* its gradient goes with it */
    assert_int_equal(books()->live_by[MEM_GRADIENT], rounded[0]);
    assert_int_equal(optim_step(optimizer), 0);
    tensor_free(set.items[0]);
    tensor_free(set.items[3]);
    tensor_free(set.items[4]);
    tensor_scope_end(scope); /* takes the optimizer with it */
    assert_int_equal(books()->live, 0);
    assert_int_equal(memtrack_host_live(context_tracker(*state)), host);
    fine();
}

/* Frozen ones are skipped, tied ones count once; a parameter frozen later keeps still. */
static void test_frozen_and_tied(void **state)
{
    (void)state;
    Set set = set_new();
    tensor_set_requires_grad(set.items[4], 0);
    Tensor *list[] = {set.items[1], set.items[4], set.items[2], set.items[1]};
    Optimizer *optimizer = make(&cases[2], (TensorList){list, 4});
    assert_int_equal(optim_parameters(optimizer).count, 2);
    assert_int_equal(books()->live_by[MEM_OPTIMIZER], rounded[1] + rounded[2]);
    give_gradient(set.items[1], 1, 1);
    give_gradient(set.items[2], 1, 1);
    tensor_set_requires_grad(set.items[2], 0);
    float still = tensor_f32(set.items[2])[0], moving = tensor_f32(set.items[1])[0];
    optim_step(optimizer);
    assert_true(tensor_f32(set.items[2])[0] == still);
    near((double)tensor_f32(set.items[1])[0],
         (double)moving - 0.1 * (double)noise(1, 0)); /* once, not twice */
    optimizer_free(optimizer);
    set_free(&set);
    fine();
}

/* ---- What is refused ------------------------------------------------------------------------- */

static void test_bad_options(void **state)
{
    (void)state;
    Tensor *p = parameter(SHAPE(3, 3), "p", 1);
    TensorList list = {&p, 1};
#define REFUSED(call, text)                                                                                  \
    do {                                                                                                     \
        assert_null(call);                                                                                   \
        refused(ERROR_ARGUMENT, text);                                                                       \
    } while (0)
    REFUSED(optim_sgd(list, &(Sgd){.lr = -1}), "optimizer sgd: lr is -1");
    REFUSED(optim_sgd(list, &(Sgd){.lr = NAN}), "lr is");
    REFUSED(optim_sgd(list, &(Sgd){.lr = INFINITY}), "lr is inf");
    REFUSED(optim_sgd(list, &(Sgd){.momentum = -0.5f}), "momentum is -0.5");
    REFUSED(optim_sgd(list, &(Sgd){.momentum = NAN}), "momentum is");
    REFUSED(optim_sgd(list, &(Sgd){.momentum = 0.9f, .dampening = NAN}), "dampening is");
    REFUSED(optim_sgd(list, &(Sgd){.weight_decay = -1}), "weight_decay is -1");
    REFUSED(optim_sgd(list, &(Sgd){.nesterov = 1}), "nesterov needs momentum > 0");
    REFUSED(optim_sgd(list, &(Sgd){.nesterov = 1, .momentum = 0.9f, .dampening = 0.1f}), "nesterov needs");
    REFUSED(optim_rmsprop(list, &(RmsProp){.lr = -1}), "optimizer rmsprop: lr is -1");
    REFUSED(optim_rmsprop(list, &(RmsProp){.alpha = 1}), "alpha is 1; it must be in [0, 1)");
    REFUSED(optim_rmsprop(list, &(RmsProp){.alpha = -1}), "alpha is -1");
    REFUSED(optim_rmsprop(list, &(RmsProp){.eps = -1}), "eps is -1");
    REFUSED(optim_rmsprop(list, &(RmsProp){.momentum = -1}), "momentum is -1");
    REFUSED(optim_rmsprop(list, &(RmsProp){.weight_decay = NAN}), "weight_decay is");
    REFUSED(optim_adam(list, &(Adam){.lr = -1}), "optimizer adam: lr is -1");
    REFUSED(optim_adam(list, &(Adam){.beta1 = 1}), "beta1 is 1; it must be in [0, 1)");
    REFUSED(optim_adam(list, &(Adam){.beta2 = -0.1f}), "beta2 is -0.1");
    REFUSED(optim_adam(list, &(Adam){.eps = NAN}), "eps is");
    REFUSED(optim_adam(list, &(Adam){.weight_decay = -1}), "weight_decay is -1");
    REFUSED(optim_adamw(list, &(AdamW){.lr = -1}), "optimizer adamw: lr is -1");
    REFUSED(optim_adamw(list, &(AdamW){.beta1 = -1}), "beta1 is -1");
    REFUSED(optim_adamw(list, &(AdamW){.beta2 = 1.5f}), "beta2 is 1.5");
    REFUSED(optim_adamw(list, &(AdamW){.weight_decay = NAN}), "weight_decay is");
    REFUSED(optim_by_name("adam", list, -1, 0), "lr is -1");
#undef REFUSED
    assert_int_equal(books()->live_by[MEM_OPTIMIZER], 0);
    tensor_free(p);
}

static void test_bad_settings(void **state)
{
    (void)state;
    Tensor *p = parameter(SHAPE(3, 3), "p", 1);
    Optimizer *optimizer = optim_sgd((TensorList){&p, 1}, NULL);
    static const struct {
        Schedule schedule;
        const char *text;
    } bad[] = {
        {{.kind = SCHEDULE_LINEAR}, "need total"},
        {{.kind = SCHEDULE_COSINE, .warmup = 5}, "need total"},
        {{.kind = SCHEDULE_COSINE, .warmup = 11, .total = 10},
         "11 steps of warm-up are more than the 10 in all"},
        {{.warmup = -1}, "must not be negative"},
        {{.kind = SCHEDULE_LINEAR, .total = -1}, "must not be negative"},
        {{.kind = SCHEDULE_LINEAR, .total = 10, .min_ratio = 1.5f}, "min_ratio is 1.5"},
        {{.kind = SCHEDULE_LINEAR, .total = 10, .min_ratio = NAN}, "min_ratio is"},
        {{.kind = (ScheduleKind)7, .total = 10}, "kind 7"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(optim_set_schedule(optimizer, &bad[i].schedule), ERROR_ARGUMENT);
        refused(ERROR_ARGUMENT, bad[i].text);
    }
    near((double)optim_lr(optimizer), 1e-3);
    assert_int_equal(optim_set_clip(optimizer, -1), ERROR_ARGUMENT);
    refused(ERROR_ARGUMENT, "max_norm is -1");
    assert_int_equal(optim_set_clip(optimizer, NAN), ERROR_ARGUMENT);
    refused(ERROR_ARGUMENT, "max_norm is");
    optimizer_free(optimizer);
    tensor_free(p);
}

static void test_bad_parameters(void **state)
{
    Context *context = *state;
    int scope = tensor_scope_begin();
    Tensor *p = parameter(SHAPE(3, 3), "p", 1);
    Tensor *frozen = parameter(SHAPE(3), "frozen", 1);
    tensor_set_requires_grad(frozen, 0);
    Tensor *product = tensor_mul(p, p);
    Tensor *input = tensor_zeros(DTYPE_F32, SHAPE(3), MEM_INPUT),
           *ids = tensor_zeros(DTYPE_I32, SHAPE(3), MEM_INPUT);
    tensor_set_name(input, "x");
    Tensor *bad[] = {product, input, ids, NULL};
    static const char *const texts[] = {"parameter 1 '' was made by an operation",
                                        "'x' does not require a gradient", "is not f32", "is NULL"};
    assert_null(optim_adam((TensorList){NULL, 0}, NULL));
    refused(ERROR_ARGUMENT, "the list of parameters is empty");
    assert_null(optim_adam((TensorList){&frozen, 1}, NULL));
    refused(ERROR_ARGUMENT, "every parameter is frozen");
    for (int i = 0; i < 4; i++) {
        assert_null(optim_adam((TensorList){(Tensor *[]){p, bad[i]}, 2}, NULL));
        refused(ERROR_ARGUMENT, texts[i]);
        assert_int_equal(books()->live_by[MEM_OPTIMIZER], 0);
    }
    Optimizer *optimizer = optim_sgd((TensorList){&p, 1}, NULL);
    Context *other = context_open(&(ContextOptions){.meta = 1});
    assert_null(optim_adam((TensorList){&p, 1}, NULL));
    refused(ERROR_ARGUMENT, "belongs to another context");
    assert_int_equal(optim_step(optimizer), ERROR_STATE);
    refused(ERROR_STATE, "belongs to another context");
    context_destroy(other);
    context_use(context);
    tensor_scope_end(scope);
    tensor_free(p);
    tensor_free(frozen);
}

/* With an error pending nothing is made and nothing moves; NULL is quiet. */
static void test_pending_error_and_null(void **state)
{
    (void)state;
    Tensor *p = parameter(SHAPE(3, 3), "p", 1);
    Optimizer *optimizer = optim_sgd((TensorList){&p, 1}, NULL);
    give_gradient(p, 1, 1);
    float before = tensor_f32(p)[0];
    error_raise(ERROR_DATA, "pending");
    assert_int_equal(optim_step(optimizer), ERROR_DATA);
    assert_null(optim_sgd((TensorList){&p, 1}, NULL));
    error_clear();
    assert_true(tensor_f32(p)[0] == before);
    assert_int_equal(optim_steps(optimizer), 0);
    optimizer_free(optimizer);
    optimizer_free(NULL);
    assert_int_equal(optim_step(NULL), 0);
    assert_int_equal(optim_set_clip(NULL, 1), 0);
    assert_int_equal(optim_set_schedule(NULL, NULL), 0);
    assert_int_equal(optim_set_group(NULL, (TensorList){&p, 1}, 1, 0), 0);
    optim_set_lr(NULL, 1);
    optim_zero_grad(NULL);
    assert_true(optim_lr(NULL) == 0 && optim_grad_norm(NULL) == 0 && optim_steps(NULL) == 0);
    assert_string_equal(optim_name(NULL), "");
    assert_int_equal(optim_parameters(NULL).count, 0);
    fine();
    tensor_free(p);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_rules),
        TEST(test_state_is_zeroed),
        TEST(test_defaults_and_names),
        TEST(test_groups),
        TEST(test_schedules),
        TEST(test_set_lr),
        TEST(test_clip),
        TEST(test_clip_refuses_nonfinite),
        TEST(test_zero_grad),
        TEST(test_where),
        TEST(test_meta_has_the_same_events),
        TEST(test_fail_nth),
        TEST(test_creation_fails),
        TEST(test_two_optimizers),
        TEST(test_any_order_of_freeing),
        TEST(test_frozen_and_tied),
        TEST(test_bad_options),
        TEST(test_bad_settings),
        TEST(test_bad_parameters),
        TEST(test_pending_error_and_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
