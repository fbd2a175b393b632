/* tests/gpu/pytorch, the check of the prediction on a card: it passes what is as predicted, and notices what
 * is not. What a card would have measured is made up here, beside a snapshot of unmodified PyTorch
 * (tests/pytorch/snapshot.py, "job"). */
#include <unistd.h>
#include <zlib.h>

#include "cli_support.h"

static const char config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 97, "
    "\"hidden_size\": 64, "
    "\"intermediate_size\": 96, \"num_hidden_layers\": 1, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2, "
    "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-06, \"hidden_act\": \"silu\"}";

static char folder[64], said[1 << 16];
static double allocated, reserved; /* as predicted */

static void path_of(char *path, size_t size, const char *name)
{
    snprintf(path, size, "%s/%s", folder, name);
}

static int put(const char *name, const void *bytes, size_t count)
{
    char path[128];
    path_of(path, sizeof path, name);
    FILE *out = fopen(path, "wb");
    if (!out)
        return -1;
    size_t written = fwrite(bytes, 1, count, out);
    return fclose(out) || written != count ? -1 : 0;
}

static int make_files(void **state)
{
    (void)state;
    static char bytes[1 << 20];
    snprintf(folder, sizeof folder, "/tmp/brim-gpu-pytorch-XXXXXX");
    gzFile in = gzopen("tests/pytorch/fixtures/snapshot_job.pickle.gz", "rb");
    int count = in ? gzread(in, bytes, sizeof bytes) : -1;
    if (in)
        gzclose(in);
    if (!mkdtemp(folder) || count <= 0 || put("job.pickle", bytes, (size_t)count) ||
        put("job.json", config, sizeof config - 1))
        return -1;
    char model[128];
    path_of(model, sizeof model, "job.json");
    json_t *plan = parse(
        expect_code(RUN("plan", "--framework", "pytorch", "--model", model, "--batch", "2", "--seq", "16",
                        "--precision", "bf16", "--script", "loop", "--clip", "1", "--card", "h200", "--json"),
                    0)
            ->out);
    const json_t *p = json_object_get(plan, "pytorch");
    allocated = (double)integer_at(p, "allocated_bytes");
    reserved = (double)integer_at(p, "reserved_bytes");
    json_decref(plan);
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    static const char *const names[] = {"job.pickle", "job.json", "measured.jsonl", "log.txt"};
    char path[128];
    for (size_t i = 0; i < COUNT(names); i++) {
        path_of(path, sizeof path, names[i]);
        remove(path);
    }
    return rmdir(folder);
}

/* What the script says of a measurement, into `said`; its exit code. */
static int judge(const char *rows)
{
    char command[512];
    assert_int_equal(put("measured.jsonl", rows, strlen(rows)), 0);
    snprintf(command, sizeof command, "python3 tests/gpu/pytorch --judge %s --brim %s 2>&1", folder,
             command_path());
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    said[fread(said, 1, sizeof said - 1, pipe)] = '\0';
    return pclose(pipe) >> 8;
}

static const char *row(const char *options, double times_allocated, double times_reserved, const char *torch)
{
    static char text[2048];
    snprintf(
        text, sizeof text,
        "{\"name\": \"job\", \"options\": \"--batch 2 %s\", \"outcome\": \"ran\", \"capability\": \"9.0\", "
        "\"card\": "
        "\"made up\", \"processors\": 132, \"total\": 150754820096, \"limit\": 0, \"versions\": \"torch=%s "
        "transformers=5.24.0 peft=0.21.2\", \"before\": 3, \"after\": 900, \"context_at_start\": 500000000, "
        "\"context_at_end\": 600000000, \"retries\": 0, \"allocated\": %.0f, \"reserved\": %.0f}\n",
        options, torch, times_allocated * allocated, times_reserved * reserved);
    return text;
}

static void has(const char *text)
{
    if (!strstr(said, text))
        fail_msg("no '%s' in\n%s", text, said);
}

