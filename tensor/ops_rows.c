/* Sequence parallel (Korthikanti et al., arXiv 2205.05198): what lies between layers that ranks compute
 * together is divided too, by rows of batch x sequence. Entering such a layer gathers the rows, leaving it
 * takes the sum apart, and in backward the other way round. What was gathered is not kept: backward gathers
 * it again. */
#include <inttypes.h>

#include "ops_.h"
#include "ranks_.h"

int64_t context_rows_each_(const Context *context, int64_t rows)
{
    int64_t ranks = context_tensor_ranks_(context);
    if (rows % ranks == 0)
        return rows / ranks;
    error_raise(ERROR_RANKS,
                "%" PRId64 " rows (batch x sequence) are not divided among the %" PRId64
                " ranks of sequence parallel; choose a batch or a sequence that %" PRId64 " divides",
                rows, ranks, ranks);
    return -1;
}

int64_t context_rows_first_(const Context *context, int64_t rows)
{
    int64_t each = context_rows_each_(context, rows);
    return each < 0 ? -1 : each * context->ranks->place[RANKS_TENSOR];
}

/* The n elements `mine` of each rank come to lie one after the other in `all`; pointers are NULL on meta. */
static int gather(const OpCall *call, int64_t n, const void *mine, void *all)
{
    Context *context = context_here();
    int64_t ranks = context->ranks->count[RANKS_TENSOR], place = context->ranks->place[RANKS_TENSOR];
    DType type = call->dtype[0];
    uint64_t bytes = dtype_bytes(type, 1, n),
             room = (bytes + TRANSPORT_UNIT - 1) / TRANSPORT_UNIT * TRANSPORT_UNIT;
    Storage *staging = NULL;
    if (room != bytes && !(staging = storage_new(context, (int64_t)room * ranks, MEM_COMMUNICATION)))
        return error_code();
    char *to = staging ? storage_data(staging) : all;
    if (to)
        call->kernels->copy(type, type, n, mine, to + (uint64_t)place * room, call->run);
    int failed = collective_gather_at(context, RANKS_TENSOR, to, room);
    for (int64_t r = 0; r < ranks && to && staging && !failed; r++)
        call->kernels->copy(type, type, n, to + (uint64_t)r * room, element_at(type, all, r * n), call->run);
    storage_release(context, staging);
    return failed;
}

/* Of n elements of the sum of all ranks' `from` this rank's, into `to`, or added to it. */
static int sum_own(const OpCall *call, int64_t n, const void *from, void *to, int add)
{
    int64_t ranks = context_tensor_ranks_(context_here());
    return collective_sum_parts(context_here(), &(SumParts){.group = RANKS_TENSOR,
                                                            .type = call->dtype[0],
                                                            .to_type = call->dtype[0],
                                                            .n = n,
                                                            .each = n / ranks,
                                                            .from = from,
                                                            .to = to,
                                                            .add = add});
}

/* ---- enter ----------------------------------------------------------------------------------- */

static int enter_shape(OpCall *call)
{
    Shape whole = call->attr.shape;
    if (check_float(call, 0, "x"))
        return error_code();
    if (last_dim(whole) != last_dim(call->shape[0]) ||
        leading(call->shape[0]) * context_tensor_ranks_(context_here()) != leading(whole))
        return error_raise(
            ERROR_SHAPE,
            "enter: x %s is not a rank's rows of %s; with sequence parallel, what comes here is "
            "divided by rows, as in llama, gpt2 and bert",
            shape_text(call->shape[0]).text, shape_text(whole).text);
    call->plan.out = whole;
    call->plan.out_type = call->dtype[0];
    call->plan.saves = OP_INPUT(0);
    call->plan.recomputes = OP_OUTPUT | OP_INPUT(0);
    return 0;
}

static void enter_forward(OpCall *call)
{
    gather(call, call_numel(call, 0), call->in[0], call->out);
}

static void enter_backward(OpCall *call)
{
    sum_own(call, shape_numel(call->plan.out), call->dout, call->din[0], call->beta[0] > 0);
}

static const OpRow enter_row = {
    .name = "enter",
    .shape = enter_shape,
    .forward = enter_forward,
    .backward = enter_backward,
    .recompute = enter_forward,
    .accumulates = OP_INPUT(0),
    .meets = 1,
};

Tensor *tensor_enter_rows_(Tensor *x, Shape whole)
{
    if (!x)
        return NULL;
    x->recompute = 0; /* it is kept, so that what is gathered is not */
    return tensor_recompute(tensor_apply(&enter_row, &(OpAttr){.shape = whole}, 1, &x));
}

/* ---- leave ----------------------------------------------------------------------------------- */

static int leave_shape(OpCall *call)
{
    int64_t width = last_dim(call->shape[0]);
    int64_t each = context_rows_each_(context_here(), leading(call->shape[0]));
    if (each < 0 || check_float(call, 0, "x") ||
        (call->shape[1].ndim && check_vector(call, 1, width, "bias")))
        return error_code();
    call->plan.out = SHAPE(each, width);
    call->plan.out_type = call->dtype[0];
    call->plan.workspace = floats_room(call, 1, width);
    if (needs_input(call, 1))
        call->plan.backward_workspace = call->kernels->column_sum_workspace(each, width, call->run);
    return 0;
}

static void leave_forward(OpCall *call)
{
    int64_t width = last_dim(call->shape[0]);
    char *room = call->workspace;
    if (sum_own(call, call_numel(call, 0), call->in[0], call->out, 0) != 0 || !call->in[1])
        return;
    const float *bias = floats_input(call, 1, 0, width, &room);
    call->kernels->add_row(call->dtype[0], leading(call->plan.out), width, call->out, bias, call->out,
                           call->run);
}

/* Of the bias: what this rank's rows say. */
static void leave_backward(OpCall *call)
{
    if (needs_input(call, 0) && gather(call, shape_numel(call->plan.out), call->dout, call->din[0]) != 0)
        return;
    if (call->din[1])
        call->kernels->column_sum(call->dtype[0], leading(call->plan.out), last_dim(call->shape[0]),
                                  call->dout, call->grad_type[1], call->beta[1], call->din[1],
                                  call->workspace, call->run);
}

static const OpRow leave_row = {
    .name = "leave",
    .shape = leave_shape,
    .forward = leave_forward,
    .backward = leave_backward,
    .accumulates = OP_INPUT(1),
    .meets = 1,
};

Tensor *tensor_leave_rows_(Tensor *x, Tensor *bias)
{
    return x ? tensor_apply(&leave_row, NULL, 2, (Tensor *[]){x, bias}) : NULL;
}

/* ---- Of what every rank has -------------------------------------------------------------------- */

static int own_shape(OpCall *call)
{
    int64_t each = context_rows_each_(context_here(), call_numel(call, 0));
    if (each < 0 || check_dtype(call, 0, DTYPE_I32, "x"))
        return error_code();
    call->plan.out = SHAPE(each);
    call->plan.out_type = DTYPE_I32;
    return 0;
}

static void own_forward(OpCall *call)
{
    int64_t each = call->plan.out.dim[0], place = context_here()->ranks->place[RANKS_TENSOR];
    call->kernels->copy(DTYPE_F32, DTYPE_F32, each, (const float *)call->in[0] + place * each, call->out,
                        call->run); /* as many bits */
}

static const OpRow own_row = {.name = "own_rows", .shape = own_shape, .forward = own_forward};

Tensor *tensor_own_rows_(Tensor *x)
{
    return x ? tensor_apply(&own_row, NULL, 1, &x) : NULL;
}
