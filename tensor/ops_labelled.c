/* labelled_cross_entropy: a model's head and its loss for the rows that have a label, and for no others. Of a
 * masked language model's rows some 15 % have one, of a fine-tuning's those of the answers.
 *
 * Which rows they are is data, so what is allocated may not depend on it: rows with a label are gathered into
 * chunks of a fixed number of rows, in workspace, and as many chunks are computed as there are rows for. The
 * head is all of what comes behind the last block: with BERT's transform, or only the last product. Backward
 * computes a chunk once more, so that nothing but hidden and a number a row is kept. Gradients of parameters
 * add up over chunks. Those of 16 bit are rounded once: the head's weight then takes some classes of all rows
 * at a time, and what lies below it is summed in f32. */
#include <inttypes.h>

#include "batch.h"
#include "head_.h"

enum { DENSE = HEAD_INPUTS, DENSE_BIAS, NORM, NORM_BIAS, INPUTS };
_Static_assert(INPUTS <= OP_MAX_INPUTS, "room for a head");
/* The last chunk has as many rows as are left, rounded up to a whole part of a chunk: workspace is then
 * sized for a few numbers of rows, and not for each that data may have. */
enum { CHUNK_PARTS = 8 };

/* Sizes of a chunk of so many rows. */
typedef struct Chunk {
    int64_t rows, done; /* done: in chunks before this one */
    LinearDims dense;
    HeadPart head;
} Chunk;

/* What lies in the workspace: vectors as floats, then the rows with a label, then a chunk's arrays; in
 * strips, the normed rows of all chunks and their gradient, and sums of the gradients of what lies below the
 * weight. */
typedef struct Room {
    const float *bias, *dense_bias, *norm, *norm_bias;
    int64_t *index, count;
    int32_t *label;
    void *hidden, *pre, *active, *normed, *logits; /* (rows, …), of hidden's type */
    float *mean, *rstd;
    void *all_normed;
    float *all_slopes, *sum[INPUTS]; /* sum: NULL where the gradient itself is one */
    void *rest;                      /* what kernels need */
    float *losses;                   /* of the chunks, on a card */
} Room;

static int has_transform(const OpCall *call)
{
    return call->shape[DENSE].ndim != 0;
}

/* A gradient of anything below the head's weight is asked for. */
static int goes_below(const OpCall *call)
{
    return (call->needs & ~(OP_INPUT(WEIGHT) | OP_INPUT(BIAS))) != 0;
}

/* Rows that the last chunk is a multiple of. */
static int64_t part_rows(const OpCall *call)
{
    int64_t part = head_chunk_rows(call) / CHUNK_PARTS;
    return part ? part : 1;
}

/* The next chunk, where `left` rows are left. */
static Chunk chunk_of(const OpCall *call, int64_t done, int64_t left)
{
    int64_t most = head_chunk_rows(call), part = part_rows(call);
    int64_t rows = (left + part - 1) / part * part;
    rows = rows < most ? rows : most;
    DType type = call->dtype[HIDDEN];
    return (Chunk){
        .rows = rows,
        .done = done,
        .dense = {.rows = rows,
                  .in = last_dim(call->shape[HIDDEN]),
                  .out = call->shape[WEIGHT].dim[1],
                  .x = type,
                  .y = type},
        .head = head_chunk(call, type, rows),
    };
}

/* ---- Workspace ------------------------------------------------------------------------------- */

/* Of the list of rows: chunks may read beyond the last row, up to a whole part. */
static int64_t list_rows(const OpCall *call)
{
    return head_rows(call) + part_rows(call);
}

static uint64_t floats(int64_t count)
{
    return aligned((uint64_t)count * sizeof(float));
}

/* Of as many elements of hidden's type. */
static uint64_t typed(const OpCall *call, int64_t count)
{
    return aligned(dtype_bytes(call->dtype[HIDDEN], 1, count));
}

/* Of the logits of a part. */
static uint64_t logits_room(const OpCall *call, int64_t rows, int64_t classes)
{
    return aligned(head_logits_room(call, call->dtype[HIDDEN], rows, classes));
}

enum { COUNT_WORDS = MEMTRACK_ALIGN / (int)sizeof(int64_t) };

