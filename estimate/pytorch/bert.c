/* BERT, as transformers' modeling_bert.py writes it: for masked words, and for classes of sequences. */
#include "job_.h"

typedef struct Layer {
    TorchLinear query, key, value, output, up, down;
    TorchNorm attention_norm, norm;
} Layer;

typedef struct Bert {
    TorchTensor *words, *positions, *types, *position_ids, *type_ids;
    TorchTensor *mask;   /* of this forward pass */
    TorchTensor *scores; /* the last layer's probabilities, in old versions */
    TorchNorm norm, head_norm;
    TorchLinear transform, decoder; /* of masked words */
    TorchLinear pooler, classifier; /* of classes */
    Layer layers[];
} Bert;

static void make_embeddings(TorchJob *job, Bert *b)
{
    Torch *t = &job->torch;
    const PytorchModel *m = &job->asked->model;
    int64_t D = m->hidden, row[] = {1, m->positions};
    TorchPlace top = torch_enter(t, "embeddings");
    b->words = torch_parameter(job, "bert.embeddings.word_embeddings.weight", 2, (int64_t[]){m->vocab, D});
    b->positions =
        torch_parameter(job, "bert.embeddings.position_embeddings.weight", 2, (int64_t[]){m->positions, D});
    b->types =
        torch_parameter(job, "bert.embeddings.token_type_embeddings.weight", 2, (int64_t[]){m->types, D});
    b->norm = torch_make_norm(job, "bert.embeddings.LayerNorm", D);
    b->position_ids = torch_buffer(job, TORCH_I64, 2, row);
    b->type_ids = torch_buffer(job, TORCH_I64, 2, row);
    t->place = top;
}

static void make_layer(TorchJob *job, Layer *l, int index)
{
    Torch *t = &job->torch;
    const PytorchModel *m = &job->asked->model;
    int64_t D = m->hidden, F = m->intermediate;
    t->place = (TorchPlace){index, "attention"};
    l->query = torch_make_linear(job, "attention.self.query", D, D, 1);
    l->key = torch_make_linear(job, "attention.self.key", D, D, 1);
    l->value = torch_make_linear(job, "attention.self.value", D, D, 1);
    l->output = torch_make_linear(job, "attention.output.dense", D, D, 1);
    l->attention_norm = torch_make_norm(job, "attention.output.LayerNorm", D);
    t->place.module = "intermediate";
    l->up = torch_make_linear(job, "intermediate.dense", D, F, 1);
    t->place.module = "output";
    l->down = torch_make_linear(job, "output.dense", F, D, 1);
    l->norm = torch_make_norm(job, "output.LayerNorm", D);
}

static void make(TorchJob *job)
{
    Torch *t = &job->torch;
    const PytorchModel *m = &job->asked->model;
    int64_t D = m->hidden;
    Bert *b = torch_make_model(job, sizeof(Bert) + (size_t)m->layers * sizeof(Layer));
    TorchPlace top = t->place;
    job->list = "bert.encoder.layer";
    make_embeddings(job, b);
    for (int64_t i = 0; i < m->layers; i++)
        make_layer(job, &b->layers[i], (int)i);
    if (m->labels) {
        t->place = (TorchPlace){-1, "pooler"};
        b->pooler = torch_make_linear(job, "bert.pooler.dense", D, D, 1);
        t->place.module = "classifier";
        b->classifier = torch_make_head(job, "classifier", D, m->labels, 1);
    } else {
        t->place = (TorchPlace){-1, "cls"};
        size_t before = job->entry_count;
        b->transform = torch_make_linear(job, "cls.predictions.transform.dense", D, D, 1);
        b->head_norm = torch_make_norm(job, "cls.predictions.transform.LayerNorm", D);
        b->decoder = (TorchLinear){.weight = b->words};
        if (!m->tied) /* and the head's own bias serves nothing */
            b->decoder = torch_make_head(job, "cls.predictions.decoder", D, m->vocab, 1);
        TorchTensor *bias = torch_parameter(job, "cls.predictions.bias", 1, &m->vocab);
        if (m->tied)
            b->decoder.bias = bias;
        torch_parameter_first(job, before); /* the head's own, and so listed before its modules' */
    }
    t->place = top;
}

/* ---- Attention ------------------------------------------------------------------------------- */

