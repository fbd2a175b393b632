/* Texts that are read once: pipes, gzip files, directories, lists of files. zlib's reader takes plain files
 * and pipes as they are, so one way of reading serves all. */
#include "input_.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "../base/plural_.h"
#include "tokenizer_.h"

enum { PIECE = 1 << 20, FILES_MOST = 65536 };
#define DECODED_MOST ((size_t)1 << 30)

struct TextInput {
    MemTracker *tracker;
    char *text;
    size_t bytes, room;
    int pipe;
    char name[FILE_LABEL];
};

/* ---- What a path is -------------------------------------------------------------------------- */

static int is_stdin(const char *path)
{
    return !strcmp(path, "-");
}

void text_input_label(char out[FILE_LABEL], const char *path)
{
    path_label(out, is_stdin(path) ? "standard input" : path);
}

int text_input_is_once(const char *path)
{
    struct stat status;
    return is_stdin(path) || (stat(path, &status) == 0 && S_ISFIFO(status.st_mode));
}

static int begins_as_gzip(const char *path)
{
    uint8_t head[16];
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t got = file >= 0 ? pread(file, head, sizeof head, 0) : -1;
    if (file >= 0)
        close(file);
    const FileKind *kind = got > 0 ? file_kind(head, (size_t)got, 0, 0) : NULL;
    return kind && kind->file_class == FILE_GZIP;
}

/* "a,b": of parts that are all there, where the whole is not. */
static int is_list(const char *path)
{
    char part[PATH_BYTES];
    if (!strchr(path, ',') || access(path, F_OK) == 0)
        return 0;
    for (const char *at = path;; at++) {
        size_t length = strcspn(at, ",");
        if (!length || snprintf(part, sizeof part, "%.*s", (int)length, at) >= (int)sizeof part ||
            access(part, F_OK) != 0)
            return 0;
        at += length;
        if (!*at)
            return 1;
    }
}

int text_input_needed(const char *path)
{
    struct stat status;
    if (!path)
        return 0;
    if (is_stdin(path) || is_list(path))
        return 1;
    if (stat(path, &status) != 0)
        return 0;
    return S_ISFIFO(status.st_mode) || S_ISDIR(status.st_mode) ||
           (S_ISREG(status.st_mode) && begins_as_gzip(path));
}

/* ---- Reading --------------------------------------------------------------------------------- */

static int grow(TextInput *in, size_t more)
{
    if (in->room - in->bytes > more)
        return ERROR_NONE;
    size_t needed = in->bytes + more + 1, room = 2 * in->room;
    room = room < needed ? needed : room;
    char *text = memtrack_host_realloc(in->tracker, in->text, in->room, room);
    if (!text)
        return error_raise(ERROR_HOST_MEMORY, "%s: no host memory for a text of %zu bytes", in->name, room);
    in->text = text;
    in->room = room;
    return ERROR_NONE;
}

static int too_large(const char *shown)
{
    return error_raise(ERROR_DATA,
                       "%s is more than 1 GiB of text; that is the most that is kept in memory: write it to "
                       "one plain file, which is read by parts",
                       shown);
}

/* Up to `most` bytes more. */
static int read_gz(TextInput *in, gzFile gz, const char *shown, size_t hint, size_t most)
{
    size_t begin = in->bytes;
    for (int got = 1; got > 0;) {
        size_t piece = hint > in->bytes - begin ? hint - (in->bytes - begin) : PIECE;
        piece = piece < PIECE ? piece + 1 : PIECE; /* the last one finds the end */
        if (grow(in, piece))
            return error_code();
        got = gzread(gz, in->text + in->bytes, (unsigned)piece);
        in->bytes += got > 0 ? (size_t)got : 0;
        if (in->bytes > most)
            return too_large(shown);
    }
    int code;
    const char *why = gzerror(gz, &code);
    if (code == Z_OK || code == Z_STREAM_END)
        return ERROR_NONE;
    return error_raise(code == Z_MEM_ERROR ? ERROR_HOST_MEMORY : ERROR_FILE,
                       "%s: cannot read behind byte %zu of its text: %s", shown, in->bytes - begin,
                       code == Z_ERRNO ? strerror(errno)
                       : why && why[0] ? why
                                       : "damaged");
}

static int read_descriptor(TextInput *in, int file, const char *shown, size_t hint, size_t most)
{
    gzFile gz = gzdopen(file, "rb");
    if (!gz) {
        close(file);
        return error_raise(ERROR_HOST_MEMORY, "%s: no host memory to read it", shown);
    }
    gzbuffer(gz, 1 << 17);
    int status = grow(in, hint);
    status = status ? status : read_gz(in, gz, shown, hint, most);
    gzclose_r(gz);
    return status;
}

