/* A model's parameters: how they come to the card, in which order, and in which type they stay there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../memtrack/memtrack.h"
#include "job_.h"

static PytorchKind base_kind(const TorchJob *job)
{
    return job->asked->lora_rank ? PYTORCH_FROZEN : PYTORCH_PARAMETER;
}

/* ---- Making ---------------------------------------------------------------------------------- */

static TorchEntry *enter(TorchJob *job, const char *name, TorchTensor *x)
{
    Torch *t = &job->torch;
    job->entries =
        torch_grow(t, job->entries, &job->entry_capacity, job->entry_count + 1, sizeof *job->entries);
    TorchEntry *e = &job->entries[job->entry_count++];
    *e = (TorchEntry){.place = t->place, .x = x};
    const char *format = t->dialect->transformers->loads_by_characters ? "%s.%d.%s" : "%s.%06d.%s";
    if (t->place.layer >= 0)
        snprintf(e->name, sizeof e->name, format, job->list ? job->list : "", t->place.layer, name);
    else
        snprintf(e->name, sizeof e->name, "%s", name);
    return e;
}

void torch_trained(TorchJob *job, TorchTensor *x)
{
    job->parameters = torch_grow(&job->torch, job->parameters, &job->parameter_capacity,
                                 job->parameter_count + 1, sizeof *job->parameters);
    job->parameters[job->parameter_count++] = x;
}

int torch_comes_later(const TorchJob *job)
{
    return job->asked->quantize || job->asked->parallel == PYTORCH_FSDP2;
}

static TorchTensor *make(TorchJob *job, const char *name, int dims, const int64_t *size,
                         TorchQuantized *quantized)
{
    Torch *t = &job->torch;
    int trained = !job->asked->lora_rank && !quantized;
    TorchShape shape = torch_shape(job->weights, dims, size);
    TorchTensor *x = torch_comes_later(job) ? torch_meta(t, shape, trained)
                                            : torch_leaf(t, "aten::_to_copy", base_kind(job), shape, trained);
    enter(job, name, x)->quantized = quantized;
    return x;
}

TorchTensor *torch_parameter(TorchJob *job, const char *name, int dims, const int64_t *size)
{
    return make(job, name, dims, size, NULL);
}

TorchTensor *torch_buffer(TorchJob *job, TorchType type, int dims, const int64_t *size)
{
    Torch *t = &job->torch;
    TorchShape shape = torch_shape(type, dims, size);
    TorchTensor *x = torch_comes_later(job) ? torch_meta(t, shape, 0)
                                            : torch_leaf(t, "aten::_to_copy", PYTORCH_BUFFER, shape, 0);
    if (job->asked->quantize)
        enter(job, "", x)->buffer = 1;
    job->buffers =
        torch_grow(t, job->buffers, &job->buffer_capacity, job->buffer_count + 1, sizeof *job->buffers);
    return job->buffers[job->buffer_count++] = x;
}

void torch_parameter_first(TorchJob *job, size_t place)
{
    TorchEntry last = job->entries[job->entry_count - 1];
    last.own = 1;
    for (size_t i = job->entry_count - 1; i > place; i--)
        job->entries[i] = job->entries[i - 1];
    job->entries[place] = last;
}

static TorchTensor *bias_of(TorchJob *job, const char *name, int64_t size)
{
    char full[64];
    snprintf(full, sizeof full, "%s.bias", name);
    return make(job, full, 1, &size, NULL);
}

static TorchTensor *weight_of(TorchJob *job, const char *name, int dims, const int64_t *size,
                              TorchQuantized *quantized)
{
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    return make(job, full, dims, size, quantized);
}

TorchNorm torch_make_norm(TorchJob *job, const char *name, int64_t size)
{
    TorchNorm norm = {.weight = weight_of(job, name, 1, &size, NULL)};
    norm.bias = bias_of(job, name, size);
    return norm;
}

TorchLinear torch_make_head(TorchJob *job, const char *name, int64_t in, int64_t out, int bias)
{
    TorchLinear l = {.weight = weight_of(job, name, 2, (int64_t[]){out, in}, NULL)};
    if (bias)
        l.bias = bias_of(job, name, out);
    torch_copy_head(job, &l);
    return l;
}

