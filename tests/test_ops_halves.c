/* Operations on activations of 16 bit in every precision: results and gradients are those of the same
 * operation in f32 on the same numbers, rounded once to the type that each has; sums are added to in f32.
 * Products and attention have tests of their own. */
#include <math.h>

#include "../base/half_.h"
#include "../tensor/tensor_.h"
#include "support.h"

enum { MAX_INPUTS = 3, MAX_NUMEL = 6000 };

typedef struct Case Case;
struct Case {
    const char *what;
    Tensor *(*run)(const Case *c, Tensor **in);
    Shape shape[MAX_INPUTS];
    unsigned parameters; /* OP_INPUT(i) of those that are; the others are activations */
    int a;
    float f;
};

static Tensor *run_add(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_add(in[0], in[1]);
}

static Tensor *run_mul(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_mul(in[0], in[1]);
}

static Tensor *run_scale(const Case *c, Tensor **in)
{
    return tensor_scale(in[0], c->f);
}

static Tensor *run_activation(const Case *c, Tensor **in)
{
    return tensor_activation(in[0], (TensorActivation)c->a);
}

static Tensor *run_swiglu(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_swiglu(in[0], in[1]);
}

static Tensor *run_gated(const Case *c, Tensor **in)
{
    return tensor_gated(in[0], in[1], (TensorActivation)c->a);
}

static Tensor *run_gated_packed(const Case *c, Tensor **in)
{
    return tensor_gated_packed(in[0], (TensorActivation)c->a);
}

static Tensor *run_gate_rows(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_gate_rows(in[0], in[1]);
}

static Tensor *run_softcap(const Case *c, Tensor **in)
{
    return tensor_softcap(in[0], c->f);
}

static Tensor *run_rope(const Case *c, Tensor **in)
{
    return tensor_rope(in[0], c->a, c->f);
}

static Tensor *run_rope_part(const Case *c, Tensor **in)
{
    return tensor_rope_with(in[0],
                            &(RopeOptions){.heads = c->a, .theta = c->f, .head_dim = 6, .rotary_dim = 4});
}

static Tensor *run_rms_norm_plus(const Case *c, Tensor **in)
{
    return tensor_rms_norm_plus(in[0], in[1], c->f, 1);
}

static Tensor *run_dropout(const Case *c, Tensor **in)
{
    tensor_random_begin(3, 5); /* the same mask each time */
    return tensor_dropout(in[0], c->f);
}

static Tensor *run_reshape(const Case *c, Tensor **in)
{
    return tensor_reshape(in[0], SHAPE(c->a, tensor_numel(in[0]) / c->a));
}

static Tensor *run_layer_norm(const Case *c, Tensor **in)
{
    return tensor_layer_norm(in[0], in[1], in[2], c->f);
}

static Tensor *run_rms_norm(const Case *c, Tensor **in)
{
    return tensor_rms_norm(in[0], in[1], c->f);
}

/* a ids of few rows, so that most repeat. */
static Tensor *run_embedding(const Case *c, Tensor **in)
{
    return tensor_embedding(integers(SHAPE(1, c->a), 9, (int)tensor_dim(in[0], 0)), in[0]);
}

static Tensor *run_add_rows(const Case *c, Tensor **in)
{
    return tensor_add_rows_from(in[0], in[1], 1, c->a);
}

static Tensor *run_cross_entropy(const Case *c, Tensor **in)
{
    Tensor *labels = integers(SHAPE(tensor_dim(in[0], 0)), 13, (int)tensor_dim(in[0], 1));
    tensor_i32(labels)[1] = -7;
    if (c->a)
        return tensor_cross_entropy_with(in[0], labels,
                                         &(LossOptions){.ignore_index = -7, .scale = c->f, .softcap = 0.7f});
    return tensor_cross_entropy(in[0], labels, -7, c->f);
}

static Tensor *run_last(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_last(in[0]);
}

