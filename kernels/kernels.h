/* kernels: raw pointers and sizes, one function an op, one table a device.
 *
 * The CPU table is compiled once per instruction set (cpu.c) and chosen at run time; reference.c holds the
 * same functions written plainly, and is what the tests compare with. Kernels allocate nothing: workspace
 * comes from the caller, sized by the *_workspace functions. table.h lists them, with what holds for all.
 *
 * OpenMP in kernels: gcc's parallel regions run on team.c, which has `parallel` and `parallel for
 * schedule(static)` with num_threads, `barrier`, and the queries of the thread's number and count.
 * `schedule(dynamic)`, `critical`, `single`, `task`, `sections` and `ordered` do not exist there: they
 * compile and fail to link. Reductions are written by hand, over fixed partitions.
 */
#ifndef BRIM_KERNELS_H
#define BRIM_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "../base/dtype.h"
#include "../base/kernel_run.h"

typedef enum Activation { ACT_NONE, ACT_GELU, ACT_GELU_TANH, ACT_SILU, ACT_RELU, ACT_TANH } Activation;

/* y (rows, out) = act(x (rows, in) W^T + bias). W is (out, in), or (in, out) when in_out is set (GPT-2's
 * Conv1D). */
typedef struct LinearDims {
    int64_t rows, in, out;
    int in_out;
    DType x, y; /* types: of x and its gradient; of y, what is before the activation, and their gradient */
    int64_t
        ldy; /* elements between rows of y, of what is before the activation, and of their gradient; 0: out */
} LinearDims;

static inline int64_t linear_ldy(const LinearDims *d)
{
    return d->ldy ? d->ldy : d->out;
}

/* An array as it is stored, of any type: (rows, cols), whatever the shape that it has elsewhere. */
typedef struct StoredArray {
    const void *at;
    DType dtype;
    int64_t rows, cols;
} StoredArray;

/* What a linear layer computes: y, the gradient of x, or those of W and bias. */
typedef enum LinearPass { LINEAR_FORWARD, LINEAR_BACKWARD_INPUT, LINEAR_BACKWARD_WEIGHT } LinearPass;

typedef struct AttentionDims {
    DType type; /* of q, k, v, out, their gradients, and probs: f32 (0), bf16, f16 */
    int batch, seq, heads, kv_heads, head_dim; /* heads % kv_heads == 0; q (B,T,H,D), k and v (B,T,Hkv,D) */
    int causal;
    int window;    /* causal: a query sees its own key and window - 1 before it; else those at most window / 2
                      away, to either side; 0: all */
    float scale;   /* of the scores, usually 1/sqrt(head_dim) */
    float softcap; /* scores become softcap tanh(score / softcap) before masks; 0: they do not */
    int64_t ldq, ldk, ldv, ldo; /* elements between consecutive (b,t) rows: packed qkv has ld = 3C */
    int64_t lddq, lddk, lddv;   /* the same of the gradients (backward only) */
    const int32_t *key_mask;    /* (B,T), 0 = a padding key nobody attends to; NULL = none. A row with no key
                                   left yields zeros (and zero gradients), never NaN */
    int past, capacity; /* of attention_cached only: tokens read before q's first, and the cache's room */
    DType cached;       /* what the cache holds: f32 (0), bf16, f16 */
    int head_step; /* elements between consecutive heads of q, k, v and their gradients; 0 = head_dim. Another
                 only where kv_heads == heads */
} AttentionDims;

static inline int attention_head_step(const AttentionDims *d)
{
    return d->head_step ? d->head_step : d->head_dim;
}

/* act(gate) up of rows of c elements. Rows of gate and up, and of their gradients, are ld apart: where the
 * two lie side by side, up begins c behind gate and ld is 2c. Those of the result follow each other. */
typedef struct GatedDims {
    Activation act;
    int64_t rows, c;
    int64_t ld; /* 0: c */
} GatedDims;

static inline int64_t gated_ld(const GatedDims *d)
{
    return d->ld ? d->ld : d->c;
}

/* What attention keeps from forward to backward: eager its probabilities or nothing, flash the log-sum-exp.
 */
typedef enum AttentionKept { KEPT_PROBS, KEPT_LSE, KEPT_NOTHING } AttentionKept;

typedef struct CrossEntropyDims {
    int64_t rows;
    int64_t classes;
    int32_t ignore_index;             /* rows with this label count nothing and get zero gradients */
    int64_t first_row;                /* of a part: the index of its first row, in faults */
    int64_t first_class, all_classes; /* of a part of the classes; all_classes 0: it is no part */
    int64_t ld;                       /* elements between rows of logits, and of their gradient; 0: classes */
    int64_t padding; /* of a part: elements behind its classes whose gradient is 0; ld has room for them */
    float softcap;   /* logits x count as softcap tanh(x / softcap); 0: as they are */
} CrossEntropyDims;

