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

#include "../base/plural_.h"
#include "ops_.h"

enum { HIDDEN, WEIGHT, LABELS, BIAS, DENSE, DENSE_BIAS, NORM, NORM_BIAS, INPUTS };
_Static_assert(INPUTS <= OP_MAX_INPUTS, "room for a head");
/* The last chunk has as many rows as are left, rounded up to a whole part of a chunk: workspace is then
 * sized for a few numbers of rows, and not for each that data may have. */
enum { CHUNK_PARTS = 8 };

/* Sizes of a chunk of so many rows. */
typedef struct Chunk {
    int64_t rows, done; /* done: in chunks before this one */
    LinearDims dense, linear;
    CrossEntropyDims loss;
} Chunk;

/* Some classes of all rows with a label, from `first` on. */
typedef struct Strip {
    int64_t first;
    LinearDims linear, summed; /* summed: with the gradient of the normed rows in f32 */
    CrossEntropyDims loss;
} Strip;

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
    float *losses;   /* of the chunks, on a card */
} Room;

static int has_transform(const OpCall *call)
{
    return call->shape[DENSE].ndim != 0;
}

static int64_t all_rows(const OpCall *call)
{
    return leading(call->shape[HIDDEN]);
}

static int64_t chunk_rows(const OpCall *call)
{
    int64_t rows = all_rows(call);
    return call->attr.loss.chunk_rows < rows ? call->attr.loss.chunk_rows : rows;
}

/* A gradient of anything below the head's weight is asked for. */
static int goes_below(const OpCall *call)
{
    return (call->needs & ~(OP_INPUT(WEIGHT) | OP_INPUT(BIAS))) != 0;
}

/* Rows that the last chunk is a multiple of. */
static int64_t part_rows(const OpCall *call)
{
    int64_t part = chunk_rows(call) / CHUNK_PARTS;
    return part ? part : 1;
}

/* The next chunk, where `left` rows are left. */
static Chunk chunk_of(const OpCall *call, int64_t done, int64_t left)
{
    int64_t most = chunk_rows(call), part = part_rows(call);
    int64_t rows = (left + part - 1) / part * part;
    rows = rows < most ? rows : most;
    int64_t in = last_dim(call->shape[HIDDEN]), classes = call->shape[WEIGHT].dim[0];
    int64_t width = call->shape[WEIGHT].dim[1];
    DType type = call->dtype[HIDDEN];
    return (Chunk){
        .rows = rows,
        .done = done,
        .dense = {.rows = rows, .in = in, .out = width, .x = type, .y = type},
        .linear = {.rows = rows, .in = width, .out = classes, .x = type, .y = type},
        .loss = {.rows = rows, .classes = classes, .ignore_index = call->attr.loss.ignore_index},
    };
}

/* ---- Workspace ------------------------------------------------------------------------------- */

/* Of the list of rows: chunks may read beyond the last row, up to a whole part. */
static int64_t list_rows(const OpCall *call)
{
    return all_rows(call) + part_rows(call);
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
    int64_t width = call->shape[WEIGHT].dim[1], rows = chunk_rows(call), list = list_rows(call);
    uint64_t bytes = floats_room(call, BIAS, classes) + floats_room(call, DENSE_BIAS, width) +
                     floats_room(call, NORM, width) + floats_room(call, NORM_BIAS, width);
    bytes += aligned((uint64_t)list * sizeof(int64_t)) + aligned((uint64_t)list * sizeof(int32_t));
    bytes += counts_room(call);
    bytes += typed(call, rows * in) + typed(call, rows * classes);
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
    uint64_t bytes = larger(product_room(call, &c->linear, WEIGHT, LINEAR_FORWARD),
                            call->kernels->cross_entropy_workspace(&c->loss, call->run));
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
    uint64_t bytes = larger(forward_room(call, c), linear_rooms(call, &c->linear, WEIGHT));
    if (!has_transform(call))
        return bytes;
    bytes = larger(bytes, linear_rooms(call, &c->dense, DENSE));
    return larger(bytes, call->kernels->norm_workspace(c->rows, c->linear.in, call->run));
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
    return any && chunk_rows(call) < all_rows(call);
}

