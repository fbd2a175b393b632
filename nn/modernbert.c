/* ModernBERT: an encoder with norms before the branches, rotary positions, windows in two of three layers,
 * gated feed-forwards, and a masked-language-model head. Query, key and value are one projection, as are a
 * feed-forward's two halves. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "module_.h"

enum { USUAL_MAX_SEQ = 8192, USUAL_WINDOW = 128, USUAL_PERIOD = 3 };

/* ---- Feed-forward ---------------------------------------------------------------------------- */

typedef struct Gated {
    Module *in, *out, *dropout;
} Gated;

static Tensor *gated_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Gated *self = nn_state(module);
    Tensor *both = nn_forward(self->in, module_enter(x, batch), batch); /* (B,T,2F) */
    Tensor *hidden = tensor_gated_packed(tensor_donate(both), TENSOR_GELU);
    hidden = nn_forward(self->dropout, tensor_donate(hidden), batch);
    return nn_forward(self->out, tensor_donate(hidden), batch);
}

static const ModuleClass gated_class = {"modernbert_mlp", sizeof(Gated), gated_forward};

static Module *gated(const ModernBertConfig *c)
{
    /* Each rank would draw the masks of its own columns. */
    if (config_divided("modernbert", "ffn", c->ffn) ||
        (c->dropout > 0 && config_undivided("modernbert", "dropout within feed-forwards is")))
        return NULL;
    Module *module = nn_module(&gated_class);
    Gated *self = nn_state(module);
    if (!self)
        return NULL;
    self->in = nn_add(module, "Wi",
                      module_linear(&(LinearOptions){.in = c->dim,
                                                     .out = 2 * (int64_t)c->ffn,
                                                     .bias = c->mlp_bias,
                                                     .split = LINEAR_BY_OUTPUTS,
                                                     .packed = 2}));
    self->out = nn_add(module, "Wo", module_linear_split(c->ffn, c->dim, c->mlp_bias, LINEAR_BY_INPUTS));
    self->dropout = nn_add(module, "drop", nn_dropout(c->dropout));
    return error_code() ? NULL : module;
}

/* ---- A block --------------------------------------------------------------------------------- */

typedef struct ModernBlock {
    Module *attention_norm, *attention, *mlp_norm, *mlp; /* the first block has no norm before attention */
} ModernBlock;

static Tensor *block_forward(Module *module, Tensor *x, const Batch *batch) /* (B,T,C) */
{
    const ModernBlock *self = nn_state(module);
    Tensor *normed = self->attention_norm ? tensor_donate(nn_forward(self->attention_norm, x, batch)) : x;
    Tensor *branch = nn_forward(self->attention, normed, batch);
    Tensor *middle = tensor_add(x, tensor_donate(branch));
    normed = nn_forward(self->mlp_norm, middle, batch);
    branch = nn_forward(self->mlp, tensor_donate(normed), batch);
    return tensor_add(tensor_donate(middle), tensor_donate(branch));
}

static const ModuleClass block_class = {"modernbert_block", sizeof(ModernBlock), block_forward};

/* Whether a layer sees all tokens. */
static int sees_all(const ModernBertConfig *c, int layer)
{
    static const LayerSet none;
    return memcmp(&c->global, &none, sizeof none) ? layer_in(&c->global, layer) : layer % USUAL_PERIOD == 0;
}

static Module *attention(const ModernBertConfig *c, int layer)
{
    int all = sees_all(c, layer);
    return nn_attention(&(AttentionConfig){.style = ATTENTION_MODERNBERT,
                                           .dim = c->dim,
                                           .heads = c->heads,
                                           .kind = c->attention,
                                           .rope_theta = all ? c->global_theta : c->local_theta,
                                           .window = all ? 0 : c->window,
                                           .qkv_bias = c->attention_bias,
                                           .o_bias = c->attention_bias});
}

static Module *add_norm(Module *module, const char *name, const ModernBertConfig *c)
{
    return nn_add(module, name, module_layer_norm(c->dim, c->norm_eps, c->norm_bias));
}

static Module *block(const ModernBertConfig *c, int layer)
{
    Module *module = nn_module(&block_class);
    ModernBlock *self = nn_state(module);
    if (!self)
        return NULL;
    self->attention_norm = layer ? add_norm(module, "attn_norm", c) : NULL;
    self->attention = nn_add(module, "attn", attention(c, layer));
    self->mlp_norm = add_norm(module, "mlp_norm", c);
    self->mlp = nn_add(module, "mlp", gated(c));
    return error_code() ? NULL : module;
}

/* ---- The model ------------------------------------------------------------------------------- */

