/* Models in stages, one a rank: which blocks a stage has, and the schedule in which it runs a step's
 * micro-batches. Every stage makes the whole model's modules; the parameters of other stages are headers,
 * whose random streams count on, so that a stage begins with the weights that the whole model would have. */
#include "../tensor/ranks_.h"
#include "module_.h"

enum { RANDOM_BYTES = 64 };

/* ---- Making ---------------------------------------------------------------------------------- */

/* Where the stage's blocks begin: the first stages have one more where the division leaves some. */
int module_stage_begins(int layers, int stages, int stage)
{
    int each = layers / stages, more = layers % stages;
    return stage * each + (stage < more ? stage : more);
}

int module_stages_begin(Module *module, int layers, int64_t width)
{
    Context *context = context_here();
    int stages = context_stages_(context), stage = context_stage_(context);
    if (stages == 1)
        return 0;
    Model *model = module_model(module);
    if (!model)
        return error_code();
    if (layers < stages)
        return error_raise(ERROR_ARGUMENT, "%s: %d layers are not divided into %d stages; at most %d can be",
                           module->type->name, layers, stages, layers);
    model->width = width;
    model->first_block = module_stage_begins(layers, stages, stage);
    model->end_block = module_stage_begins(layers, stages, stage + 1);
    return 0;
}

void module_of_ends(int first, int last)
{
    Context *context = context_here();
    int stages = context_stages_(context), stage = context_stage_(context);
    context->absent = !((first && stage == 0) || (last && stage == stages - 1));
}

void module_of_block(const Module *module, int i)
{
    const Model *model = module->model;
    if (model && model->width)
        context_here()->absent = i < model->first_block || i >= model->end_block;
}

void module_of_all(void)
{
    context_here()->absent = 0;
}

void module_tie_stages(Tensor *weight)
{
    if (weight && context_stages_(weight->item.context) > 1)
        weight->tied_stages = 1;
}

int module_first_stage(const Module *module)
{
    return context_stage_(module->item.context) == 0;
}

int module_last_stage(const Module *module)
{
    const Context *context = module->item.context;
    return context_stage_(context) == context_stages_(context) - 1;
}

/* ---- One micro-batch -------------------------------------------------------------------------- */

static int is_divided(const Module *module, const char *function)
{
    if (module->model && module->model->width)
        return 1;
    error_raise(ERROR_STATE, "%s(): this %s is not divided into stages; llama, gpt2 and bert are", function,
                module->type->name);
    return 0;
}

/* How many random masks the stages before have drawn for this micro-batch. */
static int take_random(Module *module, int stage)
{
    Context *context = module->item.context;
    Storage *word = storage_new(context, RANDOM_BYTES, MEM_COMMUNICATION);
    if (!word)
        return error_code();
    if (stage_take_(context, STAGE_RANDOM, stage - 1, word, RANDOM_BYTES) == 0 && !context->meta)
        storage_read(word, 0, sizeof module->model->first_random, &module->model->first_random);
    storage_release(context, word);
    return error_code();
}

static int send_random(Context *context, int stage)
{
    Storage *word = storage_new(context, RANDOM_BYTES, MEM_COMMUNICATION);
    if (!word)
        return error_code();
    if (!context->meta) {
        storage_clear(word);
        storage_write(word, 0, sizeof context->random.layer, &context->random.layer);
    }
    return stage_start_(context, STAGE_RANDOM, stage + 1, word, RANDOM_BYTES);
}

/* What the stage before has computed, as a leaf that wants a gradient. */
static Tensor *take_input(Module *module, const Batch *batch, int stage)
{
    Context *context = module->item.context;
    if (!batch->ids) {
        error_raise(ERROR_DATA, "%s: the batch has no token ids", module->type->name);
        return NULL;
    }
    if (take_random(module, stage) != 0)
        return NULL;
    Shape shape = module_rows_shape(batch, module->model->width);
    Tensor *x = shape.ndim ? stage_take_tensor_(context, STAGE_ACTIVATION, stage - 1, shape) : NULL;
    if (x)
        x->requires_grad = context->no_grad == 0;
    return x;
}

/* y's data leave; the header stays, for backward. */
static int send_output(Module *module, Tensor *y, int stage)
{
    Context *context = module->item.context;
    if (!y || send_random(context, stage) != 0)
        return error_code();
    if (y->dtype != context->precision.activations)
        return error_raise(ERROR_STATE, "%s: a stage computed %s, and its precision has activations of %s",
                           module->type->name, dtype_name(y->dtype),
                           dtype_name(context->precision.activations));
    Storage *data = y->storage;
    storage_retain(data);
    tensor_drop_data(y, DATA_RELEASED);
    return stage_start_(context, STAGE_ACTIVATION, stage + 1, data, shape_bytes(y->dtype, y->shape));
}

/* *x: what came in, NULL at the first stage. Returns what went out, or the loss; NULL: it raised. */
static Tensor *stage_forward(Module *module, const Batch *batch, Tensor **x)
{
    Context *context = module->item.context;
    int stage = context_stage_(context);
    MemTracker *tracker = context->tracker;
    int path = memtrack_path_set(tracker, module->path);
    const char *op = memtrack_op_set(tracker, "stage");
    *x = stage > 0 ? take_input(module, batch, stage) : NULL;
    Tensor *y = NULL;
    if (!error_code())
        y = module_last_stage(module) ? module_loss_from(module, *x, batch) : nn_forward(module, *x, batch);
    if (*x) /* backward keeps what it reads */
        tensor_drop_data(*x, DATA_RELEASED);
    if (y && !module_last_stage(module) && send_output(module, y, stage) != 0)
        y = NULL;
    memtrack_op_set(tracker, op);
    memtrack_path_set(tracker, path);
    return error_code() ? NULL : y;
}

