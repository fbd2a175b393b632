/* Files that are no tokenizer.json, or a hostile one: an error that says what and where, never harm. */
#include <sys/stat.h>

#include "tokenizer_support.h"

#define FIXTURES "tests/tokenizers/fixtures/"
#define BPE(rest) "{'model':{'type':'BPE','vocab':{'a':0,'b':1,'ab':2},'merges':['a b']}" rest "}"

static void refused(const char *json, int code, const char *what)
{
    Tokenizer *t = tokenizer_of(json);
    if (t)
        fail_msg("read: %s", json);
    assert_error(code, what);
}

static void bad_json(void **state)
{
    (void)state;
    static const struct {
        const char *json, *what;
    } bad[] = {
        {"", "line 1"},
        {"[]", "one object"},
        {"{", "line 1"},
        {"{}", "no model"},
        {"{'model':3}", "no model"},
        {"{'model':{'type':'Trigram','vocab':[['a',0]]}}", "\"Trigram\" is not supported"},
        {"{'model':{'type':'WordLevel','vocab':[['a',0]]}}", "an object of tokens and their ids"},
        {"{'model':{'type':'WordLevel','vocab':{'a':0},'unk_token':[]}}", "model.unk_token must be a text"},
        {"{'model':{'type':'Unigram','vocab':{'a':0}}}", "a list of tokens and their scores"},
        {"{'model':{'type':'Unigram','vocab':[]}}", "a list of tokens and their scores"},
        {"{'model':{'type':'Unigram'}}", "a list of tokens and their scores"},
        {"{'model':{'type':'Unigram','vocab':[['a',0],['b']]}}", "number 1 is no pair"},
        {"{'model':{'type':'Unigram','vocab':[['a',0,1]]}}", "number 0 is no pair"},
        {"{'model':{'type':'Unigram','vocab':[[0,'a']]}}", "number 0 is no pair"},
        {"{'model':{'type':'Unigram','vocab':['a']}}", "number 0 is no pair"},
        {"{'model':{'type':'Unigram','vocab':[['a','b']]}}", "number 0 is no pair"},
        {"{'model':{'vocab':[['a','b']]}}", "number 0 is no pair"},
        {"{'model':{'type':'Unigram','vocab':[['a',-1e999]]}}", "line 1"},
        {"{'model':{'type':'Unigram','unk_id':1,'vocab':[['a',0]]}}", "model.unk_id must be"},
        {"{'model':{'type':'Unigram','unk_id':-1,'vocab':[['a',0]]}}", "model.unk_id must be"},
        {"{'model':{'type':'Unigram','unk_id':'a','vocab':[['a',0]]}}", "model.unk_id must be"},
        {"{'model':{'type':'Unigram','byte_fallback':1,'vocab':[['a',0]]}}", "model.byte_fallback"},
        {"{'model':{'type':7,'vocab':{'a':0}}}", "model.type"},
        {"{'model':{'type':'BPE'}}", "model.vocab"},
        {"{'model':{'type':'BPE','vocab':{}}}", "model.vocab"},
        {"{'model':{'type':'BPE','vocab':['a']}}", "model.vocab"},
        {"{'model':{'type':'BPE','vocab':{'a':0}}}", "model.merges"},
        {"{'model':{'type':'BPE','vocab':{'a':0,'a':1},'merges':[]}}", "duplicate"},
        {"{'model':{'type':'BPE','vocab':{'a':0,'b':0},'merges':[]}}", "\"a\" and \"b\" both have the id 0"},
        {"{'model':{'type':'BPE','vocab':{'a':-1},'merges':[]}}", "the id of \"a\""},
        {"{'model':{'type':'BPE','vocab':{'a':'x'},'merges':[]}}", "the id of \"a\""},
        {"{'model':{'type':'BPE','vocab':{'a':1.5},'merges':[]}}", "the id of \"a\""},
        {"{'model':{'type':'BPE','vocab':{'a':2147483648},'merges':[]}}", "the id of \"a\""},
        {"{'model':{'type':'BPE','vocab':{'a':9223372036854775807},'merges':[]}}", "the id of \"a\""},
        {"{'model':{'type':'BPE','vocab':{'a':99999999999999999999},'merges':[]}}", "too big"},
        {"{'model':{'type':'BPE','vocab':{'a':2147483647},'merges':[]}}", "holes as large as that"},
        {"{'model':{'type':'BPE','vocab':{'a':0},'merges':{}}}", "model.merges"},
        {"{'model':{'type':'BPE','vocab':{'a':0},'merges':[3]}}", "number 0 is no pair"},
        {"{'model':{'type':'BPE','vocab':{'a':0},'merges':['aa']}}", "number 0 is no pair"},
        {"{'model':{'type':'BPE','vocab':{'a':0},'merges':['a a a']}}", "number 0 is no pair"},
        {"{'model':{'type':'BPE','vocab':{'a':0},'merges':[['a']]}}", "number 0 is no pair"},
        {"{'model':{'type':'BPE','vocab':{'a':0},'merges':[['a',1]]}}", "number 0 is no pair"},
        {"{'model':{'type':'BPE','vocab':{'a':0},'merges':['a x']}}", "needs the token \"x\""},
        {"{'model':{'type':'BPE','vocab':{'a':0},'merges':['a a']}}", "needs the token \"aa\""},
        {"{'model':{'type':'BPE','dropout':0.1,'vocab':{'a':0},'merges':[]}}", "dropout"},
        {"{'model':{'type':'BPE','unk_token':4,'vocab':{'a':0},'merges':[]}}", "model.unk_token must be a text"},
        {"{'model':{'type':'BPE','fuse_unk':4,'vocab':{'a':0},'merges':[]}}", "model.fuse_unk must be true or false"},
        {"{'model':{'type':'WordPiece','vocab':{'a':0}}}", "\"[UNK]\", which model.vocab lacks"},
        {"{'model':{'type':'WordPiece','unk_token':'a','max_input_chars_per_word':-1,'vocab':{'a':0}}}", "max_input"},
        {BPE(",'added_tokens':{}"), "added_tokens must be a list"},
        {BPE(",'added_tokens':[3]"), "added_tokens must hold objects"},
        {BPE(",'added_tokens':[{'id':3}]"), "no content"},
        {BPE(",'added_tokens':[{'id':3,'content':''}]"), "no content"},
        {BPE(",'added_tokens':[{'content':'x'}]"), "the id of \"x\""},
        {BPE(",'added_tokens':[{'id':-3,'content':'x'}]"), "the id of \"x\""},
        {BPE(",'added_tokens':[{'id':2147483647,'content':'x'}]"), "the id of \"x\""},
        {BPE(",'added_tokens':[{'id':9,'content':'x'}]"), "it must be 3"},
        {BPE(",'added_tokens':[{'id':1,'content':'a'}]"), "it must be 0"},
        {BPE(",'added_tokens':[{'id':3,'content':'x'},{'id':3,'content':'x'}]"), "it must be 4"},
        {BPE(",'added_tokens':[{'id':0,'content':'a'},{'id':0,'content':'a'}]"), "comes twice"},
        {BPE(",'added_tokens':[{'id':3,'content':'x','special':1}]"), "added_tokens.special"},
        {BPE(",'normalizer':{'type':'StripAccents'},'added_tokens':[{'id':3,'content':'\xCC\x81'}]"), "leaves nothing"},
        {BPE(",'normalizer':3"), "normalizer must be an object with a type"},
        {BPE(",'normalizer':{'type':'Precompiled'}"), "precompiled_charsmap must be a text"},
        {BPE(",'normalizer':{'type':'Sequence'}"), "must have a list normalizers"},
        {BPE(",'normalizer':{'type':'Prepend'}"), "prepend is missing"},
        {BPE(",'normalizer':{'type':'Replace','pattern':'x','content':''}"), "a pattern must be"},
        {BPE(",'normalizer':{'type':'Replace','pattern':{'String':'x'}}"), "content is missing"},
        {BPE(",'normalizer':{'type':'BertNormalizer','lowercase':'no'}"), "normalizer.lowercase"},
        {BPE(",'pre_tokenizer':{'type':'UnicodeScripts'}"), "pre_tokenizer: the type \"UnicodeScripts\""},
        {BPE(",'pre_tokenizer':{'type':'Metaspace','replacement':'ab'}"), "one character"},
        {BPE(",'pre_tokenizer':{'type':'Metaspace','replacement':'_','prepend_scheme':'x'}"), "prepend_scheme"},
        {BPE(",'pre_tokenizer':{'type':'Split','pattern':{'String':'x'},'behavior':'Sideways'}"), "behavior must be"},
        {BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'('},'behavior':'Removed'}"), "does not compile"},
        {BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'[a&&]'},'behavior':'Removed'}"), "an empty class"},
        {BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'[a[b]'},'behavior':'Removed'}"), "without its end"},
        {BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'[]'},'behavior':'Removed'}"), "without its end"},
        {BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'a{2}+'},'behavior':'Removed'}"), "{…}+"},
        {BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'(?m)a'},'behavior':'Removed'}"), "a group other"},
        {BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'(*ANY)a'},'behavior':'Removed'}"), "(*"},
        {BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'[\\\\W-x]'},'behavior':'Removed'}"), "begins with a class"},
        {BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'\\\\p{Nonsense}'},'behavior':'Removed'}"), "not compile"},
        {BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'\\\\pL'},'behavior':'Removed'}"), "in braces"},
        {BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'a\\\\'},'behavior':'Removed'}"), "at its end"},
        {BPE(",'post_processor':{'type':'Magic'}"), "post_processor: the type \"Magic\""},
        {BPE(",'post_processor':{'type':'TemplateProcessing','single':[]}"), "Sequence A once"},
        {BPE(",'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'x'}}]}"), "special_tokens"},
        {BPE(",'post_processor':{'type':'BertProcessing','sep':['x',9],'cls':['a',0]}"), "belongs to no token"},
        {BPE(",'decoder':{'type':'CTC'}"), "decoder: the type \"CTC\" is not supported"},
        {BPE(",'decoder':{'type':'Strip','content':'','start':1,'stop':0}"), "no content"},
        {BPE(",'decoder':{'type':'Strip','content':'x','start':-1,'stop':0}"), "start must be"},
        {"{'x':'\\u0000','y':'\\ufdd0'}", "NUL and U+FDD0"},
    };
    for (size_t i = 0; i < COUNT(bad); i++)
        refused(bad[i].json, ERROR_DATA, bad[i].what);
}

