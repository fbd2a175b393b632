/* Several ranks: what a rank adds to a job of one process. */
#ifndef BRIM_PYTORCH_RANKS__H
#define BRIM_PYTORCH_RANKS__H

#include "job_.h"

/* All parameters, frozen ones too, and then the buffers, in the order of the module: owned by the job. */
void torch_list_states(TorchJob *job);

/* The model is wrapped; before and after each forward pass of the wrapped model; after a backward pass. */
void torch_wrap(TorchJob *job);
void torch_before_forward(TorchJob *job);
TorchTensor *torch_after_forward(TorchJob *job, TorchTensor *loss); /* loose */
void torch_after_backward(TorchJob *job);
void torch_clear_ranks(TorchJob *job); /* frees host memory */

/* fsdp.c */
void torch_shard(TorchJob *job);
void torch_shard_before_forward(TorchJob *job);
void torch_shard_after_forward(TorchJob *job, TorchTensor *loss);
void torch_shard_after_backward(TorchJob *job);

/* ddp.c */
void torch_ddp_wrap(TorchJob *job);
void torch_ddp_before_forward(TorchJob *job);
TorchTensor *torch_ddp_after_forward(TorchJob *job, TorchTensor *loss);
void torch_ddp_after_backward(TorchJob *job);

#endif
