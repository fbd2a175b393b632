/* formulae: published memory formulae as pure functions, and what this engine keeps beside the best known
 * one.
 *
 * Nothing here looks at a model: these are what papers and tools compute, to set beside a plan, which is
 * exact. Sizes are bytes unless a name says otherwise; results are double where a formula divides.
 */
#ifndef BRIM_FORMULAE_H
#define BRIM_FORMULAE_H

#include <stdint.h>
#include <stdio.h>

#include "../memtrack/memtrack.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Weights --------------------------------------------------------------------------------- */

/* Bits a weight of NF4 (arXiv 2305.14314): 4, and an fp32 scale a block of 64; with double quantisation an
 * 8-bit scale a block and an fp32 scale of scales a 256 blocks. */
double estimate_nf4_bits(int double_quantisation);
/* Trainable parameters that LoRA of rank r adds to a linear layer (arXiv 2106.09685). */
int64_t estimate_lora_parameters(int64_t rank, int64_t in, int64_t out);

/* A LLaMA's shape, for parameter counts. kv_heads share heads; head width is dim / heads. */
typedef struct LlamaShape {
    int64_t vocab, dim, layers, heads, kv_heads, hidden;
    int tied; /* 1: the head is the embedding */
} LlamaShape;
int64_t estimate_llama_parameters(const LlamaShape *shape);
/* Of the linear layers inside blocks: what 4-bit quantisation stores in 4 bits. */
int64_t estimate_llama_linear_parameters(const LlamaShape *shape);
/* What LoRA trains when it targets all of those. */
int64_t estimate_llama_lora_parameters(const LlamaShape *shape, int64_t rank);
/* Keys and values of so many tokens. */
int64_t estimate_kv_cache_bytes(const LlamaShape *shape, int64_t tokens, int64_t bytes_a_value);

/* ---- Sharding -------------------------------------------------------------------------------- */

/* Bytes a rank of weights, gradients and optimizer states under ZeRO (arXiv 1910.02054): 2 + 2 + K bytes a
 * parameter (K = 12: fp32 master and Adam), of which stage 1 divides the states, 2 the gradients too, 3 all.
 */
double estimate_zero_bytes(double parameters, double k, int64_t ranks, int stage);

/* ---- Activations of a GPT layer -------------------------------------------------------------- */

typedef struct GptShape {
    int64_t batch, seq, dim, heads; /* b, s, h, a; feed-forward width is 4 dim */
} GptShape;

/* Rows of table 2 of Korthikanti et al. (arXiv 2205.05198). t = tensor-parallel ranks. */
#define PLAN_KORTHIKANTI(X)                                                                                  \
    X(PLAIN, "none", "sbh (34 + 5as/h)")                                                                     \
    X(TENSOR, "tensor parallel", "sbh (10 + 24/t + 5as/(ht))")                                               \
    X(SEQUENCE, "+ sequence parallel", "sbh/t (34 + 5as/h)")                                                 \
    X(SELECTIVE, "tensor, selective recompute", "sbh (10 + 24/t)")                                           \
    X(SEQUENCE_SELECTIVE, "+ sequence parallel", "34 sbh/t")                                                 \
    X(FULL, "full recompute", "2 sbh")

typedef enum KorthikantiRow {
#define X(id, name, formula) KORTHIKANTI_##id,
    PLAN_KORTHIKANTI(X)
#undef X
        KORTHIKANTI_COUNT
} KorthikantiRow;

/* Bytes a layer, 16 bit, with dropout and its masks stored; FULL keeps a layer's input alone. */
double estimate_korthikanti_bytes(const GptShape *shape, KorthikantiRow row, int64_t t);

/* The parts of the plain row; they add up to it. */
typedef enum KorthikantiPart {
    KORTHIKANTI_ATTENTION,  /* 11 sbh */
    KORTHIKANTI_SCORES,     /* 5as²b */
    KORTHIKANTI_MLP,        /* 19 sbh */
    KORTHIKANTI_LAYER_NORM, /* 4 sbh */
    KORTHIKANTI_PARTS
} KorthikantiPart;
int64_t estimate_korthikanti_part(const GptShape *shape, KorthikantiPart part);

/* ---- The same layer here --------------------------------------------------------------------- */

/* One term: the paper's bytes, what brim keeps for it in fp32 under eager and flash attention (blocks rounded
 * up to MEMTRACK_ALIGN), and why they differ. The paper's column adds up to its plain row, the others to what
 * one more nn_gpt2 block adds to the own peak of activations, to the byte, with dropout and without. */
typedef struct FormulaItem {
    const char *term, *formula; /* "query, key, value", "6 sbh" */
    KorthikantiPart part;
    int64_t paper, eager, flash;
    int64_t eager16, flash16; /* with activations of 16 bits: statistics and row sums are fp32 there too */
    const char *why;
} FormulaItem;

/* Fills the i-th item; 0 past the end, or when the shape is none (sizes below 1, heads not dividing dim). */
int estimate_formula_item(const GptShape *shape, int i, FormulaItem *item);

/* The items of a layer of B samples of T tokens, width h, a heads; their sums, and the paper's table 2. A
 * shape that is none is said so. */
void estimate_formula_print(FILE *out, int64_t B, int64_t T, int64_t h, int64_t a);

/* ---- PyTorch's CUDA allocator ---------------------------------------------------------------- */

/* What a request occupies, and what is asked of CUDA when no free block fits (c10/cuda,
 * CUDACachingAllocator). */
uint64_t estimate_cuda_block_bytes(uint64_t request);
uint64_t estimate_cuda_segment_bytes(uint64_t request);

#ifdef __cplusplus
}
#endif
#endif
