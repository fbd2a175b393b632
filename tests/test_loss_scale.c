/* Loss scaling: GradScaler's trace, exactly; what a skipped step leaves as it was; what is refused. */
#include "optim_support.h"

#include "../optim/optim_.h"

/* ---- GradScaler's trace ---------------------------------------------------------------------- */

/* What torch.amp.GradScaler("cpu", init_scale=2**16, growth_interval=3) and AdamW(lr=1e-2) with
 * clip_grad_norm_(1) did (torch 2.15) to four ones under the gradient 1, 2, 3, 4: whether one was made
 * infinite; scale and tracker after update(), AdamW's step, the norm that clipping saw, and p[0]. */
static const struct {
    int bad;
    float scale;
    int tracker, updates;
    double norm, p;
} trace[] = {
    {0, 65536, 1, 1, 5.4772257804870605, 0.9898999929428101},
    {0, 65536, 2, 2, 5.4772257804870605, 0.9798009991645813},
    {1, 32768, 0, 2, INFINITY, 0.9798009991645813},
    {0, 32768, 1, 3, 5.4772257804870605, 0.9697030186653137},
    {0, 32768, 2, 4, 5.4772257804870605, 0.9596060514450073},
    {0, 65536, 0, 5, 5.4772257804870605, 0.9495100975036621},
    {0, 65536, 1, 6, 5.4772257804870605, 0.9394151568412781},
    {0, 65536, 2, 7, 5.4772257804870605, 0.9293212294578552},
    {0, 131072, 0, 8, 5.4772257804870605, 0.9192283153533936},
    {1, 65536, 0, 8, INFINITY, 0.9192283153533936},
    {1, 32768, 0, 8, INFINITY, 0.9192283153533936},
    {0, 32768, 1, 9, 5.4772257804870605, 0.9091364145278931},
    {0, 32768, 2, 10, 5.4772257804870605, 0.899045467376709},
    {0, 65536, 0, 11, 5.4772257804870605, 0.8889555335044861},
};
enum { TRACE = sizeof trace / sizeof *trace };

/* The loss is sum(p * g), whose gradient is g times the scale of the loss. bad: an element is made infinite,
 * as an overflow would. */
static float backward(Tensor *p, const float *g, float value, int bad)
{
    int scope = tensor_scope_begin();
    Tensor *loss = tensor_sum(tensor_mul(p, tensor_from(DTYPE_F32, tensor_shape(p), MEM_INPUT, g)));
    float shown = tensor_item(loss);
    assert_int_equal(tensor_backward(loss), 0);
    tensor_scope_end(scope);
    if (bad)
        tensor_write(tensor_grad(p), 4, 4, &value);
    return shown;
}

static const float g[4] = {1, 2, 3, 4}, ones[4] = {1, 1, 1, 1};

static Tensor *four_ones(void)
{
    Tensor *p = tensor_parameter(SHAPE(4));
    tensor_set_name(p, "w");
    assert_int_equal(tensor_write(p, 0, 16, ones), 0);
    return p;
}

static void test_trace(void **state)
{
    (void)state;
    Tensor *p = four_ones();
    Optimizer *optimizer = optim_adamw((TensorList){&p, 1}, &(AdamW){.lr = 0.01f, .decay_all = 1});
    int64_t skipped = 0;
    optim_set_clip(optimizer, 1);
    assert_true(optim_loss_scale(optimizer) == 1);
    assert_int_equal(optim_set_loss_scale(optimizer, 0), 0);
    assert_true(optim_loss_scale(optimizer) == 65536);
    assert_int_equal(optimizer->scaling.interval, 2000);
    optimizer->scaling.interval = 3;
    for (int i = 0; i < TRACE; i++) {
        float before = optim_loss_scale(optimizer);
        float loss = backward(p, g, INFINITY, trace[i].bad);
        assert_true(grad_f32(p)[3] == 4 * before);
        assert_true(tensor_step_loss() == (double)loss); /* unscaled */
        assert_int_equal(optim_step(optimizer), 0);
        optim_zero_grad(optimizer);
        skipped += trace[i].bad;
        assert_int_equal(optim_step_skipped(optimizer), trace[i].bad);
        assert_int_equal(optim_skipped(optimizer), skipped);
        assert_int_equal(optim_steps(optimizer), i + 1);
        assert_true(optim_loss_scale(optimizer) == trace[i].scale);
        assert_int_equal(optim_scaling(optimizer).good, trace[i].tracker);
        assert_int_equal(optim_updates(optimizer, 0), trace[i].updates);
        if (trace[i].bad)
            assert_true(isinf(optim_grad_norm(optimizer)));
        else
            near((double)optim_grad_norm(optimizer), trace[i].norm);
        near((double)tensor_f32(p)[0], trace[i].p);
    }
    optimizer_free(optimizer);
    /* Who scaled is gone: the next backward starts from 1. */
    backward(p, g, 0, 0);
    assert_true(grad_f32(p)[3] == 4);
    tensor_free(p);
    fine();
}

