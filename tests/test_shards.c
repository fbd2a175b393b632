/* Weights in several files: dealt as transformers deals them, and replaced so that a reader at any moment,
 * and whoever comes after a death at any moment, finds one whole set of weights, old or new, or is told that
 * there is none. */
#include <errno.h>

#include "../base/file_.h"
#include "json_support.h"
#include "weights_support.h"

/* ---- Items ----------------------------------------------------------------------------------- */

enum { TENSORS = 6, MOST = 40 };

static const int sizes[TENSORS] = {3, 2, 40, 6, 5, 1}; /* floats */
static const char *const names[TENSORS] = {"f", "e", "d", "c", "b", "a"};
static float contents[TENSORS][MOST];
static SafetensorsItem items[TENSORS];

/* Every element is this number. */
static void make_items(float generation)
{
    for (int i = 0; i < TENSORS; i++) {
        for (int j = 0; j < MOST; j++)
            contents[i][j] = generation;
        items[i] = (SafetensorsItem){names[i], SAFETENSORS_F32, 1, {sizes[i]}, .data = contents[i]};
    }
}

static int write_generation(float generation, uint64_t shard)
{
    make_items(generation);
    return safetensors_write_shards(at("m"), items, TENSORS, shard);
}

static char why_not[512];

/* The generation that all tensors have; 0 when there is no set to be read; fails on a mixture. */
static float read_generation(void)
{
    Safetensors *s = safetensors_open(at("m"));
    float generation = 0;
    if (!s) {
        snprintf(why_not, sizeof why_not, "%s", error_message());
        error_clear();
        return 0;
    }
    assert_int_equal(safetensors_count(s), TENSORS);
    for (int i = 0; i < TENSORS; i++) {
        const SafetensorsEntry *e = safetensors_find(s, names[i]);
        assert_non_null(e);
        assert_int_equal(e->numel, sizes[i]);
        for (int j = 0; j < sizes[i]; j++) {
            generation = generation > 0 ? generation : safetensors_f32(e)[j];
            if (safetensors_f32(e)[j] != generation)
                fail_msg("%s is of generation %g, others of %g", names[i], (double)safetensors_f32(e)[j],
                         (double)generation);
        }
    }
    safetensors_close(s);
    return generation;
}

static int has(const char *name)
{
    char inside[64];
    snprintf(inside, sizeof inside, "m/%s", name);
    return access(at(inside), F_OK) == 0;
}

static FileCalls real;

static int make_place(void **state)
{
    if (!real.open)
        real = file_calls;
    file_calls = real;
    return make_folder(state) || mkdir(at("m"), 0777);
}

#define PLACE(name) cmocka_unit_test_setup_teardown(name, make_place, remove_folder)

/* ---- Which tensor goes where ----------------------------------------------------------------- */

static void file_is(const Safetensors *s, const char *name, const char *file)
{
    assert_string_equal(safetensors_find(s, name)->file, file);
}

static void test_deal(void **state)
{
    (void)state;
    size_t n;
    /* 12 + 8 fit into 24, and 24; the 160 bytes have a file of their own, and what comes next goes on. */
    assert_int_equal(write_generation(1, 24), 0);
    assert_int_equal(files_in(at("m")), 5);
    Safetensors *s = safetensors_open(at("m"));
    file_is(s, "d", "model-00001-of-00004.safetensors");
    file_is(s, "f", "model-00002-of-00004.safetensors");
    file_is(s, "e", "model-00002-of-00004.safetensors");
    file_is(s, "c", "model-00003-of-00004.safetensors");
    file_is(s, "b", "model-00004-of-00004.safetensors");
    file_is(s, "a", "model-00004-of-00004.safetensors");
    safetensors_close(s);
    char *index = (char *)get_file(at("m/model.safetensors.index.json"), &n);
    assert_string_equal(index, "{\n  \"metadata\": {\n    \"total_size\": 228\n  },\n  \"weight_map\": {\n"
                               "    \"a\": \"model-00004-of-00004.safetensors\",\n"
                               "    \"b\": \"model-00004-of-00004.safetensors\",\n"
                               "    \"c\": \"model-00003-of-00004.safetensors\",\n"
                               "    \"d\": \"model-00001-of-00004.safetensors\",\n"
                               "    \"e\": \"model-00002-of-00004.safetensors\",\n"
                               "    \"f\": \"model-00002-of-00004.safetensors\"\n  }\n}\n");
    test_free(index);
    assert_int_equal(write_generation(2, 228), 0); /* all of it */
    assert_int_equal(files_in(at("m")), 1);
    assert_true(has("model.safetensors") && read_generation() == 2);
    assert_int_equal(write_generation(3, 227), 0);
    assert_true(files_in(at("m")) == 3 && read_generation() == 3);
    assert_int_equal(write_generation(4, 0), 0); /* 50 GB */
    assert_true(files_in(at("m")) == 1 && read_generation() == 4);
    assert_int_equal(write_generation(5, 1), 0); /* each its own */
    assert_true(files_in(at("m")) == TENSORS + 1 && read_generation() == 5);
    assert_int_equal(safetensors_write_shards(at("m"), NULL, 0, 1), 0);
    assert_int_equal(files_in(at("m")), 1);
}

