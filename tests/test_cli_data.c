/* --data of every kind through the command: pipes, packed and several files, files that are something else,
 * notes that are said once, runs that are resumed. */
#include <zlib.h>

#include "cli_support.h"

static void expect(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no '%s' in: %s", part, text);
}

#define SMALL "--threads", "1", "--batch", "2", "--seq", "16", "--steps", "3", "--json"

enum { LENGTH = 4000 };

static const char *text_path(void)
{
    return make_text("text", LENGTH);
}

static const char *read_text(void)
{
    static char text[LENGTH + 1];
    FILE *file = fopen(text_path(), "rb");
    assert_non_null(file);
    assert_int_equal(fread(text, 1, LENGTH, file), LENGTH);
    fclose(file);
    return text;
}

static const char *pack(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    gzFile file = gzopen(path, "wb");
    assert_int_equal(gzwrite(file, read_text(), LENGTH), LENGTH);
    gzclose(file);
    return path;
}

static double last_loss(const Outcome *o)
{
    json_t *root = parse(o->out);
    double loss = real_at(root, "loss_last");
    json_decref(root);
    return loss;
}

/* A plain file, standard input, a pipe, a .gz, a folder: one loss. */
static void one_text_many_ways(void **state)
{
    (void)state;
    char plain[300], pipe[300], directory[300], list[800];
    snprintf(plain, sizeof plain, "%s", text_path());
    double loss = last_loss(expect_code(RUN("train", SMALL, "--data", plain), 0));
    command_input = plain;
    assert_true(last_loss(expect_code(RUN("train", SMALL, "--data", "-"), 0)) == loss);
    command_input = "/dev/null";
    assert_true(last_loss(expect_code(RUN("train", SMALL, "--data", pack("text.gz")), 0)) == loss);
    snprintf(directory, sizeof directory, "%s/texts", folder);
    snprintf(pipe, sizeof pipe, "%s/pipe", folder);
    assert_int_equal(mkdir(directory, 0777), 0);
    make_file("texts/one.txt", read_text(), LENGTH);
    assert_true(last_loss(expect_code(RUN("train", SMALL, "--data", directory), 0)) == loss);
    make_file("texts/two.txt", "and more of it\n", 15);
    double more = last_loss(expect_code(RUN("train", SMALL, "--data", directory), 0));
    snprintf(list, sizeof list, "%s/texts/one.txt,%s/texts/two.txt", folder, folder);
    assert_true(last_loss(expect_code(RUN("train", SMALL, "--data", list), 0)) == more);
    assert_int_equal(mkfifo(pipe, 0600), 0);
    pid_t child = fork();
    if (child == 0) {
        int file = open(pipe, O_WRONLY);
        _exit(write(file, read_text(), LENGTH) != LENGTH);
    }
    assert_true(last_loss(expect_code(RUN("train", SMALL, "--data", pipe), 0)) == loss);
    assert_int_equal(waitpid(child, NULL, 0), child);
    /* several plans and runs of one command read one pipe */
    command_input = plain;
    expect_code(RUN("compare", "--threads", "1", "--batch", "2", "--seq", "16", "--run", "1", "--data", "-",
                    "--json"),
                0);
    command_input = "/dev/null";
}

static int times(const char *text, const char *part)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, part)); at++)
        count++;
    return count;
}

static void notes_once(void **state)
{
    (void)state;
    static const uint8_t npy[2000] = "\x93NUMPY\1\0";
    const char *path = make_file("ids.npy", npy, sizeof npy);
    static const char *const commands[] = {"train", "plan"};
    for (size_t i = 0; i < COUNT(commands); i++) {
        Outcome *o = expect_code(
            RUN(commands[i], "--threads", "1", "--batch", "2", "--seq", "16", "--steps", "3", "--data", path),
            0);
        assert_int_equal(times(o->err, "brim: note: "), 1);
        expect(o->err, "ids.npy is a NumPy array (.npy); its bytes are what the model reads");
    }
    uint8_t ids[4 * 500];
    for (int i = 0; i < 500; i++) {
        uint32_t id = hash32((uint32_t)i) % 50000;
        memcpy(ids + 4 * i, &id, 4);
    }
    path = make_file("wide.bin", ids, sizeof ids);
    Outcome *o =
        expect_code(RUN("train", SMALL, "--vocab", "50257", "--model", "gpt2-tiny", "--data", path), 0);
    assert_int_equal(times(o->err, "brim: note: "), 1);
    expect(o->err, "wide.bin has ids that look like 4 bytes each");
}

static void ids_beyond(void **state)
{
    (void)state;
    uint8_t ids[2 * 500] = {0};
    for (int i = 0; i < 500; i++)
        ids[2 * i] = (uint8_t)(i % 200);
    ids[2 * 321 + 1] = 2; /* 121 + 512 */
    const char *path = make_file("late.bin", ids, sizeof ids);
    Outcome *o = expect_code(RUN("train", SMALL, "--data", path), 1);
    expect(o->err, "late.bin: id 633 at index 321; the vocabulary has 256");
    assert_null(strstr(o->out, "step "));
    expect_code(RUN("train", SMALL, "--vocab", "700", "--data", path), 0);
    expect_code(RUN("train", SMALL, "--vocab", "700", "--check-data", "--data", path), 0);
    o = expect_code(RUN("train", SMALL, "--check-data", "--data", path), 1);
    expect(o->err, "late.bin: id 633 at index 321");
}

