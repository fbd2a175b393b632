/* Samples in rows: alone and side by side, cut and left out; parts, order, what a plan knows without reading,
 * host memory, failed allocations, and a large file. */
#include "../base/clock_.h"
#include "../text/tokenizer.h"
#include "test_data_.h"

#define FIXTURES "tests/tokenizers/fixtures/"
#define NONE     BATCH_IGNORE

/* Samples of these lengths in tokens: the k-th has 10 k, 10 k + 1, … and learns from its second on. */
static const char *write_lengths(const char *name, const int *lengths, int count)
{
    static char text[1 << 16];
    size_t used = 0;
    for (int k = 0; k < count; k++) {
        used += (size_t)sprintf(text + used, "{\"ids\": [");
        for (int i = 0; i < lengths[k]; i++)
            used += (size_t)sprintf(text + used, "%s%d", i ? ", " : "", 10 * k + i);
        used += (size_t)sprintf(text + used, "]}\n");
    }
    return write_file(name, text, used);
}

#define LENGTHS(name, ...)                                                                                   \
    write_lengths(name, (const int[]){__VA_ARGS__}, (int)COUNT(((const int[]){__VA_ARGS__})))

static PairsOptions all_of(void)
{
    return (PairsOptions){.batch = 1, .held_out = -1, .vocab = 10000};
}

/* The row that begins with this id, of a loader whose batches have one row; in one epoch. */
static void assert_row(const PairsOptions *o, const char *path, const int32_t *ids, const int32_t *labels,
                       int64_t width)
{
    Loader *loader = data_pairs(path, o);
    int found = 0;
    while (data_epoch(loader) == 0)
        for (const Batch *b; (b = data_next(loader));) {
            assert_int_equal(tensor_dim(b->ids, 1), width);
            if (tensor_i32(b->ids)[0] != ids[0])
                continue;
            for (int64_t i = 0; i < width; i++)
                if (tensor_i32(b->ids)[i] != ids[i] || tensor_i32(b->labels)[i] != labels[i])
                    fail_msg("row %d, place %d: %d/%d, not %d/%d", ids[0], (int)i, tensor_i32(b->ids)[i],
                             tensor_i32(b->labels)[i], ids[i], labels[i]);
            found++;
        }
    assert_int_equal(found, 1);
    loader_free(loader);
}

static void expect_note(const char *path, const PairsOptions *o, int64_t rows, const char *note)
{
    Loader *loader = data_pairs(path, o);
    if (!loader)
        fail_msg("%s", error_message());
    assert_int_equal(data_samples(loader), rows);
    if (!strstr(data_note(loader), note))
        fail_msg("no '%s' in '%s'", note, data_note(loader));
    loader_free(loader);
}

/* ---- Alone ----------------------------------------------------------------------------------- */

static void test_padded(void **state)
{
    (void)state;
    const char *path = LENGTHS("padded.jsonl", 3, 6, 2);
    PairsOptions o = all_of();
    assert_row(&o, path, (int32_t[]){0, 1, 2, 0, 0}, (int32_t[]){1, 2, NONE, NONE, NONE}, 5);
    assert_row(&o, path, (int32_t[]){10, 11, 12, 13, 14}, (int32_t[]){11, 12, 13, 14, 15}, 5);
    assert_row(&o, path, (int32_t[]){20, 21, 0, 0, 0}, (int32_t[]){21, NONE, NONE, NONE, NONE}, 5);
    expect_note(path, &o, 3,
                "padded.jsonl: 3 samples of 2 to 6 tokens, one a row of 5; 46 % is padding, less");
    o.seq = 100; /* not longer than it must be */
    assert_row(&o, path, (int32_t[]){0, 1, 2, 0, 0}, (int32_t[]){1, 2, NONE, NONE, NONE}, 5);
    expect_note(LENGTHS("same.jsonl", 4, 4), &o, 2, "same.jsonl: 2 samples of 4 tokens, one a row of 3");
}

