/* cross_entropy from integer labels, and the reductions. The logits' gradient is written over the saved
 * logits. */
#include <inttypes.h>

#include "../base/plural_.h"
#include "ops_.h"

static CrossEntropyDims loss_dims(const OpCall *call)
{
    int64_t ld = last_dim(call->shape[0]), each = ld - call->attr.loss.padding;
    CrossEntropyDims d = {.rows = leading(call->shape[0]),
                          .classes = each,
                          .ignore_index = call->attr.loss.ignore_index,
                          .ld = ld,
                          .softcap = call->attr.loss.softcap};
    class_part_dims(call, each, &d);
    return d;
}

static int cross_entropy_shape(OpCall *call)
{
    if (check_float(call, 0, "logits") || check_dtype(call, 1, DTYPE_I32, "labels") ||
        check_softcap(call, call->attr.loss.softcap))
        return error_code();
    CrossEntropyDims d = loss_dims(call);
    if (call_numel(call, 1) != d.rows)
        return error_raise(ERROR_SHAPE, "cross_entropy: logits %s need %" PRId64 " label%s, not %s",
                           shape_text(call->shape[0]).text, d.rows, plural(d.rows),
                           shape_text(call->shape[1]).text);
    call->plan.out = SHAPE(1);
    call->plan.extra_bytes[0] = sizeof(float) * (uint64_t)d.rows;
    call->plan.workspace = call->kernels->cross_entropy_workspace(&d, call->run);
    call->plan.saves = OP_INPUT(0) | OP_INPUT(1);
    return 0;
}

static void cross_entropy_forward(OpCall *call)
{
    CrossEntropyDims d = loss_dims(call);
    call->kernels->cross_entropy_forward(&d, call->dtype[0], call->in[0], call->in[1], call->attr.loss.scale,
                                         call->out, call->extra[0], call->workspace, call->run);
}

static void cross_entropy_backward(OpCall *call)
{
    CrossEntropyDims d = loss_dims(call);
    call->kernels->cross_entropy_backward(&d, call->dtype[0], call->in[0], call->in[1], call->attr.loss.scale,
                                          call->extra[0], call->dout, call->beta[0], call->din[0], call->run);
}

static const OpRow cross_entropy_row = {
    .name = "cross_entropy",
    .shape = cross_entropy_shape,
    .forward = cross_entropy_forward,
    .backward = cross_entropy_backward,
    .grad_in_saved = OP_INPUT(0),
    .accumulates = OP_INPUT(0),
    .checked = 1,
    .checked_range = "labels must be in [0, classes), or the ignore index",
};

/* Of a part of the classes: ranks tell each other what theirs say of each row. */
static void part_forward(OpCall *call)
{
    CrossEntropyDims d = loss_dims(call);
    ClassParts parts;
    if (class_parts_begin(&parts, d.rows) != 0)
        return;
    if (parts.mine)
        call->kernels->cross_entropy_part(&d, call->dtype[0], call->in[0], call->in[1], parts.mine,
                                          call->run);
    class_parts_join(&parts, call, &d, call->in[1]);
}

static void part_backward(OpCall *call)
{
    if (call->dout)
        cross_entropy_backward(call);
}

static const OpRow part_row = {
    .name = "cross_entropy",
    .shape = cross_entropy_shape,
    .forward = part_forward,
    .backward = part_backward,
    .grad_in_saved = OP_INPUT(0),
    .accumulates = OP_INPUT(0),
    .meets = 1,
    .checked = 1,
    .checked_range = "labels must be in [0, classes), or the ignore index",
};

static OpAttr loss_attr(const Tensor *logits, const LossOptions *o)
{
    return (OpAttr){.loss = {.ignore_index = o->ignore_index,
                             .scale = o->scale,
                             .softcap = o->softcap,
                             .padding = logits->padding}};
}

Tensor *tensor_cross_entropy_part_(Tensor *logits, RowsPart part, Tensor *labels, const LossOptions *o)
{
    if (!logits || !labels)
        return NULL;
    OpAttr attr = loss_attr(logits, o);
    class_part_attr(&attr, part);
    return tensor_apply(&part_row, &attr, 2, (Tensor *[]){logits, labels});
}

Tensor *tensor_cross_entropy_with(Tensor *logits, Tensor *labels, const LossOptions *o)
{
    if (!logits || !labels || !o)
        return NULL;
    OpAttr attr = loss_attr(logits, o);
    return tensor_apply(&cross_entropy_row, &attr, 2, (Tensor *[]){logits, labels});
}

