/* Causal masks of numbers, as transformers made them before masking_utils.py. */
#include "job_.h"

typedef struct Maker {
    Torch *t;
    int64_t batch, queries, keys;
    TorchType type;
} Maker;

/* (queries,keys) */
static TorchTensor *square(const Maker *m, const char *op, TorchType type)
{
    return torch_empty(m->t, op, torch_shape(type, 2, (int64_t[]){m->queries, m->keys}));
}

/* (batch,1,queries,keys) */
static TorchTensor *whole(const Maker *m, const char *op, TorchType type)
{
    return torch_empty(m->t, op, torch_shape(type, 4, (int64_t[]){m->batch, 1, m->queries, m->keys}));
}

static TorchTensor *line(const Maker *m, const char *op, int64_t count)
{
    return torch_empty(m->t, op, torch_shape(TORCH_I64, 1, &count));
}

/* mask[None, None].expand(batch, 1, -1, -1) */
static TorchTensor *expanded(const Maker *m, TorchTensor *mask)
{
    TorchTensor *x = torch_unsqueeze(m->t, torch_unsqueeze(m->t, mask, 0), 0);
    return torch_expand(m->t, x, 4, (int64_t[]){m->batch, 1, m->queries, m->keys});
}

/* AttentionMaskConverter._unmask_unattended: mask.mul(~torch.all(mask == lowest, dim=-1, keepdim=True)) */
static TorchTensor *unmask(const Maker *m, TorchTensor *mask)
{
    Torch *t = m->t;
    size_t frame = torch_frame(t);
    int64_t rows[] = {m->batch, 1, m->queries, 1};
    torch_name(t, mask);
    TorchTensor *lowest = whole(m, "aten::eq", TORCH_BOOL);
    TorchTensor *all = torch_empty(t, "aten::all", torch_shape(TORCH_BOOL, 4, rows));
    torch_reduction_scratch(t, m->batch * m->queries, m->keys, 1, TORCH_BOOL);
    torch_drop(t, lowest);
    TorchTensor *kept = torch_empty(t, "aten::bitwise_not", torch_shape(TORCH_BOOL, 4, rows));
    torch_drop(t, all);
    TorchTensor *y = whole(m, "aten::mul", m->type);
    torch_drop(t, kept);
    return torch_leave(t, frame, y);
}

/* ---- Decoders -------------------------------------------------------------------------------- */

/* arange(keys) > positions, and with a window whatever lies before it; both named in the caller's frame */
static TorchTensor *masked(const Maker *m, int64_t window)
{
    Torch *t = m->t;
    TorchTensor *places = line(m, "aten::arange", m->keys);
    TorchTensor *after = torch_name(t, square(m, "aten::gt", TORCH_BOOL));
    torch_drop(t, places);
    if (!window)
        return after;
    places = line(m, "aten::arange", m->keys);
    TorchTensor *from = line(m, "aten::sub", m->queries);
    torch_name(t, square(m, "aten::le", TORCH_BOOL)); /* sliding_attend_mask */
    torch_drop(t, places);
    torch_drop(t, from);
    return after;
}

/* _prepare_4d_causal_attention_mask_with_cache_position */
static TorchTensor *with_positions(const Maker *m, int given, int64_t window, int slides)
{
    Torch *t = m->t;
    size_t frame = torch_frame(t);
    TorchTensor *mask = torch_name(t, square(m, "aten::full", m->type));
    if (slides) {
        masked(m, window); /* diagonal_attend_mask, a local variable */
    } else {
        if (m->queries != 1)
            mask = torch_rebind(t, mask, square(m, "aten::triu", m->type));
        torch_delete(t, masked(m, 0));
    }
    mask = torch_rebind(t, mask, expanded(m, mask));
    if (given) { /* what the padding hides too, in a copy */
        mask = torch_rebind(t, mask, torch_clone(t, mask, 0));
        TorchTensor *hides = torch_name(t, whole(m, "aten::add", m->type));
        torch_rebind(t, hides, whole(m, "aten::eq", TORCH_BOOL));
        torch_drop(t, whole(m, "aten::masked_fill", m->type));
    }
    return torch_leave(t, frame, mask);
}

/* ---- GPT-2 ----------------------------------------------------------------------------------- */

/* AttentionMaskConverter._make_causal_mask */
static TorchTensor *causal(const Maker *m)
{
    Torch *t = m->t;
    size_t frame = torch_frame(t);
    TorchTensor *mask = torch_name(t, square(m, "aten::full", TORCH_F32));
    torch_name(t, line(m, "aten::arange", m->keys));
    TorchTensor *next = line(m, "aten::add", m->keys);
    TorchTensor *before = square(m, "aten::lt", TORCH_BOOL);
    torch_drop(t, next);
    torch_drop(t, before);
    mask = torch_rebind(t, mask, torch_cast(t, mask, m->type));
    return torch_leave(t, frame, expanded(m, mask));
}

