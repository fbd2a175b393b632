/* How what ranks send each other leaves a context's memory: as it lies, where that is the host's. From a card
 * by a transport of cards, in the order of the card's stream; where there is none, through memory of the
 * host's, piece by piece. */
#include <stdio.h>

#include "../device/graph.h"
#include "card_.h"
#include "ranks_.h"

enum { ROOM = 4 << 20 }; /* of what goes, and of what comes; the least for every rank fits in it */
_Static_assert(ROOM / RANKS_MOST >= TRANSPORT_UNIT, "a unit a rank");

/* A card's context that has no transport of cards. */
static int is_staged(const Context *context)
{
    const Ranks *is = &context->ranks->is;
    return context->card && is->size > 1 && !is->card;
}

/* Who carries between cards joins on the card's stream. */
static int join(Context *context, char *why, size_t size)
{
    struct ContextRanks *r = context->ranks;
    const Transport *t = r->is.card;
    CudaDevice *device = &context->card->device;
    cuda_take_reading(device->nvml, &device->reading[CUDA_BEFORE_TRANSPORT]);
    ranks_waiting_(r->is.transport, &(RanksWait){.what = "joining their cards"});
    int failed = t->join(t->self, device->stream);
    ranks_done_(r->is.transport);
    if (failed)
        snprintf(why, size, "joining the ranks' cards: %.300s", t->why(t->self));
    r->joined = !failed;
    return failed;
}

int carry_open_(Context *context, char *why, size_t size)
{
    struct ContextRanks *r = context->ranks;
    if (context->card && r->is.card && !context->meta)
        return join(context, why, size);
    if (!is_staged(context))
        return 0;
    if (context->meta) {
        context->host_later += 2 * ROOM;
        return 0;
    }
    r->room = memtrack_host_alloc(context->tracker, 2 * ROOM);
    if (!r->room)
        snprintf(why, size, "no host memory for %d bytes that what ranks send passes through", 2 * ROOM);
    return r->room ? 0 : -1;
}

void carry_leave_(Context *context, int failed)
{
    struct ContextRanks *r = context->ranks;
    if (!r || !r->joined)
        return;
    r->joined = 0;
    r->is.card->leave(r->is.card->self, failed);
}

void carry_close_(Context *context)
{
    struct ContextRanks *r = context->ranks;
    carry_leave_(context, context->error != ERROR_NONE);
    memtrack_host_free(context->tracker, r->room, 2 * ROOM);
    r->room = NULL;
}

/* A gather, an exchange and sums of every group that there is, of the least. */
static int use_once(const Context *context, char *room)
{
    const struct ContextRanks *r = context->ranks;
    const Transport *t = r->is.card;
    int failed = 0;
    for (int g = RANKS_DATA; g < RANK_GROUPS && !failed; g++) {
        RankGroup group = (RankGroup)g;
        char *to = room + (uint64_t)r->count[g] * TRANSPORT_UNIT;
        int used = g < RANKS_SHARD || r->count[RANKS_REPLICA] > 1; /* a replica that is all is RANKS_DATA */
        if (used && r->count[g] > 1)
            failed = t->gather(t->self, group, room, TRANSPORT_UNIT) ||
                     t->exchange(t->self, group, room, to, TRANSPORT_UNIT) ||
                     t->sum(t->self, group, (float *)(void *)room, 1) ||
                     t->sum_parts(t->self, group, (const float *)(const void *)room, (float *)(void *)to, 1);
    }
    return failed;
}

int carry_ready_(Context *context, char *why, size_t size)
{
    struct ContextRanks *r = context->ranks;
    if (!r->joined)
        return 0;
    CudaDevice *device = &context->card->device;
    const MemDevice *memory = &context->card->memory;
    uint64_t bytes = 2 * TRANSPORT_UNIT * (uint64_t)r->is.size;
    char *room = memory->take(memory->user, bytes);
    if (!room) {
        snprintf(why, size, "the card has no memory left for who carries between cards");
        return -1;
    }
    cuda_clear(device, (CudaPointer)(uintptr_t)room, bytes);
    cuda_flush(device);
    ranks_waiting_(r->is.transport, &(RanksWait){.what = "joining their cards"});
    int failed = use_once(context, room);
    if (failed)
        snprintf(why, size, "%.300s", r->is.card->why(r->is.card->self));
    else if ((failed = cuda_wait(device)))
        cuda_failure(device, why, size);
    ranks_done_(r->is.transport);
    memory->give(memory->user, room);
    cuda_take_reading(device->nvml, &device->reading[CUDA_AFTER_TRANSPORT]);
    return failed ? -1 : 0;
}

