/* Mixtures of experts: a router, and all experts of a layer as two parameters of three dimensions, named as
 * in transformers' models. */
#include <math.h>

#include "decoder_.h"

/* Holds the weights; the layer runs them. */
typedef struct Experts {
    Tensor *gate_up, *down; /* (E,2I,C), rows of the gate first; (E,C,I) */
    ExpertsOptions options;
} Experts;

static const ModuleClass experts_class = {"experts", sizeof(Experts), NULL};

/* shared: an expert that every token goes to, whose output its own gate multiplies; NULL: there is none. */
typedef struct Mixture {
    Module *gate, *experts, *shared, *shared_gate;
} Mixture;

/* Of the experts, not of the layer, is what they compute charged. */
static Tensor *run_experts(Module *module, Tensor *x, Tensor *logits, const Batch *batch)
{
    const Experts *self = nn_state(module);
    MemTracker *tracker = module->item.context->tracker;
    int path = memtrack_path_set(tracker, module->path);
    ExpertsOptions options = self->options;
    options.balance = module_balance_stats(module);
    options.mask = options.balance ? batch->mask : NULL;
    Tensor *y = tensor_experts(x, tensor_donate(logits), module_weight_for(self->gate_up, x),
                               module_weight_for(self->down, x), &options);
    memtrack_path_set(tracker, path);
    return y;
}

static Tensor *mixture_forward(Module *module, Tensor *x, const Batch *batch) /* (B,T,C) */
{
    const Mixture *self = nn_state(module);
    Tensor *logits = nn_forward(self->gate, x, batch); /* (B,T,E) */
    Tensor *y = run_experts(self->experts, x, logits, batch);
    if (!self->shared)
        return y;
    Tensor *all = nn_forward(self->shared, x, batch), *gate = nn_forward(self->shared_gate, x, batch);
    all = tensor_gate_rows(tensor_donate(all), tensor_donate(gate)); /* gate (B,T,1) */
    return tensor_add(tensor_donate(y), tensor_donate(all));
}

static const ModuleClass mixture_class = {"mixture", sizeof(Mixture), mixture_forward};

/* ---- Making ---------------------------------------------------------------------------------- */

int config_experts(const DecoderParts *parts, const LlamaConfig *c)
{
    const ExpertsConfig *e = &c->experts;
    const char *model = parts->type->name;
    if (config_positive(model, "experts.count", e->count) ||
        config_positive(model, "experts.active", e->active) ||
        (e->hidden && config_positive(model, "experts.hidden", e->hidden)) ||
        (e->shared_hidden && config_positive(model, "experts.shared_hidden", e->shared_hidden)))
        return error_code();
    if (e->active > e->count)
        return error_raise(ERROR_ARGUMENT, "%s: a token goes to %d of %d experts", model, e->active,
                           e->count);
    if (e->shared_hidden && !parts->shared_expert)
        return error_raise(ERROR_ARGUMENT,
                           "%s: models of this family have no expert that all tokens share; qwen2_moe's do",
                           model);
    return config_undivided(model, "experts are") || config_no_rows(model, "experts are");
}

/* Parameters (count, rows, columns), drawn as a linear layer's are. */
static Tensor *matrices(Module *module, const char *name, int64_t count, int64_t rows, int64_t columns)
{
    float bound = 1 / sqrtf((float)columns);
    Tensor *tensor =
        module_add_parameter(module, name, SHAPE(count, rows, columns), module_linear_type(module));
    tensor_fill_uniform(tensor, -bound, bound);
    return tensor;
}

static Module *experts(const LlamaConfig *c)
{
    const ExpertsConfig *e = &c->experts;
    int64_t hidden = e->hidden ? e->hidden : c->hidden;
    Module *module = nn_module(&experts_class);
    Experts *self = nn_state(module);
    if (!self)
        return NULL;
    self->options = (ExpertsOptions){.active = e->active, .normalise = e->normalise};
    self->gate_up = matrices(module, "gate_up_proj", e->count, 2 * hidden, c->dim);
    self->down = matrices(module, "down_proj", e->count, c->dim, hidden);
    return error_code() ? NULL : module;
}

Module *module_experts(const LlamaConfig *c, int layer)
{
    if (layer_in(&c->experts.dense, layer))
        return module_gated(c->dim, c->hidden, c->mlp_bias, TENSOR_SILU, 0);
    Module *module = nn_module(&mixture_class);
    Mixture *self = nn_state(module);
    if (!self)
        return NULL;
    /* Logits come from it, so it is never quantised. */
    self->gate = nn_add(
        module, "gate",
        module_linear(&(LinearOptions){.in = c->dim, .out = c->experts.count, .head = 1, .router = 1}));
    self->experts = nn_add(module, "experts", experts(c));
    if (c->experts.shared_hidden) {
        self->shared = nn_add(module, "shared_expert",
                              module_gated(c->dim, c->experts.shared_hidden, 0, TENSOR_SILU, 0));
        self->shared_gate = nn_add(module, "shared_expert_gate", nn_linear(c->dim, 1, 0));
    }
    return error_code() ? NULL : module;
}

int module_quantize_experts(const Module *module, DType dtype)
{
    const Experts *self = module->type == &experts_class ? module->state : NULL;
    if (!self || dtype_is_quantized(self->gate_up->dtype))
        return 0;
    return tensor_convert_(self->gate_up, dtype) || tensor_convert_(self->down, dtype) ? -1 : 2;
}

int64_t module_active_share(const Module *module, int64_t elements)
{
    if (module->type != &experts_class)
        return elements;
    const Experts *self = module->state;
    return elements / tensor_whole_shape_(self->gate_up).dim[0] * self->options.active;
}

/* ---- The loss that balances them ------------------------------------------------------------- */

int module_balance(Module *module, const ExpertsConfig *e)
{
    if (!e->count || !(e->balance > 0))
        return 0;
    if (context_stages_(module->item.context) > 1)
        return error_raise(
            ERROR_RANKS,
            "%s: the loss that balances experts counts all layers, and a stage has some; without "
            "it (router_aux_loss_coef 0), or without stages",
            module->type->name);
    Model *model = module_model(module);
    Tensor *stats = model ? tensor_zeros(DTYPE_F32, SHAPE(3, e->count), MEM_BUFFER) : NULL;
    if (!stats)
        return error_code();
    scope_release(&stats->item);
    model->balance_stats = stats;
    model->balance_active = e->active;
    model->balance = e->balance;
    return 0;
}

void module_balance_begin(const Module *module)
{
    if (module->model && module->model->balance_stats && !module->item.context->in_backward)
        tensor_balance_begin(module->model->balance_stats);
}

Tensor *module_balance_stats(const Module *module)
{
    while (module && !(module->model && module->model->balance_stats))
        module = module->parent;
    return module ? module->model->balance_stats : NULL;
}
