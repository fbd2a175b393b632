/* RoBERTa in files of others, and XLM-RoBERTa and CamemBERT, which are the same with other vocabularies.
 * Names, defaults and meanings are those of transformers' RobertaConfig, XLMRobertaConfig and
 * CamembertConfig. */
#include "family_.h"

typedef struct RobertaKind {
    const char *title;
    int vocab;
} RobertaKind;

/* The first position is behind that of the padding token, and the rows before it are no sequence's. */
static void read_positions(Fields *f, BertConfig *c)
{
    c->first_position = fields_count(f, "pad_token_id", 1, 0, MOST_VOCAB) + 1;
    if (c->max_seq <= c->first_position)
        fields_fail(f, "max_position_embeddings %d leaves no position behind that of pad_token_id %d",
                    c->max_seq, c->first_position - 1);
    c->max_seq -= c->first_position;
}

static void read_roberta(Fields *f, const void *which)
{
    const RobertaKind *kind = which;
    BertConfig *c = &f->model->preset.config.roberta;
    read_encoder(f, c, kind->vocab, kind->title);
    read_positions(f, c);
}

static void write_roberta(json_t **o, const ModelPreset *preset)
{
    const BertConfig *c = &preset->config.roberta;
    int first = c->first_position ? c->first_position : 2;
    config_put(o, "architectures",
               json_pack("[s]", c->pooler ? "RobertaModel" : config_class(&roberta_files.types[0], preset)));
    config_put(o, "model_type", json_string("roberta"));
    write_encoder(o, c, nn_preset_max_seq(preset) + first);
    config_put(o, "pad_token_id", json_integer(first - 1));
}

static const RobertaKind roberta = {"RoBERTa", 50265}, xlm_roberta = {"XLM-RoBERTa", 30522},
                         camembert = {"CamemBERT", 30522};

const FamilyFiles roberta_files = {
    .types = {{"roberta", "RobertaForMaskedLM", read_roberta, &roberta, "RobertaForSequenceClassification"},
              {"xlm-roberta", "XLMRobertaForMaskedLM", read_roberta, &xlm_roberta,
               "XLMRobertaForSequenceClassification"},
              {"camembert", "CamembertForMaskedLM", read_roberta, &camembert,
               "CamembertForSequenceClassification"}},
    .write = write_roberta,
    .names = {.prefix = "roberta.",
              .tied = {{"lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"},
                       {"lm_head.decoder.bias", "lm_head.bias"}},
              .buffers = {"embeddings.position_ids", "embeddings.token_type_ids"},
              .other_heads = {"roberta.pooler.", "lm_head.", "classifier.", "qa_outputs."},
              .classifier = {"classifier."}},
    .adapted = {"query", "value"},
    .padding_places = 1,
};
