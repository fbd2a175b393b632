/* What weights are stored as, and adapters, as a user types them: values, refusals, the brackets of the
 * headline, and the four ways to tune a model with their bytes. */
#include "cli_support.h"

/* ---- Values ---------------------------------------------------------------------------------- */

typedef struct Refusal {
    const char *arguments[8], *says;
} Refusal;

static void refused(const Refusal *refusal)
{
    const char *arguments[10] = {"brim"};
    memcpy(arguments + 1, refusal->arguments, sizeof refusal->arguments);
    Outcome *o = expect_code(run_command(arguments), 2);
    if (!strstr(o->err, refusal->says))
        fail_msg("no \"%s\" in: %s", refusal->says, o->err);
    assert_string_equal(o->out, "");
}

static void values_are_read_or_refused(void **state)
{
    (void)state;
    static const Refusal refusals[] = {
        {{"plan", "--weights", "bfloat16"}, "fp32, bf16 or fp16, not 'bfloat16'"},
        {{"plan", "--weights", "model.safetensors"}, "--init PATH reads trained weights"},
        {{"plan", "--quantize", "fp4"}, "none, nf4, nf4-plain, int8, not 'fp4'"},
        {{"plan", "--quantize", "nf4", "--weights", "bf16"}, "needs --lora"},
        {{"generate", "--lora", "r=8"}, "--lora means nothing to `brim generate`"},
        {{"plan", "--inference", "--lora", "r=8"}, "--lora means nothing beside --inference"},
        {{"compare", "--four-ways", "--batch", "1,2"}, "a list is none"},
        {{"compare", "--four-ways", "--lora", "r=8"}, "--lora means nothing beside --four-ways"},
        {{"compare", "--four-ways", "--model", "mlp"}, "read text"},
        {{"plan", "--four-ways"}, "--four-ways belongs to `brim compare`"},
    };
    for (size_t i = 0; i < COUNT(refusals); i++)
        refused(&refusals[i]);
}

/* What is trained itself follows --precision. */
static void full_training_refuses_other_types(void **state)
{
    (void)state;
    static const char *const commands[] = {"train", "plan", "compare", "fit"};
    for (size_t i = 0; i < COUNT(commands); i++) {
        refused(
            &(Refusal){{commands[i], "--weights", "bf16"}, "--weights bf16 needs --lora r=16,alpha=32: "});
        refused(
            &(Refusal){{commands[i], "--weights", "fp16"}, "trained themselves are what --precision says"});
        refused(&(Refusal){{commands[i], "--quantize", "nf4"}, "--quantize nf4 needs --lora"});
    }
    const char *merged[] = {
        "brim", "train", "--lora", "r=8", "--quantize", "int8", "--merge", "--export", in_folder("merged"),
        NULL};
    Outcome *o = expect_code(run_command(merged), 2);
    assert_non_null(strstr(o->err, "--merge excludes --quantize int8: "));
    expect_code(RUN("plan", "--weights", "fp32", "--quantize", "none", "--seq", "16"), 0);
}

/* ---- Brackets -------------------------------------------------------------------------------- */

static void has(const Outcome *o, const char *text)
{
    if (!strstr(o->out, text))
        fail_msg("no \"%s\" in:\n%s", text, o->out);
}

