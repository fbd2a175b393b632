/* Text: the built-in corpus, cutting, held-out parts, masking, and files that will not do. */
#include <math.h>
#include <sys/stat.h>
#include <time.h>

#include "test_data_.h"

/* A text whose bytes say where they are, in two digits of base 250. */
static const char *counting_file(const char *name, int bytes)
{
    unsigned char *text = malloc((size_t)bytes);
    assert_non_null(text);
    for (int i = 0; i < bytes; i++)
        text[i] = (unsigned char)(i * 7 % 251);
    const char *path = write_file(name, text, (size_t)bytes);
    free(text);
    return path;
}

static int byte_at(int i)
{
    return i * 7 % 251;
}

/* ---- Corpus ---------------------------------------------------------------------------------- */

static void test_corpus_is_deterministic_ascii(void **state)
{
    (void)state;
    enum { BYTES = 1 << 20 };
    char *text = malloc(BYTES), *part = malloc(BYTES);
    assert_true(text && part);
    data_corpus(1, text, BYTES);
    data_corpus(1, part, 12345); /* a shorter one is its beginning, and nothing is written after it */
    assert_memory_equal(text, part, 12345);
    data_corpus(2, part, 12345);
    assert_memory_not_equal(text, part, 12345);
    memset(part, 7, 8);
    data_corpus(1, part, 3);
    assert_int_equal(part[3], 7);
    data_corpus(1, part, 0);
    data_corpus(1, NULL, 10);
    for (int i = 0; i < BYTES; i++)
        assert_true(text[i] == '\n' || (text[i] >= ' ' && text[i] <= '~'));
    for (const char *stray = "$~^\t"; *stray; stray++) /* nothing of the grammar's own signs */
        assert_null(memchr(text, *stray, BYTES));
    /* a slot that found nothing would leave two spaces; only refrains are indented */
    for (int i = 1; i + 3 < BYTES; i++)
        assert_true(strncmp(text + i, "  ", 2) != 0 || text[i + 2] == ' ' || text[i - 1] == ' ' ||
                    text[i - 1] == '\n');
    free(text);
    free(part);
}

static int compare_windows(const void *a, const void *b)
{
    return memcmp(*(const char *const *)a, *(const char *const *)b, 48);
}

static void test_corpus_varies(void **state)
{
    (void)state;
    enum { BYTES = 400000, WINDOW = 48 };
    char *text = malloc(BYTES);
    const char **windows = malloc((BYTES - WINDOW) * sizeof *windows);
    assert_true(text && windows);
    clock_t start = clock();
    data_corpus(1, text, BYTES);
    assert_true(clock() - start < CLOCKS_PER_SEC); /* of a processor; it takes 2 ms */
    size_t n = BYTES - WINDOW, repeated = 0;
    for (size_t i = 0; i < n; i++)
        windows[i] = text + i;
    qsort(windows, n, sizeof *windows, compare_windows);
    for (size_t i = 1; i < n; i++)
        repeated += compare_windows(&windows[i - 1], &windows[i]) == 0;
    assert_true((double)repeated < 0.1 * (double)n); /* of 48 bytes in a row, nine in ten come once */
    free(windows);
    free(text);
}

/* Every "12 + 7 = 19." of the text is true. */
static void test_corpus_sums_are_true(void **state)
{
    (void)state;
    enum { BYTES = 500000 };
    char *text = malloc(BYTES + 1);
    assert_non_null(text);
    data_corpus(5, text, BYTES);
    text[BYTES] = '\0';
    int sums = 0;
    for (char *at = text; (at = strstr(at, " = ")); at++) {
        char *from = at;
        while (from > text && strchr("0123456789 +-x", from[-1]))
            from--;
        int a, b, c;
        char sign;
        if (sscanf(from, "%d %c %d = %d.", &a, &sign, &b, &c) != 4)
            continue;
        assert_int_equal(sign == '+' ? a + b : sign == '-' ? a - b : a * b, c);
        sums++;
    }
    assert_true(sums > 30);
    free(text);
}

