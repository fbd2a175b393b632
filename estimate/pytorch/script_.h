/* What scripts share: batches, autocast around the model, the phases. */
#ifndef BRIM_PYTORCH_SCRIPT__H
#define BRIM_PYTORCH_SCRIPT__H

#include "job_.h"

void torch_phase(TorchJob *job, PytorchPhase phase, int step, int micro);
/* Lets go of what the model's output keeps, from one number to another. */
void torch_release(TorchJob *job, size_t from, size_t to);
TorchTensor *torch_batch(TorchJob *job);  /* ids, or a mask; loose */
TorchTensor *torch_labels(TorchJob *job); /* as many, or a class a row; loose */
/* Clipping where `clip`, the optimizer's step, zeroing. The norm becomes *norm, or goes at once where that is
 * NULL. */
void torch_update(TorchJob *job, int step, int clip, TorchTensor **norm);
/* The model's loss, under autocast where it is asked; loose. */
TorchTensor *torch_model(TorchJob *job, TorchTensor *ids, TorchTensor *labels, TorchTensor *mask);

#endif