/* The second sample ends with padding. */
static Tensor *run_mean_tokens(const Case *c, Tensor **in)
{
    Shape x = tensor_shape(in[0]);
    Tensor *mask = c->a ? tensor_zeros(DTYPE_I32, SHAPE(x.dim[0], x.dim[1]), MEM_INPUT) : NULL;
    for (int64_t i = 0; mask && i < x.dim[0] * x.dim[1]; i++)
        tensor_i32(mask)[i] = i < x.dim[1] + 2 || i >= 2 * x.dim[1];
    return tensor_mean_tokens(in[0], mask);
}

static Tensor *run_first(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_first(in[0]);
}

static Tensor *run_sum(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_sum(in[0]);
}

static Tensor *run_mean(const Case *c, Tensor **in)
{
    (void)c;
    return tensor_mean(in[0]);
}

#define S(...)                                                                                               \
    {                                                                                                        \
        (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),                                           \
        {                                                                                                    \
            __VA_ARGS__                                                                                      \
        }                                                                                                    \
    }

static const Case cases[] = {
    {"add", run_add, {S(3, 7), S(3, 7)}, 0, 0, 0},
    {"mul", run_mul, {S(33, 65), S(33, 65)}, 0, 0, 0},
    {"scale", run_scale, {S(2, 1, 7)}, 0, 0, -2.3f},
    {"gelu", run_activation, {S(3, 700)}, 0, TENSOR_GELU, 0},
    {"gelu_tanh", run_activation, {S(2, 2, 2, 3)}, 0, TENSOR_GELU_TANH, 0},
    {"silu", run_activation, {S(17)}, 0, TENSOR_SILU, 0},
    {"relu", run_activation, {S(1, 19)}, 0, TENSOR_RELU, 0},
    {"tanh", run_activation, {S(7, 29)}, 0, TENSOR_TANH, 0},
    {"swiglu", run_swiglu, {S(31, 67), S(31, 67)}, 0, 0, 0},
    {"gated gelu", run_gated, {S(31, 67), S(31, 67)}, 0, TENSOR_GELU, 0},
    {"gated gelu_tanh", run_gated, {S(3, 5), S(3, 5)}, 0, TENSOR_GELU_TANH, 0},
    {"gated relu", run_gated, {S(7, 3), S(7, 3)}, 0, TENSOR_RELU, 0},
    {"gated_packed silu", run_gated_packed, {S(31, 134)}, 0, TENSOR_SILU, 0},
    {"gated_packed gelu_tanh", run_gated_packed, {S(2, 3, 10)}, 0, TENSOR_GELU_TANH, 0},
    {"gate_rows", run_gate_rows, {S(2, 9, 65), S(2, 9, 1)}, 0, 0, 0},
    {"softcap", run_softcap, {S(3, 7, 11)}, 0, 0, 0.4f},
    {"rope", run_rope, {S(2, 3, 12)}, 0, 3, 10000},
    {"rope of a part", run_rope_part, {S(2, 3, 19)}, 0, 3, 10000},
    {"dropout", run_dropout, {S(3, 77)}, 0, 0, 0.4f},
    {"reshape", run_reshape, {S(2, 3, 5)}, 0, 10, 0},
    {"layer_norm", run_layer_norm, {S(5, 3, 33), S(33), S(33)}, OP_INPUT(1) | OP_INPUT(2), 0, 1e-5f},
    {"layer_norm no bias", run_layer_norm, {S(5, 17), S(17)}, OP_INPUT(1), 0, 1e-5f},
    {"rms_norm", run_rms_norm, {S(2, 9, 65), S(65)}, OP_INPUT(1), 0, 1e-5f},
    {"rms_norm plus", run_rms_norm_plus, {S(2, 9, 65), S(65)}, OP_INPUT(1), 0, 1e-5f},
    {"embedding", run_embedding, {S(7, 33)}, OP_INPUT(0), 99, 0},
    {"embedding of one row", run_embedding, {S(1, 5)}, OP_INPUT(0), 200, 0},
    {"add_rows", run_add_rows, {S(9, 5, 17), S(8, 17)}, OP_INPUT(1), 5, 0},
    {"cross_entropy", run_cross_entropy, {S(7, 101)}, 0, 0, 0.25f},
    {"cross_entropy capped", run_cross_entropy, {S(7, 101)}, 0, 1, 0.25f},
    {"last", run_last, {S(3, 5, 17)}, 0, 0, 0},
    {"first", run_first, {S(3, 5, 17)}, 0, 0, 0},
    {"mean_tokens", run_mean_tokens, {S(3, 5, 17)}, 0, 0, 0},
    {"mean_tokens masked", run_mean_tokens, {S(3, 5, 17)}, 0, 1, 0},
    {"sum", run_sum, {S(2, 3, 5)}, 0, 0, 0},
    {"mean", run_mean, {S(31)}, 0, 0, 0},
};

