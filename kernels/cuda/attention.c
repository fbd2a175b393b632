/* Attention on a card: attention.cu, attention_backward.cu. A workspace holds a row's sums, never scores. */
#include "attention_.h"

enum { TILE = 64, COLUMNS = 128, ATTENTION_THREADS = 256 };   /* as in attention.h */
enum { MMA_QUERIES = 128, MMA_ROWS = 64, MMA_THREADS = 128 }; /* as in attention_mma.h */

static int64_t rows(const AttentionDims *d)
{
    return (int64_t)d->batch * d->heads * d->seq;
}

/* Blocks of a tile's rows each, of so many heads. */
static int64_t blocks(const AttentionArguments *a, int heads)
{
    return (int64_t)a->d.batch * heads * ((a->d.seq + TILE - 1) / TILE) * a->chunks;
}

/* Whether a float array can be read in fours. */
static int in_fours(const void *at, const HeadStrides *s)
{
    return (uintptr_t)at % 16 == 0 && s->sample % 4 == 0 && s->head % 4 == 0 && s->row % 4 == 0;
}

static int pieces(const AttentionArguments *a)
{
    return a->d.type == DTYPE_F32 && a->d.head_dim % 4 == 0 && in_fours(a->q, &a->at_q) &&
           in_fours(a->k, &a->at_k) && in_fours(a->v, &a->at_v) && in_fours(a->dout, &a->at_o);
}

/* That of heads of up to COLUMNS / 2, or the wide one, which a list has next; of the type. */
static int kernel_of(const AttentionArguments *a, int narrow)
{
    return narrow + (a->d.head_dim > COLUMNS / 2 ? 3 : 0) + cuda_typed(a->d.type);
}

static AttentionArguments arguments(const AttentionDims *d, const void *q, const void *k, const void *v)
{
    AttentionArguments a = {.d = *d, .q = q, .k = k, .v = v, .keys = d->seq};
    a.d.past = 0;
    a.chunks = (d->head_dim + COLUMNS - 1) / COLUMNS;
    a.at_q = cuda_attention_strides(d, d->ldq);
    a.at_k = cuda_attention_strides(d, d->ldk);
    a.at_v = cuda_attention_strides(d, d->ldv);
    a.at_o = (HeadStrides){d->seq * d->ldo, d->head_dim, d->ldo};
    a.pieces = pieces(&a);
    return a;
}

/* ---- Tensor cores ---------------------------------------------------------------------------- */

static int aligned(const void *at, const HeadStrides *s)
{
    return (uintptr_t)at % 16 == 0 && s->sample % 8 == 0 && s->head % 8 == 0 && s->row % 8 == 0;
}

/* Whether tensor cores serve: arrays of 16 bit in pieces of 16 bytes, of the head dims that their kernels are
 * made for, and scores without a cap. Turing has them for f16 alone. */
static int tensor_cores(const AttentionArguments *a, const KernelRun *run)
{
    const AttentionDims *d = &a->d;
    return d->type != DTYPE_F32 && (d->head_dim == 64 || d->head_dim == 128) && d->scale > 0 &&
           d->softcap <= 0 && run->device->capability >= (d->type == DTYPE_F16 ? 75 : 80) &&
           aligned(a->q, &a->at_q) && aligned(a->k, &a->at_k) && aligned(a->v, &a->at_v);
}

/* kernel + that: of the four that a list has of each. */
static int tensor_core_kernel(const AttentionDims *d)
{
    return (d->head_dim == 128 ? 2 : 0) + (d->type == DTYPE_F16 ? 1 : 0);
}

void cuda_attention_start_flash(AttentionArguments *a, const KernelRun *run)
{
    const AttentionDims *d = &a->d;
    if (!tensor_cores(a, run) || !aligned(a->out, &a->at_o)) {
        a->pieces = pieces(a);
        LAUNCH(run, kernel_of(a, CUDA_attention_flash), blocks(a, d->heads), 1, 1, ATTENTION_THREADS, *a);
        return;
    }
    int64_t tiles = (d->seq + MMA_QUERIES - 1) / MMA_QUERIES;
    LAUNCH(run, CUDA_attention_mma_64_bf16 + tensor_core_kernel(d), d->batch * tiles * d->heads, 1, 1,
           d->head_dim == 64 ? 128 : 256, *a);
}

