/* What writing one token after the other needs: attention over a cache of keys and values, and the last
 * position of a sequence. */
#include <inttypes.h>
#include <limits.h>
#include <math.h>

#include "ops_.h"

enum { Q, K, V, CACHE };

static int64_t query_width(const OpCall *call)
{
    int64_t width = last_dim(call->shape[Q]);
    return call->attr.attention.packed ? width / 3 : width;
}

static AttentionDims cached_dims(const OpCall *call)
{
    int heads = call->attr.attention.heads, kv_heads = call->attr.attention.kv_heads;
    int64_t row = query_width(call), packed = call->attr.attention.packed;
    int head_dim = (int)(row / heads);
    int64_t ldk = packed ? 3 * row : (int64_t)kv_heads * head_dim;
    return (AttentionDims){.type = call->dtype[Q],
                           .batch = (int)call->shape[Q].dim[0],
                           .seq = (int)call->shape[Q].dim[1],
                           .heads = heads,
                           .kv_heads = kv_heads,
                           .head_dim = head_dim,
                           .causal = 1,
                           .scale = 1.0f / sqrtf((float)head_dim),
                           .ldq = packed ? 3 * row : row,
                           .ldk = ldk,
                           .ldv = ldk,
                           .ldo = row,
                           .past = call->attr.attention.past,
                           .capacity = (int)call->shape[CACHE].dim[2],
                           .cached = call->dtype[CACHE]};
}

static int check_queries(const OpCall *call)
{
    int heads = call->attr.attention.heads, kv_heads = call->attr.attention.kv_heads;
    int packed = call->attr.attention.packed;
    Shape q = call->shape[Q];
    if (call->needs)
        return error_raise(ERROR_STATE, "attention_cached: a cache is for writing, not for training: put the "
                                        "call between tensor_no_grad_begin and tensor_no_grad_end");
    if (heads < 1 || kv_heads < 1 || heads % kv_heads || (packed && kv_heads != heads))
        return error_raise(ERROR_ARGUMENT,
                           "attention_cached: %d heads cannot share %d key-value heads evenly", heads,
                           kv_heads);
    if (q.ndim != 3 || last_dim(q) % (packed ? 3 : 1) || query_width(call) % heads)
        return error_raise(ERROR_SHAPE, "attention_cached: %s %s does not divide into %d heads",
                           packed ? "qkv" : "q", shape_text(q).text, heads);
    return 0;
}

static int check_cache(const OpCall *call)
{
    int heads = call->attr.attention.heads, kv_heads = call->attr.attention.kv_heads;
    int64_t past = call->attr.attention.past;
    Shape q = call->shape[Q], cache = call->shape[CACHE];
    if (cache.ndim != 4 || cache.dim[0] != 2 || cache.dim[1] != q.dim[0] * kv_heads ||
        cache.dim[3] * heads != query_width(call))
        return error_raise(ERROR_SHAPE,
                           "attention_cached: cache %s must be (2,%" PRId64 ",capacity,%" PRId64 ")",
                           shape_text(cache).text, q.dim[0] * kv_heads, query_width(call) / heads);
    if (past < 0 || past + q.dim[1] > cache.dim[2])
        return error_raise(ERROR_ARGUMENT,
                           "attention_cached: %" PRId64 " more tokens after %" PRId64
                           " do not fit the cache of %" PRId64,
                           q.dim[1], past, cache.dim[2]);
    return 0;
}

static int cached_shape(OpCall *call)
{
    static const char *const names[] = {"q", "k", "v", "cache"};
    Shape q = call->shape[Q];
    for (int i = Q; i <= V; i++)
        if (call->shape[i].ndim && check_float_as(call, i, Q, names[i], names[Q]))
            return error_code();
    if (check_weight(call, CACHE, 0, names[CACHE]))
        return error_code();
    if (check_queries(call))
        return error_code();
    for (int i = K; i <= V && !call->attr.attention.packed; i++) {
        Shape kv = call->shape[i];
        if (kv.ndim != 3 || kv.dim[0] != q.dim[0] || kv.dim[1] != q.dim[1] ||
            kv.dim[2] * call->attr.attention.heads != query_width(call) * call->attr.attention.kv_heads)
            return error_raise(ERROR_SHAPE, "attention_cached: %s %s does not fit q %s", names[i],
                               shape_text(kv).text, shape_text(q).text);
    }
    if (check_cache(call))
        return error_code();
    AttentionDims d = cached_dims(call);
    call->plan.out = q;
    call->plan.out.dim[2] = query_width(call);
    call->plan.out_type = d.type;
    call->plan.workspace = call->kernels->attention_cached_workspace(&d, call->run);
    call->plan.flops = 4.0 * (double)d.batch * d.heads * d.seq * (d.past + (d.seq + 1) / 2.0) *
                       d.head_dim; /* two products */
    return 0;
}

static void cached_forward(OpCall *call)
{
    AttentionDims d = cached_dims(call);
    uint64_t width = dtype_bytes(d.type, 1, query_width(call));
    const char *q = call->in[Q];
    const void *k = call->attr.attention.packed ? q + width : call->in[K];
    const void *v = call->attr.attention.packed ? q + 2 * width : call->in[V];
    call->kernels->attention_append(&d, k, v, call->in[CACHE], call->run);
    call->kernels->attention_cached(&d, q, call->in[CACHE], call->out, call->workspace, call->run);
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
                                 .past = past}};
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
