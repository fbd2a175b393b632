/* The optimizer: which parameters, what state they have, and one step over all of them. It meets modules in
 * Tensor * only. All memory is taken at creation, so that every step costs what the first one costs. */
#include <inttypes.h>
#include <math.h>

#include "optim_.h"

/* ---- Creation -------------------------------------------------------------------------------- */

static int find_parameter(const Optimizer *optimizer, const Tensor *tensor)
{
    for (int i = 0; i < optimizer->count; i++)
        if (optimizer->parameters[i] == tensor)
            return i;
    return -1;
}

static int is_frozen(const Tensor *tensor)
{
    return !tensor->requires_grad && tensor_part_(tensor).weights && tensor->component == MEM_FROZEN;
}

static const char *unusable(const Tensor *tensor, const Context *context)
{
    if (tensor->item.context != context)
        return "belongs to another context";
    if (!dtype_is_float(tensor->dtype))
        return "is not f32, bf16 or f16: weights of other types stay as they are, and adapters train beside "
               "them";
    if (tensor_part_(tensor).type == DTYPE_F16 && !tensor->master)
        return "is f16 without an fp32 master, and most of its updates would round to nothing; train it in "
               "bf16, or make it with a master (fp16-mixed)";
    if (!tensor->leaf)
        return "was made by an operation; only leaves can be trained";
    if (!tensor->requires_grad)
        return "does not require a gradient";
    return tensor_part_(tensor).weights ? NULL : "was freed";
}

DType optim_state_type(const Optimizer *optimizer, const Tensor *tensor, int k)
{
    enum { LEAST = 4096 }; /* elements, of all ranks together; bitsandbytes' min_8bit_size */
    if (!optimizer || !tensor)
        return DTYPE_F32;
    if (optimizer->rule->shown.eight_bit) {
        int small = tensor_whole_numel_(tensor) < LEAST || (tensor->table && !optimizer->tables);
        return small ? DTYPE_F32 : k == 0 ? DTYPE_DYNAMIC8 : DTYPE_UDYNAMIC8;
    }
    return tensor->dtype == DTYPE_F32 ? DTYPE_F32 : optimizer->item.context->precision.states;
}

static Tensor *array_new(DType type, Shape shape)
{
    if (type != DTYPE_F32)
        return tensor_zeros(type, shape, MEM_OPTIMIZER); /* zeros are zero bytes, and need no buffer */
    Tensor *array = tensor_new(type, shape, MEM_OPTIMIZER);
    tensor_fill(array, 0);
    return array;
}

static int arrays_new(const Optimizer *optimizer, const Tensor *tensor, ParameterState *state)
{
    Context *context = optimizer->item.context;
    Shape shape =
        tensor->shard ? SHAPE(tensor_part_(tensor).each) : tensor->shape; /* of what this rank updates */
    int path = memtrack_path_set(context->tracker, tensor->path);
    int made = 0;
    while (made < optimizer->arrays) {
        Tensor *array = array_new(optim_state_type(optimizer, tensor, made), shape);
        if (!array)
            break;
        scope_release(&array->item);
        state->array[made++] = array;
    }
    memtrack_path_set(context->tracker, path);
    return made == optimizer->arrays ? 0 : error_code();
}

static int add_parameter(Optimizer *optimizer, const RuleOptions *options, Tensor *tensor)
{
    if (tensor->shard && optimizer->rule->shown.eight_bit && tensor_part_(tensor).each % DYNAMIC8_BLOCK &&
        context_ranks_(optimizer->item.context) > 1)
        return error_raise(ERROR_ARGUMENT,
                           "optimizer %s: ranks would cut its blocks of %d elements; Ranks.unit must be %d",
                           optimizer->rule->shown.name, (int)DYNAMIC8_BLOCK, (int)DYNAMIC8_BLOCK);
    int i = optimizer->count++, decayed = options->decay_all || tensor->shape.ndim > 1;
    tensor_retain(tensor);
    optimizer->parameters[i] = tensor;
    optimizer->state[i] =
        (ParameterState){.lr_scale = 1, .weight_decay = decayed ? optimizer->scalars.weight_decay : 0};
    return arrays_new(optimizer, tensor, &optimizer->state[i]);
}

