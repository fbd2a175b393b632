/* Training: the Python package's tokenizer.json, byte for byte in meaning; the edges of its options; every allocation. */
#include "tokenizer_support.h"

#define TEXT "tests/tokenizers/fixtures/train.txt"

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    if (!root)
        fail_msg("%s: %s", path, error.text);
    return root;
}

static void as_the_python_package(void **state)
{
    (void)state;
    const char *out = in_folder("out.json");
    assert_int_equal(tokenizer_train(TEXT, out, &(TokenizerTraining){.vocab = 500, .min_count = 2}), 0);
    json_t *expected = load("tests/tokenizers/fixtures/train.json"), *got = load(out);
    const json_t *a = json_object_get(json_object_get(expected, "model"), "merges"),
                 *b = json_object_get(json_object_get(got, "model"), "merges");
    for (size_t i = 0; i < json_array_size(a); i++)
        if (!json_equal(json_array_get(a, i), json_array_get(b, i)))
            fail_msg("merge %zu differs", i);
    assert_true(json_equal(expected, got));
    json_decref(expected);
    json_decref(got);
    Tokenizer *t = tokenizer_read(out);
    assert_int_equal(tokenizer_id(t, "<|endoftext|>"), 0);
    assert_true(tokenizer_is_special(t, 0));
    TokenIds ids = {0};
    TokenText text = {0};
    tokenizer_encode(t, "The river\xE2\x82\xAC", 12, 1, &ids);
    tokenizer_decode(t, ids.ids, ids.count, 0, &text);
    assert_string_equal(text.text, "The river\xE2\x82\xAC");
    tokenizer_ids_free(t, &ids);
    tokenizer_text_free(t, &text);
}

/* Counted by hand: "ab" five times, "aab" twice. */
static void small_text(void **state)
{
    (void)state;
    const char *text = write_file("t", "ab ab ab ab ab aab aab", 22), *out = in_folder("out.json");
    static const char *const special[] = {"[CLS]", "[SEP]", "[MASK]"};
    assert_int_equal(
        tokenizer_train(text, out, &(TokenizerTraining){.vocab = 262, .special = special, .specials = 3}), 0);
    Tokenizer *t = tokenizer_read(out);
    assert_int_equal(tokenizer_vocab(t), 262);
    assert_string_equal(tokenizer_token(t, 1), "[SEP]");
    assert_string_equal(tokenizer_token(t, 3), "!");
    assert_string_equal(tokenizer_token(t, 259), "ab");             /* seven times */
    assert_string_equal(tokenizer_token(t, 260), "\xC4\xA0" "ab");  /* four */
    assert_string_equal(tokenizer_token(t, 261), "aab");            /* two: "a ab" comes before " a" */
    assert_int_equal(tokenizer_train(text, out, &(TokenizerTraining){.vocab = 300, .min_count = 3}), 0);
    assert_int_equal(tokenizer_vocab(tokenizer_read(out)), 259); /* the rest comes twice */
}

static void wrong_options(void **state)
{
    (void)state;
    const char *out = in_folder("out.json");
    static const char *const letters[] = {"\xC4\xA0"}, *const one[] = {"!"}, *const broken[] = {"a\xff"};
    static const struct {
        const char *text, *out, *what;
        TokenizerTraining options;
    } bad[] = {
        {NULL, "x", "text is NULL", {.vocab = 300}},
        {TEXT, NULL, "out is NULL", {.vocab = 300}},
        {TEXT, "x", "from 257", {.vocab = 256}},
        {TEXT, "x", "vocab is -1", {.vocab = -1}},
        {TEXT, "x", "vocab is 16777217", {.vocab = 16777217}},
        {TEXT, "x", "min_count is negative", {.min_count = -1}},
        {TEXT, "x", "specials is negative", {.special = one, .specials = -1}},
        {TEXT, "x", "two bytes or more", {.special = one, .specials = 1}},
        {TEXT, "x", "must be UTF-8", {.special = broken, .specials = 1}},
        {TEXT, "x", "letters for bytes", {.special = letters, .specials = 1}},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_int_equal(tokenizer_train(bad[i].text, bad[i].out, &bad[i].options), ERROR_ARGUMENT);
        assert_error(ERROR_ARGUMENT, bad[i].what);
    }
    assert_int_equal(tokenizer_train(in_folder("none"), out, NULL), ERROR_FILE);
    assert_error(ERROR_FILE, "none");
    assert_int_equal(tokenizer_train(write_file("empty", "", 0), out, NULL), ERROR_DATA);
    assert_error(ERROR_DATA, "is empty");
    assert_int_equal(tokenizer_train(TEXT, in_folder("no/such/folder"), NULL), ERROR_FILE);
    assert_error(ERROR_FILE, "cannot create");
    assert_int_equal(access(out, F_OK), -1);
}

/* Bytes that are no UTF-8, NULs, one long word, no end of line. */
static void any_bytes(void **state)
{
    (void)state;
    enum { LENGTH = 30000 };
    char *text = test_malloc(LENGTH);
    for (uint32_t i = 0; i < LENGTH; i++)
        text[i] = i < 10000 ? (char)hash32(i) : i < 20000 ? 'a' : "ab\0\n"[hash32(i) % 4];
    const char *in = write_file("bytes", text, LENGTH), *out = in_folder("out.json");
    TokenizerTraining o = {.vocab = 1000, .min_count = 1};
    assert_int_equal(tokenizer_train(in, out, &o), ERROR_DATA);
    assert_error(ERROR_DATA, "bytes is not UTF-8", "the first at byte", "--invalid-utf8 replace");
    o.replace_invalid = 1;
    assert_int_equal(tokenizer_train(in, out, &o), 0);
    Tokenizer *t = tokenizer_read(out);
    assert_int_equal(tokenizer_vocab(t), 1000);
    TokenIds ids = {0};
    TokenText back = {0};
    tokenizer_encode(t, text + 20000, 10000, 0, &ids);
    tokenizer_decode(t, ids.ids, ids.count, 0, &back);
    assert_int_equal(back.bytes, 10000);
    assert_memory_equal(back.text, text + 20000, 10000);
    tokenizer_ids_free(t, &ids);
    tokenizer_text_free(t, &back);
    test_free(text);
}

static void each_allocation_fails(void **state)
{
    (void)state;
    Context *outside = context_current();
    uint64_t before = memtrack_process_live();
    const char *out = in_folder("out.json");
    int reached = 1;
    for (uint64_t n = 1; reached; n++) {
        assert_true(n < 2000);
        unlink(out);
        context_use(context_create(&(ContextOptions){.threads = 1}));
        memtrack_fail_nth(n);
        int status = tokenizer_train(TEXT, out, &(TokenizerTraining){.vocab = 300});
        reached = !memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_true(status == 0 || status == ERROR_HOST_MEMORY);
        assert_int_equal(access(out, F_OK), status ? -1 : 0); /* whole, or not there */
        assert_true(reached || n > 15);
        context_destroy(context_use(outside));
        assert_int_equal(memtrack_process_live(), before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(as_the_python_package, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(small_text, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(wrong_options, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(any_bytes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(each_allocation_fails, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
