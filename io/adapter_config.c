/* adapter_config.json: PEFT's LoraConfig. Every field acts, says nothing (null, false, empty, its default),
 * or is refused by name: an adapter that is only nearly computed would look right and be wrong. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "../base/hub_.h"
#include "adapter_.h"

enum { RANK_MOST = 1 << 16 };

/* ---- What is not computed -------------------------------------------------------------------- */

#define MERGED                                                                                               \
    "; merge the adapter in Python (merge_and_unload, save_pretrained), and give the directory that this "   \
    "writes as a model"

typedef struct Uncomputed {
    const char *name;
    const char *otherwise; /* as JSON: the value that says nothing, beside null, false and what is empty */
    const char *why;
} Uncomputed;

static const Uncomputed uncomputed[] = {
    {"use_dora", NULL, "DoRA's magnitudes are not computed" MERGED},
    {"use_qalora", NULL, "QALoRA pools the inputs of its adapters, which is not computed" MERGED},
    {"qalora_group_size", "16",
     "it concerns QALoRA, which is not computed; remove it from a copy of the file"},
    {"lora_bias", NULL, "a bias of lora_B is not computed" MERGED},
    {"velora_config", NULL,
     "VeLoRA trains with compressed activations, which is not computed; without it the adapter is the same: "
     "remove the field from a copy of the file"},
    {"kasa_config", NULL, "KaSA's singular values are not computed" MERGED},
    {"monteclora_config", NULL, "sampled adapters are not computed" MERGED},
    {"arrow_config", NULL,
     "routing between adapters is not computed; give one of the adapters that it routes to"},
    {"use_bdlora", NULL, "block-diagonal adapters are not computed" MERGED},
    {"alora_invocation_tokens", NULL,
     "an adapter that acts from some token on is not computed, and cannot be merged; train one without it"},
    {"layer_replication", NULL, "layers that are used several times are not computed" MERGED},
    {"target_parameters", NULL,
     "adapters of parameters that are no linear layer's (of experts) are not computed" MERGED},
    {"trainable_token_indices", NULL, "training some rows of an embedding is not computed" MERGED},
    {"ensure_weight_tying", NULL, "adapters that two tied layers share are not computed" MERGED},
    {"megatron_config", NULL, "Megatron's parallel layers are not computed" MERGED},
    {"megatron_core", "\"megatron.core\"",
     "Megatron's parallel layers are not computed; remove it from a copy of the file"},
    {"loftq_config", NULL, "LoftQ changes the weights of the base" MERGED},
    {"corda_config", NULL, "CorDA changes the weights of the base" MERGED},
    {"lora_ga_config", NULL, "LoRA-GA changes the weights of the base" MERGED},
    {"eva_config", NULL,
     "it says how EVA finds the values of a new adapter, which is not computed; the values of a trained one "
     "do not need it: remove it from a copy of the file"},
    {"runtime_config", NULL,
     "it says how PEFT runs, and is not read here; remove it from a copy of the file"},
};

/* How a new adapter begins does not matter to one that is read, unless the base is changed for it. */
static const char *const own_beginnings[] = {"gaussian", "orthogonal", "eva", NULL};
static const char *const base_changes[] = {"pissa", "olora", "corda", "loftq", "lora_ga", NULL};

/* They describe, and nothing is computed from them. */
static const char *const described[] = {"auto_mapping", "inference_mode", "peft_version", "revision", NULL};

/* null, false, nothing in it, or only such things in it. */
static int says_nothing(const json_t *value)
{
    const char *name;
    json_t *inner;
    if (json_is_string(value))
        return !json_string_length(value);
    if (json_is_array(value))
        return !json_array_size(value);
    json_object_foreach((json_t *)value, name, inner)
    {
        if (!json_is_null(inner) && !json_is_false(inner))
            return 0;
    }
    return !value || json_is_null(value) || json_is_false(value) || json_is_object(value);
}

/* The value, or NULL where it says nothing. */
static const json_t *said(Fields *f, const char *name)
{
    const json_t *value = fields_get(f, name);
    return says_nothing(value) ? NULL : value;
}

static void refuse_uncomputed(Fields *f)
{
    for (size_t i = 0; i < sizeof uncomputed / sizeof uncomputed[0]; i++) {
        const Uncomputed *u = &uncomputed[i];
        const json_t *value = said(f, u->name);
        if (!value)
            continue;
        json_t *otherwise = u->otherwise ? json_loads(u->otherwise, JSON_DECODE_ANY, NULL) : NULL;
        if (!otherwise || !json_equal(otherwise, value))
            fields_fail(f, "%s is %s: %s", u->name, value_text(value).text, u->why);
        json_decref(otherwise);
    }
}

