/* The tape: an array of nodes in the order operations ran. */
#include <string.h>

#include "tensor_.h"

Tape *tape_create(Context *context)
{
    Tape *tape = memtrack_host_calloc(context->tracker, sizeof *tape);
    if (tape)
        tape->context = context;
    return tape;
}

void tape_destroy(Tape *tape)
{
    if (!tape)
        return;
    tape_cut(tape, 0);
    MemTracker *tracker = tape->context->tracker;
    memtrack_host_free(tracker, tape->nodes, (size_t)tape->capacity * sizeof *tape->nodes);
    memtrack_host_free(tracker, tape, sizeof *tape);
}

int tape_reserve(Tape *tape)
{
    if (tape->count < tape->capacity)
        return 0;
    int capacity = tape->capacity ? 2 * tape->capacity : 64;
    Node *nodes =
        memtrack_host_realloc(tape->context->tracker, tape->nodes, (size_t)tape->capacity * sizeof *nodes,
                              (size_t)capacity * sizeof *nodes);
    if (!nodes)
        return error_raise(ERROR_HOST_MEMORY, "out of host memory: a tape of %d operations", capacity);
    tape->nodes = nodes;
    tape->capacity = capacity;
    return 0;
}

Node *tape_push(Tape *tape)
{
    Node *node = &tape->nodes[tape->count++];
    memset(node, 0, sizeof *node);
    node->serial = ++tape->context->serials;
    node->path = memtrack_path(tape->context->tracker);
    return node;
}

/* The index of the node with this serial; -1 = none. */
static int find_recorded(const Tape *tape, int64_t serial)
{
    int low = 0, high = tape->count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (tape->nodes[middle].serial < serial)
            low = middle + 1;
        else
            high = middle;
    }
    return low < tape->count && tape->nodes[low].serial == serial ? low : -1;
}

/* A leaf that a checkpointed module uses counts as used by the checkpoint's node. When backward runs the
 * module again, that node is off the tape. Then the recorded use counts, unless another node on the tape uses
 * the leaf earlier. */
void tape_use(const Tape *tape, Tensor *input, int64_t serial)
{
    if (!input->leaf || !input->requires_grad || input->first_use == serial)
        return;
    if (find_recorded(tape, input->first_use) < 0)
        input->first_use = serial;
}

Storage *tape_save(Storage *storage)
{
    if (!storage)
        return NULL;
    storage_retain(storage);
    if (storage->block.bytes && storage->block.component == MEM_TEMPORARY)
        memtrack_retag(storage->ledger, &storage->block, MEM_ACTIVATION);
    return storage;
}

int tensor_saved_by_header(const Tensor *tensor)
{
    return tensor->leaf && (tensor->component == MEM_PARAMETER || tensor->component == MEM_FROZEN);
}

void tape_save_input(Tape *tape, Node *node, int i)
{
    Storage *storage = node->in[i]->storage;
    if (tensor_saved_by_header(node->in[i])) {
        node->by_header |= OP_INPUT(i);
        return;
    }
    int maker = storage->maker;
    /* Data outlives its tape when a script keeps it: the node at that index may be another one by now. */
    int known = maker > 0 && maker <= tape->count && tape->nodes[maker - 1].makes == storage;
    if (known && node->in[i]->recompute && storage->block.component == MEM_TEMPORARY) {
        node->recomputed[i] = maker;
        tape->nodes[maker - 1].readers++;
    } else {
        node->saved[i] = tape_save(storage);
    }
}

const Storage *tape_kept_input(const Node *node, int i)
{
    return node->by_header & OP_INPUT(i) ? node->in[i]->storage : node->saved[i];
}

void tape_offer(const Tape *tape, Node *node, Storage *storage)
{
    for (int i = 0; i < OP_MAX_INPUTS; i++)
        if (node->recomputed[i] && (node->call.plan.recomputes & OP_INPUT(i)))
            return; /* its own input is recomputed: chains are not */
    storage->maker = (int)(node - tape->nodes) + 1;
    node->makes = storage;
}

void tape_node_release(Context *context, Node *node)
{
    for (int i = 0; i < OP_MAX_EXTRAS; i++)
        storage_release(context, node->extra[i]);
    storage_release(context, node->saved_out);
    storage_release(context, node->recomputed_out);
    for (int i = 0; i < OP_MAX_INPUTS; i++) {
        storage_release(context, node->saved[i]);
        if (node->in[i])
            tensor_unref(node->in[i]);
    }
    for (int i = 0; i < BATCH_TENSORS; i++) {
        storage_release(context, node->batch_saved[i]);
        if (node->batch_in[i])
            tensor_unref(node->batch_in[i]);
    }
    if (node->out)
        tensor_unref(node->out);
}

/* Takes out `n` nodes, without releasing what they hold. */
static void close_gap(Tape *tape, int at, int n)
{
    memmove(tape->nodes + at, tape->nodes + at + n, (size_t)(tape->count - at - n) * sizeof *tape->nodes);
    tape->count -= n;
}

static void release_at(Tape *tape, int at)
{
    Node node = tape->nodes[at];
    close_gap(tape, at, 1);
    if (node.out && !node.out->keep)
        tensor_drop_grad(node.out);
    tape_node_release(tape->context, &node);
}

void tape_cut(Tape *tape, int count)
{
    while (tape->count > count)
        release_at(tape, tape->count - 1);
}

/* ---- Markers --------------------------------------------------------------------------------- */

/* Takes off the node at `at`, which only markers follow, and then every pair with nothing in between. */
static void cut_operation(Tape *tape, int at)
{
    release_at(tape, at);
    while (at > 0 && at < tape->count && tape->nodes[at].closing && tape->nodes[at - 1].marker &&
           !tape->nodes[at - 1].closing)
        close_gap(tape, --at, 2);
}

void tape_cut_unreachable(Tape *tape)
{
    for (int at = tape->count - 1; at >= 0; at--) {
        if (tape->nodes[at].marker)
            continue;
        if (tape->nodes[at].out->refs > 1)
            return;
        cut_operation(tape, at);
        at = tape->count;
    }
}

int64_t tape_mark(Tape *tape, TapeMarker marker, void *self)
{
    if (tape_reserve(tape) != 0)
        return 0;
    Node *node = tape_push(tape);
    node->marker = marker;
    node->self = self;
    return node->serial;
}

void tape_mark_end(Tape *tape, int64_t mark)
{
    int at = find_recorded(tape, mark);
    if (at < 0)
        return;
    if (at == tape->count - 1) {
        tape->count--;
        return;
    }
    if (tape_reserve(tape) != 0)
        return;
    Node *node = tape_push(tape);
    node->marker = tape->nodes[at].marker;
    node->self = tape->nodes[at].self;
    node->path = tape->nodes[at].path;
    node->closing = 1;
}

void tape_forget(const Tape *tape, const void *self)
{
    for (int i = 0; tape && i < tape->count; i++)
        if (tape->nodes[i].marker && tape->nodes[i].self == self)
            tape->nodes[i].self = NULL;
}
