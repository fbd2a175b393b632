/* A model by what a user types: many write a published model's name in their own way. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../base/ends_.h"
#include "../base/nearest_.h"
#include "io_.h"

/* Names that are not a preset's own in another spelling. Those of models that were tuned further have
 * the same shape. A note of NULL says which preset is meant. */
typedef struct Alias {
    const char *name, *preset, *note;
} Alias;

#define NO_LLAMA_1B "There is no Llama 3.1 1B: Llama 3.2 1B is meant (1,235,814,400 parameters)."
#define NO_LLAMA_3B "There is no Llama 3.1 3B: Llama 3.2 3B is meant (3,212,749,824 parameters)."

static const Alias aliases[] = {
    {"llama-3.1-1b", "llama-3.2-1b", NO_LLAMA_1B},
    {"llama-3.1-3b", "llama-3.2-3b", NO_LLAMA_3B},
    {"llama-3-1b", "llama-3.2-1b",
     "There is no Llama 3 1B: Llama 3.2 1B is meant (1,235,814,400 parameters)."},
    {"llama-3-3b", "llama-3.2-3b",
     "There is no Llama 3 3B: Llama 3.2 3B is meant (3,212,749,824 parameters)."},
    {"llama-3.2-8b", "llama-3.1-8b",
     "There is no Llama 3.2 8B: Llama 3.1 8B is meant (8,030,261,248 parameters)."},
    {"llama-3-8b", "llama-3.1-8b", "Llama 3 8B has the sizes of Llama 3.1 8B, and 8192 positions."},
    {"llama-3-70b", "llama-3.1-70b", "Llama 3 70B has the sizes of Llama 3.1 70B, and 8192 positions."},
    {"llama-3.3-70b", "llama-3.1-70b", "Llama 3.3 70B has the sizes of Llama 3.1 70B."},
    {"tinyllama-1.1b-chat-v1.0", "tinyllama-1.1b", NULL},
    {"tinyllama-1.1b-intermediate-step-1431k-3t", "tinyllama-1.1b", NULL},
    {"mistral-7b-v0.1", "mistral-7b", NULL},
    {"mistral-7b-instruct-v0.1", "mistral-7b", NULL},
    {"mistral-7b-instruct-v0.2", "mistral-7b-v0.2", NULL},
    {"mistral-7b-instruct-v0.3", "mistral-7b-v0.3", NULL},
    {"mixtral-8x7b-v0.1", "mixtral-8x7b", NULL},
    {"mixtral-8x7b-instruct-v0.1", "mixtral-8x7b", NULL},
    {"mixtral-8x22b-v0.1", "mixtral-8x22b", NULL},
    {"mixtral-8x22b-instruct-v0.1", "mixtral-8x22b", NULL},
    {"qwen3-4b-instruct-2507", "qwen3-4b",
     "Qwen3 4B of July 2025 has the sizes of Qwen3 4B, and 262144 positions."},
    {"olmo-2-0425-1b", "olmo2-1b", NULL},
    {"olmo-2-1124-7b", "olmo2-7b", NULL},
    {"olmo-2-1124-13b", "olmo2-13b", NULL},
    {"olmo-2-0325-32b", "olmo2-32b", NULL},
    {"olmo-3-1025-7b", "olmo3-7b", NULL},
    {"gpt2-small", "gpt2", NULL},
    {"gpt2-124m", "gpt2", NULL},
    {"gpt2-355m", "gpt2-medium", NULL},
    {"gpt2-774m", "gpt2-large", NULL},
    {"gpt2-1.5b", "gpt2-xl", NULL},
    {"bert-base-uncased", "bert-base", NULL},
    {"bert-large-uncased", "bert-large", NULL},
    {"distilbert-base-uncased", "distilbert-base", NULL},
};

enum { ALIAS_COUNT = sizeof aliases / sizeof aliases[0] };

/* ---- Names ----------------------------------------------------------------------------------- */

