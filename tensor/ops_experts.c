/* experts: a mixture of experts in one operation, so that what it allocates is a function of shapes, whatever
 * the routing; and the loss that balances them over layers. */
#include <inttypes.h>

#include "../kernels/experts.h"
#include "ops_.h"

enum { X, ROUTER, GATE_UP, DOWN, BALANCE, MASK, EXPERTS_INPUTS };
enum { KEPT, ROUTING }; /* extras: gate x and up x of every pair, and the routing */

static ExpertsDims experts_dims(const OpCall *call)
{
    return (ExpertsDims){.rows = leading(call->shape[X]),
                         .width = last_dim(call->shape[X]),
                         .hidden = last_dim(call->shape[DOWN]),
                         .experts = (int)call->shape[GATE_UP].dim[0],
                         .active = call->attr.experts.active,
                         .normalise = call->attr.experts.normalise,
                         .act = (Activation)call->attr.experts.act,
                         .type = call->dtype[X],
                         .router = call->dtype[ROUTER]};
}

/* ---- Shapes ---------------------------------------------------------------------------------- */

static int check_experts(const OpCall *call)
{
    Shape x = call->shape[X], up = call->shape[GATE_UP], down = call->shape[DOWN];
    if (up.ndim != 3 || up.dim[1] % 2 != 0 || up.dim[2] != last_dim(x))
        return error_raise(ERROR_SHAPE,
                           "experts: gate_up must be (experts,2 hidden,%" PRId64 ") for x %s, not %s",
                           last_dim(x), shape_text(x).text, shape_text(up).text);
    if (down.ndim != 3 || down.dim[0] != up.dim[0] || down.dim[1] != up.dim[2] ||
        down.dim[2] != up.dim[1] / 2)
        return error_raise(ERROR_SHAPE, "experts: down must be %s for gate_up %s, not %s",
                           shape_text(SHAPE(up.dim[0], up.dim[2], up.dim[1] / 2)).text, shape_text(up).text,
                           shape_text(down).text);
    return 0;
}

static int check_routing(const OpCall *call)
{
    Shape x = call->shape[X], router = call->shape[ROUTER];
    int64_t experts = call->shape[GATE_UP].dim[0], rows = leading(x);
    int active = call->attr.experts.active;
    if (last_dim(router) != experts || leading(router) != rows)
        return error_raise(
            ERROR_SHAPE,
            "experts: router must have %" PRId64 " logits a token for x %s and gate_up %s, not %s", experts,
            shape_text(x).text, shape_text(call->shape[GATE_UP]).text, shape_text(router).text);
    if (experts > EXPERTS_MOST)
        return error_raise(ERROR_SHAPE, "experts: a layer has at most %d experts, not %" PRId64, EXPERTS_MOST,
                           experts);
    if (active < 1 || active > experts)
        return error_raise(ERROR_ARGUMENT,
                           "experts: a token goes to %d of %" PRId64 " experts; 1 to %" PRId64
                           " are possible",
                           active, experts, experts);
    if (rows > INT32_MAX / active)
        return error_raise(ERROR_SHAPE, "experts: %" PRId64 " tokens of %d experts each are more than %d",
                           rows, active, INT32_MAX);
    return 0;
}

