/* The snapshot's device and its trace: which event frees which block, and what was there before. */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "../memtrack/memtrack.h"
#include "torch_snapshot_read.h"

#define MOST_BYTES (INT64_C(1) << 46) /* more than any card has */

typedef struct Reading {
    TorchSnapshot *s;
    const char *path;
    char *why;
    size_t why_size;
    /* Live blocks by address: the alloc's event, or the block before the record behind all events. */
    uint64_t *addresses;
    size_t *owners, slot_count;
    PickleValue action, addr, device_free, size, stream, time_us, frames, category, metadata;
    PickleValue alloc, free_requested, free_completed, segment_alloc, segment_map, segment_free,
        segment_unmap, oom;
} Reading;

static int fail(Reading *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int fail(Reading *r, const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (r->why_size)
        snprintf(r->why, r->why_size, "%s: %s", r->path, text);
    return -1;
}

static int no_memory(Reading *r)
{
    return fail(r, "out of host memory");
}

/* ---- Devices --------------------------------------------------------------------------------- */

static PickleValue top(const Reading *r, const char *key)
{
    return report_pickle_at(r->s->pickle, report_pickle_root(r->s->pickle), key);
}

static size_t trace_length(const Reading *r, size_t device)
{
    const Pickle *p = r->s->pickle;
    return report_pickle_count(p, report_pickle_item(p, top(r, "device_traces"), device));
}

static int64_t device_of(const Pickle *p, PickleValue segment)
{
    int64_t device = report_pickle_integer(report_pickle_at(p, segment, "device"), 0);
    return device >= 0 && device < 4096 ? device : 0;
}

/* The one with the longest trace; without traces that of the first segment. */
static void choose_device(Reading *r)
{
    const Pickle *p = r->s->pickle;
    size_t traces = report_pickle_count(p, top(r, "device_traces")), longest = 0;
    size_t segments = report_pickle_count(p, top(r, "segments"));
    int devices = traces < 4096 ? (int)traces : 4096;
    for (size_t i = 0; i < (size_t)devices; i++)
        if (trace_length(r, i) > longest) {
            longest = trace_length(r, i);
            r->s->device = (int)i;
        }
    for (size_t i = 0; i < segments; i++) {
        int device = (int)device_of(p, report_pickle_item(p, top(r, "segments"), i));
        if (!longest && i == 0)
            r->s->device = device;
        if (device >= devices)
            devices = device + 1;
    }
    r->s->devices = devices ? devices : 1;
}

/* ---- Events ---------------------------------------------------------------------------------- */

static void find_keys(Reading *r)
{
    const Pickle *p = r->s->pickle;
    r->action = report_pickle_key(p, "action");
    r->addr = report_pickle_key(p, "addr");
    r->device_free = report_pickle_key(p, "device_free");
    r->size = report_pickle_key(p, "size");
    r->stream = report_pickle_key(p, "stream");
    r->time_us = report_pickle_key(p, "time_us");
    r->frames = report_pickle_key(p, "frames");
    r->category = report_pickle_key(p, "category");
    r->metadata = report_pickle_key(p, "user_metadata");
    r->alloc = report_pickle_key(p, "alloc");
    r->free_requested = report_pickle_key(p, "free_requested");
    r->free_completed = report_pickle_key(p, "free_completed");
    r->segment_alloc = report_pickle_key(p, "segment_alloc");
    r->segment_map = report_pickle_key(p, "segment_map");
    r->segment_free = report_pickle_key(p, "segment_free");
    r->segment_unmap = report_pickle_key(p, "segment_unmap");
    r->oom = report_pickle_key(p, "oom");
}

static TorchAction action_of(const Reading *r, PickleValue name, PickleValue free_name)
{
    if (report_pickle_type(name) != PICKLE_TEXT)
        return TORCH_OTHER;
    if (name == r->alloc)
        return TORCH_ALLOC;
    if (name == free_name)
        return TORCH_FREE;
    if (name == r->segment_alloc || name == r->segment_map)
        return TORCH_SEGMENT_ADD;
    if (name == r->segment_free || name == r->segment_unmap)
        return TORCH_SEGMENT_END;
    return name == r->oom ? TORCH_OOM : TORCH_OTHER;
}

static int read_event(Reading *r, PickleValue dict, PickleValue free_name, size_t number)
{
    const Pickle *p = r->s->pickle;
    int64_t bytes = report_pickle_integer(report_pickle_get(p, dict, r->size), 0);
    TorchEvent e = {.action = action_of(r, report_pickle_get(p, dict, r->action), free_name),
                    .bytes = (uint64_t)bytes,
                    .pair = TORCH_NONE};
    if (report_pickle_type(dict) != PICKLE_DICT)
        return fail(r, "event %zu of device %d is no dict", number, r->s->device);
    if (bytes < 0 || bytes > MOST_BYTES)
        return fail(r, "event %zu of device %d is of %lld bytes", number, r->s->device, (long long)bytes);
    PickleValue where = e.action == TORCH_OOM ? r->device_free : r->addr;
    e.address = (uint64_t)report_pickle_integer(report_pickle_get(p, dict, where), 0);
    e.stream = (uint64_t)report_pickle_integer(report_pickle_get(p, dict, r->stream), 0);
    e.time_us = report_pickle_integer(report_pickle_get(p, dict, r->time_us), 0);
    e.frames = report_pickle_get(p, dict, r->frames);
    e.category = report_pickle_get(p, dict, r->category);
    e.metadata = report_pickle_get(p, dict, r->metadata);
    if (e.action == TORCH_OOM && !r->s->ooms++)
        r->s->first_oom = r->s->event_count;
    if (e.action != TORCH_OTHER)
        r->s->events[r->s->event_count++] = e;
    return 0;
}

/* A trace may have been told to leave out some actions. */
static PickleValue free_action(const Reading *r, PickleValue trace)
{
    const Pickle *p = r->s->pickle;
    for (size_t i = 0; i < report_pickle_count(p, trace); i++)
        if (report_pickle_type(r->free_completed) == PICKLE_TEXT &&
            report_pickle_get(p, report_pickle_item(p, trace, i), r->action) == r->free_completed)
            return r->free_completed;
    return r->free_requested;
}

static int read_trace(Reading *r)
{
    TorchSnapshot *s = r->s;
    PickleValue trace = report_pickle_item(s->pickle, top(r, "device_traces"), (size_t)s->device);
    size_t count = report_pickle_count(s->pickle, trace);
    s->events = memtrack_host_alloc(NULL, (count + 1) * sizeof *s->events);
    if (!s->events)
        return no_memory(r);
    s->event_capacity = count + 1;
    PickleValue free_name = free_action(r, trace);
    for (size_t i = 0; i < count; i++)
        if (read_event(r, report_pickle_item(s->pickle, trace, i), free_name, i))
            return -1;
    return 0;
}

/* ---- Which event frees which block ----------------------------------------------------------- */

static int make_slots(Reading *r, size_t blocks)
{
    size_t count = 64;
    while (count < 2 * (r->s->event_count + blocks))
        count *= 2;
    r->addresses = memtrack_host_alloc(NULL, count * sizeof *r->addresses);
    r->owners = memtrack_host_alloc(NULL, count * sizeof *r->owners);
    r->slot_count = count;
    if (!r->addresses || !r->owners)
        return no_memory(r);
    memset(r->addresses, 0xff, count * sizeof *r->addresses); /* no address */
    memset(r->owners, 0xff, count * sizeof *r->owners);       /* TORCH_NONE */
    return 0;
}

static size_t *owner_of(Reading *r, uint64_t address)
{
    size_t at = (size_t)(address * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (r->slot_count - 1);
    while (r->addresses[at] != address && r->addresses[at] != UINT64_MAX)
        at = (at + 1) & (r->slot_count - 1);
    r->addresses[at] = address;
    return &r->owners[at];
}

static int add_before(Reading *r, const TorchBefore *block)
{
    TorchSnapshot *s = r->s;
    if (s->before_count == s->before_capacity) {
        size_t wanted = s->before_capacity ? 2 * s->before_capacity : 64;
        TorchBefore *larger = memtrack_host_realloc(NULL, s->before, s->before_capacity * sizeof *larger,
                                                    wanted * sizeof *larger);
        if (!larger)
            return no_memory(r);
        s->before = larger;
        s->before_capacity = wanted;
    }
    s->before[s->before_count++] = *block;
    s->before_bytes += block->bytes;
    return 0;
}

static int pair_events(Reading *r)
{
    TorchSnapshot *s = r->s;
    for (size_t i = 0; i < s->event_count; i++) {
        TorchEvent *e = &s->events[i];
        if (e->action != TORCH_ALLOC && e->action != TORCH_FREE)
            continue;
        size_t *owner = owner_of(r, e->address), alloc = *owner;
        *owner = e->action == TORCH_ALLOC ? i : TORCH_NONE;
        if (e->action == TORCH_ALLOC)
            continue;
        e->pair = alloc;
        TorchBefore block = {.address = e->address, .bytes = e->bytes, .stream = e->stream, .freed = i};
        /* The event's frames are those of the free. */
        if (alloc == TORCH_NONE && add_before(r, &block))
            return -1;
        if (alloc != TORCH_NONE) {
            s->events[alloc].pair = i;
            e->bytes = s->events[alloc].bytes;
        }
    }
    return 0;
}

/* ---- Segments -------------------------------------------------------------------------------- */

static uint64_t bytes_at(const Pickle *p, PickleValue dict, const char *key)
{
    int64_t bytes = report_pickle_integer(report_pickle_at(p, dict, key), 0);
    return bytes > 0 && bytes <= MOST_BYTES ? (uint64_t)bytes : 0;
}

/* A live block of the end; unless the trace has its alloc it was there before. */
static int read_block(Reading *r, PickleValue block, PickleValue segment)
{
    const Pickle *p = r->s->pickle;
    const char *state = report_pickle_text(p, report_pickle_at(p, block, "state"));
    if (strncmp(state, "active", 6) != 0)
        return 0;
    uint64_t requested = bytes_at(p, block, "requested_size");
    TorchBefore b = {.address = (uint64_t)report_pickle_integer(report_pickle_at(p, block, "address"), 0),
                     .bytes = requested ? requested : bytes_at(p, block, "size"),
                     .stream = (uint64_t)report_pickle_integer(report_pickle_at(p, segment, "stream"), 0),
                     .frames = report_pickle_get(p, block, r->frames),
                     .category = report_pickle_get(p, block, r->category),
                     .freed = TORCH_NONE};
    size_t *owner = owner_of(r, b.address);
    if (*owner != TORCH_NONE)
        return 0;
    *owner = r->s->event_count; /* once, should it come twice */
    return add_before(r, &b);
}

static size_t count_blocks(const Reading *r, PickleValue segments)
{
    const Pickle *p = r->s->pickle;
    size_t count = 0;
    for (size_t i = 0; i < report_pickle_count(p, segments); i++)
        count += report_pickle_count(p, report_pickle_at(p, report_pickle_item(p, segments, i), "blocks"));
    return count;
}

static int read_segment(Reading *r, PickleValue segment)
{
    TorchSnapshot *s = r->s;
    const Pickle *p = s->pickle;
    PickleValue blocks = report_pickle_at(p, segment, "blocks");
    if (device_of(p, segment) != s->device)
        return 0;
    s->segments++;
    s->reserved += bytes_at(p, segment, "total_size");
    s->allocated += bytes_at(p, segment, "allocated_size");
    s->requested += bytes_at(p, segment, "requested_size");
    for (size_t i = 0; i < report_pickle_count(p, blocks); i++)
        if (read_block(r, report_pickle_item(p, blocks, i), segment))
            return -1;
    return 0;
}

static int read_segments(Reading *r)
{
    TorchSnapshot *s = r->s;
    PickleValue segments = top(r, "segments");
    if (make_slots(r, count_blocks(r, segments)) || pair_events(r))
        return -1;
    for (size_t i = 0; i < report_pickle_count(s->pickle, segments); i++)
        if (read_segment(r, report_pickle_item(s->pickle, segments, i)))
            return -1;
    uint64_t added = 0, ended = 0;
    for (size_t i = 0; i < s->event_count; i++) {
        added += s->events[i].action == TORCH_SEGMENT_ADD ? s->events[i].bytes : 0;
        ended += s->events[i].action == TORCH_SEGMENT_END ? s->events[i].bytes : 0;
    }
    s->before_reserved = s->reserved + ended > added ? s->reserved + ended - added : 0;
    return 0;
}

/* ---- The whole ------------------------------------------------------------------------------- */

int report_torch_is_snapshot(const char *path)
{
    FILE *in = fopen(path, "rb");
    int first = in ? getc(in) : EOF, second = in ? getc(in) : EOF;
    if (in)
        fclose(in);
    return first == 0x80 && second >= 2 && second <= 5;
}

static int read_pickle(Reading *r)
{
    char why[256] = "";
    FILE *in = fopen(r->path, "rb");
    if (!in)
        return fail(r, "cannot be read: %s", strerror(errno));
    r->s->pickle = report_pickle_read(in, why, sizeof why);
    fclose(in);
    return r->s->pickle ? 0 : fail(r, "%s", why);
}

static int read_all(Reading *r)
{
    TorchSnapshot *s = r->s;
    if (read_pickle(r))
        return -1;
    if (report_pickle_type(top(r, "segments")) != PICKLE_LIST ||
        report_pickle_type(top(r, "device_traces")) != PICKLE_LIST)
        return fail(r, "it is a pickle, but no memory snapshot of PyTorch, which has 'segments' and "
                       "'device_traces'");
    s->settings = report_pickle_text(
        s->pickle, report_pickle_at(s->pickle, top(r, "allocator_settings"), "PYTORCH_CUDA_ALLOC_CONF"));
    find_keys(r);
    choose_device(r);
    return read_trace(r) || read_segments(r) ? -1 : 0;
}

int report_torch_read(const char *path, TorchSnapshot *snapshot, char *why, size_t why_size)
{
    Reading r = {.s = snapshot, .path = path, .why = why, .why_size = why_size};
    *snapshot = (TorchSnapshot){.settings = "", .first_oom = TORCH_NONE};
    int status = read_all(&r);
    memtrack_host_free(NULL, r.addresses, r.slot_count * sizeof *r.addresses);
    memtrack_host_free(NULL, r.owners, r.slot_count * sizeof *r.owners);
    return status;
}

void report_torch_free(TorchSnapshot *s)
{
    report_pickle_free(s->pickle);
    memtrack_host_free(NULL, s->events, s->event_capacity * sizeof *s->events);
    memtrack_host_free(NULL, s->before, s->before_capacity * sizeof *s->before);
    *s = (TorchSnapshot){.settings = "", .first_oom = TORCH_NONE};
}

/* ---- Moves ----------------------------------------------------------------------------------- */

TorchLevel report_torch_begin(const TorchSnapshot *s)
{
    return (TorchLevel){s->before_bytes, s->before_reserved};
}

void report_torch_apply(TorchLevel *level, const TorchEvent *e)
{
    level->requested += e->action == TORCH_ALLOC ? e->bytes : 0;
    level->requested -= e->action == TORCH_FREE ? e->bytes : 0;
    level->reserved += e->action == TORCH_SEGMENT_ADD ? e->bytes : 0;
    level->reserved -= e->action == TORCH_SEGMENT_END ? e->bytes : 0;
}

/* Blocks before the record are numbered first; those that are freed stand in the order of their frees. */
int report_torch_moves(const TorchSnapshot *s, int (*visit)(void *user, const TorchMove *move), void *user)
{
    size_t freed = 0;
    for (size_t i = 0; i < s->before_count; i++) {
        TorchMove move = {0, i + 1, s->before[i].bytes, s->before[i].stream, TORCH_NONE};
        int stop = visit(user, &move);
        if (stop)
            return stop;
    }
    for (size_t i = 0; i < s->event_count; i++) {
        const TorchEvent *e = &s->events[i];
        if (e->action != TORCH_ALLOC && e->action != TORCH_FREE)
            continue;
        size_t alloc = e->action == TORCH_ALLOC ? i : e->pair;
        TorchMove move = {e->action == TORCH_FREE, s->before_count + alloc + 1, e->bytes, e->stream, i};
        if (alloc == TORCH_NONE)
            move.serial = ++freed;
        int stop = visit(user, &move);
        if (stop)
            return stop;
    }
    return 0;
}
