/* Data are looked at before they are believed: kinds of files, widths and orders of ids, headers of other
 * tools, ids beyond the vocabulary, bytes that are no UTF-8. Each row of a table is a file. */
#include "../base/file_kind_.h"
#include "../base/permutation_.h"
#include "../text/tokenizer.h"
#include "test_data_.h"

#define TOKENIZER "tests/tokenizers/fixtures/gpt2.json"

/* ---- Kinds of files -------------------------------------------------------------------------- */

#define BYTES(text) text, sizeof(text) - 1

typedef struct KindCase {
    const char *bytes;
    size_t count, at; /* at: where they stand, behind zeros */
    const char *what;
    int binary; /* as a .bin of ids it is refused, too */
} KindCase;

static const KindCase kinds[] = {
    {BYTES("\x93NUMPY\x01\0v\0{'descr': '<u2', 'fortran_order': False, 'shape': (9,), }"), 0, "a NumPy array",
     1},
    {BYTES("PK\x03\x04\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\0\x14\0ids.npy"), 0,
     "a NumPy archive", 1},
    {BYTES("PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\0\0archive/data.pkl"), 0,
     "a PyTorch file", 1},
    {BYTES("PK\x03\x04\x14\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x05\0\0\0a.txt"), 0, "a zip archive",
     1},
    {BYTES("\xfd"
           "7zXZ\0\0\x04\xe6\xd6\xb4\x46"),
     0, "an xz file", 1},
    {BYTES("\x28\xb5\x2f\xfd\x04\x58\x29\0\0"), 0, "a Zstandard file", 1},
    {BYTES("\x04\x22\x4d\x18\x64\x40\xa7"), 0, "an LZ4 file", 1},
    {BYTES("BZh91AY&SY\x12\x34"), 0, "a bzip2 file", 1},
    {BYTES("7z\xbc\xaf\x27\x1c\0\x04"), 0, "a 7z archive", 1},
    {BYTES("Rar!\x1a\x07\x01\0"), 0, "a RAR archive", 1},
    {BYTES("ustar\0"
           "00"),
     257, "a tar archive", 1},
    {BYTES("PAR1\x15\x04\x15\x10"), 0, "a Parquet file", 1},
    {BYTES("ARROW1\0\0\xff\xff\xff\xff"), 0, "an Arrow (Feather) file", 1},
    {BYTES("FEA1\0\0\0\0"), 0, "a Feather file", 1},
    {BYTES("\xff\xff\xff\xff\x78\x02\0\0\x10\0\0\0\0\0\x0a\0\x0c\0"), 0, "an Arrow stream", 1},
    {BYTES("\x89HDF\r\n\x1a\n\0\0"), 0, "an HDF5 file", 1},
    {BYTES("GGUF\x03\0\0\0"), 0, "a GGUF file", 1},
    {BYTES("\x40\0\0\0\0\0\0\0{\"weight\":{\"dtype\":\"F32\"}}"), 0, "a safetensors file", 1},
    {BYTES("\x80\x04\x95\x20\0\0\0\0\0\0\0]\x94(K\x01K\x02"), 0, "a Python pickle", 1},
    {BYTES("\x80\x02]q\0(K\x01K\x02K\x03K\x04"
           "e."),
     0, "a Python pickle", 1},
    {BYTES("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."), 0, "a Python pickle", 1},
    {BYTES("SQLite format 3\0\x10\0"), 0, "an SQLite database", 1},
    {BYTES("MMIDIDX\0\0\x01\0\0\0\0\0\0\0\x08"), 0, "the index of a Megatron data set", 1},
    {BYTES("TNTIDX\0\0\x01\0\0\0\0\0\0\0"), 0, "the index of a fairseq data set", 1},
    {BYTES("%PDF-1.7\n"), 0, "a PDF document", 1},
    {BYTES("\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"), 0, "a picture (PNG)", 1},
    {BYTES("\xff\xd8\xff\xe0\0\x10JFIF"), 0, "a picture (JPEG)", 0},
    {BYTES("GIF89a\1\0\1\0"), 0, "a picture (GIF)", 1},
    {BYTES("\0\0\x08\x03\0\0\xea\x60\0\0\0\x1c\0\0\0\x1c"), 0, "an IDX file", 0},
    {BYTES("\x7f"
           "ELF\x02\x01\x01\0"),
     0, "a program (ELF)", 1},
    {BYTES("\xff\xfe\0\0T\0\0\0h\0\0\0"), 0, "text in UTF-32", 0},
    {BYTES("\0\0\xfe\xff\0\0\0T\0\0\0h"), 0, "text in UTF-32", 0},
    {BYTES("\xff\xfeT\0h\0e\0"), 0, "text in UTF-16", 0},
    {BYTES("\xfe\xff\0T\0h\0e"), 0, "text in UTF-16", 0},
    {BYTES("T\0h\0e\0 \0c\0a\0t\0 \0s\0a\0t\0"), 0, "text in UTF-16", 0},
    {BYTES("\0T\0h\0e\0 \0c\0a\0t\0 \0s\0a\0t"), 0, "text in UTF-16", 0},
};

