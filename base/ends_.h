/* How a name begins and ends. For every folder. */
#ifndef BRIM_ENDS_INTERNAL_H
#define BRIM_ENDS_INTERNAL_H

#include <string.h>

static inline int text_begins(const char *text, const char *with)
{
    return !strncmp(text, with, strlen(with));
}

static inline int text_ends(const char *text, const char *with)
{
    size_t n = strlen(text), m = strlen(with);
    return m <= n && !strcmp(text + n - m, with);
}

/* How PEFT reads the name of a module, of `length` letters: it is the whole path, or the path ends in it
 * after a dot. */
static inline int path_is_named(const char *path, const char *name, size_t length)
{
    size_t whole = strlen(path);
    if (whole < length || strncmp(path + whole - length, name, length) != 0)
        return 0;
    return whole == length || path[whole - length - 1] == '.';
}

#endif
