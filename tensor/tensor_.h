/* What the library's own files share about contexts and tensors; not installed. */
#ifndef BRIM_TENSOR_INTERNAL_H
#define BRIM_TENSOR_INTERNAL_H

#include "../device/cuda_count.h"
#include "../ranks/ranks.h"
#include "batch.h"
#include "op.h"
#include "precision.h"
#include "tensor.h"

/* Anything a scope owns starts with this: tensors, modules, optimizers, loaders. */
typedef struct ScopeItem ScopeItem;
struct ScopeItem {
    ScopeItem *previous, *next; /* in its scope's ring; NULL when no scope owns it */
    int depth;                  /* of that scope */
    void (*destroy)(ScopeItem *item);
    Context *context;
};

/* Puts an item into the current scope (destroyed at its end, newest first) or takes it out again. */
void scope_adopt(ScopeItem *item, void (*destroy)(ScopeItem *item));
void scope_release(ScopeItem *item);

/* What a machine says of its NVIDIA cards, after what is missing: root is where /dev and /proc are ("")
 */
void device_nvidia_(const char *root, int libcuda, char *text, size_t size);

/* Bytes and their books, shared by headers; freed with the last reference. */
typedef struct Storage {
    MemBlock block;
    MemLedger *ledger; /* whose bytes they are */
    int refs;
    int maker; /* 1 + index of the tape node that can recompute it; 0 = none */
} Storage;

typedef enum DataState { DATA_HELD, DATA_DONATED, DATA_RELEASED } DataState;

struct Tensor {
    ScopeItem item;
    Shape shape;
    DType dtype;
    Storage *storage;    /* NULL once donated or released (state says which) */
    Storage *master;     /* the f32 values of a 16-bit parameter that updates change first; NULL = none */
    Storage *grad;       /* accumulated so far; NULL = none; set by gradient_set */
    struct Shard *shard; /* of a parameter that is divided among ranks (ranks_.h); NULL = it is whole */
    Tensor *grad_header; /* its header, made when somebody asks; NULL = nobody has */
    Tensor *grad_of;     /* of such a header: whose gradient it is, which holds the storage */
    const char *name;
    int refs;               /* owner and tape */
    int path;               /* module path where it was made, for messages */
    const char *op;         /* that made it, for messages */
    MemComponent component; /* a leaf's, also while its data are gone */
    DType grad_type;        /* of its gradient's elements; an activation's is its own type */
    int32_t padding;        /* elements at the end of each row that hold nothing (tensor_logits_) */
    int64_t labelled; /* 1 + how many elements are not BATCH_IGNORE (tensor_set_labelled_); 0 = unknown */
    int64_t piece; /* of a parameter of which ranks that compute a layer together have a part each: elements
                      that lie side by side in the whole (split.c); 0 = this is the whole */
    int64_t
        whole_rows; /* of one that is divided by rows (tensor_split_rows_): those of the whole; 0 = other */
    int64_t first_use; /* serial of the first node that uses this leaf; stale when no such node is recorded */
    DataState state;
    unsigned char leaf, requires_grad, donated, keep, recompute;
    unsigned char in_out;      /* a linear layer's weight that is (in,out), here and in files */
    unsigned char transposed;  /* one that is (out,in) here, and (in,out) in files and in random streams */
    unsigned char table;       /* an embedding's, of which a step reads few rows */
    unsigned char absent;      /* a parameter of another stage of the model: nothing but this header */
    unsigned char tied_stages; /* a parameter of the first and of the last stage */
    unsigned char twice;       /* nf4-plain in place of nf4: its scales are those that nf4 would have */
    unsigned char partial; /* one that is whole, and of whose gradient each of the ranks that compute a layer
                              together finds a part */
    unsigned char split;   /* where piece is not 0: 1 + the dimension that is divided, as files have it */
};

/* Random streams: what dropout masks and initial values are keyed by. */
typedef struct RandomState {
    int64_t step, first_sample;
    uint32_t layer; /* the next dropout of this forward pass */
    uint64_t fills; /* streams used by tensor_fill_* */
} RandomState;

typedef struct Tape Tape;
typedef struct Kernels Kernels; /* kernels/kernels.h: most of those who read contexts compute nothing */

#define SCOPE_MAX_DEPTH 128

