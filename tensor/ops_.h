/* Small helpers of the op families. */
#ifndef BRIM_OPS_INTERNAL_H
#define BRIM_OPS_INTERNAL_H

#include "../kernels/kernels.h"
#include "tensor_.h"

static inline int64_t call_numel(const OpCall *call, int i)
{
    return shape_numel(call->shape[i]);
}

static inline int64_t last_dim(Shape shape)
{
    return shape.dim[shape.ndim - 1];
}

/* Everything but the last dimension. */
static inline int64_t leading(Shape shape)
{
    return shape_numel(shape) / last_dim(shape);
}

static inline int needs_input(const OpCall *call, int i)
{
    return (call->needs & OP_INPUT(i)) != 0;
}

/* Element i of an array that is of no quantised type. */
static inline void *element_at(DType type, const void *array, int64_t i)
{
    return (char *)(uintptr_t)array + dtype_bytes(type, 1, i);
}

/* Rounded up, so that something else may begin behind. */
static inline uint64_t aligned(uint64_t bytes)
{
    return (bytes + MEMTRACK_ALIGN - 1) / MEMTRACK_ALIGN * MEMTRACK_ALIGN;
}

static inline uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Its kernels are a card's, also on meta. */
static inline int on_card(const OpCall *call)
{
    return call->kernels == kernels_cuda();
}

/* Elements from one row of logits to the next on a card: rows begin on 16 bytes, and long ones on 128, which
 * a product loads at once. Of 64 classes or more, at most one in nine is added, of 4096 one in 64. */
static inline int64_t padded_unit(int64_t classes)
{
    return classes < 64 ? 1 : classes < 4096 ? 8 : 64;
}

static inline int64_t padded_row(int64_t classes)
{
    int64_t unit = padded_unit(classes);
    return (classes + unit - 1) / unit * unit;
}

/* The losses of an operation's parts, which are its own together. A card keeps them until they are summed
 * (parts_room bytes of workspace); the host adds one after the other. */
typedef struct PartLosses {
    float *kept, last;
    int64_t count;
    double total;
} PartLosses;
uint64_t parts_room(const OpCall *call, int64_t parts);
/* Where the next part's loss goes. */
float *parts_next(PartLosses *parts);
/* Writes the operation's. */
void parts_sum(OpCall *call, PartLosses *parts);

/* ---- A loss over classes of which each rank has a part (ops_vocabulary.c) */

/* In call->attr.loss; and of it, in the dimensions of logits whose rows have `each` classes, which may end
 * with padding. Nothing where the classes are not divided. */
void class_part_attr(OpAttr *attr, RowsPart part);
void class_part_dims(const OpCall *call, int64_t each, CrossEntropyDims *d);

/* What each rank's classes say of so many rows: this rank writes `mine` (rows, CROSS_ENTROPY_PART), NULL on
 * meta. 0, or raises. */
typedef struct ClassParts {
    Storage *all;
    int64_t apart; /* floats from one rank's to the next one's */
    float *mine;
} ClassParts;
int class_parts_begin(ClassParts *parts, int64_t rows);
/* Exchanges them, and writes the loss of d->rows to call->out and lse to call->extra[0]; of the workspace it
 * takes cross_entropy_workspace. Ends the parts. May raise. */
void class_parts_join(ClassParts *parts, const OpCall *call, const CrossEntropyDims *d,
                      const int32_t *labels);

/* Input i, which has two dimensions, as kernels see it. */
static inline StoredArray stored_input(const OpCall *call, int i)
{
    return (StoredArray){call->in[i], call->dtype[i], call->shape[i].dim[0], call->shape[i].dim[1]};
}

/* A tensor as kernels take it: a matrix, or all its elements as one row; of quantised matrices the first. */
StoredArray tensor_stored_(const Tensor *tensor);
/* How many arrays like that lie one after the other, each by itself: matrices that are quantised, else 1. */
static inline int64_t tensor_matrices_(const Tensor *tensor)
{
    return tensor->shape.ndim == 3 && dtype_is_quantized(tensor->dtype) ? tensor->shape.dim[0] : 1;
}
/* The same of this rank's part of a quantised one that ranks have divided: an array by itself, or whole
 * matrices, of which it is the first. */
