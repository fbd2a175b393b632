/* Tokenizers: the Python package's ids and texts (fixtures by tests/tokenizers/generate.py), bytes that are no UTF-8, and
 * the calls' own edges. Broken files are in test_tokenizer_files.c. */
#include "tokenizer_support.h"

#define FIXTURES "tests/tokenizers/fixtures/"

static const char *const names[] = {"gpt2",    "roberta", "llama3",  "llama2",        "metaspace", "bert",
                                    "affixes", "splits",  "unigram", "unigram_bytes", "wordlevel", "classes"};

/* ---- The Python package's results ------------------------------------------------------------ */

static json_t *cases_of(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, FIXTURES "%s.cases.json", name);
    json_error_t error;
    json_t *cases = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!cases)
        fail_msg("%s: %s", path, error.text);
    return cases;
}

static Tokenizer *fixture(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, FIXTURES "%s.json", name);
    Tokenizer *t = tokenizer_read(path);
    if (!t)
        fail_msg("%s", error_message());
    return t;
}

/* [text, add_special, ids, decoded, skip_special] */
static void check_case(const char *name, Tokenizer *t, json_t *item, size_t number)
{
    const json_t *text = json_array_get(item, 0), *ids = json_array_get(item, 2), *decoded = json_array_get(item, 3);
    TokenIds got = {0};
    TokenText back = {0};
    assert_int_equal(tokenizer_encode(t, json_string_value(text), json_string_length(text),
                                      json_is_true(json_array_get(item, 1)), &got),
                     0);
    for (size_t i = 0; i < got.count && i < json_array_size(ids); i++)
        if (got.ids[i] != json_integer_value(json_array_get(ids, i)))
            fail_msg("%s, case %zu, token %zu: %d, expected %d", name, number, i, got.ids[i],
                     (int)json_integer_value(json_array_get(ids, i)));
    assert_int_equal(got.count, json_array_size(ids));
    assert_int_equal(tokenizer_decode(t, got.ids, got.count, json_is_true(json_array_get(item, 4)), &back), 0);
    if (back.bytes != json_string_length(decoded) || memcmp(back.text, json_string_value(decoded), back.bytes))
        fail_msg("%s, case %zu: \"%s\", expected \"%s\"", name, number, back.text, json_string_value(decoded));
    tokenizer_ids_free(t, &got);
    tokenizer_text_free(t, &back);
}

static void as_the_python_package(void **state)
{
    (void)state;
    for (size_t k = 0; k < COUNT(names); k++) {
        Tokenizer *t = fixture(names[k]);
        json_t *cases = cases_of(names[k]), *item;
        size_t i;
        assert_true(json_array_size(cases) > 30);
        for (int twice = 0; twice < 2; twice++) /* the second time words come from the cache */
            json_array_foreach(cases, i, item) check_case(names[k], t, item, i);
        json_decref(cases);
        tokenizer_free(t);
    }
}

/* One tokenizer, thousands of words: the cache forgets, results do not change. */
static void cache_forgets(void **state)
{
    (void)state;
    Tokenizer *t = fixture("gpt2");
    TokenIds first = {0}, again = {0};
    char word[16];
    for (int round = 0; round < 2; round++)
        for (uint32_t i = 0; i < 60000; i++) {
            int n = snprintf(word, sizeof word, " %x", hash32(i));
            assert_int_equal(tokenizer_encode(t, word, (size_t)n, 0, round ? &again : &first), 0);
        }
    assert_int_equal(first.count, again.count);
    assert_memory_equal(first.ids, again.ids, first.count * sizeof *first.ids);
    tokenizer_ids_free(t, &first);
    tokenizer_ids_free(t, &again);
}

/* A word that is merged with the heap and the same in parts that are merged without. */
static void long_words(void **state)
{
    (void)state;
    Tokenizer *t = tokenizer_of("{'model':{'type':'BPE','vocab':{'a':0,'b':1,'aa':2,'aaaa':3,'ab':4,'aab':5},"
                                "'merges':['a a','aa aa','a b','aa b']}}");
    enum { LENGTH = 100003 };
    char *text = test_malloc(LENGTH);
    TokenIds ids = {0};
    memset(text, 'a', LENGTH);
    assert_int_equal(tokenizer_encode(t, text, LENGTH, 0, &ids), 0);
    assert_int_equal(ids.count, LENGTH / 4 + 2); /* the last three letters: aa and a */
    for (size_t i = 0; i < LENGTH / 4; i++)
        assert_int_equal(ids.ids[i], 3);
    assert_int_equal(ids.ids[LENGTH / 4], 2);
    assert_int_equal(ids.ids[LENGTH / 4 + 1], 0);
    for (int i = 2; i < LENGTH; i += 3)
        text[i] = 'b'; /* aabaab… */
    ids.count = 0;
    assert_int_equal(tokenizer_encode(t, text, LENGTH - 1, 0, &ids), 0);
    assert_int_equal(ids.count, (LENGTH - 1) / 3);
    assert_int_equal(ids.ids[7], 5);
    tokenizer_ids_free(t, &ids);
    test_free(text);
}