/* To so many places; the token behind the last is still predicted. */
static void test_cut(void **state)
{
    (void)state;
    const char *path = LENGTHS("cut.jsonl", 3, 6, 5, 4);
    PairsOptions o = all_of();
    o.seq = 3;
    assert_row(&o, path, (int32_t[]){10, 11, 12}, (int32_t[]){11, 12, 13}, 3);
    assert_row(&o, path, (int32_t[]){30, 31, 32}, (int32_t[]){31, 32, 33}, 3);
    assert_row(&o, path, (int32_t[]){0, 1, 2}, (int32_t[]){1, 2, NONE}, 3);
    expect_note(path, &o, 4, "; 2 longer than --seq 3 are cut at the end");
    o.seq = 4;
    expect_note(path, &o, 4, "; 1 longer than --seq 4 is cut at the end");
}

/* A sample whose first label is behind the row: with it, a row would teach nothing. */
static void test_left_out(void **state)
{
    (void)state;
    static const char text[] = "{\"ids\": [1, 2, 3, 4], \"labels\": [-100, -100, -100, 4]}\n"
                               "{\"ids\": [5, 6, 7]}\n"
                               "{\"ids\": [8, 9, 10], \"labels\": [-100, -100, 10]}\n"
                               "{\"ids\": [11, 12], \"labels\": [-100, 12]}\n";
    const char *path = write_file("late.jsonl", text, sizeof text - 1);
    PairsOptions o = all_of();
    o.seq = 2;
    assert_row(&o, path, (int32_t[]){8, 9}, (int32_t[]){NONE, 10}, 2);
    assert_row(&o, path, (int32_t[]){5, 6}, (int32_t[]){6, 7}, 2);
    assert_row(&o, path, (int32_t[]){11, 12}, (int32_t[]){12, NONE}, 2);
    expect_note(path, &o, 3, "; 1 whose completion begins behind --seq 2 is left out");
    o.seq = 1;
    assert_row(&o, path, (int32_t[]){11}, (int32_t[]){12}, 1);
    expect_note(path, &o, 2,
                "; 1 longer than --seq 1 is cut at the end; 2 whose completion begins behind --seq 1 are");
    o.pack = 1;
    expect_note(path, &o, 2, "4 samples of 2 to 4 tokens, in 2 rows of 1");
    o.pack = 0;
    o.max_samples = 1;
    assert_null(data_pairs(path, &o));
    assert_error(ERROR_DATA, "late.jsonl: no sample has a label within --seq 1",
                 "behind token 3: --seq 3 or more");
}

/* ---- Side by side ---------------------------------------------------------------------------- */

static void test_packed(void **state)
{
    (void)state;
    const char *path = LENGTHS("packed.jsonl", 3, 3, 2, 5, 4);
    PairsOptions o = all_of();
    o.pack = 1;
    o.seq = 7;
    /* 3 + 3 + 2 tokens are 7 places and the one that is predicted; 5 and 4 are one too many */
    assert_row(&o, path, (int32_t[]){0, 1, 2, 10, 11, 12, 20}, (int32_t[]){1, 2, NONE, 11, 12, NONE, 21}, 7);
    assert_row(&o, path, (int32_t[]){30, 31, 32, 33, 34, 0, 0}, (int32_t[]){31, 32, 33, 34, NONE, NONE, NONE},
               7);
    assert_row(&o, path, (int32_t[]){40, 41, 42, 43, 0, 0, 0},
               (int32_t[]){41, 42, 43, NONE, NONE, NONE, NONE}, 7);
    expect_note(path, &o, 3,
                "5 samples of 2 to 5 tokens, in 3 rows of 7; a sample sees those before it in its row");
    /* no row is longer than it must be; without a limit, as the longest sample */
    o.seq = 100;
    assert_row(&o, path, (int32_t[]){0, 1, 2, 10, 11, 12, 20, 21, 30, 31, 32, 33, 34, 40, 41, 42},
               (int32_t[]){1, 2, NONE, 11, 12, NONE, 21, NONE, 31, 32, 33, 34, NONE, 41, 42, 43}, 16);
    o.seq = 0;
    assert_row(&o, path, (int32_t[]){10, 11, 12, 20}, (int32_t[]){11, 12, NONE, 21}, 4);
    assert_row(&o, path, (int32_t[]){30, 31, 32, 33}, (int32_t[]){31, 32, 33, 34}, 4);
    /* a sample that is too long fills a row by itself */
    o.seq = 3;
    assert_row(&o, path, (int32_t[]){30, 31, 32}, (int32_t[]){31, 32, 33}, 3);
}

