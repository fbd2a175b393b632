/* Unigram and WordLevel models, SentencePiece's map of characters, and classes in patterns, beyond what the
 * fixtures of test_tokenizer.c hold: ties, what is unknown, hostile maps, and times. */
#include <time.h>

#include "../text/tokenizer_.h"
#include "tokenizer_support.h"

static Tokenizer *read_or_fail(const char *json)
{
    Tokenizer *t = tokenizer_of(json);
    if (!t)
        fail_msg("%s", error_message());
    return t;
}

static void encodes(Tokenizer *t, const char *text, size_t count, const int32_t *expected)
{
    TokenIds ids = {0};
    for (int twice = 0; twice < 2; twice++) { /* words come from the cache the second time */
        ids.count = 0;
        if (tokenizer_encode(t, text, strlen(text), 0, &ids))
            fail_msg("%s", error_message());
        for (size_t i = 0; i < ids.count && i < count; i++)
            if (ids.ids[i] != expected[i])
                fail_msg("\"%s\", token %zu: %d, expected %d", text, i, ids.ids[i], expected[i]);
        assert_int_equal(ids.count, count);
    }
    tokenizer_ids_free(t, &ids);
}

#define ENCODES(t, text, ...) encodes(t, text, COUNT(((int32_t[]){__VA_ARGS__})), (int32_t[]){__VA_ARGS__})

/* ---- Unigram --------------------------------------------------------------------------------- */

#define UNIGRAM(more, vocab) "{'model':{'type':'Unigram'," more "'vocab':[" vocab "]}}"

static void best_ways(void **state)
{
    (void)state;
    Tokenizer *t =
        read_or_fail(UNIGRAM("'unk_id':0,", "['<unk>',0],['a',0],['b',0],['c',0],['d',0],['cd',1],['ab',2],"
                                            "['abc',5],['abcd',10]"));
    ENCODES(t, "abcdacdxx", 8, 1, 5, 0); /* the package's own example: what is unknown in a row is one */
    ENCODES(t, "xa\xC3\xA9\xE6\xBC\xA2", 0, 1, 0);
    ENCODES(t, "<unk>", 0);
    ENCODES(t, "x<unk>xa", 0, 1);
    t = read_or_fail(UNIGRAM("'unk_id':0,", "['?',-9],['a',-1],['b',-1],['ab',-2],['aa',-2]"));
    ENCODES(t, "ab", 3); /* of equal ways the first found: the longer token begins first */
    ENCODES(t, "aaa", 1, 4);
    t = read_or_fail(
        "{'model':{'unk_id':0,'vocab':[['?',-9],['a',-3],['aa',-4],['a',-1]]}}"); /* the later of two */
    ENCODES(t, "aa", 3, 3);
    assert_int_equal(tokenizer_id(t, "a"), 3);
    assert_string_equal(tokenizer_token(t, 1), "a");
    assert_int_equal(tokenizer_vocab(t), 4);
}

/* a a aa and aa a a are the same tokens: which sum is larger is a matter of rounding, and of how scores are
 * read. The ids are the Python package's. */
static void last_bits(void **state)
{
    (void)state;
    static const struct {
        const char *scores;
        size_t count;
        int32_t ids[6];
    } cases[] = {
        /* behind each what the nearest numbers would give */
        {"['a',-5.950528305599594],['aa',-4.7183901135604716],['aaa',-5.861614198555421]",
         3,
         {2, 3, 2}}, /* 2, 2, 3 */
        {"['a',-6.461896806938894],['aa',-4.472318631820348],['aaa',-3.3686540049013614]",
         3,
         {2, 3, 2}}, /* 2, 2, 3 */
        {"['a',-5.793188693263301],['aa',-3.9325274820323637],['aaa',-4.298419785949584]",
         3,
         {2, 2, 3}}, /* 2, 3, 2 */
        {"['a',-5.2367665420878815],['aa',-6.580512175754247],['aaa',-7.5457186909694505]",
         3,
         {1, 3, 3}}, /* 3, 3, 1 */
        {"['a',-3.6378073173250676],['aa',-5.748582462481531],['aaa',-5.630569960125664]",
         3,
         {3, 3, 1}}, /* 1, 3, 3 */
        {"['a',-4.857232539183599],['aa',-7.066383888394135],['aaa',-3.7409468707563667]",
         3,
         {1, 3, 3}}, /* 3, 3, 1 */
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char json[400];
        snprintf(json, sizeof json, "{'model':{'type':'Unigram','unk_id':0,'vocab':[['?',0],%s]}}",
                 cases[i].scores);
        encodes(read_or_fail(json), "aaaaaaa", cases[i].count, cases[i].ids);
    }
}