Tensor *tensor_cross_entropy(Tensor *logits, Tensor *labels, int ignore_index, float scale)
{
    return tensor_cross_entropy_with(logits, labels,
                                     &(LossOptions){.ignore_index = ignore_index, .scale = scale});
}

/* The first of the largest of a row is the label. */
static int is_correct(const float *row, int64_t classes, int32_t label)
{
    int64_t best = 0;
    for (int64_t k = 1; k < classes; k++)
        if (row[k] > row[best])
            best = k;
    return best == label;
}

static int check_counted(const Tensor *logits, const Tensor *labels)
{
    static const char what[] = "tensor_count_correct";
    if (!logits || !labels || !tensor_readable(logits, what) || !tensor_readable(labels, what))
        return -1;
    if (!dtype_is_float(logits->dtype) || labels->dtype != DTYPE_I32)
        return error_raise(ERROR_ARGUMENT, "%s(): logits are f32, bf16 or f16 and labels i32, not %s and %s",
                           what, dtype_name(logits->dtype), dtype_name(labels->dtype));
    int64_t rows = leading(logits->shape);
    if (tensor_numel(labels) == rows)
        return 0;
    return error_raise(ERROR_SHAPE, "%s(): logits %s need %" PRId64 " label%s, not %s", what,
                       shape_text(logits->shape).text, rows, plural(rows), shape_text(labels->shape).text);
}

int64_t tensor_count_correct(Tensor *logits, Tensor *labels)
{
    if (check_counted(logits, labels) || logits->item.context->meta)
        return 0;
    int64_t classes = last_dim(logits->shape), rows = leading(logits->shape), correct = 0;
    int64_t row_bytes = classes * (int64_t)sizeof(float), label_bytes = (int64_t)sizeof(int32_t);
    float *row = host_alloc_for("tensor_count_correct", "a row of logits", (size_t)row_bytes);
    for (int64_t i = 0; i < rows && row; i++) {
        int32_t label;
        tensor_decode_(logits, i * classes, classes, row);
        tensor_read(labels, i * label_bytes, label_bytes, &label);
        correct += is_correct(row, classes, label);
    }
    if (row)
        host_free(context_here(), row, (size_t)row_bytes);
    return correct;
}

/* ---- In parts -------------------------------------------------------------------------------- */

uint64_t parts_room(const OpCall *call, int64_t parts)
{
    return on_card(call) ? aligned((uint64_t)parts * sizeof(float)) : 0;
}

float *parts_next(PartLosses *parts)
{
    if (parts->kept)
        return &parts->kept[parts->count++];
    parts->total += (double)parts->last;
    return &parts->last;
}

void parts_sum(OpCall *call, PartLosses *parts)
{
    if (parts->kept)
        call->kernels->sum(DTYPE_F32, parts->count, parts->kept, 1, call->out, call->run);
    else
        *(float *)call->out = (float)(parts->total + (double)parts->last);
}

/* ---- Reductions ------------------------------------------------------------------------------ */

static int sum_shape(OpCall *call)
{
    if (check_float(call, 0, "x"))
        return error_code();
    call->plan.out = SHAPE(1);
    return 0;
}

static void sum_forward(OpCall *call)
{
    call->kernels->sum(call->dtype[0], call_numel(call, 0), call->in[0], (double)call->attr.scale.factor,
                       call->out, call->run);
}

static void sum_backward(OpCall *call)
{
    call->kernels->broadcast(call->dtype[0], call_numel(call, 0), call->attr.scale.factor, call->dout,
                             call->din[0], call->run);
}

static const OpRow sum_row = {
    .name = "sum", .shape = sum_shape, .forward = sum_forward, .backward = sum_backward};
static const OpRow mean_row = {
    .name = "mean", .shape = sum_shape, .forward = sum_forward, .backward = sum_backward};

Tensor *tensor_sum(Tensor *x)
{
    return x ? tensor_apply(&sum_row, &(OpAttr){.scale = {.factor = 1}}, 1, (Tensor *[]){x}) : NULL;
}

Tensor *tensor_mean(Tensor *x)
{
    if (!x)
        return NULL;
    return tensor_apply(&mean_row, &(OpAttr){.scale = {.factor = 1.0f / (float)tensor_numel(x)}}, 1,
                        (Tensor *[]){x});
}
