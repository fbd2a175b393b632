/* RFC 4180, and what programs write that do not keep to it: records of fields with commas (in a .tsv tabs)
 * between, quotes around fields that have commas, quotes or newlines in them, any of three ends of a line, a
 * byte-order mark. What is ambiguous is refused with its line. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../base/ends_.h"
#include "../base/plural_.h"
#include "csv_.h"

int csv_refuse(const CsvFile *file, const char *format, ...)
{
    char text[440];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return error_raise(ERROR_DATA, "%s: line %" PRId64 " %s", file->shown, file->record.line, text);
}

/* ---- Fields ---------------------------------------------------------------------------------- */

static int is_end(char c)
{
    return c == '\n' || c == '\r';
}

/* Over the end of a line. */
static void skip_end(CsvFile *f)
{
    f->at += f->at + 1 < f->bytes && f->text[f->at] == '\r' && f->text[f->at + 1] == '\n' ? 2 : 1;
    f->line++;
}

/* Behind the quote that begins it, up to the one that ends it. */
static int quoted(CsvFile *f, CsvField *field)
{
    size_t from = ++f->at;
    int64_t line = f->line;
    field->text = f->text + from;
    for (;; f->at++) {
        char c = f->at < f->bytes ? f->text[f->at] : '\0';
        if (f->at == f->bytes || f->at - from > CSV_RECORD_MOST) {
            f->record.line = line;
            return csv_refuse(f,
                              "has a quote in front of field %d that nothing closes%s; a quote within quotes "
                              "is written twice",
                              f->record.fields, f->at == f->bytes ? "" : " within 8 MiB");
        }
        if (c == '\n' || (c == '\r' && !(f->at + 1 < f->bytes && f->text[f->at + 1] == '\n')))
            f->line++;
        if (c != '"')
            continue;
        if (f->at + 1 == f->bytes || f->text[f->at + 1] != '"')
            break;
        field->doubled = 1;
        f->at++;
    }
    field->bytes = f->at++ - from;
    if (f->at == f->bytes || f->text[f->at] == f->separator || is_end(f->text[f->at]))
        return ERROR_NONE;
    return csv_refuse(f,
                      "has %s behind the quote that ends field %d: a quote within quotes is written twice "
                      "(\"\"), and what separates fields is %s",
                      shown(f->text + f->at, 1).text, f->record.fields,
                      f->separator == ',' ? "a comma" : "a tab");
}

static void unquoted(CsvFile *f, CsvField *field)
{
    size_t from = f->at;
    while (f->at < f->bytes && f->text[f->at] != f->separator && !is_end(f->text[f->at]))
        f->at++;
    field->text = f->text + from;
    field->bytes = f->at - from;
}

static int read_field(CsvFile *f)
{
    if (f->record.fields == CSV_COLUMNS)
        return csv_refuse(f, "has more than %d fields", CSV_COLUMNS);
    CsvField *field = &f->record.field[f->record.fields++];
    *field = (CsvField){0};
    if (f->at < f->bytes && f->text[f->at] == '"')
        return quoted(f, field);
    unquoted(f, field);
    return ERROR_NONE;
}

/* A record as it stands there: 1, 0 at the end, -1 with an error raised. */
static int read_record(CsvFile *f)
{
    while (f->at < f->bytes && is_end(f->text[f->at]))
        skip_end(f);
    size_t from = f->at;
    f->record.line = f->line;
    f->record.fields = 0;
    if (f->at == f->bytes)
        return 0;
    for (;;) {
        if (read_field(f))
            return -1;
        if (f->at - from > CSV_RECORD_MOST) {
            csv_refuse(f, "begins a sample of more than %d MiB", CSV_RECORD_MOST >> 20);
            return -1;
        }
        if (f->at == f->bytes || f->text[f->at] != f->separator)
            break;
        f->at++;
    }
    if (f->at < f->bytes)
        skip_end(f);
    return 1;
}

