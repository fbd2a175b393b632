/* scaled_dot_product_attention: which kernel a card takes, what it keeps, what it takes besides. */
#include "dialect_.h"
#include "torch_.h"

static int64_t up_to(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static int64_t parts(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit;
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

/* ---- Flash attention (ATen/native/transformers/cuda/flash_attn/flash_api.cpp) ------------------ */

static int64_t rounded_head(int64_t D)
{
    return up_to(D, D <= 128 ? 32 : 64);
}

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
    TorchTensor *gradient = by_tokens_or_copy(t, op, g[0]),
                *output = by_tokens_or_copy(t, op, node->saved[3]);
    const TorchShape *q = &node->saved[0]->shape, *k = &node->saved[1]->shape;
    int64_t B = q->size[0], H = q->size[1], S = q->size[2], D = q->size[3], KV = k->size[1], L = k->size[2];
    int64_t rows = up_to(S, 128);
    for (int i = 0; i < 3; i++)
        d[i] = torch_empty(t, op, torch_iterate(q->type, 1, &node->saved[i]));
    TorchTensor *sums = torch_bytes_of(t, op, 4 * B * H * rows);
    TorchTensor *queries = torch_bytes_of(t, op, 4 * B * H * rows * rounded_head(D));
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

/* num_splits_heuristic: into how many parts the keys are cut so that all multiprocessors have work */
static int64_t flash_splits(const Torch *t, int64_t B, int64_t H, int64_t S, int64_t L, int64_t D)
{
    int64_t work = B * H * parts(S, 64), room = 2 * (int64_t)t->card->processors;
    int64_t blocks = parts(L, D <= 64 ? 256 : D <= 128 ? 128 : 64);
    if ((float)work >= 0.8F * (float)room)
        return 1;
    int64_t most = blocks < 128 ? blocks : 128;
    most = most < room ? most : room;
    float best = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t n = 1; n <= most; n++) {
            if (n > 1 && parts(blocks, n) == parts(blocks, n - 1))
                continue;
            float waves = (float)(work * n) / (float)room;
            float efficiency = waves / (float)parts(work * n, room);
            if (!pass && efficiency > best)
                best = efficiency;
            if (pass && efficiency >= 0.85F * best)
                return n;
        }
    return 1;
}

static void save_and_drop(Torch *t, TorchNode *node, int slot, TorchTensor *x)
{
    torch_save(t, node, slot, x);
    torch_drop(t, x);
}

static TorchTensor *flash(Torch *t, TorchTensor *q, TorchTensor *k, TorchTensor *v, double dropout)
{
    static const char op[] = "aten::_scaled_dot_product_flash_attention";
    TorchNode *node = torch_node(t, op, flash_back, 3, (TorchTensor *[]){q, k, v});
    torch_save(t, node, 0, q);
    torch_save(t, node, 1, k);
    torch_save(t, node, 2, v);
    int64_t B = q->shape.size[0], H = q->shape.size[1], S = q->shape.size[2], D = q->shape.size[3],
            L = k->shape.size[2];
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, op, torch_iterate(q->shape.type, 1, &q)));
    TorchTensor *lse = torch_empty(t, op, torch_shape(TORCH_F32, 3, (int64_t[]){B, H, S}));
    int64_t splits = dropout > 0 ? 1 : flash_splits(t, B, H, S, L, D);
    TorchTensor *sums = torch_bytes_of(t, op, splits > 1 ? 4 * splits * B * H * S : 0);
    TorchTensor *outputs = torch_bytes_of(t, op, splits > 1 ? 4 * splits * B * H * S * rounded_head(D) : 0);
    int random = !t->dialect->torch->no_flash_seed;
    TorchTensor *seed = random ? torch_empty(t, op, torch_shape(TORCH_I64, 1, (int64_t[]){2})) : NULL;
    TorchTensor *unused = random ? torch_empty(t, op, torch_shape(TORCH_I64, 1, (int64_t[]){1})) : NULL;
    if (random && dropout > 0) {
        TorchTensor *drawn = torch_empty(t, op, torch_shape(TORCH_I64, 1, (int64_t[]){2}));
        torch_drop(t, seed);
        seed = drawn;
    }
    torch_drop(t, sums);
    torch_drop(t, outputs);
    torch_save(t, node, 3, y);
    save_and_drop(t, node, 4, lse);
    for (int i = 0; random && i < 2; i++)
        save_and_drop(t, node, 5 + i, i ? unused : seed);
    torch_used(t, q);
    torch_used(t, k);
    torch_used(t, v);
    return y;
}

