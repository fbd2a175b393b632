/* Files that are no config.json, names that people use for models, memory that runs out, and thousands of
 * broken files: an error that says what and where, never harm. */
#include <sys/stat.h>

#include <jansson.h>

#include "../io/safetensors.h"
#include "io_support.h"
#include "json_support.h"

#define LETTER         "\xe3\x81\x82"
#define FIVE_LETTERS   LETTER LETTER LETTER LETTER LETTER
#define TWENTY_LETTERS FIVE_LETTERS FIVE_LETTERS FIVE_LETTERS FIVE_LETTERS

/* ---- Bad files ------------------------------------------------------------------------------- */

#define assert_bad_file(code, ...)                                                                           \
    do {                                                                                                     \
        IoModel bad_;                                                                                        \
        assert_int_equal(io_read_config(file, &bad_), code);                                                 \
        assert_error(code, "config.json", __VA_ARGS__);                                                      \
        assert_string_equal(bad_.name, "");                                                                  \
    } while (0)

static void test_bad_json(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *word, *other;
    } bad[] = {
        {"", "is empty", ""},
        {" \n", "is not JSON", "line"},
        {"{'model_type': 'llama'", "is not JSON", "near end of file"},
        {"{'model_type': 'llama'} {", "is not JSON", "end of file expected"},
        {"[{'model_type': 'llama'}]", "is one object", "not a list"},
        {"'llama'", "is not JSON", "line 1"},
        {"{'model_type': 'llama', 'vocab_size': 5, 'vocab_size': 6}", "duplicate", "vocab_size"},
        {"{'model_type': 'llama', 'x': NaN}", "is not JSON", "NaN"},
        {"{'model_type': 'llama', 'vocab_size': 99999999999999999999999}", "vocab_size",
         "must be a whole number"},
        {"{'model_type': 'llama', 'rope_theta': 1e999}", "is not JSON", "overflow"},
        {"{'model_type': 'lla\\u0000ma'}", "is not JSON", "u0000"},
        {"{'model_type': '\xff'}", "is not JSON", "unable to decode byte 0xff"},
        {"version https://git-lfs.github.com/spec/v1", "line 1, column 7 is not JSON", ""},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        const char *json = quoted(bad[i].text);
        write_bytes(json, strlen(json));
        assert_bad_file(bad[i].text[0] && bad[i].text[0] != '\0' ? ERROR_DATA : ERROR_FILE, bad[i].word,
                        bad[i].other);
    }
    write_bytes("{\"model_type\": \"ll\0ma\"}", 23);
    assert_bad_file(ERROR_DATA, "is not JSON");
    write_bytes("{\"model_type\": \"llama\"}\0", 24);
    assert_bad_file(ERROR_DATA, "is not JSON");
}

static void test_bad_sizes(void **state)
{
    (void)state;
    enum { DEEP = 200000, LARGE = 10 << 20 };
    char *bytes = test_malloc(LARGE);
    memset(bytes, '[', DEEP);
    write_bytes(bytes, DEEP);
    assert_bad_file(ERROR_DATA, "is not JSON", "depth");
    memset(bytes, ' ', LARGE);
    memcpy(bytes, "{\"model_type\": \"llama\"}", 23);
    write_bytes(bytes, LARGE);
    assert_bad_file(ERROR_FILE, "10485760 bytes");
    write_bytes(bytes, 1 << 20); /* as much as is read */
    IoModel m;
    assert_int_equal(io_read_config(file, &m), 0);
    write_bytes(bytes, (1 << 20) + 1);
    assert_bad_file(ERROR_FILE, "1048577 bytes");
    memset(bytes, 'x', 600000); /* one long name, one long value */
    memcpy(bytes, "{\"model_type\": \"llama\", \"", 25);
    memcpy(bytes + 300000, "\": \"", 4);
    memcpy(bytes + 600000, "\"}", 2);
    write_bytes(bytes, 600002);
    assert_bad_file(ERROR_DATA, "xx…\" is unknown", "may change memory");
    test_free(bytes);
}

