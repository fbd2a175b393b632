/* Reading a run log line by line. Each kind of line is read on its own; what does not fit is counted and left
 * out, and what was counted becomes the notes. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "runlog_read_.h"

enum { CHUNK = 1 << 16, LONGEST_LINE = 1 << 24 };

/* ---- Growing --------------------------------------------------------------------------------- */

int report_run_room_(void **items, size_t *capacity, size_t count, size_t item_bytes)
{
    if (count < *capacity)
        return 0;
    size_t more = *capacity ? 2 * *capacity : 16;
    void *grown = memtrack_host_realloc(NULL, *items, *capacity * item_bytes, more * item_bytes);
    if (!grown)
        return -1;
    *items = grown;
    *capacity = more;
    return 0;
}

char *report_run_copy_(const char *text)
{
    return memtrack_host_strdup(NULL, text);
}

int report_run_add_name_(RunNames *names, const char *name)
{
    void *items = names->names;
    if (report_run_room_(&items, &names->capacity, names->count, sizeof *names->names))
        return -1;
    names->names = items;
    char *copy = report_run_copy_(name);
    if (!copy)
        return -1;
    names->names[names->count++] = copy;
    return 0;
}

/* ---- Lines of the file ----------------------------------------------------------------------- */

typedef struct Lines {
    FILE *file;
    char chunk[CHUNK];
    size_t at, length;
    ReportText line;
    int whole;    /* the line ended in a newline */
    int too_long; /* its end was left out */
} Lines;

/* 1 when there is another line. */
static int next_line(Lines *lines)
{
    int any = 0;
    report_text_clear_(&lines->line);
    lines->whole = lines->too_long = 0;
    while (!lines->whole) {
        if (lines->at == lines->length) {
            lines->at = 0;
            lines->length = fread(lines->chunk, 1, CHUNK, lines->file);
            if (lines->length == 0)
                break;
        }
        const char *from = lines->chunk + lines->at;
        size_t left = lines->length - lines->at;
        const char *newline = memchr(from, '\n', left);
        size_t count = newline ? (size_t)(newline - from) : left;
        any = 1;
        lines->whole = newline != NULL;
        lines->at += count + (newline != NULL);
        if (lines->line.length + count <= LONGEST_LINE)
            report_text_add_(&lines->line, from, count);
        else
            lines->too_long = 1;
    }
    return any;
}

/* ---- Kinds of lines -------------------------------------------------------------------------- */

/* Each with a line that is sound. */
typedef void (*LineReader)(RunReading *reading, const json_t *line);

static void read_table(RunReading *reading, RunNames *table, const json_t *line)
{
    uint64_t from;
    const json_t *names = json_object_get(line, "names");
    if (!report_run_number_(line, "from", &from) || from != table->count)
        return; /* those before them are lost, and their numbers would be others */
    for (size_t i = 0; i < json_array_size(names); i++) {
        const char *name = json_string_value(json_array_get(names, i));
        if (report_run_add_name_(table, name ? name : "unknown")) {
            reading->no_memory = 1;
            return;
        }
    }
}

static void read_places(RunReading *reading, const json_t *line)
{
    read_table(reading, &reading->run->places, line);
}

static void read_ops(RunReading *reading, const json_t *line)
{
    read_table(reading, &reading->run->ops, line);
}

static void read_events(RunReading *reading, const json_t *line)
{
    RunRecord *run = reading->run;
    const json_t *rows = json_object_get(line, "rows");
    size_t at[RUN_COLUMNS];
    if (report_line_columns_(line, at))
        return;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        void *items = run->events;
        RunEvent event;
        if (report_line_row_(json_array_get(rows, i), at, &event))
            continue;
        if (report_run_room_(&items, &run->event_capacity, run->event_count, sizeof *run->events)) {
            reading->no_memory = 1;
            return;
        }
        run->events = items;
        run->events[run->event_count++] = event;
    }
}

static void read_events_end(RunReading *reading, const json_t *line)
{
    reading->run->events_ended = 1;
    reading->run->events_complete = json_is_true(json_object_get(line, "complete"));
}

static void read_outline(RunReading *reading, const json_t *line)
{
    RunRecord *run = reading->run;
    const json_t *live = json_object_get(line, "live");
    for (size_t i = 0; i < json_array_size(live); i++) {
        void *items = run->outline;
        json_int_t number = json_integer_value(json_array_get(live, i));
        if (report_run_room_(&items, &run->outline_capacity, run->outline_count, sizeof *run->outline)) {
            reading->no_memory = 1;
            return;
        }
        run->outline = items;
        run->outline[run->outline_count++] = (uint64_t)number;
    }
}

