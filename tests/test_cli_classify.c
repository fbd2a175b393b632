/* --data of texts and labels through the command: a family that classifies texts becomes a classifier of the
 * labels there are, is planned as it runs, exported, read again, adapted, resumed, and refused where it
 * cannot be. */
#include "cli_support.h"

#define SMALL "--threads", "1", "--batch", "4", "--seq", "24"

static void expect(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no '%s' in: %s", part, text);
}

static char model[200], table[200], pairs[200];

/* What is good says so. */
static int make_all(void **state)
{
    static char text[8192];
    if (make_folder(state))
        return -1;
    size_t used = (size_t)sprintf(text, "text,label\n");
    for (int i = 0; i < 80; i++)
        used += (size_t)sprintf(text + used, "\"%s, %d\",%s\n", hash32((uint32_t)i) % 2 ? "ooo" : "xxxx",
                                i % 7, hash32((uint32_t)i) % 2 ? "good" : "bad");
    snprintf(table, sizeof table, "%s", make_file("labels.csv", text, used));
    used = (size_t)sprintf(text, "label\tsentence1\tsentence2\n");
    for (int i = 0; i < 60; i++)
        used += (size_t)sprintf(text + used, "%d\t%d\t%d and more\n", i % 3, i % 10, i % 3);
    snprintf(pairs, sizeof pairs, "%s", make_file("pairs.tsv", text, used));
    snprintf(model, sizeof model, "%s", make_model("bert"));
    return 0;
}

static json_t *trained(Outcome *o)
{
    json_t *root = parse(expect_code(o, 0)->out);
    const json_t *memory = json_object_get(root, "memory");
    check_memory(memory, 1, 1);
    assert_same_memory(memory, json_object_get(memory, "planned"));
    return root;
}

static double loss_of(Outcome *o)
{
    json_t *root = trained(o);
    double loss = real_at(root, "loss_last");
    json_decref(root);
    return loss;
}

/* It learns, a plan is its run, and the accuracy is of the rows that are held out. */
static void labels_are_learned(void **state)
{
    (void)state;
    Outcome *o =
        RUN("train", SMALL, "--model", model, "--data", table, "--epochs", "4", "--lr", "1e-3", "--json");
    json_t *root = trained(o);
    const json_t *validation = json_object_get(root, "validation");
    assert_true(real_at(root, "loss_last") < 0.4);
    assert_int_equal(integer_at(validation, "samples"), 4);
    assert_true(real_at(validation, "accuracy") == 1);
    json_decref(root);
    expect(o->err, "labels.csv: 76 samples of 8 to 9 tokens and 2 classes; ");
    o = RUN("train", SMALL, "--model", model, "--data", pairs, "--steps", "3", "--json", "--checkpoint",
            "blocks", "--accumulate", "2");
    json_decref(trained(o));
    o = expect_code(RUN("train", SMALL, "--model", model, "--data", table, "--steps", "1"), 0);
    expect(o->out, "accuracy ");
}

static int64_t parameters_of(Outcome *o)
{
    json_t *root = parse(expect_code(o, 0)->out);
    int64_t count = integer_at(root, "parameters");
    json_decref(root);
    return count;
}

/* The number of classes is of the data; without data, of the config.json. */
static void planned(void **state)
{
    (void)state;
    int64_t two = parameters_of(RUN("plan", SMALL, "--model", model, "--data", table, "--json"));
    int64_t three = parameters_of(RUN("plan", SMALL, "--model", model, "--data", pairs, "--json"));
    assert_int_equal(three - two, 96 + 1);
    const char *text =
        "{\"model_type\": \"bert\", \"vocab_size\": 260, \"hidden_size\": 96, \"num_hidden_layers\": 2,"
        "\"num_attention_heads\": 4, \"max_position_embeddings\": 256, \"intermediate_size\": 256,"
        "\"architectures\": [\"BertForSequenceClassification\"], \"id2label\": {\"0\": \"a\", \"1\": "
        "\"b\", \"2\": \"c\"}}";
    char classifier[200];
    snprintf(classifier, sizeof classifier, "%s", make_file("classifier.json", text, strlen(text)));
    assert_int_equal(parameters_of(RUN("plan", SMALL, "--model", classifier, "--json")), three);
    expect_code(RUN("fit", SMALL, "--model", classifier, "--card", "T4"), 0);
    Outcome *o = expect_code(RUN("compare", "--threads", "1", "--seq", "16", "--model", model, "--data",
                                 table, "--batch", "2,4", "--optimizer", "sgd,adamw"),
                             0);
    assert_null(strstr(o->out, "loss in chunks"));
    o = expect_code(RUN("train", SMALL, "--model", classifier), 2);
    expect(o->err, "is a classifier of 3 classes, which learns from texts with labels: --data labels.csv");
    o = expect_code(RUN("plan", SMALL, "--model", classifier, "--data", table), 2);
    expect(o->err, "has the label \"bad\", and the model has 3 classes, \"a\", \"b\", \"c\"");
    char text_file[200];
    snprintf(text_file, sizeof text_file, "%s", make_text("some.txt", 4000));
    o = expect_code(RUN("plan", SMALL, "--model", classifier, "--data", text_file), 2);
    expect(o->err, "learns from texts with labels");
}

