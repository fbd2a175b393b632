/* Clipping, updates, and zeroing, as torch.nn.utils and torch.optim do them. */
#include "job_.h"

static TorchTensor **keep_state(TorchJob *job, TorchTensor *x)
{
    Torch *t = &job->torch;
    x->loose = 0;
    torch_mark(t, x, PYTORCH_OPTIMIZER_STATE);
    job->states = torch_grow(t, job->states, &job->state_capacity, job->state_count + 1, sizeof *job->states);
    job->states[job->state_count] = x;
    return &job->states[job->state_count++];
}

/* ---- Clipping -------------------------------------------------------------------------------- */

enum { CHUNK = 65536 }; /* elements that a block of the foreach kernels takes */

static TorchTensor *number(Torch *t, const char *op, TorchType type)
{
    return torch_empty(t, op, torch_shape(type, 0, NULL));
}

/* torch.nn.utils.clip_grad_norm_: the norms of all gradients by a foreach kernel, then that of the norms. */
void torch_clip(TorchJob *job)
{
    static const char op[] = "aten::_foreach_norm";
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    int64_t count = 0, chunks = 0;
    TorchType type = TORCH_F32;
    for (size_t i = 0; i < job->parameter_count; i++) {
        TorchTensor *g = job->parameters[i]->grad;
        if (!g)
            continue;
        count++;
        chunks += (torch_count(&g->shape) + CHUNK - 1) / CHUNK;
        type = g->shape.type;
    }
    if (!count)
        return;
    TorchTensor *starts = torch_empty(t, op, torch_shape(TORCH_I64, 1, (int64_t[]){count + 1}));
    TorchTensor *partial = torch_empty(t, op, torch_shape(TORCH_F32, 1, &chunks));
    for (int64_t i = 0; i < count; i++)
        torch_name(t, number(t, op, type));
    torch_drop(t, partial);
    torch_drop(t, starts);
    TorchTensor *all = torch_empty(t, "aten::stack", torch_shape(type, 1, &count));
    TorchTensor *total = number(t, "aten::linalg_vector_norm", type);
    torch_drop(t, all);
    torch_leave(t, frame, NULL);
    torch_name(t, total);
    TorchTensor *sum = torch_plus(t, total);
    TorchTensor *inverse = number(t, "aten::reciprocal", type);
    TorchTensor *factor = torch_name(t, number(t, "aten::mul", type));
    torch_drop(t, inverse);
    torch_drop(t, sum);
    torch_name(t, number(t, "aten::clamp", type));
    (void)factor;
    torch_leave(t, frame, NULL);
}

/* ---- Updates --------------------------------------------------------------------------------- */

/* Of a parameter: it stands where that does. */
static TorchTensor *like(Torch *t, const char *op, const TorchTensor *x)
{
    TorchPlace place = t->place;
    t->place = x->place;
    TorchTensor *y = torch_empty(t, op, torch_shape(x->shape.type, x->shape.dims, x->shape.size));
    t->place = place;
    return y;
}

static void adamw(TorchJob *job)
{
    Torch *t = &job->torch;
    int first = !job->state_count, fused = job->asked->optimizer == PYTORCH_ADAMW_FUSED;
    for (size_t i = 0; first && i < job->parameter_count; i++) {
        TorchTensor *p = job->parameters[i];
        if (!p->grad)
            continue;
        if (fused)
            keep_state(job, number(t, "aten::zeros", TORCH_F32));
        keep_state(job, like(t, "aten::zeros_like", p));
        keep_state(job, like(t, "aten::zeros_like", p));
    }
    if (job->asked->optimizer != PYTORCH_ADAMW)
        return;
    size_t frame = torch_frame(t);
    for (size_t i = 0; i < job->parameter_count; i++)
        if (job->parameters[i]->grad)
            torch_name(t, like(t, "aten::_foreach_sqrt", job->parameters[i]));
    torch_leave(t, frame, NULL);
}

/* foreach=False: each parameter by itself; its denominator lives until the next one's is there */
static void adamw_single(TorchJob *job)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    TorchTensor *denominator = NULL;
    for (size_t i = 0; i < job->parameter_count; i++) {
        if (!job->parameters[i]->grad)
            continue;
        TorchTensor *root = like(t, "aten::sqrt", job->parameters[i]);
        denominator = torch_rebind(t, denominator, like(t, "aten::div", job->parameters[i]));
        torch_drop(t, root);
    }
    torch_leave(t, frame, NULL);
}

/* The first gradients' copies become the momenta. */
static void sgd_momentum(TorchJob *job)
{
    int first = !job->state_count;
    for (size_t i = 0; first && i < job->parameter_count; i++) {
        TorchTensor *g = job->parameters[i]->grad;
        if (g)
            keep_state(job, torch_clone(&job->torch, g, 0));
    }
}

/* ---- bitsandbytes ---------------------------------------------------------------------------- */

enum { SMALLEST = 4096, PAGED = 100000, SCALE_BLOCK = 256, MAP = 256 };

static TorchTensor *zeros(Torch *t, const char *op, TorchType type, int64_t count)
{
    return torch_empty(t, op, torch_shape(type, 1, &count));
}

/* Two states of 8 bits and their scales; float32 for what is small; paged ones are managed memory, which
 * PyTorch's allocator does not give. */
static void adamw_8bit(TorchJob *job)
{
    Torch *t = &job->torch;
    int first = !job->state_count, maps = 0, paged = job->asked->optimizer == PYTORCH_ADAMW_8BIT_PAGED;
    for (size_t i = 0; first && i < job->parameter_count; i++) {
        TorchTensor *p = job->parameters[i];
        int64_t count = torch_count(&p->shape);
        int small = count < SMALLEST;
        if (!p->grad)
            continue;
        for (; !small && maps < 2; maps++)
            keep_state(job, zeros(t, "aten::_to_copy", TORCH_F32, MAP));
        for (int s = 0; s < 2 && !(paged && count >= PAGED); s++)
            keep_state(job, zeros(t, "aten::zeros_like", small ? TORCH_F32 : TORCH_U8, count));
        for (int s = 0; s < 2 && !small; s++)
            keep_state(job, zeros(t, "aten::zeros", TORCH_F32, (count + SCALE_BLOCK - 1) / SCALE_BLOCK));
    }
}

void torch_step(TorchJob *job)
{
    switch (job->asked->optimizer) {
    case PYTORCH_ADAMW:
    case PYTORCH_ADAMW_FUSED:
        adamw(job);
        break;
    case PYTORCH_ADAMW_SINGLE:
        adamw(job);
        adamw_single(job);
        break;
    case PYTORCH_SGD_MOMENTUM:
        sgd_momentum(job);
        break;
    case PYTORCH_ADAMW_8BIT:
    case PYTORCH_ADAMW_8BIT_PAGED:
        adamw_8bit(job);
        break;
    default:
        break;
    }
}

void torch_zero(TorchJob *job)
{
    for (size_t i = 0; i < job->parameter_count; i++) {
        torch_drop(&job->torch, job->parameters[i]->grad);
        job->parameters[i]->grad = NULL;
    }
}
