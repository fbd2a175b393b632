/* Backward: pops the tape, gives each input its gradient, releases as it goes. Where a gradient may live
 * (passed on, written over the output gradient or over a saved tensor, added to what is there, or new) is
 * decided here, once, from the op's row; kernels only ever see a pointer and a beta. */
#include <inttypes.h>
#include <math.h>

#include "../kernels/kernels.h"
#include "card_.h"
#include "ranks_.h"

/* ---- Where a gradient goes ------------------------------------------------------------------- */

static MemComponent gradient_component(const Tensor *t)
{
    return t->leaf && t->component == MEM_PARAMETER ? MEM_GRADIENT : MEM_ACTIVATION_GRADIENT;
}

DType gradient_type(const Tensor *t)
{
    return t->grad_type;
}

static Storage *gradient_new(Context *context, const Tensor *t)
{
    return storage_new(context, (int64_t)shape_bytes(gradient_type(t), t->shape), gradient_component(t));
}

int gradient_zeros(Context *context, Tensor *leaf)
{
    if (leaf->grad)
        return 0;
    int path = memtrack_path_set(context->tracker, leaf->path);
    gradient_set(leaf, gradient_new(context, leaf));
    memtrack_path_set(context->tracker, path);
    if (leaf->grad && !context->meta)
        context->kernels->fill(gradient_type(leaf), shape_numel(leaf->shape), 0, storage_data(leaf->grad),
                               &context->run);
    return leaf->grad ? 0 : error_code();
}

/* Adds `from`, of another type perhaps, to the gradient of t. */
static void add_into(const Context *context, DType type, const Storage *from, const Tensor *t)
{
    if (!context->meta)
        context->kernels->accumulate(type, gradient_type(t), shape_numel(t->shape), storage_data(from),
                                     storage_data(t->grad), &context->run);
}

/* The gradient of t, which is `from`, goes into `to`. */
static void copy_into(const Context *context, DType type, const Storage *from, const Tensor *t, Storage *to)
{
    if (!context->meta)
        context->kernels->copy(type, gradient_type(t), shape_numel(t->shape), storage_data(from),
                               storage_data(to), &context->run);
}

/* Replaces a shared gradient by a copy of its own, so that it can be written. */
static int make_unshared(Context *context, Tensor *t)
{
    Storage *shared = t->grad;
    if (shared->refs == 1)
        return 0;
    Storage *own = gradient_new(context, t);
    if (!own)
        return error_code();
    copy_into(context, gradient_type(t), shared, t, own);
    storage_release(context, shared);
    gradient_set(t, own);
    return 0;
}

/* The output gradient, of this type, is the input's: shared when nothing is there and it may stay an
 * activation gradient, and a parameter's own when nobody else holds it. */
static int pass_gradient(Context *context, Tensor *in, DType type, Storage *dout)
{
    if (in->grad) {
        if (make_unshared(context, in) != 0)
            return error_code();
        add_into(context, type, dout, in);
    } else if (gradient_type(in) == type &&
               (gradient_component(in) == MEM_ACTIVATION_GRADIENT || dout->refs == 1)) {
        if (gradient_component(in) == MEM_GRADIENT)
            memtrack_retag(dout->ledger, &dout->block, MEM_GRADIENT);
        storage_retain(dout);
        gradient_set(in, dout);
    } else {
        gradient_set(in, gradient_new(context, in));
        if (!in->grad)
            return error_code();
        copy_into(context, type, dout, in, in->grad);
    }
    return 0;
}

/* What one node's kernel is about to write. */
typedef struct Targets {
    Storage *storage[OP_MAX_INPUTS]; /* a reference each */
    unsigned add_after;              /* written aside; to be added to in[i]->grad */
} Targets;

