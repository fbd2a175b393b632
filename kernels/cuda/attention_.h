/* What attention with and without a cache share on the host. */
#ifndef BRIM_CUDA_ATTENTION__H
#define BRIM_CUDA_ATTENTION__H

#include "launch_.h"

/* Starts flash forward where tensor cores serve; 0 where they do not. k and v are of the type of q. */
int cuda_attention_on_tensor_cores(const AttentionArguments *a, const KernelRun *run);

#endif
