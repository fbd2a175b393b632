/* An export never destroys another model and never leaves a mixture of two: what is refused, what goes with
 * `overwrite`, and what whoever comes after a death in any system call finds. */
#include <signal.h>
#include <sys/wait.h>

#include "../base/file_.h"
#include "count.h"
#include "weights_support.h"

static ModelPreset preset;

static int export_to(const char *name, Module *model, const WeightsSaving *how)
{
    return io_save_weights(model, &preset, at(name), how);
}

static void put_into(const char *folder_name, const char *name)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", folder_name, name);
    put_text(path, name);
}

static int there(const char *name)
{
    return access(at(name), F_OK) == 0;
}

/* ---- What is refused ------------------------------------------------------------------------- */

/* Of another model, whatever of it lies there; what is nobody's model never matters. */
static void test_foreign_files(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int tokenizer, stays; /* stays: also with overwrite */
    } foreign[] = {
        {"generation_config.json", 0, 0},
        {"tokenizer.json", 1, 0},
        {"tokenizer_config.json", 1, 0},
        {"tokenizer.model", 1, 0},
        {"tokenizer.model.v3", 1, 0},
        {"spiece.model", 1, 0},
        {"vocab.txt", 1, 0},
        {"vocab.json", 1, 0},
        {"vocab.bpe", 1, 0},
        {"merges.txt", 1, 0},
        {"special_tokens_map.json", 1, 0},
        {"added_tokens.json", 1, 0},
        {"chat_template.jinja", 1, 0},
        {"adapter_config.json", 0, 0},
        {"adapter_model.safetensors", 0, 0},
        {"modules.json", 0, 0},
        {"pytorch_model.bin", 0, 1},
        {"model-q4.gguf", 0, 1},
        {"tf_model.h5", 0, 1},
        {"consolidated.00.pth", 0, 1},
    };
    static const char *const nobodys[] = {"README.md", "notes.txt", "tokens.bin", "log.jsonl",
                                          "eval_config.json"};
    preset = family(MODEL_GPT2);
    Module *model = model_of(&preset, 1);
    assert_int_equal(mkdir(at("out"), 0777), 0);
    for (size_t i = 0; i < COUNT(nobodys); i++)
        put_into("out", nobodys[i]);
    int others = COUNT(nobodys);
    for (size_t i = 0; i < COUNT(foreign); i++) {
        put_into("out", foreign[i].name);
        for (int again = 0; again < 2; again++) { /* before there are weights, and beside some of its own */
            int files = files_in(at("out"));
            assert_int_equal(io_check_export(model, &preset, at("out"), NULL), ERROR_FILE);
            assert_error(ERROR_FILE, foreign[i].tokenizer ? "another tokenizer (" : "another model (",
                         foreign[i].name, "--overwrite");
            assert_int_equal(export_to("out", model, NULL), ERROR_FILE);
            error_clear();
            assert_int_equal(files_in(at("out")), files);
            assert_int_equal(io_check_export(model, &preset, at("out"), &(WeightsSaving){.overwrite = 1}), 0);
            assert_int_equal(files_in(at("out")), files);
            if (again)
                break;
            assert_int_equal(export_to("out", model, &(WeightsSaving){.overwrite = 1}), 0);
            assert_int_equal(files_in(at("out")), others + 2 + foreign[i].stays);
            put_into("out", foreign[i].name);
        }
        char path[96];
        snprintf(path, sizeof path, "out/%s", foreign[i].name);
        unlink(at(path));
        assert_int_equal(export_to("out", model, NULL), 0); /* over its own */
    }
    assert_int_equal(files_in(at("out")), others + 2);
}

/* Another model's weights or configuration, even of the same family; its own of any type and any sharding are
 * its own. */
static void test_another_model(void **state)
{
    (void)state;
    for (int a = MODEL_BERT; a < FAMILIES; a++) {
        char name[16];
        snprintf(name, sizeof name, "m%d", a);
        preset = family((ModelFamily)a);
        Module *model = model_of(&preset, 1);
        for (int type = SAFETENSORS_F32; type <= SAFETENSORS_BF16; type++)
            for (uint64_t shard = 0; shard < 4000; shard += 2000)
                assert_int_equal(
                    export_to(name, model, &(WeightsSaving){.type = (SafetensorsType)type, .shard = shard}),
                    0);
        for (int b = 0; b < FAMILIES; b++) {
            if (a == b)
                continue;
            preset = family((ModelFamily)b);
            assert_int_equal(export_to(name, nn_model(&preset), NULL), ERROR_FILE);
            assert_error(ERROR_FILE, name, "holds another model");
        }
        preset = family((ModelFamily)a); /* another size */
        nn_preset_set_vocab(&preset, nn_preset_vocab(&preset) + 1);
        assert_int_equal(export_to(name, nn_model(&preset), NULL), ERROR_FILE);
        assert_error(ERROR_FILE, "holds another model (its weights)");
    }
    preset = family(MODEL_LLAMA); /* the same shapes, other heads */
    char path[16] = "m3";
    snprintf(path, sizeof path, "m%d", MODEL_LLAMA);
    LlamaConfig *c = &preset.config.llama;
    c->head_dim = (c->head_dim ? c->head_dim : c->dim / c->heads) * 2;
    c->kv_heads = (c->kv_heads ? c->kv_heads : c->heads) / 2;
    c->heads /= 2;
    assert_int_equal(export_to(path, nn_model(&preset), NULL), ERROR_FILE);
    assert_error(ERROR_FILE, "holds another model (config.json)");
}

