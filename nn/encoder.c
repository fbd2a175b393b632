/* See encoder_.h. */
#include <inttypes.h>
#include <stdio.h>

#include "encoder_.h"

enum { USUAL_MAX_SEQ = 512 };

/* ---- A block --------------------------------------------------------------------------------- */

Tensor *encoder_block_forward(Module *module, Tensor *x, const Batch *batch)
{
    const EncoderBlock *self = nn_state(module);
    Tensor *branch = nn_forward(self->attention, x, batch);
    if (!self->kind->plain_attention)
        branch = nn_forward(self->dropout, tensor_donate(branch), batch);
    Tensor *sum = tensor_add(x, tensor_donate(branch));
    Tensor *middle = nn_forward(self->norm1, tensor_donate(sum), batch);
    Tensor *hidden = nn_forward(self->up, module_enter(middle, batch), batch);
    /* GELU's value is a quarter of what a block would keep; recomputing it costs a hundredth of a step. */
    branch = nn_forward(self->down, tensor_donate(tensor_recompute(hidden)), batch);
    branch = nn_forward(self->dropout, tensor_donate(branch), batch);
    sum = tensor_add(tensor_donate(middle), tensor_donate(branch));
    return nn_forward(self->norm2, tensor_donate(sum), batch);
}

Module *encoder_block(const EncoderKind *kind, const BertConfig *c)
{
    const char *family = kind->whole->name;
    if (!c) {
        error_raise(ERROR_ARGUMENT, "%s block: the configuration is NULL", family);
        return NULL;
    }
    int64_t ffn = c->ffn ? c->ffn : 4 * (int64_t)c->dim;
    if (config_divided(family, "ffn", ffn))
        return NULL;
    Module *module = nn_module(kind->block);
    EncoderBlock *self = nn_state(module);
    if (!self)
        return NULL;
    float eps = c->norm_eps > 0 ? c->norm_eps : 1e-12f;
    self->kind = kind;
    self->attention =
        nn_add(module, kind->attention,
               nn_attention(&(AttentionConfig){
                   .style = kind->style, .dim = c->dim, .heads = c->heads, .kind = c->attention}));
    self->norm1 = nn_add(module, kind->attention_norm, nn_layer_norm(c->dim, eps));
    self->up =
        nn_add(module, kind->up,
               module_linear(&(LinearOptions){
                   .in = c->dim, .out = ffn, .bias = 1, .act = TENSOR_GELU, .split = LINEAR_BY_OUTPUTS}));
    self->down = nn_add(module, kind->down, module_linear_split(ffn, c->dim, 1, LINEAR_BY_INPUTS));
    self->norm2 = nn_add(module, kind->output_norm, nn_layer_norm(c->dim, eps));
    self->dropout = nn_add(module, "dropout", nn_dropout(c->dropout));
    return error_code() ? NULL : module;
}

/* ---- The model's forward --------------------------------------------------------------------- */

static Tensor *token_types(const Encoder *self, Tensor *hidden, const Batch *batch)
{
    if (!self->types)
        return hidden;
    if (!batch->types)
        return tensor_add_rows(tensor_donate(hidden), self->types, 1); /* all of type 0 */
    return tensor_add(tensor_donate(hidden),
                      tensor_donate(tensor_embedding(module_own_ids(batch->types), self->types)));
}

/* The table has rows before the first position, too, of which whoever reads the message knows nothing. */
static int check_positions(const Encoder *self, const Batch *batch)
{
    int64_t tokens = tensor_dim(batch->ids, 1), fits = tensor_dim(self->positions, 0) - self->first_position;
    if (!self->first_position || tokens <= fits)
        return 0;
    return error_raise(ERROR_SHAPE,
                       "%s: a sequence of %" PRId64 " is longer than the model's %" PRId64 " positions",
                       self->kind->whole->name, tokens, fits);
}

static Tensor *embeddings(const Encoder *self, const Batch *batch)
{
    if (check_positions(self, batch))
        return NULL;
    Tensor *hidden = nn_forward(self->words, batch->ids, batch); /* (B,T,C) */
    hidden = module_add_rows(tensor_donate(hidden), self->positions, self->first_position, batch);
    hidden = token_types(self, hidden, batch);
    hidden = nn_forward(self->norm, tensor_donate(hidden), batch);
    return nn_forward(self->dropout, tensor_donate(hidden), batch);
}

