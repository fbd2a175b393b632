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
} DecoderKind;

/* Sizes, norms, activation and rotary positions; biases and windows are the families' own. */
void read_decoder(Fields *f, const DecoderKind *kind, LlamaConfig *c);
/* A base that is absent is `theta`. (family_llama.c) */
void read_rotary(Fields *f, double theta, LlamaConfig *c);
json_t *rope_scaling_json(const RopeScaling *scaling);

/* layer_types: adds the layers that slide, and returns how many; -1 where there is no such field. */
int read_layer_types(Fields *f, int layers, LayerSet *sliding);
/* max_window_layers: the first layer that slides. */
int read_max_window_layers(Fields *f, int otherwise);
/* Nothing where it is no shorter than the positions. */
void take_window(Fields *f, int window, LlamaConfig *c);
void layer_set_add(LayerSet *set, int layer);

/* What a type takes for fields of experts that are absent; num_experts: their number may be called that, too.
 */
typedef struct ExpertsKind {
    int count, active, num_experts;
} ExpertsKind;
/* Numbers of experts and the loss that balances them; count: what the family calls their number.
 * (family_mixtral.c) */
void read_experts(Fields *f, const ExpertsKind *kind, ExpertsConfig *e);
void write_experts(json_t **object, const ExpertsConfig *e, const char *count);

/* Every field that read_decoder reads. */
void write_decoder(json_t **object, const LlamaConfig *c, const char *type, const char *architecture);

/* For FamilyFiles.check: raises for biases that a family has not in which those of q, k, v and o go together;
 * mlp: its feed-forward may have some. */
int check_decoder_biases(const ModelPreset *preset, const char *title, int mlp);

#endif
