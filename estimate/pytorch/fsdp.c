/* FSDP2: torch/distributed/fsdp/_fully_shard. fully_shard of each layer and then of the model, as its
 * documentation says; the first rank, which never has less than another.
 *
 * A group's parameters are there between its gather and its reshard: what they lie in is freed and allocated
 * again (untyped_storage().resize_), so that what autograd saved of them lives on without memory. */
#include <math.h>

#include "ranks_.h"

enum { MAIN, COPY_IN, REDUCE }; /* streams, in the order in which they first allocate */

/* ---- What the kernels read ------------------------------------------------------------------- */

enum { BLOCK_BYTES = 16 * 128, BLOCK_THREADS = 128 }; /* aten/src/ATen/native/cuda/TensorShape.cu */

static int64_t up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t part_bytes(const TorchShard *s, TorchType type)
{
    return torch_count(&s->part->shape) * torch_bytes(type);
}

/* split_with_sizes_copy_out_cuda_contiguous_no_cast: addresses twice, sizes, a number a block, and the blocks
 * before each. */
static int64_t split_numbers(const TorchJob *job, const TorchShardGroup *g)
{
    const TorchShard *s = job->sharded.shards + g->first;
    int64_t ranks = job->asked->ranks, blocks = 0, all = 0;
    for (size_t i = 0; i < g->count; i++)
        blocks += up(part_bytes(&s[i], s[i].type), BLOCK_BYTES);
    int64_t most = (int64_t)job->card.processors * job->card.threads / BLOCK_THREADS * 2;
    int64_t factor = up(blocks * ranks, most), each = (int64_t)ceil(sqrt((double)factor));
    int64_t repeats = up(factor, each < ranks ? each : ranks);
    for (size_t i = 0; i < g->count; i++)
        all += up(part_bytes(&s[i], s[i].type), BLOCK_BYTES * repeats);
    return 4 * (int64_t)g->count + 1 + all;
}

/* get_chunk_cat_metadata, of parameters with gradients */
static int64_t cat_numbers(const TorchJob *job, const TorchShardGroup *g, TorchType type)
{
    const TorchShard *s = job->sharded.shards + g->first;
    int64_t blocks = 0, count = 0;
    for (size_t i = 0; i < g->count; i++)
        if (s[i].x->grad) {
            blocks += up(part_bytes(&s[i], type), BLOCK_BYTES);
            count++;
        }
    return 6 * count + 2 + blocks;
}

/* ---- Sharding -------------------------------------------------------------------------------- */

static TorchType named_type(PytorchWeights named, TorchType otherwise)
{
    return named == PYTORCH_WEIGHTS_FP32   ? TORCH_F32
           : named == PYTORCH_WEIGHTS_BF16 ? TORCH_BF16
           : named == PYTORCH_WEIGHTS_FP16 ? TORCH_F16
                                           : otherwise;
}

static TorchShape part_of(const TorchShape *whole, int ranks)
{
    int64_t size[TORCH_DIMS];
    for (int i = 0; i < whole->dims; i++)
        size[i] = whole->size[i];
    size[0] = up(size[0], ranks);
    return torch_shape(whole->type, whole->dims, size);
}

static PytorchKind kind_of(const TorchJob *job, const TorchTensor *x)
{
    return x->needs_grad || !job->asked->lora_rank ? PYTORCH_PARAMETER : PYTORCH_FROZEN;
}

/* _move_states_to_device */
static void move(TorchJob *job, TorchTensor *x, PytorchKind kind)
{
    Torch *t = &job->torch;
    TorchPlace here = t->place;
    t->place = x->place;
    torch_restore_storage(t, "aten::_to_copy", x, torch_count(&x->shape) * torch_bytes(x->shape.type), kind);
    t->place = here;
}

