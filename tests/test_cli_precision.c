/* Training in 16 bit, as a user types it: names and refusals, brackets and their bytes, the textbook beside
 * them, and what comparisons try. */
#include <math.h>

#include "cli_support.h"

/* ---- Values ---------------------------------------------------------------------------------- */

typedef struct Refusal {
    const char *arguments[9], *says;
} Refusal;

static void values_are_read_or_refused(void **state)
{
    (void)state;
    static const Refusal refusals[] = {
        {{"plan", "--precision", "fp8"},
         "--precision must be one of fp32, tf32, bf16, bf16-states32, bf16-mixed, bf16-autocast, fp16-mixed, "
         "fp16-autocast, not 'fp8'"},
        {{"plan", "--precision"}, "--precision needs a value"},
        {{"plan", "--precision", "bf16-mixed", "--grad-dtype", "8"},
         "--grad-dtype must be 16 or 32, not '8'"},
        {{"plan", "--grad-dtype", "32"}, "--grad-dtype 32 means nothing with --precision fp32"},
        {{"train", "--precision", "bf16-autocast", "--grad-dtype", "16"},
         "bf16-mixed has weights of 16 bits"},
        {{"fit", "--rounding", "stochastic"}, "--rounding stochastic means nothing with --precision fp32"},
        {{"plan", "--precision", "bf16-mixed", "--rounding", "nearest"}, "which keeps all weights in fp32"},
        {{"plan", "--precision", "bf16", "--rounding", "up"}, "nearest or stochastic, not 'up'"},
        {{"plan", "--loss-scale", "1024"}, "fp32 has that of fp32"},
        {{"compare", "--precision", "bf16-mixed", "--loss-scale", "dynamic"}, "bf16 has that of fp32"},
        {{"plan", "--precision", "fp16-mixed", "--loss-scale", "0"},
         "dynamic, or a number of at least 2^-14, not '0'"},
        {{"plan", "--precision", "fp16-mixed", "--loss-scale", "1e99"}, "not '1e99'"},
        {{"plan", "--precision", "fp16-mixed", "--loss-scale", "nan"}, "not 'nan'"},
        {{"plan", "--precision", "fp16-mixed", "--loss-scale", "65536x"}, "not '65536x'"},
        {{"plan", "--precision", "fp16-mixed", "--optimizer-in-backward"},
         "--optimizer-in-backward excludes --precision fp16-mixed"},
        {{"plan", "--lora", "r=4", "--precision", "bf16", "--grad-dtype", "16"},
         "gradients of adapters are fp32"},
        {{"plan", "--lora", "r=4", "--precision", "bf16", "--rounding", "nearest"},
         "the weights of adapters are fp32"},
        {{"plan", "--precision", "tf32"}, "on the CPU --precision fp32 trains in the same memory"},
        {{"train", "--precision", "tf32", "--device", "cpu"}, "--precision tf32 needs --device cuda"},
        {{"fit", "--precision", "tf32", "--card", "h200"}, "--precision tf32 needs --device cuda"},
        {{"plan", "--precision", "tf32", "--device", "cuda", "--grad-dtype", "32"}, "its weights are fp32"},
        {{"plan", "--weights", "bf16"}, "--weights bf16 needs --lora"},
        {{"plan", "--inference", "--precision", "bf16"}, "--precision means nothing beside --inference"},
        {{"generate", "--precision", "bf16"}, "--precision means nothing to `brim generate`"},
        {{"compare", "--four-ways", "--precision", "bf16"}, "--precision means nothing beside --four-ways"},
    };
    for (size_t i = 0; i < COUNT(refusals); i++) {
        const char *arguments[11] = {"brim"};
        memcpy(arguments + 1, refusals[i].arguments, sizeof refusals[i].arguments);
        Outcome *o = expect_code(run_command(arguments), 2);
        if (!strstr(o->err, refusals[i].says))
            fail_msg("no \"%s\" in: %s", refusals[i].says, o->err);
        assert_string_equal(o->out, "");
    }
}

/* ---- Brackets -------------------------------------------------------------------------------- */

static void has(const Outcome *o, const char *text)
{
    if (!strstr(o->out, text))
        fail_msg("no \"%s\" in:\n%s", text, o->out);
}

#define LLAMA "plan", "llama-3.1-8b", "--seq", "128"

