/* The optimizer inside backward: the engine tells when a gradient is final, the parameter is updated at once
 * and the gradient freed, so that the gradients of a model never exist together. */
#include <math.h>
#include <stdio.h>

#include "optim_.h"

/* Searches from the parameter found last downwards, and then from the end: mostly the first or the second is
 * the one. */
static int find_from(Optimizer *optimizer, const Tensor *tensor)
{
    int count = optimizer->count;
    for (int k = 0; k < count; k++) {
        int i = (optimizer->final_at + count - k) % count;
        if (optimizer->parameters[i] == tensor)
            return optimizer->final_at = i;
    }
    return -1;
}

/* Where the loss is scaled, a gradient may be beyond what its type can hold. On a card that is known when the
 * step is done: from here on nothing is updated there. */
static int raise_gradient(const Optimizer *optimizer, int i)
{
    const Tensor *tensor = optimizer->parameters[i];
    return error_raise(
        ERROR_NONFINITE,
        "tensor_backward(): the gradient of parameter %d '%s' %s is not finite at a loss scale of "
        "%g; a smaller one may help",
        i, tensor_name(tensor), shape_text(tensor->shape).text, loss_scale_of_gradients(optimizer));
}

/* Of updates in backward: nothing is known yet of this step's. */
static void begin_step(Optimizer *optimizer)
{
    for (int i = 0; i < optimizer->count; i++)
        optimizer->state[i].updated = 0;
    if (optimizer->item.context->card)
        optimizer_control_on_card(optimizer, 0, 0);
}

static int check_gradient(const Optimizer *optimizer, int i)
{
    int64_t bad;
    if (optimizer->item.context->card)
        optimizer_control_on_card(optimizer, i, 1);
    else if (!optimizer->item.context->meta && !optimizer_is_finite(optimizer, i, &bad))
        return raise_gradient(optimizer, i);
    return 0;
}

int in_backward_blame(Optimizer *optimizer)
{
    MemTracker *tracker = optimizer->item.context->tracker;
    int first = -1;
    for (int i = 0; i < optimizer->count; i++) {
        double squares = 0;
        const ParameterState *s = &optimizer->state[i];
        if (s->updated && tensor_part_(optimizer->parameters[i]).count > 0)
            storage_read(optimizer->squares, (uint64_t)i * sizeof squares, sizeof squares, &squares);
        if (!isfinite(squares) && (first < 0 || s->turn < optimizer->state[first].turn))
            first = i;
    }
    for (int i = 0; i < optimizer->count && first >= 0; i++) {
        ParameterState *s = &optimizer->state[i];
        if (!s->updated || s->turn < optimizer->state[first].turn)
            continue;
        s->updates--;
        s->updated = 0;
    }
    int path = memtrack_path_set(tracker, first >= 0 ? optimizer->parameters[first]->path : 0);
    int failed = first >= 0 ? raise_gradient(optimizer, first) : 0;
    memtrack_path_set(tracker, path);
    return failed;
}

static void update(Optimizer *optimizer, int i)
{
    UpdateScalars scalars = optimizer->scalars;
    scalars.lr = optim_lr(optimizer);
    if (optimizer->updates_in_backward == 0)
        begin_step(optimizer);
    optimizer->control = (UpdateControl){.grad_scale = (float)(1 / loss_scale_of_gradients(optimizer))};
    if (optimizer->scaling.on && check_gradient(optimizer, i) != 0)
        return;
    optimizer_update(optimizer, i, scalars);
    optimizer->state[i].turn = ++optimizer->updates_in_backward;
}

static void update_and_free(Optimizer *optimizer, int i)
{
    MemTracker *tracker = optimizer->item.context->tracker;
    Tensor *tensor = optimizer->parameters[i];
    MemPhase phase = memtrack_phase_set(tracker, MEM_PHASE_OPTIMIZER);
    const char *op = memtrack_op_set(tracker, optimizer->rule->shown.name);
    int path = memtrack_path_set(tracker, tensor->path);
    if (tensor_reduce_(tensor) == 0)
        update(optimizer, i);
    if (!error_code())
        tensor_updated_(tensor);
    tensor_drop_grad(tensor);
    memtrack_path_set(tracker, path);
    memtrack_op_set(tracker, op);
    memtrack_phase_set(tracker, phase);
}

