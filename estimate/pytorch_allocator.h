/* pytorch: a trace of allocations, replayed by the rules of PyTorch's CUDA caching allocator.
 *
 * Books only: no GPU, no PyTorch. It answers what the same requests in the same order would make PyTorch
 * reserve, fragmentation included. The rules are those of c10/cuda/CUDACachingAllocator.cpp with the default
 * settings (no max_split_size_mb, no expandable segments, no garbage collection), one stream, and a card that
 * is never full, so that cached segments are never given back:
 *
 * - a size is rounded up to a multiple of 512 bytes;
 * - up to 1 MiB it is served from the small pool, else from the large one;
 * - the smallest free block that suffices is taken, of equal ones that with the lowest address;
 * - if there is none, a segment is reserved: 2 MiB in the small pool; 20 MiB for less than 10 MiB; else the
 *   size rounded up to a multiple of 2 MiB. Addresses of segments ascend;
 * - what is left of a block is split off when it is at least 512 bytes (small) or more than 1 MiB (large);
 * - a freed block merges with its free neighbours in the same segment.
 */
#ifndef BRIM_PYTORCH_ALLOCATOR_H
#define BRIM_PYTORCH_ALLOCATOR_H

#include <stdint.h>

#include "../memtrack/memtrack.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct PytorchReplay PytorchReplay;

/* In bytes; what torch.cuda.memory_stats() calls requested_bytes, allocated_bytes and reserved_bytes. */
typedef struct PytorchBooks {
    uint64_t requested;      /* as asked */
    uint64_t allocated;      /* blocks in use: rounded, and with the rests too small to be split off */
    uint64_t reserved;       /* segments */
    uint64_t peak_requested; /* each one's own highest moment */
    uint64_t peak_allocated;
    uint64_t peak_reserved;
    uint64_t small_segments, large_segments;
} PytorchBooks;

/* A block of a segment. Blocks tile their segment: `offset` is where it begins there. */
typedef struct PytorchBlock {
    uint64_t segment; /* number of the reserved segment, from 0 */
    int small;        /* 1: of the small pool */
    uint64_t offset, bytes;
    uint64_t requested; /* 0: free */
    uint64_t serial;    /* 0: free */
} PytorchBlock;

/* NULL without host memory. */
PytorchReplay *estimate_pytorch_create(void);
void estimate_pytorch_destroy(PytorchReplay *replay); /* NULL is fine */
/* `serial` (not 0) names the allocation until it is freed. Nothing happens for 0 bytes, as in PyTorch.
 * Returns 0; 1 when the serial is in use or 0 or the bytes are beyond any machine (2^60); -1 without host
 * memory. Nothing has changed then. */
int estimate_pytorch_alloc(PytorchReplay *replay, uint64_t serial, uint64_t bytes);
/* Returns 0, or 1 when nothing of that serial is live. */
int estimate_pytorch_free(PytorchReplay *replay, uint64_t serial);
const PytorchBooks *estimate_pytorch_books(const PytorchReplay *replay);
/* Every block, segment by segment in ascending offsets; stops when the visitor returns non-zero, and returns
 * that. */
int estimate_pytorch_blocks(const PytorchReplay *replay, int (*visit)(void *user, const PytorchBlock *block),
                            void *user);

#ifdef __cplusplus
}
#endif
#endif
