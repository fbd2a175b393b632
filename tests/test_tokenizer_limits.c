/* Files and texts that would take the square of their size, or a power of it: refused, or read in the time that their
 * size justifies. Times are a processor's, and a tenth of what is allowed is usual. */
#include <time.h>

#include <utf8proc.h>

#include "../text/tokenizer_.h"
#include "tokenizer_support.h"

#define BPE(rest) "{'model':{'type':'BPE','vocab':{'a':0,'b':1,'ab':2},'merges':['a b']}" rest "}"
#define PIECES(pattern, vocab)                                                                                         \
    "{'model':{'type':'WordPiece','unk_token':'?','vocab':{'?':0," vocab "}},'pre_tokenizer':{'type':'Split',"         \
    "'pattern':{'Regex':'" pattern "'},'behavior':'Removed'}}"

static void refused(const char *json, const char *what)
{
    if (tokenizer_of(json))
        fail_msg("read: %.200s", json);
    assert_error(ERROR_DATA, what);
}

static Tokenizer *read_or_fail(const char *json)
{
    Tokenizer *t = tokenizer_of(json);
    if (!t)
        fail_msg("%s", error_message());
    return t;
}

static int in_time(clock_t start)
{
    return clock() - start < 20 * CLOCKS_PER_SEC;
}

/* A json of any length with ' for ", in pieces. */
typedef struct Json {
    char *text;
    size_t bytes, room;
} Json;

__attribute__((format(printf, 2, 3))) static void put(Json *j, const char *format, ...)
{
    va_list arguments;
    if (j->room - j->bytes < 8192) { /* no piece is longer */
        j->room = 2 * j->room + 16384;
        j->text = realloc(j->text, j->room);
        assert_non_null(j->text);
    }
    va_start(arguments, format);
    int n = vsnprintf(j->text + j->bytes, j->room - j->bytes, format, arguments);
    va_end(arguments);
    assert_in_range(n, 0, 8191);
    j->bytes += (size_t)n;
}

static Tokenizer *read_json(Json *j)
{
    for (size_t i = 0; i < j->bytes; i++)
        j->text[i] = j->text[i] == '\'' ? '"' : j->text[i];
    const char *path = write_file("large.json", j->text, j->bytes);
    free(j->text);
    *j = (Json){0};
    return tokenizer_read(path);
}

/* ---- Steps ----------------------------------------------------------------------------------- */

#define BYTES "{'type':'ByteLevel','add_prefix_space':false,'use_regex':false}"
#define SPACE "{'type':'ByteLevel','use_regex':false}"
#define MARK  "{'type':'Metaspace','replacement':'_'}"
#define FOUR(x) x "," x "," x "," x
#define SPLITS(list) BPE(",'pre_tokenizer':{'type':'Sequence','pretokenizers':[" list "]}")

/* Each ByteLevel doubles what is not a letter of its alphabet: 32 of them made gigabytes of one space. */
static void growing_splits(void **state)
{
    (void)state;
    TokenIds ids = {0};
    refused(SPLITS(FOUR(FOUR(BYTES)) "," FOUR(FOUR(BYTES))), "more than 4 steps that make a text longer");
    refused(SPLITS(FOUR(BYTES) "," BYTES), "more than 4 steps");
    refused(SPLITS(SPACE "," SPACE "," MARK), "with add_prefix_space two");
    refused(SPLITS(FOUR(MARK) "," BYTES), "a Metaspace is one");
    Tokenizer *t = read_or_fail(SPLITS(FOUR(BYTES) ",{'type':'Digits'},{'type':'Punctuation'}"));
    assert_int_equal(tokenizer_encode(t, "\xC3\xA9 ab", 5, 0, &ids), 0);
    assert_int_equal(ids.ids[ids.count - 1], 2);
    read_or_fail(SPLITS(SPACE "," SPACE));
    read_or_fail(SPLITS(SPACE "," MARK "," BYTES));
    tokenizer_ids_free(t, &ids);
}

