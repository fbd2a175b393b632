/* Files as memory: mapped read-only, so that what is read of them is the system's file cache and not ours. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memtrack_.h"

const void *memtrack_map_file(int file, size_t bytes)
{
    if (!bytes || memtrack_fails_()) {
        errno = bytes ? ENOMEM : EINVAL;
        return NULL;
    }
    void *mapped = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    return mapped == MAP_FAILED ? NULL : mapped;
}

void memtrack_unmap_file(const void *mapped, size_t bytes)
{
    if (mapped)
        munmap((void *)(uintptr_t)mapped, bytes);
}

void memtrack_map_forget(const void *mapped, const void *from, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = (uintptr_t)from, end = start + bytes;
    start = start / page * page;
    start = start < (uintptr_t)mapped ? (uintptr_t)mapped : start;
    end = end / page * page; /* what follows in the last page is still to be read */
    if (end > start)
        madvise((void *)start, end - start, MADV_DONTNEED);
}
