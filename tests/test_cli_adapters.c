/* Adapters at the command line: what --lora takes, what is refused, an adapter trained, written, read,
 * trained further, merged, and a run of one resumed to the last bit. */
#include "cli_support.h"

#define SMALL                                                                                                \
    "--threads", "1", "--batch", "1", "--seq", "16", "--max-samples", "8", "--data", in_folder("text")
#define TRAIN "train", SMALL, "--init", in_folder("base")

/* ---- What is refused ------------------------------------------------------------------------- */

typedef struct Refusal {
    const char *arguments[8], *says;
} Refusal;

static void refused(const Refusal *r)
{
    const char *all[16] = {"brim", "plan"};
    int count = 2;
    for (int i = 0; i < 8 && r->arguments[i]; i++)
        all[i == 0 && r->arguments[0][0] != '-' ? 1 : count++] = r->arguments[i];
    Outcome *o = run_command(all);
    if (o->code != 2 || !strstr(o->err, r->says))
        fail_msg("%s %s: code %d, no '%s' in: %s", all[1], all[2], o->code, r->says, o->err);
}

static void what_lora_takes(void **state)
{
    (void)state;
    static const Refusal wrong[] = {
        {{"--lora", "r=0"}, "--lora: r must be a whole number from 1 to 65536, not '0'"},
        {{"--lora", "r=4,alpha=x"}, "--lora: alpha must be a number from 1e-06 to 1e+06, not 'x'"},
        {{"--lora", "dropout=1"}, "--lora: dropout must be a number from 0 to 0.999, not '1'"},
        {{"--lora", "targets="}, "--lora: targets= needs names of layers, or all"},
        {{"--lora", "targets=all,q_proj"}, "--lora: targets=all is every linear layer"},
        {{"--lora", "targets=q_proj,all"}, "--lora: targets=all is every linear layer"},
        {{"--lora", "rank=4"}, "--lora: 'rank=4' is not known; it takes r=16,alpha=32,dropout=0.05"},
        {{"--lora", "r=4,q_proj"}, "--lora: 'q_proj' is not known"},
        {{"--lora", ""}, "--lora needs a value"},
    };
    for (size_t i = 0; i < COUNT(wrong); i++)
        refused(&wrong[i]);
    Outcome *o = RUN("plan", "--lora", "r=4,targets=nothing_proj", "--seq", "16");
    assert_non_null(
        strstr(expect_code(o, 1)->err, "has no layer 'nothing_proj'; those that can have an adapter"));
    o = expect_code(
        RUN("plan", "--seq", "16", "--lora", "targets=q_proj,v_proj,rslora,r=4,alpha=2.5,dropout=0.25"), 0);
    assert_non_null(strstr(o->out, "  LoRA r 4, alpha 2.5, q_proj,v_proj, dropout 0.25, rslora  "));
    o = expect_code(RUN("plan", "--seq", "16", "--lora", "r=3"), 0);
    assert_non_null(strstr(o->out, "  LoRA r 3, alpha 8, all layers  "));
}

static void what_does_not_go_together(void **state)
{
    (void)state;
    static const Refusal wrong[] = {
        {{"--lora", "r=4", "--adapter", "x"},
         "--lora r=4 excludes --adapter x: an adapter that is read has its own"},
        {{"train", "--merge"}, "--merge needs --export DIR"},
        {{"train", "--merge", "--export", "x"}, "--merge needs adapters: --lora r=16,alpha=32 makes some"},
        {{"train", "--export-adapter", "x"}, "--export-adapter needs adapters"},
        {{"train", "--lora", "r=4", "--export", "x"},
         "--merge adds them to its weights, --export-adapter DIR writes"},
        {{"train", "--lora", "r=4", "--merge", "--export", ".", "--export-adapter", "."},
         "name two directories"},
        {{"--adapter", "no/such"}, "--adapter no/such: cannot open: "},
        {{"train", "--overwrite"}, "--overwrite needs --export DIR or --export-adapter DIR"},
        {{"generate", "--lora", "r=4"}, "--lora means nothing to `brim generate`"},
        {{"--merge"}, "--merge"},
        {{"--inference", "--lora", "r=4"}, "--lora means nothing beside --inference"},
    };
    for (size_t i = 0; i < COUNT(wrong); i++)
        refused(&wrong[i]);
}

/* ---- What is planned ------------------------------------------------------------------------- */

static uint64_t peak_of(const json_t *root, const char *component)
{
    const json_t *memory = json_object_get(root, "memory");
    const json_t *one = json_object_get(json_object_get(memory, "components"), component);
    return (uint64_t)json_integer_value(json_object_get(one, "peak"));
}

/* Published sizes: rank 16 on all linear layers of Llama 3.1 8B is 41,943,040 elements, q and v alone
 * 6,815,744. */