/* The ids of all processors together: they come with each text, and one processor more took a copy of them. */
static void many_processors(void **state)
{
    (void)state;
    for (int more = 0; more < 2; more++) {
        Json j = {0};
        TokenIds ids = {0};
        put(&j, "{'model':{'type':'BPE','vocab':{'a':0,'b':1},'merges':[]},'post_processor':{'type':'Sequence',"
                "'processors':[{'type':'ByteLevel'}");
        for (int i = 0; i < 4096 + more; i++)
            put(&j, ",{'type':'BertProcessing','sep':['b',1],'cls':['a',0]}");
        put(&j, "]}}");
        Tokenizer *t = read_json(&j);
        if (more) {
            assert_null(t);
            assert_error(ERROR_DATA, "post_processor", "4096 ids");
            return;
        }
        assert_int_equal(tokenizer_encode(t, "b", 1, 1, &ids), 0);
        assert_int_equal(ids.count, 2 * 4096 + 1);
        assert_int_equal(ids.ids[4095], 0);
        assert_int_equal(ids.ids[4097], 1);
        tokenizer_ids_free(t, &ids);
    }
}

/* ---- Patterns -------------------------------------------------------------------------------- */

/* What Oniguruma and PCRE2 take for different things. */
static void other_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *json, *what;
    } bad[] = {
        {PIECES("\\\\V", "'a':1"), "has \\V at byte 0"},
        {PIECES("a\\\\Qb+\\\\E", "'a':1"), "\\Q or \\E at byte 1"},
        {PIECES("[\\\\E]", "'a':1"), "\\Q or \\E"},
        {PIECES("\\\\Ga", "'a':1"), "\\G"},
        {PIECES("\\\\c[", "'a':1"), "\\c"},
        {PIECES("\\\\N{U+41}", "'a':1"), "\\N{"},
        {PIECES("(a)\\\\g1", "'a':1"), "\\g or \\k without <"},
        {PIECES("(?<n>a)\\\\k{n}", "'a':1"), "\\g or \\k without <"},
        {PIECES("\\\\xe3\\\\x80\\\\x80", "'a':1"), "\\x of a byte above 7f"},
        {PIECES("a{,3}", "'a':1"), "has {,n} at byte 1"},
        {PIECES("a{2}?", "'a':1"), "has {n}? at byte 1"},
        {PIECES("a{2}+", "'a':1"), "has {…}+ at byte 1"},
        {PIECES("a{2,}+", "'a':1"), "has {…}+ at byte 1"},
        {PIECES("\\\\p{L}{2,3}+", "'a':1"), "has {…}+ at byte 5"},
        {PIECES("\\\\x{3000}{2}?", "'a':1"), "has {n}? at byte 8"},
        {PIECES("a(?i)b|c", "'a':1"), "(?i) elsewhere than at its beginning"},
        {PIECES("(a(?-i)b)", "'a':1"), "elsewhere than at its beginning"},
        {PIECES("(?x)a b", "'a':1"), "a group other"},
        {PIECES("(?ix:a b)", "'a':1"), "a group other"},
        {PIECES("(?)", "'a':1"), "a group other"},
    };
    for (size_t i = 0; i < COUNT(bad); i++)
        refused(bad[i].json, bad[i].what);
}

/* And what both take for the same, or is rewritten: the text between matches. */
static void same_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *json, *text;
        size_t count;
        int32_t ids[3];
    } good[] = {
        {PIECES("\\\\v", "'a':1,'b\\nc':2"), "a\vb\nc", 2, {1, 2}},
        {PIECES("[\\\\v-]", "'a':1,'b\\nc':2"), "a\vb\nc-", 2, {1, 2}},
        {PIECES("\\\\x{3000}+", "'a':1,'b':2"), "a\xE3\x80\x80\xE3\x80\x80" "b", 2, {1, 2}},
        {PIECES("\\\\x{62}{2}|\\\\o{143}+", "'a':1,'b':2"), "abbaccb", 3, {1, 1, 2}},
        {PIECES("\\\\x62", "'a':1"), "aba", 2, {1, 1}},
        {PIECES("(?i)b|C", "'a':1"), "aBacca", 3, {1, 1, 1}},
        {PIECES("x|(?i:b)|C", "'a':1,'c':2"), "aBcaC", 2, {1, 0}},
        {PIECES("b{1,2}?c", "'a':1"), "abbca", 2, {1, 1}},
        {PIECES("b{,}|{}|{,", "'a':1"), "ab{,}a{}a", 3, {1, 1, 1}},
        {PIECES("(?<n>b)\\\\k<n>", "'a':1"), "abba", 2, {1, 1}},
    };
    for (size_t i = 0; i < COUNT(good); i++) {
        Tokenizer *t = read_or_fail(good[i].json);
        TokenIds ids = {0};
        assert_int_equal(tokenizer_encode(t, good[i].text, strlen(good[i].text), 0, &ids), 0);
        if (ids.count != good[i].count || memcmp(ids.ids, good[i].ids, ids.count * sizeof *ids.ids))
            fail_msg("case %zu: %zu ids, the first %d", i, ids.count, ids.count ? ids.ids[0] : -1);
        tokenizer_ids_free(t, &ids);
    }
}

