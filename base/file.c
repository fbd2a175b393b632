/* Opening what is read, and writing by temporary name, fsync and rename: whoever reads a file sees the old
 * one or the new one, whole, whenever we die. */
#include "file_.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "error.h"

static int call_open(const char *path, int flags, mode_t mode)
{
    return open(path, flags, mode);
}

FileCalls file_calls = {call_open, write, fsync, close, rename, unlink, mkdir, rmdir};

/* ---- Paths ----------------------------------------------------------------------------------- */

void path_label(char out[FILE_LABEL], const char *path)
{
    size_t length = strlen(path), mark = strlen("…");
    const char *from = path;
    if (length >= FILE_LABEL) {
        from = path + length - (FILE_LABEL - 1 - mark);
        while (((unsigned char)*from & 0xC0) == 0x80) /* not within a letter of several bytes */
            from++;
        memcpy(out, "…", mark);
        out += mark;
    }
    memcpy(out, from, strlen(from) + 1);
}

int path_join(char out[PATH_BYTES], const char *directory, const char *name)
{
    size_t end = strlen(directory);
    const char *slash = end && directory[end - 1] == '/' ? "" : "/";
    char shown[FILE_LABEL];
    if (snprintf(out, PATH_BYTES, "%s%s%s", directory, slash, name) < PATH_BYTES)
        return 0;
    path_label(shown, directory);
    return error_raise(ERROR_FILE, "%s: the path is too long", shown);
}