/* (B,S,D) as (B,H,S,D/H) */
static TorchTensor *cut(TorchJob *job, TorchTensor *x)
{
    const PytorchModel *m = &job->asked->model;
    int64_t size[] = {x->shape.size[0], x->shape.size[1], m->heads, m->head_dim};
    return torch_transpose(&job->torch, torch_view(&job->torch, x, 4, size), 1, 2);
}

static TorchTensor *heads(TorchJob *job, const TorchLinear *l, TorchTensor *x)
{
    return cut(job, torch_project(job, l, x));
}

/* eager_attention_forward; the scores leave by `weights`, a loose tensor. */
static TorchTensor *eager(Torch *t, TorchTensor *q, TorchTensor *k, TorchTensor *v, TorchTensor *mask,
                          double dropout, TorchTensor **weights)
{
    size_t frame = torch_frame(t);
    TorchTensor *w = torch_name(t, torch_scale(t, torch_matmul(t, q, torch_transpose(t, k, 2, 3))));
    if (mask)
        w = torch_rebind(t, w, torch_add(t, w, mask));
    w = torch_rebind(t, w, torch_softmax(t, w, w->shape.type));
    w = torch_rebind(t, w, torch_dropout(t, w, dropout));
    TorchTensor *y = torch_name(t, torch_matmul(t, w, v));
    y = torch_rebind(t, y, torch_make_contiguous(t, torch_transpose(t, y, 1, 2)));
    torch_carry(w);
    y = torch_leave(t, frame, y);
    *weights = torch_arrive(w);
    return y;
}

/* BertSelfAttention.forward of old versions; what it names is the caller's. */
static TorchTensor *eager_apart(Torch *t, TorchTensor *q, TorchTensor *k, TorchTensor *v, TorchTensor *mask,
                                double dropout, TorchTensor **weights)
{
    TorchTensor *scores = torch_name(t, torch_matmul(t, q, torch_transpose(t, k, 2, 3)));
    scores = torch_rebind(t, scores, torch_divide(t, scores));
    if (mask)
        scores = torch_rebind(t, scores, torch_add(t, scores, mask));
    TorchTensor *w = torch_name(t, torch_softmax(t, scores, scores->shape.type));
    w = torch_rebind(t, w, torch_dropout(t, w, dropout));
    if (!t->dialect->transformers->scores_stay)
        *weights = w;
    TorchTensor *y = torch_name(t, torch_matmul(t, w, v));
    return torch_rebind(t, y, torch_make_contiguous(t, torch_transpose(t, y, 1, 2)));
}

/* BertSelfAttention */
static TorchTensor *self_attention(TorchJob *job, const Layer *l, TorchTensor *x, TorchTensor **weights)
{
    Torch *t = &job->torch;
    const PytorchModel *m = &job->asked->model;
    Bert *b = job->model;
    size_t frame = torch_frame(t);
    torch_name(t, x);
    int eagerly = job->asked->attention == PYTORCH_EAGER, apart = t->dialect->transformers->bert_scores_apart;
    int last = eagerly && t->dialect->transformers->bert_queries_last;
    TorchTensor *q = torch_name(t, last ? torch_project(job, &l->query, x) : heads(job, &l->query, x));
    TorchTensor *k = torch_name(t, heads(job, &l->key, x));
    TorchTensor *v = torch_name(t, heads(job, &l->value, x));
    if (last)
        q = torch_name(t, cut(job, q));
    TorchTensor *y;
    *weights = NULL;
    if (eagerly && apart)
        y = eager_apart(t, q, k, v, b->mask, m->attention_dropout, weights);
    else if (eagerly)
        y = eager(t, q, k, v, b->mask, m->attention_dropout, weights);
    else
        y = torch_make_contiguous(
            t, torch_transpose(t, torch_attention(t, q, k, v, b->mask, 0, m->attention_dropout), 1, 2));
    y = torch_name(t, torch_reshape(t, y, 3, (int64_t[]){x->shape.size[0], x->shape.size[1], m->hidden}));
    TorchTensor *kept = eagerly && apart ? *weights : NULL;
    if (kept)
        torch_carry(kept);
    y = torch_leave(t, frame, y);
    if (kept)
        *weights = torch_arrive(kept);
    return y;
}

