/* Quantising a matrix of which ranks that compute a layer together have a part each, so that each has the
 * values that the whole has. A row of int8 has one scale, also where a rank has some of its columns; and the
 * scales of NF4 are quantised by the mean and the groups of all of them. So every rank has the whole matrix
 * pass by, a piece at a time, and keeps what is its own. Nobody waits for anybody. */
#include <string.h>

#include "../base/quant_codes_.h"
#include "../kernels/kernels.h"
#include "ops_.h"
#include "ranks_.h"

enum { PIECE_FLOATS = 2 << 20, ROOM = 8192 };

typedef struct Cut {
    Tensor *tensor; /* whose header is the whole's meanwhile */
    Tensor part;    /* as it was: what this rank has */
    TensorSource source;
    void *user;
    int64_t rows, cols, piece; /* of the whole; rows at a time */
    Storage *buffer, *codes;   /* floats of a piece, and what they are encoded to */
    float *scales;             /* of all blocks of NF4, in the host's memory; NULL for int8 */
    int64_t blocks;
} Cut;

static int is_int8(const Tensor *tensor)
{
    return tensor->dtype == DTYPE_INT8;
}

/* As this rank stores it, it has columns. */
static int has_columns(const Tensor *tensor)
{
    return tensor->split == (tensor->transposed ? 1 : 2);
}

int tensor_needs_whole_(const Tensor *tensor)
{
    return tensor->piece &&
           ((is_int8(tensor) && has_columns(tensor)) || tensor->dtype == DTYPE_NF4 || tensor->twice);
}

/* So many rows from one on, as they are encoded: blocks do not end with rows. */
static StoredArray coded(const Cut *c, int64_t rows)
{
    int int8 = is_int8(&c->part);
    return (StoredArray){storage_data(c->codes), int8 ? DTYPE_INT8 : DTYPE_NF4_PLAIN, int8 ? rows : 1,
                         int8 ? c->cols : rows * c->cols};
}

static QuantLayout layout_of(const StoredArray *a)
{
    return quant_layout(a->dtype, a->rows, a->cols);
}

static uint64_t bytes_of(const Cut *c, int64_t elements)
{
    return (uint64_t)(is_int8(&c->part) ? elements : elements / 2);
}

static void copy_bytes(const Storage *from, uint64_t at, const Storage *to, uint64_t there, uint64_t bytes)
{
    unsigned char room[ROOM];
    for (uint64_t done = 0, n; done < bytes; done += n) {
        n = bytes - done < ROOM ? bytes - done : ROOM;
        storage_read(from, at + done, n, room);
        storage_write(to, there + done, n, room);
    }
}

/* Of elements [first, first + count) of the whole, whose codes begin c->codes, those that this rank has. */
static void keep_codes(const Cut *c, int64_t first, int64_t count)
{
    const struct ContextRanks *ranks = c->part.item.context->ranks;
    int64_t piece = tensor_stored_piece_(&c->part), of_all = piece * ranks->count[RANKS_TENSOR];
    for (int64_t turn = first / of_all; turn * of_all < first + count; turn++) {
        int64_t begin = turn * of_all + ranks->place[RANKS_TENSOR] * piece, end = begin + piece;
        int64_t from = begin > first ? begin : first, to = end < first + count ? end : first + count;
        if (from < to)
            copy_bytes(c->codes, bytes_of(c, from - first), c->part.storage,
                       bytes_of(c, turn * piece + from - begin), bytes_of(c, to - from));
    }
}

/* Rows [row, row + rows) of the whole. */
static int pass(const Cut *c, int64_t row, int64_t rows)
{
    int64_t first = row * c->cols, count = rows * c->cols;
    StoredArray to = coded(c, rows);
    QuantLayout layout = layout_of(&to);
    int failed = tensor_values_into_(c->tensor, c->source, c->user, first, count, c->buffer);
    if (!failed)
        failed = tensor_encode_into_(c->tensor, &to, first, count, c->buffer);
    if (failed)
        return failed;
    keep_codes(c, first, count);
    if (c->scales) {
        storage_read(c->codes, layout.scales, (uint64_t)layout.blocks * sizeof(float),
                     c->scales + first / NF4_BLOCK);
        return 0;
    }
    StoredArray here = tensor_stored_(&c->part);
    copy_bytes(c->codes, layout.scales, c->part.storage,
               layout_of(&here).scales + (uint64_t)row * sizeof(float), (uint64_t)rows * sizeof(float));
    return 0;
}

