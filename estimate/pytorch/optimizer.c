/* Clipping, updates, and zeroing, as torch.nn.utils and torch.optim do them. */
#include <string.h>

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
TorchTensor *torch_clip(TorchJob *job)
{
    static const char op[] = "aten::_foreach_norm";
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    int64_t count = 0, chunks = 0, most = 0;
    TorchType type = TORCH_F32;
    for (size_t i = 0; i < job->parameter_count; i++) {
        TorchTensor *g = job->parameters[i]->grad;
        if (!g)
            continue;
        count++;
        int64_t of_one = (torch_count(&g->shape) + CHUNK - 1) / CHUNK;
        chunks += of_one;
        most = of_one > most ? of_one : most;
        type = g->shape.type;
    }
    if (!count)
        return NULL;
    int old = t->dialect->torch->norm_by_chunks;
    TorchTensor *starts = torch_bytes_of(t, op, old ? 0 : 8 * (count + 1));
    TorchTensor *partial = torch_bytes_of(t, op, 4 * (old ? count * most : chunks));
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
    return torch_leave(t, frame, total);
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

/* Trainer has two groups of parameters: those that decay, and biases and norms, which do not. */
static int in_group(const TorchJob *job, const TorchTensor *p, int group)
{
    return p->grad && (job->asked->script == PYTORCH_LOOP || (p->shape.dims < 2) == group);
}

static void adamw(TorchJob *job, int group, int first)
{
    Torch *t = &job->torch;
    PytorchOptimizer optimizer = job->asked->optimizer;
    for (size_t i = 0; first && i < job->parameter_count; i++) {
        TorchTensor *p = job->parameters[i];
        if (!in_group(job, p, group))
            continue;
        if (optimizer == PYTORCH_ADAMW_FUSED)
            keep_state(job, number(t, "aten::zeros", TORCH_F32));
        keep_state(job, like(t, "aten::zeros_like", p));
        keep_state(job, like(t, "aten::zeros_like", p));
    }
    if (optimizer != PYTORCH_ADAMW)
        return;
    size_t frame = torch_frame(t);
    for (size_t i = 0; i < job->parameter_count; i++)
        if (in_group(job, job->parameters[i], group))
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
static void sgd_momentum(TorchJob *job, int group, int first)
{
    for (size_t i = 0; first && i < job->parameter_count; i++)
        if (in_group(job, job->parameters[i], group))
            keep_state(job, torch_clone(&job->torch, job->parameters[i]->grad, 0));
}

/* ---- bitsandbytes ---------------------------------------------------------------------------- */

enum { SMALLEST = 4096, PAGED = 100000, SCALE_BLOCK = 256, MAP = 256 };

static TorchTensor *zeros(Torch *t, const char *op, TorchType type, int64_t count)
{
    return torch_empty(t, op, torch_shape(type, 1, &count));
}

/* Trainer asks for 32 bits for embeddings. */
static int embedding(const TorchJob *job, const TorchTensor *p)
{
    static const char *const names[] = {"embed_tokens.", "_embeddings.", "wte.", "wpe."};
    for (size_t i = 0; job->asked->script == PYTORCH_TRAINER && i < job->entry_count; i++)
        for (size_t n = 0; job->entries[i].x == p && n < sizeof names / sizeof *names; n++)
            if (strstr(job->entries[i].name, names[n]))
                return 1;
    return 0;
}

/* Two states of 8 bits and their scales; float32 for what is small; paged ones are managed memory, which
 * PyTorch's allocator does not give. */
static void adamw_8bit(TorchJob *job, int group, int first)
{
    Torch *t = &job->torch;
    int paged = job->asked->optimizer == PYTORCH_ADAMW_8BIT_PAGED;
    for (size_t i = 0; first && i < job->parameter_count; i++) {
        TorchTensor *p = job->parameters[i];
        if (!in_group(job, p, group))
            continue;
        int64_t count = torch_count(&p->shape);
        int wide = count < SMALLEST || embedding(job, p);
        for (; !wide && job->maps < 2; job->maps++)
            keep_state(job, zeros(t, "aten::_to_copy", TORCH_F32, MAP));
        for (int s = 0; s < 2 && !(paged && count >= PAGED); s++)
            keep_state(job, zeros(t, "aten::zeros_like", wide ? TORCH_F32 : TORCH_U8, count));
        for (int s = 0; s < 2 && !wide; s++)
            keep_state(job, zeros(t, "aten::zeros", TORCH_F32, (count + SCALE_BLOCK - 1) / SCALE_BLOCK));
    }
}

static void update(TorchJob *job, int group, int first)
{
    switch (job->asked->optimizer) {
    case PYTORCH_ADAMW:
    case PYTORCH_ADAMW_FUSED:
        adamw(job, group, first);
        break;
    case PYTORCH_ADAMW_SINGLE:
        adamw(job, group, first);
        adamw_single(job);
        break;
    case PYTORCH_SGD_MOMENTUM:
        sgd_momentum(job, group, first);
        break;
    case PYTORCH_ADAMW_8BIT:
    case PYTORCH_ADAMW_8BIT_PAGED:
        adamw_8bit(job, group, first);
        break;
    default:
        break;
    }
}

void torch_step(TorchJob *job)
{
    int first = !job->state_count, groups = job->asked->script == PYTORCH_TRAINER ? 2 : 1;
    int fused = job->asked->optimizer == PYTORCH_ADAMW_FUSED; /* is given the sum over devices of what was found */
    TorchTensor *found = job->found && fused ? number(&job->torch, "aten::add", TORCH_F32) : NULL;
    for (int group = 0; group < groups; group++)
        update(job, group, first);
    torch_used(&job->torch, found);
}

void torch_zero(TorchJob *job)
{
    for (size_t i = 0; i < job->parameter_count; i++) {
        torch_drop(&job->torch, job->parameters[i]->grad);
        job->parameters[i]->grad = NULL;
    }
}
