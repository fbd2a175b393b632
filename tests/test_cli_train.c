/* `brim train`, for real and briefly: every family, what it prints and logs, and how it stops when it must.
 */
#include "cli_support.h"

/* ---- Every family ---------------------------------------------------------------------------- */

static json_t *train_json(const char **arguments)
{
    json_t *root = parse(expect_code(run_command(arguments), 0)->out);
    assert_keys(
        root, "model device blas parameters active_parameters bracket steps loss_first loss_last validation "
              "tokens_per_second memory");
    const json_t *memory = json_object_get(root, "memory"), *planned = json_object_get(memory, "planned");
    check_memory(memory, 1, 1);
    check_memory(planned, 0, 0);
    assert_same_memory(memory, planned);
    assert_true(real_at(root, "loss_first") > 0 && real_at(root, "tokens_per_second") > 0);
    const json_t *validation = json_object_get(root, "validation");
    assert_true(real_at(validation, "loss") > 0 && integer_at(validation, "samples") > 0);
    return root;
}

#define TRAIN(...)                                                                                           \
    train_json((const char *[]){"brim", "train", "--json", "--threads", "1", __VA_ARGS__, NULL})
/* Of 40 sequences two are held out, so that validation takes no longer than training. */
#define SMALL_TEXT "--data", make_text("small", 40 * 16 + 1), "--batch", "2", "--seq", "16"
#define SMALL      SMALL_TEXT, "--steps", "5"

/* No line of a log, no step and no byte differs from the plan. */
static void check_printed(Outcome *o, int step_lines)
{
    expect_code(o, 0);
    assert_int_equal(lines_starting(o->out, "step "), step_lines);
    assert_int_equal(lines_starting(o->out, "peak  "), 1);
    assert_non_null(strstr(o->out, "   0 bytes apart\n"));
    assert_non_null(strstr(o->out, "unaccounted"));
    assert_null(strstr(o->out, "off the plan"));
    assert_null(strstr(o->out, "nan"));
}

static void language_models(void **state)
{
    (void)state;
    static const char *const models[] = {"llama-tiny", "gpt2-tiny", "bert-tiny"};
    for (size_t i = 0; i < COUNT(models); i++) {
        json_t *root =
            TRAIN("--model", models[i], SMALL_TEXT, "--steps", "20"); /* fewer may end on a hard one */
        assert_string_equal(json_string_value(json_object_get(root, "model")), models[i]);
        assert_int_equal(integer_at(root, "steps"), 20);
        assert_keys(json_object_get(root, "validation"), "loss samples");
        double first = real_at(root, "loss_first");
        assert_true(first > 5 && first < 6.5); /* about ln 256 */
        assert_true(real_at(root, "loss_last") < first);
        json_decref(root);
    }
    check_printed(RUN("train", "--threads", "1", "--model", models[0], SMALL), 5);
}

static void images(void **state)
{
    (void)state;
    const char *path = make_images("images");
    json_t *root =
        TRAIN("--model", "mlp", "--data", path, "--batch", "16", "--epochs", "2", "--accumulate", "3");
    assert_int_equal(integer_at(root, "steps"), 6); /* 48 + 48 + 4 of 100 samples, twice */
    const json_t *validation = json_object_get(root, "validation");
    assert_keys(validation, "loss samples accuracy");
    assert_int_equal(integer_at(validation, "samples"), 30);
    assert_true(real_at(validation, "accuracy") >= 0 && real_at(validation, "accuracy") <= 1);
    json_decref(root);
    Outcome *o = RUN("train", "--threads", "1", "--model", "mlp", "--data", path, "--batch", "16", "--epochs",
                     "3", "--every", "1");
    check_printed(o, 21 + 2); /* each step, and the validations after the first two epochs */
    assert_non_null(strstr(o->out, "accuracy"));
}

/* Short last batches and groups, several epochs, validation in between, a sample at the end: all of it
 * planned. */