typedef struct ModernBert {
    Module *words, *norm, *dropout, *final_norm, *dense, *head_norm, *decoder;
    Classifier classifier; /* in place of the decoder, where there are classes */
    int max_seq;
} ModernBert;

static const ClassifierKind classifier_kind = {
    .dense = "head.dense", .norm = "head.norm", .out = "classifier", .act = TENSOR_GELU};

/* What has a word for each token: neither the encoder alone nor a classifier. */
static int is_masked(const ModernBertConfig *c)
{
    return !c->headless && !c->classes;
}

static Tensor *body(Module *module, Tensor *x, const Batch *batch) /* (B,T,C) */
{
    const ModernBert *self = nn_state(module);
    if (!batch || !batch->ids) {
        error_raise(ERROR_DATA, "modernbert: the batch has no token ids");
        return NULL;
    }
    if (tensor_dim(batch->ids, 1) > self->max_seq) {
        error_raise(ERROR_SHAPE, "modernbert: a sequence of %lld is longer than the model's %d positions",
                    (long long)tensor_dim(batch->ids, 1), self->max_seq);
        return NULL;
    }
    Tensor *hidden = x;
    if (module_first_stage(module)) {
        hidden = nn_forward(self->words, batch->ids, batch);
        hidden = nn_forward(self->norm, tensor_donate(hidden), batch);
        hidden = nn_forward(self->dropout, tensor_donate(hidden), batch);
    }
    hidden = nn_run_blocks(module, tensor_donate(hidden), batch);
    if (!module_last_stage(module))
        return hidden;
    return nn_forward(self->final_norm, tensor_donate(hidden), batch);
}

static Tensor *hidden_states(Module *module, Tensor *x, const Batch *batch) /* (B,T,C) */
{
    const ModernBert *self = nn_state(module);
    Tensor *hidden = body(module, x, batch);
    if (!self->decoder || !module_last_stage(module))
        return hidden;
    hidden = nn_forward(self->dense, tensor_donate(hidden), batch);
    return nn_forward(self->head_norm, tensor_donate(hidden), batch);
}

static Tensor *modernbert_forward(Module *module, Tensor *x, const Batch *batch)
{
    const ModernBert *self = nn_state(module);
    Tensor *hidden = hidden_states(module, x, batch);
    if (!module_last_stage(module))
        return hidden;
    if (self->classifier.out)
        return module_classify(&self->classifier, tensor_donate(hidden), batch); /* (B,classes) */
    if (!self->decoder)
        return hidden;
    return nn_forward(self->decoder, tensor_donate(hidden), batch); /* (B,T,V) */
}

static const ModuleClass modernbert_class = {"modernbert", sizeof(ModernBert), modernbert_forward};

static void add_parts(Module *module, ModernBert *self, const ModernBertConfig *c)
{
    module_of_ends(1, is_masked(c));
    self->words = nn_add(module, "model.embeddings.tok_embeddings", module_vocabulary(c->vocab, c->dim));
    module_of_ends(1, 0);
    self->norm = add_norm(module, "model.embeddings.norm", c);
    self->dropout = nn_add(module, "model.embeddings.drop", nn_dropout(c->dropout));
    for (int i = 0; i < c->layers && !error_code(); i++) {
        char name[32];
        snprintf(name, sizeof name, "model.layers.%d", i);
        module_of_block(module, i);
        nn_mark_block(module, nn_add(module, name, block(c, i)));
    }
    module_of_ends(0, 1);
    self->final_norm = add_norm(module, "model.final_norm", c);
    Tensor *table = error_code() ? NULL : module_own(self->words, "weight");
    if (table && c->classes)
        module_add_classifier(module, &self->classifier, &classifier_kind,
                              &(ClassifierSizes){.dim = c->dim,
                                                 .classes = c->classes,
                                                 .dropout = c->dropout,
                                                 .head_dropout = c->head_dropout,
                                                 .no_dense_bias = !c->head_bias,
                                                 .norm_bias = c->norm_bias,
                                                 .mean = c->mean_pooling,
                                                 .norm_eps = c->norm_eps});
    if (table && is_masked(c)) {
        module_tie_stages(table);
        self->dense = nn_add(module, "head.dense", nn_linear_act(c->dim, c->dim, c->head_bias, TENSOR_GELU));
        self->head_norm = add_norm(module, "head.norm", c);
        self->decoder = nn_add(module, "decoder",
                               c->no_decoder_bias ? module_linear_tied(table, NULL)
                                                  : module_linear_tied_biased(table, c->vocab));
    }
    module_of_all();
}

/* What adds to the residual stream begins smaller, as in GPT-2, and so does the head; classes by the width.
 */
