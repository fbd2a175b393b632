/* What a fine-tuned model should keep of the directory it came from, though training does not read it: token
 * ids and the like in config.json, and the tokenizer's files. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../tensor/tensor_.h"
#include "io_.h"
#include "weights.h"

enum { COPY_MOST = 256 << 20, CONFIG_MOST = 1 << 20 };

/* All but the last are the tokenizer's. */
static const char *const companions[] = {"tokenizer.json",
                                         "tokenizer_config.json",
                                         "tokenizer.model",
                                         "special_tokens_map.json",
                                         "added_tokens.json",
                                         "vocab.json",
                                         "merges.txt",
                                         "vocab.txt",
                                         "generation_config.json"};

static int copy_file(const char *from, const char *to)
{
    char shown[FILE_LABEL];
    size_t bytes = 0;
    FileWriter writer;
    path_label(shown, from);
    int file = file_open_input(from, shown, "a tokenizer's file", COPY_MOST, &bytes);
    if (file < 0)
        return error_code();
    const void *mapped = memtrack_map_file(file, bytes);
    close(file);
    if (!mapped)
        return error_raise(ERROR_HOST_MEMORY, "%s: the system does not map its %zu bytes", shown, bytes);
    if (file_begin(&writer, to) == 0)
        file_put(&writer, mapped, bytes);
    memtrack_unmap_file(mapped, bytes);
    return file_commit(&writer);
}

static int is_type(const json_t *config, const char *type)
{
    const char *text = json_string_value(json_object_get(config, "model_type"));
    return text && !strcmp(text, type);
}

/* Mistral computes what Llama does, up to its window: what was Mistral stays it. Returns non-zero without
 * memory. */
static int keep_mistral(const json_t *source, json_t *written)
{
    static const char *const own[] = {"model_type", "sliding_window", "max_position_embeddings"};
    if (!is_type(source, "mistral") || !is_type(written, "llama"))
        return 0;
    int failed = json_object_set_new(written, "architectures", json_pack("[s]", "MistralForCausalLM")) != 0;
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (json_object_get(source, own[i]))
            failed |= json_object_set(written, own[i], json_object_get(source, own[i])) != 0;
    return failed;
}

/* The fields that brim does not read, added to those it wrote. */
static int add_fields(const char *from, const char *to)
{
    char shown[FILE_LABEL];
    const char *name;
    json_t *value;
    path_label(shown, from);
    json_t *source = json_read_file(from, shown, "a config.json", CONFIG_MOST);
    path_label(shown, to);
    json_t *written = source ? json_read_file(to, shown, "a config.json", CONFIG_MOST) : NULL;
    int failed = written && keep_mistral(source, written);
    json_object_foreach(source, name, value)
    {
        if (written && families_ignore(name) && !json_object_get(written, name) && strcmp(name, "dtype") != 0)
            failed |= json_object_set(written, name, value) != 0;
    }
    if (failed)
        error_raise(ERROR_HOST_MEMORY, "%s: no host memory to write it", shown);
    int status = written && !failed ? json_write_file(written, to) : error_code();
    json_decref(written);
    json_decref(source);
    return status;
}

/* Or directory. */
static int same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Beside another tokenizer what lay there would be another model's. */
static int keep_companion(const char *from, const char *to, int brings)
{
    char shown[FILE_LABEL];
    if (access(from, F_OK) == 0)
        return copy_file(from, to);
    if (!brings || unlink(to) == 0 || errno == ENOENT)
        return 0;
    path_label(shown, to);
    return error_raise(ERROR_FILE, "%s: cannot remove it: %s; it belongs to another model", shown,
                       strerror(errno));
}

int io_keep_source(const char *source, const char *directory)
{
    char from[PATH_BYTES], to[PATH_BYTES];
    if (!source || !directory)
        return error_raise(ERROR_ARGUMENT, "io_keep_source: %s is NULL", source ? "directory" : "source");
    if (same_file(source, directory) || context_is_meta(context_current()))
        return 0;
    if (path_join(from, source, "config.json") || path_join(to, directory, "config.json"))
        return error_code();
    if (access(from, F_OK) == 0 && access(to, F_OK) == 0 && add_fields(from, to))
        return error_code();
    if (path_join(from, source, companions[0]))
        return error_code();
    int brings = access(from, F_OK) == 0;
    for (size_t i = 0; i < sizeof companions / sizeof companions[0]; i++) {
        if (path_join(from, source, companions[i]) || path_join(to, directory, companions[i]) ||
            keep_companion(from, to, brings))
            return error_code();
    }
    return 0;
}

/* ---- Another tokenizer ----------------------------------------------------------------------- */

/* Without the class that it would have by its model, whose own rules need not be this file's. */
static int write_class(const char *directory)
{
    char path[PATH_BYTES];
    json_t *root = json_pack("{s:s}", "tokenizer_class", "PreTrainedTokenizerFast");
    int status = path_join(path, directory, "tokenizer_config.json");
    if (!status)
        status = root ? json_write_file(root, path)
                      : error_raise(ERROR_HOST_MEMORY, "%s: no host memory to write it", path);
    json_decref(root);
    return status;
}

/* What belongs to the tokenizer that was there. */
static int remove_others(const char *directory)
{
    char path[PATH_BYTES];
    for (size_t i = 1; i + 1 < sizeof companions / sizeof companions[0]; i++) {
        if (path_join(path, directory, companions[i]))
            return error_code();
        if (unlink(path) != 0 && errno != ENOENT)
            return error_raise(ERROR_FILE, "%s: cannot remove it: %s; it is another tokenizer's", path,
                               strerror(errno));
    }
    return 0;
}

int io_keep_tokenizer(const char *tokenizer, const char *directory)
{
    char from[PATH_BYTES], to[PATH_BYTES], shown[FILE_LABEL];
    if (!tokenizer || !directory)
        return error_raise(ERROR_ARGUMENT, "io_keep_tokenizer: %s is NULL",
                           tokenizer ? "directory" : "tokenizer");
    if (context_is_meta(context_current()))
        return 0;
    if (path_is_directory(tokenizer) ? path_join(from, tokenizer, "tokenizer.json")
                                     : snprintf(from, PATH_BYTES, "%s", tokenizer) >= PATH_BYTES) {
        path_label(shown, tokenizer);
        return error_raise(ERROR_FILE, "%s: the path is too long", shown);
    }
    if (path_join(to, directory, "tokenizer.json"))
        return error_code();
    if (same_file(from, to))
        return 0;
    return copy_file(from, to) || remove_others(directory) || write_class(directory) ? error_code() : 0;
}
