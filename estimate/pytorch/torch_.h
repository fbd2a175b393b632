/* torch: an eager PyTorch without data.
 *
 * Tensors have sizes, strides, types and reference counts; operations record nodes of a graph; backward runs
 * them in autograd's order. No value exists. What comes out are the allocations and frees that PyTorch asks
 * of its caching allocator, in order. Each operation is written as PyTorch's own: what it allocates, what its
 * node saves (tools/autograd/derivatives.yaml), and its derivative in terms of the same operations.
 *
 * Ownership follows Python's. A new tensor is loose: the operation that takes it drops it when it has run, as
 * an expression's temporary. torch_name gives a tensor to the current frame: it lives until torch_delete,
 * torch_rebind or the end of the frame, as a local variable does. A function's result leaves its frame by
 * torch_leave.
 *
 * Host memory comes from chunks that the Torch owns. Without memory everything ends by longjmp to torch_run.
 */
#ifndef BRIM_PYTORCH_TORCH__H
#define BRIM_PYTORCH_TORCH__H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include "pytorch.h"

enum { TORCH_SCAN_TILE = 896 };
enum { TORCH_ALSO = 4, TORCH_DIMS = 5, TORCH_EDGES = 4, TORCH_SAVED = 9, TORCH_OUTPUTS = 3 };

typedef enum TorchType {
    TORCH_F32,
    TORCH_BF16,
    TORCH_F16,
    TORCH_I64,
    TORCH_I32,
    TORCH_U8,
    TORCH_I8,
    TORCH_BOOL
} TorchType;

typedef struct Torch Torch;
typedef struct TorchTensor TorchTensor;
typedef struct TorchNode TorchNode;
typedef struct TorchSegment TorchSegment;

/* What a module's allocations are stamped with: "layers.3.self_attn" is layer 3, module "self_attn". */
typedef struct TorchPlace {
    int layer; /* -1: none */
    const char *module;
} TorchPlace;

typedef struct TorchStorage {
    uint64_t serial, bytes; /* serial 0: nothing was allocated (0 bytes, or recomputation has ended) */
    int refs;
    struct TorchStorage *next; /* of the spare ones */
} TorchStorage;

typedef struct TorchShape {
    int dims;
    int64_t size[TORCH_DIMS], stride[TORCH_DIMS]; /* in elements */
    TorchType type;
} TorchShape;

struct TorchTensor {
    TorchShape shape;
    TorchStorage *storage;
    int refs, loose, needs_grad;
    int asked;       /* a leaf because requires_grad_ was called on it: its node holds it, not it the node */
    int view;        /* holds its storage twice: for itself, and for its base, which autograd keeps */
    TorchNode *node; /* what made it; of a leaf: what accumulates its gradient */
    int output;      /* which output of the node */
    TorchTensor *grad;
    TorchPlace place;  /* of a leaf: where it was made */
    TorchTensor *next; /* of the spare ones */
};

/* Computes the gradients `d` of the node's inputs from those of its outputs. `g[i]` may be NULL: undefined.
 */
typedef void TorchBackward(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d);

typedef struct TorchEdge {
    TorchNode *node; /* NULL: no gradient is wanted */
    int output;
} TorchEdge;

struct TorchNode {
    TorchBackward *backward;
    const char *name;
    uint64_t order;
    int refs, edges, outputs;
    TorchEdge edge[TORCH_EDGES];
    TorchTensor *saved[TORCH_SAVED];
    TorchSegment *segment[TORCH_SAVED]; /* the checkpointed segment that recomputes the slot */
    int slot[TORCH_SAVED];
    int slots;                                 /* how many of these may be in use */
    int64_t n[6];                              /* numbers that the derivative needs */
    void *user;                                /* what else it needs */
    void (*before)(void *user, int64_t which); /* a hook of its output, before it runs */
    void *before_user;
    int64_t which;
    TorchTensor *leaf;    /* of an accumulating node; not counted */
    TorchTensor *context; /* an attribute of a Python function's ctx: lives as long as the node */
    TorchSegment *call;   /* of a reentrant checkpoint */
    TorchPlace place;
    int waits, seen;
    TorchTensor *g[TORCH_OUTPUTS];
    TorchNode *next;                /* of the spare ones, or of those to be freed */
    TorchShape made[TORCH_OUTPUTS]; /* what each output was; last, for it need not be zeros */
};

