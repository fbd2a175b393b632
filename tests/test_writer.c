/* Files replaced whole: what may be replaced, and what stays when it may not. */
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../text/tokenizer.h"
#include "../base/file_.h"
#include "support.h"

static char folder[64], path[128], other[128];

static int make_folder(void **state)
{
    strcpy(folder, "/tmp/brim-writer-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/file", folder);
    snprintf(other, sizeof other, "%s/other", folder);
    return fresh_context(state);
}

static int remove_folder(void **state)
{
    unlink(path);
    unlink(other);
    return rmdir(folder) != 0 || leave_context(state); /* fails where a temporary file is left */
}

static int write_text(const char *to, const char *text)
{
    FileWriter writer;
    if (file_begin(&writer, to) == 0)
        file_put(&writer, text, strlen(text));
    return file_commit(&writer);
}

static void assert_holds(const char *at, const char *text)
{
    char got[64] = "";
    FILE *f = fopen(at, "r");
    assert_non_null(f);
    size_t n = fread(got, 1, sizeof got - 1, f);
    assert_int_equal(fclose(f), 0);
    got[n] = '\0';
    assert_string_equal(got, text);
}

static mode_t kind_of(const char *at)
{
    struct stat status;
    return lstat(at, &status) ? 0 : status.st_mode & S_IFMT;
}

static void replaces_a_file(void **state)
{
    (void)state;
    assert_int_equal(write_text(path, "old"), 0);
    assert_int_equal(write_text(path, "new"), 0);
    assert_holds(path, "new");
    FileWriter writer;
    assert_int_equal(file_begin(&writer, path), 0);
    file_put(&writer, "x", 1);
    file_abandon(&writer);
    assert_int_equal(file_begin(&writer, path), 0);
    assert_int_equal(file_put_json(&writer, NULL, 0), ERROR_HOST_MEMORY);
    assert_int_equal(file_commit(&writer), ERROR_HOST_MEMORY);
    assert_error(ERROR_HOST_MEMORY, "no host memory to write it");
    assert_holds(path, "new");
}

/* A link to a file, or to nothing, is replaced; what it led to stays. */
static void replaces_a_link(void **state)
{
    (void)state;
    assert_int_equal(symlink("none", path), 0);
    assert_int_equal(write_text(path, "new"), 0);
    assert_int_equal(kind_of(path), S_IFREG);
    unlink(path);
    assert_int_equal(write_text(other, "old"), 0);
    assert_int_equal(symlink("other", path), 0);
    assert_int_equal(write_text(path, "new"), 0);
    assert_holds(path, "new");
    assert_holds(other, "old");
}

/* A disk without room is said, and what was there stays. */
static void keeps_what_was_there(void **state)
{
    (void)state;
    struct rlimit limit, before;
    assert_int_equal(write_text(path, "old"), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 1000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    int status = tokenizer_train("tests/tokenizers/fixtures/train.txt", path, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, ERROR_FILE);
    assert_error(ERROR_FILE, "cannot write", "File too large", "unchanged");
    assert_holds(path, "old");
}

/* A pipe stands for all that is no file: a device would be replaced for the whole system. */
static void keeps_what_is_no_file(void **state)
{
    (void)state;
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(write_text(path, "x"), ERROR_FILE);
    assert_error(ERROR_FILE, path, "a pipe or device, not a file");
    assert_int_equal(symlink("file", other), 0);
    assert_int_equal(write_text(other, "x"), ERROR_FILE);
    assert_error(ERROR_FILE, other, "a pipe or device, not a file");
    assert_int_equal(kind_of(path), S_IFIFO);
    unlink(other);
    assert_int_equal(symlink("/proc/self/fd/0", other), 0); /* as /dev/stdin */
    assert_int_equal(write_text(other, "x"), ERROR_FILE);
    assert_error(ERROR_FILE, other, "a pipe or device, not a file");
    assert_int_equal(kind_of(other), S_IFLNK);
    assert_int_equal(write_text(folder, "x"), ERROR_FILE);
    assert_error(ERROR_FILE, folder, "a directory, not a file");
}

static void bad_names(void **state)
{
    (void)state;
    static char name[PATH_BYTES + 8];
    assert_int_equal(write_text("", "x"), ERROR_FILE);
    assert_error(ERROR_FILE, "a file without a name");
    for (size_t length = PATH_BYTES - 8; length < PATH_BYTES + 4; length++) {
        memset(name, 'x', length);
        name[length] = '\0';
        assert_int_equal(write_text(name, "x"), ERROR_FILE);
        assert_error(ERROR_FILE, "…xxx");
    }
    snprintf(name, sizeof name, "%s/no/such", folder);
    assert_int_equal(write_text(name, "x"), ERROR_FILE);
    assert_error(ERROR_FILE, "cannot create", "no/such");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(replaces_a_file, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(replaces_a_link, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(keeps_what_was_there, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(keeps_what_is_no_file, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(bad_names, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
