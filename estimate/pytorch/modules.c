/* Modules that families share, as transformers writes them. */
#include "../../memtrack/memtrack.h"
#include "job_.h"

TorchPlace torch_enter(Torch *t, const char *module)
{
    TorchPlace old = t->place;
    t->place.module = module;
    return old;
}

void *torch_make_model(TorchJob *job, size_t bytes)
{
    job->model_bytes = bytes;
    job->model = memtrack_host_calloc(NULL, bytes);
    if (!job->model)
        longjmp(job->torch.failed, 1);
    return job->model;
}

/* ---- Conv1D --------------------------------------------------------------------------------- */

TorchTensor *torch_conv(Torch *t, const TorchLinear *c, TorchTensor *x)
{
    size_t frame = torch_frame(t);
    int64_t B = x->shape.size[0], S = x->shape.size[1], in = x->shape.size[2], out = c->weight->shape.size[1];
    torch_name(t, x);
    TorchTensor *rows = torch_view(t, x, 2, (int64_t[]){B * S, in});
    TorchTensor *y = torch_addmm(t, c->bias, rows, c->weight);
    return torch_leave(t, frame, torch_view(t, y, 3, (int64_t[]){B, S, out}));
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

void torch_look_for_padding(Torch *t, const TorchTensor *ids)
{
    int64_t ends[] = {ids->shape.size[0], 2};
    TorchTensor *places = torch_bytes_of(t, "aten::_to_copy", 16);
    TorchTensor *found = torch_empty(t, "aten::index", torch_shape(TORCH_I64, 2, ends));
    torch_drop(t, places);
    TorchTensor *equal = torch_empty(t, "aten::eq", torch_shape(TORCH_BOOL, 2, ends));
    torch_scratch(t, "aten::any", 1);
    torch_drop(t, equal);
    torch_drop(t, found);
}

/* ---- Norm ------------------------------------------------------------------------------------ */

TorchTensor *torch_rms_norm(Torch *t, TorchTensor *x, TorchTensor *weight)
{
    size_t frame = torch_frame(t);
    TorchType type = x->shape.type;
    torch_name(t, x); /* a module's arguments live as long as its call */
    TorchTensor *h = torch_name(t, torch_cast(t, x, TORCH_F32));
    TorchTensor *variance = torch_name(t, torch_mean_last(t, torch_pow(t, h, 2)));
    h = torch_rebind(t, h, torch_mul(t, h, torch_rsqrt(t, torch_plus(t, variance))));
    return torch_leave(t, frame, torch_mul(t, weight, torch_cast(t, h, type)));
}

TorchTensor *torch_norm(Torch *t, const char *module, const TorchNorm *norm, TorchTensor *x)
{
    TorchPlace up = torch_enter(t, module);
    TorchTensor *y = torch_layer_norm(t, x, norm->weight, norm->bias);
    t->place = up;
    return y;
}

/* ---- Layers ---------------------------------------------------------------------------------- */

TorchTensor *torch_layer(TorchJob *job, TorchFunction *layer, TorchTensor *x, TorchTensor *const *also,
                         int positional)
{
    PytorchCheckpoint how = job->asked->checkpoint;
    if (job->asked->parallel == PYTORCH_FSDP2) {
        job->sharded.layer = layer;
        layer = torch_sharded_layer;
    }
    if (how == PYTORCH_KEEP)
        return layer(&job->torch, job, x);
    return torch_checkpoint(&job->torch, layer, job, x, also, positional,
                            how == PYTORCH_CHECKPOINT_REENTRANT);
}

/* ---- Loss ------------------------------------------------------------------------------------ */

void torch_hold(TorchJob *job, TorchTensor *x)
{
    job->held =
        torch_grow(&job->torch, job->held, &job->held_capacity, job->held_count + 1, sizeof *job->held);
    x->refs++;
    job->held[job->held_count++] = x;
}

/* The logits are cut by one and copied, as the labels are. `own`: GPT-2's loss, in the logits' type. */
static TorchTensor *loss_of_moved(TorchJob *job, TorchTensor *logits, TorchTensor *labels, int own)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    int64_t seq = labels->shape.size[1], vocab = job->asked->model.vocab;
    int64_t flat = labels->shape.size[0] * (seq - 1), rows[] = {flat, vocab};
    TorchTensor *x = torch_name(t, own ? logits : torch_cast(t, logits, TORCH_F32));
    TorchTensor *cut = torch_all_of(t, torch_slice(t, x, 1, 0, seq - 1), 2, 3); /* [..., :-1, :] */
    TorchTensor *moved = torch_name(t, torch_make_contiguous(t, cut));
    TorchTensor *next = torch_name(t, torch_make_contiguous(t, torch_slice(t, labels, 1, 1, seq)));
    moved = torch_rebind(t, moved, torch_view(t, moved, 2, rows));
    next = torch_rebind(t, next, torch_view(t, next, 1, &flat));
    TorchTensor *loss = torch_name(t, torch_cross_entropy(t, moved, next));
    if (job->counted && !own)
        loss = torch_rebind(t, loss, torch_divide(t, loss));
    if (job->items && !own)
        loss = torch_rebind(t, loss, torch_divide_by(t, loss, job->items));
    return torch_leave(t, frame, loss);
}

