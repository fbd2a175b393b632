/* The deterministic offset allocator. An arena is one end of a reservation: offsets count from that end, and
 * what it decides depends on its own history only, never on the capacity, the other end or addresses. So a
 * dry run and a real run place blocks alike, and so does a run with more room than it needs. */
#ifndef BRIM_MEMTRACK_OFFSETS_H
#define BRIM_MEMTRACK_OFFSETS_H

#include "memtrack.h"

typedef struct MemGap {
    uint64_t start, end;
} MemGap;

/* `gaps` are the free ranges below `top`, sorted, never empty, never touching each other or the top. Each is
 * followed by a live block of its own, so there are never more gaps than live blocks: room for one gap a live
 * block, made when the block is, is all that freeing can ever need. */
typedef struct MemArena {
    MemGap *gaps;
    size_t gap_count, gap_capacity;
    size_t blocks; /* live */
    uint64_t top;  /* the arena's extent: the highest used end */
} MemArena;

/* Where a block would go: found first, so that limits can be checked while nothing has changed. */
typedef struct MemFit {
    uint64_t offset, top; /* top: the arena's extent with the block in it */
    size_t gap;           /* the gap it goes into; == gap_count when it extends the arena */
} MemFit;

/* Makes room for the gap that freeing one more block may leave; 0, or -1 without memory. */
int memtrack_offsets_prepare_(MemTracker *tracker, MemArena *arena);
/* The smallest gap that holds `bytes` (> 0) and is no larger than `largest`, the lowest of equals, else the
 * top. -1 when offsets run out. */
int memtrack_offsets_find_(const MemArena *arena, uint64_t bytes, uint64_t largest, MemFit *fit);
/* The same for a given offset; -1 when anything in [offset, offset + bytes) is taken. What then lies free
 * between the top and a block above it becomes a gap. */
int memtrack_offsets_at_(const MemArena *arena, uint64_t bytes, uint64_t offset, MemFit *fit);
/* Moves what find found to the upper edge of its free range; the range above the top is taken to end at
 * `ceiling`. */
void memtrack_offsets_lift_(const MemArena *arena, uint64_t bytes, uint64_t ceiling, MemFit *fit);
/* Takes what one of these found, before anything else happens to the arena. */
void memtrack_offsets_take_(MemArena *arena, uint64_t bytes, const MemFit *fit);
/* Gives a block back. Never fails. */
void memtrack_offsets_give_(MemArena *arena, uint64_t offset, uint64_t bytes);
void memtrack_offsets_destroy_(MemTracker *tracker, MemArena *arena);

#endif