/* ---- Plain text ------------------------------------------------------------------------------ */

static void test_plain_contents_and_shift(void **state)
{
    (void)state;
    /* 10 sequences of 16 and a byte more; none held out */
    const char *path = counting_file("plain", 161);
    Loader *loader = data_text(path, &(TextOptions){.batch = 4, .seq = 16, .held_out = -1});
    assert_int_equal(data_samples(loader), 10);
    assert_int_equal(data_classes(loader), 256);
    assert_int_equal(data_width(loader), 0);
    int seen[10] = {0};
    while (data_epoch(loader) == 0) {
        for (const Batch *b; (b = data_next(loader));) {
            assert_null(b->features);
            assert_int_equal(b->tokens, 16 * tensor_dim(b->ids, 0));
            assert_int_equal(b->labels_counted, b->tokens);
            for (int i = 0; i < tensor_dim(b->ids, 0); i++) {
                const int32_t *ids = tensor_i32(b->ids) + 16 * i, *labels = tensor_i32(b->labels) + 16 * i;
                int s = 0;
                while (byte_at(16 * s) != ids[0])
                    s++;
                seen[s]++;
                for (int t = 0; t < 16; t++) {
                    assert_int_equal(ids[t], byte_at(16 * s + t));
                    assert_int_equal(labels[t], byte_at(16 * s + t + 1));
                }
            }
        }
    }
    for (int s = 0; s < 10; s++)
        assert_int_equal(seen[s], 1);
    assert_int_equal(error_code(), 0);
}

static int64_t samples(const char *path, TextOptions o)
{
    Loader *loader = data_text(path, &o);
    int64_t n = data_samples(loader);
    loader_free(loader);
    return n;
}

static void test_held_out(void **state)
{
    (void)state;
    const char *path = counting_file("held", 16 * 40 + 1);
    TextOptions train = {.batch = 3, .seq = 16}, held = {.batch = 3, .seq = 16, .split = DATA_HELD_OUT};
    assert_int_equal(samples(path, train), 38);
    assert_int_equal(samples(path, held), 2);
    train.held_out = held.held_out = 0.25f;
    assert_int_equal(samples(path, train), 30);
    assert_int_equal(samples(path, held), 10);
    train.max_samples = held.max_samples = 4;
    assert_int_equal(samples(path, train), 4);
    assert_int_equal(samples(path, held), 4);
    train.held_out = held.held_out = 0.999f; /* one is left to train on */
    train.max_samples = 0;
    assert_int_equal(samples(path, train), 1);
    held.held_out = 0.001f; /* and at least one held out */
    held.max_samples = 0;
    assert_int_equal(samples(path, held), 1);
    train.held_out = -1;
    assert_int_equal(samples(path, train), 40);

    /* not shuffled, the end of the text, the same each epoch */
    held.held_out = 0.25f;
    Loader *loader = data_text(path, &held);
    for (int i = 0; i < 20;)
        for (const Batch *b; (b = data_next(loader));)
            for (int k = 0; k < tensor_dim(b->ids, 0); k++, i++)
                assert_int_equal(tensor_i32(b->ids)[16 * k], byte_at(16 * (30 + i % 10)));
    assert_int_equal(data_epoch(loader), 2);
}

static void test_first_samples_only(void **state)
{
    (void)state;
    const char *path = counting_file("first", 16 * 40 + 1);
    Loader *loader = data_text(path, &(TextOptions){.batch = 1, .seq = 16, .max_samples = 1, .seed = 5});
    for (int step = 0; step < 5; step++) {
        assert_int_equal(tensor_i32(data_next(loader)->ids)[1], byte_at(1));
        assert_null(data_next(loader));
    }
}

