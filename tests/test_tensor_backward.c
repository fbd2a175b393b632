/* Recording and backward: what is refused, where gradients end up, losses that are not finite, and
 * checkpoints. */
#include <math.h>

#include "support.h"
#include "tensor/tensor_.h"

static int tape_length(void)
{
    return context_current()->tape->count;
}

/* ---- Recording ------------------------------------------------------------------------------- */

static void test_no_grad(void **state)
{
    (void)state;
    const MemTracker *tracker = context_tracker(context_current());
    Tensor *w = leaf(SHAPE(64), 1, 1);
    assert_true(tensor_recording());
    assert_int_equal(memtrack_phase(tracker), MEM_PHASE_SETUP);
    tensor_gelu(w);
    assert_int_equal(memtrack_phase(tracker), MEM_PHASE_FORWARD);
    int nodes = tape_length();
    tensor_no_grad_begin();
    tensor_no_grad_begin();
    assert_int_equal(memtrack_phase(tracker), MEM_PHASE_EVALUATE);
    uint64_t live = books()->live;
    Tensor *y = tensor_gelu(w);
    for (int i = 0; i < 5; i++)
        y = tensor_gelu(tensor_donate(y)); /* in place: nothing is kept for a backward */
    Tensor *loss = tensor_sum(tensor_donate(y));
    assert_int_equal(books()->live, live + 64);
    assert_int_equal(tape_length(), nodes);
    assert_false(tensor_requires_grad(loss));
    tensor_no_grad_end();
    assert_false(tensor_recording());
    assert_int_equal(memtrack_phase(tracker), MEM_PHASE_EVALUATE);
    tensor_no_grad_end();
    assert_true(tensor_recording());
    assert_int_equal(memtrack_phase(tracker), MEM_PHASE_FORWARD);
    assert_int_equal(tensor_backward(loss), ERROR_STATE);
    assert_error(ERROR_STATE, "tensor_backward", "tensor_no_grad_begin");
    tensor_no_grad_end();
    assert_error(ERROR_STATE, "tensor_no_grad_end without tensor_no_grad_begin");
}

static void test_backward_refuses(void **state)
{
    (void)state;
    Tensor *w = leaf(SHAPE(2, 3), 1, 1);
    tensor_backward(tensor_gelu(w));
    assert_error(ERROR_SHAPE, "tensor_backward", "one number", "(2,3)");
    tensor_backward(tensor_sum(values(SHAPE(3), 1, 1)));
    assert_error(ERROR_STATE, "tensor_backward", "nothing that needs a gradient");
    tensor_backward(leaf(SHAPE(1), 1, 1));
    assert_error(ERROR_STATE, "tensor_backward");
    Tensor *loss = tensor_sum(tensor_gelu(w));
    assert_int_equal(tensor_backward(loss), 0);
    float first = grad_f32(w)[0];
    tensor_backward(loss);
    assert_error(ERROR_STATE, "tensor_backward", "second");
    assert_float_equal(grad_f32(w)[0], first, 0);
    assert_true(isfinite(tensor_item(loss))); /* its value may still be printed */
    tensor_backward(NULL);
    assert_fine();
    error_raise(ERROR_DATA, "earlier");
    assert_int_equal(tensor_backward(tensor_sum(w)), ERROR_DATA);
    assert_error(ERROR_DATA, "earlier");
    assert_int_equal(tape_length(), 0);
}

/* ---- Gradients ------------------------------------------------------------------------------- */

static void test_gradients_accumulate(void **state)
{
    (void)state;
    Tensor *w = tensor_parameter(SHAPE(5));
    fill_values(tensor_f32(w), 5, 1, 1, 0);
    assert_false(tensor_has_grad(w));
    for (int pass = 1; pass <= 3; pass++) {
        assert_int_equal(tensor_backward(tensor_sum(tensor_scale(w, 2))), 0);
        assert_float_equal(grad_f32(w)[4], 2 * pass, 0);
        assert_int_equal(books()->live_by[MEM_GRADIENT], 64);
    }
    tensor_drop_grad(w);
    assert_false(tensor_has_grad(w));
    assert_null(grad_f32(w));
    assert_int_equal(books()->live_by[MEM_GRADIENT], 0);
    tensor_free(w);
}

