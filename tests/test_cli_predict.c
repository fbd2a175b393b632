/* brim report snapshot.pickle --predict: a snapshot of unmodified PyTorch (tests/pytorch/snapshot.py, "job")
 * beside what is predicted of the same job, and of others. */
#include <zlib.h>

#include "cli_support.h"

static const char config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 97, "
    "\"hidden_size\": 64, "
    "\"intermediate_size\": 96, \"num_hidden_layers\": 1, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2, "
    "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-06, \"hidden_act\": \"silu\"}";

typedef struct Files {
    char folder[64], config[96], snapshot[96];
} Files;
static Files files;

static int unpack(const char *from, const char *to)
{
    static char bytes[1 << 20];
    gzFile in = gzopen(from, "rb");
    int count = in ? gzread(in, bytes, sizeof bytes) : -1;
    if (in)
        gzclose(in);
    FILE *out = count > 0 ? fopen(to, "wb") : NULL;
    if (!out)
        return -1;
    size_t written = fwrite(bytes, 1, (size_t)count, out);
    return fclose(out) || written != (size_t)count ? -1 : 0;
}

static int make_files(void **state)
{
    (void)state;
    snprintf(files.folder, sizeof files.folder, "/tmp/brim-predict-XXXXXX");
    if (!mkdtemp(files.folder))
        return -1;
    snprintf(files.config, sizeof files.config, "%s/config.json", files.folder);
    snprintf(files.snapshot, sizeof files.snapshot, "%s/snapshot.pickle", files.folder);
    FILE *out = fopen(files.config, "w");
    if (!out)
        return -1;
    fputs(config, out);
    return fclose(out) || unpack("tests/pytorch/fixtures/snapshot_job.pickle.gz", files.snapshot);
}

static int remove_files(void **state)
{
    (void)state;
    return remove(files.config) | remove(files.snapshot) | rmdir(files.folder);
}

#define JOB                                                                                                  \
    "--model", files.config, "--batch", "2", "--precision", "bf16", "--script", "loop", "--card", "h200"

static void has(const Outcome *o, const char *text)
{
    if (!strstr(o->out, text))
        fail_msg("no '%s' in\n%s", text, o->out);
}

static void the_same_job_is_equal(void **state)
{
    (void)state;
    has(expect_code(RUN("report", files.snapshot, "--predict", JOB, "--seq", "16"), 0),
        "The record begins at: model, embed_tokens (aten::_to_copy)\n"
        "257 allocations of 257 are as predicted, with what is freed between them.\n");
    json_t *root =
        parse(expect_code(RUN("report", files.snapshot, "--json", "--predict", JOB, "--seq", "16"), 0)->out);
    const json_t *p = json_object_get(root, "predicted");
    assert_true(json_is_true(json_object_get(p, "equal")));
    assert_int_equal(integer_at(p, "equal_allocations"), 257);
    assert_true(json_is_null(json_object_get(p, "differs_at_event")));
    json_decref(root);
}

/* Of another job the first event that differs is named: with its bytes, and where it is predicted. */
static void another_job_differs_where_it_does(void **state)
{
    (void)state;
    const Outcome *o =
        expect_code(RUN("report", files.snapshot, "--predict", JOB, "--seq", "16", "--optimizer", "sgd"), 0);
    has(o, "221 allocations of 257 are as predicted");
    has(o, "       416            12,416               256  < data, step 2");
    has(expect_code(RUN("report", files.snapshot, "--predict", JOB, "--seq", "16", "--attention", "eager"),
                    0),
        "The first that differs");
    json_t *root =
        parse(expect_code(RUN("report", files.snapshot, "--json", "--predict", JOB, "--seq", "15"), 0)->out);
    const json_t *p = json_object_get(root, "predicted");
    assert_true(json_is_false(json_object_get(p, "equal")));
    assert_int_equal(integer_at(p, "recorded_bytes"), 256);
    assert_int_equal(integer_at(p, "predicted_bytes"), 240);
    json_decref(root);
    has(expect_code(RUN("report", files.snapshot, "--predict", "gpt2", "--batch", "1"), 0),
        "No phase of the prediction begins as the record does");
}

static void what_cannot_be_predicted_is_said(void **state)
{
    (void)state;
    const Outcome *o = expect_code(RUN("report", files.snapshot, "--predict", "gpt2", "--batch", "x"), 2);
    assert_non_null(strstr(o->err, "--batch must be a whole number"));
    o = expect_code(RUN("report", files.snapshot, "--predict", "mixtral-8x7b"), 2);
    assert_non_null(strstr(o->err, "mixtral"));
    o = expect_code(RUN("report", files.config, "--predict", "gpt2"), 2);
    assert_non_null(strstr(o->err, "is no memory snapshot of PyTorch, which --predict lies beside"));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_job_is_equal),
        cmocka_unit_test(another_job_differs_where_it_does),
        cmocka_unit_test(what_cannot_be_predicted_is_said),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