/* Growth to infinity is refused; a scale that stays does not move. */
static void test_limits(void **state)
{
    (void)state;
    Tensor *p = four_ones();
    Optimizer *optimizer = optim_sgd((TensorList){&p, 1}, NULL);
    assert_int_equal(optim_set_loss_scale(optimizer, 0), 0);
    static const float zero[4] = {0};
    assert_int_equal(
        optim_set_scaling(optimizer, &(LossScale){.scale = 0x1p127f, .dynamic = 1, .good = 1999}), 0);
    backward(p, zero, 0, 0);
    optim_step(optimizer);
    optim_zero_grad(optimizer);
    assert_true(optim_loss_scale(optimizer) == 0x1p127f);
    assert_int_equal(optim_scaling(optimizer).good, 0);
    assert_int_equal(optim_set_loss_scale(optimizer, 1000), 0);
    for (int i = 0; i < 4; i++) {
        backward(p, g, NAN, i == 2);
        assert_true(grad_f32(p)[3] == 4000);
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        assert_true(optim_loss_scale(optimizer) == 1000);
        assert_int_equal(optim_step_skipped(optimizer), i == 2);
    }
    assert_int_equal(optim_skipped(optimizer), 1);
    near((double)tensor_f32(p)[3], 1 - 3 * 4e-3);
    optimizer_free(optimizer);
    tensor_free(p);
    fine();
}

/* The factor is that of the backward, not of the scale that a step has since moved to. */
static void test_scale_of_the_backward(void **state)
{
    (void)state;
    Tensor *p[2] = {four_ones(), four_ones()};
    Optimizer *one = optim_sgd((TensorList){&p[0], 1}, &(Sgd){.lr = 1});
    Optimizer *two = optim_sgd((TensorList){&p[1], 1}, &(Sgd){.lr = 1});
    assert_int_equal(optim_set_loss_scale(one, 0), 0);
    one->scaling.interval = 1; /* grows with every step */
    int scope = tensor_scope_begin();
    tensor_backward(tensor_sum(tensor_add(p[0], p[1])));
    tensor_scope_end(scope);
    optim_step(one);
    assert_true(optim_loss_scale(one) == 131072);
    optim_step(two); /* whose gradients are of the same backward */
    for (int i = 0; i < 2; i++)
        assert_true(tensor_f32(p[i])[0] == 0);
    optimizer_free(two);
    optimizer_free(one);
    tensor_free(p[1]);
    tensor_free(p[0]);
    fine();
}

/* ---- A skipped step -------------------------------------------------------------------------- */

typedef struct Everything {
    float p[4], first[4], second[4];
    int64_t updates, random;
    float lr;
} Everything;

static Everything everything(const Optimizer *optimizer, Tensor *p)
{
    Everything e = {.updates = optim_updates(optimizer, 0),
                    .random = (int64_t)context_current()->random.fills,
                    .lr = optim_lr(optimizer)};
    tensor_read(p, 0, 16, e.p);
    tensor_read(optim_state(optimizer, 0, 0), 0, 16, e.first);
    tensor_read(optim_state(optimizer, 0, 1), 0, 16, e.second);
    return e;
}

/* All but the books' step is as it was; with clipping or without, for NaN and infinity. */
static void test_skipped(void **state)
{
    (void)state;
    static const float values[] = {INFINITY, -INFINITY, NAN};
    for (int clip = 0; clip < 2; clip++)
        for (int v = 0; v < 3; v++) {
            Tensor *p = four_ones();
            Optimizer *optimizer = optim_adamw((TensorList){&p, 1}, NULL);
            optim_set_schedule(optimizer, &(Schedule){.kind = SCHEDULE_COSINE, .warmup = 3, .total = 10});
            optim_set_clip(optimizer, (float)clip);
            optim_set_loss_scale(optimizer, 0);
            backward(p, g, 0, 0);
            optim_step(optimizer);
            optim_zero_grad(optimizer);
            int64_t done = context_current()->steps_done;
            Everything before = everything(optimizer, p);
            backward(p, g, values[v], 1);
            assert_int_equal(optim_step(optimizer), 0);
            optim_zero_grad(optimizer);
            Everything after = everything(optimizer, p);
            assert_memory_equal(&before, &after, sizeof before);
            assert_int_equal(context_current()->steps_done, done + 1); /* the data step ends */
            assert_int_equal(optim_steps(optimizer), 2);
            assert_true(optim_loss_scale(optimizer) == 32768);
            backward(p, g, 0, 0);
            optim_step(optimizer);
            assert_false(optim_step_skipped(optimizer));
            assert_int_equal(optim_updates(optimizer, 0), 2);
            assert_true(optim_lr(optimizer) > before.lr); /* the third step of the schedule */
            optimizer_free(optimizer);
            tensor_free(p);
        }
    fine();
}

