/* When a gradient is final, as hooks are told: by the first use of its leaf, wherever that is. */
#include "optim/optim.h"
#include "support.h"
#include "tensor/tensor_.h"

enum { TOLD_MAX = 16 };

/* What a hook was told, and that nothing was added to a gradient afterwards. */
typedef struct Watch {
    GradientHook hook;
    Tensor *told[TOLD_MAX];
    float value[TOLD_MAX]; /* the first element of the gradient, when it was final */
    int count, begun, ended;
} Watch;

static int watch_begin(Context *context, void *user)
{
    (void)context;
    ((Watch *)user)->begun++;
    return 0;
}

static void watch_final(Context *context, Tensor *tensor, void *user)
{
    Watch *watch = user;
    assert_ptr_equal(context, context_current());
    assert_in_range(watch->count, 0, TOLD_MAX - 1);
    watch->value[watch->count] = grad_f32(tensor)[0];
    watch->told[watch->count++] = tensor;
}

static void watch_end(Context *context, void *user)
{
    (void)context;
    ((Watch *)user)->ended++;
}

static void watch_start(Watch *watch)
{
    *watch = (Watch){.hook = {.begin = watch_begin, .final = watch_final, .end = watch_end, .user = watch}};
    gradient_hook_add(context_current(), &watch->hook);
}

/* Told of exactly these, in this order, each with the gradient that it has after backward. */
static void told(Watch *watch, Tensor *loss, int count, Tensor *const *expected)
{
    watch->count = 0;
    assert_int_equal(tensor_backward(loss), 0);
    assert_int_equal(watch->count, count);
    for (int i = 0; i < count; i++) {
        assert_ptr_equal(watch->told[i], expected[i]);
        assert_true(watch->value[i] == grad_f32(expected[i])[0]);
    }
}

#define assert_told(watch, loss, ...)                                                                        \
    told(watch, loss, (int)(sizeof((Tensor *[]){__VA_ARGS__}) / sizeof(Tensor *)), (Tensor *[]){__VA_ARGS__})

static Tensor *product(Tensor *x, Tensor *w)
{
    return tensor_linear(x, w, NULL, TENSOR_GELU);
}

static void test_order(void **state)
{
    (void)state;
    Watch watch;
    watch_start(&watch);
    Tensor *a = leaf(SHAPE(5, 5), 1, 1), *b = leaf(SHAPE(5, 5), 2, 1), *x = values(SHAPE(3, 5), 3, 1);
    assert_told(&watch, tensor_sum(product(product(x, a), b)), b, a);
    /* Used twice: final with the first use; twice in one node: told once. */
    assert_told(&watch, tensor_sum(product(product(product(x, a), b), a)), b, a);
    assert_told(&watch, tensor_sum(tensor_mul(a, a)), a);
    Tensor *sum = tensor_add(a, b); /* one statement each: C does not order arguments */
    assert_told(&watch, tensor_sum(tensor_add(sum, tensor_add(a, a))), a, b);
    assert_int_equal(watch.begun, 4);
    assert_int_equal(watch.ended, 4);
    /* A use that the loss does not depend on counts when its turn comes. */
    tensor_drop_grad(b);
    Tensor *unused = product(a, b);
    assert_told(&watch, tensor_sum(product(x, a)), a);
    assert_true(tensor_requires_grad(unused));
    /* By a view. */
    assert_told(&watch, tensor_sum(product(x, tensor_reshape(tensor_reshape(a, SHAPE(25)), SHAPE(5, 5)))), a);
    /* Frozen ones have no gradient. */
    tensor_set_requires_grad(b, 0);
    assert_told(&watch, tensor_sum(product(product(x, a), b)), a);
    gradient_hook_remove(context_current(), &watch.hook);
    watch.count = 0;
    assert_int_equal(tensor_backward(tensor_sum(a)), 0);
    assert_int_equal(watch.count, 0);
}

/* Uses that were cut from the tape, and those of steps before, do not count. */
static void test_stale_uses(void **state)
{
    (void)state;
    Watch watch;
    watch_start(&watch);
    Tensor *a = leaf(SHAPE(4), 1, 1), *b = leaf(SHAPE(4), 2, 1);
    for (int i = 0; i < 3; i++) {
        int scope = tensor_scope_begin();
        tensor_mul(a, b); /* recorded, never used: cut with the scope */
        tensor_scope_end(scope);
        Tensor *square = tensor_mul(b, b);
        assert_told(&watch, tensor_sum(tensor_add(square, tensor_mul(b, a))), a, b);
    }
    tensor_mul(a, tensor_new(DTYPE_F32, SHAPE(5), MEM_INPUT));
    assert_error(ERROR_SHAPE, "mul"); /* never ran */
    Tensor *square = tensor_mul(b, b);
    assert_told(&watch, tensor_sum(tensor_add(square, tensor_mul(b, a))), a, b);
    gradient_hook_remove(context_current(), &watch.hook);
}

