/* A trace: what a dry run allocates and frees, in a form that can be packed. It consists of segments
 * (memtrack_step_set ends one). Segments with the same events and the same lifetimes are of one *kind*, which
 * is kept once. An allocation that outlives its segment is a *resident*, known by the kind that made it. A
 * trace also knows which blocks are live now and at the peak, and where each was made. pack_.h defines the
 * words of packing. */
#ifndef BRIM_MEMTRACK_TRACE_H
#define BRIM_MEMTRACK_TRACE_H

#include <stdbool.h>

#include "memtrack.h"

/* A trace beyond KINDS or ALLOCS is not packed, so its room is bounded. Once there are VARIANTS kinds,
 * segments with the same events become one kind even where lifetimes differ. */
enum { MEM_TRACE_KINDS = 64, MEM_TRACE_VARIANTS = 32, MEM_TRACE_ALLOCS = 1 << 18 };

/* Time within a kind is counted in its allocations: the i-th lives in [i, until), with until > i. */
typedef struct MemTraceAlloc {
    uint64_t bytes;
    uint32_t until;
    uint32_t event;    /* its number among the kind's events */
    uint32_t resident; /* 1 + the number of the resident that it became, in the first kind with these events;
                          0 = it never outlived its segment */
} MemTraceAlloc;

typedef struct MemTraceKind {
    uint64_t *events; /* digests of allocations and frees, in order */
    MemTraceAlloc *allocs;
    uint32_t *until; /* by resident: it lives from the start to here; 0 = it does not */
    size_t event_count, event_capacity, alloc_count, alloc_capacity, until_capacity;
    uint64_t hash;  /* of the digests */
    uint32_t first; /* the number of the first kind with these events */
} MemTraceKind;

/* An allocation that outlived its segment, by what made it. */
typedef struct MemTraceResident {
    uint32_t kind, index;
} MemTraceResident;

typedef struct MemTraceEnd {
    uint32_t resident, until;
} MemTraceEnd;

/* A block that lives, or died after the peak it lived at. */
typedef struct MemLiveBlock {
    uint64_t serial, bytes; /* bytes 0: a free slot */
    MemWhere where;         /* when it was made */
    MemComponent component, at_peak;
    uint64_t noted;    /* at_peak is of the peak of this number; otherwise it is `component` */
    uint32_t resident; /* 1 + number; 0 = made in this segment */
    uint32_t index;    /* among the allocations of its segment */
    uint32_t next;     /* free slots: 1 + the next; 0 = none */
} MemLiveBlock;

typedef struct MemTrace {
    MemTraceKind kinds[MEM_TRACE_KINDS], now; /* now: the segment that is running */
    size_t kind_count, alloc_count;           /* alloc_count: of all kinds */
    bool beyond;                              /* a limit was passed: nothing more is recorded but blocks */
    bool failed;                              /* without memory at a segment's end */
    MemTraceResident *residents;
    size_t resident_count, resident_capacity;
    MemTraceEnd *ended; /* residents freed in this segment */
    size_t ended_count, ended_capacity;

    MemLiveBlock *blocks, *gone; /* gone: lived at the peak, freed since */
    size_t block_capacity, gone_count, gone_capacity, live_count;
    uint32_t free_slot;        /* 1 + the first; 0 = none */
    uint64_t peaks, peak_last; /* peaks so far; the last serial given when the latest was */
} MemTrace;

/* Room for one more allocation and for freeing everything; 0, or -1 without memory. */
int memtrack_trace_prepare_(MemTrace *trace);
/* Needs a prepare before; keeps its slot in the block. `digest` is that of the event, without its offset. */
void memtrack_trace_alloc_(MemTrace *trace, MemBlock *block, const MemWhere *where, uint64_t digest);
void memtrack_trace_free_(MemTrace *trace, const MemBlock *block, uint64_t digest);
void memtrack_trace_retag_(MemTrace *trace, const MemBlock *block);
void memtrack_trace_peak_(MemTrace *trace, uint64_t last_serial);
void memtrack_trace_segment_(MemTrace *trace);
void memtrack_trace_destroy_(MemTrace *trace);

/* live.c: the blocks of a trace */
int memtrack_live_prepare_(MemTrace *trace);
MemLiveBlock *memtrack_live_add_(MemTrace *trace, MemBlock *block, const MemWhere *where);
void memtrack_live_remove_(MemTrace *trace, MemLiveBlock *live);

#endif
