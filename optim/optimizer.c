/* The optimizer: which parameters, what state they have, and one step over all of them. It meets modules in
 * Tensor * only. All memory is taken at creation, so that every step costs what the first one costs. */
#include <inttypes.h>
#include <math.h>

#include "optim_.h"

/* ---- Creation -------------------------------------------------------------------------------- */

static int find_parameter(const Optimizer *optimizer, const Tensor *tensor)
{
    for (int i = 0; i < optimizer->count; i++)
        if (optimizer->parameters[i] == tensor)
            return i;
    return -1;
}

static int is_frozen(const Tensor *tensor)
{
    return !tensor->requires_grad && tensor->storage && tensor->storage->block.component == MEM_FROZEN;
}

static const char *unusable(const Tensor *tensor, const Context *context)
{
    if (tensor->item.context != context)
        return "belongs to another context";
    if (tensor->dtype != DTYPE_F32)
        return "is not f32: weights of other types stay as they are, and adapters train beside them";
    if (!tensor->leaf)
        return "was made by an operation; only leaves can be trained";
    if (!tensor->requires_grad)
        return "does not require a gradient";
    return tensor->storage ? NULL : "was freed";
}

static int arrays_new(const Optimizer *optimizer, const Tensor *tensor, ParameterState *state)
{
    Context *context = optimizer->item.context;
    int path = memtrack_path_set(context->tracker, tensor->path);
    int made = 0;
    while (made < optimizer->arrays) {
        Tensor *array = tensor_new(DTYPE_F32, tensor->shape, MEM_OPTIMIZER);
        if (!array)
            break;
        scope_release(&array->item);
        tensor_fill(array, 0);
        state->array[made++] = array;
    }
    memtrack_path_set(context->tracker, path);
    return made == optimizer->arrays ? 0 : error_code();
}

static int add_parameter(Optimizer *optimizer, Tensor *tensor, float weight_decay)
{
    int i = optimizer->count++;
    tensor_retain(tensor);
    optimizer->parameters[i] = tensor;
    optimizer->state[i] = (ParameterState){.lr_scale = 1, .weight_decay = weight_decay};
    return arrays_new(optimizer, tensor, &optimizer->state[i]);
}

static int add_parameters(Optimizer *optimizer, TensorList list, int decay_all)
{
    for (int i = 0; i < list.count; i++) {
        Tensor *tensor = list.items[i];
        if (tensor && (is_frozen(tensor) || find_parameter(optimizer, tensor) >= 0))
            continue; /* tied weights are one parameter */
        const char *problem = tensor ? unusable(tensor, optimizer->item.context) : "is NULL";
        if (problem)
            return error_raise(ERROR_ARGUMENT, "optimizer %s: parameter %d '%s' %s",
                               optimizer->rule->shown.name, i, tensor_name(tensor), problem);
        int decayed = decay_all || tensor->shape.ndim > 1;
        if (add_parameter(optimizer, tensor, decayed ? optimizer->scalars.weight_decay : 0) != 0)
            return error_code();
    }
    if (optimizer->count == 0)
        return error_raise(ERROR_ARGUMENT,
                           "optimizer %s: every parameter is frozen; there is nothing to train",
                           optimizer->rule->shown.name);
    return 0;
}

static void destroy(ScopeItem *item)
{
    Optimizer *optimizer = (Optimizer *)item; /* the item is the first member */
    Context *context = item->context;
    gradient_hook_remove(context, &optimizer->hook);
    for (int i = optimizer->count - 1; i >= 0; i--) {
        for (int k = OPTIM_MAX_ARRAYS - 1; k >= 0; k--)
            tensor_free(optimizer->state[i].array[k]);
        tensor_unref(optimizer->parameters[i]);
    }
    host_free(context, optimizer->state, (size_t)optimizer->capacity * sizeof *optimizer->state);
    host_free(context, optimizer->parameters, (size_t)optimizer->capacity * sizeof(Tensor *));
    host_free(context, optimizer, sizeof *optimizer);
}

Optimizer *optimizer_new(const UpdateRule *rule, const UpdateScalars *scalars, int decay_all, TensorList list)
{
    if (!list.items || list.count <= 0) {
        error_raise(ERROR_ARGUMENT, "optimizer %s: the list of parameters is empty", rule->shown.name);
        return NULL;
    }
    Optimizer *optimizer = host_alloc(sizeof *optimizer);
    if (!optimizer)
        return NULL;
    scope_adopt(&optimizer->item, destroy);
    optimizer->rule = rule;
    optimizer->scalars = *scalars;
    optimizer->arrays = rule_arrays(rule) + (scalars->momentum > 0);
    optimizer->capacity = list.count;
    optimizer->parameters = host_alloc((size_t)list.count * sizeof(Tensor *));
    optimizer->state =
        optimizer->parameters ? host_alloc((size_t)list.count * sizeof *optimizer->state) : NULL;
    MemTracker *tracker = optimizer->item.context->tracker;
    const char *op = memtrack_op_set(tracker, rule->shown.name);
    int failed = !optimizer->state || add_parameters(optimizer, list, decay_all) != 0;
    memtrack_op_set(tracker, op);
    if (!failed)
        return optimizer;
    optimizer_free(optimizer);
    return NULL;
}

