/* Saving survives everything: a process that dies in any system call of a save, before it, after it or
 * half-way through, with and without what was not synced; calls that fail; real runs killed at random
 * moments. Always the newest complete saved run is one that was saved, bit by bit. BRIM_FULL=1 kills 220
 * real runs, not 20. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "count.h"
#include "resume_support.h"

enum { SAVES = 3, KEEP = 2 };

/* ---- System calls that die or fail ----------------------------------------------------------- */

typedef enum Way {
    DIE_BEFORE,
    DIE_AFTER,
    DIE_HALF,   /* a write: after half of its bytes */
    LOSE_POWER, /* what was not synced is gone: file contents, new names */
    FAIL
} Way;

static FileCalls real;
static int calls, fatal; /* the number of the call that dies or fails; 0 = none */
static Way way;
static int cause;

/* Of files written and not synced, of the last rename that no directory was synced after. */
enum { FILES = 8 };
static char open_path[FILES][256];
static int open_file[FILES], unsynced[FILES];
static char renamed_from[256], renamed_to[256];

static void lose_power(void)
{
    for (int i = 0; i < FILES; i++)
        if (unsynced[i] && truncate(open_path[i], 10) != 0)
            continue; /* removed since */
    if (renamed_from[0] && access(renamed_from, F_OK) != 0)
        rename(renamed_to, renamed_from);
}

static void die(void)
{
    if (way == LOSE_POWER)
        lose_power();
    kill(getpid(), SIGKILL);
}

/* Non-zero when this call is to fail. */
static int reached(void)
{
    if (++calls != fatal)
        return 0;
    if (way == FAIL) {
        errno = cause;
        return 1;
    }
    if (way == DIE_BEFORE || way == LOSE_POWER)
        die();
    return 0;
}

static void passed(void)
{
    if (calls == fatal && (way == DIE_AFTER || way == DIE_HALF))
        die();
}

static int slot_of(int file)
{
    for (int i = 0; i < FILES; i++)
        if (open_path[i][0] && open_file[i] == file)
            return i;
    return -1;
}

static int bad_open(const char *path, int flags, mode_t mode)
{
    if (reached())
        return -1;
    int file = real.open(path, flags, mode);
    for (int i = 0; i < FILES && file >= 0; i++)
        if (!open_path[i][0] || (open_file[i] == -1 && !unsynced[i])) {
            snprintf(open_path[i], sizeof open_path[i], "%s", path);
            open_file[i] = file;
            unsynced[i] = (flags & O_DIRECTORY) == 0;
            break;
        }
    passed();
    return file;
}

static ssize_t bad_write(int file, const void *bytes, size_t count)
{
    if (reached())
        return -1;
    if (calls == fatal && way == DIE_HALF)
        count = (count + 1) / 2;
    ssize_t wrote = real.write(file, bytes, count > 100 ? count / 2 : count); /* every write is a short one */
    passed();
    return wrote;
}

static int bad_fsync(int file)
{
    struct stat status;
    if (reached())
        return -1;
    int slot = slot_of(file);
    if (slot >= 0)
        unsynced[slot] = 0;
    if (fstat(file, &status) == 0 && S_ISDIR(status.st_mode))
        renamed_from[0] = '\0';
    passed();
    return 0;
}

static int bad_close(int file)
{
    if (reached())
        return -1;
    int slot = slot_of(file);
    if (slot >= 0)
        open_file[slot] = -1;
    int status = real.close(file);
    passed();
    return status;
}

static int bad_rename(const char *from, const char *to)
{
    if (reached())
        return -1;
    int status = real.rename(from, to);
    if (status == 0) {
        snprintf(renamed_from, sizeof renamed_from, "%s", from);
        snprintf(renamed_to, sizeof renamed_to, "%s", to);
        size_t length = strlen(from);
        for (int i = 0; i < FILES; i++) /* its files move with a directory */
            if (!strncmp(open_path[i], from, length)) {
                char rest[256];
                snprintf(rest, sizeof rest, "%s", open_path[i] + length);
                snprintf(open_path[i], sizeof open_path[i], "%s%s", to, rest);
            }
    }
    passed();
    return status;
}

#define CALL(name, parameters, arguments)                                                                    \
    static int bad_##name parameters                                                                         \
    {                                                                                                        \
        if (reached())                                                                                       \
            return -1;                                                                                       \
        int status = real.name arguments;                                                                    \
        passed();                                                                                            \
        return status;                                                                                       \
    }
CALL(unlink, (const char *path), (path))
CALL(mkdir, (const char *path, mode_t mode), (path, mode))
CALL(rmdir, (const char *path), (path))

static void go_bad(int which, Way how, int error)
{
    calls = 0;
    fatal = which;
    way = how;
    cause = error;
    memset(open_path, 0, sizeof open_path);
    memset(unsynced, 0, sizeof unsynced);
    renamed_from[0] = '\0';
    file_calls =
        (FileCalls){bad_open, bad_write, bad_fsync, bad_close, bad_rename, bad_unlink, bad_mkdir, bad_rmdir};
}

