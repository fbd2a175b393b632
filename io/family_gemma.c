/* Gemma, Gemma 2 and Gemma 3 (its text part) in files of others. Names, defaults and meanings are those of
 * transformers' GemmaConfig, Gemma2Config and Gemma3TextConfig. */
#include <math.h>

#include "family_decoder_.h"

/* The one that is computed; GELU by its plain name is meant so in the first files. */
static const char *const gates[] = {"gelu_pytorch_tanh", "gelu_new", "gelu", NULL};

typedef struct GemmaKind {
    DecoderKind decoder;
    int version;
    int full_every; /* of so many layers the last has no window; 0 = there are no windows */
    double cap, logits_cap;
} GemmaKind;

static float read_cap(Fields *f, const char *name, double otherwise)
{
    return fields_null(f, name) ? 0 : (float)fields_number(f, name, otherwise, 0, 1e6);
}

static void read_windows(Fields *f, const GemmaKind *kind, LlamaConfig *c)
{
    static const char *const patterns[] = {"sliding_window_pattern", "_sliding_window_pattern"};
    int every = kind->full_every;
    for (int i = 0; i < 2 && kind->version > 2; i++)
        if (!fields_null(f, patterns[i]))
            every = fields_count(f, patterns[i], every, 1, MOST_LAYERS);
    LayerSet sliding = {{0}};
    int window = fields_optional(f, "sliding_window", 4096, 0, MOST_POSITIONS);
    int count = read_layer_types(f, c->layers, &sliding);
    if (count < 0)
        count = layer_set_but_every(&sliding, c->layers, every);
    take_windows(f, window, count, &sliding, c);
}

static void read_gemma(Fields *f, const void *which)
{
    const GemmaKind *kind = which;
    LlamaConfig *c = &f->model->preset.config.llama;
    read_decoder(f, &kind->decoder, c);
    c->qkv_bias = c->o_bias = fields_flag(f, "attention_bias", 0);
    fields_must(f, "use_bidirectional_attention", 0, "a token sees what comes before it here");
    if (kind->version == 1)
        return;
    int scalar = fields_count(f, "query_pre_attn_scalar", 256, 1, MOST_WIDTH);
    c->attention_scale = (float)(1 / sqrt((double)scalar));
    c->attention_cap = read_cap(f, "attn_logit_softcapping", kind->cap);
    c->logits_cap = read_cap(f, "final_logit_softcapping", kind->logits_cap);
    read_windows(f, kind, c);
    if (kind->version == 2 || !fields_null(f, "cache_implementation"))
        fields_text(f, "cache_implementation", "hybrid"); /* of transformers' own cache */
}

/* ---- Writing --------------------------------------------------------------------------------- */

static json_t *cap_json(float cap)
{
    return cap > 0 ? config_decimal(cap) : json_null();
}

static void write_gemma(json_t **o, const ModelPreset *preset)
{
    static const char *const types[] = {"gemma", "gemma2", "gemma3_text"};
    static const char *const classes[] = {"GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"};
    const LlamaConfig *c = &preset->config.llama;
    int version = preset->family == MODEL_GEMMA ? 1 : preset->family == MODEL_GEMMA2 ? 2 : 3;
    ModelSizes sizes = nn_preset_sizes(preset);
    write_decoder(o, c, types[version - 1], classes[version - 1]);
    config_put(o, "hidden_act", json_string(gates[0]));
    if (version > 1) /* the name that transformers reads */
        config_put(o, "hidden_activation", json_string(gates[0]));
    config_put(o, "head_dim", json_integer(sizes.head_dim)); /* 256 where it is absent */
    config_put(o, "attention_bias", json_boolean(c->qkv_bias));
    if (version == 1)
        return;
    double scale = c->attention_scale > 0 ? (double)c->attention_scale : 1 / sqrt((double)sizes.head_dim);
    config_put(o, "query_pre_attn_scalar", json_integer((json_int_t)lround(1 / (scale * scale))));
    config_put(o, "attn_logit_softcapping", cap_json(c->attention_cap));
    config_put(o, "final_logit_softcapping", cap_json(c->logits_cap));
    config_put(o, "sliding_window", json_integer(c->window ? c->window : sizes.max_seq));
    config_put(o, "layer_types", layer_types_json(c));
    if (version > 2)
        config_put(o, "rope_local_base_freq", config_decimal(c->local_theta > 0 ? c->local_theta : 10000));
}

static int check_gemma(const ModelPreset *preset)
{
    return check_decoder_biases(preset, "Gemma", 0);
}

/* ---- The families ---------------------------------------------------------------------------- */

#define GEMMA .vocab = 256000, .head_dim = 256, .tied = 1, .gates = gates
static const GemmaKind gemma = {
    {GEMMA, .dim = 3072, .hidden = 24576, .layers = 28, .heads = 16, .kv_heads = 16, .max_seq = 8192},
    .version = 1};
static const GemmaKind gemma2 = {
    {GEMMA, .dim = 2304, .hidden = 9216, .layers = 26, .heads = 8, .kv_heads = 4, .max_seq = 8192},
    .version = 2,
    .full_every = 2,
    .cap = 50,
    .logits_cap = 30};
static const GemmaKind gemma3 = {{.vocab = 262208,
                                  .head_dim = 256,
                                  .tied = 1,
                                  .gates = gates,
                                  .dim = 2304,
                                  .hidden = 9216,
                                  .layers = 26,
                                  .heads = 8,
                                  .kv_heads = 4,
                                  .max_seq = 131072,
                                  .theta = 1000000,
                                  .local_theta = 10000},
                                 .version = 3,
                                 .full_every = 6};

#define GEMMA_FILES                                                                                          \
    .write = write_gemma, .check = check_gemma,                                                              \
    .names = {.prefix = "model.",                                                                            \
              .tied = {{"lm_head.weight", "model.embed_tokens.weight"}},                                     \
              .buffers = {"rotary_emb.inv_freq", "embed_tokens.embed_scale"},                                \
              .other_heads = {"score."}},                                                                    \
    .adapted = {"q_proj", "v_proj"}

const FamilyFiles gemma_files = {.types = {{"gemma", "GemmaForCausalLM", read_gemma, &gemma, NULL}},
                                 GEMMA_FILES};
const FamilyFiles gemma2_files = {.types = {{"gemma2", "Gemma2ForCausalLM", read_gemma, &gemma2, NULL}},
                                  GEMMA_FILES};
const FamilyFiles gemma3_files = {.types = {{"gemma3_text", "Gemma3ForCausalLM", read_gemma, &gemma3, NULL}},
                                  GEMMA_FILES};
