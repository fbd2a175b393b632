/* Operations around products on 16-bit values: the linear layer, an adapter's two, and the chunked head, each
 * against the same operation on the same numbers in f32; what they keep; and what happens without memory. */
#include <math.h>

#include "../base/half_.h"
#include "support.h"

static const DType halves[] = {DTYPE_BF16, DTYPE_F16};

/* Half the spacing of a type's numbers, in parts of a number. */
static double step_of(DType type)
{
    return type == DTYPE_BF16 ? 0x1p-8 : 0x1p-11;
}

/* ---- Tensors --------------------------------------------------------------------------------- */

static Tensor *typed(DType type, Shape shape, uint32_t stream, double scale)
{
    Tensor *t = tensor_new(type, shape, MEM_INPUT);
    for (int64_t i = 0; tensor_data(t) && i < shape_numel(shape); i++) {
        float value = value_at(stream, (uint32_t)i, scale, 0);
        if (type == DTYPE_F32)
            tensor_f32(t)[i] = value;
        else
            ((uint16_t *)tensor_data(t))[i] = type == DTYPE_BF16 ? half_to_bf16(value) : half_to_f16(value);
    }
    return t;
}

static Tensor *typed_leaf(DType type, Shape shape, uint32_t stream, double scale)
{
    Tensor *t = typed(type, shape, stream, scale);
    if (type != DTYPE_F32)
        tensor_set_precision(precision_by_name(type == DTYPE_BF16 ? "bf16-mixed" : "fp16-mixed"));
    tensor_set_requires_grad(t, 1);
    return t;
}

/* The values of a tensor of any float type, as an f32 tensor. */
static Tensor *floats_of(Tensor *t)
{
    assert_non_null(t);
    Tensor *copy = tensor_new(DTYPE_F32, tensor_shape(t), MEM_INPUT);
    tensor_decode_(t, 0, tensor_numel(t), tensor_f32(copy));
    return copy;
}

static Tensor *floats_leaf(Tensor *t)
{
    Tensor *copy = floats_of(t);
    tensor_set_requires_grad(copy, 1);
    return copy;
}

/* Apart by so much of the largest value at most. */
static void assert_like(const char *what, DType type, Tensor *x, Tensor *expected, double most)
{
    double apart = difference(tensor_f32(floats_of(expected)), tensor_f32(floats_of(x)), tensor_numel(x));
    if (!(apart <= most))
        fail_msg("%s of %s is apart by %g, not %g", what, dtype_name(type), apart, most);
}

/* Every element is that of `expected`, rounded, or its neighbour. */
static void assert_rounded(const char *what, DType type, Tensor *x, Tensor *expected)
{
    const float *is = tensor_f32(floats_of(x)), *wanted = tensor_f32(expected);
    for (int64_t i = 0; i < tensor_numel(x); i++)
        if (!(fabs((double)is[i] - (double)wanted[i]) <= 3 * step_of(type) * fabs((double)wanted[i]) + 1e-5))
            fail_msg("%s of %s: element %d is %.8g, not %.8g", what, dtype_name(type), (int)i, (double)is[i],
                     (double)wanted[i]);
}

/* ---- linear ---------------------------------------------------------------------------------- */

typedef struct Operands {
    Tensor *x, *w, *bias;
} Operands;

static Tensor *run_linear(Operands o, TensorActivation act, int in_out)
{
    return in_out ? tensor_linear_in_out(o.x, o.w, o.bias, act) : tensor_linear(o.x, o.w, o.bias, act);
}