/* What is said of a model is text, though names of files are bytes. */
/* That nothing is there is not said of what may not be looked into. */
static void test_forbidden(void **state)
{
    (void)state;
    IoModel m;
    int root = geteuid() == 0;
    assert_int_equal(chmod(folder, 0), 0);
    if (root && setresuid(65534, 65534, 0)) {
        assert_int_equal(chmod(folder, 0700), 0);
        print_message("skipped: root may not become another user here\n");
        skip();
    }
    int config = io_read_config(folder, &m);
    char why[512];
    snprintf(why, sizeof why, "%s", error_message());
    error_clear();
    int weights = safetensors_open(folder) != NULL;
    assert_int_equal(root ? setresuid(0, 0, 0) : 0, 0);
    assert_int_equal(chmod(folder, 0700), 0);
    assert_int_equal(config, ERROR_FILE);
    assert_non_null(strstr(why, "Permission denied"));
    assert_int_equal(weights, 0);
    assert_non_null(strstr(error_message(), "Permission denied"));
    error_clear();
}

static void test_names_that_are_no_text(void **state)
{
    (void)state;
    static const struct {
        const char *base, *name;
    } names[] = {
        {"caf\xe9.json", "caf?.json"},
        {"caf\xc3\xa9.json", "caf\xc3\xa9.json"},
        {"\xc3\x28\x01.json", "?(?.json"},
        /* 63 bytes are kept: 61 and two of a letter of three */
        {"a" TWENTY_LETTERS LETTER LETTER ".json", "a" TWENTY_LETTERS},
    };
    IoModel m;
    for (size_t i = 0; i < COUNT(names); i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", folder, names[i].base);
        FILE *out = fopen(path, "w");
        assert_true(out && fputs("{\"model_type\": \"gpt2\"}", out) >= 0 && fclose(out) == 0);
        assert_int_equal(io_read_config(path, &m), 0);
        assert_string_equal(m.name, names[i].name);
        unlink(path);
    }
    /* "." is no name. */
    char path[256];
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *out = fopen(path, "w");
    assert_true(out && fputs("{\"model_type\": \"gpt2\"}", out) >= 0 && fclose(out) == 0);
    snprintf(path, sizeof path, "%s/./", folder);
    assert_int_equal(io_read_config(path, &m), 0);
    assert_string_equal(m.name, strrchr(folder, '/') + 1);
    snprintf(path, sizeof path, "%s/config.json", folder);
    unlink(path);
}