static void the_headline_has_the_bracket(void **state)
{
    (void)state;
    static const struct {
        const char *arguments[9], *says;
    } rows[] = {
        {{"plan", "llama-tiny"}, "  6,123,168 parameters  fp32  AdamW  "},
        {{"plan", "llama-tiny"}, "\ntrained 4 + 4 + 8 = 16 bytes x 6,123,168\n"},
        {{"plan", "llama-tiny", "--optimizer", "sgd"}, "\ntrained 4 + 4 + 0 = 8 bytes x 6,123,168\n"},
        {{"plan", "llama-tiny", "--optimizer", "sgd-momentum"}, "4 + 4 + 4 = 12 bytes x 6,123,168\n"},
        {{"compare", "gpt2"}, "\ntrained 4 + 4 + 8 = 16 bytes x 124,439,808\n"},
        {{"fit", "gpt2", "--memory", "4GiB"}, "\ntrained 4 + 4 + 8 = 16 bytes x 124,439,808\n"},
        {{"plan", "llama-3.1-8b", "--lora", "r=16,alpha=32"},
         "\nbase 4 x 8.03B frozen; adapters 4 + 4 + 8 = 16 bytes x 41,943,040\n"},
        {{"plan", "llama-3.1-8b", "--lora", "r=16,alpha=32", "--weights", "bf16"},
         "8,030,261,248 parameters  bf16  "},
        {{"plan", "llama-3.1-8b", "--lora", "r=16,alpha=32", "--weights", "bf16"},
         "\nbase 2 x 8.03B frozen; adapters 4 + 4 + 8 = 16 bytes x 41,943,040\n"},
        {{"plan", "llama-3.1-8b", "--lora", "r=16,alpha=32", "--weights", "bf16", "--quantize", "nf4"},
         "  nf4, rest bf16  "},
        {{"plan", "llama-3.1-8b", "--lora", "r=16,alpha=32", "--weights", "bf16", "--quantize", "nf4"},
         "  LoRA r 16, alpha 32, all layers  "},
        {{"plan", "llama-3.1-8b", "--lora", "r=16,alpha=32", "--weights", "bf16", "--quantize", "nf4"},
         "\nbase 0.516 x 6.98B + 2 x 1.05B frozen; adapters 4 + 4 + 8 = 16 bytes x 41,943,040\n"},
        {{"plan", "llama-3.1-8b", "--lora", "r=8,targets=q_proj,v_proj", "--weights", "bf16", "--quantize",
          "nf4-plain"},
         "\nbase 0.562 x 6.98B + 2 x 1.05B frozen; adapters 4 + 4 + 8 = 16 bytes x 3,407,872\n"},
        {{"plan", "llama-3.1-8b", "--lora", "r=64,rslora", "--weights", "fp16", "--quantize", "int8"},
         "\nbase 1 x 6.98B + 2 x 1.05B frozen; adapters 4 + 4 + 8 = 16 bytes x 167,772,160\n"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *arguments[11] = {"brim"};
        memcpy(arguments + 1, rows[i].arguments, sizeof rows[i].arguments);
        Outcome *o = run_command(arguments);
        assert_in_range(o->code, 0, 1);
        has(o, rows[i].says);
    }
    Outcome *o = expect_code(RUN("compare", "--optimizer", "sgd,adamw", "--seq", "16"), 0);
    assert_null(strstr(o->out, "bytes x"));
}

/* ---- Bytes of the plan ----------------------------------------------------------------------- */

static json_t *json_of(Outcome *outcome, int code)
{
    return parse(expect_code(outcome, code)->out);
}

static json_int_t component(const json_t *memory, const char *name, const char *which)
{
    return integer_at(json_object_get(json_object_get(memory, "components"), name), which);
}

#define LLAMA "llama-3.1-8b", "--json", "--checkpoint", "blocks", "--lora", "r=16,alpha=32"

/* A block is a multiple of 64 bytes. An NF4 matrix has 4 bytes behind a multiple of 64: 60 are added, 224
 * times. */
static void nf4_takes_these_bytes(void **state)
{
    (void)state;
    json_t *root = json_of(RUN("plan", LLAMA, "--weights", "bf16", "--quantize", "nf4"), 0);
    const json_t *bracket = json_object_get(root, "bracket"), *trained = json_object_get(bracket, "trained"),
                 *memory = json_object_get(root, "memory"),
                 *nf4 = json_array_get(json_object_get(bracket, "frozen"), 0),
                 *rest = json_array_get(json_object_get(bracket, "frozen"), 1);
    assert_int_equal(integer_at(root, "parameters"), 8030261248);
    assert_string_equal(json_string_value(json_object_get(nf4, "type")), "nf4");
    assert_int_equal(integer_at(nf4, "parameters"), 6979321856);
    assert_int_equal(integer_at(nf4, "bytes"), 3600417664);
    assert_int_equal(integer_at(rest, "parameters"), 1050939392);
    assert_int_equal(integer_at(nf4, "bytes") + integer_at(rest, "bytes"), 5702296448);
    assert_int_equal(component(memory, "frozen", "peak"), 5702296448 + 224 * 60);
    assert_int_equal(component(memory, "frozen", "at_peak"), 5702296448 + 224 * 60);
    assert_int_equal(integer_at(trained, "parameters"), 41943040);
    assert_int_equal(integer_at(trained, "bytes"), 167772160);
    assert_int_equal(integer_at(trained, "bytes") + integer_at(trained, "gradient_bytes") +
                         integer_at(trained, "state_bytes"),
                     671088640);
    assert_int_equal(component(memory, "parameter", "peak"), 167772160);
    assert_int_equal(component(memory, "gradient", "peak"), 167772160);
    assert_int_equal(component(memory, "optimizer", "peak"), 335544320);
    json_decref(root);
}

static void other_types_take_these_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *weights, *quantized;
        json_int_t bytes, rounded;
    } rows[] = {
        {"bf16", "none", 16060522496, 0},
        {"fp32", "none", 32121044992, 0},
        {"bf16", "nf4-plain", 3925868544 + 2101878784, 0},
        {"fp16", "int8", 9086705664, 0},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        json_t *root =
            json_of(RUN("plan", LLAMA, "--weights", rows[i].weights, "--quantize", rows[i].quantized), 0);
        const json_t *frozen = json_object_get(json_object_get(root, "bracket"), "frozen"), *one;
        json_int_t bytes = 0;
        for (size_t k = 0; (one = json_array_get(frozen, k)); k++)
            bytes += integer_at(one, "bytes");
        assert_int_equal(bytes, rows[i].bytes);
        assert_int_equal(component(json_object_get(root, "memory"), "frozen", "peak"),
                         rows[i].bytes + rows[i].rounded);
        json_decref(root);
    }
}

