/* Twenty steps of each optimizer, with schedules, clipping and groups, against PyTorch's (parity/README.md).
 */
#include "optim/optim.h"
#include "support.h"

enum { STEPS = 20, NUMEL0 = 33, NUMEL = 68 };

static float real(const char *text, const char *key)
{
    return (float)attribute(text, key, 0);
}

static Optimizer *optimizer_of(const char *text, TensorList list)
{
    float lr = real(text, "lr"), decay = real(text, "weight_decay"), eps = real(text, "eps");
    int all = (int)attribute(text, "decay_all", 0);
    if (kind_is(text, "sgd"))
        return optim_sgd(list, &(Sgd){.lr = lr,
                                      .momentum = real(text, "momentum"),
                                      .dampening = real(text, "dampening"),
                                      .weight_decay = decay,
                                      .nesterov = (int)attribute(text, "nesterov", 0),
                                      .decay_all = all});
    if (kind_is(text, "rmsprop"))
        return optim_rmsprop(list, &(RmsProp){.lr = lr,
                                              .alpha = real(text, "alpha"),
                                              .eps = eps,
                                              .momentum = real(text, "momentum"),
                                              .weight_decay = decay,
                                              .decay_all = all});
    if (kind_is(text, "adagrad"))
        return optim_adagrad(list, &(Adagrad){.lr = lr, .eps = eps, .weight_decay = decay, .decay_all = all});
    float beta1 = real(text, "beta1"), beta2 = real(text, "beta2");
    if (kind_is(text, "adam"))
        return optim_adam(list, &(Adam){.lr = lr,
                                        .beta1 = beta1,
                                        .beta2 = beta2,
                                        .eps = eps,
                                        .weight_decay = decay,
                                        .decay_all = all});
    assert_true(kind_is(text, "adamw"));
    return optim_adamw(
        list,
        &(AdamW){
            .lr = lr, .beta1 = beta1, .beta2 = beta2, .eps = eps, .weight_decay = decay, .decay_all = all});
}

static void set_extras(Optimizer *optimizer, const char *text, Tensor **second)
{
    if (real(text, "clip") > 0)
        optim_set_clip(optimizer, real(text, "clip"));
    if (attribute(text, "group", 0) > 0)
        optim_set_group(optimizer, (TensorList){second, 1}, real(text, "group_lr_scale"),
                        real(text, "group_weight_decay"));
    Schedule schedule = {.warmup = (int64_t)attribute(text, "warmup", 0),
                         .total = (int64_t)attribute(text, "total", 0),
                         .min_ratio = real(text, "min_ratio")};
    if (attribute_is(text, "schedule", "linear"))
        schedule.kind = SCHEDULE_LINEAR;
    else if (attribute_is(text, "schedule", "cosine"))
        schedule.kind = SCHEDULE_COSINE;
    else if (!attribute_is(text, "schedule", "constant"))
        return;
    optim_set_schedule(optimizer, &schedule);
}

/* The gradient of sum(p * g) is g. */
static void give_gradients(Tensor *const parameter[2], const float *gradients)
{
    Tensor *sum[2];
    for (int p = 0; p < 2; p++) {
        Tensor *g = tensor_from(DTYPE_F32, tensor_shape(parameter[p]), MEM_INPUT, gradients + p * NUMEL0);
        sum[p] = tensor_sum(tensor_mul(parameter[p], g));
    }
    tensor_backward(tensor_add(sum[0], sum[1]));
}

static void check_step(const Fixture *fixture, int at, const char *text, int step, Tensor *const parameter[2])
{
    const Record *after = fixture_find(fixture, at, "parameters");
    const float *expected = (const float *)after->data + step * NUMEL;
    for (int p = 0; p < 2; p++) {
        int64_t n = tensor_numel(parameter[p]),
                bad = parity(expected + p * NUMEL0, tensor_f32(parameter[p]), n);
        if (bad >= 0)
            fail_msg("%s: after step %d parameter %d [%d] is %.9g, PyTorch has %.9g", text, step, p, (int)bad,
                     tensor_f32(parameter[p])[bad], expected[p * NUMEL0 + bad]);
    }
}

static void run_case(const Fixture *fixture, int at, const char *kernels, int in_backward)
{
    const char *text = fixture->records[at].data;
    Visit v = visit(&(ContextOptions){.threads = 1, .kernels = kernels});
    Tensor *parameter[2];
    for (int p = 0; p < 2; p++) {
        const Record *initial = fixture_find(fixture, 0, p ? "initial.1" : "initial.0");
        parameter[p] = tensor_parameter(initial->shape);
        memcpy(tensor_f32(parameter[p]), initial->data, (size_t)tensor_numel(parameter[p]) * sizeof(float));
    }
    Optimizer *optimizer = optimizer_of(text, (TensorList){parameter, 2});
    set_extras(optimizer, text, &parameter[1]);
    optim_set_in_backward(optimizer, in_backward);
    assert_fine();
    const float *gradients = fixture_find(fixture, 0, "gradients")->data;
    const float *rates = fixture_find(fixture, at, "lr")->data;
    const Record *norms = fixture_find(fixture, at, "norm");
    for (int step = 0; step < STEPS; step++) {
        int scope = tensor_scope_begin();
        float rate = optim_lr(optimizer);
        give_gradients(parameter, gradients + step * NUMEL);
        assert_int_equal(parity(rates + step, &rate, 1), -1);
        assert_int_equal(optim_step(optimizer), 0);
        optim_zero_grad(optimizer);
        assert_false(tensor_has_grad(parameter[0]));
        check_step(fixture, at, text, step, parameter);
        float norm = optim_grad_norm(optimizer);
        if (norms)
            assert_int_equal(parity((const float *)norms->data + step, &norm, 1), -1);
        tensor_scope_end(scope);
    }
    assert_int_equal(optim_steps(optimizer), STEPS);
    optimizer_free(optimizer);
    tensor_free(parameter[0]);
    tensor_free(parameter[1]);
    leave(v);
}

static void run_all(const char *kernels, int in_backward)
{
    Fixture fixture = fixture_open("optim.bin");
    int count = 0;
    for (int at = 0; at < fixture.count; at++)
        if (!strcmp(fixture.records[at].name, "case") &&
            !(in_backward && real(fixture.records[at].data, "clip") > 0)) {
            run_case(&fixture, at, kernels, in_backward);
            count++;
        }
    assert_true(count >= (in_backward ? 18 : 23));
    fixture_close(&fixture);
}

static void test_tuned_kernels(void **state)
{
    (void)state;
    run_all(NULL, 0);
}

static void test_reference_kernels(void **state)
{
    (void)state;
    run_all("reference", 0);
}

static void test_inside_backward(void **state)
{
    (void)state;
    run_all(NULL, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tuned_kernels),
        cmocka_unit_test(test_reference_kernels),
        cmocka_unit_test(test_inside_backward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
