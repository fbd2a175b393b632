/* `brim train --init … --export …`: weights out of one run and into another, planned as without, and what is
 * said when it cannot be. */
#include "cli_support.h"

#define SMALL "--threads", "1", "--data", make_text("small", 40 * 16 + 1), "--batch", "2", "--seq", "16"

static json_t *trained(Outcome *o)
{
    json_t *root = parse(expect_code(o, 0)->out);
    const json_t *memory = json_object_get(root, "memory");
    assert_same_memory(memory, json_object_get(memory, "planned"));
    return root;
}

/* What is exported is where the next run begins: its first loss is below any of an untrained model. */
static void out_and_in(void **state)
{
    (void)state;
    static const char *const models[] = {"llama-tiny", "gpt2-tiny", "bert-tiny"};
    for (size_t i = 0; i < COUNT(models); i++) {
        char out[192];
        strcpy(out, in_folder(models[i]));
        json_t *root =
            trained(RUN("train", "--json", SMALL, "--model", models[i], "--steps", "30", "--export", out));
        double validation = real_at(json_object_get(root, "validation"), "loss");
        json_decref(root);
        /* The model from the directory; a learning rate of 0 changes nothing. */
        root = trained(RUN("train", "--json", SMALL, "--init", out, "--steps", "1", "--lr", "0"));
        assert_string_equal(json_string_value(json_object_get(root, "model")), models[i]);
        assert_float_equal(real_at(json_object_get(root, "validation"), "loss"), validation, 1e-6);
        json_decref(root);
    }
}

static void dtypes(void **state)
{
    (void)state;
    char out[192];
    strcpy(out, in_folder("half"));
    struct stat status;
    Outcome *o = RUN("train", SMALL, "--steps", "1", "--quiet", "--export", out, "--export-dtype", "bf16");
    expect_code(o, 0);
    assert_non_null(strstr(o->out, "The weights are in "));
    assert_non_null(strstr(o->out, "half, as bf16."));
    assert_int_equal(stat(in_folder("half/model.safetensors"), &status), 0);
    assert_true(status.st_size > 2 * 6100000 && status.st_size < 2 * 6200000);
    expect_code(RUN("train", SMALL, "--steps", "1", "--model", "llama-tiny", "--init",
                    in_folder("half/model.safetensors")),
                0);
    expect_code(RUN("plan", "--init", out), 0);
}

static int64_t int_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

/* A directory with the name of a known model is what --init means; so is that of the file it names. */
static void a_path_is_a_path(void **state)
{
    (void)state;
    char here[4096], small[192], absolute[4200];
    const char *given = getenv("BRIM_COMMAND"), *command = given ? given : "build/brim";
    strcpy(small, make_text("small", 40 * 16 + 1));
    assert_non_null(getcwd(here, sizeof here)); /* the command runs from the folder */
    snprintf(absolute, sizeof absolute, "%s/%s", command[0] == '/' ? "" : here, command);
    command = strdup(command);
    setenv("BRIM_COMMAND", absolute, 1);
    assert_int_equal(chdir(folder), 0);
    expect_code(RUN("train", "--data", small, "--model", "gpt2-tiny", "--vocab", "300", "--seq", "16",
                    "--batch", "2", "--steps", "1", "--quiet", "--export", "gpt2"),
                0);
    json_t *directory = parse(expect_code(RUN("plan", "--json", "--init", "gpt2"), 0)->out),
           *file = parse(expect_code(RUN("plan", "--json", "--init", "gpt2/model.safetensors"), 0)->out);
    assert_true(json_equal(directory, file));
    assert_true(int_of(directory, "parameters") < 10000000);
    json_decref(directory);
    json_decref(file);
    assert_int_equal(chdir(here), 0);
    setenv("BRIM_COMMAND", command, 1);
    free((char *)command);
}

static void refused(Outcome *o, int code, const char *word, const char *other)
{
    expect_code(o, code);
    if (!strstr(o->err, word) || !strstr(o->err, other))
        fail_msg("'%s' and '%s' are not in: %s", word, other, o->err);
}

