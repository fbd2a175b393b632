/* Weights written into a directory: one file, or shards and their index. Everything is on the disk under
 * temporary names before the first gets its own, and names change in an order in which whoever reads finds
 * the old weights, the new ones, or none. Readers look for model.safetensors first, then for the index. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../tensor/tensor_.h"
#include "io_.h"
#include "safetensors_.h"

enum { SHARD_NAME = 64, WAITING = -1 };

/* ---- Names ----------------------------------------------------------------------------------- */

/* i: from 0; those behind the last one are the index. */
static int path_of(char out[PATH_BYTES], const Shards *s, int i)
{
    char name[SHARD_NAME] = SAFETENSORS_INDEX;
    if (i < s->shards)
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", i + 1, s->shards);
    return path_join(out, s->directory, name);
}

/* How many shards there are, of a shard's name; 0 = it is none. */
static int shard_of(const char *name)
{
    int number = 0, of = 0, end = 0;
    int is = sscanf(name, "model-%5d-of-%5d.safetensors%n", &number, &of, &end) == 2 && end && !name[end];
    return is ? of : 0;
}

/* A shard's name that is none of ours. */
static int is_stale(const Shards *s, const char *name)
{
    int of = shard_of(name);
    return of && (s->shards < 2 || of != s->shards);
}

int is_weights_name(const char *name)
{
    return !strcmp(name, SAFETENSORS_SINGLE) || !strcmp(name, SAFETENSORS_INDEX) || shard_of(name);
}

/* ---- Which tensor goes where ----------------------------------------------------------------- */

/* The items that wait, up to this one, are a shard. */
static void close_shard(Shards *s, int end)
{
    int any = 0;
    for (int i = 0; i < end; i++)
        if (s->shard[i] == WAITING) {
            s->shard[i] = s->shards;
            any = 1;
        }
    s->shards += any;
}

/* As huggingface_hub does (split_state_dict_into_shards_factory): in order; a tensor that fills more than a
 * shard is one, and what comes after it joins the shard before. */
static int deal(Shards *s, uint64_t most)
{
    uint64_t filled = 0, bytes = 0;
    int64_t numel;
    for (int i = 0; i < s->count; i++) {
        if (safetensors_item_bytes(s->shown, &s->items[i], &numel, &bytes))
            return error_code();
        s->total += bytes;
        if (bytes > most) {
            s->shard[i] = s->shards++;
            continue;
        }
        if (bytes > most - filled) {
            close_shard(s, i);
            filled = 0;
        }
        filled += bytes;
        s->shard[i] = WAITING;
    }
    close_shard(s, s->count);
    if (s->shards <= SHARDS_MOST)
        return 0;
    return error_raise(ERROR_ARGUMENT,
                       "%s: %d files of at most %llu bytes; more than %d are not read: take larger ones",
                       s->shown, s->shards, (unsigned long long)most, SHARDS_MOST);
}

/* ---- Writing --------------------------------------------------------------------------------- */

static int no_memory(const Shards *s)
{
    return error_raise(ERROR_HOST_MEMORY, "%s: no host memory for the index", s->shown);
}

/* The caller's to decref; NULL with an error raised. */
static json_t *make_index(const Shards *s)
{
    json_t *map = json_object();
    json_t *root =
        json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)s->total, "weight_map", map);
    int failed = !root;
    for (int i = 0; i < s->count && !failed; i++) {
        const SafetensorsItem *item = &s->items[i];
        char path[PATH_BYTES];
        if (path_of(path, s, s->shard[i])) {
            failed = error_code();
            break;
        }
        json_t *file = json_string(strrchr(path, '/') + 1);
        if (json_object_get(map, item->name))
            failed = safetensors_bad_item(s->shown, item, "occurs twice");
        else if (json_object_set(map, item->name, file) != 0)
            failed = no_memory(s); /* the shards' headers have taken the name */
        json_decref(file);
    }
    if (!root)
        no_memory(s);
    json_decref(map);
    if (!failed)
        return root;
    json_decref(root);
    return NULL;
}

static int write_shard(const Shards *s, int shard)
{
    char path[PATH_BYTES];
    int taken = 0;
    for (int i = 0; i < s->count; i++)
        if (s->shard[i] == shard)
            s->taken[taken++] = s->items[i];
    return path_of(path, s, shard) ? error_code()
                                   : safetensors_write_temporary(path, s->taken, taken, NULL, s->alone);
}

static int write_index(const Shards *s)
{
    char path[PATH_BYTES];
    json_t *index = make_index(s);
    int status = !index || path_of(path, s, s->shards) ? error_code()
                                                       : json_write_temporary(index, path, JSON_SORT_KEYS);
    json_decref(index);
    return status;
}

static int single_path(char out[PATH_BYTES], const Shards *s)
{
    return path_join(out, s->directory, SAFETENSORS_SINGLE);
}

void shards_abandon(const Shards *s)
{
    char path[PATH_BYTES], temporary[PATH_BYTES];
    if (s->shards < 2) {
        if (single_path(path, s) == 0 && file_temporary(temporary, path) == 0)
            file_calls.unlink(temporary);
        return;
    }
    for (int i = 0; i <= s->shards; i++)
        if (path_of(path, s, i) == 0 && file_temporary(temporary, path) == 0)
            file_calls.unlink(temporary);
}

/* ---- Appearing ------------------------------------------------------------------------------- */

static int is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

/* Shards of other numbers, which nothing names any more. One that cannot be removed harms nobody. */
static void remove_stale(const Shards *s)
{
    char path[PATH_BYTES];
    DIR *directory = opendir(s->directory);
    for (const struct dirent *entry; directory && (entry = readdir(directory));)
        if (is_stale(s, entry->d_name) && path_join(path, s->directory, entry->d_name) == 0)
            file_calls.unlink(path);
    if (directory)
        closedir(directory);
}