/* What lies below the weight is small, and has a sum of its own. */
static int is_summed(const OpCall *call, int i)
{
    return i >= DENSE && rounds(call, i);
}

/* As many classes as have no more logits, of all rows, than a chunk has of all classes; at least one. */
static int64_t strip_classes(const OpCall *call)
{
    int64_t most = chunk_rows(call) * call->shape[WEIGHT].dim[0] / list_rows(call);
    return most > 0 ? most : 1;
}

static Strip strip_at(const OpCall *call, int64_t rows, int64_t first)
{
    int64_t classes = call->shape[WEIGHT].dim[0], width = call->shape[WEIGHT].dim[1];
    int64_t most = strip_classes(call), here = classes - first < most ? classes - first : most;
    DType type = call->dtype[HIDDEN];
    return (Strip){
        .first = first,
        .linear = {.rows = rows, .in = width, .out = here, .x = type, .y = type},
        .summed = {.rows = rows, .in = width, .out = here, .y = type},
        .loss = {.rows = rows,
                 .classes = here,
                 .ignore_index = call->attr.loss.ignore_index,
                 .first_class = first,
                 .all_classes = classes},
    };
}

static uint64_t strip_room(const OpCall *call, int64_t rows, int64_t first)
{
    Strip s = strip_at(call, rows, first);
    uint64_t forward = product_room(call, &s.linear, WEIGHT, LINEAR_FORWARD);
    uint64_t weight = product_room(call, &s.linear, WEIGHT, LINEAR_BACKWARD_WEIGHT);
    return larger(forward, larger(weight, product_room(call, &s.summed, WEIGHT, LINEAR_BACKWARD_INPUT)));
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
    int64_t classes = call->shape[WEIGHT].dim[0], most = strip_classes(call);
    uint64_t bytes = 0;
    for (int64_t rows = 0; rows <= list_rows(call); rows += part_rows(call))
        bytes = larger(
            bytes, larger(strip_room(call, rows, 0), strip_room(call, rows, (classes - 1) / most * most)));
    return bytes;
}

