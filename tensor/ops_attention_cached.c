/* What writing one token after the other needs: attention over a cache of keys and values, and the last
 * position of a sequence. */
#include <inttypes.h>
#include <limits.h>

#include "ops_.h"

enum { Q, K, V, CACHE };

/* Whether the cache has room for no more tokens than its window: then it holds the last ones. */
static int in_ring(const OpCall *call)
{
    return call->attr.attention.window == call->shape[CACHE].dim[2];
}

static AttentionDims cached_dims(const OpCall *call)
{
    AttentionDims d = attention_dims_(call);
    d.causal = 1;
    d.key_mask = NULL;
    d.past = call->attr.attention.past;
    d.capacity = (int)call->shape[CACHE].dim[2];
    d.cached = call->dtype[CACHE];
    d.window = in_ring(call) ? d.capacity : 0;
    return d;
}

/* More tokens than one overwrite what the first of them see, so they see rows that are in workspace. As long
 * as nothing is overwritten, too: a plan does not know how full the cache is. */
static int unrolls(const AttentionDims *d)
{
    return d->window && d->seq > 1;
}

static AttentionDims unrolled_dims(AttentionDims d)
{
    d.past = d.past < d.window - 1 ? d.past : d.window - 1;
    d.capacity = d.window - 1 + d.seq;
    return d;
}

static uint64_t unrolled_bytes(const AttentionDims *d)
{
    return aligned(dtype_bytes(
        d->cached, 1, 2 * (int64_t)d->batch * d->kv_heads * (d->window - 1 + (int64_t)d->seq) * d->head_dim));
}

static int check_cache(const OpCall *call)
{
    int heads = call->attr.attention.heads, kv_heads = call->attr.attention.kv_heads;
    int64_t past = call->attr.attention.past;
    Shape q = call->shape[Q], cache = call->shape[CACHE];
    int64_t head_dim = attention_width_(call) / heads, window = call->attr.attention.window;
    if (cache.ndim != 4 || cache.dim[0] != 2 || cache.dim[1] != q.dim[0] * kv_heads ||
        cache.dim[3] != head_dim)
        return error_raise(ERROR_SHAPE,
                           "attention_cached: cache %s must be (2,%" PRId64 ",capacity,%" PRId64 ")",
                           shape_text(cache).text, q.dim[0] * kv_heads, head_dim);
    if (window && cache.dim[2] > window)
        return error_raise(ERROR_ARGUMENT,
                           "attention_cached: a cache of %" PRId64 " tokens and a window of %" PRId64
                           "; a cache has room for at most its window",
                           cache.dim[2], window);
    if (past < 0 || past > INT_MAX - q.dim[1] || (!in_ring(call) && past + q.dim[1] > cache.dim[2]))
        return error_raise(ERROR_ARGUMENT,
                           "attention_cached: %" PRId64 " more tokens after %" PRId64
                           " do not fit the cache of %" PRId64,
                           q.dim[1], past, cache.dim[2]);
    return 0;
}

static int cached_shape(OpCall *call)
{
    static const char *const names[] = {"q", "k", "v", "cache"};
    for (int i = Q; i <= V; i++)
        if (call->shape[i].ndim && check_float_as(call, i, Q, names[i], names[Q]))
            return error_code();
    if (check_weight(call, CACHE, 0, names[CACHE]))
        return error_code();
    if (call->needs)
        return error_raise(ERROR_STATE, "attention_cached: a cache is for writing, not for training: put the "
                                        "call between tensor_no_grad_begin and tensor_no_grad_end");
    if (attention_check_(call, "attention_cached") || check_cache(call))
        return error_code();
    AttentionDims d = cached_dims(call), all = unrolls(&d) ? unrolled_dims(d) : d;
    call->plan.out = call->shape[Q];
    call->plan.out.dim[2] = attention_width_(call);
    call->plan.out_type = d.type;
    call->plan.workspace = call->kernels->attention_cached_workspace(&all, call->run);
    if (unrolls(&d))
        call->plan.workspace += unrolled_bytes(&d);
    call->plan.flops = 4.0 * attention_pairs_(&d) * d.head_dim; /* two products */
    return 0;
}

static void cached_forward(OpCall *call)
{
    const Kernels *kernels = call->kernels;
    AttentionDims d = cached_dims(call), all;
    void *cache = call->in[CACHE], *rows = call->workspace, *p[3];
    attention_split_(call, call->in, p);
    if (!unrolls(&d)) {
        kernels->attention_append(&d, p[K], p[V], cache, call->run);
        kernels->attention_cached(&d, p[Q], cache, call->out, call->workspace, call->run);
        return;
    }
    all = unrolled_dims(d);
    kernels->attention_unroll(&d, p[K], p[V], cache, rows, call->run);
    kernels->attention_cached(&all, p[Q], rows, call->out, (float *)((char *)rows + unrolled_bytes(&d)),
                              call->run);
    kernels->attention_append(&d, p[K], p[V], cache, call->run);
}

static const OpRow cached_row = {.name = "attention", .shape = cached_shape, .forward = cached_forward};

static Tensor *cached(Tensor *q, Tensor *k, Tensor *v, Tensor *cache, int past,
                      const AttentionOptions *options, int packed)
{
    OpAttr attr = {.attention = {.heads = options->heads,
                                 .kv_heads = options->kv_heads ? options->kv_heads : options->heads,
                                 .causal = 1,
                                 .flash = 1,
                                 .packed = packed,
                                 .by_head = packed && options->by_head,
                                 .past = past,
                                 .window = options->window,
                                 .scale = options->scale,
                                 .softcap = options->softcap}};
    return tensor_apply(&cached_row, &attr, 4, (Tensor *[]){q, k, v, cache});
}

Tensor *tensor_attention_cached(Tensor *q, Tensor *k, Tensor *v, Tensor *cache, int past,
                                const AttentionOptions *options)
{
    return q && k && v && cache && options ? cached(q, k, v, cache, past, options, 0) : NULL;
}

Tensor *tensor_attention_cached_packed(Tensor *qkv, Tensor *cache, int past, const AttentionOptions *options)
{
    return qkv && cache && options ? cached(qkv, NULL, NULL, cache, past, options, 1) : NULL;
}