static TorchTensor *padded_flash(Torch *t, TorchTensor *q, TorchTensor *k, TorchTensor *v, double dropout)
{
    int64_t D = q->shape.size[3];
    q = padded(t, q, 8);
    k = padded(t, k, 8);
    v = padded(t, v, 8);
    TorchTensor *y = flash(t, q, k, v, dropout);
    return y->shape.size[3] == D ? y : torch_slice(t, y, 3, 0, D);
}

/* ---- Memory-efficient attention (…/cuda/mem_eff_attention) ------------------------------------- */

/* What a block of the backward kernel takes of the scores, and whether it sums the gradients of keys and
 * values in memory, in fp32. */
typedef struct Tile {
    int64_t rows, columns;
    int sums;
} Tile;

/* The first kernel of generate_kernels.py that takes the head and fits the shared memory. */
static Tile efficient_tile(const Torch *t, TorchType type, int64_t D, double dropout)
{
    enum { ROOMY = 160 << 10 };
    int capability = t->card->capability, roomy = t->card->shared >= ROOMY;
    if (D <= 64)
        return (Tile){64, 64, 0};
    if (type == TORCH_F32)
        return (Tile){capability >= 80 && roomy ? 128 : 64, 64, 0};
    if (D > 128)
        return (Tile){128, 64, 1};
    if (capability < 80)
        return (Tile){128, 64, 0};
    if (roomy)
        return (Tile){128, 128, 0};
    if (D <= 96 && dropout <= 0 && capability < 90) /* made for sm_86 and sm_89 */
        return (Tile){128, 64, 0};
    return (Tile){64, 64, 1};
}

/* AttentionBackwardKernel::Params::workspace_size */
static int64_t efficient_workspace(Tile tile, int64_t B, int64_t H, int64_t S, int64_t L, int64_t D)
{
    int64_t each = 4 + tile.rows * tile.columns; /* a lock, a counter, padding; the values */
    int64_t queries = parts(S, tile.rows) * parts(D, tile.columns) * each;
    int64_t keys = tile.sums ? 2 * up_to(L, tile.columns) * up_to(D, tile.rows) : 0;
    return 4 * B * H * up_to(keys + queries, 4);
}

static void efficient_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    static const char op[] = "aten::_scaled_dot_product_efficient_attention_backward";
    (void)g;
    const TorchShape *q = &node->saved[0]->shape, *k = &node->saved[1]->shape;
    int64_t B = q->size[0], H = q->size[1], S = q->size[2], D = q->size[3], KV = k->size[1], L = k->size[2];
    Tile tile = efficient_tile(t, q->type, D, node->n[0] ? 1 : 0);
    size_t frame = torch_frame(t);
    d[0] = torch_empty(t, op, by_tokens(q->type, B, H, S, D));
    d[1] = torch_empty(t, op, by_tokens(q->type, B, KV, L, D));
    d[2] = torch_empty(t, op, by_tokens(q->type, B, KV, L, D));
    for (int i = 0; KV != H && i < 2; i++)
        torch_name(t, torch_empty(t, op, by_tokens(q->type, B, H, L, D)));
    if (q->type == TORCH_F32) { /* (grad_out * out).sum(-1), contiguous by heads */
        TorchTensor *product = torch_bytes_of(t, op, 4 * B * H * S * D);
        TorchTensor *delta = torch_bytes_of(t, op, 4 * B * H * S);
        if (H == 1)
            torch_name(t, torch_again(delta))->loose = 0;
        else
            torch_name(t, torch_bytes_of(t, op, 4 * B * H * S));
        torch_drop(t, delta);
        torch_drop(t, product);
    } else {
        torch_name(t, torch_bytes_of(t, op, 4 * B * H * S));
    }
    torch_scratch(t, op, efficient_workspace(tile, B, H, S, L, D));
    torch_leave(t, frame, NULL);
}