/* Told where the books of a run are cut, so that a plan and its run are compared piece by piece. */
typedef struct SegmentHook {
    /* A segment is over: the set-up, an evaluation, or what was allocated and freed in a training step.
     * step_ended: it was a training step. */
    void (*segment)(Context *context, int step_ended, void *user);
    void (*step)(void *user); /* A training step is done (context_step_end); NULL = nobody asks. */
    void *user;
} SegmentHook;

/* Told when the gradient of a leaf is final: nothing that is still to run in this backward adds to it. An
 * optimizer that updates inside backward hangs here. */
typedef struct GradientHook GradientHook;
struct GradientHook {
    GradientHook *next;
    /* Before backward computes anything. Non-zero, with an error raised, refuses it. */
    int (*begin)(Context *context, void *user);
    /* `leaf` has a gradient, and it is final. It may be freed. */
    void (*final)(Context *context, Tensor *leaf, void *user);
    /* Backward is done: every gradient is final. That includes gradients that `final` was not told of: a
     * checkpoint that received no gradient is not run again, so only now is it known that nothing else adds
     * to what it used. */
    void (*end)(Context *context, void *user);
    /* An error is raised: says in `text`, as the end of its sentence, what of this step is done and stays;
     * nothing where that is nothing. NULL = it does nothing. */
    void (*failed)(Context *context, void *user, char *text, size_t size);
    void *user;
};

struct Context {
    MemTracker *tracker;
    MemLedger *ledger;
    const Kernels *kernels;
    Tape *tape;
    int64_t serials;                   /* of nodes, given so far, on whichever tape */
    ScopeItem scopes[SCOPE_MAX_DEPTH]; /* ring heads */
    int depth;                         /* of the innermost open scope; 0 = the context's own */
    KernelRun run;                     /* of its kernels: threads, and where they put down a fault */
    int64_t fault;                     /* on the CPU */
    struct ContextCard *card;          /* of a context on a card (card_.h); NULL = on the CPU */
    struct ContextRanks *ranks;        /* of one of several ranks (ranks_.h); NULL = alone */
    const Kernels *host_kernels;       /* of the host: those above, but on a card */
    KernelRun host_run;
    struct {
        DType dtype, quantized;
        int frozen;
        const char *not_quantized;
    } weights;           /* what parameters are made as (nn_set_weights) */
    Precision precision; /* what trained parameters, activations and states are */
    struct {
        float next;         /* backward starts from it; 0 = 1 */
        float of_gradients; /* the last backward did; 0 = 1 */
        const void *owner;  /* the optimizer that scales */
    } loss_scale;
    int draw_later; /* a model is being made that draws its weights at the end: fills at random only count */
    int absent;     /* parameters that are made now are another stage's */
    int meta, no_grad, in_backward;
    int selective; /* a module of nn_set_selective runs: keep only what is expensive to recompute */
    int met_grad;  /* an operation had an input that requires a gradient, recorded or not: checkpoint asks */
    int64_t unrecorded; /* serial of the checkpoint whose module runs unrecorded now; 0 = none */
    GradientHook *gradient_hooks;
    struct ModuleHook *module_hooks; /* nn's */
    uint64_t seed;
    RandomState random;
    uint64_t host_later, host_passing; /* see the functions */
    double flops;                      /* of products so far, on meta too */
    double step_loss;
    int64_t loss_step;  /* the step it is of */
    int64_t steps_done; /* that ended; the tracker's step follows in context_step_begin */
    SegmentHook segment_hook;
    ErrorCode error;
    char error_text[512], error_function[48];
    const char *module_kind; /* of the module whose forward runs, "linear"; NULL = none */
    MemPhase phase_outside;  /* of the outermost no-grad region */
};

/* The current context; NULL (with nothing raised) only without memory. */
Context *context_here(void);
/* Host memory of the current context; raises ERROR_HOST_MEMORY and returns NULL without memory. */
void *host_alloc(size_t bytes); /* zeroed */
/* Host memory for `what`, indeterminate; raises ERROR_HOST_MEMORY and returns NULL without. Free with
 * host_free. */
void *host_alloc_for(const char *maker, const char *what, size_t bytes);
void host_free(Context *context, void *block, size_t bytes);
/* Host memory for a library that does not say sizes when it frees, as PCRE2 wants the two: with the size
 * before it. Nothing is raised; freeing NULL is fine. */
void *host_sized_alloc(size_t bytes, void *context);
void host_sized_free(void *block, void *context);
/* On meta: notes that a run will take so many bytes of host memory here, for data that a plan does not read.
 * Returns meta. */