/* A function that checkpointing runs again; its arguments are kept. */
typedef TorchTensor *TorchFunction(Torch *t, void *user, TorchTensor *x);

struct TorchSegment {
    TorchFunction *function;
    void *user;
    TorchTensor *x, *also[TORCH_ALSO]; /* its argument, and the keyword arguments that the closure holds */
    TorchPlace place;
    TorchType autocast;
    int positional;                 /* of `also`: what is saved as an argument */
    int count, waiting, recomputed; /* saved tensors; those still to be released */
    int first;                      /* in Torch.kept */
    TorchSegment *next;
};

typedef struct TorchCast {
    TorchTensor *leaf, *cast;
} TorchCast;

struct Torch {
    const PytorchDialect *dialect;
    const PytorchCard *card;
    PytorchVisit *visit;
    void *user;
    PytorchEvent event; /* the stamps of the next event */
    uint64_t serials, orders;
    int grad_mode, evaluating, stopped, casting; /* stopped: recomputation has all that it needs */
    TorchType autocast;                          /* TORCH_F32: off */
    TorchSegment *packing, *replaying;
    int replayed, again; /* again: a checkpoint runs its function once more */
    TorchPlace place;
    const char *op;
    void **frames; /* the names of all frames */
    size_t frame_count, frame_capacity;
    TorchNode **heap;
    size_t heap_count, heap_capacity;
    TorchTensor **kept; /* what segments recompute */
    size_t kept_count, kept_capacity;
    TorchCast *casts;
    size_t cast_count, cast_capacity;
    TorchTensor *spare_tensors;
    TorchNode *spare_nodes, *dying;
    TorchStorage *spare_storages;
    TorchSegment *spare_segments;
    void *chunks;
    size_t chunk_used;
    TorchTensor *
        workspace[2][2]; /* of the forward and the backward thread; cuBLAS' and cublasLt's, where they stay */
    int in_backward;
    void (*accumulated)(void *user, TorchTensor *leaf); /* after a leaf's gradient is there; NULL: nothing */
    void *accumulated_user;
    int stop;       /* what the visitor returned */
    jmp_buf failed; /* 1: no host memory; 2: the visitor stopped it */
};

/* ---- storage.c: chunks, storages, tensors, frames -------------------------------------------- */

void *torch_take(Torch *t, size_t bytes); /* zeros; until torch_clear */
void *torch_grow(Torch *t, void *items, size_t *capacity, size_t count, size_t bytes); /* never NULL */
TorchNode *torch_new_node(Torch *t);
TorchSegment *torch_new_segment(Torch *t);
void torch_clear(Torch *t); /* frees the host memory */

int64_t torch_count(const TorchShape *shape); /* elements */
int torch_bytes(TorchType type);
TorchShape torch_shape(TorchType type, int dims, const int64_t *size); /* contiguous */
int torch_contiguous(const TorchShape *shape);
int torch_dense(const TorchShape *shape); /* non-overlapping, in some order of the dimensions */
int torch_floating(TorchType type);
int torch_same_size(const TorchShape *a, const TorchShape *b);

TorchTensor *torch_empty(Torch *t, const char *op, TorchShape shape); /* allocates; loose */
TorchTensor *torch_bytes_of(Torch *t, const char *op, int64_t bytes); /* a loose tensor of bytes */
TorchTensor *torch_alias(Torch *t, const TorchTensor *x);             /* same storage, no graph; loose */
TorchTensor *torch_again(TorchTensor *x); /* the same tensor: one reference more */
void torch_based(TorchTensor *x);         /* x is a view of another */
TorchTensor *torch_leaf(Torch *t, const char *op, PytorchKind kind, TorchShape shape,
                        int needs_grad);                             /* named by nobody: owned */
