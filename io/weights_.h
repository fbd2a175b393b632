/* Between the files that match the tensors of files with a model's parameters. */
#ifndef BRIM_WEIGHTS_INTERNAL_H
#define BRIM_WEIGHTS_INTERNAL_H

#include "weights.h"

enum { NAME_BYTES = 512 }; /* longer names are nobody's */

/* A model's parameters sorted by name. */
typedef struct ParameterNames {
    TensorList list;
    int *sorted; /* indices of list, by name */
} ParameterNames;

int parameter_find(const ParameterNames *names, const char *name); /* index of list, or -1 */

typedef enum NameMeaning {
    NAME_PARAMETER,
    NAME_TIED, /* a second copy of a parameter, or its only one */
    NAME_IGNORED,
    NAME_UNEXPECTED
} NameMeaning;

/* How many letters all names of a file begin with because of what the model was wrapped in ("module.",
 * "base_model.model."), where without them more names are the model's. */
size_t names_wrapped(const ParameterNames *names, const char *model, const Safetensors *file);
/* What a name that is not the model's says about where it is from, as "; …"; "" = nothing. */
const char *name_hint(const char *stored);
/* What a stored tensor is to a model of this class (nn_class_name); *parameter: index of list, or -1. */
NameMeaning name_meaning(const ParameterNames *names, const char *model, const char *stored, int *parameter);

#endif
