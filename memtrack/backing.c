/* The bytes behind a ledger's offsets: nothing, one touched mapping, or a malloc a block for sanitizers; or
 * the same of a device, which is asked for them. Only this file and host.c ask the system for memory.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memtrack_.h"

#define HUGE_PAGE       ((uint64_t)2 << 20)
#define TOUCHED_AT_ONCE ((uint64_t)64 << 20) /* some 10 ms */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

/* Maps `bytes` (whole pages) at a huge page's boundary, so that the kernel can use huge pages from the first
 * byte on: fewer faults while touching, fewer TLB misses ever after. */
static unsigned char *map_aligned(uint64_t bytes)
{
    uint64_t spare = bytes >= HUGE_PAGE ? HUGE_PAGE : 0;
    unsigned char *start =
        mmap(NULL, bytes + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    if (!spare)
        return start;
    uint64_t before = round_up((uintptr_t)start, HUGE_PAGE) - (uintptr_t)start;
    if (before > 0)
        munmap(start, before);
    if (spare > before)
        munmap(start + before + bytes, spare - before);
    start += before;
    madvise(start, bytes, MADV_HUGEPAGE); /* a wish: everything works without */
    return start;
}

/* Whether so much more can be had without somebody being killed for it. */
static bool is_free(uint64_t bytes, uint64_t beside)
{
    MemMachine machine;
    memtrack_machine(&machine);
    return bytes <= machine.available && beside <= machine.available - bytes;
}

static bool touch_piece(unsigned char *from, uint64_t bytes, uint64_t page)
{
    if (madvise(from, bytes, MADV_POPULATE_WRITE) == 0)
        return true;
    if (errno == ENOMEM || errno == EFAULT || errno == EHWPOISON)
        return false;
    /* Linux before 5.14, or a sandbox that does not know it. */
    for (uint64_t i = 0; i < bytes; i += page)
        ((volatile unsigned char *)from)[i] = 0;
    return true;
}

/* Every page, so that it is there before step 1. A mapping larger than the memory succeeds, and the process
 * is killed while it is touched: so what is left to touch must be free before each piece. Of what is to be
 * free beside it half will do then: the system counts in batches. */
static bool touch(unsigned char *base, uint64_t bytes, uint64_t page, uint64_t beside)
{
    for (uint64_t from = 0; from < bytes; from += TOUCHED_AT_ONCE) {
        uint64_t left = bytes - from, piece = left < TOUCHED_AT_ONCE ? left : TOUCHED_AT_ONCE;
        if ((from > 0 && !is_free(left, beside / 2)) || !touch_piece(base + from, piece, page))
            return false;
    }
    return true;
}

static int reserve(MemBacking *backing, uint64_t capacity, uint64_t beside)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (capacity == 0 || capacity > UINT64_MAX / 4 || !is_free(capacity, beside))
        return -1;
    uint64_t bytes = round_up(capacity, page);
    if (bytes + HUGE_PAGE > SIZE_MAX || memtrack_fails_())
        return -1;
    unsigned char *base = map_aligned(bytes);
    if (!base)
        return -1;
    if (!touch(base, bytes, page, beside)) {
        munmap(base, bytes);
        return -1;
    }
    backing->base = base;
    backing->end =
        base + capacity / MEMTRACK_ALIGN * MEMTRACK_ALIGN; /* so that HIGH blocks are aligned too */
    backing->held = bytes;
    memtrack_process_charge_(bytes);
    return 0;
}

/* A device's memory is there once it is taken. */
static int reserve_on_device(MemBacking *backing, uint64_t capacity, uint64_t beside)
{
    const MemDevice *device = backing->device;
    if (capacity == 0 || capacity > UINT64_MAX / 4 || !is_free(0, beside) || memtrack_fails_())
        return -1;
    backing->base = device->take(device->user, capacity);
    if (!backing->base)
        return -1;
    backing->end = backing->base + capacity / MEMTRACK_ALIGN * MEMTRACK_ALIGN;
    backing->held = capacity;
    memtrack_process_charge_(capacity);
    return 0;
}

int memtrack_backing_create_(MemBacking *backing, const MemLedgerOptions *options)
{
    *backing = (MemBacking){.mode = options->mode, .device = options->device};
    if (options->mode != MEMTRACK_RESERVED)
        return 0;
    if (options->device)
        return reserve_on_device(backing, options->capacity, options->beside);
    int turn = memtrack_turn_take_();
    int status = reserve(backing, options->capacity, options->beside);
    memtrack_turn_end_(turn);
    return status;
}

static void *block_take(const MemDevice *device, uint64_t bytes)
{
    void *block = NULL;
    if (device)
        return device->take(device->user, bytes);
    return posix_memalign(&block, MEMTRACK_ALIGN, (size_t)bytes) ? NULL : block;
}

static void block_give(const MemDevice *device, void *block)
{
    if (device)
        device->give(device->user, block);
    else
        free(block);
}

/* Exactly as many bytes as were asked for, not as charged: a sanitizer then sees the first byte too far. */
static int attach_malloc(MemTracker *tracker, MemBacking *backing, MemBlock *block)
{
    void *blocks = backing->blocks;
    int failed = memtrack_host_grow_(tracker, &blocks, &backing->block_capacity, backing->block_count + 1,
                                     sizeof(void *));
    backing->blocks = blocks;
    if (failed || block->requested > PTRDIFF_MAX)
        return -1;
    block->data = block_take(backing->device, block->requested);
    if (!block->data)
        return -1;
    backing->blocks[backing->block_count++] = block->data;
    backing->held += block->bytes;
    memtrack_process_charge_(block->bytes);
    return 0;
}

int memtrack_backing_attach_(MemTracker *tracker, MemBacking *backing, MemEnd end, MemBlock *block)
{
    if (backing->mode == MEMTRACK_MALLOC)
        return attach_malloc(tracker, backing, block);
    if (backing->mode == MEMTRACK_RESERVED)
        block->data =
            end == MEM_END_LOW ? backing->base + block->offset : backing->end - block->offset - block->bytes;
    return 0;
}

void memtrack_backing_detach_(MemBacking *backing, MemBlock *block)
{
    if (backing->mode != MEMTRACK_MALLOC)
        return;
    /* From the end: what is freed was mostly taken lately, and this mode is not for speed. */
    for (size_t i = backing->block_count; i-- > 0;) {
        if (backing->blocks[i] != block->data)
            continue;
        backing->blocks[i] = backing->blocks[--backing->block_count];
        block_give(backing->device, block->data);
        backing->held -= block->bytes;
        memtrack_process_release_(block->bytes);
        return;
    }
}

void memtrack_backing_destroy_(MemTracker *tracker, MemBacking *backing)
{
    for (size_t i = 0; i < backing->block_count; i++)
        block_give(backing->device, backing->blocks[i]);
    memtrack_host_free(tracker, backing->blocks, backing->block_capacity * sizeof(void *));
    if (backing->base && backing->device)
        block_give(backing->device, backing->base);
    else if (backing->base)
        munmap(backing->base, backing->held);
    memtrack_process_release_(backing->held);
    *backing = (MemBacking){0};
}
