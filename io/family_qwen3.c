/* Qwen3 in files of others. Names, defaults and meanings are those of transformers' Qwen3Config. */
#include "family_decoder_.h"

static void read_qwen3(Fields *f, const void *kind)
{
    LlamaConfig *c = &f->model->preset.config.llama;
    read_decoder(f, kind, c);
    c->qkv_bias = c->o_bias = fields_flag(f, "attention_bias", 0);
    read_qwen_windows(f, c);
}

static void write_qwen3(json_t **o, const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    write_decoder(o, c, "qwen3", "Qwen3ForCausalLM");
    config_put(o, "head_dim", json_integer(nn_preset_sizes(preset).head_dim)); /* 128 where it is absent */
    config_put(o, "attention_bias", json_boolean(c->qkv_bias));
    write_qwen_windows(o, c);
}

static int check_qwen3(const ModelPreset *preset)
{
    return check_decoder_biases(preset, "Qwen3", 0);
}

static const DecoderKind qwen3 = {
    .vocab = 151936, .hidden = 22016, .kv_heads = 32, .head_dim = 128, .max_seq = 32768};

const FamilyFiles qwen3_files = {
    .types = {{"qwen3", "Qwen3ForCausalLM", read_qwen3, &qwen3, NULL}},
    .write = write_qwen3,
    .check = check_qwen3,
    .names = {.prefix = "model.",
              .tied = {{"lm_head.weight", "model.embed_tokens.weight"}},
              .buffers = {"rotary_emb.inv_freq"},
              .other_heads = {"score."}},
    .adapted = {"q_proj", "v_proj"},
};
