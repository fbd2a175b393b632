/* A part of a head's logits, and what both operations that take a head's loss in parts compute of it: the
 * logits, their loss, and in backward, where they are computed once more, the gradients of all that they come
 * from. */
#include "head_.h"

#include <inttypes.h>

#include "../base/plural_.h"

/* ---- Sizes ----------------------------------------------------------------------------------- */

int head_check_types(const OpCall *call)
{
    return check_float(call, HIDDEN, "hidden") || check_weight(call, WEIGHT, 1, "weight") ||
                   check_dtype(call, LABELS, DTYPE_I32, "labels")
               ? error_code()
               : 0;
}

int head_check(const OpCall *call, int64_t width)
{
    Shape hidden = call->shape[HIDDEN], weight = call->shape[WEIGHT];
    if (weight.ndim != 2 || weight.dim[1] != width)
        return error_raise(ERROR_SHAPE, "%s: hidden %s needs a weight (classes,%" PRId64 "), not %s",
                           call->row->name, shape_text(hidden).text, width, shape_text(weight).text);
    if (call->shape[BIAS].ndim && check_vector(call, BIAS, weight.dim[0], "bias"))
        return error_code();
    if (call_numel(call, LABELS) != leading(hidden))
        return error_raise(ERROR_SHAPE, "%s: hidden %s needs %" PRId64 " label%s, not %s", call->row->name,
                           shape_text(hidden).text, leading(hidden), plural(leading(hidden)),
                           shape_text(call->shape[LABELS]).text);
    if (check_softcap(call, call->attr.loss.softcap))
        return error_code();
    if (call->attr.loss.chunk_rows < 1)
        return error_raise(ERROR_ARGUMENT, "%s: chunks of %" PRId64 " rows; at least 1 is needed",
                           call->row->name, call->attr.loss.chunk_rows);
    return 0;
}

int64_t head_classes(const OpCall *call)
{
    return call->attr.loss.all_classes ? call->attr.loss.all_classes : call->shape[WEIGHT].dim[0];
}

int64_t head_rows(const OpCall *call)
{
    return leading(call->shape[HIDDEN]);
}

int64_t head_chunk_rows(const OpCall *call)
{
    int64_t rows = head_rows(call);
    return call->attr.loss.chunk_rows < rows ? call->attr.loss.chunk_rows : rows;
}

/* Elements from one row of logits to the next. */
static int64_t logits_ld(const OpCall *call, int64_t classes)
{
    return on_card(call) ? padded_row(classes) : classes;
}

int64_t head_strip_classes(const OpCall *call, int64_t rows)
{
    int64_t most = head_chunk_rows(call) * call->shape[WEIGHT].dim[0] / rows;
    if (on_card(call)) /* padding is inside */
        most = most / padded_unit(most) * padded_unit(most);
    return most > 0 ? most : 1;
}

HeadPart head_chunk(const OpCall *call, DType logits, int64_t rows)
{
    int64_t classes = call->shape[WEIGHT].dim[0], width = call->shape[WEIGHT].dim[1];
    int64_t ld = logits_ld(call, classes);
    LinearDims linear = {
        .rows = rows, .in = width, .out = classes, .x = call->dtype[HIDDEN], .y = logits, .ldy = ld};
    HeadPart part = {
        .linear = linear,
        .below = linear,
        .loss = {.rows = rows,
                 .classes = classes,
                 .ignore_index = call->attr.loss.ignore_index,
                 .ld = ld,
                 .softcap = call->attr.loss.softcap},
    };
    class_part_dims(call, classes, &part.loss);
    return part;
}

HeadPart head_strip(const OpCall *call, DType logits, int64_t rows, int64_t most, int64_t first)
{
    HeadPart p = head_chunk(call, logits, rows);
    int64_t classes = call->shape[WEIGHT].dim[0], here = classes - first < most ? classes - first : most;
    int64_t counted = p.loss.classes - first; /* the last of them may be padding */
    p.first = first;
    p.linear.out = here;
    p.linear.ldy = p.loss.ld = logits_ld(call, here);
    p.loss.first_class += first;
    p.loss.all_classes = head_classes(call);
    p.loss.classes = counted < 0 ? 0 : counted < here ? counted : here;
    p.loss.padding = here - p.loss.classes;
    p.below = p.linear;
    p.below.x = DTYPE_F32;
    return p;
}

