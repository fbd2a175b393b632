/* Storing values in tensors of any type. Values come from a source in float, piece by piece, and are encoded
 * through one buffer: a matrix of another type never exists in float. */
#include <inttypes.h>
#include <string.h>

#include "../base/quant_layout_.h"
#include "card_.h"
#include "ranks_.h"
#include "ops_.h"

enum {
    STORE_BYTES = 8 << 20,                           /* of the buffer, unless a row of int8 needs more */
    STORE_FLOATS = STORE_BYTES / (int)sizeof(float), /* whole blocks of NF4 */
    STORE_STRIP = 1024                               /* columns of a transposed source at a time */
};

typedef struct Store {
    Tensor *tensor;
    StoredArray array; /* that is written: the tensor, or this rank's part of it */
    int64_t count;     /* elements that it has */
    TensorSource source;
    void *user;
    Storage *buffer, *scales; /* floats to be encoded; NF4's scales until their mean is known */
    int64_t buffered;         /* the first element that is in the buffer */
    int64_t before;           /* elements of the tensor in front of the array */
    int stacked;              /* it is the first of so many, each quantised by itself; a rank may have none */
    int64_t matrices;
} Store;

StoredArray tensor_stored_(const Tensor *tensor)
{
    Shape shape = tensor->shape;
    int matrix = shape.ndim == 2, first = shape.ndim == 3 && dtype_is_quantized(tensor->dtype);
    return (StoredArray){.at = storage_data(tensor->storage),
                         .dtype = tensor->dtype,
                         .rows = matrix  ? shape.dim[0]
                                 : first ? shape.dim[1]
                                         : 1,
                         .cols = matrix  ? shape.dim[1]
                                 : first ? shape.dim[2]
                                         : shape_numel(shape)};
}

/* ---- The values ------------------------------------------------------------------------------ */

/* Elements of a matrix that the source has transposed: strips of its rows, turned. The first row of those
 * that are touched may be cut off, and the last. */
static int turned(const Store *s, int64_t first, int64_t count, float *values)
{
    float strip[STORE_STRIP];
    int64_t rows = s->tensor->shape.dim[0], cols = s->tensor->shape.dim[1], end = first + count;
    for (int64_t row = first / cols, n; row * cols < end; row += n) {
        n = (end - 1) / cols + 1 - row;
        n = n < STORE_STRIP ? n : STORE_STRIP;
        for (int64_t col = 0; col < cols; col++) {
            int64_t top = row + (row * cols + col < first);
            int64_t below = row + n - ((row + n - 1) * cols + col >= end);
            int failed = top < below ? s->source(s->user, col * rows + top, below - top, strip) : 0;
            if (failed)
                return failed;
            for (int64_t i = top; i < below; i++)
                values[i * cols + col - first] = strip[i - top];
        }
    }
    return 0;
}

static int values_of(const Store *s, int64_t first, int64_t count, float *values)
{
    return s->tensor->transposed ? turned(s, first, count, values) : s->source(s->user, first, count, values);
}

/* Elements [first, first + count) of the source into an fp32 storage, from its element `at` on: where the
 * host does not see it, through memory of the host's. */
static int values_into(const Store *s, int64_t first, int64_t count, const Storage *to, int64_t at)
{
    Context *context = s->tensor->item.context;
    if (!context->card)
        return values_of(s, first, count, storage_f32(to) + at);
    size_t bytes = (size_t)count * sizeof(float);
    float *values = host_alloc_for("tensor_store_", "values on their way to the card", bytes);
    if (!values)
        return error_code();
    int failed = values_of(s, first, count, values);
    if (!failed)
        storage_write(to, (uint64_t)at * sizeof(float), bytes, values);
    host_free(context, values, bytes);
    return failed;
}

/* All elements, or those of this rank's part: at once, or through little memory of the host's. */
static int all_values_into(const Store *s, const Storage *to)
{
    int64_t begin = 0, n = s->array.rows * s->array.cols;
    if (s->tensor->shard && to != s->tensor->storage) {
        TensorPart part = tensor_part_(s->tensor);
        begin = part.first;
        n = part.count;
    }
    int64_t piece = s->tensor->item.context->card ? STORE_FLOATS : n;
    int failed = 0;
    for (int64_t at = 0; at < n && !failed; at += piece)
        failed = values_into(s, begin + at, piece < n - at ? piece : n - at, to, at);
    return failed;
}

