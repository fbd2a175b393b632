/* Which files a model is, beside its weights: those that an export brings, and those of another model or
 * tokenizer that lie where it would go. A mixture of both would load, and be wrong. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../base/ends_.h"
#include "../tensor/tensor_.h"
#include "export_.h"
#include "io_.h"
#include "weights_.h"

/* ---- Names ----------------------------------------------------------------------------------- */

/* All that a tokenizer may be in. */
static const char *const tokenizer_files[] = {"tokenizer.json",
                                              "tokenizer_config.json",
                                              "tokenizer.model",
                                              "spiece.model",
                                              "sentencepiece.bpe.model",
                                              "special_tokens_map.json",
                                              "added_tokens.json",
                                              "vocab.json",
                                              "vocab.txt",
                                              "vocab.bpe",
                                              "merges.txt",
                                              "chat_template.json",
                                              "chat_template.jinja",
                                              NULL};

/* Of how texts are generated, and of what sentence-transformers does with the output. */
static const char *const other_files[] = {"generation_config.json", "modules.json",
                                          "sentence_bert_config.json", "config_sentence_transformers.json",
                                          NULL};

static int is_one_of(const char *name, const char *const *names)
{
    int i = 0;
    while (names[i] && strcmp(names[i], name) != 0)
        i++;
    return names[i] != NULL;
}

static int is_tokenizer_name(const char *name)
{
    return is_one_of(name, tokenizer_files) || text_begins(name, "tokenizer.") ||
           text_begins(name, "tokenizer_config") || text_begins(name, "vocab.") ||
           text_begins(name, "chat_template");
}

/* Weights in a form that is not written here: they stay, but say that a model is there. */
static int is_other_weights(const char *name)
{
    return text_begins(name, "pytorch_model") || text_begins(name, "consolidated.") ||
           text_ends(name, ".gguf") || text_begins(name, "tf_model.") || text_begins(name, "flax_model.");
}

static const ExportFile *find(const Export *e, const char *name)
{
    for (int i = 0; i < e->count; i++)
        if (!strcmp(e->files[i].name, name))
            return &e->files[i];
    return NULL;
}

int export_is_foreign(const Export *e, const char *name)
{
    if (!e->preset || strstr(name, ".tmp-") || find(e, name) || (e->own_tokenizer && is_tokenizer_name(name)))
        return 0;
    return !strcmp(name, "config.json") || is_tokenizer_name(name) || is_one_of(name, other_files) ||
           text_begins(name, "adapter_");
}

/* ---- What is brought ------------------------------------------------------------------------- */

