/* Directories of saved runs: which there are, how one appears and disappears at once, and whether its files
 * are what its state says. A name "step-…" without an ending is a saved run; "step-….tmp-PID" is one that is
 * being made or removed, and nobody's when that process is gone. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../base/plural_.h"
#include "saved_run_.h"
#include "weights.h"

/* ---- Names ----------------------------------------------------------------------------------- */

void saved_run_name(char out[SAVED_RUN_NAME], int64_t step)
{
    snprintf(out, SAVED_RUN_NAME, "step-%08" PRId64, step);
}

/* The step of a name, -1 if it is none. */
static int64_t step_of(const char *name)
{
    char again[SAVED_RUN_NAME];
    if (strncmp(name, "step-", 5) != 0 || strlen(name) > 5 + 18)
        return -1;
    int64_t step = strtoll(name + 5, NULL, 10);
    saved_run_name(again, step);
    return step >= 0 && !strcmp(again, name) ? step : -1;
}

static int is_leftover(const char *name)
{
    return !strncmp(name, "step-", 5) && strstr(name, ".tmp-");
}

int64_t saved_run_below(const char *directory, int64_t below)
{
    char shown[FILE_LABEL];
    int64_t found = -1;
    DIR *dir = opendir(directory);
    if (!dir && errno == ENOENT)
        return -1;
    if (!dir) {
        path_label(shown, directory);
        error_raise(ERROR_FILE, "%s: cannot read the directory: %s", shown, strerror(errno));
        return -2;
    }
    for (const struct dirent *entry; (entry = readdir(dir));) {
        int64_t step = step_of(entry->d_name);
        found = step > found && step < below ? step : found;
    }
    closedir(dir);
    return found;
}

int io_count_saved_runs(const char *directory)
{
    int count = 0;
    if (!directory || error_code())
        return 0;
    for (int64_t below = INT64_MAX; (below = saved_run_below(directory, below)) >= 0;)
        count++;
    if (error_code() == ERROR_FILE)
        error_clear(); /* the directory cannot be read: saving will say so */
    return count;
}

/* ---- Appearing and disappearing -------------------------------------------------------------- */

static int fail(const char *what, const char *path)
{
    int cause = errno;
    char shown[FILE_LABEL];
    path_label(shown, path);
    return error_raise(ERROR_FILE, "cannot %s %s: %s; the saved runs that were there before are unchanged",
                       what, shown, strerror(cause));
}

static int temporary_of(char out[PATH_BYTES], const char *directory, int64_t step, int64_t process,
                        const char *ending)
{
    char name[SAVED_RUN_NAME], temporary[2 * SAVED_RUN_NAME];
    saved_run_name(name, step);
    snprintf(temporary, sizeof temporary, "%s.tmp-%" PRId64 "%s", name, process, ending);
    return path_join(out, directory, temporary);
}

static int temporary_name(char out[PATH_BYTES], const char *directory, int64_t step, const char *ending)
{
    return temporary_of(out, directory, step, getpid(), ending);
}

static int final_name(char out[PATH_BYTES], const char *directory, int64_t step)
{
    char name[SAVED_RUN_NAME];
    saved_run_name(name, step);
    return path_join(out, directory, name);
}

/* Never through a link: what a link points to is not ours. */
void saved_run_remove(const char *path)
{
    struct stat status;
    if (lstat(path, &status) != 0)
        return;
    if (!S_ISDIR(status.st_mode)) {
        file_calls.unlink(path);
        return;
    }
    DIR *dir = opendir(path);
    for (const struct dirent *entry; dir && (entry = readdir(dir));) {
        char inside[PATH_BYTES];
        int length = snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name);
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            length < (int)sizeof inside)
            file_calls.unlink(inside);
    }
    if (dir)
        closedir(dir);
    file_calls.rmdir(path);
}

