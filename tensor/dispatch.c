/* Forward: one path for every operation. Check, allocate, run, record, release what was given away. */
#include <inttypes.h>
#include <string.h>

#include "card_.h"
#include "ranks_.h"

typedef struct Outputs {
    Storage *out, *extra[OP_MAX_EXTRAS], *workspace;
} Outputs;

static void outputs_release(Context *context, Outputs *o)
{
    storage_release(context, o->workspace);
    for (int i = OP_MAX_EXTRAS - 1; i >= 0; i--)
        storage_release(context, o->extra[i]);
    storage_release(context, o->out);
    *o = (Outputs){0};
}

/* A donated input whose storage the output may take: nobody else holds it, and backward will not read it. */
static Tensor *taken_input(const OpCall *call, Tensor *const *input, int64_t bytes)
{
    for (int i = 0; i < call->inputs; i++) {
        Tensor *t = input[i];
        unsigned bit = OP_INPUT(i);
        if (!t || !(call->row->in_place & bit) || !t->donated || t->storage->refs != 1)
            continue;
        if ((int64_t)t->storage->block.requested != bytes || t->storage->block.component != MEM_TEMPORARY)
            continue;
        if (call->needs && (call->plan.saves & bit))
            continue;
        int repeated = 0;
        for (int j = 0; j < call->inputs; j++)
            repeated += input[j] == t;
        if (repeated == 1)
            return t;
    }
    return NULL;
}

static int outputs_new(Context *context, const OpCall *call, Tensor *const *input, Outputs *o)
{
    int64_t bytes = (int64_t)shape_bytes(call->plan.out_type, call->plan.out);
    Tensor *taken = call->row->forward ? taken_input(call, input, bytes) : input[0];
    if (taken) { /* a row without a kernel only looks at its input in another shape */
        o->out = taken->storage;
        storage_retain(o->out);
        if (call->row->forward)
            o->out->maker = 0; /* it is about to hold something else */
    } else {
        o->out = storage_new(context, bytes, MEM_TEMPORARY);
    }
    int failed = !o->out;
    for (int i = 0; i < OP_MAX_EXTRAS && !failed; i++)
        if (call->plan.extra_bytes[i] > 0) {
            o->extra[i] = storage_new(context, (int64_t)call->plan.extra_bytes[i], MEM_TEMPORARY);
            failed = !o->extra[i];
        }
    if (!failed && call->plan.workspace > 0) {
        o->workspace = storage_new(context, (int64_t)call->plan.workspace, MEM_WORKSPACE);
        failed = !o->workspace;
    }
    if (failed)
        outputs_release(context, o);
    return failed ? -1 : 0;
}

/* Nobody waits for it: what it found is read when the step is done. */
static int run_on_card(Context *context, OpCall *call)
{
    context->run.operation++;
    call->row->forward(call);
    if (call->row->checked_range && !context->meta)
        card_note_fault_(context, call);
    return card_check_op_(context, call->row->name);
}

/* Kernels put down the first bad element; the message is written here. */
static int run_kernel(Context *context, OpCall *call, const Outputs *o, Tensor *const *input)
{
    if ((context->meta && !call->row->meets) || !call->row->forward)
        return 0;
    for (int i = 0; i < call->inputs; i++)
        call->in[i] = input[i] ? input[i]->storage->block.data : NULL;
    call->out = storage_data(o->out);
    for (int i = 0; i < OP_MAX_EXTRAS; i++)
        call->extra[i] = storage_data(o->extra[i]);
    call->workspace = storage_data(o->workspace);
    if (context->card)
        return run_on_card(context, call);
    *call->run->fault = -1;
    call->row->forward(call);
    if (context->meta || error_code())
        return error_code();
    int64_t bad = *call->run->fault;
    if (bad < 0)
        return 0;
    int32_t value = ((const int32_t *)call->in[call->row->checked])[bad];
    return error_raise(ERROR_INDEX, "%s: element %" PRId64 " is %" PRId32 "; %s", call->row->name, bad, value,
                       call->row->checked_range);
}

