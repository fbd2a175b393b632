/* Classes of which each rank has a part: the rows of a head and the columns of its logits (vocabulary
 * parallel, Shoeybi et al., arXiv 1909.08053). Of a loss, ranks exchange three numbers a row, not the logits:
 * the largest, the sum of exponentials below it, and the label's. */
#include "ops_.h"
#include "ranks_.h"

enum { STAGING = 4 << 20 /* bytes of logits that are gathered at a time */ };

void class_part_attr(OpAttr *attr, RowsPart part)
{
    attr->loss.first_class = part.first;
    attr->loss.classes = part.count;
    attr->loss.all_classes = part.all;
}

void class_part_dims(const OpCall *call, int64_t each, CrossEntropyDims *d)
{
    if (!call->attr.loss.all_classes)
        return;
    d->classes = call->attr.loss.classes;
    d->first_class = call->attr.loss.first_class;
    d->all_classes = call->attr.loss.all_classes;
    d->padding = each - d->classes;
}

/* ---- What ranks say of rows -------------------------------------------------------------------- */

int class_parts_begin(ClassParts *parts, int64_t rows)
{
    enum { UNIT = TRANSPORT_UNIT / (int)sizeof(float) };
    Context *context = context_here();
    const struct ContextRanks *r = context->ranks;
    *parts = (ClassParts){.apart = (rows * CROSS_ENTROPY_PART + UNIT - 1) / UNIT * UNIT};
    parts->all = storage_new(context, parts->apart * r->count[RANKS_TENSOR] * (int64_t)sizeof(float),
                             MEM_COMMUNICATION);
    if (!parts->all)
        return error_code();
    float *all = storage_f32(parts->all);
    parts->mine = all ? all + parts->apart * r->place[RANKS_TENSOR] : NULL;
    if (parts->mine) /* some rows may not be asked about */
        context->kernels->fill(DTYPE_F32, parts->apart, 0, parts->mine, &context->run);
    return 0;
}

void class_parts_join(ClassParts *parts, const OpCall *call, const CrossEntropyDims *d, const int32_t *labels)
{
    Context *context = context_here();
    int failed =
        collective_gather(context, RANKS_TENSOR, parts->all, 0, (uint64_t)parts->apart * sizeof(float));
    if (!failed && parts->mine)
        call->kernels->cross_entropy_join(d, context->ranks->count[RANKS_TENSOR], parts->apart,
                                          storage_f32(parts->all), labels, call->attr.loss.scale, call->out,
                                          call->extra[0], call->workspace, call->run);
    storage_release(context, parts->all);
    *parts = (ClassParts){0};
}

/* ---- Logits of all classes --------------------------------------------------------------------- */

static int gather_shape(OpCall *call)
{
    if (check_float(call, 0, "logits"))
        return error_code();
    call->plan.out = call->shape[0];
    call->plan.out.dim[call->plan.out.ndim - 1] = call->attr.loss.all_classes;
    call->plan.out_type = call->dtype[0];
    return 0;
}

/* Rows [first, first + count), which all ranks have put into the staging, of `bytes` a rank. */
static void place_rows(const OpCall *call, const Storage *staging, uint64_t bytes, int64_t first,
                       int64_t count)
{
    int64_t each = last_dim(call->shape[0]), all = call->attr.loss.all_classes;
    DType type = call->dtype[0];
    for (int64_t at = 0, rank = 0; at < all; at += each, rank++)
        for (int64_t row = 0; row < count; row++)
            call->kernels->copy(
                type, type, all - at < each ? all - at : each,
                element_at(type, (char *)storage_data(staging) + (uint64_t)rank * bytes, row * each),
                element_at(type, call->out, (first + row) * all + at), call->run);
}

static void gather_forward(OpCall *call)
{
    Context *context = context_here();
    int64_t ranks = context->ranks->count[RANKS_TENSOR], place = context->ranks->place[RANKS_TENSOR];
    int64_t each = last_dim(call->shape[0]), rows = leading(call->shape[0]);
    DType type = call->dtype[0];
    int64_t most = STAGING / (int64_t)dtype_bytes(type, 1, each * ranks), failed = 0;
    most = most < 1 ? 1 : most < rows ? most : rows;
    uint64_t bytes =
        (dtype_bytes(type, 1, most * each) + TRANSPORT_UNIT - 1) / TRANSPORT_UNIT * TRANSPORT_UNIT;
    Storage *staging = storage_new(context, (int64_t)bytes * ranks, MEM_COMMUNICATION);
    for (int64_t first = 0, n; first < rows && staging && !failed; first += n) {
        n = rows - first < most ? rows - first : most;
        if (call->out)
            call->kernels->copy(type, type, n * each, element_at(type, call->in[0], first * each),
                                (char *)storage_data(staging) + (uint64_t)place * bytes, call->run);
        failed = collective_gather(context, RANKS_TENSOR, staging, 0, bytes);
        if (!failed && call->out)
            place_rows(call, staging, bytes, first, n);
    }
    storage_release(context, staging);
}

static void gather_backward(OpCall *call)
{
    int64_t each = last_dim(call->shape[0]), rows = leading(call->shape[0]);
    int64_t here = call->attr.loss.classes, all = call->attr.loss.all_classes;
    const Kernels *k = call->kernels;
    DType type = call->dtype[0];
    for (int64_t row = 0; row < rows && call->dout; row++) {
        if (here)
            k->copy(type, type, here, element_at(type, call->dout, row * all + call->attr.loss.first_class),
                    element_at(type, call->din[0], row * each), call->run);
        if (here < each)
            k->fill(type, each - here, 0, element_at(type, call->din[0], row * each + here), call->run);
    }
}

static const OpRow gather_row = {
    .name = "gather_classes",
    .shape = gather_shape,
    .forward = gather_forward,
    .backward = gather_backward,
    .meets = 1,
};

Tensor *tensor_gather_classes_(Tensor *logits, RowsPart part)
{
    OpAttr attr = {.loss = {0}};
    class_part_attr(&attr, part);
    return logits ? tensor_apply(&gather_row, &attr, 1, &logits) : NULL;
}
