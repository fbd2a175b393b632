/* Families that are not read and that differ little from one that is, read as that one: for plans alone. What
 * is left out is said, with the parameters that the model has otherwise, exactly, and with how many numbers a
 * token training may keep otherwise. Where rotary positions, norms' epsilon and factors decide no byte, their
 * fields are passed by. Names and defaults are those of transformers' configuration classes. */
#include <string.h>

#include "family_decoder_.h"

enum { NAMES_MOST = 12 };

typedef struct Near {
    const char *type, *architecture; /* the file's */
    const char *as;                  /* the model_type that stands for it */
    ModelFamily family;
    DecoderKind kind;
    /* Fills what sizes do not say, and what differs. */
    void (*read)(Fields *f, LlamaConfig *c, IoApproximation *a);
    const char *differs;
    const char *names[NAMES_MOST]; /* fields that decide no byte */
} Near;

/* ---- What they have in common ---------------------------------------------------------------- */

static int64_t head_width(const LlamaConfig *c)
{
    return c->head_dim ? c->head_dim : c->dim / c->heads;
}

/* What q and k of a token are together. */
static int64_t keys_width(const LlamaConfig *c)
{
    return (int64_t)(c->heads + c->kv_heads) * head_width(c);
}

static int64_t norms_of(const LlamaConfig *c)
{
    return 2 * (int64_t)c->layers + 1;
}

static void read_attention_bias(Fields *f, LlamaConfig *c, int otherwise)
{
    c->qkv_bias = c->o_bias = fields_flag(f, "attention_bias", otherwise);
}

/* Of all layers, where there is one. */
static void read_window(Fields *f, LlamaConfig *c)
{
    static const LayerSet none;
    take_windows(f, fields_optional(f, "sliding_window", 0, 0, MOST_POSITIONS), c->layers, &none, c);
}

/* Of the layers that layer_types names, else of all but every n-th. */
static void read_windows(Fields *f, LlamaConfig *c, int otherwise, int every)
{
    int window = fields_optional(f, "sliding_window", otherwise, 0, MOST_POSITIONS);
    LayerSet sliding = {{0}};
    int count = read_layer_types(f, c->layers, &sliding);
    if (count < 0)
        count = window && every ? layer_set_but_every(&sliding, c->layers, every) : 0;
    take_windows(f, window, count, &sliding, c);
}

/* q, k and v are cut off, where it is there, which keeps at most what they were. */
static void read_clip(Fields *f, const LlamaConfig *c, IoApproximation *a)
{
    if (!fields_null(f, "clip_qkv") && fields_number(f, "clip_qkv", 0, 0, 1e6) > 0)
        a->kept += c->layers * (keys_width(c) + c->kv_heads * head_width(c));
}

static void read_mixture(Fields *f, LlamaConfig *c, int count, int active, int normalise)
{
    const ExpertsKind kind = {.count = count, .active = active, .num_experts = 1};
    read_experts(f, &kind, &c->experts);
    c->experts.normalise = normalise;
}

/* ---- Each ------------------------------------------------------------------------------------ */

static void read_ministral3(Fields *f, LlamaConfig *c, IoApproximation *a)
{
    read_window(f, c);
    a->kept = (int64_t)c->layers * c->heads * head_width(c);
}

static void read_gpt_oss(Fields *f, LlamaConfig *c, IoApproximation *a)
{
    read_attention_bias(f, c, 1);
    read_mixture(f, c, 128, 4, 1);
    read_windows(f, c, 128, 2);
    const ExpertsConfig *e = &c->experts;
    a->parameters = c->layers * ((int64_t)e->count * (2 * (int64_t)c->hidden + c->dim + 1) + c->heads);
    a->kept = (int64_t)c->layers * c->heads;
}

static void read_olmoe(Fields *f, LlamaConfig *c, IoApproximation *a)
{
    read_attention_bias(f, c, 0);
    read_mixture(f, c, 64, 8, fields_flag(f, "norm_topk_prob", 0));
    read_clip(f, c, a);
    a->parameters = c->layers * (keys_width(c) - 2 * head_width(c));
    a->kept += c->layers * ((int64_t)c->heads + c->kv_heads);
}

static void read_granitemoe(Fields *f, LlamaConfig *c, IoApproximation *a)
{
    (void)a;
    read_attention_bias(f, c, 0);
    read_mixture(f, c, 8, 2, 1);
    c->embedding_factor = (float)fields_number(f, "embedding_multiplier", 1, 1e-6, 1e6);
    c->branch_factor = (float)fields_number(f, "residual_multiplier", 1, 1e-6, 1e6);
    c->attention_scale = (float)fields_number(f, "attention_multiplier", 1, 1e-6, 1e6);
    c->logits_divisor = (float)fields_number(f, "logits_scaling", 1, 1e-6, 1e6);
}

