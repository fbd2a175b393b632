/* Attention of all families. What belongs together differs only in names, biases and whether q, k, v are one
 * product. */
#include <limits.h>
#include <math.h>

#include "module_.h"

typedef struct Attention {
    AttentionConfig config;
    Module *q, *k, *v, *qkv, *output; /* GPT-2, and what is fused, has qkv in place of q, k and v */
    Module *q_norm, *k_norm;          /* may be NULL */
} Attention;

/* Of rotary positions with divisors: operations point to this copy of them. */
typedef struct DividedAttention {
    Attention attention;
    RopeDivisors divisors;
} DividedAttention;

/* What sets the families apart: names of projections, and what they always have. */
typedef struct Style {
    const char *names[4]; /* of q, k, v and what the heads give, or with qkv of that and the last */
    const char *qkv;      /* of the one projection, where there is one; LLaMA's where it is fused */
    int both_ways;        /* tokens see those behind them, too, and padding is masked */
    int rotary;           /* queries and keys are rotated */
    int biased;           /* whatever the configuration says */
    int in_out;           /* weights are */
    int by_head;          /* the one projection has q, k and v of a head side by side */
    int output_first;     /* in the order of parameters */
} Style;

static const Style styles[] = {
    [ATTENTION_LLAMA] = {{"q_proj", "k_proj", "v_proj", "o_proj"},
                         "qkv_proj",
                         .rotary = 1,
                         .output_first = 1},
    [ATTENTION_GPT2] = {{NULL, NULL, NULL, "c_proj"}, "c_attn", .biased = 1, .in_out = 1},
    [ATTENTION_BERT] = {{"self.query", "self.key", "self.value", "output.dense"},
                        .both_ways = 1,
                        .biased = 1},
    [ATTENTION_DISTILBERT] = {{"q_lin", "k_lin", "v_lin", "out_lin"}, .both_ways = 1, .biased = 1},
    [ATTENTION_MODERNBERT] = {{NULL, NULL, NULL, "Wo"}, "Wqkv", .both_ways = 1, .rotary = 1},
    [ATTENTION_NEOX] = {{NULL, NULL, NULL, "dense"}, "query_key_value", .rotary = 1, .by_head = 1},
};
enum { STYLES = sizeof styles / sizeof styles[0] };

static const Style *style_of(const AttentionConfig *c)
{
    return &styles[c->style];
}

static int turns(const AttentionConfig *c)
{
    return style_of(c)->rotary && !c->no_rope;
}

static AttentionOptions options_of(const Attention *self, Tensor *mask)
{
    return (AttentionOptions){.heads = self->config.heads,
                              .kv_heads = self->config.kv_heads,
                              .causal = !style_of(&self->config)->both_ways,
                              .kind = self->config.kind,
                              .mask = mask,
                              .window = self->config.window,
                              .scale = self->config.scale,
                              .softcap = self->config.softcap,
                              .by_head = style_of(&self->config)->by_head};
}

static RopeOptions rope_of(const Attention *self, int heads, int64_t tokens, const Batch *batch)
{
    const AttentionConfig *c = &self->config;
    return (RopeOptions){.heads = heads,
                         .head_dim = c->head_dim,
                         .theta = c->rope_theta,
                         .first = module_past(batch),
                         .scaling = c->rope_scaling,
                         .rotary_dim = rotary_width(c->head_dim, c->partial_rotary),
                         .interleaved = c->rope_interleaved,
                         .seq = module_whole(batch, tokens)};
}

/* One projection: q, k and v lie side by side, or so in each head. */
static Tensor *packed_attention(Module *module, Tensor *x, const Batch *batch)
{
    const Attention *self = nn_state(module);
    const AttentionConfig *c = &self->config;
    AttentionOptions options = options_of(self, style_of(c)->both_ways && batch ? batch->mask : NULL);
    Tensor *qkv = nn_forward(self->qkv, module_enter(x, batch), batch); /* (B,T,(heads + 2 kv_heads) D) */
    if (turns(c)) {
        RopeOptions rope = rope_of(self, c->heads + c->kv_heads, tensor_dim(qkv, 1), batch);
        rope.group = options.by_head ? 2 : 0;
        qkv = tensor_rope_with(tensor_donate(qkv), &rope);
    }
    Tensor *out;
    if (batch && batch->cache)
        out = tensor_attention_cached_packed(tensor_donate(qkv),
                                             module_cache_layer(batch, module, tensor_dim(x, 1)),
                                             module_past(batch), &options);
    else
        out = tensor_attention_packed(tensor_donate(qkv), &options);
    return nn_forward(self->output, tensor_donate(out), batch);
}

