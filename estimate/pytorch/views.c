/* Views: the same storage in another shape; nothing is allocated but where a view is impossible. */
#include <string.h>

#include "torch_.h"

static TorchTensor *seen_as(Torch *t, TorchTensor *x, TorchNode *node, TorchShape shape)
{
    TorchTensor *y = torch_alias(t, x);
    y->shape = shape;
    torch_based(y);
    torch_made(t, node, 0, y);
    torch_used(t, x);
    return y;
}

/* For the backward pass: its sizes in n[0..4], its dimensions in n[5]. */
static void remember_shape(TorchNode *node, const TorchShape *shape)
{
    if (!node)
        return;
    memcpy(node->n, shape->size, sizeof shape->size);
    node->n[5] = shape->dims;
}

static TorchShape without_dim(TorchShape shape, int dim)
{
    shape.dims--;
    for (int i = dim; i < shape.dims; i++) {
        shape.size[i] = shape.size[i + 1];
        shape.stride[i] = shape.stride[i + 1];
    }
    return shape;
}

/* ---- Size ------------------------------------------------------------------------------------ */

/* As at::detail::computeStride: whether `x` can be seen with these sizes, and its strides then. */
int torch_viewable(const TorchShape *x, int dims, const int64_t *size, int64_t *stride)
{
    if (!x->dims) {
        for (int i = 0; i < dims; i++)
            stride[i] = 1;
        return 1;
    }
    int d = dims - 1;
    int64_t base = x->stride[x->dims - 1], old_count = 1, new_count = 1;
    for (int i = x->dims - 1; i >= 0; i--) {
        old_count *= x->size[i];
        if (i && (x->size[i - 1] == 1 || x->stride[i - 1] == old_count * base))
            continue;
        for (; d >= 0 && (new_count < old_count || size[d] == 1); d--) {
            stride[d] = new_count * base;
            new_count *= size[d];
        }
        if (new_count != old_count)
            return 0;
        if (i) {
            base = x->stride[i - 1];
            old_count = new_count = 1;
        }
    }
    return d == -1;
}

static void view_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    d[0] = torch_reshape(t, g[0], (int)node->n[5], node->n);
}

static TorchTensor *viewed(Torch *t, TorchTensor *x, const char *name, int dims, const int64_t *size)
{
    TorchShape shape = torch_shape(x->shape.type, dims, size);
    torch_viewable(&x->shape, dims, size, shape.stride);
    TorchNode *node = torch_node(t, name, view_back, 1, &x);
    remember_shape(node, &x->shape);
    return seen_as(t, x, node, shape);
}

TorchTensor *torch_view(Torch *t, TorchTensor *x, int dims, const int64_t *size)
{
    return viewed(t, x, "aten::view", dims, size);
}

/* Autograd does not count it as a view: it keeps no base. */
TorchTensor *torch_unsafe_view(Torch *t, TorchTensor *x, int dims, const int64_t *size)
{
    TorchTensor *y = viewed(t, x, "aten::_unsafe_view", dims, size);
    y->view = 0;
    y->storage->refs--;
    return y;
}

TorchTensor *torch_reshape(Torch *t, TorchTensor *x, int dims, const int64_t *size)
{
    int64_t stride[TORCH_DIMS];
    if (torch_viewable(&x->shape, dims, size, stride))
        return viewed(t, x, "aten::view", dims, size);
    return torch_unsafe_view(t, torch_clone(t, x, 1), dims, size);
}

/* ---- Dimensions ------------------------------------------------------------------------------ */

static void transpose_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    d[0] = torch_transpose(t, g[0], (int)node->n[0], (int)node->n[1]);
}

TorchTensor *torch_transpose(Torch *t, TorchTensor *x, int a, int b)
{
    TorchNode *node = torch_node(t, "aten::transpose", transpose_back, 1, &x);
    if (node)
        node->n[0] = a, node->n[1] = b;
    TorchShape shape = x->shape;
    shape.size[a] = x->shape.size[b];
    shape.size[b] = x->shape.size[a];
    shape.stride[a] = x->shape.stride[b];
    shape.stride[b] = x->shape.stride[a];
    return seen_as(t, x, node, shape);
}

static void expand_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    d[0] = torch_sum_to(t, g[0],
                        &(TorchShape){.dims = (int)node->n[5],
                                      .size = {node->n[0], node->n[1], node->n[2], node->n[3], node->n[4]}});
}

TorchTensor *torch_expand(Torch *t, TorchTensor *x, int dims, const int64_t *size)
{
    TorchNode *node = torch_node(t, "aten::expand", expand_back, 1, &x);
    remember_shape(node, &x->shape);
    TorchShape shape = torch_shape(x->shape.type, dims, size);
    int64_t next = 1;
    for (int i = dims - 1; i >= 0; i--) {
        int old = i - (dims - x->shape.dims);
        int64_t stride = old >= 0 ? x->shape.stride[old] : size[i + 1 < dims ? i + 1 : i] * next;
        int64_t was = old >= 0 ? x->shape.size[old] : 1;
        shape.stride[i] = was == size[i] ? stride : 0;
        next = shape.stride[i];
    }
    return seen_as(t, x, node, shape);
}

