/* The linear layer: every projection and head of every family is this one module. */
#include <math.h>

#include "module_.h"

/* Autocast: a trained f32 weight is multiplied in the type of 16-bit activations. Who gives the copy away
 * leaves it to backward, which frees it. What is frozen is decoded by the product itself. */
Tensor *module_weight_for(Tensor *weight, const Tensor *x)
{
    int cast = x && x->dtype != DTYPE_F32 && weight->dtype == DTYPE_F32 && weight->requires_grad;
    return cast ? tensor_donate(tensor_cast_weight_(weight, x->dtype)) : weight;
}

/* All classes, from those that each rank computes. */
static Tensor *linear_classes(const Linear *self, Tensor *x, const Batch *batch)
{
    x = module_enter(x, batch);
    Tensor *y = tensor_linear(x, module_weight_for(self->weight, x), self->bias, TENSOR_IDENTITY);
    return tensor_gather_classes_(tensor_donate(y), tensor_rows_part_(self->weight));
}

static Tensor *linear_product(const Linear *self, Tensor *x, TensorActivation act, const Batch *batch)
{
    if (self->weight->whole_rows)
        return linear_classes(self, x, batch);
    Tensor *weight = module_weight_for(self->weight, x), *bias = self->sums ? NULL : self->bias;
    return self->weight->in_out ? tensor_linear_in_out(x, weight, bias, act)
                                : tensor_linear(x, weight, bias, act);
}

/* What ranks compute a part of each is summed once, an adapter's part with it. Behind that, or behind an
 * adapter, the activation is an operation of its own: it keeps its input, as many bytes as the fused one
 * keeps. */
Tensor *module_uncapped(Module *module, Tensor *x, const Batch *batch)
{
    const Linear *self = nn_state(module);
    if (!self->adapter.a && !self->sums)
        return linear_product(self, x, self->act, batch);
    Tensor *y = module_adapt(module, &self->adapter, linear_product(self, x, TENSOR_IDENTITY, batch), x);
    if (self->sums)
        y = module_leave(tensor_donate(y), self->bias);
    return self->act == TENSOR_IDENTITY ? y : tensor_activation(tensor_donate(y), self->act);
}

static Tensor *linear_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Linear *self = nn_state(module);
    Tensor *y = module_uncapped(module, x, batch);
    return self->softcap != 0 ? tensor_softcap(tensor_donate(y), self->softcap) : y;
}

static const ModuleClass linear_class = {"linear", sizeof(Linear), linear_forward};

Linear *module_as_linear(const Module *module)
{
    return module && module->type == &linear_class ? module->state : NULL;
}

/* Of a head without an adapter, for the loss alone. */
Tensor *module_logits(const Module *module, Tensor *hidden, const Batch *batch)
{
    const Linear *self = module_as_linear(module);
    if (self->weight->whole_rows)
        hidden = tensor_donate(module_enter(tensor_donate(hidden), batch));
    return tensor_logits_(hidden, module_weight_for(self->weight, hidden), self->bias);
}

/* (out,in) is uniform within 1/sqrt(in), as in PyTorch; (in,out) is 0: GPT-2 draws its own. */
static void linear_fill(Tensor *tensor, const LinearOptions *o)
{
    float bound = 1.0f / sqrtf((float)o->in);
    if (o->in_out && tensor && tensor->item.context->draw_later)
        return;
    if (o->in_out)
        tensor_fill(tensor, 0);
    else
        tensor_fill_uniform(tensor, -bound, bound);
}

/* What a rank's part of a quantised weight is stored as. Blocks are those of the whole; where its groups of
 * scales are not, the scales that they stand for are stored. own: what this rank has, which the weight stores
 * (out,in). */
static DType own_type(const Module *module, const LinearOptions *own, DType dtype)
{
    int rows = own->split == LINEAR_BY_OUTPUTS;
    int64_t piece = rows ? own->out / own->packed * own->in : own->in,
            ranks = context_tensor_ranks_(context_here());
    if (own->split == LINEAR_WHOLE || dtype == DTYPE_INT8 || !dtype_is_quantized(dtype))
        return dtype;
    if (piece % NF4_BLOCK == 0)
        return piece % (NF4_BLOCK * NF4_GROUP) ? DTYPE_NF4_PLAIN : dtype;
    error_raise(
        ERROR_RANKS,
        "linear: %s is quantised as %s, in blocks of %d elements, and its %lld %s would be cut to %lld: "
        "fewer than %lld ranks that compute a layer together may do, or int8",
        memtrack_path_name(module->item.context->tracker, module->path), dtype_name(dtype), (int)NF4_BLOCK,
        (long long)(ranks * (rows ? own->out : own->in)), rows ? "rows" : "columns",
        (long long)(rows ? own->out : own->in), (long long)ranks);
    return dtype;
}