static void test_builtin(void **state)
{
    (void)state;
    char text[5000];
    data_corpus(1, text, sizeof text); /* whatever the seed of shuffling is */
    Loader *loader = data_text(
        "builtin", &(TextOptions){.seq = 100, .corpus_bytes = 5000, .seed = 77, .split = DATA_HELD_OUT});
    assert_int_equal(data_samples(loader), 2); /* 49 sequences; 5 % are two */
    const int32_t *ids = tensor_i32(data_next(loader)->ids);
    for (int i = 0; i < 100; i++)
        assert_int_equal(ids[i], text[4700 + i]);
    loader_free(loader);
    uint64_t before = memtrack_host_live(context_tracker(context_current()));
    assert_int_equal(data_samples(data_text("builtin", NULL)), 7782); /* 8191 sequences of 128, less 409 */
    uint64_t host = memtrack_host_live(context_tracker(context_current())) - before;
    assert_in_range(host, 7782 * 128, 7782 * (128 + 4) + 4096); /* its part of the text, its order, headers */
}

/* ---- Masked ---------------------------------------------------------------------------------- */

static Loader *masked(int batch, int accumulate, DataSplit split, uint64_t seed)
{
    return data_text("builtin", &(TextOptions){.batch = batch,
                                               .seq = 64,
                                               .accumulate = accumulate,
                                               .seed = seed,
                                               .split = split,
                                               .mask_probability = 0.15f,
                                               .held_out = 0.2f,
                                               .corpus_bytes = 62 * 500});
}

/* Digests of the samples of a number of epochs, in order. */
static int masked_samples(Loader *loader, int epochs, uint64_t digests[])
{
    int n = 0;
    while (data_epoch(loader) < epochs)
        for (const Batch *b; (b = data_next(loader));)
            for (int i = 0; i < tensor_dim(b->ids, 0); i++) {
                digests[n] = digest(0, tensor_i32(b->ids) + 64 * i, 256);
                digests[n] = digest(digests[n], tensor_i32(b->labels) + 64 * i, 256);
                n++;
            }
    return n;
}

static void test_masks_have_the_right_shares(void **state)
{
    (void)state;
    char text[62 * 500];
    data_corpus(1, text, sizeof text);
    double chosen = 0, hidden = 0, kept = 0, all = 0;
    Loader *loader = masked(16, 2, DATA_TRAIN, 3);
    assert_int_equal(data_samples(loader), 400);
    assert_int_equal(data_classes(loader), TOKEN_VOCAB);
    while (data_epoch(loader) < 4) {
        int64_t total = 0, sum = 0;
        for (const Batch *b; (b = data_next(loader)); sum += b->labels_counted) {
            int64_t counted = 0;
            for (int i = 0; i < tensor_dim(b->ids, 0); i++) {
                const int32_t *ids = tensor_i32(b->ids) + 64 * i, *labels = tensor_i32(b->labels) + 64 * i;
                int here = 0;
                assert_int_equal(ids[0], TOKEN_CLS);
                assert_int_equal(ids[63], TOKEN_SEP);
                assert_true(labels[0] == BATCH_IGNORE && labels[63] == BATCH_IGNORE);
                char original[62];
                for (int t = 1; t < 63; t++, all++) {
                    original[t - 1] = (char)(labels[t] == BATCH_IGNORE ? ids[t] : labels[t]);
                    here += labels[t] != BATCH_IGNORE;
                    hidden += labels[t] != BATCH_IGNORE && ids[t] == TOKEN_MASK;
                    kept += labels[t] == ids[t];
                    assert_true(ids[t] < 256 || ids[t] == TOKEN_MASK);
                }
                assert_true(here > 0);
                counted += here;
                const char *found = memmem(text, sizeof text, original, 62);
                assert_true(found && (found - text) % 62 == 0); /* with labels put back, it is the text */
            }
            assert_int_equal(b->labels_counted, counted);
            chosen += (double)counted;
            total = b->labels_total;
        }
        assert_int_equal(sum, total);
    }
    assert_true(all == 4 * 400 * 62);
    assert_true(fabs(chosen / all - 0.15) < 0.006); /* 5 sigma */
    assert_true(fabs(hidden / chosen - 0.8) < 0.017);
    assert_true(fabs(kept / chosen - 0.1) < 0.013); /* and the rest is random: rarely the same byte */
}