int carry_divide_(struct ContextRanks *r, RankGroup group, int colour, int place)
{
    const Transport *both[] = {r->is.transport, r->joined ? r->is.card : NULL};
    for (int i = 0; i < 2; i++) {
        r->asked = both[i];
        if (both[i] && both[i]->divide(both[i]->self, group, colour, place))
            return -1;
    }
    return 0;
}

/* Who carries what this context's tensors hold. What was put on the card's stream before goes first. */
static const Transport *carrier(const Context *context)
{
    struct ContextRanks *r = context->ranks;
    r->asked = r->is.transport;
    if (r->joined) {
        r->asked = r->is.card;
        cuda_flush(&context->card->device);
    }
    return r->asked;
}

const char *carry_why_(const Context *context)
{
    const struct ContextRanks *r = context->ranks;
    const Transport *t = r->asked ? r->asked : r->is.transport;
    return t->why(t->self);
}

int carry_check_(const Context *context)
{
    const struct ContextRanks *r = context->ranks;
    char why[200];
    if (!r->joined || !r->is.card->check(r->is.card->self, why, sizeof why))
        return error_code();
    return error_raise(ERROR_RANKS, "what was sent between the ranks' cards has failed: %s", why);
}

/* ---- Through the host -------------------------------------------------------------------------- */

static void fetch(const Context *context, const void *from, uint64_t bytes, void *to)
{
    const MemDevice *memory = &context->card->memory;
    memory->read(memory->user, from, bytes, to);
}

static void put(const Context *context, void *to, uint64_t bytes, const void *from)
{
    const MemDevice *memory = &context->card->memory;
    memory->write(memory->user, to, bytes, from);
}

/* A card that has failed has given zeros. */
static int staged(Context *context, int failed)
{
    return failed ? failed : card_answers_(context);
}

static int staged_gather(Context *context, const Transport *t, RankGroup group, char *data, uint64_t bytes)
{
    char *room = context->ranks->room;
    uint64_t ranks = (uint64_t)context->ranks->count[group], own = (uint64_t)context->ranks->place[group];
    uint64_t most = ROOM / ranks / TRANSPORT_UNIT * TRANSPORT_UNIT;
    int failed = 0;
    for (uint64_t at = 0, n; at < bytes && !failed; at += n) {
        n = bytes - at < most ? bytes - at : most;
        fetch(context, data + own * bytes + at, n, room + own * n);
        failed = t->gather(t->self, group, room, n);
        for (uint64_t r = 0; r < ranks && !failed; r++)
            if (r != own)
                put(context, data + r * bytes + at, n, room + r * n);
    }
    return staged(context, failed);
}

static int staged_exchange(Context *context, const Transport *t, RankGroup group, const void *from, void *to,
                           uint64_t bytes)
{
    char *room = context->ranks->room;
    uint64_t all = (uint64_t)context->ranks->count[group] * bytes; /* a piece of collective.c: within ROOM */
    fetch(context, from, all, room);
    int failed = t->exchange(t->self, group, room, room + ROOM, bytes);
    if (!failed)
        put(context, to, all, room + ROOM);
    return staged(context, failed);
}

static int staged_sum(Context *context, const Transport *t, RankGroup group, float *data, uint64_t count)
{
    enum { MOST = ROOM / sizeof(float) };
    float *room = (float *)(void *)context->ranks->room;
    int failed = 0;
    for (uint64_t at = 0, n; at < count && !failed; at += n) {
        n = count - at < MOST ? count - at : MOST;
        fetch(context, data + at, n * sizeof *data, room);
        failed = t->sum(t->self, group, room, n);
        if (!failed)
            put(context, data + at, n * sizeof *data, room);
    }
    return staged(context, failed);
}

