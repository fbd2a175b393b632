/* The two operations of a low-rank adapter (Hu et al., "LoRA", arXiv 2106.09685) beside a linear layer:
 * y + scale B (A dropout(x)). x is kept once, whoever else keeps it: the adapter's own dropout is computed
 * again in backward, from its key. */
#include <inttypes.h>

#include "ops_.h"

static int check_matrix(const OpCall *call, int i, int64_t in, const char *what)
{
    Shape shape = call->shape[i];
    if (check_dtype(call, i, DTYPE_F32, what))
        return error_code();
    if (shape.ndim == 2 && shape.dim[1] == in)
        return 0;
    return error_raise(ERROR_SHAPE, "%s: %s must be (n,%" PRId64 "), not %s", call->row->name, what, in,
                       shape_text(shape).text);
}

/* ---- lora_down: u = dropout(x) A^T ------------------------------------------------------------ */

static int down_shape(OpCall *call)
{
    Shape x = call->shape[0];
    OpPlan *plan = &call->plan;
    if (check_dtype(call, 0, DTYPE_F32, "x") || check_matrix(call, 1, last_dim(x), "A"))
        return error_code();
    int64_t rank = call->shape[1].dim[0];
    plan->out = x;
    plan->out.dim[x.ndim - 1] = rank;
    plan->flops = 2.0 * (double)call_numel(call, 0) * (double)rank;
    plan->workspace = call->attr.dropout.p > 0 ? (uint64_t)call_numel(call, 0) * sizeof(float) : 0;
    if (!call->needs)
        return 0;
    plan->saves = (needs_input(call, 1) ? OP_INPUT(0) : 0) | (needs_input(call, 0) ? OP_INPUT(1) : 0);
    plan->backward_flops = plan->flops * (needs_input(call, 0) + needs_input(call, 1));
    plan->backward_workspace = plan->workspace;
    return 0;
}

/* x, or what dropout leaves of it, in the workspace. */
static const float *dropped(const OpCall *call)
{
    if (!(call->attr.dropout.p > 0))
        return call->in[0];
    dropout_run(call, call->in[0], 0, call->workspace);
    return call->workspace;
}

static void down_forward(OpCall *call)
{
    int64_t in = last_dim(call->shape[0]), rank = call->shape[1].dim[0];
    call->kernels->gemm(0, 1, leading(call->shape[0]), rank, in, 1, dropped(call), in, call->in[1], in, 0,
                        call->out, rank, call->run);
}

static void down_backward(OpCall *call)
{
    const Kernels *k = call->kernels;
    int64_t rows = leading(call->shape[0]), in = last_dim(call->shape[0]), rank = call->shape[1].dim[0];
    if (call->din[1])
        k->gemm(1, 0, rank, in, rows, 1, call->dout, rank, dropped(call), in, call->beta[1], call->din[1], in,
                call->run);
    if (!call->din[0])
        return;
    int masked = call->attr.dropout.p > 0;
    k->gemm(0, 0, rows, in, rank, 1, call->dout, rank, call->in[1], in, masked ? 0 : call->beta[0],
            masked ? call->workspace : call->din[0], in, call->run);
    if (masked)
        dropout_run(call, call->workspace, call->beta[0], call->din[0]);
}

static const OpRow down_row = {
    .name = "lora_down",
    .shape = down_shape,
    .forward = down_forward,
    .backward = down_backward,
    .grad_in_recomputed = OP_INPUT(0), /* x is for A's gradient, which comes first */
    .accumulates = OP_INPUT(0) | OP_INPUT(1),
};

Tensor *tensor_lora_down(Tensor *x, Tensor *a, float p)
{
    if (!x || !a)
        return NULL;
    OpAttr attr = {.dropout = {.p = 0}};
    if (p > 0)
        attr = dropout_next(p);
    return tensor_apply(&down_row, &attr, 2, (Tensor *[]){x, a});
}

/* ---- linear_onto: y + scale u B^T ------------------------------------------------------------ */

static int onto_shape(OpCall *call)
{
    Shape y = call->shape[0], u = call->shape[1];
    OpPlan *plan = &call->plan;
    if (check_dtype(call, 0, DTYPE_F32, "y") || check_dtype(call, 1, DTYPE_F32, "u") ||
        check_matrix(call, 2, last_dim(u), "B"))
        return error_code();
    if (leading(y) != leading(u) || last_dim(y) != call->shape[2].dim[0])
        return error_raise(ERROR_SHAPE, "linear_onto: u %s by B %s does not give y %s", shape_text(u).text,
                           shape_text(call->shape[2]).text, shape_text(y).text);
    plan->out = y;
    plan->flops = 2.0 * (double)call_numel(call, 0) * (double)last_dim(u);
    if (!call->needs)
        return 0;
    plan->saves = (needs_input(call, 2) ? OP_INPUT(1) : 0) | (needs_input(call, 1) ? OP_INPUT(2) : 0);
    plan->backward_flops = plan->flops * (needs_input(call, 1) + needs_input(call, 2));
    return 0;
}

static void onto_forward(OpCall *call)
{
    const Kernels *k = call->kernels;
    int64_t rows = leading(call->shape[0]), out = last_dim(call->shape[0]), rank = last_dim(call->shape[1]);
    if (call->out != call->in[0])
        k->copy(DTYPE_F32, DTYPE_F32, rows * out, call->in[0], call->out, call->run);
    k->gemm(0, 1, rows, out, rank, call->attr.scale.factor, call->in[1], rank, call->in[2], rank, 1,
            call->out, out, call->run);
}

static void onto_backward(OpCall *call)
{
    const Kernels *k = call->kernels;
    float scale = call->attr.scale.factor;
    int64_t rows = leading(call->shape[0]), out = last_dim(call->shape[0]), rank = last_dim(call->shape[1]);
    if (call->din[2])
        k->gemm(1, 0, out, rank, rows, scale, call->dout, out, call->in[1], rank, call->beta[2], call->din[2],
                rank, call->run);
    if (call->din[1])
        k->gemm(0, 0, rows, rank, out, scale, call->dout, out, call->in[2], rank, call->beta[1], call->din[1],
                rank, call->run);
}

static const OpRow onto_row = {
    .name = "linear_onto",
    .shape = onto_shape,
    .forward = onto_forward,
    .backward = onto_backward,
    .in_place = OP_INPUT(0),
    .identity_grad = OP_INPUT(0),
    .accumulates = OP_INPUT(1) | OP_INPUT(2),
};

Tensor *tensor_linear_onto(Tensor *y, Tensor *u, Tensor *b, float scale)
{
    if (!y || !u || !b)
        return NULL;
    return tensor_apply(&onto_row, &(OpAttr){.scale = {.factor = scale}}, 3, (Tensor *[]){y, u, b});
}