/* Queries or keys (B,T,heads*D), which are given away, under their norm, if there is one. */
static Tensor *normed(const Attention *self, Module *norm, Tensor *x, int heads, const Batch *batch)
{
    if (!norm || !x)
        return x;
    if (self->config.qk_norm == ATTENTION_NORM_ALL)
        return nn_forward(norm, tensor_donate(x), batch);
    Shape shape = tensor_shape(x);
    Shape heads_apart = SHAPE(shape.dim[0], shape.dim[1], heads, self->config.head_dim);
    Tensor *each = nn_forward(norm, tensor_donate(tensor_reshape(tensor_donate(x), heads_apart)), batch);
    return tensor_reshape(tensor_donate(each), shape);
}

static Tensor *attention_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Attention *self = nn_state(module);
    const AttentionConfig *c = &self->config;
    if (self->qkv)
        return packed_attention(module, x, batch);
    x = module_enter(x, batch);
    Tensor *q = nn_forward(self->q, x, batch);
    Tensor *k = nn_forward(self->k, x, batch);
    Tensor *v = nn_forward(self->v, x, batch);
    q = normed(self, self->q_norm, q, c->heads, batch);
    k = normed(self, self->k_norm, k, c->kv_heads, batch);
    if (turns(c)) {
        RopeOptions rope = rope_of(self, c->heads, tensor_dim(q, 1), batch);
        q = tensor_rope_with(tensor_donate(q), &rope);
        rope.heads = c->kv_heads;
        k = tensor_rope_with(tensor_donate(k), &rope);
    }
    AttentionOptions options = options_of(self, style_of(c)->both_ways && batch ? batch->mask : NULL);
    Tensor *out;
    if (batch && batch->cache)
        out = tensor_attention_cached(tensor_donate(q), tensor_donate(k), tensor_donate(v),
                                      module_cache_layer(batch, module, tensor_dim(x, 1)), module_past(batch),
                                      &options);
    else
        out = tensor_attention(tensor_donate(q), tensor_donate(k), tensor_donate(v), &options);
    return nn_forward(self->output, tensor_donate(out), batch);
}

static const ModuleClass attention_class = {"attention", sizeof(Attention), attention_forward};
static const ModuleClass divided_class = {"attention", sizeof(DividedAttention), attention_forward};

int module_attention_cache(const Module *module, int *kv_heads, int *head_dim, int *window)
{
    if (module->type != &attention_class && module->type != &divided_class)
        return 0;
    const AttentionConfig *c = &((const Attention *)module->state)->config;
    *kv_heads = c->kv_heads;
    *head_dim = c->head_dim;
    *window = c->window;
    return style_of(c)->both_ways ? -1 : 1;
}

int module_attention_turn(const Module *attention)
{
    const AttentionConfig *c = &((const Attention *)attention->state)->config;
    return turns(c) && c->rope_scaling.kind == ROPE_SCALING_LONGROPE ? c->rope_scaling.original_max_seq
                                                                     : INT_MAX;
}

Module *module_attention_output(const Module *attention)
{
    return ((const Attention *)attention->state)->output;
}

static Module *heads_linear(const AttentionConfig *c)
{
    const Style *style = style_of(c);
    return module_linear(&(LinearOptions){.in = (int64_t)c->heads * c->head_dim,
                                          .out = c->dim,
                                          .bias = style->biased || c->o_bias,
                                          .in_out = style->in_out,
                                          .split = LINEAR_BY_INPUTS});
}

static void four_projections(Module *module)
{
    Attention *self = nn_state(module);
    const AttentionConfig *c = &self->config;
    const char *const *names = style_of(c)->names;
    int bias = style_of(c)->biased || c->qkv_bias;
    int64_t inner = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;
    self->q = nn_add(module, names[0], module_linear_split(c->dim, inner, bias, LINEAR_BY_OUTPUTS));
    self->k = nn_add(module, names[1], module_linear_split(c->dim, kv, bias, LINEAR_BY_OUTPUTS));
    self->v = nn_add(module, names[2], module_linear_split(c->dim, kv, bias, LINEAR_BY_OUTPUTS));
    self->output = nn_add(module, names[3], heads_linear(c));
}

/* What one projection cannot have. Where its heads do not lie together, ranks that compute a layer together
 * each have some of three layers side by side. */