static int forward_micro(Module *module, const Batch *batch)
{
    Context *context = module->item.context;
    struct ContextRanks *r = context->ranks;
    Flight *flight = stages_flight_(context, r->forwards++);
    Tape *outside = context->tape;
    Tensor *x;
    context->tape = flight->tape;
    Tensor *y = stage_forward(module, batch, &x);
    context->tape = outside;
    stages_hold_(flight, x, y);
    return error_code();
}

/* From the gradient that the next stage has of what went out. */
static int backward_from_next(Context *context, Tensor *y, int stage)
{
    Tensor *gradient = stage_take_tensor_(context, STAGE_GRADIENT, stage + 1, y->shape);
    if (!gradient)
        return error_code();
    stage_loss_begins_(context);
    gradient->donated = 1; /* backward may write over it */
    int failed = tensor_backward_from(y, gradient);
    tensor_free(gradient);
    return failed;
}

static int send_gradient(Context *context, Tensor *x, int stage)
{
    Storage *gradient = x->grad;
    if (!gradient)
        return error_raise(ERROR_STATE, "stage %d has no gradient of what stage %d computed", stage,
                           stage - 1);
    gradient_set(x, NULL);
    return stage_start_(context, STAGE_GRADIENT, stage - 1, gradient, shape_bytes(x->grad_type, x->shape));
}

static int backward_micro(Module *module)
{
    Context *context = module->item.context;
    struct ContextRanks *r = context->ranks;
    MemTracker *tracker = context->tracker;
    Flight *flight = stages_flight_(context, r->backwards++);
    int stage = context_stage_(context), path = memtrack_path_set(tracker, module->path);
    const char *op = memtrack_op_set(tracker, "stage");
    MemPhase phase = memtrack_phase_set(tracker, MEM_PHASE_BACKWARD);
    Tape *outside = context->tape;
    context->tape = flight->tape;
    int failed = module_last_stage(module) ? tensor_backward(flight->y)
                                           : backward_from_next(context, flight->y, stage);
    context->tape = outside;
    if (!failed && stage > 0)
        failed = send_gradient(context, flight->x, stage);
    tensor_free(flight->y);
    tensor_free(flight->x);
    flight->x = flight->y = NULL;
    memtrack_phase_set(tracker, phase);
    memtrack_op_set(tracker, op);
    memtrack_path_set(tracker, path);
    return failed;
}

/* ---- A step ----------------------------------------------------------------------------------- */

int module_stage_holds(int schedule, int stages, int stage, int micros)
{
    return schedule == RANKS_GPIPE || micros < stages - stage ? micros : stages - stage;
}

static int settle_all(Context *context)
{
    for (int kind = 0; kind < STAGE_MESSAGES && !error_code(); kind++)
        stage_settle_(context, (StageMessage)kind);
    return error_code();
}

static int check_schedule(const Module *module, const Batch *batch)
{
    const Context *context = module->item.context;
    if (!is_divided(module, "nn_backward"))
        return error_code();
    if (context->gradient_hooks)
        return error_raise(
            ERROR_STATE, "nn_backward(): a gradient is final when the schedule of the stages is over, and an "
                         "optimizer updates inside backward; call optim_set_in_backward(optimizer, 0)");
    if (batch->micro == 0 && context->ranks->forwards != context->ranks->backwards)
        return error_raise(ERROR_STATE,
                           "nn_backward(): a step begins, and micro-batches of the one before have "
                           "had no backward; every step has to read all of its micro-batches");
    return 0;
}

static int run_schedule(Module *module, const Batch *batch)
{
    Context *context = module->item.context;
    struct ContextRanks *r = context->ranks;
    int micros = batch->micros > 0 ? batch->micros : 1, last = batch->micro + 1 >= micros;
    int holds =
        module_stage_holds((int)r->is.schedule, context_stages_(context), context_stage_(context), micros);
    if (check_schedule(module, batch) != 0)
        return error_code();
    if (batch->micro == 0)
        r->forwards = r->backwards = 0;
    if (stages_room_(context, holds) != 0 || forward_micro(module, batch) != 0)
        return error_code();
    while (r->backwards < r->forwards && (last || r->forwards - r->backwards >= holds))
        if (backward_micro(module) != 0)
            return error_code();
    return last ? settle_all(context) : 0;
}

int nn_backward(Module *model, const Batch *batch)
{
    Context *context = context_here();
    if (!context || context_stages_(context) == 1)
        return tensor_backward(nn_loss(model, batch));
    if (!error_code() && model && batch)
        run_schedule(model, batch);
    if (error_code())
        stages_drop_(context);
    return error_code();
}

Tensor *module_stages_loss(Module *module, const Batch *batch)
{
    Context *context = module->item.context;
    if (!is_divided(module, "nn_loss"))
        return NULL;
    if (context->no_grad == 0) {
        error_raise(ERROR_STATE,
                    "nn_loss(): this model has stages on several ranks, whose schedule says when "
                    "backward runs; call nn_backward(model, batch)");
        return NULL;
    }
    Tensor *x, *y = stage_forward(module, batch, &x);
    tensor_free(x);
    Tensor *loss = y && !module_last_stage(module) ? tensor_zeros(DTYPE_F32, SHAPE(1), MEM_TEMPORARY) : y;
    if (!loss || settle_all(context) != 0 ||
        collective_sum(context, RANKS_STAGE, DTYPE_F32, 1, loss->storage) != 0)
        return NULL;
    return loss;
}
