/* Decoders that are made of Llama's parts, in files of others: the fields that all of them have, as
 * transformers' LlamaConfig and its relatives mean them. */
#include <stdio.h>
#include <string.h>

#include "family_decoder_.h"

/* ---- Reading --------------------------------------------------------------------------------- */

static void check_heads_of(Fields *f, const LlamaConfig *c)
{
    if (!c->head_dim)
        check_heads(f, "num_attention_heads", c->heads, "hidden_size", c->dim);
    check_heads(f, "num_key_value_heads", c->kv_heads, "num_attention_heads", c->heads);
    int head_dim = c->head_dim ? c->head_dim : c->dim / c->heads;
    if (head_dim % 2)
        fields_fail(f, "the width of a head (%s) is %d; rotary positions need an even one",
                    c->head_dim ? "head_dim" : "hidden_size / num_attention_heads", head_dim);
    if ((int64_t)c->heads * head_dim > MOST_FFN)
        fields_fail(f, "num_attention_heads %d x head_dim %d is more than %d", c->heads, head_dim, MOST_FFN);
}

static const char *norm_eps_name(const DecoderKind *kind)
{
    return kind->norm_eps_name ? kind->norm_eps_name : "rms_norm_eps";
}

/* Newer files may say it under another name, too. */
static void read_gate(Fields *f, const DecoderKind *kind)
{
    static const char *const silu[] = {"silu", "swish", NULL};
    const char *const *gates = kind->gates ? kind->gates : silu;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "\"%s\", which is what is computed", gates[0]);
    read_activation(f, "hidden_act", gates, wanted);
    if (kind->gates && !fields_null(f, "hidden_activation"))
        read_activation(f, "hidden_activation", gates, wanted);
}

void read_decoder_sizes(Fields *f, const DecoderKind *kind, LlamaConfig *c)
{
    c->vocab = fields_count(f, "vocab_size", kind->vocab, 1, MOST_VOCAB);
    c->dim = fields_count(f, "hidden_size", kind->dim ? kind->dim : 4096, 1, MOST_WIDTH);
    c->layers = fields_count(f, "num_hidden_layers", kind->layers ? kind->layers : 32, 1, MOST_LAYERS);
    c->heads = fields_count(f, "num_attention_heads", kind->heads ? kind->heads : 32, 1, MOST_HEADS);
    c->kv_heads = c->heads;
    if (!kind->plain_heads) {
        c->kv_heads = fields_optional(f, "num_key_value_heads", kind->kv_heads ? kind->kv_heads : c->heads,
                                      c->heads, MOST_HEADS);
        c->head_dim = fields_optional(f, "head_dim", kind->head_dim, 0, MOST_HEADS);
    }
    c->hidden = fields_count(f, "intermediate_size", kind->hidden, 1, MOST_FFN);
    c->max_seq = fields_count(f, "max_position_embeddings", kind->max_seq, 1, MOST_POSITIONS);
    c->tied = fields_flag(f, "tie_word_embeddings", kind->tied);
    c->norm_eps =
        (float)fields_number(f, norm_eps_name(kind), kind->norm_eps > 0 ? kind->norm_eps : 1e-6, 1e-30, 1);
    check_heads_of(f, c);
    read_gate(f, kind);
    fields_flag(f, "is_decoder", 1);
    if (!fields_null(f, "pretraining_tp"))
        fields_count(f, "pretraining_tp", 1, 1, MOST_WIDTH); /* splits products, which are the same */
    note_attention_dropout(f, "attention_dropout", 0);
}

void read_decoder(Fields *f, const DecoderKind *kind, LlamaConfig *c)
{
    read_decoder_sizes(f, kind, c);
    read_rotary(f, kind, c);
}

void layer_set_add(LayerSet *set, int layer)
{
    if (layer < LAYER_SET_MOST)
        set->bits[layer / 64] |= (uint64_t)1 << layer % 64;
}

int layer_set_but_every(LayerSet *set, int layers, int n)
{
    for (int i = 0; i < layers; i++)
        if ((i + 1) % n)
            layer_set_add(set, i);
    return layers - layers / n;
}

int read_layer_types(Fields *f, int layers, LayerSet *sliding)
{
    const json_t *list = fields_get(f, "layer_types"), *item;
    size_t i;
    int count = 0;
    if (!list || json_is_null(list))
        return -1;
    if (!json_is_array(list) || json_array_size(list) != (size_t)layers) {
        fields_fail(f, "layer_types must be a list of num_hidden_layers (%d) strings, not %s", layers,
                    json_is_array(list) ? "a list of another length" : value_text(list).text);
        return 0;
    }
    json_array_foreach((json_t *)list, i, item)
    {
        const char *type = json_is_string(item) ? json_string_value(item) : "";
        if (!strcmp(type, "sliding_attention")) {
            layer_set_add(sliding, (int)i);
            count++;
        } else if (strcmp(type, "full_attention")) {
            fields_fail(f, "layer_types[%zu] must be \"full_attention\" or \"sliding_attention\", not %s", i,
                        value_text(item).text);
        }
    }
    return count;
}