uint64_t head_logits_room(const OpCall *call, DType logits, int64_t rows, int64_t classes)
{
    return dtype_bytes(logits, 1, rows * logits_ld(call, classes));
}

static uint64_t strip_room(const OpCall *call, const HeadPart *p)
{
    uint64_t forward = linear_room(call, &p->linear, LINEAR_FORWARD);
    uint64_t weight = linear_room(call, &p->linear, LINEAR_BACKWARD_WEIGHT);
    return larger(forward, larger(weight, linear_room(call, &p->below, LINEAR_BACKWARD_INPUT)));
}

uint64_t head_strips_room(const OpCall *call, DType logits, int64_t rows, int64_t most)
{
    int64_t classes = call->shape[WEIGHT].dim[0];
    HeadPart one = head_strip(call, logits, rows, most, 0);
    HeadPart last = head_strip(call, logits, rows, most, (classes - 1) / most * most);
    return larger(strip_room(call, &one), strip_room(call, &last));
}

/* ---- What is computed of a part -------------------------------------------------------------- */

/* The head's weight, of the part's classes: all of them, or of a type whose rows lie one after the other. */
static StoredArray weight_of(const OpCall *call, const HeadPart *p)
{
    StoredArray weight = stored_input(call, WEIGHT);
    if (p->first)
        weight.at = element_at(weight.dtype, weight.at, p->first * weight.cols);
    weight.rows = p->linear.out;
    return weight;
}

static void make_logits(const OpCall *call, const HeadPart *p, const HeadArrays *a, const StoredArray *weight)
{
    call->kernels->linear_forward(&p->linear, ACT_NONE, a->x, weight, a->bias ? a->bias + p->first : NULL,
                                  NULL, a->logits, a->rest, call->run);
}

void head_part_forward(const OpCall *call, const HeadPart *p, const HeadArrays *a, float *loss)
{
    StoredArray weight = weight_of(call, p);
    make_logits(call, p, a, &weight);
    if (call->attr.loss.all_classes)
        call->kernels->cross_entropy_part(&p->loss, p->linear.y, a->logits, a->labels, a->said, call->run);
    else
        call->kernels->cross_entropy_forward(&p->loss, p->linear.y, a->logits, a->labels,
                                             call->attr.loss.scale, loss, a->lse, a->rest, call->run);
}

/* Where the gradient of the part's first class is, of input i with so many elements a class. */
static void *gradient_at(const OpCall *call, const HeadPart *p, int i, int64_t width)
{
    return call->din[i] ? element_at(call->grad_type[i], call->din[i], p->first * width) : NULL;
}

void head_part_backward(const OpCall *call, const HeadPart *p, const HeadArrays *a, int adds, float beta,
                        void *dx)
{
    const Kernels *k = call->kernels;
    StoredArray weight = weight_of(call, p);
    make_logits(call, p, a, &weight);
    k->cross_entropy_backward(&p->loss, p->linear.y, a->logits, a->labels, call->attr.loss.scale, a->lse,
                              call->dout, 0, a->logits, call->run);
    if (call->din[WEIGHT] || call->din[BIAS])
        k->linear_backward_weight(&p->linear, a->x, a->logits, call->grad_type[WEIGHT],
                                  adds ? 1 : call->beta[WEIGHT], gradient_at(call, p, WEIGHT, weight.cols),
                                  call->grad_type[BIAS], adds ? 1 : call->beta[BIAS],
                                  gradient_at(call, p, BIAS, 1), a->rest, call->run);
    if (dx)
        k->linear_backward_input(&p->below, a->logits, &weight, beta, dx, a->rest, call->run);
}

void head_strips_backward(const OpCall *call, DType logits, int64_t rows, int64_t most, const HeadArrays *a,
                          float *sums)
{
    for (int64_t first = 0; first < call->shape[WEIGHT].dim[0]; first += most) {
        HeadPart p = head_strip(call, logits, rows, most, first);
        head_part_backward(call, &p, a, 0, first ? 1 : 0, sums);
    }
}
