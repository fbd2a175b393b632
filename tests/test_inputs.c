/* What a run reads is recognised when it is resumed: fingerprints of files small and large, what is
 * said of one that changed, and saves that know of none. */
#include <fcntl.h>
#include <zlib.h>

#include "resume_support.h"

/* ---- Fingerprints ---------------------------------------------------------------------------- */

static SavedRunInput print_of(const char *name)
{
    SavedRunInput input = {.name = "data", .path = at("%s", name)};
    if (io_fingerprint(&input))
        fail_msg("%s", error_message());
    return input;
}

static void test_small_files(void **state)
{
    (void)state;
    static char bytes[200000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)hash32((uint32_t)i);
    static const size_t sizes[] = {1, 65535, 65536, 65537, sizeof bytes};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        spill(at("f"), bytes, sizes[i]);
        SavedRunInput input = print_of("f");
        assert_int_equal(input.bytes, sizes[i]);
        assert_int_equal(input.crc32, crc32(0, (const Bytef *)bytes, (uInt)sizes[i]));
    }
}

static void put_byte(const char *path, int64_t place, char byte)
{
    int file = open(path, O_WRONLY);
    assert_true(file >= 0 && pwrite(file, &byte, 1, place) == 1);
    close(file);
}

/* Holes: of whatever size, 64 MiB are read, the first and the last MiB among them. */
static void test_large_files(void **state)
{
    (void)state;
    const int64_t mib = 1 << 20, bytes = 64 * mib + (63 * mib - 1), gap = (bytes - mib) / 63;
    spill(at("f"), "x", 1);
    assert_int_equal(truncate(at("f"), bytes), 0);
    uint32_t before = print_of("f").crc32;
    const int64_t seen[] = {0, mib - 1, bytes - 1, bytes - mib, gap, gap + mib - 1, 31 * gap + 31};
    for (size_t i = 0; i < COUNT(seen); i++) {
        put_byte(at("f"), seen[i], 'y');
        SavedRunInput now = print_of("f");
        assert_int_equal(now.bytes, bytes);
        assert_true(now.crc32 != before);
        before = now.crc32;
    }
    put_byte(at("f"), mib, 'y'); /* between the first block and the second: what the documentation admits */
    assert_int_equal(print_of("f").crc32, before);
    assert_int_equal(truncate(at("f"), INT64_C(63) << 30), 0);
    assert_int_equal(print_of("f").bytes, INT64_C(63) << 30);
    /* To the last byte of what is read whole. */
    assert_int_equal(truncate(at("f"), 64 * mib), 0);
    before = print_of("f").crc32;
    put_byte(at("f"), 40 * mib + 12345, 'z');
    assert_true(print_of("f").crc32 != before);
}

static void test_bad_files(void **state)
{
    (void)state;
    SavedRunInput input = {.name = "data", .path = at("none")};
    assert_int_equal(io_fingerprint(&input), ERROR_FILE);
    assert_error(ERROR_FILE, "none: cannot open", "No such file");
    input.path = folder;
    assert_int_equal(io_fingerprint(&input), ERROR_FILE);
    assert_error(ERROR_FILE, "has no model.safetensors"); /* a directory is a model's */
    input.path = NULL;
    assert_int_equal(io_fingerprint(&input), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "its path is NULL");
    assert_int_equal(io_fingerprint(NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "input is NULL");
}

/* ---- Saved and compared ---------------------------------------------------------------------- */

static SavedRunInput two[2];

/* A run of these two files, of which it says `count`. */
static Tiny tiny_with(const char *data, const char *tokenizer, int count)
{
    Tiny t = tiny();
    spill(at("corpus.txt"), data, strlen(data));
    spill(at("tokenizer.json"), tokenizer, strlen(tokenizer));
    two[0] = print_of("corpus.txt");
    two[1] = print_of("tokenizer.json");
    two[1].name = "tokenizer";
    t.run.inputs = two;
    t.run.input_count = count;
    return t;
}

static void save_with(const char *data, const char *tokenizer, int count)
{
    Tiny t = tiny_with(data, tokenizer, count);
    tiny_train(&t, at("run"), 1, 1);
    assert_fine();
    tiny_end(&t);
}

static int load_with(const char *data, const char *tokenizer, int count)
{
    Tiny t = tiny_with(data, tokenizer, count);
    int status = io_load_run(at("run"), &t.run, NULL);
    tiny_end(&t);
    return status;
}

static void test_compared(void **state)
{
    (void)state;
    save_with("some text", "{}", 2);
    assert_int_equal(load_with("some text", "{}", 2), 0);
    assert_int_equal(load_with("some texts", "{}", 2), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "corpus.txt, the data of the run, has changed since",
                 "step-00000001 was saved", "it has 10 bytes, had 9", "step-00000001/model.safetensors");
    assert_int_equal(load_with("some test", "{}", 2), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "corpus.txt, the data of", "its size is the same, but not what it holds");
    assert_int_equal(load_with("some text", "[]", 2), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "tokenizer.json, the tokenizer of the run, has changed",
                 "its size is the same");
    /* Who does not say what was read, or did not when the run was saved, is believed. */
    assert_int_equal(load_with("some test", "[]", 0), 0);
    assert_int_equal(load_with("some text", "[]", 1), 0);
    empty(at("run"));
    save_with("some text", "{}", 0);
    assert_int_equal(load_with("some test", "[]", 2), 0);
    empty(at("run"));
    save_with("some text", "{}", 1);
    assert_int_equal(load_with("some text", "[]", 2), 0);
    assert_int_equal(load_with("some test", "[]", 2), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "corpus.txt");
}

/* A plan does not read data. */
static void test_meta(void **state)
{
    (void)state;
    save_with("some text", "{}", 2);
    Visit v = visit(&(ContextOptions){.meta = 1, .threads = 1, .seed = 1});
    two[0].bytes = two[0].crc32 = 0;
    Tiny t = tiny();
    t.run.inputs = two;
    t.run.input_count = 2;
    assert_int_equal(io_load_run(at("run"), &t.run, NULL), 0);
    t.run.input_count = -1;
    assert_int_equal(io_load_run(at("run"), &t.run, NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "inputs is missing");
    tiny_end(&t);
    leave(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_small_files), TEST(test_large_files), TEST(test_bad_files),
                                       TEST(test_compared), TEST(test_meta)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
