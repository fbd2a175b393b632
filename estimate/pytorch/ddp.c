/* DistributedDataParallel: torch/nn/parallel/distributed.py, and reducer.cpp of c10d. NCCL works in place or
 * into what is listed here; its own buffers never come from PyTorch's allocator. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ranks_.h"

enum { FIRST_BUCKET = 1 << 20, BUCKET = 25 << 20 }; /* kDefaultFirstBucketBytes, _DEFAULT_BUCKET_CAP_MB */
enum { BROADCAST = 250 << 20 };                     /* broadcast_bucket_size */
enum { IN_FLIGHT = 2 };                             /* broadcasts of broadcast_coalesced */
enum { TYPES = TORCH_BOOL + 1 };

/* ---- compute_bucket_assignment_by_size ------------------------------------------------------- */

/* The buckets that are being filled, one a type. */
typedef struct Assignment {
    TorchBuckets *to;
    TorchBucket open[TYPES];
    int order[TYPES], kinds; /* types: the last met first, as a hash table of few keys has them */
    int closed[TYPES];       /* buckets of a type */
    size_t begun;
} Assignment;

static void close_bucket(Torch *t, Assignment *a, int type)
{
    TorchBuckets *to = a->to;
    to->items = torch_grow(t, to->items, &to->capacity, to->count + 1, sizeof *to->items);
    to->items[to->count++] = a->open[type];
    a->open[type].count = 0;
    a->closed[type]++;
}

static void meet(Assignment *a, int type)
{
    for (int i = 0; i < a->kinds; i++)
        if (a->order[i] == type)
            return;
    memmove(a->order + 1, a->order, (size_t)a->kinds++ * sizeof *a->order);
    a->order[0] = type;
}

static void put(Torch *t, Assignment *a, TorchTensor *x, int64_t first, int64_t limit)
{
    TorchBuckets *to = a->to;
    int type = (int)x->shape.type;
    TorchBucket *open = &a->open[type];
    meet(a, type);
    if (!open->count)
        *open = (TorchBucket){.type = x->shape.type, .number = a->begun++, .first = to->member_count};
    to->members = torch_grow(t, to->members, &to->member_capacity, to->member_count + 1, sizeof *to->members);
    to->members[to->member_count++] = (TorchMember){x, open->number};
    open->bytes += torch_count(&x->shape) * torch_bytes(x->shape.type);
    open->count++;
    if (open->bytes >= (a->closed[type] ? limit : first))
        close_bucket(t, a, type);
}

static int by_first(const void *a, const void *b)
{
    const TorchBucket *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* The first bucket of a type has another limit than the rest. `sorted`: by the first tensor in each. */
static void assign(Torch *t, TorchBuckets *to, TorchTensor *const *x, size_t count, int64_t first,
                   int64_t limit, int sorted)
{
    Assignment a = {.to = to};
    to->count = to->member_count = 0;
    for (size_t i = 0; i < count; i++)
        put(t, &a, x[i], first, limit);
    for (int i = 0; i < a.kinds; i++)
        if (a.open[a.order[i]].count)
            close_bucket(t, &a, a.order[i]);
    if (sorted && to->count)
        qsort(to->items, to->count, sizeof *to->items, by_first);
}

/* ---- What is sent ---------------------------------------------------------------------------- */

/* verify_params_across_processes: how many parameters each rank has, and the shapes of rank 0's */
static void verify(TorchJob *job)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    int64_t numbers = 0;
    torch_name(t, torch_bytes_of(t, "aten::_to_copy", 8));
    for (int rank = 0; rank < job->asked->ranks; rank++)
        torch_name(t, torch_bytes_of(t, "aten::empty_like", 8));
    for (size_t i = 0; i < job->parameter_count; i++)
        numbers += 2 * job->parameters[i]->shape.dims;
    torch_name(t, torch_bytes_of(t, "aten::_to_copy", 8 * numbers));
    torch_leave(t, frame, NULL);
}

static TorchTensor *flat(Torch *t, const char *op, int64_t bytes)
{
    TorchTensor *x = torch_bytes_of(t, op, bytes);
    x->loose = 0;
    torch_mark(t, x, PYTORCH_BUCKET);
    return x;
}

/* broadcast_coalesced: flat copies, two at a time; a tensor alone is sent as it is. */
static void broadcast(TorchJob *job, TorchTensor *const *x, size_t count)
{
    Torch *t = &job->torch;
    TorchBuckets *sent = &job->reducer.sent;
    TorchTensor *flying[IN_FLIGHT] = {NULL};
    assign(t, sent, x, count, BROADCAST, BROADCAST, 1);
    for (size_t i = 0; i < sent->count; i++) {
        TorchTensor **at = &flying[i % IN_FLIGHT];
        torch_drop(t, *at);
        *at = sent->items[i].count > 1 ? flat(t, "aten::cat", sent->items[i].bytes) : NULL;
    }
    for (size_t i = 0; i < IN_FLIGHT; i++)
        torch_drop(t, flying[(sent->count + i) % IN_FLIGHT]);
}

/* ---- Buckets --------------------------------------------------------------------------------- */

/* x.grad becomes a part of the bucket. */
static void view_bucket(Torch *t, TorchTensor *x, const TorchBucket *bucket)
{
    torch_drop(t, x->grad);
    x->grad = torch_alias(t, bucket->contents);
    x->grad->shape = x->shape;
    x->grad->loose = 0;
}