/* Each \b becomes some kilobytes. */
static void many_classes(void **state)
{
    (void)state;
    MemTracker *tracker = context_tracker(context_current());
    uint64_t before = memtrack_host_live(tracker);
    for (int i = 0; i < 2; i++) {
        Json j = {0};
        put(&j, BPE(",'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':{'Regex':'"));
        j.bytes -= 1; /* the last brace */
        for (int k = 0; k < 1 << 15; k++)
            put(&j, i ? "\\\\w" : "\\\\b");
        put(&j, "'}}}");
        assert_null(read_json(&j));
        assert_error(ERROR_DATA, "pre_tokenizer", "too many classes");
    }
    assert_true(memtrack_host_peak(tracker) < before + (8 << 20));
    read_or_fail(BPE(",'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':{'Regex':'" FOUR(
        FOUR("\\\\b\\\\w+")) "'}}"));
}

/* A pattern that takes half a million steps at each of many places of a text, nowhere too many. */
static void many_hard_places(void **state)
{
    (void)state;
    enum { RUN = 27, RUNS = 300 };
    Tokenizer *t = read_or_fail(BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'(a|aa)+[cd]'},"
                                    "'behavior':'Isolated'}"));
    char *text = test_malloc(RUN * RUNS);
    TokenIds ids = {0};
    for (int i = 0; i < RUN * RUNS; i++)
        text[i] = i % RUN == RUN - 1 ? 'b' : 'a';
    assert_int_equal(tokenizer_encode(t, text, RUN * RUNS, 0, &ids), ERROR_DATA);
    assert_error(ERROR_DATA, "gives up", "too many places");
    for (int k = 0; k < 40; k++) { /* what one text spent is not the next one's */
        ids.count = 0;
        assert_int_equal(tokenizer_encode(t, text, 2 * RUN, 0, &ids), 0);
        assert_int_equal(ids.count, 2 * RUN - 2);
    }
    tokenizer_ids_free(t, &ids);
    test_free(text);
}

/* (A class at the end: a letter would be looked for first.) What is found behind hard places, and at them, is what would be found without a limit. */
static void hard_places(void **state)
{
    (void)state;
#define A20 FOUR_OF("aaaaa")
#define FOUR_OF(x) x x x x
#define E "\xC3\xA9"
    static const struct {
        const char *json, *text;
        size_t count;
        int32_t ids[3];
    } cases[] = {
        {PIECES("(a|aa)+[cd]|b", "'" E E A20 "x" E "':1,'y':2"), E E A20 "x" E "by", 2, {1, 2}},
        {PIECES("(a|aa)+[cd]|a", "'" E "':1,'b':2"), E A20 "b" E, 2, {1, 0}},
        {PIECES("(a|aa)+[cd]|(?<=x)b", "'b" A20 "x':1,'" A20 "b':2"), "b" A20 "xb" A20 "b", 2, {1, 2}},
        {PIECES("z(a|aa)+[cd]|a", "'z':1,'x':2"), "z" A20 "x", 2, {1, 2}},
        {PIECES(E "(a|aa)+[cd]|a", "'" E "':1,'x':2"), E A20 "x", 2, {1, 2}},
        {PIECES("(a|aa)+[cd]|" E "$", "'" A20 "x':1,'" E "':2"), A20 "x" E, 1, {1}},
        {PIECES("(a|aa)+[cd]", "'" A20 E "':1"), A20 E, 1, {1}},
        {PIECES("(a|aa)+[cd]", "'" A20 "b" A20 "b':1,'b':2"), A20 "b" A20 "b" A20 "cb", 2, {1, 2}},
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

/* The hard place is the one that matches, after n others, some of them of two bytes. */
static void hard_places_after_others(void **state)
{
    (void)state;
    Tokenizer *t = read_or_fail(BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'z(?:(a|aa)+[cd]|a)'},"
                                    "'behavior':'Removed'}"));
    for (size_t n = 0; n < 70; n++) {
        char text[256] = "";
        TokenIds ids = {0};
        for (size_t i = 0; i < n; i++)
            strcat(text, i % 5 == 3 ? E : "x");
        strcat(text, "z" A20 "b");
        assert_int_equal(tokenizer_encode(t, text, strlen(text), 0, &ids), 0);
        assert_int_equal(ids.count, 19); /* without the first a, and the last with b */
        tokenizer_ids_free(t, &ids);
    }
}