/* ---- Four ways ------------------------------------------------------------------------------- */

/* Of each: its states, which are the lesson's, and that its parts sum to what a plan of it needs. */
static void four_ways_of_the_8b(void **state)
{
    (void)state;
    static const struct {
        const char *way, *options[6];
        json_int_t states;
        int taught;
    } ways[] = {
        {"full fp32", {0}, 128484179968, 1},
        {"16-bit with master", {"--precision", "bf16-mixed"}, 128484179968, 0},
        {"16-bit mixed", {"--precision", "bf16-states32"}, 96363134976, 1},
        {"pure bf16", {"--precision", "bf16"}, 64242089984, 0},
        {"bf16, 8-bit states", {"--precision", "bf16", "--optimizer", "adamw8bit"}, 51568115840, 0},
        {"LoRA on bf16", {"--lora", "r=16,alpha=32", "--weights", "bf16"}, 16731611136, 1},
        {"QLoRA", {"--lora", "r=16,alpha=32", "--weights", "bf16", "--quantize", "nf4"}, 6373385088, 1},
    };
    json_t *root = json_of(RUN("compare", "--four-ways", "--json", "--threads", "2"), 0);
    assert_keys(root, "model parameters batch seq threads ways fits");
    for (size_t i = 0; i < COUNT(ways); i++) {
        const json_t *way = json_array_get(json_object_get(root, "ways"), i);
        assert_string_equal(json_string_value(json_object_get(way, "way")), ways[i].way);
        assert_int_equal(integer_at(way, "states_bytes"), ways[i].states);
        assert_int_equal(json_object_get(way, "lesson_bytes") != NULL, ways[i].taught);
        assert_true(!ways[i].taught || integer_at(way, "lesson_bytes") == ways[i].states);
        assert_int_equal(sum_of(json_object_get(way, "parts"), NULL), integer_at(way, "needs_bytes"));
        assert_true(json_is_true(json_object_get(way, "planned")));
        const char *arguments[20] = {"brim",      "plan", "llama-3.1-8b", "--checkpoint", "blocks",
                                     "--threads", "2",    "--json"};
        memcpy(arguments + 8, ways[i].options, sizeof ways[i].options);
        json_t *plan = json_of(run_command(arguments), 0);
        assert_true(json_equal(json_object_get(plan, "memory"), json_object_get(way, "memory")));
        assert_int_equal(integer_at(json_object_get(plan, "memory"), "needs_bytes"),
                         integer_at(way, "needs_bytes"));
        json_decref(plan);
    }
    json_decref(root);
}