int host_later(size_t bytes);
/* The same of what is freed before more of its kind is taken: the largest counts. */
int host_passing(size_t bytes);
/* The end of a training step: the optimizer has updated the parameters. What is freed from here on
 * (gradients, the step's scope) still belongs to this step's segment, until the next step or an evaluation
 * begins. */
void context_step_end(void);
/* Training computes: a batch is asked for, or an operation that may be recorded. The first call ends the
 * set-up, the first after context_step_end begins the next step; any other does nothing. */
void context_step_begin(Context *context);
/* In the set-up of a run that resumes a saved one: the saved run had done `steps` steps, and `random` was its
 * random state. The next step has the number `steps`. */
void context_resume(Context *context, int64_t steps, const RandomState *random);
/* Ends the current segment, if anything was allocated in it. */
void context_segment_end(Context *context);
/* What the context itself holds of its ledger goes, until something is allocated again. */
void context_release_room(Context *context);

/* Raises ERROR_SHAPE and returns 0 unless every dimension is 1..INT_MAX and the bytes fit. `what` names the
 * caller. */
int shape_valid(Shape shape, const char *what);
int shape_equal(Shape a, Shape b);
/* "(8,128,288)" into a caller's buffer; returns it. */
typedef struct ShapeText {
    char text[64];
} ShapeText;
ShapeText shape_text(Shape shape);

/* Bytes of such an array; a quantised one is a matrix, or with three dimensions some of them, each quantised
 * by itself (base/quant_layout_.h: quant_stride). */
uint64_t shape_bytes(DType dtype, Shape shape);

/* A parameter that is owned by whoever made it. What is trained is f32, or of the type that the context's
 * precision has for weights: then with its gradients, and its master. */
Tensor *tensor_parameter_(DType dtype, Shape shape, int frozen);
/* Elements [first, first + count) as floats. 0, or raises and returns non-zero. */
typedef int (*TensorSource)(void *user, int64_t first, int64_t count, float *values);
/* Gives a tensor of any type but i32 the values of a source: f32 directly, other types piece by piece through
 * a planned buffer of 8 MiB at most (more where a row of int8, or 64 rows of a transposed weight, are more),
 * and NF4's scales in another until their mean is known. On meta only the buffers are planned. 0 or raises:
 * ERROR_NONFINITE for what the type cannot hold, ERROR_MEMORY, and what the source raised. */
int tensor_store_(Tensor *tensor, TensorSource source, void *user);
/* Whether ranks do that together: one that has failed calls it nevertheless, as the others wait for it. */
int tensor_store_meets_(const Tensor *tensor);

/* Whether the values that a source is asked for are those of the tensor itself: an fp32 one, or its master.
 * What the source leaves there then stays. */
int tensor_is_own_(const Tensor *tensor, const float *values);

/* Gives elements [first, first + count) of a 16-bit parameter's master the values of its copy. Nothing on
 * meta. */
void tensor_to_master_(const Tensor *tensor, int64_t first, int64_t count);

/* The same values in another type, in a storage of its own; the old one goes. A weight that is (in,out)
 * becomes (out,in) where the type is quantised, and back. Frozen from then on, unless it is f32. 0, also
 * where it is of the type already; or raises and changes nothing. */
int tensor_convert_(Tensor *tensor, DType dtype);
/* The same with other values: the source gives them in the order in which the tensor is stored until then.
 * Its header of until then is in *old while the source is asked, with all its data, which other ranks may
 * have had parts of. */
int tensor_replace_(Tensor *tensor, DType dtype, TensorSource source, void *user, Tensor *old);
/* Elements [first, first + count) of a tensor of any type but i32, as floats; nothing on meta. The data are
 * there. */
void tensor_decode_(const Tensor *tensor, int64_t first, int64_t count, float *values);
/* The same in the order that files have them: a transposed weight's are turned back. */
void tensor_decode_file_(const Tensor *tensor, int64_t first, int64_t count, float *values);

