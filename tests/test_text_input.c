/* Texts that are read once: gzip files, pipes, directories, lists of files; as the same bytes in a plain
 * file, whoever reads them. */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <zlib.h>

#include "../text/tokenizer.h"
#include "test_data_.h"

#define TOKENIZER "tests/tokenizers/fixtures/gpt2.json"

enum { LENGTH = 30000 };
static char corpus[LENGTH + 1];

static int prepare(void **state)
{
    data_corpus(5, corpus, LENGTH);
    return make_directory(state);
}

static const char *gzip_file(const char *name, const void *bytes, size_t count)
{
    const char *path = path_of(name);
    gzFile file = gzopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(gzwrite(file, bytes, (unsigned)count), count);
    assert_int_equal(gzclose(file), Z_OK);
    return path;
}

static const char *folder(const char *name)
{
    const char *path = path_of(name);
    assert_int_equal(mkdir(path, 0777), 0);
    return path;
}

static void check_text(const char *path, const char *text, size_t count, int pipe)
{
    size_t bytes;
    TextInput *input = text_input_read(path);
    if (!input)
        fail_msg("%s: %s", path, error_message());
    const char *got = text_input_text(input, &bytes);
    assert_int_equal(bytes, count);
    assert_memory_equal(got, text, count);
    assert_int_equal(got[count], 0);
    assert_int_equal(text_input_is_pipe(input), pipe);
    text_input_free(input);
}

static void test_needed(void **state)
{
    (void)state;
    write_file("plain", "text", 4);
    write_file("a,b", "text", 4);
    write_file("c", "text", 4);
    assert_int_equal(text_input_needed(path_of("plain")), 0);
    assert_int_equal(text_input_needed(path_of("none")), 0);
    assert_int_equal(text_input_needed(NULL), 0);
    assert_int_equal(text_input_needed("builtin"), 0);
    assert_int_equal(text_input_needed(path_of("a,b")), 0); /* a file's own comma */
    assert_int_equal(text_input_needed("-"), 1);
    assert_int_equal(text_input_needed(directory), 1);
    assert_int_equal(text_input_needed(gzip_file("odd name", "text", 4)), 1); /* by what is in it */
    char list[400];
    snprintf(list, sizeof list, "%s,%s", path_of("plain"), path_of("c"));
    assert_int_equal(text_input_needed(list), 1);
    snprintf(list, sizeof list, "%s,%s", path_of("plain"), path_of("none"));
    assert_int_equal(text_input_needed(list), 0);
    snprintf(list, sizeof list, "%s,", path_of("plain"));
    assert_int_equal(text_input_needed(list), 0);
}

static void test_plain_and_gzip(void **state)
{
    (void)state;
    check_text(write_file("plain", corpus, LENGTH), corpus, LENGTH, 0);
    check_text(write_file("empty", "", 0), "", 0, 0);
    check_text(gzip_file("text.gz", corpus, LENGTH), corpus, LENGTH, 0);
    check_text(gzip_file("empty.gz", "", 0), "", 0, 0);
    static char large[5 << 20]; /* several pieces */
    data_corpus(6, large, sizeof large);
    check_text(gzip_file("large.gz", large, sizeof large), large, sizeof large, 0);
    check_text(write_file("large", large, sizeof large), large, sizeof large, 0);
}

static void test_damaged_gzip(void **state)
{
    (void)state;
    char bytes[LENGTH];
    FILE *file = fopen(gzip_file("whole.gz", corpus, LENGTH), "rb");
    size_t count = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    assert_null(text_input_read(write_file("cut.gz", bytes, count / 2)));
    assert_error(ERROR_FILE, "cut.gz: cannot read behind byte");
    bytes[count - 6] ^= 1; /* the checksum */
    assert_null(text_input_read(write_file("turned.gz", bytes, count)));
    assert_error(ERROR_FILE, "turned.gz: cannot read behind byte");
}

/* In the order of names; a file without an end of line gets one. */
static void test_directory(void **state)
{
    (void)state;
    folder("texts");
    write_file("texts/b.txt", "second\n", 7);
    write_file("texts/a.txt", "first", 5);
    write_file("texts/B.txt", "capital", 7);
    gzip_file("texts/c.txt", "packed", 6);
    write_file("texts/d.txt", "", 0);
    write_file("texts/e.txt", "last", 4);
    write_file("texts/notes.md", "not this", 8);
    write_file("texts/.hidden.txt", "nor this", 8);
    folder("texts/more");
    write_file("texts/more/x.txt", "nor this", 8);
    static const char whole[] = "capital\nfirst\nsecond\npacked\nlast";
    check_text(path_of("texts"), whole, strlen(whole), 0);
    char list[400];
    snprintf(list, sizeof list, "%s,%s", path_of("texts/b.txt"), path_of("texts/a.txt"));
    check_text(list, "second\nfirst", 12, 0);
    assert_null(text_input_read(folder("without")));
    assert_error(ERROR_DATA, "without is a directory without .txt files");
    folder("folder.txt");
    folder("inside");
    assert_int_equal(mkdir(path_of("inside/a.txt"), 0777), 0);
    assert_null(text_input_read(path_of("inside")));
    assert_error(ERROR_FILE, "inside/a.txt is a directory");
}

