/* Directories and files that are no model that can be read: each form in which weights and tokenizers are
 * handed around gets a sentence that says what it is and what to do; Hugging Face's cache is followed. */
#include "weights_support.h"

#include "../text/tokenizer.h"

static void make_directory(const char *name)
{
    assert_int_equal(mkdir(at(name), 0777), 0);
}

static void put_in(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "d/%s", name);
    if (name[strlen(name) - 1] == '/')
        make_directory(path);
    else
        put_text(path, "{'x':1}");
}

static void empty_directory(void)
{
    char command[160];
    snprintf(command, sizeof command, "rm -rf %s/d", folder);
    assert_int_equal(system(command), 0);
    make_directory("d");
}

/* ---- Directories ----------------------------------------------------------------------------- */

/* The files that are there, what must be said: what it is, its file, what to do. */
static void test_forms(void **state)
{
    (void)state;
    static const struct {
        const char *files[4];
        const char *is, *file, *todo;
    } forms[] = {
        {{"adapter_model.safetensors", "README.md"},
         "has no model.safetensors, but",
         "adapter_model.safetensors",
         "path"},
        {{"model-q4_k_m.gguf"}, "GGUF", "model-q4_k_m.gguf", "safetensors files that it was made of"},
        {{"consolidated.00.pth", "params.json", "tokenizer.model"},
         "Meta's own format",
         "consolidated.00.pth",
         "-hf"},
        {{"consolidated.safetensors", "params.json"},
         "other names",
         "consolidated.safetensors",
         "model*.safetensors"},
        {{"params.json"}, "own format", "params.json", "Hugging Face"},
        {{"config.json", "pytorch_model.bin"}, "in a pickle", "pytorch_model.bin", "safe_serialization=True"},
        {{"config.json", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"},
         "in a pickle",
         "pytorch_model-00001-of-00002.bin",
         "save_pretrained"},
        {{"config.json", "tf_model.h5"}, "TensorFlow", "tf_model.h5", "from_tf=True"},
        {{"bert_model.ckpt.index", "bert_model.ckpt.meta"},
         "TensorFlow",
         "bert_model.ckpt.index",
         "from_tf=True"},
        {{"config.json", "flax_model.msgpack"}, "Flax", "flax_model.msgpack", "from_flax=True"},
        {{"model.onnx"}, "ONNX", "model.onnx", "exported from"},
        {{"model-00001-of-00003.safetensors", "config.json"},
         "shards of weights",
         "model-00001-of-00003.safetensors",
         "download is not complete"},
        {{"gpt2.safetensors"}, "has no model.safetensors, but", "gpt2.safetensors", "give its path"},
        {{"modules.json", "0_Transformer/", "1_Pooling/"},
         "sentence-transformers",
         "0_Transformer",
         "give that folder"},
        {{"checkpoint-500/", "runs/"}, "trainer's output", "checkpoint-500", "give one of these folders"},
        {{"step-00000010/", "step-00000020/"}, "saved runs of brim", "step-00000010", "--resume"},
        {{"models--org--one/", "models--org--two/", "version.txt"},
         "cache of several models",
         "models--org--one",
         "give the folder of one"},
        {{"model.pt"}, "pickle of PyTorch", "model.pt", "save_pretrained"},
        {{"weights.bin"}, "unknown form", "weights.bin", "save_pretrained"},
        {{"README.md"}, "has no model.safetensors and no", "model.safetensors.index.json", ""},
        {{NULL}, "has no model.safetensors and no", "", ""},
    };
    for (size_t i = 0; i < COUNT(forms); i++) {
        empty_directory();
        int config = 0;
        for (int k = 0; k < 4 && forms[i].files[k]; k++) {
            put_in(forms[i].files[k]);
            config |= !strcmp(forms[i].files[k], "config.json");
        }
        assert_null(safetensors_open(at("d")));
        assert_error(ERROR_FILE, forms[i].is, forms[i].file, forms[i].todo, "/d ");
        if (config || strstr(forms[i].is, "has no model.safetensors and"))
            continue; /* as a description of a model it is the same */
        IoModel model;
        assert_int_equal(io_read_config(at("d"), &model), ERROR_FILE);
        assert_error(ERROR_FILE, forms[i].is, forms[i].file, forms[i].todo);
    }
    IoModel model; /* weights without a description are no other form */
    empty_directory();
    put_in("model.safetensors");
    put_in("model.onnx");
    assert_int_equal(io_read_config(at("d"), &model), ERROR_FILE);
    assert_error(ERROR_FILE, "has no config.json");
}

static void test_adapter(void **state)
{
    (void)state;
    IoModel model;
    empty_directory();
    put_text("d/adapter_config.json", "{'base_model_name_or_path':'org/base','peft_type':'LORA','r':4}");
    put_in("adapter_model.safetensors");
    assert_null(safetensors_open(at("d")));
    assert_error(ERROR_FILE, "is an adapter (\"LORA\") of \"org/base\"",
                 "give that model here, and this directory with --adapter");
    assert_int_equal(io_read_config(at("d"), &model), ERROR_FILE);
    assert_error(ERROR_FILE, "is an adapter", "org/base");
    put_text("d/adapter_config.json", "{'base_model_name_or_path':null}");
    assert_null(safetensors_open(at("d")));
    assert_error(ERROR_FILE, "is an adapter (LoRA) of another model");
    put_text("d/adapter_config.json", "{");
    assert_null(safetensors_open(at("d")));
    assert_error(ERROR_DATA, "adapter_config.json", "is not JSON");
    assert_null(tokenizer_read(at("d")));
    assert_error(ERROR_FILE, "is an adapter and has no tokenizer.json");
}

/* A whole model that lies beside something else is a model. */
static void test_beside(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_GPT2);
    assert_int_equal(save(model_of(&preset, 1), &preset, "d"), 0);
    static const char *const others[] = {"adapter_config.json", "model.gguf", "pytorch_model.bin",
                                         "checkpoint-1/"};
    for (size_t i = 0; i < COUNT(others); i++)
        put_in(others[i]);
    IoModel model;
    assert_int_equal(io_read_config(at("d"), &model), 0);
    assert_int_equal(io_load_weights(nn_model(&model.preset), at("d"), NULL, NULL), 0);
}

