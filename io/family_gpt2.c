/* GPT-2 in files of others. Names, defaults and meanings are those of transformers' GPT2Config. */
#include "family_.h"

/* transformers knows some fields by two names. */
static int either(Fields *f, const char *name, const char *other, int otherwise, int most)
{
    int n = fields_count(f, name, otherwise, 1, most);
    if (!fields_get(f, other))
        return n;
    int second = fields_count(f, other, otherwise, 1, most);
    if (fields_get(f, name) && n != second)
        fields_fail(f, "%s is %d and %s is %d, two names of one field; keep one", name, n, other, second);
    return second;
}

static void read_gpt2_dropout(Fields *f, Gpt2Config *c)
{
    double residual = fields_probability(f, "resid_pdrop", 0.1);
    double embedding = fields_probability(f, "embd_pdrop", 0.1);
    if (residual != embedding)
        fields_fail(f, "resid_pdrop is %g and embd_pdrop %g; GPT-2 has one dropout for both here", residual,
                    embedding);
    c->dropout = (float)residual;
    note_attention_dropout(f, "attn_pdrop", 0.1);
}

static void read_gpt2(Fields *f, const void *kind)
{
    static const char *const gelu[] = {"gelu_new", "gelu_pytorch_tanh", "gelu_fast", NULL};
    Gpt2Config *c = &f->model->preset.config.gpt2;
    (void)kind;
    c->vocab = fields_count(f, "vocab_size", 50257, 1, MOST_VOCAB);
    c->dim = either(f, "n_embd", "hidden_size", 768, MOST_WIDTH);
    c->layers = either(f, "n_layer", "num_hidden_layers", 12, MOST_LAYERS);
    c->heads = either(f, "n_head", "num_attention_heads", 12, MOST_HEADS);
    c->max_seq = either(f, "n_positions", "max_position_embeddings", 1024, MOST_POSITIONS);
    c->ffn = fields_optional(f, "n_inner", 4 * c->dim, 4 * c->dim, MOST_FFN);
    c->norm_eps = (float)fields_number(f, "layer_norm_epsilon", 1e-5, 1e-30, 1);
    check_heads(f, "n_head", c->heads, "n_embd", c->dim);
    read_activation(f, "activation_function", gelu, "\"gelu_new\", which is what is computed");
    int context = fields_optional(f, "n_ctx", c->max_seq, c->max_seq, MOST_POSITIONS);
    if (context != c->max_seq)
        model_note(f->model, "n_ctx %d is not used: n_positions %d is.", context, c->max_seq);
    fields_must(f, "scale_attn_weights", 1, "attention is always scaled here");
    fields_must(f, "scale_attn_by_inverse_layer_idx", 0,
                "attention is not scaled by the layer's number here");
    fields_flag(f, "reorder_and_upcast_attn", 0); /* the same in fp32 */
    fields_only(f, "n_special", 0, "vocab_size counts every token");
    fields_flag(f, "is_decoder", 1);
    fields_must(f, "tie_word_embeddings", 1, "the head of GPT-2 is its embedding here");
    read_gpt2_dropout(f, c);
}

static void write_gpt2(json_t **o, const ModelPreset *preset)
{
    const Gpt2Config *c = &preset->config.gpt2;
    config_put(o, "architectures", json_pack("[s]", "GPT2LMHeadModel"));
    config_put(o, "model_type", json_string("gpt2"));
    config_put(o, "vocab_size", json_integer(c->vocab));
    config_put(o, "n_embd", json_integer(c->dim));
    config_put(o, "n_layer", json_integer(c->layers));
    config_put(o, "n_head", json_integer(c->heads));
    config_put(o, "n_inner", json_integer(c->ffn ? c->ffn : 4 * c->dim));
    config_put(o, "n_positions", json_integer(nn_preset_max_seq(preset)));
    config_put(o, "activation_function", json_string("gelu_new"));
    config_put(o, "layer_norm_epsilon", config_decimal(c->norm_eps > 0 ? c->norm_eps : 1e-5f));
    config_put(o, "resid_pdrop", config_decimal(c->dropout));
    config_put(o, "embd_pdrop", config_decimal(c->dropout));
    config_put(o, "attn_pdrop", json_real(0));
    config_put(o, "tie_word_embeddings", json_true());
}

const FamilyFiles gpt2_files = {
    .types = {{"gpt2", "GPT2LMHeadModel", read_gpt2, NULL, NULL}},
    .write = write_gpt2,
    .names = {.prefix = "transformer.",
              .tied = {{"lm_head.weight", "transformer.wte.weight"}},
              .buffers = {".attn.bias", ".attn.masked_bias"},
              .other_heads = {"score.", "multiple_choice_head."}},
    .adapted = {"c_attn"},
};
