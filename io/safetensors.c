/* safetensors opened: one file, or the shards of an index, mapped, and their tensors found by name. Shards of
 * an index are files in its own directory and nowhere else. */
#include "safetensors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../base/ends_.h"
#include "../base/hub_.h"
#include "../base/plural_.h"
#include "../tensor/tensor_.h"
#include "directory_.h"
#include "io_.h"
#include "safetensors_.h"

/* ---- Files ----------------------------------------------------------------------------------- */

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Maps a file as the next part, whose slot exists. */
static int open_part(Safetensors *s, const char *path)
{
    SafetensorsPart *part = &s->parts[s->part_count];
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
    return safetensors_read_header(s, part, shown, base_of(path));
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
            safetensors_bad(shown, name,
                            "is said to be in %s; the name of a file beside the index is expected",
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

/* A download that stopped half-way. */
static int check_there(const char *shown, const char *directory, const char *const *names, int count)
{
    char path[PATH_BYTES];
    const char *first = NULL;
    int missing = 0;
    for (int i = 0; i < count; i++) {
        if (path_join(path, directory, names[i]))
            return error_code();
        if (access(path, F_OK) == 0 || errno != ENOENT)
            continue;
        first = first ? first : names[i];
        missing++;
    }
    if (!missing)
        return 0;
    return error_raise(
        ERROR_FILE,
        "%s: %d of the %d file%s that it names %s missing, the first is %s: the download is not "
        "complete",
        shown, missing, count, plural(count), missing == 1 ? "is" : "are", string_text(first).text);
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
            return safetensors_bad(shown, name, "is said to be in %s, and is not", value_text(value).text);
    }
    for (int i = 0; i < s->count; i++)
        if (!json_object_get(map, s->entries[i].name))
            return safetensors_bad(shown, s->entries[i].name, "is in %s, and not in the index",
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
    int status = count < 0 || check_there(shown, directory, names, count)
                     ? error_code()
                     : open_shards(s, directory, names, count);
    host_free(s->item.context, names, bytes);
    return status;
}

/* ---- All ------------------------------------------------------------------------------------- */

static int check_duplicates(const Safetensors *s, const char *shown)
{
    for (int i = 1; i < s->count; i++)
        if (!strcmp(s->by_name[i - 1]->name, s->by_name[i]->name))
            return safetensors_bad(shown, s->by_name[i]->name, "is in both %s and %s",
                                   s->by_name[i - 1]->file, s->by_name[i]->file);
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

static int open_directory(Safetensors *s, const char *named)
{
    char path[PATH_BYTES], directory[PATH_BYTES];
    if (hub_follow(directory, named))
        return error_code();
    if (path_join(path, directory, SAFETENSORS_SINGLE))
        return error_code();
    if (access(path, F_OK) == 0)
        return open_single(s, path) || sort_names(s);
    if (path_join(path, directory, SAFETENSORS_INDEX))
        return error_code();
    if (access(path, F_OK) == 0)
        return open_index(s, path);
    return directory_refuse(directory, "model.safetensors and no model.safetensors.index.json");
}

static int open_any(Safetensors *s, const char *path)
{
    size_t length = strlen(path);
    if (length >= PATH_BYTES) {
        char shown[FILE_LABEL];
        path_label(shown, path);
        return error_raise(ERROR_FILE, "%s: the path is too long", shown);
    }
    if (path_is_directory(path))
        return open_directory(s, path);
    if (text_ends(path, ".json"))
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
        error_raise(ERROR_ARGUMENT, "safetensors_open(): path is NULL");
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
