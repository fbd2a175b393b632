/* Which blocks live, and which lived at the peak, while a trace runs. A new peak only gets a number, so that
 * a long climb costs nothing. Blocks that are freed after a peak are kept apart until the next one; a block
 * that is re-tagged after it remembers its component at the peak. */
#include <string.h>

#include "memtrack_.h"
#include "trace_.h"

int memtrack_live_prepare_(MemTrace *trace)
{
    void *gone = trace->gone, *blocks = trace->blocks;
    size_t before = trace->block_capacity;
    int failed =
        memtrack_host_grow_(NULL, &gone, &trace->gone_capacity, trace->live_count + 1, sizeof(MemLiveBlock));
    trace->gone = gone;
    if (failed || trace->free_slot)
        return failed;
    failed = memtrack_host_grow_(NULL, &blocks, &trace->block_capacity, before + 1, sizeof(MemLiveBlock));
    trace->blocks = blocks;
    for (size_t i = trace->block_capacity; i-- > before;) {
        trace->blocks[i] = (MemLiveBlock){.next = trace->free_slot};
        trace->free_slot = (uint32_t)i + 1;
    }
    return failed;
}

MemLiveBlock *memtrack_live_add_(MemTrace *trace, MemBlock *block, const MemWhere *where)
{
    MemLiveBlock *live = &trace->blocks[trace->free_slot - 1];
    block->record = (int32_t)trace->free_slot;
    trace->free_slot = live->next;
    trace->live_count++;
    *live = (MemLiveBlock){
        .serial = block->serial, .bytes = block->bytes, .where = *where, .component = block->component};
    return live;
}

void memtrack_live_remove_(MemTrace *trace, MemLiveBlock *live)
{
    if (live->serial <= trace->peak_last)
        trace->gone[trace->gone_count++] = *live;
    *live = (MemLiveBlock){.next = trace->free_slot};
    trace->free_slot = (uint32_t)(live - trace->blocks) + 1;
    trace->live_count--;
}

void memtrack_trace_retag_(MemTrace *trace, const MemBlock *block)
{
    if (!block->record)
        return;
    MemLiveBlock *live = &trace->blocks[block->record - 1];
    if (live->serial <= trace->peak_last && live->noted != trace->peaks) {
        live->at_peak = live->component;
        live->noted = trace->peaks;
    }
    live->component = block->component;
}

void memtrack_trace_peak_(MemTrace *trace, uint64_t last_serial)
{
    trace->peaks++;
    trace->peak_last = last_serial;
    trace->gone_count = 0;
}

/* Into the largest so far, the earlier of equals first. */
static size_t insert(MemPeakBlock *out, size_t count, size_t room, const MemPeakBlock *block)
{
    size_t i = count < room ? count++ : room;
    for (; i > 0 && (out[i - 1].bytes < block->bytes ||
                     (out[i - 1].bytes == block->bytes && out[i - 1].serial > block->serial));
         i--)
        if (i < room)
            out[i] = out[i - 1];
    if (i < room)
        out[i] = *block;
    return count;
}

size_t memtrack_peak_blocks(const MemLedger *ledger, MemPeakBlock *out, size_t room)
{
    const MemTrace *trace = ledger->trace;
    size_t count = 0;
    for (size_t i = 0; trace && i < trace->block_capacity + trace->gone_count; i++) {
        const MemLiveBlock *live =
            i < trace->block_capacity ? &trace->blocks[i] : &trace->gone[i - trace->block_capacity];
        if (live->bytes == 0 || live->serial > trace->peak_last)
            continue;
        MemComponent component = live->noted == trace->peaks ? live->at_peak : live->component;
        count = insert(out, count, room, &(MemPeakBlock){live->serial, live->bytes, component, live->where});
    }
    return count;
}
