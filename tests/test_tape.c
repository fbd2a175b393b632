/* What the tape holds of parameters: their headers. Their data may go between forward and backward, and come
 * again where backward reads them. */
#include <math.h>

#include "support.h"
#include "tensor/tensor_.h"

/* ---- Parameters whose data go ---------------------------------------------------------------- */

static Tensor *parameter(Shape shape, uint32_t stream)
{
    Tensor *w = tensor_parameter(shape);
    fill_values(tensor_f32(w), tensor_numel(w), stream, 1, 0);
    tensor_set_name(w, "w");
    return w;
}

/* Nothing but the header keeps a parameter's data. Backward that reads them says what is missing, on meta as
 * well, and leaves nothing behind. */
static void one_freed(const ContextOptions *options, int frozen)
{
    Visit v = visit(options);
    Tensor *x = leaf(SHAPE(3, 8), 1, 1), *w = parameter(SHAPE(8, 8), 2);
    tensor_set_requires_grad(w, !frozen);
    Tensor *loss = tensor_sum(tensor_linear(x, w, NULL, TENSOR_GELU));
    tensor_drop_data(w, DATA_RELEASED);
    assert_int_equal(books()->live_by[MEM_PARAMETER] + books()->live_by[MEM_FROZEN], 0);
    assert_int_not_equal(tensor_backward(loss), 0);
    assert_error(ERROR_STATE, "linear reads the parameter 'w' (8,8)", "freed after forward");
    assert_int_equal(books()->live_by[MEM_ACTIVATION] + books()->live_by[MEM_WORKSPACE], 0);
    tensor_linear(x, w, NULL, TENSOR_IDENTITY);
    assert_error(ERROR_STATE, "the data of the tensor 'w'", "was freed");
    tensor_free(w);
    leave(v);
}

static void test_freed_parameters(void **state)
{
    (void)state;
    for (int meta = 0; meta < 2; meta++)
        for (int frozen = 0; frozen < 2; frozen++)
            one_freed(&(ContextOptions){.meta = meta, .threads = 1}, frozen);
}

/* The gradient of a parameter needs the other input alone, and is a parameter's gradient whether the data are
 * there or not. */
static void test_gradient_without_data(void **state)
{
    (void)state;
    Tensor *x = values(SHAPE(3, 8), 1, 1), *w = parameter(SHAPE(8, 8), 2);
    Tensor *loss = tensor_sum(tensor_linear(x, w, NULL, TENSOR_IDENTITY));
    tensor_drop_data(w, DATA_RELEASED);
    assert_int_equal(tensor_backward(loss), 0);
    assert_int_equal(books()->live_by[MEM_GRADIENT], rounded(64));
    tensor_free(w);
}

/* Moves every parameter's data to another place; in between no parameter has any. */
static void move_parameters(Module *model)
{
    Context *context = context_current();
    TensorList list = nn_parameters(model);
    float **held = test_calloc((size_t)list.count, sizeof *held);
    for (int i = 0; i < list.count; i++) {
        uint64_t bytes = list.items[i]->storage->block.requested;
        held[i] = test_malloc(bytes);
        memcpy(held[i], list.items[i]->storage->block.data, bytes);
        tensor_drop_data(list.items[i], DATA_RELEASED);
    }
    assert_int_equal(books()->live_by[MEM_PARAMETER], 0);
    for (int i = 0; i < list.count; i++) {
        Tensor *p = list.items[i];
        uint64_t bytes = shape_bytes(p->dtype, p->shape);
        p->storage = storage_new(context, (int64_t)bytes, MEM_PARAMETER);
        memcpy(p->storage->block.data, held[i], bytes);
        test_free(held[i]);
    }
    test_free(held);
}

static Tensor *gradients(const Setting *s, int moved)
{
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 3});
    Module *model = small_model(s);
    Batch batch = small_batch(s->family, 0, 0, 3);
    Tensor *loss = nn_loss(model, &batch);
    if (moved)
        move_parameters(model);
    assert_int_equal(tensor_backward(loss), 0);
    Tensor *all = all_gradients(model);
    int64_t n = tensor_numel(all);
    float *copy = test_malloc((size_t)n * sizeof *copy);
    memcpy(copy, tensor_f32(all), (size_t)n * sizeof *copy);
    leave(v);
    Tensor *here = copy_of(copy, n);
    test_free(copy);
    return here;
}

static void test_moved_parameters(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILIES; family++)
        for (int k = 0; k < 6; k++) {
            const Setting s = {.family = (ModelFamily)family,
                               .attention = k & 1 ? ATTENTION_EAGER : ATTENTION_FLASH,
                               .checkpoint = k / 2 == 1,
                               .selective = k / 2 == 2,
                               .dropout = 0.1f};
            Tensor *stay = gradients(&s, 0), *move = gradients(&s, 1);
            assert_int_equal(tensor_numel(stay), tensor_numel(move));
            if (difference(tensor_f32(stay), tensor_f32(move), tensor_numel(stay)) != 0)
                fail_msg("%s: other gradients after the parameters moved", setting_text(&s));
        }
}

/* A checkpoint whose input is a parameter. */
static Tensor *doubled(void *self, Tensor *x, const Batch *batch)
{
    (void)self, (void)batch;
    return tensor_mul(x, x);
}

static void test_checkpoint_of_a_parameter(void **state)
{
    (void)state;
    Tensor *w = parameter(SHAPE(16), 2);
    Tensor *loss = tensor_sum(tensor_checkpoint(doubled, NULL, w, NULL));
    tensor_drop_data(w, DATA_RELEASED);
    assert_int_equal(books()->live_by[MEM_PARAMETER], 0);
    assert_int_not_equal(tensor_backward(loss), 0);
    assert_error(ERROR_STATE, "the data of the tensor 'w'", "was freed");
    tensor_free(w);
}

/* A loss that is not finite is blamed on the parameter, though the tape does not hold it. */
static void test_blamed_parameter(void **state)
{
    (void)state;
    Tensor *x = leaf(SHAPE(3, 8), 1, 1), *w = parameter(SHAPE(8, 8), 2);
    tensor_f32(w)[5] = (float)NAN;
    assert_int_not_equal(tensor_backward(tensor_sum(tensor_linear(x, w, NULL, TENSOR_IDENTITY))), 0);
    assert_error(ERROR_NONFINITE, "loss is NaN", "in parameter 'w' of linear");
    tensor_free(w);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_freed_parameters), TEST(test_gradient_without_data),     TEST(test_moved_parameters),
        TEST(test_blamed_parameter), TEST(test_checkpoint_of_a_parameter),
    };
    return cmocka_run_group_tests_name("tape", tests, NULL, NULL);
}
