/* One position of a sequence: the last one, which says what comes next, or the first one, which stands for
 * the whole of what an encoder has read. */
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
