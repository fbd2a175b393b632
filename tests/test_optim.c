/* Optimizers: every rule against PyTorch's formulae written out plainly in double; groups, schedules,
 * clipping. */
#include "optim_support.h"

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

static double adagrad_change(const Case *c, double g, double *sum)
{
    *sum += g * g;
    return g / (sqrt(*sum) + (double)c->eps);
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
        else if (c->kind == KIND_ADAGRAD)
            m->p[i] -= lr * adagrad_change(c, g, &m->a[i]);
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
        {"adagrad", KIND_ADAGRAD, 1, .lr = 1e-2f, .eps = 1e-10f},
        {"adam", KIND_ADAM, 2, .lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f},
        {"adamw", KIND_ADAMW, 2, .lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f,
         .weight_decay = 0.01f},
        {"adam8bit", KIND_ADAM, 2, .lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f},
        {"adamw8bit", KIND_ADAMW, 2, .lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f,
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
    check_first_step(optim_adagrad(list, NULL), p, &expected[4], "adagrad");
    check_first_step(optim_adam(list, &(Adam){0}), p, &expected[5], "adam");
    check_first_step(optim_adamw(list, NULL), p, &expected[6], "adamw");
    check_first_step(optim_adam8bit(list, NULL), p, &expected[7], "adam8bit");
    check_first_step(optim_adamw8bit(list, NULL), p, &expected[8], "adamw8bit");
    Case no_decay = expected[6];
    no_decay.weight_decay = 0;
    check_first_step(optim_adamw(list, &(AdamW){.weight_decay = -1}), p, &no_decay, "adamw without decay");
    fine();
    assert_null(optim_by_name("lion", list, 0, 0));
    refused(ERROR_ARGUMENT,
            "'lion'; known are sgd, sgd-momentum, sgd-nesterov, rmsprop, adagrad, adam, adamw, adam8bit, adamw8bit");
    assert_null(optim_by_name(NULL, list, 0, 0));
    refused(ERROR_ARGUMENT, "known are");
    tensor_free(p);
}

/* Each row says of its optimizer what that has. */
static void test_table(void **state)
{
    (void)state;
    Tensor *p = tensor_parameter(SHAPE(3, 4));
    TensorList list = {&p, 1};
    int count = 0;
    for (const OptimRule *rule; (rule = optim_rule_at(count)); count++) {
        Optimizer *optimizer = optim_by_name(rule->name, list, 0, 0);
        assert_string_equal(optim_name(optimizer), rule->name);
        assert_int_equal(optim_state_arrays(optimizer), rule->states);
        assert_ptr_equal(optim_rule(rule->name), rule); /* names are unique */
        assert_true(rule->title[0] && rule->usual_lr >= 0 && rule->tuning_lr > 0);
        optimizer_free(optimizer);
    }
    assert_int_equal(count, 9);
    assert_null(optim_rule_at(-1));
    assert_null(optim_rule("ada"));
    assert_null(optim_rule(NULL));
    fine();
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
        assert_true(grad_f32(set.items[i])[0] == noise(50 + (uint32_t)i, 0)); /* untouched */
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
    grad_f32(set.items[2])[17] = NAN;
    grad_f32(set.items[4])[0] = INFINITY;
    assert_int_equal(optim_step(optimizer), ERROR_NONFINITE);
    assert_non_null(strstr(error_message(), "element 17"));
    refused(ERROR_NONFINITE, "parameter 2 'weight' (7,5) is NaN; nothing was updated");
    grad_f32(set.items[2])[17] = 1;
    assert_int_equal(optim_step(optimizer), ERROR_NONFINITE);
    refused(ERROR_NONFINITE, "parameter 4 'cube' (3,71,67) is infinite");
    for (int i = 0; i < COUNT; i++) {
        size_t bytes = (size_t)tensor_numel(set.items[i]) * sizeof(float);
        assert_memory_equal(before[i], tensor_f32(set.items[i]), bytes);
        test_free(before[i]);
    }
    assert_int_equal(optim_steps(optimizer), 1);
    grad_f32(set.items[4])[0] = 1e30f; /* its square is no float, its norm is */
    assert_int_equal(optim_step(optimizer), 0);
    assert_true(fabs((double)optim_grad_norm(optimizer) / 1e30 - 1) < 1e-6);
    optimizer_free(optimizer);
    set_free(&set);
}

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

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_rules),
        TEST(test_state_is_zeroed),
        TEST(test_defaults_and_names),
        TEST(test_table),
        TEST(test_groups),
        TEST(test_schedules),
        TEST(test_set_lr),
        TEST(test_clip),
        TEST(test_clip_refuses_nonfinite),
        TEST(test_two_optimizers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