/* ---- Pipes ----------------------------------------------------------------------------------- */

/* A process that writes into a new pipe; it ends when all is read, or nobody reads. */
static pid_t writer(const char *path, const char *text, size_t count)
{
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    pid_t child = fork();
    if (child == 0) {
        int file = open(path, O_WRONLY);
        while (count > 0) {
            ssize_t wrote = write(file, text, count < 1000 ? count : 1000);
            if (wrote <= 0)
                _exit(1);
            text += wrote;
            count -= (size_t)wrote;
        }
        _exit(0);
    }
    assert_true(child > 0);
    return child;
}

static void test_pipe(void **state)
{
    (void)state;
    const char *path = path_of("pipe");
    pid_t child = writer(path, corpus, LENGTH);
    assert_int_equal(text_input_needed(path), 1);
    check_text(path, corpus, LENGTH, 1);
    assert_int_equal(waitpid(child, NULL, 0), child);
    /* gzip through a pipe */
    char bytes[LENGTH];
    FILE *file = fopen(gzip_file("text.gz", corpus, LENGTH), "rb");
    size_t count = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    child = writer(path, bytes, count);
    check_text(path, corpus, LENGTH, 1);
    assert_int_equal(waitpid(child, NULL, 0), child);
    /* standard input */
    int before = dup(0), plain = open(write_file("plain", corpus, LENGTH), O_RDONLY);
    assert_true(dup2(plain, 0) == 0);
    close(plain);
    check_text("-", corpus, LENGTH, 1);
    dup2(before, 0);
    close(before);
}

/* Who reads it must be told to keep it. */
static void test_pipe_without_input(void **state)
{
    (void)state;
    const char *path = path_of("pipe");
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    Tokenizer *t = tokenizer_read(TOKENIZER);
    assert_null(data_text(path, NULL));
    assert_error(ERROR_ARGUMENT, "pipe is a pipe, which can be read once", "text_input_read", ".input");
    assert_null(data_tokens(path, &(TokenOptions){.tokenizer = t}));
    assert_error(ERROR_ARGUMENT, "pipe is a pipe, which can be read once");
    assert_null(data_text("-", NULL));
    assert_error(ERROR_ARGUMENT, "standard input is a pipe");
    assert_null(text_input_read("/dev/null"));
    assert_error(ERROR_FILE, "/dev/null is a device");
}

/* More than 1 GiB that is decoded is refused: at once where the file says so, or on the way. */
static void test_too_much(void **state)
{
    (void)state;
    static char zeros[1 << 20];
    char bytes[LENGTH];
    FILE *whole = fopen(gzip_file("whole.gz", corpus, LENGTH), "rb");
    size_t count = fread(bytes, 1, sizeof bytes, whole);
    fclose(whole);
    memcpy(bytes + count - 4, "\1\0\0\x40", 4);
    assert_null(text_input_read(write_file("says.gz", bytes, count)));
    assert_error(ERROR_DATA, "says.gz is more than 1 GiB of text", "write it to one plain file");
    if (!getenv("BRIM_FULL"))
        return;
    const char *path = path_of("zeros.gz");
    gzFile file = gzopen(path, "wb1");
    for (int i = 0; i < 1030; i++)
        assert_int_equal(gzwrite(file, zeros, sizeof zeros), sizeof zeros);
    gzclose(file);
    assert_null(text_input_read(path));
    assert_error(ERROR_DATA, "zeros.gz is more than 1 GiB of text");
    file = gzopen(path, "ab1"); /* a part of it is small */
    assert_int_equal(gzwrite(file, zeros, 9), 9);
    gzclose(file);
    assert_null(text_input_read(path));
    assert_error(ERROR_DATA, "zeros.gz is more than 1 GiB of text");
    unlink(path);
}

/* ---- Loaders --------------------------------------------------------------------------------- */

