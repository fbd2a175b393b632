/* Texts and labels as data: what a table becomes in ids, mask, types and classes, and everything that is
 * refused.
 */
#include <zlib.h>

#include "../base/file_.h"
#include "../text/tokenizer_.h"
#include "test_data_.h"

#define FIXTURES "tests/tokenizers/fixtures/"

static const char *write_text(const char *name, const char *text)
{
    return write_file(name, text, strlen(text));
}

/* Of all samples, in rows of so many. */
static CsvOptions all_of(int seq)
{
    return (CsvOptions){.batch = 64, .seq = seq, .held_out = -1};
}

static const Batch *batch_of(Loader *loader)
{
    const Batch *b = data_next(loader);
    if (!b)
        fail_msg("no batch: %s", error_message());
    return b;
}

/* One row of the batch, which are shuffled, is this text between its tokens, padded, of this class. */
static void assert_text(const Batch *b, const char *text, int label)
{
    int64_t width = tensor_dim(b->ids, 1);
    int found = 0;
    for (int64_t row = 0; row < tensor_dim(b->ids, 0); row++) {
        const int32_t *ids = tensor_i32(b->ids) + row * width, *mask = tensor_i32(b->mask) + row * width;
        int64_t n = (int64_t)strlen(text), good = ids[0] == TOKEN_CLS && ids[n + 1] == TOKEN_SEP;
        for (int64_t i = 0; i < n; i++)
            good = good && ids[i + 1] == (unsigned char)text[i];
        for (int64_t i = 0; i < width; i++)
            good = good && mask[i] == (i < n + 2) && (i < n + 2 || ids[i] == TOKEN_PAD);
        found += good && tensor_i32(b->labels)[row] == label;
    }
    if (found != 1)
        fail_msg("%d rows are \"%s\" with the label %d", found, text, label);
}

static void assert_names(const DataLabels *labels, const char *const *names, int64_t count)
{
    assert_int_equal(data_labels_count(labels), count);
    for (int64_t i = 0; i < count && names; i++)
        assert_string_equal(data_labels_name(labels, i), names[i]);
    if (!names)
        assert_null(data_labels_names(labels));
    assert_null(data_labels_name(labels, count));
    assert_null(data_labels_name(labels, -1));
}

/* ---- Tables ---------------------------------------------------------------------------------- */

static void test_fields(void **state)
{
    (void)state;
    static const char *const tables[] = {
        "text,label\nab,1\n\"c,d\",0\n\"e\"\"f\",1\n\"g\nh\",0\n\"\",1\n",
        "\xef\xbb\xbftext,label\r\nab,1\r\n\"c,d\",0\r\n\"e\"\"f\",1\r\n\"g\nh\",0\r\n\r\n,1\r\n\r\n",
        "Label, idx ,\"SENTENCE\"\r1,9,ab\r0,9,\"c,d\"\r1,,\"e\"\"f\"\r0,9,\"g\nh\"\r1,9,\"\"",
        "sentence1,label\nab,1.0\n\"c,d\",0.0\n\"e\"\"f\",1\n\"g\nh\", 0\t\n\"\",+1\n",
    };
    for (size_t i = 0; i < COUNT(tables); i++) {
        CsvOptions o = all_of(6);
        Loader *loader = data_csv(write_text("a.csv", tables[i]), &o);
        const Batch *b = batch_of(loader);
        assert_int_equal(data_samples(loader), 5);
        assert_int_equal(data_classes(loader), 2);
        assert_int_equal(tensor_shape(b->labels).ndim, 1);
        assert_null(b->types);
        assert_text(b, "ab", 1);
        assert_text(b, "c,d", 0);
        assert_text(b, "e\"f", 1);
        assert_text(b, "g\nh", 0);
        assert_text(b, "", 1);
        assert_int_equal(b->labels_counted, 5);
        assert_int_equal(b->labels_total, 5);
        assert_int_equal(data_step_tokens(loader), 30);
        if (i == 2)
            assert_non_null(strstr(data_note(loader), "not read: \"idx\""));
    }
}