/* Another stage's rank updates it. The lists have room for all parameters, and these are their last ones. */
static void add_absent(Optimizer *optimizer, Tensor *tensor)
{
    TensorList known = optim_absent(optimizer);
    for (int i = 0; i < known.count; i++)
        if (known.items[i] == tensor)
            return;
    if (!tensor->requires_grad)
        return;
    tensor_retain(tensor);
    optimizer->parameters[optimizer->capacity - ++optimizer->absent] = tensor;
}

static int add_parameters(Optimizer *optimizer, TensorList list, const RuleOptions *options)
{
    for (int i = 0; i < list.count; i++) {
        Tensor *tensor = list.items[i];
        if (tensor && tensor->absent) {
            add_absent(optimizer, tensor);
            continue;
        }
        if (tensor && (is_frozen(tensor) || find_parameter(optimizer, tensor) >= 0))
            continue; /* tied weights are one parameter */
        const char *problem = tensor ? unusable(tensor, optimizer->item.context) : "is NULL";
        if (problem)
            return error_raise(ERROR_ARGUMENT, "optimizer %s: parameter %d '%s' %s",
                               optimizer->rule->shown.name, i, tensor_name(tensor), problem);
        if (add_parameter(optimizer, options, tensor) != 0)
            return error_code();
        optimizer->state[optimizer->count - 1].number = optimizer->count - 1 + optimizer->absent;
    }
    if (optimizer->count == 0)
        return error_raise(
            ERROR_ARGUMENT, "optimizer %s: every parameter is frozen%s; there is nothing to train",
            optimizer->rule->shown.name, optimizer->absent ? " in this stage of the model" : "");
    return 0;
}

static void destroy(ScopeItem *item)
{
    Optimizer *optimizer = (Optimizer *)item; /* the item is the first member */
    Context *context = item->context;
    gradient_hook_remove(context, &optimizer->hook);
    loss_scale_end(optimizer);
    storage_release(context, optimizer->squares);
    for (int i = 0; i < optimizer->absent; i++)
        tensor_unref(optim_absent(optimizer).items[i]);
    for (int i = optimizer->count - 1; i >= 0; i--) {
        for (int k = OPTIM_MAX_ARRAYS - 1; k >= 0; k--)
            tensor_free(optimizer->state[i].array[k]);
        tensor_unref(optimizer->parameters[i]);
    }
    host_free(context, optimizer->state, (size_t)optimizer->capacity * sizeof *optimizer->state);
    host_free(context, optimizer->parameters, (size_t)optimizer->capacity * sizeof(Tensor *));
    host_free(context, optimizer, sizeof *optimizer);
}

/* Where a card puts what it finds of the gradients. */
static int squares_new(Optimizer *optimizer)
{
    Context *context = optimizer->item.context;
    if (!context->card)
        return 0;
    optimizer->squares =
        storage_new(context, (int64_t)sizeof(double) * (int64_t)optimizer->count, MEM_BUFFER);
    return optimizer->squares ? 0 : error_code();
}

Optimizer *optimizer_new(const UpdateRule *rule, const UpdateScalars *scalars, const RuleOptions *options,
                         TensorList list)
{
    if (!list.items || list.count <= 0) {
        error_raise(ERROR_ARGUMENT, "optimizer %s: the list of parameters is empty", rule->shown.name);
        return NULL;
    }
    Optimizer *optimizer = host_alloc(sizeof *optimizer);
    if (!optimizer)
        return NULL;
    scope_adopt(&optimizer->item, destroy);
    optimizer->rule = rule;
    optimizer->scalars = *scalars;
    optimizer->tables = options->tables;
    optimizer->stochastic = optimizer->item.context->precision.stochastic;
    optimizer->arrays = rule_arrays(rule) + (scalars->momentum > 0);
    optimizer->capacity = list.count;
    optimizer->parameters = host_alloc((size_t)list.count * sizeof(Tensor *));
    optimizer->state =
        optimizer->parameters ? host_alloc((size_t)list.count * sizeof *optimizer->state) : NULL;
    MemTracker *tracker = optimizer->item.context->tracker;
    const char *op = memtrack_op_set(tracker, rule->shown.name);
    int failed = !optimizer->state || add_parameters(optimizer, list, options) != 0 || squares_new(optimizer);
    memtrack_op_set(tracker, op);
    if (!failed)
        return optimizer;
    optimizer_free(optimizer);
    return NULL;
}

