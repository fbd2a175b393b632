/* The command as a user types it: what it says to bad input, and what plan, compare and models print. */
#include <limits.h>

#include "cli_support.h"

/* ---- Bad usage: exit 2, nothing on stdout, and a message that names the culprit -------------- */

static void bad_usage(void **state)
{
    (void)state;
    static const struct {
        const char *arguments[7], *names[3];
    } rows[] = {
        {{"trian"}, {"'trian'", "nearest: train"}},
        {{"plan", "--model", "mistral-7b", "--seq", "32769"},
         {"--seq 32769", "32768 positions", "mistral-7b"}},
        {{"train", "--modle", "mlp"}, {"'--modle'", "nearest: --model"}},
        {{"train", "mpl"}, {"'mpl'", "nearest: mlp"}},
        {{"train", "--model", "llama-huge"}, {"\"llama-huge\"", "llama-tiny", "config.json"}},
        {{"train", "--optimizer", "adamwx"}, {"'adamwx'", "sgd-momentum", "adamw"}},
        {{"train", "--schedule", "step"}, {"'step'", "cosine"}},
        {{"train", "--checkpoint", "all"}, {"'all'", "blocks"}},
        {{"train", "--attention", "fast"}, {"'fast'", "eager"}},
        {{"train", "--batch"}, {"--batch"}},
        {{"train", "--model"}, {"--model"}},
        {{"train", "--batch", "0"}, {"--batch", "'0'"}},
        {{"train", "--batch=-1"}, {"--batch", "'-1'"}},
        {{"train", "--batch", "2147483648"}, {"--batch", "2147483648"}},
        {{"train", "--batch", "99999999999999999999999"}, {"--batch", "99999999999999999999999"}},
        {{"train", "--batch", "8x"}, {"--batch", "'8x'"}},
        {{"train", "--batch", ""}, {"--batch", "''"}},
        {{"train", "--seq", "0"}, {"--seq", "'0'"}},
        {{"train", "--seq", "-8"}, {"--seq", "'-8'"}},
        {{"train", "--seq", "4097"}, {"4097", "4096", "llama-tiny"}},
        {{"plan", "--model", "gpt2", "--seq", "1025"}, {"1025", "1024", "gpt2"}},
        {{"train", "--model", "mlp", "--seq", "8"}, {"--seq", "mlp"}},
        {{"train", "--steps", "0"}, {"--steps", "'0'"}},
        {{"train", "--steps", "99999999999999999999"}, {"--steps", "99999999999999999999"}},
        {{"train", "--epochs", "-1"}, {"--epochs", "'-1'"}},
        {{"train", "--steps", "3", "--epochs", "3"}, {"--steps", "--epochs"}},
        {{"train", "--accumulate", "0"}, {"--accumulate", "'0'"}},
        {{"compare", "--batch", "65536", "--accumulate", "65536"}, {"65536", "4294967296", "2147483647"}},
        {{"train", "--lr", "-1"}, {"--lr", "'-1'"}},
        {{"train", "--lr", "nan"}, {"--lr", "'nan'"}},
        {{"train", "--lr", "1e99"}, {"--lr", "'1e99'", "finite"}},
        {{"train", "--lr", "fast"}, {"--lr", "'fast'"}},
        {{"train", "--weight-decay", "-0.1"}, {"--weight-decay", "'-0.1'"}},
        {{"train", "--clip", "inf"}, {"--clip", "'inf'"}},
        {{"train", "--dropout", "1"}, {"--dropout"}},
        {{"train", "--budget", "0"}, {"--budget", "'0'"}},
        {{"train", "--budget", "0.5"}, {"--budget", "'0.5'"}},
        {{"train", "--budget", "8 GB"}, {"--budget", "'8 GB'"}},
        {{"train", "--budget", "-1GiB"}, {"--budget", "'-1GiB'"}},
        {{"train", "--budget", "1e30GiB"}, {"--budget", "'1e30GiB'"}},
        {{"train", "--seed", "-1"}, {"--seed", "'-1'"}},
        {{"train", "--threads", "0"}, {"--threads", "'0'"}},
        {{"train", "--threads", "100000"}, {"--threads", "'100000'"}},
        {{"train", "--device", "gpu"}, {"--device gpu", "cpu or cuda"}},
        {{"train", "--device", "cuda:"}, {"'cuda:'", "cuda:0"}},
        {{"train", "--device", "cuda"}, {"--device cuda:", "driver", "cpu works"}},
        {{"generate", "--device=cuda:3"}, {"--device cuda:3:", "driver", "brim plan --device cuda"}},
        {{"fit", "--device", "meta"}, {"--device meta", "plan instead"}},
        {{"train", "--every", "0"}, {"--every", "'0'"}},
        {{"train", "--max-samples", "0"}, {"--max-samples", "'0'"}},
        {{"train", "--json=1"}, {"--json"}},
        {{"train", "--data", "a\nb"}, {"argument 3", "control character (0x0a)"}},
        {{"train", "--save=\033[31mrun"}, {"argument 2", "(0x1b)"}},
        {{"re\x7fport"}, {"argument 1", "(0x7f)"}},
        {{"report", "\xc2\x9b"
                    "31m"},
         {"argument 2", "(0x9b)"}},
        {{"train", "--model", "bert-tiny", "--sample", "9"}, {"--sample", "bert-tiny"}},
        {{"train", "--sample", "161"}, {"--sample", "'161'", "160"}},
        {{"plan", "--data", "fashion-mnist"}, {"fashion-mnist", "llama-tiny", "text"}},
        {{"plan", "--model", "mlp", "--data", "builtin"}, {"builtin", "mlp", "images"}},
        {{"compare", "--log", "x"}, {"--log", "train"}},
        {{"plan", "--prefill", "8"}, {"--prefill", "--inference"}},
        {{"plan", "--textbook", "--inference"}, {"--textbook", "--inference"}},
        {{"plan", "--textbook", "--budget", "1GiB"}, {"--textbook", "--budget"}},
        {{"train", "--export-shard", "1GiB"}, {"--export-shard", "--export DIR"}},
        {{"compare", "--csv", "--json"}, {"--csv", "--json"}},
        {{"fit", "--budget", "1GiB"}, {"--budget", "--memory"}},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *arguments[9] = {"brim"};
        memcpy(arguments + 1, rows[i].arguments, sizeof rows[i].arguments);
        Outcome *o = expect_code(run_command(arguments), 2);
        assert_string_equal(o->out, "");
        assert_int_equal(strncmp(o->err, "brim: ", 6), 0);
        for (int k = 0; k < 3 && rows[i].names[k]; k++)
            if (!strstr(o->err, rows[i].names[k]))
                fail_msg("row %zu: no %s in: %s", i, rows[i].names[k], o->err);
    }
}

