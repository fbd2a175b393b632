/* cast: the same values in another float type. A weight that is multiplied in 16 bit while it stays f32
 * (autocast) is cast for one forward and backward: the gradient of the copy is the weight's, in f32. */
#include "ops_.h"

static int cast_shape(OpCall *call)
{
    if (check_float(call, 0, "x"))
        return error_code();
    if (!dtype_is_float(call->attr.cast.type))
        return error_raise(ERROR_ARGUMENT, "cast: values are f32, bf16 or f16, not %s",
                           dtype_name(call->attr.cast.type));
    call->plan.out = call->shape[0];
    call->plan.out_type = call->attr.cast.type;
    return 0;
}

static void cast_forward(OpCall *call)
{
    call->kernels->copy(call->dtype[0], call->plan.out_type, call_numel(call, 0), call->in[0], call->out,
                        call->run);
}

static void cast_backward(OpCall *call)
{
    const Kernels *k = call->kernels;
    (call->beta[0] == 0 ? k->copy : k->accumulate)(call->plan.out_type, call->grad_type[0],
                                                   call_numel(call, 0), call->dout, call->din[0], call->run);
}

static const OpRow cast_row = {
    .name = "cast",
    .shape = cast_shape,
    .forward = cast_forward,
    .backward = cast_backward,
    .accumulates = OP_INPUT(0),
};

static const OpRow cast_weight_row = {
    .name = "cast",
    .shape = cast_shape,
    .forward = cast_forward,
    .identity_grad = OP_INPUT(0),
};

static Tensor *cast(const OpRow *row, Tensor *x, DType type)
{
    if (!x || x->dtype == type)
        return x;
    return tensor_apply(row, &(OpAttr){.cast = {.type = type}}, 1, (Tensor *[]){x});
}

Tensor *tensor_cast(Tensor *x, DType type)
{
    return cast(&cast_row, x, type);
}

Tensor *tensor_cast_weight_(Tensor *weight, DType type)
{
    Tensor *copy = cast(&cast_weight_row, weight, type);
    if (copy)
        copy->grad_type = weight->grad_type;
    return copy;
}
