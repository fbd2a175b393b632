/* A model by what a user types: many write a published model's name in their own way. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "io_.h"

enum { KEY = 64, NEAREST = 3 };

/* Letters and digits alone, in lower case: how two spellings of one name are compared. */
typedef struct Key {
    char text[KEY];
} Key;

static Key key_of(const char *name)
{
    Key key;
    size_t n = 0;
    for (; *name && n + 1 < sizeof key.text; name++) {
        if (*name >= 'A' && *name <= 'Z')
            key.text[n++] = (char)(*name - 'A' + 'a');
        else if ((*name >= 'a' && *name <= 'z') || (*name >= '0' && *name <= '9'))
            key.text[n++] = *name;
    }
    key.text[n] = '\0';
    return key;
}

/* Names that are not a preset's own in another spelling. Those of models that were tuned further have
 * the same shape. A note of NULL says which preset is meant. */
typedef struct Alias {
    const char *name, *preset, *note;
} Alias;

#define NO_LLAMA_1B "There is no Llama 3.1 1B: Llama 3.2 1B is meant (1,235,814,400 parameters)."
#define NO_LLAMA_3B "There is no Llama 3.1 3B: Llama 3.2 3B is meant (3,212,749,824 parameters)."

static const Alias aliases[] = {
    {"llama-3.1-1b", "llama-3.2-1b", NO_LLAMA_1B},
    {"llama-3.1-1b-instruct", "llama-3.2-1b", NO_LLAMA_1B},
    {"llama-3.1-3b", "llama-3.2-3b", NO_LLAMA_3B},
    {"llama-3.1-3b-instruct", "llama-3.2-3b", NO_LLAMA_3B},
    {"llama-3-1b", "llama-3.2-1b",
     "There is no Llama 3 1B: Llama 3.2 1B is meant (1,235,814,400 parameters)."},
    {"llama-3-3b", "llama-3.2-3b",
     "There is no Llama 3 3B: Llama 3.2 3B is meant (3,212,749,824 parameters)."},
    {"llama-3.2-8b", "llama-3.1-8b",
     "There is no Llama 3.2 8B: Llama 3.1 8B is meant (8,030,261,248 parameters)."},
    {"llama-3-8b", "llama-3.1-8b", "Llama 3 8B has the sizes of Llama 3.1 8B, and 8192 positions."},
    {"llama-3-8b-instruct", "llama-3.1-8b", "Llama 3 8B has the sizes of Llama 3.1 8B, and 8192 positions."},
    {"llama-3-70b", "llama-3.1-70b", "Llama 3 70B has the sizes of Llama 3.1 70B, and 8192 positions."},
    {"llama-3-70b-instruct", "llama-3.1-70b",
     "Llama 3 70B has the sizes of Llama 3.1 70B, and 8192 positions."},
    {"llama-3.3-70b", "llama-3.1-70b", "Llama 3.3 70B has the sizes of Llama 3.1 70B."},
    {"llama-3.3-70b-instruct", "llama-3.1-70b", "Llama 3.3 70B has the sizes of Llama 3.1 70B."},
    {"llama-3.2-1b-instruct", "llama-3.2-1b", NULL},
    {"llama-3.2-3b-instruct", "llama-3.2-3b", NULL},
    {"llama-3.1-8b-instruct", "llama-3.1-8b", NULL},
    {"llama-3.1-70b-instruct", "llama-3.1-70b", NULL},
    {"llama-3.1-405b-instruct", "llama-3.1-405b", NULL},
    {"llama-2-7b-hf", "llama-2-7b", NULL},
    {"llama-2-7b-chat", "llama-2-7b", NULL},
    {"llama-2-7b-chat-hf", "llama-2-7b", NULL},
    {"llama-2-13b-hf", "llama-2-13b", NULL},
    {"llama-2-13b-chat", "llama-2-13b", NULL},
    {"llama-2-13b-chat-hf", "llama-2-13b", NULL},
    {"mistral-7b-v0.1", "mistral-7b", NULL},
    {"mistral-7b-instruct-v0.1", "mistral-7b", NULL},
    {"qwen2-0.5b-instruct", "qwen2-0.5b", NULL},
    {"qwen2-7b-instruct", "qwen2-7b", NULL},
    {"gpt2-small", "gpt2", NULL},
    {"gpt2-124m", "gpt2", NULL},
    {"gpt2-355m", "gpt2-medium", NULL},
    {"gpt2-774m", "gpt2-large", NULL},
    {"gpt2-1.5b", "gpt2-xl", NULL},
    {"bert-base-uncased", "bert-base", NULL},
    {"bert-large-uncased", "bert-large", NULL},
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

/* Another spelling of a preset's name, or another name. Returns whether there is one. */
static int take_alias(const char *what, IoModel *model)
{
    Key wanted = key_of(without_owner(what));
    if (!hub_name(what) || strlen(what) >= KEY)
        return 0;
    const ModelPreset *preset = NULL;
    const char *note = NULL;
    for (int i = 0; nn_preset_at(i) && !preset; i++)
        if (!strcmp(key_of(nn_preset_at(i)->name).text, wanted.text))
            preset = nn_preset_at(i);
    for (int i = 0; i < ALIAS_COUNT && !preset; i++)
        if (!strcmp(key_of(aliases[i].name).text, wanted.text)) {
            preset = nn_preset(aliases[i].preset);
            note = aliases[i].note;
        }
    if (!preset)
        return 0;
    take_preset(preset, model);
    if (note)
        model_note(model, "%s", note);
    else
        model_note(model, "%s is the model %s.", what, preset->name);
    return 1;
}

/* ---- The nearest names ----------------------------------------------------------------------- */

int name_distance(const char *a, const char *b)
{
    int row[KEY + 1], columns = (int)strnlen(b, KEY);
    for (int j = 0; j <= columns; j++)
        row[j] = j;
    for (int i = 0; a[i] && i < KEY; i++) {
        int corner = row[0]; /* of the row above */
        row[0] = i + 1;
        for (int j = 1; j <= columns; j++) {
            int above = row[j], least = corner + (a[i] != b[j - 1]);
            least = above + 1 < least ? above + 1 : least;
            row[j] = row[j - 1] + 1 < least ? row[j - 1] + 1 : least;
            corner = above;
        }
    }
    return row[columns];
}

/* Small when names are alike: the same beginning says more than a letter that differs. */
static int unlikeness(const char *wanted, const char *name)
{
    int same = 0;
    while (wanted[same] && wanted[same] == name[same])
        same++;
    int distance = name_distance(wanted, name);
    return same > 2 || distance < 3 ? distance - 2 * same : INT_MAX;
}

/* The presets that are most like it, at most NEAREST; the benchmark's are not for users. */
static int nearest(const char *what, const char *names[NEAREST])
{
    int scores[NEAREST], count = 0;
    Key wanted = key_of(without_owner(what));
    for (int i = 0; nn_preset_at(i); i++) {
        const char *name = nn_preset_at(i)->name;
        int score = unlikeness(wanted.text, key_of(name).text), at = count;
        if (score == INT_MAX || !strncmp(name, "bench-", 6))
            continue;
        for (; at > 0 && score < scores[at - 1]; at--)
            if (at < NEAREST) {
                names[at] = names[at - 1];
                scores[at] = scores[at - 1];
            }
        if (at < NEAREST) {
            names[at] = name;
            scores[at] = score;
            count += count < NEAREST;
        }
    }
    return count;
}

static int unknown(const char *what)
{
    const char *names[NEAREST];
    char list[4 * KEY] = ", and no model is like it";
    int count = nearest(what, names), used = 0;
    for (int i = 0; i < count; i++) {
        const char *before = i == 0 ? "; the nearest models are " : i == count - 1 ? " and " : ", ";
        used += snprintf(list + used, sizeof list - (size_t)used, "%s%s", before, names[i]);
    }
    if (count == 1)
        snprintf(list, sizeof list, "; the nearest model is %s", names[0]);
    return error_raise(ERROR_ARGUMENT, "no model or file is called %s%s; the path of a config.json works too",
                       string_text(what).text, list);
}

/* ---- All ------------------------------------------------------------------------------------- */

int io_find_model(const char *what, IoModel *model)
{
    if (!what || !model)
        return error_raise(ERROR_ARGUMENT, "io_find_model: %s is NULL", what ? "model" : "the name");
    *model = (IoModel){0};
    const ModelPreset *preset = nn_preset(what);
    if (preset)
        return take_preset(preset, model);
    size_t length = strlen(what);
    int json = length > 5 && !strcmp(what + length - 5, ".json");
    if (length && access(what, F_OK) == 0)
        return io_read_config(what, model);
    if (take_alias(what, model))
        return ERROR_NONE;
    int path = json || what[0] == '.' || !hub_name(what);
    return path ? io_read_config(what, model) : unknown(what);
}
