/* Activations, which keep the shape, gated ones (SwiGLU and its kind, Shazeer, arXiv 2002.05202), rows that a
 * number gates, and soft caps. */
#include <inttypes.h>
#include <math.h>

#include "ops_.h"

/* ---- Activations ----------------------------------------------------------------------------- */

int check_activation(const OpCall *call, int act)
{
    if (act >= TENSOR_IDENTITY && act <= TENSOR_TANH)
        return 0;
    return error_raise(ERROR_ARGUMENT, "%s: there is no activation %d", call->row->name, act);
}

static int activation_shape(OpCall *call)
{
    int relu = call->attr.activation.kind == ACT_RELU;
    call->plan.saves = relu ? OP_OUTPUT : OP_INPUT(0);
    call->plan.recomputes = relu ? 0 : OP_OUTPUT | OP_INPUT(0);
    if (check_activation(call, call->attr.activation.kind))
        return error_code();
    return unary_shape(call);
}

static void activation_forward(OpCall *call)
{
    call->kernels->activation_forward(call->dtype[0], (Activation)call->attr.activation.kind,
                                      call_numel(call, 0), call->in[0], call->out, call->run);
}

static void activation_recompute(OpCall *call)
{
    activation_forward(call);
}

static void activation_backward(OpCall *call)
{
    Activation kind = (Activation)call->attr.activation.kind;
    call->kernels->activation_backward(call->dtype[0], kind, call_numel(call, 0),
                                       kind == ACT_RELU ? call->out : call->in[0], call->dout, call->beta[0],
                                       call->din[0], call->run);
}

static const OpRow activation_row = {
    .name = "activation",
    .shape = activation_shape,
    .forward = activation_forward,
    .backward = activation_backward,
    .recompute = activation_recompute,
    .in_place = OP_INPUT(0),
    .grad_in_dout = OP_INPUT(0),
    .accumulates = OP_INPUT(0),
};

_Static_assert((int)TENSOR_IDENTITY == ACT_NONE && (int)TENSOR_GELU == ACT_GELU &&
                   (int)TENSOR_GELU_TANH == ACT_GELU_TANH && (int)TENSOR_SILU == ACT_SILU &&
                   (int)TENSOR_RELU == ACT_RELU && (int)TENSOR_TANH == ACT_TANH,
               "the kernels' numbers");

Tensor *tensor_activation(Tensor *x, TensorActivation act)
{
    if (!x || act == TENSOR_IDENTITY)
        return x;
    return tensor_apply(&activation_row, &(OpAttr){.activation = {.kind = (int)act}}, 1, (Tensor *[]){x});
}

Tensor *tensor_gelu(Tensor *x)
{
    return tensor_activation(x, TENSOR_GELU);
}

Tensor *tensor_gelu_tanh(Tensor *x)
{
    return tensor_activation(x, TENSOR_GELU_TANH);
}

Tensor *tensor_silu(Tensor *x)
{
    return tensor_activation(x, TENSOR_SILU);
}

Tensor *tensor_relu(Tensor *x)
{
    return tensor_activation(x, TENSOR_RELU);
}

Tensor *tensor_tanh(Tensor *x)
{
    return tensor_activation(x, TENSOR_TANH);
}

/* ---- Gated ------------------------------------------------------------------------------------ */

/* Gate and up are inputs, or side by side in rows of the only one. */
static int is_packed(const OpCall *call)
{
    return call->inputs == 1;
}

static GatedDims gated_dims(const OpCall *call)
{
    int64_t c = last_dim(call->plan.out);
    return (GatedDims){.act = (Activation)call->attr.activation.kind,
                       .rows = leading(call->plan.out),
                       .c = c,
                       .ld = is_packed(call) ? 2 * c : c};
}

static int gated_shape(OpCall *call)
{
    call->plan.saves = is_packed(call) ? OP_INPUT(0) : OP_INPUT(0) | OP_INPUT(1);
    call->plan.recomputes = OP_OUTPUT | call->plan.saves;
    if (check_activation(call, call->attr.activation.kind))
        return error_code();
    if (!is_packed(call))
        return binary_shape(call);
    int64_t both = last_dim(call->shape[0]);
    if (both % 2)
        return error_raise(
            ERROR_SHAPE, "%s: the last dimension of %s is gate and up side by side; %" PRId64 " is not even",
            call->row->name, shape_text(call->shape[0]).text, both);
    if (unary_shape(call))
        return error_code();
    call->plan.out.dim[call->plan.out.ndim - 1] = both / 2;
    return 0;
}

/* Of the packed array, or of its gradient, what lies behind gate's first row. */
static void *packed_up(const OpCall *call, const void *gate)
{
    return gate ? element_at(call->dtype[0], gate, last_dim(call->plan.out)) : NULL;
}

static void gated_forward(OpCall *call)
{
    GatedDims d = gated_dims(call);
    const void *up = is_packed(call) ? packed_up(call, call->in[0]) : call->in[1];
    call->kernels->gated_forward(&d, call->dtype[0], call->in[0], up, call->out, call->run);
}

static void gated_recompute(OpCall *call)
{
    gated_forward(call);
}

static void gated_backward(OpCall *call)
{
    GatedDims d = gated_dims(call);
    int packed = is_packed(call);
    const void *up = packed ? packed_up(call, call->in[0]) : call->in[1];
    void *dup = packed ? packed_up(call, call->din[0]) : call->din[1];
    call->kernels->gated_backward(&d, call->dtype[0], call->in[0], up, call->dout, call->beta[0],
                                  call->din[0], call->beta[packed ? 0 : 1], dup, call->run);
}