static void test_masks_do_not_depend_on_batching(void **state)
{
    (void)state;
    static uint64_t one[1200], other[1200], seed[1200];
    assert_int_equal(masked_samples(masked(1, 1, DATA_TRAIN, 3), 3, one), 1200);
    assert_int_equal(masked_samples(masked(7, 4, DATA_TRAIN, 3), 3, other), 1200);
    assert_memory_equal(one, other, sizeof one);
    masked_samples(masked(7, 4, DATA_TRAIN, 4), 3, seed);
    int same = 0; /* another seed, another epoch: other masks */
    for (int i = 0; i < 1200; i++)
        for (int j = 0; j < 400; j++)
            same += one[i] == seed[j] || (i >= 400 && one[i] == one[j]);
    assert_int_equal(same, 0);
}

static void test_held_out_masks_stay(void **state)
{
    (void)state;
    uint64_t digests[300];
    assert_int_equal(masked_samples(masked(8, 1, DATA_HELD_OUT, 3), 3, digests), 300);
    assert_memory_equal(digests, digests + 100, 100 * sizeof *digests);
    assert_memory_equal(digests, digests + 200, 100 * sizeof *digests);
}

/* So seldom masked that most samples need their one label given. */
static void test_at_least_one_label(void **state)
{
    (void)state;
    Loader *loader = data_text("builtin", &(TextOptions){.batch = 1, .seq = 10, .mask_probability = 1e-6f});
    int places[10] = {0};
    for (int i = 0; i < 800; i++) {
        const Batch *b = data_next(loader);
        assert_int_equal(b->labels_counted, 1);
        assert_int_equal(b->labels_total, 1);
        for (int t = 0; t < 10; t++)
            places[t] += tensor_i32(b->labels)[t] != BATCH_IGNORE;
        assert_null(data_next(loader));
    }
    assert_int_equal(places[0] + places[9], 0);
    for (int t = 1; t < 9; t++)
        assert_in_range(places[t], 50, 150);
    /* and always: every byte, in the smallest sequence there is */
    Loader *every = data_text("builtin", &(TextOptions){.batch = 2, .seq = 3, .mask_probability = 1});
    assert_int_equal(data_next(every)->labels_counted, 2);
}

static void test_masked_cursor(void **state)
{
    (void)state;
    for (int cut = 1; cut < 32; cut += 6) { /* 15 steps an epoch */
        uint64_t straight[200], resumed[200];
        int n = 0, m = 0;
        Loader *loader = masked(9, 3, DATA_TRAIN, 8), *again = masked(9, 3, DATA_TRAIN, 0);
        for (int step = 0; step < cut; step++)
            while (data_next(loader))
                ;
        DataCursor cursor = data_cursor(loader);
        assert_int_equal(cursor.step, cut);
        assert_int_equal(data_seek(again, cursor), 0);
        for (int step = 0; step < 20; step++) {
            for (const Batch *b; (b = data_next(loader));)
                straight[n++] = digest_batch(b);
            for (const Batch *b; (b = data_next(again));)
                resumed[m++] = digest_batch(b);
        }
        assert_int_equal(n, m);
        assert_memory_equal(straight, resumed, (size_t)n * sizeof *straight);
        loader_free(loader);
        loader_free(again);
    }
}

/* ---- Errors ---------------------------------------------------------------------------------- */

