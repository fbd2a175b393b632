/* A tokenizer.json from its path: opening, parsing, fields, and errors that say where. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../base/hub_.h"
#include "../base/printable_.h"
#include "tokenizer_.h"

#define MOST_BYTES ((int64_t)256 << 20)
enum { LABEL = 100 };

/* ---- Messages -------------------------------------------------------------------------------- */

ShownText shown(const char *text, size_t length)
{
    ShownText out;
    size_t n = 0, most = sizeof out.text - 8, at = 0;
    out.text[n++] = '"';
    while (at < length && n < most) {
        size_t next = at + 1;
        while (next < length && ((unsigned char)text[next] & 0xC0) == 0x80)
            next++; /* whole characters only */
        if (n + (next - at) > most)
            break;
        for (; at < next; at++)
            out.text[n++] = text[at] ? text[at] : '?';
    }
    snprintf(out.text + n, sizeof out.text - n, at < length ? "…\"" : "\"");
    make_printable(out.text);
    return out;
}

int reading_fail(const Reading *r, const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return error_raise(ERROR_DATA, "%s: %s", r->file, text);
}

/* ---- Fields ---------------------------------------------------------------------------------- */

Span reading_keep(const Reading *r, const char *text, size_t length)
{
    Span kept = keep_text(r->tokenizer, text, length);
    char *copy = (char *)kept.text; /* ours */
    if (!r->nuls || !copy)
        return kept;
    size_t to = 0;
    for (size_t at = 0; at < length; to++) {
        int hidden = length - at >= 3 && !memcmp(copy + at, NUL_MARK, 3);
        copy[to] = hidden ? '\0' : copy[at];
        at += hidden ? 3 : 1;
    }
    copy[to] = '\0';
    return (Span){copy, to};
}

Span reading_span(const Reading *r, const char *text, size_t length)
{
    if (!r->nuls || !memmem(text, length, NUL_MARK, 3))
        return (Span){text, length};
    return reading_keep(r, text, length);
}

int reading_text(const Reading *r, const json_t *object, const char *part, const char *name, Span *out)
{
    const json_t *value = json_object_get(object, name);
    if (!value || json_is_null(value))
        return 0;
    if (!json_is_string(value)) {
        reading_fail(r, "%s.%s must be a text", part, name);
        return -1;
    }
    *out = reading_keep(r, json_string_value(value), json_string_length(value));
    return out->text ? 1 : -1;
}

int reading_bool(const Reading *r, const json_t *object, const char *part, const char *name, int otherwise)
{
    const json_t *value = json_object_get(object, name);
    if (!value || json_is_null(value))
        return otherwise;
    if (json_is_boolean(value))
        return json_is_true(value);
    reading_fail(r, "%s.%s must be true or false", part, name);
    return -1;
}

/* ---- The file -------------------------------------------------------------------------------- */

char *file_text(const char *maker, const char *path, int64_t most, int64_t *bytes)
{
    int file = file_open(path, bytes);
    if (file < 0)
        return NULL;
    char *text = NULL;
    if (*bytes > most)
        error_raise(ERROR_FILE, "%s(): %s has %lld bytes; at most %lld are read", maker, path,
                    (long long)*bytes, (long long)most);
    else
        text = host_alloc_for(maker, path, (size_t)*bytes + 1);
    if (text && file_read(file, path, 0, (uint8_t *)text, (size_t)*bytes)) {
        host_free(context_here(), text, (size_t)*bytes + 1);
        text = NULL;
    }
    close(file);
    if (text)
        text[*bytes] = '\0';
    return text;
}

/* Puts NUL_MARK in place of every escaped NUL. Returns whether there was one. */
static int hide_nuls(char *text, size_t bytes)
{
    int found = 0;
    for (size_t i = 0; i + 1 < bytes; i++) {
        if (text[i] != '\\')
            continue;
        if (bytes - i >= 6 && !memcmp(text + i, "\\u0000", 6)) {
            memcpy(text + i, "\\ufdd0", 6);
            found = 1;
        }
        i++; /* what is escaped, a \ perhaps */
    }
    return found;
}

static int has_mark(const char *text, size_t bytes)
{
    if (memmem(text, bytes, NUL_MARK, 3))
        return 1;
    for (size_t i = 0; i + 6 <= bytes; i++)
        if (text[i] == '\\' && !strncasecmp(text + i, "\\ufdd0", 6))
            return 1;
    return 0;
}

enum { FREE_OBJECTS = 65536, BYTES_AN_OBJECT = 16 };

/* jansson takes 80 bytes for each byte of {},{},{}: more objects than a tokenizer.json could use are not
 * parsed. One has an object for each added token, of a hundred bytes and more; those in texts are counted
 * too. */
static int too_many_objects(const char *file, const char *text, size_t bytes)
{
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++)
        count += text[i] == '{';
    if (count <= bytes / BYTES_AN_OBJECT + FREE_OBJECTS)
        return ERROR_NONE;
    return error_raise(ERROR_DATA, "%s: %zu times { in %zu bytes; a tokenizer.json has few objects", file,
                       count, bytes);
}

