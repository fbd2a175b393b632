/* GradScaler: numbers, and one of them an optimizer step keeps. */
#include "job_.h"

static TorchTensor *number(Torch *t, const char *op, TorchType type)
{
    TorchTensor *x = torch_empty(t, op, torch_shape(type, 0, NULL));
    x->loose = 0;
    return x;
}

/* scaler.scale(loss): the scale is made at the first loss. */
TorchTensor *torch_scale_loss(TorchJob *job, TorchTensor *loss)
{
    Torch *t = &job->torch;
    for (int i = 0; i < 2; i++)
        if (!job->scaler[i]) {
            job->scaler[i] = number(t, "aten::full", TORCH_F32);
            torch_mark(t, job->scaler[i], PYTORCH_BUFFER);
        }
    return torch_mul(t, loss, job->scaler[0]);
}

/* What the kernel writes whether it met an infinity to; of parts, the sum over ranks is a copy. */
static void look(TorchJob *job)
{
    Torch *t = &job->torch;
    TorchTensor *found = number(t, "aten::_to_copy", TORCH_F32);
    if (job->asked->parallel == PYTORCH_FSDP2)
        torch_scratch(t, "aten::empty_like", torch_bytes(TORCH_F32));
    torch_drop(t, found);
}

/* scaler.unscale_(optimizer): 1 / scale in double precision, and whether a gradient was infinite, for each
 * device */
void torch_unscale(TorchJob *job)
{
    Torch *t = &job->torch;
    TorchTensor *wide = number(t, "aten::_to_copy", TORCH_I64),
                *inverse = number(t, "aten::reciprocal", TORCH_I64);
    torch_drop(t, wide);
    TorchTensor *scale = number(t, "aten::_to_copy", TORCH_F32);
    torch_drop(t, inverse);
    TorchTensor *found = number(t, "aten::full", TORCH_F32);
    job->found = number(t, "aten::_to_copy", TORCH_F32);
    look(job);
    torch_drop(t, found);
    torch_drop(t, scale);
}

/* scaler._check_inf_per_device(optimizer) */
void torch_look_for_infinite(TorchJob *job)
{
    Torch *t = &job->torch;
    TorchTensor *one = number(t, "aten::full", TORCH_F32), *found = number(t, "aten::full", TORCH_F32);
    job->found = number(t, "aten::_to_copy", TORCH_F32);
    look(job);
    torch_drop(t, found);
    torch_drop(t, one);
}

/* scaler.update() */
void torch_scaler_update(TorchJob *job)
{
    torch_drop(&job->torch, job->found);
    job->found = NULL;
}
