/* Prompts and completions as data: what a line becomes in tokens and labels, and every line that is refused.
 */
#include <sys/stat.h>

#include <zlib.h>

#include "../base/clock_.h"
#include "../base/file_kind_.h"
#include "../text/tokenizer.h"
#include "test_data_.h"

#define FIXTURES "tests/tokenizers/fixtures/"
#define NONE     BATCH_IGNORE

static const char *write_lines(const char *name, const char *text)
{
    return write_file(name, text, strlen(text));
}

/* Of all samples: nothing is held out, in the order of the file. */
static PairsOptions all_of(void)
{
    return (PairsOptions){.batch = 64, .held_out = -1};
}

/* The first batch in the order of the file. */
static const Batch *batch_of(Loader *loader)
{
    const Batch *b = data_next(loader);
    if (!b)
        fail_msg("no batch: %s", error_message());
    return b;
}

/* Whether one row of the batch has these ids and labels; ended by -1 and -1. Rows are shuffled. */
static int is_row(const Batch *b, int64_t row, const int32_t *ids, const int32_t *labels)
{
    int64_t width = tensor_dim(b->ids, 1);
    return !memcmp(tensor_i32(b->ids) + row * width, ids, (size_t)width * 4) &&
           !memcmp(tensor_i32(b->labels) + row * width, labels, (size_t)width * 4);
}

static void assert_row(const Batch *b, int64_t width, const int32_t *ids, const int32_t *labels)
{
    assert_int_equal(tensor_dim(b->ids, 1), width);
    int found = 0;
    for (int64_t row = 0; row < tensor_dim(b->ids, 0); row++)
        found += is_row(b, row, ids, labels);
    if (found == 1)
        return;
    for (int64_t i = 0; i < tensor_numel(b->ids); i++)
        print_message("%s%d/%d", i % width ? " " : "\n# ", tensor_i32(b->ids)[i], tensor_i32(b->labels)[i]);
    print_message("\n");
    fail_msg("%d rows are the one that begins with %d", found, ids[0]);
}

/* ---- Labels ---------------------------------------------------------------------------------- */

/* A label for each byte of a completion, at the place before it; the last byte is predicted alone. */
static void test_bytes(void **state)
{
    (void)state;
    const char *path = write_lines("a.jsonl", "{\"prompt\": \"ab\", \"completion\": \"cde\"}\n"
                                              "{\"completion\": \"z\", \"prompt\": \"xy\"}\n"
                                              "{\"prompt\": \"\", \"completion\": \"mno\"}\n"
                                              "{\"prompt\": \"\\u00e9\", \"completion\": \"\\u0000\\n\"}\n");
    PairsOptions o = all_of();
    Loader *loader = data_pairs(path, &o);
    const Batch *b = batch_of(loader);
    assert_int_equal(data_samples(loader), 4);
    assert_int_equal(data_classes(loader), 256);
    assert_int_equal(tensor_dim(b->ids, 0), 4);
    assert_row(b, 4, (int32_t[]){'a', 'b', 'c', 'd'}, (int32_t[]){NONE, 'c', 'd', 'e'});
    assert_row(b, 4, (int32_t[]){'x', 'y', 'z', 0}, (int32_t[]){NONE, 'z', NONE, NONE});
    assert_row(b, 4, (int32_t[]){'m', 'n', 'o', 0}, (int32_t[]){'n', 'o', NONE, NONE});
    assert_row(b, 4, (int32_t[]){0xC3, 0xA9, 0, '\n'}, (int32_t[]){NONE, 0, '\n', NONE});
    assert_int_equal(b->labels_counted, 3 + 1 + 2 + 2);
    assert_int_equal(b->labels_total, 8);
    assert_int_equal(data_step_labels(loader), 8);
}

