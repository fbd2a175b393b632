/* The two operations of a low-rank adapter (Hu et al., "LoRA", arXiv 2106.09685) beside a linear layer:
 * y + scale B (A dropout(x)). x is kept once, whoever else keeps it: the adapter's own dropout is computed
 * again in backward, from its key. */
#include <inttypes.h>

#include "ops_.h"

static int check_matrix(const OpCall *call, int i, int64_t in, const char *what)
{
    Shape shape = call->shape[i];
    if (check_dtype(call, i, DTYPE_F32, what))
        return error_code();
    if (shape.ndim == 2 && shape.dim[1] == in)
        return 0;
    return error_raise(ERROR_SHAPE, "%s: %s must be (n,%" PRId64 "), not %s", call->row->name, what, in,
                       shape_text(shape).text);
}

/* Bytes of something and of what begins behind it, aligned; of the first alone where there is no second. */
static uint64_t behind(uint64_t first, uint64_t second)
{
    return second ? aligned(first) + second : first;
}

/* Of a product with an adapter's arrays, f32 and all of x's type. Both operations use the BLAS library where
 * that is f32 too, and then need no workspace. */
typedef struct Product {
    int trans_a, trans_b;
    int64_t m, n, k;
    float alpha;
    DType a_type, b_type, c_type;
} Product;

static uint64_t product_room(const OpCall *call, Product p)
{
    if (p.a_type == DTYPE_F32 && p.b_type == DTYPE_F32 && p.c_type == DTYPE_F32)
        return 0;
    return call->kernels->gemm_stored_workspace(p.m, p.n, p.k, p.a_type, p.b_type, p.c_type, call->run);
}

/* c = alpha op(a) op(b) + beta c */
static void product(const OpCall *call, Product p, const void *a, const void *b, float beta, void *c,
                    void *room)
{
    int64_t lda = p.trans_a ? p.m : p.k, ldb = p.trans_b ? p.k : p.n;
    StoredArray left = {a, p.a_type, p.trans_a ? p.k : p.m, lda},
                right = {b, p.b_type, p.trans_b ? p.n : p.k, ldb};
    if (p.a_type == DTYPE_F32 && p.b_type == DTYPE_F32 && p.c_type == DTYPE_F32)
        call->kernels->gemm(p.trans_a, p.trans_b, p.m, p.n, p.k, p.alpha, a, lda, b, ldb, beta, c, p.n,
                            call->run);
    else
        call->kernels->gemm_stored(p.trans_a, p.trans_b, p.m, p.n, p.k, p.alpha, &left, &right, beta,
                                   p.c_type, c, p.n, room, call->run);
}

/* ---- lora_down: u = dropout(x) A^T ------------------------------------------------------------ */

/* u, and the gradients of A and x. */
typedef struct Down {
    Product u, da, dx;
    uint64_t dropped; /* bytes of x after dropout, or of its gradient before it, which come first */
} Down;

static Down down_of(const OpCall *call)
{
    int64_t rows = leading(call->shape[0]), in = last_dim(call->shape[0]), rank = call->shape[1].dim[0];
    DType x = call->dtype[0];
    return (Down){
        .u = {0, 1, rows, rank, in, 1, x, DTYPE_F32, DTYPE_F32},
        .da = {1, 0, rank, in, rows, 1, DTYPE_F32, x, call->grad_type[1]},
        .dx = {0, 0, rows, in, rank, 1, DTYPE_F32, DTYPE_F32, x},
        .dropped = call->attr.dropout.p > 0 ? dtype_bytes(x, rows, in) : 0,
    };
}

static int down_shape(OpCall *call)
{
    Shape x = call->shape[0];
    OpPlan *plan = &call->plan;
    if (check_float(call, 0, "x") || check_matrix(call, 1, last_dim(x), "A"))
        return error_code();
    int64_t rank = call->shape[1].dim[0];
    Down down = down_of(call);
    plan->out = x;
    plan->out.dim[x.ndim - 1] = rank;
    plan->flops = 2.0 * (double)call_numel(call, 0) * (double)rank;
    plan->workspace = behind(down.dropped, product_room(call, down.u));
    if (!call->needs)
        return 0;
    plan->saves = (needs_input(call, 1) ? OP_INPUT(0) : 0) | (needs_input(call, 0) ? OP_INPUT(1) : 0);
    plan->backward_flops = plan->flops * (needs_input(call, 0) + needs_input(call, 1));
    uint64_t da = needs_input(call, 1) ? product_room(call, down.da) : 0;
    uint64_t dx = needs_input(call, 0) ? product_room(call, down.dx) : 0;
    plan->backward_workspace = behind(down.dropped, larger(da, dx));
    return 0;
}

/* x, or what dropout leaves of it, in the workspace. */
static const void *dropped(const OpCall *call)
{
    if (!(call->attr.dropout.p > 0))
        return call->in[0];
    dropout_run(call, call->in[0], 0, call->workspace);
    return call->workspace;
}

static void *room_behind(const OpCall *call, uint64_t bytes)
{
    return call->workspace ? (char *)call->workspace + aligned(bytes) : NULL;
}

