/* Writing an adapter. The configuration is made from the model itself: which layers are adapted, how, and
 * what else is trained. Both files are on the disk under temporary names before the first gets its own. Where
 * only values change, a reader finds the old ones or the new ones. Where more changes, the old configuration
 * goes first and the new one comes last: between there is no adapter, rather than a mixture of two. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../base/ends_.h"
#include "../nn/lora.h"
#include "adapter_.h"
#include "export_.h"
#include "family_.h"

enum { NAME_MOST = 320 };

typedef struct Saving {
    Module *model;
    const char *directory;
    const AdapterSaving *how;
    char shown[FILE_LABEL]; /* the directory */
    TensorList list;
    json_t *config;
    SafetensorsItem *items;
    char (*names)[NAME_MOST]; /* of the items */
    int count;                /* of the items */
} Saving;

/* ---- What is adapted --------------------------------------------------------------------------- */

/* A list of names that grows; NULL after it had no memory. */
static void append(json_t **list, const char *text)
{
    if (json_array_append_new(*list, json_string(text)) == 0)
        return;
    json_decref(*list);
    *list = NULL;
}

static int has(const json_t *list, const char *text)
{
    size_t i;
    const json_t *name;
    json_array_foreach((json_t *)list, i, name)
    {
        if (json_is_string(name) && !strcmp(json_string_value(name), text))
            return 1;
    }
    return 0;
}

/* What the modules with adapters are, in the words of a configuration. */
typedef struct Summary {
    json_t *paths, *ends; /* of the adapted modules; the last words of the paths, each once */
    json_t *ranks, *alphas;
    Lora first;        /* which is that of all that have no pattern */
    int count, in_out; /* in_out: of them those of weights that are (in,out) in files */
} Summary;

