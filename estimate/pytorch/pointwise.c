/* Operations element by element, by TensorIterator's rules. */
#include <string.h>

#include "torch_.h"

/* ---- TensorIterator -------------------------------------------------------------------------- */

static int64_t stride_in(const TorchShape *x, const TorchShape *whole, int dim)
{
    int own = dim - (whole->dims - x->dims);
    return own < 0 || (x->size[own] == 1 && whole->size[dim] != 1) ? 0 : x->stride[own];
}

/* reorder_dimensions: > 0 where dim0 has to be outside of dim1. */
static int outside(const TorchShape *whole, int count, TorchTensor *const *inputs, int dim0, int dim1)
{
    for (int i = 0; i < count; i++) {
        int64_t a = stride_in(&inputs[i]->shape, whole, dim0) * torch_bytes(inputs[i]->shape.type);
        int64_t b = stride_in(&inputs[i]->shape, whole, dim1) * torch_bytes(inputs[i]->shape.type);
        if (!a || !b)
            continue;
        if (a != b)
            return a < b ? -1 : 1;
        if (whole->size[dim0] > whole->size[dim1])
            return 1;
    }
    return 0;
}

static TorchShape broadcast(TorchType type, int count, TorchTensor *const *inputs)
{
    TorchShape whole = {.type = type};
    for (int i = 0; i < count; i++)
        if (inputs[i]->shape.dims > whole.dims)
            whole.dims = inputs[i]->shape.dims;
    for (int d = 0; d < whole.dims; d++) {
        whole.size[d] = 1;
        for (int i = 0; i < count; i++) {
            int own = d - (whole.dims - inputs[i]->shape.dims);
            if (own >= 0 && inputs[i]->shape.size[own] != 1)
                whole.size[d] = inputs[i]->shape.size[own];
        }
    }
    return whole;
}

TorchShape torch_iterate(TorchType type, int count, TorchTensor *const *inputs)
{
    TorchShape whole = broadcast(type, count, inputs);
    int same = 1, contiguous = 1;
    for (int i = 0; i < count; i++) {
        same &= torch_same_size(&inputs[i]->shape, &whole);
        contiguous &= torch_contiguous(&inputs[i]->shape);
    }
    if (same && contiguous)
        return torch_shape(type, whole.dims, whole.size);
    int order[TORCH_DIMS];
    for (int i = 0; i < whole.dims; i++)
        order[i] = whole.dims - 1 - i;
    for (int i = 1; i < whole.dims; i++)
        for (int at = i, j = i - 1; j >= 0; j--) {
            int c = outside(&whole, count, inputs, order[j], order[at]);
            if (c < 0)
                break;
            if (c > 0) {
                int swapped = order[j];
                order[j] = order[at];
                order[at] = swapped;
                at = j;
            }
        }
    int64_t stride = 1;
    for (int i = 0; i < whole.dims; i++) {
        whole.stride[order[i]] = stride;
        stride *= whole.size[order[i]];
    }
    return whole;
}

/* ---- One input ------------------------------------------------------------------------------- */

static TorchTensor *made_of(Torch *t, const char *op, TorchNode *node, TorchTensor *x, TorchType type)
{
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, op, torch_iterate(type, 1, &x)));
    torch_used(t, x);
    return y;
}

static void cast_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    d[0] = torch_cast(t, g[0], (TorchType)node->n[0]);
}

TorchTensor *torch_cast(Torch *t, TorchTensor *x, TorchType type)
{
    if (x->shape.type == type) /* the tensor itself */
        return x;
    TorchNode *node = torch_floating(type) ? torch_node(t, "aten::_to_copy", cast_back, 1, &x) : NULL;
    if (node)
        node->n[0] = x->shape.type;
    return made_of(t, "aten::_to_copy", node, x, type);
}

static void scale_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    (void)node;
    d[0] = torch_scale(t, g[0]);
}

TorchTensor *torch_scale(Torch *t, TorchTensor *x)
{
    return made_of(t, "aten::mul", torch_node(t, "aten::mul", scale_back, 1, &x), x, x->shape.type);
}

static void divide_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    (void)node;
    d[0] = torch_divide(t, g[0]);
}

/* The history is that of the product; the memory stays. */
void torch_scale_in_place(Torch *t, TorchTensor *x)
{
    TorchNode *node = torch_node(t, "aten::mul", scale_back, 1, &x), *old = x->node;
    if (!node)
        return;
    torch_made(t, node, 0, x);
    torch_free_node(t, old);
}

TorchTensor *torch_divide(Torch *t, TorchTensor *x)
{
    return made_of(t, "aten::div", torch_node(t, "aten::div", divide_back, 1, &x), x, x->shape.type);
}

