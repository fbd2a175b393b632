/* Llama, Qwen2, Qwen3 and Mistral, as transformers' modeling files write them. */
#include <string.h>

#include "job_.h"

typedef struct Layer {
    TorchLinear q, k, v, o, gate, up, down;
    TorchTensor *q_norm, *k_norm, *input_norm, *post_norm, *frequencies;
} Layer;

typedef struct Decoder {
    TorchTensor *embedding, *norm, *frequencies[2];
    TorchLinear head;
    TorchTensor *cos, *sin, *mask, *positions; /* of this forward pass */
    Layer layers[];
} Decoder;

/* Mistral's layers of old versions compute cosines and sines each for itself. */
static int by_itself(const TorchJob *job)
{
    return job->torch.dialect->transformers->rope_in_layers && job->asked->model.family == PYTORCH_MISTRAL;
}

static void make(TorchJob *job)
{
    Torch *t = &job->torch;
    const PytorchModel *m = &job->asked->model;
    int64_t D = m->hidden, H = m->heads * m->head_dim, K = m->kv_heads * m->head_dim, F = m->intermediate;
    int bias = m->family == PYTORCH_QWEN2;
    Decoder *d = torch_make_model(job, sizeof(Decoder) + (size_t)m->layers * sizeof(Layer));
    TorchPlace top = torch_enter(t, "embed_tokens");
    job->list = "model.layers";
    d->embedding = torch_parameter(job, "model.embed_tokens.weight", 2, (int64_t[]){m->vocab, D});
    for (int64_t i = 0; i < m->layers; i++) {
        Layer *l = &d->layers[i];
        t->place = (TorchPlace){(int)i, "self_attn"};
        l->q = torch_make_linear(job, "self_attn.q_proj", D, H, bias);
        l->k = torch_make_linear(job, "self_attn.k_proj", D, K, bias);
        l->v = torch_make_linear(job, "self_attn.v_proj", D, K, bias);
        l->o = torch_make_linear(job, "self_attn.o_proj", H, D, 0);
        if (t->dialect->transformers->rope_in_layers)
            l->frequencies = torch_buffer(job, TORCH_F32, 1, (int64_t[]){m->head_dim / 2});
        if (m->family == PYTORCH_QWEN3) {
            l->q_norm = torch_parameter(job, "self_attn.q_norm.weight", 1, &m->head_dim);
            l->k_norm = torch_parameter(job, "self_attn.k_norm.weight", 1, &m->head_dim);
        }
        t->place.module = "mlp";
        l->gate = torch_make_linear(job, "mlp.gate_proj", D, F, 0);
        l->up = torch_make_linear(job, "mlp.up_proj", D, F, 0);
        l->down = torch_make_linear(job, "mlp.down_proj", F, D, 0);
        t->place.module = "input_layernorm";
        l->input_norm = torch_parameter(job, "input_layernorm.weight", 1, &D);
        t->place.module = "post_attention_layernorm";
        l->post_norm = torch_parameter(job, "post_attention_layernorm.weight", 1, &D);
    }
    t->place = (TorchPlace){-1, "norm"};
    d->norm = torch_parameter(job, "model.norm.weight", 1, &D);
    t->place.module = "rotary_emb";
    for (int i = 0; !by_itself(job) && i < 2 - t->dialect->transformers->one_inv_freq; i++)
        d->frequencies[i] = torch_buffer(job, TORCH_F32, 1, (int64_t[]){m->head_dim / 2});
    t->place = top;
    d->head = torch_decoder_head(job, d->embedding);
}

/* ---- Positions ------------------------------------------------------------------------------- */

static TorchTensor *wave(Torch *t, const char *op, TorchTensor *angles)
{
    return torch_name(t, torch_scale(t, torch_wave(t, op, angles)));
}

/* (inv_freq @ positions).transpose(1, 2), with autocast off */
static TorchTensor *angles_by_product(Torch *t, TorchTensor *frequencies, TorchTensor *positions)
{
    TorchType autocast = t->autocast;
    t->autocast = TORCH_F32;
    TorchTensor *p = torch_name(t, torch_cast(t, torch_unsqueeze(t, positions, 1), TORCH_F32));
    TorchTensor *f = torch_name(t, torch_unsqueeze(t, torch_unsqueeze(t, frequencies, 0), 2));
    TorchTensor *angles = torch_transpose(t, torch_matmul(t, f, p), 1, 2);
    t->autocast = autocast;
    return angles;
}