void optimizer_free(Optimizer *optimizer)
{
    if (!optimizer)
        return;
    scope_release(&optimizer->item);
    destroy(&optimizer->item);
}

/* ---- Settings -------------------------------------------------------------------------------- */

static int not_negative(const char *what, float value)
{
    if (value >= 0 && value < INFINITY)
        return 1;
    error_raise(ERROR_ARGUMENT, "%s is %g; it must be a finite number not below 0", what, (double)value);
    return 0;
}

static int group_known(const Optimizer *optimizer, TensorList list)
{
    for (int i = 0; i < list.count; i++) {
        const Tensor *tensor = list.items[i];
        if (tensor && (tensor->absent || is_frozen(tensor) || find_parameter(optimizer, tensor) >= 0))
            continue;
        error_raise(ERROR_ARGUMENT, "optim_set_group(): parameter %d '%s' is not one of this optimizer's", i,
                    tensor_name(tensor));
        return 0;
    }
    return 1;
}

int optim_set_group(Optimizer *optimizer, TensorList parameters, float lr_scale, float weight_decay)
{
    if (!optimizer || !not_negative("optim_set_group(): lr_scale", lr_scale) ||
        !not_negative("optim_set_group(): weight_decay", weight_decay) || !group_known(optimizer, parameters))
        return error_code();
    for (int i = 0; i < parameters.count; i++) {
        int known = find_parameter(optimizer, parameters.items[i]);
        if (known < 0)
            continue; /* frozen */
        optimizer->state[known].lr_scale = lr_scale;
        optimizer->state[known].weight_decay = weight_decay;
    }
    return error_code();
}

int optim_set_schedule(Optimizer *optimizer, const Schedule *schedule)
{
    static const Schedule constant;
    if (!schedule)
        schedule = &constant;
    if (optimizer && schedule_valid(schedule))
        optimizer->schedule = *schedule;
    return error_code();
}

int optim_set_clip(Optimizer *optimizer, float max_norm)
{
    if (!optimizer)
        return error_code();
    if (!(max_norm >= 0)) /* infinity is fine: the norm is measured, nothing is scaled */
        return error_raise(ERROR_ARGUMENT, "optim_set_clip(): max_norm is %g; it must not be below 0",
                           (double)max_norm);
    if (max_norm > 0 && optimizer->in_backward)
        return error_raise(ERROR_STATE,
                           "optim_set_clip(): the norm of all gradients is known only when backward "
                           "is done, and this optimizer updates inside backward; clip, or call "
                           "optim_set_in_backward(optimizer, 0)");
    optimizer->max_norm = max_norm;
    optimizer->grad_norm = 0;
    return error_code();
}

void optim_set_lr(Optimizer *optimizer, float lr)
{
    if (optimizer && not_negative("optim_set_lr(): lr", lr))
        optimizer->scalars.lr = lr;
}

/* ---- A step ---------------------------------------------------------------------------------- */

void optimizer_update(const Optimizer *optimizer, int i, UpdateScalars scalars)
{
    const Context *context = optimizer->item.context;
    const Tensor *tensor = optimizer->parameters[i];
    ParameterState *state = &optimizer->state[i];
    state->updates++;
    state->updated = 1 + (int)context->run.operation;
    if (context->meta)
        return;
    scalars.lr *= state->lr_scale;
    scalars.weight_decay = state->weight_decay;
    scalars.step = state->updates;
    TensorPart part = tensor_part_(tensor);
    if (part.count == 0)
        return; /* of a parameter whose end is before this rank's part */
    RoundingKey key = {.seed = context->seed, .parameter = (uint32_t)state->number};
    UpdateCall call = {.kernels = context->kernels,
                       .run = &context->run,
                       .scalars = &scalars,
                       .control = context->card ? card_control(context) : &optimizer->control,
                       .arrays = {.n = part.count,
                                  .p = optimizer_elements(part.type, part.weights, part.at),
                                  .p_type = part.type,
                                  .master = storage_f32(part.master),
                                  .g = optimizer_elements(part.grad_type, part.grad, part.grad_at),
                                  .g_type = part.grad_type,
                                  .first = part.first,
                                  .rounding = optimizer->stochastic ? &key : NULL}};
    for (int k = 0; k < optimizer->arrays; k++) {
        call.arrays.state[k] = storage_data(state->array[k]->storage);
        call.arrays.state_type[k] = state->array[k]->dtype;
    }
    optimizer->rule->update(&call);
}