static void pass_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    (void)t, (void)node;
    d[0] = torch_again(g[0]);
}

TorchTensor *torch_plus(Torch *t, TorchTensor *x)
{
    return made_of(t, "aten::add", torch_node(t, "aten::add", pass_back, 1, &x), x, x->shape.type);
}

static void neg_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    (void)node;
    d[0] = torch_neg(t, g[0]);
}

TorchTensor *torch_neg(Torch *t, TorchTensor *x)
{
    return made_of(t, "aten::neg", torch_node(t, "aten::neg", neg_back, 1, &x), x, x->shape.type);
}

TorchTensor *torch_wave(Torch *t, const char *op, TorchTensor *x)
{
    return made_of(t, op, NULL, x, x->shape.type);
}

/* grad * (exponent * self.pow(exponent - 1)); the temporaries of a C++ expression live until its end */
static void pow_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    size_t frame = torch_frame(t);
    TorchTensor *power = torch_name(t, torch_pow(t, node->saved[0], (double)node->n[0] - 1));
    TorchTensor *scaled = torch_name(t, torch_scale(t, power));
    d[0] = torch_leave(t, frame, torch_mul(t, g[0], scaled));
}

TorchTensor *torch_pow(Torch *t, TorchTensor *x, double exponent)
{
    size_t frame = torch_frame(t);
    torch_name(t, x);
    x = torch_name(t, torch_full(t, x));
    TorchNode *node = torch_node(t, "aten::pow", pow_back, 1, &x);
    if (node)
        node->n[0] = (int64_t)exponent;
    torch_save(t, node, 0, x);
    return torch_leave(t, frame, made_of(t, "aten::pow", node, x, x->shape.type));
}

/* -0.5 * grad * result.pow(3) */
static void rsqrt_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    size_t frame = torch_frame(t);
    TorchTensor *cube = torch_name(t, torch_pow(t, node->saved[0], 3));
    TorchTensor *scaled = torch_name(t, torch_scale(t, g[0]));
    d[0] = torch_leave(t, frame, torch_mul(t, scaled, cube));
}

static TorchTensor *with_result(Torch *t, TorchNode *node, TorchTensor *y)
{
    torch_save(t, node, 0, y);
    return y;
}

TorchTensor *torch_rsqrt(Torch *t, TorchTensor *x)
{
    TorchNode *node = torch_node(t, "aten::rsqrt", rsqrt_back, 1, &x);
    return with_result(t, node, made_of(t, "aten::rsqrt", node, x, x->shape.type));
}

static void one_kernel_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    TorchTensor *inputs[] = {g[0], node->saved[0]};
    d[0] = torch_empty(t, node->name, torch_iterate(g[0]->shape.type, 2, inputs));
}

TorchTensor *torch_tanh(Torch *t, TorchTensor *x)
{
    TorchNode *node = torch_node(t, "aten::tanh_backward", one_kernel_back, 1, &x);
    return with_result(t, node, made_of(t, "aten::tanh", node, x, x->shape.type));
}

TorchTensor *torch_silu(Torch *t, TorchTensor *x)
{
    TorchNode *node = torch_node(t, "aten::silu_backward", one_kernel_back, 1, &x);
    torch_save(t, node, 0, x);
    return made_of(t, "aten::silu", node, x, x->shape.type);
}

TorchTensor *torch_gelu(Torch *t, TorchTensor *x)
{
    TorchNode *node = torch_node(t, "aten::gelu_backward", one_kernel_back, 1, &x);
    torch_save(t, node, 0, x);
    return made_of(t, "aten::gelu", node, x, x->shape.type);
}

static void dropout_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    (void)node; /* the mask is read */
    TorchShape shape = torch_shape(g[0]->shape.type, g[0]->shape.dims, g[0]->shape.size);
    d[0] = torch_empty(t, "aten::native_dropout_backward", shape);
}

TorchTensor *torch_dropout(Torch *t, TorchTensor *x, double p)
{
    if (p <= 0 || t->evaluating)
        return x;
    TorchNode *node = torch_node(t, "aten::native_dropout", dropout_back, 1, &x);
    TorchShape shape = torch_iterate(x->shape.type, 1, &x), mask = shape;
    mask.type = TORCH_BOOL;
    TorchTensor *kept = torch_empty(t, "aten::native_dropout", mask);
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, "aten::native_dropout", shape));
    torch_save(t, node, 0, kept);
    torch_drop(t, kept);
    torch_used(t, x);
    return y;
}

/* ---- Two inputs ------------------------------------------------------------------------------ */