static void go_good(void)
{
    file_calls = real;
    file_calls.fsync = no_sync;
}

static int make_crash_folder(void **state)
{
    if (!real.open)
        real = file_calls;
    return make_folder(state);
}

static int remove_crash_folder(void **state)
{
    go_good();
    return remove_folder(state);
}

/* ---- A run that dies ------------------------------------------------------------------------- */

static const ContextOptions alone = {.threads = 1, .seed = 1};

/* Every step of the run, saved in peace. */
static void make_reference(void)
{
    Visit v = visit(&alone);
    Tiny t = tiny();
    tiny_train(&t, at("reference"), 2 * SAVES, 100);
    assert_fine();
    tiny_end(&t);
    leave(v);
}

/* Goes on with what is there, and saves up to step `to`. */
static int continue_run(int64_t to)
{
    SavedRunFound found;
    Visit v = visit(&alone);
    Tiny t = tiny();
    int lock = io_lock_saved_runs(at("run"));
    io_find_saved_run(at("run"), &found);
    if (found.path[0])
        io_load_run(found.path, &t.run, NULL);
    tiny_train(&t, at("run"), to, KEEP);
    io_unlock_saved_runs(lock);
    int status = error_code();
    tiny_end(&t);
    leave(v);
    return status;
}

/* The newest complete saved run is what was saved at that step, and at least step `least`. Returns its step.
 */
static int64_t expect_whole(const char *what, int which, int64_t least)
{
    SavedRunFound found;
    if (io_find_saved_run(at("run"), &found))
        fail_msg("%s %d: %s", what, which, error_message());
    if (!found.path[0] && least == 0)
        return 0;
    if (found.step < least)
        fail_msg("%s %d: step %d is there, not %d: %s", what, which, (int)found.step, (int)least, found.note);
    if (found.note[0] && way != LOSE_POWER)
        fail_msg("%s %d: %s", what, which, found.note);
    if (!same_saved_run(found.path, at("reference/step-%08d", (int)found.step)))
        fail_msg("%s %d: step %d is not what was saved", what, which, (int)found.step);
    return found.step;
}

/* Dies in its which-th call, if it has so many; how many steps it had saved before is in a file. */
static int die_in(int which, Way how)
{
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        go_bad(which, how, 0);
        _exit(continue_run(SAVES) ? 1 : 0);
    }
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    return 1;
}

/* In every call of the first saves of a run, and then the run goes on to the same end. */
static void die_everywhere(const char *name, Way how)
{
    int64_t reached_before = 0;
    int which = 1;
    for (;; which++) {
        empty(at("run"));
        if (!die_in(which, how))
            break;
        way = how;
        int64_t step = expect_whole(name, which, reached_before);
        reached_before = step; /* a later death never has less */
        go_good();
        if (which % 7 == 0) {
            assert_int_equal(continue_run(SAVES), 0);
            assert_int_equal(expect_whole("afterwards", which, SAVES), SAVES);
        }
    }
    print_message("%s: %d deaths survived\n", name, which - 1);
    count_more(COUNTED_DEATHS, which - 1);
    assert_true(which > 100);
}

static void test_death_before_each_call(void **state)
{
    (void)state;
    make_reference();
    die_everywhere("before", DIE_BEFORE);
}

static void test_death_after_each_call(void **state)
{
    (void)state;
    make_reference();
    die_everywhere("after", DIE_AFTER);
}

static void test_death_half_way(void **state)
{
    (void)state;
    make_reference();
    die_everywhere("half", DIE_HALF);
}

static void test_power_cut(void **state)
{
    (void)state;
    make_reference();
    die_everywhere("power", LOSE_POWER);
}

/* Again and again in one directory: each run comes a little further. */
static void test_dies_again_and_again(void **state)
{
    (void)state;
    make_reference();
    int deaths = 0;
    int64_t step = 0;
    for (uint32_t i = 0; step < SAVES; i++) {
        deaths += die_in(30 + (int)(hash32(i) % 100), (Way)(hash32(i + 999) % 4));
        int64_t now = expect_whole("again", (int)i, step);
        step = now;
        assert_true(i < 1000);
    }
    print_message("%d deaths on the way\n", deaths);
    count_more(COUNTED_DEATHS, deaths);
    assert_true(deaths > 2);
}

/* ---- Calls that fail ------------------------------------------------------------------------- */

static int count_entries(void)
{
    char command[320], text[16] = "";
    snprintf(command, sizeof command, "ls %s | wc -l", at("run"));
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_non_null(fgets(text, sizeof text, pipe));
    pclose(pipe);
    return atoi(text);
}

/* Each failure is an error that says where and why, or of no consequence; what was there is there; the next
 * save works. */
