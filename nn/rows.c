/* Where ranks compute layers together: what they do on the way in and out, and, with sequence parallel, with
 * the rows of batch x sequence that each has of everything in between. */
#include "module_.h"

static int divides_rows(void)
{
    const Context *context = context_here();
    return context && context_divides_rows_(context);
}

/* (B,T,width) of a batch of tokens; ndim 0 after an error. */
static Shape whole_shape(const Batch *batch, int64_t width)
{
    if (batch && batch->ids && tensor_shape(batch->ids).ndim == 2)
        return SHAPE(tensor_dim(batch->ids, 0), tensor_dim(batch->ids, 1), width);
    error_raise(ERROR_DATA,
                "sequence parallel divides the rows of token ids (batch, sequence), and the batch has "
                "none");
    return (Shape){0};
}

Tensor *module_enter(Tensor *x, const Batch *batch)
{
    if (!x || !divides_rows())
        return tensor_enter_(x);
    Shape whole = whole_shape(batch, x->shape.dim[x->shape.ndim - 1]);
    return whole.ndim ? tensor_enter_rows_(x, whole) : NULL;
}

Tensor *module_leave(Tensor *x, Tensor *bias)
{
    return divides_rows() ? tensor_leave_rows_(x, bias) : tensor_leave_(x, bias);
}

Tensor *module_add_rows(Tensor *x, Tensor *table, int64_t first, const Batch *batch)
{
    int64_t rows = tensor_dim(batch->ids, 1);
    return divides_rows() ? tensor_add_rows_part_(x, table, first, rows)
                          : tensor_add_rows_from(x, table, first, rows);
}

/* What a script of its own drops out is whole. */
static int is_part(const Tensor *x, const Batch *batch)
{
    return x && x->shape.ndim == 2 && divides_rows() && batch && batch->ids &&
           x->shape.dim[0] * context_tensor_ranks_(context_here()) == tensor_numel(batch->ids);
}

Tensor *module_dropout(Tensor *x, float p, const Batch *batch)
{
    return is_part(x, batch) ? tensor_dropout_part_(x, p, whole_shape(batch, x->shape.dim[1]))
                             : tensor_dropout(x, p);
}

Tensor *module_own_ids(Tensor *ids)
{
    return divides_rows() ? tensor_own_rows_(ids) : ids;
}

Shape module_rows_shape(const Batch *batch, int64_t width)
{
    Shape whole = whole_shape(batch, width);
    if (!whole.ndim || !divides_rows())
        return whole;
    int64_t each = context_rows_each_(context_here(), whole.dim[0] * whole.dim[1]);
    return each < 0 ? (Shape){0} : SHAPE(each, width);
}

void module_has_rows(Module *model)
{
    TensorList list = model && divides_rows() ? nn_parameters(model) : (TensorList){0};
    for (int i = 0; i < list.count; i++)
        list.items[i]->partial |= list.items[i]->piece == 0;
}

int config_no_rows(const char *function, const char *what)
{
    if (!divides_rows())
        return 0;
    return error_raise(ERROR_RANKS, "%s: %s not there with sequence parallel", function, what);
}
