/* LoRA as PEFT adds it: the adapters' weights, and their part of a projection. */
#include <string.h>

#include "job_.h"

struct TorchAdapter {
    TorchPlace place;
    int64_t in, out;
    TorchType type; /* of what it stands beside, or float32 */
    TorchTensor *a, *b;
    const TorchTensor *beside; /* the last tensor of the layer */
    TorchAdapter *next;
};

/* ---- Weights --------------------------------------------------------------------------------- */

/* Whether the model comes to the card with its adapters, as Trainer and FSDP2 move it, cast already. */
static int moved(const TorchJob *job)
{
    return (job->asked->script == PYTORCH_TRAINER && !job->asked->quantize) ||
           job->asked->parallel == PYTORCH_FSDP2;
}

/* The type of the layer that is adapted; whole numbers leave the adapter as it was made. */
static TorchType adapter_type(const TorchJob *job)
{
    const PytorchJob *a = job->asked;
    if (moved(job))
        return a->lora_in_base_type ? job->weights : TORCH_F32;
    if (a->quantize == PYTORCH_INT8 || (a->quantize && job->torch.dialect->peft->no_compute_type))
        return TORCH_F32;
    if (a->quantize)
        return torch_compute_type(job);
    return a->kbit_prepare ? TORCH_F32 : job->weights;
}

static TorchTensor *weight(TorchJob *job, int64_t out, int64_t in)
{
    TorchShape shape = torch_shape(adapter_type(job), 2, (int64_t[]){out, in});
    if (job->asked->parallel == PYTORCH_FSDP2)
        return torch_meta(&job->torch, shape, 1);
    return torch_leaf(&job->torch, "aten::_to_copy", PYTORCH_PARAMETER, shape, 1);
}

static void make(TorchJob *job, TorchAdapter *a)
{
    a->a = weight(job, job->asked->lora_rank, a->in);
    a->b = weight(job, a->out, job->asked->lora_rank);
}

/* ---- Targets --------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int target;
} targets[] = {
    {"q_proj", PYTORCH_Q},       {"k_proj", PYTORCH_K},       {"v_proj", PYTORCH_V},
    {"o_proj", PYTORCH_O},       {"gate_proj", PYTORCH_GATE}, {"up_proj", PYTORCH_UP},
    {"down_proj", PYTORCH_DOWN}, {"c_attn", PYTORCH_C_ATTN},  {"c_proj", PYTORCH_C_PROJ},
    {"c_fc", PYTORCH_C_FC},      {"query", PYTORCH_QUERY},    {"key", PYTORCH_KEY},
    {"value", PYTORCH_VALUE},    {"dense", PYTORCH_DENSE},
};

void torch_target(TorchJob *job, TorchLinear *linear, const char *name, int64_t in, int64_t out)
{
    const char *last = strrchr(name, '.');
    int wanted = 0;
    last = last ? last + 1 : name;
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
        if (!strcmp(targets[i].name, last))
            wanted = targets[i].target & job->asked->lora_targets;
    if (!job->asked->lora_rank || !wanted)
        return;
    TorchAdapter *a = torch_take(&job->torch, sizeof *a);
    *a = (TorchAdapter){.place = job->torch.place,
                        .in = in,
                        .out = out,
                        .beside = linear->bias ? linear->bias : linear->weight};
    if (!job->last_adapter)
        job->last_adapter = &job->adapters;
    *job->last_adapter = a;
    job->last_adapter = &a->next;
    linear->adapter = a;
    if (moved(job))
        make(job, a);
}

static void fill_copies(TorchJob *job)
{
    for (int i = 0; i < 2; i++)
        if (job->copies[i] && job->asked->parallel != PYTORCH_FSDP2)
            torch_set_data(&job->torch, "aten::clone", job->copies[i], job->copied[i]->shape,
                           PYTORCH_PARAMETER);
}

void torch_copy_head(TorchJob *job, TorchLinear *head)
{
    TorchTensor **parts[] = {&head->weight, &head->bias};
    if (!job->asked->lora_rank || !job->asked->model.labels)
        return;
    for (int i = 0; i < 2; i++) {
        if (!*parts[i])
            continue;
        job->copied[i] = *parts[i];
        *parts[i] = job->copies[i] = torch_meta(&job->torch, (*parts[i])->shape, 1);
    }
    if (moved(job))
        fill_copies(job);
}

/* ---- get_peft_model -------------------------------------------------------------------------- */

static void cast(TorchJob *job, TorchTensor *x)
{
    TorchShape shape = x->shape;
    shape.type = TORCH_F32;
    if (x->shape.type != TORCH_F32 && !job->asked->lora_in_base_type)
        torch_set_data(&job->torch, "aten::_to_copy", x, shape, PYTORCH_PARAMETER);
    torch_trained(job, x);
}

