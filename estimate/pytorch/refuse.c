/* What there are no rules for: a job with it is refused, never predicted as something else. */
#include <stdio.h>

#include "dialect_.h"

/* Each is refused until a trace of it is followed event by event. */
static const char *problem(const PytorchJob *job)
{
    const TransformersEra *era = (job->dialect ? job->dialect : torch_dialect())->transformers;
    if (job->model.family >= PYTORCH_FAMILIES)
        return "this family";
    if (job->model.family == PYTORCH_BERT && job->attention == PYTORCH_EAGER &&
        job->checkpoint == PYTORCH_CHECKPOINT_REENTRANT && era->bert_layers_in_tuples)
        return "reentrant checkpoints of BERT's eager attention in this version of transformers";
    if (job->model.family == PYTORCH_BERT && job->quantize != PYTORCH_PLAIN)
        return "BERT's quantised weights";
    if (era->asks_no_gradient && job->script == PYTORCH_TRAINER && job->lora_rank &&
        job->checkpoint == PYTORCH_CHECKPOINT_REENTRANT && !(job->quantize && job->kbit_prepare))
        return "reentrant checkpoints of adapters under this version of Trainer, which fails with them,";
    if (job->seq == 1 && era->moved_logits)
        return "rows of one token in this version of transformers";
    if (job->model.family == PYTORCH_QWEN3 && era->no_qwen3)
        return "Qwen3 in this version of transformers";
    if (job->model.labels == 1)
        return "a classifier of one class, which is a regression";
    if (job->hold && job->script == PYTORCH_TRAINER)
        return "outputs that Trainer would hold, which it does not";
    if (job->evaluate && job->script != PYTORCH_TRAINER)
        return "an evaluation of a loop of one's own";
    if (job->quantize != PYTORCH_PLAIN && !job->lora_rank)
        return "quantised weights without adapters";
    return NULL;
}

int estimate_pytorch_refuses(const PytorchJob *job, char *why, size_t size)
{
    const char *what = problem(job);
    if (what)
        snprintf(why, size, "there are no rules for %s yet", what);
    else if (!torch_card(job->capability))
        snprintf(why, size, "there are no rules for cards of compute capability %d.%d", job->capability / 10,
                 job->capability % 10);
    else
        return 0;
    return 1;
}