void take_windows(Fields *f, int window, int count, const LayerSet *sliding, LlamaConfig *c)
{
    if (!count || !window || window >= c->max_seq)
        return;
    c->window = window;
    if (count == c->layers)
        return; /* all of them: no set is needed */
    c->sliding = *sliding;
    if (c->layers > LAYER_SET_MOST)
        fields_fail(f, "windows in %d of %d layers; models of up to %d layers may have them in some", count,
                    c->layers, LAYER_SET_MOST);
}

void read_qwen_windows(Fields *f, LlamaConfig *c)
{
    int window = fields_optional(f, "sliding_window", 4096, 0, MOST_POSITIONS);
    int on = fields_flag(f, "use_sliding_window", 0);
    int first = fields_null(f, "max_window_layers")
                    ? MOST_LAYERS
                    : fields_count(f, "max_window_layers", 28, 0, MOST_LAYERS);
    LayerSet sliding = {{0}};
    int count = read_layer_types(f, c->layers, &sliding);
    if (count < 0) {
        count = on && first < c->layers ? c->layers - first : 0;
        for (int i = first; i < c->layers; i++)
            layer_set_add(&sliding, i);
    }
    take_windows(f, window, count, &sliding, c);
}

/* ---- Writing --------------------------------------------------------------------------------- */

void write_decoder_as(json_t **o, const DecoderKind *kind, const LlamaConfig *c, const char *type,
                      const char *architecture)
{
    config_put(o, "architectures", json_pack("[s]", architecture));
    config_put(o, "model_type", json_string(type));
    config_put(o, "vocab_size", json_integer(c->vocab));
    config_put(o, "hidden_size", json_integer(c->dim));
    config_put(o, "num_hidden_layers", json_integer(c->layers));
    config_put(o, "num_attention_heads", json_integer(c->heads));
    if (!kind->plain_heads)
        config_put(o, "num_key_value_heads", json_integer(c->kv_heads ? c->kv_heads : c->heads));
    if (c->head_dim && !kind->plain_heads)
        config_put(o, "head_dim", json_integer(c->head_dim));
    config_put(o, "intermediate_size", json_integer(c->hidden));
    config_put(o, "hidden_act", json_string("silu"));
    config_put(o, "max_position_embeddings", json_integer(c->max_seq ? c->max_seq : 4096));
    config_put(o, norm_eps_name(kind), config_decimal(c->norm_eps > 0 ? c->norm_eps : 1e-5f));
    write_rotary(o, kind, c);
    config_put(o, "tie_word_embeddings", json_boolean(c->tied));
    config_put(o, "attention_dropout", json_real(0));
}

void write_decoder(json_t **o, const LlamaConfig *c, const char *type, const char *architecture)
{
    static const DecoderKind llama;
    write_decoder_as(o, &llama, c, type, architecture);
}

int layer_set_is_empty(const LayerSet *set)
{
    static const LayerSet none;
    return !memcmp(set, &none, sizeof none);
}

json_t *layer_types_json(const LlamaConfig *c)
{
    int all = layer_set_is_empty(&c->sliding);
    json_t *list = json_array();
    for (int i = 0; i < c->layers && list; i++) {
        int slides = c->window && (all || layer_in(&c->sliding, i));
        if (json_array_append_new(list, json_string(slides ? "sliding_attention" : "full_attention"))) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

void write_qwen_windows(json_t **o, const LlamaConfig *c)
{
    config_put(o, "use_sliding_window", json_boolean(c->window));
    if (!c->window)
        return;
    config_put(o, "sliding_window", json_integer(c->window));
    config_put(o, "layer_types", layer_types_json(c));
}

static int is_factor(float factor)
{
    return factor > 0 && factor != 1;
}

int check_decoder_factors(const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    int granite = preset->family == MODEL_GRANITE,
        gemma = preset->family == MODEL_GEMMA2 || preset->family == MODEL_GEMMA3,
        rooted = gemma || preset->family == MODEL_GEMMA;
    const char *has = !granite && (rooted ? c->embedding_factor > 0 : is_factor(c->embedding_factor))
                          ? "an embedding_factor"
                      : !granite && is_factor(c->branch_factor)               ? "a branch_factor"
                      : !granite && is_factor(c->logits_divisor)              ? "a logits_divisor"
                      : !granite && !gemma && c->attention_scale > 0          ? "an attention_scale"
                      : !gemma && (c->attention_cap > 0 || c->logits_cap > 0) ? "soft caps"
                                                                              : NULL;
    return has ? error_raise(ERROR_ARGUMENT, "io_write_config(): transformers has no %s with %s of its own",
                             nn_family(preset->family)->name, has)
               : 0;
}

int check_decoder_biases(const ModelPreset *preset, const char *title, int mlp)
{
    const LlamaConfig *c = &preset->config.llama;
    const char *has = c->mlp_bias && !mlp         ? "mlp_bias"
                      : c->o_bias && !c->qkv_bias ? "o_bias but no qkv_bias"
                      : c->qkv_bias && !c->o_bias ? "qkv_bias but no o_bias"
                                                  : NULL;
    if (!has)
        return 0;
    return error_raise(ERROR_ARGUMENT,
                       "io_write_config(): transformers has no %s with %s: biases of q, k, v and o go "
                       "together%s",
                       title, has, mlp ? "" : ", and the feed-forward has none");
}
