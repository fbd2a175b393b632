/* Qwen3 in files of others. Names, defaults and meanings are those of transformers' Qwen3Config. */
#include "family_decoder_.h"

static void read_window(Fields *f, LlamaConfig *c)
{
    int window = fields_optional(f, "sliding_window", 4096, 0, MOST_POSITIONS);
    int slides = fields_flag(f, "use_sliding_window", 0), first = read_max_window_layers(f, 28);
    LayerSet sliding = {0};
    int layers = read_layer_types(f, c->layers, &sliding);
    if (layers < 0 ? slides && first < c->layers : slides && layers)
        take_window(f, window, c);
}

static void read_qwen3(Fields *f, const void *kind)
{
    LlamaConfig *c = &f->model->preset.config.llama;
    read_decoder(f, kind, c);
    c->qkv_bias = c->o_bias = fields_flag(f, "attention_bias", 0);
    read_window(f, c);
}

static void write_qwen3(json_t **o, const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    write_decoder(o, c, "qwen3", "Qwen3ForCausalLM");
    config_put(o, "head_dim", json_integer(nn_preset_sizes(preset).head_dim)); /* 128 where it is absent */
    config_put(o, "attention_bias", json_boolean(c->qkv_bias));
    config_put(o, "use_sliding_window", json_boolean(nn_preset_window(preset)));
    if (nn_preset_window(preset)) {
        config_put(o, "sliding_window", json_integer(nn_preset_window(preset)));
        config_put(o, "max_window_layers", json_integer(0));
    }
}

static int check_qwen3(const ModelPreset *preset)
{
    return check_decoder_biases(preset, "Qwen3", 0);
}

static const DecoderKind qwen3 = {
    .vocab = 151936, .hidden = 22016, .kv_heads = 32, .head_dim = 128, .max_seq = 32768};

const FamilyFiles qwen3_files = {
    .types = {{"qwen3", "Qwen3ForCausalLM", read_qwen3, &qwen3}},
    .write = write_qwen3,
    .check = check_qwen3,
    .names = {.prefix = "model.",
              .tied = {{"lm_head.weight", "model.embed_tokens.weight"}},
              .buffers = {"rotary_emb.inv_freq"},
              .other_heads = {"score."}},
    .adapted = {"q_proj", "v_proj"},
};
