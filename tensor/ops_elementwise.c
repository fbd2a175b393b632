/* Operations that keep the shape: add, mul, scale, dropout, and reshape, which moves nothing; and what
 * operations check. */
#include <inttypes.h>
#include <math.h>

#include "ops_.h"

int check_dtype(const OpCall *call, int i, DType dtype, const char *input)
{
    if (call->dtype[i] == dtype)
        return 0;
    return error_raise(ERROR_ARGUMENT, "%s: %s must be %s, not %s", call->row->name, input, dtype_name(dtype),
                       dtype_name(call->dtype[i]));
}

/* Raises where the gradient of input i would not be of its own type, as that of a parameter may be: kernels
 * of activations have one type. */
static int check_gradient(const OpCall *call, int i, const char *input)
{
    unsigned bit = OP_INPUT(i), passes = call->row->identity_grad;
    if (!(call->needs & bit) || (passes & bit) || call->grad_type[i] == call->dtype[i])
        return 0;
    return error_raise(ERROR_ARGUMENT,
                       "%s: %s is a parameter of %s whose gradient is %s; here both must be of one type, as "
                       "they are where the precision's gradients are of its weights' type",
                       call->row->name, input, dtype_name(call->dtype[i]), dtype_name(call->grad_type[i]));
}

int check_float(const OpCall *call, int i, const char *input)
{
    if (dtype_is_float(call->dtype[i]))
        return check_gradient(call, i, input);
    return error_raise(ERROR_ARGUMENT, "%s: %s must be f32, bf16 or f16, not %s", call->row->name, input,
                       dtype_name(call->dtype[i]));
}

int check_weight(const OpCall *call, int i, int quantized, const char *input)
{
    DType dtype = call->dtype[i];
    if (dtype_is_float(dtype) || (quantized && dtype_is_quantized(dtype)))
        return 0;
    return error_raise(ERROR_ARGUMENT, "%s: %s must be f32, bf16 or f16%s, not %s", call->row->name, input,
                       quantized ? ", or quantised" : "", dtype_name(dtype));
}

uint64_t floats_room(const OpCall *call, int i, int64_t count)
{
    int decoded = call->shape[i].ndim && call->dtype[i] != DTYPE_F32;
    return decoded ? aligned((uint64_t)count * sizeof(float)) : 0;
}

const float *floats_input(const OpCall *call, int i, int64_t first, int64_t count, char **room)
{
    if (!call->in[i] || call->dtype[i] == DTYPE_F32)
        return call->in[i] ? (const float *)call->in[i] + first : NULL;
    StoredArray from = {call->in[i], call->dtype[i], 1, call_numel(call, i)};
    float *to = (float *)(void *)*room;
    call->kernels->decode(&from, first, count, to, call->run);
    *room += floats_room(call, i, count);
    return to;
}

int check_vector(const OpCall *call, int i, int64_t n, const char *input)
{
    if (check_weight(call, i, 0, input))
        return error_code();
    if (call->shape[i].ndim == 1 && call->shape[i].dim[0] == n)
        return 0;
    return error_raise(ERROR_SHAPE, "%s: %s must be (%" PRId64 ") for x %s, not %s", call->row->name, input,
                       n, shape_text(call->shape[0]).text, shape_text(call->shape[i]).text);
}

int check_same(const OpCall *call, int i, int j)
{
    DType type = call->dtype[i], other = call->dtype[j];
    if (shape_equal(call->shape[i], call->shape[j]) && type == other && dtype_is_float(type))
        return check_gradient(call, i, "the first input") ? error_code()
                                                          : check_gradient(call, j, "the second input");
    return error_raise(ERROR_SHAPE, "%s: %s %s and %s %s must be of one shape and type: f32, bf16 or f16",
                       call->row->name, dtype_name(type), shape_text(call->shape[i]).text, dtype_name(other),
                       shape_text(call->shape[j]).text);
}

int unary_shape(OpCall *call)
{
    call->plan.out = call->shape[0];
    call->plan.out_type = call->dtype[0];
    return check_float(call, 0, "x");
}

int binary_shape(OpCall *call)
{
    call->plan.out = call->shape[0];
    call->plan.out_type = call->dtype[0];
    return check_same(call, 0, 1);
}