Storage *storage_new(Context *context, int64_t bytes, MemComponent component);
/* The same for what a card needs before anything else. */
Storage *storage_raw_(Context *context, int64_t bytes, MemComponent component);
void storage_retain(Storage *storage);
void storage_release(Context *context, Storage *storage); /* NULL is fine */
/* Between the host's memory and a storage that has data: bytes [first, first + bytes). */
void storage_read(const Storage *storage, uint64_t first, uint64_t bytes, void *to);
void storage_write(const Storage *storage, uint64_t first, uint64_t bytes, const void *from);
void storage_clear(const Storage *storage); /* all bytes 0 */
/* A header in the current scope over `storage` (takes over the caller's reference, also on failure). */
Tensor *tensor_wrap(DType dtype, Shape shape, Storage *storage);
void tensor_retain(Tensor *tensor);
void tensor_unref(Tensor *tensor);
/* Gives up this header's hold on its data. */
void tensor_drop_data(Tensor *tensor, DataState state);
/* The data of a tensor of this type, for a kernel; NULL with an error when it is of another, or its data are
 * gone, and NULL on meta. What is no kernel reads and writes by tensor_read and tensor_write. */
void *tensor_typed_data(Tensor *tensor, DType dtype, const char *what);
/* True when data may be read; otherwise raises an error that says how to keep it. */
int tensor_readable(const Tensor *tensor, const char *what);

/* The 16-bit copy of an f32 weight, whose gradient is the weight's, in f32. */
Tensor *tensor_cast_weight_(Tensor *weight, DType type);

/* Elements from one row of a head's logits to the next, where nobody but the loss sees them: on a card, whose
 * tensor cores want rows that begin on boundaries, more than there are classes. */
int64_t tensor_logits_ld_(const Context *context, int64_t classes);
/* tensor_linear of a head, (…, tensor_logits_ld_), of which the last elements hold nothing (its `padding`).
 * For tensor_cross_entropy_with, and nobody else. */
Tensor *tensor_logits_(Tensor *hidden, Tensor *weight, Tensor *bias);
/* The host says how many of the labels that it has written count, so that nobody need ask the card. They are
 * unknown again when something else is written. */
void tensor_set_labelled_(Tensor *labels, int64_t count);

/* An adapter's two operations (ops_lora.c). u = dropout(x (…,in)) A^T, A (rank,in); p 0 = no dropout. */
Tensor *tensor_lora_down(Tensor *x, Tensor *a, float p);
/* y (…,out) + scale u (…,rank) B^T, B (out,rank); takes y's storage where y is donated. */
Tensor *tensor_linear_onto(Tensor *y, Tensor *u, Tensor *b, float scale);

enum { BATCH_TENSORS = 5 };

/* closing: backward enters what lies between the two markers of a pair; otherwise it leaves it. */
typedef void (*TapeMarker)(Context *context, void *self, int closing);

/* A recorded operation. Headers are kept for routing gradients, storage only where backward reads it. */
typedef struct Node {
    OpCall call;
    int64_t serial; /* its own for ever; increases along the tape */
    Tensor *in[OP_MAX_INPUTS], *out;
    Storage *saved[OP_MAX_INPUTS], *saved_out, *extra[OP_MAX_EXTRAS];
    unsigned by_header; /* OP_INPUT(i): a parameter, read in backward where its header has its data then */
    int recomputed[OP_MAX_INPUTS]; /* instead of saved: 1 + index of the node that recomputes it; 0 = saved */
    const Storage *makes;          /* what this node can recompute: to recognise it, not held */
    Storage *recomputed_out;       /* recomputed, while others are still to read it */
    int readers;                   /* nodes that want it recomputed and have not read it yet */
    int path;
    /* A checkpointed module instead of an op (row NULL): in[0] / saved[0] is its input, which may be absent.
     * The batch is a copy, with what its tensors held: the loader may be further on when backward comes. */
    CheckpointForward forward;
    void *self;
    /* Or a marker, which has nothing but its path: backward calls it when it comes by. */
    TapeMarker marker;
    int closing; /* the second of a pair, which backward meets first */
    int has_batch, selective;
    Batch batch;
    Tensor *batch_in[BATCH_TENSORS];
    Storage *batch_saved[BATCH_TENSORS];
    RandomState random;
} Node;

/* A context records on one tape, context->tape. Others may be made, and put there in turn: each is run, or
 * destroyed, by itself. */
struct Tape {
    Context *context;
    Node *nodes;
    int count, capacity;
};