/* ---- Bytes that are no UTF-8 ------------------------------------------------------------------ */

static void broken_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *repaired; /* as Rust's from_utf8_lossy and Python's errors="replace" */
    } cases[] = {
        {"a\xff\x62", "a\xEF\xBF\xBD\x62"},
        {"\xC3", "\xEF\xBF\xBD"},
        {"\xE2\x96x", "\xEF\xBF\xBDx"},
        {"\xE2\x28\xA1", "\xEF\xBF\xBD(\xEF\xBF\xBD"},
        {"\xF0\x9F\x98", "\xEF\xBF\xBD"},
        {"\xF0\x9F\x98\xF0\x9F\x98\x80", "\xEF\xBF\xBD\xF0\x9F\x98\x80"},
        {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"}, /* a surrogate */
        {"\xC0\xAF", "\xEF\xBF\xBD\xEF\xBF\xBD"},                 /* overlong */
        {"\xF4\x90\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD"},
    };
    Tokenizer *t = fixture("gpt2");
    for (size_t i = 0; i < COUNT(cases); i++) {
        TokenIds a = {0}, b = {0};
        TokenText text = {0};
        assert_int_equal(tokenizer_encode(t, cases[i].bytes, strlen(cases[i].bytes), 1, &a), 0);
        assert_int_equal(tokenizer_encode(t, cases[i].repaired, strlen(cases[i].repaired), 1, &b), 0);
        assert_int_equal(a.count, b.count);
        assert_memory_equal(a.ids, b.ids, a.count * sizeof *a.ids);
        assert_int_equal(tokenizer_decode(t, a.ids, a.count, 0, &text), 0);
        assert_string_equal(text.text, cases[i].repaired);
        tokenizer_ids_free(t, &a);
        tokenizer_ids_free(t, &b);
        tokenizer_text_free(t, &text);
    }
}

/* Any bytes at all: no error, and what comes back is the text with its repairs. */
static void random_bytes(void **state)
{
    (void)state;
    for (size_t k = 0; k < COUNT(names); k++) {
        Tokenizer *t = fixture(names[k]);
        for (uint32_t i = 0; i < 300; i++) {
            char bytes[200];
            size_t n = hash32(i) % sizeof bytes;
            for (size_t j = 0; j < n; j++) {
                uint32_t h = hash32((uint32_t)(j + 1000 * i));
                bytes[j] = (char)(i % 3 == 0 ? h : i % 3 == 1 ? h % 128 : 0x80 | h % 128);
            }
            TokenIds ids = {0}, again = {0};
            TokenText text = {0};
            assert_int_equal(tokenizer_encode(t, bytes, n, i % 2, &ids), 0);
            for (size_t j = 0; j < ids.count; j++)
                assert_in_range(ids.ids[j], 0, tokenizer_vocab(t) - 1);
            assert_int_equal(tokenizer_decode(t, ids.ids, ids.count, 1, &text), 0);
            if (!strcmp(names[k], "gpt2")) {
                assert_int_equal(tokenizer_encode(t, text.text, text.bytes, i % 2, &again), 0);
                assert_int_equal(again.count, ids.count);
            }
            tokenizer_ids_free(t, &ids);
            tokenizer_ids_free(t, &again);
            tokenizer_text_free(t, &text);
        }
        tokenizer_free(t);
    }
}

/* ---- The calls ------------------------------------------------------------------------------- */

static void tokens_by_name(void **state)
{
    (void)state;
    Tokenizer *t = fixture("bert");
    assert_int_equal(tokenizer_id(t, "[CLS]"), 2);
    assert_string_equal(tokenizer_token(t, 4), "[MASK]");
    assert_true(tokenizer_is_special(t, 2));
    assert_int_equal(tokenizer_id(t, "newtok"), tokenizer_vocab(t) - 2);
    assert_false(tokenizer_is_special(t, tokenizer_vocab(t) - 2));
    assert_false(tokenizer_is_special(t, -1));
    assert_int_equal(tokenizer_id(t, "no such token"), -1);
    assert_int_equal(tokenizer_id(t, NULL), -1);
    assert_null(tokenizer_token(t, -1));
    assert_null(tokenizer_token(t, tokenizer_vocab(t)));
    for (int64_t i = 0; i < tokenizer_vocab(t); i++)
        if (strcmp(tokenizer_token(t, i), "[x]")) /* what an added token decodes to is its normalized form */
            assert_int_equal(tokenizer_id(t, tokenizer_token(t, i)), i);
    assert_int_equal(tokenizer_vocab(NULL), 0);
    assert_null(tokenizer_token(NULL, 0));
    assert_int_equal(tokenizer_id(NULL, "a"), -1);
    tokenizer_free(NULL);
}

