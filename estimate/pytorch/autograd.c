/* The graph, its backward pass, and checkpointing. */
#include <string.h>

#include "torch_.h"

/* ---- Nodes ----------------------------------------------------------------------------------- */

static TorchNode *accumulator(Torch *t, TorchTensor *leaf)
{
    if (leaf->node)
        return leaf->node;
    TorchNode *node = torch_new_node(t);
    node->name = "AccumulateGrad";
    node->order = UINT64_MAX;
    node->refs = !leaf->asked;
    node->outputs = 1;
    node->made[0] = leaf->shape;
    node->leaf = leaf;
    if (leaf->asked)
        node->context = torch_again(leaf);
    node->place = t->place;
    return leaf->node = node;
}

TorchNode *torch_node(Torch *t, const char *name, TorchBackward *backward, int count,
                      TorchTensor *const *inputs)
{
    int wanted = 0;
    for (int i = 0; i < count; i++)
        wanted |= inputs[i] && inputs[i]->needs_grad;
    if (!wanted || !t->grad_mode)
        return NULL;
    TorchNode *node = torch_new_node(t);
    node->name = name;
    node->backward = backward;
    node->order = ++t->orders;
    node->place = t->place;
    node->edges = count;
    for (int i = 0; i < count; i++) {
        if (!inputs[i] || !inputs[i]->needs_grad)
            continue;
        node->edge[i] = (TorchEdge){accumulator(t, inputs[i]), inputs[i]->output};
        node->edge[i].node->refs++;
    }
    return node;
}

int torch_wants(const TorchNode *node, int input)
{
    return node && node->edge[input].node;
}

TorchTensor *torch_made(Torch *t, TorchNode *node, int output, TorchTensor *y)
{
    (void)t;
    if (!node)
        return y;
    y->node = node;
    y->output = output;
    y->needs_grad = 1;
    node->refs++;
    node->made[output] = y->shape;
    if (node->outputs <= output)
        node->outputs = output + 1;
    return y;
}

/* ---- What nodes save ------------------------------------------------------------------------- */

static void segment_done(Torch *t, TorchSegment *segment)
{
    torch_drop(t, segment->x);
    for (int i = 0; i < TORCH_ALSO; i++)
        torch_drop(t, segment->also[i]);
    segment->next = t->spare_segments;
    t->spare_segments = segment;
}

static void release_slot(Torch *t, TorchNode *node, int slot)
{
    TorchSegment *segment = node->segment[slot];
    torch_drop(t, node->saved[slot]);
    node->saved[slot] = NULL;
    if (!segment)
        return;
    TorchTensor **kept = &t->kept[segment->first + node->slot[slot]];
    torch_drop(t, *kept);
    *kept = NULL;
    node->segment[slot] = NULL;
    if (!--segment->waiting)
        segment_done(t, segment);
}

static void use_slot(TorchNode *node, int slot)
{
    if (node->slots <= slot)
        node->slots = slot + 1;
}

void torch_save(Torch *t, TorchNode *node, int slot, TorchTensor *x)
{
    if (!node || !x)
        return;
    if (t->replaying) { /* what the segment's own node saved here */
        TorchSegment *segment = t->replaying;
        if (!t->stopped) {
            TorchTensor *again = torch_alias(t, x);
            again->loose = 0;
            torch_mark(t, x, PYTORCH_ACTIVATION);
            t->kept[segment->first + t->replayed++] = again;
            t->stopped = t->replayed == segment->count;
        }
    } else if (t->packing) {
        TorchSegment *segment = t->packing;
        t->kept = torch_grow(t, t->kept, &t->kept_capacity, t->kept_count + 1, sizeof *t->kept);
        t->kept[t->kept_count++] = NULL;
        use_slot(node, slot);
        node->segment[slot] = segment;
        node->slot[slot] = segment->count++;
        segment->waiting++;
    } else {
        use_slot(node, slot);
        node->saved[slot] = torch_alias(t, x);
        node->saved[slot]->loose = 0;
        torch_mark(t, x, PYTORCH_ACTIVATION);
    }
}

/* Without recursion: a graph is as long as the model is deep. */
void torch_free_node(Torch *t, TorchNode *node)
{
    if (--node->refs)
        return;
    int outermost = !t->dying;
    node->next = t->dying;
    t->dying = node;
    while (outermost && t->dying) {
        TorchNode *dead = t->dying;
        for (int i = 0; i < dead->slots; i++)
            release_slot(t, dead, i);
        if (dead->context && dead->leaf)
            dead->leaf->node = NULL;
        torch_drop(t, dead->context);
        if (dead->call)
            segment_done(t, dead->call);
        for (int i = 0; i < dead->edges; i++) {
            TorchNode *to = dead->edge[i].node;
            if (to && !--to->refs) {
                to->next = dead->next;
                dead->next = to;
            }
        }
        t->dying = dead->next;
        dead->next = t->spare_nodes;
        t->spare_nodes = dead;
    }
}

