/* Where blocks lie: best fit among the gaps of an arena, else its top. Best fit because training frees and
 * takes the same few sizes over and over, and a hole left by a tensor is best refilled by its like in the
 * next layer.
 */
#include "offsets_.h"

#include <string.h>

#include "memtrack_.h"

int memtrack_offsets_prepare_(MemTracker *tracker, MemArena *arena)
{
    if (arena->blocks < arena->gap_capacity)
        return 0;
    void *gaps = arena->gaps;
    int failed = memtrack_host_grow_(tracker, &gaps, &arena->gap_capacity, arena->blocks + 1, sizeof(MemGap));
    arena->gaps = gaps;
    return failed;
}

int memtrack_offsets_find_(const MemArena *arena, uint64_t bytes, uint64_t largest, MemFit *fit)
{
    uint64_t best = UINT64_MAX;
    *fit = (MemFit){.offset = arena->top, .top = arena->top, .gap = arena->gap_count};
    for (size_t i = 0; i < arena->gap_count && best != bytes; i++) {
        uint64_t size = arena->gaps[i].end - arena->gaps[i].start;
        if (size >= bytes && size <= largest && size < best) {
            best = size;
            fit->gap = i;
        }
    }
    if (fit->gap < arena->gap_count) {
        fit->offset = arena->gaps[fit->gap].start;
        return 0;
    }
    if (bytes > UINT64_MAX - arena->top)
        return -1;
    fit->top = arena->top + bytes;
    return 0;
}

/* The first gap that starts after `offset`. */
static size_t gap_after(const MemArena *arena, uint64_t offset)
{
    size_t low = 0, high = arena->gap_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (arena->gaps[middle].start > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

int memtrack_offsets_at_(const MemArena *arena, uint64_t bytes, uint64_t offset, MemFit *fit)
{
    if (bytes > UINT64_MAX - offset)
        return -1;
    *fit = (MemFit){.offset = offset, .top = arena->top, .gap = arena->gap_count};
    if (offset >= arena->top) {
        fit->top = offset + bytes;
        return 0;
    }
    fit->gap = gap_after(arena, offset) - 1; /* wraps when there is none before */
    return fit->gap < arena->gap_count && offset + bytes <= arena->gaps[fit->gap].end ? 0 : -1;
}

void memtrack_offsets_lift_(const MemArena *arena, uint64_t bytes, uint64_t ceiling, MemFit *fit)
{
    if (fit->gap < arena->gap_count) {
        fit->offset = arena->gaps[fit->gap].end - bytes;
    } else if (bytes <= ceiling && ceiling - bytes > arena->top) {
        fit->offset = ceiling - bytes;
        fit->top = ceiling;
    }
}

static void remove_gap(MemArena *arena, size_t i)
{
    arena->gap_count--;
    memmove(&arena->gaps[i], &arena->gaps[i + 1], (arena->gap_count - i) * sizeof(MemGap));
}

static void insert_gap(MemArena *arena, size_t i, MemGap gap)
{
    memmove(&arena->gaps[i + 1], &arena->gaps[i], (arena->gap_count - i) * sizeof(MemGap));
    arena->gaps[i] = gap;
    arena->gap_count++;
}

void memtrack_offsets_take_(MemArena *arena, uint64_t bytes, const MemFit *fit)
{
    arena->blocks++;
    if (fit->gap == arena->gap_count) {
        if (fit->offset > arena->top)
            insert_gap(arena, fit->gap, (MemGap){arena->top, fit->offset});
        arena->top = fit->top;
        return;
    }
    MemGap *gap = &arena->gaps[fit->gap];
    uint64_t end = fit->offset + bytes, gap_end = gap->end;
    if (gap->start == fit->offset) {
        gap->start = end;
        if (end == gap_end)
            remove_gap(arena, fit->gap);
        return;
    }
    gap->end = fit->offset;
    if (end < gap_end)
        insert_gap(arena, fit->gap + 1, (MemGap){end, gap_end});
}

void memtrack_offsets_give_(MemArena *arena, uint64_t offset, uint64_t bytes)
{
    uint64_t end = offset + bytes;
    size_t i = gap_after(arena, offset);
    bool joins_before = i > 0 && arena->gaps[i - 1].end == offset;
    bool joins_after = i < arena->gap_count && arena->gaps[i].start == end;

    arena->blocks--;
    if (end == arena->top) { /* the extent shrinks, over the gap below the block too */
        arena->top = joins_before ? arena->gaps[i - 1].start : offset;
        arena->gap_count -= joins_before;
    } else if (joins_before) {
        arena->gaps[i - 1].end = joins_after ? arena->gaps[i].end : end;
        if (joins_after)
            remove_gap(arena, i);
    } else if (joins_after) {
        arena->gaps[i].start = offset;
    } else {
        insert_gap(arena, i, (MemGap){offset, end});
    }
}

void memtrack_offsets_destroy_(MemTracker *tracker, MemArena *arena)
{
    memtrack_host_free(tracker, arena->gaps, arena->gap_capacity * sizeof(MemGap));
    *arena = (MemArena){0};
}
