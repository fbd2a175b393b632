/* Saving: the parameters under their own names, and the configuration that transformers builds the same model
 * from. Every field that decides something is written, whatever transformers' default is. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../tensor/tensor_.h"
#include "family_.h"
#include "weights.h"

/* ---- config.json ----------------------------------------------------------------------------- */

static int no_memory(const char *shown)
{
    return error_raise(ERROR_HOST_MEMORY, "%s: no host memory to write it", shown);
}

int json_write_temporary(const json_t *root, const char *path, size_t flags)
{
    FileWriter writer;
    if (file_begin(&writer, path) == 0) {
        file_put_json(&writer, root, JSON_INDENT(2) | JSON_REAL_PRECISION(9) | flags);
        file_put(&writer, "\n", 1);
    }
    return file_finish(&writer);
}

int json_write_file(const json_t *root, const char *path)
{
    int status = json_write_temporary(root, path, 0);
    return status ? status : file_publish(path);
}

static const char *torch_name(SafetensorsType type)
{
    return type == SAFETENSORS_F16 ? "float16" : type == SAFETENSORS_BF16 ? "bfloat16" : "float32";
}

static int write_config_temporary(const ModelPreset *preset, const char *path, SafetensorsType type)
{
    if (!preset || !path)
        return error_raise(ERROR_ARGUMENT, "io_write_config: %s is NULL", preset ? "path" : "preset");
    const FamilyFiles *files = family_files(preset->family);
    if (!files || !files->write)
        return error_raise(ERROR_ARGUMENT,
                           "io_write_config: transformers has no %s; its weights can be saved "
                           "without a configuration",
                           files ? nn_family(preset->family)->name : "such model");
    if (files->check && files->check(preset))
        return error_code();
    json_t *root = json_object();
    files->write(&root, preset);
    config_put(&root, "torch_dtype", json_string(torch_name(type)));
    int status = root ? json_write_temporary(root, path, 0) : no_memory(path);
    json_decref(root);
    return status;
}

int io_write_config(const ModelPreset *preset, const char *path, SafetensorsType type)
{
    int status = write_config_temporary(preset, path, type);
    return status ? status : file_publish(path);
}

/* ---- Weights --------------------------------------------------------------------------------- */

int io_check_directory(const char *directory)
{
    char shown[FILE_LABEL], path[PATH_BYTES];
    FileWriter writer;
    if (!directory)
        return error_raise(ERROR_ARGUMENT, "io_check_directory: directory is NULL");
    path_label(shown, directory);
    if (mkdir(directory, 0777) != 0 && errno != EEXIST)
        return error_raise(ERROR_FILE, "%s: cannot make the directory: %s", shown, strerror(errno));
    if (!path_is_directory(directory))
        return error_raise(ERROR_FILE, "%s is not a directory", shown);
    if (path_join(path, directory, "model.safetensors") || file_begin(&writer, path))
        return error_code();
    file_abandon(&writer);
    return 0;
}

static int save_parameters(TensorList list, const char *directory, const WeightsSaving *how)
{
    size_t bytes = (size_t)list.count * sizeof(SafetensorsItem);
    SafetensorsItem *items = host_alloc(bytes);
    if (!items)
        return error_code();
    for (int i = 0; i < list.count; i++) {
        Shape shape = tensor_shape(list.items[i]);
        items[i] = (SafetensorsItem){.name = tensor_name(list.items[i]),
                                     .type = how->type,
                                     .ndim = shape.ndim,
                                     .data = tensor_f32(list.items[i])};
        memcpy(items[i].dim, shape.dim, sizeof shape.dim);
    }
    int status =
        error_code() ? error_code() : safetensors_write_shards(directory, items, list.count, how->shard);
    host_free(context_here(), items, bytes);
    return status;
}

int io_save_weights(Module *model, const ModelPreset *preset, const char *directory, const WeightsSaving *how)
{
    static const WeightsSaving defaults;
    char path[PATH_BYTES], temporary[PATH_BYTES];
    how = how ? how : &defaults;
    if (!model || !directory)
        return error_raise(ERROR_ARGUMENT, "io_save_weights: %s is NULL", model ? "directory" : "model");
    if (how->type > SAFETENSORS_BF16)
        return error_raise(ERROR_ARGUMENT, "io_save_weights: weights are written as F32, F16 or BF16, not %s",
                           safetensors_type_name(how->type));
    TensorList list = nn_parameters(model);
    if (error_code() || context_is_meta(context_current()))
        return error_code();
    /* What can fail comes before the first file gets its name. */
    int described = preset && family_files(preset->family) && family_files(preset->family)->write;
    if (io_check_directory(directory) || path_join(path, directory, "config.json") ||
        (described && write_config_temporary(preset, path, how->type)))
        return error_code();
    if (save_parameters(list, directory, how)) {
        if (described && file_temporary(temporary, path) == 0)
            file_calls.unlink(temporary);
        return error_code();
    }
    return described ? file_publish(path) : 0;
}
