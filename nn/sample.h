/* sample: the next token from logits, and a text continued by one token after the other.
 *
 * A draw is a function of (seed, sequence, position) and the logits: the same for any number of threads, and
 * for a sequence alone or in a batch of others.
 */
#ifndef BRIM_SAMPLE_H
#define BRIM_SAMPLE_H

#include "nn.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As in transformers, one after the other: logits / temperature; the top_k largest, and all that are equal to
 * the last of them; of those, the most probable whose probabilities, summed from the largest on, first reach
 * top_p (Holtzman et al., "The Curious Case of Neural Text Degeneration", arXiv 1904.09751). Of equal logits
 * the lower token comes first (transformers leaves that to the order in which torch.sort puts equal ones). */
typedef struct SampleOptions {
    float temperature; /* 0 = greedy: the first of the largest logits, whatever the rest says */
    int top_k;         /* 0 = all; more than there are tokens means all */
    float top_p;       /* in (0,1]; 0 = 1 = all */
    uint64_t seed;
} SampleOptions;

/* A token for each row of logits (B,vocab), into tokens (B), drawn for `position` of sequences 0..B-1. On
 * meta all are 0. Workspace of 8 bytes a token of the vocabulary where temperature is above 0.
 * Returns 0, or raises ERROR_NONFINITE (NaN or infinity among the logits, or nothing but -infinity),
 * ERROR_ARGUMENT (options out of range), ERROR_SHAPE, ERROR_MEMORY. */
BRIM_API int nn_sample(Tensor *logits, const SampleOptions *options, int64_t position, int32_t *tokens);

/* What nn_sample draws from: for each row of logits (B,vocab) the probabilities, into (B,vocab). Errors and
 * workspace are nn_sample's. On meta the first token has all. */
BRIM_API int nn_sample_probabilities(Tensor *logits, const SampleOptions *options, float *probabilities);

typedef struct GenerateOptions {
    const int32_t *prompt; /* prompt_tokens >= 1 ids, the same for every sequence */
    int prompt_tokens;
    int tokens;   /* to write, at least 1 */
    int batch;    /* sequences written side by side; 0 = 1 */
    int context;  /* tokens the cache holds; 0 = prompt_tokens + tokens - 1, for the last is never read. When
                   * it is full, the newer half is read again and the rest forgotten */
    int prefill;  /* tokens of the prompt read at once; 0 = 512 */
    DType cached; /* what keys and values are kept as: f32 (0), bf16 or f16 */
    SampleOptions sample;
    const int32_t *stop; /* a sequence ends after any of these stops tokens; writing, when all have ended */
    int stops;
    /* Told of every position as it is written: a token a sequence, -1 for one that has ended. Non-zero stops.
     * NULL = nothing. Not called on meta. */
    int (*written)(void *user, const int32_t *tokens, int batch);
    void *user;
} GenerateOptions;

/* Continues a prompt: reads it, then writes one token after the other, with a cache of its own (nn_kv_cache)
 * that goes when it returns. Nothing is recorded, dropout is off meanwhile, the model keeps its mode. Each
 * forward is a segment of the run, so call it outside tensor_no_grad_begin; on meta one of each kind is run,
 * and the plan is that of any number of tokens. Returns 0, or raises: ERROR_ARGUMENT (options; a prompt
 * longer than the context), what the model raises (a sequence longer than its positions), nn_sample and
 * nn_kv_cache. Ranks that compute each layer together write the same tokens, each with the cache of its heads;
 * all call it with the same options, and `written` stops all or none.
 */
BRIM_API int nn_generate(Module *model, const GenerateOptions *options);

#ifdef __cplusplus
}
#endif
#endif