static void test_ids(void **state)
{
    (void)state;
    const char *path =
        write_lines("a.jsonl", "{\"ids\": [5, 6, 7, 8], \"labels\": [-100, -100, 7, 9]}\n"
                               "{\"ids\": [1, 2, 3]}\n"
                               "{\"input_ids\": [299, 4, 0], \"labels\": [299, -100, 0]}\n"
                               "{\"labels\": [3, 4, -100, 4, -100], \"input_ids\": [9, 8, 7, 6, 5]}\n");
    PairsOptions o = all_of();
    o.vocab = 300;
    Loader *loader = data_pairs(path, &o);
    const Batch *b = batch_of(loader);
    assert_int_equal(data_classes(loader), 300);
    assert_row(b, 4, (int32_t[]){5, 6, 7, 8}, (int32_t[]){NONE, 7, 9, NONE});
    assert_row(b, 4, (int32_t[]){1, 2, 3, 0}, (int32_t[]){2, 3, NONE, NONE});
    assert_row(b, 4, (int32_t[]){299, 4, 0, 0}, (int32_t[]){NONE, 0, NONE, NONE});
    assert_row(b, 4, (int32_t[]){9, 8, 7, 6}, (int32_t[]){4, NONE, 4, NONE});
    assert_int_equal(b->labels_counted, 2 + 2 + 1 + 2);
}

/* The ids of a text and its labels, worked out here: those from `first` on, shifted by one place. */
static void assert_tokens(const char *tokenizer, const char *line, const char *text, int special, int first,
                          int end)
{
    int32_t ids[64], labels[64];
    TokenIds all = {0};
    Tokenizer *t = tokenizer_read(tokenizer);
    PairsOptions o = all_of();
    o.tokenizer = t;
    assert_int_equal(tokenizer_encode(t, text, strlen(text), special, &all), 0);
    assert_in_range(all.count, 2, 63);
    for (size_t i = 0; i < all.count; i++) {
        ids[i] = all.ids[i];
        if (i)
            labels[i - 1] = (int)i >= first ? all.ids[i] : NONE;
    }
    Loader *loader = data_pairs(write_lines("a.jsonl", line), &o);
    assert_row(batch_of(loader), (int64_t)all.count - 1, ids, labels);
    if (end >= 0)
        assert_int_equal(ids[all.count - 1], end);
    loader_free(loader);
    tokenizer_ids_free(t, &all);
    tokenizer_free(t);
}

static int count_of(const char *tokenizer, const char *text, int special)
{
    TokenIds all = {0};
    Tokenizer *t = tokenizer_read(tokenizer);
    assert_int_equal(tokenizer_encode(t, text, strlen(text), special, &all), 0);
    int count = (int)all.count;
    tokenizer_ids_free(t, &all);
    tokenizer_free(t);
    return count;
}

/* One text, the end token behind it, what stands before and after once. */
static void test_tokenizers(void **state)
{
    (void)state;
    static const char *const line = "{\"prompt\": \"the cat\", \"completion\": \" sat on it\"}\n";
    int gpt2 = count_of(FIXTURES "gpt2.json", "the cat", 0),
        llama = count_of(FIXTURES "llama2.json", "the cat", 1);
    assert_tokens(FIXTURES "gpt2.json", line, "the cat sat on it<|endoftext|>", 0, gpt2, 0);
    assert_tokens(FIXTURES "llama2.json", line, "the cat sat on it</s>", 1, llama, 2);
    /* the end token stands there already; so does the first one */
    assert_tokens(FIXTURES "llama2.json", "{\"prompt\": \"the cat\", \"completion\": \" sat</s>\"}",
                  "the cat sat</s>", 1, llama, 2);
    assert_tokens(FIXTURES "llama2.json", "{\"prompt\": \"<s>the cat\", \"completion\": \" sat\"}",
                  "<s>the cat sat</s>", 0, llama, 2);
    /* a tokenizer that ends texts itself ends them once */
    int roberta = count_of(FIXTURES "roberta.json", "the cat", 0) + 1;
    assert_tokens(FIXTURES "roberta.json", line, "the cat sat on it", 1, roberta, 0);
    /* nothing but the end is learned from an empty completion; all but the first from an empty prompt */
    assert_tokens(FIXTURES "gpt2.json", "{\"prompt\": \"the cat\", \"completion\": \"\"}",
                  "the cat<|endoftext|>", 0, gpt2, 0);
    assert_tokens(FIXTURES "gpt2.json", "{\"prompt\": \"\", \"completion\": \"the cat\"}",
                  "the cat<|endoftext|>", 0, 1, 0);
    assert_tokens(FIXTURES "llama2.json", "{\"prompt\": \"\", \"completion\": \"cat\"}", "cat</s>", 1, 1, 2);
}

