/* The levers as a user types them: what excludes what, the search under a budget, comparisons over lists,
 * cards, and the tables of plan. */
#include "../kernels/kernels.h"
#include "cli_support.h"

static json_t *json_of(Outcome *outcome, int code)
{
    json_error_t error;
    json_t *root = json_loads(expect_code(outcome, code)->out, 0, &error);
    if (!root)
        fail_msg("line %d: %s", error.line, error.text);
    return root;
}

static json_int_t needs_in(const json_t *object)
{
    return integer_at(json_object_get(object, "memory"), "needs_bytes");
}

static void says(const Outcome *outcome, const char *text)
{
    if (!strstr(outcome->err, text))
        fail_msg("no \"%s\" in: %s", text, outcome->err);
}

static void levers_that_exclude_each_other(void **state)
{
    (void)state;
    says(expect_code(RUN("plan", "--optimizer-in-backward", "--accumulate", "2"), 2), "--accumulate 2");
    says(expect_code(RUN("plan", "--optimizer-in-backward", "--clip", "1"), 2), "--clip");
    says(expect_code(RUN("plan", "--optimizer-in-backward", "--zero-grad", "keep"), 2), "--zero-grad keep");
    says(expect_code(RUN("plan", "--checkpoint", "auto"), 2), "--budget SIZE");
    says(expect_code(RUN("plan", "--checkpoint", "selective+auto"), 2), "selective+blocks");
    says(expect_code(RUN("plan", "--checkpoint", "0"), 2), "'0'");
    says(expect_code(RUN("plan", "--checkpoint", "cc"), 1), "6 blocks");
    says(expect_code(RUN("plan", "--checkpoint", ".+...."), 1), "'+'");
    says(expect_code(RUN("plan", "--model", "mlp", "--loss-chunk", "4"), 2), "10 classes");
    says(expect_code(RUN("plan", "--model", "mlp", "--skip-unlabelled"), 2), "each of its rows has a label");
    says(expect_code(RUN("train", "--run", "3"), 2), "brim compare");
    says(expect_code(RUN("plan", "--card", "t4"), 2), "brim fit");
    says(expect_code(RUN("fit", "--checkpoint", "auto", "--budget", "1GiB"), 2), "leave it out");
    says(expect_code(RUN("fit", "--card", "t5"), 2), "t5");
    says(expect_code(RUN("fit", "--memory", "16 gigs"), 2), "16 gigs");
    says(expect_code(RUN("fit", "--memory", "1GiB"), 2), "--reserve");
    says(expect_code(RUN("plan", "--batch", "1,2"), 2), "'1,2'"); /* lists are compare's */
}

/* What is logged, a column of CSV, and kept with a saved run: every lever, in all the places that loop over
 * the table. A new one has a row here. */
static const struct {
    const char *flag, *value, *key;
    int csv, log, saved;
} levers[] = {
    {"--optimizer", "sgd", "optimizer", 1, 1, 1},
    {"--lr", "0.25", "lr", 0, 0, 1},
    {"--weight-decay", "0.125", "weight_decay", 0, 0, 1},
    {"--schedule", "linear", "schedule", 0, 0, 1},
    {"--warmup", "1", "warmup", 0, 0, 1},
    {"--dropout", "0.5", "dropout", 0, 0, 1},
    {"--batch", "3", "batch", 1, 1, 1},
    {"--seq", "24", "seq", 1, 1, 1},
    {"--accumulate", "3", "accumulate", 1, 1, 1},
    {"--attention", "eager", "attention", 1, 1, 1},
    {"--checkpoint", "selective", "checkpoint", 1, 1, 0},
    {"--optimizer-in-backward", NULL, "optimizer_in_backward", 1, 1, 0},
    {"--zero-grad", "keep", "zero_grad", 1, 1, 1},
    {"--loss-chunk", "7", "loss_chunk", 1, 1, 1},
    {"--skip-unlabelled", NULL, "skip_unlabelled", 1, 1, 1},
    {"--precision", "bf16", "precision", 1, 1, 1},
    /* As they are where nothing is said, which a saved run does not keep; test_cli_ways has others. */
    {"--weights", "fp32", "weights", 1, 1, 0},
    {"--quantize", "none", "quantize", 1, 1, 0},
};

