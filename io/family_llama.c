/* Llama in files of others, and Mistral and Qwen2, which are the same with other sizes. Names, defaults and
 * meanings are those of transformers' LlamaConfig, MistralConfig and Qwen2Config. */
#include <stdio.h>
#include <string.h>

#include "family_decoder_.h"

/* ---- Rotary positions ------------------------------------------------------------------------ */

/* Kinds that are not computed. ("dynamic" changes positions beyond max_position_embeddings only, which no
 * sequence here reaches.) */
static int is_other_scaling(const char *type)
{
    static const char *const kinds[] = {"ntk", "yarn", "longrope", "su"};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (!strcmp(kinds[i], type))
            return 1;
    return 0;
}

/* A number above 0; where the kind needs it, it must be there. */
static double scaling_number(Fields *f, const char *name, int needed)
{
    if (fields_null(f, name) && !needed)
        return 0;
    double x = fields_number(f, name, 0, 0, 1e9);
    if (needed && x <= 0)
        fields_refuse(f, name, "a number above 0");
    return x;
}

/* The numbers of a scaling; those that its kind does not need are only checked. */
static RopeScaling read_scaling(Fields *f, const char *type)
{
    static const char *const others[] = {"attention_factor", "beta_fast", "beta_slow", "mscale",
                                         "mscale_all_dim"};
    int linear = !strcmp(type, "linear"), llama3 = !strcmp(type, "llama3");
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (!fields_null(f, others[i]))
            fields_number(f, others[i], 1, 0, 1e9);
    RopeScaling s = {.kind = linear   ? ROPE_SCALING_LINEAR
                             : llama3 ? ROPE_SCALING_LLAMA3
                                      : ROPE_SCALING_NONE,
                     .factor = (float)scaling_number(f, "factor", linear || llama3),
                     .low_freq_factor = (float)scaling_number(f, "low_freq_factor", llama3),
                     .high_freq_factor = (float)scaling_number(f, "high_freq_factor", llama3)};
    s.original_max_seq = fields_optional(f, "original_max_position_embeddings", 0, 0, MOST_POSITIONS);
    if (llama3 && !f->failed && s.high_freq_factor <= s.low_freq_factor)
        fields_fail(f, "%shigh_freq_factor must be above low_freq_factor %g, not %g", f->within,
                    (double)s.low_freq_factor, (double)s.high_freq_factor);
    if (llama3 && !s.original_max_seq)
        fields_refuse(f, "original_max_position_embeddings", "a whole number from 1 to %d", MOST_POSITIONS);
    return s.kind == ROPE_SCALING_NONE ? (RopeScaling){0} : s;
}

/* The nested object: how positions are stretched, and in newer files the base too. */
static void read_rope_object(Fields *f, const char *name, double *theta, RopeScaling *scaling)
{
    static const char *const ignored[] = {"short_factor", "long_factor", "truncate", "finetuned", NULL};
    const json_t *object = fields_get(f, name);
    if (!object || json_is_null(object))
        return;
    if (!json_is_object(object)) {
        fields_refuse(f, name, "an object or null");
        return;
    }
    char within[32];
    snprintf(within, sizeof within, "%s.", name);
    Fields nested = {.file = f->file, .within = within, .object = object, .model = f->model};
    const char *type = fields_text(&nested, "rope_type", fields_text(&nested, "type", "default"));
    const char *older = fields_text(&nested, "type", type);
    if (strcmp(older, type))
        fields_fail(&nested, "%srope_type is %s and type is %s; keep one", within, string_text(type).text,
                    string_text(older).text);
    int computed = !strcmp(type, "linear") || !strcmp(type, "dynamic") || !strcmp(type, "llama3");
    if (strcmp(type, "default") && !computed && !is_other_scaling(type))
        fields_refuse(&nested, json_object_get(object, "rope_type") ? "rope_type" : "type",
                      "default, linear, dynamic, yarn, longrope or llama3");
    RopeScaling read = read_scaling(&nested, type);
    if (read.kind)
        *scaling = read;
    fields_only(&nested, "partial_rotary_factor", 1, "all of a head is rotated here");
    *theta = fields_number(&nested, "rope_theta", *theta, 1, 1e12);
    fields_leftover(&nested, ignored);
    f->failed = f->failed ? f->failed : nested.failed;
    if (is_other_scaling(type)) {
        snprintf(f->model->positions, sizeof f->model->positions,
                 "%s.%s %s is not computed, so trained weights would see other positions", name,
                 json_object_get(object, "rope_type") ? "rope_type" : "type", string_text(type).text);
        model_note(f->model,
                   "Rotary positions are not scaled (%s): memory is exact, and training from random weights "
                   "works, but not with trained weights.",
                   type);
    }
}

void read_rotary(Fields *f, double otherwise, LlamaConfig *c)
{
    double top = fields_number(f, "rope_theta", otherwise, 1, 1e12), theta = top;
    read_rope_object(f, "rope_scaling", &theta, &c->rope_scaling);
    read_rope_object(f, "rope_parameters", &theta, &c->rope_scaling);
    if (json_object_size(fields_get(f, "rope_scaling")) && json_object_size(fields_get(f, "rope_parameters")))
        fields_fail(f, "rope_scaling and rope_parameters say the same thing; keep one");
    if (fields_get(f, "rope_theta") && theta != top)
        fields_fail(f, "rope_theta is %g, and %g in the nested object; keep one", top, theta);
    fields_optional(f, "original_max_position_embeddings", 0, 0, MOST_POSITIONS);
    fields_only(f, "partial_rotary_factor", 1, "all of a head is rotated here");
    fields_must(f, "rope_interleaved", 0, "rotary positions turn pairs half a head apart here");
    fields_must(f, "use_mrope", 0, "positions of several axes are not computed");
    c->rope_theta = (float)theta;
}