/* "on " alone ends with a token that "on the" does not have: that word is the completion's. */
static void test_token_over_the_boundary(void **state)
{
    (void)state;
    TokenIds alone = {0}, whole = {0};
    Tokenizer *t = tokenizer_read(FIXTURES "gpt2.json");
    assert_int_equal(tokenizer_encode(t, "on ", 3, 0, &alone), 0);
    assert_int_equal(tokenizer_encode(t, "on the mat", 10, 0, &whole), 0);
    size_t same = 0;
    while (same < alone.count && alone.ids[same] == whole.ids[same])
        same++;
    assert_true(same < alone.count && same > 0); /* else this tests nothing */
    PairsOptions o = all_of();
    o.tokenizer = t;
    Loader *loader =
        data_pairs(write_lines("a.jsonl", "{\"prompt\": \"on \", \"completion\": \"the mat\"}\n"), &o);
    const Batch *b = batch_of(loader);
    const int32_t *labels = tensor_i32(b->labels);
    assert_int_equal(b->labels_counted, whole.count + 1 - same);
    assert_int_equal(labels[same - 1], whole.ids[same]);
    if (same > 1)
        assert_int_equal(labels[same - 2], NONE);
    assert_non_null(strstr(data_note(loader), "1 prompt ends within a token"));
    tokenizer_ids_free(t, &alone);
    tokenizer_ids_free(t, &whole);
}

static void test_end_token(void **state)
{
    (void)state;
    const char *path = write_lines("a.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n");
    Tokenizer *t = tokenizer_read(FIXTURES "llama2.json");
    PairsOptions o = all_of();
    o.tokenizer = t;
    static const struct {
        const char *eos;
        int32_t last;
    } cases[] = {{NULL, 2}, {"</s>", 2}, {"<unk>", 0}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        o.eos = cases[i].eos;
        Loader *loader = data_pairs(path, &o);
        const Batch *b = batch_of(loader);
        assert_int_equal(tensor_i32(b->labels)[tensor_numel(b->labels) - 1], cases[i].last);
        loader_free(loader);
    }
    o.eos = "";
    Loader *loader = data_pairs(path, &o);
    const Batch *b = batch_of(loader);
    assert_int_not_equal(tensor_i32(b->labels)[tensor_numel(b->labels) - 1], 2);
    o.eos = "<end>";
    assert_null(data_pairs(path, &o));
    assert_error(ERROR_ARGUMENT, "data_pairs: eos is \"<end>\", which is no token of the tokenizer");
    o.tokenizer = NULL;
    assert_null(data_pairs(path, &o));
    assert_error(ERROR_ARGUMENT, "eos is \"<end>\"");
}

/* ---- Lines that are refused ------------------------------------------------------------------ */

typedef struct Bad {
    const char *line, *says, *todo;
} Bad;

