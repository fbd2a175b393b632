/* The command on the made-up card: trains, saves, resumes and writes as on the CPU; plans for cards that are
 * not there; says what this machine has. */
#include "cuda_cli_support.h"

#include <math.h>

static void plan_is_run(void **state)
{
    (void)state;
    json_t *cpu = json_of(TRAIN("cpu", "--steps", "6")), *card = json_of(TRAIN("cuda", "--steps", "6"));
    json_t *memory = json_object_get(card, "memory"), *used = json_object_get(memory, "card");
    assert_true(fabs(number(cpu, "loss_first") - number(card, "loss_first")) < 1e-5);
    assert_true(fabs(number(cpu, "loss_last") - number(card, "loss_last")) < 1e-5);
    assert_string_equal(json_string_value(json_object_get(card, "blas")), "cuBLAS");
    assert_true(json_equal(json_object_get(memory, "components"),
                           json_object_get(json_object_get(memory, "planned"), "components")));
    assert_true(number(memory, "needs_bytes") == number(json_object_get(memory, "planned"), "needs_bytes"));
    double rows = number(used, "reserved_bytes") + number(used, "context_bytes") +
                  number(used, "kernels_bytes") + number(used, "library_bytes") +
                  number(used, "graphs_bytes") + number(used, "others_bytes") +
                  number(used, "unaccounted_bytes");
    assert_true(number(used, "graphs_bytes") > 0);
    assert_true(rows == number(used, "used_bytes") && number(used, "context_bytes") > 0);
    assert_true(number(used, "unaccounted_bytes") >= 0 && number(used, "unaccounted_bytes") < 2 << 20);
    json_decref(cpu);
    json_decref(card);
}

static void plans_without_a_card(void **state)
{
    (void)state;
    static const char *const cards[] = {"t4", "a100-40", "h100"};
    double needs[3];
    setenv("BRIM_CUDA_DRIVER", "/nowhere/libcuda.so.1", 1);
    for (int i = 0; i < 3; i++) {
        json_t *plan = json_of(SMALL("plan", "--device", "cuda", "--card", cards[i], "--json"));
        needs[i] = number(json_object_get(plan, "memory"), "needs_bytes");
        json_decref(plan);
    }
    assert_true(needs[0] == needs[1] && needs[2] == needs[0] + (28 << 20));
    Outcome *o = SMALL("plan", "--device", "cuda", "--card", "v100-16");
    assert_true(o->code != 0 && strstr(o->err, "compute capability 7.5"));
    o = SMALL("plan", "--device", "cuda", "--card", "mi300x");
    assert_true(o->code != 0 && strstr(o->err, "MI300X 192GB is not one"));
    o = expect_code(SMALL("plan", "--device", "cuda", "--card", "t4", "--precision", "bf16-mixed"), 0);
    assert_non_null(strstr(o->out, "planned for Tesla T4 16GB."));
    assert_non_null(strstr(o->err, "no tensor cores for bf16"));
    o = expect_code(SMALL("plan", "--device", "cuda", "--card", "t4", "--precision", "fp16-mixed"), 0);
    assert_string_equal(o->err, "");
    o = expect_code(SMALL("plan", "--device", "cuda", "--card", "a100-40", "--precision", "bf16-mixed"), 0);
    assert_string_equal(o->err, "");
    o = SMALL("plan", "--device", "cuda", "--card", "t4", "--precision", "tf32");
    assert_true(o->code == 1 && strstr(o->err, "and this one has 7.5: there fp32 trains"));
    o = expect_code(SMALL("plan", "--device", "cuda", "--card", "a100-40", "--precision", "tf32"), 0);
    assert_non_null(strstr(o->out, "  tf32  "));
    assert_non_null(strstr(o->out, "trained 4 + 4 + 8 = 16 bytes x "));
    o = SMALL("plan", "--device", "cuda", "--card", "h200", "--precision", "tf32", "--lora", "r=4");
    assert_non_null(strstr(expect_code(o, 0)->out, "  fp32  products in tf32  "));
    o = SMALL("fit", "--device", "cuda", "--card", "a100-40,t4", "--precision", "tf32");
    assert_true(o->code == 2 &&
                strstr(o->err, "--card t4: --precision tf32 needs a card of compute capability"));
    o = SMALL("train", "--device", "cuda", "--steps", "1");
    assert_true(o->code == 2 && strstr(o->err, "cannot be opened: /nowhere/libcuda.so.1"));
    assert_non_null(strstr(expect_code(RUN("gpus"), 0)->out, "no card that --device cuda could use"));
    stand_in_environment();
}