/* Its router chooses one expert after the other, with masks of its own. */
static void read_phimoe(Fields *f, LlamaConfig *c, IoApproximation *a)
{
    read_attention_bias(f, c, 0);
    fields_get(f, "router_jitter_noise");
    double noise = fields_number(f, "input_jitter_noise", 0, 0, 1e6);
    c->experts.count = fields_count(f, "num_local_experts", 16, 1, MOST_EXPERTS);
    c->experts.active = fields_count(f, "num_experts_per_tok", 2, 1, c->experts.count);
    c->experts.normalise = 1;
    double balance = fields_number(f, "router_aux_loss_coef", 0.001, 0, 1e6);
    c->experts.balance = fields_flag(f, "output_router_logits", 0) ? (float)balance : 0;
    read_window(f, c);
    a->parameters = norms_of(c) * c->dim + (fields_flag(f, "lm_head_bias", 0) ? c->vocab : 0);
    a->kept = norms_of(c) + c->layers * (4 * (int64_t)c->experts.count + (noise > 0 ? c->dim : 0));
}

static void read_olmo(Fields *f, LlamaConfig *c, IoApproximation *a)
{
    read_attention_bias(f, c, 0);
    read_clip(f, c, a);
    a->parameters = -norms_of(c) * c->dim;
    a->kept += norms_of(c);
}

static void read_stablelm(Fields *f, LlamaConfig *c, IoApproximation *a)
{
    int64_t layers = c->layers;
    c->qkv_bias = fields_flag(f, "use_qkv_bias", 0);
    a->parameters = norms_of(c) * c->dim;
    a->kept = norms_of(c);
    if (fields_flag(f, "use_parallel_residual", 0)) { /* a norm a layer is not there */
        a->parameters -= 2 * layers * c->dim;
        a->kept += 2 * layers * c->dim;
    }
    if (fields_flag(f, "qk_layernorm", 0)) {
        a->parameters += layers * keys_width(c);
        a->kept += layers * (keys_width(c) + 2 * ((int64_t)c->heads + c->kv_heads));
    }
    if (fields_probability(f, "hidden_dropout", 0) > 0)
        a->kept += 2 * layers * c->dim;
}

/* One projection makes gate and up: their gradients come at once. */
static void read_glm(Fields *f, LlamaConfig *c, IoApproximation *a)
{
    c->qkv_bias = fields_flag(f, "attention_bias", 1);
    a->kept = 2 * (int64_t)c->hidden;
}

/* With norms behind the branches too. */
static void read_glm4(Fields *f, LlamaConfig *c, IoApproximation *a)
{
    read_glm(f, c, a);
    a->parameters = 2 * (int64_t)c->layers * c->dim;
    a->kept += 2 * (int64_t)c->layers * (c->dim + 1);
}

static void read_exaone4(Fields *f, LlamaConfig *c, IoApproximation *a)
{
    int every = json_is_integer(fields_get(f, "sliding_window_pattern"))
                    ? fields_count(f, "sliding_window_pattern", 4, 1, MOST_LAYERS)
                    : 4;
    read_windows(f, c, 4096, every);
    a->parameters = c->layers * (2 * head_width(c) - keys_width(c));
    a->kept = c->layers * ((int64_t)c->heads + c->kv_heads);
}

/* ---- The table ------------------------------------------------------------------------------- */