/* This rank's scales, from those of the whole as NF4 has them at `whole`. */
static int keep_scales(const Cut *c, const unsigned char *whole)
{
    StoredArray all = {whole, DTYPE_NF4, 1, c->blocks * NF4_BLOCK}, here = tensor_stored_(&c->part);
    QuantLayout from = layout_of(&all), to = layout_of(&here);
    int plain = here.dtype == DTYPE_NF4_PLAIN;
    uint64_t begin = plain ? to.scales : to.group_scales;
    unsigned char *mine = host_alloc((size_t)(to.bytes - begin));
    float *floats = (float *)(void *)mine; /* scales, or those of groups */
    if (!mine)
        return error_code();
    for (int64_t b = 0; b < to.blocks; b++) {
        int64_t block = tensor_stored_place_(&c->part, b * NF4_BLOCK, &(int64_t){1}) / NF4_BLOCK;
        if (plain)
            floats[b] = quant_block_scale(DTYPE_NF4, &from, whole, block);
        else
            mine[to.scales - begin + (uint64_t)b] = whole[from.scales + (uint64_t)block];
        if (!plain && b % NF4_GROUP == 0)
            floats[b / NF4_GROUP] =
                ((const float *)(const void *)(whole + from.group_scales))[block / NF4_GROUP];
    }
    if (!plain)
        memcpy(mine + (to.offset - begin), whole + from.offset, sizeof *floats);
    storage_write(c->part.storage, begin, to.bytes - begin, mine);
    host_free(c->part.item.context, mine, (size_t)(to.bytes - begin));
    return 0;
}

/* Encoded as those of a whole matrix, whose codes are room that nobody touches. */
static int encode_scales(const Cut *c)
{
    Context *context = c->part.item.context;
    size_t bytes = (size_t)quant_layout(DTYPE_NF4, 1, c->blocks * NF4_BLOCK).bytes;
    if (context->meta)
        return 0; /* noted with the scales */
    unsigned char *whole = host_alloc(bytes);
    if (!whole)
        return error_code();
    context->host_kernels->encode_scales(c->blocks, c->scales, 0, c->blocks, c->blocks * NF4_BLOCK, whole,
                                         &context->host_run);
    int failed = keep_scales(c, whole);
    host_free(context, whole, bytes);
    return failed;
}

/* Rows of which all blocks but the matrix's last are whole. */
static int64_t rows_at_a_time(const Cut *c)
{
    int64_t unit = 1, rows = PIECE_FLOATS / c->cols;
    while (!is_int8(&c->part) && unit * c->cols % NF4_BLOCK)
        unit *= 2;
    rows = rows > unit ? rows / unit * unit : unit;
    return rows < c->rows ? rows : c->rows;
}

static int pass_all(Cut *c)
{
    Context *context = c->part.item.context;
    size_t bytes = (size_t)c->blocks * sizeof *c->scales;
    StoredArray most = coded(c, c->piece);
    int failed = 0;
    c->buffer = storage_new(context, c->piece * c->cols * (int64_t)sizeof(float), MEM_TEMPORARY);
    c->codes = c->buffer ? storage_new(context, (int64_t)layout_of(&most).bytes, MEM_TEMPORARY) : NULL;
    if (!c->codes)
        return error_code();
    if (c->blocks && context->meta)
        host_passing(bytes + (size_t)quant_layout(DTYPE_NF4, 1, c->blocks * NF4_BLOCK).bytes);
    else if (c->blocks && !(c->scales = host_alloc(bytes)))
        return error_code();
    for (int64_t row = 0; row < c->rows && !failed && !context->meta; row += c->piece)
        failed = pass(c, row, c->piece < c->rows - row ? c->piece : c->rows - row);
    if (!failed && c->blocks)
        failed = encode_scales(c);
    if (c->scales)
        host_free(context, c->scales, bytes);
    return failed;
}

int tensor_store_cut_(Tensor *tensor, TensorSource source, void *user)
{
    Cut c = {.tensor = tensor, .part = *tensor, .source = source, .user = user};
    Shape whole = tensor_whole_shape_(tensor);
    c.rows = whole.dim[tensor->transposed];
    c.cols = whole.dim[!tensor->transposed];
    c.piece = rows_at_a_time(&c);
    c.blocks = is_int8(tensor) ? 0 : (c.rows * c.cols + NF4_BLOCK - 1) / NF4_BLOCK;
    tensor->shape = SHAPE(c.rows, c.cols); /* the source is asked for elements of the whole */
    tensor->piece = 0;
    int failed = pass_all(&c);
    tensor->shape = c.part.shape;
    tensor->piece = c.part.piece;
    storage_release(tensor->item.context, c.codes);
    storage_release(tensor->item.context, c.buffer);
    return failed;
}
