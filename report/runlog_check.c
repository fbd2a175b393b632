/* Makes the events of a log consistent: what follows may then replay them blindly. */
#include <string.h>

#include "runlog_read_.h"

/* Blocks by serial, open addressing; a slot holds 1 + the block's index. */
typedef struct Serials {
    size_t *slots;
    size_t count; /* a power of two */
} Serials;

static size_t *slot_of(const Serials *serials, const RunRecord *run, uint64_t serial)
{
    size_t i = (size_t)(serial * UINT64_C(0x9e3779b97f4a7c15)) & (serials->count - 1);
    while (serials->slots[i] && run->events[run->blocks[serials->slots[i] - 1].alloc].serial != serial)
        i = (i + 1) & (serials->count - 1);
    return &serials->slots[i];
}

/* What a log of this build never says. */
static int contradicts(const RunRecord *run, const RunEvent *event, const size_t *slot, uint64_t live)
{
    if (event->kind == RUN_ALLOC)
        return *slot != 0 || event->bytes > RUN_LIMIT - live;
    if (!*slot)
        return 1;
    const RunBlock *block = &run->blocks[*slot - 1];
    const RunEvent *made = &run->events[block->alloc];
    return block->free != SIZE_MAX || made->bytes != event->bytes || made->offset != event->offset ||
           made->end != event->end;
}

/* Enters an event that is right, now the i-th. */
static void enter(RunRecord *run, size_t *slot, size_t i, uint64_t *live)
{
    RunEvent *event = &run->events[i];
    if (event->kind == RUN_ALLOC) {
        run->blocks[run->block_count++] =
            (RunBlock){.alloc = i, .free = SIZE_MAX, .component = event->component};
        *slot = run->block_count;
        *live += event->bytes;
    }
    event->block = *slot - 1;
    RunBlock *block = &run->blocks[event->block];
    event->from = event->kind == RUN_RETAG ? block->component : event->component;
    if (event->kind == RUN_RETAG)
        block->component = event->component;
    if (event->kind == RUN_FREE) {
        event->component = event->from = block->component;
        block->free = i;
        *live -= event->bytes;
    }
    event->live = *live;
    if (*live > run->peak_live) {
        run->peak_live = *live;
        run->peak_event = i;
    }
}

/* A number that names no component becomes the table's last, "unknown". */
static int name_unknown(RunRecord *run, size_t known)
{
    int found = 0;
    for (size_t i = 0; i < run->event_count; i++) {
        uint8_t *components[] = {&run->events[i].component, &run->events[i].from};
        for (int k = 0; k < 2; k++)
            if (*components[k] >= known) {
                *components[k] = (uint8_t)known;
                found = 1;
            }
    }
    if (!found)
        return 0;
    run->component_group[known] = (int)run->groups.count - 1;
    return report_run_add_name_(&run->components, "unknown");
}

/* The reservation as the plan had it, or as large as the events say. */
static void find_reserved(RunRecord *run)
{
    uint64_t reach[2] = {0, 0};
    for (size_t i = 0; i < run->event_count; i++) {
        const RunEvent *event = &run->events[i];
        uint64_t end = event->offset + event->bytes;
        if (end > reach[event->end])
            reach[event->end] = end;
    }
    uint64_t planned = run->plan.needs_bytes & ~(uint64_t)(MEMTRACK_ALIGN - 1);
    run->reserved = reach[0] > planned || reach[1] > planned || !planned ? reach[0] + reach[1] : planned;
}

static int make_tables(RunRecord *run, Serials *serials)
{
    size_t allocs = 0;
    for (size_t i = 0; i < run->event_count; i++)
        allocs += run->events[i].kind == RUN_ALLOC;
    for (serials->count = 16; serials->count < 2 * allocs;)
        serials->count *= 2;
    serials->slots = memtrack_host_calloc(NULL, serials->count * sizeof *serials->slots);
    run->blocks = memtrack_host_alloc(NULL, allocs * sizeof *run->blocks);
    run->block_capacity = run->blocks ? allocs : 0;
    return serials->slots && run->blocks ? 0 : -1;
}

int report_run_check_(RunReading *reading)
{
    RunRecord *run = reading->run;
    Serials serials = {0};
    uint64_t live = 0, time = 0;
    size_t kept = 0, read = run->event_count;
    int status = name_unknown(run, run->components.count) || make_tables(run, &serials) ? -1 : 0;
    for (size_t i = 0; !status && i < read; i++) {
        RunEvent event = run->events[i];
        size_t *slot = slot_of(&serials, run, event.serial);
        if (contradicts(run, &event, slot, live)) {
            reading->contradictions++;
            continue;
        }
        if (event.time_us < time)
            event.time_us = time;
        time = event.time_us;
        run->events[kept] = event;
        enter(run, slot, kept++, &live);
    }
    run->event_count = kept;
    find_reserved(run);
    memtrack_host_free(NULL, serials.slots, serials.count * sizeof *serials.slots);
    return status;
}