static void across_devices(void **state)
{
    (void)state;
    static const char *const devices[] = {"cpu", "cuda"};
    json_t *whole = json_of(TRAIN("cpu", "--steps", "8"));
    for (int i = 0; i < 2; i++) {
        const char *run = in_folder(devices[i]);
        json_decref(
            json_of(TRAIN(devices[i], "--steps", "8", "--save", run, "--save-every", "4", "--keep", "9")));
        char command[400];
        snprintf(command, sizeof command, "rm -r %s/step-00000008", run);
        assert_int_equal(system(command), 0);
        json_t *rest = json_of(TRAIN(devices[1 - i], "--steps", "8", "--resume", run));
        if (number(rest, "steps") != 4 ||
            !(fabs(number(rest, "loss_last") - number(whole, "loss_last")) < 1e-5))
            fail_msg("saved on %s: %g steps, and the last loss is %.9g, not %.9g", devices[i],
                     number(rest, "steps"), number(rest, "loss_last"), number(whole, "loss_last"));
        json_decref(rest);
    }
    json_decref(whole);
}

static void writes_the_same(void **state)
{
    (void)state;
    static char text[2][1 << 12];
    static const char *const devices[] = {"cpu", "cuda"};
    for (int sampled = 0; sampled < 2; sampled++) {
        for (int i = 0; i < 2; i++) {
            json_t *root =
                json_of(SMALL("generate", "--device", devices[i], "--prompt", "The ", "--tokens", "24",
                              "--temperature", sampled ? "0.8" : "0", "--seq", "32", "--json"));
            char *texts = json_dumps(json_object_get(root, "sequences"), JSON_ENCODE_ANY);
            snprintf(text[i], sizeof text[i], "%s", texts ? texts : "");
            free(texts);
            json_decref(root);
        }
        assert_true(strlen(text[0]) > 4);
        assert_string_equal(text[0], text[1]);
    }
}

/* What is kept of the weights, and of the cache, may be of any type. */
static void writes_the_same_of_any_type(void **state)
{
    (void)state;
    static const char *const stored[][2] = {{"--weights", "bf16"}, {"--weights", "fp16"},
                                            {"--quantize", "nf4"}, {"--quantize", "int8"},
                                            {"--batch", "3"},      {"--prefill", "2"}};
    for (size_t k = 0; k < COUNT(stored); k++) {
        json_t *texts[2];
        for (int i = 0; i < 2; i++) {
            json_t *root =
                json_of(SMALL("generate", "--device", i ? "cuda" : "cpu", "--prompt", "The ", "--tokens",
                              "40", "--seq", "32", "--json", stored[k][0], stored[k][1]));
            texts[i] = json_incref(json_object_get(root, "sequences"));
            json_decref(root);
        }
        if (!json_equal(texts[0], texts[1]))
            fail_msg("%s %s: another text", stored[k][0], stored[k][1]);
        json_decref(texts[0]);
        json_decref(texts[1]);
    }
    Outcome *o = expect_code(SMALL("generate", "--device", "cuda", "--tokens", "3"), 0);
    assert_non_null(strstr(o->out, "On the card: reserved "));
}

/* The files of the save after step 2, one after the other. */
static size_t saved_bytes(const char *run, unsigned char *to, size_t most)
{
    char command[600];
    snprintf(command, sizeof command, "cat %s/step-00000002/*.safetensors", run);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t n = fread(to, 1, most, pipe);
    pclose(pipe);
    assert_true(n < most);
    return n;
}

/* What was saved on one device, loaded and saved on the other, is the same bits: weights, masters, states. */
static void saves_are_the_same_bits(void **state)
{
    (void)state;
    static unsigned char files[2][4 << 20];
    static const char *const runs[][8] = {
        {"--precision", "bf16", "--seed", "2"},
        {"--precision", "bf16-mixed", "--optimizer", "adam8bit"},
        {"--precision", "fp16-mixed", "--optimizer", "sgd-momentum"},
        {"--precision", "bf16-states32", "--accumulate", "2"},
        {"--lora", "r=4", "--quantize", "nf4", "--optimizer", "adamw8bit"},
        {"--lora", "r=4", "--quantize", "int8", "--precision", "bf16"},
    };
    for (size_t k = 0; k < 2 * COUNT(runs); k++) {
        const char *more[2][MOST] = {{0}}, *first = k % 2 ? "cuda" : "cpu", *then = k % 2 ? "cpu" : "cuda";
        char from[200], to[200];
        snprintf(from, sizeof from, "%s/from%zu", folder, k);
        snprintf(to, sizeof to, "%s/to%zu", folder, k);
        for (int i = 0; i < 2; i++) {
            const char *common[] = {"--device",
                                    i ? then : first,
                                    "--batch",
                                    "2",
                                    "--seq",
                                    "16",
                                    "--max-samples",
                                    "20",
                                    "--steps",
                                    "2",
                                    "--quiet",
                                    "--save",
                                    i ? to : from,
                                    i ? "--resume" : NULL,
                                    from};
            int n = 0;
            for (int j = 0; runs[k / 2][j]; j++)
                more[i][n++] = runs[k / 2][j];
            for (size_t j = 0; j < COUNT(common) && common[j]; j++)
                more[i][n++] = common[j];
            expect_code(run_small("train", more[i]), 0);
        }
        size_t n = saved_bytes(from, files[0], sizeof files[0]);
        if (n < 1000 || saved_bytes(to, files[1], sizeof files[1]) != n || memcmp(files[0], files[1], n) != 0)
            fail_msg("%s %s: saved on %s, and other bits on %s", runs[k / 2][0], runs[k / 2][1], first, then);
    }
}