#define P "\"prompt\": \"a\", "
static const Bad bad[] = {
    /* forms of other tools */
    {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}",
     "has a field \"messages\", which is a conversation",
     "tok.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)"},
    {"{\"conversations\": []}", "\"conversations\", which is a conversation",
     "apply the model's chat template"},
    {"{\"prompt\": [{\"role\": \"user\"}], \"completion\": \"b\"}",
     "has a field \"prompt\" that is a conversation", "apply the model's chat template"},
    {"{" P "\"completion\": [{\"role\": \"assistant\"}]}",
     "has a field \"completion\" that is a conversation", ""},
    {"{\"instruction\": \"a\", \"input\": \"\", \"output\": \"b\"}",
     "\"instruction\", which is an instruction", "write the text that the model is to see as \"prompt\""},
    {"{" P "\"chosen\": \"b\", \"rejected\": \"c\"}", "\"chosen\", which is a preference",
     "give \"chosen\" as \"completion\""},
    {"{\"text\": \"a\"}", "\"text\", which is a text without a prompt",
     "{\"prompt\": \"\", \"completion\": \"…\"}"},
    {"{" P "\"response\": \"b\"}", "\"response\", which is a completion of another name",
     "call it \"completion\""},
    {"{\"question\": \"a\", \"answer\": \"b\"}", "\"question\", which is a prompt of another name",
     "call it \"prompt\""},
    {"{\"input_ids\": [1, 2], \"attention_mask\": [1, 1]}", "\"attention_mask\", which is not read", "jq -c"},
    {"{\"input_ids\": [1, 2], \"completion_mask\": [0, 1]}", "\"completion_mask\", which is not read",
     "give \"labels\""},
    {"{\"id\": 7, " P "\"completion\": \"b\"}", "has a field \"id\", which is not read: leave it out",
     "jq -c '{prompt, completion}'"},
    {"{\"a\\u001b[2J\": 7}", "has a field \"a?[2J\"", ""},
    /* fields that are missing, too many, or of another type */
    {"{}", "has neither \"prompt\" and \"completion\" nor \"ids\"", ""},
    {"{\"prompt\": \"a\"}", "has a \"prompt\" and no \"completion\"", "nothing to learn"},
    {"{\"completion\": \"a\"}", "has a \"completion\" and no \"prompt\"", "\"prompt\": \"\""},
    {"{\"labels\": [1, 2]}", "has \"labels\" and no \"ids\"", ""},
    {"{\"prompt\": \"a\", \"ids\": [1, 2]}", "has \"prompt\" and \"ids\"", "either texts or ids"},
    {"{\"completion\": \"a\", \"labels\": [1, 2]}", "has \"completion\" and \"labels\"", ""},
    {"{\"ids\": [1, 2], \"input_ids\": [1, 2]}", "has both \"ids\" and \"input_ids\"", ""},
    {"{\"prompt\": 5, \"completion\": \"a\"}", "has a number as \"prompt\", which must be a text", ""},
    {"{\"prompt\": 5.5, \"completion\": \"a\"}", "has a number as \"prompt\"", ""},
    {"{" P "\"completion\": null}", "has null as \"completion\"", ""},
    {"{" P "\"completion\": true}", "has true as \"completion\"", ""},
    {"{" P "\"completion\": false}", "has false as \"completion\"", ""},
    {"{" P "\"completion\": {}}", "has an object as \"completion\"", ""},
    {"{" P "\"completion\": [1]}", "has a list as \"completion\"", "must be a text"},
    {"{\"ids\": \"1 2\"}", "has a text as \"ids\", which must be a list of whole numbers", ""},
    {"{\"ids\": [1, 2], \"labels\": 5}", "has a number as \"labels\"", ""},
    {"{\"ids\": [1, 2], \"labels\": null}", "has null as \"labels\"", ""},
    /* values that will not do */
    {"{" P "\"completion\": \"\"}", "has an empty \"completion\"", "nothing to learn"},
    {"{\"prompt\": \"\", \"completion\": \"\"}", "has an empty \"completion\"", ""},
    {"{\"prompt\": \"\", \"completion\": \"a\"}", "has 1 token and none to predict", ""},
    {"{\"ids\": []}", "has 0 ids: a sample needs two", ""},
    {"{\"ids\": [1]}", "has 1 id: a sample needs two", ""},
    {"{\"ids\": [1, 2, 3], \"labels\": [1, 2]}", "has 3 ids and 2 labels", "-100"},
    {"{\"ids\": [1, 2], \"labels\": []}", "has 2 ids and 0 labels", ""},
    {"{\"ids\": [1, 2, 3], \"labels\": [1, -100, -100]}", "has no label that counts", ""},
    {"{\"ids\": [1, 256]}", "has 256 as ids[1]; the vocabulary has 256, so it must be 0 to 255", "--vocab"},
    {"{\"ids\": [-100, 2]}", "has -100 as ids[0]", "must be 0 to 255: give"},
    {"{\"ids\": [9223372036854775807, 2]}", "has 9223372036854775807 as ids[0]", ""},
    {"{\"ids\": [1, 2], \"labels\": [1, 300]}", "has 300 as labels[1]", "or -100 for none"},
    {"{\"ids\": [1, 2], \"labels\": [-1, 2]}", "has -1 as labels[0]", ""},
    {"{\"ids\": [1, 2.0]}", "has a number as ids[1], which must be a whole number", ""},
    {"{\"ids\": [1, \"2\"]}", "has a text as ids[1]", ""},
    {"{\"ids\": [[1, 2]]}", "has 1 id", ""},
    {"{\"ids\": [[1], [2]]}", "has a list as ids[0]", ""},
    /* no JSON */
    {"prompt,completion", "is not JSON", "one object a line is read"},
    {"{" P "\"completion\": \"b\"", "is not JSON", "at character"},
    {"{" P "\"completion\": \"b\"} {}", "is not JSON", ""},
    {"{" P "\"completion\": \"b\",}", "is not JSON", ""},
    {"{'prompt': 'a', 'completion': 'b'}", "is not JSON", ""},
    {"{" P P "\"completion\": \"b\"}", "is not JSON", "duplicate object key"},
    {"{\"ids\": [1, 2], \"ids\": [1, 2]}", "is not JSON", "duplicate object key"},
    {"{\"ids\": [1, 99999999999999999999]}", "is not JSON", "too big integer"},
    {"{" P "\"completion\": \"\xff\xfe\"}", "is not UTF-8 at byte 31 (0xFF)", "--invalid-utf8 replace"},
    {"{" P "\"completion\": \"\\ud800\"}", "is not JSON", "Unicode"},
    {"{" P "\"completion\": \"a\tb\"}", "is not JSON", "control character"},
    {"{\"a\\u0000b\": 1}", "is not JSON", "NUL byte"},
    {"{", "is not a whole object; one object a line is read", "jq -c . FILE"},
    {"[", "begins a list; one object a line is read", "jq -c '.[]' FILE"},
    {"[{" P "\"completion\": \"b\"}]", "begins a list", ""},
    {"5", "is not JSON", ""},
    {"\"a\"", "is not JSON", ""},
    {"null", "is not JSON", ""},
};