static void epochs_of_short_ends(void **state)
{
    (void)state;
    const char *path = make_text("text", 24 * 16 + 1); /* 23 sequences and one held out */
    Outcome *o = RUN("train", "--threads", "1", "--data", path, "--seq", "16", "--batch", "3", "--accumulate",
                     "3", "--epochs", "3", "--sample", "12", "--prompt", "the cat");
    check_printed(o, 9 + 2);
    assert_int_equal(lines_starting(o->out, "It writes: the cat"), 1);
    o = RUN("train", "--threads", "1", "--model", "gpt2-tiny", "--data", path, "--seq", "16", "--batch", "4",
            "--steps", "13", "--evaluate-every", "4", "--checkpoint", "blocks", "--dropout", "0.1",
            "--attention", "eager", "--sample", "3");
    check_printed(o, 13 + 3);
    o = RUN("train", "--threads", "2", "--model", "bert-tiny", "--data", path, "--seq", "18", "--batch", "3",
            "--steps", "9", "--optimizer", "rmsprop", "--every", "3");
    check_printed(o, 1 + 3);
    assert_int_equal(lines_starting(o->out, "step    3  loss"), 1);
}

static void quiet_has_no_step_lines(void **state)
{
    (void)state;
    check_printed(
        RUN("train", "--threads", "1", "--quiet", "--model", "gpt2-tiny", SMALL, "--evaluate-every", "2"), 0);
}

/* ---- Numbers --------------------------------------------------------------------------------- */

static void equal_seeds_are_equal_runs(void **state)
{
    (void)state;
    static const char *const keys[] = {"loss_first", "loss_last", "validation"};
    json_t *a = TRAIN("--model", "gpt2-tiny", SMALL, "--seed", "7", "--dropout", "0.1"),
           *b = TRAIN("--model", "gpt2-tiny", SMALL, "--seed", "7", "--dropout", "0.1"),
           *c = TRAIN("--model", "gpt2-tiny", SMALL, "--seed", "8", "--dropout", "0.1");
    for (size_t i = 0; i < COUNT(keys); i++) {
        assert_true(json_equal(json_object_get(a, keys[i]), json_object_get(b, keys[i])));
        assert_false(json_equal(json_object_get(a, keys[i]), json_object_get(c, keys[i])));
    }
    json_decref(a);
    json_decref(b);
    json_decref(c);
}

/* Recomputing and accumulating change what is held, not what is learned. */
static void checkpointing_trains_the_same(void **state)
{
    (void)state;
    json_t *a = TRAIN("--model", "llama-tiny", SMALL),
           *b = TRAIN("--model", "llama-tiny", SMALL, "--checkpoint", "blocks");
    assert_true(real_at(a, "loss_last") == real_at(b, "loss_last"));
    json_decref(b);
    b = TRAIN("--model", "llama-tiny", SMALL, "--batch", "1", "--accumulate", "2"); /* the last word counts */
    assert_true(real_at(a, "loss_last") - real_at(b, "loss_last") < 1e-4);
    assert_true(real_at(b, "loss_last") - real_at(a, "loss_last") < 1e-4);
    json_decref(b);
    json_decref(a);
}

/* 0 is a value, not "the default". */
static void nothing_moves_without_a_learning_rate(void **state)
{
    (void)state;
    json_t *root = TRAIN("--model", "gpt2-tiny", SMALL, "--max-samples", "2", "--lr", "0");
    assert_true(real_at(root, "loss_first") == real_at(root, "loss_last"));
    json_decref(root);
    json_t *none = TRAIN("--model", "gpt2-tiny", SMALL, "--weight-decay", "0", "--lr", "0.01"),
           *usual = TRAIN("--model", "gpt2-tiny", SMALL, "--lr", "0.01"),
           *stated = TRAIN("--model", "gpt2-tiny", SMALL, "--weight-decay", "0.01", "--lr", "0.01");
    assert_true(real_at(usual, "loss_last") == real_at(stated, "loss_last"));
    assert_true(real_at(usual, "loss_last") != real_at(none, "loss_last"));
    json_decref(none);
    json_decref(usual);
    json_decref(stated);
}

