/* What the decoders share: Llama's blocks and model, made from a description of a family's parts. For nn's
 * own files. */
#ifndef BRIM_DECODER_INTERNAL_H
#define BRIM_DECODER_INTERNAL_H

#include "module_.h"

/* What the parts of a model are called, but the head, and attention in a block. */
typedef struct DecoderNames {
    const char *embedding, *layers, *norm, *attention;
} DecoderNames;

/* What a family's blocks are made of, beside what its configuration says. Names are those of the modules in a
 * block; a norm without a name does not exist. */
typedef struct DecoderParts {
    const ModuleClass *type, *block; /* the model's and a block's; the first is called as the family is */
    const DecoderNames *names;       /* NULL: Llama's */
    AttentionStyle style;            /* what its projections are called, and how they lie */
    const char *before_attention, *after_attention, *before_mlp, *after_mlp;
    AttentionNorm qk_norm;
    float norm_plus;      /* norms multiply by this plus their weight */
    int layer_norm;       /* norms take the mean away, and have biases */
    int parallel;         /* the feed-forward reads what attention reads, unless the configuration says not */
    TensorActivation act; /* of the gate; 0 = SiLU */
    int fused;            /* q, k and v are one linear layer, gate and up another */
    int root_embedding;   /* embeddings times the root of their width */
    /* Makes the feed-forward of a layer; NULL: a gated one. */
    Module *(*feed_forward)(const LlamaConfig *c, int layer);
    int shared_expert; /* beside the experts there may be one that all tokens go to */
} DecoderParts;

typedef struct DecoderBlock {
    Module *before_attention, *attention, *after_attention, *before_mlp, *mlp, *after_mlp;
    float branch_factor; /* 0: 1 */
    int parallel;        /* both branches read what the block reads */
} DecoderBlock;

typedef struct Decoder {
    Module *embedding, *norm, *head;
    int max_seq;
    float embedding_factor, hidden_factor; /* 0: 1 */
} Decoder;

/* Embedding, blocks, norm and head; and a block as layer `layer` has it. */
Module *module_decoder(const DecoderParts *parts, const LlamaConfig *config);
Module *module_decoder_block(const DecoderParts *parts, const LlamaConfig *config, int layer);

/* For DecoderParts.feed_forward: a mixture of experts, but in layers that are dense. (experts.c) */
Module *module_experts(const LlamaConfig *c, int layer);
/* Raises what no experts can be. Returns non-zero on error. */
int config_experts(const DecoderParts *parts, const LlamaConfig *c);

Tensor *module_decoder_forward(Module *module, Tensor *x, const Batch *batch);
Tensor *module_decoder_block_forward(Module *module, Tensor *x, const Batch *batch);
#define DECODER_CLASS(name)                                                                                  \
    {                                                                                                        \
        name, sizeof(Decoder), module_decoder_forward                                                        \
    }
#define DECODER_BLOCK_CLASS(name)                                                                            \
    {                                                                                                        \
        name, sizeof(DecoderBlock), module_decoder_block_forward                                             \
    }

/* What the rows of decoders have alike. Their configurations are of one type, and lie at one place. */
Module *module_decoder_make(const ModelPreset *preset);
ModelSizes module_decoder_sizes(const ModelPreset *preset);
#define DECODER_ROW                                                                                          \
    .reads = MODEL_READS_TEXT, .objective = OBJECTIVE_CAUSAL, .writes = 1, .lr = 2e-3f,                      \
    .make = module_decoder_make, .sizes = module_decoder_sizes,                                              \
    .vocab_at = offsetof(ModelPreset, config.llama.vocab),                                                   \
    .attention_at = offsetof(ModelPreset, config.llama.attention)

#endif
