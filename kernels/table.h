/* Every kernel, a line each: KERNEL(type of the result, name, (arguments)). Who includes this defines KERNEL,
 * and gets with it the member of Kernels (kernels.h), the rows of the CPU's and the reference's tables, and
 * the prototypes of the reference (reference_.h).
 *
 * `beta` says what happens to an output: 0 overwrites (whatever was there, NaN too), 1 accumulates. Unless a
 * comment says otherwise, pointers do not overlap. Arrays are contiguous row-major float (fp32) unless a
 * leading dimension (ld*) is given, counted in elements, or a StoredArray says its type. Arrays of values
 * that are `void` are f32, bf16 or f16: of `type`, or of the type beside them. Kernels compute in f32 and
 * round once what they store. Results depend on run->threads, but never on scheduling: work and partial sums
 * are partitioned statically. Scalar results go through pointers. A kernel that checks integers writes the
 * index of the first bad one into *run->fault, which is -1 before; nothing is written out of bounds then. The
 * *_workspace functions say bytes, and are plain C on every device. */

/* C (M,N) = alpha op(A) op(B) + beta C. trans_a: A is stored (K,M). trans_b: B is stored (N,K). */
KERNEL(void, gemm,
       (int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
        const float *b, int64_t ldb, float beta, float *c, int64_t ldc, const KernelRun *run))

/* The same of stored arrays, whose cols are their leading dimensions: A of f32 or 16 bit, B of any type, C of
 * c_type, f32 or 16 bit. Sums are f32, and rounded once. Brim's own product, whatever the types; a card's
 * library multiplies operands of one type, to which what is of another is rounded (cuda/products.c). */
KERNEL(void, gemm_stored,
       (int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const StoredArray *a,
        const StoredArray *b, float beta, DType c_type, void *c, int64_t ldc, void *workspace,
        const KernelRun *run))
/* bytes, of arrays of these types; the same for every instruction set */
KERNEL(size_t, gemm_stored_workspace,
       (int64_t m, int64_t n, int64_t k, DType a, DType b, DType c, const KernelRun *run))

/* Types of x, y and pre: d says, and how far apart rows of y, pre and dy are; what lies between the end of
 * one and the next is neither read nor written. pre (rows,out): the value before the activation, written when
 * not NULL (may be NULL with ACT_NONE / ACT_RELU). y may equal pre only with ACT_NONE. bias (out) may be
 * NULL. y is the activation of what pre holds: in 16 bit, of the rounded value, so that it can be computed
 * again from pre. Where x or y has 16 bit, a card multiplies in 16 bit, with W and bias rounded to that. */
KERNEL(void, linear_forward,
       (const LinearDims *d, Activation act, const void *x, const StoredArray *w, const float *bias,
        void *pre, void *y, void *workspace, const KernelRun *run))
/* dx (rows,in) = dy (rows,out) W + beta dx */
KERNEL(void, linear_backward_input,
       (const LinearDims *d, const void *dy, const StoredArray *w, float beta, void *dx, void *workspace,
        const KernelRun *run))
/* dw = dy^T x + beta_w dw, in W's layout; dbias = column sums of dy + beta_b dbias, each of the type before
 * it. Either may be NULL. */
KERNEL(void, linear_backward_weight,
       (const LinearDims *d, const void *x, const void *dy, DType dw_type, float beta_w, void *dw,
        DType dbias_type, float beta_b, void *dbias, void *workspace, const KernelRun *run))
/* bytes, of one pass with a weight, or LINEAR_BACKWARD_WEIGHT into a gradient, of type w; the same for every
 * instruction set, with or without a BLAS */
KERNEL(size_t, linear_workspace, (const LinearDims *d, LinearPass pass, DType w, const KernelRun *run))

/* y (n,c) = table[ids[i]], table (vocab,c); ids in [0, vocab), else a fault. Of a part of the table: ids in
 * [0, part.all), and zeros for those of other parts. */
KERNEL(void, embedding_forward,
       (DType type, int64_t n, const int32_t *ids, const StoredArray *table, TablePart part, void *y,
        const KernelRun *run))
/* dtable[ids[i] - first] += dy[i]; partitioned by strips of columns, so that few ids do not unbalance it;
 * ids of other rows than these vocab are left out. dtable is zeroed by the caller beforehand. ids were
 * checked by forward; n is below 2^31. In 16 bit, all that a row of dtable gets and what it holds is summed
 * in f32 and rounded once. */
KERNEL(void, embedding_backward,
       (DType type, int64_t n, int64_t c, int64_t vocab, int64_t first, const int32_t *ids, const void *dy,
        DType dtable_type, void *dtable, void *workspace, const KernelRun *run))
