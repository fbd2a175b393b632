/* Allocations of jansson that fail, and how many are live: it has no books of ours. */
#ifndef BRIM_TESTS_JSON_SUPPORT_H
#define BRIM_TESTS_JSON_SUPPORT_H

#include <jansson.h>
#include <stdlib.h>

static int json_allowed, json_live;

static inline void *json_counted_malloc(size_t bytes)
{
    void *block = json_allowed-- > 0 ? malloc(bytes) : NULL;
    json_live += block != NULL;
    return block;
}

static inline void json_counted_free(void *block)
{
    json_live -= block != NULL;
    free(block);
}

/* From here on so many succeed, until json_allow_all. */
static inline void json_allow(int count)
{
    json_allowed = count;
    json_set_alloc_funcs(json_counted_malloc, json_counted_free);
}

static inline void json_allow_all(void)
{
    json_set_alloc_funcs(malloc, free);
}

#endif