static void help_and_version(void **state)
{
    (void)state;
    Outcome *o = expect_code(run_command((const char *[]){"brim", NULL}), 2);
    assert_non_null(strstr(o->out, "usage: brim COMMAND"));
    static const char *const ways[] = {"help", "--help", "-h"};
    static const char *const words[] = {"train", "plan", "compare", "models", "brim help GROUP", "levers"};
    for (size_t i = 0; i < COUNT(ways); i++) {
        o = expect_code(RUN(ways[i]), 0);
        for (size_t k = 0; k < COUNT(words); k++)
            assert_non_null(strstr(o->out, words[k]));
    }
    o = expect_code(RUN("help", "options"), 0);
    static const char *const options[] = {"--model",  "--accumulate", "--checkpoint",
                                          "--budget", "--json",       "Exit codes"};
    for (size_t k = 0; k < COUNT(options); k++)
        assert_non_null(strstr(o->out, options[k]));
    o = expect_code(RUN("train", "--help"), 0);
    assert_int_equal(strncmp(o->out, "brim train: ", 12), 0);
    o = expect_code(RUN("--version"), 0);
    assert_int_equal(strncmp(o->out, "brim ", 5), 0);
}

/* ---- Bad data: exit 1, and the file's name --------------------------------------------------- */

static void expect_bad_data(const char *model, const char *path, const char *word)
{
    static const char *const commands[] = {"train", "plan"};
    for (size_t i = 0; i < COUNT(commands); i++) {
        Outcome *o = RUN(commands[i], "--model", model, "--data", path, "--threads", "1");
        /* Only a header is read to plan: what is wrong beyond it is found by the run. */
        if (i == 1 && o->code == 0)
            return;
        expect_code(o, 1);
        assert_int_equal(strncmp(o->err, "brim: ", 6), 0);
        if (!strstr(o->err, path) || !strstr(o->err, word))
            fail_msg("no '%s' and '%s' in: %s", path, word, o->err);
        if (i == 1)
            assert_string_equal(o->out, "");
    }
}

