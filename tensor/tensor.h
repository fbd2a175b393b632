/* tensor: contexts, tensors, operations that record themselves, and backward.
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

#include <stddef.h>
#include <stdint.h>

#include "../base/error.h"
#include "../memtrack/memtrack.h"
#include "tensor_names.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Context Context;
typedef struct Tensor Tensor;
typedef struct Batch Batch; /* batch.h */

/* ---- Context --------------------------------------------------------------------------------- */

typedef struct ContextOptions {
    int meta;            /* 1: plan only: no data, no kernels */
    MemMode memory;      /* of a context with data: MEMTRACK_MALLOC or MEMTRACK_RESERVED (0 means MALLOC) */
    uint64_t capacity;   /* RESERVED: bytes; otherwise a limit, 0 = none */
    uint64_t beside;     /* RESERVED: bytes that must be free beyond it, see MemLedgerOptions */
    int threads;         /* 0 = all processors this process may use; at most 128 */
    uint64_t seed;       /* of initialisation and dropout */
    const char *kernels; /* NULL = the fastest; "reference", "base", "avx2", "avx512" */
    const char *device;  /* NULL = "cpu", the only one that this build has kernels for; "cuda", "cuda:0" */
} ContextOptions;

/* Whether contexts can be on a device of this name (NULL = "cpu"): ERROR_NONE; ERROR_STATE when this build or
 * machine lacks what it needs, ERROR_ARGUMENT when there is no such device. why: what is missing and what
 * works instead, "" without error. */
BRIM_API int device_check(const char *name, char *why, size_t size);

/* NULL when memory is out. A new context is not current until context_use. It has an error from the beginning
 * when its device cannot be used, or BRIM_BLAS names no usable library. One with data tells the BLAS library,
 * which the program itself may use, to take one thread (OpenBLAS and BLIS: for the whole process); for
 * products of your own set that again while brim computes nothing. */
BRIM_API Context *context_create(const ContextOptions *options);
/* Frees everything made in it. If it was current, no context is. NULL is fine. */
BRIM_API void context_destroy(Context *context);
/* Makes it this thread's current context; returns the one before (NULL if none). */
BRIM_API Context *context_use(Context *context);
/* The thread's current context; made on demand with default options. NULL only without memory. */
BRIM_API Context *context_current(void);
BRIM_API MemTracker *context_tracker(const Context *context);
BRIM_API MemLedger *context_ledger(const Context *context);
BRIM_API int context_is_meta(const Context *context);
BRIM_API int context_threads(const Context *context);
BRIM_API uint64_t context_seed(const Context *context);
/* Floating-point operations of the products run (on meta: that would run) so far. */
BRIM_API double context_flops(const Context *context);

/* ---- Data types and shapes ------------------------------------------------------------------- */

/* bits an element, so that 4-bit types have a place. Later: bf16, f16, i8, nf4. */
#define BRIM_DTYPES(X)                                                                                       \
    X(F32, "f32", 32)                                                                                        \
    X(I32, "i32", 32)

typedef enum DType {
#define X(id, name, bits) DTYPE_##id,
    BRIM_DTYPES(X)
#undef X
        DTYPE_COUNT
} DType;

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

BRIM_API Shape tensor_shape(const Tensor *tensor);
/* i < 0 counts from the end: tensor_dim(t, -1) is the last. 0 for NULL or out of range. */
BRIM_API int64_t tensor_dim(const Tensor *tensor, int i);
BRIM_API int64_t tensor_numel(const Tensor *tensor);
BRIM_API DType tensor_dtype(const Tensor *tensor);
/* The elements; NULL on meta (no error), and NULL with an error when the data was moved or released. */
BRIM_API void *tensor_data(Tensor *tensor);
BRIM_API float *tensor_f32(Tensor *tensor);   /* the same, for f32 */
BRIM_API int32_t *tensor_i32(Tensor *tensor); /* the same, for i32 */
/* The single element of a one-element tensor; 0 on meta. */
BRIM_API float tensor_item(Tensor *tensor);
/* The gradient of a parameter (or of a kept tensor), shaped like it; NULL while there is none, and on meta.
 */
BRIM_API float *tensor_grad(Tensor *tensor);
BRIM_API int tensor_has_grad(const Tensor *tensor);
/* Frees the gradient; the next backward starts from nothing. */
BRIM_API void tensor_drop_grad(Tensor *tensor);
BRIM_API int tensor_requires_grad(const Tensor *tensor);
/* A frozen parameter's gradient is not computed (component FROZEN). Only for leaves. */
BRIM_API void tensor_set_requires_grad(Tensor *tensor, int requires_grad);
/* Keeps the data after tensor_backward (costs its bytes for the scope's life). Returns its argument. */
BRIM_API Tensor *tensor_keep(Tensor *tensor);
/* "I will not use this again": the next operation (or module) that takes it may reuse its storage, or frees
 * it as soon as backward does not need it. Returns its argument. Only for tensors made by operations; ignored
 * on others. */