/* Bytes, on a card, of the number of rows and of the losses of chunks. */
static uint64_t counts_room(const OpCall *call)
{
    return on_card(call) ? MEMTRACK_ALIGN + parts_room(call, list_rows(call) / part_rows(call) + 1) : 0;
}

/* Bytes of everything but what kernels need. */
static uint64_t arrays_room(const OpCall *call)
{
    int64_t in = last_dim(call->shape[HIDDEN]), classes = call->shape[WEIGHT].dim[0];
    int64_t width = call->shape[WEIGHT].dim[1], rows = head_chunk_rows(call), list = list_rows(call);
    uint64_t bytes = floats_room(call, BIAS, classes) + floats_room(call, DENSE_BIAS, width) +
                     floats_room(call, NORM, width) + floats_room(call, NORM_BIAS, width);
    bytes += aligned((uint64_t)list * sizeof(int64_t)) + aligned((uint64_t)list * sizeof(int32_t));
    bytes += counts_room(call);
    bytes += typed(call, rows * in) + logits_room(call, rows, classes);
    if (has_transform(call))
        bytes += 3 * typed(call, rows * width) + 2 * floats(rows);
    return bytes;
}

static uint64_t product_room(const OpCall *call, const LinearDims *d, int weight, LinearPass pass)
{
    DType type = pass == LINEAR_BACKWARD_WEIGHT ? call->grad_type[weight] : call->dtype[weight];
    return call->kernels->linear_workspace(d, pass, type, call->run);
}

static uint64_t forward_room(const OpCall *call, const Chunk *c)
{
    uint64_t bytes = larger(product_room(call, &c->head.linear, WEIGHT, LINEAR_FORWARD),
                            call->kernels->cross_entropy_workspace(&c->head.loss, call->run));
    if (has_transform(call))
        bytes = larger(bytes, product_room(call, &c->dense, DENSE, LINEAR_FORWARD));
    return bytes;
}

static uint64_t linear_rooms(const OpCall *call, const LinearDims *d, int weight)
{
    return larger(product_room(call, d, weight, LINEAR_BACKWARD_INPUT),
                  product_room(call, d, weight, LINEAR_BACKWARD_WEIGHT));
}

static uint64_t backward_room(const OpCall *call, const Chunk *c)
{
    uint64_t bytes = larger(forward_room(call, c), linear_rooms(call, &c->head.linear, WEIGHT));
    if (!has_transform(call))
        return bytes;
    bytes = larger(bytes, linear_rooms(call, &c->dense, DENSE));
    return larger(bytes, call->kernels->norm_workspace(c->rows, c->dense.out, call->run));
}

/* ---- 16-bit gradients ------------------------------------------------------------------------ */

/* The gradient of input i would be rounded once a chunk. */
static int rounds(const OpCall *call, int i)
{
    return needs_input(call, i) && call->grad_type[i] != DTYPE_F32;
}

static int in_strips(const OpCall *call)
{
    static const int trained[] = {WEIGHT, BIAS, DENSE, DENSE_BIAS, NORM, NORM_BIAS};
    int any = 0;
    for (size_t i = 0; i < sizeof trained / sizeof *trained; i++)
        any |= rounds(call, trained[i]);
    return any && head_chunk_rows(call) < head_rows(call);
}

/* What lies below the weight is small, and has a sum of its own. */
static int is_summed(const OpCall *call, int i)
{
    return i >= DENSE && rounds(call, i);
}

static int64_t strip_classes(const OpCall *call)
{
    return head_strip_classes(call, list_rows(call));
}

/* Bytes of a strip's arrays. */
static uint64_t strips_room(const OpCall *call)
{
    int64_t n = list_rows(call) * call->shape[WEIGHT].dim[1];
    uint64_t bytes = typed(call, n) + floats(n);
    for (int i = 0; i < INPUTS; i++)
        bytes += is_summed(call, i) ? floats(call_numel(call, i)) : 0;
    return bytes;
}

/* Bytes of what kernels need for strips of any number of rows. */
static uint64_t most_strip_room(const OpCall *call)
{
    uint64_t bytes = 0;
    for (int64_t rows = 0; rows <= list_rows(call); rows += part_rows(call))
        bytes = larger(bytes, head_strips_room(call, call->dtype[HIDDEN], rows, strip_classes(call)));
    return bytes;
}

