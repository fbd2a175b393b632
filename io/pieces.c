/* Parameters that files call otherwise, and those that lie there as several tensors: the matrices of a
 * layer's experts, which are one parameter of three dimensions here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/ends_.h"
#include "../tensor/tensor_.h"
#include "family_.h"
#include "weights_.h"

#define BLOCK_HERE "mlp"
#define HEAD_HERE  "lm_head.weight"

const FamilyNames *family_names(const char *model)
{
    const FamilyFiles *files = family_files_named(model);
    return files && files->names.prefix ? &files->names : NULL;
}

/* Puts `to` in the place of the path's part `from`, where there is room. */
static void rename_part(char name[NAME_BYTES], const char *from, const char *to)
{
    char whole[NAME_BYTES], sought[64];
    snprintf(sought, sizeof sought, ".%s.", from);
    const char *at = strstr(name, sought);
    if (at && snprintf(whole, sizeof whole, "%.*s.%s.%s", (int)(at - name), name, to, at + strlen(sought)) <
                  NAME_BYTES)
        strcpy(name, whole);
}

/* "….experts.12.w1.weight" into "….experts", 12 and "w1.weight"; 0 where it is no such name. */
static const char *split_expert(const char *name, size_t *length, int *expert)
{
    const char *at = strstr(name, ".experts.");
    const char *number = at ? at + strlen(".experts.") : "";
    size_t digits = strspn(number, "0123456789");
    if (digits == 0 || digits > 6 || (digits > 1 && *number == '0') || number[digits] != '.')
        return NULL;
    *length = (size_t)(number - 1 - name);
    *expert = atoi(number);
    return number + digits + 1;
}

static int is_weight(const char *name, const char *of)
{
    size_t length = strlen(of);
    return !strncmp(name, of, length) && !strcmp(name + length, ".weight");
}

int piece_of_name(const FamilyNames *family, char name[NAME_BYTES])
{
    size_t length;
    int expert;
    if (family->head && !strcmp(name, family->head))
        strcpy(name, HEAD_HERE); /* any name has room for it */
    if (!family->experts.gate)
        return -1;
    if (strcmp(family->experts.block, BLOCK_HERE) != 0)
        rename_part(name, family->experts.block, BLOCK_HERE);
    const char *rest = split_expert(name, &length, &expert);
    int gate = rest && is_weight(rest, family->experts.gate),
        up = rest && is_weight(rest, family->experts.up);
    int down = rest && is_weight(rest, family->experts.down);
    if (!gate && !up && !down)
        return -1;
    snprintf(name + length, NAME_BYTES - length, "%s", down ? ".down_proj" : ".gate_up_proj");
    return down ? expert : 2 * expert + up;
}

/* Matrices of each expert in the parameter; 0 where it is one tensor in files. */
static int matrices_of(const FamilyNames *family, const Tensor *parameter)
{
    if (!family || !family->experts.gate || tensor_shape(parameter).ndim != 3)
        return 0;
    const char *name = tensor_name(parameter);
    return text_ends(name, ".experts.gate_up_proj") ? 2 : text_ends(name, ".experts.down_proj");
}

int file_pieces(const FamilyNames *family, const Tensor *parameter)
{
    int matrices = matrices_of(family, parameter);
    return matrices ? matrices * (int)tensor_whole_shape_(parameter).dim[0] : 1;
}

FilePiece file_piece(const FamilyNames *family, const Tensor *parameter, int i)
{
    const char *name = tensor_name(parameter);
    Shape whole = tensor_whole_shape_(parameter);
    FilePiece piece = {.shape = whole};
    int matrices = matrices_of(family, parameter);
    if (matrices) {
        const ExpertNames *e = &family->experts;
        piece.shape = SHAPE(whole.dim[1] / matrices, whole.dim[2]);
        piece.first = i * shape_numel(piece.shape);
        snprintf(piece.name, sizeof piece.name, "%.*s.%d.%s.weight", (int)(strrchr(name, '.') - name), name,
                 i / matrices,
                 matrices == 1 ? e->down
                 : i % 2       ? e->up
                               : e->gate);
    } else {
        snprintf(piece.name, sizeof piece.name, "%s",
                 family && family->head && !strcmp(name, HEAD_HERE) ? family->head : name);
    }
    if (family && family->experts.gate && strcmp(family->experts.block, BLOCK_HERE) != 0 &&
        (matrices || strstr(name, "." BLOCK_HERE ".gate.")))
        rename_part(piece.name, BLOCK_HERE, family->experts.block);
    return piece;
}

/* ---- All of a model -------------------------------------------------------------------------- */

int file_piece_count(const FamilyNames *family, TensorList list)
{
    int count = 0;
    for (int i = 0; i < list.count; i++)
        count += file_pieces(family, list.items[i]);
    return count;
}
