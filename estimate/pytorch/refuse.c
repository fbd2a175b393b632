/* What there are no rules for: a job with it is refused, never predicted as something else. */
#include <stdio.h>

#include "dialect_.h"

static const char *family_problem(const PytorchModel *m)
{
    switch (m->family) {
    case PYTORCH_LLAMA:
    case PYTORCH_QWEN2:
    case PYTORCH_QWEN3:
    case PYTORCH_MISTRAL: break;
    default: return "this family";
    }
    if (m->labels)
        return "a classifier";
    if (m->dropout > 0 || m->attention_dropout > 0)
        return "dropout";
    return NULL;
}

static const char *precision_problem(const PytorchJob *job)
{
    if (job->precision == PYTORCH_AUTOCAST_FP16)
        return "autocast to fp16";
    if (job->precision == PYTORCH_AUTOCAST_BF16 &&
        (job->attention == PYTORCH_EAGER || job->checkpoint == PYTORCH_CHECKPOINT_REENTRANT))
        return "eager attention or reentrant checkpointing under autocast";
    int autocast = job->precision == PYTORCH_AUTOCAST_BF16;
    if (autocast && job->weights > PYTORCH_WEIGHTS_FP32 && !job->lora_rank)
        return "autocast over 16-bit weights";
    if (job->quantize != PYTORCH_PLAIN && !job->lora_rank)
        return "quantised weights without adapters";
    return NULL;
}

static const char *training_problem(const PytorchJob *job)
{
    if (job->script != PYTORCH_LOOP)
        return "transformers' Trainer";
    if (job->hold && job->accumulate > 1)
        return "outputs that are held over micro-batches";
    if (job->capability < 80 && (job->precision == PYTORCH_BF16 || job->precision == PYTORCH_AUTOCAST_BF16 ||
                                 job->checkpoint != PYTORCH_KEEP || job->mask || job->model.window))
        return "this on a card of compute capability 7.5";
    return NULL;
}

int estimate_pytorch_refuses(const PytorchJob *job, char *why, size_t size)
{
    const char *what = family_problem(&job->model);
    if (!what)
        what = precision_problem(job);
    if (!what)
        what = training_problem(job);
    if (!what && !torch_card(job->capability))
        snprintf(why, size, "there are no rules for cards of compute capability %d.%d", job->capability / 10,
                 job->capability % 10);
    if (what)
        snprintf(why, size, "there are no rules for %s yet", what);
    return what || !torch_card(job->capability);
}