/* ---- add, mul, scale ------------------------------------------------------------------------- */

static void add_forward(OpCall *call)
{
    call->kernels->add(call->dtype[0], call_numel(call, 0), call->in[0], call->in[1], call->out, call->run);
}

static const OpRow add_row = {
    .name = "add",
    .shape = binary_shape,
    .forward = add_forward,
    .in_place = OP_INPUT(0) | OP_INPUT(1),
    .identity_grad = OP_INPUT(0) | OP_INPUT(1),
};

Tensor *tensor_add(Tensor *a, Tensor *b)
{
    return a && b ? tensor_apply(&add_row, NULL, 2, (Tensor *[]){a, b}) : NULL;
}

static int mul_shape(OpCall *call)
{
    call->plan.saves = (needs_input(call, 1) ? OP_INPUT(0) : 0) | (needs_input(call, 0) ? OP_INPUT(1) : 0);
    if (call->needs == (OP_INPUT(0) | OP_INPUT(1)))
        call->plan.recomputes = OP_OUTPUT | call->plan.saves;
    return binary_shape(call);
}

static void mul_forward(OpCall *call)
{
    call->kernels->multiply(call->dtype[0], call_numel(call, 0), call->in[0], call->in[1], 0, call->out,
                            call->run);
}

static void mul_recompute(OpCall *call)
{
    mul_forward(call);
}

static void mul_backward(OpCall *call)
{
    for (int i = 0; i < 2; i++)
        if (call->din[i])
            call->kernels->multiply(call->dtype[0], call_numel(call, 0), call->dout, call->in[1 - i],
                                    call->beta[i], call->din[i], call->run);
}

static const OpRow mul_row = {
    .name = "mul",
    .shape = mul_shape,
    .forward = mul_forward,
    .backward = mul_backward,
    .recompute = mul_recompute,
    .in_place = OP_INPUT(0) | OP_INPUT(1),
    .accumulates = OP_INPUT(0) | OP_INPUT(1),
};

Tensor *tensor_mul(Tensor *a, Tensor *b)
{
    return a && b ? tensor_apply(&mul_row, NULL, 2, (Tensor *[]){a, b}) : NULL;
}

static void scale_forward(OpCall *call)
{
    call->kernels->scale(call->dtype[0], call_numel(call, 0), call->attr.scale.factor, call->in[0], 0,
                         call->out, call->run);
}

static void scale_backward(OpCall *call)
{
    call->kernels->scale(call->dtype[0], call_numel(call, 0), call->attr.scale.factor, call->dout,
                         call->beta[0], call->din[0], call->run);
}

static const OpRow scale_row = {
    .name = "scale",
    .shape = unary_shape,
    .forward = scale_forward,
    .backward = scale_backward,
    .in_place = OP_INPUT(0),
    .grad_in_dout = OP_INPUT(0),
    .accumulates = OP_INPUT(0),
};

Tensor *tensor_scale(Tensor *x, float factor)
{
    return x ? tensor_apply(&scale_row, &(OpAttr){.scale = {.factor = factor}}, 1, (Tensor *[]){x}) : NULL;
}

/* ---- Dropout --------------------------------------------------------------------------------- */

/* Of each row some elements: the mask of those, row by row. */
static void dropout_columns(const OpCall *call, DropoutKey key, const void *x, float beta, void *y)
{
    DType type = call->dtype[0];
    int64_t row = last_dim(call->shape[0]), rows = leading(call->shape[0]);
    int64_t of_sample = rows / call->shape[0].dim[0];
    uint64_t before = key.first_sample;
    for (int64_t r = 0; r < rows; r++) {
        key.first_sample = before + (uint64_t)(r / of_sample);
        key.first_element = (uint64_t)(r % of_sample * call->attr.dropout.whole + call->attr.dropout.first);
        call->kernels->dropout(type, 1, row, call->attr.dropout.p, &key, element_at(type, x, r * row), beta,
                               element_at(type, y, r * row), call->run);
    }
}