/* The most of any number of rows that a chunk may have. */
static uint64_t most_room(const OpCall *call, uint64_t (*room)(const OpCall *call, const Chunk *c))
{
    uint64_t most = 0;
    for (int64_t rows = head_chunk_rows(call); rows > 0; rows -= part_rows(call)) {
        Chunk c = chunk_of(call, 0, rows);
        most = larger(most, room(call, &c));
    }
    Chunk none = chunk_of(call, 0, 0);
    return larger(most, room(call, &none));
}

static void *take(char **at, uint64_t bytes)
{
    void *taken = *at;
    *at += bytes;
    return taken;
}

/* Decodes vectors and finds the rows. strips: those of backward. */
static Room room_of(const OpCall *call, int strips)
{
    int64_t in = last_dim(call->shape[HIDDEN]), classes = call->shape[WEIGHT].dim[0];
    int64_t width = call->shape[WEIGHT].dim[1], rows = head_chunk_rows(call), list = list_rows(call);
    char *at = call->workspace;
    Room room = {.bias = floats_input(call, BIAS, 0, classes, &at),
                 .dense_bias = floats_input(call, DENSE_BIAS, 0, width, &at),
                 .norm = floats_input(call, NORM, 0, width, &at),
                 .norm_bias = floats_input(call, NORM_BIAS, 0, width, &at)};
    room.index = take(&at, aligned((uint64_t)list * sizeof(int64_t)));
    room.label = take(&at, aligned((uint64_t)list * sizeof(int32_t)));
    room.hidden = room.normed = take(&at, typed(call, rows * in));
    if (has_transform(call)) {
        room.pre = take(&at, typed(call, rows * width));
        room.active = take(&at, typed(call, rows * width));
        room.normed = take(&at, typed(call, rows * width));
        room.mean = take(&at, floats(rows));
        room.rstd = take(&at, floats(rows));
    }
    uint64_t logits = logits_room(call, rows, classes);
    if (strips) {
        logits = larger(logits, logits_room(call, list, strip_classes(call)));
        room.all_normed = take(&at, typed(call, list * width));
        room.all_slopes = take(&at, floats(list * width));
        for (int i = 0; i < INPUTS; i++)
            room.sum[i] = is_summed(call, i) ? take(&at, floats(call_numel(call, i))) : NULL;
    }
    room.logits = take(&at, logits);
    room.rest = at;
    CrossEntropyDims all = {
        .rows = head_rows(call), .classes = head_classes(call), .ignore_index = call->attr.loss.ignore_index};
    int64_t *count = on_card(call) ? take(&at, counts_room(call)) : &room.count;
    room.losses = on_card(call) ? (float *)(count + COUNT_WORDS) : NULL;
    room.rest = at;
    call->kernels->labelled_rows(&all, list, call->in[LABELS], room.index, room.label, count, call->run);
    if (on_card(call) && call->attr.loss.labelled)
        room.count = call->attr.loss.labelled - 1;
    else if (on_card(call))
        card_read_count(call->run, count, all.rows, &room.count);
    return room;
}

/* ---- Shape ----------------------------------------------------------------------------------- */

static int transform_check(const OpCall *call)
{
    Shape dense = call->shape[DENSE];
    if (!dense.ndim)
        return 0;
    if (check_weight(call, DENSE, 1, "dense") || check_activation(call, call->attr.loss.act))
        return error_code();
    if (dense.ndim != 2 || dense.dim[1] != last_dim(call->shape[HIDDEN]))
        return error_raise(ERROR_SHAPE, "%s: hidden %s needs a dense weight (n,%" PRId64 "), not %s",
                           call->row->name, shape_text(call->shape[HIDDEN]).text,
                           last_dim(call->shape[HIDDEN]), shape_text(dense).text);
    if (!call->shape[NORM].ndim)
        return error_raise(ERROR_ARGUMENT, "%s: dense needs norm, the weight of its layer norm",
                           call->row->name);
    if (call->shape[DENSE_BIAS].ndim && check_vector(call, DENSE_BIAS, dense.dim[0], "dense_bias"))
        return error_code();
    if (check_vector(call, NORM, dense.dim[0], "norm"))
        return error_code();
    return call->shape[NORM_BIAS].ndim ? check_vector(call, NORM_BIAS, dense.dim[0], "norm_bias") : 0;
}

