/* The replay of a trace by the rules of PyTorch's CUDA caching allocator; see pytorch.h for the rules. */
#include <string.h>

#include "pytorch_allocator.h"

static const uint64_t MIN_BLOCK = 512, SMALL = UINT64_C(1) << 20, SMALL_SEGMENT = UINT64_C(2) << 20,
                      LARGE_SEGMENT = UINT64_C(20) << 20, MIN_LARGE = UINT64_C(10) << 20,
                      ROUND_LARGE = UINT64_C(2) << 20, LARGEST = UINT64_C(1) << 60;

enum { NONE = -1 };

/* A block, allocated or free; prev and next are its neighbours in the segment, or NONE. */
typedef struct Node {
    uint64_t address, bytes, requested, serial; /* serial 0: free */
    int32_t prev, next;
    int small;
} Node;

/* Free blocks, ascending by size, then by address. */
typedef struct Pool {
    int32_t *nodes;
    size_t count, capacity;
} Pool;

struct PytorchReplay {
    PytorchBooks books;
    Node *nodes;
    size_t count, capacity;
    int32_t spare; /* of unused nodes, linked by next */
    Pool pools[2]; /* large, small */
    int32_t *first;
    size_t segments, segment_capacity;
    uint64_t address;
    int32_t *slots; /* nodes by serial: open addressing, a power of two, at most half full */
    size_t slot_count, live;
};

/* ---- Room ------------------------------------------------------------------------------------ */

/* The array with room for `count` items, moved or not; NULL without memory, and the array as it was. */
static void *grow(void *items, size_t *capacity, size_t count, size_t item_bytes)
{
    if (items && count <= *capacity)
        return items;
    size_t wanted = 2 * count + 62;
    void *larger = memtrack_host_realloc(NULL, items, *capacity * item_bytes, wanted * item_bytes);
    if (larger)
        *capacity = wanted;
    return larger;
}