/* `scaled`: by attention_scaling */
static void rope(TorchJob *job, TorchTensor *frequencies, TorchTensor *positions, TorchType type, int scaled)
{
    Torch *t = &job->torch;
    Decoder *d = job->model;
    size_t frame = torch_frame(t);
    TorchPlace up = torch_enter(t, "rotary_emb");
    TorchTensor *angles;
    if (t->dialect->transformers->rope_by_product)
        angles = angles_by_product(t, frequencies, positions);
    else
        angles = torch_mul(t, torch_cast(t, torch_unsqueeze(t, positions, 2), TORCH_F32), frequencies);
    torch_name(t, angles);
    TorchTensor *twice[] = {angles, angles};
    TorchTensor *all = torch_name(t, torch_cat(t, 2, 2, twice));
    TorchTensor *cos, *sin;
    if (t->dialect->transformers->waves_together) {
        cos = torch_name(t, torch_wave(t, "aten::cos", all));
        sin = torch_name(t, torch_wave(t, "aten::sin", all));
        cos = scaled ? torch_rebind(t, cos, torch_scale(t, cos)) : cos;
        sin = scaled ? torch_rebind(t, sin, torch_scale(t, sin)) : sin;
    } else {
        cos = wave(t, "aten::cos", all);
        sin = wave(t, "aten::sin", all);
    }
    cos = torch_carry(torch_cast(t, cos, type));
    sin = torch_carry(torch_cast(t, sin, type));
    torch_leave(t, frame, NULL);
    d->cos = torch_name(t, torch_arrive(cos));
    d->sin = torch_name(t, torch_arrive(sin));
    t->place = up;
}

/* ---- Attention ------------------------------------------------------------------------------- */

static TorchTensor *rotate_half(Torch *t, TorchTensor *x)
{
    size_t frame = torch_frame(t);
    int64_t D = x->shape.size[3];
    torch_name(t, x);
    TorchTensor *x1 = torch_name(t, torch_slice(t, x, 3, 0, D / 2));
    TorchTensor *x2 = torch_name(t, torch_slice(t, x, 3, D / 2, D));
    TorchTensor *parts[] = {torch_neg(t, x2), x1};
    return torch_leave(t, frame, torch_cat(t, 3, 2, parts));
}

static TorchTensor *rotary(Torch *t, TorchTensor *x, TorchTensor *cos, TorchTensor *sin)
{
    TorchTensor *a = torch_mul(t, x, cos);
    TorchTensor *b = torch_mul(t, rotate_half(t, x), sin);
    return torch_add(t, a, b);
}

/* eager_attention_forward; the scores leave by `weights`, a loose tensor. */
static TorchTensor *eager(Torch *t, TorchTensor *q, TorchTensor *k, TorchTensor *v, TorchTensor *mask,
                          int64_t repeats, double dropout, TorchTensor **weights)
{
    size_t frame = torch_frame(t);
    TorchType type = q->shape.type;
    TorchTensor *keys = torch_name(t, torch_repeat_kv(t, k, repeats)),
                *values = torch_name(t, torch_repeat_kv(t, v, repeats));
    TorchTensor *w = torch_name(t, torch_scale(t, torch_matmul(t, q, torch_transpose(t, keys, 2, 3))));
    if (mask)
        w = torch_rebind(t, w, torch_add(t, w, mask));
    w = torch_rebind(t, w, torch_cast(t, torch_softmax(t, w, TORCH_F32), type));
    w = torch_rebind(t, w, torch_dropout(t, w, dropout));
    TorchTensor *y = torch_name(t, torch_matmul(t, w, values));
    y = torch_rebind(t, y, torch_make_contiguous(t, torch_transpose(t, y, 1, 2)));
    torch_carry(w);
    y = torch_leave(t, frame, y);
    *weights = torch_arrive(w);
    return y;
}

