/* tensor_recompute: what is made again in backward is not kept, and everything else stays as it was, bit for
 * bit. */
#include "support.h"
#include "tensor/tensor_.h"

enum { ROWS = 5, WIDTH = 7, WIDE = 37 };

typedef struct Layers {
    Tensor *up, *up_bias, *gate, *down, *norm, *norm_bias;
} Layers;

static Layers weights_new(void)
{
    return (Layers){.up = leaf(SHAPE(WIDE, WIDTH), 1, 0.5),
                     .up_bias = leaf(SHAPE(WIDE), 2, 0.5),
                     .gate = leaf(SHAPE(WIDE, WIDTH), 3, 0.5),
                     .down = leaf(SHAPE(WIDTH, WIDE), 4, 0.5),
                     .norm = leaf(SHAPE(WIDTH), 5, 0.5),
                     .norm_bias = leaf(SHAPE(WIDTH), 6, 0.5)};
}

static Tensor *maybe(Tensor *t, int recompute)
{
    return recompute ? tensor_recompute(t) : t;
}

/* Every kind of operation that can be made again: norms with two readers each, a linear layer with GELU,
 * SwiGLU, an activation by itself, mul. */
static Tensor *network(const Layers *w, Tensor *x, int recompute)
{
    x = tensor_scale(x, 2);
    Tensor *a = maybe(tensor_layer_norm(x, w->norm, w->norm_bias, 1e-5f), recompute);
    Tensor *gelu = maybe(tensor_linear(a, w->up, w->up_bias, TENSOR_GELU), recompute);
    Tensor *b = tensor_add(tensor_linear(tensor_donate(gelu), w->down, NULL, TENSOR_IDENTITY),
                           tensor_linear(tensor_linear(tensor_donate(a), w->up, NULL, TENSOR_RELU), w->down,
                                         NULL, TENSOR_IDENTITY));
    Tensor *c = maybe(tensor_rms_norm(tensor_donate(b), w->norm, 1e-5f), recompute);
    Tensor *gate = tensor_linear(c, w->gate, NULL, TENSOR_IDENTITY);
    Tensor *up = tensor_linear(tensor_donate(c), w->up, NULL, TENSOR_IDENTITY);
    Tensor *wide = maybe(tensor_swiglu(tensor_donate(gate), tensor_donate(up)), recompute);
    Tensor *d = tensor_linear(tensor_donate(wide), w->down, NULL, TENSOR_IDENTITY);
    Tensor *e = tensor_linear(d, w->up, NULL, TENSOR_IDENTITY);
    Tensor *act = maybe(tensor_silu(tensor_donate(e)), recompute);
    Tensor *f = tensor_linear(tensor_donate(act), w->down, NULL, TENSOR_IDENTITY);
    Tensor *product = maybe(tensor_mul(tensor_donate(d), tensor_donate(f)), recompute);
    return tensor_sum(tensor_linear(tensor_donate(product), w->up, NULL, TENSOR_IDENTITY));
}

typedef struct Outcome {
    float loss, up[WIDE * WIDTH], down[WIDE * WIDTH], norm[WIDTH], x[ROWS * WIDTH];
    uint64_t kept; /* activations when the forward pass is done */
} Outcome;

static void run(Outcome *out, int recompute)
{
    int scope = tensor_scope_begin();
    Layers w = weights_new();
    Tensor *x = leaf(SHAPE(ROWS, WIDTH), 9, 1);
    Tensor *loss = network(&w, x, recompute);
    assert_fine();
    out->kept = books()->live_by[MEM_ACTIVATION];
    assert_int_equal(tensor_backward(loss), 0);
    assert_int_equal(books()->live_by[MEM_ACTIVATION], 0);
    out->loss = tensor_item(loss);
    memcpy(out->up, grad_f32(w.up), sizeof out->up);
    memcpy(out->down, grad_f32(w.down), sizeof out->down);
    memcpy(out->norm, grad_f32(w.norm), sizeof out->norm);
    memcpy(out->x, grad_f32(x), sizeof out->x);
    tensor_scope_end(scope);
}

static void test_gradients_are_bitwise_the_same(void **state)
{
    (void)state;
    Outcome kept, recomputed;
    memset(&kept, 0, sizeof kept);
    memset(&recomputed, 0, sizeof recomputed);
    run(&kept, 0);
    run(&recomputed, 1);
    uint64_t saved = kept.kept - recomputed.kept;
    /* two norms' outputs and mul's; GELU's, SwiGLU's and SiLU's */
    assert_int_equal(saved, 3 * rounded(ROWS * WIDTH) + 3 * rounded(ROWS * WIDE));
    kept.kept = recomputed.kept = 0;
    assert_memory_equal(&kept, &recomputed, sizeof kept);
}

