/* The replay's segments: what they take of the card, and when they are given back. */
#include "pytorch_allocator_.h"

/* ---- Reserving ------------------------------------------------------------------------------- */

static void reserved_more(PytorchReplay *r, uint64_t bytes)
{
    PytorchBooks *b = &r->books;
    b->reserved += bytes;
    b->device_allocs++;
    if (b->reserved > b->peak_reserved)
        b->peak_reserved = b->reserved;
}

static int fits(const PytorchReplay *r, uint64_t bytes)
{
    return !r->options.limit || r->books.reserved + bytes <= r->options.limit;
}

/* A node that is its whole segment. */
static int32_t new_segment(PytorchReplay *r, uint64_t stream, uint64_t bytes, int small, uint64_t page)
{
    int32_t node = estimate_pytorch_take_(r);
    r->nodes[node] = (Node){.address = r->address,
                            .bytes = bytes,
                            .stream = stream,
                            .prev = NONE,
                            .next = NONE,
                            .segment = (uint32_t)r->segment_count,
                            .small = (uint8_t)small,
                            .mapped = !page};
    r->segments[r->segment_count++] = (Segment){.first = node, .address = r->address, .page = page};
    r->address += bytes;
    if (small)
        r->books.small_segments++;
    else
        r->books.large_segments++;
    return node;
}

uint64_t estimate_pytorch_segment_bytes_(const PytorchReplay *r, uint64_t bytes, int small)
{
    if (small)
        return 2 * PYTORCH_MIB;
    return bytes < 10 * PYTORCH_MIB ? r->options.large_segment_size
                                    : pytorch_round_up_(bytes, 2 * PYTORCH_MIB);
}

/* ---- Pages of expandable segments ------------------------------------------------------------ */

static int has_room(const PytorchReplay *r, int32_t node, uint64_t bytes)
{
    uint64_t sum = 0;
    for (; sum < bytes && node != NONE && !r->nodes[node].serial; node = r->nodes[node].next)
        sum += r->nodes[node].bytes;
    return sum >= bytes;
}

/* The lowest place where free and unmapped blocks in a row suffice, if need be in a new segment. */
static int32_t find_addresses(PytorchReplay *r, uint64_t stream, uint64_t bytes, int small)
{
    const Pool *pool = &r->unmapped[small];
    size_t at = estimate_pytorch_find_(pool, stream, 0, 0);
    for (; at < pool->count && pool->entries[at].stream == stream; at++) {
        int32_t node = pool->entries[at].node, prev = r->nodes[node].prev;
        if (prev != NONE && !r->nodes[prev].serial)
            node = prev;
        if (has_room(r, node, bytes))
            return node;
    }
    uint64_t page = small ? 2 * PYTORCH_MIB : r->options.large_segment_size, total = r->options.total;
    if (total < bytes)
        total = bytes;
    int32_t node = new_segment(r, stream, pytorch_round_up_(total + total / 8, page), small, page);
    estimate_pytorch_add_(r, node);
    return node;
}

/* Maps pages from the node's beginning; the free block that has them then, or NONE. */
static int32_t map(PytorchReplay *r, int32_t node, uint64_t bytes)
{
    uint64_t mapped = pytorch_round_up_(bytes, r->segments[r->nodes[node].segment].page);
    if (!fits(r, mapped))
        return NONE;
    estimate_pytorch_remove_(r, node);
    if (mapped < r->nodes[node].bytes)
        estimate_pytorch_add_(r, estimate_pytorch_cut_(r, node, mapped));
    r->nodes[node].mapped = 1;
    node = estimate_pytorch_give_(r, node);
    reserved_more(r, mapped);
    return node;
}

