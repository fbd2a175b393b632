/* What is to be packed. Kinds that begin alike share the items of that beginning, so that a ledger need not
 * know which of them it is in. What lives at the highest moment and, in
 * every kind, to its end (parameters, optimizer states) lies at the bottom, in the order of allocation;
 * everything else goes above. */
#include <string.h>

#include "memtrack_.h"
#include "pack_.h"

/* How many events both have in common at the beginning. */
static uint32_t shared_events(const MemTraceKind *a, const MemTraceKind *b)
{
    size_t most = a->event_count < b->event_count ? a->event_count : b->event_count, i = 0;
    while (i < most && a->events[i] == b->events[i])
        i++;
    return (uint32_t)i;
}

/* Of the kinds before k the one with the longest common beginning, and how many allocations that has. */
static uint32_t shared_allocs(const MemTrace *trace, size_t k, size_t *like)
{
    const MemTraceKind *kind = &trace->kinds[k];
    uint32_t most = 0, count = 0;
    for (size_t j = 0; j < k; j++) {
        uint32_t shared = shared_events(&trace->kinds[j], kind);
        if (shared > most) {
            most = shared;
            *like = j;
        }
    }
    while (count < kind->alloc_count && kind->allocs[count].event < most)
        count++;
    return count;
}

static void number_items(MemItems *items)
{
    const MemTrace *trace = items->trace;
    for (size_t k = 0; k < trace->kind_count; k++) {
        const MemTraceKind *kind = &trace->kinds[k];
        size_t like = 0;
        uint32_t shared = shared_allocs(trace, k, &like), *of = items->item_of + items->start[k];
        for (uint32_t i = 0; i < kind->alloc_count; i++) {
            of[i] = i < shared ? items->item_of[items->start[like] + i] : items->item_count;
            if (i >= shared)
                items->items[items->item_count++] =
                    (MemItem){.bytes = kind->allocs[i].bytes, .first = items->start[k] + i};
        }
    }
}

static MemItem *item_of_resident(const MemItems *items, size_t resident)
{
    MemTraceResident r = items->trace->residents[resident];
    return &items->items[items->item_of[items->start[r.kind] + r.index]];
}

/* Each item gets room for all spans that it can have: one for each kind that makes it, one for each kind that
 * it lives in. */
static void room_for_spans(MemItems *items)
{
    const MemTrace *trace = items->trace;
    for (uint32_t t = 0; t < items->start[trace->kind_count]; t++)
        items->items[items->item_of[t]].span_count++;
    for (size_t k = 0; k < trace->kind_count; k++)
        for (size_t r = 0; r < trace->kinds[k].until_capacity && r < trace->resident_count; r++)
            item_of_resident(items, r)->span_count += trace->kinds[k].until[r] > 0;
    uint32_t at = 0;
    for (uint32_t i = 0; i < items->item_count; i++) {
        items->items[i].span = at;
        at += items->items[i].span_count;
        items->items[i].span_count = 0;
    }
}

static void add_span(MemItems *items, MemItem *item, MemSpan span)
{
    MemSpan *spans = items->spans + item->span, *last = spans + (item->span_count ? item->span_count - 1 : 0);
    if (item->span_count > 0 && last->kind == span.kind && last->from == span.from) {
        last->to = last->to > span.to ? last->to : span.to; /* a resident of two kinds that begin alike */
        return;
    }
    spans[item->span_count++] = span;
    items->in_kind[span.kind]++;
}

static void fill_spans(MemItems *items)
{
    const MemTrace *trace = items->trace;
    for (uint32_t k = 0; k < trace->kind_count; k++) {
        const MemTraceKind *kind = &trace->kinds[k];
        for (size_t r = 0; r < kind->until_capacity && r < trace->resident_count; r++)
            if (kind->until[r] > 0)
                add_span(items, item_of_resident(items, r), (MemSpan){k, 0, kind->until[r]});
        for (uint32_t i = 0; i < kind->alloc_count; i++)
            add_span(items, &items->items[items->item_of[items->start[k] + i]],
                     (MemSpan){k, i, kind->allocs[i].until});
    }
}

/* ---- How high, and what is at the bottom ----------------------------------------------------- */

/* Sums up the bytes of all items that live at each moment. Returns the moment with the most. */
static uint32_t fill_live(MemItems *items)
{
    uint32_t moments = items->start[items->trace->kind_count], highest = 0;
    uint64_t *live = items->live; /* as differences first: sums wrap and come out right */
    for (uint32_t i = 0; i < items->item_count; i++)
        for (uint32_t s = 0; s < items->items[i].span_count; s++) {
            const MemSpan *span = &items->spans[items->items[i].span + s];
            live[items->start[span->kind] + span->from] += items->items[i].bytes;
            live[items->start[span->kind] + span->to] -= items->items[i].bytes;
        }
    for (uint32_t t = 1; t < moments; t++) {
        live[t] += live[t - 1];
        if (live[t] > live[highest])
            highest = t;
    }
    for (uint32_t t = 0; t < moments; t++)
        if (live[t] > items->most[t / MEM_LIVE_BLOCK])
            items->most[t / MEM_LIVE_BLOCK] = live[t];
    items->floor = live[highest];
    return highest;
}