Tape *tape_create(Context *context); /* empty; NULL without host memory */
void tape_destroy(Tape *tape);       /* with all that it holds; NULL is fine */
/* Room for one more node, so that recording cannot fail half-way. Returns 0 or raises. */
int tape_reserve(Tape *tape);
Node *tape_push(Tape *tape);                          /* zeroed; after tape_reserve */
void tape_node_release(Context *context, Node *node); /* everything a node holds */
void tape_cut(Tape *tape, int count);                 /* releases nodes from the end down to count */
/* Takes a reference; the first save turns a temporary into an activation. */
Storage *tape_save(Storage *storage);
/* Keeps input i of this node for backward: its storage; or (tensor_recompute) the node that recomputes it; or
 * nothing, for a parameter, whose data may go and come again while the tape holds its header. */
void tape_save_input(Tape *tape, Node *node, int i);
/* What backward reads of input i of this node; NULL = nothing, or a parameter whose data are gone. */
const Storage *tape_kept_input(const Node *node, int i);
/* The tensor is an input of the operation with this serial. If it is a leaf, remembers who used it first. */
void tape_use(const Tape *tape, Tensor *input, int64_t serial);
/* Says that this node can recompute `storage`. */
void tape_offer(const Tape *tape, Node *node, Storage *storage);

/* Releases operations from the end on whose results nobody can reach any more: no backward can start from
 * them. */
void tape_cut_unreachable(Tape *tape);
/* Opens a pair of markers; returns what closes it, or 0 after raising. */
int64_t tape_mark(Tape *tape, TapeMarker marker, void *self);
/* Closes the pair. One with nothing in between leaves the tape, so that nobody is told of it. */
void tape_mark_end(Tape *tape, int64_t mark);
/* `self` goes: no marker of it is called any more. */
void tape_forget(const Tape *tape, const void *self);

/* 1: a tape needs no hold on its storage. A parameter lives longer than a step, and whoever frees or replaces
 * its data between forward and backward has them there again when backward reads them. */
int tensor_saved_by_header(const Tensor *tensor);

/* Raises that a loss is not finite, and where the first such value came from: made by `what` where name is
 * NULL, else a parameter or another input of it, of that name; what NULL = none was found. */
int loss_raise_(float loss, const char *what, const char *name, int parameter);
/* The same of what the tape keeps, looked through in the order in which it was computed. */
void loss_blame_(const Tape *tape, float loss);
/* Runs the tape, the context's, backward down to `mark`; output gradients are in place. Returns error_code().
 */
int backward_run(Tape *tape, int mark);
void backward_checkpoint(Tape *tape, Node *node);
/* Takes over the caller's reference. What was there is the caller's to release. */
void gradient_set(Tensor *tensor, Storage *storage);
/* Of the elements of its gradient. */
DType gradient_type(const Tensor *tensor);
/* Gives a leaf a gradient of zeros, charged to its module path, if it has none: the gradient was kept when a
 * run was saved. Returns 0 or raises. */
int gradient_zeros(Context *context, Tensor *leaf);
/* The hook stays the caller's, who removes it before it goes. Hooks are told in the order they were added. */
void gradient_hook_add(Context *context, GradientHook *hook);
void gradient_hook_remove(Context *context, const GradientHook *hook);
/* Around a backward: before it, which a hook may refuse (then it raises); when a node is off the tape, so
 * that the leaves that it was the first to use get nothing any more; and after it. */
int gradients_begin_(Context *context);
void gradients_final_(Context *context, const Node *node);
void gradients_end_(Context *context);

/* Bytes that the context's card could still give; 0 on the CPU. */
uint64_t context_device_available(const Context *context);
/* What is in use on the context's card now, and what of it was there before the run, or was taken while the
 * card was opened; all 0 on the CPU. */
CudaUse context_device_use(const Context *context);
/* ---- One of several ranks ---------------------------------------------------------------------
 * context->ranks is not NULL then (ranks_.h). */

/* What ranks have sent each other. Equal on all of them, in a plan and in its run. */
typedef struct RankTraffic {
    uint64_t hash;  /* of all collectives, in order: kind and bytes */
    uint64_t sent;  /* bytes that leave each rank */
    uint64_t calls; /* collectives */
} RankTraffic;
RankTraffic context_traffic_(const Context *context); /* all 0: alone */
int context_rank_(const Context *context);            /* among those that share a step's samples */
int context_ranks_(const Context *context);           /* how many; 1: alone */
int context_stage_(const Context *context);           /* of the model that this rank has */
int context_stages_(const Context *context);          /* that the model has; 1: it is whole */
int context_tensor_ranks_(const Context *context);    /* that compute a layer together; 1: alone */
int context_divides_rows_(const Context *context);    /* and what lies between such layers, by rows */

