/* Checkpoint: run a module unrecorded, keep its input, run it again inside backward. The second run uses the
 * same header for the input, the same random counters and the same gradient slots, so gradients are bitwise
 * equal. */
#include "tensor_.h"

/* Unrecorded, in a scope of its own. x may be read more than once: it goes, if it was given away, only
 * afterwards. */
static Tensor *run_unrecorded(Context *context, CheckpointForward forward, void *self, Tensor *x,
                              const void *batch)
{
    if (x)
        x->move = 0;
    context->no_grad++;
    int scope = tensor_scope_begin();
    Tensor *y = tensor_promote(forward(self, x, batch));
    tensor_scope_end(scope);
    context->no_grad--;
    return y;
}

Tensor *tensor_checkpoint(CheckpointForward forward, void *self, Tensor *x, const void *batch)
{
    Context *context = context_here();
    if (!context || context->error || (x && !tensor_readable(x, "tensor_checkpoint")))
        return NULL;
    if (context->no_grad == 0)
        context_step_begin(context); /* the operations below do not: they run unrecorded */
    RandomState random = context->random;
    int move = x && x->move;
    Tensor *y = run_unrecorded(context, forward, self, x, batch);
    if (y && y == x) /* nothing was done to it */
        return y;
    if (context->no_grad > 0) {
        if (move)
            tensor_drop_data(x, DATA_MOVED);
        return y;
    }
    if (!y || tape_reserve(context) != 0)
        return NULL;
    Node *node = tape_push(context);
    node->forward = forward;
    node->self = self;
    node->batch = batch;
    node->random = random;
    if (x) {
        node->in[0] = x;
        tensor_retain(x);
        node->saved[0] = tape_save(context, x->storage);
        if (move)
            tensor_drop_data(x, DATA_MOVED);
    }
    node->out = y;
    tensor_retain(y);
    y->requires_grad = 1;
    y->leaf = 0;
    return y;
}

/* Gives the input's header its data back for the length of the second run. */
static void attach(Tensor *x, Storage *storage)
{
    if (!x || x->storage)
        return;
    x->storage = storage;
    storage_retain(storage);
}

void backward_checkpoint(Context *context, Node *node)
{
    MemTracker *tracker = context->tracker;
    Tensor *x = node->in[0];
    DataState state = x ? x->state : DATA_HELD;
    int detached = x && !x->storage;
    int mark = context->tape->count;
    RandomState random = context->random;
    memtrack_phase_set(tracker, MEM_PHASE_RECOMPUTE);
    uint64_t fills = context->random.fills;
    context->random = node->random;
    context->random.fills = fills;
    attach(x, node->saved[0]);
    int scope = tensor_scope_begin();
    Tensor *y = node->forward(node->self, x, node->batch);
    context->random = random;
    if (detached)
        tensor_drop_data(x, state);
    memtrack_phase_set(tracker, MEM_PHASE_BACKWARD);
    if (y && y->requires_grad && !y->leaf) {
        storage_release(context, y->grad);
        y->grad = node->out->grad;
        node->out->grad = NULL;
        storage_release(context,
                        node->saved[0]); /* the second run's own nodes hold it as long as they need it */
        node->saved[0] = NULL;
        backward_run(context, mark);
    }
    tensor_scope_end(scope);
    tape_cut(context, mark);
}