/* The tokens of a model are those of the tokenizer beside it, and are exported with it. */
static void tokens_come_along(void **state)
{
    (void)state;
    char out[192], json[192], text[192], other[192];
    strcpy(out, in_folder("m"));
    strcpy(other, in_folder("other"));
    strcpy(json, in_folder("t.json"));
    strcpy(text, make_file("text", "", 0));
    FILE *f = fopen(text, "w");
    for (int i = 0; i < 300; i++)
        fputs("the river and the road and the mill, 12 geese\n", f);
    fclose(f);
#define FEW "--seq", "16", "--batch", "2", "--steps", "1", "--threads", "1", "--quiet"
    expect_code(RUN("tokenize", "--train", text, "--vocab", "280", "--out", json), 0);
    Outcome *o = expect_code(
        RUN("train", FEW, "--data", text, "--vocab", "300", "--tokenizer", json, "--export", out), 0);
    assert_non_null(strstr(o->out, "\ntokens: "));
    assert_int_equal(access(in_folder("m/tokenizer.json"), F_OK), 0);
    assert_int_equal(access(in_folder("m/tokenizer_config.json"), F_OK), 0);
    o = expect_code(RUN("train", FEW, "--data", text, "--init", out, "--export", other), 0);
    assert_non_null(strstr(o->out, "m; tokens: "));
    assert_non_null(strstr(o->out, "m/tokenizer.json\n"));
    assert_int_equal(access(in_folder("other/tokenizer.json"), F_OK), 0);
    o = expect_code(RUN("train", FEW, "--data", text, "--init", out, "--tokenizer", "bytes"), 0);
    assert_non_null(strstr(o->out, "m; tokens: bytes\n"));
    o = expect_code(RUN("train", FEW, "--init", out), 0);
    assert_non_null(strstr(o->out, "m; tokens: bytes ("));
    o = expect_code(RUN("generate", "--init", out, "--tokens", "3", "--prompt", "the river", "--json"), 0);
    json_t *root = parse(o->out);
    assert_true(int_of(root, "prompt_tokens") < 9);
    json_decref(root);
    o = expect_code(RUN("generate", "--init", out, "--tokens", "3", "--prompt", "the river", "--json",
                        "--tokenizer", "bytes"),
                    0);
    root = parse(o->out);
    assert_int_equal(int_of(root, "prompt_tokens"), 9);
    json_decref(root);
}

/* A tokenizer with one token more than the model: the advice that is printed works, tied head or not, planned
 * as it runs, and what is exported is read again. */