static int backward_begin(Context *context, void *user)
{
    const Optimizer *optimizer = user;
    (void)context;
    if (optimizer->updates_in_backward == 0)
        return 0;
    return error_raise(ERROR_STATE,
                       "tensor_backward(): a second backward in one step: %s updates in backward, which "
                       "frees the gradients, "
                       "and there is nothing to accumulate to; call optim_step after each backward, or "
                       "optim_set_in_backward(optimizer, 0) before the step",
                       optimizer->rule->shown.name);
}

static void backward_final(Context *context, Tensor *leaf, void *user)
{
    (void)context;
    if (!optimizer_has_update(leaf))
        return;
    int i = find_from(user, leaf);
    if (i >= 0)
        update_and_free(user, i);
}

static void backward_end(Context *context, void *user)
{
    Optimizer *optimizer = user;
    (void)context;
    for (int i = optimizer->count - 1; i >= 0; i--)
        if (optimizer_has_update(optimizer->parameters[i]))
            update_and_free(optimizer, i);
}

static void backward_failed(Context *context, void *user, char *text, size_t size)
{
    Optimizer *optimizer = user;
    int count = 0, first = 0, last = 0;
    if (optimizer->updates_in_backward == 0 || context->meta)
        return;
    if (context->card && card_look(context) != 0)
        return; /* what it has is lost */
    if (context->card)
        optimizer_uncount(optimizer);
    for (int i = 0; i < optimizer->count; i++) {
        if (!optimizer->state[i].updated)
            continue;
        first = !count || optimizer->state[i].turn < optimizer->state[first].turn ? i : first;
        last = !count || optimizer->state[i].turn > optimizer->state[last].turn ? i : last;
        count++;
    }
    if (count == 1)
        snprintf(text, size, "; 1 of %d parameters was already updated, '%s'", optimizer->count,
                 tensor_name(optimizer->parameters[first]));
    else if (count > 1)
        snprintf(text, size, "; %d of %d parameters were already updated, from '%s' to '%s'", count,
                 optimizer->count, tensor_name(optimizer->parameters[first]),
                 tensor_name(optimizer->parameters[last]));
}

/* A parameter that another optimizer in backward updates as well. Only the first of them would find a
 * gradient. */
static const Tensor *shared_parameter(const Optimizer *optimizer)
{
    const GradientHook *hook = optimizer->item.context->gradient_hooks;
    for (; hook; hook = hook->next)
        for (int i = 0; i < optimizer->count && hook->final == backward_final; i++)
            if (find_from(hook->user, optimizer->parameters[i]) >= 0)
                return optimizer->parameters[i];
    return NULL;
}

int optim_set_in_backward(Optimizer *optimizer, int on)
{
    if (!optimizer || (on != 0) == optimizer->in_backward)
        return error_code();
    if (optimizer->item.context != context_here())
        return error_raise(ERROR_STATE, "optim_set_in_backward(): the optimizer belongs to another context");
    if (optimizer->updates_in_backward)
        return error_raise(ERROR_STATE,
                           "optim_set_in_backward(): the backward of this step has updated parameters; call "
                           "optim_step first");
    if (!on) {
        gradient_hook_remove(optimizer->item.context, &optimizer->hook);
        optimizer->in_backward = 0;
        return error_code();
    }
    if (optimizer->max_norm > 0)
        return error_raise(ERROR_STATE,
                           "optim_set_in_backward(): the norm of all gradients, by which optim_set_clip "
                           "scales, is known only when backward is done; clip, or update in backward");
    if (optimizer->scaling.on && optimizer->scaling.state.dynamic)
        return error_raise(
            ERROR_STATE, "optim_set_in_backward(): a dynamic loss scale skips a step whose gradients are not "
                         "all finite, which is known only when backward is done; give optim_set_loss_scale a "
                         "number, or update after backward");
    const Tensor *shared = shared_parameter(optimizer);
    if (shared)
        return error_raise(
            ERROR_STATE, "optim_set_in_backward(): parameter '%s' is one of another optimizer in backward's",
            tensor_name(shared));
    optimizer->hook = (GradientHook){.begin = backward_begin,
                                     .final = backward_final,
                                     .end = backward_end,
                                     .failed = backward_failed,
                                     .user = optimizer};
    gradient_hook_add(optimizer->item.context, &optimizer->hook);
    optimizer->grad_norm = 0;
    optimizer->in_backward = 1;
    return error_code();
}
