/* The gated feed-forward: down(act(gate(x)) up(x)), LLaMA's and its relatives' (Shazeer, arXiv 2002.05202).
 */
#include "module_.h"

/* fused: gate makes both, side by side, and there is no up. */
typedef struct Gated {
    Module *gate, *up, *down;
    TensorActivation act;
} Gated;

static Tensor *gated_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Gated *self = nn_state(module);
    x = module_enter(x, batch);
    Tensor *gate = nn_forward(self->gate, x, batch), *hidden;
    if (self->up) {
        Tensor *up = nn_forward(self->up, x, batch);
        hidden = tensor_gated(tensor_donate(gate), tensor_donate(up), self->act);
    } else {
        hidden = tensor_gated_packed(tensor_donate(gate), self->act);
    }
    return nn_forward(self->down, tensor_donate(hidden), batch);
}

static const ModuleClass gated_class = {"gated", sizeof(Gated), gated_forward};

Module *module_gated(int64_t dim, int64_t hidden, int bias, TensorActivation act, int fused)
{
    if (config_divided("gated", "hidden", hidden))
        return NULL;
    Module *module = nn_module(&gated_class);
    Gated *self = nn_state(module);
    if (!self)
        return NULL;
    self->act = act;
    if (fused) {
        self->gate =
            nn_add(module, "gate_up_proj",
                   module_linear(&(LinearOptions){
                       .in = dim, .out = 2 * hidden, .bias = bias, .split = LINEAR_BY_OUTPUTS, .packed = 2}));
    } else {
        self->gate = nn_add(module, "gate_proj", module_linear_split(dim, hidden, bias, LINEAR_BY_OUTPUTS));
        self->up = nn_add(module, "up_proj", module_linear_split(dim, hidden, bias, LINEAR_BY_OUTPUTS));
    }
    self->down = nn_add(module, "down_proj", module_linear_split(hidden, dim, bias, LINEAR_BY_INPUTS));
    return error_code() ? NULL : module;
}

Module *nn_swiglu(int64_t dim, int64_t hidden)
{
    return module_gated(dim, hidden, 0, TENSOR_SILU, 0);
}