void torch_adapt(TorchJob *job)
{
    TorchPlace top = job->torch.place;
    for (TorchAdapter *a = job->adapters; a && !moved(job); a = a->next) {
        job->torch.place = a->place;
        make(job, a);
    }
    int last = job->torch.dialect->peft->copies_last;
    if (!moved(job) && !last)
        fill_copies(job);
    for (TorchAdapter *a = job->adapters; a; a = a->next) { /* cast_adapter_dtype */
        job->torch.place = a->place;
        cast(job, a->a);
        cast(job, a->b);
    }
    if (!moved(job) && last)
        fill_copies(job);
    for (int i = 0; i < 2; i++)
        if (job->copies[i])
            torch_trained(job, job->copies[i]);
    job->torch.place = top;
}

TorchTensor *torch_adapter_beside(const TorchJob *job, const TorchTensor *x, int which)
{
    for (const TorchAdapter *a = job->adapters; a; a = a->next)
        if (a->beside == x)
            return which ? a->b : a->a;
    return NULL;
}

/* Under an old Trainer only prepare_model_for_kbit_training asks, for the reentrant kind. */
TorchTensor *torch_ask_gradient(TorchJob *job, TorchTensor *embedded)
{
    const PytorchJob *a = job->asked;
    int old = job->torch.dialect->transformers->asks_no_gradient && a->script == PYTORCH_TRAINER;
    int prepared = a->quantize && a->kbit_prepare && a->checkpoint == PYTORCH_CHECKPOINT_REENTRANT;
    if (a->lora_rank && a->checkpoint != PYTORCH_KEEP && !embedded->needs_grad && (!old || prepared))
        embedded->asked = embedded->needs_grad = 1;
    return embedded;
}

/* ---- Forward --------------------------------------------------------------------------------- */

static TorchTensor *base(Torch *t, const TorchLinear *linear, TorchTensor *x)
{
    return linear->turned ? torch_conv(t, linear, x) : torch_linear(t, x, linear->weight, linear->bias);
}

static TorchTensor *update(TorchJob *job, const TorchAdapter *a, TorchTensor *x)
{
    Torch *t = &job->torch;
    TorchTensor *down = torch_linear(t, torch_dropout(t, x, job->asked->lora_dropout), a->a, NULL);
    return torch_scale(t, torch_linear(t, down, a->b, NULL));
}

/* lora.Linear */
static TorchTensor *plain(TorchJob *job, const TorchLinear *linear, TorchTensor *x)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    const TorchAdapter *a = linear->adapter;
    torch_name(t, x);
    TorchTensor *result = torch_name(t, base(t, linear, x));
    TorchType type = result->shape.type;
    TorchPlace up = torch_enter(t, "lora");
    x = torch_name(t, torch_cast(t, x, a->a->shape.type));
    TorchTensor *more = update(job, a, x);
    t->place = up;
    TorchTensor *sum = torch_add(t, result, more);
    result = torch_rebind(t, result, sum);
    result = torch_rebind(t, result, torch_cast(t, result, type));
    return torch_leave(t, frame, result);
}

/* lora.Linear4bit and lora.Linear8bitLt, which differ by a copy of the result */
static TorchTensor *quantized(TorchJob *job, const TorchLinear *linear, TorchTensor *x)
{
    Torch *t = &job->torch;
    size_t frame = torch_frame(t);
    const TorchAdapter *a = linear->adapter;
    int converts = t->autocast == TORCH_F32;
    torch_name(t, x);
    TorchTensor *result = torch_name(t, torch_quantized_linear(job, linear, x));
    if (job->asked->quantize != PYTORCH_INT8)
        result = torch_rebind(t, result, torch_clone(t, result, 0));
    TorchPlace up = torch_enter(t, "lora");
    if (converts)
        x = torch_name(t, torch_cast(t, x, a->a->shape.type));
    TorchTensor *output = torch_name(t, update(job, a, x));
    if (converts)
        output = torch_rebind(t, output, torch_cast(t, output, result->shape.type));
    t->place = up;
    result = torch_rebind(t, result, torch_add(t, result, output));
    return torch_leave(t, frame, result);
}

TorchTensor *torch_project(TorchJob *job, const TorchLinear *linear, TorchTensor *x)
{
    if (linear->adapter)
        return linear->quantized ? quantized(job, linear, x) : plain(job, linear, x);
    if (linear->quantized)
        return torch_quantized_linear(job, linear, x);
    return base(&job->torch, linear, x);
}
