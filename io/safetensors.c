/* safetensors read: maps files, believes of a header only what the file bears out, and finds tensors by name.
 * Shards of an index are files in its own directory and nowhere else. */
#include "safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "../tensor/tensor_.h"
#include "half_.h"
#include "io_.h"
#include "safetensors_.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors files are little-endian, and read in place"
#endif

enum {
    HEADER_MOST = 16 << 20, /* some 100 000 tensors; a parsed header takes a small multiple of it */
    SHARDS_MOST = 4096,
    LENGTH_BYTES = 8,
    CHUNK = 1 << 20 /* elements between two forgettings */
};

typedef struct Part {
    const unsigned char *bytes; /* mapped */
    size_t size;
    char *names; /* of its tensors and, first, its own base name */
    size_t names_size;
} Part;

struct Safetensors {
    ScopeItem item;
    Part *parts;
    int part_count, part_room;
    SafetensorsEntry *entries;
    int count;
    const SafetensorsEntry **by_name;
};

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

/* "FILE: the tensor "NAME" …" */
static int bad_tensor(const char *shown, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int bad_tensor(const char *shown, const char *name, const char *format, ...)
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
    return bad_tensor(shown, entry->name, "has the dtype %s, which is not known; F32, F16 and BF16 are usual",
                      value_text(value).text);
}

static int read_shape(const char *shown, const json_t *tensor, SafetensorsEntry *entry)
{
    const json_t *shape = json_object_get(tensor, "shape"), *item;
    size_t i, ndim = json_array_size(shape);
    if (!json_is_array(shape))
        return bad_tensor(shown, entry->name, "has no shape, or none that is a list");
    if (ndim > SAFETENSORS_MAX_DIMS)
        return bad_tensor(shown, entry->name, "has %zu dimensions; at most %d are read", ndim,
                          SAFETENSORS_MAX_DIMS);
    json_array_foreach((json_t *)shape, i, item)
    {
        if (!json_is_integer(item) || json_integer_value(item) < 0)
            return bad_tensor(shown, entry->name, "has a shape with %s in it", value_text(item).text);
        entry->dim[i] = json_integer_value(item);
    }
    entry->ndim = (int)ndim;
    if (safetensors_bytes(entry->type, entry->ndim, entry->dim, &entry->numel, &entry->bytes))
        return bad_tensor(shown, entry->name, "has a shape whose product is beyond 64 bits");
    return 0;
}

