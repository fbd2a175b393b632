/* memtrack without the rest of brim: a made-up training step, its blocks named by component, place and phase,
 * and the books that come of it. Start from here to track the memory of a program of your own.
 */
#include <inttypes.h>
#include <stdio.h>

#include "memtrack/memtrack.h"

#define LAYERS 4

/* Says so when there is no room, and the block is empty then: the reservation below is a hard limit. */
static MemBlock take(MemLedger *ledger, uint64_t floats, MemComponent component)
{
    MemBlock block;
    if (memtrack_alloc(ledger, floats * sizeof(float), component, &block))
        fprintf(stderr, "no room for %" PRIu64 " floats of %s\n", floats, memtrack_component_name(component));
    return block;
}

int main(void)
{
    MemTracker *tracker = memtrack_create();
    MemLedger *ledger =
        tracker
            ? memtrack_ledger_create(
                  tracker, &(MemLedgerOptions){.name = "cpu", .mode = MEMTRACK_RESERVED, .capacity = 4 << 20})
            : NULL;
    if (!ledger)
        return 1;
    MemBlock saved[LAYERS];
    for (int i = 0; i < LAYERS; i++)
        take(ledger, 256 * 256, MEM_PARAMETER);
    memtrack_phase_set(tracker, MEM_PHASE_FORWARD);
    for (int i = 0; i < LAYERS; i++) {
        char name[24];
        snprintf(name, sizeof name, "layers.%d", i);
        memtrack_path_push(tracker, name);
        saved[i] = take(ledger, 64 * 256, MEM_ACTIVATION);
        MemBlock workspace = take(ledger, 64 * 1000, MEM_WORKSPACE);
        memtrack_free(ledger, &workspace);
        memtrack_path_pop(tracker);
    }
    memtrack_phase_set(tracker, MEM_PHASE_BACKWARD);
    for (int i = LAYERS; i-- > 0;)
        memtrack_free(ledger, &saved[i]);

    const MemStats *stats = memtrack_stats(ledger);
    printf("%-20s %12s %12s %12s\n", "component", "live", "at the peak", "own peak");
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        if (stats->own_peak[i] > 0)
            printf("%-20s %12" PRIu64 " %12" PRIu64 " %12" PRIu64 "\n",
                   memtrack_component_name((MemComponent)i), stats->live_by[i], stats->at_peak[i],
                   stats->own_peak[i]);
    printf("%-20s %12" PRIu64 " %12" PRIu64 "   in %s, %s\n", "all (bytes)", stats->live, stats->peak,
           memtrack_path_name(tracker, stats->peak_at.path), memtrack_phase_name(stats->peak_at.phase));
    memtrack_destroy(tracker);
    return memtrack_process_live() != 0;
}
