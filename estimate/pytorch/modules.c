/* Modules that families share, as transformers writes them. */
#include "job_.h"

TorchPlace torch_enter(Torch *t, const char *module)
{
    TorchPlace old = t->place;
    t->place.module = module;
    return old;
}

/* ---- Parameters ------------------------------------------------------------------------------ */

TorchTensor *torch_parameter(TorchJob *job, int dims, const int64_t *size)
{
    Torch *t = &job->torch;
    TorchTensor *p = torch_leaf(t, "parameter", PYTORCH_PARAMETER, torch_shape(job->weights, dims, size), 1);
    job->parameters = torch_grow(t, job->parameters, &job->parameter_capacity, job->parameter_count + 1,
                                 sizeof *job->parameters);
    return job->parameters[job->parameter_count++] = p;
}

TorchTensor *torch_buffer(TorchJob *job, TorchType type, int dims, const int64_t *size)
{
    return torch_leaf(&job->torch, "buffer", PYTORCH_BUFFER, torch_shape(type, dims, size), 0);
}

TorchLinear torch_make_linear(TorchJob *job, int64_t in, int64_t out, int bias)
{
    TorchLinear linear = {.weight = torch_parameter(job, 2, (int64_t[]){out, in})};
    if (bias)
        linear.bias = torch_parameter(job, 1, &out);
    return linear;
}

TorchNorm torch_make_norm(TorchJob *job, int64_t size)
{
    TorchNorm norm = {.weight = torch_parameter(job, 1, &size)};
    norm.bias = torch_parameter(job, 1, &size);
    return norm;
}

void torch_parameter_first(TorchJob *job, size_t place)
{
    TorchTensor *last = job->parameters[job->parameter_count - 1];
    for (size_t i = job->parameter_count - 1; i > place; i--)
        job->parameters[i] = job->parameters[i - 1];
    job->parameters[place] = last;
}

TorchTensor *torch_project(TorchJob *job, const TorchLinear *linear, TorchTensor *x)
{
    return torch_linear(&job->torch, x, linear->weight, linear->bias);
}

/* ---- Norm ------------------------------------------------------------------------------------ */

TorchTensor *torch_rms_norm(Torch *t, TorchTensor *x, TorchTensor *weight)
{
    size_t frame = torch_frame(t);
    TorchType type = x->shape.type;
    torch_name(t, x); /* a module's arguments live as long as its call */
    TorchTensor *h = torch_name(t, torch_cast(t, x, TORCH_F32));
    TorchTensor *variance = torch_name(t, torch_mean_last(t, torch_pow(t, h, 2)));
    h = torch_rebind(t, h, torch_mul(t, h, torch_rsqrt(t, torch_plus(t, variance))));
    return torch_leave(t, frame, torch_mul(t, weight, torch_cast(t, h, type)));
}

TorchTensor *torch_norm(Torch *t, const char *module, const TorchNorm *norm, TorchTensor *x)
{
    TorchPlace up = torch_enter(t, module);
    TorchTensor *y = torch_layer_norm(t, x, norm->weight, norm->bias);
    t->place = up;
    return y;
}

/* ---- Layers ---------------------------------------------------------------------------------- */

TorchTensor *torch_layer(TorchJob *job, TorchFunction *layer, TorchTensor *x, TorchTensor *const *also)
{
    PytorchCheckpoint how = job->asked->checkpoint;
    if (how == PYTORCH_KEEP)
        return layer(&job->torch, job, x);
    return torch_checkpoint(&job->torch, layer, job, x, also, how == PYTORCH_CHECKPOINT_REENTRANT);
}

/* ---- Loss ------------------------------------------------------------------------------------ */

void torch_hold(TorchJob *job, TorchTensor *x)
{
    job->held = torch_grow(&job->torch, job->held, &job->held_capacity, job->held_count + 1, sizeof *job->held);
    x->refs++;
    job->held[job->held_count++] = x;
}

/* ForCausalLMLoss: the labels are padded by one and moved, not the logits. */
TorchTensor *torch_causal_loss(TorchJob *job, TorchTensor *logits, TorchTensor *labels)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    int64_t batch = labels->shape.size[0], seq = labels->shape.size[1], vocab = job->asked->model.vocab;
    TorchTensor *x = torch_name(t, torch_cast(t, logits, TORCH_F32));
    int64_t wider[] = {batch, seq + 1}, rows[] = {batch * seq, vocab}, flat = batch * seq;
    TorchTensor *padded = torch_name(t, torch_empty(t, "aten::constant_pad_nd", torch_shape(TORCH_I64, 2, wider)));
    TorchTensor *moved = torch_name(t, torch_make_contiguous(t, torch_slice(t, padded, 1, 1, seq + 1)));
    x = torch_rebind(t, x, torch_view(t, x, 2, rows));
    moved = torch_rebind(t, moved, torch_view(t, moved, 1, &flat));
    return torch_leave(t, frame, torch_cross_entropy(t, x, moved));
}
