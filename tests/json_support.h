/* Allocations of jansson that fail, and how many are live: it has no books of ours. */
#ifndef BRIM_TESTS_JSON_SUPPORT_H
#define BRIM_TESTS_JSON_SUPPORT_H

#include <jansson.h>
#include <limits.h>
#include <stdlib.h>

static int json_allowed, json_live, json_fails;

static inline void *json_counted_malloc(size_t bytes)
{
    int fails = json_fails > 0 && --json_fails == 0;
    void *block = json_allowed-- > 0 && !fails ? malloc(bytes) : NULL;
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

/* Of those from here on the n-th fails, and no other. */
static inline void json_fail_nth(int n)
{
    json_allow(INT_MAX);
    json_fails = n;
}

/* It was not reached. */
static inline int json_fail_pending(void)
{
    return json_fails > 0;
}

static inline void json_allow_all(void)
{
    json_fails = 0;
    json_set_alloc_funcs(malloc, free);
}

#endif
