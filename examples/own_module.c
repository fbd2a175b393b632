/* A module and a model of one's own: gated residual blocks with a parameter of their own, in a model with its own forward and
 * its own loss, trained to squeeze waves of 32 samples through 3 numbers.      own_module [STEPS]          800
 */
#include <brim.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { WIDTH = 32, CODE = 3, ROWS = 2048 };

/* ---- The block: x + down(silu(norm(x) gate^T) * up(norm(x))). It holds two modules and a parameter of its own. */

typedef struct GatedBlock {
    Module *norm, *up, *down;
    Tensor *gate; /* (hidden, width) */
} GatedBlock;

static Tensor *gated_forward(Module *module, Tensor *x, const Batch *batch) /* (B,width) -> (B,width) */
{
    const GatedBlock *self = nn_state(module);
    Tensor *normed = nn_forward(self->norm, x, batch);
    Tensor *gate = tensor_linear(normed, self->gate, NULL, TENSOR_SILU); /* (B,hidden) */
    Tensor *up = nn_forward(self->up, tensor_move(normed), batch);       /* tensor_move: not used below */
    Tensor *inner = tensor_mul(tensor_move(gate), tensor_move(up));
    return tensor_add(x, nn_forward(self->down, tensor_move(inner), batch));
}

static Module *gated_block(int64_t width, int64_t hidden)
{
    static const ModuleClass type = {"gated_block", sizeof(GatedBlock), gated_forward};
    Module *module = nn_module(&type);
    GatedBlock *self = nn_state(module);
    if (!self)
        return NULL;
    self->norm = nn_add(module, "norm", nn_rms_norm(width, 0));
    self->up = nn_add(module, "up", nn_linear(width, hidden, 0));
    self->down = nn_add(module, "down", nn_linear(hidden, width, 1));
    self->gate = nn_add_parameter(module, "gate", SHAPE(hidden, width));
    tensor_fill_normal(self->gate, 0, 1.0f / sqrtf((float)width));
    return error_code() ? NULL : module;
}

/* ---- The model: an autoencoder. A whole model is applied to nothing (x is NULL) and reads the batch. */

typedef struct Autoencoder {
    Module *stages;
} Autoencoder;

static Tensor *autoencoder_forward(Module *module, Tensor *x, const Batch *batch)
{
    const Autoencoder *self = nn_state(module);
    return nn_forward(self->stages, x ? x : batch->features, batch);
}

static Module *autoencoder(void)
{
    static const ModuleClass type = {"autoencoder", sizeof(Autoencoder), autoencoder_forward};
    Module *module = nn_module(&type);
    Autoencoder *self = nn_state(module);
    if (!self)
        return NULL;
    self->stages = nn_add(module, "stages", nn_sequential());
    nn_append(self->stages, gated_block(WIDTH, 64));
    nn_append(self->stages, nn_linear(WIDTH, CODE, 1));
    nn_append(self->stages, nn_linear(CODE, WIDTH, 1));
    nn_append(self->stages, gated_block(WIDTH, 64));
    nn_append(self->stages, gated_block(WIDTH, 64));
    return error_code() ? NULL : module;
}

/* Mean squared difference between what goes in and what comes out. */
static Tensor *reconstruction_loss(Module *model, const Batch *batch)
{
    Tensor *out = nn_forward(model, NULL, batch);
    Tensor *difference = tensor_add(tensor_move(out), tensor_scale(batch->features, -1));
    return tensor_mean(tensor_mul(difference, difference));
}

/* ---- The rest is as in llama.c. */

static Loader *waves(void)
{
    static float samples[ROWS * WIDTH];
    static int32_t labels[ROWS]; /* not used */
    for (int row = 0; row < ROWS; row++) {
        double phase = 6.2832 * rand() / RAND_MAX, frequency = 0.1 + 0.3 * rand() / RAND_MAX;
        for (int i = 0; i < WIDTH; i++)
            samples[row * WIDTH + i] = (float)sin(phase + frequency * i);
    }
    return data_table(&(TableOptions){.features = samples, .labels = labels, .count = ROWS, .width = WIDTH});
}

static int train(void *argument)
{
    int steps = *(const int *)argument;
    Loader *data = waves();
    Module *model = autoencoder();
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 3e-3f});
    optim_set_schedule(optimizer, &(Schedule){.kind = SCHEDULE_COSINE, .warmup = 20, .total = steps});
    for (int step = 0; step < steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        double loss = 0;
        for (const Batch *batch; (batch = data_next(data));) {
            Tensor *part = reconstruction_loss(model, batch);
            tensor_backward(part);
            loss += tensor_item(part);
        }
        brim_step(loss, data_step_tokens(data));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    return error_code();
}

int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 800;
    return brim_run(train, &steps, &(RunOptions){.title = "own_module.c: waves through 3 numbers", .every = 80});
}