static void unknown_bytes(void **state)
{
    (void)state;
    Tokenizer *t = read_or_fail(UNIGRAM("'unk_id':0,'byte_fallback':true,",
                                        "['<unk>',0],['<0xC3>',-5],['<0xA9>',-5],['a',-1],['<0x78>',-5]"));
    ENCODES(t, "a\xC3\xA9x", 3, 1, 2, 4);
    ENCODES(t, "\xC3\xA9y", 0); /* all bytes or none */
    ENCODES(t, "<unk>", 0);     /* is a token */
    ENCODES(t, "x<unk>", 0);
    TokenIds ids = {0};
    t = read_or_fail(UNIGRAM("", "['a',-1],['ab',-1]"));
    ENCODES(t, "aab", 0, 1); /* the b by itself is none, and not needed */
    assert_int_equal(tokenizer_encode(t, "aabb", 4, 0, &ids), ERROR_DATA);
    assert_error(ERROR_DATA, "unk_id names no token");
    ids.count = 0;
    assert_int_equal(tokenizer_encode(t, "aa", 2, 0, &ids), 0);
    assert_int_equal(ids.count, 2);
    tokenizer_ids_free(t, &ids);
}

static int in_time(clock_t start)
{
    return clock() - start < 20 * CLOCKS_PER_SEC;
}

/* One long piece, tokens of a thousand letters, and one letter more. */
static void long_tokens(void **state)
{
    (void)state;
    enum { LENGTH = 1 << 17 };
    for (int more = 0; more < 2; more++) {
        char json[4096];
        int n =
            snprintf(json, sizeof json, "{'model':{'type':'Unigram','unk_id':0,'vocab':[['?',0],['a',-1],['");
        memset(json + n, 'a', 1024 + (size_t)more);
        snprintf(json + n + 1024 + more, sizeof json - (size_t)n - 1024 - (size_t)more, "',-1]]}}");
        Tokenizer *t = tokenizer_of(json);
        if (more) {
            assert_null(t);
            assert_error(ERROR_DATA, "a token of 1025 bytes", "1024");
            return;
        }
        char *text = test_malloc(LENGTH);
        TokenIds ids = {0};
        memset(text, 'a', LENGTH);
        clock_t start = clock();
        assert_int_equal(tokenizer_encode(t, text, LENGTH, 0, &ids), 0);
        assert_int_equal(ids.count, LENGTH / 1024);
        assert_true(in_time(start));
        tokenizer_ids_free(t, &ids);
        test_free(text);
    }
}

/* Tokens that share all their beginnings, and nodes with a child for each byte. */
static void large_tries(void **state)
{
    (void)state;
    size_t room = 1 << 20, n = 0;
    char *json = test_malloc(room);
    n += (size_t)snprintf(json, room, "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"?\",-99]");
    for (int i = 0; i < 20000; i++) { /* characters of 1 to 3 bytes, in pairs */
        char text[8];
        int a = 0x100 + i % 251 * 7, b = 0x61 + i / 251 * 113, bytes = utf8_write(text, a);
        bytes += utf8_write(text + bytes, b);
        n += (size_t)snprintf(json + n, room - n, ",[\"%.*s\",-%d.25]", bytes, text, 1 + i % 17);
    }
    n += (size_t)snprintf(json + n, room - n, "]}}");
    Tokenizer *t = tokenizer_read(write_file("large.json", json, n));
    if (!t)
        fail_msg("%s", error_message());
    for (int i = 1; i <= 20000; i += 7)
        encodes(t, tokenizer_token(t, i), 1, (int32_t[]){i});
    test_free(json);
}