static void test_bad(void **state)
{
    (void)state;
    static SafetensorsItem many[5000];
    static char text[5000][16];
    for (int i = 0; i < 5000; i++) {
        snprintf(text[i], sizeof text[i], "t%d", i);
        many[i] = (SafetensorsItem){text[i], SAFETENSORS_U8, 1, {1}, .data = text[i]};
    }
    assert_int_equal(safetensors_write_shards(at("m"), many, 5000, 1), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "m: 5000 files of at most 1 bytes", "more than 4096");
    assert_int_equal(safetensors_write_shards(NULL, many, 2, 1), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "directory is NULL");
    assert_int_equal(safetensors_write_shards(at("m"), NULL, 2, 1), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "there are no items");
    many[1].name = "t0"; /* in two files */
    assert_int_equal(safetensors_write_shards(at("m"), many, 2, 1), ERROR_DATA);
    assert_error(ERROR_DATA, "\"t0\" occurs twice");
    many[1].name = "\xff";
    assert_int_equal(safetensors_write_shards(at("m"), many, 2, 1), ERROR_DATA);
    assert_error(ERROR_DATA, "not UTF-8");
    many[1] = (SafetensorsItem){"t1", SAFETENSORS_F32, 1, {-1}, .data = text};
    assert_int_equal(safetensors_write_shards(at("m"), many, 2, 1), ERROR_DATA);
    assert_error(ERROR_DATA, "\"t1\" has no name");
    const float huge = 1e6f;
    many[1] = (SafetensorsItem){"t1", SAFETENSORS_F16, 0, {0}, .data = &huge};
    assert_int_equal(safetensors_write_shards(at("m"), many, 2, 1), ERROR_NONFINITE);
    assert_error(ERROR_NONFINITE, "\"t1\" holds 1e+06");
    assert_int_equal(files_in(at("m")), 0);
    assert_int_equal(safetensors_write_shards(at("none"), many, 1, 1), ERROR_FILE);
    assert_error(ERROR_FILE, "No such file");
}

/* ---- System calls that fail, and readers at each of them ------------------------------------- */

static int calls, failing, cause; /* the number of the call that fails; 0 = none */
static float old_generation, new_generation;
static int may_be_none, none_seen;

/* Who reads between two calls, which is also who comes after a death there. */
static int reached(void)
{
    if (error_code()) { /* nothing is read after an error until it is cleared */
        calls++;
        return 0;
    }
    float found = read_generation();
    if (found <= 0 && !may_be_none)
        fail_msg("before call %d (%d fails) there is nothing to be read: %s", calls + 1, failing, why_not);
    if (found > 0 && found != old_generation && found != new_generation)
        fail_msg("before call %d generation %g is read", calls + 1, (double)found);
    none_seen += found <= 0;
    if (++calls != failing)
        return 0;
    errno = cause;
    return 1;
}

/* Nobody cuts the power here, and a disk is slow. */
static int quick_fsync(int file)
{
    return file < 0;
}

