/* Attention of the three families and LLaMA's feed-forward. What belongs together differs only in names,
 * biases and whether q, k, v are one product. */
#include <math.h>

#include "module_.h"

typedef struct Attention {
    AttentionConfig config;
    Tensor *weight[4], *bias[4]; /* q, k, v, output; GPT-2: qkv, output */
} Attention;

static AttentionOptions options_of(const Attention *self, Tensor *mask)
{
    return (AttentionOptions){.heads = self->config.heads,
                              .kv_heads = self->config.kv_heads,
                              .causal = self->config.style != ATTENTION_BERT,
                              .kind = self->config.kind,
                              .mask = mask};
}

static Tensor *projected(const Attention *self, int i, Tensor *x)
{
    return tensor_linear(x, self->weight[i], self->bias[i], TENSOR_IDENTITY);
}

static Tensor *gpt2_attention(Module *module, Tensor *x, const Batch *batch)
{
    const Attention *self = nn_state(module);
    AttentionOptions options = options_of(self, NULL);
    Tensor *qkv = tensor_linear_in_out(x, self->weight[0], self->bias[0], TENSOR_IDENTITY); /* (B,T,3C) */
    Tensor *out;
    if (batch && batch->cache)
        out = tensor_attention_cached_packed(tensor_donate(qkv),
                                             module_cache_layer(batch, module, tensor_dim(x, 1)),
                                             module_past(batch), &options);
    else
        out = tensor_attention_packed(tensor_donate(qkv), &options);
    return tensor_linear_in_out(tensor_donate(out), self->weight[1], self->bias[1], TENSOR_IDENTITY);
}

static Tensor *attention_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Attention *self = nn_state(module);
    const AttentionConfig *c = &self->config;
    if (c->style == ATTENTION_GPT2)
        return gpt2_attention(module, x, batch);
    Tensor *q = projected(self, 0, x), *k = projected(self, 1, x), *v = projected(self, 2, x);
    if (c->style == ATTENTION_LLAMA) {
        RopeOptions rope = {c->heads, c->rope_theta, module_past(batch), c->rope_scaling};
        q = tensor_rope_with(tensor_donate(q), &rope);
        rope.heads = c->kv_heads;
        k = tensor_rope_with(tensor_donate(k), &rope);
    }
    AttentionOptions options = options_of(self, c->style == ATTENTION_BERT && batch ? batch->mask : NULL);
    Tensor *out;
    if (batch && batch->cache)
        out = tensor_attention_cached(tensor_donate(q), tensor_donate(k), tensor_donate(v),
                                      module_cache_layer(batch, module, tensor_dim(x, 1)), module_past(batch),
                                      &options);
    else
        out = tensor_attention(tensor_donate(q), tensor_donate(k), tensor_donate(v), &options);
    return projected(self, 3, tensor_donate(out));
}

static const ModuleClass attention_class = {"attention", sizeof(Attention), attention_forward};

int module_attention_cache(const Module *module, int *kv_heads, int *head_dim)
{
    if (module->type != &attention_class)
        return 0;
    const AttentionConfig *c = &((const Attention *)module->state)->config;
    *kv_heads = c->kv_heads;
    *head_dim = c->head_dim;
    return c->style == ATTENTION_BERT ? -1 : 1;
}

Tensor *module_attention_output(const Module *attention)
{
    const Attention *self = attention->state;
    return self->weight[self->config.style == ATTENTION_GPT2 ? 1 : 3];
}

/* A projection is a child for its name's sake; its forward is called from the attention's own. */
static int projection(Module *module, Attention *self, int i, const char *name, int64_t in, int64_t out,
                      int bias)
{
    Module *child = nn_add(module, name, nn_linear(in, out, bias));
    if (!child)
        return -1;
    self->weight[i] = module_own(child, "weight");
    self->bias[i] = module_own(child, "bias");
    return 0;
}

static const ModuleClass conv1d_class = {"conv1d", 0, NULL};

