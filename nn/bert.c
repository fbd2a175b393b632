/* BERT: LayerNorm after each branch, token types, padding mask, and the masked-language-model head (or the
 * pooler). */
#include <stdio.h>

#include "module_.h"

enum { USUAL_MAX_SEQ = 512 };

typedef struct BertBlock {
    Module *attention, *norm1, *up, *down, *norm2, *dropout;
} BertBlock;

static Tensor *block_forward(Module *module, Tensor *x, const Batch *batch) /* (B,T,C) */
{
    const BertBlock *self = nn_state(module);
    Tensor *branch = nn_forward(self->attention, x, batch);
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

static const ModuleClass block_class = {"bert_block", sizeof(BertBlock), block_forward};

Module *nn_bert_block(const BertConfig *c)
{
    if (config_missing("bert block", c))
        return NULL;
    int64_t ffn = c->ffn ? c->ffn : 4 * (int64_t)c->dim;
    if (config_divided("bert", "ffn", ffn))
        return NULL;
    Module *module = nn_module(&block_class);
    BertBlock *self = nn_state(module);
    if (!self)
        return NULL;
    float eps = c->norm_eps > 0 ? c->norm_eps : 1e-12f;
    self->attention =
        nn_add(module, "attention",
               nn_attention(&(AttentionConfig){
                   .style = ATTENTION_BERT, .dim = c->dim, .heads = c->heads, .kind = c->attention}));
    self->norm1 = nn_add(module, "attention.output.LayerNorm", nn_layer_norm(c->dim, eps));
    self->up =
        nn_add(module, "intermediate.dense",
               module_linear(&(LinearOptions){
                   .in = c->dim, .out = ffn, .bias = 1, .act = TENSOR_GELU, .split = LINEAR_BY_OUTPUTS}));
    self->down = nn_add(module, "output.dense", module_linear_split(ffn, c->dim, 1, LINEAR_BY_INPUTS));
    self->norm2 = nn_add(module, "output.LayerNorm", nn_layer_norm(c->dim, eps));
    self->dropout = nn_add(module, "dropout", nn_dropout(c->dropout));
    return error_code() ? NULL : module;
}

typedef struct Bert {
    Module *words, *norm, *dropout, *pooler, *transform, *head_norm, *decoder;
    Tensor *word_table, *positions, *types, *decoder_bias;
} Bert;

static const char decoder_path[] = "cls.predictions.decoder";

static Tensor *bert_embeddings(const Bert *self, const Batch *batch)
{
    Tensor *hidden = nn_forward(self->words, batch->ids, batch); /* (B,T,C) */
    hidden = module_add_rows(tensor_donate(hidden), self->positions, 0, batch);
    if (batch->types)
        hidden = tensor_add(tensor_donate(hidden),
                            tensor_donate(tensor_embedding(module_own_ids(batch->types), self->types)));
    else
        hidden = tensor_add_rows(tensor_donate(hidden), self->types, 1); /* all of type 0 */
    hidden = nn_forward(self->norm, tensor_donate(hidden), batch);
    return nn_forward(self->dropout, tensor_donate(hidden), batch);
}

static Tensor *bert_body(Module *module, Tensor *x, const Batch *batch) /* (B,T,C) */
{
    const Bert *self = nn_state(module);
    if (!batch || !batch->ids) {
        error_raise(ERROR_DATA, "bert: the batch has no token ids");
        return NULL;
    }
    Tensor *hidden = module_first_stage(module) ? bert_embeddings(self, batch) : x;
    return nn_run_blocks(module, tensor_donate(hidden), batch);
}

static Tensor *bert_hidden(Module *module, Tensor *x, const Batch *batch) /* (B,T,C) */
{
    const Bert *self = nn_state(module);
    Tensor *hidden = bert_body(module, x, batch);
    if (self->pooler || !module_last_stage(module))
        return hidden;
    hidden = nn_forward(self->transform, tensor_donate(hidden), batch);
    return nn_forward(self->head_norm, tensor_donate(hidden), batch);
}

static Tensor *bert_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Bert *self = nn_state(module);
    Tensor *hidden = bert_hidden(module, x, batch);
    if (self->pooler || !module_last_stage(module))
        return hidden;
    return nn_forward(self->decoder, tensor_donate(hidden), batch); /* (B,T,V) */
}

static const ModuleClass bert_class = {"bert", sizeof(Bert), bert_forward};

