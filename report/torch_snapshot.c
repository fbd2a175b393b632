/* The snapshot that PyTorch's memory viewer opens. The viewer pairs alloc with free_completed by address for
 * its timeline, and replays the trace backwards from the segments for its state history; so the trace begins
 * at byte 0, and the blocks of the one segment, the reservation, tile it exactly as the trace leaves them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "exports_.h"
#include "pickle_.h"

#define BASE UINT64_C(0x7f0000000000) /* an address that looks like one and is exact as a double */

/* Texts that come again and again; the number is that of the memo. */
#define TEXTS(X)                                                                                             \
    X(ACTION, "action")                                                                                      \
    X(ADDR, "addr")                                                                                          \
    X(SIZE, "size")                                                                                          \
    X(STREAM, "stream")                                                                                      \
    X(TIME_US, "time_us")                                                                                    \
    X(FRAMES, "frames")                                                                                      \
    X(COMPILE_CONTEXT, "compile_context")                                                                    \
    X(USER_METADATA, "user_metadata")                                                                        \
    X(CATEGORY, "category")                                                                                  \
    X(NAME, "name")                                                                                          \
    X(FILENAME, "filename")                                                                                  \
    X(LINE, "line")                                                                                          \
    X(ADDRESS, "address")                                                                                    \
    X(REQUESTED_SIZE, "requested_size")                                                                      \
    X(STATE, "state")                                                                                        \
    X(DEVICE, "device")                                                                                      \
    X(STAGE, "stage")                                                                                        \
    X(ALLOC, "alloc")                                                                                        \
    X(FREE_REQUESTED, "free_requested")                                                                      \
    X(FREE_COMPLETED, "free_completed")                                                                      \
    X(ACTIVE, "active_allocated")                                                                            \
    X(INACTIVE, "inactive")                                                                                  \
    X(NOT_APPLICABLE, "N/A")                                                                                 \
    X(UNKNOWN, "unknown")                                                                                    \
    X(OP, "op")                                                                                              \
    X(PLACE, "place")                                                                                        \
    X(START, "START")                                                                                        \
    X(END, "END")

typedef enum Text {
#define X(id, text) TEXT_##id,
    TEXTS(X)
#undef X
        TEXT_COUNT
} Text;

static const char *const texts[TEXT_COUNT] = {
#define X(id, text) [TEXT_##id] = text,
    TEXTS(X)
#undef X
};

typedef struct Snapshot {
    const RunRecord *run;
    FILE *out;
    uint8_t *kept; /* by memo number: 1 = is kept */
    size_t numbers;
} Snapshot;

/* ---- Texts and frames ------------------------------------------------------------------------ */

/* As UTF-8, which names of a log are because JSON is. */
static void plain_text(Snapshot *s, const char *text)
{
    pickle_text(s->out, text, strlen(text));
}

/* 1 when it was there already and is written; otherwise the caller writes it and keeps it. */
static int written_again(Snapshot *s, size_t number)
{
    if (s->kept[number])
        pickle_again(s->out, (uint32_t)number);
    return s->kept[number];
}

static void keep(Snapshot *s, size_t number)
{
    pickle_keep(s->out, (uint32_t)number);
    s->kept[number] = 1;
}

static void text(Snapshot *s, Text which)
{
    if (written_again(s, which))
        return;
    plain_text(s, texts[which]);
    keep(s, which);
}

static void text_entry(Snapshot *s, Text key, Text value)
{
    text(s, key);
    text(s, value);
}

static void integer_entry(Snapshot *s, Text key, uint64_t value)
{
    text(s, key);
    pickle_integer(s->out, value);
}

static void plain_entry(Snapshot *s, const char *key, uint64_t value)
{
    plain_text(s, key);
    pickle_integer(s->out, value);
}

static void component(Snapshot *s, uint8_t number)
{
    if (written_again(s, TEXT_COUNT + (size_t)number))
        return;
    plain_text(s, report_run_component(s->run, number));
    keep(s, TEXT_COUNT + (size_t)number);
}

static void frame(Snapshot *s, size_t number, Text kind, const char *name)
{
    if (written_again(s, number))
        return;
    pickle_dict_begin(s->out);
    text(s, TEXT_NAME);
    plain_text(s, name);
    text_entry(s, TEXT_FILENAME, kind);
    integer_entry(s, TEXT_LINE, 0);
    pickle_dict_end(s->out);
    keep(s, number);
}

static size_t within(int32_t number, size_t count)
{
    return (size_t)number < count ? (size_t)number : count; /* one more: unknown */
}