static int bad_open(const char *path, int flags, mode_t mode)
{
    return reached() ? -1 : real.open(path, flags, mode);
}

static ssize_t bad_write(int file, const void *bytes, size_t count)
{
    return reached() ? -1 : real.write(file, bytes, count > 100 ? count / 2 : count); /* short ones */
}

static int bad_fsync(int file)
{
    return reached() ? -1 : quick_fsync(file);
}

static int bad_rename(const char *from, const char *to)
{
    return reached() ? -1 : real.rename(from, to);
}

static int bad_unlink(const char *path)
{
    return reached() ? -1 : real.unlink(path);
}

static void fail_call(int number, int with)
{
    calls = none_seen = 0;
    failing = number;
    cause = with;
    file_calls.open = bad_open;
    file_calls.write = bad_write;
    file_calls.fsync = bad_fsync;
    file_calls.rename = bad_rename;
    file_calls.unlink = bad_unlink;
}

typedef struct Change {
    uint64_t from, to; /* shard sizes */
    int same;          /* shards of the same names: for some moments there may be none */
} Change;

static const Change changes[] = {
    {0, 24, 0},  /* one file → 4 */
    {24, 0, 0},  /* 4 → one */
    {24, 45, 0}, /* 4 → 3 */
    {24, 24, 1}, /* 4 → 4 */
    {0, 0, 0},
};

/* One change from scratch with one call that fails. Returns how many calls there were. */
static int change(const Change *c, int number, int with, int *status)
{
    char command[128];
    snprintf(command, sizeof command, "rm -f %s/m/*", folder);
    assert_int_equal(system(command), 0);
    real.fsync = quick_fsync;
    file_calls = real;
    old_generation = 1;
    new_generation = 2;
    may_be_none = c->same;
    assert_int_equal(write_generation(1, c->from), 0);
    fail_call(number, with);
    *status = write_generation(2, c->to);
    file_calls = real;
    return calls;
}

static int temporaries(void)
{
    int count = 0;
    DIR *directory = opendir(at("m"));
    for (struct dirent *entry; (entry = readdir(directory));)
        count += strstr(entry->d_name, ".tmp-") != NULL;
    closedir(directory);
    return count;
}

/* Every call in turn fails with a full disk; every moment is seen by a reader. */
static void test_every_call(void **state)
{
    (void)state;
    for (size_t k = 0; k < COUNT(changes); k++) {
        int status, total = change(&changes[k], 0, 0, &status);
        assert_int_equal(status, 0);
        assert_true(total > 8 && read_generation() == 2);
        assert_int_equal(none_seen > 0, changes[k].same);
        assert_int_equal(temporaries(), 0);
        int stale = files_in(at("m"));
        write_generation(3, changes[k].to);
        assert_int_equal(files_in(at("m")), stale);
        for (int n = 1; n <= total; n++) {
            change(&changes[k], n, ENOSPC, &status);
            char said[512];
            snprintf(said, sizeof said, "%s", error_message());
            if (status)
                assert_error(ERROR_FILE, "m");
            float found = read_generation();
            if (found <= 0) /* and who reads the message knows */
                assert_non_null(strstr(said, "export again"));
            if (strstr(said, "is unchanged"))
                assert_true(found == 1);
            assert_true(status ? found == 1 || found == 2 || changes[k].same : found == 2);
            assert_true(temporaries() <= 1); /* one, when it is the removing that failed */
            assert_int_equal(write_generation(4, changes[k].to), 0); /* goes on as if nothing had been */
            assert_true(read_generation() == 4);
        }
    }
}

static void test_full_disk(void **state)
{
    (void)state;
    int status, total = change(&changes[0], 0, 0, &status);
    change(&changes[0], total - 9, ENOSPC, &status); /* still writing */
    assert_int_equal(status, ERROR_FILE);
    assert_error(ERROR_FILE, "No space left on device");
    assert_true(read_generation() == 1);
    assert_int_equal(temporaries(), 0);
}