static void refuse(const char *path, TextOptions o)
{
    for (int meta = 0; meta < 2; meta++) { /* a plan refuses what the run would */
        Context *outside = context_use(context_create(&(ContextOptions){.meta = meta, .threads = 1}));
        char message[512];
        assert_null(data_text(path, &o));
        int code = error_code();
        snprintf(message, sizeof message, "%s", error_message());
        context_destroy(context_use(outside));
        assert_true(code != 0);
        if (meta == 0)
            error_raise((ErrorCode)code, "%s", message);
        else
            assert_string_equal(message, error_message());
    }
}

static void test_bad_files(void **state)
{
    (void)state;
    refuse(path_of("none.txt"), (TextOptions){0});
    assert_error(ERROR_FILE, "none.txt: cannot open", "No such file");
    refuse(directory, (TextOptions){0});
    assert_error(ERROR_DATA, directory, "is a directory without .txt files");
    refuse("/dev/null", (TextOptions){0});
    assert_error(ERROR_FILE, "/dev/null is a pipe or device");
    refuse(write_file("empty", "", 0), (TextOptions){0});
    assert_error(ERROR_DATA, "is empty");
    refuse(NULL, (TextOptions){0});
    assert_error(ERROR_ARGUMENT, "path is NULL");
    const char *closed = counting_file("closed", 1000);
    assert_int_equal(chmod(closed, 0), 0);
    if (geteuid() != 0) {
        refuse(closed, (TextOptions){0});
        assert_error(ERROR_FILE, "Permission denied");
    }
}

static void test_too_short(void **state)
{
    (void)state;
    const char *path = counting_file("short", 128);
    refuse(path, (TextOptions){0}); /* one byte is missing */
    assert_error(ERROR_DATA, path, "has 128 bytes", "needs 129", "--seq 127");
    assert_non_null(data_text(path, &(TextOptions){.seq = 127}));
    assert_int_equal(error_code(), 0);
    refuse(path, (TextOptions){.seq = 127, .split = DATA_HELD_OUT});
    assert_error(ERROR_DATA, "held-out", "has 128 bytes", "needs 255", "--seq 63");
    assert_non_null(data_text(path, &(TextOptions){.seq = 63, .split = DATA_HELD_OUT}));
    refuse(path, (TextOptions){.seq = 131, .mask_probability = 0.15f});
    assert_error(ERROR_DATA, "has 128 bytes", "needs 129", "--seq 130");
    assert_non_null(data_text(path, &(TextOptions){.seq = 130, .mask_probability = 0.15f}));
    refuse(path, (TextOptions){.seq = INT32_MAX});
    assert_error(ERROR_DATA, "seq 2147483647 needs 2147483648");
    refuse(write_file("one", "a", 1), (TextOptions){.seq = 1});
    assert_error(ERROR_DATA, "has 1 byte,", "use a longer text");
    refuse("builtin", (TextOptions){.corpus_bytes = 128});
    assert_error(ERROR_DATA, "builtin has 128 bytes");
}

static void test_bad_options(void **state)
{
    (void)state;
    refuse("builtin", (TextOptions){.seq = -1});
    assert_error(ERROR_ARGUMENT, "seq is -1", "1 or more", "0 means 128");
    refuse("builtin", (TextOptions){.seq = 2, .mask_probability = 0.1f});
    assert_error(ERROR_ARGUMENT, "seq is 2", "3 or more");
    refuse("builtin", (TextOptions){.batch = -4});
    assert_error(ERROR_ARGUMENT, "batch is -4", "0 means 8");
    refuse("builtin", (TextOptions){.accumulate = -1});
    assert_error(ERROR_ARGUMENT, "accumulate is -1");
    refuse("builtin", (TextOptions){.max_samples = -1});
    assert_error(ERROR_ARGUMENT, "max_samples is -1");
    refuse("builtin", (TextOptions){.held_out = 1});
    assert_error(ERROR_ARGUMENT, "held_out is 1", "below 1");
    refuse("builtin", (TextOptions){.held_out = NAN});
    assert_error(ERROR_ARGUMENT, "held_out is");
    refuse("builtin", (TextOptions){.held_out = -1, .split = DATA_HELD_OUT});
    assert_error(ERROR_ARGUMENT, "holds nothing out");
    refuse("builtin", (TextOptions){.mask_probability = 1.5f});
    assert_error(ERROR_ARGUMENT, "mask_probability is 1.5");
    refuse("builtin", (TextOptions){.mask_probability = NAN});
    assert_error(ERROR_ARGUMENT, "mask_probability is");
    refuse("builtin", (TextOptions){.corpus_bytes = -1});
    assert_error(ERROR_ARGUMENT, "corpus_bytes is -1");
    refuse("builtin", (TextOptions){.split = (DataSplit)5});
    assert_error(ERROR_ARGUMENT, "split is 5");
}

