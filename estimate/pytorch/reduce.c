/* Reductions, and operations that reduce inside: their outputs, what they keep, their scratch memory. */
#include "dialect_.h"

/* ---- Scratch memory of reductions ------------------------------------------------------------ */

static int64_t up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t power_below(int64_t n)
{
    int64_t p = 1;
    while (2 * p <= n)
        p *= 2;
    return p;
}

/* As setReduceConfig of ATen/native/cuda/Reduce.cuh: where blocks share an output, they meet in global
 * memory. `fast`: the reduced dimension is the one that lies together; `bytes` of what is summed. */
static void scratch(Torch *t, int64_t outputs, int64_t reduced, int fast, int bytes)
{
    int64_t vector = fast ? 1 : outputs % 4 == 0 ? 4 : outputs % 2 == 0 ? 2 : 1, threads = 512 / vector;
    int64_t across = fast ? reduced : outputs / vector, down = fast ? outputs : reduced;
    if (fast && outputs == 1 && reduced > 128)
        across /= 4;
    int64_t across2 = least(power_below(across), threads), down2 = least(power_below(down), threads);
    int64_t width = least(across2, 32), height = least(down2, threads / width);
    width = least(across2, threads / height);
    int64_t values = up(reduced, fast ? width : 1);
    if (values < least(height * 16, 256))
        return;
    values = up(values, height);
    int64_t grid = up(outputs / vector, fast ? 1 : width);
    int64_t target = (int64_t)t->card->processors * (t->card->threads / (width * height));
    if (values < 256 || grid > target)
        return;
    int64_t blocks = least(up(target, grid), up(values, 16));
    if (blocks < up(values, 256))
        blocks = up(values, 256);
    if (blocks < 2)
        return;
    TorchTensor *partial =
        torch_bytes_of(t, "reduction", bytes * outputs * blocks * (fast ? 1 : width * vector));
    torch_scratch(t, "reduction", 4 * grid);
    torch_drop(t, partial);
}

/* Rows whose offsets, in bytes, are more than 32 bits hold are summed in halves. */
static void in_halves(Torch *t, int64_t outputs, int64_t reduced, int bytes)
{
    if (reduced < 2 || 1 + (reduced - 1) * outputs * bytes + (outputs - 1) * bytes <= INT32_MAX) {
        scratch(t, outputs, reduced, 0, 4);
        return;
    }
    in_halves(t, outputs, reduced / 2, bytes);
    in_halves(t, outputs, reduced - reduced / 2, bytes);
}

void torch_reduction_scratch(Torch *t, int64_t outputs, int64_t reduced, int fast, TorchType type)
{
    int bytes = torch_bytes(type);
    if (fast || outputs * reduced * bytes <= INT32_MAX) {
        scratch(t, outputs, reduced, fast, 4);
        return;
    }
    TorchTensor *sums =
        torch_bytes_of(t, "reduction", bytes < 4 ? 4 * outputs : 0); /* which 16 bits cannot hold */
    in_halves(t, outputs, reduced, bytes);
    torch_drop(t, sums);
}

void torch_whole_scratch(Torch *t, int64_t count, int bytes)
{
    scratch(t, 1, count, 1, bytes);
}

/* ---- Mean, cat, softmax ---------------------------------------------------------------------- */

/* grad.expand(sizes) / n */
static void mean_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    TorchTensor *wide = torch_alias(t, g[0]);
    wide->shape.size[wide->shape.dims - 1] = node->n[0];
    wide->shape.stride[wide->shape.dims - 1] = 0;
    torch_based(wide);
    d[0] = torch_divide(t, wide);
}

TorchTensor *torch_mean_last(Torch *t, TorchTensor *x)
{
    TorchNode *node = torch_node(t, "aten::mean", mean_back, 1, &x);
    int last = x->shape.dims - 1;
    if (node)
        node->n[0] = x->shape.size[last];
    int64_t size[TORCH_DIMS];
    for (int i = 0; i < last; i++)
        size[i] = x->shape.size[i];
    size[last] = 1;
    TorchShape shape = torch_shape(x->shape.type, last + 1, size);
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, "aten::mean", shape));
    torch_used(t, x);
    return y;
}