static void init(Module *module, const ModernBert *self, int layers, int dim)
{
    float residual = 0.02f / sqrtf(2.0f * (float)layers);
    module_init_normal(module, 0.02f);
    for (int i = 0; i < nn_block_count(module); i++) {
        const ModernBlock *block = nn_state(nn_block(module, i));
        const Gated *mlp = nn_state(block->mlp);
        tensor_fill_normal(module_own(module_attention_output(block->attention), "weight"), 0, residual);
        tensor_fill_normal(module_own(mlp->out, "weight"), 0, residual);
    }
    const Module *dense = self->dense ? self->dense : self->classifier.dense;
    if (dense)
        tensor_fill_normal(module_own(dense, "weight"), 0, residual);
    if (self->classifier.out)
        tensor_fill_normal(module_own(self->classifier.out, "weight"), 0, 1 / sqrtf((float)dim));
}

/* With the defaults in place of zeros. */
static ModernBertConfig complete(const ModernBertConfig *config)
{
    ModernBertConfig c = *config;
    c.ffn = c.ffn ? c.ffn : c.dim / 2 * 3;
    c.max_seq = c.max_seq ? c.max_seq : USUAL_MAX_SEQ;
    c.window = c.window ? c.window : USUAL_WINDOW;
    c.global_theta = c.global_theta > 0 ? c.global_theta : 160000;
    c.local_theta = c.local_theta > 0 ? c.local_theta : 10000;
    c.norm_eps = c.norm_eps > 0 ? c.norm_eps : 1e-5f;
    return c;
}

static int check(const ModernBertConfig *c)
{
    static const char name[] = "modernbert";
    int head_dim = config_head_dim(name, c->dim, c->heads, c->heads, 0);
    if (c->classes && (c->classes < 0 || c->headless))
        return error_raise(ERROR_ARGUMENT, "%s: classes is %d%s; a classifier has 1 or more, and a head",
                           name, c->classes, c->headless ? " beside headless 1" : "");
    return !head_dim || config_rotary(name, head_dim, 0) || config_positive(name, "vocab", c->vocab) ||
           config_positive(name, "dim", c->dim) || config_positive(name, "layers", c->layers) ||
           config_positive(name, "ffn", c->ffn) || config_positive(name, "max_seq", c->max_seq) ||
           config_positive(name, "window", c->window);
}

Module *nn_modernbert(const ModernBertConfig *config)
{
    if (config_missing("modernbert", config))
        return NULL;
    const ModernBertConfig c = complete(config);
    if (check(&c))
        return NULL;
    Module *module = nn_module(&modernbert_class);
    ModernBert *self = nn_state(module);
    if (!self || module_stages_begin(module, c.layers, c.dim) ||
        (c.classes && config_no_rows("modernbert", "the classifier is")))
        return NULL;
    self->max_seq = c.max_seq;
    module_draw_later(module, 1);
    add_parts(module, self, &c);
    module_draw_later(module, 0);
    init(module, self, c.layers, c.dim);
    if (error_code())
        return NULL;
    if (is_masked(&c))
        nn_offer_head(module, &(ModuleHead){.hidden = hidden_states,
                                            .weight = module_own(self->words, "weight"),
                                            .bias = module_own(self->decoder, "bias"),
                                            .path = "decoder",
                                            .body = body,
                                            .dense = self->dense,
                                            .norm = self->head_norm});
    module_has_rows(module);
    return module;
}

/* ---- The family ------------------------------------------------------------------------------ */

static Module *make(const ModelPreset *preset)
{
    return nn_modernbert(&preset->config.modernbert);
}

static ModelSizes sizes(const ModelPreset *preset)
{
    const ModernBertConfig c = complete(&preset->config.modernbert);
    int sliding = 0;
    for (int i = 0; i < c.layers && c.window < 2 * c.max_seq; i++)
        sliding += !sees_all(&c, i);
    return (ModelSizes){.layers = c.layers,
                        .vocab = c.vocab,
                        .max_seq = c.max_seq,
                        .window = c.window < 2 * c.max_seq ? c.window : 0,
                        .window_layers = sliding,
                        .dim = c.dim,
                        .heads = c.heads};
}

const ModelFamilyRow modernbert_family = {
    .name = "modernbert",
    .reads = MODEL_READS_TEXT,
    .objective = OBJECTIVE_MASKED,
    .lr = 1e-3f,
    .make = make,
    .sizes = sizes,
    .vocab_at = offsetof(ModelPreset, config.modernbert.vocab),
    .attention_at = offsetof(ModelPreset, config.modernbert.attention),
    .dropout_at = offsetof(ModelPreset, config.modernbert.dropout),
    .classes_at = offsetof(ModelPreset, config.modernbert.classes),
    .head_dropout_at = offsetof(ModelPreset, config.modernbert.head_dropout),
};