/* Every label of every sample once, however they lie. */
static void test_same_labels(void **state)
{
    (void)state;
    int lengths[40], sum = 0;
    for (int k = 0; k < 40; k++)
        sum += (lengths[k] = 2 + k * 7 % 8) - 1;
    const char *path = write_lengths("many.jsonl", lengths, 40);
    for (int pack = 0; pack < 2; pack++)
        for (int batch = 1; batch < 50; batch += 6) {
            int64_t labels = 0, seen = 0;
            PairsOptions o = {
                .batch = batch, .accumulate = 2, .held_out = -1, .vocab = 1000, .pack = pack, .seq = 20};
            Loader *loader = data_pairs(path, &o);
            while (data_epoch(loader) == 0) {
                for (const Batch *b; (b = data_next(loader));) {
                    seen += b->labels_counted;
                    const int32_t *l = tensor_i32(b->labels);
                    for (int64_t i = 0; i < tensor_numel(b->labels); i++)
                        assert_true(l[i] == NONE || l[i] == tensor_i32(b->ids)[i] + 1);
                    assert_true(b->labels_total >= b->labels_counted);
                }
                labels += data_step_labels(loader);
            }
            assert_int_equal(seen, sum);
            assert_int_equal(labels, sum);
            loader_free(loader);
        }
}

/* ---- Parts and order ------------------------------------------------------------------------- */

static void mark_rows(Loader *loader, int *seen)
{
    int64_t epoch = data_epoch(loader);
    while (data_epoch(loader) == epoch)
        for (const Batch *b; (b = data_next(loader));)
            for (int64_t r = 0; r < tensor_dim(b->ids, 0); r++)
                seen[tensor_i32(b->ids)[r * tensor_dim(b->ids, 1)] / 10]++;
}

static void test_parts(void **state)
{
    (void)state;
    int lengths[40];
    for (int k = 0; k < 40; k++)
        lengths[k] = k < 38 ? 4 : 9; /* the held-out part has another width */
    const char *path = write_lengths("parts.jsonl", lengths, 40);
    static const struct {
        float held_out;
        int64_t most;
        int from, to, held;
    } cases[] = {{0, 0, 0, 38, 0},    {0, 0, 38, 40, 1},     {0.25f, 0, 0, 30, 0}, {0.25f, 0, 30, 40, 1},
                 {0.25f, 7, 0, 7, 0}, {0.25f, 3, 30, 33, 1}, {-1, 0, 0, 40, 0},    {0.999f, 0, 0, 1, 0}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        int seen[40] = {0};
        PairsOptions o = {.batch = 4,
                          .held_out = cases[i].held_out,
                          .split = cases[i].held ? DATA_HELD_OUT : DATA_TRAIN,
                          .max_samples = cases[i].most,
                          .vocab = 1000};
        Loader *loader = data_pairs(path, &o);
        assert_int_equal(data_samples(loader), cases[i].to - cases[i].from);
        mark_rows(loader, seen);
        for (int k = 0; k < 40; k++)
            assert_int_equal(seen[k], k >= cases[i].from && k < cases[i].to);
        assert_int_equal(tensor_dim(data_next(loader)->ids, 1), cases[i].to > 38 ? 8 : 3);
        loader_free(loader);
    }
}

static void order_of(Loader *loader, int32_t *first, int count)
{
    for (int i = 0; i < count;)
        for (const Batch *b; (b = data_next(loader));)
            first[i++] = tensor_i32(b->ids)[0];
}

