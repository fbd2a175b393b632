/* What the command says of bad input of every kind: files, values and options by their names, and never the
 * name of a C function, of which no user knows. */
#include "cli_support.h"

/* "data_text: …", "nn_sample(): …" at the beginning of a line, behind "brim: " and what else ends in a colon.
 */
static const char *function_in(const char *line)
{
    for (const char *at = line; at; at = strstr(at, ": ") ? strstr(at, ": ") + 2 : NULL) {
        size_t word = strspn(at, "abcdefghijklmnopqrstuvwxyz0123456789_");
        const char *underscore = memchr(at, '_', word);
        if (word && underscore && underscore > at && (at[word] == ':' || !strncmp(at + word, "()", 2)))
            return at;
    }
    return NULL;
}

static void the_check_finds_functions(void **state)
{
    (void)state;
    static const char *const bad[] = {"brim: data_text: cannot open x", "brim: nn_sample(): top_k is -1",
                                      "brim: while planning: io_read_config: x",
                                      "brim: note: data_images: x"};
    static const char *const good[] = {"brim: x.json: cannot open", "brim: the field my_field is unknown",
                                       "brim: /a/data_text: cannot open", "brim: --data x is empty"};
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_non_null(function_in(bad[i]));
    for (size_t i = 0; i < COUNT(good); i++)
        assert_null(function_in(good[i]));
}

/* "@x" is the file x in the folder. */
static Outcome *run_with_files(const char *const *words)
{
    static char paths[8][192];
    const char *arguments[16] = {"brim"};
    int count = 1, used = 0;
    for (; words[count - 1] && count < 11; count++) {
        arguments[count] = words[count - 1];
        if (words[count - 1][0] == '@') {
            snprintf(paths[used], sizeof paths[0], "%s/%s", folder, words[count - 1] + 1);
            arguments[count] = paths[used++];
        }
    }
    if (!strcmp(words[0], "train")) { /* what is not refused is short */
        arguments[count++] = "--steps";
        arguments[count++] = "1";
    }
    return run_command(arguments);
}