static const Near near_families[] = {
    {.type = "ministral3",
     .architecture = "Ministral3ForCausalLM",
     .as = "mistral",
     .family = MODEL_LLAMA,
     .kind =
         {.vocab = 131072, .hidden = 14336, .layers = 34, .kv_heads = 8, .head_dim = 128, .max_seq = 262144},
     .read = read_ministral3,
     .differs = "queries are scaled by their positions, which keeps at most one tensor of queries a layer"},
    {.type = "gpt_oss",
     .architecture = "GptOssForCausalLM",
     .as = "mixtral",
     .family = MODEL_MIXTRAL,
     .kind = {.vocab = 201088,
              .dim = 2880,
              .hidden = 2880,
              .layers = 36,
              .heads = 64,
              .kv_heads = 8,
              .head_dim = 64,
              .max_seq = 131072},
     .read = read_gpt_oss,
     .differs =
         "attention sinks (a number a head), biases of experts and of the router, and experts' gate are "
         "left out; weights are planned in the type that the options say, not in MXFP4",
     .names = {"swiglu_alpha", "swiglu_limit", "experts_per_token", "initial_context_length",
               "quantization_config"}},
    {.type = "olmoe",
     .architecture = "OlmoeForCausalLM",
     .as = "qwen3_moe",
     .family = MODEL_QWEN3_MOE,
     .kind = {.vocab = 50304, .dim = 2048, .hidden = 2048, .layers = 16, .heads = 16, .max_seq = 4096},
     .read = read_olmoe,
     .differs = "norms of queries and keys are over all heads together, not over each"},
    {.type = "granitemoe",
     .architecture = "GraniteMoeForCausalLM",
     .as = "mixtral",
     .family = MODEL_MIXTRAL,
     .kind = {.vocab = 32000, .hidden = 11008, .max_seq = 2048},
     .read = read_granitemoe,
     .differs = "its tensors have other names in files"},
    {.type = "phimoe",
     .architecture = "PhimoeForCausalLM",
     .as = "mixtral",
     .family = MODEL_MIXTRAL,
     .kind = {.vocab = 32064, .dim = 4096, .hidden = 6400, .layers = 32, .kv_heads = 8, .max_seq = 131072},
     .read = read_phimoe,
     .differs = "norms take the mean away and have biases, and the router chooses one expert after the other",
     .names = {"original_max_position_embeddings"}},
    {.type = "olmo",
     .architecture = "OlmoForCausalLM",
     .as = "llama",
     .family = MODEL_LLAMA,
     .kind = {.vocab = 50304, .hidden = 11008, .max_seq = 2048},
     .read = read_olmo,
     .differs = "norms take the mean away and have no weights"},
    {.type = "stablelm",
     .architecture = "StableLmForCausalLM",
     .as = "llama",
     .family = MODEL_LLAMA,
     .kind = {.vocab = 50304, .dim = 2560, .hidden = 6912, .layers = 32, .max_seq = 4096},
     .read = read_stablelm,
     .differs =
         "norms take the mean away and have biases; what else the file asks for (side by side branches, "
         "norms of queries and keys, dropout) is counted and not planned",
     .names = {"layer_norm_eps"}},
    {.type = "glm",
     .architecture = "GlmForCausalLM",
     .as = "llama",
     .family = MODEL_LLAMA,
     .kind =
         {.vocab = 151552, .hidden = 13696, .layers = 40, .kv_heads = 2, .head_dim = 128, .max_seq = 131072},
     .read = read_glm,
     .differs =
         "gate and up are one projection, and rotary positions turn neighbouring pairs of half a head"},
    {.type = "glm4",
     .architecture = "Glm4ForCausalLM",
     .as = "llama",
     .family = MODEL_LLAMA,
     .kind =
         {.vocab = 151552, .hidden = 13696, .layers = 40, .kv_heads = 2, .head_dim = 128, .max_seq = 131072},
     .read = read_glm4,
     .differs = "there are norms behind both branches too, and gate and up are one projection"},
    {.type = "exaone4",
     .architecture = "Exaone4ForCausalLM",
     .as = "olmo2",
     .family = MODEL_OLMO2,
     .kind = {.vocab = 102400, .hidden = 16384, .kv_heads = 32, .max_seq = 2048, .norm_eps = 1e-5},
     .read = read_exaone4,
     .differs = "norms of queries and keys are over each head, not over all together"},
};

static const Near *near_of(const char *type)
{
    for (size_t i = 0; i < sizeof near_families / sizeof near_families[0]; i++)
        if (!strcmp(near_families[i].type, type))
            return &near_families[i];
    return NULL;
}

const char *approximate_as(const char *type)
{
    const Near *near = near_of(type);
    return near ? near->as : NULL;
}

/* Those of rotary positions, which need no memory of their own. */
static void pass_by(Fields *f, const Near *near)
{
    static const char *const positions[] = {"rope_theta", "rope_scaling", "rope_parameters",
                                            "partial_rotary_factor", "rope_interleave"};
    for (size_t i = 0; i < sizeof positions / sizeof positions[0]; i++)
        fields_get(f, positions[i]);
    for (int i = 0; i < NAMES_MOST && near->names[i]; i++)
        fields_get(f, near->names[i]);
}

const char *approximate_read(Fields *f, const char *type)
{
    const Near *near = near_of(type);
    if (!near)
        return NULL;
    IoApproximation *a = &f->model->approximate;
    LlamaConfig *c = &f->model->preset.config.llama;
    f->model->preset.family = near->family;
    *a = (IoApproximation){.type = near->type, .as = near->as, .differs = near->differs};
    pass_by(f, near);
    read_decoder_sizes(f, &near->kind, c);
    near->read(f, c, a);
    return near->architecture;
}