/* The names of labels are written, and known when the model is read again. */
static void exported(void **state)
{
    (void)state;
    char out[200], config[256], again[200];
    snprintf(out, sizeof out, "%s", in_folder("out"));
    snprintf(again, sizeof again, "%s", in_folder("again"));
    expect_code(
        RUN("train", SMALL, "--model", model, "--data", table, "--steps", "2", "--export", out, "--quiet"),
        0);
    snprintf(config, sizeof config, "%s/config.json", out);
    json_t *root = json_load_file(config, 0, NULL);
    assert_string_equal(json_string_value(json_array_get(json_object_get(root, "architectures"), 0)),
                        "BertForSequenceClassification");
    assert_string_equal(json_string_value(json_object_get(root, "problem_type")),
                        "single_label_classification");
    assert_string_equal(json_string_value(json_object_get(json_object_get(root, "id2label"), "0")), "bad");
    assert_int_equal(integer_at(json_object_get(root, "label2id"), "good"), 1);
    json_decref(root);
    expect_code(
        RUN("train", SMALL, "--init", out, "--data", table, "--steps", "1", "--export", again, "--quiet"), 0);
    Outcome *o = expect_code(RUN("train", SMALL, "--init", out, "--data", pairs, "--steps", "1"), 2);
    expect(o->err, "line 4 has the label \"2\", and the model has 2 classes, \"bad\", \"good\"");
    /* The body of a masked model, and a classifier that is new. */
    char masked[200], text_file[200];
    snprintf(masked, sizeof masked, "%s", in_folder("masked"));
    snprintf(text_file, sizeof text_file, "%s", make_text("corpus.txt", 4000));
    expect_code(RUN("train", SMALL, "--model", model, "--data", text_file, "--steps", "1", "--export", masked,
                    "--quiet"),
                0);
    o = expect_code(RUN("train", SMALL, "--init", masked, "--data", table, "--steps", "1", "--quiet"), 0);
    expect(o->err, "The classifier is new and has yet to learn");
    expect(o->err, "classifier.weight");
}

/* Adapters leave the classes trained, and are written for PEFT with them. */
static void adapted(void **state)
{
    (void)state;
    char adapter[200], config[256];
    snprintf(adapter, sizeof adapter, "%s", in_folder("adapter"));
    Outcome *o = RUN("train", SMALL, "--model", model, "--data", table, "--steps", "2", "--lora", "r=2",
                     "--weights", "bf16", "--export-adapter", adapter, "--json");
    json_t *root = trained(o);
    /* of two layers: q, k, v, o; up and down; the pooler; and the classes themselves */
    int64_t lora = 2 * (2 * (4 * (96 + 96) + 2 * (96 + 256))) + 2 * (96 + 96);
    assert_int_equal(integer_at(json_object_get(json_object_get(root, "bracket"), "trained"), "parameters"),
                     lora + 2 * 96 + 2);
    json_decref(root);
    snprintf(config, sizeof config, "%s/adapter_config.json", adapter);
    root = json_load_file(config, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(root, "task_type")), "SEQ_CLS");
    assert_int_equal(json_array_size(json_object_get(root, "modules_to_save")), 2);
    json_decref(root);
    expect_code(RUN("train", SMALL, "--model", model, "--data", table, "--steps", "1", "--adapter", adapter,
                    "--quiet"),
                0);
}

/* What was saved goes on as it would have gone on. */
static void resumed(void **state)
{
    (void)state;
#define LONG                                                                                                 \
    "train", SMALL, "--model", model, "--data", table, "--schedule", "constant", "--warmup", "0", "--quiet"
    char saved[200];
    snprintf(saved, sizeof saved, "%s", in_folder("saved"));
    double loss = loss_of(RUN(LONG, "--steps", "6", "--json"));
    expect_code(RUN(LONG, "--steps", "3", "--save", saved), 0);
    assert_true(loss_of(RUN(LONG, "--steps", "6", "--resume", saved, "--json")) == loss);
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *flag, *value, *says;
    } cases[] = {
        {"--pack", NULL, "--pack puts samples side by side, and a classifier has one label a row"},
        {"--loss-chunk", "8", "--loss-chunk is about the logits of a vocabulary; "},
        {"--skip-unlabelled", NULL, "each row has a label"},
        {"--sample", "4", "--sample needs a causal language model"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Outcome *o = cases[i].value ? RUN("plan", SMALL, "--model", model, "--data", table, cases[i].flag,
                                          cases[i].value)
                                    : RUN("plan", SMALL, "--model", model, "--data", table, cases[i].flag);
        expect(expect_code(o, 2)->err, cases[i].says);
    }
    Outcome *o = expect_code(
        RUN("plan", SMALL, "--model", model, "--data", make_file("bad.csv", "text,stars\na,1\n", 15)), 2);
    expect(o->err, "bad.csv: line 1 names the columns \"text\", \"stars\"; label must be among them");
    o = expect_code(RUN("plan", SMALL, "--model", "bert-tiny", "--data", in_folder("absent.csv")), 2);
    expect(o->err, "absent.csv");
    char both[420];
    snprintf(both, sizeof both, "%s,%s", table, pairs);
    o = expect_code(RUN("plan", SMALL, "--model", model, "--data", both), 2);
    expect(o->err, "of tables one is read");
    /* What continues texts reads a table as a text, as ever. */
    o = expect_code(RUN("plan", SMALL, "--model", "llama-tiny", "--data", table), 0);
    expect(o->err, "labels.csv is ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_are_learned),
        cmocka_unit_test(planned),
        cmocka_unit_test(exported),
        cmocka_unit_test(adapted),
        cmocka_unit_test(resumed),
        cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests_name("cli_classify", tests, make_all, remove_folder);
}
