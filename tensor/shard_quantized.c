/* Quantised weights that are divided among ranks. A rank's part is an array by itself, as
 * base/quant_layout_.h lays it out. Of the whole matrix it is one range of each region: of the codes, of
 * their scales, and of what those are scaled by. Regions are gathered one after the other, each where the
 * matrix has it. Parts are padded to one size; what of that lies behind the matrix's codes is where its
 * scales go next. */

#include "../base/quant_layout_.h"
#include "ops_.h"
#include "ranks_.h"

/* One range of it is this rank's. All bytes are multiples of four. */
typedef struct Region {
    uint64_t whole, part; /* where it begins, in the matrix and in this rank's part */
    uint64_t bytes;       /* of each rank's range */
} Region;

/* Of several matrices each is quantised by itself, and a rank has some of them: one range, of one region. */
static int is_stack(const Tensor *tensor)
{
    return tensor->shape.ndim == 3;
}

static uint64_t stack_bytes(const Tensor *tensor, int64_t matrices)
{
    return (uint64_t)matrices * quant_stride(tensor->dtype, tensor->shape.dim[1], tensor->shape.dim[2]);
}

static int64_t stack_each(const Tensor *tensor)
{
    return tensor->shard->each / (tensor->shape.dim[1] * tensor->shape.dim[2]);
}

/* Whole matrices; or whole blocks; of NF4 whole groups of scales; and of int8 as many rows as make whole
 * words. */
int64_t quantized_unit_(const Tensor *tensor)
{
    int64_t rows = 1, cols = tensor->shape.dim[1];
    if (is_stack(tensor))
        return cols * tensor->shape.dim[2];
    if (tensor->dtype != DTYPE_INT8)
        return tensor->dtype == DTYPE_NF4 ? NF4_BLOCK * NF4_GROUP : NF4_BLOCK;
    while (rows * cols % (int64_t)sizeof(float))
        rows *= 2;
    return rows * cols;
}

StoredArray quantized_part_(const Tensor *tensor)
{
    if (is_stack(tensor))
        return (StoredArray){storage_data(tensor->shard->weights), tensor->dtype, tensor->shape.dim[1],
                             tensor->shape.dim[2]};
    int64_t each = tensor->shard->each, cols = tensor->dtype == DTYPE_INT8 ? tensor->shape.dim[1] : each;
    return (StoredArray){storage_data(tensor->shard->weights), tensor->dtype, each / cols, cols};
}

static QuantLayout part_layout(const Tensor *tensor)
{
    StoredArray part = quantized_part_(tensor);
    return quant_layout(part.dtype, part.rows, part.cols);
}

static QuantLayout whole_layout(const Tensor *tensor)
{
    return quant_layout(tensor->dtype, tensor->shape.dim[0], tensor->shape.dim[1]);
}

uint64_t quantized_part_bytes_(const Tensor *tensor)
{
    return is_stack(tensor) ? stack_bytes(tensor, stack_each(tensor)) : part_layout(tensor).bytes;
}

int quantized_regions_(const Tensor *tensor)
{
    return is_stack(tensor) ? 1 : tensor->dtype == DTYPE_NF4 ? 3 : 2;
}

/* In the order in which they lie. */
static Region region_of(const Tensor *tensor, int region)
{
    if (is_stack(tensor))
        return (Region){0, 0, stack_bytes(tensor, stack_each(tensor))};
    QuantLayout whole = whole_layout(tensor), part = part_layout(tensor);
    if (region == 0)
        return (Region){0, 0, part.codes_bytes};
    if (region + 1 == quantized_regions_(tensor))
        return (Region){whole.scales, part.scales, part.bytes - part.scales};
    return (Region){whole.group_scales, part.group_scales, part.offset - part.group_scales};
}

uint64_t quantized_gathered_bytes_(const Tensor *tensor)
{
    uint64_t bytes = is_stack(tensor) ? 0 : whole_layout(tensor).bytes;
    for (int i = 0; i < quantized_regions_(tensor); i++) {
        Region r = region_of(tensor, i);
        uint64_t end = r.whole + r.bytes * (uint64_t)tensor->item.context->ranks->count[RANKS_SHARD];
        bytes = end > bytes ? end : bytes;
    }
    return bytes;
}

