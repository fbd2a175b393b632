/* Optimizers: what each costs in memory, who owns what, and what is refused. */
#include "optim_support.h"

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
    assert_true(grad_f32(set.items[2])[3] == noise(1, 3));
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
        memtrack_path_push(tracker, i ? "second" : "first");
        p[i] = parameter(SHAPE(2, 3), i ? "b" : "a", 1);
        memtrack_path_pop(tracker);
    }
    memtrack_op_set(tracker, "mine");
    memtrack_log_start(ledger, 0, NULL, NULL);
    Optimizer *optimizer = optim_adam((TensorList){p, 2}, NULL);
    assert_int_equal(memtrack_log_count(ledger), 4);
    for (size_t i = 0; i < 4; i++) {
        const MemEvent *event = memtrack_log_event(ledger, i);
        assert_int_equal(event->kind, MEM_EVENT_ALLOC);
        assert_int_equal(event->component, MEM_OPTIMIZER);
        assert_string_equal(memtrack_path_name(tracker, event->where.path), i < 2 ? "first" : "second");
        assert_string_equal(event->where.op, "adam");
    }
    assert_string_equal(memtrack_path_name(tracker, memtrack_path(tracker)), "");
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
    /* Itself, two lists, then a tensor, its storage and a block for each array; and the one not reached. */
    assert_int_equal(n, 3 + 3 * 2 * COUNT + 1);
    set_free(&set);
}

/* ---- Ownership ------------------------------------------------------------------------------- */

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
    REFUSED(optim_adagrad(list, &(Adagrad){.eps = -1}), "optimizer adagrad: eps is -1");
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
        TEST(test_zero_grad),
        TEST(test_where),
        TEST(test_meta_has_the_same_events),
        TEST(test_fail_nth),
        TEST(test_creation_fails),
        TEST(test_any_order_of_freeing),
        TEST(test_frozen_and_tied),
        TEST(test_bad_options),
        TEST(test_bad_settings),
        TEST(test_bad_parameters),
        TEST(test_pending_error_and_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
