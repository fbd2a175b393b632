/* attention: eager keeps the (B,H,T,T) scores or recomputes them, flash keeps a log-sum-exp a row. q, k and v
 * are separate or packed side by side; the kernels only see row strides. */
#include <inttypes.h>
#include <math.h>

#include "ops_.h"

enum { Q, K, V, MASK };

static int64_t query_width(const OpCall *call)
{
    int64_t width = last_dim(call->shape[Q]);
    return call->attr.attention.packed ? width / 3 : width;
}

static AttentionDims attention_dims(const OpCall *call)
{
    int heads = call->attr.attention.heads, kv_heads = call->attr.attention.kv_heads;
    int head_dim = (int)(query_width(call) / heads);
    int64_t row = (int64_t)heads * head_dim, kv_row = (int64_t)kv_heads * head_dim;
    int64_t ldq = call->attr.attention.packed ? 3 * row : row;
    int64_t ldk = call->attr.attention.packed ? 3 * row : kv_row;
    return (AttentionDims){.type = call->dtype[Q],
                           .batch = (int)call->shape[Q].dim[0],
                           .seq = (int)call->shape[Q].dim[1],
                           .heads = heads,
                           .kv_heads = kv_heads,
                           .head_dim = head_dim,
                           .causal = call->attr.attention.causal,
                           .scale = 1.0f / sqrtf((float)head_dim),
                           .ldq = ldq,
                           .ldk = ldk,
                           .ldv = ldk,
                           .ldo = row,
                           .lddq = ldq,
                           .lddk = ldk,
                           .lddv = ldk,
                           .key_mask = call->in[MASK]};
}

int check_float_as(const OpCall *call, int i, int as, const char *input, const char *as_input)
{
    if (check_float(call, i, input))
        return error_code();
    if (call->dtype[i] == call->dtype[as])
        return 0;
    return error_raise(ERROR_ARGUMENT, "%s: %s must be %s, as %s is, not %s", call->row->name, input,
                       dtype_name(call->dtype[as]), as_input, dtype_name(call->dtype[i]));
}

/* Kernels write gradients of one type. A parameter's may be another than its own. */
static int check_gradient(const OpCall *call, int i, const char *input)
{
    if (!needs_input(call, i) || call->grad_type[i] == call->dtype[i])
        return 0;
    return error_raise(ERROR_ARGUMENT, "%s: the gradient of %s must be %s, as %s is, not %s", call->row->name,
                       input, dtype_name(call->dtype[i]), input, dtype_name(call->grad_type[i]));
}

static int attention_check(const OpCall *call)
{
    int heads = call->attr.attention.heads, kv_heads = call->attr.attention.kv_heads;
    Shape q = call->shape[Q];
    static const char *const names[] = {"q", "k", "v"};
    for (int i = Q; i <= V; i++)
        if (call->shape[i].ndim &&
            (check_float_as(call, i, Q, names[i], names[Q]) || check_gradient(call, i, names[i])))
            return error_code();
    if (heads < 1 || kv_heads < 1 || heads % kv_heads)
        return error_raise(ERROR_ARGUMENT, "attention: %d heads cannot share %d key-value heads evenly",
                           heads, kv_heads);
    if (q.ndim != 3 || last_dim(q) % (call->attr.attention.packed ? 3 : 1) || query_width(call) % heads)
        return error_raise(ERROR_SHAPE, "attention: %s %s does not divide into %d heads",
                           call->attr.attention.packed ? "qkv" : "q", shape_text(q).text, heads);
    for (int i = K; i <= V && !call->attr.attention.packed; i++) {
        Shape kv = call->shape[i];
        if (kv.ndim != 3 || kv.dim[0] != q.dim[0] || kv.dim[1] != q.dim[1] ||
            kv.dim[2] * heads != query_width(call) * kv_heads)
            return error_raise(ERROR_SHAPE, "attention: %s %s does not fit q %s with %d of %d heads",
                               i == K ? "k" : "v", shape_text(kv).text, shape_text(q).text, kv_heads, heads);
    }
    Shape mask = call->shape[MASK];
    if (mask.ndim && (call->dtype[MASK] != DTYPE_I32 || mask.ndim != 2 || mask.dim[0] != q.dim[0] ||
                      mask.dim[1] != q.dim[1]))
        return error_raise(ERROR_SHAPE, "attention: mask %s must be i32 (%" PRId64 ",%" PRId64 ")",
                           shape_text(mask).text, q.dim[0], q.dim[1]);
    return 0;
}

static AttentionKept attention_kept(const OpCall *call)
{
    return call->attr.attention.flash ? KEPT_LSE : call->attr.attention.recompute ? KEPT_NOTHING : KEPT_PROBS;
}

/* Bytes of the kernel's own backward workspace, and of all: the kernel writes three gradients, and those that
 * nobody wants go behind its workspace. */
static uint64_t kernel_workspace(const OpCall *call, const AttentionDims *d)
{
    return aligned(call->kernels->attention_workspace(d, attention_kept(call), 1, call->run));
}

