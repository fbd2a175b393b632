/* brim report of a memory snapshot of PyTorch: its peak, what is alive then, and how memory went. */
#include <inttypes.h>
#include <string.h>

#include "../base/plural_.h"
#include "../base/printable_.h"
#include "../estimate/pytorch_allocator.h"
#include "../report/torch_snapshot_read.h"
#include "cli.h"
#include "report_.h"

enum {
    LABEL = 26,
    COLUMN = 18,
    GROUPS = 12,   /* places shown */
    LARGEST = 10,  /* blocks shown */
    OUTER = 3,     /* frames of a block */
    ROWS = 20,     /* of the timeline */
    BAR = 40,      /* columns */
    POINTS = 512,  /* of the timeline in JSON */
    JSON_MOST = 50 /* blocks and places in JSON */
};

/* What the rules of the allocator make of the same moves. */
typedef struct Replayed {
    PytorchReplay *replay;
    size_t peak_event;
    uint64_t allocated_at_peak, reserved_at_peak, peak_reserved;
    int complete; /* 1: it follows the whole record, from byte 0 */
} Replayed;

typedef struct Shown {
    const char *path;
    TorchSnapshot *snapshot;
    TorchPeak peak;
    Replayed replayed;
} Shown;

/* ---- The replay ------------------------------------------------------------------------------ */

static int replay_move(void *user, const TorchMove *move)
{
    Replayed *r = user;
    int status = move->is_free
                     ? estimate_pytorch_free(r->replay, move->serial)
                     : estimate_pytorch_alloc_on(r->replay, move->stream, move->serial, move->bytes);
    if (move->event == r->peak_event) {
        r->allocated_at_peak = estimate_pytorch_books(r->replay)->allocated;
        r->reserved_at_peak = estimate_pytorch_books(r->replay)->reserved;
    }
    return status;
}

/* Only of a record that begins with nothing live, and whose settings are replayed. */
static Replayed replay(const TorchSnapshot *s, const TorchPeak *peak)
{
    Replayed r = {.peak_event = peak->event};
    PytorchAllocatorOptions options = {0};
    if (s->before_count || s->before_reserved || !s->event_count || peak->event == TORCH_NONE ||
        estimate_pytorch_settings(s->settings, &options, NULL, 0))
        return r;
    r.replay = estimate_pytorch_create(&options);
    r.complete = r.replay && report_torch_moves(s, replay_move, &r) == 0;
    if (r.replay)
        r.peak_reserved = estimate_pytorch_books(r.replay)->peak_reserved;
    estimate_pytorch_destroy(r.replay);
    r.replay = NULL;
    return r;
}

/* ---- Text ------------------------------------------------------------------------------------ */

static const char *clean(char *text)
{
    make_printable(text);
    return text;
}

static double seconds_at(const TorchSnapshot *s, size_t event)
{
    return event == TORCH_NONE ? 0 : (double)(s->events[event].time_us - s->events[0].time_us) * 1e-6;
}

static void print_head(const Shown *shown)
{
    const TorchSnapshot *s = shown->snapshot;
    char settings[200];
    snprintf(settings, sizeof settings, "%s", s->settings[0] ? s->settings : "PyTorch's defaults");
    printf("A memory snapshot of PyTorch: %s event%s of device %d",
           report_count((int64_t)s->event_count).text, plural((long long)s->event_count), s->device);
    if (s->devices > 1)
        printf(", the longest of %d", s->devices);
    if (s->event_count)
        printf(", in %.1f s", seconds_at(s, s->event_count - 1));
    printf("\n%zu segment%s at the end; allocator settings: %s\n", s->segments,
           plural((long long)s->segments), clean(settings));
    if (s->event_count && (s->before_count || s->before_reserved))
        printf("The record begins with memory in use; what was before, the snapshot does not say.\n");
}

static void print_level(const char *label, const uint64_t *requested, const uint64_t *allocated,
                        const uint64_t *reserved)
{
    const uint64_t *const cells[] = {requested, allocated, reserved};
    printf("%-*s", LABEL, label);
    for (int i = 0; i < 3; i++)
        printf("%*s", COLUMN, cells[i] ? report_count((int64_t)*cells[i]).text : "-");
    printf("\n");
}

