/* Decoders: an embedding, blocks of attention and feed-forward with norms around the branches, a norm, a
 * head. A family (llama.c, qwen3.c, …) says which parts a block has; sizes and factors are in its
 * configuration. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "decoder_.h"

enum { USUAL_MAX_SEQ = 4096 };

static const DecoderNames *names_of(const DecoderParts *parts)
{
    static const DecoderNames llama = {"model.embed_tokens", "model.layers", "model.norm", "self_attn"};
    return parts->names ? parts->names : &llama;
}

/* ---- A block --------------------------------------------------------------------------------- */

/* factor x, which is given away; 0: x. */
static Tensor *times(Tensor *x, float factor)
{
    return factor > 0 ? tensor_scale(tensor_donate(x), factor) : x;
}

/* after(body(before(x))) times the factor, for norms that exist. */
static Tensor *branch(const DecoderBlock *self, Module *before, Module *body, Module *after, Tensor *x,
                      const Batch *batch)
{
    Tensor *y = before ? tensor_donate(nn_forward(before, x, batch)) : x;
    y = nn_forward(body, y, batch);
    if (after)
        y = nn_forward(after, tensor_donate(y), batch);
    return times(y, self->branch_factor);
}

Tensor *module_decoder_block_forward(Module *module, Tensor *x, const Batch *batch) /* (B,T,C) */
{
    const DecoderBlock *self = nn_state(module);
    Tensor *y = branch(self, self->before_attention, self->attention, self->after_attention, x, batch);
    Tensor *middle = tensor_add(x, tensor_donate(y));
    y = branch(self, self->before_mlp, self->mlp, self->after_mlp, self->parallel ? x : middle, batch);
    return tensor_add(tensor_donate(middle), tensor_donate(y));
}

static Module *add_norm(Module *module, const DecoderParts *parts, const char *name, const LlamaConfig *c)
{
    if (!name)
        return NULL;
    return nn_add(module, name,
                  parts->layer_norm ? module_layer_norm(c->dim, c->norm_eps, 1)
                                    : module_rms_norm_plus(c->dim, c->norm_eps, parts->norm_plus));
}

/* Whether a layer has the window, where there is one. */
static int slides(const LlamaConfig *c, int layer)
{
    static const LayerSet none;
    return c->window && (!memcmp(&c->sliding, &none, sizeof none) || layer_in(&c->sliding, layer));
}

static Module *attention(const DecoderParts *parts, const LlamaConfig *c, int layer)
{
    int local = slides(c, layer), other = local && c->local_theta > 0; /* rotary positions of its own */
    return nn_attention(&(AttentionConfig){.style = parts->style,
                                           .dim = c->dim,
                                           .heads = c->heads,
                                           .kv_heads = c->kv_heads,
                                           .head_dim = c->head_dim,
                                           .kind = c->attention,
                                           .rope_theta = other ? c->local_theta : c->rope_theta,
                                           .rope_scaling = other ? (RopeScaling){0} : config_rope_scaling(c),
                                           .partial_rotary = c->partial_rotary,
                                           .rope_interleaved = c->rope_interleaved,
                                           .no_rope = layer_in(&c->no_rope, layer),
                                           .qk_norm = parts->qk_norm,
                                           .norm_eps = c->norm_eps,
                                           .norm_plus = parts->norm_plus,
                                           .fused = parts->fused,
                                           .window = local ? c->window : 0,
                                           .scale = c->attention_scale,
                                           .softcap = c->attention_cap,
                                           .qkv_bias = c->qkv_bias,
                                           .o_bias = c->o_bias});
}

Module *module_decoder_block(const DecoderParts *parts, const LlamaConfig *c, int layer)
{
    if (config_missing("llama block", c))
        return NULL;
    Module *module = nn_module(parts->block);
    DecoderBlock *self = nn_state(module);
    if (!self)
        return NULL;
    self->branch_factor = c->branch_factor;
    self->parallel = parts->parallel && !c->sequential;
    self->attention = nn_add(module, names_of(parts)->attention, attention(parts, c, layer));
    self->mlp =
        nn_add(module, "mlp",
               parts->feed_forward ? parts->feed_forward(c, layer)
                                   : module_gated(c->dim, c->hidden, c->mlp_bias,
                                                  parts->act ? parts->act : TENSOR_SILU, parts->fused));
    self->before_attention = add_norm(module, parts, parts->before_attention, c);
    self->after_attention = add_norm(module, parts, parts->after_attention, c);
    self->before_mlp = add_norm(module, parts, parts->before_mlp, c);
    self->after_mlp = add_norm(module, parts, parts->after_mlp, c);
    return error_code() ? NULL : module;
}

/* ---- The model ------------------------------------------------------------------------------- */

static int check_length(const Module *module, const Batch *batch)
{
    const Decoder *self = module->state;
    const char *name = module->type->name;
    if (!batch || !batch->ids)
        return error_raise(ERROR_DATA, "%s: the batch has no token ids", name);
    int64_t length = module_past(batch) + tensor_dim(batch->ids, 1);
    if (length > self->max_seq)
        return error_raise(ERROR_SHAPE, "%s: a sequence of %lld is longer than the model's %d", name,
                           (long long)length, self->max_seq);
    return 0;
}