static void down_forward(OpCall *call)
{
    Down down = down_of(call);
    product(call, down.u, dropped(call), call->in[1], 0, call->out, room_behind(call, down.dropped));
}

static void down_backward(OpCall *call)
{
    Down down = down_of(call);
    void *room = room_behind(call, down.dropped);
    int masked = down.dropped > 0;
    if (call->din[1])
        product(call, down.da, call->dout, dropped(call), call->beta[1], call->din[1], room);
    if (!call->din[0])
        return;
    product(call, down.dx, call->dout, call->in[1], masked ? 0 : call->beta[0],
            masked ? call->workspace : call->din[0], room);
    if (masked)
        dropout_run(call, call->workspace, call->beta[0], call->din[0]);
}

static const OpRow down_row = {
    .name = "lora_down",
    .shape = down_shape,
    .forward = down_forward,
    .backward = down_backward,
    .grad_in_recomputed = OP_INPUT(0), /* x is for A's gradient, which comes first */
    .accumulates = OP_INPUT(0) | OP_INPUT(1),
};

/* Where x has the columns that A has of the whole, its mask is that of those. */
Tensor *tensor_lora_down(Tensor *x, Tensor *a, float p)
{
    if (!x || !a)
        return NULL;
    OpAttr attr = {.dropout = {.p = 0}};
    if (p > 0)
        attr = dropout_next(p);
    if (p > 0 && a->piece) {
        attr.dropout.whole = tensor_whole_shape_(a).dim[1];
        attr.dropout.first = tensor_place_(a, 0, &(int64_t){1});
    }
    return tensor_apply(&down_row, &attr, 2, (Tensor *[]){x, a});
}

/* ---- linear_onto: y + scale u B^T ------------------------------------------------------------ */

/* What is added to y, and the gradients of u and B. */
typedef struct Onto {
    Product y, du, db;
} Onto;

static Onto onto_of(const OpCall *call)
{
    int64_t rows = leading(call->shape[0]), out = last_dim(call->shape[0]), rank = last_dim(call->shape[1]);
    DType y = call->dtype[0];
    float scale = call->attr.scale.factor;
    return (Onto){
        .y = {0, 1, rows, out, rank, scale, DTYPE_F32, DTYPE_F32, y},
        .du = {0, 0, rows, rank, out, scale, y, DTYPE_F32, DTYPE_F32},
        .db = {1, 0, out, rank, rows, scale, y, DTYPE_F32, call->grad_type[2]},
    };
}

static int onto_shape(OpCall *call)
{
    Shape y = call->shape[0], u = call->shape[1];
    OpPlan *plan = &call->plan;
    if (check_float(call, 0, "y") || check_dtype(call, 1, DTYPE_F32, "u") ||
        check_matrix(call, 2, last_dim(u), "B"))
        return error_code();
    if (leading(y) != leading(u) || last_dim(y) != call->shape[2].dim[0])
        return error_raise(ERROR_SHAPE, "linear_onto: u %s by B %s does not give y %s", shape_text(u).text,
                           shape_text(call->shape[2]).text, shape_text(y).text);
    Onto onto = onto_of(call);
    plan->out = y;
    plan->out_type = call->dtype[0];
    plan->flops = 2.0 * (double)call_numel(call, 0) * (double)last_dim(u);
    plan->workspace = product_room(call, onto.y);
    if (!call->needs)
        return 0;
    plan->saves = (needs_input(call, 2) ? OP_INPUT(1) : 0) | (needs_input(call, 1) ? OP_INPUT(2) : 0);
    plan->backward_flops = plan->flops * (needs_input(call, 1) + needs_input(call, 2));
    plan->backward_workspace = larger(needs_input(call, 1) ? product_room(call, onto.du) : 0,
                                      needs_input(call, 2) ? product_room(call, onto.db) : 0);
    return 0;
}

static void onto_forward(OpCall *call)
{
    if (call->out != call->in[0])
        call->kernels->copy(call->dtype[0], call->dtype[0], call_numel(call, 0), call->in[0], call->out,
                            call->run);
    product(call, onto_of(call).y, call->in[1], call->in[2], 1, call->out, call->workspace);
}

static void onto_backward(OpCall *call)
{
    Onto onto = onto_of(call);
    if (call->din[2])
        product(call, onto.db, call->dout, call->in[1], call->beta[2], call->din[2], call->workspace);
    if (call->din[1])
        product(call, onto.du, call->dout, call->in[2], call->beta[1], call->din[1], call->workspace);
}

static const OpRow onto_row = {
    .name = "linear_onto",
    .shape = onto_shape,
    .forward = onto_forward,
    .backward = onto_backward,
    .in_place = OP_INPUT(0),
    .identity_grad = OP_INPUT(0),
    .accumulates = OP_INPUT(1) | OP_INPUT(2),
};

Tensor *tensor_linear_onto(Tensor *y, Tensor *u, Tensor *b, float scale)
{
    if (!y || !u || !b)
        return NULL;
    return tensor_apply(&onto_row, &(OpAttr){.scale = {.factor = scale}}, 3, (Tensor *[]){y, u, b});
}
