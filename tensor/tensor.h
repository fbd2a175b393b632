/* tensor: tensors, scopes, recording and backward. The operations are in ops.h.
 *
 * Rules that hold for every function here:
 *  - Errors stick. The first error of the thread's context is kept (error_code, error_message); operations
 * given NULL return NULL. A script checks once a step.
 *  - Ownership. What is made inside a scope belongs to it and goes with it; users release nothing. *_free
 * exists.
 *  - Storage lives only as long as someone needs it: an intermediate's data is gone after tensor_backward
 * unless tensor_keep was called; tensor_donate gives it up early.
 *  - On a meta context no data exists and kernels do not run; everything else is the same.
 * Shapes are row-major; the last dimension is contiguous. Objects stay in the context they were made in.
 */
#ifndef BRIM_TENSOR_H
#define BRIM_TENSOR_H

#include <stdint.h>

#include "../base/dtype.h"
#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Tensor Tensor;
typedef struct Batch Batch; /* batch.h */

/* ---- Data types and shapes ------------------------------------------------------------------- */

#define TENSOR_MAX_DIMS 4

/* Each dimension is 1..INT_MAX; dims beyond ndim are 1. SHAPE(8, 128, 288) writes one. */
typedef struct Shape {
    int ndim;
    int64_t dim[TENSOR_MAX_DIMS];
} Shape;

#define SHAPE(...) ((Shape){(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})
BRIM_API int64_t shape_numel(Shape shape); /* elements */

/* Tensors owned elsewhere: a module's parameters, an optimizer's groups. Valid while their owner does not
 * change. */
typedef struct TensorList {
    Tensor **items;
    int count;
} TensorList;

/* ---- Tensors --------------------------------------------------------------------------------- */

/* Owned by the current scope; contents indeterminate. Component: MEM_INPUT for data, MEM_BUFFER,
 * MEM_TEMPORARY… */
BRIM_API Tensor *tensor_new(DType dtype, Shape shape, MemComponent component);
BRIM_API Tensor *tensor_zeros(DType dtype, Shape shape, MemComponent component);
/* Copies numel(shape) elements from `values` (ignored on meta, where it may be NULL). */
BRIM_API Tensor *tensor_from(DType dtype, Shape shape, MemComponent component, const void *values);
/* A trainable parameter (component PARAMETER, requires grad), owned by whoever made it: tensor_free it, or
 * add it to a module with nn_add_parameter. */
BRIM_API Tensor *tensor_parameter(Shape shape);
/* Releases one's own tensor early. NULL is fine. */
BRIM_API void tensor_free(Tensor *tensor);

BRIM_API Shape tensor_shape(const Tensor *tensor); /* ndim 0 for NULL */
/* i < 0 counts from the end: tensor_dim(t, -1) is the last. 0 for NULL or out of range. */
BRIM_API int64_t tensor_dim(const Tensor *tensor, int i);
BRIM_API int64_t tensor_numel(const Tensor *tensor); /* elements */
BRIM_API DType tensor_dtype(const Tensor *tensor);   /* f32 for NULL */
/* Copies bytes [first, first + bytes) of the data to `to`, or from `from`: how a program sees and sets
 * elements, wherever they lie. Elements are row-major and of the tensor's type: element i of an f32 or i32
 * tensor begins at byte 4 i, of a bf16 or f16 one at byte 2 i; quantised ones have codes, then scales. On
 * meta nothing is copied, which is no error. Return 0, or raise ERROR_ARGUMENT (there are no such bytes;
 * NULL) or ERROR_STATE (the data was donated, released or freed). */
BRIM_API int tensor_read(const Tensor *tensor, int64_t first, int64_t bytes, void *to);
BRIM_API int tensor_write(Tensor *tensor, int64_t first, int64_t bytes, const void *from);
/* The single element of a one-element tensor; 0 on meta. */
BRIM_API float tensor_item(Tensor *tensor);
/* The gradient of a parameter (or of a kept tensor), shaped like it, f32; NULL while there is none. On meta
 * it has no data. It is the tensor's own: the same each time, gone with the tensor, and an error to read
 * while the gradient is freed. Freeing it is tensor_drop_grad. */