static void cat_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    for (int i = 0; i < node->edges; i++) {
        if (!torch_wants(node, i))
            continue;
        d[i] = torch_alias(t, g[0]);
        d[i]->shape.size[node->n[0]] = node->n[1 + i];
        torch_based(d[i]);
    }
}

TorchTensor *torch_cat(Torch *t, int dim, int count, TorchTensor **parts)
{
    return torch_cat_as(t, parts[0]->shape.type, dim, count, parts);
}

TorchTensor *torch_cat_as(Torch *t, TorchType type, int dim, int count, TorchTensor **parts)
{
    TorchNode *node = torch_node(t, "aten::cat", cat_back, count, parts);
    TorchShape shape = torch_shape(type, parts[0]->shape.dims, parts[0]->shape.size);
    shape.size[dim] = 0;
    for (int i = 0; i < count; i++) {
        shape.size[dim] += parts[i]->shape.size[dim];
        if (node)
            node->n[1 + i] = parts[i]->shape.size[dim];
    }
    if (node)
        node->n[0] = dim;
    shape = torch_shape(shape.type, shape.dims, shape.size);
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, "aten::cat", shape));
    for (int i = 0; i < count; i++)
        torch_used(t, parts[i]);
    return y;
}

static void softmax_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    (void)g;
    TorchShape shape = node->saved[0]->shape;
    d[0] = torch_empty(t, node->name, torch_shape((TorchType)node->n[0], shape.dims, shape.size));
    if (node->n[1]) /* grad * output */
        torch_scratch(t, "aten::mul", torch_count(&shape) * torch_bytes(shape.type));
}

static TorchTensor *softmax(Torch *t, const char *op, const char *back, TorchTensor *x, TorchType type,
                            int logarithm)
{
    TorchNode *node = torch_node(t, back, softmax_back, 1, &x);
    if (node)
        node->n[0] = x->shape.type, node->n[1] = !logarithm;
    TorchShape shape = torch_shape(type, x->shape.dims, x->shape.size);
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, op, shape));
    torch_save(t, node, 0, y);
    torch_used(t, x);
    return y;
}

TorchTensor *torch_softmax(Torch *t, TorchTensor *x, TorchType type)
{
    size_t frame = torch_frame(t);
    torch_name(t, x);
    if (t->autocast != TORCH_F32)
        type = TORCH_F32;
    if (x->shape.type != TORCH_F16 || type != TORCH_F32) /* from fp16 to fp32 one kernel goes */
        x = torch_cast(t, x, type);
    return torch_leave(t, frame, softmax(t, "aten::_softmax", "aten::_softmax_backward_data", x, type, 0));
}

TorchTensor *torch_safe_softmax(Torch *t, TorchTensor *x)
{
    TorchType type = x->shape.type;
    int64_t count = torch_count(&x->shape), rows = count / x->shape.size[x->shape.dims - 1];
    TorchTensor *y = softmax(t, "aten::_softmax", "aten::_softmax_backward_data", x, type, 0);
    TorchTensor *masked = torch_bytes_of(t, "aten::isneginf", count);
    TorchTensor *all = torch_bytes_of(t, "aten::all", rows);
    torch_scratch(t, "aten::scalar_tensor", torch_bytes(type));
    torch_drop(t, masked);
    torch_drop(t, all);
    return y;
}

/* ---- Loss ------------------------------------------------------------------------------------ */

static void nll_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    (void)g;
    TorchShape shape = node->saved[0]->shape;
    d[0] = torch_empty(t, "aten::nll_loss_backward", torch_shape(shape.type, shape.dims, shape.size));
}

static TorchTensor *nll(Torch *t, TorchTensor *x, TorchTensor *labels)
{
    TorchNode *node = torch_node(t, "aten::nll_loss", nll_back, 1, &x);
    torch_save(t, node, 0, x);
    torch_save(t, node, 1, labels);
    TorchShape shape = torch_shape(x->shape.type, 0, NULL);
    TorchTensor *loss = torch_made(t, node, 0, torch_empty(t, "aten::nll_loss_forward", shape));
    TorchTensor *weight = torch_empty(t, "aten::nll_loss_forward", shape);
    torch_save(t, node, 2, weight);
    torch_drop(t, weight);
    torch_used(t, x);
    torch_used(t, labels);
    return loss;
}