static void test_tabs(void **state)
{
    (void)state;
    CsvOptions o = all_of(8);
    Loader *loader = data_csv(write_text("a.tsv", "label\tsentence\nx\ta, b\nw\t\"c\td\"\ny\te\"f\n"), &o);
    const Batch *b = batch_of(loader);
    assert_int_equal(data_classes(loader), 3);
    assert_text(b, "a, b", 1);
    assert_text(b, "c\td", 0);
    assert_text(b, "e\"f", 2);
}

/* A gzip file is decoded; the name that it has without .gz says what separates fields. */
static void test_packed(void **state)
{
    (void)state;
    const char *path = path_of("a.tsv.gz");
    gzFile gz = gzopen(path, "wb");
    gzputs(gz, "text\tlabel\nab\t0\ncd\t1\n");
    gzclose(gz);
    CsvOptions o = all_of(8);
    Loader *loader = data_csv(path, &o);
    assert_text(batch_of(loader), "cd", 1);
    o.input = text_input_read(path);
    Loader *again = data_csv(path, &o);
    assert_text(batch_of(again), "ab", 0);
    loader_free(again);
    text_input_free((TextInput *)(uintptr_t)o.input);
}

static void test_cut(void **state)
{
    (void)state;
    CsvOptions o = all_of(5);
    Loader *loader = data_csv(write_text("a.csv", "text,label\nabcdef,0\nab,1\n"), &o);
    const Batch *b = batch_of(loader);
    assert_text(b, "abc", 0);
    assert_text(b, "ab", 1);
    assert_non_null(strstr(data_note(loader),
                           "a.csv: 2 samples of 4 to 8 tokens and 2 classes; 50 % are 0; 1 longer "
                           "than --seq 5 is cut at the end"));
}

/* ---- Two texts ------------------------------------------------------------------------------- */

/* What is left of a and b tokens is what the Python package's longest_first leaves. */
static void test_longest_first(void **state)
{
    (void)state;
    static const size_t cases[][5] = {{3, 4, 7, 3, 4},  {3, 9, 7, 3, 4},  {9, 3, 7, 4, 3}, {9, 9, 7, 3, 4},
                                      {9, 10, 7, 3, 4}, {10, 9, 7, 4, 3}, {4, 4, 7, 3, 4}, {0, 9, 7, 0, 7},
                                      {9, 0, 7, 7, 0},  {1, 9, 2, 1, 1},  {9, 9, 1, 0, 1}, {5, 5, 0, 0, 0},
                                      {2, 3, 9, 2, 3},  {8, 3, 6, 3, 3},  {3, 8, 6, 3, 3}, {4, 8, 7, 3, 4}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t a = cases[i][0], b = cases[i][1];
        tokenizer_cut_longest(&a, &b, cases[i][2]);
        if (a != cases[i][3] || b != cases[i][4])
            fail_msg("%zu and %zu in %zu: %zu and %zu", cases[i][0], cases[i][1], cases[i][2], a, b);
    }
}

static void test_pairs_of_bytes(void **state)
{
    (void)state;
    CsvOptions o = all_of(8);
    Loader *loader = data_csv(write_text("a.csv", "sentence2,label,sentence1\nxyzxyz,3,ab\n"), &o);
    /* one label alone is refused, but not of a model that has classes */
    assert_null(loader);
    assert_error(ERROR_DATA, "every sample has the label \"3\"");
    o.classes = 4;
    loader = data_csv(path_of("a.csv"), &o);
    const Batch *b = batch_of(loader);
    static const int32_t ids[] = {TOKEN_CLS, 'a', 'b', TOKEN_SEP, 'x', 'y', 'z', TOKEN_SEP};
    static const int32_t types[] = {0, 0, 0, 0, 1, 1, 1, 1};
    assert_memory_equal(tensor_i32(b->ids), ids, sizeof ids);
    assert_memory_equal(tensor_i32(b->types), types, sizeof types);
    assert_int_equal(tensor_i32(b->labels)[0], 3);
    assert_int_equal(data_classes(loader), 4);
}