/* The item lives at the highest moment, and in every kind to the end of the segment. */
static bool belongs_to_bottom(const MemItems *items, const MemItem *item, uint32_t highest)
{
    bool lives = false;
    for (uint32_t s = 0; s < item->span_count; s++) {
        const MemSpan *span = &items->spans[item->span + s];
        uint32_t from = items->start[span->kind] + span->from, to = items->start[span->kind] + span->to;
        if (to != items->start[span->kind + 1])
            return false;
        lives = lives || (from <= highest && highest < to);
    }
    return lives && item->span_count > 1;
}

static void lay_bottom(MemItems *items, uint32_t highest)
{
    for (uint32_t i = 0; i < items->item_count; i++) {
        MemItem *item = &items->items[i];
        item->at_bottom = belongs_to_bottom(items, item, highest);
        if (!item->at_bottom)
            continue;
        item->offset = items->bottom;
        items->bottom += item->bytes;
        for (uint32_t s = 0; s < item->span_count; s++) {
            const MemSpan *span = &items->spans[item->span + s];
            items->base[items->start[span->kind] + span->from] = items->bottom;
        }
    }
    for (size_t k = 0; k < items->trace->kind_count; k++)
        for (uint32_t t = items->start[k] + 1; t < items->start[k + 1]; t++)
            if (items->base[t] < items->base[t - 1])
                items->base[t] = items->base[t - 1];
}

/* A kind is loose when what it has above the bottom never exceeds three quarters of the most there is. */
static void find_loose(MemItems *items)
{
    uint64_t near = items->bottom + (items->floor - items->bottom) / 4 * 3;
    for (size_t k = 0; k < items->trace->kind_count; k++) {
        items->loose[k] = true;
        for (uint32_t t = items->start[k]; t < items->start[k + 1]; t++)
            items->loose[k] = items->loose[k] && items->live[t] <= near;
    }
}

/* The most live bytes at moments [from, to). Where a whole block of moments is in it, `most` knows. */
static uint64_t most_live(const MemItems *items, uint32_t from, uint32_t to)
{
    uint64_t most = 0;
    while (from < to) {
        bool whole = from % MEM_LIVE_BLOCK == 0 && to - from >= MEM_LIVE_BLOCK;
        uint64_t here = whole ? items->most[from / MEM_LIVE_BLOCK] : items->live[from];
        most = here > most ? here : most;
        from += whole ? MEM_LIVE_BLOCK : 1;
    }
    return most;
}

static void measure(const MemItems *items, MemItem *item)
{
    for (uint32_t s = 0; s < item->span_count; s++) {
        const MemSpan *span = &items->spans[item->span + s];
        uint32_t from = items->start[span->kind] + span->from, to = items->start[span->kind] + span->to;
        uint64_t live = most_live(items, from, to);
        item->time += to - from;
        item->base = items->base[to - 1] > item->base ? items->base[to - 1] : item->base;
        item->live = live > item->live ? live : item->live;
    }
}

/* ---- Making and ending ----------------------------------------------------------------------- */

static int take_room(MemItems *items)
{
    const MemTrace *trace = items->trace;
    uint32_t moments = 0;
    for (size_t k = 0; k < trace->kind_count; k++) {
        items->start[k] = moments;
        moments += (uint32_t)trace->kinds[k].alloc_count;
        for (size_t r = 0; r < trace->kinds[k].until_capacity && r < trace->resident_count; r++)
            items->span_room += trace->kinds[k].until[r] > 0;
    }
    items->start[trace->kind_count] = moments;
    items->item_room = moments;
    items->span_room += moments;
    items->item_of = memtrack_host_alloc(NULL, moments * sizeof *items->item_of);
    items->live = memtrack_host_calloc(NULL, (moments + 1) * sizeof *items->live);
    items->base = memtrack_host_calloc(NULL, (moments + 1) * sizeof *items->base);
    items->most = memtrack_host_calloc(NULL, (moments / MEM_LIVE_BLOCK + 1) * sizeof *items->most);
    items->items = memtrack_host_alloc(NULL, items->item_room * sizeof *items->items);
    items->spans = memtrack_host_alloc(NULL, items->span_room * sizeof *items->spans);
    return items->item_of && items->live && items->base && items->most && items->items && items->spans ? 0
                                                                                                       : -1;
}

int memtrack_items_create_(MemItems *items, const MemTrace *trace)
{
    *items = (MemItems){.trace = trace};
    if (take_room(items))
        return -1;
    number_items(items);
    room_for_spans(items);
    fill_spans(items);
    lay_bottom(items, fill_live(items));
    find_loose(items);
    for (uint32_t i = 0; i < items->item_count; i++)
        if (!items->items[i].at_bottom)
            measure(items, &items->items[i]);
    return 0;
}

void memtrack_items_destroy_(MemItems *items)
{
    size_t moments = items->item_room;
    memtrack_host_free(NULL, items->item_of, moments * sizeof *items->item_of);
    memtrack_host_free(NULL, items->live, (moments + 1) * sizeof *items->live);
    memtrack_host_free(NULL, items->base, (moments + 1) * sizeof *items->base);
    memtrack_host_free(NULL, items->most, (moments / MEM_LIVE_BLOCK + 1) * sizeof *items->most);
    memtrack_host_free(NULL, items->items, items->item_room * sizeof *items->items);
    memtrack_host_free(NULL, items->spans, items->span_room * sizeof *items->spans);
}
