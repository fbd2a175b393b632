/* linear: x W^T + bias, with its activation in the same pass. The activation's input is kept (ReLU: its
 * output). */
#include <inttypes.h>

#include "ops_.h"

static LinearDims linear_dims(const OpCall *call)
{
    int in_out = call->attr.linear.in_out;
    return (LinearDims){.rows = leading(call->shape[0]),
                        .in = last_dim(call->shape[0]),
                        .out = call->shape[1].dim[in_out ? 1 : 0],
                        .in_out = in_out,
                        .x = call->dtype[0],
                        .y = call->dtype[0],
                        .ldy = call->attr.linear.ldy};
}

static int keeps_pre(const OpCall *call)
{
    int act = call->attr.linear.act;
    return act != ACT_NONE && act != ACT_RELU;
}

uint64_t linear_room(const OpCall *call, const LinearDims *d, LinearPass pass)
{
    DType type = pass == LINEAR_BACKWARD_WEIGHT ? call->grad_type[1] : call->dtype[1];
    return call->kernels->linear_workspace(d, pass, type, call->run);
}

uint64_t linear_backward_room(const OpCall *call, const LinearDims *d)
{
    uint64_t input = needs_input(call, 0) ? linear_room(call, d, LINEAR_BACKWARD_INPUT) : 0;
    int others = needs_input(call, 1) || needs_input(call, 2);
    return larger(input, others ? linear_room(call, d, LINEAR_BACKWARD_WEIGHT) : 0);
}

static int linear_shape(OpCall *call)
{
    if (check_float(call, 0, "x") || check_weight(call, 1, 1, "weight") ||
        check_activation(call, call->attr.linear.act))
        return error_code();
    if (call->attr.linear.in_out && dtype_is_quantized(call->dtype[1]))
        return error_raise(ERROR_ARGUMENT, "linear: a quantised weight is (out,in), not (in,out)");
    if (call->shape[1].ndim != 2)
        return error_raise(ERROR_SHAPE, "linear: weight must be (out,in), not %s",
                           shape_text(call->shape[1]).text);
    LinearDims d = linear_dims(call);
    int64_t expected = call->shape[1].dim[d.in_out ? 0 : 1];
    if (d.in != expected)
        return error_raise(ERROR_SHAPE, "linear: x %s has %" PRId64 " features, weight %s expects %" PRId64,
                           shape_text(call->shape[0]).text, d.in, shape_text(call->shape[1]).text, expected);
    if (call->shape[2].ndim && check_vector(call, 2, d.out, "bias"))
        return error_code();
    OpPlan *plan = &call->plan;
    plan->out = call->shape[0];
    plan->out_type = d.y;
    plan->out.dim[plan->out.ndim - 1] = linear_ldy(&d);
    plan->flops = 2.0 * (double)d.rows * (double)d.in * (double)d.out;
    plan->workspace = floats_room(call, 2, d.out) + linear_room(call, &d, LINEAR_FORWARD);
    if (!call->needs)
        return 0;
    plan->backward_flops = plan->flops * (needs_input(call, 0) + needs_input(call, 1));
    int act = call->attr.linear.act;
    plan->saves = (needs_input(call, 1) ? OP_INPUT(0) : 0) | (needs_input(call, 0) ? OP_INPUT(1) : 0) |
                  (act == ACT_RELU ? OP_OUTPUT : 0);
    plan->extra_bytes[0] = keeps_pre(call) ? dtype_bytes(d.y, d.rows, d.out) : 0;
    plan->recomputes = keeps_pre(call) ? OP_OUTPUT : 0;
    plan->writes_dout = act != ACT_NONE;
    plan->backward_workspace = linear_backward_room(call, &d);
    return 0;
}

static void linear_forward(OpCall *call)
{
    LinearDims d = linear_dims(call);
    StoredArray w = stored_input(call, 1);
    char *room = call->workspace; /* the bias as floats, where it is of another type; then the kernel's */
    const float *bias = floats_input(call, 2, 0, d.out, &room);
    call->kernels->linear_forward(&d, (Activation)call->attr.linear.act, call->in[0], &w, bias,
                                  call->extra[0], call->out, room, call->run);
}

/* The value before the activation is kept, so the value after it need not be. */
static void linear_recompute(OpCall *call)
{
    call->kernels->activation_forward(call->dtype[0], (Activation)call->attr.linear.act,
                                      shape_numel(call->plan.out), call->extra[0], call->out, call->run);
}

static void linear_backward(OpCall *call)
{
    LinearDims d = linear_dims(call);
    const Kernels *k = call->kernels;
    Activation act = (Activation)call->attr.linear.act;
    if (act != ACT_NONE) /* the output gradient becomes that of the activation's input */
        k->activation_backward(call->dtype[0], act, d.rows * d.out,
                               act == ACT_RELU ? call->out : call->extra[0], call->dout, 0, call->dout,
                               call->run);
    if (call->din[1] || call->din[2])
        k->linear_backward_weight(&d, call->in[0], call->dout, call->grad_type[1], call->beta[1],
                                  call->din[1], call->grad_type[2], call->beta[2], call->din[2],
                                  call->workspace, call->run);
    if (call->din[0]) {
        StoredArray w = stored_input(call, 1);
        k->linear_backward_input(&d, call->dout, &w, call->beta[0], call->din[0], call->workspace, call->run);
    }
}

static const OpRow linear_row = {
    .name = "linear",
    .shape = linear_shape,
    .forward = linear_forward,
    .backward = linear_backward,
    .recompute = linear_recompute,
    .grad_in_recomputed = OP_INPUT(0), /* x is for the weight's gradient, which comes first */
    .accumulates = OP_INPUT(0) | OP_INPUT(1) | OP_INPUT(2),
};

static Tensor *linear(Tensor *x, Tensor *weight, Tensor *bias, TensorActivation act, int in_out)
{
    if (!x || !weight)
        return NULL;
    return tensor_apply(&linear_row, &(OpAttr){.linear = {.act = (int)act, .in_out = in_out}}, 3,
                        (Tensor *[]){x, weight, bias});
}

int64_t tensor_logits_ld_(const Context *context, int64_t classes)
{
    return context->card ? padded_row(classes) : classes;
}

Tensor *tensor_logits_(Tensor *hidden, Tensor *weight, Tensor *bias)
{
    if (!hidden || !weight)
        return NULL;
    int64_t classes = weight->shape.dim[0], ld = tensor_logits_ld_(hidden->item.context, classes);
    Tensor *logits = tensor_apply(&linear_row, &(OpAttr){.linear = {.act = ACT_NONE, .ldy = ld}}, 3,
                                  (Tensor *[]){hidden, weight, bias});
    if (logits)
        logits->padding = (int32_t)(ld - classes);
    return logits;
}

Tensor *tensor_linear(Tensor *x, Tensor *weight, Tensor *bias, TensorActivation act)
{
    return linear(x, weight, bias, act, 0);
}

Tensor *tensor_linear_in_out(Tensor *x, Tensor *weight, Tensor *bias, TensorActivation act)
{
    return linear(x, weight, bias, act, 1);
}
