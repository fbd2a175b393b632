/* Reading an adapter: which modules it adapts, which tensor of its file is which parameter, everything that
 * does not fit in one message, and only then new parameters and their values. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../base/ends_.h"
#include "../base/plural_.h"
#include "../base/hub_.h"
#include "../nn/lora.h"
#include "adapter_.h"
#include "family_.h"
#include "listing_.h"
#include "safetensors_.h"

enum { NAME_BYTES = 320, PATH_ROOM = 288 }; /* so that endings have room in a name */

/* A layer that gets an adapter. */
typedef struct Adapted {
    char path[PATH_ROOM];
    int64_t in, out;
    int embedding, rank;
    double alpha;
} Adapted;

/* A parameter that the file has, or must have. */
typedef struct Wanted {
    char name[NAME_BYTES]; /* the parameter's, which is the file's without its prefix */
    Shape shape;
    const SafetensorsEntry *entry;
    Tensor *own;                                 /* a parameter of the base; NULL: one of an adapter */
    unsigned char required, trained, transposed; /* transposed: the file has columns for rows */
} Wanted;

typedef struct Loading {
    Module *model;
    const AdapterOptions *options;
    AdapterConfig config;
    Safetensors *file;
    char shown[FILE_LABEL]; /* the file of tensors */
    const char *prefix;     /* the family's, which a file of the bare body lacks; NULL = none */
    Adapted *adapted;
    Wanted *wanted;
    int adapted_count, adapted_room, wanted_count, wanted_room;
    int lost; /* of the base's that have its values and are not trained */
    Misfits fit;
    AdapterReport report;
} Loading;

/* ---- Which layers ------------------------------------------------------------------------------ */

static int count_layer(void *user, const LoraLayer *layer)
{
    Loading *l = user;
    l->adapted_room++;
    return strlen(layer->path) < PATH_ROOM
               ? 0
               : error_raise(ERROR_DATA, "io_load_adapter(): the module path %.60s… is too long",
                             layer->path);
}

/* Neither a tied head nor PEFT's copy of it has weights of its own here. */
static int refuse_tied_head(const Loading *l, const char *path)
{
    return error_raise(
        ERROR_DATA,
        "%s: an adapter of %s is not read, because its weights are the embedding's here; untie them "
        "in Python (tie_word_embeddings false), or train one without it in target_modules",
        l->config.shown, path);
}

static int choose_layer(void *user, const LoraLayer *layer)
{
    Loading *l = user;
    AdapterPlace place = {.path = layer->path,
                          .family = nn_class_name(l->model),
                          .embedding = layer->embedding,
                          .head = layer->head};
    int chosen = adapter_targets(&l->config, &place);
    if (chosen <= 0)
        return chosen ? error_code() : 0;
    if (layer->head && layer->tied)
        return refuse_tied_head(l, layer->path);
    Adapted *a = &l->adapted[l->adapted_count++];
    *a = (Adapted){.in = layer->in, .out = layer->out, .embedding = layer->embedding};
    strcpy(a->path, layer->path);
    return adapter_strength(&l->config, layer->path, &a->rank, &a->alpha);
}

static int choose_layers(Loading *l)
{
    if (nn_lora_layers(l->model, count_layer, l))
        return error_code();
    l->adapted = host_alloc((size_t)(l->adapted_room + 1) * sizeof *l->adapted);
    if (!l->adapted || nn_lora_layers(l->model, choose_layer, l))
        return error_code();
    if (l->adapted_count)
        return 0;
    return error_raise(ERROR_DATA,
                       "%s: target_modules %s none of this %s's layers: it is an adapter of another model",
                       l->config.shown, l->config.targets ? "names" : "is not there, and by default means",
                       nn_class_name(l->model));
}

/* ---- Which parameters -------------------------------------------------------------------------- */

static Wanted *want(Loading *l, const char *path, const char *ending, Shape shape)
{
    Wanted *w = &l->wanted[l->wanted_count++];
    snprintf(w->name, sizeof w->name, "%s%s", path, ending);
    w->shape = shape;
    w->required = w->trained = 1;
    return w;
}