static Storage *reuse(Storage *storage, const Tensor *in)
{
    uint64_t bytes = shape_bytes(gradient_type(in), in->shape);
    if (!storage || storage->refs != 1 || storage->block.requested != bytes ||
        gradient_component(in) != MEM_ACTIVATION_GRADIENT)
        return NULL;
    MemComponent component = storage->block.component;
    if (component != MEM_ACTIVATION && component != MEM_ACTIVATION_GRADIENT && component != MEM_TEMPORARY)
        return NULL;
    memtrack_retag(storage->ledger, &storage->block, MEM_ACTIVATION_GRADIENT);
    storage_retain(storage);
    return storage;
}

static int is_repeated(const Node *node, int i)
{
    for (int j = 0; j < i; j++)
        if (node->in[j] == node->in[i])
            return 1;
    return 0;
}

static int choose_target(Context *context, Node *node, int i, Targets *targets)
{
    const OpRow *row = node->call.row;
    Tensor *in = node->in[i];
    unsigned bit = OP_INPUT(i);
    Storage **slot = &targets->storage[i];
    int repeated = is_repeated(node, i);
    if (in->grad && !repeated && (row->accumulates & bit)) {
        if (make_unshared(context, in) != 0)
            return error_code();
        *slot = in->grad;
        storage_retain(*slot);
        node->call.beta[i] = 1;
        return 0;
    }
    if (in->grad || repeated) {
        targets->add_after |= bit;
        *slot = storage_new(context, (int64_t)shape_bytes(gradient_type(in), in->shape), MEM_TEMPORARY);
    } else {
        if (row->grad_in_dout & bit)
            *slot = reuse(node->out->grad, in);
        if (!*slot && ((node->recomputed[i] ? row->grad_in_recomputed : row->grad_in_saved) & bit))
            *slot = reuse(node->saved[i], in);
        if (!*slot)
            *slot = gradient_new(context, in);
    }
    if (!*slot)
        return error_code();
    if ((row->grad_zeroed & bit) && !context->meta)
        context->kernels->fill(gradient_type(in), shape_numel(in->shape), 0, storage_data(*slot),
                               &context->run);
    return 0;
}

/* ---- One node -------------------------------------------------------------------------------- */

/* Parameters that ranks have divided are whole from here on, until they are released. 0, or raises. */
static int gather_parameters(const Node *node)
{
    for (int i = 0; i < node->call.inputs; i++)
        if ((node->by_header & OP_INPUT(i)) && shard_gather(node->in[i]) != 0) {
            while (--i >= 0)
                if (node->by_header & OP_INPUT(i))
                    shard_release(node->in[i]);
            return error_code();
        }
    return 0;
}

static void release_parameters(const Node *node)
{
    for (int i = node->call.inputs - 1; i >= 0; i--)
        if (node->by_header & OP_INPUT(i))
            shard_release(node->in[i]);
}

/* The parameters that the node reads have their data. */
static int has_parameters(const Node *node)
{
    for (int i = 0; i < node->call.inputs; i++) {
        const Tensor *in = node->in[i];
        if (!(node->by_header & OP_INPUT(i)) || in->storage)
            continue;
        error_raise(ERROR_STATE,
                    "tensor_backward(): %s reads the parameter '%s' %s, whose data was freed after forward; "
                    "keep it until backward is done",
                    node->call.row->name, tensor_name(in), shape_text(in->shape).text);
        return 0;
    }
    return 1;
}

static void point_at_kept(Node *node)
{
    OpCall *call = &node->call;
    for (int i = 0; i < call->inputs; i++) {
        const Storage *kept = tape_kept_input(node, i);
        call->in[i] = kept ? kept->block.data : NULL;
    }
    for (int i = 0; i < OP_MAX_EXTRAS; i++)
        call->extra[i] = storage_data(node->extra[i]);
    call->out = storage_data(node->saved_out);
}