/* Which shards are missing is said before any is read. */
static void test_missing_shards(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_GPT2);
    Module *model = model_of(&preset, 1);
    assert_int_equal(io_save_weights(model, &preset, at("d"), &(WeightsSaving){.shard = 20000}), 0);
    Safetensors *s = safetensors_open(at("d"));
    char last[64];
    snprintf(last, sizeof last, "%s", safetensors_at(s, safetensors_count(s) - 1)->file);
    int count = atoi(strstr(last, "-of-") + 4);
    safetensors_close(s);
    assert_true(count > 2);
    for (int gone = 1; gone <= 2; gone++) {
        char path[96], said[64];
        snprintf(path, sizeof path, "d/model-%05d-of-%05d.safetensors", gone, count);
        assert_int_equal(unlink(at(path)), 0);
        snprintf(said, sizeof said, "%d of the %d files that it names %s missing", gone, count,
                 gone > 1 ? "are" : "is");
        assert_null(safetensors_open(at("d")));
        assert_error(ERROR_FILE, said, "the first is \"model-00001-of-", "the download is not complete");
    }
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void test_files(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        const char *is;
    } files[] = {
        {"PK\3\4\0\0\0\0\0\0\0\0\0\0\0\0", 16, "a pickle of PyTorch or another zip"},
        {"\x80\x02}q\0X\6\0\0\0weight\xff", 16, "a pickle of PyTorch"},
        {"GGUF\3\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", 16, "GGUF, llama.cpp's format"},
        {"\x89HDF\r\n\x1a\n\xff\xff\xff\xff\xff\xff\xff\xff", 16, "HDF5"},
        {"\x93NUMPY\1\0v\0{'descr'", 16, "an array of NumPy"},
        {"\x1f\x8b\x08\0\0\0\0\0\0\3\0\0\0\0\0\0", 16, "compressed (gzip)"},
        {"\x28\xb5\x2f\xfd\0\0\0\0\0\3\0\0\0\0\0\xff", 16, "compressed (zstd)"},
        {"version https://git-lfs.github.com/spec/v1\n", 43, "a pointer of Git LFS"},
        {"<!DOCTYPE html><html>", 21, "a web page"},
        {"{\"a config\": \"is a text\"}", 25, "not a safetensors file: it is a text"},
        {"a text, as anybody writes one\n", 30, "not a safetensors file: it is a text"},
        {"\xc3\xa4hnlich, in UTF-8\n", 19, "not a safetensors file: it is a text"},
        {"\0\1\2\3\4\5\6\7\x08\t\n\x0b\f\r\x0e\x0f", 16, "it is not a safetensors file, or was cut short"},
    };
    for (size_t i = 0; i < COUNT(files); i++) {
        put_file(at("f"), files[i].bytes, files[i].size);
        assert_null(safetensors_open(at("f")));
        assert_error(ERROR_DATA, "/f ", files[i].is);
    }
}

