/* IDX, the format of the MNIST family: a big-endian header (magic, then each dimension) and bytes. Files are
 * input from outside: nothing is allocated because a header says so, only because that much has been read. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "loader_.h"

#define PATH_SPACE 4096

typedef struct IdxFile {
    gzFile gz; /* zlib reads plain files, too */
    const char *path;
    int64_t bytes; /* on disk */
} IdxFile;

void idx_free(Context *context, IdxArray *array)
{
    host_free(context, array->values, array->bytes);
    *array = (IdxArray){0};
}

/* Opens path, or path.gz when there is no path; fills the name found. */
static int idx_open(const char *path, char name[PATH_SPACE], IdxFile *file)
{
    int length = snprintf(name, PATH_SPACE, "%s", path);
    if (length < 0 || length + 4 > PATH_SPACE)
        return error_raise(ERROR_FILE, "a path of %d characters is too long", length);
    if (access(name, F_OK) != 0) {
        strcpy(name + length, ".gz");
        if (access(name, F_OK) != 0)
            return error_raise(ERROR_FILE, "there is neither %s nor %s.gz", path, path);
    }
    file->path = name;
    int descriptor = file_open(name, &file->bytes);
    if (descriptor < 0)
        return ERROR_FILE;
    file->gz = gzdopen(descriptor, "rb");
    if (!file->gz) {
        close(descriptor);
        return error_raise(ERROR_HOST_MEMORY, "no memory to read %s", name);
    }
    gzbuffer(file->gz, 1 << 17);
    return ERROR_NONE;
}

/* Reads up to `wanted` bytes; fewer only where the file ends. -1 with an error when it is damaged. */
static int64_t idx_bytes(const IdxFile *file, void *target, int64_t wanted)
{
    int64_t done = 0;
    while (done < wanted) {
        unsigned part = wanted - done < (1 << 20) ? (unsigned)(wanted - done) : 1u << 20;
        int got = gzread(file->gz, (char *)target + done, part);
        if (got > 0)
            done += got;
        if (got < (int)part)
            break;
    }
    int code;
    const char *text = gzerror(file->gz, &code);
    if (code != Z_OK && code != Z_STREAM_END) {
        error_raise(code == Z_MEM_ERROR ? ERROR_HOST_MEMORY : ERROR_FILE,
                    "%s is damaged after byte %" PRId64 " of its contents: %s", file->path,
                    (int64_t)gztell(file->gz), text && text[0] ? text : "read error");
        return -1;
    }
    return done;
}

static int64_t big_endian(const uint8_t *b)
{
    return ((int64_t)b[0] << 24) | (b[1] << 16) | (b[2] << 8) | b[3];
}

static int idx_header(const IdxFile *file, int dimensions, IdxArray *array)
{
    uint8_t header[16];
    int64_t length = 4 + 4 * dimensions, got = idx_bytes(file, header, length), dim[3] = {1, 1, 1};
    if (got < 0)
        return error_code();
    int64_t magic = got >= 4 ? big_endian(header) : -1, expected = 0x800 + dimensions;
    if (got >= 4 && magic != expected)
        return error_raise(
            ERROR_DATA,
            "%s begins with 0x%08" PRIX64 ", IDX %s begin with 0x%08" PRIX64 "; is it another file?",
            file->path, (uint64_t)magic, dimensions == 3 ? "images" : "labels", (uint64_t)expected);
    if (got < length)
        return error_raise(ERROR_DATA, "%s ends at byte %" PRId64 " within its header of %" PRId64 " bytes",
                           file->path, got, length);
    for (int i = 0; i < dimensions; i++) {
        dim[i] = big_endian(header + 4 + 4 * i);
        if (dim[i] < 1 || dim[i] > INT_MAX)
            return error_raise(ERROR_DATA, "%s: dimension %d is %" PRId64 "; it must be 1..%d", file->path, i,
                               dim[i], INT_MAX);
    }
    if (dim[1] > INT_MAX / dim[2])
        return error_raise(ERROR_DATA, "%s: images of %" PRId64 " x %" PRId64 " pixels; at most %d fit",
                           file->path, dim[1], dim[2], INT_MAX);
    *array = (IdxArray){.count = dim[0], .rows = dim[1], .columns = dim[2]};
    return ERROR_NONE;
}

/* Room for more: twice what has been read, never more than is wanted, so that a false header cannot ask for
 * much. */
static int idx_grow(const IdxFile *file, IdxArray *array, size_t wanted)
{
    Context *context = context_here();
    size_t room =
        array->bytes ? 2 * array->bytes : 8 * (size_t)file->bytes; /* images rarely shrink to an eighth */
    room = room < 65536 ? 65536 : room;
    room = room < wanted ? room : wanted;
    uint8_t *values = memtrack_host_realloc(context->tracker, array->values, array->bytes, room);
    if (!values)
        return error_raise(ERROR_HOST_MEMORY, "no host memory for %s (%zu bytes)", file->path, room);
    array->values = values;
    array->bytes = room;
    return ERROR_NONE;
}

static int idx_values(const IdxFile *file, int64_t keep, IdxArray *array)
{
    int64_t item = array->rows * array->columns, items = keep < array->count ? keep : array->count, done = 0;
    for (int64_t wanted = items * item; done < wanted;) {
        if (idx_grow(file, array, (size_t)wanted) != ERROR_NONE)
            return error_code();
        int64_t got = idx_bytes(file, array->values + done, (int64_t)array->bytes - done);
        if (got < 0)
            return error_code();
        done += got;
        if (done < (int64_t)array->bytes)
            return error_raise(ERROR_DATA,
                               "%s is cut short: its header promises %" PRId64 " x %" PRId64
                               " bytes, it ends after %" PRId64,
                               file->path, array->count, item, done);
    }
    return ERROR_NONE;
}

/* Reading past the end also makes zlib compare the checksum. */
static int idx_ends(const IdxFile *file, const IdxArray *array)
{
    char more;
    int64_t got = idx_bytes(file, &more, 1);
    if (got > 0)
        return error_raise(ERROR_DATA, "%s has more than the %" PRId64 " items that its header promises",
                           file->path, array->count);
    return got < 0 ? error_code() : ERROR_NONE;
}

int idx_read(const char *path, int dimensions, int64_t keep, IdxArray *array)
{
    char name[PATH_SPACE];
    IdxFile file = {0};
    *array = (IdxArray){0};
    int code = idx_open(path, name, &file);
    if (code == ERROR_NONE)
        code = idx_header(&file, dimensions, array);
    if (code == ERROR_NONE && keep != 0)
        code = idx_values(&file, keep < 0 ? array->count : keep, array);
    if (code == ERROR_NONE && (keep < 0 || keep >= array->count))
        code = idx_ends(&file, array);
    if (file.gz)
        gzclose_r(file.gz);
    if (code != ERROR_NONE)
        idx_free(context_here(), array);
    return code;
}
