/* Qwen2-MoE in files of others. Names, defaults and meanings are those of transformers' Qwen2MoeConfig. */
#include "family_decoder_.h"

/* Of the first max_window_layers layers every second one slides, from the first on. */
static void read_windows(Fields *f, LlamaConfig *c)
{
    int on = fields_flag(f, "use_sliding_window", 0), window = 0;
    if (on)
        window = fields_optional(f, "sliding_window", 4096, 0, MOST_POSITIONS);
    else
        fields_get(f, "sliding_window"); /* transformers writes 0 then */
    int last = fields_count(f, "max_window_layers", 28, 0, MOST_LAYERS);
    LayerSet sliding = {{0}};
    int count = read_layer_types(f, c->layers, &sliding);
    if (count > 0 && !on)
        fields_fail(f,
                    "layer_types has layers with a window, and use_sliding_window is not true: then there is "
                    "none");
    if (count < 0) {
        last = !on ? 0 : last < c->layers ? last : c->layers;
        count = (last + 1) / 2;
        for (int i = 0; i < last; i += 2)
            layer_set_add(&sliding, i);
    }
    take_windows(f, window, count, &sliding, c);
}

static void read_qwen2_moe(Fields *f, const void *kind)
{
    static const ExpertsKind experts = {.count = 60, .active = 4, .num_experts = 1, .hidden = 1408};
    LlamaConfig *c = &f->model->preset.config.llama;
    read_decoder(f, kind, c);
    c->qkv_bias = fields_flag(f, "qkv_bias", 1);
    read_qwen_experts(f, &experts, c);
    c->experts.shared_hidden = fields_count(f, "shared_expert_intermediate_size", 5632, 1, MOST_FFN);
    read_windows(f, c);
}

static void write_qwen2_moe(json_t **o, const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    write_decoder(o, c, "qwen2_moe", "Qwen2MoeForCausalLM");
    config_put(o, "qkv_bias", json_boolean(c->qkv_bias));
    write_qwen_experts(o, c);
    config_put(o, "shared_expert_intermediate_size", json_integer(c->experts.shared_hidden));
    write_qwen_windows(o, c);
}

static int check_qwen2_moe(const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    const char *has = c->o_bias || c->mlp_bias    ? "biases but those of q, k and v"
                      : !c->experts.shared_hidden ? "no expert that all tokens share"
                                                  : NULL;
    return has ? error_raise(ERROR_ARGUMENT, "io_write_config(): transformers has no Qwen2-MoE with %s", has)
               : 0;
}

static const DecoderKind qwen2_moe = {.vocab = 151936,
                                      .dim = 2048,
                                      .hidden = 5632,
                                      .layers = 24,
                                      .heads = 16,
                                      .kv_heads = 16,
                                      .max_seq = 32768};

const FamilyFiles qwen2_moe_files = {
    .types = {{"qwen2_moe", "Qwen2MoeForCausalLM", read_qwen2_moe, &qwen2_moe, NULL}},
    .write = write_qwen2_moe,
    .check = check_qwen2_moe,
    .names = {.prefix = "model.",
              .tied = {{"lm_head.weight", "model.embed_tokens.weight"}},
              .buffers = {"rotary_emb.inv_freq"},
              .other_heads = {"score."},
              .experts = {"mlp", "gate_proj", "up_proj", "down_proj"}},
    .adapted = {"q_proj", "v_proj"},
};
