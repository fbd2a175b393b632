/* linear_cross_entropy: a model's head and its loss in one operation, so that the logits, which a large
 * vocabulary makes the largest tensor of all, exist only a chunk of rows at a time. Made of the kernels of
 * the two operations; costs the head's product once more. */
#include "head_.h"

/* Rows from `first` on. The logits are f32, whatever hidden is. */
static HeadPart chunk_at(const OpCall *call, int64_t first)
{
    int64_t left = head_rows(call) - first, most = head_chunk_rows(call);
    HeadPart c = head_chunk(call, DTYPE_F32, left < most ? left : most);
    c.loss.first_row = first;
    return c;
}

/* Of what a chunk's products need. The last one has fewer rows, which may need more. */
static uint64_t chunk_room(const OpCall *call, const HeadPart *c, int backward)
{
    uint64_t forward = linear_room(call, &c->linear, LINEAR_FORWARD);
    return backward ? larger(forward, linear_backward_room(call, &c->linear)) : forward;
}

/* In 16 bit, the gradient of the weight would be rounded once a chunk. So backward then takes some classes of
 * all rows at a time, whose gradients are complete, and sums that of hidden in f32. */
static int in_strips(const OpCall *call)
{
    int rounded = (needs_input(call, WEIGHT) && call->grad_type[WEIGHT] != DTYPE_F32) ||
                  (needs_input(call, BIAS) && call->grad_type[BIAS] != DTYPE_F32);
    return rounded && !dtype_is_quantized(call->dtype[WEIGHT]) && head_chunk_rows(call) < head_rows(call);
}

/* Bytes of a strip's logits, and of the sums of hidden's gradient. */
static uint64_t strip_logits_room(const OpCall *call)
{
    return aligned(
        head_logits_room(call, DTYPE_F32, head_rows(call), head_strip_classes(call, head_rows(call))));
}

static uint64_t sums_room(const OpCall *call)
{
    return needs_input(call, HIDDEN) ? aligned((uint64_t)call_numel(call, HIDDEN)) * sizeof(float) : 0;
}

static uint64_t strips_workspace(const OpCall *call)
{
    int64_t rows = head_rows(call);
    return floats_room(call, BIAS, call->shape[WEIGHT].dim[0]) + strip_logits_room(call) + sums_room(call) +
           head_strips_room(call, DTYPE_F32, rows, head_strip_classes(call, rows));
}

/* Bytes of a chunk's logits. */
static uint64_t logits_room(const OpCall *call)
{
    uint64_t bytes = head_logits_room(call, DTYPE_F32, head_chunk_rows(call), call->shape[WEIGHT].dim[0]);
    return on_card(call) ? aligned(bytes) : bytes;
}

static int64_t chunks(const OpCall *call)
{
    int64_t rows = head_chunk_rows(call);
    return (head_rows(call) + rows - 1) / rows;
}

static int head_shape(OpCall *call)
{
    if (head_check_types(call) || head_check(call, last_dim(call->shape[HIDDEN])))
        return error_code();
    HeadPart c = chunk_at(call, 0), last = chunk_at(call, (head_rows(call) - 1) / c.loss.rows * c.loss.rows);
    OpPlan *plan = &call->plan;
    CrossEntropyDims all = c.loss;
    all.rows = head_rows(call);
    uint64_t logits = floats_room(call, BIAS, call->shape[WEIGHT].dim[0]) + logits_room(call);
    plan->out = SHAPE(1);
    plan->extra_bytes[0] = sizeof(float) * (uint64_t)head_rows(call);
    plan->workspace = logits + larger(larger(chunk_room(call, &c, 0), chunk_room(call, &last, 0)),
                                      call->kernels->cross_entropy_workspace(&c.loss, call->run));
    if (call->attr.loss.all_classes)
        plan->workspace = larger(plan->workspace, call->kernels->cross_entropy_workspace(&all, call->run));
    else if (on_card(call))
        plan->workspace = aligned(plan->workspace) + parts_room(call, chunks(call));
    plan->flops = 2.0 * (double)head_rows(call) * (double)c.linear.in * (double)c.linear.out;
    if (!call->needs)
        return 0;
    plan->saves = OP_INPUT(HIDDEN) | OP_INPUT(WEIGHT) | OP_INPUT(LABELS);
    if (call->shape[BIAS].ndim)
        plan->saves |= OP_INPUT(BIAS);
    plan->backward_flops = plan->flops * (1 + needs_input(call, HIDDEN) + needs_input(call, WEIGHT));
    plan->backward_workspace = in_strips(call)
                                   ? strips_workspace(call)
                                   : logits + larger(chunk_room(call, &c, 1), chunk_room(call, &last, 1));
    return 0;
}

/* The arrays of all rows, in workspace of which `room` bytes are logits. */
static HeadArrays arrays_of(const OpCall *call, uint64_t room)
{
    char *at = call->workspace; /* a bias of another type than f32 comes first, as floats */
    HeadArrays a = {.x = call->in[HIDDEN],
                    .bias = floats_input(call, BIAS, 0, call->shape[WEIGHT].dim[0], &at),
                    .labels = call->in[LABELS],
                    .lse = call->extra[0]};
    a.logits = at;
    a.rest = at + room;
    return a;
}

/* Rows from `first` on of hidden, or of its gradient. */
static void *hidden_rows(const OpCall *call, const void *rows, int64_t first)
{
    return element_at(call->dtype[HIDDEN], rows, first * last_dim(call->shape[HIDDEN]));
}

