/* The configuration that transformers builds the same model from. Every field that decides something is
 * written, whatever transformers' default is. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../tensor/tensor_.h"
#include "export_.h"
#include "family_.h"

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

int config_exists(const ModelPreset *preset)
{
    const FamilyFiles *files = preset ? family_files(preset->family) : NULL;
    return files && files->write;
}

json_t *config_make(const ModelPreset *preset, SafetensorsType type, const char *source)
{
    const FamilyFiles *files = family_files(preset->family);
    if (!config_exists(preset)) {
        error_raise(ERROR_ARGUMENT,
                    "transformers has no %s, so no config.json is written for one; its weights can be saved "
                    "without",
                    files ? nn_family(preset->family)->name : "such model");
        return NULL;
    }
    if (files->check && files->check(preset))
        return NULL;
    json_t *root = json_object();
    files->write(&root, preset);
    config_put(&root, "torch_dtype", json_string(torch_name(type)));
    if (!root)
        no_memory("config.json");
    else if (source && source_fields(source, root)) {
        json_decref(root);
        root = NULL;
    }
    return root;
}

int io_write_config(const ModelPreset *preset, const char *path, SafetensorsType type)
{
    if (!preset || !path)
        return error_raise(ERROR_ARGUMENT, "io_write_config: %s is NULL", preset ? "path" : "preset");
    json_t *root = config_make(preset, type, NULL);
    int status = root ? json_write_file(root, path) : error_code();
    json_decref(root);
    return status;
}

/* ---- Where it is written ---------------------------------------------------------------------- */

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