/* logits (rows, classes), labels (rows). Under autocast the logarithms keep their type, and the loss is in
 * fp32. */
TorchTensor *torch_cross_entropy(Torch *t, TorchTensor *logits, TorchTensor *labels)
{
    size_t frame = torch_frame(t);
    TorchTensor *p =
        softmax(t, "aten::_log_softmax", "aten::_log_softmax_backward_data", logits, logits->shape.type, 1);
    p = torch_full(t, torch_name(t, p));
    return torch_leave(t, frame, nll(t, p, labels));
}

/* ---- Embedding, layer norm ------------------------------------------------------------------- */

static TorchTensor *copy_of(Torch *t, const char *op, const TorchTensor *ids)
{
    return torch_empty(t, op, torch_shape(ids->shape.type, ids->shape.dims, ids->shape.size));
}

enum { NO_SORT = 3072, ROWS_A_THREAD = 10 };

/* CUB's temporary storage: arrays that begin at multiples of 256, and room to align the first. */
static int64_t aligned(int64_t bytes)
{
    return up(bytes, 256) * 256;
}

static int64_t sort_bytes(const Torch *t, int64_t count, int64_t vocab)
{
    int64_t bits = 0;
    for (int64_t v = vocab; v > 0; v /= 2)
        bits++;
    if (t->dialect->torch->sorts_all_bits)
        bits = 64;
    int64_t passes = up(bits, 8), between = passes > 1 ? 2 * aligned(8 * count) : 0;
    return 255 + between + 256 * 8 * passes + 256 + 1024 * up(count, t->card->sort_tile);
}

int64_t torch_scan_bytes(int64_t count, int64_t tile)
{
    return 255 + 256 + aligned(16 * (32 + up(count, tile)));
}

/* CUB's unique by key; once a tile's state was 8 bytes, and no array of 256 lay before */
static int64_t unique_bytes(const Torch *t, int64_t count)
{
    if (t->dialect->torch->old_cub)
        return 255 + aligned(8 * (32 + up(count, t->card->old_unique_tile)));
    return torch_scan_bytes(count, t->card->unique_tile);
}

static TorchTensor *numbers(Torch *t, int64_t count)
{
    return torch_name(t, torch_bytes_of(t, "aten::embedding_dense_backward", 8 * count));
}

/* embedding_dense_backward: many indices are sorted, and their gradients summed in parts. */
static void embedding_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    static const char op[] = "aten::embedding_dense_backward";
    int64_t count = torch_count(&node->saved[0]->shape), vocab = node->n[0], width = node->n[1];
    TorchShape shape = torch_shape(g[0]->shape.type, 2, node->n);
    size_t frame = torch_frame(t);
    if (!torch_contiguous(&node->saved[0]->shape))
        torch_name(t, copy_of(t, op, node->saved[0]));
    if (count <= NO_SORT) {
        d[0] = torch_empty(t, op, shape);
        torch_leave(t, frame, NULL);
        return;
    }
    numbers(t, count); /* the indices, sorted, and where they were */
    numbers(t, count);
    TorchTensor *range = numbers(t, count);
    torch_scratch(t, op, sort_bytes(t, count, vocab));
    torch_delete(t, range);
    d[0] = torch_empty(t, op, shape);
    int64_t segments = count < vocab ? count : vocab, parts = count / ROWS_A_THREAD + segments;
    numbers(t, count);
    numbers(t, 1);
    TorchTensor *unique = numbers(t, count);
    torch_scratch(t, op, unique_bytes(t, count));
    torch_delete(t, unique);
    numbers(t, segments);
    numbers(t, segments);
    torch_scratch(t, op,
                  torch_scan_bytes(segments, TORCH_SCAN_TILE) - (t->dialect->torch->old_cub ? 256 : 0));
    numbers(t, 1);
    numbers(t, parts);
    if (segments < 4 * t->card->processors &&
        parts > 4 * segments) { /* long segments: added to at once, in fp32 */
        numbers(t, parts);
        torch_scratch(t, op, shape.type == TORCH_F32 ? 0 : 4 * vocab * width);
    } else {
        torch_scratch(t, op, 4 * parts * width);
    }
    torch_leave(t, frame, NULL);
}

