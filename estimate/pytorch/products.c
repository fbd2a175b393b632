/* Matrix products, their workspaces, and autocast's copies of weights. */
#include "torch_.h"
#include "dialect_.h"

/* ---- Autocast -------------------------------------------------------------------------------- */

static TorchTensor *cached(Torch *t, TorchTensor *leaf)
{
    for (size_t i = 0; i < t->cast_count; i++)
        if (t->casts[i].leaf == leaf)
            return t->casts[i].cast;
    int grad_mode = t->grad_mode;
    TorchTensor *cast = torch_cast(t, leaf, t->autocast);
    t->grad_mode = grad_mode;
    cast->loose = 0;
    torch_mark(t, cast, PYTORCH_CAST);
    t->casts = torch_grow(t, t->casts, &t->cast_capacity, t->cast_count + 1, sizeof *t->casts);
    t->casts[t->cast_count++] = (TorchCast){leaf, cast};
    return cast;
}

TorchTensor *torch_autocast(Torch *t, TorchTensor *x)
{
    if (!x || t->autocast == TORCH_F32 || x->shape.type == t->autocast || !torch_floating(x->shape.type))
        return x;
    int leaf = x->needs_grad && (!x->node || x->node->leaf) && x->shape.type == TORCH_F32;
    return leaf ? cached(t, x) : torch_cast(t, x, t->autocast);
}

/* Of a weight or a bias: what is frozen is not in the cache, and each product keeps its own. */
static TorchTensor *cast_weight(Torch *t, TorchTensor *x)
{
    TorchTensor *y = torch_autocast(t, x);
    if (y != x && !x->needs_grad)
        torch_mark(t, y, PYTORCH_CAST);
    return y;
}

TorchTensor *torch_full(Torch *t, TorchTensor *x)
{
    return t->autocast == TORCH_F32 || !torch_floating(x->shape.type) ? x : torch_cast(t, x, TORCH_F32);
}

void torch_autocast_end(Torch *t)
{
    while (t->cast_count)
        torch_drop(t, t->casts[--t->cast_count].cast);
}

/* ---- Workspaces ------------------------------------------------------------------------------ */

static void workspace(Torch *t, int lt)
{
    static const char *const names[] = {"cublas workspace", "cublasLt workspace"};
    const int64_t bytes[] = {t->card->workspace, t->card->lt_workspace};
    if (!bytes[lt] || t->stopped)
        return;
    if (!t->dialect->torch->keeps_workspace) {
        TorchTensor *once = torch_bytes_of(t, names[lt], bytes[lt]);
        torch_mark(t, once, PYTORCH_WORKSPACE);
        torch_drop(t, once);
        return;
    }
    int once = lt && t->dialect->torch->lt_workspace_once;
    TorchTensor *first = once ? torch_bytes_of(t, names[1], bytes[1]) : NULL;
    if (once)
        torch_mark(t, first, PYTORCH_WORKSPACE);
    for (int i = 0; i <= lt - once; i++) { /* cublasLt's comes with a handle of cuBLAS, which has its own */
        TorchTensor **kept = &t->workspace[t->in_backward > 0][i];
        if (*kept)
            continue;
        *kept = torch_bytes_of(t, names[i], bytes[i]);
        (*kept)->loose = 0;
        torch_mark(t, *kept, PYTORCH_WORKSPACE);
    }
    torch_drop(t, first);
}

/* ---- Matrices -------------------------------------------------------------------------------- */

static int by_columns(const TorchShape *x)
{
    int n = x->dims;
    return x->stride[n - 2] == 1 && x->stride[n - 1] == x->size[n - 2];
}

static TorchShape flipped(const TorchShape *x)
{
    TorchShape y = *x;
    int a = x->dims - 2, b = x->dims - 1;
    y.size[a] = x->size[b];
    y.size[b] = x->size[a];
    y.stride[a] = x->stride[b];
    y.stride[b] = x->stride[a];
    return y;
}

