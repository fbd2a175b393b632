/* What stages of a model send each other: activations to the next stage, their gradients to the one before.
 * A message leaves from the storage that it was computed in, which belongs to communication from then on and
 * goes when the next message of its kind is about to leave: no stage waits for another that waits for it. */
#include "../kernels/kernels.h"
#include "ranks_.h"

static const char *const words[STAGE_MESSAGES] = {"sending an activation", "sending a gradient",
                                                  "sending a random state",
                                                  "summing the gradients of a tied weight"};

/* The link to a neighbour has two hashes, one a direction: in each, both ends see the same order. */
static void enter_link(struct ContextRanks *r, int other, StageMessage kind, uint64_t bytes)
{
    int before = other < r->place[RANKS_STAGE];
    uint64_t *hash = &r->link[before][kind == STAGE_GRADIENT];
    *hash = ranks_mixed_(*hash, (uint64_t)kind << 56 ^ bytes);
}

/* Enters a message in the books. Whether anybody is there. */
static int enter(const Context *context, int other, StageMessage kind, uint64_t bytes, int sends)
{
    if (kind != STAGE_TIED)
        enter_link(context->ranks, other, kind, bytes);
    return ranks_enter_(context, &(RanksWait){.what = words[kind], .bytes = bytes},
                        (uint64_t)(kind + 8) << 56 ^ (uint64_t)sends << 61, sends ? bytes : 0);
}

int stage_settle_(Context *context, StageMessage kind)
{
    struct ContextRanks *r = context->ranks;
    Storage *busy = r->sending[kind];
    int failed = 0;
    if (!busy)
        return 0;
    if (!context->meta) {
        const Transport *t = r->is.transport;
        ranks_waiting_(t, &(RanksWait){words[kind], NULL, busy->block.requested, r->traffic.calls});
        failed = ranks_left_(context, words[kind], t->wait(t->self, (int)kind));
    }
    r->sending[kind] = NULL;
    storage_release(context, busy);
    return failed;
}

int stage_start_(Context *context, StageMessage kind, int to, Storage *data, uint64_t bytes)
{
    struct ContextRanks *r = context->ranks;
    if (stage_settle_(context, kind) != 0) {
        storage_release(context, data);
        return error_code();
    }
    if (data->block.component == MEM_TEMPORARY || data->block.component == MEM_ACTIVATION_GRADIENT)
        memtrack_retag(data->ledger, &data->block, MEM_COMMUNICATION);
    r->sending[kind] = data;
    if (!enter(context, to, kind, bytes, 1))
        return 0;
    const Transport *t = r->is.transport;
    return ranks_left_(context, words[kind],
                       t->start(t->self, RANKS_STAGE, storage_data(data), bytes, to, (int)kind));
}

int stage_take_(Context *context, StageMessage kind, int from, const Storage *data, uint64_t bytes)
{
    if (!enter(context, from, kind, bytes, 0))
        return 0;
    const Transport *t = context->ranks->is.transport;
    return ranks_left_(context, words[kind],
                       t->receive(t->self, RANKS_STAGE, storage_data(data), bytes, from, (int)kind));
}

Tensor *stage_take_tensor_(Context *context, StageMessage kind, int from, Shape shape)
{
    DType type = context->precision.activations;
    Tensor *x = tensor_new(type, shape, kind == STAGE_GRADIENT ? MEM_ACTIVATION_GRADIENT : MEM_TEMPORARY);
    if (!x)
        return NULL;
    if (stage_take_(context, kind, from, x->storage, shape_bytes(type, shape)) == 0)
        return x;
    tensor_free(x);
    return NULL;
}

/* ---- A weight that the first and the last stage have ------------------------------------------- */

enum { TIED_STAGING = 4 << 20 };

/* n elements from `here` on, of which `real` are there: the other's, added to one's own. Of two terms a sum
 * has no order. */
static int sum_piece(Context *context, int other, DType type, char *here, int64_t n, int64_t real)
{
    uint64_t bytes = dtype_bytes(type, 1, n);
    const Kernels *k = context->kernels;
    Storage *mine = storage_new(context, (int64_t)bytes, MEM_COMMUNICATION);
    Storage *got = mine ? storage_new(context, (int64_t)bytes, MEM_COMMUNICATION) : NULL;
    if (!got) {
        storage_release(context, mine);
        return error_code();
    }
    if (here && real < n)
        k->fill(type, n, 0, storage_data(mine), &context->run);
    if (here && real > 0)
        k->copy(type, type, real, here, storage_data(mine), &context->run);
    int failed = stage_start_(context, STAGE_TIED, other, mine, bytes) ||
                 stage_take_(context, STAGE_TIED, other, got, bytes) || stage_settle_(context, STAGE_TIED);
    if (!failed && here && real > 0)
        k->accumulate(type, type, real, storage_data(got), here, &context->run);
    storage_release(context, got);
    return failed;
}

