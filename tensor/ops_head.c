/* linear_cross_entropy: a model's head and its loss in one operation, so that the logits, which a large
 * vocabulary makes the largest tensor of all, exist only a chunk of rows at a time. Made of the kernels of
 * the two operations; costs the head's product once more. */
#include <inttypes.h>

#include "../base/plural_.h"
#include "ops_.h"

enum { HIDDEN, WEIGHT, BIAS, LABELS };

/* One chunk: rows from `first`, and where things of it are. */
typedef struct Chunk {
    int64_t first;
    LinearDims linear;
    CrossEntropyDims loss;
    float *logits, *rest; /* of the workspace: (rows, classes), and what the kernels need */
} Chunk;

static int64_t chunk_rows(const OpCall *call)
{
    int64_t rows = leading(call->shape[HIDDEN]);
    return call->attr.loss.chunk_rows < rows ? call->attr.loss.chunk_rows : rows;
}

static Chunk chunk_at(const OpCall *call, int64_t first)
{
    int64_t left = leading(call->shape[HIDDEN]) - first, most = chunk_rows(call);
    int64_t rows = left < most ? left : most, classes = call->shape[WEIGHT].dim[0];
    char *room = call->workspace; /* a bias of another type than f32 comes first, as floats */
    float *logits = room ? (float *)(void *)(room + floats_room(call, BIAS, classes)) : NULL;
    return (Chunk){
        .first = first,
        .linear = {.rows = rows,
                   .in = last_dim(call->shape[HIDDEN]),
                   .out = classes,
                   .x = call->dtype[HIDDEN]}, /* logits are f32 */
        .loss = {.rows = rows,
                 .classes = classes,
                 .ignore_index = call->attr.loss.ignore_index,
                 .first_row = first},
        .logits = logits,
        .rest = logits ? logits + most * classes : NULL,
    };
}

static int head_check(const OpCall *call)
{
    if (check_float(call, HIDDEN, "hidden") || check_weight(call, WEIGHT, 1, "weight") ||
        check_dtype(call, LABELS, DTYPE_I32, "labels"))
        return error_code();
    Shape hidden = call->shape[HIDDEN], weight = call->shape[WEIGHT];
    if (weight.ndim != 2 || weight.dim[1] != last_dim(hidden))
        return error_raise(ERROR_SHAPE,
                           "linear_cross_entropy: hidden %s needs a weight (classes,%" PRId64 "), not %s",
                           shape_text(hidden).text, last_dim(hidden), shape_text(weight).text);
    if (call->shape[BIAS].ndim && check_vector(call, BIAS, weight.dim[0], "bias"))
        return error_code();
    if (call_numel(call, LABELS) != leading(hidden))
        return error_raise(ERROR_SHAPE, "linear_cross_entropy: hidden %s needs %" PRId64 " label%s, not %s",
                           shape_text(hidden).text, leading(hidden), plural(leading(hidden)),
                           shape_text(call->shape[LABELS]).text);
    if (call->attr.loss.chunk_rows < 1)
        return error_raise(ERROR_ARGUMENT,
                           "linear_cross_entropy: chunks of %" PRId64 " rows; at least 1 is needed",
                           call->attr.loss.chunk_rows);
    return 0;
}

/* Of what a chunk's products need. The last one has fewer rows, which may need more. */
static uint64_t chunk_room(const OpCall *call, const Chunk *c, int backward)
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
    return rounded && !dtype_is_quantized(call->dtype[WEIGHT]) &&
           chunk_rows(call) < leading(call->shape[HIDDEN]);
}

typedef struct Strip {
    int64_t first;
    LinearDims linear, summed; /* summed: with the gradient of hidden in f32 */
    CrossEntropyDims loss;
    float *logits, *dhidden, *rest; /* of the workspace: (rows, classes here), (rows, in), the kernels' */
} Strip;

/* As many classes as have no more logits than a chunk; at least one. */
static int64_t strip_classes(const OpCall *call)
{
    int64_t classes = call->shape[WEIGHT].dim[0];
    int64_t most = chunk_rows(call) * classes / leading(call->shape[HIDDEN]);
    return most > 0 ? most : 1;
}