static int head_shape(OpCall *call)
{
    if (head_check_types(call) || transform_check(call) ||
        head_check(call, has_transform(call) ? call->shape[DENSE].dim[0] : last_dim(call->shape[HIDDEN])))
        return error_code();
    OpPlan *plan = &call->plan;
    uint64_t arrays = arrays_room(call);
    plan->out = SHAPE(1);
    plan->extra_bytes[0] = sizeof(float) * (uint64_t)list_rows(call);
    plan->workspace = arrays + most_room(call, forward_room);
    if (call->attr.loss.all_classes) {
        CrossEntropyDims list = {.rows = list_rows(call)};
        plan->workspace = aligned(plan->workspace) + call->kernels->cross_entropy_workspace(&list, call->run);
    }
    /* As if all rows had labels. */
    double rows = 2.0 * (double)head_rows(call);
    double linear = rows * (double)call_numel(call, WEIGHT);
    double dense = has_transform(call) ? rows * (double)call_numel(call, DENSE) : 0;
    plan->flops = linear + dense;
    if (!call->needs)
        return 0;
    for (int i = 0; i < INPUTS; i++)
        plan->saves |= call->shape[i].ndim ? OP_INPUT(i) : 0;
    int below = needs_input(call, HIDDEN) + needs_input(call, DENSE);
    int inside = goes_below(call);
    plan->backward_flops = linear * (1 + inside + needs_input(call, WEIGHT)) + dense * (1 + below);
    plan->backward_workspace = arrays + most_room(call, backward_room);
    if (in_strips(call)) {
        uint64_t chunk = logits_room(call, head_chunk_rows(call), call->shape[WEIGHT].dim[0]);
        uint64_t strip = logits_room(call, list_rows(call), strip_classes(call));
        plan->backward_workspace = arrays - chunk + larger(chunk, strip) + strips_room(call) +
                                   larger(most_room(call, backward_room), most_strip_room(call));
    }
    return 0;
}

/* ---- Forward and backward -------------------------------------------------------------------- */

/* From hidden to what meets the head's weight, of one chunk. */
static void make_normed(const OpCall *call, const Chunk *c, const Room *room)
{
    const Kernels *k = call->kernels;
    DType type = call->dtype[HIDDEN];
    k->gather_rows(type, c->rows, last_dim(call->shape[HIDDEN]), room->index + c->done, call->in[HIDDEN],
                   room->hidden, call->run);
    if (has_transform(call)) {
        StoredArray dense = stored_input(call, DENSE);
        k->linear_forward(&c->dense, (Activation)call->attr.loss.act, room->hidden, &dense, room->dense_bias,
                          room->pre, room->active, room->rest, call->run);
        k->layer_norm_forward(type, c->rows, c->dense.out, call->attr.loss.eps, room->active, room->norm,
                              room->norm_bias, room->normed, room->mean, room->rstd, call->run);
    }
}

/* Of rows from `done` on. */
static HeadArrays arrays_of(const OpCall *call, const Room *room, int64_t done)
{
    return (HeadArrays){.x = room->normed,
                        .bias = room->bias,
                        .labels = room->label + done,
                        .lse = (float *)call->extra[0] + done,
                        .logits = room->logits,
                        .rest = room->rest};
}

static void head_forward(OpCall *call)
{
    Room room = room_of(call, 0);
    PartLosses parts = {.kept = room.losses};
    for (int64_t done = 0; done < room.count;) {
        Chunk c = chunk_of(call, done, room.count - done);
        HeadArrays a = arrays_of(call, &room, done);
        make_normed(call, &c, &room);
        head_part_forward(call, &c.head, &a, parts_next(&parts));
        done += c.rows;
    }
    parts_sum(call, &parts);
}

/* Where a chunk's gradient of input i goes: it adds to those of the chunks before. */
typedef struct Slot {
    void *at;
    DType type;
    float beta;
} Slot;

static Slot slot_of(const OpCall *call, const Chunk *c, const Room *room, int i)
{
    if (room->sum[i])
        return (Slot){room->sum[i], DTYPE_F32, c->done ? 1 : 0};
    return (Slot){call->din[i], call->grad_type[i], c->done ? 1 : call->beta[i]};
}