/* The bytes, then zeros up to 600, so that it is long enough for a sequence. */
static const char *kind_file(const KindCase *c, const char *name)
{
    static char bytes[600];
    memset(bytes, 0, sizeof bytes);
    memcpy(bytes + c->at, c->bytes, c->count);
    int codes = !strncmp(c->what, "text in", 7);
    return write_file(name, bytes, codes ? c->count : sizeof bytes);
}

/* As bytes it is read, and said; for a tokenizer it is refused; as ids, too. */
static void test_kinds(void **state)
{
    (void)state;
    Tokenizer *t = tokenizer_read(TOKENIZER);
    for (size_t i = 0; i < COUNT(kinds); i++) {
        const KindCase *c = &kinds[i];
        const char *path = kind_file(c, "any.txt");
        Loader *loader = data_text(path, &(TextOptions){.seq = 3, .batch = 1});
        if (!loader || !strstr(data_note(loader), c->what) || !strstr(data_note(loader), "any.txt is "))
            fail_msg("%s: '%s' '%s'", c->what, data_note(loader), error_message());
        assert_non_null(data_next(loader));
        loader_free(loader);
        assert_null(data_tokens(path, &(TokenOptions){.seq = 3, .tokenizer = t}));
        assert_error(ERROR_DATA, "any.txt is ", c->what, "not a text in UTF-8: ");
        if (!c->binary)
            continue;
        assert_null(data_tokens(kind_file(c, "any.bin"), &(TokenOptions){.seq = 3, .vocab = 65536}));
        assert_error(ERROR_DATA, "any.bin is ", c->what, "not a .bin of token ids: ");
    }
}

/* Its magic is a checksum. */
static void test_tfrecord(void **state)
{
    (void)state;
    /* length 8, masked CRC-32C of the length as TensorFlow writes it */
    static const uint8_t head[16] = {8, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0x86, 0x24, 0x0F};
    const FileKind *kind = file_kind(head, sizeof head, 1000, 0);
    assert_non_null(kind);
    assert_string_equal(kind->what, "a TFRecord file");
    uint8_t other[16];
    memcpy(other, head, sizeof head);
    other[8] ^= 1;
    assert_null(file_kind(other, sizeof other, 1000, 0));
}

/* What is trained on as it is, and said. */
static void test_marked_up(void **state)
{
    (void)state;
    static const struct {
        const char *text, *note;
    } cases[] = {
        {"{\"text\": \"one\"}\n{\"text\": \"two\"}\n", "is JSON lines"},
        {"{\"prompt\": \"one\", \"completion\": \"two\"}\n", "is JSON lines of samples"},
        {"[\n {\"text\": \"one\"},\n {\"text\": \"two\"}]\n", "is JSON"},
        {"{\n  \"text\": \"one\"\n}\n", "is JSON"},
        {"<!DOCTYPE html>\n<html><body>", "is an HTML page"},
        {"<?xml version=\"1.0\"?>\n<a>", "is XML"},
        {"id,text\n1,\"a, b\"\n2,c\n3,d\n4,e\n", "is a table of separated values"},
        {"id\ttext\n1\ta\n2\tc\n3\td\n", "is a table of separated values"},
        {"\xef\xbb\xbfThe cat sat on the mat.\n", "byte-order mark"},
        {"Nothing, really.\nIt is prose,\nwith commas,\nin four lines, or five.\nTrue.\n", ""},
        {"The cat sat on the mat.\n", ""},
        {"int main(void) {\n    return 0;\n}\n", ""},
    };
    Tokenizer *t = tokenizer_read(TOKENIZER);
    for (size_t i = 0; i < COUNT(cases); i++)
        for (int ids = 0; ids < 2; ids++) {
            const char *path = write_file("a.txt", cases[i].text, strlen(cases[i].text));
            Loader *loader = ids ? data_tokens(path, &(TokenOptions){.seq = 2, .tokenizer = t})
                                 : data_text(path, &(TextOptions){.seq = 2});
            if (!loader || !strstr(data_note(loader), cases[i].note) ||
                (!cases[i].note[0] && data_note(loader)[0]))
                fail_msg("%s: '%s' '%s'", cases[i].text, data_note(loader), error_message());
            loader_free(loader);
        }
}