BRIM_API Tensor *tensor_donate(Tensor *tensor);
/* "Backward may make this again": instead of keeping it for those who read it, it is computed from what its
 * own operation keeps anyway (layer_norm, rms_norm, swiglu, mul, activations but ReLU, linear with one of
 * them): its bytes for a pass over them. Gradients are bitwise the same. Ignored on tensors of other
 * operations. Returns its argument. */
BRIM_API Tensor *tensor_recompute(Tensor *tensor);
/* A name for messages; copied? no: must outlive the tensor. */
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

/* The sum of the losses given to tensor_backward in the last training step that had one: with losses divided
 * by the labels of the whole accumulated batch, the loss of the step. 0 on meta. */
BRIM_API double tensor_step_loss(void);

/* Runs forward(self, x, batch) without recording, keeps x and what is in the batch, and runs it again,
 * recorded, inside backward; gradients are bitwise those of a plain call. forward must depend on nothing but
 * its arguments, and self must live until then. */
typedef Tensor *(*CheckpointForward)(void *self, Tensor *x, const Batch *batch);
BRIM_API Tensor *tensor_checkpoint(CheckpointForward forward, void *self, Tensor *x, const Batch *batch);

/* Random masks of the forward pass that begins now are a function of (seed, step, sample, layer); samples of
 * the tensors that follow are numbered from first_sample. nn_forward calls it at the outermost module. */
BRIM_API void tensor_random_begin(int64_t step, int64_t first_sample);

/* ---- Operations: all return a new tensor of the current scope, f32 unless said --------------- */

typedef enum TensorActivation { /* values match the kernels' */
                                TENSOR_IDENTITY,
                                TENSOR_GELU,
                                TENSOR_GELU_TANH,
                                TENSOR_SILU,
                                TENSOR_RELU
} TensorActivation;

/* act(x (…, in) W^T + bias): W (out, in), bias (out) or NULL -> (…, out). */
BRIM_API Tensor *tensor_linear(Tensor *x, Tensor *weight, Tensor *bias, TensorActivation act);
/* The same with W (in, out), as GPT-2 stores it. */
BRIM_API Tensor *tensor_linear_in_out(Tensor *x, Tensor *weight, Tensor *bias, TensorActivation act);
/* ids i32 (…) in [0, vocab), table (vocab, c) -> (…, c). */
BRIM_API Tensor *tensor_embedding(Tensor *ids, Tensor *table);
/* x (…, rows, c) + the first `rows` rows of table (n >= rows, c), for every leading index: rows = T adds
 * learned positions to (B,T,c); rows = 1 adds one vector everywhere. */
BRIM_API Tensor *tensor_add_rows(Tensor *x, Tensor *table, int64_t rows);
/* The same with the table's rows from `first` on: positions of tokens that continue a sequence. */
BRIM_API Tensor *tensor_add_rows_from(Tensor *x, Tensor *table, int64_t first, int64_t rows);
/* Over the last dimension; weight and bias (c). */
BRIM_API Tensor *tensor_layer_norm(Tensor *x, Tensor *weight, Tensor *bias, float eps);
BRIM_API Tensor *tensor_rms_norm(Tensor *x, Tensor *weight, float eps);
BRIM_API Tensor *tensor_activation(Tensor *x, TensorActivation act);
BRIM_API Tensor *tensor_gelu(Tensor *x);      /* exact, by erf */
BRIM_API Tensor *tensor_gelu_tanh(Tensor *x); /* GPT-2's approximation */
BRIM_API Tensor *tensor_silu(Tensor *x);
BRIM_API Tensor *tensor_relu(Tensor *x);
/* silu(gate) * up; shapes equal. */
BRIM_API Tensor *tensor_swiglu(Tensor *gate, Tensor *up);
/* x (B,T,heads*D): rotary positions 0..T-1, pairs (i, i + D/2) as in Hugging Face's Llama; D even. */
BRIM_API Tensor *tensor_rope(Tensor *x, int heads, float theta);

/* How trained positions are stretched over longer texts, as transformers computes it: LINEAR divides every
 * frequency by factor; LLAMA3 (Llama 3.1) divides those of waves longer than original_max_seq /
 * low_freq_factor, leaves those shorter than original_max_seq / high_freq_factor, and goes over smoothly
 * between. */
