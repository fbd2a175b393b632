/* ModernBERT in files of others. Names, defaults and meanings are those of transformers' ModernBertConfig, of
 * version 4 (global_rope_theta, global_attn_every_n_layers) and of version 5 (rope_parameters, layer_types).
 */
#include <stdio.h>
#include <string.h>

#include "family_decoder_.h"

/* ---- Reading --------------------------------------------------------------------------------- */

/* The base of one kind of layers in version 5, which has no other positions here. */
static void read_theta(Fields *f, const json_t *all, const char *kind, float *theta)
{
    static const char *const none[] = {NULL};
    const json_t *object = json_object_get(all, kind);
    char within[64];
    if (!object || json_is_null(object))
        return;
    snprintf(within, sizeof within, "rope_parameters.%s.", kind);
    if (!json_is_object(object)) {
        fields_fail(f, "rope_parameters.%s must be an object, not %s", kind, value_text(object).text);
        return;
    }
    Fields nested = {.file = f->file, .within = within, .object = object, .model = f->model};
    if (strcmp(fields_text(&nested, "rope_type", "default"), "default"))
        fields_refuse(&nested, "rope_type", "\"default\": ModernBERT's positions are not scaled here");
    *theta = (float)fields_number(&nested, "rope_theta", (double)*theta, 1, 1e12);
    fields_leftover(&nested, none);
    f->failed = f->failed ? f->failed : nested.failed;
}

static void read_thetas(Fields *f, ModernBertConfig *c)
{
    const json_t *all = fields_get(f, "rope_parameters");
    c->global_theta = (float)fields_number(f, "global_rope_theta", 160000, 1, 1e12);
    c->local_theta = (float)fields_number(f, "local_rope_theta", 10000, 1, 1e12);
    fields_empty(f, "rope_scaling", "ModernBERT's positions are not scaled here");
    if (!all || json_is_null(all))
        return;
    if (!json_is_object(all))
        fields_refuse(f, "rope_parameters", "an object or null");
    read_theta(f, all, "full_attention", &c->global_theta);
    read_theta(f, all, "sliding_attention", &c->local_theta);
}

/* The layers that see all tokens. */
static void read_layers(Fields *f, ModernBertConfig *c)
{
    LayerSet sliding = {{0}};
    int every = fields_count(f, "global_attn_every_n_layers", 3, 1, MOST_LAYERS);
    int listed = read_layer_types(f, c->layers, &sliding) >= 0, seen = 0;
    for (int i = 0; i < c->layers && !f->failed; i++)
        if (listed ? !layer_in(&sliding, i) : i % every == 0) {
            layer_set_add(&c->global, i);
            seen++;
        }
    if (!f->failed && !seen)
        fields_fail(f,
                    "layer_types must have a \"full_attention\": that no layer sees all tokens is not read");
    if (c->layers > LAYER_SET_MOST)
        fields_fail(f, "num_hidden_layers %d: which layers have a window is read of up to %d layers",
                    c->layers, LAYER_SET_MOST);
}

static void read_dropout(Fields *f, ModernBertConfig *c)
{
    double embedding = fields_probability(f, "embedding_dropout", 0),
           mlp = fields_probability(f, "mlp_dropout", 0);
    if (embedding != mlp)
        fields_fail(f, "embedding_dropout is %g and mlp_dropout %g; ModernBERT has one dropout for both here",
                    embedding, mlp);
    c->dropout = (float)mlp;
    double head = fields_probability(f, "classifier_dropout", 0);
    c->head_dropout = head > 0 ? (float)head : -1;
    note_attention_dropout(f, "attention_dropout", 0);
}

/* Of a classifier, which a masked model may become. */
static void read_pooling(Fields *f, ModernBertConfig *c)
{
    const char *pooling = fields_text(f, "classifier_pooling", "cls");
    c->mean_pooling = !strcmp(pooling, "mean");
    if (strcmp(pooling, "mean") != 0 && strcmp(pooling, "cls") != 0)
        fields_refuse(f, "classifier_pooling", "\"cls\" or \"mean\"");
}

