/* Runs in 16 bit: as they are planned, as they are logged, resumed in their precision, and with steps that
 * are skipped. */
#include "cli_support.h"

static void has(const Outcome *o, const char *text)
{
    if (!strstr(o->out, text))
        fail_msg("no \"%s\" in:\n%s", text, o->out);
}

static json_t *json_of(Outcome *outcome, int code)
{
    return parse(expect_code(outcome, code)->out);
}

static json_int_t component(const json_t *memory, const char *name)
{
    return integer_at(json_object_get(json_object_get(memory, "components"), name), "peak");
}

/* Activations of 16 bits are half of fp32's, but for statistics. */
static void activations_are_halved(void **state)
{
    (void)state;
    static const char *const options[][6] = {
        {0}, {"--precision", "bf16-mixed"}, {"--precision", "bf16-autocast"}, {"--precision", "fp16-mixed"}};
    json_int_t kept[COUNT(options)];
    for (size_t i = 0; i < COUNT(options); i++) {
        const char *arguments[20] = {"brim", "plan", "llama-tiny", "--json"};
        memcpy(arguments + 4, options[i], sizeof options[i]);
        json_t *plan = json_of(run_command(arguments), 0);
        kept[i] = component(json_object_get(plan, "memory"), "activation");
        json_decref(plan);
    }
    assert_in_range(kept[1], kept[0] / 2, kept[0] * 51 / 100);
    assert_int_equal(kept[3], kept[1]);
    assert_true(kept[2] > kept[1]); /* copies of weights are kept too */
}

/* ---- Written down ---------------------------------------------------------------------------- */

#define TINY                                                                                                 \
    "gpt2-tiny", "--max-samples", "16", "--threads", "1", "--quiet", "--batch", "2", "--seq", "16",          \
        "--schedule", "constant", "--warmup", "0"

static json_t *first_line(const char *path)
{
    static char text[1 << 14];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_non_null(fgets(text, sizeof text, file));
    fclose(file);
    return parse(text);
}

static const char *option_in(const json_t *line, const char *name)
{
    return json_string_value(json_object_get(json_object_get(line, "options"), name));
}

/* What acts is written, also where nothing was typed. */
static void what_acts_is_logged(void **state)
{
    (void)state;
    const char *log = in_folder("bf16.jsonl");
    expect_code(RUN("train", TINY, "--steps", "1", "--precision", "bf16", "--accumulate", "2", "--log", log),
                0);
    json_t *line = first_line(log);
    assert_string_equal(option_in(line, "precision"), "bf16");
    assert_string_equal(option_in(line, "grad_dtype"), "32");
    assert_string_equal(option_in(line, "rounding"), "stochastic");
    assert_null(option_in(line, "loss_scale"));
    json_decref(line);
    log = in_folder("fp16.jsonl");
    expect_code(RUN("train", TINY, "--steps", "1", "--precision", "fp16-mixed", "--log", log), 0);
    line = first_line(log);
    assert_string_equal(option_in(line, "grad_dtype"), "16");
    assert_string_equal(option_in(line, "loss_scale"), "dynamic");
    assert_null(option_in(line, "rounding"));
    json_decref(line);
    log = in_folder("fp32.jsonl");
    expect_code(RUN("train", TINY, "--steps", "1", "--log", log), 0);
    line = first_line(log);
    assert_string_equal(option_in(line, "precision"), "fp32");
    assert_null(option_in(line, "grad_dtype"));
    json_decref(line);
    Outcome *o = expect_code(RUN("compare", "gpt2-tiny", "--csv", "--seq", "16", "--precision", "bf16"), 0);
    has(o, ",precision,grad_dtype,rounding,loss_scale,");
    has(o, ",bf16,16,stochastic,,");
}

static double last_loss(Outcome *outcome)
{
    json_t *root = json_of(outcome, 0);
    double loss = real_at(root, "loss_last");
    json_decref(root);
    return loss;
}

/* Of a run that is resumed all of it must be the same; then it goes on to the last bit. */
static void a_run_is_resumed_in_its_precision(void **state)
{
    (void)state;
    static const struct {
        const char *options[6];
    } runs[] = {{{"--precision", "bf16"}},
                {{"--precision", "bf16-mixed", "--optimizer", "adamw8bit"}},
                {{"--precision", "bf16-autocast"}},
                {{"--precision", "fp16-mixed"}},
                {{"--precision", "bf16", "--lora", "r=4"}}};
    for (size_t i = 0; i < COUNT(runs); i++) {
        char name[24];
        snprintf(name, sizeof name, "saved-%zu", i);
        const char *save = in_folder(name);
        const char *first[40] = {"brim", "train", TINY, "--steps", "2", "--save", save};
        const char *second[40] = {"brim", "train", TINY, "--json", "--steps", "4", "--resume", save};
        const char *whole[40] = {"brim", "train", TINY, "--json", "--steps", "4"};
        const char **commands[] = {first, second, whole};
        for (size_t k = 0; k < COUNT(commands); k++) {
            size_t n = 0;
            while (commands[k][n])
                n++;
            memcpy(commands[k] + n, runs[i].options, sizeof runs[i].options);
        }
        expect_code(run_command(first), 0);
        double resumed = last_loss(run_command(second));
        assert_true(resumed == last_loss(run_command(whole)));
    }
}

