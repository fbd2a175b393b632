/* What a path is, as several commands ask it. */
#include <string.h>
#include <sys/stat.h>

#include "cli.h"

int is_bin(const char *path)
{
    size_t length = strlen(path);
    return length > 4 && !strcmp(path + length - 4, ".bin");
}

int is_directory(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

int same_file(const char *one, const char *other)
{
    struct stat a, b;
    return one && other && !stat(one, &a) && !stat(other, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}