TorchTensor *torch_meta(Torch *t, TorchShape shape, int needs_grad); /* of the meta device; owned */
/* x.data = a new tensor of this shape and type */
void torch_set_data(Torch *t, const char *op, TorchTensor *x, TorchShape shape, PytorchKind kind);
void torch_mark(Torch *t, TorchTensor *x, PytorchKind kind);
void torch_empty_cache(Torch *t);
void torch_drop(Torch *t, TorchTensor *x); /* one reference less; NULL is fine */
void torch_used(Torch *t, TorchTensor *x); /* an operation has taken it: drops it where it is loose */
void torch_scratch(Torch *t, const char *op, int64_t bytes); /* allocated and freed */

size_t torch_frame(Torch *t);
TorchTensor *torch_name(Torch *t, TorchTensor *x);
void torch_delete(Torch *t, TorchTensor *x);
TorchTensor *torch_rebind(Torch *t, TorchTensor *old, TorchTensor *x); /* names x, then deletes old */
/* A second result of a frame: torch_carry before torch_leave, torch_arrive after it gives the tensor, loose.
 */
TorchTensor *torch_carry(TorchTensor *x);
TorchTensor *torch_arrive(TorchTensor *x);
TorchTensor *torch_leave(Torch *t, size_t frame, TorchTensor *result); /* NULL is fine */

/* untyped_storage().resize_(0), and back: all that share it lose and regain it. */
void torch_release_storage(Torch *t, TorchTensor *x);
void torch_restore_storage(Torch *t, const char *op, TorchTensor *x, int64_t bytes, PytorchKind kind);

/* ---- autograd.c ------------------------------------------------------------------------------ */

/* A node for an operation of these inputs; NULL where no gradient is wanted. */
TorchNode *torch_node(Torch *t, const char *name, TorchBackward *backward, int count,
                      TorchTensor *const *inputs);
void torch_save(Torch *t, TorchNode *node, int slot, TorchTensor *x); /* node and x may be NULL */
TorchTensor *torch_made(Torch *t, TorchNode *node, int output, TorchTensor *y);
void torch_free_node(Torch *t, TorchNode *node);
int torch_wants(const TorchNode *node, int input);
void torch_backward(Torch *t, TorchTensor *loss, TorchTensor *gradient); /* both stay the caller's */
/* `also` (TORCH_ALSO tensors or NULL) are held as long as the segment; the first `positional` are arguments,
 * which the reentrant kind saves, and not keywords. */
TorchTensor *torch_checkpoint(Torch *t, TorchFunction *function, void *user, TorchTensor *x,
                              TorchTensor *const *also, int positional, int reentrant);

/* ---- views.c --------------------------------------------------------------------------------- */

TorchTensor *torch_view(Torch *t, TorchTensor *x, int dims, const int64_t *size);
TorchTensor *torch_reshape(Torch *t, TorchTensor *x, int dims, const int64_t *size);
TorchTensor *torch_unsafe_view(Torch *t, TorchTensor *x, int dims, const int64_t *size);
TorchTensor *torch_transpose(Torch *t, TorchTensor *x, int a, int b);
TorchTensor *torch_expand(Torch *t, TorchTensor *x, int dims, const int64_t *size);
TorchTensor *torch_unsqueeze(Torch *t, TorchTensor *x, int dim);
TorchTensor *torch_squeeze(Torch *t, TorchTensor *x, int dim);
TorchTensor *torch_slice(Torch *t, TorchTensor *x, int dim, int64_t from, int64_t to);
TorchTensor *torch_select(Torch *t, TorchTensor *x, int dim); /* one index of the dimension, which goes */
void torch_split(Torch *t, TorchTensor *x, int dim, int64_t each, int count, TorchTensor **parts);
TorchTensor *torch_make_contiguous(Torch *t, TorchTensor *x);
TorchTensor *torch_clone(Torch *t, TorchTensor *x, int contiguous);
int torch_viewable(const TorchShape *x, int dims, const int64_t *size, int64_t *stride);

/* ---- pointwise.c ----------------------------------------------------------------------------- */