static void embeddings_grow(void **state)
{
    (void)state;
    static const char *const models[] = {"llama-tiny", "gpt2-tiny"};
    char small[192], out[192], big[200], json[192], text[192];
    strcpy(text, make_file("text", "", 0));
    strcpy(json, in_folder("t.json"));
    FILE *f = fopen(text, "w");
    for (int i = 0; i < 300; i++)
        fputs("the river and the road and the mill, 12 geese\n", f);
    fclose(f);
    strcpy(small, make_text("small", 40 * 16 + 1));
    expect_code(RUN("tokenize", "--train", text, "--vocab", "270", "--out", json), 0);
    for (size_t i = 0; i < COUNT(models); i++) {
        strcpy(out, in_folder(models[i]));
        snprintf(big, sizeof big, "%s-big", out);
        expect_code(RUN("train", FEW, "--data", small, "--model", models[i], "--export", out), 0);
        Outcome *o = RUN("train", FEW, "--init", out, "--data", text, "--tokenizer", json);
        assert_non_null(strstr(expect_code(o, 1)->err, " has 270 tokens, the model "));
        assert_non_null(strstr(o->err, "add --resize-vocab auto"));
        o = RUN("train", "--json", FEW, "--init", out, "--data", text, "--tokenizer", json, "--resize-vocab",
                "auto", "--export", big);
        json_decref(trained(o));
        assert_non_null(strstr(o->err, "brim: note: "));
        assert_non_null(strstr(o->err, " to 270 tokens"));
        json_t *plans[2]; /* it is a model of that size */
        for (int k = 0; k < 2; k++)
            plans[k] = parse(expect_code(k ? RUN("plan", "--json", "--init", out, "--resize-vocab", "270")
                                           : RUN("plan", "--json", "--init", big),
                                         0)
                                 ->out);
        assert_int_equal(int_of(plans[0], "parameters"), int_of(plans[1], "parameters"));
        assert_true(json_equal(json_object_get(plans[0], "memory"), json_object_get(plans[1], "memory")));
        json_decref(plans[0]);
        json_decref(plans[1]);
        json_decref(trained(RUN("train", "--json", FEW, "--init", big, "--data", text)));
    }
    refused(RUN("plan", "--resize-vocab", "300"), 2, "--resize-vocab needs --init PATH", "");
    refused(RUN("plan", "--init", out, "--resize-vocab", "9"), 2,
            "--resize-vocab 9 is less than the 256 tokens", "do not shrink");
    refused(RUN("plan", "--init", out, "--resize-vocab", "9x"), 2, "--resize-vocab must be", "9x");
    refused(RUN("plan", "--init", out, "--resize-vocab", "auto"), 2, "name one with --tokenizer", "");
    refused(RUN("plan", "--init", out, "--resize-vocab", "300", "--vocab", "300"), 2, "--resize-vocab", "");
    refused(RUN("plan", "--init", out, "--vocab", "300"), 2, "--vocab 300 is not the 256 tokens",
            "--resize-vocab grows");
}

/* The same weights in one file and in several: where they are read, nothing tells. */
static void shards(void **state)
{
    (void)state;
    double loss[2];
    char out[192];
    strcpy(out, in_folder("s"));
    for (int i = 0; i < 2; i++) {
        expect_code(
            i ? RUN("train", SMALL, "--steps", "2", "--quiet", "--export", out, "--export-shard", "2MB")
              : RUN("train", SMALL, "--steps", "2", "--quiet", "--export", out),
            0);
        assert_int_equal(access(in_folder("s/model.safetensors"), F_OK) == 0, !i);
        assert_int_equal(access(in_folder("s/model.safetensors.index.json"), F_OK) == 0, i);
        json_t *root = trained(RUN("train", "--json", SMALL, "--init", out, "--steps", "1", "--lr", "0"));
        loss[i] = real_at(json_object_get(root, "validation"), "loss");
        json_decref(root);
    }
    assert_true(loss[0] == loss[1]);
}

/* Names are bytes, JSON is UTF-8: what is said is still JSON. */
static void a_name_that_is_no_text(void **state)
{
    (void)state;
    char out[192], log[192], save[192];
    strcpy(out, in_folder("m\xff"));
    strcpy(log, in_folder("log\xff.jsonl"));
    strcpy(save, in_folder("save\xff"));
    expect_code(RUN("train", SMALL, "--steps", "1", "--quiet", "--export", out), 0);
    json_t *root = parse(
        expect_code(
            RUN("train", SMALL, "--steps", "1", "--json", "--init", out, "--log", log, "--save", save), 0)
            ->out);
    assert_string_equal(json_string_value(json_object_get(root, "model")), "m?");
    json_decref(root);
    Outcome *o = expect_code(RUN("report", log), 0);
    assert_non_null(strstr(o->out, "m?  6,123,168 parameters"));
    expect_code(
        RUN("train", SMALL, "--steps", "2", "--quiet", "--init", out, "--save", save, "--resume", save), 0);
}

