/* What the tape holds of parameters: their headers. Their data may go between forward and backward, and come
 * again where backward reads them. Backward from any tensor, and several tapes. */
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

/* ---- Backward from a tensor ------------------------------------------------------------------ */

enum { ROWS = 6, WIDTH = 8 };

/* What backward gives x and w, with the outer gradient as a factor of the loss or handed over. */
typedef enum From { FROM_LOSS, FROM_GIVEN, FROM_DONATED, FROMS } From;

static void run_from(From from, float *gradients)
{
    Tensor *x = leaf(SHAPE(ROWS, WIDTH), 1, 1), *w = parameter(SHAPE(WIDTH, WIDTH), 2);
    Tensor *c = values(SHAPE(ROWS, WIDTH), 3, 1), *before = copy_of(tensor_f32(c), ROWS * WIDTH);
    Tensor *hidden = tensor_linear(x, w, NULL, TENSOR_IDENTITY);
    Tensor *y = tensor_add(tensor_activation(hidden, TENSOR_GELU), hidden);
    double loss = tensor_step_loss();
    if (from == FROM_LOSS)
        tensor_backward(tensor_sum(tensor_mul(y, c)));
    else
        tensor_backward_from(y, from == FROM_GIVEN ? c : tensor_donate(tensor_scale(c, 1)));
    assert_fine();
    assert_true(from == FROM_LOSS || tensor_step_loss() == loss);
    assert_memory_equal(tensor_f32(c), tensor_f32(before), ROWS * WIDTH * sizeof(float));
    memcpy(gradients, grad_f32(x), ROWS * WIDTH * sizeof(float));
    memcpy(gradients + ROWS * WIDTH, grad_f32(w), WIDTH * WIDTH * sizeof(float));
    assert_int_equal(books()->live_by[MEM_ACTIVATION], 0);
    tensor_free(w);
}

static void test_backward_from(void **state)
{
    (void)state;
    float gradients[FROMS][(ROWS + WIDTH) * WIDTH];
    for (int from = 0; from < FROMS; from++) {
        int scope = tensor_scope_begin();
        run_from((From)from, gradients[from]);
        tensor_scope_end(scope);
        assert_memory_equal(gradients[from], gradients[0], sizeof *gradients);
    }
}

/* A tensor whose operation overwrites the output gradient gets a copy to write on; planned as it is run. */
static uint64_t hash_from(const ContextOptions *options)
{
    Visit v = visit(options);
    Tensor *x = leaf(SHAPE(2, 16, 32), 1, 1), *c = values(SHAPE(2, 16, 32), 2, 1);
    Tensor *y = tensor_attention(x, x, x, &(AttentionOptions){.heads = 4, .causal = 1});
    tensor_keep(y);
    assert_int_equal(tensor_backward_from(y, c), 0);
    assert_true(tensor_has_grad(y) && tensor_has_grad(x));
    uint64_t hash = memtrack_stats(context_ledger(context_current()))->step_hash;
    leave(v);
    return hash;
}

static void test_backward_from_is_planned(void **state)
{
    (void)state;
    uint64_t meta = hash_from(&(ContextOptions){.meta = 1, .threads = 2});
    assert_true(meta == hash_from(&(ContextOptions){.threads = 2}));
}

static void test_backward_from_refuses(void **state)
{
    (void)state;
    Tensor *x = leaf(SHAPE(4), 1, 1), *c = values(SHAPE(4), 2, 1);
    assert_int_equal(tensor_backward_from(NULL, c), 0);
    assert_int_equal(tensor_backward_from(x, NULL), 0);
    tensor_backward_from(x, c);
    assert_error(ERROR_STATE, "tensor_backward_from: the tensor depends on nothing that needs a gradient");
    tensor_backward_from(tensor_scale(x, 2), values(SHAPE(2, 2), 3, 1));
    assert_error(ERROR_SHAPE, "the gradient of f32 (4) must be f32 of the same shape, not f32 (2,2)");
    tensor_backward_from(tensor_scale(x, 2), integers(SHAPE(4), 3, 5));
    assert_error(ERROR_SHAPE, "must be f32 of the same shape, not i32 (4)");
    Tensor *gone = tensor_scale(c, 2);
    tensor_drop_data(gone, DATA_DONATED);
    tensor_backward_from(tensor_scale(x, 2), gone);
    assert_error(ERROR_STATE, "tensor_backward_from", "given away");
    Tensor *y = tensor_scale(x, 2);
    assert_int_equal(tensor_backward_from(y, c), 0);
    tensor_backward_from(y, c);
    assert_error(ERROR_STATE, "recorded for this tensor is gone");
    Visit v = visit(&(ContextOptions){.threads = 1});
    Tensor *other = values(SHAPE(4), 2, 1);
    tensor_backward_from(y, other);
    assert_error(ERROR_STATE, "belongs to another context");
    leave(v);
}

/* ---- Several tapes --------------------------------------------------------------------------- */

/* Two micro-batches are recorded before the first is run backward, each on a tape of its own, as in the
 * stages of a pipeline: gradients are those of one after the other. */
static void two_batches(int apart, float *gradients)
{
    Context *context = context_current();
    Tape *whole = context->tape;
    Tensor *w = parameter(SHAPE(WIDTH, WIDTH), 2), *loss[2];
    Tape *tapes[2] = {tape_create(context), tape_create(context)};
    for (uint32_t i = 0; i < 2; i++) {
        context->tape = apart ? tapes[i] : whole;
        Tensor *x = values(SHAPE(ROWS, WIDTH), 7 + i, 1);
        loss[i] = tensor_sum(tensor_linear(x, w, NULL, TENSOR_GELU));
        if (!apart)
            assert_int_equal(tensor_backward(loss[i]), 0);
    }
    for (int i = 0; i < 2 && apart; i++) {
        context->tape = tapes[i];
        assert_int_equal(tensor_backward(loss[i]), 0);
    }
    context->tape = whole;
    memcpy(gradients, grad_f32(w), WIDTH * WIDTH * sizeof(float));
    tape_destroy(tapes[0]);
    tape_destroy(tapes[1]);
    tensor_free(w);
}

/* A tape that is destroyed lets go of what it holds. */
static void test_tapes(void **state)
{
    (void)state;
    float gradients[2][WIDTH * WIDTH];
    two_batches(0, gradients[0]);
    two_batches(1, gradients[1]);
    assert_memory_equal(gradients[0], gradients[1], sizeof *gradients);

    Context *context = context_current();
    Tape *whole = context->tape, *tape = context->tape = tape_create(context);
    int scope = tensor_scope_begin();
    Tensor *x = leaf(SHAPE(ROWS, WIDTH), 1, 1);
    tensor_promote(tensor_activation(x, TENSOR_GELU));
    context->tape = whole;
    tensor_scope_end(scope);
    assert_int_equal(books()->live_by[MEM_INPUT], rounded(ROWS * WIDTH) * 5); /* four of before, and x */
    tape_destroy(tape);
    assert_int_equal(books()->live_by[MEM_INPUT], rounded(ROWS * WIDTH) * 4);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_freed_parameters),
        TEST(test_gradient_without_data),
        TEST(test_moved_parameters),
        TEST(test_blamed_parameter),
        TEST(test_checkpoint_of_a_parameter),
        TEST(test_backward_from),
        TEST(test_backward_from_is_planned),
        TEST(test_backward_from_refuses),
        TEST(test_tapes),
    };
    return cmocka_run_group_tests_name("tape", tests, NULL, NULL);
}