/* By the seed, another each epoch; the held-out part in the order of the file; resumed by its cursor. */
static void test_order(void **state)
{
    (void)state;
    int lengths[30];
    int32_t a[60], b[60], c[60];
    for (int k = 0; k < 30; k++)
        lengths[k] = 2 + k % 5;
    const char *path = write_lengths("order.jsonl", lengths, 30);
    PairsOptions o = {.batch = 1, .held_out = -1, .vocab = 1000, .seed = 3};
    Loader *one = data_pairs(path, &o), *two = data_pairs(path, &o);
    order_of(one, a, 60);
    order_of(two, b, 17);
    DataCursor cursor = data_cursor(two);
    order_of(two, b + 17, 43);
    assert_memory_equal(a, b, sizeof a);
    assert_int_equal(data_seek(one, cursor), 0);
    order_of(one, c + 17, 43);
    assert_memory_equal(a + 17, c + 17, 43 * sizeof *a);
    assert_true(memcmp(a, a + 30, 30 * sizeof *a) != 0);
    o.seed = 4;
    order_of(data_pairs(path, &o), b, 60);
    assert_true(memcmp(a, b, sizeof a) != 0);
    o.split = DATA_HELD_OUT;
    o.held_out = 0.5f;
    order_of(data_pairs(path, &o), c, 15);
    for (int i = 0; i < 15; i++)
        assert_int_equal(c[i], 10 * (15 + i));
}

/* ---- Plans ----------------------------------------------------------------------------------- */

typedef struct Shapes {
    int64_t samples, width, steps, classes;
    char note[512];
} Shapes;

static Shapes shapes_of(const char *path, const PairsOptions *o)
{
    Shapes s = {0};
    Loader *loader = data_pairs(path, o);
    if (!loader)
        fail_msg("%s", error_message());
    const Batch *b = data_next(loader);
    s.samples = data_samples(loader);
    s.width = tensor_dim(b->ids, 1);
    s.steps = data_steps_per_epoch(loader);
    s.classes = data_classes(loader);
    strcpy(s.note, data_note(loader));
    loader_free(loader);
    return s;
}

static const char *write_texts(const char *name)
{
    static char text[40000], out[80000];
    size_t used = 0;
    data_corpus(3, text, sizeof text - 1);
    for (char *c = text; *c; c++)
        *c = *c == '"' || *c == '\\' || (unsigned char)*c < ' ' ? ' ' : *c;
    for (int i = 0; i < 60; i++)
        used += (size_t)sprintf(out + used, "{\"prompt\": \"%.*s\", \"completion\": \"%.*s\"}\n", 5 + i % 17,
                                text + 100 * i, 3 + i * 7 % 31, text + 100 * i + 50);
    return write_file(name, out, used);
}

/* Lengths that were found with a larger vocabulary do not hide that an id is outside this one. */
static void test_larger_vocab(void **state)
{
    (void)state;
    static const char lines[] = "{\"ids\": [1, 200]}\n{\"ids\": [1, 2]}\n";
    const char *path = write_file("ids.jsonl", lines, sizeof lines - 1);
    PairsOptions o = {.batch = 1, .vocab = 300};
    PairsLengths *lengths = data_pairs_lengths(path, &o);
    Context *outside = context_use(context_create(&(ContextOptions){.meta = 1}));
    o.lengths = lengths;
    assert_non_null(data_pairs(path, &o));
    o.vocab = 400;
    assert_non_null(data_pairs(path, &o));
    o.vocab = 100;
    assert_null(data_pairs(path, &o));
    assert_error(ERROR_DATA, "line 1 has 200 as ids[1]", "0 to 99");
    context_destroy(context_use(outside));
    data_pairs_lengths_free(lengths);
}