/* The end of a gzip file says how much is in its last part, modulo 4 GiB; -1: too short to say. */
static int64_t says_size(int file, int64_t bytes)
{
    uint8_t b[4];
    if (bytes < 18 || pread(file, b, sizeof b, (off_t)(bytes - 4)) != sizeof b)
        return -1;
    return (int64_t)((uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24);
}

/* A plain file alone may be larger than what is decoded. */
static int read_path(TextInput *in, const char *path, int alone)
{
    struct stat status;
    char shown[FILE_LABEL];
    text_input_label(shown, path);
    int once = text_input_is_once(path);
    in->pipe |= once;
    int file =
        is_stdin(path) ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC | (once ? 0 : O_NONBLOCK));
    if (file < 0 || fstat(file, &status) != 0)
        error_raise(ERROR_FILE, "%s: cannot open: %s", shown, strerror(errno));
    else if (!is_stdin(path) && !S_ISREG(status.st_mode) && !S_ISFIFO(status.st_mode))
        error_raise(ERROR_FILE, "%s is %s, not a file", shown,
                    S_ISDIR(status.st_mode) ? "a directory" : "a device");
    else {
        int plain = S_ISREG(status.st_mode) && (is_stdin(path) || !begins_as_gzip(path));
        size_t hint = plain ? (size_t)status.st_size : 0;
        size_t most = alone && plain ? (size_t)MOST_TEXT : DECODED_MOST;
        int64_t says = plain || once ? (int64_t)hint : says_size(file, status.st_size);
        if (says <= (int64_t)most)
            return read_descriptor(in, file, shown, hint, most);
        too_large(shown);
    }
    if (file >= 0)
        close(file);
    return error_code();
}

/* Of several: each ends its last line. */
static int read_next(TextInput *in, const char *path)
{
    if (in->bytes && in->text[in->bytes - 1] != '\n') {
        if (grow(in, 1))
            return error_code();
        in->text[in->bytes++] = '\n';
    }
    return read_path(in, path, 0);
}

static int read_list(TextInput *in, const char *path)
{
    char part[PATH_BYTES];
    int status = ERROR_NONE;
    for (const char *at = path; *at && !status; at += *at == ',') {
        size_t length = strcspn(at, ",");
        snprintf(part, sizeof part, "%.*s", (int)length, at);
        status = read_next(in, part);
        at += length;
    }
    return status;
}

static int is_txt(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name);
    return length > 4 && entry->d_name[0] != '.' && !strcmp(entry->d_name + length - 4, ".txt");
}

typedef struct Name {
    char text[NAME_MAX + 1];
} Name;

/* Counts the files of a directory, or fills in their names. -1: it cannot be read. */
static int list_names(const char *path, Name *names, int room)
{
    int count = 0;
    DIR *directory = opendir(path);
    if (!directory)
        return -1;
    for (const struct dirent *entry; (entry = readdir(directory)) && (!names || count < room);)
        if (is_txt(entry)) {
            if (names)
                snprintf(names[count].text, sizeof names->text, "%.*s", NAME_MAX, entry->d_name);
            count++;
        }
    closedir(directory);
    return count;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(((const Name *)a)->text, ((const Name *)b)->text);
}

static int read_names(TextInput *in, const char *path, Name *names, int room)
{
    char file[PATH_BYTES];
    int count = list_names(path, names, room), status = ERROR_NONE;
    if (count > 1)
        qsort(names, (size_t)count, sizeof *names, by_bytes);
    for (int i = 0; i < count && !status; i++)
        status = path_join(file, path, names[i].text) ? error_code() : read_next(in, file);
    return status;
}

static int read_directory(TextInput *in, const char *path)
{
    int count = list_names(path, NULL, 0);
    if (count < 0)
        return error_raise(ERROR_FILE, "%s: cannot read the directory: %s", in->name, strerror(errno));
    if (count == 0)
        return error_raise(
            ERROR_DATA,
            "%s is a directory without .txt files; of a directory those are read, in the order "
            "of their names",
            in->name);
    if (count > FILES_MOST)
        return error_raise(ERROR_DATA, "%s has %d .txt files; at most %d are read", in->name, count,
                           FILES_MOST);
    Name *names = memtrack_host_alloc(in->tracker, (size_t)count * sizeof *names);
    if (!names)
        return error_raise(ERROR_HOST_MEMORY, "%s: no host memory for %d names", in->name, count);
    int status = read_names(in, path, names, count);
    memtrack_host_free(in->tracker, names, (size_t)count * sizeof *names);
    return status;
}