#define TINY "--model", "gpt2-tiny", "--max-samples", "32", "--threads", "1"

/* The n-th column of a line, into a buffer. */
static void column_of(const char *line, int n, char out[64])
{
    while (n-- > 0 && line)
        line = strchr(line, ',') ? strchr(line, ',') + 1 : NULL;
    snprintf(out, 64, "%.*s", line ? (int)strcspn(line, ",\n") : 0, line ? line : "");
}

static int column_called(const char *heading, const char *name)
{
    char column[64] = "x";
    for (int i = 0; column[0]; i++) {
        column_of(heading, i, column);
        if (!strcmp(column, name))
            return i;
    }
    return -1;
}

static void levers_are_in_csv(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(levers); i++) {
        char value[64];
        const char *typed = levers[i].value ? levers[i].value : "--optimizer-in-backward";
        Outcome *o = expect_code(RUN("compare", TINY, "--csv", levers[i].flag, typed), 0);
        int column = column_called(o->out, levers[i].key);
        if ((column >= 0) != levers[i].csv)
            fail_msg("%s: column %d", levers[i].flag, column);
        if (column < 0)
            continue;
        column_of(strchr(o->out, '\n') + 1, column, value);
        assert_string_equal(value, levers[i].value ? levers[i].value : "1");
    }
}

