/* A JSON object of which some fields change and everything else stays byte for byte: the order of fields,
 * numbers that no C type holds, and how they are spelled. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../tensor/tensor_.h"
#include "json_patch_.h"

/* ---- Looking --------------------------------------------------------------------------------- */

static int is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static const char *skip_space(const char *at)
{
    while (is_space(*at))
        at++;
    return at;
}

/* Past the string that begins here. The text is valid. */
static const char *skip_string(const char *at)
{
    for (at++; *at != '"'; at++)
        at += *at == '\\';
    return at + 1;
}

static const char *skip_value(const char *at)
{
    int depth = 0;
    do {
        if (*at == '"') {
            at = skip_string(at);
            continue;
        }
        depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
        at++;
    } while (depth || (*at != ',' && *at != '}' && *at != ']' && !is_space(*at)));
    return at;
}

/* ---- Writing --------------------------------------------------------------------------------- */

/* Counts where `text` is NULL. */
typedef struct Sink {
    char *text;
    size_t used, size;
    int failed; /* no memory */
} Sink;

static void put(Sink *sink, const char *from, size_t bytes)
{
    if (sink->text)
        memcpy(sink->text + sink->used, from, bytes);
    sink->used += bytes;
}

static void put_value(Sink *sink, const json_t *value)
{
    const size_t flags = JSON_ENCODE_ANY | JSON_REAL_PRECISION(9);
    size_t room = sink->text ? sink->size - sink->used : 0;
    size_t bytes = json_dumpb(value, sink->text ? sink->text + sink->used : NULL, room, flags);
    sink->used += bytes;
    sink->failed |= !bytes || (sink->text && bytes > room);
}

/* What is not in the object comes after its last field, with the space that is before that one. */
static void append(Sink *sink, const json_t *root, const json_t *set, int count, const char *space,
                   size_t bytes)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)set, name, value)
    {
        if (json_object_get(root, name))
            continue;
        put(sink, ",", (size_t)(count++ > 0));
        put(sink, space, bytes);
        put(sink, "\"", 1);
        put(sink, name, strlen(name));
        put(sink, "\": ", 3);
        put_value(sink, value);
    }
}

/* Names come in the order of the text. A field that goes takes the comma before it along, and the first one
 * that after it. */
static void patch(Sink *sink, const char *text, const json_t *root, const json_t *set, const char *without)
{
    const char *at = skip_space(text) + 1, *copied = text, *space = at;
    size_t bytes = 0;
    int kept = 0;
    void *field = json_object_iter((json_t *)root);
    for (; field; field = json_object_iter_next((json_t *)root, field)) {
        const char *before = at, *key = json_object_iter_key(field);
        const json_t *value = json_object_get(set, key);
        int goes = without && !strcmp(key, without);
        kept += !goes;
        space = *at == ',' ? at + 1 : at;
        const char *name = skip_space(space), *from = skip_space(skip_space(skip_string(name)) + 1);
        bytes = (size_t)(name - space);
        at = skip_value(from);
        if (value) {
            put(sink, copied, (size_t)(from - copied));
            put_value(sink, value);
            copied = at;
        }
        if (*skip_space(at) == ',')
            at = skip_space(at);
        if (goes) {
            put(sink, copied, (size_t)(before - copied));
            copied = at = *before != ',' && *at == ',' ? at + 1 : at;
        }
    }
    put(sink, copied, (size_t)(at - copied));
    append(sink, root, set, kept > 0, space, bytes);
    put(sink, at, strlen(at));
}

int json_patch(const char *text, const json_t *root, const json_t *set, const char *without, JsonText *out)
{
    Sink sink = {0};
    patch(&sink, text, root, set, without);
    *out = (JsonText){sink.failed ? NULL : host_alloc(sink.used + 1), sink.used};
    sink = (Sink){out->text, 0, out->bytes, sink.failed};
    if (out->text)
        patch(&sink, text, root, set, without);
    if (!sink.failed)
        return error_code();
    json_text_free(out);
    return error_raise(ERROR_HOST_MEMORY, "no host memory for a JSON text");
}

void json_text_free(JsonText *text)
{
    if (text->text)
        host_free(context_here(), text->text, text->bytes + 1);
    *text = (JsonText){0};
}

/* ---- Whole numbers that are too large -------------------------------------------------------- */

/* The digits from `at` on, if they are a whole number that the reader has no type for; else 0. */
static size_t too_large(const char *at, const char *end)
{
    size_t digits = 0;
    while (at + digits < end && isdigit((unsigned char)at[digits]))
        digits++;
    if (digits < 19 || at + digits == end || at[digits] == '.' || at[digits] == 'e' || at[digits] == 'E')
        return 0;
    errno = 0;
    strtoll(at, NULL, 10);
    return errno == ERANGE ? digits : 0;
}

void json_shorten_integers(char *text, size_t bytes)
{
    enum { KEPT = 16 };
    char *end = text + bytes;
    for (char *at = text; at < end; at++) {
        size_t digits = isdigit((unsigned char)*at) ? too_large(at, end) : 0;
        if (*at == '"')
            for (at++; at < end && *at != '"'; at++)
                at += *at == '\\';
        else if (digits) {
            size_t exponent = digits - KEPT;
            char power[24];
            int length = snprintf(power, sizeof power, "e%zu", exponent);
            memset(at + KEPT, ' ', exponent);
            memcpy(at + KEPT, power, (size_t)length);
            at += digits - 1;
        } else if (isdigit((unsigned char)*at))
            while (at + 1 < end && (isalnum((unsigned char)at[1]) || memchr("+-.", at[1], 3)))
                at++;
    }
}
