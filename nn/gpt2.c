/* GPT-2: LayerNorm before each branch, learned positions, packed qkv, tanh-GELU, tied head. */
#include <math.h>
#include <stdio.h>

#include "module_.h"

enum { USUAL_MAX_SEQ = 1024 };

typedef struct Gpt2Block {
    Module *norm1, *attention, *norm2, *mlp, *dropout;
} Gpt2Block;

static Tensor *block_forward(Module *module, Tensor *x, const Batch *batch) /* (B,T,C) */
{
    const Gpt2Block *self = nn_state(module);
    Tensor *normed = nn_forward(self->norm1, x, batch);
    Tensor *branch = nn_forward(self->attention, tensor_donate(normed), batch);
    branch = nn_forward(self->dropout, tensor_donate(branch), batch);
    Tensor *middle = tensor_add(x, tensor_donate(branch));
    normed = nn_forward(self->norm2, middle, batch);
    branch = nn_forward(self->mlp, tensor_donate(normed), batch);
    branch = nn_forward(self->dropout, tensor_donate(branch), batch);
    return tensor_add(tensor_donate(middle), tensor_donate(branch));
}

static const ModuleClass block_class = {"gpt2_block", sizeof(Gpt2Block), block_forward};

static Module *gpt2_mlp(int64_t dim, int64_t ffn)
{
    if (config_divided("gpt2", "ffn", ffn))
        return NULL;
    return module_plain(&(PlainOptions){.dim = dim,
                                        .hidden = ffn,
                                        .up = "c_fc",
                                        .down = "c_proj",
                                        .act = TENSOR_GELU_TANH,
                                        .bias = 1,
                                        .in_out = 1});
}

Module *nn_gpt2_block(const Gpt2Config *c)
{
    if (config_missing("gpt2 block", c))
        return NULL;
    Module *module = nn_module(&block_class);
    Gpt2Block *self = nn_state(module);
    if (!self)
        return NULL;
    self->norm1 = nn_add(module, "ln_1", nn_layer_norm(c->dim, c->norm_eps));
    self->attention =
        nn_add(module, "attn",
               nn_attention(&(AttentionConfig){
                   .style = ATTENTION_GPT2, .dim = c->dim, .heads = c->heads, .kind = c->attention}));
    self->norm2 = nn_add(module, "ln_2", nn_layer_norm(c->dim, c->norm_eps));
    self->mlp = nn_add(module, "mlp", gpt2_mlp(c->dim, c->ffn ? c->ffn : 4 * (int64_t)c->dim));
    self->dropout = nn_add(module, "dropout", nn_dropout(c->dropout));
    return error_code() ? NULL : module;
}

typedef struct Gpt2 {
    Module *embedding, *norm, *dropout, *head;
    Tensor *positions; /* (P,C) */
} Gpt2;

static Tensor *gpt2_embeddings(const Gpt2 *self, const Batch *batch)
{
    Tensor *hidden = nn_forward(self->embedding, batch->ids, batch);
    hidden = module_add_rows(tensor_donate(hidden), self->positions, module_past(batch), batch);
    return nn_forward(self->dropout, tensor_donate(hidden), batch);
}

static Tensor *gpt2_hidden(Module *module, Tensor *x, const Batch *batch) /* (B,T,C) */
{
    const Gpt2 *self = nn_state(module);
    if (!batch || !batch->ids) {
        error_raise(ERROR_DATA, "gpt2: the batch has no token ids");
        return NULL;
    }
    Tensor *hidden = module_first_stage(module) ? gpt2_embeddings(self, batch) : x; /* (B,T,C) */
    hidden = nn_run_blocks(module, tensor_donate(hidden), batch);
    if (!module_last_stage(module))
        return hidden;
    return nn_forward(self->norm, tensor_donate(hidden), batch);
}

static Tensor *gpt2_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Gpt2 *self = nn_state(module);
    Tensor *hidden = gpt2_hidden(module, x, batch);
    if (!module_last_stage(module))
        return hidden;
    return nn_forward(self->head, tensor_donate(hidden), batch); /* (B,T,V) */
}

