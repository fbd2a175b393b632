/* The header of a safetensors file: which tensors there are, believed only as far as the file bears them out.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "../base/plural_.h"
#include "../tensor/tensor_.h"
#include "directory_.h"
#include "io_.h"
#include "safetensors_.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors files are little-endian, and read in place"
#endif

enum { LENGTH_BYTES = 8 };

/* ---- Types ----------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int bytes;
} types[SAFETENSORS_TYPE_COUNT] = {
#define X(id, bytes) {#id, bytes},
    SAFETENSORS_TYPES(X)
#undef X
};

const char *safetensors_type_name(SafetensorsType type)
{
    return (unsigned)type < SAFETENSORS_TYPE_COUNT ? types[type].name : "unknown";
}

int safetensors_type_of(const char *name)
{
    for (int i = 0; name && i < SAFETENSORS_TYPE_COUNT; i++)
        if (!strcasecmp(types[i].name, name))
            return i;
    return -1;
}

int safetensors_type_bytes(SafetensorsType type)
{
    return types[type].bytes;
}

int safetensors_bytes(SafetensorsType type, int ndim, const int64_t *dim, int64_t *numel, uint64_t *bytes)
{
    uint64_t n = 1;
    int zero = 0;
    for (int i = 0; i < ndim; i++) {
        zero |= dim[i] == 0;
        if (dim[i] < 0 || (dim[i] > 0 && __builtin_mul_overflow(n, (uint64_t)dim[i], &n)))
            return -1;
    }
    n = zero ? 0 : n;
    if (n > INT64_MAX || __builtin_mul_overflow(n, (uint64_t)types[type].bytes, bytes))
        return -1;
    *numel = (int64_t)n;
    return 0;
}

/* ---- One tensor of a header ------------------------------------------------------------------ */

int safetensors_bad(const char *shown, const char *name, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return error_raise(ERROR_DATA, "%s: the tensor %s %s", shown, string_text(name).text, text);
}

static int read_type(const char *shown, const json_t *tensor, SafetensorsEntry *entry)
{
    const json_t *value = json_object_get(tensor, "dtype");
    for (int i = 0; json_is_string(value) && i < SAFETENSORS_TYPE_COUNT; i++)
        if (!strcmp(types[i].name, json_string_value(value))) {
            entry->type = (SafetensorsType)i;
            return 0;
        }
    return safetensors_bad(shown, entry->name,
                           "has the dtype %s, which is not known; F32, F16 and BF16 are usual",
                           value_text(value).text);
}

static int read_shape(const char *shown, const json_t *tensor, SafetensorsEntry *entry)
{
    const json_t *shape = json_object_get(tensor, "shape"), *item;
    size_t i, ndim = json_array_size(shape);
    if (!json_is_array(shape))
        return safetensors_bad(shown, entry->name, "has no shape, or none that is a list");
    if (ndim > SAFETENSORS_MAX_DIMS)
        return safetensors_bad(shown, entry->name, "has %zu dimensions; at most %d are read", ndim,
                               SAFETENSORS_MAX_DIMS);
    json_array_foreach((json_t *)shape, i, item)
    {
        if (!json_is_integer(item) || json_integer_value(item) < 0)
            return safetensors_bad(shown, entry->name, "has a shape with %s in it", value_text(item).text);
        entry->dim[i] = json_integer_value(item);
    }
    entry->ndim = (int)ndim;
    if (safetensors_bytes(entry->type, entry->ndim, entry->dim, &entry->numel, &entry->bytes))
        return safetensors_bad(shown, entry->name, "has a shape whose product is beyond 64 bits");
    return 0;
}

