/* --data of prompts and completions through the command: told by what is in the file, planned as it runs,
 * resumed, refused where it cannot be learned from. */
#include <zlib.h>

#include "cli_support.h"

#define SMALL "--threads", "1", "--batch", "4", "--seq", "24"

static void expect(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no '%s' in: %s", part, text);
}

static int times(const char *text, const char *part)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, part)); at++)
        count++;
    return count;
}

enum { LINES = 80 };

/* Sums: what stands behind the sign follows from what stands before it. */
static const char *lines_of(int salt)
{
    static char text[LINES * 80 + 1];
    size_t used = 0;
    for (int i = 0; i < LINES; i++)
        used += (size_t)sprintf(text + used, "{\"prompt\": \"%d and %d are \", \"completion\": \"%d%s\"}\n",
                                i % 9, (i + salt) % 7, i % 9 + (i + salt) % 7, i % 4 ? "" : ", really");
    return text;
}

static const char *pairs_path(const char *name, int salt)
{
    return make_file(name, lines_of(salt), strlen(lines_of(salt)));
}

static json_t *trained(Outcome *o)
{
    json_t *root = parse(expect_code(o, 0)->out);
    const json_t *memory = json_object_get(root, "memory");
    check_memory(memory, 1, 1);
    assert_same_memory(memory, json_object_get(memory, "planned"));
    return root;
}

static double loss_of(Outcome *o, const char *key)
{
    json_t *root = trained(o);
    double loss = real_at(root, key);
    json_decref(root);
    return loss;
}

/* What is learned are the completions: the loss falls far below that of guessing, and a plan is its run. */
static void completions_are_learned(void **state)
{
    (void)state;
    char path[200];
    snprintf(path, sizeof path, "%s", pairs_path("sums.jsonl", 1));
    for (int pack = 0; pack < 2; pack++) {
        Outcome *o =
            RUN("train", SMALL, "--steps", "40", "--data", path, "--json", pack ? "--pack" : "--quiet");
        json_t *root = trained(o);
        assert_true(real_at(root, "loss_first") > 4 && real_at(root, "loss_last") < 2.5);
        json_decref(root);
        assert_int_equal(times(o->err, "brim: note: "), 1);
        expect(o->err, "sums.jsonl: 76 samples of 13 to ");
        expect(o->err, pack ? "; a sample sees those before it in its row" : "one a row of 2");
    }
    Outcome *o = expect_code(RUN("train", SMALL, "--steps", "2", "--data", path, "--pack"), 0);
    expect(o->out, "batch 4 x seq 24  packed");
}

/* One file many ways: one loss. */
static void told_by_content(void **state)
{
    (void)state;
    char plain[200], packed[200];
    snprintf(plain, sizeof plain, "%s", pairs_path("no-name", 1));
    snprintf(packed, sizeof packed, "%s", in_folder("sums.gz"));
    double loss = loss_of(RUN("train", SMALL, "--steps", "3", "--json", "--data", plain), "loss_last");
    gzFile gz = gzopen(packed, "wb");
    gzputs(gz, lines_of(1));
    gzclose(gz);
    assert_true(loss_of(RUN("train", SMALL, "--steps", "3", "--json", "--data", packed), "loss_last") ==
                loss);
    command_input = plain;
    assert_true(loss_of(RUN("train", SMALL, "--steps", "3", "--json", "--data", "-"), "loss_last") == loss);
    expect(expect_code(RUN("plan", SMALL, "--max-samples", "1", "--data", "-"), 0)->err,
           "note: standard input: 1 sample of ");
    expect(expect_code(RUN("plan", SMALL, "--batch", "1000", "--data", "-"), 0)->err,
           "note: standard input has ");
    expect(expect_code(RUN("train", SMALL, "--model", "bert-tiny", "--data", "-"), 1)->err,
           "'bert-tiny' finds masked tokens");
    command_input = make_text("text", 4000);
    expect(expect_code(RUN("train", SMALL, "--data", "-", "--pack"), 1)->err,
           "--pack puts samples side by side");
    command_input = "/dev/null";
}