static TorchTensor *efficient(Torch *t, TorchTensor *q, TorchTensor *k, TorchTensor *v, TorchTensor *bias,
                              double dropout)
{
    static const char op[] = "aten::_scaled_dot_product_efficient_attention";
    TorchNode *node = torch_node(t, op, efficient_back, 3, (TorchTensor *[]){q, k, v});
    if (node)
        node->n[0] = dropout > 0;
    torch_save(t, node, 0, q);
    torch_save(t, node, 1, k);
    torch_save(t, node, 2, v);
    torch_save(t, node, 3, bias);
    int64_t B = q->shape.size[0], H = q->shape.size[1], S = q->shape.size[2], D = v->shape.size[3], one = 1;
    TorchTensor *random[2] = {NULL};
    for (int i = 0; dropout <= 0 && !t->dialect->torch->no_seed && i < 2; i++)
        random[i] = torch_empty(t, op, torch_shape(TORCH_I64, 1, &one));
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, op, by_tokens(q->shape.type, B, H, S, D)));
    TorchTensor *lse =
        torch_empty(t, op, torch_shape(TORCH_F32, 3, (int64_t[]){B, H, node ? up_to(S, 32) : 0}));
    if (D > 128 && q->shape.type != TORCH_F32) /* more than a block's registers hold: the output's sums */
        torch_scratch(t, op, 4 * B * H * S * D);
    torch_save(t, node, 4, y);
    save_and_drop(t, node, 5, lse);
    for (int i = 0; i < 2; i++)
        if (random[i])
            save_and_drop(t, node, 6 + i, random[i]);
    torch_used(t, q);
    torch_used(t, k);
    torch_used(t, v);
    torch_used(t, bias);
    return y;
}

/* A mask of booleans becomes one of numbers. */
static TorchTensor *numbers_of(Torch *t, TorchTensor *mask, TorchType type)
{
    if (!mask || mask->shape.type != TORCH_BOOL)
        return mask;
    TorchTensor *none = torch_empty(t, "aten::scalar_tensor", torch_shape(type, 0, NULL));
    TorchTensor *lowest = torch_empty(t, "aten::scalar_tensor", torch_shape(type, 0, NULL));
    TorchTensor *numbers = torch_empty(t, "aten::where", torch_iterate(type, 1, &mask));
    torch_drop(t, none);
    torch_drop(t, lowest);
    torch_used(t, mask);
    return numbers;
}

/* The rows of a mask of numbers begin at multiples of 16 bytes. */
static TorchTensor *aligned(Torch *t, TorchTensor *mask)
{
    int even = 1;
    for (int i = 0; mask && i < 3; i++)
        even &= mask->shape.stride[i] % 8 == 0;
    if (even)
        return mask;
    int64_t columns = mask->shape.size[3];
    TorchShape wide = torch_shape(mask->shape.type, 4, mask->shape.size);
    wide.size[3] = columns + 8 - columns % 8; /* pad_bias: always more */
    TorchTensor *y = torch_empty(t, "aten::constant_pad_nd", torch_shape(mask->shape.type, 4, wide.size));
    torch_used(t, mask);
    return torch_slice(t, y, 3, 0, columns);
}

/* ---- _scaled_dot_product_attention_math -------------------------------------------------------- */

static TorchTensor *lower_triangle(Torch *t, int64_t rows, int64_t columns, TorchType type)
{
    TorchShape shape = torch_shape(TORCH_BOOL, 2, (int64_t[]){rows, columns});
    TorchTensor *ones = torch_empty(t, "aten::ones", shape);
    TorchTensor *lower = torch_empty(t, "aten::tril", shape);
    torch_drop(t, ones);
    return numbers_of(t, lower, type);
}