void optimizer_free(Optimizer *optimizer)
{
    if (!optimizer)
        return;
    scope_release(&optimizer->item);
    destroy(&optimizer->item);
}

/* ---- Settings -------------------------------------------------------------------------------- */

static int not_negative(const char *what, float value)
{
    if (value >= 0 && value < INFINITY)
        return 1;
    error_raise(ERROR_ARGUMENT, "%s is %g; it must be a finite number not below 0", what, (double)value);
    return 0;
}

static int group_known(const Optimizer *optimizer, TensorList list)
{
    for (int i = 0; i < list.count; i++) {
        const Tensor *tensor = list.items[i];
        if (tensor && (is_frozen(tensor) || find_parameter(optimizer, tensor) >= 0))
            continue;
        error_raise(ERROR_ARGUMENT, "optim_set_group(): parameter %d '%s' is not one of this optimizer's", i,
                    tensor_name(tensor));
        return 0;
    }
    return 1;
}

int optim_set_group(Optimizer *optimizer, TensorList parameters, float lr_scale, float weight_decay)
{
    if (!optimizer || !not_negative("optim_set_group(): lr_scale", lr_scale) ||
        !not_negative("optim_set_group(): weight_decay", weight_decay) || !group_known(optimizer, parameters))
        return error_code();
    for (int i = 0; i < parameters.count; i++) {
        int known = find_parameter(optimizer, parameters.items[i]);
        if (known < 0)
            continue; /* frozen */
        optimizer->state[known].lr_scale = lr_scale;
        optimizer->state[known].weight_decay = weight_decay;
    }
    return error_code();
}

int optim_set_schedule(Optimizer *optimizer, const Schedule *schedule)
{
    static const Schedule constant;
    if (!schedule)
        schedule = &constant;
    if (optimizer && schedule_valid(schedule))
        optimizer->schedule = *schedule;
    return error_code();
}

int optim_set_clip(Optimizer *optimizer, float max_norm)
{
    if (!optimizer)
        return error_code();
    if (!(max_norm >= 0)) /* infinity is fine: the norm is measured, nothing is scaled */
        return error_raise(ERROR_ARGUMENT, "optim_set_clip(): max_norm is %g; it must not be below 0",
                           (double)max_norm);
    if (max_norm > 0 && optimizer->in_backward)
        return error_raise(ERROR_STATE,
                           "optim_set_clip(): the norm of all gradients is known only when backward "
                           "is done, and this optimizer updates inside backward; clip, or call "
                           "optim_set_in_backward(optimizer, 0)");
    optimizer->max_norm = max_norm;
    optimizer->grad_norm = 0;
    return error_code();
}

void optim_set_lr(Optimizer *optimizer, float lr)
{
    if (optimizer && not_negative("optim_set_lr(): lr", lr))
        optimizer->scalars.lr = lr;
}

/* ---- A step ---------------------------------------------------------------------------------- */

static void blame_gradient(const Optimizer *optimizer)
{
    const Context *context = optimizer->item.context;
    for (int i = 0; i < optimizer->count; i++) {
        const Tensor *tensor = optimizer->parameters[i];
        const float *gradient = storage_f32(tensor->grad);
        int64_t n = shape_numel(tensor->shape);
        int64_t bad = -1;
        if (gradient)
            context->kernels->find_nonfinite(DTYPE_F32, n, gradient, &bad, &context->run);
        if (bad < 0)
            continue;
        float value;
        storage_read(tensor->grad, (uint64_t)bad * sizeof value, sizeof value, &value);
        error_raise(ERROR_NONFINITE,
                    "optim_step(): element %" PRId64
                    " of the gradient of parameter %d '%s' %s is %s; nothing was updated",
                    bad, i, tensor_name(tensor), shape_text(tensor->shape).text,
                    isnan(value) ? "NaN" : "infinite");
        return;
    }
    error_raise(ERROR_NONFINITE,
                "optim_step(): the norm of the gradients is not finite; nothing was updated");
}

int optimizer_has_update(const Tensor *parameter)
{
    return parameter->grad && parameter->storage;
}

/* Sets what updates read: the factor on every gradient, as PyTorch's clip_grad_norm_, or that nothing is to
 * be updated, with an error, where the norm is not finite. */