static void want_adapter(Loading *l, const Adapted *a)
{
    if (a->embedding) { /* the first one lies the other way round here, a row a token */
        want(l, a->path, ".lora_embedding_A", SHAPE(a->rank, a->in))->transposed = 1;
        want(l, a->path, ".lora_embedding_B", SHAPE(a->out, a->rank));
        return;
    }
    want(l, a->path, ".lora_A.weight", SHAPE(a->rank, a->in));
    want(l, a->path, ".lora_B.weight", SHAPE(a->out, a->rank));
}

static int is_adapted(const Loading *l, const char *path, size_t length)
{
    for (int i = 0; i < l->adapted_count; i++)
        if (strlen(l->adapted[i].path) == length && !strncmp(l->adapted[i].path, path, length))
            return 1;
    return 0;
}

static int brings_bias(const Loading *l, const char *name)
{
    if (l->config.bias == ADAPTER_BIAS_NONE || !text_ends(name, ".bias"))
        return 0;
    return l->config.bias == ADAPTER_BIAS_ALL || is_adapted(l, name, strlen(name) - strlen(".bias"));
}

/* PEFT stores embeddings and head beside an adapter when the vocabulary has changed, or an adapter is there.
 */
static int may_be_brought(const char *name)
{
    return text_ends(name, "embed_tokens.weight") || text_ends(name, "wte.weight") ||
           text_ends(name, "word_embeddings.weight") || text_ends(name, "embed_in.weight") ||
           text_ends(name, "tok_embeddings.weight") || text_ends(name, "lm_head.weight");
}

static int want_own(Loading *l, Tensor *parameter)
{
    const char *name = tensor_name(parameter);
    int saved = adapter_saves(&l->config, name), brought = saved || brings_bias(l, name);
    if (!brought && !may_be_brought(name))
        return 0;
    if (brought && !l->options->frozen && tensor_dtype(parameter) != DTYPE_F32)
        return error_raise(
            ERROR_STATE,
            "io_load_adapter(): the adapter brings %s, which is trained with it, and the model "
            "stores it as %s, which is not: make the model with fp32 weights, or read the adapter "
            "frozen, to compute with it",
            name, dtype_name(tensor_dtype(parameter)));
    if (strlen(name) >= NAME_BYTES)
        return error_raise(ERROR_DATA, "io_load_adapter(): the name %.60s… is too long", name);
    Wanted *w = want(l, name, "", tensor_whole_shape_(parameter));
    w->own = parameter;
    w->required = w->trained = (unsigned char)brought;
    return 0;
}

/* A module of modules_to_save that shares its weights would be one of its own in PEFT. */
static int check_tied(void *user, const LoraLayer *layer)
{
    Loading *l = user;
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s.weight", layer->path);
    if (!layer->tied || !adapter_saves(&l->config, name))
        return 0;
    return error_raise(
        ERROR_DATA,
        "%s: modules_to_save has %s, whose weights the embedding and the output head share here, "
        "while PEFT trains a copy for one of them: untie them in Python (tie_word_embeddings "
        "false), and train the adapter again",
        l->config.shown, layer->path);
}

static int has_module(TensorList list, const char *name)
{
    int i = 0;
    while (i < list.count && !adapter_is_in(tensor_name(list.items[i]), name))
        i++;
    return i < list.count;
}

/* One of the names that a classifier's head may have, and the model has it under the other one. */
static int is_other_head(const Loading *l, TensorList list, const char *name)
{
    static const char *const names[] = ADAPTER_CLASSIFIERS;
    int one = !strcmp(name, names[0]) ? 0 : !strcmp(name, names[1]) ? 1 : -1;
    return l->config.labels && one >= 0 && has_module(list, names[!one]);
}

