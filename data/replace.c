/* A file replaced whole: written beside it under another name, synced, renamed. Whoever reads it sees the old
 * one or the new one. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../tensor/tensor_.h"
#include "replace_.h"

/* A link into /proc, as /dev/stdout is, stands for something open. */
static int is_file(const char *path)
{
    struct stat status;
    char to[8] = "";
    if (lstat(path, &status) != 0)
        return 1; /* nothing there, or creating a file beside it says why not */
    if (S_ISLNK(status.st_mode) && readlink(path, to, sizeof to - 1) > 0 && !strncmp(to, "/proc/", 6))
        return 0;
    return stat(path, &status) != 0 || S_ISREG(status.st_mode);
}

int file_replaceable(const char *path, const char *shown)
{
    struct stat status;
    if (!path[0])
        return error_raise(ERROR_FILE, "cannot write to a file without a name");
    if (is_file(path))
        return 0;
    return error_raise(ERROR_FILE, "cannot write %s: it is %s, not a file; name a file", shown,
                       stat(path, &status) == 0 && S_ISDIR(status.st_mode) ? "a directory"
                                                                           : "a pipe or device");
}

static int fail(const Replacement *r, const char *what, int cause)
{
    return error_raise(ERROR_FILE, "cannot %s %s: %s; what was there before is unchanged", what, r->path,
                       strerror(cause));
}

int replacement_begin(Replacement *r, const char *path)
{
    *r = (Replacement){.path = path};
    if (file_replaceable(path, path))
        return error_code();
    if (snprintf(r->temporary, sizeof r->temporary, "%s.tmp-%ld", path, (long)getpid()) >=
        (int)sizeof r->temporary)
        return error_raise(ERROR_FILE, "cannot write %.40s…: the path is too long", path);
    unlink(r->temporary); /* of a process that died, and had our number */
    r->out = fopen(r->temporary, "wxe");
    return r->out ? 0 : fail(r, "create", errno);
}

/* The new name is on the disk when its directory is. A file system that cannot sync directories says EINVAL.
 */
static int sync_directory(const Replacement *r)
{
    char directory[sizeof r->temporary];
    const char *slash = strrchr(r->path, '/');
    size_t length = slash ? (size_t)(slash - r->path) : 0;
    memcpy(directory, r->path, length);
    directory[length] = '\0';
    int file = open(length ? directory : slash ? "/" : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int bad = file < 0 || (fsync(file) != 0 && errno != EINVAL), cause = errno;
    if (file >= 0)
        close(file);
    return bad ? error_raise(ERROR_FILE, "%s is written, but its directory cannot be synced: %s", r->path,
                             strerror(cause))
               : 0;
}

int replacement_end(Replacement *r)
{
    int bad = error_code() != 0;
    if (!r->out)
        return error_code();
    if (!bad && (fflush(r->out) || ferror(r->out) || fsync(fileno(r->out))))
        bad = fail(r, "write", errno);
    if (fclose(r->out) && !bad)
        bad = fail(r, "write", errno);
    r->out = NULL;
    if (!bad && rename(r->temporary, r->path))
        bad = fail(r, "replace", errno);
    if (bad) {
        unlink(r->temporary);
        return error_code();
    }
    return sync_directory(r);
}