KERNEL(size_t, embedding_workspace, /* bytes, of backward */
       (int64_t n, int64_t vocab, DType dtable_type, const KernelRun *run))

/* Over the last dimension c of (rows, c). mean and rstd (rows) are kept for backward. bias may be NULL.
 */
KERNEL(void, layer_norm_forward,
       (DType type, int64_t rows, int64_t c, float eps, const void *x, const float *weight, const float *bias,
        void *y, float *mean, float *rstd, const KernelRun *run))
/* dx may be NULL; dx may equal dy when beta_dx is 0. dweight / dbias may be NULL. */
KERNEL(void, layer_norm_backward,
       (DType type, int64_t rows, int64_t c, const void *x, const float *weight, const float *mean,
        const float *rstd, const void *dy, float beta_dx, void *dx, DType dweight_type, float beta_dw,
        void *dweight, DType dbias_type, float beta_db, void *dbias, float *workspace, const KernelRun *run))
/* y = x rstd (plus + weight), and no mean. */
KERNEL(void, rms_norm_forward,
       (DType type, int64_t rows, int64_t c, float eps, float plus, const void *x, const float *weight,
        void *y, float *rstd, const KernelRun *run))
KERNEL(void, rms_norm_backward,
       (DType type, int64_t rows, int64_t c, float plus, const void *x, const float *weight,
        const float *rstd, const void *dy, float beta_dx, void *dx, DType dweight_type, float beta_dw,
        void *dweight, float *workspace, const KernelRun *run))
KERNEL(size_t, norm_workspace,
       (int64_t rows, int64_t c, const KernelRun *run)) /* bytes, of either backward */

/* Element-wise; y may equal x. Backward: dx = act'(x) dy + beta dx; dx may equal dy when beta is 0. `x`
 * is the input, but for ACT_RELU it may be the output as well (the sign is the same). */
KERNEL(void, activation_forward,
       (DType type, Activation act, int64_t n, const void *x, void *y, const KernelRun *run))
KERNEL(void, activation_backward,
       (DType type, Activation act, int64_t n, const void *x, const void *dy, float beta, void *dx,
        const KernelRun *run))

/* y = act(gate) * up. y may equal gate or up where ld is c. dgate may equal gate, dup may equal up, either
 * may equal dy where ld is c, where its beta is 0 (each element is read before it is written). dgate or dup
 * may be NULL. */
KERNEL(void, gated_forward,
       (const GatedDims *d, DType type, const void *gate, const void *up, void *y, const KernelRun *run))
KERNEL(void, gated_backward,
       (const GatedDims *d, DType type, const void *gate, const void *up, const void *dy, float beta_gate,
        void *dgate, float beta_up, void *dup, const KernelRun *run))

/* y = cap tanh(x / cap), cap above 0; y may equal x. dx = (1 - tanh^2(x / cap)) dy + beta dx; dx may equal dy
 * when beta is 0. */
KERNEL(void, softcap_forward,
       (DType type, int64_t n, float cap, const void *x, void *y, const KernelRun *run))
KERNEL(void, softcap_backward,
       (DType type, int64_t n, float cap, const void *x, const void *dy, float beta, void *dx,
        const KernelRun *run))

/* y (rows,c) = x sigmoid(gate), of one gate a row; y may equal x. dx = dy sigmoid(gate) + beta_x dx; dgate
 * (rows) = sigmoid'(gate) times the row's sum of x dy, + beta_gate dgate. Either may be NULL, x where dgate
 * is; dx may equal x or dy when beta_x is 0, dgate may equal gate when beta_gate is. */
KERNEL(void, gate_rows_forward,
       (DType type, int64_t rows, int64_t c, const void *x, const void *gate, void *y, const KernelRun *run))
KERNEL(void, gate_rows_backward,
       (DType type, int64_t rows, int64_t c, const void *x, const void *gate, const void *dy, float beta_x,
        void *dx, float beta_gate, void *dgate, const KernelRun *run))

/* y may equal x; ld is of both. Positions are offset..offset+seq-1. y = rotated x + beta y. */
KERNEL(void, rope, (const RopeDims *d, DType type, const void *x, float beta, void *y, const KernelRun *run))

/* q, k, v, out, their gradients and probs are of d->type: f32, bf16 or f16. eager keeps probs (B,H,T,T) for
 * backward; of 16 bit they are rounded before they meet the values. Masked entries of probs are 0. With probs
 * NULL in both, forward keeps nothing and backward recomputes them, bit for bit. With a window keys outside
 * it are not visited, but by eager to write zeros. */
