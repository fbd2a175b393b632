/* A loss that is not finite: who made the first value that is not. */
#include <math.h>

#include "../kernels/kernels.h"
#include "tensor_.h"

static int nonfinite(const Context *context, const Tensor *tensor, const Storage *storage)
{
    int64_t bad = -1;
    if (storage && storage->block.data)
        context->kernels->find_nonfinite(tensor->dtype, shape_numel(tensor->shape), storage_data(storage),
                                         &bad, &context->run);
    return bad >= 0;
}

int loss_raise_(float loss, const char *what, const char *name, int parameter)
{
    const char *is = isnan(loss) ? "NaN" : loss > 0 ? "infinite" : "minus infinity";
    if (!what)
        return error_raise(
            ERROR_NONFINITE,
            "loss is %s; every tensor kept for backward is finite, so the loss itself overflowed", is);
    if (!name)
        return error_raise(ERROR_NONFINITE, "loss is %s; the first value that is not finite was made by %s",
                           is, what);
    return error_raise(ERROR_NONFINITE, "loss is %s; the first value that is not finite is in %s '%s' of %s",
                       is, parameter ? "parameter" : "input", name, what);
}

void loss_blame_(const Tape *tape, float loss)
{
    const Context *context = tape->context;
    for (int i = 0; i < tape->count; i++) {
        const Node *node = &tape->nodes[i];
        for (int k = 0; k < OP_MAX_INPUTS; k++) {
            const Tensor *in = node->in[k];
            if (!in || !dtype_is_float(in->dtype) || !nonfinite(context, in, tape_kept_input(node, k)))
                continue;
            memtrack_path_set(context->tracker, in->leaf ? node->path : in->path);
            const char *row = node->call.row ? node->call.row->name : "a module";
            loss_raise_(loss, in->leaf ? row : in->op, in->leaf ? tensor_name(in) : NULL,
                        in->component == MEM_PARAMETER);
            return;
        }
    }
    loss_raise_(loss, NULL, NULL, 0);
}