static void the_headline_has_the_bracket(void **state)
{
    (void)state;
    static const struct {
        const char *arguments[12], *says;
    } rows[] = {
        {{LLAMA, "--precision", "bf16"}, "\ntrained 2 + 2 + 4 = 8 bytes x 8,030,261,248\n"},
        {{LLAMA, "--precision", "bf16"}, "  8,030,261,248 parameters  bf16  AdamW  "},
        {{LLAMA, "--precision", "bf16"}, "  stochastic rounding  "},
        {{LLAMA, "--precision", "bf16", "--rounding", "nearest"}, "  rounded to nearest  "},
        {{LLAMA, "--precision", "bf16", "--optimizer", "sgd"}, "\ntrained 2 + 2 + 0 = 4 bytes x "},
        {{LLAMA, "--precision", "bf16-states32"}, "\ntrained 2 + 2 + 8 = 12 bytes x 8,030,261,248\n"},
        {{LLAMA, "--precision", "bf16-mixed"}, "\ntrained 2 + 2 + 4 + 8 = 16 bytes x 8,030,261,248\n"},
        {{LLAMA, "--precision", "fp16-mixed"}, "\ntrained 2 + 2 + 4 + 8 = 16 bytes x 8,030,261,248\n"},
        {{LLAMA, "--precision", "fp16-mixed"}, "  loss scale dynamic  "},
        {{LLAMA, "--precision", "fp16-autocast", "--loss-scale", "512"}, "  loss scale 512  "},
        {{LLAMA, "--precision", "bf16-mixed", "--grad-dtype", "32"},
         "\ntrained 2 + 4 + 4 + 8 = 18 bytes x 8,030,261,248\n"},
        {{LLAMA, "--precision", "bf16-mixed", "--accumulate", "2"},
         "\ntrained 2 + 4 + 4 + 8 = 18 bytes x 8,030,261,248\n"},
        {{LLAMA, "--precision", "bf16-mixed", "--accumulate", "2", "--grad-dtype", "16"},
         "\ntrained 2 + 2 + 4 + 8 = 16 bytes x 8,030,261,248\n"},
        {{LLAMA, "--precision", "bf16-autocast"},
         "\ntrained 4 + 2* + 4 + 8 = 18 bytes x 8,030,261,248\n* a linear layer's copy of its weight"},
        {{LLAMA, "--precision", "bf16", "--optimizer", "adamw8bit"},
         "\ntrained 2 + 2 + 2.42 = 6.42 bytes x 8,030,261,248\n"},
        {{LLAMA, "--precision", "bf16-mixed", "--lora", "r=16,alpha=32", "--weights", "bf16"},
         "\nbase 2 x 8.03B frozen; adapters 4 + 4 + 8 = 16 bytes x 41,943,040\n"},
        {{LLAMA, "--precision", "bf16-mixed", "--lora", "r=16,alpha=32", "--weights", "bf16"},
         "  bf16  bf16 activations  "},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *arguments[14] = {"brim"};
        memcpy(arguments + 1, rows[i].arguments, sizeof rows[i].arguments);
        Outcome *o = expect_code(run_command(arguments), 0);
        has(o, rows[i].says);
    }
    Outcome *o = expect_code(RUN("compare", "--precision", "fp32,bf16-mixed", "--seq", "16"), 0);
    assert_null(strstr(o->out, "bytes x"));
    assert_null(strstr(o->out, "parameters  fp32"));
    o = expect_code(RUN("compare", "--precision", "bf16", "--accumulate", "1,2", "--seq", "16"), 0);
    assert_null(strstr(o->out, "bytes x"));
}

/* ---- Bytes of the plan ----------------------------------------------------------------------- */

static json_t *json_of(Outcome *outcome, int code)
{
    return parse(expect_code(outcome, code)->out);
}

static json_int_t component(const json_t *memory, const char *name)
{
    return integer_at(json_object_get(json_object_get(memory, "components"), name), "peak");
}

static void conventions_take_these_bytes(void **state)
{
    (void)state;
    const json_int_t n = 8030261248;
    static const struct {
        const char *options[6];
        int weights, gradients, masters, states;
    } rows[] = {
        {{0}, 4, 4, 0, 8},
        {{"--precision", "bf16"}, 2, 2, 0, 4},
        {{"--precision", "bf16-states32"}, 2, 2, 0, 8},
        {{"--precision", "bf16-mixed"}, 2, 2, 4, 8},
        {{"--precision", "fp16-mixed"}, 2, 2, 4, 8},
        {{"--precision", "bf16-mixed", "--grad-dtype", "32"}, 2, 4, 4, 8},
        {{"--precision", "bf16-autocast"}, 4, 4, 0, 8},
        {{"--precision", "bf16", "--optimizer", "sgd-momentum"}, 2, 2, 0, 2},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *arguments[20] = {"brim", LLAMA, "--json"};
        memcpy(arguments + 6, rows[i].options, sizeof rows[i].options);
        json_t *plan = json_of(run_command(arguments), 0);
        const json_t *memory = json_object_get(plan, "memory"),
                     *trained = json_object_get(json_object_get(plan, "bracket"), "trained");
        assert_int_equal(integer_at(trained, "bytes"), n * rows[i].weights);
        assert_int_equal(integer_at(trained, "gradient_bytes"), n * rows[i].gradients);
        assert_int_equal(integer_at(trained, "master_bytes"), n * rows[i].masters);
        assert_int_equal(integer_at(trained, "state_bytes"), n * rows[i].states);
        assert_int_equal(component(memory, "parameter"), n * rows[i].weights);
        assert_int_equal(component(memory, "gradient"), n * rows[i].gradients);
        assert_int_equal(component(memory, "master"), n * rows[i].masters);
        assert_int_equal(component(memory, "optimizer"), n * rows[i].states);
        json_decref(plan);
    }
}

