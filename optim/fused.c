/* The optimizer inside backward: the engine tells when a gradient is final, the parameter is updated at once
 * and the gradient freed, so that the gradients of a model never exist together. */
#include "optim_.h"

/* From the parameter found last downwards, and round: mostly the first or the second is it. */
static int find_from(Optimizer *optimizer, const Tensor *tensor)
{
    int count = optimizer->count;
    for (int k = 0; k < count; k++) {
        int i = (optimizer->fused_at + count - k) % count;
        if (optimizer->parameters[i] == tensor)
            return optimizer->fused_at = i;
    }
    return -1;
}

static void update_and_free(Optimizer *optimizer, int i)
{
    MemTracker *tracker = optimizer->item.context->tracker;
    Tensor *tensor = optimizer->parameters[i];
    MemPhase phase = memtrack_phase_set(tracker, MEM_PHASE_OPTIMIZER);
    const char *op = memtrack_op_set(tracker, optimizer->rule->name);
    int place = memtrack_place_set(tracker, tensor->place);
    UpdateScalars scalars = optimizer->scalars;
    scalars.grad_scale = 1;
    scalars.lr = optim_lr(optimizer);
    optimizer_update(optimizer, i, scalars);
    tensor_drop_grad(tensor);
    optimizer->fused_updates++;
    memtrack_place_set(tracker, place);
    memtrack_op_set(tracker, op);
    memtrack_phase_set(tracker, phase);
}

static int fused_begin(Context *context, void *user)
{
    const Optimizer *optimizer = user;
    (void)context;
    if (optimizer->fused_updates == 0)
        return 0;
    return error_raise(ERROR_STATE,
                       "tensor_backward: a second backward in one step: %s is fused, so the first one has "
                       "updated %d parameters and freed their gradients, and there is nothing to accumulate "
                       "to; call optim_step after each backward, or optim_set_fused(optimizer, 0) before the "
                       "step",
                       optimizer->rule->name, optimizer->fused_updates);
}

static void fused_final(Context *context, Tensor *leaf, void *user)
{
    (void)context;
    if (!optimizer_has_update(leaf))
        return;
    int i = find_from(user, leaf);
    if (i >= 0)
        update_and_free(user, i);
}

static void fused_end(Context *context, void *user)
{
    Optimizer *optimizer = user;
    (void)context;
    for (int i = optimizer->count - 1; i >= 0; i--)
        if (optimizer_has_update(optimizer->parameters[i]))
            update_and_free(optimizer, i);
}

/* A parameter that another fused optimizer would update as well: only the first of them would. */
static const Tensor *shared_parameter(const Optimizer *optimizer)
{
    const GradientHook *hook = optimizer->item.context->gradient_hooks;
    for (; hook; hook = hook->next)
        for (int i = 0; i < optimizer->count && hook->final == fused_final; i++)
            if (find_from(hook->user, optimizer->parameters[i]) >= 0)
                return optimizer->parameters[i];
    return NULL;
}

int optim_set_fused(Optimizer *optimizer, int on)
{
    if (!optimizer || (on != 0) == optimizer->fused)
        return error_code();
    if (optimizer->item.context != context_here())
        return error_raise(ERROR_STATE, "optim_set_fused: the optimizer belongs to another context");
    if (optimizer->fused_updates)
        return error_raise(ERROR_STATE,
                           "optim_set_fused: the backward of this step has updated parameters; call "
                           "optim_step first");
    if (!on) {
        gradient_hook_remove(optimizer->item.context, &optimizer->hook);
        optimizer->fused = 0;
        return error_code();
    }
    if (optimizer->max_norm > 0)
        return error_raise(ERROR_STATE, "optim_set_fused: the norm of all gradients, by which optim_set_clip "
                                        "scales, is known only when backward is done; clip, or fuse");
    const Tensor *shared = shared_parameter(optimizer);
    if (shared)
        return error_raise(ERROR_STATE, "optim_set_fused: parameter '%s' is one of another fused optimizer's",
                           tensor_name(shared));
    optimizer->hook =
        (GradientHook){.begin = fused_begin, .final = fused_final, .end = fused_end, .user = optimizer};
    gradient_hook_add(optimizer->item.context, &optimizer->hook);
    optimizer->grad_norm = 0;
    optimizer->fused = 1;
    return error_code();
}