/* The parameter is this rank's part of one whose dimension `dim` is so many times as large. packed: how many
 * layers lie side by side in it, of each of which ranks have a part; 1 otherwise. Before it is filled: what
 * it is filled with at random is its part of the whole's. (split.c) */
void tensor_split_(Tensor *parameter, int dim, int packed);
/* The parameter is this rank's part of one with so many rows: as many as every rank has, one after another
 * (tensor_rows_each_: in units of what ranks' parts are multiples of). Behind the last of the whole they are
 * padding, which is 0 and stays 0. */
void tensor_split_rows_(Tensor *parameter, int64_t rows);
int64_t tensor_rows_each_(const Context *context, int64_t rows);
/* The shape of all ranks' parts together, in files, and its elements, without padding. */
Shape tensor_whole_shape_(const Tensor *parameter);
int64_t tensor_whole_numel_(const Tensor *parameter);
/* Where element `first` lies in the whole, both in the order of files. *count: how many elements from it on
 * are asked for; then how many of them lie side by side there. What is behind the end of the whole is
 * padding. A parameter that is whole, or NULL: where it is. */
int64_t tensor_place_(const Tensor *parameter, int64_t first, int64_t *count);
/* The same in the order in which they are stored, which of a transposed weight is another; and how many then
 * lie side by side; 0: it is whole. */
int64_t tensor_stored_place_(const Tensor *parameter, int64_t first, int64_t *count);
int64_t tensor_stored_piece_(const Tensor *parameter);
/* Of a parameter's rows those that are no padding: `count` from row `first` of the whole on, of `all`. */
typedef struct RowsPart {
    int64_t first, count, all;
} RowsPart;
RowsPart tensor_rows_part_(const Tensor *parameter);
/* Around what ranks compute together (ops_ranks.c). x, whose gradient is the sum of all ranks'; nothing where
 * nobody is there. */
Tensor *tensor_enter_(Tensor *x);
/* The sum of all ranks' x, in x's storage where x is donated; plus bias (last dimension) or NULL. */
Tensor *tensor_leave_(Tensor *x, Tensor *bias);
/* Where ranks have a part of the rows (batch x sequence) each of what lies between layers that they compute
 * together (ops_rows.c). `whole`: (B,T,C), of all rows.
 * Entering gathers them (B,T,C), and again in backward where its readers need it; the gradient's sum over
 * ranks is taken apart. */
Tensor *tensor_enter_rows_(Tensor *x, Shape whole);
/* This rank's rows (rows,C) of the sum of all ranks' x (B,T,C); plus bias or NULL. Backward gathers. */
Tensor *tensor_leave_rows_(Tensor *x, Tensor *bias);
/* This rank's rows of what every rank has, with no gradient: (B,T) becomes (rows). */
Tensor *tensor_own_rows_(Tensor *x);
/* tensor_add_rows_from and tensor_dropout of such rows: as those of the whole. */
Tensor *tensor_add_rows_part_(Tensor *x, Tensor *table, int64_t first, int64_t rows);
Tensor *tensor_dropout_part_(Tensor *x, float p, Shape whole);
/* Of `rows` rows those of one rank, and its first; each -1 after an error: the ranks do not divide them. */
int64_t context_rows_each_(const Context *context, int64_t rows);
int64_t context_rows_first_(const Context *context, int64_t rows);
/* The logits of all classes (…,all), of which each rank has computed those that `part` says (…,each). Their
 * gradient, which is the same on every rank, is taken apart again. */
Tensor *tensor_gather_classes_(Tensor *logits, RowsPart part);
/* tensor_cross_entropy_with of logits that are a part of the classes: every rank has the same labels, and
 * gets the same loss. */
Tensor *tensor_cross_entropy_part_(Tensor *logits, RowsPart part, Tensor *labels, const LossOptions *options);

/* What of a parameter this rank updates, and where it lies: all of it, or its part. */
typedef struct TensorPart {
    int64_t first, count;                   /* elements of the parameter */
    int64_t each;                           /* that every rank has room for */
    const Storage *weights, *master, *grad; /* NULL: there is none */
    DType type, grad_type; /* of weights and grad; a master is fp32, and begins with the first element */
    int64_t at, grad_at;   /* the first element's place in weights and grad */
    int counts;            /* a norm over all ranks counts it here */
} TensorPart;
TensorPart tensor_part_(const Tensor *parameter);
/* Before updates: sums what is still each rank's own. After: whole weights everywhere, where ranks have them.
 * 0, or raises. */