static void test_paths(void **state)
{
    (void)state;
    IoModel m;
    char path[6000];
    assert_int_equal(io_read_config(folder, &m), ERROR_FILE);
    assert_error(ERROR_FILE, folder, "has no config.json");
    good("{'model_type': 'gpt2'}");
    assert_int_equal(io_read_config(folder, &m), 0);
    assert_string_equal(m.name, folder + 5); /* the folder's own name */
    assert_ptr_equal(m.preset.name, m.name);
    assert_ptr_equal(m.preset.about, m.about);
    snprintf(path, sizeof path, "%s//", folder);
    assert_int_equal(io_read_config(path, &m), 0);
    assert_string_equal(m.name, folder + 5);
    snprintf(path, sizeof path, "%s/none.json", folder);
    assert_int_equal(io_read_config(path, &m), ERROR_FILE);
    assert_error(ERROR_FILE, "none.json", "No such file");
    memset(path, 'x', sizeof path);
    path[sizeof path - 1] = '\0';
    assert_int_equal(io_read_config(path, &m), ERROR_FILE);
    assert_error(ERROR_FILE, "…xxx", "too long");
    path[300] = '\0'; /* longer than a name may be; only its end is shown */
    assert_int_equal(io_read_config(path, &m), ERROR_FILE);
    assert_error(ERROR_FILE, "…xxx", "cannot open");
    assert_int_equal(io_read_config("", &m), ERROR_FILE);
    assert_error(ERROR_FILE, "cannot open");
    assert_int_equal(io_read_config(NULL, &m), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "path is NULL");
    assert_int_equal(io_read_config(file, NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "model is NULL");
    unlink(file);
    assert_int_equal(mkfifo(file, 0600), 0); /* it would block */
    assert_bad_file(ERROR_FILE, "is not a file");
    assert_int_equal(io_read_config("/dev/null", &m), ERROR_FILE);
    assert_error(ERROR_FILE, "/dev/null is not a file");
}

/* ---- Names ----------------------------------------------------------------------------------- */

static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *what, *preset, *note;
    } names[] = {
        {"llama-3.2-1b", "llama-3.2-1b", ""},
        {"gpt2", "gpt2", ""},
        {"bench-mlp", "bench-mlp", ""},
        {"llama-3.1-1b", "llama-3.2-1b",
         "There is no Llama 3.1 1B: Llama 3.2 1B is meant (1,235,814,400 parameters)"},
        {"Llama-3.1-1B", "llama-3.2-1b", "There is no Llama 3.1 1B"},
        {"llama-3.1-3b", "llama-3.2-3b", "3,212,749,824"},
        {"llama3.2-1b", "llama-3.2-1b", "llama3.2-1b is the model llama-3.2-1b."},
        {"llama3.1:8b", "llama-3.1-8b", "is the model llama-3.1-8b."},
        {"meta-llama/Llama-3.1-8B", "llama-3.1-8b", "meta-llama/Llama-3.1-8B is the model llama-3.1-8b."},
        {"meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b", "is the model"},
        {"meta-llama/Meta-Llama-3-8B", "llama-3.1-8b", "8192 positions"},
        {"meta-llama/Llama-2-7b-hf", "llama-2-7b", "is the model"},
        {"mistralai/Mistral-7B-v0.1", "mistral-7b", "is the model"},
        {"mistralai/Mistral-7B-v0.3", "mistral-7b-v0.3", "is the model"},
        {"Qwen/Qwen2-0.5B", "qwen2-0.5b", "is the model"},
        {"Qwen/Qwen2.5-7B", "qwen2.5-7b", "Qwen/Qwen2.5-7B is the model qwen2.5-7b."},
        {"deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "deepseek-r1-distill-llama-8b", "is the model"},
        {"HuggingFaceTB/SmolLM2-1.7B-Instruct", "smollm2-1.7b", "is the model"},
        {"meta-llama/Llama-2-70b-chat-hf", "llama-2-70b", "is the model"},
        {"TinyLlama/TinyLlama-1.1B-Chat-v1.0", "tinyllama-1.1b", "is the model"},
        {"mistralai/Mistral-7B-Instruct-v0.2", "mistral-7b-v0.2", "is the model"},
        {"openai-community/gpt2-xl", "gpt2-xl", "is the model"},
        {"Qwen/Qwen3-8B-Base", "qwen3-8b", "is the model"},
        {"google/gemma-2-9b-it", "gemma-2-9b", "is the model"},
        {"google/gemma-3-1b-pt", "gemma-3-1b", "is the model"},
        {"microsoft/Phi-3-mini-4k-instruct", "phi-3-mini-4k", "is the model"},
        {"allenai/OLMo-2-0425-1B-Instruct", "olmo2-1b", "is the model"},
        {"mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b", "is the model"},
        {"FacebookAI/xlm-roberta-large", "xlm-roberta-large", "is the model"},
        {"gpt2-small", "gpt2", "gpt2-small is the model gpt2."},
        {"GPT2-medium", "gpt2-medium", "is the model"},
        {"bert-base-uncased", "bert-base", "is the model"},
        {"google-bert/bert-large-uncased", "bert-large", "is the model"},
    };
    for (size_t i = 0; i < COUNT(names); i++) {
        IoModel m;
        if (io_find_model(names[i].what, &m))
            fail_msg("%s: %s", names[i].what, error_message());
        assert_string_equal(m.name, names[i].preset);
        assert_memory_equal(&m.preset, nn_preset(names[i].preset), sizeof m.preset);
        assert_string_equal(m.about, nn_preset(names[i].preset)->about);
        if (names[i].note[0] ? !strstr(m.note, names[i].note) : m.note[0] != 0)
            fail_msg("%s: the note is '%s'", names[i].what, m.note);
    }
}