static void update_all(Optimizer *optimizer)
{
    UpdateScalars scalars = optimizer->scalars;
    scalars.lr = optim_lr(optimizer);
    for (int i = 0; i < optimizer->count; i++)
        if (optimizer_has_update(optimizer->parameters[i]))
            optimizer_update(optimizer, i, scalars);
}

/* Between ranks: what is still each one's own, and what the others have updated. 0, or raises. */
static int all_parameters(const Optimizer *optimizer, int (*meet)(Tensor *parameter))
{
    for (int i = 0; i < optimizer->count && optimizer->item.context->ranks; i++)
        if (meet(optimizer->parameters[i]) != 0)
            break;
    return error_code();
}

/* What backward updated is whole everywhere already, and what has no gradient is as it was. */
static int updated(Tensor *parameter)
{
    return optimizer_has_update(parameter) ? tensor_updated_(parameter) : 0;
}

static void step_done(Optimizer *optimizer)
{
    optimizer->steps++;
    context_step_end();
}

void optimizer_control_on_card(const Optimizer *optimizer, int first, int count)
{
    Context *context = optimizer->item.context;
    if (context->meta)
        return;
    double *squares = (double *)storage_data(optimizer->squares) + first;
    int64_t found = 0;
    for (int i = first; i < first + count; i++) {
        const Tensor *tensor = optimizer->parameters[i];
        TensorPart part = tensor_part_(tensor);
        if (optimizer_has_update(tensor) && (part.counts || optimizer->in_backward) && part.count > 0)
            context->kernels->sum_squares(part.grad_type, part.count,
                                          optimizer_elements(part.grad_type, part.grad, part.grad_at),
                                          &squares[found++], &context->run);
    }
    card_find_control(context, squares, found, loss_scale_of_gradients(optimizer), optimizer->max_norm);
}

void optimizer_uncount(Optimizer *optimizer)
{
    for (int i = 0; i < optimizer->count; i++) {
        ParameterState *s = &optimizer->state[i];
        if (!s->updated || card_took_effect(optimizer->item.context, s->updated - 1))
            continue;
        s->updates--;
        s->updated = 0;
    }
}

/* The step is over. skipped: nothing of it counts; but what was done in backward, which is never skipped. */
static void settle(Optimizer *optimizer, int skipped)
{
    for (int i = 0; i < optimizer->count; i++) {
        optimizer->state[i].updates -= optimizer->state[i].updated && skipped && !optimizer->in_backward;
        optimizer->state[i].updated = 0;
    }
    optimizer->updates_in_backward = 0;
}

/* Everything is on its way before the host looks, once, at what came of it. */
static void step_on_card(Optimizer *optimizer)
{
    Context *context = optimizer->item.context;
    int scaled = optimizer->scaling.on, skip;
    double squares, agreed;
    if (all_parameters(optimizer, tensor_reduce_) != 0)
        return;
    optimizer_control_on_card(optimizer, 0, optimizer->max_norm > 0 || scaled ? optimizer->count : 0);
    if (card_agree(context, loss_scale_of_gradients(optimizer), optimizer->max_norm, &agreed) != 0)
        return;
    update_all(optimizer);
    if (all_parameters(optimizer, updated) != 0)
        return;
    int failed = card_step_read(context, &skip, &squares);
    squares = agreed < 0 ? squares : agreed;
    optimizer_uncount(optimizer);
    if (skip && optimizer->in_backward &&
        (in_backward_blame(optimizer) != 0 || (agreed >= 0 && optimizer_blame_other()))) {
        card_step_end(context);
        failed = 1;
    }
    settle(optimizer, skip);
    if (failed)
        return;
    double norm = sqrt(squares) / loss_scale_of_gradients(optimizer);
    if (optimizer->max_norm > 0 && !context->meta && (scaled || isfinite(norm)))
        optimizer->grad_norm = (float)norm;
    if (skip && !scaled)
        optimizer_blame(optimizer, "; nothing was updated");
    else if (loss_scale_step(optimizer, !skip) == 0)
        step_done(optimizer);
    card_step_end(context);
}