/* What would be read before the new shards must go, or it is an error. */
static void test_cannot_remove(void **state)
{
    (void)state;
    int seen = 0, status, total = change(&changes[0], 0, 0, &status);
    for (int n = 1; n <= total; n++) {
        change(&changes[0], n, EPERM, &status);
        if (status && strstr(error_message(), "is what readers take")) {
            seen++;
            assert_error(ERROR_FILE, "m: the model.safetensors that was there cannot be removed",
                         "Operation not permitted");
            assert_true(read_generation() == 1);
        }
        error_clear();
    }
    assert_int_equal(seen, 1);
}

/* Of what is not ours nothing goes. */
static void test_other_files(void **state)
{
    (void)state;
    static const char *const others[] = {
        "m/model-00001-of-00004.bin",     "m/notes",
        "m/x-00001-of-00004.safetensors", "m/model-00001-of-00004.safetensors.bak",
        "m/optimizer.safetensors",        "m/pytorch_model.bin"};
    for (size_t i = 0; i < COUNT(others); i++)
        put_file(at(others[i]), "x", 1);
    put_file(at("m/model-00007-of-00009.safetensors"), "x", 1); /* left of an earlier one */
    assert_int_equal(write_generation(1, 24), 0);
    assert_false(has("model-00007-of-00009.safetensors"));
    assert_int_equal(write_generation(1, 0), 0);
    assert_int_equal(files_in(at("m")), 1 + COUNT(others));
    for (size_t i = 0; i < COUNT(others); i++)
        assert_int_equal(access(at(others[i]), F_OK), 0);
}

/* ---- No memory ------------------------------------------------------------------------------- */

static void test_no_memory(void **state)
{
    (void)state;
    assert_int_equal(write_generation(1, 24), 0);
    uint64_t live = memtrack_process_live();
    int n = 1, status = 1;
    for (int passed = 0; !passed; n++) {
        memtrack_fail_nth((uint64_t)n);
        status = write_generation(2, 24);
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(status, passed ? 0 : ERROR_HOST_MEMORY);
        assert_int_equal(memtrack_process_live(), live);
        error_clear();
        assert_true(read_generation() == (passed ? 2 : 1));
        assert_int_equal(files_in(at("m")), 5);
    }
    assert_true(n > 6);
    for (n = 0, status = 1; status; n++) {
        json_allow(n);
        status = write_generation(3, 24);
        json_allow_all();
        assert_int_equal(json_live, 0);
        assert_int_equal(memtrack_process_live(), live);
        assert_int_equal(status, status ? ERROR_HOST_MEMORY : 0);
        error_clear();
        assert_true(read_generation() == (status ? 2 : 3));
    }
    assert_true(n > 50);
    assert_int_equal(files_in(at("m")), 5);
}

/* ---- Models ---------------------------------------------------------------------------------- */

static void test_models(void **state)
{
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        ModelPreset preset = small_preset(&(Setting){.family = (ModelFamily)i});
        Module *model = nn_model(&preset), *other = nn_model(&preset);
        TensorList a = nn_parameters(model), b = nn_parameters(other);
        for (int type = SAFETENSORS_F32; type <= SAFETENSORS_BF16; type++) {
            WeightsSaving how = {.type = (SafetensorsType)type, .shard = 1000, .overwrite = 1};
            for (int p = 0; p < a.count; p++) {
                int64_t numel = tensor_numel(a.items[p]);
                for (int64_t j = 0; j < numel; j++) /* exact in every type */
                    tensor_f32(a.items[p])[j] = (float)(hash32((uint32_t)(j + p * 7919)) % 255) / 16;
                tensor_fill(b.items[p], -1);
            }
            assert_int_equal(io_save_weights(model, &preset, at("m"), &how), 0);
            assert_true(has("model.safetensors.index.json") && !has("model.safetensors"));
            assert_int_equal(io_load_weights(other, at("m"), NULL, NULL), 0);
            for (int p = 0; p < a.count; p++)
                assert_memory_equal(tensor_f32(a.items[p]), tensor_f32(b.items[p]),
                                    (size_t)tensor_numel(a.items[p]) * sizeof(float));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        PLACE(test_deal),          PLACE(test_bad),         PLACE(test_every_call), PLACE(test_full_disk),
        PLACE(test_cannot_remove), PLACE(test_other_files), PLACE(test_no_memory),  PLACE(test_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