static void another_precision_is_not_resumed(void **state)
{
    (void)state;
    const char *save = in_folder("pure"), *plain = in_folder("plain");
    expect_code(RUN("train", TINY, "--steps", "2", "--precision", "bf16", "--save", save), 0);
    expect_code(RUN("train", TINY, "--steps", "2", "--save", plain), 0);
    static const struct {
        const char *options[5], *says;
    } rows[] = {
        {{"--precision", "bf16-states32"}, "precision is bf16-states32, was bf16"},
        {{0}, "precision is not given, was bf16"},
        {{"--precision", "bf16", "--rounding", "nearest"}, "rounding is nearest, was stochastic"},
        {{"--precision", "bf16", "--grad-dtype", "32"}, "grad-dtype is 32, was 16"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *arguments[40] = {"brim", "train", TINY, "--steps", "4", "--resume", save};
        size_t n = 0;
        while (arguments[n])
            n++;
        memcpy(arguments + n, rows[i].options, sizeof rows[i].options);
        Outcome *o = expect_code(run_command(arguments), 1);
        if (!strstr(o->err, rows[i].says))
            fail_msg("no \"%s\" in: %s", rows[i].says, o->err);
    }
    /* What acts counts, not how it was typed. */
    expect_code(RUN("train", TINY, "--steps", "3", "--precision", "bf16", "--grad-dtype", "16", "--rounding",
                    "stochastic", "--resume", save),
                0);
    Outcome *o = expect_code(RUN("train", TINY, "--steps", "4", "--precision", "bf16", "--resume", plain), 1);
    assert_non_null(strstr(o->err, "precision is bf16"));
}

/* ---- Runs ------------------------------------------------------------------------------------ */

static void a_run_is_its_plan(void **state)
{
    (void)state;
    static const char *const precisions[] = {"fp32",          "bf16",       "bf16-states32", "bf16-mixed",
                                             "bf16-autocast", "fp16-mixed", "fp16-autocast"};
    static const char *const levers[][3] = {{0},
                                            {"--accumulate", "2"},
                                            {"--optimizer", "adamw8bit"},
                                            {"--lora", "r=4"},
                                            {"--checkpoint", "blocks"}};
    static const char *const families[] = {"gpt2", "llama", "bert"};
    for (size_t i = 0; i < COUNT(precisions); i++)
        for (size_t k = 0; k < COUNT(levers); k++) {
            const char *model = make_model(families[(i + k) % COUNT(families)]);
            Outcome *o = expect_code(RUN("train", model, "--threads", "2", "--batch", "2", "--seq", "16",
                                         "--steps", "3", "--max-samples", "16", "--precision", precisions[i],
                                         levers[k][0], levers[k][1]),
                                     0);
            if (!strstr(o->out, "   0 bytes apart\n"))
                fail_msg("%s %s: %s", model, precisions[i], o->out);
        }
}

/* 65536 is halved until nothing overflows; each such step says so, and is in the log. */
static void skipped_steps_say_so(void **state)
{
    (void)state;
    const char *log = in_folder("skipped.jsonl");
    Outcome *o =
        expect_code(RUN("train", "gpt2-tiny", "--max-samples", "16", "--batch", "2", "--seq", "16", "--steps",
                        "6", "--precision", "fp16-mixed", "--loss-scale", "16777216", "--log", log),
                    0);
    has(o, "step    1  skipped: a gradient overflows with a loss scale of 16777216");
    has(o, "6 steps, ");
    has(o, "6 skipped");
    static char line[1 << 14];
    FILE *file = fopen(log, "r");
    assert_non_null(file);
    int steps = 0;
    while (fgets(line, sizeof line, file)) {
        if (!strstr(line, "\"kind\":\"step\""))
            continue;
        json_t *step = parse(line);
        assert_int_equal(integer_at(step, "skipped"), 1);
        assert_true(real_at(step, "loss_scale") == 16777216);
        json_decref(step);
        steps++;
    }
    fclose(file);
    assert_int_equal(steps, 6);
    has(expect_code(RUN("report", log), 0), "6 steps of 6, 6 of them skipped because a gradient overflowed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(activations_are_halved),
        cmocka_unit_test(what_acts_is_logged),
        cmocka_unit_test(a_run_is_resumed_in_its_precision),
        cmocka_unit_test(another_precision_is_not_resumed),
        cmocka_unit_test(a_run_is_its_plan),
        cmocka_unit_test(skipped_steps_say_so),
    };
    return cmocka_run_group_tests_name("runs in 16 bit", tests, make_folder, remove_folder);
}
