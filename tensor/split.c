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
    if (parameter->piece)
        shape.dim[parameter->split - 1] *= context_tensor_ranks_(parameter->item.context);
    return shape;
}

int64_t tensor_whole_numel_(const Tensor *parameter)
{
    return parameter ? shape_numel(tensor_whole_shape_(parameter)) : 0;
}

int64_t tensor_place_(const Tensor *parameter, int64_t first, int64_t *count)
{
    int64_t piece = parameter ? parameter->piece : 0;
    if (!piece)
        return first;
    const struct ContextRanks *ranks = parameter->item.context->ranks;
    int64_t turn = first / piece, in_piece = first % piece;
    *count = piece - in_piece < *count ? piece - in_piece : *count;
    return (turn * ranks->count[RANKS_TENSOR] + ranks->place[RANKS_TENSOR]) * piece + in_piece;
}