/* Nothing is printed into the files that would have the numbers of closed streams. */
static void closed_streams(void **state)
{
    (void)state;
    char command[1200], log[192], out[192], small[192];
    strcpy(log, in_folder("log.jsonl"));
    strcpy(out, in_folder("out"));
    strcpy(small, make_text("small", 40 * 16 + 1));
    snprintf(command, sizeof command,
             "%s train --threads 1 --data %s --batch 2 --seq 16 --steps 2 --log %s --export %s >&- 2>&-",
             command_path(), small, log, out);
    assert_int_equal(system(command), 0);
    Outcome *o = expect_code(RUN("report", log), 0);
    assert_string_equal(o->err, "");
    assert_non_null(strstr(o->out, "2 steps"));
    FILE *file = fopen(log, "r");
    for (int c = '\n', line_begins = 1; (c = getc(file)) != EOF; line_begins = c == '\n')
        assert_true(!line_begins || c == '{');
    fclose(file);
    expect_code(RUN("plan", "--init", out), 0);
}

/* Another model or the source is not destroyed; what is refused, for whatever reason, leaves no directory. */
static void where_it_goes(void **state)
{
    (void)state;
    char gpt2[192], out[192], save[192], file[256];
    strcpy(gpt2, in_folder("g"));
    strcpy(out, in_folder("out"));
    strcpy(save, in_folder("save"));
    snprintf(file, sizeof file, "%s/config.json", gpt2);
    expect_code(RUN("train", SMALL, "--steps", "1", "--quiet", "--model", "gpt2-tiny", "--export", gpt2), 0);
    expect_code(RUN("train", SMALL, "--steps", "1", "--quiet", "--model", "gpt2-tiny", "--export", gpt2), 0);
    refused(RUN("train", SMALL, "--steps", "1", "--export", gpt2), 1, "holds another model", "--overwrite");
    refused(RUN("train", SMALL, "--steps", "1", "--init", gpt2, "--export", gpt2), 2,
            "is where the model is read from", "another directory");
    refused(RUN("train", SMALL, "--steps", "1", "--model", file, "--export", gpt2, "--overwrite"), 2,
            "is where the model is read from", "");
    refused(RUN("train", SMALL, "--overwrite"), 2, "--overwrite needs --export DIR", "");
    refused(RUN("train", SMALL, "--budget", "1MiB", "--export", out, "--save", save), 1, "budget", "");
    refused(RUN("train", SMALL, "--model", "bert-tiny", "--init", gpt2, "--export", out), 1, "missing", "");
    assert_int_equal(access(out, F_OK), -1);
    assert_int_equal(access(save, F_OK), -1);
    assert_int_equal(mkdir(out, 0777), 0); /* one that was there stays */
    refused(RUN("train", SMALL, "--budget", "1MiB", "--export", out), 1, "budget", "");
    assert_int_equal(access(out, F_OK), 0);
    snprintf(file, sizeof file, "%s/vocab.txt", gpt2);
    FILE *f = fopen(file, "w");
    fputs("[PAD]\n", f);
    fclose(f);
    refused(RUN("train", SMALL, "--steps", "1", "--model", "gpt2-tiny", "--export", gpt2), 1,
            "holds another tokenizer (vocab.txt)", "");
    expect_code(RUN("train", SMALL, "--steps", "1", "--quiet", "--export", gpt2, "--overwrite"), 0);
    assert_int_equal(access(file, F_OK), -1);
    expect_code(RUN("train", SMALL, "--steps", "1", "--quiet", "--init", gpt2), 0);
}

/* A model whose tokenizer is in another form is not trained on bytes without a word. */
static void tokenizer_in_another_form(void **state)
{
    (void)state;
    char out[192], text[192], file[256];
    strcpy(out, in_folder("m"));
    strcpy(text, make_text("small", 40 * 16 + 1));
    expect_code(RUN("train", FEW, "--data", text, "--model", "gpt2-tiny", "--export", out), 0);
    snprintf(file, sizeof file, "%s/vocab.txt", out);
    FILE *f = fopen(file, "w");
    fputs("[PAD]\n", f);
    fclose(f);
    refused(RUN("train", FEW, "--data", text, "--init", out), 2,
            "has its tokenizer in another form (vocab.txt)", "--tokenizer bytes");
    refused(RUN("generate", "--init", out, "--tokens", "2"), 2, "in another form (vocab.txt)",
            "AutoTokenizer");
    refused(RUN("train", FEW, "--data", text, "--init", out, "--tokenizer", file), 1,
            "in another form (WordPiece)", "");
    refused(RUN("train", FEW, "--data", text, "--init", out, "--tokenizer", out), 1,
            "in another form (vocab.txt", "AutoTokenizer");
    expect_code(RUN("train", FEW, "--data", text, "--init", out, "--tokenizer", "bytes"), 0);
    expect_code(RUN("train", FEW, "--init", out), 0); /* the built-in text is bytes */
    expect_code(RUN("plan", "--init", out), 0);
}