/* ---- Encoding -------------------------------------------------------------------------------- */

/* Elements that are encoded at a time: whole rows or blocks, where the type has them. */
static int64_t piece_of(const Store *s)
{
    int64_t n = s->array.rows * s->array.cols, rows = STORE_FLOATS / s->array.cols;
    int64_t piece = STORE_FLOATS;
    int turns = s->tensor->transposed && !shard_is_apart(s->tensor);
    if (s->array.dtype == DTYPE_INT8 || turns)
        piece = (rows > 0 ? rows : 1) * s->array.cols;
    if (dtype_is_quantized(s->array.dtype) && s->array.dtype != DTYPE_INT8 && turns)
        piece = (rows >= NF4_BLOCK ? rows / NF4_BLOCK : 1) * NF4_BLOCK * s->array.cols;
    return piece < n ? piece : n;
}

/* The scales that this rank finds; NULL on meta, and where the type has none of the kind. */
static float *own_scales(const Store *s)
{
    float *all = storage_f32(s->scales);
    return all && !s->stacked ? all + s->before / NF4_BLOCK : all;
}

/* Encodes count elements of the array from `first` on, the buffer's first being s->buffered. 0, or raises. */
static int encode_piece(const Store *s, int64_t first, int64_t count)
{
    Context *context = s->tensor->item.context;
    const StoredArray *a = &s->array;
    const char *name = tensor_name(s->tensor);
    float value;
    if (context->card)
        context->run.operation++;
    else
        context->fault = -1;
    context->kernels->encode(a->dtype, a->rows, a->cols, first, count, storage_f32(s->buffer),
                             (void *)(uintptr_t)a->at, own_scales(s), &context->run);
    int64_t at = context->card ? card_fault_(context) : context->fault;
    if (at < 0)
        return error_code();
    storage_read(s->buffer, (uint64_t)(at - s->buffered) * sizeof value, sizeof value, &value);
    return error_raise(ERROR_NONFINITE, "%s cannot hold %g, which is element %" PRId64 " of '%s'",
                       dtype_name(a->dtype), (double)value, s->before + at,
                       name[0] ? name : memtrack_path_name(context->tracker, s->tensor->path));
}

static int encode_pieces(Store *s, int64_t piece)
{
    for (int64_t first = 0; first < s->count; first += piece) {
        int64_t count = piece < s->count - first ? piece : s->count - first;
        int failed = values_into(s, s->before + first, count, s->buffer, 0);
        s->buffered = first;
        if (failed || encode_piece(s, first, count))
            return error_code();
    }
    return 0;
}

static int64_t blocks_of(int64_t n)
{
    return (n + NF4_BLOCK - 1) / NF4_BLOCK;
}

/* Scales of the array's elements, of all ranks' together where each has a part. */
static int64_t scales_of(const Store *s)
{
    const Tensor *t = s->tensor;
    int ranks = shard_is_apart(t) && !s->stacked ? t->item.context->ranks->count[RANKS_SHARD] : 1;
    return blocks_of(s->array.rows * s->array.cols) * ranks;
}

/* Scales are encoded by the mean of all, which ranks that have a part each tell each other. Who failed says
 * so first: nobody waits for it. */
static int store_scales(const Store *s, int failed)
{
    Context *context = s->tensor->item.context;
    int64_t n = s->array.rows * s->array.cols, all = s->stacked ? n : shape_numel(s->tensor->shape);
    if (shard_is_apart(s->tensor) && !s->stacked) {
        failed = ranks_agree_parts_(context);
        if (!failed)
            failed = collective_gather(context, shard_group(context), s->scales, 0,
                                       (uint64_t)blocks_of(n) * sizeof(float));
    }
    if (!failed && !context->meta)
        context->kernels->encode_scales(blocks_of(all), storage_f32(s->scales),
                                        s->stacked ? 0 : s->before / NF4_BLOCK, blocks_of(s->count), n,
                                        (void *)(uintptr_t)s->array.at, &context->run);
    return failed;
}

