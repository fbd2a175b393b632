/* RoBERTa and XLM-RoBERTa: BERT with parts of other names, and positions that begin behind the padding token.
 */
#include "encoder_.h"

static const ModuleClass roberta_class = {"roberta", sizeof(Encoder), encoder_forward};
static const ModuleClass block_class = {"roberta_block", sizeof(EncoderBlock), encoder_block_forward};

static const EncoderKind roberta = {
    .whole = &roberta_class,
    .block = &block_class,
    .style = ATTENTION_BERT,
    .first_position = 2, /* the padding token is 1 */
    .words = "roberta.embeddings.word_embeddings",
    .positions = "roberta.embeddings.position_embeddings",
    .types = "roberta.embeddings.token_type_embeddings",
    .norm = "roberta.embeddings.LayerNorm",
    .dropout = "roberta.embeddings.dropout",
    .layers = "roberta.encoder.layer",
    .pooler = "roberta.pooler.dense",
    .predictions = "lm_head",
    .transform = "dense",
    .head_norm = "layer_norm",
    .decoder = "lm_head.decoder",
    .classifier = {.dense = "classifier.dense",
                   .out = "classifier.out_proj",
                   .act = TENSOR_TANH,
                   .dropout_before = 1,
                   .dense_stays = 1},
    .attention = "attention",
    .attention_norm = "attention.output.LayerNorm",
    .up = "intermediate.dense",
    .down = "output.dense",
    .output_norm = "output.LayerNorm",
};

Module *nn_roberta(const BertConfig *config)
{
    return encoder_model(&roberta, config);
}

/* ---- The family ------------------------------------------------------------------------------ */

static Module *make(const ModelPreset *preset)
{
    return nn_roberta(&preset->config.roberta);
}

static ModelSizes sizes(const ModelPreset *preset)
{
    return encoder_sizes(&preset->config.roberta);
}

const ModelFamilyRow roberta_family = {
    .name = "roberta",
    .reads = MODEL_READS_TEXT,
    .objective = OBJECTIVE_MASKED,
    .gpt_block = 1,
    .lr = 1e-3f,
    .make = make,
    .sizes = sizes,
    .vocab_at = offsetof(ModelPreset, config.roberta.vocab),
    .attention_at = offsetof(ModelPreset, config.roberta.attention),
    .dropout_at = offsetof(ModelPreset, config.roberta.dropout),
    .classes_at = offsetof(ModelPreset, config.roberta.classes),
    .head_dropout_at = offsetof(ModelPreset, config.roberta.head_dropout),
};
