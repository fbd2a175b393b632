/* Token ids as data: .bin files, texts with a tokenizer, what is held out and masked, and files that will not do. */
#include "../base/clock_.h"
#include "../text/tokenizer.h"
#include "../nn/nn.h"
#include "test_data_.h"

#define TOKENIZER "tests/tokenizers/fixtures/gpt2.json"

/* Ids that say where they are. */
static int32_t id_at(int i, int vocab)
{
    return (int32_t)((int64_t)i * 7919 % vocab);
}

static const char *counting_bin(const char *name, int count, int width, int vocab)
{
    unsigned char *bytes = malloc((size_t)(count * width));
    assert_non_null(bytes);
    for (int i = 0; i < count; i++)
        for (int b = 0; b < width; b++)
            bytes[i * width + b] = (unsigned char)((uint32_t)id_at(i, vocab) >> (8 * b));
    const char *path = write_file(name, bytes, (size_t)(count * width));
    free(bytes);
    return path;
}

static void check_bin(int width, int vocab)
{
    const char *path = counting_bin("ids.bin", 16 * 40 + 1, width, vocab);
    Loader *loader = data_tokens(path, &(TokenOptions){.batch = 3, .seq = 16, .vocab = vocab, .held_out = 0.25f});
    assert_int_equal(data_samples(loader), 30);
    assert_int_equal(data_classes(loader), vocab);
    assert_int_equal(data_token_count(loader), 641);
    int seen[30] = {0};
    while (data_epoch(loader) == 0)
        for (const Batch *b; (b = data_next(loader));)
            for (int k = 0; k < tensor_dim(b->ids, 0); k++) {
                const int32_t *ids = tensor_i32(b->ids) + 16 * k, *labels = tensor_i32(b->labels) + 16 * k;
                int s = 0;
                while (s < 30 && id_at(16 * s, vocab) != ids[0])
                    s++;
                assert_true(s < 30);
                seen[s]++;
                for (int i = 0; i < 16; i++) {
                    assert_int_equal(ids[i], id_at(16 * s + i, vocab));
                    assert_int_equal(labels[i], id_at(16 * s + i + 1, vocab));
                }
            }
    for (int s = 0; s < 30; s++)
        assert_int_equal(seen[s], 1);
    loader_free(loader);
    loader = data_tokens(
        path, &(TokenOptions){.batch = 1, .seq = 16, .vocab = vocab, .held_out = 0.25f, .split = DATA_HELD_OUT});
    assert_int_equal(data_samples(loader), 10);
    assert_int_equal(tensor_i32(data_next(loader)->ids)[0], id_at(16 * 30, vocab));
    loader_free(loader);
}

static void test_bin(void **state)
{
    (void)state;
    check_bin(2, 65536);
    check_bin(2, 50257);
    check_bin(4, 65537);
    check_bin(4, 1000003);
}

/* The file is mapped: host memory holds the order and headers alone. */
static void test_bin_is_not_read(void **state)
{
    (void)state;
    const char *path = counting_bin("large.bin", 1 << 20, 2, 1000);
    uint64_t before = memtrack_host_live(context_tracker(context_current()));
    Loader *loader = data_tokens(path, &(TokenOptions){.seq = 512, .vocab = 1000});
    uint64_t host = memtrack_host_live(context_tracker(context_current())) - before;
    assert_non_null(data_next(loader));
    assert_in_range(host, 1, 2048 * 4 + 4096);
}

/* 100 GB in short samples: neither waiting nor memory before the first step, nor in it. */
static void test_very_many_samples(void **state)
{
    (void)state;
    const char *path = write_file("very-many.bin", "", 0);
    if (truncate(path, (off_t)100000000000) != 0) /* a sparse file; not every file system takes it */
        skip();
    double start = clock_now();
    Loader *loader = data_tokens(path, &(TokenOptions){.batch = 4, .seq = 8, .vocab = 50257, .seed = 3});
    assert_non_null(loader);
    const Batch *b = data_next(loader);
    assert_non_null(b);
    assert_int_equal(tensor_i32(b->ids)[3], 0);
    assert_true(data_samples(loader) > INT32_MAX);
    assert_true(clock_now() - start < 2);
    assert_true(memtrack_process_live() - live_before < 4 << 20);
    loader_free(loader);
    unlink(path);
}

static const char *some_text(void)
{
    static char text[40000];
    data_corpus(3, text, sizeof text);
    return write_file("text.txt", text, sizeof text);
}