static int input_count(const Case *c)
{
    int n = 0;
    while (n < MAX_INPUTS && c->shape[n].ndim)
        n++;
    return n;
}

static void write_floats(Tensor *tensor, const float *x)
{
    static uint16_t halves[MAX_NUMEL];
    int64_t n = tensor_numel(tensor);
    assert_true(n <= MAX_NUMEL);
    if (tensor->dtype == DTYPE_BF16)
        half_encode_bf16((size_t)n, x, halves);
    else if (tensor->dtype == DTYPE_F16)
        half_encode_f16((size_t)n, x, halves);
    tensor_write(tensor, 0, n * (tensor->dtype == DTYPE_F32 ? 4 : 2),
                 tensor->dtype == DTYPE_F32 ? (const void *)x : halves);
}

/* Numbers that a type of 16 bit holds, in a tensor of whatever type the precision wants. */
static Tensor *make_input(const Case *c, int i, DType half)
{
    static float x[MAX_NUMEL];
    const Precision *p = tensor_precision();
    int64_t n = shape_numel(c->shape[i]);
    assert_true(n <= MAX_NUMEL);
    fill_values(x, n, 20 + (uint32_t)i, 2, 0);
    for (int64_t k = 0; k < n; k++)
        x[k] = as_stored(half, x[k]);
    int parameter = (c->parameters & OP_INPUT(i)) != 0;
    Tensor *t = parameter ? tensor_parameter_(p->weights, c->shape[i], 0)
                          : tensor_new(p->activations, c->shape[i], MEM_INPUT);
    if (!t)
        fail_msg("%s, %s: %s", c->what, p->name, error_message());
    write_floats(t, x);
    t->requires_grad = 1; /* as what operations make; users' leaves are of the weights' type */
    return t;
}

/* A half's numbers, too, so that the gradient of the output is the same in f32. */
static Tensor *upstream(const Tensor *y, DType half)
{
    static float x[MAX_NUMEL];
    for (int64_t i = 0; i < tensor_numel(y); i++)
        x[i] = as_stored(half, value_at(77, (uint32_t)i, 1, 0.2));
    Tensor *t = tensor_new(y->dtype, tensor_shape(y), MEM_INPUT);
    write_floats(t, x);
    return t;
}

typedef struct Result {
    int64_t numel;
    DType type, grad_type[MAX_INPUTS];
    float y[MAX_NUMEL], grad[2][MAX_INPUTS][MAX_NUMEL]; /* of one backward, and of two */
} Result;

