/* OLMo 2 and OLMo 3 in files of others. Names, defaults and meanings are those of transformers' Olmo2Config
 * and Olmo3Config. */
#include "family_decoder_.h"

static void read_olmo2(Fields *f, const void *kind)
{
    LlamaConfig *c = &f->model->preset.config.llama;
    read_decoder(f, kind, c);
    c->qkv_bias = c->o_bias = fields_flag(f, "attention_bias", 0);
}

static void write_olmo2(json_t **o, const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    write_decoder(o, c, "olmo2", "Olmo2ForCausalLM");
    config_put(o, "attention_bias", json_boolean(c->qkv_bias));
}

static int check_olmo2(const ModelPreset *preset)
{
    return check_decoder_biases(preset, "OLMo 2", 0);
}

static const DecoderKind olmo2 = {.vocab = 50304, .hidden = 11008, .max_seq = 2048, .norm_eps = 1e-5};

const FamilyFiles olmo2_files = {
    .types = {{"olmo2", "Olmo2ForCausalLM", read_olmo2, &olmo2}},
    .write = write_olmo2,
    .check = check_olmo2,
    .names = {.prefix = "model.",
              .tied = {{"lm_head.weight", "model.embed_tokens.weight"}},
              .buffers = {"rotary_emb.inv_freq"},
              .other_heads = {"score."}},
    .adapted = {"q_proj", "v_proj"},
};