/* ForCausalLMLoss: the labels are padded by one and moved, not the logits. */
TorchTensor *torch_causal_loss(TorchJob *job, TorchTensor *logits, TorchTensor *labels)
{
    Torch *t = &job->torch;
    const TransformersEra *era = t->dialect->transformers;
    if (era->moved_logits)
        return loss_of_moved(job, logits, labels,
                             era->gpt2_plain_loss && job->asked->model.family == PYTORCH_GPT2);
    size_t frame = torch_frame(t);
    int64_t batch = labels->shape.size[0], seq = labels->shape.size[1], vocab = job->asked->model.vocab;
    TorchTensor *x = torch_name(t, torch_cast(t, logits, TORCH_F32));
    int64_t wider[] = {batch, seq + 1}, rows[] = {batch * seq, vocab}, flat = batch * seq;
    TorchTensor *padded =
        torch_name(t, torch_empty(t, "aten::constant_pad_nd", torch_shape(TORCH_I64, 2, wider)));
    TorchTensor *moved = torch_name(t, torch_make_contiguous(t, torch_slice(t, padded, 1, 1, seq + 1)));
    x = torch_rebind(t, x, torch_view(t, x, 2, rows));
    moved = torch_rebind(t, moved, torch_view(t, moved, 1, &flat));
    TorchTensor *loss = torch_name(t, torch_cross_entropy(t, x, moved));
    if (job->items)
        loss = torch_rebind(t, loss, torch_divide_by(t, loss, job->items));
    return torch_leave(t, frame, loss);
}

TorchTensor *torch_positions(Torch *t, int64_t seq)
{
    TorchTensor *x = torch_empty(t, "aten::arange", torch_shape(TORCH_I64, 1, &seq));
    return t->dialect->transformers->cache_positions ? x : torch_plus(t, x);
}

/* ---- Attention ------------------------------------------------------------------------------- */

TorchTensor *torch_all_of(Torch *t, TorchTensor *x, int from, int to)
{
    for (int i = from; t->dialect->torch->slices_all && i < to; i++)
        x = torch_slice(t, x, i, 0, x->shape.size[i]);
    return x;
}

/* The copy that the cache's layer keeps of the window's size. */
static void hold_window(TorchJob *job)
{
    TorchTensor *size = torch_empty(&job->torch, "aten::_to_copy", torch_shape(TORCH_I64, 0, NULL));
    torch_hold(job, size);
    torch_drop(&job->torch, size);
}

void torch_cache(TorchJob *job, TorchTensor **keys, TorchTensor **values)
{
    Torch *t = &job->torch;
    const TransformersEra *era = t->dialect->transformers;
    if (!job->caches)
        return;
    if (!era->cache_as_it_is) {
        if (job->asked->model.window && !era->no_window_number)
            hold_window(job);
        TorchType type = (era->cache_of_keys ? *keys : *values)->shape.type;
        TorchTensor *all_keys = torch_name(t, torch_cat(t, 2, 1, keys));
        TorchTensor *all_values = torch_name(t, torch_cat_as(t, type, 2, 1, values));
        torch_delete(t, *keys);
        torch_delete(t, *values);
        *keys = all_keys;
        *values = all_values;
    }
    torch_hold(job, *keys);
    torch_hold(job, *values);
}

TorchTensor *torch_repeat_kv(Torch *t, TorchTensor *x, int64_t repeats)
{
    if (repeats == 1)
        return x;
    const TorchShape *s = &x->shape;
    int64_t wide[] = {s->size[0], s->size[1], repeats, s->size[2], s->size[3]};
    int64_t flat[] = {s->size[0], s->size[1] * repeats, s->size[2], s->size[3]};
    x = torch_all_of(t, torch_unsqueeze(t, torch_all_of(t, x, 0, 2), 2), 3, 5);
    return torch_reshape(t, torch_expand(t, x, 5, wide), 4, flat);
}

TorchTensor *torch_sdpa(Torch *t, TorchTensor *q, TorchTensor *k, TorchTensor *v, TorchTensor *mask,
                        int64_t repeats, double dropout)
{
    const TransformersEra *era = t->dialect->transformers;
    size_t frame = torch_frame(t);
    if ((mask || era->repeats_keys) && repeats > 1) {
        k = torch_name(t, torch_repeat_kv(t, k, repeats));
        v = torch_name(t, torch_repeat_kv(t, v, repeats));
    }
    if (era->copies_heads) {
        q = torch_name(t, torch_make_contiguous(t, q));
        k = torch_name(t, torch_make_contiguous(t, k));
        v = torch_name(t, torch_make_contiguous(t, v));
    }
    TorchTensor *y = torch_name(t, torch_attention(t, q, k, v, mask, 1, dropout));
    return torch_leave(t, frame, torch_make_contiguous(t, torch_transpose(t, y, 1, 2)));
}
