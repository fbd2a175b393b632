/* The table of kinds, and the checks of those whose first bytes are too few to be sure. */
#include "file_kind_.h"

#include <string.h>

typedef int KindCheck(const uint8_t *head, size_t count, uint64_t bytes);

typedef struct KindRow {
    FileKind kind;
    size_t at, length;
    const char *magic;
    KindCheck *check; /* beside the magic; NULL = none */
    int text_only;    /* ids may begin so */
} KindRow;

#define TO_IDS  "write the ids in it to a .bin, two bytes each (four above 65536 tokens), little-endian"
#define TO_TEXT "take the text out of it and give that as a file of its own"
#define UNPACK  "unpack it and give what is in it"
#define WEIGHTS "weights are for --init; --data takes a text or a .bin of ids"
#define TO_UTF8 "convert it to UTF-8 first (iconv -t UTF-8)"

/* ---- Checks ---------------------------------------------------------------------------------- */

static uint64_t little(const uint8_t *b, int count)
{
    uint64_t value = 0;
    for (int i = count - 1; i >= 0; i--)
        value = value << 8 | b[i];
    return value;
}

static int found(const uint8_t *head, size_t count, const char *text)
{
    size_t length = strlen(text);
    for (size_t i = 0; i + length <= count; i++)
        if (!memcmp(head + i, text, length))
            return 1;
    return 0;
}

/* Deflate is the one method there is; three flags are reserved. */
static int is_gzip(const uint8_t *head, size_t count, uint64_t bytes)
{
    (void)bytes;
    return count >= 10 && head[2] == 8 && !(head[3] & 0xE0);
}

/* A first entry with a name. */
static int is_zip(const uint8_t *head, size_t count, uint64_t bytes)
{
    (void)bytes;
    return count >= 30 && head[5] == 0 && little(head + 26, 2) > 0;
}

static int is_npz(const uint8_t *head, size_t count, uint64_t bytes)
{
    return is_zip(head, count, bytes) && found(head + 30, count - 30 < 256 ? count - 30 : 256, ".npy");
}

static int is_torch_zip(const uint8_t *head, size_t count, uint64_t bytes)
{
    return is_zip(head, count, bytes) && found(head + 30, count - 30 < 256 ? count - 30 : 256, "data.pkl");
}

/* Protocol 4 and 5 begin with a frame; older ones with a few opcodes. */
static int is_pickle(const uint8_t *head, size_t count, uint64_t bytes)
{
    if (count < 12 || head[1] < 2 || head[1] > 5)
        return 0;
    if (head[1] >= 4)
        return head[2] == 0x95 && (!bytes || little(head + 3, 8) <= bytes);
    return !memcmp(head + 2, "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8", 10) || /* torch.save until 1.6 */
           ((head[2] == ']' || head[2] == '}') && head[3] == 'q' && head[4] == 0);
}

/* Its header's length, then JSON. */
static int is_safetensors(const uint8_t *head, size_t count, uint64_t bytes)
{
    uint64_t length = count > 10 ? little(head, 8) : 0;
    return length >= 2 && length < (bytes ? bytes : 100000000) && !memcmp(head + 8, "{\"", 2);
}

static uint32_t crc32c(const uint8_t *bytes, size_t count)
{
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < count; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    }
    return ~crc;
}

/* A length and its checksum, turned and shifted. */
static int is_tfrecord(const uint8_t *head, size_t count, uint64_t bytes)
{
    if (count < 16 || (bytes && little(head, 8) > bytes))
        return 0;
    uint32_t crc = crc32c(head, 8);
    return (uint32_t)little(head + 8, 4) == (uint32_t)((crc >> 15 | crc << 17) + 0xA282EAD8u);
}

/* Arrow's stream: a mark, the length of the metadata, which ends in the stream's first 64 KiB. */
static int is_arrow_stream(const uint8_t *head, size_t count, uint64_t bytes)
{
    (void)bytes;
    return count >= 16 && little(head + 4, 4) >= 16 && little(head + 4, 4) < 65536 &&
           little(head + 8, 4) >= 8 && little(head + 8, 4) < 64 && little(head + 4, 4) % 8 == 0;
}