/* A padded row has its types up to its end. */
static void check_tokens(const char *tokenizer, const char *text, const int32_t *wanted, int64_t count,
                         int64_t zeros)
{
    CsvOptions o = all_of(16);
    o.classes = 2;
    o.tokenizer = tokenizer_read(tokenizer);
    Loader *loader = data_csv(write_text("a.csv", text), &o);
    const Batch *b = batch_of(loader);
    assert_int_equal(b->types != NULL, zeros >= 0);
    for (int64_t i = 0; i < 16; i++) {
        if (i < count)
            assert_int_equal(tensor_i32(b->ids)[i], wanted[i]);
        assert_int_equal(tensor_i32(b->mask)[i], i < count);
        if (b->types)
            assert_int_equal(tensor_i32(b->types)[i], i >= zeros && i < count);
    }
}

/* [CLS] a [SEP] b [SEP] with types, and RoBERTa's, with its separator twice between them, without. */
static void test_pairs_of_tokens(void **state)
{
    (void)state;
    static const struct {
        const char *file, *cls, *sep;
        int twice;
    } kinds[] = {{FIXTURES "bert.json", "[CLS]", "[SEP]", 0},
                 {FIXTURES "roberta.json", "a", "<|endoftext|>", 1}};
    for (size_t k = 0; k < COUNT(kinds); k++) {
        int32_t wanted[16];
        int64_t n = 0, zeros;
        TokenIds a = {0}, b = {0};
        Tokenizer *t = tokenizer_read(kinds[k].file);
        int32_t cls = tokenizer_id(t, kinds[k].cls), sep = tokenizer_id(t, kinds[k].sep);
        assert_int_equal(tokenizer_encode(t, "the", 3, 0, &a), 0);
        assert_int_equal(tokenizer_encode(t, "a b", 3, 0, &b), 0);
        assert_in_range(a.count + b.count, 2, 11);
        wanted[n++] = cls;
        for (size_t i = 0; i < a.count; i++)
            wanted[n++] = a.ids[i];
        wanted[n++] = sep;
        check_tokens(kinds[k].file, "text,label\nthe,1\n", wanted, n, -1);
        zeros = n;
        if (kinds[k].twice)
            wanted[n++] = sep;
        for (size_t i = 0; i < b.count; i++)
            wanted[n++] = b.ids[i];
        wanted[n++] = sep;
        check_tokens(kinds[k].file, "sentence1,sentence2,label\nthe,a b,1\n", wanted, n,
                     kinds[k].twice ? -1 : zeros);
        tokenizer_ids_free(t, &a);
        tokenizer_ids_free(t, &b);
    }
}

/* A tokenizer that says nothing of pairs makes none, and single texts as before. */
static void test_templates(void **state)
{
    (void)state;
    static const char before[] =
        "{\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"u\",\"vocab\":{\"u\":0,\"a\":1,\"b\":2,"
        "\"s\":3,\"t\":4}},\"pre_tokenizer\":{\"type\":\"Whitespace\"}";
    static const struct {
        const char *post;
        int known;
    } cases[] = {
        {"", 1},
        {",\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"s\",3],\"cls\":[\"t\",4]}", 1},
        {",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\","
         "\"type_id\":0}}],"
         "\"pair\":[],\"special_tokens\":{}}",
         0},
        {",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\","
         "\"type_id\":0}}],"
         "\"pair\":[{\"Sequence\":{\"id\":\"B\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":1}}],"
         "\"special_tokens\":{}}",
         0},
        {",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\","
         "\"type_id\":0}}],"
         "\"pair\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":1}},{\"Sequence\":{\"id\":\"B\",\"type_id\":0}}],"
         "\"special_tokens\":{}}",
         0},
        {",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\","
         "\"type_id\":0}}],"
         "\"pair\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}],"
         "\"special_tokens\":{}}",
         1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[1024];
        snprintf(text, sizeof text, "%s%s}", before, cases[i].post);
        Tokenizer *t = tokenizer_read(write_text("t.json", text));
        if (!t) { /* WordLevel is not read here */
            error_clear();
            return;
        }
        CsvOptions o = all_of(12);
        o.tokenizer = t;
        assert_non_null(data_csv(write_text("one.csv", "text,label\na b,0\nb,1\n"), &o));
        Loader *loader = data_csv(write_text("two.csv", "sentence1,sentence2,label\na b,a,0\nb,b,1\n"), &o);
        assert_int_equal(loader != NULL, cases[i].known);
        if (!loader)
            assert_error(ERROR_DATA, "two.csv has two texts a sample", "post_processor");
    }
}

