/* What parameters are stored as. It is known before they are made, so that no weight ever exists in a type
 * that it is not to have. */
#include <string.h>

#include "module_.h"

int nn_set_weights(const Weights *weights)
{
    static const Weights defaults;
    const Weights *w = weights ? weights : &defaults;
    Context *context = context_here();
    if (!context)
        return error_code();
    if (!dtype_is_float(w->dtype))
        return error_raise(ERROR_ARGUMENT, "nn_set_weights(): dtype must be f32, bf16 or f16, not %s",
                           dtype_name(w->dtype));
    if (w->quantized && !dtype_is_quantized(w->quantized))
        return error_raise(ERROR_ARGUMENT,
                           "nn_set_weights(): quantized must be int8, nf4, nf4-plain or 0, not %s",
                           dtype_name(w->quantized));
    context->weights.dtype = w->dtype;
    context->weights.quantized = w->quantized;
    context->weights.frozen = w->frozen;
    context->weights.not_quantized = w->not_quantized;
    return 0;
}

const char *module_next_name(const char **list, size_t *length)
{
    const char *name = *list + strspn(*list, " ,");
    *length = strcspn(name, ",");
    *list = name + *length;
    while (*length && name[*length - 1] == ' ')
        --*length;
    return *length ? name : NULL;
}

/* As transformers decides: a name is the path's, its beginning up to a dot, or its end. */
static int is_named(const char *path, const char *name, size_t length)
{
    size_t whole = strlen(path);
    if (length > whole)
        return 0;
    int begins = !strncmp(path, name, length) && (path[length] == '.' || !path[length]);
    return begins || !strncmp(path + whole - length, name, length);
}

static int is_left_out(const char *path, const char *names)
{
    const char *name;
    for (size_t length; names && (name = module_next_name(&names, &length));)
        if (is_named(path, name, length))
            return 1;
    return 0;
}

DType module_parameter_type(const Context *context)
{
    int trained = !context->weights.frozen && context->weights.dtype == DTYPE_F32;
    return trained ? context->precision.weights : context->weights.dtype;
}

DType module_linear_type(const Module *module)
{
    const Context *context = module->item.context;
    const char *path = memtrack_path_name(context->tracker, module->path);
    return context->weights.quantized && !is_left_out(path, context->weights.not_quantized)
               ? context->weights.quantized
               : module_parameter_type(context);
}

/* ---- A model that there is ------------------------------------------------------------------- */

static int quantize(Module *module, DType dtype, const char *not_quantized)
{
    const Linear *linear = module_as_linear(module);
    const char *path = memtrack_path_name(module->item.context->tracker, module->path);
    int chosen = linear && !linear->head && !is_left_out(path, not_quantized) &&
                 !dtype_is_quantized(linear->weight->dtype);
    int count = chosen                             ? tensor_convert_(linear->weight, dtype) ? -1 : 1
                : is_left_out(path, not_quantized) ? 0
                                                   : module_quantize_experts(module, dtype);
    for (int i = 0; i < module->child_count && count >= 0; i++) {
        int more = quantize(module->children[i], dtype, not_quantized);
        count = more < 0 ? -1 : count + more;
    }
    return count;
}

int nn_quantize(Module *model, const Quantize *options)
{
    DType dtype = options && options->dtype ? options->dtype : DTYPE_NF4;
    if (!model || error_code())
        return -1;
    int divided = context_tensor_ranks_(model->item.context) > 1;
    if (dtype_is_quantized(dtype) && !divided)
        return quantize(model, dtype, options ? options->not_quantized : NULL);
    if (divided)
        error_raise(
            ERROR_RANKS,
            "nn_quantize(): a rank has parts of weights here, whose scales may depend on the other ranks' "
            "parts; nn_set_weights, before the model is made, quantises them");
    else
        error_raise(ERROR_ARGUMENT, "nn_quantize(): dtype must be int8, nf4 or nf4-plain, not %s",
                    dtype_name(dtype));
    return -1;
}