TorchLinear torch_make_linear(TorchJob *job, const char *name, int64_t in, int64_t out, int bias)
{
    TorchLinear l = {.quantized = job->asked->quantize ? torch_new_quantized(job, in, out, 0) : NULL};
    l.weight = weight_of(job, name, 2, (int64_t[]){out, in}, l.quantized);
    if (bias)
        l.bias = bias_of(job, name, out);
    torch_target(job, &l, name, in, out);
    return l;
}

TorchLinear torch_make_conv(TorchJob *job, const char *name, int64_t in, int64_t out)
{
    TorchLinear l = {.turned = 1,
                     .quantized = job->asked->quantize ? torch_new_quantized(job, in, out, 1) : NULL};
    l.weight = weight_of(job, name, 2, (int64_t[]){in, out}, l.quantized);
    l.bias = bias_of(job, name, out);
    torch_target(job, &l, name, in, out);
    return l;
}

void torch_train(TorchJob *job)
{
    for (size_t i = 0; i < job->entry_count; i++)
        if (job->entries[i].x->needs_grad)
            torch_trained(job, job->entries[i].x);
}

/* ---- from_pretrained ------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const TorchEntry *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* caching_allocator_warmup: one allocation of all that is to come, freed at once; the cache has it then. */
static void warm_up(TorchJob *job)
{
    int half = job->torch.dialect->transformers->warms_for_half;
    double bytes = 0;
    for (size_t i = 0; i < job->entry_count; i++) {
        const TorchEntry *e = &job->entries[i];
        if (e->buffer || (half && !strcmp(e->name, "lm_head.weight"))) /* counted as tied, tied or not */
            continue;
        double each = torch_bytes(e->x->shape.type);
        bytes +=
            (double)torch_count(&e->x->shape) * (e->quantized && !half ? torch_quantized_bytes(job) : each);
    }
    torch_scratch(&job->torch, "aten::empty", (int64_t)(bytes / (half ? 4 : 2)) * 2);
}

static void sort(TorchJob *job)
{
    size_t count = 0;
    job->sorted = torch_grow(&job->torch, job->sorted, &job->sorted_capacity, job->entry_count + 1,
                             sizeof *job->sorted);
    for (int buffers = 0; buffers < 2; buffers++) {
        for (size_t i = 0; i < job->entry_count; i++)
            if (job->entries[i].buffer == buffers)
                job->sorted[count++] = &job->entries[i];
        if (!buffers)
            qsort(job->sorted, count, sizeof *job->sorted, by_name);
    }
}

/* convert_and_load_state_dict_in_model, or load_shard_file: by the checkpoint's names in order; buffers come
 * last. */
void torch_load(TorchJob *job)
{
    Torch *t = &job->torch;
    const TransformersEra *era = t->dialect->transformers;
    TorchPlace top = t->place;
    int checked = !era->dispatches;
    sort(job);
    if (!era->reads_on_host)
        warm_up(job);
    for (size_t i = 0; i < job->entry_count; i++) {
        TorchEntry *e = job->sorted[i];
        t->place = e->place;
        if (e->buffer && !checked) /* check_device_map */
            torch_state_dict(job);
        checked |= e->buffer;
        if (e->buffer)
            torch_set_data(t, "aten::empty_permuted", e->x, e->x->shape, PYTORCH_BUFFER);
        else if (e->quantized)
            torch_quantize(job, e->quantized, e->x);
        else
            torch_set_data(t, "aten::_to_copy", e->x, e->x->shape, base_kind(job));
    }
    t->place = top;
    if (era->dispatches_by_hooks)
        torch_hook(job);
}

/* All parameters of 16 bits become float32, and what that leaves in the cache is given back. */
void torch_prepare(TorchJob *job)
{
    Torch *t = &job->torch;
    for (size_t i = 0; i < job->entry_count; i++) {
        TorchEntry *e = &job->entries[i];
        TorchShape shape = e->x->shape;
        if (e->buffer || (shape.type != TORCH_BF16 && shape.type != TORCH_F16))
            continue;
        shape.type = TORCH_F32;
        torch_set_data(t, "aten::_to_copy", e->x, shape, base_kind(job));
    }
    torch_empty_cache(t);
}