/* A cell says what `plan --budget` says. */
static void cells_are_plans(void **state)
{
    (void)state;
    json_t *root = json_of(RUN("compare", "--four-ways", "--json", "--threads", "2"), 0);
    const json_t *fits = json_object_get(root, "fits"), *one;
    assert_int_equal(json_array_size(fits), 28);
    int checked = 0;
    for (size_t i = 0; (one = json_array_get(fits, i)); i++) {
        const char *model = json_string_value(json_object_get(one, "model"));
        if (strcmp(json_string_value(json_object_get(one, "way")), "QLoRA") != 0)
            continue;
        json_t *plan = json_of(RUN("plan", model, "--checkpoint", "blocks", "--threads", "2", "--json",
                                   "--lora", "r=16,alpha=32", "--weights", "bf16", "--quantize", "nf4"),
                               0);
        json_int_t needs = integer_at(json_object_get(plan, "memory"), "needs_bytes");
        assert_int_equal(needs, integer_at(one, "needs_bytes"));
        const json_t *t4 = json_array_get(json_object_get(one, "cards"), 0);
        json_int_t limit = (json_int_t)(14.75 * 0x1p30) - (1 << 30);
        assert_int_equal(integer_at(t4, "free_bytes"), limit - needs);
        assert_int_equal(json_is_true(json_object_get(t4, "fits")), needs <= limit);
        json_decref(plan);
        checked++;
    }
    assert_int_equal(checked, 4);
    json_decref(root);
}

static void four_ways_as_a_table(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("compare", "--four-ways"), 0);
    static const char *const lines[] = {
        "GB = 10^9 bytes               full    16-bit,     16-bit       pure      bf16,       LoRA      "
        "QLoRA\n",
        "                              fp32     master      mixed       bf16      8-bit    on bf16     on "
        "nf4\n",
        "\nstates alone                128.48     128.48      96.36      64.24      51.57      16.73       "
        "6.37\n",
        "\nthe lesson's figure          128.5          -       96.4          -          -       16.7        "
        "6.4\n",
        "\nfrozen weights                   -          -          -          -          -      16.06       "
        "5.70\n",
        "\nmaster weights                   -      32.12          -          -          -          -         "
        " -\n",
        "\nllama-3.2-1b full fp32",
        "\nllama-2-13b  full fp32",
        "\n16-bit with master  trained 2 + 2 + 4 + 8 = 16 bytes x 8,030,261,248\n",
        "\n16-bit mixed        trained 2 + 2 + 8 = 12 bytes x 8,030,261,248\n",
        "\nbf16, 8-bit states  trained 2 + 2 + 2.42 = 6.42 bytes x 8,030,261,248\n",
        "\nQLoRA               base 0.516 x 6.98B + 2 x 1.05B frozen; adapters 4 + 4 + 8 = 16 bytes x "
        "41,943,040\n",
    };
    for (size_t i = 0; i < COUNT(lines); i++)
        has(o, lines[i]);
    o = expect_code(RUN("compare", "--four-ways", "--model", "gpt2-tiny", "--seq", "32"), 0);
    assert_null(strstr(o->out, "the lesson's figure"));
    has(o, "MB = 10^6 bytes");
    o = expect_code(RUN("compare", "--four-ways", "--seq", "8192"), 0);
    has(o, "llama-2-7b   has only 4096 positions");
}

/* ---- Advice ---------------------------------------------------------------------------------- */