static void clip(Optimizer *optimizer)
{
    const Context *context = optimizer->item.context;
    optimizer->control = (UpdateControl){.grad_scale = 1};
    if (optimizer->max_norm <= 0 || context->meta)
        return;
    double squares = 0;
    for (int i = 0; i < optimizer->count; i++) {
        const Tensor *tensor = optimizer->parameters[i];
        double sum;
        if (!optimizer_has_update(tensor))
            continue;
        context->kernels->sum_squares(DTYPE_F32, shape_numel(tensor->shape), storage_f32(tensor->grad), &sum,
                                      &context->run);
        squares += sum;
    }
    double norm = sqrt(squares), scale = (double)optimizer->max_norm / (norm + 1e-6);
    if (!isfinite(norm)) {
        optimizer->control.skip = 1;
        blame_gradient(optimizer);
        return;
    }
    optimizer->grad_norm = (float)norm;
    if (scale < 1)
        optimizer->control.grad_scale = (float)scale;
}

void optimizer_update(const Optimizer *optimizer, int i, UpdateScalars scalars)
{
    const Context *context = optimizer->item.context;
    const Tensor *tensor = optimizer->parameters[i];
    ParameterState *state = &optimizer->state[i];
    state->updates++;
    if (context->meta)
        return;
    scalars.lr *= state->lr_scale;
    scalars.weight_decay = state->weight_decay;
    scalars.step = state->updates;
    UpdateCall call = {.kernels = context->kernels,
                       .run = &context->run,
                       .n = shape_numel(tensor->shape),
                       .scalars = &scalars,
                       .control = &optimizer->control,
                       .parameter = storage_f32(tensor->storage),
                       .gradient = storage_f32(tensor->grad)};
    for (int k = 0; k < optimizer->arrays; k++)
        call.state[k] = storage_f32(state->array[k]->storage);
    optimizer->rule->update(&call);
}

static void step(Optimizer *optimizer)
{
    clip(optimizer);
    if (optimizer->control.skip)
        return;
    UpdateScalars scalars = optimizer->scalars;
    scalars.lr = optim_lr(optimizer);
    for (int i = 0; i < optimizer->count; i++)
        if (optimizer_has_update(optimizer->parameters[i]))
            optimizer_update(optimizer, i, scalars);
    optimizer->steps++;
    optimizer->updates_in_backward = 0;
    context_step_end();
}

int optim_step(Optimizer *optimizer)
{
    if (!optimizer || error_code())
        return error_code();
    if (optimizer->item.context != context_here())
        return error_raise(ERROR_STATE, "optim_step(): the optimizer belongs to another context");
    MemTracker *tracker = optimizer->item.context->tracker;
    MemPhase phase = memtrack_phase_set(tracker, MEM_PHASE_OPTIMIZER);
    const char *op = memtrack_op_set(tracker, optimizer->rule->shown.name);
    step(optimizer);
    memtrack_op_set(tracker, op);
    memtrack_phase_set(tracker, phase);
    return error_code();
}

static void to_zero(Context *context, Tensor *tensor)
{
    if (tensor->grad && tensor->grad->refs > 1)
        tensor_drop_grad(tensor); /* a kept tensor reads it too; no gradient is as good as zeros */
    else if (tensor->grad && !context->meta)
        context->kernels->fill(DTYPE_F32, shape_numel(tensor->shape), 0, storage_f32(tensor->grad),
                               &context->run);
}

static void zero_grad(const Optimizer *optimizer, int keep)
{
    Context *context = optimizer->item.context;
    MemTracker *tracker = context->tracker;
    MemPhase phase = memtrack_phase_set(tracker, MEM_PHASE_OPTIMIZER);
    const char *op = memtrack_op_set(tracker, "zero_grad");
    for (int i = 0; i < optimizer->count; i++)
        if (keep)
            to_zero(context, optimizer->parameters[i]);
        else
            tensor_drop_grad(optimizer->parameters[i]);
    memtrack_op_set(tracker, op);
    memtrack_phase_set(tracker, phase);
}

void optim_zero_grad(Optimizer *optimizer)
{
    if (optimizer)
        zero_grad(optimizer, 0);
}

void optim_zero_grad_keep(Optimizer *optimizer)
{
    if (!optimizer)
        return;
    if (optimizer->in_backward)
        error_raise(ERROR_STATE,
                    "optim_zero_grad_keep(): this optimizer updates inside backward, which frees "
                    "each gradient; there is none to keep. Call optim_zero_grad, or "
                    "optim_set_in_backward(optimizer, 0)");
    else
        zero_grad(optimizer, 1);
}

/* ---- Reading --------------------------------------------------------------------------------- */

float optim_lr(const Optimizer *optimizer)
{
    if (!optimizer)
        return 0;
    return (float)((double)optimizer->scalars.lr * schedule_factor(&optimizer->schedule, optimizer->steps));
}

float optim_grad_norm(const Optimizer *optimizer)
{
    return optimizer ? optimizer->grad_norm : 0;
}

int64_t optim_steps(const Optimizer *optimizer)
{
    return optimizer ? optimizer->steps : 0;
}

const char *optim_name(const Optimizer *optimizer)
{
    return optimizer ? optimizer->rule->shown.name : "";
}

TensorList optim_parameters(const Optimizer *optimizer)
{
    return optimizer ? (TensorList){optimizer->parameters, optimizer->count} : (TensorList){0};
}
