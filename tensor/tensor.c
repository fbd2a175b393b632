/* Tensors' headers: shape, type, and where gradients go. Their storage lives separately (storage.c): the tape
 * keeps headers for routing, and storage only where backward reads it. */
#include <inttypes.h>

#include "card_.h"
#include "ranks_.h"

/* ---- Headers --------------------------------------------------------------------------------- */

/* The master of a 16-bit parameter that is trained, where the context's precision has one. Returns 0 or
 * raises. */
static int master_new(Tensor *tensor)
{
    Context *context = tensor->item.context;
    if (!context->precision.master || tensor->dtype != context->precision.weights || tensor->master ||
        shard_is_apart(tensor))
        return 0;
    int path = memtrack_path_set(context->tracker, tensor->path);
    tensor->master = storage_new(context, shard_master_elements(tensor) * (int64_t)sizeof(float), MEM_MASTER);
    memtrack_path_set(context->tracker, path);
    return tensor->master ? 0 : error_code();
}

static Tensor *tensor_of_item(ScopeItem *item)
{
    return (Tensor *)item; /* the item is the first member */
}

static void tensor_destroy_item(ScopeItem *item)
{
    Tensor *tensor = tensor_of_item(item);
    tensor_drop_data(tensor, DATA_RELEASED);
    if (tensor->leaf)
        tensor_drop_grad(tensor); /* others' gradients are on their way through the tape */
    tensor_unref(tensor);
}

static Tensor *header_new(DType dtype, Shape shape, MemComponent component)
{
    Context *context = context_here();
    Tensor *tensor = host_alloc(sizeof *tensor);
    if (!tensor)
        return NULL;
    tensor->shape = shape;
    tensor->dtype = tensor->grad_type = dtype;
    tensor->component = component;
    tensor->refs = 1;
    tensor->leaf = 1;
    tensor->path = memtrack_path(context->tracker);
    scope_adopt(&tensor->item, tensor_destroy_item);
    return tensor;
}

Tensor *tensor_wrap(DType dtype, Shape shape, Storage *storage)
{
    Tensor *tensor = storage ? header_new(dtype, shape, storage->block.component) : NULL;
    if (tensor)
        tensor->storage = storage;
    else
        storage_release(context_here(), storage);
    return tensor;
}

void tensor_retain(Tensor *tensor)
{
    tensor->refs++;
}

void tensor_unref(Tensor *tensor)
{
    if (--tensor->refs > 0)
        return;
    Context *context = tensor->item.context;
    scope_release(&tensor->item);
    storage_release(context, tensor->storage);
    storage_release(context, tensor->master);
    storage_release(context, tensor->grad);
    shard_free(tensor);
    gradient_set(tensor, NULL);
    if (tensor->grad_header) {
        tensor->grad_header->grad_of = NULL;
        tensor_unref(tensor->grad_header); /* the tape may hold it still */
    }
    host_free(context, tensor, sizeof *tensor);
}

void tensor_drop_data(Tensor *tensor, DataState state)
{
    if (tensor->shard && state == DATA_RELEASED) {
        storage_release(tensor->item.context, tensor->shard->weights);
        tensor->shard->weights = NULL;
    }
    if (!tensor->storage)
        return;
    storage_release(tensor->item.context, tensor->storage);
    storage_release(tensor->item.context, tensor->master);
    tensor->storage = tensor->master = NULL;
    tensor->state = state;
    tensor->donated = 0;
}

void tensor_free(Tensor *tensor)
{
    if (!tensor)
        return;
    if (tensor->grad_of) {
        tensor_drop_grad(tensor->grad_of);
        return;
    }
    scope_release(&tensor->item);
    tensor_destroy_item(&tensor->item);
}