static int take_preset(const ModelPreset *preset, IoModel *model)
{
    model->preset = *preset;
    snprintf(model->name, sizeof model->name, "%s", preset->name);
    snprintf(model->about, sizeof model->about, "%s", preset->about);
    return ERROR_NONE;
}

/* The name without an organisation before it, and without Meta's prefix. */
static const char *without_owner(const char *what)
{
    const char *slash = strrchr(what, '/');
    const char *name = slash ? slash + 1 : what;
    return !strncmp(name, "Meta-", 5) || !strncmp(name, "meta-", 5) ? name + 5 : name;
}

/* Whether "owner/name" may be a name on the hub: one slash, and none at an end. */
static int hub_name(const char *what)
{
    const char *slash = strchr(what, '/');
    return !slash || (slash != what && what[0] != '.' && slash[1] && !strchr(slash + 1, '/'));
}

/* What was tuned further to follow instructions, or was not yet, has the same shape, and so has another
 * format. */
static int drop_ending(NameKey *key)
{
    static const char *const endings[] = {"instruct", "chat", "hf", "it", "pt", "base", "deduped"};
    size_t length = strlen(key->text);
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t end = strlen(endings[i]);
        if (length > end && !strcmp(key->text + length - end, endings[i])) {
            key->text[length - end] = '\0';
            return 1;
        }
    }
    return 0;
}

static const ModelPreset *find_key(const NameKey *wanted, const char **note)
{
    for (int i = 0; nn_preset_at(i); i++)
        if (!strcmp(name_key(nn_preset_at(i)->name).text, wanted->text))
            return nn_preset_at(i);
    for (int i = 0; i < ALIAS_COUNT; i++)
        if (!strcmp(name_key(aliases[i].name).text, wanted->text)) {
            *note = aliases[i].note;
            return nn_preset(aliases[i].preset);
        }
    return NULL;
}

/* Another spelling of a preset's name, or another name. Returns whether there is one. */
static int take_alias(const char *what, IoModel *model)
{
    NameKey wanted = name_key(without_owner(what));
    const char *note = NULL;
    const ModelPreset *preset = NULL;
    if (!hub_name(what) || strlen(what) >= NAME_KEY)
        return 0;
    do
        preset = find_key(&wanted, &note);
    while (!preset && drop_ending(&wanted));
    if (!preset)
        return 0;
    take_preset(preset, model);
    if (note)
        model_note(model, "%s", note);
    else
        model_note(model, "%s is the model %s.", what, preset->name);
    return 1;
}

/* The benchmark's are not for users. */
static const char *preset_name(int i, const void *user)
{
    (void)user;
    const ModelPreset *preset = nn_preset_at(i);
    return preset && strncmp(preset->name, "bench-", 6) != 0 ? preset->name : NULL;
}

static NameKey key_of_model(const char *name)
{
    return name_key(without_owner(name));
}

static int unknown(const char *what)
{
    const NameList presets = {.at = preset_name, .key = key_of_model};
    NearestText near = nearest_text(what, &presets, "");
    return error_raise(ERROR_ARGUMENT, "no model or file is called %s%s; the path of a config.json works too",
                       string_text(what).text, near.text[0] ? near.text : ", and no model is like it");
}

/* ---- All ------------------------------------------------------------------------------------- */

static int find_model(const char *what, int near, IoModel *model)
{
    if (!what || !model)
        return error_raise(ERROR_ARGUMENT, "io_find_model(): %s is NULL", what ? "model" : "the name");
    *model = (IoModel){0};
    const ModelPreset *preset = nn_preset(what);
    if (preset)
        return take_preset(preset, model);
    int json = text_ends(what, ".json");
    if (what[0] && access(what, F_OK) == 0)
        return config_read(what, near, model);
    if (take_alias(what, model))
        return ERROR_NONE;
    int path = json || what[0] == '.' || !hub_name(what);
    return path ? config_read(what, near, model) : unknown(what);
}

int io_find_model(const char *what, IoModel *model)
{
    return find_model(what, 0, model);
}

int io_find_model_near(const char *what, IoModel *model)
{
    return find_model(what, 1, model);
}
