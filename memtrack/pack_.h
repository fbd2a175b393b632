/* Packing, in two halves: items.c makes of a trace what is to be packed, pack.c packs it. */
#ifndef BRIM_MEMTRACK_PACK_H
#define BRIM_MEMTRACK_PACK_H

#include "hints_.h"

/* Where an item lives: in the allocations [from, to) of a kind. Two items may share bytes only if no span of
 * one meets a span of the other. */
typedef struct MemSpan {
    uint32_t kind, from, to;
} MemSpan;

/* An allocation of a kind, and of each kind that begins alike up to there: it gets one offset. */
typedef struct MemItem {
    uint64_t bytes;
    uint64_t base;   /* it goes above this: what lies at the bottom while it lives ends here */
    uint64_t live;   /* most bytes that live beside it at one moment, itself included */
    uint64_t offset; /* of an item at the bottom */
    uint32_t span, span_count, time; /* its spans from `span` on; how many moments they are */
    uint32_t first;                  /* the first moment of all, on the axis */
    bool at_bottom;
} MemItem;

enum { MEM_LIVE_BLOCK = 64 };

/* Moments of all kinds stand on one axis, those of kind k from start[k] on. */
typedef struct MemItems {
    const MemTrace *trace;
    uint32_t start[MEM_TRACE_KINDS + 1];
    uint32_t *item_of; /* by moment: the item allocated then */
    uint64_t *live;    /* by moment: bytes of all items that live then */
    uint64_t *most;    /* the largest of each block of live */
    uint64_t *base;    /* by moment: where the bottom ends */
    MemItem *items;
    MemSpan *spans;
    uint32_t item_count, span_count;
    uint32_t in_kind[MEM_TRACE_KINDS]; /* spans in each */
    bool loose[MEM_TRACE_KINDS];       /* never near the floor */
    uint64_t floor, bottom;            /* the largest of live; of base */
    size_t item_room, span_room;
} MemItems;

/* 0, or -1 without memory. Destroy it in either case. */
int memtrack_items_create_(MemItems *items, const MemTrace *trace);
void memtrack_items_destroy_(MemItems *items);

#endif