static void run(const Case *c, const Precision *precision, DType half, Result *result)
{
    Visit there = visit(&(ContextOptions){.threads = 1, .seed = 1});
    tensor_set_precision(precision);
    Tensor *in[MAX_INPUTS] = {0};
    for (int i = 0; i < input_count(c); i++)
        in[i] = make_input(c, i, half);
    for (int pass = 0; pass < 2; pass++) {
        int scope = tensor_scope_begin();
        Tensor *y = c->run(c, in);
        if (!y)
            fail_msg("%s, %s: %s", c->what, precision->name, error_message());
        result->type = y->dtype;
        result->numel = tensor_numel(y);
        tensor_decode_(y, 0, result->numel, result->y);
        if (tensor_backward_from(y, upstream(y, half)) != 0)
            fail_msg("%s, %s: %s", c->what, precision->name, error_message());
        for (int i = 0; i < input_count(c); i++) {
            const Tensor *grad = tensor_grad(in[i]);
            assert_non_null(grad);
            result->grad_type[i] = grad->dtype;
            tensor_decode_(grad, 0, tensor_numel(grad), result->grad[pass][i]);
        }
        tensor_scope_end(scope);
    }
    for (int i = 0; i < input_count(c); i++)
        tensor_free(in[i]);
    assert_fine();
    leave(there);
}

static void compare(const Case *c, const Precision *p, const char *what, int64_t n, DType type,
                    const float *made, const float *wide)
{
    for (int64_t i = 0; i < n; i++)
        if (made[i] != as_stored(type, wide[i]))
            fail_msg("%s, %s: %s[%lld] is %.9g, expected %.9g as %s", c->what, p->name, what, (long long)i,
                     (double)made[i], (double)wide[i], dtype_name(type));
}

/* What was there, rounded, and what is added: to one step, since the order of a sum differs. */
static void compare_twice(const Case *c, const Precision *p, int64_t n, DType type, const float *made,
                          const float *wide)
{
    double step = type == DTYPE_F32 ? 1e-6 : type == DTYPE_BF16 ? 0x1p-7 : 0x1p-10;
    for (int64_t i = 0; i < n; i++) {
        double expected = (double)as_stored(type, wide[i]) + (double)wide[i];
        if (fabs((double)made[i] - expected) > step * fabs(expected) + 1e-5)
            fail_msg("%s, %s: the gradient of two passes at %lld is %.9g, expected %.9g", c->what, p->name,
                     (long long)i, (double)made[i], expected);
    }
}

static void check(const Case *c, const Precision *p)
{
    static Result wide, made;
    DType half = p->activations;
    int scalar = c->run == run_cross_entropy || c->run == run_sum || c->run == run_mean;
    run(c, cpu_precision(0), half, &wide);
    run(c, p, half, &made);
    assert_int_equal(made.type, scalar ? DTYPE_F32 : half);
    compare(c, p, "y", wide.numel, made.type, made.y, wide.y);
    for (int i = 0; i < input_count(c); i++) {
        int64_t n = shape_numel(c->shape[i]);
        DType type = c->parameters & OP_INPUT(i) ? p->gradients : half;
        assert_int_equal(made.grad_type[i], type);
        compare(c, p, "gradient", n, type, made.grad[0][i], wide.grad[0][i]);
        compare_twice(c, p, n, type, made.grad[1][i], wide.grad[0][i]);
    }
}

static void test_every_precision(void **state)
{
    (void)state;
    assert_int_equal(cpu_precision(0)->activations, DTYPE_F32);
    for (int i = 1; cpu_precision(i); i++)
        for (size_t n = 0; n < COUNT(cases); n++) {
            Precision p = *cpu_precision(i);
            check(&cases[n], &p);
            p.gradients = DTYPE_F32; /* --grad-dtype 32 */
            check(&cases[n], &p);
        }
}

/* ---- The rest ---------------------------------------------------------------------------------- */

