/* GPT-2, as transformers' modeling_gpt2.py writes it. */
#include "job_.h"

typedef struct Layer {
    TorchLinear attention, projection, up, down;
    TorchNorm first, second;
    TorchTensor *causal; /* the buffer of old versions */
} Layer;

typedef struct Gpt2 {
    TorchTensor *tokens, *positions, *mask; /* the mask of this forward pass */
    TorchNorm norm;
    TorchLinear head;
    Layer layers[];
} Gpt2;

static void make(TorchJob *job)
{
    Torch *t = &job->torch;
    const PytorchModel *m = &job->asked->model;
    int64_t D = m->hidden;
    Gpt2 *g = torch_make_model(job, sizeof(Gpt2) + (size_t)m->layers * sizeof(Layer));
    TorchPlace top = torch_enter(t, "wte");
    job->list = "transformer.h";
    g->tokens = torch_parameter(job, "transformer.wte.weight", 2, (int64_t[]){m->vocab, D});
    t->place.module = "wpe";
    g->positions = torch_parameter(job, "transformer.wpe.weight", 2, (int64_t[]){m->positions, D});
    for (int64_t i = 0; i < m->layers; i++) {
        Layer *l = &g->layers[i];
        t->place = (TorchPlace){(int)i, "ln_1"};
        l->first = torch_make_norm(job, "ln_1", D);
        t->place.module = "attn";
        l->attention = torch_make_conv(job, "attn.c_attn", D, 3 * D);
        l->projection = torch_make_conv(job, "attn.c_proj", D, D);
        if (t->dialect->transformers->gpt2_masks) {
            l->causal = torch_buffer(job, TORCH_BOOL, 4, (int64_t[]){1, 1, m->positions, m->positions});
            torch_buffer(job, job->weights, 0, NULL);
        }
        t->place.module = "ln_2";
        l->second = torch_make_norm(job, "ln_2", D);
        t->place.module = "mlp";
        l->up = torch_make_conv(job, "mlp.c_fc", D, m->intermediate);
        l->down = torch_make_conv(job, "mlp.c_proj", m->intermediate, D);
    }
    t->place = (TorchPlace){-1, "ln_f"};
    g->norm = torch_make_norm(job, "transformer.ln_f", D);
    t->place = top;
    g->head = torch_decoder_head(job, g->tokens);
}

/* ---- Attention ------------------------------------------------------------------------------- */

/* (B,S,D) as (B,H,S,D/H) */
static TorchTensor *heads(Torch *t, const PytorchModel *m, TorchTensor *x)
{
    int64_t size[] = {x->shape.size[0], x->shape.size[1], m->heads, m->head_dim};
    return torch_transpose(t, torch_view(t, x, 4, size), 1, 2);
}

/* q times k, divided by a number of the card, and the lowest number where the buffer hides; the number stays
 * a name of the caller's frame */
static TorchTensor *hidden_scores(Torch *t, const Layer *l, TorchTensor *q, TorchTensor *k)
{
    int64_t S = q->shape.size[2];
    TorchTensor *w = torch_name(t, torch_matmul(t, q, torch_transpose(t, k, 2, 3)));
    TorchTensor *root = torch_empty(t, "aten::full", torch_shape(w->shape.type, 0, NULL));
    w = torch_rebind(t, w, torch_divide_by(t, w, root));
    TorchTensor *rows = torch_slice(t, torch_all_of(t, l->causal, 0, 2), 2, 0, S);
    TorchTensor *causal = torch_name(t, torch_slice(t, rows, 3, 0, S));
    torch_name(t, torch_empty(t, "aten::full", torch_shape(w->shape.type, 0, NULL)));
    return torch_rebind(t, w, torch_where(t, causal, w));
}

/* eager_attention_forward; the scores leave by `weights`, a loose tensor. */
static TorchTensor *eager(Torch *t, const Layer *l, TorchTensor *q, TorchTensor *k, TorchTensor *v,
                          TorchTensor *mask, double dropout, TorchTensor **weights)
{
    size_t frame = torch_frame(t);
    TorchTensor *w;
    if (l->causal)
        w = hidden_scores(t, l, q, k);
    else
        w = torch_name(t, torch_scale(t, torch_matmul(t, q, torch_transpose(t, k, 2, 3))));
    if (mask)
        w = torch_rebind(t, w, torch_add(t, w, mask));
    w = torch_rebind(t, w, torch_softmax(t, w, w->shape.type));
    w = torch_rebind(t, w, torch_cast(t, w, v->shape.type));
    w = torch_rebind(t, w, torch_dropout(t, w, dropout));
    TorchTensor *y = torch_name(t, torch_matmul(t, w, v));
    y = torch_rebind(t, y, torch_transpose(t, y, 1, 2));
    torch_carry(w);
    y = torch_leave(t, frame, y);
    *weights = torch_arrive(w);
    return y;
}

