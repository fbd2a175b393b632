/* brim tokenize, and brim train on what it makes, as a user runs them. */
#include "cli_support.h"

static const char *write_text(const char *name, const char *text, int times)
{
    const char *path = in_folder(name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < times; i++)
        fputs(text, f);
    assert_int_equal(fclose(f), 0);
    return path;
}

static long size_of(const char *path)
{
    struct stat status;
    return stat(path, &status) ? -1 : (long)status.st_size;
}

static void there_and_back(void **state)
{
    (void)state;
    const char *text = write_text("text", "the river and the road and the mill, 12 geese\n", 200),
               *json = in_folder("t.json"), *bin = in_folder("text.bin"),
               *small = write_text("small", "the geese", 1);
    Outcome *o = expect_code(RUN("tokenize", "--train", text, "--vocab", "280", "--out", json), 0);
    assert_non_null(strstr(o->out, "280 tokens"));
    o = expect_code(RUN("tokenize", "--tokenizer", json, text, "-o", bin, "--json"), 0);
    json_t *got = json_loads(o->out, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(got, "bytes_per_id")), 2);
    assert_int_equal(2 * json_integer_value(json_object_get(got, "tokens")), size_of(bin));
    assert_int_equal(json_integer_value(json_object_get(got, "bytes")), size_of(text));
    json_decref(got);
    o = expect_code(RUN("tokenize", "--tokenizer", folder, small), 1); /* the folder has none of that name */
    assert_non_null(strstr(o->err, "no tokenizer.json"));
    o = expect_code(RUN("tokenize", "--tokenizer", json, small), 0);
    int a = -1, b = -1;
    assert_true(sscanf(o->out, "%d %d", &a, &b) >= 1 && a >= 0);
    char first[16];
    snprintf(first, sizeof first, "%d", a);
    o = expect_code(RUN("tokenize", "--tokenizer", json, "--decode", first), 0);
    assert_int_equal(o->out[0], 't');

    static const char *const small_run[] = {"--steps", "2",         "--batch", "2",      "--seq",
                                            "16",      "--threads", "1",       "--quiet"};
#define SMALL                                                                                                \
    small_run[0], small_run[1], small_run[2], small_run[3], small_run[4], small_run[5], small_run[6],        \
        small_run[7], small_run[8]
    o = expect_code(RUN("train", "--data", text, "--tokenizer", json, SMALL), 1);
    assert_non_null(strstr(o->err, "has 280 tokens, the model llama-tiny only 256: --vocab 280"));
    o = expect_code(
        RUN("train", "--data", text, "--tokenizer", json, "--vocab", "280", "--sample", "9", SMALL), 0);
    assert_non_null(strstr(o->out, " 0 bytes apart"));
    assert_non_null(strstr(o->out, "It writes"));
    o = expect_code(RUN("train", "--data", bin, "--vocab", "280", SMALL), 0);
    assert_non_null(strstr(o->out, " 0 bytes apart"));
    o = expect_code(RUN("train", "--data", bin, "--vocab", "100", SMALL), 1);
    assert_non_null(strstr(o->err, "the vocabulary has 100, so ids must be 0 to 99"));
    o = expect_code(
        RUN("train", "--model", "bert-tiny", "--vocab", "280", "--data", text, "--tokenizer", json, SMALL),
        1);
    assert_non_null(strstr(o->err, "[CLS]"));
    expect_code(
        RUN("tokenize", "--train", text, "--vocab", "290", "--special", "[CLS],[SEP],[MASK]", "--out", json),
        0);
    o = expect_code(
        RUN("train", "--model", "bert-tiny", "--vocab", "290", "--data", text, "--tokenizer", json, SMALL),
        0);
    assert_non_null(strstr(o->out, " 0 bytes apart"));
    /* generate: what is written is the text of its ids; a tokenizer beside the model is found by itself. */
    o = expect_code(
        RUN("generate", "--vocab", "290", "--tokenizer", json, "--tokens", "5", "--prompt", "abc", "--json"),
        0);
    assert_non_null(strstr(o->out, "\"prompt_tokens\": "));
    o = expect_code(RUN("generate", "--tokenizer", json), 1);
    assert_non_null(strstr(o->err, "tokens, the model llama-tiny only 256"));
    o = expect_code(
        RUN("generate", "--vocab", "290", "--tokenizer", json, "--tokens", "5", "--prompt", "abc"), 0);
    assert_int_equal(lines_starting(o->out, "abc"), 1);
    expect_code(RUN("tokenize", "--tokenizer", json, text, "-o", bin), 0);
    expect_code(
        RUN("train", "--model", "bert-tiny", "--vocab", "290", "--data", bin, "--tokenizer", json, SMALL), 0);
}

