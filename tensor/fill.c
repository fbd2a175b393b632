/* Filling tensors: with a value, or with random numbers from a stream of their own. */
#include "../kernels/kernels.h"
#include "tensor_.h"

/* The values to fill, or NULL when there is nothing to do (meta, errors). Counts the random stream in either
 * case. */
static float *fill_target(Tensor *tensor, const char *what, uint64_t *stream)
{
    if (!tensor)
        return NULL;
    *stream = tensor->item.context->random.fills++;
    return tensor_typed_data(tensor, DTYPE_F32, what);
}

void tensor_fill(Tensor *tensor, float value)
{
    float *data = tensor ? tensor_f32(tensor) : NULL;
    if (data)
        tensor->item.context->kernels->fill(tensor_numel(tensor), value, data, &tensor->item.context->run);
}

void tensor_fill_normal(Tensor *tensor, float mean, float std)
{
    uint64_t stream;
    float *data = fill_target(tensor, "tensor_fill_normal", &stream);
    if (!data)
        return;
    const Context *context = tensor->item.context;
    context->kernels->fill_normal(tensor_numel(tensor), context->seed, stream, 0, mean, std, data,
                                  &context->run);
}

void tensor_fill_uniform(Tensor *tensor, float low, float high)
{
    uint64_t stream;
    float *data = fill_target(tensor, "tensor_fill_uniform", &stream);
    if (!data)
        return;
    const Context *context = tensor->item.context;
    context->kernels->fill_uniform(tensor_numel(tensor), context->seed, stream, 0, low, high, data,
                                   &context->run);
}