static size_t slot_of(const PytorchReplay *r, uint64_t serial)
{
    size_t at = (size_t)(serial * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (r->slot_count - 1);
    while (r->slots[at] != NONE && r->nodes[r->slots[at]].serial != serial)
        at = (at + 1) & (r->slot_count - 1);
    return at;
}

static int grow_slots(PytorchReplay *r)
{
    if (2 * (r->live + 1) <= r->slot_count)
        return 0;
    size_t old_count = r->slot_count, count = old_count ? 2 * old_count : 128;
    int32_t *old = r->slots, *slots = memtrack_host_alloc(NULL, count * sizeof *slots);
    if (!slots)
        return -1;
    memset(slots, 0xff, count * sizeof *slots);
    r->slots = slots;
    r->slot_count = count;
    for (size_t i = 0; i < old_count; i++)
        if (old[i] != NONE)
            r->slots[slot_of(r, r->nodes[old[i]].serial)] = old[i];
    memtrack_host_free(NULL, old, old_count * sizeof *old);
    return 0;
}

/* All that one allocation can want, so that it fails before it changes anything. */
static int make_room(PytorchReplay *r)
{
    Node *nodes = grow(r->nodes, &r->capacity, r->count + 2, sizeof *nodes);
    if (!nodes)
        return -1;
    r->nodes = nodes;
    int32_t *first = grow(r->first, &r->segment_capacity, r->segments + 1, sizeof *first);
    if (!first)
        return -1;
    r->first = first;
    for (int i = 0; i < 2; i++) { /* a pool never holds more than there are nodes */
        Pool *pool = &r->pools[i];
        int32_t *free_nodes = grow(pool->nodes, &pool->capacity, r->capacity, sizeof *free_nodes);
        if (!free_nodes)
            return -1;
        pool->nodes = free_nodes;
    }
    return grow_slots(r);
}

static int32_t take_node(PytorchReplay *r)
{
    int32_t node = r->spare;
    if (node == NONE)
        return (int32_t)r->count++;
    r->spare = r->nodes[node].next;
    return node;
}

static void drop_node(PytorchReplay *r, int32_t node)
{
    r->nodes[node].next = r->spare;
    r->spare = node;
}

/* ---- Free blocks ----------------------------------------------------------------------------- */

/* The first place in the pool that is not before (bytes, address). */
static size_t pool_find(const PytorchReplay *r, const Pool *pool, uint64_t bytes, uint64_t address)
{
    size_t low = 0, high = pool->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const Node *n = &r->nodes[pool->nodes[middle]];
        if (n->bytes < bytes || (n->bytes == bytes && n->address < address))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void pool_add(PytorchReplay *r, int32_t node)
{
    const Node *n = &r->nodes[node];
    Pool *pool = &r->pools[n->small];
    size_t at = pool_find(r, pool, n->bytes, n->address);
    memmove(pool->nodes + at + 1, pool->nodes + at, (pool->count - at) * sizeof *pool->nodes);
    pool->nodes[at] = node;
    pool->count++;
}

static void pool_remove(PytorchReplay *r, int32_t node)
{
    const Node *n = &r->nodes[node];
    Pool *pool = &r->pools[n->small];
    size_t at = pool_find(r, pool, n->bytes, n->address);
    pool->count--;
    memmove(pool->nodes + at, pool->nodes + at + 1, (pool->count - at) * sizeof *pool->nodes);
}

/* ---- Allocating ------------------------------------------------------------------------------ */

static uint64_t round_up(uint64_t bytes, uint64_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

static int32_t reserve_segment(PytorchReplay *r, uint64_t bytes, int small)
{
    uint64_t size = small ? SMALL_SEGMENT : bytes < MIN_LARGE ? LARGE_SEGMENT : round_up(bytes, ROUND_LARGE);
    int32_t node = take_node(r);
    r->nodes[node] = (Node){.address = r->address, .bytes = size, .prev = NONE, .next = NONE, .small = small};
    r->address += size;
    r->first[r->segments++] = node;
    if (small)
        r->books.small_segments++;
    else
        r->books.large_segments++;
    r->books.reserved += size;
    if (r->books.reserved > r->books.peak_reserved)
        r->books.peak_reserved = r->books.reserved;
    return node;
}

/* The node keeps the front; what is left becomes a free block behind it. */
static void split(PytorchReplay *r, int32_t node, uint64_t bytes)
{
    uint64_t left = r->nodes[node].bytes - bytes;
    if (r->nodes[node].small ? left < MIN_BLOCK : left <= SMALL)
        return;
    int32_t rest = take_node(r);
    Node *n = &r->nodes[node];
    r->nodes[rest] = (Node){
        .address = n->address + bytes, .bytes = left, .prev = node, .next = n->next, .small = n->small};
    if (n->next != NONE)
        r->nodes[n->next].prev = rest;
    n->next = rest;
    n->bytes = bytes;
    pool_add(r, rest);
}

int estimate_pytorch_alloc(PytorchReplay *r, uint64_t serial, uint64_t bytes)
{
    if (bytes == 0)
        return 0;
    if (serial == 0 || bytes > LARGEST || r->address > LARGEST)
        return 1;
    if (make_room(r))
        return -1;
    if (r->slots[slot_of(r, serial)] != NONE)
        return 1;
    uint64_t rounded = round_up(bytes, MIN_BLOCK);
    int small = rounded <= SMALL;
    Pool *pool = &r->pools[small];
    size_t at = pool_find(r, pool, rounded, 0);
    int32_t node = at < pool->count ? pool->nodes[at] : reserve_segment(r, rounded, small);
    if (at < pool->count)
        pool_remove(r, node);
    split(r, node, rounded);
    Node *n = &r->nodes[node];
    r->slots[slot_of(r, serial)] = node;
    n->serial = serial;
    n->requested = bytes;
    r->live++;
    PytorchBooks *b = &r->books;
    b->requested += bytes;
    b->allocated += n->bytes;
    if (b->requested > b->peak_requested)
        b->peak_requested = b->requested;
    if (b->allocated > b->peak_allocated)
        b->peak_allocated = b->allocated;
    return 0;
}

/* ---- Freeing --------------------------------------------------------------------------------- */

/* Later entries of the same run of slots move up, so that no hole cuts them off. */
static void slot_remove(PytorchReplay *r, size_t hole)
{
    size_t mask = r->slot_count - 1;
    r->slots[hole] = NONE;
    for (size_t at = (hole + 1) & mask; r->slots[at] != NONE; at = (at + 1) & mask) {
        int32_t node = r->slots[at];
        r->slots[at] = NONE;
        r->slots[slot_of(r, r->nodes[node].serial)] = node;
    }
}

/* Takes the free block `behind` into the one before it. */
static void merge(PytorchReplay *r, int32_t node, int32_t behind)
{
    Node *n = &r->nodes[node];
    n->bytes += r->nodes[behind].bytes;
    n->next = r->nodes[behind].next;
    if (n->next != NONE)
        r->nodes[n->next].prev = node;
    drop_node(r, behind);
}

int estimate_pytorch_free(PytorchReplay *r, uint64_t serial)
{
    if (serial == 0 || r->slot_count == 0)
        return 1;
    size_t slot = slot_of(r, serial);
    int32_t node = r->slots[slot];
    if (node == NONE)
        return 1;
    slot_remove(r, slot);
    Node *n = &r->nodes[node];
    r->live--;
    r->books.requested -= n->requested;
    r->books.allocated -= n->bytes;
    n->serial = n->requested = 0;
    int32_t prev = n->prev, next = n->next;
    if (next != NONE && !r->nodes[next].serial) {
        pool_remove(r, next);
        merge(r, node, next);
    }
    if (prev != NONE && !r->nodes[prev].serial) {
        pool_remove(r, prev);
        merge(r, prev, node);
        node = prev;
    }
    pool_add(r, node);
    return 0;
}

/* ---- Reading --------------------------------------------------------------------------------- */

const PytorchBooks *estimate_pytorch_books(const PytorchReplay *replay)
{
    return &replay->books;
}

int estimate_pytorch_blocks(const PytorchReplay *r, int (*visit)(void *user, const PytorchBlock *block),
                            void *user)
{
    for (size_t i = 0; i < r->segments; i++) {
        uint64_t start = r->nodes[r->first[i]].address;
        for (int32_t at = r->first[i]; at != NONE; at = r->nodes[at].next) {
            const Node *n = &r->nodes[at];
            PytorchBlock block = {.segment = i,
                                  .small = n->small,
                                  .offset = n->address - start,
                                  .bytes = n->bytes,
                                  .requested = n->requested,
                                  .serial = n->serial};
            int stop = visit(user, &block);
            if (stop)
                return stop;
        }
    }
    return 0;
}

PytorchReplay *estimate_pytorch_create(void)
{
    PytorchReplay *r = memtrack_host_calloc(NULL, sizeof *r);
    if (r)
        r->spare = NONE;
    return r;
}

void estimate_pytorch_destroy(PytorchReplay *r)
{
    if (!r)
        return;
    memtrack_host_free(NULL, r->nodes, r->capacity * sizeof *r->nodes);
    memtrack_host_free(NULL, r->first, r->segment_capacity * sizeof *r->first);
    memtrack_host_free(NULL, r->slots, r->slot_count * sizeof *r->slots);
    for (int i = 0; i < 2; i++)
        memtrack_host_free(NULL, r->pools[i].nodes, r->pools[i].capacity * sizeof *r->pools[i].nodes);
    memtrack_host_free(NULL, r, sizeof *r);
}