/* What cross_entropy_part knows of a row: the largest of its logits, the sum of exponentials below it, and
 * the label's logit, or 0 where that is of another part. */
enum { PART_TOP, PART_SUM, PART_LABEL, CROSS_ENTROPY_PART };

/* Which rows of a table are here: those from `first` on, of `all`. all 0: it is the whole table. */
typedef struct TablePart {
    int64_t first, all;
} TablePart;

static inline int64_t cross_entropy_ld(const CrossEntropyDims *d)
{
    return d->ld ? d->ld : d->classes;
}

/* A dropout mask is a function of these, so that it is recomputed, never stored, and a sample's mask does not
 * depend on how samples are grouped into micro-batches. x is (samples, per_sample). */
typedef struct DropoutKey {
    uint64_t seed;
    uint64_t step;
    uint64_t first_sample; /* index of x's first sample within the effective batch */
    uint32_t layer;        /* which dropout of the forward pass */
    /* x begins with this element of its samples, which have more than are here; a multiple of 4. */
    uint64_t first_element;
} DropoutKey;

/* How the frequencies of rotary positions are stretched. linear: all divided by factor. llama3: those of
 * waves longer than original_seq / low_freq_factor are, those shorter than original_seq / high_freq_factor
 * are not, and between the two it goes over smoothly. yarn: those of pairs from ramp_from + ramp_width on
 * are, those up to pair ramp_from are not, and between the two it goes over linearly. divided: each by a
 * number of its own. */
typedef enum RopeStretch { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN, ROPE_DIVIDED } RopeStretch;

/* x (B,T,H,D): of each head the first rotary_dim elements turn, the rest passes, as do `behind` columns
 * behind each group of heads. */
typedef struct RopeDims {
    int batch, seq, heads, head_dim;
    int64_t ld;  /* elements between consecutive (b,t) rows */
    float theta; /* 10000 or 500000 */
    int inverse; /* 1: rotate back (the gradient) */
    RopeStretch stretch;
    float factor;                                          /* of linear, llama3 and yarn */
    float low_freq_factor, high_freq_factor, original_seq; /* of llama3 */
    int offset;                                            /* position of x's first row */
    int rotary_dim;  /* even; pairs (i, i + rotary_dim/2) as in Hugging Face's Llama; 0 = head_dim */
    int interleaved; /* 1: pairs (2i, 2i + 1) */
    int group;       /* heads side by side, between which and the next ones `behind` columns lie; 0 = all */
    int64_t behind;
    float scale;                 /* of cosines and sines; 0 = 1 */
    float ramp_from, ramp_width; /* of yarn */
    const float *divisors;       /* of divided: rotary_dim / 2 of them */
} RopeDims;

/* What rms_norm adds to each weight: for 0 the zero that leaves every one as it is, -0 too. */
static inline float norm_plus(float plus)
{
    return plus == 0.0f ? -0.0f : plus;
}

static inline int rope_width(const RopeDims *d)
{
    return d->rotary_dim ? d->rotary_dim : d->head_dim;
}

static inline int rope_group(const RopeDims *d)
{
    return d->group ? d->group : d->heads;
}

/* From a group of heads to the next, in elements. */
static inline int64_t rope_group_step(const RopeDims *d)
{
    return (int64_t)rope_group(d) * d->head_dim + d->behind;
}
/* A mixture of experts: each of `rows` tokens goes to `active` of the experts, so that there are rows *
 * active pairs of a token and an expert, whatever the routing. */
typedef struct ExpertsDims {
    int64_t rows, width, hidden; /* tokens; elements of each; of what an expert has between its products */
    int experts, active;
    int normalise; /* a token's weights are divided by their sum */
    Activation act;
    DType type, router; /* of x, y, what is kept, and their gradients; of the logits and their gradient */
} ExpertsDims;

/* Of `rows` tokens and `experts`, by the sorted place of a pair (t,j), j < active. */
typedef struct ExpertsRouting {
    float *weight;   /* (rows,active): the largest logit's first */
    int32_t *expert; /* (rows,active) */
    int32_t *place;  /* (rows,active): of the pair among all, sorted by expert, then by token */
    int32_t *pair;   /* (pairs): t * active + j of the pair at this place */
    int32_t *offset; /* (experts + 1): the place of an expert's first pair */
} ExpertsRouting;

/* For the loss that balances experts. stats (3,experts): how many tokens went to each, the sums of their
 * probabilities, and the gradient of those sums. */
typedef struct ExpertsBalance {
    float *stats;
    const int32_t *mask; /* (rows), 0 = a token that does not count; NULL: all do */
} ExpertsBalance;

