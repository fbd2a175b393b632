/* Mixtures of experts against transformers' own blocks and its loss that balances experts (parity/README.md):
 * values and gradients, with the tuned and the plain kernels. */
#include <math.h>

#include "../tensor/tensor_.h"
#include "support.h"

/* Nearer than this: transformers computes softmax in f32, whatever the rest is of. */
#define NEAR 2e-6

static Tensor *input(const Fixture *f, int at, const char *name)
{
    const Record *r = fixture_find(f, at, name);
    assert_non_null(r);
    Tensor *t = tensor_from(r->dtype == 1 ? DTYPE_I32 : DTYPE_F32, r->shape, MEM_INPUT, r->data);
    tensor_set_requires_grad(t, r->dtype == 0);
    return t;
}

static void assert_record(const Fixture *f, int at, const char *name, const float *found)
{
    const Record *r = fixture_find(f, at, name);
    assert_non_null(r);
    double apart = difference(r->data, found, shape_numel(r->shape));
    if (!(apart <= NEAR))
        fail_msg("%s: %s is %g apart", (const char *)f->records[at].data, name, apart);
}

static void check_block(const Fixture *f, int at)
{
    static const char *const names[] = {"x", "router", "gate_up", "down"};
    const char *text = f->records[at].data;
    char gradient[32];
    Tensor *in[COUNT(names)];
    for (size_t i = 0; i < COUNT(names); i++)
        in[i] = input(f, at, names[i]);
    Tensor *router = tensor_linear(in[0], in[1], NULL, TENSOR_IDENTITY);
    Tensor *y = tensor_experts(in[0], tensor_donate(router), in[2], in[3],
                               &(ExpertsOptions){.active = (int)attribute(text, "active", 0),
                                                 .normalise = (int)attribute(text, "normalise", 0)});
    assert_fine();
    assert_record(f, at, "y", tensor_f32(y));
    tensor_backward(tensor_sum(tensor_mul(y, input(f, at, "dy"))));
    for (size_t i = 0; i < COUNT(names); i++) {
        snprintf(gradient, sizeof gradient, "grad.%s", names[i]);
        assert_record(f, at, gradient, grad_f32(in[i]));
    }
}

/* Experts that make zeros: what is left of the gradient is that of the balance. */
static void check_balance(const Fixture *f, int at)
{
    const char *text = f->records[at].data;
    const Record *r = fixture_find(f, at, "logits");
    int64_t layers = r->shape.dim[0], rows = r->shape.dim[1], experts = r->shape.dim[2];
    Tensor *stats = tensor_zeros(DTYPE_F32, SHAPE(3, experts), MEM_BUFFER), *loss = NULL, *router[8];
    Tensor *up = tensor_zeros(DTYPE_F32, SHAPE(experts, 2, 1), MEM_INPUT);
    Tensor *down = tensor_zeros(DTYPE_F32, SHAPE(experts, 1, 1), MEM_INPUT);
    Tensor *x = tensor_zeros(DTYPE_F32, SHAPE(rows, 1), MEM_INPUT);
    ExpertsOptions options = {.active = (int)attribute(text, "active", 0),
                              .balance = stats,
                              .mask = attribute(text, "masked", 0) > 0 ? input(f, at, "mask") : NULL};
    float *found = test_malloc((size_t)(layers * rows * experts) * sizeof *found);
    assert_true(layers <= (int)COUNT(router));
    tensor_balance_begin(stats);
    for (int64_t i = 0; i < layers; i++) {
        router[i] = tensor_from(DTYPE_F32, SHAPE(rows, experts), MEM_INPUT,
                                (const float *)r->data + i * rows * experts);
        tensor_set_requires_grad(router[i], 1);
        Tensor *term = tensor_sum(tensor_experts(x, router[i], up, down, &options));
        loss = loss ? tensor_add(loss, term) : term;
    }
    loss = tensor_balance_loss(loss, stats, options.active, 1);
    assert_fine();
    assert_record(f, at, "y", tensor_f32(loss));
    tensor_backward(loss);
    for (int64_t i = 0; i < layers; i++)
        memcpy(found + i * rows * experts, grad_f32(router[i]), (size_t)(rows * experts) * sizeof *found);
    assert_record(f, at, "grad.logits", found);
    test_free(found);
}

static void with_kernels(const char *kernels, int threads)
{
    Fixture f = fixture_open("experts.bin");
    Visit v = visit(&(ContextOptions){.kernels = kernels, .threads = threads});
    int blocks = 0, balances = 0;
    for (int at = 0; at < f.count; at++) {
        if (strcmp(f.records[at].name, "case") != 0)
            continue;
        int scope = tensor_scope_begin(), block = kind_is(f.records[at].data, "block");
        blocks += block;
        balances += !block;
        (block ? check_block : check_balance)(&f, at);
        tensor_scope_end(scope);
        assert_fine();
    }
    assert_true(blocks == 8 && balances == 5);
    leave(v);
    fixture_close(&f);
}

static void test_tuned_kernels(void **state)
{
    (void)state;
    with_kernels(NULL, 1);
}

static void test_three_threads(void **state)
{
    (void)state;
    with_kernels(NULL, 3);
}

static void test_reference_kernels(void **state)
{
    (void)state;
    with_kernels("reference", 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tuned_kernels),
        cmocka_unit_test(test_three_threads),
        cmocka_unit_test(test_reference_kernels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
