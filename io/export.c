/* A model written for others: weights, configuration, tokenizer. All files are on the disk under temporary
 * names before the first gets its own. Where only weights change, a reader finds the old ones or the new
 * ones. Where more changes, the old configuration and weights go first and the new configuration comes last:
 * at any moment between there is no model, rather than a mixture of two. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../tensor/tensor_.h"
#include "export_.h"
#include "io_.h"
#include "weights_.h"

enum { COPY_MOST = 256 << 20 };

/* ---- Temporary files ------------------------------------------------------------------------- */

static int copy_temporary(const char *from, const char *to)
{
    char shown[FILE_LABEL];
    size_t bytes = 0;
    FileWriter writer;
    path_label(shown, from);
    int file = file_open_input(from, shown, "a file of the model", COPY_MOST, &bytes);
    if (file < 0)
        return error_code();
    const void *mapped = memtrack_map_file(file, bytes);
    close(file);
    if (!mapped)
        return error_raise(ERROR_HOST_MEMORY, "%s: the system does not map its %zu bytes", shown, bytes);
    if (file_begin(&writer, to) == 0)
        file_put(&writer, mapped, bytes);
    memtrack_unmap_file(mapped, bytes);
    return file_finish(&writer);
}

static int make_temporary(const Export *e, const ExportFile *file, const char *to)
{
    JsonText text;
    int status = export_make(e, file->name, &text);
    if (!status)
        status = json_text_write_temporary(&text, to);
    json_text_free(&text);
    return status;
}

/* The folder that the file's name says. 0 or raises. */
static int make_folder(const char *path)
{
    char folder[PATH_BYTES], shown[FILE_LABEL];
    size_t length = (size_t)(strrchr(path, '/') - path);
    memcpy(folder, path, length);
    folder[length] = '\0';
    if (file_calls.mkdir(folder, 0777) == 0 || errno == EEXIST)
        return 0;
    path_label(shown, folder);
    return error_raise(ERROR_FILE, "%s: cannot make the directory: %s", shown, strerror(errno));
}

static int stage(Export *e)
{
    char from[PATH_BYTES], to[PATH_BYTES];
    for (; e->staged < e->count; e->staged++) {
        const ExportFile *file = &e->files[e->staged];
        if (path_join(to, e->directory, file->name) || (strchr(file->name, '/') && make_folder(to)))
            return error_code();
        if (file->from == EXPORT_MADE ? make_temporary(e, file, to)
                                      : export_source_path(from, e, file) || copy_temporary(from, to))
            return error_code();
    }
    return 0;
}

static void abandon(const Export *e)
{
    char path[PATH_BYTES], temporary[PATH_BYTES];
    for (int i = 0; i < e->staged; i++) {
        if (path_join(path, e->directory, e->files[i].name) || file_temporary(temporary, path))
            continue;
        file_calls.unlink(temporary);
        if (strchr(e->files[i].name, '/')) {
            *strrchr(path, '/') = '\0';
            file_calls.rmdir(path); /* if nothing else is in it */
        }
    }
}

/* ---- Appearing ------------------------------------------------------------------------------- */

static int changes(const Export *e, const ExportFile *file)
{
    char path[PATH_BYTES], temporary[PATH_BYTES];
    return path_join(path, e->directory, file->name) || file_temporary(temporary, path) ||
           !files_equal(path, temporary);
}

/* The name of a file that is another model's, from an open directory; NULL = there is no further one. */
static const char *next_foreign(const Export *e, DIR *directory)
{
    for (const struct dirent *entry; directory && (entry = readdir(directory));)
        if (export_is_foreign(e, entry->d_name))
            return entry->d_name;
    return NULL;
}

/* Whether anything but the weights changes. */
static int others_change(const Export *e)
{
    int any = 0;
    for (int i = 0; i < e->count && !any; i++)
        any = changes(e, &e->files[i]);
    DIR *directory = opendir(e->directory);
    any = any || next_foreign(e, directory);
    if (directory)
        closedir(directory);
    return any;
}

/* From here on there is no model. */
static int hide_old(const Export *e)
{
    static const char *const names[] = {"config.json", SAFETENSORS_SINGLE, SAFETENSORS_INDEX};
    char path[PATH_BYTES];
    int any = 0;
    for (size_t i = e->preset ? 0 : 1; i < sizeof names / sizeof names[0]; i++) {
        if (path_join(path, e->directory, names[i]))
            return error_code();
        if (access(path, F_OK) != 0)
            continue;
        any = 1;
        if (replace_remove(e->directory, names[i]))
            return error_code();
    }
    return any ? replace_sync(e->directory) : 0;
}

static int remove_foreign(const Export *e)
{
    DIR *directory = opendir(e->directory);
    int status = 0;
    for (const char *name; !status && (name = next_foreign(e, directory));)
        status = replace_remove(e->directory, name);
    if (directory)
        closedir(directory);
    return status;
}