/* `data` is what follows the header, of so many bytes. */
static int read_place(const char *shown, const json_t *tensor, const unsigned char *data, uint64_t size,
                      SafetensorsEntry *entry)
{
    const json_t *offsets = json_object_get(tensor, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return safetensors_bad(shown, entry->name, "has no data_offsets of two whole numbers");
    json_int_t from = json_integer_value(first), to = json_integer_value(last);
    if (from < 0 || to < from)
        return safetensors_bad(shown, entry->name, "lies from %lld to %lld", (long long)from, (long long)to);
    if ((uint64_t)to > size)
        return safetensors_bad(shown, entry->name, "ends at %lld, but only %llu byte%s follow%s the header",
                               (long long)to, (unsigned long long)size, plural((long long)size),
                               size == 1 ? "s" : "");
    if ((uint64_t)(to - from) != entry->bytes)
        return safetensors_bad(shown, entry->name, "has %lld byte%s, but its shape and type (%s) take %llu",
                               (long long)(to - from), plural(to - from), types[entry->type].name,
                               (unsigned long long)entry->bytes);
    entry->data = data + from;
    return 0;
}

static int read_tensor(const char *shown, const json_t *tensor, const unsigned char *data, uint64_t size,
                       SafetensorsEntry *entry)
{
    if (!json_is_object(tensor))
        return safetensors_bad(shown, entry->name, "is %s in the header, not an object",
                               value_text(tensor).text);
    int status = read_type(shown, tensor, entry);
    if (!status)
        status = read_shape(shown, tensor, entry);
    return status ? status : read_place(shown, tensor, data, size, entry);
}

/* ---- A header -------------------------------------------------------------------------------- */

static const char metadata[] = "__metadata__";

static int by_place(const void *a, const void *b)
{
    const SafetensorsEntry *x = a, *y = b;
    const unsigned char *p = x->data, *q = y->data;
    if (p != q)
        return (p > q) - (p < q);
    if (x->bytes != y->bytes)
        return (x->bytes > y->bytes) - (x->bytes < y->bytes);
    return strcmp(x->name, y->name);
}

/* Every byte belongs to one tensor. The entries are in the order of their bytes. */
static int check_cover(const char *shown, const SafetensorsEntry *entry, int count, const unsigned char *data,
                       uint64_t size)
{
    uint64_t end = 0;
    for (int i = 0; i < count; i++) {
        uint64_t from = (uint64_t)((const unsigned char *)entry[i].data - data);
        if (from < end)
            return safetensors_bad(shown, entry[i].name, "overlaps %s", string_text(entry[i - 1].name).text);
        if (from > end)
            return safetensors_bad(shown, entry[i].name,
                                   "begins at %llu: the %llu byte%s before it belong%s to no tensor",
                                   (unsigned long long)from, (unsigned long long)(from - end),
                                   plural((long long)(from - end)), from - end == 1 ? "s" : "");
        end = from + entry[i].bytes;
    }
    if (end != size)
        return error_raise(ERROR_DATA, "%s: the last tensor ends %llu byte%s before the end", shown,
                           (unsigned long long)(size - end), plural((long long)(size - end)));
    return 0;
}

static int check_metadata(const char *shown, const json_t *root)
{
    const char *name;
    json_t *value, *object = json_object_get(root, metadata);
    if (object && !json_is_object(object))
        return error_raise(ERROR_DATA, "%s: %s must be an object of strings", shown, metadata);
    json_object_foreach(object, name, value) if (!json_is_string(value)) return error_raise(
        ERROR_DATA, "%s: %s must be an object of strings, but %s is %s", shown, metadata,
        string_text(name).text, value_text(value).text);
    return 0;
}

/* Room for the entries and names of one more header. Returns where its entries begin, or NULL. */
static SafetensorsEntry *make_room(Safetensors *s, SafetensorsPart *part, const json_t *root,
                                   const char *base, int count)
{
    MemTracker *tracker = s->item.context->tracker;
    size_t names = strlen(base) + 1, old = (size_t)s->count * sizeof *s->entries;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)root, name, value) names += strlen(name) + 1;
    part->names = host_alloc(names);
    if (!part->names)
        return NULL;
    part->names_size = names;
    SafetensorsEntry *grown =
        memtrack_host_realloc(tracker, s->entries, old, old + (size_t)count * sizeof *s->entries);
    if (!grown) {
        error_raise(ERROR_HOST_MEMORY, "out of host memory for %d tensors", count);
        return NULL;
    }
    s->entries = grown;
    SafetensorsEntry *first = grown + s->count;
    memset(first, 0, (size_t)count * sizeof *first);
    s->count += count;
    return first;
}

static int read_entries(Safetensors *s, SafetensorsPart *part, const char *shown, const char *base,
                        const json_t *root, const unsigned char *data)
{
    uint64_t size = (uint64_t)(part->bytes + part->size - data);
    size_t all = json_object_size(root) - (json_object_get(root, metadata) != NULL);
    if (check_metadata(shown, root))
        return error_code();
    SafetensorsEntry *first = make_room(s, part, root, base, (int)all), *entry = first;
    if (!first)
        return error_code();
    char *text = part->names;
    const char *name, *file = text;
    json_t *value;
    text = stpcpy(text, base) + 1;
    json_object_foreach((json_t *)root, name, value)
    {
        if (!strcmp(name, metadata))
            continue;
        entry->name = text;
        entry->file = file;
        text = stpcpy(text, name) + 1;
        if (read_tensor(shown, value, data, size, entry++))
            return error_code();
    }
    qsort(first, all, sizeof *first, by_place);
    return check_cover(shown, first, (int)all, data, size);
}

int safetensors_read_header(Safetensors *s, SafetensorsPart *part, const char *shown, const char *base)
{
    uint64_t length = 0;
    if (part->size < LENGTH_BYTES)
        return error_raise(
            ERROR_DATA,
            "%s is not a safetensors file: it has %zu byte%s, and such a file begins with %d of length",
            shown, part->size, plural((long long)part->size), LENGTH_BYTES);
    memcpy(&length, part->bytes, LENGTH_BYTES);
    if (length > part->size - LENGTH_BYTES) {
        const char *guess = file_guess(part->bytes, part->size);
        if (guess[0])
            return error_raise(ERROR_DATA, "%s is not a safetensors file%s", shown, guess);
        return error_raise(
            ERROR_DATA,
            "%s has %zu bytes, but says that its header has %llu: it is not a safetensors file, or was "
            "cut short",
            shown, part->size, (unsigned long long)length);
    }
    if (length > HEADER_MOST)
        return error_raise(ERROR_DATA, "%s has a header of %llu bytes; more than %d are refused", shown,
                           (unsigned long long)length, HEADER_MOST);
    const unsigned char *text = part->bytes + LENGTH_BYTES;
    if (length == 0 || text[0] != '{')
        return error_raise(ERROR_DATA, "%s: the header must begin with '{'%s", shown,
                           file_guess(part->bytes, part->size));
    json_t *root = json_parse(shown, "a safetensors header", (const char *)text, (size_t)length);
    if (!root)
        return error_code();
    int status = read_entries(s, part, shown, base, root, text + length);
    json_decref(root);
    return status;
}
