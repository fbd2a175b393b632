/* JSON files, and the directory that a model is written into. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../tensor/tensor_.h"
#include "config_make_.h"
#include "io_.h"
#include "weights.h"

/* ---- Files ----------------------------------------------------------------------------------- */

int json_write_temporary(const json_t *root, const char *path, size_t flags)
{
    FileWriter writer;
    if (file_begin(&writer, path) == 0) {
        file_put_json(&writer, root, JSON_INDENT(2) | JSON_REAL_PRECISION(9) | flags);
        file_put(&writer, "\n", 1);
    }
    return file_finish(&writer);
}

int json_text_write_temporary(const JsonText *text, const char *path)
{
    FileWriter writer;
    if (file_begin(&writer, path) == 0)
        file_put(&writer, text->text, text->bytes);
    return file_finish(&writer);
}

int io_write_config(const ModelPreset *preset, const char *path, SafetensorsType type)
{
    if (!preset || !path)
        return error_raise(ERROR_ARGUMENT, "io_write_config(): %s is NULL", preset ? "path" : "preset");
    JsonText text;
    int status = config_make(preset, type, NULL, NULL, NULL, &text);
    if (!status)
        status = json_text_write_temporary(&text, path);
    json_text_free(&text);
    return status ? status : file_publish(path);
}

/* ---- Where it is written ---------------------------------------------------------------------- */

int io_check_directory(const char *directory)
{
    char shown[FILE_LABEL], path[PATH_BYTES];
    FileWriter writer;
    if (!directory)
        return error_raise(ERROR_ARGUMENT, "io_check_directory(): directory is NULL");
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