static Strip strip_at(const OpCall *call, int64_t first)
{
    int64_t rows = leading(call->shape[HIDDEN]), in = last_dim(call->shape[HIDDEN]);
    int64_t classes = call->shape[WEIGHT].dim[0], most = strip_classes(call);
    int64_t here = classes - first < most ? classes - first : most;
    Strip s = {
        .first = first,
        .linear = {.rows = rows, .in = in, .out = here, .x = call->dtype[HIDDEN]},
        .summed = {.rows = rows, .in = in, .out = here},
        .loss = {.rows = rows,
                 .classes = here,
                 .ignore_index = call->attr.loss.ignore_index,
                 .first_class = first,
                 .all_classes = classes},
    };
    if (!call->workspace)
        return s;
    char *room = (char *)call->workspace + floats_room(call, BIAS, classes);
    s.logits = (float *)(void *)room;
    s.dhidden = (float *)(void *)(room + aligned((uint64_t)(rows * most) * sizeof(float)));
    s.rest = s.dhidden + (needs_input(call, HIDDEN) ? aligned((uint64_t)(rows * in)) : 0);
    return s;
}

/* Of what a strip's products need. */
static uint64_t strip_room(const OpCall *call, const Strip *s)
{
    uint64_t forward = linear_room(call, &s->linear, LINEAR_FORWARD);
    uint64_t weight = linear_room(call, &s->linear, LINEAR_BACKWARD_WEIGHT);
    return larger(forward, larger(weight, linear_room(call, &s->summed, LINEAR_BACKWARD_INPUT)));
}

static uint64_t strips_workspace(const OpCall *call)
{
    int64_t rows = leading(call->shape[HIDDEN]), in = last_dim(call->shape[HIDDEN]);
    int64_t classes = call->shape[WEIGHT].dim[0], most = strip_classes(call);
    Strip one = strip_at(call, 0), last = strip_at(call, (classes - 1) / most * most);
    uint64_t sums = needs_input(call, HIDDEN) ? aligned((uint64_t)(rows * in)) * sizeof(float) : 0;
    return floats_room(call, BIAS, classes) + aligned((uint64_t)(rows * most) * sizeof(float)) + sums +
           larger(strip_room(call, &one), strip_room(call, &last));
}

static int64_t chunks(const OpCall *call)
{
    int64_t rows = chunk_rows(call);
    return (leading(call->shape[HIDDEN]) + rows - 1) / rows;
}