/* BertSelfOutput, BertOutput */
static TorchTensor *output(TorchJob *job, const TorchLinear *dense, const TorchNorm *norm, TorchTensor *h,
                           TorchTensor *x)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    torch_name(t, h);
    torch_name(t, x);
    TorchTensor *y = torch_name(t, torch_project(job, dense, h));
    y = torch_rebind(t, y, torch_dropout(t, y, job->asked->model.dropout));
    y = torch_rebind(t, y, torch_layer_norm(t, torch_add(t, y, x), norm->weight, norm->bias));
    return torch_leave(t, frame, y);
}

/* BertAttention */
static TorchTensor *attention(TorchJob *job, const Layer *l, TorchTensor *x, TorchTensor **weights)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    TorchPlace up = torch_enter(t, "attention");
    torch_name(t, x);
    TorchTensor *h = torch_name(t, self_attention(job, l, x, weights));
    h = torch_rebind(t, h, output(job, &l->output, &l->attention_norm, h, x));
    h = torch_leave(t, frame, h);
    t->place = up;
    return h;
}

/* ---- Layers ---------------------------------------------------------------------------------- */

static TorchTensor *activated(TorchJob *job, const TorchLinear *dense, TorchTensor *x)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    TorchTensor *h = torch_name(t, torch_project(job, dense, x));
    h = torch_rebind(t, h, torch_gelu(t, h));
    return torch_leave(t, frame, h);
}

static TorchTensor *layer(Torch *t, void *user, TorchTensor *x)
{
    TorchJob *job = user;
    Bert *b = job->model;
    const Layer *l = &b->layers[t->place.layer];
    TorchPlace up = t->place;
    size_t frame = torch_frame(t);
    torch_name(t, x);
    TorchTensor *weights, *h = torch_name(t, attention(job, l, x, &weights));
    if (weights)
        torch_name(t, weights);    /* the `_` of the layer */
    size_t inner = torch_frame(t); /* feed_forward_chunk's */
    t->place.module = "intermediate";
    TorchTensor *wide = torch_name(t, activated(job, &l->up, h));
    t->place.module = "output";
    TorchTensor *y = torch_leave(t, inner, torch_name(t, output(job, &l->down, &l->norm, wide, h)));
    t->place = up;
    int leaves = weights && t->dialect->transformers->bert_layers_in_tuples && !t->again;
    if (leaves)
        torch_carry(weights);
    y = torch_leave(t, frame, y);
    if (leaves)
        b->scores = torch_arrive(weights);
    return y;
}

/* ---- The model ------------------------------------------------------------------------------- */

static TorchTensor *embeddings(TorchJob *job, TorchTensor *ids)
{
    Torch *t = &job->torch;
    Bert *b = job->model;
    int64_t B = ids->shape.size[0], S = ids->shape.size[1];
    const TransformersEra *era = t->dialect->transformers;
    size_t frame = torch_frame(t);
    TorchPlace up = torch_enter(t, "embeddings");
    TorchTensor *positions = torch_name(t, torch_slice(t, b->position_ids, 1, 0, S));
    TorchTensor *row = era->bert_types_as_they_are
                           ? torch_slice(t, b->type_ids, 1, 0, S)
                           : torch_empty(t, "aten::gather", torch_shape(TORCH_I64, 2, (int64_t[]){1, S}));
    TorchTensor *types = torch_name(t, torch_expand(t, torch_name(t, row), 2, (int64_t[]){B, S}));
    TorchTensor *words = torch_name(t, torch_ask_gradient(job, torch_embedding(t, b->words, ids)));
    TorchTensor *typed = torch_name(t, torch_embedding(t, b->types, types));
    TorchTensor *h = torch_name(t, torch_add(t, words, typed));
    TorchTensor *placed = torch_name(t, torch_embedding(t, b->positions, positions));
    if (era->bert_adds_in_place)
        torch_add_in_place(t, h, placed);
    else
        h = torch_rebind(t, h, torch_add(t, h, placed));
    h = torch_rebind(t, h, torch_layer_norm(t, h, b->norm.weight, b->norm.bias));
    h = torch_rebind(t, h, torch_dropout(t, h, job->asked->model.dropout));
    h = torch_leave(t, frame, h);
    t->place = up;
    return h;
}

