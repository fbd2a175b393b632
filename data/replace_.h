/* A file that data/ writes, replaced whole. (io/file.c has a writer of its own, with checksums.) */
#ifndef BRIM_REPLACE_INTERNAL_H
#define BRIM_REPLACE_INTERNAL_H

#include <stdio.h>

/* Whether a file may be renamed over this path: it is a file, a link to one, or not there. A device or a pipe
 * would be replaced for everybody. Else raises ERROR_FILE, naming `shown`. */
int file_replaceable(const char *path, const char *shown);

typedef struct Replacement {
    FILE *out; /* what is written to; NULL after an error */
    const char *path;
    char temporary[4096];
} Replacement;

/* Each returns 0, or raises ERROR_FILE and returns it. After an error of any kind, end leaves what was there.
 */
int replacement_begin(Replacement *replacement, const char *path);
int replacement_end(Replacement *replacement);

#endif
