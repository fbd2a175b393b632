/* What attention with and without a cache share on the host. */
#ifndef BRIM_CUDA_ATTENTION__H
#define BRIM_CUDA_ATTENTION__H

#include "launch_.h"

/* Of q, k and v, where they are no cache, and of their gradients. */
static inline HeadStrides cuda_attention_strides(const AttentionDims *d, int64_t ld)
{
    return (HeadStrides){d->seq * ld, attention_head_step(d), ld};
}

/* Starts flash forward, on tensor cores where they serve. k and v are of the type of q. */
void cuda_attention_start_flash(AttentionArguments *a, const KernelRun *run);

#endif