/* Innermost first: the op, then the place. Memo numbers: texts, components, ops, places. */
static void frames_entry(Snapshot *s, const RunEvent *e)
{
    const RunRecord *run = s->run;
    size_t first_op = TEXT_COUNT + UINT8_MAX + 1, first_place = first_op + run->ops.count + 1;
    text(s, TEXT_FRAMES);
    pickle_list_begin(s->out);
    if (e) {
        frame(s, first_op + within(e->op, run->ops.count), TEXT_OP, report_op_text_(run, e->op));
        frame(s, first_place + within(e->path, run->places.count), TEXT_PLACE,
              report_path_text_(run, e->path));
    }
    pickle_list_end(s->out);
}

/* ---- The trace ------------------------------------------------------------------------------- */

static void phase_text(Snapshot *s, int32_t step, uint8_t phase)
{
    char line[160];
    const char *name = report_run_phase(s->run, phase);
    if (strlen(name) > 100)
        name = "phase"; /* cut, it might not be UTF-8 */
    if (!strcmp(name, "setup"))
        snprintf(line, sizeof line, "set-up");
    else
        snprintf(line, sizeof line, "step %lld %s", (long long)step + 1, name);
    plain_text(s, line);
}

static void trace_entry(Snapshot *s, const RunEvent *e, Text action, uint8_t category)
{
    pickle_dict_begin(s->out);
    text_entry(s, TEXT_ACTION, action);
    integer_entry(s, TEXT_ADDR, BASE + report_run_address(s->run, e));
    integer_entry(s, TEXT_SIZE, e->bytes);
    integer_entry(s, TEXT_STREAM, 0);
    integer_entry(s, TEXT_TIME_US, e->time_us);
    frames_entry(s, e);
    text_entry(s, TEXT_COMPILE_CONTEXT, TEXT_NOT_APPLICABLE);
    text(s, TEXT_USER_METADATA);
    phase_text(s, e->step, e->phase);
    text(s, TEXT_CATEGORY);
    component(s, category);
    pickle_dict_end(s->out);
}

/* The reservation: it also is the event of category "unknown" without which stored versions of the viewer
 * stop. */
static void segment_event(Snapshot *s)
{
    pickle_dict_begin(s->out);
    text(s, TEXT_ACTION);
    plain_text(s, "segment_alloc");
    integer_entry(s, TEXT_ADDR, BASE);
    integer_entry(s, TEXT_SIZE, s->run->reserved);
    integer_entry(s, TEXT_STREAM, 0);
    integer_entry(s, TEXT_TIME_US, s->run->event_count ? s->run->events[0].time_us : 0);
    frames_entry(s, NULL);
    text_entry(s, TEXT_COMPILE_CONTEXT, TEXT_NOT_APPLICABLE);
    text(s, TEXT_USER_METADATA);
    plain_text(s, "");
    text_entry(s, TEXT_CATEGORY, TEXT_UNKNOWN);
    pickle_dict_end(s->out);
}

static void write_trace(Snapshot *s)
{
    size_t count = 1;
    pickle_list_begin(s->out);
    segment_event(s);
    for (size_t i = 0; i < s->run->event_count; i++) {
        const RunEvent *e = &s->run->events[i];
        if (e->kind != RUN_ALLOC) {
            trace_entry(s, e, TEXT_FREE_REQUESTED, e->from);
            pickle_list_item(s->out, ++count);
            trace_entry(s, e, TEXT_FREE_COMPLETED, e->from);
            pickle_list_item(s->out, ++count);
        }
        if (e->kind != RUN_FREE) {
            trace_entry(s, e, TEXT_ALLOC, e->component);
            pickle_list_item(s->out, ++count);
        }
    }
    pickle_list_end(s->out);
}

/* ---- The segment ----------------------------------------------------------------------------- */

typedef struct Live {
    uint64_t address;
    const RunEvent *made;
} Live;

static int by_address(const void *a, const void *b)
{
    uint64_t x = ((const Live *)a)->address, y = ((const Live *)b)->address;
    return (x > y) - (x < y);
}

static size_t find_live(const RunRecord *run, Live *live)
{
    size_t count = 0;
    for (size_t i = 0; i < run->block_count; i++)
        if (run->blocks[i].free == SIZE_MAX) {
            const RunEvent *made = &run->events[run->blocks[i].alloc];
            live[count++] = (Live){report_run_address(run, made), made};
        }
    qsort(live, count, sizeof *live, by_address);
    return count;
}

static void block(Snapshot *s, uint64_t address, uint64_t size, const RunEvent *made)
{
    pickle_dict_begin(s->out);
    integer_entry(s, TEXT_ADDRESS, BASE + address);
    integer_entry(s, TEXT_SIZE, size);
    integer_entry(s, TEXT_REQUESTED_SIZE, made ? made->requested : 0);
    text_entry(s, TEXT_STATE, made ? TEXT_ACTIVE : TEXT_INACTIVE);
    frames_entry(s, made);
    pickle_dict_end(s->out);
}

