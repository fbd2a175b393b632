/* What the command makes of names: slips are answered with the nearest ones, words of other trainers with
 * what there is here, and a word that is no option may be the model. */
#include "cli_support.h"

typedef struct Slip {
    const char *arguments[7], *says;
} Slip;

static void refused(const Slip *slip)
{
    const char *arguments[9] = {"brim"};
    memcpy(arguments + 1, slip->arguments, sizeof slip->arguments);
    Outcome *o = expect_code(run_command(arguments), 2);
    assert_string_equal(o->out, "");
    if (!strstr(o->err, slip->says))
        fail_msg("'%s %s %s': no '%s' in: %s", slip->arguments[0],
                 slip->arguments[1] ? slip->arguments[1] : "", slip->arguments[2] ? slip->arguments[2] : "",
                 slip->says, o->err);
}

static void nearest_are_named(void **state)
{
    (void)state;
    static const Slip slips[] = {
        {{"plna"}, "unknown command 'plna'; nearest: plan\n"},
        {{"mod"}, "nearest: models\n"},
        {{"quux"}, "unknown command 'quux'; `brim help` lists them\n"},
        {{"gpt2"}, "'gpt2' is a model, not a command: `brim plan gpt2`\n"},
        {{"help", "lever"}, "unknown command or group 'lever'; nearest: levers\n"},
        {{"help", "lora"}, "--lora is an option: `brim help model` explains it"},
        {{"help", "--quantize"}, "--quantize is an option: `brim help levers` explains it"},
        {{"train", "--modle", "gpt2"}, "unknown option '--modle'; nearest: --model\n"},
        {{"plan", "--Batch", "4"}, "nearest: --batch\n"},
        {{"plan", "--optimiser=sgd"}, "unknown option '--optimiser=sgd'; nearest: --optimizer\n"},
        {{"train", "--crad", "t4"},
         "nearest: --card, which belongs to `brim fit`, `brim plan` and `brim compare`\n"},
        {{"train", "--card", "t4"}, "--card belongs to `brim fit`, `brim plan` and `brim compare`"},
        {{"plan", "--crad", "t4"}, "unknown option '--crad'; nearest: --card\n"},
        {{"plan", "-b", "4"}, "unknown option '-b'; `brim help plan` lists them\n"},
        {{"plan", "--quux"}, "unknown option '--quux'; `brim help plan` lists them\n"},
        {{"tokenize", "--decod", "3"}, "nearest: --decode"},
        {{"report", "--htlm", "x"}, "nearest: --html"},
        {{"plan", "--model", "qwen2.5-8b"}, "nearest: qwen2.5-3b, qwen2.5-7b;"},
        {{"models", "--batch", "4"}, "--batch means nothing to `brim models`"},
        {{"generate", "--lr", "1"}, "--lr means nothing to `brim generate`"},
        {{"models", "gpt2"}, "takes options only, not 'gpt2'"},
    };
    for (size_t i = 0; i < COUNT(slips); i++)
        refused(&slips[i]);
}

static void words_of_others_are_answered(void **state)
{
    (void)state;
    static const char *const types[][2] = {{"--dtype", "--weights"},
                                           {"--amp", "--precision bf16-mixed"},
                                           {"--bf16", "--precision"},
                                           {"--grad-scaler", "--loss-scale"},
                                           {"--8bit-adam", "--optimizer adamw8bit"},
                                           {"--lora-r", "--lora r=16"},
                                           {"--qlora", "--quantize nf4"},
                                           {"--load-in-4bit", "--quantize nf4"},
                                           {"--load-in-8bit", "int8"},
                                           {"--freeze", "--lora"}};
    for (size_t i = 0; i < COUNT(types); i++)
        for (int k = 0; k < 3; k++)
            refused(&(Slip){{k == 0 ? "plan" : k == 1 ? "train" : "fit", types[i][0], "x"}, types[i][1]});
    static const Slip words[] = {
        {{"plan", "--gpus", "8"}, "several processes are --ranks N"},
        {{"train", "--learning-rate", "1e-4"},
         "there is no option --learning-rate: the learning rate is --lr"},
        {{"train", "--fused-step"}, "--fused-step: it is called --optimizer-in-backward"},
        {{"plan", "--batch-size=4"}, "--batch"},
        {{"train", "--lora-alpha", "16"}, "adapters are trained with --lora r=16"},
        {{"train", "--peft-model", "x"}, "--adapter DIR"},
        {{"plan", "--gradient-checkpointing"}, "--checkpoint blocks"},
        {{"plan", "--seq-len", "4"}, "--seq"},
    };
    for (size_t i = 0; i < COUNT(words); i++)
        refused(&words[i]);
}

static void a_word_may_be_the_model(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt2-tiny", "GPT2-Tiny", "Qwen/Qwen2.5-0.5B-Instruct"},
                             *const models[] = {"gpt2-tiny", "gpt2-tiny", "qwen2.5-0.5b"};
    for (size_t i = 0; i < COUNT(names); i++) {
        Outcome *o = expect_code(RUN("plan", names[i], "--seq", "64"), 0);
        assert_int_equal(strncmp(o->out, models[i], strlen(models[i])), 0);
        char *bare = strdup(o->out);
        o = expect_code(RUN("plan", "--seq", "64", "--model", models[i]), 0);
        assert_string_equal(o->out, bare);
        free(bare);
    }
    static const char text[] = "{\"model_type\": \"gpt2\", \"n_layer\": 1, \"n_embd\": 32, \"n_head\": 2}";
    const char *config = make_file("config.json", text, sizeof text - 1);
    expect_code(RUN("plan", config, "--seq", "8"), 0);
    expect_code(RUN("plan", folder, "--seq", "8"), 0);
    static const Slip slips[] = {
        {{"plan", "gpt2", "llama-tiny"}, "'llama-tiny' would be a second model, after gpt2"},
        {{"plan", "--model", "gpt2", "gpt2"}, "'gpt2' would be a second model"},
        {{"plan", "README.md"}, "a text to train on is given with --data README.md"},
        {{"train", "quux"}, "no model is like it"},
        {{"plan", "docs"}, "docs has no config.json"},
    };
    for (size_t i = 0; i < COUNT(slips); i++)
        refused(&slips[i]);
    Outcome *o = expect_code(RUN("compare", "gpt2-tiny,llama-tiny", "--seq", "32"), 0);
    assert_non_null(strstr(o->out, "several models"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nearest_are_named),
                                       cmocka_unit_test(words_of_others_are_answered),
                                       cmocka_unit_test(a_word_may_be_the_model)};
    return cmocka_run_group_tests_name("names", tests, make_folder, remove_folder);
}