/* Every name of modules_to_save is a module's. */
static int check_saved(Loading *l, TensorList list)
{
    size_t i;
    const json_t *name;
    if (nn_lora_layers(l->model, check_tied, l))
        return error_code();
    json_array_foreach((json_t *)l->config.saved, i, name)
    {
        const char *text = json_string_value(name);
        if (!has_module(list, text) && !is_other_head(l, list, text))
            return error_raise(
                ERROR_DATA,
                "%s: modules_to_save has %s, and this %s has no such module: the adapter is of a "
                "model with another head",
                l->config.shown, value_text(name).text, nn_class_name(l->model));
    }
    return 0;
}

static int list_wanted(Loading *l)
{
    TensorList list = nn_parameters(l->model);
    if (error_code() || check_saved(l, list))
        return error_code();
    l->wanted_room = 2 * l->adapted_count + list.count;
    l->wanted = host_alloc((size_t)l->wanted_room * sizeof *l->wanted);
    for (int i = 0; l->wanted && i < l->adapted_count; i++)
        want_adapter(l, &l->adapted[i]);
    for (int i = 0; l->wanted && i < list.count; i++)
        if (want_own(l, list.items[i]))
            break;
    return error_code();
}

/* ---- Matching ---------------------------------------------------------------------------------- */

static Wanted *find_wanted(Loading *l, const char *name)
{
    for (int i = 0; i < l->wanted_count; i++)
        if (!strcmp(l->wanted[i].name, name))
            return &l->wanted[i];
    return NULL;
}

/* By a stored name without PEFT's prefix: it may lack the family's, and be said of the layer within the
 * adapter.
 */
static Wanted *meant(Loading *l, const char *stored)
{
    static const char within[] = ".base_layer.";
    char name[NAME_BYTES];
    const char *cut = strstr(stored, within);
    int length = cut ? (int)(cut - stored) : (int)strlen(stored);
    for (int i = 0; i < 2; i++) {
        const char *prefix = i && l->prefix ? l->prefix : "";
        if (snprintf(name, sizeof name, "%s%.*s%s", prefix, length, stored,
                     cut ? cut + strlen(within) - 1 : "") >= (int)sizeof name)
            return NULL;
        Wanted *found = find_wanted(l, name);
        if (found || !l->prefix)
            return found;
    }
    return NULL;
}

/* A second name of a tied parameter. */
static Wanted *meant_tied(Loading *l, const char *stored)
{
    const FamilyFiles *files = family_files_named(nn_class_name(l->model));
    for (int i = 0; files && i < 2; i++)
        if (files->names.tied[i].name && !strcmp(files->names.tied[i].name, stored))
            return find_wanted(l, files->names.tied[i].parameter);
    return NULL;
}

static const char *hint_of(const char *stored)
{
    return strstr(stored, "lora_magnitude_vector") ? "; magnitudes are DoRA's, which is not computed"
           : strncmp(stored, ADAPTER_PREFIX, strlen(ADAPTER_PREFIX)) != 0
               ? "; PEFT's names begin with " ADAPTER_PREFIX
               : "";
}

static int match_entry(Loading *l, const SafetensorsEntry *entry)
{
    size_t prefix = strlen(ADAPTER_PREFIX);
    int named = !strncmp(entry->name, ADAPTER_PREFIX, prefix);
    Wanted *w = named ? meant(l, entry->name + prefix) : NULL;
    Wanted *tied = named && !w ? meant_tied(l, entry->name + prefix) : NULL;
    if (tied && tied->entry)
        return 0;
    w = w ? w : tied;
    if (w && w->entry && w->entry != entry)
        return stored_twice(l->shown, w->entry, entry);
    if (w) {
        w->entry = entry;
        return 0;
    }
    misfit_unexpected(&l->fit, entry->name, hint_of(entry->name));
    return 0;
}

static void check_wanted(Loading *l)
{
    for (int i = 0; i < l->wanted_count; i++) {
        const Wanted *w = &l->wanted[i];
        if (w->entry)
            misfit_numbers(&l->fit, w->entry, w->shape, 0);
        else if (w->required)
            list_name(&l->fit.missing, "%s", w->name);
    }
}