static void read_modernbert(Fields *f, const void *kind)
{
    static const char *const gelu[] = {"gelu", "gelu_python", NULL},
                             wanted[] = "\"gelu\", which is what is computed";
    /* How others compute it, and of BERT's code, which published files have beside their own. */
    static const char *const ignored[] = {"deterministic_flash_attn",  "reference_compile",
                                          "repad_logits_with_grad",    "sparse_prediction",
                                          "sparse_pred_ignore_index",  "layer_norm_eps",
                                          "initializer_cutoff_factor", "position_embedding_type"};
    ModernBertConfig *c = &f->model->preset.config.modernbert;
    (void)kind;
    c->vocab = fields_count(f, "vocab_size", 50368, 1, MOST_VOCAB);
    c->dim = fields_count(f, "hidden_size", 768, 1, MOST_WIDTH);
    c->layers = fields_count(f, "num_hidden_layers", 22, 1, MOST_LAYERS);
    c->heads = fields_count(f, "num_attention_heads", 12, 1, MOST_HEADS);
    c->ffn = fields_count(f, "intermediate_size", 1152, 1, MOST_FFN);
    c->max_seq = fields_count(f, "max_position_embeddings", 8192, 1, MOST_POSITIONS);
    c->window = fields_count(f, "local_attention", 128, 2, MOST_POSITIONS);
    c->norm_eps = (float)fields_number(f, "norm_eps", 1e-5, 1e-30, 1);
    c->attention_bias = fields_flag(f, "attention_bias", 0);
    c->mlp_bias = fields_flag(f, "mlp_bias", 0);
    c->norm_bias = fields_flag(f, "norm_bias", 0);
    c->head_bias = fields_flag(f, "classifier_bias", 0);
    c->no_decoder_bias = !fields_flag(f, "decoder_bias", 1);
    check_heads(f, "num_attention_heads", c->heads, "hidden_size", c->dim);
    if (!f->failed && c->dim / c->heads % 2)
        fields_fail(f,
                    "hidden_size / num_attention_heads is %d; rotary positions need an even width of heads",
                    c->dim / c->heads);
    read_activation(f, "hidden_activation", gelu, wanted);
    read_activation(f, "classifier_activation", gelu, wanted);
    for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++)
        fields_get(f, ignored[i]);
    read_layers(f, c);
    read_thetas(f, c);
    read_dropout(f, c);
    read_pooling(f, c);
    fields_must(f, "tie_word_embeddings", 1, "the head of ModernBERT is its embedding here");
}

/* ---- Writing --------------------------------------------------------------------------------- */

static json_t *theta_of(float theta)
{
    return json_pack("{s:s, s:o}", "rope_type", "default", "rope_theta", config_decimal(theta));
}

/* As version 5 says it, which is more than version 4 can say. */
static void write_layers(json_t **o, const ModernBertConfig *c)
{
    static const LayerSet none;
    int usual = !memcmp(&c->global, &none, sizeof none);
    json_t *list = json_array();
    for (int i = 0; i < c->layers; i++)
        json_array_append_new(list, json_string((usual ? i % 3 == 0 : layer_in(&c->global, i))
                                                    ? "full_attention"
                                                    : "sliding_attention"));
    config_put(o, "layer_types", list);
    config_put(o, "rope_parameters",
               json_pack("{s:o, s:o}", "full_attention",
                         theta_of(c->global_theta > 0 ? c->global_theta : 160000), "sliding_attention",
                         theta_of(c->local_theta > 0 ? c->local_theta : 10000)));
}

/* As the field says it: there it is not the model's where it is absent. */
static float head_dropout_of(const ModernBertConfig *c)
{
    return c->head_dropout < 0 ? 0 : c->head_dropout > 0 ? c->head_dropout : c->dropout;
}

static void write_modernbert(json_t **o, const ModelPreset *preset)
{
    const ModernBertConfig *c = &preset->config.modernbert;
    config_put(o, "architectures",
               json_pack("[s]", c->headless  ? "ModernBertModel"
                                : c->classes ? "ModernBertForSequenceClassification"
                                             : "ModernBertForMaskedLM"));
    config_put(o, "model_type", json_string("modernbert"));
    config_put(o, "vocab_size", json_integer(c->vocab));
    config_put(o, "hidden_size", json_integer(c->dim));
    config_put(o, "num_hidden_layers", json_integer(c->layers));
    config_put(o, "num_attention_heads", json_integer(c->heads));
    config_put(o, "intermediate_size", json_integer(c->ffn ? c->ffn : c->dim / 2 * 3));
    config_put(o, "max_position_embeddings", json_integer(nn_preset_max_seq(preset)));
    config_put(o, "local_attention", json_integer(c->window ? c->window : 128));
    config_put(o, "hidden_activation", json_string("gelu"));
    config_put(o, "classifier_activation", json_string("gelu"));
    config_put(o, "norm_eps", config_decimal(c->norm_eps > 0 ? c->norm_eps : 1e-5f));
    config_put(o, "attention_bias", json_boolean(c->attention_bias));
    config_put(o, "mlp_bias", json_boolean(c->mlp_bias));
    config_put(o, "norm_bias", json_boolean(c->norm_bias));
    config_put(o, "classifier_bias", json_boolean(c->head_bias));
    if (c->classes || c->mean_pooling)
        config_put(o, "classifier_pooling", json_string(c->mean_pooling ? "mean" : "cls"));
    if (c->classes)
        config_put(o, "classifier_dropout", config_decimal(head_dropout_of(c)));
    config_put(o, "decoder_bias", json_boolean(!c->no_decoder_bias));
    config_put(o, "embedding_dropout", config_decimal(c->dropout));
    config_put(o, "mlp_dropout", config_decimal(c->dropout));
    config_put(o, "attention_dropout", json_real(0));
    config_put(o, "tie_word_embeddings", json_true());
    write_layers(o, c);
}

const FamilyFiles modernbert_files = {
    .types = {{"modernbert", "ModernBertForMaskedLM", read_modernbert, NULL,
               "ModernBertForSequenceClassification"}},
    .write = write_modernbert,
    .names = {.prefix = "model.",
              .tied = {{"decoder.weight", "model.embeddings.tok_embeddings.weight"}},
              .buffers = {"_inv_freq"},
              .other_heads = {"head.", "decoder.", "classifier."},
              .classifier = {"classifier.", "head."}},
    .adapted = {"Wqkv"},
};