static int staged_sum_parts(Context *context, const Transport *t, RankGroup group, const float *from,
                            float *to, uint64_t count)
{
    char *room = context->ranks->room;
    uint64_t ranks = (uint64_t)context->ranks->count[group];
    float *sum = (float *)(void *)(room + ROOM);
    fetch(context, from, ranks * count * sizeof *from, room);
    int failed = t->sum_parts(t->self, group, (const float *)(const void *)room, sum, count);
    if (!failed)
        put(context, to, count * sizeof *to, sum);
    return staged(context, failed);
}

static int staged_receive(Context *context, const Transport *t, RankGroup group, void *data, uint64_t bytes,
                          int from, int tag)
{
    int failed = t->receive(t->self, group, context->ranks->room, bytes, from, tag);
    if (!failed)
        put(context, data, bytes, context->ranks->room);
    return staged(context, failed);
}

static int staged_broadcast(Context *context, const Transport *t, RankGroup group, void *data, uint64_t bytes,
                            int root)
{
    char *room = context->ranks->room;
    int own = context->ranks->place[group] == root;
    if (own)
        fetch(context, data, bytes, room);
    int failed = t->broadcast(t->self, group, room, bytes, root);
    if (!failed && !own)
        put(context, data, bytes, room);
    return staged(context, failed);
}

/* ---- What collectives ask for ------------------------------------------------------------------ */

int carry_gather_(Context *context, RankGroup group, void *data, uint64_t bytes)
{
    const Transport *t = carrier(context);
    return is_staged(context) ? staged_gather(context, t, group, data, bytes)
                              : t->gather(t->self, group, data, bytes);
}

int carry_exchange_(Context *context, RankGroup group, const void *from, void *to, uint64_t bytes)
{
    const Transport *t = carrier(context);
    return is_staged(context) ? staged_exchange(context, t, group, from, to, bytes)
                              : t->exchange(t->self, group, from, to, bytes);
}

int carry_sum_(Context *context, RankGroup group, float *data, uint64_t count)
{
    const Transport *t = carrier(context);
    return is_staged(context) ? staged_sum(context, t, group, data, count)
                              : t->sum(t->self, group, data, count);
}

int carry_sum_parts_(Context *context, RankGroup group, const float *from, float *to, uint64_t count)
{
    const Transport *t = carrier(context);
    return is_staged(context) ? staged_sum_parts(context, t, group, from, to, count)
                              : t->sum_parts(t->self, group, from, to, count);
}

int carry_receive_(Context *context, RankGroup group, void *data, uint64_t bytes, int from, int tag)
{
    const Transport *t = carrier(context);
    return is_staged(context) ? staged_receive(context, t, group, data, bytes, from, tag)
                              : t->receive(t->self, group, data, bytes, from, tag);
}

int carry_send_(Context *context, RankGroup group, const void *data, uint64_t bytes, int to, int tag)
{
    const Transport *t = carrier(context);
    if (is_staged(context)) {
        fetch(context, data, bytes, context->ranks->room);
        data = context->ranks->room;
    }
    return t->start(t->self, group, data, bytes, to, tag) || t->wait(t->self, tag);
}

int carry_broadcast_(Context *context, RankGroup group, void *data, uint64_t bytes, int root)
{
    const Transport *t = carrier(context);
    return is_staged(context) ? staged_broadcast(context, t, group, data, bytes, root)
                              : t->broadcast(t->self, group, data, bytes, root);
}

/* What is staged has one room, and is over when it returns. */
int carry_begin_(Context *context)
{
    const Transport *t = carrier(context);
    return t->begin && !is_staged(context) ? t->begin(t->self) : 0;
}

int carry_later_(Context *context, int *going)
{
    const Transport *t = carrier(context);
    *going = t->later && !is_staged(context);
    return *going ? t->later(t->self) : carry_end_(context);
}

int carry_end_(Context *context)
{
    const Transport *t = carrier(context);
    return t->end && !is_staged(context) ? t->end(t->self) : 0;
}
