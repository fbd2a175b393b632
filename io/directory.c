/* See directory_.h. A row a form in which weights are handed around. */
#include "directory_.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../base/printable_.h"
#include "../tensor/tensor_.h"
#include "io_.h"
#include "safetensors_.h"

/* ---- Files by their first bytes -------------------------------------------------------------- */

#define SAVE_AGAIN "load it in Python with from_pretrained, and save it with save_pretrained"

typedef struct Magic {
    const char *bytes;
    unsigned char size, at;
    const char *is;
} Magic;

static const Magic magics[] = {
    {"PK\3\4", 4, 0, ": it is a pickle of PyTorch or another zip archive; " SAVE_AGAIN},
    {"\x80\x02", 2, 0, ": it is a pickle of PyTorch; " SAVE_AGAIN},
    {"\x80\x04", 2, 0, ": it is a pickle; " SAVE_AGAIN},
    {"GGUF", 4, 0, ": it is GGUF, llama.cpp's format; take the safetensors files that it was made of"},
    {"\x89HDF\r\n\x1a\n", 8, 0, ": it is HDF5, as TensorFlow writes it; " SAVE_AGAIN},
    {"\x93NUMPY", 6, 0, ": it is an array of NumPy; write it with safetensors.numpy.save_file"},
    {"\x1f\x8b", 2, 0, ": it is compressed (gzip); unpack it first"},
    {"\x28\xb5\x2f\xfd", 4, 0, ": it is compressed (zstd); unpack it first"},
    {"version https://git-lfs", 23, 0, ": it is a pointer of Git LFS; git lfs pull fetches the file itself"},
    {"<!DOCTYPE", 9, 0, ": it is a web page, perhaps of a login or an error; download it again"},
    {"<html", 5, 0, ": it is a web page, perhaps of a login or an error; download it again"},
};

/* The first bytes are letters, digits, signs and white space. */
static int is_text(const unsigned char *bytes, unsigned long size)
{
    unsigned long i = 0, most = size < 64 ? size : 64;
    while (i < most && ((bytes[i] >= ' ' && bytes[i] != 127) || (bytes[i] >= '\t' && bytes[i] <= '\r')))
        i++;
    return most > 0 && i == most;
}

const char *file_guess(const unsigned char *bytes, unsigned long size)
{
    for (size_t i = 0; i < sizeof magics / sizeof magics[0]; i++)
        if (size >= (unsigned long)magics[i].at + magics[i].size &&
            !memcmp(bytes + magics[i].at, magics[i].bytes, magics[i].size))
            return magics[i].is;
    return is_text(bytes, size) ? ": it is a text" : "";
}

/* ---- Directories by the files in them -------------------------------------------------------- */

/* pattern: of a name in it (fnmatch). The sentence is the directory, `has`, the name in brackets, and what to
 * do. */
typedef struct Form {
    const char *pattern, *has, *todo;
} Form;

#define CONVERT(what)                                                                                        \
    ", which are not read: load them in Python with from_pretrained(…, " what "), and " WRITES
#define WRITES "save_pretrained writes safetensors"