static void print_levels(const Shown *shown)
{
    const TorchSnapshot *s = shown->snapshot;
    const TorchPeak *peak = &shown->peak;
    const Replayed *r = &shown->replayed;
    printf("\n%-*s%*s%*s%*s\n", LABEL, "bytes", COLUMN, "requested", COLUMN, "allocated", COLUMN, "reserved");
    if (s->before_count || s->before_reserved)
        print_level("before the record", &s->before_bytes, NULL, &s->before_reserved);
    if (s->event_count)
        print_level("at the peak", &peak->level.requested, r->complete ? &r->allocated_at_peak : NULL,
                    &peak->level.reserved);
    print_level("at the end", &s->requested, &s->allocated, &s->reserved);
    if (s->event_count)
        print_level("most reserved", NULL, NULL, &peak->reserved);
    if (r->complete)
        print_level("by the allocator's rules", NULL, NULL, &r->peak_reserved);
}

static void print_peak(const Shown *shown)
{
    const TorchSnapshot *s = shown->snapshot;
    size_t event = shown->peak.event;
    char text[300];
    if (event == TORCH_NONE) {
        printf("%s", s->event_count ? "peak: before the record\n" : "");
        return;
    }
    const TorchEvent *e = &s->events[event];
    printf("peak: event %s, after %.3f s", report_count((int64_t)event + 1).text, seconds_at(s, event));
    const char *annotation = report_torch_annotation(s, e->time_us);
    const char *metadata = report_pickle_text(s->pickle, e->metadata);
    if (!strcmp(metadata, annotation)) /* brim's own snapshots say it twice */
        metadata = "";
    snprintf(text, sizeof text, "%s%s%s%s", annotation[0] ? ", " : "", annotation, metadata[0] ? ", " : "",
             metadata);
    printf("%s, ", clean(text));
    report_torch_place(s, e->frames, text, sizeof text);
    printf("%s\n", clean(text));
}

static void print_ooms(const TorchSnapshot *s)
{
    if (!s->ooms)
        return;
    const TorchEvent *e = &s->events[s->first_oom];
    printf("Out of memory %" PRIu64 " time%s, first at event %s: %s bytes asked for", s->ooms,
           plural((long long)s->ooms), report_count((int64_t)s->first_oom + 1).text,
           report_count((int64_t)e->bytes).text);
    printf(", %s free on the card\n", report_count((int64_t)e->address).text);
}

static void print_groups(const Shown *shown, const char *heading, const TorchGroups *groups)
{
    double peak = (double)shown->peak.level.requested;
    uint64_t left = 0;
    printf("\n%*s%9s%10s  %s\n", COLUMN, "bytes", "share", "blocks", heading);
    for (size_t i = 0; i < groups->count; i++) {
        TorchGroup *g = &groups->items[i];
        if (i < GROUPS)
            printf("%*s%7.1f %%%10s  %s\n", COLUMN, report_count((int64_t)g->bytes).text,
                   peak > 0 ? 100 * (double)g->bytes / peak : 0, report_count((int64_t)g->blocks).text,
                   clean(g->name));
        else
            left += g->bytes;
    }
    if (groups->count > GROUPS)
        printf("%*s%7.1f %%%10s  %s others\n", COLUMN, report_count((int64_t)left).text,
               peak > 0 ? 100 * (double)left / peak : 0, "",
               report_count((int64_t)(groups->count - GROUPS)).text);
}

/* The place, and from where it was called. */
static void block_frames(const TorchSnapshot *s, PickleValue frames, char *text, size_t size)
{
    TorchFrame frame;
    char line[300];
    int outer = 0;
    report_torch_place(s, frames, text, size);
    for (size_t i = 0; report_torch_frame(s, frames, i, &frame) && outer < OUTER; i++) {
        size_t length = strlen(text);
        if (!report_torch_frame_is_outer(&frame))
            continue;
        report_torch_frame_text(&frame, line, sizeof line);
        if (outer++)
            snprintf(text + length, size - length, " < %s", line);
    }
}