static TorchTensor *turned(Torch *t, TorchTensor *x)
{
    TorchTensor *y = torch_alias(t, x);
    y->shape = flipped(&x->shape);
    torch_based(y);
    torch_used(t, x);
    return y;
}

/* grad.mm(mat2.t()), transposed where mat1 lies by columns */
static TorchTensor *left_gradient(Torch *t, TorchNode *node, TorchTensor *g, TorchTensor *b, int columns)
{
    (void)node;
    if (columns)
        return turned(t, torch_mm(t, b, turned(t, g)));
    return torch_mm(t, g, turned(t, b));
}

static TorchTensor *right_gradient(Torch *t, TorchNode *node, TorchTensor *g, TorchTensor *a, int columns)
{
    (void)node;
    if (columns)
        return turned(t, torch_mm(t, turned(t, g), a));
    return torch_mm(t, turned(t, a), g);
}

static void mm_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    if (torch_wants(node, 1))
        d[1] = right_gradient(t, node, g[0], node->saved[0], (int)node->n[1]);
    if (torch_wants(node, 0))
        d[0] = left_gradient(t, node, g[0], node->saved[1], (int)node->n[0]);
}

TorchTensor *torch_mm(Torch *t, TorchTensor *a, TorchTensor *b)
{
    TorchNode *node = torch_node(t, "aten::mm", mm_back, 2, (TorchTensor *[]){a, b});
    if (node) {
        node->n[0] = by_columns(&a->shape);
        node->n[1] = by_columns(&b->shape);
    }
    if (torch_wants(node, 1))
        torch_save(t, node, 0, a);
    if (torch_wants(node, 0))
        torch_save(t, node, 1, b);
    int64_t size[] = {a->shape.size[0], b->shape.size[1]};
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, "aten::mm", torch_shape(a->shape.type, 2, size)));
    workspace(t, 0);
    torch_used(t, a);
    torch_used(t, b);
    return y;
}

static void addmm_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    if (torch_wants(node, 1))
        d[1] = left_gradient(t, node, g[0], node->saved[1], (int)node->n[0]);
    if (torch_wants(node, 2))
        d[2] = right_gradient(t, node, g[0], node->saved[0], (int)node->n[1]);
    if (torch_wants(node, 0))
        d[0] = torch_again(g[0]);
}

static TorchTensor *addmm(Torch *t, TorchTensor *bias, TorchTensor *a, TorchTensor *b)
{
    TorchNode *node = torch_node(t, "aten::addmm", addmm_back, 3, (TorchTensor *[]){bias, a, b});
    if (node) {
        node->n[0] = by_columns(&a->shape);
        node->n[1] = by_columns(&b->shape);
    }
    if (torch_wants(node, 2))
        torch_save(t, node, 0, a);
    if (torch_wants(node, 1))
        torch_save(t, node, 1, b);
    int64_t size[] = {a->shape.size[0], b->shape.size[1]};
    TorchTensor *y =
        torch_made(t, node, 0, torch_empty(t, "aten::addmm", torch_shape(a->shape.type, 2, size)));
    workspace(t, 1); /* the bias is cublasLt's epilogue */
    torch_used(t, bias);
    torch_used(t, a);
    torch_used(t, b);
    return y;
}

TorchTensor *torch_addmm(Torch *t, TorchTensor *bias, TorchTensor *a, TorchTensor *b)
{
    size_t frame = torch_frame(t);
    torch_name(t, a);
    torch_name(t, b);
    b = torch_name(t, cast_weight(t, b)); /* arguments are evaluated from the right */
    a = torch_name(t, torch_autocast(t, a));
    bias = torch_name(t, cast_weight(t, bias));
    return torch_leave(t, frame, addmm(t, bias, a, b));
}

static void bmm_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    if (torch_wants(node, 1))
        d[1] = torch_bmm(t, turned(t, node->saved[0]), g[0]);
    if (torch_wants(node, 0))
        d[0] = torch_bmm(t, g[0], turned(t, node->saved[1]));
}