/* Everything that is wrong, in one error. */
static int check_lists(Loading *l)
{
    int missing = l->fit.missing.count, unexpected = l->fit.unexpected.count;
    if (missing && unexpected)
        return error_raise(
            ERROR_DATA, "%s: %d tensor%s missing: %s; and %d %s not what its " ADAPTER_CONFIG " says: %s%s",
            l->shown, missing, missing > 1 ? "s are" : " is", listed_names(&l->fit.missing), unexpected,
            unexpected > 1 ? "are" : "is", listed_names(&l->fit.unexpected), l->fit.hint);
    if (missing)
        return error_raise(ERROR_DATA, "%s: %d tensor%s missing: %s", l->shown, missing,
                           missing > 1 ? "s are" : " is", listed_names(&l->fit.missing));
    if (unexpected)
        return error_raise(ERROR_DATA, "%s: %d tensor%s not what its " ADAPTER_CONFIG " says: %s%s", l->shown,
                           unexpected, unexpected > 1 ? "s are" : " is", listed_names(&l->fit.unexpected),
                           l->fit.hint);
    return misfits_raise_numbers(&l->fit, l->shown);
}

/* ---- The file ---------------------------------------------------------------------------------- */

static int open_file(Loading *l, const char *directory)
{
    char path[PATH_BYTES], pickle[PATH_BYTES], shown[FILE_LABEL];
    if (path_join(path, directory, ADAPTER_TENSORS) || path_join(pickle, directory, "adapter_model.bin"))
        return error_code();
    path_label(l->shown, path);
    path_label(shown, directory);
    if (access(path, F_OK) != 0 && access(pickle, F_OK) == 0)
        return error_raise(
            ERROR_FILE,
            "%s has its adapter in a pickle (adapter_model.bin), which is not read: load it in "
            "Python with PeftModel.from_pretrained, and save it with save_pretrained(…), which "
            "writes " ADAPTER_TENSORS,
            shown);
    if (access(path, F_OK) != 0)
        return error_raise(ERROR_FILE, "%s has no " ADAPTER_TENSORS ": the download is not complete", shown);
    l->file = safetensors_open(path);
    return error_code();
}

static int match_file(Loading *l, const char *directory)
{
    const FamilyFiles *files = family_files_named(nn_class_name(l->model));
    l->prefix = files ? files->names.prefix : NULL;
    if (open_file(l, directory))
        return error_code();
    for (int i = 0; i < safetensors_count(l->file); i++)
        if (match_entry(l, safetensors_at(l->file, i)))
            return error_code();
    check_wanted(l);
    return check_lists(l);
}

/* ---- Making and reading ------------------------------------------------------------------------ */

static int strength_of(void *user, const LoraLayer *layer, Lora *lora)
{
    const Loading *l = user;
    for (int i = 0; i < l->adapted_count; i++)
        if (!strcmp(l->adapted[i].path, layer->path)) {
            *lora = (Lora){.rank = l->adapted[i].rank,
                           .alpha = (float)l->adapted[i].alpha,
                           .dropout = (float)l->config.dropout,
                           .rslora = l->config.rslora};
            return 1;
        }
    return 0;
}

/* A parameter whose columns are the rows of its entry. */
typedef struct Turned {
    const Safetensors *file;
    const SafetensorsEntry *entry;
    const Tensor *to;
} Turned;

/* Numbers of column c of the parameter's rows [row, end), of which element `first` is the first of values. */
static int read_column(const Turned *t, int64_t c, int64_t row, int64_t end, int64_t first, float *values)
{
    enum { PIECE = 2048 };
    float piece[PIECE];
    int64_t columns = t->entry->dim[0], rows = t->entry->dim[1];
    int failed = 0;
    for (int64_t n; row < end && !failed; row += n) {
        n = end - row < PIECE ? end - row : PIECE;
        int64_t wanted = n * columns, from = tensor_place_(t->to, row * columns, &wanted) / columns;
        failed = safetensors_read_part(t->file, t->entry, c * rows + from, n, piece);
        for (int64_t i = 0; i < n && !failed; i++)
            values[(row + i) * columns + c - first] = piece[i];
    }
    return failed;
}