/* It trains, and plans what would be saved, as on the CPU. */
static void demonstrates(void **state)
{
    (void)state;
    Outcome *o = expect_code(SMALL("demo", "--device", "cuda", "--batch", "1", "--seq", "8", "--steps", "2",
                                   "--max-samples", "20", "--sample", "3"),
                             0);
    assert_non_null(strstr(o->out, "On the card: reserved "));
    assert_non_null(strstr(o->out, "It writes: "));
    assert_non_null(strstr(o->out, "--optimizer-in-backward "));
    assert_non_null(strstr(o->out, "build/brim train --device cuda --checkpoint blocks "));
}

static void compared_runs(void **state)
{
    (void)state;
    Outcome *o = SMALL("compare", "--device", "cuda", "--batch", "1,2", "--seq", "16", "--run", "2",
                       "--max-samples", "40", "--json");
    json_t *root = json_of(o), *variants = json_object_get(root, "variants");
    assert_int_equal(json_array_size(variants), 2);
    for (size_t i = 0; i < 2; i++) {
        json_t *variant = json_array_get(variants, i), *memory = json_object_get(variant, "memory");
        assert_null(json_object_get(variant, "error"));
        assert_true(number(variant, "loss") > 0 && number(memory, "peak_bytes") > 0);
        assert_true(number(memory, "peak_bytes") == number(json_object_get(memory, "planned"), "peak_bytes"));
    }
    json_decref(root);
    o = expect_code(SMALL("compare", "--device", "cuda", "--batch", "1,2", "--seq", "16", "--run", "1",
                          "--max-samples", "40"),
                    0);
    assert_non_null(strstr(o->out, " card used  unaccounted "));
}

/* The same bytes as fp32; losses that are near, and not the same; a run saved in it goes on in it. */
static void in_tf32(void **state)
{
    (void)state;
    char run[300], command[400];
    snprintf(run, sizeof run, "%s", in_folder("tf32"));
    json_t *wide = json_of(TRAIN("cuda", "--steps", "8")),
           *whole = json_of(TRAIN("cuda", "--steps", "8", "--precision", "tf32", "--save", run,
                                  "--save-every", "4", "--keep", "9"));
    double apart = fabs(number(whole, "loss_last") - number(wide, "loss_last"));
    assert_true(apart > 0 && apart < 1e-3);
    assert_true(json_equal(json_object_get(json_object_get(whole, "memory"), "components"),
                           json_object_get(json_object_get(wide, "memory"), "components")));
    snprintf(command, sizeof command, "rm -r %s/step-00000008", run);
    assert_int_equal(system(command), 0);
    Outcome *o = expect_code(TRAIN("cuda", "--steps", "8", "--resume", run), 1);
    assert_non_null(strstr(o->err, "precision"));
    o = expect_code(TRAIN("cpu", "--steps", "8", "--resume", run, "--precision", "tf32"), 2);
    assert_non_null(strstr(o->err, "--precision tf32 needs --device cuda"));
    json_t *rest = json_of(TRAIN("cuda", "--steps", "8", "--resume", run, "--precision", "tf32"));
    assert_true(number(rest, "steps") == 4 && number(rest, "loss_last") == number(whole, "loss_last"));
    json_decref(wide);
    json_decref(whole);
    json_decref(rest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_is_run),    cmocka_unit_test(plans_without_a_card),
        cmocka_unit_test(across_devices), cmocka_unit_test(writes_the_same),
        cmocka_unit_test(compared_runs),  cmocka_unit_test(writes_the_same_of_any_type),
        cmocka_unit_test(demonstrates),   cmocka_unit_test(saves_are_the_same_bits),
        cmocka_unit_test(in_tf32),
    };
    small_begin();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_folder(NULL);
    return failed;
}