/* `data` is what follows the header, of so many bytes. */
static int read_place(const char *shown, const json_t *tensor, const unsigned char *data, uint64_t size,
                      SafetensorsEntry *entry)
{
    const json_t *offsets = json_object_get(tensor, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return bad_tensor(shown, entry->name, "has no data_offsets of two whole numbers");
    json_int_t from = json_integer_value(first), to = json_integer_value(last);
    if (from < 0 || to < from)
        return bad_tensor(shown, entry->name, "lies from %lld to %lld", (long long)from, (long long)to);
    if ((uint64_t)to > size)
        return bad_tensor(shown, entry->name, "ends at %lld, but only %llu bytes follow the header",
                          (long long)to, (unsigned long long)size);
    if ((uint64_t)(to - from) != entry->bytes)
        return bad_tensor(shown, entry->name, "has %lld bytes, but its shape and type (%s) take %llu",
                          (long long)(to - from), types[entry->type].name, (unsigned long long)entry->bytes);
    entry->data = data + from;
    return 0;
}

static int read_tensor(const char *shown, const json_t *tensor, const unsigned char *data, uint64_t size,
                       SafetensorsEntry *entry)
{
    if (!json_is_object(tensor))
        return bad_tensor(shown, entry->name, "is %s in the header, not an object", value_text(tensor).text);
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
            return bad_tensor(shown, entry[i].name, "overlaps %s", string_text(entry[i - 1].name).text);
        if (from > end)
            return bad_tensor(shown, entry[i].name, "begins at %llu: the %llu bytes before it are nobody's",
                              (unsigned long long)from, (unsigned long long)(from - end));
        end = from + entry[i].bytes;
    }
    if (end != size)
        return error_raise(ERROR_DATA, "%s: %llu bytes follow the last tensor", shown,
                           (unsigned long long)(size - end));
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
static SafetensorsEntry *make_room(Safetensors *s, Part *part, const json_t *root, const char *base,
                                   int count)
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

static int read_entries(Safetensors *s, Part *part, const char *shown, const char *base, const json_t *root,
                        const unsigned char *data)
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

/* What a file that is none may be. */
static const char *guess(const unsigned char *bytes, size_t size)
{
    static const char lfs[] = "version https://git-lfs";
    if (size > 4 && (!memcmp(bytes, "PK\3\4", 4) || bytes[0] == 0x80))
        return "; it looks like a pickle of PyTorch: save it again with save_pretrained(…, "
               "safe_serialization=True)";
    if (size >= sizeof lfs && !memcmp(bytes, lfs, sizeof lfs - 1))
        return "; it is a pointer of Git LFS, not the file: git lfs pull fetches that";
    return "";
}

static int read_header(Safetensors *s, Part *part, const char *shown, const char *base)
{
    uint64_t length = 0;
    if (part->size < LENGTH_BYTES)
        return error_raise(ERROR_DATA, "%s has %zu bytes; a safetensors file begins with %d of length", shown,
                           part->size, LENGTH_BYTES);
    memcpy(&length, part->bytes, LENGTH_BYTES);
    if (length > part->size - LENGTH_BYTES)
        return error_raise(ERROR_DATA, "%s has %zu bytes, but says that its header has %llu%s", shown,
                           part->size, (unsigned long long)length, guess(part->bytes, part->size));
    if (length > HEADER_MOST)
        return error_raise(ERROR_DATA, "%s has a header of %llu bytes; more than %d are refused", shown,
                           (unsigned long long)length, HEADER_MOST);
    const unsigned char *text = part->bytes + LENGTH_BYTES;
    if (length == 0 || text[0] != '{')
        return error_raise(ERROR_DATA, "%s: the header must begin with '{'%s", shown,
                           guess(part->bytes, part->size));
    json_t *root = json_parse(shown, "a safetensors header", (const char *)text, (size_t)length);
    if (!root)
        return error_code();
    int status = read_entries(s, part, shown, base, root, text + length);
    json_decref(root);
    return status;
}

/* ---- Files ----------------------------------------------------------------------------------- */

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Maps a file as the next part, whose slot exists. */
static int open_part(Safetensors *s, const char *path)
{
    Part *part = &s->parts[s->part_count];
    char shown[FILE_LABEL];
    path_label(shown, path);
    int file = file_open_input(path, shown, "a safetensors file", SIZE_MAX / 2, &part->size);
    if (file < 0)
        return error_code();
    part->bytes = memtrack_map_file(file, part->size);
    close(file);
    if (!part->bytes)
        return error_raise(ERROR_HOST_MEMORY, "%s: the system does not map its %zu bytes", shown, part->size);
    s->part_count++;
    return read_header(s, part, shown, base_of(path));
}

static int need_parts(Safetensors *s, int count)
{
    s->parts = host_alloc((size_t)count * sizeof *s->parts);
    s->part_room = s->parts ? count : 0;
    return s->parts ? 0 : error_code();
}

static int open_single(Safetensors *s, const char *path)
{
    return need_parts(s, 1) ? error_code() : open_part(s, path);
}

/* ---- An index -------------------------------------------------------------------------------- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The names of files, each once, sorted, into `names`, which has room for all; returns how many, or -1. */
static int shard_names(const char *shown, json_t *map, const char **names)
{
    const char *name;
    json_t *value;
    size_t n = 0, distinct = 0;
    json_object_foreach(map, name, value)
    {
        const char *file = json_is_string(value) ? json_string_value(value) : "";
        if (!file[0] || strchr(file, '/') || !strcmp(file, ".") || !strcmp(file, "..")) {
            bad_tensor(shown, name, "is said to be in %s; the name of a file beside the index is expected",
                       value_text(value).text);
            return -1;
        }
        names[n++] = file;
    }
    qsort(names, n, sizeof *names, by_text);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(names[i], names[i - 1]))
            names[distinct++] = names[i];
    if (distinct <= SHARDS_MOST)
        return (int)distinct;
    error_raise(ERROR_DATA, "%s names %zu files; more than %d are refused", shown, distinct, SHARDS_MOST);
    return -1;
}

