/* The plain training loop. */
#include "job_.h"

static void phase(TorchJob *job, PytorchPhase phase, int step, int micro)
{
    job->torch.event.phase = phase;
    job->torch.event.step = step;
    job->torch.event.micro = micro;
    job->torch.place = (TorchPlace){-1, NULL};
}

static void release_outputs(TorchJob *job, size_t from, size_t to)
{
    size_t kept = from;
    for (size_t i = from; i < to; i++)
        torch_drop(&job->torch, job->held[i]);
    for (size_t i = to; i < job->held_count; i++)
        job->held[kept++] = job->held[i];
    job->held_count = kept;
}

static TorchTensor *batch(Torch *t, int64_t rows, int64_t columns)
{
    TorchTensor *x = torch_empty(t, "aten::_to_copy", torch_shape(TORCH_I64, 2, (int64_t[]){rows, columns}));
    torch_mark(t, x, PYTORCH_INPUT);
    return x;
}

/* A class a row. */
static TorchTensor *classes(Torch *t, int64_t rows)
{
    TorchTensor *x = torch_empty(t, "aten::_to_copy", torch_shape(TORCH_I64, 1, &rows));
    torch_mark(t, x, PYTORCH_INPUT);
    return x;
}

void torch_loop(TorchJob *job)
{
    Torch *t = &job->torch;
    const PytorchJob *a = job->asked;
    TorchTensor *ids = NULL, *labels = NULL, *mask = NULL, *loss = NULL;
    int scaled = a->precision == PYTORCH_AUTOCAST_FP16;
    t->grad_mode = 1;
    for (int step = 0; step < a->steps; step++) {
        for (int micro = 0; micro < a->accumulate; micro++) {
            phase(job, PYTORCH_DATA, step, micro);
            ids = torch_rebind(t, ids, batch(t, a->batch, a->seq));
            labels = torch_rebind(t, labels, a->model.labels ? classes(t, a->batch) : batch(t, a->batch, a->seq));
            if (a->mask)
                mask = torch_rebind(t, mask, batch(t, a->batch, a->seq));
            job->seq = a->seq;
            phase(job, PYTORCH_FORWARD, step, micro);
            size_t old = job->held_count;
            t->autocast = a->precision == PYTORCH_AUTOCAST_BF16   ? TORCH_BF16
                          : a->precision == PYTORCH_AUTOCAST_FP16 ? TORCH_F16
                                                                  : TORCH_F32;
            TorchTensor *y = job->family->forward(job, ids, labels, mask);
            torch_hold(job, torch_name(t, y)); /* outputs.loss */
            t->autocast = TORCH_F32;
            torch_autocast_end(t);
            release_outputs(job, 0, old);
            torch_delete(t, loss);
            loss = y;
            if (!a->hold)
                release_outputs(job, 0, job->held_count);
            if (a->accumulate > 1)
                loss = torch_rebind(t, loss, torch_divide(t, loss));
            phase(job, PYTORCH_BACKWARD, step, micro);
            size_t frame = torch_frame(t);
            TorchTensor *root = torch_name(t, scaled ? torch_scale_loss(job, loss) : loss);
            TorchTensor *one = torch_name(t, torch_empty(t, "aten::ones_like", root->shape));
            torch_backward(t, root, one);
            torch_leave(t, frame, NULL);
        }
        phase(job, PYTORCH_CLIP, step, 0);
        if (scaled)
            torch_unscale(job);
        if (a->clip > 0)
            torch_clip(job);
        phase(job, PYTORCH_STEP, step, 0);
        torch_step(job);
        if (scaled)
            torch_scaler_update(job);
        phase(job, PYTORCH_ZERO, step, 0);
        torch_zero(job);
    }
}