static void check_linear(DType type, DType weight, Shape shape, int64_t out, TensorActivation act, int in_out)
{
    int64_t in = shape.dim[shape.ndim - 1];
    Operands half = {typed_leaf(type, shape, 1, 1),
                     typed_leaf(weight, in_out ? SHAPE(in, out) : SHAPE(out, in), 2, 0.5),
                     typed_leaf(weight, SHAPE(out), 3, 1)};
    Operands full = {floats_leaf(half.x), floats_leaf(half.w), floats_leaf(half.bias)};
    Tensor *y = run_linear(half, act, in_out), *dy = typed(type, tensor_shape(y), 4, 1), *is = floats_of(y);
    assert_int_equal(tensor_dtype(y), type);
    tensor_backward_from(y, dy);
    Tensor *expected = run_linear(full, act, in_out);
    if (act == TENSOR_IDENTITY)
        assert_rounded("linear", type, is, expected);
    else /* of a value that was rounded before */
        assert_like("linear", type, is, expected, 2 * step_of(type));
    tensor_backward_from(expected, floats_of(dy));
    assert_fine();
    Tensor *const of[] = {half.x, half.w, half.bias}, *const as[] = {full.x, full.w, full.bias};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(tensor_dtype(tensor_grad(of[i])), tensor_dtype(of[i]));
        assert_like(i == 0   ? "dx"
                    : i == 1 ? "dw"
                             : "dbias",
                    type, tensor_grad(of[i]), tensor_grad(as[i]),
                    (act == TENSOR_IDENTITY ? 1.01 : 4) * step_of(type));
    }
}

static void test_linear(void **state)
{
    (void)state;
    static const Shape shapes[] = {
        {2, {1, 5, 1, 1}}, {3, {2, 7, 24, 1}}, {2, {130, 33, 1, 1}}, {3, {3, 50, 65, 1}}};
    for (size_t s = 0; s < COUNT(shapes); s++)
        for (int i = 0; i < 20; i++) {
            int scope = tensor_scope_begin();
            DType type = halves[i % 2], weight = i / 2 % 2 ? DTYPE_F32 : type;
            check_linear(type, weight, shapes[s], i % 3 ? 19 : 300, (TensorActivation)(i / 4), i % 5 == 0);
            tensor_scope_end(scope);
        }
}

/* A gradient of f32 beside a 16-bit weight holds the sums as they are, and is added to. */
static void test_gradient_of_another_type(void **state)
{
    (void)state;
    Tensor *x = typed(DTYPE_BF16, SHAPE(50, 20), 1, 1), *w = typed_leaf(DTYPE_BF16, SHAPE(30, 20), 2, 1);
    Tensor *plain_x = floats_of(x), *plain_w = floats_leaf(w);
    w->grad_type = DTYPE_F32;
    for (int i = 0; i < 2; i++) {
        Tensor *dy = typed(DTYPE_BF16, SHAPE(50, 30), 4 + (uint32_t)i, 1);
        tensor_backward_from(tensor_linear(x, w, NULL, TENSOR_IDENTITY), dy);
        tensor_backward_from(tensor_linear(plain_x, plain_w, NULL, TENSOR_IDENTITY), floats_of(dy));
    }
    assert_fine();
    assert_int_equal(tensor_dtype(tensor_grad(w)), DTYPE_F32);
    assert_like("dw", DTYPE_F32, tensor_grad(w), tensor_grad(plain_w), 1e-6);
}

/* What is kept has 16 bits an element: x, and the value before the activation. */
static void test_kept_bytes(void **state)
{
    (void)state;
    Tensor *x = typed_leaf(DTYPE_F16, SHAPE(64, 32), 1, 1), *w = typed_leaf(DTYPE_F16, SHAPE(128, 32), 2, 1);
    uint64_t before = books()->live_by[MEM_ACTIVATION];
    assert_non_null(tensor_linear(x, w, NULL, TENSOR_GELU));
    assert_int_equal(books()->live_by[MEM_ACTIVATION] - before, 64 * 128 * 2);
}

/* An output that backward computes again has the bits that forward gave it. */
static void test_recomputed(void **state)
{
    (void)state;
    Tensor *grads[2];
    for (int again = 0; again < 2; again++) {
        Tensor *x = typed_leaf(DTYPE_BF16, SHAPE(40, 24), 1, 1),
               *w = typed_leaf(DTYPE_BF16, SHAPE(72, 24), 2, 1);
        Tensor *v = typed_leaf(DTYPE_BF16, SHAPE(16, 72), 3, 1), *h = tensor_linear(x, w, NULL, TENSOR_GELU);
        if (again)
            tensor_recompute(h);
        tensor_backward_from(tensor_linear(tensor_donate(h), v, NULL, TENSOR_IDENTITY),
                             typed(DTYPE_BF16, SHAPE(40, 16), 4, 1));
        assert_fine();
        grads[again] = floats_of(tensor_grad(v));
    }
    assert_true(difference(tensor_f32(grads[0]), tensor_f32(grads[1]), 16 * 72) == 0);
}