static void bad_text_files(void **state)
{
    (void)state;
    expect_bad_data("llama-tiny", in_folder("no-such-text"), "No such file");
    expect_bad_data("gpt2-tiny", folder, "directory");
    expect_bad_data("gpt2-tiny", "/dev/null", "device");
    expect_bad_data("bert-tiny", make_file("empty", "", 0), "empty");
    expect_bad_data("llama-tiny", make_file("short", "shorter than a sequence", 23), "23 bytes");
    expect_bad_data("bert-tiny", make_text("one-sequence-of-two", 130), "130 bytes");
    if (geteuid() != 0) { /* root may read everything */
        const char *path = make_text("secret", 4096);
        chmod(path, 0);
        expect_bad_data("llama-tiny", path, "Permission denied");
    }
}

static void bad_image_files(void **state)
{
    (void)state;
    char file[192];
    expect_bad_data("mlp", in_folder("no-such-directory"), "not a directory");
    mkdir(in_folder("nothing"), 0700);
    expect_bad_data("mlp", in_folder("nothing"), "neither");
    expect_bad_data("mlp", make_text("a-text", 1000), "not a directory");
    static const struct {
        const char *name;
        int images, count;
        size_t damage;
        const char *word;
    } rows[] = {
        {"train-images-idx3-ubyte", 1, 100, 100, "train-images"}, /* truncated */
        {"train-labels-idx1-ubyte", 0, 99, 0, "99"},              /* fewer than images */
        {"train-images-idx3-ubyte", 0, 100, 0, "train-images"},   /* labels in its place */
        {"t10k-labels-idx1-ubyte", 0, 30, 31, "t10k-labels"},     /* not even a header */
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *directory = make_images("images");
        make_idx("images", rows[i].name, rows[i].images, rows[i].count, rows[i].damage);
        expect_bad_data("mlp", directory, rows[i].word);
    }
    make_images("images");
    memset(file, 250, sizeof file); /* labels beyond the ten classes */
    memcpy(file, (char[]){0, 0, 8, 1, 0, 0, 0, 100}, 8);
    make_file("images/train-labels-idx1-ubyte", file, 108);
    expect_bad_data("mlp", in_folder("images"), "images");
    remove(in_folder("images/train-images-idx3-ubyte"));
    make_images("images");
    remove(in_folder("images/train-images-idx3-ubyte"));
    make_file("images/train-images-idx3-ubyte.gz", "\x1f\x8b\x08 this is no gzip", 19);
    expect_bad_data("mlp", in_folder("images"), "train-images-idx3-ubyte.gz");
}

static void data_shorter_than_a_step_is_said(void **state)
{
    (void)state;
    const char *path = make_text("seven-sequences", 8 * 16 + 1); /* one of eight is held out */
    Outcome *o =
        expect_code(RUN("plan", "--data", path, "--seq", "16", "--batch", "5", "--accumulate", "2"), 0);
    assert_non_null(strstr(o->err, "7 samples"));
    assert_non_null(strstr(o->err, "not 10"));
    o = expect_code(RUN("plan", "--data", path, "--seq", "16", "--batch", "7"), 0);
    assert_string_equal(o->err, "");
}

