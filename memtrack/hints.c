/* Hints, and following them. An event that no kind has at this point is skipped, and the ledger resumes with
 * the next event that fits. So an unplanned allocation in the middle of a step does not disturb the rest of
 * it. */
#include "hints_.h"

#include "memtrack_.h"

/* Kinds with the same events are one kind in hints. */
static bool counts(const MemTrace *trace, size_t k)
{
    return trace->kinds[k].first == k;
}

static size_t hints_bytes(const MemTrace *trace, size_t *kinds)
{
    size_t words = 0;
    *kinds = 0;
    for (size_t k = 0; k < trace->kind_count; k++)
        if (counts(trace, k)) {
            words += trace->kinds[k].event_count + trace->kinds[k].alloc_count;
            ++*kinds;
        }
    return sizeof(MemHints) + *kinds * sizeof(MemHintKind) + words * sizeof(uint64_t) +
           *kinds * *kinds * sizeof(uint32_t);
}

static uint32_t shared_events(const MemHintKind *a, const MemHintKind *b)
{
    uint32_t most = a->event_count < b->event_count ? a->event_count : b->event_count, i = 0;
    while (i < most && a->events[i] == b->events[i])
        i++;
    return i;
}

MemHints *memtrack_hints_create_(const MemTrace *trace, const uint64_t *offsets, uint64_t top,
                                 const char *packer)
{
    size_t kinds, bytes = hints_bytes(trace, &kinds);
    MemHints *hints = memtrack_host_alloc(NULL, bytes);
    if (!hints)
        return NULL;
    *hints = (MemHints){.bytes = bytes, .packer = packer, .top = top};
    uint64_t *words = (uint64_t *)(hints->kinds + kinds);
    for (size_t k = 0; k < trace->kind_count; offsets += trace->kinds[k++].alloc_count) {
        const MemTraceKind *from = &trace->kinds[k];
        if (!counts(trace, k))
            continue;
        hints->kinds[hints->kind_count++] = (MemHintKind){
            words, words + from->event_count, (uint32_t)from->event_count, (uint32_t)from->alloc_count};
        for (size_t i = 0; i < from->event_count; i++)
            *words++ = from->events[i];
        for (size_t i = 0; i < from->alloc_count; i++)
            *words++ = offsets[i];
    }
    hints->shared = (uint32_t *)words;
    for (size_t a = 0; a < kinds; a++)
        for (size_t b = 0; b < kinds; b++)
            hints->shared[a * kinds + b] = shared_events(&hints->kinds[a], &hints->kinds[b]);
    return hints;
}

void memtrack_hints_free(MemHints *hints)
{
    memtrack_host_free(NULL, hints, hints ? hints->bytes : 0);
}

const char *memtrack_hints_packer(const MemHints *hints)
{
    return hints ? hints->packer : "online";
}

int memtrack_ledger_follow(MemLedger *ledger, const MemHints *hints)
{
    if (ledger->stats.allocations > 0)
        return -1;
    ledger->follow = (MemFollow){.hints = hints};
    return 0;
}

static bool comes_next(const MemFollow *follow, uint32_t k, uint64_t digest)
{
    const MemHintKind *kind = &follow->hints->kinds[k];
    return follow->event < kind->event_count && kind->events[follow->event] == digest;
}

bool memtrack_follow_meets_(MemFollow *follow, uint64_t digest)
{
    const MemHints *hints = follow->hints;
    if (!hints || comes_next(follow, follow->kind, digest))
        return hints != NULL;
    for (uint32_t k = 0; k < hints->kind_count; k++)
        if (hints->shared[follow->kind * hints->kind_count + k] >= follow->event &&
            comes_next(follow, k, digest)) {
            follow->kind = k;
            return true;
        }
    return false;
}

uint64_t memtrack_follow_offset_(const MemFollow *follow)
{
    return follow->hints->kinds[follow->kind].offsets[follow->alloc];
}

void memtrack_follow_pass_(MemFollow *follow, bool is_alloc)
{
    follow->event++;
    follow->alloc += is_alloc;
}

void memtrack_follow_segment_(MemFollow *follow)
{
    *follow = (MemFollow){.hints = follow->hints};
}
