/* What only a whole model has: a head, and the loss that comes after it. Its repeated blocks are blocks.c's.
 */
#include <string.h>

#include "module_.h"

Model *module_model(Module *module)
{
    if (!module->model)
        module->model = host_alloc(sizeof *module->model);
    return module->model;
}

/* ---- The head -------------------------------------------------------------------------------- */

/* The linear layer with this weight and bias, at any depth; NULL where the model multiplies by itself. */
static Module *find_linear(Module *module, const ModuleHead *head)
{
    const Linear *linear = module_as_linear(module);
    if (linear && linear->weight == head->weight && linear->bias == head->bias)
        return module;
    Module *found = NULL;
    for (int i = 0; i < module->child_count && !found; i++)
        found = find_linear(module->children[i], head);
    return found;
}

void nn_offer_head(Module *module, const ModuleHead *head)
{
    Model *model = module && head->hidden && head->weight && head->path ? module_model(module) : NULL;
    if (!model)
        return;
    model->head = *head;
    model->head_module = find_linear(module, head);
    if (model->head_module)
        module_as_linear(model->head_module)->head = 1;
}

/* Returns what memtrack_path_push does; an error is raised. */
static int push_path(MemTracker *tracker, const char *name)
{
    int pushed = memtrack_path_push(tracker, name);
    if (pushed < 0)
        error_raise(ERROR_HOST_MEMORY, "out of host memory for the module path '%s'", name);
    return pushed;
}

static Tensor *hidden_forward(void *self, Tensor *x, const Batch *batch)
{
    return ((Module *)self)->model->head.hidden(self, x, batch);
}

static Tensor *run_hidden(void *self, Tensor *x, const Batch *batch)
{
    return module_run(hidden_forward, self, x, batch);
}

Tensor *module_hidden(Module *model, const Batch *batch)
{
    return module_forward_by(run_hidden, model, NULL, batch);
}

Tensor *module_head(Module *model, Tensor *hidden)
{
    const ModuleHead *head = &model->model->head;
    if (model->model->head_module)
        return nn_forward(model->model->head_module, hidden, NULL);
    MemTracker *tracker = model->item.context->tracker;
    int path = memtrack_path_set(tracker, model->path), pushed = push_path(tracker, head->path);
    Tensor *logits = tensor_linear(hidden, head->weight, head->bias, TENSOR_IDENTITY);
    if (pushed >= 0)
        memtrack_path_pop(tracker);
    memtrack_path_set(tracker, path);
    return logits;
}

/* ---- The loss -------------------------------------------------------------------------------- */

void nn_set_loss_chunk(Module *module, int rows)
{
    if (rows < 0)
        error_raise(ERROR_ARGUMENT, "nn_set_loss_chunk(): chunks of %d rows; 0 means off", rows);
    else if (module && module_model(module))
        module->model->loss_chunk = rows;
}

static Tensor *whole_loss(Module *model, const Batch *batch, float scale)
{
    Tensor *logits = nn_forward(model, NULL, batch);
    if (!batch->labels)
        error_raise(ERROR_DATA, "nn_loss(): the batch has no labels");
    MemTracker *tracker = model->item.context->tracker;
    int pushed = push_path(tracker, "loss");
    Tensor *loss = tensor_cross_entropy(tensor_donate(logits), batch->labels, BATCH_IGNORE, scale);
    if (pushed >= 0)
        memtrack_path_pop(tracker);
    return loss;
}

static Tensor *chunked_loss(Module *model, const Batch *batch, float scale)
{
    const ModuleHead *head = &model->model->head;
    if (!head->weight) {
        error_raise(ERROR_STATE,
                    "nn_loss(): this %s offers no head that can be computed in chunks (nn_set_loss_chunk); "
                    "llama, gpt2 and bert with its masked-language head do, a model of your own by "
                    "nn_offer_head",
                    model->type->name);
        return NULL;
    }
    const Linear *linear = module_as_linear(model->model->head_module);
    if (linear && linear->adapter.a) {
        error_raise(ERROR_STATE,
                    "nn_loss(): the head has an adapter, which a loss in chunks does not compute; "
                    "call nn_set_loss_chunk(model, 0)");
        return NULL;
    }
    Tensor *hidden = module_hidden(model, batch); /* (…,C) */
    if (!batch->labels)
        error_raise(ERROR_DATA, "nn_loss(): the batch has no labels");
    MemTracker *tracker = model->item.context->tracker;
    int path = memtrack_path_set(tracker, model->path), pushed = push_path(tracker, head->path);
    Tensor *loss = tensor_linear_cross_entropy(tensor_donate(hidden), head->weight, head->bias, batch->labels,
                                               BATCH_IGNORE, scale, model->model->loss_chunk);
    if (pushed >= 0)
        memtrack_path_pop(tracker);
    memtrack_path_set(tracker, path);
    return loss;
}

Tensor *nn_loss(Module *model, const Batch *batch)
{
    if (!model || !batch || !context_here() || error_code())
        return NULL;
    /* Hand-made batches may forget labels_total. */
    float scale = batch->labels_total > 0 ? 1.0f / (float)batch->labels_total : 0.0f;
    return model->model && model->model->loss_chunk ? chunked_loss(model, batch, scale)
                                                    : whole_loss(model, batch, scale);
}