static void bytes_of_a_large_model(void **state)
{
    (void)state;
    static const struct {
        const char *lora;
        int64_t trained;
    } published[] = {
        {"r=16,alpha=32", 41943040}, {"r=16,targets=q_proj,v_proj", 6815744}, {"r=64", 167772160}};
    for (size_t i = 0; i < COUNT(published); i++) {
        json_t *root = parse(expect_code(RUN("plan", "--model", "llama-3.1-8b", "--seq", "128", "--json",
                                             "--threads", "2", "--lora", published[i].lora),
                                         0)
                                 ->out);
        int64_t trained = json_integer_value(json_object_get(root, "trained"));
        assert_int_equal(trained, published[i].trained);
        assert_int_equal(json_integer_value(json_object_get(root, "parameters")), 8030261248);
        assert_int_equal(peak_of(root, "optimizer"), 8 * (uint64_t)trained); /* divisible by a block each */
        assert_int_equal(peak_of(root, "frozen"), 4 * UINT64_C(8030261248));
        json_decref(root);
    }
    Outcome *o =
        expect_code(RUN("plan", "--model", "llama-3.1-8b", "--seq", "128", "--lora", "r=16,alpha=32"), 0);
    assert_non_null(strstr(o->out, "\nbase 4 x 8.03B frozen; adapters 4 + 4 + 8 = 16 bytes x 41,943,040\n"));
    o = expect_code(RUN("plan", "--seq", "16", "--lora", "r=4", "--optimizer", "sgd"), 0);
    assert_non_null(strstr(o->out, "adapters 4 + 4 + 0 = 8 bytes x "));
}

static void fit_tries_adapters(void **state)
{
    (void)state;
    Outcome *o = RUN("fit", "--model", "llama-tiny", "--seq", "64", "--threads", "2", "--memory", "40MiB",
                     "--reserve", "0");
    assert_non_null(strstr(o->out, "\nLoRA on bf16 is --lora r=16,alpha=32 --weights bf16"));
    assert_non_null(strstr(o->out, "\nLoRA on bf16 + blocks "));
    o = RUN("fit", "--model", "llama-tiny", "--seq", "64", "--threads", "2", "--memory", "40MiB", "--reserve",
            "0", "--lora", "r=2");
    assert_null(strstr(o->out, "r=16"));
    o = RUN("fit", "--model", "mlp", "--data", make_images("images"), "--threads", "2", "--memory", "40MiB",
            "--reserve", "0");
    assert_null(strstr(o->out, "LoRA"));
}

/* ---- An adapter's life ------------------------------------------------------------------------ */

static json_t *trained(Outcome *o)
{
    return parse(expect_code(o, 0)->out);
}

static double number_at(const json_t *root, const char *name)
{
    return json_number_value(json_object_get(root, name));
}

static double held_out(const json_t *root)
{
    return number_at(json_object_get(root, "validation"), "loss");
}

static int same_files(const char *a, const char *b)
{
    char command[512];
    snprintf(command, sizeof command, "cmp -s %s/%s %s/%s", folder, a, folder, b);
    return system(command) == 0;
}

static void an_adapter_from_training_to_a_model(void **state)
{
    (void)state;
    json_t *first = trained(RUN(TRAIN, "--steps", "6", "--lora", "r=4,alpha=16", "--lr", "0.01",
                                "--export-adapter", in_folder("a"), "--json"));
    assert_true(number_at(first, "loss_last") < number_at(first, "loss_first"));
    assert_int_equal(json_integer_value(json_object_get(first, "trained")), 131328);
    Outcome *o = expect_code(RUN(TRAIN, "--steps", "1", "--adapter", in_folder("a"), "--lr", "0", "--merge",
                                 "--export", in_folder("merged")),
                             0);
    assert_non_null(strstr(o->out, "  adapter "));
    assert_non_null(strstr(o->out, "The weights are in "));
    json_t *merged =
        trained(RUN("train", SMALL, "--init", in_folder("merged"), "--steps", "1", "--lr", "0", "--json"));
    double before = held_out(first), after = held_out(merged);
    assert_true(before - after < 1e-4 && after - before < 1e-4);
    json_t *base = trained(RUN(TRAIN, "--steps", "1", "--lr", "0", "--json"));
    assert_true(held_out(base) > after + 0.01);
    json_decref(base);
    json_decref(first);
    json_decref(merged);
    o = expect_code(RUN("generate", "--init", in_folder("base"), "--adapter", in_folder("a"), "--prompt",
                        "the cat", "--tokens", "8", "--temperature", "0", "--threads", "1"),
                    0);
    assert_non_null(strstr(o->out, "Adapter: "));
    char with[64], text[64];
    snprintf(with, sizeof with, "%.60s", strstr(o->out, "the cat"));
    o = expect_code(RUN("generate", "--init", in_folder("merged"), "--prompt", "the cat", "--tokens", "8",
                        "--temperature", "0", "--threads", "1"),
                    0);
    snprintf(text, sizeof text, "%.60s", strstr(o->out, "the cat"));
    *strchrnul(with, '\n') = *strchrnul(text, '\n') = '\0';
    assert_string_equal(with, text);
}