/* ---- Plan ------------------------------------------------------------------------------------ */

static json_t *plan_json(const char **arguments)
{
    json_t *root = parse(expect_code(run_command(arguments), 0)->out);
    assert_keys(root, "model parameters active_parameters bracket threads step_flops checkpoint packer "
                      "memory largest_at_peak "
                      "places_at_peak");
    check_memory(json_object_get(root, "memory"), 0, 0);
    return root;
}

#define PLAN(...) plan_json((const char *[]){"brim", "plan", "--json", __VA_ARGS__, NULL})

static json_int_t peak_of(const json_t *root)
{
    return integer_at(json_object_get(root, "memory"), "peak_bytes");
}

static json_int_t group_of(const json_t *root, const char *name)
{
    return integer_at(json_object_get(json_object_get(root, "memory"), "groups"), name);
}

static void every_preset_plans(void **state)
{
    (void)state;
    const char *images = make_images("images");
    static char listing[1 << 14];
    Outcome *o = expect_code(RUN("models", "--json"), 0);
    assert_true(strlen(o->out) < sizeof listing);
    strcpy(listing, o->out);
    json_t *root = parse(listing), *model, *models = json_object_get(root, "models");
    size_t i;
    assert_keys(root, "models");
    assert_true(json_array_size(models) >= 15);
    json_array_foreach(models, i, model)
    {
        assert_keys(model, "model family parameters active_parameters");
        const char *name = json_string_value(json_object_get(model, "model"));
        int mlp = !strcmp(json_string_value(json_object_get(model, "family")), "mlp");
        json_t *plan = PLAN("--model", name, "--data", mlp ? images : "builtin", "--threads", "2");
        assert_string_equal(json_string_value(json_object_get(plan, "model")), name);
        json_int_t count = integer_at(model, "parameters"), bytes = group_of(plan, "parameters");
        assert_int_equal(integer_at(plan, "parameters"), count);
        assert_in_range(bytes, 4 * count, 4 * count + 4 * count / 100 + 4096);
        assert_true(real_at(plan, "step_flops") > (double)count);
        json_decref(plan);
    }
    json_decref(root);
}

static void the_largest_plans_at_once(void **state)
{
    (void)state;
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
    skip();
#endif
    const char *preload = getenv("LD_PRELOAD");
    if (preload && strstr(preload, "vgpreload"))
        skip();
    Outcome *o = expect_code(RUN("plan", "--model", "llama-3.1-405b"), 0);
    assert_non_null(strstr(o->out, "405,853,388,800 parameters"));
    /* It takes 20 ms of a processor and 11 MiB; what else the machine does hardly changes that. */
    if (o->processor_seconds > 1 || o->resident_peak > 64 << 20)
        fail_msg("planning llama-3.1-405b takes %.0f ms of a processor, %llu bytes",
                 1000 * o->processor_seconds, (unsigned long long)o->resident_peak);
}

/* What each flag does to the plan is what it says. */
static void flags_change_the_plan(void **state)
{
    (void)state;
    json_t *base = PLAN("--model", "llama-tiny"), *other;
    json_int_t peak = peak_of(base);
    other = PLAN("--model=llama-tiny", "--batch", "8", "--seq=128");
    assert_true(json_equal(base, other));
    json_decref(other);
    other = PLAN("--batch", "16");
    assert_true(peak_of(other) > peak && group_of(other, "parameters") == group_of(base, "parameters"));
    json_decref(other);
    other = PLAN("--optimizer", "adam");
    assert_int_equal(peak_of(other), peak);
    json_decref(other);
    other = PLAN("--optimizer", "sgd-momentum");
    assert_int_equal(group_of(other, "optimizer_states") * 2, group_of(base, "optimizer_states"));
    json_decref(other);
    other = PLAN("--accumulate", "2");
    assert_true(peak_of(other) > peak); /* gradients now live beside activations */
    json_decref(other);
    other = PLAN("--seq", "256");
    assert_true(real_at(other, "step_flops") > 2 * real_at(base, "step_flops"));
    json_decref(other);
    json_decref(base);
}