/* The output of a node further down the tape, which nobody kept. */
static Storage *recompute_output_with(Context *context, Node *node)
{
    OpCall *call = &node->call;
    if (!has_parameters(node))
        return NULL;
    Storage *made =
        storage_new(context, (int64_t)shape_bytes(call->plan.out_type, call->plan.out), MEM_TEMPORARY);
    Storage *workspace = NULL;
    if (made && call->plan.recompute_workspace > 0) {
        workspace = storage_new(context, (int64_t)call->plan.recompute_workspace, MEM_WORKSPACE);
        if (!workspace) {
            storage_release(context, made);
            return NULL;
        }
    }
    if (made && (!context->meta || call->row->meets)) {
        point_at_kept(node);
        call->out = storage_data(made);
        call->workspace = storage_data(workspace);
        call->row->recompute(call);
    }
    storage_release(context, workspace);
    if (!context->error)
        return made;
    storage_release(context, made);
    return NULL;
}

static Storage *recompute_output(Context *context, Node *node)
{
    if (gather_parameters(node) != 0)
        return NULL;
    Storage *made = recompute_output_with(context, node);
    release_parameters(node);
    return made;
}

static int recompute_inputs(Tape *tape, Node *node)
{
    Context *context = tape->context;
    for (int i = 0; i < node->call.inputs; i++) {
        if (!node->recomputed[i])
            continue;
        Node *maker = &tape->nodes[node->recomputed[i] - 1];
        if (!maker->recomputed_out)
            maker->recomputed_out = recompute_output(context, maker);
        if (!maker->recomputed_out)
            return error_code();
        node->saved[i] = maker->recomputed_out;
        if (--maker->readers > 0)
            storage_retain(maker->recomputed_out); /* q, k and v read the same norm's output */
        else
            maker->recomputed_out = NULL;
    }
    return 0;
}

static int call_kernel_with(Context *context, Node *node, const Targets *targets)
{
    OpCall *call = &node->call;
    Storage *workspace = NULL;
    if (!has_parameters(node))
        return error_code();
    if (call->plan.backward_workspace > 0) {
        workspace = storage_new(context, (int64_t)call->plan.backward_workspace, MEM_WORKSPACE);
        if (!workspace)
            return error_code();
    }
    if (!context->meta || call->row->meets) {
        point_at_kept(node);
        for (int i = 0; i < call->inputs; i++)
            call->din[i] = storage_data(targets->storage[i]);
        call->dout = storage_data(node->out->grad);
        call->workspace = storage_data(workspace);
        call->row->backward(call);
    }
    storage_release(context, workspace);
    if (call->row->meets)
        return error_code();
    return context->card && !context->meta ? card_check_op_(context, call->row->name) : 0;
}

static int call_kernel(Context *context, Node *node, const Targets *targets)
{
    if (gather_parameters(node) != 0)
        return error_code();
    int failed = call_kernel_with(context, node, targets);
    release_parameters(node);
    return failed;
}

static int deliver(Context *context, Node *node, Targets *targets)
{
    for (int i = 0; i < node->call.inputs; i++) {
        Storage *made = targets->storage[i];
        Tensor *in = node->in[i];
        if (!made)
            continue;
        targets->storage[i] = NULL;
        if (!(targets->add_after & OP_INPUT(i))) {
            storage_release(context, in->grad);
            gradient_set(in, made);
            continue;
        }
        int failed = make_unshared(context, in);
        if (!failed)
            add_into(context, gradient_type(in), made, in);
        storage_release(context, made);
        if (failed)
            return failed;
    }
    return 0;
}

static int backward_op(Tape *tape, Node *node)
{
    Context *context = tape->context;
    const OpCall *call = &node->call;
    Targets targets = {0};
    int failed = 0, kernel = 0;
    Storage *kept = node->out->keep ? node->out->grad : NULL;
    if (kept)
        storage_retain(kept); /* shared from here on: nothing is written over it */
    failed = recompute_inputs(tape, node);
    if (!failed && call->plan.writes_dout)
        failed = make_unshared(context, node->out);
    for (int i = 0; i < call->inputs && !failed; i++) {
        if (!(call->needs & OP_INPUT(i)))
            continue;
        if (call->row->identity_grad & OP_INPUT(i)) {
            failed = pass_gradient(context, node->in[i], gradient_type(node->out), node->out->grad);
        } else {
            failed = choose_target(context, node, i, &targets);
            kernel = 1;
        }
    }
    if (!failed && kernel)
        failed = call_kernel(context, node, &targets);
    if (!failed)
        failed = deliver(context, node, &targets);
    context->flops += call->plan.backward_flops;
    for (int i = 0; i < OP_MAX_INPUTS; i++)
        storage_release(context, targets.storage[i]);
    if (kept) {
        storage_release(context, node->out->grad);
        gradient_set(node->out, kept);
    }
    return failed;
}

