/* A mutator for targets that read JSON: half of the inputs are changed as JSON, a value or a key at a time,
 * so that what lies behind the parser is reached; the other half as bytes. An input may be several documents.
 */
#ifndef FUZZ_JSON_H
#define FUZZ_JSON_H

#include <jansson.h>

#include "fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

/* ---- Values ---------------------------------------------------------------------------------- */

static unsigned fuzz_random_state;

static inline unsigned fuzz_random(unsigned below)
{
    fuzz_random_state = fuzz_random_state * 1664525u + 1013904223u;
    return below ? (fuzz_random_state >> 8) % below : 0;
}

static inline json_t *fuzz_json_text(const json_t *old)
{
    static const char *const texts[] = {"",           "a",        "model.layers.0.weight",
                                        "../outside", "F32",      "I64",
                                        "BPE",        "(a+)+$",   "\\p{L}+|\\s",
                                        "[^\\w]{2,}", "\xc3\xa9", "<0xFF>",
                                        "true",       "0",        "Sequence"};
    uint8_t text[64];
    size_t length = json_string_length(old);
    if (!json_is_string(old) || length > 32 || fuzz_random(3) == 0)
        return json_string(texts[fuzz_random(sizeof texts / sizeof texts[0])]);
    memcpy(text, json_string_value(old), length);
    length = LLVMFuzzerMutate(text, length, sizeof text);
    return json_stringn((const char *)text, length); /* NULL where it is no UTF-8 any more */
}

static inline json_t *fuzz_json_number(const json_t *old)
{
    static const json_int_t numbers[] = {0,         1,         -1,        2,         7,
                                         255,       65536,     1 << 20,   INT32_MAX, INT32_MIN,
                                         INT64_MAX, INT64_MIN, 1ll << 32, 1ll << 53};
    json_int_t n = json_integer_value(old);
    switch (fuzz_random(4)) {
    case 0:
        return json_integer(n < INT64_MAX ? n + 1 : n);
    case 1:
        return json_integer(n > INT64_MIN ? n - 1 : n);
    case 2:
        return json_real(fuzz_random(2) ? 1e300 : (double)fuzz_random(1000) / 999);
    default:
        return json_integer(numbers[fuzz_random(sizeof numbers / sizeof numbers[0])]);
    }
}

/* NULL: leave it. */
static inline json_t *fuzz_json_other(json_t *root, json_t *old)
{
    switch (fuzz_random(10)) {
    case 0:
        return fuzz_random(2) ? json_null() : json_boolean(fuzz_random(2));
    case 1:
        return fuzz_random(2) ? json_array() : json_object();
    case 2:
        return json_pack("[O]", old);
    case 3:
        return json_deep_copy(root);
    case 4:
    case 5:
    case 6:
        return json_is_string(old) ? fuzz_json_text(old) : fuzz_json_number(old);
    default:
        return json_is_number(old)    ? fuzz_json_number(old)
               : json_is_boolean(old) ? json_boolean(!json_is_true(old))
                                      : fuzz_json_text(old);
    }
}

/* ---- Places ---------------------------------------------------------------------------------- */

/* One of the values anywhere within, deeper ones as likely as those above them. */
static inline json_t *fuzz_json_within(json_t *value, unsigned depth)
{
    size_t count = json_is_object(value) ? json_object_size(value) : json_array_size(value);
    if (!count || (depth && fuzz_random(4) == 0))
        return value;
    unsigned i = fuzz_random((unsigned)count);
    if (json_is_array(value))
        return fuzz_json_within(json_array_get(value, i), depth + 1);
    void *at = json_object_iter(value);
    while (i--)
        at = json_object_iter_next(value, at);
    return fuzz_json_within(json_object_iter_value(at), depth + 1);
}