/* ---- Reading --------------------------------------------------------------------------------- */

typedef struct LlamaKind {
    DecoderKind decoder;
    int window; /* sliding_window where absent; 0 = there is none */
    int qkv_bias, bias_fields;
} LlamaKind;

/* Of the three Mistral has windows in all layers, Qwen2 may have them in some, and Llama's code reads no
 * field about them. */
static void read_window(Fields *f, const LlamaKind *kind, LlamaConfig *c)
{
    LayerSet none = {{0}};
    if (kind->qkv_bias) {
        read_qwen_windows(f, c);
        return;
    }
    int window = fields_optional(f, "sliding_window", kind->window, 0, MOST_POSITIONS);
    fields_flag(f, "use_sliding_window", 0);
    if (!fields_null(f, "max_window_layers"))
        fields_count(f, "max_window_layers", 0, 0, MOST_LAYERS);
    read_layer_types(f, c->layers, &none);
    if (kind->window)
        take_windows(f, window, c->layers, &none, c);
    else if (window && window < c->max_seq)
        model_note(f->model, "sliding_window %d is not used: Llama's attention has no window.", window);
}

static void read_biases(Fields *f, const LlamaKind *kind, LlamaConfig *c)
{
    c->qkv_bias = kind->qkv_bias;
    if (kind->bias_fields) {
        c->qkv_bias = c->o_bias = fields_flag(f, "attention_bias", 0);
        c->mlp_bias = fields_flag(f, "mlp_bias", 0);
        return;
    }
    fields_must(f, "attention_bias", kind->qkv_bias,
                kind->qkv_bias ? "Qwen2 always has biases on q, k and v" : "Mistral has no biases");
    fields_must(f, "mlp_bias", 0, "only Llama's feed-forward may have biases");
}

static void read_llama(Fields *f, const void *which)
{
    const LlamaKind *kind = which;
    LlamaConfig *c = &f->model->preset.config.llama;
    read_decoder(f, &kind->decoder, c);
    read_biases(f, kind, c);
    read_window(f, kind, c);
}

/* ---- Writing --------------------------------------------------------------------------------- */

json_t *rope_scaling_json(const RopeScaling *s)
{
    if (s->kind == ROPE_SCALING_NONE)
        return json_null();
    if (s->kind == ROPE_SCALING_LINEAR)
        return json_pack("{s:s, s:o}", "rope_type", "linear", "factor", config_decimal(s->factor));
    return json_pack("{s:s, s:o, s:o, s:o, s:i}", "rope_type", "llama3", "factor", config_decimal(s->factor),
                     "low_freq_factor", config_decimal(s->low_freq_factor), "high_freq_factor",
                     config_decimal(s->high_freq_factor), "original_max_position_embeddings",
                     s->original_max_seq);
}

static void write_llama(json_t **o, const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    /* Biases on q, k and v alone are Qwen2's; Llama has four or none, and no window. */
    int qwen2 = c->qkv_bias && !c->o_bias && !c->mlp_bias;
    int mistral = c->window && !c->qkv_bias && !c->o_bias && !c->mlp_bias;
    write_decoder(o, c,
                  qwen2     ? "qwen2"
                  : mistral ? "mistral"
                            : "llama",
                  qwen2     ? "Qwen2ForCausalLM"
                  : mistral ? "MistralForCausalLM"
                            : "LlamaForCausalLM");
    if (mistral)
        config_put(o, "sliding_window", json_integer(c->window));
    if (qwen2)
        write_qwen_windows(o, c);
    if (qwen2 || mistral)
        return;
    config_put(o, "attention_bias", json_boolean(c->qkv_bias));
    config_put(o, "mlp_bias", json_boolean(c->mlp_bias));
}

/* Biases of q, k and v alone are Qwen2's, Llama has those of all four or none: others would be left out, or
 * made anew, by whoever loads them. */
static int check_biases(const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    if (!c->qkv_bias == !c->o_bias || (c->qkv_bias && !c->mlp_bias))
        return 0;
    return error_raise(ERROR_ARGUMENT,
                       "io_write_config(): transformers has no Llama with %s: biases of q, k, v and o go "
                       "together, or those of q, k and v are alone (Qwen2)",
                       c->o_bias ? "o_bias but no qkv_bias" : "qkv_bias and mlp_bias but no o_bias");
}

/* ---- The family ------------------------------------------------------------------------------ */

static const LlamaKind llama = {{.vocab = 32000, .hidden = 11008, .max_seq = 2048}, .bias_fields = 1};
static const LlamaKind mistral = {{.vocab = 32000, .hidden = 14336, .kv_heads = 8, .max_seq = 131072},
                                  .window = 4096};
static const LlamaKind qwen2 = {
    {.vocab = 151936, .hidden = 22016, .kv_heads = 32, .max_seq = 32768}, .qkv_bias = 1};

const FamilyFiles llama_files = {
    .types = {{"llama", "LlamaForCausalLM", read_llama, &llama},
              {"mistral", "MistralForCausalLM", read_llama, &mistral},
              {"qwen2", "Qwen2ForCausalLM", read_llama, &qwen2}},
    .write = write_llama,
    .check = check_biases,
    .names = {.prefix = "model.",
              .tied = {{"lm_head.weight", "model.embed_tokens.weight"}},
              .buffers = {"rotary_emb.inv_freq"},
              .other_heads = {"score."}},
    .adapted = {"q_proj", "v_proj"},
};