/* Damaged weights are nobody's to throw away without asking. */
static void test_damaged(void **state)
{
    (void)state;
    preset = family(MODEL_GPT2);
    Module *model = model_of(&preset, 1);
    assert_int_equal(export_to("out", model, NULL), 0);
    put_text("out/model.safetensors", "x");
    assert_int_equal(export_to("out", model, NULL), ERROR_FILE);
    assert_error(ERROR_FILE, "another model (its weights)");
    assert_int_equal(export_to("out", model, &(WeightsSaving){.overwrite = 1}), 0);
    put_text("out/config.json", "{");
    assert_int_equal(export_to("out", model, NULL), ERROR_FILE);
    assert_error(ERROR_FILE, "another model (config.json)");
}

/* Where it comes from, by any name, and a saved run: even with overwrite. */
static void test_never(void **state)
{
    (void)state;
    preset = family(MODEL_GPT2);
    Module *model = model_of(&preset, 1);
    char source[192];
    assert_int_equal(export_to("in", model, NULL), 0);
    assert_int_equal(symlink("in", at("link")), 0);
    strcpy(source, at("in"));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(
            export_to(i ? "link" : "in", model, &(WeightsSaving){.source = source, .overwrite = 1}),
            ERROR_FILE);
        assert_error(ERROR_FILE, "is where the model comes from");
    }
    put_text("in/state.json", "{}");
    put_text("in/optimizer.safetensors", "{}");
    assert_int_equal(export_to("in", model, &(WeightsSaving){.overwrite = 1}), ERROR_FILE);
    assert_error(ERROR_FILE, "is a saved run");
    assert_int_equal(io_check_export(NULL, &preset, "x", NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "model is NULL");
}

/* The same tokenizer may come again; another of the same name may not. */
static void test_tokenizers(void **state)
{
    (void)state;
    preset = family(MODEL_GPT2);
    Module *model = model_of(&preset, 1);
    char source[192];
    assert_int_equal(mkdir(at("in"), 0777), 0);
    put_text("in/tokenizer.json", "{'a':1}");
    put_text("in/vocab.json", "{}");
    strcpy(source, at("in"));
    const WeightsSaving how = {.source = source};
    assert_int_equal(export_to("out", model, &how), 0);
    assert_int_equal(export_to("out", model, &how), 0);
    put_text("in/tokenizer.json", "{'a':2}");
    assert_int_equal(export_to("out", model, &how), ERROR_FILE);
    assert_error(ERROR_FILE, "holds another tokenizer, which");
    assert_int_equal(export_to("out", model, NULL), ERROR_FILE); /* without it would stay */
    assert_error(ERROR_FILE, "another tokenizer (tokenizer.json)");
}

/* Weights alone are not a model: what describes one is left. */
static void test_weights_alone(void **state)
{
    (void)state;
    preset = family(MODEL_GPT2);
    Module *model = model_of(&preset, 1);
    assert_int_equal(export_to("out", model, NULL), 0);
    put_text("out/vocab.txt", "x");
    assert_int_equal(io_save_weights(model, NULL, at("out"), NULL), 0);
    assert_int_equal(files_in(at("out")), 3);
    preset = family(MODEL_BERT);
    assert_int_equal(io_save_weights(nn_model(&preset), NULL, at("out"), NULL), ERROR_FILE);
    assert_error(ERROR_FILE, "another model (its weights)");
}

/* ---- Death in every call --------------------------------------------------------------------- */

static FileCalls real;
static int calls, fatal;

/* Before this call, which is after the one before it. */
static void count_call(void)
{
    if (++calls == fatal)
        kill(getpid(), SIGKILL);
}

#define DYING(type, name, parameters, arguments)                                                             \
    static type dying_##name parameters                                                                      \
    {                                                                                                        \
        count_call();                                                                                        \
        return real.name arguments;                                                                          \
    }
DYING(int, open, (const char *path, int flags, mode_t mode), (path, flags, mode))
DYING(ssize_t, write, (int file, const void *bytes, size_t count), (file, bytes, count))
DYING(int, close, (int file), (file))
DYING(int, rename, (const char *from, const char *to), (from, to))
DYING(int, unlink, (const char *path), (path))
DYING(int, mkdir, (const char *path, mode_t mode), (path, mode))
DYING(int, rmdir, (const char *path), (path))

static int dying_fsync(int file) /* a disk is slow */
{
    count_call();
    return file < 0;
}

/* Whether the model `as` is there, and nothing of another: readers take model.safetensors before shards, and
 * no folder that modules.json does not name. */
