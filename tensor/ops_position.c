/* One position of a sequence: the last one, which says what comes next, or the first one, which stands for
 * the whole of what an encoder has read; or the mean of all. */
#include "ops_.h"

/* Of row b of x (B,T,c), where the position begins. */
static int64_t place_of(const OpCall *call, int64_t b)
{
    Shape x = call->shape[0];
    int64_t position = call->attr.position.first ? 0 : x.dim[1] - 1;
    return (b * x.dim[1] + position) * x.dim[2];
}

static int position_shape(OpCall *call)
{
    Shape x = call->shape[0];
    if (check_float(call, 0, "x"))
        return error_code();
    if (x.ndim != 3)
        return error_raise(ERROR_SHAPE, "%s: x must be (batch,tokens,width), not %s", call->row->name,
                           shape_text(x).text);
    call->plan.out = (Shape){2, {x.dim[0], x.dim[2], 1, 1}};
    call->plan.out_type = call->dtype[0];
    return 0;
}

static void position_forward(OpCall *call)
{
    DType type = call->dtype[0];
    int64_t c = call->shape[0].dim[2];
    for (int64_t b = 0; b < call->shape[0].dim[0]; b++)
        call->kernels->copy(type, type, c, element_at(type, call->in[0], place_of(call, b)),
                            element_at(type, call->out, b * c), call->run);
}

static void position_backward(OpCall *call)
{
    DType type = call->dtype[0];
    int64_t c = call->shape[0].dim[2];
    for (int64_t b = 0; b < call->shape[0].dim[0]; b++)
        call->kernels->accumulate(type, type, c, element_at(type, call->dout, b * c),
                                  element_at(type, call->din[0], place_of(call, b)), call->run);
}

/* They differ in name alone: attr says which position it is. */
#define POSITION_ROW(title)                                                                                  \
    {                                                                                                        \
        .name = title, .shape = position_shape, .forward = position_forward, .backward = position_backward,  \
        .accumulates = OP_INPUT(0), .grad_zeroed = OP_INPUT(0)                                               \
    }
static const OpRow last_row = POSITION_ROW("last"), first_row = POSITION_ROW("first");

Tensor *tensor_last(Tensor *x)
{
    return x ? tensor_apply(&last_row, NULL, 1, (Tensor *[]){x}) : NULL;
}

Tensor *tensor_first(Tensor *x)
{
    return x ? tensor_apply(&first_row, &(OpAttr){.position = {.first = 1}}, 1, (Tensor *[]){x}) : NULL;
}

/* ---- The mean ---------------------------------------------------------------------------------- */

/* How many tokens a sample has is kept, as 1 / that. */
static int mean_tokens_shape(OpCall *call)
{
    Shape x = call->shape[0], mask = call->shape[1];
    if (position_shape(call) || (mask.ndim && check_dtype(call, 1, DTYPE_I32, "mask")))
        return error_code();
    if (mask.ndim && !shape_equal(mask, SHAPE(x.dim[0], x.dim[1])))
        return error_raise(ERROR_SHAPE, "%s: the mask of x %s must be %s, not %s", call->row->name,
                           shape_text(x).text, shape_text(SHAPE(x.dim[0], x.dim[1])).text,
                           shape_text(mask).text);
    call->plan.saves = mask.ndim ? OP_INPUT(1) : 0;
    call->plan.extra_bytes[0] = sizeof(float) * (uint64_t)x.dim[0];
    return 0;
}

static void mean_tokens_forward(OpCall *call)
{
    Shape x = call->shape[0];
    call->kernels->mean_tokens_forward(call->dtype[0], x.dim[0], x.dim[1], x.dim[2], call->in[0], call->in[1],
                                       call->out, call->extra[0], call->run);
}

static void mean_tokens_backward(OpCall *call)
{
    Shape x = call->shape[0];
    call->kernels->mean_tokens_backward(call->dtype[0], x.dim[0], x.dim[1], x.dim[2], call->in[1],
                                        call->extra[0], call->dout, call->beta[0], call->din[0], call->run);
}

static const OpRow mean_tokens_row = {
    .name = "mean_tokens",
    .shape = mean_tokens_shape,
    .forward = mean_tokens_forward,
    .backward = mean_tokens_backward,
    .accumulates = OP_INPUT(0),
};

Tensor *tensor_mean_tokens(Tensor *x, Tensor *mask)
{
    return x ? tensor_apply(&mean_tokens_row, NULL, 2, (Tensor *[]){x, mask}) : NULL;
}