/* ---- The log --------------------------------------------------------------------------------- */

/* Every line is an object that names its kind, a step's has these keys; returns how many steps there are, and
 * the last loss. tests/test_runlog.c is about the rest. */
static int check_log(const char *path, double *last_loss)
{
    static char line[1 << 17];
    int count = 0;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        json_t *one = parse(line);
        const char *kind = json_string_value(json_object_get(one, "kind"));
        assert_non_null(kind);
        if (strcmp(kind, "step")) {
            json_decref(one);
            continue;
        }
        assert_keys(one, "kind step loss lr tokens seconds live_bytes peak_bytes at_peak components_at_peak");
        assert_keys(json_object_get(one, "at_peak"),
                    "parameters gradients optimizer_states activations overhead");
        assert_int_equal(integer_at(one, "step"), ++count);
        assert_int_equal(sum_of(json_object_get(one, "at_peak"), NULL), integer_at(one, "peak_bytes"));
        assert_int_equal(sum_of(json_object_get(one, "components_at_peak"), NULL),
                         integer_at(one, "peak_bytes"));
        assert_true(integer_at(one, "live_bytes") <= integer_at(one, "peak_bytes"));
        *last_loss = real_at(one, "loss");
        json_decref(one);
    }
    fclose(file);
    return count;
}

static void a_line_of_log_a_step(void **state)
{
    (void)state;
    double last;
    const char *path = in_folder("log.jsonl");
    json_t *root = TRAIN("--model", "gpt2-tiny", SMALL, "--evaluate-every", "2", "--log", path);
    assert_int_equal(check_log(path, &last), 5);
    assert_true(last - real_at(root, "loss_last") < 1e-7 && real_at(root, "loss_last") - last < 1e-7);
    json_decref(root);
    json_decref(TRAIN("--model", "gpt2-tiny", SMALL, "--log", path)); /* a new run, a new log */
    assert_int_equal(check_log(path, &last), 5);
}

static void a_log_that_cannot_be_written(void **state)
{
    (void)state;
    const char *paths[] = {in_folder("no-such-folder/log"), folder, "/dev/full"};
    const char *const why[] = {"No such file or directory", "Is a directory", "No space left"};
    for (size_t i = 0; i < COUNT(paths); i++) {
        if (access("/dev/full", F_OK) && i == 2)
            continue;
        Outcome *o =
            expect_code(RUN("train", "--threads", "1", "--model", "gpt2-tiny", SMALL, "--log", paths[i]), 1);
        assert_non_null(strstr(o->err, paths[i]));
        assert_non_null(strstr(o->err, why[i]));
        assert_null(strstr(o->out, "step ")); /* before training */
    }
}

/* A disk that fills up ends the log, not the training, and is reported once. */
static void a_log_that_breaks_off(void **state)
{
    (void)state;
    char log[192], line[1024];
    snprintf(log, sizeof log, "%s", in_folder("breaks.jsonl"));
    snprintf(line, sizeof line,
             "exec 2>&1; %s train --quiet --threads 1 --model gpt2-tiny --data %s --batch 2 --seq 16 --steps "
             "160 --log %s & "
             "p=$!; until [ -s %s ]; do sleep 0.02; done; prlimit --pid $p --fsize=131072; wait $p",
             command_path(), make_text("small", 40 * 16 + 1), log, log);
    FILE *pipe = popen(line, "r");
    assert_non_null(pipe);
    static char text[1 << 16];
    text[fread(text, 1, sizeof text - 1, pipe)] = '\0';
    assert_int_equal(pclose(pipe), 0);
    const char *said = strstr(text, "cannot write the log");
    assert_true(said && strstr(said, log) && strstr(said, "training continues"));
    assert_null(strstr(said + 1, "cannot write the log"));
    assert_non_null(strstr(text, "160 steps"));
    Outcome *o = expect_code(RUN("report", log), 0);
    assert_non_null(strstr(o->out, "breaks off"));
}