static void test_summary(void **state)
{
    (void)state;
    static const char lines[] = "{\"ids\": [1, 2, 3]}\n\n{\"ids\": [1, 2]}\n{\"ids\": [1, 2, 3, 4, 5]}\n"
                                "{\"ids\": [5, 4, 3, 2, 1]}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n";
    PairsLengths *lengths =
        data_pairs_lengths(write_file("ids.jsonl", lines, sizeof lines - 1), &(PairsOptions){.vocab = 256});
    assert_non_null(lengths);
    assert_lengths(data_pairs_summary(lengths, 0, 2), (DataLengths){5, 2, 5, 4, 3, 1});
    assert_lengths(data_pairs_summary(lengths, 2, 0), (DataLengths){2, 2, 3, 1, 0, 0});
    data_pairs_lengths_free(lengths);
}

/* What a plan meets is what a run meets, whatever it reads. */
static void test_plan(void **state)
{
    (void)state;
    const char *path = write_texts("texts.jsonl");
    for (int i = 0; i < 32; i++) {
        PairsOptions o = {.batch = 3,
                          .accumulate = 2,
                          .vocab = 500,
                          .pack = i & 1,
                          .seq = i & 2 ? 16 : 0,
                          .split = i & 4 ? DATA_HELD_OUT : DATA_TRAIN,
                          .max_samples = i & 8 ? 11 : 0,
                          .held_out = 0.3f};
        PairsOptions planned = o;
        o.tokenizer = i & 16 ? tokenizer_read(FIXTURES "gpt2.json") : NULL;
        Shapes run = shapes_of(path, &o);
        planned.lengths = data_pairs_lengths(path, &o);
        assert_non_null(planned.lengths);
        for (int known = 0; known < 2; known++) {
            Context *outside = context_use(context_create(&(ContextOptions){.meta = 1}));
            PairsOptions p = planned;
            if (!known) { /* else bytes would be read otherwise than tokens were */
                p.lengths = NULL;
                p.tokenizer = i & 16 ? tokenizer_read(FIXTURES "gpt2.json") : NULL;
            }
            Shapes plan = shapes_of(path, &p);
            assert_int_equal(plan.samples, run.samples);
            assert_int_equal(plan.width, run.width);
            assert_int_equal(plan.steps, run.steps);
            assert_int_equal(plan.classes, run.classes);
            assert_string_equal(plan.note, run.note);
            context_destroy(context_use(outside));
        }
        data_pairs_lengths_free((PairsLengths *)(uintptr_t)planned.lengths);
        tokenizer_free(o.tokenizer);
    }
}