static void bert_embedding_modules(Module *module, Bert *self, const BertConfig *c)
{
    module_of_ends(1, !c->pooler);
    self->words = nn_add(module, "bert.embeddings.word_embeddings", module_vocabulary(c->vocab, c->dim));
    module_of_ends(1, 0);
    Module *positions =
        nn_add(module, "bert.embeddings.position_embeddings", nn_embedding(c->max_seq, c->dim));
    Module *types = nn_add(module, "bert.embeddings.token_type_embeddings", nn_embedding(c->types, c->dim));
    self->norm = nn_add(module, "bert.embeddings.LayerNorm", nn_layer_norm(c->dim, c->norm_eps));
    self->dropout = nn_add(module, "bert.embeddings.dropout", nn_dropout(c->dropout));
    if (error_code())
        return;
    self->word_table = module_own(self->words, "weight");
    if (!c->pooler)
        module_tie_stages(self->word_table);
    self->positions = module_embedding_parts(positions);
    self->types = module_embedding_parts(types);
}

static const ModuleClass predictions_class = {"bert_predictions", 0, NULL};

static Module *bert_predictions(Bert *self, const BertConfig *c)
{
    Module *module = nn_module(&predictions_class);
    self->decoder_bias = module_class_bias(module, "bias", c->vocab);
    self->transform = nn_add(module, "transform.dense", nn_linear_act(c->dim, c->dim, 1, TENSOR_GELU));
    self->head_norm = nn_add(module, "transform.LayerNorm", nn_layer_norm(c->dim, c->norm_eps));
    return error_code() ? NULL : module;
}

static void bert_head(Module *module, Bert *self, const BertConfig *c)
{
    if (nn_add(module, "cls.predictions", bert_predictions(self, c)))
        self->decoder =
            nn_add(module, decoder_path, module_linear_tied(self->word_table, self->decoder_bias));
}

Module *nn_bert(const BertConfig *config)
{
    if (config_missing("bert", config))
        return NULL;
    BertConfig c = *config;
    int64_t ffn = c.ffn ? c.ffn : 4 * (int64_t)c.dim;
    c.max_seq = c.max_seq ? c.max_seq : USUAL_MAX_SEQ;
    c.types = c.types ? c.types : 2;
    c.norm_eps = c.norm_eps > 0 ? c.norm_eps : 1e-12f;
    if (config_positive("bert", "vocab", c.vocab) || config_positive("bert", "dim", c.dim) ||
        config_positive("bert", "layers", c.layers) || config_positive("bert", "ffn", ffn) ||
        config_positive("bert", "max_seq", c.max_seq) || config_positive("bert", "types", c.types) ||
        config_heads("bert", c.dim, c.heads, c.heads))
        return NULL;
    c.ffn = (int)ffn;
    Module *module = nn_module(&bert_class);
    Bert *self = nn_state(module);
    if (!self)
        return NULL;
    if (module_stages_begin(module, c.layers, c.dim) || (c.pooler && config_no_rows("bert", "the pooler is")))
        return NULL;
    module_draw_later(module, 1);
    bert_embedding_modules(module, self, &c);
    for (int i = 0; i < c.layers && !error_code(); i++) {
        char name[40];
        snprintf(name, sizeof name, "bert.encoder.layer.%d", i);
        module_of_block(module, i);
        nn_mark_block(module, nn_add(module, name, nn_bert_block(&c)));
    }
    module_of_ends(0, 1);
    if (c.pooler)
        self->pooler = nn_add(module, "bert.pooler.dense", nn_linear(c.dim, c.dim, 1));
    else
        bert_head(module, self, &c);
    module_of_all();
    module_draw_later(module, 0);
    module_init_normal(module, 0.02f);
    if (error_code())
        return NULL;
    if (!c.pooler)
        nn_offer_head(module, &(ModuleHead){.hidden = bert_hidden,
                                            .weight = self->word_table,
                                            .bias = self->decoder_bias,
                                            .path = decoder_path,
                                            .body = bert_body,
                                            .dense = self->transform,
                                            .norm = self->head_norm});
    module_has_rows(module);
    return module;
}

/* ---- The family ------------------------------------------------------------------------------ */

static Module *make(const ModelPreset *preset)
{
    return nn_bert(&preset->config.bert);
}

static ModelSizes sizes(const ModelPreset *preset)
{
    const BertConfig *c = &preset->config.bert;
    return (ModelSizes){.layers = c->layers,
                        .vocab = c->vocab,
                        .max_seq = c->max_seq ? c->max_seq : USUAL_MAX_SEQ,
                        .dim = c->dim,
                        .heads = c->heads};
}

const ModelFamilyRow bert_family = {
    .name = "bert",
    .reads = MODEL_READS_TEXT,
    .objective = OBJECTIVE_MASKED,
    .gpt_block = 1,
    .lr = 1e-3f,
    .make = make,
    .sizes = sizes,
    .vocab_at = offsetof(ModelPreset, config.bert.vocab),
    .attention_at = offsetof(ModelPreset, config.bert.attention),
    .dropout_at = offsetof(ModelPreset, config.bert.dropout),
};