/* A long way to the one place that is hard, and long runs of spaces, over which usual patterns go back. */
static void far_places(void **state)
{
    (void)state;
    enum { LENGTH = 1 << 20 };
    char *text = test_malloc(LENGTH);
    TokenIds ids = {0};
    clock_t start = clock();
    Tokenizer *t = read_or_fail(BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'(a|aa)+[cd]|b'},"
                                    "'behavior':'Removed'}"));
    memset(text, 'x', LENGTH);
    for (int i = 1; i <= 40; i++)
        memset(text + i * (LENGTH / 41), 'a', 20);
    text[LENGTH - 2] = 'b';
    text[LENGTH - 1] = 'a';
    assert_int_equal(tokenizer_encode(t, text, LENGTH, 0, &ids), 0);
    assert_int_equal(ids.count, 40 * 20 + 1);
    t = read_or_fail(BPE(",'pre_tokenizer':{'type':'Split','pattern':{'Regex':'\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|"
                         "\\\\s+'},'behavior':'Removed'}"));
    memset(text, ' ', LENGTH);
    for (int i = 1; i <= 100; i++)
        text[i * (LENGTH / 100) - 1] = 'a';
    ids.count = 0;
    assert_int_equal(tokenizer_encode(t, text, LENGTH, 0, &ids), 0);
    assert_int_equal(ids.count, 100);
    assert_true(in_time(start));
    tokenizer_ids_free(t, &ids);
    test_free(text);
}

/* ---- Normalizers ----------------------------------------------------------------------------- */

/* Each byte a token, so that decoding gives what the normalizer made. */
static Tokenizer *bytes_after(const char *form)
{
    Json j = {0};
    put(&j, "{'normalizer':{'type':'%s'},'decoder':{'type':'Sequence','decoders':[{'type':'ByteFallback'},"
            "{'type':'Fuse'}]},'model':{'type':'BPE','byte_fallback':true,'merges':[],'vocab':{",
        form);
    for (unsigned i = 0; i < 256; i++)
        put(&j, "%s'<0x%02X>':%u", i ? "," : "", i, i);
    put(&j, "}}}");
    Tokenizer *t = read_json(&j);
    if (!t)
        fail_msg("%s", error_message());
    return t;
}

static void marks_in_a_row(void **state)
{
    (void)state;
    enum { PAIRS = 250000 };
    Tokenizer *t = read_or_fail("{'model':{'type':'BPE','vocab':{'a':0,'\xCC\x81':1,'\xCC\xA3':2},'merges':[]},"
                                "'normalizer':{'type':'NFD'}}");
    char *text = test_malloc(4 * PAIRS + 1);
    TokenIds ids = {0};
    text[0] = 'a';
    for (int i = 0; i < PAIRS; i++)
        memcpy(text + 1 + 4 * i, "\xCC\x81\xCC\xA3", 4);
    clock_t start = clock();
    assert_int_equal(tokenizer_encode(t, text, 4 * PAIRS + 1, 0, &ids), 0);
    assert_true(in_time(start));
    assert_int_equal(ids.count, 2 * PAIRS + 1);
    for (int i = 0; i < PAIRS; i++) {
        assert_int_equal(ids.ids[1 + i], 2); /* below comes before above */
        assert_int_equal(ids.ids[1 + PAIRS + i], 1);
    }
    tokenizer_ids_free(t, &ids);
    test_free(text);
}

