/* layer_norm and rms_norm over the last dimension; mean and 1/std of each row are kept, in f32. Weight and
 * bias of another type than f32 lie in the workspace as floats, before what the kernel uses. */
#include "ops_.h"

static int norm_shape(OpCall *call, int extras)
{
    if (check_float(call, 0, "x") || check_vector(call, 1, last_dim(call->shape[0]), "weight") ||
        (call->shape[2].ndim && check_vector(call, 2, last_dim(call->shape[0]), "bias")))
        return error_code();
    OpPlan *plan = &call->plan;
    int64_t rows = leading(call->shape[0]);
    plan->out = call->shape[0];
    plan->out_type = call->dtype[0];
    for (int i = 0; i < extras; i++)
        plan->extra_bytes[i] = sizeof(float) * (uint64_t)rows;
    uint64_t vectors =
        floats_room(call, 1, last_dim(call->shape[0])) + floats_room(call, 2, last_dim(call->shape[0]));
    plan->workspace = vectors;
    if (!call->needs)
        return 0;
    plan->saves = OP_INPUT(0) | OP_INPUT(1) | (call->shape[2].ndim ? OP_INPUT(2) : 0);
    plan->recomputes = OP_OUTPUT | plan->saves;
    plan->recompute_workspace = vectors;
    plan->backward_workspace =
        vectors + call->kernels->norm_workspace(rows, last_dim(call->shape[0]), call->run);
    return 0;
}

static int layer_norm_shape(OpCall *call)
{
    return norm_shape(call, 2);
}

static int rms_norm_shape(OpCall *call)
{
    return norm_shape(call, 1);
}

static void layer_norm_forward(OpCall *call)
{
    int64_t rows = leading(call->shape[0]), c = last_dim(call->shape[0]);
    char *room = call->workspace;
    const float *weight = floats_input(call, 1, 0, c, &room), *bias = floats_input(call, 2, 0, c, &room);
    call->kernels->layer_norm_forward(call->dtype[0], rows, c, call->attr.norm.eps, call->in[0], weight, bias,
                                      call->out, call->extra[0], call->extra[1], call->run);
}

static void layer_norm_backward(OpCall *call)
{
    int64_t rows = leading(call->shape[0]), c = last_dim(call->shape[0]);
    char *room = call->workspace;
    const float *weight = floats_input(call, 1, 0, c, &room);
    call->kernels->layer_norm_backward(call->dtype[0], rows, c, call->in[0], weight, call->extra[0],
                                       call->extra[1], call->dout, call->beta[0], call->din[0],
                                       call->grad_type[1], call->beta[1], call->din[1], call->grad_type[2],
                                       call->beta[2], call->din[2], (float *)(void *)room, call->run);
}

static void rms_norm_forward(OpCall *call)
{
    int64_t rows = leading(call->shape[0]), c = last_dim(call->shape[0]);
    char *room = call->workspace;
    const float *weight = floats_input(call, 1, 0, c, &room);
    call->kernels->rms_norm_forward(call->dtype[0], rows, c, call->attr.norm.eps, call->attr.norm.plus,
                                    call->in[0], weight, call->out, call->extra[0], call->run);
}

static void rms_norm_backward(OpCall *call)
{
    int64_t rows = leading(call->shape[0]), c = last_dim(call->shape[0]);
    char *room = call->workspace;
    const float *weight = floats_input(call, 1, 0, c, &room);
    call->kernels->rms_norm_backward(call->dtype[0], rows, c, call->attr.norm.plus, call->in[0], weight,
                                     call->extra[0], call->dout, call->beta[0], call->din[0],
                                     call->grad_type[1], call->beta[1], call->din[1], (float *)(void *)room,
                                     call->run);
}

/* From the input, which is kept anyway; mean and 1/std come out as they were. */
static void layer_norm_recompute(OpCall *call)
{
    layer_norm_forward(call);
}

static void rms_norm_recompute(OpCall *call)
{
    rms_norm_forward(call);
}

static const OpRow layer_norm_row = {
    .name = "layer_norm",
    .shape = layer_norm_shape,
    .forward = layer_norm_forward,
    .backward = layer_norm_backward,
    .recompute = layer_norm_recompute,
    .grad_in_dout = OP_INPUT(0),
    .accumulates = OP_INPUT(0) | OP_INPUT(1) | OP_INPUT(2),
};

static const OpRow rms_norm_row = {
    .name = "rms_norm",
    .shape = rms_norm_shape,
    .forward = rms_norm_forward,
    .backward = rms_norm_backward,
    .recompute = rms_norm_recompute,
    .grad_in_dout = OP_INPUT(0),
    .accumulates = OP_INPUT(0) | OP_INPUT(1),
};

Tensor *tensor_layer_norm(Tensor *x, Tensor *weight, Tensor *bias, float eps)
{
    if (!x || !weight)
        return NULL;
    return tensor_apply(&layer_norm_row, &(OpAttr){.norm = {.eps = eps}}, 3, (Tensor *[]){x, weight, bias});
}

Tensor *tensor_rms_norm_plus(Tensor *x, Tensor *weight, float eps, float plus)
{
    if (!x || !weight)
        return NULL;
    return tensor_apply(&rms_norm_row, &(OpAttr){.norm = {.eps = eps, .plus = plus}}, 2,
                        (Tensor *[]){x, weight});
}

Tensor *tensor_rms_norm(Tensor *x, Tensor *weight, float eps)
{
    return tensor_rms_norm_plus(x, weight, eps, 0);
}
