/* SmolLM3 in files of others. Names, defaults and meanings are those of transformers' SmolLM3Config. */
#include "family_decoder_.h"

/* A list of numbers, 0 for layers without rotary positions; else every n-th has none. */
static void read_no_rope(Fields *f, LlamaConfig *c)
{
    const json_t *list = fields_get(f, "no_rope_layers"), *item;
    int interval = fields_count(f, "no_rope_layer_interval", 4, 1, MOST_LAYERS);
    size_t i;
    if (!list || json_is_null(list)) {
        for (int layer = interval - 1; layer < c->layers; layer += interval)
            layer_set_add(&c->no_rope, layer);
        return;
    }
    if (!json_is_array(list) || json_array_size(list) < (size_t)c->layers) {
        fields_fail(f, "no_rope_layers must be a list of at least num_hidden_layers (%d) numbers, not %s",
                    c->layers, json_is_array(list) ? "a shorter list" : value_text(list).text);
        return;
    }
    json_array_foreach((json_t *)list, i, item)
    {
        int64_t rotated = json_is_integer(item) ? json_integer_value(item) : -1;
        if (rotated != 0 && rotated != 1)
            fields_fail(f, "no_rope_layers[%zu] must be 0 (not rotated) or 1, not %s", i,
                        value_text(item).text);
        else if (!rotated && (int)i < c->layers)
            layer_set_add(&c->no_rope, (int)i);
    }
}

/* Where windows are on, the layers that are not rotated have them. */
static void read_windows(Fields *f, LlamaConfig *c)
{
    int window = fields_optional(f, "sliding_window", 0, 0, MOST_POSITIONS);
    int on = fields_flag(f, "use_sliding_window", 0), count = 0;
    LayerSet sliding = {{0}};
    if (!fields_null(f, "max_window_layers"))
        fields_count(f, "max_window_layers", 0, 0,
                     MOST_LAYERS); /* Qwen2's, which SmolLM3's code does not read */
    int listed = read_layer_types(f, c->layers, &sliding);
    for (int i = 0; i < c->layers; i++)
        count += layer_in(&c->no_rope, i);
    take_windows(f, on ? window : 0, listed < 0 ? count : listed, listed < 0 ? &c->no_rope : &sliding, c);
}

static void read_smollm3(Fields *f, const void *kind)
{
    LlamaConfig *c = &f->model->preset.config.llama;
    read_decoder(f, kind, c);
    c->qkv_bias = c->o_bias = fields_flag(f, "attention_bias", 0);
    c->mlp_bias = fields_flag(f, "mlp_bias", 0);
    read_no_rope(f, c);
    read_windows(f, c);
}

static json_t *no_rope_layers(const LlamaConfig *c)
{
    json_t *list = json_array();
    for (int i = 0; i < c->layers && list; i++)
        if (json_array_append_new(list, json_integer(!layer_in(&c->no_rope, i))))
            json_decref(list), list = NULL;
    return list;
}

static void write_smollm3(json_t **o, const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    write_decoder(o, c, "smollm3", "SmolLM3ForCausalLM");
    config_put(o, "no_rope_layers", no_rope_layers(c));
    config_put(o, "attention_bias", json_boolean(c->qkv_bias));
    config_put(o, "mlp_bias", json_boolean(c->mlp_bias));
    write_qwen_windows(o, c);
}

static int check_smollm3(const ModelPreset *preset)
{
    return check_decoder_biases(preset, "SmolLM3", 1);
}

static const DecoderKind smollm3 = {.vocab = 128256,
                                    .dim = 2048,
                                    .hidden = 11008,
                                    .layers = 36,
                                    .heads = 16,
                                    .kv_heads = 4,
                                    .max_seq = 32768,
                                    .tied = 1,
                                    .theta = 2000000};

const FamilyFiles smollm3_files = {
    .types = {{"smollm3", "SmolLM3ForCausalLM", read_smollm3, &smollm3, NULL}},
    .write = write_smollm3,
    .check = check_smollm3,
    .names = {.prefix = "model.",
              .tied = {{"lm_head.weight", "model.embed_tokens.weight"}},
              .buffers = {"rotary_emb.inv_freq"},
              .other_heads = {"score."}},
    .adapted = {"q_proj", "v_proj"},
};