static int is_one_of(const char *text, const char *const *list)
{
    while (*list && strcmp(*list, text) != 0)
        list++;
    return *list != NULL;
}

/* "pissa_niter_16" is pissa too. */
static int begins_with_one_of(const char *text, const char *const *list)
{
    while (*list && strncmp(*list, text, strlen(*list)) != 0)
        list++;
    return *list != NULL;
}

static void read_beginning(Fields *f)
{
    static const char name[] = "init_lora_weights";
    const json_t *value = said(f, name);
    const char *text = json_string_value(value);
    if (!value || json_is_true(value) || (text && is_one_of(text, own_beginnings)))
        return;
    if (text && begins_with_one_of(text, base_changes))
        fields_fail(f,
                    "%s is %s, for which PEFT changes the weights of the base: save the adapter with "
                    "path_initial_model_for_weight_conversion, which makes it one for the base as it is",
                    name, value_text(value).text);
    else if (text && !strcmp(text, "mica"))
        fields_fail(f, "%s is \"mica\", which trains lora_A alone, and is not computed" MERGED, name);
    else
        fields_refuse(f, name, "true, false, \"gaussian\", \"orthogonal\" or \"eva\"");
}

/* A field of a newer PEFT, or of a method that is none of LoRA's. */
static void refuse_unknown(Fields *f)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)f->object, name, value)
    {
        int known = says_nothing(value);
        for (int i = 0; !known && i < f->asked_count; i++)
            known = !strcmp(f->asked[i], name);
        if (!known && !is_one_of(name, described))
            fields_fail(
                f,
                "the field %s is %s, and what it does is not known; remove it from a copy of the file "
                "if the adapter is the same without",
                string_text(name).text, value_text(value).text);
    }
}

/* ---- What acts ------------------------------------------------------------------------------- */

static int is_name_list(const json_t *value)
{
    size_t i;
    const json_t *name;
    json_array_foreach((json_t *)value, i, name)
    {
        if (!json_string_length(name))
            return 0;
    }
    return json_is_array(value);
}

/* A list of names or, where `pattern` allows it, one pattern; NULL where nothing is said. */
static const json_t *read_names(Fields *f, const char *name, int pattern)
{
    const json_t *value = said(f, name);
    if (!value || is_name_list(value) || (pattern && json_is_string(value)))
        return value;
    fields_refuse(f, name, pattern ? "a list of names, or one pattern" : "a list of names");
    return NULL;
}

/* An object of numbers, which are whole ones of ranks. */
static const json_t *read_patterns(Fields *f, const char *name, int ranks)
{
    const json_t *value = said(f, name);
    const char *key;
    json_t *number;
    int right = !value || json_is_object(value);
    json_object_foreach((json_t *)value, key, number)
    {
        double x = json_number_value(number);
        right = right && (ranks ? json_is_integer(number) && x >= 1 && x <= RANK_MOST
                                : json_is_number(number) && x > 0 && x <= 1e6);
    }
    if (!right)
        fields_refuse(f, name, "an object that maps patterns of module names to %s",
                      ranks ? "ranks" : "positive numbers");
    return right ? value : NULL;
}

static const json_t *read_layers(Fields *f)
{
    static const char name[] = "layers_to_transform";
    const json_t *value = said(f, name), *layer;
    size_t i;
    int right = !value || json_is_integer(value) || json_is_array(value);
    json_array_foreach((json_t *)value, i, layer) right = right && json_is_integer(layer);
    if (!right)
        fields_refuse(f, name, "the number of a layer, or a list of them");
    return right ? value : NULL;
}

static void read_bias(Fields *f, AdapterConfig *c)
{
    const json_t *value = said(f, "bias");
    const char *text = value ? json_string_value(value) : "none";
    if (text && !strcmp(text, "all"))
        c->bias = ADAPTER_BIAS_ALL;
    else if (text && !strcmp(text, "lora_only"))
        c->bias = ADAPTER_BIAS_ADAPTED;
    else if (!text || strcmp(text, "none") != 0)
        fields_refuse(f, "bias", "\"none\", \"all\" or \"lora_only\"");
}

