/* What a path is, as several commands ask it. */
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

int is_read_from(const char *path, const char *directory)
{
    char parent[PATH_MAX];
    const char *slash = path ? strrchr(path, '/') : NULL;
    int length = slash ? (int)(slash - path) + 1 : 1;
    if (!path || !directory || access(path, F_OK) != 0 ||
        snprintf(parent, sizeof parent, "%.*s", length, slash ? path : ".") >= PATH_MAX)
        return 0;
    return same_file(path, directory) || (!is_directory(path) && same_file(parent, directory));
}

int is_of_a_model(const char *path, const char *directory)
{
    const char *slash = strrchr(path, '/'), *ending = strrchr(slash ? slash : path, '.');
    return ending && (!strcmp(ending, ".json") || !strcmp(ending, ".safetensors")) && !is_directory(path) &&
           is_read_from(path, directory);
}
