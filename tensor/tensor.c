/* Tensors' headers: shape, type, and where gradients go. Their storage lives separately (storage.c): the tape
 * keeps headers for routing, and storage only where backward reads it. */
#include <string.h>

#include "tensor_.h"

/* ---- Headers --------------------------------------------------------------------------------- */

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

Tensor *tensor_wrap(DType dtype, Shape shape, Storage *storage)
{
    Context *context = context_here();
    Tensor *tensor = storage ? host_alloc(sizeof *tensor) : NULL;
    if (!tensor) {
        storage_release(context, storage);
        return NULL;
    }
    tensor->shape = shape;
    tensor->dtype = dtype;
    tensor->storage = storage;
    tensor->refs = 1;
    tensor->leaf = 1;
    tensor->path = memtrack_path(context->tracker);
    scope_adopt(&tensor->item, tensor_destroy_item);
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
    storage_release(context, tensor->grad);
    host_free(context, tensor, sizeof *tensor);
}

void tensor_drop_data(Tensor *tensor, DataState state)
{
    if (!tensor->storage)
        return;
    storage_release(tensor->item.context, tensor->storage);
    tensor->storage = NULL;
    tensor->state = state;
    tensor->donated = 0;
}

void tensor_free(Tensor *tensor)
{
    if (!tensor)
        return;
    scope_release(&tensor->item);
    tensor_destroy_item(&tensor->item);
}

int tensor_readable(const Tensor *tensor, const char *what)
{
    if (tensor->storage)
        return 1;
    const char *maker = tensor->op ? tensor->op : "tensor";
    const char *path = memtrack_path_name(tensor->item.context->tracker, tensor->path);
    if (tensor->state == DATA_DONATED)
        error_raise(ERROR_STATE, "%s: the %s made at '%s' was given away by tensor_donate", what, maker,
                    path);
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
        memcpy(tensor->storage->block.data, values, (size_t)tensor->storage->block.requested);
    return tensor;
}

Tensor *tensor_zeros(DType dtype, Shape shape, MemComponent component)
{
    Tensor *tensor = tensor_new(dtype, shape, component);
    if (tensor && tensor->storage->block.data)
        memset(tensor->storage->block.data, 0, (size_t)tensor->storage->block.requested);
    return tensor;
}

Tensor *tensor_parameter_(DType dtype, Shape shape, int frozen)
{
    int trained = dtype == DTYPE_F32 && !frozen;
    Tensor *tensor = tensor_new(dtype, shape, trained ? MEM_PARAMETER : MEM_FROZEN);
    if (!tensor)
        return NULL;
    tensor->requires_grad = (unsigned char)trained;
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

void *tensor_data(Tensor *tensor)
{
    if (!tensor || !tensor_readable(tensor, "tensor_data"))
        return NULL;
    return tensor->storage->block.data;
}

void *tensor_typed_data(Tensor *tensor, DType dtype, const char *what)
{
    if (tensor && tensor->dtype != dtype) {
        error_raise(ERROR_ARGUMENT, "%s: the tensor holds %s, not %s", what, dtype_name(tensor->dtype),
                    dtype_name(dtype));
        return NULL;
    }
    return tensor_data(tensor);
}

float *tensor_f32(Tensor *tensor)
{
    return tensor_typed_data(tensor, DTYPE_F32, "tensor_f32");
}

int32_t *tensor_i32(Tensor *tensor)
{
    return tensor_typed_data(tensor, DTYPE_I32, "tensor_i32");
}

float tensor_item(Tensor *tensor)
{
    if (!tensor)
        return 0;
    if (tensor->dtype != DTYPE_F32 || tensor_numel(tensor) != 1) {
        error_raise(ERROR_SHAPE, "tensor_item(): a tensor of shape %s is not a single number",
                    shape_text(tensor->shape).text);
        return 0;
    }
    const float *data = tensor_f32(tensor);
    return data ? data[0] : 0;
}

float *tensor_grad(Tensor *tensor)
{
    return tensor ? storage_f32(tensor->grad) : NULL;
}

int tensor_has_grad(const Tensor *tensor)
{
    return tensor && tensor->grad;
}

void tensor_drop_grad(Tensor *tensor)
{
    if (!tensor)
        return;
    storage_release(tensor->item.context, tensor->grad);
    tensor->grad = NULL;
}

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
    if (tensor->dtype != DTYPE_F32 && requires_grad) {
        error_raise(ERROR_ARGUMENT, "tensor_set_requires_grad(): only f32 tensors have gradients");
        return;
    }
    tensor->requires_grad = requires_grad != 0;
    if (!tensor->storage)
        return;
    MemBlock *block = &tensor->storage->block;
    if (block->component == MEM_PARAMETER || block->component == MEM_FROZEN)
        memtrack_retag(tensor->item.context->ledger, block, requires_grad ? MEM_PARAMETER : MEM_FROZEN);
    if (!requires_grad)
        tensor_drop_grad(tensor);
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