void dropout_run(const OpCall *call, const void *x, float beta, void *y)
{
    DropoutKey key = {.seed = call->attr.dropout.seed,
                      .step = (uint64_t)call->attr.dropout.step,
                      .first_sample = (uint64_t)call->attr.dropout.first_sample,
                      .layer = call->attr.dropout.layer};
    int64_t samples = call->shape[0].dim[0], n = call_numel(call, 0), skipped = call->attr.dropout.skipped;
    int64_t per_sample = call->attr.dropout.per_sample;
    DType type = call->dtype[0];
    if (call->attr.dropout.whole) {
        dropout_columns(call, key, x, beta, y);
        return;
    }
    if (!per_sample) {
        call->kernels->dropout(type, samples, n / samples, call->attr.dropout.p, &key, x, beta, y, call->run);
        return;
    }
    for (int64_t at = 0, some; at < n; at += some) { /* the rest of a sample, whole ones, and a first part */
        int64_t left = per_sample - skipped;
        some =
            skipped || n - at < left ? (n - at < left ? n - at : left) : (n - at) / per_sample * per_sample;
        samples = some > per_sample ? some / per_sample : 1;
        key.first_element = (uint64_t)skipped;
        call->kernels->dropout(type, samples, some / samples, call->attr.dropout.p, &key,
                               element_at(type, x, at), beta, element_at(type, y, at), call->run);
        key.first_sample += (uint64_t)samples;
        skipped = 0;
    }
}

static void dropout_forward(OpCall *call)
{
    dropout_run(call, call->in[0], 0, call->out);
}

static void dropout_backward(OpCall *call)
{
    dropout_run(call, call->dout, call->beta[0], call->din[0]);
}

static const OpRow dropout_row = {
    .name = "dropout",
    .shape = unary_shape,
    .forward = dropout_forward,
    .backward = dropout_backward,
    .in_place = OP_INPUT(0),
    .grad_in_dout = OP_INPUT(0),
    .accumulates = OP_INPUT(0),
};

OpAttr dropout_next(float p)
{
    Context *context = context_here();
    RandomState *random = &context->random;
    return (OpAttr){.dropout = {.p = p,
                                .seed = context->seed,
                                .layer = random->layer++,
                                .step = random->step,
                                .first_sample = random->first_sample}};
}

Tensor *tensor_dropout(Tensor *x, float p)
{
    if (!x || p == 0)
        return x;
    if (!(p > 0 && p < 1)) {
        error_raise(ERROR_ARGUMENT, "dropout: probability %g is not in [0,1)", p);
        return NULL;
    }
    OpAttr attr = dropout_next(p);
    return tensor_apply(&dropout_row, &attr, 1, (Tensor *[]){x});
}

Tensor *tensor_dropout_part_(Tensor *x, float p, Shape whole)
{
    if (!x || p == 0)
        return x;
    int64_t width = last_dim(whole), per_sample = shape_numel(whole) / whole.dim[0];
    int64_t first = context_rows_first_(x->item.context, leading(whole)) * width;
    if (first < 0)
        return NULL;
    if (first % per_sample % 4) {
        error_raise(
            ERROR_SHAPE,
            "dropout: a rank's rows of %s begin in the middle of four elements that are drawn together; "
            "with sequence parallel, use a width that 4 divides",
            shape_text(whole).text);
        return NULL;
    }
    OpAttr attr = dropout_next(p);
    attr.dropout.per_sample = per_sample;
    attr.dropout.first_sample += first / per_sample;
    attr.dropout.skipped = first % per_sample;
    return tensor_apply(&dropout_row, &attr, 1, (Tensor *[]){x});
}

/* ---- Reshape --------------------------------------------------------------------------------- */

static int reshape_shape(OpCall *call)
{
    call->plan.out = call->attr.shape;
    if (!shape_valid(call->attr.shape, "reshape"))
        return error_code();
    if (shape_numel(call->attr.shape) == call_numel(call, 0))
        return 0;
    return error_raise(ERROR_SHAPE, "reshape: %s has other elements than %s", shape_text(call->shape[0]).text,
                       shape_text(call->attr.shape).text);
}

static const OpRow reshape_row = {
    .name = "reshape",
    .shape = reshape_shape,
    .identity_grad = OP_INPUT(0),
};

Tensor *tensor_reshape(Tensor *x, Shape shape)
{
    if (!x)
        return NULL;
    return tensor_apply(&reshape_row, &(OpAttr){.shape = shape}, 1, (Tensor *[]){x});
}
