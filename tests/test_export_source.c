/* What an export keeps of where its weights came from: the rest of config.json, tokenizers, what
 * sentence-transformers does after the model. */
#include "weights_support.h"

#define SOURCE                                                                                               \
    "{'model_type':'gpt2','n_embd':8,'n_head':2,'eos_token_id':[7,8],'pad_token_id':null,'torch_dtype':'float16',"      \
    "'dtype':'float16','n_ctx':5,'id2label':{'0':'x'}}"

static int export_with(Module *model, const ModelPreset *preset, const char *tokenizer)
{
    char source[192], other[192];
    strcpy(source, at("in"));
    strcpy(other, tokenizer ? at(tokenizer) : "");
    return io_save_weights(
        model, preset, at("out"),
        &(WeightsSaving){.source = source, .tokenizer = tokenizer ? other : NULL, .overwrite = 1});
}

static int export_all(Module *model, const ModelPreset *preset)
{
    return export_with(model, preset, NULL);
}

static void file_is(const char *name, const char *text)
{
    size_t n;
    char *there = (char *)get_file(at(name), &n);
    assert_string_equal(there, text);
    test_free(there);
}

/* Token ids and tokenizers of the source; what the model decides stays the model's. */
static void test_source(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_GPT2);
    Module *model = model_of(&preset, 1);
    size_t n;
    assert_int_equal(mkdir(at("in"), 0777), 0);
    assert_int_equal(export_all(model, &preset), 0); /* there is nothing */
    assert_int_equal(files_in(at("out")), 2);
    put_text("in/config.json", SOURCE);
    put_text("in/tokenizer.json", "{'a':1}");
    put_text("in/optimizer.pt", "not ours");
    int count = 1;
    for (int passed = 0; !passed; count++) {
        uint64_t live = memtrack_process_live();
        memtrack_fail_nth((uint64_t)count);
        int status = export_all(model, &preset);
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        if (status != (passed ? 0 : ERROR_HOST_MEMORY))
            fail_msg("%s", error_message());
        assert_int_equal(memtrack_process_live(), live);
        error_clear();
    }
    assert_true(count > 5);
    assert_int_equal(files_in(at("out")), 3);
    file_is("out/tokenizer.json", "{\"a\":1}");
    char *text = (char *)get_file(at("out/config.json"), &n);
    assert_non_null(strstr(text, "\"n_embd\":32"));
    assert_non_null(strstr(text, "\"torch_dtype\":\"float32\",\"dtype\":\"float32\""));
    assert_non_null(strstr(text, "\"pad_token_id\":null"));
    assert_non_null(strstr(text, "\"id2label\":{"));
    assert_non_null(strstr(text, "\"n_ctx\":5"));
    test_free(text);
    IoModel read;
    assert_int_equal(io_read_config(at("out"), &read), 0);
    assert_int_equal(read.preset.family, MODEL_GPT2);
    put_text("in/config.json", "{");
    assert_int_equal(export_all(model, &preset), ERROR_DATA);
    assert_error(ERROR_DATA, "in/config.json", "is not JSON");
    assert_int_equal(files_in(at("out")), 3); /* as they were */
}

/* The tokenizer that it was trained with takes the place of its source's, in all its forms. */
static void test_another_tokenizer(void **state)
{
    (void)state;
    size_t n;
    ModelPreset preset = family(MODEL_GPT2);
    Module *model = model_of(&preset, 1);
    assert_int_equal(mkdir(at("in"), 0777), 0);
    assert_int_equal(mkdir(at("other"), 0777), 0);
    put_text("in/tokenizer.json", "{'b':1}");
    put_text("in/vocab.txt", "old");
    put_text("in/generation_config.json", "{}");
    put_text("other/tokenizer.json", "{'a':1}");
    put_text("other/vocab.txt", "x");
    assert_int_equal(export_all(model, &preset), 0);
    file_is("out/vocab.txt", "old");
    assert_int_equal(files_in(at("out")), 5);
    int count = 1;
    for (int passed = 0; !passed; count++) {
        uint64_t live = memtrack_process_live();
        memtrack_fail_nth((uint64_t)count);
        int status = export_with(model, &preset, count % 2 ? "other" : "other/tokenizer.json");
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(status, passed ? 0 : ERROR_HOST_MEMORY);
        assert_int_equal(memtrack_process_live(), live);
        error_clear();
    }
    assert_int_equal(files_in(at("out")), 5); /* tokenizer.json and its class, generation_config.json */
    assert_int_equal(access(at("out/vocab.txt"), F_OK), -1);
    file_is("out/tokenizer.json", "{\"a\":1}");
    char *text = (char *)get_file(at("out/tokenizer_config.json"), &n);
    assert_non_null(strstr(text, "\"tokenizer_class\": \"PreTrainedTokenizerFast\""));
    test_free(text);
    assert_int_equal(export_with(model, &preset, "none"), ERROR_FILE);
    assert_error(ERROR_FILE, "none: cannot open");
    assert_int_equal(files_in(at("out")), 5);
}

/* One that lies where the export goes is the directory's own: it and what is beside it stay. */
static void test_own_tokenizer(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_GPT2);
    Module *model = model_of(&preset, 1);
    char own[192];
    assert_int_equal(mkdir(at("out"), 0777), 0);
    put_text("out/tokenizer.json", "{'a':1}");
    put_text("out/special_tokens_map.json", "{}");
    for (int i = 0; i < 2; i++) {
        strcpy(own, at(i ? "out" : "out/tokenizer.json"));
        assert_int_equal(io_save_weights(model, &preset, at("out"), &(WeightsSaving){.tokenizer = own}), 0);
        assert_int_equal(files_in(at("out")), 5); /* and how texts end */
        file_is("out/tokenizer.json", "{\"a\":1}");
    }
}

/* Pooling and the like come along unchanged. */
static void test_sentence_transformers(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_BERT);
    Module *model = model_of(&preset, 1);
    assert_int_equal(mkdir(at("in"), 0777), 0);
    assert_int_equal(mkdir(at("in/1_Pooling"), 0777), 0);
    assert_int_equal(mkdir(at("in/onnx"), 0777), 0);
    put_text("in/modules.json", "[{'idx':1,'path':'1_Pooling'}]");
    put_text("in/sentence_bert_config.json", "{'max_seq_length':256}");
    put_text("in/config_sentence_transformers.json", "{}");
    put_text("in/1_Pooling/config.json", "{'pooling_mode_mean_tokens':true}");
    put_text("in/onnx/model.onnx", "x");
    put_text("in/README.md", "x");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(export_all(model, &preset), 0);
        assert_int_equal(files_in(at("out")), 6);
        assert_int_equal(files_in(at("out/1_Pooling")), 1);
        file_is("out/modules.json", "[{\"idx\":1,\"path\":\"1_Pooling\"}]");
        file_is("out/1_Pooling/config.json", "{\"pooling_mode_mean_tokens\":true}");
    }
    unlink(at("in/modules.json")); /* a folder of this name alone says nothing */
    put_text("in/tokenizer.json", "{");
    assert_int_equal(export_all(model, &preset), 0);
    assert_int_equal(access(at("out/modules.json"), F_OK), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_source), TEST(test_another_tokenizer),
                                       TEST(test_own_tokenizer), TEST(test_sentence_transformers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
