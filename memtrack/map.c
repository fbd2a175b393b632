/* Files mapped to be read: data sets larger than memory. */
#include <errno.h>
#include <sys/mman.h>

#include "memtrack.h"

const void *memtrack_map_file(int file, uint64_t bytes)
{
    if (!bytes || bytes > SIZE_MAX) {
        errno = EINVAL;
        return NULL;
    }
    void *start = mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, file, 0);
    return start == MAP_FAILED ? NULL : start;
}

void memtrack_unmap_file(const void *start, uint64_t bytes)
{
    if (start)
        munmap((void *)start, (size_t)bytes);
}
