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

/* What a stored tensor is to a model of this class (nn_class_name); *parameter: index of list, or -1. */
NameMeaning name_meaning(const ParameterNames *names, const char *model, const char *stored, int *parameter);

#endif
