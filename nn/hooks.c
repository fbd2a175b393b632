/* Module hooks: who is called when a module begins and ends, forward and backward. Backward's side is a pair
 * of markers on the tape around what the module recorded; without hooks there are none. */
#include "module_.h"

void nn_hook_add(ModuleHook *hook)
{
    Context *context = context_here();
    if (!context || !hook)
        return;
    ModuleHook **last = &context->module_hooks;
    while (*last)
        last = &(*last)->next;
    *last = hook;
    hook->next = NULL;
}

void nn_hook_remove(const ModuleHook *hook)
{
    Context *context = context_here();
    for (ModuleHook **at = context ? &context->module_hooks : NULL; at && *at; at = &(*at)->next)
        if (*at == hook) {
            *at = hook->next;
            return;
        }
}

typedef void (*HookCall)(Module *module, void *user);

typedef enum Moment { BEFORE_FORWARD, AFTER_FORWARD, BEFORE_BACKWARD, AFTER_BACKWARD } Moment;

static HookCall call_at(const ModuleHook *hook, Moment moment)
{
    switch (moment) {
    case BEFORE_FORWARD:
        return hook->before_forward;
    case AFTER_FORWARD:
        return hook->after_forward;
    case BEFORE_BACKWARD:
        return hook->before_backward;
    default:
        return hook->after_backward;
    }
}

static void tell(const Context *context, Module *module, Moment moment)
{
    for (const ModuleHook *hook = context->module_hooks, *next; hook; hook = next) {
        next = hook->next; /* it may remove itself */
        HookCall call = call_at(hook, moment);
        if (call)
            call(module, hook->user);
    }
}

static void at_marker(Context *context, void *self, int closing)
{
    tell(context, self, closing ? BEFORE_BACKWARD : AFTER_BACKWARD);
}

int64_t module_hooks_begin(Module *module)
{
    const Context *context = module->item.context;
    if (!context->module_hooks)
        return 0;
    tell(context, module, BEFORE_FORWARD);
    return context->no_grad == 0 ? tape_mark(context->tape, at_marker, module) : 0;
}

void module_hooks_end(Module *module, int64_t mark)
{
    const Context *context = module->item.context;
    if (mark)
        tape_mark_end(context->tape, mark);
    if (context->module_hooks)
        tell(context, module, AFTER_FORWARD);
}