static TorchTensor *attention(TorchJob *job, const Layer *l, TorchTensor *x, TorchTensor **weights)
{
    Torch *t = &job->torch;
    const PytorchModel *m = &job->asked->model;
    Gpt2 *g = job->model;
    size_t frame = torch_frame(t);
    TorchPlace up = torch_enter(t, "attn");
    int64_t B = x->shape.size[0], S = x->shape.size[1], D = m->hidden;
    torch_name(t, x);
    TorchTensor *parts[3];
    torch_split(t, torch_project(job, &l->attention, x), 2, D, 3, parts);
    for (int i = 0; i < 3; i++)
        torch_name(t, parts[i]);
    int first = t->dialect->transformers->gpt2_queries_first ? 0 : 1;
    for (int i = 0; i < 3; i++) {
        TorchTensor *part = parts[(first + i) % 3];
        parts[(first + i) % 3] = torch_rebind(t, part, heads(t, m, part));
    }
    TorchTensor *q = parts[0], *k = parts[1], *v = parts[2];
    torch_cache(job, &k, &v);
    TorchTensor *y;
    *weights = NULL;
    if (job->asked->attention == PYTORCH_EAGER)
        y = eager(t, l, q, k, v, g->mask, m->attention_dropout, weights);
    else
        y = torch_sdpa(t, q, k, v, g->mask, 1, m->attention_dropout);
    if (*weights && t->dialect->transformers->scores_stay) {
        torch_name(t, *weights);
        *weights = NULL;
    }
    y = torch_name(t, torch_reshape(t, y, 3, (int64_t[]){B, S, D}));
    y = torch_rebind(t, y, torch_project(job, &l->projection, y));
    y = torch_rebind(t, y, torch_dropout(t, y, m->dropout));
    y = torch_leave(t, frame, y);
    t->place = up;
    return y;
}

/* ---- Layers ---------------------------------------------------------------------------------- */

/* NewGELUActivation: 0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))) */
static TorchTensor *gelu_new(Torch *t, TorchTensor *x)
{
    size_t frame = torch_frame(t);
    torch_name(t, x);
    TorchTensor *half = torch_scale(t, x);
    TorchTensor *cube = torch_scale(t, torch_pow(t, x, 3));
    TorchTensor *curve = torch_tanh(t, torch_scale(t, torch_add(t, x, cube)));
    return torch_leave(t, frame, torch_mul(t, half, torch_plus(t, curve)));
}

static TorchTensor *mlp(TorchJob *job, const Layer *l, TorchTensor *x)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    TorchPlace up = torch_enter(t, "mlp");
    torch_name(t, x);
    TorchTensor *h = torch_name(t, torch_project(job, &l->up, x));
    h = torch_rebind(t, h, gelu_new(t, h));
    h = torch_rebind(t, h, torch_project(job, &l->down, h));
    h = torch_rebind(t, h, torch_dropout(t, h, job->asked->model.dropout));
    h = torch_leave(t, frame, h);
    t->place = up;
    return h;
}

static TorchTensor *layer(Torch *t, void *user, TorchTensor *x)
{
    TorchJob *job = user;
    Gpt2 *g = job->model;
    const Layer *l = &g->layers[t->place.layer];
    size_t frame = torch_frame(t);
    torch_name(t, x);
    TorchTensor *weights, *h = torch_name(t, torch_norm(t, "ln_1", &l->first, x));
    TorchTensor *y = torch_name(t, attention(job, l, h, &weights));
    if (weights)
        torch_name(t, weights); /* the `_` of the layer */
    h = torch_rebind(t, h, torch_add(t, y, x));
    TorchTensor *residual = torch_name(t, h);
    h = torch_rebind(t, h, torch_norm(t, "ln_2", &l->second, h));
    TorchTensor *z = torch_name(t, mlp(job, l, h));
    return torch_leave(t, frame, torch_add(t, residual, z));
}

/* ---- The model ------------------------------------------------------------------------------- */

static TorchTensor *positions_of(Torch *t, int64_t seq)
{
    TorchTensor *row = torch_positions(t, seq);
    return torch_name(t, torch_unsqueeze(t, row, 0));
}

static TorchTensor *body(TorchJob *job, TorchTensor *ids, TorchTensor *mask)
{
    Torch *t = &job->torch;
    const PytorchJob *asked = job->asked;
    Gpt2 *g = job->model;
    size_t frame = torch_frame(t);
    int64_t S = ids->shape.size[1];
    if (asked->model.labels && !mask)
        torch_look_for_padding(t, ids);
    const TransformersEra *era = t->dialect->transformers;
    TorchTensor *positions = era->gpt2_positions_first ? positions_of(t, S) : NULL;
    TorchPlace up = torch_enter(t, "wte");
    TorchTensor *embedded = torch_name(t, torch_ask_gradient(job, torch_embedding(t, g->tokens, ids)));
    t->place = up;
    if (!positions)
        positions = positions_of(t, S);
    t->place.module = "wpe";
    TorchTensor *placed = torch_name(t, torch_embedding(t, g->positions, positions));
    t->place = up;
    TorchTensor *h = torch_name(t, torch_add(t, embedded, placed));
    g->mask = torch_causal_mask(job, mask, h->shape.type, 0);
    if (g->mask)
        torch_name(t, g->mask);
    h = torch_rebind(t, h, torch_dropout(t, h, asked->model.dropout));
    for (int64_t i = 0; i < asked->model.layers; i++) {
        t->place = (TorchPlace){(int)i, NULL};
        h = torch_rebind(
            t, h,
            torch_layer(job, layer, h,
                        (TorchTensor *[TORCH_ALSO]){g->mask, era->positional_layers ? NULL : positions},
                        era->gpt2_positions_saved ? 2 : 1));
    }
    t->place = up;
    if (era->layers_in_tuples)
        torch_name(t, h);
    h = torch_rebind(t, h, torch_norm(t, "ln_f", &g->norm, h));
    return torch_leave(t, frame, h);
}

static TorchTensor *forward(TorchJob *job, TorchTensor *ids, TorchTensor *labels, TorchTensor *mask)
{
    Torch *t = &job->torch;
    Gpt2 *g = job->model;
    size_t frame = torch_frame(t);
    TorchTensor *h = torch_name(t, body(job, ids, mask));
    return torch_leave(t, frame, torch_head_loss(job, &g->head, h, labels));
}

const TorchFamily torch_gpt2 = {make, forward};