/* A tensor of no dimensions does not decide the type. */
static TorchType promoted(const TorchTensor *a, const TorchTensor *b)
{
    if (a->shape.dims && !b->shape.dims)
        return a->shape.type;
    if (b->shape.dims && !a->shape.dims)
        return b->shape.type;
    if (a->shape.type == b->shape.type)
        return a->shape.type;
    if (torch_floating(a->shape.type) != torch_floating(b->shape.type))
        return torch_floating(a->shape.type) ? a->shape.type : b->shape.type;
    return a->shape.type == TORCH_F32 || b->shape.type == TORCH_F32 || torch_floating(a->shape.type)
               ? TORCH_F32
               : TORCH_I64;
}

static TorchTensor *made_of_two(Torch *t, const char *op, TorchNode *node, TorchTensor *a, TorchTensor *b)
{
    TorchTensor *inputs[] = {a, b};
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, op, torch_iterate(promoted(a, b), 2, inputs)));
    torch_used(t, a);
    torch_used(t, b);
    return y;
}

static void add_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    (void)t;
    for (int i = 0; i < 2; i++)
        if (torch_wants(node, i))
            d[i] = torch_again(g[0]);
}

TorchTensor *torch_add(Torch *t, TorchTensor *a, TorchTensor *b)
{
    return made_of_two(t, "aten::add", torch_node(t, "aten::add", add_back, 2, (TorchTensor *[]){a, b}), a,
                       b);
}

/* x += y, of the same size: the memory stays. */
void torch_add_in_place(Torch *t, TorchTensor *x, TorchTensor *y)
{
    TorchNode *node = torch_node(t, "aten::add", add_back, 2, (TorchTensor *[]){x, y}), *old = x->node;
    if (node) {
        torch_made(t, node, 0, x);
        if (old)
            torch_free_node(t, old);
    }
    torch_used(t, y);
}

/* other before self, as the generated code has it */
static void mul_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    if (torch_wants(node, 1))
        d[1] = torch_mul(t, g[0], node->saved[0]);
    if (torch_wants(node, 0))
        d[0] = torch_mul(t, g[0], node->saved[1]);
}

TorchTensor *torch_mul(Torch *t, TorchTensor *a, TorchTensor *b)
{
    TorchNode *node = torch_node(t, "aten::mul", mul_back, 2, (TorchTensor *[]){a, b});
    if (torch_wants(node, 1))
        torch_save(t, node, 0, a);
    if (torch_wants(node, 0))
        torch_save(t, node, 1, b);
    return made_of_two(t, "aten::mul", node, a, b);
}

static void divide_by_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    d[0] = torch_divide_by(t, g[0], node->saved[0]);
}

TorchTensor *torch_divide_by(Torch *t, TorchTensor *x, TorchTensor *y)
{
    TorchNode *node = torch_node(t, "aten::div", divide_by_back, 1, &x);
    torch_save(t, node, 0, y);
    return made_of_two(t, "aten::div", node, x, y);
}

static void where_back(Torch *t, TorchNode *node, TorchTensor **g, TorchTensor **d)
{
    TorchTensor *inputs[] = {node->saved[0], g[0]};
    TorchTensor *none = torch_empty(t, "aten::scalar_tensor", torch_shape(g[0]->shape.type, 0, NULL));
    d[0] = torch_empty(t, "aten::where", torch_iterate(g[0]->shape.type, 2, inputs));
    torch_drop(t, none);
}

TorchTensor *torch_where(Torch *t, TorchTensor *condition, TorchTensor *x)
{
    TorchNode *node = torch_node(t, "aten::where", where_back, 1, &x);
    torch_save(t, node, 0, condition);
    TorchShape shape = torch_iterate(x->shape.type, 2, (TorchTensor *[]){condition, x});
    TorchTensor *y = torch_made(t, node, 0, torch_empty(t, "aten::where", shape));
    torch_used(t, condition);
    torch_used(t, x);
    return y;
}

/* ---- Sums ------------------------------------------------------------------------------------ */

TorchTensor *torch_sum_to(Torch *t, TorchTensor *x, const TorchShape *shape)
{
    int lead = x->shape.dims - shape->dims, reduced = lead;
    TorchShape kept = torch_shape(x->shape.type, shape->dims, shape->size);
    for (int i = 0; i < shape->dims; i++)
        reduced += shape->size[i] == 1 && x->shape.size[lead + i] != 1;
    if (!reduced) {
        if (x->loose && !lead)
            return x;
        return torch_view(t, x, shape->dims, shape->size);
    }
    TorchTensor *y = torch_empty(t, "aten::sum", kept);
    int last = shape->dims && shape->size[shape->dims - 1] == 1 && x->shape.size[x->shape.dims - 1] != 1;
    torch_reduction_scratch(t, torch_count(&kept), torch_count(&x->shape) / torch_count(&kept), last,
                            x->shape.type);
    torch_used(t, x);
    return y;
}
