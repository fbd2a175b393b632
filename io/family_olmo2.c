/* OLMo 2 and OLMo 3 in files of others. Names, defaults and meanings are those of transformers' Olmo2Config
 * and Olmo3Config. */
#include "family_decoder_.h"

static void read_olmo2(Fields *f, const void *kind)
{
    LlamaConfig *c = &f->model->preset.config.llama;
    read_decoder(f, kind, c);
    c->qkv_bias = c->o_bias = fields_flag(f, "attention_bias", 0);
}

/* Three of four layers have a window, unless layer_types says which. */
static void read_olmo3(Fields *f, const void *kind)
{
    LlamaConfig *c = &f->model->preset.config.llama;
    LayerSet sliding = {{0}};
    read_olmo2(f, kind);
    int window = fields_optional(f, "sliding_window", 4096, 0, MOST_POSITIONS);
    int count = read_layer_types(f, c->layers, &sliding);
    if (count < 0)
        count = layer_set_but_every(&sliding, c->layers, 4);
    take_windows(f, window, count, &sliding, c);
    if (!c->window)
        c->local_theta = 0;
}

static void write_olmo2(json_t **o, const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    int olmo3 = c->window != 0;
    write_decoder(o, c, olmo3 ? "olmo3" : "olmo2", olmo3 ? "Olmo3ForCausalLM" : "Olmo2ForCausalLM");
    config_put(o, "attention_bias", json_boolean(c->qkv_bias));
    if (!olmo3)
        return;
    config_put(o, "sliding_window", json_integer(c->window));
    config_put(o, "layer_types", layer_types_json(c));
}

static int check_olmo2(const ModelPreset *preset)
{
    return check_decoder_biases(preset, "OLMo 2", 0);
}

static const DecoderKind olmo2 = {.vocab = 50304, .hidden = 11008, .max_seq = 2048, .norm_eps = 1e-5};

static const DecoderKind olmo3 = {
    .vocab = 50304, .hidden = 11008, .max_seq = 2048, .norm_eps = 1e-5, .theta = 500000, .local_theta = -1};

const FamilyFiles olmo2_files = {
    .types = {{"olmo2", "Olmo2ForCausalLM", read_olmo2, &olmo2, NULL},
              {"olmo3", "Olmo3ForCausalLM", read_olmo3, &olmo3, NULL}},
    .write = write_olmo2,
    .check = check_olmo2,
    .names = {.prefix = "model.",
              .tied = {{"lm_head.weight", "model.embed_tokens.weight"}},
              .buffers = {"rotary_emb.inv_freq"},
              .other_heads = {"score."}},
    .adapted = {"q_proj", "v_proj"},
};