/* Ids that begin as a picture, a byte-order mark or a gzip file may are ids. */
static void test_ids_by_chance(void **state)
{
    (void)state;
    static const uint8_t begins[][6] = {{0xFF, 0xD8, 0xFF, 0xE0},
                                        {0xFF, 0xFE, 3},
                                        {0x1F, 0x8B, 9, 0xFF, 1},
                                        {0x80, 2, 7},
                                        {0, 0, 8, 3},
                                        {'P', 'K', 9}};
    for (size_t i = 0; i < COUNT(begins); i++) {
        uint8_t bytes[200];
        for (size_t b = 0; b < sizeof bytes; b++)
            bytes[b] = b < 6 ? begins[i][b] : (uint8_t)(7 * b);
        Loader *loader = data_tokens(write_file("chance.bin", bytes, sizeof bytes),
                                     &(TokenOptions){.seq = 9, .vocab = 65536});
        if (!loader || data_note(loader)[0])
            fail_msg("%zu: %s %s", i, error_message(), data_note(loader));
        loader_free(loader);
    }
}

static void test_text_as_bin(void **state)
{
    (void)state;
    char text[3000];
    data_corpus(1, text, sizeof text);
    assert_null(
        data_tokens(write_file("text.bin", text, sizeof text), &(TokenOptions){.seq = 9, .vocab = 65536}));
    assert_error(ERROR_DATA, "text.bin looks like a text", "another ending");
}

/* ---- Widths and orders ----------------------------------------------------------------------- */

enum { IDS = 3000, SEQ = 9 };

static int32_t random_id(int i, int32_t vocab)
{
    Permutation p;
    permutation_make(&p, (uint64_t)vocab, 3, 1, (uint64_t)(i / 50));
    return (int32_t)permutation_at(&p, (uint64_t)(i % 50) % (uint64_t)vocab);
}

/* Negative: big-endian. */
static const char *ids_file(const char *name, int32_t vocab, int width, const void *head, size_t head_bytes)
{
    static uint8_t bytes[1024 + 8 * IDS];
    int wide = width < 0 ? -width : width;
    memcpy(bytes, head, head_bytes);
    for (int i = 0; i < IDS; i++)
        for (int b = 0; b < wide; b++) {
            int shift = 8 * (width < 0 ? wide - 1 - b : b);
            bytes[head_bytes + (size_t)(i * wide + b)] =
                shift < 32 ? (uint8_t)(random_id(i, vocab) >> shift) : 0;
        }
    return write_file(name, bytes, head_bytes + (size_t)(IDS * wide));
}

static void check_read(const char *path, int32_t vocab, int64_t model_vocab, const char *note)
{
    Loader *loader = data_tokens(
        path, &(TokenOptions){.seq = SEQ, .vocab = model_vocab, .batch = 1, .split = DATA_HELD_OUT});
    if (!loader)
        fail_msg("vocabulary %d of %d: %s", (int)vocab, (int)model_vocab, error_message());
    if (!strstr(data_note(loader), note) || (!note[0] && data_note(loader)[0]))
        fail_msg("vocabulary %d: '%s', not '%s'", (int)vocab, data_note(loader), note);
    assert_int_equal(data_token_count(loader), IDS);
    int64_t sequences = (IDS - 1) / SEQ, held = (int64_t)((double)sequences * 0.05);
    const Batch *b = data_next(loader);
    assert_non_null(b);
    for (int i = 0; i < SEQ; i++)
        assert_int_equal(tensor_i32(b->ids)[i], random_id((int)(SEQ * (sequences - held)) + i, vocab));
    loader_free(loader);
}

