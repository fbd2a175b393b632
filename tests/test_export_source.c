/* What an export keeps of where its weights came from: the rest of config.json, and tokenizers. */
#include "weights_support.h"

#define SOURCE                                                                                               \
    "{'model_type':'gpt2','n_embd':8,'eos_token_id':[7,8],'pad_token_id':null,'torch_dtype':'float16',"      \
    "'dtype':'float16','n_ctx':5,'id2label':{'0':'x'}}"

static int export_all(Module *model, const ModelPreset *preset)
{
    int status = save(model, preset, "out");
    return status ? status : io_keep_source(at("in"), at("out"));
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
        assert_int_equal(status, passed ? 0 : ERROR_HOST_MEMORY);
        assert_int_equal(memtrack_process_live(), live);
        error_clear();
    }
    assert_true(count > 5);
    assert_int_equal(files_in(at("out")), 3);
    char *text = (char *)get_file(at("out/tokenizer.json"), &n);
    assert_string_equal(text, "{\"a\":1}");
    test_free(text);
    text = (char *)get_file(at("out/config.json"), &n);
    assert_non_null(strstr(text, "\"n_embd\": 32"));
    assert_non_null(strstr(text, "\"torch_dtype\": \"float32\""));
    assert_non_null(strstr(text, "\"pad_token_id\": null"));
    assert_non_null(strstr(text, "\"id2label\": {"));
    assert_null(strstr(text, "n_ctx"));
    assert_null(strstr(text, "\"dtype\""));
    test_free(text);
    IoModel read;
    assert_int_equal(io_read_config(at("out"), &read), 0);
    assert_int_equal(read.preset.family, MODEL_GPT2);
    assert_int_equal(io_keep_source(at("out"), at("out")), 0); /* itself */
    preset = family(MODEL_LLAMA);                              /* Mistral's window was the length */
    assert_int_equal(save(nn_model(&preset), &preset, "out"), 0);
    put_text("in/config.json", "{'model_type':'mistral','sliding_window':24,'max_position_embeddings':99}");
    assert_int_equal(io_keep_source(at("in"), at("out")), 0);
    text = (char *)get_file(at("out/config.json"), &n);
    assert_non_null(strstr(text, "\"model_type\": \"mistral\""));
    assert_non_null(strstr(text, "\"max_position_embeddings\": 99"));
    test_free(text);
    assert_int_equal(io_read_config(at("out"), &read), 0);
    assert_int_equal(read.preset.config.llama.max_seq, 24);
    put_text("in/config.json", "{");
    assert_int_equal(io_keep_source(at("in"), at("out")), ERROR_DATA);
    assert_error(ERROR_DATA, "in/config.json", "is not JSON");
    assert_int_equal(io_keep_source(NULL, "x"), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "source is NULL");
}

/* What another model's export left beside a tokenizer would be taken for this one's. */
static void test_over_another_model(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_GPT2);
    Module *model = model_of(&preset, 1);
    assert_int_equal(mkdir(at("in"), 0777), 0);
    assert_int_equal(mkdir(at("out"), 0777), 0);
    put_text("out/added_tokens.json", "{}");
    put_text("out/generation_config.json", "{'eos_token_id':1}");
    put_text("in/config.json", SOURCE);
    assert_int_equal(export_all(model, &preset), 0); /* brings no tokenizer: what lies there may be meant */
    assert_int_equal(files_in(at("out")), 4);
    put_text("in/tokenizer.json", "{'a':1}");
    assert_int_equal(export_all(model, &preset), 0);
    assert_int_equal(files_in(at("out")), 3);
}

/* The tokenizer that it was trained with takes the place of its source's. */
static void test_another_tokenizer(void **state)
{
    (void)state;
    size_t n;
    assert_int_equal(mkdir(at("in"), 0777), 0);
    assert_int_equal(mkdir(at("out"), 0777), 0);
    put_text("in/tokenizer.json", "{'a':1}");
    put_text("in/vocab.txt", "x");
    put_text("out/tokenizer.json", "{'b':1}");
    put_text("out/vocab.txt", "old");
    put_text("out/generation_config.json", "{}");
    int count = 1;
    for (int passed = 0; !passed; count++) {
        uint64_t live = memtrack_process_live();
        memtrack_fail_nth((uint64_t)count);
        int status = io_keep_tokenizer(at("in"), at("out"));
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(status, passed ? 0 : ERROR_HOST_MEMORY);
        assert_int_equal(memtrack_process_live(), live);
        error_clear();
    }
    assert_int_equal(files_in(at("out")), 3);
    char *text = (char *)get_file(at("out/tokenizer.json"), &n);
    assert_string_equal(text, "{\"a\":1}");
    test_free(text);
    text = (char *)get_file(at("out/tokenizer_config.json"), &n);
    assert_non_null(strstr(text, "\"tokenizer_class\": \"PreTrainedTokenizerFast\""));
    test_free(text);
    /* Its own directory is left as it is, by either name. */
    assert_int_equal(io_keep_tokenizer(at("in/tokenizer.json"), at("in")), 0);
    assert_int_equal(io_keep_tokenizer(at("in"), at("in")), 0);
    assert_int_equal(files_in(at("in")), 2);
    assert_int_equal(io_keep_tokenizer(at("none"), at("out")), ERROR_FILE);
    assert_error(ERROR_FILE, "none: cannot open");
    assert_int_equal(io_keep_tokenizer(NULL, "x"), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "tokenizer is NULL");
    assert_int_equal(io_keep_tokenizer("x", NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "directory is NULL");
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_source), TEST(test_over_another_model), TEST(test_another_tokenizer)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
