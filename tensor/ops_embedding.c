/* embedding (rows of a table by id) and add_rows (learned positions, broadcast vectors): gradients scatter
 * into a table that is zeroed once. */
#include <inttypes.h>

#include "ops_.h"
#include "precision.h"
#include "ranks_.h"

static int embedding_shape(OpCall *call)
{
    if (check_dtype(call, 0, DTYPE_I32, "ids") || check_weight(call, 1, 0, "table"))
        return error_code();
    Shape ids = call->shape[0];
    if (call->shape[1].ndim != 2 || ids.ndim >= TENSOR_MAX_DIMS)
        return error_raise(ERROR_SHAPE, "embedding: ids %s and table %s; a table is (vocabulary, width)",
                           shape_text(ids).text, shape_text(call->shape[1]).text);
    if (shape_numel(ids) > INT32_MAX)
        return error_raise(ERROR_SHAPE, "embedding: ids %s are more than %d; look them up in parts",
                           shape_text(ids).text, INT32_MAX);
    call->plan.out = ids;
    call->plan.out.dim[call->plan.out.ndim++] = call->shape[1].dim[1];
    call->plan.out_type = tensor_precision()->activations; /* whatever the table is stored as */
    call->plan.saves = OP_INPUT(0);
    if (needs_input(call, 1))
        call->plan.backward_workspace = call->kernels->embedding_workspace(
            shape_numel(ids), call->shape[1].dim[0], call->grad_type[1], call->run);
    return 0;
}

static void embedding_forward(OpCall *call)
{
    StoredArray table = stored_input(call, 1);
    TablePart part = {call->attr.embedding.first, call->attr.embedding.all};
    call->kernels->embedding_forward(call->plan.out_type, call_numel(call, 0), call->in[0], &table, part,
                                     call->out, call->run);
}

static void embedding_backward(OpCall *call)
{
    call->kernels->embedding_backward(call->plan.out_type, call_numel(call, 0), call->shape[1].dim[1],
                                      call->shape[1].dim[0], call->attr.embedding.first, call->in[0],
                                      call->dout, call->grad_type[1], call->din[1], call->workspace,
                                      call->run);
}

static const OpRow embedding_row = {
    .name = "embedding",
    .shape = embedding_shape,
    .forward = embedding_forward,
    .backward = embedding_backward,
    .accumulates = OP_INPUT(1),
    .grad_zeroed = OP_INPUT(1),
    .checked = 0,
    .checked_range = "ids must be in [0, vocabulary)",
};

Tensor *tensor_embedding(Tensor *ids, Tensor *table)
{
    if (!ids || !table)
        return NULL;
    OpAttr attr = {.embedding = {0}};
    if (table->whole_rows) { /* ids of other ranks' rows get zeros */
        RowsPart part = tensor_rows_part_(table);
        attr.embedding.first = part.first;
        attr.embedding.all = part.all;
    }
    return tensor_apply(&embedding_row, &attr, 2, (Tensor *[]){ids, table});
}

/* ---- add_rows -------------------------------------------------------------------------------- */

/* Elements of the table before its first row that counts. */
static int64_t skipped(const OpCall *call)
{
    return call->attr.add_rows.first * last_dim(call->shape[1]);
}

static int64_t added(const OpCall *call)
{
    return call->attr.add_rows.rows * last_dim(call->shape[1]);
}

/* Elements of x from `at` on to which n of the added ones are added, from `first` on, so many times: all of
 * x; or what is left of the first time, whole times, and what there is of the last. n 0: that was all. */
typedef struct Stretch {
    int64_t at, first, n, times;
} Stretch;

static Stretch stretch_after(const OpCall *call, const Stretch *before)
{
    int64_t all = call_numel(call, 0), period = added(call);
    Stretch s = {.first = before ? 0 : call->attr.add_rows.skipped * last_dim(call->shape[1])};
    s.at = before ? before->at + before->n * before->times : 0;
    int64_t left = all - s.at, rest = period - s.first;
    s.n = left < rest ? left : rest;
    s.times = s.n == period ? left / period : 1;
    return s;
}

static int add_rows_shape(OpCall *call)
{
    Shape x = call->shape[0], table = call->shape[1];
    int64_t rows = call->attr.add_rows.rows, first = call->attr.add_rows.first;
    if (check_float(call, 0, "x") || check_weight(call, 1, 0, "table"))
        return error_code();
    int whole = call->attr.add_rows.in_part || (rows > 0 && leading(x) % rows == 0);
    if (table.ndim != 2 || last_dim(table) != last_dim(x) || rows < 1 || first < 0 || !whole)
        return error_raise(ERROR_SHAPE, "add_rows: x %s and table %s with %" PRId64 " rows do not fit",
                           shape_text(x).text, shape_text(table).text, rows);
    if (rows > table.dim[0] - first)
        return error_raise(ERROR_SHAPE,
                           "add_rows: a sequence of %" PRId64 " is longer than the table's %" PRId64
                           " positions",
                           first + rows, table.dim[0]);
    call->plan.out = x;
    call->plan.out_type = call->dtype[0];
    call->plan.workspace = floats_room(call, 1, added(call));
    if (needs_input(call, 1))
        for (Stretch s = stretch_after(call, NULL); s.n; s = stretch_after(call, &s))
            call->plan.backward_workspace = larger(
                call->plan.backward_workspace, call->kernels->column_sum_workspace(s.times, s.n, call->run));
    return 0;
}

static void add_rows_forward(OpCall *call)
{
    char *room = call->workspace;
    const float *rows = floats_input(call, 1, skipped(call), added(call), &room);
    DType type = call->dtype[0];
    for (Stretch s = stretch_after(call, NULL); s.n; s = stretch_after(call, &s))
        call->kernels->add_row(type, s.times, s.n, element_at(type, call->in[0], s.at), rows + s.first,
                               element_at(type, call->out, s.at), call->run);
}

static void add_rows_backward(OpCall *call)
{
    DType type = call->grad_type[1];
    for (Stretch s = stretch_after(call, NULL); s.n; s = stretch_after(call, &s))
        call->kernels->column_sum(call->dtype[0], s.times, s.n, element_at(call->dtype[0], call->dout, s.at),
                                  type, 1, element_at(type, call->din[1], skipped(call) + s.first),
                                  call->workspace, call->run);
}

static const OpRow add_rows_row = {
    .name = "add_rows",
    .shape = add_rows_shape,
    .forward = add_rows_forward,
    .backward = add_rows_backward,
    .in_place = OP_INPUT(0),
    .identity_grad = OP_INPUT(0),
    .accumulates = OP_INPUT(1),
    .grad_zeroed = OP_INPUT(1),
};

Tensor *tensor_add_rows_from(Tensor *x, Tensor *table, int64_t first, int64_t rows)
{
    if (!x || !table)
        return NULL;
    return tensor_apply(&add_rows_row, &(OpAttr){.add_rows = {.rows = rows, .first = first}}, 2,
                        (Tensor *[]){x, table});
}

Tensor *tensor_add_rows_part_(Tensor *x, Tensor *table, int64_t first, int64_t rows)
{
    if (!x || !table)
        return NULL;
    const Context *context = x->item.context;
    int64_t before = leading(x->shape) * context->ranks->place[RANKS_TENSOR];
    OpAttr attr = {.add_rows = {.rows = rows, .first = first, .skipped = before % rows, .in_part = 1}};
    return tensor_apply(&add_rows_row, &attr, 2, (Tensor *[]){x, table});
}

Tensor *tensor_add_rows(Tensor *x, Tensor *table, int64_t rows)
{
    return tensor_add_rows_from(x, table, 0, rows);
}
