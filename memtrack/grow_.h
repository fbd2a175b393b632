/* grow: an array on the host with room for more items. */
#ifndef BRIM_MEMTRACK_GROW__H
#define BRIM_MEMTRACK_GROW__H

#include "memtrack.h"

/* The array with room for `count` items of `bytes`, moved or not, and its new capacity; NULL without memory,
 * and the array as it was. At first `items` is NULL and the capacity 0. */
static inline void *memtrack_grow(void *items, size_t *capacity, size_t count, size_t bytes)
{
    if (items && count <= *capacity)
        return items;
    size_t wanted = 2 * count + 62;
    void *larger = memtrack_host_realloc(NULL, items, *capacity * bytes, wanted * bytes);
    if (larger)
        *capacity = wanted;
    return larger;
}

#endif
