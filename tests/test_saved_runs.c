/* The directory of a run's saves: how many stay, whose files are touched, what a save of the same step
 * replaces and when it comes back, one run at a time. */
#include "json_support.h"
#include "resume_support.h"

static void test_keep(void **state)
{
    (void)state;
    for (int keep = 0; keep <= 3; keep++) {
        const char *directory = at("keep");
        Tiny t = tiny();
        tiny_train(&t, directory, 6, keep);
        assert_fine();
        for (int step = 1; step <= 6; step++)
            assert_int_equal(exists(at("keep/step-%08d", step)), step > 6 - (keep ? keep : 2));
        SavedRunFound found;
        assert_int_equal(io_find_saved_run(directory, &found), 0);
        assert_int_equal(found.step, 6);
        assert_string_equal(found.path, at("keep/step-00000006"));
        assert_string_equal(found.note, "");
        tiny_end(&t);
        empty(directory);
    }
}

/* What is not ours stays; what a link points to stays. */
static void test_others_files_stay(void **state)
{
    (void)state;
    const char *directory = at("mixed");
    mkdir(directory, 0777);
    mkdir(at("elsewhere"), 0777);
    spill(at("elsewhere/precious"), "x", 1);
    spill(at("mixed/step-1"), "x", 1);
    spill(at("mixed/notes.tmp-1"), "x", 1);
    assert_int_equal(symlink(at("elsewhere"), at("mixed/step-00000001")), 0);
    assert_int_equal(symlink(at("elsewhere"), at("mixed/step-00000002.tmp-1")), 0);
    Tiny t = tiny();
    tiny_step(&t);
    tiny_step(&t);
    tiny_train(&t, directory, 5, 1);
    assert_fine();
    int lock = io_lock_saved_runs(directory);
    assert_true(lock >= 0);
    io_unlock_saved_runs(lock);
    assert_true(exists(at("elsewhere/precious")));
    assert_true(exists(at("mixed/step-1")));
    assert_true(exists(at("mixed/notes.tmp-1")));
    assert_false(exists(at("mixed/step-00000001")));
    assert_false(exists(at("mixed/step-00000002.tmp-1")));
    tiny_end(&t);
}

static void test_same_step_is_replaced(void **state)
{
    (void)state;
    Tiny t = tiny();
    tiny_train(&t, at("again"), 2, 2);
    spill(at("again/step-00000002/model.safetensors"), "damaged", 7);
    assert_int_equal(io_save_run(at("again"), &t.run), 0);
    SavedRunFound found;
    assert_int_equal(io_find_saved_run(at("again"), &found), 0);
    assert_int_equal(found.step, 2);
    assert_string_equal(found.note, "");
    tiny_end(&t);
}

/* A process dies between the two renames that put a save in the place of one of the same step. */
static void test_a_replaced_one_comes_back(void **state)
{
    (void)state;
    Tiny t = tiny();
    SavedRunFound found;
    tiny_train(&t, at("back"), 2, 1);
    assert_int_equal(rename(at("back/step-00000002"), at("back/step-00000002.tmp-1-old")), 0);
    assert_int_equal(mkdir(at("back/step-00000002.tmp-1"), 0777), 0);
    assert_int_equal(mkdir(at("back/step-00000001.tmp-1-gone"), 0777), 0);
    int lock = io_lock_saved_runs(at("back"));
    assert_true(lock >= 0);
    io_unlock_saved_runs(lock);
    assert_int_equal(io_find_saved_run(at("back"), &found), 0);
    assert_int_equal(found.step, 2);
    assert_string_equal(found.note, "");
    assert_false(exists(at("back/step-00000002.tmp-1")) || exists(at("back/step-00000001.tmp-1-gone")));
    /* Where the new one has the name, the old one is a leftover. */
    assert_int_equal(mkdir(at("back/step-00000002.tmp-1-old"), 0777), 0);
    io_unlock_saved_runs(io_lock_saved_runs(at("back")));
    assert_false(exists(at("back/step-00000002.tmp-1-old")));
    tiny_end(&t);
}

/* One that is lost must not be left out in silence. */
static void test_one_json_allocation_fails(void **state)
{
    (void)state;
    Tiny t = tiny();
    size_t size;
    tiny_train(&t, at("json"), 1, 2);
    char *whole = slurp(at("json/step-00000001/state.json"), &size);
    int failed = 0;
    for (int n = 1, passed = 0; !passed; n++) {
        size_t now;
        json_fail_nth(n);
        int status = io_save_run(at("json"), &t.run);
        passed = json_fail_pending();
        json_allow_all();
        assert_int_equal(json_live, 0);
        failed += status != 0;
        error_clear();
        char *text = slurp(at("json/step-00000001/state.json"), &now);
        if (now != size || memcmp(text, whole, size))
            fail_msg("allocation %d: %s", n, text);
        test_free(text);
    }
    test_free(whole);
    assert_true(failed > 50);
    tiny_end(&t);
}

static void test_nothing_there(void **state)
{
    (void)state;
    SavedRunFound found;
    assert_int_equal(io_find_saved_run(at("nowhere"), &found), 0);
    assert_string_equal(found.path, "");
    Tiny t = tiny();
    assert_int_equal(io_load_run(at("nowhere"), &t.run, NULL), ERROR_FILE);
    assert_error(ERROR_FILE, "nowhere", "has no saved run");
    spill(at("file"), "x", 1);
    assert_int_equal(io_find_saved_run(at("file"), &found), ERROR_FILE);
    assert_error(ERROR_FILE, "cannot read the directory");
    assert_int_equal(io_save_run(at("file"), &t.run), ERROR_FILE);
    assert_error(ERROR_FILE, "cannot make the directory", "unchanged");
    assert_int_equal(io_lock_saved_runs(at("file")), -1);
    assert_error(ERROR_FILE, "is not a directory");
    assert_int_equal(io_save_run(NULL, &t.run), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "the directory is missing");
    t.run.optimizer = NULL;
    assert_int_equal(io_save_run(at("x"), &t.run), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "the optimizer is missing");
    tiny_end(&t);
}

static void test_one_run_a_directory(void **state)
{
    (void)state;
    int lock = io_lock_saved_runs(at("mine"));
    assert_true(lock >= 0);
    assert_int_equal(io_lock_saved_runs(at("mine")), -1);
    assert_error(ERROR_FILE, "another run saves there");
    io_unlock_saved_runs(lock);
    lock = io_lock_saved_runs(at("mine"));
    assert_true(lock >= 0);
    io_unlock_saved_runs(lock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_keep),
        TEST(test_others_files_stay),
        TEST(test_same_step_is_replaced),
        TEST(test_a_replaced_one_comes_back),
        TEST(test_one_json_allocation_fails),
        TEST(test_nothing_there),
        TEST(test_one_run_a_directory),
    };
    return cmocka_run_group_tests_name("saved_runs", tests, NULL, NULL);
}