TorchTensor *torch_bmm(Torch *t, TorchTensor *a, TorchTensor *b)
{
    TorchNode *node = torch_node(t, "aten::bmm", bmm_back, 2, (TorchTensor *[]){a, b});
    if (torch_wants(node, 1))
        torch_save(t, node, 0, a);
    if (torch_wants(node, 0))
        torch_save(t, node, 1, b);
    int64_t size[] = {a->shape.size[0], a->shape.size[1], b->shape.size[2]};
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, "aten::bmm", torch_shape(a->shape.type, 3, size)));
    if (a->shape.size[2] != 1 || t->dialect->torch->no_outer_product)
        workspace(t, 0);
    torch_used(t, a);
    torch_used(t, b);
    return y;
}

/* ---- Products of tensors --------------------------------------------------------------------- */

static TorchTensor *batch_of_matrices(Torch *t, TorchTensor *x)
{
    int n = x->shape.dims;
    int64_t size[TORCH_DIMS], flat[3] = {1, x->shape.size[n - 2], x->shape.size[n - 1]};
    for (int i = 0; i < n; i++) {
        size[i] = x->shape.size[i];
        if (i < n - 2)
            flat[0] *= size[i];
    }
    return torch_reshape(t, torch_expand(t, x, n, size), 3, flat);
}

/* A composite operation holds its arguments, and autocast's copies of them, until it returns. */
TorchTensor *torch_matmul(Torch *t, TorchTensor *a, TorchTensor *b)
{
    size_t frame = torch_frame(t);
    torch_name(t, a);
    b = torch_name(t, torch_autocast(t, torch_name(t, b))); /* arguments are evaluated from the right */
    a = torch_name(t, torch_autocast(t, a));
    int n = a->shape.dims;
    int64_t size[TORCH_DIMS];
    for (int i = 0; i < n; i++)
        size[i] = a->shape.size[i];
    size[n - 1] = b->shape.size[b->shape.dims - 1];
    if (n == 2)
        return torch_leave(t, frame, torch_mm(t, a, b));
    if (b->shape.dims == 2) { /* folded */
        int64_t flat[] = {torch_count(&a->shape) / a->shape.size[n - 1], a->shape.size[n - 1]};
        TorchTensor *rows = torch_reshape(t, a, 2, flat);
        return torch_leave(t, frame, torch_unsafe_view(t, torch_mm(t, rows, b), n, size));
    }
    TorchTensor *left = batch_of_matrices(t, a), *right = batch_of_matrices(t, b);
    return torch_leave(t, frame, torch_unsafe_view(t, torch_bmm(t, left, right), n, size));
}

TorchTensor *torch_linear(Torch *t, TorchTensor *x, TorchTensor *weight, TorchTensor *bias)
{
    size_t frame = torch_frame(t);
    torch_name(t, x);
    if (bias)
        bias = torch_name(t, cast_weight(t, bias));
    weight = torch_name(t, cast_weight(t, weight));
    x = torch_name(t, torch_autocast(t, x));
    if (!bias)
        return torch_leave(t, frame, torch_matmul(t, x, torch_transpose(t, weight, 0, 1)));
    int n = x->shape.dims;
    int64_t size[TORCH_DIMS], flat[] = {torch_count(&x->shape) / x->shape.size[n - 1], x->shape.size[n - 1]};
    for (int i = 0; i < n; i++)
        size[i] = x->shape.size[i];
    size[n - 1] = weight->shape.size[0];
    if (n == 2)
        return torch_leave(t, frame, torch_addmm(t, bias, x, torch_transpose(t, weight, 0, 1)));
    TorchTensor *rows = torch_reshape(t, x, 2, flat);
    TorchTensor *y = torch_addmm(t, bias, rows, torch_transpose(t, weight, 0, 1));
    return torch_leave(t, frame, torch_view(t, y, n, size));
}