static const ModuleClass gpt2_class = {"gpt2", sizeof(Gpt2), gpt2_forward};

static void gpt2_init(Module *module, int layers)
{
    module_init_normal(module, 0.02f);
    float residual = 0.02f / sqrtf(2.0f * (float)layers);
    for (int i = 0; i < nn_block_count(module); i++) {
        const Gpt2Block *block = nn_state(nn_block(module, i));
        tensor_fill_normal(module_own(module_attention_output(block->attention), "weight"), 0, residual);
        tensor_fill_normal(module_own(module_plain_down(block->mlp), "weight"), 0, residual);
    }
}

Module *nn_gpt2(const Gpt2Config *config)
{
    if (config_missing("gpt2", config))
        return NULL;
    Gpt2Config c = *config;
    int64_t ffn = c.ffn ? c.ffn : 4 * (int64_t)c.dim;
    c.max_seq = c.max_seq ? c.max_seq : USUAL_MAX_SEQ;
    if (config_positive("gpt2", "vocab", c.vocab) || config_positive("gpt2", "dim", c.dim) ||
        config_positive("gpt2", "layers", c.layers) || config_positive("gpt2", "ffn", ffn) ||
        config_positive("gpt2", "max_seq", c.max_seq) || config_heads("gpt2", c.dim, c.heads, c.heads))
        return NULL;
    c.ffn = (int)ffn;
    Module *module = nn_module(&gpt2_class);
    Gpt2 *self = nn_state(module);
    if (!self)
        return NULL;
    if (module_stages_begin(module, c.layers, c.dim))
        return NULL;
    module_draw_later(module, 1);
    module_of_ends(1, 1);
    self->embedding = nn_add(module, "transformer.wte", module_vocabulary(c.vocab, c.dim));
    module_of_ends(1, 0);
    Module *positions = nn_add(module, "transformer.wpe", nn_embedding(c.max_seq, c.dim));
    self->dropout = nn_add(module, "transformer.drop", nn_dropout(c.dropout));
    for (int i = 0; i < c.layers && !error_code(); i++) {
        char name[32];
        snprintf(name, sizeof name, "transformer.h.%d", i);
        module_of_block(module, i);
        nn_mark_block(module, nn_add(module, name, nn_gpt2_block(&c)));
    }
    module_of_ends(0, 1);
    self->norm = nn_add(module, "transformer.ln_f", nn_layer_norm(c.dim, c.norm_eps));
    module_of_all();
    module_draw_later(module, 0);
    if (error_code())
        return NULL;
    Tensor *tokens = module_own(self->embedding, "weight"); /* (V,C) */
    module_tie_stages(tokens);
    self->positions = module_embedding_parts(positions);
    self->head = nn_add(module, "lm_head", module_linear_tied(tokens, NULL));
    nn_offer_head(module, &(ModuleHead){.hidden = gpt2_hidden, .weight = tokens, .path = "lm_head"});
    gpt2_init(module, c.layers);
    module_has_rows(module);
    return error_code() ? NULL : module;
}

/* ---- The family ------------------------------------------------------------------------------ */

static Module *make(const ModelPreset *preset)
{
    return nn_gpt2(&preset->config.gpt2);
}

static ModelSizes sizes(const ModelPreset *preset)
{
    const Gpt2Config *c = &preset->config.gpt2;
    return (ModelSizes){.layers = c->layers,
                        .vocab = c->vocab,
                        .max_seq = c->max_seq ? c->max_seq : USUAL_MAX_SEQ,
                        .dim = c->dim,
                        .heads = c->heads};
}

const ModelFamilyRow gpt2_family = {
    .name = "gpt2",
    .reads = MODEL_READS_TEXT,
    .objective = OBJECTIVE_CAUSAL,
    .writes = 1,
    .gpt_block = 1,
    .gpt_terms = 1,
    .lr = 2e-3f,
    .make = make,
    .sizes = sizes,
    .vocab_at = offsetof(ModelPreset, config.gpt2.vocab),
    .attention_at = offsetof(ModelPreset, config.gpt2.attention),
    .dropout_at = offsetof(ModelPreset, config.gpt2.dropout),
};