/* As encoding the whole and cutting: of both loaders, with the ids in memory once. */
static void test_text(void **state)
{
    (void)state;
    const char *path = some_text();
    Tokenizer *t = tokenizer_read(TOKENIZER);
    TokenIds ids = {0};
    int64_t bytes;
    assert_int_equal(tokenizer_encode_file(t, path, 0, &ids, &bytes), 0);
    TokenOptions o = {.batch = 1, .seq = 20, .tokenizer = t, .held_out = 0.1f};
    Loader *train = data_tokens(path, &o);
    uint64_t host = memtrack_host_live(context_tracker(context_current()));
    o.split = DATA_HELD_OUT;
    Loader *held = data_tokens(path, &o);
    assert_true(memtrack_host_live(context_tracker(context_current())) - host < 4096);
    assert_int_equal(data_token_count(train), ids.count);
    assert_int_equal(data_classes(train), tokenizer_vocab(t));
    int64_t first = data_samples(train);
    assert_int_equal(data_samples(train) + data_samples(held), (ids.count - 1) / 20);
    tokenizer_free(t); /* the loaders keep the ids */
    for (int64_t s = 0; s < data_samples(held); s++) {
        const Batch *b = data_next(held);
        assert_memory_equal(tensor_i32(b->ids), ids.ids + 20 * (first + s), 20 * sizeof(int32_t));
        assert_memory_equal(tensor_i32(b->labels), ids.ids + 20 * (first + s) + 1, 20 * sizeof(int32_t));
        assert_null(data_next(held));
    }
    loader_free(train);
    assert_non_null(data_next(held));
    loader_free(held);
    memtrack_host_free(context_tracker(context_current()), ids.ids, ids.room * sizeof *ids.ids);
}

/* A plan meets the same shapes, and a count that is known spares it the text. */
static void test_meta(void **state)
{
    (void)state;
    const char *path = some_text();
    Tokenizer *t = tokenizer_read(TOKENIZER);
    Loader *real = data_tokens(path, &(TokenOptions){.seq = 33, .tokenizer = t});
    int64_t samples = data_samples(real), tokens = data_token_count(real);
    Context *outside = context_use(context_create(&(ContextOptions){.meta = 1, .threads = 1}));
    Tokenizer *again = tokenizer_read(TOKENIZER);
    Loader *planned = data_tokens(path, &(TokenOptions){.seq = 33, .tokenizer = again});
    assert_int_equal(data_samples(planned), samples);
    assert_int_equal(tensor_dim(data_next(planned)->ids, 1), 33);
    planned = data_tokens("no such file", &(TokenOptions){.seq = 33, .vocab = 500, .tokens = tokens});
    assert_int_equal(data_samples(planned), samples);
    planned = data_tokens(counting_bin("m.bin", 1000, 2, 50), &(TokenOptions){.seq = 33, .vocab = 50});
    assert_int_equal(data_token_count(planned), 1000);
    context_destroy(context_use(outside));
}

/* A plan's ids are a count alone: a tokenizer that was in one must not bring them to a run, nor its memory. */
static void test_tokenizer_of_another_context(void **state)
{
    (void)state;
    const char *path = some_text();
    Tokenizer *t = tokenizer_read(TOKENIZER);
    Context *outside = context_use(context_create(&(ContextOptions){.meta = 1, .threads = 1}));
    assert_null(data_tokens(path, &(TokenOptions){.seq = 33, .tokenizer = t}));
    assert_error(ERROR_STATE, "data_tokens", "read in another context; read it here");
    context_destroy(context_use(outside));
    assert_non_null(data_next(data_tokens(path, &(TokenOptions){.seq = 33, .tokenizer = t})));
}