/* Of a run with all of them that go together. */
static const char *text_of(const char *path)
{
    static char text[1 << 16];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

static void levers_are_logged(void **state)
{
    (void)state;
    const char *log = in_folder("levers.jsonl");
    expect_code(RUN("train", TINY, "--quiet", "--steps", "1", "--log", log, "--optimizer", "sgd", "--batch",
                    "3", "--seq", "24", "--accumulate", "3", "--attention", "eager", "--checkpoint",
                    "selective", "--precision", "bf16", "--zero-grad", "keep", "--loss-chunk", "7"),
                0);
    char first[8192];
    const char *text = text_of(log);
    snprintf(first, sizeof first, "%.*s", (int)strcspn(text, "\n"), text);
    json_t *root = json_loads(first, 0, NULL);
    const json_t *options = json_object_get(root, "options");
    assert_non_null(options);
    assert_string_equal(json_string_value(json_object_get(root, "kernels")), kernels_cpu(NULL)->name);
    for (size_t i = 0; i < COUNT(levers); i++) {
        const json_t *value = json_object_get(options, levers[i].key);
        char shown[64];
        if ((value != NULL) != levers[i].log)
            fail_msg("%s is %slogged", levers[i].key, value ? "" : "not ");
        if (!value || !levers[i].value)
            continue;
        if (json_is_string(value))
            snprintf(shown, sizeof shown, "%s", json_string_value(value));
        else
            snprintf(shown, sizeof shown, "%lld", (long long)json_integer_value(value));
        assert_string_equal(shown, levers[i].value);
    }
    json_decref(root);
}

/* A run is not resumed with another value of what decides a bit of its weights, and it is said of which. */
static void levers_are_saved(void **state)
{
    (void)state;
    const char *save = in_folder("saved");
    expect_code(RUN("train", TINY, "--quiet", "--steps", "2", "--batch", "2", "--seq", "16", "--lr", "0.01",
                    "--weight-decay", "0.1", "--warmup", "0", "--save", save),
                0);
    for (size_t i = 0; i < COUNT(levers); i++) {
        const char *typed = levers[i].value ? levers[i].value : "--quiet";
        int in_backward = !strcmp(levers[i].flag, "--optimizer-in-backward");
        const char *clip = in_backward ? "0" : "1"; /* which it excludes */
        int same = !levers[i].saved && !in_backward;
        Outcome *o = RUN("train", TINY, "--quiet", "--steps", "2", "--batch", "2", "--seq", "16", "--lr",
                         "0.01", "--weight-decay", "0.1", "--warmup", "0", "--resume", save, "--clip", clip,
                         levers[i].flag, typed);
        if (o->code != (same ? 0 : 1))
            fail_msg("%s: exit code %d\n%s", levers[i].flag, o->code, o->err);
        if (levers[i].saved && !strstr(o->err, levers[i].flag + 2))
            fail_msg("%s is not named: %s", levers[i].flag, o->err);
    }
}

/* Each form means what its neighbours say it means. */
static void forms_of_checkpoint(void **state)
{
    (void)state;
    static const char *const same[][2] = {{"none", "......"}, {"blocks", "1"}, {"blocks", "cccccc"},
                                          {"2", "c+c+c+"},    {"4", "c+++c+"}, {"6", "c+++++"}};
    json_int_t none = 0;
    for (size_t i = 0; i < COUNT(same); i++) {
        json_t *a = json_of(RUN("plan", "--json", "--checkpoint", same[i][0]), 0);
        json_t *b = json_of(RUN("plan", "--json", "--checkpoint", same[i][1]), 0);
        assert_int_equal(needs_in(a), needs_in(b));
        none = i == 0 ? needs_in(a) : none;
        assert_true(i == 0 || needs_in(a) < none);
        json_decref(a);
        json_decref(b);
    }
    json_t *a = json_of(RUN("plan", "--json", "--checkpoint", "selective"), 0);
    json_t *b = json_of(RUN("plan", "--json", "--checkpoint", "selective+2"), 0);
    assert_true(needs_in(b) < needs_in(a) && needs_in(a) < none);
    json_decref(a);
    json_decref(b);
}

static void the_search_fits_or_says_what_would(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("plan", "--checkpoint", "auto", "--budget", "150MiB"), 0);
    assert_int_equal(lines_starting(o->out, "--checkpoint auto: --checkpoint "), 1);
    assert_non_null(strstr(o->out, "the best of all 466 choices"));
    assert_int_equal(lines_starting(o->out, "Fits: "), 1);
    json_t *root = json_of(RUN("plan", "--json", "--checkpoint", "auto", "--budget", "150MiB"), 0);
    assert_true(needs_in(root) <= 150 << 20);
    assert_string_not_equal(json_string_value(json_object_get(root, "checkpoint")), "auto");
    json_decref(root);
    o = expect_code(RUN("train", "--checkpoint", "auto", "--budget", "60MiB"), 1);
    assert_string_equal(o->out, "");
    says(o, "the smallest need is");
    says(o, "Its peak is in");
    says(o, "--optimizer-in-backward --clip 0");
#define SMALL "--model", "gpt2-tiny", "--batch", "2", "--seq", "64"
    root = json_of(RUN("plan", "--json", SMALL), 0);
    char budget[32];
    snprintf(budget, sizeof budget, "%lld", (long long)needs_in(root) - 1);
    json_decref(root);
    o = expect_code(
        RUN("train", SMALL, "--quiet", "--steps", "2", "--checkpoint", "auto", "--budget", budget), 0);
    assert_non_null(strstr(o->out, "   0 bytes apart"));
}

static void large_models_are_searched_fast(void **state)
{
    (void)state;
    Outcome *o =
        expect_code(RUN("plan", "--model", "llama-3.1-405b", "--checkpoint", "auto", "--budget", "4000GiB",
                        "--batch", "16", "--seq", "8192", "--optimizer", "sgd", "--optimizer-in-backward"),
                    0);
    assert_non_null(strstr(o->out, "of 126 blocks recomputed"));
}