static Tensor *body(Module *module, Tensor *x, const Batch *batch) /* (B,T,C) */
{
    const Encoder *self = nn_state(module);
    if (!batch || !batch->ids) {
        error_raise(ERROR_DATA, "%s: the batch has no token ids", module->type->name);
        return NULL;
    }
    Tensor *hidden = module_first_stage(module) ? embeddings(self, batch) : x;
    return nn_run_blocks(module, tensor_donate(hidden), batch);
}

static Tensor *hidden_states(Module *module, Tensor *x, const Batch *batch) /* (B,T,C) */
{
    const Encoder *self = nn_state(module);
    Tensor *hidden = body(module, x, batch);
    if (!self->decoder || !module_last_stage(module))
        return hidden;
    hidden = nn_forward(self->transform, tensor_donate(hidden), batch);
    return nn_forward(self->head_norm, tensor_donate(hidden), batch);
}

Tensor *encoder_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Encoder *self = nn_state(module);
    Tensor *hidden = hidden_states(module, x, batch);
    if (!module_last_stage(module))
        return hidden;
    if (self->classifier.out)
        return module_classify(&self->classifier, tensor_donate(hidden), batch); /* (B,classes) */
    if (!self->decoder)
        return hidden;
    return nn_forward(self->decoder, tensor_donate(hidden), batch); /* (B,T,V) */
}

/* ---- Its parts ------------------------------------------------------------------------------- */

/* Whether it has the masked-language-model head, which is tied to the embedding. */
static int is_masked(const BertConfig *c)
{
    return !c->pooler && !c->classes;
}

static void add_embeddings(Module *module, Encoder *self, const BertConfig *c)
{
    const EncoderKind *kind = self->kind;
    module_of_ends(1, is_masked(c));
    self->words = nn_add(module, kind->words, module_vocabulary(c->vocab, c->dim));
    module_of_ends(1, 0);
    Module *positions =
        nn_add(module, kind->positions, nn_embedding(self->first_position + (int64_t)c->max_seq, c->dim));
    Module *types = kind->types ? nn_add(module, kind->types, nn_embedding(c->types, c->dim)) : NULL;
    self->norm = nn_add(module, kind->norm, nn_layer_norm(c->dim, c->norm_eps));
    self->dropout = nn_add(module, kind->dropout, nn_dropout(c->dropout));
    if (error_code())
        return;
    self->word_table = module_own(self->words, "weight");
    if (is_masked(c))
        module_tie_stages(self->word_table);
    self->positions = module_embedding_parts(positions);
    self->types = module_embedding_parts(types);
}

static void add_transform(Module *to, Encoder *self, const BertConfig *c)
{
    self->transform = nn_add(to, self->kind->transform, nn_linear_act(c->dim, c->dim, 1, TENSOR_GELU));
    self->head_norm = nn_add(to, self->kind->head_norm, nn_layer_norm(c->dim, c->norm_eps));
}

static const ModuleClass predictions_class = {"masked_predictions", 0, NULL};

static Module *predictions(Encoder *self, const BertConfig *c)
{
    Module *module = nn_module(&predictions_class);
    self->decoder_bias = module_class_bias(module, "bias", c->vocab);
    add_transform(module, self, c);
    return error_code() ? NULL : module;
}

static void add_head(Module *module, Encoder *self, const BertConfig *c)
{
    const EncoderKind *kind = self->kind;
    if (!kind->predictions) {
        add_transform(module, self, c);
        self->decoder = nn_add(module, kind->decoder, module_linear_tied_biased(self->word_table, c->vocab));
        self->decoder_bias = module_own(self->decoder, "bias");
    } else if (nn_add(module, kind->predictions, predictions(self, c))) {
        self->decoder =
            nn_add(module, kind->decoder, module_linear_tied(self->word_table, self->decoder_bias));
    }
}

/* ---- The whole ------------------------------------------------------------------------------- */