/* From the gradient of the normed rows, which lies in room->normed, to that of hidden's. */
static void transform_backward(const OpCall *call, const Chunk *c, const Room *room)
{
    const Kernels *k = call->kernels;
    StoredArray dense = stored_input(call, DENSE);
    Activation act = (Activation)call->attr.loss.act;
    DType type = call->dtype[HIDDEN];
    int64_t n = c->rows * c->dense.out;
    Slot norm = slot_of(call, c, room, NORM), bias = slot_of(call, c, room, NORM_BIAS);
    Slot w = slot_of(call, c, room, DENSE), b = slot_of(call, c, room, DENSE_BIAS);
    k->layer_norm_backward(type, c->rows, c->dense.out, room->active, room->norm, room->mean, room->rstd,
                           room->normed, 0, room->normed, norm.type, norm.beta, norm.at, bias.type, bias.beta,
                           bias.at, room->rest, call->run);
    if (act != ACT_NONE)
        k->activation_backward(type, act, n, room->pre, room->normed, 0, room->normed, call->run);
    if (w.at || b.at)
        k->linear_backward_weight(&c->dense, room->hidden, room->normed, w.type, w.beta, w.at, b.type, b.beta,
                                  b.at, room->rest, call->run);
    if (call->din[HIDDEN])
        k->linear_backward_input(&c->dense, room->normed, &dense, 0, room->hidden, room->rest, call->run);
}

static void chunk_backward(const OpCall *call, const Chunk *c, const Room *room)
{
    HeadArrays a = arrays_of(call, room, c->done);
    make_normed(call, c, room);
    head_part_backward(call, &c->head, &a, c->done > 0, 0, goes_below(call) ? room->normed : NULL);
    if (goes_below(call) && has_transform(call))
        transform_backward(call, c, room);
}

/* All rows through the strips. */
static void strips_backward(const OpCall *call, const Room *room)
{
    int64_t width = call->shape[WEIGHT].dim[1], rows = 0;
    DType type = call->dtype[HIDDEN];
    while (rows < room->count) {
        Chunk c = chunk_of(call, rows, room->count - rows);
        make_normed(call, &c, room);
        call->kernels->copy(type, type, c.rows * width, room->normed,
                            element_at(type, room->all_normed, rows * width), call->run);
        rows += c.rows;
    }
    HeadArrays a = arrays_of(call, room, 0);
    a.x = room->all_normed;
    head_strips_backward(call, type, rows, strip_classes(call), &a,
                         goes_below(call) ? room->all_slopes : NULL);
}

/* What is below the head's weight, of one chunk, whose normed rows' gradient the strips have summed. */
static void below_backward(const OpCall *call, const Chunk *c, const Room *room)
{
    int64_t width = c->dense.out;
    if (!goes_below(call))
        return;
    make_normed(call, c, room);
    call->kernels->copy(DTYPE_F32, call->dtype[HIDDEN], c->rows * width, room->all_slopes + c->done * width,
                        room->normed, call->run);
    if (has_transform(call))
        transform_backward(call, c, room);
}

/* Rounds, once, what was summed. */
static void sums_round(const OpCall *call, const Room *room)
{
    const Kernels *k = call->kernels;
    for (int i = 0; i < INPUTS; i++) {
        if (!room->sum[i])
            continue;
        int64_t n = call_numel(call, i);
        if (call->beta[i] == 0)
            k->copy(DTYPE_F32, call->grad_type[i], n, room->sum[i], call->din[i], call->run);
        else
            k->accumulate(DTYPE_F32, call->grad_type[i], n, room->sum[i], call->din[i], call->run);
    }
}

/* Of hidden's gradient only rows with a label are written: the others are 0, or stay what they are. Without
 * any label one chunk of no rows writes the gradients of the parameters. */