/* AttentionMaskConverter._expand_mask */
static TorchTensor *hidden(const Maker *m)
{
    Torch *t = m->t;
    size_t frame = torch_frame(t);
    torch_name(t, whole(m, "aten::_to_copy", m->type));
    torch_name(t, whole(m, "aten::rsub", m->type));
    TorchTensor *where = whole(m, "aten::_to_copy", TORCH_BOOL);
    TorchTensor *y = whole(m, "aten::masked_fill", m->type);
    torch_drop(t, where);
    return torch_leave(t, frame, y);
}

/* AttentionMaskConverter.to_4d */
static TorchTensor *to_4d(const Maker *m)
{
    Torch *t = m->t;
    size_t frame = torch_frame(t);
    torch_name(t, causal(m));
    torch_name(t, hidden(m));
    TorchTensor *where = whole(m, "aten::_to_copy", TORCH_BOOL);
    TorchTensor *y = whole(m, "aten::masked_fill", m->type);
    torch_drop(t, where);
    return torch_leave(t, frame, y);
}

/* ---- Eager encoders and GPT-2 ---------------------------------------------------------------- */

/* get_extended_attention_mask: (1.0 - mask[:, None, None, :].to(dtype)) * lowest, in the type of the weights
 */
static TorchTensor *extended(TorchJob *job, TorchTensor *given)
{
    Torch *t = &job->torch;
    TorchType type = job->asked->quantize && job->asked->kbit_prepare ? TORCH_F32 : job->weights;
    TorchShape shape = torch_shape(type, 4, (int64_t[]){job->batch, 1, 1, job->seq});
    size_t frame = torch_frame(t);
    if (given->shape.type != type)
        torch_name(t, torch_empty(t, "aten::_to_copy", shape));
    TorchTensor *inverse = torch_empty(t, "aten::rsub", shape);
    TorchTensor *mask = torch_empty(t, "aten::mul", shape);
    torch_drop(t, inverse);
    return torch_leave(t, frame, mask);
}

/* ---- The choice ------------------------------------------------------------------------------ */

/* AttentionMaskConverter._ignore_causal_mask_sdpa: whether SDPA's own causal rule is enough */
static int ignored(TorchJob *job, TorchTensor *given, int64_t window)
{
    Torch *t = &job->torch;
    if (window && job->seq >= window)
        return 0;
    if (!given)
        return 1;
    TorchTensor *one =
        torch_empty(t, "aten::eq", torch_shape(TORCH_BOOL, 2, (int64_t[]){job->batch, job->seq}));
    TorchTensor *all = torch_empty(t, "aten::all", torch_shape(TORCH_BOOL, 0, NULL));
    torch_whole_scratch(t, job->batch * job->seq, torch_bytes(TORCH_BOOL));
    torch_drop(t, one);
    torch_drop(t, all);
    return job->asked->mask != 2;
}

TorchTensor *torch_number_mask_of_all(TorchJob *job, TorchTensor *given, TorchType type)
{
    Maker m = {&job->torch, job->batch, job->seq, job->seq, type};
    if (job->asked->attention == PYTORCH_EAGER)
        return extended(job, given);
    return ignored(job, given, 0) ? NULL : hidden(&m);
}

TorchTensor *torch_number_mask(TorchJob *job, TorchTensor *given, TorchType type, int64_t window)
{
    Torch *t = &job->torch;
    PytorchFamily family = job->asked->model.family;
    int sdpa = job->asked->attention != PYTORCH_EAGER, decoder = family != PYTORCH_GPT2;
    int slides =
        family == PYTORCH_MISTRAL || (family == PYTORCH_QWEN2 && t->dialect->transformers->qwen2_slides);
    size_t frame = torch_frame(t);
    if (!sdpa && !decoder)
        return given ? extended(job, given) : NULL;
    if (sdpa && ignored(job, given, window))
        return NULL;
    Maker m = {t, job->batch, job->seq, job->seq + (decoder && !given), type};
    TorchTensor *mask = torch_name(t, decoder ? with_positions(&m, !!given, window, slides) : to_4d(&m));
    if (sdpa && given)
        mask = torch_rebind(t, mask, unmask(&m, mask));
    /* what attention takes of it: causal_mask[:, :, :, : key_states.shape[-2]] */
    return torch_leave(t, frame, m.keys > job->seq ? torch_slice(t, mask, 3, 0, job->seq) : mask);
}