/* The configuration, or all the others. */
static int name_files(const Export *e, int config)
{
    char path[PATH_BYTES];
    for (int i = 0; i < e->count; i++) {
        const char *name = e->files[i].name;
        if ((strcmp(name, "config.json") == 0) != config)
            continue;
        if (path_join(path, e->directory, name))
            return error_code();
        if (file_move(path))
            return replace_failed(e->directory, "give its name to", name);
        if (!strchr(name, '/'))
            continue;
        *strrchr(path, '/') = '\0';
        if (file_sync_directory(path))
            return replace_failed(e->directory, "sync the folder of", name);
    }
    return replace_sync(e->directory);
}

static int publish(const Export *e, const Shards *weights)
{
    if (!others_change(e)) {
        abandon(e); /* they are there */
        return shards_publish(weights);
    }
    int status = hide_old(e);
    if (!status)
        status = remove_foreign(e);
    if (!status)
        status = name_files(e, 0);
    if (status)
        shards_abandon(weights);
    else
        status = shards_publish(weights);
    if (!status)
        status = name_files(e, 1);
    if (status)
        abandon(e);
    return status;
}

/* ---- All ------------------------------------------------------------------------------------- */

/* Of several ranks, the first one does all but the weights, which each writes what it has of; what one cannot
 * do ends it for all. */
static int save_items(Export *e, const SafetensorsItem *items, int count)
{
    Shards weights;
    if (ranks_first_() && !error_code())
        stage(e);
    int status = ranks_agreed_();
    if (!status) {
        status = shards_write(&weights, e->directory, items, count, e->how->shard, 0);
        if (!status && ranks_first_())
            publish(e, &weights);
        else
            abandon(e);
        shards_free(&weights);
        return status ? status : ranks_agreed_();
    }
    abandon(e);
    return status;
}

/* What is written: the pieces of all parameters, under their names in files. */
typedef struct Written {
    SafetensorsItem *items;
    char *names;
    size_t name_bytes;
    int count;
} Written;

static size_t bytes_of_names(const FamilyNames *family, TensorList list)
{
    size_t bytes = 0;
    for (int i = 0; i < list.count; i++)
        for (int k = 0; k < file_pieces(family, list.items[i]); k++)
            bytes += strlen(file_piece(family, list.items[i], k).name) + 1;
    return bytes;
}

static void add_parameter(Written *w, const FamilyNames *family, const Tensor *parameter,
                          SafetensorsType type, char **name)
{
    for (int k = 0; k < file_pieces(family, parameter); k++) {
        FilePiece piece = file_piece(family, parameter, k);
        SafetensorsItem *item = &w->items[w->count++];
        *item = safetensors_item(*name, type, parameter);
        item->ndim = piece.shape.ndim;
        memcpy(item->dim, piece.shape.dim, (size_t)piece.shape.ndim * sizeof *piece.shape.dim);
        item->first = piece.first;
        strcpy(*name, piece.name);
        *name += strlen(*name) + 1;
    }
}

static int save_parameters(Export *e, const Module *model, TensorList list)
{
    const FamilyNames *family = family_names(nn_class_name(model));
    Written w = {.name_bytes = bytes_of_names(family, list)};
    size_t bytes = (size_t)file_piece_count(family, list) * sizeof *w.items;
    w.items = host_alloc(bytes);
    w.names = w.items ? host_alloc(w.name_bytes) : NULL;
    char *name = w.names;
    for (int i = 0; w.names && i < list.count; i++)
        add_parameter(&w, family, list.items[i], e->how->type, &name);
    int status = save_items(e, w.items, w.count);
    if (w.names)
        host_free(context_here(), w.names, w.name_bytes);
    if (w.items)
        host_free(context_here(), w.items, bytes);
    return status;
}

static int arguments(const char *function, const Module *model, const char *directory,
                     const WeightsSaving *how)
{
    if (!model || !directory)
        return error_raise(ERROR_ARGUMENT, "%s: %s is NULL", function, model ? "directory" : "model");
    if (how->type > SAFETENSORS_BF16)
        return error_raise(ERROR_ARGUMENT, "%s: weights are written as F32, F16 or BF16, not %s", function,
                           safetensors_type_name(how->type));
    return error_code();
}

static const WeightsSaving defaults;

int io_check_export(Module *model, const ModelPreset *preset, const char *directory, const WeightsSaving *how)
{
    Export e;
    how = how ? how : &defaults;
    if (arguments("io_check_export", model, directory, how) || export_list(&e, preset, directory, how))
        return error_code();
    return export_check(&e, model);
}

int io_save_weights(Module *model, const ModelPreset *preset, const char *directory, const WeightsSaving *how)
{
    Export e;
    how = how ? how : &defaults;
    if (arguments("io_save_weights", model, directory, how))
        return error_code();
    TensorList list = nn_parameters(model);
    if (context_is_meta(context_current()))
        return error_code();
    e = (Export){.directory = directory, .how = how};
    if (!error_code() && ranks_first_() && export_list(&e, preset, directory, how) == 0 &&
        export_check(&e, model) == 0)
        io_check_directory(directory);
    int status = ranks_agreed_();
    return status ? status : save_parameters(&e, model, list);
}