/* Of letters that are mostly Latin, every second byte is 0. */
static int has_zeros_at(const uint8_t *head, size_t count, size_t odd)
{
    size_t zeros = 0, others = 0;
    for (size_t i = 0; i + 1 < count; i += 2) {
        zeros += head[i + odd] == 0 && head[i + 1 - odd] != 0;
        others += head[i + 1 - odd] == 0;
    }
    return count >= 16 && zeros * 10 > count / 2 * 9 && others == 0;
}

static int is_utf16_low(const uint8_t *head, size_t count, uint64_t bytes)
{
    (void)bytes;
    return has_zeros_at(head, count, 1);
}

static int is_utf16_high(const uint8_t *head, size_t count, uint64_t bytes)
{
    (void)bytes;
    return has_zeros_at(head, count, 0);
}

static size_t line_end(const uint8_t *head, size_t count, size_t from)
{
    while (from < count && head[from] != '\n')
        from++;
    return from;
}

/* Objects, a line each. */
static int is_json_lines(const uint8_t *head, size_t count, uint64_t bytes)
{
    (void)bytes;
    size_t end = line_end(head, count, 0), last = end;
    while (last > 0 && (head[last - 1] == '\r' || head[last - 1] == ' '))
        last--;
    return count > 4 && last > 2 && head[last - 1] == '}' && found(head, last, "\":") &&
           (end + 1 >= count || head[end + 1] == '{');
}

/* Behind a string that begins at `from`, or `count`. */
static size_t string_end(const uint8_t *head, size_t count, size_t from)
{
    size_t i = from + 1;
    while (i < count && head[i] != '"')
        i += head[i] == '\\' ? 2 : 1;
    return i < count ? i + 1 : count;
}

static size_t skip_blanks(const uint8_t *head, size_t count, size_t from)
{
    while (from < count && (head[from] == ' ' || head[from] == '\t'))
        from++;
    return from;
}

/* Names of fields that samples have, and those of the forms that are refused with what to do. */
static int names_a_sample(const uint8_t *key, size_t length)
{
    static const char *const names[] = {"prompt",   "completion",    "ids",        "input_ids",
                                        "messages", "conversations", "instruction"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strlen(names[i]) == length && !memcmp(names[i], key, length))
            return 1;
    return 0;
}

/* An object a line, of which one field tells; the line may go on behind what is looked at. */
static int is_pairs(const uint8_t *head, size_t count, uint64_t bytes)
{
    (void)bytes;
    size_t at = count >= 3 && !memcmp(head, "\xef\xbb\xbf", 3) ? 3 : 0;
    size_t end = line_end(head, count, at);
    int depth = 0;
    at = skip_blanks(head, end, at);
    if (at == end || head[at] != '{' || skip_blanks(head, end, at + 1) == end)
        return 0;
    while (at < end) {
        uint8_t c = head[at];
        size_t next = c == '"' ? string_end(head, end, at) : at + 1, colon = skip_blanks(head, end, next);
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        if (c == '"' && depth == 1 && colon < end && head[colon] == ':' &&
            names_a_sample(head + at + 1, next - at - 2))
            return 1;
        at = next;
    }
    return 0;
}

static int is_json(const uint8_t *head, size_t count, uint64_t bytes)
{
    (void)bytes;
    size_t at = 0;
    while (at < count && strchr(" \t\r\n[{", head[at]) && head[at])
        at++;
    return at > 0 && at < count && head[at] == '"' && found(head, count, "\":");
}

static int separators(const uint8_t *head, size_t from, size_t to, uint8_t separator)
{
    int count = 0, quoted = 0;
    for (size_t i = from; i < to; i++) {
        quoted ^= head[i] == '"';
        count += head[i] == separator && !quoted;
    }
    return count;
}

/* Four lines or more with as many separators each. Prose has commas too, but not so. */
static int is_table(const uint8_t *head, size_t count, uint8_t separator)
{
    int columns = -1, lines = 0;
    for (size_t from = 0, end; (end = line_end(head, count, from)) < count && lines < 8; from = end + 1) {
        int here = separators(head, from, end, separator);
        if (here == 0 || (columns >= 0 && here != columns))
            return 0;
        columns = here;
        lines++;
    }
    return lines >= 4;
}