/* Lengths of another file, or of what it was before, are not used. */
static void test_lengths_of_another_file(void **state)
{
    (void)state;
    const char *path = LENGTHS("now.jsonl", 3, 4, 5);
    PairsOptions o = all_of();
    PairsLengths *lengths = data_pairs_lengths(path, &o);
    assert_non_null(lengths);
    LENGTHS("now.jsonl", 3, 4, 5, 6, 7, 8);
    Context *outside = context_use(context_create(&(ContextOptions){.meta = 1}));
    o.lengths = lengths;
    Shapes plan = shapes_of(path, &o);
    assert_int_equal(plan.samples, 6);
    assert_int_equal(plan.width, 7);
    context_destroy(context_use(outside));
    data_pairs_lengths_free(lengths);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Ids of four bytes, a header a sample and a start a row are all that stays. */
static void test_host_memory(void **state)
{
    (void)state;
    int lengths[500], tokens = 0;
    for (int k = 0; k < 500; k++)
        tokens += lengths[k] = 12;
    const char *path = write_lengths("host.jsonl", lengths, 500);
    PairsOptions o = all_of();
    MemTracker *tracker = context_tracker(context_current());
    uint64_t before = memtrack_host_live(tracker);
    Loader *loader = data_pairs(path, &o);
    uint64_t host = memtrack_host_live(tracker) - before;
    assert_in_range(host, tokens * 4 + 500 * 8, tokens * 4 + 512 * 24 + 501 * 8 + 2048);
    loader_free(loader);
    assert_int_equal(memtrack_host_live(tracker), before);
}

static Loader *make_padded(void)
{
    return data_pairs(path_of("texts.jsonl"), &(PairsOptions){.batch = 2, .accumulate = 2, .seq = 12});
}

static Loader *make_packed(void)
{
    PairsOptions o = {.batch = 2, .pack = 1, .seq = 60, .tokenizer = tokenizer_read(FIXTURES "llama2.json")};
    return error_code() ? NULL : data_pairs(path_of("texts.jsonl"), &o);
}

static Loader *make_measured(void)
{
    PairsOptions o = {.batch = 2, .seq = 12};
    PairsLengths *lengths = data_pairs_lengths(path_of("texts.jsonl"), &o);
    Loader *loader = lengths ? data_pairs(path_of("texts.jsonl"), &o) : NULL;
    data_pairs_lengths_free(lengths);
    return loader;
}

/* On meta, in a context of its own: lengths are measured, and nothing is kept. */
static Loader *make_planned(void)
{
    Context *meta = context_create(&(ContextOptions){.meta = 1, .threads = 1});
    if (!meta) {
        error_raise(ERROR_HOST_MEMORY, "no context");
        return NULL;
    }
    Context *outside = context_use(meta);
    Loader *loader = data_pairs(path_of("texts.jsonl"), &(PairsOptions){.seq = 12});
    int code = error_code();
    loader_free(loader);
    context_destroy(context_use(outside));
    if (code)
        error_raise((ErrorCode)code, "of the plan");
    return code ? NULL : data_pairs(path_of("texts.jsonl"), &(PairsOptions){.seq = 12});
}

static Loader *make_from_gz(void)
{
    return data_pairs(path_of("texts.gz"), &(PairsOptions){.batch = 2, .pack = 1, .replace_invalid = 1});
}

static void test_failures(void **state)
{
    (void)state;
    write_texts("texts.jsonl");
    char command[400];
    snprintf(command, sizeof command, "gzip -c %s > %s", path_of("texts.jsonl"), path_of("texts.gz"));
    assert_int_equal(system(command), 0);
    sweep_failures(make_padded);
    sweep_failures(make_packed);
    sweep_failures(make_measured);
    sweep_failures(make_planned);
    sweep_failures(make_from_gz);
}

/* ---- A large file ---------------------------------------------------------------------------- */

/* 100,000 lines: the whole of it is read by a plan, and again by its run. */
static void test_large(void **state)
{
    (void)state;
    enum { LINES = 100000 };
    const char *path = path_of("large.jsonl");
    static char text[1 << 16];
    data_corpus(5, text, sizeof text);
    for (char *c = text; c < text + sizeof text; c++)
        *c = *c == '"' || *c == '\\' || (unsigned char)*c < ' ' ? ' ' : *c;
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < LINES; i++)
        fprintf(file, "{\"prompt\": \"%.*s\", \"completion\": \"%.*s\"}\n", 60 + i % 200, text + i % 60000,
                40 + i % 300, text + i * 7 % 60000);
    assert_int_equal(fclose(file), 0);
    PairsOptions o = {.seq = 300};
    double start = clock_now();
    PairsLengths *lengths = data_pairs_lengths(path, &o);
    double measured = clock_now() - start;
    start = clock_now();
    Loader *loader = data_pairs(path, &o);
    double read = clock_now() - start;
    assert_non_null(data_next(loader));
    assert_int_equal(data_samples(loader), 95000);
    print_message("# %d lines as bytes: measured in %.2f s, read in %.2f s\n", LINES, measured, read);
    assert_true(measured < 20 && read < 20);
    data_pairs_lengths_free(lengths);
    loader_free(loader);
    unlink(path);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(test_padded),       TEST(test_cut),         TEST(test_left_out),
        TEST(test_packed),       TEST(test_same_labels), TEST(test_parts),
        TEST(test_order),        TEST(test_plan),        TEST(test_lengths_of_another_file),
        TEST(test_larger_vocab), TEST(test_summary),     TEST(test_host_memory),
        TEST(test_failures),     TEST(test_large),
    };
    return cmocka_run_group_tests_name("data_pairs rows", tests, make_directory, remove_directory);
}