TorchTensor *torch_embedding(Torch *t, TorchTensor *weight, TorchTensor *ids)
{
    TorchNode *node = torch_node(t, "aten::embedding", embedding_back, 1, &weight);
    if (node) {
        node->n[0] = weight->shape.size[0];
        node->n[1] = weight->shape.size[1];
    }
    torch_save(t, node, 0, ids);
    int64_t size[TORCH_DIMS];
    for (int i = 0; i < ids->shape.dims; i++)
        size[i] = ids->shape.size[i];
    size[ids->shape.dims] = weight->shape.size[1];
    TorchShape shape = torch_shape(weight->shape.type, ids->shape.dims + 1, size);
    int64_t count = torch_count(&ids->shape), stride;
    TorchTensor *rows =
        torch_viewable(&ids->shape, 1, &count, &stride) ? NULL : copy_of(t, "aten::embedding", ids);
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, "aten::embedding", shape));
    torch_drop(t, rows);
    torch_used(t, ids);
    return y;
}

/* LaunchGammaBetaBackwardCUDAKernel: of many narrow rows, sums of blocks of rows come first. */
static int64_t norm_blocks(const Torch *t, int64_t rows, int64_t width)
{
    enum { MANY = 64 << 10, BLOCKS = 32 << 10, WARP = 32 };
    if (rows <= MANY || width / WARP >= t->card->processors / 2)
        return 0;
    return least(BLOCKS / up(width, WARP), up(rows, WARP));
}

static void layer_norm_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    static const char op[] = "aten::native_layer_norm_backward";
    TorchShape row = node->saved[1]->shape,
               shape = torch_shape(g[0]->shape.type, g[0]->shape.dims, g[0]->shape.size);
    if (torch_wants(node, 0))
        d[0] = torch_empty(t, op, shape);
    for (int i = 1; i < 3; i++)
        if (torch_wants(node, i))
            d[i] = torch_empty(t, op, row);
    int64_t width = row.size[0], blocks = norm_blocks(t, torch_count(&shape) / width, width);
    TorchShape partial = torch_shape(row.type, 2, (int64_t[]){blocks, width});
    TorchTensor *sums[3] = {NULL};
    for (int i = 1; blocks && i < 3; i++)
        if (d[i])
            sums[i] = torch_empty(t, op, partial);
    for (int i = 1; i < 3; i++) {
        if (!sums[i])
            continue;
        TorchTensor *sum = torch_empty(t, "aten::sum", row);
        torch_reduction_scratch(t, width, blocks, 0, row.type);
        torch_drop(t, d[i]);
        d[i] = sum;
    }
    torch_drop(t, sums[1]);
    torch_drop(t, sums[2]);
}

static TorchTensor *layer_norm(Torch *t, TorchTensor *x, TorchTensor *weight, TorchTensor *bias)
{
    TorchNode *node =
        torch_node(t, "aten::native_layer_norm", layer_norm_back, 3, (TorchTensor *[]){x, weight, bias});
    torch_save(t, node, 0, x);
    torch_save(t, node, 1, weight);
    torch_save(t, node, 2, bias);
    TorchShape shape = torch_shape(x->shape.type, x->shape.dims, x->shape.size), rows = shape;
    rows.type = TORCH_F32;
    rows.size[rows.dims - 1] = 1;
    rows = torch_shape(rows.type, rows.dims, rows.size);
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, "aten::native_layer_norm", shape));
    TorchTensor *mean = torch_empty(t, "aten::native_layer_norm", rows);
    TorchTensor *rstd = torch_empty(t, "aten::native_layer_norm", rows);
    torch_save(t, node, 3, mean);
    torch_save(t, node, 4, rstd);
    torch_drop(t, mean);
    torch_drop(t, rstd);
    torch_used(t, x);
    return y;
}

TorchTensor *torch_layer_norm(Torch *t, TorchTensor *x, TorchTensor *weight, TorchTensor *bias)
{
    size_t frame = torch_frame(t);
    torch_name(t, x);
    bias = torch_name(t, torch_full(t, bias)); /* arguments are evaluated from the right */
    weight = torch_name(t, torch_full(t, weight));
    x = torch_name(t, torch_full(t, x));
    return torch_leave(t, frame, layer_norm(t, x, weight, bias));
}