/* ---- Labels ---------------------------------------------------------------------------------- */

static void test_labels(void **state)
{
    (void)state;
    static const char *const names[] = {"Zebra", "apple", "\xc3\xa9tude"}, *const own[] = {"no", "yes"};
    DataLabels *labels = data_csv_labels(
        write_text("a.csv", "text,label\na,apple\nb, Zebra \nc,\xc3\xa9tude\nd,apple\n"), NULL);
    assert_names(labels, names, 3);
    assert_int_equal(data_labels_names(labels) != NULL, 1);
    data_labels_free(labels);
    labels = data_csv_labels(write_text("a.csv", "text,label\na,4\nb,1\n"), NULL);
    assert_names(labels, NULL, 5);
    data_labels_free(labels);
    labels = data_csv_labels(write_text("a.csv", "text,label\na,4\nb,none\n"), NULL); /* one is no number */
    assert_names(labels, (const char *const[]){"4", "none"}, 2);
    data_labels_free(labels);
    CsvOptions o = all_of(8);
    o.classes = 2;
    o.labels = own;
    Loader *loader = data_csv(write_text("a.csv", "text,label\na,yes\nb,0\nc,LABEL_1\n"), &o);
    const Batch *b = batch_of(loader);
    assert_text(b, "a", 1);
    assert_text(b, "b", 0);
    assert_text(b, "c", 1);
    o.labels = NULL; /* classes without names take the sorted ones, where there are as many */
    labels = data_csv_labels(write_text("a.csv", "text,label\na,x\nb,w\n"), &o);
    assert_names(labels, (const char *const[]){"w", "x"}, 2);
    data_labels_free(labels);
    labels = data_csv_labels(write_text("a.csv", "text,label\na,LABEL_1\nb,LABEL_1\n"), &o);
    assert_names(labels, NULL, 2);
    data_labels_free(labels);
    data_labels_free(NULL);
    assert_int_equal(data_labels_count(NULL), 0);
}

