/* The plain feed-forward: down(act(up(x))), GPT-2's and its relatives'. */
#include "module_.h"

typedef struct Plain {
    Module *up, *down;
} Plain;

static Tensor *plain_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Plain *self = nn_state(module);
    Tensor *hidden = nn_forward(self->up, module_enter(x, batch), batch); /* (B,T,F) */
    return nn_forward(self->down, tensor_donate(hidden), batch);
}

static const ModuleClass plain_class = {"plain", sizeof(Plain), plain_forward};

Module *module_plain(const PlainOptions *o)
{
    if (config_divided("feed-forward", "hidden", o->hidden))
        return NULL;
    Module *module = nn_module(&plain_class);
    Plain *self = nn_state(module);
    if (!self)
        return NULL;
    LinearOptions up = {.in = o->dim,
                        .out = o->hidden,
                        .bias = o->bias,
                        .act = o->act,
                        .in_out = o->in_out,
                        .split = LINEAR_BY_OUTPUTS},
                  down = {.in = o->hidden,
                          .out = o->dim,
                          .bias = o->bias,
                          .in_out = o->in_out,
                          .split = LINEAR_BY_INPUTS};
    self->up = nn_add(module, o->up, module_linear(&up));
    self->down = nn_add(module, o->down, module_linear(&down));
    return error_code() ? NULL : module;
}

Module *module_plain_down(const Module *plain)
{
    return ((const Plain *)plain->state)->down;
}