static int check_one(const AttentionConfig *c)
{
    int fewer = c->heads != c->kv_heads;
    if (fewer && c->style != ATTENTION_LLAMA)
        return error_raise(ERROR_ARGUMENT,
                           "attention: %s has as many key-value heads as heads, not %d and %d",
                           style_of(c)->qkv, c->kv_heads, c->heads);
    if (c->style == ATTENTION_GPT2 && (int64_t)c->heads * c->head_dim != c->dim)
        return error_raise(ERROR_ARGUMENT, "attention: GPT-2's has heads x head_dim = dim");
    if (c->qk_norm)
        return error_raise(ERROR_ARGUMENT, "attention: a fused projection has no norms on queries and keys");
    return fewer && config_undivided("attention", "queries, keys and values of one projection with fewer key "
                                                  "heads are");
}

static Module *one_linear(const AttentionConfig *c)
{
    const Style *style = style_of(c);
    return module_linear(&(LinearOptions){.in = c->dim,
                                          .out = (c->heads + 2 * (int64_t)c->kv_heads) * c->head_dim,
                                          .bias = style->biased || c->qkv_bias,
                                          .in_out = style->in_out,
                                          .split = LINEAR_BY_OUTPUTS,
                                          .packed = style->by_head || c->heads != c->kv_heads ? 1 : 3});
}

static void one_projection(Module *module)
{
    Attention *self = nn_state(module);
    const AttentionConfig *c = &self->config;
    const Style *style = style_of(c);
    if (check_one(c))
        return;
    if (style->output_first)
        self->output = nn_add(module, style->names[3], heads_linear(c));
    self->qkv = nn_add(module, style->qkv, one_linear(c));
    if (!style->output_first)
        self->output = nn_add(module, style->names[3], heads_linear(c));
}

/* Behind the projections, as in files. Each of the ranks that compute a layer together has some of the heads,
 * so the gradient of a weight that all heads share is the sum over them. */
static void add_norms(Module *module)
{
    Attention *self = nn_state(module);
    const AttentionConfig *c = &self->config;
    int all = c->qk_norm == ATTENTION_NORM_ALL;
    if (!c->qk_norm || (all && config_undivided("attention", "norms over all heads are")))
        return;
    int q = all ? c->heads * c->head_dim : c->head_dim, k = all ? c->kv_heads * c->head_dim : c->head_dim;
    self->q_norm = nn_add(module, "q_norm", module_rms_norm_plus(q, c->norm_eps, c->norm_plus));
    self->k_norm = nn_add(module, "k_norm", module_rms_norm_plus(k, c->norm_eps, c->norm_plus));
    if (context_tensor_ranks_(module->item.context) > 1)
        for (int i = 0; i < 2 && !error_code(); i++)
            module_own(i ? self->k_norm : self->q_norm, "weight")->partial = 1;
}

Module *nn_attention(const AttentionConfig *config)
{
    if (config_missing("attention", config))
        return NULL;
    int kv_heads = config->kv_heads ? config->kv_heads : config->heads;
    if ((unsigned)config->style >= STYLES) {
        error_raise(ERROR_ARGUMENT, "attention: there is no style of the number %d", (int)config->style);
        return NULL;
    }
    if (config_positive("attention", "dim", config->dim))
        return NULL;
    int head_dim = config_head_dim("attention", config->dim, config->heads, kv_heads, config->head_dim);
    if (!head_dim ||
        (style_of(config)->rotary && config_rotary("attention", head_dim, config->partial_rotary)) ||
        config_divided("attention", "heads", config->heads) ||
        config_divided("attention", "kv_heads", kv_heads))
        return NULL;
    const RopeDivisors *divisors = config->rope_scaling.divisors;
    Module *module = nn_module(divisors ? &divided_class : &attention_class);
    Attention *self = nn_state(module);
    if (!self)
        return NULL;
    self->config = *config;
    if (divisors) {
        DividedAttention *divided = nn_state(module);
        divided->divisors = *divisors;
        self->config.rope_scaling.divisors = &divided->divisors;
    }
    self->config.kv_heads = kv_heads;
    self->config.head_dim = head_dim;
    self->config.rope_theta = config->rope_theta > 0 ? config->rope_theta : 10000;
    if (!style_of(config)->names[0] || (config->style == ATTENTION_LLAMA && config->fused))
        one_projection(module);
    else
        four_projections(module);
    add_norms(module);
    int ranks = context_tensor_ranks_(module->item.context);
    self->config.heads /= ranks; /* from here on, this rank's */
    self->config.kv_heads /= ranks;
    return error_code() ? NULL : module;
}