/* ---- Adapters -------------------------------------------------------------------------------- */

typedef struct Adapted {
    Tensor *x, *y, *a, *b;
} Adapted;

/* y + 1.5 B A dropout(x); the dropout's key is the same each time. */
static Tensor *run_adapter(Adapted o, float p, int donated)
{
    tensor_random_begin(1, 0);
    Tensor *u = tensor_lora_down(o.x, o.a, p);
    Tensor *y = donated ? tensor_donate(tensor_linear(o.x, o.y, NULL, TENSOR_IDENTITY))
                        : tensor_linear(o.x, o.y, NULL, TENSOR_IDENTITY);
    return tensor_linear_onto(y, u, o.b, 1.5f);
}

static void check_adapter(DType type, Shape shape, int64_t out, float p, int donated)
{
    int64_t in = shape.dim[shape.ndim - 1], rank = 5;
    Adapted half = {typed_leaf(type, shape, 1, 1), typed(type, SHAPE(out, in), 2, 0.3),
                    leaf(SHAPE(rank, in), 3, 0.5), leaf(SHAPE(out, rank), 4, 0.5)};
    Adapted full = {floats_leaf(half.x), floats_of(half.y), leaf(SHAPE(rank, in), 3, 0.5),
                    leaf(SHAPE(out, rank), 4, 0.5)};
    Tensor *y = run_adapter(half, p, donated), *dy = typed(type, tensor_shape(y), 5, 1), *is = floats_of(y);
    assert_int_equal(tensor_dtype(y), type);
    tensor_backward_from(y, dy);
    Tensor *expected = run_adapter(full, p, donated);
    assert_like("adapted y", type, is, expected, 3 * step_of(type));
    tensor_backward_from(expected, floats_of(dy));
    assert_fine();
    assert_like("dx", type, tensor_grad(half.x), tensor_grad(full.x), 3 * step_of(type));
    assert_int_equal(tensor_dtype(tensor_grad(half.a)), DTYPE_F32);
    assert_like("dA", type, tensor_grad(half.a), tensor_grad(full.a), 2 * step_of(type));
    assert_like("dB", type, tensor_grad(half.b), tensor_grad(full.b), p > 0 ? 2 * step_of(type) : 1e-5);
}

static void test_adapters(void **state)
{
    (void)state;
    static const Shape shapes[] = {{2, {1, 5, 1, 1}}, {3, {2, 7, 24, 1}}, {2, {130, 65, 1, 1}}};
    for (size_t s = 0; s < COUNT(shapes); s++)
        for (int i = 0; i < 8; i++) {
            int scope = tensor_scope_begin();
            check_adapter(halves[i % 2], shapes[s], 19 + 100 * (i % 3), i / 2 % 2 ? 0.25f : 0, i / 4);
            tensor_scope_end(scope);
        }
}

/* ---- The chunked head ------------------------------------------------------------------------ */

static Tensor *run_head(Operands o, Tensor *labels, int64_t chunk)
{
    return tensor_linear_cross_entropy(o.x, o.w, o.bias, labels, -7, 0.25f, chunk);
}

static void check_head(DType type, DType weight, int64_t chunk)
{
    Operands half = {typed_leaf(type, SHAPE(3, 7, 20), 1, 1), typed_leaf(weight, SHAPE(50, 20), 2, 0.5),
                     typed_leaf(weight, SHAPE(50), 3, 1)};
    Operands full = {floats_leaf(half.x), floats_leaf(half.w), floats_leaf(half.bias)};
    Tensor *labels = integers(SHAPE(21), 4, 50);
    tensor_i32(labels)[3] = -7;
    Tensor *loss = run_head(half, labels, chunk);
    double is = tensor_item(loss);
    assert_int_equal(tensor_dtype(loss), DTYPE_F32); /* and its logits are */
    tensor_backward(loss);
    Tensor *expected = run_head(full, labels, chunk);
    assert_true(fabs(is - tensor_item(expected)) < 1e-5 * fabs(is));
    tensor_backward(expected);
    assert_fine();
    double most = 1.01; /* rounded once, however many chunks */
    assert_like("dhidden", type, tensor_grad(half.x), tensor_grad(full.x), 1.01 * step_of(type));
    assert_like("dw", weight, tensor_grad(half.w), tensor_grad(full.w),
                weight == DTYPE_F32 ? 1e-5 : most * step_of(type));
    assert_like("dbias", weight, tensor_grad(half.bias), tensor_grad(full.bias),
                weight == DTYPE_F32 ? 1e-5 : most * step_of(type));
}

