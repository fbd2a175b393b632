/* Llama in files of others, and Mistral and Qwen2, which are the same with other sizes. Names, defaults and
 * meanings are those of transformers' LlamaConfig, MistralConfig and Qwen2Config. */
#include <stdio.h>
#include <string.h>

#include "family_decoder_.h"

/* ---- Reading --------------------------------------------------------------------------------- */

typedef struct LlamaKind {
    DecoderKind decoder;
    int window; /* sliding_window where absent; 0 = there is none */
    int listed; /* layer_types says which layers have it; else all */
    int qkv_bias, bias_fields;
} LlamaKind;

/* Mistral has windows in all layers, Ministral and Qwen2 may have them in some, and Llama's code reads no
 * field about them. */
static void read_window(Fields *f, const LlamaKind *kind, LlamaConfig *c)
{
    LayerSet none = {{0}};
    if (kind->qkv_bias) {
        read_qwen_windows(f, c);
        return;
    }
    int window = fields_optional(f, "sliding_window", kind->window, 0, MOST_POSITIONS);
    fields_flag(f, "use_sliding_window", 0);
    if (!fields_null(f, "max_window_layers"))
        fields_count(f, "max_window_layers", 0, 0, MOST_LAYERS);
    LayerSet sliding = {{0}};
    int count = read_layer_types(f, c->layers, &sliding);
    if (kind->listed && count >= 0)
        take_windows(f, window, count, &sliding, c);
    else if (kind->window)
        take_windows(f, window, c->layers, &none, c);
    else if (window && window < c->max_seq)
        model_note(f->model, "sliding_window %d is not used: Llama's attention has no window.", window);
}

static void read_biases(Fields *f, const LlamaKind *kind, LlamaConfig *c)
{
    c->qkv_bias = kind->qkv_bias;
    if (kind->bias_fields) {
        c->qkv_bias = c->o_bias = fields_flag(f, "attention_bias", 0);
        c->mlp_bias = fields_flag(f, "mlp_bias", 0);
        return;
    }
    fields_must(f, "attention_bias", kind->qkv_bias,
                kind->qkv_bias ? "Qwen2 always has biases on q, k and v" : "Mistral has no biases");
    fields_must(f, "mlp_bias", 0, "only Llama's feed-forward may have biases");
}

static void read_llama(Fields *f, const void *which)
{
    const LlamaKind *kind = which;
    LlamaConfig *c = &f->model->preset.config.llama;
    read_decoder(f, &kind->decoder, c);
    read_biases(f, kind, c);
    read_window(f, kind, c);
}

/* ---- Writing --------------------------------------------------------------------------------- */

static void write_llama(json_t **o, const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    /* Biases on q, k and v alone are Qwen2's; Llama has four or none, and no window. */
    int qwen2 = c->qkv_bias && !c->o_bias && !c->mlp_bias;
    int mistral = c->window && !c->qkv_bias && !c->o_bias && !c->mlp_bias;
    int ministral = mistral && !layer_set_is_empty(&c->sliding);
    const char *type = qwen2 ? "qwen2" : ministral ? "ministral" : mistral ? "mistral" : "llama";
    write_decoder(o, c, type, config_type(type, &(ModelFamily){MODEL_LLAMA})->architecture);
    if (mistral)
        config_put(o, "sliding_window", json_integer(c->window));
    if (ministral) {
        config_put(o, "layer_types", layer_types_json(c));
        config_put(o, "head_dim", json_integer(nn_preset_sizes(preset).head_dim)); /* which must be there */
    }
    if (qwen2)
        write_qwen_windows(o, c);
    if (qwen2 || mistral)
        return;
    config_put(o, "attention_bias", json_boolean(c->qkv_bias));
    config_put(o, "mlp_bias", json_boolean(c->mlp_bias));
}

/* Biases of q, k and v alone are Qwen2's, Llama has those of all four or none: others would be left out, or
 * made anew, by whoever loads them. */
static int check_biases(const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    if (!c->qkv_bias == !c->o_bias || (c->qkv_bias && !c->mlp_bias))
        return 0;
    return error_raise(ERROR_ARGUMENT,
                       "io_write_config(): transformers has no Llama with %s: biases of q, k, v and o go "
                       "together, or those of q, k and v are alone (Qwen2)",
                       c->o_bias ? "o_bias but no qkv_bias" : "qkv_bias and mlp_bias but no o_bias");
}

/* ---- The family ------------------------------------------------------------------------------ */

static const LlamaKind llama = {{.vocab = 32000, .hidden = 11008, .max_seq = 2048}, .bias_fields = 1};
static const LlamaKind mistral = {{.vocab = 32000, .hidden = 14336, .kv_heads = 8, .max_seq = 131072},
                                  .window = 4096};
static const LlamaKind ministral = {
    {.vocab = 32000, .hidden = 14336, .kv_heads = 8, .max_seq = 131072}, .window = 4096, .listed = 1};
static const LlamaKind qwen2 = {{.vocab = 151936, .hidden = 22016, .kv_heads = 32, .max_seq = 32768},
                                .qkv_bias = 1};

const FamilyFiles llama_files = {
    .types = {{"llama", "LlamaForCausalLM", read_llama, &llama, NULL},
              {"mistral", "MistralForCausalLM", read_llama, &mistral, NULL},
              {"ministral", "MinistralForCausalLM", read_llama, &ministral, NULL},
              {"qwen2", "Qwen2ForCausalLM", read_llama, &qwen2, NULL}},
    .write = write_llama,
    .check = check_biases,
    .names = {.prefix = "model.",
              .tied = {{"lm_head.weight", "model.embed_tokens.weight"}},
              .buffers = {"rotary_emb.inv_freq"},
              .other_heads = {"score."}},
    .adapted = {"q_proj", "v_proj"},
};
