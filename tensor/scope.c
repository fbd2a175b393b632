/* Scopes own what is made inside them, as rings of items; ending a scope destroys its items, newest first. */
#include "tensor_.h"

static void ring_add(Context *context, ScopeItem *item, int depth)
{
    ScopeItem *head = &context->scopes[depth];
    item->depth = depth;
    item->previous = head->previous;
    item->next = head;
    head->previous->next = item;
    head->previous = item;
}

void scope_adopt(ScopeItem *item, void (*destroy)(ScopeItem *item))
{
    Context *context = context_here();
    item->context = context;
    item->destroy = destroy;
    ring_add(context, item, context->depth);
}

void scope_release(ScopeItem *item)
{
    if (!item->next)
        return;
    item->previous->next = item->next;
    item->next->previous = item->previous;
    item->next = item->previous = NULL;
}

int tensor_scope_begin(void)
{
    Context *context = context_here();
    if (!context)
        return 0;
    if (context->depth + 1 >= SCOPE_MAX_DEPTH) {
        error_raise(ERROR_STATE, "more than %d scopes are open: does every tensor_scope_begin have its end?",
                    SCOPE_MAX_DEPTH - 1);
        return SCOPE_MAX_DEPTH; /* its end does nothing */
    }
    return ++context->depth;
}

void tensor_scope_end(int scope)
{
    Context *context = context_here();
    if (!context || scope < 0)
        return;
    while (context->depth >= scope) {
        ScopeItem *head = &context->scopes[context->depth];
        while (head->previous != head) {
            ScopeItem *item = head->previous;
            scope_release(item);
            item->destroy(item);
        }
        if (!context->in_backward)
            tape_cut_unreachable(context->tape);
        if (context->depth == 0)
            return;
        context->depth--;
    }
}

Tensor *tensor_promote(Tensor *tensor)
{
    if (!tensor)
        return NULL;
    Context *context = tensor->item.context;
    if (tensor->item.next && tensor->item.depth == context->depth && context->depth > 0) {
        scope_release(&tensor->item);
        ring_add(context, &tensor->item, context->depth - 1);
    }
    return tensor;
}
