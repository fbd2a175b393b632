/* "1 step", "2 steps": what is put behind a word that a number counts. For messages of every folder. */
#ifndef BRIM_MEMTRACK_PLURAL_H
#define BRIM_MEMTRACK_PLURAL_H

static inline const char *plural(long long count)
{
    return count == 1 ? "" : "s";
}

#endif