static int sync_failed(const Shards *s)
{
    return error_raise(ERROR_FILE, "%s: its files are written, but the directory cannot be synced: %s",
                       s->shown, strerror(errno));
}

static int sync_names(const Shards *s)
{
    return file_sync_directory(s->directory) == 0 ? 0 : sync_failed(s);
}

/* Old shards of the same names are about to be replaced one by one: their index must not join old and new,
 * and goes. A model.safetensors hides both until it goes. 1 when the old weights can no longer be read, -1
 * after raising. */
static int hide_old(const Shards *s, const char *single, const char *index)
{
    char path[PATH_BYTES];
    int clash = 0;
    for (int i = 0; i < s->shards && !clash; i++)
        clash = path_of(path, s, i) == 0 && is_there(path);
    if (!clash || is_there(single) || !is_there(index))
        return 0;
    if (file_calls.unlink(index) != 0) {
        error_raise(ERROR_FILE, "%s: cannot remove the old index: %s; what was there before is unchanged",
                    s->shown, strerror(errno));
        return -1;
    }
    file_sync_directory(s->directory); /* there is no way back: what fails is said at the end */
    return 1;
}

static int cannot_name(const Shards *s, const char *path, int gone)
{
    return error_raise(ERROR_FILE, "%s: cannot give %s its name: %s; %s", s->shown, strrchr(path, '/') + 1,
                       strerror(errno),
                       gone ? "the old weights are gone and the new ones are not whole: export again"
                            : "what was there before is unchanged");
}

/* Every file gets its name, the index last. */
static int name_files(const Shards *s, int gone)
{
    char path[PATH_BYTES];
    for (int i = 0; i <= s->shards; i++) {
        if (i == s->shards && file_sync_directory(s->directory) != 0 && !gone)
            return sync_failed(s);
        if (path_of(path, s, i))
            return error_code();
        if (file_move(path))
            return cannot_name(s, path, gone);
    }
    return sync_names(s);
}

static int publish_shards(const Shards *s)
{
    char single[PATH_BYTES], index[PATH_BYTES];
    if (single_path(single, s) || path_of(index, s, s->shards))
        return error_code();
    int gone = hide_old(s, single, index);
    if (gone < 0 || name_files(s, gone)) {
        shards_abandon(s); /* those that have their names are no longer temporary */
        return error_code();
    }
    if (file_calls.unlink(single) != 0 && errno != ENOENT) /* it would be read before the index */
        return error_raise(
            ERROR_FILE,
            "%s: the model.safetensors that was there cannot be removed (%s), and is what readers take",
            s->shown, strerror(errno));
    remove_stale(s);
    return sync_names(s);
}

/* The new file hides an index that was there. */
static int publish_single(const Shards *s)
{
    char single[PATH_BYTES], index[PATH_BYTES];
    if (single_path(single, s) || path_join(index, s->directory, SAFETENSORS_INDEX) || file_publish(single))
        return error_code();
    if (is_there(index) && file_calls.unlink(index) != 0)
        return error_raise(ERROR_FILE, "%s: the index that was there cannot be removed: %s", s->shown,
                           strerror(errno));
    remove_stale(s);
    return sync_names(s);
}

/* ---- All ------------------------------------------------------------------------------------- */

/* An error of one rank is everybody's, where they write together. */
static int agreed(const Shards *s)
{
    return s->alone ? error_code() : ranks_agreed_();
}

static int is_first(const Shards *s)
{
    return s->alone || ranks_first_();
}

static int write_all(const Shards *s)
{
    char single[PATH_BYTES];
    int status = 0;
    if (s->shards < 2)
        return single_path(single, s)
                   ? error_code()
                   : safetensors_write_temporary(single, s->items, s->count, NULL, s->alone);
    for (int i = 0; i < s->shards && !status; i++)
        status = write_shard(s, i);
    if (!status && is_first(s))
        write_index(s);
    if (!status)
        status = agreed(s);
    if (status && is_first(s))
        shards_abandon(s);
    return status;
}

int shards_write(Shards *s, const char *directory, const SafetensorsItem *items, int count, uint64_t most,
                 int alone)
{
    *s = (Shards){.directory = directory, .items = items, .count = count, .alone = alone};
    path_label(s->shown, directory);
    s->shard = host_alloc((size_t)count * sizeof *s->shard);
    s->taken = s->shard ? host_alloc((size_t)count * sizeof *s->taken) : NULL;
    if (s->taken)
        deal(s, most ? most : SAFETENSORS_SHARD);
    int status = agreed(s);
    return status ? status : write_all(s);
}

int shards_publish(const Shards *s)
{
    return s->shards < 2 ? publish_single(s) : publish_shards(s);
}

void shards_free(Shards *s)
{
    Context *context = context_here();
    if (s->taken)
        host_free(context, s->taken, (size_t)s->count * sizeof *s->taken);
    if (s->shard)
        host_free(context, s->shard, (size_t)s->count * sizeof *s->shard);
}

int safetensors_write_shards(const char *directory, const SafetensorsItem *items, int count, uint64_t shard)
{
    Shards s;
    if (!directory || count < 0 || (count && !items))
        return error_raise(ERROR_ARGUMENT, "safetensors_write_shards(): %s",
                           directory ? "there are no items" : "directory is NULL");
    if (error_code())
        return error_code();
    int status = shards_write(&s, directory, items, count, shard, 1);
    if (!status)
        status = shards_publish(&s);
    shards_free(&s);
    return status;
}
