/* See timeline.h. How many events there are is not known before the last: where the points are full, each two
 * become one. */
#include <string.h>

#include "../../memtrack/grow_.h"
#include "../../memtrack/memtrack.h"
#include "summary.h"
#include "timeline.h"

typedef struct Allocated {
    uint64_t bytes;
    PytorchKind kind;
} Allocated;

typedef struct Course {
    PytorchTimeline *out;
    PytorchReplay *replay;
    Allocated *live; /* by serial */
    size_t serials, room;
    uint64_t by[PYTORCH_KINDS];
    uint64_t in_point; /* events of the last point */
    int is_last;       /* the last point is as things are now */
} Course;

static const PytorchPoint *higher(const PytorchPoint *a, const PytorchPoint *b)
{
    return b->allocated > a->allocated ? b : a;
}

static void halve(PytorchTimeline *t)
{
    for (int i = 0; i < t->count / 2; i++) {
        PytorchPoint both = *higher(&t->points[2 * i], &t->points[2 * i + 1]);
        if (both.reserved < t->points[2 * i + 1].reserved)
            both.reserved = t->points[2 * i + 1].reserved;
        t->points[i] = both;
    }
    for (int i = 0; i < t->span_count; i++)
        t->spans[i].first /= 2;
    t->count /= 2;
    t->stride *= 2;
}

static void add_span(PytorchTimeline *t, const PytorchEvent *e)
{
    const PytorchSpan *last = t->span_count ? &t->spans[t->span_count - 1] : NULL;
    if (last && last->phase == e->phase && last->step == e->step && last->micro == e->micro)
        return;
    if (t->span_count < PYTORCH_SPANS)
        t->spans[t->span_count++] = (PytorchSpan){e->phase, e->step, e->micro, t->count};
}

static void add_point(Course *c, const PytorchEvent *e)
{
    PytorchTimeline *t = c->out;
    const PytorchBooks *b = estimate_pytorch_books(c->replay);
    add_span(t, e);
    PytorchPoint now = {.allocated = b->allocated, .reserved = b->reserved, .span = t->span_count - 1};
    memcpy(now.by, c->by, sizeof now.by);
    if (!t->count || c->in_point == t->stride) {
        if (t->count == PYTORCH_POINTS)
            halve(t);
        t->points[t->count++] = now;
        c->in_point = 0;
        c->is_last = 1;
    } else {
        PytorchPoint *last = &t->points[t->count - 1];
        uint64_t reserved = last->reserved > now.reserved ? last->reserved : now.reserved;
        c->is_last = now.allocated > last->allocated;
        *last = *higher(last, &now);
        last->reserved = reserved;
    }
    c->in_point++;
}

static int grow(Course *c, uint64_t serial)
{
    Allocated *live = memtrack_grow(c->live, &c->room, serial + 1, sizeof *live);
    if (!live)
        return -1;
    if (serial + 1 > c->serials)
        memset(live + c->serials, 0, (serial + 1 - c->serials) * sizeof *live);
    c->live = live;
    c->serials = serial + 1 > c->serials ? serial + 1 : c->serials;
    return 0;
}

static void change_kind(Course *c, Allocated *a, PytorchKind kind)
{
    uint64_t *counts[] = {c->by, c->is_last ? c->out->points[c->out->count - 1].by : NULL};
    for (int i = 0; i < 2 && counts[i]; i++) {
        counts[i][a->kind] -= a->bytes;
        counts[i][kind] += a->bytes;
    }
    a->kind = kind;
}

static int on_event(void *user, const PytorchEvent *e)
{
    Course *c = user;
    if (grow(c, e->serial))
        return -1;
    Allocated *a = &c->live[e->serial];
    if (e->action == PYTORCH_MARK) {
        if (e->kind != PYTORCH_ACTIVATION || a->kind == PYTORCH_TEMPORARY) /* as in the summary */
            change_kind(c, a, e->kind);
        return 0;
    }
    if (e->action == PYTORCH_ALLOC) {
        *a = (Allocated){e->bytes, e->kind};
        c->by[a->kind] += a->bytes;
    } else if (e->action == PYTORCH_FREE) {
        c->by[a->kind] -= a->bytes;
    }
    if (estimate_pytorch_give(c->replay, e))
        return -1;
    add_point(c, e);
    return 0;
}

int estimate_pytorch_timeline(const PytorchJob *job, const PytorchAllocatorOptions *options,
                              PytorchTimeline *out)
{
    memset(out, 0, sizeof *out);
    out->stride = 1;
    Course c = {.out = out, .replay = estimate_pytorch_endless(options)};
    int failed = !c.replay || estimate_pytorch_job(job, on_event, &c);
    memtrack_host_free(NULL, c.live, c.room * sizeof *c.live);
    estimate_pytorch_destroy(c.replay);
    return failed ? -1 : 0;
}
