/* BERT: an encoder with token types, a padding mask, and the masked-language-model head (or the pooler). */
#include "encoder_.h"

static const ModuleClass bert_class = {"bert", sizeof(Encoder), encoder_forward};
static const ModuleClass block_class = {"bert_block", sizeof(EncoderBlock), encoder_block_forward};

static const EncoderKind bert = {
    .whole = &bert_class,
    .block = &block_class,
    .style = ATTENTION_BERT,
    .words = "bert.embeddings.word_embeddings",
    .positions = "bert.embeddings.position_embeddings",
    .types = "bert.embeddings.token_type_embeddings",
    .norm = "bert.embeddings.LayerNorm",
    .dropout = "bert.embeddings.dropout",
    .layers = "bert.encoder.layer",
    .pooler = "bert.pooler.dense",
    .predictions = "cls.predictions",
    .transform = "transform.dense",
    .head_norm = "transform.LayerNorm",
    .decoder = "cls.predictions.decoder",
    .classifier = {.dense = "bert.pooler.dense", .out = "classifier", .act = TENSOR_TANH},
    .attention = "attention",
    .attention_norm = "attention.output.LayerNorm",
    .up = "intermediate.dense",
    .down = "output.dense",
    .output_norm = "output.LayerNorm",
};

Module *nn_bert_block(const BertConfig *config)
{
    return encoder_block(&bert, config);
}

Module *nn_bert(const BertConfig *config)
{
    return encoder_model(&bert, config);
}

/* ---- The family ------------------------------------------------------------------------------ */

static Module *make(const ModelPreset *preset)
{
    return nn_bert(&preset->config.bert);
}

static ModelSizes sizes(const ModelPreset *preset)
{
    return encoder_sizes(&preset->config.bert);
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
    .classes_at = offsetof(ModelPreset, config.bert.classes),
    .head_dropout_at = offsetof(ModelPreset, config.bert.head_dropout),
};