static void bad_paths(void **state)
{
    (void)state;
    assert_null(tokenizer_read(NULL));
    assert_error(ERROR_ARGUMENT, "path is NULL");
    assert_null(tokenizer_read(in_folder("none.json")));
    assert_error(ERROR_FILE, "none.json", "No such file");
    assert_null(tokenizer_read(folder));
    assert_error(ERROR_FILE, "has no tokenizer.json");
    assert_non_null(tokenizer_of(BPE("")));
    assert_non_null(tokenizer_read(folder)); /* the folder's own file */
    assert_null(tokenizer_read("/dev/null"));
    assert_error(ERROR_FILE, "a pipe or device");
    int fifo = mkfifo(in_folder("fifo"), 0600);
    assert_int_equal(fifo, 0);
    assert_null(tokenizer_read(in_folder("fifo")));
    assert_error(ERROR_FILE, "a pipe or device");
    char path[5000];
    memset(path, 'x', sizeof path);
    path[sizeof path - 1] = '\0';
    assert_null(tokenizer_read(path));
    assert_error(ERROR_FILE, "too long");
}

/* What is deep, long or many, in small files. */
static void bad_sizes(void **state)
{
    (void)state;
    enum { DEEP = 100000 };
    char *text = test_malloc(DEEP + 1);
    memset(text, '[', DEEP);
    assert_null(tokenizer_read(write_file("deep", text, DEEP)));
    assert_error(ERROR_DATA, "depth");
    char nested[4000] = "{'model':{'type':'BPE','vocab':{'a':0},'merges':[]},'normalizer':", *at = nested + strlen(nested);
    for (int i = 0; i < 20; i++)
        at += sprintf(at, "{'type':'Sequence','normalizers':[");
    for (int i = 0; i < 20; i++)
        at += sprintf(at, "]}");
    strcpy(at, "}");
    refused(nested, ERROR_DATA, "more than 8 deep");
    at = nested + sprintf(nested, "{'model':{'type':'BPE','vocab':{'a':0},'merges':[]},'decoder':{'type':'Sequence','decoders':[");
    for (int i = 0; i < 40; i++)
        at += sprintf(at, "%s{'type':'Fuse'}", i ? "," : "");
    strcpy(at, "]}}");
    refused(nested, ERROR_DATA, "more than 32 steps");
    uint64_t before = memtrack_host_live(context_tracker(context_current()));
    refused("{'model':{'type':'BPE','vocab':{'a':2000000000},'merges':[]}}", ERROR_DATA, "holes");
    assert_true(memtrack_host_peak(context_tracker(context_current())) < before + (16 << 20));
    test_free(text);
}

