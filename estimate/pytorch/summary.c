/* The peak of a job: one pass over its events, with what is alive in a table. */
#include "summary.h"

#include <string.h>

#include "../../memtrack/grow_.h"

static const uint32_t NONE = UINT32_MAX;

typedef struct Item {
    PytorchAllocation is;
    uint64_t born, died; /* events; died UINT64_MAX: it lives */
    uint32_t next;       /* of the spare ones, or of those that died since the peak */
} Item;

typedef struct Pass {
    PytorchReplay *replay;
    PytorchSummary *out;
    uint64_t event;
    Item *items;
    size_t count, capacity;
    uint32_t spare, dead; /* dead: they were alive at the highest moment so far */
    uint32_t *item_of;    /* by serial */
    size_t serials, serial_capacity;
} Pass;

/* ---- Events and the replay ------------------------------------------------------------------- */

PytorchReplay *estimate_pytorch_endless(const PytorchAllocatorOptions *options)
{
    PytorchAllocatorOptions endless = options ? *options : (PytorchAllocatorOptions){0};
    endless.limit = 0;
    endless.fraction = 0;
    return estimate_pytorch_create(&endless);
}

int estimate_pytorch_give(PytorchReplay *replay, const PytorchEvent *e)
{
    int status = 0;
    if (e->action == PYTORCH_ALLOC)
        status = estimate_pytorch_alloc_on(replay, e->stream, e->serial, e->bytes);
    else if (e->action == PYTORCH_FREE)
        status = estimate_pytorch_free(replay, e->serial);
    else if (e->action == PYTORCH_EMPTY_CACHE)
        status = estimate_pytorch_empty_cache(replay);
    return status && status != PYTORCH_OUT_OF_MEMORY ? -1 : status;
}

/* ---- Items ----------------------------------------------------------------------------------- */

static int put_item(Pass *p, const PytorchEvent *e)
{
    uint32_t *item_of =
        memtrack_grow(p->item_of, &p->serial_capacity, (size_t)e->serial + 1, sizeof *item_of);
    if (!item_of)
        return -1;
    p->item_of = item_of;
    for (; p->serials <= e->serial; p->serials++)
        p->item_of[p->serials] = NONE;
    uint32_t at = p->spare;
    if (at == NONE) {
        Item *items = memtrack_grow(p->items, &p->capacity, p->count + 1, sizeof *items);
        if (!items)
            return -1;
        p->items = items;
        at = (uint32_t)p->count++;
    } else {
        p->spare = p->items[at].next;
    }
    p->items[at] = (Item){.is = {.serial = e->serial,
                                 .bytes = e->bytes,
                                 .kind = e->kind,
                                 .phase = e->phase,
                                 .step = e->step,
                                 .micro = e->micro,
                                 .layer = e->layer,
                                 .recomputed = e->recomputed,
                                 .module = e->module,
                                 .op = e->op},
                          .born = p->event,
                          .died = UINT64_MAX};
    p->item_of[e->serial] = at;
    return 0;
}

static void end_item(Pass *p, uint64_t serial)
{
    uint32_t at = p->item_of[serial];
    Item *item = &p->items[at];
    int at_peak = item->born <= p->out->peak_event;
    uint32_t *list = at_peak ? &p->dead : &p->spare;
    item->died = at_peak ? p->event : item->born; /* not alive at the peak */
    item->next = *list;
    *list = at;
}

/* What died since the last peak is of no interest any more. */
static void forget_dead(Pass *p)
{
    while (p->dead != NONE) {
        uint32_t at = p->dead;
        p->dead = p->items[at].next;
        p->items[at].died = p->items[at].born;
        p->items[at].next = p->spare;
        p->spare = at;
    }
}

/* A tensor that is kept for backward may be a parameter or an input, and stays one. */
static void mark_item(Pass *p, const PytorchEvent *e)
{
    PytorchAllocation *is = &p->items[p->item_of[e->serial]].is;
    if (e->kind != PYTORCH_ACTIVATION || is->kind == PYTORCH_TEMPORARY)
        is->kind = e->kind;
}

/* ---- The pass -------------------------------------------------------------------------------- */

static void at_moment(Pass *p, const PytorchEvent *e, const PytorchBooks *b)
{
    PytorchSummary *s = p->out;
    PytorchMoment *m = &s->moments[s->moment_count ? s->moment_count - 1 : 0];
    int step = e->phase == PYTORCH_EVALUATE ? 0 : e->step; /* its batches are one moment */
    int same = s->moment_count && m->phase == e->phase && m->step == step;
    for (int i = s->moment_count; !same && i-- > 0 && s->moments[i].step == step;)
        if (s->moments[i].phase == e->phase) { /* of the next micro-batch */
            m = &s->moments[i];
            same = 1;
        }
    if (!same && s->moment_count < PYTORCH_MOMENTS) {
        m = &s->moments[s->moment_count++];
        *m = (PytorchMoment){.phase = e->phase, .step = step};
    }
    m->requested = b->requested > m->requested ? b->requested : m->requested;
    m->allocated = b->allocated > m->allocated ? b->allocated : m->allocated;
    m->reserved = b->reserved > m->reserved ? b->reserved : m->reserved;
    m->left = b->allocated;
}