int tensor_reduce_(Tensor *parameter);
int tensor_updated_(Tensor *parameter);
/* Whether parameters of this context may be divided so that reading them gathers them. Gathers between begin
 * and end go on together: nobody reads what is gathered before the end. Both may raise. */
int tensor_is_divided_(const Context *context);
void tensor_gathers_begin_(Context *context);
void tensor_gathers_later_(Context *context); /* they go on while other things are computed and sent */
void tensor_gathers_end_(Context *context);
/* Once a step, before anything is updated: the loss of the step, *squares and *bad become sums over ranks. 0,
 * or raises: the ranks are not at the same place. Nothing where the context is alone. */
int ranks_agree_(Context *context, double *squares, int *bad);
/* The word has to be the same on all ranks that compute a layer together; else it raises that they have
 * `what`: "drawn other tokens". Planned. 0, or raises. Nothing where no layer is divided. */
int ranks_same_(Context *context, uint64_t word, const char *what);
/* With the next update the other ranks hear that this one is asked to stop, by what is not 0; the last update
 * brought what any of them, this one too, is asked by. Alone, nothing is heard. */
void context_ask_to_stop_(Context *context, int reason);
int context_stopped_(const Context *context);
/* Raises, on all ranks but those that say more, that some have met something bad. */
int ranks_other_(const char *what);

/* Outside steps (ranks_meet.c). Both are called by all ranks, whatever happened to one, and nothing of them
 * is planned. On meta, and alone, there is nobody. */

/* What each rank says, and then rank 0's and the largest. */
typedef struct RankValue {
    int64_t mine, first, most;
} RankValue;
/* All wait for all. An error of one becomes everybody's, with the same code. value may be NULL. Returns
 * error_code(). */
int ranks_agree_error_(Context *context, RankValue *value);
/* The same of the ranks that have parts of the same parameters, and say nothing else. */
int ranks_agree_parts_(Context *context);
/* Part r of the host's data comes from the one that has part r of parameters. 0, or raises. */
int ranks_gather_parts_(const Context *context, void *data, uint64_t bytes);
/* The same in the current context, with nothing to say. */
int ranks_agreed_(void);
/* Whether the current context does what is done once: it is alone, or rank 0. */
int ranks_first_(void);
/* All ranks, whatever they share, and which of them this is. */
int ranks_count_(const Context *context);
int ranks_place_(const Context *context);
/* Part r of the host's data, of `bytes`, a multiple of 64, comes from rank r. 0, or raises. */
int ranks_gather_(const Context *context, void *data, uint64_t bytes);

/* ---- On a card -------------------------------------------------------------------------------
 * context->card is not NULL then. A step never waits: what the host has to know is put down on the card, and
 * read once. */

/* Updates will read from *card_control: nothing is to be updated after a fault, a loss that is not finite, or
 * gradients of which one is not; and the factor on every gradient, which undoes the scale of the loss and
 * clips (max_norm 0: does not). squares (count): the sum of each gradient's squares. */
void card_find_control(Context *context, const double *squares, int64_t count, double scale, float max_norm);
const struct UpdateControl *card_control(const Context *context);
/* Of several ranks, after that (waits): what their updates read is everybody's, and *squares are those of all
 * gradients that are counted; -1: the context is alone. 0, or raises. */
int card_agree(Context *context, double scale, float max_norm, double *squares);
/* Waits for the step, and raises what went wrong in it. squares: of all gradients. Returns error_code(). */
int card_step_read(Context *context, int *skip, double *squares);
/* The next operation begins another step. */
void card_step_end(Context *context);
/* What has gone wrong is looked at, and not raised (waits). 0, or -1: the card does not answer. */
int card_look(Context *context);
/* Whether an update put on the card after this operation, and before another, has written anything; by what
 * was read last. */
int card_took_effect(const Context *context, int64_t operation);
/* A number of rows, at most `most`, that a kernel has counted (waits). */
void card_read_count(const KernelRun *run, const int64_t *at, int64_t most, int64_t *count);
/* The index of the first element that is not finite (waits); -1 = all are. */
int64_t card_find_nonfinite(Context *context, DType type, int64_t n, const void *values);

static inline void *storage_data(const Storage *storage)
{
    return storage ? storage->block.data : NULL;
}

static inline float *storage_f32(const Storage *storage)
{
    return storage ? (float *)storage->block.data : NULL;
}

#endif