static void test_refused(void **state)
{
    (void)state;
    Precision p = *precision_by_name("bf16-mixed");
    p.gradients = DTYPE_F32;
    tensor_set_precision(&p);
    Tensor *wide = tensor_zeros(DTYPE_F32, SHAPE(2, 3), MEM_INPUT);
    Tensor *half = tensor_zeros(DTYPE_BF16, SHAPE(2, 3), MEM_INPUT);
    Tensor *other = tensor_zeros(DTYPE_F16, SHAPE(2, 3), MEM_INPUT);
    Tensor *weight = tensor_parameter_(DTYPE_BF16, SHAPE(2, 3), 0);
    tensor_fill(weight, 1);
    assert_null(tensor_add(half, wide));
    assert_error(ERROR_SHAPE, "add", "bf16 (2,3) and f32 (2,3)", "one shape and type");
    assert_null(tensor_mul(half, other));
    assert_error(ERROR_SHAPE, "mul", "bf16 (2,3) and f16 (2,3)");
    assert_null(tensor_mul(half, weight));
    assert_error(ERROR_ARGUMENT, "mul", "the second input is a parameter of bf16 whose gradient is f32");
    assert_null(tensor_gelu(weight));
    assert_error(ERROR_ARGUMENT, "activation", "x is a parameter of bf16 whose gradient is f32");
    assert_non_null(tensor_add(half, weight)); /* gradients are passed on, whatever their types */
    assert_null(tensor_gelu(tensor_new(DTYPE_I32, SHAPE(2, 3), MEM_INPUT)));
    assert_error(ERROR_ARGUMENT, "activation", "x must be f32, bf16 or f16, not i32");
    tensor_free(weight);
    assert_fine();
}

/* Positions are linked by 32-bit numbers, so there are fewer of them than 2^31. */
static void test_too_many_ids(void **state)
{
    (void)state;
    Visit there = visit(&(ContextOptions){.threads = 1, .meta = 1});
    tensor_set_precision(precision_by_name("bf16"));
    Tensor *table = tensor_parameter_(DTYPE_BF16, SHAPE(2, 1), 0);
    assert_null(tensor_embedding(tensor_new(DTYPE_I32, SHAPE(65536, 32768), MEM_INPUT), table));
    assert_error(ERROR_SHAPE, "embedding", "ids (65536,32768) are more than 2147483647");
    assert_non_null(tensor_embedding(tensor_new(DTYPE_I32, SHAPE(65536, 32767), MEM_INPUT), table));
    tensor_free(table);
    assert_fine();
    leave(there);
}

/* What embedding makes is of the activations' type, whatever the table's. */
static void test_embedding_types(void **state)
{
    (void)state;
    static const DType tables[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    float x[6] = {1, -2, 0.5f, 3, 4, 5}, y[3];
    for (int i = 0; cpu_precision(i); i++) {
        tensor_set_precision(cpu_precision(i));
        for (int k = 0; k < 3; k++) {
            int scope = tensor_scope_begin();
            Tensor *table = tensor_new(tables[k], SHAPE(2, 3), MEM_INPUT);
            int32_t one = 1;
            write_floats(table, x);
            Tensor *made = tensor_embedding(tensor_from(DTYPE_I32, SHAPE(1), MEM_INPUT, &one), table);
            assert_non_null(made);
            assert_int_equal(made->dtype, cpu_precision(i)->activations);
            tensor_decode_(made, 0, 3, y);
            assert_memory_equal(y, x + 3, sizeof y);
            tensor_scope_end(scope);
        }
    }
    assert_fine();
}

static void test_count_correct(void **state)
{
    (void)state;
    static const float x[] = {1, 3, 3, /* the first of the largest */ -1, -2, -3, /**/ 0.25f, 0.5f, 0.75f};
    const int32_t labels[] = {1, 0, 0};
    static const DType types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    for (int i = 0; i < 3; i++) {
        Tensor *logits = tensor_new(types[i], SHAPE(3, 3), MEM_INPUT);
        write_floats(logits, x);
        Tensor *right = tensor_from(DTYPE_I32, SHAPE(3), MEM_INPUT, labels);
        assert_int_equal(tensor_count_correct(logits, right), 2);
    }
    assert_fine();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_precision, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_refused, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_too_many_ids, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_embedding_types, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_count_correct, fresh_context, leave_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