static void a_random_base_is_said(void **state)
{
    (void)state;
    static const char says[] =
        "\nweights: random, and what adapters learn is of use on trained ones (--init)\n";
    Outcome *o =
        expect_code(RUN("train", SMALL, "--model", "llama-tiny", "--steps", "1", "--lora", "r=2"), 0);
    assert_non_null(strstr(o->out, says));
    o = expect_code(RUN("train", SMALL, "--model", "llama-tiny", "--steps", "1"), 0);
    assert_null(strstr(o->out, "weights: "));
    o = expect_code(RUN(TRAIN, "--steps", "1", "--lora", "r=2"), 0);
    assert_null(strstr(o->out, "weights: random"));
    assert_non_null(strstr(o->out, "\nweights: "));
}

/* Over itself, over another, and where it would be wrong. */
static void where_adapters_go(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        expect_code(RUN(TRAIN, "--steps", "1", "--lora", "r=2", "--export-adapter", in_folder("b")), 0);
    Outcome *o = RUN(TRAIN, "--steps", "1", "--lora", "r=3", "--export-adapter", in_folder("b"));
    assert_non_null(strstr(expect_code(o, 1)->err, "holds another adapter"));
    expect_code(
        RUN(TRAIN, "--steps", "1", "--lora", "r=3", "--export-adapter", in_folder("b"), "--overwrite"), 0);
    o = RUN(TRAIN, "--steps", "1", "--lora", "r=3", "--export-adapter", in_folder("base"), "--overwrite");
    assert_non_null(strstr(expect_code(o, 1)->err, "holds a whole model"));
    o = RUN(TRAIN, "--steps", "1", "--lora", "r=3", "--export-adapter", in_folder("none"), "--budget",
            "1MiB");
    assert_non_null(strstr(expect_code(o, 1)->err, "more than the budget"));
    assert_int_equal(access(in_folder("none"), F_OK), -1); /* a run that is refused leaves no directory */
    o = RUN("train", SMALL, "--init", in_folder("b"), "--steps", "1");
    assert_non_null(strstr(expect_code(o, 1)->err, "this directory with --adapter"));
}

/* Saved without the base, resumed with it, and refused on another. */
static void a_run_is_resumed(void **state)
{
    (void)state;
    expect_code(RUN(TRAIN, "--steps", "4", "--lora", "r=2,dropout=0.1", "--save", in_folder("straight")), 0);
    expect_code(RUN(TRAIN, "--steps", "4", "--lora", "r=2,dropout=0.1", "--save", in_folder("chain"),
                    "--save-every", "2", "--keep", "9"),
                0);
    char command[256];
    snprintf(command, sizeof command, "rm -r %s/chain/step-00000004", folder);
    assert_int_equal(system(command), 0);
    Outcome *o = expect_code(RUN(TRAIN, "--steps", "4", "--lora", "r=2,dropout=0.1", "--save",
                                 in_folder("chain"), "--resume", in_folder("chain")),
                             0);
    assert_non_null(strstr(o->out, "resumes after step 2"));
    assert_true(
        same_files("straight/step-00000004/model.safetensors", "chain/step-00000004/model.safetensors"));
    assert_true(same_files("straight/step-00000004/optimizer.safetensors",
                           "chain/step-00000004/optimizer.safetensors"));
    o = RUN("train", SMALL, "--init", in_folder("other"), "--steps", "6", "--lora", "r=2,dropout=0.1",
            "--resume", in_folder("chain"));
    assert_non_null(strstr(expect_code(o, 1)->err, "the weights that are given now are others"));
    o = RUN(TRAIN, "--steps", "6", "--lora", "r=3,dropout=0.1", "--resume", in_folder("chain"));
    assert_non_null(strstr(expect_code(o, 1)->err, "lora is r=3,dropout=0.1, was r=2,dropout=0.1"));
    o = RUN(TRAIN, "--steps", "6", "--resume", in_folder("chain"));
    assert_non_null(strstr(expect_code(o, 1)->err, "and this one trains the whole model"));
}

static int make_files(void **state)
{
    if (make_folder(state))
        return -1;
    make_text("text", 4000);
    for (int i = 0; i < 2; i++)
        expect_code(RUN("train", SMALL, "--model", "llama-tiny", "--steps", "1", "--seed", i ? "2" : "1",
                        "--export", in_folder(i ? "other" : "base")),
                    0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_lora_takes),
        cmocka_unit_test(what_does_not_go_together),
        cmocka_unit_test(bytes_of_a_large_model),
        cmocka_unit_test(fit_tries_adapters),
        cmocka_unit_test(an_adapter_from_training_to_a_model),
        cmocka_unit_test(a_random_base_is_said),
        cmocka_unit_test(where_adapters_go),
        cmocka_unit_test(a_run_is_resumed),
    };
    return cmocka_run_group_tests_name("adapters", tests, make_files, remove_folder);
}