static void planned_and_compared(void **state)
{
    (void)state;
    char path[200];
    snprintf(path, sizeof path, "%s", pairs_path("sums.jsonl", 1));
    json_t *plan = parse(expect_code(RUN("plan", SMALL, "--data", path, "--json"), 0)->out);
    json_t *run = trained(RUN("train", SMALL, "--steps", "4", "--data", path, "--json"));
    assert_true(integer_at(json_object_get(plan, "memory"), "peak_bytes") ==
                integer_at(json_object_get(run, "memory"), "peak_bytes"));
    /* rows are as long as the longest sample, so a larger --seq needs no more */
    json_t *longer =
        parse(expect_code(
                  RUN("plan", "--threads", "1", "--batch", "4", "--seq", "100", "--data", path, "--json"), 0)
                  ->out);
    assert_true(json_equal(json_object_get(longer, "memory"), json_object_get(plan, "memory")));
    json_decref(plan);
    json_decref(run);
    json_decref(longer);
    Outcome *o = expect_code(RUN("compare", SMALL, "--data", path), 0);
    assert_int_equal(times(o->err, "sums.jsonl: 76 samples"), 1);
    o = expect_code(
        RUN("compare", "--threads", "1", "--batch", "2,4", "--seq", "16,24", "--run", "1", "--data", path),
        0);
    expect(o->out, "--batch 4 --seq 24");
    expect_code(RUN("fit", "--threads", "1", "--data", path, "--memory", "200MiB", "--reserve", "1MiB"), 0);
}

/* Tokens of a tokenizer, its end token behind each completion; one that is named beside it. */
static void with_a_tokenizer(void **state)
{
    (void)state;
    char text[200], path[200], tokenizer[200];
    snprintf(text, sizeof text, "%s", make_text("text", 20000));
    snprintf(path, sizeof path, "%s", pairs_path("sums.jsonl", 1));
    mkdir(in_folder("tok"), 0700);
    snprintf(tokenizer, sizeof tokenizer, "%s", in_folder("tok"));
    expect_code(RUN("tokenize", "--train", text, "--vocab", "300", "--out", in_folder("tok/tokenizer.json")),
                0);
#define TRAIN                                                                                                \
    RUN("train", SMALL, "--vocab", "300", "--steps", "3", "--json", "--data", path, "--tokenizer", tokenizer)
    double usual = loss_of(TRAIN, "loss_last");
    static const char same[] = "{\"eos_token\": \"<|endoftext|>\"}", none[] = "{\"eos_token\": null}",
                      bad[] = "{\"eos_token\": \"<end>\"}";
    make_file("tok/tokenizer_config.json", same, sizeof same - 1);
    assert_true(loss_of(TRAIN, "loss_last") == usual);
    make_file("tok/tokenizer_config.json", none, sizeof none - 1);
    assert_true(loss_of(TRAIN, "loss_last") != usual);
    make_file("tok/tokenizer_config.json", bad, sizeof bad - 1);
    expect(expect_code(TRAIN, 1)->err, "eos is \"<end>\", which is no token of the tokenizer");
    unlink(in_folder("tok/tokenizer_config.json"));
    assert_true(loss_of(TRAIN, "loss_last") == usual);
#undef TRAIN
}

