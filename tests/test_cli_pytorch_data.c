/* --framework pytorch with data: the longest sample of a file decides what PyTorch would need. */
#include "cli_support.h"

#define JOB(command, ...)                                                                                    \
    RUN(command, "llama-tiny", "--framework", "pytorch", "--script", "loop", "--card", "t4", __VA_ARGS__)

static json_t *pytorch_of(Outcome *outcome, int code)
{
    json_t *root = parse(expect_code(outcome, code)->out);
    json_t *pytorch = json_incref(json_object_get(root, "pytorch"));
    json_object_set(pytorch, "batch", json_object_get(root, "batch"));
    json_object_set(pytorch, "seq", json_object_get(root, "seq"));
    json_decref(root);
    return pytorch;
}

/* Samples of so many tokens, as ids; the third line is blank. */
static const char *samples_of(const char *name, const int *tokens, int count)
{
    static char text[1 << 16];
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "%s{\"ids\": [1", i == 2 ? "\n" : "");
        for (int k = 1; k < tokens[i]; k++)
            used += (size_t)snprintf(text + used, sizeof text - used, ",%d", k % 500);
        used += (size_t)snprintf(text + used, sizeof text - used, "]}\n");
    }
    return make_file(name, text, used);
}

static const char *mixed(void)
{
    return samples_of("mixed.jsonl", (const int[]){40, 17, 96, 33, 96, 5}, 6);
}

static void assert_same_peak(const json_t *a, const json_t *b)
{
    assert_int_equal(integer_at(a, "requested_bytes"), integer_at(b, "requested_bytes"));
    assert_int_equal(integer_at(a, "allocated_bytes"), integer_at(b, "allocated_bytes"));
    assert_int_equal(integer_at(a, "reserved_bytes"), integer_at(b, "reserved_bytes"));
}

/* It is the job of that length with a mask, as --longest makes it. */
static void the_longest_sample_decides(void **state)
{
    (void)state;
    json_t *with = pytorch_of(JOB("plan", "--data", mixed(), "--batch", "3", "--json"), 0);
    const json_t *data = json_object_get(with, "data");
    assert_int_equal(integer_at(with, "seq"), 96);
    assert_int_equal(integer_at(data, "samples"), 6);
    assert_int_equal(integer_at(data, "shortest"), 5);
    assert_int_equal(integer_at(data, "longest"), 96);
    assert_int_equal(integer_at(data, "longest_line"), 4);
    assert_int_equal(integer_at(data, "decides"), 96);
    assert_true(json_is_true(json_object_get(data, "padded")));
    assert_false(json_is_true(json_object_get(data, "bytes")));
    json_t *longest = pytorch_of(JOB("plan", "--longest", "96", "--batch", "3", "--json"), 0);
    assert_true(json_is_null(json_object_get(longest, "data")));
    assert_same_peak(with, longest);
    json_t *unpadded = pytorch_of(JOB("plan", "--seq", "96", "--batch", "3", "--json"), 0);
    assert_true(integer_at(unpadded, "requested_bytes") < integer_at(with, "requested_bytes"));
    json_decref(unpadded);
    json_decref(longest);
    json_decref(with);
    const Outcome *o = expect_code(JOB("plan", "--data", mixed(), "--batch", "3"), 0);
    assert_non_null(strstr(o->out, "6 samples of 5 to 96 tokens.  The longest, on line 4, decides.  "
                                   "Shuffled, it can be in any batch, and the others there are padded to "
                                   "it.\n"));
}

static void nothing_is_padded_where_lengths_are_equal(void **state)
{
    (void)state;
    static const int equal[] = {24, 24, 24};
    const char *path = samples_of("equal.jsonl", equal, 3);
    const struct {
        const char *path, *batch;
    } trials[] = {{path, "3"}, {mixed(), "1"}};
    for (size_t i = 0; i < COUNT(trials); i++) {
        json_t *data =
            pytorch_of(JOB("plan", "--data", trials[i].path, "--batch", trials[i].batch, "--json"), 0);
        json_t *rows =
            pytorch_of(JOB("plan", "--seq", i ? "96" : "24", "--batch", trials[i].batch, "--json"), 0);
        assert_false(json_is_true(json_object_get(json_object_get(data, "data"), "padded")));
        assert_same_peak(data, rows);
        json_decref(rows);
        json_decref(data);
    }
}

static void samples_are_cut_and_counted(void **state)
{
    (void)state;
    json_t *cut = pytorch_of(JOB("plan", "--data", mixed(), "--seq", "40", "--batch", "2", "--json"), 0);
    assert_int_equal(integer_at(cut, "seq"), 40);
    assert_int_equal(integer_at(json_object_get(cut, "data"), "cut"), 2);
    assert_int_equal(integer_at(json_object_get(cut, "data"), "longest"), 96);
    json_decref(cut);
    json_t *some = pytorch_of(JOB("plan", "--data", mixed(), "--max-samples", "2", "--json"), 0);
    assert_int_equal(integer_at(some, "seq"), 40);
    assert_int_equal(integer_at(some, "batch"), 2); /* llama-tiny's usual 8 are more than there are */
    assert_int_equal(integer_at(json_object_get(some, "data"), "longest_line"), 1);
    json_decref(some);
    const Outcome *o = expect_code(JOB("plan", "--data", mixed(), "--seq", "40"), 0);
    assert_non_null(strstr(o->out, "2 of them are longer than --seq 40, and cut there: that length decides"));
    assert_non_null(strstr(o->out, "There are fewer than --batch 8: a batch has 6."));
}