static int open_shards(Safetensors *s, const char *directory, const char *const *names, int count)
{
    char path[PATH_BYTES];
    if (need_parts(s, count))
        return error_code();
    for (int i = 0; i < count; i++)
        if (path_join(path, directory, names[i]) || open_part(s, path))
            return error_code();
    return 0;
}

/* The index and the files say the same. by_name is there. */
static int check_index(const Safetensors *s, const char *shown, json_t *map)
{
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value)
    {
        const SafetensorsEntry *entry = safetensors_find(s, name);
        if (!entry || strcmp(entry->file, json_string_value(value)))
            return bad_tensor(shown, name, "is said to be in %s, and is not", value_text(value).text);
    }
    for (int i = 0; i < s->count; i++)
        if (!json_object_get(map, s->entries[i].name))
            return bad_tensor(shown, s->entries[i].name, "is in %s, and not in the index",
                              s->entries[i].file);
    return 0;
}

static int by_entry(const void *a, const void *b)
{
    const SafetensorsEntry *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int sort_names(Safetensors *s)
{
    s->by_name = host_alloc((size_t)s->count * sizeof *s->by_name);
    if (!s->by_name)
        return error_code();
    for (int i = 0; i < s->count; i++)
        s->by_name[i] = &s->entries[i];
    qsort(s->by_name, (size_t)s->count, sizeof *s->by_name, by_entry);
    return 0;
}

static int open_map(Safetensors *s, const char *path, const char *shown, json_t *map)
{
    char directory[PATH_BYTES];
    size_t bytes = json_object_size(map) * sizeof(const char *);
    const char **names = bytes ? host_alloc(bytes) : NULL;
    if (!names)
        return bytes ? error_code() : error_raise(ERROR_DATA, "%s has no weight_map, or an empty one", shown);
    memcpy(directory, path, strlen(path) + 1);
    char *slash = strrchr(directory, '/');
    strcpy(slash ? slash + 1 : directory, slash ? "" : "./");
    int count = shard_names(shown, map, names);
    int status = count < 0 ? error_code() : open_shards(s, directory, names, count);
    host_free(s->item.context, names, bytes);
    return status;
}

/* ---- All ------------------------------------------------------------------------------------- */

static int check_duplicates(const Safetensors *s, const char *shown)
{
    for (int i = 1; i < s->count; i++)
        if (!strcmp(s->by_name[i - 1]->name, s->by_name[i]->name))
            return bad_tensor(shown, s->by_name[i]->name, "is in both %s and %s", s->by_name[i - 1]->file,
                              s->by_name[i]->file);
    return 0;
}

static int open_index(Safetensors *s, const char *path)
{
    char shown[FILE_LABEL];
    path_label(shown, path);
    json_t *root = json_read_file(path, shown, "an index of safetensors files", HEADER_MOST);
    if (!root)
        return error_code();
    json_t *map = json_object_get(root, "weight_map");
    int status = open_map(s, path, shown, map);
    if (!status)
        status = sort_names(s);
    if (!status)
        status = check_duplicates(s, shown);
    if (!status)
        status = check_index(s, shown, map);
    json_decref(root);
    return status;
}

static int open_directory(Safetensors *s, const char *directory)
{
    static const char *const pickles[] = {"pytorch_model.bin", "pytorch_model.bin.index.json"};
    char path[PATH_BYTES], shown[FILE_LABEL];
    path_label(shown, directory);
    if (path_join(path, directory, "model.safetensors"))
        return error_code();
    if (access(path, F_OK) == 0)
        return open_single(s, path) || sort_names(s);
    if (path_join(path, directory, "model.safetensors.index.json"))
        return error_code();
    if (access(path, F_OK) == 0)
        return open_index(s, path);
    for (int i = 0; i < 2; i++)
        if (path_join(path, directory, pickles[i]) == 0 && access(path, F_OK) == 0)
            return error_raise(ERROR_FILE,
                               "%s has its weights in a pickle (%s), which is not read: save them "
                               "again with save_pretrained(…, safe_serialization=True)",
                               shown, pickles[i]);
    return error_raise(ERROR_FILE, "%s has no model.safetensors and no model.safetensors.index.json", shown);
}

static int open_any(Safetensors *s, const char *path)
{
    size_t length = strlen(path);
    if (length >= PATH_BYTES)
        return error_raise(ERROR_FILE, "%.40s…: the path is too long", path);
    if (path_is_directory(path))
        return open_directory(s, path);
    if (length > 5 && !strcmp(path + length - 5, ".json"))
        return open_index(s, path);
    return open_single(s, path) || sort_names(s);
}

static void destroy_item(ScopeItem *item)
{
    Safetensors *s = (Safetensors *)item; /* the item is the first member */
    Context *context = item->context;
    MemTracker *tracker = context->tracker;
    for (int i = s->part_count; i > 0; i--) {
        memtrack_unmap_file(s->parts[i - 1].bytes, s->parts[i - 1].size);
        memtrack_host_free(tracker, s->parts[i - 1].names, s->parts[i - 1].names_size);
    }
    memtrack_host_free(tracker, s->by_name, (size_t)s->count * sizeof *s->by_name);
    memtrack_host_free(tracker, s->entries, (size_t)s->count * sizeof *s->entries);
    memtrack_host_free(tracker, s->parts, (size_t)s->part_room * sizeof *s->parts);
    host_free(context, s, sizeof *s);
}

void safetensors_close(Safetensors *s)
{
    if (!s)
        return;
    scope_release(&s->item);
    destroy_item(&s->item);
}

Safetensors *safetensors_open(const char *path)
{
    const Context *context = context_here();
    if (!context || context->error)
        return NULL;
    if (!path) {
        error_raise(ERROR_ARGUMENT, "safetensors_open: path is NULL");
        return NULL;
    }
    Safetensors *s = host_alloc(sizeof *s);
    if (!s)
        return NULL;
    scope_adopt(&s->item, destroy_item);
    if (open_any(s, path) == 0)
        return s;
    safetensors_close(s);
    return NULL;
}

int safetensors_count(const Safetensors *s)
{
    return s ? s->count : 0;
}

const SafetensorsEntry *safetensors_at(const Safetensors *s, int i)
{
    return s && i >= 0 && i < s->count ? &s->entries[i] : NULL;
}

const SafetensorsEntry *safetensors_find(const Safetensors *s, const char *name)
{
    if (!s || !name)
        return NULL;
    SafetensorsEntry key = {.name = name};
    const SafetensorsEntry *wanted = &key;
    const SafetensorsEntry **found =
        bsearch(&wanted, s->by_name, (size_t)s->count, sizeof *s->by_name, by_entry);
    return found ? *found : NULL;
}

/* ---- Elements -------------------------------------------------------------------------------- */

const float *safetensors_f32(const SafetensorsEntry *entry)
{
    int fits = entry && entry->type == SAFETENSORS_F32 && (uintptr_t)entry->data % sizeof(float) == 0;
    return fits ? entry->data : NULL;
}

static const Part *part_of(const Safetensors *s, const unsigned char *data)
{
    int i = 0;
    while (i + 1 < s->part_count &&
           !(data >= s->parts[i].bytes && data <= s->parts[i].bytes + s->parts[i].size))
        i++;
    return &s->parts[i];
}

static void decode(SafetensorsType type, size_t n, const void *from, float *to)
{
    if (type == SAFETENSORS_F16)
        half_decode_f16(n, from, to);
    else if (type == SAFETENSORS_BF16)
        half_decode_bf16(n, from, to);
    else
        memcpy(to, from, n * sizeof *to);
}

int safetensors_read(const Safetensors *s, const SafetensorsEntry *entry, float *to)
{
    if (!s || !entry || !to)
        return error_raise(ERROR_ARGUMENT, "safetensors_read: an argument is NULL");
    if (entry->type > SAFETENSORS_BF16)
        return bad_tensor(entry->file, entry->name, "is %s; F32, F16 and BF16 can be read as numbers",
                          types[entry->type].name);
    const unsigned char *data = entry->data;
    const Part *part = part_of(s, data);
    size_t size = (size_t)types[entry->type].bytes;
    for (size_t done = 0, n = (size_t)entry->numel; done < n;) {
        size_t count = n - done < CHUNK ? n - done : CHUNK;
        decode(entry->type, count, data + done * size, to + done);
        memtrack_map_forget(part->bytes, data + done * size, count * size);
        done += count;
    }
    return 0;
}