static void list_shard(TorchJob *job, TorchTensor *x)
{
    TorchSharded *s = &job->sharded;
    s->shards = torch_grow(&job->torch, s->shards, &s->shard_capacity, s->shard_count + 1, sizeof *s->shards);
    s->shards[s->shard_count++] =
        (TorchShard){.x = x, .type = named_type(job->asked->gathered, x->shape.type)};
    move(job, x, kind_of(job, x));
}

/* The part becomes what the optimizer has. */
static void cut(TorchJob *job, TorchShard *s)
{
    Torch *t = &job->torch;
    TorchPlace here = t->place;
    TorchTensor *x = s->x;
    t->place = x->place;
    s->part = torch_leaf(t, "aten::new_empty", kind_of(job, x), part_of(&x->shape, job->asked->ranks),
                         x->needs_grad);
    t->place = here;
    for (size_t i = 0; i < job->parameter_count; i++)
        if (job->parameters[i] == x)
            job->parameters[i] = s->part;
}

static int is_own(const TorchJob *job, const TorchTensor *x)
{
    for (size_t i = 0; i < job->entry_count; i++)
        if (job->entries[i].x == x)
            return job->entries[i].own;
    return 0;
}

/* Its parameters, a module's own after those of the modules below it, and its buffers come to the card; what
 * this rank keeps is copied, and the rest goes. */
static void add_group(TorchJob *job, int64_t group)
{
    Torch *t = &job->torch;
    TorchSharded *s = &job->sharded;
    TorchShardGroup *g = &s->groups[group];
    size_t parameters = job->all_state_count - job->buffer_count;
    *g = (TorchShardGroup){.first = s->shard_count};
    for (int own = 0; own < 2; own++)
        for (size_t i = 0; i < parameters; i++)
            if (job->all_states[i]->place.layer + 1 == group && is_own(job, job->all_states[i]) == own)
                list_shard(job, job->all_states[i]);
    for (size_t i = parameters; i < job->all_state_count; i++)
        if (job->all_states[i]->place.layer + 1 == group)
            move(job, job->all_states[i], PYTORCH_BUFFER);
    g->count = s->shard_count - g->first;
    for (size_t i = g->first; i < s->shard_count; i++)
        cut(job, &s->shards[i]);
    for (size_t i = g->first; i < s->shard_count; i++) {
        torch_release_storage(t, s->shards[i].x);
        s->shards[i].x->shape.type = s->shards[i].type;
    }
}

void torch_shard(TorchJob *job)
{
    TorchSharded *s = &job->sharded;
    int64_t layers = job->asked->model.layers;
    torch_list_states(job);
    s->groups = torch_grow(&job->torch, s->groups, &s->group_capacity, (size_t)layers + 1, sizeof *s->groups);
    s->group_count = (size_t)layers + 1;
    for (int64_t group = 1; group <= layers; group++)
        add_group(job, group);
    add_group(job, 0);
}

/* ---- Gathering ------------------------------------------------------------------------------- */

static TorchTensor *flat(Torch *t, const char *op, uint64_t stream, int64_t bytes)
{
    t->event.stream = stream;
    TorchTensor *x = torch_bytes_of(t, op, bytes);
    t->event.stream = MAIN;
    x->loose = 0;
    torch_mark(t, x, PYTORCH_BUCKET);
    return x;
}

/* FSDPParamGroup.unshard: what this rank has is copied into its place, in the type that is sent. */
static void unshard(TorchJob *job, TorchShardGroup *g)
{
    Torch *t = &job->torch;
    int64_t bytes = 0, cast = 0;
    if (g->gathered || g->whole)
        return;
    for (size_t i = g->first; i < g->first + g->count; i++) {
        const TorchShard *s = &job->sharded.shards[i];
        bytes += part_bytes(s, s->type);
        cast += s->type != s->part->shape.type ? part_bytes(s, s->type) : 0;
    }
    TorchTensor *copy = cast ? flat(t, "aten::empty", COPY_IN, cast) : NULL;
    g->gathered = flat(t, "fsdp::all_gather_copy_in", COPY_IN, bytes * job->asked->ranks);
    torch_drop(t, copy);
}

