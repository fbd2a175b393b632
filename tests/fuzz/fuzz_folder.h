/* For targets that run commands: a working folder that is made anew for each input, and arguments that cannot
 * name anything outside it. */
#ifndef FUZZ_FOLDER_H
#define FUZZ_FOLDER_H

#include <ctype.h>
#include <ftw.h>

#include "fuzz.h"

static inline int fuzz_folder_remove(const char *path, const struct stat *status, int kind, struct FTW *at)
{
    (void)status;
    (void)kind;
    return at->level ? remove(path) : 0;
}

/* Makes the folder if it is not there, empties it, and goes there. */
static inline void fuzz_folder_empty(void)
{
    const char *path = fuzz_path("work");
    mkdir(path, 0700);
    fuzz_check(!chdir(path) && !nftw(path, fuzz_folder_remove, 16, FTW_DEPTH | FTW_PHYS), "no folder");
}

enum { FUZZ_ARGUMENTS = 256 };

typedef struct FuzzArguments {
    char *item[FUZZ_ARGUMENTS + 1]; /* NULL behind the last */
    int count;
    char text[1 << 14]; /* the same for all inputs: what commands remember of arguments stays readable */
} FuzzArguments;

/* One a line. A slash remains within a relative path alone, so that no path leaves the folder. */
static inline void fuzz_arguments(FuzzArguments *a, const char *data, size_t size)
{
    size = size < sizeof a->text - 1 ? size : sizeof a->text - 1;
    for (size_t i = 0; i < size; i++)
        a->text[i] = data[i] == '/' && (!i || !isalnum((unsigned char)data[i - 1])) ? '_' : data[i];
    a->text[size] = '\0';
    a->count = 0;
    for (char *line = a->text; line && a->count < FUZZ_ARGUMENTS;) {
        a->item[a->count++] = line;
        line = strchr(line, '\n');
        if (line)
            *line++ = '\0';
    }
    a->item[a->count] = NULL;
}

#endif