static void lists_become_rows(void **state)
{
    (void)state;
    json_t *root =
        json_of(RUN("compare", "--json", "--batch", "1,2,4", "--checkpoint=none,blocks", "--seq", "64"), 0);
    const json_t *rows = json_object_get(root, "variants");
    assert_int_equal(json_array_size(rows), 6);
    static const char *const labels[] = {"--batch 1 --checkpoint none", "--batch 1 --checkpoint blocks",
                                         "--batch 2 --checkpoint none", "--batch 2 --checkpoint blocks",
                                         "--batch 4 --checkpoint none", "--batch 4 --checkpoint blocks"};
    json_int_t activations[6];
    for (size_t i = 0; i < 6; i++) {
        const json_t *row = json_array_get(rows, i);
        assert_string_equal(json_string_value(json_object_get(row, "variant")), labels[i]);
        const json_t *components = json_object_get(json_object_get(row, "memory"), "components");
        activations[i] = integer_at(json_object_get(components, "activation"), "peak");
    }
    assert_int_equal(activations[2], 2 * activations[0]); /* batch k has k-fold activations */
    assert_int_equal(activations[4], 4 * activations[0]);
    assert_true(activations[1] < activations[0]);
    json_decref(root);
    Outcome *o = expect_code(RUN("compare", "--batch", "1,2", "--seq", "64,128"), 0);
    assert_int_equal(lines_starting(o->out, "--batch 2 --seq 128"), 3);
    assert_non_null(strstr(o->out, "x2.00"));
    says(expect_code(RUN("compare", "--batch", "1,x"), 2), "'x'");
    says(expect_code(RUN("compare", "--batch", "1,2,3,4,5,6,7,8,9", "--seq", "1,2,3,4,5,6,7,8,9"), 2), "64");
}

static void rows_are_run(void **state)
{
    (void)state;
    json_t *root =
        json_of(RUN("compare", "--json", "--model", "gpt2-tiny", "--seq", "16", "--batch", "2", "--run", "2",
                    "--checkpoint", "none,selective+2", "--attention", "flash,eager"),
                0);
    const json_t *rows = json_object_get(root, "variants");
    assert_int_equal(json_array_size(rows), 4);
    for (size_t i = 0; i < 4; i++) {
        const json_t *row = json_array_get(rows, i), *memory = json_object_get(row, "memory");
        const json_t *planned = json_object_get(memory, "planned");
        assert_int_equal(integer_at(memory, "peak_bytes"), integer_at(planned, "peak_bytes"));
        assert_int_equal(integer_at(memory, "needs_bytes"), integer_at(planned, "needs_bytes"));
        assert_true(integer_at(json_object_get(memory, "process"), "peak_bytes") > 0);
        assert_true(real_at(row, "loss") > 0 && real_at(row, "step_ms") > 0);
    }
    json_decref(root);
    Outcome *o =
        expect_code(RUN("compare", "--batch", "1", "--seq", "8", "--run", "1", "--optimizer-in-backward"), 0);
    assert_int_equal(lines_starting(o->out, "1 STEP OF EACH"), 1);
    /* Of one step nothing is known of the time. */
    const char *row = strchr(strstr(o->out, "1 STEP OF EACH"), '\n');
    for (; row && row[1]; row = strchr(row + 1, '\n')) {
        char line[256], *loss;
        snprintf(line, sizeof line, "%.*s", (int)strcspn(row + 1, "\n"), row + 1);
        loss = strrchr(line, ' ');
        assert_true(loss && loss - line > 40);
        while (*loss == ' ')
            loss--;
        assert_memory_equal(loss - 1, " -", 2);
    }
    root = json_of(
        RUN("compare", "--json", "--batch", "1", "--seq", "8", "--run", "1", "--accumulate", "1,2"), 0);
    assert_true(
        json_is_null(json_object_get(json_array_get(json_object_get(root, "variants"), 0), "step_ms")));
    json_decref(root);
}

static void comma_separated_values(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("compare", "--csv", "--batch", "1,2", "--seq", "32"), 0);
    assert_int_equal(lines_starting(o->out, "model,optimizer,batch,seq,"), 1);
    assert_int_equal(lines_starting(o->out, "llama-tiny,"), 2);
    int commas[3] = {0}, line = 0;
    for (const char *at = o->out; *at; at++) {
        commas[line] += *at == ',';
        line += *at == '\n';
    }
    assert_true(commas[0] > 30 && commas[1] == commas[0] && commas[2] == commas[0]);
}

static void cards_are_listed(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("gpus"), 0);
    assert_int_equal(lines_starting(o->out, "rtx-3090 "), 1);
    json_t *root = json_of(RUN("gpus", "--json"), 0);
    assert_true(json_array_size(json_object_get(root, "gpus")) > 10);
    json_decref(root);
}

