/* Packing: items are placed in several orders, each item at the lowest offset that is free while it lives.
 * The best result counts. Work is counted, not timed, so the result depends on the trace alone. pack_.h
 * defines the words; docs/packing.md draws an example. */
#include <stdlib.h>
#include <string.h>

#include "memtrack_.h"
#include "pack_.h"

/* The work that one trace may cost, in entries looked at: some milliseconds; and once more, a tenth of a
 * second or two, where that ended more than a fiftieth above the floor: where thousands of matrices come and
 * go. */
#define WORK      8000000
#define MORE_WORK 256000000
/* How often lift changes one order. */
#define ROUNDS 40

/* A placed item, in the list of one kind. Lists are sorted by offset. */
typedef struct Entry {
    uint64_t offset, end;
    uint32_t from, to;
} Entry;

typedef struct Rank {
    uint64_t first, second;
    uint32_t item;
} Rank;

typedef struct Packing {
    MemItems items;
    Entry *entries;
    uint32_t list[MEM_TRACE_KINDS],
        count[MEM_TRACE_KINDS]; /* where a kind's entries begin, and how many there are */
    Rank *order;
    uint64_t *offsets, *best;       /* by item */
    uint64_t height;                /* of the best placement; the online needs until there is one */
    uint32_t to_place, ranked;      /* in `order`: all items; the hard ones, which the packer orders */
    uint32_t full[MEM_TRACE_KINDS]; /* at this length a list is cleared of dead entries */
    uint64_t work, most_work;
    uint64_t small;     /* an item with fewer bytes is easy, unless it is a resident */
    const char *packer; /* of the best; NULL = none */
    uint64_t target;    /* good enough */
    uint32_t highest;   /* in `order`: the first that went above the target; to_place = none */
} Packing;

/* ---- Placing --------------------------------------------------------------------------------- */

/* Finds the lowest offset that is free in all spans of the item. False when the item would end above the best
 * height so far. */
static bool lowest(Packing *p, const MemItem *item, uint64_t *offset)
{
    uint32_t at[2 * MEM_TRACE_KINDS]; /* how far each span's list has been looked through */
    uint64_t low = item->base;
    bool moved = true;
    memset(at, 0, item->span_count * sizeof *at);
    while (moved) {
        moved = false;
        for (uint32_t s = 0; s < item->span_count; s++) {
            MemSpan span = p->items.spans[item->span + s];
            const Entry *list = p->entries + p->list[span.kind];
            uint32_t i = at[s], count = p->count[span.kind];
            for (; i < count && list[i].offset < low + item->bytes; i++)
                if (list[i].end > low && list[i].from < span.to && span.from < list[i].to) {
                    low = list[i].end;
                    moved = s > 0 || moved;
                }
            p->work += i - at[s];
            at[s] = i;
            if (item->bytes >= p->height || low >= p->height - item->bytes)
                return false;
        }
    }
    *offset = low;
    return true;
}

static void enter(Packing *p, const MemItem *item, uint64_t offset)
{
    for (uint32_t s = 0; s < item->span_count; s++) {
        MemSpan span = p->items.spans[item->span + s];
        Entry *list = p->entries + p->list[span.kind];
        uint32_t low = 0, high = p->count[span.kind]++, count = high;
        while (low < high) {
            uint32_t middle = low + (high - low) / 2;
            if (list[middle].offset > offset)
                high = middle;
            else
                low = middle + 1;
        }
        memmove(list + low + 1, list + low, (count - low) * sizeof *list);
        list[low] = (Entry){offset, offset + item->bytes, span.from, span.to};
        p->work += (count - low) / 4;
    }
}

/* Clears a list of what died before this span, once the list is long enough. */
static void forget_dead(Packing *p, MemSpan span)
{
    Entry *list = p->entries + p->list[span.kind];
    uint32_t count = p->count[span.kind], kept = 0;
    if (count < p->full[span.kind])
        return;
    for (uint32_t i = 0; i < count; i++)
        if (list[i].to > span.from)
            list[kept++] = list[i];
    p->work += count;
    p->count[span.kind] = kept;
    p->full[span.kind] = 2 * kept + 32;
}