int file_same_version(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* A link into /proc, as /dev/stdout is, stands for something open. */
int path_is_file(const char *path)
{
    struct stat status;
    char to[8] = "";
    if (lstat(path, &status) != 0)
        return 1; /* nothing there, or creating a file beside it says why not */
    if (S_ISLNK(status.st_mode) && readlink(path, to, sizeof to - 1) > 0 && !strncmp(to, "/proc/", 6))
        return 0;
    return stat(path, &status) != 0 || S_ISREG(status.st_mode);
}

int path_is_directory(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

int path_same(const char *a, const char *b)
{
    struct stat x, y;
    return a && b && stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* ---- Reading --------------------------------------------------------------------------------- */

int file_open_input(const char *path, const char *shown, const char *expected, uint64_t most, size_t *bytes)
{
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not block: it is refused below */
    if (file < 0 || fstat(file, &status) != 0) {
        error_raise(ERROR_FILE, "%s: cannot open: %s", shown, strerror(errno));
    } else if (!S_ISREG(status.st_mode)) {
        error_raise(ERROR_FILE, "%s is not a file; %s is expected", shown, expected);
    } else if (status.st_size == 0) {
        error_raise(ERROR_FILE, "%s is empty", shown);
    } else if ((uint64_t)status.st_size > most) {
        error_raise(ERROR_FILE, "%s has %lld bytes; %s of more than %llu is refused", shown,
                    (long long)status.st_size, expected, (unsigned long long)most);
    } else {
        *bytes = (size_t)status.st_size;
        return file;
    }
    if (file >= 0)
        close(file);
    return -1;
}

int file_open(const char *path, int64_t *bytes)
{
    char shown[FILE_LABEL];
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not block: it is refused below */
    int cause = errno;
    path_label(shown, path);
    errno = cause;
    if (file < 0 || fstat(file, &status) != 0) {
        error_raise(ERROR_FILE, "%s: cannot open: %s", shown, strerror(errno));
    } else if (!S_ISREG(status.st_mode)) {
        error_raise(ERROR_FILE, "%s is %s, not a file", shown,
                    S_ISDIR(status.st_mode) ? "a directory" : "a pipe or device");
    } else {
        *bytes = status.st_size;
        return file;
    }
    if (file >= 0)
        close(file);
    return -1;
}

int file_read(int file, const char *path, int64_t from, uint8_t *target, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        size_t wanted = bytes - done < (1u << 30) ? bytes - done : 1u << 30;
        ssize_t got = pread(file, target + done, wanted, (off_t)(from + (int64_t)done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_raise(ERROR_FILE, "%s: reading at byte %" PRId64 ": %s", path, from + (int64_t)done,
                               strerror(errno));
        if (got == 0)
            return error_raise(ERROR_FILE, "%s became shorter while it was read: it ends at byte %" PRId64,
                               path, from + (int64_t)done);
        done += (size_t)got;
    }
    return ERROR_NONE;
}

FileSum file_sum_join(FileSum first, FileSum then)
{
    uLong joined = crc32_combine(first.crc32, then.crc32, (z_off_t)then.bytes);
    return (FileSum){first.bytes + then.bytes, (uint32_t)joined};
}

/* ---- Writing --------------------------------------------------------------------------------- */

static int writer_fail(FileWriter *w, const char *what)
{
    int cause = errno;
    if (!w->failed)
        w->failed = error_raise(ERROR_FILE, "cannot %s %s: %s; what was there before is unchanged", what,
                                w->shown, strerror(cause));
    return w->failed;
}

int file_replaceable(const char *path)
{
    char shown[FILE_LABEL];
    path_label(shown, path);
    if (!path[0])
        return error_raise(ERROR_FILE, "cannot write to a file without a name");
    if (path_is_file(path))
        return 0;
    return error_raise(ERROR_FILE, "cannot write %s: it is %s, not a file; name a file", shown,
                       path_is_directory(path) ? "a directory" : "a pipe or device");
}

static int temporary_of(char out[PATH_BYTES], const char *path, int64_t process)
{
    char shown[FILE_LABEL];
    if (snprintf(out, PATH_BYTES, "%s.tmp-%" PRId64, path, process) < PATH_BYTES)
        return 0;
    path_label(shown, path);
    return error_raise(ERROR_FILE, "%s: the path is too long", shown);
}

/* Of this process: two that write one file at a time both write a whole one. */
int file_temporary(char out[PATH_BYTES], const char *path)
{
    return temporary_of(out, path, getpid());
}

int file_begin(FileWriter *w, const char *path)
{
    *w = (FileWriter){.file = -1};
    path_label(w->shown, path);
    if (file_replaceable(path) || file_temporary(w->temporary, path))
        return w->failed = error_code();
    memcpy(w->path, path, strlen(path) + 1);
    file_calls.unlink(w->temporary); /* of a process that died, and had our number */
    w->file = file_calls.open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return w->file < 0 ? writer_fail(w, "create") : 0;
}

static int write_all(FileWriter *w, const char *at, size_t count)
{
    while (count > 0 && !w->failed) {
        ssize_t wrote = file_calls.write(w->file, at, count);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0) {
            errno = wrote < 0 ? errno : EIO;
            return writer_fail(w, "write");
        }
        at += wrote;
        count -= (size_t)wrote;
    }
    return w->failed;
}

static int flush(FileWriter *w)
{
    size_t count = w->waiting;
    w->waiting = 0;
    return write_all(w, w->buffer, count);
}

int file_join(FileWriter *w, const char *path, int64_t process)
{
    *w = (FileWriter){.file = -1, .joined = 1};
    path_label(w->shown, path);
    if (temporary_of(w->temporary, path, process))
        return w->failed = error_code();
    w->file = file_calls.open(w->temporary, O_WRONLY | O_CLOEXEC, 0);
    return w->file < 0 ? writer_fail(w, "open, to write its part of it,") : 0;
}

int file_set_length(FileWriter *w, uint64_t bytes)
{
    return !w->failed && ftruncate(w->file, (off_t)bytes) != 0 ? writer_fail(w, "make room for") : w->failed;
}

int file_seek(FileWriter *w, uint64_t at)
{
    return !w->failed && flush(w) == 0 && lseek(w->file, (off_t)at, SEEK_SET) < 0 ? writer_fail(w, "write")
                                                                                  : w->failed;
}

/* JSON comes in pieces of a few bytes. */
int file_put(FileWriter *w, const void *bytes, size_t count)
{
    if (w->failed || count == 0)
        return w->failed;
    if (w->sum) {
        w->sum->bytes += count;
        w->sum->crc32 = (uint32_t)crc32_z(w->sum->crc32, bytes, count);
    }
    if (count > FILE_BUFFER - w->waiting && flush(w))
        return w->failed;
    if (count > FILE_BUFFER)
        return write_all(w, bytes, count);
    memcpy(w->buffer + w->waiting, bytes, count);
    w->waiting += count;
    return 0;
}

static int put_piece(const char *text, size_t size, void *writer)
{
    return file_put(writer, text, size) ? -1 : 0;
}

int file_put_json(FileWriter *w, const json_t *root, size_t flags)
{
    if (!w->failed && (!root || json_dump_callback(root, put_piece, w, flags) != 0) && !w->failed)
        w->failed = error_raise(ERROR_HOST_MEMORY, "%s: no host memory to write it", w->shown);
    return w->failed;
}

void file_abandon(FileWriter *w)
{
    if (w->file < 0)
        return;
    file_calls.close(w->file);
    if (!w->joined)
        file_calls.unlink(w->temporary);
    w->file = -1;
}

void file_discard(const char *path)
{
    char temporary[PATH_BYTES];
    if (file_temporary(temporary, path) == 0)
        file_calls.unlink(temporary);
}

/* A file system that cannot sync directories says EINVAL. */
int file_sync_directory(const char *directory)
{
    int file = file_calls.open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    int bad = file < 0 || (file_calls.fsync(file) != 0 && errno != EINVAL), cause = errno;
    if (file >= 0)
        file_calls.close(file);
    errno = cause;
    return bad ? -1 : 0;
}

/* The new name is on the disk when its directory is. */
static int sync_name(const char *path, const char *shown)
{
    char directory[PATH_BYTES];
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 0;
    memcpy(directory, path, length);
    directory[length] = '\0';
    if (file_sync_directory(length ? directory : slash ? "/" : "."))
        return error_raise(ERROR_FILE, "%s is written, but its directory cannot be synced: %s", shown,
                           strerror(errno));
    return 0;
}

int file_finish(FileWriter *w)
{
    if (!w->failed && flush(w) == 0 && file_calls.fsync(w->file) != 0)
        writer_fail(w, "write");
    if (w->failed) {
        file_abandon(w);
        return w->failed;
    }
    file_calls.close(w->file);
    w->file = -1;
    return 0;
}

int file_move(const char *path)
{
    char temporary[PATH_BYTES];
    if (file_temporary(temporary, path))
        return -1;
    if (file_calls.rename(temporary, path) == 0)
        return 0;
    int cause = errno;
    file_calls.unlink(temporary);
    errno = cause;
    return -1;
}

int file_publish(const char *path)
{
    char shown[FILE_LABEL];
    path_label(shown, path);
    if (file_move(path))
        return error_raise(ERROR_FILE, "cannot replace %s: %s; what was there before is unchanged", shown,
                           strerror(errno));
    return sync_name(path, shown);
}

int file_commit(FileWriter *w)
{
    int status = file_finish(w);
    return status ? status : file_publish(w->path);
}
