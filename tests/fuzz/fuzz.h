/* What the fuzz targets share: a folder in memory for the files that a parser opens, and contexts that must
 * leave nothing behind. A target is one file, fuzz_<topic>.c; `make fuzz` builds and runs them. */
#ifndef FUZZ_H
#define FUZZ_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../tensor/tensor_.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* What the parsers say is shut up, what a check says is not. */
static int fuzz_stderr = STDERR_FILENO;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_stderr = dup(STDERR_FILENO);
    return 0;
}

/* ---- Files ----------------------------------------------------------------------------------- */

/* tests/fuzz/run makes a folder for each target, in /dev/shm where there is one, and removes it. */
static inline const char *fuzz_path(const char *name)
{
    static char paths[8][512];
    static int next;
    const char *folder = getenv("FUZZ_FOLDER");
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder ? folder : "/dev/shm", name);
    return path;
}

/* Writes a file of the folder; returns its path, valid until eight more were asked for. */
static inline const char *fuzz_put(const char *name, const void *data, size_t size)
{
    const char *path = fuzz_path(name);
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0 || (size && write(file, data, size) != (ssize_t)size) || close(file)) {
        perror(path);
        abort();
    }
    return path;
}

/* The first `first` of an input that holds two files: they are separated by two bytes 0xFF, which no UTF-8
 * has. */
typedef struct FuzzParts {
    const uint8_t *first, *second;
    size_t first_size, second_size; /* second_size 0: there is no second */
} FuzzParts;

static inline FuzzParts fuzz_parts(const uint8_t *data, size_t size)
{
    FuzzParts parts = {.first = data, .second = data + size, .first_size = size};
    for (size_t i = 0; i + 1 < size; i++)
        if (data[i] == 0xFF && data[i + 1] == 0xFF) {
            parts.first_size = i;
            parts.second = data + i + 2;
            parts.second_size = size - i - 2;
            break;
        }
    return parts;
}

/* ---- Contexts -------------------------------------------------------------------------------- */

static uint64_t fuzz_live;

static inline void fuzz_check(int holds, const char *what)
{
    if (!holds) {
        dprintf(fuzz_stderr, "fuzz: %s; the last error: %s\n", what, error_message());
        abort();
    }
}

/* A result and an error must agree: a call that failed says why, one that did not raises nothing. */
static inline void fuzz_agree(int failed)
{
    fuzz_check(failed == (error_code() != ERROR_NONE), "result and error do not agree");
    fuzz_check(!failed || error_message()[0], "an error without a message");
}

static inline void fuzz_begin(int meta)
{
    fuzz_live = memtrack_process_live();
    Context *context = context_create(&(ContextOptions){.meta = meta, .threads = 1});
    fuzz_check(context != NULL, "no context");
    context_use(context);
}

/* Of a sixteenth of the inputs one allocation fails, which is an input too: which one, the bytes say. Called
 * where what follows may fail. */
static inline void fuzz_fail_one(const uint8_t *data, size_t size)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ data[i]) * 16777619u;
    if (hash % 16 == 0)
        memtrack_fail_nth(1 + (hash >> 8) % 64);
}

static inline void fuzz_end(void)
{
    memtrack_fail_nth(0);
    error_clear();
    context_destroy(context_use(NULL));
    fuzz_check(memtrack_process_live() == fuzz_live, "memory is left");
}

#endif