static void read_step(RunReading *reading, const json_t *line)
{
    RunRecord *run = reading->run;
    RunStep step = {.loss = report_run_real_(line, "loss"),
                    .lr = report_run_real_(line, "lr"),
                    .seconds = report_run_real_(line, "seconds")};
    uint64_t number = 0, tokens = 0, skipped = 0;
    const json_t *components = json_object_get(line, "components_at_peak");
    void *items = run->steps;
    report_run_number_(line, "step", &number);
    report_run_number_(line, "peak_bytes", &step.peak_bytes);
    report_run_number_(line, "tokens", &tokens);
    report_run_number_(line, "live_bytes", &step.live_bytes);
    step.step = (int64_t)number;
    step.tokens = (int64_t)tokens;
    report_run_number_(line, "skipped", &skipped);
    step.skipped = skipped != 0;
    for (size_t i = 0; i < run->components.count; i++)
        report_run_number_(components, run->components.names[i], &step.at_peak[i]);
    if (report_run_room_(&items, &run->step_capacity, run->step_count, sizeof *run->steps)) {
        reading->no_memory = 1;
        return;
    }
    run->steps = items;
    run->steps[run->step_count++] = step;
}

static void read_validation(RunReading *reading, const json_t *line)
{
    RunRecord *run = reading->run;
    RunValidation validation = {
        .loss = report_run_real_(line, "loss"), .accuracy = -1, .seconds = report_run_real_(line, "seconds")};
    uint64_t number = 0;
    void *items = run->validations;
    report_run_number_(line, "step", &number);
    validation.step = (int64_t)number;
    if (json_is_number(json_object_get(line, "accuracy")))
        validation.accuracy = report_run_real_(line, "accuracy");
    if (report_run_room_(&items, &run->validation_capacity, run->validation_count,
                         sizeof *run->validations)) {
        reading->no_memory = 1;
        return;
    }
    run->validations = items;
    run->validations[run->validation_count++] = validation;
}

static void read_end(RunReading *reading, const json_t *line)
{
    RunRecord *run = reading->run;
    const char *status = json_string_value(json_object_get(line, "status"));
    const char *error = json_string_value(json_object_get(line, "error"));
    const json_t *memory = json_object_get(line, "memory");
    uint64_t steps = 0;
    report_run_number_(line, "steps", &steps);
    run->end = (RunEnd){.present = 1,
                        .failed = strcmp(status, "done") != 0,
                        .error = report_run_copy_(error ? error : ""),
                        .steps = (int64_t)steps,
                        .seconds = report_run_real_(line, "seconds"),
                        .loss_first = report_run_real_(line, "loss_first"),
                        .loss_last = report_run_real_(line, "loss_last")};
    if (!run->end.error || report_run_memory_(run, memory, &run->end.memory) ||
        report_run_memory_(run, json_object_get(memory, "planned"), &run->end.planned))
        reading->no_memory = 1;
}

static const struct {
    const char *kind;
    LineReader read;
} kinds[] = {
    {"places", read_places},         {"ops", read_ops},         {"events", read_events},
    {"events_end", read_events_end}, {"outline", read_outline}, {"step", read_step},
    {"validation", read_validation}, {"end", read_end},
};

/* What belongs to another run, or stands behind the end, is left out. */
static void read_one(RunReading *reading, const json_t *line)
{
    const char *kind = json_string_value(json_object_get(line, "kind"));
    for (size_t i = 0; kind && i < sizeof kinds / sizeof kinds[0]; i++)
        if (!strcmp(kind, kinds[i].kind))
            kinds[i].read(reading, line);
}

/* ---- The file -------------------------------------------------------------------------------- */

static int is_blank(const ReportText *line)
{
    return line->length == 0 || strspn(line->text, " \t\r") == line->length;
}

static json_t *parse(const Lines *lines)
{
    return lines->too_long || !lines->line.length
               ? NULL
               : json_loadb(lines->line.text, lines->line.length, JSON_REJECT_DUPLICATES, NULL);
}

static int read_header(RunReading *reading, const Lines *lines, char *why, size_t why_size)
{
    json_t *line = parse(lines);
    int status = 0;
    if (!line && !lines->whole)
        reading->line = 0; /* it is cut off */
    else
        status = report_run_header_(reading, line, why, why_size);
    if (line && !status)
        report_cross_begin_(&reading->cross, line);
    json_decref(line);
    return status;
}

/* Returns 1 where another run begins. */
static int read_further(RunReading *reading, const Lines *lines)
{
    json_t *line = parse(lines);
    int sound = json_is_object(line) && !report_line_check_(line), ended = reading->cross.has_end;
    int other = 0;
    if (!sound && !lines->whole)
        reading->cross.cut_off = 1;
    else
        other = report_cross_line_(&reading->cross, sound ? line : NULL, reading->line);
    if (sound && !other && !ended)
        read_one(reading, line);
    json_decref(line);
    return other;
}

