/* kernels: raw pointers and sizes, one function an op, one table a device.
 *
 * The CPU table is compiled once per instruction set (cpu.c) and chosen at run time; reference.c holds the
 * same functions written plainly, and is what the tests compare with. Kernels allocate nothing: workspace
 * comes from the caller, sized by the *_workspace functions. `beta` says what happens to an output: 0
 * overwrites (whatever was there, NaN too), 1 accumulates. Unless a comment says otherwise, pointers do not
 * overlap.
 *
 * All arrays are contiguous row-major float (fp32) unless a leading dimension (ld*) is given, counted in
 * elements. Results depend on `threads` but never on scheduling: work and partial sums are partitioned
 * statically. Functions that return int64_t return -1 for success, else the index of the first bad element (a
 * label or id out of range); nothing is written out of bounds then.
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

typedef enum Activation { ACT_NONE, ACT_GELU, ACT_GELU_TANH, ACT_SILU, ACT_RELU } Activation;

/* y (rows, out) = act(x (rows, in) W^T + bias). W is (out, in), or (in, out) when in_out is set (GPT-2's
 * Conv1D). */
typedef struct LinearDims {
    int64_t rows, in, out;
    int in_out;
} LinearDims;

typedef struct AttentionDims {
    int batch, seq, heads, kv_heads, head_dim; /* heads % kv_heads == 0; q (B,T,H,D), k and v (B,T,Hkv,D) */
    int causal;
    float scale;                /* of the scores, usually 1/sqrt(head_dim) */
    int64_t ldq, ldk, ldv, ldo; /* elements between consecutive (b,t) rows: packed qkv has ld = 3C */
    int64_t lddq, lddk, lddv;   /* the same of the gradients (backward only) */
    const int32_t *key_mask;    /* (B,T), 0 = a padding key nobody attends to; NULL = none. A row with no key
                                   left yields zeros (and zero gradients), never NaN */
    int past, capacity; /* of attention_cached only: tokens in the cache before q's first, and its room */
} AttentionDims;

/* What attention keeps from forward to backward: eager its probabilities or nothing, flash the log-sum-exp.
 */
typedef enum AttentionKept { KEPT_PROBS, KEPT_LSE, KEPT_NOTHING } AttentionKept;

typedef struct CrossEntropyDims {
    int64_t rows;
    int64_t classes;
    int32_t ignore_index; /* rows with this label count nothing and get zero gradients */
} CrossEntropyDims;

/* A dropout mask is a function of these, so that it is recomputed, never stored, and a sample's mask does not
 * depend on how samples are grouped into micro-batches. x is (samples, per_sample). */
typedef struct DropoutKey {
    uint64_t seed;
    uint64_t step;
    uint64_t first_sample; /* index of x's first sample within the effective batch */
    uint32_t layer;        /* which dropout of the forward pass */
} DropoutKey;

/* How the frequencies of rotary positions are stretched. linear: all divided by factor. llama3: those of
 * waves longer than original_seq / low_freq_factor are, those shorter than original_seq / high_freq_factor
 * are not, and between the two it goes over smoothly. */
typedef enum RopeStretch { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3 } RopeStretch;

typedef struct RopeDims {
    int batch, seq, heads, head_dim; /* x (B,T,H,D), D even; pairs (i, i + D/2) as in Hugging Face's Llama */
    int64_t ld;                      /* elements between consecutive (b,t) rows */
    float theta;                     /* 10000 or 500000 */
    int inverse;                     /* 1: rotate back (the gradient) */
    RopeStretch stretch;
    float factor;                                          /* of linear and llama3 */
    float low_freq_factor, high_freq_factor, original_seq; /* of llama3 */
    int offset;                                            /* position of x's first row */
} RopeDims;

/* Hyper-parameters of one update; field meanings are PyTorch's. grad_scale multiplies every gradient first
 * (norm clipping); weight_decay is decoupled in AdamW, added to the gradient elsewhere. */
typedef struct UpdateScalars {
    float lr, grad_scale, weight_decay;
    float momentum, dampening; /* SGD, RMSprop */
    int nesterov;
    float alpha;        /* RMSprop smoothing */
    float beta1, beta2; /* Adam */
    float eps;
    int64_t step;  /* 1 for the first update: bias correction; SGD's buffer starts as the gradient itself */
    int decoupled; /* Adam: 1 = AdamW */
} UpdateScalars;