static void test_frozen_parameters(void **state)
{
    (void)state;
    Tensor *w = tensor_parameter(SHAPE(3, 4)), *frozen = tensor_parameter(SHAPE(4, 5)),
           *b = tensor_parameter(SHAPE(3));
    tensor_fill_normal(w, 0, 1);
    tensor_fill_normal(frozen, 0, 1);
    tensor_fill(b, 0);
    tensor_set_requires_grad(frozen, 0);
    assert_int_equal(books()->live_by[MEM_FROZEN], rounded(20));
    assert_int_equal(books()->live_by[MEM_PARAMETER], rounded(12) + rounded(3));
    Tensor *h = tensor_linear(values(SHAPE(2, 5), 1, 1), frozen, NULL, TENSOR_GELU);
    assert_false(tensor_requires_grad(h)); /* nothing below needs one: nothing was recorded */
    assert_int_equal(tape_length(), 0);
    assert_int_equal(tensor_backward(tensor_sum(tensor_linear(h, w, b, TENSOR_SILU))), 0);
    assert_true(tensor_has_grad(w) && tensor_has_grad(b));
    assert_false(tensor_has_grad(frozen));
    tensor_set_requires_grad(h, 1);
    assert_error(ERROR_STATE, "leaves");
    tensor_set_requires_grad(w, 0); /* freezing drops the gradient */
    assert_false(tensor_has_grad(w));
    tensor_set_requires_grad(w, 1);
    assert_int_equal(books()->live_by[MEM_PARAMETER], rounded(12) + rounded(3));
    tensor_free(w);
    tensor_free(frozen);
    tensor_free(b);
}

/* A head tied to the embedding: the gradient is the sum of both uses. */
static void test_tied_weights(void **state)
{
    (void)state;
    Tensor *tied = tensor_parameter(SHAPE(7, 4));
    fill_values(tensor_f32(tied), 28, 1, 1, 0);
    Tensor *table = leaf(SHAPE(7, 4), 1, 1), *head = leaf(SHAPE(7, 4), 1, 1);
    Tensor *ids = integers(SHAPE(2, 3), 1, 7), *labels = integers(SHAPE(2, 3), 2, 7);
    tensor_backward(tensor_cross_entropy(
        tensor_linear(tensor_embedding(ids, tied), tied, NULL, TENSOR_IDENTITY), labels, -1, 1));
    tensor_backward(tensor_cross_entropy(
        tensor_linear(tensor_embedding(ids, table), head, NULL, TENSOR_IDENTITY), labels, -1, 1));
    float sum[28];
    for (int i = 0; i < 28; i++)
        sum[i] = grad_f32(table)[i] + grad_f32(head)[i];
    assert_true(difference(sum, grad_f32(tied), 28) < 1e-6);
    assert_int_equal(books()->live_by[MEM_GRADIENT], rounded(28)); /* one gradient, not two */
    tensor_free(tied);
}

static void test_leaf_inputs_get_gradients(void **state)
{
    (void)state;
    Tensor *x = leaf(SHAPE(3, 4), 1, 1), *w = values(SHAPE(2, 4), 2, 1);
    tensor_backward(tensor_sum(tensor_linear(x, w, NULL, TENSOR_IDENTITY)));
    for (int i = 0; i < 12; i++)
        assert_float_equal(grad_f32(x)[i], tensor_f32(w)[i % 4] + tensor_f32(w)[4 + i % 4], 1e-6);
    assert_false(tensor_has_grad(w));
    assert_int_equal(books()->live_by[MEM_GRADIENT], 0); /* not a parameter's */
}

/* ---- Values that are not finite -------------------------------------------------------------- */

static Tensor *ill_loss(Tensor *w, float factor)
{
    MemTracker *tracker = context_tracker(context_current());
    memtrack_path_push(tracker, "layers.1");
    Tensor *h = tensor_scale(tensor_gelu(w), factor); /* overflows */
    memtrack_path_pop(tracker);
    memtrack_path_push(tracker, "head");
    Tensor *loss = tensor_sum(tensor_mul(h, h));
    memtrack_path_pop(tracker);
    return loss;
}