TorchShape torch_iterate(TorchType type, int count, TorchTensor *const *inputs); /* TensorIterator's output */
TorchTensor *torch_cast(Torch *t, TorchTensor *x, TorchType type);
TorchTensor *torch_add(Torch *t, TorchTensor *a, TorchTensor *b);
void torch_add_in_place(Torch *t, TorchTensor *x, TorchTensor *y);
TorchTensor *torch_mul(Torch *t, TorchTensor *a, TorchTensor *b);
TorchTensor *torch_scale(Torch *t, TorchTensor *x); /* x times a number */
void torch_scale_in_place(Torch *t, TorchTensor *x);
TorchTensor *torch_divide(Torch *t, TorchTensor *x);                        /* x divided by a number */
TorchTensor *torch_divide_by(Torch *t, TorchTensor *x, TorchTensor *y);     /* y without gradient */
TorchTensor *torch_where(Torch *t, TorchTensor *condition, TorchTensor *x); /* else a number of the card */
TorchTensor *torch_plus(Torch *t, TorchTensor *x);                          /* x plus a number */
TorchTensor *torch_pow(Torch *t, TorchTensor *x, double exponent);
TorchTensor *torch_neg(Torch *t, TorchTensor *x);
TorchTensor *torch_rsqrt(Torch *t, TorchTensor *x);
TorchTensor *torch_tanh(Torch *t, TorchTensor *x);
TorchTensor *torch_silu(Torch *t, TorchTensor *x);
TorchTensor *torch_gelu(Torch *t, TorchTensor *x);
TorchTensor *torch_wave(Torch *t, const char *op, TorchTensor *x); /* cos, sin: of tensors without gradient */
TorchTensor *torch_dropout(Torch *t, TorchTensor *x, double p);
TorchTensor *torch_sum_to(Torch *t, TorchTensor *x, const TorchShape *shape);

/* ---- reduce.c -------------------------------------------------------------------------------- */

TorchTensor *torch_mean_last(Torch *t, TorchTensor *x);
TorchTensor *torch_cat(Torch *t, int dim, int count, TorchTensor **parts);
TorchTensor *torch_cat_as(Torch *t, TorchType type, int dim, int count, TorchTensor **parts);
TorchTensor *torch_softmax(Torch *t, TorchTensor *x, TorchType type);
TorchTensor *torch_safe_softmax(Torch *t, TorchTensor *x); /* 0 where a whole row is masked */
TorchTensor *torch_cross_entropy(Torch *t, TorchTensor *logits, TorchTensor *labels);
TorchTensor *torch_embedding(Torch *t, TorchTensor *weight, TorchTensor *ids);
TorchTensor *torch_layer_norm(Torch *t, TorchTensor *x, TorchTensor *weight, TorchTensor *bias);
void torch_whole_scratch(Torch *t, int64_t count,
                         int bytes); /* of a contiguous tensor to one value of so many bytes */
/* CUB's temporary storage for a scan, of which a block takes `tile` elements: of sums, TORCH_SCAN_TILE. */
int64_t torch_scan_bytes(int64_t count, int64_t tile);
/* Of a sum to so many outputs, each of `reduced` elements of the type; `fast`: the reduced ones lie together.
 */
void torch_reduction_scratch(Torch *t, int64_t outputs, int64_t reduced, int fast, TorchType type);

/* ---- products.c ------------------------------------------------------------------------------ */

TorchTensor *torch_mm(Torch *t, TorchTensor *a, TorchTensor *b);
TorchTensor *torch_addmm(Torch *t, TorchTensor *bias, TorchTensor *a, TorchTensor *b);
TorchTensor *torch_bmm(Torch *t, TorchTensor *a, TorchTensor *b);
TorchTensor *torch_matmul(Torch *t, TorchTensor *a,
                          TorchTensor *b); /* of as many dimensions, or b a matrix */
TorchTensor *torch_linear(Torch *t, TorchTensor *x, TorchTensor *weight, TorchTensor *bias);
TorchTensor *torch_autocast(Torch *t, TorchTensor *x); /* x in autocast's type, by its cache */
TorchTensor *torch_full(Torch *t, TorchTensor *x);     /* x in fp32 where autocast is on */
void torch_autocast_end(Torch *t);                     /* empties the cache */

/* ---- attention.c ----------------------------------------------------------------------------- */

/* q (B,H,S,D), k, v (B,KV,S,D); mask (B,1,S,S) or NULL: causal, or all where `causal` is 0. */
TorchTensor *torch_attention(Torch *t, TorchTensor *q, TorchTensor *k, TorchTensor *v, TorchTensor *mask,
                             int causal, double dropout);

#endif