/* A pattern that never ends is given up, and the tokenizer stays of use. */
static void endless_patterns(void **state)
{
    (void)state;
    Tokenizer *t = tokenizer_of(BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'(a+)+$|(a|aa)+c'},"
                                    "'behavior':'Isolated'}"));
    char text[3000];
    TokenIds ids = {0};
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = 'b';
    assert_non_null(t);
    assert_int_equal(tokenizer_encode(t, text, sizeof text, 0, &ids), ERROR_DATA);
    assert_error(ERROR_DATA, "gives up");
    ids.count = 0;
    assert_int_equal(tokenizer_encode(t, "ab", 2, 0, &ids), 0);
    assert_int_equal(ids.count, 1);
    tokenizer_ids_free(t, &ids);
}

static void unknown_characters(void **state)
{
    (void)state;
    TokenIds ids = {0};
    Tokenizer *t = tokenizer_of("{'model':{'type':'BPE','unk_token':'<x>','vocab':{'a':0},'merges':[]}}");
    assert_int_equal(tokenizer_encode(t, "aa", 2, 0, &ids), 0); /* it is needed only where something is unknown */
    assert_int_equal(tokenizer_encode(t, "ab", 2, 0, &ids), ERROR_DATA);
    assert_error(ERROR_DATA, "unk_token \"<x>\"");
    tokenizer_ids_free(t, &ids);
    t = tokenizer_of("{'model':{'type':'BPE','vocab':{'a':0},'merges':[]}}"); /* without one it is left out */
    assert_int_equal(tokenizer_encode(t, "bab", 3, 0, &ids), 0);
    assert_int_equal(ids.count, 1);
    tokenizer_ids_free(t, &ids);
}