/* From this rank's part into the matrix. */
static void copy_words(const Context *context, const Storage *part, uint64_t from, const Storage *whole,
                       uint64_t to, uint64_t bytes)
{
    context->kernels->copy(DTYPE_F32, DTYPE_F32, (int64_t)(bytes / sizeof(float)),
                           (const char *)storage_data(part) + from, (char *)storage_data(whole) + to,
                           &context->run);
}

int quantized_gather_(Tensor *tensor, Storage *whole, int region)
{
    Context *context = tensor->item.context;
    const Storage *part = tensor->shard->weights;
    Region r = region_of(tensor, region);
    uint64_t place = (uint64_t)context->ranks->place[RANKS_SHARD];
    if (!context->meta)
        copy_words(context, part, r.part, whole, r.whole + place * r.bytes, r.bytes);
    if (!context->meta && tensor->dtype == DTYPE_NF4 && region == 2) /* behind the scales of scales */
        copy_words(context, part, part_layout(tensor).offset, whole, whole_layout(tensor).offset,
                   sizeof(float));
    return collective_gather(context, shard_group(context), whole, r.whole, r.bytes);
}

int quantized_to_host_(const Tensor *tensor, void *whole)
{
    const Context *context = tensor->item.context;
    const Storage *part = tensor->shard->weights;
    uint64_t place = (uint64_t)context->ranks->place[RANKS_SHARD];
    int failed = 0;
    for (int i = 0; i < quantized_regions_(tensor) && !failed; i++) {
        Region r = region_of(tensor, i);
        char *to = (char *)whole + r.whole;
        storage_read(part, r.part, r.bytes, to + place * r.bytes);
        failed = ranks_gather_parts_(context, to, r.bytes);
        if (tensor->dtype == DTYPE_NF4 && i == 1) /* what is padding lies there until now */
            storage_read(part, part_layout(tensor).offset, sizeof(float),
                         (char *)whole + whole_layout(tensor).offset);
    }
    return failed;
}

void quantized_decode_host_(const Tensor *tensor, const void *whole, int64_t first, int64_t count,
                            float *values)
{
    const Context *context = tensor->item.context;
    const Kernels *k = context->host_kernels;
    StoredArray from = {whole, tensor->dtype, tensor->shape.dim[0], tensor->shape.dim[1]};
    (tensor->transposed ? k->decode_transposed : k->decode)(&from, first, count, values, &context->host_run);
}

/* What of `bytes` from the matrix's byte `first` on lies in [begin, begin + size) of it. */
static void write_range(Tensor *tensor, uint64_t first, uint64_t bytes, const char *from, uint64_t begin,
                        uint64_t size, uint64_t to)
{
    uint64_t at = first > begin ? first : begin;
    uint64_t end = first + bytes < begin + size ? first + bytes : begin + size;
    if (at < end)
        storage_write(tensor->shard->weights, to + (at - begin), end - at, from + (at - first));
}

void quantized_write_(Tensor *tensor, int64_t first, int64_t bytes, const void *from)
{
    const Context *context = tensor->item.context;
    uint64_t place = (uint64_t)context->ranks->place[RANKS_SHARD];
    if (is_stack(tensor)) {
        uint64_t size = stack_bytes(tensor, stack_each(tensor));
        if (!context->meta)
            write_range(tensor, (uint64_t)first, (uint64_t)bytes, from, place * size, size, 0);
        return;
    }
    QuantLayout whole = whole_layout(tensor), part = part_layout(tensor);
    for (int i = 0; i < quantized_regions_(tensor) && !context->meta; i++) {
        Region r = region_of(tensor, i);
        uint64_t begin = place * r.bytes;
        uint64_t end = i == 0                                ? whole.codes_bytes
                       : i + 1 == quantized_regions_(tensor) ? whole.bytes - whole.scales
                                                             : whole.offset - whole.group_scales;
        uint64_t size = begin >= end ? 0 : end - begin < r.bytes ? end - begin : r.bytes;
        write_range(tensor, (uint64_t)first, (uint64_t)bytes, from, r.whole + begin, size, r.part);
    }
    if (!context->meta && tensor->dtype == DTYPE_NF4)
        write_range(tensor, (uint64_t)first, (uint64_t)bytes, from, whole.offset, sizeof(float), part.offset);
}