/* ---- WordLevel ------------------------------------------------------------------------------- */

static void whole_words(void **state)
{
    (void)state;
    TokenIds ids = {0};
    Tokenizer *t = read_or_fail("{'pre_tokenizer':{'type':'WhitespaceSplit'},"
                                "'model':{'type':'WordLevel','unk_token':'?','vocab':{'?':2,'ab':0,'a':1}}}");
    ENCODES(t, "ab a  b ?", 0, 1, 2, 2);
    t = read_or_fail("{'pre_tokenizer':{'type':'WhitespaceSplit'},'model':{'vocab':{'<unk>':2,'ab':0}}}");
    ENCODES(t, "ab b", 0, 2); /* without a type, and the usual unk_token */
    t = read_or_fail("{'model':{'type':'WordLevel','unk_token':'?','vocab':{'ab':0}}}");
    assert_int_equal(tokenizer_encode(t, "ab", 2, 0, &ids), 0);
    assert_int_equal(tokenizer_encode(t, "b", 1, 0, &ids), ERROR_DATA);
    assert_error(ERROR_DATA, "a word is unknown", "unk_token \"?\"");
    tokenizer_ids_free(t, &ids);
}

/* ---- The map of characters ------------------------------------------------------------------- */

static void map_refused(const char *base64, const char *what)
{
    char json[4096];
    snprintf(json, sizeof json,
             "{'normalizer':{'type':'Precompiled','precompiled_charsmap':'%s'},'model':{'type':'BPE','vocab':"
             "{'a':0},"
             "'merges':[]}}",
             base64);
    if (tokenizer_of(json))
        fail_msg("read: %s", base64);
    assert_error(ERROR_DATA, "precompiled_charsmap", what);
}

/* A map of `count` units, 256 at most, with one text behind them, in base 64. */
static const char *map_of(const uint32_t *units, size_t count, const char *text)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static char out[2048];
    uint8_t data[1200] = {(uint8_t)(4 * count), (uint8_t)(4 * count >> 8)};
    size_t n = 4, at = 0;
    for (size_t i = 0; i < count; i++)
        for (int k = 0; k < 4; k++)
            data[n++] = (uint8_t)(units[i] >> 8 * k);
    memcpy(data + n, text, strlen(text));
    n += strlen(text);
    for (size_t i = 0; i < n; i += 3) {
        uint32_t group = (uint32_t)data[i] << 16 | (uint32_t)data[i + 1] << 8 | data[i + 2];
        for (size_t k = 0; k < 4; k++)
            out[at++] = i + k > n ? '=' : letters[group >> (18 - 6 * k) & 63];
    }
    out[at] = '\0';
    return out;
}

/* The root's base is 0, so the child by a byte is the unit of that number. */
static void hostile_maps(void **state)
{
    (void)state;
    uint32_t units[256] = {0};
    map_refused("", "no trie");
    map_refused("AAAA", "no trie");
    map_refused("/wAAAAAAAAA=", "no trie"); /* longer than the file */
    map_refused("AAA", "no base 64");
    map_refused("AA=A", "no base 64");
    map_refused("AAAAAAB=", "no base 64"); /* bits behind its end */
    map_refused("AA AAAAA", "no base 64");
    map_refused(map_of(units, 200, ""), "outside"); /* bytes above 199 */
    units[0] = 300U << 10;
    map_refused(map_of(units, 256, ""), "outside"); /* the first step */
    units[0] = 0;
    units['a'] = 'a' | 500U << 10;
    map_refused(map_of(units, 256, ""), "outside"); /* the second */
    units['a'] = 'a' | (uint32_t)'a' << 10;         /* back to the root */
    map_refused(map_of(units, 256, ""), "circle");
    units['a'] = 'a' | 1U << 8 | (uint32_t)('a' ^ 1) << 10; /* a value in unit 1 */
    units[1] = 1U << 31 | 3;
    map_refused(map_of(units, 256, "xy"), "does not hold");
    units[1] = 1U << 31 | 1;
    map_refused(map_of(units, 256, "\xC3\xA9"), "does not hold"); /* within a character */
    map_refused(map_of(units, 256, "\xC3"), "no UTF-8");
    char json[4096];
    units[1] = 1U << 31 | 0;
    snprintf(json, sizeof json,
             "{'normalizer':{'type':'Precompiled','precompiled_charsmap':'%s'},"
             "'model':{'type':'Unigram','unk_id':0,'vocab':[['?',0],['xy',-1],['b',-1]]}}",
             map_of(units, 256, "xy"));
    Tokenizer *t = read_or_fail(json);
    ENCODES(t, "aba", 1, 2, 1);
    ENCODES(t,
            "a\xCC\x81"
            "b",
            1, 2); /* the mark is dropped with its letter */
}

