/* What there are no rules for: a job with it is refused, never predicted as something else. */
#include <stdio.h>

#include "dialect_.h"

/* Of several ranks. Reentrant checkpoints beside a search for unused parameters, and bitsandbytes' optimizers
 * of parts, are what PyTorch itself refuses. */
static const char *ranks_problem(const PytorchJob *job)
{
    int fsdp = job->parallel == PYTORCH_FSDP2, reentrant = job->checkpoint == PYTORCH_CHECKPOINT_REENTRANT;
    int unused = job->script == PYTORCH_TRAINER ? job->lora_rank > 0 : job->find_unused;
    if (job->parallel == PYTORCH_ALONE)
        return job->ranks > 1 ? "several ranks that share nothing" : NULL;
    if (job->ranks < 2)
        return "a rank that is alone, under DDP or FSDP2";
    if (job->dialect && job->dialect != torch_dialect())
        return "several ranks in these versions of torch and transformers";
    if (!fsdp && reentrant && unused)
        return "reentrant checkpoints where DDP looks for unused parameters, which PyTorch refuses";
    if (fsdp && job->script == PYTORCH_TRAINER)
        return "FSDP2 under Trainer";
    if (fsdp && reentrant)
        return "reentrant checkpoints under FSDP2";
    if (fsdp && job->quantize != PYTORCH_PLAIN)
        return "quantised weights under FSDP2";
    if (fsdp && (job->optimizer == PYTORCH_ADAMW_8BIT || job->optimizer == PYTORCH_ADAMW_8BIT_PAGED))
        return "bitsandbytes' optimizers under FSDP2, which PyTorch refuses";
    return NULL;
}

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
    if (job->quantize == PYTORCH_INT8 && (job->dialect ? job->dialect : torch_dialect())->peft->no_int8)
        return "LLM.int8 with the versions of PEFT and bitsandbytes that go with this transformers";
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
    return ranks_problem(job);
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

/* cuDNN's attention takes 16 bits only, and does not start on the stand-in. */
int estimate_pytorch_unverified(const PytorchJob *job, char *why, size_t size)
{
    const TorchEra *era = (job->dialect ? job->dialect : torch_dialect())->torch;
    const PytorchCard *card = torch_card(job->capability);
    if (job->attention != PYTORCH_SDPA || !card || !card->cudnn_first || era->cudnn_last ||
        job->precision == PYTORCH_FP32)
        return 0;
    snprintf(
        why, size,
        "sdpa takes cuDNN's kernel first there in 16 bits; what it takes is in no trace; PyTorch's flash "
        "kernel is predicted, as after enable_cudnn_sdp(False)");
    return 1;
}