static void test_bad_labels(void **state)
{
    (void)state;
    static const char *const own[] = {"no", "yes"};
    static const struct {
        const char *text, *says;
        int classes, named;
    } cases[] = {
        {"text,label\na,yes\nb,maybe\n",
         "line 3 has the label \"maybe\", and the model has 2 classes, \"no\", \"yes\"", 2, 1},
        {"text,label\na,1\nb,2\n", "line 3 has the label \"2\", and the model has 2 classes numbered from 0",
         2, 0},
        {"text,label\na,x\nb,y\nc,z\n", "has the label \"x\", and the model has 2 classes", 2, 0},
        {"text,label\na,0.5\nb,1\n", "line 2 has the label \"0.5\": a number with a fraction is no class", 0,
         0},
        {"text,label\na,1\n\nb,-1\n", "line 4 has the label \"-1\": classes are numbers from 0 on", 0, 0},
        {"text,label\na,1\nb,99999999999999999999\n",
         "line 3 has the label \"99999999999999999999\": so many", 0, 0},
        {"text,label\na,1\nb,\n", "line 3 has an empty label", 0, 0},
        {"text,label\na,1\nb,\" \"\n", "line 3 has an empty label", 0, 0},
        {"text,label\na,x\nb,x\n", "every sample has the label \"x\"", 0, 0},
        {"text,label\n", "a.csv has a header and no sample", 0, 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        CsvOptions o = {.classes = cases[i].classes, .labels = cases[i].named ? own : NULL};
        assert_null(data_csv(write_text("a.csv", cases[i].text), &o));
        assert_error(ERROR_DATA, cases[i].says);
    }
    char *many = test_malloc(1 << 20);
    size_t used = (size_t)sprintf(many, "text,label\n");
    for (int i = 0; i < 16385; i++)
        used += (size_t)sprintf(many + used, "a,name of %d\n", i);
    assert_null(data_csv_labels(write_text("a.csv", many), NULL));
    assert_error(ERROR_DATA, "line 16386 has one more label after 16384 different ones");
    test_free(many);
}

/* ---- What is refused --------------------------------------------------------------------------- */

static void test_bad_tables(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "is empty: its first line names the columns"},
        {"\n\r\n", "is empty"},
        {"great film,1\n",
         "line 1 names the columns \"great film\", \"1\"; text and label must be among them"},
        {"text,stars\na,1\n", "line 1 names the columns \"text\", \"stars\"; label must be among them"},
        {"review,label\na,1\n",
         "line 1 names the columns \"review\", \"label\"; text, sentence or sentence1"},
        {"text;label\na;1\n", "of a .csv commas separate fields"},
        {"text,label,text\na,1,b\n", "line 1 names two columns for the same thing, 1 and 3"},
        {"text,sentence,label\na,b,1\n", "two columns for the same thing"},
        {"text,label\na,b,1\n",
         "line 2 has 3 fields, the header 2: a text with commas in it stands in quotes"},
        {"text,label\n\"a\n\nb\",1\nc\n", "line 5 has 1 field, the header 2"},
        {"text,label\n\"a,1\nb,2\n", "line 2 has a quote in front of field 1 that nothing closes"},
        {"text,label\na,1\n\"b\"c,2\n", "line 3 has \"c\" behind the quote that ends field 1"},
        {"text,label\na,1\nb\xff,2\n", "line 3 is not UTF-8 in field 1 (0xFF)"},
        {"text,label\na,1\nb,\xe9\n", "line 3 is not UTF-8 in field 2 (0xE9)"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        CsvOptions o = all_of(8);
        assert_null(data_csv(write_text("a.csv", cases[i].text), &o));
        assert_error(ERROR_DATA, "a.csv", cases[i].says);
    }
    CsvOptions replaces = all_of(8);
    replaces.replace_invalid = 1;
    Loader *loader = data_csv(write_text("a.csv", "text,label\na\xff,1\nb,0\n"), &replaces);
    assert_text(batch_of(loader), "a\xef\xbf\xbd", 1);
    static const char utf16[] = "\xff\xfet\0e\0x\0t\0,\0l\0a\0b\0e\0l\0\n\0";
    assert_null(data_csv(write_file("a.csv", utf16, sizeof utf16), NULL));
    assert_error(ERROR_DATA, "a.csv is ", "UTF-16");
    assert_null(data_csv(path_of("absent.csv"), NULL));
    assert_error(ERROR_FILE, "absent.csv");
    assert_null(data_csv(write_text("one.csv", "text,label\na,1\n"),
                         &(CsvOptions){.classes = 2, .split = DATA_HELD_OUT}));
    assert_error(ERROR_DATA, "one.csv has 1 sample; one is held out");
}

static void test_bad_options(void **state)
{
    (void)state;
    const char *path = write_text("a.csv", "text,label\na,0\nb,1\n");
    static const char *const twice[] = {"a", "a"};
    static const struct {
        CsvOptions o;
        const char *says;
    } cases[] = {
        {{.batch = -1}, "batch is -1"},
        {{.seq = -1}, "seq is -1"},
        {{.seq = 2},
         "--seq 2 leaves no room for a token of the text: the tokenizer puts 2 around it; --seq 3"},
        {{.accumulate = -1}, "accumulate is -1"},
        {{.max_samples = -1}, "max_samples is -1"},
        {{.held_out = 1}, "held_out is 1"},
        {{.split = (DataSplit)7}, "split is 7"},
        {{.vocab = 100}, "vocab is 100; it must be 260"},
        {{.classes = -1}, "classes is -1"},
        {{.labels = twice}, "classes is 0 beside labels"},
        {{.labels = twice, .classes = 2}, "two classes are called \"a\""},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_null(data_csv(path, &cases[i].o));
        assert_error(ERROR_ARGUMENT, cases[i].says);
    }
    assert_null(data_csv(NULL, NULL));
    assert_error(ERROR_ARGUMENT, "path is NULL");
    assert_null(data_csv_labels(NULL, NULL));
    assert_error(ERROR_ARGUMENT, "path is NULL");
    assert_null(data_csv("builtin", &(CsvOptions){.classes = 2}));
    assert_error(ERROR_ARGUMENT, "no built-in texts with labels");
    Tokenizer *t = tokenizer_read(FIXTURES "bert.json");
    Context *outside = context_use(context_create(NULL));
    assert_null(data_csv(path, &(CsvOptions){.tokenizer = t}));
    assert_error(ERROR_STATE, "this tokenizer was read in another context");
    context_destroy(context_use(outside));
    data_csv_samples_free(NULL);
}