/* Those of a chunk. */
static HeadArrays chunk_arrays(const OpCall *call, const HeadArrays *all, int64_t first)
{
    HeadArrays a = *all;
    a.x = hidden_rows(call, all->x, first);
    a.labels += first;
    a.lse += first;
    a.said = all->said ? all->said + first * CROSS_ENTROPY_PART : NULL;
    return a;
}

static void head_forward(OpCall *call)
{
    uint64_t kept = call->plan.workspace - parts_room(call, chunks(call));
    PartLosses parts = {.kept = on_card(call) ? (float *)(void *)((char *)call->workspace + kept) : NULL};
    HeadArrays all = arrays_of(call, logits_room(call));
    for (int64_t first = 0; first < head_rows(call); first += head_chunk_rows(call)) {
        HeadPart c = chunk_at(call, first);
        HeadArrays a = chunk_arrays(call, &all, first);
        head_part_forward(call, &c, &a, parts_next(&parts));
    }
    parts_sum(call, &parts);
}

static void strips_backward(const OpCall *call)
{
    int64_t rows = head_rows(call), n = call_numel(call, HIDDEN);
    DType type = call->dtype[HIDDEN];
    HeadArrays a = arrays_of(call, strip_logits_room(call));
    float *sums = call->din[HIDDEN] ? a.rest : NULL;
    a.rest = (char *)a.rest + sums_room(call);
    head_strips_backward(call, DTYPE_F32, rows, head_strip_classes(call, rows), &a, sums);
    if (sums && call->beta[HIDDEN] == 0)
        call->kernels->copy(DTYPE_F32, type, n, sums, call->din[HIDDEN], call->run);
    else if (sums)
        call->kernels->accumulate(DTYPE_F32, type, n, sums, call->din[HIDDEN], call->run);
}

static void head_backward(OpCall *call)
{
    if (in_strips(call)) {
        strips_backward(call);
        return;
    }
    HeadArrays all = arrays_of(call, logits_room(call));
    for (int64_t first = 0; first < head_rows(call); first += head_chunk_rows(call)) {
        HeadPart c = chunk_at(call, first);
        HeadArrays a = chunk_arrays(call, &all, first);
        void *dhidden = call->din[HIDDEN] ? hidden_rows(call, call->din[HIDDEN], first) : NULL;
        head_part_backward(call, &c, &a, first > 0, call->beta[HIDDEN], dhidden);
    }
}

/* The gradient of hidden could be written over hidden, but is not (grad_in_saved): it becomes the gradient of
 * the residual stream, which lives through the whole of backward, and there it would sit at the far end of
 * the activations and hold up all that backward frees: 19 % more to reserve, for (rows, c) less at one
 * moment. */
static const OpRow head_row = {
    .name = "linear_cross_entropy",
    .shape = head_shape,
    .forward = head_forward,
    .backward = head_backward,
    .accumulates = OP_INPUT(HIDDEN) | OP_INPUT(WEIGHT) | OP_INPUT(BIAS),
    .checked = LABELS,
    .checked_range = "labels must be in [0, classes), or the ignore index",
};

/* Of classes that ranks have a part of each: they meet once, when all chunks are done. */
static void part_forward(OpCall *call)
{
    ClassParts parts;
    if (class_parts_begin(&parts, head_rows(call)) != 0)
        return;
    CrossEntropyDims d = chunk_at(call, 0).loss;
    d.rows = head_rows(call);
    if (parts.mine) {
        HeadArrays all = arrays_of(call, logits_room(call));
        all.said = parts.mine;
        for (int64_t first = 0; first < head_rows(call); first += head_chunk_rows(call)) {
            HeadPart c = chunk_at(call, first);
            HeadArrays a = chunk_arrays(call, &all, first);
            head_part_forward(call, &c, &a, NULL);
        }
    }
    class_parts_join(&parts, call, &d, call->in[LABELS]);
}

static void part_backward(OpCall *call)
{
    if (call->dout)
        head_backward(call);
}

static const OpRow part_row = {
    .name = "linear_cross_entropy",
    .shape = head_shape,
    .forward = part_forward,
    .backward = part_backward,
    .accumulates = OP_INPUT(HIDDEN) | OP_INPUT(WEIGHT) | OP_INPUT(BIAS),
    .meets = 1,
    .checked = LABELS,
    .checked_range = "labels must be in [0, classes), or the ignore index",
};

Tensor *tensor_linear_cross_entropy_with(Tensor *hidden, Tensor *weight, Tensor *bias, Tensor *labels,
                                         const LossOptions *o)
{
    if (!hidden || !weight || !labels || !o)
        return NULL;
    OpAttr attr = {.loss = {.ignore_index = o->ignore_index,
                            .scale = o->scale,
                            .softcap = o->softcap,
                            .chunk_rows = o->chunk_rows}};
    if (weight->whole_rows)
        class_part_attr(&attr, tensor_rows_part_(weight));
    return tensor_apply(weight->whole_rows ? &part_row : &head_row, &attr, 4,
                        (Tensor *[]){hidden, weight, bias, labels});
}

Tensor *tensor_linear_cross_entropy(Tensor *hidden, Tensor *weight, Tensor *bias, Tensor *labels,
                                    int ignore_index, float scale, int64_t rows)
{
    return tensor_linear_cross_entropy_with(
        hidden, weight, bias, labels,
        &(LossOptions){.ignore_index = ignore_index, .scale = scale, .chunk_rows = rows});
}
