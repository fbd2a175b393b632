/* The replay of a trace by the rules of PyTorch's CUDA caching allocator; see the header for the rules. */
#include <string.h>

#include "pytorch_allocator_.h"

/* ---- Nodes by serial ------------------------------------------------------------------------- */

/* Serials that follow each other lie together, sixteen at a time: most are freed soon after. */
static size_t slot_of(const PytorchReplay *r, uint64_t serial)
{
    size_t mask = r->slot_count - 1;
    size_t at = (size_t)(((serial >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 20 << 4) + (serial & 15)) & mask;
    while (r->slots[at].serial && r->slots[at].serial != serial)
        at = (at + 1) & mask;
    return at;
}

static int grow_slots(PytorchReplay *r)
{
    if (2 * (r->live + 1) <= r->slot_count)
        return 0;
    size_t old_count = r->slot_count, count = old_count ? 2 * old_count : 128;
    Slot *old = r->slots, *slots = memtrack_host_calloc(NULL, count * sizeof *slots);
    if (!slots)
        return -1;
    r->slots = slots;
    r->slot_count = count;
    for (size_t i = 0; i < old_count; i++)
        if (old[i].serial)
            r->slots[slot_of(r, old[i].serial)] = old[i];
    memtrack_host_free(NULL, old, old_count * sizeof *old);
    return 0;
}

/* Later entries of the same run of slots move up, so that no hole cuts them off. */
static void slot_remove(PytorchReplay *r, size_t hole)
{
    size_t mask = r->slot_count - 1;
    r->slots[hole].serial = 0;
    for (size_t at = (hole + 1) & mask; r->slots[at].serial; at = (at + 1) & mask) {
        Slot slot = r->slots[at];
        r->slots[at].serial = 0;
        r->slots[slot_of(r, slot.serial)] = slot;
    }
}

/* ---- Allocating ------------------------------------------------------------------------------ */

static int log2_floor(uint64_t bytes)
{
    int log = 0;
    while (bytes >>= 1)
        log++;
    return log;
}

/* Up to the next of the equal parts between two powers of two, or to a multiple of 512 bytes. */
static uint64_t round_size(const PytorchReplay *r, uint64_t bytes)
{
    if (bytes < PYTORCH_MIN_BLOCK)
        return PYTORCH_MIN_BLOCK;
    if (!r->divides)
        return pytorch_round_up_(bytes, PYTORCH_MIN_BLOCK);
    int log = log2_floor(bytes), interval = log < 20 ? 0 : log - 20;
    if (interval >= PYTORCH_ROUNDUP_INTERVALS)
        interval = PYTORCH_ROUNDUP_INTERVALS - 1;
    uint64_t divisions = r->options.roundup_power2_divisions[interval];
    if (divisions <= 1 || bytes <= PYTORCH_MIN_BLOCK * divisions)
        return pytorch_round_up_(bytes, PYTORCH_MIN_BLOCK);
    return pytorch_round_up_(bytes, (UINT64_C(1) << log) >> log2_floor(divisions));
}

static uint64_t size_when_expanded(const PytorchReplay *r, int32_t node)
{
    const Node *n = &r->nodes[node];
    return n->bytes + (n->next != NONE && !r->nodes[n->next].mapped ? r->nodes[n->next].bytes : 0);
}

static int splits(const PytorchReplay *r, int32_t node, uint64_t bytes)
{
    uint64_t left = r->nodes[node].bytes - bytes;
    if (r->nodes[node].small || r->options.expandable_segments)
        return left >= PYTORCH_MIN_BLOCK;
    return bytes < r->options.max_split_size && left > PYTORCH_SMALL;
}

/* A block out of the pool for the request, whose rest stays there; NONE where none may serve it. */
static int32_t take_free(PytorchReplay *r, uint64_t stream, uint64_t bytes, int small)
{
    Pool *pool = &r->free[small];
    if (r->allowed && r->options.garbage_collection_threshold > 0)
        pool->searches++;
    size_t at = estimate_pytorch_find_(pool, stream, bytes, 0);
    if (at == pool->count || pool->entries[at].stream != stream)
        return NONE;
    /* Where pages can be mapped behind a block, its size is taken to be what it can grow to. */
    for (size_t next = at + 1; r->options.expandable_segments && next < pool->count; at = next++)
        if (pool->entries[next].stream != stream ||
            size_when_expanded(r, pool->entries[next].node) >= size_when_expanded(r, pool->entries[at].node))
            break;
    int32_t node = pool->entries[at].node;
    uint64_t oversize = r->options.max_split_size, has = r->nodes[node].bytes;
    if (bytes < oversize ? has >= oversize : has - bytes >= r->options.max_non_split_rounding)
        return NONE;
    if (splits(r, node, bytes))
        estimate_pytorch_replace_(r, pool, at, estimate_pytorch_cut_(r, node, bytes));
    else
        estimate_pytorch_remove_at_(pool, at);
    return node;
}

/* A block of what is newly reserved, which is in no pool; its rest goes there. */
static int32_t take_new(PytorchReplay *r, uint64_t stream, uint64_t bytes, int small)
{
    int32_t node = estimate_pytorch_reserve_(r, stream, bytes, small);
    if (node != NONE && splits(r, node, bytes))
        estimate_pytorch_add_(r, estimate_pytorch_cut_(r, node, bytes));
    return node;
}

/* A block for the request, from the cache or the card; NONE where nothing helps. */
static int32_t obtain(PytorchReplay *r, uint64_t stream, uint64_t bytes, int small)
{
    int32_t node = take_free(r, stream, bytes, small);
    if (node != NONE)
        return node;
    if (r->allowed && r->options.garbage_collection_threshold > 0)
        estimate_pytorch_collect_(r);
    node = take_new(r, stream, bytes, small);
    if (node == NONE && estimate_pytorch_release_oversize_(r, stream, bytes, small))
        node = take_new(r, stream, bytes, small);
    if (node != NONE)
        return node;
    estimate_pytorch_flush_(r);
    r->books.retries++;
    return take_new(r, stream, bytes, small);
}

static int out_of_memory(PytorchReplay *r, uint64_t serial, uint64_t bytes, uint64_t segment)
{
    if (!r->books.ooms++)
        r->books.first_oom = (PytorchOutOfMemory){.event = r->events,
                                                  .serial = serial,
                                                  .requested = bytes,
                                                  .segment = segment,
                                                  .allocated = r->books.allocated,
                                                  .reserved = r->books.reserved};
    r->events++;
    return PYTORCH_OUT_OF_MEMORY;
}

int estimate_pytorch_alloc_on(PytorchReplay *r, uint64_t stream, uint64_t serial, uint64_t bytes)
{
    if (bytes == 0)
        return 0;
    if (serial == 0 || bytes > PYTORCH_LARGEST || r->address > PYTORCH_LARGEST)
        return PYTORCH_REFUSED;
    if (estimate_pytorch_room_(r) || grow_slots(r))
        return -1;
    size_t slot = slot_of(r, serial);
    if (r->slots[slot].serial)
        return PYTORCH_REFUSED;
    uint64_t rounded = round_size(r, bytes);
    int small = rounded <= PYTORCH_SMALL;
    int32_t node = obtain(r, stream, rounded, small);
    if (node == NONE)
        return out_of_memory(r, serial, bytes, estimate_pytorch_segment_bytes_(r, rounded, small));
    Node *n = &r->nodes[node];
    r->slots[slot] = (Slot){serial, node};
    n->serial = serial;
    n->requested = bytes;
    r->live++;
    r->events++;
    PytorchBooks *b = &r->books;
    b->requested += bytes;
    b->allocated += n->bytes;
    if (b->requested > b->peak_requested)
        b->peak_requested = b->requested;
    if (b->allocated > b->peak_allocated)
        b->peak_allocated = b->allocated;
    return 0;
}

int estimate_pytorch_alloc(PytorchReplay *r, uint64_t serial, uint64_t bytes)
{
    return estimate_pytorch_alloc_on(r, 0, serial, bytes);
}

/* ---- Freeing --------------------------------------------------------------------------------- */

int estimate_pytorch_free(PytorchReplay *r, uint64_t serial)
{
    if (serial == 0 || r->slot_count == 0)
        return PYTORCH_REFUSED;
    size_t slot = slot_of(r, serial);
    if (!r->slots[slot].serial)
        return PYTORCH_REFUSED;
    int32_t node = r->slots[slot].node;
    slot_remove(r, slot);
    Node *n = &r->nodes[node];
    r->live--;
    r->events++;
    r->books.requested -= n->requested;
    r->books.allocated -= n->bytes;
    n->serial = n->requested = 0;
    estimate_pytorch_give_(r, node);
    return 0;
}

int estimate_pytorch_empty_cache(PytorchReplay *r)
{
    if (estimate_pytorch_room_(r))
        return -1;
    estimate_pytorch_flush_(r);
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
    for (size_t i = 0; i < r->segment_count; i++)
        for (int32_t at = r->segments[i].first; at != NONE; at = r->nodes[at].next) {
            const Node *n = &r->nodes[at];
            PytorchBlock block = {.segment = i,
                                  .small = n->small,
                                  .stream = n->stream,
                                  .offset = n->address - r->segments[i].address,
                                  .bytes = n->bytes,
                                  .requested = n->requested,
                                  .serial = n->serial};
            int stop = n->mapped ? visit(user, &block) : 0;
            if (stop)
                return stop;
        }
    return 0;
}

/* Sizes beyond any machine are the largest: sums of them stay far from 2^64. */
static uint64_t bounded(uint64_t bytes, uint64_t otherwise, uint64_t largest)
{
    return bytes == 0 ? otherwise : bytes < largest ? bytes : largest;
}

PytorchReplay *estimate_pytorch_create(const PytorchAllocatorOptions *options)
{
    PytorchReplay *r = memtrack_host_calloc(NULL, sizeof *r);
    if (!r)
        return NULL;
    r->spare = NONE;
    r->unmapped[0].by_address = r->unmapped[1].by_address = 1;
    if (options)
        r->options = *options;
    PytorchAllocatorOptions *o = &r->options;
    if (!o->total)
        o->total = o->limit;
    if (o->fraction > 0 && (o->fraction < 1 || o->as_2_6) && o->total)
        r->allowed = (uint64_t)(o->fraction * (double)bounded(o->total, 0, PYTORCH_LARGEST));
    for (int i = 0; i < PYTORCH_ROUNDUP_INTERVALS; i++)
        r->divides |= o->roundup_power2_divisions[i] > 1;
    o->limit = bounded(o->limit, 0, PYTORCH_LARGEST);
    o->large_segment_size = bounded(o->large_segment_size, 20 * PYTORCH_MIB, UINT64_C(1) << 50);
    o->max_non_split_rounding = bounded(o->max_non_split_rounding, o->large_segment_size, PYTORCH_LARGEST);
    o->max_split_size = bounded(o->max_split_size, UINT64_MAX, UINT64_MAX);
    o->total = bounded(o->total, UINT64_C(1) << 44, UINT64_C(1) << 50);
    return r;
}

/* The array of the original becomes one of the copy's own, of the same capacity; NULL stays NULL. */
static int copy_array(void *array, size_t bytes)
{
    void *old, *copy;
    memcpy(&old, array, sizeof old);
    copy = old ? memtrack_host_alloc(NULL, bytes) : NULL;
    if (copy)
        memcpy(copy, old, bytes);
    memcpy(array, &copy, sizeof copy);
    return old && !copy;
}

PytorchReplay *estimate_pytorch_copy(const PytorchReplay *replay, uint64_t limit)
{
    PytorchReplay *r = memtrack_host_alloc(NULL, sizeof *r);
    if (!r)
        return NULL;
    *r = *replay;
    r->options.limit = bounded(limit, 0, PYTORCH_LARGEST);
    int failed = copy_array(&r->nodes, r->capacity * sizeof *r->nodes);
    failed |= copy_array(&r->segments, r->segment_capacity * sizeof *r->segments);
    failed |= copy_array(&r->slots, r->slot_count * sizeof *r->slots);
    failed |= copy_array(&r->flushing, r->flushing_capacity * sizeof *r->flushing);
    for (int i = 0; i < 2; i++) {
        failed |= copy_array(&r->free[i].entries, r->free[i].capacity * sizeof *r->free[i].entries);
        failed |=
            copy_array(&r->unmapped[i].entries, r->unmapped[i].capacity * sizeof *r->unmapped[i].entries);
    }
    if (!failed)
        return r;
    estimate_pytorch_destroy(r);
    return NULL;
}

void estimate_pytorch_destroy(PytorchReplay *r)
{
    if (!r)
        return;
    memtrack_host_free(NULL, r->nodes, r->capacity * sizeof *r->nodes);
    memtrack_host_free(NULL, r->segments, r->segment_capacity * sizeof *r->segments);
    memtrack_host_free(NULL, r->slots, r->slot_count * sizeof *r->slots);
    memtrack_host_free(NULL, r->flushing, r->flushing_capacity * sizeof *r->flushing);
    for (int i = 0; i < 2; i++) {
        Pool *free_blocks = &r->free[i], *unmapped = &r->unmapped[i];
        memtrack_host_free(NULL, free_blocks->entries, free_blocks->capacity * sizeof *free_blocks->entries);
        memtrack_host_free(NULL, unmapped->entries, unmapped->capacity * sizeof *unmapped->entries);
    }
    memtrack_host_free(NULL, r, sizeof *r);
}
