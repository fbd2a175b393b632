/* What ranks tell each other beside what a script computes: plans before it begins, figures at its end. */
#include <string.h>

#include "../memtrack/memtrack.h"
#include "ranks.h"
#include "transport.h"
#include "watch_.h"

int ranks_gather(const Ranks *ranks, const void *mine, uint64_t bytes, void *all)
{
    if (!ranks || ranks->size < 2 || !ranks->transport) {
        memcpy(all, mine, bytes);
        return 0;
    }
    const Transport *t = ranks->transport;
    uint64_t size = (uint64_t)ranks->size,
             each = (bytes + TRANSPORT_UNIT - 1) / TRANSPORT_UNIT * TRANSPORT_UNIT;
    char *parts = memtrack_host_calloc(NULL, size * each);
    if (!parts)
        return -1;
    memcpy(parts + (uint64_t)ranks->rank * each, mine, bytes);
    ranks_waiting_(t, &(RanksWait){.what = "comparing plans or figures", .bytes = each});
    int failed = t->gather(t->self, RANKS_ALL, parts, each) != 0;
    ranks_done_(t);
    for (uint64_t r = 0; r < size && !failed; r++)
        memcpy((char *)all + r * bytes, parts + r * each, bytes);
    memtrack_host_free(NULL, parts, size * each);
    return failed ? -1 : 0;
}