typedef struct Kernels {
    const char *name; /* "reference", "base", "avx2", "avx512" */

    /* C (M,N) = alpha op(A) op(B) + beta C. trans_a: A is stored (K,M). trans_b: B is stored (N,K). */
    void (*gemm)(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                 int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc, int threads);

    /* pre (rows,out): the value before the activation, written when not NULL (may be NULL with ACT_NONE /
     * ACT_RELU). y may equal pre only with ACT_NONE. bias (out) may be NULL. */
    void (*linear_forward)(const LinearDims *d, Activation act, const float *x, const float *w,
                           const float *bias, float *pre, float *y, int threads);
    /* dx (rows,in) = dy (rows,out) W + beta dx */
    void (*linear_backward_input)(const LinearDims *d, const float *dy, const float *w, float beta, float *dx,
                                  int threads);
    /* dw = dy^T x + beta_w dw, in W's layout; dbias = column sums of dy + beta_b dbias. Either may be NULL.
     */
    void (*linear_backward_weight)(const LinearDims *d, const float *x, const float *dy, float beta_w,
                                   float *dw, float beta_b, float *dbias, float *workspace, int threads);
    size_t (*linear_workspace)(const LinearDims *d, int threads); /* bytes, of backward_weight */

    /* y (n,c) = table[ids[i]]; ids in [0, vocab). */
    int64_t (*embedding_forward)(int64_t n, int64_t c, int64_t vocab, const int32_t *ids, const float *table,
                                 float *y, int threads);
    /* dtable[ids[i]] += dy[i]; partitioned by strips of columns, so that few ids do not unbalance it. dtable
     * is zeroed by the caller beforehand. ids were checked by forward. */
    void (*embedding_backward)(int64_t n, int64_t c, int64_t vocab, const int32_t *ids, const float *dy,
                               float *dtable, int threads);

    /* Over the last dimension c of (rows, c). mean and rstd (rows) are kept for backward. bias may be NULL.
     */
    void (*layer_norm_forward)(int64_t rows, int64_t c, float eps, const float *x, const float *weight,
                               const float *bias, float *y, float *mean, float *rstd, int threads);
    /* dx may be NULL; dx may equal dy when beta_dx is 0. dweight / dbias may be NULL. */
    void (*layer_norm_backward)(int64_t rows, int64_t c, const float *x, const float *weight,
                                const float *mean, const float *rstd, const float *dy, float beta_dx,
                                float *dx, float beta_dw, float *dweight, float beta_db, float *dbias,
                                float *workspace, int threads);
    void (*rms_norm_forward)(int64_t rows, int64_t c, float eps, const float *x, const float *weight,
                             float *y, float *rstd, int threads);
    void (*rms_norm_backward)(int64_t rows, int64_t c, const float *x, const float *weight, const float *rstd,
                              const float *dy, float beta_dx, float *dx, float beta_dw, float *dweight,
                              float *workspace, int threads);
    size_t (*norm_workspace)(int64_t rows, int64_t c, int threads); /* bytes, of either backward */

    /* Element-wise; y may equal x. Backward: dx = act'(x) dy + beta dx; dx may equal dy when beta is 0. `x`
     * is the input, but for ACT_RELU it may be the output as well (the sign is the same). */
    void (*activation_forward)(Activation act, int64_t n, const float *x, float *y, int threads);
    void (*activation_backward)(Activation act, int64_t n, const float *x, const float *dy, float beta,
                                float *dx, int threads);

    /* y = silu(gate) * up. dgate may equal gate, dup may equal up, either may equal dy, where its beta is 0
     * (each element is read before it is written). dgate or dup may be NULL. */
    void (*swiglu_forward)(int64_t n, const float *gate, const float *up, float *y, int threads);
    void (*swiglu_backward)(int64_t n, const float *gate, const float *up, const float *dy, float beta_gate,
                            float *dgate, float beta_up, float *dup, int threads);

    /* y may equal x; ld is of both. Positions are offset..offset+seq-1. y = rotated x + beta y. */
    void (*rope)(const RopeDims *d, const float *x, float beta, float *y, int threads);

    /* eager keeps probs (B,H,T,T) for backward. Masked entries of probs are 0. With probs NULL in both,
     * forward keeps nothing and backward recomputes them, bit for bit. */
    void (*attention_eager_forward)(const AttentionDims *d, const float *q, const float *k, const float *v,
                                    float *out, float *probs, float *workspace, int threads);
    /* dq, dk, dv are overwritten. dout and out are (B,T,H*D) with ldo. */
    void (*attention_eager_backward)(const AttentionDims *d, const float *q, const float *k, const float *v,
                                     const float *out, const float *probs, const float *dout, float *dq,
                                     float *dk, float *dv, float *workspace, int threads);
    /* flash keeps lse (B,H,T), the log-sum-exp of each row's scaled scores; -INFINITY where no key is left.
     */
    void (*attention_flash_forward)(const AttentionDims *d, const float *q, const float *k, const float *v,
                                    float *out, float *lse, float *workspace, int threads);
    void (*attention_flash_backward)(const AttentionDims *d, const float *q, const float *k, const float *v,
                                     const float *out, const float *lse, const float *dout, float *dq,
                                     float *dk, float *dv, float *workspace, int threads);
    /* bytes; of all four, by what is kept between them */
    size_t (*attention_workspace)(const AttentionDims *d, AttentionKept kept, int backward, int threads);

    /* Attention over a cache of keys and values, (2, B, Hkv, capacity, D): all keys, then all values, a
     * head's rows together. append puts k and v (B,T,Hkv,D) at rows past..past+T-1; then query t sees rows
     * 0..past+t. Causal, without key_mask. */
    void (*attention_append)(const AttentionDims *d, const float *k, const float *v, float *cache,
                             int threads);
    void (*attention_cached)(const AttentionDims *d, const float *q, const float *cache, float *out,
                             float *workspace, int threads);
    /* bytes; whatever `past` is */
    size_t (*attention_cached_workspace)(const AttentionDims *d, int threads);

    /* loss[0] = scale * sum over counted rows of (lse(row) - logit(label)); lse (rows) is kept for backward.
     * Returns the first row whose label is neither ignore_index nor in [0, classes), else -1. */
    int64_t (*cross_entropy_forward)(const CrossEntropyDims *d, const float *logits, const int32_t *labels,
                                     float scale, float *loss, float *lse, float *workspace, int threads);
    /* dlogits = (softmax - onehot) * scale * dloss + beta dlogits; dlogits may equal logits when beta is 0.
     */
    void (*cross_entropy_backward)(const CrossEntropyDims *d, const float *logits, const int32_t *labels,
                                   float scale, const float *lse, float dloss, float beta, float *dlogits,
                                   int threads);
    size_t (*cross_entropy_workspace)(const CrossEntropyDims *d, int threads); /* bytes, of forward */

    /* y = keep(x) / (1 - p) + beta y; y may equal x when beta is 0. The same call is its own backward. p in
     * [0, 1). */
    void (*dropout)(int64_t samples, int64_t per_sample, float p, const DropoutKey *key, const float *x,
                    float beta, float *y, int threads);

    /* Element-wise helpers of the engine. In each, y may equal an input. */
    void (*fill)(int64_t n, float value, float *y, int threads);
    void (*copy)(int64_t n, const float *x, float *y, int threads);
    void (*add)(int64_t n, const float *a, const float *b, float *y, int threads);
    /* y (rows, c) = a (rows, c) + b (c) */
    void (*add_row)(int64_t rows, int64_t c, const float *a, const float *b, float *y, int threads);
    /* dbias (c) = column sums of dy (rows, c) + beta dbias */
    void (*column_sum)(int64_t rows, int64_t c, const float *dy, float beta, float *dbias, float *workspace,
                       int threads);
    size_t (*column_sum_workspace)(int64_t rows, int64_t c, int threads);
    /* y = alpha x + beta y */
    void (*scale)(int64_t n, float alpha, const float *x, float beta, float *y, int threads);
    /* y = a * b + beta y */
    void (*multiply)(int64_t n, const float *a, const float *b, float beta, float *y, int threads);
    /* In double, over fixed blocks: the result does not depend on threads. */
    double (*sum)(int64_t n, const float *x, int threads);
    double (*sum_squares)(int64_t n, const float *x, int threads);
    /* Index of the first element that is NaN or infinite, else -1. */
    int64_t (*find_nonfinite)(int64_t n, const float *x, int threads);
    /* y[i] from Philox(seed, stream, i): the same on every device and for any thread count.
     * normal: Box-Muller; uniform in [low, high). */
    void (*fill_normal)(int64_t n, uint64_t seed, uint64_t stream, float mean, float std, float *y,
                        int threads);
    void (*fill_uniform)(int64_t n, uint64_t seed, uint64_t stream, float low, float high, float *y,
                         int threads);

    /* Optimizer updates, PyTorch's rules, in one pass. State arrays are zero before step 1. NULL where
     * unused: sgd's buffer without momentum, rmsprop's buffer without momentum. */
    void (*sgd)(int64_t n, const UpdateScalars *s, float *p, const float *g, float *momentum, int threads);
    void (*rmsprop)(int64_t n, const UpdateScalars *s, float *p, const float *g, float *square,
                    float *momentum, int threads);
    void (*adagrad)(int64_t n, const UpdateScalars *s, float *p, const float *g, float *sum, int threads);
    void (*adam)(int64_t n, const UpdateScalars *s, float *p, const float *g, float *first, float *second,
                 int threads);
} Kernels;

/* The fastest table this processor can run (BRIM_ISA=base|avx2|avx512|reference overrides); never NULL.
 * name NULL = choose; an unknown or unsupported name returns NULL. */
const Kernels *kernels_cpu(const char *name);
const Kernels *kernels_reference(void);

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