/* ---- Names with something before them -------------------------------------------------------- */

/* The model's own tensors under other names. */
static void write_renamed(Module *model, const char *path, const char *before)
{
    static char names[200][160];
    static SafetensorsItem items[200];
    TensorList list = nn_parameters(model);
    assert_true(list.count <= 200);
    for (int i = 0; i < list.count; i++) {
        Shape shape = tensor_shape(list.items[i]);
        snprintf(names[i], sizeof names[i], "%s%s", before, tensor_name(list.items[i]));
        items[i] = (SafetensorsItem){.name = names[i], .ndim = shape.ndim, .data = tensor_f32(list.items[i])};
        memcpy(items[i].dim, shape.dim, sizeof shape.dim);
    }
    assert_int_equal(safetensors_write(path, items, list.count), 0);
}

static void test_wrapped(void **state)
{
    (void)state;
    static const char *const before[] = {
        "module.", "_orig_mod.",   "base_model.model.", "module._orig_mod.", "_forward_module.module.",
        "model.",  "transformer.", "0.auto_model."};
    for (int f = MODEL_BERT; f < FAMILIES; f++) {
        ModelPreset preset = family((ModelFamily)f);
        Module *model = model_of(&preset, 1), *other = model_of(&preset, 2);
        TensorList a = nn_parameters(model), b = nn_parameters(other);
        for (size_t i = 0; i < COUNT(before); i++) {
            write_renamed(model, at("w.safetensors"), before[i]);
            tensor_fill(b.items[0], -1);
            assert_int_equal(io_load_weights(other, at("w.safetensors"), NULL, NULL), 0);
            for (int p = 0; p < a.count; p++)
                assert_memory_equal(tensor_f32(a.items[p]), tensor_f32(b.items[p]),
                                    (size_t)tensor_numel(a.items[p]) * sizeof(float));
        }
        write_renamed(model, at("w.safetensors"), "unknown.");
        assert_int_equal(io_load_weights(other, at("w.safetensors"), NULL, NULL), ERROR_DATA);
        assert_error(ERROR_DATA, "are not the model's");
    }
}

/* What names say about where they are from. */
static void test_hints(void **state)
{
    (void)state;
    static const char *const names[][2] = {
        {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
         "LoRA adapter: give the weights of its base"},
        {"model.layers.0.self_attn.q_proj.base_layer.weight", "LoRA adapter: give the weights of its base"},
        {"model.layers.0.self_attn.q_proj.qweight", "quantised (GPTQ or AWQ)"},
        {"model.layers.0.self_attn.q_proj.weight.absmax", "weight.absmax"},
        {"model.layers.0.self_attn.q_proj.weight_scale", "quantised (FP8)"},
        {"model.layers.0.self_attn.q_proj.weight.exp_avg", "an optimizer's states"},
    };
    ModelPreset preset = family(MODEL_LLAMA);
    Module *model = nn_model(&preset);
    float one = 1;
    for (size_t i = 0; i < COUNT(names); i++) {
        SafetensorsItem item = {.name = names[i][0], .ndim = 1, .dim = {1}, .data = &one};
        assert_int_equal(safetensors_write(at("h.safetensors"), &item, 1), 0);
        assert_int_equal(io_load_weights(model, at("h.safetensors"), NULL, NULL), ERROR_DATA);
        assert_error(ERROR_DATA, names[i][1], "not the model's");
    }
}

/* ---- Hugging Face's cache -------------------------------------------------------------------- */

#define MODEL_FOLDER "hub/models--my-org--tiny--v2"

