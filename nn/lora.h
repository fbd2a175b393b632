/* lora: low-rank adapters beside frozen weights (Hu et al., "LoRA", arXiv 2106.09685), as PEFT computes them:
 * y = base(x) + scale B (A dropout(x)).
 *
 * A linear layer keeps its weight W (out,in), which is no longer trained. It gets A (rank,in) and B
 * (out,rank), which are trained, in f32 whatever W is stored as. Their names are PEFT's,
 * "q_proj.lora_A.weight" and "q_proj.lora_B.weight" under the layer's own; nn_parameters lists them like any
 * other. An embedding (vocab,dim) gets "lora_embedding_A" (vocab,rank), which PEFT's files store transposed,
 * and "lora_embedding_B" (dim,rank).
 */
#ifndef BRIM_LORA_H
#define BRIM_LORA_H

#include "nn.h"

#ifdef __cplusplus
extern "C" {
#endif

/* targets: NULL or "all" is every linear layer but the output head; else names of layers, separated by
 * commas: a whole module path, or its end after a dot ("q_proj,v_proj"). */
typedef struct Lora {
    int rank;      /* 0 = 8 */
    float alpha;   /* scale = alpha / rank; 0 = 8 */
    float dropout; /* of what A reads, in training; 0 = none */
    const char *targets;
    int rslora; /* 1: scale = alpha / sqrt(rank) (Kalajdzievski, arXiv 2312.03732) */
} Lora;

/* Freezes every parameter of the model but adapters that are there (tensor_set_requires_grad) and the classes
 * of a sequence classifier, which are new where the rest is not, and adds an
 * adapter to each layer that `targets` names. A is uniform within 1/sqrt(in) and B is 0 (of an embedding A is
 * 0 and B normal(0, 1)), so that nothing changes before the first step. Call it before the optimizer is made.
 * lora may be NULL. Returns how many layers have an adapter now, or -1: ERROR_ARGUMENT (a name that no layer
 * has: the message lists those there are; settings out of range; a layer that has one already), and nothing
 * has changed; or ERROR_MEMORY, ERROR_HOST_MEMORY, and all is frozen and some layers have one. */
BRIM_API int nn_add_lora(Module *model, const Lora *lora);

/* A layer that can have an adapter, and what it has. */
typedef struct LoraLayer {
    const char *path; /* of the module, within the model; valid during the call */
    int64_t in, out;  /* of an embedding: vocabulary and width */
    int embedding;    /* 1: an embedding, 0: a linear layer */
    int head;         /* 1: the output head, or of a sequence classifier's */
    int tied;         /* 1: its weight is another layer's as well: an embedding and its tied head */
    Tensor *weight;
    Tensor *a, *b; /* NULL = no adapter */
    float scale;
    Lora lora; /* settings of the adapter, with the defaults in place of zeros; targets NULL */
} LoraLayer;

/* The same, asked layer by layer, in the order of nn_parameters: `choose` returns 1 to adapt the layer, after
 * it has filled `lora` (targets are not read), 0 to leave it, and -1 after an error. It is asked twice and
 * answers the same: nothing is changed before all answers are good. */
typedef int (*LoraChoose)(void *user, const LoraLayer *layer, Lora *lora);
BRIM_API int nn_add_lora_by(Module *model, LoraChoose choose, void *user);

/* Shows each layer that can have an adapter, until `visit` returns non-zero, which is returned; else 0. */
typedef int (*LoraVisit)(void *user, const LoraLayer *layer);
BRIM_API int nn_lora_layers(Module *model, LoraVisit visit, void *user);
BRIM_API int nn_lora_count(Module *model); /* of adapters */
/* The parameters that require a gradient now: those of adapters, and others that were made to since. Valid
 * until it is called again. */
BRIM_API TensorList nn_lora_parameters(Module *model);

/* Adds scale B A to each weight, in f32, stores the sum as dtype (f32, bf16 or f16; rounded once), and
 * removes the adapters; their tensors are freed, and the weights stay frozen. A weight of that type already
 * is changed where it lies; another gets a new storage first, and the old one goes. Returns how many were
 * merged, or -1: ERROR_STATE (no adapter; the adapter of a tied embedding, which would change the head too),
 * ERROR_ARGUMENT (a quantised type: what an adapter changes can be less than quantising again rounds away);
 * then nothing has changed. After ERROR_MEMORY or ERROR_NONFINITE (a sum that dtype cannot hold) some are
 * merged; a weight that was to be changed where it lies, and has such a sum, is merged in part. */
BRIM_API int nn_merge(Module *model, DType dtype);

#ifdef __cplusplus
}
#endif
#endif
