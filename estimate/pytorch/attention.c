/* scaled_dot_product_attention: which kernel a card takes, what it keeps, what it takes besides. */
#include "torch_.h"
#include "dialect_.h"

static int64_t up_to(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* (B,H,S,D) that lies as (B,S,H,D) */
static TorchShape by_tokens(TorchType type, int64_t B, int64_t H, int64_t S, int64_t D)
{
    return (TorchShape){.type = type, .dims = 4, .size = {B, H, S, D}, .stride = {S * H * D, D, H * D, 1}};
}

/* ---- Padding --------------------------------------------------------------------------------- */

/* A copy of what is left of the gradient, in its own order. */
static void pad_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    TorchTensor *part = torch_alias(t, g[0]);
    part->shape.size[3] = node->n[0];
    d[0] = torch_empty(t, "aten::constant_pad_nd", torch_iterate(part->shape.type, 1, &part));
    torch_drop(t, part);
}

/* Zeros behind the last dimension up to a multiple of `unit`. */
static TorchTensor *padded(Torch *t, TorchTensor *x, int64_t unit)
{
    if (x->shape.size[3] % unit == 0)
        return x;
    TorchNode *node = torch_node(t, "aten::constant_pad_nd", pad_back, 1, &x);
    if (node)
        node->n[0] = x->shape.size[3];
    TorchShape shape = x->shape;
    shape.size[3] = up_to(shape.size[3], unit);
    shape = torch_shape(shape.type, 4, shape.size);
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, "aten::constant_pad_nd", shape));
    torch_used(t, x);
    return y;
}

/* ---- Flash attention ------------------------------------------------------------------------- */

/* A copy of x for a kernel that reads (B,S,H,D); NULL where it lies so. */
static TorchTensor *by_tokens_or_copy(Torch *t, const char *op, const TorchTensor *x)
{
    const TorchShape *s = &x->shape;
    TorchShape turned = by_tokens(s->type, s->size[0], s->size[1], s->size[2], s->size[3]);
    for (int i = 0; i < 4; i++)
        if (s->size[i] != 1 && s->stride[i] != turned.stride[i])
            return torch_empty(t, op, turned);
    return NULL;
}

static void flash_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    static const char op[] = "aten::_scaled_dot_product_flash_attention_backward";
    TorchTensor *gradient = by_tokens_or_copy(t, op, g[0]), *output = by_tokens_or_copy(t, op, node->saved[3]);
    const TorchShape *q = &node->saved[0]->shape, *k = &node->saved[1]->shape;
    int64_t B = q->size[0], H = q->size[1], S = q->size[2], D = q->size[3], KV = k->size[1], L = k->size[2];
    int64_t rows = up_to(S, 128), wide = up_to(D, D <= 128 ? 32 : 64);
    for (int i = 0; i < 3; i++)
        d[i] = torch_empty(t, op, torch_iterate(q->type, 1, &node->saved[i]));
    TorchTensor *sums = torch_bytes_of(t, op, 4 * B * H * rows);
    TorchTensor *queries = torch_bytes_of(t, op, 4 * B * H * rows * wide);
    if (KV != H) {
        TorchTensor *keys = torch_empty(t, op, by_tokens(q->type, B, H, L, D));
        torch_scratch(t, op, torch_bytes(q->type) * B * H * L * D);
        torch_drop(t, keys);
    }
    torch_drop(t, queries);
    torch_drop(t, sums);
    torch_drop(t, output);
    torch_drop(t, gradient);
}

static TorchTensor *flash(Torch *t, TorchTensor *q, TorchTensor *k, TorchTensor *v, double dropout)
{
    static const char op[] = "aten::_scaled_dot_product_flash_attention";
    TorchNode *node = torch_node(t, op, flash_back, 3, (TorchTensor *[]){q, k, v});
    torch_save(t, node, 0, q);
    torch_save(t, node, 1, k);
    torch_save(t, node, 2, v);
    int64_t B = q->shape.size[0], H = q->shape.size[1], S = q->shape.size[2];
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, op, torch_iterate(q->shape.type, 1, &q)));
    TorchTensor *lse = torch_empty(t, op, torch_shape(TORCH_F32, 3, (int64_t[]){B, H, S}));
    TorchTensor *seed = torch_empty(t, op, torch_shape(TORCH_I64, 1, (int64_t[]){2}));
    TorchTensor *unused = torch_empty(t, op, torch_shape(TORCH_I64, 1, (int64_t[]){1}));
    if (dropout > 0) { /* another one, once it is known */
        TorchTensor *known = torch_empty(t, op, seed->shape);
        torch_drop(t, seed);
        seed = known;
    }
    torch_save(t, node, 3, y);
    torch_save(t, node, 4, lse);
    torch_save(t, node, 5, seed);
    torch_save(t, node, 6, unused);
    torch_drop(t, lse);
    torch_drop(t, seed);
    torch_drop(t, unused);
    torch_used(t, q);
    torch_used(t, k);
    torch_used(t, v);
    return y;
}

TorchTensor *torch_attention(Torch *t, TorchTensor *q, TorchTensor *k, TorchTensor *v, TorchTensor *mask, int causal,
                             double dropout)
{
    (void)mask, (void)causal;
    int64_t D = q->shape.size[3];
    q = padded(t, q, 8);
    k = padded(t, k, 8);
    v = padded(t, v, 8);
    TorchTensor *y = flash(t, q, k, v, dropout);
    return y->shape.size[3] == D ? y : torch_slice(t, y, 3, 0, D);
}