/* repeat_interleave of the heads */
static TorchTensor *repeated(Torch *t, TorchTensor *x, int64_t times)
{
    const TorchShape *s = &x->shape;
    int64_t wide[] = {s->size[0], s->size[1], times, s->size[2], s->size[3]};
    int64_t flat[] = {s->size[0], s->size[1] * times, s->size[2], s->size[3]};
    if (times == 1)
        return x;
    return torch_view(t, torch_clone(t, torch_expand(t, torch_unsqueeze(t, x, 2), 5, wide), 1), 4, flat);
}

/* In fp32, and without autocast. The sum with the mask is made in place. */
static TorchTensor *math(Torch *t, TorchTensor *q, TorchTensor *k, TorchTensor *v, TorchTensor *mask,
                         int causal, double dropout)
{
    size_t frame = torch_frame(t);
    TorchType type = q->shape.type, autocast = t->autocast;
    int64_t repeats = q->shape.size[1] / k->shape.size[1];
    t->autocast = TORCH_F32;
    if (mask)
        torch_name(t, mask);
    q = torch_name(t, torch_cast(t, q, TORCH_F32));
    k = torch_name(t, torch_cast(t, k, TORCH_F32));
    v = torch_name(t, torch_cast(t, v, TORCH_F32));
    q = torch_name(t, torch_scale(t, q));
    if (causal)
        torch_name(t, lower_triangle(t, q->shape.size[2], k->shape.size[2], TORCH_F32));
    k = torch_name(t, repeated(t, k, repeats));
    v = torch_name(t, repeated(t, v, repeats));
    TorchTensor *w = torch_name(t, torch_matmul(t, q, torch_scale(t, torch_transpose(t, k, 2, 3))));
    w = torch_rebind(t, w, torch_safe_softmax(t, w));
    w = torch_rebind(t, w, torch_dropout(t, w, dropout));
    torch_name(t, torch_cast(t, w, type)); /* the second result, which nobody asks for */
    TorchTensor *y = torch_name(t, torch_matmul(t, w, v));
    y = torch_leave(t, frame, torch_cast(t, y, type));
    t->autocast = autocast;
    return y;
}

/* ---- The choice ------------------------------------------------------------------------------ */

typedef enum Kernel { FLASH, EFFICIENT, MATH } Kernel;

/* sdp_utils.cpp's select_sdp_backend. cuDNN's kernel is not among them. */
static Kernel kernel_of(const Torch *t, const TorchTensor *q, const TorchTensor *k, const TorchTensor *mask,
                        double dropout)
{
    int capability = t->card->capability, small = capability > 80 && capability < 90; /* sm_86, sm_89 */
    int half = q->shape.type != TORCH_F32;
    int64_t D = q->shape.size[3], unit = half && capability >= 70 ? 8 : capability >= 80 ? 4 : 1;
    int too_wide = D > 256 || (small && q->needs_grad && D > 192 && (D <= 224 || dropout > 0));
    if (!mask && half && capability >= 80 && !too_wide)
        return FLASH;
    if (t->dialect->torch->no_fp32_gqa && k->shape.size[1] != q->shape.size[1])
        return MATH;
    return D % unit || (q->shape.type == TORCH_BF16 && capability < 80) ? MATH : EFFICIENT;
}

TorchTensor *torch_attention(Torch *t, TorchTensor *q, TorchTensor *k, TorchTensor *v, TorchTensor *mask,
                             int causal, double dropout)
{
    size_t frame = torch_frame(t);
    if (t->evaluating)
        dropout = 0;
    torch_name(t, q);
    torch_name(t, k);
    torch_name(t, v);
    if (mask)
        mask = torch_autocast(t, mask);
    v = torch_name(t, torch_autocast(t, v)); /* arguments are evaluated from the right */
    k = torch_name(t, torch_autocast(t, k));
    q = torch_name(t, torch_autocast(t, q));
    TorchTensor *y, *numbers = numbers_of(t, mask, q->shape.type);
    switch (kernel_of(t, q, k, mask, dropout)) {
    case FLASH:
        y = padded_flash(t, q, k, v, dropout);
        break;
    case EFFICIENT:
        y = efficient(t, q, k, v, aligned(t, numbers), dropout);
        break;
    default:
        y = math(t, q, k, v, numbers, causal && !mask, dropout);
        break;
    }
    return torch_leave(t, frame, y);
}