static void test_bad_lines(void **state)
{
    (void)state;
    static const char good[] = "{\"prompt\": \"a\", \"completion\": \"b\"}\n\n";
    char text[1024];
    PairsOptions o = all_of();
    for (size_t i = 0; i < COUNT(bad); i++)
        for (int third = 0; third < 2; third++) {
            const char *number = third ? "bad.jsonl: line 3 " : "bad.jsonl: line 1 ";
            snprintf(text, sizeof text, "%s%s\n%s", third ? good : "", bad[i].line, good);
            const char *path = write_lines("bad.jsonl", text);
            if (data_pairs(path, &o))
                fail_msg("accepted: %s", bad[i].line);
            assert_error(ERROR_DATA, number, bad[i].says, bad[i].todo);
            assert_null(data_pairs_lengths(path, &o));
            assert_error(ERROR_DATA, number, bad[i].says, bad[i].todo);
        }
}

/* Of the part that is read; a plan reads all, so what is held out is looked at before step 1 too. */
static void test_bad_line_held_out(void **state)
{
    (void)state;
    const char *path = write_lines("bad.jsonl", "{\"ids\": [1, 2]}\n{\"ids\": [3, 4]}\n{\"ids\": 7}\n");
    assert_non_null(data_pairs(path, NULL));
    assert_null(data_pairs(path, &(PairsOptions){.split = DATA_HELD_OUT}));
    assert_error(ERROR_DATA, "line 3 has a number as \"ids\"");
    Context *outside = context_use(context_create(&(ContextOptions){.meta = 1}));
    assert_null(data_pairs(path, NULL));
    assert_error(ERROR_DATA, "line 3 has a number as \"ids\"");
    context_destroy(context_use(outside));
}