/* What backward finds; NULL = it is not wanted. The gradients of weights are (experts,2 hidden,width) and
 * (experts,width,hidden); dweight is of each pair's weight, (rows,active). */
typedef struct ExpertsGradients {
    void *dx, *dgate_up, *ddown;
    float *dweight;
    float beta_x, beta_gate_up, beta_down;
    DType gate_up_type, down_type;
} ExpertsGradients;

/* Hyper-parameters of one update; field meanings are PyTorch's. weight_decay is decoupled in AdamW, added to
 * the gradient elsewhere. */
typedef struct UpdateScalars {
    float lr, weight_decay;
    float momentum, dampening; /* SGD, RMSprop */
    int nesterov;
    float alpha;        /* RMSprop smoothing */
    float beta1, beta2; /* Adam */
    float eps;
    int64_t step;  /* 1 for the first update: bias correction; SGD's buffer starts as the gradient itself */
    int decoupled; /* Adam: 1 = AdamW */
} UpdateScalars;

/* What 16-bit values are rounded at random by, so that what a rounding loses is lost on neither side: a bf16
 * value is rounded up with the probability of how near it is, by bits that are a function of these, of the
 * number of the update and of the element. */
typedef struct RoundingKey {
    uint64_t seed;
    uint32_t parameter; /* which of the optimizer's */
} RoundingKey;

enum { UPDATE_STATES = 2 };

/* One parameter's arrays, n elements each, as an update reads and writes them. */
typedef struct UpdateArrays {
    int64_t n;
    void *p;       /* the parameter, f32 or 16 bit */
    float *master; /* what is updated; p is then a copy, rounded to nearest. NULL: p itself is updated */
    const void *g; /* the gradient, f32 or 16 bit */
    void *state[UPDATE_STATES]; /* f32, 16 or 8 bit (dynamic8); NULL where the rule has none */
    DType p_type, g_type, state_type[UPDATE_STATES];
    int64_t first; /* these are elements [first, first + n) of the parameter, for rounding; a multiple of 8 */
    const RoundingKey *rounding; /* of bf16 states, and of p without a master; NULL = to nearest */
} UpdateArrays;

/* What is known only when all gradients are: updates read it from memory, so that the device that finds it
 * need not ask the host. */
typedef struct UpdateControl {
    int32_t skip;     /* not 0: nothing is written */
    float grad_scale; /* multiplies every gradient first: norm clipping, loss scaling */
} UpdateControl;

typedef struct Kernels {
    const char *name; /* "reference", "base", "avx2", "avx512", "avx512-bf16" */
#define KERNEL(type, kernel, arguments) type(*kernel) arguments;
#include "table.h"
} Kernels;

/* The fastest table this processor can run (BRIM_ISA=base|avx2|avx512|avx512-bf16|reference overrides); never
 * NULL. avx512-bf16 is avx512, but for products of bf16 by bf16, which dot instructions compute.
 * name NULL = choose; an unknown or unsupported name returns NULL. */
const Kernels *kernels_cpu(const char *name);
const Kernels *kernels_reference(void);
/* Of a CUDA card: pointers, but for dims and scalars, are the card's; nothing waits; the *_workspace
 * functions ask no card. run->device is the card. */
const Kernels *kernels_cuda(void);
/* The kernels for a card of this capability (90), as its driver loads them: which = 0, 1 … in the order to
 * try. The caller frees them (memtrack_host_free). NULL: without host memory, or with *bytes = 0 no more. */
void *kernels_cuda_unpack(int capability, int which, size_t *bytes);
/* Opens a card (device/cuda.h) with the kernels that are part of the library, and finds each. 0, or -1 with a
 * sentence, and nothing is open. */
int kernels_cuda_open(struct CudaDevice *device, int ordinal, char *why, size_t size);
/* Finds its kernels in the module of an open card. 0, or -1 with a sentence. */
int kernels_cuda_load(struct CudaDevice *device, char *why, size_t size);

/* Products. kernels_blas_start finds the BLAS library (blas.c says which), switches it to fast kernels where
 * it does not choose them itself, warms its buffers and the thread pool; call once before timing (idempotent,
 * thread-safe). Returns 0; -1 when BRIM_BLAS names what cannot be used, as kernels_blas_error says: products
 * are then brim's own. Nothing else here starts a library but the first product and the functions below. */
int kernels_blas_start(int threads);
/* What serves products: "OpenBLAS 0.3.21 SkylakeX", "brim's own products"; and its file, NULL = none. */
const char *kernels_blas_name(void);
const char *kernels_blas_path(void);
/* Why products are slower than they need to be, and what to do; NULL = they are not. */
const char *kernels_blas_warning(void);
const char *kernels_blas_error(void);
/* Logical processors this process may use, or what BRIM_THREADS says. */
int kernels_default_threads(void);

#endif