static void test_widths(void **state)
{
    (void)state;
    static const struct {
        int32_t vocab;
        int64_t model;
        int width;
        const char *note, *error; /* one of them; both "": as expected */
    } cases[] = {
        {50257, 50257, 2, "", ""},
        {50257, 50257, 4, "look like 4 bytes each", ""},
        {50257, 50257, 8, "look like 8 bytes each", ""},
        {50257, 50257, -2, "", "highest byte first"},
        {50257, 50257, -4, "", "ids of 4 bytes with the highest byte first"},
        {50257, 50257, -8, "", "ids of 8 bytes with the highest byte first"},
        {65, 65, 2, "", ""}, /* characters */
        {65, 65, 4, "look like 4 bytes each", ""},
        {65, 65, 8, "look like 8 bytes each", ""},
        {65, 65, -2, "", "highest byte first"},
        {2, 2, 2, "", ""},
        {3, 256, 2, "", ""},
        {256, 65536, 2, "", ""},
        {65536, 65536, 2, "", ""},
        {65536, 65536, 4, "look like 4 bytes each", ""},
        {128256, 50257, 4, "", "the vocabulary has 50257"}, /* another tokenizer's */
        {128256, 128256, 4, "", ""},
        {128256, 128256, 8, "look like 8 bytes each", ""},
        {128256, 128256, -4, "", "highest byte first"},
        {128256, 128256, -8, "", "highest byte first"},
        {50257, 128256, 2, "", "ids that look like 2 bytes each"},
        {50257, 128256, 4, "", ""},
        {65, 128256, 4, "", ""},
        {65, 128256, 2, "", "ids that look like 2 bytes each"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *path = ids_file("ids.bin", cases[i].vocab, cases[i].width, "", 0);
        TokenOptions o = {.seq = SEQ, .vocab = cases[i].model};
        if (!cases[i].error[0]) {
            check_read(path, cases[i].vocab, cases[i].model, cases[i].note);
            continue;
        }
        Loader *loader = data_tokens(path, &o);
        if (loader || !strstr(error_message(), cases[i].error))
            fail_msg("row %zu: '%s' '%s'", i, data_note(loader), error_message());
        assert_error(ERROR_DATA, "ids.bin", cases[i].error);
    }
}

/* Whose width is given is believed; one that is all zeros says nothing. */
static void test_width_given(void **state)
{
    (void)state;
    Loader *loader =
        data_tokens(ids_file("ids.bin", 65, 4, "", 0), &(TokenOptions){.seq = SEQ, .vocab = 65, .width = 2});
    assert_int_equal(data_token_count(loader), 2 * IDS);
    assert_string_equal(data_note(loader), "");
    static const uint8_t zeros[8000];
    loader =
        data_tokens(write_file("zeros.bin", zeros, sizeof zeros), &(TokenOptions){.seq = SEQ, .vocab = 65});
    assert_int_equal(data_token_count(loader), 4000);
    assert_string_equal(data_note(loader), "");
    loader = data_tokens(path_of("zeros.bin"), &(TokenOptions){.seq = SEQ, .vocab = 65, .width = 3});
    assert_null(loader);
    assert_error(ERROR_ARGUMENT, "width is 3");
}

/* The same on meta, which reads no more than the beginning. */
static void test_meta_sees_the_same(void **state)
{
    (void)state;
    const char *path = ids_file("ids.bin", 50257, 8, "", 0);
    Context *outside = context_use(context_create(&(ContextOptions){.meta = 1, .threads = 1}));
    Loader *loader = data_tokens(path, &(TokenOptions){.seq = SEQ, .vocab = 50257});
    assert_int_equal(data_token_count(loader), IDS);
    assert_non_null(strstr(data_note(loader), "look like 8 bytes each"));
    assert_non_null(data_next(loader));
    assert_null(data_tokens(kind_file(&kinds[0], "any.bin"), &(TokenOptions){.seq = SEQ, .vocab = 50257}));
    assert_error(ERROR_DATA, "a NumPy array");
    context_destroy(context_use(outside));
}

/* ---- Headers of other tools ------------------------------------------------------------------ */

static void test_llmc(void **state)
{
    (void)state;
    uint32_t head[256] = {20240520, 1, IDS};
    check_read(ids_file("gpt2.bin", 50257, 2, head, sizeof head), 50257, 50257,
               "a header as llm.c writes it");
    head[2] = IDS + 1;
    assert_null(
        data_tokens(ids_file("gpt2.bin", 50257, 2, head, sizeof head), &(TokenOptions){.vocab = 50257}));
    assert_error(ERROR_DATA, "says that 3001 ids follow; there are 3000", "was it cut?");
    head[0] = 20240801;
    head[1] = 7;
    head[2] = IDS;
    check_read(ids_file("llama3.bin", 128256, 4, head, sizeof head), 128256, 128256,
               "a header as llm.c writes it");
}

static void test_index_beside(void **state)
{
    (void)state;
    uint8_t index[40] = "MMIDIDX\0\0\x01";
    static const struct {
        int code, width;
    } codes[] = {{8, 2}, {3, 2}, {4, 4}, {5, 8}};
    for (size_t i = 0; i < COUNT(codes); i++) {
        index[17] = (uint8_t)codes[i].code;
        write_file("set.idx", index, sizeof index);
        check_read(ids_file("set.bin", 30000, codes[i].width, "", 0), 30000, 50257,
                   "as the .idx of Megatron beside it says");
    }
    index[17] = 6; /* float */
    write_file("set.idx", index, sizeof index);
    assert_null(data_tokens(path_of("set.bin"), &(TokenOptions){.vocab = 50257}));
    assert_error(ERROR_DATA, "set.bin", ".idx", "of Megatron", "not of 2, 4 or 8 bytes");
    uint8_t fairseq[40] = "TNTIDX\0\0\x01\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x04";
    write_file("set.idx", fairseq, sizeof fairseq);
    check_read(ids_file("set.bin", 30000, 4, "", 0), 30000, 50257, "as the .idx of fairseq beside it says");
}

/* ---- Ids beyond the vocabulary --------------------------------------------------------------- */

/* A file of 300 MiB of zeros, sparse, with one id at an index. */
static const char *sparse(const char *name, int64_t ids, int64_t at, uint16_t id)
{
    const char *path = write_file(name, "\1", 1);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    if (ftruncate(fileno(file), (off_t)(2 * ids)) != 0)
        skip();
    assert_int_equal(fseeko(file, (off_t)(2 * at), SEEK_SET), 0);
    assert_int_equal(fwrite((uint8_t[]){(uint8_t)id, (uint8_t)(id >> 8)}, 1, 2, file), 2);
    assert_int_equal(fclose(file), 0);
    return path;
}

static void test_beyond(void **state)
{
    (void)state;
    enum { MIB = 1 << 20 };
    TokenOptions o = {.seq = 1024, .batch = 1, .vocab = 50257, .held_out = -1};
    static const int64_t places[] = {0, 4095, 4096, 70000, 5 * MIB - 1};
    for (size_t i = 0; i < COUNT(places); i++) {
        char at[32];
        snprintf(at, sizeof at, "at index %d;", (int)places[i]);
        assert_null(data_tokens(sparse("small.bin", 5 * MIB, places[i], 50300), &o));
        assert_error(ERROR_DATA, "small.bin: id 50300", at, "the vocabulary has 50257", "--vocab",
                     "--tokenizer");
    }
    Loader *loader = data_tokens(sparse("small.bin", 5 * MIB, 9, 50256), &o);
    assert_non_null(loader);
    loader_free(loader);
    /* 300 MiB: the first and the last MiB, and pages between */
    int64_t many = 150 * MIB, ends[] = {0, MIB / 2 - 1, many - MIB / 2, many - 1};
    for (size_t i = 0; i < COUNT(ends); i++) {
        assert_null(data_tokens(sparse("large.bin", many, ends[i], 50300), &o));
        assert_error(ERROR_DATA, "large.bin: id 50300");
    }
    /* between two pages: by its batch, or by who reads all */
    int64_t hidden = 100 * (int64_t)MIB + 2048 + 77;
    const char *path = sparse("large.bin", many, hidden, 50300);
    loader = data_tokens(path, &o);
    assert_non_null(loader);
    DataCursor cursor = data_cursor(loader);
    int found = 0;
    for (int64_t step = 0; step < 40 && !found; step++) { /* the place of its sample, found by trying */
        assert_int_equal(data_seek(loader, cursor), 0);
        while (data_next(loader))
            ;
        found = error_code();
        cursor = data_cursor(loader);
    }
    error_clear();
    loader_free(loader);
    assert_int_equal(data_check_tokens(path, &o, NULL, NULL), ERROR_DATA);
    assert_error(ERROR_DATA, "large.bin: id 50300 at index 104859725");
    unlink(path);
}

static int calls;
static int64_t last_done;

static void count_progress(int64_t done, int64_t all, void *user)
{
    assert_ptr_equal(user, &calls);
    assert_true(done > last_done && done <= all);
    last_done = done;
    calls++;
}

static void test_check_tokens(void **state)
{
    (void)state;
    calls = 0;
    last_done = 0;
    const char *path = sparse("all.bin", (int64_t)100 << 20, 5, 7);
    assert_int_equal(data_check_tokens(path, &(TokenOptions){.vocab = 8}, count_progress, &calls), 0);
    assert_int_equal(calls, 4);
    assert_int_equal(last_done, 200 << 20);
    assert_int_equal(data_check_tokens(path, &(TokenOptions){.vocab = 7}, NULL, NULL), ERROR_DATA);
    assert_error(ERROR_DATA, "id 7 at index 5;");
    assert_int_equal(data_check_tokens(NULL, &(TokenOptions){.vocab = 7}, NULL, NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "path is NULL");
    assert_int_equal(data_check_tokens(path_of("none.bin"), &(TokenOptions){.vocab = 7}, NULL, NULL),
                     ERROR_FILE);
    assert_error(ERROR_FILE, "none.bin");
    unlink(path);
}

/* A file that changes after it was looked at: the batch says where. */
static void test_beyond_in_a_batch(void **state)
{
    (void)state;
    static const int widths[] = {2, 4, 8};
    for (size_t w = 0; w < COUNT(widths); w++)
        for (int masked = 0; masked < 2; masked++) {
            int width = widths[w];
            const char *path = ids_file("ids.bin", 1000, width, "", 0);
            TokenOptions o = {.seq = 30, .batch = 4, .vocab = 1000, .held_out = -1};
            if (masked) {
                o.mask_probability = 0.15f;
                o.cls = 1;
                o.sep = 2;
                o.mask = 3;
            }
            Loader *loader = data_tokens(path, &o);
            assert_non_null(loader);
            FILE *file = fopen(path, "r+b");
            assert_int_equal(fseek(file, 1234 * width, SEEK_SET), 0);
            assert_int_equal(fwrite("\xe8\x03\0\0\0\0\0", 1, (size_t)width - 1 + (width == 2), file),
                             (size_t)width - 1 + (width == 2)); /* 1000 */
            fclose(file);
            while (data_epoch(loader) == 0 && !error_code())
                data_next(loader);
            assert_error(ERROR_DATA, "ids.bin: id 1000 at index 1234;", "ids must be 0 to 999");
            loader_free(loader);
        }
}

/* ---- UTF-8 ----------------------------------------------------------------------------------- */

static void test_invalid_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *text, *count, *first;
    } cases[] = {
        {"Caf\xe9 ole, Caf\xe9!", "2 sequences of bytes are", "the first at byte 3 (0xE9)"},
        {"The cat \xff", "1 sequence of bytes is", "the first at byte 8 (0xFF)"},
        {"\xc3\xa9 \xf0\x9f\x98 x", "1 sequence", "at byte 3"}, /* an emoji that was cut */
        {"ab\xed\xa0\x80", "3 sequences", "at byte 2"},         /* a surrogate */
        {"ab\xc0\x80", "2 sequences", "at byte 2"},             /* overlong */
    };
    Tokenizer *t = tokenizer_read(TOKENIZER);
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *path = write_file("text.txt", cases[i].text, strlen(cases[i].text));
        TokenIds ids = {0};
        int64_t bytes;
        assert_null(data_tokens(path, &(TokenOptions){.seq = 2, .tokenizer = t}));
        assert_error(ERROR_DATA, "text.txt is not UTF-8", cases[i].count, cases[i].first,
                     "--invalid-utf8 replace");
        assert_int_equal(tokenizer_encode_file(t, path, 0, &ids, &bytes), ERROR_DATA);
        assert_error(ERROR_DATA, "is not UTF-8");
        Loader *loader = data_tokens(path, &(TokenOptions){.seq = 2, .tokenizer = t, .replace_invalid = 1});
        assert_non_null(loader);
        assert_non_null(strstr(data_note(loader), "replaced by U+FFFD"));
        TextInput *input = text_input_read(path);
        size_t size;
        assert_string_equal(text_input_text(input, &size), cases[i].text);
        tokenizer_encode(t, cases[i].text, size, 0, &ids);
        assert_int_equal(data_token_count(loader), ids.count);
        loader_free(loader);
        text_input_free(input);
        tokenizer_ids_free(t, &ids);
        loader = data_text(path, &(TextOptions){.seq = 2}); /* bytes are bytes */
        assert_string_equal(data_note(loader), "");
    }
}