static void print_largest(const Shown *shown)
{
    const TorchSnapshot *s = shown->snapshot;
    size_t count = shown->peak.live_count < LARGEST ? shown->peak.live_count : LARGEST;
    char text[1000];
    if (!count)
        return;
    printf("\n%*s%10s  the largest blocks at the peak\n", COLUMN, "bytes", "event");
    for (size_t i = 0; i < count; i++) {
        const TorchLive *live = &shown->peak.live[i];
        block_frames(s, live->frames, text, sizeof text);
        printf("%*s%10s  %s\n", COLUMN, report_count((int64_t)live->bytes).text,
               live->event == TORCH_NONE ? "before" : report_count((int64_t)live->event + 1).text,
               clean(text));
    }
}

/* ---- The timeline ---------------------------------------------------------------------------- */

typedef struct Point {
    size_t event;                 /* the first of the row */
    uint64_t requested, reserved; /* the most in it */
} Point;

/* Of `most` rows at most, of as many events each. */
static size_t timeline(const TorchSnapshot *s, Point *points, size_t most)
{
    size_t each = (s->event_count + most - 1) / most, count = 0;
    TorchLevel level = report_torch_begin(s);
    for (size_t i = 0; i < s->event_count; i++) {
        report_torch_apply(&level, &s->events[i]);
        if (i % each == 0)
            points[count++] = (Point){.event = i};
        Point *point = &points[count - 1];
        if (level.requested > point->requested)
            point->requested = level.requested;
        if (level.reserved > point->reserved)
            point->reserved = level.reserved;
    }
    return count;
}

static void print_timeline(const Shown *shown)
{
    const TorchSnapshot *s = shown->snapshot;
    const TorchPeak *peak = &shown->peak;
    uint64_t most = peak->reserved > peak->level.requested ? peak->reserved : peak->level.requested;
    Point points[ROWS];
    size_t count = timeline(s, points, ROWS);
    if (!count || !most)
        return;
    ReportUnit unit = report_unit(most);
    printf("\n%10s%10s%12s%12s  %s: # live, - reserved\n", "event", "seconds", "live", "reserved", unit.name);
    for (size_t i = 0; i < count; i++) {
        const Point *point = &points[i];
        int live = (int)((double)point->requested / (double)most * BAR);
        int reserved = (int)((double)point->reserved / (double)most * BAR);
        printf("%10s%10.3f%12.*f%12.*f  ", report_count((int64_t)point->event + 1).text,
               seconds_at(s, point->event), unit.decimals, (double)point->requested / unit.bytes,
               unit.decimals, (double)point->reserved / unit.bytes);
        for (int at = 0; at < live || at < reserved; at++)
            putchar(at < live ? '#' : '-');
        putchar('\n');
    }
}

static void print_snapshot(const Shown *shown)
{
    print_head(shown);
    print_levels(shown);
    print_peak(shown);
    print_ooms(shown->snapshot);
    if (shown->peak.live_count) {
        print_groups(shown, "alive at the peak, by kind", &shown->peak.kinds);
        print_groups(shown, "by place", &shown->peak.places);
    }
    print_largest(shown);
    print_timeline(shown);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *event_number(size_t event)
{
    return event == TORCH_NONE ? json_null() : number(event + 1); /* from 1, as in the text */
}

static json_t *groups_json(const TorchGroups *groups, size_t most)
{
    json_t *list = json_array();
    for (size_t i = 0; i < groups->count && i < most; i++)
        json_array_append_new(list, json_pack("{s:o, s:o, s:o}", "name", json_text(groups->items[i].name),
                                              "bytes", number(groups->items[i].bytes), "blocks",
                                              number(groups->items[i].blocks)));
    return list;
}

static json_t *frames_json(const TorchSnapshot *s, PickleValue frames)
{
    json_t *list = json_array();
    TorchFrame frame;
    for (size_t i = 0; i < JSON_MOST && report_torch_frame(s, frames, i, &frame); i++)
        json_array_append_new(list, json_pack("{s:o, s:o, s:I}", "name", json_text(frame.name), "filename",
                                              json_text(frame.file), "line", (json_int_t)frame.line));
    return list;
}

static json_t *largest_json(const Shown *shown)
{
    json_t *list = json_array();
    for (size_t i = 0; i < shown->peak.live_count && i < JSON_MOST; i++) {
        const TorchLive *live = &shown->peak.live[i];
        json_array_append_new(list, json_pack("{s:o, s:o, s:o}", "bytes", number(live->bytes), "event",
                                              event_number(live->event), "frames",
                                              frames_json(shown->snapshot, live->frames)));
    }
    return list;
}

static json_t *timeline_json(const TorchSnapshot *s)
{
    json_t *list = json_array();
    Point points[POINTS];
    size_t count = timeline(s, points, POINTS);
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_pack("[o, f, o, o]", event_number(points[i].event),
                                              seconds_at(s, points[i].event), number(points[i].requested),
                                              number(points[i].reserved)));
    return list;
}