static void no_function_is_named(void **state)
{
    (void)state;
    static const char *const rows[][9] = {
        {"train", "--data", "@none"},
        {"train", "--data", "@empty"},
        {"train", "--data", "@short"},
        {"train", "--data", "@dir"},
        {"train", "--data", "@short.bin"},
        {"train", "--data", "@odd.bin"},
        {"train", "--data", "@large.bin", "--seq", "8", "--batch", "1", "--steps", "1"},
        {"train", "--data", "@text", "--max-samples", "1", "--seq", "30000"},
        {"train", "mlp", "--data", "@none"},
        {"train", "mlp", "--data", "@dir"},
        {"train", "mlp", "--data", "@idx"},
        {"train", "--data", "@text", "--tokenizer", "@none"},
        {"train", "--data", "@text", "--tokenizer", "@garbage.json"},
        {"train", "--data", "@text", "--tokenizer", "@object.json"},
        {"train", "--data", "@text", "--tokenizer", "@dir"},
        {"train", "--data", "@text", "--tokenizer", "@t.json", "--vocab", "100"},
        {"train", "--checkpoint", "cc+.", "--steps", "1"},
        {"train", "--checkpoint", "+ccccc", "--steps", "1"},
        {"train", "--budget", "1MiB"},
        {"train", "--resume", "@none"},
        {"train", "--resume", "@dir"},
        {"train", "--save", "@text", "--steps", "1"},
        {"train", "--export", "@text", "--steps", "1", "--batch", "1", "--seq", "8"},
        {"train", "mlp", "--export", "@text", "--steps", "1"},
        {"train", "--log", "@dir", "--steps", "1", "--batch", "1", "--seq", "8"},
        {"train", "--init", "@none"},
        {"train", "--init", "@dir"},
        {"train", "--init", "@garbage.safetensors"},
        {"train", "--init", "@text"},
        {"train", "gpt2-tiny", "--init", "@weights/model.safetensors"},
        {"plan", "@garbage.json"},
        {"plan", "@object.json"},
        {"plan", "@unknown.json"},
        {"plan", "@family.json"},
        {"plan", "@none.json"},
        {"plan", "--model", "nonsense"},
        {"plan", "--batch", "2147483647", "--seq", "4096"},
        {"plan", "--vocab", "2147483647"},
        {"compare", "--batch", "1,x"},
        {"compare", "--data", "@none", "--batch", "1,2"},
        {"fit", "--data", "@none"},
        {"fit", "--card", "nonsense"},
        {"fit", "--memory", "1KiB"},
        {"generate", "--init", "@none"},
        {"generate", "--init", "@weights", "--tokenizer", "@garbage.json"},
        {"generate", "--prompt", "x", "--seq", "9999"},
        {"generate", "--prompt", "x", "--batch", "2147483647"},
        {"generate", "--budget", "1MiB"},
        {"tokenize", "--train", "@none", "--out", "@out.json"},
        {"tokenize", "--train", "@empty", "--out", "@out.json"},
        {"tokenize", "--train", "@text", "--out", "@dir"},
        {"tokenize", "--train", "@text", "--vocab", "3", "--out", "@out.json"},
        {"tokenize", "--train", "@text", "--vocab", "300", "--special", "a", "--out", "@out.json"},
        {"tokenize", "--tokenizer", "@t.json", "@none"},
        {"tokenize", "--tokenizer", "@t.json", "@dir"},
        {"tokenize", "--tokenizer", "@none", "@text"},
        {"tokenize", "--tokenizer", "@t.json", "--decode", "99999"},
        {"report", "@none"},
        {"report", "@text"},
        {"report", "@dir"},
        {"report", "@empty"},
    };
    int said = 0;
    for (size_t i = 0; i < COUNT(rows); i++) {
        Outcome *o = run_with_files(rows[i]);
        if (o->code > 2)
            fail_msg("brim %s %s %s: %d", rows[i][0], rows[i][1], rows[i][2] ? rows[i][2] : "", o->code);
        for (char *line = strtok(o->err, "\n"); line; line = strtok(NULL, "\n")) {
            said++;
            if (function_in(line))
                fail_msg("brim %s %s %s %s: %s", rows[i][0], rows[i][1], rows[i][2] ? rows[i][2] : "",
                         rows[i][3] ? rows[i][3] : "", line);
        }
    }
    assert_true(said > 50);
}

static int make_files(void **state)
{
    static const char unknown[] = "{\"model_type\": \"llama\", \"nonsense\": 3}",
                      family[] = "{\"model_type\": \"phi3\"}";
    static const unsigned char large[400] = {255, 255, 255, 255, 1, 2, 3};
    if (make_folder(state))
        return -1;
    make_file("empty", "", 0);
    make_file("short", "ab", 2);
    make_file("short.bin", "abcd", 4);
    make_file("odd.bin", "abcde", 5);
    make_file("large.bin", large, sizeof large);
    make_file("garbage.json", "{\"a\": [1, ", 10);
    make_file("object.json", "{}", 2);
    make_file("unknown.json", unknown, sizeof unknown - 1);
    make_file("family.json", family, sizeof family - 1);
    make_file("garbage.safetensors", "garbage garbage garbage", 23);
    make_text("text", 20000);
    assert_int_equal(mkdir(in_folder("dir"), 0755), 0);
    assert_int_equal(mkdir(in_folder("idx"), 0755), 0);
    make_file("idx/train-images-idx3-ubyte", "garbage garbage", 15);
    make_file("idx/train-labels-idx1-ubyte", "garbage garbage", 15);
    expect_code(RUN("tokenize", "--train", in_folder("text"), "--vocab", "300", "--out", in_folder("t.json")),
                0);
    expect_code(RUN("train", "--batch", "1", "--seq", "8", "--steps", "1", "--max-samples", "2", "--export",
                    in_folder("weights")),
                0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_check_finds_functions),
                                       cmocka_unit_test(no_function_is_named)};
    return cmocka_run_group_tests_name("errors", tests, make_files, remove_folder);
}
