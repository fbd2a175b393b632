/* The layers models are built from, but for linear (linear.c): embedding, norms, dropout, activations, and
 * sequential. */
#include <limits.h>
#include <stdio.h>

#include "module_.h"

int config_missing(const char *model, const void *config)
{
    return config ? 0 : error_raise(ERROR_ARGUMENT, "%s: the configuration is NULL", model);
}

int config_positive(const char *model, const char *field, int64_t value)
{
    if (value >= 1 && value <= INT_MAX)
        return 0;
    return error_raise(ERROR_ARGUMENT, "%s: %s must be 1 to %d, not %lld", model, field, INT_MAX,
                       (long long)value);
}

int config_divided(const char *model, const char *field, int64_t value)
{
    const Context *context = context_here();
    int64_t ranks = context ? context_tensor_ranks_(context) : 1, fits = ranks;
    if (value % ranks == 0)
        return 0;
    while (value % fits || ranks % fits)
        fits--;
    return error_raise(ERROR_RANKS,
                       "%s: %lld ranks that compute a layer together do not divide %s %lld; %lld would",
                       model, (long long)ranks, field, (long long)value, (long long)fits);
}

int config_undivided(const char *function, const char *what)
{
    const Context *context = context_here();
    int ranks = context ? context_tensor_ranks_(context) : 1;
    if (ranks == 1)
        return 0;
    return error_raise(ERROR_RANKS,
                       "%s: %s not divided among %d ranks that compute a layer together; ranks that divide "
                       "the data alone go with that",
                       function, what, ranks);
}

int config_heads(const char *model, int64_t dim, int heads, int kv_heads)
{
    if (config_positive(model, "heads", heads) || config_positive(model, "kv_heads", kv_heads))
        return error_code();
    if (dim % heads)
        return error_raise(ERROR_ARGUMENT, "%s: %d heads do not divide the width %lld", model, heads,
                           (long long)dim);
    if (heads % kv_heads)
        return error_raise(ERROR_ARGUMENT, "%s: %d key-value heads do not divide %d heads", model, kv_heads,
                           heads);
    return 0;
}

int config_head_dim(const char *model, int dim, int heads, int kv_heads, int head_dim)
{
    int64_t width = head_dim ? (int64_t)heads * head_dim : dim;
    if ((head_dim && config_positive(model, "head_dim", head_dim)) ||
        config_heads(model, width, heads, kv_heads) || config_positive(model, "heads x head_dim", width))
        return 0;
    return (int)(width / heads);
}

int config_rotary(const char *model, int head_dim, float partial)
{
    if (!(partial >= 0 && partial <= 1))
        return error_raise(ERROR_ARGUMENT, "%s: partial_rotary is %g; it is a part, from 0 to 1", model,
                           (double)partial);
    int width = rotary_width(head_dim, partial);
    if (width % 2 == 0 && width > 0)
        return 0;
    if (width == head_dim)
        return error_raise(ERROR_ARGUMENT, "%s: rotary positions need an even head width, not %d", model,
                           head_dim);
    return error_raise(ERROR_ARGUMENT,
                       "%s: partial_rotary %g of a head of %d is %d; rotary positions need an even width",
                       model, (double)partial, head_dim, width);
}

RopeScaling config_rope_scaling(const LlamaConfig *config)
{
    RopeScaling scaling = config->rope_scaling;
    if (scaling.kind == ROPE_SCALING_LONGROPE && !scaling.divisors)
        scaling.divisors = &config->rope_divisors;
    return scaling;
}

/* ---- Embedding ------------------------------------------------------------------------------- */

static Tensor *embedding_forward(Module *module, Tensor *ids, const Batch *batch)
{
    const Embedding *self = nn_state(module);
    (void)batch;
    Tensor *y = tensor_embedding(ids, self->weight);
    if (self->weight->whole_rows) /* one rank has each id's row, and the others have zeros */
        y = module_leave(tensor_donate(y), NULL);
    return module_adapt(module, &self->adapter, y, ids);
}

static const ModuleClass embedding_class = {"embedding", sizeof(Embedding), embedding_forward};

Embedding *module_as_embedding(const Module *module)
{
    return module && module->type == &embedding_class ? module->state : NULL;
}

Tensor *module_embedding_parts(Module *module)
{
    Embedding *self = module_as_embedding(module);
    if (!self)
        return NULL;
    self->parts = 1;
    return self->weight;
}

/* rows: that this rank has of a vocabulary; vocab 0: it is whole on every rank. */
static Module *embedding(int64_t vocab, int64_t rows, int64_t dim)
{
    Module *module = nn_module(&embedding_class);
    Embedding *self = nn_state(module);
    if (!self)
        return NULL;
    self->weight = nn_add_parameter(module, "weight", SHAPE(rows, dim));
    if (self->weight)
        self->weight->table = 1;
    if (vocab)
        tensor_split_rows_(self->weight, vocab);
    tensor_fill_normal(self->weight, 0, 1);
    return error_code() ? NULL : module;
}

