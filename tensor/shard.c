/* Parameters that are divided among ranks. A shard is a flat range of the parameter, in whole units of 64
 * bytes, or of blocks where it is quantised (shard_quantized.c), the same number for every rank; what is too
 * small for a unit a rank stays whole. An operation that reads the parameter gathers it in place and lets it
 * go; a gradient is summed, part by part, when it is final. */
#include <inttypes.h>

#include "../kernels/kernels.h"
#include "ranks_.h"

static RankStrategy strategy_of(const Context *context)
{
    return context->ranks ? context->ranks->is.strategy : RANKS_DDP;
}

/* Elements that parts are multiples of. */
static int64_t unit_of(const Context *context, const Tensor *tensor)
{
    if (dtype_is_quantized(tensor->dtype))
        return quantized_unit_(tensor);
    int64_t least = TRANSPORT_UNIT / (int64_t)dtype_bytes(tensor->dtype, 1, 1),
            unit = context->ranks->is.unit;
    return unit > least ? (unit + least - 1) / least * least : least;
}

static int weights_stay_whole(const Context *context, const Tensor *tensor)
{
    return strategy_of(context) != RANKS_ZERO3 ||
           shape_numel(tensor->shape) < context->ranks->is.replicate_below;
}

/* ZeRO-3 divides what is frozen too; what is quantised where no layer is computed by several ranks. */
static int is_divided(const Context *context, const Tensor *tensor)
{
    int ranks = context->ranks->count[RANKS_SHARD], quantized = dtype_is_quantized(tensor->dtype);
    if ((!dtype_is_float(tensor->dtype) && !quantized) ||
        strategy_of(context) < (tensor->requires_grad ? RANKS_ZERO1 : RANKS_ZERO3) ||
        (!tensor->requires_grad && weights_stay_whole(context, tensor)) ||
        (quantized && (ranks == 1 || context->ranks->count[RANKS_TENSOR] > 1)))
        return 0;
    if (ranks == 1)
        return context->ranks->apart;
    return shape_numel(tensor->shape) >= unit_of(context, tensor) * ranks;
}

/* The parameter is 16 bit, and has a master. */
static int has_master(const Context *context, const Tensor *tensor)
{
    return tensor->requires_grad && tensor->dtype != DTYPE_F32 && context->precision.master;
}

int64_t shard_whole_bytes(const Tensor *tensor)
{
    if (!tensor->shard)
        return (int64_t)shape_bytes(tensor->dtype, tensor->shape);
    int ranks = tensor->item.context->ranks->count[RANKS_SHARD];
    return (int64_t)dtype_bytes(tensor->dtype, 1, tensor->shard->each * ranks);
}

int64_t shard_part_bytes_(const Tensor *tensor)
{
    const Shard *shard = tensor->shard;
    return dtype_is_quantized(shard->type) ? (int64_t)quantized_part_bytes_(tensor)
                                           : (int64_t)dtype_bytes(shard->type, 1, shard->each);
}

int shard_new(Tensor *tensor, MemComponent component)
{
    Context *context = tensor->item.context;
    if (!is_divided(context, tensor))
        return 0;
    int64_t n = shape_numel(tensor->shape), ranks = context->ranks->count[RANKS_SHARD];
    Shard *shard = host_alloc(sizeof *shard);
    if (!shard)
        return error_code();
    int64_t unit = unit_of(context, tensor);
    shard->each = ranks == 1 ? n : ((n + ranks - 1) / ranks + unit - 1) / unit * unit;
    shard->type = has_master(context, tensor) ? DTYPE_F32 : tensor->dtype;
    shard->grad_type =
        has_master(context, tensor) || tensor->dtype == DTYPE_F32 ? DTYPE_F32 : context->precision.gradients;
    tensor->shard = shard;
    if (weights_stay_whole(context, tensor))
        return 0;
    shard->weights = storage_new(context, shard_part_bytes_(tensor), component);
    return shard->weights ? 0 : error_code();
}

int64_t shard_master_elements(const Tensor *tensor)
{
    return tensor->shard ? tensor->shard->each : shape_numel(tensor->shape);
}

void shard_drop_grad(Tensor *tensor)
{
    if (!tensor->shard)
        return;
    storage_release(tensor->item.context, tensor->shard->grad);
    tensor->shard->grad = NULL;
}

void shard_free(Tensor *tensor)
{
    if (!tensor->shard)
        return;
    shard_drop_grad(tensor);
    storage_release(tensor->item.context, tensor->shard->weights);
    host_free(tensor->item.context, tensor->shard, sizeof *tensor->shard);
    tensor->shard = NULL;
}

/* ---- Whole weights, for as long as somebody reads them ----------------------------------------- */

static int is_quantized(const Tensor *tensor)
{
    return dtype_is_quantized(tensor->dtype);
}

static Storage *whole_new(Tensor *tensor)
{
    Context *context = tensor->item.context;
    return storage_new(context,
                       is_quantized(tensor) ? (int64_t)quantized_gathered_bytes_(tensor)
                                            : shard_whole_bytes(tensor),
                       MEM_GATHERED);
}