/* NULs in tokens, merges and texts; jansson takes none in keys. */
static void nuls(void **state)
{
    (void)state;
    Tokenizer *t = tokenizer_of("{'model':{'type':'BPE','vocab':{'a':0,'\\u0000':1,'a\\u0000':2,'\\\\u0000':3},"
                                "'merges':['a \\u0000']},'decoder':{'type':'Fuse'}}");
    TokenIds ids = {0};
    TokenText text = {0};
    assert_non_null(t);
    assert_int_equal(tokenizer_encode(t, "a\0\0a", 4, 0, &ids), 0);
    assert_int_equal(ids.count, 3);
    assert_int_equal(ids.ids[0], 2);
    assert_int_equal(ids.ids[1], 1);
    assert_int_equal(tokenizer_decode(t, ids.ids, 3, 0, &text), 0);
    assert_int_equal(text.bytes, 4);
    assert_memory_equal(text.text, "a\0\0a", 4);
    assert_string_equal(tokenizer_token(t, 3), "\\u0000");
    tokenizer_ids_free(t, &ids);
    tokenizer_text_free(t, &text);
}

/* Merges in circles, merges that make what is there already, and a pair that comes twice. */
static void strange_merges(void **state)
{
    (void)state;
    Tokenizer *t = tokenizer_of("{'model':{'type':'BPE','vocab':{'a':0,'':1,'aa':2},"
                                "'merges':[['a',''],['','a'],['',''],['a','a'],['a','a']]}}");
    TokenIds ids = {0};
    assert_non_null(t);
    assert_int_equal(tokenizer_encode(t, "aaaaa", 5, 0, &ids), 0);
    assert_int_equal(ids.count, 3);
    tokenizer_ids_free(t, &ids);
}

