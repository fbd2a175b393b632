/* A module of one's own, which holds another and a parameter, and a loss of one's own, in a model that
 * guesses the next byte from the last. Read llama.c first.      own_module [STEPS] */
#include <brim.h>

#include <stdlib.h>

typedef struct GatedBlock { /* x + silu(x gate^T) * up(x) */
    Module *up;
    Tensor *gate; /* (width,width) */
} GatedBlock;

static Tensor *gated_forward(Module *module, Tensor *x, const Batch *batch) /* (…,width) -> (…,width) */
{
    const GatedBlock *self = nn_state(module);
    Tensor *gate = tensor_linear(x, self->gate, NULL, TENSOR_SILU);
    Tensor *up = nn_forward(self->up, x, batch);
    return tensor_add(x,
                      tensor_donate(tensor_mul(tensor_donate(gate), tensor_donate(up)))); /* their last use */
}

static Module *gated_block(int64_t width)
{
    static const ModuleClass type = {"gated_block", sizeof(GatedBlock), gated_forward};
    Module *module = nn_module(&type);
    GatedBlock *self = nn_state(module);
    if (!self)
        return NULL;
    self->up = nn_add(module, "up", nn_linear(width, width, 1));
    self->gate = nn_add_parameter(module, "gate", SHAPE(width, width));
    tensor_fill_normal(self->gate, 0, 0.1f);
    return error_code() ? NULL : module;
}

static Tensor *loss_of(Module *model, const Batch *b) /* cross-entropy, and a little for large logits */
{
    Tensor *logits = nn_forward(model, b->ids, b); /* (B,T,256) */
    Tensor *large = tensor_scale(tensor_sum(tensor_mul(logits, logits)), 1e-6f);
    Tensor *sum = tensor_add(tensor_cross_entropy(logits, b->labels, BATCH_IGNORE, 1), large);
    return tensor_scale(sum, 1.0f / (float)b->labels_total); /* of the whole step: micro-batches add up */
}

static int train(void *steps)
{
    Loader *data = data_text("builtin", &(TextOptions){.batch = 8, .seq = 128, .seed = 1});
    Module *model = nn_sequential();
    nn_append(model, nn_embedding(256, 64));
    nn_append(model, gated_block(64));
    nn_append(model, nn_linear(64, 256, 1));
    Optimizer *opt = optim_adamw(nn_parameters(model), &(AdamW){.lr = 3e-3f});
    for (int step = 0; step < *(int *)steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(loss_of(model, b));
        optim_step(opt);
        optim_zero_grad(opt);
        brim_step(data_step_tokens(data));
        tensor_scope_end(scope);
    }
    return error_code();
}

int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 300;
    return brim_run(train, &steps, &(RunOptions){.title = "own_module.c: a gated block", .every = 30});
}
