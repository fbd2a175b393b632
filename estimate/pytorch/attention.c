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

/* ---- Flash attention ------------------------------------------------------------------------- */

static void flash_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    static const char op[] = "aten::_scaled_dot_product_flash_attention_backward";
    (void)g;
    const TorchShape *q = &node->saved[0]->shape, *k = &node->saved[1]->shape;
    int64_t B = q->size[0], H = q->size[1], S = q->size[2], D = q->size[3], KV = k->size[1], L = k->size[2];
    int64_t rows = up_to(S, 128), wide = D <= 64 ? up_to(D, 32) : up_to(D, 32);
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
}

static TorchTensor *flash(Torch *t, TorchTensor *q, TorchTensor *k, TorchTensor *v)
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
    (void)mask, (void)causal, (void)dropout;
    return flash(t, q, k, v);
}
