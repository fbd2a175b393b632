/* The config.json of a model: that transformers builds the same model from it, and that what the one it came
 * from said stays: fields that brim does not read, spellings of numbers, a scaling or a window that decides
 * nothing up to the lengths that are computed. Only what the model now has otherwise differs. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../base/ends_.h"
#include "../tensor/tensor_.h"
#include "config_make_.h"
#include "family_decoder_.h"
#include "special_.h"

enum { CONFIG_MOST = 1 << 20 };

static int no_memory(const char *what)
{
    return error_raise(ERROR_HOST_MEMORY, "no host memory to write %s", what);
}

/* ---- Of a model ------------------------------------------------------------------------------ */

int config_exists(const ModelPreset *preset)
{
    const FamilyFiles *files = preset ? family_files(preset->family) : NULL;
    return files && files->write;
}

/* Every field that decides something, whatever transformers' default is. */
static json_t *fields_of(const ModelPreset *preset)
{
    const FamilyFiles *files = family_files(preset->family);
    if (nn_family(preset->family)->decoder && check_decoder_factors(preset))
        return NULL;
    if (files->check && files->check(preset))
        return NULL;
    json_t *root = json_object();
    files->write(&root, preset);
    if (!root)
        no_memory("config.json");
    return root;
}

static const char *type_text(SafetensorsType type)
{
    return type == SAFETENSORS_F16 ? "float16" : type == SAFETENSORS_BF16 ? "bfloat16" : "float32";
}

static int text_of(const json_t *root, const char *what, JsonText *out)
{
    const size_t flags = JSON_INDENT(2) | JSON_REAL_PRECISION(9);
    size_t bytes = json_dumpb(root, NULL, 0, flags);
    if (!bytes)
        return no_memory(what);
    *out = (JsonText){host_alloc(bytes + 2), bytes + 1};
    if (!out->text)
        return error_code();
    int whole = json_dumpb(root, out->text, bytes, flags) == bytes;
    out->text[bytes] = '\n';
    return whole ? 0 : no_memory(what);
}

/* ---- What the source said -------------------------------------------------------------------- */

typedef struct Source {
    JsonText text; /* NULL = there is no such file */
    json_t *root;
    ModelPreset preset; /* that it describes */
    int quantized;      /* its weights are: what is written is not */
} Source;

static void source_free(Source *s)
{
    json_decref(s->root);
    json_text_free(&s->text);
}

static int source_read(const char *directory, const char *name, const char *what, Source *s)
{
    char path[PATH_BYTES], shown[FILE_LABEL];
    *s = (Source){0};
    if (!directory)
        return 0;
    if (path_join(path, directory, name))
        return error_code();
    if (access(path, F_OK) != 0)
        return 0;
    path_label(shown, path);
    return json_read_text(path, shown, what, CONFIG_MOST, &s->text, &s->root);
}

static int source_model(const char *directory, Source *s)
{
    IoModel model;
    if (source_read(directory, "config.json", "a config.json", s) || !s->root)
        return error_code();
    int status = io_read_config(directory, &model);
    s->preset = model.preset;
    s->quantized = model.quantized != DTYPE_F32;
    return status;
}

/* ---- What differs from it -------------------------------------------------------------------- */

/* Of what would be written of the source's model, and of this one. */
static void add_changes(json_t **set, const json_t *before, const json_t *now)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)now, name, value)
    {
        if (!json_equal(json_object_get(before, name), value))
            config_put(set, name, json_incref(value));
    }
}

/* By the name that the file has for it; transformers 5 calls it dtype. */
static void add_type(json_t **set, const json_t *source, SafetensorsType type)
{
    int newer = json_object_get(source, "dtype") != NULL;
    if (newer)
        config_put(set, "dtype", json_string(type_text(type)));
    if (!newer || json_object_get(source, "torch_dtype"))
        config_put(set, "torch_dtype", json_string(type_text(type)));
}

/* A file may name another head on the same body: what is written has the one that was trained. Code that it
 * names does not come along. */
static void add_class(json_t **set, const json_t *source, const ModelPreset *preset)
{
    ModelFamily family;
    const json_t *list = json_object_get(source, "architectures");
    const char *first = json_string_value(json_array_get(list, 0));
    const ConfigType *type = config_type(json_string_value(json_object_get(source, "model_type")), &family);
    const char *class = type ? config_class(type, preset) : NULL;
    if (class && (!first || strcmp(first, class) != 0))
        config_put(set, "architectures", json_pack("[s]", class));
    if (json_object_size(json_object_get(source, "auto_map")))
        config_put(set, "auto_map", json_object());
}