/* ---- The whole tape -------------------------------------------------------------------------- */

/* Nobody reads recorded intermediates after this, except by tensor_keep: naming one never raises the peak. */
static void drop_intermediates(const Tape *tape, int mark)
{
    for (int i = mark; i < tape->count; i++) {
        Tensor *out = tape->nodes[i].out;
        if (out && !out->keep)
            tensor_drop_data(out, DATA_RELEASED);
    }
}

static void pass_marker(Context *context, const Node *node)
{
    memtrack_path_set(context->tracker, node->path);
    if (node->self)
        node->marker(context, node->self, node->closing);
}

int backward_run(Tape *tape, int mark)
{
    Context *context = tape->context;
    drop_intermediates(tape, mark);
    while (tape->count > mark && !context->error) {
        Node node = tape->nodes[--tape->count];
        if (node.marker) {
            pass_marker(context, &node);
            continue;
        }
        if (node.out->grad) {
            memtrack_path_set(context->tracker, node.path);
            if (node.call.row) {
                memtrack_op_set(context->tracker, node.call.row->name);
                backward_op(tape, &node);
            } else {
                backward_checkpoint(tape, &node);
            }
            if (!node.out->keep)
                tensor_drop_grad(node.out);
        }
        gradients_final_(context, &node);
        tape_node_release(context, &node);
    }
    if (context->error)
        tape_cut(tape, mark);
    return context->error;
}

static int recorded(const Tape *tape, const Tensor *tensor)
{
    for (int i = tape->count - 1; i >= 0; i--)
        if (tape->nodes[i].out == tensor)
            return 1;
    return 0;
}

/* y is what an operation made, and the tape has it still. what: "loss" or "tensor", for messages. */
static int check_recorded(const Tape *tape, const Tensor *y, const char *function, const char *what)
{
    if (!y->requires_grad || y->leaf)
        return error_raise(ERROR_STATE,
                           "%s(): the %s depends on nothing that needs a gradient "
                           "(was it computed between tensor_no_grad_begin and end?)",
                           function, what);
    if (!recorded(tape, y))
        return error_raise(ERROR_STATE,
                           "%s(): what was recorded for this %s is gone, used by an earlier backward; "
                           "a second one needs a second forward pass",
                           function, what);
    return 0;
}

/* Of one number that has data. */
static float value_of(const Tensor *loss)
{
    float value;
    storage_read(loss->storage, 0, sizeof value, &value);
    return value;
}

/* The card looks at it, and remembers what it depends on if it is not finite. */
static int note_loss(Context *context, const Tensor *loss)
{
    const char *op = memtrack_op_set(context->tracker, "loss");
    Storage *entries = storage_new(context, (int64_t)card_entries_bytes_(context->tape), MEM_TEMPORARY);
    if (entries && !context->meta)
        card_note_loss_(context, loss, entries);
    storage_release(context, entries);
    memtrack_op_set(context->tracker, op);
    return context->error;
}

static int check_loss(Context *context, Tensor *loss)
{
    if (!loss || context->error)
        return error_code();
    if (tensor_numel(loss) != 1)
        return error_raise(ERROR_SHAPE, "tensor_backward(): the loss must be one number, not %s",
                           shape_text(loss->shape).text);
    int gone = loss->requires_grad && !loss->leaf && !tensor_readable(loss, "tensor_backward");
    if (gone || check_recorded(context->tape, loss, "tensor_backward", "loss"))
        return error_code();
    if (context->card)
        return note_loss(context, loss);
    int path = memtrack_path(context->tracker);
    if (!context->meta && !isfinite(value_of(loss)))
        loss_blame_(context->tape, value_of(loss));
    memtrack_path_set(context->tracker, path);
    return context->error;
}

