/* A job from its description: the model, the script, the events. */
#include <string.h>

#include "../../memtrack/memtrack.h"
#include "ranks_.h"

static const TorchFamily *family_of(PytorchFamily family)
{
    if (family == PYTORCH_GPT2)
        return &torch_gpt2;
    return family == PYTORCH_BERT ? &torch_bert : &torch_decoder;
}

static TorchType weights_of(const PytorchJob *job)
{
    static const TorchType types[] = {[PYTORCH_WEIGHTS_FP32] = TORCH_F32,
                                      [PYTORCH_WEIGHTS_BF16] = TORCH_BF16,
                                      [PYTORCH_WEIGHTS_FP16] = TORCH_F16};
    if (job->weights)
        return types[job->weights];
    return job->precision == PYTORCH_BF16   ? TORCH_BF16
           : job->precision == PYTORCH_FP16 ? TORCH_F16
                                            : TORCH_F32;
}

static void clear(TorchJob *job)
{
    memtrack_host_free(NULL, job->parameters, job->parameter_capacity * sizeof *job->parameters);
    memtrack_host_free(NULL, job->entries, job->entry_capacity * sizeof *job->entries);
    memtrack_host_free(NULL, job->sorted, job->sorted_capacity * sizeof *job->sorted);
    memtrack_host_free(NULL, job->states, job->state_capacity * sizeof *job->states);
    memtrack_host_free(NULL, job->samples, job->sample_capacity * sizeof *job->samples);
    torch_clear_ranks(job);
    memtrack_host_free(NULL, job->buffers, job->buffer_capacity * sizeof *job->buffers);
    memtrack_host_free(NULL, job->held, job->held_capacity * sizeof *job->held);
    memtrack_host_free(NULL, job->model, job->model_bytes);
    torch_clear(&job->torch);
}

int estimate_pytorch_job(const PytorchJob *asked, PytorchVisit *visit, void *user)
{
    TorchJob *job = memtrack_host_calloc(NULL, sizeof *job);
    if (!job)
        return -1;
    job->asked = asked;
    job->family = family_of(asked->model.family);
    job->weights = weights_of(asked);
    if ((asked->script == PYTORCH_TRAINER || asked->parallel == PYTORCH_FSDP2) && !asked->quantize &&
        asked->lora_rank && asked->kbit_prepare)
        job->weights = TORCH_F32; /* prepared before it comes to the card */
    job->torch.visit = visit;
    job->torch.user = user;
    job->torch.dialect = asked->dialect ? asked->dialect : torch_dialect();
    int caches = asked->script == PYTORCH_LOOP || job->torch.dialect->transformers->trainer_caches;
    job->caches = caches && asked->checkpoint == PYTORCH_KEEP;
    /* Trainer asks for it where the model does not say that it checkpoints; PEFT's wrapper never says so */
    job->finds_unused = asked->script == PYTORCH_LOOP ? asked->find_unused
                                                      : asked->lora_rank || asked->checkpoint == PYTORCH_KEEP;
    job->card = *torch_card(asked->capability);
    if (asked->processors)
        job->card.processors = asked->processors;
    job->torch.card = &job->card;
    job->torch.place.layer = -1;
    int failed = setjmp(job->torch.failed);
    if (!failed) {
        job->family->make(job);
        torch_train(job);
        if (asked->quantize)
            torch_load(job);
        if (asked->lora_rank && asked->kbit_prepare)
            torch_prepare(job);
        torch_adapt(job);
        if (asked->script == PYTORCH_TRAINER)
            torch_trainer(job);
        else
            torch_loop(job);
    }
    int result = failed == 1 ? -1 : job->torch.stop;
    clear(job);
    memtrack_host_free(NULL, job, sizeof *job);
    return result;
}