/* Bytes are no tokens of the model's, which is said; rows of a text are all as long. */
static void texts_are_rows_and_bytes(void **state)
{
    (void)state;
    static char text[2000];
    memset(text, 'a', sizeof text);
    const char *path = make_file("text.txt", text, sizeof text);
    const Outcome *o = expect_code(JOB("plan", "--data", path, "--seq", "64", "--batch", "4"), 0);
    assert_non_null(strstr(o->out, "31 rows of 64 tokens.  Its tokens are bytes: --tokenizer FILE counts"));
    json_t *rows = pytorch_of(JOB("plan", "--data", path, "--seq", "64", "--batch", "4", "--json"), 0);
    json_t *none = pytorch_of(JOB("plan", "--seq", "64", "--batch", "4", "--json"), 0);
    assert_int_equal(integer_at(json_object_get(rows, "data"), "samples"), 31);
    assert_true(json_is_null(json_object_get(json_object_get(rows, "data"), "longest_line")));
    assert_same_peak(rows, none);
    json_decref(none);
    json_decref(rows);
}

/* A table makes BERT a classifier of its labels; a text may have several lines. */
static void tables_are_of_classifiers(void **state)
{
    (void)state;
    static const char table[] = "text,label\nshort,a\n\"on\ntwo lines\",b\nthe longest of all of them,c\n";
    const char *path = make_file("table.csv", table, sizeof table - 1);
    json_t *p = pytorch_of(
        RUN("plan", "bert-base", "--framework", "pytorch", "--data", path, "--batch", "2", "--json"), 0);
    const json_t *data = json_object_get(p, "data");
    assert_int_equal(integer_at(data, "samples"), 3);
    assert_int_equal(integer_at(data, "longest_line"), 5);
    assert_int_equal(integer_at(data, "longest"), 28); /* 26 bytes between two tokens */
    assert_true(json_is_true(json_object_get(data, "bytes")));
    assert_int_equal(integer_at(p, "seq"), 28);
    json_decref(p);
}

/* No batch is larger than all samples, and the length that decides is the one of the first columns. */
static void fit_takes_lengths_too(void **state)
{
    (void)state;
    json_t *with = pytorch_of(JOB("fit", "--data", mixed(), "--batch", "3", "--json"), 0);
    json_t *longest = pytorch_of(JOB("fit", "--longest", "96", "--batch", "3", "--json"), 0);
    const json_t *a = json_array_get(json_object_get(with, "cards"), 0),
                 *b = json_array_get(json_object_get(longest, "cards"), 0);
    assert_int_equal(integer_at(a, "allocated_bytes"), integer_at(b, "allocated_bytes"));
    assert_int_equal(integer_at(a, "largest_batch"), 6);
    assert_true(integer_at(b, "largest_batch") > 6);
    assert_int_equal(integer_at(json_object_get(with, "data"), "samples"), 6);
    json_decref(longest);
    json_decref(with);
    assert_non_null(strstr(expect_code(JOB("fit", "--data", mixed(), "--batch", "3"), 0)->out, " 6 all "));
}

static void contradictions_are_refused(void **state)
{
    (void)state;
    const char *path = mixed();
    const struct {
        const char *arguments[5], *says;
    } trials[] = {
        {{"--data", path, "--longest", "9"}, "whose longest sample decides: leave one out"},
        {{"--longest", "90", "--seq", "64"},
         "--longest 90 is longer than --seq 64, at which samples are cut"},
        {{"--longest", "90000"}, "--longest 90000 is longer than the 4096 positions of llama-tiny"},
        {{"--max-samples", "2"}, "--max-samples needs --data FILE"},
        {{"--tokenizer", "x"}, "--tokenizer needs --data FILE"},
        {{"--data", "nowhere.jsonl"}, "nowhere.jsonl: cannot open"},
        {{"--data", path, "--tokenizer", "nowhere.json"}, "nowhere.json"},
        {{"--data", path, "--pack"}, "--pack means nothing beside --framework pytorch"},
        {{"--data", "fashion-mnist"}, "--data fashion-mnist is images"},
        {{"--data", path, "--vocab", "20"}, "line 1"},
    };
    for (size_t i = 0; i < COUNT(trials); i++) {
        const char *arguments[12] = {"", i % 2 ? "plan" : "fit", "llama-tiny", "--framework", "pytorch"};
        for (int k = 0, count = 5; trials[i].arguments[k]; k++)
            arguments[count++] = trials[i].arguments[k];
        Outcome *o = run_command(arguments);
        if (o->code != 2 || !strstr(o->err, trials[i].says) || o->out[0])
            fail_msg("%zu: code %d, '%s', without '%s'", i, o->code, o->err, trials[i].says);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_longest_sample_decides),
        cmocka_unit_test(nothing_is_padded_where_lengths_are_equal),
        cmocka_unit_test(samples_are_cut_and_counted),
        cmocka_unit_test(texts_are_rows_and_bytes),
        cmocka_unit_test(tables_are_of_classifiers),
        cmocka_unit_test(fit_takes_lengths_too),
        cmocka_unit_test(contradictions_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