/* ---- Parts, plans, runs ------------------------------------------------------------------------ */

static const char *forty(void)
{
    static char text[4096];
    size_t used = (size_t)sprintf(text, "sentence1,sentence2,label\n");
    for (int i = 0; i < 41; i++)
        used += (size_t)sprintf(text + used, "%.*s,\"word, %d\",%s\n", 1 + i % 9, "abcdefghi", i,
                                i % 3 ? "b" : "a");
    return write_text("forty.csv", text);
}

static void test_parts(void **state)
{
    (void)state;
    const char *path = forty();
    Loader *train = data_csv(path, &(CsvOptions){.batch = 4, .seq = 24, .seed = 5});
    Loader *held = data_csv(path, &(CsvOptions){.batch = 4, .seq = 24, .split = DATA_HELD_OUT});
    assert_int_equal(data_samples(train), 39);
    assert_int_equal(data_samples(held), 2);
    const Batch *b = batch_of(held);
    assert_int_equal(tensor_i32(b->ids)[1],
                     'a'); /* in the order of the file: lines 39 and 40, "abcd" and "abcde" */
    assert_int_equal(tensor_i32(b->mask)[4 + 1 + 1], 1);
    assert_int_equal(tensor_i32(b->labels)[0], 0);
    assert_int_equal(tensor_i32(b->labels)[1], 1);
    assert_int_equal(data_samples(data_csv(path, &(CsvOptions){.max_samples = 7})), 7);
    assert_non_null(strstr(data_note(train), "66 % are \"b\""));
    /* A file that is sorted is judged by one label. */
    char text[2048];
    size_t used = (size_t)sprintf(text, "text,label\n");
    for (int i = 0; i < 100; i++)
        used += (size_t)sprintf(text + used, "ab,%d\n", i >= 50);
    Loader *sorted = data_csv(write_text("sorted.csv", text), &(CsvOptions){.held_out = 0.2f});
    assert_non_null(strstr(data_note(sorted), "all 20 at the end that are held out have one label: shuffle"));
}

static uint64_t shapes_of(Loader *loader, int steps)
{
    uint64_t sum = 0;
    for (int step = 0; step < steps; step++)
        for (const Batch *b; (b = data_next(loader));) {
            assert_non_null(b->types);
            assert_int_equal(tensor_shape(b->mask).dim[1], tensor_shape(b->types).dim[1]);
            sum = 31 * sum + (uint64_t)(1000 * tensor_dim(b->ids, 0) + 10 * tensor_dim(b->labels, 0) +
                                        tensor_dim(b->ids, 1));
        }
    return sum;
}

/* A plan's loader has the samples, classes and shapes of the run's, from the file or from what was read
 * before. */
