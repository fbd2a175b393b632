/* One micro-batch, as loaders yield it and models read it. Its tensors belong to the loader and are valid
 * until the loader's next call. */
#ifndef BRIM_BATCH_H
#define BRIM_BATCH_H

#include "tensor.h"

#define BATCH_IGNORE (-100) /* a label that counts nothing, PyTorch's ignore_index */

typedef struct Batch {
    Tensor *ids;            /* i32 (B,T): tokens; NULL for feature data */
    Tensor *features;       /* f32 (B,F): pixels; NULL for token data */
    Tensor *types;          /* i32 (B,T): segment ids; NULL = all 0 */
    Tensor *mask;           /* i32 (B,T): 0 marks padding; NULL = none */
    Tensor *labels;         /* i32 (B,T) or (B); BATCH_IGNORE counts nothing */
    int64_t labels_counted; /* of this micro-batch; 0 on meta */
    int64_t labels_total;   /* of the whole accumulated batch: what the loss sum is divided by; 1 on meta */
    int64_t step;           /* the loader's step, from 0: with first_sample, what random masks are keyed by */
    int64_t first_sample;   /* index of this micro-batch's first sample within the accumulated batch */
    int micro, micros;      /* this micro-batch of how many in the step */
    int64_t tokens;         /* tokens (or samples, for feature data) in this micro-batch, for throughput */
    struct KvCache *cache;  /* keys and values of the tokens before these: nn_forward_cached sets it */
} Batch;

#endif