/* All batches of an epoch. */
static uint64_t digest_epoch(Loader *loader)
{
    uint64_t hash = 0;
    assert_int_equal(error_code(), 0);
    assert_non_null(loader);
    while (data_epoch(loader) == 0)
        for (const Batch *b; (b = data_next(loader));)
            hash = hash * 31 + digest_batch(b);
    loader_free(loader);
    return hash;
}

static Loader *open_one(int kind, const char *path, const TextInput *input, Tokenizer *t, DataSplit split)
{
    float masked = kind == 1 ? 0.15f : 0;
    if (kind < 2)
        return data_text(
            path, &(TextOptions){
                      .seq = 32, .batch = 4, .split = split, .mask_probability = masked, .input = input});
    return data_tokens(
        path, &(TokenOptions){.seq = 32, .batch = 4, .split = split, .tokenizer = t, .input = input});
}

static void test_loaders_read_the_same(void **state)
{
    (void)state;
    Tokenizer *t = tokenizer_read(TOKENIZER);
    const char *plain = write_file("plain", corpus, LENGTH);
    TextInput *input = text_input_read(plain);
    folder("one");
    const char *others[] = {gzip_file("text.gz", corpus, LENGTH), path_of("one"), NULL};
    write_file("one/a.txt", corpus, LENGTH);
    for (int kind = 0; kind < 3; kind++)
        for (int split = 0; split < 2; split++) {
            uint64_t hash = digest_epoch(open_one(kind, plain, NULL, t, (DataSplit)split));
            assert_true(digest_epoch(open_one(kind, "a name", input, t, (DataSplit)split)) == hash);
            for (int i = 0; others[i]; i++)
                assert_true(digest_epoch(open_one(kind, others[i], NULL, t, (DataSplit)split)) == hash);
        }
    text_input_free(input);
}

/* On meta: the same shapes, and the text of an input is not copied. */
static void test_meta(void **state)
{
    (void)state;
    TextInput *input = text_input_read(gzip_file("text.gz", corpus, LENGTH));
    for (int meta = 0; meta < 2; meta++) {
        Context *outside = context_use(context_create(&(ContextOptions){.meta = meta, .threads = 1}));
        Loader *loader =
            data_text("text.gz", &(TextOptions){.seq = 32, .batch = 4, .input = input, .held_out = -1});
        assert_int_equal(data_samples(loader), (LENGTH - 1) / 32);
        assert_non_null(data_next(loader));
        assert_true(memtrack_host_peak(context_tracker(context_current())) < 16384);
        context_destroy(context_use(outside));
    }
    text_input_free(input);
}

static Loader *sweep_gzip(void)
{
    return data_text(path_of("sweep.gz"), &(TextOptions){.seq = 32, .batch = 4});
}

static Loader *sweep_directory(void)
{
    return data_text(path_of("sweep"), &(TextOptions){.seq = 32, .batch = 4});
}

static Loader *sweep_holes(void)
{
    Tokenizer *t = tokenizer_read(path_of("holes.json"));
    return t ? data_tokens(path_of("sweep/a.txt"),
                           &(TokenOptions){.seq = 32, .tokenizer = t, .mask_probability = 0.15f})
             : NULL;
}

static void test_each_allocation_fails(void **state)
{
    (void)state;
    static const char json[] =
        "{\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"vocab\":{\"[UNK]\":0,"
        "\"[CLS]\":1,\"[SEP]\":2,\"[MASK]\":3,\"the\":30}},\"pre_tokenizer\":{\"type\":"
        "\"BertPreTokenizer\"}}";
    write_file("holes.json", json, strlen(json));
    gzip_file("sweep.gz", corpus, LENGTH);
    folder("sweep");
    write_file("sweep/a.txt", corpus, LENGTH);
    write_file("sweep/b.txt", corpus, LENGTH);
    sweep_failures(sweep_gzip);
    sweep_failures(sweep_directory);
    sweep_failures(sweep_holes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_needed, begin, end),
        cmocka_unit_test_setup_teardown(test_plain_and_gzip, begin, end),
        cmocka_unit_test_setup_teardown(test_damaged_gzip, begin, end),
        cmocka_unit_test_setup_teardown(test_directory, begin, end),
        cmocka_unit_test_setup_teardown(test_pipe, begin, end),
        cmocka_unit_test_setup_teardown(test_pipe_without_input, begin, end),
        cmocka_unit_test_setup_teardown(test_too_much, begin, end),
        cmocka_unit_test_setup_teardown(test_loaders_read_the_same, begin, end),
        cmocka_unit_test_setup_teardown(test_meta, begin, end),
        cmocka_unit_test_setup_teardown(test_each_allocation_fails, begin, end),
    };
    return cmocka_run_group_tests_name("text input", tests, prepare, remove_directory);
}