static TorchBucket *bucket_of(const TorchBuckets *b, const TorchTensor *x)
{
    for (size_t m = 0; m < b->member_count; m++)
        for (size_t i = 0; b->members[m].x == x && i < b->count; i++)
            if (b->items[i].number == b->members[m].bucket)
                return &b->items[i];
    return NULL;
}

/* Reducer::initialize_buckets. Gradients that are views of old buckets move to the new ones. */
static void make_buckets(TorchJob *job)
{
    Torch *t = &job->torch;
    TorchBuckets *reduced = &job->reducer.reduced;
    for (size_t i = 0; i < reduced->count; i++) {
        TorchBucket *b = &reduced->items[i];
        b->contents = flat(t, "aten::empty", b->bytes);
        for (size_t m = 0; job->asked->bucket_view && m < reduced->member_count; m++) {
            TorchTensor *x = reduced->members[m].x;
            if (reduced->members[m].bucket == b->number && x->grad)
                view_bucket(t, x, b);
        }
    }
}

static void drop_buckets(TorchJob *job)
{
    TorchBuckets *reduced = &job->reducer.reduced;
    for (size_t i = 0; i < reduced->count; i++)
        torch_drop(&job->torch, reduced->items[i].contents);
}

/* Reducer::rebuild_buckets: in the order of the gradients, which is told to the other ranks. */
static void rebuild(TorchJob *job)
{
    Torch *t = &job->torch;
    TorchReducer *r = &job->reducer;
    size_t frame = torch_frame(t);
    TorchBuckets old = r->reduced;
    if (r->rebuilt || !r->ready_count || job->finds_unused)
        return;
    r->rebuilt = 1;
    assign(t, &r->sent, r->ready, r->ready_count, FIRST_BUCKET, BUCKET, 0);
    torch_name(t, torch_bytes_of(t, "aten::empty", 4 * ((int64_t)r->ready_count + 1)));
    torch_name(t, torch_bytes_of(t, "aten::empty", 4 * (int64_t)r->sent.count));
    torch_leave(t, frame, NULL);
    drop_buckets(job);
    r->reduced = r->sent;
    r->sent = old;
    make_buckets(job);
}

/* Reducer::autograd_hook */
static void accumulated(void *user, TorchTensor *leaf)
{
    TorchJob *job = user;
    Torch *t = &job->torch;
    TorchReducer *r = &job->reducer;
    const TorchBucket *bucket = job->synchronizes ? bucket_of(&r->reduced, leaf) : NULL;
    if (!bucket)
        return;
    if (!r->rebuilt && !job->finds_unused) {
        r->ready = torch_grow(t, r->ready, &r->ready_capacity, r->ready_count + 1, sizeof *r->ready);
        r->ready[r->ready_count++] = leaf;
    }
    if (job->asked->bucket_view)
        view_bucket(t, leaf, bucket);
}

/* ---- The wrapper ----------------------------------------------------------------------------- */

static void reverse(TorchBuckets *b)
{
    for (size_t i = 0; i < b->count / 2; i++) {
        TorchBucket x = b->items[i];
        b->items[i] = b->items[b->count - 1 - i];
        b->items[b->count - 1 - i] = x;
    }
}

void torch_ddp_wrap(TorchJob *job)
{
    Torch *t = &job->torch;
    TorchReducer *r = &job->reducer;
    int64_t first = job->finds_unused ? FIRST_BUCKET : INT64_MAX;
    int64_t limit = job->finds_unused ? BUCKET : INT64_MAX;
    torch_list_states(job);
    verify(job);
    broadcast(job, job->all_states, job->all_state_count);
    assign(t, &r->reduced, job->parameters, job->parameter_count, first, limit, 1);
    reverse(&r->reduced);
    make_buckets(job);
    if (job->finds_unused)
        r->used = flat(t, "aten::empty", 4 * (int64_t)job->parameter_count);
    t->accumulated = accumulated;
    t->accumulated_user = job;
}

void torch_ddp_before_forward(TorchJob *job)
{
    TorchReducer *r = &job->reducer;
    if (job->torch.grad_mode)
        rebuild(job);
    if (!r->unsynchronized)
        broadcast(job, job->buffers, job->buffer_count);
    r->unsynchronized = !job->torch.grad_mode || !job->synchronizes;
}

static void sink_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    (void)t;
    for (int i = 0; i < node->outputs; i++)
        d[i] = g[i] ? torch_again(g[i]) : NULL;
}

/* _DDPSink: where unused parameters are looked for, each tensor of the output is a copy that runs through it;
 * a cache is no tensor. */
TorchTensor *torch_ddp_after_forward(TorchJob *job, TorchTensor *loss)
{
    Torch *t = &job->torch;
    if (!job->finds_unused)
        return loss;
    size_t frame = torch_frame(t);
    TorchTensor **logits = job->held_count ? &job->held[job->held_count - 1] : NULL;
    TorchTensor *x[2] = {torch_name(t, loss), logits ? *logits : NULL}, *y[2] = {NULL};
    TorchNode *node = torch_node(t, "_DDPSink", sink_back, logits ? 2 : 1, x);
    for (int i = 0; i < 2 && x[i]; i++)
        y[i] = torch_made(t, node, i, torch_empty(t, "aten::clone", x[i]->shape));
    if (node && logits) {
        *logits = y[1];
        y[1]->loose = 0;
        torch_drop(t, x[1]);
    } else {
        torch_used(t, y[1]);
    }
    if (!node) {
        torch_used(t, y[0]);
        return torch_leave(t, frame, loss);
    }
    torch_leave(t, frame, NULL);
    return y[0];
}

void torch_ddp_after_backward(TorchJob *job)
{
    job->synchronizes = 0;
}
