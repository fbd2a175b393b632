/* IDX images: small sets written here, damaged ones, and the real Fashion-MNIST where it is installed. */
#include <sys/stat.h>
#include <zlib.h>

#include "test_data_.h"

#define PIXELS 6 /* 2 x 3 */

static unsigned char images[16 + 50 * PIXELS], labels[8 + 50];

static void number(unsigned char *at, uint32_t n)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(n >> (24 - 8 * i));
}

/* Fills the two files' bytes: image i is i*5, i*5 + 1 …; label i % 7. */
static void compose(uint32_t count)
{
    number(images, 0x803);
    number(images + 4, count);
    number(images + 8, 2);
    number(images + 12, 3);
    number(labels, 0x801);
    number(labels + 4, count);
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t j = 0; j < PIXELS; j++)
            images[16 + i * PIXELS + j] = (unsigned char)(i * 5 + j);
        labels[8 + i] = (unsigned char)(i % 7);
    }
}

static size_t images_size(uint32_t count)
{
    return 16 + count * PIXELS;
}

static const char *write_gz(const char *name, const void *bytes, size_t count)
{
    const char *path = path_of(name);
    gzFile file = gzopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(gzwrite(file, bytes, (unsigned)count), count);
    assert_int_equal(gzclose(file), Z_OK);
    return path;
}

static int prepare(void **state)
{
    if (make_directory(state) != 0)
        return -1;
    compose(30); /* the training part plain, the held-out part compressed */
    write_file("train-images-idx3-ubyte", images, images_size(30));
    write_file("train-labels-idx1-ubyte", labels, 8 + 30);
    compose(11);
    write_gz("t10k-images-idx3-ubyte.gz", images, images_size(11));
    write_gz("t10k-labels-idx1-ubyte.gz", labels, 8 + 11);
    return 0;
}

static Loader *load(ImageOptions o)
{
    return data_images(directory, &o);
}

static void check_image(const Batch *b, int row, int image)
{
    for (int j = 0; j < PIXELS; j++)
        assert_true(tensor_f32(b->features)[row * PIXELS + j] == (float)(image * 5 + j) / 255.0f);
    assert_int_equal(tensor_i32(b->labels)[row], image % 7);
}

static void test_train(void **state)
{
    (void)state;
    Loader *loader = load((ImageOptions){.batch = 8, .accumulate = 2, .seed = 4});
    assert_int_equal(data_samples(loader), 30);
    assert_int_equal(data_classes(loader), 7);
    assert_int_equal(data_width(loader), PIXELS);
    assert_int_equal(data_steps_per_epoch(loader), 2);
    int seen[30] = {0}, moved = 0;
    for (int at = 0; at < 30;) {
        for (const Batch *b; (b = data_next(loader));) {
            assert_null(b->ids);
            assert_int_equal(tensor_dim(b->features, 1), PIXELS);
            assert_int_equal(tensor_shape(b->labels).ndim, 1);
            assert_int_equal(b->labels_total, at < 16 ? 16 : 14);
            for (int i = 0; i < tensor_dim(b->features, 0); i++, at++) {
                int image = (int)(tensor_f32(b->features)[i * PIXELS] * 255 / 5 + 0.5f);
                check_image(b, i, image);
                seen[image]++;
                moved += image != at;
            }
        }
    }
    for (int i = 0; i < 30; i++)
        assert_int_equal(seen[i], 1);
    assert_true(moved > 15);
    assert_int_equal(error_code(), 0);
}

static void test_held_out(void **state)
{
    (void)state;
    Loader *loader = load((ImageOptions){.batch = 4, .split = DATA_HELD_OUT, .seed = 4});
    assert_int_equal(data_samples(loader), 11);
    for (int at = 0; at < 22;)
        for (const Batch *b; (b = data_next(loader));)
            for (int i = 0; i < tensor_dim(b->features, 0); i++, at++)
                check_image(b, i, at % 11); /* in order */
    assert_int_equal(data_epoch(loader), 2);
}

static void test_first_samples_only(void **state)
{
    (void)state;
    Loader *loader = load((ImageOptions){.batch = 4, .max_samples = 3});
    assert_int_equal(data_samples(loader), 3);
    assert_int_equal(data_classes(loader), 7); /* of all labels: the model stays the same */
    int sum = 0;
    const Batch *b = data_next(loader);
    for (int i = 0; i < 3; i++)
        sum += tensor_i32(b->labels)[i];
    assert_int_equal(sum, 0 + 1 + 2);
    assert_int_equal(data_samples(load((ImageOptions){.max_samples = 99})), 30);
}

