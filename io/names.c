/* What the tensors of a family's published weights are called, beside the names of the parameters here. */
#include <stdio.h>
#include <string.h>

#include "../base/ends_.h"
#include "family_.h"
#include "weights_.h"

/* Of lists whose last entries are NULL, which no name begins or ends with. */
static int begins(const char *text, const char *with)
{
    return with && text_begins(text, with);
}

static int ends(const char *text, const char *with)
{
    return with && text_ends(text, with);
}

/* TensorFlow's names of a LayerNorm's weight and bias. */
static void modern_norm(char *name)
{
    if (ends(name, "LayerNorm.gamma"))
        strcpy(name + strlen(name) - 5, "weight"); /* a byte longer: there is room */
    else if (ends(name, "LayerNorm.beta"))
        strcpy(name + strlen(name) - 4, "bias");
}

/* A parameter by this name, with or without the prefix, which then is put before it. -1 = none. */
static int find(const ParameterNames *names, const FamilyNames *family, char name[NAME_BYTES])
{
    int found = parameter_find(names, name);
    char whole[NAME_BYTES];
    if (found >= 0 || !family || begins(name, family->prefix) ||
        snprintf(whole, sizeof whole, "%s%s", family->prefix, name) >= NAME_BYTES)
        return found;
    found = parameter_find(names, whole);
    if (found >= 0 || begins(name, "pooler."))
        strcpy(name, whole);
    return found;
}

/* Whether the model itself has something under this beginning. */
static int has_parameters(const ParameterNames *names, const char *beginning)
{
    for (int i = 0; i < names->list.count; i++)
        if (begins(tensor_name(names->list.items[i]), beginning))
            return 1;
    return 0;
}

static int is_ignored(const ParameterNames *names, const FamilyNames *family, const char *name)
{
    for (int i = 0; i < IGNORED_MOST; i++)
        if (ends(name, family->buffers[i]) ||
            (begins(name, family->other_heads[i]) && !has_parameters(names, family->other_heads[i])))
            return 1;
    return 0;
}

/* What training wraps a model in, and what is saved with it. */
static const char *const wrappers[] = {"module.",          "_orig_mod.",  "base_model.model.",
                                       "_forward_module.", "model.",      "transformer.",
                                       "0.auto_model.",    "auto_model.", "_fsdp_wrapped_module."};

/* How many tensors are parameters, without so many letters; -1 when one does not begin with `wrapper` there.
 */
static int count_parameters(const ParameterNames *names, const char *model, const Safetensors *file,
                            size_t skip, const char *wrapper)
{
    int count = 0;
    NameFound found;
    size_t more = wrapper ? strlen(wrapper) : 0;
    for (int i = 0; i < safetensors_count(file); i++) {
        const char *name = safetensors_at(file, i)->name + skip;
        if (wrapper && !begins(name, wrapper))
            return -1;
        NameMeaning meaning = name_meaning(names, model, name + more, &found);
        count += meaning == NAME_PARAMETER || meaning == NAME_TIED;
    }
    return count;
}

size_t names_wrapped(const ParameterNames *names, const char *model, const Safetensors *file)
{
    enum { WRAPPERS = sizeof wrappers / sizeof wrappers[0], DEPTH = 4 };
    size_t skip = 0, best = 0;
    int most = count_parameters(names, model, file, 0, NULL);
    for (int depth = 0; depth < DEPTH && safetensors_count(file); depth++) {
        int i = 0, count = -1;
        while (i < WRAPPERS && (count = count_parameters(names, model, file, skip, wrappers[i])) < 0)
            i++;
        if (i == WRAPPERS)
            break;
        skip += strlen(wrappers[i]);
        if (count > most) {
            most = count;
            best = skip;
        }
    }
    return best;
}

#define IS_ADAPTER                                                                                           \
    "; these are of a LoRA adapter: give the weights of its base, and the adapter's directory with "         \
    "--adapter"

const char *name_hint(const char *stored)
{
    static const char *const hints[][2] = {
        {".lora_A", IS_ADAPTER},
        {".lora_B", IS_ADAPTER},
        {".lora_embedding", IS_ADAPTER},
        {".base_layer.", IS_ADAPTER},
        {".qweight", "; the weights are quantised (GPTQ or AWQ): take the model that they were made of"},
        {".weight_scale", "; the weights are quantised (FP8): take the model that they were made of"},
        {".exp_avg", "; these are an optimizer's states, not weights"},
    };
    for (size_t i = 0; i < sizeof hints / sizeof hints[0]; i++)
        if (strstr(stored, hints[i][0]))
            return hints[i][1];
    return "";
}

/* Pieces that the parameter does not have are nobody's. */
static int find_piece(const ParameterNames *names, const FamilyNames *family, char name[NAME_BYTES],
                      NameFound *found)
{
    found->piece = piece_of_name(family, name);
    found->parameter = find(names, family, name);
    if (found->parameter >= 0 && found->piece >= 0 &&
        found->piece >= file_pieces(family, names->list.items[found->parameter]))
        found->parameter = -1;
    return found->parameter;
}

NameMeaning name_meaning(const ParameterNames *names, const char *model, const char *stored, NameFound *found)
{
    const FamilyNames *family = family_names(model);
    char name[NAME_BYTES];
    *found = (NameFound){-1, -1};
    if (snprintf(name, sizeof name, "%s", stored) + 2 >= NAME_BYTES)
        return NAME_UNEXPECTED;
    if (family)
        modern_norm(name);
    if (family ? find_piece(names, family, name, found) >= 0
               : (found->parameter = parameter_find(names, name)) >= 0)
        return NAME_PARAMETER;
    if (!family)
        return NAME_UNEXPECTED;
    for (int i = 0; i < 2; i++)
        if (family->tied[i].name && !strcmp(name, family->tied[i].name)) {
            found->parameter = parameter_find(names, family->tied[i].parameter);
            if (found->parameter >= 0)
                return NAME_TIED;
        }
    return is_ignored(names, family, name) ? NAME_IGNORED : NAME_UNEXPECTED;
}