BRIM_API Tensor *tensor_grad(Tensor *tensor);
BRIM_API int tensor_has_grad(const Tensor *tensor);
/* Frees the gradient; the next backward starts from nothing. */
BRIM_API void tensor_drop_grad(Tensor *tensor);
BRIM_API int tensor_requires_grad(const Tensor *tensor); /* 1: backward reaches it */
/* A frozen parameter's gradient is not computed (component FROZEN). Only for leaves (else ERROR_STATE); what
 * is not f32 stays frozen (1 is ERROR_ARGUMENT). */
BRIM_API void tensor_set_requires_grad(Tensor *tensor, int requires_grad);
/* Keeps the data after tensor_backward (costs its bytes for the scope's life). Returns its argument. */
BRIM_API Tensor *tensor_keep(Tensor *tensor);
/* Says that the caller will not use the tensor any more. The next operation (or module) that takes it may
 * reuse its storage, or frees it as soon as backward does not need it. Returns its argument. Only for tensors
 * made by operations; ignored on others. */
BRIM_API Tensor *tensor_donate(Tensor *tensor);
/* Says that backward may recompute the tensor: it is not kept for those who read it, but computed once more
 * from what its own operation keeps anyway. That saves its bytes and costs a pass over them; gradients are
 * bitwise the same. It works for the outputs of layer_norm, rms_norm, gated activations (swiglu), gate_rows,
 * softcap, mul, activations other than ReLU, and linear with one of these activations. Ignored on tensors of
 * other operations. Returns its argument. */
BRIM_API Tensor *tensor_recompute(Tensor *tensor);
/* A name for messages. It is not copied: it must outlive the tensor. */
BRIM_API void tensor_set_name(Tensor *tensor, const char *name);
BRIM_API const char *tensor_name(const Tensor *tensor);

/* Fills; a stream of its own a call, from the context's seed. */
BRIM_API void tensor_fill(Tensor *tensor, float value);
BRIM_API void tensor_fill_normal(Tensor *tensor, float mean, float std);
BRIM_API void tensor_fill_uniform(Tensor *tensor, float low, float high);

/* ---- Scopes, recording, backward ------------------------------------------------------------- */

/* Opens a scope and returns its depth; end it with that depth. Scopes nest; ending an outer one ends the
 * inner. */
BRIM_API int tensor_scope_begin(void);
BRIM_API void tensor_scope_end(int scope);
/* Hands a tensor (made in the current scope) to the scope outside. Returns its argument. */
BRIM_API Tensor *tensor_promote(Tensor *tensor);

/* Between begin and end nothing is recorded; phase is EVALUATE. They nest. */
BRIM_API void tensor_no_grad_begin(void);
BRIM_API void tensor_no_grad_end(void);
BRIM_API int tensor_recording(void);

/* From a scalar: adds d loss / d parameter to every parameter's gradient, releasing the tape as it goes. A
 * loss that is not finite is an error that names where it first appeared; nothing is added then. The whole
 * tape goes, what does not lead to this loss too: for several losses, add them. An optimizer may use up the
 * gradients on the way (optim_set_in_backward). Returns error_code(). */
BRIM_API int tensor_backward(Tensor *loss);

/* The same from any recorded tensor y, whose gradient is given: f32, of y's shape, made by whoever computed
 * the rest (a loss of one's own, the next part of a model). It is read and not changed; a donated one may be
 * written over. Given as it is: it is not looked at for values that are not finite, and is not a loss of
 * tensor_step_loss. Returns error_code(). */
BRIM_API int tensor_backward_from(Tensor *y, Tensor *gradient);

/* The sum of the losses given to tensor_backward in the last training step that had one: with losses divided
 * by the labels of the whole accumulated batch, the loss of the step. 0 on meta. */
BRIM_API double tensor_step_loss(void);

/* Runs forward(self, x, batch) without recording and keeps x and the tensors of the batch. Backward runs it
 * once more, recorded; gradients are bitwise those of a plain call. forward must depend on nothing but its
 * arguments, and self must live until then. */
typedef Tensor *(*CheckpointForward)(void *self, Tensor *x, const Batch *batch);
BRIM_API Tensor *tensor_checkpoint(CheckpointForward forward, void *self, Tensor *x, const Batch *batch);

/* Random masks of the forward pass that begins now are a function of (seed, step, sample, layer); samples of
 * the tensors that follow are numbered from first_sample. nn_forward calls it at the outermost module. */
BRIM_API void tensor_random_begin(int64_t step, int64_t first_sample);

#ifdef __cplusplus
}
#endif
#endif
