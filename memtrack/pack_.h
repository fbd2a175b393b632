/* Packing, in two halves: items.c makes of a trace what is to be packed, pack.c packs it. docs/packing.md
 * draws an example. The words:
 *
 *  - segment: the set-up, a training step or an evaluation; memtrack_step_set ends one.
 *  - kind: segments with the same events and lifetimes. A trace keeps each kind once.
 *  - resident: an allocation that outlives the segment that made it, such as a parameter.
 *  - moment: a point in time, counted in allocations. The moments of all kinds stand on one axis, kind after
 * kind.
 *  - span: the moments of one kind at which an item lives. A resident has a span in every kind that it lives
 * in.
 *  - item: an allocation of a kind, and of all kinds with the same beginning. It gets one offset.
 *  - floor: the most bytes that live at one moment. No placement can need less.
 *  - bottom: items of several kinds that live at that moment and, in every kind, to its end: mostly residents.
 *    They lie side by side from offset 0 on.
 *  - loose: of a kind that never comes near the floor, such as most evaluations.
 *  - easy: of an item that lives in one loose kind only. All others are hard.
 *  - lifted: of an item that is placed before all others, because it ended too high.
 */
#ifndef BRIM_MEMTRACK_PACK_H
#define BRIM_MEMTRACK_PACK_H

#include "hints_.h"

/* An item lives at the moments [from, to) of a kind. Two items may share bytes only if no span of one
 * overlaps a span of the other. */
typedef struct MemSpan {
    uint32_t kind, from, to;
} MemSpan;

typedef struct MemItem {
    uint64_t bytes;
    uint64_t base;                   /* where the bottom ends while it lives: it goes above */
    uint64_t live;                   /* the most bytes at one of its moments, itself included */
    uint64_t offset;                 /* of an item at the bottom */
    uint32_t span, span_count, time; /* its spans, from `span` on; `time` is their moments together */
    uint32_t first;                  /* its first moment, on the axis */
    bool at_bottom;
} MemItem;

enum { MEM_LIVE_BLOCK = 64 };

/* The moments of kind k begin at start[k] on the axis. */
typedef struct MemItems {
    const MemTrace *trace;
    uint32_t start[MEM_TRACE_KINDS + 1];
    uint32_t *item_of; /* by moment: the item that is allocated at it */
    uint64_t *live;    /* by moment: bytes of all items that live at it */
    uint64_t *most;    /* the largest value in each block of `live` */
    uint64_t *base;    /* by moment: where the bottom ends */
    MemItem *items;
    MemSpan *spans;
    uint32_t item_count, span_count;
    uint32_t in_kind[MEM_TRACE_KINDS]; /* spans in each */
    bool loose[MEM_TRACE_KINDS];
    uint64_t floor, bottom; /* the largest value of `live`, and of `base` */
    size_t item_room, span_room;
} MemItems;

/* 0, or -1 without memory. Destroy it in either case. */
int memtrack_items_create_(MemItems *items, const MemTrace *trace);
void memtrack_items_destroy_(MemItems *items);

#endif