static void test_head(void **state)
{
    (void)state;
    static const int64_t chunks[] = {100, 6, 20, 1};
    for (int i = 0; i < 16; i++) {
        int scope = tensor_scope_begin();
        check_head(halves[i % 2], i / 2 % 2 ? DTYPE_F32 : halves[i % 2], chunks[i / 4]);
        tensor_scope_end(scope);
    }
}

/* ---- Refusals and memory --------------------------------------------------------------------- */

static void test_refused(void **state)
{
    (void)state;
    Tensor *x = typed(DTYPE_I32, SHAPE(2, 3), 1, 1), *w = typed(DTYPE_F32, SHAPE(4, 3), 2, 1);
    assert_null(tensor_linear(x, w, NULL, TENSOR_IDENTITY));
    assert_error(ERROR_ARGUMENT, "linear", "x must be f32, bf16 or f16, not i32");
    assert_null(tensor_lora_down(x, w, 0));
    assert_error(ERROR_ARGUMENT, "lora_down", "x must be f32, bf16 or f16, not i32");
    Tensor *half = typed(DTYPE_BF16, SHAPE(4, 3), 2, 1);
    assert_null(tensor_lora_down(half, half, 0));
    assert_error(ERROR_ARGUMENT, "lora_down", "A must be f32, not bf16");
}

static void steps(void)
{
    Operands o = {typed_leaf(DTYPE_BF16, SHAPE(20, 24), 1, 1), typed_leaf(DTYPE_BF16, SHAPE(30, 24), 2, 1),
                  typed_leaf(DTYPE_BF16, SHAPE(30), 3, 1)};
    Tensor *a = leaf(SHAPE(4, 24), 3, 1), *b = leaf(SHAPE(30, 4), 4, 1);
    Tensor *y = tensor_linear_onto(tensor_donate(run_linear(o, TENSOR_GELU, 0)),
                                   tensor_lora_down(o.x, a, 0.1f), b, 2);
    Operands head = {y, typed_leaf(DTYPE_BF16, SHAPE(9, 30), 5, 1), NULL};
    tensor_backward(run_head(head, integers(SHAPE(20), 6, 9), 8));
}

/* Every allocation in turn: an error, and nothing is left. */
static void test_no_memory(void **state)
{
    (void)state;
    int n = 1;
    for (int passed = 0; !passed; n++) {
        Visit v = visit(&(ContextOptions){.threads = 2});
        memtrack_fail_nth((uint64_t)n);
        steps();
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_true(passed ? !error_code()
                           : error_code() == ERROR_HOST_MEMORY || error_code() == ERROR_MEMORY);
        error_clear();
        leave(v);
    }
    count_more(COUNTED_ALLOCATIONS, n - 1);
    assert_true(n > 20);
}

/* Planned as it is run, whatever the kernels. */
static void test_planned(void **state)
{
    (void)state;
    uint64_t hash[2];
    for (int meta = 0; meta < 2; meta++) {
        Visit v = visit(&(ContextOptions){.threads = 2, .meta = meta});
        steps();
        assert_fine();
        hash[meta] = books()->step_hash;
        leave(v);
    }
    assert_true(hash[0] == hash[1]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context2, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_linear),     TEST(test_gradient_of_another_type),
        TEST(test_kept_bytes), TEST(test_recomputed),
        TEST(test_adapters),   TEST(test_head),
        TEST(test_refused),    TEST(test_no_memory),
        TEST(test_planned),
    };
    return cmocka_run_group_tests_name("operations around products in 16 bit", tests, NULL, NULL);
}
