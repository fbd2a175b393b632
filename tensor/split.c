/* Parameters of which ranks that compute a layer together have a part each: a stretch of one dimension, or of
 * each of several layers that lie side by side in it. Whoever draws, reads or writes such a part asks here
 * where its elements lie in the whole. */
#include "ranks_.h"

void tensor_split_(Tensor *parameter, int dim, int packed)
{
    if (!parameter || context_tensor_ranks_(parameter->item.context) < 2)
        return;
    Shape shape = parameter->shape;
    int turned = parameter->transposed;
    int64_t piece = shape.dim[dim] / packed;
    for (int i = dim + 1; i < shape.ndim && !turned; i++)
        piece *= shape.dim[i];
    if (turned && dim == 1)
        piece *= shape.dim[0];
    parameter->piece = piece;
    parameter->split = (unsigned char)(1 + (turned ? 1 - dim : dim));
}

Shape tensor_whole_shape_(const Tensor *parameter)
{
    Shape shape = tensor_shape(parameter);
    if (parameter->transposed)
        shape = SHAPE(shape.dim[1], shape.dim[0]);
    if (parameter->whole_rows)
        shape.dim[0] = parameter->whole_rows;
    else if (parameter->piece)
        shape.dim[parameter->split - 1] *= context_tensor_ranks_(parameter->item.context);
    return shape;
}

int64_t tensor_whole_numel_(const Tensor *parameter)
{
    return parameter ? shape_numel(tensor_whole_shape_(parameter)) : 0;
}

static int64_t place_of(const Tensor *parameter, int64_t piece, int64_t first, int64_t *count)
{
    const struct ContextRanks *ranks = parameter->item.context->ranks;
    int64_t turn = first / piece, in_piece = first % piece;
    *count = piece - in_piece < *count ? piece - in_piece : *count;
    return (turn * ranks->count[RANKS_TENSOR] + ranks->place[RANKS_TENSOR]) * piece + in_piece;
}

int64_t tensor_place_(const Tensor *parameter, int64_t first, int64_t *count)
{
    return parameter && parameter->piece ? place_of(parameter, parameter->piece, first, count) : first;
}

int64_t tensor_stored_piece_(const Tensor *parameter)
{
    int64_t piece = parameter->piece, in = tensor_dim(parameter, 1);
    if (!parameter->transposed || !piece)
        return piece;
    return parameter->split == 1 ? in : piece * in; /* columns here, or rows of each layer */
}

int64_t tensor_stored_place_(const Tensor *parameter, int64_t first, int64_t *count)
{
    int64_t piece = tensor_stored_piece_(parameter);
    return piece ? place_of(parameter, piece, first, count) : first;
}

/* ---- Rows, the last of which may be padding ---------------------------------------------------- */

int64_t tensor_rows_each_(const Context *context, int64_t rows)
{
    int64_t ranks = context_tensor_ranks_(context), each = (rows + ranks - 1) / ranks;
    int64_t unit = ranks > 1 && context->ranks->is.unit > 1 ? context->ranks->is.unit : 1;
    return (each + unit - 1) / unit * unit; /* a vector of as many elements too is in whole blocks */
}

void tensor_split_rows_(Tensor *parameter, int64_t rows)
{
    tensor_split_(parameter, 0, 1);
    if (parameter && parameter->piece)
        parameter->whole_rows = rows;
}

RowsPart tensor_rows_part_(const Tensor *parameter)
{
    int64_t each = parameter->shape.dim[0], all = parameter->whole_rows;
    if (!all)
        return (RowsPart){0, each, each};
    int64_t first = each * parameter->item.context->ranks->place[RANKS_TENSOR], left = all - first;
    return (RowsPart){first, left < 0 ? 0 : left < each ? left : each, all};
}