KERNEL(void, attention_eager_forward,
       (const AttentionDims *d, const void *q, const void *k, const void *v, void *out, void *probs,
        float *workspace, const KernelRun *run))
/* dq, dk, dv are overwritten. dout and out are (B,T,H*D) with ldo. */
KERNEL(void, attention_eager_backward,
       (const AttentionDims *d, const void *q, const void *k, const void *v, const void *out,
        const void *probs, const void *dout, void *dq, void *dk, void *dv, float *workspace,
        const KernelRun *run))
/* flash keeps lse (B,H,T), the log-sum-exp of each row's scaled and capped scores; -INFINITY where no key is
 * left. */
KERNEL(void, attention_flash_forward,
       (const AttentionDims *d, const void *q, const void *k, const void *v, void *out, float *lse,
        float *workspace, const KernelRun *run))
KERNEL(void, attention_flash_backward,
       (const AttentionDims *d, const void *q, const void *k, const void *v, const void *out,
        const float *lse, const void *dout, void *dq, void *dk, void *dv, float *workspace,
        const KernelRun *run))
/* bytes; of all four, by what is kept between them */
KERNEL(size_t, attention_workspace,
       (const AttentionDims *d, AttentionKept kept, int backward, const KernelRun *run))

/* Attention over a cache of keys and values, (2, B, Hkv, capacity, D) of d->cached: all keys, then all
 * values, a head's rows together. append puts k and v (B,T,Hkv,D) at rows past..past+T-1, modulo capacity,
 * and of more than that many the last; then query t sees rows 0..past+t that its window has, and one query
 * alone (T = 1, where a window is the capacity) all rows there are. Causal, without key_mask. q, k, v and out
 * are of d->type, whatever the cache holds. */
KERNEL(void, attention_append,
       (const AttentionDims *d, const void *k, const void *v, void *cache, const KernelRun *run))
/* rows (2, B, Hkv, window - 1 + T, D) of d->cached = of a cache whose capacity is the window, what T more
 * tokens see of it, min(past, window - 1) rows in the order of tokens, and then k and v. */
KERNEL(void, attention_unroll,
       (const AttentionDims *d, const void *k, const void *v, const void *cache, void *rows,
        const KernelRun *run))
KERNEL(void, attention_cached,
       (const AttentionDims *d, const void *q, const void *cache, void *out, float *workspace,
        const KernelRun *run))
/* bytes; whatever `past` is */
KERNEL(size_t, attention_cached_workspace, (const AttentionDims *d, const KernelRun *run))

/* A mixture of experts, its weights given as the first expert's matrix, gate_up (2 hidden,width), rows of the
 * gate first, and down (width,hidden); the other experts' follow (experts_matrix). routing (experts_routing):
 * the experts of each token, those of the largest logits, of equal ones the first; their weights, those of
 * softmax(router); and pairs in the order of their experts. balance may be NULL; else adds to its counts and
 * sums. */
KERNEL(void, experts_route,
       (const ExpertsDims *d, const void *router, const ExpertsBalance *balance, void *routing,
        void *workspace, const KernelRun *run))
/* y (rows,width) = the sum over a token's experts of weight down (act(gate x) * up x). kept (pairs,2 hidden):
 * gate x and up x, in the order of experts. */
KERNEL(void, experts_forward,
       (const ExpertsDims *d, const void *x, const StoredArray *gate_up, const StoredArray *down,
        const void *routing, void *kept, void *y, void *workspace, const KernelRun *run))
/* The gradients that are wanted; dx may equal x or dy. An expert without tokens has zeros. kept is written
 * over. gate_up is not read without dx. */
KERNEL(void, experts_backward,
       (const ExpertsDims *d, const void *x, const StoredArray *gate_up, const StoredArray *down,
        const void *routing, void *kept, const void *dy, const ExpertsGradients *g, void *workspace,
        const KernelRun *run))
/* drouter (rows,experts) = the gradient through the weights, and through the sums of balance where that is
 * not NULL, + beta drouter; drouter may equal router when beta is 0. router is read only where weights are
 * not normalised, or with balance. */
KERNEL(void, experts_route_backward,
       (const ExpertsDims *d, const void *router, const ExpertsBalance *balance, const void *routing,
        const float *dweight, float beta, void *drouter, const KernelRun *run))
/* bytes; of route and of forward, or of backward with gradients of these types. wanted: bits 1, 2 and 4 say
 * whether dx, dgate_up and ddown are. */
KERNEL(size_t, experts_workspace,
       (const ExpertsDims *d, int backward, int wanted, DType dgate_up, DType ddown, const KernelRun *run))