/* Operations that cannot, leaves, and NULL: nothing happens. */
static void test_ignored_elsewhere(void **state)
{
    (void)state;
    assert_null(tensor_recompute(NULL));
    Tensor *x = leaf(SHAPE(ROWS, WIDTH), 1, 1);
    assert_ptr_equal(tensor_recompute(x), x);
    Tensor *w = leaf(SHAPE(WIDE, WIDTH), 2, 1), *v = leaf(SHAPE(WIDTH, WIDE), 3, 1);
    Tensor *h = tensor_recompute(tensor_linear(x, w, NULL, TENSOR_IDENTITY)); /* would need the product again */
    Tensor *loss = tensor_sum(tensor_linear(tensor_donate(h), v, NULL, TENSOR_IDENTITY));
    assert_int_equal(books()->live_by[MEM_ACTIVATION], rounded(ROWS * WIDE));
    assert_int_equal(tensor_backward(loss), 0);
    assert_fine();
}

/* A kept tensor outlives its tape: a later graph, with other nodes at the same index, must not take one for
 * its maker. */
static void test_kept_beyond_its_tape(void **state)
{
    (void)state;
    Tensor *x = leaf(SHAPE(ROWS, WIDTH), 1, 1), *w = leaf(SHAPE(WIDE, WIDTH), 2, 1),
           *v = leaf(SHAPE(WIDTH, WIDE), 3, 1);
    Tensor *h = tensor_keep(tensor_recompute(tensor_linear(x, w, NULL, TENSOR_GELU)));
    assert_int_equal(tensor_backward(tensor_sum(tensor_linear(h, v, NULL, TENSOR_IDENTITY))), 0);
    Tensor *first = copy_of(grad_f32(v), WIDTH * WIDE);
    tensor_drop_grad(v);
    /* the node at h's old index is another GELU of the same size */
    Tensor *other = tensor_linear(tensor_scale(x, 3), w, NULL, TENSOR_GELU);
    Tensor *loss = tensor_add(tensor_sum(tensor_linear(h, v, NULL, TENSOR_IDENTITY)),
                              tensor_scale(tensor_sum(other), 0));
    assert_int_equal(tensor_backward(loss), 0);
    assert_memory_equal(tensor_f32(first), grad_f32(v), WIDTH * WIDE * sizeof(float));
    assert_fine();
}

/* What takes the storage of a tensor that is to be made again changes nothing for those who read it before.
 */
static void test_storage_taken_by_another(void **state)
{
    (void)state;
    float gradient[2][WIDTH * WIDE];
    for (int recompute = 0; recompute < 2; recompute++) {
        int scope = tensor_scope_begin();
        Tensor *x = leaf(SHAPE(ROWS, WIDTH), 1, 1), *w = leaf(SHAPE(WIDE, WIDTH), 2, 1);
        Tensor *v = leaf(SHAPE(WIDTH, WIDE), 3, 1);
        Tensor *h = maybe(tensor_linear(x, w, NULL, TENSOR_GELU), recompute);
        Tensor *y = tensor_linear(h, v, NULL, TENSOR_IDENTITY);
        Tensor *twice = tensor_scale(tensor_donate(h), 2); /* in place when h is not kept */
        Tensor *z = tensor_linear(tensor_donate(twice), v, NULL, TENSOR_IDENTITY);
        assert_int_equal(tensor_backward(tensor_sum(tensor_add(tensor_donate(y), tensor_donate(z)))), 0);
        memcpy(gradient[recompute], grad_f32(v), sizeof gradient[recompute]);
        tensor_scope_end(scope);
    }
    assert_memory_equal(gradient[0], gradient[1], sizeof gradient[0]);
    assert_fine();
}

/* Its gradient is written over what was made again and is read no more: one block, not two. */
static void test_gradient_over_what_was_made_again(void **state)
{
    (void)state;
    uint64_t made[2];
    for (int recompute = 0; recompute < 2; recompute++) {
        int scope = tensor_scope_begin();
        Tensor *x = leaf(SHAPE(ROWS, WIDTH), 1, 1), *w = leaf(SHAPE(WIDE, WIDTH), 2, 1);
        Tensor *v = leaf(SHAPE(WIDTH, WIDE), 3, 1);
        Tensor *h = maybe(tensor_linear(x, w, NULL, TENSOR_GELU), recompute);
        Tensor *loss = tensor_sum(tensor_linear(tensor_donate(h), v, NULL, TENSOR_IDENTITY));
        made[recompute] = books()->allocations;
        assert_int_equal(tensor_backward(loss), 0);
        made[recompute] = books()->allocations - made[recompute];
        tensor_scope_end(scope);
    }
    assert_int_equal(made[0], made[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_gradients_are_bitwise_the_same, fresh_context2, leave_context),
        cmocka_unit_test_setup_teardown(test_ignored_elsewhere, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_kept_beyond_its_tape, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_storage_taken_by_another, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_gradient_over_what_was_made_again, fresh_context, leave_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