/* Live blocks and the gaps between them, from the segment's start to its end. */
static void write_blocks(Snapshot *s, const Live *live, size_t live_count)
{
    uint64_t at = 0;
    size_t count = 0;
    pickle_list_begin(s->out);
    for (size_t i = 0; i < live_count; i++) {
        if (live[i].address < at)
            continue; /* damaged: it lies over the one before */
        if (live[i].address > at) {
            block(s, at, live[i].address - at, NULL);
            pickle_list_item(s->out, ++count);
        }
        block(s, live[i].address, live[i].made->bytes, live[i].made);
        pickle_list_item(s->out, ++count);
        at = live[i].address + live[i].made->bytes;
    }
    if (at < s->run->reserved)
        block(s, at, s->run->reserved - at, NULL);
    pickle_list_end(s->out);
}

static void write_segments(Snapshot *s, const Live *live, size_t live_count)
{
    uint64_t bytes = 0, requested = 0;
    for (size_t i = 0; i < live_count; i++) {
        bytes += live[i].made->bytes;
        requested += live[i].made->requested;
    }
    pickle_list_begin(s->out);
    pickle_dict_begin(s->out);
    integer_entry(s, TEXT_DEVICE, 0);
    integer_entry(s, TEXT_ADDRESS, BASE);
    plain_entry(s, "total_size", s->run->reserved);
    plain_entry(s, "allocated_size", bytes);
    plain_entry(s, "active_size", bytes);
    integer_entry(s, TEXT_REQUESTED_SIZE, requested);
    integer_entry(s, TEXT_STREAM, 0);
    plain_text(s, "segment_type");
    plain_text(s, "large");
    plain_text(s, "segment_pool_id");
    pickle_bytes(s->out, "K\0K\0\x86", 5); /* the pair (0, 0) */
    plain_text(s, "is_expandable");
    pickle_bool(s->out, 0);
    frames_entry(s, NULL);
    plain_text(s, "blocks");
    write_blocks(s, live, live_count);
    pickle_dict_end(s->out);
    pickle_list_end(s->out);
}

/* ---- The whole ------------------------------------------------------------------------------- */

static void annotation(Snapshot *s, const RunSpan *span, Text stage, uint64_t time_us)
{
    pickle_dict_begin(s->out);
    text(s, TEXT_NAME);
    phase_text(s, span->step, span->phase);
    text_entry(s, TEXT_STAGE, stage);
    integer_entry(s, TEXT_DEVICE, 0);
    integer_entry(s, TEXT_TIME_US, time_us);
    pickle_dict_end(s->out);
}

static void write_annotations(Snapshot *s)
{
    size_t count = 0;
    pickle_list_begin(s->out);
    for (RunSpan span = {0}; report_span_next_(s->run, &span);) {
        annotation(s, &span, TEXT_START, span.begin_us);
        pickle_list_item(s->out, ++count);
        annotation(s, &span, TEXT_END, span.end_us);
        pickle_list_item(s->out, ++count);
    }
    pickle_list_end(s->out);
}

static void write_all(Snapshot *s, const Live *live, size_t live_count)
{
    pickle_begin(s->out);
    pickle_dict_begin(s->out);
    plain_text(s, "segments");
    write_segments(s, live, live_count);
    plain_text(s, "device_traces");
    pickle_list_begin(s->out);
    write_trace(s);
    pickle_list_end(s->out);
    plain_text(s, "allocator_settings");
    pickle_dict_begin(s->out);
    plain_text(s, "expandable_segments");
    pickle_bool(s->out, 0);
    pickle_dict_end(s->out);
    plain_text(s, "external_annotations");
    write_annotations(s);
    pickle_dict_end(s->out);
    pickle_end(s->out);
}

int report_torch_snapshot(const RunRecord *run, FILE *out)
{
    size_t numbers = TEXT_COUNT + UINT8_MAX + 1 + run->ops.count + 1 + run->places.count + 1;
    size_t live_bytes = run->block_count * sizeof(Live);
    Live *live = memtrack_host_alloc(NULL, live_bytes);
    Snapshot s = {run, out, memtrack_host_calloc(NULL, numbers), numbers};
    int status = live && s.kept ? 0 : -1;
    errno = status ? ENOMEM : 0;
    if (!status) {
        write_all(&s, live, find_live(run, live));
        status = report_finish_(out);
    }
    memtrack_host_free(NULL, s.kept, numbers);
    memtrack_host_free(NULL, live, live_bytes);
    return status;
}
