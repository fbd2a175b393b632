/* BERT in files of others. Names, defaults and meanings are those of transformers' BertConfig. */
#include <stdio.h>
#include <string.h>

#include "family_.h"

void read_encoder(Fields *f, BertConfig *c, int vocab, const char *title)
{
    static const char *const gelu[] = {"gelu", "gelu_python", NULL};
    char decoder[64], tied[64];
    snprintf(decoder, sizeof decoder, "%s as a decoder is not computed", title);
    snprintf(tied, sizeof tied, "the head of %s is its embedding here", title);
    c->vocab = fields_count(f, "vocab_size", vocab, 1, MOST_VOCAB);
    c->dim = fields_count(f, "hidden_size", 768, 1, MOST_WIDTH);
    c->layers = fields_count(f, "num_hidden_layers", 12, 1, MOST_LAYERS);
    c->heads = fields_count(f, "num_attention_heads", 12, 1, MOST_HEADS);
    c->ffn = fields_count(f, "intermediate_size", 3072, 1, MOST_FFN);
    c->max_seq = fields_count(f, "max_position_embeddings", 512, 1, MOST_POSITIONS);
    c->types = fields_count(f, "type_vocab_size", 2, 1, MOST_TYPES);
    c->norm_eps = (float)fields_number(f, "layer_norm_eps", 1e-12, 1e-30, 1);
    c->dropout = (float)fields_probability(f, "hidden_dropout_prob", 0.1);
    c->head_dropout = read_head_dropout(f, "classifier_dropout", 0);
    check_heads(f, "num_attention_heads", c->heads, "hidden_size", c->dim);
    read_activation(f, "hidden_act", gelu, "\"gelu\", which is what is computed");
    if (strcmp(fields_text(f, "position_embedding_type", "absolute"), "absolute"))
        fields_refuse(f, "position_embedding_type", "\"absolute\", learned positions");
    fields_must(f, "is_decoder", 0, decoder);
    fields_must(f, "tie_word_embeddings", 1, tied);
    note_attention_dropout(f, "attention_probs_dropout_prob", 0.1);
}

float read_head_dropout(Fields *f, const char *name, double otherwise)
{
    double p = fields_null(f, name) ? otherwise : fields_probability(f, name, otherwise);
    int said = !fields_null(f, name) && fields_get(f, name);
    return p > 0 ? (float)p : said ? -1 : 0;
}

static void read_bert(Fields *f, const void *kind)
{
    (void)kind;
    read_encoder(f, &f->model->preset.config.bert, 30522, "BERT");
}

void write_encoder(json_t **o, const BertConfig *c, int positions)
{
    config_put(o, "vocab_size", json_integer(c->vocab));
    config_put(o, "hidden_size", json_integer(c->dim));
    config_put(o, "num_hidden_layers", json_integer(c->layers));
    config_put(o, "num_attention_heads", json_integer(c->heads));
    config_put(o, "intermediate_size", json_integer(c->ffn ? c->ffn : 4 * c->dim));
    config_put(o, "hidden_act", json_string("gelu"));
    config_put(o, "max_position_embeddings", json_integer(positions));
    config_put(o, "type_vocab_size", json_integer(c->types ? c->types : 2));
    config_put(o, "layer_norm_eps", config_decimal(c->norm_eps > 0 ? c->norm_eps : 1e-12f));
    config_put(o, "hidden_dropout_prob", config_decimal(c->dropout));
    if (c->classes && c->head_dropout != 0)
        config_put(o, "classifier_dropout", config_decimal(c->head_dropout > 0 ? c->head_dropout : 0));
    config_put(o, "attention_probs_dropout_prob", json_real(0));
    config_put(o, "position_embedding_type", json_string("absolute"));
    config_put(o, "tie_word_embeddings", json_true());
}

static void write_bert(json_t **o, const ModelPreset *preset)
{
    const BertConfig *c = &preset->config.bert;
    config_put(o, "architectures",
               json_pack("[s]", c->pooler ? "BertModel" : config_class(&bert_files.types[0], preset)));
    config_put(o, "model_type", json_string("bert"));
    write_encoder(o, c, nn_preset_max_seq(preset));
}

const FamilyFiles bert_files = {
    .types = {{"bert", "BertForMaskedLM", read_bert, NULL, "BertForSequenceClassification"}},
    .write = write_bert,
    .names = {.prefix = "bert.",
              .tied = {{"cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"},
                       {"cls.predictions.decoder.bias", "cls.predictions.bias"}},
              .buffers = {"embeddings.position_ids", "embeddings.token_type_ids"},
              .other_heads = {"bert.pooler.", "cls.predictions.", "cls.seq_relationship.", "classifier.",
                              "qa_outputs."},
              .classifier = {"classifier.", "bert.pooler."}},
    .adapted = {"query", "value"},
};
