/* Checkpoint: run a module unrecorded, keep its input, run it again inside backward. The second run uses the
 * same header for the input, the same random counters and the same gradient slots, so gradients are bitwise
 * equal. */
#include <string.h>

#include "tensor_.h"

/* Runs forward unrecorded, in a scope of its own. It may read x more than once, so a donated x is released
 * only afterwards. */
static Tensor *run_unrecorded(Context *context, CheckpointForward forward, void *self, Tensor *x,
                              const Batch *batch)
{
    if (x)
        x->donated = 0;
    context->no_grad++;
    int scope = tensor_scope_begin();
    Tensor *y = tensor_promote(forward(self, x, batch));
    tensor_scope_end(scope);
    context->no_grad--;
    return y;
}

static void keep_batch(Node *node, const Batch *batch)
{
    if (!batch)
        return;
    node->has_batch = 1;
    node->batch = *batch;
    Tensor *const all[BATCH_TENSORS] = {batch->ids, batch->features, batch->types, batch->mask,
                                        batch->labels};
    for (int i = 0; i < BATCH_TENSORS; i++) {
        if (!all[i])
            continue;
        node->batch_in[i] = all[i];
        tensor_retain(all[i]);
        node->batch_saved[i] = tape_save(all[i]->storage);
    }
}

/* Takes over the caller's reference to the input's storage. */
static void record(Context *context, const Node *what, Storage *held, const Batch *batch)
{
    Node *node = tape_push(context->tape);
    node->forward = what->forward;
    node->self = what->self;
    node->random = what->random;
    node->serial = what->serial;
    node->selective = context->selective;
    if (what->in[0]) {
        node->in[0] = what->in[0];
        tensor_retain(node->in[0]);
        node->saved[0] = tape_save(held);
        storage_release(context, held);
    }
    keep_batch(node, batch);
    node->out = what->out;
    tensor_retain(node->out);
    node->out->requires_grad = 1;
}

Tensor *tensor_checkpoint(CheckpointForward forward, void *self, Tensor *x, const Batch *batch)
{
    Context *context = context_here();
    if (!context || context->error || (x && !tensor_readable(x, "tensor_checkpoint")))
        return NULL;
    Node what = {.forward = forward, .self = self, .random = context->random, .in = {x}};
    int donated = x && x->donated, recording = context->no_grad == 0;
    Storage *held = x && recording && !tensor_saved_by_header(x) ? x->storage : NULL;
    if (held)
        storage_retain(held); /* forward may donate x: then its data is not written over */
    int met_grad = context->met_grad;
    int64_t unrecorded = context->unrecorded;
    context->met_grad = 0;
    if (recording)
        context->unrecorded = what.serial = ++context->serials;
    Tensor *y = what.out = run_unrecorded(context, forward, self, x, batch);
    context->unrecorded = unrecorded;
    /* There is nothing to run again when x was returned as it is, when no operation made y, or when
     * everything is frozen. */
    int runs_again = recording && context->met_grad && y && y != x && !y->leaf;
    context->met_grad |= met_grad;
    if (runs_again && tape_reserve(context->tape) == 0)
        record(context, &what, held, batch);
    else
        storage_release(context, held);
    if (context->error)
        return NULL;
    if (donated && y && y != x)
        tensor_drop_data(x, DATA_DONATED);
    return y;
}

/* Gives a header its data back for the length of the second run. */
static void attach(Tensor *x, Storage *storage)
{
    if (!x || x->storage || !storage)
        return;
    x->storage = storage;
    storage_retain(storage);
}

/* The second run, recorded. The tensors that it reads get their data back for as long as it runs. */
static Tensor *recompute_module(Context *context, Node *node)
{
    Tensor *all[1 + BATCH_TENSORS] = {node->in[0]};
    Storage *data[1 + BATCH_TENSORS] = {node->saved[0]};
    int detached[1 + BATCH_TENSORS];
    DataState state[1 + BATCH_TENSORS];
    memcpy(all + 1, node->batch_in, sizeof node->batch_in);
    memcpy(data + 1, node->batch_saved, sizeof node->batch_saved);
    for (int i = 0; i <= BATCH_TENSORS; i++) {
        detached[i] = all[i] && !all[i]->storage;
        state[i] = all[i] ? all[i]->state : DATA_HELD;
        attach(all[i], data[i]);
    }
    int no_grad = context->no_grad, selective = context->selective;
    context->no_grad = 0; /* backward may be called where nothing is recorded */
    context->selective = node->selective;
    Tensor *y = node->forward(node->self, node->in[0], node->has_batch ? &node->batch : NULL);
    context->selective = selective;
    context->no_grad = no_grad;
    for (int i = 0; i <= BATCH_TENSORS; i++)
        if (detached[i])
            tensor_drop_data(all[i], state[i]);
    return y;
}

void backward_checkpoint(Tape *tape, Node *node)
{
    Context *context = tape->context;
    MemTracker *tracker = context->tracker;
    int mark = tape->count;
    RandomState random = context->random;
    memtrack_phase_set(tracker, MEM_PHASE_RECOMPUTE);
    uint64_t fills = context->random.fills;
    context->random = node->random;
    context->random.fills = fills;
    int scope = tensor_scope_begin();
    Tensor *y = recompute_module(context, node);
    context->random = random;
    memtrack_phase_set(tracker, MEM_PHASE_BACKWARD);
    if (y && y->requires_grad && !y->leaf) {
        storage_release(context, y->grad);
        gradient_set(y, node->out->grad);
        gradient_set(node->out, NULL);
        storage_release(context,
                        node->saved[0]); /* the second run's own nodes hold it as long as they need it */
        node->saved[0] = NULL;
        backward_run(tape, mark);
    }
    tensor_scope_end(scope);
    tape_cut(tape, mark);
}
