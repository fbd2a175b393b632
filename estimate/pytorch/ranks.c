/* Several ranks, of which the first is predicted: what the ways to share a training have in common. */
#include "ranks_.h"

#include "../../memtrack/memtrack.h"

/* ---- What ranks have alike ------------------------------------------------------------------- */

static void list(TorchJob *job, TorchTensor *x)
{
    job->all_states = torch_grow(&job->torch, job->all_states, &job->all_state_capacity,
                                 job->all_state_count + 1, sizeof *job->all_states);
    job->all_states[job->all_state_count++] = x;
}

void torch_list_states(TorchJob *job)
{
    job->all_state_count = 0;
    for (size_t i = 0; i < job->entry_count; i++) {
        TorchTensor *x = job->entries[i].x, *beside;
        if (job->entries[i].buffer)
            continue;
        list(job, x);
        for (int which = 0; which < 2; which++)
            if ((beside = torch_adapter_beside(job, x, which)))
                list(job, beside);
        for (int which = 0; which < 2; which++) /* a copied head follows the last of the head's own */
            if (job->copies[which] && x == (job->copied[1] ? job->copied[1] : job->copied[0]))
                list(job, job->copies[which]);
    }
    for (size_t i = 0; i < job->buffer_count; i++)
        list(job, job->buffers[i]);
}

/* ---- The moments ----------------------------------------------------------------------------- */

void torch_wrap(TorchJob *job)
{
    if (job->asked->parallel == PYTORCH_DDP)
        torch_ddp_wrap(job);
    if (job->asked->parallel == PYTORCH_FSDP2)
        torch_shard(job);
}

void torch_before_forward(TorchJob *job)
{
    if (job->asked->parallel == PYTORCH_DDP)
        torch_ddp_before_forward(job);
    if (job->asked->parallel == PYTORCH_FSDP2)
        torch_shard_before_forward(job);
}

TorchTensor *torch_after_forward(TorchJob *job, TorchTensor *loss)
{
    if (job->asked->parallel == PYTORCH_FSDP2)
        torch_shard_after_forward(job, loss);
    return job->asked->parallel == PYTORCH_DDP ? torch_ddp_after_forward(job, loss) : loss;
}

void torch_after_backward(TorchJob *job)
{
    if (job->asked->parallel == PYTORCH_DDP)
        torch_ddp_after_backward(job);
    if (job->asked->parallel == PYTORCH_FSDP2)
        torch_shard_after_backward(job);
}

void torch_clear_ranks(TorchJob *job)
{
    TorchReducer *r = &job->reducer;
    TorchSharded *s = &job->sharded;
    memtrack_host_free(NULL, s->groups, s->group_capacity * sizeof *s->groups);
    memtrack_host_free(NULL, s->shards, s->shard_capacity * sizeof *s->shards);
    memtrack_host_free(NULL, job->all_states, job->all_state_capacity * sizeof *job->all_states);
    for (int i = 0; i < 2; i++) {
        TorchBuckets *b = i ? &r->sent : &r->reduced;
        memtrack_host_free(NULL, b->items, b->capacity * sizeof *b->items);
        memtrack_host_free(NULL, b->members, b->member_capacity * sizeof *b->members);
    }
    memtrack_host_free(NULL, r->ready, r->ready_capacity * sizeof *r->ready);
}
