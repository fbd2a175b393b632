/* The replay's blocks: room for them, the pools of free ones, cutting and merging. */
#include <string.h>

#include "../memtrack/grow_.h"
#include "pytorch_allocator_.h"

/* ---- Room ------------------------------------------------------------------------------------ */

static int grow_pool(const PytorchReplay *r, Pool *pool)
{
    Entry *entries = memtrack_grow(pool->entries, &pool->capacity, r->capacity, sizeof *entries);
    if (!entries)
        return -1;
    pool->entries = entries;
    return 0;
}

int estimate_pytorch_room_(PytorchReplay *r)
{
    /* The block's rest and a segment; of pages that are given back, the blocks before and behind them. */
    int pages = r->options.expandable_segments;
    size_t more = pages ? 8 + 2 * (r->free[0].count + r->free[1].count) : 2;
    Node *nodes = memtrack_grow(r->nodes, &r->capacity, r->count + more, sizeof *nodes);
    if (!nodes)
        return -1;
    r->nodes = nodes;
    Segment *segments =
        memtrack_grow(r->segments, &r->segment_capacity, r->segment_count + 3, sizeof *segments);
    if (!segments)
        return -1;
    r->segments = segments;
    for (int i = 0; i < 2; i++) /* a pool never holds more than there are nodes */
        if (grow_pool(r, &r->free[i]) || (pages && grow_pool(r, &r->unmapped[i])))
            return -1;
    if (!pages)
        return 0;
    int32_t *flushing = memtrack_grow(r->flushing, &r->flushing_capacity, r->capacity, sizeof *flushing);
    if (!flushing)
        return -1;
    r->flushing = flushing;
    return 0;
}

int32_t estimate_pytorch_take_(PytorchReplay *r)
{
    int32_t node = r->spare;
    if (node == NONE)
        return (int32_t)r->count++;
    r->spare = r->nodes[node].next;
    return node;
}

void estimate_pytorch_drop_(PytorchReplay *r, int32_t node)
{
    r->nodes[node].next = r->spare;
    r->spare = node;
}

/* ---- Pools ----------------------------------------------------------------------------------- */

static int before(const Entry *e, int by_address, uint64_t stream, uint64_t bytes, uint64_t address)
{
    if (e->stream != stream)
        return e->stream < stream;
    if (!by_address && e->bytes != bytes)
        return e->bytes < bytes;
    return e->address < address;
}

size_t estimate_pytorch_find_(const Pool *pool, uint64_t stream, uint64_t bytes, uint64_t address)
{
    size_t low = 0, high = pool->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (before(&pool->entries[middle], pool->by_address, stream, bytes, address))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static Pool *pool_of(PytorchReplay *r, const Node *n)
{
    return n->mapped ? &r->free[n->small] : &r->unmapped[n->small];
}

static void put(PytorchReplay *r, Pool *pool, size_t at, int32_t node)
{
    Node *n = &r->nodes[node];
    n->born = pool->searches;
    pool->entries[at] = (Entry){n->stream, n->bytes, n->address, node};
}

static size_t place_of(const Pool *pool, const Node *n)
{
    return estimate_pytorch_find_(pool, n->stream, n->bytes, n->address);
}

void estimate_pytorch_add_(PytorchReplay *r, int32_t node)
{
    Pool *pool = pool_of(r, &r->nodes[node]);
    size_t at = place_of(pool, &r->nodes[node]);
    memmove(pool->entries + at + 1, pool->entries + at, (pool->count - at) * sizeof *pool->entries);
    put(r, pool, at, node);
    pool->count++;
}

void estimate_pytorch_remove_at_(Pool *pool, size_t at)
{
    pool->count--;
    memmove(pool->entries + at, pool->entries + at + 1, (pool->count - at) * sizeof *pool->entries);
}

void estimate_pytorch_remove_(PytorchReplay *r, int32_t node)
{
    Pool *pool = pool_of(r, &r->nodes[node]);
    estimate_pytorch_remove_at_(pool, place_of(pool, &r->nodes[node]));
}

void estimate_pytorch_replace_(PytorchReplay *r, Pool *pool, size_t at, int32_t node)
{
    size_t to = place_of(pool, &r->nodes[node]);
    if (to > at)
        to--; /* the old one goes */
    if (to > at)
        memmove(pool->entries + at, pool->entries + at + 1, (to - at) * sizeof *pool->entries);
    else
        memmove(pool->entries + to + 1, pool->entries + to, (at - to) * sizeof *pool->entries);
    put(r, pool, to, node);
}

/* ---- Neighbours ------------------------------------------------------------------------------ */

int32_t estimate_pytorch_cut_(PytorchReplay *r, int32_t node, uint64_t bytes)
{
    int32_t rest = estimate_pytorch_take_(r);
    Node *n = &r->nodes[node];
    r->nodes[rest] = *n;
    r->nodes[rest].address += bytes;
    r->nodes[rest].bytes -= bytes;
    r->nodes[rest].prev = node;
    if (n->next != NONE)
        r->nodes[n->next].prev = rest;
    n->next = rest;
    n->bytes = bytes;
    return rest;
}

/* Takes the block `behind` into the one before it. */
static void join(PytorchReplay *r, int32_t node, int32_t behind)
{
    Node *n = &r->nodes[node];
    n->bytes += r->nodes[behind].bytes;
    n->next = r->nodes[behind].next;
    if (n->next != NONE)
        r->nodes[n->next].prev = node;
    estimate_pytorch_drop_(r, behind);
}

static int joins(const PytorchReplay *r, int32_t node, int32_t neighbour)
{
    return neighbour != NONE && !r->nodes[neighbour].serial &&
           r->nodes[neighbour].mapped == r->nodes[node].mapped;
}

int32_t estimate_pytorch_give_(PytorchReplay *r, int32_t node)
{
    Pool *pool = pool_of(r, &r->nodes[node]);
    int32_t prev = r->nodes[node].prev, next = r->nodes[node].next;
    int behind = joins(r, node, next);
    size_t at = behind ? place_of(pool, &r->nodes[next]) : 0;
    if (joins(r, node, prev)) {
        if (behind) {
            estimate_pytorch_remove_at_(pool, at);
            join(r, node, next);
        }
        at = place_of(pool, &r->nodes[prev]);
        join(r, prev, node);
        estimate_pytorch_replace_(r, pool, at, prev);
        return prev;
    }
    if (behind) {
        join(r, node, next);
        estimate_pytorch_replace_(r, pool, at, node);
    } else {
        estimate_pytorch_add_(r, node);
    }
    return node;
}