static void test_no_tokens(void **state)
{
    (void)state;
    static const char json[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"x\":0},\"merges\":[]}}";
    Tokenizer *t = tokenizer_read(write_file("x.json", json, sizeof json - 1));
    assert_null(data_tokens(write_file("a.txt", "aaaa", 4), &(TokenOptions){.seq = 2, .tokenizer = t}));
    assert_error(ERROR_DATA, "a.txt has no tokens", "or the tokenizer knows nothing of it");
    assert_null(data_tokens(write_file("a.bin", "", 0), &(TokenOptions){.seq = 2, .vocab = 9}));
    assert_error(ERROR_DATA, "a.bin is empty");
}

static void test_masked(void **state)
{
    (void)state;
    Tokenizer *t = tokenizer_read("tests/tokenizers/fixtures/bert.json");
    const char *path = some_text();
    Loader *loader = data_tokens(path, &(TokenOptions){.batch = 8, .seq = 32, .tokenizer = t, .mask_probability = 0.15f});
    int64_t chosen = 0, hidden = 0, all = 0;
    int32_t mask = tokenizer_id(t, "[MASK]");
    while (data_epoch(loader) == 0)
        for (const Batch *b; (b = data_next(loader));)
            for (int k = 0; k < tensor_dim(b->ids, 0); k++) {
                const int32_t *ids = tensor_i32(b->ids) + 32 * k, *labels = tensor_i32(b->labels) + 32 * k;
                assert_int_equal(ids[0], 2);
                assert_int_equal(ids[31], 3);
                for (int i = 0; i < 32; i++) {
                    assert_in_range(ids[i], 0, tokenizer_vocab(t) - 1);
                    all++;
                    chosen += labels[i] != BATCH_IGNORE;
                    hidden += ids[i] == mask;
                }
            }
    assert_true(chosen > all / 10 && chosen < all / 5);
    assert_true(hidden > chosen * 7 / 10 && hidden < chosen * 9 / 10);
}

static void refused(const char *path, TokenOptions o, int code, const char *what, const char *more)
{
    assert_null(data_tokens(path, &o));
    assert_error(code, what, more);
}

static void test_wrong(void **state)
{
    (void)state;
    Tokenizer *t = tokenizer_read(TOKENIZER);
    const char *odd = write_file("odd.bin", "abc", 3), *none = write_file("none.bin", "", 0),
               *few = write_file("few.bin", "\1\0\2\0\3\0\4\0", 8);
    refused(NULL, (TokenOptions){.vocab = 9}, ERROR_ARGUMENT, "path is NULL", "");
    refused(odd, (TokenOptions){.vocab = 9}, ERROR_DATA, "3 bytes", "ids of 2 bytes");
    refused(odd, (TokenOptions){.vocab = 70000}, ERROR_DATA, "3 bytes", "ids of 4 bytes");
    refused(none, (TokenOptions){.vocab = 9}, ERROR_DATA, "is empty", "");
    refused(none, (TokenOptions){.tokenizer = t}, ERROR_DATA, "is empty", "");
    refused(few, (TokenOptions){.vocab = 9, .seq = 4}, ERROR_DATA, "4 tokens", "--seq 3");
    refused(few, (TokenOptions){.vocab = 9, .seq = 3, .split = DATA_HELD_OUT}, ERROR_DATA, "4 tokens", "held-out");
    refused(path_of("missing"), (TokenOptions){.vocab = 9}, ERROR_FILE, "cannot open", "");
    refused(directory, (TokenOptions){.vocab = 9}, ERROR_FILE, "a directory", "");
    refused("/dev/zero", (TokenOptions){.vocab = 9}, ERROR_FILE, "a pipe or device", "");
    refused(few, (TokenOptions){0}, ERROR_ARGUMENT, "vocab is 0", "");
    refused(few, (TokenOptions){.vocab = -4}, ERROR_ARGUMENT, "vocab is -4", "");
    refused(few, (TokenOptions){.vocab = 9, .width = 3}, ERROR_ARGUMENT, "width is 3", "");
    refused(few, (TokenOptions){.vocab = 9, .tokens = -1}, ERROR_ARGUMENT, "tokens is -1", "");
    refused(few, (TokenOptions){.vocab = 9, .batch = -1}, ERROR_ARGUMENT, "batch is -1", "");
    refused(few, (TokenOptions){.vocab = 9, .seq = -1}, ERROR_ARGUMENT, "seq is -1", "");
    refused(few, (TokenOptions){.vocab = 9, .tokenizer = t}, ERROR_ARGUMENT, "vocab is 9", "the tokenizer's is");
    refused(few, (TokenOptions){.vocab = 9, .mask_probability = 2}, ERROR_ARGUMENT, "mask_probability", "");
    refused(few, (TokenOptions){.vocab = 9, .seq = 3, .mask_probability = 0.1f}, ERROR_ARGUMENT, "mask is 0", "cls");
    refused(few, (TokenOptions){.vocab = 9, .seq = 3, .mask_probability = 0.1f, .mask = 9}, ERROR_ARGUMENT, "mask 9",
            "vocabulary of 9");
    refused(few, (TokenOptions){.tokenizer = t, .seq = 3, .mask_probability = 0.1f}, ERROR_DATA, "[CLS]", "neither");
    assert_null(data_tokens(few, NULL));
    assert_error(ERROR_ARGUMENT, "vocab is 0");
}

static Loader *sweep_bin(void)
{
    return data_tokens(path_of("sweep.bin"), &(TokenOptions){.seq = 8, .vocab = 100, .batch = 2});
}

static Loader *sweep_text(void)
{
    Tokenizer *t = tokenizer_read(TOKENIZER);
    if (!t)
        return NULL;
    Loader *loader = data_tokens(path_of("sweep.txt"), &(TokenOptions){.seq = 8, .tokenizer = t, .batch = 2});
    tokenizer_free(t);
    return loader;
}

static void test_each_allocation_fails(void **state)
{
    (void)state;
    char text[600];
    data_corpus(1, text, sizeof text);
    counting_bin("sweep.bin", 300, 2, 100);
    write_file("sweep.txt", text, sizeof text);
    sweep_failures(sweep_bin);
    sweep_failures(sweep_text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bin, begin, end),
        cmocka_unit_test_setup_teardown(test_bin_is_not_read, begin, end),
        cmocka_unit_test_setup_teardown(test_very_many_samples, begin, end),
        cmocka_unit_test_setup_teardown(test_text, begin, end),
        cmocka_unit_test_setup_teardown(test_meta, begin, end),
        cmocka_unit_test_setup_teardown(test_tokenizer_of_another_context, begin, end),
        cmocka_unit_test_setup_teardown(test_no_tokens, begin, end),
        cmocka_unit_test_setup_teardown(test_masked, begin, end),
        cmocka_unit_test_setup_teardown(test_wrong, begin, end),
        cmocka_unit_test_setup_teardown(test_each_allocation_fails, begin, end),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