/* Where the textbook names a plan, the plan has its figure: JSON has nine digits of it. */
static void the_textbook_s_plans_have_its_figures(void **state)
{
    (void)state;
    json_t *textbook = json_of(RUN("plan", "--textbook", "--json"), 0), *row;
    size_t i;
    int planned = 0;
    json_array_foreach(json_object_get(textbook, "textbook"), i, row)
    {
        const char *words[20] = {"brim"};
        const json_t *command = json_object_get(row, "plan");
        char line[160];
        int count = 1;
        assert_string_equal(json_string_value(json_object_get(row, "tag")),
                            command ? "PLANNED" : "ESTIMATED");
        if (!command)
            continue;
        snprintf(line, sizeof line, "%s --seq 128 --json", json_string_value(command));
        for (char *word = strtok(line, " "); word && count < 19; word = strtok(NULL, " "))
            words[count++] = word;
        json_t *plan = json_of(run_command(words), 0);
        const json_t *bracket = json_object_get(plan, "bracket"),
                     *trained = json_object_get(bracket, "trained"), *one;
        json_int_t bytes = integer_at(trained, "bytes") + integer_at(trained, "gradient_bytes") +
                           integer_at(trained, "master_bytes") + integer_at(trained, "state_bytes");
        for (size_t k = 0; (one = json_array_get(json_object_get(bracket, "frozen"), k)); k++)
            bytes += integer_at(one, "bytes");
        double exact = json_real_value(json_array_get(json_object_get(row, "exact"), 0));
        if (!(fabs((double)bytes / exact - 1) < 1e-8))
            fail_msg("%s: planned are %lld bytes, not %.0f", json_string_value(command), (long long)bytes,
                     exact);
        planned++;
        json_decref(plan);
    }
    assert_int_equal(planned, 9);
    json_decref(textbook);
}

/* As the textbook's row says: embeddings have fp32 states. */
static void states_of_8_bits_take_these_bytes(void **state)
{
    (void)state;
    json_t *plan = json_of(RUN(LLAMA, "--json", "--precision", "bf16", "--optimizer", "adamw8bit"), 0);
    const json_t *trained = json_object_get(json_object_get(plan, "bracket"), "trained");
    json_int_t all = integer_at(trained, "bytes") + integer_at(trained, "gradient_bytes") +
                     integer_at(trained, "state_bytes");
    assert_int_equal(all, 51568115840);
    json_decref(plan);
}

/* ---- Comparing ------------------------------------------------------------------------------- */

static void levers_try_16_bit(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("compare", "llama-tiny", "--seq", "64"), 0);
    has(o, "\n--precision bf16-mixed ");
    has(o, "\nbf16-mixed + blocks ");
    has(o, "\nbf16, 8-bit AdamW ");
    has(o, "\nLoRA on bf16 + 16 bit ");
    has(o, "\nQLoRA + 16 bit + blocks ");
    has(o, "bf16, 8-bit AdamW is --optimizer adamw8bit --precision bf16");
    /* Where it is so already, it is no lever. */
    o = expect_code(RUN("compare", "llama-tiny", "--seq", "64", "--precision", "bf16"), 0);
    assert_null(strstr(o->out, "bf16-mixed"));
    assert_null(strstr(o->out, "8-bit"));
    o = expect_code(RUN("fit", "llama-tiny", "--seq", "64", "--memory", "2GiB"), 0);
    has(o, "\n--precision bf16-mixed ");
    has(o, "\nbf16, 8-bit AdamW ");
    has(o, "planned in fp32, or as a row says");
    o = expect_code(RUN("fit", "llama-tiny", "--seq", "64", "--memory", "2GiB", "--precision", "bf16"), 0);
    assert_null(strstr(o->out, "planned in fp32"));
    o = expect_code(RUN("plan", "llama-tiny", "--budget", "90MiB"), 1);
    if (!strstr(o->err, "--optimizer adamw8bit --checkpoint blocks --precision bf16"))
        fail_msg("not advised: %s", o->err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_read_or_refused),
        cmocka_unit_test(the_headline_has_the_bracket),
        cmocka_unit_test(conventions_take_these_bytes),
        cmocka_unit_test(the_textbook_s_plans_have_its_figures),
        cmocka_unit_test(states_of_8_bits_take_these_bytes),
        cmocka_unit_test(levers_try_16_bit),
    };
    return cmocka_run_group_tests_name("precision", tests, make_folder, remove_folder);
}
