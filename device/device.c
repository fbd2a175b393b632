/* Cards by name, and the memory of an open one. */
#include "device.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cards.h"

int device_cuda_ordinal(const char *name)
{
    if (!name || strncmp(name, "cuda", 4))
        return -1;
    if (!name[4])
        return 0;
    if (name[4] != ':' || !name[5] || strspn(name + 5, "0123456789") != strlen(name + 5))
        return -1;
    unsigned long number = strtoul(name + 5, NULL, 10);
    return number < INT_MAX ? (int)number : INT_MAX;
}

int device_rank_ordinal(const char *name, int node_rank)
{
    int ordinal = device_cuda_ordinal(name), cards = ordinal || name[4] ? 0 : cuda_cards();
    return cards > 0 ? node_rank % cards : ordinal;
}

static CudaPointer address(const void *memory)
{
    return (CudaPointer)(uintptr_t)memory;
}

static void *take(void *user, uint64_t bytes)
{
    CudaPointer taken = 0;
    (void)user; /* the driver hands out whole pieces */
    return cuda.alloc(&taken, (size_t)bytes) ? NULL : (void *)(uintptr_t)taken;
}

/* After what the stream still does with it. */
static void give(void *user, void *memory)
{
    cuda_wait(user);
    cuda.release(address(memory));
}

static void read_memory(void *user, const void *memory, uint64_t bytes, void *to)
{
    cuda_read(user, address(memory), (size_t)bytes, to);
}

static void write_memory(void *user, void *memory, uint64_t bytes, const void *from)
{
    cuda_write(user, address(memory), (size_t)bytes, from);
}

static void clear_memory(void *user, void *memory, uint64_t bytes)
{
    cuda_clear(user, address(memory), (size_t)bytes);
}

static uint64_t available(void *user)
{
    size_t left = 0, all = 0;
    (void)user;
    return cuda.memory_info(&left, &all) ? 0 : left / DEVICE_GRANULE * DEVICE_GRANULE;
}

MemDevice device_memory(CudaDevice *device)
{
    return (MemDevice){.take = take,
                       .give = give,
                       .read = read_memory,
                       .write = write_memory,
                       .clear = clear_memory,
                       .available = available,
                       .user = device};
}

int device_planned_capability(const char *device, const char *card)
{
    const Card *named = card ? device_card(card) : NULL;
    CudaDevice found;
    char unused[512];
    if (card)
        return named ? named->capability : -1;
    return cuda_look(&found, device_cuda_ordinal(device), unused, sizeof unused) ? CUDA_NEWEST
                                                                                 : found.capability;
}

int device_plans_alike(int a, int b)
{
    return (a >= CUDA_OLDEST) == (b >= CUDA_OLDEST) && (a >= CUDA_TF32) == (b >= CUDA_TF32) &&
           cuda_workspace_bytes(a) == cuda_workspace_bytes(b);
}