typedef enum RopeScalingKind { /* values match the kernels' */
                               ROPE_SCALING_NONE,
                               ROPE_SCALING_LINEAR,
                               ROPE_SCALING_LLAMA3
} RopeScalingKind;
typedef struct RopeScaling {
    RopeScalingKind kind;
    float factor;
    float low_freq_factor, high_freq_factor; /* LLAMA3: 1 and 4 */
    int original_max_seq;                    /* LLAMA3: 8192 */
} RopeScaling;

typedef struct RopeOptions {
    int heads;
    float theta;
    int first;           /* position of x's first row */
    RopeScaling scaling; /* kind 0 = none */
} RopeOptions;
/* tensor_rope for positions first..first+T-1, with stretched frequencies. */
BRIM_API Tensor *tensor_rope_with(Tensor *x, const RopeOptions *options);

typedef enum AttentionKind { ATTENTION_FLASH, ATTENTION_EAGER } AttentionKind;
typedef struct AttentionOptions {
    int heads;
    int kv_heads; /* 0 = heads; must divide heads */
    int causal;
    AttentionKind kind; /* flash keeps a number a row; eager keeps the (B,heads,T,T) scores */
    Tensor *mask;       /* i32 (B,T), 0 = padding key; NULL = none */
    int recompute;      /* 1: eager keeps no scores; backward makes them again, gradients bitwise the same */
} AttentionOptions;
/* q (B,T,heads*D), k and v (B,T,kv_heads*D) -> (B,T,heads*D); scores are scaled by 1/sqrt(D). */
BRIM_API Tensor *tensor_attention(Tensor *q, Tensor *k, Tensor *v, const AttentionOptions *options);
/* qkv (B,T,3C): q, k and v side by side; kv_heads == heads. */
BRIM_API Tensor *tensor_attention_packed(Tensor *qkv, const AttentionOptions *options);

/* Causal attention of tokens that continue a sequence, over a cache of the keys and values before them:
 * q (B,T,heads*D), k and v (B,T,kv_heads*D) -> (B,T,heads*D). The cache is f32 (2, B*kv_heads, capacity, D),
 * keys and then values, with `past` tokens in it: k and v are put behind those, in place, and query t sees
 * past + t + 1. Of `options` heads and kv_heads count. Not to be recorded: ERROR_STATE. */
BRIM_API Tensor *tensor_attention_cached(Tensor *q, Tensor *k, Tensor *v, Tensor *cache, int past,
                                         const AttentionOptions *options);
/* The same of qkv (B,T,3C), side by side. */
BRIM_API Tensor *tensor_attention_cached_packed(Tensor *qkv, Tensor *cache, int past,
                                                const AttentionOptions *options);

BRIM_API Tensor *tensor_add(Tensor *a, Tensor *b); /* shapes equal */
BRIM_API Tensor *tensor_mul(Tensor *a, Tensor *b); /* shapes equal */
BRIM_API Tensor *tensor_scale(Tensor *x, float factor);
/* Zeroes with probability p and scales the rest by 1/(1-p); dimension 0 of x counts samples. p = 0 returns x.
 */
BRIM_API Tensor *tensor_dropout(Tensor *x, float p);
BRIM_API Tensor *tensor_reshape(Tensor *x, Shape shape); /* shares storage */
BRIM_API Tensor *tensor_last(Tensor *x);                 /* (B,T,c) -> (B,c): the last position */
BRIM_API Tensor *tensor_sum(Tensor *x);                  /* -> (1) */
BRIM_API Tensor *tensor_mean(Tensor *x);                 /* -> (1) */
/* scale * sum over rows with label != ignore_index of -log softmax(logits)[label] -> (1).
 * logits (…, classes), labels i32 (…). */
BRIM_API Tensor *tensor_cross_entropy(Tensor *logits, Tensor *labels, int ignore_index, float scale);
/* tensor_cross_entropy(tensor_linear(hidden, weight, bias, TENSOR_IDENTITY), labels, …), equal to rounding,
 * without logits: forward makes those of chunk_rows rows at a time in workspace and keeps a log-sum-exp a
 * row; backward makes them once more. hidden (…, c), weight (classes, c), bias (classes) or NULL, labels i32
 * (…) -> (1). chunk_rows is 1 or more; more than there are rows means all at once. */
BRIM_API Tensor *tensor_linear_cross_entropy(Tensor *hidden, Tensor *weight, Tensor *bias, Tensor *labels,
                                             int ignore_index, float scale, int64_t chunk_rows);
/* How many rows of logits (…, classes) are largest at their label (…): for accuracy. Not recorded; 0 on meta.
 */
BRIM_API int64_t tensor_count_correct(Tensor *logits, Tensor *labels);

#ifdef __cplusplus
}
#endif
#endif
