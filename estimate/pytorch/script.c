/* The plain training loop. */
#include "ranks_.h"
#include "script_.h"

void torch_phase(TorchJob *job, PytorchPhase phase, int step, int micro)
{
    job->torch.event.phase = phase;
    job->torch.event.step = step;
    job->torch.event.micro = micro;
    job->torch.place = (TorchPlace){-1, NULL};
}

void torch_release(TorchJob *job, size_t from, size_t to)
{
    size_t kept = from;
    for (size_t i = from; i < to; i++)
        torch_drop(&job->torch, job->held[i]);
    for (size_t i = to; i < job->held_count; i++)
        job->held[kept++] = job->held[i];
    job->held_count = kept;
}

static TorchTensor *input(TorchJob *job, int dims)
{
    Torch *t = &job->torch;
    TorchTensor *x =
        torch_empty(t, "aten::_to_copy", torch_shape(TORCH_I64, dims, (int64_t[]){job->batch, job->seq}));
    torch_mark(t, x, PYTORCH_INPUT);
    return x;
}

TorchTensor *torch_batch(TorchJob *job)
{
    return input(job, 2);
}

TorchTensor *torch_labels(TorchJob *job)
{
    return input(job, job->asked->model.labels ? 1 : 2);
}

TorchTensor *torch_model(TorchJob *job, TorchTensor *ids, TorchTensor *labels, TorchTensor *mask)
{
    Torch *t = &job->torch;
    PytorchPrecision precision = job->asked->precision;
    t->autocast = precision == PYTORCH_AUTOCAST_BF16   ? TORCH_BF16
                  : precision == PYTORCH_AUTOCAST_FP16 ? TORCH_F16
                                                       : TORCH_F32;
    if (!t->evaluating) /* Trainer evaluates the model without its wrapper */
        torch_before_forward(job);
    TorchTensor *loss = job->family->forward(job, ids, labels, mask);
    if (job->asked->script == PYTORCH_LOOP)
        loss = torch_after_forward(job, loss);
    t->autocast = TORCH_F32;
    torch_autocast_end(t);
    return loss;
}

void torch_update(TorchJob *job, int step, int clip, TorchTensor **norm)
{
    Torch *t = &job->torch;
    const PytorchJob *a = job->asked;
    /* the scaler unscales an optimizer's gradients */
    int scaled = a->precision == PYTORCH_AUTOCAST_FP16 && a->optimizer != PYTORCH_NO_OPTIMIZER;
    torch_phase(job, PYTORCH_CLIP, step, 0);
    job->unscaled = scaled && (clip || a->optimizer != PYTORCH_ADAMW_FUSED);
    if (job->unscaled)
        torch_unscale(job);
    TorchTensor *total = clip ? torch_clip(job) : NULL;
    if (norm && total) {
        total->loose = 0;
        torch_drop(t, *norm);
        *norm = total;
    } else
        torch_used(t, total);
    torch_phase(job, PYTORCH_STEP, step, 0);
    if (scaled && !job->unscaled)
        torch_look_for_infinite(job);
    torch_step(job);
    if (scaled)
        torch_scaler_update(job);
    torch_phase(job, PYTORCH_ZERO, step, 0);
    torch_zero(job);
}

void torch_loop(TorchJob *job)
{
    Torch *t = &job->torch;
    const PytorchJob *a = job->asked;
    TorchTensor *ids = NULL, *labels = NULL, *mask = NULL, *loss = NULL;
    int scaled = a->precision == PYTORCH_AUTOCAST_FP16;
    t->grad_mode = 1;
    job->batch = a->batch;
    job->seq = a->seq;
    torch_wrap(job);
    for (int step = 0; step < a->steps; step++) {
        for (int micro = 0; micro < a->accumulate; micro++) {
            torch_phase(job, PYTORCH_DATA, step, micro);
            if (a->length_count)
                job->seq = a->lengths[(step * a->accumulate + micro) % a->length_count];
            ids = torch_rebind(t, ids, torch_batch(job));
            labels = torch_rebind(t, labels, torch_labels(job));
            if (a->mask)
                mask = torch_rebind(t, mask, torch_batch(job));
            torch_phase(job, PYTORCH_FORWARD, step, micro);
            job->synchronizes = !a->no_sync || micro == a->accumulate - 1;
            size_t old = job->held_count;
            TorchTensor *y = torch_name(t, torch_model(job, ids, labels, mask));
            torch_hold(job, y); /* outputs.loss */
            torch_release(job, 0, old);
            torch_delete(t, loss);
            loss = y;
            if (!a->hold)
                torch_release(job, 0, job->held_count);
            if (a->accumulate > 1)
                loss = torch_rebind(t, loss, torch_divide(t, loss));
            torch_phase(job, PYTORCH_BACKWARD, step, micro);
            size_t frame = torch_frame(t);
            TorchTensor *root = torch_name(t, scaled ? torch_scale_loss(job, loss) : loss);
            TorchTensor *one = torch_name(t, torch_empty(t, "aten::ones_like", root->shape));
            torch_backward(t, root, one);
            torch_after_backward(job);
            torch_leave(t, frame, NULL);
        }
        torch_update(job, step, a->clip > 0, NULL);
        if (a->hold == PYTORCH_HOLD_STEP)
            torch_release(job, 0, job->held_count);
    }
}
