/* Between the files that match the tensors of files with a model's parameters. */
#ifndef BRIM_WEIGHTS_INTERNAL_H
#define BRIM_WEIGHTS_INTERNAL_H

#include "family_.h"
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

/* The parameter that a tensor of a file is, or is a piece of. */
typedef struct NameFound {
    int parameter; /* index of list, or -1 */
    int piece;     /* of file_pieces; -1: it is the whole parameter */
} NameFound;

/* How many letters all names of a file begin with because of what the model was wrapped in ("module.",
 * "base_model.model."), where without them more names are the model's. */
size_t names_wrapped(const ParameterNames *names, const char *model, const Safetensors *file);
/* What a name that is not the model's says about where it is from, as "; …"; "" = nothing. */
const char *name_hint(const char *stored);
/* What a stored tensor is to a model of this class (nn_class_name). */
NameMeaning name_meaning(const ParameterNames *names, const char *model, const char *stored,
                         NameFound *found);

/* ---- Parameters that are several tensors in files (pieces.c) ----------------------------------- */

/* Names of a model of this class; NULL where transformers has none. */
const FamilyNames *family_names(const char *model);
/* A name of files becomes the parameter's here; returns which piece of it that is, -1 = it is whole. */
int piece_of_name(const FamilyNames *family, char name[NAME_BYTES]);
typedef struct FilePiece {
    char name[NAME_BYTES];
    Shape shape;
    int64_t first; /* of the parameter's elements, which are this piece's one after the other */
} FilePiece;
/* How many tensors of files a parameter is, and each; all have as many elements. family may be NULL. */
int file_pieces(const FamilyNames *family, const Tensor *parameter);
FilePiece file_piece(const FamilyNames *family, const Tensor *parameter, int i);
int file_piece_count(const FamilyNames *family, TensorList list); /* of all parameters */

#endif