/* GPT-2's weights are (in,out) in files, and quantised ones always (out,in). o: what this rank has. */
static Tensor *linear_weight(Module *module, const LinearOptions *o)
{
    DType wanted = o->head ? module_parameter_type(module->item.context) : module_linear_type(module);
    DType dtype = own_type(module, o, wanted);
    int turned = o->in_out && dtype_is_quantized(dtype), in_out = o->in_out && !turned;
    Tensor *weight =
        module_add_parameter(module, "weight", in_out ? SHAPE(o->in, o->out) : SHAPE(o->out, o->in), dtype);
    if (weight) {
        weight->in_out = (unsigned char)in_out;
        weight->transposed = (unsigned char)turned;
        weight->twice = dtype != wanted;
    }
    if (o->split == LINEAR_BY_OUTPUTS)
        tensor_split_(weight, in_out, o->packed);
    else if (o->split == LINEAR_BY_INPUTS)
        tensor_split_(weight, !in_out, 1);
    else if (o->split == LINEAR_BY_CLASSES)
        tensor_split_rows_(weight, o->classes);
    return weight;
}

/* Of all ranks' options, this rank's. */
static LinearOptions own_part(const LinearOptions *o)
{
    LinearOptions own = *o;
    int ranks = context_tensor_ranks_(context_here());
    own.packed = o->packed ? o->packed : 1;
    own.split = ranks > 1 ? o->split : LINEAR_WHOLE;
    if (own.split == LINEAR_BY_OUTPUTS)
        own.out /= ranks;
    else if (own.split == LINEAR_BY_INPUTS)
        own.in /= ranks;
    else if (own.split == LINEAR_BY_CLASSES)
        own.out = tensor_rows_each_(context_here(), own.classes = o->out);
    return own;
}

Module *module_linear(const LinearOptions *o)
{
    if (config_positive("linear", "in", o->in) || config_positive("linear", "out", o->out))
        return NULL;
    Module *module = nn_module(&linear_class);
    Linear *self = nn_state(module);
    if (!self)
        return NULL;
    LinearOptions own = own_part(o);
    self->act = o->act;
    self->head = o->head;
    self->router = o->router;
    self->split = own.split;
    self->packed = own.packed;
    self->sums = own.split == LINEAR_BY_INPUTS;
    self->weight = linear_weight(module, &own);
    linear_fill(self->weight, o);
    if (o->bias) {
        self->bias = nn_add_parameter(module, "bias", SHAPE(own.out));
        if (own.split == LINEAR_BY_OUTPUTS)
            tensor_split_(self->bias, 0, own.packed);
        else if (own.split == LINEAR_BY_CLASSES)
            tensor_split_rows_(self->bias, own.classes);
        linear_fill(self->bias, o);
    }
    return error_code() ? NULL : module;
}

Module *module_linear_split(int64_t in, int64_t out, int bias, LinearSplit split)
{
    return module_linear(&(LinearOptions){.in = in, .out = out, .bias = bias, .split = split});
}

Module *nn_linear_act(int64_t in, int64_t out, int bias, TensorActivation act)
{
    return module_linear(&(LinearOptions){.in = in, .out = out, .bias = bias, .act = act});
}

Module *nn_linear(int64_t in, int64_t out, int bias)
{
    return nn_linear_act(in, out, bias, TENSOR_IDENTITY);
}

Module *module_linear_tied(Tensor *weight, Tensor *bias)
{
    Module *module = weight ? nn_module(&linear_class) : NULL;
    Linear *self = nn_state(module);
    if (!self)
        return NULL;
    self->weight = weight;
    self->bias = bias;
    self->head = self->tied = 1;
    return module;
}

Module *module_linear_tied_biased(Tensor *weight, int64_t classes)
{
    Module *module = module_linear_tied(weight, NULL);
    Linear *self = nn_state(module);
    if (!self)
        return NULL;
    self->bias = module_class_bias(module, "bias", classes);
    return error_code() ? NULL : module;
}