/* Sparse files, so that they cost nothing. */
static void test_huge_files(void **state)
{
    (void)state;
    const char *path = write_file("huge", "x", 1);
    if (truncate(path, (off_t)1 << 42) != 0) /* the file system may not take it */
        skip();
    assert_null(data_text(path, &(TextOptions){.seq = 1024, .batch = 1}));
    assert_error(ERROR_HOST_MEMORY, "would be read", "--max-samples");
    assert_null(data_text(path, &(TextOptions){.seq = INT32_MAX, .max_samples = 1 << 10, .batch = 1}));
    assert_error(ERROR_HOST_MEMORY, "would be read");
    /* the first samples of a large text need only their own bytes; so do the last */
    Loader *loader = data_text(path, &(TextOptions){.seq = 16, .batch = 3, .max_samples = 3});
    const int32_t *ids = tensor_i32(data_next(loader)->ids);
    assert_int_equal(ids[0] + ids[16] + ids[32], 'x');
    assert_non_null(data_text(path, &(TextOptions){.seq = 16, .held_out = 1e-9f, .split = DATA_HELD_OUT}));
    assert_int_equal(error_code(), 0);
    Context *outside = context_use(context_create(&(ContextOptions){.meta = 1, .threads = 1}));
    loader = data_text(path, &(TextOptions){.seq = 1, .held_out = -1}); /* a plan is none of this machine */
    assert_int_equal(data_samples(loader), ((int64_t)1 << 42) - 1); /* more than 32 bits count */
    assert_non_null(data_next(loader));
    context_destroy(context_use(outside));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_corpus_is_deterministic_ascii, begin, end),
        cmocka_unit_test_setup_teardown(test_corpus_varies, begin, end),
        cmocka_unit_test_setup_teardown(test_corpus_sums_are_true, begin, end),
        cmocka_unit_test_setup_teardown(test_plain_contents_and_shift, begin, end),
        cmocka_unit_test_setup_teardown(test_held_out, begin, end),
        cmocka_unit_test_setup_teardown(test_first_samples_only, begin, end),
        cmocka_unit_test_setup_teardown(test_builtin, begin, end),
        cmocka_unit_test_setup_teardown(test_masks_have_the_right_shares, begin, end),
        cmocka_unit_test_setup_teardown(test_masks_do_not_depend_on_batching, begin, end),
        cmocka_unit_test_setup_teardown(test_held_out_masks_stay, begin, end),
        cmocka_unit_test_setup_teardown(test_at_least_one_label, begin, end),
        cmocka_unit_test_setup_teardown(test_masked_cursor, begin, end),
        cmocka_unit_test_setup_teardown(test_bad_files, begin, end),
        cmocka_unit_test_setup_teardown(test_too_short, begin, end),
        cmocka_unit_test_setup_teardown(test_bad_options, begin, end),
        cmocka_unit_test_setup_teardown(test_huge_files, begin, end),
    };
    return cmocka_run_group_tests_name("data_text", tests, make_directory, remove_directory);
}