/* Adapters are tried, marked, and named where nothing else fits. */
static void adapters_are_advised(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("fit", "llama-3.1-8b", "--card", "t4,rtx-3090"), 0);
    has(o, "It fits ");
    has(o, "--lora r=16,alpha=32 --weights bf16 --quantize nf4");
    has(o, ". With --lora adapters are trained instead of the weights.\n");
    has(o, "\nLoRA on bf16 is --lora r=16,alpha=32 --weights bf16; QLoRA is --lora r=16,alpha=32 --weights "
           "bf16 --quantize nf4.\n16 bit is --precision bf16; bf16, 8-bit AdamW is --optimizer adamw8bit "
           "--precision bf16.\nLoRA and QLoRA train adapters beside frozen weights: another training");
    o = expect_code(RUN("plan", "llama-3.1-8b", "--budget", "20GiB"), 1);
    assert_non_null(strstr(o->err, "  --checkpoint blocks --lora r=16,alpha=32 --weights bf16  needs "));
    assert_non_null(strstr(o->err, "\nWith --lora adapters are trained instead of the weights.\n"));
    /* With --lora typed it is the base that is left. */
    o = expect_code(RUN("compare", "llama-3.1-8b", "--lora", "r=8,alpha=8", "--weights", "bf16"), 0);
    has(o, "\nQLoRA ");
    assert_null(strstr(o->out, "LoRA on bf16"));
    has(o, "QLoRA is --quantize nf4.\n16 bit is --precision bf16.\n");
    o = expect_code(RUN("compare", "mlp", "--data", make_images("images"), "--batch", "8"), 0);
    assert_null(strstr(o->out, "LoRA"));
}

/* A row has as many values as the heading has names, though --lora has commas of its own. */
static int columns(const char *line)
{
    int count = 1, quoted = 0;
    for (; *line && *line != '\n'; line++) {
        quoted ^= *line == '"';
        count += *line == ',' && !quoted;
    }
    return count;
}

static void commas_are_quoted(void **state)
{
    (void)state;
    Outcome *o =
        expect_code(RUN("compare", "--csv", "--batch", "1", "--seq", "16", "--lora", "r=2,alpha=4"), 0);
    const char *row = strchr(o->out, '\n') + 1;
    has(o, ",\"r=2,alpha=4\",fp32,,,,fp32,none,");
    for (; *row; row = strchr(row, '\n') + 1)
        assert_int_equal(columns(row), columns(o->out));
}

/* ---- Runs ------------------------------------------------------------------------------------ */

static void a_run_is_its_plan(void **state)
{
    (void)state;
    static const char *const types[][2] = {
        {"fp32", "none"}, {"bf16", "none"}, {"fp16", "int8"}, {"bf16", "nf4"}, {"fp32", "nf4-plain"}};
    for (size_t i = 0; i < COUNT(types); i++) {
        Outcome *o = expect_code(RUN("train", "llama-tiny", "--threads", "2", "--batch", "2", "--seq", "32",
                                     "--steps", "3", "--max-samples", "16", "--lora", "r=4,dropout=0.1",
                                     "--weights", types[i][0], "--quantize", types[i][1]),
                                 0);
        has(o, "   0 bytes apart\n");
        has(o, " frozen; adapters 4 + 4 + 8 = 16 bytes x ");
    }
}

static void texts_from_stored_weights(void **state)
{
    (void)state;
    static const struct {
        const char *weights, *quantized, *rule;
        int bits;
    } rows[] = {{"fp32", "none", "P x 4 bytes", 32},
                {"bf16", "none", "P x Q/8 bytes, Q = 16", 16},
                {"fp16", "int8", "P x Q/8 bytes, Q = 8", 8},
                {"bf16", "nf4", "P x Q/8 bytes, Q = 4", 4}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        Outcome *o = expect_code(RUN("generate", "--threads", "2", "--tokens", "5", "--weights",
                                     rows[i].weights, "--quantize", rows[i].quantized),
                                 0);
        has(o, rows[i].rule);
        json_t *root = json_of(RUN("plan", "--inference", "--json", "--weights", rows[i].weights,
                                   "--quantize", rows[i].quantized),
                               0);
        assert_int_equal(integer_at(json_object_get(root, "textbook"), "weights_bytes"),
                         integer_at(root, "parameters") * rows[i].bits / 8);
        json_decref(root);
    }
}

/* ---- Files that are quantised ---------------------------------------------------------------- */

#define CHECKPOINT(name) "tests/precision/fixtures/ckpt_" name

