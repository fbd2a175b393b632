/* The log's events under the rules of PyTorch's allocator, as lines for the page. */
#include <inttypes.h>
#include <string.h>

#include "../report/html_.h"
#include "page_replay_.h"
#include "pytorch_allocator.h"

typedef struct EventReplay {
    PytorchReplay *replay;
    int64_t events, peak_event; /* so far; the first at which most bytes were asked for */
    uint64_t requested, reserved;
} EventReplay;

/* Columns by their names, so that a later format may add some. */
typedef struct Columns {
    size_t kind, serial, requested;
} Columns;

static size_t column(const json_t *names, const char *wanted)
{
    for (size_t i = 0; i < json_array_size(names); i++) {
        const char *name = json_string_value(json_array_get(names, i));
        if (name && !strcmp(name, wanted))
            return i;
    }
    return SIZE_MAX; /* no row is that long: every cell reads as 0 */
}

static uint64_t cell(const json_t *row, size_t at)
{
    json_int_t value = json_integer_value(json_array_get(row, at));
    return value > 0 ? (uint64_t)value : 0;
}

static int replay_begin(EventReplay *r)
{
    *r = (EventReplay){.replay = estimate_pytorch_create(NULL), .peak_event = -1};
    return r->replay ? 0 : -1;
}

static void *page_begin(void)
{
    EventReplay *r = memtrack_host_alloc(NULL, sizeof *r);
    if (r && replay_begin(r)) {
        memtrack_host_free(NULL, r, sizeof *r);
        r = NULL;
    }
    return r;
}

static void page_end(void *state)
{
    EventReplay *r = state;
    if (r)
        estimate_pytorch_destroy(r->replay);
    memtrack_host_free(NULL, r, sizeof *r);
}

/* One event; -1 without host memory. A re-tag moves nothing; an event that makes no sense is passed over. */
static int apply(EventReplay *r, const json_t *row, const Columns *c)
{
    uint64_t kind = cell(row, c->kind), serial = cell(row, c->serial);
    if (kind == MEM_EVENT_ALLOC && estimate_pytorch_alloc(r->replay, serial, cell(row, c->requested)) < 0)
        return -1;
    if (kind == MEM_EVENT_FREE)
        estimate_pytorch_free(r->replay, serial);
    const PytorchBooks *books = estimate_pytorch_books(r->replay);
    if (books->requested > r->requested) {
        r->requested = books->requested;
        r->peak_event = r->events;
    }
    r->events++;
    return 0;
}

static Columns columns_of(const json_t *events)
{
    const json_t *names = json_object_get(events, "columns");
    return (Columns){column(names, "kind"), column(names, "serial"), column(names, "requested")};
}

/* `allocated` after each event; `reserved` as [event, bytes] where it changes. */
static int page_events(void *state, const json_t *events, FILE *out)
{
    EventReplay *r = state;
    const json_t *rows = json_object_get(events, "rows");
    const PytorchBooks *books = estimate_pytorch_books(r->replay);
    Columns columns = columns_of(events);
    int64_t first = r->events;
    fprintf(out, "{\"kind\":\"pytorch\",\"from\":%" PRId64 ",\"allocated\":[", first);
    json_t *reserved = json_array();
    for (size_t i = 0; i < json_array_size(rows); i++) {
        if (apply(r, json_array_get(rows, i), &columns)) {
            json_decref(reserved);
            return -1;
        }
        fprintf(out, "%s%" PRIu64, i ? "," : "", books->allocated);
        if (books->reserved != r->reserved)
            json_array_append_new(reserved, json_pack("[I, I]", (json_int_t)r->events - 1,
                                                      (json_int_t)(r->reserved = books->reserved)));
    }
    fputs("],\"reserved\":", out);
    json_dumpf(reserved, out, JSON_COMPACT);
    fputs("}\n", out);
    json_decref(reserved);
    return 0;
}

/* ---- The moment of the peak ------------------------------------------------------------------ */

typedef struct SegmentWriter {
    FILE *out;
    uint64_t segment;
    int any;
} SegmentWriter;

static int write_block(void *user, const PytorchBlock *b)
{
    SegmentWriter *w = user;
    if (!w->any || b->segment != w->segment)
        fprintf(w->out, "%s[%d", w->any ? "]," : "", b->small);
    fprintf(w->out, ",[%" PRIu64 ",%" PRIu64 ",%" PRIu64 "]", b->bytes, b->requested, b->serial);
    w->segment = b->segment;
    w->any = 1;
    return 0;
}

/* Each as [small, [bytes, requested, serial], …]; a block of serial 0 is free. */
static void write_segments(const EventReplay *at_peak, FILE *out)
{
    SegmentWriter w = {.out = out};
    putc('[', out);
    estimate_pytorch_blocks(at_peak->replay, write_block, &w);
    fputs(w.any ? "]]" : "]", out);
}

/* Replays the events up to `last`, which included; -1 without host memory or when the log cannot be read. */
static int replay_until(EventReplay *r, Lines *lines, int64_t last)
{
    int failed = 0;
    for (json_t *line; r->events <= last && (line = lines_next_(lines, &failed));) {
        const json_t *rows = json_object_get(line, "rows");
        Columns columns = columns_of(line);
        int is_events = !strcmp(html_kind_(line), "events");
        for (size_t i = 0; is_events && i < json_array_size(rows) && r->events <= last && !failed; i++)
            failed = apply(r, json_array_get(rows, i), &columns) && lines_fail_memory_(lines);
        json_decref(line);
        if (failed)
            return -1;
    }
    return failed ? -1 : 0;
}

/* Reads the log once more up to the event with most bytes asked for: the peaks, and the segments of then. */
static int page_last(const void *state, Lines *lines, FILE *out)
{
    const EventReplay *r = state;
    const PytorchBooks *books = estimate_pytorch_books(r->replay);
    fprintf(out,
            "{\"kind\":\"pytorch_end\",\"peak_requested\":%" PRIu64 ",\"peak_allocated\":%" PRIu64
            ",\"peak_reserved\":%" PRIu64 ",\"small_segments\":%" PRIu64 ",\"large_segments\":%" PRIu64
            ",\"peak_event\":%" PRId64 ",\"segments\":",
            books->peak_requested, books->peak_allocated, books->peak_reserved, books->small_segments,
            books->large_segments, r->peak_event);
    EventReplay again;
    if (replay_begin(&again))
        return lines_fail_memory_(lines);
    Lines second = {.error = lines->error, .error_size = lines->error_size};
    int failed = lines_open_(&second, lines->path) || replay_until(&again, &second, r->peak_event);
    if (!failed)
        write_segments(&again, out);
    fputs("}\n", out);
    lines_close_(&second);
    estimate_pytorch_destroy(again.replay);
    return failed ? -1 : 0;
}

const PageReplay estimate_pytorch_page = {page_begin, page_events, page_last, page_end};