/* The most of any number of rows that a chunk may have. */
static uint64_t most_room(const OpCall *call, uint64_t (*room)(const OpCall *call, const Chunk *c))
{
    uint64_t most = 0;
    for (int64_t rows = chunk_rows(call); rows > 0; rows -= part_rows(call)) {
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
    int64_t width = call->shape[WEIGHT].dim[1], rows = chunk_rows(call), list = list_rows(call);
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
    uint64_t logits = typed(call, rows * classes);
    if (strips) {
        logits = larger(logits, typed(call, list * strip_classes(call)));
        room.all_normed = take(&at, typed(call, list * width));
        room.all_slopes = take(&at, floats(list * width));
        for (int i = 0; i < INPUTS; i++)
            room.sum[i] = is_summed(call, i) ? take(&at, floats(call_numel(call, i))) : NULL;
    }
    room.logits = take(&at, logits);
    room.rest = at;
    CrossEntropyDims all = {
        .rows = all_rows(call), .classes = classes, .ignore_index = call->attr.loss.ignore_index};
    int64_t *count = on_card(call) ? take(&at, counts_room(call)) : &room.count;
    room.losses = on_card(call) ? (float *)(count + COUNT_WORDS) : NULL;
    room.rest = at;
    call->kernels->labelled_rows(&all, list, call->in[LABELS], room.index, room.label, count, call->run);
    if (on_card(call))
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

static int head_check(const OpCall *call)
{
    if (check_float(call, HIDDEN, "hidden") || check_weight(call, WEIGHT, 1, "weight") ||
        check_dtype(call, LABELS, DTYPE_I32, "labels") || transform_check(call))
        return error_code();
    Shape hidden = call->shape[HIDDEN], weight = call->shape[WEIGHT];
    int64_t width = has_transform(call) ? call->shape[DENSE].dim[0] : last_dim(hidden);
    if (weight.ndim != 2 || weight.dim[1] != width)
        return error_raise(ERROR_SHAPE, "%s: hidden %s needs a weight (classes,%" PRId64 "), not %s",
                           call->row->name, shape_text(hidden).text, width, shape_text(weight).text);
    if (call->shape[BIAS].ndim && check_vector(call, BIAS, weight.dim[0], "bias"))
        return error_code();
    if (call_numel(call, LABELS) != leading(hidden))
        return error_raise(ERROR_SHAPE, "%s: hidden %s needs %" PRId64 " label%s, not %s", call->row->name,
                           shape_text(hidden).text, leading(hidden), plural(leading(hidden)),
                           shape_text(call->shape[LABELS]).text);
    if (call->attr.loss.chunk_rows < 1)
        return error_raise(ERROR_ARGUMENT, "%s: chunks of %" PRId64 " rows; at least 1 is needed",
                           call->row->name, call->attr.loss.chunk_rows);
    return 0;
}

static int head_shape(OpCall *call)
{
    if (head_check(call))
        return error_code();
    OpPlan *plan = &call->plan;
    uint64_t arrays = arrays_room(call);
    plan->out = SHAPE(1);
    plan->extra_bytes[0] = sizeof(float) * (uint64_t)list_rows(call);
    plan->workspace = arrays + most_room(call, forward_room);
    /* As if all rows had labels. */
    double rows = 2.0 * (double)all_rows(call);
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
        uint64_t chunk = typed(call, chunk_rows(call) * call->shape[WEIGHT].dim[0]);
        uint64_t strip = typed(call, list_rows(call) * strip_classes(call));
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

static void make_logits(const OpCall *call, const Chunk *c, const Room *room)
{
    StoredArray weight = stored_input(call, WEIGHT);
    make_normed(call, c, room);
    call->kernels->linear_forward(&c->linear, ACT_NONE, room->normed, &weight, room->bias, NULL, room->logits,
                                  room->rest, call->run);
}

static void head_forward(OpCall *call)
{
    Room room = room_of(call, 0);
    PartLosses parts = {.kept = room.losses};
    for (int64_t done = 0; done < room.count;) {
        Chunk c = chunk_of(call, done, room.count - done);
        make_logits(call, &c, &room);
        call->kernels->cross_entropy_forward(&c.loss, call->dtype[HIDDEN], room.logits, room.label + done,
                                             call->attr.loss.scale, parts_next(&parts),
                                             (float *)call->extra[0] + done, room.rest, call->run);
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

/* Gradients of a linear layer's weight, input `weight`, and of its bias, from x and dy. */
static void weight_backward(const OpCall *call, const Chunk *c, const Room *room, const LinearDims *d,
                            int weight, const void *x, const void *dy)
{
    Slot w = slot_of(call, c, room, weight), b = slot_of(call, c, room, weight == WEIGHT ? BIAS : DENSE_BIAS);
    if (w.at || b.at)
        call->kernels->linear_backward_weight(d, x, dy, w.type, w.beta, w.at, b.type, b.beta, b.at,
                                              room->rest, call->run);
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
    k->layer_norm_backward(type, c->rows, c->dense.out, room->active, room->norm, room->mean, room->rstd,
                           room->normed, 0, room->normed, norm.type, norm.beta, norm.at, bias.type, bias.beta,
                           bias.at, room->rest, call->run);
    if (act != ACT_NONE)
        k->activation_backward(type, act, n, room->pre, room->normed, 0, room->normed, call->run);
    weight_backward(call, c, room, &c->dense, DENSE, room->hidden, room->normed);
    if (call->din[HIDDEN])
        k->linear_backward_input(&c->dense, room->normed, &dense, 0, room->hidden, room->rest, call->run);
}

static void chunk_backward(const OpCall *call, const Chunk *c, const Room *room)
{
    const Kernels *k = call->kernels;
    StoredArray weight = stored_input(call, WEIGHT);
    make_logits(call, c, room);
    k->cross_entropy_backward(&c->loss, call->dtype[HIDDEN], room->logits, room->label + c->done,
                              call->attr.loss.scale, (const float *)call->extra[0] + c->done, call->dout, 0,
                              room->logits, call->run);
    weight_backward(call, c, room, &c->linear, WEIGHT, room->normed, room->logits);
    if (!goes_below(call))
        return;
    k->linear_backward_input(&c->linear, room->logits, &weight, 0, room->normed, room->rest, call->run);
    if (has_transform(call))
        transform_backward(call, c, room);
}

/* A strip's part of the gradients of the head's weight and bias, which is all that they get, and of the
 * normed rows'. */
static void strip_backward(const OpCall *call, const Strip *s, const Room *room)
{
    const Kernels *k = call->kernels;
    int64_t width = s->linear.in;
    StoredArray all = stored_input(call, WEIGHT);
    StoredArray weight = {element_at(all.dtype, all.at, s->first * width), all.dtype, s->linear.out, width};
    DType dw = call->grad_type[WEIGHT], db = call->grad_type[BIAS];
    k->linear_forward(&s->linear, ACT_NONE, room->all_normed, &weight,
                      room->bias ? room->bias + s->first : NULL, NULL, room->logits, room->rest, call->run);
    k->cross_entropy_backward(&s->loss, call->dtype[HIDDEN], room->logits, room->label, call->attr.loss.scale,
                              call->extra[0], call->dout, 0, room->logits, call->run);
    if (call->din[WEIGHT] || call->din[BIAS])
        k->linear_backward_weight(
            &s->linear, room->all_normed, room->logits, dw, call->beta[WEIGHT],
            call->din[WEIGHT] ? element_at(dw, call->din[WEIGHT], s->first * width) : NULL, db,
            call->beta[BIAS], call->din[BIAS] ? element_at(db, call->din[BIAS], s->first) : NULL, room->rest,
            call->run);
    if (goes_below(call))
        k->linear_backward_input(&s->summed, room->logits, &weight, s->first ? 1 : 0, room->all_slopes,
                                 room->rest, call->run);
}

/* All rows through the strips. */
static void strips_backward(const OpCall *call, const Room *room)
{
    int64_t classes = call->shape[WEIGHT].dim[0], width = call->shape[WEIGHT].dim[1], rows = 0;
    DType type = call->dtype[HIDDEN];
    while (rows < room->count) {
        Chunk c = chunk_of(call, rows, room->count - rows);
        make_normed(call, &c, room);
        call->kernels->copy(type, type, c.rows * width, room->normed,
                            element_at(type, room->all_normed, rows * width), call->run);
        rows += c.rows;
    }
    for (int64_t first = 0; first < classes; first += strip_classes(call)) {
        Strip s = strip_at(call, rows, first);
        strip_backward(call, &s, room);
    }
}

/* What is below the head's weight, of one chunk, whose normed rows' gradient the strips have summed. */
static void below_backward(const OpCall *call, const Chunk *c, const Room *room)
{
    int64_t width = c->linear.in;
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

Tensor *tensor_labelled_cross_entropy(Tensor *hidden, const LossHead *head, Tensor *labels, int ignore_index,
                                      float scale, int64_t rows)
{
    if (!hidden || !head || !head->weight || !labels)
        return NULL;
    OpAttr attr = {.loss = {.ignore_index = ignore_index,
                            .scale = scale,
                            .chunk_rows = rows,
                            .act = (int)head->act,
                            .eps = head->eps}};
    Tensor *const inputs[INPUTS] = {hidden,      head->weight,     labels,     head->bias,
                                    head->dense, head->dense_bias, head->norm, head->norm_bias};
    return tensor_apply(&head_row, &attr, INPUTS, inputs);
}
