/* What a path is, as several commands ask it. */
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../base/hub_.h"
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

int follow_cache(const char **path)
{
    enum { MOST = 24 };
    static char known[MOST][PATH_BYTES];
    static int count;
    char is[PATH_BYTES];
    int i = 0;
    if (!*path || !is_directory(*path))
        return EXIT_DONE;
    if (hub_follow(is, *path)) {
        say_error();
        return EXIT_USAGE;
    }
    if (!strcmp(is, *path))
        return EXIT_DONE;
    while (i < count && strcmp(known[i], is) != 0)
        i++;
    if (i == MOST)
        return usage("more than %d models of a cache", MOST);
    strcpy(known[i], is);
    count += i == count;
    *path = known[i];
    return EXIT_DONE;
}

int same_file(const char *a, const char *b)
{
    return path_same(a, b);
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