static void record(Context *context, const OpCall *call, const Outputs *o, Tensor *const *input, Tensor *out)
{
    Tape *tape = context->tape;
    Node *node = tape_push(tape);
    node->call = *call;
    for (int i = 0; i < call->inputs; i++) {
        if (!input[i])
            continue;
        node->in[i] = input[i];
        tensor_retain(input[i]);
        tape_use(tape, input[i], node->serial);
        if (call->plan.saves & OP_INPUT(i))
            tape_save_input(tape, node, i);
    }
    for (int i = 0; i < OP_MAX_EXTRAS; i++)
        node->extra[i] = tape_save(o->extra[i]);
    if (call->plan.saves & OP_OUTPUT)
        node->saved_out = tape_save(o->out);
    if (call->plan.recomputes)
        tape_offer(tape, node, o->out);
    node->out = out;
    tensor_retain(out);
    out->requires_grad = 1;
    if (context->selective)
        out->recompute = 1;
}

static int prepare(Context *context, OpCall *call, Tensor *const *input)
{
    for (int i = 0; i < call->inputs; i++) {
        const Tensor *t = input[i];
        if (!t)
            continue;
        if (t->item.context != context)
            return error_raise(ERROR_STATE, "%s: input %d belongs to another context", call->row->name, i);
        if (!tensor_readable(t, call->row->name))
            return error_code();
        call->shape[i] = t->shape;
        call->dtype[i] = t->dtype;
        call->grad_type[i] = t->grad_type;
        context->met_grad |= t->requires_grad;
        if (context->unrecorded)
            tape_use(context->tape, input[i], context->unrecorded);
        if (t->requires_grad && context->no_grad == 0)
            call->needs |= OP_INPUT(i);
    }
    int failed = call->row->shape(call);
    if (failed || !shape_valid(call->plan.out, call->row->name))
        return failed ? failed : error_code();
    return call->needs ? tape_reserve(context->tape) : 0;
}

static Tensor *apply_to(Context *context, OpCall *call, Tensor *const *input)
{
    Outputs o = {0};
    if (prepare(context, call, input) != 0 || outputs_new(context, call, input, &o) != 0)
        return NULL;
    Tensor *out = NULL;
    if (run_kernel(context, call, &o, input) == 0) {
        storage_retain(o.out);
        out = tensor_wrap(call->row->forward ? call->plan.out_type : call->dtype[0], call->plan.out, o.out);
    }
    if (out) {
        out->leaf = 0;
        out->op = call->row->name;
        context->flops += call->plan.flops;
        storage_release(context, o.workspace); /* before anything is re-tagged, so that it lives shortest */
        o.workspace = NULL;
        if (call->needs)
            record(context, call, &o, input, out);
        for (int i = 0; i < call->inputs; i++)
            if (input[i] && input[i]->donated)
                tensor_drop_data(input[i], DATA_DONATED);
    }
    outputs_release(context, &o);
    return out;
}

/* Parameters that ranks have divided are whole for as long as the operation runs. */
static Tensor *apply(Context *context, OpCall *call, Tensor *const *input)
{
    if (!context->ranks)
        return apply_to(context, call, input);
    int gathered = 0;
    while (gathered < call->inputs && shard_gather(input[gathered]) == 0)
        gathered++;
    Tensor *out = gathered == call->inputs ? apply_to(context, call, input) : NULL;
    while (gathered > 0)
        shard_release(input[--gathered]);
    return out;
}

Tensor *tensor_apply(const OpRow *row, const OpAttr *attr, int inputs, Tensor *const *input)
{
    Context *context = context_here();
    if (!context || context->error)
        return NULL;
    if (inputs < 1 || inputs > OP_MAX_INPUTS) {
        error_raise(ERROR_ARGUMENT, "%s: %d inputs; an operation has 1 to %d", row->name, inputs,
                    OP_MAX_INPUTS);
        return NULL;
    }
    if (context->no_grad == 0 || context->unrecorded)
        context_step_begin(context);
    OpCall call = {.row = row, .kernels = context->kernels, .run = &context->run, .inputs = inputs};
    if (attr)
        call.attr = *attr;
    const char *op = memtrack_op_set(context->tracker, row->name);
    Tensor *out = apply(context, &call, input);
    memtrack_op_set(context->tracker, op);
    return out;
}