static int make_temporary(const char *directory, int64_t step, char temporary[PATH_BYTES])
{
    if (temporary_name(temporary, directory, step, ""))
        return error_code();
    if (file_calls.mkdir(directory, 0777) != 0 && errno != EEXIST)
        return fail("make the directory", directory);
    saved_run_remove(temporary); /* of a process that died, and had our number */
    return file_calls.mkdir(temporary, 0777) == 0 ? 0 : fail("make the directory", temporary);
}

int saved_run_begin(const char *directory, int64_t step, char temporary[PATH_BYTES])
{
    Context *context = context_here();
    RankValue process = {.mine = getpid()};
    int made = !error_code() && ranks_first_() && make_temporary(directory, step, temporary) == 0;
    int status = ranks_agree_error_(context, &process);
    if (!status)
        temporary_of(temporary, directory, step, process.first, "");
    else if (made)
        file_calls.rmdir(temporary);
    return status;
}

int saved_run_publish(const char *directory, int64_t step, const char *temporary)
{
    char path[PATH_BYTES], old[PATH_BYTES];
    if (final_name(path, directory, step) || temporary_name(old, directory, step, "-old"))
        return error_code();
    saved_run_remove(old);
    int replaces = file_calls.rename(path, old) == 0;
    if (!replaces && errno != ENOENT)
        return fail("move away", path);
    if (file_calls.rename(temporary, path) != 0) {
        fail("make", path);
        if (replaces)
            file_calls.rename(old, path);
        return error_code();
    }
    if (file_sync_directory(directory))
        return fail("sync", directory);
    if (replaces)
        saved_run_remove(old);
    return 0;
}

/* First its name goes, at once; then what it held. */
static void discard(const char *directory, int64_t step)
{
    char path[PATH_BYTES], temporary[PATH_BYTES];
    ErrorCode before = error_code();
    if (final_name(path, directory, step) == 0 && temporary_name(temporary, directory, step, "-gone") == 0) {
        saved_run_remove(temporary);
        if (file_calls.rename(path, temporary) == 0)
            saved_run_remove(temporary);
    }
    if (!before)
        error_clear();
}

void saved_run_prune(const char *directory, int64_t step, int keep)
{
    int seen = 1; /* that of `step` itself */
    for (int64_t older = step; (older = saved_run_below(directory, older)) >= 0;)
        if (++seen > keep)
            discard(directory, older);
    if (error_code() == ERROR_FILE)
        error_clear(); /* the directory cannot be read; all saved runs are there */
}

/* ---- What the files hold --------------------------------------------------------------------- */

static int check_part(int file, const char *shown, uint64_t from, FileSum expected)
{
    uint32_t crc32 = 0;
    if (file_add_crc32(file, shown, from, expected.bytes, &crc32))
        return error_code();
    if (crc32 == expected.crc32)
        return 0;
    return error_raise(ERROR_DATA,
                       "%s is damaged: the checksum of bytes %" PRIu64 " to %" PRIu64 " is %08" PRIx32
                       ", not %08" PRIx32,
                       shown, from, from + expected.bytes, crc32, expected.crc32);
}

/* Whether this rank is the one that reads a part. */
static int is_mine(size_t part)
{
    const Context *context = context_here();
    size_t ranks = context && !context->meta ? (size_t)ranks_count_(context) : 1;
    return ranks < 2 || part % ranks == (size_t)ranks_place_(context);
}

/* Part by part: the first that is damaged is named. */
static int check_parts(int file, const char *shown, const SavedFile *expected)
{
    size_t i;
    const json_t *part;
    uint64_t from = 0;
    if (!expected->parts)
        return is_mine(0) ? check_part(file, shown, 0, expected->sum) : 0;
    json_array_foreach(expected->parts, i, part)
    {
        FileSum sum = {(uint64_t)json_integer_value(json_array_get(part, 0)),
                       (uint32_t)json_integer_value(json_array_get(part, 1))};
        if (is_mine(i) && check_part(file, shown, from, sum))
            return error_code();
        from += sum.bytes;
    }
    return 0;
}

