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

enum { TYPES = 3 }; /* that a gradient can have */

/* _group_tensors_by_device_and_dtype: the type that is met last is the first, as a hash table of few keys has
 * it. */
static int types_of(const TorchJob *job, TorchType types[TYPES])
{
    int count = 0;
    for (size_t i = 0; i < job->parameter_count; i++) {
        const TorchTensor *p = job->parameters[i];
        int at = 0;
        while (at < count && types[at] != p->shape.type)
            at++;
        if (!p->grad || at < count)
            continue;
        memmove(types + 1, types, (size_t)count++ * sizeof *types);
        types[0] = p->shape.type;
    }
    return count;
}

/* _foreach_norm of the gradients of a type; the caller's frame names the norms. */
static int64_t norms(TorchJob *job, TorchType type)
{
    static const char op[] = "aten::_foreach_norm";
    Torch *t = &job->torch;
    int64_t count = 0, chunks = 0, most = 0;
    for (size_t i = 0; i < job->parameter_count; i++) {
        const TorchTensor *g = job->parameters[i]->grad;
        if (!g || g->shape.type != type)
            continue;
        count++;
        int64_t of_one = (torch_count(&g->shape) + CHUNK - 1) / CHUNK;
        chunks += of_one;
        most = of_one > most ? of_one : most;
    }
    int old = t->dialect->torch->norm_by_chunks;
    TorchTensor *starts = torch_bytes_of(t, op, old ? 0 : 8 * (count + 1));
    TorchTensor *partial = torch_bytes_of(t, op, 4 * (old ? count * most : chunks));
    for (int64_t i = 0; i < count; i++)
        torch_name(t, number(t, op, type));
    torch_drop(t, partial);
    torch_drop(t, starts);
    return count;
}

/* _NormPartial's reduction: squares, their sum over the ranks, roots */
static TorchTensor *of_all_ranks(Torch *t, const TorchTensor *norms)
{
    TorchTensor *squares = torch_empty(t, "aten::pow", norms->shape);
    TorchTensor *sums = torch_empty(t, "aten::empty_like", norms->shape);
    TorchTensor *roots = torch_empty(t, "aten::pow", norms->shape);
    torch_drop(t, squares);
    torch_drop(t, sums);
    return roots;
}

/* torch.nn.utils.clip_grad_norm_: the norms of all gradients by foreach kernels, then that of the norms. */
TorchTensor *torch_clip(TorchJob *job)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    TorchType types[TYPES];
    int kinds = types_of(job, types);
    int64_t count = 0;
    if (!kinds)
        return NULL;
    for (int i = 0; i < kinds; i++)
        count += norms(job, types[i]);
    TorchType type = kinds > 1 ? TORCH_F32 : types[0];
    TorchTensor *all = torch_empty(t, "aten::stack", torch_shape(type, 1, &count));
    if (job->asked->parallel == PYTORCH_FSDP2)
        torch_name(t, of_all_ranks(t, torch_name(t, all)));
    TorchTensor *total = number(t, "aten::linalg_vector_norm", type);
    torch_used(t, all);
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

/* Old Trainers know the norms of Llama only, and let those of Qwen2 and Mistral decay. */
static int decays(const TorchJob *job, const TorchTensor *p)
{
    PytorchFamily family = job->asked->model.family;
    int unknown = family == PYTORCH_QWEN2 || family == PYTORCH_MISTRAL;
    const char *module = p->place.module;
    return p->shape.dims >= 2 || (unknown && job->torch.dialect->transformers->norms_decay && module &&
                                  strstr(module, "norm") != NULL);
}

/* Trainer has two groups of parameters: those that decay, and biases and norms, which do not. */
static int in_group(const TorchJob *job, const TorchTensor *p, int group)
{
    return p->grad && (job->asked->script == PYTORCH_LOOP || decays(job, p) != group);
}