static const char *last_word(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

static json_t *number(double x)
{
    return x == floor(x) && fabs(x) < 1e15 ? json_integer((json_int_t)x) : json_real(x);
}

static int summarise(void *user, const LoraLayer *layer)
{
    Summary *s = user;
    const Lora *lora = &layer->lora;
    if (!layer->a)
        return 0;
    if (!s->count++)
        s->first = *lora;
    s->in_out += layer->weight->in_out || layer->weight->transposed;
    append(&s->paths, layer->path);
    if (!has(s->ends, last_word(layer->path)))
        append(&s->ends, last_word(layer->path));
    if (lora->rank != s->first.rank)
        config_put(&s->ranks, layer->path, json_integer(lora->rank));
    if (lora->alpha != s->first.alpha)
        config_put(&s->alphas, layer->path, number((double)lora->alpha));
    if (lora->rslora == s->first.rslora && lora->dropout == s->first.dropout)
        return 0;
    return error_raise(
        ERROR_STATE,
        "io_save_adapter(): the adapter of %s differs from that of the first layer in dropout or in "
        "rslora, which PEFT's configuration says once for all",
        layer->path);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* In alphabetical order, so that the file depends on nothing else. NULL without memory. */
static json_t *sorted(const json_t *list)
{
    size_t count = json_array_size(list);
    const char **texts = host_alloc(count * sizeof *texts + 1);
    json_t *out = texts ? json_array() : NULL;
    for (size_t i = 0; out && i < count; i++)
        texts[i] = json_string_value(json_array_get(list, i));
    if (out)
        qsort(texts, count, sizeof *texts, by_text);
    for (size_t i = 0; out && i < count; i++)
        append(&out, texts[i]);
    if (texts)
        host_free(context_here(), texts, count * sizeof *texts + 1);
    return out;
}

/* ---- What else is trained ---------------------------------------------------------------------- */

static int is_adapter(const char *name)
{
    return strstr(name, ".lora_A.") || strstr(name, ".lora_B.") || strstr(name, ".lora_embedding_");
}

static int is_bias(const char *name)
{
    return text_ends(name, ".bias");
}

static int is_own(const Tensor *parameter)
{
    return tensor_requires_grad(parameter) && !is_adapter(tensor_name(parameter));
}

static void module_path(char out[NAME_MOST], const char *parameter)
{
    const char *dot = strrchr(parameter, '.');
    snprintf(out, NAME_MOST, "%.*s", dot ? (int)(dot - parameter) : 0, parameter);
}

/* "layers.0.attn" to "layers.0", and that to "layers". */
static void cut_last(char *path)
{
    char *dot = strrchr(path, '.');
    *(dot ? dot : path) = '\0';
}

/* PEFT trains and saves the modules of these names of a sequence classifier, and says that it does. */
static const char *const classifiers[] = ADAPTER_CLASSIFIERS;

static int is_classifier(const Saving *s)
{
    const FamilyFiles *files = family_files_named(nn_class_name(s->model));
    const char *beginning = files ? files->names.classifier[0] : NULL;
    for (int i = 0; beginning && i < s->list.count; i++)
        if (text_begins(tensor_name(s->list.items[i]), beginning))
            return 1;
    return 0;
}

/* The parameter is in one of the modules. */
static int is_within(const json_t *modules, const char *parameter)
{
    for (size_t i = 0; i < json_array_size(modules); i++)
        if (adapter_is_in(parameter, json_string_value(json_array_get(modules, i))))
            return 1;
    return 0;
}

/* Modules with a trained parameter of their own that is no bias. */
static json_t *saved_modules(const Saving *s)
{
    json_t *all = json_array();
    for (size_t i = 0; i < 2 && all && is_classifier(s); i++)
        append(&all, classifiers[i]);
    for (int i = 0; i < s->list.count && all; i++) {
        char path[NAME_MOST];
        const char *name = tensor_name(s->list.items[i]);
        module_path(path, name);
        if (is_own(s->list.items[i]) && !is_bias(name) && !is_within(all, name))
            append(&all, path);
    }
    return all;
}

/* Whether the last words mean the adapted layers and nothing else of the model. */
static int ends_suffice(const Saving *s, const Summary *summary)
{
    for (int i = 0; i < s->list.count; i++) {
        char path[NAME_MOST];
        module_path(path, tensor_name(s->list.items[i]));
        for (; path[0] && !is_adapter(tensor_name(s->list.items[i])); cut_last(path))
            if (has(summary->ends, last_word(path)) && !has(summary->paths, path))
                return 0;
    }
    return 1;
}

/* Which biases are trained, as PEFT says it; NULL after raising. */
static const char *bias_kind(const Saving *s, const Summary *summary, const json_t *saved)
{
    int trained = 0, adapted = 0, all = 0, trained_adapted = 0;
    for (int i = 0; i < s->list.count; i++) {
        char path[NAME_MOST];
        const char *name = tensor_name(s->list.items[i]);
        module_path(path, name);
        if (!is_bias(name) || is_within(saved, name))
            continue;
        int here = is_own(s->list.items[i]), with = has(summary->paths, path);
        all++;
        adapted += with;
        trained += here;
        trained_adapted += here && with;
    }
    if (!trained)
        return "none";
    if (trained == all)
        return "all";
    if (trained == adapted && trained_adapted == adapted)
        return "lora_only";
    error_raise(
        ERROR_STATE,
        "io_save_adapter(): %d of %d biases are trained, and PEFT's configuration knows none, all, or "
        "those of the adapted layers",
        trained, all);
    return NULL;
}

/* ---- The configuration ------------------------------------------------------------------------- */

/* A causal language model and a sequence classifier have a task in PEFT; of another the class is noted. */
static void put_task(const Saving *s, json_t **o)
{
    const FamilyFiles *files = family_files_named(nn_class_name(s->model));
    const char *type = files ? files->types[0].model_type : NULL;
    const char *class = files ? files->types[0].architecture : NULL;
    char module[96];
    int causal = class && (strstr(class, "LMHead") || strstr(class, "CausalLM"));
    int labels = is_classifier(s);
    config_put(o, "task_type",
               labels   ? json_string("SEQ_CLS")
               : causal ? json_string("CAUSAL_LM")
                        : json_null());
    if (labels || causal || !class || !type) {
        config_put(o, "auto_mapping", json_null());
        return;
    }
    snprintf(module, sizeof module, "transformers.models.%s.modeling_%s", type, type);
    config_put(o, "auto_mapping",
               json_pack("{s:s, s:s}", "base_model_class", class, "parent_library", module));
}

static void put_nulls(json_t **o)
{
    static const char *const names[] = {"exclude_modules", "layers_pattern", "layers_to_transform",
                                        "revision"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        config_put(o, names[i], json_null());
}

static json_t *make_config(const Saving *s, const Summary *summary)
{
    json_t *o = json_object(), *saved = saved_modules(s);
    const char *bias = saved ? bias_kind(s, summary, saved) : NULL, *base = s->how->base;
    config_put(&o, "base_model_name_or_path", base ? json_string(base) : json_null());
    config_put(&o, "bias", bias ? json_string(bias) : NULL);
    config_put(&o, "fan_in_fan_out", json_boolean(summary->in_out > 0));
    config_put(&o, "inference_mode", json_true());
    config_put(&o, "init_lora_weights", json_true());
    config_put(&o, "lora_alpha", number((double)summary->first.alpha));
    config_put(&o, "lora_dropout", config_decimal(summary->first.dropout));
    config_put(&o, "modules_to_save", json_array_size(saved) ? json_incref(saved) : json_null());
    config_put(&o, "peft_type", json_string("LORA"));
    config_put(&o, "r", json_integer(summary->first.rank));
    config_put(&o, "alpha_pattern", json_incref(summary->alphas));
    config_put(&o, "rank_pattern", json_incref(summary->ranks));
    config_put(&o, "target_modules", sorted(ends_suffice(s, summary) ? summary->ends : summary->paths));
    config_put(&o, "use_dora", json_false());
    config_put(&o, "use_rslora", json_boolean(summary->first.rslora));
    put_nulls(&o);
    put_task(s, &o);
    json_decref(saved);
    return o;
}

static int describe(Saving *s)
{
    Summary summary = {
        .paths = json_array(), .ends = json_array(), .ranks = json_object(), .alphas = json_object()};
    s->list = nn_parameters(s->model);
    int status = error_code();
    if (!status)
        status = nn_lora_layers(s->model, summarise, &summary);
    if (!status && !summary.count)
        status = error_raise(ERROR_STATE, "io_save_adapter(): the model has no adapters; nn_add_lora and "
                                          "io_load_adapter give it some");
    int lost = !summary.paths || !summary.ends || !summary.ranks || !summary.alphas;
    if (!status && (lost || !(s->config = make_config(s, &summary))) && !error_code())
        error_raise(ERROR_HOST_MEMORY, "%s: no host memory for its " ADAPTER_CONFIG, s->shown);
    json_decref(summary.paths);
    json_decref(summary.ends);
    json_decref(summary.ranks);
    json_decref(summary.alphas);
    return error_code();
}

/* ---- What is there ----------------------------------------------------------------------------- */

/* What was found that may not be written over. */
typedef struct Found {
    int model, state, optimizer, config, tensors;
    char other[64]; /* a file of an adapter that is not written here; "" = none */
} Found;

static int is_foreign(const char *name)
{
    return !strncmp(name, "adapter_", 8) && strcmp(name, ADAPTER_CONFIG) != 0 &&
           strcmp(name, ADAPTER_TENSORS) != 0 && !strstr(name, ".tmp-");
}

static void look(const char *directory, Found *f)
{
    DIR *open = opendir(directory);
    for (const struct dirent *entry; open && (entry = readdir(open));) {
        const char *name = entry->d_name;
        f->model |= !strcmp(name, "config.json") || is_weights_name(name);
        f->state |= !strcmp(name, "state.json");
        f->optimizer |= !strcmp(name, "optimizer.safetensors");
        f->config |= !strcmp(name, ADAPTER_CONFIG);
        f->tensors |= !strcmp(name, ADAPTER_TENSORS);
        if (is_foreign(name) && (!f->other[0] || strcmp(name, f->other) < 0))
            snprintf(f->other, sizeof f->other, "%.60s", name);
    }
    if (open)
        closedir(open);
}

/* a: a list of names, each once; or any value. */
static int same_set(const json_t *a, const json_t *b)
{
    size_t i;
    const json_t *name;
    if (!json_is_array(a) || !json_is_array(b) || json_array_size(a) != json_array_size(b))
        return json_equal((json_t *)(uintptr_t)a, (json_t *)(uintptr_t)b);
    json_array_foreach((json_t *)a, i, name)
    {
        if (!has(b, json_string_value(name)))
            return 0;
    }
    return 1;
}

/* Whether the adapter that is there is the same one, trained otherwise: -1 after raising. */
static int same_adapter(const Saving *s)
{
    static const char *const names[] = {"peft_type", "r", "target_modules", "modules_to_save",
                                        "base_model_name_or_path"};
    char path[PATH_BYTES];
    if (path_join(path, s->directory, ADAPTER_CONFIG))
        return -1;
    json_t *theirs = json_read_file(path, s->shown, "an " ADAPTER_CONFIG, ADAPTER_CONFIG_MOST);
    int same = theirs != NULL;
    for (size_t i = 0; same && i < sizeof names / sizeof names[0]; i++)
        same = same_set(json_object_get(s->config, names[i]), json_object_get(theirs, names[i]));
    json_decref(theirs);
    if (error_code() == ERROR_HOST_MEMORY)
        return -1;
    error_clear();
    return same;
}

static int check(const Saving *s)
{
    Found f = {0};
    look(s->directory, &f);
    if (f.state && f.optimizer)
        return error_raise(
            ERROR_FILE, "%s is a saved run: the adapter would destroy it; give another directory", s->shown);
    if (f.model)
        return error_raise(
            ERROR_FILE,
            "%s holds a whole model: an adapter beside it would be added to it by whoever loads "
            "it; give another directory",
            s->shown);
    if (s->how->overwrite)
        return 0;
    int same = f.config ? same_adapter(s) : !f.tensors;
    if (same < 0)
        return error_code();
    if (same && !f.other[0])
        return 0;
    return error_raise(ERROR_FILE,
                       "%s holds another adapter (%s), which would be lost; give another directory, or add "
                       "--overwrite to replace it",
                       s->shown,
                       same       ? f.other
                       : f.config ? ADAPTER_CONFIG
                                  : ADAPTER_TENSORS);
}

/* ---- The tensors ------------------------------------------------------------------------------- */

/* The base's bias of a layer with an adapter lies within it. */
static void store_name(char out[NAME_MOST], const Saving *s, const char *name)
{
    char path[NAME_MOST], adapter[NAME_MOST + 16];
    int within = 0;
    module_path(path, name);
    snprintf(adapter, sizeof adapter, "%s.lora_A.weight", path);
    for (int i = 0; i < s->list.count && is_bias(name) && !within; i++)
        within = !strcmp(tensor_name(s->list.items[i]), adapter);
    if (within)
        snprintf(out, NAME_MOST, ADAPTER_PREFIX "%.200s.base_layer.bias", path);
    else
        snprintf(out, NAME_MOST, ADAPTER_PREFIX "%.280s", name);
}

static int make_room(Saving *s)
{
    size_t count = (size_t)s->list.count;
    s->items = host_alloc(count * sizeof *s->items);
    s->names = s->items ? host_alloc(count * sizeof *s->names) : NULL;
    return error_code();
}

/* An embedding's first matrix has a row a token here, and a column a token in PEFT. */
static void turn(SafetensorsItem *item)
{
    int64_t rows = item->dim[0];
    item->turned = 1;
    item->dim[0] = item->dim[1];
    item->dim[1] = rows;
}

static int list_items(Saving *s)
{
    for (int i = 0; i < s->list.count; i++) {
        Tensor *parameter = s->list.items[i];
        if (!is_adapter(tensor_name(parameter)) && !is_own(parameter))
            continue;
        SafetensorsItem *item = &s->items[s->count];
        char *name = s->names[s->count++];
        store_name(name, s, tensor_name(parameter));
        *item = safetensors_item(name, SAFETENSORS_F32, parameter);
        if (strstr(tensor_name(parameter), ".lora_embedding_A"))
            turn(item);
    }
    return error_code();
}

/* ---- The directory ----------------------------------------------------------------------------- */

static int remove_foreign(const Saving *s)
{
    for (Found f = {0}; look(s->directory, &f), f.other[0]; f = (Found){0})
        if (replace_remove(s->directory, f.other))
            return error_code();
    return 0;
}

static int name_file(const Saving *s, const char *path, const char *name)
{
    return file_move(path) == 0 ? replace_sync(s->directory)
                                : replace_failed(s->directory, "give its name to", name);
}

static void drop_temporary(const char *path)
{
    char temporary[PATH_BYTES];
    if (file_temporary(temporary, path) == 0)
        file_calls.unlink(temporary);
}

static int publish(const Saving *s, const char *config, const char *tensors)
{
    char temporary[PATH_BYTES];
    Found f = {0};
    look(s->directory, &f);
    if (file_temporary(temporary, config))
        return error_code();
    if (!f.other[0] && f.tensors && files_equal(config, temporary)) {
        drop_temporary(config);
        return name_file(s, tensors, ADAPTER_TENSORS);
    }
    if (replace_remove(s->directory, ADAPTER_CONFIG) || replace_sync(s->directory) || remove_foreign(s) ||
        name_file(s, tensors, ADAPTER_TENSORS))
        return error_code();
    return name_file(s, config, ADAPTER_CONFIG);
}

/* Of several ranks, the first one does all but the tensors. */
static int write_files(Saving *s)
{
    char config[PATH_BYTES], tensors[PATH_BYTES];
    if (path_join(config, s->directory, ADAPTER_CONFIG) || path_join(tensors, s->directory, ADAPTER_TENSORS))
        return error_code();
    if (ranks_first_())
        json_write_temporary(s->config, config, JSON_SORT_KEYS);
    int status = ranks_agreed_();
    if (!status)
        status = safetensors_write_temporary(tensors, s->items, s->count, NULL, 0);
    if (!status && ranks_first_())
        publish(s, config, tensors);
    status = status ? status : ranks_agreed_();
    if (status && ranks_first_()) {
        drop_temporary(config);
        drop_temporary(tensors);
    }
    return status;
}

/* ---- All --------------------------------------------------------------------------------------- */

static int begin(Saving *s, const char *function, Module *model, const char *directory,
                 const AdapterSaving *how)
{
    static const AdapterSaving defaults;
    *s = (Saving){.model = model, .directory = directory, .how = how ? how : &defaults};
    if (!model || !directory)
        return error_raise(ERROR_ARGUMENT, "%s(): %s is NULL", function, model ? "directory" : "model");
    path_label(s->shown, directory);
    if (s->how->base && !text_is_utf8(s->how->base))
        return error_raise(ERROR_ARGUMENT, "%s(): the name of the base is not UTF-8", function);
    return describe(s);
}

static int end(Saving *s, int status)
{
    size_t count = (size_t)s->list.count;
    if (s->names)
        host_free(context_here(), s->names, count * sizeof *s->names);
    if (s->items)
        host_free(context_here(), s->items, count * sizeof *s->items);
    json_decref(s->config);
    return status;
}

int io_check_adapter(Module *model, const char *directory, const AdapterSaving *how)
{
    Saving s;
    int status = begin(&s, "io_check_adapter", model, directory, how);
    return end(&s, status ? status : check(&s));
}

int io_save_adapter(Module *model, const char *directory, const AdapterSaving *how)
{
    Saving s;
    int status = begin(&s, "io_save_adapter", model, directory, how);
    if (!status && ranks_first_() && !context_is_meta(context_current()) && !check(&s))
        io_check_directory(directory);
    status = status == ERROR_ARGUMENT ? status : ranks_agreed_(); /* what is an argument is so everywhere */
    if (!status && !context_is_meta(context_current())) {
        make_room(&s);
        status = ranks_agreed_();
        if (!status)
            status = list_items(&s) || write_files(&s) ? error_code() : 0;
    }
    return end(&s, status);
}
