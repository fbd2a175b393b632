/* Granite in files of others. Names, defaults and meanings are those of transformers' GraniteConfig. */
#include <math.h>

#include "family_decoder_.h"

static float factor(Fields *f, const char *name)
{
    return (float)fields_number(f, name, 1, 1e-6, 1e6);
}

static void read_granite(Fields *f, const void *kind)
{
    LlamaConfig *c = &f->model->preset.config.llama;
    read_decoder(f, kind, c);
    c->qkv_bias = c->o_bias = fields_flag(f, "attention_bias", 0);
    c->mlp_bias = fields_flag(f, "mlp_bias", 0);
    c->embedding_factor = factor(f, "embedding_multiplier");
    c->branch_factor = factor(f, "residual_multiplier");
    c->attention_scale = factor(f, "attention_multiplier");
    c->logits_divisor = factor(f, "logits_scaling");
}

static json_t *factor_json(float x)
{
    return config_decimal(x > 0 ? x : 1);
}

static void write_granite(json_t **o, const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    int head_dim = nn_preset_sizes(preset).head_dim;
    write_decoder(o, c, "granite", "GraniteForCausalLM");
    config_put(o, "attention_bias", json_boolean(c->qkv_bias));
    config_put(o, "mlp_bias", json_boolean(c->mlp_bias));
    config_put(o, "embedding_multiplier", factor_json(c->embedding_factor));
    config_put(o, "residual_multiplier", factor_json(c->branch_factor));
    config_put(o, "attention_multiplier",
               config_decimal(c->attention_scale > 0 ? c->attention_scale : 1 / sqrtf((float)head_dim)));
    config_put(o, "logits_scaling", factor_json(c->logits_divisor));
}

static int check_granite(const ModelPreset *preset)
{
    return check_decoder_biases(preset, "Granite", 1);
}

static const DecoderKind granite = {.vocab = 32000, .hidden = 11008, .max_seq = 2048};

const FamilyFiles granite_files = {
    .types = {{"granite", "GraniteForCausalLM", read_granite, &granite, NULL}},
    .write = write_granite,
    .check = check_granite,
    .names = {.prefix = "model.",
              .tied = {{"lm_head.weight", "model.embed_tokens.weight"}},
              .buffers = {"rotary_emb.inv_freq"},
              .other_heads = {"score."}},
    .adapted = {"q_proj", "v_proj"},
};