static void test_nan_loss_is_blamed(void **state)
{
    (void)state;
    Tensor *w = tensor_parameter(SHAPE(50));
    tensor_set_name(w, "layers.1.weight");
    fill_values(tensor_f32(w), 50, 1, 5, 2);
    assert_int_equal(tensor_backward(ill_loss(w, 2)), 0);
    float before[2][50];
    memcpy(before[0], tensor_f32(w), sizeof before[0]);
    memcpy(before[1], grad_f32(w), sizeof before[1]);
    uint64_t live = books()->live;
    int scope = tensor_scope_begin();
    assert_int_equal(tensor_backward(ill_loss(w, 3e38f)), ERROR_NONFINITE);
    assert_error(ERROR_NONFINITE, "loss is", "scale", "layers.1");
    assert_memory_equal(tensor_f32(w), before[0], sizeof before[0]);
    assert_memory_equal(grad_f32(w), before[1], sizeof before[1]);
    assert_int_equal(tape_length(), 0);
    tensor_scope_end(scope);
    assert_int_equal(books()->live, live);
    tensor_f32(w)[7] = NAN;
    tensor_backward(ill_loss(w, 1));
    assert_error(ERROR_NONFINITE, "loss is NaN", "parameter 'layers.1.weight'", "layers.1");
    assert_memory_equal(grad_f32(w), before[1], sizeof before[1]);
    Tensor *x = values(SHAPE(50), 3, 1);
    tensor_set_name(x, "pixels");
    tensor_f32(x)[49] = INFINITY;
    tensor_f32(w)[7] = 1;
    tensor_backward(tensor_sum(tensor_mul(w, x)));
    assert_error(ERROR_NONFINITE, "input 'pixels'");
    tensor_free(w);
}

/* The loss alone overflows: every tensor kept for backward is finite. */
static void test_loss_itself_overflows(void **state)
{
    (void)state;
    Tensor *w = leaf(SHAPE(4), 1, 1);
    tensor_fill(w, 3e38f);
    tensor_backward(tensor_sum(w));
    assert_error(ERROR_NONFINITE, "loss is inf", "itself");
}

/* ---- Checkpoint ------------------------------------------------------------------------------ */

static int runs;

static Tensor *twice(void *self, Tensor *x, const Batch *batch)
{
    (void)batch;
    runs++;
    Tensor *h = tensor_mul(x, *(Tensor **)self);
    return tensor_add(tensor_dropout(tensor_gelu(tensor_donate(h)), 0.5f), x); /* reads x twice */
}

static Tensor *same(void *self, Tensor *x, const Batch *batch)
{
    (void)self, (void)batch;
    return x;
}

static void test_checkpoint(void **state)
{
    (void)state;
    Tensor *w = leaf(SHAPE(6, 50), 1, 1), *x = leaf(SHAPE(6, 50), 2, 1);
    tensor_random_begin(1, 2);
    tensor_backward(tensor_sum(twice(&w, twice(&w, x, NULL), NULL)));
    Tensor *gw = copy_of(grad_f32(w), 300), *gx = copy_of(grad_f32(x), 300);
    for (int variant = 0; variant < 3; variant++) { /* plain, the input given away, and in eval first */
        tensor_drop_grad(w);
        tensor_drop_grad(x);
        runs = 0;
        tensor_random_begin(1, 2);
        if (variant == 2) {
            tensor_no_grad_begin();
            Tensor *h = tensor_scale(x, 1);
            assert_non_null(tensor_checkpoint(twice, &w, tensor_donate(h), NULL));
            assert_null(tensor_f32(h));
            assert_error(ERROR_STATE, "tensor_donate");
            tensor_no_grad_end();
            tensor_random_begin(1, 2);
            runs = 0;
        }
        Tensor *h = tensor_checkpoint(twice, &w, x, NULL);
        h = tensor_checkpoint(twice, &w, variant ? tensor_donate(h) : h, NULL);
        assert_int_equal(runs, 2);
        assert_int_equal(tensor_backward(tensor_sum(h)), 0);
        assert_int_equal(runs, 4);
        assert_memory_equal(grad_f32(w), tensor_f32(gw), 300 * sizeof(float));
        assert_memory_equal(grad_f32(x), tensor_f32(gx), 300 * sizeof(float));
    }
}