static void unsqueeze_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    d[0] = torch_squeeze(t, g[0], (int)node->n[0]);
}

TorchTensor *torch_unsqueeze(Torch *t, TorchTensor *x, int dim)
{
    TorchNode *node = torch_node(t, "aten::unsqueeze", unsqueeze_back, 1, &x);
    if (node)
        node->n[0] = dim;
    TorchShape shape = x->shape;
    for (int i = shape.dims++; i > dim; i--) {
        shape.size[i] = shape.size[i - 1];
        shape.stride[i] = shape.stride[i - 1];
    }
    shape.size[dim] = 1;
    shape.stride[dim] = dim < x->shape.dims ? x->shape.size[dim] * x->shape.stride[dim] : 1;
    return seen_as(t, x, node, shape);
}

static void squeeze_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    d[0] = torch_unsqueeze(t, g[0], (int)node->n[0]);
}

TorchTensor *torch_squeeze(Torch *t, TorchTensor *x, int dim)
{
    TorchNode *node = torch_node(t, "aten::squeeze", squeeze_back, 1, &x);
    if (node)
        node->n[0] = dim;
    return seen_as(t, x, node, without_dim(x->shape, dim));
}

/* ---- Parts ----------------------------------------------------------------------------------- */

static TorchTensor *zeros_around(Torch *t, const char *op, const TorchNode *node, TorchType type)
{
    return torch_empty(t, op, torch_shape(type, (int)node->n[5], node->n));
}

static void slice_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    d[0] = zeros_around(t, "aten::slice_backward", node, g[0]->shape.type);
}

TorchTensor *torch_slice(Torch *t, TorchTensor *x, int dim, int64_t from, int64_t to)
{
    TorchNode *node = torch_node(t, "aten::slice", slice_back, 1, &x);
    remember_shape(node, &x->shape);
    TorchShape shape = x->shape;
    shape.size[dim] = to - from;
    return seen_as(t, x, node, shape);
}

static void select_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    d[0] = zeros_around(t, "aten::select_backward", node, g[0]->shape.type);
}

TorchTensor *torch_select(Torch *t, TorchTensor *x, int dim)
{
    TorchNode *node = torch_node(t, "aten::select", select_back, 1, &x);
    remember_shape(node, &x->shape);
    return seen_as(t, x, node, without_dim(x->shape, dim));
}

/* A gradient that is not there is zeros. */
static void split_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    TorchTensor *parts[TORCH_OUTPUTS] = {NULL};
    size_t frame = torch_frame(t);
    TorchType type = TORCH_F32;
    for (int i = 0; i < node->outputs; i++)
        if (g[i])
            type = g[i]->shape.type;
    for (int i = 0; i < node->outputs; i++) {
        TorchShape made = torch_shape(type, node->made[i].dims, node->made[i].size);
        parts[i] = g[i] ? g[i] : torch_name(t, torch_empty(t, "aten::zeros", made));
    }
    d[0] = torch_leave(t, frame, torch_cat(t, (int)node->n[0], node->outputs, parts));
}

void torch_split(Torch *t, TorchTensor *x, int dim, int64_t each, int count, TorchTensor **parts)
{
    TorchNode *node = torch_node(t, "aten::split", split_back, 1, &x);
    if (node)
        node->n[0] = dim;
    for (int i = 0; i < count; i++) {
        parts[i] = torch_alias(t, x);
        parts[i]->shape.size[dim] = each;
        torch_based(parts[i]);
        torch_made(t, node, i, parts[i]);
    }
    torch_used(t, x);
}

/* ---- Copies ---------------------------------------------------------------------------------- */

static void same_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    (void)t, (void)node;
    d[0] = torch_again(g[0]);
}

/* Keeps the strides of what is dense (torch.preserve_format) unless it is to be contiguous. */
TorchTensor *torch_clone(Torch *t, TorchTensor *x, int contiguous)
{
    TorchNode *node = torch_node(t, "aten::clone", same_back, 1, &x);
    TorchShape shape = contiguous ? torch_shape(x->shape.type, x->shape.dims, x->shape.size)
                                  : torch_iterate(x->shape.type, 1, &x);
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, "aten::clone", shape));
    torch_used(t, x);
    return y;
}

TorchTensor *torch_make_contiguous(Torch *t, TorchTensor *x)
{
    if (torch_contiguous(&x->shape)) /* the tensor itself */
        return x;
    return torch_clone(t, x, 1);
}