static void test_plan(void **state)
{
    (void)state;
    const char *path = forty();
    CsvOptions o = {.batch = 4, .seq = 17, .accumulate = 2};
    DataLabels *labels = data_csv_labels(path, &o);
    int64_t shapes[4];
    char notes[4][512];
    CsvSamples *samples = NULL;
    Context *outside = context_current();
    for (int i = 0; i < 4; i++) {
        context_use(context_create(&(ContextOptions){.threads = 1, .meta = i < 2}));
        o.known = labels;
        o.samples = i % 2 ? (samples = samples ? samples : data_csv_samples(path, &o)) : NULL;
        Loader *loader = data_csv(path, &o);
        assert_non_null(loader);
        shapes[i] = shapes_of(loader, 6) + data_samples(loader) + 100 * data_classes(loader);
        snprintf(notes[i], sizeof notes[i], "%s", data_note(loader));
        context_destroy(context_use(outside));
        assert_int_equal(shapes[i], shapes[0]);
        assert_string_equal(notes[i], notes[0]);
    }
    data_csv_samples_free(samples);
    data_labels_free(labels);
    context_use(context_create(&(ContextOptions){.threads = 1, .meta = 1}));
    Loader *loader = data_csv("builtin", &(CsvOptions){.classes = 3, .batch = 2, .seq = 9});
    const Batch *b = batch_of(loader);
    assert_int_equal(data_classes(loader), 3);
    assert_int_equal(tensor_dim(b->mask, 1), 9);
    assert_int_equal(tensor_dim(b->labels, 0), 2);
    context_destroy(context_use(outside));
}

/* The batches of two micro-batches are those of one that is twice as large, and of an epoch every sample
 * once. */
static void test_micro_batches(void **state)
{
    (void)state;
    const char *path = forty();
    Loader *loader = data_csv(path, &(CsvOptions){.batch = 3, .seq = 24, .accumulate = 2, .held_out = -1});
    int64_t counted = 0;
    for (int64_t step = 0; step < data_steps_per_epoch(loader); step++)
        for (const Batch *b; (b = data_next(loader));) {
            assert_int_equal(b->labels_counted, tensor_dim(b->ids, 0));
            assert_int_equal(b->labels_total, step < 6 ? 6 : 5);
            counted += b->labels_counted;
        }
    assert_int_equal(counted, 41);
}

/* Of whole samples, whatever is cut where they are read. */
static void test_summary(void **state)
{
    (void)state;
    const char *path =
        write_text("some.csv", "text,label\nab,0\n\"two\nlines\",1\nlonger still,1\nlonger than,0\n");
    CsvSamples *samples = data_csv_samples(path, &(CsvOptions){.seq = 6});
    assert_non_null(samples);
    /* two bytes between two tokens, and the longest on line 5 */
    assert_lengths(data_csv_summary(samples, 0, 11), (DataLengths){4, 4, 14, 5, 2, 1});
    assert_lengths(data_csv_summary(samples, 2, 0), (DataLengths){2, 4, 11, 3, 0, 1});
    data_csv_samples_free(samples);
}

static Loader *make_failing(void)
{
    Tokenizer *t = tokenizer_read(FIXTURES "bert.json");
    CsvOptions o = {.batch = 2, .seq = 12, .tokenizer = t, .held_out = -1};
    return t ? data_csv(path_of("few.csv"), &o) : NULL;
}

static Loader *make_of_labels(void)
{
    CsvOptions o = {.batch = 2, .seq = 12, .held_out = -1};
    DataLabels *labels = data_csv_labels(path_of("few.csv"), &o);
    o.known = labels;
    CsvSamples *samples = labels ? data_csv_samples(path_of("few.csv"), &o) : NULL;
    o.samples = samples;
    Loader *loader = samples ? data_csv(path_of("few.csv"), &o) : NULL;
    data_csv_samples_free(samples);
    data_labels_free(labels);
    return loader;
}

static void test_failures(void **state)
{
    (void)state;
    write_text("few.csv", "sentence1,label,sentence2\n\"a \"\"b\"\"\",x,b\nc,y,\"d\"\"\"\ne,z,f\n");
    sweep_failures(make_failing);
    sweep_failures(make_of_labels);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(test_fields),          TEST(test_tabs),
        TEST(test_packed),          TEST(test_cut),
        TEST(test_longest_first),   TEST(test_pairs_of_bytes),
        TEST(test_pairs_of_tokens), TEST(test_templates),
        TEST(test_labels),          TEST(test_bad_labels),
        TEST(test_bad_tables),      TEST(test_bad_options),
        TEST(test_parts),           TEST(test_plan),
        TEST(test_micro_batches),   TEST(test_failures),
        TEST(test_summary),
    };
    return cmocka_run_group_tests_name("data_csv", tests, make_directory, remove_directory);
}