/* Hugging Face's cache is followed, by every option that reads a directory. */
static void from_a_cache(void **state)
{
    (void)state;
    char cache[192], command[1024], text[192];
    strcpy(cache, in_folder("models--org--mine"));
    strcpy(text, make_text("small", 40 * 16 + 1));
    snprintf(command, sizeof command, "mkdir -p %s/refs %s/snapshots && printf abc > %s/refs/main", cache,
             cache, cache);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof command, "%s/snapshots/abc", cache);
    expect_code(
        RUN("train", FEW, "--data", text, "--model", "gpt2-tiny", "--vocab", "300", "--export", command), 0);
    static const char *const options[] = {"--init", "--model"};
    for (int i = 0; i < 2; i++) {
        json_t *root = parse(expect_code(RUN("plan", "--json", options[i], cache), 0)->out);
        assert_string_equal(json_string_value(json_object_get(root, "model")), "mine");
        assert_true(int_of(root, "parameters") < 10000000);
        json_decref(root);
    }
    expect_code(RUN("generate", "--init", cache, "--tokens", "2"), 0);
    json_decref(trained(RUN("train", "--json", FEW, "--data", text, "--init", cache)));
    refused(RUN("train", FEW, "--init", cache, "--export", command), 2, "is where the model is read from",
            "");
    refused(RUN("plan", "--init", folder), 1, "is Hugging Face's cache of several models", "");
    refused(RUN("plan", "--init", text), 1, "is not a safetensors file: it is a text", "");
}

static void refusals(void **state)
{
    (void)state;
    char out[192], taken[192]; /* in_folder keeps four */
    strcpy(out, in_folder("m"));
    strcpy(taken, make_file("taken", "x", 1));
    expect_code(RUN("train", SMALL, "--steps", "1", "--quiet", "--export", out), 0);
    refused(RUN("train", SMALL, "--steps", "1", "--init", out, "--model", "gpt2-tiny"), 1,
            "75 parameters are missing: transformer.wpe.weight", "56 tensors are not the model's");
    refused(RUN("plan", "--init", in_folder("none")), 2, "none: cannot open", "No such file");
    refused(RUN("plan", "--init", ""), 2, "--init needs a value: PATH", "");
    refused(RUN("train", "--data", taken, "--log", taken), 2, "written over what is read", "taken");
    refused(RUN("train", "--save", ""), 2, "--save needs a value: DIR", "");
    refused(RUN("train", "--export-dtype", "f16"), 2, "--export-dtype needs --export DIR", "");
    refused(RUN("train", SMALL, "--steps", "1", "--export", taken), 1, "taken is not a directory", "");
    refused(RUN("train", SMALL, "--steps", "1", "--export", in_folder("a/b")), 1, "cannot make the directory",
            "");
    refused(RUN("train", SMALL, "--export-dtype", "f64"), 2, "--export-dtype must be one of fp32, fp16, bf16",
            "f64");
    refused(RUN("train", SMALL, "--steps", "1", "--export", out, "--export-shard", "2Qb"), 2,
            "--export-shard must be a size like", "2Qb");
    refused(RUN("train", SMALL, "--init-partial"), 2, "--init-partial needs --init PATH", "");
    refused(RUN("plan", "--export", "x"), 2, "--export belongs to `brim train`", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(out_and_in, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_path_is_a_path, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(tokens_come_along, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_name_that_is_no_text, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(embeddings_grow, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(where_it_goes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(tokenizer_in_another_form, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(from_a_cache, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(closed_streams, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(dtypes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(shards, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(refusals, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
