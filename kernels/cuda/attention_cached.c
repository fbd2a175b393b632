/* Attention over a cache on a card: attention_cached.cu; of more tokens than one attention.cu. */
#include "../../base/dtype.h"
#include "attention_.h"

enum { TILE = 64, COLUMNS = 128, ATTENTION_THREADS = 256 }; /* as in attention.h */
enum { QUERIES = 8 };                                       /* of a block, as in attention_cached.cu */
/* A part has at least LEAST keys, and there are at most SPLITS: enough blocks for any card. */
enum { LEAST = 128, SPLITS = 64 };

static int least(int64_t a, int64_t b)
{
    return (int)(a < b ? a : b);
}

/* Keys of one of the parts that so many are cut into, whole tiles. */
static int part_of(int keys)
{
    int splits = least(SPLITS, ((int64_t)keys + LEAST - 1) / LEAST), part = (keys + splits - 1) / splits;
    return (part + TILE - 1) / TILE * TILE;
}

static AttentionArguments arguments(const AttentionDims *d)
{
    AttentionArguments a = {.d = *d, .keys = d->past + d->seq};
    a.d.causal = 1;
    a.d.key_mask = NULL;
    a.chunks = (d->head_dim + COLUMNS - 1) / COLUMNS;
    a.at_q = cuda_attention_strides(d, d->ldq);
    a.at_o = (HeadStrides){d->seq * d->ldo, d->head_dim, d->ldo};
    return a;
}

void cuda_attention_append(const AttentionDims *d, const void *k, const void *v, void *cache,
                           const KernelRun *run)
{
    AttentionArguments a = arguments(d);
    a.k = k;
    a.v = v;
    a.cache = cache;
    a.at_k = cuda_attention_strides(d, d->ldk);
    a.at_v = cuda_attention_strides(d, d->ldv);
    int64_t n = (int64_t)2 * d->batch * d->kv_heads * d->seq * d->head_dim;
    LAUNCH(run, CUDA_attention_append, cuda_blocks(n), 1, 1, CUDA_THREADS, a);
}

void cuda_attention_unroll(const AttentionDims *d, const void *k, const void *v, const void *cache,
                           void *rows, const KernelRun *run)
{
    AttentionArguments a = arguments(d);
    a.k = k;
    a.v = v;
    a.cache = (void *)(uintptr_t)cache; /* read */
    a.out = rows;
    a.at_k = cuda_attention_strides(d, d->ldk);
    a.at_v = cuda_attention_strides(d, d->ldv);
    int64_t old = least(d->past, d->window - 1);
    int64_t n = (int64_t)2 * d->batch * d->kv_heads * (old + d->seq) * d->head_dim;
    LAUNCH(run, CUDA_attention_unroll, cuda_blocks(n), 1, 1, CUDA_THREADS, a);
}

static void token(AttentionArguments a, float *workspace, const KernelRun *run)
{
    int64_t group = (a.d.heads / a.d.kv_heads + QUERIES - 1) / QUERIES,
            units = (int64_t)a.d.batch * a.d.kv_heads;
    a.keys = least(a.keys, a.d.capacity); /* all rows that there are */
    a.part = part_of(a.keys);
    a.splits = (a.keys + a.part - 1) / a.part;
    a.parts = workspace;
    LAUNCH(run, CUDA_attention_token, units * group * a.splits * a.chunks, 1, 1, ATTENTION_THREADS, a);
    if (a.splits > 1)
        LAUNCH(run, CUDA_attention_join, (int64_t)a.d.batch * a.d.heads, 1, 1, ATTENTION_THREADS, a);
}

void cuda_attention_cached(const AttentionDims *d, const void *q, const void *cache, void *out,
                           float *workspace, const KernelRun *run)
{
    AttentionArguments a = arguments(d);
    int64_t head = (int64_t)d->capacity * d->head_dim, all = d->batch * d->kv_heads * head;
    a.q = q;
    a.out = out;
    a.k = cache;
    a.v = (const char *)cache + all * (d->cached == DTYPE_F32 ? 4 : 2);
    a.at_k = a.at_v = (HeadStrides){d->kv_heads * head, head, d->head_dim};
    if (d->seq == 1) {
        token(a, workspace, run);
        return;
    }
    if (d->cached == d->type) {
        cuda_attention_start_flash(&a, run);
        return;
    }
    int64_t tiles = (d->seq + TILE - 1) / TILE;
    LAUNCH(run, CUDA_attention_cached + cuda_typed(d->type), (int64_t)d->batch * d->heads * tiles * a.chunks,
           1, 1, ATTENTION_THREADS, a);
}

/* Of one token: what parts are joined from. */
size_t cuda_attention_cached_workspace(const AttentionDims *d, const KernelRun *run)
{
    (void)run;
    int64_t splits = least(SPLITS, ((int64_t)d->capacity + LEAST - 1) / LEAST);
    int64_t row = d->head_dim + 2;
    return d->seq > 1 || splits < 2 ? 0
                                    : (size_t)((int64_t)d->batch * d->heads * splits * row) * sizeof(float);
}
