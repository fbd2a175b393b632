/* What a .bin of token ids really holds, before it is believed: how wide ids are and in which order their
 * bytes come, headers of other tools, and ids that the vocabulary does not have. It is read by pread, so that
 * looking at a file does not make the process as large as it. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../base/file_kind_.h"
#include "../base/plural_.h"
#include "ids_.h"

enum {
    BLOCK = 4096,          /* bytes of a look; a multiple of every width */
    LOOKS = 16,            /* at the form, evenly over the file */
    PAGES = 1000,          /* at the ids of a file that is too large to read whole */
    ENDS = 1 << 20,        /* of such a file: all of its first and last bytes */
    WHOLE_MOST = 256 << 20 /* bytes of a file that is read whole */
};

static uint64_t id_at(const uint8_t *b, int width, int big)
{
    uint64_t value = 0;
    for (int i = 0; i < width; i++)
        value |= (uint64_t)b[i] << (8 * (big ? width - 1 - i : i));
    return value;
}

/* Up to `most` bytes; fewer where the file ends; -1 with an error raised. */
static int64_t look(int file, const char *shown, int64_t from, void *to, int64_t most)
{
    int64_t done = 0;
    while (done < most) {
        ssize_t got = pread(file, (uint8_t *)to + done, (size_t)(most - done), (off_t)(from + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            error_raise(ERROR_FILE, "%s: reading at byte %" PRId64 ": %s", shown, from + done,
                        strerror(errno));
            return -1;
        }
        if (got == 0)
            break;
        done += got;
    }
    return done;
}

/* ---- Other tools ----------------------------------------------------------------------------- */

/* llm.c's files: 256 numbers of four bytes, of which three say something, then the ids. */
static int llmc_header(const char *shown, const uint8_t *head, int64_t got, IdsForm *form, TextNote *note)
{
    enum { BYTES = 1024 };
    uint64_t magic = got >= BYTES ? id_at(head, 4, 0) : 0, version = magic ? id_at(head + 4, 4, 0) : 0;
    int width = magic == 20240520 && version == 1 ? 2 : magic == 20240801 && version == 7 ? 4 : 0;
    if (!width)
        return ERROR_NONE;
    int64_t says = (int64_t)id_at(head + 8, 4, 0), has = (form->bytes - BYTES) / width;
    if (says != has)
        return error_raise(ERROR_DATA,
                           "%s has a header as llm.c writes it, which says that %" PRId64
                           " ids follow; there "
                           "are %" PRId64 ": was it cut?",
                           shown, says, has);
    form->skip = BYTES;
    form->width = width;
    snprintf(note->text, sizeof note->text,
             "%s has a header as llm.c writes it; the %" PRId64 " ids of %d "
             "bytes behind it are read",
             shown, has, width);
    return ERROR_NONE;
}

/* Megatron's and fairseq's .bin are ids alone; what they are stands in the .idx beside them. 0: none is. */
static int index_width(const char *path, const char **tool)
{
    static const int megatron[] = {0, 1, 1, 2, 4, 8, 0, 0, 2};
    char index[PATH_BYTES];
    uint8_t head[40];
    size_t length = strlen(path);
    if (length < 4 || length >= sizeof index || strcmp(path + length - 4, ".bin") != 0)
        return 0;
    memcpy(index, path, length + 1);
    memcpy(index + length - 4, ".idx", 4);
    FILE *file = fopen(index, "rbe");
    size_t got = file ? fread(head, 1, sizeof head, file) : 0;
    if (file)
        fclose(file);
    if (got >= 18 && !memcmp(head, "MMIDIDX\0\0", 9)) {
        *tool = "Megatron";
        return head[17] < sizeof megatron / sizeof megatron[0] ? megatron[head[17]] : 0;
    }
    if (got >= 32 && !memcmp(head, "TNTIDX\0\0", 8)) {
        *tool = "fairseq";
        return (int)id_at(head + 24, 4, 0);
    }
    return 0;
}

static int use_index(const char *path, const char *shown, IdsForm *form, TextNote *note)
{
    const char *tool = NULL;
    int width = index_width(path, &tool);
    if (!tool)
        return ERROR_NONE;
    if (width != 2 && width != 4 && width != 8)
        return error_raise(
            ERROR_DATA,
            "%s: the .idx beside it, of %s, says that its numbers are not of 2, 4 or 8 bytes: ids "
            "are",
            shown, tool);
    form->width = width;
    snprintf(
        note->text, sizeof note->text,
        "%s is read as ids of %d bytes, as the .idx of %s beside it says; its documents follow each other",
        shown, width, tool);
    return ERROR_NONE;
}

/* ---- Width and order of bytes ---------------------------------------------------------------- */

/* Of a sample. Numbers of two bytes by their place among four; of four by their place among two. */
typedef struct Sample {
    int64_t groups;             /* of eight bytes: four numbers of 2, two of 4 */
    int64_t full2[4], full4[2]; /* how many of them are not 0 */
    uint64_t most2[4];          /* the largest */
    uint64_t big[2];            /* the largest id, big-endian, of 2 and of 4 bytes */
    int64_t beyond[2];          /* how many, little-endian, the vocabulary does not have */
} Sample;

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void sample_eight(Sample *s, const uint8_t *b, uint64_t vocab)
{
    for (int i = 0; i < 4; i++) {
        uint64_t value = id_at(b + 2 * i, 2, 0);
        s->full2[i] += value != 0;
        s->most2[i] = larger(s->most2[i], value);
        s->beyond[0] += value >= vocab;
        s->big[0] = larger(s->big[0], id_at(b + 2 * i, 2, 1));
    }
    for (int i = 0; i < 2; i++) {
        uint64_t value = id_at(b + 4 * i, 4, 0);
        s->full4[i] += value != 0;
        s->beyond[1] += value >= vocab;
        s->big[1] = larger(s->big[1], id_at(b + 4 * i, 4, 1));
    }
    s->groups++;
}

static int take_sample(int file, const char *shown, const IdsForm *form, uint64_t vocab, Sample *s)
{
    uint8_t block[BLOCK];
    int64_t room = form->bytes - form->skip - BLOCK;
    for (int i = 0; i < LOOKS; i++) {
        int64_t from = form->skip + (room > 0 ? room / LOOKS * i / 8 * 8 : 0);
        int64_t got = look(file, shown, from, block, BLOCK);
        if (got < 0)
            return error_code();
        for (int64_t at = 0; at + 8 <= got; at += 8)
            sample_eight(s, block + at, vocab);
        if (room <= 0)
            break;
    }
    return ERROR_NONE;
}

/* What the bytes look like, where ids of `width` are expected: another width; negative: big-endian. */
static int guess(const Sample *s, int width, uint64_t vocab)
{
    enum { LEAST = 8 };
    int64_t n = s->groups;
    const int64_t *f = s->full2, *g = s->full4;
    /* the upper half of an id of four bytes is 0, or small where vocabularies are large */
    int some = vocab > 1000;
    uint64_t upper = some ? 3 : 0;
    if (n < LEAST)
        return width;
    if (2 * f[0] > n && !f[1] && !f[2] && !f[3])
        return 8;
    if (2 * f[3] > n && !f[0] && !f[1] && !f[2])
        return -8;
    if (width == 2) {
        int low = f[0] + f[2] > n && s->most2[1] <= upper && s->most2[3] <= upper;
        int high = f[1] + f[3] > n && s->most2[0] <= upper && s->most2[2] <= upper;
        if (low != high &&
            (low ? larger(s->most2[0], s->most2[2]) : larger(s->most2[1], s->most2[3])) > upper)
            return low ? 4 : -4;
        int some_beyond = s->beyond[0] > 1 && 64 * s->beyond[0] > f[0] + f[1] + f[2] + f[3];
        return some_beyond && s->big[0] < vocab ? -2 : 2;
    }
    if (2 * g[0] > n && !g[1])
        return 8;
    if (2 * s->beyond[1] > g[0] + g[1] && s->big[1] < vocab)
        return -4;
    return s->beyond[1] > n ? 2 : 4;
}

static int refuse_order(const char *shown, int width)
{
    return error_raise(ERROR_DATA,
                       "%s has ids of %d bytes with the highest byte first (big-endian); they must be "
                       "little-endian: np.fromfile(FILE, '>u%d').astype('<u%d').tofile(FILE2) turns them",
                       shown, width, width, width);
}

static int find_width(int file, const char *shown, uint64_t vocab, IdsForm *form, TextNote *note)
{
    Sample s = {0};
    if (take_sample(file, shown, form, vocab, &s))
        return error_code();
    int width = guess(&s, form->width, vocab);
    if (width < 0)
        return refuse_order(shown, -width);
    if (width < form->width)
        return error_raise(ERROR_DATA,
                           "%s has ids that look like 2 bytes each; a vocabulary of %" PRIu64
                           " has ids of 4: "
                           "give the --tokenizer or the --vocab (up to 65536) of its ids",
                           shown, vocab);
    if (width > form->width)
        snprintf(note->text, sizeof note->text,
                 "%s has ids that look like %d bytes each, not %d as usual below %d tokens: they are read so",
                 shown, width, form->width, form->width == 2 ? 65537 : 1 << 30);
    form->width = width;
    return ERROR_NONE;
}

int ids_recognise(const char *path, const char *shown, int file, uint64_t vocab, int trust, IdsForm *form,
                  TextNote *note)
{
    uint8_t head[FILE_HEAD];
    int64_t got = look(file, shown, 0, head, sizeof head);
    if (got < 0)
        return error_code();
    const FileKind *kind = file_kind(head, (size_t)got, (uint64_t)form->bytes, 0);
    if (kind)
        return error_raise(ERROR_DATA, "%s is %s, not a .bin of token ids: %s", shown, kind->what,
                           kind->todo);
    if (file_looks_like_text(head, (size_t)got))
        return error_raise(ERROR_DATA,
                           "%s looks like a text; what ends in .bin is read as token ids: give it "
                           "another ending (.txt)",
                           shown);
    if (trust)
        return ERROR_NONE;
    if (llmc_header(shown, head, got, form, note) || use_index(path, shown, form, note))
        return error_code();
    return note->text[0] ? ERROR_NONE : find_width(file, shown, vocab, form, note);
}

/* ---- Ids that the vocabulary does not have ---------------------------------------------------- */

int ids_refuse(const char *shown, int64_t id, int64_t index, int64_t most, int64_t vocab)
{
    char largest[64] = "";
    if (most > id)
        snprintf(largest, sizeof largest, ", the largest seen is %" PRId64, most);
    return error_raise(ERROR_DATA,
                       "%s: id %" PRId64 " at index %" PRId64 "%s; the vocabulary has %" PRId64
                       ", so ids must be 0 to %" PRId64 ": give the --tokenizer of these ids, or --vocab as "
                       "large as theirs",
                       shown, id, index, largest, vocab, vocab - 1);
}

typedef struct Scan {
    int64_t first, id, most; /* index of the first one beyond, -1 = none; its value; the largest of all */
} Scan;

/* One pass for the largest, which compilers make wide; the place is looked for only when there is one. */
static uint64_t largest_of(const uint8_t *b, int64_t count, int width)
{
    uint64_t most = 0;
    if (width == 2) {
        uint16_t top = 0;
        for (int64_t i = 0; i < count; i++) {
            uint16_t id = (uint16_t)(b[2 * i] | b[2 * i + 1] << 8);
            top = id > top ? id : top;
        }
        return top;
    }
    for (int64_t i = 0; i < count; i++)
        most = larger(most, id_at(b + i * width, width, 0));
    return most;
}

static int scan(int file, const char *shown, const IdsForm *form, int64_t vocab, int64_t from, int64_t to,
                Scan *s)
{
    uint8_t block[16 * BLOCK];
    while (from < to) {
        int64_t got = look(file, shown, from, block,
                           to - from < (int64_t)sizeof block ? to - from : (int64_t)sizeof block);
        int64_t count = got / form->width, first = (from - form->skip) / form->width;
        if (got < 0)
            return error_code();
        if (count == 0)
            break;
        uint64_t most = largest_of(block, count, form->width);
        for (int64_t i = 0; most >= (uint64_t)vocab && s->first < 0 && i < count; i++) {
            uint64_t id = id_at(block + i * form->width, form->width, 0);
            if (id >= (uint64_t)vocab) {
                s->first = first + i;
                s->id = (int64_t)id;
            }
        }
        s->most = (int64_t)larger((uint64_t)s->most, most);
        from += count * form->width;
    }
    return ERROR_NONE;
}

int ids_check(const char *shown, int file, const IdsForm *form, int64_t vocab, int all,
              DataProgress *progress, void *user)
{
    Scan s = {.first = -1};
    int64_t begin = form->skip, end = form->bytes, length = end - begin;
    int status = ERROR_NONE;
    if (all || length <= WHOLE_MOST) {
        for (int64_t at = begin, part = 64 << 20; at < end && !status; at += part) {
            status = scan(file, shown, form, vocab, at, at + part < end ? at + part : end, &s);
            if (progress)
                progress(at + part < end ? at + part - begin : length, length, user);
        }
    } else {
        status = scan(file, shown, form, vocab, begin, begin + ENDS, &s);
        for (int64_t i = 1; i <= PAGES && !status; i++) {
            int64_t from = begin + (length / (PAGES + 1) * i) / BLOCK * BLOCK;
            status = scan(file, shown, form, vocab, from, from + BLOCK, &s);
        }
        int64_t last = (length - ENDS) / BLOCK * BLOCK;
        status = status ? status : scan(file, shown, form, vocab, begin + last, end, &s);
    }
    if (status || s.first < 0)
        return status;
    return ids_refuse(shown, s.id, s.first, s.most, vocab);
}
