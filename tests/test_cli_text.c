/* The text that brim generate shows: as its tokens come, whole letters alone, and ended where the model's
 * files say. */
#include <math.h>

#include "cli_support.h"

#define SMALL "--model", "gpt2-tiny", "--threads", "1", "--temperature", "2"

static void write_text(const char *name, const char *text)
{
    FILE *f = fopen(in_folder(name), "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void assert_utf8(const char *text)
{
    json_t *string = json_string(text); /* NULL unless it is */
    if (!string)
        fail_msg("not UTF-8: %s", text);
    json_decref(string);
}

/* ---- Streamed -------------------------------------------------------------------------------- */

/* What was shown between the prompt and the line about speed. */
static char *shown_text(Outcome *o, const char *prompt)
{
    char *from = strstr(o->out, prompt), *end = strstr(o->out, "\nprompt: ");
    assert_true(from && end && from < end);
    *end = '\0';
    if (end[-1] == '\n')
        end[-1] = '\0';
    return from + strlen(prompt);
}

/* The same text as in one piece. */
static void check_streamed(const char *tokenizer, const char *vocab, const char *prompt)
{
    char whole[1 << 14];
    Outcome *o = expect_code(RUN("generate", SMALL, "--tokenizer", tokenizer, "--vocab", vocab, "--prompt",
                                 prompt, "--tokens", "300", "--json"),
                             0);
    json_t *root = parse(o->out);
    const json_t *sequence = json_array_get(json_object_get(root, "sequences"), 0);
    assert_string_equal(json_string_value(json_object_get(sequence, "finish_reason")), "length");
    assert_int_equal(json_array_size(json_object_get(sequence, "tokens")), 300);
    snprintf(whole, sizeof whole, "%s", json_string_value(json_object_get(sequence, "text")));
    json_decref(root);
    o = expect_code(RUN("generate", SMALL, "--tokenizer", tokenizer, "--vocab", vocab, "--prompt", prompt,
                        "--tokens", "300"),
                    0);
    assert_utf8(o->out);
    assert_string_equal(shown_text(o, prompt), whole);
    assert_true(strlen(whole) > 300);
}

static void streamed(void **state)
{
    (void)state;
    write_text(
        "text",
        "Œuvre, Größe, naïve, 東京, привет, 🙂🙃 and the river and the road and the mill\n");
    expect_code(RUN("tokenize", "--train", in_folder("text"), "--vocab", "270", "--out", in_folder("t.json")),
                0);
    check_streamed(in_folder("t.json"), "270", "The mill");
}

/* The first word after a prompt keeps the space before it, which the decoder of Llama's takes from a text's
 * beginning; of bytes that are no letter, none is shown before the next token decides. */
static void behind_the_prompt(void **state)
{
    (void)state;
    static const char tokenizer[] =
        "{\"version\": \"1.0\", \"added_tokens\": [], \"normalizer\": {\"type\": \"Sequence\", "
        "\"normalizers\": ["
        "{\"type\": \"Prepend\", \"prepend\": \"\u2581\"}, {\"type\": \"Replace\", \"pattern\": {\"String\": "
        "\" \"}, \"content\": \"\u2581\"}]}, \"pre_tokenizer\": null, \"post_processor\": null, \"decoder\": "
        "{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
        "\"\u2581\"}, "
        "\"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, {\"type\": \"Strip\", "
        "\"content\": \" \", \"start\": 1, \"stop\": 0}]}, \"model\": {\"type\": \"BPE\", \"unk_token\": "
        "\"<unk>\", "
        "\"fuse_unk\": true, \"byte_fallback\": true, \"vocab\": {\"<unk>\": 0, \"\u2581a\": 1, \"\u2581\": "
        "2, "
        "\"a\": 3, \"<0xE6>\": 4, \"<0x9D>\": 5, \"<0xB1>\": 6}, \"merges\": [\"\u2581 a\"]}}";
    write_text("t.json", tokenizer);
    Outcome *o = expect_code(RUN("generate", SMALL, "--tokenizer", in_folder("t.json"), "--vocab", "7",
                                 "--prompt", "a a", "--tokens", "400", "--batch", "12", "--json"),
                             0);
    json_t *root = parse(o->out);
    int spaces = 0, east = 0;
    for (size_t b = 0; b < 12; b++) {
        const json_t *sequence = json_array_get(json_object_get(root, "sequences"), b);
        json_int_t first = json_integer_value(json_array_get(json_object_get(sequence, "tokens"), 0));
        const char *text = json_string_value(json_object_get(sequence, "text"));
        if (first == 1 || first == 2)
            assert_int_equal(text[0], ' ');
        spaces += text[0] == ' ';
        east += strstr(text, "\u6771") != NULL;
    }
    json_decref(root);
    assert_true(spaces + east > 0);
    o = expect_code(RUN("generate", SMALL, "--tokenizer", in_folder("t.json"), "--vocab", "7", "--prompt",
                        "a a", "--tokens", "400"),
                    0);
    assert_utf8(o->out);
}

/* ---- Ends ------------------------------------------------------------------------------------ */

static json_t *first_sequence(Outcome *o, json_t **root)
{
    expect_code(o, 0);
    *root = parse(o->out);
    return json_array_get(json_object_get(*root, "sequences"), 0);
}

#define OF_FOLDER(...)                                                                                       \
    RUN("generate", "--model", folder, "--threads", "1", "--temperature", "2", "--tokens", "40", "--json",   \
        __VA_ARGS__)

static void ends(void **state)
{
    (void)state;
    static const char config[] =
        "{\"model_type\": \"gpt2\", \"vocab_size\": 40, \"n_embd\": 16, \"n_layer\": 1, "
        "\"n_head\": 2, \"n_positions\": 64%s}";
    char text[256];
    json_t *root;
    snprintf(text, sizeof text, config, "");
    write_text("config.json", text);
    json_t *whole = first_sequence(OF_FOLDER("--prompt", "!!"), &root);
    json_int_t third = json_integer_value(json_array_get(json_object_get(whole, "tokens"), 2));
    size_t at = 0;
    while (json_integer_value(json_array_get(json_object_get(whole, "tokens"), at)) != third)
        at++;
    assert_int_equal(json_array_size(json_object_get(whole, "tokens")), 40);
    json_decref(root);

    snprintf(text, sizeof text, ", \"eos_token_id\": %d", (int)third);
    char with[400];
    snprintf(with, sizeof with, config, text);
    write_text("config.json", with);
    json_t *ended = first_sequence(OF_FOLDER("--prompt", "!!"), &root);
    assert_int_equal(json_array_size(json_object_get(ended, "tokens")), at + 1);
    assert_string_equal(json_string_value(json_object_get(ended, "finish_reason")), "stop");
    json_decref(root);
    ended = first_sequence(OF_FOLDER("--prompt", "!!", "--ignore-eos"), &root);
    assert_int_equal(json_array_size(json_object_get(ended, "tokens")), 40);
    assert_string_equal(json_string_value(json_object_get(ended, "finish_reason")), "length");
    json_decref(root);

    /* generation_config.json goes first; a list; what says nothing is passed over. */
    write_text("generation_config.json", "{\"eos_token_id\": [39999, -1]}");
    ended = first_sequence(OF_FOLDER("--prompt", "!!"), &root);
    assert_int_equal(json_array_size(json_object_get(ended, "tokens")), 40);
    json_decref(root);
    write_text("generation_config.json", "{\"eos_token_id\": null, \"temperature\": 1}");
    ended = first_sequence(OF_FOLDER("--prompt", "!!"), &root);
    assert_int_equal(json_array_size(json_object_get(ended, "tokens")), at + 1);
    json_decref(root);

    /* The token that ends the text is not shown. */
    Outcome *o = expect_code(RUN("generate", "--model", folder, "--threads", "1", "--temperature", "2",
                                 "--tokens", "40", "--prompt", "!!"),
                             0);
    assert_non_null(strstr(o->out, "written: "));

    static const char *const bad[] = {"{\"eos_token_id\": \"</s>\"}", "{\"eos_token_id\": [1, 2.5]}",
                                      "{\"eos_token_id\": 99999999999}", "[1]", "{"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        write_text("generation_config.json", bad[i]);
        o = expect_code(RUN("generate", "--model", folder, "--prompt", "!", "--tokens", "3"), 1);
        assert_non_null(strstr(o->err, "generation_config.json"));
        assert_string_equal(o->out, "");
        expect_code(
            RUN("generate", "--model", folder, "--prompt", "!", "--tokens", "3", "--ignore-eos", "--json"),
            0);
    }
}

/* ---- Weights that are no numbers ------------------------------------------------------------- */

static void no_numbers(void **state)
{
    (void)state;
    expect_code(RUN("train", "--model", "gpt2-tiny", "--threads", "1", "--steps", "1", "--batch", "1",
                    "--seq", "8", "--quiet", "--export", in_folder("out")),
                0);
    FILE *f = fopen(in_folder("out/model.safetensors"), "r+b");
    assert_non_null(f);
    float nan = NAN;
    fseek(f, -400, SEEK_END);
    for (int i = 0; i < 100; i++)
        fwrite(&nan, sizeof nan, 1, f);
    fclose(f);
    Outcome *o = expect_code(RUN("generate", "--init", in_folder("out"), "--tokens", "3"), 1);
    assert_non_null(strstr(o->err, "logit "));
    assert_non_null(strstr(o->err, "nan"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {TEST(streamed), TEST(behind_the_prompt), TEST(ends), TEST(no_numbers)};
    return cmocka_run_group_tests_name("cli text", tests, NULL, NULL);
}