int csv_next(CsvFile *f)
{
    int got = read_record(f);
    if (got <= 0 || f->record.fields == f->columns)
        return got;
    csv_refuse(f, "has %d field%s, the header %d: a text with %s in it stands in quotes", f->record.fields,
               plural(f->record.fields), f->columns, f->separator == ',' ? "commas" : "tabs or newlines");
    return -1;
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* Of two quotes side by side the first. */
static int unescape(const CsvFile *f, const CsvField *field, TokenText *out)
{
    size_t from = 0;
    for (size_t i = 0; i < field->bytes; i++) {
        if (field->text[i] != '"')
            continue;
        if (text_add(f->context, out, field->text + from, i + 1 - from))
            return error_code();
        from = ++i + 1;
    }
    return text_add(f->context, out, field->text + from, field->bytes - from);
}

Span csv_value(CsvFile *f, int column, int which)
{
    const CsvField *field = &f->record.field[column];
    TokenText *plain = &f->plain[which], *repaired = &f->repaired[which];
    Span value = {field->text, field->bytes}, none = {NULL, 0};
    plain->bytes = repaired->bytes = 0;
    if (field->doubled && unescape(f, field, plain))
        return none;
    if (field->doubled)
        value = (Span){plain->text, plain->bytes};
    int64_t first = -1;
    if (!utf8_valid(value.text, value.length) && !f->replace_invalid) {
        utf8_invalid(value.text, value.length, &first);
        csv_refuse(f,
                   "is not UTF-8 in field %d (0x%02X): convert the file (iconv -f LATIN1 -t UTF-8, if it is "
                   "Latin-1), or add --invalid-utf8 replace to put U+FFFD in its place",
                   column + 1, (unsigned char)value.text[first]);
        return none;
    }
    if (!f->replace_invalid || utf8_valid(value.text, value.length))
        return value;
    return utf8_repair(f->context, repaired, value.text, value.length)
               ? none
               : (Span){repaired->text, repaired->bytes};
}

Span csv_trimmed(Span value)
{
    while (value.length && (value.text[0] == ' ' || value.text[0] == '\t')) {
        value.text++;
        value.length--;
    }
    while (value.length && (value.text[value.length - 1] == ' ' || value.text[value.length - 1] == '\t'))
        value.length--;
    return value;
}

/* ---- The header ------------------------------------------------------------------------------ */

static int is_called(Span name, const char *wanted)
{
    if (name.length != strlen(wanted))
        return 0;
    for (size_t i = 0; i < name.length; i++)
        if ((name.text[i] | 32) != wanted[i] && name.text[i] != wanted[i])
            return 0;
    return 1;
}

static void list_column(char *list, size_t size, Span name)
{
    size_t used = strlen(list);
    snprintf(list + used, size - used, "%s%s", used ? ", " : "", shown(name.text, name.length).text);
}

static int no_column(const CsvFile *f, const char *all, const char *wanted)
{
    int other = f->columns == 1 && (strchr(all, ';') || strchr(all, '\t') || strchr(all, ','));
    return csv_refuse(f,
                      "names the column%s %.160s; %s must be among them: \"text,label\", or "
                      "\"sentence1,sentence2,label\" of two texts, in any order%s",
                      plural(f->columns), all, wanted,
                      !other                ? ""
                      : f->separator == ',' ? "; of a .csv commas separate fields, of a .tsv tabs"
                                            : "; of a .tsv tabs separate fields, of a .csv commas");
}

static int take_column(CsvFile *f, int *place, int column)
{
    if (*place >= 0)
        return csv_refuse(
            f, "names two columns for the same thing, %d and %d; leave one out, or call it another name",
            *place + 1, column + 1);
    *place = column;
    return ERROR_NONE;
}

static int read_header(CsvFile *f)
{
    char all[240] = "";
    int got = read_record(f);
    if (got < 0)
        return error_code();
    if (!got)
        return error_raise(ERROR_DATA, "%s is empty: its first line names the columns, text,label", f->shown);
    f->columns = f->record.fields;
    f->first = f->second = f->label = -1;
    for (int i = 0; i < f->columns; i++) {
        Span name = csv_value(f, i, 0);
        if (!name.text)
            return error_code();
        name = csv_trimmed(name);
        list_column(all, sizeof all, name);
        int *place = is_called(name, "label") ? &f->label
                     : is_called(name, "text") || is_called(name, "sentence") || is_called(name, "sentence1")
                         ? &f->first
                     : is_called(name, "sentence2") ? &f->second
                                                    : NULL;
        if (place ? take_column(f, place, i) : (list_column(f->unread, sizeof f->unread, name), 0))
            return error_code();
    }
    if (f->first < 0 || f->label < 0)
        return no_column(f, all,
                         f->label >= 0   ? "text, sentence or sentence1"
                         : f->first >= 0 ? "label"
                                         : "text and label");
    f->begin = f->at;
    return ERROR_NONE;
}

/* ---- The file -------------------------------------------------------------------------------- */

static int is_tsv(const char *path)
{
    size_t length = strlen(path);
    if (length > 3 && !strcmp(path + length - 3, ".gz"))
        length -= 3;
    return length > 4 && (!strncmp(path + length - 4, ".tsv", 4) || !strncmp(path + length - 4, ".TSV", 4));
}

static int check_kind(const CsvFile *f)
{
    const FileKind *kind =
        file_kind((const uint8_t *)f->text, f->bytes < FILE_HEAD ? f->bytes : FILE_HEAD, f->bytes, 1);
    if (!kind || kind->file_class >= FILE_MARKUP)
        return ERROR_NONE;
    return error_raise(ERROR_DATA, "%s is %s, not a table in UTF-8: %s", f->shown, kind->what, kind->todo);
}

int csv_open(CsvFile *f, const char *path, const TextInput *input, int replace_invalid)
{
    *f = (CsvFile){.context = context_here(), .line = 1, .replace_invalid = replace_invalid};
    if (!path)
        return error_raise(ERROR_ARGUMENT, CSV_MAKER "(): path is NULL; name a .csv of texts and labels");
    text_input_label(f->shown, path);
    if (!input && text_input_needed(path) && !text_is_readable_twice(path))
        return error_code();
    if (!input && !(input = f->owned = text_input_open(path, f->context->tracker)))
        return error_code();
    f->text = text_input_text(input, &f->bytes);
    f->separator = is_tsv(path) ? '\t' : ',';
    if (check_kind(f))
        return error_code();
    if (f->bytes >= 3 && !memcmp(f->text, "\xef\xbb\xbf", 3))
        f->at = 3;
    return read_header(f);
}

void csv_rewind(CsvFile *f)
{
    f->at = f->begin;
    f->line = 1;
    for (size_t i = 0; i < f->begin; i++) /* lines of the header */
        f->line += f->text[i] == '\n' || (f->text[i] == '\r' && f->text[i + 1] != '\n');
}

void csv_close(CsvFile *f)
{
    for (int i = 0; i < 2; i++) {
        text_free(f->context, &f->plain[i]);
        text_free(f->context, &f->repaired[i]);
    }
    text_input_free(f->owned);
}