int tensor_readable(const Tensor *tensor, const char *what)
{
    if (tensor->storage)
        return 1;
    if (tensor->absent) {
        error_raise(ERROR_STATE,
                    "%s: the parameter '%s' belongs to another stage of the model, on another rank", what,
                    tensor_name(tensor));
        return 0;
    }
    if (shard_is_apart(tensor)) {
        error_raise(
            ERROR_STATE,
            "%s: the parameter '%s' is divided among ranks, and whole only while an operation reads it", what,
            tensor_name(tensor));
        return 0;
    }
    const char *maker = tensor->op ? tensor->op : "tensor";
    const char *path = memtrack_path_name(tensor->item.context->tracker, tensor->path);
    if (tensor->state == DATA_DONATED)
        error_raise(ERROR_STATE, "%s: the %s made at '%s' was given away by tensor_donate", what, maker,
                    path);
    else if (tensor->grad_of)
        error_raise(ERROR_STATE, "%s: the gradient of the tensor '%s' made at '%s' was freed", what,
                    tensor_name(tensor->grad_of), path);
    else if (tensor->leaf)
        error_raise(ERROR_STATE, "%s: the data of the tensor '%s' made at '%s' was freed", what,
                    tensor_name(tensor), path);
    else
        error_raise(
            ERROR_STATE,
            "%s: the data of the %s made at '%s' was released by tensor_backward; call tensor_keep before",
            what, maker, path);
    return 0;
}

/* ---- Making ---------------------------------------------------------------------------------- */

Tensor *tensor_new(DType dtype, Shape shape, MemComponent component)
{
    Context *context = context_here();
    if (!context || context->error || !shape_valid(shape, "tensor_new"))
        return NULL;
    if ((unsigned)dtype >= DTYPE_COUNT) {
        error_raise(ERROR_ARGUMENT, "tensor_new(): there is no data type %d", (int)dtype);
        return NULL;
    }
    return tensor_wrap(dtype, shape, storage_new(context, (int64_t)shape_bytes(dtype, shape), component));
}

Tensor *tensor_from(DType dtype, Shape shape, MemComponent component, const void *values)
{
    Tensor *tensor = tensor_new(dtype, shape, component);
    if (tensor && tensor->storage->block.data && values)
        storage_write(tensor->storage, 0, tensor->storage->block.requested, values);
    return tensor;
}

Tensor *tensor_zeros(DType dtype, Shape shape, MemComponent component)
{
    Tensor *tensor = tensor_new(dtype, shape, component);
    if (tensor && tensor->storage->block.data)
        storage_clear(tensor->storage);
    return tensor;
}

/* Where ranks divide it, its storage is the parts of all of them, or apart. 0, or raises. */
int parameter_place_(Tensor *tensor, MemComponent component)
{
    Context *context = tensor->item.context;
    int failed = context->ranks ? shard_new(tensor, component) : 0;
    if (failed || shard_is_apart(tensor))
        return failed;
    tensor->storage = storage_new(context, shard_whole_bytes(tensor), component);
    return tensor->storage ? 0 : error_code();
}

static Tensor *parameter_new(DType dtype, Shape shape, MemComponent component, int trained)
{
    Context *context = context_here();
    if (!context || !context->ranks)
        return tensor_new(dtype, shape, component);
    if (context->error || !shape_valid(shape, "tensor_parameter"))
        return NULL;
    Tensor *tensor = header_new(dtype, shape, component);
    if (!tensor)
        return NULL;
    tensor->requires_grad = (unsigned char)trained;
    if (parameter_place_(tensor, component) == 0)
        return tensor;
    tensor_free(tensor);
    return NULL;
}

/* Another stage's: it has a shape and a name, and what is written to it is nowhere. */
static Tensor *parameter_absent(Context *context, DType dtype, Shape shape, int trained)
{
    if (context->error || !shape_valid(shape, "tensor_parameter"))
        return NULL;
    Tensor *tensor = header_new(dtype, shape, trained ? MEM_PARAMETER : MEM_FROZEN);
    if (!tensor)
        return NULL;
    tensor->requires_grad = (unsigned char)trained;
    tensor->absent = 1;
    scope_release(&tensor->item);
    return tensor;
}

Tensor *tensor_parameter_(DType dtype, Shape shape, int frozen)
{
    Context *context = context_here();
    int half = dtype != DTYPE_F32 && context && dtype == context->precision.weights;
    int trained = (dtype == DTYPE_F32 || half) && !frozen;
    if (context && context->absent)
        return parameter_absent(context, dtype, shape, trained);
    Tensor *tensor = parameter_new(dtype, shape, trained ? MEM_PARAMETER : MEM_FROZEN, trained);
    if (!tensor)
        return NULL;
    tensor->requires_grad = (unsigned char)trained;
    if (trained && half) {
        tensor->grad_type = context->precision.gradients;
        if (master_new(tensor) != 0) {
            tensor_free(tensor);
            return NULL;
        }
    }
    scope_release(&tensor->item);
    return tensor;
}