static int gather(Tensor *tensor)
{
    Context *context = tensor->item.context;
    const Shard *shard = tensor->shard;
    Storage *whole = tensor->storage;
    int64_t bytes = (int64_t)dtype_bytes(tensor->dtype, 1, shard->each);
    if (!context->meta)
        context->kernels->copy(shard->type, tensor->dtype, shard->each, storage_data(shard->weights),
                               (char *)storage_data(whole) + context->ranks->place[RANKS_SHARD] * bytes,
                               &context->run);
    return collective_gather(context, shard_group(context), whole, 0, (uint64_t)bytes);
}

/* Who fails holds nothing. */
int shard_gather_step(Tensor *tensor, int step)
{
    Shard *shard = tensor ? tensor->shard : NULL;
    if (!shard || !shard->weights)
        return 0;
    int first = step == 0 && shard->readers++ == 0, failed = 0;
    if (first && !(tensor->storage = whole_new(tensor)))
        failed = error_code();
    if (!failed && shard->regions == step && step < (is_quantized(tensor) ? quantized_regions_(tensor) : 1)) {
        failed = is_quantized(tensor) ? quantized_gather_(tensor, tensor->storage, step) : gather(tensor);
        shard->regions++;
    }
    if (failed)
        shard_release(tensor);
    return failed;
}

int shard_gather(Tensor *tensor)
{
    int failed = 0;
    for (int step = 0; step < SHARD_STEPS && !failed; step++)
        failed = shard_gather_step(tensor, step);
    return failed;
}

void shard_release(Tensor *tensor)
{
    Shard *shard = tensor ? tensor->shard : NULL;
    if (!shard || !shard->weights || shard->readers == 0 || --shard->readers > 0)
        return;
    storage_release(tensor->item.context, tensor->storage);
    tensor->storage = NULL;
    shard->regions = 0;
}

int tensor_is_divided_(const Context *context)
{
    return strategy_of(context) == RANKS_ZERO3;
}

/* Elements [first, first + count) of the part become those at `from`: on a card, as they are to lie there. */
static void write_part(const Context *context, const TensorPart *part, DType type, int64_t first,
                       int64_t count, const char *from)
{
    enum { MOST = 1024 };
    float values[MOST]; /* room for as many of any float type */
    const Kernels *k = context->host_kernels;
    uint64_t size = dtype_bytes(part->type, 1, 1);
    if (!context->card)
        k->copy(type, part->type, count, from, (char *)storage_data(part->weights) + (uint64_t)first * size,
                &context->run);
    for (int64_t at = 0, n; at < count && context->card; at += n) {
        n = count - at < MOST ? count - at : MOST;
        k->copy(type, part->type, n, from + dtype_bytes(type, 1, at), values, &context->host_run);
        storage_write(part->weights, (uint64_t)(first + at) * size, (uint64_t)n * size, values);
    }
}

int shard_write(Tensor *tensor, int64_t first, int64_t bytes, const void *from)
{
    const Context *context = tensor->item.context;
    const TensorPart part = tensor_part_(tensor);
    int64_t size = is_quantized(tensor) ? 1 : (int64_t)dtype_bytes(tensor->dtype, 1, 1);
    int64_t all = (int64_t)shape_bytes(tensor->dtype, tensor->shape);
    if (first < 0 || bytes < 0 || first % size || bytes % size || first > all || bytes > all - first)
        return error_raise(ERROR_ARGUMENT,
                           "tensor_write(): %" PRId64 " bytes from byte %" PRId64
                           " are not elements of the tensor",
                           bytes, first);
    if (is_quantized(tensor)) {
        quantized_write_(tensor, first, bytes, from);
        return error_code();
    }
    int64_t begin = first / size, end = begin + bytes / size, last = part.first + part.count;
    const char *at = from;
    if (begin < part.first)
        at += (part.first - begin) * size;
    begin = begin > part.first ? begin : part.first;
    end = end < last ? end : last;
    if (begin < end && storage_data(part.weights))
        write_part(context, &part, tensor->dtype, begin - part.first, end - begin, at);
    return error_code();
}

/* ---- Gradients --------------------------------------------------------------------------------- */

static int sum_own_part(Tensor *leaf, const Storage *to, DType to_type, int64_t at, int add)
{
    return collective_sum_parts(leaf->item.context, &(SumParts){.group = shard_group(leaf->item.context),
                                                                .type = gradient_type(leaf),
                                                                .to_type = to_type,
                                                                .n = shape_numel(leaf->shape),
                                                                .each = leaf->shard->each,
                                                                .from = storage_data(leaf->grad),
                                                                .to = storage_data(to),
                                                                .at = at,
                                                                .add = add});
}

