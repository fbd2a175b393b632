/* The multi-layer perceptron: linear layers with ReLU between. */
#include <stdio.h>

#include "module_.h"

typedef struct Mlp {
    Module *dropout;
} Mlp;

static Tensor *mlp_between_blocks(Module *module, Tensor *x, const Batch *batch)
{
    const Mlp *self = nn_state(module);
    return nn_forward(self->dropout, x, batch);
}

static Tensor *mlp_forward(Module *module, Tensor *x, const Batch *batch)
{
    if (!x && batch)
        x = batch->features;
    if (!x) {
        error_raise(ERROR_DATA, "mlp: the batch has no features");
        return NULL;
    }
    return nn_run_blocks(module, tensor_cast(x, tensor_precision()->activations), batch);
}

static const ModuleClass mlp_class = {"mlp", sizeof(Mlp), mlp_forward};

Module *nn_mlp(const MlpConfig *config)
{
    int count = 0;
    if (config_missing("mlp", config))
        return NULL;
    while (count < 16 && config->sizes[count])
        if (config_positive("mlp", "every size", config->sizes[count++]))
            return NULL;
    if (count < 2 || count == 16) {
        error_raise(ERROR_ARGUMENT,
                    "mlp: 2 to 15 sizes are needed (inputs, hidden …, outputs), then a 0; there are %d",
                    count);
        return NULL;
    }
    if (config_undivided("mlp", "its layers are"))
        return NULL;
    Module *module = nn_module(&mlp_class);
    Mlp *self = nn_state(module);
    if (!self)
        return NULL;
    for (int i = 0; i + 1 < count && !error_code(); i++) {
        char name[24];
        snprintf(name, sizeof name, "layers.%d", i);
        int last = i + 2 == count;
        LinearOptions layer = {.in = config->sizes[i],
                               .out = config->sizes[i + 1],
                               .bias = 1,
                               .act = last ? TENSOR_IDENTITY : TENSOR_RELU,
                               .head = last};
        nn_mark_block(module, nn_add(module, name, module_linear(&layer)));
    }
    Model *model = module_model(module);
    if (model)
        model->between_blocks = mlp_between_blocks;
    self->dropout = nn_add(module, "dropout", nn_dropout(config->dropout));
    return error_code() ? NULL : module;
}

/* ---- The family ------------------------------------------------------------------------------ */

static Module *make(const ModelPreset *preset)
{
    return nn_mlp(&preset->config.mlp);
}

static ModelSizes sizes(const ModelPreset *preset)
{
    const int *width = preset->config.mlp.sizes;
    ModelSizes sizes = {.inputs = width[0]};
    for (int i = 0; i < 16 && width[i]; i++) {
        sizes.vocab = width[i];
        sizes.layers = i;
    }
    return sizes;
}

const ModelFamilyRow mlp_family = {
    .name = "mlp",
    .reads = MODEL_READS_FEATURES,
    .objective = OBJECTIVE_CLASSIFICATION,
    .lr = 1e-3f,
    .make = make,
    .sizes = sizes,
    .dropout_at = offsetof(ModelPreset, config.mlp.dropout),
};
