/* DistilBERT in files of others. Names, defaults and meanings are those of transformers' DistilBertConfig. */
#include "family_.h"

/* transformers knows them by the names of other families too. */
static int either(Fields *f, const char *name, const char *other, int otherwise, int most)
{
    return fields_count(f, name, fields_count(f, other, otherwise, 1, most), 1, most);
}

static void read_distilbert(Fields *f, const void *kind)
{
    static const char *const gelu[] = {"gelu", "gelu_python", NULL};
    BertConfig *c = &f->model->preset.config.distilbert;
    (void)kind;
    c->vocab = fields_count(f, "vocab_size", 30522, 1, MOST_VOCAB);
    c->dim = either(f, "dim", "hidden_size", 768, MOST_WIDTH);
    c->layers = either(f, "n_layers", "num_hidden_layers", 6, MOST_LAYERS);
    c->heads = either(f, "n_heads", "num_attention_heads", 12, MOST_HEADS);
    c->ffn = fields_count(f, "hidden_dim", 3072, 1, MOST_FFN);
    c->max_seq = fields_count(f, "max_position_embeddings", 512, 1, MOST_POSITIONS);
    c->sinusoidal = fields_flag(f, "sinusoidal_pos_embds", 0);
    c->dropout = (float)fields_probability(f, "dropout", 0.1);
    check_heads(f, "n_heads", c->heads, "dim", c->dim);
    read_activation(f, "activation", gelu, "\"gelu\", which is what is computed");
    fields_must(f, "tie_word_embeddings", 1, "the head of DistilBERT is its embedding here");
    fields_flag(f, "tie_weights_", 1);
    fields_probability(f, "qa_dropout", 0.1); /* of heads that are not read */
    c->head_dropout = read_head_dropout(f, "seq_classif_dropout", 0.2);
    note_attention_dropout(f, "attention_dropout", 0.1);
}

static void write_distilbert(json_t **o, const ModelPreset *preset)
{
    const BertConfig *c = &preset->config.distilbert;
    config_put(
        o, "architectures",
        json_pack("[s]", c->pooler ? "DistilBertModel" : config_class(&distilbert_files.types[0], preset)));
    config_put(o, "model_type", json_string("distilbert"));
    config_put(o, "vocab_size", json_integer(c->vocab));
    config_put(o, "dim", json_integer(c->dim));
    config_put(o, "n_layers", json_integer(c->layers));
    config_put(o, "n_heads", json_integer(c->heads));
    config_put(o, "hidden_dim", json_integer(c->ffn ? c->ffn : 4 * c->dim));
    config_put(o, "activation", json_string("gelu"));
    config_put(o, "max_position_embeddings", json_integer(nn_preset_max_seq(preset)));
    config_put(o, "sinusoidal_pos_embds", json_boolean(c->sinusoidal));
    config_put(o, "dropout", config_decimal(c->dropout));
    if (c->classes && c->head_dropout != 0)
        config_put(o, "seq_classif_dropout", config_decimal(c->head_dropout > 0 ? c->head_dropout : 0));
    config_put(o, "attention_dropout", json_real(0));
    config_put(o, "tie_word_embeddings", json_true());
}

/* transformers has 1e-12 in its code. */
static int check_eps(const ModelPreset *preset)
{
    float eps = preset->config.distilbert.norm_eps;
    if (eps <= 0 || eps == 1e-12f)
        return 0;
    return error_raise(
        ERROR_ARGUMENT,
        "io_write_config(): transformers' DistilBERT has norms with an epsilon of 1e-12, not %g",
        (double)eps);
}

const FamilyFiles distilbert_files = {
    .types = {{"distilbert", "DistilBertForMaskedLM", read_distilbert, NULL,
               "DistilBertForSequenceClassification"}},
    .write = write_distilbert,
    .check = check_eps,
    .names = {.prefix = "distilbert.",
              .tied = {{"vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight"}},
              .buffers = {"embeddings.position_ids"},
              .other_heads = {"vocab_", "pre_classifier.", "classifier.", "qa_outputs."},
              .classifier = {"classifier.", "pre_classifier."}},
    .adapted = {"q_lin", "v_lin"},
};