static void head_backward(OpCall *call)
{
    const Kernels *k = call->kernels;
    int strips = in_strips(call);
    Room room = room_of(call, strips);
    DType type = call->dtype[HIDDEN];
    void *dhidden = call->din[HIDDEN];
    if (dhidden && call->beta[HIDDEN] == 0)
        k->fill(type, call_numel(call, HIDDEN), 0, dhidden, call->run);
    if (strips)
        strips_backward(call, &room);
    int64_t done = 0;
    do {
        int64_t left = room.count - done;
        Chunk c = chunk_of(call, done, left);
        (strips ? below_backward : chunk_backward)(call, &c, &room);
        if (dhidden)
            k->scatter_rows(type, left < c.rows ? left : c.rows, last_dim(call->shape[HIDDEN]),
                            room.index + done, room.hidden, call->beta[HIDDEN], dhidden, call->run);
        done += c.rows;
    } while (done < room.count);
    sums_round(call, &room);
}

static const OpRow head_row = {
    .name = "labelled_cross_entropy",
    .shape = head_shape,
    .forward = head_forward,
    .backward = head_backward,
    .accumulates = OP_INPUT(HIDDEN) | OP_INPUT(WEIGHT) | OP_INPUT(BIAS) | OP_INPUT(DENSE) |
                   OP_INPUT(DENSE_BIAS) | OP_INPUT(NORM) | OP_INPUT(NORM_BIAS),
    .checked = LABELS,
    .checked_range = "labels must be in [0, classes), or the ignore index",
};

/* ---- Classes that ranks have a part of each ------------------------------------------------------ */

/* How many chunks there are is data, and what ranks send each other may not depend on it: they meet once, of
 * as many rows as there may be. What comes below the head's weight would have to be summed a chunk at a time,
 * so that none of it is in here. */
static int part_shape(OpCall *call)
{
    if (has_transform(call))
        return error_raise(ERROR_ARGUMENT,
                           "%s: ranks have a part of the head's classes each, and the transform before it is "
                           "not computed with them; compute it before",
                           call->row->name);
    return head_shape(call);
}

static void part_forward(OpCall *call)
{
    ClassParts parts;
    CrossEntropyDims list = {.rows = list_rows(call), .ignore_index = call->attr.loss.ignore_index};
    Room room = {.label = NULL};
    if (class_parts_begin(&parts, list.rows) != 0)
        return;
    if (parts.mine)
        room = room_of(call, 0);
    for (int64_t done = 0; done < room.count;) {
        Chunk c = chunk_of(call, done, room.count - done);
        HeadArrays a = arrays_of(call, &room, done);
        a.said = parts.mine + done * CROSS_ENTROPY_PART;
        make_normed(call, &c, &room);
        head_part_forward(call, &c.head, &a, NULL);
        done += c.rows;
    }
    char *workspace = call->workspace; /* the labels lie there: their rows' losses come behind */
    uint64_t behind = call->plan.workspace - call->kernels->cross_entropy_workspace(&list, call->run);
    call->workspace = workspace ? workspace + behind : NULL;
    class_parts_join(&parts, call, &list, room.label);
    call->workspace = workspace;
}

static void part_backward(OpCall *call)
{
    if (call->dout)
        head_backward(call);
}

static const OpRow part_row = {
    .name = "labelled_cross_entropy",
    .shape = part_shape,
    .forward = part_forward,
    .backward = part_backward,
    .accumulates = OP_INPUT(HIDDEN) | OP_INPUT(WEIGHT) | OP_INPUT(BIAS),
    .meets = 1,
    .checked = LABELS,
    .checked_range = "labels must be in [0, classes), or the ignore index",
};

Tensor *tensor_labelled_cross_entropy(Tensor *hidden, const LossHead *head, Tensor *labels, int ignore_index,
                                      float scale, int64_t rows)
{
    if (!hidden || !head || !head->weight || !labels)
        return NULL;
    OpAttr attr = {.loss = {.ignore_index = ignore_index,
                            .scale = scale,
                            .chunk_rows = rows,
                            .act = (int)head->act,
                            .eps = head->eps,
                            .softcap = head->softcap,
                            .labelled = ignore_index == BATCH_IGNORE ? labels->labelled : 0}};
    Tensor *const inputs[INPUTS] = {hidden,      head->weight,     head->bias, labels,
                                    head->dense, head->dense_bias, head->norm, head->norm_bias};
    if (head->weight->whole_rows)
        class_part_attr(&attr, tensor_rows_part_(head->weight));
    return tensor_apply(head->weight->whole_rows ? &part_row : &head_row, &attr, INPUTS, inputs);
}
