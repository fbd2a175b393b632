/* attention: eager keeps the (B,H,T,T) scores or recomputes them, flash keeps a log-sum-exp a row. q, k and v
 * are separate or packed side by side; the kernels only see row strides. */
#include <inttypes.h>
#include <math.h>

#include "ops_.h"

enum { Q, K, V, MASK };

/* Elements of a row of q, and of one of k: inside a row of what is packed, too. */
static int64_t kv_width(const OpCall *call)
{
    return attention_width_(call) / call->attr.attention.heads * call->attr.attention.kv_heads;
}

int64_t attention_width_(const OpCall *call)
{
    int64_t width = last_dim(call->shape[Q]), heads = call->attr.attention.heads;
    return call->attr.attention.packed ? width / (heads + 2 * (int64_t)call->attr.attention.kv_heads) * heads
                                       : width;
}

/* That shuts somebody out: a window over everything is none. */
static int window_of(const OpCall *call)
{
    int window = call->attr.attention.window;
    int64_t tokens = call->attr.attention.past + call->shape[Q].dim[1];
    int64_t all = call->attr.attention.causal ? window : (int64_t)(window / 2) + 1;
    return all >= tokens ? 0 : window;
}

AttentionDims attention_dims_(const OpCall *call)
{
    int heads = call->attr.attention.heads, packed = call->attr.attention.packed;
    int64_t row = attention_width_(call), kv_row = kv_width(call);
    int64_t ldq = last_dim(call->shape[Q]), ldk = packed ? ldq : kv_row;
    float scale = call->attr.attention.scale;
    return (AttentionDims){.type = call->dtype[Q],
                           .batch = (int)call->shape[Q].dim[0],
                           .seq = (int)call->shape[Q].dim[1],
                           .heads = heads,
                           .kv_heads = call->attr.attention.kv_heads,
                           .head_dim = (int)(row / heads),
                           .causal = call->attr.attention.causal,
                           .window = window_of(call),
                           .scale = scale != 0 ? scale : 1.0f / sqrtf((float)(row / heads)),
                           .softcap = call->attr.attention.softcap,
                           .ldq = ldq,
                           .ldk = ldk,
                           .ldv = ldk,
                           .ldo = row,
                           .lddq = ldq,
                           .lddk = ldk,
                           .lddv = ldk,
                           .key_mask = call->in[MASK],
                           .head_step = call->attr.attention.by_head ? 3 * (int)(row / heads) : 0};
}

void attention_split_(const OpCall *call, void *const base[], void *part[3])
{
    DType type = call->dtype[Q];
    int packed = call->attr.attention.packed,
        heads = call->attr.attention.by_head ? call->attr.attention.heads : 1;
    int64_t q = attention_width_(call) / heads, k = q + kv_width(call) / heads;
    part[Q] = base[Q];
    part[K] = packed ? element_at(type, base[Q], q) : base[K];
    part[V] = packed ? element_at(type, base[Q], k) : base[V];
}

/* Heads, and what changes scores. */
static int check_options(const OpCall *call, const char *name)
{
    int heads = call->attr.attention.heads, kv_heads = call->attr.attention.kv_heads;
    float scale = call->attr.attention.scale, softcap = call->attr.attention.softcap;
    if (heads < 1 || kv_heads < 1 || heads % kv_heads)
        return error_raise(ERROR_ARGUMENT, "%s: %d heads cannot share %d key-value heads evenly", name, heads,
                           kv_heads);
    if (call->attr.attention.by_head && kv_heads != heads)
        return error_raise(ERROR_ARGUMENT,
                           "%s: q, k and v side by side in each head need as many key-value heads as heads, "
                           "not %d and %d",
                           name, kv_heads, heads);
    if (call->attr.attention.window < 0)
        return error_raise(ERROR_ARGUMENT, "%s: a window of %d tokens; it is 1 or more, or 0 for all", name,
                           call->attr.attention.window);
    if (!isfinite(scale) || !isfinite(softcap) || softcap < 0)
        return error_raise(ERROR_ARGUMENT,
                           "%s: scores are scaled by %g and capped at %g; both are finite, a cap is above 0, "
                           "and 0 means the usual scale and no cap",
                           name, (double)scale, (double)softcap);
    return 0;
}

