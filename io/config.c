/* A config.json from its path to a model: opening, parsing, and errors that say where. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../tensor/tensor_.h"
#include "../base/hub_.h"
#include "../base/printable_.h"
#include "directory_.h"
#include "io_.h"

enum { MOST_BYTES = 1 << 20 };

/* ---- Paths ----------------------------------------------------------------------------------- */

/* Of the path, as text: UTF-8, whatever the bytes of the name are and wherever it has to end. */
static void base_name(char *out, size_t size, const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t from = end;
    while (from > 0 && path[from - 1] != '/')
        from--;
    size_t n = 0;
    for (; from < end && n + 1 < size; from++)
        out[n++] = path[from];
    for (; from < end && n > 0 && ((unsigned char)path[from] & 0xC0) == 0x80; from--)
        n--; /* not within a letter of several bytes */
    out[n] = '\0';
    make_printable(out);
    json_t *text = json_string(out);
    for (size_t i = 0; !text && i < n; i++)
        out[i] = (unsigned char)out[i] < 0x80 ? out[i] : '?';
    json_decref(text);
    if (!n)
        snprintf(out, size, "config");
}

/* ---- Reading --------------------------------------------------------------------------------- */

static int read_all(int file, const char *shown, char *to, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t got = read(file, to + done, bytes - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_raise(ERROR_FILE, "%s: cannot read: %s", shown, strerror(errno));
        if (got == 0)
            return error_raise(ERROR_FILE, "%s became shorter while it was read", shown);
        done += (size_t)got;
    }
    return ERROR_NONE;
}

json_t *json_parse(const char *shown, const char *what, const char *text, size_t bytes)
{
    json_error_t error = {.line = -1};
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    int object = json_is_object(root);
    if (object)
        return root;
    if (root)
        error_raise(ERROR_DATA, "%s: %s is one object {…}, not a list", shown, what);
    else if (error.line < 0 || json_error_code(&error) == json_error_out_of_memory)
        error_raise(ERROR_HOST_MEMORY, "%s: no host memory to read it", shown);
    else
        error_raise(ERROR_DATA, "%s: line %d, column %d is not JSON: %s", shown, error.line, error.column,
                    string_text(error.text).text);
    json_decref(root);
    return NULL;
}

static int read_text(const char *path, const char *shown, const char *what, size_t most, JsonText *out)
{
    size_t bytes = 0;
    int file = file_open_input(path, shown, what, most, &bytes);
    *out = (JsonText){file >= 0 ? host_alloc(bytes + 1) : NULL, bytes};
    int status = out->text ? read_all(file, shown, out->text, bytes) : error_code();
    if (file >= 0)
        close(file);
    if (status)
        json_text_free(out);
    return status;
}

/* Changes the text, where it has numbers that are too large. */
static json_t *parse_text(const char *shown, const char *what, const JsonText *text)
{
    json_shorten_integers(text->text, text->bytes);
    return json_parse(shown, what, text->text, text->bytes);
}

json_t *json_read_file(const char *path, const char *shown, const char *what, size_t most)
{
    JsonText text;
    json_t *root = NULL;
    if (read_text(path, shown, what, most, &text) == 0)
        root = parse_text(shown, what, &text);
    json_text_free(&text);
    return root;
}

int json_read_text(const char *path, const char *shown, const char *what, size_t most, JsonText *out,
                   json_t **root)
{
    *root = NULL;
    if (read_text(path, shown, what, most, out))
        return error_code();
    JsonText copy = {host_alloc(out->bytes + 1), out->bytes};
    if (copy.text) {
        memcpy(copy.text, out->text, out->bytes);
        *root = parse_text(shown, what, &copy);
    }
    json_text_free(&copy);
    if (!*root)
        json_text_free(out);
    return error_code();
}

/* ---- The whole ------------------------------------------------------------------------------- */

int config_resolve(const char *path, char out[PATH_BYTES])
{
    char directory[PATH_BYTES];
    if (hub_follow(directory, path))
        return error_code();
    if (!path_is_directory(directory)) {
        strcpy(out, directory);
        return ERROR_NONE;
    }
    if (path_join(out, directory, "config.json"))
        return error_code();
    return access(out, F_OK) == 0 ? ERROR_NONE : directory_refuse(directory, "config.json");
}

/* The base name of the path; of a config.json, as every model has one, that of its directory. */
static void name_model(IoModel *model, const char *path)
{
    char real[PATH_MAX];
    hub_name(model->name, sizeof model->name, path);
    if (model->name[0])
        return;
    base_name(model->name, sizeof model->name, path);
    int is_config = !strcmp(model->name, "config.json");
    if ((!is_config && strcmp(model->name, ".") && strcmp(model->name, "..")) || !realpath(path, real))
        return;
    char *slash = is_config ? strrchr(real, '/') : NULL;
    if (slash && slash > real)
        *slash = '\0';
    base_name(model->name, sizeof model->name, real);
}

static int read_model(const char *path, int near, IoModel *model)
{
    char file[PATH_BYTES], shown[FILE_LABEL];
    int status = config_resolve(path, file);
    if (status)
        return status;
    path_label(shown, file);
    json_t *root = json_read_file(file, shown, "a config.json", MOST_BYTES);
    if (!root)
        return error_code();
    Fields fields = {.file = shown, .within = "", .object = root, .model = model, .near = near};
    families_read(&fields);
    json_decref(root);
    if (fields.failed)
        return fields.failed;
    name_model(model, path);
    model->preset.name = model->name;
    model->preset.about = model->about;
    return ERROR_NONE;
}

int config_read(const char *path, int near, IoModel *model)
{
    if (!path || !model)
        return error_raise(ERROR_ARGUMENT, "io_read_config(): %s is NULL", path ? "model" : "path");
    *model = (IoModel){0};
    int status = read_model(path, near, model);
    if (status)
        *model = (IoModel){0};
    return status;
}

int io_read_config(const char *path, IoModel *model)
{
    return config_read(path, 0, model);
}