/* Keys and values repeated, and beside a mask all made contiguous, take the names of what they were. */
static void rebind_heads(TorchJob *job, int64_t repeats, TorchTensor **q, TorchTensor **k, TorchTensor **v)
{
    Torch *t = &job->torch;
    Decoder *d = job->model;
    TorchTensor **heads[] = {q, k, v};
    for (int i = 1; repeats > 1 && i < 3; i++)
        *heads[i] = torch_rebind(t, *heads[i], torch_repeat_kv(t, *heads[i], repeats));
    for (int i = 0; d->mask && job->asked->attention == PYTORCH_SDPA && i < 3; i++)
        *heads[i] = torch_rebind(t, *heads[i], torch_make_contiguous(t, *heads[i]));
}

static TorchTensor *attention(TorchJob *job, const Layer *l, TorchTensor *x, TorchTensor **weights)
{
    Torch *t = &job->torch;
    const PytorchModel *m = &job->asked->model;
    Decoder *d = job->model;
    size_t frame = torch_frame(t);
    TorchPlace up = torch_enter(t, "self_attn");
    int64_t B = x->shape.size[0], S = x->shape.size[1];
    int64_t queries[] = {B, S, m->heads, m->head_dim}, keys[] = {B, S, m->kv_heads, m->head_dim};
    torch_name(t, x);
    TorchTensor *q, *k, *v;
    if (t->dialect->transformers->heads_together) {
        q = torch_name(t, torch_project(job, &l->q, x));
        k = torch_name(t, torch_project(job, &l->k, x));
        v = torch_name(t, torch_project(job, &l->v, x));
        q = torch_rebind(t, q, torch_transpose(t, torch_view(t, q, 4, queries), 1, 2));
        k = torch_rebind(t, k, torch_transpose(t, torch_view(t, k, 4, keys), 1, 2));
        v = torch_rebind(t, v, torch_transpose(t, torch_view(t, v, 4, keys), 1, 2));
    } else {
        q = torch_view(t, torch_project(job, &l->q, x), 4, queries);
        q = torch_name(t, torch_transpose(t, l->q_norm ? torch_rms_norm(t, q, l->q_norm) : q, 1, 2));
        k = torch_view(t, torch_project(job, &l->k, x), 4, keys);
        k = torch_name(t, torch_transpose(t, l->k_norm ? torch_rms_norm(t, k, l->k_norm) : k, 1, 2));
        v = torch_name(t, torch_transpose(t, torch_view(t, torch_project(job, &l->v, x), 4, keys), 1, 2));
    }
    if (by_itself(job))
        rope(job, l->frequencies, d->positions, v->shape.type, 0);
    size_t inner = torch_frame(t); /* apply_rotary_pos_emb's */
    TorchTensor *cos = torch_name(t, torch_unsqueeze(t, d->cos, 1)),
                *sin = torch_name(t, torch_unsqueeze(t, d->sin, 1));
    TorchTensor *q2 = torch_name(t, rotary(t, q, cos, sin)), *k2 = rotary(t, k, cos, sin);
    torch_carry(q2);
    torch_leave(t, inner, NULL);
    torch_name(t, torch_arrive(q2));
    torch_name(t, k2);
    torch_delete(t, q);
    torch_delete(t, k);
    torch_cache(job, &k2, &v);
    int64_t repeats = m->heads / m->kv_heads;
    if (t->dialect->transformers->heads_rebound) {
        rebind_heads(job, repeats, &q2, &k2, &v);
        repeats = 1;
    }
    double dropout = m->attention_dropout;
    TorchTensor *y;
    *weights = NULL;
    if (job->asked->attention == PYTORCH_EAGER)
        y = eager(t, q2, k2, v, d->mask, repeats, dropout, weights);
    else
        y = torch_sdpa(t, q2, k2, v, d->mask, repeats, dropout);
    if (*weights && t->dialect->transformers->heads_rebound) {
        torch_name(t, *weights);
        *weights = NULL;
    }
    y = torch_name(t, torch_reshape(t, y, 3, (int64_t[]){B, S, m->heads * m->head_dim}));
    y = torch_rebind(t, y, torch_project(job, &l->o, y));
    y = torch_leave(t, frame, y);
    t->place = up;
    return y;
}