int attention_check_(const OpCall *call, const char *name)
{
    int heads = call->attr.attention.heads, kv_heads = call->attr.attention.kv_heads;
    int packed = call->attr.attention.packed;
    Shape q = call->shape[Q];
    if (check_options(call, name))
        return error_code();
    int64_t parts = packed ? heads + 2 * (int64_t)kv_heads : heads;
    if (q.ndim != 3 || last_dim(q) % parts)
        return packed && kv_heads != heads
                   ? error_raise(ERROR_SHAPE,
                                 "%s: qkv %s does not divide into %d heads and twice %d key-value heads",
                                 name, shape_text(q).text, heads, kv_heads)
                   : error_raise(ERROR_SHAPE, "%s: %s %s does not divide into %d heads", name,
                                 packed ? "qkv" : "q", shape_text(q).text, heads);
    for (int i = K; i <= V && !packed; i++) {
        Shape kv = call->shape[i];
        if (kv.ndim != 3 || kv.dim[0] != q.dim[0] || kv.dim[1] != q.dim[1] ||
            kv.dim[2] * heads != last_dim(q) * kv_heads)
            return error_raise(ERROR_SHAPE, "%s: %s %s does not fit q %s with %d of %d heads", name,
                               i == K ? "k" : "v", shape_text(kv).text, shape_text(q).text, kv_heads, heads);
    }
    return 0;
}

double attention_pairs_(const AttentionDims *d)
{
    double t = d->seq, past = d->past, w = d->window, half = d->window / 2, pairs;
    if (!d->causal) /* half to either side, but for what the ends lack */
        pairs = d->window ? t * (2 * half + 1) - half * (half + 1) : t * t;
    else if (d->window && past + t > w) /* those before the window is full see one token more each */
        pairs = t * w - (past < w ? (w - past) * (w - past - 1) / 2 : 0);
    else
        pairs = t * (past + (t + 1) / 2);
    return (double)d->batch * d->heads * pairs;
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
    Shape q = call->shape[Q];
    static const char *const names[] = {"q", "k", "v"};
    for (int i = Q; i <= V; i++)
        if (call->shape[i].ndim &&
            (check_float_as(call, i, Q, names[i], names[Q]) || check_gradient(call, i, names[i])))
            return error_code();
    if (attention_check_(call, "attention"))
        return error_code();
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
    AttentionDims d = attention_dims_(call);
    AttentionKept kept = attention_kept(call);
    OpPlan *plan = &call->plan;
    plan->out = call->shape[Q];
    plan->out.dim[2] = attention_width_(call);
    plan->out_type = d.type;
    int64_t rows = (int64_t)d.batch * d.heads * d.seq;
    if (kept != KEPT_LSE && !shape_valid(SHAPE(d.batch, d.heads, d.seq, d.seq), "attention: scores"))
        return error_code();
    if (kept == KEPT_LSE)
        plan->extra_bytes[0] = dtype_bytes(DTYPE_F32, 1, rows);
    else if (kept == KEPT_PROBS)
        plan->extra_bytes[0] = dtype_bytes(d.type, rows, d.seq);
    plan->workspace = call->kernels->attention_workspace(&d, kept, 0, call->run);
    /* Two products; backward has four, and one more without the scores. */
    plan->flops = 4.0 * attention_pairs_(&d) * d.head_dim;
    if (!call->needs)
        return 0;
    plan->backward_flops = plan->flops * (kept == KEPT_PROBS && d.softcap <= 0 ? 2.0 : 2.5);
    plan->backward_workspace = backward_workspace(call, &d);
    plan->saves = OP_INPUT(Q) | OP_INPUT(K) | OP_INPUT(V) | OP_INPUT(MASK) | OP_OUTPUT;
    return 0;
}

static void attention_forward(OpCall *call)
{
    AttentionDims d = attention_dims_(call);
    const Kernels *k = call->kernels;
    void *p[3];
    attention_split_(call, call->in, p);
    if (call->attr.attention.flash)
        k->attention_flash_forward(&d, p[Q], p[K], p[V], call->out, call->extra[0], call->workspace,
                                   call->run);
    else
        k->attention_eager_forward(&d, p[Q], p[K], p[V], call->out, call->extra[0], call->workspace,
                                   call->run);
}

static void attention_backward(OpCall *call)
{
    AttentionDims d = attention_dims_(call);
    const Kernels *k = call->kernels;
    void *p[3], *g[3];
    char *unwanted = (char *)call->workspace + kernel_workspace(call, &d);
    attention_split_(call, call->in, p);
    attention_split_(call, (void *const[]){call->din[0], call->din[1], call->din[2]}, g);
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
                                 .by_head = packed && options->by_head,
                                 .recompute = options->recompute || (context && context->selective),
                                 .window = options->window,
                                 .scale = options->scale,
                                 .softcap = options->softcap}};
    return tensor_apply(&attention_row, &attr, 4, (Tensor *[]){q, k, v, options->mask});
}

Tensor *tensor_attention(Tensor *q, Tensor *k, Tensor *v, const AttentionOptions *options)
{
    return q && k && v && options ? attention(q, k, v, options, 0) : NULL;
}

Tensor *tensor_attention_packed(Tensor *qkv, const AttentionOptions *options)
{
    return qkv && options ? attention(qkv, NULL, NULL, options, 1) : NULL;
}