TextInput *text_input_open(const char *path, MemTracker *tracker)
{
    struct stat status;
    if (!path) {
        error_raise(ERROR_ARGUMENT, "no path of a text is given");
        return NULL;
    }
    TextInput *in = memtrack_host_calloc(tracker, sizeof *in);
    if (!in) {
        error_raise(ERROR_HOST_MEMORY, "%s: no host memory to read it", path);
        return NULL;
    }
    in->tracker = tracker;
    text_input_label(in->name, path);
    int directory = stat(path, &status) == 0 && S_ISDIR(status.st_mode);
    int failed = is_stdin(path)  ? read_path(in, path, 1)
                 : directory     ? read_directory(in, path)
                 : is_list(path) ? read_list(in, path)
                                 : read_path(in, path, 1);
    if (failed || grow(in, 0)) {
        text_input_free(in);
        return NULL;
    }
    in->text[in->bytes] = '\0';
    return in;
}

TextInput *text_input_read(const char *path)
{
    return error_code() ? NULL : text_input_open(path, NULL);
}

void text_input_free(TextInput *in)
{
    if (!in)
        return;
    memtrack_host_free(in->tracker, in->text, in->room);
    memtrack_host_free(in->tracker, in, sizeof *in);
}

/* ---- What is in it --------------------------------------------------------------------------- */

const char *text_input_text(const TextInput *in, size_t *bytes)
{
    *bytes = in->bytes;
    return in->text;
}

int64_t text_input_invalid(const TextInput *in, int64_t *first)
{
    return utf8_invalid(in->text, in->bytes, first);
}

int text_input_is_pipe(const TextInput *in)
{
    return in && in->pipe;
}

static const FileKind *kind_of(const TextInput *in)
{
    return file_kind((const uint8_t *)in->text, in->bytes < FILE_HEAD ? in->bytes : FILE_HEAD, in->bytes, 1);
}

int text_input_check(const TextInput *in, int replace_invalid)
{
    const FileKind *kind = kind_of(in);
    int64_t first, count;
    if (kind && kind->file_class < FILE_MARKUP)
        return error_raise(ERROR_DATA, "%s is %s, not a text in UTF-8: %s", in->name, kind->what, kind->todo);
    if (replace_invalid || (count = text_input_invalid(in, &first)) == 0)
        return ERROR_NONE;
    return error_raise(
        ERROR_DATA,
        "%s is not UTF-8: %" PRId64 " sequence%s of bytes %s no character, the first at byte %" PRId64
        " (0x%02X); convert it (iconv -f LATIN1 -t UTF-8, if it is Latin-1), or add "
        "--invalid-utf8 replace to put U+FFFD in their place",
        in->name, count, plural(count), count == 1 ? "is" : "are", first, (unsigned char)in->text[first]);
}

/* ---- Notes ----------------------------------------------------------------------------------- */

static int has_mark(const uint8_t *head, size_t count)
{
    return count >= 3 && !memcmp(head, "\xef\xbb\xbf", 3);
}

TextNote text_kind_note(const char *name, const uint8_t *head, size_t count, uint64_t bytes, int as_bytes)
{
    TextNote note = {""};
    const FileKind *kind = file_kind(head, count, bytes, 1);
    if (kind && kind->file_class < FILE_MARKUP && as_bytes)
        snprintf(note.text, sizeof note.text, "%s is %s; its bytes are what the model reads: %s", name,
                 kind->what, kind->todo);
    else if (kind && kind->file_class >= FILE_MARKUP)
        snprintf(note.text, sizeof note.text,
                 "%s is %s; all of it is read, marks and names of fields included: to train on its texts, %s",
                 name, kind->what, kind->todo);
    else if (has_mark(head, count))
        snprintf(note.text, sizeof note.text,
                 "%s begins with a byte-order mark (EF BB BF), which is read as part of the text", name);
    else if (memchr(head, 0, count))
        snprintf(note.text, sizeof note.text,
                 "%s has bytes that are 0, which a text does not have; is it a text?", name);
    return note;
}

TextNote text_input_note(const TextInput *in, int as_bytes)
{
    int64_t first, count = as_bytes ? 0 : text_input_invalid(in, &first);
    TextNote note = text_kind_note(in->name, (const uint8_t *)in->text,
                                   in->bytes < FILE_HEAD ? in->bytes : FILE_HEAD, in->bytes, as_bytes);
    if (count > 0)
        snprintf(note.text, sizeof note.text,
                 "%s is not UTF-8: %" PRId64 " sequence%s of bytes, the first at byte %" PRId64
                 ", %s replaced by U+FFFD",
                 in->name, count, plural(count), first, count == 1 ? "is" : "are");
    return note;
}
