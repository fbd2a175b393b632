/* What the families of decoders share that are made of Llama's parts. */
#ifndef BRIM_FAMILY_DECODER_INTERNAL_H
#define BRIM_FAMILY_DECODER_INTERNAL_H

#include "family_.h"

/* What a type takes for fields that are absent; 0 = as Llama. */
typedef struct DecoderKind {
    int vocab, dim, hidden, layers, heads, max_seq;
    int kv_heads; /* 0 = heads */
    int head_dim; /* 0 = dim / heads */
    int tied;
    double norm_eps, theta;
    /* partial_rotary_factor; 0: the family turns whole heads, and another part than 1 is refused. */
    double partial_rotary;
    int rope_interleaved; /* 1 or -1, that it is true or false; 0: the family's pairs are half a head apart */
    int original_max_seq; /* of longrope, which goes before what the nested object says */
    /* Layers with windows have rotary positions of their own, which are not scaled: this base; -1: the
     * others'. */
    double local_theta;
    const char *const *gates; /* names of the activation that is computed, the default first; NULL = SiLU */
    /* What files call rms_norm_eps, rope_theta and partial_rotary_factor, the last outside the nested object
     * only; NULL = that. */
    const char *norm_eps_name, *theta_name, *partial_name;
    int plain_heads; /* a head has a key head, and its part of the width: there are no fields of them */
} DecoderKind;

/* Sizes, norms, activation and rotary positions; biases and windows are the families' own. */
void read_decoder(Fields *f, const DecoderKind *kind, LlamaConfig *c);
void read_decoder_sizes(Fields *f, const DecoderKind *kind, LlamaConfig *c); /* without rotary positions */
/* Rotary positions alone, behind sizes, heads and positions. (rope.c) */
void read_rotary(Fields *f, const DecoderKind *kind, LlamaConfig *c);
void write_rotary(json_t **object, const DecoderKind *kind, const LlamaConfig *c);

/* layer_types: adds the layers that slide, and returns how many; -1 where there is no such field. */
int read_layer_types(Fields *f, int layers, LayerSet *sliding);
/* The window of the `count` layers in the set; nothing where it is no shorter than the positions. */
void take_windows(Fields *f, int window, int count, const LayerSet *sliding, LlamaConfig *c);
/* Qwen2's and Qwen3's way to say it. */
void read_qwen_windows(Fields *f, LlamaConfig *c);
void write_qwen_windows(json_t **object, const LlamaConfig *c);
void layer_set_add(LayerSet *set, int layer);
int layer_set_is_empty(const LayerSet *set);
/* Adds all layers but every n-th; returns how many. */
int layer_set_but_every(LayerSet *set, int layers, int n);
/* layer_types of the configuration's windows. */
json_t *layer_types_json(const LlamaConfig *c);

/* What a type takes for fields of experts that are absent; num_experts: their number may be called that, too.
 */
typedef struct ExpertsKind {
    int count, active, num_experts;
    int hidden; /* of each; 0: the feed-forward's */
} ExpertsKind;
/* Numbers of experts and the loss that balances them; count: what the family calls their number.
 * (family_mixtral.c) */
void read_experts(Fields *f, const ExpertsKind *kind, ExpertsConfig *e);
void write_experts(json_t **object, const ExpertsConfig *e, const char *count);
/* The same with what Qwen's have beside: their width, whose weights are divided by their sum, and layers
 * without experts. (family_qwen3_moe.c) */
void read_qwen_experts(Fields *f, const ExpertsKind *kind, LlamaConfig *c);
void write_qwen_experts(json_t **object, const LlamaConfig *c);

/* Every field that read_decoder reads; the second as the kind calls them. */
void write_decoder(json_t **object, const LlamaConfig *c, const char *type, const char *architecture);
void write_decoder_as(json_t **object, const DecoderKind *kind, const LlamaConfig *c, const char *type,
                      const char *architecture);

/* Raises for factors and caps that a family's files have no fields for. */
int check_decoder_factors(const ModelPreset *preset);
/* For FamilyFiles.check: raises for biases that a family has not in which those of q, k, v and o go together;
 * mlp: its feed-forward may have some. */
int check_decoder_biases(const ModelPreset *preset, const char *title, int mlp);

#endif
