/* How a program sees and sets elements: tensor_read and tensor_write, and the tensors that gradients and
 * optimizer states are. */
#include "optim/optim.h"
#include "support.h"

/* ---- Bytes ----------------------------------------------------------------------------------- */

static void test_read_and_write(void **state)
{
    (void)state;
    for (DType type = 0; type < DTYPE_COUNT; type++) {
        Tensor *t = tensor_new(type, SHAPE(3, 70), MEM_INPUT);
        int64_t bytes = (int64_t)shape_bytes(type, SHAPE(3, 70));
        unsigned char in[4 * 3 * 70], out[sizeof in + 2];
        assert_in_range(bytes, 1, sizeof in);
        for (int64_t i = 0; i < bytes; i++)
            in[i] = (unsigned char)(7 * i + type);
        assert_int_equal(tensor_write(t, 0, bytes, in), 0);
        assert_memory_equal(tensor_data(t), in, bytes);
        for (int64_t first = 0; first < bytes; first += 13) {
            int64_t n = bytes - first < 29 ? bytes - first : 29;
            memset(out, 0xEE, sizeof out);
            assert_int_equal(tensor_read(t, first, n, out + 1), 0);
            assert_memory_equal(out + 1, in + first, n);
            assert_true(out[0] == 0xEE && out[n + 1] == 0xEE); /* neither more nor less */
        }
        memset(in + 5, 0, 9);
        assert_int_equal(tensor_write(t, 5, 9, in + 5), 0);
        assert_memory_equal(tensor_data(t), in, bytes);
        assert_int_equal(tensor_read(t, bytes, 0, NULL), 0);
    }
    Tensor *counted = tensor_from(DTYPE_I32, SHAPE(3), MEM_INPUT, (int32_t[]){7, -8, 9});
    int32_t second;
    assert_int_equal(tensor_read(counted, 4, 4, &second), 0);
    assert_int_equal(second, -8);
    Tensor *zeros = tensor_zeros(DTYPE_BF16, SHAPE(5), MEM_INPUT);
    assert_memory_equal(tensor_data(zeros), ((char[10]){0}), 10);
}

static void test_refused(void **state)
{
    (void)state;
    Tensor *t = values(SHAPE(2, 3), 1, 1);
    float value = 5;
    static const int64_t outside[][2] = {{-1, 4}, {0, 25},        {24, 1},       {25, 0},
                                         {0, -1}, {INT64_MAX, 4}, {4, INT64_MAX}};
    for (size_t i = 0; i < COUNT(outside); i++) {
        assert_int_equal(tensor_read(t, outside[i][0], outside[i][1], &value), ERROR_ARGUMENT);
        assert_error(ERROR_ARGUMENT, "tensor_read: ", "of a tensor f32 (2,3), which has 24");
        assert_int_equal(tensor_write(t, outside[i][0], outside[i][1], &value), ERROR_ARGUMENT);
        assert_error(ERROR_ARGUMENT, "tensor_write: ", "of a tensor f32 (2,3), which has 24");
    }
    tensor_read(NULL, 0, 4, &value);
    assert_error(ERROR_ARGUMENT, "tensor_read: the tensor is NULL");
    tensor_write(t, 0, 4, NULL);
    assert_error(ERROR_ARGUMENT, "tensor_write: the host's memory is NULL");
    assert_true(value == 5);

    Tensor *x = leaf(SHAPE(4), 1, 1), *h = tensor_gelu(x), *given = tensor_gelu(x);
    Tensor *sum = tensor_add(tensor_scale(h, 2), tensor_donate(given));
    tensor_read(given, 0, 4, &value);
    assert_error(ERROR_STATE, "tensor_read", "given away by tensor_donate");
    assert_int_equal(tensor_backward(tensor_sum(sum)), 0);
    tensor_write(h, 0, 4, &value);
    assert_error(ERROR_STATE, "tensor_write", "activation", "tensor_keep");
    /* The first error stays. */
    assert_null(tensor_add(t, x));
    tensor_read(NULL, 0, 4, &value);
    assert_error(ERROR_SHAPE, "add");
}

