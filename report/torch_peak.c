/* The moment of a snapshot with most bytes live: what is alive then, by kind and by place. */
#include <stdlib.h>
#include <string.h>

#include "../memtrack/memtrack.h"
#include "torch_snapshot_read.h"

/* ---- Frames ---------------------------------------------------------------------------------- */

int report_torch_frame(const TorchSnapshot *s, PickleValue frames, size_t i, TorchFrame *frame)
{
    const Pickle *p = s->pickle;
    PickleValue dict = report_pickle_item(p, frames, i);
    *frame = (TorchFrame){.name = report_pickle_text(p, report_pickle_at(p, dict, "name")),
                          .file = report_pickle_text(p, report_pickle_at(p, dict, "filename")),
                          .line = report_pickle_integer(report_pickle_at(p, dict, "line"), 0)};
    return report_pickle_type(dict) == PICKLE_DICT;
}

void report_torch_frame_text(const TorchFrame *frame, char *text, size_t size)
{
    const char *file = frame->file, *package = strstr(file, "-packages/"), *slash = strrchr(file, '/');
    if (package)
        file = package + strlen("-packages/");
    else if (slash)
        file = slash + 1;
    if (file[0] && strcmp(file, "??") && strcmp(file, "op") && strcmp(file, "place"))
        snprintf(text, size, "%s (%s:%lld)", frame->name, file, (long long)frame->line);
    else
        snprintf(text, size, "%s", frame->name);
}

int report_torch_frame_is_outer(const TorchFrame *frame)
{
    const char *dot = strrchr(frame->file, '.');
    return dot && !strcmp(dot, ".py") && !strstr(frame->file, "/torch/");
}

/* Autograd's threads have no Python, but with C++ frames the function whose backward it is:
 * "torch::autograd::generated::AddmmBackward0::apply(…)" is AddmmBackward0. */
static int backward_of(const TorchFrame *frame, char *text, size_t size)
{
    const char *word = strstr(frame->name, "Backward"), *from = word, *end = word;
    if (!word || !strstr(frame->name, "autograd"))
        return 0;
    while (from > frame->name && from[-1] != ':' && from[-1] != ' ')
        from--;
    while (*end && *end != ':' && *end != '(' && *end != '<')
        end++;
    snprintf(text, size, "%.*s", (int)(end - from), from);
    return 1;
}

void report_torch_place(const TorchSnapshot *s, PickleValue frames, char *text, size_t size)
{
    TorchFrame frame, python = {0};
    int backward = 0;
    snprintf(text, size, "without frames");
    for (size_t i = 0; report_torch_frame(s, frames, i, &frame); i++) {
        if (!strcmp(frame.file, "place") || report_torch_frame_is_outer(&frame)) {
            report_torch_frame_text(&frame, text, size);
            return;
        }
        if (!python.file && strstr(frame.file, ".py"))
            python = frame;
        backward = backward || (!python.file && backward_of(&frame, text, size));
        if (!backward && i == 0)
            snprintf(text, size, "in C++");
    }
    if (python.file)
        report_torch_frame_text(&python, text, size);
}

/* Annotations are in the order of their times; of those that are open the last that began. */
const char *report_torch_annotation(const TorchSnapshot *s, int64_t time_us)
{
    enum { MOST = 64 };
    const Pickle *p = s->pickle;
    PickleValue open[MOST], all = report_pickle_at(p, report_pickle_root(p), "external_annotations");
    size_t count = 0;
    for (size_t i = 0; i < report_pickle_count(p, all); i++) {
        PickleValue dict = report_pickle_item(p, all, i), name = report_pickle_at(p, dict, "name");
        if (report_pickle_integer(report_pickle_at(p, dict, "time_us"), 0) > time_us ||
            report_pickle_integer(report_pickle_at(p, dict, "device"), s->device) != s->device)
            continue;
        const char *stage = report_pickle_text(p, report_pickle_at(p, dict, "stage"));
        if (!strcmp(stage, "START") && count < MOST)
            open[count++] = name;
        for (size_t at = count; !strcmp(stage, "END") && at-- > 0;)
            if (open[at] == name) {
                memmove(open + at, open + at + 1, (--count - at) * sizeof *open);
                break;
            }
    }
    return count ? report_pickle_text(p, open[count - 1]) : "";
}

/* ---- What is alive --------------------------------------------------------------------------- */

static void find_peak(const TorchSnapshot *s, TorchPeak *peak)
{
    TorchLevel level = report_torch_begin(s);
    peak->event = TORCH_NONE;
    peak->level = level;
    peak->reserved = level.reserved;
    for (size_t i = 0; i < s->event_count; i++) {
        report_torch_apply(&level, &s->events[i]);
        if (level.reserved > peak->reserved)
            peak->reserved = level.reserved;
        if (level.requested > peak->level.requested) {
            peak->level = level;
            peak->event = i;
        }
    }
}

static int is_after(size_t event, size_t moment)
{
    return event == TORCH_NONE || moment == TORCH_NONE || event > moment;
}

/* Those at the peak: with list NULL only how many. */
static size_t collect(const TorchSnapshot *s, size_t moment, TorchLive *list)
{
    size_t count = 0, events = moment == TORCH_NONE ? 0 : moment + 1;
    for (size_t i = 0; i < s->before_count; i++) {
        const TorchBefore *b = &s->before[i];
        if (!is_after(b->freed, moment))
            continue;
        if (list)
            list[count] = (TorchLive){b->bytes, TORCH_NONE, b->frames, b->category};
        count++;
    }
    for (size_t i = 0; i < events; i++) {
        const TorchEvent *e = &s->events[i];
        if (e->action != TORCH_ALLOC || !is_after(e->pair, moment))
            continue;
        if (list)
            list[count] = (TorchLive){e->bytes, i, e->frames, e->category};
        count++;
    }
    return count;
}