static void quantised_files_are_read_as_they_lie(void **state)
{
    (void)state;
    static const char *const files[][2] = {
        {CHECKPOINT("nf4_dq"), "nf4"}, {CHECKPOINT("nf4"), "nf4-plain"}, {CHECKPOINT("int8"), "int8"}};
    for (size_t i = 0; i < COUNT(files); i++) {
        char text[64];
        snprintf(text, sizeof text, "  %s, rest fp32  ", files[i][1]);
        Outcome *o = expect_code(RUN("generate", "--init", files[i][0], "--prompt", "A", "--tokens", "3"), 0);
        has(o, text);
        o = expect_code(
            RUN("generate", "--init", files[i][0], "--prompt", "A", "--tokens", "3", "--quantize", "none"),
            0);
        has(o, " parameters  fp32  ");
    }
    Outcome *o = expect_code(
        RUN("generate", "--init", files[0][0], "--prompt", "A", "--tokens", "3", "--quantize", "int8"), 1);
    assert_non_null(strstr(o->err, "codes are not decoded to be quantised again"));
    /* All of it is trained decoded; adapters beside what the files have. */
    unsigned char ids[4000];
    for (size_t i = 0; i < sizeof ids; i++)
        ids[i] = (unsigned char)(i % 2 ? 0 : i % 90);
    const char *data = make_file("ids.bin", ids, sizeof ids);
    o = expect_code(RUN("compare", "--init", files[1][0], "--seq", "8", "--data", data), 0);
    has(o, " parameters  fp32  ");
    has(o, "QLoRA is --lora r=16,alpha=32 --weights bf16 --quantize nf4-plain.\n");
    o = expect_code(RUN("train", "--init", files[0][0], "--seq", "8", "--data", data, "--steps", "2",
                        "--lora", "r=2", "--threads", "2"),
                    0);
    has(o, "\nbase 0.517 x 61,440 + 4 x 12,608 frozen; adapters 4 + 4 + 8 = 16 bytes x ");
    has(o, "   0 bytes apart\n");
}

/* ---- Saved ----------------------------------------------------------------------------------- */

#define TINY                                                                                                 \
    "gpt2-tiny", "--max-samples", "16", "--threads", "1", "--quiet", "--batch", "2", "--seq", "16",          \
        "--schedule", "constant", "--warmup", "0", "--lora", "r=4"

static double last_loss(Outcome *outcome)
{
    json_t *root = json_of(outcome, 0);
    double loss = real_at(root, "loss_last");
    json_decref(root);
    return loss;
}

/* What weights are stored as is a setting of the run; with the same it goes on to the last bit. */
static void a_run_is_resumed_with_the_same_types(void **state)
{
    (void)state;
    const char *save = in_folder("stored");
    expect_code(RUN("train", TINY, "--weights", "bf16", "--quantize", "nf4", "--steps", "2", "--save", save),
                0);
    Outcome *o = expect_code(
        RUN("train", TINY, "--steps", "4", "--weights", "fp16", "--quantize", "nf4", "--resume", save), 1);
    assert_non_null(strstr(o->err, "weights is fp16, was bf16"));
    o = expect_code(RUN("train", TINY, "--steps", "4", "--weights", "bf16", "--resume", save), 1);
    assert_non_null(strstr(o->err, "quantize is not given, was nf4"));
    double resumed = last_loss(RUN("train", TINY, "--json", "--steps", "4", "--weights", "bf16", "--quantize",
                                   "nf4", "--resume", save));
    assert_true(resumed == last_loss(RUN("train", TINY, "--json", "--steps", "4", "--weights", "bf16",
                                         "--quantize", "nf4")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_read_or_refused),
        cmocka_unit_test(full_training_refuses_other_types),
        cmocka_unit_test(the_headline_has_the_bracket),
        cmocka_unit_test(nf4_takes_these_bytes),
        cmocka_unit_test(other_types_take_these_bytes),
        cmocka_unit_test(four_ways_of_the_8b),
        cmocka_unit_test(cells_are_plans),
        cmocka_unit_test(four_ways_as_a_table),
        cmocka_unit_test(adapters_are_advised),
        cmocka_unit_test(commas_are_quoted),
        cmocka_unit_test(a_run_is_its_plan),
        cmocka_unit_test(texts_from_stored_weights),
        cmocka_unit_test(quantised_files_are_read_as_they_lie),
        cmocka_unit_test(a_run_is_resumed_with_the_same_types),
    };
    return cmocka_run_group_tests_name("ways", tests, make_folder, remove_folder);
}