static int turn_numbers(void *user, int64_t first, int64_t count, float *values)
{
    const Turned *t = user;
    int64_t columns = t->entry->dim[0];
    int failed = 0;
    for (int64_t c = 0; c < columns && !failed; c++)
        failed = read_column(t, c, (first - c + columns - 1) / columns,
                             (first + count - c + columns - 1) / columns, first, values);
    return failed;
}

/* On meta too: what the base is stored as may need buffers. */
static int read_value(const Loading *l, const Wanted *w, Tensor *tensor)
{
    return w->transposed ? tensor_store_(tensor, turn_numbers, &(Turned){l->file, w->entry, tensor})
                         : safetensors_read_tensor(l->file, w->entry, tensor);
}

/* The adapters' parameters are there now, and everything else is frozen. */
static int read_values(Loading *l)
{
    for (int i = 0; i < l->wanted_count; i++) {
        const Wanted *w = &l->wanted[i];
        Tensor *to = w->own ? w->own : nn_parameter(l->model, w->name);
        int train = w->trained && !l->options->frozen;
        if (!to) /* no memory for the list of names */
            return error_code();
        if (w->entry && read_value(l, w, to))
            return error_code();
        if (tensor_requires_grad(to) != train)
            tensor_set_requires_grad(to, train);
        l->report.tensors += w->entry != NULL;
        l->report.own += w->own && w->entry;
        l->lost += w->own && w->entry && !w->trained;
    }
    return error_code();
}

static int load(Loading *l, const char *directory)
{
    if (choose_layers(l) || list_wanted(l) || match_file(l, directory) ||
        nn_add_lora_by(l->model, strength_of, l) < 0 || read_values(l))
        return error_code();
    l->report.adapted = l->adapted_count;
    for (int i = 0; i < l->adapted_count; i++)
        l->report.rank = l->adapted[i].rank > l->report.rank ? l->adapted[i].rank : l->report.rank;
    snprintf(l->report.base, sizeof l->report.base, "%s", l->config.base ? l->config.base : "");
    if (l->report.own)
        snprintf(l->report.note, sizeof l->report.note,
                 "%d parameter%s of the model itself %s the adapter's values%s.", l->report.own,
                 plural(l->report.own), l->report.own == 1 ? "has" : "have",
                 !l->lost || l->options->frozen ? ""
                 : l->lost == l->report.own     ? "; it is not trained, and not in what is written"
                                                : "; some are not trained, and not in what is written");
    return 0;
}

int io_load_adapter(Module *model, const char *directory, const AdapterOptions *options,
                    AdapterReport *report)
{
    static const AdapterOptions defaults;
    char path[PATH_BYTES];
    if (!model || !directory)
        return error_raise(ERROR_ARGUMENT, "io_load_adapter(): %s is NULL", model ? "directory" : "model");
    if (hub_follow(path, directory))
        return error_code();
    if (nn_lora_count(model))
        return error_raise(ERROR_STATE,
                           "io_load_adapter(): the model has adapters already; one set at a time");
    Loading l = {.model = model, .options = options ? options : &defaults, .fit = NO_MISFITS};
    if (!adapter_config_read(&l.config, path))
        load(&l, path);
    Context *context = context_here();
    int status = ranks_agree_error_(context, NULL);
    safetensors_close(l.file);
    if (l.wanted)
        host_free(context, l.wanted, (size_t)l.wanted_room * sizeof *l.wanted);
    if (l.adapted)
        host_free(context, l.adapted, (size_t)(l.adapted_room + 1) * sizeof *l.adapted);
    adapter_config_free(&l.config);
    if (report)
        *report = l.report;
    return status;
}