Tensor *tensor_parameter(Shape shape)
{
    return tensor_parameter_(DTYPE_F32, shape, 0);
}

/* ---- Reading --------------------------------------------------------------------------------- */

Shape tensor_shape(const Tensor *tensor)
{
    return tensor ? tensor->shape : (Shape){0};
}

int64_t tensor_dim(const Tensor *tensor, int i)
{
    if (!tensor)
        return 0;
    if (i < 0)
        i += tensor->shape.ndim;
    return i >= 0 && i < tensor->shape.ndim ? tensor->shape.dim[i] : 0;
}

int64_t tensor_numel(const Tensor *tensor)
{
    return tensor ? shape_numel(tensor->shape) : 0;
}

DType tensor_dtype(const Tensor *tensor)
{
    return tensor ? tensor->dtype : DTYPE_F32;
}

void *tensor_typed_data(Tensor *tensor, DType dtype, const char *what)
{
    if (tensor && tensor->dtype != dtype)
        error_raise(ERROR_ARGUMENT, "%s: the tensor holds %s, not %s", what, dtype_name(tensor->dtype),
                    dtype_name(dtype));
    else if (tensor && tensor_readable(tensor, what))
        return tensor->storage->block.data;
    return NULL;
}

/* 1 when there are bytes to copy. */
static int has_bytes(const Tensor *tensor, int64_t first, int64_t bytes, const void *host, const char *what)
{
    if (!tensor) { /* why, if an error is there already: the first one stays */
        error_raise(ERROR_ARGUMENT, "%s(): the tensor is NULL", what);
        return 0;
    }
    int64_t all = (int64_t)shape_bytes(tensor->dtype, tensor->shape);
    if (first < 0 || bytes < 0 || first > all || bytes > all - first) {
        error_raise(ERROR_ARGUMENT,
                    "%s(): %" PRId64 " bytes from byte %" PRId64 " of a tensor %s %s, which has %" PRId64,
                    what, bytes, first, dtype_name(tensor->dtype), shape_text(tensor->shape).text, all);
        return 0;
    }
    if (!tensor_readable(tensor, what) || !tensor->storage->block.data || bytes == 0)
        return 0;
    if (!host)
        error_raise(ERROR_ARGUMENT, "%s(): the host's memory is NULL", what);
    return host != NULL;
}

int tensor_read(const Tensor *tensor, int64_t first, int64_t bytes, void *to)
{
    if (has_bytes(tensor, first, bytes, to, "tensor_read"))
        storage_read(tensor->storage, (uint64_t)first, (uint64_t)bytes, to);
    return error_code();
}

int tensor_write(Tensor *tensor, int64_t first, int64_t bytes, const void *from)
{
    if (tensor && tensor->absent)
        return error_code();
    if (tensor && shard_is_apart(tensor) && !tensor->storage)
        return shard_write(tensor, first, bytes, from);
    if (has_bytes(tensor, first, bytes, from, "tensor_write")) {
        storage_write(tensor->storage, (uint64_t)first, (uint64_t)bytes, from);
        tensor->labelled = 0;
        if (tensor->master) /* of 16-bit elements */
            tensor_to_master_(tensor, first / 2, (first + bytes + 1) / 2 - first / 2);
    }
    return error_code();
}

void tensor_set_labelled_(Tensor *labels, int64_t count)
{
    labels->labelled = 1 + count;
}

float tensor_item(Tensor *tensor)
{
    float value = 0;
    if (!tensor)
        return 0;
    if (tensor->dtype != DTYPE_F32 || tensor_numel(tensor) != 1)
        error_raise(ERROR_SHAPE, "tensor_item(): a tensor of shape %s is not a single number",
                    shape_text(tensor->shape).text);
    else if (tensor_readable(tensor, "tensor_item") && tensor->storage->block.data) {
        storage_read(tensor->storage, 0, sizeof value, &value);
        if (tensor->item.context->card)
            card_read_(tensor->item.context);
    }
    return value;
}