static void wrong_usage(void **state)
{
    (void)state;
    const char *text = write_text("text", "abc\n", 9);
    static const struct {
        const char *arguments[6], *what;
    } bad[] = {
        {{"tokenize"}, "needs --tokenizer FILE, or --train TEXT"},
        {{"tokenize", "--train", "x"}, "--train needs --out"},
        {{"tokenize", "--train"}, "needs a value"},
        {{"tokenize", "--train", "x", "--out", "y", "z"}, "goes with"},
        {{"tokenize", "--nonsense"}, "unknown option '--nonsense'"},
        {{"tokenize", "--tokenizer", "x"}, "takes one text"},
        {{"tokenize", "--tokenizer", "x", "a", "b"}, "takes one text, not 2"},
        {{"tokenize", "--tokenizer", "x", "--decode"}, "needs ids"},
        {{"tokenize", "--tokenizer", "x", "--vocab", "9", "a"}, "belong to --train"},
        {{"train", "--tokenizer", "x"}, "--tokenizer needs --data"},
        {{"train", "--model", "mlp", "--tokenizer", "x"}, "means nothing"},
        {{"train", "--model", "mlp", "--vocab", "9"}, "means nothing"},
        {{"train", "--data", "x.bin", "--sample", "9"}, "--sample needs --tokenizer"},
        {{"train", "--vocab", "1"}, "--vocab must be"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        const char *arguments[8] = {NULL};
        memcpy(arguments + 1, bad[i].arguments, sizeof bad[i].arguments);
        Outcome *o = run_command(arguments);
        if (o->code != 2 || !strstr(o->err, bad[i].what))
            fail_msg("%zu: code %d, %s", i, o->code, o->err);
    }
    Outcome *o = expect_code(RUN("tokenize", "--train", text, "--vocab", "12", "--out", in_folder("t")), 2);
    assert_non_null(strstr(o->err, "--vocab must be a whole number from 257"));
    o = expect_code(RUN("tokenize", "--tokenizer", text, text), 1);
    assert_non_null(strstr(o->err, "line 1"));
    /* What is read is not written over, and what is no file is not replaced. */
    const char *json = in_folder("t.json"), *pipe = in_folder("pipe");
    struct stat status;
    expect_code(RUN("tokenize", "--train=abc", "--out", json), 1);
    char train[192];
    snprintf(train, sizeof train, "--train=%s", text);
    expect_code(RUN("tokenize", train, "--vocab=260", "--out", json), 0);
    o = expect_code(RUN("tokenize", "--train", text, "--out", text), 2);
    assert_non_null(strstr(o->err, "written over the text"));
    o = expect_code(RUN("tokenize", "--tokenizer", json, text, "-o", text), 2);
    assert_non_null(strstr(o->err, "written over what is read"));
    expect_code(RUN("tokenize", "--tokenizer", json, text, "-o", json), 2);
    assert_int_equal(mkfifo(pipe, 0600), 0);
    o = expect_code(RUN("tokenize", "--train", text, "--out", pipe), 1);
    assert_non_null(strstr(o->err, "a pipe or device, not a file"));
    assert_true(stat(pipe, &status) == 0 && S_ISFIFO(status.st_mode));
    o = expect_code(RUN("tokenize", "--decode=1", "x"), 2);
    assert_non_null(strstr(o->err, "--decode takes no value"));
    o = expect_code(RUN("tokenize", "--help"), 0);
    assert_non_null(strstr(o->out, "--min-count"));
}

/* NUL is a character like any other. */
static void nul_is_a_character(void **state)
{
    (void)state;
    const char *text = write_text("some", "the geese and the geese\n", 20), *json = in_folder("t.json");
    expect_code(RUN("tokenize", "--train", text, "--vocab", "257", "--out", json), 0);
    Outcome *o = expect_code(RUN("tokenize", "--tokenizer", json, "--decode", "33", "189", "34"), 0);
    assert_memory_equal(o->out, "A\0B\n", 5);
}

/* A path is bytes, JSON is text. */
static void a_path_that_is_no_text(void **state)
{
    (void)state;
    const char *text = write_text("some", "the geese and the geese\n", 20);
    Outcome *o = expect_code(
        RUN("tokenize", "--train", text, "--vocab", "260", "--out", in_folder("\xe9.json"), "--json"), 0);
    json_t *got = json_loads(o->out, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(got, "vocab")), 260);
    json_decref(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(there_and_back, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(wrong_usage, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(nul_is_a_character, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_path_that_is_no_text, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