static void test_deep_and_long_lines(void **state)
{
    (void)state;
    enum { DEEP = 5000, LONG = 9 << 20 };
    static char text[LONG + 100];
    PairsOptions o = all_of();
    int used = sprintf(text, "{\"prompt\": ");
    memset(text + used, '[', DEEP);
    assert_null(data_pairs(write_file("deep.jsonl", text, (size_t)(used + DEEP)), &o));
    assert_error(ERROR_DATA, "line 1 is not JSON", "depth");
    used = sprintf(text, "{\"ids\": [1, 2]}\n{\"prompt\": \"");
    memset(text + used, 'x', LONG);
    assert_null(data_pairs(write_file("long.jsonl", text, sizeof text - 1), &o));
    assert_error(ERROR_DATA, "long.jsonl: line 2 has more than 8 MiB; a line is one sample");
    /* one below the limit is fine */
    enum { FINE = 3 << 20 };
    sprintf(text + used + FINE, "\", \"completion\": \"y\"}\n{\"ids\": [4, 5]}");
    o.max_samples = 3;
    o.seq = 4;
    Loader *loader = data_pairs(write_file("fine.jsonl", text, strlen(text)), &o);
    assert_non_null(loader);
    assert_int_equal(data_samples(loader), 2);
    assert_non_null(strstr(data_note(loader), "1 whose completion begins behind --seq 4 is left out"));
}

static void test_invalid_utf8(void **state)
{
    (void)state;
    const char *path = write_lines("a.jsonl", "{\"prompt\": \"a\xe9\", \"completion\": \"b\"}\n");
    PairsOptions o = all_of();
    assert_null(data_pairs(path, &o));
    assert_error(ERROR_DATA, "line 1 is not UTF-8 at byte 13 (0xE9)", "iconv -f LATIN1");
    o.replace_invalid = 1;
    const Batch *b = batch_of(data_pairs(path, &o));
    assert_row(b, 4, (int32_t[]){'a', 0xEF, 0xBF, 0xBD}, (int32_t[]){NONE, NONE, NONE, 'b'});
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void assert_two(const char *path, const TextInput *input)
{
    PairsOptions o = all_of();
    o.input = input;
    Loader *loader = data_pairs(path, &o);
    const Batch *b = batch_of(loader);
    assert_int_equal(data_samples(loader), 2);
    assert_row(b, 3, (int32_t[]){'a', 'b', 'c'}, (int32_t[]){NONE, 'c', 'd'});
    assert_row(b, 3, (int32_t[]){'e', 'f', 0}, (int32_t[]){'f', NONE, NONE});
    loader_free(loader);
}

#define TWO  "{\"prompt\": \"ab\", \"completion\": \"cd\"}"
#define TWO2 "{\"prompt\": \"e\", \"completion\": \"f\"}"

static void test_files(void **state)
{
    (void)state;
    static const char *const texts[] = {
        TWO "\n" TWO2 "\n",
        TWO "\n" TWO2,
        TWO "\r\n" TWO2 "\r\n",
        "\xef\xbb\xbf" TWO "\n" TWO2 "\n",
        "\n \t\r\n" TWO "\n\n\n" TWO2 "\n\n",
        "  " TWO "  \n\t" TWO2 "\t\n",
    };
    for (size_t i = 0; i < COUNT(texts); i++)
        assert_two(write_lines("two.jsonl", texts[i]), NULL);
    gzFile gz = gzopen(path_of("two.gz"), "wb");
    gzputs(gz, texts[3]);
    gzclose(gz);
    assert_two(path_of("two.gz"), NULL);
    mkdir(path_of("two"), 0700);
    write_lines("two/1.txt", TWO);
    write_lines("two/2.txt", TWO2);
    assert_two(path_of("two"), NULL);
    TextInput *input = text_input_read(path_of("two.gz"));
    assert_two("any name", input);
    text_input_free(input);
    assert_int_equal(mkfifo(path_of("pipe"), 0600), 0);
    assert_null(data_pairs(path_of("pipe"), NULL));
    assert_error(ERROR_ARGUMENT, "is a pipe, which can be read once");
}

static void test_other_files(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
        int code;
    } cases[] = {
        {"", "is empty", ERROR_DATA},
        {"\n\n \n", "is empty", ERROR_DATA},
        {"\xef\xbb\xbf", "is empty", ERROR_DATA},
        {"PAR1 and more of it", "is a Parquet file, not JSON lines", ERROR_DATA},
        {"\xff\xfe{\0}\0", "is text in UTF-16, not JSON lines", ERROR_DATA},
        {"a,b\n1,2\n3,4\n5,6\n", "line 1 is not JSON", ERROR_DATA},
        {"The cat sat on the mat.\n", "line 1 is not JSON", ERROR_DATA},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_null(data_pairs(write_lines("other.jsonl", cases[i].text), &(PairsOptions){.held_out = -1}));
        assert_error(cases[i].code, "other.jsonl", cases[i].says);
    }
    assert_null(data_pairs(path_of("absent.jsonl"), NULL));
    assert_error(ERROR_FILE, "absent.jsonl: cannot open");
    assert_null(data_pairs(write_lines("one.jsonl", TWO), &(PairsOptions){.split = DATA_HELD_OUT}));
    assert_error(ERROR_DATA, "one.jsonl has 1 sample; one is held out");
}

