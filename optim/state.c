/* What an optimizer remembers, readable and writable from outside: it can be saved, and a run resumed as if
 * it had never stopped. */
#include <inttypes.h>

#include "optim_.h"

static int has_parameter(const Optimizer *optimizer, int parameter)
{
    return optimizer && parameter >= 0 && parameter < optimizer->count;
}

int optim_state_arrays(const Optimizer *optimizer)
{
    return optimizer ? optimizer->arrays : 0;
}

const char *optim_state_name(const Optimizer *optimizer, int array)
{
    if (!optimizer || array < 0 || array >= optimizer->arrays)
        return NULL;
    const UpdateRule *rule = optimizer->rule;
    return array < rule_arrays(rule) ? rule->state[array] : "momentum_buffer";
}

Tensor *optim_state(const Optimizer *optimizer, int parameter, int array)
{
    if (!has_parameter(optimizer, parameter) || array < 0 || array >= optimizer->arrays)
        return NULL;
    return optimizer->state[parameter].array[array];
}

int64_t optim_updates(const Optimizer *optimizer, int parameter)
{
    return has_parameter(optimizer, parameter) ? optimizer->state[parameter].updates : 0;
}

float optim_base_lr(const Optimizer *optimizer)
{
    return optimizer ? optimizer->scalars.lr : 0;
}

int optim_set_updates(Optimizer *optimizer, int parameter, int64_t updates)
{
    if (!optimizer)
        return error_code();
    if (!has_parameter(optimizer, parameter))
        return error_raise(ERROR_ARGUMENT, "optim_set_updates(): there is no parameter %d; there are %d",
                           parameter, optimizer->count);
    if (updates < 0)
        return error_raise(ERROR_ARGUMENT, "optim_set_updates(): %" PRId64 " updates are less than none",
                           updates);
    optimizer->state[parameter].updates = updates;
    return error_code();
}

int optim_set_steps(Optimizer *optimizer, int64_t steps)
{
    if (!optimizer)
        return error_code();
    if (steps < 0)
        return error_raise(ERROR_ARGUMENT, "optim_set_steps(): %" PRId64 " steps are less than none", steps);
    if (optimizer->updates_in_backward)
        return error_raise(ERROR_STATE,
                           "optim_set_steps(): the backward of this step has updated parameters; "
                           "call optim_step first");
    optimizer->steps = steps;
    return error_code();
}