static void test_meta(void **state)
{
    (void)state;
    for (int split = 0; split < 2; split++) {
        int64_t shapes[2][64] = {{0}}, peak[2];
        for (int meta = 0; meta < 2; meta++) {
            Context *outside = context_use(context_create(&(ContextOptions){.meta = meta, .threads = 1}));
            uint64_t host = memtrack_host_live(context_tracker(context_current()));
            Loader *loader = load((ImageOptions){.batch = 4, .accumulate = 2, .split = (DataSplit)split});
            if (meta) /* no pixels: the labels and headers */
                assert_true(memtrack_host_live(context_tracker(context_current())) - host < 1600);
            int n = 0;
            shapes[meta][n++] = data_samples(loader);
            shapes[meta][n++] = data_classes(loader);
            shapes[meta][n++] = data_width(loader);
            while (data_epoch(loader) < 3)
                for (const Batch *b; (b = data_next(loader));)
                    shapes[meta][n++] = tensor_numel(b->features);
            peak[meta] = (int64_t)memtrack_stats(context_ledger(context_current()))->peak;
            assert_int_equal(error_code(), 0);
            context_destroy(context_use(outside));
        }
        assert_memory_equal(shapes[0], shapes[1], sizeof shapes[0]);
        assert_int_equal(peak[0], peak[1]);
    }
}

static void test_cursor(void **state)
{
    (void)state;
    for (int cut = 0; cut < 7; cut++) {
        Loader *loader = load((ImageOptions){.batch = 4, .accumulate = 2, .seed = 6});
        for (int step = 0; step < cut; step++)
            while (data_next(loader))
                ;
        Loader *again = load((ImageOptions){.batch = 4, .accumulate = 2});
        assert_int_equal(data_seek(again, data_cursor(loader)), 0);
        for (int i = 0; i < 30; i++) {
            const Batch *a = data_next(loader), *b = data_next(again);
            assert_int_equal(a != NULL, b != NULL);
            if (a)
                assert_true(digest_batch(a) == digest_batch(b));
        }
        loader_free(loader);
        loader_free(again);
    }
}

static Loader *make_train(void)
{
    return load((ImageOptions){.batch = 4, .accumulate = 2});
}

static Loader *make_held_out(void)
{
    return load((ImageOptions){.batch = 4, .split = DATA_HELD_OUT});
}

static void test_failing_allocations(void **state)
{
    (void)state;
    sweep_failures(make_train);
    sweep_failures(make_held_out);
}

/* ---- Damage ---------------------------------------------------------------------------------- */

static char outer[64];

/* The following tests write bad training files into a directory of their own. */
static int begin_damage(void **state)
{
    strcpy(outer, directory);
    int failed = make_directory(state);
    compose(50);
    write_file("train-images-idx3-ubyte", images, images_size(50));
    write_file("train-labels-idx1-ubyte", labels, 8 + 50);
    return failed || begin(state);
}

static int end_damage(void **state)
{
    int failed = remove_directory(state);
    strcpy(directory, outer);
    return end(state) || failed;
}

static void refuse(void)
{
    uint64_t peak_before = memtrack_host_peak(context_tracker(context_current()));
    assert_null(load((ImageOptions){0}));
    assert_true(memtrack_host_peak(context_tracker(context_current())) - peak_before < 200000);
}

static void test_whole(void **state)
{
    (void)state;
    assert_int_equal(data_samples(load((ImageOptions){0})), 50);
    assert_int_equal(error_code(), 0);
}

static void test_missing(void **state)
{
    (void)state;
    assert_null(data_images(path_of("nowhere"), NULL));
    assert_error(ERROR_FILE, "nowhere is not a directory");
    assert_null(data_images(path_of("train-labels-idx1-ubyte"), NULL));
    assert_error(ERROR_FILE, "is not a directory");
    assert_null(data_images(NULL, NULL));
    assert_error(ERROR_ARGUMENT, "directory is NULL", "fashion-mnist");
    assert_null(load((ImageOptions){.split = DATA_HELD_OUT}));
    assert_error(ERROR_FILE, "there is neither", "t10k-labels-idx1-ubyte.gz");
    assert_int_equal(unlink(path_of("train-images-idx3-ubyte")), 0);
    assert_int_equal(mkdir(path_of("train-images-idx3-ubyte"), 0777), 0);
    refuse();
    assert_error(ERROR_FILE, "train-images-idx3-ubyte is a directory");
    char path[5000];
    memset(path, '/', sizeof path);
    memcpy(path, directory, strlen(directory));
    path[4097] = '\0'; /* more than a path may have: the message is cut, the library does not */
    assert_null(data_images(path, NULL));
    assert_error(ERROR_FILE, directory);
    path[4090] = '\0';
    assert_null(data_images(path, NULL));
    assert_error(ERROR_FILE, "too long");
}