static int largest_first(const void *a, const void *b)
{
    const TorchLive *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? 1 : -1;
    return (x->event + 1 > y->event + 1) - (x->event + 1 < y->event + 1); /* before the record first */
}

/* ---- Groups ---------------------------------------------------------------------------------- */

enum { NAME = 512 };

static int add_group(TorchGroups *groups, const char *name, uint64_t bytes, size_t blocks)
{
    if (groups->count == groups->capacity) {
        size_t wanted = groups->capacity ? 2 * groups->capacity : 16;
        TorchGroup *larger = memtrack_host_realloc(NULL, groups->items, groups->capacity * sizeof *larger,
                                                   wanted * sizeof *larger);
        if (!larger)
            return -1;
        groups->items = larger;
        groups->capacity = wanted;
    }
    char *copy = memtrack_host_strdup(NULL, name);
    if (!copy)
        return -1;
    groups->items[groups->count++] = (TorchGroup){copy, bytes, blocks};
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const TorchGroup *)a)->name, ((const TorchGroup *)b)->name);
}

static int most_bytes_first(const void *a, const void *b)
{
    const TorchGroup *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? 1 : -1;
    return by_name(a, b);
}

/* Those of one name become one. */
static void merge_groups(TorchGroups *groups)
{
    size_t kept = 0;
    if (groups->count)
        qsort(groups->items, groups->count, sizeof *groups->items, by_name);
    for (size_t i = 0; i < groups->count; i++) {
        TorchGroup *g = &groups->items[i], *last = kept ? &groups->items[kept - 1] : NULL;
        if (last && !strcmp(last->name, g->name)) {
            last->bytes += g->bytes;
            last->blocks += g->blocks;
            memtrack_host_free(NULL, g->name, strlen(g->name) + 1);
        } else
            groups->items[kept++] = *g;
    }
    groups->count = kept;
    if (kept)
        qsort(groups->items, kept, sizeof *groups->items, most_bytes_first);
}

/* Blocks with the same value, which is shared where the text or the stack is. */
typedef struct Same {
    PickleValue value;
    uint64_t bytes;
} Same;

static int by_value(const void *a, const void *b)
{
    PickleValue x = ((const Same *)a)->value, y = ((const Same *)b)->value;
    return (x > y) - (x < y);
}

static void kind_name(const TorchSnapshot *s, PickleValue category, char *text, size_t size)
{
    const char *name = report_pickle_text(s->pickle, category);
    snprintf(text, size, "%s", name[0] ? name : "unknown");
}

/* Sums of the blocks of the record, by what names their value. */
static int group(const TorchSnapshot *s, const TorchPeak *peak, Same *same, int by_place, TorchGroups *groups)
{
    char name[NAME];
    size_t count = 0;
    uint64_t before = 0;
    for (size_t i = 0; i < peak->live_count; i++) {
        const TorchLive *live = &peak->live[i];
        if (live->event == TORCH_NONE)
            before += live->bytes;
        else
            same[count++] = (Same){by_place ? live->frames : live->category, live->bytes};
    }
    if (before && add_group(groups, "before the record", before, peak->live_count - count))
        return -1;
    if (count)
        qsort(same, count, sizeof *same, by_value);
    for (size_t i = 0, first = 0; i < count; first = i) {
        uint64_t bytes = 0;
        for (; i < count && same[i].value == same[first].value; i++)
            bytes += same[i].bytes;
        if (by_place)
            report_torch_place(s, same[first].value, name, sizeof name);
        else
            kind_name(s, same[first].value, name, sizeof name);
        if (add_group(groups, name, bytes, i - first))
            return -1;
    }
    merge_groups(groups);
    return 0;
}

int report_torch_peak(const TorchSnapshot *s, TorchPeak *peak)
{
    *peak = (TorchPeak){0};
    find_peak(s, peak);
    size_t count = collect(s, peak->event, NULL);
    TorchLive *live = memtrack_host_alloc(NULL, count * sizeof *live + 1);
    Same *same = memtrack_host_alloc(NULL, count * sizeof *same + 1);
    int status = live && same ? 0 : -1;
    if (live && same) {
        peak->live_count = collect(s, peak->event, live);
        peak->live = live;
        if (count)
            qsort(live, count, sizeof *live, largest_first);
        status = group(s, peak, same, 0, &peak->kinds) || group(s, peak, same, 1, &peak->places) ? -1 : 0;
    } else
        memtrack_host_free(NULL, live, count * sizeof *live + 1);
    memtrack_host_free(NULL, same, count * sizeof *same + 1);
    return status;
}

static void free_groups(TorchGroups *groups)
{
    for (size_t i = 0; i < groups->count; i++)
        memtrack_host_free(NULL, groups->items[i].name, strlen(groups->items[i].name) + 1);
    memtrack_host_free(NULL, groups->items, groups->capacity * sizeof *groups->items);
}

void report_torch_peak_free(TorchPeak *peak)
{
    free_groups(&peak->kinds);
    free_groups(&peak->places);
    if (peak->live)
        memtrack_host_free(NULL, peak->live, peak->live_count * sizeof *peak->live + 1);
    *peak = (TorchPeak){0};
}
