/* What the tests of the allocator share. */
#ifndef BRIM_MEMTRACK_SUPPORT_H
#define BRIM_MEMTRACK_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "memtrack/memtrack.h"

static inline int nothing_held(void **state)
{
    (void)state;
    memtrack_fail_nth(0);
    return memtrack_process_live() == 0 ? 0 : -1;
}

static inline MemLedger *meta_ledger(MemTracker *tracker)
{
    MemLedger *ledger = memtrack_ledger_create(tracker, &(MemLedgerOptions){.name = "meta"});
    assert_non_null(ledger);
    return ledger;
}

static inline MemBlock take_block(MemLedger *ledger, uint64_t bytes, MemComponent component)
{
    MemBlock block;
    assert_int_equal(memtrack_alloc(ledger, bytes, component, &block), 0);
    return block;
}

static inline unsigned char pattern(const MemBlock *block)
{
    return (unsigned char)(block->serial * 37 + 11);
}

static inline bool pattern_holds(const MemBlock *block)
{
    const unsigned char *data = block->data;
    for (uint64_t i = 0; data && i < block->requested; i++)
        if (data[i] != pattern(block))
            return false;
    return true;
}

static inline bool same_block(const MemBlock *a, const MemBlock *b)
{
    return a->offset == b->offset && a->bytes == b->bytes && a->requested == b->requested &&
           a->serial == b->serial && a->path == b->path && a->component == b->component && a->end == b->end &&
           a->data == b->data;
}

#endif