/* Of one rank alone: the sum takes the first gradient over, and the others are added to it. */
static int add_own(Tensor *leaf)
{
    const Context *context = leaf->item.context;
    Shard *shard = leaf->shard;
    Storage *from = leaf->grad;
    gradient_set(leaf, NULL);
    DType type = gradient_type(leaf);
    if (!shard->grad && type == shard->grad_type) {
        shard->grad = from;
        return 0;
    }
    int add = shard->grad != NULL;
    if (!add)
        shard->grad = storage_new(leaf->item.context, (int64_t)dtype_bytes(shard->grad_type, 1, shard->each),
                                  MEM_GRADIENT);
    if (shard->grad && !context->meta)
        (add ? context->kernels->accumulate
             : context->kernels->copy)(type, shard->grad_type, shard->each, storage_data(from),
                                       storage_data(shard->grad), &context->run);
    storage_release(leaf->item.context, from);
    return error_code();
}

int shard_final(Tensor *leaf)
{
    Context *context = leaf->item.context;
    Shard *shard = leaf->shard;
    if (!shard || !leaf->grad || strategy_of(context) < RANKS_ZERO2)
        return 0;
    int add = shard->grad != NULL, path = memtrack_path_set(context->tracker, leaf->path);
    if (context->ranks->count[RANKS_SHARD] == 1) {
        int failed = add_own(leaf);
        memtrack_path_set(context->tracker, path);
        return failed;
    }
    if (!add)
        shard->grad =
            storage_new(context, (int64_t)dtype_bytes(shard->grad_type, 1, shard->each), MEM_GRADIENT);
    int failed = shard->grad ? sum_own_part(leaf, shard->grad, shard->grad_type, 0, add) : error_code();
    memtrack_path_set(context->tracker, path);
    storage_release(context, leaf->grad);
    gradient_set(leaf, NULL);
    return failed;
}

/* The parts of a gradient that ranks which compute a layer together have found become its sum. */
static int sum_partial(Tensor *parameter)
{
    Context *context = parameter->item.context;
    const Shard *shard = parameter->shard;
    if (!parameter->partial)
        return 0;
    if (shard && shard->grad)
        return collective_sum(context, RANKS_TENSOR, shard->grad_type, shard->each, shard->grad);
    return parameter->grad ? collective_sum(context, RANKS_TENSOR, gradient_type(parameter),
                                            shape_numel(parameter->shape), parameter->grad)
                           : 0;
}

int tensor_reduce_(Tensor *parameter)
{
    Context *context = parameter->item.context;
    const Shard *shard = parameter->shard;
    int there = parameter->grad || (parameter->partial && shard && shard->grad);
    if (!context->ranks || !there)
        return 0;
    int apart = shard && strategy_of(context) >= RANKS_ZERO2, failed = apart ? shard_final(parameter) : 0;
    if (!failed)
        failed = sum_partial(parameter);
    if (!failed && !shard && context->ranks->count[RANKS_DATA] > 1)
        failed = collective_sum(context, RANKS_DATA, gradient_type(parameter), shape_numel(parameter->shape),
                                parameter->grad);
    else if (!failed && shard && !apart)
        failed = sum_own_part(parameter, parameter->grad, gradient_type(parameter),
                              context->ranks->place[RANKS_SHARD] * shard->each, 0);
    return failed ? failed : stage_sum_tied_(parameter);
}

int tensor_updated_(Tensor *parameter)
{
    Context *context = parameter->item.context;
    const Shard *shard = parameter->shard;
    if (!shard || shard->weights || parameter->item.context->ranks->count[RANKS_SHARD] == 1)
        return 0;
    return collective_gather(context, shard_group(context), parameter->storage, 0,
                             dtype_bytes(parameter->dtype, 1, shard->each));
}

TensorPart tensor_part_(const Tensor *parameter)
{
    const Context *context = parameter->item.context;
    const Shard *shard = parameter->shard;
    int64_t n = shape_numel(parameter->shape);
    TensorPart part = {.count = n,
                       .each = n,
                       .weights = parameter->storage,
                       .type = parameter->dtype,
                       .master = parameter->master,
                       .grad = parameter->grad,
                       .grad_type = gradient_type(parameter),
                       .counts = !context->ranks || context->ranks->place[RANKS_DATA] == 0};
    /* The first stage counts what the last one has too; those that compute a layer together have the same of
     * what is whole. */
    int again = parameter->tied_stages && context_stage_(context) > 0;
    int once = !context->ranks || parameter->piece || context->ranks->place[RANKS_TENSOR] == 0;
    part.counts = part.counts && once && !again;
    if (!shard)
        return part;
    part.counts = once && !again && context->ranks->place[RANKS_REPLICA] == 0;
    part.each = shard->each;
    part.first = context->ranks->place[RANKS_SHARD] * shard->each;
    part.count = n - part.first < part.each ? n - part.first : part.each;
    part.count = part.count > 0 ? part.count : 0;
    part.at = part.grad_at = part.first;
    if (shard->weights) {
        part.weights = shard->weights;
        part.type = shard->type;
        part.at = 0;
    }
    if (strategy_of(context) >= RANKS_ZERO2) {
        part.grad = shard->grad;
        part.grad_type = shard->grad_type;
        part.grad_at = 0;
    }
    return part;
}
