/* Attention of the three families. What belongs together differs only in names, biases and whether q, k, v
 * are one product. */
#include <math.h>

#include "module_.h"

typedef struct Attention {
    AttentionConfig config;
    Module *q, *k, *v, *qkv, *output; /* GPT-2 has qkv in place of q, k and v */
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

/* Query, key and value from one projection. */
static Tensor *packed_attention(Module *module, Tensor *x, const Batch *batch)
{
    const Attention *self = nn_state(module);
    const AttentionConfig *c = &self->config;
    AttentionOptions options = options_of(self, both_ways(c) && batch ? batch->mask : NULL);
    Tensor *qkv = nn_forward(self->qkv, module_enter(x, batch), batch); /* (B,T,3C) */
    if (c->style == ATTENTION_MODERNBERT)
        qkv = tensor_rope_with(
            tensor_donate(qkv),
            &(RopeOptions){.heads = c->heads + c->kv_heads, .theta = c->rope_theta, .head_dim = c->head_dim});
    Tensor *out;
    if (batch && batch->cache)
        out = tensor_attention_cached_packed(tensor_donate(qkv),
                                             module_cache_layer(batch, module, tensor_dim(x, 1)),
                                             module_past(batch), &options);
    else
        out = tensor_attention_packed(tensor_donate(qkv), &options);
    return nn_forward(self->output, tensor_donate(out), batch);
}

/* Queries or keys (B,T,heads*D) under their norm, if there is one. */
static Tensor *normed(const Attention *self, Module *norm, Tensor *x, int heads, const Batch *batch)
{
    if (!norm || !x)
        return x;
    if (self->config.qk_norm == ATTENTION_NORM_ALL)
        return nn_forward(norm, tensor_donate(x), batch);
    Shape shape = tensor_shape(x);
    Tensor *each = tensor_reshape(x, SHAPE(shape.dim[0], shape.dim[1], heads, self->config.head_dim));
    return tensor_reshape(nn_forward(norm, tensor_donate(each), batch), shape);
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
    if (c->style == ATTENTION_LLAMA && !c->no_rope) {
        RopeOptions rope = {.heads = c->heads,
                            .theta = c->rope_theta,
                            .first = module_past(batch),
                            .scaling = c->rope_scaling,
                            .rotary_dim = rotary_width(c->head_dim, c->partial_rotary),
                            .interleaved = c->rope_interleaved};
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

static void modernbert_projections(Module *module)
{
    Attention *self = nn_state(module);
    const AttentionConfig *c = &self->config;
    int64_t dim = c->dim;
    self->qkv =
        nn_add(module, "Wqkv",
               module_linear(&(LinearOptions){
                   .in = dim, .out = 3 * dim, .bias = c->qkv_bias, .split = LINEAR_BY_OUTPUTS, .packed = 3}));
    self->output = nn_add(module, "Wo", module_linear_split(dim, dim, c->o_bias, LINEAR_BY_INPUTS));
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
    self->q_norm =
        nn_add(module, "q_norm", nn_rms_norm(all ? c->heads * c->head_dim : c->head_dim, c->norm_eps));
    self->k_norm =
        nn_add(module, "k_norm", nn_rms_norm(all ? c->kv_heads * c->head_dim : c->head_dim, c->norm_eps));
    if (context_tensor_ranks_(module->item.context) > 1)
        for (int i = 0; i < 2 && !error_code(); i++)
            module_own(i ? self->k_norm : self->q_norm, "weight")->partial = 1;
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
        (config->style == ATTENTION_LLAMA && config_rotary("attention", head_dim, config->partial_rotary)) ||
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
