/* Mixtral in files of others, and what all mixtures of experts have in them. Names, defaults and meanings are
 * those of transformers' MixtralConfig. */
#include <string.h>

#include "family_decoder_.h"

/* The loss that balances experts is computed where logits of the router are asked for, as there. */
void read_experts(Fields *f, const ExpertsKind *kind, ExpertsConfig *e)
{
    int local = !fields_null(f, "num_local_experts") && fields_get(f, "num_local_experts");
    int other = kind->num_experts && !fields_null(f, "num_experts") && fields_get(f, "num_experts");
    e->count = fields_count(f, local || !kind->num_experts ? "num_local_experts" : "num_experts", kind->count,
                            1, MOST_EXPERTS);
    if (local && other && fields_count(f, "num_experts", e->count, 1, MOST_EXPERTS) != e->count)
        fields_fail(f, "num_local_experts is %d, and num_experts another number; keep one", e->count);
    e->active = fields_count(f, "num_experts_per_tok", kind->active, 1, MOST_EXPERTS);
    if (e->active > e->count)
        fields_fail(f, "num_experts_per_tok %d is more than the %d experts that there are", e->active,
                    e->count);
    double coefficient = fields_number(f, "router_aux_loss_coef", 0.001, 0, 1e6);
    e->balance = fields_flag(f, "output_router_logits", 0) ? (float)coefficient : 0;
    fields_only(f, "router_jitter_noise", 0, "what the router reads is not made noisy here");
}

void write_experts(json_t **o, const ExpertsConfig *e, const char *count)
{
    config_put(o, count, json_integer(e->count));
    config_put(o, "num_experts_per_tok", json_integer(e->active));
    config_put(o, "output_router_logits", json_boolean(e->balance > 0));
    if (e->balance > 0)
        config_put(o, "router_aux_loss_coef", config_decimal(e->balance));
}

/* ---- Mixtral --------------------------------------------------------------------------------- */

static void read_mixtral(Fields *f, const void *kind)
{
    static const ExpertsKind experts = {.count = 8, .active = 2};
    LlamaConfig *c = &f->model->preset.config.llama;
    read_decoder(f, kind, c);
    read_experts(f, &experts, &c->experts);
    c->experts.normalise = 1;
    LayerSet none = {{0}};
    take_windows(f, fields_optional(f, "sliding_window", 0, 0, MOST_POSITIONS), c->layers, &none, c);
    fields_must(f, "attention_bias", 0, "Mixtral has no biases");
}

static void write_mixtral(json_t **o, const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    write_decoder(o, c, "mixtral", "MixtralForCausalLM");
    write_experts(o, &c->experts, "num_local_experts");
    config_put(o, "sliding_window", c->window ? json_integer(c->window) : json_null());
    config_put(o, "router_jitter_noise", json_real(0));
}

static int check_mixtral(const ModelPreset *preset)
{
    const LlamaConfig *c = &preset->config.llama;
    static const LayerSet none;
    const char *has = c->qkv_bias || c->o_bias || c->mlp_bias               ? "biases"
                      : !c->experts.normalise                               ? "weights that do not sum to 1"
                      : memcmp(&c->experts.dense, &none, sizeof none)       ? "dense layers"
                      : memcmp(&c->sliding, &none, sizeof none)             ? "windows in some layers"
                      : c->experts.hidden && c->experts.hidden != c->hidden ? "experts.hidden of its own"
                                                                            : NULL;
    return has ? error_raise(ERROR_ARGUMENT, "io_write_config(): transformers has no Mixtral with %s", has)
               : 0;
}

static const DecoderKind mixtral = {
    .vocab = 32000, .hidden = 14336, .kv_heads = 8, .max_seq = 131072, .norm_eps = 1e-5, .theta = 1000000};

const FamilyFiles mixtral_files = {
    .types = {{"mixtral", "MixtralForCausalLM", read_mixtral, &mixtral, NULL}},
    .write = write_mixtral,
    .check = check_mixtral,
    .names = {.prefix = "model.",
              .tied = {{"lm_head.weight", "model.embed_tokens.weight"}},
              .buffers = {"rotary_emb.inv_freq"},
              .other_heads = {"score."},
              .experts = {"block_sparse_moe", "w1", "w3", "w2"}},
    .adapted = {"q_proj", "v_proj"},
};