/* Places all items in order. Returns the new height; 0 when it is no better, or the work is used up. */
static uint64_t place_all(Packing *p)
{
    uint64_t height = p->items.bottom;
    p->highest = p->to_place;
    memset(p->count, 0, sizeof p->count);
    memset(p->full, 0, sizeof p->full);
    p->work += p->to_place;
    for (uint32_t i = 0; i < p->to_place; i++) {
        const MemItem *item = &p->items.items[p->order[i].item];
        uint64_t offset = 0;
        for (uint32_t s = 0; i >= p->ranked && s < item->span_count; s++)
            forget_dead(p, p->items.spans[item->span + s]);
        bool fits = p->work <= p->most_work && lowest(p, item, &offset);
        if (p->highest == p->to_place && (!fits || offset + item->bytes > p->target))
            p->highest = i;
        if (!fits)
            return 0;
        enter(p, item, offset);
        p->offsets[p->order[i].item] = offset;
        if (offset + item->bytes > height)
            height = offset + item->bytes;
    }
    return height < p->height ? height : 0;
}

/* ---- Orders ---------------------------------------------------------------------------------- */

static uint64_t area(const MemItem *item)
{
    uint64_t units = item->bytes / MEMTRACK_ALIGN, area;
    return __builtin_mul_overflow(units, (uint64_t)item->time, &area) ? UINT64_MAX : area;
}

/* Packers. Each orders items by a first and a second key, the largest first; of equals, the one allocated
 * first comes first. The last packer takes all items in the order of allocation. */
#define PACKERS(X)                                                                                           \
    X("by size", item->bytes, item->time)                                                                    \
    X("by size and order", item->bytes, UINT32_MAX - item->first)                                            \
    X("by peak and size", item->live, item->bytes)                                                           \
    X("by area", area(item), item->bytes)                                                                    \
    X("by lifetime", item->time, item->bytes)                                                                \
    X("by reverse order", item->first + item->time, item->bytes)                                             \
    X("by order", UINT32_MAX - item->first, item->bytes)

static const char *const packer_names[] = {
#define X(name, key, tie) name,
    PACKERS(X)
#undef X
};

enum { PACKER_COUNT = sizeof packer_names / sizeof packer_names[0], LIFTED = 4 };

static Rank rank_of(const MemItem *item, uint32_t number, int packer)
{
    int i = 0;
#define X(name, key, tie)                                                                                    \
    if (i++ == packer)                                                                                       \
        return (Rank){key, tie, number};
    PACKERS(X)
#undef X
    return (Rank){.item = number};
}

static int by_rank(const void *a, const void *b)
{
    const Rank *x = a, *y = b;
    if (x->first != y->first)
        return x->first > y->first ? -1 : 1;
    if (x->second != y->second)
        return x->second > y->second ? -1 : 1;
    return x->item < y->item ? -1 : x->item > y->item;
}

/* Its spans begin at the same moment, which is not the first: it is no resident. */
static bool begins_alike(const MemItems *items, const MemItem *item)
{
    for (uint32_t s = 0; s < item->span_count; s++)
        if (items->spans[item->span + s].from != items->spans[item->span].from)
            return false;
    return items->spans[item->span].from > 0;
}

/* An easy item lives in one kind only, and that kind is loose; or it is small, and comes in the order of
 * allocation in all of its kinds. */
static bool is_easy(const Packing *p, const MemItem *item, bool all)
{
    const MemItems *items = &p->items;
    if (item->bytes < p->small)
        return begins_alike(items, item);
    return item->span_count == 1 && (all || items->loose[items->spans[item->span].kind]);
}

/* Placing an item looks at about a third of the hard items; an easy item costs next to nothing. */
static bool is_affordable(const Packing *p)
{
    return (uint64_t)p->ranked * p->ranked / 3 + p->work <= p->most_work;
}

/* Puts the hard items in the packer's order, and the easy ones behind them in the order of allocation. False
 * when placing them would be too much work. */
static bool put_in_order(Packing *p, int packer)
{
    const MemItems *items = &p->items;
    bool all = packer == PACKER_COUNT - 1;
    p->to_place = 0;
    for (int easy = 0; easy < 2; easy++) {
        for (uint32_t i = 0; i < items->item_count; i++)
            if (!items->items[i].at_bottom && is_easy(p, &items->items[i], all) == easy)
                p->order[p->to_place++] = rank_of(&items->items[i], i, packer);
        p->ranked = easy ? p->ranked : p->to_place;
        if (!is_affordable(p))
            return false;
    }
    qsort(p->order, p->ranked, sizeof *p->order, by_rank);
    return true;
}

static void keep_if_better(Packing *p, const char *packer)
{
    uint64_t height = place_all(p);
    if (!height)
        return;
    uint64_t *swap = p->best;
    p->best = p->offsets;
    p->offsets = swap;
    p->height = height;
    p->packer = packer;
}

static bool may_improve(const Packing *p)
{
    return p->height > p->target && p->work <= p->most_work;
}

/* Lifts items: the first that ended above the target moves to the front of the order, and all are placed once
 * more, up to ROUNDS times. */