static int on_event(void *user, const PytorchEvent *e)
{
    Pass *p = user;
    PytorchSummary *s = p->out;
    const PytorchBooks *b = estimate_pytorch_books(p->replay);
    uint64_t highest = b->peak_allocated;
    if (e->action == PYTORCH_MARK)
        mark_item(p, e);
    if (e->action == PYTORCH_FREE)
        end_item(p, e->serial);
    if ((e->action == PYTORCH_ALLOC && put_item(p, e)) || estimate_pytorch_give(p->replay, e))
        return -1;
    if (e->action == PYTORCH_ALLOC && (b->peak_allocated > highest || !s->requested)) {
        s->peak_at = *e;
        s->peak_event = p->event;
        s->requested = b->requested;
        forget_dead(p);
    }
    at_moment(p, e, b);
    p->event++;
    return 0;
}

/* Serials ascend: what was made first has the lowest. */
static int take_live(Pass *p)
{
    PytorchSummary *s = p->out;
    for (size_t serial = 0; serial < p->serials; serial++) {
        uint32_t at = p->item_of[serial];
        if (at == NONE || p->items[at].is.serial != serial)
            continue;
        const Item *item = &p->items[at];
        if (item->born > s->peak_event || item->died <= s->peak_event)
            continue;
        PytorchAllocation *live = memtrack_grow(s->live, &s->live_room, s->live_count + 1, sizeof *live);
        if (!live)
            return -1;
        s->live = live;
        s->live[s->live_count++] = item->is;
        s->at_peak[item->is.kind] += item->is.bytes;
    }
    return 0;
}

int estimate_pytorch_summary(const PytorchJob *job, const PytorchAllocatorOptions *options,
                             PytorchSummary *out)
{
    memset(out, 0, sizeof *out);
    Pass p = {.out = out, .spare = NONE, .dead = NONE, .replay = estimate_pytorch_endless(options)};
    int status = p.replay ? estimate_pytorch_job(job, on_event, &p) : -1;
    if (!status)
        status = take_live(&p);
    if (!status)
        out->books = *estimate_pytorch_books(p.replay);
    else
        estimate_pytorch_summary_free(out);
    memtrack_host_free(NULL, p.items, p.capacity * sizeof *p.items);
    memtrack_host_free(NULL, p.item_of, p.serial_capacity * sizeof *p.item_of);
    estimate_pytorch_destroy(p.replay);
    return status ? -1 : 0;
}

void estimate_pytorch_summary_free(PytorchSummary *s)
{
    memtrack_host_free(NULL, s->live, s->live_room * sizeof *s->live);
    memset(s, 0, sizeof *s);
}

/* ---- Names ----------------------------------------------------------------------------------- */

const char *estimate_pytorch_kind_name(PytorchKind kind)
{
    static const char *const names[PYTORCH_KINDS] = {[PYTORCH_TEMPORARY] = "temporaries",
                                                     [PYTORCH_PARAMETER] = "parameters",
                                                     [PYTORCH_FROZEN] = "frozen parameters",
                                                     [PYTORCH_BUFFER] = "buffers",
                                                     [PYTORCH_GRADIENT] = "gradients",
                                                     [PYTORCH_OPTIMIZER_STATE] = "optimizer states",
                                                     [PYTORCH_INPUT] = "inputs",
                                                     [PYTORCH_ACTIVATION] = "activations",
                                                     [PYTORCH_WORKSPACE] = "workspaces",
                                                     [PYTORCH_CAST] = "casts of weights",
                                                     [PYTORCH_BUCKET] = "buckets of ranks"};
    return kind < PYTORCH_KINDS ? names[kind] : "";
}

const char *estimate_pytorch_phase_name(PytorchPhase phase)
{
    static const char *const names[PYTORCH_PHASES] = {
        [PYTORCH_MODEL] = "model",       [PYTORCH_MAKE_OPTIMIZER] = "optimizer",
        [PYTORCH_DATA] = "data",         [PYTORCH_FORWARD] = "forward",
        [PYTORCH_BACKWARD] = "backward", [PYTORCH_CLIP] = "clip",
        [PYTORCH_STEP] = "step",         [PYTORCH_ZERO] = "zero_grad",
        [PYTORCH_EVALUATE] = "evaluate", [PYTORCH_SAVE] = "save"};
    return phase < PYTORCH_PHASES ? names[phase] : "";
}