static void test_bad_magic(void **state)
{
    (void)state;
    write_file("train-images-idx3-ubyte", labels, 58);
    refuse();
    assert_error(ERROR_DATA, "train-images-idx3-ubyte begins with 0x00000801", "0x00000803");
    write_file("train-labels-idx1-ubyte", "hello, world", 12);
    refuse();
    assert_error(ERROR_DATA, "train-labels-idx1-ubyte begins with 0x68656C6C", "0x00000801");
}

static void test_truncated(void **state)
{
    (void)state;
    static const size_t headers[] = {0, 3, 4, 9, 15};
    for (size_t i = 0; i < COUNT(headers); i++) {
        write_file("train-images-idx3-ubyte", images, headers[i]);
        refuse();
        char expected[64];
        snprintf(expected, sizeof expected, "ends at byte %zu within its header of 16", headers[i]);
        assert_error(ERROR_DATA, expected);
    }
    static const size_t sizes[] = {16, 17, 16 + 49 * PIXELS, 16 + 50 * PIXELS - 1};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        write_file("train-images-idx3-ubyte", images, sizes[i]);
        refuse();
        char expected[64];
        snprintf(expected, sizeof expected, "50 x 6 bytes, it ends after %zu", sizes[i] - 16);
        assert_error(ERROR_DATA, "train-images-idx3-ubyte is cut short", expected);
    }
    /* what is left is enough for who wants no more */
    assert_non_null(load((ImageOptions){.max_samples = 49}));
    assert_int_equal(error_code(), 0);
}

static void test_trailing(void **state)
{
    (void)state;
    unsigned char more[16 + 51 * PIXELS] = {0};
    memcpy(more, images, images_size(50));
    write_file("train-images-idx3-ubyte", more, images_size(50) + 1);
    refuse();
    assert_error(ERROR_DATA, "more than the 50 items");
}

static void test_counts_differ(void **state)
{
    (void)state;
    compose(49);
    write_file("train-labels-idx1-ubyte", labels, 8 + 49);
    refuse();
    assert_error(ERROR_DATA, "50 train images and 49 labels");
}

