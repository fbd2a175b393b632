/* A file of samples, line by line: as much of it in memory as its longest line needs. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "../base/file_kind_.h"
#include "pairs_.h"

enum { PIECE = 256 << 10 };

/* ---- Opening --------------------------------------------------------------------------------- */

/* Not what has other bytes than text; what is text and no JSON is found in its first line. */
static int check_kind(const PairsLines *lines, uint64_t bytes)
{
    size_t count = lines->end < FILE_HEAD ? lines->end : FILE_HEAD;
    const FileKind *kind = file_kind((const uint8_t *)lines->text, count, bytes, 1);
    if (!kind || kind->file_class >= FILE_MARKUP)
        return ERROR_NONE;
    return error_raise(ERROR_DATA, "%s is %s, not JSON lines: %s", lines->shown, kind->what, kind->todo);
}

/* Behind a byte-order mark. */
static void begin(PairsLines *lines)
{
    lines->line = 0;
    if (lines->end - lines->at >= 3 && !memcmp(lines->text + lines->at, "\xef\xbb\xbf", 3))
        lines->at += 3;
}

/* More of the file behind what is there; 0 at its end, -1 with an error raised. */
static int read_more(PairsLines *lines)
{
    ssize_t got;
    do
        got = read(lines->file, lines->piece + lines->end, lines->room - lines->end);
    while (got < 0 && errno == EINTR);
    if (got < 0) {
        error_raise(ERROR_FILE, "%s: cannot read: %s", lines->shown, strerror(errno));
        return -1;
    }
    lines->end += (size_t)got;
    return got > 0;
}

int pairs_lines_open(PairsLines *lines, const char *path, const TextInput *input)
{
    int64_t bytes = 0;
    *lines = (PairsLines){.context = context_here(), .file = -1, .input = input};
    text_input_label(lines->shown, path);
    if (!input && text_input_needed(path)) {
        if (!text_is_readable_twice(path) || !(lines->owned = text_input_open(path, lines->context->tracker)))
            return error_code();
        lines->input = lines->owned;
    }
    if (lines->input) {
        lines->text = text_input_text(lines->input, &lines->end);
        bytes = (int64_t)lines->end;
    } else {
        if ((lines->file = file_open(path, &bytes)) < 0)
            return error_code();
        lines->piece = host_alloc_for(PAIRS_MAKER, path, PIECE);
        if (!lines->piece)
            return ERROR_HOST_MEMORY;
        lines->text = lines->piece;
        lines->room = PIECE;
        if (read_more(lines) < 0)
            return error_code();
    }
    if (check_kind(lines, (uint64_t)bytes))
        return error_code();
    begin(lines);
    return ERROR_NONE;
}

void pairs_lines_close(PairsLines *lines)
{
    if (lines->file >= 0)
        close(lines->file);
    host_free(lines->context, lines->piece, lines->room);
    text_input_free(lines->owned);
    *lines = (PairsLines){.file = -1};
}

int pairs_lines_rewind(PairsLines *lines)
{
    lines->at = 0;
    if (lines->file >= 0) {
        lines->end = 0;
        if (lseek(lines->file, 0, SEEK_SET) < 0)
            return error_raise(ERROR_FILE, "%s: cannot read it again: %s", lines->shown, strerror(errno));
        if (read_more(lines) < 0)
            return error_code();
    }
    begin(lines);
    return ERROR_NONE;
}

/* ---- Lines ----------------------------------------------------------------------------------- */

static int too_long(const PairsLines *lines)
{
    return error_raise(
        ERROR_DATA, "%s: line %" PRId64 " has more than %d MiB; a line is one sample, and a newline ends it",
        lines->shown, lines->line + 1, PAIRS_LINE_MOST >> 20);
}

/* Room for more of the line that begins the piece. */
static int make_room(PairsLines *lines)
{
    size_t left = lines->end - lines->at;
    memmove(lines->piece, lines->piece + lines->at, left);
    lines->at = 0;
    lines->end = left;
    if (left < lines->room)
        return ERROR_NONE;
    if (left > PAIRS_LINE_MOST)
        return too_long(lines);
    char *piece = memtrack_host_realloc(lines->context->tracker, lines->piece, lines->room, 2 * lines->room);
    if (!piece)
        return error_raise(ERROR_HOST_MEMORY, PAIRS_MAKER "(): no host memory for line %" PRId64 " of %s",
                           lines->line + 1, lines->shown);
    lines->text = lines->piece = piece;
    lines->room *= 2;
    return ERROR_NONE;
}

/* A line as it stands there, blank or not. */
static int next_line(PairsLines *lines, const char **line, size_t *bytes)
{
    size_t seen = 0; /* of the line, without a newline in it */
    for (;;) {
        const char *from = lines->text + lines->at;
        size_t left = lines->end - lines->at;
        const char *newline = left > seen ? memchr(from + seen, '\n', left - seen) : NULL;
        int more = 0;
        if (!newline && lines->file >= 0) {
            seen = left;
            if (make_room(lines) || (more = read_more(lines)) < 0)
                return -1;
            if (more)
                continue;
            from = lines->text + lines->at;
        }
        if (!newline && !left)
            return 0;
        *line = from;
        *bytes = newline ? (size_t)(newline - from) : left;
        if (*bytes > PAIRS_LINE_MOST) {
            too_long(lines);
            return -1;
        }
        lines->at += *bytes + (newline != NULL);
        lines->line++;
        return 1;
    }
}

static int is_blank(const char *line, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
            return 0;
    return 1;
}

int pairs_lines_next(PairsLines *lines, const char **line, size_t *bytes)
{
    int got;
    do
        got = next_line(lines, line, bytes);
    while (got > 0 && is_blank(*line, *bytes));
    return got;
}

int64_t pairs_count(PairsLines *lines)
{
    const char *line;
    size_t bytes;
    int64_t count = 0;
    int got = pairs_lines_rewind(lines) ? -1 : 1;
    while (got > 0 && (got = pairs_lines_next(lines, &line, &bytes)) > 0)
        count++;
    return got < 0 ? -1 : count;
}

int pairs_read(PairsLines *lines, PairsReading *r, int64_t first, int64_t count)
{
    const char *line;
    size_t bytes;
    int got = 1;
    if (pairs_lines_rewind(lines))
        return error_code();
    for (int64_t i = 0;
         (count < 0 || i < first + count) && (got = pairs_lines_next(lines, &line, &bytes)) > 0; i++) {
        r->line = lines->line;
        if (i >= first && pairs_line(r, line, bytes))
            return error_code();
    }
    if (got == 0 && count >= 0)
        return error_raise(ERROR_FILE, "%s became shorter while it was read: it ends behind line %" PRId64,
                           lines->shown, lines->line);
    return got < 0 ? error_code() : ERROR_NONE;
}

void pairs_reading_end(PairsReading *r)
{
    ids_free(r->context, &r->whole);
    ids_free(r->context, &r->prompt);
    text_free(r->context, &r->text);
    text_free(r->context, &r->repaired);
}