/* The check is a script, which a machine without Python does not run. */
static void needs_python(void)
{
    if (system("python3 -c '' >/dev/null 2>&1"))
        skip();
}

static void what_is_as_predicted_passes(void **state)
{
    (void)state;
    needs_python();
    assert_int_equal(judge(row("--seq 16", 1, 1, "2.15.0")), 0);
    has("job          passed   allocated ");
    has("predicted +0.000 %; reserved ");
    has("all 257 allocations in order");
    has("torch=2.15,transformers=5.24 on h200");
    has("context      measured 476.8 MiB before a training, at most 572.2 behind one");
    assert_int_equal(judge(row("--seq 16", 1.009, 0.981, "2.15.0")), 0); /* the bounds are 1 % and 2 % */
}

static void a_wrong_prediction_fails(void **state)
{
    (void)state;
    needs_python();
    assert_int_equal(judge(row("--seq 16", 1.02, 1, "2.15.0")), 1);
    has("job          FAILED   allocated ");
    has("predicted -1.961 %");
    assert_int_equal(judge(row("--seq 16", 1, 0.97, "2.15.0")), 1);
    has("+3.09 %");
}

/* Another job than the one that is predicted: the first event that differs is named. */
static void the_first_event_that_differs_is_named(void **state)
{
    (void)state;
    needs_python();
    judge(row("--seq 15", 1, 1, "2.15.0"));
    has("the first that differs, event ");
    has(": 256 bytes, predicted 240 (data");
    judge(row("--seq 16 --optimizer sgd", 1, 1, "2.15.0"));
    has("221 of 257 allocations in order; the first that differs, event 416: 12416 bytes, predicted 256 "
        "(data");
}

/* Versions without rules are predicted by the nearest that have some, and nothing is called passed or failed.
 */
static void other_versions_are_only_measured(void **state)
{
    (void)state;
    needs_python();
    assert_int_equal(judge(row("--seq 16", 1.5, 1, "2.13.1")), 0);
    has("rules        measured torch=2.15,transformers=5.24 on h200; they are not those that ran");
    has("job          measured ");
}

static void a_verdict_that_does_not_hold_fails(void **state)
{
    (void)state;
    needs_python();
    char rows[4096];
    for (int ran = 0; ran < 2;
         ran++) { /* with all that it reserves it fits: it must not have run out of memory */
        snprintf(rows, sizeof rows,
                 "%s{\"name\": \"limited\", \"of\": \"job\", \"options\": \"--batch 2 --seq 16\", "
                 "\"outcome\": \"%s\", "
                 "\"limit\": %.0f, \"retries\": 0}\n",
                 row("--seq 16", 1, 1, "2.15.0"), ran ? "ran" : "out of memory", reserved);
        assert_int_equal(judge(rows), !ran);
        has(ran ? "limited      passed " : "limited      FAILED ");
        has("predicted \"fits\", 0 flushes");
    }
}

static void what_did_not_run_is_no_failure(void **state)
{
    (void)state;
    needs_python();
    char rows[4096];
    snprintf(rows, sizeof rows,
             "%s{\"name\": \"nf4\", \"options\": \"\", \"not_run\": \"there is no bitsandbytes\"}\n",
             row("--seq 16", 1, 1, "2.15.0"));
    assert_int_equal(judge(rows), 0);
    has("nf4          not run  there is no bitsandbytes");
    snprintf(rows, sizeof rows,
             "%s{\"name\": \"nf4\", \"options\": \"\", \"failed\": \"ended without a word\"}\n",
             row("--seq 16", 1, 1, "2.15.0"));
    assert_int_equal(judge(rows), 1);
    has("nf4          FAILED   ended without a word");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_as_predicted_passes),
        cmocka_unit_test(a_wrong_prediction_fails),
        cmocka_unit_test(the_first_event_that_differs_is_named),
        cmocka_unit_test(other_versions_are_only_measured),
        cmocka_unit_test(a_verdict_that_does_not_hold_fails),
        cmocka_unit_test(what_did_not_run_is_no_failure),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