/* The caller's to decref. */
static json_t *parse(const char *file, const char *text, size_t bytes)
{
    json_error_t error = {.line = -1};
    if (too_many_objects(file, text, bytes))
        return NULL;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (json_is_object(root))
        return root;
    if (root)
        error_raise(ERROR_DATA, "%s: a tokenizer.json is one object {…}, not a list", file);
    else if (error.line < 0 || json_error_code(&error) == json_error_out_of_memory)
        error_raise(ERROR_HOST_MEMORY, "%s: no host memory to read it", file);
    else
        error_raise(ERROR_DATA, "%s: line %d, column %d: %s", file, error.line, error.column,
                    shown(error.text, strlen(error.text)).text);
    json_decref(root);
    return NULL;
}

static int read_all(const Reading *r, const json_t *root)
{
    const json_t *model = json_object_get(root, "model");
    if (!json_is_object(model))
        return reading_fail(r,
                            "it has no model; a tokenizer.json of the Python package tokenizers is expected");
    if (reading_kind(r, model) ||
        reading_vocab(r, json_object_get(model, "vocab"), json_object_get(root, "added_tokens")) ||
        reading_model(r, model))
        return error_code();
    return reading_steps(r, root);
}

/* ---- Other forms ----------------------------------------------------------------------------- */

static const struct {
    const char *name, *is;
} other_forms[] = {{"tokenizer.model", "SentencePiece"},         {"spiece.model", "SentencePiece"},
                   {"sentencepiece.bpe.model", "SentencePiece"}, {"tekken.json", "Mistral's own form"},
                   {"tokenizer.model.v3", "SentencePiece"},      {"vocab.txt", "WordPiece"},
                   {"vocab.json", "BPE, with its merges.txt"},   {"vocab.bpe", "BPE, with its encoder.json"},
                   {"merges.txt", "BPE, with its vocab.json"}};
enum { OTHER_FORMS = sizeof other_forms / sizeof other_forms[0] };

static int is_in(const char *folder, const char *name)
{
    char path[PATH_BYTES];
    return snprintf(path, sizeof path, "%s/%s", folder, name) < PATH_BYTES && access(path, F_OK) == 0;
}

/* Which of them the folder has; OTHER_FORMS = none. */
static int find_other(const char *folder)
{
    int i = 0;
    while (i < OTHER_FORMS && !is_in(folder, other_forms[i].name))
        i++;
    return i;
}

const char *tokenizer_other_form(const char *folder)
{
    int form = folder && !is_in(folder, "tokenizer.json") ? find_other(folder) : OTHER_FORMS;
    return form < OTHER_FORMS ? other_forms[form].name : NULL;
}

#define WRITE_IT "write a tokenizer.json in Python with AutoTokenizer.from_pretrained(…).save_pretrained(…)"

/* Of a file by its name: another form may be JSON too. */
static int check_name(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    for (int i = 0; i < OTHER_FORMS; i++)
        if (!strcmp(name, other_forms[i].name))
            return error_raise(ERROR_DATA, "%.100s is a tokenizer in another form (%s): " WRITE_IT, path,
                               other_forms[i].is);
    return ERROR_NONE;
}

/* The file that is meant: the path, or tokenizer.json in it. */
static int resolve(const char *path, char out[PATH_BYTES])
{
    if (hub_follow(out, path))
        return error_code();
    if (!path_is_directory(out))
        return check_name(out);
    if (is_in(out, "tokenizer.json")) {
        char folder[PATH_BYTES];
        strcpy(folder, out);
        return path_join(out, folder, "tokenizer.json");
    }
    int form = find_other(out);
    if (form < OTHER_FORMS)
        return error_raise(
            ERROR_FILE, "%.100s has no tokenizer.json, but a tokenizer in another form (%s, %s): " WRITE_IT,
            path, other_forms[form].name, other_forms[form].is);
    if (is_in(out, "adapter_config.json"))
        return error_raise(
            ERROR_FILE,
            "%.100s is an adapter and has no tokenizer.json: take that of the model it belongs to", path);
    return error_raise(ERROR_FILE, "%.100s has no tokenizer.json", path);
}

Tokenizer *tokenizer_read(const char *path)
{
    char file[PATH_BYTES], label[LABEL + 8];
    int64_t bytes = 0;
    if (!context_here())
        return NULL;
    if (!path) {
        error_raise(ERROR_ARGUMENT, TOKENIZER_MAKER "(): path is NULL; name a tokenizer.json or its folder");
        return NULL;
    }
    if (resolve(path, file))
        return NULL;
    size_t length = strlen(file);
    snprintf(label, sizeof label, "%s%.*s", length > LABEL ? "…" : "", LABEL,
             file + (length > LABEL ? length - LABEL : 0));
    char *text = file_text(TOKENIZER_MAKER, file, MOST_BYTES, &bytes);
    Reading reading = {.file = label};
    int marked = text && has_mark(text, (size_t)bytes);
    reading.nuls = text && hide_nuls(text, (size_t)bytes);
    if (reading.nuls && marked)
        error_raise(ERROR_DATA, "%s: NUL and U+FDD0 in one file are not supported", label);
    json_t *root = text && !(reading.nuls && marked) ? parse(label, text, (size_t)bytes) : NULL;
    if (text)
        host_free(context_here(), text, (size_t)bytes + 1);
    Tokenizer *t = reading.tokenizer = root ? tokenizer_create() : NULL;
    if (t && read_all(&reading, root)) {
        tokenizer_free(t);
        t = NULL;
    }
    json_decref(root);
    return t;
}