static void test_meta(void **state)
{
    (void)state;
    Visit v = visit(&(ContextOptions){.meta = 1, .threads = 1});
    Tensor *t = values(SHAPE(2, 3), 1, 1);
    float value = 5;
    assert_int_equal(tensor_read(t, 4, 4, &value), 0);
    assert_int_equal(tensor_write(t, 4, 4, &value), 0);
    assert_int_equal(tensor_read(t, 4, 4, NULL), 0);
    assert_true(value == 5);
    assert_true(tensor_item(tensor_sum(t)) == 0);
    tensor_read(t, 24, 4, &value);
    assert_error(ERROR_ARGUMENT, "which has 24"); /* the plan finds it */
    leave(v);
}

/* ---- Gradients ------------------------------------------------------------------------------- */

static void test_gradient(void **state)
{
    (void)state;
    Tensor *w = tensor_parameter(SHAPE(2, 3));
    tensor_set_name(w, "w");
    tensor_fill(w, 2);
    assert_null(tensor_grad(w));
    assert_int_equal(tensor_backward(tensor_sum(tensor_mul(w, w))), 0);
    Tensor *g = tensor_grad(w);
    assert_true(g && g != w && tensor_has_grad(w));
    assert_true(shape_equal(tensor_shape(g), SHAPE(2, 3)) && tensor_dtype(g) == DTYPE_F32);
    assert_false(tensor_requires_grad(g));
    float value;
    tensor_read(g, 20, 4, &value);
    assert_true(value == 4);
    /* Like any tensor: an operand, without recording it. */
    tensor_no_grad_begin();
    assert_true(tensor_item(tensor_sum(tensor_mul(g, g))) == 6 * 16);
    tensor_no_grad_end();
    /* Written to, it is what the next backward adds to. */
    tensor_write(g, 20, 4, &(float){10});
    assert_int_equal(tensor_backward(tensor_sum(tensor_mul(w, w))), 0);
    assert_ptr_equal(tensor_grad(w), g);
    tensor_read(g, 20, 4, &value);
    assert_true(value == 14);
    /* Gone, and there again. */
    tensor_drop_grad(w);
    assert_null(tensor_grad(w));
    tensor_read(g, 0, 4, &value);
    assert_error(ERROR_STATE, "the gradient of the tensor 'w'", "was freed");
    assert_int_equal(tensor_backward(tensor_sum(tensor_mul(w, w))), 0);
    assert_ptr_equal(tensor_grad(w), g);
    tensor_free(g); /* the same as tensor_drop_grad */
    assert_false(tensor_has_grad(w));
    assert_int_equal(books()->live_by[MEM_GRADIENT], 0);
    tensor_free(w);
}

/* Recorded as an operand, a gradient's data stay for backward, and its header though its owner goes. */
static void test_recorded_gradient(void **state)
{
    (void)state;
    Tensor *w = tensor_parameter(SHAPE(6)), *x = leaf(SHAPE(6), 1, 1);
    tensor_fill(w, 2);
    assert_int_equal(tensor_backward(tensor_sum(tensor_mul(w, w))), 0);
    Tensor *loss = tensor_sum(tensor_mul(x, tensor_grad(w)));
    tensor_free(w);
    assert_int_equal(tensor_backward(loss), 0);
    float value;
    tensor_read(tensor_grad(x), 20, 4, &value);
    assert_true(value == 4);
}

/* Who looks at gradients changes no event: neither accumulation nor keeping them as zeros copies because of
 * it. */
