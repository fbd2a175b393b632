/* What the tensors of a family's published weights are called, beside the names of the parameters here. */
#include <stdio.h>
#include <string.h>

#include "family_.h"
#include "weights_.h"

static int begins(const char *text, const char *with)
{
    return with && !strncmp(text, with, strlen(with));
}

static int ends(const char *text, const char *with)
{
    size_t n = strlen(text), m = with ? strlen(with) : n + 1;
    return m <= n && !strcmp(text + n - m, with);
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

NameMeaning name_meaning(const ParameterNames *names, const char *model, const char *stored, int *parameter)
{
    const FamilyFiles *files = family_files_named(model);
    const FamilyNames *family = files && files->names.prefix ? &files->names : NULL;
    char name[NAME_BYTES];
    *parameter = -1;
    if (snprintf(name, sizeof name, "%s", stored) + 2 >= NAME_BYTES)
        return NAME_UNEXPECTED;
    if (family)
        modern_norm(name);
    *parameter = find(names, family, name);
    if (*parameter >= 0)
        return NAME_PARAMETER;
    if (!family)
        return NAME_UNEXPECTED;
    for (int i = 0; i < 2; i++)
        if (family->tied[i].name && !strcmp(name, family->tied[i].name)) {
            *parameter = parameter_find(names, family->tied[i].parameter);
            if (*parameter >= 0)
                return NAME_TIED;
        }
    return is_ignored(names, family, name) ? NAME_IGNORED : NAME_UNEXPECTED;
}