static json_t *peak_json(const Shown *shown)
{
    const TorchSnapshot *s = shown->snapshot;
    const TorchPeak *peak = &shown->peak;
    const Replayed *r = &shown->replayed;
    const char *annotation =
        peak->event == TORCH_NONE ? "" : report_torch_annotation(s, s->events[peak->event].time_us);
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:f, s:o}", "event", event_number(peak->event),
                     "requested_bytes", number(peak->level.requested), "allocated_bytes",
                     r->complete ? number(r->allocated_at_peak) : json_null(), "reserved_bytes",
                     number(peak->level.reserved), "most_reserved_bytes", number(peak->reserved), "seconds",
                     seconds_at(s, peak->event), "annotation", json_text(annotation));
}

static void print_json(const Shown *shown, json_t *predicted)
{
    const TorchSnapshot *s = shown->snapshot;
    const TorchPeak *peak = &shown->peak;
    json_t *root = json_object(), *snapshot = json_object();
    json_object_set_new(root, "snapshot", snapshot);
    json_object_set_new(snapshot, "path", json_text(shown->path));
    json_object_set_new(snapshot, "device", json_integer(s->device));
    json_object_set_new(snapshot, "devices", json_integer(s->devices));
    json_object_set_new(snapshot, "settings", json_text(s->settings));
    json_object_set_new(snapshot, "events", number(s->event_count));
    json_object_set_new(snapshot, "out_of_memory", number(s->ooms));
    json_object_set_new(snapshot, "before",
                        json_pack("{s:o, s:o, s:o}", "blocks", number(s->before_count), "requested_bytes",
                                  number(s->before_bytes), "reserved_bytes", number(s->before_reserved)));
    json_object_set_new(snapshot, "peak", peak_json(shown));
    json_object_set_new(snapshot, "end",
                        json_pack("{s:o, s:o, s:o, s:o}", "segments", number(s->segments), "requested_bytes",
                                  number(s->requested), "allocated_bytes", number(s->allocated),
                                  "reserved_bytes", number(s->reserved)));
    json_object_set_new(snapshot, "rules_reserved_bytes",
                        shown->replayed.complete ? number(shown->replayed.peak_reserved) : json_null());
    json_object_set_new(snapshot, "kinds", groups_json(&peak->kinds, JSON_MOST));
    json_object_set_new(snapshot, "places", groups_json(&peak->places, JSON_MOST));
    json_object_set_new(snapshot, "largest", largest_json(shown));
    json_object_set_new(snapshot, "timeline", timeline_json(s));
    if (predicted)
        json_object_set_new(root, "predicted", predicted);
    json_print(root);
}

/* ---- The command ----------------------------------------------------------------------------- */

int report_snapshot(const char *path, int json, const PytorchJob *job)
{
    TorchSnapshot snapshot;
    Shown shown = {.path = path, .snapshot = &snapshot};
    char why[512];
    if (report_torch_read(path, &snapshot, why, sizeof why)) {
        complain("%s", why);
        report_torch_free(&snapshot);
        return EXIT_NO;
    }
    json_t *beside = NULL;
    int failed = report_torch_peak(&snapshot, &shown.peak);
    if (!failed && job && json)
        failed = report_predict(&snapshot, job, &beside);
    if (!failed) {
        shown.replayed = replay(&snapshot, &shown.peak);
        if (json)
            print_json(&shown, beside);
        else
            print_snapshot(&shown);
        if (job && !json)
            failed = report_predict(&snapshot, job, NULL);
    }
    if (failed)
        complain("%s: out of host memory", path);
    report_torch_peak_free(&shown.peak);
    report_torch_free(&snapshot);
    return failed ? EXIT_NO : EXIT_DONE;
}
