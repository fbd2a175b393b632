/* Qwen3-MoE in files of others, and the experts of both Qwens. Names, defaults and meanings are those of
 * transformers' Qwen3MoeConfig. */
#include <string.h>

#include "family_decoder_.h"

/* Layers without experts: each but every decoder_sparse_step-th, and those in the list. */
static void read_dense(Fields *f, int layers, LayerSet *dense)
{
    const json_t *list = fields_get(f, "mlp_only_layers"), *item;
    int step = fields_count(f, "decoder_sparse_step", 1, 1, MOST_LAYERS), most = -1;
    size_t i;
    for (int layer = 0; layer < layers; layer++)
        if ((layer + 1) % step) {
            layer_set_add(dense, layer);
            most = layer;
        }
    if (list && !json_is_null(list) && !json_is_array(list))
        fields_refuse(f, "mlp_only_layers", "a list of layers or null");
    json_array_foreach((json_t *)list, i, item)
    {
        json_int_t layer = json_is_integer(item) ? json_integer_value(item) : -1;
        if (layer < 0) {
            fields_refuse(f, "mlp_only_layers", "a list of layers' numbers");
            return;
        }
        if (layer >= layers)
            continue; /* there is none */
        layer_set_add(dense, (int)layer);
        most = (int)layer > most ? (int)layer : most;
    }
    if (most >= LAYER_SET_MOST)
        fields_fail(f, "layer %d has no experts; that is possible for the first %d layers", most,
                    LAYER_SET_MOST);
}

void read_qwen_experts(Fields *f, const ExpertsKind *kind, LlamaConfig *c)
{
    read_experts(f, kind, &c->experts);
    c->experts.hidden = fields_count(f, "moe_intermediate_size", kind->hidden, 1, MOST_FFN);
    c->experts.normalise = fields_flag(f, "norm_topk_prob", 0);
    read_dense(f, c->layers, &c->experts.dense);
}

void write_qwen_experts(json_t **o, const LlamaConfig *c)
{
    const ExpertsConfig *e = &c->experts;
    json_t *dense = json_array();
    for (int i = 0; i < c->layers; i++)
        if (layer_in(&e->dense, i) && json_array_append_new(dense, json_integer(i))) {
            json_decref(dense);
            dense = NULL;
        }
    write_experts(o, e, "num_experts");
    config_put(o, "moe_intermediate_size", json_integer(e->hidden ? e->hidden : c->hidden));
    config_put(o, "norm_topk_prob", json_boolean(e->normalise));
    config_put(o, "decoder_sparse_step", json_integer(1));
    config_put(o, "mlp_only_layers", dense);
}

static void read_qwen3_moe(Fields *f, const void *kind)
{
    static const ExpertsKind experts = {.count = 128, .active = 8, .num_experts = 1, .hidden = 768};
    LlamaConfig *c = &f->model->preset.config.llama;
    read_decoder(f, kind, c);
    c->qkv_bias = c->o_bias = fields_flag(f, "attention_bias", 0);
    read_qwen_experts(f, &experts, c);
    int window = fields_optional(f, "sliding_window", 4096, 0, MOST_POSITIONS);
    LayerSet none = {{0}};
    if (fields_flag(f, "use_sliding_window", 0))
        take_windows(f, window, c->layers, &none, c);
    if (!fields_null(f, "max_window_layers"))
        fields_count(f, "max_window_layers", 0, 0, MOST_LAYERS); /* all layers slide, or none */
}

static void write_qwen3_moe(json_t **o, const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    write_decoder(o, c, "qwen3_moe", "Qwen3MoeForCausalLM");
    config_put(o, "head_dim", json_integer(nn_preset_sizes(preset).head_dim));
    config_put(o, "attention_bias", json_boolean(c->qkv_bias));
    write_qwen_experts(o, c);
    config_put(o, "use_sliding_window", json_boolean(c->window > 0));
    if (c->window)
        config_put(o, "sliding_window", json_integer(c->window));
}

static int check_qwen3_moe(const ModelPreset *preset)
{
    static const LayerSet none;
    if (memcmp(&preset->config.llama.sliding, &none, sizeof none) != 0)
        return error_raise(ERROR_ARGUMENT,
                           "io_write_config(): transformers has no Qwen3-MoE with windows in some layers");
    return check_decoder_biases(preset, "Qwen3-MoE", 0);
}

static const DecoderKind qwen3_moe = {
    .vocab = 151936, .dim = 2048, .hidden = 6144, .layers = 24, .kv_heads = 4, .max_seq = 32768};

const FamilyFiles qwen3_moe_files = {
    .types = {{"qwen3_moe", "Qwen3MoeForCausalLM", read_qwen3_moe, &qwen3_moe, NULL}},
    .write = write_qwen3_moe,
    .check = check_qwen3_moe,
    .names = {.prefix = "model.",
              .tied = {{"lm_head.weight", "model.embed_tokens.weight"}},
              .buffers = {"rotary_emb.inv_freq"},
              .other_heads = {"score."},
              .experts = {"mlp", "gate_proj", "up_proj", "down_proj"}},
    .adapted = {"q_proj", "v_proj"},
};