static inline void fuzz_json_change_object(json_t *root, json_t *object, const char *key)
{
    json_t *old = json_incref(json_object_get(object, key)), *other = NULL, *name;
    switch (fuzz_random(6)) {
    case 0:
        json_object_del(object, key);
        break;
    case 1: /* another name */
        name = json_string(key);
        other = fuzz_json_text(name);
        if (other)
            json_object_set(object, json_string_value(other), old);
        json_decref(other);
        json_decref(name);
        break;
    case 2: /* a value from elsewhere */
        json_object_set_new(object, key, json_deep_copy(fuzz_json_within(root, 0)));
        break;
    default:
        other = fuzz_json_other(root, old);
        if (other)
            json_object_set_new(object, key, other);
    }
    json_decref(old);
}

static inline void fuzz_json_change_array(json_t *root, json_t *array, size_t i)
{
    json_t *old = json_incref(json_array_get(array, i)), *other = NULL;
    switch (fuzz_random(6)) {
    case 0:
        json_array_remove(array, i);
        break;
    case 1:
        json_array_insert_new(array, i, json_deep_copy(old));
        break;
    case 2:
        json_array_append_new(array, json_deep_copy(fuzz_json_within(root, 0)));
        break;
    default:
        other = fuzz_json_other(root, old);
        if (other)
            json_array_set_new(array, i, other);
    }
    json_decref(old);
}

/* Changes one value of an object or a list somewhere within. */
static inline void fuzz_json_change(json_t *root)
{
    json_t *at = root;
    for (;;) {
        size_t count = json_is_object(at) ? json_object_size(at) : json_array_size(at);
        if (!count)
            return;
        unsigned i = fuzz_random((unsigned)count);
        void *place = json_object_iter(at);
        for (unsigned k = 0; json_is_object(at) && k < i; k++)
            place = json_object_iter_next(at, place);
        json_t *next = json_is_object(at) ? json_object_iter_value(place) : json_array_get(at, i);
        int ends = !json_is_object(next) && !json_is_array(next);
        if (!ends && fuzz_random(6)) {
            at = next;
            continue;
        }
        if (json_is_object(at))
            fuzz_json_change_object(root, at, json_object_iter_key(place));
        else
            fuzz_json_change_array(root, at, i);
        return;
    }
}

/* ---- Documents ------------------------------------------------------------------------------- */

/* Changes the document data[from, to) of an input of `size`. Returns the new size; 0: it is no JSON, or grew
 * too long. */
static inline size_t fuzz_json_document(uint8_t *data, size_t size, size_t max, size_t from, size_t to)
{
    json_t *root = json_loadb((const char *)data + from, to - from, JSON_ALLOW_NUL, NULL);
    if (!root)
        return 0;
    for (unsigned i = 0, times = 1 + fuzz_random(3); i < times; i++)
        fuzz_json_change(root);
    char *text = json_dumps(root, JSON_COMPACT);
    size_t length = text ? strlen(text) : 0, rest = size - to, all = from + length + rest;
    if (length && all <= max) {
        memmove(data + from + length, data + to, rest);
        memcpy(data + from, text, length);
    }
    free(text);
    json_decref(root);
    return length && all <= max ? all : 0;
}

/* The input's documents begin behind `prefix` bytes and are separated by two bytes 0xFF, or, as lines, by
 * newlines. */
static inline size_t fuzz_json_mutate(uint8_t *data, size_t size, size_t max, unsigned seed, size_t prefix,
                                      int lines)
{
    size_t from[256], count = 0;
    fuzz_random_state = seed;
    if (size <= prefix || fuzz_random(2))
        return LLVMFuzzerMutate(data, size, max);
    from[count++] = prefix;
    for (size_t i = prefix; i + 1 < size && count < sizeof from / sizeof from[0]; i++)
        if (lines ? data[i] == '\n' : data[i] == 0xFF && data[i + 1] == 0xFF)
            from[count++] = i + (lines ? 1 : 2);
    unsigned which = fuzz_random((unsigned)count);
    size_t to = which + 1 < count ? from[which + 1] - (lines ? 1 : 2) : size;
    size_t changed = fuzz_json_document(data, size, max, from[which], to);
    return changed ? changed : LLVMFuzzerMutate(data, size, max);
}

#endif
