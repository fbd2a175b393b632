/* Phi-3 and Phi-4 in files of others. Names, defaults and meanings are those of transformers' Phi3Config. */
#include "family_decoder_.h"

static void read_phi3(Fields *f, const void *kind)
{
    LlamaConfig *c = &f->model->preset.config.llama;
    read_decoder(f, kind, c);
    fields_must(f, "attention_bias", 0, "Phi-3 has no biases");
    fields_only(f, "resid_pdrop", 0, "branches have no dropout here");
    fields_only(f, "embd_pdrop", 0, "embeddings have no dropout here");
    LayerSet none = {{0}};
    take_windows(f, fields_optional(f, "sliding_window", 0, 0, MOST_POSITIONS), c->layers, &none, c);
}

static void write_phi3(json_t **o, const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    write_decoder(o, c, "phi3", "Phi3ForCausalLM");
    config_put(o, "sliding_window", c->window ? json_integer(c->window) : json_null());
    config_put(o, "resid_pdrop", json_real(0));
    config_put(o, "embd_pdrop", json_real(0));
}

static int check_phi3(const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    if (!c->qkv_bias && !c->o_bias && !c->mlp_bias)
        return 0;
    return error_raise(ERROR_ARGUMENT, "io_write_config(): transformers has no Phi-3 with biases");
}

static const DecoderKind phi3 = {.vocab = 32064,
                                 .dim = 3072,
                                 .hidden = 8192,
                                 .max_seq = 4096,
                                 .norm_eps = 1e-5,
                                 .partial_rotary = 1,
                                 .original_max_seq = 4096};

const FamilyFiles phi3_files = {
    .types = {{"phi3", "Phi3ForCausalLM", read_phi3, &phi3, NULL}},
    .write = write_phi3,
    .check = check_phi3,
    .names = {.prefix = "model.",
              .tied = {{"lm_head.weight", "model.embed_tokens.weight"}},
              .buffers = {"rotary_emb.inv_freq"},
              .other_heads = {"score."}},
    .adapted = {"qkv_proj"},
};
