/* Hints: for each kind of segment its events, and where each allocation goes. Kinds with a common beginning
 * form a tree; a ledger that follows hints knows where in that tree it is. */
#ifndef BRIM_MEMTRACK_HINTS_H
#define BRIM_MEMTRACK_HINTS_H

#include <stdbool.h>

#include "trace_.h"

typedef struct MemHintKind {
    uint64_t *events, *offsets; /* digests; by allocation */
    uint32_t event_count, alloc_count;
} MemHintKind;

struct MemHints {
    size_t bytes; /* of this and all it points to, one block of host memory */
    const char *packer;
    uint64_t top; /* where the highest ends */
    uint32_t kind_count;
    uint32_t *shared; /* [a * kind_count + b]: how many events both have in common at the beginning */
    MemHintKind kinds[];
};

/* Where a ledger is: `event` events of `kind` have been seen in this segment, `alloc` of them allocations. */
typedef struct MemFollow {
    const MemHints *hints; /* NULL = none */
    uint32_t kind, event, alloc;
} MemFollow;

/* Hints of a trace; `offsets` are those of its allocations, one kind after the other. NULL without memory. */
MemHints *memtrack_hints_create_(const MemTrace *trace, const uint64_t *offsets, uint64_t top,
                                 const char *packer);

/* True when this event is the next one of a kind that began like this segment. Call `pass` afterwards. */
bool memtrack_follow_meets_(MemFollow *follow, uint64_t digest);
uint64_t memtrack_follow_offset_(const MemFollow *follow); /* of the allocation met */
void memtrack_follow_pass_(MemFollow *follow, bool is_alloc);
void memtrack_follow_segment_(MemFollow *follow);

#endif
