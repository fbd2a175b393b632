/* Files that somebody else fills, written by way of a stream: whole under their names, or not there. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../tensor/tensor.h"
#include "../base/file_.h"
#include "io.h"

/* Fills a descriptor of its own. */
static int fill_descriptor(int file, const char *shown, IoFill fill, void *user)
{
    FILE *out = file >= 0 ? fdopen(file, "wb") : NULL;
    int failed = !out, cause = errno;
    if (out) {
        errno = 0;
        failed = fill(out, user) || ferror(out);
        cause = errno;
    }
    if (!out && file >= 0)
        close(file);
    if (out && fclose(out) && !failed) {
        failed = 1;
        cause = errno;
    }
    if (!failed)
        return 0;
    return error_code() ? error_code()
                        : error_raise(ERROR_FILE, "cannot write %s: %s", shown,
                                      cause ? strerror(cause) : "unknown error");
}

static int write_straight(const char *path, const char *shown, IoFill fill, void *user)
{
    int file = open(path, O_WRONLY | O_APPEND | O_CLOEXEC); /* /dev/stdout may be the end of a file */
    if (file < 0)
        return error_raise(ERROR_FILE, "cannot write %s: %s", shown, strerror(errno));
    return fill_descriptor(file, shown, fill, user);
}

int io_write_file(const char *path, IoFill fill, void *user)
{
    char shown[FILE_LABEL], target[PATH_MAX];
    struct stat status;
    FileWriter writer;
    if (!path || !fill)
        return error_raise(ERROR_ARGUMENT, "io_write_file(): %s is NULL", path ? "fill" : "path");
    path_label(shown, path);
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode))
        return error_raise(ERROR_FILE, "cannot write %s: %s", shown, strerror(EISDIR));
    if (!path_is_file(path))
        return write_straight(path, shown, fill, user);
    /* A link stays one: what it points to is replaced. */
    const char *real = realpath(path, target) ? target : path;
    if (file_begin(&writer, real) == 0)
        writer.failed = fill_descriptor(dup(writer.file), shown, fill, user);
    return file_commit(&writer);
}