static uint64_t at_most(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static int32_t expand(PytorchReplay *r, uint64_t stream, uint64_t bytes, int small)
{
    int32_t node = find_addresses(r, stream, bytes, small);
    if (!r->nodes[node].mapped)
        node = map(r, node, at_most(bytes, r->nodes[node].bytes));
    while (node != NONE && r->nodes[node].bytes < bytes) {
        int32_t next = r->nodes[node].next;
        node = map(r, next, at_most(bytes - r->nodes[node].bytes, r->nodes[next].bytes));
    }
    if (node != NONE)
        estimate_pytorch_remove_(r, node);
    return node;
}

int32_t estimate_pytorch_reserve_(PytorchReplay *r, uint64_t stream, uint64_t bytes, int small)
{
    uint64_t size = estimate_pytorch_segment_bytes_(r, bytes, small);
    if (r->allowed && r->books.reserved + size > r->allowed)
        return NONE;
    if (r->options.expandable_segments)
        return expand(r, stream, bytes, small);
    if (!fits(r, size))
        return NONE;
    reserved_more(r, size);
    return new_segment(r, stream, size, small, 0);
}

/* ---- Giving back ----------------------------------------------------------------------------- */

static void end_segment(PytorchReplay *r, int32_t node)
{
    r->segments[r->nodes[node].segment].first = NONE;
    if (r->nodes[node].small)
        r->books.small_segments--;
    else
        r->books.large_segments--;
    estimate_pytorch_drop_(r, node);
}

static int is_whole(const PytorchReplay *r, int32_t node)
{
    const Node *n = &r->nodes[node];
    return n->prev == NONE && n->next == NONE && !r->segments[n->segment].page;
}

/* Of a free block that is a whole segment. */
static void release(PytorchReplay *r, int32_t node)
{
    estimate_pytorch_remove_(r, node);
    r->books.reserved -= r->nodes[node].bytes;
    r->books.device_frees++;
    end_segment(r, node);
}

void estimate_pytorch_collect_(PytorchReplay *r)
{
    Pool *pool = &r->free[0];
    uint64_t threshold = (uint64_t)(r->options.garbage_collection_threshold * (double)r->allowed);
    if (r->books.reserved <= threshold)
        return;
    uint64_t target = r->books.reserved - threshold, reclaimed = 0, ages = 0, count = 0;
    for (size_t i = 0; i < pool->count; i++)
        if (is_whole(r, pool->entries[i].node)) {
            ages += pool->searches - r->nodes[pool->entries[i].node].born;
            count++;
        }
    for (int any = 1; reclaimed < target && any && count;) {
        double average = (double)ages / (double)count;
        any = 0;
        for (size_t i = 0; i < pool->count;) {
            int32_t node = pool->entries[i].node;
            uint64_t age = pool->searches - r->nodes[node].born;
            if (!is_whole(r, node) || (double)age < average) {
                i++;
                continue;
            }
            any = 1;
            reclaimed += r->nodes[node].bytes;
            ages -= age;
            count--;
            release(r, node);
        }
    }
}

int estimate_pytorch_release_oversize_(PytorchReplay *r, uint64_t stream, uint64_t bytes, int small)
{
    uint64_t oversize = r->options.max_split_size, wanted = bytes < oversize ? oversize : bytes, released = 0;
    Pool *pool = &r->free[small];
    if (oversize == UINT64_MAX)
        return 0;
    size_t at = estimate_pytorch_find_(pool, stream, wanted, 0);
    if (at < pool->count && pool->entries[at].stream == stream && is_whole(r, pool->entries[at].node)) {
        release(r, pool->entries[at].node);
        return 1;
    }
    while (at-- > 0 && released < wanted) { /* from the largest down */
        int32_t node = pool->entries[at].node;
        if (r->nodes[node].stream != stream || r->nodes[node].bytes < oversize)
            break;
        if (!is_whole(r, node))
            continue;
        released += r->nodes[node].bytes;
        release(r, node);
    }
    return released >= wanted;
}

/* The pages that are wholly inside a free block. */
static void unmap(PytorchReplay *r, int32_t node)
{
    const Segment segment = r->segments[r->nodes[node].segment];
    uint64_t from = r->nodes[node].address - segment.address, to = from + r->nodes[node].bytes;
    uint64_t first = pytorch_round_up_(from, segment.page), last = to / segment.page * segment.page;
    if (first >= last)
        return;
    estimate_pytorch_remove_(r, node);
    if (last < to)
        estimate_pytorch_add_(r, estimate_pytorch_cut_(r, node, last - from));
    if (first > from) {
        int32_t pages = estimate_pytorch_cut_(r, node, first - from);
        estimate_pytorch_add_(r, node);
        node = pages;
    }
    r->nodes[node].mapped = 0;
    r->books.reserved -= last - first;
    r->books.device_frees++;
    node = estimate_pytorch_give_(r, node);
    if (r->nodes[node].prev == NONE && r->nodes[node].next == NONE) {
        estimate_pytorch_remove_(r, node);
        end_segment(r, node);
    }
}

static void flush_pool(PytorchReplay *r, Pool *pool)
{
    size_t pages = 0;
    for (size_t i = 0; i < pool->count;) {
        int32_t node = pool->entries[i].node;
        if (is_whole(r, node)) {
            release(r, node);
            continue;
        }
        if (r->segments[r->nodes[node].segment].page)
            r->flushing[pages++] = node;
        i++;
    }
    for (size_t i = 0; i < pages; i++)
        unmap(r, r->flushing[i]);
}

void estimate_pytorch_flush_(PytorchReplay *r)
{
    flush_pool(r, &r->free[0]);
    flush_pool(r, &r->free[1]);
}