static void test_cache(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_GPT2);
    Module *model = model_of(&preset, 1);
    IoModel read;
    make_directory("hub");
    make_directory(MODEL_FOLDER);
    make_directory(MODEL_FOLDER "/refs");
    make_directory(MODEL_FOLDER "/snapshots");
    assert_int_equal(io_read_config(at(MODEL_FOLDER), &read), ERROR_FILE);
    assert_error(ERROR_FILE, "without a snapshot: download the model again");
    assert_int_equal(save(model, &preset, MODEL_FOLDER "/snapshots/0123abc"), 0);
    put_text(MODEL_FOLDER "/snapshots/0123abc/generation_config.json", "{'eos_token_id':5}");
    for (int i = 0; i < 3; i++) { /* the only one; the one that is named; another that is not */
        if (i == 1)
            put_text(MODEL_FOLDER "/refs/main", "0123abc\n");
        if (i == 2)
            make_directory(MODEL_FOLDER "/snapshots/ffff");
        assert_int_equal(io_read_config(at(MODEL_FOLDER), &read), 0);
        assert_string_equal(read.name, "v2");
        assert_int_equal(io_load_weights(model, at(MODEL_FOLDER), NULL, NULL), 0);
        IoEndTokens ends;
        assert_int_equal(io_read_end_tokens(at(MODEL_FOLDER), &ends), 0);
        assert_int_equal(ends.count, 1);
        assert_int_equal(io_read_config(at(MODEL_FOLDER "/snapshots/0123abc"), &read), 0);
        assert_string_equal(read.name, "v2");
    }
    assert_null(tokenizer_read(at(MODEL_FOLDER)));
    assert_error(ERROR_FILE, "has no tokenizer.json");
    static const char *const refs[] = {"", "gone", "../refs", "."};
    for (size_t i = 0; i < COUNT(refs); i++) {
        put_text(MODEL_FOLDER "/refs/main", refs[i]);
        assert_int_equal(io_read_config(at(MODEL_FOLDER), &read), ERROR_FILE);
        assert_error(ERROR_FILE, "2 snapshots, and its refs/main names none of them");
    }
    assert_int_equal(io_read_config(at("hub"), &read), ERROR_FILE);
    assert_error(ERROR_FILE, "cache of several models", "models--my-org--tiny--v2");
}

/* ---- Tokenizers ------------------------------------------------------------------------------ */

static void test_tokenizers(void **state)
{
    (void)state;
    static const char *const forms[][2] = {
        {"tokenizer.model", "SentencePiece"},
        {"spiece.model", "SentencePiece"},
        {"sentencepiece.bpe.model", "SentencePiece"},
        {"tekken.json", "Mistral's own form"},
        {"vocab.txt", "WordPiece"},
        {"vocab.json", "BPE"},
        {"merges.txt", "BPE"},
        {"vocab.bpe", "BPE"},
    };
    for (size_t i = 0; i < COUNT(forms); i++) {
        char path[64];
        empty_directory();
        assert_null(tokenizer_other_form(at("d")));
        put_in(forms[i][0]);
        assert_string_equal(tokenizer_other_form(at("d")), forms[i][0]);
        assert_null(tokenizer_read(at("d")));
        assert_error(ERROR_FILE, "in another form", forms[i][0], forms[i][1], "AutoTokenizer");
        snprintf(path, sizeof path, "d/%s", forms[i][0]);
        assert_null(tokenizer_read(at(path)));
        assert_error(ERROR_DATA, "in another form", forms[i][1], "AutoTokenizer");
        put_in("tokenizer.json");
        assert_null(tokenizer_other_form(at("d")));
    }
    assert_null(tokenizer_other_form(NULL));
    assert_null(tokenizer_other_form(at("none")));
}

/* ---- No memory ------------------------------------------------------------------------------- */

static void test_no_memory(void **state)
{
    (void)state;
    empty_directory();
    put_text("d/adapter_config.json", "{'base_model_name_or_path':'org/base'}");
    uint64_t live = memtrack_process_live();
    for (int n = 1, passed = 0; !passed; n++) {
        memtrack_fail_nth((uint64_t)n);
        assert_null(safetensors_open(at("d")));
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(error_code(), passed ? ERROR_FILE : ERROR_HOST_MEMORY);
        assert_int_equal(memtrack_process_live(), live);
        error_clear();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_forms),      TEST(test_adapter),   TEST(test_beside), TEST(test_missing_shards),
        TEST(test_files),      TEST(test_wrapped),   TEST(test_hints),  TEST(test_cache),
        TEST(test_tokenizers), TEST(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
