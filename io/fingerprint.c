/* What a file holds, in a few bytes: so that a run that is resumed notices other data. Larger files are
 * looked at in samples: a run of hours must not begin with minutes of reading. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "../base/hub_.h"
#include "saved_run_.h"

enum { BLOCK = 1 << 20, BLOCKS = 64, PIECE = 1 << 16 };

int file_add_crc32(int file, const char *shown, uint64_t from, uint64_t count, uint32_t *crc32)
{
    unsigned char piece[PIECE];
    while (count > 0) {
        ssize_t got = pread(file, piece, count < PIECE ? (size_t)count : PIECE, (off_t)from);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return error_raise(ERROR_FILE, "%s: cannot read: %s", shown,
                               got < 0 ? strerror(errno) : "it became shorter");
        *crc32 = (uint32_t)crc32_z(*crc32, piece, (size_t)got);
        from += (uint64_t)got;
        count -= (uint64_t)got;
    }
    return 0;
}

/* Of BLOCKS samples, evenly over more bytes than they hold: the first begins the file, the last ends it. */
static uint64_t sample_start(uint64_t bytes, uint64_t i)
{
    uint64_t room = bytes - BLOCK, gaps = BLOCKS - 1;
    return room / gaps * i + room % gaps * i / gaps;
}

/* Adds what a file holds, or samples of it. 0 or raises. */
static int add_file(const char *path, SavedRunInput *input)
{
    char shown[FILE_LABEL];
    size_t bytes = 0;
    path_label(shown, path);
    int file = file_open_input(path, shown, "a file of data", UINT64_MAX, &bytes), status = 0;
    if (file < 0)
        return error_code();
    uint64_t whole = (uint64_t)BLOCK * BLOCKS;
    if (bytes <= whole)
        status = file_add_crc32(file, shown, 0, bytes, &input->crc32);
    for (uint64_t i = 0; bytes > whole && i < BLOCKS && !status; i++)
        status = file_add_crc32(file, shown, sample_start(bytes, i), BLOCK, &input->crc32);
    close(file);
    input->bytes += bytes;
    return status;
}

/* The files of a directory's weights: its entries lie file by file. */
static int add_weights(const char *directory, SavedRunInput *input)
{
    char path[PATH_BYTES];
    Safetensors *weights = safetensors_open(directory);
    const char *last = "";
    int status = weights ? 0 : error_code();
    for (int i = 0; !status && i < safetensors_count(weights); i++) {
        const SafetensorsEntry *entry = safetensors_at(weights, i);
        if (!strcmp(entry->file, last))
            continue;
        last = entry->file;
        status = path_join(path, directory, last) || add_file(path, input) ? error_code() : 0;
    }
    safetensors_close(weights);
    return status;
}

int io_fingerprint(SavedRunInput *input)
{
    char path[PATH_BYTES];
    if (!input || !input->path || !input->name)
        return error_raise(ERROR_ARGUMENT, "io_fingerprint(): %s is NULL",
                           !input        ? "input"
                           : input->path ? "its name"
                                         : "its path");
    if (error_code() || hub_follow(path, input->path))
        return error_code();
    input->bytes = 0;
    input->crc32 = 0;
    return path_is_directory(path) ? add_weights(path, input) : add_file(path, input);
}