static void test_unknown_names(void **state)
{
    (void)state;
    static const struct {
        const char *what, *word;
        int code;
    } unknown[] = {
        {"llama-3.2-2b", "llama-3.2-1b", ERROR_ARGUMENT},
        {"llama-3.1-9b", "llama-3.1-8b", ERROR_ARGUMENT},
        {"gpt3", "gpt2", ERROR_ARGUMENT},
        {"bert", "bert-tiny", ERROR_ARGUMENT},
        {"bert-base-cased", "bert-base", ERROR_ARGUMENT}, /* another vocabulary */
        {"qwen2-1.5b", "qwen2-0.5b", ERROR_ARGUMENT},
        {"", "\"\"", ERROR_ARGUMENT},
        {"none.json", "none.json: cannot open", ERROR_FILE},
        {"/no/such/place", "/no/such/place: cannot open", ERROR_FILE},
        {"a/b/thing", "a/b/thing: cannot open", ERROR_FILE},
        {"Qwen/Qwen2.5-8B", "\"Qwen/Qwen2.5-8B\"; nearest: qwen2.5-3b, qwen2.5-7b; ", ERROR_ARGUMENT},
        {"mistral", "; nearest: mistral-7b, mistral-7b-v0.2, mistral-7b-v0.3; ", ERROR_ARGUMENT},
        {"falcon-7b", ", and no model is like it; ", ERROR_ARGUMENT},
        {"./llama-3.2-1b", "./llama-3.2-1b: cannot open", ERROR_FILE},
    };
    IoModel m;
    for (size_t i = 0; i < COUNT(unknown); i++) {
        assert_int_equal(io_find_model(unknown[i].what, &m), unknown[i].code);
        assert_error(unknown[i].code, unknown[i].word);
        assert_int_equal(m.preset.batch, 0);
    }
    assert_int_equal(io_find_model("gpt3", &m), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "no model or file is called \"gpt3\"", "; nearest: gpt2; ", "config.json");
    char name[5000];
    memset(name, 'a', sizeof name);
    name[sizeof name - 1] = '\0';
    assert_int_equal(io_find_model(name, &m), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "aaa…", ", and no model is like it; ");
    assert_int_equal(io_find_model(NULL, &m), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "NULL");
    assert_int_equal(io_find_model("gpt2", NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "NULL");
}

/* A path is what exists, has a '/' or ends in .json; a preset's name is always the preset. */
static void test_found_files(void **state)
{
    (void)state;
    IoModel m;
    char before[4096];
    good("{'model_type': 'bert', 'num_hidden_layers': 3}");
    assert_int_equal(io_find_model(file, &m), 0);
    assert_int_equal(m.preset.config.bert.layers, 3);
    assert_int_equal(io_find_model(folder, &m), 0);
    assert_string_equal(m.name, folder + 5);
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(folder), 0);
    assert_int_equal(io_find_model("config.json", &m), 0);
    assert_int_equal(m.preset.config.bert.layers, 3);
    assert_string_equal(m.name, folder + 5);
    assert_int_equal(io_find_model("./config.json", &m), 0);
    assert_string_equal(m.name, folder + 5);
    assert_int_equal(io_find_model(".", &m), 0);
    assert_int_equal(m.preset.config.bert.layers, 3);
    assert_int_equal(rename("config.json", "gpt2"), 0);
    assert_int_equal(io_find_model("gpt2", &m), 0);
    assert_int_equal(m.preset.config.gpt2.layers, 12);
    assert_int_equal(io_find_model("./gpt2", &m), 0);
    assert_int_equal(m.preset.config.bert.layers, 3);
    assert_int_equal(rename("gpt2", "gpt2-small"), 0);
    assert_int_equal(io_find_model("gpt2-small", &m), 0); /* a file goes before another name */
    assert_string_equal(m.name, "gpt2-small");
    assert_int_equal(m.preset.config.bert.layers, 3);
    assert_int_equal(unlink("gpt2-small"), 0);
    assert_int_equal(chdir(before), 0);
}

/* ---- No memory ------------------------------------------------------------------------------- */