static int head_shape(OpCall *call)
{
    if (head_check(call))
        return error_code();
    Chunk c = chunk_at(call, 0),
          last = chunk_at(call, (leading(call->shape[HIDDEN]) - 1) / c.loss.rows * c.loss.rows);
    OpPlan *plan = &call->plan;
    uint64_t logits =
        floats_room(call, BIAS, c.loss.classes) + (uint64_t)(c.loss.rows * c.loss.classes) * sizeof(float);
    plan->out = SHAPE(1);
    plan->extra_bytes[0] = sizeof(float) * (uint64_t)leading(call->shape[HIDDEN]);
    plan->workspace = logits + larger(larger(chunk_room(call, &c, 0), chunk_room(call, &last, 0)),
                                      call->kernels->cross_entropy_workspace(&c.loss, call->run));
    if (on_card(call))
        plan->workspace = aligned(plan->workspace) + parts_room(call, chunks(call));
    plan->flops = 2.0 * (double)leading(call->shape[HIDDEN]) * (double)c.linear.in * (double)c.linear.out;
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

/* The bias of all chunks. */
static const float *bias_of(const OpCall *call)
{
    char *room = call->workspace;
    return floats_input(call, BIAS, 0, call->shape[WEIGHT].dim[0], &room);
}

/* Rows from `first` on of hidden, or of its gradient. */
static void *hidden_rows(const OpCall *call, const void *rows, int64_t first)
{
    return element_at(call->dtype[HIDDEN], rows, first * last_dim(call->shape[HIDDEN]));
}

static void make_logits(const OpCall *call, const Chunk *c, const float *bias)
{
    const void *hidden = hidden_rows(call, call->in[HIDDEN], c->first);
    StoredArray weight = stored_input(call, WEIGHT);
    call->kernels->linear_forward(&c->linear, ACT_NONE, hidden, &weight, bias, NULL, c->logits, c->rest,
                                  call->run);
}

static void head_forward(OpCall *call)
{
    uint64_t kept = call->plan.workspace - parts_room(call, chunks(call));
    PartLosses parts = {.kept = on_card(call) ? (float *)(void *)((char *)call->workspace + kept) : NULL};
    const int32_t *labels = call->in[LABELS];
    const float *bias = bias_of(call);
    for (int64_t first = 0; first < leading(call->shape[HIDDEN]); first += chunk_rows(call)) {
        Chunk c = chunk_at(call, first);
        make_logits(call, &c, bias);
        call->kernels->cross_entropy_forward(&c.loss, DTYPE_F32, c.logits, labels + first,
                                             call->attr.loss.scale, parts_next(&parts),
                                             (float *)call->extra[0] + first, c.rest, call->run);
    }
    parts_sum(call, &parts);
}

/* The gradients of a strip's weights and biases, and its part of hidden's. */
static void strip_backward(OpCall *call, const Strip *s, const float *bias)
{
    const Kernels *k = call->kernels;
    int64_t in = s->linear.in;
    StoredArray weight = {element_at(call->dtype[WEIGHT], call->in[WEIGHT], s->first * in),
                          call->dtype[WEIGHT], s->linear.out, in};
    DType dw = call->grad_type[WEIGHT], db = call->grad_type[BIAS];
    k->linear_forward(&s->linear, ACT_NONE, call->in[HIDDEN], &weight, bias ? bias + s->first : NULL, NULL,
                      s->logits, s->rest, call->run);
    k->cross_entropy_backward(&s->loss, DTYPE_F32, s->logits, call->in[LABELS], call->attr.loss.scale,
                              call->extra[0], call->dout, 0, s->logits, call->run);
    if (call->din[WEIGHT] || call->din[BIAS])
        k->linear_backward_weight(
            &s->linear, call->in[HIDDEN], s->logits, dw, call->beta[WEIGHT],
            call->din[WEIGHT] ? element_at(dw, call->din[WEIGHT], s->first * in) : NULL, db, call->beta[BIAS],
            call->din[BIAS] ? element_at(db, call->din[BIAS], s->first) : NULL, s->rest, call->run);
    if (call->din[HIDDEN])
        k->linear_backward_input(&s->summed, s->logits, &weight, s->first ? 1 : 0, s->dhidden, s->rest,
                                 call->run);
}

static void strips_backward(OpCall *call)
{
    const float *bias = bias_of(call);
    int64_t classes = call->shape[WEIGHT].dim[0], n = call_numel(call, HIDDEN);
    DType type = call->dtype[HIDDEN];
    for (int64_t first = 0; first < classes; first += strip_classes(call)) {
        Strip s = strip_at(call, first);
        strip_backward(call, &s, bias);
    }
    const float *sums = strip_at(call, 0).dhidden;
    if (call->din[HIDDEN] && call->beta[HIDDEN] == 0)
        call->kernels->copy(DTYPE_F32, type, n, sums, call->din[HIDDEN], call->run);
    else if (call->din[HIDDEN])
        call->kernels->accumulate(DTYPE_F32, type, n, sums, call->din[HIDDEN], call->run);
}

static void head_backward(OpCall *call)
{
    if (in_strips(call)) {
        strips_backward(call);
        return;
    }
    const Kernels *k = call->kernels;
    StoredArray weight = stored_input(call, WEIGHT);
    const int32_t *labels = call->in[LABELS];
    const float *bias = bias_of(call);
    for (int64_t first = 0; first < leading(call->shape[HIDDEN]); first += chunk_rows(call)) {
        Chunk c = chunk_at(call, first);
        const void *hidden = hidden_rows(call, call->in[HIDDEN], first);
        make_logits(call, &c, bias);
        k->cross_entropy_backward(&c.loss, DTYPE_F32, c.logits, labels + first, call->attr.loss.scale,
                                  (const float *)call->extra[0] + first, call->dout, 0, c.logits, call->run);
        if (call->din[WEIGHT] || call->din[BIAS])
            k->linear_backward_weight(&c.linear, hidden, c.logits, call->grad_type[WEIGHT],
                                      first ? 1 : call->beta[WEIGHT], call->din[WEIGHT],
                                      call->grad_type[BIAS], first ? 1 : call->beta[BIAS], call->din[BIAS],
                                      c.rest, call->run);
        if (call->din[HIDDEN])
            k->linear_backward_input(&c.linear, c.logits, &weight, call->beta[HIDDEN],
                                     hidden_rows(call, call->din[HIDDEN], first), c.rest, call->run);
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

Tensor *tensor_linear_cross_entropy(Tensor *hidden, Tensor *weight, Tensor *bias, Tensor *labels,
                                    int ignore_index, float scale, int64_t rows)
{
    if (!hidden || !weight || !labels)
        return NULL;
    OpAttr attr = {.loss = {.ignore_index = ignore_index, .scale = scale, .chunk_rows = rows}};
    return tensor_apply(&head_row, &attr, 4, (Tensor *[]){hidden, weight, bias, labels});
}