static uint64_t backward_workspace(const OpCall *call, const AttentionDims *d)
{
    uint64_t bytes = kernel_workspace(call, d);
    for (int i = Q; i <= V && !call->attr.attention.packed; i++)
        if (!needs_input(call, i))
            bytes += dtype_bytes(d->type, 1, call_numel(call, i));
    return bytes;
}

static int attention_shape(OpCall *call)
{
    if (attention_check(call))
        return error_code();
    AttentionDims d = attention_dims(call);
    AttentionKept kept = attention_kept(call);
    OpPlan *plan = &call->plan;
    plan->out = call->shape[Q];
    plan->out.dim[2] = query_width(call);
    plan->out_type = d.type;
    int64_t rows = (int64_t)d.batch * d.heads * d.seq;
    if (kept != KEPT_LSE && !shape_valid(SHAPE(d.batch, d.heads, d.seq, d.seq), "attention: scores"))
        return error_code();
    if (kept == KEPT_LSE)
        plan->extra_bytes[0] = dtype_bytes(DTYPE_F32, 1, rows);
    else if (kept == KEPT_PROBS)
        plan->extra_bytes[0] = dtype_bytes(d.type, rows, d.seq);
    plan->workspace = call->kernels->attention_workspace(&d, kept, 0, call->run);
    double pairs = (double)rows * (d.causal ? (d.seq + 1) / 2.0 : d.seq);
    plan->flops =
        4.0 * pairs * d.head_dim; /* two products; backward has four, and one more without the scores */
    if (!call->needs)
        return 0;
    plan->backward_flops = plan->flops * (kept == KEPT_PROBS ? 2.0 : 2.5);
    plan->backward_workspace = backward_workspace(call, &d);
    plan->saves = OP_INPUT(Q) | OP_INPUT(K) | OP_INPUT(V) | OP_INPUT(MASK) | OP_OUTPUT;
    return 0;
}

/* Pointers of q, k, v, whether packed or not. */
static void split(const OpCall *call, void *const base[], void *part[3])
{
    uint64_t width = dtype_bytes(call->dtype[Q], 1, query_width(call));
    for (int i = Q; i <= V; i++)
        part[i] = call->attr.attention.packed ? (char *)base[Q] + (uint64_t)i * width : base[i];
}

static void attention_forward(OpCall *call)
{
    AttentionDims d = attention_dims(call);
    const Kernels *k = call->kernels;
    void *p[3];
    split(call, call->in, p);
    if (call->attr.attention.flash)
        k->attention_flash_forward(&d, p[Q], p[K], p[V], call->out, call->extra[0], call->workspace,
                                   call->run);
    else
        k->attention_eager_forward(&d, p[Q], p[K], p[V], call->out, call->extra[0], call->workspace,
                                   call->run);
}

static void attention_backward(OpCall *call)
{
    AttentionDims d = attention_dims(call);
    const Kernels *k = call->kernels;
    void *p[3], *g[3];
    char *unwanted = (char *)call->workspace + kernel_workspace(call, &d);
    split(call, call->in, p);
    split(call, (void *const[]){call->din[0], call->din[1], call->din[2]}, g);
    for (int i = Q; i <= V; i++) {
        if (g[i])
            continue;
        g[i] = unwanted;
        unwanted += dtype_bytes(d.type, 1, call_numel(call, i));
    }
    if (call->attr.attention.flash)
        k->attention_flash_backward(&d, p[Q], p[K], p[V], call->out, call->extra[0], call->dout, g[Q], g[K],
                                    g[V], call->workspace, call->run);
    else
        k->attention_eager_backward(&d, p[Q], p[K], p[V], call->out, call->extra[0], call->dout, g[Q], g[K],
                                    g[V], call->workspace, call->run);
}

static const OpRow attention_row = {
    .name = "attention",
    .shape = attention_shape,
    .forward = attention_forward,
    .backward = attention_backward,
};

static Tensor *attention(Tensor *q, Tensor *k, Tensor *v, const AttentionOptions *options, int packed)
{
    int kv_heads = options->kv_heads ? options->kv_heads : options->heads;
    const Context *context = context_here();
    OpAttr attr = {.attention = {.heads = options->heads,
                                 .kv_heads = kv_heads,
                                 .causal = options->causal,
                                 .flash = options->kind == ATTENTION_FLASH,
                                 .packed = packed,
                                 .recompute = options->recompute || (context && context->selective)}};
    return tensor_apply(&attention_row, &attr, 4, (Tensor *[]){q, k, v, options->mask});
}

Tensor *tensor_attention(Tensor *q, Tensor *k, Tensor *v, const AttentionOptions *options)
{
    return q && k && v && options ? attention(q, k, v, options, 0) : NULL;
}

Tensor *tensor_attention_packed(Tensor *qkv, const AttentionOptions *options)
{
    if (!qkv || !options)
        return NULL;
    if (options->kv_heads && options->kv_heads != options->heads) {
        error_raise(ERROR_ARGUMENT, "attention: packed qkv has as many key-value heads as heads");
        return NULL;
    }
    return attention(qkv, NULL, NULL, options, 1);
}