int encoder_first_position(const EncoderKind *kind, const BertConfig *config)
{
    return config->first_position ? config->first_position : kind->first_position;
}

/* With the defaults in place of zeros. Returns non-zero after raising. */
static int complete(const EncoderKind *kind, BertConfig *c)
{
    const char *family = kind->whole->name;
    int64_t ffn = c->ffn ? c->ffn : 4 * (int64_t)c->dim;
    c->max_seq = c->max_seq ? c->max_seq : USUAL_MAX_SEQ;
    c->types = c->types ? c->types : 2;
    c->norm_eps = c->norm_eps > 0 ? c->norm_eps : 1e-12f;
    c->first_position = encoder_first_position(kind, c);
    if (config_positive(family, "vocab", c->vocab) || config_positive(family, "dim", c->dim) ||
        config_positive(family, "layers", c->layers) || config_positive(family, "ffn", ffn) ||
        config_positive(family, "max_seq", c->max_seq) || config_positive(family, "types", c->types) ||
        config_heads(family, c->dim, c->heads, c->heads))
        return error_code();
    c->ffn = (int)ffn;
    if (c->classes && (c->classes < 0 || c->pooler || !kind->classifier.out))
        return error_raise(ERROR_ARGUMENT,
                           "%s: classes is %d%s; a classifier has 1 or more, and what pools "
                           "tokens is part of it%s",
                           family, c->classes, c->pooler ? " beside pooler 1" : "",
                           kind->classifier.out ? "" : "; this family has none");
    if (c->first_position < 0 || (c->first_position && !kind->first_position))
        return error_raise(ERROR_ARGUMENT, "%s: first_position must be %s, not %d", family,
                           kind->first_position ? "0 or more" : "0", c->first_position);
    return 0;
}

static void add_parts(Module *module, Encoder *self, const BertConfig *c)
{
    add_embeddings(module, self, c);
    for (int i = 0; i < c->layers && !error_code(); i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.%d", self->kind->layers, i);
        module_of_block(module, i);
        nn_mark_block(module, nn_add(module, name, encoder_block(self->kind, c)));
    }
    module_of_ends(0, 1);
    if (is_masked(c))
        add_head(module, self, c);
    else if (c->classes)
        module_add_classifier(module, &self->classifier, &self->kind->classifier,
                              &(ClassifierSizes){.dim = c->dim,
                                                 .classes = c->classes,
                                                 .dropout = c->dropout,
                                                 .head_dropout = c->head_dropout});
    else if (self->kind->pooler)
        self->pooler = nn_add(module, self->kind->pooler, nn_linear(c->dim, c->dim, 1));
    module_of_all();
}

Module *encoder_model(const EncoderKind *kind, const BertConfig *config)
{
    const char *family = kind->whole->name;
    if (config_missing(family, config))
        return NULL;
    BertConfig c = *config;
    if (complete(kind, &c))
        return NULL;
    Module *module = nn_module(kind->whole);
    Encoder *self = nn_state(module);
    if (!self)
        return NULL;
    self->kind = kind;
    self->first_position = c.first_position;
    if (module_stages_begin(module, c.layers, c.dim) ||
        (!is_masked(&c) && config_no_rows(family, c.classes ? "the classifier is" : "the pooler is")))
        return NULL;
    module_draw_later(module, 1);
    add_parts(module, self, &c);
    module_draw_later(module, 0);
    module_init_normal(module, 0.02f);
    if (error_code())
        return NULL;
    if (kind->begin)
        kind->begin(self, &c);
    if (is_masked(&c))
        nn_offer_head(module, &(ModuleHead){.hidden = hidden_states,
                                            .weight = self->word_table,
                                            .bias = self->decoder_bias,
                                            .path = kind->decoder,
                                            .body = body,
                                            .dense = self->transform,
                                            .norm = self->head_norm});
    module_has_rows(module);
    return module;
}

ModelSizes encoder_sizes(const BertConfig *c)
{
    return (ModelSizes){.layers = c->layers,
                        .vocab = c->vocab,
                        .max_seq = c->max_seq ? c->max_seq : USUAL_MAX_SEQ,
                        .dim = c->dim,
                        .heads = c->heads};
}