#define GATED_ROW(text)                                                                                      \
    {                                                                                                        \
        .name = text, .shape = gated_shape, .forward = gated_forward, .backward = gated_backward,            \
        .recompute = gated_recompute, .in_place = OP_INPUT(0) | OP_INPUT(1),                                 \
        .grad_in_saved = OP_INPUT(0) | OP_INPUT(1), .accumulates = OP_INPUT(0) | OP_INPUT(1),                \
    }
/* The one that most models have goes by its own name. */
static const OpRow gated_row = GATED_ROW("gated"), swiglu_row = GATED_ROW("swiglu");

static const OpRow gated_packed_row = {
    .name = "gated_packed",
    .shape = gated_shape,
    .forward = gated_forward,
    .backward = gated_backward,
    .recompute = gated_recompute,
    .grad_in_saved = OP_INPUT(0),
    .accumulates = OP_INPUT(0),
};

Tensor *tensor_gated(Tensor *gate, Tensor *up, TensorActivation act)
{
    if (!gate || !up)
        return NULL;
    return tensor_apply(act == TENSOR_SILU ? &swiglu_row : &gated_row,
                        &(OpAttr){.activation = {.kind = (int)act}}, 2, (Tensor *[]){gate, up});
}

Tensor *tensor_gated_packed(Tensor *gate_up, TensorActivation act)
{
    if (!gate_up)
        return NULL;
    return tensor_apply(&gated_packed_row, &(OpAttr){.activation = {.kind = (int)act}}, 1,
                        (Tensor *[]){gate_up});
}

Tensor *tensor_swiglu(Tensor *gate, Tensor *up)
{
    return tensor_gated(gate, up, TENSOR_SILU);
}

/* ---- Rows that a number gates ----------------------------------------------------------------- */

/* x is read for the gate's gradient alone. */
static int gate_rows_shape(OpCall *call)
{
    Shape x = call->shape[0], gate = call->shape[1];
    call->plan.saves = OP_INPUT(1) | (needs_input(call, 1) ? OP_INPUT(0) : 0);
    if (needs_input(call, 1))
        call->plan.recomputes = OP_OUTPUT | OP_INPUT(0) | OP_INPUT(1);
    if (check_float(call, 0, "x") || check_float_as(call, 1, 0, "gate", "x"))
        return error_code();
    x.dim[x.ndim - 1] = 1;
    if (!shape_equal(x, gate))
        return error_raise(ERROR_SHAPE, "%s: x %s has a gate a row, of shape %s; gate is %s", call->row->name,
                           shape_text(call->shape[0]).text, shape_text(x).text, shape_text(gate).text);
    return unary_shape(call);
}

static void gate_rows_forward(OpCall *call)
{
    call->kernels->gate_rows_forward(call->dtype[0], leading(call->shape[0]), last_dim(call->shape[0]),
                                     call->in[0], call->in[1], call->out, call->run);
}

static void gate_rows_recompute(OpCall *call)
{
    gate_rows_forward(call);
}

static void gate_rows_backward(OpCall *call)
{
    call->kernels->gate_rows_backward(call->dtype[0], leading(call->shape[0]), last_dim(call->shape[0]),
                                      call->in[0], call->in[1], call->dout, call->beta[0], call->din[0],
                                      call->beta[1], call->din[1], call->run);
}

static const OpRow gate_rows_row = {
    .name = "gate_rows",
    .shape = gate_rows_shape,
    .forward = gate_rows_forward,
    .backward = gate_rows_backward,
    .recompute = gate_rows_recompute,
    .in_place = OP_INPUT(0),
    .grad_in_dout = OP_INPUT(0),
    .grad_in_saved = OP_INPUT(0) | OP_INPUT(1),
    .accumulates = OP_INPUT(0) | OP_INPUT(1),
};

Tensor *tensor_gate_rows(Tensor *x, Tensor *gate)
{
    return x && gate ? tensor_apply(&gate_rows_row, NULL, 2, (Tensor *[]){x, gate}) : NULL;
}

/* ---- Soft caps -------------------------------------------------------------------------------- */

int check_softcap(const OpCall *call, float cap)
{
    if (cap >= 0 && isfinite(cap))
        return 0;
    return error_raise(ERROR_ARGUMENT, "%s: a soft cap of %g; it must be finite and above 0, or 0 for none",
                       call->row->name, (double)cap);
}

static int softcap_shape(OpCall *call)
{
    call->plan.saves = OP_INPUT(0);
    call->plan.recomputes = OP_OUTPUT | OP_INPUT(0);
    return check_softcap(call, call->attr.scale.factor) ? error_code() : unary_shape(call);
}

static void softcap_forward(OpCall *call)
{
    call->kernels->softcap_forward(call->dtype[0], call_numel(call, 0), call->attr.scale.factor, call->in[0],
                                   call->out, call->run);
}

static void softcap_recompute(OpCall *call)
{
    softcap_forward(call);
}

static void softcap_backward(OpCall *call)
{
    call->kernels->softcap_backward(call->dtype[0], call_numel(call, 0), call->attr.scale.factor, call->in[0],
                                    call->dout, call->beta[0], call->din[0], call->run);
}

static const OpRow softcap_row = {
    .name = "softcap",
    .shape = softcap_shape,
    .forward = softcap_forward,
    .backward = softcap_backward,
    .recompute = softcap_recompute,
    .in_place = OP_INPUT(0),
    .grad_in_dout = OP_INPUT(0),
    .accumulates = OP_INPUT(0),
};

Tensor *tensor_softcap(Tensor *x, float cap)
{
    if (!x || cap == 0)
        return x;
    return tensor_apply(&softcap_row, &(OpAttr){.scale = {.factor = cap}}, 1, (Tensor *[]){x});
}
