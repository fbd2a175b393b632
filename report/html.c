/* The report page: a template with the style, the script and the logs put where it says so. Of a log the
 * lines go in as they are, made safe inside a <script> element, except that the lines of steps become one
 * table, and that what another allocator would have made of the events is added. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "html_.h"

/* ---- One log --------------------------------------------------------------------------------- */

static int is_run(const json_t *object)
{
    return !strcmp(html_kind_(object), "run") && json_integer_value(json_object_get(object, "format")) == 1;
}

json_t *html_read_run_(Lines *lines)
{
    int failed;
    json_t *run = lines_next_(lines, &failed);
    if (run && is_run(run)) {
        report_cross_begin_(&lines->cross, run);
        return run;
    }
    if (!failed && !lines->started)
        lines_fail_(lines, "%s is empty, so not a run log (`brim train --log FILE` writes one)", lines->path);
    else if (!failed)
        lines_fail_(lines,
                    "%s is not a run log: its first line is not {\"kind\":\"run\",\"format\":1,...} "
                    "(`brim train --log FILE` writes one)",
                    lines->path);
    json_decref(run);
    return NULL;
}

void html_copy_line_(const Lines *lines, FILE *out)
{
    html_write_json_(out, lines->line, lines->length);
    putc('\n', out);
}

static int copy_lines(Lines *lines, StepTable *steps, const PageReplay *replay, void *state, FILE *out)
{
    static const char *const copied[] = {"places",  "ops",        "events", "events_end",
                                         "outline", "validation", "end"};
    int failed = 0;
    for (json_t *line; !failed && (line = lines_next_(lines, &failed)); json_decref(line)) {
        const char *kind = html_kind_(line);
        if (!strcmp(kind, "step"))
            steps_add_(steps, line);
        for (size_t i = 0; i < sizeof copied / sizeof copied[0]; i++)
            if (!strcmp(kind, copied[i]))
                html_copy_line_(lines, out);
        if (state && !strcmp(kind, "events") && replay->events(state, line, out))
            failed = lines_fail_memory_(lines);
    }
    return failed ? -1 : 0;
}

static int write_log(Lines *lines, json_t *run, const PageReplay *replay, FILE *out)
{
    StepTable steps;
    void *state = NULL;
    html_copy_line_(lines, out);
    int failed = 0;
    if (steps_begin_(&steps, run) || (replay && !(state = replay->begin())))
        failed = lines_fail_memory_(lines);
    if (!failed)
        failed = copy_lines(lines, &steps, replay, state, out);
    if (!failed) {
        steps_write_(&steps, out);
        failed = replay ? replay->last(state, lines, out) : 0;
    }
    if (replay)
        replay->end(state);
    steps_end_(&steps);
    return failed;
}

static int write_part(const char *text, size_t length, void *out)
{
    html_write_json_(out, text, length);
    return 0;
}

/* The path as JSON; null when it is not UTF-8. */
static void write_name(const char *path, FILE *out)
{
    json_t *name = json_string(path);
    if (!name || json_dump_callback(name, write_part, out, JSON_ENCODE_ANY | JSON_ENSURE_ASCII))
        fputs("null", out);
    json_decref(name);
}

typedef struct NoteWriter {
    FILE *out;
    int any;
} NoteWriter;

static int write_note(void *user, const char *note)
{
    NoteWriter *writer = user;
    if (writer->any++)
        putc(',', writer->out);
    write_name(note, writer->out);
    return 0;
}

/* What the log contradicts itself in, in sentences. */
static void write_notes(const Lines *lines, FILE *out)
{
    fprintf(out, "{\"kind\":\"file\",\"broken_lines\":%" PRId64 ",\"truncated\":%d,\"notes\":[",
            lines->cross.bad_lines, lines->truncated);
    report_cross_notes_(&lines->cross, write_note, &(NoteWriter){.out = out});
    fputs("],\"name\":", out);
}

static int write_file(Lines *lines, int number, const PageReplay *replay, FILE *out)
{
    json_t *run = html_read_run_(lines);
    if (!run)
        return -1;
    fprintf(out, "<script type=\"application/x-ndjson\" class=\"log\" id=\"log-%d\">\n", number);
    int failed = write_log(lines, run, replay, out);
    write_notes(lines, out);
    write_name(lines->path, out);
    fputs("}\n</script>\n", out);
    failed = failed ? failed : html_write_ranks_(lines, run, number, out);
    json_decref(run);
    return failed;
}

static int write_logs(Lines *lines, const char *const *paths, int count, const PageReplay *replay, FILE *out)
{
    for (int i = 0; i < count; i++) {
        int failed = lines_open_(lines, paths[i]) || write_file(lines, i, replay, out);
        lines_close_(lines);
        lines->cross = (RunCross){0};
        lines->number = 0;
        lines->started = lines->truncated = 0;
        if (failed)
            return -1;
    }
    return 0;
}

/* ---- The page -------------------------------------------------------------------------------- */

static void write_text(const PageText *text, FILE *out)
{
    fwrite(text->text, 1, text->length, out);
}

/* Writes the template up to the marker and returns what is behind it. */
static const char *write_until(const char *from, const char *marker, FILE *out)
{
    const char *end = page_html_.text + page_html_.length;
    const char *at = memmem(from, (size_t)(end - from), marker, strlen(marker));
    fwrite(from, 1, (size_t)((at ? at : end) - from), out);
    return at ? at + strlen(marker) : end;
}

/* Behind the data: the script, and the end of the page. */
static int write_rest(const char *at, const PageText *script, FILE *out, Lines *lines)
{
    at = write_until(at, "/* script */", out);
    write_text(script, out);
    fwrite(at, 1, (size_t)(page_html_.text + page_html_.length - at), out);
    if (fflush(out) || ferror(out))
        return lines_fail_(lines, "cannot write the report: %s", strerror(errno));
    return 0;
}

static const char *write_head(FILE *out)
{
    const char *at = write_until(page_html_.text, "/* style */", out);
    write_text(&page_css_, out);
    return write_until(at, "<!-- logs -->", out);
}

int report_html(FILE *out, const char *const *paths, int count, const PageReplay *replay, char *error,
                size_t size)
{
    Lines lines = {.error = error, .error_size = size};
    if (count < 1 || count > 2)
        return lines_fail_(&lines, "a report shows one run log or two, not %d", count);
    const char *at = write_head(out);
    if (write_logs(&lines, paths, count, replay, out))
        return -1;
    return write_rest(at, &page_js_, out, &lines);
}

int report_html_pytorch(FILE *out, const json_t *plan, char *error, size_t size)
{
    Lines lines = {.error = error, .error_size = size};
    const char *at = write_head(out);
    fputs("<script type=\"application/json\" id=\"plan\">\n", out);
    if (json_dump_callback(plan, write_part, out, JSON_COMPACT | JSON_ENSURE_ASCII))
        return lines_fail_memory_(&lines);
    fputs("\n</script>\n", out);
    return write_rest(at, &page_pytorch_, out, &lines);
}