/* BertPooler */
static TorchTensor *pooled(TorchJob *job, TorchTensor *h)
{
    Torch *t = &job->torch;
    Bert *b = job->model;
    size_t frame = torch_frame(t);
    TorchPlace up = torch_enter(t, "pooler");
    TorchTensor *first = torch_name(t, torch_select(t, torch_all_of(t, h, 0, 1), 1)); /* h[:, 0] */
    TorchTensor *y = torch_name(t, torch_project(job, &b->pooler, first));
    y = torch_leave(t, frame, torch_rebind(t, y, torch_tanh(t, y)));
    t->place = up;
    return y;
}

/* BertModel; for classes it pools too, which `first` becomes. */
static TorchTensor *body(TorchJob *job, TorchTensor *ids, TorchTensor *mask, TorchTensor **first)
{
    Torch *t = &job->torch;
    Bert *b = job->model;
    size_t frame = torch_frame(t);
    const TransformersEra *era = t->dialect->transformers;
    if (era->bert_looks_for_padding && !mask)
        torch_look_for_padding(t, ids);
    TorchTensor *embedded = torch_name(t, embeddings(job, ids));
    if (era->bert_masks_of_numbers && !mask) { /* torch.ones, which hides nothing */
        TorchTensor *ones = torch_empty(t, "aten::ones", torch_shape(TORCH_F32, 2, ids->shape.size));
        mask = torch_name(t, ones);
    }
    b->mask = torch_bidirectional_mask(job, mask, embedded->shape.type);
    if (b->mask)
        torch_name(t, b->mask);
    TorchPlace up = t->place;
    TorchTensor *h = torch_name(t, embedded), *scores = NULL; /* layer_outputs */
    b->scores = NULL;
    for (int64_t i = 0; i < job->asked->model.layers; i++) {
        t->place = (TorchPlace){(int)i, NULL};
        h = torch_rebind(t, h, torch_layer(job, layer, h, (TorchTensor *[TORCH_ALSO]){b->mask}, 1));
        if (b->scores)
            scores = torch_rebind(t, scores, b->scores);
    }
    if (scores)
        torch_delete(t, scores);
    t->place = up;
    *first = job->asked->model.labels ? pooled(job, h) : NULL;
    return torch_leave(t, frame, h);
}

/* BertOnlyMLMHead */
static TorchTensor *words_of(TorchJob *job, TorchTensor *h)
{
    Torch *t = &job->torch;
    Bert *b = job->model;
    size_t frame = torch_frame(t);
    TorchPlace up = torch_enter(t, "cls");
    TorchTensor *y = torch_name(t, activated(job, &b->transform, h));
    y = torch_rebind(t, y, torch_layer_norm(t, y, b->head_norm.weight, b->head_norm.bias));
    y = torch_rebind(t, y, torch_project(job, &b->decoder, y));
    y = torch_leave(t, frame, y);
    t->place = up;
    return y;
}

static TorchTensor *classes_of(TorchJob *job, TorchTensor *first)
{
    Torch *t = &job->torch;
    Bert *b = job->model;
    size_t frame = torch_frame(t);
    TorchPlace up = torch_enter(t, "classifier");
    TorchTensor *y = torch_name(t, torch_dropout(t, first, job->asked->model.dropout));
    y = torch_leave(t, frame, torch_project(job, &b->classifier, y));
    t->place = up;
    return y;
}

static TorchTensor *forward(TorchJob *job, TorchTensor *ids, TorchTensor *labels, TorchTensor *mask)
{
    Torch *t = &job->torch;
    const PytorchModel *m = &job->asked->model;
    size_t frame = torch_frame(t);
    TorchTensor *first, *h = torch_name(t, body(job, ids, mask, &first));
    if (first)
        torch_name(t, first);
    TorchTensor *logits = torch_name(t, first ? classes_of(job, first) : words_of(job, h));
    torch_hold(job, logits);
    TorchPlace up = torch_enter(t, "loss");
    int64_t classes = m->labels ? m->labels : m->vocab, rows = torch_count(&labels->shape);
    TorchTensor *x = torch_view(t, logits, 2, (int64_t[]){rows, classes});
    TorchTensor *y = torch_view(t, labels, 1, &rows);
    TorchTensor *loss = torch_cross_entropy(t, x, y);
    t->place = up;
    return torch_leave(t, frame, loss);
}

const TorchFamily torch_bert = {make, forward};
