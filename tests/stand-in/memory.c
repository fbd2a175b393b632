/* Memory of the made-up cards: handed out in granules, garbage when it is fresh, and an access beyond its end
 * is found: by the address sanitizer, or by a page without rights behind each allocation. */
#include "driver_.h"

#include <stdlib.h>
#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

enum { ALIGNMENT = 256, PAGE = 4096 };

#ifdef __SANITIZE_ADDRESS__
static int map(Block *block)
{
    void *base;
    if (posix_memalign(&base, ALIGNMENT, block->bytes))
        return -1;
    block->base = block->mapping = base;
    return 0;
}

static void unmap(Block *block)
{
    __asan_unpoison_memory_region(block->base, block->bytes);
    free(block->base);
}

static void rights(const Block *block, int open)
{
    if (open)
        __asan_unpoison_memory_region(block->base, block->bytes);
    else
        __asan_poison_memory_region(block->base, block->bytes);
}
#else
static int map(Block *block)
{
    size_t size = (block->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    size_t pages = (size + PAGE - 1) / PAGE * PAGE;
    unsigned char *mapping =
        mmap(NULL, pages + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED)
        return -1;
    mprotect(mapping + pages, PAGE, PROT_NONE);
    block->mapping = mapping;
    block->mapped = pages + PAGE;
    block->base = mapping + pages - size;
    return 0;
}

static void unmap(Block *block)
{
    munmap(block->mapping, block->mapped);
}

static void rights(const Block *block, int open)
{
    mprotect(block->mapping, block->mapped - PAGE, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}
#endif

void memory_open(int open)
{
    for (int i = 0; stand_in.guard && i < stand_in.cards; i++)
        for (const Block *block = stand_in.card[i].blocks; block; block = block->next)
            rights(block, open);
}

static int fails_now(void)
{
    return stand_in.fail_in > 0 && --stand_in.fail_in == 0;
}

API int cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    int status = card_ready();
    if (!status) {
        *free_bytes = stand_in_card->total - stand_in_card->used;
        *total = stand_in_card->total;
    }
    return status;
}

API int cuMemAlloc_v2(Pointer *p, size_t n)
{
    int status = card_ready();
    size_t granules = n / GRANULE + (n % GRANULE != 0);
    if (!status && stand_in_card->capture.mode != CAPTURE_RELAXED)
        status = card_ready_to_wait();
    if (!status && n == 0)
        status = INVALID_VALUE;
    if (!status && (fails_now() || granules > (stand_in_card->total - stand_in_card->used) / GRANULE))
        status = OUT_OF_MEMORY;
    if (status)
        return status;
    Block *block = malloc(sizeof *block);
    if (!block)
        return OUT_OF_MEMORY;
    *block = (Block){.bytes = n, .granules = granules, .next = stand_in_card->blocks};
    if (map(block))
        return free(block), OUT_OF_MEMORY;
    memset(block->base, 0xff, n);
    stand_in_card->blocks = block;
    stand_in_card->used += granules * GRANULE;
    if (stand_in.guard)
        rights(block, 0);
    *p = (Pointer)(uintptr_t)block->base;
    return SUCCESS;
}

/* Waits, as the real one does. */
API int cuMemFree_v2(Pointer p)
{
    int status = card_ready_to_wait();
    if (!stand_in_card || status == CAPTURE_UNSUPPORTED)
        return status;
    status = queue_drain(stand_in_card);
    for (Block **at = &stand_in_card->blocks; *at; at = &(*at)->next) {
        Block *block = *at;
        if (block->base != (unsigned char *)(uintptr_t)p)
            continue;
        *at = block->next;
        stand_in_card->used -= block->granules * GRANULE;
        unmap(block);
        free(block);
        return status;
    }
    return status ? status : INVALID_VALUE;
}

int card_holds(Pointer p, size_t n)
{
    for (int i = 0; i < stand_in.cards; i++)
        for (const Block *block = stand_in.card[i].blocks; block; block = block->next) {
            Pointer first = (uintptr_t)block->base;
            if (p >= first && p - first <= block->bytes && n <= block->bytes - (p - first))
                return 1;
        }
    return 0;
}

/* ---- Pinned memory of the host: what copies do not wait for ---- */

typedef struct Pinned {
    struct Pinned *next;
    unsigned char *base;
    size_t bytes;
    int own; /* allocated here, not the caller's */
} Pinned;
static Pinned *pinned;

int host_is_pinned(const void *p, size_t n)
{
    uintptr_t at = (uintptr_t)p;
    for (const Pinned *one = pinned; one; one = one->next) {
        uintptr_t first = (uintptr_t)one->base;
        if (at >= first && at - first <= one->bytes && n <= one->bytes - (at - first))
            return 1;
    }
    return 0;
}

static int pin(void *base, size_t n, int own)
{
    Pinned *one = malloc(sizeof *one);
    if (!one)
        return OUT_OF_MEMORY;
    *one = (Pinned){pinned, base, n, own};
    pinned = one;
    return SUCCESS;
}

/* Not while a copy waits. */
static int unpin(const void *base, int own)
{
    for (int i = 0; i < stand_in.cards; i++)
        queue_drain(&stand_in.card[i]);
    for (Pinned **at = &pinned; *at; at = &(*at)->next) {
        Pinned *one = *at;
        if (one->base != base || one->own != own)
            continue;
        *at = one->next;
        free(one);
        return SUCCESS;
    }
    return INVALID_VALUE;
}

API int cuMemAllocHost_v2(void **p, size_t n)
{
    int status = card_ready_to_wait();
    if (!status && fails_now())
        status = OUT_OF_MEMORY;
    void *base = status ? NULL : aligned_alloc(64, (n + 63) / 64 * 64);
    if (!base)
        return status ? status : OUT_OF_MEMORY;
    memset(base, 0xff, n);
    status = pin(base, n, 1);
    if (status)
        free(base);
    *p = base;
    return status;
}

API int cuMemFreeHost(void *p)
{
    int status = unpin(p, 1);
    if (!status)
        free(p);
    return status;
}

API int cuMemHostRegister_v2(void *p, size_t n, unsigned flags)
{
    int status = card_ready_to_wait();
    (void)flags;
    if (!status && fails_now())
        status = OUT_OF_MEMORY;
    return status ? status : p && n ? pin(p, n, 0) : INVALID_VALUE;
}

API int cuMemHostUnregister(void *p)
{
    return unpin(p, 0);
}