/* ---- Random replacements --------------------------------------------------------------------- */

/* A model's vocabulary is often padded: no id that no token has may come. */
static void test_replacements(void **state)
{
    (void)state;
    static const char json[] =
        "{\"model\": {\"type\": \"WordPiece\", \"unk_token\": \"[UNK]\", \"continuing_subword_prefix\": "
        "\"##\", \"max_input_chars_per_word\": 100, \"vocab\": {\"[UNK]\": 0, \"[CLS]\": 1, \"[SEP]\": 2, "
        "\"[MASK]\": 3, \"a\": 4, \"b\": 5, \"c\": 6, \"d\": 50}}, \"pre_tokenizer\": {\"type\": "
        "\"Whitespace\"}}";
    char text[20001];
    for (int i = 0; i < 20000; i++)
        text[i] = i % 2 ? ' ' : "abcd"[i / 2 % 4];
    write_file("holes.json", json, strlen(json));
    const char *path = write_file("letters.txt", text, 20000);
    Tokenizer *t = tokenizer_read(path_of("holes.json"));
    assert_non_null(t);
    int seen[128] = {0};
    Loader *loader = data_tokens(
        path,
        &(TokenOptions){
            .seq = 102, .tokenizer = t, .vocab = 128, .mask_probability = 1, .batch = 4, .held_out = -1});
    assert_non_null(loader);
    for (int epoch = 0; epoch < 3; epoch++)
        while (data_epoch(loader) == epoch)
            for (const Batch *b; (b = data_next(loader));)
                for (int i = 0; i < tensor_numel(b->ids); i++)
                    seen[tensor_i32(b->ids)[i]]++;
    assert_int_equal(error_code(), 0);
    for (int i = 0; i < 128; i++) {
        int known = i <= 6 || i == 50;
        if ((seen[i] > 0) != known)
            fail_msg("id %d came %d times", i, seen[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_kinds, begin, end),
        cmocka_unit_test_setup_teardown(test_tfrecord, begin, end),
        cmocka_unit_test_setup_teardown(test_marked_up, begin, end),
        cmocka_unit_test_setup_teardown(test_ids_by_chance, begin, end),
        cmocka_unit_test_setup_teardown(test_text_as_bin, begin, end),
        cmocka_unit_test_setup_teardown(test_widths, begin, end),
        cmocka_unit_test_setup_teardown(test_width_given, begin, end),
        cmocka_unit_test_setup_teardown(test_meta_sees_the_same, begin, end),
        cmocka_unit_test_setup_teardown(test_llmc, begin, end),
        cmocka_unit_test_setup_teardown(test_index_beside, begin, end),
        cmocka_unit_test_setup_teardown(test_beyond, begin, end),
        cmocka_unit_test_setup_teardown(test_check_tokens, begin, end),
        cmocka_unit_test_setup_teardown(test_beyond_in_a_batch, begin, end),
        cmocka_unit_test_setup_teardown(test_invalid_utf8, begin, end),
        cmocka_unit_test_setup_teardown(test_replacements, begin, end),
    };
    return cmocka_run_group_tests_name("data checks", tests, make_directory, remove_directory);
}
