/* What a file is, by its first bytes: containers, archives, encodings and other tools' files that are handed
 * to a program that reads text or token ids. Names deceive, so nothing goes by them. */
#ifndef BRIM_FILE_KIND_H
#define BRIM_FILE_KIND_H

#include <stddef.h>
#include <stdint.h>

enum { FILE_HEAD = 4096 }; /* bytes that are looked at */

typedef enum FileClass {
    FILE_BINARY, /* a container, an archive, a picture: neither text nor ids */
    FILE_GZIP,   /* can be read, decoded */
    FILE_CODED,  /* text in another encoding */
    FILE_MARKUP, /* text whose letters are mostly not what one wants to train on */
    FILE_PAIRS   /* the same, JSON lines that are samples: data_pairs reads them, or says why it does not */
} FileClass;

typedef struct FileKind {
    FileClass file_class;
    const char *what; /* "a NumPy array (.npy)": to follow "is" */
    const char *todo; /* "write its …": a sentence without its stop */
} FileKind;

/* NULL: none that is known. head: the first bytes, up to FILE_HEAD, of a file of `bytes` (0: not known).
 * as_text: also what a list of ids could begin with by chance, and kinds of text. */
const FileKind *file_kind(const uint8_t *head, size_t count, uint64_t bytes, int as_text);
/* Whether it is text by all appearance: what a .bin of ids is not. */
int file_looks_like_text(const uint8_t *head, size_t count);

#endif
