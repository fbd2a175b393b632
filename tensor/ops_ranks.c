/* What ranks compute together lies between two operations (Shoeybi et al., arXiv 1909.08053: f and g). enter
 * is x itself, of which every rank has all; each of them finds a part of its gradient, and backward sums
 * them. leave sums what each rank has computed of a result, and backward passes its gradient to all. */
#include "ops_.h"
#include "ranks_.h"

static int sum(const OpCall *call, void *data)
{
    return collective_sum_at(context_here(), RANKS_TENSOR, call->dtype[0], call_numel(call, 0), data);
}

/* ---- enter ----------------------------------------------------------------------------------- */

static int enter_shape(OpCall *call)
{
    call->plan.out = call->shape[0];
    call->plan.out_type = call->dtype[0];
    call->plan.writes_dout = 1;
    return check_float(call, 0, "x");
}

static void enter_backward(OpCall *call)
{
    int64_t n = call_numel(call, 0);
    const Kernels *k = call->kernels;
    DType type = call->dtype[0];
    if (sum(call, call->dout) != 0 || !call->dout || call->din[0] == call->dout)
        return;
    (call->beta[0] > 0 ? k->accumulate : k->copy)(type, type, n, call->dout, call->din[0], call->run);
}

static const OpRow enter_row = {
    .name = "enter",
    .shape = enter_shape,
    .backward = enter_backward,
    .grad_in_dout = OP_INPUT(0),
    .accumulates = OP_INPUT(0),
    .meets = 1,
};

Tensor *tensor_enter_(Tensor *x)
{
    return x && context_tensor_ranks_(x->item.context) > 1 ? tensor_apply(&enter_row, NULL, 1, &x) : x;
}

/* ---- leave ----------------------------------------------------------------------------------- */

static int leave_shape(OpCall *call)
{
    int64_t width = last_dim(call->shape[0]);
    if (check_float(call, 0, "x") || (call->shape[1].ndim && check_vector(call, 1, width, "bias")))
        return error_code();
    call->plan.out = call->shape[0];
    call->plan.out_type = call->dtype[0];
    call->plan.workspace = floats_room(call, 1, width);
    if (needs_input(call, 1))
        call->plan.backward_workspace =
            call->kernels->column_sum_workspace(leading(call->shape[0]), width, call->run);
    return 0;
}

static void leave_forward(OpCall *call)
{
    int64_t width = last_dim(call->shape[0]);
    DType type = call->dtype[0];
    char *room = call->workspace;
    if (call->out && call->out != call->in[0])
        call->kernels->copy(type, type, call_numel(call, 0), call->in[0], call->out, call->run);
    if (sum(call, call->out) != 0 || !call->in[1])
        return;
    const float *bias = floats_input(call, 1, 0, width, &room);
    call->kernels->add_row(type, leading(call->shape[0]), width, call->out, bias, call->out, call->run);
}

/* Of the bias: every rank finds all of it. */
static void leave_backward(OpCall *call)
{
    if (call->din[1])
        call->kernels->column_sum(call->dtype[0], leading(call->shape[0]), last_dim(call->shape[0]),
                                  call->dout, call->grad_type[1], call->beta[1], call->din[1],
                                  call->workspace, call->run);
}

static const OpRow leave_row = {
    .name = "leave",
    .shape = leave_shape,
    .forward = leave_forward,
    .backward = leave_backward,
    .in_place = OP_INPUT(0),
    .identity_grad = OP_INPUT(0),
    .accumulates = OP_INPUT(1),
    .meets = 1,
};

Tensor *tensor_leave_(Tensor *x, Tensor *bias)
{
    return x ? tensor_apply(&leave_row, NULL, 2, (Tensor *[]){x, bias}) : NULL;
}