/* A function that does nothing leaves its input alone; one that fails says so. */
static void test_checkpoint_of_nothing(void **state)
{
    (void)state;
    Tensor *x = leaf(SHAPE(8), 1, 1), *h = tensor_scale(x, 3);
    assert_ptr_equal(tensor_checkpoint(same, NULL, x, NULL), x);
    assert_ptr_equal(tensor_checkpoint(same, NULL, tensor_donate(h), NULL), h);
    assert_int_equal(tensor_backward(tensor_sum(h)), 0);
    assert_float_equal(grad_f32(x)[7], 3, 0);
    Tensor *wrong = values(SHAPE(9), 1, 1);
    assert_null(tensor_checkpoint(twice, &wrong, x, NULL));
    assert_error(ERROR_SHAPE, "mul", "(9)");
    assert_null(tensor_checkpoint(twice, &wrong, NULL, NULL));
    assert_fine();
}

/* The first operations of a step may be checkpointed: they belong to the new step. */
static void test_checkpoint_begins_the_step(void **state)
{
    (void)state;
    Tensor *w = leaf(SHAPE(8), 1, 1), *x = leaf(SHAPE(8), 2, 1);
    const MemTracker *tracker = context_tracker(context_current());
    for (int step = 0; step < 3; step++) {
        Tensor *y = tensor_checkpoint(twice, &w, x, NULL);
        assert_int_equal(memtrack_step(tracker), step);
        assert_int_equal(memtrack_phase(tracker), MEM_PHASE_FORWARD);
        assert_int_equal(tensor_backward(tensor_sum(y)), 0);
        context_step_end();
    }
}

static Tensor *gives_away(void *self, Tensor *x, const Batch *batch)
{
    (void)batch;
    return tensor_mul(tensor_relu(tensor_donate(x)), *(Tensor **)self);
}

/* A function may give its own input away: what the second run needs is held for it. */
static void test_checkpoint_that_moves_its_input(void **state)
{
    (void)state;
    Tensor *w = leaf(SHAPE(50), 1, 1), *x = leaf(SHAPE(50), 2, 1);
    tensor_backward(tensor_sum(gives_away(&w, tensor_scale(x, 2), NULL)));
    Tensor *gw = copy_of(grad_f32(w), 50), *gx = copy_of(grad_f32(x), 50);
    tensor_drop_grad(w);
    tensor_drop_grad(x);
    Tensor *h = tensor_scale(x, 2), *y = tensor_checkpoint(gives_away, &w, h, NULL);
    assert_null(tensor_f32(h));
    assert_error(ERROR_STATE, "tensor_donate");
    assert_int_equal(tensor_backward(tensor_sum(y)), 0);
    assert_memory_equal(grad_f32(w), tensor_f32(gw), 50 * sizeof(float));
    assert_memory_equal(grad_f32(x), tensor_f32(gx), 50 * sizeof(float));
}

static Tensor *looks_up(void *self, Tensor *x, const Batch *batch)
{
    (void)x;
    return tensor_embedding(batch->ids, *(Tensor **)self);
}

/* Two micro-batches before one backward: the second run reads the batch of its own first one, though the
 * loader has put another in its place. */
static void test_checkpoint_keeps_its_batch(void **state)
{
    (void)state;
    Tensor *w = leaf(SHAPE(3, 2), 1, 1), *y[2];
    Batch batch = {0};
    for (int32_t i = 0; i < 2; i++) {
        tensor_free(batch.ids);
        batch.ids = tensor_from(DTYPE_I32, SHAPE(2), MEM_INPUT, (int32_t[]){i, i});
        y[i] = tensor_checkpoint(looks_up, &w, NULL, &batch);
    }
    batch.ids = NULL;
    assert_int_equal(tensor_backward(tensor_sum(tensor_add(y[0], y[1]))), 0);
    assert_memory_equal(grad_f32(w), ((float[]){2, 2, 2, 2, 0, 0}), 6 * sizeof(float));
}

static Tensor *its_own(void *self, Tensor *x, const Batch *batch)
{
    (void)x, (void)batch;
    return *(Tensor **)self;
}

/* What no operation made is no result to run again for: it stays the leaf it is. */
static void test_checkpoint_that_returns_a_parameter(void **state)
{
    (void)state;
    Tensor *w = leaf(SHAPE(8), 1, 1);
    assert_ptr_equal(tensor_checkpoint(its_own, &w, NULL, NULL), w);
    assert_int_equal(tensor_backward(tensor_sum(tensor_mul(w, w))), 0);
    assert_float_equal(grad_f32(w)[3], 2 * tensor_f32(w)[3], 1e-6);
}