/* ---- Numbers that are none ------------------------------------------------------------------- */

static void a_loss_that_is_none_stops(void **state)
{
    (void)state;
    static const char *const rows[][2] = {{"llama-tiny", "1"}, {"gpt2-tiny", "0"}, {"bert-tiny", "0"}};
    const char *log = in_folder("diverging.jsonl");
    for (size_t i = 0; i < COUNT(rows); i++) {
        double last;
        Outcome *o = expect_code(RUN("train", "--threads", "1", "--model", rows[i][0], "--batch", "2",
                                     "--seq", "16", "--steps", "50", "--optimizer", "sgd", "--lr", "1e30",
                                     "--clip", rows[i][1], "--log", log),
                                 1);
        assert_non_null(strstr(o->err, "not finite"));
        assert_non_null(strstr(o->err, ", at "));
        assert_null(strstr(o->out, "nan"));
        int steps = check_log(log, &last);
        assert_true(steps >= 1 && steps < 50);
    }
    Outcome *o =
        expect_code(RUN("train", "--threads", "1", "--json", "--model", "llama-tiny", "--batch", "2", "--seq",
                        "16", "--steps", "50", "--optimizer", "sgd", "--lr", "1e30", "--clip", "0"),
                    1);
    assert_string_equal(o->out, "");
    assert_non_null(strstr(o->err, "first value that is not finite"));
    assert_non_null(strstr(o->err, "model.layers.0"));
}

/* The only step may leave weights whose loss is no number: JSON has null for it. */
static void a_validation_that_is_none(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("train", "--json", "--threads", "1", "--model", "gpt2-tiny", "--data",
                                 make_text("small", 40 * 16 + 1), "--batch", "2", "--seq", "16", "--steps",
                                 "1", "--optimizer", "sgd", "--lr", "1e38", "--clip", "0"),
                             0);
    json_t *root = parse(o->out);
    assert_true(json_is_null(json_object_get(json_object_get(root, "validation"), "loss")));
    json_decref(root);
}

/* What is read is not written over; nor is an old log where the run cannot begin. */
static void logs_that_stay(void **state)
{
    (void)state;
    static const char gpt2[] = "{\"model_type\": \"gpt2\", \"n_layer\": 1, \"n_embd\": 8, \"n_head\": 1}";
    char config[192], log[192];
    strcpy(config, make_file("config.json", gpt2, strlen(gpt2)));
    strcpy(log, make_text("old.jsonl", 400));
    Outcome *o = expect_code(RUN("train", "--model", config, "--log", config), 2);
    assert_non_null(strstr(o->err, "written over what is read"));
    struct stat before, after;
    assert_int_equal(stat(log, &before), 0);
    setenv("BRIM_BLAS", "/nonexistent\033[31m", 1);
    o = expect_code(RUN("train", "--threads", "1", "--model", "gpt2-tiny", SMALL, "--log", log), 1);
    unsetenv("BRIM_BLAS");
    assert_non_null(strstr(o->err, "BRIM_BLAS=/nonexistent?[31m"));
    assert_int_equal(stat(log, &after), 0);
    assert_true(before.st_size == after.st_size && before.st_ino == after.st_ino);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(language_models),
        cmocka_unit_test(images),
        cmocka_unit_test(epochs_of_short_ends),
        cmocka_unit_test(quiet_has_no_step_lines),
        cmocka_unit_test(equal_seeds_are_equal_runs),
        cmocka_unit_test(checkpointing_trains_the_same),
        cmocka_unit_test(nothing_moves_without_a_learning_rate),
        cmocka_unit_test(a_line_of_log_a_step),
        cmocka_unit_test(a_log_that_cannot_be_written),
        cmocka_unit_test(a_log_that_breaks_off),
        cmocka_unit_test(a_loss_that_is_none_stops),
        cmocka_unit_test(a_validation_that_is_none),
        cmocka_unit_test(logs_that_stay),
    };
    return cmocka_run_group_tests_name("training by command", tests, make_folder, remove_folder);
}