/* ---- Backward -------------------------------------------------------------------------------- */

static void push(Torch *t, TorchNode *node)
{
    t->heap = torch_grow(t, t->heap, &t->heap_capacity, t->heap_count + 1, sizeof *t->heap);
    t->heap[t->heap_count++] = node;
}

/* The ready node that was recorded last. Few are ready at a time. */
static TorchNode *pop(Torch *t, size_t from)
{
    size_t best = from;
    for (size_t i = from + 1; i < t->heap_count; i++)
        if (t->heap[i]->order > t->heap[best]->order)
            best = i;
    TorchNode *node = t->heap[best];
    t->heap[best] = t->heap[--t->heap_count];
    return node;
}

static void count_waits(TorchNode *root, int run)
{
    TorchNode *work = root;
    root->next = NULL;
    root->seen = run;
    root->waits = 0;
    while (work) {
        TorchNode *node = work;
        work = node->next;
        for (int i = 0; i < node->edges; i++) {
            TorchNode *to = node->edge[i].node;
            if (!to)
                continue;
            if (to->seen != run) {
                to->seen = run;
                to->waits = 0;
                to->next = work;
                work = to;
            }
            to->waits++;
        }
    }
}

static void accumulate(Torch *t, TorchTensor *leaf, TorchTensor *g)
{
    const TorchShape *shape = &leaf->node->made[0]; /* its type may be another than the leaf's: grad_dtype */
    if (leaf->grad) {                               /* in place */
        torch_drop(t, g);
    } else if (g->refs == 1 && !memcmp(&g->shape, shape, sizeof g->shape)) { /* taken, and detached */
        leaf->grad = torch_alias(t, g);
        leaf->grad->loose = 0;
        torch_drop(t, g);
    } else {
        leaf->grad = torch_empty(t, "aten::clone", *shape);
        leaf->grad->loose = 0;
        torch_drop(t, g);
    }
    torch_mark(t, leaf->grad, PYTORCH_GRADIENT);
    if (t->accumulated)
        t->accumulated(t->accumulated_user, leaf);
}

static void recompute(Torch *t, TorchSegment *segment);

static void unpack(Torch *t, TorchNode *node)
{
    for (int i = 0; i < node->slots; i++) {
        TorchSegment *segment = node->segment[i];
        if (!segment)
            continue;
        if (!segment->recomputed)
            recompute(t, segment);
        TorchTensor **kept = &t->kept[segment->first + node->slot[i]];
        node->saved[i] = *kept;
        *kept = NULL;
    }
}

/* A gradient has the size and the type of what it is of. */
static TorchTensor *fitted(Torch *t, TorchTensor *d, const TorchShape *shape)
{
    int shared = d->refs > 1;
    TorchTensor *y = d;
    d->loose = !shared;
    if (!torch_same_size(&d->shape, shape))
        y = torch_sum_to(t, d, shape);
    if (y->shape.type != shape->type)
        y = torch_cast(t, y, shape->type);
    if (y != d && shared)
        torch_drop(t, d);
    y->loose = 0;
    return y;
}

/* In place where nobody else holds the old one. */
static TorchTensor *summed(Torch *t, TorchTensor *old, TorchTensor *more)
{
    TorchTensor *sum = old;
    if (old->refs > 1 || old->storage->refs > 1 || !torch_dense(&old->shape)) {
        sum = torch_add(t, old, more);
        torch_drop(t, old);
    }
    torch_drop(t, more);
    return sum;
}

static void run_node(Torch *t, TorchNode *node)
{
    TorchTensor *g[TORCH_OUTPUTS], *d[TORCH_EDGES] = {NULL};
    int defined = 0;
    for (int i = 0; i < TORCH_OUTPUTS; i++) {
        g[i] = node->g[i];
        node->g[i] = NULL;
        defined |= g[i] != NULL;
        if (g[i])
            g[i]->loose = 0;
    }
    t->place = node->place;
    if (node->before)
        node->before(node->before_user, node->which);
    if (node->leaf) {
        accumulate(t, node->leaf, g[0]);
        return;
    }
    if (defined) {
        unpack(t, node);
        t->place = node->place;
        node->backward(t, node, g, d);
        for (int i = 0; i < node->slots;
             i++) /* what was recomputed is the function's own, and dies with it */
            if (node->segment[i]) {
                torch_drop(t, node->saved[i]);
                node->saved[i] = NULL;
            }
    }
    for (int i = 0; i < node->edges; i++)
        if (d[i] && node->edge[i].node)
            d[i] = fitted(t, d[i], &node->edge[i].node->made[node->edge[i].output]);
    for (int i = 0; i < TORCH_OUTPUTS; i++)
        torch_drop(t, g[i]);
    for (int i = 0; i < node->slots; i++)
        release_slot(t, node, i);
    for (int i = 0; node->call && i < node->call->positional; i++) { /* saved too, if not by torch_save */
        torch_drop(t, node->call->also[i]);
        node->call->also[i] = NULL;
    }
    for (int i = 0; i < node->edges; i++) {
        TorchEdge to = node->edge[i];
        if (!to.node) {
            torch_drop(t, d[i]);
            continue;
        }
        TorchTensor **at = &to.node->g[to.output];
        if (d[i])
            *at = *at ? summed(t, *at, d[i]) : d[i];
        if (!--to.node->waits)
            push(t, to.node);
    }
}