/* The first that fits goes before the others. */
static const Form forms[] = {
    {"model-*-of-*.safetensors", "has shards of weights",
     ", but no model.safetensors.index.json that names them: the download is not complete"},
    {"0_*", "is a model of sentence-transformers with its weights in a folder", ": give that folder"},
    {"step-[0-9]*", "holds saved runs of brim",
     ": --resume resumes one; --init starts from the weights of one, with its model.safetensors"},
    {"checkpoint-[0-9]*", "is a trainer's output, with a model in each folder",
     ": give one of these folders"},
    {"models--*", "is Hugging Face's cache of several models", ": give the folder of one"},
    {"pytorch_model*.bin*", "has its weights in a pickle",
     ", which is not read: save them again with save_pretrained(…, safe_serialization=True)"},
    {"*.gguf", "has its weights in GGUF, llama.cpp's format",
     ", which is not read: take the directory with the safetensors files that it was made of"},
    {"consolidated*.safetensors", "has its weights under other names than transformers'",
     ", which are not read: take the files model*.safetensors of the same model"},
    {"consolidated*", "has its weights in Meta's own format",
     ", which is not read: take the repository whose name ends in -hf, or convert them with transformers' "
     "convert_llama_weights_to_hf.py"},
    {"tf_model.h5", "has its weights for TensorFlow", CONVERT("from_tf=True")},
    {"*.ckpt.index", "has its weights for TensorFlow", CONVERT("from_tf=True")},
    {"flax_model*.msgpack", "has its weights for Flax", CONVERT("from_flax=True")},
    {"*.onnx", "has a graph of ONNX", ", which is not read: take the directory that it was exported from"},
    {"*.safetensors", "has no model.safetensors, but another file of them",
     ": if that is the model, give its path"},
    {"*.pt*", "has a pickle of PyTorch", ", which is not read: load it in Python, and " WRITES},
    {"*.bin", "has weights or data of an unknown form",
     ", which are not read: if from_pretrained in Python reads them, " WRITES},
    {"params.json", "has the description of a model in Meta's or another own format",
     ", and no weights that are read: take the model in Hugging Face's format"},
};
enum { FORMS = sizeof forms / sizeof forms[0] };

/* The form that goes before the others, and the first name of it; -1 = none. */
static int find_form(const char *path, char name[256])
{
    int found = FORMS;
    DIR *directory = opendir(path);
    for (const struct dirent *entry; directory && (entry = readdir(directory));)
        for (int i = 0; i <= found && i < FORMS; i++)
            if (fnmatch(forms[i].pattern, entry->d_name, FNM_PERIOD) == 0 &&
                (i < found || strcmp(entry->d_name, name) < 0)) {
                snprintf(name, 256, "%s", entry->d_name);
                found = i;
            }
    if (directory)
        closedir(directory);
    return found < FORMS ? found : -1;
}

static int has_weights(const char *directory)
{
    char path[PATH_BYTES];
    return (path_join(path, directory, SAFETENSORS_SINGLE) == 0 && access(path, F_OK) == 0) ||
           (path_join(path, directory, SAFETENSORS_INDEX) == 0 && access(path, F_OK) == 0);
}

/* An adapter says itself what it belongs to. */
static int refuse_adapter(const char *path, const char *shown)
{
    char label[FILE_LABEL];
    path_label(label, path);
    json_t *root = json_read_file(path, label, "an adapter_config.json", 1 << 20);
    if (!root)
        return error_code();
    const json_t *base = json_object_get(root, "base_model_name_or_path"),
                 *type = json_object_get(root, "peft_type");
    error_raise(
        ERROR_FILE,
        "%s is an adapter (%s) of %s, not a whole model: give that model here, and this directory with "
        "--adapter (in a script with io_load_adapter)",
        shown, json_is_string(type) ? string_text(json_string_value(type)).text : "LoRA",
        json_is_string(base) ? string_text(json_string_value(base)).text : "another model");
    json_decref(root);
    return error_code();
}

int directory_refuse(const char *directory, const char *wanted)
{
    char path[PATH_BYTES], shown[FILE_LABEL], name[256] = "";
    path_label(shown, directory);
    if (path_join(path, directory, "adapter_config.json"))
        return error_code();
    if (access(path, F_OK) == 0)
        return refuse_adapter(path, shown);
    if (errno == EACCES)
        return error_raise(ERROR_FILE, "%s: cannot look into it: %s", shown, strerror(errno));
    int form = has_weights(directory) ? -1 : find_form(directory, name);
    if (form < 0)
        return error_raise(ERROR_FILE, "%s has no %s", shown, wanted);
    name[64] = '\0';
    make_printable(name);
    return error_raise(ERROR_FILE, "%s %s (%s)%s", shown, forms[form].has, name, forms[form].todo);
}
