/* Files that data/ and io/ read and write: opened with a clear error, and written so that a failure leaves
 * the old one whole. */
#ifndef BRIM_FILE_INTERNAL_H
#define BRIM_FILE_INTERNAL_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

enum { PATH_BYTES = 4096, FILE_LABEL = 128, FILE_BUFFER = 4096 };

/* The path as messages show it: its end where it is long. */
void path_label(char out[FILE_LABEL], const char *path);
/* directory/name; raises ERROR_FILE and returns non-zero when it is too long. */
int path_join(char out[PATH_BYTES], const char *directory, const char *name);
int path_is_directory(const char *path);
/* One file or directory by whatever names; NULL is none. */
int path_same(const char *a, const char *b);
int file_same_version(const struct stat *a, const struct stat *b); /* one file, not written in between */
int path_is_file(const char *path); /* or nothing yet; not what stands for something open, as /dev/stdout */

/* A regular, non-empty file of at most `most` bytes: its descriptor and size, or -1 with ERROR_FILE raised.
 * expected: "a config.json". */
int file_open_input(const char *path, const char *shown, const char *expected, uint64_t most, size_t *bytes);

/* A file opened for reading, or -1 with an error raised: missing, a directory, not a file. Fills its size. */
int file_open(const char *path, int64_t *bytes);
/* Reads [from, from + bytes), which the file's size promised. Returns an error code. */
int file_read(int file, const char *path, int64_t from, uint8_t *target, size_t bytes);

/* The system calls of writing, which tests replace, to fail or to die in any of them. */
typedef struct FileCalls {
    int (*open)(const char *path, int flags, mode_t mode);
    ssize_t (*write)(int file, const void *bytes, size_t count);
    int (*fsync)(int file);
    int (*close)(int file);
    int (*rename)(const char *from, const char *to);
    int (*unlink)(const char *path);
    int (*mkdir)(const char *path, mode_t mode);
    int (*rmdir)(const char *path);
} FileCalls;
extern FileCalls file_calls;

/* What a file holds: so many bytes, with this CRC-32 (zlib's). */
typedef struct FileSum {
    uint64_t bytes;
    uint32_t crc32;
} FileSum;
/* Of bytes and what follows them, without reading either again. */
FileSum file_sum_join(FileSum first, FileSum then);

/* A file written beside the one it will replace, under a temporary name, and moved there when all of it is on
 * the disk. After an error the rest does nothing; only file_commit or file_abandon ends it. */
typedef struct FileWriter {
    int file; /* -1 = closed */
    int failed;
    int joined;   /* the file is another process's, which moves or removes it */
    FileSum *sum; /* of what is written, for whoever asked after file_begin; NULL = nobody */
    char path[PATH_BYTES], temporary[PATH_BYTES], shown[FILE_LABEL], buffer[FILE_BUFFER];
    size_t waiting; /* in the buffer */
} FileWriter;

/* Whether a file may be renamed over this path: it is a file, a link to one, or not there. A device or a pipe
 * would be replaced for everybody. 0, or raises ERROR_FILE. */
int file_replaceable(const char *path);
/* Each returns 0, or raises ERROR_FILE and returns it. */
int file_begin(FileWriter *writer, const char *path);
int file_put(FileWriter *writer, const void *bytes, size_t count);
/* flags: jansson's. Also ERROR_HOST_MEMORY, so where root is NULL. */
int file_put_json(FileWriter *writer, const json_t *root, size_t flags);
/* Syncs the file, moves it to its name, and syncs the directory. On any earlier failure it abandons. */
int file_commit(FileWriter *writer);
/* The same in two, for files that appear together: finish syncs the file under its temporary name, publish
 * moves it and syncs the directory. */
int file_finish(FileWriter *writer);
int file_publish(const char *path);
/* Only moves it; 0, or -1 with errno, when the temporary file is gone. */
int file_move(const char *path);
/* The temporary name of a path. 0, or raises ERROR_FILE when it is too long. */
int file_temporary(char out[PATH_BYTES], const char *path);
void file_abandon(FileWriter *writer);
/* Several processes write one file: the one that begins it says how long it will be; then the others open it,
 * by the number of that process (getpid). Each writes from where file_seek says, and ends with file_finish or
 * file_abandon. When all are done, the first one publishes the file, or discards it. */
int file_set_length(FileWriter *writer, uint64_t bytes);
int file_join(FileWriter *writer, const char *path, int64_t process);
int file_seek(FileWriter *writer, uint64_t at);
void file_discard(const char *path); /* the temporary file of this process, if there is one */
/* Makes names made, moved or removed in it last. 0, or -1 with errno. */
int file_sync_directory(const char *directory);

#endif