static void lift(Packing *p, int packer)
{
    bool affordable = put_in_order(p, packer);
    for (int i = 0; affordable && i < ROUNDS && may_improve(p); i++) {
        keep_if_better(p, packer_names[packer]);
        if (p->highest >= p->ranked)
            return;
        Rank moved = p->order[p->highest];
        memmove(p->order + 1, p->order, p->highest * sizeof *p->order);
        p->order[0] = moved;
    }
}

static bool count_is_below(Packing *p, uint32_t most)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < p->items.item_count && count < most; i++)
        count += !p->items.items[i].at_bottom && !is_easy(p, &p->items.items[i], false);
    return count < most;
}

/* Many items are small beside the floor. The large ones are placed in the packer's order, the small ones
 * among them in the order of allocation: nearly as good as all in the packer's order, and far less work. */
static void place_large_first(Packing *p)
{
    enum { LARGE = 4096, SIZES = 3, TIMES = 4 };
    uint64_t least = p->items.floor / 4096;
    p->work = 0;
    p->most_work = MORE_WORK;
    p->target = p->items.floor + p->items.floor / 200;
    for (p->small = least; p->small < p->items.floor && !count_is_below(p, LARGE); p->small *= 2)
        least = 2 * p->small;
    for (int packer = 0; packer < PACKER_COUNT - 1; packer++) {
        p->small = least;
        for (int i = 0; i < SIZES && may_improve(p); i++, p->small *= TIMES)
            if (put_in_order(p, packer))
                keep_if_better(p, packer_names[packer]);
    }
}

/* ---- From trace to hints --------------------------------------------------------------------- */

static int packing_create(Packing *p, const MemTrace *trace, uint64_t needs)
{
    *p = (Packing){.height = needs, .most_work = WORK};
    if (memtrack_items_create_(&p->items, trace))
        return -1;
    uint32_t at = 0;
    for (size_t k = 0; k < trace->kind_count; k++) {
        p->list[k] = at;
        at += p->items.in_kind[k];
    }
    p->entries = memtrack_host_alloc(NULL, p->items.span_room * sizeof *p->entries);
    p->order = memtrack_host_alloc(NULL, p->items.item_room * sizeof *p->order);
    p->offsets = memtrack_host_alloc(NULL, p->items.item_room * sizeof *p->offsets);
    p->best = memtrack_host_alloc(NULL, p->items.item_room * sizeof *p->best);
    return p->entries && p->order && p->offsets && p->best ? 0 : -1;
}

static void packing_destroy(Packing *p)
{
    memtrack_host_free(NULL, p->entries, p->items.span_room * sizeof *p->entries);
    memtrack_host_free(NULL, p->order, p->items.item_room * sizeof *p->order);
    memtrack_host_free(NULL, p->offsets, p->items.item_room * sizeof *p->offsets);
    memtrack_host_free(NULL, p->best, p->items.item_room * sizeof *p->best);
    memtrack_items_destroy_(&p->items);
}

/* The offsets of the best placement, by moment. They overwrite items->live, which nobody reads any more. */
static const uint64_t *by_moment(Packing *p)
{
    const MemItems *items = &p->items;
    for (uint32_t t = 0; t < items->start[items->trace->kind_count]; t++) {
        const MemItem *item = &items->items[items->item_of[t]];
        items->live[t] = item->at_bottom ? item->offset : p->best[items->item_of[t]];
    }
    return items->live;
}

int memtrack_pack(MemLedger *ledger, MemHints **hints)
{
    MemTrace *trace = ledger->trace;
    const MemStats *stats = &ledger->stats;
    *hints = NULL;
    if (!trace)
        return 0;
    memtrack_trace_segment_(trace);
    if (trace->failed)
        return -1;
    if (trace->beyond || stats->needs - stats->peak <= stats->peak / 1000 || stats->needs > UINT64_MAX / 4)
        return 0;
    Packing p;
    int failed = packing_create(&p, trace, stats->needs);
    p.target = p.items.floor + p.items.floor / 1000;
    for (int i = 0; !failed && i < PACKER_COUNT && may_improve(&p); i++) {
        if (put_in_order(&p, i))
            keep_if_better(&p, packer_names[i]);
    }
    for (int i = 0; !failed && i < LIFTED && may_improve(&p); i++)
        lift(&p, i);
    if (!failed && p.height > p.items.floor + p.items.floor / 50)
        place_large_first(&p);
    if (!failed && p.packer) {
        *hints = memtrack_hints_create_(trace, by_moment(&p), p.height, p.packer);
        failed = !*hints;
    }
    packing_destroy(&p);
    return failed ? -1 : 0;
}