static void tables_of_a_plan(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("plan", "--model", "gpt2"), 0);
    assert_int_equal(lines_starting(o->out, "LARGEST AT THE PEAK"), 1);
    assert_int_equal(lines_starting(o->out, "BY LAYER AT THE PEAK"), 1);
    assert_int_equal(lines_starting(o->out, "transformer.wte "), 1);
    assert_int_equal(lines_starting(o->out, "That is 0."), 1);
    json_t *root = json_of(RUN("plan", "--json", "--model", "gpt2"), 0);
    const json_t *memory = json_object_get(root, "memory"), *places = json_object_get(root, "places_at_peak");
    assert_int_equal(json_array_size(json_object_get(root, "largest_at_peak")), 10);
    json_int_t sum = 0;
    size_t i;
    json_t *row, *value;
    const char *key;
    json_array_foreach((json_t *)(uintptr_t)places, i, row) json_object_foreach(row, key, value) sum +=
        strcmp(key, "place") ? json_integer_value(value) : 0;
    assert_int_equal(sum, integer_at(memory, "peak_bytes"));
    json_decref(root);
    o = expect_code(RUN("plan", "--textbook"), 0);
    assert_non_null(strstr(o->out, "ESTIMATED"));
}

static void models_from_files(void **state)
{
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("{\"model_type\": \"llama\", \"vocab_size\": 256, \"hidden_size\": 64, \"num_hidden_layers\": 2,\n"
          " \"num_attention_heads\": 4, \"intermediate_size\": 96, \"max_position_embeddings\": 64}",
          file);
    fclose(file);
    json_t *root = json_of(RUN("train", "--json", "--steps", "2", "--model", path), 0);
    assert_true(integer_at(root, "parameters") > 0);
    json_decref(root);
    Outcome *o = expect_code(RUN("plan", "--model", "llama-3.1-1b"), 0);
    says(o, "Llama 3.2 1B");
    assert_int_equal(lines_starting(o->out, "llama-3.2-1b  1,235,814,400 parameters"), 1);
    expect_code(RUN("plan", "--model", in_folder("none.json")), 2);
}

/* A model's path is bytes, JSON is text: nothing of the object is lost. */
static void paths_that_are_no_text(void **state)
{
    (void)state;
    char path[128], list[160];
    snprintf(path, sizeof path, "%s/caf\xe9.json", folder);
    FILE *file = fopen(path, "w");
    assert_true(file &&
                fputs("{\"model_type\": \"gpt2\", \"n_layer\": 1, \"n_embd\": 16, \"n_head\": 2}", file) > 0);
    fclose(file);
    json_t *root = json_of(RUN("plan", "--json", "--model", path), 0);
    assert_string_equal(json_string_value(json_object_get(root, "model")), "caf?.json");
    json_decref(root);
    snprintf(list, sizeof list, "%s,gpt2-tiny", path);
    root = json_of(RUN("compare", "--json", "--seq", "16", "--model", list), 0);
    assert_int_equal(json_array_size(json_object_get(root, "variants")), 2);
    json_decref(root);
    const char *log = in_folder("bytes.jsonl");
    expect_code(RUN("train", "--quiet", "--steps", "1", "--seq", "16", "--model", path, "--log", log), 0);
    assert_non_null(strstr(expect_code(RUN("report", log), 0)->out, "caf?.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levers_that_exclude_each_other),
        cmocka_unit_test(levers_are_in_csv),
        cmocka_unit_test(levers_are_logged),
        cmocka_unit_test(levers_are_saved),
        cmocka_unit_test(forms_of_checkpoint),
        cmocka_unit_test(the_search_fits_or_says_what_would),
        cmocka_unit_test(large_models_are_searched_fast),
        cmocka_unit_test(lists_become_rows),
        cmocka_unit_test(rows_are_run),
        cmocka_unit_test(comma_separated_values),
        cmocka_unit_test(cards_are_listed),
        cmocka_unit_test(tables_of_a_plan),
        cmocka_unit_test(models_from_files),
        cmocka_unit_test(paths_that_are_no_text),
    };
    return cmocka_run_group_tests_name("levers of the command", tests, make_folder, remove_folder);
}
