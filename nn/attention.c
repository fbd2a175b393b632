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

/* Tokens see those behind them, too, and padding is masked. */
static int both_ways(const AttentionConfig *c)
{
    return c->style == ATTENTION_BERT || c->style == ATTENTION_DISTILBERT || c->style == ATTENTION_MODERNBERT;
}

/* Queries and keys are rotated. */
static int turns(const AttentionConfig *c)
{
    return c->style == ATTENTION_MODERNBERT || (c->style == ATTENTION_LLAMA && !c->no_rope);
}

static AttentionOptions options_of(const Attention *self, Tensor *mask)
{
    return (AttentionOptions){.heads = self->config.heads,
                              .kv_heads = self->config.kv_heads,
                              .causal = !both_ways(&self->config),
                              .kind = self->config.kind,
                              .mask = mask,
                              .window = self->config.window,
                              .scale = self->config.scale,
                              .softcap = self->config.softcap};
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

/* GPT-2's, ModernBERT's, and the fused one of LLaMA's style: q, k and v lie side by side. */
static Tensor *packed_attention(Module *module, Tensor *x, const Batch *batch)
{
    const Attention *self = nn_state(module);
    const AttentionConfig *c = &self->config;
    AttentionOptions options = options_of(self, both_ways(c) && batch ? batch->mask : NULL);
    Tensor *qkv = nn_forward(self->qkv, module_enter(x, batch), batch); /* (B,T,(heads + 2 kv_heads) D) */
    if (turns(c)) {
        RopeOptions rope = rope_of(self, c->heads + c->kv_heads, tensor_dim(qkv, 1), batch);
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
    AttentionOptions options = options_of(self, both_ways(c) && batch ? batch->mask : NULL);
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
    return both_ways(c) ? -1 : 1;
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

/* What LLaMA and BERT do alike: four projections under names of their own. */
static void four_projections(Module *module, const char *const names[4], int qkv_bias, int output_bias)
{
    Attention *self = nn_state(module);
    const AttentionConfig *c = &self->config;
    int64_t dim = c->dim, inner = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;
    self->q = nn_add(module, names[0], module_linear_split(dim, inner, qkv_bias, LINEAR_BY_OUTPUTS));
    self->k = nn_add(module, names[1], module_linear_split(dim, kv, qkv_bias, LINEAR_BY_OUTPUTS));
    self->v = nn_add(module, names[2], module_linear_split(dim, kv, qkv_bias, LINEAR_BY_OUTPUTS));
    self->output = nn_add(module, names[3], module_linear_split(inner, dim, output_bias, LINEAR_BY_INPUTS));
}

static void gpt2_projections(Module *module)
{
    Attention *self = nn_state(module);
    const AttentionConfig *c = &self->config;
    int64_t dim = c->dim;
    if ((int64_t)c->heads * c->head_dim != dim || c->kv_heads != c->heads)
        error_raise(ERROR_ARGUMENT,
                    "attention: GPT-2's has heads x head_dim = dim, and as many key-value heads as heads");
    self->qkv = nn_add(module, "c_attn", module_conv1d(dim, 3 * dim, TENSOR_IDENTITY, LINEAR_BY_OUTPUTS, 3));
    self->output = nn_add(module, "c_proj", module_conv1d(dim, dim, TENSOR_IDENTITY, LINEAR_BY_INPUTS, 1));
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

static Module *fused_linear(const AttentionConfig *c)
{
    int64_t rows = (c->heads + 2 * (int64_t)c->kv_heads) * c->head_dim;
    return module_linear(&(LinearOptions){.in = c->dim,
                                          .out = rows,
                                          .bias = c->qkv_bias,
                                          .split = LINEAR_BY_OUTPUTS,
                                          .packed = c->heads == c->kv_heads ? 3 : 1});
}

/* One linear layer. Ranks that compute a layer together cannot each have some of its heads: what belongs
 * together lies apart. */
static void fused_projections(Module *module)
{
    Attention *self = nn_state(module);
    const AttentionConfig *c = &self->config;
    int64_t inner = (int64_t)c->heads * c->head_dim;
    if (c->qk_norm)
        error_raise(ERROR_ARGUMENT, "attention: a fused projection has no norms on queries and keys");
    if (c->qk_norm ||
        (c->heads != c->kv_heads && config_undivided("attention", "queries, keys and values of one "
                                                                  "projection with fewer key heads are")))
        return;
    self->output = nn_add(module, "o_proj", module_linear_split(inner, c->dim, c->o_bias, LINEAR_BY_INPUTS));
    self->qkv = nn_add(module, "qkv_proj", fused_linear(c));
}

static void modernbert_projections(Module *module)
{
    Attention *self = nn_state(module);
    const AttentionConfig *c = &self->config;
    int64_t inner = (int64_t)c->heads * c->head_dim;
    if (c->kv_heads != c->heads)
        error_raise(ERROR_ARGUMENT, "attention: ModernBERT's has as many key-value heads as heads");
    self->qkv = nn_add(module, "Wqkv", fused_linear(c));
    self->output = nn_add(module, "Wo", module_linear_split(inner, c->dim, c->o_bias, LINEAR_BY_INPUTS));
}

static void add_projections(Module *module)
{
    static const char *const llama[] = {"q_proj", "k_proj", "v_proj", "o_proj"};
    static const char *const bert[] = {"self.query", "self.key", "self.value", "output.dense"};
    static const char *const distilbert[] = {"q_lin", "k_lin", "v_lin", "out_lin"};
    const Attention *self = nn_state(module);
    const AttentionConfig *c = &self->config;
    if (c->style == ATTENTION_GPT2)
        gpt2_projections(module);
    else if (c->style == ATTENTION_MODERNBERT)
        modernbert_projections(module);
    else if (both_ways(c))
        four_projections(module, c->style == ATTENTION_BERT ? bert : distilbert, 1, 1);
    else if (c->fused)
        fused_projections(module);
    else
        four_projections(module, llama, c->qkv_bias, c->o_bias);
}

Module *nn_attention(const AttentionConfig *config)
{
    if (config_missing("attention", config))
        return NULL;
    int kv_heads = config->kv_heads ? config->kv_heads : config->heads;
    if (config_positive("attention", "dim", config->dim))
        return NULL;
    int head_dim = config_head_dim("attention", config->dim, config->heads, kv_heads, config->head_dim);
    if (!head_dim ||
        ((config->style == ATTENTION_LLAMA || config->style == ATTENTION_MODERNBERT) &&
         config_rotary("attention", head_dim, config->partial_rotary)) ||
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
    add_projections(module);
    add_norms(module);
    int ranks = context_tensor_ranks_(module->item.context);
    self->config.heads /= ranks; /* from here on, this rank's */
    self->config.kv_heads /= ranks;
    return error_code() ? NULL : module;
}
