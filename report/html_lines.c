/* A run log, line by line: what is not JSON is left out and counted, a last line that broke off is expected.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "html_.h"
#include "runlog_read.h"

enum { LINE_MOST = 1 << 26 };

int lines_fail_(Lines *lines, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (lines->error && lines->error_size)
        vsnprintf(lines->error, lines->error_size, format, arguments);
    va_end(arguments);
    return -1;
}

int lines_fail_memory_(Lines *lines)
{
    return lines_fail_(lines, "%s: out of host memory", lines->path);
}

int lines_open_(Lines *lines, const char *path)
{
    lines->path = path;
    lines->in = fopen(path, "rb");
    return lines->in ? 0 : lines_fail_(lines, "cannot read %s: %s", path, strerror(errno));
}

void lines_close_(Lines *lines)
{
    if (lines->in)
        fclose(lines->in);
    memtrack_host_free(NULL, lines->line, lines->capacity);
    lines->in = NULL;
    lines->line = NULL;
    lines->capacity = 0;
}

static int grow_line(Lines *lines)
{
    size_t capacity = lines->capacity ? 2 * lines->capacity : 1 << 16;
    if (capacity > LINE_MOST)
        return lines_fail_(lines, "%s has a line of more than %d MiB: it is not a run log", lines->path,
                           LINE_MOST >> 20);
    char *larger = memtrack_host_realloc(NULL, lines->line, lines->capacity, capacity);
    if (!larger)
        return lines_fail_memory_(lines);
    lines->line = larger;
    lines->capacity = capacity;
    return 0;
}

/* 1 and a line without its newline, 0 at the end, -1 on an error. */
static int read_line(Lines *lines)
{
    lines->length = 0;
    int c;
    while ((c = getc(lines->in)) != EOF && c != '\n') {
        if (lines->length == lines->capacity && grow_line(lines))
            return -1;
        lines->line[lines->length++] = (char)c;
    }
    if (ferror(lines->in))
        return lines_fail_(lines, "cannot read %s: %s", lines->path, strerror(errno));
    return c == '\n' || lines->length > 0;
}

static int is_blank(const Lines *lines)
{
    for (size_t i = 0; i < lines->length; i++)
        if (lines->line[i] != ' ' && lines->line[i] != '\t' && lines->line[i] != '\r')
            return 0;
    return 1;
}

/* Without its damaged rows, in the object and in the text; 0, or -1 where that has no room. */
static int drop_damaged_rows(Lines *lines, json_t *events)
{
    const json_t *rows = json_object_get(events, "rows");
    size_t at[RUN_COLUMNS], all = json_array_size(rows);
    json_t *kept = json_array();
    report_line_columns_(events, at);
    for (size_t i = 0; i < all; i++) {
        RunEvent event;
        json_t *row = json_array_get(rows, i);
        if (!report_line_row_(row, at, &event) && json_array_append(kept, row)) {
            json_decref(kept);
            return -1;
        }
    }
    int damaged = json_array_size(kept) < all;
    if (json_object_set_new(events, "rows", kept))
        return -1;
    if (damaged)
        lines->length = json_dumpb(events, lines->line, lines->capacity, JSON_COMPACT);
    return lines->length > 0 && lines->length <= lines->capacity ? 0 : -1;
}

/* Whether the line belongs to the run. */
static int is_of_the_run(Lines *lines, json_t *object)
{
    int sound = json_is_object(object) && !report_line_check_(object), ended = lines->cross.has_end;
    if (!sound && feof(lines->in)) {
        lines->truncated = lines->cross.cut_off = 1;
        return 0;
    }
    report_cross_line_(&lines->cross, sound ? object : NULL, lines->number);
    return sound && !ended && !lines->cross.second_run &&
           (strcmp(html_kind_(object), "events") != 0 || !drop_damaged_rows(lines, object));
}

json_t *lines_next_(Lines *lines, int *failed)
{
    int got = 0;
    *failed = 0;
    while (!lines->cross.second_run && (got = read_line(lines)) > 0) {
        lines->number++;
        if (is_blank(lines))
            continue;
        json_t *object = json_loadb(lines->line, lines->length, JSON_REJECT_DUPLICATES, NULL);
        if (!lines->started || is_of_the_run(lines, object)) {
            lines->truncated |= !object && feof(lines->in);
            lines->started = 1;
            return object;
        }
        json_decref(object);
    }
    *failed = !lines->cross.second_run && got < 0;
    return NULL;
}

const char *html_kind_(const json_t *object)
{
    const char *kind = json_string_value(json_object_get(object, "kind"));
    return kind ? kind : "";
}

/* Outside strings JSON has none of < > &, so escaping them changes no value, and nothing can end the element
 * or begin a comment. U+2028 and U+2029 end lines in some readers. A carriage return can only be white space,
 * but HTML would make it a newline. */
void html_write_json_(FILE *out, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        const unsigned char *next = (const unsigned char *)text + i + 1;
        if (c == '<' || c == '>' || c == '&')
            fprintf(out, "\\u%04x", c);
        else if (c == '\r')
            putc(' ', out);
        else if (c == 0xe2 && i + 2 < length && next[0] == 0x80 && (next[1] == 0xa8 || next[1] == 0xa9)) {
            fputs(next[1] == 0xa8 ? "\\u2028" : "\\u2029", out);
            i += 2;
        } else {
            putc(c, out);
        }
    }
}