/* y[0] = loss[0] + factor * experts * sum over experts of count/R * sum/R, R = the counts / active: how many
 * tokens, of all layers, have counted. Without any, loss[0]. y may equal loss. Backward: the gradient of the
 * sums, into stats. */
KERNEL(void, experts_balance_forward,
       (int experts, int active, float factor, const float *stats, const float *loss, float *y,
        const KernelRun *run))
KERNEL(void, experts_balance_backward,
       (int experts, int active, float factor, const float *dy, float *stats, const KernelRun *run))

/* loss[0] = scale * sum over counted rows of (lse(row) - logit(label)); lse (rows) is kept for backward. With
 * d->softcap logits are capped as they are read; dlogits is of those that are not.
 * A row whose label is neither ignore_index nor in [0, classes) is a fault. Rows of logits and dlogits are
 * d->ld apart; what lies between the end of one and the next is neither read nor written. */
KERNEL(void, cross_entropy_forward,
       (const CrossEntropyDims *d, DType type, const void *logits, const int32_t *labels, float scale,
        float *loss, float *lse, float *workspace, const KernelRun *run))
/* dlogits = (softmax - onehot) * scale * dloss[0] + beta dlogits; dlogits may equal logits when beta is 0. Of
 * all classes, or of those from d->first_class on; labels and lse are of all. */
KERNEL(void, cross_entropy_backward,
       (const CrossEntropyDims *d, DType type, const void *logits, const int32_t *labels, float scale,
        const float *lse, const float *dloss, float beta, void *dlogits, const KernelRun *run))
KERNEL(size_t, cross_entropy_workspace,
       (const CrossEntropyDims *d, const KernelRun *run)) /* bytes, of forward and of join */
/* Of d->classes from d->first_class on, what they say of each row: part (rows, CROSS_ENTROPY_PART). Labels in
 * [0, d->all_classes). Then forward of all classes from the parts of `count`, which begin `apart` floats
 * after each other, taken in their order. */
KERNEL(void, cross_entropy_part,
       (const CrossEntropyDims *d, DType type, const void *logits, const int32_t *labels, float *part,
        const KernelRun *run))
KERNEL(void, cross_entropy_join,
       (const CrossEntropyDims *d, int count, int64_t apart, const float *parts, const int32_t *labels,
        float scale, float *loss, float *lse, float *workspace, const KernelRun *run))

/* The rows that have a label other than ignore_index, in their order: index and label (room, at least
 * d->rows) begin with them, and go on with the last of them (without any, row 0) and ignore_index; count[0]
 * says how many they are. A row whose label is not in [0, classes) either is a fault, and is left out. */
KERNEL(void, labelled_rows,
       (const CrossEntropyDims *d, int64_t room, const int32_t *labels, int64_t *index, int32_t *label,
        int64_t *count, const KernelRun *run))
/* y (n,c) = rows index[i] of x */
KERNEL(void, gather_rows,
       (DType type, int64_t n, int64_t c, const int64_t *index, const void *x, void *y, const KernelRun *run))
/* Rows index[i] of y, each at most once, = x (n,c) + beta y. */
KERNEL(void, scatter_rows,
       (DType type, int64_t n, int64_t c, const int64_t *index, const void *x, float beta, void *y,
        const KernelRun *run))

/* y (batch,c) = the mean of those rows of x (batch,seq,c) that mask (batch,seq) is not 0 for, of all where it
 * is NULL; zeros where there is none. scale (batch) = 1 / how many they are, else 0. dx = dy scale in those
 * rows and 0 in the others, + beta dx. */
KERNEL(void, mean_tokens_forward,
       (DType type, int64_t batch, int64_t seq, int64_t c, const void *x, const int32_t *mask, void *y,
        float *scale, const KernelRun *run))
KERNEL(void, mean_tokens_backward,
       (DType type, int64_t batch, int64_t seq, int64_t c, const int32_t *mask, const float *scale,
        const void *dy, float beta, void *dx, const KernelRun *run))

/* y = keep(x) / (1 - p) + beta y; y may equal x when beta is 0. The same call is its own backward. p in
 * [0, 1). */
KERNEL(void, dropout,
       (DType type, int64_t samples, int64_t per_sample, float p, const DropoutKey *key, const void *x,
        float beta, void *y, const KernelRun *run))