/* Frozen through and through: as in a plain run, nothing is kept and backward does not come here. */
static void test_checkpoint_of_frozen(void **state)
{
    (void)state;
    Tensor *w = leaf(SHAPE(2000), 1, 1), *x = values(SHAPE(2000), 2, 1), *h = tensor_scale(x, 2);
    tensor_set_requires_grad(w, 0);
    Tensor *y = tensor_checkpoint(gives_away, &w, tensor_donate(h), NULL);
    assert_false(tensor_requires_grad(y));
    assert_int_equal(books()->live_by[MEM_ACTIVATION], 0);
    tensor_set_requires_grad(w, 1);
    assert_true(tensor_requires_grad(tensor_checkpoint(gives_away, &w, y, NULL)));
}

/* backward may be called where nothing is recorded; the second run is recorded all the same. */
static void test_backward_between_no_grad(void **state)
{
    (void)state;
    Tensor *w = leaf(SHAPE(8), 1, 1), *x = leaf(SHAPE(8), 2, 1);
    Tensor *loss = tensor_sum(tensor_checkpoint(gives_away, &w, tensor_scale(x, 1), NULL));
    tensor_no_grad_begin();
    assert_int_equal(tensor_backward(loss), 0);
    assert_false(tensor_recording());
    tensor_no_grad_end();
    assert_true(tensor_has_grad(w) && tensor_has_grad(x));
}

/* ---- Sharing ---------------------------------------------------------------------------------- */

/* Every kind of sharing at once: values that are read several times, reshaped, donated and repeated. */
static Tensor *tangle(Tensor *x)
{
    Tensor *a = tensor_gelu(x), *b = tensor_add(a, x), *c = tensor_mul(a, b);
    Tensor *d = tensor_add(tensor_reshape(c, SHAPE(15)), tensor_reshape(b, SHAPE(15)));
    Tensor *e = tensor_swiglu(tensor_reshape(d, SHAPE(3, 5)), b), *f = tensor_add(e, e);
    Tensor *g = tensor_scale(tensor_donate(f), 0.5f), *h = tensor_mul(g, tensor_add(g, tensor_donate(a)));
    return tensor_add(tensor_sum(tensor_donate(h)), tensor_sum(tensor_mul(c, c)));
}

static void test_tangle(void **state)
{
    (void)state;
    Tensor *x = leaf(SHAPE(3, 5), 1, 1);
    assert_int_equal(tensor_backward(tangle(x)), 0);
    float gradient[15];
    memcpy(gradient, grad_f32(x), sizeof gradient);
    tensor_no_grad_begin();
    for (int i = 0; i < 15; i++) {
        float *element = tensor_f32(x) + i, old = *element, h = 1.0f / 32;
        double f[4];
        const float at[] = {old + h, old - h, old + 2 * h, old - 2 * h};
        for (int k = 0; k < 4; k++) {
            int scope = tensor_scope_begin();
            *element = at[k];
            f[k] = tensor_item(tangle(x));
            tensor_scope_end(scope);
        }
        *element = old;
        double measured = (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * (double)h);
        assert_true(fabs(measured - gradient[i]) < 2e-3 * fmax(1, fabs(measured)));
    }
    tensor_no_grad_end();
    assert_fine();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_no_grad),
        TEST(test_backward_refuses),
        TEST(test_gradients_accumulate),
        TEST(test_frozen_parameters),
        TEST(test_tied_weights),
        TEST(test_leaf_inputs_get_gradients),
        TEST(test_nan_loss_is_blamed),
        TEST(test_loss_itself_overflows),
        TEST(test_checkpoint),
        TEST(test_checkpoint_of_nothing),
        TEST(test_checkpoint_begins_the_step),
        TEST(test_checkpoint_that_moves_its_input),
        TEST(test_checkpoint_keeps_its_batch),
        TEST(test_checkpoint_that_returns_a_parameter),
        TEST(test_checkpoint_of_frozen),
        TEST(test_backward_between_no_grad),
        TEST(test_tangle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