/* The built-in text is as long as a step needs: a plan of large batches is a plan of those batches. */
static void large_batches_are_planned_in_full(void **state)
{
    (void)state;
    json_t *one = PLAN("--model", "llama-3.2-1b", "--seq", "32768", "--batch", "64"),
           *two = PLAN("--model", "llama-3.2-1b", "--seq", "32768", "--batch", "128");
    double ratio = real_at(two, "step_flops") / real_at(one, "step_flops");
    assert_true(ratio > 1.99 && ratio < 2.01);
    json_decref(one);
    json_decref(two);
}

static void plan_tables(void **state)
{
    (void)state;
    Outcome *o =
        expect_code(RUN("plan", "--model", "gpt2", "--checkpoint", "blocks", "--optimizer", "sgd"), 0);
    assert_non_null(strstr(o->out, "124,439,808 parameters"));
    assert_non_null(strstr(o->out, "checkpoint blocks"));
    assert_int_equal(lines_starting(o->out, "optimizer states  "), 1);
    assert_int_equal(lines_starting(o->out, "Peak at: "), 1);
    assert_int_equal(lines_starting(o->out, "textbook P + G + O + A"), 1);
    assert_null(strstr(o->out, "measured"));
    assert_null(strstr(o->out, "nan"));
    assert_string_equal(o->err, "");
}

/* ---- Budget ---------------------------------------------------------------------------------- */

static void budgets(void **state)
{
    (void)state;
    char budget[32];
    json_t *base = PLAN("--threads", "1");
    json_int_t needs = integer_at(json_object_get(base, "memory"), "needs_bytes");
    json_decref(base);
    snprintf(budget, sizeof budget, "%lld", (long long)needs);
    Outcome *fits = expect_code(RUN("plan", "--threads", "1", "--budget", budget), 0);
    assert_int_equal(lines_starting(fits->out, "Fits: 0 B below"), 1);
    snprintf(budget, sizeof budget, "%lld", (long long)needs - 1);
    Outcome *o = expect_code(RUN("plan", "--threads", "1", "--budget", budget), 1);
    assert_non_null(strstr(o->err, "more than the budget"));
    o = expect_code(RUN("train", "--threads", "1", "--budget", budget), 1);
    assert_string_equal(o->out, "");
    assert_non_null(strstr(o->err, "it fits; the least cost comes first"));
    assert_non_null(strstr(o->err, "  --checkpoint blocks  "));
    assert_non_null(strstr(o->err, "  --batch 2 --accumulate 4 --checkpoint blocks  "));
    assert_null(strstr(o->err, "--attention eager"));
    o = expect_code(RUN("train", "--threads", "1", "--budget", "1MiB"), 1);
    assert_non_null(strstr(o->err, "1.0 MiB"));
    assert_null(strstr(o->err, "it fits"));
    assert_non_null(strstr(o->err, "the least need"));
    o = expect_code(RUN("train", "--model", "llama-3.1-405b"), 1);
    assert_non_null(strstr(o->err, "are free on this machine"));
}

/* ---- Compare --------------------------------------------------------------------------------- */

static const json_t *variant_called(const json_t *variants, const char *name)
{
    size_t i;
    json_t *one;
    json_array_foreach((json_t *)(uintptr_t)variants, i,
                       one) if (!strcmp(json_string_value(json_object_get(one, "variant")), name)) return one;
    fail_msg("no row '%s'", name);
    return NULL;
}

