/* A .bin of token ids, looked at before it is believed (ids.c). */
#ifndef BRIM_IDS_INTERNAL_H
#define BRIM_IDS_INTERNAL_H

#include "../text/input_.h"
#include "loader_.h"

/* Where ids are in a file and how wide. */
typedef struct IdsForm {
    int64_t bytes; /* of the file */
    int64_t skip;  /* a header before them */
    int width;     /* 2, 4 or 8 bytes, little-endian */
} IdsForm;

/* Finds out, from a form of what is expected. Raises ERROR_DATA when the file is something else or its ids
 * cannot be read; says in the note what is read otherwise than expected. trust: the width is the caller's
 * word. Returns an error code. */
int ids_recognise(const char *path, const char *shown, int file, uint64_t vocab, int trust, IdsForm *form,
                  TextNote *note);
/* Looks for ids that the vocabulary does not have: in the whole file, if it has at most 256 MiB or all of it
 * is wanted; else in its ends and in 1,000 pages between. Raises ERROR_DATA. */
int ids_check(const char *shown, int file, const IdsForm *form, int64_t vocab, int all,
              DataProgress *progress, void *user);
/* Raises that error; most: the largest one that was seen, or no more than id. */
int ids_refuse(const char *shown, int64_t id, int64_t index, int64_t most, int64_t vocab);

#endif