static void options_that_do_nothing_are_refused(void **state)
{
    (void)state;
    const char *plain = text_path();
    static const char *const tokenizer = "tests/tokenizers/fixtures/gpt2.json";
    expect(expect_code(RUN("train", SMALL, "--check-data"), 2)->err, "--check-data reads all ids of a .bin");
    expect(expect_code(RUN("train", SMALL, "--check-data", "--data", plain), 2)->err, "--data FILE.bin");
    expect(expect_code(RUN("train", SMALL, "--invalid-utf8", "replace", "--data", plain), 2)->err,
           "--invalid-utf8 says what a tokenizer does with a text");
    expect(
        expect_code(RUN("plan", "--invalid-utf8", "drop", "--tokenizer", tokenizer, "--data", plain), 2)->err,
        "--invalid-utf8 must be replace or refuse, not 'drop'");
    expect(expect_code(RUN("train", SMALL, "--resume", folder, "--data", "-"), 2)->err,
           "a pipe cannot be read again");
    expect(expect_code(RUN("train", SMALL, "--data", "-", "--prompt", "-"), 2)->err,
           "both read standard input");
}

static void invalid_utf8(void **state)
{
    (void)state;
    char text[LENGTH], tokenizer[300];
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.json", folder);
    expect_code(RUN("tokenize", "--train", text_path(), "--vocab", "300", "--out", tokenizer), 0);
    memcpy(text, read_text(), LENGTH);
    text[100] = text[200] = (char)0xE9;
    const char *path = make_file("latin1.txt", text, LENGTH);
#define WITH "--tokenizer", tokenizer, "--vocab", "300", "--data", path
    expect(expect_code(RUN("train", SMALL, WITH), 1)->err,
           "latin1.txt is not UTF-8: 2 sequences of bytes are no character, the first at byte 100 (0xE9)");
    Outcome *o = expect_code(RUN("train", SMALL, WITH, "--invalid-utf8", "replace"), 0);
    assert_int_equal(times(o->err, "are replaced by U+FFFD"), 1);
    expect(expect_code(RUN("tokenize", "--tokenizer", tokenizer, path), 1)->err,
           "the first at byte 100 (0xE9)");
    o = expect_code(RUN("tokenize", "--tokenizer", tokenizer, path, "--invalid-utf8=replace"), 0);
    expect(o->err, "are replaced by U+FFFD");
    char out[300];
    snprintf(out, sizeof out, "%s/trained.json", folder);
    expect(expect_code(RUN("tokenize", "--train", path, "--vocab", "300", "--out", out), 1)->err,
           "the first at byte 100");
    expect_code(RUN("tokenize", "--train", path, "--vocab", "300", "--out", out, "--invalid-utf8", "replace"),
                0);
}

static void prompt_from_a_pipe(void **state)
{
    (void)state;
    command_input = make_file("prompt", "The cat\n", 8);
    Outcome *o = expect_code(
        RUN("generate", "--model", "gpt2-tiny", "--threads", "1", "--tokens", "5", "--prompt", "-", "--json"),
        0);
    json_t *root = parse(o->out);
    assert_int_equal(integer_at(root, "prompt_tokens"), 7);
    json_decref(root);
    command_input = make_file("zero", "a\0b", 3);
    expect(expect_code(RUN("generate", "--model", "gpt2-tiny", "--prompt", "-"), 2)->err,
           "--prompt - has a byte 0 at 1");
    command_input = "/dev/null";
}

/* What was read from several files is compared when a run is resumed. */
static void resume_a_folder(void **state)
{
    (void)state;
    char directory[300], run[300];
    snprintf(directory, sizeof directory, "%s/parts", folder);
    snprintf(run, sizeof run, "%s/run", folder);
    assert_int_equal(mkdir(directory, 0777), 0);
    make_file("parts/a.txt", read_text(), LENGTH);
    make_file("parts/b.txt", read_text(), LENGTH);
    expect_code(RUN("train", SMALL, "--data", directory, "--save", run), 0);
    expect_code(RUN("train", SMALL, "--data", directory, "--resume", run), 0);
    char other[LENGTH];
    memcpy(other, read_text(), LENGTH);
    other[77] = '!';
    make_file("parts/b.txt", other, LENGTH);
    expect(expect_code(RUN("train", SMALL, "--data", directory, "--resume", run), 1)->err,
           "parts, the data of the run, has changed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_text_many_ways), cmocka_unit_test(notes_once),
        cmocka_unit_test(ids_beyond),         cmocka_unit_test(options_that_do_nothing_are_refused),
        cmocka_unit_test(invalid_utf8),       cmocka_unit_test(prompt_from_a_pipe),
        cmocka_unit_test(resume_a_folder),
    };
    return cmocka_run_group_tests_name("data by command", tests, make_folder, remove_folder);
}