/* Matrices one after the other, in the same buffers. */
static int encode_matrices(Store *s, int64_t piece)
{
    Context *context = s->tensor->item.context;
    int failed = 0;
    s->count = s->array.rows * s->array.cols;
    for (int64_t i = 0; i < s->matrices && !failed && !context->meta; i++) {
        failed = encode_pieces(s, piece);
        if (!failed && s->array.dtype == DTYPE_NF4)
            failed = store_scales(s, 0);
        s->before += s->count;
        s->array.at = (const char *)s->array.at + quant_stride(s->array.dtype, s->array.rows, s->array.cols);
    }
    return failed;
}

/* Everything but fp32: with a buffer, which is planned. */
static int store_encoded(Store *s)
{
    Context *context = s->tensor->item.context;
    int64_t piece = piece_of(s);
    int failed = 0;
    if (s->array.dtype == DTYPE_NF4) {
        s->scales = storage_new(context, scales_of(s) * (int64_t)sizeof(float), MEM_TEMPORARY);
        failed = s->scales ? 0 : error_code();
    }
    if (!failed) {
        s->buffer = storage_new(context, piece * (int64_t)sizeof(float), MEM_TEMPORARY);
        failed = s->buffer ? 0 : error_code();
    }
    if (!failed && s->stacked)
        failed = encode_matrices(s, piece);
    else if (!failed && !context->meta)
        failed = encode_pieces(s, piece);
    if (s->array.dtype == DTYPE_NF4 && !s->stacked)
        failed = store_scales(s, failed);
    storage_release(context, s->buffer);
    storage_release(context, s->scales);
    return failed;
}

int tensor_values_into_(Tensor *tensor, TensorSource source, void *user, int64_t first, int64_t count,
                        const Storage *values)
{
    Store s = {.tensor = tensor, .array = tensor_stored_(tensor), .source = source, .user = user};
    return values_into(&s, first, count, values, 0);
}

int tensor_encode_into_(Tensor *tensor, const StoredArray *to, int64_t before, int64_t count,
                        const Storage *values)
{
    return encode_piece(
        &(Store){.tensor = tensor, .array = *to, .buffer = (Storage *)(uintptr_t)values, .before = before}, 0,
        count);
}

/* The master gets the values, and its copy what is left of them, rounded the same way whenever that is done.
 */
static int store_master(Tensor *tensor, TensorSource source, void *user)
{
    Context *context = tensor->item.context;
    Store store = {.tensor = tensor,
                   .array = tensor_stored_(tensor),
                   .count = shape_numel(tensor->shape),
                   .source = source,
                   .user = user,
                   .buffer = tensor->master};
    if (tensor->shard) { /* its part of the master, and all of the copy */
        if (!context->meta && all_values_into(&store, tensor->master) != 0)
            return error_code();
        store.buffer = NULL;
        return store_encoded(&store);
    }
    if (context->meta)
        return 0;
    int failed = all_values_into(&store, tensor->master);
    return failed ? failed : encode_piece(&store, 0, shape_numel(tensor->shape));
}

/* What is apart: fp32 directly, and 16 bit piece by piece through a planned buffer. What is quantised is an
 * array by itself. */
static int store_part(Tensor *tensor, TensorSource source, void *user)
{
    Context *context = tensor->item.context;
    TensorPart part = tensor_part_(tensor);
    Store store = {.tensor = tensor,
                   .array = {.dtype = part.type, .rows = 1, .cols = shape_numel(tensor->shape)},
                   .source = source,
                   .user = user};
    if (dtype_is_quantized(part.type)) {
        store.array = quantized_part_(tensor);
        store.before = part.first;
        store.count = part.count;
        store.stacked = tensor->shape.ndim == 3;
        store.matrices = store.stacked ? part.count / (store.array.rows * store.array.cols) : 0;
        return store_encoded(&store);
    }
    if (part.type == DTYPE_F32)
        return context->meta ? 0 : all_values_into(&store, part.weights);
    int64_t piece = part.each < STORE_FLOATS ? part.each : STORE_FLOATS;
    store.buffer = storage_new(context, piece * (int64_t)sizeof(float), MEM_TEMPORARY);
    int failed = store.buffer ? 0 : error_code();
    for (int64_t at = 0, n; at < part.count && !failed && !context->meta; at += n) {
        n = part.count - at < piece ? part.count - at : piece;
        failed = values_into(&store, part.first + at, n, store.buffer, 0);
        if (!failed)
            context->kernels->copy(DTYPE_F32, part.type, n, storage_data(store.buffer),
                                   (char *)storage_data(part.weights) + dtype_bytes(part.type, 1, at),
                                   &context->run);
    }
    storage_release(context, store.buffer);
    return failed;
}