/* A letter that becomes a thousand, in a long text. */
static void growing_map(void **state)
{
    (void)state;
    uint32_t units[256] = {0};
    char json[4096], text[161], long_text[2000];
    units['a'] = 'a' | 1U << 8 | (uint32_t)('a' ^ 1) << 10;
    units[1] = 1U << 31;
    memset(text, 'b', 160);
    text[160] = '\0';
    snprintf(json, sizeof json,
             "{'normalizer':{'type':'Precompiled','precompiled_charsmap':'%s'},"
             "'model':{'type':'BPE','vocab':{'b':0},'merges':[]}}",
             map_of(units, 256, text));
    Tokenizer *t = read_or_fail(json);
    TokenIds ids = {0};
    memset(long_text, 'a', sizeof long_text);
    assert_int_equal(tokenizer_encode(t, long_text, 10, 0, &ids), 0);
    assert_int_equal(ids.count, 1600);
    assert_int_equal(tokenizer_encode(t, long_text, sizeof long_text, 0, &ids), ERROR_DATA);
    assert_error(ERROR_DATA, "normalizers", "64 times");
    tokenizer_ids_free(t, &ids);
}

/* ---- Classes --------------------------------------------------------------------------------- */

#define PIECES(pattern)                                                                                      \
    "{'model':{'type':'WordLevel','unk_token':'?','vocab':{'?':0,'a':1,'b':2,'-':3,'ab':4}},'pre_tokenizer'" \
    ":"                                                                                                      \
    "{'type':'Split','pattern':{'Regex':'" pattern "'},'behavior':'Removed'}}"

static void classes(void **state)
{
    (void)state;
    static const struct {
        const char *json, *text;
        size_t count;
        int32_t ids[4];
    } cases[] = {
        {PIECES("[c[de]]"), "acbda", 3, {1, 2, 1}},
        {PIECES("[c-z&&[^de]]+"), "acfgbda", 2, {1, 0}},
        {PIECES("[^a[b-]]"), "acb", 2, {1, 2}},
        {PIECES("[[^ab]c]+"), "a-cb", 2, {1, 2}},
        {PIECES("[^[^c]-]"), "acb-", 2, {1, 0}}, /* c alone, without the - */
        {PIECES("[]c]"), "a]bca", 3, {1, 2, 1}},
        {PIECES("[^]ab-]"), "a.b-]", 2, {1, 0}},
        {PIECES("[c-e-g]"), "acb-aga", 4, {1, 2, 1, 1}},
        {PIECES("[\\\\W&&[^-]]"), "a.b", 2, {1, 2}},
        {PIECES("[^\\\\W_b]"), "-a-_", 2, {3, 0}},
        {PIECES("[[:digit:][:space:]]"), "a1b a", 3, {1, 2, 1}},
        {PIECES("[[:^word:]&&[^-]]"), "a.b", 2, {1, 2}},
        {PIECES("[[:punct:]&&[^-]]"), "a$b", 2, {1, 2}},
        {PIECES("[..]"), "a.b", 2, {1, 2}},
        {PIECES("(?<=[.&&[^a]])c"), "a.c", 1, {0}},
        {PIECES("\\\\u0063"), "acb", 2, {1, 2}},
        {PIECES("[\\\\w&&[^ab]]"), "a\xC2\xB2", 1, {0}}, /* not in a class */
        {PIECES("(?i:[C[D]])"), "acbDa", 3, {1, 2, 1}},
        {PIECES("(?i:c)[^a&&[^b]]"), "aC.b", 2, {1, 2}}, /* behind the group the case counts */
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Tokenizer *t = read_or_fail(cases[i].json);
        TokenIds ids = {0};
        assert_int_equal(tokenizer_encode(t, cases[i].text, strlen(cases[i].text), 0, &ids), 0);
        if (ids.count != cases[i].count || memcmp(ids.ids, cases[i].ids, ids.count * sizeof *ids.ids))
            fail_msg("case %zu: %zu ids, the first %d", i, ids.count, ids.count ? ids.ids[0] : -1);
        tokenizer_ids_free(t, &ids);
    }
}