static Tensor *decoder_hidden(Module *module, Tensor *x, const Batch *batch) /* (B,T,C) */
{
    const Decoder *self = nn_state(module);
    if (check_length(module, batch))
        return NULL;
    Tensor *hidden = x;
    module_balance_begin(module);
    if (module_first_stage(module))
        hidden = times(nn_forward(self->embedding, batch->ids, batch), self->embedding_factor); /* (B,T,C) */
    hidden = nn_run_blocks(module, tensor_donate(hidden), batch);
    if (!module_last_stage(module))
        return hidden;
    return times(nn_forward(self->norm, tensor_donate(hidden), batch), self->hidden_factor);
}

Tensor *module_decoder_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Decoder *self = nn_state(module);
    Tensor *hidden = decoder_hidden(module, x, batch);
    if (!module_last_stage(module))
        return hidden;
    return nn_forward(self->head, tensor_donate(hidden), batch); /* (B,T,vocab) */
}

static int check_experts(const char *name, const DecoderParts *parts, const LlamaConfig *c)
{
    if (parts->feed_forward == module_experts)
        return config_experts(parts, c);
    return c->experts.count &&
           error_raise(ERROR_ARGUMENT,
                       "%s: a model of this family has no experts; mixtral, qwen2_moe and qwen3_moe do",
                       name);
}

static int check_config(const char *name, const LlamaConfig *c)
{
    if (config_positive(name, "vocab", c->vocab) || config_positive(name, "dim", c->dim) ||
        config_positive(name, "layers", c->layers) || config_positive(name, "hidden", c->hidden) ||
        config_positive(name, "max_seq", c->max_seq) ||
        (c->window && config_positive(name, "window", c->window)))
        return -1;
    int head_dim = config_head_dim(name, c->dim, c->heads, c->kv_heads ? c->kv_heads : c->heads, c->head_dim);
    return !head_dim || config_rotary(name, head_dim, c->partial_rotary);
}

static void add_blocks(Module *module, const DecoderParts *parts, const LlamaConfig *c)
{
    for (int i = 0; i < c->layers && !error_code(); i++) {
        char name[48];
        snprintf(name, sizeof name, "%s.%d", names_of(parts)->layers, i);
        module_of_block(module, i);
        nn_mark_block(module, nn_add(module, name, module_decoder_block(parts, c, i)));
    }
}

static void add_parts(Module *module, const DecoderParts *parts, const LlamaConfig *c)
{
    Decoder *self = nn_state(module);
    const DecoderNames *names = names_of(parts);
    module_draw_later(module, 1);
    module_of_ends(1, c->tied);
    self->embedding = nn_add(module, names->embedding, module_vocabulary(c->vocab, c->dim));
    add_blocks(module, parts, c);
    module_of_ends(0, 1);
    self->norm = add_norm(module, parts, names->norm, c);
    self->head = nn_add(module, "lm_head",
                        c->tied ? module_linear_tied(module_own(self->embedding, "weight"), NULL)
                                : module_linear(&(LinearOptions){
                                      .in = c->dim, .out = c->vocab, .head = 1, .split = LINEAR_BY_CLASSES}));
    module_of_all();
    module_draw_later(module, 0);
    module_init_normal(module, 0.02f);
}

Module *module_decoder(const DecoderParts *parts, const LlamaConfig *config)
{
    const char *name = parts->type->name;
    if (config_missing(name, config))
        return NULL;
    LlamaConfig c = *config;
    c.max_seq = c.max_seq ? c.max_seq : USUAL_MAX_SEQ;
    if (check_config(name, &c) || check_experts(name, parts, &c))
        return NULL;
    Module *module = nn_module(parts->type);
    Decoder *self = nn_state(module);
    if (!self)
        return NULL;
    self->max_seq = c.max_seq;
    self->embedding_factor = c.embedding_factor > 0  ? c.embedding_factor
                             : parts->root_embedding ? sqrtf((float)c.dim)
                                                     : 0;
    self->hidden_factor = c.logits_divisor > 0 ? 1 / c.logits_divisor : 0;
    if (module_stages_begin(module, c.layers, c.dim))
        return NULL;
    add_parts(module, parts, &c);
    if (error_code())
        return NULL;
    if (c.tied)
        module_tie_stages(module_own(self->embedding, "weight"));
    const Linear *head = module_as_linear(self->head);
    nn_offer_head(module, &(ModuleHead){.hidden = decoder_hidden,
                                        .weight = head->weight,
                                        .path = "lm_head",
                                        .softcap = c.logits_cap});
    module_has_rows(module);
    return module_balance(module, &c.experts) ? NULL : module;
}

/* ---- The families' rows ---------------------------------------------------------------------- */

Module *module_decoder_make(const ModelPreset *preset)
{
    return module_decoder(nn_family(preset->family)->decoder, &preset->config.llama);
}

ModelSizes module_decoder_sizes(const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    int positions = c->max_seq ? c->max_seq : USUAL_MAX_SEQ, sliding = 0;
    for (int i = 0; i < c->layers && c->window < positions; i++)
        sliding += slides(c, i) != 0;
    return (ModelSizes){.layers = c->layers,
                        .vocab = c->vocab,
                        .max_seq = positions,
                        .window = c->window < positions ? c->window : 0,
                        .window_layers = sliding,
                        .dim = c->dim,
                        .heads = c->heads,
                        .kv_heads = c->kv_heads,
                        .head_dim = c->head_dim};
}