static void fail_everywhere(int error)
{
    int reported = 0, which = 1;
    for (;; which++) {
        empty(at("run"));
        go_good();
        Visit v = visit(&alone);
        Tiny t = tiny();
        tiny_train(&t, at("run"), 3, KEEP);
        tiny_step(&t); /* the fourth */
        go_bad(which, FAIL, error);
        int status = io_save_run(at("run"), &t.run), made = calls;
        go_good();
        if (status) {
            reported++;
            assert_error(ERROR_FILE, folder, strerror(error));
        }
        assert_true(expect_whole("failing", which, status ? 3 : 4) >= 3);
        assert_int_equal(io_save_run(at("run"), &t.run), 0);
        assert_int_equal(expect_whole("once more", which, 4), 4);
        tiny_end(&t);
        leave(v);
        int lock = io_lock_saved_runs(at("run"));
        assert_true(lock >= 0);
        io_unlock_saved_runs(lock);
        assert_in_range(count_entries(), KEEP, KEEP + 1); /* one that could not be removed stays a while */
        if (made < which)
            break;
    }
    print_message("%s: %d of %d failures reported\n", strerror(error), reported, which - 1);
    count_more(COUNTED_CALLS, which - 1);
    assert_true(reported > 20 && which > 40);
}

static void test_disk_full(void **state)
{
    (void)state;
    make_reference();
    fail_everywhere(ENOSPC);
}

static void test_input_output_error(void **state)
{
    (void)state;
    make_reference();
    fail_everywhere(EIO);
}

static void test_read_only(void **state)
{
    (void)state;
    make_reference();
    fail_everywhere(EROFS);
}

/* ---- The command, killed --------------------------------------------------------------------- */

static const char *command_path(void)
{
    const char *path = getenv("BRIM_COMMAND");
    return path && path[0] ? path : "build/brim";
}

static pid_t start(const char *const *arguments)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int nothing = open("/dev/null", O_RDWR);
        dup2(nothing, 1);
        dup2(nothing, 2);
        command_environment();
        alarm(120);
        execv(command_path(), (char **)(uintptr_t)arguments);
        _exit(127);
    }
    assert_true(child > 0);
    return child;
}

static int ended(pid_t child)
{
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#define COMMAND(directory, ...)                                                                              \
    (const char *const[])                                                                                    \
    {                                                                                                        \
        "brim", "train", "--model", "gpt2-tiny", "--data", at("text"), "--batch", "1", "--seq", "8",         \
            "--threads", "1", "--dropout", "0.1", "--steps", "12", "--save-every", "1", "--save", directory, \
            __VA_ARGS__, NULL                                                                                \
    }

static void test_command_killed(void **state)
{
    (void)state;
    int wanted = full_form() ? 220 : 10, kills = 0, ends = 0;
    char text[40 * 8 + 1], directory[256];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('a' + hash32((uint32_t)i) % 26);
    spill(at("text"), text, sizeof text);
    assert_int_equal(ended(start(COMMAND(at("reference"), "--keep", "12"))), 0);
    snprintf(directory, sizeof directory, "%s", at("run"));
    for (uint32_t i = 0; kills < wanted; i++) {
        pid_t child = start(COMMAND(directory, "--resume", directory));
        usleep(1000 * (20 + hash32(i) % 700));
        kill(child, SIGKILL);
        int code = ended(child);
        kills += code == 128 + SIGKILL;
        way = DIE_BEFORE;
        SavedRunFound found;
        if (io_find_saved_run(directory, &found) || found.note[0])
            fail_msg("kill %d: %s%s", (int)i, error_message(), found.note);
        if (found.path[0]) {
            char ours[4200], reference[300];
            snprintf(ours, sizeof ours, "%s/model.safetensors", found.path);
            snprintf(reference, sizeof reference, "%s/model.safetensors",
                     at("reference/step-%08d", (int)found.step));
            assert_true(same_file(ours, reference));
        }
        if (code == 0) {
            assert_int_equal(found.step, 12);
            ends++;
            empty(directory);
        } else {
            assert_int_equal(code, 128 + SIGKILL);
        }
    }
    assert_int_equal(ended(start(COMMAND(directory, "--resume", directory))), 0);
    assert_true(same_file(at("run/step-00000012/optimizer.safetensors"),
                          at("reference/step-00000012/optimizer.safetensors")));
    print_message("%d runs killed, %d came to their end\n", kills, ends);
    count_more(COUNTED_KILLS, kills);
}

#define CRASH(name) cmocka_unit_test_setup_teardown(name, make_crash_folder, remove_crash_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CRASH(test_death_before_each_call), CRASH(test_death_after_each_call),
        CRASH(test_death_half_way),         CRASH(test_power_cut),
        CRASH(test_dies_again_and_again),   CRASH(test_disk_full),
        CRASH(test_input_output_error),     CRASH(test_read_only),
        CRASH(test_command_killed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