StoredArray quantized_part_(const Tensor *tensor);
/* For store_cut.c: elements of a source into an fp32 storage; encoded into another one, of whose type `to`
 * says what it is, from its first element on. before: elements of the tensor in front of those. 0, or raises.
 */
int tensor_values_into_(Tensor *tensor, TensorSource source, void *user, int64_t first, int64_t count,
                        const Storage *values);
int tensor_encode_into_(Tensor *tensor, const StoredArray *to, int64_t before, int64_t count,
                        const Storage *values);
/* tensor_store_ of a rank's part of a quantised matrix, where it has part of a row of int8, or its scales are
 * themselves quantised: they are found from all of it, which passes by in pieces. (store_cut.c) */
int tensor_needs_whole_(const Tensor *tensor);
int tensor_store_cut_(Tensor *tensor, TensorSource source, void *user);

/* Workspace in which `count` elements of input i lie as floats; 0 where they are f32, or absent. */
uint64_t floats_room(const OpCall *call, int i, int64_t count);
/* Elements [first, first + count) of input i as floats: where they are, or decoded to *room, which moves on
 * behind them. NULL where the input is absent. */
const float *floats_input(const OpCall *call, int i, int64_t first, int64_t count, char **room);

/* Workspace of a linear layer whose x, weight and bias are inputs 0, 1 and 2: of one pass, and of backward,
 * which runs one pass after the other. */
uint64_t linear_room(const OpCall *call, const LinearDims *d, LinearPass pass);
uint64_t linear_backward_room(const OpCall *call, const LinearDims *d);

/* Raises unless input i has this dtype. */
int check_dtype(const OpCall *call, int i, DType dtype, const char *input);
/* Raises unless input i is of f32, bf16 or f16, as is its gradient. */
int check_float(const OpCall *call, int i, const char *input);
/* Raises unless input i is of f32, bf16 or f16, and of the type of input `as`. */
int check_float_as(const OpCall *call, int i, int as, const char *input, const char *as_input);
/* Raises unless it is a TensorActivation. */
int check_activation(const OpCall *call, int act);
/* Raises unless input i is of f32, bf16 or f16; with `quantized`, or of a quantised type. */
int check_weight(const OpCall *call, int i, int quantized, const char *input);
/* Raises unless input i is a vector of n elements of f32, bf16 or f16. */
int check_vector(const OpCall *call, int i, int64_t n, const char *input);
/* Raises unless inputs i and j have the same shape and type: f32, bf16 or f16. */
int check_same(const OpCall *call, int i, int j);

/* ---- Attention, with and without a cache (ops_attention.c). Inputs are q, k, v, or qkv alone */

/* Elements of q's rows. */
int64_t attention_width_(const OpCall *call);
/* Without `past`, and with input 3 as the mask. A window is one that shuts some key out. */
AttentionDims attention_dims_(const OpCall *call);
/* Pointers of q, k, v, or of their gradients, whether packed or not. */
void attention_split_(const OpCall *call, void *const base[], void *part[3]);
/* Raises unless heads, window, scale and cap are such, and shapes fit. */
int attention_check_(const OpCall *call, const char *name);
/* Pairs of a query and a key that it sees, masks aside. */
double attention_pairs_(const AttentionDims *d);
/* Raises unless a soft cap is finite and above 0, or 0: none. */
int check_softcap(const OpCall *call, float cap);
/* The output is as input 0, whose type must be a float's; of two, as both are. */
int unary_shape(OpCall *call);
int binary_shape(OpCall *call);

/* y = what dropout leaves of input 0, or of its gradient, + beta y; by call->attr.dropout. Of input 0's type.
 */
void dropout_run(const OpCall *call, const void *x, float beta, void *y);
/* The attributes of the next dropout of this forward pass. */
OpAttr dropout_next(float p);

#endif