static void refused(void **state)
{
    (void)state;
    char path[200], text[200];
    snprintf(path, sizeof path, "%s", pairs_path("sums.jsonl", 1));
    snprintf(text, sizeof text, "%s", make_text("text", 4000));
    expect(
        expect_code(RUN("train", SMALL, "--model", "bert-tiny", "--data", path), 2)->err,
        "whose completions a causal model learns to continue prompts with; 'bert-tiny' finds masked tokens");
    expect(expect_code(RUN("train", SMALL, "--pack"), 2)->err,
           "--pack puts samples side by side: it needs --data FILE.jsonl");
    expect(expect_code(RUN("plan", SMALL, "--pack", "--data", text), 2)->err,
           "rows of a text are full without it");
    expect(expect_code(RUN("plan", "mlp", "--pack"), 2)->err, "rows of images are full without it");
    expect(expect_code(RUN("train", SMALL, "--check-data", "--data", path), 2)->err,
           "JSON lines are looked at whole anyway");
    static const struct {
        const char *line, *says;
    } cases[] = {
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n",
         "bad.jsonl: line 1 has a field \"messages\""},
        {"{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\"}\n",
         "bad.jsonl: line 2 has a \"prompt\""},
        {"{\"prompt\": \"a\", \"completion\": \"b\"}\n", "bad.jsonl has 1 sample"},
        {"{\"ids\": [1, 256]}\n{\"ids\": [1, 2]}\n", "bad.jsonl: line 1 has 256 as ids[1]"},
        {"{\"prompt\": \"0123456789012345678901234567890\", \"completion\": \"b\"}\n{\"ids\": [1, 2]}\n",
         "no sample has a label within --seq 24"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *bad = make_file("bad.jsonl", cases[i].line, strlen(cases[i].line));
        Outcome *o = expect_code(RUN("train", SMALL, "--data", bad), 1);
        expect(o->err, cases[i].says);
        assert_null(strstr(o->out, "step "));
    }
    const char *ids = make_file("ids.jsonl", "{\"ids\": [1, 299]}\n{\"ids\": [1, 2]}\n", 34);
    expect_code(RUN("train", SMALL, "--steps", "1", "--vocab", "300", "--data", ids), 0);
    Outcome *o = expect_code(RUN("compare", "--model", "llama-tiny", "--vocab", "300,299", "--data", ids), 1);
    expect(o->out, "--vocab 299  ");
    expect(o->out, "ids.jsonl: line 1 has 299 as ids[1]");
}

/* To the last bit; on another file, or rows that are made otherwise, not at all. */
static void resumed(void **state)
{
    (void)state;
    char path[200], save[200], gone[220], model[200];
    snprintf(model, sizeof model, "%s", make_model("llama"));
    snprintf(path, sizeof path, "%s", pairs_path("sums.jsonl", 1));
    snprintf(save, sizeof save, "%s", in_folder("save"));
    snprintf(gone, sizeof gone, "rm -rf %s", save);
#define TRAIN(...)                                                                                           \
    RUN("train", SMALL, "--model", model, "--schedule", "constant", "--warmup", "0", "--json", "--data",     \
        path, __VA_ARGS__)
    for (int pack = 0; pack < 2; pack++) {
        const char *how = pack ? "--pack" : "--quiet", *other = pack ? "--quiet" : "--pack";
        double whole = loss_of(TRAIN("--steps", "12", how), "loss_last");
        loss_of(TRAIN("--steps", "5", "--save", save, how), "loss_last");
        assert_true(loss_of(TRAIN("--steps", "12", "--resume", save, how), "loss_last") == whole);
        expect(expect_code(TRAIN("--steps", "12", "--resume", save, other), 1)->err, "pack");
        pairs_path("sums.jsonl", 2);
        expect(expect_code(TRAIN("--steps", "12", "--resume", save, how), 1)->err, "sums.jsonl");
        pairs_path("sums.jsonl", 1);
        assert_int_equal(system(gone), 0);
    }
#undef TRAIN
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(completions_are_learned),
        cmocka_unit_test(told_by_content),
        cmocka_unit_test(planned_and_compared),
        cmocka_unit_test(with_a_tokenizer),
        cmocka_unit_test(refused),
        cmocka_unit_test(resumed),
    };
    return cmocka_run_group_tests_name("pairs", tests, make_folder, remove_folder);
}
