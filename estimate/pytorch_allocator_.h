/* What the files of the replay share: its blocks, its pools, and what reserves and gives back. */
#ifndef BRIM_PYTORCH_ALLOCATOR_INTERNAL_H
#define BRIM_PYTORCH_ALLOCATOR_INTERNAL_H

#include "pytorch_allocator.h"

#define PYTORCH_MIN_BLOCK UINT64_C(512)
#define PYTORCH_MIB       (UINT64_C(1) << 20)
#define PYTORCH_SMALL     PYTORCH_MIB
#define PYTORCH_LARGEST   (UINT64_C(1) << 60)

enum { NONE = -1 };

/* A block, allocated, free or not mapped; prev and next are its neighbours in the segment, or NONE. */
typedef struct Node {
    uint64_t address, bytes, requested, serial; /* serial 0: free */
    uint64_t stream;
    uint64_t born; /* searches of the pool when it became free */
    int32_t prev, next;
    uint32_t segment;
    uint8_t small, mapped;
} Node;

/* What a node is found by stands beside it, so that a search does not go from node to node. */
typedef struct Entry {
    uint64_t stream, bytes, address;
    int32_t node;
} Entry;

/* Ascending by stream, then size (or not), then address. */
typedef struct Pool {
    Entry *entries;
    size_t count, capacity;
    int by_address;
    uint64_t searches;
} Pool;

/* Where the node of a serial is found. */
typedef struct Slot {
    uint64_t serial; /* 0: empty */
    int32_t node;
} Slot;

typedef struct Segment {
    int32_t first; /* NONE: given back */
    uint64_t address;
    uint64_t page; /* 0: not expandable */
} Segment;

struct PytorchReplay {
    PytorchBooks books;
    PytorchAllocatorOptions options; /* with the defaults written out */
    uint64_t allowed;                /* what the fraction allows */
    int divides;                     /* sizes are rounded up to parts of a power of two */
    Node *nodes;
    size_t count, capacity;
    int32_t spare;     /* of unused nodes, linked by next */
    Pool free[2];      /* large, small */
    Pool unmapped[2];  /* of expandable segments */
    int32_t *flushing; /* room for a pool's blocks while they are unmapped */
    size_t flushing_capacity;
    Segment *segments;
    size_t segment_count, segment_capacity;
    uint64_t address;
    Slot *slots; /* open addressing, a power of two, at most half full */
    size_t slot_count, live;
    uint64_t events;
};

static inline uint64_t pytorch_round_up_(uint64_t bytes, uint64_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

/* ---- Nodes and pools: pytorch_pools.c -------------------------------------------------------- */

/* All that one allocation can want, so that it fails before it changes anything; -1 without host memory. */
int estimate_pytorch_room_(PytorchReplay *r);
int32_t estimate_pytorch_take_(PytorchReplay *r);
void estimate_pytorch_drop_(PytorchReplay *r, int32_t node);
/* The first place that is not before (stream, bytes, address). */
size_t estimate_pytorch_find_(const Pool *pool, uint64_t stream, uint64_t bytes, uint64_t address);
/* To and from its pool, of free blocks or of those that are not mapped. */
void estimate_pytorch_add_(PytorchReplay *r, int32_t node);
void estimate_pytorch_remove_(PytorchReplay *r, int32_t node);
void estimate_pytorch_remove_at_(Pool *pool, size_t at);
/* The node is there in place of the one at `at`. */
void estimate_pytorch_replace_(PytorchReplay *r, Pool *pool, size_t at, int32_t node);
/* The node keeps so many bytes; the rest behind it is a new node, in no pool. */
int32_t estimate_pytorch_cut_(PytorchReplay *r, int32_t node, uint64_t bytes);
/* To its pool, in one with the free neighbours of its kind; the node that holds them all. */
int32_t estimate_pytorch_give_(PytorchReplay *r, int32_t node);

/* ---- Segments: pytorch_segments.c ------------------------------------------------------------ */

/* A free block, in no pool, of a new segment or of pages newly mapped; NONE where they do not fit. */
int32_t estimate_pytorch_reserve_(PytorchReplay *r, uint64_t stream, uint64_t bytes, int small);
uint64_t estimate_pytorch_segment_bytes_(const PytorchReplay *r, uint64_t bytes, int small);
/* Collects free segments that have not been used for long, once the threshold is passed. */
void estimate_pytorch_collect_(PytorchReplay *r);
/* Gives back blocks that max_split_size forbids to split, until they would suffice: 1 where they do. */
int estimate_pytorch_release_oversize_(PytorchReplay *r, uint64_t stream, uint64_t bytes, int small);
void estimate_pytorch_flush_(PytorchReplay *r);

#endif
