/* What decoders end in: a language model's head, or classes of the sequence
 * (GenericForSequenceClassification). */
#include "job_.h"

TorchLinear torch_decoder_head(TorchJob *job, TorchTensor *embedding)
{
    const PytorchModel *m = &job->asked->model;
    TorchPlace up = torch_enter(&job->torch, m->labels ? "score" : "lm_head");
    TorchLinear head = {.weight = embedding};
    if (m->labels || !m->tied)
        head = torch_make_head(job, m->labels ? "score" : "lm_head", m->hidden,
                               m->labels ? m->labels : m->vocab, 0);
    job->torch.place = up;
    return head;
}

/* ---- Indexing -------------------------------------------------------------------------------- */

static TorchTensor *ids(Torch *t, const char *op, TorchType type, int64_t a, int64_t b)
{
    return torch_empty(t, op, torch_shape(type, 2, (int64_t[]){a, b}));
}

/* index_put_with_sort_kernel: the indices as one number each, sorted together with their order */
static void index_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    int64_t rows = node->saved[0]->shape.size[0];
    size_t frame = torch_frame(t);
    TorchTensor *whole = torch_empty(t, "aten::new_zeros", torch_shape(g[0]->shape.type, 3, node->n));
    TorchTensor *wrapped = ids(t, "aten::remainder", TORCH_I64, rows, 1);
    torch_name(t, ids(t, "aten::mul", TORCH_I64, rows, 1));
    torch_drop(t, wrapped);
    wrapped = ids(t, "aten::remainder", TORCH_I64, rows, 1);
    torch_scratch(t, "aten::mul", 8 * rows);
    torch_drop(t, wrapped);
    torch_name(t, ids(t, "aten::empty_like", TORCH_I64, rows, 1));
    torch_name(t, ids(t, "aten::empty_like", TORCH_I64, rows, 1));
    torch_name(t, ids(t, "aten::arange", TORCH_I64, rows, 1));
    torch_scratch(t, "cub::DeviceRadixSort", 1);
    d[0] = torch_leave(t, frame, whole);
}

/* x[rows, columns] of x (B,S,C), of one row and column for each of the batch */
static TorchTensor *indexed(Torch *t, TorchTensor *x, TorchTensor *rows, TorchTensor *columns)
{
    TorchNode *node = torch_node(t, "aten::index", index_back, 1, &x);
    for (int i = 0; node && i < 3; i++)
        node->n[i] = x->shape.size[i];
    torch_save(t, node, 0, rows);
    torch_save(t, node, 1, columns);
    int64_t size[] = {rows->shape.size[0], x->shape.size[2]};
    TorchTensor *y =
        torch_made(t, node, 0, torch_empty(t, "aten::index", torch_shape(x->shape.type, 2, size)));
    torch_used(t, rows);
    torch_used(t, columns);
    return y;
}

/* ---- Losses ---------------------------------------------------------------------------------- */

/* Where the last token is that is not padding; named in the caller's frame. */
static TorchTensor *last_token(Torch *t, int64_t batch, int64_t seq)
{
    TorchTensor *text = ids(t, "aten::ne", TORCH_BOOL, batch, seq);
    torch_name(t, ids(t, "aten::_to_copy", TORCH_I32, batch, seq));
    torch_drop(t, text);
    torch_name(t, ids(t, "aten::arange", TORCH_I32, seq, 1));
    TorchTensor *places = ids(t, "aten::mul", TORCH_I32, batch, seq);
    TorchTensor *last = torch_name(t, torch_empty(t, "aten::argmax", torch_shape(TORCH_I64, 1, &batch)));
    torch_drop(t, places);
    return last;
}

/* (torch.eq(input_ids, pad).int().argmax(-1) - 1) % seq, as old versions have it */
static TorchTensor *before_padding(Torch *t, int64_t batch, int64_t seq)
{
    static const char *const steps[] = {"aten::argmax", "aten::sub", "aten::remainder"};
    TorchTensor *padding = ids(t, "aten::eq", TORCH_BOOL, batch, seq);
    TorchTensor *last = ids(t, "aten::_to_copy", TORCH_I32, batch, seq);
    torch_drop(t, padding);
    for (int i = 0; i < 3; i++) {
        TorchTensor *next = torch_empty(t, steps[i], torch_shape(TORCH_I64, 1, &batch));
        torch_drop(t, last);
        last = next;
    }
    return torch_name(t, last);
}

/* The classes at the last token that is not padding. */
static TorchTensor *classes(TorchJob *job, TorchTensor *logits, TorchTensor *labels)
{
    Torch *t = &job->torch;
    int64_t batch = job->batch, seq = job->seq;
    size_t frame = torch_frame(t);
    int by_padding = t->dialect->transformers->classes_before_padding;
    TorchTensor *last = by_padding ? before_padding(t, batch, seq) : last_token(t, batch, seq);
    TorchTensor *rows = torch_empty(t, "aten::arange", torch_shape(TORCH_I64, 1, &batch));
    TorchTensor *pooled = torch_name(t, indexed(t, logits, rows, last));
    torch_hold(job, pooled);
    TorchTensor *x = torch_view(t, pooled, 2, (int64_t[]){batch, job->asked->model.labels});
    TorchTensor *y = torch_view(t, labels, 1, &batch);
    return torch_leave(t, frame, torch_cross_entropy(t, x, y));
}

TorchTensor *torch_head_loss(TorchJob *job, const TorchLinear *head, TorchTensor *h, TorchTensor *labels)
{
    Torch *t = &job->torch;
    int64_t classed = job->asked->model.labels;
    size_t frame = torch_frame(t);
    TorchPlace up = torch_enter(t, classed ? "score" : "lm_head");
    if (!classed && job->asked->model.family != PYTORCH_GPT2)
        h = torch_all_of(t, h, 0, 3); /* hidden_states[:, slice(0, None), :] */
    TorchTensor *logits = torch_name(t, torch_project(job, head, h));
    t->place.module = "loss";
    if (!classed && t->dialect->transformers->mistral_plain_loss &&
        job->asked->model.family == PYTORCH_MISTRAL) /* logits = logits.float() */
        logits = torch_rebind(t, logits, torch_cast(t, logits, TORCH_F32));
    if (!classed)
        torch_hold(job, logits);
    TorchTensor *loss = classed ? classes(job, logits, labels) : torch_causal_loss(job, logits, labels);
    t->place = up;
    return torch_leave(t, frame, loss);
}