static uint64_t hash_of_steps(int look, int meta)
{
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 3, .meta = meta});
    const Setting s = {.family = MODEL_GPT2};
    Module *model = small_model(&s);
    Optimizer *o = optim_adamw(nn_parameters(model), NULL);
    for (int step = 0; step < 2; step++) {
        int scope = tensor_scope_begin();
        for (int micro = 0; micro < 2; micro++) {
            Batch batch = small_batch(s.family, step, micro, 1);
            assert_int_equal(tensor_backward(nn_loss(model, &batch)), 0);
            TensorList list = nn_parameters(model);
            for (int i = 0; i < list.count && look; i++)
                assert_true(tensor_grad(list.items[i]) && tensor_numel(tensor_grad(list.items[i])) > 0);
        }
        optim_step(o);
        optim_zero_grad_keep(o);
        tensor_scope_end(scope);
    }
    uint64_t hash = memtrack_stats(context_ledger(context_current()))->step_hash;
    leave(v);
    return hash;
}

static void test_looking_changes_nothing(void **state)
{
    (void)state;
    uint64_t plain = hash_of_steps(0, 0);
    assert_true(plain == hash_of_steps(1, 0));
    assert_true(plain == hash_of_steps(1, 1));
}

/* On meta a gradient is a tensor without data. */
static void test_gradient_on_meta(void **state)
{
    (void)state;
    Visit v = visit(&(ContextOptions){.meta = 1, .threads = 1});
    Tensor *w = tensor_parameter(SHAPE(2, 3));
    assert_int_equal(tensor_backward(tensor_sum(tensor_mul(w, w))), 0);
    assert_non_null(tensor_grad(w));
    float value = 5;
    assert_int_equal(tensor_read(tensor_grad(w), 0, 4, &value), 0);
    assert_true(value == 5 && !grad_f32(w));
    tensor_free(w);
    leave(v);
}

/* ---- Optimizer states ------------------------------------------------------------------------ */

static void test_states(void **state)
{
    (void)state;
    for (int meta = 0; meta < 2; meta++) {
        Visit v = visit(&(ContextOptions){.meta = meta, .threads = 1});
        Tensor *w = tensor_parameter(SHAPE(2, 3));
        tensor_fill(w, 1);
        Optimizer *o = optim_sgd((TensorList){&w, 1}, &(Sgd){.lr = 1, .momentum = 0.5f});
        Tensor *buffer = optim_state(o, 0, 0);
        assert_true(shape_equal(tensor_shape(buffer), SHAPE(2, 3)) && tensor_dtype(buffer) == DTYPE_F32);
        assert_int_equal(books()->live_by[MEM_OPTIMIZER], rounded(6));
        float values[6] = {[5] = 4};
        tensor_write(buffer, 0, sizeof values, values);
        optim_set_updates(o, 0, 1);
        tensor_backward(tensor_sum(w));
        optim_step(o);
        float value = 0;
        tensor_read(buffer, 20, 4, &value);
        assert_true(value == (meta ? 0 : 3)); /* 0.5 * 4 + 1 */
        tensor_read(w, 20, 4, &value);
        assert_true(value == (meta ? 0 : -2));
        assert_null(optim_state(o, 0, 1));
        assert_null(optim_state(o, 1, 0));
        assert_null(optim_state(NULL, 0, 0));
        optimizer_free(o);
        assert_int_equal(books()->live_by[MEM_OPTIMIZER], 0);
        tensor_free(w);
        leave(v);
    }
}

/* ---- Failing allocations --------------------------------------------------------------------- */

static void test_no_memory_for_a_header(void **state)
{
    (void)state;
    Tensor *w = tensor_parameter(SHAPE(2, 3));
    tensor_fill(w, 1);
    assert_int_equal(tensor_backward(tensor_sum(w)), 0);
    memtrack_fail_nth(1);
    assert_null(tensor_grad(w));
    memtrack_fail_nth(0);
    assert_error(ERROR_HOST_MEMORY, "tensor_grad: out of host memory");
    assert_true(tensor_has_grad(w));
    assert_non_null(tensor_grad(w));
    tensor_free(w);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_read_and_write),
        TEST(test_refused),
        TEST(test_meta),
        TEST(test_gradient),
        TEST(test_recorded_gradient),
        TEST(test_gradient_on_meta),
        TEST(test_looking_changes_nothing),
        TEST(test_states),
        TEST(test_no_memory_for_a_header),
    };
    return cmocka_run_group_tests_name("tensor_access", tests, NULL, NULL);
}