static void compare_rows(void **state)
{
    (void)state;
    json_t *root = parse(expect_code(RUN("compare", "--json", "--threads", "2"), 0)->out), *one;
    assert_keys(root, "model variants");
    const json_t *variants = json_object_get(root, "variants");
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)variants, i, one)
    {
        assert_keys(one, "variant options step_flops parameters active_parameters memory");
        check_memory(json_object_get(one, "memory"), 0, 0);
    }
    assert_int_equal(i, 24);
    const json_t *as_run = variant_called(variants, "as is"),
                 *sgd = variant_called(variants, "--optimizer sgd");
    const json_t *checkpoint = variant_called(variants, "--checkpoint blocks"),
                 *both = variant_called(variants, "--batch 2 --accumulate 4 --checkpoint blocks");
    const json_t *split = variant_called(variants, "--batch 2 --accumulate 4");
    const json_t *eager = variant_called(variants, "--attention eager");
    assert_true(peak_of(checkpoint) < peak_of(as_run) && peak_of(split) < peak_of(as_run));
    assert_true(peak_of(both) < peak_of(checkpoint) && peak_of(both) < peak_of(split));
    assert_true(peak_of(eager) > peak_of(as_run));
    assert_int_equal(peak_of(as_run) - peak_of(sgd), group_of(as_run, "optimizer_states"));
    assert_int_equal(group_of(sgd, "optimizer_states"), 0);
    double flops = real_at(as_run, "step_flops");
    assert_true(real_at(checkpoint, "step_flops") > 1.2 * flops &&
                real_at(checkpoint, "step_flops") < 1.4 * flops);
    assert_true(real_at(split, "step_flops") > 0.99 * flops && real_at(split, "step_flops") < 1.01 * flops);
    json_decref(root);
}

static void compare_tables(void **state)
{
    (void)state;
    Outcome *o =
        expect_code(RUN("compare", "--model", "gpt2-tiny", "--optimizer", "sgd", "--attention", "eager"), 0);
    assert_int_equal(lines_starting(o->out, "as is "), 3); /* once in each of three tables */
    assert_int_equal(lines_starting(o->out, "--attention flash"), 3);
    assert_int_equal(lines_starting(o->out, "--optimizer sgd"), 0); /* it already is */
    o = expect_code(RUN("compare", "--batch", "3", "--checkpoint", "blocks"), 0);
    assert_int_equal(lines_starting(o->out, "--checkpoint"), 0);
    assert_int_equal(lines_starting(o->out, "--batch 1 --accumulate 3 "), 3); /* 3 cannot be halved */
    assert_int_equal(lines_starting(o->out, "--optimizer-in-backward "), 3);  /* with blocks already on */
    o = expect_code(RUN("compare", "--model", "mlp", "--data", make_images("images"), "--batch", "64"), 0);
    assert_int_equal(lines_starting(o->out, "--attention"), 0);
    expect_code(RUN("compare", "--data", in_folder("none")), 1);
}

static void models_are_listed(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("models"), 0);
    static const char *const lines[] = {"mlp ",       "llama-tiny ", "gpt2-tiny ",
                                        "bert-tiny ", "gpt2 ",       "llama-3.1-405b "};
    for (size_t i = 0; i < COUNT(lines); i++)
        assert_int_equal(lines_starting(o->out, lines[i]), 1);
    assert_non_null(strstr(o->out, "6,123,168"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_usage),
        cmocka_unit_test(help_and_version),
        cmocka_unit_test(bad_text_files),
        cmocka_unit_test(bad_image_files),
        cmocka_unit_test(data_shorter_than_a_step_is_said),
        cmocka_unit_test(every_preset_plans),
        cmocka_unit_test(the_largest_plans_at_once),
        cmocka_unit_test(flags_change_the_plan),
        cmocka_unit_test(large_batches_are_planned_in_full),
        cmocka_unit_test(plan_tables),
        cmocka_unit_test(budgets),
        cmocka_unit_test(compare_rows),
        cmocka_unit_test(compare_tables),
        cmocka_unit_test(models_are_listed),
    };
    return cmocka_run_group_tests_name("command", tests, make_folder, remove_folder);
}
