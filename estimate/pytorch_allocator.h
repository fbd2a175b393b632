/* pytorch_allocator: a trace of allocations, replayed by the rules of PyTorch's CUDA caching allocator.
 *
 * Books only: no GPU, no PyTorch. It answers what the same requests in the same order would make PyTorch
 * reserve, fragmentation included, and whether they would fit. The rules are those of
 * c10/cuda/CUDACachingAllocator.cpp (torch 2.15 and 2.11; 2.6 where it is said):
 *
 * - a size is rounded up to a multiple of 512 bytes, or to a part of a power of two
 * (roundup_power2_divisions);
 * - up to 1 MiB it is served from the small pool, else from the large one; each stream has blocks of its own;
 * - the smallest free block that suffices is taken, of equal ones that with the lowest address;
 * - if there is none, a segment is reserved: 2 MiB in the small pool; 20 MiB for less than 10 MiB; else the
 *   size rounded up to a multiple of 2 MiB. Addresses of segments ascend, which a card does not promise once
 *   segments have been given back; it decides ties only;
 * - what is left of a block is split off when it is at least 512 bytes (small) or more than 1 MiB (large);
 * - a freed block merges with its free neighbours in the same segment;
 * - where a segment does not fit in the limit, free blocks that max_split_size forbids to split are given
 * back, as many as the request needs; then every segment that is wholly free; then the request fails.
 *
 * Where segments are expandable there is one of each pool and stream, as long as 9/8 of the card in
 * addresses; pages of 2 MiB (small) or 20 MiB (large) are mapped into it where a request needs them.
 *
 * Not here: blocks that another stream uses (record_stream), pools of CUDA graphs, and cudaMalloc's own
 * rounding. */
#ifndef BRIM_PYTORCH_ALLOCATOR_H
#define BRIM_PYTORCH_ALLOCATOR_H

#include <stdint.h>

#include "../memtrack/memtrack.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct PytorchReplay PytorchReplay;

enum { PYTORCH_ROUNDUP_INTERVALS = 16 };

/* 0 is PyTorch's default everywhere. Bytes. */
typedef struct PytorchAllocatorOptions {
    uint64_t limit; /* what segments may take of the card, beside the context and others; 0: no end */
    uint64_t total; /* the whole card as cudaMemGetInfo tells it; 0: the limit */
    /* set_per_process_memory_fraction: segments take no more of the total than that. 1 counts as not set. The
     * garbage collection runs only where it is set. */
    double fraction;
    uint64_t max_split_size;         /* blocks that large are not split */
    uint64_t max_non_split_rounding; /* how much larger a block than such a request may be; 0: as the next */
    uint64_t large_segment_size;     /* 0: 20 MiB */
    double garbage_collection_threshold;
    /* Into how many parts the way from a power of two to the next is divided, for sizes below 2 MiB, from 2
     * to 4 MiB and so on to 32 GiB and more; 0 and 1: multiples of 512 bytes. */
    uint32_t roundup_power2_divisions[PYTORCH_ROUNDUP_INTERVALS];
    int expandable_segments;
    /* As in PyTorch 2.6: a fraction of 1 counts as set, and ">" of roundup_power2_divisions holds for the
     * last interval named before it too. 2.11 does as 2.15. */
    int as_2_6;
} PytorchAllocatorOptions;

/* Reads PYTORCH_ALLOC_CONF, or PYTORCH_CUDA_ALLOC_CONF: "max_split_size_mb:128,expandable_segments:True".
 * Sets what it names and leaves `limit`, `total` and `as_2_6` as they are; what concerns only the host's
 * memory or the locks is checked for its name and passed over. An unknown key, a value that PyTorch refuses,
 * and settings that the replay does not follow (backend:cudaMallocAsync, throw_on_cudamalloc_oom, reserves of
 * expandable segments) fail with -1 and one sentence in `error`; `options` are then as before. */
int estimate_pytorch_settings(const char *text, PytorchAllocatorOptions *options, char *error,
                              size_t error_size);

/* A request that failed. */
typedef struct PytorchOutOfMemory {
    uint64_t event; /* its number among the calls of alloc and free, from 0 */
    uint64_t serial;
    uint64_t requested;           /* as asked */
    uint64_t segment;             /* what PyTorch's message says: "Tried to allocate" */
    uint64_t allocated, reserved; /* after all had been given back that could be */
} PytorchOutOfMemory;

/* In bytes; what torch.cuda.memory_stats() calls requested_bytes, allocated_bytes and reserved_bytes. */
typedef struct PytorchBooks {
    uint64_t requested;      /* as asked */
    uint64_t allocated;      /* blocks in use: rounded, and with the rests too small to be split off */
    uint64_t reserved;       /* segments, or the pages that are mapped */
    uint64_t peak_requested; /* each one's own highest moment */
    uint64_t peak_allocated;
    uint64_t peak_reserved;
    uint64_t small_segments, large_segments; /* now */
    uint64_t retries, ooms;                  /* num_alloc_retries: flushes of the whole cache; num_ooms */
    uint64_t device_allocs, device_frees;    /* num_device_alloc, num_device_free */
    PytorchOutOfMemory first_oom;            /* where ooms is not 0 */
} PytorchBooks;

/* A block of a segment. Blocks tile their segment: `offset` is where it begins there. Of an expandable one
 * only what is mapped is shown. */
typedef struct PytorchBlock {
    uint64_t segment; /* number of the reserved segment, from 0; numbers are not used again */
    int small;        /* 1: of the small pool */
    uint64_t stream;
    uint64_t offset, bytes;
    uint64_t requested; /* 0: free */
    uint64_t serial;    /* 0: free */
} PytorchBlock;

enum { PYTORCH_REFUSED = 1, PYTORCH_OUT_OF_MEMORY = 2 };

/* NULL for the options: all defaults, a card that is never full. NULL without host memory. */
PytorchReplay *estimate_pytorch_create(const PytorchAllocatorOptions *options);
/* A copy of the replay in its present state, with another limit; the card's total is not changed. The
 * caller's. NULL without host memory. */
PytorchReplay *estimate_pytorch_copy(const PytorchReplay *replay, uint64_t limit);
void estimate_pytorch_destroy(PytorchReplay *replay); /* NULL is fine */
/* `serial` (not 0) names the allocation until it is freed. Nothing happens for 0 bytes, as in PyTorch.
 * Returns 0; PYTORCH_REFUSED when the serial is in use or 0 or the bytes are beyond any machine (2^60), or -1
 * without host memory, and nothing has changed then. PYTORCH_OUT_OF_MEMORY is a result: nothing is live by
 * that serial, and the cache has been given back. */
int estimate_pytorch_alloc(PytorchReplay *replay, uint64_t serial, uint64_t bytes); /* of stream 0 */
int estimate_pytorch_alloc_on(PytorchReplay *replay, uint64_t stream, uint64_t serial, uint64_t bytes);
/* Returns 0, or PYTORCH_REFUSED when nothing of that serial is live. */
int estimate_pytorch_free(PytorchReplay *replay, uint64_t serial);
/* torch.cuda.empty_cache(): gives back what is wholly free. Returns 0, or -1 without host memory. */
int estimate_pytorch_empty_cache(PytorchReplay *replay);
const PytorchBooks *estimate_pytorch_books(const PytorchReplay *replay);
/* Every block, segment by segment in ascending offsets; stops when the visitor returns non-zero, and returns
 * that. */
int estimate_pytorch_blocks(const PytorchReplay *replay, int (*visit)(void *user, const PytorchBlock *block),
                            void *user);

#ifdef __cplusplus
}
#endif
#endif
