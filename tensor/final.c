/* When a gradient is final: nothing that is still to run in this backward adds to it. Ranks sum their parts
 * of it then, and an optimizer that updates inside backward is told. */
#include "ranks_.h"

void gradient_hook_add(Context *context, GradientHook *hook)
{
    GradientHook **last = &context->gradient_hooks;
    while (*last)
        last = &(*last)->next;
    *last = hook;
    hook->next = NULL;
}

void gradient_hook_remove(Context *context, const GradientHook *hook)
{
    for (GradientHook **at = &context->gradient_hooks; *at; at = &(*at)->next)
        if (*at == hook) {
            *at = hook->next;
            return;
        }
}

void gradients_final_(Context *context, const Node *node)
{
    for (int i = 0; i < OP_MAX_INPUTS && (context->gradient_hooks || context->ranks); i++) {
        Tensor *leaf = node->in[i];
        if (!leaf || leaf->first_use != node->serial)
            continue;
        leaf->first_use = 0;                                  /* the same leaf may be another input */
        if (!context->error && context_stages_(context) == 1) /* of stages, when the schedule is over */
            shard_final(leaf);
        for (const GradientHook *hook = context->gradient_hooks;
             hook && tensor_part_(leaf).grad && !context->error; hook = hook->next)
            hook->final(context, leaf, hook->user);
    }
}

int gradients_begin_(Context *context)
{
    for (const GradientHook *hook = context->gradient_hooks; hook; hook = hook->next)
        if (hook->begin(context, hook->user) != 0)
            return error_code();
    return 0;
}

void gradients_end_(Context *context)
{
    for (const GradientHook *hook = context->gradient_hooks; hook && !context->error; hook = hook->next)
        hook->end(context, hook->user);
}