static void read_targets(Fields *f, AdapterConfig *c)
{
    const json_t *given = fields_get(f, "target_modules");
    c->targets = read_names(f, "target_modules", 1);
    if (given && !c->targets && !json_is_null(given))
        fields_fail(f, "target_modules is empty: no module would have an adapter");
    const char *pattern = json_string_value(c->targets);
    c->all_linear = pattern && !strcasecmp(pattern, "all-linear");
    c->exclude = read_names(f, "exclude_modules", 1);
    c->saved = read_names(f, "modules_to_save", 0);
    c->layers = read_layers(f);
    c->inside = read_names(f, "layers_pattern", 1);
    if (pattern && (c->layers || c->inside))
        fields_fail(f, "%s needs target_modules as a list, not as a pattern",
                    c->layers ? "layers_to_transform" : "layers_pattern");
    if (c->inside && !c->layers)
        fields_fail(f, "layers_pattern says nothing without layers_to_transform; remove it");
}

static void read_kind(Fields *f, AdapterConfig *c)
{
    static const char *const tasks[] = {"CAUSAL_LM", "FEATURE_EXTRACTION", "SEQ_CLS", NULL};
    const json_t *type = said(f, "peft_type"), *task = said(f, "task_type"), *base;
    const char *name = json_string_value(type);
    if (!name)
        fields_fail(f, "peft_type is missing; adapters of the type \"LORA\" are read");
    else if (strcmp(name, "LORA") != 0)
        fields_fail(f, "peft_type is %s: of PEFT's methods only \"LORA\" is computed" MERGED,
                    value_text(type).text);
    if (task && !(json_is_string(task) && is_one_of(json_string_value(task), tasks)))
        fields_fail(f,
                    "task_type is %s: such heads are not computed; \"CAUSAL_LM\", \"SEQ_CLS\" and null are",
                    value_text(task).text);
    c->labels = task && !strcmp(json_string_value(task) ? json_string_value(task) : "", "SEQ_CLS");
    base = said(f, "base_model_name_or_path");
    if (base && !json_is_string(base))
        fields_refuse(f, "base_model_name_or_path", "a string");
    c->base = json_string_value(base);
}

static double number_or(Fields *f, const char *name, double otherwise, double least, double most)
{
    return fields_null(f, name) ? otherwise : fields_number(f, name, otherwise, least, most);
}

static void read_fields(Fields *f, AdapterConfig *c)
{
    read_kind(f, c);
    refuse_uncomputed(f);
    read_beginning(f);
    c->rank = fields_optional(f, "r", 8, 8, RANK_MOST);
    c->alpha = number_or(f, "lora_alpha", 8, 1e-6, 1e6);
    c->dropout = fields_null(f, "lora_dropout") ? 0 : fields_probability(f, "lora_dropout", 0);
    c->rslora = fields_flag(f, "use_rslora", 0);
    fields_flag(f, "fan_in_fan_out", 0); /* how the weight lies is known from the layer */
    read_bias(f, c);
    read_targets(f, c);
    c->ranks = read_patterns(f, "rank_pattern", 1);
    c->alphas = read_patterns(f, "alpha_pattern", 0);
    refuse_unknown(f);
}

/* ---- The file -------------------------------------------------------------------------------- */

static int refuse_missing(const char *directory, const char *shown)
{
    char config[PATH_BYTES];
    if (access(directory, F_OK) != 0)
        return error_raise(ERROR_FILE, "%s: cannot open: %s", shown, strerror(errno));
    if (!path_is_directory(directory))
        return error_raise(
            ERROR_FILE,
            "%s is a file: an adapter is a directory with " ADAPTER_CONFIG " and " ADAPTER_TENSORS, shown);
    if (path_join(config, directory, "config.json"))
        return error_code();
    return error_raise(ERROR_FILE, "%s has no " ADAPTER_CONFIG "%s", shown,
                       access(config, F_OK) == 0 ? ": it is a whole model, which --init takes" : "");
}

int adapter_config_read(AdapterConfig *c, const char *directory)
{
    char path[PATH_BYTES], shown[FILE_LABEL];
    *c = (AdapterConfig){0};
    if (path_join(path, directory, ADAPTER_CONFIG))
        return error_code();
    path_label(c->shown, path);
    path_label(shown, directory);
    if (access(path, F_OK) != 0)
        return refuse_missing(directory, shown);
    c->root = json_read_file(path, c->shown, "an " ADAPTER_CONFIG, ADAPTER_CONFIG_MOST);
    if (!c->root)
        return error_code();
    Fields fields = {.file = c->shown, .within = "", .object = c->root};
    read_fields(&fields, c);
    if (fields.failed)
        adapter_config_free(c);
    return fields.failed;
}

void adapter_config_free(AdapterConfig *c)
{
    json_decref(c->root);
    *c = (AdapterConfig){0};
}