static int read_lines(RunReading *reading, Lines *lines, char *why, size_t why_size)
{
    int other = 0;
    while (!other && !reading->no_memory && next_line(lines)) {
        reading->line++;
        if (lines->line.failed)
            reading->no_memory = 1;
        else if (reading->line == 1 && read_header(reading, lines, why, why_size))
            return -1;
        else if (reading->line > 1 && (lines->too_long || !is_blank(&lines->line)))
            other = read_further(reading, lines);
    }
    if (reading->line == 0) {
        snprintf(why, why_size, "%s: %s", reading->run->path,
                 reading->no_memory ? "out of host memory"
                                    : "the file is empty, or breaks off in its first line");
        return -1;
    }
    return 0;
}

static int add_note(void *user, const char *note)
{
    RunReading *reading = user;
    if (report_run_add_name_(&reading->run->notes, note))
        reading->no_memory = 1;
    return reading->no_memory;
}

static void write_notes(RunReading *reading)
{
    const RunRecord *run = reading->run;
    char note[160];
    report_cross_notes_(&reading->cross, add_note, reading);
    snprintf(note, sizeof note, "Events left out because they contradict those before them: %lld.",
             (long long)reading->contradictions);
    if (reading->contradictions)
        add_note(reading, note);
    snprintf(note, sizeof note, "The %lld events end before the second step does.",
             (long long)run->event_count);
    if (!run->event_count)
        add_note(reading, "There are no events.");
    else if (!run->events_ended || !run->events_complete)
        add_note(reading, note);
}

int report_run_read(const char *path, RunRecord *run, char *why, size_t why_size)
{
    memset(run, 0, sizeof *run);
    RunReading reading = {.run = run};
    Lines *lines = memtrack_host_calloc(NULL, sizeof *lines);
    run->path = report_run_copy_(path);
    int status = lines && run->path ? 0 : -1;
    snprintf(why, why_size, "%s: out of host memory", path);
    if (!status && !(lines->file = fopen(path, "r"))) {
        snprintf(why, why_size, "cannot read %s: %s", path, strerror(errno));
        status = -1;
    }
    if (!status) {
        status = read_lines(&reading, lines, why, why_size);
        if (ferror(lines->file)) {
            snprintf(why, why_size, "cannot read %s: %s", path, strerror(errno));
            status = -1;
        }
        fclose(lines->file);
    }
    if (!status && (reading.no_memory || report_run_check_(&reading))) {
        snprintf(why, why_size, "%s: out of host memory", path);
        status = -1;
    }
    if (!status)
        write_notes(&reading);
    if (lines)
        report_text_free_(&lines->line);
    memtrack_host_free(NULL, lines, sizeof *lines);
    if (status || reading.no_memory) {
        report_run_free(run);
        return -1;
    }
    why[0] = '\0';
    return 0;
}

/* ---- Freeing and names ----------------------------------------------------------------------- */

static void free_names(RunNames *names)
{
    for (size_t i = 0; i < names->count; i++)
        memtrack_host_free(NULL, names->names[i], strlen(names->names[i]) + 1);
    memtrack_host_free(NULL, names->names, names->capacity * sizeof *names->names);
}

void report_run_free(RunRecord *run)
{
    char *texts[] = {run->path, run->brim, run->model, run->family, run->command, run->end.error};
    RunNames *tables[] = {&run->option_names, &run->option_values, &run->components, &run->groups,
                          &run->phases,       &run->places,        &run->ops,        &run->notes};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (texts[i])
            memtrack_host_free(NULL, texts[i], strlen(texts[i]) + 1);
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++)
        free_names(tables[i]);
    report_run_memory_free_(&run->plan);
    report_run_memory_free_(&run->end.memory);
    report_run_memory_free_(&run->end.planned);
    memtrack_host_free(NULL, run->events, run->event_capacity * sizeof *run->events);
    memtrack_host_free(NULL, run->blocks, run->block_capacity * sizeof *run->blocks);
    memtrack_host_free(NULL, run->outline, run->outline_capacity * sizeof *run->outline);
    memtrack_host_free(NULL, run->steps, run->step_capacity * sizeof *run->steps);
    memtrack_host_free(NULL, run->validations, run->validation_capacity * sizeof *run->validations);
    memset(run, 0, sizeof *run);
}

static const char *name_at(const RunNames *names, int64_t i)
{
    return i >= 0 && (size_t)i < names->count ? names->names[i] : "unknown";
}

const char *report_run_path(const RunRecord *run, int64_t path)
{
    return name_at(&run->places, path);
}

const char *report_run_op(const RunRecord *run, int64_t op)
{
    return name_at(&run->ops, op);
}

const char *report_run_component(const RunRecord *run, int64_t component)
{
    return name_at(&run->components, component);
}

const char *report_run_phase(const RunRecord *run, int64_t phase)
{
    return name_at(&run->phases, phase);
}

uint64_t report_run_address(const RunRecord *run, const RunEvent *event)
{
    return event->end ? run->reserved - event->offset - event->bytes : event->offset;
}