void tensor_to_master_(const Tensor *tensor, int64_t first, int64_t count)
{
    Context *context = tensor->item.context;
    TensorPart part = tensor_part_(tensor);
    StoredArray from = tensor_stored_(tensor);
    int64_t end = first + count < part.first + part.count ? first + count : part.first + part.count;
    first = first > part.first ? first : part.first;
    if (from.at && first < end)
        context->kernels->decode(&from, first, end - first, storage_f32(tensor->master) + first - part.first,
                                 &context->run);
}

int tensor_store_meets_(const Tensor *tensor)
{
    return tensor->dtype == DTYPE_NF4 && tensor->shape.ndim == 2 && shard_is_apart(tensor) &&
           !tensor->item.context->meta;
}

int tensor_store_(Tensor *tensor, TensorSource source, void *user)
{
    if (!tensor || tensor->absent)
        return error_code();
    Context *context = tensor->item.context;
    if (error_code())
        return tensor_store_meets_(tensor) ? ranks_agree_parts_(context) : error_code();
    if (tensor->dtype == DTYPE_I32)
        return error_raise(ERROR_ARGUMENT, "tensor_store_(): the tensor holds i32, and values are floats");
    if (!shard_is_apart(tensor) && !tensor_readable(tensor, "tensor_store_"))
        return error_code();
    Store store = {.tensor = tensor,
                   .array = tensor_stored_(tensor),
                   .count = shape_numel(tensor->shape),
                   .source = source,
                   .user = user};
    store.stacked = tensor->shape.ndim == 3 && dtype_is_quantized(tensor->dtype);
    store.matrices = store.stacked ? tensor_matrices_(tensor) : 0;
    int apart = shard_is_apart(tensor);
    if (apart && dtype_is_float(tensor->dtype))
        return store_part(tensor, source, user);
    if (tensor->dtype == DTYPE_F32 && !tensor->transposed)
        return context->meta ? 0 : all_values_into(&store, tensor->storage);
    if (tensor->master)
        return store_master(tensor, source, user);
    const char *op = memtrack_op_set(context->tracker, "store");
    int path = memtrack_path_set(context->tracker, tensor->path);
    int failed = apart                         ? store_part(tensor, source, user)
                 : tensor_needs_whole_(tensor) ? tensor_store_cut_(tensor, source, user)
                                               : store_encoded(&store);
    memtrack_path_set(context->tracker, path);
    memtrack_op_set(context->tracker, op);
    return failed;
}

int tensor_is_own_(const Tensor *tensor, const float *values)
{
    TensorPart part = tensor_part_(tensor);
    const float *own = storage_f32(part.type == DTYPE_F32 ? part.weights : part.master);
    return tensor->dtype == DTYPE_F32 || (own && values >= own && values < own + part.each);
}

static void decode_array(const Tensor *tensor, const StoredArray *from, int transposed, int64_t first,
                         int64_t count, float *values)
{
    Context *context = tensor->item.context;
    const Kernels *k = context->kernels;
    if (context->card && from->at)
        card_decode_(context, from, transposed, first, count, values);
    else if (!context->meta && from->at)
        (transposed ? k->decode_transposed : k->decode)(from, first, count, values, &context->run);
}

/* Of matrices one after the other. */
static void decode_matrices(const Tensor *tensor, StoredArray from, int64_t first, int64_t count,
                            float *values)
{
    int64_t each = from.rows * from.cols;
    const char *at = from.at;
    for (int64_t done = 0, n; done < count && at; done += n) {
        int64_t matrix = (first + done) / each, inside = (first + done) % each;
        n = each - inside < count - done ? each - inside : count - done;
        from.at = at + (uint64_t)matrix * quant_stride(from.dtype, from.rows, from.cols);
        decode_array(tensor, &from, 0, inside, n, values + done);
    }
}