/* Told by one field of the first line, however long that is. */
static void test_told_by_content(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int pairs;
    } cases[] = {
        {TWO "\n", 1},
        {"\xef\xbb\xbf" TWO, 1},
        {"  {\t\"prompt\"  : 5", 1},
        {"{\"id\": {\"ids\": [\"]\", \"}\"]}, \"a\\\"b\": \"\\\\\", \"completion\": \"b\"}", 1},
        {"{\"messages\": [", 1},
        {"{\"conversations\": [", 1},
        {"{\"instruction\": \"", 1},
        {"{\"input_ids\": [1", 1},
        {"{\"ids\": [1", 1},
        {"{\"text\": \"prompt\"}", 0},
        {"{\"text\": {\"prompt\": \"a\"}}", 0},
        {"{\"prompts\": \"a\"}", 0},
        {"{\"a\": \"\\\"prompt\\\": \"}", 0},
        {"{\"prompt\"", 0},
        {"{\"prompt", 0},
        {"{", 0},
        {"{\n\"prompt\": \"a\"}", 0},
        {"[{\"prompt\": \"a\"}]", 0},
        {"prompt\": ", 0},
        {"", 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const FileKind *kind =
            file_kind((const uint8_t *)cases[i].text, strlen(cases[i].text), strlen(cases[i].text), 1);
        if ((kind && kind->file_class == FILE_PAIRS) != cases[i].pairs)
            fail_msg("%s: %s", cases[i].text, kind ? kind->what : "nothing that is known");
    }
}

static void test_bad_options(void **state)
{
    (void)state;
    const char *path = write_lines("a.jsonl", TWO "\n" TWO2);
    static const struct {
        PairsOptions o;
        const char *says;
    } cases[] = {
        {{.batch = -1}, "batch is -1"},
        {{.accumulate = -1}, "accumulate is -1"},
        {{.seq = -1}, "seq is -1"},
        {{.max_samples = -1}, "max_samples is -1"},
        {{.held_out = 1}, "held_out is 1"},
        {{.split = (DataSplit)7}, "split is 7"},
        {{.split = DATA_HELD_OUT, .held_out = -1}, "which holds nothing out"},
        {{.vocab = -1}, "vocab is -1"},
        {{.vocab = (int64_t)1 << 40}, "vocab is 1099511627776"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_null(data_pairs(path, &cases[i].o));
        assert_error(ERROR_ARGUMENT, cases[i].says);
    }
    assert_null(data_pairs(NULL, NULL));
    assert_error(ERROR_ARGUMENT, "path is NULL");
    Tokenizer *t = tokenizer_read(FIXTURES "gpt2.json");
    assert_null(data_pairs(path, &(PairsOptions){.tokenizer = t, .vocab = 300}));
    assert_error(ERROR_ARGUMENT, "vocab is 300; it must be 420 to ");
    Context *outside = context_use(context_create(NULL));
    assert_null(data_pairs(path, &(PairsOptions){.tokenizer = t}));
    assert_error(ERROR_STATE, "this tokenizer was read in another context");
    context_destroy(context_use(outside));
    data_pairs_lengths_free(NULL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(test_bytes),
        TEST(test_ids),
        TEST(test_tokenizers),
        TEST(test_token_over_the_boundary),
        TEST(test_end_token),
        TEST(test_bad_lines),
        TEST(test_bad_line_held_out),
        TEST(test_deep_and_long_lines),
        TEST(test_invalid_utf8),
        TEST(test_files),
        TEST(test_other_files),
        TEST(test_told_by_content),
        TEST(test_bad_options),
    };
    return cmocka_run_group_tests_name("data_pairs", tests, make_directory, remove_directory);
}