/* Element-wise helpers of the engine. In each, y may equal an input. */
KERNEL(void, fill, (DType type, int64_t n, float value, void *y, const KernelRun *run))
/* y = x, of another type or not; of two types they do not overlap. */
KERNEL(void, copy, (DType from, DType to, int64_t n, const void *x, void *y, const KernelRun *run))
KERNEL(void, add, (DType type, int64_t n, const void *a, const void *b, void *y, const KernelRun *run))
/* y (of `to`) += x (of `from`) */
KERNEL(void, accumulate, (DType from, DType to, int64_t n, const void *x, void *y, const KernelRun *run))
/* y (rows, c) = a (rows, c) + b (c) */
KERNEL(void, add_row,
       (DType type, int64_t rows, int64_t c, const void *a, const float *b, void *y, const KernelRun *run))
/* dbias (c) = column sums of dy (rows, c) + beta dbias */
KERNEL(void, column_sum,
       (DType type, int64_t rows, int64_t c, const void *dy, DType dbias_type, float beta, void *dbias,
        float *workspace, const KernelRun *run))
KERNEL(size_t, column_sum_workspace, (int64_t rows, int64_t c, const KernelRun *run))
/* y = alpha x + beta y */
KERNEL(void, scale,
       (DType type, int64_t n, float alpha, const void *x, float beta, void *y, const KernelRun *run))
/* y = a * b + beta y */
KERNEL(void, multiply,
       (DType type, int64_t n, const void *a, const void *b, float beta, void *y, const KernelRun *run))
/* y = factor value[0] */
KERNEL(void, broadcast,
       (DType type, int64_t n, float factor, const float *value, void *y, const KernelRun *run))
/* total[0] = factor * the sum of x; in double, over fixed blocks: the result does not depend on threads. */
KERNEL(void, sum, (DType type, int64_t n, const void *x, double factor, float *total, const KernelRun *run))
/* total[0] = the sum of x's squares, likewise */
KERNEL(void, sum_squares, (DType type, int64_t n, const void *x, double *total, const KernelRun *run))
/* index[0] = that of the first element that is NaN or infinite, else -1. */
KERNEL(void, find_nonfinite, (DType type, int64_t n, const void *x, int64_t *index, const KernelRun *run))
/* y[i] from Philox(seed, stream, first + i), first a multiple of 4: the same on every device, for
 * any thread count, and whether an array is filled at once or in parts.
 * normal: Box-Muller; uniform in [low, high). */
KERNEL(void, fill_normal,
       (int64_t n, uint64_t seed, uint64_t stream, int64_t first, float mean, float std, float *y,
        const KernelRun *run))
KERNEL(void, fill_uniform,
       (int64_t n, uint64_t seed, uint64_t stream, int64_t first, float low, float high, float *y,
        const KernelRun *run))

/* y (count) = the flattened array from element `first` on. */
KERNEL(void, decode, (const StoredArray *w, int64_t first, int64_t count, float *y, const KernelRun *run))
/* The same of the transposed array (cols, rows), flattened. */
KERNEL(void, decode_transposed,
       (const StoredArray *w, int64_t first, int64_t count, float *y, const KernelRun *run))
/* Elements [first, first + count) of the flattened (rows, cols) that `to` begins with, of any type but i32;
 * whole rows of int8, whole blocks of NF4 and dynamic8 but for the last one. Types round to nearest as
 * base/dtype.h's sources do. What cannot be held is a fault, and the elements around it are indeterminate: a
 * finite number beyond a 16-bit type's range, and of the types with scales what is not finite. scales
 * (blocks): of NF4, whose scales are not in `to` before encode_scales. */
KERNEL(void, encode,
       (DType dtype, int64_t rows, int64_t cols, int64_t first, int64_t count, const float *x, void *to,
        float *scales, const KernelRun *run))
/* Of a matrix whose scales these are (blocks), the scales of blocks [first, first + count), whole groups but
 * for the matrix's last one: encoded into `to`, an array of `elements` that begins with the first of them. */
KERNEL(void, encode_scales,
       (int64_t blocks, const float *scales, int64_t first, int64_t count, int64_t elements, void *to,
        const KernelRun *run))

/* Optimizer updates, PyTorch's rules, in one pass over the parameter's arrays: everything is computed in f32
 * and rounded once. State arrays are zero before step 1. states: sgd's momentum buffer; rmsprop's mean square
 * and momentum buffer; adagrad's sum; adam's two means. With control->skip nothing is written. */
KERNEL(void, sgd,
       (const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control, const KernelRun *run))
KERNEL(void, rmsprop,
       (const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control, const KernelRun *run))
KERNEL(void, adagrad,
       (const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control, const KernelRun *run))
KERNEL(void, adam,
       (const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control, const KernelRun *run))

#undef KERNEL