/* ---- Layers ---------------------------------------------------------------------------------- */

static TorchTensor *mlp(TorchJob *job, const Layer *l, TorchTensor *x)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    TorchPlace up = torch_enter(t, "mlp");
    torch_name(t, x);
    TorchTensor *gate = torch_silu(t, torch_project(job, &l->gate, x));
    TorchTensor *product = torch_mul(t, gate, torch_project(job, &l->up, x));
    TorchTensor *y = torch_leave(t, frame, torch_project(job, &l->down, product));
    t->place = up;
    return y;
}

static TorchTensor *normed(Torch *t, const char *module, TorchTensor *x, TorchTensor *weight)
{
    TorchPlace up = torch_enter(t, module);
    TorchTensor *y = torch_rms_norm(t, x, weight);
    t->place = up;
    return y;
}

static TorchTensor *layer(Torch *t, void *user, TorchTensor *x)
{
    TorchJob *job = user;
    Decoder *d = job->model;
    const Layer *l = &d->layers[t->place.layer];
    size_t frame = torch_frame(t);
    torch_name(t, x);
    TorchTensor *weights, *h = torch_name(t, normed(t, "input_layernorm", x, l->input_norm));
    h = torch_rebind(t, h, attention(job, l, h, &weights));
    if (weights)
        torch_name(t, weights); /* the `_` of the layer */
    TorchTensor *sum = torch_add(t, x, h);
    h = torch_rebind(t, h, sum);
    TorchTensor *residual = torch_name(t, h);
    h = torch_rebind(t, h, normed(t, "post_attention_layernorm", h, l->post_norm));
    h = torch_rebind(t, h, mlp(job, l, h));
    return torch_leave(t, frame, torch_add(t, residual, h));
}

/* ---- The model ------------------------------------------------------------------------------- */

static TorchTensor *body(TorchJob *job, TorchTensor *ids, TorchTensor *mask)
{
    Torch *t = &job->torch;
    const PytorchJob *asked = job->asked;
    Decoder *d = job->model;
    const TransformersEra *era = t->dialect->transformers;
    size_t frame = torch_frame(t);
    int64_t S = ids->shape.size[1];
    TorchPlace up = torch_enter(t, "embed_tokens");
    TorchTensor *h = torch_name(t, torch_ask_gradient(job, torch_embedding(t, d->embedding, ids)));
    t->place = up;
    TorchTensor *row = torch_positions(t, S);
    TorchTensor *positions = torch_name(t, torch_unsqueeze(t, row, 0));
    torch_name(t, h); /* inputs_embeds, which outlives the loop's name */
    d->mask = torch_causal_mask(job, mask, h->shape.type, asked->model.window);
    if (d->mask)
        torch_name(t, d->mask);
    d->positions = positions;
    if (!by_itself(job))
        rope(job, d->frequencies[0], positions, h->shape.type, 1);
    for (int64_t i = 0; i < asked->model.layers; i++) {
        t->place = (TorchPlace){(int)i, NULL};
        TorchTensor *kept[TORCH_ALSO] = {d->mask, positions, d->cos, d->sin};
        if (by_itself(job))
            kept[2] = kept[3] = NULL;
        h = torch_rebind(t, h, torch_layer(job, layer, h, kept, era->positional_layers ? 2 : 0));
    }
    t->place = up;
    if (era->layers_in_tuples)
        torch_name(t, h);
    h = torch_rebind(t, h, normed(t, "norm", h, d->norm));
    return torch_leave(t, frame, h);
}

static TorchTensor *forward(TorchJob *job, TorchTensor *ids, TorchTensor *labels, TorchTensor *mask)
{
    Torch *t = &job->torch;
    Decoder *d = job->model;
    size_t frame = torch_frame(t);
    TorchTensor *h = torch_name(t, body(job, ids, mask));
    return torch_leave(t, frame, torch_head_loss(job, &d->head, h, labels));
}

const TorchFamily torch_decoder = {make, forward};