static int is_whole(const char *as)
{
    char command[512], from[192];
    strcpy(from, at(as));
    snprintf(command, sizeof command, "diff -r -x '*.tmp-*' %s %s %s %s > /dev/null",
             there("out/modules.json") ? "" : "-x 1_Pooling",
             there("out/model.safetensors") ? "-x 'model-*' -x '*.index.json'" : "", from, at("out"));
    return system(command) == 0;
}

/* Nobody takes what is there for a model: transformers wants config.json, and both want weights. */
static int is_no_model(void)
{
    int weights = there("out/model.safetensors") || there("out/model.safetensors.index.json");
    return !there("out/config.json") || !weights;
}

static void copy_folder(const char *from, const char *to)
{
    char command[512], a[192];
    strcpy(a, at(from));
    snprintf(command, sizeof command, "rm -rf %s && cp -r %s %s", at(to), a, at(to));
    assert_int_equal(system(command), 0);
}

typedef struct Change {
    const char *old, *source; /* what lies there; what the new one comes from */
    uint64_t shard;
    float value;
    int only_weights; /* then there is a whole model at any moment, if names of shards do not clash */
} Change;

/* Dies in its which-th call. 0: there are not so many. */
static int die_in(const Change *c, int which)
{
    int status = 0;
    char source[192];
    strcpy(source, at(c->source));
    const WeightsSaving how = {.source = source, .shard = c->shard, .overwrite = 1};
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        Module *model = nn_model(&preset);
        TensorList list = nn_parameters(model);
        for (int i = 0; i < list.count; i++)
            tensor_fill(list.items[i], c->value);
        calls = 0;
        fatal = which;
        file_calls = (FileCalls){dying_open,   dying_write,  dying_fsync, dying_close,
                                 dying_rename, dying_unlink, dying_mkdir, dying_rmdir};
        _exit(export_to("out", model, &how) != 0);
    }
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    if (WIFEXITED(status))
        assert_int_equal(WEXITSTATUS(status), 0);
    return WIFSIGNALED(status);
}

static void die_everywhere(const Change *c)
{
    int none = 0, old = 0, fresh = 0, which = 1;
    copy_folder(c->old, "out");
    assert_int_equal(die_in(c, 0), 0);
    copy_folder("out", "new");
    for (which = 1;; which++) {
        copy_folder(c->old, "out");
        if (!die_in(c, which))
            break;
        int is_old = is_whole(c->old), is_new = is_whole("new");
        if (!is_old && !is_new && !is_no_model())
            fail_msg("from %s to %s, death before call %d: a mixture", c->old, c->source, which);
        old += is_old;
        fresh += is_new;
        none += !is_old && !is_new;
        if (which % 7 == 0) { /* and the next export mends it */
            assert_int_equal(die_in(c, 0), 0);
            assert_true(is_whole("new"));
        }
    }
    count_more(COUNTED_DEATHS, old + fresh + none);
    assert_true(old > 10 && fresh > 0);
    assert_int_equal(none == 0, c->only_weights);
}

static void make_model(const char *name, ModelFamily which, float value, const char *source)
{
    char from[192];
    strcpy(from, at(source));
    preset = family(which);
    Module *model = nn_model(&preset);
    TensorList list = nn_parameters(model);
    for (int i = 0; i < list.count; i++)
        tensor_fill(list.items[i], value);
    assert_int_equal(export_to(name, model, &(WeightsSaving){.source = from}), 0);
}

static void test_death_in_each_call(void **state)
{
    (void)state;
    real = file_calls;
    assert_int_equal(mkdir(at("one"), 0777), 0);
    assert_int_equal(mkdir(at("two"), 0777), 0);
    assert_int_equal(mkdir(at("two/1_Pooling"), 0777), 0);
    put_text("one/tokenizer.json", "{'one':1}");
    put_text("one/vocab.txt", "one");
    put_text("one/generation_config.json", "{}");
    put_text("two/tokenizer.json", "{'two':1}");
    put_text("two/merges.txt", "two");
    put_text("two/modules.json", "[]");
    put_text("two/1_Pooling/config.json", "{}");
    make_model("bert", MODEL_BERT, 1, "one");
    make_model("gpt", MODEL_GPT2, 1, "one");
    static const Change changes[] = {
        {"bert", "one", 0, 2, 0},    /* another family, the same tokenizer */
        {"gpt", "two", 0, 2, 0},     /* another tokenizer */
        {"gpt", "two", 20000, 2, 0}, /* and several files */
        {"gpt", "one", 0, 2, 1},     /* a later export of the same run */
        {"gpt", "one", 20000, 2, 1}, /* the same in several files */
    };
    for (size_t i = 0; i < COUNT(changes); i++)
        die_everywhere(&changes[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_foreign_files),
        TEST(test_another_model),
        TEST(test_damaged),
        TEST(test_never),
        TEST(test_tokenizers),
        TEST(test_weights_alone),
        TEST(test_death_in_each_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