/* Thousands of broken files: each is read or refused, and what was read works. */
static void mutations(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt2", "bert", "llama2", "splits"};
    for (size_t k = 0; k < COUNT(names); k++) {
        char path[128];
        size_t bytes;
        snprintf(path, sizeof path, FIXTURES "%s.json", names[k]);
        char *whole = read_file(path, &bytes);
        for (uint32_t i = 0; i < 400; i++) {
            char *copy = test_malloc(bytes + 1);
            size_t length = bytes;
            memcpy(copy, whole, bytes + 1);
            for (uint32_t m = 0; m < 1 + i % 4; m++) {
                uint32_t h = hash32(i * 64 + m), at = hash32(h) % (uint32_t)length;
                static const char swaps[] = "\"{}[],:0123456789truefalsnl\\ue\x80\xff ";
                copy[at] = i % 5 ? swaps[h % (sizeof swaps - 1)] : (char)h;
            }
            if (i % 7 == 0)
                length = hash32(i) % length;
            int scope = tensor_scope_begin();
            Tokenizer *t = tokenizer_read(write_file("mutant.json", copy, length));
            TokenIds ids = {0};
            TokenText text = {0};
            if (t) {
                tokenizer_encode(t, "The miller's 12 geese \xC3\xA9\xff <s>", 29, 1, &ids);
                tokenizer_decode(t, ids.ids, ids.count, 0, &text);
                tokenizer_ids_free(t, &ids);
                tokenizer_text_free(t, &text);
            } else {
                assert_true(error_code() == ERROR_DATA || error_code() == ERROR_FILE);
            }
            error_clear();
            tensor_scope_end(scope);
            test_free(copy);
        }
        test_free(whole);
    }
}

/* A text of four letters that would become gigabytes, a doubling at a time: found by fuzzing. */
static void endless_replacements(void **state)
{
    (void)state;
#define DOUBLE  "{'type':'Replace','pattern':{'String':'a'},'content':'aaaaaaaa'}"
#define NOTHING "{'type':'Replace','pattern':{'Regex':''},'content':'aa'}"
#define FOUR(x) x "," x "," x "," x
    static const char *const normalizers[] = {FOUR(DOUBLE) "," FOUR(DOUBLE), FOUR(NOTHING) "," FOUR(NOTHING) "," FOUR(NOTHING)};
    char json[4096];
    TokenIds ids = {0};
    TokenText text = {0};
    for (size_t i = 0; i < COUNT(normalizers); i++) {
        snprintf(json, sizeof json, BPE(",'normalizer':{'type':'Sequence','normalizers':[%s]}"), normalizers[i]);
        Tokenizer *t = tokenizer_of(json);
        if (!t)
            fail_msg("%s", error_message());
        assert_int_equal(tokenizer_encode(t, "aaaa", 4, 0, &ids), ERROR_DATA);
        assert_error(ERROR_DATA, "normalizers", "64 times");
        tokenizer_ids_free(t, &ids);
    }
    Tokenizer *t = tokenizer_of(BPE(",'decoder':{'type':'Sequence','decoders':[" FOUR(DOUBLE) "," FOUR(DOUBLE) "]}"));
    if (!t)
        fail_msg("%s", error_message());
    assert_int_equal(tokenizer_decode(t, (int32_t[]){0, 0, 0, 0}, 4, 0, &text), ERROR_DATA);
    assert_error(ERROR_DATA, "decoders", "64 times");
    tokenizer_text_free(t, &text);
}

/* What takes the square of a file's size, or of a word's, in memory or time: found by fuzzing. */
static void squares(void **state)
{
    (void)state;
    char json[32768];
    size_t n = 0;
    assert_null(tokenizer_of("{'model':{'type':'WordPiece','unk_token':'a','max_input_chars_per_word':1000000,"
                             "'vocab':{'a':0}}}"));
    assert_error(ERROR_DATA, "max_input_chars_per_word", "at most 1000");
    n += (size_t)snprintf(json, sizeof json,
                          "{'model':{'type':'BPE','vocab':{'a':0},'merges':[]},'post_processor':{'type':"
                          "'TemplateProcessing','single':[");
    for (int i = 0; i < 100; i++)
        n += (size_t)snprintf(json + n, sizeof json - n, "{'SpecialToken':{'id':'a','type_id':0}},");
    n += (size_t)snprintf(json + n, sizeof json - n,
                          "{'Sequence':{'id':'A','type_id':0}}],'pair':[],'special_tokens':{'a':{'id':'a','ids':[0");
    for (int i = 0; i < 100; i++)
        n += (size_t)snprintf(json + n, sizeof json - n, ",0");
    snprintf(json + n, sizeof json - n, "],'tokens':['a']}}}}");
    assert_null(tokenizer_of(json));
    assert_error(ERROR_DATA, "post_processor", "4096");
}


int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(bad_json, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(bad_paths, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(bad_sizes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(endless_patterns, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(endless_replacements, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(squares, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(unknown_characters, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(nuls, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(strange_merges, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(mutations, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
