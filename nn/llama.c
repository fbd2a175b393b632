/* Llama: RMSNorm before each branch, rotary positions, grouped-query attention, SwiGLU. Mistral is the same,
 * Qwen2 has biases on q, k and v. */
#include <stdio.h>

#include "module_.h"

enum { USUAL_MAX_SEQ = 4096 };

typedef struct LlamaBlock {
    Module *input_norm, *attention, *post_norm, *mlp;
} LlamaBlock;

static Tensor *block_forward(Module *module, Tensor *x, const Batch *batch) /* (B,T,C) */
{
    const LlamaBlock *self = nn_state(module);
    Tensor *normed = nn_forward(self->input_norm, x, batch);
    Tensor *branch = nn_forward(self->attention, tensor_donate(normed), batch);
    Tensor *middle = tensor_add(x, tensor_donate(branch));
    normed = nn_forward(self->post_norm, middle, batch);
    branch = nn_forward(self->mlp, tensor_donate(normed), batch);
    return tensor_add(tensor_donate(middle), tensor_donate(branch));
}

static const ModuleClass block_class = {"llama_block", sizeof(LlamaBlock), block_forward};

Module *nn_llama_block(const LlamaConfig *c)
{
    if (config_missing("llama block", c))
        return NULL;
    Module *module = nn_module(&block_class);
    LlamaBlock *self = nn_state(module);
    if (!self)
        return NULL;
    self->attention = nn_add(module, "self_attn",
                             nn_attention(&(AttentionConfig){.style = ATTENTION_LLAMA,
                                                             .dim = c->dim,
                                                             .heads = c->heads,
                                                             .kv_heads = c->kv_heads,
                                                             .head_dim = c->head_dim,
                                                             .kind = c->attention,
                                                             .rope_theta = c->rope_theta,
                                                             .rope_scaling = c->rope_scaling,
                                                             .qkv_bias = c->qkv_bias,
                                                             .o_bias = c->o_bias}));
    self->mlp = nn_add(module, "mlp", module_gated(c->dim, c->hidden, c->mlp_bias, TENSOR_SILU, 0));
    self->input_norm = nn_add(module, "input_layernorm", nn_rms_norm(c->dim, c->norm_eps));
    self->post_norm = nn_add(module, "post_attention_layernorm", nn_rms_norm(c->dim, c->norm_eps));
    return error_code() ? NULL : module;
}

typedef struct Llama {
    Module *embedding, *norm, *head;
    int max_seq, window;
} Llama;

static Tensor *llama_hidden(Module *module, Tensor *x, const Batch *batch) /* (B,T,C) */
{
    const Llama *self = nn_state(module);
    if (!batch || !batch->ids) {
        error_raise(ERROR_DATA, "llama: the batch has no token ids");
        return NULL;
    }
    int64_t length = module_past(batch) + tensor_dim(batch->ids, 1);
    if (self->window && length > self->window && length <= self->max_seq) {
        error_raise(
            ERROR_SHAPE,
            "llama: a sequence of %lld is longer than the window of %d that the model's attention has, "
            "and attention with a window is not computed",
            (long long)length, self->window);
        return NULL;
    }
    if (length > self->max_seq) {
        error_raise(ERROR_SHAPE, "llama: a sequence of %lld is longer than the model's %d", (long long)length,
                    self->max_seq);
        return NULL;
    }
    Tensor *hidden =
        module_first_stage(module) ? nn_forward(self->embedding, batch->ids, batch) : x; /* (B,T,C) */
    hidden = nn_run_blocks(module, tensor_donate(hidden), batch);
    if (!module_last_stage(module))
        return hidden;
    return nn_forward(self->norm, tensor_donate(hidden), batch);
}

static Tensor *llama_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Llama *self = nn_state(module);
    Tensor *hidden = llama_hidden(module, x, batch);
    if (!module_last_stage(module))
        return hidden;
    return nn_forward(self->head, tensor_donate(hidden), batch); /* (B,T,vocab) */
}

static const ModuleClass llama_class = {"llama", sizeof(Llama), llama_forward};

static int llama_check(const LlamaConfig *c)
{
    if (config_positive("llama", "vocab", c->vocab) || config_positive("llama", "dim", c->dim) ||
        config_positive("llama", "layers", c->layers) || config_positive("llama", "hidden", c->hidden) ||
        config_positive("llama", "max_seq", c->max_seq) ||
        (c->window && config_positive("llama", "window", c->window)))
        return -1;
    int head_dim =
        config_head_dim("llama", c->dim, c->heads, c->kv_heads ? c->kv_heads : c->heads, c->head_dim);
    return !head_dim || config_rotary("llama", head_dim);
}

Module *nn_llama(const LlamaConfig *config)
{
    if (config_missing("llama", config))
        return NULL;
    LlamaConfig c = *config;
    c.max_seq = c.max_seq ? c.max_seq : USUAL_MAX_SEQ;
    if (llama_check(&c))
        return NULL;
    Module *module = nn_module(&llama_class);
    Llama *self = nn_state(module);
    if (!self)
        return NULL;
    self->max_seq = c.max_seq;
    self->window = c.window;
    if (module_stages_begin(module, c.layers, c.dim))
        return NULL;
    module_draw_later(module, 1);
    module_of_ends(1, c.tied);
    self->embedding = nn_add(module, "model.embed_tokens", module_vocabulary(c.vocab, c.dim));
    for (int i = 0; i < c.layers && !error_code(); i++) {
        char name[32];
        snprintf(name, sizeof name, "model.layers.%d", i);
        module_of_block(module, i);
        nn_mark_block(module, nn_add(module, name, nn_llama_block(&c)));
    }
    module_of_ends(0, 1);
    self->norm = nn_add(module, "model.norm", nn_rms_norm(c.dim, c.norm_eps));
    self->head = nn_add(module, "lm_head",
                        c.tied ? module_linear_tied(module_own(self->embedding, "weight"), NULL)
                               : module_linear(&(LinearOptions){
                                     .in = c.dim, .out = c.vocab, .head = 1, .split = LINEAR_BY_CLASSES}));
    module_of_all();
    module_draw_later(module, 0);
    module_init_normal(module, 0.02f);
    if (error_code())
        return NULL;
    if (c.tied)
        module_tie_stages(module_own(self->embedding, "weight"));
    const Linear *head = module_as_linear(self->head);
    nn_offer_head(module, &(ModuleHead){.hidden = llama_hidden, .weight = head->weight, .path = "lm_head"});
    module_has_rows(module);
    return module;
}

/* ---- The family ------------------------------------------------------------------------------ */

static Module *make(const ModelPreset *preset)
{
    return nn_llama(&preset->config.llama);
}

static ModelSizes sizes(const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    int positions = c->max_seq ? c->max_seq : USUAL_MAX_SEQ;
    int window = c->window < positions ? c->window : 0;
    return (ModelSizes){.layers = c->layers,
                        .vocab = c->vocab,
                        .max_seq = window ? window : positions,
                        .window = window,
                        .dim = c->dim,
                        .heads = c->heads,
                        .kv_heads = c->kv_heads,
                        .head_dim = c->head_dim};
}

const ModelFamilyRow llama_family = {
    .name = "llama",
    .reads = MODEL_READS_TEXT,
    .objective = OBJECTIVE_CAUSAL,
    .writes = 1,
    .lr = 2e-3f,
    .make = make,
    .sizes = sizes,
    .vocab_at = offsetof(ModelPreset, config.llama.vocab),
    .attention_at = offsetof(ModelPreset, config.llama.attention),
};