static int check_file(const char *saved, const char *name, const SavedFile *expected, int read)
{
    char path[PATH_BYTES], shown[FILE_LABEL];
    size_t bytes = 0;
    if (path_join(path, saved, name))
        return error_code();
    path_label(shown, path);
    int file = file_open_input(path, shown, "a file of a saved run", UINT64_MAX, &bytes), status = 0;
    if (file < 0)
        return error_code();
    if (bytes != expected->sum.bytes)
        status = error_raise(ERROR_DATA, "%s is damaged: it has %zu byte%s, not %" PRIu64, shown, bytes,
                             plural((long long)bytes), expected->sum.bytes);
    else if (read)
        status = check_parts(file, shown, expected);
    close(file);
    return status;
}

int saved_run_check_files(const char *saved, const SavedRunState *state, int read)
{
    int status = check_file(saved, SAVED_RUN_MODEL, &state->files[0], read);
    return status ? status : check_file(saved, SAVED_RUN_OPTIMIZER, &state->files[1], read);
}

/* ---- One run a directory --------------------------------------------------------------------- */

/* Of a process that died while a save took the place of one of the same step: that one gets its name back. */
static int put_back(const char *directory, const char *name, const char *path)
{
    char step[SAVED_RUN_NAME], final[PATH_BYTES];
    struct stat status;
    size_t length = (size_t)(strstr(name, ".tmp-") - name), whole = strlen(name);
    if (length >= sizeof step || strcmp(name + whole - 4, "-old") != 0)
        return 0;
    memcpy(step, name, length);
    step[length] = '\0';
    return step_of(step) >= 0 && path_join(final, directory, step) == 0 && lstat(final, &status) != 0 &&
           errno == ENOENT && file_calls.rename(path, final) == 0;
}

static void remove_leftovers(const char *directory)
{
    DIR *dir = opendir(directory);
    for (const struct dirent *entry; dir && (entry = readdir(dir));) {
        char path[PATH_BYTES];
        int length = snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        if (is_leftover(entry->d_name) && length < (int)sizeof path &&
            !put_back(directory, entry->d_name, path))
            saved_run_remove(path);
    }
    if (dir)
        closedir(dir);
}

/* Whether the path is still that of the open directory: a run that made it and is refused takes it away. */
static int is_there(const char *directory, int lock)
{
    struct stat open_one, named;
    return fstat(lock, &open_one) == 0 && stat(directory, &named) == 0 && open_one.st_ino == named.st_ino &&
           open_one.st_dev == named.st_dev;
}

/* use: what this run and another want of it, "saves". */
static int lock_directory(const char *directory, const char *use)
{
    enum { TRIES = 8 };
    char shown[FILE_LABEL];
    path_label(shown, directory);
    for (int i = 0; i < TRIES && !error_code() && !io_check_directory(directory); i++) {
        int lock = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (lock < 0 && errno == ENOENT)
            continue;
        if (lock < 0) {
            error_raise(ERROR_FILE, "%s: cannot open the directory: %s", shown, strerror(errno));
            return -1;
        }
        int busy = flock(lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK; /* else it knows no locks */
        if (!busy && is_there(directory, lock))
            return lock;
        close(lock);
        if (busy) {
            error_raise(ERROR_FILE, "%s: another run %s there; give this one a directory of its own", shown,
                        use);
            return -1;
        }
    }
    if (!error_code())
        error_raise(ERROR_FILE, "%s: other runs remove the directory; give this one a directory of its own",
                    shown);
    return -1;
}

static int no_directory(const char *function)
{
    error_raise(ERROR_ARGUMENT, "%s: directory is NULL", function);
    return -1;
}

int io_lock_saved_runs(const char *directory)
{
    int lock = directory ? lock_directory(directory, "saves") : no_directory("io_lock_saved_runs");
    if (lock >= 0)
        remove_leftovers(directory);
    return lock;
}

int io_lock_exports(const char *directory)
{
    return directory ? lock_directory(directory, "saves or exports") : no_directory("io_lock_exports");
}

void io_unlock_saved_runs(int lock)
{
    if (lock >= 0)
        close(lock);
}