static void test_no_memory(void **state)
{
    (void)state;
    IoModel m;
    good(LLAMA_3("2048", "32", "16", "8192", "32.0", ""));
    uint64_t live = memtrack_process_live();
    int n = 1;
    for (int passed = 0; !passed; n++) { /* ours */
        memtrack_fail_nth((uint64_t)n);
        int status = io_read_config(file, &m);
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(status, passed ? 0 : ERROR_HOST_MEMORY);
        assert_int_equal(memtrack_process_live(), live);
        error_clear();
    }
    assert_true(n > 2);
    /* jansson's. It takes a name or text that it has no memory for as a mistake in the file. */
    int status = 1, told = 0;
    for (n = 0; status; n++) {
        json_allow(n);
        status = io_read_config(file, &m);
        told += status == ERROR_HOST_MEMORY && strstr(error_message(), "no host memory");
        if (json_live || memtrack_process_live() != live || (status && strlen(error_message()) < 40))
            break;
        error_clear();
    }
    json_allow_all();
    assert_int_equal(json_live, 0);
    assert_int_equal(memtrack_process_live(), live);
    assert_int_equal(status, 0);
    assert_true(n > 50 && told > n / 4);
}

/* ---- Any file -------------------------------------------------------------------------------- */

static uint32_t draw(uint32_t *at, uint32_t below)
{
    return hash32((*at)++) % below;
}

/* Changes, repeats, removes or inserts a few bytes, most often digits; returns the new length. */
static size_t mutate(char *text, size_t n, size_t room, uint32_t *at)
{
    static const char *const pieces[] = {"-",
                                         "0",
                                         "null",
                                         "1e9",
                                         "\"",
                                         "{",
                                         "}",
                                         "[",
                                         "]",
                                         ",",
                                         ":",
                                         ".5",
                                         "true",
                                         "\\",
                                         "9999999999",
                                         "\xc3",
                                         "\"head_dim\": 3,"};
    for (uint32_t k = 1 + draw(at, 2); k > 0; k--) {
        size_t from = draw(at, (uint32_t)n), length = 1 + draw(at, 12);
        length = from + length > n ? n - from : length;
        const char *piece = pieces[draw(at, COUNT(pieces))];
        switch (draw(at, 6)) {
        case 4:
        case 5:
            from += strcspn(text + from, "0123456789");
            if (from < n)
                text[from] = (char)('0' + draw(at, 10));
            break;
        case 0:
            text[from] = (char)draw(at, 256);
            break;
        case 1:
            memmove(text + from, text + from + length, n - from - length);
            n -= length;
            break;
        case 2:
            if (n + strlen(piece) > room)
                break;
            memmove(text + from + strlen(piece), text + from, n - from);
            memcpy(text + from, piece, strlen(piece));
            n += strlen(piece);
            break;
        default:
            if (n + length > room)
                break;
            memmove(text + from + length, text + from, n - from);
            n += length;
        }
        n = n ? n : 1;
    }
    return n;
}

/* Either a model that can be built, or an error that names the file. */
static void test_mutations(void **state)
{
    (void)state;
    static const char *const texts[] = {
        LLAMA_3("64", "32", "2", "8192", "32.0", ""), MISTRAL_7B, GPT2("768", "12", "2"),
        QWEN2("896", "14", "2", "2", "4864", "true", "151936"), BERT("768", "12", "2", "3072")};
    int good_files = 0;
    for (uint32_t i = 0; i < 4000; i++) {
        char text[4096];
        const char *json = quoted(texts[i % COUNT(texts)]);
        uint32_t at = i * 1000;
        memset(text, 0, sizeof text);
        strcpy(text, json);
        write_bytes(text, mutate(text, strlen(json), sizeof text - 1, &at));
        IoModel m;
        if (io_read_config(file, &m) == 0) {
            Visit v = visit(&(ContextOptions){.meta = 1, .threads = 1});
            int layers = m.preset.family == MODEL_LLAMA ? m.preset.config.llama.layers : 1;
            if (layers < 100 && !nn_model(&m.preset))
                fail_msg("mutation %u: %s", i, error_message());
            leave(v);
            good_files++;
        } else if (!strstr(error_message(), "config.json") || strlen(error_message()) < 40) {
            fail_msg("mutation %u: %s", i, error_message());
        }
        error_clear();
    }
    assert_in_range(good_files, 100, 3000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_bad_json),      TEST(test_bad_sizes),
        TEST(test_paths),         TEST(test_names_that_are_no_text),
        TEST(test_forbidden),     TEST(test_names),
        TEST(test_unknown_names), TEST(test_found_files),
        TEST(test_no_memory),     TEST(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