/* FSDPParamGroup.wait_for_unshard: in the forward pass what was gathered lives until the next gather. */
static void wait_for_unshard(TorchJob *job, TorchShardGroup *g, int forward)
{
    Torch *t = &job->torch;
    TorchSharded *s = &job->sharded;
    TorchPlace here = t->place;
    if (!g->gathered)
        return;
    if (forward) {
        torch_drop(t, s->last);
        s->last = NULL;
    }
    for (size_t i = g->first; i < g->first + g->count; i++) {
        t->place = s->shards[i].part->place;
        torch_restore_storage(t, "fsdp::all_gather_copy_out", s->shards[i].x,
                              part_bytes(&s->shards[i], s->shards[i].type) * job->asked->ranks,
                              PYTORCH_BUCKET);
    }
    t->place = here;
    torch_scratch(t, "fsdp::split_with_sizes_copy", 8 * split_numbers(job, g));
    g->whole = 1;
    if (forward)
        s->last = g->gathered;
    else
        torch_drop(t, g->gathered);
    g->gathered = NULL;
}

static void reshard(TorchJob *job, TorchShardGroup *g)
{
    for (size_t i = g->first; g->whole && i < g->first + g->count; i++)
        torch_release_storage(&job->torch, job->sharded.shards[i].x);
    g->whole = 0;
}

/* ---- Reducing -------------------------------------------------------------------------------- */

static void drop_gradients(TorchJob *job, TorchShardGroup *g)
{
    for (size_t i = g->first; i < g->first + g->count; i++) {
        TorchShard *s = &job->sharded.shards[i];
        s->had_gradient = s->x->grad != NULL;
        torch_drop(&job->torch, s->x->grad);
        s->x->grad = NULL;
    }
}

static void give_parts(TorchJob *job, TorchShardGroup *g, TorchTensor *output)
{
    Torch *t = &job->torch;
    for (size_t i = g->first; i < g->first + g->count; i++) {
        TorchShard *s = &job->sharded.shards[i];
        if (!s->had_gradient || s->part->grad) /* the latter: added in place */
            continue;
        s->part->grad = torch_alias(t, output);
        s->part->grad->shape = s->part->shape;
        s->part->grad->loose = 0;
    }
}

/* The type of the parameters that are trained, in which their sums are too where nothing else is asked. */
static TorchType trained_type(const TorchJob *job, const TorchShardGroup *g)
{
    for (size_t i = g->first; i < g->first + g->count; i++)
        if (job->sharded.shards[i].x->grad)
            return job->sharded.shards[i].part->shape.type;
    return TORCH_F32;
}

/* foreach_reduce */
static void reduce(TorchJob *job, TorchShardGroup *g)
{
    Torch *t = &job->torch;
    TorchType trained = trained_type(job, g), type = named_type(job->asked->reduced, trained);
    int64_t count = 0;
    for (size_t i = g->first; i < g->first + g->count; i++)
        if (job->sharded.shards[i].x->grad)
            count += torch_count(&job->sharded.shards[i].part->shape);
    if (!count)
        return;
    TorchTensor *input = flat(t, "aten::empty", MAIN, count * torch_bytes(type) * job->asked->ranks);
    torch_scratch(t, "aten::_chunk_cat", 8 * cat_numbers(job, g, type));
    drop_gradients(job, g);
    TorchTensor *output = flat(t, "aten::empty", REDUCE, count * torch_bytes(type));
    if (type != trained) {
        TorchTensor *cast = flat(t, "aten::_to_copy", REDUCE, count * torch_bytes(trained));
        torch_drop(t, output);
        output = cast;
    }
    torch_mark(t, output, PYTORCH_GRADIENT);
    give_parts(job, g, output);
    torch_drop(t, output);
    job->sharded.sent = input;
}