/* Without scaling a gradient norm that is not finite is an error, as it was. */
static void test_unscaled(void **state)
{
    (void)state;
    Tensor *p = four_ones();
    Optimizer *optimizer = optim_sgd((TensorList){&p, 1}, NULL);
    optim_set_clip(optimizer, 1);
    backward(p, g, INFINITY, 1);
    assert_int_equal(optim_step(optimizer), ERROR_NONFINITE);
    refused(ERROR_NONFINITE,
            "element 1 of the gradient of parameter 0 'w' (4) is infinite; nothing was updated");
    assert_int_equal(optim_steps(optimizer), 0);
    assert_memory_equal(tensor_f32(p), ones, 16);
    optimizer_free(optimizer);
    tensor_free(p);
}

/* A gradient that no scale helps is told, not skipped for ever. */
static void test_hopeless(void **state)
{
    (void)state;
    for (int fixed = 0; fixed < 2; fixed++) {
        Tensor *p = four_ones();
        Optimizer *optimizer = optim_sgd((TensorList){&p, 1}, NULL);
        optim_set_loss_scale(optimizer, fixed ? 128 : 0);
        int steps = 0;
        for (; !error_code() && steps < 100; steps++) {
            backward(p, g, NAN, 1);
            optim_step(optimizer);
            optim_zero_grad(optimizer);
        }
        assert_int_equal(steps, fixed ? 32 : 31); /* 2^16 to 2^-14 */
        assert_int_equal(optim_skipped(optimizer), steps - 1);
        assert_memory_equal(tensor_f32(p), ones, 16);
        refused(ERROR_NONFINITE, fixed ? "as in each of 32 steps in a row at a loss scale of 128"
                                       : "is NaN, at a loss scale of 6.10352e-05 still");
        optimizer_free(optimizer);
        tensor_free(p);
    }
}

/* ---- Refused --------------------------------------------------------------------------------- */

static void test_refused(void **state)
{
    (void)state;
    Tensor *p = four_ones();
    Optimizer *optimizer = optim_sgd((TensorList){&p, 1}, NULL),
              *other = optim_sgd((TensorList){&p, 1}, NULL);
    static const float bad[] = {-1, 0x1p-15f, INFINITY, NAN};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(optim_set_loss_scale(optimizer, bad[i]), ERROR_ARGUMENT);
        refused(ERROR_ARGUMENT, "a loss scale of");
    }
    backward(p, g, 0, 0);
    assert_int_equal(optim_set_loss_scale(optimizer, 0), ERROR_STATE);
    refused(ERROR_STATE, "there are gradients, of another scale");
    optim_zero_grad(optimizer);
    assert_int_equal(optim_set_in_backward(optimizer, 1), 0);
    assert_int_equal(optim_set_loss_scale(optimizer, 0), ERROR_STATE);
    refused(ERROR_STATE, "updates inside backward");
    assert_int_equal(optim_set_loss_scale(optimizer, 8), 0); /* of a number it is known beforehand */
    assert_int_equal(optim_set_loss_scale(other, 8), ERROR_STATE);
    refused(ERROR_STATE, "another optimizer of this context scales the loss");
    backward(p, g, 0, 0);
    optim_step(optimizer);
    near((double)tensor_f32(p)[3], 1 - 4e-3);
    assert_int_equal(optim_set_in_backward(optimizer, 0), 0);
    assert_int_equal(optim_set_loss_scale(optimizer, 0), 0);
    assert_int_equal(optim_set_in_backward(optimizer, 1), ERROR_STATE);
    refused(ERROR_STATE, "a dynamic loss scale skips a step");
    static const LossScale states[] = {{0},
                                       {.scale = 8},
                                       {.scale = 0x1p-15f, .dynamic = 1},
                                       {.scale = 8, .dynamic = 1, .good = -1},
                                       {.scale = 8, .dynamic = 1, .bad = 2, .skipped = 1}};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(optim_set_scaling(optimizer, &states[i]), ERROR_ARGUMENT);
        refused(ERROR_ARGUMENT, i < 2 ? "the loss scale is" : i == 2 ? "a loss scale of" : "cannot be");
    }
    assert_int_equal(optim_set_scaling(other, &states[1]), ERROR_ARGUMENT);
    refused(ERROR_ARGUMENT, "is a number there, and none here");
    assert_int_equal(optim_set_scaling(other, &states[0]), 0);
    assert_true(optim_loss_scale(NULL) == 1 && optim_skipped(NULL) == 0 && !optim_step_skipped(NULL));
    assert_int_equal(optim_set_loss_scale(NULL, 0), 0);
    optimizer_free(other);
    optimizer_free(optimizer);
    tensor_free(p);
    fine();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_trace),   TEST(test_limits),   TEST(test_scale_of_the_backward),
        TEST(test_skipped), TEST(test_unscaled), TEST(test_hopeless),
        TEST(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