static int seed_gradient(Context *context, Tensor *loss)
{
    gradient_set(loss, gradient_new(context, loss));
    if (!loss->grad)
        return error_code();
    float scale = context->loss_scale.next;
    context->loss_scale.of_gradients = scale;
    if (!context->meta)
        context->kernels->fill(DTYPE_F32, 1, scale > 0 ? scale : 1.0f, storage_f32(loss->grad),
                               &context->run);
    return 0;
}

/* Where the books are while backward runs, and where they were. */
typedef struct Outside {
    MemPhase phase;
    int path;
    const char *op;
} Outside;

static Outside enter_backward(Context *context)
{
    MemTracker *tracker = context->tracker;
    context->in_backward = 1;
    MemPhase phase = memtrack_phase_set(tracker, MEM_PHASE_BACKWARD);
    int path = memtrack_path(tracker);
    return (Outside){phase, path, memtrack_op_set(tracker, "backward")};
}

/* The whole tape is gone, whatever happened. */
static int leave_backward(Context *context, const Outside *outside)
{
    MemTracker *tracker = context->tracker;
    tape_cut(context->tape, 0);
    context->in_backward = 0;
    memtrack_op_set(tracker, outside->op);
    memtrack_path_set(tracker, outside->path);
    memtrack_phase_set(tracker, outside->phase);
    return context->error;
}

int tensor_backward(Tensor *loss)
{
    Context *context = context_here();
    if (!context)
        return ERROR_HOST_MEMORY;
    if (check_loss(context, loss) != 0 || !loss || gradients_begin_(context) != 0) {
        tape_cut(context->tape, 0);
        return context->error;
    }
    if (context->loss_step != context->steps_done)
        context->step_loss = 0;
    context->loss_step = context->steps_done;
    if (!context->meta && !context->card)
        context->step_loss += value_of(loss);
    Outside outside = enter_backward(context);
    unsigned char keep = loss->keep;
    tensor_keep(loss); /* its value is what scripts print */
    if (seed_gradient(context, loss) == 0 && backward_run(context->tape, 0) == 0)
        gradients_end_(context);
    loss->keep = keep;
    if (!keep)
        tensor_drop_grad(loss);
    return leave_backward(context, &outside);
}

static int check_gradient(Context *context, const Tensor *y, const Tensor *gradient)
{
    const char *function = "tensor_backward_from";
    if (!y || !gradient || context->error)
        return error_code();
    if (gradient->item.context != context || y->item.context != context)
        return error_raise(ERROR_STATE, "%s(): a tensor belongs to another context", function);
    if (gradient->dtype != gradient_type(y) || !shape_equal(gradient->shape, y->shape))
        return error_raise(ERROR_SHAPE, "%s(): the gradient of %s %s must be %s of the same shape, not %s %s",
                           function, dtype_name(y->dtype), shape_text(y->shape).text,
                           dtype_name(gradient_type(y)), dtype_name(gradient->dtype),
                           shape_text(gradient->shape).text);
    if (!tensor_readable(gradient, function))
        return error_code();
    return check_recorded(context->tape, y, function, "tensor");
}

int tensor_backward_from(Tensor *y, Tensor *gradient)
{
    Context *context = context_here();
    if (!context)
        return ERROR_HOST_MEMORY;
    if (check_gradient(context, y, gradient) != 0 || !y || !gradient || gradients_begin_(context) != 0) {
        tape_cut(context->tape, 0);
        return context->error;
    }
    Outside outside = enter_backward(context);
    tensor_drop_grad(y); /* of a backward before, where y is kept */
    gradient_set(y, gradient->storage);
    storage_retain(y->grad); /* two hold it: it is read, and never written over */
    if (gradient->donated)
        tensor_drop_data(gradient, DATA_DONATED);
    if (backward_run(context->tape, 0) == 0)
        gradients_end_(context);
    return leave_backward(context, &outside);
}