/* A header may promise anything; nothing is allocated for it. */
static void test_huge_claims(void **state)
{
    (void)state;
    static const struct {
        uint32_t dims[3];
        const char *message;
    } cases[] = {
        {{0x7FFFFFFF, 28, 28}, "2147483647 x 784 bytes, it ends after 300"},
        {{10000000, 1000, 1}, "10000000 x 1000 bytes, it ends after 300"},
        {{0x7FFFFFFF, 0x7FFFFFFF, 1}, "it ends after 300"},
        {{50, 0x7FFFFFFF, 2}, "images of 2147483647 x 2 pixels"},
        {{0xFFFFFFFF, 2, 3}, "dimension 0 is 4294967295"},
        {{50, 0, 3}, "dimension 1 is 0"},
        {{0, 2, 3}, "dimension 0 is 0"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        for (int k = 0; k < 3; k++)
            number(images + 4 + 4 * k, cases[i].dims[k]);
        write_file("train-images-idx3-ubyte", images, images_size(50));
        refuse();
        assert_error(ERROR_DATA, cases[i].message);
    }
    number(labels + 4, 0x7FFFFFFF);
    write_file("train-labels-idx1-ubyte", labels, 8 + 50);
    refuse();
    assert_error(ERROR_DATA, "2147483647 x 1 bytes, it ends after 50");
}

/* Cut and changed anywhere, a compressed file is refused; or it was changed where nothing depends on it. */
static void test_damaged_gz(void **state)
{
    (void)state;
    unsigned char good[1024], bad[1024];
    assert_int_equal(unlink(path_of("train-images-idx3-ubyte")), 0);
    FILE *file = fopen(write_gz("train-images-idx3-ubyte.gz", images, images_size(50)), "rb");
    assert_non_null(file);
    size_t size = fread(good, 1, sizeof good, file);
    assert_int_equal(fclose(file), 0);
    assert_in_range(size, 30, 1000);
    Loader *loader = load((ImageOptions){.batch = 50});
    uint64_t right = digest_batch(data_next(loader));
    assert_int_equal(error_code(), 0);

    write_file("train-images-idx3-ubyte.gz", good, size / 2);
    refuse();
    assert_error(ERROR_FILE, "train-images-idx3-ubyte.gz is damaged", "unexpected end of file");
    for (size_t cut = 0; cut < size; cut++) {
        write_file("train-images-idx3-ubyte.gz", good, cut);
        refuse();
        assert_true(error_code() == ERROR_FILE || error_code() == ERROR_DATA);
        error_clear();
    }
    int refused = 0;
    for (size_t at = 0; at < size; at++) {
        memcpy(bad, good, size);
        bad[at] ^= 0x41;
        write_file("train-images-idx3-ubyte.gz", bad, size);
        Loader *other = load((ImageOptions){.batch = 50});
        if (other)
            assert_true(digest_batch(data_next(other)) == right);
        else
            assert_true(error_code() == ERROR_FILE || error_code() == ERROR_DATA);
        refused += !other;
        error_clear();
        loader_free(other);
    }
    assert_true(refused > (int)size - 10); /* a gzip header holds a time and a system of no importance */
}

static void test_bad_options(void **state)
{
    (void)state;
    assert_null(load((ImageOptions){.batch = -1}));
    assert_error(ERROR_ARGUMENT, "data_images: batch is -1", "0 means 128");
    assert_null(load((ImageOptions){.accumulate = -9}));
    assert_error(ERROR_ARGUMENT, "accumulate is -9");
    assert_null(load((ImageOptions){.max_samples = -1}));
    assert_error(ERROR_ARGUMENT, "max_samples is -1");
    assert_null(load((ImageOptions){.split = (DataSplit)2}));
    assert_error(ERROR_ARGUMENT, "split is 2");
}

/* ---- Fashion-MNIST --------------------------------------------------------------------------- */

static void test_override(void **state)
{
    (void)state;
    setenv("BRIM_FASHION_MNIST", directory, 1);
    assert_int_equal(data_samples(data_images("fashion-mnist", NULL)), 50);
    setenv("BRIM_FASHION_MNIST", "/nowhere", 1);
    assert_null(data_images("fashion-mnist", NULL));
    assert_error(ERROR_FILE, "/nowhere", "apt install dataset-fashion-mnist", "BRIM_FASHION_MNIST");
    unsetenv("BRIM_FASHION_MNIST");
}

static void test_fashion_mnist(void **state)
{
    (void)state;
    if (access("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz", R_OK) != 0)
        skip();
    Loader *held = data_images("fashion-mnist", &(ImageOptions){.batch = 500, .split = DATA_HELD_OUT});
    assert_int_equal(data_samples(held), 10000);
    assert_int_equal(data_width(held), 784);
    assert_int_equal(data_classes(held), 10);
    int each[10] = {0};
    double sum = 0;
    while (data_epoch(held) == 0)
        for (const Batch *b; (b = data_next(held));) {
            for (int i = 0; i < 500; i++)
                each[tensor_i32(b->labels)[i]]++;
            for (int i = 0; i < 500 * 784; i++)
                sum += (double)tensor_f32(b->features)[i];
        }
    for (int i = 0; i < 10; i++)
        assert_int_equal(each[i], 1000);
    assert_true(sum / (10000 * 784) > 0.2868 && sum / (10000 * 784) < 0.2869); /* known: 0.2868 */
    Loader *train = data_images("fashion-mnist", &(ImageOptions){.max_samples = 200});
    assert_int_equal(data_samples(train), 200);
    Context *outside = context_use(context_create(&(ContextOptions){.meta = 1, .threads = 1}));
    Loader *planned = data_images("fashion-mnist", NULL);
    assert_int_equal(data_samples(planned), 60000);
    assert_int_equal(data_steps_per_epoch(planned), 469);
    assert_int_equal(data_classes(planned), 10);
    context_destroy(context_use(outside));
    assert_int_equal(error_code(), 0);
}

int main(void)
{
    unsetenv("BRIM_FASHION_MNIST");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_train, begin, end),
        cmocka_unit_test_setup_teardown(test_held_out, begin, end),
        cmocka_unit_test_setup_teardown(test_first_samples_only, begin, end),
        cmocka_unit_test_setup_teardown(test_meta, begin, end),
        cmocka_unit_test_setup_teardown(test_cursor, begin, end),
        cmocka_unit_test_setup_teardown(test_failing_allocations, begin, end),
        cmocka_unit_test_setup_teardown(test_whole, begin_damage, end_damage),
        cmocka_unit_test_setup_teardown(test_missing, begin_damage, end_damage),
        cmocka_unit_test_setup_teardown(test_bad_magic, begin_damage, end_damage),
        cmocka_unit_test_setup_teardown(test_truncated, begin_damage, end_damage),
        cmocka_unit_test_setup_teardown(test_trailing, begin_damage, end_damage),
        cmocka_unit_test_setup_teardown(test_counts_differ, begin_damage, end_damage),
        cmocka_unit_test_setup_teardown(test_huge_claims, begin_damage, end_damage),
        cmocka_unit_test_setup_teardown(test_damaged_gz, begin_damage, end_damage),
        cmocka_unit_test_setup_teardown(test_bad_options, begin_damage, end_damage),
        cmocka_unit_test_setup_teardown(test_override, begin_damage, end_damage),
        cmocka_unit_test_setup_teardown(test_fashion_mnist, begin, end),
    };
    return cmocka_run_group_tests_name("data_images", tests, prepare, remove_directory);
}