void torch_backward(Torch *t, TorchTensor *loss, TorchTensor *gradient)
{
    static _Thread_local int runs; /* only told apart */
    if (!loss->node)
        return;
    int grad_mode = t->grad_mode;
    size_t from = t->heap_count;
    TorchPlace place = t->place;
    t->grad_mode = 0;
    t->in_backward++;
    count_waits(loss->node, ++runs);
    loss->node->g[loss->output] = torch_alias(t, gradient);
    push(t, loss->node);
    while (t->heap_count > from)
        run_node(t, pop(t, from));
    t->in_backward--;
    t->grad_mode = grad_mode;
    t->place = place;
}

/* ---- Checkpointing --------------------------------------------------------------------------- */

static TorchTensor *with_graph(Torch *t, TorchTensor *x)
{
    TorchTensor *y = torch_alias(t, x);
    y->loose = 0;
    y->needs_grad = x->needs_grad;
    y->output = x->output;
    y->node = x->node;
    if (y->node)
        y->node->refs++;
    return y;
}

/* Until the last tensor that was saved is there again. */
static void recompute(Torch *t, TorchSegment *segment)
{
    Torch old = *t;
    segment->recomputed = 1;
    t->grad_mode = 1;
    t->again++;
    t->place = segment->place;
    t->autocast = segment->autocast;
    t->replaying = segment;
    t->replayed = t->stopped = 0;
    size_t frame = torch_frame(t);
    torch_name(t, segment->function(t, segment->user, segment->x));
    torch_leave(t, frame, NULL);
    if (old.autocast == TORCH_F32)
        torch_autocast_end(t);
    t->again--;
    t->grad_mode = old.grad_mode;
    t->place = old.place;
    t->autocast = old.autocast;
    t->replaying = old.replaying;
    t->replayed = old.replayed;
    t->stopped = old.stopped;
}

static void again_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    TorchSegment *call = node->call;
    TorchTensor *x = torch_alias(t, node->saved[0]);
    TorchType autocast = t->autocast;
    t->autocast = call->autocast;
    size_t frame = torch_frame(t);
    x->needs_grad = 1;
    torch_name(t, x);
    t->grad_mode = 1;
    t->again++;
    TorchTensor *y = torch_name(t, call->function(t, call->user, x));
    if (autocast == TORCH_F32)
        torch_autocast_end(t);
    t->again--;
    t->grad_mode = 0;
    t->autocast = autocast;
    torch_backward(t, y, g[0]);
    d[0] = x->grad;
    x->grad = NULL;
    torch_leave(t, frame, NULL);
}

static TorchTensor *reentrant(Torch *t, TorchSegment *call, TorchTensor *x)
{
    TorchNode *node = torch_node(t, "CheckpointFunction", again_back, 1, &x);
    if (node)
        node->call = call;
    torch_save(t, node, 0, x);
    int grad_mode = t->grad_mode;
    t->grad_mode = 0;
    TorchTensor *y = call->function(t, call->user, x);
    t->grad_mode = grad_mode;
    if (!node)
        segment_done(t, call);
    return torch_made(t, node, 0, y);
}

TorchTensor *torch_checkpoint(Torch *t, TorchFunction *function, void *user, TorchTensor *x,
                              TorchTensor *const *also, int positional, int is_reentrant)
{
    if (!t->grad_mode)
        return function(t, user, x);
    TorchSegment *segment = torch_new_segment(t);
    *segment = (TorchSegment){.function = function,
                              .user = user,
                              .place = t->place,
                              .autocast = t->autocast,
                              .first = (int)t->kept_count};
    for (int i = 0; i < TORCH_ALSO; i++)
        segment->also[i] = also[i] ? torch_again(also[i]) : NULL;
    segment->positional = positional;
    if (is_reentrant)
        return reentrant(t, segment, x);
    segment->x = with_graph(t, x);
    torch_mark(t, x, PYTORCH_ACTIVATION);
    t->packing = segment;
    TorchTensor *y = function(t, user, x);
    t->packing = NULL;
    if (!segment->count)
        segment_done(t, segment);
    return y;
}
