/* Filling tensors: with a value, or with random numbers from a stream of their own. A number depends on its
 * place in the tensor alone, and is rounded to the tensor's type. Every device draws the
 * same bits, so that a model starts from the same weights everywhere; what a card does not hold as f32 the
 * host draws for it. */
#include <string.h>

#include "../kernels/kernels.h"
#include "ranks_.h"

typedef void Draw(int64_t n, uint64_t seed, uint64_t stream, int64_t first, float a, float b, float *y,
                  const KernelRun *run);

typedef struct Filling {
    const Context *context;
    const Tensor *tensor;
    Draw *draw; /* NULL: a, everywhere */
    uint64_t stream;
    float a, b;
} Filling;

/* Kernels draw four numbers at a time. */
static void draw(const Filling *f, int64_t first, int64_t count, float *values)
{
    const Context *c = f->context;
    int64_t skip = first % 4, some = skip && 4 - skip < count ? 4 - skip : skip ? count : 0;
    float four[4];
    if (some) {
        f->draw(4, c->seed, f->stream, first - skip, f->a, f->b, four, &c->host_run);
        memcpy(values, four + skip, (size_t)some * sizeof *values);
    }
    if (count > some)
        f->draw(count - some, c->seed, f->stream, first + some, f->a, f->b, values + some, &c->host_run);
}

/* Of a part, what the whole has there, and 0 where that ends. */
static int filled(void *user, int64_t first, int64_t count, float *values)
{
    const Filling *f = user;
    const Context *c = f->context;
    int64_t whole = tensor_whole_numel_(f->tensor);
    for (int64_t done = 0, n; done < count; done += n) {
        n = count - done;
        int64_t place = tensor_place_(f->tensor, first + done, &n), left = whole - place;
        int64_t some = left < 0 ? 0 : left < n ? left : n;
        if (f->draw && some)
            draw(f, place, some, values + done);
        else if (some)
            c->host_kernels->fill(DTYPE_F32, some, f->a, values + done, &c->host_run);
        memset(values + done + some, 0, (size_t)(n - some) * sizeof *values); /* padding */
    }
    return 0;
}

static int holds_floats(const Tensor *tensor, const char *function)
{
    if (tensor->dtype != DTYPE_I32)
        return 1;
    error_raise(ERROR_ARGUMENT, "%s(): the tensor holds i32, not floats", function);
    return 0;
}

/* Where it is written as it is, and as a whole, on a card: nothing of it passes through the host. */
static float *on_card(const Tensor *tensor, const char *function)
{
    const Context *context = tensor->item.context;
    if (!context->card || context->meta || tensor->dtype != DTYPE_F32 || tensor->transposed ||
        tensor->piece || shard_is_apart(tensor) || error_code() || !tensor_readable(tensor, function))
        return NULL;
    return storage_f32(tensor->storage);
}

void tensor_fill(Tensor *tensor, float value)
{
    if (!tensor || !holds_floats(tensor, "tensor_fill"))
        return;
    const Context *context = tensor->item.context;
    float *there = on_card(tensor, "tensor_fill");
    if (there)
        context->kernels->fill(DTYPE_F32, shape_numel(tensor->shape), value, there, &context->run);
    else
        tensor_store_(tensor, filled, &(Filling){.context = context, .tensor = tensor, .a = value});
}

static void fill_drawn(Tensor *tensor, const char *function, int uniform, float a, float b)
{
    Context *context = tensor->item.context;
    const Kernels *host = context->host_kernels, *k = context->kernels;
    uint64_t stream = context->random.fills++;
    if (!holds_floats(tensor, function) || context->draw_later)
        return;
    float *there = on_card(tensor, function);
    Filling f = {.context = context,
                 .tensor = tensor,
                 .draw = uniform ? host->fill_uniform : host->fill_normal,
                 .stream = stream,
                 .a = a,
                 .b = b};
    if (there)
        (uniform ? k->fill_uniform : k->fill_normal)(shape_numel(tensor->shape), context->seed, stream, 0, a,
                                                     b, there, &context->run);
    else
        tensor_store_(tensor, filled, &f);
}

void tensor_fill_normal(Tensor *tensor, float mean, float std)
{
    if (tensor)
        fill_drawn(tensor, "tensor_fill_normal", 0, mean, std);
}

void tensor_fill_uniform(Tensor *tensor, float low, float high)
{
    if (tensor)
        fill_drawn(tensor, "tensor_fill_uniform", 1, low, high);
}