/* ---- The gradient ---------------------------------------------------------------------------- */

void gradient_set(Tensor *tensor, Storage *storage)
{
    tensor->grad = storage;
    if (tensor->grad_header)
        tensor->grad_header->storage = storage;
}

/* Lasts as long as the tensor. It shows the storage and takes no reference: a gradient that somebody has
 * looked at is passed on and written over like any other. */
static Tensor *header_of_gradient(Tensor *tensor)
{
    Context *context = tensor->item.context;
    Tensor *header = memtrack_host_calloc(context->tracker, sizeof *header);
    if (!header) {
        error_raise(ERROR_HOST_MEMORY, "tensor_grad(): out of host memory");
        return NULL;
    }
    header->item.context = context;
    header->shape = tensor->shape;
    header->dtype = gradient_type(tensor);
    header->component = tensor->grad->block.component;
    header->refs = 1;
    header->leaf = 1;
    header->path = tensor->path;
    header->state = DATA_RELEASED; /* when it goes */
    header->grad_of = tensor;
    return header;
}

Tensor *tensor_grad(Tensor *tensor)
{
    if (!tensor || !tensor->grad)
        return NULL;
    if (!tensor->grad_header)
        tensor->grad_header = header_of_gradient(tensor);
    gradient_set(tensor, tensor->grad);
    return tensor->grad_header;
}

int tensor_has_grad(const Tensor *tensor)
{
    return tensor && tensor->grad;
}

void tensor_drop_grad(Tensor *tensor)
{
    if (!tensor)
        return;
    shard_drop_grad(tensor);
    storage_release(tensor->item.context, tensor->grad);
    gradient_set(tensor, NULL);
}

/* ---- What a tensor is for -------------------------------------------------------------------- */

int tensor_requires_grad(const Tensor *tensor)
{
    return tensor && tensor->requires_grad;
}

void tensor_set_requires_grad(Tensor *tensor, int requires_grad)
{
    if (!tensor)
        return;
    if (!tensor->leaf) {
        error_raise(ERROR_STATE,
                    "tensor_set_requires_grad(): only leaves (parameters, inputs) can be changed");
        return;
    }
    if (requires_grad && tensor->dtype != DTYPE_F32 &&
        tensor->dtype != tensor->item.context->precision.weights) {
        error_raise(ERROR_ARGUMENT,
                    "tensor_set_requires_grad(): only f32 tensors have gradients, and those of "
                    "the precision's weights (tensor_set_precision)");
        return;
    }
    tensor->requires_grad = requires_grad != 0;
    int parameter = tensor->component == MEM_PARAMETER || tensor->component == MEM_FROZEN;
    if (parameter && tensor->dtype != DTYPE_F32)
        tensor->grad_type = tensor->item.context->precision.gradients;
    if (parameter)
        tensor->component = requires_grad ? MEM_PARAMETER : MEM_FROZEN;
    Storage *held = shard_is_apart(tensor) ? tensor->shard->weights : tensor->storage;
    if (!held)
        return;
    if (parameter)
        memtrack_retag(held->ledger, &held->block, tensor->component);
    if (!requires_grad) {
        tensor_drop_grad(tensor);
        storage_release(tensor->item.context, tensor->master);
        tensor->master = NULL;
    } else if (parameter && master_new(tensor) == 0 && tensor->master) {
        tensor_to_master_(tensor, 0, tensor_numel(tensor));
    }
}

Tensor *tensor_keep(Tensor *tensor)
{
    if (tensor)
        tensor->keep = 1;
    return tensor;
}

Tensor *tensor_recompute(Tensor *tensor)
{
    if (tensor && !tensor->leaf)
        tensor->recompute = 1;
    return tensor;
}

Tensor *tensor_donate(Tensor *tensor)
{
    if (tensor && !tensor->leaf)
        tensor->donated = 1;
    return tensor;
}

void tensor_set_name(Tensor *tensor, const char *name)
{
    if (tensor)
        tensor->name = name;
}

const char *tensor_name(const Tensor *tensor)
{
    return tensor && tensor->name ? tensor->name : "";
}