static void refused_classes(void **state)
{
    (void)state;
    static const struct {
        const char *json, *what;
    } bad[] = {
        {PIECES("[a-[b]]"), "a range that ends in a class"},
        {PIECES("[[a-z]--[aeiou]]"), "a range that ends in a class"},
        {PIECES("[a-\\\\d]"), "a range that ends in a class"},
        {PIECES("[\\\\s-z]"), "a range that begins with a class"},
        {PIECES("[&&a]"), "an empty class"},
        {PIECES("[a&&&&b]"), "an empty class"},
        {PIECES("[[:alpha:]]"), "a [:…:] other"},
        {PIECES("[a&&b"), "without its end"},
        {PIECES("(?i:[a&&b])"), "&& in a class under (?i)"},
        {PIECES("(?i)x(y[a[^b]])"), "a negated class in a class under (?i)"},
        {PIECES("(?i:[\\\\p{Lu}])"), "letters of one case in a class under (?i)"},
        {PIECES("[[[[[[[[[[[[[[[[[a]]]]]]]]]]]]]]]]]"), "too deep"},
        {PIECES("\\\\u00g0"), "a \\u without four digits"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        if (tokenizer_of(bad[i].json))
            fail_msg("read: %s", bad[i].json);
        assert_error(ERROR_DATA, bad[i].what);
    }
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static void each_allocation_fails(void **state)
{
    (void)state;
    static const char json[] = "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"?\",0],[\"a\",-1."
                               "7]]},\"pre_tokenizer\":{\"type\":"
                               "\"Split\",\"pattern\":{\"Regex\":\"[^a[^b&&[c-e]]\\\\W[[:punct:]&&x]]+\"},"
                               "\"behavior\":\"Isolated\"}}";
    const char *path = write_file("t.json", json, sizeof json - 1);
    Context *outside = context_current();
    uint64_t before = memtrack_process_live();
    int reached = 1;
    for (uint64_t n = 1; reached; n++) {
        assert_true(n < 500);
        context_use(context_create(&(ContextOptions){.threads = 1}));
        memtrack_fail_nth(n);
        Tokenizer *t = tokenizer_read(path);
        TokenIds ids = {0};
        int bad =
            !t || tokenizer_encode(t, "abcdefaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 52, 1, &ids);
        tokenizer_ids_free(t, &ids);
        reached = !memtrack_fail_pending();
        memtrack_fail_nth(0);
        if (bad ? error_code() != ERROR_HOST_MEMORY : error_code() != 0)
            fail_msg("allocation %d: %s", (int)n, error_message());
        assert_true(reached || n > 10);
        context_destroy(context_use(outside));
        assert_int_equal(memtrack_process_live(), before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(best_ways, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(last_bits, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(unknown_bytes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(long_tokens, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(large_tries, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(whole_words, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(hostile_maps, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(growing_map, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(classes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(refused_classes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(each_allocation_fails, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
