/* What a step finds out of the gradients before it updates anything: whether they are finite, their norm, and
 * what updates read of it; and which gradient is to blame. */
#include <inttypes.h>
#include <math.h>

#include "../base/half_.h"
#include "optim_.h"

int optimizer_is_finite(const Optimizer *optimizer, int i, int64_t *bad)
{
    Context *context = optimizer->item.context;
    const Tensor *tensor = optimizer->parameters[i];
    TensorPart part = tensor_part_(tensor);
    *bad = -1;
    const void *values = part.grad ? optimizer_elements(part.grad_type, part.grad, part.grad_at) : NULL;
    if (part.grad && part.count > 0 && context->card)
        *bad = card_find_nonfinite(context, part.grad_type, part.count, values);
    else if (part.grad && part.count > 0)
        context->kernels->find_nonfinite(part.grad_type, part.count, values, bad, &context->run);
    *bad += *bad >= 0 ? part.first : 0;
    return *bad < 0;
}

static float gradient_value(const Tensor *tensor, int64_t i)
{
    TensorPart part = tensor_part_(tensor);
    DType type = part.grad_type;
    uint64_t size = dtype_bytes(type, 1, 1);
    float value = 0;
    uint16_t half = 0;
    storage_read(part.grad, (uint64_t)(i - part.first + part.grad_at) * size, size,
                 type == DTYPE_F32 ? (void *)&value : &half);
    return type == DTYPE_F32 ? value : type == DTYPE_F16 ? half_from_f16(half) : half_from_bf16(half);
}

int optimizer_has_update(const Tensor *parameter)
{
    TensorPart part = tensor_part_(parameter);
    return part.grad && part.weights;
}

static int all_finite(const Optimizer *optimizer)
{
    int64_t bad;
    for (int i = 0; i < optimizer->count; i++)
        if (optimizer_has_update(optimizer->parameters[i]) && !optimizer_is_finite(optimizer, i, &bad))
            return 0;
    return 1;
}

int optimizer_blame_other(void)
{
    return ranks_other_("a gradient that is not finite");
}

int optimizer_blame(const Optimizer *optimizer, const char *why)
{
    int64_t bad;
    if (optimizer->item.context->ranks && all_finite(optimizer))
        return optimizer_blame_other();
    for (int i = 0; i < optimizer->count; i++) {
        const Tensor *tensor = optimizer->parameters[i];
        if (optimizer_is_finite(optimizer, i, &bad))
            continue;
        float value = gradient_value(tensor, bad);
        return error_raise(
            ERROR_NONFINITE,
            "optim_step(): element %" PRId64 " of the gradient of parameter %d '%s' %s is %s%s", bad, i,
            tensor_name(tensor), shape_text(tensor->shape).text, isnan(value) ? "NaN" : "infinite", why);
    }
    return error_raise(ERROR_NONFINITE, "optim_step(): the norm of the gradients is not finite%s", why);
}

/* Of all gradients, or of what of them is counted at this rank. */
static double squares_of_gradients(const Optimizer *optimizer)
{
    const Context *context = optimizer->item.context;
    double squares = 0;
    for (int i = 0; i < optimizer->count; i++) {
        const Tensor *tensor = optimizer->parameters[i];
        TensorPart part = tensor_part_(tensor);
        double sum;
        if (!optimizer_has_update(tensor) || !part.counts)
            continue;
        context->kernels->sum_squares(part.grad_type, part.count,
                                      optimizer_elements(part.grad_type, part.grad, part.grad_at), &sum,
                                      &context->run);
        squares += sum;
    }
    return squares;
}

int optimizer_find_control(Optimizer *optimizer)
{
    Context *context = optimizer->item.context;
    int scaled = optimizer->scaling.on, clips = optimizer->max_norm > 0, bad = 0;
    double scale = loss_scale_of_gradients(optimizer), clip = 1, squares = 0;
    optimizer->control = (UpdateControl){.grad_scale = 1};
    if (!context->meta && clips)
        squares = squares_of_gradients(optimizer);
    else if (!context->meta && scaled)
        bad = !all_finite(optimizer);
    if (ranks_agree_(context, &squares, &bad) != 0)
        return error_code();
    if (context->meta)
        return 0;
    optimizer->control.skip = bad;
    if (clips) {
        double norm = sqrt(squares) / scale, most = (double)optimizer->max_norm / (norm + 1e-6);
        optimizer->control.skip = !isfinite(norm);
        if (scaled || isfinite(norm))
            optimizer->grad_norm = (float)norm;
        clip = most < 1 ? most : 1;
    }
    optimizer->control.grad_scale = (float)(clip / scale);
    return 0;
}