/* Backward; delta is there. */
static int backward_on_tensor_cores(const AttentionArguments *a, const KernelRun *run)
{
    const AttentionDims *d = &a->d;
    if (!a->lse || !tensor_cores(a, run) || !aligned(a->dout, &a->at_o) || !aligned(a->dq, &a->at_dq) ||
        !aligned(a->dk, &a->at_dk) || !aligned(a->dv, &a->at_dv))
        return 0;
    int64_t tiles = (int64_t)d->batch * ((d->seq + MMA_ROWS - 1) / MMA_ROWS);
    int f16 = d->type == DTYPE_F16;
    LAUNCH(run, CUDA_attention_mma_dq_64_bf16 + tensor_core_kernel(d), tiles * d->heads, 1, 1, MMA_THREADS,
           *a);
    if (d->head_dim == 64) {
        LAUNCH(run, CUDA_attention_mma_dkv_64_bf16 + f16, tiles * d->kv_heads, 1, 1, MMA_THREADS, *a);
        return 1;
    }
    LAUNCH(run, CUDA_attention_mma_dk_128_bf16 + f16, tiles * d->kv_heads, 1, 1, MMA_THREADS, *a);
    LAUNCH(run, CUDA_attention_mma_dv_128_bf16 + f16, tiles * d->kv_heads, 1, 1, MMA_THREADS, *a);
    return 1;
}

/* ---- The table's functions ------------------------------------------------------------------- */

/* One block a tile, whatever the head's width. */
static void start_stats(AttentionArguments a, const KernelRun *run)
{
    a.chunks = 1;
    LAUNCH(run, CUDA_attention_stats + cuda_typed(a.d.type), blocks(&a, a.d.heads), 1, 1, ATTENTION_THREADS,
           a);
}

void cuda_attention_eager_forward(const AttentionDims *d, const void *q, const void *k, const void *v,
                                  void *out, void *probs, float *workspace, const KernelRun *run)
{
    AttentionArguments a = arguments(d, q, k, v);
    a.out = out;
    a.probs = probs;
    a.stats = workspace;
    start_stats(a, run);
    LAUNCH(run, kernel_of(&a, CUDA_attention_eager), blocks(&a, d->heads), 1, 1, ATTENTION_THREADS, a);
}

void cuda_attention_flash_forward(const AttentionDims *d, const void *q, const void *k, const void *v,
                                  void *out, float *lse, float *workspace, const KernelRun *run)
{
    (void)workspace;
    AttentionArguments a = arguments(d, q, k, v);
    a.out = out;
    a.lse = lse;
    cuda_attention_start_flash(&a, run);
}

static void backward(AttentionArguments *a, const void *out, const void *dout, void *dq, void *dk, void *dv,
                     float *workspace, const KernelRun *run)
{
    const AttentionDims *d = &a->d;
    int warps = ATTENTION_THREADS / 32;
    a->o = out;
    a->dout = dout;
    a->dq = dq, a->dk = dk, a->dv = dv;
    a->at_dq = cuda_attention_strides(d, d->lddq);
    a->at_dk = cuda_attention_strides(d, d->lddk);
    a->at_dv = cuda_attention_strides(d, d->lddv);
    a->delta = workspace;
    a->pieces = pieces(a);
    LAUNCH(run, CUDA_attention_delta + cuda_typed(d->type), (rows(d) + warps - 1) / warps, 1, 1,
           ATTENTION_THREADS, *a);
    if (backward_on_tensor_cores(a, run))
        return;
    LAUNCH(run, kernel_of(a, CUDA_attention_dq), blocks(a, d->heads), 1, 1, ATTENTION_THREADS, *a);
    LAUNCH(run, kernel_of(a, CUDA_attention_dkv), blocks(a, d->kv_heads), 1, 1, ATTENTION_THREADS, *a);
}

void cuda_attention_eager_backward(const AttentionDims *d, const void *q, const void *k, const void *v,
                                   const void *out, const void *probs, const void *dout, void *dq, void *dk,
                                   void *dv, float *workspace, const KernelRun *run)
{
    AttentionArguments a = arguments(d, q, k, v);
    a.probs = (void *)(uintptr_t)probs; /* read */
    if (!probs) {
        a.stats = workspace + rows(d);
        start_stats(a, run);
    }
    backward(&a, out, dout, dq, dk, dv, workspace, run);
}

void cuda_attention_flash_backward(const AttentionDims *d, const void *q, const void *k, const void *v,
                                   const void *out, const float *lse, const void *dout, void *dq, void *dk,
                                   void *dv, float *workspace, const KernelRun *run)
{
    AttentionArguments a = arguments(d, q, k, v);
    a.lse = (float *)(uintptr_t)lse; /* read */
    backward(&a, out, dout, dq, dk, dv, workspace, run);
}

/* delta in backward; stats where probabilities are computed. */
size_t cuda_attention_workspace(const AttentionDims *d, AttentionKept kept, int backward_,
                                const KernelRun *run)
{
    (void)run;
    int stats = kept == KEPT_NOTHING || (kept == KEPT_PROBS && !backward_);
    return (size_t)rows(d) * (size_t)((backward_ ? 1 : 0) + 2 * stats) * sizeof(float);
}