/* FSDPParamGroup.post_backward */
static void post_backward(TorchJob *job, TorchShardGroup *g)
{
    g->waits = 0;
    reshard(job, g);
    if (!job->synchronizes)
        return;
    torch_drop(&job->torch, job->sharded.sent);
    job->sharded.sent = NULL;
    reduce(job, g);
}

/* ---- Hooks ----------------------------------------------------------------------------------- */

/* The gradient of the group's output is there: its weights come, and those of the layer before it are asked
 * for. */
static void pre_backward(void *user, int64_t which)
{
    TorchJob *job = user;
    TorchSharded *s = &job->sharded;
    TorchShardGroup *g = &s->groups[which];
    if (g->waits)
        return;
    g->waits = 1;
    for (size_t i = g->first; i < g->first + g->count; i++) {
        const TorchShard *shard = &s->shards[i];
        TorchType own = shard->part->shape.type; /* of gradients that are summed here first */
        int wide = !job->synchronizes && !shard->x->grad && torch_bytes(shard->type) < torch_bytes(own);
        if (shard->x->node)
            shard->x->node->made[0].type = wide ? own : shard->type;
    }
    unshard(job, g);
    wait_for_unshard(job, g, 0);
    if (which != 1) /* the first layer is the first to end its forward pass */
        unshard(job, &s->groups[which ? which - 1 : (int64_t)s->group_count - 1]);
}

static void register_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    (void)t;
    TorchJob *job = node->user;
    post_backward(job, &job->sharded.groups[node->n[0]]);
    d[0] = torch_again(g[0]);
}

static void hook(TorchJob *job, TorchTensor *output, int64_t which)
{
    if (!output->node)
        return;
    output->node->before = pre_backward;
    output->node->before_user = job;
    output->node->which = which;
}

TorchTensor *torch_sharded_layer(Torch *t, void *user, TorchTensor *x)
{
    TorchJob *job = user;
    TorchSharded *s = &job->sharded;
    int64_t which = t->place.layer + 1;
    TorchShardGroup *g = &s->groups[which];
    size_t frame = torch_frame(t);
    torch_name(t, x);
    if (job->asked->gathered) /* cast_forward_inputs */
        x = torch_name(t, torch_cast(t, x, named_type(job->asked->gathered, x->shape.type)));
    if (t->again) /* the hooks see a backward pass, which has gathered the weights */
        return torch_leave(t, frame, s->layer(t, user, x));
    unshard(job, g);
    wait_for_unshard(job, g, 1);
    TorchNode *node = torch_node(t, "RegisterPostBackwardFunction", register_back, 1, &x);
    TorchTensor *argument = x;
    if (node) {
        node->user = job;
        node->n[0] = which;
        argument = torch_name(t, torch_made(t, node, 0, torch_alias(t, x)));
    }
    TorchTensor *y = s->layer(t, user, argument);
    if (!job->asked->keep_gathered)
        reshard(job, g);
    hook(job, y, which);
    return torch_leave(t, frame, y);
}

void torch_shard_before_forward(TorchJob *job)
{
    unshard(job, &job->sharded.groups[0]);
    wait_for_unshard(job, &job->sharded.groups[0], 1);
}

/* The model itself keeps its weights for the backward pass. */
void torch_shard_after_forward(TorchJob *job, TorchTensor *loss)
{
    hook(job, loss, 0);
    torch_drop(&job->torch, job->sharded.last);
    job->sharded.last = NULL;
}

/* _root_post_backward_final_callback: the groups whose inputs had no gradients, the model first */
void torch_shard_after_backward(TorchJob *job)
{
    TorchSharded *s = &job->sharded;
    for (size_t i = 0; i < s->group_count; i++)
        if (s->groups[i].waits)
            post_backward(job, &s->groups[i]);
    torch_drop(&job->torch, s->sent);
    s->sent = NULL;
}
