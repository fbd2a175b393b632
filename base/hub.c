/* See hub_.h. */
#include "hub_.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "error.h"

static int fits(int length, const char *path)
{
    char shown[FILE_LABEL];
    if (length < PATH_BYTES)
        return 0;
    path_label(shown, path);
    return error_raise(ERROR_FILE, "%s: the path is too long", shown);
}

/* What refs/main says, a line; "" = nothing that could be a name. */
static void read_ref(char *out, size_t size, const char *path)
{
    char ref[PATH_BYTES];
    out[0] = '\0';
    FILE *file = snprintf(ref, sizeof ref, "%s/refs/main", path) < PATH_BYTES ? fopen(ref, "re") : NULL;
    if (file && fgets(out, (int)size, file))
        out[strcspn(out, " \r\n")] = '\0';
    if (file)
        fclose(file);
    if (strchr(out, '/') || out[0] == '.')
        out[0] = '\0';
}

/* How many there are, and one of them. */
static int count_snapshots(const char *snapshots, char *name, size_t size)
{
    int count = 0;
    DIR *directory = opendir(snapshots);
    for (const struct dirent *entry; directory && (entry = readdir(directory));)
        if (entry->d_name[0] != '.') {
            snprintf(name, size, "%s", entry->d_name);
            count++;
        }
    if (directory)
        closedir(directory);
    return count;
}

int hub_follow(char out[PATH_BYTES], const char *path)
{
    char snapshots[PATH_BYTES], name[256], shown[FILE_LABEL];
    if (fits(snprintf(out, PATH_BYTES, "%s", path), path))
        return error_code();
    if (snprintf(snapshots, sizeof snapshots, "%s/snapshots", path) >= PATH_BYTES ||
        !path_is_directory(snapshots))
        return 0;
    read_ref(name, sizeof name, path);
    if (name[0] && fits(snprintf(out, PATH_BYTES, "%s/%s", snapshots, name), path))
        return error_code();
    if (name[0] && path_is_directory(out))
        return 0;
    int count = count_snapshots(snapshots, name, sizeof name);
    path_label(shown, path);
    if (count == 1)
        return fits(snprintf(out, PATH_BYTES, "%s/%s", snapshots, name), path);
    if (!count)
        return error_raise(
            ERROR_FILE, "%s is a folder of Hugging Face's cache without a snapshot: download the model again",
            shown);
    return error_raise(
        ERROR_FILE,
        "%s is a folder of Hugging Face's cache with %d snapshots, and its refs/main names none of "
        "them: give the one that is meant, in its folder snapshots",
        shown, count);
}

void hub_name(char *out, size_t size, const char *path)
{
    const char *folder = NULL, *end = path + strlen(path), *name = NULL;
    out[0] = '\0';
    for (const char *at = path; (at = strstr(at, "models--")); at++)
        if (at == path || at[-1] == '/')
            folder = at;
    if (!folder)
        return;
    const char *slash = strchr(folder, '/');
    if (slash && strncmp(slash, "/snapshots/", 11) != 0 && slash[1])
        return;
    end = slash ? slash : end;
    for (const char *at = folder; (at = strstr(at, "--")) && at < end; at += 2)
        name = at + 2;
    snprintf(out, size, "%.*s", (int)(end - name), name);
}