static int is_regular(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

static int add(Export *e, const char *name, ExportFrom from)
{
    ExportFile *file = &e->files[e->count];
    if (find(e, name))
        return 0; /* what is made goes before what is there */
    if (e->count == EXPORT_FILES)
        return error_raise(ERROR_FILE, "%s: more than %d files belong to its model", e->how->source,
                           EXPORT_FILES);
    e->count++;
    file->from = from;
    if (snprintf(file->name, sizeof file->name, "%s", name) < EXPORT_NAME)
        return 0;
    return error_raise(ERROR_FILE, "%s: the name %.60s… is too long", e->how->source, name);
}

static int add_those_there(Export *e, const char *const *names)
{
    char path[PATH_BYTES];
    for (int i = 0; names[i]; i++) {
        if (path_join(path, e->how->source, names[i]))
            return error_code();
        if (is_regular(path) && add(e, names[i], EXPORT_SOURCE))
            return error_code();
    }
    return 0;
}

/* "1_Pooling": a folder of a module of sentence-transformers. */
static int is_module_folder(const char *name)
{
    size_t digits = strspn(name, "0123456789");
    return digits > 0 && name[digits] == '_';
}

static int add_folder(Export *e, const char *folder)
{
    char path[PATH_BYTES], name[EXPORT_NAME + 256];
    if (path_join(path, e->how->source, folder))
        return error_code();
    DIR *directory = opendir(path);
    int status = 0;
    for (const struct dirent *entry; directory && !status && (entry = readdir(directory));) {
        snprintf(name, sizeof name, "%.64s/%.255s", folder, entry->d_name);
        if (path_join(path, e->how->source, name))
            status = error_code();
        else if (is_regular(path))
            status = add(e, name, EXPORT_SOURCE);
    }
    if (directory)
        closedir(directory);
    return status;
}

/* What sentence-transformers does after the model: pooling and the like, unchanged. */
static int add_modules(Export *e)
{
    int status = 0;
    if (!find(e, "modules.json"))
        return 0;
    DIR *directory = opendir(e->how->source);
    for (const struct dirent *entry; directory && !status && (entry = readdir(directory));)
        if (is_module_folder(entry->d_name))
            status = add_folder(e, entry->d_name);
    if (directory)
        closedir(directory);
    return status;
}

/* The file that is meant: the path, or tokenizer.json in it. */
static int tokenizer_path(char out[PATH_BYTES], const char *tokenizer)
{
    char shown[FILE_LABEL];
    if (path_is_directory(tokenizer))
        return path_join(out, tokenizer, tokenizer_files[0]);
    if (snprintf(out, PATH_BYTES, "%s", tokenizer) < PATH_BYTES)
        return 0;
    path_label(shown, tokenizer);
    return error_raise(ERROR_FILE, "%s: the path is too long", shown);
}

/* Beside a tokenizer of its own the source's other forms of one would be another's. */
static int add_tokenizer(Export *e)
{
    char to[PATH_BYTES];
    if (!e->how->tokenizer)
        return e->how->source ? add_those_there(e, tokenizer_files) : 0;
    if (tokenizer_path(e->tokenizer, e->how->tokenizer) || path_join(to, e->directory, tokenizer_files[0]))
        return error_code();
    int writes = config_exists(e->preset) && nn_family(e->preset->family)->writes;
    if (writes && add(e, "generation_config.json", EXPORT_MADE))
        return error_code();
    e->own_tokenizer = path_same(e->tokenizer, to);
    return e->own_tokenizer || (!add(e, tokenizer_files[0], EXPORT_TOKENIZER) &&
                                !add(e, "tokenizer_config.json", EXPORT_MADE))
               ? 0
               : error_code();
}

int export_list(Export *e, const ModelPreset *preset, const char *directory, const WeightsSaving *how)
{
    *e = (Export){.directory = directory, .preset = preset, .how = how};
    path_label(e->shown, directory);
    if (config_exists(preset) && add(e, "config.json", EXPORT_MADE))
        return error_code();
    if (add_tokenizer(e) || (how->source && add_those_there(e, other_files)))
        return error_code();
    return add_modules(e);
}

int export_source_path(char out[PATH_BYTES], const Export *e, const ExportFile *file)
{
    if (file->from != EXPORT_TOKENIZER)
        return path_join(out, e->how->source, file->name);
    snprintf(out, PATH_BYTES, "%s", e->tokenizer);
    return 0;
}

int export_make(const Export *e, const char *name, JsonText *out)
{
    const char *tokenizer = e->tokenizer[0] ? e->tokenizer : NULL;
    if (!strcmp(name, "config.json"))
        return config_make(e->preset, e->how->type, e->how->source, tokenizer, e->how->labels, out);
    if (!strcmp(name, "generation_config.json"))
        return generation_make(e->preset, e->how->source, tokenizer, out);
    return tokenizer_config_make(tokenizer, out);
}

/* ---- What is there --------------------------------------------------------------------------- */

int files_equal(const char *a, const char *b)
{
    enum { PIECE = 16384 };
    char x[PIECE], y[PIECE];
    int one = open(a, O_RDONLY | O_CLOEXEC | O_NONBLOCK), other = open(b, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = one >= 0 && other >= 0 ? 1 : -1;
    while (n > 0) {
        n = read(one, x, sizeof x);
        ssize_t m = 0, got = 1;
        while (n > 0 && m < n && (got = read(other, y + m, (size_t)(n - m))) > 0)
            m += got;
        if (n == 0)
            got = read(other, y, 1);
        n = (n > 0 && m == n && !memcmp(x, y, (size_t)n)) || (n == 0 && got == 0) ? n : -1;
    }
    if (one >= 0)
        close(one);
    if (other >= 0)
        close(other);
    return n == 0;
}

static int same_tensor(const Safetensors *file, const FilePiece *piece)
{
    const SafetensorsEntry *entry = safetensors_find(file, piece->name);
    return entry && entry->ndim == piece->shape.ndim &&
           !memcmp(entry->dim, piece->shape.dim, (size_t)piece->shape.ndim * sizeof piece->shape.dim[0]);
}

/* Whether the weights that are there are those of this very shape: -1 after raising. */
static int same_tensors(const Export *e, Module *model)
{
    TensorList list = nn_parameters(model);
    const FamilyNames *family = family_names(nn_class_name(model));
    Safetensors *file = error_code() ? NULL : safetensors_open(e->directory);
    int same = file && safetensors_count(file) == file_piece_count(family, list);
    if (!file && error_code() == ERROR_HOST_MEMORY)
        return -1;
    if (!file)
        error_clear(); /* damaged, or half of a set: nothing that this export left */
    for (int i = 0; i < list.count && same; i++)
        for (int k = 0; k < file_pieces(family, list.items[i]) && same; k++) {
            FilePiece piece = file_piece(family, list.items[i], k);
            same = same_tensor(file, &piece);
        }
    safetensors_close(file);
    return same;
}

/* Names and whole numbers decide what model it is. What may change without that: the type of the weights,
 * token ids. */
static int is_identity(const char *name, const json_t *a, const json_t *b)
{
    int kind = (json_is_string(a) && json_is_string(b)) || (json_is_integer(a) && json_is_integer(b));
    return kind && strcmp(name, "torch_dtype") != 0 && strcmp(name, "dtype") != 0 &&
           strcmp(name, "transformers_version") != 0 && !text_ends(name, "_token_id");
}

/* Whether the config.json that is there is of the same model: -1 after raising. */
static int same_config(const Export *e)
{
    char path[PATH_BYTES];
    const char *name;
    JsonText text;
    json_t *value, *ours = NULL;
    if (export_make(e, "config.json", &text) == 0)
        ours = json_parse("config.json", "a config.json", text.text, text.bytes);
    json_text_free(&text);
    if (!ours || path_join(path, e->directory, "config.json")) {
        json_decref(ours);
        return -1;
    }
    json_t *theirs = json_read_file(path, e->shown, "a config.json", 1 << 20);
    int same = theirs != NULL;
    json_object_foreach(ours, name, value)
    {
        const json_t *other = json_object_get(theirs, name);
        same = same && (!is_identity(name, value, other) || json_equal(value, other));
    }
    json_decref(theirs);
    json_decref(ours);
    if (error_code() == ERROR_HOST_MEMORY)
        return -1;
    error_clear();
    return same;
}

/* What was found that the export would not replace as a whole. */
typedef struct Found {
    int weights, config, state, optimizer;
    int another_tokenizer;
    char name[256]; /* the first of them by name; "" = none */
} Found;

static void note(Found *f, const char *name)
{
    if (!f->name[0] || strcmp(name, f->name) < 0)
        snprintf(f->name, sizeof f->name, "%s", name);
}

static int look_at(const Export *e, const char *name, Found *f)
{
    char here[PATH_BYTES], from[PATH_BYTES];
    const ExportFile *file = find(e, name);
    f->weights |= is_weights_name(name);
    f->config |= !strcmp(name, "config.json");
    f->state |= !strcmp(name, "state.json");
    f->optimizer |= !strcmp(name, "optimizer.safetensors");
    if (export_is_foreign(e, name) || is_other_weights(name))
        note(f, name);
    if (!file || file->from == EXPORT_MADE || !is_tokenizer_name(name) ||
        !strcmp(name, "tokenizer_config.json"))
        return 0;
    if (path_join(here, e->directory, name) || export_source_path(from, e, file))
        return error_code();
    f->another_tokenizer |= !files_equal(here, from);
    return 0;
}

static int look(const Export *e, Found *f)
{
    DIR *directory = opendir(e->directory);
    int status = 0;
    for (const struct dirent *entry; directory && !status && (entry = readdir(directory));)
        status = look_at(e, entry->d_name, f);
    if (directory)
        closedir(directory);
    return status;
}

static int refuse(const Export *e, const char *what, const char *name)
{
    return error_raise(
        ERROR_FILE,
        "%s holds %s%s%s%s, which the export would destroy or mix with this one; give --export "
        "another directory, or add --overwrite to replace it",
        e->shown, what, name ? " (" : "", name ? name : "", name ? ")" : "");
}

int export_check(const Export *e, Module *model)
{
    Found f = {0};
    if (e->how->source && path_same(e->how->source, e->directory))
        return error_raise(ERROR_FILE,
                           "%s is where the model comes from: the export would destroy it; give --export "
                           "another directory",
                           e->shown);
    if (look(e, &f))
        return error_code();
    if (f.state && f.optimizer)
        return error_raise(ERROR_FILE,
                           "%s is a saved run: the export would destroy it; give --export another directory",
                           e->shown);
    if (e->how->overwrite)
        return 0;
    int weights = f.weights ? same_tensors(e, model) : 1;
    int config = weights > 0 && f.config && config_exists(e->preset) ? same_config(e) : 1;
    if (weights < 0 || config < 0)
        return error_code();
    if (!weights || !config)
        return refuse(e, "another model", weights ? "config.json" : "its weights");
    if (f.name[0])
        return refuse(e, is_tokenizer_name(f.name) ? "another tokenizer" : "another model", f.name);
    return f.another_tokenizer ? refuse(e, "another tokenizer", NULL) : 0;
}

/* ---- Files that take each other's place ------------------------------------------------------ */

int replace_failed(const char *directory, const char *what, const char *name)
{
    char shown[FILE_LABEL];
    const char *why = strerror(errno);
    path_label(shown, directory);
    return error_raise(ERROR_FILE, "%s: cannot %s %s: %s; what is there now is not whole: export it again",
                       shown, what, name, why);
}

int replace_remove(const char *directory, const char *name)
{
    char path[PATH_BYTES];
    if (path_join(path, directory, name))
        return error_code();
    return file_calls.unlink(path) == 0 || errno == ENOENT ? 0 : replace_failed(directory, "remove", name);
}

int replace_sync(const char *directory)
{
    return file_sync_directory(directory) == 0 ? 0 : replace_failed(directory, "sync", "its names");
}