static void step(Optimizer *optimizer)
{
    if (optimizer->item.context->card) {
        step_on_card(optimizer);
        return;
    }
    if (all_parameters(optimizer, tensor_reduce_) != 0 || optimizer_find_control(optimizer) != 0)
        return;
    int skip = optimizer->control.skip;
    if (skip && !optimizer->scaling.on) {
        optimizer_blame(optimizer, "; nothing was updated");
        return;
    }
    if (!skip)
        update_all(optimizer);
    if (!skip && all_parameters(optimizer, updated) != 0)
        return;
    settle(optimizer, 0);
    if (loss_scale_step(optimizer, !skip) != 0)
        return;
    step_done(optimizer);
}

/* After an error: what backward has updated stays, and the next backward is another step's. */
static void give_up(Optimizer *optimizer)
{
    Context *context = optimizer->item.context;
    if (context != context_here())
        return;
    context->loss_step = -1;
    if (optimizer->in_backward)
        settle(optimizer, 0);
    if (context->card)
        card_step_end(context);
}

int optim_step(Optimizer *optimizer)
{
    if (optimizer && error_code())
        give_up(optimizer);
    if (!optimizer || error_code())
        return error_code();
    if (optimizer->item.context != context_here())
        return error_raise(ERROR_STATE, "optim_step(): the optimizer belongs to another context");
    MemTracker *tracker = optimizer->item.context->tracker;
    MemPhase phase = memtrack_phase_set(tracker, MEM_PHASE_OPTIMIZER);
    const char *op = memtrack_op_set(tracker, optimizer->rule->shown.name);
    step(optimizer);
    memtrack_op_set(tracker, op);
    memtrack_phase_set(tracker, phase);
    return error_code();
}

static void to_zero(Context *context, Tensor *tensor)
{
    if (tensor->shard)
        tensor_drop_grad(tensor);
    if (tensor->grad && tensor->grad->refs > 1)
        tensor_drop_grad(tensor); /* a kept tensor reads it too; no gradient is as good as zeros */
    else if (tensor->grad && !context->meta)
        context->kernels->fill(gradient_type(tensor), shape_numel(tensor->shape), 0,
                               storage_data(tensor->grad), &context->run);
}

static void zero_grad(const Optimizer *optimizer, int keep)
{
    Context *context = optimizer->item.context;
    MemTracker *tracker = context->tracker;
    MemPhase phase = memtrack_phase_set(tracker, MEM_PHASE_OPTIMIZER);
    const char *op = memtrack_op_set(tracker, "zero_grad");
    for (int i = 0; i < optimizer->count; i++)
        if (keep)
            to_zero(context, optimizer->parameters[i]);
        else
            tensor_drop_grad(optimizer->parameters[i]);
    memtrack_op_set(tracker, op);
    memtrack_phase_set(tracker, phase);
}

void optim_zero_grad(Optimizer *optimizer)
{
    if (optimizer)
        zero_grad(optimizer, 0);
}

void optim_zero_grad_keep(Optimizer *optimizer)
{
    if (!optimizer)
        return;
    if (optimizer->in_backward)
        error_raise(ERROR_STATE,
                    "optim_zero_grad_keep(): this optimizer updates inside backward, which frees "
                    "each gradient; there is none to keep. Call optim_zero_grad, or "
                    "optim_set_in_backward(optimizer, 0)");
    else
        zero_grad(optimizer, 1);
}

/* ---- Reading --------------------------------------------------------------------------------- */

float optim_lr(const Optimizer *optimizer)
{
    if (!optimizer)
        return 0;
    int64_t steps = optimizer->steps - optimizer->scaling.state.skipped; /* those skipped are not counted */
    return (float)((double)optimizer->scalars.lr * schedule_factor(&optimizer->schedule, steps));
}

float optim_grad_norm(const Optimizer *optimizer)
{
    return optimizer ? optimizer->grad_norm : 0;
}

int64_t optim_steps(const Optimizer *optimizer)
{
    return optimizer ? optimizer->steps : 0;
}

const char *optim_name(const Optimizer *optimizer)
{
    return optimizer ? optimizer->rule->shown.name : "";
}

TensorList optim_parameters(const Optimizer *optimizer)
{
    return optimizer ? (TensorList){optimizer->parameters, optimizer->count} : (TensorList){0};
}

TensorList optim_absent(const Optimizer *optimizer)
{
    if (!optimizer || !optimizer->absent)
        return (TensorList){0};
    return (TensorList){optimizer->parameters + optimizer->capacity - optimizer->absent, optimizer->absent};
}