/* What a sequence classifier learns, and what its classes are called. */
static void add_classes(json_t **set, const json_t *source, const ModelPreset *preset,
                        const char *const *labels)
{
    static const char problem[] = "single_label_classification";
    const char *said = json_string_value(json_object_get(source, "problem_type"));
    if (!nn_family(preset->family)->classes_at || !nn_preset_classes(preset))
        return;
    put_labels(set, source, preset, labels);
    if (!said || strcmp(said, problem) != 0)
        config_put(set, "problem_type", json_string(problem));
}

/* Numbers of tokens are another's where the tokenizer is. */
static void add_tokens(json_t **set, const json_t *source, ModelFamily family, const SpecialTokens *tokens)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)source, name, value)
    {
        if (text_ends(name, "_token_id") && !json_is_null(value) &&
            !(family_files(family)->padding_places && !strcmp(name, "pad_token_id")))
            config_put(set, name, json_null());
    }
    special_tokens_put(set, family, tokens);
}

/* ---- Both ------------------------------------------------------------------------------------ */

/* With nothing before: all that decides something, and its tokens. */
static int make_new(json_t *now, const ModelPreset *preset, SafetensorsType type, const SpecialTokens *tokens,
                    const char *const *labels, JsonText *out)
{
    static const SpecialTokens none = {.id = {-1, -1, -1}};
    json_t *root = json_incref(now);
    config_put(&root, "torch_dtype", json_string(type_text(type)));
    special_tokens_put(&root, preset->family, tokens ? tokens : &none);
    add_classes(&root, NULL, preset, labels);
    int status = root ? text_of(root, "config.json", out) : no_memory("config.json");
    json_decref(root);
    return status;
}

static int make_from(const Source *s, const json_t *now, const ModelPreset *preset, SafetensorsType type,
                     const SpecialTokens *tokens, const char *const *labels, JsonText *out)
{
    json_t *before = fields_of(&s->preset), *set = before ? json_object() : NULL;
    if (before) {
        add_changes(&set, before, now);
        add_type(&set, s->root, type);
        add_class(&set, s->root, preset);
        add_classes(&set, s->root, preset, labels);
        if (tokens)
            add_tokens(&set, s->root, preset->family, tokens);
        if (!set)
            no_memory("config.json");
    }
    const char *without = s->quantized ? "quantization_config" : NULL;
    int status = set ? json_patch(s->text.text, s->root, set, without, out) : error_code();
    json_decref(set);
    json_decref(before);
    return status;
}

int config_make(const ModelPreset *preset, SafetensorsType type, const char *source, const char *tokenizer,
                const char *const *labels, JsonText *out)
{
    SpecialTokens special, *tokens = tokenizer ? &special : NULL;
    Source s;
    *out = (JsonText){0};
    if (!config_exists(preset))
        return error_raise(ERROR_ARGUMENT,
                           "transformers has no %s, so no config.json is written for one; its weights can be "
                           "saved without",
                           preset && nn_family(preset->family) ? nn_family(preset->family)->name
                                                               : "such model");
    if (tokens && special_tokens_read(tokenizer, tokens))
        return error_code();
    ModelPreset kept = *preset;
    int status = source_model(source, &s);
    if (!status && s.root) /* dropout is of the run, not of the model */
        nn_preset_set_dropout(&kept, nn_preset_dropout(&s.preset));
    json_t *now = status ? NULL : fields_of(&kept);
    if (now && s.root && s.preset.family == preset->family)
        status = make_from(&s, now, preset, type, tokens, labels, out);
    else if (now)
        status = make_new(now, preset, type, tokens, labels, out);
    else
        status = error_code();
    json_decref(now);
    source_free(&s);
    return status;
}

int generation_make(const ModelPreset *preset, const char *source, const char *tokenizer, JsonText *out)
{
    SpecialTokens tokens;
    Source s;
    *out = (JsonText){0};
    if (!nn_family(preset->family)->writes)
        return 0;
    if (special_tokens_read(tokenizer, &tokens) ||
        source_read(source, "generation_config.json", "a generation_config.json", &s))
        return error_code();
    json_t *set = json_object();
    add_tokens(&set, s.root, preset->family, &tokens);
    int status = !set     ? no_memory("generation_config.json")
                 : s.root ? json_patch(s.text.text, s.root, set, NULL, out)
                          : text_of(set, "generation_config.json", out);
    json_decref(set);
    source_free(&s);
    return status;
}

/* Without the class that a tokenizer would have by its model, whose own rules need not be this file's. */
int tokenizer_config_make(const char *tokenizer, JsonText *out)
{
    SpecialTokens tokens;
    *out = (JsonText){0};
    if (special_tokens_read(tokenizer, &tokens))
        return error_code();
    json_t *root = json_pack("{s:s}", "tokenizer_class", "PreTrainedTokenizerFast");
    special_tokens_put_texts(&root, &tokens);
    int status = root ? text_of(root, "tokenizer_config.json", out) : no_memory("tokenizer_config.json");
    json_decref(root);
    return status;
}