/* Marks of many classes, letters with marks in them, Hangul, in runs of every length: as utf8proc does it. */
static void random_marks(void **state)
{
    (void)state;
    static const struct {
        const char *form;
        int options;
    } forms[] = {{"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
                 {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
                 {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
                 {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}};
    static const int32_t letters[] = {0x3B1,  0xE9,   0x1E69, 0xAC01, 0x1112, 0x1161, 0x11A8, 0x301,  0x323,  0x327,
                                      0x328,  0x345,  0x5B0,  0x5B4,  0x64B,  0x650,  0x93C,  0x94D,  0x3099, 0x302A,
                                      0x344,  0xF71,  0xF74,  0x1D165, 0xFDFA, 0xFB2C, 0x20D0, 0x334, 0x300,  0x30A};
    for (size_t k = 0; k < COUNT(forms); k++) {
        Tokenizer *t = bytes_after(forms[k].form);
        for (uint32_t i = 0; i < 60; i++) {
            char text[16000];
            size_t bytes = 0;
            for (uint32_t n = 1 + hash32(i) % 4000, j = 0; j < n && bytes + 4 < sizeof text; j++) {
                uint32_t h = hash32(4096 * i + j), from = i % 2 ? 7 : 0; /* marks alone */
                bytes += (size_t)utf8_write(text + bytes, letters[from + h % (COUNT(letters) - from)]);
            }
            TokenIds ids = {0};
            TokenText back = {0};
            utf8proc_uint8_t *expected = NULL;
            utf8proc_ssize_t length = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &expected,
                                                   (utf8proc_option_t)forms[k].options);
            assert_int_equal(tokenizer_encode(t, text, bytes, 0, &ids), 0);
            assert_int_equal(tokenizer_decode(t, ids.ids, ids.count, 0, &back), 0);
            assert_int_equal(back.bytes, length);
            assert_memory_equal(back.text, expected, back.bytes);
            free(expected);
            tokenizer_ids_free(t, &ids);
            tokenizer_text_free(t, &back);
        }
    }
}

/* The 4096 bytes beyond 64 times the text are the text's, not each piece's between added tokens. */
static void growth_between_added(void **state)
{
    (void)state;
    enum { PIECES_OF = 3000 };
    Json j = {0};
    put(&j, "{'model':{'type':'BPE','vocab':{'a':0},'merges':[]},'added_tokens':[{'id':1,'content':'<x>','special':true}],"
            "'normalizer':{'type':'Replace','pattern':{'String':'a'},'content':'");
    for (int i = 0; i < 4000; i++)
        put(&j, "a");
    put(&j, "'}}");
    Tokenizer *t = read_json(&j);
    char *text = test_malloc(4 * PIECES_OF);
    TokenIds ids = {0};
    for (int i = 0; i < PIECES_OF; i++)
        memcpy(text + 4 * i, "a<x>", 4);
    assert_int_equal(tokenizer_encode(t, text, 4 * PIECES_OF, 0, &ids), ERROR_DATA);
    assert_error(ERROR_DATA, "normalizers", "64 times");
    assert_true(ids.count < 64 * 4 * PIECES_OF + 4096 + PIECES_OF);
    for (int twice = 0; twice < 2; twice++) {
        ids.count = 0;
        assert_int_equal(tokenizer_encode(t, text, 4, 0, &ids), 0);
        assert_int_equal(ids.count, 4001);
    }
    tokenizer_ids_free(t, &ids);
    test_free(text);
}

/* ---- Files ----------------------------------------------------------------------------------- */

/* Tokens that all go to the same few places of a table. */
static void colliding_tokens(void **state)
{
    (void)state;
    for (int apart = 0; apart < 2; apart++) {
        Json j = {0};
        put(&j, "{'model':{'type':'BPE','merges':[],'vocab':{");
        int count = 0;
        for (uint32_t i = 0; count < 5000; i++) {
            char token[16];
            int n = snprintf(token, sizeof token, "%x", i);
            if (!apart && hash_bytes(token, (size_t)n) % 16384 >= 16)
                continue;
            put(&j, "%s'%s':%d", count ? "," : "", token, count);
            count++;
        }
        put(&j, "}}}");
        Tokenizer *t = read_json(&j);
        assert_true((t != NULL) == apart);
        if (!apart)
            assert_error(ERROR_DATA, "model.vocab: its tokens collide");
    }
}

static const char *letters_a(size_t count)
{
    static char text[4][1000];
    static int at;
    char *out = text[at++ % 4];
    memset(out, 'a', count);
    out[count] = '\0';
    return out;
}

static void colliding_merges(void **state)
{
    (void)state;
    enum { LONGEST = 800, MERGES = 5000, SLOTS = 16384 };
    const Bpe table = {.shift = 64 - 14};
    for (int apart = 0; apart < 2; apart++) {
        Json j = {0};
        int count = 0;
        put(&j, "{'model':{'type':'BPE','vocab':{'a':0");
        for (size_t n = 2; n <= LONGEST; n++)
            put(&j, ",'%s':%zu", letters_a(n), n - 1);
        put(&j, "},'merges':[");
        for (uint64_t a = 1; a < LONGEST; a++)
            for (uint64_t b = 1; a + b <= LONGEST && count < MERGES; b++) {
                if (apart ? hash32((uint32_t)(a * LONGEST + b)) % 64 : merge_slot(&table, (a - 1) << 32 | (b - 1)) >= 256)
                    continue;
                put(&j, "%s['%s','%s']", count ? "," : "", letters_a(a), letters_a(b));
                count++;
            }
        put(&j, "]}}");
        assert_in_range(count, SLOTS / 4 + 1, SLOTS / 2);
        Tokenizer *t = read_json(&j);
        assert_true((t != NULL) == apart);
        if (!apart)
            assert_error(ERROR_DATA, "model.merges: its pairs collide");
    }
}

/* Objects, which take eighty times their bytes when they are parsed. */
static void many_objects(void **state)
{
    (void)state;
    enum { COUNT_OF = 200000 };
    Json j = {0};
    put(&j, "{'model':{'type':'BPE','vocab':{'a':0},'merges':[]},'x':[{}");
    for (int i = 0; i < COUNT_OF; i++)
        put(&j, ",{}");
    put(&j, "]}");
    assert_null(read_json(&j));
    assert_error(ERROR_DATA, "200004 times {", "few objects");
    put(&j, "{'model':{'type':'BPE','vocab':{'a':0},'merges':[]},'x':'");
    for (int i = 0; i < 60000; i++)
        put(&j, "{");
    put(&j, "'}");
    assert_non_null(read_json(&j));
}

/* A line without an end is one word; merging it took the square of its length. */
static void training_on_one_word(void **state)
{
    (void)state;
    enum { LENGTH = 1 << 21 };
    char *text = test_malloc(LENGTH);
    memset(text, 'a', LENGTH);
    const char *in = write_file("word", text, LENGTH), *out = in_folder("out.json");
    clock_t start = clock();
    assert_int_equal(tokenizer_train(in, out, &(TokenizerTraining){.vocab = 257 + 10}), 0);
    Tokenizer *t = tokenizer_read(out);
    assert_int_equal(tokenizer_vocab(t), 257 + 10);
    for (int i = 0; i < 10; i++) /* aa, aaaa, … */
        assert_int_equal(strlen(tokenizer_token(t, 257 + i)), 2 << i);
    assert_true(in_time(start));
    test_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(growing_splits, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(many_processors, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(other_patterns, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(same_patterns, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(many_classes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(many_hard_places, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(hard_places, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(hard_places_after_others, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(far_places, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(marks_in_a_row, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(random_marks, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(growth_between_added, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(colliding_tokens, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(colliding_merges, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(many_objects, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(training_on_one_word, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