static void decode(const Tensor *tensor, int transposed, int64_t first, int64_t count, float *values)
{
    StoredArray from = tensor_stored_(tensor);
    TensorPart part = tensor_part_(tensor);
    if (shard_is_apart(tensor) && !tensor->storage) { /* elements of this rank's part */
        from = dtype_is_quantized(part.type)
                   ? quantized_part_(tensor)
                   : (StoredArray){storage_data(part.weights), part.type, 1, part.each};
        first -= part.first;
    } else if (tensor->master && part.count == from.rows * from.cols) /* else it is not all here */
        from = (StoredArray){storage_data(tensor->master), DTYPE_F32, from.rows, from.cols};
    if (tensor->shape.ndim == 3 && dtype_is_quantized(from.dtype))
        decode_matrices(tensor, from, first, count, values);
    else
        decode_array(tensor, &from, transposed, first, count, values);
}

void tensor_decode_(const Tensor *tensor, int64_t first, int64_t count, float *values)
{
    decode(tensor, 0, first, count, values);
}

void tensor_decode_file_(const Tensor *tensor, int64_t first, int64_t count, float *values)
{
    decode(tensor, tensor->transposed, first, count, values);
}

/* ---- Another type ---------------------------------------------------------------------------- */

static int read_old(void *user, int64_t first, int64_t count, float *values)
{
    tensor_decode_(user, first, count, values);
    return 0;
}

/* Quantised weights are (out,in); those that are not are as files have them. */
static int turns(const Tensor *tensor, DType dtype)
{
    return dtype_is_quantized(dtype) ? tensor->in_out : tensor->transposed;
}

/* All that the header has of storage goes. */
static void release_all(Tensor *header)
{
    Context *context = header->item.context;
    storage_release(context, header->storage);
    storage_release(context, header->master);
    shard_free(header);
}

/* The header becomes one of this type, with storage, or its part of it. 0, or raises. */
static int place_anew(Tensor *tensor, DType dtype, int turn, MemComponent component)
{
    Context *context = tensor->item.context;
    Shape shape = tensor->shape;
    tensor->storage = tensor->master = NULL;
    tensor->shard = NULL;
    tensor->component = dtype == DTYPE_F32 ? component : MEM_FROZEN;
    tensor->dtype = tensor->grad_type = dtype;
    tensor->twice = 0; /* of what it was */
    tensor->requires_grad = dtype == DTYPE_F32 && tensor->requires_grad;
    tensor->shape = turn ? SHAPE(shape.dim[1], shape.dim[0]) : shape;
    tensor->transposed = (unsigned char)turn; /* the source gives the old order */
    int path = memtrack_path_set(context->tracker, tensor->path);
    int failed = parameter_place_(tensor, tensor->component);
    memtrack_path_set(context->tracker, path);
    return failed;
}

int tensor_replace_(Tensor *tensor, DType dtype, TensorSource source, void *user, Tensor *old)
{
    if (error_code() || (!shard_is_apart(tensor) && !tensor_readable(tensor, "tensor_replace_")))
        return error_code();
    if (shard_is_apart(tensor) && tensor->shard->type != tensor->dtype)
        return error_raise(
            ERROR_STATE,
            "the parameter '%s' is divided among ranks and kept in fp32 beside its %s; what is to "
            "be quantised is made so (nn_set_weights)",
            tensor_name(tensor), dtype_name(tensor->dtype));
    if (shard_gather(tensor) != 0) /* the source may want elements that other ranks have */
        return error_code();
    *old = *tensor;
    int turn = turns(tensor, dtype);
    int failed = place_anew(tensor, dtype, turn, old->component);
    if (!failed)
        failed = tensor_store_(tensor, source, user);
    tensor->in_out = turn ? !old->in_out : old->in_out;
    tensor->transposed = turn ? !old->transposed : old->transposed;
    if (failed) {
        release_all(tensor);
        *tensor = *old;
        shard_release(tensor);
        return failed;
    }
    release_all(old);
    if (!tensor->requires_grad) {
        storage_release(tensor->item.context, tensor->grad);
        gradient_set(tensor, NULL);
    }
    return 0;
}

int tensor_convert_(Tensor *tensor, DType dtype)
{
    Tensor old;
    if (tensor->absent)
        return error_code(); /* its stage does */
    return tensor->dtype == dtype ? error_code() : tensor_replace_(tensor, dtype, read_old, &old, &old);
}