/* GPT-2 stores its projections (in, out), under the name Conv1D. */
static Module *conv1d(int64_t in, int64_t out)
{
    Module *module = nn_module(&conv1d_class);
    tensor_fill(nn_add_parameter(module, "weight", SHAPE(in, out)), 0);
    tensor_fill(nn_add_parameter(module, "bias", SHAPE(out)), 0);
    return error_code() ? NULL : module;
}

Module *module_conv1d(Module *parent, const char *name, int64_t in, int64_t out)
{
    return nn_add(parent, name, conv1d(in, out));
}

static void gpt2_projections(Module *module, Attention *self, int64_t dim)
{
    Module *qkv = module_conv1d(module, "c_attn", dim, 3 * dim);
    Module *out = module_conv1d(module, "c_proj", dim, dim);
    if (!qkv || !out)
        return;
    self->weight[0] = module_own(qkv, "weight");
    self->bias[0] = module_own(qkv, "bias");
    self->weight[1] = module_own(out, "weight");
    self->bias[1] = module_own(out, "bias");
}

Module *nn_attention(const AttentionConfig *config)
{
    if (config_missing("attention", config))
        return NULL;
    int kv_heads = config->kv_heads ? config->kv_heads : config->heads;
    if (config_positive("attention", "dim", config->dim))
        return NULL;
    int64_t dim = config->dim;
    int64_t head_dim = config_head_dim("attention", config->dim, config->heads, kv_heads, config->head_dim);
    if (!head_dim || (config->style == ATTENTION_LLAMA && config_rotary("attention", (int)head_dim)))
        return NULL;
    Module *module = nn_module(&attention_class);
    Attention *self = nn_state(module);
    if (!self)
        return NULL;
    self->config = *config;
    self->config.kv_heads = kv_heads;
    self->config.head_dim = (int)head_dim;
    self->config.rope_theta = config->rope_theta > 0 ? config->rope_theta : 10000;
    int64_t inner = config->heads * head_dim, kv = kv_heads * head_dim;
    static const char *const llama_names[] = {"q_proj", "k_proj", "v_proj", "o_proj"};
    static const char *const bert_names[] = {"self.query", "self.key", "self.value", "output.dense"};
    if (config->style == ATTENTION_GPT2) {
        if (inner != dim || kv != dim)
            error_raise(
                ERROR_ARGUMENT,
                "attention: GPT-2's has heads x head_dim = dim, and as many key-value heads as heads");
        gpt2_projections(module, self, dim);
    } else {
        int bert = config->style == ATTENTION_BERT;
        int qkv_bias = bert || config->qkv_bias, o_bias = bert || config->o_bias;
        const char *const *names = bert ? bert_names : llama_names;
        if (projection(module, self, 0, names[0], dim, inner, qkv_bias) == 0 &&
            projection(module, self, 1, names[1], dim, kv, qkv_bias) == 0 &&
            projection(module, self, 2, names[2], dim, kv, qkv_bias) == 0)
            projection(module, self, 3, names[3], inner, dim, o_bias);
    }
    return error_code() ? NULL : module;
}

/* ---- LLaMA's feed-forward -------------------------------------------------------------------- */

typedef struct Swiglu {
    Module *gate, *up, *down;
} Swiglu;

static Tensor *swiglu_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Swiglu *self = nn_state(module);
    Tensor *gate = nn_forward(self->gate, x, batch), *up = nn_forward(self->up, x, batch);
    Tensor *hidden = tensor_swiglu(tensor_donate(gate), tensor_donate(up));
    return nn_forward(self->down, tensor_donate(hidden), batch);
}

static const ModuleClass swiglu_class = {"swiglu", sizeof(Swiglu), swiglu_forward};

Module *module_swiglu(int64_t dim, int64_t hidden, int bias)
{
    Module *module = nn_module(&swiglu_class);
    Swiglu *self = nn_state(module);
    if (!self)
        return NULL;
    self->gate = nn_add(module, "gate_proj", nn_linear(dim, hidden, bias));
    self->up = nn_add(module, "up_proj", nn_linear(dim, hidden, bias));
    self->down = nn_add(module, "down_proj", nn_linear(hidden, dim, bias));
    return error_code() ? NULL : module;
}

Module *nn_swiglu(int64_t dim, int64_t hidden)
{
    return module_swiglu(dim, hidden, 0);
}
