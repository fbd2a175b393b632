/* A module and a model of one's own: gated residual blocks with a parameter of their own, in a model with its
 * own forward and its own loss, which guesses the next byte from the last one.      own_module [STEPS] 300
 */
#include <brim.h>

#include <math.h>
#include <stdlib.h>

/* x + down(silu(norm(x) gate^T) * up(norm(x))): a module holds other modules, and parameters of its own. */
typedef struct GatedBlock {
    Module *norm, *up, *down;
    Tensor *gate; /* (hidden, width) */
} GatedBlock;

static Tensor *gated_forward(Module *module, Tensor *x, const Batch *batch) /* (…,width) -> (…,width) */
{
    const GatedBlock *self = nn_state(module);
    Tensor *normed = nn_forward(self->norm, x, batch);
    Tensor *gate = tensor_linear(normed, self->gate, NULL, TENSOR_SILU); /* (…,hidden) */
    Tensor *up = nn_forward(self->up, tensor_move(normed), batch);       /* move: not used any more */
    Tensor *inner = tensor_mul(tensor_move(gate), tensor_move(up));
    return tensor_add(x, tensor_move(nn_forward(self->down, tensor_move(inner), batch)));
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

/* The model: x is NULL, it reads the batch. Its state is one pointer. */
static Tensor *guesser_forward(Module *module, Tensor *x, const Batch *batch) /* -> (B,T,256) */
{
    Module *const *layers = nn_state(module);
    return nn_forward(*layers, x ? x : batch->ids, batch);
}

static Module *guesser(void)
{
    static const ModuleClass type = {"guesser", sizeof(Module *), guesser_forward};
    Module *module = nn_module(&type), **layers = nn_state(module);
    if (!module)
        return NULL;
    *layers = nn_add(module, "layers", nn_sequential());
    nn_append(*layers, nn_embedding(256, 64));
    for (int i = 0; i < 2; i++)
        nn_mark_block(module, nn_append(*layers, gated_block(64, 128))); /* marked: can be checkpointed */
    nn_append(*layers, nn_linear(64, 256, 1));
    return error_code() ? NULL : module;
}

/* Cross-entropy, and a little for large logits. labels_total counts the whole step; while planning it is 0.
 */
static Tensor *guesser_loss(Module *model, const Batch *batch)
{
    float share = 1.0f / (batch->labels_total ? (float)batch->labels_total : 1.0f);
    Tensor *logits = nn_forward(model, NULL, batch);
    Tensor *wrong = tensor_cross_entropy(logits, batch->labels, BATCH_IGNORE, share);
    return tensor_add(wrong, tensor_scale(tensor_sum(tensor_mul(logits, logits)), 1e-6f * share));
}

static int train(void *argument) /* as in llama.c */
{
    Loader *data = data_text("builtin", &(TextOptions){.batch = 8, .seq = 128, .seed = 1});
    Module *model = guesser();
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 3e-3f});
    for (int step = 0; step < *(const int *)argument && !error_code(); step++) {
        int scope = tensor_scope_begin();
        double loss = 0;
        for (const Batch *batch; (batch = data_next(data));) {
            Tensor *part = guesser_loss(model, batch);
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
    int steps = argc > 1 ? atoi(argv[1]) : 300;
    return brim_run(train, &steps, &(RunOptions){.title = "own_module.c: two gated blocks", .every = 30});
}