static int check_balance(const OpCall *call)
{
    Shape stats = call->shape[BALANCE];
    int64_t experts = call->shape[GATE_UP].dim[0], rows = leading(call->shape[X]);
    if (stats.ndim && (check_dtype(call, BALANCE, DTYPE_F32, "balance") != 0))
        return error_code();
    if (stats.ndim && !(stats.ndim == 2 && stats.dim[0] == 3 && stats.dim[1] == experts))
        return error_raise(ERROR_SHAPE, "experts: balance must be (3,%" PRId64 "), not %s", experts,
                           shape_text(stats).text);
    if (!call->shape[MASK].ndim)
        return 0;
    if (check_dtype(call, MASK, DTYPE_I32, "mask"))
        return error_code();
    if (call_numel(call, MASK) != rows)
        return error_raise(ERROR_SHAPE, "experts: mask must have %" PRId64 " elements for x %s, not %s", rows,
                           shape_text(call->shape[X]).text, shape_text(call->shape[MASK]).text);
    return 0;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static uint64_t kept_bytes(const ExpertsDims *d)
{
    return dtype_bytes(d->type, experts_pairs(d), 2 * d->hidden);
}

static uint64_t dweight_bytes(const ExpertsDims *d)
{
    return aligned((uint64_t)experts_pairs(d) * sizeof(float));
}

/* As experts_workspace counts. */
static int experts_wanted(const OpCall *call)
{
    return needs_input(call, X) | needs_input(call, GATE_UP) << 1 | needs_input(call, DOWN) << 2;
}

static uint64_t kernel_room(const OpCall *call, const ExpertsDims *d, int backward)
{
    return call->kernels->experts_workspace(d, backward, backward ? experts_wanted(call) : 0,
                                            call->grad_type[GATE_UP], call->grad_type[DOWN], call->run);
}

/* What a gradient needs of the others' way back: everything but down's goes through down. */
static unsigned experts_saves(const OpCall *call)
{
    unsigned through = OP_INPUT(X) | OP_INPUT(ROUTER) | OP_INPUT(GATE_UP);
    int logits = needs_input(call, ROUTER) && (!call->attr.experts.normalise || call->shape[BALANCE].ndim);
    unsigned balance = OP_INPUT(BALANCE) | (call->shape[MASK].ndim ? OP_INPUT(MASK) : 0);
    return (needs_input(call, GATE_UP) ? OP_INPUT(X) : 0) | (needs_input(call, X) ? OP_INPUT(GATE_UP) : 0) |
           (call->needs & through ? OP_INPUT(DOWN) : 0) | (logits ? OP_INPUT(ROUTER) : 0) |
           (needs_input(call, ROUTER) && call->shape[BALANCE].ndim ? balance : 0);
}

static void experts_plan_backward(OpCall *call, const ExpertsDims *d, double product)
{
    OpPlan *plan = &call->plan;
    unsigned through = OP_INPUT(X) | OP_INPUT(ROUTER) | OP_INPUT(GATE_UP);
    plan->extra_bytes[KEPT] = kept_bytes(d);
    plan->extra_bytes[ROUTING] = experts_routing_bytes(d);
    plan->saves = experts_saves(call);
    plan->backward_workspace = kernel_room(call, d, 1) + (needs_input(call, ROUTER) ? dweight_bytes(d) : 0);
    plan->backward_flops = product * (((call->needs & through) != 0) + needs_input(call, DOWN) +
                                      2 * needs_input(call, GATE_UP) + 2 * needs_input(call, X));
}

static int experts_shape(OpCall *call)
{
    if (check_float(call, X, "x") || check_float(call, ROUTER, "router") ||
        check_weight(call, GATE_UP, 1, "gate_up") || check_weight(call, DOWN, 1, "down") ||
        check_activation(call, call->attr.experts.act) || check_experts(call) || check_routing(call) ||
        check_balance(call))
        return error_code();
    ExpertsDims d = experts_dims(call);
    OpPlan *plan = &call->plan;
    double product = 2.0 * (double)experts_pairs(&d) * (double)d.width * (double)d.hidden;
    plan->out = call->shape[X];
    plan->out_type = d.type;
    plan->flops = 3 * product;
    plan->workspace = kernel_room(call, &d, 0);
    if (call->needs)
        experts_plan_backward(call, &d, product);
    else
        plan->workspace += aligned(kept_bytes(&d)) + aligned(experts_routing_bytes(&d));
    return 0;
}

/* ---- Kernels --------------------------------------------------------------------------------- */

/* The first expert's matrix. */
static StoredArray first_expert(const OpCall *call, int i)
{
    return (StoredArray){call->in[i], call->dtype[i], call->shape[i].dim[1], call->shape[i].dim[2]};
}

static void experts_forward(OpCall *call)
{
    ExpertsDims d = experts_dims(call);
    StoredArray up = first_expert(call, GATE_UP), down = first_expert(call, DOWN);
    ExpertsBalance balance = {call->in[BALANCE], call->in[MASK]};
    char *room = call->workspace;
    void *kept = call->extra[KEPT], *routing = call->extra[ROUTING];
    if (!routing) {
        kept = room;
        routing = room + aligned(kept_bytes(&d));
        room += aligned(kept_bytes(&d)) + aligned(experts_routing_bytes(&d));
    }
    /* What a checkpoint runs again has been counted. */
    int counts = balance.stats && !context_here()->in_backward;
    call->kernels->experts_route(&d, call->in[ROUTER], counts ? &balance : NULL, routing, room, call->run);
    call->kernels->experts_forward(&d, call->in[X], &up, &down, routing, kept, call->out, room, call->run);
}

static void experts_backward(OpCall *call)
{
    ExpertsDims d = experts_dims(call);
    StoredArray up = first_expert(call, GATE_UP), down = first_expert(call, DOWN);
    ExpertsBalance balance = {call->in[BALANCE], call->in[MASK]};
    char *room = call->workspace;
    float *dweight = NULL;
    if (call->din[ROUTER]) {
        dweight = (float *)(void *)room;
        room += dweight_bytes(&d);
    }
    ExpertsGradients g = {.dx = call->din[X],
                          .dgate_up = call->din[GATE_UP],
                          .ddown = call->din[DOWN],
                          .dweight = dweight,
                          .beta_x = call->beta[X],
                          .beta_gate_up = call->beta[GATE_UP],
                          .beta_down = call->beta[DOWN],
                          .gate_up_type = call->grad_type[GATE_UP],
                          .down_type = call->grad_type[DOWN]};
    call->kernels->experts_backward(&d, call->in[X], &up, &down, call->extra[ROUTING], call->extra[KEPT],
                                    call->dout, &g, room, call->run);
    if (dweight)
        call->kernels->experts_route_backward(&d, call->in[ROUTER], balance.stats ? &balance : NULL,
                                              call->extra[ROUTING], dweight, call->beta[ROUTER],
                                              call->din[ROUTER], call->run);
}

static const OpRow experts_row = {
    .name = "experts",
    .shape = experts_shape,
    .forward = experts_forward,
    .backward = experts_backward,
    .grad_in_dout = OP_INPUT(X),
    .grad_in_saved = OP_INPUT(X) | OP_INPUT(ROUTER),
    .grad_in_recomputed = OP_INPUT(X) | OP_INPUT(ROUTER),
    .accumulates = OP_INPUT(X) | OP_INPUT(ROUTER) | OP_INPUT(GATE_UP) | OP_INPUT(DOWN),
};

Tensor *tensor_experts(Tensor *x, Tensor *router, Tensor *gate_up, Tensor *down,
                       const ExpertsOptions *options)
{
    if (!x || !router || !gate_up || !down)
        return NULL;
    OpAttr attr = {.experts = {.active = options->active,
                               .normalise = options->normalise != 0,
                               .act = options->act ? (int)options->act : ACT_SILU}};
    return tensor_apply(
        &experts_row, &attr, EXPERTS_INPUTS,
        (Tensor *[]){x, router, gate_up, down, options->balance, options->balance ? options->mask : NULL});
}

/* ---- The loss that balances them ------------------------------------------------------------- */

enum { LOSS, STATS };

static int balance_shape(OpCall *call)
{
    Shape stats = call->shape[STATS];
    if (check_dtype(call, LOSS, DTYPE_F32, "loss") || check_dtype(call, STATS, DTYPE_F32, "stats"))
        return error_code();
    if (call_numel(call, LOSS) != 1 || stats.ndim != 2 || stats.dim[0] != 3)
        return error_raise(ERROR_SHAPE, "balance_loss: loss must be (1) and stats (3,experts), not %s and %s",
                           shape_text(call->shape[LOSS]).text, shape_text(stats).text);
    if (call->attr.experts.active < 1)
        return error_raise(ERROR_ARGUMENT, "balance_loss: a token goes to 1 expert or more, not %d",
                           call->attr.experts.active);
    call->plan.out = call->shape[LOSS];
    call->plan.saves = OP_INPUT(STATS);
    return 0;
}

static void balance_forward(OpCall *call)
{
    call->kernels->experts_balance_forward((int)call->shape[STATS].dim[1], call->attr.experts.active,
                                           call->attr.experts.factor, call->in[STATS], call->in[LOSS],
                                           call->out, call->run);
}

/* The loss's gradient is that of the sum; the gradient of the probabilities waits in stats for the layers. */
static void balance_backward(OpCall *call)
{
    call->kernels->experts_balance_backward((int)call->shape[STATS].dim[1], call->attr.experts.active,
                                            call->attr.experts.factor, call->dout, call->in[STATS],
                                            call->run);
    call->kernels->scale(DTYPE_F32, 1, 1, call->dout, call->beta[LOSS], call->din[LOSS], call->run);
}

static const OpRow balance_row = {
    .name = "balance_loss",
    .shape = balance_shape,
    .forward = balance_forward,
    .backward = balance_backward,
    .in_place = OP_INPUT(LOSS),
    .grad_in_dout = OP_INPUT(LOSS),
    .accumulates = OP_INPUT(LOSS),
};

Tensor *tensor_balance_loss(Tensor *loss, Tensor *stats, int active, float coefficient)
{
    if (!loss || !stats)
        return NULL;
    OpAttr attr = {.experts = {.active = active, .factor = coefficient}};
    return tensor_apply(&balance_row, &attr, 2, (Tensor *[]){loss, stats});
}

void tensor_balance_begin(Tensor *stats)
{
    if (!stats || error_code() || !tensor_readable(stats, "tensor_balance_begin"))
        return;
    Context *context = stats->item.context;
    if (stats->dtype != DTYPE_F32)
        error_raise(ERROR_ARGUMENT, "tensor_balance_begin(): stats must be f32, not %s",
                    dtype_name(stats->dtype));
    else if (!context->meta)
        context->kernels->fill(DTYPE_F32, tensor_numel(stats), 0, storage_data(stats->storage),
                               &context->run);
}