static int is_separated(const uint8_t *head, size_t count, uint64_t bytes)
{
    (void)bytes;
    return is_table(head, count, ',') || is_table(head, count, '\t') || is_table(head, count, ';');
}

/* ---- The table ------------------------------------------------------------------------------- */

/* What is more special comes before what is more general. */
static const KindRow rows[] = {
    {{FILE_BINARY, "a NumPy array (.npy)",
      "np.load(FILE).astype('<u2').tofile('ids.bin') writes its ids as a .bin"},
     0,
     6,
     "\x93NUMPY",
     NULL,
     0},
    {{FILE_BINARY, "a NumPy archive (.npz)", TO_IDS}, 0, 4, "PK\x03\x04", is_npz, 0},
    {{FILE_BINARY, "a PyTorch file (.pt, .pth)", TO_IDS "; " WEIGHTS}, 0, 4, "PK\x03\x04", is_torch_zip, 0},
    {{FILE_BINARY, "a zip archive (or an office document, which is one)", UNPACK},
     0,
     4,
     "PK\x03\x04",
     is_zip,
     0},
    {{FILE_GZIP, "a gzip file (.gz)", UNPACK " (gzip -d)"}, 0, 2, "\x1f\x8b", is_gzip, 0},
    {{FILE_BINARY, "an xz file", UNPACK " (xz -d)"},
     0,
     6,
     "\xfd"
     "7zXZ\0",
     NULL,
     0},
    {{FILE_BINARY, "a Zstandard file (.zst)", UNPACK " (zstd -d)"}, 0, 4, "\x28\xb5\x2f\xfd", NULL, 0},
    {{FILE_BINARY, "an LZ4 file", UNPACK " (lz4 -d)"}, 0, 4, "\x04\x22\x4d\x18", NULL, 0},
    {{FILE_BINARY, "a bzip2 file", UNPACK " (bzip2 -d)"}, 4, 6, "1AY&SY", NULL, 0},
    {{FILE_BINARY, "a 7z archive", UNPACK}, 0, 6, "7z\xbc\xaf\x27\x1c", NULL, 0},
    {{FILE_BINARY, "a RAR archive", UNPACK}, 0, 6, "Rar!\x1a\x07", NULL, 0},
    {{FILE_BINARY, "a tar archive", UNPACK " (tar -xf); a directory of .txt is read as one text"},
     257,
     5,
     "ustar",
     NULL,
     0},
    {{FILE_BINARY, "a Parquet file", TO_TEXT}, 0, 4, "PAR1", NULL, 0},
    {{FILE_BINARY, "an Arrow (Feather) file", TO_TEXT}, 0, 6, "ARROW1", NULL, 0},
    {{FILE_BINARY, "a Feather file", TO_TEXT}, 0, 4, "FEA1", NULL, 0},
    {{FILE_BINARY, "an Arrow stream (a data set of Hugging Face's datasets)", TO_TEXT},
     0,
     4,
     "\xff\xff\xff\xff",
     is_arrow_stream,
     0},
    {{FILE_BINARY, "an HDF5 file", TO_IDS}, 0, 8, "\x89HDF\r\n\x1a\n", NULL, 0},
    {{FILE_BINARY, "a GGUF file of weights", WEIGHTS}, 0, 4, "GGUF", NULL, 0},
    {{FILE_BINARY, "a safetensors file", WEIGHTS}, 0, 0, "", is_safetensors, 0},
    {{FILE_BINARY, "a Python pickle (.pkl, an old .pt)", TO_IDS "; " WEIGHTS}, 0, 1, "\x80", is_pickle, 0},
    {{FILE_BINARY, "a TFRecord file", TO_TEXT}, 0, 0, "", is_tfrecord, 0},
    {{FILE_BINARY, "an SQLite database", TO_TEXT}, 0, 16, "SQLite format 3\0", NULL, 0},
    {{FILE_BINARY, "the index of a Megatron data set (.idx)", "give the .bin beside it"},
     0,
     9,
     "MMIDIDX\0\0",
     NULL,
     0},
    {{FILE_BINARY, "the index of a fairseq data set (.idx)", "give the .bin beside it"},
     0,
     8,
     "TNTIDX\0\0",
     NULL,
     0},
    {{FILE_BINARY, "a PDF document", TO_TEXT}, 0, 5, "%PDF-", NULL, 0},
    {{FILE_BINARY, "a picture (PNG)", "--data takes a text, a .bin of ids, or a directory of IDX files"},
     0,
     8,
     "\x89PNG\r\n\x1a\n",
     NULL,
     0},
    {{FILE_BINARY, "a picture (JPEG)", "--data takes a text, a .bin of ids, or a directory of IDX files"},
     0,
     3,
     "\xff\xd8\xff",
     NULL,
     1},
    {{FILE_BINARY, "a picture (GIF)", "--data takes a text, a .bin of ids, or a directory of IDX files"},
     0,
     4,
     "GIF8",
     NULL,
     0},
    {{FILE_BINARY, "an IDX file of the MNIST family",
      "give the directory that it lies in, to a model that reads images"},
     0,
     3,
     "\0\0\x08",
     NULL,
     1},
    {{FILE_BINARY, "a program (ELF)", "--data takes a text or a .bin of ids"},
     0,
     4,
     "\x7f"
     "ELF",
     NULL,
     0},
    {{FILE_CODED, "text in UTF-32", TO_UTF8}, 0, 4, "\xff\xfe\0\0", NULL, 1},
    {{FILE_CODED, "text in UTF-32", TO_UTF8}, 0, 4, "\0\0\xfe\xff", NULL, 1},
    {{FILE_CODED, "text in UTF-16", TO_UTF8}, 0, 2, "\xff\xfe", NULL, 1},
    {{FILE_CODED, "text in UTF-16", TO_UTF8}, 0, 2, "\xfe\xff", NULL, 1},
    {{FILE_CODED, "text in UTF-16", TO_UTF8}, 0, 0, "", is_utf16_low, 1},
    {{FILE_CODED, "text in UTF-16", TO_UTF8}, 0, 0, "", is_utf16_high, 1},
    {{FILE_PAIRS, "JSON lines of samples",
      "train a model that continues texts (--data takes them as they are)"},
     0,
     0,
     "",
     is_pairs,
     1},
    {{FILE_MARKUP, "JSON lines", TO_TEXT}, 0, 1, "{", is_json_lines, 1},
    {{FILE_MARKUP, "JSON", TO_TEXT}, 0, 0, "", is_json, 1},
    {{FILE_MARKUP, "an HTML page", TO_TEXT}, 0, 9, "<!DOCTYPE", NULL, 1},
    {{FILE_MARKUP, "an HTML page", TO_TEXT}, 0, 9, "<!doctype", NULL, 1},
    {{FILE_MARKUP, "an HTML page", TO_TEXT}, 0, 5, "<html", NULL, 1},
    {{FILE_MARKUP, "XML", TO_TEXT}, 0, 5, "<?xml", NULL, 1},
    {{FILE_MARKUP, "a table of separated values (CSV)", TO_TEXT}, 0, 0, "", is_separated, 1},
};

const FileKind *file_kind(const uint8_t *head, size_t count, uint64_t bytes, int as_text)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const KindRow *row = &rows[i];
        if (row->text_only && !as_text)
            continue;
        if (row->at + row->length <= count && !memcmp(head + row->at, row->magic, row->length) &&
            (!row->check || row->check(head, count, bytes)))
            return &row->kind;
    }
    return NULL;
}

int file_looks_like_text(const uint8_t *head, size_t count)
{
    size_t spaces = 0;
    for (size_t i = 0; i < count; i++) {
        if (head[i] == 0x7F || (head[i] < 0x20 && !strchr("\t\n\r\f", head[i])) || head[i] == 0)
            return 0;
        spaces += head[i] == ' ' || head[i] == '\n';
    }
    return count >= 64 && spaces * 20 > count;
}