int stage_sum_tied_(Tensor *parameter)
{
    Context *context = parameter->item.context;
    const struct ContextRanks *r = context->ranks;
    if (!parameter->tied_stages || r->count[RANKS_STAGE] == 1)
        return 0;
    TensorPart part = tensor_part_(parameter);
    int other = r->place[RANKS_STAGE] ? 0 : r->count[RANKS_STAGE] - 1;
    int64_t most = TIED_STAGING / (int64_t)dtype_bytes(part.grad_type, 1, 1);
    char *data = context->meta ? NULL : storage_data(part.grad);
    if (!part.grad)
        return 0;
    for (int64_t at = 0, n; at < part.each && !error_code(); at += n) {
        n = part.each - at < most ? part.each - at : most;
        int64_t real = part.count - at < n ? part.count - at : n;
        sum_piece(context, other, part.grad_type,
                  data ? data + dtype_bytes(part.grad_type, 1, part.grad_at + at) : NULL, n, real);
    }
    return error_code();
}

/* ---- Micro-batches in flight ------------------------------------------------------------------- */

static void flight_end(Flight *flight)
{
    if (flight->tape)
        tape_cut(flight->tape, 0);
    tensor_free(flight->y);
    tensor_free(flight->x);
    flight->x = flight->y = NULL;
}

void stages_drop_(Context *context)
{
    struct ContextRanks *r = context->ranks;
    for (int i = 0; i < r->flight_room; i++)
        flight_end(&r->flight[i]);
    r->forwards = r->backwards = 0;
}

int stages_room_(Context *context, int flights)
{
    struct ContextRanks *r = context->ranks;
    if (flights <= r->flight_room)
        return 0;
    Flight *more = memtrack_host_realloc(context->tracker, r->flight, (size_t)r->flight_room * sizeof *more,
                                         (size_t)flights * sizeof *more);
    if (!more)
        return error_raise(ERROR_HOST_MEMORY, "out of host memory for %d micro-batches in flight", flights);
    r->flight = more;
    for (; r->flight_room < flights; r->flight_room++)
        more[r->flight_room] = (Flight){0};
    for (int i = 0; i < flights; i++)
        if (!more[i].tape && !(more[i].tape = tape_create(context)))
            return error_raise(ERROR_HOST_MEMORY, "out of host memory for a tape");
    return 0;
}

void stages_close_(Context *context)
{
    struct ContextRanks *r = context->ranks;
    stages_drop_(context);
    for (int i = 0; i < r->flight_room; i++)
        tape_destroy(r->flight[i].tape);
    memtrack_host_free(context->tracker, r->flight, (size_t)r->flight_room * sizeof *r->flight);
    for (int kind = 0; kind < STAGE_MESSAGES; kind++)
        storage_release(context, r->sending[kind]); /* where a run ends early, nobody waits for it */
    r->flight = NULL;
    r->flight_room = 0;
}

Flight *stages_flight_(Context *context, int micro)
{
    struct ContextRanks *r = context->ranks;
    return &r->flight[micro % r->flight_room];
}

void stages_hold_(Flight *flight, Tensor *x, Tensor *y)
{
    flight->x = x;
    flight->y = y;
    if (x)
        scope_release(&x->item);
    if (y)
        scope_release(&y->item);
}

/* ---- What a context's stage is ----------------------------------------------------------------- */

int context_stages_(const Context *context)
{
    return context->ranks ? context->ranks->count[RANKS_STAGE] : 1;
}

int context_stage_(const Context *context)
{
    return context->ranks ? context->ranks->place[RANKS_STAGE] : 0;
}

void stage_loss_begins_(Context *context)
{
    if (context->loss_step != context->steps_done)
        context->step_loss = 0;
    context->loss_step = context->steps_done;
    context->loss_scale.of_gradients = context->loss_scale.next;
}

uint64_t stage_link_(const Context *context, int before)
{
    const uint64_t *hash = context->ranks->link[before];
    return hash[0] ^ (hash[1] << 32 | hash[1] >> 32);
}
