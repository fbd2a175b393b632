/* What only a whole model has: a head, and the loss that comes after it. Its repeated blocks are blocks.c's.
 */
#include <string.h>

#include "module_.h"

/* Rows of a head that are computed together where only those with a label are: enough for products to run at
 * full speed, and few beside a batch. */
enum { LABELLED_ROWS = 256 };

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
    Linear *linear = module_as_linear(model->head_module);
    if (linear) {
        linear->head = 1;
        linear->softcap = head->softcap;
    }
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

static Tensor *body_forward(void *self, Tensor *x, const Batch *batch)
{
    return ((Module *)self)->model->head.body(self, x, batch);
}

static Tensor *run_body(void *self, Tensor *x, const Batch *batch)
{
    return module_run(body_forward, self, x, batch);
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
    if (head->softcap != 0)
        logits = tensor_softcap(tensor_donate(logits), head->softcap);
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

void nn_set_skip_unlabelled(Module *module, int on)
{
    if (module && module_model(module))
        module->model->skip_unlabelled = on != 0;
}

static Tensor *logits_forward(void *self, Tensor *x, const Batch *batch)
{
    return module_logits(self, x, batch);
}

static Tensor *run_logits(void *self, Tensor *x, const Batch *batch)
{
    return module_run(logits_forward, self, x, batch);
}

static Tensor *uncapped_forward(void *self, Tensor *x, const Batch *batch)
{
    return module_uncapped(self, x, batch);
}

static Tensor *run_uncapped(void *self, Tensor *x, const Batch *batch)
{
    return module_run(uncapped_forward, self, x, batch);
}

/* The head can be computed apart, and only the loss sees its logits: their rows may be longer than the
 * classes are many, or each rank has those of a part of the classes. A checkpoint computes all that is in it
 * once more, the head too. */
static int logits_apart(const Module *model)
{
    const ModuleHead *head = model->model ? &model->model->head : NULL;
    const Module *module = head ? model->model->head_module : NULL;
    const Linear *linear = module_as_linear(module);
    if (!linear || linear->adapter.a || linear->act != TENSOR_IDENTITY || linear->weight->in_out)
        return 0;
    int64_t classes = head->weight->shape.dim[0];
    if (head->weight->whole_rows)
        return 1;
    return !model->checkpoint && !module->checkpoint &&
           tensor_logits_ld_(model->item.context, classes) != classes;
}

/* A soft cap is the loss's, so that there are no logits beside the capped ones. */
static int capped_apart(const Module *model)
{
    const ModuleHead *head = model->model ? &model->model->head : NULL;
    return head && head->softcap != 0 && model->model->head_module;
}

/* x: what the stage before has computed; NULL: there is none. */
static Tensor *whole_loss(Module *model, Tensor *x, const Batch *batch, float scale)
{
    Tensor *logits;
    LossOptions options = {.ignore_index = BATCH_IGNORE, .scale = scale};
    int apart = logits_apart(model), capped = capped_apart(model);
    if (apart || capped) {
        Tensor *hidden = module_forward_by(run_hidden, model, x, batch);
        logits = module_forward_by(apart ? run_logits : run_uncapped, model->model->head_module,
                                   tensor_donate(hidden), batch);
        options.softcap = model->model->head.softcap;
    } else {
        logits = nn_forward(model, x, batch);
    }
    if (!batch->labels)
        error_raise(ERROR_DATA, "nn_loss(): the batch has no labels");
    MemTracker *tracker = model->item.context->tracker;
    int pushed = push_path(tracker, "loss");
    const Tensor *weight = apart ? model->model->head.weight : NULL;
    Tensor *loss = weight && weight->whole_rows
                       ? tensor_cross_entropy_part_(tensor_donate(logits), tensor_rows_part_(weight),
                                                    batch->labels, &options)
                       : tensor_cross_entropy_with(tensor_donate(logits), batch->labels, &options);
    if (pushed >= 0)
        memtrack_path_pop(tracker);
    return loss;
}

/* The head, where it can be computed apart from the rest of the model; NULL after an error. */
static const ModuleHead *head_apart(const Module *model, const char *how, const char *setting)
{
    const ModuleHead *head = &model->model->head;
    if (!head->weight) {
        error_raise(
            ERROR_STATE,
            "nn_loss(): this %s offers no head that can be computed %s (%s); llama, gpt2 and bert with "
            "its masked-language head do, a model of your own by nn_offer_head",
            model->type->name, how, setting);
        return NULL;
    }
    const Linear *linear = module_as_linear(model->model->head_module);
    if (linear && linear->adapter.a) {
        error_raise(ERROR_STATE,
                    "nn_loss(): the head has an adapter, which a loss %s does not compute; call %s(model, 0)",
                    how, setting);
        return NULL;
    }
    return head;
}

/* What the transform is made of. Returns 1 where it is in the loss: an adapter keeps it with the modules, as
 * do classes that ranks have a part of each. */
static int transform_inside(const ModuleHead *head, LossHead *loss)
{
    const Linear *dense = head->body ? module_as_linear(head->dense) : NULL;
    if (!dense || dense->adapter.a || dense->weight->in_out || head->weight->whole_rows)
        return 0;
    loss->norm = module_layer_norm_parts(head->norm, &loss->norm_bias, &loss->eps);
    if (!loss->norm)
        return 0;
    loss->dense = dense->weight;
    loss->dense_bias = dense->bias;
    loss->act = dense->act;
    return 1;
}

static Tensor *apart_loss(Module *model, Tensor *x, const Batch *batch, float scale)
{
    const Model *m = model->model;
    const ModuleHead *head = m->skip_unlabelled
                                 ? head_apart(model, "for labelled rows only", "nn_set_skip_unlabelled")
                                 : head_apart(model, "in chunks", "nn_set_loss_chunk");
    if (!head)
        return NULL;
    LossHead loss_head = {.weight = head->weight, .bias = head->bias, .softcap = head->softcap};
    LossOptions options = {
        .ignore_index = BATCH_IGNORE, .scale = scale, .softcap = head->softcap, .chunk_rows = m->loss_chunk};
    int inside = m->skip_unlabelled && transform_inside(head, &loss_head);
    Tensor *hidden = module_forward_by(inside ? run_body : run_hidden, model, x, batch); /* (…,C) */
    if (!batch->labels)
        error_raise(ERROR_DATA, "nn_loss(): the batch has no labels");
    MemTracker *tracker = model->item.context->tracker;
    int path = memtrack_path_set(tracker, model->path), pushed = push_path(tracker, head->path);
    if (head->weight->whole_rows)
        hidden = tensor_donate(module_enter(tensor_donate(hidden), batch));
    Tensor *loss =
        m->skip_unlabelled
            ? tensor_labelled_cross_entropy(tensor_donate(hidden), &loss_head, batch->labels, BATCH_IGNORE,
                                            scale, m->loss_chunk ? m->loss_chunk : LABELLED_ROWS)
            : tensor_linear_cross_entropy_with(tensor_donate(hidden), head->weight, head->bias, batch->labels,
                                               &options);
    if (pushed >= 0)
        memtrack_path_pop(tracker);
    memtrack_path_set(tracker, path);
    return loss;
}

Tensor *module_loss_from(Module *model, Tensor *x, const Batch *batch)
{
    /* Hand-made batches may forget labels_total. */
    float scale = batch->labels_total > 0 ? 1.0f / (float)batch->labels_total : 0.0f;
    const Model *m = model->model;
    Tensor *loss = m && (m->loss_chunk || m->skip_unlabelled) ? apart_loss(model, x, batch, scale)
                                                              : whole_loss(model, x, batch, scale);
    return m && m->balance_stats
               ? tensor_balance_loss(tensor_donate(loss), m->balance_stats, m->balance_active, m->balance)
               : loss;
}

Tensor *nn_loss(Module *model, const Batch *batch)
{
    if (!model || !batch || !context_here() || error_code())
        return NULL;
    return context_stages_(model->item.context) > 1 ? module_stages_loss(model, batch)
                                                    : module_loss_from(model, NULL, batch);
}