/* A text that has no ids at all, into ids that nothing was ever added to: found by fuzzing. */
static void nothing_is_known(void **state)
{
    (void)state;
    Tokenizer *t = tokenizer_of("{'model':{'type':'BPE','vocab':{'x':0},'merges':[]}}");
    TokenIds ids = {0};
    TokenText text = {0};
    assert_non_null(t);
    for (int twice = 0; twice < 2; twice++)
        assert_int_equal(tokenizer_encode(t, "aaaa", 4, 1, &ids), 0);
    assert_int_equal(ids.count, 0);
    assert_int_equal(tokenizer_decode(t, ids.ids, 0, 0, &text), 0);
    tokenizer_text_free(t, &text);
    tokenizer_ids_free(t, &ids);
}

static void wrong_calls(void **state)
{
    (void)state;
    Tokenizer *t = fixture("gpt2");
    TokenIds ids = {0};
    TokenText text = {0};
    int32_t unknown[] = {-5, 1 << 30, INT32_MAX};
    int64_t bytes;
    assert_int_equal(tokenizer_encode(NULL, "a", 1, 0, &ids), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "tokenizer is NULL");
    assert_int_equal(tokenizer_encode(t, NULL, 1, 0, &ids), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "text is NULL");
    assert_int_equal(tokenizer_encode(t, "a", 1, 0, NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "out is NULL");
    assert_int_equal(tokenizer_encode(t, NULL, 0, 0, &ids), 0);
    assert_int_equal(ids.count, 0);
    assert_int_equal(tokenizer_encode_file(t, in_folder("none"), 0, &ids, &bytes), ERROR_FILE);
    assert_error(ERROR_FILE, "none", "No such file");
    assert_int_equal(tokenizer_encode_file(t, NULL, 0, &ids, &bytes), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "path is NULL");
    assert_int_equal(tokenizer_encode_file(t, write_file("e", "", 0), 0, &ids, &bytes), 0);
    assert_int_equal(ids.count, 0);
    assert_int_equal(tokenizer_decode(NULL, unknown, 1, 0, &text), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "tokenizer is NULL");
    assert_int_equal(tokenizer_decode(t, NULL, 1, 0, &text), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "ids is NULL");
    assert_int_equal(tokenizer_decode(t, unknown, 3, 0, &text), 0); /* nothing is written */
    assert_string_equal(text.text, "");
    tokenizer_text_free(t, &text);
    tokenizer_text_free(NULL, NULL);
    tokenizer_ids_free(NULL, NULL);
}

/* What is appended stays in front, and a scope gives a tokenizer back. */
static void appends_and_scopes(void **state)
{
    (void)state;
    uint64_t before = memtrack_host_live(context_tracker(context_current()));
    int scope = tensor_scope_begin();
    Tokenizer *t = fixture("gpt2");
    TokenIds ids = {0};
    TokenText text = {0};
    tokenizer_encode(t, "the ", 4, 0, &ids);
    size_t first = ids.count;
    tokenizer_encode(t, "river", 5, 0, &ids);
    assert_true(ids.count > first);
    tokenizer_decode(t, ids.ids, first, 0, &text);
    tokenizer_decode(t, ids.ids + first, ids.count - first, 0, &text);
    assert_string_equal(text.text, "the river");
    tokenizer_ids_free(t, &ids);
    tokenizer_text_free(t, &text);
    tensor_scope_end(scope);
    assert_int_equal(memtrack_host_live(context_tracker(context_current())), before);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Reading, encoding, decoding, with each allocation failing in turn. */
static int some_work(const char *path)
{
    static const char work[] = "The m\xC3\xBCller's 12 geese\xff <mask> e\xCC\x81 [X] \xE6\x97\xA5 and_more, isn't it? "
                               "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    Tokenizer *t = tokenizer_read(path);
    TokenIds ids = {0};
    TokenText text = {0};
    int bad = !t || tokenizer_encode(t, work, sizeof work - 1, 1, &ids) ||
              tokenizer_decode(t, ids.ids, ids.count, 1, &text);
    tokenizer_ids_free(t, &ids);
    tokenizer_text_free(t, &text);
    if (bad % 2)
        tokenizer_free(t);
    return bad;
}

static void each_allocation_fails(void **state)
{
    (void)state;
    Context *outside = context_current();
    uint64_t before = memtrack_process_live();
    for (size_t k = 0; k < COUNT(names); k++) {
        char path[128];
        int reached = 1;
        snprintf(path, sizeof path, FIXTURES "%s.json", names[k]);
        for (uint64_t n = 1; reached; n++) {
            assert_true(n < 500);
            context_use(context_create(&(ContextOptions){.threads = 1}));
            memtrack_fail_nth(n);
            int bad = some_work(path);
            reached = !memtrack_fail_pending();
            memtrack_fail_nth(0);
            if (bad ? error_code() != ERROR_HOST_MEMORY : error_code() != 0)
                fail_msg("%s, allocation %d: %s", names[k], (int)n, error_message());
            assert_true(reached || n > 10);
            context_destroy(context_use(outside));
            assert_int_equal(memtrack_process_live(), before);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(as_the_python_package, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(cache_forgets, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(long_words, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(broken_utf8, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(random_bytes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(tokens_by_name, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(nothing_is_known, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(wrong_calls, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(appends_and_scopes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(each_allocation_fails, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