/* _foreach_sqrt, a type after the other; the first one's roots live until the next one's are there */
static void roots(TorchJob *job, int group)
{
    Torch *t = &job->torch;
    TorchType types[TYPES];
    int count = types_of(job, types);
    size_t frame = torch_frame(t);
    for (int g = 0; g < count; g++) {
        size_t from = torch_frame(t);
        for (size_t i = 0; i < job->parameter_count; i++)
            if (in_group(job, job->parameters[i], group) && job->parameters[i]->shape.type == types[g])
                torch_name(t, like(t, "aten::_foreach_sqrt", job->parameters[i]));
        for (size_t i = frame; i < from; i++)
            torch_delete(t, t->frames[i]);
    }
    torch_leave(t, frame, NULL);
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
    roots(job, group);
}

/* foreach=False: each parameter by itself; its denominator lives until the next one's is there */
static void adamw_single(TorchJob *job, int group)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    TorchTensor *denominator = NULL;
    for (size_t i = 0; i < job->parameter_count; i++) {
        if (!in_group(job, job->parameters[i], group))
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
    TorchPlace place = job->torch.place;
    for (size_t i = 0; first && i < job->parameter_count; i++) {
        job->torch.place = job->parameters[i]->place;
        if (in_group(job, job->parameters[i], group))
            keep_state(job, torch_clone(&job->torch, job->parameters[i]->grad, 0));
    }
    job->torch.place = place;
}

/* ---- bitsandbytes ---------------------------------------------------------------------------- */

enum { SMALLEST = 4096, PAGED = 100000, SCALE_BLOCK = 256, MAP = 256 };

static TorchTensor *zeros(Torch *t, const char *op, TorchType type, int64_t count)
{
    return torch_empty(t, op, torch_shape(type, 1, &count));
}

/* Trainer asks for 32 bits for embeddings, but where it looks for Adam8bit and finds AdamW. */
static int embedding(const TorchJob *job, const TorchTensor *p)
{
    static const char *const names[] = {"embed_tokens.", "_embeddings.", "wte.", "wpe."};
    int asks =
        job->asked->script == PYTORCH_TRAINER && !job->torch.dialect->transformers->embeddings_of_8_bits;
    for (size_t i = 0; asks && i < job->entry_count; i++)
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
    TorchPlace place = t->place;
    int paged = job->asked->optimizer == PYTORCH_ADAMW_8BIT_PAGED;
    for (size_t i = 0; first && i < job->parameter_count; i++) {
        TorchTensor *p = job->parameters[i];
        if (!in_group(job, p, group))
            continue;
        int64_t count = torch_count(&p->shape);
        int wide = count < SMALLEST || embedding(job, p);
        for (; !wide && job->maps < 2; job->maps++)
            keep_state(job, zeros(t, "aten::_to_copy", TORCH_F32, MAP));
        t->place = p->place;
        for (int s = 0; s < 2 && !(paged && count >= PAGED); s++)
            keep_state(job, zeros(t, "aten::zeros_like", wide ? TORCH_F32 : TORCH_U8, count));
        for (int s = 0; s < 2 && !wide; s++)
            keep_state(job, zeros(t, "aten::zeros", TORCH_F32, (count + SCALE_BLOCK - 1) / SCALE_BLOCK));
        t->place = place;
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
        adamw_single(job, group);
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
    int fused =
        job->asked->optimizer == PYTORCH_ADAMW_FUSED; /* is given the sum over devices of what was found */
    TorchTensor *found = job->found && fused ? number(&job->torch, "aten::add", TORCH_F32) : NULL;
    TorchTensor *scale = found && !job->unscaled ? number(&job->torch, "aten::mul", TORCH_F32) : NULL;
    for (int group = 0; group < groups; group++)
        update(job, group, first);
    torch_used(&job->torch, found);
    torch_used(&job->torch, scale);
}

void torch_zero(TorchJob *job)
{
    if (job->asked->keep_gradients) /* zeroed in place */
        return;
    for (size_t i = 0; i < job->parameter_count; i++) {
        torch_drop(&job->torch, job->parameters[i]->grad);
        job->parameters[i]->grad = NULL;
    }
}