/* What a checkpointed function multiplies with, in order; NULL ends. */
typedef struct Inside {
    Tensor *weight[4];
    struct Inside *nested; /* run first, in a checkpoint of its own */
} Inside;

static Tensor *inside_forward(void *self, Tensor *x, const Batch *batch)
{
    const Inside *inside = self;
    if (inside->nested)
        x = tensor_checkpoint(inside_forward, inside->nested, x, batch);
    for (int i = 0; i < 4 && inside->weight[i]; i++)
        x = product(x, inside->weight[i]);
    return x;
}

static Tensor *inside_of(Inside *inside, Tensor *x)
{
    return tensor_checkpoint(inside_forward, inside, x, NULL);
}

static void test_saved_runs(void **state)
{
    (void)state;
    Watch watch;
    watch_start(&watch);
    Tensor *w[6], *x = values(SHAPE(3, 5), 9, 1);
    for (uint32_t i = 0; i < 6; i++)
        w[i] = leaf(SHAPE(5, 5), i, 1);
    Inside two = {.weight = {w[0], w[1]}};
    assert_told(&watch, tensor_sum(inside_of(&two, x)), w[1], w[0]);
    /* Tied across it: the earlier use decides, wherever it is. */
    assert_told(&watch, tensor_sum(product(inside_of(&two, product(x, w[1])), w[2])), w[2], w[0], w[1]);
    assert_told(&watch, tensor_sum(product(inside_of(&two, x), w[1])), w[1], w[0]);
    assert_told(&watch, tensor_sum(product(inside_of(&two, x), w[0])), w[1], w[0]);
    assert_told(&watch, tensor_sum(inside_of(&two, inside_of(&two, x))), w[1], w[0]);
    Inside same = {.weight = {w[0], w[1], w[0], w[1]}};
    assert_told(&watch, tensor_sum(inside_of(&same, x)), w[1], w[0]);
    Inside inner = {.weight = {w[3], w[4]}}, outer = {.weight = {w[4], w[5]}, .nested = &inner};
    assert_told(&watch, tensor_sum(inside_of(&outer, x)), w[5], w[4], w[3]);
    assert_told(&watch, tensor_sum(product(inside_of(&outer, product(x, w[5])), w[3])), w[4], w[3], w[5]);
    /* The input of a checkpoint is a leaf, and used in it. */
    assert_told(&watch, tensor_sum(inside_of(&two, w[2])), w[1], w[2], w[0]);
    assert_told(&watch, tensor_sum(inside_of(&two, w[0])), w[1], w[0]);
    gradient_hook_remove(context_current(), &watch.hook);
}

/* Nothing flows back to a checkpoint, so it is not run again; what it used first is final at the end. */
static void test_checkpoint_without_gradient(void **state)
{
    (void)state;
    Watch watch;
    watch_start(&watch);
    Tensor *a = leaf(SHAPE(5, 5), 1, 1), *x = values(SHAPE(3, 5), 3, 1);
    Inside one = {.weight = {a}};
    Tensor *beside = inside_of(&one, x);
    Tensor *loss = tensor_sum(product(x, a));
    assert_int_equal(tensor_backward(loss), 0);
    assert_int_equal(watch.count, 0);
    assert_int_equal(watch.ended, 1);
    assert_true(tensor_has_grad(a));
    gradient_hook_remove(context_current(), &watch.hook);
    tensor_drop_grad(a);
    Optimizer *optimizer = optim_sgd((TensorList){&a, 1}, NULL);
    optim_set_in_backward(optimizer, 1);
    float before = tensor_f32(a)[0];
    beside = inside_of(&one, x);
    assert_int_equal(tensor_backward(tensor_sum(product(x, a))), 0);
    assert_false(tensor_has_grad(a));
    assert_true(tensor_f32(a)[0] != before);
    assert_non_null(beside);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_order),
        TEST(test_stale_uses),
        TEST(test_saved_runs),
        TEST(test_checkpoint_without_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