static int embedding_check(int64_t vocab, int64_t dim)
{
    return config_positive("embedding", "vocab", vocab) || config_positive("embedding", "dim", dim);
}

Module *nn_embedding(int64_t vocab, int64_t dim)
{
    return embedding_check(vocab, dim) ? NULL : embedding(0, vocab, dim);
}

Module *module_vocabulary(int64_t vocab, int64_t dim)
{
    if (embedding_check(vocab, dim) || !context_here())
        return NULL;
    return embedding(vocab, tensor_rows_each_(context_here(), vocab), dim);
}

Tensor *module_class_bias(Module *module, const char *name, int64_t classes)
{
    int64_t rows = module ? tensor_rows_each_(module->item.context, classes) : classes;
    Tensor *bias = nn_add_parameter(module, name, SHAPE(rows));
    tensor_split_rows_(bias, classes);
    tensor_fill(bias, 0);
    return bias;
}

/* ---- Norms ----------------------------------------------------------------------------------- */

typedef struct Norm {
    Tensor *weight, *bias;
    float eps, plus; /* plus: added to rms_norm's weight */
} Norm;

static Tensor *layer_norm_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Norm *self = nn_state(module);
    (void)batch;
    return tensor_layer_norm(x, self->weight, self->bias, self->eps);
}

static Tensor *rms_norm_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Norm *self = nn_state(module);
    (void)batch;
    return tensor_rms_norm_plus(x, self->weight, self->eps, self->plus);
}

static const ModuleClass layer_norm_class = {"layer_norm", sizeof(Norm), layer_norm_forward};
static const ModuleClass rms_norm_class = {"rms_norm", sizeof(Norm), rms_norm_forward};

static Module *norm(const ModuleClass *type, int64_t dim, float eps, float plus, int bias)
{
    if (config_positive(type->name, "dim", dim))
        return NULL;
    Module *module = nn_module(type);
    Norm *self = nn_state(module);
    if (!self)
        return NULL;
    self->eps = eps > 0 ? eps : 1e-5f;
    self->plus = plus;
    self->weight = nn_add_parameter(module, "weight", SHAPE(dim));
    tensor_fill(self->weight, 1 - plus);
    if (bias) {
        self->bias = nn_add_parameter(module, "bias", SHAPE(dim));
        tensor_fill(self->bias, 0);
    }
    return error_code() ? NULL : module;
}

Module *nn_layer_norm(int64_t dim, float eps)
{
    return module_layer_norm(dim, eps, 1);
}

Module *module_layer_norm(int64_t dim, float eps, int bias)
{
    return norm(&layer_norm_class, dim, eps, 0, bias);
}

Module *nn_rms_norm(int64_t dim, float eps)
{
    return module_rms_norm_plus(dim, eps, 0);
}

Module *module_rms_norm_plus(int64_t dim, float eps, float plus)
{
    return norm(&rms_norm_class, dim, eps, plus, 0);
}

Tensor *module_layer_norm_parts(const Module *module, Tensor **bias, float *eps)
{
    if (!module || module->type != &layer_norm_class)
        return NULL;
    const Norm *self = module->state;
    *bias = self->bias;
    *eps = self->eps;
    return self->weight;
}

/* ---- Dropout, activation --------------------------------------------------------------------- */

static Tensor *dropout_forward(Module *module, Tensor *x, const Batch *batch)
{
    return nn_is_training(module) ? module_dropout(x, *(float *)nn_state(module), batch) : x;
}

static const ModuleClass dropout_class = {"dropout", sizeof(float), dropout_forward};

Module *nn_dropout(float p)
{
    if (!(p >= 0 && p < 1)) {
        error_raise(ERROR_ARGUMENT, "dropout: probability %g is not in [0,1)", p);
        return NULL;
    }
    Module *module = nn_module(&dropout_class);
    if (module)
        *(float *)nn_state(module) = p;
    return module;
}

static Tensor *activation_forward(Module *module, Tensor *x, const Batch *batch)
{
    (void)batch;
    return tensor_activation(x, *(TensorActivation *)nn_state(module));
}

static const ModuleClass activation_class = {"activation", sizeof(TensorActivation), activation_forward};

Module *nn_activation(TensorActivation act)
{
    Module *module = nn_module(&activation_class);
    if (module)
        *(TensorActivation *)nn_state(module) = act;
    return module;
}

/* ---- Sequential ------------------------------------------------------------------------------ */

static Tensor *sequential_forward(Module *module, Tensor *x, const Batch *batch)
{
    for (int i = 0; i < module->child_count && x; i++) {
        Tensor *y = nn_forward(module->children[i], i ? tensor_donate(x) : x, batch);
        x = y;
    }
    return x;
}

static const ModuleClass sequential_class = {"sequential", 0, sequential_forward};

Module *nn_sequential(void)
{
    return nn_module(&sequential_class);
}
